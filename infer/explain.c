/* explain.c - see explain.h.  The patient as it is, and once more without each event (its gaps are kept), are jobs of
 * one rollout: in order of the record, so that each finds the pages before its event cached (rollout.h), and with the
 * same random numbers, so that futures part only where the event matters. */
#include "infer/explain.h"
#include "infer/rollout_window.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    Session *s;
    const RolloutJob *job;
    const ExplainOptions *o;
    Explanation *out;
    double *whole, *without; /* (n_samples) */
    int whole_done;
    double **early; /* (n) values of jobs that were done before the whole one */
    Progress progress;
    int64_t done;
} ExplainRun;

/* ---- events
 * -----------------------------------------------------------------------------------------------------------*/

static int is_gap(const Vocabulary *v, int id) { return id >= v->gap_lo && id < v->gap_lo + GAP_TOKENS; }

void explain_find(const Session *s, const RolloutJob *job, const ExplainOptions *o, Explanation *x) {
    const Vocabulary *v = &s->dataset.vocabulary;
    const PatientView *p = &job->patient;
    RolloutWindow w;
    *x = (Explanation){0};
    rollout_window(v, &o->rollout, s->law.seq_len, job, &w);
    int64_t from = 0, all = 0;
    if (w.from && s->law.model) /* what the model is not told moves nothing */
        for (int i = w.prefix; i < w.n && (from = w.origin[i]) < 0;) i++;
    rollout_window_free(&w);
    x->item = xcalloc((size_t)job->n_known + 1, sizeof *x->item);
    for (int64_t i = 0; i < job->n_known; i++) {
        int id = (int)patient_token(p, i);
        if (is_gap(v, id)) continue;
        if (v->token[id].kind == TOKEN_VALUE && x->n && x->item[x->n - 1].index[0] == i - 1) {
            x->item[x->n - 1].index[x->item[x->n - 1].n_index++] = i;
            continue;
        }
        all++;
        if (i < from) continue;
        x->item[x->n++] = (ExplainItem){.index = {i}, .n_index = 1, .gradient = NAN};
    }
    int most = o->max_events;
    if (most && x->n > most) {
        memmove(x->item, x->item + (x->n - most), (size_t)most * sizeof *x->item);
        x->n = most;
    }
    x->skipped = all - x->n;
}

/* ---- leave one out
 * ----------------------------------------------------------------------------------------------------*/

static Status get_job(void *ctx, int64_t i, RolloutJob *job, Err *err) {
    (void)err;
    ExplainRun *r = ctx;
    *job = *r->job;
    if (i == 0) return OK;
    job->left_out = r->out->item[i - 1].index;
    job->n_left_out = r->out->item[i - 1].n_index;
    return OK;
}

static void item_take(ExplainRun *r, int i, const double *without) {
    int n = r->o->rollout.n_samples;
    double *d = xcalloc((size_t)n, sizeof *d);
    for (int k = 0; k < n; k++) d[k] = r->whole[k] - without[k];
    RiskEstimate e = mean_estimate(d, n, 1);
    ExplainItem *x = &r->out->item[i];
    x->change = e.risk;
    x->se = e.mc_se;
    x->lo = e.lo;
    x->hi = e.hi;
    free(d);
}

static Status job_done(void *ctx, int64_t i, const RolloutJob *job, const RolloutSample *samples, int n, Err *err) {
    ExplainRun *r = ctx;
    (void)job;
    Status st = OK;
    double *values = i == 0 ? r->whole : r->without;
    for (int k = 0; k < n; k++) values[k] = samples[k].risk[0];
    if (i == 0) {
        r->whole_done = 1;
        r->out->risk = risk_estimate(r->o->rollout.estimator, r->whole, n, 1);
        if (r->o->gradient_samples) {
            int used = r->o->gradient_samples < n ? r->o->gradient_samples : n;
            st = explain_gradient(r->s, r->job, r->o, samples, used, r->out, err);
        }
        for (int k = 0; k < r->out->n; k++)
            if (r->early[k]) item_take(r, k, r->early[k]);
    } else if (r->whole_done) {
        item_take(r, (int)i - 1, r->without);
    } else {
        r->early[i - 1] = xcalloc((size_t)n, sizeof(double));
        memcpy(r->early[i - 1], values, (size_t)n * sizeof *values);
    }
    progress_update(&r->progress, ++r->done);
    return st;
}

Status explain_run(Session *s, const RolloutJob *job, const ExplainOptions *o, FILE *progress, Explanation *out,
                   Err *err) {
    ExplainRun r = {.s = s, .job = job, .o = o, .out = out};
    RolloutOptions rollout = o->rollout;
    rollout.keep_paths = o->gradient_samples > 0;
    explain_find(s, job, o, out);
    r.whole = xcalloc((size_t)rollout.n_samples, sizeof *r.whole);
    r.without = xcalloc((size_t)rollout.n_samples, sizeof *r.without);
    r.early = xcalloc((size_t)out->n + 1, sizeof *r.early);
    RolloutCallbacks cb = {.get_job = get_job, .job_done = job_done, .ctx = &r};
    progress_open(&r.progress, progress, "explain", "events", out->n + 1);
    Status st = rollout_run(&s->law, &s->dataset.vocabulary, &rollout, out->n + 1, &cb, &out->stats, err);
    progress_close(&r.progress, r.done);
    for (int k = 0; k < out->n; k++) free(r.early[k]);
    free(r.early);
    free(r.whole);
    free(r.without);
    if (st) explain_free(out);
    return st;
}

void explain_free(Explanation *x) {
    free(x->item);
    *x = (Explanation){0};
}
