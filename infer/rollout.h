/* rollout.h - many simulated futures of many patients: one prefill a patient and index time, whose keys and values all its
 * samples share; continuous batching (a finished sample's place is taken at once by the next one, of any patient).
 *
 * A future is a pure function of (seed, patient key, index time, sample): batch size, order and thread count change speed
 * only, never a bit.  It holds because every forward kernel is invariant (kernels.h) and every random number is keyed.
 *
 * Estimators of the probability of an outcome within the horizon (reference: SCOPE and REACH, arXiv 2602.03730):
 *   mc     share of futures that hit the outcome
 *   scope  sum of p(outcome) over the steps of a future up to its first hit; unbiased, may exceed 1 for one future
 *   reach  the outcome is never drawn; 1 - prod over steps of (1 - p(outcome)); its variance is at most mc's */
#ifndef EHR_INFER_ROLLOUT_H
#define EHR_INFER_ROLLOUT_H
#include "data/dataset.h"
#include "infer/kv_cache.h"

typedef enum { ESTIMATOR_MC, ESTIMATOR_SCOPE, ESTIMATOR_REACH } Estimator;
typedef enum { STOP_DEATH, STOP_HORIZON, STOP_OUTCOME, STOP_EVENT, STOP_LIMIT, STOP_COUNT } StopReason;
const char *stop_name(StopReason r);

/* What predicts the next token: a model, or (to test the estimators against a law that is known) a function from all
 * tokens so far, prefix included, to V unnormalised log probabilities (-INFINITY = impossible). */
typedef struct {
    Model *model; /* NULL: logits is used */
    void (*logits)(void *ctx, const int32_t *tokens, int n, float *out);
    void  *ctx;
    int    seq_len; /* longest sequence the law takes */
} Law;

typedef struct {
    int      n_samples, batch, max_tokens; /* futures a job; live futures at most; tokens a future at most */
    uint64_t seed;
    double   horizon_minutes;
    Estimator estimator;
    const uint32_t *outcome_bits; /* (V) bit o: the id is outcome o */
    int      n_outcomes;          /* 0 .. SAMPLE_OUTCOMES_MAX; reach suppresses all of them: give one at a time */
    const uint32_t *stop_bits;    /* (V) non-zero: the id ends a future, such as a discharge; NULL = none */
    int      mean_clock;          /* 1: a gap lasts its bin's mean, as published elsewhere; biased inside a bin */
    int      keep_paths;          /* 1: samples carry their tokens */
    double   temperature;
    int      top_k; /* 0 = off */
} RolloutOptions;

/* One patient at one index time: everything with minutes <= index is known. */
typedef struct {
    PatientView patient;
    int64_t     n_known; /* tokens known at the index, at least 0 */
    int32_t     index_minutes;
} RolloutJob;

typedef struct {
    StopReason stop;
    int        n_tokens;
    double     minutes;                            /* length of the future */
    double     risk[SAMPLE_OUTCOMES_MAX];          /* of this one future */
    double     hit_minutes[SAMPLE_OUTCOMES_MAX];   /* first hit after the index; NaN = none */
    int32_t   *tokens;                             /* (n_tokens) when keep_paths */
    double    *token_minutes;                      /* (n_tokens) after the index */
} RolloutSample;

typedef struct {
    int64_t jobs, samples, tokens; /* generated */
    int64_t prefill_tokens, refills, limit_stops;
    double  seconds;
} RolloutStats;

/* get_job fills job i; job_done receives the finished samples (valid during the call) in order of completion. */
typedef struct {
    Status (*get_job)(void *ctx, int64_t i, RolloutJob *out, Err *err);
    Status (*job_done)(void *ctx, int64_t i, const RolloutJob *job, const RolloutSample *samples, Err *err);
    void *ctx;
} RolloutCallbacks;

Status rollout_run(const Law *law, const Vocabulary *v, const RolloutOptions *o, int64_t n_jobs, const RolloutCallbacks *cb,
                   RolloutStats *stats, Err *err);

/* First token index with minutes > index: what is known at the index. */
int64_t rollout_known(const PatientView *p, int32_t index_minutes);

#endif
