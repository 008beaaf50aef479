/* label_meds.c - see label_meds.h. */
#include "data/label_meds.h"
#include "data/csv.h"
#include "data/import.h"
#include "data/linkage.h"
#include <stdlib.h>
#include <string.h>

typedef enum { COL_SUBJECT, COL_US, COL_TIME, COL_OUTCOME, COL_COUNT } LabelColumn;

static int compare_labels(const void *a, const void *b) {
    const MedsLabel *x = a, *y = b;
    if (x->subject != y->subject) return x->subject < y->subject ? -1 : 1;
    if (x->index_us != y->index_us) return x->index_us < y->index_us ? -1 : 1;
    return (x->outcome > y->outcome) - (x->outcome < y->outcome);
}

static Status bad_row(const Csv *c, const char *column, const char *found, const char *expected, Err *err) {
    return err_set(err, ERR_FORMAT, "%s, row %lld: %s is \"%.60s\", %s was expected", c->stream->name,
                   (long long)c->counts.rows, column, found, expected);
}

static Status row_parse(const Csv *c, const int *bound, MedsLabel *out, Err *err) {
    const char *text[COL_COUNT];
    FieldTime t;
    for (int k = 0; k < COL_COUNT; k++) text[k] = bound[k] < 0 ? "" : c->field[bound[k]];
    if (field_int(text[COL_SUBJECT], &out->subject) <= 0)
        return bad_row(c, "subject_id", text[COL_SUBJECT], "a whole number", err);
    int got = field_int(text[COL_US], &out->index_us);
    if (!got && (got = field_time(text[COL_TIME], &t)) > 0) out->index_us = t.us;
    if (got <= 0) return bad_row(c, "prediction_time", *text[COL_US] ? text[COL_US] : text[COL_TIME], "a time", err);
    const char *value = text[COL_OUTCOME];
    out->outcome = !strcasecmp(value, "true") || !strcmp(value, "1")    ? 1
                   : !strcasecmp(value, "false") || !strcmp(value, "0") ? 0
                                                                        : -1;
    if (out->outcome < 0 && *value) return bad_row(c, "boolean_value", value, "true or false", err);
    return OK;
}

static Status rows_read(MedsLabels *m, Csv *c, Err *err) {
    static const char *const names[COL_COUNT] = {"subject_id", "prediction_time_us", "prediction_time",
                                                 "boolean_value"};
    int bound[COL_COUNT], got = 1;
    int64_t room = 0;
    for (int k = 0; k < COL_COUNT; k++) bound[k] = csv_column(c, names[k]);
    if (bound[COL_SUBJECT] < 0 || (bound[COL_US] < 0 && bound[COL_TIME] < 0))
        return err_set(err, ERR_FORMAT,
                       "%s is no label file: columns subject_id and prediction_time were expected, the "
                       "first is %.60s",
                       c->stream->name, c->column[0]);
    Status s;
    while (!(s = csv_next(c, &got, err)) && got) {
        if (m->n == room) m->label = xrealloc(m->label, (size_t)(room = room ? 2 * room : 1024) * sizeof *m->label);
        if ((s = row_parse(c, bound, &m->label[m->n], err))) return s;
        m->with_outcomes |= m->label[m->n++].outcome >= 0;
    }
    const CsvCounts *n = &c->counts;
    if (!s && n->wrong_count + n->too_long + n->open_quote)
        s = err_set(err, ERR_FORMAT, "%s, row %lld: wrong number of fields", c->stream->name, (long long)n->first_bad);
    return s;
}

/* Source ids and times to those of the release. */
static Status released(MedsLabels *m, const char *path, Err *err) {
    Table t;
    Status s = table_read_h5(&t, path, err);
    if (s) return s;
    const char *name = table_attribute(&t, "name");
    Linkage l = {.table = t,
                 .subject = table_get(&t, "subject_id", COLUMN_I64),
                 .key = table_get(&t, "patient_key", COLUMN_U64),
                 .origin = table_get(&t, "origin_us", COLUMN_I64)};
    int64_t kept = 0;
    if (!name || strcmp(name, RELEASE_LINKAGE) || !l.subject || !l.key || !l.origin)
        s = err_set(err, ERR_FORMAT, "%s is not the linkage of a release, which `ehr-data deidentify` writes", path);
    for (int64_t i = 0; !s && i < m->n; i++) {
        int64_t at = linkage_find(&l, m->label[i].subject);
        if (at < 0) {
            m->n_unknown++;
            continue;
        }
        m->label[kept] = m->label[i];
        m->label[kept].subject = (int64_t)l.key[at];
        m->label[kept++].index_us -= l.origin[at];
    }
    m->n = kept;
    table_free(&t);
    return s;
}

/* Sorted, each (subject, time) once. */
static Status settle(MedsLabels *m, const char *path, Err *err) {
    int64_t kept = 0;
    if (m->n) qsort(m->label, (size_t)m->n, sizeof *m->label, compare_labels);
    for (int64_t i = 0; i < m->n; i++) {
        const MedsLabel *x = &m->label[i], *last = kept ? &m->label[kept - 1] : NULL;
        if (last && last->subject == x->subject && last->index_us == x->index_us) {
            if (last->outcome != x->outcome)
                return err_set(err, ERR_FORMAT, "%s: a subject has two outcomes at one prediction time; a label is one",
                               path);
            m->n_repeated++;
            continue;
        }
        m->label[kept++] = *x;
    }
    m->n = kept;
    return OK;
}

Status meds_labels_read(MedsLabels *m, const char *path, const char *release_linkage, Err *err) {
    Stream stream;
    Csv csv;
    *m = (MedsLabels){0};
    size_t n = strlen(path);
    if (n > 8 && !strcasecmp(path + n - 8, ".parquet"))
        return err_set(
            err, ERR_USAGE,
            "--meds takes CSV: run .venv/bin/python scripts/meds_labels.py %s LABELS.csv, then --meds LABELS.csv",
            path);
    Status s = stream_open_path(&stream, path, err);
    if (s) return s;
    s = csv_open(&csv, &stream, 1 << 16, err);
    if (!s) {
        s = rows_read(m, &csv, err);
        csv_close(&csv);
    }
    stream_close(&stream);
    if (!s && release_linkage) s = released(m, release_linkage, err);
    if (!s) s = settle(m, path, err);
    if (s) meds_labels_free(m);
    return s;
}

void meds_labels_free(MedsLabels *m) {
    free(m->label);
    *m = (MedsLabels){0};
}

const MedsLabel *meds_labels_find(const MedsLabels *m, int64_t subject, int64_t *n) {
    int64_t lo = 0, hi = m->n;
    while (lo < hi) {
        int64_t mid = lo + (hi - lo) / 2;
        if (m->label[mid].subject < subject) lo = mid + 1;
        else hi = mid;
    }
    for (*n = 0; lo + *n < m->n && m->label[lo + *n].subject == subject; ++*n) continue;
    return *n ? &m->label[lo] : NULL;
}
