/* canaries.c - see canaries.h.  Sequence i is a function of (seed, i) alone: inserted and reference files agree. */
#include "data/canaries.h"
#include "kernels/philox.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static uint32_t draw(uint64_t seed, int64_t i, int k, uint32_t n) {
    return (uint32_t)(philox_uniform(philox4x32(philox_hash("canary") ^ seed, (uint64_t)i, (uint64_t)k), 0) * n);
}

/* Tokens of a kind that begin with `prefix`; free() the list. */
static uint32_t *tokens_like(const Vocabulary *v, int kind, const char *prefix, uint32_t *n) {
    uint32_t *list = xcalloc((size_t)v->n, sizeof *list);
    *n = 0;
    for (int id = 0; id < v->n; id++)
        if (v->token[id].kind == kind && !strncmp(v->token[id].code, prefix, strlen(prefix)) && strcmp(v->token[id].code, "MEDS_DEATH"))
            list[(*n)++] = (uint32_t)id;
    return list;
}

typedef struct {
    const Vocabulary *v;
    uint32_t *event, n_events;
    Timeline t;
    uint8_t group[64];
} Maker;

static Status maker_open(Maker *m, const Vocabulary *v, Err *err) {
    *m = (Maker){.v = v};
    m->event = tokens_like(v, TOKEN_EVENT, "", &m->n_events);
    timeline_init(&m->t, v);
    Timeline *t = &m->t;
    t->n = t->capacity = CANARY_EVENTS;
    t->tokens = xrealloc(t->tokens, CANARY_EVENTS * sizeof *t->tokens);
    t->minutes = xrealloc(t->minutes, CANARY_EVENTS * sizeof *t->minutes);
    t->logp = xrealloc(t->logp, CANARY_EVENTS * sizeof *t->logp);
    t->last_age_years = NAN;
    t->observation_end = CANARY_EVENTS + 365 * 1440;
    return m->n_events ? OK : err_set(err, ERR_USAGE, "--canaries: the vocabulary has no event tokens to draw from");
}

static void maker_close(Maker *m) {
    free(m->event);
    timeline_free(&m->t);
}

static void make(Maker *m, const Groups *g, uint64_t seed, int64_t i) {
    Timeline *t = &m->t;
    for (int k = 0; k < CANARY_EVENTS; k++) {
        t->tokens[k] = m->event[draw(seed, i, k, m->n_events)];
        t->minutes[k] = k;
        t->logp[k] = NAN;
    }
    for (int s = 0; s < m->v->n_static; s++) {
        char *prefix = xasprintf("%s//", m->v->static_name[s]);
        uint32_t n, *list = tokens_like(m->v, TOKEN_STATIC, prefix, &n);
        t->statics[s] = (uint16_t)(n ? list[draw(seed, i, CANARY_EVENTS + s, n)] : 0);
        free(list);
        free(prefix);
    }
    t->statics[m->v->n_static] = (uint16_t)(20 + draw(seed, i, 2 * CANARY_EVENTS, 60));
    groups_of(g, t, m->v->n_static, m->group);
}

Status canaries_insert(SplitShards *train, const TokenizeOptions *o, const Vocabulary *v, const Groups *g, Err *err) {
    Maker m;
    Status s = maker_open(&m, v, err);
    for (int64_t i = 0; i < o->canaries && !s; i++) {
        make(&m, g, (uint64_t)o->seed, i);
        for (int64_t c = 0; c < o->canary_copies && !s; c++)
            s = split_shards_add(train, (uint64_t)1 << CANARY_KEY_BIT | (uint64_t)(i * o->canary_copies + c), &m.t, m.group, err);
    }
    maker_close(&m);
    return s;
}

static Status write_text(const char *folder, const char *name, const char *text, Err *err) {
    char *path = xasprintf("%s/%s", folder, name);
    Status s = file_write(path, text, strlen(text), err);
    free(path);
    return s;
}

Status canaries_reference(const TokenizeOptions *o, const Vocabulary *v, const Groups *g, const EventFile *f, Err *err) {
    static const char nobody[] = "{\"level\": \"synthetic\", \"records\": \"drawn at random, of nobody\"}";
    char *out = xasprintf("%s.canaries", o->out), *tmp = NULL;
    TokenizeReport r = {.min_patients = 0, .n_vocabulary = v->n, .separate_values = v->separate_values};
    SplitShards shards[SPLIT_COUNT] = {{0}};
    Maker m;
    Status s = maker_open(&m, v, err);
    if (!s) s = folder_begin(out, o->overwrite, &tmp, err);
    for (int k = 0; k < SPLIT_COUNT; k++)
        shards[k] = (SplitShards){.folder = tmp, .split = k, .wide = v->n > UINT16_MAX, .n_static = v->n_static, .n_groups = g->n,
                                  .shard_size = o->shard_size, .deidentification = nobody, .vocabulary_sha256 = v->sha256};
    for (int64_t i = 0; i < o->canaries + CANARY_REFERENCES && !s; i++) {
        make(&m, g, (uint64_t)o->seed, i);
        s = split_shards_add(&shards[SPLIT_HELD_OUT], (uint64_t)i, &m.t, m.group, err);
        r.n_patients[SPLIT_HELD_OUT]++;
        r.n_events[SPLIT_HELD_OUT] += CANARY_EVENTS;
        r.n_tokens[SPLIT_HELD_OUT] += CANARY_EVENTS;
    }
    if (!s) s = split_shards_close(&shards[SPLIT_HELD_OUT], err);
    snprintf(r.split_method, sizeof r.split_method, "canaries");
    for (int id = 0; id < v->n; id++) r.tokens_by_kind[v->token[id].kind]++;
    if (!s) s = write_text(tmp, "vocabulary.json", v->json, err);
    if (!s) {
        char *json = dataset_json_format(o, &r, f, v, g, shards, nobody, "");
        s = write_text(tmp, "dataset.json", json, err);
        free(json);
    }
    if (!s) s = folder_commit(tmp, out, err);
    else if (tmp) folder_abort(tmp);
    for (int k = 0; k < SPLIT_COUNT; k++) split_shards_free(&shards[k]);
    maker_close(&m);
    free(tmp);
    free(out);
    return s;
}
