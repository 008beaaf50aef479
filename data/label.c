/* label.c - reads label files; see label.h.  They come from elsewhere and are never trusted. */
#include "data/label.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "data/event.h"

static Status bad(const char *path, const char *what, Err *err) {
    return err_set(err, ERR_FORMAT, "%s: %s; make it again with `ehr-data label`", path, what);
}

/* A JSON array of strings; an absent attribute is an empty one unless needed. */
static Status patterns_read(const Table *t, const char *path, const char *name, int needed, int *n, char ***out,
                            Err *err) {
    const char *text = table_attribute(t, name);
    *n = 0;
    *out = xcalloc(1, sizeof **out);
    if (!text && !needed) return OK;
    json_error_t why;
    json_t *list = text ? json_loads(text, JSON_REJECT_DUPLICATES, &why) : NULL;
    if (!json_is_array(list)) {
        json_decref(list);
        char *what = xasprintf("attribute %s is not a list of code patterns", name);
        Status s = bad(path, what, err);
        free(what);
        return s;
    }
    *out = xrealloc(*out, (json_array_size(list) + 1) * sizeof **out);
    Status status = OK;
    for (size_t i = 0; !status && i < json_array_size(list); i++) {
        const char *s = json_string_value(json_array_get(list, i));
        if (!s || !s[0]) status = bad(path, "a code pattern is not text", err);
        else (*out)[(*n)++] = xstrdup(s);
    }
    json_decref(list);
    return status;
}

static Status rows_check(const LabelFile *f, const char *path, Err *err) {
    for (int64_t i = 0; i < f->table.n; i++) {
        if (f->split[i] < 0 || f->split[i] >= SPLIT_COUNT) return bad(path, "a split is not 0, 1 or 2", err);
        if (f->patient_row[i] < 0) return bad(path, "a patient row is negative", err);
        if (f->index_minutes[i] < 0 || f->index_minutes[i] > INT32_MAX)
            return bad(path, "an index lies outside 0 .. 2^31 minutes", err);
        if (f->outcome[i] < -1 || f->outcome[i] > 1) return bad(path, "an outcome is not 1, 0 or -1", err);
        double p = f->true_risk ? f->true_risk[i] : NAN;
        if (!isnan(p) && !(p >= 0 && p <= 1)) return bad(path, "a true risk is no probability", err);
    }
    return OK;
}

Status label_file_open(LabelFile *f, const char *path, Err *err) {
    memset(f, 0, sizeof *f);
    Status s = table_read_h5(&f->table, path, err);
    if (s) return s;
    f->patient_key = table_get(&f->table, "patient_key", COLUMN_U64);
    f->split = table_get(&f->table, "split", COLUMN_I64);
    f->patient_row = table_get(&f->table, "patient_row", COLUMN_I64);
    f->index_minutes = table_get(&f->table, "index_minutes", COLUMN_I64);
    f->outcome = table_get(&f->table, "outcome", COLUMN_I64);
    f->true_risk = table_get(&f->table, "true_risk", COLUMN_F64);
    f->true_risk_se = table_get(&f->table, "true_risk_se", COLUMN_F64);
    const char *name = table_attribute(&f->table, "name"), *horizon = table_attribute(&f->table, "horizon_minutes");
    char *end = NULL;
    f->horizon_minutes = horizon ? strtoll(horizon, &end, 10) : 0;
    f->name = xstrdup(name ? name : "");
    if (!f->patient_key || !f->split || !f->patient_row || !f->index_minutes || !f->outcome)
        s = bad(path, "it is no label file: patient_key, split, patient_row, index_minutes or outcome is missing", err);
    else if (!name || !name[0] || strchr(name, '/')) s = bad(path, "its name is missing or has a /", err);
    else if (!horizon || end == horizon || *end || f->horizon_minutes <= 0 || f->horizon_minutes > INT32_MAX)
        s = bad(path, "its horizon_minutes is no positive number of minutes", err);
    const char *after = table_attribute(&f->table, "after_minutes"), *ends = table_attribute(&f->table, "after_ends");
    f->after_minutes = after ? strtoll(after, &end, 10) : 0;
    f->after_ends = ends && !strcmp(ends, "yes");
    if (!s && after && (end == after || *end || f->after_minutes <= 0 || f->after_minutes >= f->horizon_minutes))
        s = bad(path, "its after_minutes is no number of minutes below horizon_minutes", err);
    if (!s) s = rows_check(f, path, err);
    if (!s) s = patterns_read(&f->table, path, "outcome_codes", 1, &f->n_codes, &f->codes, err);
    if (!s) s = patterns_read(&f->table, path, "stop_codes", 0, &f->n_stops, &f->stops, err);
    if (s) label_file_close(f);
    return s;
}

Status label_file_fits(const LabelFile *f, const char *path, const Dataset *d, Err *err) {
    const char *vocabulary = table_attribute(&f->table, "vocabulary_sha256"), *dataset = table_attribute(&f->table, "dataset_sha256");
    if (vocabulary && strcmp(vocabulary, d->vocabulary.sha256))
        return err_set(err, ERR_FORMAT, "%s was made for another vocabulary: run `ehr-data label` on %s again", path, d->path);
    /* Row numbers, and patient keys counted from 0, mean nothing in another dataset and may still seem to fit. */
    if (dataset && strcmp(dataset, d->sha256))
        return err_set(err, ERR_FORMAT, "%s was made for another dataset than %s: run `ehr-data label EVENTS --data %s` again",
                       path, d->path, d->path);
    return OK;
}

static void patterns_free(char **pattern, int n) {
    for (int i = 0; i < n; i++) free(pattern[i]);
    free(pattern);
}

void label_file_close(LabelFile *f) {
    patterns_free(f->codes, f->n_codes);
    patterns_free(f->stops, f->n_stops);
    free(f->name);
    table_free(&f->table);
    memset(f, 0, sizeof *f);
}
