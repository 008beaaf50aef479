/* cmd_serve.c - ehr-infer serve, and ehr-infer key. */
#include "data/deidentify_record.h"
#include "infer/commands.h"
#include "infer/serve.h"
#include "model/checkpoint.h"
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct {
    SessionFlags session;
    const char *bind, *keys, *audit, *cert, *key, *stage, *trusted, *revoked, *kill_file, *maps, *shadow, *canary;
    int64_t port, queue, batch, samples, max_tokens, horizon, body, connections;
    int64_t min_tokens, second_threads;
    double deadline, drain, read, max_unknown, share;
    int once;
} ServeFlags;

static int is_loopback(const char *address) { return !strncmp(address, "127.", 4) || !strcmp(address, "::1"); }

static Status check_flags(const ServeFlags *f, Err *err) {
    if (!f->keys && !is_loopback(f->bind))
        return err_set(err, ERR_USAGE,
                       "--bind %s: beyond this machine only with --keys FILE (make it with `ehr-infer key`)", f->bind);
    if (!f->cert != !f->key) return err_set(err, ERR_USAGE, "TLS needs both --tls-cert and --tls-key");
    if (f->shadow && f->canary)
        return err_set(err, ERR_USAGE, "--shadow and --canary: one checkpoint is compared at a time, give one of them");
    if (f->stage && !f->trusted)
        return err_set(err, ERR_USAGE, "--stage %s needs --trusted-keys FILE: whose signatures count", f->stage);
    if (f->stage && stage_find(f->stage) > STAGE_RESEARCH && (!f->keys || !f->audit))
        return err_set(err, ERR_USAGE, "--stage %s needs --keys and --audit: beyond research it is known who asks what",
                       f->stage);
    return OK;
}

/* The checkpoint's release grants the stage, or nothing is loaded. */
static Status check_stage(const ServeFlags *f, const char *checkpoint, const char *stage, char model_sha256[65],
                          Err *err) {
    TrustedKeys keys;
    Release r;
    char today[16];
    struct tm utc;
    const time_t now = time(NULL);
    strftime(today, sizeof today, "%Y-%m-%d", gmtime_r(&now, &utc));
    Status s = trusted_keys_read(&keys, f->trusted, err);
    if (!s) s = release_verify(checkpoint, &keys, f->revoked, today, &r, err);
    if (!s && (int)r.stage < stage_find(stage))
        s = err_set(err, ERR_FORMAT, "%s has not reached stage %s%s%s: it is not served", checkpoint, stage,
                    r.revoked   ? ": it was revoked, "
                    : r.next[0] ? ": "
                                : "",
                    r.revoked ? r.reason : r.next);
    if (!s) memcpy(model_sha256, r.model_sha256, sizeof r.model_sha256);
    return s;
}

static Status vocabulary_open(Session *s, Err *err) {
    char *text;
    size_t size;
    Status st = checkpoint_read_text(s->checkpoint, "vocabulary.json", &text, &size, err);
    if (st) return st;
    st = vocabulary_parse(&s->dataset.vocabulary, text, size, "vocabulary.json", err);
    free(text);
    if (!st && s->dataset.vocabulary.n != s->model.cfg.vocab_size)
        st = err_set(err, ERR_FORMAT, "%s: the model has %d tokens and the vocabulary %d", s->checkpoint,
                     s->model.cfg.vocab_size, s->dataset.vocabulary.n);
    return st;
}

/* What was done to the training data is done to what is told: where nobody stands behind them, and where they were released
 * with their notes. */
static Status rules_open(const Session *s, RecordRules *rules, PhiPatterns **phi, Err *err) {
    char *text;
    size_t size;
    Err ignored;
    if (checkpoint_read_text(s->checkpoint, "trainer.json", &text, &size, &ignored)) return OK;
    json_t *t = json_loadb(text, size, 0, NULL);
    const char *level = json_text(json_object_get(t, "provenance"), "deidentification");
    rules->synthetic = !strcmp(level, "synthetic");
    const Status st = s->dataset.vocabulary.text_begin >= 0 && deidentify_level_is_release(level)
                          ? phi_patterns_open(phi, err)
                          : OK;
    rules->mask = *phi;
    json_decref(t);
    free(text);
    return st;
}

/* ---- the watch --------------------------------------------------------------------------------------------------- */

typedef struct {
    Server *sv;
    sigset_t signals;
    atomic_int stop;
    pthread_t thread;
} Watch;

static void watched_signals(sigset_t *out) {
    sigemptyset(out);
    sigaddset(out, SIGTERM);
    sigaddset(out, SIGINT);
}

static void *watch_main(void *ctx) {
    Watch *w = ctx;
    while (!w->stop) {
        const struct timespec tick = {0, 50000000};
        const int got = sigtimedwait(&w->signals, NULL, &tick);
        if (got == SIGTERM || got == SIGINT) {
            fprintf(stderr, "ehr-infer serve: ending after the requests that are there\n");
            http_quiesce(w->sv->http);
            serve_drain(w->sv);
        }
        serve_tick(w->sv);
    }
    return NULL;
}

static Status log_event(Server *sv, const char *action, Err *err) {
    const AuditEntry e = {.who = "server", .from = "", .action = action, .model = sv->session->model_sha256};
    return sv->audit ? audit_write(sv->audit, &e, 1, err) : OK;
}

static Status listen_and_run(Server *sv, const ServeFlags *f, Err *err) {
    const HttpOptions http = {.bind = f->bind,
                              .cert = f->cert,
                              .key = f->key,
                              .port = (int)f->port,
                              .connections = (int)f->connections,
                              .body_max = (size_t)f->body,
                              .read_s = f->read,
                              .write_s = f->read,
                              .page_policy = sv->page_policy,
                              .head = serve_head,
                              .handle = serve_handle,
                              .gone = serve_gone,
                              .refused = serve_refused,
                              .done = serve_done,
                              .ctx = sv};
    Watch w = {.sv = sv};
    watched_signals(&w.signals);
    serve_answers_open(sv);
    if (sv->second) second_start(sv->second);
    Status s = http_open(&sv->http, &http, err);
    if (!s) s = log_event(sv, "start", err);
    if (!s) {
        const int v6 = strchr(f->bind, ':') != NULL;
        printf("listening on %s://%s%s%s:%d\n", f->cert ? "https" : "http", v6 ? "[" : "", f->bind, v6 ? "]" : "",
               http_port(sv->http));
        fflush(stdout);
        REQUIRE(!pthread_create(&w.thread, NULL, watch_main, &w));
        s = serve_run(sv, err);
        http_quiesce(sv->http);
        serve_drain(sv);
        w.stop = 1;
        pthread_join(w.thread, NULL);
    }
    serve_answers_close(sv);
    if (sv->http) http_close(sv->http);
    Err late;
    if (!s) s = log_event(sv, "stop", err);
    else log_event(sv, "failed", &late);
    return s;
}

static Status open_maps(Server *sv, const char *path, Err *err) {
    char *beside = xasprintf("%s/recalibration.json", sv->session->checkpoint);
    Status s = OK;
    if (!path && path_exists(beside)) path = beside;
    if (path) s = serve_maps_open(sv, path, err);
    if (path && !s) fprintf(stderr, "%d recalibration maps of %s\n", sv->maps.n, path);
    free(beside);
    return s;
}

/* Signed and not revoked, where stages count: it is told patients, though it tells nobody. */
static Status open_second(Server *sv, const ServeFlags *f, Err *err) {
    const char *path = f->shadow ? f->shadow : f->canary;
    SessionFlags flags = f->session;
    const SecondOptions o = {.share = f->shadow ? 1 : f->share,
                             .batch = f->batch < 32 ? (int)f->batch : 32,
                             .mode = f->shadow ? "shadow" : "canary"};
    char granted[65] = "", *checkpoint = NULL;
    Session s = {0};
    /* Where nothing of it can get in the first one's way. */
    flags.device = "cpu";
    flags.dtype = "auto";
    flags.threads = f->second_threads;
    Status st = session_find(path, &checkpoint, err);
    if (!st && f->stage) st = check_stage(f, checkpoint, "research", granted, err);
    if (!st) st = session_open(&s, checkpoint, NULL, &flags, err);
    free(checkpoint);
    if (!st && granted[0] && strcmp(granted, s.model_sha256))
        st = err_set(err, ERR_FORMAT, "--%s %s: the weights are not those that were signed", o.mode, path);
    if (!st) st = vocabulary_open(&s, err);
    if (!st && strcmp(s.dataset.vocabulary.sha256, sv->session->dataset.vocabulary.sha256))
        st = err_set(err, ERR_FORMAT, "--%s %s has another vocabulary: it cannot answer the same questions", o.mode, path);
    if (!st) {
        second_open(&sv->second, &s, &o);
        fprintf(stderr, "%s: %.12s, %s, compared in /metrics and told to nobody\n", o.mode, s.model_sha256,
                f->shadow ? "asked everything" : "asked what concerns a share of the patients");
        return OK;
    }
    vocabulary_free(&s.dataset.vocabulary);
    session_close(&s);
    return st;
}

/* That something was to be served and was not, and why, is in the log too; a log that is not whole gets no line. */
static void log_refusal(const ServeFlags *f, const Session *s, const Err *why) {
    Audit *audit = NULL;
    Err ignored;
    int64_t cut;
    if (audit_open(&audit, f->audit, &cut, &ignored)) return;
    char *action = xasprintf("refused to start: %.300s", why->msg);
    for (char *c = action; *c; c++)
        if (*c < ' ' || *c > '~') *c = '?'; /* paths may hold anything, and be cut in the middle of a character */
    const AuditEntry e = {.who = "server", .from = "", .action = action, .model = s->model_sha256};
    if (audit_write(audit, &e, 1, &ignored)) fprintf(stderr, "ehr-infer serve: %s\n", ignored.msg);
    audit_close(audit);
    free(action);
}

static Status serve(const ServeFlags *f, const char *path, Err *err) {
    Session s = {0};
    Server sv = {0};
    ServeOptions o = {.queue_max = (int)f->queue,
                      .batch = (int)f->batch,
                      .deadline_s = f->deadline,
                      .drain_s = f->drain,
                      .min_tokens = f->min_tokens,
                      .max_unknown = f->max_unknown,
                      .keys = f->keys,
                      .kill_file = f->kill_file,
                      .once = f->once,
                      .revoked = f->revoked};
    char granted[65] = "", *checkpoint = NULL;
    int64_t cut = 0;
    sigset_t watched;
    PhiPatterns *phi = NULL;
    /* Before the first thread that computes is made: all leave signals to the watch. */
    signal(SIGPIPE, SIG_IGN);
    watched_signals(&watched);
    pthread_sigmask(SIG_BLOCK, &watched, NULL);
    Status st = session_find(path, &checkpoint, err);
    if (!st && f->stage) st = check_stage(f, checkpoint, f->stage, granted, err);
    if (!st) st = session_open(&s, checkpoint, NULL, &f->session, err);
    free(checkpoint);
    if (!st && granted[0] && strcmp(granted, s.model_sha256))
        st = err_set(err, ERR_FORMAT,
                     "the weights are not those that were signed: they were changed while the server started");
    if (!st) session_note(&s, stderr);
    if (!st) st = vocabulary_open(&s, err);
    o.limits = (AskLimits){
        .samples_max = (int)f->samples, .max_tokens = (int)f->max_tokens, .horizon_max = (double)f->horizon};
    if (!st) st = rules_open(&s, &o.limits.rules, &phi, err);
    if (!st) st = serve_open(&sv, &s, &o, f->stage ? f->stage : "unverified", err);
    if (!st) st = open_maps(&sv, f->maps, err);
    if (!st && (f->shadow || f->canary)) st = open_second(&sv, f, err);
    if (st && f->audit) log_refusal(f, &s, err);
    if (!st && f->audit) st = audit_open(&sv.audit, f->audit, &cut, err);
    if (f->audit && cut > 0)
        fprintf(stderr, "note: a half-written last line of %s was cut off: the server had been killed\n", f->audit);
    if (!st && !f->stage) fprintf(stderr, "note: without --stage nobody has checked how far this model may go\n");
    if (!st) st = listen_and_run(&sv, f, err);
    if (sv.audit) audit_close(sv.audit);
    if (sv.second) second_close(sv.second);
    if (sv.session) serve_close(&sv);
    if (phi) phi_patterns_close(phi);
    vocabulary_free(&s.dataset.vocabulary);
    session_close(&s);
    return st;
}

Status cmd_serve(int argc, char **argv, Err *err) {
    ServeFlags f = {.session = SESSION_FLAGS_DEFAULT,
                    .bind = "127.0.0.1",
                    .port = 8000,
                    .queue = 64,
                    .batch = 256,
                    .samples = 1024,
                    .max_tokens = 2048,
                    .horizon = 10519200,
                    .body = 1 << 20,
                    .connections = 256,
                    .deadline = 60,
                    .drain = 30,
                    .read = 15,
                    .min_tokens = 10,
                    .max_unknown = 0.2,
                    .second_threads = 1,
                    .share = 0.05};
    Flag flags[] = {
        {"--port", FLAG_INT, &f.port, 0, 65535, NULL, "port to listen on; 0 = any free one", 0},
        {"--bind", FLAG_STRING, &f.bind, 0, 0, NULL, "address to listen on; beyond this machine only with --keys", 0},
        {"--keys", FLAG_STRING, &f.keys, 0, 0, NULL,
         "file of API keys' hashes, written by `ehr-infer key`; changes count at once", 0},
        {"--once", FLAG_BOOL, &f.once, 0, 0, NULL,
         "refuse requests without the header Idempotency-Key; one that comes again is refused in any case", 0},
        {"--tls-cert", FLAG_STRING, &f.cert, 0, 0, NULL, "certificate chain, PEM", 0},
        {"--tls-key", FLAG_STRING, &f.key, 0, 0, NULL, "its key, PEM", 0},
        {"--audit", FLAG_STRING, &f.audit, 0, 0, NULL,
         "append-only log of who asked what when (ehr-infer audit verify)", 0},
        {"--stage", FLAG_ENUM, &f.stage, 0, 0, "research|internal|partner|general",
         "refuse a checkpoint not promoted that far", 0},
        {"--trusted-keys", FLAG_STRING, &f.trusted, 0, 0, NULL,
         "file of public keys whose signatures count for --stage", 0},
        {"--revoked", FLAG_STRING, &f.revoked, 0, 0, NULL, "file of revoked model hashes; read again when it changes",
         0},
        {"--recalibration", FLAG_STRING, &f.maps, 0, 0, NULL,
         "recalibration.json of scripts/evaluate.sh for this model; default: the one in CHECKPOINT, if it is there", 0},
        {"--shadow", FLAG_STRING, &f.shadow, 0, 0, NULL,
         "a second checkpoint: asked everything too, compared in /metrics, told to nobody", 0},
        {"--canary", FLAG_STRING, &f.canary, 0, 0, NULL,
         "likewise, of a share of the patients only: the same ones always", 0},
        {"--canary-share", FLAG_FLOAT, &f.share, 0, 1, NULL, "that share", 0},
        {"--second-threads", FLAG_INT, &f.second_threads, 1, 4096, NULL,
         "CPU threads of a second checkpoint; they yield to all others", 0},
        {"--kill-file", FLAG_STRING, &f.kill_file, 0, 0, NULL,
         "kill switch: while this file exists nothing is answered", 0},
        {"--queue", FLAG_INT, &f.queue, 1, 100000, NULL, "requests waiting at most; more get 429", 0},
        {"--deadline", FLAG_FLOAT, &f.deadline, 0.1, 86400, NULL, "seconds after which a request is given up", 0},
        {"--drain", FLAG_FLOAT, &f.drain, 0, 86400, NULL, "seconds that requests there have after SIGTERM", 0},
        {"--read-timeout", FLAG_FLOAT, &f.read, 0.1, 3600, NULL,
         "seconds to send a whole request, and to take an answer", 0},
        {"--max-body", FLAG_SIZE, &f.body, 1024, 1 << 28, NULL, "longest body of a request", 0},
        {"--connections", FLAG_INT, &f.connections, 1, 60000, NULL, "open connections at most", 0},
        {"--max-samples", FLAG_INT, &f.samples, 1, 1e6, NULL, "futures a request may ask for", 0},
        {"--max-tokens", FLAG_INT, &f.max_tokens, 1, 1e6, NULL, "longest future, in tokens", 0},
        {"--max-horizon", FLAG_DURATION, &f.horizon, 1, 1e9, NULL, "longest horizon", 0},
        {"--min-tokens", FLAG_INT, &f.min_tokens, 0, 1e9, NULL,
         "a risk of a record with fewer known tokens comes with reason 1", 0},
        {"--max-unknown", FLAG_FLOAT, &f.max_unknown, 0, 1, NULL,
         "reason 2: a larger share of its events has no token of its own", 0},
        {"--batch", FLAG_INT, &f.batch, 1, 65536, NULL, "live futures at a time: speed and memory, never the result",
         0},
        SESSION_FLAGS(f.session),
        SESSION_GRAPHS_FLAG(f.session),
    };
    const int n = sizeof flags / sizeof *flags;
    const char *pos[1];
    int n_pos, help;
    Status st = flags_parse(flags, n, argc, argv, pos, 1, &n_pos, &help, err);
    if (st) return st;
    if (help) {
        flags_help(flags, n,
                   "ehr-infer serve CHECKPOINT [--port 8000] [--keys FILE] [--audit FILE] [--stage S --trusted-keys "
                   "FILE] [...]",
                   "HTTP: POST /v1/risk, /v1/completions, /v1/score, /v1/embeddings; GET /v1/models, /v1/vocabulary, /info, "
                   "/metrics, /health, /ready; a page for people at /.\n"
                   "A shadow or canary computes on the CPU, on threads of the lowest priority, behind a queue of 64: what it has no time "
                   "for is dropped and counted,\nnothing waits for it.  Neither ever answers anybody: to let a canary "
                   "answer, promote it and serve it.\n"
                   "Requests of many clients are computed together, each with the bits it would get alone: those of "
                   "`ehr-infer risk` and `explain`.\n"
                   "A prompt or an input is text (codes separated by spaces) or a list of token ids; a list of texts or of lists "
                   "is a batch, as\nOpenAI's clients send it.  [[\"SEX//F\", \"VISIT//OUT\"]] is one record of codes.  Raw events "
                   "may carry a text, where the model knows notes.\n"
                   "Research use; not a medical device.",
                   stdout);
        return OK;
    }
    if (n_pos != 1) return err_set(err, ERR_USAGE, "needs a CHECKPOINT (--help)");
    if ((st = check_flags(&f, err))) return st;
    fprintf(stderr, "ehr-infer serve %s\n", pos[0]);
    flags_print(flags, n, stderr);
    return serve(&f, pos[0], err);
}

Status cmd_key(int argc, char **argv, Err *err) {
    const char *keys = NULL, *name = NULL, *scopes = NULL, *pos[1];
    int64_t per_minute = 0;
    Flag flags[] = {
        {"--keys", FLAG_STRING, &keys, 0, 0, NULL, "file to add the key's hash to", 0},
        {"--name", FLAG_STRING, &name, 0, 0, NULL, "who will ask with it, as the audit log names them", 0},
        {"--scopes", FLAG_STRING, &scopes, 0, 0, NULL,
         "what it may ask: completions,risk,score,embeddings,metrics, or all", 0},
        {"--per-minute", FLAG_INT, &per_minute, 0, 1e9, NULL, "requests a minute (a batch counts as its records); 0 = any number", 0},
    };
    const int n = sizeof flags / sizeof *flags;
    int n_pos, help;
    char text[KEY_TEXT];
    Status s = flags_parse(flags, n, argc, argv, pos, 0, &n_pos, &help, err);
    if (s) return s;
    if (help) {
        flags_help(flags, n, "ehr-infer key --keys FILE --name NAME --scopes risk,score [--per-minute N]",
                   "Makes an API key for `ehr-infer serve`.  It is printed once; the file keeps its hash.", stdout);
        return OK;
    }
    if (!keys || !name || !scopes) return err_set(err, ERR_USAGE, "needs --keys, --name and --scopes (--help)");
    s = serve_keys_add(keys, name, scopes, per_minute, serve_scopes, text, err);
    if (!s) printf("%s\n", text);
    return s;
}
