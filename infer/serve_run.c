/* serve_run.c - one run of the rollout engine for many requests.  Requests that agree on how futures are drawn share
 * the run, whatever their patients and outcomes: each watches its own outcomes, and gets the bits that it would get
 * alone. */
#include "infer/estimate.h"
#include "infer/history.h"
#include "infer/serve.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct {
    Job *job;
    int outcome;    /* of reach: the one it watches; else -1: all of the job's */
    uint32_t watch; /* bits of the run's outcomes */
} Task;

/* A different outcome of the run: tokens, tokens that end its watch, horizon. */
typedef struct {
    const AskOutcome *ask;
    double horizon;
} RunOutcome;

typedef struct {
    Server *sv;
    const Vocabulary *v;
    RolloutOptions o;
    Task *task;
    int n_tasks, n_outcomes;
    RunOutcome outcome[SAMPLE_OUTCOMES_MAX];
    double horizon[SAMPLE_OUTCOMES_MAX];
    uint32_t *mark, *stop; /* (V) */
    double *values;        /* (n_samples) */
} Run;

/* ---- what goes together -------------------------------------------------------------------------------------------
 */

static int texts_equal(char *const *a, int n_a, char *const *b, int n_b) {
    if (n_a != n_b) return 0;
    for (int i = 0; i < n_a; i++)
        if (strcmp(a[i], b[i])) return 0;
    return 1;
}

static int outcome_equal(const AskOutcome *a, const AskOutcome *b) {
    return a->horizon == b->horizon && texts_equal(a->codes, a->n_codes, b->codes, b->n_codes) &&
           texts_equal(a->stops, a->n_stops, b->stops, b->n_stops);
}

int serve_goes_with(const Job *a, const Job *b) {
    const Ask *x = &a->ask, *y = &b->ask;
    if (x->kind != y->kind || x->samples != y->samples || x->seed != y->seed || x->max_tokens != y->max_tokens)
        return 0;
    if (x->kind == ASK_RISK) return x->estimator == y->estimator;
    if (x->kind == ASK_EMBEDDINGS) return 1;
    return x->kind == ASK_COMPLETIONS && x->horizon == y->horizon && x->temperature == y->temperature &&
           x->top_k == y->top_k;
}

/* Bits of the job's outcomes among those of the run; 0: there is no room for them all. */
static uint32_t outcomes_add(Run *r, const Ask *a, int only) {
    uint32_t bits = 0;
    int n = r->n_outcomes;
    for (int i = 0; i < a->n_outcomes; i++) {
        int k = 0;
        if (only >= 0 && i != only) continue;
        while (k < n && !outcome_equal(r->outcome[k].ask, &a->outcome[i])) k++;
        if (k == SAMPLE_OUTCOMES_MAX) return 0;
        if (k == n) r->outcome[n++] = (RunOutcome){&a->outcome[i], a->outcome[i].horizon};
        bits |= 1u << k;
    }
    r->n_outcomes = n;
    return bits;
}

static Status outcomes_mark(Run *r, Err *err) {
    int stops = 0;
    Status s = OK;
    for (int k = 0; !s && k < r->n_outcomes; k++) {
        const AskOutcome *a = r->outcome[k].ask;
        s = outcome_mark(r->v, a->name, a->codes, a->n_codes, k, r->mark, err);
        if (!s && a->n_stops) s = outcome_mark(r->v, "stops", a->stops, a->n_stops, k, r->stop, err);
        stops |= a->n_stops > 0;
        r->horizon[k] = a->horizon;
        if (a->horizon > r->o.horizon_minutes) r->o.horizon_minutes = a->horizon;
    }
    r->o.outcome_bits = r->n_outcomes ? r->mark : NULL;
    r->o.stop_bits = stops ? r->stop : NULL;
    r->o.n_outcomes = r->n_outcomes;
    r->o.outcome_horizon = r->n_outcomes ? r->horizon : NULL;
    return s;
}

/* ---- answers ----------------------------------------------------------------------------------------------------- */

static json_t *model_json(const Server *sv) {
    return json_pack("{s:s, s:s, s:s}", "id", sv->model_name, "sha256", sv->session->model_sha256, "stage", sv->stage);
}

/* Why a risk should not be relied on, as far as the record itself tells; what is usual for other patients is not known
 * here. */
static int reason_of(const Run *r, const ServeRecord *p, json_t *words) {
    int64_t events = 0, unknown = 0;
    for (int64_t i = 0; i < p->n_known; i++) {
        const int kind = r->v->token[p->tokens[i]].kind;
        unknown += kind == TOKEN_UNKNOWN;
        events += kind == TOKEN_UNKNOWN || kind == TOKEN_EVENT;
    }
    const HistoryLimits limits = {r->sv->o.min_tokens, r->sv->o.max_unknown, INFINITY, 0};
    const History h = {.unknown = events ? (double)unknown / (double)events : 0, .strangeness = NAN};
    const int reason = history_reason(&limits, &h, p->n_known);
    if (reason & REASON_SHORT) json_array_append_new(words, json_string("record too short"));
    if (reason & REASON_UNKNOWN) json_array_append_new(words, json_string("too much unknown"));
    serve_metrics_abstain(&r->sv->metrics, reason & REASON_SHORT, reason & REASON_UNKNOWN);
    return reason;
}

static void job_finish(Run *r, Job *job) {
    const Ask *a = &job->ask;
    const ServeRecord *p = &a->record;
    json_t *o;
    if (a->kind == ASK_RISK) {
        static const char *const name[] = {"mc", "scope", "reach"};
        json_t *list = json_array(), *words = json_array();
        const int reason = reason_of(r, p, words);
        for (int i = 0; i < a->n_outcomes; i++) {
            serve_metrics_score(&r->sv->metrics, json_number_value(json_object_get(job->part[i], "risk")));
            json_array_append(list, job->part[i]);
        }
        o = json_pack("{s:o, s:s, s:i, s:I, s:{s:I, s:i, s:I, s:I}, s:i, s:o, s:o, s:s}", "model", model_json(r->sv),
                      "estimator", name[a->estimator], "samples", a->samples, "seed", (json_int_t)a->seed, "patient",
                      "known_tokens", (json_int_t)p->n_known, "index_minutes", (int)p->index_minutes, "events",
                      (json_int_t)p->n_events, "unknown_events", (json_int_t)p->n_unknown, "reason", reason, "reasons",
                      words, "outcomes", list, "notice", "Research use; not a medical device.");
    } else {
        o = json_pack("{s:s, s:s, s:I, s:s, s:O, s:{s:I, s:I, s:I}}", "id", "cmpl-ehr", "object", "text_completion",
                      "created", (json_int_t)time(NULL), "model", r->sv->model_name, "choices", job->part[0], "usage",
                      "prompt_tokens", (json_int_t)p->n_known, "completion_tokens", (json_int_t)job->n_drawn,
                      "total_tokens", (json_int_t)(p->n_known + job->n_drawn));
    }
    REQUIRE(o);
    serve_answer(r->sv, job, 200, json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(17)));
    json_decref(o);
}

/* The numbers of `ehr-infer risk` for outcome k of the run. */
static json_t *risk_json(Run *r, const AskOutcome *a, int k, const RolloutSample *s, int n) {
    double weight = 0, minutes = 0, tokens = 0;
    int64_t limited = 0;
    for (int i = 0; i < n; i++) {
        r->values[i] = s[i].competing[k];
        weight += s[i].risk[k];
        minutes += s[i].weighted_minutes[k];
        tokens += s[i].decided[k];
        limited += s[i].stop == STOP_LIMIT;
    }
    const RiskEstimate other = mean_estimate(r->values, n, 1);
    for (int i = 0; i < n; i++) r->values[i] = s[i].risk[k];
    const RiskEstimate e = risk_estimate(r->o.estimator, r->values, n, 1);
    json_t *codes = json_array();
    for (int i = 0; i < a->n_codes; i++) json_array_append_new(codes, json_string(a->codes[i]));
    return json_pack("{s:s, s:o, s:f, s:o, s:o, s:[o, o], s:o, s:o, s:o, s:o, s:I}", "name", a->name, "codes", codes,
                     "horizon_days", a->horizon / 1440, "risk", serve_number(e.risk), "mc_se", serve_number(e.mc_se),
                     "interval", serve_number(e.lo), serve_number(e.hi), "competing_risk", serve_number(other.risk),
                     "competing_se", serve_number(other.mc_se), "lead_days",
                     serve_number(weight > 0 ? minutes / weight / 1440 : NAN), "mean_tokens", serve_number(tokens / n),
                     "stopped_at_max_tokens", (json_int_t)limited);
}

static json_t *choice_json(Run *r, Job *job, int index, const RolloutSample *s, const json_t *logprobs) {
    json_t *ids = json_array(), *days = json_array();
    char *text = NULL;
    size_t size;
    FILE *f = open_memstream(&text, &size);
    REQUIRE(f != NULL);
    for (int i = 0; i < s->n_tokens; i++) {
        fprintf(f, "%s%s", i ? " " : "", r->v->token[s->tokens[i]].code);
        json_array_append_new(ids, json_integer(s->tokens[i]));
        json_array_append_new(days, json_real(s->token_minutes[i] / 1440));
    }
    REQUIRE(!fclose(f));
    job->n_drawn += s->n_tokens;
    json_t *o = json_pack("{s:i, s:s, s:s, s:o, s:o, s:O?, s:s}", "index", index, "text", text, "finish_reason",
                          s->stop == STOP_LIMIT ? "length" : "stop", "token_ids", ids, "days", days, "logprobs",
                          logprobs, "ehr_stop", stop_name(s->stop));
    free(text);
    return o;
}

/* ---- log probabilities ------------------------------------------------------------------------------------------- */

/* Of the n drawn tokens behind the record, each given all before it. */
static Status drawn_logprobs(Run *r, const Job *job, const RolloutSample *s, json_t **out, Err *err) {
    const ServeRecord *p = &job->ask.record;
    const int64_t known = p->n_known, n = known + s->n_tokens;
    uint32_t *token = xcalloc((size_t)n + 1, sizeof *token);
    int32_t *minutes = xcalloc((size_t)n + 1, sizeof *minutes);
    float *loss = xcalloc((size_t)n + 1, sizeof *loss);
    memcpy(token, p->tokens, (size_t)known * sizeof *token);
    memcpy(minutes, p->minutes, (size_t)known * sizeof *minutes);
    for (int i = 0; i < s->n_tokens; i++) {
        token[known + i] = (uint32_t)s->tokens[i];
        minutes[known + i] = (int32_t)fmin(p->index_minutes + s->token_minutes[i], INT32_MAX);
    }
    Status st = serve_losses(r->sv->session, p, token, minutes, n, loss, err);
    if (!st) {
        json_t *codes = json_array(), *values = json_array();
        for (int i = 0; i < s->n_tokens; i++) {
            json_array_append_new(codes, json_string(r->v->token[s->tokens[i]].code));
            json_array_append_new(values, serve_number(-(double)loss[known + i]));
        }
        *out =
            json_pack("{s:o, s:o, s:n, s:n}", "tokens", codes, "token_logprobs", values, "top_logprobs", "text_offset");
    }
    free(token);
    free(minutes);
    free(loss);
    return st;
}

/* ---- the engine's calls ------------------------------------------------------------------------------------------ */

static Status get_job(void *ctx, int64_t i, RolloutJob *out, Err *err) {
    Run *r = ctx;
    const Task *t = &r->task[i];
    const ServeRecord *p = &t->job->ask.record;
    (void)err;
    *out =
        (RolloutJob){.patient = p->view, .n_known = p->n_known, .index_minutes = p->index_minutes, .watch = t->watch};
    return OK;
}

static Status job_done(void *ctx, int64_t i, const RolloutJob *engine_job, const RolloutSample *samples, int n,
                       Err *err) {
    Run *r = ctx;
    Task *t = &r->task[i];
    Job *job = t->job;
    Status s = OK;
    (void)engine_job;
    if (job->ask.kind == ASK_COMPLETIONS) {
        job->part[0] = json_array();
        for (int k = 0; k < n && !s; k++) {
            json_t *logprobs = NULL;
            if (job->ask.logprobs) s = drawn_logprobs(r, job, &samples[k], &logprobs, err);
            if (!s) json_array_append_new(job->part[0], choice_json(r, job, k, &samples[k], logprobs));
            json_decref(logprobs);
        }
    }
    for (int a = 0; a < job->ask.n_outcomes; a++) {
        int k = 0;
        if (t->outcome >= 0 && t->outcome != a) continue;
        while (!outcome_equal(r->outcome[k].ask, &job->ask.outcome[a])) k++;
        job->part[a] = risk_json(r, &job->ask.outcome[a], k, samples, n);
    }
    if (!s && --job->n_left == 0 && !job->ask.explain) job_finish(r, job);
    return s;
}

static int is_waited_for(Server *sv, const Job *job) {
    pthread_mutex_lock(&sv->lock);
    const int waits = job->x != NULL;
    pthread_mutex_unlock(&sv->lock);
    return waits;
}

/* Nobody waits for this run any more: all its requests were given up. */
static int all_given_up(void *ctx) {
    const Run *r = ctx;
    int waiting = 0;
    for (int i = 0; i < r->n_tasks && !waiting; i++) waiting = is_waited_for(r->sv, r->task[i].job);
    return !waiting;
}

/* Tasks of as many of the jobs as the run has room for; returns the first that is left for the next. */
static Job *tasks_make(Run *r, Job *jobs) {
    int most = 0;
    for (Job *j = jobs; j; j = j->next) most += j->ask.n_outcomes + 1;
    r->task = xcalloc((size_t)most, sizeof *r->task);
    for (; jobs; jobs = jobs->next) {
        const int before = r->n_outcomes, reach = jobs->ask.estimator == ESTIMATOR_REACH,
                  n = reach ? jobs->ask.n_outcomes : 1;
        const int first = r->n_tasks;
        if (!is_waited_for(r->sv, jobs)) continue; /* given up already */
        jobs->n_left = jobs->ask.kind == ASK_RISK ? n : 1;
        for (int i = 0; i < jobs->n_left; i++) {
            const uint32_t bits = outcomes_add(r, &jobs->ask, jobs->ask.kind == ASK_RISK && reach ? i : -1);
            if (!bits && jobs->ask.n_outcomes) {
                r->n_tasks = first;
                r->n_outcomes = before;
                return jobs;
            }
            r->task[r->n_tasks++] = (Task){jobs, reach && jobs->ask.kind == ASK_RISK ? i : -1, bits};
        }
    }
    return NULL;
}

static Status rollouts(Server *sv, Job **jobs, Err *err) {
    const Ask *a = &(*jobs)->ask;
    const size_t V = (size_t)sv->session->dataset.vocabulary.n;
    Run r = {.sv = sv, .v = &sv->session->dataset.vocabulary};
    r.o = (RolloutOptions){.n_samples = a->samples,
                           .batch = sv->o.batch,
                           .max_tokens = a->max_tokens,
                           .seed = a->seed,
                           .estimator = a->kind == ASK_RISK ? a->estimator : ESTIMATOR_MC,
                           .temperature = a->temperature,
                           .top_k = a->top_k,
                           .keep_paths = a->kind == ASK_COMPLETIONS,
                           .horizon_minutes = a->kind == ASK_RISK ? 0 : a->horizon};
    r.mark = xcalloc(V, sizeof *r.mark);
    r.stop = xcalloc(V, sizeof *r.stop);
    r.values = xcalloc((size_t)a->samples, sizeof *r.values);
    Job *left = tasks_make(&r, *jobs);
    RolloutStats stats = {0};
    Status s = outcomes_mark(&r, err);
    if (!s && r.n_tasks) {
        const RolloutCallbacks cb = {.get_job = get_job, .job_done = job_done, .stop = all_given_up, .ctx = &r};
        s = rollout_run(&sv->session->law, r.v, &r.o, r.n_tasks, &cb, &stats, err);
    }
    int requests = 0;
    for (Job *j = *jobs; j != left; j = j->next, requests++) {
        if (s || !j->ask.explain || j->n_left || !is_waited_for(sv, j)) continue;
        s = serve_explain(sv, j, &r.o, err);
        if (!s) job_finish(&r, j);
    }
    serve_metrics_run(&sv->metrics, requests, stats.samples, stats.tokens, stats.prefill_tokens);
    free(r.task);
    free(r.mark);
    free(r.stop);
    free(r.values);
    *jobs = left;
    return s;
}

/* ---- scores ------------------------------------------------------------------------------------------------------ */

static Status score(Server *sv, Job *job, Err *err) {
    const ServeRecord *p = &job->ask.record;
    const Vocabulary *v = &sv->session->dataset.vocabulary;
    float *loss = xcalloc((size_t)p->view.n + 1, sizeof *loss);
    Status s = serve_losses(sv->session, p, p->tokens, p->minutes, p->view.n, loss, err);
    json_t *list = json_array();
    double total = 0;
    for (int64_t i = 0; !s && i < p->view.n; i++) {
        json_array_append_new(list, json_pack("{s:i, s:s, s:i, s:o}", "id", (int)p->tokens[i], "code",
                                              v->token[p->tokens[i]].code, "minutes", (int)p->minutes[i], "logprob",
                                              serve_number(-(double)loss[i])));
        total += (double)loss[i];
    }
    free(loss);
    if (!s) {
        json_t *o = json_pack("{s:o, s:O, s:I, s:o, s:I, s:I}", "model", model_json(sv), "tokens", list, "n",
                              (json_int_t)p->view.n, "loss", serve_number(p->view.n ? total / (double)p->view.n : NAN),
                              "events", (json_int_t)p->n_events, "unknown_events", (json_int_t)p->n_unknown);
        serve_answer(sv, job, 200, json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(9)));
        json_decref(o);
    }
    json_decref(list);
    return s;
}

Status serve_compute(Server *sv, Job *jobs, Err *err) {
    Status s = OK;
    const AskKind kind = jobs->ask.kind;
    while (!s && jobs) {
        if (kind == ASK_RISK || kind == ASK_COMPLETIONS) {
            s = rollouts(sv, &jobs, err);
            continue;
        }
        if (kind == ASK_EMBEDDINGS) return serve_embeddings(sv, jobs, err);
        if (is_waited_for(sv, jobs)) s = score(sv, jobs, err);
        jobs = jobs->next;
    }
    return s;
}
