/* serve.c - see serve.h: who may ask, the queue, answers, the watch. */
#include "infer/serve.h"
#include "infer/serve_page.h"
#include "model/checkpoint.h"
#include <math.h>
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

json_t *serve_number(double x) { return isfinite(x) ? json_real(x) : json_null(); }

char *serve_error(int status, const char *message) {
    const char *type = status == 401   ? "authentication"
                       : status == 403 ? "permission"
                       : status == 429 ? "rate_limit"
                       : status >= 500 ? "unavailable"
                                       : "invalid_request_error";
    /* What a client wrote may be quoted in the message, also cut in the middle of a character. */
    json_t *text = json_string(message);
    json_t *o = json_pack("{s:{s:i, s:s, s:o}}", "error", "code", status, "type", type, "message",
                          text ? text : json_string("the request holds text that is not UTF-8"));
    char *out = json_dumps(o, JSON_COMPACT);
    json_decref(o);
    return out;
}

/* Writes the line of the audit log; 0: it could not be written, and nothing may be told. */
static int audit(Server *sv, End end, const char *who, const char *from, int status, const char *in, size_t in_size,
                 const char *out, size_t out_size) {
    char action[32];
    Err err;
    if (!sv->audit) return 1;
    snprintf(action, sizeof action, "%s", serve_ends[end]);
    const AuditEntry e = {.who = who,
                          .from = from,
                          .action = action,
                          .model = sv->session->model_sha256,
                          .status = status,
                          .input = in,
                          .input_size = in_size,
                          .output = out,
                          .output_size = out_size};
    /* On the disk before a risk is told; refusals must not make an attacker's work ours. */
    if (!audit_write(sv->audit, &e, status == 200, &err)) return 1;
    fprintf(stderr, "ehr-infer serve: %s\n", err.msg);
    return 0;
}

static void answer_text(HttpExchange *x, int status, const char *type, char *body, int retry_s) {
    http_answer(x, status, type, body, strlen(body), retry_s);
}

/* Of an exchange that never became a job. */
static void refuse(Server *sv, HttpExchange *x, const HttpRequest *r, const Seen *seen, int status, int retry_s,
                   const char *message) {
    char *body = serve_error(status, message);
    serve_metrics_answer(&sv->metrics, seen->end, status, clock_s() - seen->since);
    audit(sv, seen->end, seen->who, r->from, status, r->size ? r->body : NULL, r->size, NULL, 0);
    answer_text(x, status, "application/json", body, retry_s);
}

/* Jobs in the queue before one that arrives now, in seconds. */
static int retry_after(const Server *sv) {
    const double s = sv->mean_run_s * (1 + sv->n_waiting / 8.0);
    return s < 1 ? 1 : s > 60 ? 60 : (int)ceil(s);
}

void serve_answer(Server *sv, Job *job, int status, char *body) {
    pthread_mutex_lock(&sv->lock);
    HttpExchange *x = job->x;
    job->x = NULL;
    const int retry = status == 503 ? retry_after(sv) : 0;
    pthread_mutex_unlock(&sv->lock);
    if (!x) {
        free(body);
        return;
    }
    if (!audit(sv, (End)job->ask.kind, job->who, job->from, status, job->body, job->size, body, strlen(body)) &&
        status == 200) {
        free(body);
        body = serve_error(status = 503, "the audit log cannot be written to: nothing is answered");
    }
    serve_metrics_answer(&sv->metrics, (int)job->ask.kind, status, clock_s() - job->arrived);
    answer_text(x, status, "application/json", body, retry);
}

void serve_job_free(Job *job) {
    for (int i = 0; i < ASK_OUTCOMES_MAX; i++) json_decref(job->part[i]);
    ask_free(&job->ask);
    free(job);
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
        else if (seen->end < END_METRICS && !serve_key_spend(key, clock_s(), wait_s)) status = 429;
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
                           sv->o.queue_max, clock_s() - sv->started};
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
    *job = (Job){.x = x, .body = r->body, .size = r->size, .arrived = seen->since};
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
    if (!status) {
        serve_metrics_record(&sv->metrics, job->ask.record.n_events, job->ask.record.n_unknown);
        pthread_mutex_lock(&sv->lock);
        shut = sv->closing;
        if (!shut) queue_add(sv, job);
        pthread_mutex_unlock(&sv->lock);
        if (!shut) return;
        status = 503;
    }
    serve_metrics_refused(&sv->metrics, status == 429, 0, 0);
    refuse(sv, x, r, seen, status, status >= 429 ? retry : 0, why);
    serve_job_free(job);
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

static int is_revoked(Server *sv) {
    const int64_t stamp = sv->o.revoked ? stamp_of(sv->o.revoked) : 0;
    char *text;
    Err err;
    int found = 0;
    if (stamp == sv->revoked_stamp) return 0;
    sv->revoked_stamp = stamp;
    if (!file_read(sv->o.revoked, 64 << 20, &text, NULL, &err)) {
        found = strstr(text, sv->session->model_sha256) != NULL;
        free(text);
    }
    if (found)
        fprintf(stderr, "ehr-infer serve: the model was revoked (%s): nothing more is answered\n", sv->o.revoked);
    return found;
}

/* The first job that must be answered now without a result; it is taken out of the queue when it waits there. */
static Job *job_overdue(Server *sv, int *waited) {
    const double now = clock_s();
    Job *found = NULL;
    const int all = sv->killed || (sv->draining && now - sv->drain_since > sv->o.drain_s);
    pthread_mutex_lock(&sv->lock);
    *waited = 0;
    for (Job **at = &sv->queue; *at && !found; at = &(*at)->next)
        if (all || now - (*at)->arrived > sv->o.deadline_s) {
            found = *at;
            *at = found->next;
            sv->n_waiting--;
            *waited = 1;
            break;
        }
    for (Job *j = sv->running; j && !found; j = j->next)
        if (j->x && (all || now - j->arrived > sv->o.deadline_s)) found = j;
    /* Answered under the lock: the compute thread frees a running job as soon as it may. */
    if (found) {
        const int late = now - found->arrived > sv->o.deadline_s && !sv->killed, status = late ? 504 : 503;
        HttpExchange *x = found->x;
        found->x = NULL;
        char *body = serve_error(status, late         ? "not done before the deadline"
                                         : sv->killed ? "the kill switch is on"
                                                      : "the server is ending");
        audit(sv, (End)found->ask.kind, found->who, found->from, status, found->body, found->size, NULL, 0);
        serve_metrics_answer(&sv->metrics, (int)found->ask.kind, status, now - found->arrived);
        serve_metrics_refused(&sv->metrics, 0, 0, late);
        answer_text(x, status, "application/json", body, 0);
    }
    pthread_mutex_unlock(&sv->lock);
    return found;
}

void serve_tick(Server *sv) {
    int waited, killed = sv->o.kill_file && path_exists(sv->o.kill_file);
    keys_refresh(sv);
    if (is_revoked(sv)) sv->o.kill_file = sv->o.revoked; /* for good */
    pthread_mutex_lock(&sv->lock);
    if (killed != sv->killed)
        fprintf(stderr, "ehr-infer serve: the kill switch is %s\n", killed ? "on: nothing is answered" : "off");
    sv->killed = killed;
    pthread_mutex_unlock(&sv->lock);
    for (Job *job; (job = job_overdue(sv, &waited));)
        if (waited) serve_job_free(job);
    http_tick(sv->http);
}

void serve_drain(Server *sv) {
    pthread_mutex_lock(&sv->lock);
    if (!sv->draining) sv->drain_since = clock_s();
    sv->draining = 1;
    pthread_cond_signal(&sv->wake);
    pthread_mutex_unlock(&sv->lock);
}

/* ---- the compute thread ------------------------------------------------------------------------------------------ */

/* The oldest job and all that go with it, out of the queue. */
static Job *jobs_take(Server *sv) {
    pthread_mutex_lock(&sv->lock);
    while (!sv->queue && !sv->draining && !sv->failed) pthread_cond_wait(&sv->wake, &sv->lock);
    Job *first = sv->queue, **end = &sv->running;
    int64_t futures = 0;
    for (Job **at = &sv->queue; *at;) {
        Job *job = *at;
        const int64_t more = (int64_t)job->ask.samples * (job->ask.n_outcomes ? job->ask.n_outcomes : 1);
        if (job != first && (!serve_goes_with(first, job) || futures + more > sv->o.futures_max)) {
            at = &job->next;
            continue;
        }
        futures += more;
        *at = job->next;
        job->next = NULL;
        *end = job;
        end = &job->next;
        sv->n_waiting--;
        sv->n_running++;
    }
    sv->closing = !first;
    pthread_mutex_unlock(&sv->lock);
    return first;
}

Status serve_run(Server *sv, Err *err) {
    Status s = OK;
    for (Job *jobs; !s && (jobs = jobs_take(sv));) {
        const double start = clock_s();
        s = serve_compute(sv, jobs, err);
        for (Job *j = jobs; s && j; j = j->next)
            serve_answer(sv, j, 500, serve_error(500, "the model could not be computed"));
        pthread_mutex_lock(&sv->lock);
        sv->mean_run_s += ((clock_s() - start) - sv->mean_run_s) * 0.2;
        sv->running = NULL;
        sv->n_running = 0;
        if (s == ERR_DEVICE) sv->failed = 1;
        pthread_mutex_unlock(&sv->lock);
        if (s && s != ERR_DEVICE) { /* of these requests, not of the next */
            fprintf(stderr, "ehr-infer serve: %s\n", err->msg);
            s = OK;
        }
        for (Job *next; jobs; jobs = next) {
            next = jobs->next;
            serve_job_free(jobs);
        }
    }
    if (!s) return OK;
    pthread_mutex_lock(&sv->lock);
    sv->failed = sv->closing = 1;
    Job *left = sv->queue;
    sv->queue = NULL;
    sv->n_waiting = 0;
    pthread_mutex_unlock(&sv->lock);
    for (Job *next; left; left = next) {
        next = left->next;
        serve_answer(sv, left, 503, serve_error(503, "the device failed"));
        serve_job_free(left);
    }
    return s;
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
        "{s:{s:s, s:s, s:s, s:s, s:i, s:i, s:i, s:I, s:s, s:b}, s:{s:i, s:i, s:f, s:i, s:f}, s:O?, s:s}", "model", "id",
        sv->model_name, "sha256", s->model_sha256, "stage", sv->stage, "architecture", "Qwen3", "layers", c->n_layers,
        "d_model", c->d_model, "seq_len", c->seq_len, "parameters", (json_int_t)s->model.table.n_params,
        "vocabulary_sha256", s->dataset.vocabulary.sha256, "checked", s->checked, "limits", "samples",
        sv->o.limits.samples_max, "max_tokens", sv->o.limits.max_tokens, "horizon_days",
        sv->o.limits.horizon_max / 1440, "queue", sv->o.queue_max, "deadline_seconds", sv->o.deadline_s, "provenance",
        provenance, "notice",
        "Research use; not a medical device.  Risks are a model's, mc_se and interval tell sampling of futures only.");
    REQUIRE(o);
    char *card = json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(9));
    json_decref(o);
    json_decref(trainer);
    return card;
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
    return st || !o->keys ? st : serve_keys_read(&sv->keys, o->keys, serve_scopes, err);
}

void serve_close(Server *sv) {
    free(sv->model_name);
    free(sv->card);
    free(sv->vocabulary);
    free(sv->page_policy);
    pthread_mutex_destroy(&sv->lock);
    pthread_cond_destroy(&sv->wake);
    pthread_mutex_destroy(&sv->metrics.lock);
}
