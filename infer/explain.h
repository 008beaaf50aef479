/* explain.h - what moved a forecast: how a patient's risk changes when one past event is left out, each future weighed
 * under both histories.  It tells what the model went by, never what caused anything. */
#ifndef EHR_INFER_EXPLAIN_H
#define EHR_INFER_EXPLAIN_H
#include "infer/estimate.h"
#include "infer/session.h"

typedef struct {
    int64_t index[2]; /* tokens of the event in the record: itself, and its separate value */
    int n_index;
    int n_samples;     /* futures of each history */
    double change, se; /* of the risk: with the event less without it; positive: it raised the risk */
    double lo, hi;     /* 95%, sampling of futures only */
    double without;    /* mean risk of the futures that were drawn without it: noisier than the change tells */
    double gradient;   /* gradient times input of the same risk; NaN unless asked for.  A model that normalises what its
                          blocks read hardly sees an embedding's length, so it is small, and ranks little */
} ExplainItem;

typedef struct {
    RiskEstimate risk;
    int n;             /* events looked at, the newest */
    ExplainItem *item; /* in order of the record */
    int64_t skipped;   /* older events, not looked at */
    double along;      /* mean risk of the futures that the gradient was taken along */
    RolloutStats stats;
} Explanation;

typedef struct {
    RolloutOptions rollout; /* samples, batch, seed, horizon, outcome_bits with n_outcomes = 1 */
    int max_events;         /* 0: all within the model's sequence */
    const uint8_t *only;    /* (known tokens) 1: this event is looked at; NULL: all */
    double target_se;       /* > 0: events whose change has a larger standard error get more futures, twice as many each
                             * time, up to samples_most */
    int samples_most;
    int gradient_samples; /* futures that the gradient is taken along, 0 = no gradient */
} ExplainOptions;

/* The events to leave out: those newest ones that the model is told of; the rest of out stays empty. */
void explain_find(const Session *s, const RolloutJob *job, const ExplainOptions *o, Explanation *out);
Status explain_run(Session *s, const RolloutJob *job, const ExplainOptions *o, FILE *progress, Explanation *out,
                   Err *err);
/* The same in pieces, for who runs the rollouts: with estimator reach, keep_paths and weigh_paths, at temperature 1.  out
 * comes from explain_find; the history i = 0 is the whole one, i - 1 the item that is left out.  First jobs 0 .. out->n
 * are drawn, then as many as explain_follow says follow; explain_draw_job and explain_follow_job say what is particular
 * to a job of the patient.  explain_close fills out (estimate 1) and frees the run. */
typedef struct ExplainRun ExplainRun;
ExplainRun *explain_open(int n_samples, int outcome, Explanation *out); /* outcome: the one whose risk is looked at */
void explain_draw_job(const ExplainRun *r, int64_t i, RolloutJob *job);
void explain_drawn(ExplainRun *r, int64_t i, const RolloutSample *samples); /* (n_samples), copied */
int64_t explain_follow(ExplainRun *r);
void explain_follow_job(const ExplainRun *r, int64_t i, RolloutJob *job);
void explain_followed(ExplainRun *r, int64_t i, const RolloutSample *samples, int n);
void explain_close(ExplainRun *r, int estimate);
/* Gradient times input of the risk along the given futures (n, of job, with paths): sum over the tokens of the i-th
 * item. The gradient of 1 - prod(1 - p) through all p; which tokens were drawn is held fixed. */
Status explain_gradient(Session *s, const RolloutJob *job, const ExplainOptions *o, const RolloutSample *samples, int n,
                        Explanation *out, Err *err);
void explain_free(Explanation *x);

#endif
