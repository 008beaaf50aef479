/* serve_more.c - embeddings of the records told, and what moved a risk. */
#include "infer/embed.h"
#include "infer/explain.h"
#include "infer/serve.h"
#include <math.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

/* ---- embeddings -------------------------------------------------------------------------------------------------- */

typedef struct {
    Server *sv;
    Job **job; /* (n) */
} Embeddings;

static RolloutJob job_of(const Job *job) {
    const ServeRecord *p = &job->ask.record;
    return (RolloutJob){.patient = p->view, .n_known = p->n_known, .index_minutes = p->index_minutes};
}

static Status get_job(void *ctx, int64_t i, RolloutJob *out, Err *err) {
    (void)err;
    *out = job_of(((Embeddings *)ctx)->job[i]);
    return OK;
}

static json_t *vector_json(const float *x, size_t n, int base64) {
    if (base64) {
        const size_t room = sodium_base64_ENCODED_LEN(n * sizeof *x, sodium_base64_VARIANT_ORIGINAL);
        char *text = xmalloc(room);
        sodium_bin2base64(text, room, (const unsigned char *)x, n * sizeof *x, sodium_base64_VARIANT_ORIGINAL);
        json_t *o = json_string(text);
        free(text);
        return o;
    }
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++) json_array_append_new(list, serve_number((double)x[i]));
    return list;
}

static Status take(void *ctx, int64_t i, const RolloutJob *engine_job, const RolloutWindow *w, const float *hidden,
                   Err *err) {
    Embeddings *e = ctx;
    Job *job = e->job[i];
    const size_t C = (size_t)e->sv->session->model.cfg.d_model;
    float *out = xmalloc(C * sizeof *out);
    (void)engine_job;
    (void)err;
    memcpy(out, hidden + (size_t)(w->n - 1) * C, C * sizeof *out);
    /* Over what is told of the record; over the prefix where nothing is. */
    const int from = w->n > w->prefix ? w->prefix : 0;
    for (size_t c = 0; job->ask.mean && c < C; c++) {
        double sum = 0;
        for (int k = from; k < w->n; k++) sum += (double)hidden[(size_t)k * C + c];
        out[c] = (float)(sum / (w->n - from));
    }
    json_t *o = json_pack("{s:s, s:[{s:s, s:i, s:o}], s:s, s:{s:i, s:i}}", "object", "list", "data", "object",
                          "embedding", "index", 0, "embedding", vector_json(out, C, job->ask.base64), "model",
                          e->sv->model_name, "usage", "prompt_tokens", w->n, "total_tokens", w->n);
    REQUIRE(o);
    serve_answer(e->sv, job, 200, json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(9)));
    json_decref(o);
    free(out);
    return OK;
}

Status serve_embeddings(Server *sv, Job *jobs, Err *err) {
    int n = 0;
    for (Job *j = jobs; j; j = j->next) n++;
    Embeddings e = {sv, xcalloc((size_t)n, sizeof *e.job)};
    n = 0;
    for (Job *j = jobs; j; j = j->next) e.job[n++] = j;
    const Status s = embed_run(sv->session, n, get_job, take, &e, NULL, err);
    serve_metrics_run(&sv->metrics, n, 0, 0, 0);
    free(e.job);
    return s;
}

/* ---- explanations ------------------------------------------------------------------------------------------------ */

static int by_size(const void *a, const void *b) {
    const double x = fabs(((const ExplainItem *)a)->change), y = fabs(((const ExplainItem *)b)->change);
    return x < y ? 1 : x > y ? -1 : 0;
}

static json_t *explanation_json(const Vocabulary *v, const ServeRecord *p, Explanation *x) {
    json_t *list = json_array();
    qsort(x->item, (size_t)x->n, sizeof *x->item, by_size);
    for (int i = 0; i < x->n; i++) {
        const ExplainItem *item = &x->item[i];
        const VocabToken *t = &v->token[p->tokens[item->index[0]]];
        json_array_append_new(list, json_pack("{s:s, s:s, s:f, s:o, s:o, s:[o, o]}", "code", t->code, "name", t->name,
                                              "days", (p->minutes[item->index[0]] - (double)p->index_minutes) / 1440,
                                              "change", serve_number(item->change), "se", serve_number(item->se),
                                              "interval", serve_number(item->lo), serve_number(item->hi)));
    }
    return json_pack("{s:o, s:I, s:s}", "events", list, "not_looked_at", (json_int_t)x->skipped, "note",
                     "association, not effect");
}

Status serve_explain(Server *sv, Job *job, const RolloutOptions *run, Err *err) {
    const Ask *a = &job->ask;
    const Vocabulary *v = &sv->session->dataset.vocabulary;
    const RolloutJob patient = job_of(job);
    Status s = OK;
    for (int i = 0; i < a->n_outcomes && !s; i++) {
        uint32_t *mark = xcalloc((size_t)v->n, sizeof *mark), *stop = xcalloc((size_t)v->n, sizeof *stop);
        ExplainOptions o = {.rollout = *run, .max_events = a->explain};
        Explanation x;
        o.rollout.horizon_minutes = a->outcome[i].horizon;
        o.rollout.outcome_bits = mark;
        o.rollout.outcome_horizon = NULL;
        o.rollout.n_outcomes = 1;
        o.rollout.stop_bits = a->outcome[i].n_stops ? stop : NULL;
        s = outcome_mark(v, a->outcome[i].name, a->outcome[i].codes, a->outcome[i].n_codes, 0, mark, err);
        if (!s && a->outcome[i].n_stops)
            s = outcome_mark(v, "stops", a->outcome[i].stops, a->outcome[i].n_stops, 0, stop, err);
        if (!s) s = explain_run(sv->session, &patient, &o, NULL, &x, err);
        if (!s) {
            json_object_set_new(job->part[i], "explanation", explanation_json(v, &a->record, &x));
            serve_metrics_run(&sv->metrics, 0, x.stats.samples, x.stats.tokens, x.stats.prefill_tokens);
            explain_free(&x);
        }
        free(mark);
        free(stop);
    }
    return s;
}
