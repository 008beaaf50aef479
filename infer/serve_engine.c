/* serve_engine.c - see serve_engine.h.  A request is one or several jobs of one unending rollout: a risk by reach is
 * one for each outcome, a batch one for each record, an explanation one for each event that is left out, and when those
 * are drawn one for each history that follows the others' (explain.h).  Which of them comes next is decided whenever a
 * future has room to begin. */
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
    const int64_t asked = (int64_t)a->samples * (is_by_outcome(a) ? a->n_outcomes : a->n_records);
    return asked + 2 * (int64_t)a->explain * a->samples * a->n_outcomes;
}

void engine_job_free(Job *job) {
    for (int i = 0; i < job->n_choices; i++) free(job->choice[i].logprob);
    for (int i = 0; i < job->n_kept; i++) rollout_path_free(&job->kept[i]);
    for (int k = 0; k < ASK_OUTCOMES_MAX; k++) {
        if (job->run[k]) explain_close(job->run[k], 0);
        explain_free(&job->explanation[k]);
    }
    free(job->mark);
    free(job->stop);
    free(job->task);
    free(job->choice);
    free(job->kept);
    free(job->follow);
    free(job->piece);
    json_decref(job->choices);
    ask_free(&job->ask);
    free(job);
}

static RolloutJob rollout_job(const Job *job, int record) {
    const ServeRecord *p = &job->ask.record[record];
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

static void task_add(Job *job, EngineTaskKind kind, int outcome, int64_t i) {
    job->task[job->n_tasks++] = (EngineTask){job, kind, outcome, i};
    job->n_left++;
}

/* Explanations are by reach, as `ehr-infer explain` has them: its whole history's futures are those of a risk by reach. */
static void explain_begin(Engine *e, Job *job, int outcome) {
    const Ask *a = &job->ask;
    const RolloutJob patient = rollout_job(job, 0);
    const ExplainOptions o = {.max_events = a->explain, .rollout = job->o};
    Explanation *x = &job->explanation[outcome];
    explain_find(e->session, &patient, &o, x);
    job->run[outcome] = explain_open(a->samples, outcome, x);
    job->run_left[outcome] = 1 + x->n;
    for (int i = 0; i <= x->n; i++) task_add(job, TASK_DRAW, outcome, i);
}

/* The jobs of a request, each group in the order of the record so that one finds the pages of the one before cached. */
static Status job_begin(Engine *e, Job *job, Err *err) {
    const Ask *a = &job->ask;
    const int by_outcome = is_by_outcome(a);
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
                              .tell_logprobs = a->logprobs,
                              .horizon_minutes = a->horizon};
    if (a->kind == ASK_RISK) s = outcomes_set(job, &e->session->dataset.vocabulary, err);
    job->o_draw = job->o_follow = job->o;
    job->o_draw.estimator = job->o_follow.estimator = ESTIMATOR_REACH;
    job->o_draw.keep_paths = 1;
    job->task = xcalloc((size_t)a->n_records + (size_t)a->n_outcomes * (3 + 2 * (size_t)a->explain), sizeof *job->task);
    job->n_choices = a->kind == ASK_COMPLETIONS ? a->n_records * a->samples : 0;
    job->choice = xcalloc((size_t)job->n_choices + 1, sizeof *job->choice);
    for (int r = 0; !by_outcome && r < a->n_records; r++) task_add(job, TASK_ASKED, -1, r);
    for (int k = 0; k < a->n_outcomes; k++) {
        if (a->explain) explain_begin(e, job, k);
        else if (by_outcome) task_add(job, TASK_ASKED, k, 0);
    }
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
    *out = rollout_job(job, t->kind == TASK_ASKED ? (int)t->i : 0);
    out->user = t;
    out->watch = t->outcome < 0 ? 0 : 1u << t->outcome;
    if (job->follow) out->follow = job->follow, out->n_follow = job->ask.samples;
    if (t->kind == TASK_DRAW) explain_draw_job(job->run[t->outcome], t->i, out);
    if (t->kind == TASK_FOLLOW) explain_follow_job(job->run[t->outcome], t->i, out);
    if (t->kind != TASK_ASKED) out->o = t->kind == TASK_DRAW ? &job->o_draw : &job->o_follow;
    return OK;
}

/* ---- what has come ----------------------------------------------------------------------------------------------- */

/* The numbers of `ehr-infer risk` */
static EngineRisk risk_of(const Job *job, int k, const RolloutSample *s, int n) {
    double weight = 0, minutes = 0, tokens = 0, *values = xmalloc((size_t)n * sizeof *values);
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
    free(values);
    return r;
}

/* A job of an explanation is over: the last that is drawn lets others follow, the last of those ends it. */
static void explain_step(Job *job, const EngineTask *t, const RolloutSample *samples, int n) {
    const int k = t->outcome;
    if (t->kind == TASK_DRAW) explain_drawn(job->run[k], t->i, samples);
    else explain_followed(job->run[k], t->i, samples, n);
    if (--job->run_left[k]) return;
    job->run_left[k] = t->kind == TASK_DRAW ? (int)explain_follow(job->run[k]) : 0;
    for (int i = 0; i < job->run_left[k]; i++) task_add(job, TASK_FOLLOW, k, i);
    if (job->run_left[k]) return;
    explain_close(job->run[k], 1);
    job->run[k] = NULL;
}

static Status job_done(void *ctx, int64_t i, const RolloutJob *rollout, const RolloutSample *samples, int n, Err *err) {
    Engine *e = ctx;
    const EngineTask *t = rollout->user;
    Job *job = t->job;
    Status s = OK;
    (void)i;
    if (job->ask.kind == ASK_COMPLETIONS) s = e->choices(e->ctx, job, (int)t->i, samples, n, err);
    const int whole = t->kind == TASK_ASKED || (t->kind == TASK_DRAW && !t->i && is_by_outcome(&job->ask));
    for (int a = 0; whole && a < job->ask.n_outcomes; a++)
        if (t->outcome < 0 || t->outcome == a) job->risk[a] = risk_of(job, a, samples, n);
    if (t->kind != TASK_ASKED) explain_step(job, t, samples, n);
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

static void drawn(void *ctx, int64_t i, const RolloutJob *rollout, int sample, int n, int32_t token, double minutes,
                  double logprob) {
    Engine *e = ctx;
    const EngineTask *t = rollout->user;
    (void)i;
    if (t->job->n_choices)
        e->drawn(e->ctx, t->job, (int)t->i * t->job->ask.samples + sample, n, token, minutes, logprob);
}

static int stop(void *ctx) {
    Engine *e = ctx;
    e->step(e->ctx, &e->stats);
    return e->status != OK;
}

Status engine_run(Engine *e, Err *err) {
    int jobs = e->batch / 4;
    jobs = jobs < JOBS_LEAST ? JOBS_LEAST : jobs > JOBS_MOST ? JOBS_MOST : jobs;
    const RolloutOptions o = {.batch = e->batch, .jobs_max = jobs, .weigh_paths = 1};
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
