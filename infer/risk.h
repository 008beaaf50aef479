/* risk.h - one probability a row of a label file, by shared-prefix rollouts (rollout.h). */
#ifndef EHR_INFER_RISK_H
#define EHR_INFER_RISK_H
#include "data/label.h"
#include "infer/session.h"

typedef struct {
    double risk;   /* mean over samples */
    double mc_se;  /* its standard error: sampling of futures only, not of patients or training */
    double lo, hi; /* 95%: Wilson for mc, normal and clipped to [0, 1] otherwise */
} RiskEstimate;

/* values (n): risk of each future, in sample order. */
RiskEstimate risk_estimate(Estimator e, const double *values, int n);

/* Rows of labels with the given split (-1: all), at most limit (0: all), to a table: patient_key, split, patient_row,
 * index_minutes, outcome, risk, mc_se, risk_lo, risk_hi, n_samples, mean_tokens, known_tokens, true_risk, true_risk_se. */
Status risk_table(Session *s, const LabelFile *labels, int split, int64_t limit, RolloutOptions *o, FILE *progress,
                  Table *out, RolloutStats *stats, Err *err);

#endif
