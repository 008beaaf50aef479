/* serve.h - a checkpoint behind HTTP.  Requests are read and checked by one thread (http.h), wait in a bounded queue
 * and are computed by another, which puts all that fit one run of the rollout engine into it; a third watches
 * deadlines, the kill switch and signals. */
#ifndef EHR_INFER_SERVE_H
#define EHR_INFER_SERVE_H
#include "infer/audit.h"
#include "infer/http.h"
#include "infer/release.h"
#include "infer/serve_ask.h"
#include "infer/serve_keys.h"
#include "infer/serve_metrics.h"
#include "infer/session.h"
#include <pthread.h>

typedef enum {
    END_COMPLETIONS,
    END_RISK,
    END_SCORE,
    END_EMBEDDINGS, /* as AskKind */
    END_METRICS,
    END_MODELS,
    END_INFO,
    END_VOCABULARY,
    END_PAGE, /* from here on without a key */
    END_HEALTH,
    END_READY,
    END_OTHER,
    ENDS
} End;
extern const char *const serve_ends[ENDS + 1]; /* names in metrics; the first five are scopes */
extern const char *const serve_scopes[];       /* NULL-ended */

typedef struct {
    AskLimits limits;
    int queue_max, batch, futures_max; /* requests waiting; live futures; futures of one run, about */
    int64_t min_tokens; /* of a record, below which a risk comes with a reason not to rely on it (history.h) */
    double max_unknown; /* share of its events, above which likewise */
    double deadline_s, drain_s;
    const char *keys, *kill_file, *revoked; /* paths; NULL: none */
} ServeOptions;

/* A request between its arrival and its answer. */
typedef struct Job {
    struct Job *next;
    HttpExchange *x;  /* NULL: answered */
    const char *body; /* of x */
    size_t size;
    char who[KEY_NAME_MAX], from[48];
    Ask ask;
    double arrived;
    /* Of the run: */
    int n_left;                     /* engine jobs to come */
    json_t *part[ASK_OUTCOMES_MAX]; /* results by outcome; choices in part[0] */
    int64_t n_drawn;                /* tokens of the choices */
} Job;

typedef struct {
    Session *session; /* dataset.vocabulary is the checkpoint's */
    ServeOptions o;
    Audit *audit; /* NULL: none is kept */
    Http *http;
    ServeMetrics metrics;
    char *model_name, *card, *vocabulary, *page_policy; /* "ehr"; of /info; vocabulary.json; of the page at / */
    const char *stage;
    double started;
    pthread_mutex_t lock; /* of all below */
    pthread_cond_t wake;
    ServeKeys keys;
    int64_t keys_stamp, revoked_stamp;
    Job *queue, *running; /* first come first; those of the present run */
    int n_waiting, n_running;
    int killed, draining, failed, closing;
    double drain_since, mean_run_s;
} Server;

/* Fills what does not depend on options' files; s stays the caller's. */
Status serve_open(Server *sv, Session *s, const ServeOptions *o, const char *stage, Err *err);
void serve_close(Server *sv);
/* Of HttpOptions. */
int serve_head(void *ctx, HttpExchange *x, HttpRequest *r);
void serve_handle(void *ctx, HttpExchange *x, HttpRequest *r);
void serve_done(void *ctx, HttpRequest *r);
/* Deadlines, kill switch, changed files; a few times a second. */
void serve_tick(Server *sv);
void serve_drain(Server *sv); /* no new requests; serve_run ends with the last one */
/* Computes until drained; returns an error that nothing more can be computed after. */
Status serve_run(Server *sv, Err *err);

/* Answers job once, by whoever comes first; body is taken over. */
void serve_answer(Server *sv, Job *job, int status, char *body);
char *serve_error(int status, const char *message);
void serve_job_free(Job *job);

/* Private to serve_*.c: one run of jobs that go together, and whether b goes with a. */
int serve_goes_with(const Job *a, const Job *b);
Status serve_compute(Server *sv, Job *jobs, Err *err);
json_t *serve_number(double x); /* null when not finite */

/* Embeddings of all jobs, in passes that they share. */
Status serve_embeddings(Server *sv, Job *jobs, Err *err);
/* Adds "explanation" to the results of a risk: what leaving out each of its newest events changes. */
Status serve_explain(Server *sv, Job *job, const RolloutOptions *o, Err *err);

/* -log p of every token of r under the model, in nats, cut into windows as `ehr-infer score` does; loss (r->view.n). */
Status serve_losses(Session *s, const ServeRecord *r, const uint32_t *tokens, const int32_t *minutes, int64_t n,
                    float *loss, Err *err);

#endif
