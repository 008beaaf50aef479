/* oracle_logits.h - the oracle's law as a Law (rollout.h): log probabilities of the next token, in place of a model. */
#ifndef EHR_TESTS_ORACLE_LOGITS_H
#define EHR_TESTS_ORACLE_LOGITS_H
#include "data/oracle.h"
#include "infer/rollout.h"
#include <math.h>
#include <stdlib.h>

/* Cursors after prefixes seen lately, so that a future costs one step a token. */
enum { LAW_MEMORY = 1 << 14 };
typedef struct {
    uint64_t hash;
    int n;
    OracleCursor cursor;
} Remembered;

typedef struct {
    OracleLaw law;
    int V;
    double *p;
    Remembered *memory;
} LawContext;

static uint64_t hash_tokens(const int32_t *tokens, int n) {
    uint64_t h = 1469598103934665603ull;
    for (int i = 0; i < n; i++) h = (h ^ (uint64_t)tokens[i]) * 1099511628211ull;
    return h ^ h >> 29;
}

static void cursor_after(LawContext *c, const int32_t *tokens, int n, OracleCursor *out) {
    Err err = {OK, ""};
    uint64_t before = hash_tokens(tokens, n - 1);
    const Remembered *m = &c->memory[before % LAW_MEMORY];
    int from = 0;
    if (n > 1 && m->hash == before && m->n == n - 1) {
        *out = m->cursor;
        from = n - 1;
    } else {
        oracle_law_start(out);
    }
    for (int i = from; i < n; i++) REQUIRE(oracle_law_feed(&c->law, out, tokens[i], &err) == OK);
    uint64_t now = hash_tokens(tokens, n);
    c->memory[now % LAW_MEMORY] = (Remembered){now, n, *out};
}

static void law_logits(void *ctx, const int32_t *tokens, int n, float *out) {
    LawContext *c = ctx;
    OracleCursor cursor;
    cursor_after(c, tokens, n, &cursor);
    oracle_law_probs(&c->law, &cursor, c->p);
    for (int i = 0; i < c->V; i++) out[i] = c->p[i] > 0 ? (float)log(c->p[i]) : -INFINITY;
}

static Status law_open(LawContext *c, const Vocabulary *v, Err *err) {
    Status st = oracle_law_open(&c->law, v, err);
    c->V = v->n;
    c->p = xcalloc((size_t)c->V, sizeof *c->p);
    c->memory = xcalloc(LAW_MEMORY, sizeof *c->memory);
    return st;
}

static Law law_of(LawContext *c) { return (Law){.logits = law_logits, .ctx = c, .seq_len = 1 << 20}; }

static void law_close(LawContext *c) {
    free(c->p);
    free(c->memory);
    oracle_law_close(&c->law);
}

#endif
