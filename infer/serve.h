/* serve.h - a checkpoint behind HTTP.  Requests are read and checked by one thread (http.h) and wait in a bounded queue;
 * another computes, and lets them join the rollouts that are being decoded (serve_engine.h); a third writes the audit log
 * and then answers; a fourth watches deadlines, the kill switch and signals. */
#ifndef EHR_INFER_SERVE_H
#define EHR_INFER_SERVE_H
#include "infer/audit.h"
#include "infer/http.h"
#include "infer/release.h"
#include "infer/rollout_window.h"
#include "infer/serve_engine.h"
#include "infer/serve_keys.h"
#include "infer/serve_maps.h"
#include "infer/serve_metrics.h"
#include "infer/serve_once.h"
#include "infer/serve_second.h"
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
    int queue_max, batch; /* requests waiting; live futures */
    int64_t min_tokens;   /* of a record, below which a risk comes with a reason not to rely on it (history.h) */
    double max_unknown;   /* share of its events, above which likewise */
    double deadline_s, drain_s;
    const char *keys, *kill_file, *revoked; /* paths; NULL: none */
    int once;             /* every request has to have a name (serve_once.h) */
} ServeOptions;

typedef struct Answer Answer; /* on its way: serve_answers.c */
typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    Answer *first, **end;
    int closing;
    pthread_t thread;
} Answers;

typedef struct {
    Session *session; /* dataset.vocabulary is the checkpoint's */
    ServeOptions o;
    Audit *audit; /* NULL: none is kept */
    RecalibrationMaps maps;
    Second *second; /* NULL: none */
    Http *http;
    ServeMetrics metrics;
    Answers answers;
    char *model_name, *card, *vocabulary, *page_policy; /* "ehr"; of /info; vocabulary.json; of the page at / */
    const char *stage;
    double started;
    Once once; /* of the thread that reads requests */
    pthread_mutex_t lock; /* of all below */
    pthread_cond_t wake;
    ServeKeys keys;
    int64_t keys_stamp, revoked_stamp;
    Job *queue, *running; /* first come first; those that are computed */
    int n_waiting, n_running;
    int killed, draining, failed, closing;
    int revoked; /* killed for good; of the watch */
    double drain_since, mean_run_s; /* mean: of a request, from the queue to its answer */
} Server;

/* Fills what does not depend on options' files; s stays the caller's. */
Status serve_open(Server *sv, Session *s, const ServeOptions *o, const char *stage, Err *err);
/* Takes the recalibration maps of a file; after serve_open, before requests come. */
Status serve_maps_open(Server *sv, const char *path, Err *err);
void serve_close(Server *sv);
/* Of HttpOptions. */
int serve_head(void *ctx, HttpExchange *x, HttpRequest *r);
void serve_handle(void *ctx, HttpExchange *x, HttpRequest *r);
void serve_gone(void *ctx, uint64_t id);
void serve_refused(void *ctx, const HttpRequest *r, int status);
void serve_done(void *ctx, HttpRequest *r);
/* Deadlines, kill switch, changed files; a few times a second. */
void serve_tick(Server *sv);
void serve_drain(Server *sv); /* no new requests; serve_run ends with the last one */
/* Computes until drained; returns an error that nothing more can be computed after. */
Status serve_run(Server *sv, Err *err);

/* ---- private to serve*.c ------------------------------------------------------------------------------------------ */

/* Answers job once, by whoever comes first; body is taken over.  Of a stream: what it ends with.  held: the caller has
 * sv->lock. */
void serve_answer(Server *sv, Job *job, int status, char *body);
void serve_answer_held(Server *sv, Job *job, int status, char *body);
int serve_is_awaited(Server *sv, const Job *job); /* nobody has answered it yet */
char *serve_error(int status, const char *message);
/* Writes the line of an answer that was given outside the answers' thread; 0: it could not be written. */
int serve_audit(Server *sv, End end, const char *who, const char *from, int status, const void *in, size_t in_size);
/* The answer in pieces of a job begins; text goes out with the next call of flush. */
void serve_stream_begin(Server *sv, Job *job);
void serve_stream_flush(Server *sv, Job *job);
/* The thread that answers: from open to close, which waits for the last answer. */
void serve_answers_open(Server *sv);
void serve_answers_close(Server *sv);

/* serve_tell.c: what is told.  A finished job is answered. */
void serve_tell(Server *sv, Job *job);
/* The finished samples of a record's completions. */
void serve_choices(Server *sv, Job *job, int record, const RolloutSample *samples, int n);
/* A token of a choice, as it is drawn. */
void serve_tell_token(Server *sv, Job *job, int choice, int n, int32_t token, double minutes, double logprob);
json_t *serve_number(double x); /* null when not finite */
json_t *serve_model_json(const Server *sv);

/* Of the last token known, or the mean over what is told of the record (over the prefix where nothing is); out (C). */
void serve_embedding(float *out, const float *hidden, const RolloutWindow *w, size_t C, int mean);
/* Computed between steps: embeddings of all jobs, in passes that they share; a score. */
Status serve_embeddings(Server *sv, Job **jobs, int n, Err *err);
Status serve_score(Server *sv, Job *job, Err *err);
/* -log p of every token of r under the model, in nats, cut into windows as `ehr-infer score` does; loss (r->view.n). */
Status serve_losses(Session *s, const ServeRecord *r, const uint32_t *tokens, const int32_t *minutes, int64_t n,
                    float *loss, Err *err);

#endif
