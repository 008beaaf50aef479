/* tokenizer_fit.c - see tokenizer_fit.h.
 *
 * Privacy and statistics ask the same of a token: that enough different patients stand behind it.  So codes hold sets
 * of patients, not counts; a code without enough hands its set to the code above it, and children pool there until they
 * have enough together. */
#include "data/tokenizer_fit.h"
#include "data/intern.h"
#include "data/tokenizer_build.h"
#include "kernels/philox.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { FUSED_LEVELS_MAX = 16, SEPARATE_LEVELS_MAX = 10, GAPS_ENOUGH = 64, CHAIN_MAX = 64, AGE_TOP = 90 };

typedef struct {
    uint32_t code;
    uint16_t unit;
    int32_t next; /* pair of the same code, -1: last */
    PatientSet patients;
    ValueSample sample;
    FittedEdges edges;
} ValuePair;

typedef struct {
    PatientSet any, plain, lt, gt;
    int32_t first_pair;
} CodeFit;

typedef struct {
    EventFile *f;
    const FitOptions *o;
    uint32_t enough;
    CodeFit *code; /* (f->n_codes) */
    int n_pairs, pair_capacity;
    ValuePair *pair;
    ValueSample gap[GAP_BINS];
    PatientSet lt, gt; /* of all codes, for separate values */
    BpeFit *text;      /* NULL: notes are not told */

    Intern nodes; /* the file's codes by their own ids, then their ancestors */
    uint32_t n_rows, node_capacity;
    int32_t *parent; /* -1: none */
    uint8_t *kind;
    PatientSet *set;  /* patients whose events the node's own token stands for */
    int32_t *forward; /* node whose token stands for it: itself, an ancestor, -1: UNKNOWN */

    Vocabulary v; /* under construction */
    char **band;
    int token_capacity;
} Fit;

/* ---- collecting
 * --------------------------------------------------------------------------------------------------------- */

static ValuePair *pair_of(Fit *fit, uint32_t code, uint16_t unit) {
    for (int32_t i = fit->code[code].first_pair; i >= 0; i = fit->pair[i].next)
        if (fit->pair[i].unit == unit) return &fit->pair[i];
    if (fit->n_pairs == fit->pair_capacity) {
        fit->pair_capacity = 2 * fit->pair_capacity + 64;
        fit->pair = xrealloc(fit->pair, (size_t)fit->pair_capacity * sizeof *fit->pair);
    }
    ValuePair *p = &fit->pair[fit->n_pairs];
    *p = (ValuePair){.code = code, .unit = unit, .next = fit->code[code].first_pair};
    p->sample.key = philox_mix(philox_hash(fit->f->codes[code]), philox_hash(fit->f->units[unit]));
    fit->code[code].first_pair = fit->n_pairs++;
    return p;
}

static void collect_event(Fit *fit, const Event *e, uint32_t patient) {
    CodeFit *c = &fit->code[e->code];
    patient_set_add(&c->any, patient, fit->enough);
    if (isnan(e->value)) {
        patient_set_add(&c->plain, patient, fit->enough);
    } else if (e->comparator == COMPARE_LT || e->comparator == COMPARE_LE) {
        patient_set_add(&c->lt, patient, fit->enough);
        patient_set_add(&fit->lt, patient, fit->enough);
    } else if (e->comparator == COMPARE_GT || e->comparator == COMPARE_GE) {
        patient_set_add(&c->gt, patient, fit->enough);
        patient_set_add(&fit->gt, patient, fit->enough);
    } else if (strchr(fit->f->units[e->unit], '|')) {
        patient_set_add(&c->plain, patient, fit->enough); /* the bar divides code and unit in vocabulary.json */
    } else {
        ValuePair *p = pair_of(fit, e->code, e->unit);
        patient_set_add(&p->patients, patient, fit->enough);
        sample_add(&p->sample, e->value, patient);
    }
}

static Status collect_text(Fit *fit, int64_t note, uint32_t patient, Err *err) {
    const char *text;
    size_t n;
    Status status = event_file_text(fit->f, note, &text, &n, err);
    if (!status) bpe_fit_text(fit->text, text, n, patient);
    return status;
}

static Status collect(Fit *fit, const Cohort *cohort, FILE *out, Err *err) {
    Progress progress;
    int64_t done = 0;
    progress_open(&progress, out, "fit vocabulary", "patients", cohort->n_split[SPLIT_TRAIN]);
    for (int64_t row = 0; row < cohort->n_rows; row++) {
        if (cohort->split[row] != SPLIT_TRAIN) continue;
        EventPatient p;
        Walk w;
        const Event *e;
        Status status = event_file_patient(fit->f, row, &p, err);
        uint32_t patient = (uint32_t)++done;
        for (int64_t i = 0; i < p.n && !status; i++)
            if (fit->f->code_kind[p.event[i].code] == KIND_STATIC)
                patient_set_add(&fit->code[p.event[i].code].any, patient, fit->enough);
        walk_open(&w, fit->f, &p);
        while (!status && !(status = walk_next(&w, &e, err)) && e) {
            int bin;
            if (fit->text && e->note) status = collect_text(fit, p.first_note + e->note - 1, patient, err);
            gap_split(w.gap, &bin);
            if (bin >= 0) sample_add(&fit->gap[bin], (float)(w.gap % GAP_MINUTES[GAP_BINS]), patient);
            collect_event(fit, e, patient);
        }
        if (status) return status;
        progress_update(&progress, done);
    }
    progress_close(&progress, done);
    return OK;
}

/* ---- values
 * --------------------------------------------------------------------------------------------------------------- */

static int limit_has_token(const Fit *fit, const PatientSet *s) { return s->count >= fit->enough; }

static void fit_code(void *context, int64_t c) {
    Fit *fit = context;
    int max_levels = fit->o->separate_values ? SEPARATE_LEVELS_MAX : FUSED_LEVELS_MAX;
    CodeFit *code = &fit->code[c];
    int any_edges = 0;
    for (int32_t i = code->first_pair; i >= 0; i = fit->pair[i].next) {
        ValuePair *p = &fit->pair[i];
        const char *unit = fit->f->units[p->unit];
        if (p->patients.count >= fit->enough)
            edges_fit(&p->edges, &p->sample, edge_rules_find(fit->o->rules, fit->f->codes[c], unit), fit->enough,
                      max_levels);
        if (!p->edges.n) patient_set_merge(&code->plain, &p->patients, fit->enough);
        any_edges |= p->edges.n > 0;
        sample_free(&p->sample);
    }
    /* A detection limit without a token counts as a value; without edges either, it is told by the plain code. */
    if (!any_edges && !limit_has_token(fit, &code->lt)) patient_set_merge(&code->plain, &code->lt, fit->enough);
    if (!any_edges && !limit_has_token(fit, &code->gt)) patient_set_merge(&code->plain, &code->gt, fit->enough);
}

/* Fits the edges of every pair, and adds to `plain` whoever's values will not be told apart.  A code's sets and samples
 * are its own: codes go to threads as they come. */
static void fit_values(Fit *fit) { build_each(fit->o->threads, fit->f->n_codes, fit_code, fit); }

/* ---- roll-up
 * ---------------------------------------------------------------------------------------------------------------- */

/* Rows for all nodes there are; a new one takes the kind of the child that named it. */
static void node_rows(Fit *fit, int kind) {
    uint32_t n = fit->nodes.n;
    if (n > fit->node_capacity) {
        fit->node_capacity = 2 * n;
        fit->parent = xrealloc(fit->parent, fit->node_capacity * sizeof *fit->parent);
        fit->kind = xrealloc(fit->kind, fit->node_capacity);
    }
    for (; fit->n_rows < n; fit->n_rows++) {
        fit->parent[fit->n_rows] = -1;
        fit->kind[fit->n_rows] =
            (uint8_t)(fit->n_rows < (uint32_t)fit->f->n_codes ? fit->f->code_kind[fit->n_rows] : kind);
    }
}

static int has_hierarchy(int kind) { return kind != KIND_STATIC && kind != KIND_BIRTH && kind != KIND_DEATH; }

static void build_nodes(Fit *fit) {
    intern_init(&fit->nodes);
    for (int64_t c = 0; c < fit->f->n_codes; c++) REQUIRE(intern_add(&fit->nodes, fit->f->codes[c]) == (uint32_t)c);
    node_rows(fit, 0);
    for (uint32_t i = 0; i < fit->nodes.n; i++) {
        char up[1024];
        if (!has_hierarchy(fit->kind[i]) || !code_parent(fit->f, fit->nodes.item[i], up, sizeof up)) continue;
        uint32_t p = intern_add(&fit->nodes, up);
        node_rows(fit, fit->kind[i]);
        if (p != i && has_hierarchy(fit->kind[p])) fit->parent[i] = (int32_t)p;
    }
}

/* A hierarchy that runs in circles, or absurdly deep, is cut where that is noticed. */
static void cut_cycles(Fit *fit) {
    for (uint32_t i = 0; i < fit->nodes.n; i++) {
        int32_t at = fit->parent[i];
        int steps = 0;
        while (at >= 0 && at != (int32_t)i && steps++ < CHAIN_MAX) at = fit->parent[at];
        if (at >= 0) fit->parent[i] = -1;
    }
}

/* From the leaves up: a node with enough patients keeps its token, another pools its patients with its parent's. */
static void roll_up(Fit *fit) {
    uint32_t n = fit->nodes.n, top = 0;
    uint32_t *children = xcalloc(n, sizeof *children), *ready = xcalloc(n, sizeof *ready);
    fit->set = xcalloc(n, sizeof *fit->set);
    fit->forward = xcalloc(n, sizeof *fit->forward);
    for (int64_t c = 0; c < fit->f->n_codes; c++) {
        CodeFit *code = &fit->code[c];
        if (!has_hierarchy(fit->kind[c])) continue;
        PatientSet *own = fit->o->separate_values ? &code->any : &code->plain;
        fit->set[c] = *own;
        *own = (PatientSet){0};
    }
    for (uint32_t i = 0; i < n; i++)
        if (fit->parent[i] >= 0) children[fit->parent[i]]++;
    for (uint32_t i = 0; i < n; i++)
        if (!children[i]) ready[top++] = i;
    while (top) {
        uint32_t i = ready[--top];
        int32_t p = fit->parent[i];
        int enough = fit->set[i].count >= fit->enough;
        fit->forward[i] = enough ? (int32_t)i : p;
        if (p < 0) continue;
        if (!enough) patient_set_merge(&fit->set[p], &fit->set[i], fit->enough);
        if (!--children[p]) ready[top++] = (uint32_t)p;
    }
    free(children);
    free(ready);
}

static int32_t token_node(const Fit *fit, int32_t i) {
    while (i >= 0 && fit->forward[i] != i) i = fit->forward[i];
    return i;
}

/* ---- writing down
 * -------------------------------------------------------------------------------------------------------- */

static VocabToken *add_token(Fit *fit, const char *code, int kind, int event_kind, uint32_t patients) {
    Vocabulary *v = &fit->v;
    if (v->n == fit->token_capacity) {
        fit->token_capacity = 2 * fit->token_capacity + 256;
        v->token = xrealloc(v->token, (size_t)fit->token_capacity * sizeof *v->token);
        fit->band = xrealloc(fit->band, (size_t)fit->token_capacity * sizeof *fit->band);
    }
    /* Bands, not counts: a vocabulary travels with every checkpoint. */
    uint32_t step[] = {1, 2, 5}, lo = 0, hi = 1;
    for (int i = 1; patients && hi <= patients && hi < 1000000; i++) {
        lo = hi;
        uint32_t scale = 1;
        for (int k = 0; k < i / 3; k++) scale *= 10;
        hi = step[i % 3] * scale;
    }
    fit->band[v->n] = !patients ? xstrdup("") : hi - lo == 1 ? xasprintf("%u", lo) : xasprintf("%u-%u", lo, hi - 1);
    VocabToken *t = &v->token[v->n++];
    *t = (VocabToken){xstrdup(code), xstrdup(code), xstrdup(""), xstrdup(""), kind, event_kind, 0, -INFINITY, INFINITY};
    return t;
}

static void set_text(char **at, const char *text) {
    free(*at);
    *at = xstrdup(text);
    for (char *c = *at; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f) *c = ' ';
}

static void add_statics(Fit *fit) {
    char text[128];
    for (int s = 0; s < fit->o->n_static; s++) {
        const char *name = fit->o->static_name[s];
        int n = snprintf(text, sizeof text, "%s//UNKNOWN", name) - 7;
        add_token(fit, text, TOKEN_STATIC, -1, 0);
        for (int64_t c = 0; c < fit->f->n_codes; c++) { /* sorted */
            const char *code = fit->f->codes[c];
            PatientSet *any = &fit->code[c].any;
            if (fit->f->code_kind[c] != KIND_STATIC || strncmp(code, text, (size_t)n) || !strcmp(code, text) ||
                any->count < fit->enough)
                continue;
            set_text(&add_token(fit, code, TOKEN_STATIC, -1, any->count)->name, fit->f->code_name[c]);
        }
    }
}

static void add_ages(Fit *fit) {
    char text[32];
    int bin = fit->o->age_bin_years;
    for (int years = 0; years <= AGE_TOP; years += bin) {
        if (years == AGE_TOP) snprintf(text, sizeof text, "AGE//%d+", years);
        else if (bin == 1) snprintf(text, sizeof text, "AGE//%d", years);
        else snprintf(text, sizeof text, "AGE//%d-%d", years, years + bin - 1);
        add_token(fit, text, TOKEN_AGE, -1, 0);
    }
    add_token(fit, "AGE//UNKNOWN", TOKEN_AGE, -1, 0);
}

static void add_gaps(Fit *fit) {
    Vocabulary *v = &fit->v;
    v->gap_lo = v->n;
    for (int b = 0; b < GAP_TOKENS; b++) {
        add_token(fit, GAP_NAME[b], TOKEN_GAP, -1, 0);
        double lo = GAP_MINUTES[b], hi = b < GAP_BINS ? GAP_MINUTES[b + 1] : lo, *q = v->gap_quantile[b];
        if (b < GAP_BINS && fit->gap[b].n >= GAPS_ENOUGH) sample_quantiles(&fit->gap[b], q, GAP_QUANTILES);
        else
            for (int i = 0; i < GAP_QUANTILES; i++) q[i] = lo + (i + 0.5) / GAP_QUANTILES * (hi - lo);
    }
}

static void add_value_tokens(Fit *fit) {
    char text[16];
    for (int k = 1; k <= SEPARATE_LEVELS_MAX; k++) {
        snprintf(text, sizeof text, "Q%d", k);
        add_token(fit, text, TOKEN_VALUE, -1, 0)->level = k;
    }
    if (limit_has_token(fit, &fit->lt)) add_token(fit, "LT", TOKEN_VALUE, -1, fit->lt.count)->level = LEVEL_LT;
    if (limit_has_token(fit, &fit->gt)) add_token(fit, "GT", TOKEN_VALUE, -1, fit->gt.count)->level = LEVEL_GT;
}

static void add_limit(Fit *fit, int64_t code, const PatientSet *s, const char *suffix, int level) {
    if (fit->o->separate_values || !limit_has_token(fit, s)) return;
    char *text = xasprintf("%s=%s", fit->f->codes[code], suffix);
    VocabToken *t = add_token(fit, text, TOKEN_EVENT, fit->f->code_kind[code], s->count);
    t->level = level;
    set_text(&t->base, fit->f->codes[code]);
    set_text(&t->name, fit->f->code_name[code]);
    free(text);
}

static void add_levels(Fit *fit, const ValuePair *p, int main_unit) {
    const EventFile *f = fit->f;
    const char *code = f->codes[p->code], *unit = f->units[p->unit];
    Vocabulary *v = &fit->v;
    VocabEdges *e = &v->edges[v->n_edges++];
    int n = p->edges.n;
    *e = (VocabEdges){xstrdup(code), xstrdup(unit), n, xcalloc((size_t)n, sizeof(double)),
                      xcalloc((size_t)n + 1, sizeof(double))};
    memcpy(e->edge, p->edges.edge, (size_t)n * sizeof(double));
    memcpy(e->share, p->edges.share, ((size_t)n + 1) * sizeof(double));
    for (int k = 0; k <= n && !fit->o->separate_values; k++) {
        char *text = main_unit ? xasprintf("%s=Q%d", code, k + 1) : xasprintf("%s|%s=Q%d", code, unit, k + 1);
        VocabToken *t = add_token(fit, text, TOKEN_EVENT, f->code_kind[p->code], p->edges.patients[k]);
        t->level = k + 1;
        if (k) t->lo = e->edge[k - 1];
        if (k < n) t->hi = e->edge[k];
        set_text(&t->base, code);
        set_text(&t->unit, unit);
        set_text(&t->name, f->code_name[p->code]);
        free(text);
    }
}

/* Pairs of a code that have edges: the unit of most patients first, the others by name. */
static void add_values(Fit *fit, int64_t code) {
    const ValuePair *pair[256];
    int n = 0;
    for (int32_t i = fit->code[code].first_pair; i >= 0 && n < 256; i = fit->pair[i].next)
        if (fit->pair[i].edges.n) pair[n++] = &fit->pair[i];
    for (int k = 0; k < n; k++) {
        int best = k;
        for (int i = k + 1; i < n; i++) {
            int by_name = strcmp(fit->f->units[pair[i]->unit], fit->f->units[pair[best]->unit]) < 0;
            int64_t more = (int64_t)pair[i]->patients.count - (int64_t)pair[best]->patients.count;
            if (k == 0 ? more > 0 || (more == 0 && by_name) : by_name) best = i;
        }
        const ValuePair *p = pair[best];
        pair[best] = pair[k];
        pair[k] = p;
        add_levels(fit, p, k == 0);
    }
}

static void add_events(Fit *fit) {
    uint32_t n = fit->nodes.n, *rank = intern_ranks(&fit->nodes), *by_rank = xcalloc(n, sizeof *by_rank);
    for (uint32_t i = 0; i < n; i++) by_rank[rank[i]] = i;
    fit->v.edges = xcalloc((size_t)fit->n_pairs + 1, sizeof *fit->v.edges);
    for (int kind = KIND_VISIT_START; kind < KIND_DEATH; kind++) {
        char text[64];
        snprintf(text, sizeof text, "UNKNOWN//%s", event_kind_name(kind));
        add_token(fit, text, TOKEN_UNKNOWN, kind, 0);
        for (uint32_t r = 0; r < n; r++) {
            uint32_t i = by_rank[r];
            if (fit->kind[i] != kind) continue;
            int64_t code = i < (uint32_t)fit->f->n_codes ? (int64_t)i : -1;
            if (fit->forward[i] == (int32_t)i) {
                VocabToken *t = add_token(fit, fit->nodes.item[i], TOKEN_EVENT, kind, fit->set[i].count);
                if (code >= 0) set_text(&t->name, fit->f->code_name[code]);
            }
            if (code < 0) continue;
            add_values(fit, code);
            add_limit(fit, code, &fit->code[code].lt, "LT", LEVEL_LT);
            add_limit(fit, code, &fit->code[code].gt, "GT", LEVEL_GT);
        }
    }
    add_token(fit, "MEDS_DEATH", TOKEN_EVENT, KIND_DEATH, 0);
    free(rank);
    free(by_rank);
}

/* Only codes that an ancestor stands for: that a code is UNKNOWN needs no entry, and rare codes outside any hierarchy
 * may be anything, also an identifier. */
static void add_rollup(Fit *fit) {
    Vocabulary *v = &fit->v;
    v->rollup_from = xcalloc((size_t)fit->f->n_codes, sizeof *v->rollup_from);
    v->rollup_to = xcalloc((size_t)fit->f->n_codes, sizeof *v->rollup_to);
    for (int64_t c = 0; c < fit->f->n_codes; c++) { /* sorted */
        int32_t at = token_node(fit, (int32_t)c);
        if (at < 0 || at == c || !fit->set[c].count) continue;
        v->rollup_from[v->n_rollup] = xstrdup(fit->f->codes[c]);
        v->rollup_to[v->n_rollup++] = xstrdup(fit->nodes.item[at]);
    }
}

/* Markers and symbols of notes. */
static Status add_text(Fit *fit, Err *err) {
    Vocabulary *v = &fit->v;
    int64_t rare, all;
    char name[2 * BPE_WORD_MAX + 16] = "SPELL//";
    v->text_begin = -1;
    if (!fit->text) return OK;
    uint32_t(*merge)[2] = xcalloc((size_t)fit->o->note_merges + 1, sizeof *merge);
    int n = bpe_fit_merges(fit->text, merge, fit->o->note_merges, &rare, &all);
    Status status = bpe_open(&v->text, (const uint32_t(*)[2])merge, n, err);
    free(merge);
    if (status) return status;
    v->text_max = fit->o->note_tokens;
    v->text_begin = v->n;
    add_token(fit, "NOTE_BEGIN", TOKEN_TEXT, -1, 0);
    add_token(fit, "NOTE_END", TOKEN_TEXT, -1, 0);
    add_token(fit, "NOTE_CUT", TOKEN_TEXT, -1, 0);
    for (int s = 0; s < v->text.n; s++) {
        bpe_spell(v->text.symbol[s].bytes, v->text.symbol[s].size, name + 7);
        add_token(fit, name, TOKEN_TEXT, -1, 0);
    }
    return OK;
}

static Status write_down(Fit *fit, const Cohort *cohort, char **json, Err *err) {
    Vocabulary *v = &fit->v;
    v->separate_values = fit->o->separate_values;
    v->age_bin_years = fit->o->age_bin_years;
    v->static_name = xcalloc((size_t)fit->o->n_static, sizeof *v->static_name);
    for (int s = 0; s < fit->o->n_static; s++) v->static_name[v->n_static++] = xstrdup(fit->o->static_name[s]);
    add_token(fit, "PAD", TOKEN_SPECIAL, -1, 0);
    add_token(fit, "RECORD_START", TOKEN_SPECIAL, -1, 0);
    add_token(fit, "RECORD_CONTINUES", TOKEN_SPECIAL, -1, 0);
    add_statics(fit);
    if (v->n > UINT16_MAX)
        return err_set(err, ERR_USAGE,
                       "--static gives %d different tokens, at most 65,535 fit: name columns with fewer values",
                       v->n - 3);
    add_ages(fit);
    add_gaps(fit);
    if (v->separate_values) add_value_tokens(fit);
    add_events(fit);
    add_rollup(fit);
    Status status = add_text(fit, err);
    if (status) return status;
    char *fitted_on =
        xasprintf("{\"events_sha256\": \"%s\", \"train_patients\": %lld, \"min_patients\": %lld}", fit->f->sha256,
                  (long long)cohort->n_split[SPLIT_TRAIN], (long long)fit->o->min_patients);
    *json = vocabulary_format(v, (const char *const *)fit->band, fitted_on);
    free(fitted_on);
    return OK;
}

static void fit_close(Fit *fit) {
    for (int64_t c = 0; c < fit->f->n_codes; c++) {
        PatientSet *s[] = {&fit->code[c].any, &fit->code[c].plain, &fit->code[c].lt, &fit->code[c].gt};
        for (int i = 0; i < 4; i++) patient_set_free(s[i]);
    }
    for (int i = 0; i < fit->n_pairs; i++) {
        patient_set_free(&fit->pair[i].patients);
        sample_free(&fit->pair[i].sample);
    }
    bpe_fit_close(fit->text);
    for (int b = 0; b < GAP_BINS; b++) sample_free(&fit->gap[b]);
    for (uint32_t i = 0; fit->set && i < fit->nodes.n; i++) patient_set_free(&fit->set[i]);
    for (int i = 0; i < fit->v.n; i++) free(fit->band[i]);
    patient_set_free(&fit->lt);
    patient_set_free(&fit->gt);
    intern_free(&fit->nodes);
    free(fit->code);
    free(fit->pair);
    free(fit->parent);
    free(fit->kind);
    free(fit->set);
    free(fit->forward);
    free(fit->band);
    vocabulary_free(&fit->v);
}

Status vocabulary_fit(char **json, EventFile *f, const Cohort *c, const FitOptions *o, FILE *progress, Err *err) {
    *json = NULL;
    if (o->min_patients > UINT32_MAX / 2)
        return err_set(err, ERR_USAGE, "--min-patients %lld is too large", (long long)o->min_patients);
    Fit fit = {.f = f, .o = o, .enough = (uint32_t)o->min_patients};
    fit.code = xcalloc((size_t)f->n_codes, sizeof *fit.code);
    for (int64_t i = 0; i < f->n_codes; i++) fit.code[i].first_pair = -1;
    for (int b = 0; b < GAP_BINS; b++) fit.gap[b].key = philox_hash(GAP_NAME[b]);
    /* A word that one patient alone has may name them, however small the cohort. */
    if (o->notes) fit.text = bpe_fit_open(fit.enough > 2 ? fit.enough : 2);
    Status status = collect(&fit, c, progress, err);
    if (!status) {
        fit_values(&fit);
        build_nodes(&fit);
        cut_cycles(&fit);
        roll_up(&fit);
        status = write_down(&fit, c, json, err);
    }
    fit_close(&fit);
    return status;
}
