/* history.h - whether a forecast should be told at all: whether anybody is there to be forecast, how long a record is, how
 * much of it the vocabulary has no word for, and how surprising the model finds it beside other records.  Never how wide the sampling spreads: that tells of
 * futures, not of what the model does not know. */
#ifndef EHR_INFER_HISTORY_H
#define EHR_INFER_HISTORY_H
#include "infer/rollout_window.h"
#include "infer/session.h"

typedef struct {
    double loss;        /* mean over n, nats; NaN without tokens or model */
    int64_t n;          /* tokens of the record in the model's window */
    double unknown;     /* share of unknown ones among the known events */
    double strangeness; /* loss in standard deviations above what is usual for n tokens; NaN: not looked at */
} History;

/* What is usual for n tokens, fitted on records that were not trained on: mean = c0 + c1/n, variance = v0 + v1/n. */
typedef struct {
    int64_t patients;
    double c[2], v[2];
} HistoryUsual;

enum { REASON_SHORT = 1, REASON_UNKNOWN = 2, REASON_STRANGE = 4, REASON_DEAD = 8 };
typedef struct {
    int64_t min_tokens;
    double max_unknown, max_strange;
    int64_t reference; /* patients to fit HistoryUsual on, 0: strangeness is not looked at */
} HistoryLimits;
int history_reason(const HistoryLimits *l, const History *h, int64_t known_tokens);
/* REASON_DEAD if a death is among the first n_known tokens, which no training record goes on after; else 0. */
int history_dead(const Vocabulary *v, const PatientView *p, int64_t n_known);

typedef Status (*HistoryJob)(void *ctx, int64_t i, RolloutJob *out, Err *err);
/* out (n): histories of jobs 0 .. n-1, strangeness left NaN. */
Status history_run(Session *s, int64_t n, HistoryJob get_job, void *ctx, FILE *progress, History *out, Err *err);
/* On whole records of the tuning split, or of train where tuning has fewer than 50 patients. */
Status history_usual(Session *s, int64_t patients, HistoryUsual *out, Err *err);
double history_strangeness(const HistoryUsual *u, const History *h);

#endif
