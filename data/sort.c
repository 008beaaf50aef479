/* sort.c - see sort.h.  All runs live in one file as (offset, count); a merge reads them through equal shares of the
 * memory and keeps the runs' heads in a binary heap. */
#include "data/sort.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MERGE_WAYS_MAX = 1024, RUN_BUFFER_MIN = 512 /* rows */, RUN_BUFFER_MAX = 65536, MERGE_OUT_ROWS = 4096 };

typedef struct {
    int64_t offset, count; /* rows in the spill file */
} Run;

typedef struct {
    char *rows;
    int64_t next, end; /* rows of the spill file not read yet */
    int at, n;         /* in rows */
} RunReader;

struct Sorter {
    char *path;
    size_t size; /* bytes of a row */
    RowCompare compare;
    void *context;
    int64_t memory, reserved;
    char *buffer;
    int64_t n, capacity;
    int fd; /* spill file, -1 = none yet */
    int64_t fd_rows;
    Run *runs;
    int n_runs, runs_capacity;
    int64_t at; /* reading from the buffer */
    RunReader *readers;
    char *reader_rows;
    int *heap, n_readers, n_heap;
    int started;
};

static void rows_sort(const Sorter *s, int64_t n) {
    if (n > 1) qsort_r(s->buffer, (size_t)n, s->size, s->compare, s->context);
}

/* ---- the spill file ---------------------------------------------------------------------------------------------- */

static Status spill_create(const char *path, int *fd, Err *err) {
    char *name = xasprintf("%s.sort-XXXXXX", path);
    *fd = mkstemp(name);
    Status status = OK;
    if (*fd < 0)
        status =
            err_set(err, ERR_IO, "cannot create a file for sorting beside %s: %s; is the folder there and writable?",
                    path, strerror(errno));
    else unlink(name);
    free(name);
    return status;
}

static Status spill_write(Sorter *s, const char *rows, int64_t count, Err *err) {
    const char *p = rows;
    size_t left = (size_t)count * s->size;
    off_t at = (off_t)(s->fd_rows * (int64_t)s->size);
    while (left) {
        ssize_t n = pwrite(s->fd, p, left, at);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0)
            return err_set(err, ERR_IO, "cannot write the file for sorting beside %s: %s; free some disk space",
                           s->path, n < 0 ? strerror(errno) : "disk full");
        p += n;
        at += n;
        left -= (size_t)n;
    }
    s->fd_rows += count;
    return OK;
}

static Status spill_read(Sorter *s, int fd, char *rows, int64_t offset, int64_t count, Err *err) {
    char *p = rows;
    size_t left = (size_t)count * s->size;
    off_t at = (off_t)(offset * (int64_t)s->size);
    while (left) {
        ssize_t n = pread(fd, p, left, at);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0)
            return err_set(err, ERR_IO, "cannot read the file for sorting beside %s: %s", s->path,
                           n < 0 ? strerror(errno) : "it ended early");
        p += n;
        at += n;
        left -= (size_t)n;
    }
    return OK;
}

static void run_add(Sorter *s, int64_t offset, int64_t count) {
    if (s->n_runs == s->runs_capacity) {
        s->runs_capacity = s->runs_capacity ? 2 * s->runs_capacity : 16;
        s->runs = xrealloc(s->runs, (size_t)s->runs_capacity * sizeof *s->runs);
    }
    s->runs[s->n_runs++] = (Run){offset, count};
}

/* ---- gathering --------------------------------------------------------------------------------------------------- */

Sorter *sorter_open(const char *path, size_t row_size, RowCompare compare, void *context, int64_t memory) {
    Sorter *s = xcalloc(1, sizeof *s);
    *s = (Sorter){
        .path = xstrdup(path), .size = row_size, .compare = compare, .context = context, .memory = memory, .fd = -1};
    return s;
}

static void readers_free(Sorter *s) {
    free(s->readers);
    free(s->reader_rows);
    free(s->heap);
    s->readers = NULL;
    s->reader_rows = NULL;
    s->heap = NULL;
    s->n_readers = s->n_heap = 0;
}

void sorter_close(Sorter *s) {
    if (!s) return;
    readers_free(s);
    if (s->fd >= 0) close(s->fd);
    free(s->path);
    free(s->buffer);
    free(s->runs);
    free(s);
}

/* Rows the buffer may hold: qsort_r may take a second copy of what it sorts, hence the 2. */
static int64_t sorter_room(const Sorter *s) {
    int64_t rows = (s->memory - s->reserved) / (2 * (int64_t)s->size);
    return rows < RUN_BUFFER_MIN ? RUN_BUFFER_MIN : rows;
}

void sorter_reserve(Sorter *s, size_t bytes) { s->reserved = (int64_t)bytes; }

int sorter_full(const Sorter *s) { return s->n >= sorter_room(s); }

int sorter_spilled(const Sorter *s) { return s->n_runs > 0; }

void sorter_add(Sorter *s, const void *row) {
    if (s->n == s->capacity) {
        /* Large blocks grow by remapping pages, so growing does not hold two copies. */
        int64_t most = sorter_room(s), more = s->capacity ? s->capacity + s->capacity / 2 : 1024;
        s->capacity = more < most || s->n >= most ? more : most;
        s->buffer = xrealloc(s->buffer, (size_t)s->capacity * s->size);
    }
    memcpy(s->buffer + (size_t)s->n++ * s->size, row, s->size);
}

Status sorter_spill(Sorter *s, Err *err) {
    if (!s->n) return OK;
    if (s->fd < 0 && spill_create(s->path, &s->fd, err)) return err->code;
    rows_sort(s, s->n);
    int64_t offset = s->fd_rows;
    Status status = spill_write(s, s->buffer, s->n, err);
    if (!status) run_add(s, offset, s->n);
    s->n = 0;
    return status;
}

Status sorter_resort(Sorter *s, Err *err) {
    Status status = sorter_spill(s, err);
    int64_t end = s->fd_rows;
    for (int r = 0; r < s->n_runs && !status; r++) {
        Run run = s->runs[r];
        status = spill_read(s, s->fd, s->buffer, run.offset, run.count, err);
        if (status) break;
        rows_sort(s, run.count);
        s->fd_rows = run.offset;
        status = spill_write(s, s->buffer, run.count, err);
    }
    s->fd_rows = end;
    return status;
}

/* ---- merging ----------------------------------------------------------------------------------------------------- */

static Status reader_fill(Sorter *s, int fd, RunReader *r, int capacity, Err *err) {
    int64_t n = r->end - r->next < capacity ? r->end - r->next : capacity;
    Status status = spill_read(s, fd, r->rows, r->next, n, err);
    r->next += n;
    r->at = 0;
    r->n = (int)n;
    return status;
}

static int heap_before(const Sorter *s, int i, int j) {
    const RunReader *a = &s->readers[s->heap[i]], *b = &s->readers[s->heap[j]];
    return s->compare(a->rows + (size_t)a->at * s->size, b->rows + (size_t)b->at * s->size, s->context) < 0;
}

static void heap_down(Sorter *s, int i) {
    for (;;) {
        int least = i, left = 2 * i + 1;
        if (left < s->n_heap && heap_before(s, left, least)) least = left;
        if (left + 1 < s->n_heap && heap_before(s, left + 1, least)) least = left + 1;
        if (least == i) return;
        int t = s->heap[i];
        s->heap[i] = s->heap[least];
        s->heap[least] = t;
        i = least;
    }
}

static int merge_ways(const Sorter *s) {
    int64_t ways = s->memory / 2 / (RUN_BUFFER_MIN * (int64_t)s->size);
    return ways < 2 ? 2 : ways > MERGE_WAYS_MAX ? MERGE_WAYS_MAX : (int)ways;
}

static int reader_capacity(const Sorter *s, int n_runs) {
    int64_t rows = s->memory / 2 / ((int64_t)n_runs * (int64_t)s->size);
    return rows < RUN_BUFFER_MIN ? RUN_BUFFER_MIN : rows > RUN_BUFFER_MAX ? RUN_BUFFER_MAX : (int)rows;
}

static Status merge_start(Sorter *s, int fd, const Run *runs, int n, Err *err) {
    readers_free(s);
    int capacity = reader_capacity(s, n);
    s->readers = xcalloc((size_t)n, sizeof *s->readers);
    s->reader_rows = xmalloc((size_t)n * (size_t)capacity * s->size);
    s->heap = xmalloc((size_t)n * sizeof *s->heap);
    s->n_readers = n;
    Status status = OK;
    for (int r = 0; r < n && !status; r++) {
        s->readers[r] = (RunReader){.rows = s->reader_rows + (size_t)r * (size_t)capacity * s->size,
                                    .next = runs[r].offset,
                                    .end = runs[r].offset + runs[r].count};
        status = reader_fill(s, fd, &s->readers[r], capacity, err);
        if (s->readers[r].n) s->heap[s->n_heap++] = r;
    }
    if (!status)
        for (int i = s->n_heap / 2 - 1; i >= 0; i--) heap_down(s, i);
    s->started = 0;
    return status;
}

static Status merge_next(Sorter *s, int fd, const void **row, Err *err) {
    *row = NULL;
    if (s->started && s->n_heap) { /* the row given out last stays in place until now */
        RunReader *r = &s->readers[s->heap[0]];
        if (++r->at == r->n && r->next < r->end) {
            Status status = reader_fill(s, fd, r, reader_capacity(s, s->n_readers), err);
            if (status) return status;
        }
        if (r->at == r->n) s->heap[0] = s->heap[--s->n_heap];
        heap_down(s, 0);
    }
    s->started = 1;
    if (s->n_heap) *row = s->readers[s->heap[0]].rows + (size_t)s->readers[s->heap[0]].at * s->size;
    return OK;
}

/* Merges groups of runs from s->fd into a new spill file: one pass over the data. */
static Status merge_pass(Sorter *s, int ways, Err *err) {
    int old_fd = s->fd, n_old = s->n_runs;
    Run *old = s->runs;
    s->runs = NULL;
    s->n_runs = s->runs_capacity = 0;
    s->fd_rows = 0;
    s->fd = -1;
    Status status = spill_create(s->path, &s->fd, err);
    char *out = xmalloc(MERGE_OUT_ROWS * s->size);
    for (int first = 0; first < n_old && !status; first += ways) {
        int64_t offset = s->fd_rows, n = 0;
        const void *row = NULL;
        status = merge_start(s, old_fd, old + first, n_old - first < ways ? n_old - first : ways, err);
        while (!status && !(status = merge_next(s, old_fd, &row, err)) && row) {
            memcpy(out + (size_t)n++ * s->size, row, s->size);
            if (n == MERGE_OUT_ROWS) {
                status = spill_write(s, out, n, err);
                n = 0;
            }
        }
        if (!status) status = spill_write(s, out, n, err);
        run_add(s, offset, s->fd_rows - offset);
    }
    free(out);
    free(old);
    close(old_fd);
    return status;
}

Status sorter_finish(Sorter *s, Err *err) {
    if (!s->n_runs) {
        rows_sort(s, s->n);
        return OK;
    }
    Status status = sorter_spill(s, err);
    free(s->buffer);
    s->buffer = NULL;
    s->capacity = 0;
    int ways = merge_ways(s);
    while (!status && s->n_runs > ways) status = merge_pass(s, ways, err);
    return status;
}

Status sorter_rewind(Sorter *s, Err *err) {
    s->at = 0;
    return s->n_runs ? merge_start(s, s->fd, s->runs, s->n_runs, err) : OK;
}

Status sorter_next(Sorter *s, const void **row, Err *err) {
    if (s->n_runs) return merge_next(s, s->fd, row, err);
    *row = s->at < s->n ? s->buffer + (size_t)s->at++ * s->size : NULL;
    return OK;
}
