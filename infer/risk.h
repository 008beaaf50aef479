/* risk.h - one probability a row of a label file, by shared-prefix rollouts (rollout.h).  Several label files may share
 * a pool of futures (mc and scope); their numbers are those that each would get alone. */
#ifndef EHR_INFER_RISK_H
#define EHR_INFER_RISK_H
#include "data/label.h"
#include "infer/estimate.h"
#include "infer/history.h"
#include "infer/session.h"

typedef struct {
    RolloutOptions rollout; /* samples, batch, seed, estimator, clock; what concerns outcomes is filled in here */
    int split;              /* -1: all */
    int64_t limit;          /* rows of each label file, 0 = all */
    double target_se;     /* > 0: a patient's sampling ends at the first look with every standard error at most this */
    int n_curve;          /* points of time-to-event curves, 0 = none */
    const int32_t *given; /* (n_given) ids told at the index: every row is estimated with and without them, in pairs */
    int n_given;
    HistoryLimits limits; /* beyond them a reason is told beside the risk */
    const char *settings; /* JSON of what decides the numbers, stored with them */
    FILE *progress;
} RiskOptions;

/* One label file and what comes of it.  Rows of the table: those of the split, in the label file's order.
 *   patient_key, split, patient_row, index_minutes, outcome; risk, mc_se, risk_lo, risk_hi; competing_risk,
 * competing_se: death without the outcome; lead_days: mean time to the outcome where it happens; n_samples; mean_tokens
 * until the outcome was decided; known_tokens; reason (a sum of REASON_*, 0 = none), unknown_share,
 *   history_loss, strangeness; true_risk, true_risk_se; with given also risk_given, given_se,
 * difference, difference_se, difference_lo, difference_hi. Of the curve table, n_curve rows a row: patient_key,
 * index_minutes, days, risk, se, lo, hi (each point for itself), competing, competing_se. */
typedef struct {
    const LabelFile *labels;
    const char *out; /* FILE.csv or FILE.h5, written by way of parts (parts.h); NULL: only the tables are filled */
    int complement;  /* 1: the outcome is to be still in the stay at the horizon; 1 - p is told */
    Table table, curve;
    int64_t *job_row, *job_start; /* (rows) in order of jobs, (jobs + 1): private */
} RiskTask;

typedef struct {
    RolloutStats rollout;
    int parts, parts_done; /* in all; found done before */
    int missing;           /* of other ranks, not there yet */
    int complete;          /* the tables of the tasks hold every row: nothing was left to others or done before */
} RiskReport;

/* Estimates all tasks in one pool.  With task.out: this rank's parts, those left over from an earlier run excepted;
 * joins them when they are the last, names of results to `names`.  reach takes one task. */
Status risk_run(Session *s, RiskTask *task, int n_tasks, const RiskOptions *o, FILE *names, RiskReport *report,
                Err *err);
void risk_task_free(RiskTask *t);

#endif
