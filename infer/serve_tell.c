/* serve_tell.c - what is told of a finished request, and of a stream while it goes on. */
#include "infer/history.h"
#include "infer/serve.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

json_t *serve_number(double x) { return isfinite(x) ? json_real(x) : json_null(); }

json_t *serve_model_json(const Server *sv) {
    return json_pack("{s:s, s:s, s:s}", "id", sv->model_name, "sha256", sv->session->model_sha256, "stage", sv->stage);
}

static char *text_of(json_t *o) {
    REQUIRE(o);
    char *text = json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(17));
    json_decref(o);
    return text;
}

/* ---- risks ------------------------------------------------------------------------------------------------------- */

/* Why a risk should not be relied on, as far as the record itself tells; what is usual for other patients is not known
 * here. */
static int reason_of(Server *sv, const ServeRecord *p, json_t *words) {
    const Vocabulary *v = &sv->session->dataset.vocabulary;
    int64_t events = 0, unknown = 0;
    for (int64_t i = 0; i < p->n_known; i++) {
        const int kind = v->token[p->tokens[i]].kind;
        unknown += kind == TOKEN_UNKNOWN;
        events += kind == TOKEN_UNKNOWN || kind == TOKEN_EVENT;
    }
    const HistoryLimits limits = {sv->o.min_tokens, sv->o.max_unknown, INFINITY, 0};
    const History h = {.unknown = events ? (double)unknown / (double)events : 0, .strangeness = NAN};
    const int reason = history_reason(&limits, &h, p->n_known);
    if (reason & REASON_SHORT) json_array_append_new(words, json_string("record too short"));
    if (reason & REASON_UNKNOWN) json_array_append_new(words, json_string("too much unknown"));
    serve_metrics_abstain(&sv->metrics, reason & REASON_SHORT, reason & REASON_UNKNOWN);
    return reason;
}

typedef struct {
    int item;
    RiskEstimate change;
} Change;

static int by_size(const void *a, const void *b) {
    const Change *p = a, *q = b;
    const double x = fabs(p->change.risk), y = fabs(q->change.risk);
    return x != y ? (x < y ? 1 : -1) : p->item - q->item;
}

/* Its events by how much leaving them out changes the risk. */
static json_t *explanation_json(const Server *sv, const Job *job, int a) {
    const Vocabulary *v = &sv->session->dataset.vocabulary;
    const ServeRecord *p = &job->ask.record;
    const int n = job->explanation.n;
    Change *change = xcalloc((size_t)n + 1, sizeof *change);
    for (int i = 0; i < n; i++) change[i] = (Change){i, engine_change(job, a, i)};
    qsort(change, (size_t)n, sizeof *change, by_size);
    json_t *list = json_array();
    for (int i = 0; i < n; i++) {
        const RiskEstimate *e = &change[i].change;
        const int64_t at = job->explanation.item[change[i].item].index[0];
        const VocabToken *t = &v->token[p->tokens[at]];
        json_array_append_new(list, json_pack("{s:s, s:s, s:f, s:o, s:o, s:[o, o]}", "code", t->code, "name", t->name,
                                              "days", (p->minutes[at] - (double)p->index_minutes) / 1440, "change",
                                              serve_number(e->risk), "se", serve_number(e->mc_se), "interval",
                                              serve_number(e->lo), serve_number(e->hi)));
    }
    free(change);
    return json_pack("{s:o, s:I, s:s}", "events", list, "not_looked_at", (json_int_t)job->explanation.skipped, "note",
                     "association, not effect");
}

/* Adds the risk as the map of its name tells it, or why not. */
static void recalibrate(const Server *sv, json_t *o, const Job *job, int k) {
    const char *why;
    const EngineRisk *r = &job->risk[k];
    const RecalibrationMap *m = maps_find(&sv->maps, &job->ask.outcome[k], job->ask.estimator, &why);
    if (!m) {
        json_object_set_new(o, "recalibrated", json_null());
        json_object_set_new(o, "not_recalibrated", json_string(why));
        return;
    }
    const double p = map_apply(m, r->risk.risk);
    json_object_set_new(o, "recalibrated",
                        json_pack("{s:o, s:[o, o], s:s, s:s, s:s, s:f, s:f, s:b}", "risk", serve_number(p), "interval",
                                  serve_number(map_apply(m, r->risk.lo)), serve_number(map_apply(m, r->risk.hi)), "map",
                                  m->sha256, "task", m->name, "fitted", m->fitted, "threshold", m->threshold,
                                  "alerts_per_100", m->alerts_per_100, "alert", p >= m->threshold));
}

/* The numbers of `ehr-infer risk`. */
static json_t *risk_json(const Server *sv, const Job *job, int k) {
    const AskOutcome *a = &job->ask.outcome[k];
    const EngineRisk *r = &job->risk[k];
    json_t *codes = json_array();
    for (int i = 0; i < a->n_codes; i++) json_array_append_new(codes, json_string(a->codes[i]));
    json_t *o = json_pack("{s:s, s:o, s:f, s:o, s:o, s:[o, o], s:o, s:o, s:o, s:o, s:I}", "name", a->name, "codes",
                          codes, "horizon_days", a->horizon / 1440, "risk", serve_number(r->risk.risk), "mc_se",
                          serve_number(r->risk.mc_se), "interval", serve_number(r->risk.lo), serve_number(r->risk.hi),
                          "competing_risk", serve_number(r->competing.risk), "competing_se",
                          serve_number(r->competing.mc_se), "lead_days", serve_number(r->lead_days), "mean_tokens",
                          serve_number(r->mean_tokens), "stopped_at_max_tokens", (json_int_t)r->limited);
    REQUIRE(o);
    recalibrate(sv, o, job, k);
    if (job->ask.explain) json_object_set_new(o, "explanation", explanation_json(sv, job, k));
    return o;
}

static char *risks_text(Server *sv, const Job *job) {
    static const char *const name[] = {"mc", "scope", "reach"};
    const Ask *a = &job->ask;
    const ServeRecord *p = &a->record;
    json_t *list = json_array(), *words = json_array();
    const int reason = reason_of(sv, p, words);
    for (int k = 0; k < a->n_outcomes; k++) {
        serve_metrics_score(&sv->metrics, job->risk[k].risk.risk);
        json_array_append_new(list, risk_json(sv, job, k));
    }
    return text_of(json_pack("{s:o, s:s, s:i, s:I, s:{s:I, s:i, s:I, s:I}, s:i, s:o, s:o, s:s}", "model",
                             serve_model_json(sv), "estimator", name[a->estimator], "samples", a->samples, "seed",
                             (json_int_t)a->seed, "patient", "known_tokens", (json_int_t)p->n_known, "index_minutes",
                             (int)p->index_minutes, "events", (json_int_t)p->n_events, "unknown_events",
                             (json_int_t)p->n_unknown, "reason", reason, "reasons", words, "outcomes", list, "notice",
                             "Research use; not a medical device."));
}

/* ---- completions ------------------------------------------------------------------------------------------------- */

static const char *finish_of(const RolloutSample *s) { return s->stop == STOP_LIMIT ? "length" : "stop"; }

static json_t *choice_json(const Server *sv, int index, const RolloutSample *s, const json_t *logprobs) {
    json_t *ids = json_array(), *days = json_array();
    char *text = NULL;
    size_t size;
    FILE *f = open_memstream(&text, &size);
    REQUIRE(f != NULL);
    for (int i = 0; i < s->n_tokens; i++) {
        fprintf(f, "%s%s", i ? " " : "", sv->session->dataset.vocabulary.token[s->tokens[i]].code);
        json_array_append_new(ids, json_integer(s->tokens[i]));
        json_array_append_new(days, json_real(s->token_minutes[i] / 1440));
    }
    REQUIRE(!fclose(f));
    json_t *o =
        json_pack("{s:i, s:s, s:s, s:o, s:o, s:O?, s:s}", "index", index, "text", text, "finish_reason", finish_of(s),
                  "token_ids", ids, "days", days, "logprobs", logprobs, "ehr_stop", stop_name(s->stop));
    REQUIRE(o);
    free(text);
    return o;
}

/* Of the n drawn tokens behind the record, each given all before it. */
static Status drawn_logprobs(Server *sv, const Job *job, const RolloutSample *s, json_t **out, Err *err) {
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
    Status st = serve_losses(sv->session, p, token, minutes, n, loss, err);
    if (!st) {
        json_t *codes = json_array(), *values = json_array();
        for (int i = 0; i < s->n_tokens; i++) {
            json_array_append_new(codes, json_string(sv->session->dataset.vocabulary.token[s->tokens[i]].code));
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

static json_t *usage_json(const Job *job) {
    const json_int_t known = (json_int_t)job->ask.record.n_known, drawn = (json_int_t)job->n_drawn;
    return json_pack("{s:I, s:I, s:I}", "prompt_tokens", known, "completion_tokens", drawn, "total_tokens",
                     known + drawn);
}

/* choices and usage (NULL: none) are taken over. */
static char *completion_text(const Server *sv, const Job *job, json_t *choices, json_t *usage) {
    char id[40];
    snprintf(id, sizeof id, "cmpl-%.8s-%llu", sv->session->model_sha256, (unsigned long long)job->id);
    json_t *o = json_pack("{s:s, s:s, s:I, s:s, s:o}", "id", id, "object", "text_completion", "created",
                          (json_int_t)time(NULL), "model", sv->model_name, "choices", choices);
    if (usage) json_object_set_new(o, "usage", usage);
    return text_of(o);
}

/* ---- streams ----------------------------------------------------------------------------------------------------- */

/* text is taken over. */
static void piece_add(Job *job, char *text) {
    const size_t n = strlen(text) + 8;
    if (job->piece_n + n + 1 > job->piece_room)
        job->piece = xrealloc(job->piece, job->piece_room = 2 * (job->piece_n + n) + 1024);
    job->piece_n += (size_t)snprintf(job->piece + job->piece_n, n + 1, "data: %s\n\n", text);
    free(text);
}

void serve_tell_token(Server *sv, Job *job, int sample, int n, int32_t token, double minutes) {
    char *text = xasprintf("%s%s", n ? " " : "", sv->session->dataset.vocabulary.token[token].code);
    json_t *choice = json_pack("{s:i, s:s, s:n, s:n, s:[i], s:[f]}", "index", sample, "text", text, "finish_reason",
                               "logprobs", "token_ids", (int)token, "days", minutes / 1440);
    REQUIRE(choice);
    piece_add(job, completion_text(sv, job, json_pack("[o]", choice), NULL));
    free(text);
}

/* Why each choice ended, and on request how much there was. */
static void stream_close(Server *sv, Job *job, const RolloutSample *samples, int n) {
    for (int k = 0; k < n; k++) {
        job->n_drawn += samples[k].n_tokens;
        piece_add(job,
                  completion_text(sv, job,
                                  json_pack("[{s:i, s:s, s:s, s:n, s:s}]", "index", k, "text", "", "finish_reason",
                                            finish_of(&samples[k]), "logprobs", "ehr_stop", stop_name(samples[k].stop)),
                                  NULL));
    }
    if (job->ask.usage) piece_add(job, completion_text(sv, job, json_array(), usage_json(job)));
    serve_stream_flush(sv, job);
}

/* ---- what the engine has come to --------------------------------------------------------------------------------- */

Status serve_choices(Server *sv, Job *job, const RolloutSample *samples, int n, Err *err) {
    Status s = OK;
    if (job->ask.stream) {
        stream_close(sv, job, samples, n);
        return OK;
    }
    job->choices = json_array();
    for (int k = 0; k < n && !s; k++) {
        json_t *logprobs = NULL;
        job->n_drawn += samples[k].n_tokens;
        if (job->ask.logprobs) s = drawn_logprobs(sv, job, &samples[k], &logprobs, err);
        if (!s) json_array_append_new(job->choices, choice_json(sv, k, &samples[k], logprobs));
        json_decref(logprobs);
    }
    return s;
}

static void offer(Server *sv, Job *job) {
    double threshold[ASK_OUTCOMES_MAX];
    const char *why;
    for (int k = 0; k < job->ask.n_outcomes; k++) {
        const RecalibrationMap *m = maps_find(&sv->maps, &job->ask.outcome[k], job->ask.estimator, &why);
        threshold[k] = m ? map_undo(m, m->threshold) : NAN;
    }
    second_offer(sv->second, job, NAN, threshold);
}

void serve_tell(Server *sv, Job *job) {
    char *text;
    if (job->ask.kind == ASK_RISK) text = risks_text(sv, job);
    else if (job->ask.stream) text = xstrdup("data: [DONE]\n\n");
    else text = completion_text(sv, job, json_incref(job->choices), usage_json(job));
    serve_answer(sv, job, 200, text);
    if (sv->second && job->ask.kind == ASK_RISK) offer(sv, job);
}
