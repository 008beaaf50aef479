/* serve_engine.h - requests in the rollout engine: each joins the futures that are being decoded at the next step,
 * whatever they are, and gets the bits that it would get alone (rollout.h). */
#ifndef EHR_INFER_SERVE_ENGINE_H
#define EHR_INFER_SERVE_ENGINE_H
#include "infer/estimate.h"
#include "infer/explain.h"
#include "infer/http.h"
#include "infer/serve_ask.h"
#include "infer/serve_keys.h"
#include "infer/session.h"
#include <sodium.h>

typedef struct Job Job;

/* One job of the rollout engine for a request. */
typedef enum { TASK_ASKED, TASK_DRAW, TASK_FOLLOW } EngineTaskKind; /* the futures asked for; an explanation's */
typedef struct {
    Job *job;
    EngineTaskKind kind;
    int outcome; /* of reach and explanations: the one it watches; else -1: all of the request's */
    int64_t i;   /* of an explanation: its job (explain.h); else the record */
} EngineTask;

/* One choice of completions, while it is drawn. */
typedef struct {
    size_t text_n; /* bytes of its text so far */
    int n, room;
    float *logprob; /* (n) NULL unless they are told at the end */
} EngineChoice;

/* What the futures of an outcome came to. */
typedef struct {
    RiskEstimate risk, competing;
    double lead_days, mean_tokens;
    int64_t limited; /* futures that ended at max_tokens */
} EngineRisk;

/* A request between its arrival and its answer. */
struct Job {
    Job *next, **link;  /* of the server's list */
    HttpExchange *x;    /* NULL: answered, or being answered in pieces */
    HttpStream *stream; /* NULL: it is not, or the last piece has been told */
    uint64_t id;        /* of x */
    const char *body;   /* of x */
    size_t size;
    char who[KEY_NAME_MAX], from[48];
    Ask ask;
    double arrived, begun;
    int64_t passed; /* its futures, when it was let pass by others */
    /* Of the pieces: */
    char input_hash[65];
    crypto_hash_sha256_state told;
    char *piece; /* (piece_n) gathered since the last step */
    size_t piece_n, piece_room;
    /* Of the engine: */
    Job *engine_next, **engine_link;
    RolloutOptions o;
    uint32_t *mark, *stop; /* (V) */
    double horizon[ASK_OUTCOMES_MAX];
    EngineTask *task;
    int n_tasks, next_task, n_left, at_work;
    EngineRisk risk[ASK_OUTCOMES_MAX];
    json_t *choices;
    EngineChoice *choice; /* (n_choices: records x samples) of completions */
    int n_choices;
    int64_t n_drawn;     /* tokens of the choices */
    RolloutSample *kept; /* (n_kept) futures told, with their paths, for a second checkpoint */
    int n_kept;
    const RolloutSample **follow; /* (ask.samples) what the futures of a completion follow (RolloutJob); NULL: nothing */
    RolloutOptions o_draw, o_follow; /* of explanations */
    Explanation explanation[ASK_OUTCOMES_MAX];
    ExplainRun *run[ASK_OUTCOMES_MAX]; /* NULL: not begun, or over */
    int run_left[ASK_OUTCOMES_MAX];    /* of its jobs that are drawn, then of those that follow */
};

typedef enum { TAKE_SMALL, TAKE_ANY, TAKE_WAIT } EngineTake;
typedef struct Engine {
    Session *session;
    int batch; /* live futures at most */
    /* The next request: a small one that others may let pass, any, or NULL in *out when none is there; with TAKE_WAIT
     * when none will come. */
    Status (*take)(void *ctx, EngineTake how, Job **out, Err *err);
    int (*awaited)(void *ctx, const Job *job);
    /* job is done (or, failed, will never be; or nobody waits for it) and the callee's. */
    void (*done)(void *ctx, Job *job);
    void (*failed)(void *ctx, Job *job);
    /* Of completions: the n finished samples of a record; each token as it is drawn (NULL: nobody listens); before every
     * step. */
    Status (*choices)(void *ctx, Job *job, int record, const RolloutSample *samples, int n, Err *err);
    void (*drawn)(void *ctx, Job *job, int choice, int n, int32_t token, double minutes, double logprob);
    void (*step)(void *ctx, const RolloutStats *stats);
    void *ctx;
    /* Its own: */
    RolloutStats stats;
    Job *jobs, *next; /* at work; whose task comes next */
    Status status;
    Err *err;
} Engine;

/* Until take has nothing more; returns OK then, else the error, after which it may be run again. */
Status engine_run(Engine *e, Err *err);
int64_t engine_futures(const Job *job); /* that a request takes */
void engine_job_free(Job *job);

#endif
