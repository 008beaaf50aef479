/* tokenizer_values.c - see tokenizer_values.h. */
#include "data/tokenizer_values.h"
#include "kernels/philox.h"
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* ---- patients
 * -------------------------------------------------------------------------------------------------------- */

static void list_append(PatientSet *s, uint32_t patient) {
    if ((s->count & (s->count - 1)) == 0)
        s->list = xrealloc(s->list, (size_t)(s->count ? 2 * s->count : 1) * sizeof *s->list);
    s->list[s->count++] = patient;
}

static void forget_list(PatientSet *s) {
    free(s->list);
    s->list = NULL;
}

void patient_set_add(PatientSet *s, uint32_t patient, uint32_t enough) {
    if (s->count && s->last == patient) return;
    s->last = patient;
    if (s->count >= enough) {
        s->count++;
        return;
    }
    list_append(s, patient);
    if (s->count >= enough) forget_list(s);
}

void patient_set_merge(PatientSet *into, const PatientSet *from, uint32_t enough) {
    if (into->count >= enough || from->count >= enough) {
        if (from->count > into->count) into->count = from->count;
        forget_list(into);
        return;
    }
    PatientSet both = {0};
    for (uint32_t i = 0, j = 0; i < into->count || j < from->count;) {
        uint32_t a = i < into->count ? into->list[i] : UINT32_MAX, b = j < from->count ? from->list[j] : UINT32_MAX;
        list_append(&both, a < b ? a : b);
        i += a <= b;
        j += b <= a;
    }
    forget_list(into);
    *into = both;
    if (into->count >= enough) forget_list(into);
}

void patient_set_free(PatientSet *s) {
    free(s->list);
    *s = (PatientSet){0};
}

/* ---- samples
 * ----------------------------------------------------------------------------------------------------------- */

void sample_add(ValueSample *s, float value, uint32_t patient) {
    int64_t at = s->seen++;
    if (at >= SAMPLE_MAX) {
        at = (int64_t)(philox_uniform(philox4x32(s->key, (uint64_t)at, 0), 0) * (double)s->seen);
        if (at >= SAMPLE_MAX) return;
    } else if (s->n == s->capacity) {
        s->capacity = s->capacity ? 2 * s->capacity : 16;
        s->value = xrealloc(s->value, (size_t)s->capacity * sizeof *s->value);
        s->patient = xrealloc(s->patient, (size_t)s->capacity * sizeof *s->patient);
    }
    if (at == s->n) s->n++;
    s->value[at] = value;
    s->patient[at] = patient;
}

void sample_free(ValueSample *s) {
    free(s->value);
    free(s->patient);
    *s = (ValueSample){0};
}

typedef struct {
    float value;
    uint32_t patient;
} Item;

static int compare_items(const void *a, const void *b) {
    const Item *x = a, *y = b;
    if (x->value != y->value) return x->value < y->value ? -1 : 1;
    return (x->patient > y->patient) - (x->patient < y->patient);
}

static Item *sorted_items(const ValueSample *s) {
    Item *item = xmalloc((size_t)s->n * sizeof *item);
    for (int32_t i = 0; i < s->n; i++) item[i] = (Item){s->value[i], s->patient[i]};
    qsort(item, (size_t)s->n, sizeof *item, compare_items);
    return item;
}

void sample_quantiles(const ValueSample *s, double *q, int n) {
    REQUIRE(s->n > 0);
    Item *item = sorted_items(s);
    for (int i = 0; i < n; i++) q[i] = (double)item[(int64_t)((i + 0.5) / n * s->n)].value;
    free(item);
}

/* ---- decision thresholds
 * ------------------------------------------------------------------------------------------------- */

static int compare_doubles(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static Status read_texts(const json_t *list, char ***out, int *n) {
    size_t count = json_array_size(list);
    if (!json_is_array(list) || count < 1 || count > 64) return ERR_FORMAT;
    *out = xcalloc(count, sizeof **out);
    for (size_t i = 0; i < count; i++) {
        const char *text = json_string_value(json_array_get(list, i));
        if (!text) return ERR_FORMAT;
        (*out)[(*n)++] = xstrdup(text);
    }
    return OK;
}

/* The largest float below t, as the shortest decimal that reads as it. */
static double just_below(float t) {
    float below = nextafterf(t, -INFINITY);
    char text[40];
    for (int digits = 6; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)below);
        if (strtof(text, NULL) == below) break;
    }
    return strtod(text, NULL);
}

/* A value equal to an edge stays in the level below: right for "<=" and ">", and for "<" and ">=" the edge is the
 * largest float below the threshold. */
static Status read_thresholds(const json_t *o, EdgeRule *r) {
    static const char *const key[] = {"lt", "le", "gt", "ge"};
    r->edge = xcalloc(FIT_EDGES_MAX, sizeof *r->edge);
    for (int k = 0; k < 4; k++) {
        const json_t *list = json_object_get(o, key[k]);
        if (list && !json_is_array(list)) return ERR_FORMAT;
        for (size_t i = 0; i < json_array_size(list); i++) {
            const json_t *x = json_array_get(list, i);
            float t = (float)json_number_value(x);
            if (!json_is_number(x) || !isfinite(t) || r->n_edges >= FIT_EDGES_MAX / 2) return ERR_FORMAT;
            r->edge[r->n_edges++] = k == 0 || k == 3 ? just_below(t) : json_number_value(x);
        }
    }
    if (r->n_edges) qsort(r->edge, (size_t)r->n_edges, sizeof *r->edge, compare_doubles);
    return r->n_edges ? OK : ERR_FORMAT;
}

Status edge_rules_load(EdgeRules *r, const char *path, Err *err) {
    *r = (EdgeRules){0};
    char *text;
    size_t size;
    Status status = file_read(path, 4 << 20, &text, &size, err);
    if (status) return status;
    json_error_t at;
    json_t *root = json_loadb(text, size, JSON_REJECT_DUPLICATES, &at);
    free(text);
    if (!root) return err_set(err, ERR_FORMAT, "%s, line %d: %.200s", path, at.line, at.text);
    const char *format = json_string_value(json_object_get(root, "format"));
    const json_t *list = json_object_get(root, "edges");
    size_t n = json_array_size(list);
    if (!format || strcmp(format, "ehr.c value edges") ||
        json_integer_value(json_object_get(root, "format_version")) != 1 || !json_is_array(list) || n > 65536) {
        status = err_set(err, ERR_FORMAT,
                         "%s: not a file of value edges: \"format\": \"ehr.c value edges\", "
                         "\"format_version\": 1 and a list \"edges\" were expected",
                         path);
    } else {
        r->rule = xcalloc(n, sizeof *r->rule);
    }
    for (size_t i = 0; i < n && !status; i++) {
        const json_t *o = json_array_get(list, i);
        EdgeRule *rule = &r->rule[r->n++];
        if (read_texts(json_object_get(o, "codes"), &rule->code, &rule->n_codes) ||
            read_texts(json_object_get(o, "units"), &rule->unit, &rule->n_units) || read_thresholds(o, rule))
            status = err_set(err, ERR_FORMAT,
                             "%s: entry %zu of \"edges\" needs lists \"codes\", \"units\" and numbers in "
                             "\"lt\", \"le\", \"gt\" or \"ge\"",
                             path, i);
    }
    json_decref(root);
    if (status) edge_rules_free(r);
    return status;
}

void edge_rules_free(EdgeRules *r) {
    for (int i = 0; i < r->n; i++) {
        for (int k = 0; k < r->rule[i].n_codes; k++) free(r->rule[i].code[k]);
        for (int k = 0; k < r->rule[i].n_units; k++) free(r->rule[i].unit[k]);
        free(r->rule[i].code);
        free(r->rule[i].unit);
        free(r->rule[i].edge);
    }
    free(r->rule);
    *r = (EdgeRules){0};
}

const EdgeRule *edge_rules_find(const EdgeRules *r, const char *code, const char *unit) {
    for (int i = 0; i < r->n; i++)
        for (int c = 0; c < r->rule[i].n_codes; c++) {
            if (strcmp(r->rule[i].code[c], code)) continue;
            for (int u = 0; u < r->rule[i].n_units; u++)
                if (!strcasecmp(r->rule[i].unit[u], unit)) return &r->rule[i];
        }
    return NULL;
}

/* ---- edges
 * ------------------------------------------------------------------------------------------------------------- */

/* A level while it is being merged: its patients, ascending. */
typedef struct {
    uint32_t *patient;
    int32_t n, values;
} Level;

typedef struct {
    double edge;
    int fixed; /* a decision threshold */
} Edge;

static int compare_edge(const void *a, const void *b) {
    const Edge *x = a, *y = b;
    return x->edge != y->edge ? (x->edge < y->edge ? -1 : 1) : y->fixed - x->fixed;
}

static int candidate_edges(Edge *edge, const Item *item, int32_t n, const EdgeRule *rule) {
    int n_edges = 0;
    for (int i = 0; rule && i < rule->n_edges && n_edges < FIT_EDGES_MAX - 9; i++)
        edge[n_edges++] = (Edge){rule->edge[i], 1};
    int n_fixed = n_edges;
    double decile[9];
    for (int i = 0; i < 9; i++) decile[i] = (double)item[((int64_t)(i + 1) * n + 9) / 10 - 1].value;
    double spread = decile[8] - decile[0], quantum = 0;
    int digits = 0;
    if (spread > 0) {
        digits = 2 - (int)floor(log10(spread));
        quantum = pow(10, -digits);
    }
    for (int i = 0; i < 9; i++) {
        char text[400];
        double x = decile[i];
        /* Through text, so that an edge is the double nearest to the decimal one reads. */
        if (spread > 0 && digits >= 0 && digits < 40) {
            snprintf(text, sizeof text, "%.*f", digits, x);
            x = strtod(text, NULL);
        } else if (spread > 0) {
            x = round(x / quantum) * quantum;
        }
        int close = 0;
        for (int k = 0; k < n_fixed; k++) close |= fabs(edge[k].edge - x) < quantum;
        if (!close && isfinite((float)x)) edge[n_edges++] = (Edge){x, 0};
    }
    qsort(edge, (size_t)n_edges, sizeof *edge, compare_edge);
    int kept = 0;
    for (int i = 0; i < n_edges; i++)
        if (!kept || (float)edge[i].edge > (float)edge[kept - 1].edge) edge[kept++] = edge[i];
    return kept;
}

static int compare_u32(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static int32_t distinct(uint32_t *p, int32_t n) {
    qsort(p, (size_t)n, sizeof *p, compare_u32);
    int32_t kept = 0;
    for (int32_t i = 0; i < n; i++)
        if (!kept || p[i] != p[kept - 1]) p[kept++] = p[i];
    return kept;
}

static void split_levels(Level *level, const Edge *edge, int n_edges, const Item *item, int32_t n) {
    int32_t at = 0;
    for (int k = 0; k <= n_edges; k++) {
        int32_t start = at;
        while (at < n && (k == n_edges || item[at].value <= (float)edge[k].edge)) at++;
        Level *l = &level[k];
        l->values = at - start;
        l->patient = xmalloc((size_t)l->values * sizeof *l->patient);
        for (int32_t i = start; i < at; i++) l->patient[i - start] = item[i].patient;
        l->n = distinct(l->patient, l->values);
    }
}

/* Joins level k + 1 to level k and forgets the edge between them. */
static int join_levels(Level *level, Edge *edge, int n_edges, int k) {
    Level *a = &level[k], *b = &level[k + 1];
    a->patient = xrealloc(a->patient, (size_t)(a->n + b->n) * sizeof *a->patient);
    memcpy(a->patient + a->n, b->patient, (size_t)b->n * sizeof *b->patient);
    a->n = distinct(a->patient, a->n + b->n);
    a->values += b->values;
    free(b->patient);
    memmove(edge + k, edge + k + 1, (size_t)(n_edges - k - 1) * sizeof *edge);
    memmove(level + k + 1, level + k + 2, (size_t)(n_edges - k - 1) * sizeof *level);
    return n_edges - 1;
}

static int merge_levels(Level *level, Edge *edge, int n_edges, int64_t min_patients, int max_levels) {
    while (n_edges > 0) {
        int few = 0;
        for (int k = 1; k <= n_edges; k++)
            if (level[k].n < level[few].n) few = k;
        if (level[few].n >= min_patients && n_edges + 1 <= max_levels) break;
        int left = few - 1, right = few, use; /* edges beside the level */
        if (few == 0) use = right;
        else if (few == n_edges) use = left;
        else if (edge[left].fixed != edge[right].fixed) use = edge[left].fixed ? right : left;
        else use = level[few - 1].n <= level[few + 1].n ? left : right;
        n_edges = join_levels(level, edge, n_edges, use);
    }
    return n_edges;
}

void edges_fit(FittedEdges *out, const ValueSample *s, const EdgeRule *rule, int64_t min_patients, int max_levels) {
    *out = (FittedEdges){0};
    if (!s->n) return;
    Item *item = sorted_items(s);
    Edge edge[FIT_EDGES_MAX];
    Level level[FIT_EDGES_MAX + 1];
    int n_edges = candidate_edges(edge, item, s->n, rule);
    split_levels(level, edge, n_edges, item, s->n);
    n_edges = merge_levels(level, edge, n_edges, min_patients, max_levels);
    out->n = n_edges;
    for (int k = 0; k <= n_edges; k++) {
        if (k < n_edges) out->edge[k] = edge[k].edge;
        out->share[k] = round(1e4 * level[k].values / s->n) / 1e4;
        out->patients[k] = (uint32_t)level[k].n;
        free(level[k].patient);
    }
    free(item);
}
