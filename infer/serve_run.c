/* serve_run.c - the compute thread: which request joins the engine when, and what is computed between its steps. */
#include "infer/serve.h"
#include <stdlib.h>

typedef struct {
    Server *sv;
    RolloutStats told; /* in the metrics */
    int quick_step;    /* something quick may be computed in this step */
    int64_t small;     /* futures of the requests that were let pass */
} Running;

/* Small requests pass by the others, as many as take an eighth of the places: who is first is answered first, or under
 * load nobody would be before the deadline. */
static int may_pass(const Running *r, const Job *job) {
    const int batch = r->sv->o.batch;
    return r->small < batch / 8 && engine_futures(job) <= 1 + batch / 32;
}

static int is_quick(const Job *job) { return job->ask.kind == ASK_SCORE || job->ask.kind == ASK_EMBEDDINGS; }

/* From the queue to those that are computed; the caller has the lock. */
static Job *job_take(Server *sv, Job *job) {
    *job->link = job->next;
    if (job->next) job->next->link = job->link;
    sv->n_waiting--;
    job->next = sv->running;
    job->link = &sv->running;
    if (job->next) job->next->link = &job->next;
    sv->running = job;
    sv->n_running++;
    return job;
}

static void job_leave(Server *sv, Job *job) {
    pthread_mutex_lock(&sv->lock);
    *job->link = job->next;
    if (job->next) job->next->link = job->link;
    sv->n_running--;
    if (job->begun) sv->mean_run_s += (clock_s() - job->begun - sv->mean_run_s) * 0.1;
    pthread_mutex_unlock(&sv->lock);
    engine_job_free(job);
}

/* ---- between steps ----------------------------------------------------------------------------------------------- */

/* One score, or all embeddings that wait, as far as they go in one. */
static Status quick_compute(Server *sv, Err *err) {
    Job *list[ASK_RECORDS_MAX];
    int n = 0, records = 0;
    pthread_mutex_lock(&sv->lock);
    for (Job *j = sv->queue, *next; j; j = next) {
        next = j->next;
        if (!is_quick(j) || (n && (list[0]->ask.kind == ASK_SCORE || j->ask.kind != list[0]->ask.kind))) continue;
        if (records + j->ask.n_records > ASK_RECORDS_MAX) break;
        records += j->ask.n_records;
        list[n++] = job_take(sv, j);
    }
    pthread_mutex_unlock(&sv->lock);
    if (!n) return OK;
    const Status s =
        list[0]->ask.kind == ASK_SCORE ? serve_score(sv, list[0], err) : serve_embeddings(sv, list, n, err);
    for (int i = 0; i < n; i++) {
        if (s) serve_answer(sv, list[i], 500, serve_error(500, "the model could not be computed"));
        job_leave(sv, list[i]);
    }
    return s;
}

/* ---- of the engine ----------------------------------------------------------------------------------------------- */

static Status take(void *ctx, EngineTake how, Job **out, Err *err) {
    Running *r = ctx;
    Server *sv = r->sv;
    Status s = OK;
    *out = NULL;
    if (how == TAKE_WAIT || r->quick_step) s = quick_compute(sv, err);
    r->quick_step = 0;
    pthread_mutex_lock(&sv->lock);
    while (!s && how == TAKE_WAIT && !sv->queue && !sv->draining && !sv->failed)
        pthread_cond_wait(&sv->wake, &sv->lock);
    Job *job = s ? NULL : sv->queue;
    while (job && (is_quick(job) || (how == TAKE_SMALL && !may_pass(r, job)))) job = job->next;
    if (how == TAKE_WAIT && !s && !job && sv->queue) { /* something quick has come */
        pthread_mutex_unlock(&sv->lock);
        return take(ctx, how, out, err);
    }
    if (how == TAKE_WAIT && !job) sv->closing = 1;
    if (job) *out = job_take(sv, job);
    if (job && how == TAKE_SMALL) r->small += job->passed = engine_futures(job);
    pthread_mutex_unlock(&sv->lock);
    if (job && job->ask.stream) serve_stream_begin(sv, job);
    return s;
}

static int awaited(void *ctx, const Job *job) { return serve_is_awaited(((Running *)ctx)->sv, job); }

static void done(void *ctx, Job *job) {
    Server *sv = ((Running *)ctx)->sv;
    serve_tell(sv, job);
    serve_metrics_request(&sv->metrics);
    ((Running *)ctx)->small -= job->passed;
    job_leave(sv, job);
}

static void failed(void *ctx, Job *job) {
    Server *sv = ((Running *)ctx)->sv;
    serve_answer(sv, job, 500, serve_error(500, "the model could not be computed"));
    ((Running *)ctx)->small -= job->passed;
    job_leave(sv, job);
}

static Status choices(void *ctx, Job *job, int record, const RolloutSample *samples, int n, Err *err) {
    (void)err;
    serve_choices(((Running *)ctx)->sv, job, record, samples, n);
    return OK;
}

static void drawn(void *ctx, Job *job, int choice, int n, int32_t token, double minutes, double logprob) {
    if (job->ask.stream || job->ask.logprobs)
        serve_tell_token(((Running *)ctx)->sv, job, choice, n, token, minutes, logprob);
}

static void step(void *ctx, const RolloutStats *now) {
    Running *r = ctx;
    Server *sv = r->sv;
    r->quick_step = 1;
    /* Only this thread changes the list. */
    for (Job *j = sv->running; j; j = j->next)
        if (j->ask.stream) serve_stream_flush(sv, j);
    serve_metrics_engine(&sv->metrics, now->samples - r->told.samples, now->tokens - r->told.tokens,
                         now->prefill_tokens - r->told.prefill_tokens, now->steps - r->told.steps,
                         now->decoded - r->told.decoded);
    r->told = *now;
}

static void queue_refuse(Server *sv) {
    pthread_mutex_lock(&sv->lock);
    sv->failed = sv->closing = 1;
    Job *left = sv->queue;
    sv->queue = NULL;
    sv->n_waiting = 0;
    pthread_mutex_unlock(&sv->lock);
    for (Job *next; left; left = next) {
        next = left->next;
        serve_answer(sv, left, 503, serve_error(503, "the device failed"));
        engine_job_free(left);
    }
}

Status serve_run(Server *sv, Err *err) {
    Running r = {.sv = sv};
    Engine e = {.session = sv->session,
                .batch = sv->o.batch,
                .take = take,
                .awaited = awaited,
                .done = done,
                .failed = failed,
                .choices = choices,
                .drawn = drawn,
                .step = step,
                .ctx = &r};
    Status s;
    /* An error is of those that were computed, not of the next; one of the device is of all. */
    while ((s = engine_run(&e, err)) && s != ERR_DEVICE) {
        fprintf(stderr, "ehr-infer serve: %s\n", err->msg);
        r.told = (RolloutStats){0};
    }
    if (s) queue_refuse(sv);
    return s;
}
