/* serve_engine.c - see serve_engine.h.  A request is one or several jobs of one unending rollout: a risk by reach is
 * one for each outcome, an explanation one for each event that is left out besides.  Which of them comes next is
 * decided whenever a future has room to begin. */
#include "infer/serve_engine.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Jobs of one request at work at a time: an explanation of many events leaves room to others. */
enum { TASKS_AT_WORK = 8, JOBS_LEAST = 4, JOBS_MOST = 64 };

/* ---- requests ---------------------------------------------------------------------------------------------------- */

static int is_by_outcome(const Ask *a) { return a->kind == ASK_RISK && a->estimator == ESTIMATOR_REACH; }

int64_t engine_futures(const Job *job) {
    const Ask *a = &job->ask;
    return (int64_t)a->samples * (is_by_outcome(a) ? a->n_outcomes : 1) * (1 + (int64_t)a->explain);
}

void engine_job_free(Job *job) {
    free(job->mark);
    free(job->stop);
    free(job->task);
    free(job->value);
    free(job->piece);
    json_decref(job->choices);
    explain_free(&job->explanation);
    ask_free(&job->ask);
    free(job);
}

static RolloutJob rollout_job(const Job *job) {
    const ServeRecord *p = &job->ask.record;
    return (RolloutJob){.patient = p->view, .n_known = p->n_known, .index_minutes = p->index_minutes, .o = &job->o};
}

static Status outcomes_set(Job *job, const Vocabulary *v, Err *err) {
    const Ask *a = &job->ask;
    Status s = OK;
    int stops = 0;
    job->mark = xcalloc((size_t)v->n, sizeof *job->mark);
    job->stop = xcalloc((size_t)v->n, sizeof *job->stop);
    job->o.horizon_minutes = 0;
    for (int k = 0; !s && k < a->n_outcomes; k++) {
        const AskOutcome *o = &a->outcome[k];
        s = outcome_mark(v, o->name, o->codes, o->n_codes, k, job->mark, err);
        if (!s && o->n_stops) s = outcome_mark(v, "stops", o->stops, o->n_stops, k, job->stop, err);
        stops |= o->n_stops > 0;
        job->horizon[k] = o->horizon;
        if (o->horizon > job->o.horizon_minutes) job->o.horizon_minutes = o->horizon;
    }
    job->o.outcome_bits = job->mark;
    job->o.stop_bits = stops ? job->stop : NULL;
    job->o.n_outcomes = a->n_outcomes;
    job->o.outcome_horizon = job->horizon;
    return s;
}

/* The jobs of a request, each group in the order of the record so that one finds the pages of the one before cached. */
static Status job_begin(Engine *e, Job *job, Err *err) {
    const Ask *a = &job->ask;
    const int groups = is_by_outcome(a) ? a->n_outcomes : 1;
    Status s = OK;
    job->begun = clock_s();
    job->o = (RolloutOptions){.n_samples = a->samples,
                              .batch = 1, /* the run's counts */
                              .max_tokens = a->max_tokens,
                              .seed = a->seed,
                              .estimator = a->kind == ASK_RISK ? a->estimator : ESTIMATOR_MC,
                              .temperature = a->temperature,
                              .top_k = a->top_k,
                              .keep_paths = a->kind == ASK_COMPLETIONS,
                              .horizon_minutes = a->horizon};
    if (a->kind == ASK_RISK) s = outcomes_set(job, &e->session->dataset.vocabulary, err);
    if (a->explain) {
        const ExplainOptions o = {.max_events = a->explain};
        const RolloutJob patient = rollout_job(job);
        explain_find(e->session, &patient, &o, &job->explanation);
        job->value =
            xcalloc((size_t)a->n_outcomes * (size_t)(1 + job->explanation.n) * (size_t)a->samples, sizeof *job->value);
    }
    job->n_tasks = job->n_left = groups * (1 + job->explanation.n);
    job->task = xcalloc((size_t)job->n_tasks, sizeof *job->task);
    for (int g = 0, t = 0; g < groups; g++)
        for (int item = -1; item < job->explanation.n; item++)
            job->task[t++] = (EngineTask){job, is_by_outcome(a) ? g : -1, item};
    Job **at = &e->jobs;
    while (*at) at = &(*at)->engine_next;
    job->engine_link = at;
    *at = job;
    return s;
}

static void job_end(Job *job) {
    *job->engine_link = job->engine_next;
    if (job->engine_next) job->engine_next->engine_link = job->engine_link;
    job->engine_next = NULL;
}

/* Nobody waits for it any more: what has not begun never will.  Returns 1 when it has left. */
static int job_give_up(Engine *e, Job *job) {
    job->n_left -= job->n_tasks - job->next_task;
    job->next_task = job->n_tasks;
    if (job->n_left) return 0;
    job_end(job);
    e->failed(e->ctx, job);
    return 1;
}

/* ---- what comes next --------------------------------------------------------------------------------------------- */

/* Of the requests with jobs to come, the one with the fewest at work. */
static Job *job_next(Engine *e) {
    Job *found = NULL;
    for (Job *j = e->jobs, *next; j; j = next) {
        next = j->engine_next;
        if (j->next_task < j->n_tasks && !e->awaited(e->ctx, j)) job_give_up(e, j);
        else if (j->next_task < j->n_tasks && j->at_work < TASKS_AT_WORK && (!found || j->at_work < found->at_work))
            found = j;
    }
    return found;
}

/* A request is taken when those at work have nothing left to begin; small ones pass by the others. */
static int more(void *ctx, int64_t i, int idle) {
    Engine *e = ctx;
    (void)i;
    while (!e->status) {
        Job *job = NULL;
        e->next = job_next(e);
        const int busy = e->next || e->stats.waiting > 0;
        if (e->next && !e->next->at_work) return 1;
        e->status = e->take(e->ctx, busy ? TAKE_SMALL : idle ? TAKE_WAIT : TAKE_ANY, &job, e->err);
        if (!job) return !e->status && e->next;
        const Status s = job_begin(e, job, e->err);
        if (!e->status) e->status = s;
    }
    return 0;
}

static Status get_job(void *ctx, int64_t i, RolloutJob *out, Err *err) {
    Engine *e = ctx;
    Job *job = e->next;
    EngineTask *t = &job->task[job->next_task++];
    (void)i;
    (void)err;
    job->at_work++;
    *out = rollout_job(job);
    out->user = t;
    out->watch = t->outcome < 0 ? 0 : 1u << t->outcome;
    if (t->item >= 0) {
        out->left_out = job->explanation.item[t->item].index;
        out->n_left_out = job->explanation.item[t->item].n_index;
    }
    return OK;
}

/* ---- what has come ----------------------------------------------------------------------------------------------- */

/* The numbers of `ehr-infer risk`; values has room for n. */
static EngineRisk risk_of(const Job *job, int k, const RolloutSample *s, int n, double *values) {
    double weight = 0, minutes = 0, tokens = 0;
    EngineRisk r = {0};
    for (int i = 0; i < n; i++) {
        values[i] = s[i].competing[k];
        weight += s[i].risk[k];
        minutes += s[i].weighted_minutes[k];
        tokens += s[i].decided[k];
        r.limited += s[i].stop == STOP_LIMIT;
    }
    r.competing = mean_estimate(values, n, 1);
    for (int i = 0; i < n; i++) values[i] = s[i].risk[k];
    r.risk = risk_estimate(job->o.estimator, values, n, 1);
    r.lead_days = weight > 0 ? minutes / weight / 1440 : NAN;
    r.mean_tokens = tokens / n;
    return r;
}

static double *values_of(const Job *job, int a, int item) {
    const size_t row = (size_t)a * (size_t)(1 + job->explanation.n) + (size_t)(1 + item);
    return job->value + row * (size_t)job->ask.samples;
}

RiskEstimate engine_change(const Job *job, int a, int item) {
    const int n = job->ask.samples;
    const double *whole = values_of(job, a, -1), *without = values_of(job, a, item);
    double *d = xmalloc((size_t)n * sizeof *d);
    for (int i = 0; i < n; i++) d[i] = whole[i] - without[i];
    const RiskEstimate e = mean_estimate(d, n, 1);
    free(d);
    return e;
}

static Status job_done(void *ctx, int64_t i, const RolloutJob *rollout, const RolloutSample *samples, int n, Err *err) {
    Engine *e = ctx;
    const EngineTask *t = rollout->user;
    Job *job = t->job;
    Status s = OK;
    (void)i;
    if (job->ask.kind == ASK_COMPLETIONS) s = e->choices(e->ctx, job, samples, n, err);
    double *values = xmalloc((size_t)n * sizeof *values);
    for (int a = 0; a < job->ask.n_outcomes; a++) {
        if (t->outcome >= 0 && t->outcome != a) continue;
        if (t->item < 0) job->risk[a] = risk_of(job, a, samples, n, values);
        for (int k = 0; job->value && k < n; k++) values_of(job, a, t->item)[k] = samples[k].risk[a];
    }
    free(values);
    job->at_work--;
    if (!s && --job->n_left == 0) {
        job_end(job);
        e->done(e->ctx, job);
    }
    return s;
}

static int wanted(void *ctx, int64_t i, const RolloutJob *rollout) {
    Engine *e = ctx;
    Job *job = ((const EngineTask *)rollout->user)->job;
    (void)i;
    if (e->awaited(e->ctx, job)) return 1;
    job->n_left--;
    job->at_work--;
    job_give_up(e, job);
    return 0;
}

static void drawn(void *ctx, int64_t i, const RolloutJob *rollout, int sample, int n, int32_t token, double minutes) {
    Engine *e = ctx;
    (void)i;
    if (e->drawn) e->drawn(e->ctx, ((const EngineTask *)rollout->user)->job, sample, n, token, minutes);
}

static int stop(void *ctx) {
    Engine *e = ctx;
    e->step(e->ctx, &e->stats);
    return e->status != OK;
}

Status engine_run(Engine *e, Err *err) {
    int jobs = e->batch / 4;
    jobs = jobs < JOBS_LEAST ? JOBS_LEAST : jobs > JOBS_MOST ? JOBS_MOST : jobs;
    const RolloutOptions o = {.batch = e->batch, .jobs_max = jobs};
    const RolloutCallbacks cb = {.get_job = get_job,
                                 .job_done = job_done,
                                 .stop = stop,
                                 .more = more,
                                 .wanted = wanted,
                                 .drawn = e->drawn ? drawn : NULL,
                                 .ctx = e};
    e->status = OK;
    e->err = err;
    e->jobs = e->next = NULL;
    const Status s = rollout_run(&e->session->law, &e->session->dataset.vocabulary, &o, -1, &cb, &e->stats, err);
    if (s) e->status = s;
    e->step(e->ctx, &e->stats);
    while (e->jobs) {
        Job *job = e->jobs;
        job_end(job);
        e->failed(e->ctx, job);
    }
    return e->status;
}
