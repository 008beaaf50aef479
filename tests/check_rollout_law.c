/* check_rollout_law.c - the oracle's own law in place of a model: what the rollout sampler makes of it must be the true
 * risks.  Each run prints, for every estimator, the mean difference over patients in standard errors (z), the variance of one
 * future beside mc's, and how many futures a standard error of 0.01 takes; exit 1 when a |z| is 4 or more, when intervals of
 * a sampling that ends by itself hold less often than they should (by 4 standard errors), or reach's
 * variance is above mc's by more than 4 standard errors of their difference.
 *   check_rollout_law DATASET LABELS.h5 ROWS SAMPLES           against the true risks in the labels
 *   check_rollout_law DATASET LABELS.h5 ROWS SAMPLES CODE      do(CODE): with the event told at the index, against the
 *                                                              generator's own risk after appending it
 *   check_rollout_law DATASET LABELS.h5 ROWS SAMPLES se=0.02   sampling that ends by itself: how often its intervals hold */
#include "data/label.h"
#include "infer/risk.h"
#include "kernels/philox.h"
#include "tests/oracle_logits.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TRUTH_SAMPLES = 1024 };

static int fail(const Err *err) {
    fprintf(stderr, "check_rollout_law: %s\n", err->msg);
    return 1;
}

/* The generator's own risk of the outcome after the known tokens and `given`. */
static Status truth_of(Session *s, LawContext *c, const RiskTask *task, int64_t row, int given, double *p, double *se, Err *err) {
    const LabelFile *l = task->labels;
    const Vocabulary *v = &s->dataset.vocabulary;
    PatientView view;
    OracleCursor cursor;
    uint8_t mark[ORACLE_WHATS] = {0};
    uint32_t *bits = xcalloc((size_t)v->n, sizeof *bits);
    int32_t prefix[16];
    Status st = dataset_patient(&s->dataset, SPLIT_HELD_OUT, ((const int64_t *)table_get(&task->table, "patient_row", COLUMN_I64))[row],
                                &view, err);
    if (!st) st = outcome_mark(v, l->name, l->codes, l->n_codes, 0, bits, err);
    for (int id = 0; id < v->n; id++)
        if (bits[id] && c->law.what[id] >= 0) mark[c->law.what[id]] = 1;
    oracle_law_start(&cursor);
    int n = st ? 0 : dataset_prefix(&s->dataset, &view, 0, prefix, 16);
    for (int i = 0; !st && i < n; i++) st = oracle_law_feed(&c->law, &cursor, prefix[i], err);
    int64_t known = st ? 0 : rollout_known(&view, (int32_t)((const int64_t *)table_get(&task->table, "index_minutes", COLUMN_I64))[row]);
    for (int64_t i = 0; !st && i < known; i++) st = oracle_law_feed(&c->law, &cursor, (int)patient_token(&view, i), err);
    if (!st && given >= 0) st = oracle_law_feed(&c->law, &cursor, given, err);
    if (!st) oracle_risk(&cursor.state, mark, l->horizon_minutes, TRUTH_SAMPLES, philox_mix(99, (uint64_t)row), p, se);
    free(bits);
    return st;
}

typedef struct {
    int64_t rows;
    double z, variance, variance_se, covered, samples;
} Result;

static Result compare(const RiskTask *task, const char *column, const char *se_column, const double *truth, const double *truth_se) {
    const Table *t = &task->table;
    const double *risk = table_get(t, column, COLUMN_F64), *se = table_get(t, se_column, COLUMN_F64);
    const double *lo = table_get(t, "risk_lo", COLUMN_F64), *hi = table_get(t, "risk_hi", COLUMN_F64);
    const int64_t *n = table_get(t, "n_samples", COLUMN_I64);
    double diff = 0, error = 0, squares = 0, rows = 0;
    Result r = {0};
    for (int64_t i = 0; i < t->n; i++) rows += isfinite(truth[i]); /* a readmission takes a discharge at the index */
    for (int64_t i = 0; i < t->n; i++) {
        if (!isfinite(truth[i])) continue;
        double one = se[i] * se[i] * (double)n[i]; /* variance of one future */
        diff += (risk[i] - truth[i]) / rows;
        error += (se[i] * se[i] + truth_se[i] * truth_se[i]) / (rows * rows);
        r.variance += one / rows;
        squares += one * one / rows;
        r.covered += (lo[i] <= truth[i] && truth[i] <= hi[i]) / rows;
        r.samples += (double)n[i] / rows;
    }
    r.rows = (int64_t)rows;
    r.z = diff / sqrt(error);
    r.variance_se = sqrt((squares - r.variance * r.variance) / rows);
    return r;
}

int main(int argc, char **argv) {
    static const char *const name[] = {"mc", "scope", "reach"};
    Err err = {OK, ""};
    Session s = {0};
    LabelFile labels;
    LawContext c = {0};
    if (argc < 5 || argc > 6) return 2;
    const char *code = argc == 6 && strncmp(argv[5], "se=", 3) ? argv[5] : NULL;
    double target = argc == 6 && !code ? atof(argv[5] + 3) : 0;
    if (dataset_open(&s.dataset, argv[1], &err) || label_file_open(&labels, argv[2], &err)) return fail(&err);
    if (law_open(&c, &s.dataset.vocabulary, &err)) return fail(&err);
    int32_t given = code ? vocabulary_find(&s.dataset.vocabulary, code) : -1;
    if (code && given < 0) return 2;
    s.law = law_of(&c);
    int failed = 0;
    Result of[3];
    for (int e = ESTIMATOR_MC; e <= ESTIMATOR_REACH; e++) {
        RiskOptions o = {.split = SPLIT_HELD_OUT, .limit = atoi(argv[3]), .target_se = target, .given = &given, .n_given = code != NULL};
        o.rollout = (RolloutOptions){.n_samples = atoi(argv[4]), .batch = 64, .max_tokens = 5000, .seed = 5, .temperature = 1,
                                     .first_look = 64, .estimator = (Estimator)e};
        RiskTask task = {.labels = &labels};
        RiskReport report;
        if (risk_run(&s, &task, 1, &o, stdout, &report, &err)) return fail(&err);
        int64_t n = task.table.n;
        const double *truth = table_get(&task.table, "true_risk", COLUMN_F64), *truth_se = table_get(&task.table, "true_risk_se", COLUMN_F64);
        double *after = xcalloc((size_t)n, sizeof *after), *after_se = xcalloc((size_t)n, sizeof *after_se), effect = 0;
        for (int64_t i = 0; code && i < n; i++) {
            if (truth_of(&s, &c, &task, i, given, &after[i], &after_se[i], &err)) return fail(&err);
            effect += (after[i] - truth[i]) / (double)n;
        }
        Result r = of[e] = code ? compare(&task, "risk_given", "given_se", after, after_se) : compare(&task, "risk", "mc_se", truth, truth_se);
        printf("%s%s%s %-5s %4lld rows  z %+5.2f  variance %.5f, of mc's %5.3f  for se 0.01: %5.0f futures", labels.name,
               code ? " given " : "", code ? code : "", name[e], (long long)r.rows, r.z, r.variance, r.variance / of[0].variance, r.variance / 1e-4);
        if (code) printf("  true change %+.4f", effect);
        if (target > 0) printf("  %.0f futures each, %.1f%% of intervals hold", r.samples, 100 * r.covered);
        printf("\n");
        /* A sampling that ends by itself ends early where little has happened yet: mc's mean then lies low, its intervals hold. */
        if (target > 0) failed |= !(r.covered >= 0.95 - 4 * sqrt(0.95 * 0.05 / (double)n));
        else failed |= !(fabs(r.z) < 4);
        free(after);
        free(after_se);
        risk_task_free(&task);
    }
    double slack = 4 * sqrt(of[0].variance_se * of[0].variance_se + of[2].variance_se * of[2].variance_se);
    failed |= !(of[2].variance <= of[0].variance + slack);
    law_close(&c);
    label_file_close(&labels);
    dataset_close(&s.dataset);
    return failed;
}
