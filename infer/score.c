/* score.c - see score.h.  Uses the loader that training uses, unshuffled: the same windows, targets and censoring.  It packs
 * the patients of a whole block as they fit; the windows of those asked for are packed again, so that no others are run. */
#include "infer/score.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static void keep_surprise(Score *sc, int top, Surprise x) {
    if (sc->n_top == top && (!top || x.loss <= sc->top[top - 1].loss)) return;
    int at = sc->n_top < top ? sc->n_top++ : top - 1;
    while (at > 0 && sc->top[at - 1].loss < x.loss) {
        sc->top[at] = sc->top[at - 1];
        at--;
    }
    sc->top[at] = x;
}

static Status take_batch(Session *s, int split, const Batch *b, const float *losses, int top, Score *sc, Err *err) {
    const Vocabulary *v = &s->dataset.vocabulary;
    for (int q = 0; q < b->n_seq; q++) {
        int64_t patient = b->seq_patient[q];
        if (patient < 0 || patient >= sc->n_patients) continue;
        for (int i = b->cu_seqlens[q]; i < b->cu_seqlens[q + 1]; i++) {
            if (b->target_lo[i] < 0) continue;
            if (!isfinite(losses[i]))
                return err_set(err, ERR_DEVICE, "the loss of patient %lld (%s) is not finite: the checkpoint may be damaged",
                               (long long)patient, split_name(split));
            sc->loss[patient] += losses[i];
            if (b->target_hi[i] != b->target_lo[i] + 1) {
                sc->censored += losses[i];
                sc->n_censored++;
                continue;
            }
            sc->total += losses[i];
            sc->n++;
            sc->n_targets[patient]++;
            int kind = v->token[b->target_lo[i]].kind;
            sc->n_events += kind == TOKEN_EVENT || kind == TOKEN_UNKNOWN;
            if (isfinite(b->oracle_logp[i])) {
                sc->oracle -= b->oracle_logp[i];
                sc->oracle_model += losses[i];
                sc->n_oracle++;
            }
            if (b->target_index[i] < 0) continue;
            if (sc->token_loss) sc->token_loss[patient][b->target_index[i]] = losses[i];
            if (kind == TOKEN_EVENT || kind == TOKEN_UNKNOWN)
                keep_surprise(sc, top, (Surprise){patient, b->target_index[i], losses[i]});
        }
    }
    return OK;
}

static Status prepare(Session *s, int split, int top, int keep_tokens, Score *sc, Err *err) {
    size_t n = (size_t)sc->n_patients;
    sc->loss = xcalloc(n, sizeof *sc->loss);
    sc->n_targets = xcalloc(n, sizeof *sc->n_targets);
    sc->top = xcalloc((size_t)top + 1, sizeof *sc->top);
    if (keep_tokens) sc->token_loss = xcalloc(n, sizeof *sc->token_loss);
    for (int64_t i = 0; i < sc->n_patients; i++) {
        PatientView p;
        Status st = dataset_patient(&s->dataset, split, i, &p, err);
        if (st) return st;
        int32_t last = p.n ? p.minutes[p.n - 1] : 0;
        sc->patient_years += (p.observation_end > last ? p.observation_end : last) / 525960.0;
        if (!keep_tokens) continue;
        sc->token_loss[i] = xcalloc((size_t)p.n + 1, sizeof **sc->token_loss);
        for (int64_t k = 0; k < p.n; k++) sc->token_loss[i][k] = NAN;
    }
    return OK;
}

/* ---- the windows of those asked for ------------------------------------------------------------------------------- */

typedef struct {
    Session     *s;
    int          split, top, T;
    Acts        *acts;
    Batch        batch; /* T slots a row; a window never crosses rows because there is but one */
    float       *losses;
    ScoreDetail *detail;
    Score       *out;
} Windows;

static Status windows_open(Windows *w, int N, Err *err) {
    const size_t n = (size_t)N;
    w->batch = (Batch){.rows = 1, .T = N, .N = N};
    w->batch.tokens = xcalloc(n, sizeof(int32_t));
    w->batch.positions = xcalloc(n, sizeof(int32_t));
    w->batch.target_lo = xcalloc(n, sizeof(int32_t));
    w->batch.target_hi = xcalloc(n, sizeof(int32_t));
    w->batch.cu_seqlens = xcalloc(n + 1, sizeof(int32_t));
    w->batch.seq_patient = xcalloc(n, sizeof(int64_t));
    w->batch.target_index = xcalloc(n, sizeof(int64_t));
    w->batch.oracle_logp = xcalloc(n, sizeof(float));
    w->losses = xcalloc(n, sizeof(float));
    return acts_open(&w->acts, &w->s->model, N, 0, RECOMPUTE_NONE, err);
}

static void windows_close(Windows *w) {
    void *host[] = {w->batch.tokens,      w->batch.positions,   w->batch.target_lo,    w->batch.target_hi,
                    w->batch.cu_seqlens,  w->batch.seq_patient, w->batch.target_index, w->batch.oracle_logp,
                    w->losses};
    for (size_t i = 0; i < sizeof host / sizeof *host; i++) free(host[i]);
    if (w->acts) acts_close(w->acts);
}

/* What no window takes is PAD without targets, in pieces that the model's positions reach. */
static void windows_fill(Windows *w) {
    Batch *b = &w->batch;
    for (int at = b->cu_seqlens[b->n_seq]; at < b->N; at = b->cu_seqlens[b->n_seq]) {
        const int end = at + w->T < b->N ? at + w->T : b->N;
        for (int i = at; i < end; i++) {
            b->tokens[i] = TOKEN_PAD;
            b->positions[i] = i - at;
            b->target_lo[i] = b->target_hi[i] = -1;
        }
        b->seq_patient[b->n_seq++] = -1;
        b->cu_seqlens[b->n_seq] = end;
    }
}

static Status windows_run(Windows *w, Err *err) {
    Batch *b = &w->batch;
    if (!b->n_seq) return OK;
    windows_fill(w);
    model_upload(&w->s->model, w->acts, b);
    model_pass(&w->s->model, w->acts, NULL, NULL, NULL);
    device_download(w->s->dev, w->losses, acts_losses(w->acts), (size_t)b->N * sizeof *w->losses);
    if (device_error(w->s->dev)) return err_set(err, ERR_DEVICE, "score: %s", device_error(w->s->dev));
    Status st = take_batch(w->s, w->split, b, w->losses, w->top, w->out, err);
    if (!st && w->detail)
        st = score_detail_take(w->detail, w->acts, w->split, b, w->losses, w->out->n_patients, err);
    b->n_seq = 0;
    return st;
}

static Status windows_add(Windows *w, const Batch *from, int q, Err *err) {
    Batch *b = &w->batch;
    const int begin = from->cu_seqlens[q], n = from->cu_seqlens[q + 1] - begin;
    Status st = b->n_seq && b->cu_seqlens[b->n_seq] + n > b->N ? windows_run(w, err) : OK;
    if (st) return st;
    const int at = b->n_seq ? b->cu_seqlens[b->n_seq] : 0;
    const size_t size = (size_t)n;
    memcpy(b->tokens + at, from->tokens + begin, size * sizeof *b->tokens);
    memcpy(b->positions + at, from->positions + begin, size * sizeof *b->positions);
    memcpy(b->target_lo + at, from->target_lo + begin, size * sizeof *b->target_lo);
    memcpy(b->target_hi + at, from->target_hi + begin, size * sizeof *b->target_hi);
    memcpy(b->target_index + at, from->target_index + begin, size * sizeof *b->target_index);
    memcpy(b->oracle_logp + at, from->oracle_logp + begin, size * sizeof *b->oracle_logp);
    b->seq_patient[b->n_seq++] = from->seq_patient[q];
    b->cu_seqlens[b->n_seq] = at + n;
    return OK;
}

Status score_split(Session *s, int split, int64_t limit, int T, int top, int keep_tokens, ScoreDetail *detail,
                   FILE *progress, Score *out, Err *err) {
    int64_t all = s->dataset.n_patients[split];
    *out = (Score){.n_patients = limit && limit < all ? limit : all};
    Status st = prepare(s, split, top, keep_tokens, out, err);
    LoaderOptions lo = {.rows = T >= 2048 ? 1 : 4096 / T, .T = T, .shuffle = 0, .rank = 0, .world = 1};
    Loader *ld = NULL;
    Windows w = {.s = s, .split = split, .top = top, .T = T, .detail = detail, .out = out};
    if (!st) st = loader_open(&ld, &s->dataset, split, &lo, err);
    if (!st) st = windows_open(&w, lo.rows * T, err);
    Progress p;
    progress_open(&p, progress, "score", "tokens", out->n_patients == all ? s->dataset.n_tokens[split] : 0);
    while (!st) {
        Batch *b;
        if ((st = loader_next(ld, &b, err)) || !b) break;
        for (int q = 0; !st && q < b->n_seq; q++)
            if (b->seq_patient[q] >= 0 && b->seq_patient[q] < out->n_patients) st = windows_add(&w, b, q, err);
        progress_update(&p, out->n);
    }
    if (!st) st = windows_run(&w, err);
    progress_close(&p, out->n);
    windows_close(&w);
    if (ld) loader_close(ld);
    if (!st && !out->n) st = err_set(err, ERR_USAGE, "the %s split has nothing to score", split_name(split));
    if (st) score_free(out);
    return st;
}

void score_free(Score *sc) {
    for (int64_t i = 0; sc->token_loss && i < sc->n_patients; i++) free(sc->token_loss[i]);
    free(sc->token_loss);
    free(sc->loss);
    free(sc->n_targets);
    free(sc->top);
    *sc = (Score){0};
}
