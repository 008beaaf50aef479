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
    const int reason = history_reason(&limits, &h, p->n_known) | history_dead(v, &p->view, p->n_known);
    if (reason & REASON_DEAD) json_array_append_new(words, json_string("the record says that the patient has died"));
    if (reason & REASON_SHORT) json_array_append_new(words, json_string("record too short"));
    if (reason & REASON_UNKNOWN) json_array_append_new(words, json_string("too much unknown"));
    serve_metrics_abstain(&sv->metrics, reason & REASON_SHORT, reason & REASON_UNKNOWN, reason & REASON_DEAD);
    return reason;
}

static int by_change(const void *a, const void *b) {
    const ExplainItem *x = *(const ExplainItem *const *)a, *y = *(const ExplainItem *const *)b;
    if (fabs(x->change) != fabs(y->change)) return fabs(x->change) > fabs(y->change) ? -1 : 1;
    return x->index[0] < y->index[0] ? -1 : x->index[0] > y->index[0];
}

/* Its events by how much leaving them out changes the risk: the numbers of `ehr-infer explain`. */
static json_t *explanation_json(const Server *sv, const Job *job, int a) {
    const Vocabulary *v = &sv->session->dataset.vocabulary;
    const ServeRecord *p = job->ask.record;
    const Explanation *x = &job->explanation[a];
    const ExplainItem **item = xcalloc((size_t)x->n + 1, sizeof *item);
    for (int i = 0; i < x->n; i++) item[i] = &x->item[i];
    qsort(item, (size_t)x->n, sizeof *item, by_change);
    json_t *list = json_array();
    for (int i = 0; i < x->n; i++) {
        const int64_t at = item[i]->index[0];
        const VocabToken *t = &v->token[p->tokens[at]];
        json_array_append_new(list, json_pack("{s:s, s:s, s:I, s:f, s:o, s:o, s:[o, o]}", "code", t->code, "name", t->name,
                                              "token", (json_int_t)at, "days",
                                              (p->minutes[at] - (double)p->index_minutes) / 1440, "change",
                                              serve_number(item[i]->change), "se", serve_number(item[i]->se), "interval",
                                              serve_number(item[i]->lo), serve_number(item[i]->hi)));
    }
    free(item);
    return json_pack("{s:o, s:I, s:s}", "events", list, "not_looked_at", (json_int_t)x->skipped, "note",
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

/* The numbers of `ehr-infer risk`, and the codes that no token has: no future comes to them. */
static json_t *risk_json(const Server *sv, const Job *job, int k) {
    const AskOutcome *a = &job->ask.outcome[k];
    const EngineRisk *r = &job->risk[k];
    json_t *codes = json_array(), *unknown = json_array();
    char name[512];
    for (int i = 0; i < a->n_codes; i++) {
        json_array_append_new(codes, json_string(a->codes[i]));
        if (outcome_unknown(&sv->session->dataset.vocabulary, &a->codes[i], 1, name, sizeof name))
            json_array_append_new(unknown, json_string(a->codes[i]));
    }
    json_t *o = json_pack("{s:s, s:o, s:o, s:f, s:o, s:o, s:[o, o], s:o, s:o, s:o, s:o, s:I}", "name", a->name, "codes",
                          codes, "unknown_codes", unknown, "horizon_days", a->horizon / 1440, "risk", serve_number(r->risk.risk), "mc_se",
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
    const ServeRecord *p = a->record;
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

/* As OpenAI has them: of tokens that begin at `offset` bytes of the choice's text. */
static json_t *logprobs_json(const Vocabulary *v, const int32_t *token, const float *logprob, int n, size_t offset) {
    json_t *codes = json_array(), *values = json_array(), *offsets = json_array();
    for (int i = 0; i < n; i++) {
        const char *code = v->token[token[i]].code;
        json_array_append_new(codes, json_string(code));
        json_array_append_new(values, serve_number((double)logprob[i]));
        json_array_append_new(offsets, json_integer((json_int_t)offset));
        offset += strlen(code) + 1;
    }
    return json_pack("{s:o, s:o, s:n, s:o}", "tokens", codes, "token_logprobs", values, "top_logprobs", "text_offset",
                     offsets);
}

static json_t *choice_json(const Server *sv, const Job *job, int index, const RolloutSample *s) {
    const Vocabulary *v = &sv->session->dataset.vocabulary;
    json_t *ids = json_array(), *days = json_array();
    char *text = NULL;
    size_t size;
    FILE *f = open_memstream(&text, &size);
    REQUIRE(f != NULL);
    for (int i = 0; i < s->n_tokens; i++) {
        fprintf(f, "%s%s", i ? " " : "", v->token[s->tokens[i]].code);
        json_array_append_new(ids, json_integer(s->tokens[i]));
        json_array_append_new(days, json_real(s->token_minutes[i] / 1440));
    }
    REQUIRE(!fclose(f));
    json_t *logprobs =
        job->ask.logprobs ? logprobs_json(v, s->tokens, job->choice[index].logprob, s->n_tokens, 0) : json_null();
    json_t *o =
        json_pack("{s:i, s:s, s:s, s:o, s:o, s:o, s:s}", "index", index, "text", text, "finish_reason", finish_of(s),
                  "token_ids", ids, "days", days, "logprobs", logprobs, "ehr_stop", stop_name(s->stop));
    REQUIRE(o);
    free(text);
    return o;
}

static json_t *usage_json(const Job *job) {
    json_int_t known = 0, drawn = (json_int_t)job->n_drawn;
    for (int i = 0; i < job->ask.n_records; i++) known += (json_int_t)job->ask.record[i].n_known;
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

void serve_tell_token(Server *sv, Job *job, int choice, int n, int32_t token, double minutes, double logprob) {
    const Vocabulary *v = &sv->session->dataset.vocabulary;
    EngineChoice *c = &job->choice[choice];
    const float p = (float)logprob;
    if (!job->ask.stream) {
        if (c->n == c->room) c->logprob = xrealloc(c->logprob, (size_t)(c->room = 2 * c->room + 64) * sizeof *c->logprob);
        c->logprob[c->n++] = p;
        return;
    }
    char *text = xasprintf("%s%s", n ? " " : "", v->token[token].code);
    json_t *logprobs = job->ask.logprobs ? logprobs_json(v, &token, &p, 1, c->text_n + (n > 0)) : json_null();
    json_t *o = json_pack("{s:i, s:s, s:n, s:o, s:[i], s:[f]}", "index", choice, "text", text, "finish_reason",
                          "logprobs", logprobs, "token_ids", (int)token, "days", minutes / 1440);
    REQUIRE(o);
    c->text_n += strlen(text);
    piece_add(job, completion_text(sv, job, json_pack("[o]", o), NULL));
    free(text);
}

/* Why a choice ended. */
static void stream_end(Server *sv, Job *job, int choice, const RolloutSample *s) {
    piece_add(job, completion_text(sv, job,
                                   json_pack("[{s:i, s:s, s:s, s:n, s:s}]", "index", choice, "text", "", "finish_reason",
                                             finish_of(s), "logprobs", "ehr_stop", stop_name(s->stop)),
                                   NULL));
}

/* ---- what the engine has come to --------------------------------------------------------------------------------- */

void serve_choices(Server *sv, Job *job, int record, const RolloutSample *samples, int n) {
    const Ask *a = &job->ask;
    if (!a->stream && !job->choices) {
        job->choices = json_array();
        for (int i = 0; i < a->n_records * a->samples; i++) json_array_append_new(job->choices, json_null());
    }
    if (sv->second && !record && second_wants(sv->second, job)) {
        job->kept = xcalloc(SECOND_FUTURES, sizeof *job->kept);
        for (int k = 0; k < n && k < SECOND_FUTURES; k++) job->kept[job->n_kept++] = rollout_path_copy(&samples[k]);
    }
    for (int k = 0; k < n; k++) {
        const int choice = record * a->samples + k;
        job->n_drawn += samples[k].n_tokens;
        if (a->stream) stream_end(sv, job, choice, &samples[k]);
        else json_array_set_new(job->choices, (size_t)choice, choice_json(sv, job, choice, &samples[k]));
    }
    if (a->stream) serve_stream_flush(sv, job);
}

/* What a stream ends with: on request how much there was. */
static void stream_close(Server *sv, Job *job) {
    if (job->ask.usage) piece_add(job, completion_text(sv, job, json_array(), usage_json(job)));
    serve_stream_flush(sv, job);
}

static void offer(Server *sv, Job *job) {
    double threshold[ASK_OUTCOMES_MAX];
    const char *why;
    for (int k = 0; k < job->ask.n_outcomes; k++) {
        const RecalibrationMap *m = maps_find(&sv->maps, &job->ask.outcome[k], job->ask.estimator, &why);
        threshold[k] = m ? map_undo(m, m->threshold) : NAN;
    }
    second_offer(sv->second, job, &(SecondTold){.threshold = threshold});
}

void serve_tell(Server *sv, Job *job) {
    char *text;
    if (job->ask.kind == ASK_RISK) text = risks_text(sv, job);
    else if (job->ask.stream) stream_close(sv, job), text = xstrdup("data: [DONE]\n\n");
    else text = completion_text(sv, job, json_incref(job->choices), usage_json(job));
    serve_answer(sv, job, 200, text);
    if (sv->second) offer(sv, job);
}
