/* risk.c - see risk.h. */
#include "infer/risk.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

RiskEstimate risk_estimate(Estimator e, const double *values, int n) {
    double mean = 0, ss = 0;
    for (int i = 0; i < n; i++) mean += values[i];
    mean /= n;
    for (int i = 0; i < n; i++) ss += (values[i] - mean) * (values[i] - mean);
    RiskEstimate r = {.risk = mean};
    r.mc_se = n > 1 ? sqrt(ss / (n - 1) / n) : NAN;
    const double z = 1.959963984540054;
    if (e == ESTIMATOR_MC) { /* Wilson 1927 */
        double d = 1 + z * z / n, mid = (mean + z * z / (2 * n)) / d;
        double half = z / d * sqrt(mean * (1 - mean) / n + z * z / (4.0 * n * n));
        r.lo = mid - half;
        r.hi = mid + half;
    } else {
        r.lo = mean - z * r.mc_se;
        r.hi = mean + z * r.mc_se;
    }
    if (r.lo < 0) r.lo = 0;
    if (r.hi > 1) r.hi = 1;
    return r;
}

typedef struct {
    Session        *s;
    const LabelFile *labels;
    const int64_t  *pick; /* label row of each job */
    int64_t         n, done;
    RolloutOptions *o;
    double         *values;
    double         *risk, *mc_se, *lo, *hi, *mean_tokens;
    int64_t        *known;
    Progress        progress;
} RiskRun;

static Status get_job(void *ctx, int64_t i, RolloutJob *job, Err *err) {
    RiskRun *r = ctx;
    int64_t row = r->pick[i];
    Status s = dataset_patient(&r->s->dataset, (int)r->labels->split[row], r->labels->patient_row[row], &job->patient, err);
    if (s) return s;
    if (job->patient.key != r->labels->patient_key[row])
        return err_set(err, ERR_FORMAT, "row %lld of the label file names patient key %llu, the dataset has %llu there: the "
                       "labels belong to another dataset; run `ehr-data label` again", (long long)row,
                       (unsigned long long)r->labels->patient_key[row], (unsigned long long)job->patient.key);
    job->index_minutes = (int32_t)r->labels->index_minutes[row];
    job->n_known = rollout_known(&job->patient, job->index_minutes);
    return OK;
}

static Status job_done(void *ctx, int64_t i, const RolloutJob *job, const RolloutSample *samples, Err *err) {
    (void)err;
    RiskRun *r = ctx;
    double tokens = 0;
    for (int k = 0; k < r->o->n_samples; k++) {
        r->values[k] = samples[k].risk[0];
        tokens += samples[k].n_tokens;
    }
    RiskEstimate e = risk_estimate(r->o->estimator, r->values, r->o->n_samples);
    r->risk[i] = e.risk;
    r->mc_se[i] = e.mc_se;
    r->lo[i] = e.lo;
    r->hi[i] = e.hi;
    r->mean_tokens[i] = tokens / r->o->n_samples;
    r->known[i] = job->n_known;
    progress_update(&r->progress, ++r->done);
    return OK;
}

static void copy_i64(Table *t, const char *name, const int64_t *from, const int64_t *pick, int64_t n) {
    int64_t *to = table_add(t, name, COLUMN_I64);
    for (int64_t i = 0; i < n; i++) to[i] = from[pick[i]];
}

static void copy_f64(Table *t, const char *name, const double *from, const int64_t *pick, int64_t n) {
    double *to = table_add(t, name, COLUMN_F64);
    for (int64_t i = 0; i < n; i++) to[i] = from ? from[pick[i]] : NAN;
}

static int64_t pick_rows(const LabelFile *l, int split, int64_t limit, int64_t *pick) {
    int64_t n = 0;
    for (int64_t i = 0; i < l->table.n && (!limit || n < limit); i++)
        if (split < 0 || l->split[i] == split) pick[n++] = i;
    return n;
}

Status risk_table(Session *s, const LabelFile *labels, int split, int64_t limit, RolloutOptions *o, FILE *progress,
                  Table *out, RolloutStats *stats, Err *err) {
    const Vocabulary *v = &s->dataset.vocabulary;
    uint32_t *mark = xcalloc((size_t)v->n, sizeof *mark), *stop = xcalloc((size_t)v->n, sizeof *stop);
    int64_t *pick = xcalloc((size_t)labels->table.n + 1, sizeof *pick);
    int64_t n = pick_rows(labels, split, limit, pick);
    Status st = OK;
    if (!labels->n_codes)
        st = err_set(err, ERR_USAGE, "%s has no outcome codes (a task of durations or values): rollouts cannot tell when it is "
                     "hit; label an event", labels->name);
    if (!st) st = outcome_mark(v, labels->name, labels->codes, labels->n_codes, 0, mark, err);
    if (!st && labels->n_stops) st = outcome_mark(v, "stop of the task", labels->stops, labels->n_stops, 0, stop, err);
    if (!st && !n) st = err_set(err, ERR_USAGE, "the label file has no rows in the asked split: see --split");
    RiskRun r = {.s = s, .labels = labels, .pick = pick, .n = n, .o = o};
    if (!st) {
        table_init(out, n);
        uint64_t *key = table_add(out, "patient_key", COLUMN_U64);
        for (int64_t i = 0; i < n; i++) key[i] = labels->patient_key[pick[i]];
        copy_i64(out, "split", labels->split, pick, n);
        copy_i64(out, "patient_row", labels->patient_row, pick, n);
        copy_i64(out, "index_minutes", labels->index_minutes, pick, n);
        copy_i64(out, "outcome", labels->outcome, pick, n);
        r.risk = table_add(out, "risk", COLUMN_F64);
        r.mc_se = table_add(out, "mc_se", COLUMN_F64);
        r.lo = table_add(out, "risk_lo", COLUMN_F64);
        r.hi = table_add(out, "risk_hi", COLUMN_F64);
        int64_t *samples = table_add(out, "n_samples", COLUMN_I64);
        for (int64_t i = 0; i < n; i++) samples[i] = o->n_samples;
        r.mean_tokens = table_add(out, "mean_tokens", COLUMN_F64);
        r.known = table_add(out, "known_tokens", COLUMN_I64);
        copy_f64(out, "true_risk", labels->true_risk, pick, n);
        copy_f64(out, "true_risk_se", labels->true_risk_se, pick, n);
        r.values = xcalloc((size_t)o->n_samples, sizeof *r.values);
        o->horizon_minutes = (double)labels->horizon_minutes;
        o->outcome_bits = mark;
        o->n_outcomes = 1;
        o->stop_bits = labels->n_stops ? stop : NULL;
        RolloutCallbacks cb = {.get_job = get_job, .job_done = job_done, .ctx = &r};
        progress_open(&r.progress, progress, labels->name, "index times", n);
        st = rollout_run(&s->law, v, o, n, &cb, stats, err);
        progress_close(&r.progress, r.done);
        if (st) table_free(out);
        o->outcome_bits = o->stop_bits = NULL;
    }
    free(r.values);
    free(mark);
    free(stop);
    free(pick);
    return st;
}
