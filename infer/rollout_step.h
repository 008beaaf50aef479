/* rollout_step.h - private to rollout.c and rollout_step.c: the state of a running rollout, and the part of it that
 * touches the device. */
#ifndef EHR_INFER_ROLLOUT_STEP_H
#define EHR_INFER_ROLLOUT_STEP_H
#include "infer/decode_pass.h"
#include "infer/rollout.h"

typedef struct {
    int           used;
    int64_t       id;
    RolloutJob    job;
    const RolloutOptions *o;  /* its own, or the run's */
    uint32_t     *d_outcome_bits; /* (V) device: of o */
    uint32_t     *d_own_bits;     /* (V) device: room for them, in a run that jobs join */
    int           n_wanted, n_started, n_done; /* samples: until the next look, begun, finished */
    RolloutSample *sample;  /* (n_wanted) */
    int32_t      *history, *history_minutes; /* (n_history) known tokens and certain =6mt */
    int64_t      *history_origin; /* (n_history) index in the record, -1: not in it */
    int           n_history, capacity;
    double        elapsed;  /* minutes of the unfinished gap at the index; 0 = none worth a token */
    int           n_window; /* tokens prefilled, prefix included */
    int           last_kind[SAMPLE_OUTCOMES_MAX]; /* of outcomes with stops: the last EventKind of their tokens, -1 = none */
    KvSequence    kv;
    float        *logits;   /* (Vp) after the last prefilled token; device memory, host memory without a model */
} ActiveJob;

typedef struct {
    int        live, job, sample;
    int        refilled; /* its cache no longer begins with the job's pages */
    int        n, capacity;
    int32_t   *token;    /* (n) drawn so far; the last one is pending until decoded */
    double    *minutes;  /* (n) after the index */
    int32_t    pending;
    int        length;   /* tokens in its cache, prefix included */
    double     now;      /* minutes after the index */
    uint32_t   open;     /* bit o: outcome o is not decided yet */
    uint32_t   ending;   /* bit o: of these, a stop has come, and its minute is not over */
    int        kind;     /* EventKind of the newest event of this minute, -1 = none */
    double     survive[SAMPLE_OUTCOMES_MAX]; /* prod(1 - p) so far */
    double     early[SAMPLE_OUTCOMES_MAX];   /* the same, until outcomes count */
    int        point[SAMPLE_OUTCOMES_MAX];   /* next point of its curve */
    RolloutSample s;     /* what it will be; tokens and token_minutes stay empty until it ends */
    KvSequence kv;
} Future;

typedef struct {
    const Law              *law;
    const Vocabulary       *v;
    const RolloutOptions   *o; /* of jobs that have none of their own */
    const RolloutCallbacks *cb;
    RolloutStats           *stats;
    int64_t                 n_total, next_job; /* n_total < 0: jobs join */
    int                     batch, short_of_memory; /* live futures at most; 1: memory made them fewer than asked */
    int                     max_jobs, n_jobs, n_live;
    ActiveJob              *job;    /* (max_jobs) */
    Future                 *future; /* (batch) */
    KvCache                 cache;
    /* What the last prefilled job begins with, on full pages: the next one may begin alike. */
    int32_t   *root_token; /* (seq_len) */
    KvSequence root;
    Acts                   *acts;
    int                     Vp, max_blocks, max_rows;
    DecodePass              pass;
    /* What a step writes comes back as one. */
    char     *output, *d_output; /* drawn ids, their log probabilities when asked for, then outcome probabilities */
    int32_t  *drawn, *d_drawn;   /* (batch) */
    float    *logp, *d_logp;     /* (batch) NULL unless weigh_paths */
    float    *p, *d_p;           /* (rows, n_outcomes of their jobs) */
    float   **p_row;             /* (batch) where a row's begin, in p */
    float    *d_logits;          /* (batch, Vp) */
    float    *logits;            /* (batch, Vp) on the host, once futures are followed or told */
    /* Of the vocabulary. */
    uint32_t *d_outcome_bits; /* of o */
    uint8_t  *forbidden, *d_forbidden, *forbidden_first, *d_forbidden_first;
    int32_t  *window; /* (seq_len) tokens to prefill */
    DecodeRow *row;   /* (batch) of a step */
    int32_t  *group_offset, *group_shared; /* (batch + 1), (batch) */
    int      *order; /* (batch) live futures, those of one job together */
} Rollout;

/* rollout_window.c: fills j's history from its job; a window of the newest `keep` tokens of history and future f (may be
 * NULL), prefix included, to out; how many known tokens a job's window keeps at most. */
void job_history(ActiveJob *j, const Vocabulary *v);
int  build_window(const Vocabulary *v, const ActiveJob *j, const Future *f, int keep, int32_t *out);
int  window_keep(const Vocabulary *v, const RolloutOptions *o, int seq_len);

Status rollout_open(Rollout *r, Err *err);
void   rollout_close(Rollout *r);
/* Fills j->kv, j->n_window and j->logits from the job's history. */
Status rollout_prefill_job(Rollout *r, ActiveJob *j, Err *err);
/* The device's copy of the outcomes that j watches. */
void   rollout_job_outcomes(Rollout *r, ActiveJob *j);
/* Forks the job's cache into f and draws f's first token. */
Status rollout_first_token(Rollout *r, ActiveJob *j, Future *f, Err *err);
/* One token for every live future. */
Status rollout_step(Rollout *r, Err *err);

void   job_samples_free(ActiveJob *j);
double future_uniform(const Rollout *r, const Future *f);
/* Whether it is too early for outcome k of a future. */
int    future_early(const Rollout *r, const Future *f, int k);
/* Takes what was drawn, or what the followed future has there, with the outcome probabilities of its step.  logp: log
 * probability of `drawn`; logits (V) of the step on the host, NULL unless a future is followed or told. */
Status future_advance(Rollout *r, Future *f, int32_t drawn, float logp, const float *logits, const float *p_outcome, Err *err);

#endif
