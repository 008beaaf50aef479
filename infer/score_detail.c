/* score_detail.c - see score_detail.h. */
#include "infer/score_detail.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK = 256 }; /* rows of logits at a time */

struct ScoreDetail {
    Session *s;
    const uint32_t *asked;
    int *kind;     /* (V) column of `kinds`; -1: none that can follow */
    int64_t *seen; /* (V) 1 + the target that last found the id in its history */
    int32_t *d_rows, *rows;
    float *logits;  /* (CHUNK, Vp) */
    void *d_logits; /* likewise */
    TargetDetail *row;
    int64_t n, capacity;
};

static int kind_of(const VocabToken *t) {
    if (t->kind == TOKEN_GAP) return DETAIL_GAP;
    if (t->kind == TOKEN_VALUE) return DETAIL_VALUE;
    return t->kind == TOKEN_EVENT || t->kind == TOKEN_UNKNOWN ? DETAIL_EVENT + t->event_kind : -1;
}

Status score_detail_open(ScoreDetail **out, Session *s, const uint32_t *asked, Err *err) {
    const Vocabulary *v = &s->dataset.vocabulary;
    const size_t row = (size_t)s->model.cfg.vocab_padded * sizeof(float);
    ScoreDetail *d = *out = xcalloc(1, sizeof *d);
    d->s = s;
    d->asked = asked;
    d->kind = xcalloc((size_t)v->n, sizeof *d->kind);
    for (int id = 0; id < v->n; id++) d->kind[id] = kind_of(&v->token[id]);
    d->seen = xcalloc((size_t)v->n, sizeof *d->seen);
    d->rows = xcalloc(CHUNK, sizeof *d->rows);
    d->logits = xcalloc(CHUNK, row);
    d->d_rows = device_alloc(s->dev, CHUNK * sizeof *d->d_rows);
    d->d_logits = device_alloc(s->dev, CHUNK * row);
    if (d->d_rows && d->d_logits) return OK;
    return err_set(err, ERR_NOMEM, "no memory on the device for %d rows of %d logits", CHUNK,
                   s->model.cfg.vocab_padded);
}

void score_detail_close(ScoreDetail *d) {
    if (!d) return;
    if (d->d_rows) device_free(d->s->dev, d->d_rows);
    if (d->d_logits) device_free(d->s->dev, d->d_logits);
    free(d->kind);
    free(d->seen);
    free(d->rows);
    free(d->logits);
    free(d->row);
    free(d);
}

/* x (V) becomes chances but for their sum, which is returned. */
static double exponentials(float *x, int V, int *best) {
    *best = 0;
    for (int id = 1; id < V; id++)
        if (x[id] > x[*best]) *best = id;
    const float top = x[*best];
    double sum = 0;
    for (int id = 0; id < V; id++) sum += x[id] = expf(x[id] - top);
    return sum;
}

/* chance (V), whose sum is given; nothing where the record has the code already. */
static Status describe_new(ScoreDetail *d, int split, const float *chance, double sum, TargetDetail *t, Err *err) {
    PatientView p;
    Status st = dataset_patient(&d->s->dataset, split, t->patient, &p, err);
    if (st) return st;
    for (int64_t i = 0; i < t->index; i++) d->seen[patient_token(&p, i)] = d->n;
    if (d->seen[t->token] == d->n) return OK;
    double all = 0, asked = 0;
    t->rank_new = 1;
    for (int id = 0; id < d->s->dataset.vocabulary.n; id++) {
        if (d->kind[id] != d->kind[t->token] || d->seen[id] == d->n) continue;
        all += chance[id];
        asked += d->asked[id] ? chance[id] : 0;
        t->rank_new += chance[id] > chance[t->token];
    }
    t->p_new = (float)(all / sum);
    t->p_asked_new = (float)(asked / sum);
    return OK;
}

/* logit (V) becomes chances but for their sum, which is returned. */
static double describe(const ScoreDetail *d, float *logit, int lo, int hi, TargetDetail *t) {
    const Vocabulary *v = &d->s->dataset.vocabulary;
    const int V = v->n, ordinary = hi == lo + 1;
    const float came = logit[lo];
    for (int id = 0; ordinary && id < V; id++) {
        if (logit[id] <= came) continue;
        t->rank++;
        t->rank_in_kind += d->kind[id] == d->kind[lo];
    }
    t->rank += ordinary;
    t->rank_in_kind += ordinary;
    const double sum = exponentials(logit, V, &t->best);
    double kind[DETAIL_KINDS] = {0}, asked = 0, below = 0;
    for (int id = 0; id < V; id++) {
        if (d->kind[id] >= 0) kind[d->kind[id]] += logit[id];
        if (d->asked && d->asked[id]) asked += logit[id];
    }
    for (int id = v->gap_lo; id < lo; id++) below += logit[id];
    for (int k = 0; k < DETAIL_KINDS; k++) t->kind[k] = (float)(kind[k] / sum);
    t->p_best = (float)(logit[t->best] / sum);
    t->p_asked = (float)(asked / sum);
    const int gap = d->kind[lo] == DETAIL_GAP && kind[DETAIL_GAP] > 0;
    t->gap_below = gap ? (float)(below / kind[DETAIL_GAP]) : NAN;
    t->gap_at = gap ? ordinary ? (float)(logit[lo] / kind[DETAIL_GAP]) : 0 : NAN;
    return sum;
}

static void grow(ScoreDetail *d, int64_t more) {
    if (d->n + more <= d->capacity) return;
    d->capacity = 2 * d->capacity > d->n + more ? 2 * d->capacity : d->n + more;
    d->row = xrealloc(d->row, (size_t)d->capacity * sizeof *d->row);
}

/* Rows d->rows[0, n) of the pass, whose patients are in patient[0, n). */
static Status chunk_take(ScoreDetail *d, Acts *acts, int split, const Batch *b, const float *losses,
                         const int64_t *patient, int n, Err *err) {
    Status st = OK;
    Model *m = &d->s->model;
    const size_t Vp = (size_t)m->cfg.vocab_padded;
    if (!n) return OK;
    device_upload(m->dev, d->d_rows, d->rows, (size_t)n * sizeof *d->rows);
    model_logits(m, acts, d->d_logits, d->d_rows, n);
    device_download(m->dev, d->logits, d->d_logits, (size_t)n * Vp * sizeof(float));
    if (device_error(m->dev)) return err_set(err, ERR_DEVICE, "score: %s", device_error(m->dev));
    grow(d, n);
    for (int k = 0; !st && k < n; k++) {
        const int i = d->rows[k];
        float *logit = d->logits + (size_t)k * Vp;
        TargetDetail *t = &d->row[d->n++];
        *t = (TargetDetail){.patient = patient[k],
                            .index = b->target_index[i],
                            .order = d->n,
                            .token = b->target_lo[i],
                            .loss = losses[i]};
        double sum = describe(d, logit, b->target_lo[i], b->target_hi[i], t);
        if (d->asked && t->index >= 0 && d->kind[t->token] >= DETAIL_EVENT)
            st = describe_new(d, split, logit, sum, t, err);
    }
    return st;
}

Status score_detail_take(ScoreDetail *d, Acts *acts, int split, const Batch *b, const float *losses, int64_t n_patients,
                         Err *err) {
    int64_t patient[CHUNK];
    int n = 0;
    Status st = OK;
    for (int q = 0; !st && q < b->n_seq; q++) {
        if (b->seq_patient[q] < 0 || b->seq_patient[q] >= n_patients) continue;
        for (int i = b->cu_seqlens[q]; !st && i < b->cu_seqlens[q + 1]; i++) {
            if (b->target_lo[i] < 0) continue;
            patient[n] = b->seq_patient[q];
            d->rows[n++] = i;
            if (n < CHUNK) continue;
            st = chunk_take(d, acts, split, b, losses, patient, n, err);
            n = 0;
        }
    }
    return st ? st : chunk_take(d, acts, split, b, losses, patient, n, err);
}

/* The loader packs patients as they fit: in the order of the split, what comes after a record's end behind it. */
static int compare_details(const void *a, const void *b) {
    const TargetDetail *x = a, *y = b;
    if (x->patient != y->patient) return x->patient < y->patient ? -1 : 1;
    const uint64_t i = (uint64_t)x->index, j = (uint64_t)y->index;
    if (i != j) return i < j ? -1 : 1;
    return x->order < y->order ? -1 : x->order > y->order;
}

Status score_detail_table(ScoreDetail *d, int split, Table *out, Err *err) {
    enum { WHOLE = 6, REAL = 7 };
    static const char *const whole[] = {"index", "token", "rank", "rank_in_kind", "best", "rank_new"};
    static const char *const real[] = {"loss", "p_best", "gap_below", "gap_at", "p_asked", "p_new", "p_asked_new"};
    int64_t *w[WHOLE];
    double *x[REAL];
    table_init(out, d->n);
    if (d->n) qsort(d->row, (size_t)d->n, sizeof *d->row, compare_details);
    uint64_t *key = table_add(out, "patient_key", COLUMN_U64);
    for (int c = 0; c < WHOLE; c++) w[c] = table_add(out, whole[c], COLUMN_I64);
    for (int c = 0; c < REAL; c++) x[c] = table_add(out, real[c], COLUMN_F64);
    float *kinds = table_add_matrix(out, "kinds", DETAIL_KINDS);
    if (!kinds) return err_set(err, ERR_NOMEM, "no memory for %lld targets: use --limit", (long long)d->n);
    for (int64_t i = 0; i < d->n; i++) {
        const TargetDetail *r = &d->row[i];
        PatientView p;
        Status st = dataset_patient(&d->s->dataset, split, r->patient, &p, err);
        if (st) return st;
        const int64_t whole_of[] = {r->index, r->token, r->rank, r->rank_in_kind, r->best, r->rank_new};
        const double real_of[] = {r->loss, r->p_best, r->gap_below, r->gap_at, r->p_asked, r->p_new, r->p_asked_new};
        key[i] = p.key;
        for (int c = 0; c < WHOLE; c++) w[c][i] = whole_of[c];
        for (int c = 0; c < REAL; c++) x[c][i] = real_of[c];
        memcpy(kinds + i * DETAIL_KINDS, r->kind, sizeof r->kind);
    }
    char names[512] = "gap,value";
    for (int k = 0; k < KIND_COUNT; k++) {
        strcat(names, ",");
        strcat(names, event_kind_name(k));
    }
    table_set(out, "kinds", names);
    table_set(out, "model_sha256", d->s->model_sha256);
    table_set(out, "dataset_sha256", d->s->dataset.sha256);
    return OK;
}
