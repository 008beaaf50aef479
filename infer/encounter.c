/* encounter.c - see encounter.h. */
#include "infer/encounter.h"
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

/* Fewer pairs than this say nothing about which of two tests comes first. */
enum { PAIRS_LEAST = 20 };

/* ---- codes ------------------------------------------------------------------------------------------------------- */

/* Numbers ids by code; the levels of one code lie side by side. */
static int number_codes(const Vocabulary *v, int kind, int *number, int *first) {
    int n = 0;
    for (int id = 0; id < v->n; id++) {
        const VocabToken *t = &v->token[id];
        number[id] = -1;
        if (t->kind != TOKEN_EVENT || t->event_kind != kind) continue;
        if (!n || strcmp(v->token[first[n - 1]].base, t->base)) first[n++] = id;
        number[id] = n - 1;
    }
    return n;
}

Status diagnosis_codes_open(DiagnosisCodes *c, const Vocabulary *v, Err *err) {
    *c = (DiagnosisCodes){.V = v->n};
    if (v->separate_values)
        return err_set(err, ERR_USAGE, "this vocabulary tells values apart from their tests; sequential diagnosis needs one token "
                                       "a result: tokenise with --values fused");
    size_t V = (size_t)v->n;
    c->test = xcalloc(V, sizeof *c->test);
    c->dx = xcalloc(V, sizeof *c->dx);
    c->test_id = xcalloc(V, sizeof *c->test_id);
    c->dx_id = xcalloc(V, sizeof *c->dx_id);
    c->starts = xcalloc(V, 1);
    c->ends = xcalloc(V, 1);
    c->n_test = number_codes(v, KIND_LAB, c->test, c->test_id);
    c->n_dx = number_codes(v, KIND_DIAGNOSIS, c->dx, c->dx_id);
    for (int id = 0; id < v->n; id++) {
        int kind = v->token[id].event_kind;
        c->starts[id] = kind == KIND_VISIT_START;
        c->ends[id] = kind == KIND_VISIT_START || kind == KIND_VISIT_END || kind == KIND_DEATH || id == v->death;
    }
    size_t T = (size_t)c->n_test, D = (size_t)c->n_dx;
    c->price = xcalloc(T + 1, sizeof *c->price);
    c->minutes = xcalloc(T + 1, sizeof *c->minutes);
    c->usual = xcalloc(T + 1, sizeof *c->usual);
    c->common = xcalloc(D + 1, sizeof *c->common);
    c->never_before = xcalloc(T * T + 1, 1);
    for (int t = 0; t < c->n_test; t++) c->price[t] = 1;
    if (c->n_test && c->n_dx) return OK;
    diagnosis_codes_close(c);
    return err_set(err, ERR_USAGE, "sequential diagnosis needs tests (events of kind lab) and diagnoses in the vocabulary; it has no %s",
                   T ? "diagnoses" : "tests");
}

void diagnosis_codes_close(DiagnosisCodes *c) {
    void *all[] = {c->test, c->dx, c->test_id, c->dx_id, c->starts, c->ends, c->price, c->minutes, c->usual, c->common, c->never_before};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
    *c = (DiagnosisCodes){0};
}

/* ---- prices ------------------------------------------------------------------------------------------------------ */

static int price_read(const json_t *o, double *price, double *minutes) {
    const json_t *p = json_object_get(o, "price"), *m = json_object_get(o, "minutes");
    if (!json_is_number(p) || !json_is_number(m)) return 0;
    *price = json_number_value(p);
    *minutes = json_number_value(m);
    return *price >= 0 && *minutes >= 0;
}

static Status prices_read(DiagnosisCodes *c, const Vocabulary *v, const char *path, const json_t *root, Err *err) {
    double price, minutes;
    if (!price_read(json_object_get(root, "default"), &price, &minutes))
        return err_set(err, ERR_FORMAT, "%s: expected \"default\": {\"price\": P, \"minutes\": M}, both 0 or more", path);
    for (int t = 0; t < c->n_test; t++) {
        c->price[t] = price;
        c->minutes[t] = minutes;
    }
    size_t i, k;
    const json_t *row, *code;
    json_array_foreach(json_object_get(root, "tests"), i, row) {
        const json_t *codes = json_object_get(row, "codes");
        if (!price_read(row, &price, &minutes) || !json_is_array(codes))
            return err_set(err, ERR_FORMAT, "%s: tests[%zu]: expected \"codes\": [...], \"price\" and \"minutes\" of 0 or more", path, i);
        json_array_foreach(codes, k, code) for (int t = 0; t < c->n_test; t++) {
            if (!json_is_string(code) || !code_matches(v->token[c->test_id[t]].base, json_string_value(code))) continue;
            c->price[t] = price;
            c->minutes[t] = minutes;
        }
    }
    return OK;
}

Status diagnosis_prices(DiagnosisCodes *c, const Vocabulary *v, const char *path, char *currency, size_t size, Err *err) {
    snprintf(currency, size, "tests");
    if (!path) return OK;
    json_error_t where;
    json_t *root = json_load_file(path, JSON_REJECT_DUPLICATES, &where);
    if (!root) return err_set(err, ERR_FORMAT, "--prices %s: not a JSON file: line %d: %s", path, where.line, where.text);
    const json_t *name = json_object_get(root, "currency");
    if (json_is_string(name)) snprintf(currency, size, "%s", json_string_value(name));
    Status st = prices_read(c, v, path, root, err);
    json_decref(root);
    return st;
}

/* ---- encounters -------------------------------------------------------------------------------------------------- */

void encounter_init(Encounter *e, const DiagnosisCodes *c) {
    *e = (Encounter){0};
    e->result = xcalloc((size_t)c->n_test + 1, sizeof *e->result);
    e->had = xcalloc((size_t)c->n_dx + 1, 1);
    e->fresh = xcalloc((size_t)c->n_dx + 1, 1);
}

void encounter_free(Encounter *e) {
    free(e->result);
    free(e->had);
    free(e->fresh);
    *e = (Encounter){0};
}

static void encounter_fill(const DiagnosisCodes *c, const PatientView *p, Encounter *e) {
    e->patient = *p;
    e->n_recorded = e->n_fresh = 0;
    memset(e->had, 0, (size_t)c->n_dx);
    memset(e->fresh, 0, (size_t)c->n_dx);
    for (int t = 0; t < c->n_test; t++) e->result[t] = -1;
    for (int64_t i = 0; i < e->opening; i++) {
        int d = c->dx[patient_token(p, i)];
        if (d >= 0) e->had[d] = 1;
    }
    for (int64_t i = e->opening; i < e->end; i++) {
        int32_t id = (int32_t)patient_token(p, i);
        int t = c->test[id], d = c->dx[id];
        if (t >= 0 && e->result[t] < 0) {
            e->result[t] = id;
            e->n_recorded++;
        }
        if (d >= 0 && !e->had[d] && !e->fresh[d]) {
            e->fresh[d] = 1;
            e->n_fresh++;
        }
    }
}

int encounter_next(const DiagnosisCodes *c, const PatientView *p, int64_t from, Encounter *e) {
    for (int64_t i = from; i < p->n; i++) {
        if (!c->starts[patient_token(p, i)]) continue;
        e->start = i;
        e->opening = -1;
        for (e->end = i + 1; e->end < p->n && !c->ends[patient_token(p, e->end)]; e->end++)
            if (e->opening < 0 && c->test[patient_token(p, e->end)] >= 0) e->opening = e->end;
        if (e->opening < 0) continue;
        encounter_fill(c, p, e);
        return 1;
    }
    return 0;
}

/* ---- counting ---------------------------------------------------------------------------------------------------- */

typedef struct {
    int64_t *recorded, *fresh, *could; /* (n_test), (n_dx), (n_dx) */
    uint32_t *before;                  /* (n_test, n_test) */
    int *order;                                 /* (n_test) tests of one encounter as they came */
    uint8_t *seen;
} Counts;

static void encounter_count(const DiagnosisCodes *c, const Encounter *e, Counts *k) {
    int n = 0;
    memset(k->seen, 0, (size_t)c->n_test);
    for (int64_t i = e->opening; i < e->end; i++) {
        int t = c->test[patient_token(&e->patient, i)];
        if (t < 0 || k->seen[t]) continue;
        k->seen[t] = 1;
        k->recorded[t]++;
        for (int a = 0; a < n; a++) k->before[(size_t)k->order[a] * (size_t)c->n_test + (size_t)t]++;
        k->order[n++] = t;
    }
    for (int d = 0; d < c->n_dx; d++) {
        k->could[d] += !e->had[d];
        k->fresh[d] += e->fresh[d];
    }
}

Status encounters_count(DiagnosisCodes *c, Dataset *d, int64_t patients, Err *err) {
    size_t T = (size_t)c->n_test, D = (size_t)c->n_dx;
    Counts k = {xcalloc(T + 1, sizeof(int64_t)), xcalloc(D + 1, sizeof(int64_t)), xcalloc(D + 1, sizeof(int64_t)),
                xcalloc(T * T + 1, sizeof(uint32_t)), xcalloc(T + 1, sizeof(int)), xcalloc(T + 1, 1)};
    Encounter e;
    encounter_init(&e, c);
    Status st = OK;
    c->n_counted = 0;
    for (int64_t i = 0; !st && i < d->n_patients[SPLIT_TRAIN] && i < patients; i++) {
        PatientView p;
        if ((st = dataset_patient(d, SPLIT_TRAIN, i, &p, err))) break;
        for (int64_t at = 0; encounter_next(c, &p, at, &e); at = e.end) {
            c->n_counted++;
            encounter_count(c, &e, &k);
        }
    }
    for (size_t t = 0; t < T; t++) c->usual[t] = c->n_counted ? (double)k.recorded[t] / (double)c->n_counted : 0;
    for (size_t x = 0; x < D; x++) c->common[x] = k.could[x] ? (double)k.fresh[x] / (double)k.could[x] : 0;
    for (size_t a = 0; a < T; a++)
        for (size_t b = 0; b < T; b++) c->never_before[a * T + b] = !k.before[a * T + b] && k.before[b * T + a] >= PAIRS_LEAST;
    encounter_free(&e);
    void *all[] = {k.recorded, k.fresh, k.could, k.before, k.order, k.seen};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
    return st;
}

Status test_use_count(const DiagnosisCodes *c, Dataset *d, int split, int64_t patients, TestUse *out, Err *err) {
    *out = (TestUse){.recorded = xcalloc((size_t)c->n_test + 1, sizeof *out->recorded),
                     .recorded_fresh = xcalloc((size_t)c->n_test + 1, sizeof *out->recorded_fresh)};
    Encounter e;
    encounter_init(&e, c);
    Status st = OK;
    for (int64_t i = 0; !st && i < d->n_patients[split] && i < patients; i++) {
        PatientView p;
        if ((st = dataset_patient(d, split, i, &p, err))) break;
        for (int64_t k = 0; k < p.n; k++) out->visits += c->starts[patient_token(&p, k)];
        for (int64_t at = 0; encounter_next(c, &p, at, &e); at = e.end) {
            out->encounters++;
            out->with_fresh += e.n_fresh > 0;
            for (int t = 0; t < c->n_test; t++) {
                out->recorded[t] += e.result[t] >= 0;
                out->recorded_fresh[t] += e.result[t] >= 0 && e.n_fresh > 0;
            }
        }
    }
    encounter_free(&e);
    return st;
}

void test_use_free(TestUse *u) {
    free(u->recorded);
    free(u->recorded_fresh);
    *u = (TestUse){0};
}
