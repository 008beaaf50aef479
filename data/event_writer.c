/* event_writer.c - events in any order -> events.h5.
 *
 * Rows go through sort.c.  Closing walks the sorted rows twice: once to count what remains after duplicates, so
 * that every HDF5 dataset has its final size and lies contiguous in the file, and once to write.  Codes and units get
 * their final ids, the places in string order, on the way out: nothing in the file depends on the order of arrival. */
#include "data/event_format.h"
#include "data/intern.h"
#include "data/sort.h"
#include "data/text_heap.h"
#include <errno.h>
#include <fcntl.h>
#include <hdf5.h>
#include <math.h>
#include <sodium.h>
#include <stdlib.h>
#include <unistd.h>

enum { MEMORY_MIN = 1 << 20, WRITE_ROWS = 16384, UNITS_MAX = 65535, WRITE_TEXT = 2 * EVENT_TEXT_MAX };

typedef struct {
    char *name, *parent; /* NULL = none */
    uint8_t kind;
} CodeInfo;

struct EventWriter {
    char *path;
    int64_t memory;
    Sorter *sorter;
    size_t row_size; /* EVENT_ROW_PLAIN or sizeof(EventRow) */
    TextHeap texts;
    Intern codes, units;
    CodeInfo *info; /* (codes.capacity) */
    uint32_t info_capacity;
    size_t info_bytes;
    int spilled, kind_changed; /* a kind changed after rows were sorted by it */
    /* Places of codes (by kind, then string) and of units (by string), by arrival id, for the ids that had come so far.
     */
    uint32_t *code_rank, *unit_rank;
    uint32_t ranked_codes, ranked_units;
};

#define COMPARE(x, y)                                                                                                  \
    if ((x) != (y)) return (x) < (y) ? -1 : 1

static int row_compare(const void *x, const void *y, void *writer) {
    const EventRow *a = x, *b = y;
    const EventWriter *w = writer;
    COMPARE(a->subject, b->subject);
    COMPARE(a->code != ROW_SUBJECT, b->code != ROW_SUBJECT);
    COMPARE(a->available, b->available);
    if (a->code != b->code) COMPARE(w->code_rank[a->code], w->code_rank[b->code]);
    COMPARE(isnan(a->value) != 0, isnan(b->value) != 0);
    if (!isnan(a->value)) COMPARE(a->value, b->value);
    COMPARE(a->time, b->time);
    if (a->unit != b->unit) COMPARE(w->unit_rank[a->unit], w->unit_rank[b->unit]);
    COMPARE(a->comparator, b->comparator);
    COMPARE(a->visit, b->visit);
    COMPARE(a->precision, b->precision);
    if (w->row_size == EVENT_ROW_PLAIN) return 0;
    COMPARE(a->text_hash, b->text_hash); /* by content: where it lies depends on the order of arrival */
    COMPARE(a->text_size, b->text_size);
    return 0;
}

Status event_writer_open(EventWriter **out, const char *path, int64_t memory, Err *err) {
    (void)err;
    EventWriter *w = xcalloc(1, sizeof *w);
    w->path = xstrdup(path);
    w->memory = memory < MEMORY_MIN ? MEMORY_MIN : memory;
    intern_init(&w->codes);
    intern_init(&w->units);
    intern_add(&w->units, "");
    w->row_size = EVENT_ROW_PLAIN;
    w->sorter = sorter_open(path, w->row_size, row_compare, w, w->memory);
    *out = w;
    return OK;
}

void event_writer_with_texts(EventWriter *w) {
    if (w->row_size == sizeof(EventRow)) return;
    sorter_close(w->sorter);
    w->row_size = sizeof(EventRow);
    w->sorter = sorter_open(w->path, w->row_size, row_compare, w, w->memory);
    text_heap_init(&w->texts, w->path);
}

void event_writer_abort(EventWriter *w) {
    if (!w) return;
    sorter_close(w->sorter);
    text_heap_free(&w->texts);
    for (uint32_t i = 0; i < w->codes.n && w->info; i++) {
        free(w->info[i].name);
        free(w->info[i].parent);
    }
    free(w->info);
    intern_free(&w->codes);
    intern_free(&w->units);
    free(w->code_rank);
    free(w->unit_rank);
    free(w->path);
    free(w);
}

/* ---- codes and units --------------------------------------------------------------------------------------------- */

/* Keeps the smallest non-empty text given, so that the order of arrival does not show. */
static void text_keep_least(EventWriter *w, char **held, const char *text) {
    if (!text || !*text) return;
    char cut[EVENT_STRING_MAX + 1];
    size_t n = utf8_cut(text, EVENT_STRING_MAX);
    memcpy(cut, text, n);
    cut[n] = 0;
    if (*held && strcmp(cut, *held) >= 0) return;
    if (*held) w->info_bytes -= strlen(*held) + 17;
    free(*held);
    *held = xstrdup(cut);
    w->info_bytes += n + 17; /* 17: the end and what malloc adds */
}

Status event_writer_code(EventWriter *w, const char *code, int kind, const char *name, const char *parent, uint32_t *id,
                         Err *err) {
    REQUIRE(kind >= 0 && kind < KIND_COUNT);
    uint32_t i = intern_find(&w->codes, code);
    if (i == INTERN_NONE) {
        if (!*code || strlen(code) > EVENT_STRING_MAX)
            return err_set(err, ERR_FORMAT, "a code for %s is %zu bytes long, 1 to %d were expected: %.40s...", w->path,
                           strlen(code), EVENT_STRING_MAX, code);
        if (w->codes.bytes + w->info_bytes > (size_t)w->memory / 2)
            return err_set(err, ERR_NOMEM,
                           "the %u distinct codes for %s take more than half of the %lld bytes of memory; "
                           "give more --memory",
                           w->codes.n, w->path, (long long)w->memory);
        i = intern_add(&w->codes, code);
        if (i >= w->info_capacity) {
            uint32_t capacity = w->info_capacity ? 2 * w->info_capacity : 64;
            w->info = xrealloc(w->info, capacity * sizeof *w->info);
            w->info_bytes += (capacity - w->info_capacity) * sizeof *w->info;
            w->info_capacity = capacity;
        }
        w->info[i] = (CodeInfo){.kind = (uint8_t)kind};
    }
    /* A code used under several kinds takes the first of them. */
    if (kind < w->info[i].kind) {
        w->info[i].kind = (uint8_t)kind;
        w->kind_changed |= w->spilled;
        w->ranked_codes = 0;
    }
    text_keep_least(w, &w->info[i].name, name);
    if (parent && strcmp(parent, code)) text_keep_least(w, &w->info[i].parent, parent);
    *id = i;
    return OK;
}

int event_writer_knows(const EventWriter *w, const char *code) { return intern_find(&w->codes, code) != INTERN_NONE; }

Status event_writer_unit(EventWriter *w, const char *unit, uint16_t *id, Err *err) {
    uint32_t i = intern_find(&w->units, unit);
    if (i == INTERN_NONE) {
        if (strlen(unit) > EVENT_STRING_MAX)
            return err_set(err, ERR_FORMAT, "a unit for %s is %zu bytes long, at most %d were expected: %.40s...",
                           w->path, strlen(unit), EVENT_STRING_MAX, unit);
        if (w->units.n == UNITS_MAX)
            return err_set(err, ERR_FORMAT, "more than %d distinct units for %s: the unit column holds something else",
                           UNITS_MAX, w->path);
        i = intern_add(&w->units, unit);
    }
    *id = (uint16_t)i;
    return OK;
}

typedef struct {
    const char *text;
    uint32_t id;
    uint8_t kind;
} RankedCode;

static int ranked_compare(const void *a, const void *b) {
    const RankedCode *x = a, *y = b;
    return x->kind != y->kind ? (x->kind < y->kind ? -1 : 1) : strcmp(x->text, y->text);
}

static void writer_rank(EventWriter *w) {
    if (w->ranked_codes != w->codes.n || !w->code_rank) {
        uint32_t n = w->codes.n;
        RankedCode *order = xmalloc((n + 1) * sizeof *order);
        for (uint32_t i = 0; i < n; i++) order[i] = (RankedCode){w->codes.item[i], i, w->info[i].kind};
        qsort(order, n, sizeof *order, ranked_compare);
        w->code_rank = xrealloc(w->code_rank, (n + 1) * sizeof *w->code_rank);
        for (uint32_t i = 0; i < n; i++) w->code_rank[order[i].id] = i;
        free(order);
        w->ranked_codes = n;
    }
    if (w->ranked_units != w->units.n) {
        free(w->unit_rank);
        w->unit_rank = intern_ranks(&w->units);
        w->ranked_units = w->units.n;
    }
}

/* ---- rows -------------------------------------------------------------------------------------------------------- */

static Status writer_push(EventWriter *w, const EventRow *row, Err *err) {
    /* 16 bytes a code: the ranks and what sorting them takes. */
    sorter_reserve(w->sorter, w->codes.bytes + w->info_bytes + w->units.bytes + 16 * (size_t)w->codes.n);
    if (sorter_full(w->sorter)) {
        writer_rank(w);
        w->spilled = 1;
        Status status = sorter_spill(w->sorter, err);
        if (status) return status;
    }
    sorter_add(w->sorter, row);
    return OK;
}

/* Of content, with a fixed public key. */
uint64_t event_text_hash(const char *text, size_t n) {
    static const unsigned char key[crypto_shorthash_KEYBYTES] = "ehr.c event text";
    uint64_t h;
    crypto_shorthash((unsigned char *)&h, (const unsigned char *)text, n, key);
    return h;
}

static Status event_add(EventWriter *w, const Event *e, const char *text, size_t n, Err *err) {
    REQUIRE(e->code < w->codes.n && e->unit < w->units.n && e->comparator <= COMPARE_GT &&
            e->precision <= PRECISION_NONE);
    if ((e->time == TIME_NONE) != (e->available == TIME_NONE) || isinf(e->value))
        return err_set(err, ERR_FORMAT, "event %s of subject %lld has %s (source row %u)", w->codes.item[e->code],
                       (long long)e->subject,
                       isinf(e->value) ? "an infinite value" : "only one of time and available time", e->source_row);
    EventRow row = {.subject = e->subject,
                    .available = e->available,
                    .time = e->time,
                    .code = e->code,
                    .visit = e->visit,
                    .value = isnan(e->value) ? NAN : e->value + 0.0f, /* one NaN, no -0 */
                    .unit = e->unit,
                    .comparator = e->comparator,
                    .precision = e->precision};
    if (n) {
        REQUIRE(w->row_size == sizeof(EventRow) && n <= EVENT_TEXT_MAX);
        Status status = text_heap_add(&w->texts, text, n, &row.text_at, err);
        if (status) return status;
        row.text_hash = event_text_hash(text, n);
        row.text_size = (uint32_t)n;
    }
    return writer_push(w, &row, err);
}

Status event_writer_add(EventWriter *w, const Event *e, Err *err) { return event_add(w, e, NULL, 0, err); }

Status event_writer_add_text(EventWriter *w, const Event *e, const char *text, size_t n, Err *err) {
    return event_add(w, e, text, n, err);
}

Status event_writer_subject(EventWriter *w, int64_t subject, int64_t observation_end, int split, Err *err) {
    REQUIRE(split == SPLIT_UNSET || (split >= 0 && split < SPLIT_COUNT));
    EventRow row = {.subject = subject,
                    .available = TIME_NONE,
                    .time = observation_end,
                    .code = ROW_SUBJECT,
                    .precision = (uint8_t)split};
    return writer_push(w, &row, err);
}

/* The sorted rows without duplicates, and where a patient begins. */
typedef struct {
    EventRow last, subject;
    int has_last, has_subject;
    int64_t duplicates;
} RowWalk;

static Status walk_next(EventWriter *w, RowWalk *walk, const EventRow **out, int *first_of_patient, Err *err) {
    const void *next = NULL;
    const EventRow *row = NULL;
    Status status;
    while (!(status = sorter_next(w->sorter, &next, err)) && (row = next)) {
        if (row->code == ROW_SUBJECT) {
            if (walk->has_subject && walk->subject.subject == row->subject)
                return err_set(err, ERR_FORMAT,
                               "writing %s: subject %lld was given twice; each subject must come from one "
                               "row of the source",
                               w->path, (long long)row->subject);
            memcpy(&walk->subject, row, w->row_size);
            walk->has_subject = 1;
            continue;
        }
        if (walk->has_last && !row_compare(row, &walk->last, w)) {
            walk->duplicates++;
            continue;
        }
        *first_of_patient = !walk->has_last || walk->last.subject != row->subject;
        memcpy(&walk->last, row, w->row_size);
        walk->has_last = 1;
        break;
    }
    *out = status ? NULL : row;
    return status;
}

/* ---- HDF5 -------------------------------------------------------------------------------------------------------- */

typedef struct {
    EventWriter *w;
    hid_t file;
    hid_t event[EVENT_COLUMNS], patient[PATIENT_COLUMNS];
    hid_t note_event, note_offsets, note_text; /* -1: no event has a text */
    int64_t n_notes, text_bytes, notes_done, text_done;
    uint64_t *note_row, *note_offset; /* (WRITE_ROWS) */
    char *text;                       /* (WRITE_TEXT) */
    int64_t n_held_notes, n_held_text;
    int64_t n_events, n_patients, events_done, patients_done;
    int with_split;
    uint32_t *code_id, *unit_id; /* arrival id -> final id */
    EventRow *rows;              /* (WRITE_ROWS) */
    PatientRow *patients;        /* (WRITE_ROWS) */
    uint8_t *column;             /* (WRITE_ROWS * 8) */
    int64_t n_rows, n_held_patients;
} EventOut;

static hid_t store_type(StoreType type) {
    switch (type) {
    case STORE_I64: return H5T_STD_I64LE;
    case STORE_U64: return H5T_STD_U64LE;
    case STORE_U32: return H5T_STD_U32LE;
    case STORE_U16: return H5T_STD_U16LE;
    case STORE_U8: return H5T_STD_U8LE;
    default: return H5T_IEEE_F32LE;
    }
}

static Status write_failed(const EventOut *o, const char *what, Err *err) {
    return err_set(err, ERR_IO, "cannot write %s of %s.tmp: %s; is the disk full?", what, o->w->path,
                   errno ? strerror(errno) : "HDF5 gave up");
}

static hid_t dataset_create(hid_t file, const char *name, hid_t type, int64_t n) {
    hsize_t dims[1] = {(hsize_t)n};
    hid_t plist = H5Pcreate(H5P_DATASET_CREATE), space = H5Screate_simple(1, dims, NULL);
    H5Pset_layout(plist, H5D_CONTIGUOUS);
    H5Pset_alloc_time(plist, H5D_ALLOC_TIME_EARLY);
    H5Pset_fill_time(plist, H5D_FILL_TIME_NEVER);
    H5Pset_obj_track_times(plist, 0);
    hid_t set = H5Dcreate2(file, name, type, space, H5P_DEFAULT, plist, H5P_DEFAULT);
    H5Sclose(space);
    H5Pclose(plist);
    return set;
}

static int dataset_write(hid_t set, hid_t type, int64_t offset, int64_t count, const void *data) {
    if (!count) return 0;
    hsize_t start[1] = {(hsize_t)offset}, size[1] = {(hsize_t)count};
    hid_t file_space = H5Dget_space(set), memory_space = H5Screate_simple(1, size, NULL);
    int bad = H5Sselect_hyperslab(file_space, H5S_SELECT_SET, start, NULL, size, NULL) < 0 ||
              H5Dwrite(set, type, memory_space, file_space, H5P_DEFAULT, data) < 0;
    H5Sclose(memory_space);
    H5Sclose(file_space);
    return bad;
}

static int attribute_write(hid_t file, const char *name, hid_t type, const void *data) {
    hid_t space = H5Screate(H5S_SCALAR), attr = H5Acreate2(file, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    int bad = attr < 0 || H5Awrite(attr, type, data) < 0;
    if (attr >= 0) H5Aclose(attr);
    H5Sclose(space);
    return bad;
}

static hid_t string_type(size_t size) {
    hid_t type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, size ? size : 1);
    H5Tset_strpad(type, H5T_STR_NULLPAD);
    H5Tset_cset(type, H5T_CSET_UTF8);
    return type;
}

static int attribute_text(hid_t file, const char *name, const char *text) {
    hid_t type = string_type(strlen(text));
    int bad = attribute_write(file, name, type, *text ? text : "\0");
    H5Tclose(type);
    return bad;
}

/* One fixed-length string dataset in the order of `order`. */
static int strings_write(hid_t file, const char *name, char *const *text, const uint32_t *order, uint32_t n) {
    size_t size = 1;
    for (uint32_t i = 0; i < n; i++)
        if (text[order[i]] && strlen(text[order[i]]) > size) size = strlen(text[order[i]]);
    hid_t type = string_type(size), set = dataset_create(file, name, type, n);
    enum { SLICE = 1024 };
    char *slice = xmalloc(SLICE * size);
    int bad = set < 0;
    for (uint32_t first = 0; first < n && !bad; first += SLICE) {
        uint32_t count = n - first < SLICE ? n - first : SLICE;
        memset(slice, 0, SLICE * size);
        for (uint32_t i = 0; i < count; i++) {
            const char *s = text[order[first + i]];
            if (s) memcpy(slice + i * size, s, strlen(s));
        }
        bad = dataset_write(set, type, first, count, slice);
    }
    free(slice);
    if (set >= 0) H5Dclose(set);
    H5Tclose(type);
    return bad;
}

/* order[place in string order] = arrival id; *id is the inverse. */
static uint32_t *string_order(const Intern *t, uint32_t **id) {
    *id = intern_ranks(t);
    uint32_t *order = xmalloc((t->n + 1) * sizeof *order);
    for (uint32_t i = 0; i < t->n; i++) order[(*id)[i]] = i;
    return order;
}

static Status dictionary_write(EventOut *o, Err *err) {
    EventWriter *w = o->w;
    uint32_t n = w->codes.n;
    uint32_t *code_order = string_order(&w->codes, &o->code_id), *unit_order = string_order(&w->units, &o->unit_id);
    char **name = xmalloc((n + 1) * sizeof *name), **parent = xmalloc((n + 1) * sizeof *parent);
    uint8_t *kind = xmalloc(n + 1);
    for (uint32_t i = 0; i < n; i++) {
        name[i] = w->info[i].name;
        parent[i] = w->info[i].parent;
        kind[i] = w->info[code_order[i]].kind;
    }
    hid_t kinds = dataset_create(o->file, "code_kind", H5T_STD_U8LE, n);
    int bad = kinds < 0 || strings_write(o->file, "codes", w->codes.item, code_order, n);
    bad = bad || dataset_write(kinds, H5T_STD_U8LE, 0, n, kind) ||
          strings_write(o->file, "code_name", name, code_order, n) ||
          strings_write(o->file, "code_parent", parent, code_order, n) ||
          strings_write(o->file, "units", w->units.item, unit_order, w->units.n);
    if (kinds >= 0) H5Dclose(kinds);
    free(name);
    free(parent);
    free(kind);
    free(code_order);
    free(unit_order);
    return bad ? write_failed(o, "the codes", err) : OK;
}

static Status events_flush(EventOut *o, Err *err) {
    int64_t n = o->n_rows;
    for (int64_t i = 0; i < n; i++) {
        o->rows[i].code = o->code_id[o->rows[i].code];
        o->rows[i].unit = (uint16_t)o->unit_id[o->rows[i].unit];
    }
    for (int c = 0; c < EVENT_COLUMNS; c++) {
        const EventColumn *col = &event_columns[c];
        column_gather(o->column, (char *)o->rows + col->row_offset, sizeof *o->rows, col->size, n);
        if (dataset_write(o->event[c], store_type(col->type), o->events_done, n, o->column))
            return write_failed(o, col->name, err);
    }
    o->events_done += n;
    o->n_rows = 0;
    return OK;
}

static Status notes_flush(EventOut *o, Err *err) {
    if (dataset_write(o->note_event, H5T_STD_U64LE, o->notes_done, o->n_held_notes, o->note_row) ||
        dataset_write(o->note_offsets, H5T_STD_U64LE, o->notes_done, o->n_held_notes, o->note_offset) ||
        dataset_write(o->note_text, H5T_STD_U8LE, o->text_done, o->n_held_text, o->text))
        return write_failed(o, "the texts", err);
    o->notes_done += o->n_held_notes;
    o->text_done += o->n_held_text;
    o->n_held_notes = o->n_held_text = 0;
    return OK;
}

/* The text of the event that is written as row `at`. */
static Status note_write(EventOut *o, const EventRow *row, int64_t at, Err *err) {
    const char *text;
    size_t n;
    Status status = text_heap_get(&o->w->texts, row->text_at, &text, &n, err);
    if (!status && (o->n_held_notes == WRITE_ROWS || o->n_held_text + (int64_t)n > WRITE_TEXT))
        status = notes_flush(o, err);
    if (status) return status;
    o->note_row[o->n_held_notes] = (uint64_t)at;
    o->note_offset[o->n_held_notes++] = (uint64_t)(o->text_done + o->n_held_text);
    memcpy(o->text + o->n_held_text, text, n);
    o->n_held_text += (int64_t)n;
    return OK;
}

static Status notes_finish(EventOut *o, Err *err) {
    if (!o->n_notes) return OK;
    Status status = notes_flush(o, err);
    uint64_t end = (uint64_t)o->text_bytes;
    if (!status && dataset_write(o->note_offsets, H5T_STD_U64LE, o->n_notes, 1, &end))
        status = write_failed(o, "the texts", err);
    if (!status) REQUIRE(o->notes_done == o->n_notes && o->text_done == o->text_bytes);
    return status;
}

static int notes_create(EventOut *o) {
    if (!o->n_notes) return 0;
    o->note_row = xmalloc(WRITE_ROWS * sizeof *o->note_row);
    o->note_offset = xmalloc(WRITE_ROWS * sizeof *o->note_offset);
    o->text = xmalloc(WRITE_TEXT);
    o->note_event = dataset_create(o->file, "note_event", H5T_STD_U64LE, o->n_notes);
    o->note_offsets = dataset_create(o->file, "note_offsets", H5T_STD_U64LE, o->n_notes + 1);
    o->note_text = dataset_create(o->file, "note_text", H5T_STD_U8LE, o->text_bytes);
    return o->note_event < 0 || o->note_offsets < 0 || o->note_text < 0;
}

static Status patients_flush(EventOut *o, Err *err) {
    int64_t n = o->n_held_patients;
    for (int c = 0; c < PATIENT_COLUMNS - !o->with_split; c++) {
        const PatientColumn *col = &patient_columns[c];
        column_gather(o->column, (char *)o->patients + col->offset, sizeof *o->patients, col->size, n);
        if (dataset_write(o->patient[c], store_type(col->type), o->patients_done, n, o->column))
            return write_failed(o, col->name, err);
    }
    o->patients_done += n;
    o->n_held_patients = 0;
    return OK;
}

static Status rows_write(EventOut *o, Err *err) {
    RowWalk walk = {0};
    const EventRow *row = NULL;
    int first = 0;
    Status status = sorter_rewind(o->w->sorter, err);
    while (!status && !(status = walk_next(o->w, &walk, &row, &first, err)) && row) {
        if (first) {
            int known = walk.has_subject && walk.subject.subject == row->subject;
            o->patients[o->n_held_patients++] = (PatientRow){.subject = row->subject,
                                                             .offset = (uint64_t)(o->events_done + o->n_rows),
                                                             .observation_end = known ? walk.subject.time : TIME_NONE,
                                                             .split = known ? walk.subject.precision : SPLIT_UNSET};
            if (o->n_held_patients == WRITE_ROWS) status = patients_flush(o, err);
        }
        if (!status && o->n_notes && row->text_at) status = note_write(o, row, o->events_done + o->n_rows, err);
        memcpy(&o->rows[o->n_rows++], row, EVENT_ROW_PLAIN);
        if (!status && o->n_rows == WRITE_ROWS) status = events_flush(o, err);
    }
    if (!status && o->n_rows) status = events_flush(o, err);
    if (!status && o->n_held_patients) status = patients_flush(o, err);
    if (!status) status = notes_finish(o, err);
    uint64_t end = (uint64_t)o->n_events;
    if (!status && dataset_write(o->patient[1], H5T_STD_U64LE, o->n_patients, 1, &end))
        status = write_failed(o, "patient_offsets", err);
    if (!status) REQUIRE(o->events_done == o->n_events && o->patients_done == o->n_patients);
    return status;
}

static Status out_create(EventOut *o, const char *tmp, const char *source, const char *provenance, Err *err) {
    hid_t access = H5Pcreate(H5P_FILE_ACCESS), create = H5Pcreate(H5P_FILE_CREATE);
    H5Pset_libver_bounds(access, H5F_LIBVER_V18, H5F_LIBVER_V18);
    H5Pset_obj_track_times(create, 0);
    H5Pset_attr_phase_change(create, 0, 0); /* large attributes fit only in the dense form */
    o->file = H5Fcreate(tmp, H5F_ACC_TRUNC, create, access);
    H5Pclose(create);
    H5Pclose(access);
    if (o->file < 0)
        return err_set(err, ERR_IO, "cannot create %s: %s; is the folder there and writable?", tmp,
                       errno ? strerror(errno) : "HDF5 refused");
    int32_t version = EVENT_FORMAT_VERSION;
    int bad = attribute_text(o->file, "format", EVENT_FORMAT) ||
              attribute_write(o->file, "format_version", H5T_STD_I32LE, &version) ||
              attribute_text(o->file, "source", source) || attribute_text(o->file, "provenance", provenance);
    for (int c = 0; c < EVENT_COLUMNS && !bad; c++)
        bad = (o->event[c] =
                   dataset_create(o->file, event_columns[c].name, store_type(event_columns[c].type), o->n_events)) < 0;
    for (int c = 0; c < PATIENT_COLUMNS - !o->with_split && !bad; c++)
        bad = (o->patient[c] = dataset_create(o->file, patient_columns[c].name, store_type(patient_columns[c].type),
                                              o->n_patients + (c == 1))) < 0;
    bad = bad || notes_create(o);
    return bad ? write_failed(o, "the datasets", err) : OK;
}

/* Closes everything; the first failure counts. */
static Status out_close(EventOut *o, Status status, Err *err) {
    for (int c = 0; c < EVENT_COLUMNS; c++)
        if (o->event[c] >= 0) H5Dclose(o->event[c]);
    for (int c = 0; c < PATIENT_COLUMNS; c++)
        if (o->patient[c] >= 0) H5Dclose(o->patient[c]);
    const hid_t note[] = {o->note_event, o->note_offsets, o->note_text};
    for (int i = 0; i < 3; i++)
        if (note[i] >= 0) H5Dclose(note[i]);
    if (o->file >= 0 && H5Fclose(o->file) < 0 && !status) status = write_failed(o, "the end", err);
    free(o->code_id);
    free(o->unit_id);
    free(o->rows);
    free(o->patients);
    free(o->column);
    free(o->note_row);
    free(o->note_offset);
    free(o->text);
    return status;
}

/* Seals the finished file, makes sure it is on disk and gives it its name. */
static Status file_commit(const char *tmp, const char *path, Err *err) {
    int fd = open(tmp, O_RDWR | O_CLOEXEC);
    off_t size = fd < 0 ? -1 : lseek(fd, 0, SEEK_END);
    if (size < 0) {
        if (fd >= 0) close(fd);
        return err_set(err, ERR_IO, "cannot read %s back: %s", tmp, strerror(errno));
    }
    unsigned char seal[EVENT_SEAL];
    Status status = event_seal_compute(fd, tmp, (int64_t)size, 0, seal, NULL, err);
    if (!status && (pwrite(fd, seal, sizeof seal, size) != (ssize_t)sizeof seal || fsync(fd)))
        status = err_set(err, ERR_IO, "cannot write %s: %s", tmp, strerror(errno));
    close(fd);
    if (!status) status = file_publish(tmp, path, err);
    return status;
}

static Status out_write(EventOut *o, const char *source, const char *provenance, Err *err) {
    char *tmp = xasprintf("%s.tmp", o->w->path);
    Status status = OK;
    errno = 0;
    H5E_BEGIN_TRY {
        o->rows = xmalloc(WRITE_ROWS * sizeof *o->rows);
        o->patients = xmalloc(WRITE_ROWS * sizeof *o->patients);
        o->column = xmalloc(WRITE_ROWS * 8);
        status = out_create(o, tmp, source, provenance, err);
        if (!status) status = dictionary_write(o, err);
        if (!status) status = rows_write(o, err);
        status = out_close(o, status, err);
    }
    H5E_END_TRY
    if (!status) status = file_commit(tmp, o->w->path, err);
    if (status) unlink(tmp);
    free(tmp);
    return status;
}

Status event_writer_close(EventWriter *w, const char *source, const char *provenance_json, int64_t *n_patients,
                          int64_t *n_events, int64_t *n_duplicates, Err *err) {
    EventOut o = {.w = w, .file = -1, .note_event = -1, .note_offsets = -1, .note_text = -1};
    for (int c = 0; c < EVENT_COLUMNS; c++) o.event[c] = -1;
    for (int c = 0; c < PATIENT_COLUMNS; c++) o.patient[c] = -1;
    writer_rank(w);
    Status status = w->kind_changed ? sorter_resort(w->sorter, err) : OK;
    if (!status) status = sorter_finish(w->sorter, err);
    if (!status) status = sorter_rewind(w->sorter, err);
    RowWalk walk = {0};
    const EventRow *row = NULL;
    int first = 0;
    while (!status && !(status = walk_next(w, &walk, &row, &first, err)) && row) {
        o.n_events++;
        if (w->row_size > EVENT_ROW_PLAIN && row->text_at) {
            o.n_notes++;
            o.text_bytes += row->text_size;
        }
        o.n_patients += first;
        o.with_split |=
            first && walk.has_subject && walk.subject.subject == row->subject && walk.subject.precision != SPLIT_UNSET;
    }
    if (!status) status = out_write(&o, source, provenance_json ? provenance_json : "", err);
    if (n_patients) *n_patients = o.n_patients;
    if (n_events) *n_events = o.n_events;
    if (n_duplicates) *n_duplicates = walk.duplicates;
    event_writer_abort(w);
    return status;
}
