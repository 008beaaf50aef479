/* serve_answers.c - answers, whole or in pieces.  They go through one thread that writes their lines of the audit log,
 * waits once for the disk to have all of them, and only then tells: nothing is told that the log does not know, and
 * nobody computes or reads while a disk turns. */
#include "infer/serve.h"
#include <stdlib.h>
#include <string.h>

struct Answer {
    Answer *next;
    HttpExchange *x;
    HttpStream *stream; /* with x: begins; without: ends */
    End end;
    int status, retry_s, lost;
    char who[KEY_NAME_MAX], from[48], input_hash[65], output_hash[65];
    const char *input; /* of x */
    size_t input_size;
    char *body;
    double arrived;
};

static const char *const LOG_FAILED = "the audit log cannot be written to: nothing is answered";

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

/* ---- the audit log ----------------------------------------------------------------------------------------------- */

static int line_write(Server *sv, const AuditEntry *e) {
    Err err;
    if (!sv->audit || !audit_write(sv->audit, e, 0, &err)) return 1;
    fprintf(stderr, "ehr-infer serve: %s\n", err.msg);
    return 0;
}

/* Refusals do not wait for the disk: they must not make an attacker's work ours. */
int serve_audit(Server *sv, End end, const char *who, const char *from, int status, const void *in, size_t in_size) {
    const AuditEntry e = {.who = who,
                          .from = from,
                          .action = serve_ends[end],
                          .model = sv->session->model_sha256,
                          .status = status,
                          .input = in,
                          .input_size = in_size};
    return line_write(sv, &e);
}

static int answer_log(Server *sv, const Answer *a) {
    const AuditEntry e = {.who = a->who,
                          .from = a->from,
                          .action = a->x && a->stream ? "stream" : serve_ends[a->end],
                          .model = sv->session->model_sha256,
                          .status = a->status,
                          .input = a->input,
                          .input_size = a->input_size,
                          .output = a->output_hash[0] ? NULL : a->body,
                          .output_size = a->body ? strlen(a->body) : 0,
                          .input_hash = a->input_hash[0] ? a->input_hash : NULL,
                          .output_hash = a->output_hash[0] ? a->output_hash : NULL};
    return line_write(sv, &e);
}

/* ---- the thread -------------------------------------------------------------------------------------------------- */

static void answer_give(Server *sv, Answer *a) {
    if (a->lost && a->status == 200) {
        free(a->body);
        a->status = 503;
        a->body = serve_error(503, LOG_FAILED);
        if (!a->x) { /* of a stream */
            char *text = xasprintf("data: %s\n\n", a->body);
            free(a->body);
            a->body = text;
        }
    }
    if (a->x && a->stream && a->status == 200) {
        http_stream_start(a->x, a->stream, "text/event-stream");
    } else if (a->x) {
        http_answer(a->x, a->status, "application/json", a->body, strlen(a->body), a->retry_s);
        a->body = NULL;
    } else {
        http_stream_send(a->stream, a->body, strlen(a->body));
        http_stream_end(a->stream, 1);
    }
    if (!a->stream || !a->x) serve_metrics_answer(&sv->metrics, (int)a->end, a->status, clock_s() - a->arrived);
}

static void *answers_main(void *ctx) {
    Server *sv = ctx;
    Answers *q = &sv->answers;
    Err err;
    for (;;) {
        pthread_mutex_lock(&q->lock);
        while (!q->first && !q->closing) pthread_cond_wait(&q->wake, &q->lock);
        Answer *all = q->first;
        q->first = NULL;
        q->end = &q->first;
        pthread_mutex_unlock(&q->lock);
        if (!all) return NULL;
        int sync = 0;
        for (Answer *a = all; a; a = a->next) {
            a->lost = !answer_log(sv, a);
            sync |= a->status == 200;
        }
        if (sync && sv->audit && audit_sync(sv->audit, &err)) {
            fprintf(stderr, "ehr-infer serve: %s\n", err.msg);
            for (Answer *a = all; a; a = a->next) a->lost = 1;
        }
        for (Answer *next; all; all = next) {
            next = all->next;
            answer_give(sv, all);
            free(all->body);
            free(all);
        }
    }
}

void serve_answers_open(Server *sv) {
    Answers *q = &sv->answers;
    pthread_mutex_init(&q->lock, NULL);
    pthread_cond_init(&q->wake, NULL);
    q->end = &q->first;
    REQUIRE(!pthread_create(&q->thread, NULL, answers_main, sv));
}

void serve_answers_close(Server *sv) {
    Answers *q = &sv->answers;
    pthread_mutex_lock(&q->lock);
    q->closing = 1;
    pthread_cond_signal(&q->wake);
    pthread_mutex_unlock(&q->lock);
    pthread_join(q->thread, NULL);
    pthread_mutex_destroy(&q->lock);
    pthread_cond_destroy(&q->wake);
}

static void answer_add(Server *sv, const Job *job, Answer a) {
    Answers *q = &sv->answers;
    Answer *own = xmalloc(sizeof *own);
    a.end = (End)job->ask.kind;
    a.arrived = job->arrived;
    memcpy(a.who, job->who, sizeof a.who);
    memcpy(a.from, job->from, sizeof a.from);
    *own = a;
    pthread_mutex_lock(&q->lock);
    *q->end = own;
    q->end = &own->next;
    pthread_cond_signal(&q->wake);
    pthread_mutex_unlock(&q->lock);
}

/* ---- whole answers ----------------------------------------------------------------------------------------------- */

/* Jobs in the queue before one that arrives now, in seconds. */
static int retry_after(const Server *sv) {
    const double s = sv->mean_run_s * (1 + sv->n_waiting / 8.0);
    return s < 1 ? 1 : s > 60 ? 60 : (int)s + 1;
}

void serve_answer_held(Server *sv, Job *job, int status, char *body) {
    Answer a = {.x = job->x, .stream = job->stream, .status = status, .body = body};
    if (!a.x && !a.stream) {
        free(body);
        return;
    }
    job->x = NULL;
    job->stream = NULL;
    if (a.x) {
        a.input = job->body;
        a.input_size = job->size;
        a.retry_s = status == 503 ? retry_after(sv) : 0;
    } else {
        unsigned char hash[crypto_hash_sha256_BYTES];
        if (status != 200) {
            a.body = xasprintf("data: %s\n\n", body);
            free(body);
        }
        memcpy(a.input_hash, job->input_hash, sizeof a.input_hash);
        crypto_hash_sha256_update(&job->told, (const unsigned char *)a.body, strlen(a.body));
        crypto_hash_sha256_final(&job->told, hash);
        sodium_bin2hex(a.output_hash, sizeof a.output_hash, hash, sizeof hash);
    }
    answer_add(sv, job, a);
}

void serve_answer(Server *sv, Job *job, int status, char *body) {
    pthread_mutex_lock(&sv->lock);
    serve_answer_held(sv, job, status, body);
    pthread_mutex_unlock(&sv->lock);
}

int serve_is_awaited(Server *sv, const Job *job) {
    pthread_mutex_lock(&sv->lock);
    const int waits = job->x || job->stream;
    pthread_mutex_unlock(&sv->lock);
    return waits;
}

/* ---- answers in pieces ------------------------------------------------------------------------------------------- */

void serve_stream_begin(Server *sv, Job *job) {
    pthread_mutex_lock(&sv->lock);
    if (job->x) {
        Answer a = {.x = job->x, .status = 200, .input = job->body, .input_size = job->size};
        if (sv->audit) audit_input_hash(sv->audit, job->body, job->size, job->input_hash);
        crypto_hash_sha256_init(&job->told);
        a.stream = job->stream = http_stream_open();
        job->x = NULL;
        answer_add(sv, job, a);
    }
    pthread_mutex_unlock(&sv->lock);
}

void serve_stream_flush(Server *sv, Job *job) {
    if (!job->piece_n) return;
    pthread_mutex_lock(&sv->lock);
    int read = 1;
    if (job->stream) {
        crypto_hash_sha256_update(&job->told, (const unsigned char *)job->piece, job->piece_n);
        read = http_stream_send(job->stream, job->piece, job->piece_n);
    }
    if (!read) serve_answer_held(sv, job, 499, serve_error(499, "the client has gone"));
    pthread_mutex_unlock(&sv->lock);
    job->piece_n = 0;
}
