/* linkage.c - see linkage.h. */
#include "data/linkage.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int stem_length(const char *events) {
    size_t n = strlen(events);
    return (int)(n > 3 && !strcmp(events + n - 3, ".h5") ? n - 3 : n);
}

char *linkage_path(const char *events) { return xasprintf("%.*s.linkage.h5", stem_length(events), events); }
char *linkage_path_of(const char *events, const char *dataset_sha256) {
    return xasprintf("%.*s.linkage-%.16s.h5", stem_length(events), events, dataset_sha256);
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

/* Labels of an earlier dataset stay possible: its linkage is not lost when the same events are tokenised again. */
static Status keep_former(const char *path, const char *events, const char *dataset_sha256, const char *replaced,
                          Err *err) {
    Table former;
    Status s = table_read_h5(&former, path, err);
    const char *sha = s ? NULL : table_attribute(&former, "dataset_sha256");
    if (s || !sha || strlen(sha) != 64 || strspn(sha, "0123456789abcdef") != 64) {
        if (!s) table_free(&former);
        return err_set(err, ERR_FORMAT, "%s is in the place of the linkage of %s and is none itself: move it away",
                       path, events);
    }
    if (strcmp(sha, dataset_sha256) && strcmp(sha, replaced)) {
        char *kept = linkage_path_of(events, sha);
        if (rename(path, kept)) s = err_set(err, ERR_IO, "cannot rename %s to %s: %s", path, kept, strerror(errno));
        free(kept);
    }
    table_free(&former);
    return s;
}

Status linkage_write(const Table *t, const char *events, const char *replaced, Err *err) {
    const char *sha = table_attribute(t, "dataset_sha256");
    char *path = linkage_path(events);
    REQUIRE(sha != NULL);
    Status s = path_exists(path) ? keep_former(path, events, sha, replaced, err) : OK;
    if (!s) s = table_write_h5(t, path, err);
    free(path);
    return s;
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

static Status columns_find(Linkage *l, const char *path, Err *err) {
    l->subject = table_get(&l->table, "subject_id", COLUMN_I64);
    l->key = table_get(&l->table, "patient_key", COLUMN_U64);
    l->split = table_get(&l->table, "split", COLUMN_I64);
    l->row = table_get(&l->table, "patient_row", COLUMN_I64);
    l->origin = table_get(&l->table, "origin_us", COLUMN_I64);
    if (!l->subject || !l->key || !l->split || !l->row || !l->origin)
        return err_set(err, ERR_FORMAT, "%s is no linkage table; `ehr-data tokenize` writes one beside the events file",
                       path);
    for (int64_t i = 1; i < l->table.n; i++)
        if (l->subject[i] <= l->subject[i - 1])
            return err_set(err, ERR_FORMAT, "%s: subjects do not ascend (damaged?)", path);
    return OK;
}

Status linkage_open(Linkage *l, const char *path, const char *events, const char *dataset_sha256,
                    const char *dataset_path, Err *err) {
    char *kept = linkage_path_of(events, dataset_sha256);
    char *found = path ? xstrdup(path) : path_exists(kept) ? xstrdup(kept) : linkage_path(events);
    Status s = OK;
    *l = (Linkage){0};
    if (!path_exists(found))
        s = err_set(err, ERR_IO,
                    "there is no linkage %s, which says which patient of %s is which; `ehr-data tokenize` writes it "
                    "beside the events file; or give --linkage",
                    found, dataset_path);
    if (!s) s = table_read_h5(&l->table, found, err);
    if (!s) s = columns_find(l, found, err);
    const char *sha = s ? NULL : table_attribute(&l->table, "dataset_sha256");
    if (!s && (!sha || strcmp(sha, dataset_sha256)))
        s = err_set(err, ERR_FORMAT,
                    "%s links to another dataset than %s, and there is no %s; tokenise again, or give --linkage", found,
                    dataset_path, kept);
    if (s) linkage_close(l);
    free(found);
    free(kept);
    return s;
}

void linkage_close(Linkage *l) {
    table_free(&l->table);
    *l = (Linkage){0};
}

int64_t linkage_find(const Linkage *l, int64_t subject) {
    int64_t lo = 0, hi = l->table.n;
    while (lo < hi) {
        int64_t mid = lo + (hi - lo) / 2;
        if (l->subject[mid] < subject) lo = mid + 1;
        else hi = mid;
    }
    return lo < l->table.n && l->subject[lo] == subject ? lo : -1;
}

/* ---- releases ---------------------------------------------------------------------------------------------------- */

static int compare_i64(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

Status linkage_translate(int64_t *id, int64_t *n, int64_t *n_unknown, const char *path, const char *events_sha256,
                         Err *err) {
    Table t;
    Status s = table_read_h5(&t, path, err);
    if (s) return s;
    const int64_t *subject = table_get(&t, "subject_id", COLUMN_I64);
    const uint64_t *key = table_get(&t, "patient_key", COLUMN_U64);
    const char *name = table_attribute(&t, "name"), *released = table_attribute(&t, "released_sha256");
    int64_t kept = 0;
    *n_unknown = 0;
    if (!subject || !key || !name || strcmp(name, RELEASE_LINKAGE) || !released || strcmp(released, events_sha256))
        s = err_set(err, ERR_FORMAT, "--linkage %s is not the linkage of these events: deidentify wrote it with them", path);
    for (int64_t i = 0; !s && i < *n; i++) {
        const int64_t *at = bsearch(&id[i], subject, (size_t)t.n, sizeof *subject, compare_i64);
        if (at) id[kept++] = (int64_t)key[at - subject];
        else ++*n_unknown;
    }
    if (!s) *n = kept;
    if (!s && kept) qsort(id, (size_t)kept, sizeof *id, compare_i64);
    table_free(&t);
    return s;
}
