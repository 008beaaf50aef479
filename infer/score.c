/* score.c - see score.h.  Uses the loader that training uses, unshuffled: the same windows, targets and censoring. */
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

Status score_split(Session *s, int split, int64_t limit, int T, int top, int keep_tokens, ScoreDetail *detail,
                   FILE *progress, Score *out, Err *err) {
    int64_t all = s->dataset.n_patients[split];
    *out = (Score){.n_patients = limit && limit < all ? limit : all};
    Status st = prepare(s, split, top, keep_tokens, out, err);
    LoaderOptions lo = {.rows = T >= 2048 ? 1 : 4096 / T, .T = T, .shuffle = 0, .rank = 0, .world = 1};
    Loader *ld = NULL;
    Acts *acts = NULL;
    if (!st) st = loader_open(&ld, &s->dataset, split, &lo, err);
    if (!st) st = acts_open(&acts, &s->model, lo.rows * T, 0, RECOMPUTE_NONE, err);
    float *losses = xcalloc((size_t)lo.rows * (size_t)T, sizeof *losses);
    Progress p;
    progress_open(&p, progress, "score", "tokens", s->dataset.n_tokens[split]);
    while (!st) {
        Batch *b;
        if ((st = loader_next(ld, &b, err)) || !b) break;
        int wanted = 0;
        for (int q = 0; q < b->n_seq; q++) wanted |= b->seq_patient[q] >= 0 && b->seq_patient[q] < out->n_patients;
        if (!wanted) continue;
        model_upload(&s->model, acts, b);
        model_pass(&s->model, acts, NULL, NULL, NULL);
        device_download(s->dev, losses, acts_losses(acts), (size_t)b->N * sizeof *losses);
        if (device_error(s->dev)) st = err_set(err, ERR_DEVICE, "score: %s", device_error(s->dev));
        else st = take_batch(s, split, b, losses, top, out, err);
        if (!st && detail) st = score_detail_take(detail, acts, split, b, losses, out->n_patients, err);
        progress_update(&p, out->n);
    }
    progress_close(&p, out->n);
    free(losses);
    if (acts) acts_close(acts);
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
