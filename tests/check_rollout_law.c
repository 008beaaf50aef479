/* check_rollout_law.c - the oracle's own law in place of a model: what the rollout sampler makes of it must be the true
 * risks stored in the labels.  check_rollout_law DATASET LABELS.h5 ROWS SAMPLES; exit 0 when the mean difference over
 * patients is within four standard errors.  The law is run anew over the whole record at every step: slow and plain. */
#include "data/label.h"
#include "data/oracle.h"
#include "infer/risk.h"
#include <math.h>
#include <stdlib.h>

typedef struct {
    OracleLaw law;
    int       V;
    double   *p;
} LawContext;

static void law_logits(void *ctx, const int32_t *tokens, int n, float *out) {
    LawContext *c = ctx;
    OracleCursor cursor;
    Err err = {OK, ""};
    oracle_law_start(&cursor);
    for (int i = 0; i < n; i++) REQUIRE(oracle_law_feed(&c->law, &cursor, tokens[i], &err) == OK);
    oracle_law_probs(&c->law, &cursor, c->p);
    for (int i = 0; i < c->V; i++) out[i] = c->p[i] > 0 ? (float)log(c->p[i]) : -INFINITY;
}

static int fail(const Err *err) {
    fprintf(stderr, "check_rollout_law: %s\n", err->msg);
    return 1;
}

int main(int argc, char **argv) {
    Err err = {OK, ""};
    Session s = {0};
    LabelFile labels;
    LawContext c = {0};
    if (argc != 5) return 2;
    if (dataset_open(&s.dataset, argv[1], &err) || label_file_open(&labels, argv[2], &err)) return fail(&err);
    if (oracle_law_open(&c.law, &s.dataset.vocabulary, &err)) return fail(&err);
    c.V = s.dataset.vocabulary.n;
    c.p = xcalloc((size_t)c.V, sizeof *c.p);
    s.law = (Law){.logits = law_logits, .ctx = &c, .seq_len = 1 << 20};
    int failed = 0;
    for (int e = ESTIMATOR_MC; e <= ESTIMATOR_REACH; e++) {
        RolloutOptions o = {.n_samples = atoi(argv[4]), .batch = 64, .max_tokens = 5000, .seed = 5, .temperature = 1,
                            .estimator = (Estimator)e};
        RiskOptions ro = {.rollout = o, .split = SPLIT_HELD_OUT, .limit = atoi(argv[3])};
        RiskTask task = {.labels = &labels};
        RiskReport report;
        if (risk_run(&s, &task, 1, &ro, stdout, &report, &err)) return fail(&err);
        const Table *t = &task.table;
        const double *risk = table_get(t, "risk", COLUMN_F64), *se = table_get(t, "mc_se", COLUMN_F64);
        const double *truth = table_get(t, "true_risk", COLUMN_F64), *truth_se = table_get(t, "true_risk_se", COLUMN_F64);
        double diff = 0, variance = 0, mean = 0, mean_truth = 0;
        for (int64_t i = 0; i < t->n; i++) {
            diff += (risk[i] - truth[i]) / (double)t->n;
            variance += (se[i] * se[i] + truth_se[i] * truth_se[i]) / ((double)t->n * (double)t->n);
            mean += risk[i] / (double)t->n;
            mean_truth += truth[i] / (double)t->n;
        }
        double z = diff / sqrt(variance);
        printf("%s %s: %lld rows, mean %.4f, true %.4f, z %+.2f\n", labels.name,
               e == ESTIMATOR_MC ? "mc" : e == ESTIMATOR_SCOPE ? "scope" : "reach", (long long)t->n, mean, mean_truth, z);
        failed |= !(fabs(z) < 4);
        risk_task_free(&task);
    }
    free(c.p);
    oracle_law_close(&c.law);
    label_file_close(&labels);
    dataset_close(&s.dataset);
    return failed;
}
