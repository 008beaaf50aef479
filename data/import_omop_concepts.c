/* import_omop_concepts.c - from concept ids to code strings, names and parents.
 *
 * The vocabulary tables hold millions of rows, the records use some thousands of concepts: the tables are streamed, and
 * only rows of concepts that were met, or that are ancestors of those, are kept. */
#include "data/csv.h"
#include "data/event_format.h"
#include "data/import_omop.h"
#include "data/units.h"
#include "kernels/philox.h"
#include <stdlib.h>

enum { LEVELS_MAX = 24 /* passes up "Is a" relationships */ };

/* ---- the concept table ------------------------------------------------------------------------------------------- */

static uint32_t concept_probe(const ConceptTable *t, int64_t id) {
    uint32_t mask = t->n_slots - 1, i = (uint32_t)philox_mix((uint64_t)id, 0) & mask;
    while (t->slot[i] != INTERN_NONE && t->item[t->slot[i]].id != id) i = (i + 1) & mask;
    return i;
}

static uint32_t concept_find(const ConceptTable *t, int64_t id) {
    return t->n_slots ? t->slot[concept_probe(t, id)] : INTERN_NONE;
}

static uint32_t concept_add(ConceptTable *t, int64_t id) {
    if (t->n == t->capacity) {
        t->capacity = t->capacity ? 2 * t->capacity : 256;
        t->item = xrealloc(t->item, t->capacity * sizeof *t->item);
        t->n_slots = 2 * t->capacity;
        t->slot = xrealloc(t->slot, t->n_slots * sizeof *t->slot);
        memset(t->slot, 0xff, t->n_slots * sizeof *t->slot);
        for (uint32_t i = 0; i < t->n; i++) t->slot[concept_probe(t, t->item[i].id)] = i;
        t->bytes += t->capacity / 2 * (sizeof *t->item + 2 * sizeof *t->slot);
    }
    uint32_t slot = concept_probe(t, id);
    if (t->slot[slot] == INTERN_NONE) {
        t->slot[slot] = t->n;
        t->item[t->n++] = (Concept){.id = id, .parent = INTERN_NONE};
    }
    return t->slot[slot];
}

static void edge_add(ConceptTable *t, uint32_t child, uint32_t parent) {
    if (t->n_edges == t->edge_capacity) {
        t->edge_capacity = t->edge_capacity ? 2 * t->edge_capacity : 256;
        t->edge = xrealloc(t->edge, t->edge_capacity * sizeof *t->edge);
        t->bytes += t->edge_capacity / 2 * sizeof *t->edge;
    }
    t->edge[t->n_edges++] = (ConceptEdge){child, parent};
}

void concepts_free(ConceptTable *t) {
    for (uint32_t i = 0; i < t->n; i++) {
        free(t->item[i].code);
        free(t->item[i].name);
    }
    free(t->item);
    free(t->slot);
    free(t->edge);
    *t = (ConceptTable){0};
}

/* ---- streaming a vocabulary table -------------------------------------------------------------------------------- */

enum { SCAN_COLUMNS = 4 };
typedef struct {
    Stream stream;
    Csv csv;
    int column[SCAN_COLUMNS];
    int64_t rows;
} Scan;

/* *open = 0 when the archive has no such table. */
static Status scan_open(Omop *o, Scan *s, const char *table, const char *const columns[SCAN_COLUMNS], int *open,
                        Err *err) {
    int entry;
    *open = 0;
    Status status = import_table_find(&o->im, table, &entry, err);
    if (status || entry < 0) return status;
    if ((status = stream_open(&s->stream, &o->im.archive, entry, err))) return status;
    if ((status = csv_open(&s->csv, &s->stream, (size_t)o->im.options->max_line, err))) {
        stream_close(&s->stream);
        return status;
    }
    s->rows = 0;
    for (int i = 0; i < SCAN_COLUMNS && columns[i] && !status; i++)
        if ((s->column[i] = csv_column(&s->csv, columns[i])) < 0)
            status = err_set(err, ERR_FORMAT, "%s has no column %s; is it an OMOP %s table?", s->stream.name,
                             columns[i], table);
    progress_open(&o->im.progress, o->im.options->progress, "read vocabulary", "MiB", s->stream.size >> 20);
    *open = !status;
    if (status) {
        csv_close(&s->csv);
        stream_close(&s->stream);
    }
    return status;
}

static Status scan_next(Omop *o, Scan *s, int *got, Err *err) {
    Status status = csv_next(&s->csv, got, err);
    if (!(++s->rows & 65535)) progress_update(&o->im.progress, s->stream.done >> 20);
    if (!status && o->concepts.bytes > (size_t)o->im.options->memory / 4)
        status = err_set(err, ERR_NOMEM, "%s: %u concepts do not fit into a quarter of --memory %lld; give more",
                         s->stream.name, o->concepts.n, (long long)o->im.options->memory);
    return status;
}

static void scan_close(Omop *o, Scan *s) {
    progress_close(&o->im.progress, s->stream.done >> 20);
    csv_close(&s->csv);
    stream_close(&s->stream);
}

static int64_t scan_id(const Scan *s, int column) {
    int64_t id;
    return field_int(s->csv.field[s->column[column]], &id) > 0 ? id : 0;
}

/* CONCEPT_ANCESTOR holds all ancestors of a concept: one pass finds them, a second the steps among them. */
static Status ancestors_read(Omop *o, int pass, int64_t *rows, Err *err) {
    static const char *const columns[SCAN_COLUMNS] = {"ancestor_concept_id", "descendant_concept_id",
                                                      "min_levels_of_separation"};
    ConceptTable *t = &o->concepts;
    Scan s;
    int open, got = 1;
    *rows = 0;
    Status status = scan_open(o, &s, "concept_ancestor", columns, &open, err);
    if (status || !open) return status;
    while (!(status = scan_next(o, &s, &got, err)) && got) {
        int64_t ancestor = scan_id(&s, 0), descendant = scan_id(&s, 1);
        uint32_t child = concept_find(t, descendant);
        ++*rows;
        if (child == INTERN_NONE || ancestor <= 0 || ancestor == descendant) continue;
        if (pass == 1) {
            if (!t->item[child].wanted) continue;
            uint32_t n = t->n, parent = concept_add(t, ancestor);
            if (parent == n) t->item[parent].level = 1;
        } else if (scan_id(&s, 2) == 1 && (t->item[child].wanted || t->item[child].level)) {
            uint32_t parent = concept_find(t, ancestor);
            if (parent != INTERN_NONE) edge_add(t, child, parent);
        }
    }
    scan_close(o, &s);
    return status;
}

/* One pass over CONCEPT_RELATIONSHIP: parents of the concepts that the pass before found.  *found = new ones. */
static Status relationships_read(Omop *o, int level, int *found, Err *err) {
    static const char *const columns[SCAN_COLUMNS] = {"concept_id_1", "concept_id_2", "relationship_id"};
    ConceptTable *t = &o->concepts;
    Scan s;
    int open, got = 1;
    *found = 0;
    Status status = scan_open(o, &s, "concept_relationship", columns, &open, err);
    if (status || !open) return status;
    int invalid = csv_column(&s.csv, "invalid_reason");
    while (!(status = scan_next(o, &s, &got, err)) && got) {
        const char *what = s.csv.field[s.column[2]];
        int is_a = !strcasecmp(what, "Is a"), subsumes = !is_a && !strcasecmp(what, "Subsumes");
        if (!is_a && !subsumes) continue;
        if (invalid >= 0 && *s.csv.field[invalid]) continue;
        int64_t child_id = scan_id(&s, subsumes), parent_id = scan_id(&s, is_a);
        uint32_t child = concept_find(t, child_id);
        if (child == INTERN_NONE || parent_id <= 0 || parent_id == child_id) continue;
        if (level == 1 ? !t->item[child].wanted : t->item[child].level != level - 1 || t->item[child].wanted) continue;
        uint32_t n = t->n, parent = concept_add(t, parent_id);
        if (parent == n) t->item[parent].level = (uint8_t)level;
        /* A concept that was met for another reason (a value, a unit) is climbed from as well. */
        if (!t->item[parent].wanted && !t->item[parent].level) t->item[parent].level = (uint8_t)level;
        *found |= t->item[parent].level == level;
        edge_add(t, child, parent);
    }
    scan_close(o, &s);
    return status;
}

static Status concepts_read(Omop *o, Err *err) {
    static const char *const columns[SCAN_COLUMNS] = {"concept_id", "vocabulary_id", "concept_code", "concept_name"};
    ConceptTable *t = &o->concepts;
    Scan s;
    int open, got = 1;
    Status status = scan_open(o, &s, "concept", columns, &open, err);
    if (status || !open) return status;
    while (!(status = scan_next(o, &s, &got, err)) && got) {
        uint32_t i = concept_find(t, scan_id(&s, 0));
        const char *vocabulary = s.csv.field[s.column[1]], *code = s.csv.field[s.column[2]];
        if (i == INTERN_NONE || t->item[i].code || !*vocabulary || !*code) continue;
        const char *name = s.csv.field[s.column[3]];
        t->item[i].code =
            xasprintf("%.*s//%.*s", (int)utf8_cut(vocabulary, 60), vocabulary, (int)utf8_cut(code, 120), code);
        t->item[i].name = xasprintf("%.*s", (int)utf8_cut(name, EVENT_STRING_MAX), name);
        t->bytes += strlen(t->item[i].code) + strlen(t->item[i].name) + 40;
    }
    scan_close(o, &s);
    return status;
}

/* ---- parents ----------------------------------------------------------------------------------------------------- */

/* Of several parents the one with the smallest code; a step that would close a circle is left out. */
static void parents_choose(ConceptTable *t) {
    for (size_t i = 0; i < t->n_edges; i++) {
        Concept *child = &t->item[t->edge[i].child];
        const char *code = t->item[t->edge[i].parent].code;
        if (!code || !child->code || !strcmp(code, child->code)) continue;
        if (child->parent == INTERN_NONE || strcmp(code, t->item[child->parent].code) < 0)
            child->parent = t->edge[i].parent;
    }
    for (uint32_t i = 0; i < t->n; i++) {
        /* Cut at the smallest code on the circle, whichever concept it is found from. */
        uint32_t slow = i, fast = i;
        do {
            slow = t->item[slow].parent;
            fast = t->item[fast].parent;
            if (fast != INTERN_NONE) fast = t->item[fast].parent;
        } while (fast != INTERN_NONE && slow != fast);
        if (fast == INTERN_NONE) continue;
        uint32_t least = fast;
        for (uint32_t k = t->item[fast].parent; k != fast; k = t->item[k].parent)
            if (strcmp(t->item[k].code, t->item[least].code) < 0) least = k;
        t->item[least].parent = INTERN_NONE;
    }
}

/* Makes the ancestors of a concept known to the writer, with the kind of what descends from them. */
static Status chain_write(Omop *o, uint32_t concept, int kind, Err *err) {
    ConceptTable *t = &o->concepts;
    Status status = OK;
    for (uint32_t i = t->item[concept].parent; i != INTERN_NONE && !status; i = t->item[i].parent) {
        const Concept *c = &t->item[i];
        uint32_t id;
        if (c->used) continue; /* has a kind of its own */
        status = event_writer_code(o->im.writer, c->code, kind, c->name,
                                   c->parent == INTERN_NONE ? NULL : t->item[c->parent].code, &id, err);
    }
    return status;
}

/* Intensive Care (32037), Inpatient Critical Care Facility (581379) and what lies below them. */
static void icu_mark(ConceptTable *t) {
    for (uint32_t i = 0; i < t->n; i++) t->item[i].icu = t->item[i].id == 32037 || t->item[i].id == 581379;
    for (int changed = 1; changed;) {
        changed = 0;
        for (size_t i = 0; i < t->n_edges; i++) {
            if (!t->item[t->edge[i].parent].icu || t->item[t->edge[i].child].icu) continue;
            t->item[t->edge[i].child].icu = 1;
            changed = 1;
        }
    }
}

/* ---- keys -> codes of the writer --------------------------------------------------------------------------------- */

static Status clinical_resolve(Omop *o, CodeKey *k, Err *err) {
    static const char *const table_names[] = {"person",
                                              "observation_period",
                                              "death",
                                              "visit_occurrence",
                                              "visit_detail",
                                              "condition_occurrence",
                                              "procedure_occurrence",
                                              "drug_exposure",
                                              "measurement",
                                              "observation",
                                              "device_exposure",
                                              "note"};
    ConceptTable *t = &o->concepts;
    uint32_t concept = k->concept ? concept_find(t, k->concept) : INTERN_NONE;
    const Concept *c = concept == INTERN_NONE ? NULL : &t->item[concept];
    const char *name = NULL, *parent = NULL;
    char base[EVENT_STRING_MAX + 1];
    if (c && c->code) {
        snprintf(base, sizeof base, "%s", c->code);
        name = c->name;
        if (c->parent != INTERN_NONE) parent = t->item[c->parent].code;
    } else if (k->concept) {
        snprintf(base, sizeof base, "OMOP//%lld", (long long)k->concept);
    } else {
        snprintf(base, sizeof base, "%s//%s", table_names[k->table], o->im.texts.item[k->text]);
    }
    const char *mapped = import_mapped(&o->im, KEY_CLINICAL, base, &name, &k->mapped);
    if (mapped != base) {
        snprintf(base, sizeof base, "%s", mapped);
        parent = NULL;
    }
    k->analyte = (uint8_t)(unit_analyte(base) + 1);
    Status status = event_writer_code(o->im.writer, base, k->kind, name, parent, &k->code, err);
    if (!status && parent) status = chain_write(o, concept, k->kind, err);
    if (status || !k->value_concept) return status;

    /* CODE=VALUECODE, which rolls up to CODE. */
    uint32_t value = concept_find(t, k->value_concept);
    const Concept *v = &t->item[value];
    char text[2 * EVENT_STRING_MAX], both[2 * EVENT_STRING_MAX + 4];
    if (v->code) snprintf(text, sizeof text, "%s=%s", base, v->code);
    else snprintf(text, sizeof text, "%s=OMOP//%lld", base, (long long)k->value_concept);
    text[utf8_cut(text, EVENT_STRING_MAX)] = 0;
    snprintf(both, sizeof both, "%s: %s", name ? name : base, v->name ? v->name : "?");
    return event_writer_code(o->im.writer, text, k->kind, both, base, &k->code, err);
}

static int is_inpatient(int64_t concept) {
    static const int64_t concepts[] = {9201, 262,   8717,  8920,
                                       8971, 32037, 581379}; /* inpatient, ER and inpatient, hospital,
                rehabilitation, psychiatric, intensive care, critical care facility */
    for (size_t i = 0; i < sizeof concepts / sizeof *concepts; i++)
        if (concepts[i] == concept) return 1;
    return 0;
}

static Status visit_resolve(Omop *o, CodeKey *k, Err *err) {
    static const struct {
        int64_t id;
        const char *code, *name;
    } standard[] = {{9201, "IP", "Inpatient visit"},
                    {9202, "OP", "Outpatient visit"},
                    {9203, "ER", "Emergency room visit"},
                    {262, "ERIP", "Emergency room and inpatient visit"}};
    char code[EVENT_STRING_MAX + 1], end[EVENT_STRING_MAX + 12], text[EVENT_STRING_MAX + 20];
    const char *name = NULL;
    uint32_t i = k->concept ? concept_find(&o->concepts, k->concept) : INTERN_NONE;
    if (i != INTERN_NONE && o->concepts.item[i].code) {
        const char *c = o->concepts.item[i].code;
        snprintf(code, sizeof code, "%s", strncmp(c, "Visit//", 7) ? c : c + 7);
        name = o->concepts.item[i].name;
    } else {
        snprintf(code, sizeof code, k->concept ? "OMOP//%lld" : "UNKNOWN", (long long)k->concept);
    }
    for (size_t j = 0; j < sizeof standard / sizeof *standard; j++)
        if (standard[j].id == k->concept) {
            snprintf(code, sizeof code, "%s", standard[j].code);
            if (!name) name = standard[j].name;
        }
    code[utf8_cut(code, EVENT_STRING_MAX - 12)] = 0;
    k->mark = (uint8_t)is_inpatient(k->concept);
    snprintf(end, sizeof end, "VISIT//%s", code);
    Status status = event_writer_code(o->im.writer, end, KIND_VISIT_START, name, NULL, &k->code, err);
    if (status) return status;
    snprintf(end, sizeof end, "VISIT_END//%s", code);
    snprintf(text, sizeof text, "End: %s", name ? name : code);
    return event_writer_code(o->im.writer, end, KIND_VISIT_END, text, NULL, &k->end_code, err);
}

/* Person concepts that every site has, so that their codes do not depend on a vocabulary being there. */
static const struct {
    int64_t id;
    const char *code, *name;
} person_codes[] = {{8507, "SEX//M", "Male"},
                    {8532, "SEX//F", "Female"},
                    {8551, "SEX//UNKNOWN", "Sex unknown"},
                    {8521, "SEX//OTHER", "Other sex"},
                    {8527, "RACE//WHITE", "White"},
                    {8515, "RACE//ASIAN", "Asian"},
                    {8516, "RACE//BLACK", "Black or African American"},
                    {8557, "RACE//PACIFIC", "Native Hawaiian or Other Pacific Islander"},
                    {8657, "RACE//NATIVE", "American Indian or Alaska Native"},
                    {8522, "RACE//OTHER", "Other race"},
                    {8552, "RACE//UNKNOWN", "Race unknown"},
                    {38003563, "ETHNICITY//HISPANIC", "Hispanic or Latino"},
                    {38003564, "ETHNICITY//NOT_HISPANIC", "Not Hispanic or Latino"}};

static Status person_resolve(Omop *o, CodeKey *k, Err *err) {
    const char *prefix = k->role == KEY_SEX ? "SEX" : k->role == KEY_RACE ? "RACE" : "ETHNICITY", *name = NULL;
    char code[EVENT_STRING_MAX + 1];
    const char *text = k->text == INTERN_NONE ? "" : o->im.texts.item[k->text];
    snprintf(code, sizeof code, "%s//UNKNOWN", prefix);
    uint32_t i = k->concept ? concept_find(&o->concepts, k->concept) : INTERN_NONE;
    if (i != INTERN_NONE && o->concepts.item[i].code) {
        const char *c = strstr(o->concepts.item[i].code, "//");
        snprintf(code, sizeof code, "%s%s", prefix, c);
        name = o->concepts.item[i].name;
    }
    if (k->role == KEY_SEX && (!strcasecmp(text, "M") || !strcasecmp(text, "male"))) k->concept = 8507;
    if (k->role == KEY_SEX && (!strcasecmp(text, "F") || !strcasecmp(text, "female"))) k->concept = 8532;
    for (size_t j = 0; j < sizeof person_codes / sizeof *person_codes; j++)
        if (person_codes[j].id == k->concept && !strncmp(person_codes[j].code, prefix, strlen(prefix))) {
            snprintf(code, sizeof code, "%s", person_codes[j].code);
            name = person_codes[j].name;
        }
    return event_writer_code(o->im.writer, code, KIND_STATIC, name, NULL, &k->code, err);
}

static Status unit_resolve(Omop *o, CodeKey *k, Err *err) {
    char unit[EVENT_STRING_MAX + 1];
    uint32_t i = k->concept ? concept_find(&o->concepts, k->concept) : INTERN_NONE;
    if (i != INTERN_NONE && o->concepts.item[i].code)
        snprintf(unit, sizeof unit, "%s", strstr(o->concepts.item[i].code, "//") + 2);
    else if (k->concept) snprintf(unit, sizeof unit, "OMOP//%lld", (long long)k->concept);
    else snprintf(unit, sizeof unit, "%s", k->text == INTERN_NONE ? "{unmapped}" : o->im.texts.item[k->text]);
    return import_unit_add(&o->im, unit, k, err);
}

static Status key_resolve(Omop *o, CodeKey *k, Err *err) {
    switch (k->role) {
    case KEY_CLINICAL: return clinical_resolve(o, k, err);
    case KEY_VISIT: return visit_resolve(o, k, err);
    case KEY_DETAIL:
        k->mark = k->concept
        &&o->concepts.item[concept_find(&o->concepts, k->concept)].icu;
        return OK;
    case KEY_UNIT: return unit_resolve(o, k, err);
    default: return person_resolve(o, k, err);
    }
}

static Status hierarchy_read(Omop *o, Err *err) {
    int64_t rows;
    Status status = ancestors_read(o, 1, &rows, err);
    if (!status && rows) return ancestors_read(o, 2, &rows, err);
    int found = 1;
    for (int level = 1; level <= LEVELS_MAX && found && !status; level++)
        status = relationships_read(o, level, &found, err);
    return status;
}

Status omop_resolve_codes(Omop *o, Err *err) {
    ConceptTable *t = &o->concepts;
    for (uint32_t i = 0; i < o->im.keys.n; i++) {
        const CodeKey *k = &o->im.keys.key[i];
        if (k->value_concept) concept_add(t, k->value_concept);
        if (!k->concept) continue;
        uint32_t c = concept_add(t, k->concept);
        if (k->role == KEY_CLINICAL) t->item[c].used = 1;
        if (k->role == KEY_CLINICAL || k->role == KEY_DETAIL) t->item[c].wanted = 1;
    }
    Status status = hierarchy_read(o, err);
    if (!status) status = concepts_read(o, err);
    if (status) return status;
    parents_choose(t);
    icu_mark(t);
    for (uint32_t i = 0; i < o->im.keys.n && !status; i++) status = key_resolve(o, &o->im.keys.key[i], err);
    for (uint32_t i = 0; i < t->n; i++) {
        if (!t->item[i].used) continue;
        o->im.report->codes++;
        o->im.report->codes_with_parent += t->item[i].parent != INTERN_NONE;
        o->im.report->concepts_missing += !t->item[i].code;
    }
    return status;
}
