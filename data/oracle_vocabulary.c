/* oracle_vocabulary.c - the vocabulary.json in which the oracle's tokens are exactly the law's: no fit, no roll-up. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "data/event.h"
#include "data/oracle_cohort.h"

enum { TOKENS_MAX = 512 };

/* Takes ownership of code. */
static VocabToken *token_add(Vocabulary *v, int kind, int event_kind, char *code, const char *base, const char *name) {
    REQUIRE(v->n < TOKENS_MAX);
    VocabToken *t = &v->token[v->n++];
    t->kind = kind;
    t->event_kind = event_kind;
    t->code = code;
    t->base = xstrdup(base ? base : code);
    t->name = xstrdup(name ? name : "");
    t->unit = xstrdup("");
    t->lo = -INFINITY;
    t->hi = INFINITY;
    return t;
}

static void prefix_add(Vocabulary *v) {
    static const char *const special[] = {"PAD", "RECORD_START", "RECORD_CONTINUES"};
    for (int i = 0; i < 3; i++) token_add(v, TOKEN_SPECIAL, -1, xstrdup(special[i]), NULL, NULL);
    for (int i = 0; i < ORACLE_RACES; i++) token_add(v, TOKEN_STATIC, -1, xstrdup(oracle_race_code(i)), NULL, NULL);
    for (int i = 0; i < ORACLE_SEXES; i++) token_add(v, TOKEN_STATIC, -1, xstrdup(oracle_sex_code(i)), NULL, NULL);
    for (int i = 0; i < ORACLE_AGES; i++) {
        int lo = ORACLE_AGE_FIRST + i * ORACLE_AGE_BIN;
        token_add(v, TOKEN_AGE, -1, xasprintf("AGE//%d-%d", lo, lo + ORACLE_AGE_BIN - 1), NULL, NULL);
    }
    v->age_bin_years = ORACLE_AGE_BIN;
    v->gap_lo = v->n;
    for (int b = 0; b < GAP_TOKENS; b++) {
        token_add(v, TOKEN_GAP, -1, xstrdup(GAP_NAME[b]), NULL, NULL);
        double lo = oracle_gap_lo(ORACLE_GAP + b), width = oracle_gap_hi(ORACLE_GAP + b) - lo;
        for (int q = 0; q < GAP_QUANTILES; q++) v->gap_quantile[b][q] = lo + width * (q + 0.5) / GAP_QUANTILES;
    }
}

static void event_add(Vocabulary *v, int what) {
    OracleItem item = oracle_item(what);
    if (!oracle_is_lab(what) || v->separate_values)
        token_add(v, TOKEN_EVENT, item.kind, xstrdup(item.code), NULL, item.name);
    if (!oracle_is_lab(what)) return;
    for (int level = 1; !v->separate_values && level <= ORACLE_LEVELS; level++) {
        VocabToken *t =
            token_add(v, TOKEN_EVENT, item.kind, xasprintf("%s=Q%d", item.code, level), item.code, item.name);
        free(t->unit);
        t->unit = xstrdup(item.unit);
        t->level = level;
        if (level > 1) t->lo = item.edges[level - 2];
        if (level < ORACLE_LEVELS) t->hi = item.edges[level - 1];
    }
    VocabEdges *e = &v->edges[v->n_edges++];
    e->code = xstrdup(item.code);
    e->unit = xstrdup(item.unit);
    e->n = ORACLE_LEVELS - 1;
    e->edge = xmalloc((size_t)e->n * sizeof *e->edge);
    memcpy(e->edge, item.edges, (size_t)e->n * sizeof *e->edge);
}

static int compare_whats(const void *a, const void *b) {
    OracleItem x = oracle_item(*(const int *)a), y = oracle_item(*(const int *)b);
    return x.kind != y.kind ? x.kind - y.kind : strcmp(x.code, y.code);
}

char *oracle_vocabulary_format(int separate_values) {
    Vocabulary v = {.separate_values = separate_values};
    int what[ORACLE_WHATS], n = 0;
    v.token = xcalloc(TOKENS_MAX, sizeof *v.token);
    v.edges = xcalloc(ORACLE_LABS, sizeof *v.edges);
    v.static_name = xcalloc(2, sizeof *v.static_name);
    v.static_name[v.n_static++] = xstrdup("SEX");
    v.static_name[v.n_static++] = xstrdup("RACE");
    prefix_add(&v);
    for (int level = 1; separate_values && level <= ORACLE_LEVELS; level++)
        token_add(&v, TOKEN_VALUE, -1, xasprintf("Q%d", level), NULL, NULL)->level = level;
    for (int w = 0; w < ORACLE_WHATS; w++)
        if (!oracle_is_gap(w)) what[n++] = w;
    qsort(what, (size_t)n, sizeof *what, compare_whats);
    for (int i = 0; i < n; i++) {
        int kind = oracle_item(what[i]).kind;
        event_add(&v, what[i]);
        if (i + 1 < n && oracle_item(what[i + 1]).kind == kind) continue;
        if (kind != KIND_DEATH)
            token_add(&v, TOKEN_UNKNOWN, kind, xasprintf("UNKNOWN//%s", event_kind_name(kind)), NULL, NULL);
    }
    char *json = vocabulary_format(&v, NULL, "{\"source\": \"oracle\"}");
    vocabulary_free(&v);
    return json;
}
