/* serve.c - see serve.h: who may ask, the queue, answers, the watch. */
#include "infer/serve.h"
#include "infer/serve_page.h"
#include "model/checkpoint.h"
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

const char *const serve_ends[ENDS + 1] = {"completions", "risk", "score",  "embeddings", "metrics", "models", "info",
                                          "vocabulary",  "page", "health", "ready",      "other",   NULL};
const char *const serve_scopes[] = {"completions", "risk", "score", "embeddings", "metrics", NULL};

static const struct {
    const char *method, *path;
    End end;
} ROUTES[] = {{"POST", "/v1/completions", END_COMPLETIONS},
              {"POST", "/v1/risk", END_RISK},
              {"POST", "/v1/score", END_SCORE},
              {"POST", "/v1/embeddings", END_EMBEDDINGS},
              {"GET", "/metrics", END_METRICS},
              {"GET", "/v1/models", END_MODELS},
              {"GET", "/info", END_INFO},
              {"GET", "/v1/vocabulary", END_VOCABULARY},
              {"GET", "/", END_PAGE},
              {"GET", "/health", END_HEALTH},
              {"GET", "/ready", END_READY}};

/* What is known of an exchange from its headers on. */
typedef struct {
    End end;
    char who[KEY_NAME_MAX];
    double since;
} Seen;

/* ---- answers ----------------------------------------------------------------------------------------------------- */

static void answer_text(HttpExchange *x, int status, const char *type, char *body, int retry_s) {
    http_answer(x, status, type, body, strlen(body), retry_s);
}

/* Of an exchange that never became a job. */
static void refuse(Server *sv, HttpExchange *x, const HttpRequest *r, const Seen *seen, int status, int retry_s,
                   const char *message) {
    char *body = serve_error(status, message);
    serve_metrics_answer(&sv->metrics, seen->end, status, clock_s() - seen->since);
    serve_audit(sv, seen->end, seen->who, r->from, status, r->size ? r->body : NULL, r->size);
    answer_text(x, status, "application/json", body, retry_s);
}

/* Jobs in the queue before one that arrives now, in seconds. */
static int retry_after(const Server *sv) {
    const double s = sv->mean_run_s * (1 + sv->n_waiting / 8.0);
    return s < 1 ? 1 : s > 60 ? 60 : (int)s + 1;
}

/* ---- who may ask ------------------------------------------------------------------------------------------------- */

/* 0, or the status to refuse with. */
static int check_key(Server *sv, const HttpRequest *r, Seen *seen, int *wait_s) {
    int status = 0;
    *wait_s = 0;
    pthread_mutex_lock(&sv->lock);
    if (sv->o.keys) {
        ServeKey *key = serve_keys_find(&sv->keys, r->authorization);
        if (key) snprintf(seen->who, sizeof seen->who, "%s", key->name);
        if (!key) status = 401;
        else if (seen->end <= END_METRICS && !(key->scopes >> seen->end & 1)) status = 403;
        else if (seen->end < END_METRICS && !serve_key_spend(key, 1, clock_s(), wait_s)) status = 429;
    } else {
        snprintf(seen->who, sizeof seen->who, "local");
    }
    pthread_mutex_unlock(&sv->lock);
    return status;
}

int serve_head(void *ctx, HttpExchange *x, HttpRequest *r) {
    Server *sv = ctx;
    Seen *seen = xcalloc(1, sizeof *seen);
    int known = 0, wait_s;
    r->user = seen;
    *seen = (Seen){.end = END_OTHER, .who = "-", .since = clock_s()};
    for (size_t i = 0; i < sizeof ROUTES / sizeof *ROUTES; i++) {
        if (strcmp(ROUTES[i].path, r->path)) continue;
        known = 1;
        if (!strcmp(ROUTES[i].method, r->method)) seen->end = ROUTES[i].end;
    }
    if (seen->end == END_OTHER) {
        refuse(sv, x, r, seen, known ? 405 : 404, 0,
               known ? "this path takes another method" : "there is nothing at this path");
        return 1;
    }
    if (seen->end >= END_PAGE) return 0;
    const int status = check_key(sv, r, seen, &wait_s);
    if (status == 401)
        refuse(sv, x, r, seen, 401, 0, "needs the header Authorization: Bearer KEY, with a key of this server");
    if (status == 403) refuse(sv, x, r, seen, 403, 0, "this key has no right to ask that");
    if (status == 429) {
        serve_metrics_refused(&sv->metrics, 0, 1, 0);
        refuse(sv, x, r, seen, 429, wait_s, "this key has used up its requests of the minute");
    }
    return status != 0;
}

/* A batch is as many requests as it has records; the first was spent when its headers came.  0: beyond the quota, or
 * with *never = 1 beyond any minute's. */
static int batch_spend(Server *sv, const HttpRequest *r, int n, int *wait_s, int *never) {
    int good = 1;
    *never = 0;
    if (n < 2 || !sv->o.keys) return 1;
    pthread_mutex_lock(&sv->lock);
    ServeKey *key = serve_keys_find(&sv->keys, r->authorization);
    if (key) good = serve_key_spend(key, n - 1, clock_s(), wait_s);
    if (key && !good) *never = n > key->per_minute;
    pthread_mutex_unlock(&sv->lock);
    return good;
}

/* NULL, or why a request cannot be taken under the name it has; then *status is set. */
static const char *name_take(Server *sv, const HttpRequest *r, const Seen *seen, int *status) {
    const char *name = r->idempotency_key;
    *status = 400;
    if (!name && sv->o.once) return "needs the header Idempotency-Key: a name that no other request has";
    if (name && (!*name || strlen(name) > ONCE_NAME_MAX)) return "the header Idempotency-Key takes 1 to 255 characters";
    *status = name && !serve_once_take(&sv->once, seen->who, name) ? 409 : 0;
    return *status ? "a request of this Idempotency-Key was taken before: each is answered once" : NULL;
}

static void queue_remove(Server *sv, Job *job) {
    *job->link = job->next;
    if (job->next) job->next->link = job->link;
    job->next = NULL;
    sv->n_waiting--;
}

/* What waits is taken out of the queue; what is computed leaves when the engine asks who waits for it. */
void serve_gone(void *ctx, uint64_t id) {
    Server *sv = ctx;
    pthread_mutex_lock(&sv->lock);
    Job *queued = sv->queue, *running = sv->running;
    while (queued && queued->id != id) queued = queued->next;
    while (running && running->id != id) running = running->next;
    Job *job = queued ? queued : running;
    if (queued) queue_remove(sv, job);
    if (job) serve_answer_held(sv, job, 499, serve_error(499, "the client has gone"));
    pthread_mutex_unlock(&sv->lock);
    if (queued) engine_job_free(job);
}

/* By the library that reads HTTP, or by its limits. */
void serve_refused(void *ctx, const HttpRequest *r, int status) {
    Server *sv = ctx;
    const Seen *seen = r->user;
    const End end = seen ? seen->end : END_OTHER;
    serve_metrics_answer(&sv->metrics, (int)end, status, 0);
    serve_audit(sv, end, seen ? seen->who : "-", r->from, status, NULL, 0);
}

void serve_done(void *ctx, HttpRequest *r) {
    (void)ctx;
    free(r->user);
    r->user = NULL;
}

/* ---- GET --------------------------------------------------------------------------------------------------------- */

static char *models_text(const Server *sv) {
    json_t *o =
        json_pack("{s:s, s:[{s:s, s:s, s:s, s:s, s:s}]}", "object", "list", "data", "id", sv->model_name, "object",
                  "model", "owned_by", "ehr.c", "sha256", sv->session->model_sha256, "stage", sv->stage);
    char *text = json_dumps(o, JSON_COMPACT);
    json_decref(o);
    return text;
}

static void more_metrics(void *ctx, FILE *f) {
    if (ctx) second_metrics(ctx, f);
}

static void answer_get(Server *sv, HttpExchange *x, const Seen *seen) {
    const char *type = "application/json";
    char *body = NULL;
    size_t size = 0;
    int status = 200;
    pthread_mutex_lock(&sv->lock);
    const ServeGauges g = {serve_ends,      sv->session->model_sha256,
                           sv->stage,       !sv->killed && !sv->draining && !sv->failed,
                           sv->killed,      sv->draining,
                           sv->n_waiting,   sv->n_running,
                           sv->o.queue_max, clock_s() - sv->started,
                           more_metrics,    sv->second};
    pthread_mutex_unlock(&sv->lock);
    switch (seen->end) {
    case END_METRICS:
        type = "text/plain; version=0.0.4";
        body = serve_metrics_text(&sv->metrics, &g, &size);
        break;
    case END_MODELS: body = models_text(sv); break;
    case END_INFO: body = xstrdup(sv->card); break;
    case END_VOCABULARY: body = xstrdup(sv->vocabulary); break;
    case END_PAGE:
        type = "text/html; charset=utf-8";
        body = serve_page_text(&size);
        break;
    case END_READY:
        status = g.ready ? 200 : 503;
        body = xasprintf("{\"status\":\"%s\"}", g.ready      ? "ready"
                                                : g.killed   ? "killed"
                                                : g.draining ? "draining"
                                                             : "failed");
        break;
    default: body = xstrdup("{\"status\":\"ok\"}"); break;
    }
    serve_metrics_answer(&sv->metrics, seen->end, status, clock_s() - seen->since);
    answer_text(x, status, type, body, 0);
}

/* ---- POST -------------------------------------------------------------------------------------------------------- */

static void queue_add(Server *sv, Job *job) {
    Job **at = &sv->queue;
    while (*at) at = &(*at)->next;
    *at = job;
    job->link = at;
    sv->n_waiting++;
    pthread_cond_signal(&sv->wake);
}

void serve_handle(void *ctx, HttpExchange *x, HttpRequest *r) {
    Server *sv = ctx;
    Seen *seen = r->user;
    Err err;
    if (seen->end >= END_METRICS) {
        answer_get(sv, x, seen);
        return;
    }
    Job *job = xcalloc(1, sizeof *job);
    seen->since = clock_s();
    *job = (Job){.x = x, .id = r->id, .body = r->body, .size = r->size, .arrived = seen->since};
    memcpy(job->who, seen->who, sizeof job->who);
    snprintf(job->from, sizeof job->from, "%s", r->from);
    /* Refuse before the work of reading. */
    pthread_mutex_lock(&sv->lock);
    int full = sv->n_waiting >= sv->o.queue_max, shut = sv->killed || sv->draining || sv->failed,
        retry = retry_after(sv);
    const char *why = sv->killed ? "the kill switch is on" : "the server is ending";
    pthread_mutex_unlock(&sv->lock);
    int status = shut ? 503 : full ? 429 : 0;
    if (!status && ask_parse(&job->ask, (AskKind)seen->end, r->body, r->size, &sv->session->dataset.vocabulary,
                             &sv->o.limits, &err)) {
        why = err.msg;
        status = 400;
    }
    if (full && !shut) why = "too many requests are waiting: ask again later";
    int wait_s, never;
    if (!status && !batch_spend(sv, r, job->ask.n_records, &wait_s, &never)) {
        serve_metrics_refused(&sv->metrics, 0, 1, 0);
        refuse(sv, x, r, seen, never ? 400 : 429, never ? 0 : wait_s,
               never ? "the batch has more records than this key may ask in a minute: send it in parts"
                     : "this key has used up its requests of the minute; a batch counts as its records");
        engine_job_free(job);
        return;
    }
    const char *again = status ? NULL : name_take(sv, r, seen, &status);
    if (again) why = again;
    if (!status) {
        for (int i = 0; i < job->ask.n_records; i++)
            serve_metrics_record(&sv->metrics, job->ask.record[i].n_events, job->ask.record[i].n_unknown);
        pthread_mutex_lock(&sv->lock);
        shut = sv->closing;
        if (!shut) queue_add(sv, job);
        pthread_mutex_unlock(&sv->lock);
        if (!shut) return;
        status = 503;
    }
    serve_metrics_refused(&sv->metrics, status == 429, 0, 0);
    refuse(sv, x, r, seen, status, status >= 429 ? retry : 0, why);
    engine_job_free(job);
}

/* ---- the watch --------------------------------------------------------------------------------------------------- */

static int64_t stamp_of(const char *path) {
    struct stat info;
    return stat(path, &info) ? 0 : (int64_t)info.st_mtim.tv_sec * 1000000000 + info.st_mtim.tv_nsec;
}

/* Keys that were added or taken away count at once. */
static void keys_refresh(Server *sv) {
    const int64_t stamp = sv->o.keys ? stamp_of(sv->o.keys) : 0;
    Err err;
    if (stamp == sv->keys_stamp) return;
    sv->keys_stamp = stamp;
    ServeKeys *now = xcalloc(1, sizeof *now);
    if (serve_keys_read(now, sv->o.keys, serve_scopes, &err))
        fprintf(stderr, "ehr-infer serve: %s; the keys stay as they were\n", err.msg);
    else {
        pthread_mutex_lock(&sv->lock);
        for (int i = 0; i < now->n; i++)
            for (int k = 0; k < sv->keys.n; k++)
                if (!strcmp(now->key[i].name, sv->keys.key[k].name)) {
                    now->key[i].tokens = sv->keys.key[k].tokens;
                    now->key[i].since = sv->keys.key[k].since;
                }
        sv->keys = *now;
        pthread_mutex_unlock(&sv->lock);
    }
    free(now);
}

/* Reads the list of revoked models again when it has changed.  One that cannot be read is told, and read again when it
 * changes. */
static Status revoked_refresh(Server *sv, Err *err) {
    const int64_t stamp = sv->o.revoked ? stamp_of(sv->o.revoked) : 0;
    char *text;
    if (!sv->o.revoked || (stamp && stamp == sv->revoked_stamp)) return OK;
    if (!stamp && sv->revoked_stamp < 0) return OK; /* told already */
    sv->revoked_stamp = stamp ? stamp : -1;
    Status s = file_read(sv->o.revoked, 64 << 20, &text, NULL, err);
    if (s) return s;
    if (sv->second && strstr(text, second_sha256(sv->second))) second_stop(sv->second);
    sv->revoked |= strstr(text, sv->session->model_sha256) != NULL;
    free(text);
    return OK;
}

/* Answers what must be answered now without a result. */
static void answer_overdue(Server *sv) {
    const double now = clock_s();
    pthread_mutex_lock(&sv->lock);
    const int all = sv->killed || (sv->draining && now - sv->drain_since > sv->o.drain_s);
    for (int waiting = 1; waiting >= 0; waiting--)
        for (Job *j = waiting ? sv->queue : sv->running, *next; j; j = next) {
            const int late = now - j->arrived > sv->o.deadline_s && !sv->killed;
            next = j->next;
            if ((!all && !late) || (!j->x && !j->stream)) continue;
            const char *why = late         ? "not done before the deadline"
                              : sv->killed ? "the kill switch is on"
                                           : "the server is ending";
            serve_metrics_refused(&sv->metrics, 0, 0, late);
            serve_answer_held(sv, j, late ? 504 : 503, serve_error(late ? 504 : 503, why));
            if (!waiting) continue; /* it leaves when the engine asks who waits for it */
            queue_remove(sv, j);
            engine_job_free(j);
        }
    pthread_mutex_unlock(&sv->lock);
}

void serve_tick(Server *sv) {
    const int before = sv->revoked;
    Err err;
    keys_refresh(sv);
    if (revoked_refresh(sv, &err)) fprintf(stderr, "ehr-infer serve: --revoked: %s\n", err.msg);
    if (sv->revoked != before)
        fprintf(stderr, "ehr-infer serve: the model was revoked (%s): nothing more is answered\n", sv->o.revoked);
    const int killed = sv->revoked || (sv->o.kill_file && path_exists(sv->o.kill_file));
    pthread_mutex_lock(&sv->lock);
    if (killed != sv->killed)
        fprintf(stderr, "ehr-infer serve: the kill switch is %s\n", killed ? "on: nothing is answered" : "off");
    sv->killed = killed;
    pthread_mutex_unlock(&sv->lock);
    answer_overdue(sv);
    http_tick(sv->http);
}

void serve_drain(Server *sv) {
    pthread_mutex_lock(&sv->lock);
    if (!sv->draining) sv->drain_since = clock_s();
    sv->draining = 1;
    pthread_cond_signal(&sv->wake);
    pthread_mutex_unlock(&sv->lock);
}

/* ---- opening ----------------------------------------------------------------------------------------------------- */

static char *card_make(const Server *sv) {
    const Session *s = sv->session;
    const ModelConfig *c = &s->model.cfg;
    char *text = NULL;
    size_t size;
    Err ignored;
    json_t *trainer = checkpoint_read_text(s->checkpoint, "trainer.json", &text, &size, &ignored)
                          ? NULL
                          : json_loadb(text, size, 0, NULL);
    free(text);
    const json_t *provenance = json_object_get(trainer, "provenance");
    json_t *o = json_pack(
        "{s:{s:s, s:s, s:s, s:s, s:i, s:i, s:i, s:I, s:s, s:b}, s:{s:i, s:i, s:f, s:i, s:f}, s:o, s:O?, s:s}", "model", "id",
        sv->model_name, "sha256", s->model_sha256, "stage", sv->stage, "architecture", "Qwen3", "layers", c->n_layers,
        "d_model", c->d_model, "seq_len", c->seq_len, "parameters", (json_int_t)s->model.table.n_params,
        "vocabulary_sha256", s->dataset.vocabulary.sha256, "checked", s->checked, "limits", "samples",
        sv->o.limits.samples_max, "max_tokens", sv->o.limits.max_tokens, "horizon_days",
        sv->o.limits.horizon_max / 1440, "queue", sv->o.queue_max, "deadline_seconds", sv->o.deadline_s, "recalibration",
        maps_json(&sv->maps), "provenance", provenance, "notice",
        "Research use; not a medical device.  Risks are a model's, mc_se and interval tell sampling of futures only.");
    REQUIRE(o);
    char *card = json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(9));
    json_decref(o);
    json_decref(trainer);
    return card;
}

Status serve_maps_open(Server *sv, const char *path, Err *err) {
    Status st = maps_read(&sv->maps, path, sv->session->model_sha256, err);
    free(sv->card);
    sv->card = card_make(sv);
    return st;
}

Status serve_open(Server *sv, Session *s, const ServeOptions *o, const char *stage, Err *err) {
    *sv = (Server){.session = s, .o = *o, .stage = stage, .started = clock_s(), .mean_run_s = 0.5};
    pthread_mutex_init(&sv->lock, NULL);
    pthread_cond_init(&sv->wake, NULL);
    serve_metrics_init(&sv->metrics);
    sv->model_name = xasprintf("ehr-%.12s", s->model_sha256);
    sv->card = card_make(sv);
    sv->keys_stamp = o->keys ? stamp_of(o->keys) : 0;
    sv->killed = o->kill_file && path_exists(o->kill_file);
    sv->page_policy = serve_page_policy();
    size_t size;
    Status st = checkpoint_read_text(s->checkpoint, "vocabulary.json", &sv->vocabulary, &size, err);
    if (!st && o->keys) st = serve_keys_read(&sv->keys, o->keys, serve_scopes, err);
    if (!st) st = revoked_refresh(sv, err);
    sv->revoked_stamp = 0; /* the watch reads it again, for a second checkpoint */
    if (!st && sv->revoked)
        st = err_set(err, ERR_FORMAT, "%s was revoked, %s lists its weights: it is not served", s->checkpoint, o->revoked);
    return st;
}

void serve_close(Server *sv) {
    serve_once_close(&sv->once);
    maps_free(&sv->maps);
    free(sv->model_name);
    free(sv->card);
    free(sv->vocabulary);
    free(sv->page_policy);
    pthread_mutex_destroy(&sv->lock);
    pthread_cond_destroy(&sv->wake);
    pthread_mutex_destroy(&sv->metrics.lock);
}
