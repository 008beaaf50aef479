/* history.c - see history.h. */
#include "infer/history.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS_LEAST = 4096, TUNING_LEAST = 50, TOKENS_LEAST = 5 };

/* ---- losses
 * -----------------------------------------------------------------------------------------------------------*/

typedef struct {
    Session *s;
    Acts *acts;
    Batch batch;
    int64_t *job; /* (n_seq) */
    int capacity; /* in rows */
    float *losses;
    History *out;
} Losses;

static Status losses_pass(Losses *l, Err *err) {
    Model *m = &l->s->model;
    Batch *b = &l->batch;
    if (!b->n_seq) return OK;
    b->N = b->T = b->cu_seqlens[b->n_seq];
    model_upload(m, l->acts, b);
    model_pass(m, l->acts, NULL, NULL, NULL);
    device_download(m->dev, l->losses, acts_losses(l->acts), (size_t)b->N * sizeof *l->losses);
    if (device_error(m->dev)) return err_set(err, ERR_DEVICE, "history: %s", device_error(m->dev));
    for (int q = 0; q < b->n_seq; q++) {
        History *h = &l->out[l->job[q]];
        double sum = 0;
        for (int i = b->cu_seqlens[q]; i < b->cu_seqlens[q + 1]; i++)
            if (b->target_lo[i] >= 0) {
                sum += l->losses[i];
                h->n++;
            }
        h->loss = h->n ? sum / (double)h->n : NAN;
    }
    b->n_seq = 0;
    return OK;
}

static Status losses_add(Losses *l, int64_t i, const RolloutWindow *w, Err *err) {
    Batch *b = &l->batch;
    Status st = b->n_seq && b->cu_seqlens[b->n_seq] + w->n > l->capacity ? losses_pass(l, err) : OK;
    int at = b->n_seq ? b->cu_seqlens[b->n_seq] : 0;
    for (int k = 0; k < w->n; k++) {
        int told = k + 1 < w->n && w->origin[k + 1] >= 0;
        b->tokens[at + k] = w->token[k];
        b->positions[at + k] = k;
        b->target_lo[at + k] = told ? w->token[k + 1] : -1;
        b->target_hi[at + k] = told ? w->token[k + 1] + 1 : 0;
    }
    l->job[b->n_seq++] = i;
    b->cu_seqlens[b->n_seq] = at + w->n;
    return st;
}

static double unknown_share(const Vocabulary *v, const RolloutJob *job) {
    int64_t events = 0, unknown = 0;
    for (int64_t i = 0; i < job->n_known; i++) {
        int kind = v->token[patient_token(&job->patient, i)].kind;
        unknown += kind == TOKEN_UNKNOWN;
        events += kind == TOKEN_UNKNOWN || kind == TOKEN_EVENT;
    }
    return events ? (double)unknown / (double)events : 0;
}

Status history_run(Session *s, int64_t n, HistoryJob get_job, void *ctx, FILE *progress, History *out, Err *err) {
    const RolloutOptions all_that_fits = {.exact_window = 1};
    const Vocabulary *v = &s->dataset.vocabulary;
    int seq_len = s->law.seq_len;
    Losses l = {.s = s, .out = out, .capacity = seq_len > ROWS_LEAST ? seq_len : ROWS_LEAST};
    Status st = OK;
    if (s->law.model) {
        size_t rows = (size_t)l.capacity;
        l.batch = (Batch){.rows = 1};
        l.batch.tokens = xcalloc(rows, sizeof(int32_t));
        l.batch.positions = xcalloc(rows, sizeof(int32_t));
        l.batch.target_lo = xcalloc(rows, sizeof(int32_t));
        l.batch.target_hi = xcalloc(rows, sizeof(int32_t));
        l.batch.cu_seqlens = xcalloc(rows + 1, sizeof(int32_t));
        l.job = xcalloc(rows, sizeof *l.job);
        l.losses = xcalloc(rows, sizeof *l.losses);
        /* More histories a pass is speed alone: short of memory, one will do. */
        while ((st = acts_open(&l.acts, &s->model, l.capacity, 0, RECOMPUTE_NONE, err)) == ERR_NOMEM && l.capacity > seq_len) {
            *err = (Err){OK, ""};
            l.capacity = l.capacity / 2 > seq_len ? l.capacity / 2 : seq_len;
        }
    }
    Progress bar;
    progress_open(&bar, progress, "histories", "index times", n);
    for (int64_t i = 0; !st && i < n; i++) {
        RolloutJob job = {0};
        RolloutWindow w;
        out[i] = (History){.loss = NAN, .strangeness = NAN};
        if ((st = get_job(ctx, i, &job, err))) break;
        out[i].unknown = unknown_share(v, &job);
        if (!s->law.model) continue;
        rollout_window(v, &all_that_fits, seq_len, &job, &w);
        st = losses_add(&l, i, &w, err);
        rollout_window_free(&w);
        progress_update(&bar, i + 1);
    }
    if (!st && s->law.model) st = losses_pass(&l, err);
    progress_close(&bar, n);
    if (l.acts) acts_close(l.acts);
    void *host[] = {l.batch.tokens, l.batch.positions, l.batch.target_lo, l.batch.target_hi, l.batch.cu_seqlens,
                    l.job,          l.losses};
    for (size_t i = 0; i < sizeof host / sizeof *host; i++) free(host[i]);
    return st;
}

/* ---- what is usual
 * ----------------------------------------------------------------------------------------------------*/

typedef struct {
    Session *s;
    int split;
} Records;

static Status get_record(void *ctx, int64_t i, RolloutJob *job, Err *err) {
    const Records *r = ctx;
    Status st = dataset_patient(&r->s->dataset, r->split, i, &job->patient, err);
    if (st) return st;
    job->n_known = job->patient.n;
    job->index_minutes = job->n_known ? job->patient.minutes[job->n_known - 1] : 0;
    return OK;
}

/* y = a + b/n by least squares, weighted by n. */
static void fit_by_length(const History *h, const double *y, int64_t n, double *a, double *b) {
    double w = 0, x1 = 0, x2 = 0, y1 = 0, xy = 0;
    for (int64_t i = 0; i < n; i++) {
        if (h[i].n < TOKENS_LEAST) continue;
        double weight = (double)h[i].n, x = 1 / weight;
        w += weight;
        x1 += weight * x;
        x2 += weight * x * x;
        y1 += weight * y[i];
        xy += weight * x * y[i];
    }
    double det = w * x2 - x1 * x1;
    *b = det > 1e-12 * w * x2 ? (w * xy - x1 * y1) / det : 0;
    *a = w > 0 ? (y1 - *b * x1) / w : 0;
}

static double usual_mean(const HistoryUsual *u, int64_t n) { return u->c[0] + u->c[1] / (double)n; }

Status history_usual(Session *s, int64_t patients, HistoryUsual *out, Err *err) {
    Records r = {s, s->dataset.n_patients[SPLIT_TUNING] >= TUNING_LEAST ? SPLIT_TUNING : SPLIT_TRAIN};
    int64_t n = s->dataset.n_patients[r.split] < patients ? s->dataset.n_patients[r.split] : patients;
    *out = (HistoryUsual){0};
    if (!n || !s->law.model) return OK;
    History *h = xcalloc((size_t)n, sizeof *h);
    double *y = xcalloc((size_t)n, sizeof *y);
    Status st = history_run(s, n, get_record, &r, NULL, h, err);
    for (int64_t i = 0; !st && i < n; i++) {
        y[i] = h[i].loss;
        out->patients += h[i].n >= TOKENS_LEAST;
    }
    if (!st && out->patients > 2) {
        fit_by_length(h, y, n, &out->c[0], &out->c[1]);
        for (int64_t i = 0; i < n; i++) {
            double d = h[i].n >= TOKENS_LEAST ? h[i].loss - usual_mean(out, h[i].n) : 0;
            y[i] = d * d;
        }
        fit_by_length(h, y, n, &out->v[0], &out->v[1]);
        /* Noise may turn one of the two below zero. */
        if (out->v[1] < 0) out->v[1] = 0;
        if (out->v[0] < 0) out->v[0] = 0;
    }
    free(h);
    free(y);
    return st;
}

double history_strangeness(const HistoryUsual *u, const History *h) {
    double variance = h->n ? u->v[0] + u->v[1] / (double)h->n : 0;
    return h->n >= TOKENS_LEAST && variance > 0 ? (h->loss - usual_mean(u, h->n)) / sqrt(variance) : NAN;
}

int history_dead(const Vocabulary *v, const PatientView *p, int64_t n_known) {
    int64_t i = 0;
    while (i < n_known && (int)patient_token(p, i) != v->death) i++;
    return i < n_known ? REASON_DEAD : 0;
}

int history_reason(const HistoryLimits *l, const History *h, int64_t known_tokens) {
    return (known_tokens < l->min_tokens ? REASON_SHORT : 0) | (h->unknown > l->max_unknown ? REASON_UNKNOWN : 0) |
           (h->strangeness > l->max_strange ? REASON_STRANGE : 0);
}
