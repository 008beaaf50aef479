/* serve_more.c - what is computed between the engine's steps: embeddings and scores of the records told. */
#include "infer/embed.h"
#include "infer/serve.h"
#include <math.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

/* ---- embeddings -------------------------------------------------------------------------------------------------- */

/* A record of a job among those that are computed together. */
typedef struct {
    Job *job;
    int record;
} Part;

typedef struct {
    Server *sv;
    Part *part;   /* (n) jobs one after the other */
    json_t *data; /* of the job at work */
    int64_t tokens;
    float *first; /* (d_model) of its first record */
} Embeddings;

static Status get_job(void *ctx, int64_t i, RolloutJob *out, Err *err) {
    const Part *part = &((Embeddings *)ctx)->part[i];
    const ServeRecord *p = &part->job->ask.record[part->record];
    (void)err;
    *out = (RolloutJob){.patient = p->view, .n_known = p->n_known, .index_minutes = p->index_minutes};
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

void serve_embedding(float *out, const float *hidden, const RolloutWindow *w, size_t C, int mean) {
    const int from = w->n > w->prefix ? w->prefix : 0;
    memcpy(out, hidden + (size_t)(w->n - 1) * C, C * sizeof *out);
    for (size_t c = 0; mean && c < C; c++) {
        double sum = 0;
        for (int k = from; k < w->n; k++) sum += (double)hidden[(size_t)k * C + c];
        out[c] = (float)(sum / (w->n - from));
    }
}

static char *embeddings_text(const Embeddings *e) {
    json_t *o = json_pack("{s:s, s:o, s:s, s:{s:I, s:I}}", "object", "list", "data", e->data, "model", e->sv->model_name,
                          "usage", "prompt_tokens", (json_int_t)e->tokens, "total_tokens", (json_int_t)e->tokens);
    REQUIRE(o);
    char *text = json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(9));
    json_decref(o);
    return text;
}

static Status take(void *ctx, int64_t i, const RolloutJob *engine_job, const RolloutWindow *w, const float *hidden,
                   Err *err) {
    Embeddings *e = ctx;
    Job *job = e->part[i].job;
    const size_t C = (size_t)e->sv->session->model.cfg.d_model;
    float *out = xmalloc(C * sizeof *out);
    (void)engine_job;
    (void)err;
    serve_embedding(out, hidden, w, C, job->ask.mean);
    if (!e->part[i].record) {
        e->data = json_array();
        e->tokens = 0;
        memcpy(e->first, out, C * sizeof *out);
    }
    e->tokens += w->n;
    json_array_append_new(e->data, json_pack("{s:s, s:i, s:o}", "object", "embedding", "index", e->part[i].record,
                                             "embedding", vector_json(out, C, job->ask.base64)));
    free(out);
    if (e->part[i].record == job->ask.n_records - 1) {
        serve_answer(e->sv, job, 200, embeddings_text(e));
        e->data = NULL;
        if (e->sv->second && second_width(e->sv->second) == (int)C)
            second_offer(e->sv->second, job, &(SecondTold){.vector = e->first});
    }
    return OK;
}

Status serve_embeddings(Server *sv, Job **jobs, int n, Err *err) {
    Embeddings e = {.sv = sv,
                    .part = xcalloc(ASK_RECORDS_MAX, sizeof *e.part),
                    .first = xcalloc((size_t)sv->session->model.cfg.d_model, sizeof *e.first)};
    int parts = 0;
    for (int i = 0; i < n; i++)
        for (int k = 0; k < jobs[i]->ask.n_records; k++) e.part[parts++] = (Part){jobs[i], k};
    const Status s = embed_run(sv->session, parts, get_job, take, &e, NULL, err);
    json_decref(e.data);
    free(e.part);
    free(e.first);
    return s;
}

/* ---- scores ------------------------------------------------------------------------------------------------------ */

Status serve_score(Server *sv, Job *job, Err *err) {
    const ServeRecord *p = job->ask.record;
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
        const double mean = p->view.n ? total / (double)p->view.n : NAN;
        json_t *o = json_pack("{s:o, s:O, s:I, s:o, s:I, s:I}", "model", serve_model_json(sv), "tokens", list, "n",
                              (json_int_t)p->view.n, "loss", serve_number(mean), "events", (json_int_t)p->n_events,
                              "unknown_events", (json_int_t)p->n_unknown);
        serve_answer(sv, job, 200, json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(9)));
        json_decref(o);
        if (sv->second) second_offer(sv->second, job, &(SecondTold){.loss = mean});
    }
    json_decref(list);
    return s;
}
