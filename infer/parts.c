/* parts.c - see parts.h. */
#include "infer/parts.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

enum { PARTS_WISHED = 64, PART_MOST = 256 };

/* ---- ranks --------------------------------------------------------------------------------------------------------*/

Launch ranks_read(void) {
    Launch l;
    launch_read(&l);
    return l;
}

int ranks_threads(const Launch *l) {
    cpu_set_t mine;
    int cores = 1, online = (int)sysconf(_SC_NPROCESSORS_ONLN);
    if (!sched_getaffinity(0, sizeof mine, &mine)) cores = CPU_COUNT(&mine);
    if (cores >= online) cores /= l->local_size;
    return cores < 1 ? 1 : cores;
}

/* ---- names --------------------------------------------------------------------------------------------------------*/

static int ends_in(const char *path, const char *suffix) {
    size_t n = strlen(path), m = strlen(suffix);
    return n > m && !strcmp(path + n - m, suffix);
}

char *out_name(const char *out, const char *suffix) {
    const char *dot = strrchr(out, '.');
    int stem = dot ? (int)(dot - out) : (int)strlen(out);
    return xasprintf("%.*s%s%s", stem, out, suffix, out + stem);
}

Status out_check(const char *out, Err *err) {
    if (!ends_in(out, ".csv") && !ends_in(out, ".h5"))
        return err_set(err, ERR_USAGE, "--out %s: the name must end in .csv or .h5", out);
    const char *slash = strrchr(out, '/');
    char *folder = slash && slash > out ? xasprintf("%.*s", (int)(slash - out), out) : xstrdup(slash ? "/" : ".");
    Status st = path_is_dir(folder) ? OK : err_set(err, ERR_IO, "--out %s: there is no folder %s", out, folder);
    free(folder);
    return st;
}

Status out_write(const Table *t, const char *out, Err *err) {
    return ends_in(out, ".h5") ? table_write_h5(t, out, err) : table_write_csv(t, out, 1, err);
}

static char *part_path(const char *out, int k, const char *suffix) {
    return xasprintf("%s.parts/%05d%s.h5", out, k, suffix);
}

/* ---- parts --------------------------------------------------------------------------------------------------------*/

int64_t part_size(int64_t n) {
    int64_t size = (n + PARTS_WISHED - 1) / PARTS_WISHED;
    return size < 1 ? 1 : size > PART_MOST ? PART_MOST : size;
}

int part_count(int64_t n) { return (int)((n + part_size(n) - 1) / part_size(n)); }

Status parts_open(const Parts *p, Err *err) {
    char *folder = xasprintf("%s.parts", p->out);
    Status st = dir_make(folder, err);
    free(folder);
    return st;
}

Status part_there(const Parts *p, int k, int *there, Err *err) {
    char *path = part_path(p->out, k, p->suffix);
    Table t = {0};
    Status st = OK;
    *there = path_exists(path);
    if (*there && !(st = table_read_h5(&t, path, err))) {
        const char *made = table_attribute(&t, "fingerprint");
        if (!made || strcmp(made, p->fingerprint))
            st = err_set(err, ERR_USAGE,
                         "%s is of an earlier run with other settings, labels or weights: finish that one, or remove "
                         "%s.parts to begin anew",
                         path, p->out);
        table_free(&t);
    }
    free(path);
    return st;
}

Status part_write(const Parts *p, int k, Table *t, Err *err) {
    char *path = part_path(p->out, k, p->suffix), count[32];
    snprintf(count, sizeof count, "%d", p->n);
    table_set(t, "parts", count);
    table_set(t, "fingerprint", p->fingerprint);
    Status st = table_write_h5(t, path, err);
    free(path);
    return st;
}

/* ---- joining ------------------------------------------------------------------------------------------------------*/

static Status join_check(const Table *first, const Table *t, const char *path, Err *err) {
    const char *a = table_attribute(first, "fingerprint"), *b = table_attribute(t, "fingerprint");
    int same = a && b && !strcmp(a, b) && first->n_columns == t->n_columns;
    for (int c = 0; same && c < t->n_columns; c++)
        same = !strcmp(first->column[c].name, t->column[c].name) && first->column[c].type == t->column[c].type;
    return same ? OK
                : err_set(err, ERR_FORMAT, "%s is not of the same run as the parts before it: remove it and run again",
                          path);
}

typedef struct {
    int64_t row, at;
} RowPlace;

static int compare_places(const void *a, const void *b) {
    const RowPlace *x = a, *y = b;
    if (x->row != y->row) return x->row < y->row ? -1 : 1;
    return x->at < y->at ? -1 : x->at > y->at;
}

/* All tables under one another, ordered by `row`, which is left away. */
static Status tables_join(const Table *part, int n, Table *out, Err *err) {
    int64_t total = 0, at = 0;
    for (int k = 0; k < n; k++) total += part[k].n;
    RowPlace *place = xcalloc((size_t)total + 1, sizeof *place);
    for (int k = 0; k < n; k++) {
        const int64_t *row = table_get(&part[k], "row", COLUMN_I64);
        if (!row) {
            free(place);
            return err_set(err, ERR_FORMAT, "part %d has no column row", k);
        }
        for (int64_t i = 0; i < part[k].n; i++, at++) place[at] = (RowPlace){row[i], at};
    }
    qsort(place, (size_t)total, sizeof *place, compare_places);
    table_init(out, total);
    char *all = xmalloc((size_t)total * 8 + 1);
    for (int c = 0; c < part[0].n_columns; c++) {
        const Column *column = &part[0].column[c];
        if (!strcmp(column->name, "row")) continue;
        at = 0;
        for (int k = 0; k < n; at += part[k].n, k++)
            if (part[k].n) memcpy(all + at * 8, part[k].column[c].data, (size_t)part[k].n * 8);
        char *to = table_add(out, column->name, column->type);
        for (int64_t i = 0; i < total; i++) memcpy(to + i * 8, all + place[i].at * 8, 8);
    }
    for (int a = 0; a < part[0].n_attributes; a++)
        if (strcmp(part[0].attribute_name[a], "parts") && strcmp(part[0].attribute_name[a], "fingerprint"))
            table_set(out, part[0].attribute_name[a], part[0].attribute[a]);
    free(all);
    free(place);
    return OK;
}

static Status join_suffix(const char *out, const char *suffix, int n, FILE *names, Err *err) {
    Table *part = xcalloc((size_t)n, sizeof *part), whole = {0};
    Status st = OK;
    for (int k = 0; !st && k < n; k++) {
        char *path = part_path(out, k, suffix);
        st = table_read_h5(&part[k], path, err);
        if (!st && k) st = join_check(&part[0], &part[k], path, err);
        free(path);
    }
    if (!st) st = tables_join(part, n, &whole, err);
    char *name = out_name(out, suffix);
    if (!st) st = out_write(&whole, name, err);
    if (!st) fprintf(names, "%s\n", name);
    free(name);
    table_free(&whole);
    for (int k = 0; k < n; k++) table_free(&part[k]);
    free(part);
    return st;
}

static void parts_remove(const char *out, int n, const char *lock) {
    char *folder = xasprintf("%s.parts", out);
    for (int k = 0; k < n; k++)
        for (int s = 0; s < 2; s++) {
            char *path = part_path(out, k, s ? "-curve" : "");
            unlink(path);
            free(path);
        }
    unlink(lock);
    rmdir(folder);
    free(folder);
}

/* How many parts there are to be, as any of them says; 0: there is none yet. */
static Status parts_expected(const char *out, int *n, Err *err) {
    char *folder = xasprintf("%s.parts", out);
    DIR *d = opendir(folder);
    Status st = OK;
    *n = 0;
    for (struct dirent *e; d && !st && !*n && (e = readdir(d));) {
        int k;
        char rest[8] = "";
        if (sscanf(e->d_name, "%5d.%7s", &k, rest) != 2 || strcmp(rest, "h5")) continue;
        char *path = xasprintf("%s/%s", folder, e->d_name);
        Table t;
        if (!(st = table_read_h5(&t, path, err))) {
            const char *text = table_attribute(&t, "parts");
            *n = text ? atoi(text) : 0;
            if (*n < 1 || *n > 1 << 24) st = err_set(err, ERR_FORMAT, "%s does not say how many parts there are", path);
            table_free(&t);
        }
        free(path);
    }
    if (d) closedir(d);
    free(folder);
    return st;
}

static Status join_locked(const char *out, const char *lock, int *missing, FILE *names, Err *err) {
    int n, curves = 1;
    Status st = parts_expected(out, &n, err);
    *missing = n || path_exists(out) ? 0 : 1;
    if (!st && !n) return OK;
    for (int k = 0; !st && k < n; k++) {
        char *path = part_path(out, k, ""), *curve = part_path(out, k, "-curve");
        *missing += !path_exists(path);
        curves &= path_exists(curve);
        free(path);
        free(curve);
    }
    if (st || *missing) return st;
    st = join_suffix(out, "", n, names, err);
    if (!st && curves) st = join_suffix(out, "-curve", n, names, err);
    if (!st) parts_remove(out, n, lock);
    return st;
}

Status parts_join(const char *out, int *missing, FILE *names, Err *err) {
    char *lock = xasprintf("%s.parts/lock", out);
    int fd = open(lock, O_CREAT | O_RDWR | O_CLOEXEC, 0666);
    Status st = OK;
    *missing = path_exists(out) ? 0 : 1; /* no folder: another has joined them */
    if (fd < 0 && errno != ENOENT) st = err_set(err, ERR_IO, "cannot write %s: %s", lock, strerror(errno));
    /* Who waits here may find that another has joined and removed them meanwhile. */
    else if (fd >= 0 && !flock(fd, LOCK_EX)) st = join_locked(out, lock, missing, names, err);
    if (fd >= 0) close(fd);
    free(lock);
    return st;
}
