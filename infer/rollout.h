/* rollout.h - many simulated futures of many patients: one prefill a patient and index time, whose keys and values all its
 * samples share (and, as far as full pages go, the next job of the same patient); continuous batching (a finished sample's
 * place is taken at once by the next one, of any patient).  Jobs are known from the start, or join while others are being
 * decoded, each with options of its own.
 *
 * A future is a pure function of (seed, patient key, index time, sample): batch size, order, who else is there and thread
 * count change speed only, never a bit.  It holds because every forward kernel is invariant (kernels.h) and every random number is keyed.
 *
 * Estimators of the probability of an outcome within its horizon (reference: SCOPE and REACH, arXiv 2602.03730).  Each is a
 * weight that a future gives to the times at which the outcome may happen:
 *   mc     1 at the first hit: the share of futures that hit
 *   scope  p(outcome) at every step up to the first hit; unbiased, may exceed 1 for one future
 *   reach  the outcome is never drawn; 1 - prod over steps of (1 - p(outcome)); its variance is at most mc's
 * With mc and scope several outcomes are watched in one pool of futures, each with its own horizon, stops and numbers: the
 * same that a pool of its own would give. */
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
    int      n_samples, batch, max_tokens; /* futures a job at most; live futures at most; tokens a future at most */
    int      first_look; /* 0: n_samples at once; else `enough` is asked after this many, then after every doubling */
    uint64_t seed;
    double   horizon_minutes;
    Estimator estimator;
    const uint32_t *outcome_bits;  /* (V) bit o: the id is outcome o */
    int      n_outcomes;           /* 0 .. SAMPLE_OUTCOMES_MAX; reach suppresses all that a job watches: let it watch one */
    const double *outcome_horizon; /* (n_outcomes) minutes, at most horizon_minutes; NULL: all horizon_minutes */
    const double *outcome_after;   /* (n_outcomes) minutes: what happens up to then is no outcome; NULL: all 0 */
    uint32_t after_ends;           /* bit o: such a one ends outcome o's watch without it; else the watch goes on */
    const uint32_t *stop_bits;     /* (V) bit o: the id ends outcome o's watch, as a discharge may, with the minute it is
                                    * told in if the outcome may be told behind it; NULL = none */
    int      n_curve;              /* points of the curves in a sample: 1/n .. n/n of each outcome's horizon; 0 = none */
    int      first_event;          /* 1: a future ends with its first event: the hazard of the next event alone */
    int      mean_clock;           /* 1: a gap lasts its bin's mean, as published elsewhere; biased inside a bin */
    int      keep_paths;           /* 1: samples carry their tokens */
    int      weigh_paths;          /* 1: samples carry the log probability of their path; temperature 1, no top_k; of the
                                    * run, not of a job that joins */
    int      tell_logprobs;        /* 1: drawn is told the model's own log probability of each token */
    int      exact_window;         /* 1: beyond the context every token sees all the newest that fit, at a prefill each */
    int      no_sharing;           /* 1: every job is prefilled from its first token */
    int      jobs_max;             /* of runs that jobs join: at work at a time, at most */
    double   temperature;
    int      top_k; /* 0 = off */
} RolloutOptions;

typedef struct RolloutSample RolloutSample;

/* One patient at one index time: everything with minutes <= index is known. */
typedef struct {
    PatientView patient;
    int64_t     n_known; /* tokens known at the index, at least 0 */
    int32_t     index_minutes;
    uint32_t    watch;             /* bit o: outcome o is asked for; 0 = all */
    const int32_t *given;          /* (n_given) ids told at the index besides */
    int         n_given;
    const int64_t *left_out;       /* (n_left_out) ascending known token indices that the model is not told */
    int         n_left_out;
    const RolloutOptions *o;       /* of a job that joins: how its futures are drawn (batch, exact_window, no_sharing and
                                    * jobs_max are the run's); lasts until job_done.  NULL: as the run says */
    void       *user;              /* the caller's */
    const RolloutSample *const *follow; /* (n_follow) futures with paths, of another history of the same patient and index:
                                         * they are taken again here and draw nothing, for what this history makes of them */
    int         n_follow;          /* 0: n_samples futures are drawn */
} RolloutJob;

struct RolloutSample {
    StopReason stop;
    int        n_tokens;
    double     minutes;                            /* length of the future */
    double     risk[SAMPLE_OUTCOMES_MAX];          /* of this one future */
    double     hit_minutes[SAMPLE_OUTCOMES_MAX];   /* first hit after the index; NaN = none */
    double     weighted_minutes[SAMPLE_OUTCOMES_MAX]; /* sum of weight x time of the outcome */
    double     competing[SAMPLE_OUTCOMES_MAX];     /* weight of a death without the outcome, within its horizon */
    int        decided[SAMPLE_OUTCOMES_MAX];       /* tokens drawn until the outcome was decided */
    float     *curve;                              /* (n_outcomes, n_curve, 2) risk and competing so far, when n_curve */
    int32_t   *tokens;                             /* (n_tokens) when keep_paths */
    double    *token_minutes;                      /* (n_tokens) after the index */
    int        n_alike;                            /* when followed: of its tokens and last, those drawn here too */
    int32_t    last;                               /* the gap that crossed the horizon, no part of tokens; -1: none did */
    double     log_q;                              /* when weigh_paths: log probability of tokens and last; under reach of
                                                    * the law without the outcome, for a job that watches one */
};

typedef struct {
    int64_t jobs, samples, tokens; /* generated */
    int64_t prefill_tokens, shared_tokens, refills, limit_stops;
    int     batch, short_of_memory; /* live futures at most; 1: as many as memory had room for */
    int64_t steps, decoded; /* steps, and futures advanced in them */
    int64_t replayed;       /* steps that a GPU launched as a whole */
    int64_t waiting;        /* of jobs at work now: futures that have not begun */
    double  seconds;
} RolloutStats;

/* get_job fills job i; job_done receives its n finished samples (valid during the call) in order of completion of jobs.
 * enough (NULL: never) looks at the first n samples of a job: non-zero ends its sampling. */
typedef struct {
    Status (*get_job)(void *ctx, int64_t i, RolloutJob *out, Err *err);
    Status (*job_done)(void *ctx, int64_t i, const RolloutJob *job, const RolloutSample *samples, int n, Err *err);
    int (*enough)(void *ctx, int64_t i, const RolloutSample *samples, int n);
    int (*stop)(void *ctx); /* asked before every step: non-zero ends the run, unfinished jobs are dropped; NULL = never */
    /* Of runs that jobs join: whether job i is there, asked whenever a future has room to begin.  idle: nothing is being
     * decoded, so it may wait for one; 0 then ends the run. */
    int (*more)(void *ctx, int64_t i, int idle);
    /* Asked of every job at work before every step: 0 drops it, and there will be no job_done.  NULL = all are wanted. */
    int (*wanted)(void *ctx, int64_t i, const RolloutJob *job);
    /* Each token as it is drawn, the n-th of its sample, `minutes` after the index; NULL = nobody listens.  logprob: of
     * all tokens at temperature 1, whatever could be drawn; NaN unless the job asks with tell_logprobs. */
    void (*drawn)(void *ctx, int64_t i, const RolloutJob *job, int sample, int n, int32_t token, double minutes,
                  double logprob);
    void *ctx;
} RolloutCallbacks;

/* n_jobs < 0: jobs join (cb->more). */
Status rollout_run(const Law *law, const Vocabulary *v, const RolloutOptions *o, int64_t n_jobs, const RolloutCallbacks *cb,
                   RolloutStats *stats, Err *err);

/* A sample of its own, path included; free both arrays with rollout_path_free. */
RolloutSample rollout_path_copy(const RolloutSample *s);
void rollout_path_free(RolloutSample *s);

/* First token index with minutes > index: what is known at the index. */
int64_t rollout_known(const PatientView *p, int32_t index_minutes);

#endif
