/* vocabulary.c - see vocabulary.h.  A vocabulary is data, never trusted: parsing checks every promise the header makes
 * (dense ids, unique codes, contiguous ages and gaps, ascending edges) before anything indexes by it. */
#include "data/vocabulary.h"
#include "data/intern.h"
#include "data/event.h"
#include "kernels/philox.h"
#include <jansson.h>
#include <math.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum {
    JSON_MAX_BYTES = 512 << 20,
    TOKENS_MAX = 1 << 22,
    CODE_MAX = 1024,
    TEXT_MAX = 4096,
    STATIC_MAX = 32,
    EDGES_MAX = 64
};

const int32_t GAP_MINUTES[GAP_TOKENS] = {5,    15,   45,   75,    120,   180,   300,   480,   720,   1080,
                                         1440, 2880, 5760, 10080, 17280, 28800, 43200, 86400, 259200};
const char *const GAP_NAME[GAP_TOKENS] = {
    "GAP//5min-15min", "GAP//15min-45min", "GAP//45min-1h15min", "GAP//1h15min-2h", "GAP//2h-3h",
    "GAP//3h-5h",      "GAP//5h-8h",       "GAP//8h-12h",        "GAP//12h-18h",    "GAP//18h-1d",
    "GAP//1d-2d",      "GAP//2d-4d",       "GAP//4d-7d",         "GAP//7d-12d",     "GAP//12d-20d",
    "GAP//20d-30d",    "GAP//30d-2mt",     "GAP//2mt-6mt",       "GAP//=6mt"};

static const char *const KIND_NAME[] = {"special", "static", "age", "gap", "value", "event", "unknown", "text"};
static const char SPELL[] = "SPELL//";
static const char *const TEXT_CODE[TEXT_FIRST] = {"NOTE_BEGIN", "NOTE_END", "NOTE_CUT"};
_Static_assert(KIND_COUNT <= 16, "Vocabulary.unknown has a slot for every event kind");

/* What parsing needs to say where it is. */
typedef struct {
    Vocabulary *v;
    const char *where;
    Err *err;
} Parse;

static Status bad(const Parse *p, const char *what, const char *found) {
    return err_set(p->err, ERR_FORMAT, "%s: %s%s%s; make the vocabulary again with `ehr-data tokenize`", p->where, what,
                   found ? ", found " : "", found ? found : "");
}

static const char *text_field(const json_t *o, const char *key, const char *fallback) {
    const json_t *s = json_object_get(o, key);
    return json_is_string(s) ? json_string_value(s) : fallback;
}

static Status parse_bound(const Parse *p, const json_t *o, const char *key, double open, double *out) {
    const json_t *x = json_object_get(o, key);
    *out = open;
    if (!x || json_is_null(x)) return OK;
    if (!json_is_number(x)) return bad(p, "token bounds lo and hi must be numbers or null", NULL);
    *out = json_number_value(x);
    return OK;
}

static int text_is_clean(const char *s, size_t max) {
    size_t n = strnlen(s, max + 1);
    if (n > max) return 0;
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)s[i] < 0x20 || s[i] == 0x7f) return 0;
    return 1;
}

static Status parse_token(const Parse *p, const json_t *o, int id) {
    VocabToken *t = &p->v->token[id];
    char at[64];
    snprintf(at, sizeof at, "token %d", id);
    const json_t *number = json_object_get(o, "id"), *level = json_object_get(o, "level");
    const char *code = text_field(o, "code", ""), *kind = text_field(o, "kind", ""),
               *event = text_field(o, "event_kind", "");
    if (!json_is_object(o) || !json_is_integer(number) || json_integer_value(number) != id)
        return bad(p, "token ids must count from 0 without gaps; wrong at", at);
    if (!code[0] || !text_is_clean(code, CODE_MAX))
        return bad(p, "a token needs a code of 1 to 1024 printable bytes", at);
    const char *base = text_field(o, "base", code), *name = text_field(o, "name", ""),
               *unit = text_field(o, "unit", "");
    if (!base[0] || !text_is_clean(base, CODE_MAX) || !text_is_clean(name, TEXT_MAX) || !text_is_clean(unit, CODE_MAX))
        return bad(p, "base, name and unit must be short printable text; wrong at", at);
    t->code = xstrdup(code);
    t->base = xstrdup(base);
    t->name = xstrdup(name);
    t->unit = xstrdup(unit);
    t->kind = -1;
    for (int k = 0; k < TOKEN_KINDS; k++)
        if (!strcmp(kind, KIND_NAME[k])) t->kind = k;
    if (t->kind < 0) return bad(p, "a token's kind is special, static, age, gap, value, event, unknown or text", at);
    t->event_kind = -1;
    if (t->kind == TOKEN_EVENT || t->kind == TOKEN_UNKNOWN) {
        t->event_kind = event_kind_find(event);
        if (t->event_kind < 0)
            return bad(p, "event and unknown tokens need an event_kind such as \"lab\"; wrong at", at);
    }
    if (level &&
        (!json_is_integer(level) || json_integer_value(level) < LEVEL_GT || json_integer_value(level) > EDGES_MAX + 1))
        return bad(p, "a value level is a small integer; wrong at", at);
    t->level = level ? (int)json_integer_value(level) : 0;
    Status s = parse_bound(p, o, "lo", -INFINITY, &t->lo);
    if (!s) s = parse_bound(p, o, "hi", INFINITY, &t->hi);
    if (!s && !(t->lo < t->hi)) s = bad(p, "a value level must have lo < hi; wrong at", at);
    return s;
}

static Status build_index(const Parse *p) {
    Vocabulary *v = p->v;
    v->n_slots = 16;
    while (v->n_slots < 2 * v->n) v->n_slots *= 2;
    v->slot = xmalloc((size_t)v->n_slots * sizeof *v->slot);
    memset(v->slot, 0xff, (size_t)v->n_slots * sizeof *v->slot);
    for (int id = 0; id < v->n; id++) {
        uint32_t i = (uint32_t)philox_hash(v->token[id].code) & (uint32_t)(v->n_slots - 1);
        for (; v->slot[i] >= 0; i = (i + 1) & (uint32_t)(v->n_slots - 1))
            if (!strcmp(v->token[v->slot[i]].code, v->token[id].code))
                return bad(p, "every token needs a code of its own; twice", v->token[id].code);
        v->slot[i] = id;
    }
    return OK;
}

static Status parse_tokens(const Parse *p, const json_t *root) {
    const json_t *list = json_object_get(root, "tokens");
    size_t n = json_array_size(list);
    Vocabulary *v = p->v;
    if (!json_is_array(list) || n < 3 || n > TOKENS_MAX)
        return bad(p, "\"tokens\" must list 3 to 4,194,304 tokens", NULL);
    v->token = try_calloc(n, sizeof *v->token);
    if (!v->token) return err_set(p->err, ERR_NOMEM, "%s: no memory for %zu tokens", p->where, n);
    v->n = (int)n;
    for (int id = 0; id < v->n; id++) {
        Status s = parse_token(p, json_array_get(list, (size_t)id), id);
        if (s) return s;
    }
    static const char *const first[] = {"PAD", "RECORD_START", "RECORD_CONTINUES"};
    for (int id = 0; id < 3; id++)
        if (strcmp(v->token[id].code, first[id]) || v->token[id].kind != TOKEN_SPECIAL)
            return bad(p, "tokens 0, 1, 2 must be PAD, RECORD_START, RECORD_CONTINUES", v->token[id].code);
    return build_index(p);
}

/* Ages: "AGE//40" or "AGE//40-44" or "AGE//90+", contiguous, one bin apart; AGE//UNKNOWN anywhere. */
static Status check_ages(const Parse *p) {
    Vocabulary *v = p->v;
    v->age_lo = v->age_unknown = -1;
    for (int id = 0; id < v->n; id++) {
        if (v->token[id].kind != TOKEN_AGE) continue;
        const char *code = v->token[id].code;
        if (!strcmp(code, "AGE//UNKNOWN")) {
            v->age_unknown = id;
            continue;
        }
        char *end = NULL;
        long years = strncmp(code, "AGE//", 5) ? -1 : strtol(code + 5, &end, 10);
        if (!end || end == code + 5 || years < 0 || years > 150)
            return bad(p, "age tokens are written AGE//40-44", code);
        if (v->age_lo < 0) {
            v->age_lo = id;
            v->age_first_years = (int)years;
        }
        if (id != v->age_lo + v->n_age || years != v->age_first_years + (long)v->n_age * v->age_bin_years)
            return bad(p, "age tokens must ascend without gaps by age_bin_years", code);
        v->n_age++;
    }
    return v->n_age ? OK : bad(p, "there are no AGE tokens", NULL);
}

static Status check_gaps(const Parse *p, const json_t *root) {
    Vocabulary *v = p->v;
    const json_t *list = json_object_get(root, "gap_bins");
    if (!json_is_array(list) || json_array_size(list) != GAP_TOKENS)
        return bad(p, "\"gap_bins\" must list the 19 gap tokens", NULL);
    v->gap_lo = vocabulary_find(v, GAP_NAME[0]);
    for (int b = 0; b < GAP_TOKENS; b++) {
        const json_t *o = json_array_get(list, (size_t)b), *q = json_object_get(o, "quantiles_minutes");
        int id = v->gap_lo + b;
        if (v->gap_lo < 0 || id >= v->n || v->token[id].kind != TOKEN_GAP || strcmp(v->token[id].code, GAP_NAME[b]))
            return bad(p, "gap tokens must be contiguous and ascending; missing or misplaced", GAP_NAME[b]);
        if (json_integer_value(json_object_get(o, "id")) != id || strcmp(text_field(o, "code", ""), GAP_NAME[b]) ||
            json_array_size(q) != GAP_QUANTILES)
            return bad(p, "a gap bin needs its token's id and code and 16 quantiles_minutes; wrong at", GAP_NAME[b]);
        for (int i = 0; i < GAP_QUANTILES; i++) {
            const json_t *x = json_array_get(q, (size_t)i);
            double m = json_number_value(x), below = i ? v->gap_quantile[b][i - 1] : GAP_MINUTES[b];
            double top = b < GAP_BINS ? GAP_MINUTES[b + 1] : GAP_MINUTES[GAP_BINS];
            if (!json_is_number(x) || !(m >= below && m <= top))
                return bad(p, "gap quantiles must ascend inside their bin; wrong at", GAP_NAME[b]);
            v->gap_quantile[b][i] = m;
        }
    }
    for (int id = 0; id < v->n; id++)
        if (v->token[id].kind == TOKEN_GAP && (id < v->gap_lo || id >= v->gap_lo + GAP_TOKENS))
            return bad(p, "unknown gap token", v->token[id].code);
    return OK;
}

static Status check_kinds(const Parse *p) {
    Vocabulary *v = p->v;
    for (int k = 0; k < 16; k++) v->unknown[k] = -1;
    v->death = vocabulary_find(v, "MEDS_DEATH");
    if (v->death < 0 || v->token[v->death].kind != TOKEN_EVENT)
        return bad(p, "there is no event token MEDS_DEATH", NULL);
    for (int id = 0; id < v->n; id++) {
        VocabToken *t = &v->token[id];
        if (t->kind == TOKEN_STATIC && id > UINT16_MAX)
            return bad(p, "static tokens must come first; too late", t->code);
        if (t->kind != TOKEN_UNKNOWN) continue;
        if (v->unknown[t->event_kind] >= 0) return bad(p, "two UNKNOWN tokens for one kind; second", t->code);
        v->unknown[t->event_kind] = id;
    }
    return OK;
}

static Status parse_static(const Parse *p, const json_t *root) {
    Vocabulary *v = p->v;
    const json_t *list = json_object_get(root, "static");
    if (!json_is_array(list) || json_array_size(list) > STATIC_MAX)
        return bad(p, "\"static\" must list at most 32 names", NULL);
    v->static_name = xcalloc(json_array_size(list), sizeof *v->static_name);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *name = json_string_value(json_array_get(list, i));
        if (!name || !name[0] || !text_is_clean(name, 64))
            return bad(p, "\"static\" must list names such as SEX", NULL);
        for (size_t j = 0; j < i; j++)
            if (!strcmp(v->static_name[j], name)) return bad(p, "\"static\" names a column twice", name);
        v->static_name[v->n_static++] = xstrdup(name);
    }
    return OK;
}

static int compare_edges(const void *a, const void *b) {
    const VocabEdges *x = a, *y = b;
    int c = strcmp(x->code, y->code);
    return c ? c : strcmp(x->unit, y->unit);
}

static Status parse_numbers(const Parse *p, const json_t *list, double *out, size_t n, int ascending, const char *key) {
    for (size_t i = 0; i < n; i++) {
        const json_t *x = json_array_get(list, i);
        out[i] = json_number_value(x);
        if (!json_is_number(x) || !isfinite((float)out[i]) || (ascending && i && !((float)out[i] > (float)out[i - 1])))
            return bad(p,
                       ascending ? "value edges must be ascending numbers; wrong at"
                                 : "edge shares must be numbers; wrong at",
                       key);
    }
    return OK;
}

static Status parse_edges(const Parse *p, const json_t *root) {
    Vocabulary *v = p->v;
    json_t *all = json_object_get(root, "edges"), *list;
    const json_t *shares = json_object_get(root, "edge_shares");
    if (all && !json_is_object(all)) return bad(p, "\"edges\" must be an object", NULL);
    v->edges = xcalloc(json_object_size(all), sizeof *v->edges);
    const char *key;
    json_object_foreach(all, key, list) {
        const char *bar = strrchr(key, '|');
        size_t n = json_array_size(list);
        if (!bar || bar == key || !text_is_clean(key, 2 * CODE_MAX)) return bad(p, "\"edges\" has keys CODE|unit", key);
        if (!json_is_array(list) || n < 1 || n > EDGES_MAX)
            return bad(p, "a code has 1 to 64 value edges; wrong at", key);
        VocabEdges *e = &v->edges[v->n_edges++];
        e->code = xasprintf("%.*s", (int)(bar - key), key);
        e->unit = xstrdup(bar + 1);
        e->n = (int)n;
        e->edge = xcalloc(n, sizeof *e->edge);
        Status s = parse_numbers(p, list, e->edge, n, 1, key);
        const json_t *share = json_object_get(shares, key);
        if (!s && share) {
            if (json_array_size(share) != n + 1)
                return bad(p, "edge_shares must have one number a level; wrong at", key);
            e->share = xcalloc(n + 1, sizeof *e->share);
            s = parse_numbers(p, share, e->share, n + 1, 0, key);
        }
        if (s) return s;
    }
    if (v->n_edges) qsort(v->edges, (size_t)v->n_edges, sizeof *v->edges, compare_edges);
    return OK;
}

typedef struct {
    const char *from, *to;
} Pair;

static int compare_pairs(const void *a, const void *b) {
    return strcmp(((const Pair *)a)->from, ((const Pair *)b)->from);
}

static Status parse_rollup(const Parse *p, const json_t *root) {
    Vocabulary *v = p->v;
    json_t *all = json_object_get(root, "rollup"), *to;
    if (all && !json_is_object(all)) return bad(p, "\"rollup\" must be an object", NULL);
    size_t n = json_object_size(all), i = 0;
    Pair *pair = xcalloc(n, sizeof *pair);
    const char *from, *wrong = NULL;
    json_object_foreach(all, from, to) {
        const char *code = json_string_value(to);
        int id = code ? vocabulary_find(v, code) : -1;
        if (id < 0 || (v->token[id].kind != TOKEN_EVENT && v->token[id].kind != TOKEN_UNKNOWN)) wrong = from;
        pair[i++] = (Pair){from, code};
    }
    if (!wrong) {
        qsort(pair, n, sizeof *pair, compare_pairs);
        v->rollup_from = xcalloc(n, sizeof *v->rollup_from);
        v->rollup_to = xcalloc(n, sizeof *v->rollup_to);
        for (i = 0; i < n; i++, v->n_rollup++) {
            v->rollup_from[i] = xstrdup(pair[i].from);
            v->rollup_to[i] = xstrdup(pair[i].to);
        }
    }
    free(pair);
    return wrong ? bad(p, "\"rollup\" must lead to event or unknown tokens; wrong at", wrong) : OK;
}

/* Every level of an edge list has a token: "level 7 of the code" must never be a missing id when tokenising. */
static Status check_levels(const Parse *p) {
    Vocabulary *v = p->v;
    int n_levels = 0, *level_of = xcalloc((size_t)v->n_edges + 1, sizeof *level_of);
    const char *wrong = NULL;
    for (int id = 0; id < v->n; id++) {
        const VocabToken *t = &v->token[id];
        if (t->kind == TOKEN_VALUE && t->level > 0) n_levels = t->level > n_levels ? t->level : n_levels;
        if (t->kind != TOKEN_EVENT || t->level <= 0) continue;
        const VocabEdges *e = vocabulary_edges(v, t->base, t->unit);
        if (!e || t->level != ++level_of[e - v->edges]) wrong = t->code;
    }
    for (int i = 0; i < v->n_edges && !wrong; i++)
        if (v->separate_values ? v->edges[i].n + 1 > n_levels : level_of[i] != v->edges[i].n + 1)
            wrong = v->edges[i].code;
    free(level_of);
    return wrong ? bad(p, "value levels and edges do not agree for", wrong) : OK;
}

static Status parse_merges(const Parse *p, const json_t *list, uint32_t (*merge)[2]) {
    for (size_t k = 0; k < json_array_size(list); k++)
        for (size_t side = 0; side < 2; side++) {
            const json_t *x = json_array_get(json_array_get(list, k), side);
            json_int_t id = json_is_integer(x) ? json_integer_value(x) : -1;
            if (id < 0 || id > BPE_BYTES + BPE_MERGES_MAX || json_array_size(json_array_get(list, k)) != 2)
                return bad(p, "\"merges\" of \"notes\" must be pairs of symbols", NULL);
            merge[k][side] = (uint32_t)id;
        }
    return OK;
}

/* Markers and symbols stand together, each under the name that its bytes give it; no other token is text. */
static Status check_text(const Parse *p) {
    Vocabulary *v = p->v;
    const char *wrong = NULL;
    int first = v->text_begin, n = first < 0 ? 0 : TEXT_FIRST + v->text.n;
    char name[2 * BPE_WORD_MAX + 16];
    if (first >= 0 && (first < TEXT_FIRST || v->n - first < n)) return bad(p, "\"notes\" begins too late", NULL);
    for (int id = 0; id < v->n && !wrong; id++) {
        int inside = first >= 0 && id >= first && id < first + n;
        if (inside != (v->token[id].kind == TOKEN_TEXT)) wrong = v->token[id].code;
        if (!inside || wrong) continue;
        const struct BpeSymbol *s = id < first + TEXT_FIRST ? NULL : &v->text.symbol[id - first - TEXT_FIRST];
        snprintf(name, sizeof name, "%s", s ? SPELL : TEXT_CODE[id - first]);
        if (s) bpe_spell(s->bytes, s->size, name + sizeof SPELL - 1);
        if (strcmp(name, v->token[id].code)) wrong = v->token[id].code;
    }
    return wrong ? bad(p, "tokens of texts and \"notes\" do not agree at", wrong) : OK;
}

static Status parse_text(const Parse *p, const json_t *root) {
    Vocabulary *v = p->v;
    const json_t *o = json_object_get(root, "notes"), *merges = json_object_get(o, "merges");
    const json_t *begin = json_object_get(o, "begin"), *most = json_object_get(o, "max_tokens");
    v->text_begin = -1;
    if (!o) return check_text(p);
    if (!json_is_integer(begin) || json_integer_value(begin) < 0 || json_integer_value(begin) > TOKENS_MAX ||
        !json_is_integer(most) || json_integer_value(most) < 1 || json_integer_value(most) > TEXT_MAX_TOKENS ||
        !json_is_array(merges) || json_array_size(merges) > BPE_MERGES_MAX)
        return bad(p, "\"notes\" needs begin, max_tokens (1 to 65536) and merges", NULL);
    uint32_t(*merge)[2] = xcalloc(json_array_size(merges) + 1, sizeof *merge);
    Status s = parse_merges(p, merges, merge);
    if (!s) {
        Err why;
        s = bpe_open(&v->text, (const uint32_t(*)[2])merge, (int)json_array_size(merges), &why);
        if (s) s = bad(p, why.msg, NULL);
    }
    free(merge);
    if (s) return s;
    v->text_begin = (int)json_integer_value(begin);
    v->text_max = (int)json_integer_value(most);
    return check_text(p);
}

static Status parse_all(const Parse *p, const json_t *root) {
    const json_t *version = json_object_get(root, "format_version"), *bin = json_object_get(root, "age_bin_years");
    const char *values = text_field(root, "values", "");
    if (strcmp(text_field(root, "format", ""), "ehr.c vocabulary"))
        return bad(p, "not a vocabulary: \"format\" is not \"ehr.c vocabulary\"", NULL);
    if (!json_is_integer(version) || json_integer_value(version) != 1)
        return bad(p, "this program reads vocabulary format_version 1", NULL);
    if (strcmp(values, "fused") && strcmp(values, "separate"))
        return bad(p, "\"values\" must be fused or separate", values);
    if (!json_is_integer(bin) || json_integer_value(bin) < 1 || json_integer_value(bin) > 50)
        return bad(p, "\"age_bin_years\" must be 1 to 50", NULL);
    p->v->separate_values = values[0] == 's';
    p->v->age_bin_years = (int)json_integer_value(bin);
    Status s = parse_static(p, root);
    if (!s) s = parse_tokens(p, root);
    if (!s) s = check_ages(p);
    if (!s) s = check_gaps(p, root);
    if (!s) s = check_kinds(p);
    if (!s) s = parse_edges(p, root);
    if (!s) s = parse_rollup(p, root);
    if (!s) s = check_levels(p);
    if (!s) s = parse_text(p, root);
    return s;
}

Status vocabulary_parse(Vocabulary *v, const char *json, size_t size, const char *where, Err *err) {
    *v = (Vocabulary){0};
    Parse p = {v, where, err};
    json_error_t at;
    json_t *root = size > JSON_MAX_BYTES ? NULL : json_loadb(json, size, JSON_REJECT_DUPLICATES, &at);
    Status s = OK;
    if (size > JSON_MAX_BYTES) {
        s = err_set(err, ERR_FORMAT, "%s: %zu bytes is too long for a vocabulary (at most %d)", where, size,
                    JSON_MAX_BYTES);
    } else if (!root) {
        s = err_set(err, ERR_FORMAT, "%s: not valid JSON: line %d: %.200s", where, at.line, at.text);
    } else {
        s = parse_all(&p, root);
    }
    json_decref(root);
    if (s) {
        vocabulary_free(v);
        return s;
    }
    v->json = xmalloc(size + 1);
    memcpy(v->json, json, size);
    v->json[size] = 0;
    unsigned char digest[crypto_hash_sha256_BYTES];
    crypto_hash_sha256(digest, (const unsigned char *)json, size);
    sodium_bin2hex(v->sha256, sizeof v->sha256, digest, sizeof digest);
    return OK;
}

Status vocabulary_load(Vocabulary *v, const char *path, Err *err) {
    *v = (Vocabulary){0};
    char *text;
    size_t size;
    Status s = file_read(path, JSON_MAX_BYTES, &text, &size, err);
    if (s) return s;
    s = vocabulary_parse(v, text, size, path, err);
    free(text);
    return s;
}

void vocabulary_free(Vocabulary *v) {
    for (int i = 0; v->token && i < v->n; i++) {
        free(v->token[i].code);
        free(v->token[i].base);
        free(v->token[i].name);
        free(v->token[i].unit);
    }
    for (int i = 0; i < v->n_static; i++) free(v->static_name[i]);
    for (int i = 0; i < v->n_edges; i++) {
        free(v->edges[i].code);
        free(v->edges[i].unit);
        free(v->edges[i].edge);
        free(v->edges[i].share);
    }
    for (int i = 0; i < v->n_rollup; i++) {
        free(v->rollup_from[i]);
        free(v->rollup_to[i]);
    }
    free(v->token);
    free(v->static_name);
    free(v->edges);
    free(v->rollup_from);
    free(v->rollup_to);
    bpe_close(&v->text);
    free(v->json);
    free(v->slot);
    *v = (Vocabulary){0};
}

/* ---- look-ups ---------------------------------------------------------------------------------------------------- */

int vocabulary_find(const Vocabulary *v, const char *code) {
    if (!v->n_slots) return -1;
    uint32_t i = (uint32_t)philox_hash(code) & (uint32_t)(v->n_slots - 1);
    for (; v->slot[i] >= 0; i = (i + 1) & (uint32_t)(v->n_slots - 1))
        if (!strcmp(v->token[v->slot[i]].code, code)) return v->slot[i];
    return -1;
}

int vocabulary_age_token(const Vocabulary *v, double years) {
    if (!(years >= 0 && years < 200) && v->age_unknown >= 0) return v->age_unknown;
    if (!(years < 200)) return v->age_lo + v->n_age - 1;
    double bin = (years - v->age_first_years) / v->age_bin_years;
    return v->age_lo + (bin < 0 ? 0 : bin < v->n_age - 1 ? (int)bin : v->n_age - 1);
}

int vocabulary_gap_bin(int32_t minutes) {
    int b = -1;
    while (b < GAP_BINS && minutes >= GAP_MINUTES[b + 1]) b++;
    return b;
}

const VocabEdges *vocabulary_edges(const Vocabulary *v, const char *code, const char *unit) {
    VocabEdges key = {.code = (char *)code, .unit = (char *)unit};
    return v->n_edges ? bsearch(&key, v->edges, (size_t)v->n_edges, sizeof key, compare_edges) : NULL;
}

const char *vocabulary_text(const Vocabulary *v, int id, int *n) {
    int s = id - v->text_begin - TEXT_FIRST;
    *n = 0;
    if (v->text_begin < 0 || s < 0 || s >= v->text.n) return NULL;
    *n = v->text.symbol[s].size;
    return v->text.symbol[s].bytes;
}

int edges_level(const VocabEdges *e, float value) {
    int level = 1;
    while (level <= e->n && (float)e->edge[level - 1] < value) level++;
    return level;
}

int code_matches(const char *code, const char *pattern) {
    size_t n = strlen(pattern);
    if (n && pattern[n - 1] == '*') return !strncmp(code, pattern, n - 1);
    if (!n || strncmp(code, pattern, n)) return 0;
    return code[n] == 0 || strchr("./=", code[n]) != NULL || pattern[n - 1] == '/';
}

int vocabulary_match(const Vocabulary *v, const char *const *patterns, int n_patterns, uint32_t bit, uint32_t *mark) {
    int n = 0;
    for (int id = 0; id < v->n; id++) {
        const VocabToken *t = &v->token[id];
        if (t->kind != TOKEN_EVENT && t->kind != TOKEN_UNKNOWN) continue;
        int hit = 0;
        for (int i = 0; i < n_patterns && !hit; i++)
            hit = code_matches(t->base, patterns[i]) || !strcmp(t->code, patterns[i]);
        if (hit) {
            mark[id] |= bit;
            n++;
        }
    }
    return n;
}

/* Edit distance without regard to case; a code that contains the pattern is nearer than any that does not. */
static int code_distance(const char *code, const char *pattern) {
    if (strcasestr(code, pattern)) return (int)strlen(code) - (int)strlen(pattern) - 10000;
    int n = (int)strnlen(code, 127), m = (int)strnlen(pattern, 127), row[128];
    for (int j = 0; j <= m; j++) row[j] = j;
    for (int i = 1; i <= n; i++) {
        int diagonal = row[0];
        row[0] = i;
        for (int j = 1; j <= m; j++) {
            int above = row[j];
            int best = diagonal + (strncasecmp(code + i - 1, pattern + j - 1, 1) != 0);
            if (above + 1 < best) best = above + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            row[j] = best;
            diagonal = above;
        }
    }
    return row[m];
}

void vocabulary_nearest(const Vocabulary *v, const char *pattern, char *out, size_t size) {
    enum { SHOWN = 3 };
    int best[SHOWN], distance[SHOWN], n = 0;
    char *stem = xstrdup(pattern);
    size_t length = strlen(stem);
    if (length && stem[length - 1] == '*') stem[length - 1] = 0;
    for (int id = 0; id < v->n; id++) {
        const VocabToken *t = &v->token[id];
        /* The levels of one code lie side by side: name it once. */
        if (t->kind != TOKEN_EVENT || (id && !strcmp(v->token[id - 1].base, t->base))) continue;
        int d = code_distance(t->base, stem), at = n;
        while (at > 0 && distance[at - 1] > d) at--;
        if (at >= SHOWN) continue;
        if (n < SHOWN) n++;
        for (int i = n - 1; i > at; i--) {
            best[i] = best[i - 1];
            distance[i] = distance[i - 1];
        }
        best[at] = id;
        distance[at] = d;
    }
    free(stem);
    if (size) out[0] = 0;
    for (int i = 0, used = 0; i < n && used >= 0 && (size_t)used < size; i++)
        used += snprintf(out + used, size - (size_t)used, "%s%s", i ? ", " : "", v->token[best[i]].base);
}

void vocabulary_forbidden(const Vocabulary *v, uint8_t *forbidden) {
    for (int id = 0; id < v->n; id++) {
        int kind = v->token[id].kind;
        forbidden[id] = kind == TOKEN_SPECIAL || kind == TOKEN_STATIC || kind == TOKEN_AGE;
    }
}

double vocabulary_gap_minutes(const Vocabulary *v, int id, double u) {
    if (id < v->gap_lo || id >= v->gap_lo + GAP_TOKENS) return 0;
    const double *q = v->gap_quantile[id - v->gap_lo];
    if (u < 0) {
        double sum = 0;
        for (int i = 0; i < GAP_QUANTILES; i++) sum += q[i];
        return sum / GAP_QUANTILES;
    }
    /* q[i] is the quantile at (i + 0.5) / 16. */
    double x = u * GAP_QUANTILES - 0.5;
    if (x <= 0) return q[0];
    if (x >= GAP_QUANTILES - 1) return q[GAP_QUANTILES - 1];
    int i = (int)x;
    return q[i] + (x - i) * (q[i + 1] - q[i]);
}

void vocabulary_describe(const Vocabulary *v, int id, char *out, size_t size) {
    if (id < 0 || id >= v->n) {
        snprintf(out, size, "(no token %d)", id);
        return;
    }
    const VocabToken *t = &v->token[id];
    char range[160] = "";
    const char *unit = t->unit;
    if (t->level > 0 && isfinite(t->lo) && isfinite(t->hi))
        snprintf(range, sizeof range, "  %.5g-%.5g %s", t->lo, t->hi, unit);
    else if (t->level > 0 && isfinite(t->hi)) snprintf(range, sizeof range, "  up to %.5g %s", t->hi, unit);
    else if (t->level > 0 && isfinite(t->lo)) snprintf(range, sizeof range, "  above %.5g %s", t->lo, unit);
    else if (t->level == LEVEL_LT) snprintf(range, sizeof range, "  below the detection limit");
    else if (t->level == LEVEL_GT) snprintf(range, sizeof range, "  above the measuring range");
    size_t n = strlen(range);
    if (n && range[n - 1] == ' ') range[n - 1] = 0;
    char *whole = xasprintf("%s%s%s%s", t->code, t->name[0] ? "  " : "", t->name, range);
    snprintf(out, size, "%.*s", (int)utf8_cut(whole, size - 1), whole);
    free(whole);
}
