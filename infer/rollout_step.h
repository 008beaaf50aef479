/* rollout_step.h - private to rollout.c and rollout_step.c: the state of a running rollout, and the part of it that
 * touches the device. */
#ifndef EHR_INFER_ROLLOUT_STEP_H
#define EHR_INFER_ROLLOUT_STEP_H
#include "infer/rollout.h"

typedef struct {
    int           used;
    int64_t       id;
    RolloutJob    job;
    int           n_started, n_done;
    RolloutSample *sample;  /* (n_samples) */
    int32_t      *history, *history_minutes; /* (n_history) known tokens and certain =6mt */
    int           n_history, capacity;
    double        elapsed;  /* minutes of the unfinished gap at the index; 0 = none worth a token */
    int           n_window; /* tokens prefilled, prefix included */
    KvSequence    kv;
    float        *logits;   /* (Vp) after the last prefilled token; host memory */
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
    double     survive[SAMPLE_OUTCOMES_MAX], sum[SAMPLE_OUTCOMES_MAX], hit_minutes[SAMPLE_OUTCOMES_MAX];
    KvSequence kv;
} Future;

typedef struct {
    const Law              *law;
    const Vocabulary       *v;
    const RolloutOptions   *o;
    const RolloutCallbacks *cb;
    RolloutStats           *stats;
    int64_t                 n_total, next_job;
    int                     max_jobs, n_jobs, current_job, n_live;
    ActiveJob              *job;    /* (max_jobs) */
    Future                 *future; /* (batch) */
    KvCache                 cache;
    Acts                   *acts;
    int                     Vp, max_blocks, max_rows;
    /* device, with host twins that are filled first */
    int32_t  *d_tokens, *d_positions, *d_q_offset, *d_kv_len, *d_blocks, *d_group_offset, *d_group_shared, *d_rows, *d_drawn;
    int64_t  *d_slot;
    double   *d_uniform;
    uint32_t *d_suppress, *d_outcome_bits;
    uint8_t  *d_forbidden, *d_forbidden_first;
    float    *d_logits, *d_p;
    int32_t  *tokens, *positions, *q_offset, *kv_len, *blocks, *group_offset, *group_shared, *rows, *drawn;
    int64_t  *slot;
    double   *uniform;
    uint32_t *suppress;
    uint8_t  *forbidden, *forbidden_first;
    float    *p;
    int      *order; /* (batch) live futures, those of one job together */
} Rollout;

Status rollout_open(Rollout *r, Err *err);
void   rollout_close(Rollout *r);
/* Fills j->kv, j->n_window and j->logits from the job's history. */
Status rollout_prefill_job(Rollout *r, ActiveJob *j, Err *err);
/* Forks the job's cache into f and draws f's first token. */
Status rollout_first_token(Rollout *r, ActiveJob *j, Future *f, Err *err);
/* One token for every live future. */
Status rollout_step(Rollout *r, Err *err);

double future_uniform(const Rollout *r, const Future *f);
Status future_advance(Rollout *r, Future *f, int32_t token, const float *p_outcome, Err *err);

#endif
