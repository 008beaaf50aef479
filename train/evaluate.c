/* evaluate.c - see evaluate.h.  Row r of the split belongs to rank r mod world; a limit on tokens is a limit on global
 * rows, and sums are kept per patient before they are added up, because a patient's windows may lie on several ranks. */
#include "train/evaluate.h"
#include "train/baseline.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const int64_t BASELINE_TOKENS = 20000000; /* a second or two of counting; more changes no digit that matters */

enum { SUM_LOSS, SUM_TARGETS, SUM_EVENTS, SUM_MINUTES, SUM_FLOOR, SUM_KNOWN_LOSS, SUM_UNIGRAM, SUM_BIGRAM, SUM_COUNT };
enum { PATIENT_TARGETS, PATIENT_KNOWN, PATIENT_EXCESS, PATIENT_FIELDS };

static int is_event(const Vocabulary *v, const Batch *b, int n) {
    int kind = v->token[b->target_lo[n]].kind;
    return b->target_index[n] >= 0 && (kind == TOKEN_EVENT || kind == TOKEN_UNKNOWN);
}

/* Observed time of a window: from its first token to its last target, which is not among its inputs, or to the end of
 * observation when it holds the record's censored gap. */
static Status window_minutes(Dataset *d, const Batch *b, int seq, double *minutes, Err *err) {
    int first = b->cu_seqlens[seq], end = b->cu_seqlens[seq + 1], censored = 0;
    int64_t target = -1;
    for (int n = first; n < end; n++) {
        if (b->target_lo[n] < 0) continue;
        if (b->target_index[n] < 0) censored = 1;
        else target = b->target_index[n];
    }
    PatientView p;
    Status s = dataset_patient(d, SPLIT_TUNING, b->seq_patient[seq], &p, err);
    if (s) return s;
    int32_t last = b->minutes[end - 1];
    if (target >= 0 && target < p.n && p.minutes[target] > last) last = p.minutes[target];
    if (censored && p.observation_end > last) last = p.observation_end;
    *minutes = (double)last - b->minutes[first];
    return OK;
}

static Status add_sequence(Evaluator *e, const Batch *b, const float *losses, int seq, double *sum, Err *err) {
    double minutes, *patient = e->patient + PATIENT_FIELDS * b->seq_patient[seq];
    Status s = window_minutes(e->data, b, seq, &minutes, err);
    if (s) return s;
    sum[SUM_MINUTES] += minutes;
    for (int n = b->cu_seqlens[seq]; n < b->cu_seqlens[seq + 1]; n++) {
        if (b->target_lo[n] < 0) continue;
        double loss = (double)losses[n], floor = -(double)b->oracle_logp[n];
        sum[SUM_LOSS] += loss;
        sum[SUM_TARGETS] += 1;
        sum[SUM_EVENTS] += is_event(&e->data->vocabulary, b, n);
        patient[PATIENT_TARGETS] += 1;
        if (!e->data->floor_valid || !isfinite(floor)) continue;
        sum[SUM_FLOOR] += floor;
        sum[SUM_KNOWN_LOSS] += loss;
        patient[PATIENT_KNOWN] += 1;
        patient[PATIENT_EXCESS] += loss - floor;
    }
    return OK;
}

/* Whether the sequence's row counts: local row i of call c is global row (c * rows + i) * world + rank. */
static int row_counts(const Evaluator *e, const Batch *b, int seq, int64_t call, int rank, int world) {
    int64_t local = call * b->rows + b->cu_seqlens[seq] / b->T;
    return b->seq_patient[seq] >= 0 && local * world + rank < e->max_rows;
}

static int64_t calls_needed(const Evaluator *e, int world) {
    int64_t rows = (int64_t)e->rows * world;
    return e->max_rows == INT64_MAX ? INT64_MAX : (e->max_rows + rows - 1) / rows;
}

/* Rank 0 alone, over the same rows: -log p of every target under the counted laws. */
static Status baseline_losses(Evaluator *e, Err *err) {
    Baseline base;
    Loader *loader = NULL;
    double unigram = 0, bigram = 0, targets = 0;
    LoaderOptions o = {.rows = e->rows, .T = e->T, .world = 1};
    Status s = baseline_open(&base, e->data, BASELINE_TOKENS, err);
    if (s) return s;
    s = loader_open(&loader, e->data, SPLIT_TUNING, &o, err);
    for (int64_t call = 0; !s && call < calls_needed(e, 1); call++) {
        Batch *b;
        if ((s = loader_next(loader, &b, err)) || !b) break;
        for (int i = 0; i < b->n_seq; i++) {
            if (!row_counts(e, b, i, call, 0, 1)) continue;
            for (int n = b->cu_seqlens[i]; n < b->cu_seqlens[i + 1]; n++) {
                if (b->target_lo[n] < 0) continue;
                unigram += baseline_unigram(&base, b->target_lo[n], b->target_hi[n]);
                bigram += baseline_bigram(&base, b->tokens[n], b->target_lo[n], b->target_hi[n]);
                targets += 1;
            }
        }
    }
    e->unigram = unigram / targets;
    e->bigram = bigram / targets;
    loader_close(loader);
    baseline_close(&base);
    return s;
}

Status evaluator_open(Evaluator *e, Dataset *d, Dist *dist, int rows, int T, int64_t max_tokens, Err *err) {
    *e = (Evaluator){.data = d, .dist = dist, .rows = rows, .T = T, .unigram = NAN, .bigram = NAN};
    e->max_rows = max_tokens > 0 ? (max_tokens + T - 1) / T : INT64_MAX;
    if (d->n_patients[SPLIT_TUNING] == 0) return OK;
    LoaderOptions o = {.rows = rows, .T = T, .rank = dist_rank(dist), .world = dist_world(dist)};
    Status s = loader_open(&e->loader, d, SPLIT_TUNING, &o, err);
    if (s) return s;
    e->patient = xcalloc((size_t)d->n_patients[SPLIT_TUNING] * PATIENT_FIELDS + SUM_COUNT, sizeof *e->patient);
    if (dist_rank(dist) == 0) s = baseline_losses(e, err);
    if (s) evaluator_close(e);
    return s;
}

void evaluator_close(Evaluator *e) {
    loader_close(e->loader);
    losses_close(&e->losses);
    free(e->patient);
    *e = (Evaluator){0};
}

/* Ratio estimator with patients as clusters: excess = sum d / sum n, Var = sum (d - excess n)^2 * P / (P - 1) / (sum n)^2. */
static void add_excess(const double *patient, int64_t P, Evaluation *out) {
    double d = 0, n = 0, squares = 0, clusters = 0;
    for (int64_t i = 0; i < P; i++) {
        out->patients += patient[PATIENT_FIELDS * i + PATIENT_TARGETS] > 0;
        clusters += patient[PATIENT_FIELDS * i + PATIENT_KNOWN] > 0;
        n += patient[PATIENT_FIELDS * i + PATIENT_KNOWN];
        d += patient[PATIENT_FIELDS * i + PATIENT_EXCESS];
    }
    out->known = (int64_t)n;
    out->excess = n > 0 ? d / n : NAN;
    for (int64_t i = 0; i < P; i++) {
        double r = patient[PATIENT_FIELDS * i + PATIENT_EXCESS] - out->excess * patient[PATIENT_FIELDS * i + PATIENT_KNOWN];
        squares += r * r;
    }
    out->excess_se = clusters > 1 ? sqrt(squares * clusters / (clusters - 1)) / n : NAN;
}

/* Adds what the oldest pass found; call: its number. */
static Status add_oldest(Evaluator *e, int64_t call, Err *err) {
    Device *dev = e->losses.dev;
    double *sum = e->patient + e->data->n_patients[SPLIT_TUNING] * PATIENT_FIELDS;
    const float *losses;
    const Batch *b = losses_take(&e->losses, &losses);
    const char *why = device_error(dev);
    Status s = why ? err_set(err, ERR_DEVICE, "%s: %s", device_name(dev), why) : OK;
    for (int i = 0; !s && i < b->n_seq; i++)
        if (row_counts(e, b, i, call, dist_rank(e->dist), dist_world(e->dist))) s = add_sequence(e, b, losses, i, sum, err);
    return s;
}

/* One pass runs while the one before is counted and the next is read. */
static Status run_passes(Evaluator *e, Model *m, Acts *acts, Err *err) {
    int64_t call = 0, calls = calls_needed(e, dist_world(e->dist));
    Status s = OK;
    for (; !s && call < calls; call++) {
        Batch *b;
        if ((s = loader_next(e->loader, &b, err)) || !b) break;
        model_upload(m, acts, b);
        model_pass(m, acts, NULL, NULL, NULL);
        losses_queue(&e->losses, acts, b);
        if (call) s = add_oldest(e, call - 1, err);
    }
    if (!s && call) s = add_oldest(e, call - 1, err);
    return s;
}

Status evaluator_run(Evaluator *e, Model *m, Acts *acts, Evaluation *out, Err *err) {
    int64_t P = e->data->n_patients[SPLIT_TUNING];
    size_t n_sums = (size_t)P * PATIENT_FIELDS + SUM_COUNT;
    double *sum = e->patient + P * PATIENT_FIELDS;
    LoaderCursor start = {0, 0, 0};
    const float *left;
    memset(e->patient, 0, n_sums * sizeof *e->patient);
    Status s = e->losses.dev ? OK : losses_open(&e->losses, m->dev, e->rows * e->T, err);
    if (!s) s = loader_seek(e->loader, &start, err);
    if (!s) s = run_passes(e, m, acts, err);
    while (s && losses_take(&e->losses, &left)) {}
    if (!s) s = dist_sum(e->dist, e->patient, (int64_t)n_sums, err);
    if (s) return s;
    *out = (Evaluation){.targets = (int64_t)sum[SUM_TARGETS],
                        .events = (int64_t)sum[SUM_EVENTS],
                        .patient_years = sum[SUM_MINUTES] / 525960,
                        .loss_unigram = e->unigram,
                        .loss_bigram = e->bigram};
    add_excess(e->patient, P, out);
    out->loss = sum[SUM_LOSS] / sum[SUM_TARGETS];
    out->per_event = sum[SUM_LOSS] / sum[SUM_EVENTS];
    out->per_patient_year = sum[SUM_LOSS] / out->patient_years;
    out->loss_floor = out->known ? sum[SUM_FLOOR] / (double)out->known : NAN;
    out->loss_known = out->known ? sum[SUM_KNOWN_LOSS] / (double)out->known : NAN;
    return OK;
}
