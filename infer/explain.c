/* explain.c - see explain.h.
 *
 * First the patient as it is, and once more without each event (its gaps are kept), are jobs of one rollout: in order
 * of the record, so that each finds the pages before its event cached (rollout.h), and with the same random numbers, so
 * that futures part only where the event matters.  Then each future is taken again under the other history
 * (RolloutJob.follow).
 *
 * With q a history's law of futures without the outcome, g(w) = 1 - prod(1 - p) along future w, and m = (q + q')/2,
 *   change = E_q g - E_q' g' = E_m [ q/m (g - c) - q'/m (g' - c) ]   for any c: the balance heuristic of
 * Veach and Guibas 1995.  Both weights are at most 2, so the mean has a variance however far the histories part; where
 * the model hardly minds the event both terms are nearly the same for every future, and little noise is left.  The
 * plain difference of the two futures of a pair has the same mean and is better where they often stay together, so the
 * two are mixed: the share of each is the one of least variance among these pairs. */
#include "infer/explain.h"
#include "infer/rollout_window.h"
#include "kernels/philox.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* One future under one history. */
typedef struct {
    double risk, log_q;
} Weighed;

struct ExplainRun {
    Explanation *out;
    int n, outcome;       /* futures a history; which outcome of a job */
    RolloutSample *drawn; /* (1 + out->n, n) of the whole history, then without each event; with paths */
    Weighed *other; /* (2, out->n, n) the whole history's futures without the event, and those without it under the
                       whole history */
    int64_t *parted, n_parted;          /* event x n + sample, where the two futures differ */
    const RolloutSample **follow_whole; /* (n_parted) of each pair what the whole history has to follow */
    const RolloutSample **follow_less;  /* (n_parted) and what the history without the event has to */
    int *without, n_without;            /* events that some future parts at */
    int64_t *first;                     /* (n_without + 1) their parts of `parted` */
};

/* ---- events ------------------------------------------------------------------------------------------------------ */

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
        if (is_gap(v, id) || v->token[id].kind == TOKEN_TEXT) continue; /* of a note, its event is asked about */
        if (v->token[id].kind == TOKEN_VALUE && i > 0) {
            if (x->n && x->item[x->n - 1].index[0] == i - 1) x->item[x->n - 1].index[x->item[x->n - 1].n_index++] = i;
            if (i != from) continue; /* of an event that was counted */
            all--;                   /* the model is told the value alone: it stands for the event */
        }
        all++;
        if (i < from || (o->only && !o->only[i])) continue;
        x->item[x->n++] = (ExplainItem){.index = {i}, .n_index = 1, .gradient = NAN};
    }
    int most = o->max_events;
    if (most && x->n > most) {
        memmove(x->item, x->item + (x->n - most), (size_t)most * sizeof *x->item);
        x->n = most;
    }
    x->skipped = all - x->n;
}

/* ---- futures ----------------------------------------------------------------------------------------------------- */

static RolloutSample *drawn(const ExplainRun *r, int64_t history, int k) { return &r->drawn[history * r->n + k]; }

static int same_path(const RolloutSample *a, const RolloutSample *b) {
    size_t n = (size_t)a->n_tokens;
    return a->n_tokens == b->n_tokens && a->last == b->last && !memcmp(a->tokens, b->tokens, n * sizeof *a->tokens) &&
           !memcmp(a->token_minutes, b->token_minutes, n * sizeof *a->token_minutes);
}

static void leave_out(const ExplainRun *r, int64_t item, RolloutJob *job) {
    job->left_out = r->out->item[item].index;
    job->n_left_out = r->out->item[item].n_index;
}

static Weighed weighed(const ExplainRun *r, const RolloutSample *s) { return (Weighed){s->risk[r->outcome], s->log_q}; }

ExplainRun *explain_open(int n_samples, int outcome, Explanation *out) {
    ExplainRun *r = xcalloc(1, sizeof *r);
    *r = (ExplainRun){.out = out, .n = n_samples, .outcome = outcome};
    r->drawn = xcalloc((size_t)(out->n + 1) * (size_t)n_samples, sizeof *r->drawn);
    return r;
}

void explain_draw_job(const ExplainRun *r, int64_t i, RolloutJob *job) {
    if (i) leave_out(r, i - 1, job);
}

void explain_drawn(ExplainRun *r, int64_t i, const RolloutSample *samples) {
    for (int k = 0; k < r->n; k++) *drawn(r, i, k) = rollout_path_copy(&samples[k]);
}

/* Futures that did not part are known under both histories. */
int64_t explain_follow(ExplainRun *r) {
    const int64_t items = r->out->n, n = r->n;
    r->other = xcalloc((size_t)(2 * items * n) + 1, sizeof *r->other);
    r->parted = xcalloc((size_t)(items * n) + 1, sizeof *r->parted);
    r->follow_whole = xcalloc((size_t)(items * n) + 1, sizeof *r->follow_whole);
    r->follow_less = xcalloc((size_t)(items * n) + 1, sizeof *r->follow_less);
    r->without = xcalloc((size_t)items + 1, sizeof *r->without);
    r->first = xcalloc((size_t)items + 2, sizeof *r->first);
    for (int64_t i = 0; i < items; i++) {
        const int64_t before = r->n_parted;
        for (int k = 0; k < n; k++) {
            const RolloutSample *whole = drawn(r, 0, k), *less = drawn(r, i + 1, k);
            r->other[i * n + k] = weighed(r, less);
            r->other[(items + i) * n + k] = weighed(r, whole);
            if (same_path(whole, less)) continue;
            r->follow_whole[r->n_parted] = less;
            r->follow_less[r->n_parted] = whole;
            r->parted[r->n_parted++] = i * n + k;
        }
        if (r->n_parted == before) continue;
        r->first[r->n_without] = before;
        r->without[r->n_without++] = (int)i;
    }
    r->first[r->n_without] = r->n_parted;
    return r->n_without ? r->n_without + 1 : 0;
}

/* Job 0: the whole history, all futures that were drawn without an event; then each history without an event. */
void explain_follow_job(const ExplainRun *r, int64_t i, RolloutJob *job) {
    const int64_t from = i ? r->first[i - 1] : 0, to = i ? r->first[i] : r->n_parted;
    if (i) leave_out(r, r->without[i - 1], job);
    job->follow = (i ? r->follow_less : r->follow_whole) + from;
    job->n_follow = (int)(to - from);
}

void explain_followed(ExplainRun *r, int64_t i, const RolloutSample *samples, int n) {
    for (int k = 0; k < n; k++)
        r->other[i ? r->parted[r->first[i - 1] + k] : (int64_t)r->out->n * r->n + r->parted[k]] = weighed(r, &samples[k]);
}

/* ---- estimates --------------------------------------------------------------------------------------------------- */

/* What one future tells of the change: the first history less the second. */
static double weighed_change(Weighed a, Weighed b, double c) {
    const double of_a = 2 / (1 + exp(b.log_q - a.log_q));
    return of_a * (a.risk - c) - (2 - of_a) * (b.risk - c);
}

/* d += share x (plain - d), the share in [0, 1] that leaves the least variance. */
static void mix(double *d, const double *plain, int64_t n) {
    double mean = 0, mean_x = 0, dx = 0, xx = 0;
    for (int64_t k = 0; k < n; k++) {
        mean += d[k] / (double)n;
        mean_x += (d[k] - plain[k]) / (double)n;
    }
    for (int64_t k = 0; k < n; k++) {
        const double x = d[k] - plain[k] - mean_x;
        dx += (d[k] - mean) * x;
        xx += x * x;
    }
    const double share = !(dx > 0) ? 0 : dx > xx ? 1 : dx / xx;
    for (int64_t k = 0; k < n; k++) d[k] += share * (plain[k] - d[k]);
}

static void item_take(ExplainRun *r, int64_t i) {
    const int64_t n = r->n, items = r->out->n;
    double *d = xcalloc((size_t)n, sizeof *d), *plain = xcalloc((size_t)n, sizeof *plain);
    for (int k = 0; k < n; k++) {
        const RolloutSample *whole = drawn(r, 0, k), *less = drawn(r, i + 1, k);
        const Weighed a = weighed(r, whole), b = weighed(r, less);
        d[k] = 0.5 * (weighed_change(a, r->other[i * n + k], r->out->risk.risk) +
                      weighed_change(r->other[(items + i) * n + k], b, r->out->risk.risk));
        plain[k] = a.risk - b.risk;
    }
    mix(d, plain, n);
    RiskEstimate e = mean_estimate(d, (int)n, 1);
    ExplainItem *x = &r->out->item[i];
    x->n_samples = (int)n;
    x->change = e.risk;
    x->se = e.mc_se;
    x->lo = e.lo;
    x->hi = e.hi;
    x->without = r->out->risk.risk;
    for (int k = 0; k < n; k++) x->without -= plain[k] / (double)n;
    free(d);
    free(plain);
}

void explain_close(ExplainRun *r, int estimate) {
    const int n = r->n;
    if (estimate) {
        double *values = xcalloc((size_t)n, sizeof *values);
        for (int k = 0; k < n; k++) values[k] = drawn(r, 0, k)->risk[r->outcome];
        r->out->risk = risk_estimate(ESTIMATOR_REACH, values, n, 1);
        free(values);
        for (int i = 0; i < r->out->n; i++) item_take(r, i);
    }
    for (int64_t i = 0; i < (r->out->n + 1) * (int64_t)n; i++) rollout_path_free(&r->drawn[i]);
    free(r->drawn);
    free(r->other);
    free(r->parted);
    free(r->follow_whole);
    free(r->follow_less);
    free(r->without);
    free(r->first);
    free(r);
}

/* ---- a patient --------------------------------------------------------------------------------------------------- */

typedef struct {
    const RolloutJob *job;
    ExplainRun *run;
    Progress progress;
    int64_t done;
} Round;

static Status draw_job(void *ctx, int64_t i, RolloutJob *job, Err *err) {
    (void)err;
    const Round *r = ctx;
    *job = *r->job;
    explain_draw_job(r->run, i, job);
    return OK;
}

static Status draw_done(void *ctx, int64_t i, const RolloutJob *job, const RolloutSample *samples, int n, Err *err) {
    Round *r = ctx;
    (void)job;
    (void)n;
    (void)err;
    explain_drawn(r->run, i, samples);
    progress_update(&r->progress, ++r->done);
    return OK;
}

static Status follow_job(void *ctx, int64_t i, RolloutJob *job, Err *err) {
    (void)err;
    const Round *r = ctx;
    *job = *r->job;
    explain_follow_job(r->run, i, job);
    return OK;
}

static Status follow_done(void *ctx, int64_t i, const RolloutJob *job, const RolloutSample *samples, int n, Err *err) {
    Round *r = ctx;
    (void)job;
    (void)err;
    explain_followed(r->run, i, samples, n);
    progress_update(&r->progress, ++r->done);
    return OK;
}

static void stats_add(RolloutStats *to, const RolloutStats *s) {
    to->tokens += s->tokens;
    to->prefill_tokens += s->prefill_tokens;
    to->shared_tokens += s->shared_tokens;
    to->seconds += s->seconds;
}

static Status explain_round(Session *s, const RolloutJob *job, const ExplainOptions *o, FILE *progress,
                            Explanation *out, Err *err) {
    const int n = o->rollout.n_samples;
    Round r = {.job = job};
    RolloutOptions rollout = o->rollout;
    RolloutStats stats;
    rollout.weigh_paths = rollout.keep_paths = 1;
    explain_find(s, job, o, out);
    r.run = explain_open(n, 0, out);
    RolloutCallbacks draw = {.get_job = draw_job, .job_done = draw_done, .ctx = &r};
    RolloutCallbacks follow = {.get_job = follow_job, .job_done = follow_done, .ctx = &r};
    progress_open(&r.progress, progress, "explain", "histories", 2 * (int64_t)(out->n + 1));
    Status st = rollout_run(&s->law, &s->dataset.vocabulary, &rollout, out->n + 1, &draw, &out->stats, err);
    rollout.keep_paths = 0;
    const int64_t n_follow = st ? 0 : explain_follow(r.run);
    if (n_follow) {
        st = rollout_run(&s->law, &s->dataset.vocabulary, &rollout, n_follow, &follow, &stats, err);
        stats_add(&out->stats, &stats);
    }
    progress_close(&r.progress, r.done);
    if (!st && o->gradient_samples)
        st = explain_gradient(s, job, o, r.run->drawn, o->gradient_samples < n ? o->gradient_samples : n, out, err);
    explain_close(r.run, !st);
    if (st) explain_free(out);
    return st;
}

/* The two rounds drew independent futures. */
static void item_pool(ExplainItem *x, const ExplainItem *more) {
    const double n = x->n_samples, m = more->n_samples, half = 1.959963984540054;
    x->change = (n * x->change + m * more->change) / (n + m);
    x->without = (n * x->without + m * more->without) / (n + m);
    x->se = sqrt(n * x->se * n * x->se + m * more->se * m * more->se) / (n + m);
    x->lo = x->change - half * x->se;
    x->hi = x->change + half * x->se;
    x->n_samples += more->n_samples;
}

Status explain_run(Session *s, const RolloutJob *job, const ExplainOptions *o, FILE *progress, Explanation *out,
                   Err *err) {
    Status st = explain_round(s, job, o, progress, out, err);
    uint8_t *only = xcalloc((size_t)job->n_known + 1, 1);
    ExplainOptions more = *o;
    more.gradient_samples = more.max_events = 0;
    more.only = only;
    for (int n = o->rollout.n_samples; !st && o->target_se > 0 && 2 * n <= o->samples_most; n *= 2) {
        Explanation x;
        int left = 0;
        for (int i = 0; i < out->n; i++) left += only[out->item[i].index[0]] = out->item[i].se > o->target_se;
        if (!left) break;
        more.rollout.n_samples = n; /* as many again as there are */
        more.rollout.seed = philox_mix(o->rollout.seed, (uint64_t)n);
        if ((st = explain_round(s, job, &more, progress, &x, err))) break;
        for (int i = 0, k = 0; i < out->n && k < x.n; i++)
            if (out->item[i].index[0] == x.item[k].index[0]) item_pool(&out->item[i], &x.item[k++]);
        stats_add(&out->stats, &x.stats);
        explain_free(&x);
    }
    free(only);
    if (st) explain_free(out);
    return st;
}

void explain_free(Explanation *x) {
    free(x->item);
    *x = (Explanation){0};
}
