/* vocabulary_format.c - writes vocabulary.json.  Laid out by hand, one token a line, so that two vocabularies can be
 * compared with diff; jansson only quotes the strings. */
#include "data/event.h"
#include "data/vocabulary.h"
#include <jansson.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    FILE *f;
    char *text;
    size_t size;
} Out;

static void put(Out *o, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void put(Out *o, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    REQUIRE(vfprintf(o->f, fmt, ap) >= 0);
    va_end(ap);
}

/* "key": "value" with what precedes it. */
static void put_text(Out *o, const char *before, const char *text) {
    json_t *s = json_string(text);
    if (!s) s = json_string("?"); /* not UTF-8: importers refuse that, a name is never worth failing for */
    char *quoted = json_dumps(s, JSON_ENCODE_ANY);
    REQUIRE(quoted);
    put(o, "%s%s", before, quoted);
    free(quoted);
    json_decref(s);
}

/* The shortest decimal that reads back as the same double. */
static void put_number(Out *o, const char *before, double x) {
    char text[40];
    for (int digits = 6; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, x);
        if (strtod(text, NULL) == x) break;
    }
    put(o, "%s%s", before, text);
}

static void put_numbers(Out *o, const double *x, int n) {
    for (int i = 0; i < n; i++) put_number(o, i ? ", " : "[", x[i]);
    put(o, "]");
}

static void put_token(Out *o, const VocabToken *t, int id, const char *band) {
    static const char *const kind[] = {"special", "static", "age", "gap", "value", "event", "unknown", "text"};
    put(o, "%s{\"id\": %d", id ? ",\n  " : "\n  ", id);
    put_text(o, ", \"code\": ", t->code);
    put(o, ", \"kind\": \"%s\"", kind[t->kind]);
    if (t->kind == TOKEN_EVENT || t->kind == TOKEN_UNKNOWN)
        put(o, ", \"event_kind\": \"%s\"", event_kind_name(t->event_kind));
    if (t->name[0]) put_text(o, ", \"name\": ", t->name);
    if (band && band[0]) put_text(o, ", \"patients_band\": ", band);
    if (strcmp(t->base, t->code)) put_text(o, ", \"base\": ", t->base);
    if (t->level) put(o, ", \"level\": %d", t->level);
    if (t->level && isfinite(t->lo)) put_number(o, ", \"lo\": ", t->lo);
    if (t->level && isfinite(t->hi)) put_number(o, ", \"hi\": ", t->hi);
    if (t->unit[0]) put_text(o, ", \"unit\": ", t->unit);
    put(o, "}");
}

static void put_edge_key(Out *o, int first, const VocabEdges *e) {
    char *key = xasprintf("%s|%s", e->code, e->unit);
    put_text(o, first ? "\n  " : ",\n  ", key);
    put(o, ": ");
    free(key);
}

static void put_notes(Out *o, const Vocabulary *v) {
    put(o, "\"notes\": {\"begin\": %d, \"max_tokens\": %d, \"merges\": [", v->text_begin, v->text_max);
    for (int k = 0; k < v->text.n - BPE_BYTES; k++)
        put(o, "%s[%u, %u]", k ? ",\n  " : "\n  ", v->text.merge[k][0], v->text.merge[k][1]);
    put(o, "]},\n ");
}

char *vocabulary_format(const Vocabulary *v, const char *const *patients_band, const char *fitted_on_json) {
    Out o = {0};
    o.f = open_memstream(&o.text, &o.size);
    REQUIRE(o.f);
    put(&o, "{\"format\": \"ehr.c vocabulary\", \"format_version\": 1, \"values\": \"%s\",\n",
        v->separate_values ? "separate" : "fused");
    put(&o, " \"static\": [");
    for (int i = 0; i < v->n_static; i++) put_text(&o, i ? ", " : "", v->static_name[i]);
    put(&o, "], \"age_bin_years\": %d,\n \"gap_bins\": [", v->age_bin_years);
    for (int b = 0; b < GAP_TOKENS; b++) {
        put(&o, "%s{\"id\": %d, \"code\": \"%s\", \"lo_minutes\": %d, ", b ? ",\n  " : "\n  ", v->gap_lo + b,
            GAP_NAME[b], GAP_MINUTES[b]);
        if (b < GAP_BINS) put(&o, "\"hi_minutes\": %d, ", GAP_MINUTES[b + 1]);
        put(&o, "\"quantiles_minutes\": ");
        put_numbers(&o, v->gap_quantile[b], GAP_QUANTILES);
        put(&o, "}");
    }
    put(&o, "],\n \"tokens\": [");
    for (int id = 0; id < v->n; id++) put_token(&o, &v->token[id], id, patients_band ? patients_band[id] : NULL);
    put(&o, "],\n \"rollup\": {");
    for (int i = 0; i < v->n_rollup; i++) {
        put_text(&o, i ? ",\n  " : "\n  ", v->rollup_from[i]);
        put_text(&o, ": ", v->rollup_to[i]);
    }
    put(&o, "},\n \"edges\": {");
    for (int i = 0; i < v->n_edges; i++) {
        put_edge_key(&o, i == 0, &v->edges[i]);
        put_numbers(&o, v->edges[i].edge, v->edges[i].n);
    }
    put(&o, "},\n \"edge_shares\": {");
    for (int i = 0, first = 1; i < v->n_edges; i++) {
        if (!v->edges[i].share) continue;
        put_edge_key(&o, first, &v->edges[i]);
        put_numbers(&o, v->edges[i].share, v->edges[i].n + 1);
        first = 0;
    }
    put(&o, "},\n ");
    if (v->text_begin > 0) put_notes(&o, v);
    put(&o, "\"fitted_on\": %s}\n", fitted_on_json ? fitted_on_json : "{}");
    REQUIRE(fclose(o.f) == 0);
    return o.text;
}
