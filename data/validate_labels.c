/* validate_labels.c - label files against the tokens they are about: an outcome that is known at its index, and
 * follow-up that tells the outcome. */
#include "data/label.h"
#include "data/validate_leaks.h"
#include <dirent.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* How well a length of follow-up or of history may tell cases from others: 0.5 is not at all. */
static const double AUC_TOLD = 0.8;
enum { ROWS_MIN = 20 };

typedef struct {
    double x;
    int positive;
} Ranked;

static int compare_ranked(const void *a, const void *b) {
    double x = ((const Ranked *)a)->x, y = ((const Ranked *)b)->x;
    return (x > y) - (x < y);
}

/* Area under the curve of x for positives against negatives, ties counted half; NaN below ROWS_MIN of either. */
static double auc(Ranked *row, int64_t n, int64_t *n_positive) {
    int64_t positive = 0;
    double below = 0, sum = 0;
    for (int64_t i = 0; i < n; i++) positive += row[i].positive;
    *n_positive = positive;
    if (positive < ROWS_MIN || n - positive < ROWS_MIN) return NAN;
    qsort(row, (size_t)n, sizeof *row, compare_ranked);
    for (int64_t i = 0, next; i < n; i = next) {
        int64_t p = 0;
        for (next = i; next < n && row[next].x == row[i].x; next++) p += row[next].positive;
        double q = (double)(next - i - p);
        sum += (double)p * (below + 0.5 * q);
        below += q;
    }
    return sum / ((double)positive * (double)(n - positive));
}

static void report_length(ValidateReport *r, const LabelFile *f, const char *what, Ranked *row, int64_t n) {
    int64_t positive;
    double a = auc(row, n, &positive);
    if (!isnan(a) && (a > AUC_TOLD || a < 1 - AUC_TOLD))
        report_add(r, FIND_FOLLOW_UP, "task %s: %s alone has an AUC of %.3f (%lld cases, %lld others)", f->name, what,
                   a > 0.5 ? a : 1 - a, (long long)positive, (long long)(n - positive));
}

/* Who had the outcome before is left out of such a task. */
static int is_first(const LabelFile *f) {
    const char *text = table_attribute(&f->table, "task");
    json_t *task = text ? json_loads(text, 0, NULL) : NULL;
    int first = json_is_true(json_object_get(task, "first"));
    json_decref(task);
    return first;
}

typedef struct {
    ValidateReport *r;
    Dataset *d;
    const LabelFile *f;
    const double *event, *death;
    uint32_t *mark; /* (vocabulary.n) 1: an outcome */
    int first;
} LabelCheck;

static void check_row(const LabelCheck *c, int64_t i, Ranked *follow_up, Ranked *history, int64_t *n) {
    const LabelFile *f = c->f;
    int split = (int)f->split[i];
    PatientView p;
    Err ignored;
#define ROW "task %s, row %lld (%s %lld)"
#define ROW_OF f->name, (long long)i, split_name(split), (long long)f->patient_row[i]
    if (f->patient_row[i] >= c->d->n_patients[split] || dataset_patient(c->d, split, f->patient_row[i], &p, &ignored) ||
        p.key != f->patient_key[i]) {
        report_add(c->r, FIND_LABEL_ROW, ROW ": no such patient", ROW_OF);
        return;
    }
    if (f->index_minutes[i] > p.observation_end)
        report_add(c->r, FIND_LABEL_ROW, ROW ": its index lies after the end of observation", ROW_OF);
    if (c->event && c->event[i] <= 0)
        report_add(c->r, FIND_OUTCOME_KNOWN, ROW ": the outcome is not after the index", ROW_OF);
    for (int64_t t = 0; c->first && t < p.n && p.minutes[t] <= f->index_minutes[i]; t++)
        if (c->mark[patient_token(&p, t)] & 1) {
            report_add(c->r, FIND_OUTCOME_KNOWN, ROW ": %s before the index of a first outcome", ROW_OF,
                       c->d->vocabulary.token[patient_token(&p, t)].code);
            break;
        }
    /* The dead have no follow-up to speak of. */
    if (f->outcome[i] < 0 || (c->death && !isnan(c->death[i]))) return;
    follow_up[*n] = (Ranked){(double)(p.observation_end - f->index_minutes[i]), f->outcome[i] == 1};
    history[(*n)++] = (Ranked){(double)f->index_minutes[i], f->outcome[i] == 1};
#undef ROW
#undef ROW_OF
}

/* Tokens that are outcomes, less those that other codes roll up to as well. */
static void mark_outcomes(const LabelFile *f, const Vocabulary *v, uint32_t *mark) {
    vocabulary_match(v, (const char *const *)f->codes, f->n_codes, 1, mark);
    for (int i = 0; i < v->n_rollup; i++) {
        int id = vocabulary_find(v, v->rollup_to[i]), same = 0;
        for (int k = 0; k < f->n_codes && !same; k++) same = code_matches(v->rollup_from[i], f->codes[k]);
        if (id >= 0 && !same) mark[id] = 0;
    }
}

static void check_file(ValidateReport *r, Dataset *d, const char *path, const char *name) {
    LabelFile f;
    Err why = {0};
    if (label_file_open(&f, path, &why)) {
        report_add(r, FIND_LABEL_ROW, "labels/%s: %s", name, why.msg);
        return;
    }
    const char *dataset = table_attribute(&f.table, "dataset_sha256");
    if (!dataset || strcmp(dataset, d->sha256)) {
        report_add(r, FIND_LABEL_ROW, "labels/%s: made for another dataset", name);
        label_file_close(&f);
        return;
    }
    size_t rows = (size_t)f.table.n + 1;
    Ranked *follow_up = try_calloc(rows, sizeof *follow_up), *history = try_calloc(rows, sizeof *history);
    LabelCheck c = {r,
                    d,
                    &f,
                    table_get(&f.table, "event_minutes", COLUMN_F64),
                    table_get(&f.table, "death_minutes", COLUMN_F64),
                    xcalloc((size_t)d->vocabulary.n + 1, sizeof *c.mark),
                    is_first(&f)};
    mark_outcomes(&f, &d->vocabulary, c.mark);
    int64_t n = 0;
    for (int64_t i = 0; i < f.table.n && follow_up && history; i++) check_row(&c, i, follow_up, history, &n);
    if (follow_up) report_length(r, &f, "the time observed after the index", follow_up, n);
    if (history) report_length(r, &f, "the time recorded before the index", history, n);
    free(follow_up);
    free(history);
    free(c.mark);
    label_file_close(&f);
}

static int by_name(const struct dirent **a, const struct dirent **b) { return strcmp((*a)->d_name, (*b)->d_name); }

void label_leaks_report(Dataset *d, ValidateReport *r) {
    struct dirent **entry = NULL;
    char *folder = xasprintf("%s/labels", d->path);
    int n = path_is_dir(folder) ? scandir(folder, &entry, NULL, by_name) : 0;
    for (int i = 0; i < n; i++) {
        size_t size = strlen(entry[i]->d_name);
        if (size > 3 && !strcmp(entry[i]->d_name + size - 3, ".h5")) {
            char *path = xasprintf("%s/%s", folder, entry[i]->d_name);
            check_file(r, d, path, entry[i]->d_name);
            free(path);
        }
        free(entry[i]);
    }
    free(entry);
    free(folder);
}
