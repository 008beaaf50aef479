/* event_file.c - reading events.h5.
 *
 * HDF5 is asked once, on opening, for the place and shape of every dataset, which must be plain: hard-linked,
 * contiguous, unfiltered, of the exact type and inside the file.  From then on columns are read with pread through two
 * windows, one of patients and one of events.  A patient that follows the last one read is served from a large window
 * read ahead; a jump reads that patient alone. */
#include "data/event_format.h"
#include <errno.h>
#include <fcntl.h>
#include <hdf5.h>
#include <jansson.h>
#include <math.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { READ_AHEAD = 32768, PATIENT_WINDOW = 1024, NOTE_WINDOW = 4096, HASH_PIECE = 1 << 20 };

typedef struct {
    int64_t offset; /* bytes from the start of the file */
    int64_t n, size;
} Extent;

struct EventFileImpl {
    int fd;
    int64_t size; /* without the seal */
    Extent event[EVENT_COLUMNS], patient[PATIENT_COLUMNS];
    int with_split;
    Extent note_event, note_offsets, note_text;
    uint64_t *note_row; /* window [note_lo, note_hi) of /note_event */
    int64_t note_lo, note_hi;
    char *text;
    size_t text_capacity;
    PatientRow *patients; /* window [patient_lo, patient_hi) */
    int64_t patient_lo, patient_hi;
    Event *events; /* window [event_lo, event_hi) */
    int64_t event_lo, event_hi, event_capacity;
    int64_t next_event; /* where the last patient read ends */
    uint8_t *column;
    int64_t column_bytes;
};

static Status damaged(const EventFile *f, Err *err, const char *what) {
    return err_set(err, ERR_FORMAT, "%s is damaged: %s; import it again or restore it from a backup", f->path, what);
}

/* ---- opening ----------------------------------------------------------------------------------------------------- */

/* HDF5 checks its own structures only in file versions with checksums, so older ones are turned away before it looks.
 */
static Status superblock_check(EventFile *f, Err *err) {
    unsigned char b[48];
    static const unsigned char magic[8] = {0x89, 'H', 'D', 'F', '\r', '\n', 0x1a, '\n'};
    ssize_t n = pread(f->impl->fd, b, sizeof b, 0);
    if (n < 8 || memcmp(b, magic, 8))
        return err_set(err, ERR_FORMAT, "%s is not an events file (no HDF5 signature); make one with ehr-data import",
                       f->path);
    if (n < (ssize_t)sizeof b || (b[8] != 2 && b[8] != 3) || b[9] != 8)
        return err_set(err, ERR_FORMAT,
                       "%s is not an events file as ehr-data import writes it (HDF5 superblock %d, 2 was "
                       "expected)",
                       f->path, b[8]);
    uint64_t end = 0;
    for (int i = 7; i >= 0; i--) end = end << 8 | b[28 + i];
    if (end > (uint64_t)f->impl->size)
        return err_set(err, ERR_FORMAT, "%s is truncated: %lld of %llu bytes are there; copy or import it again",
                       f->path, (long long)f->impl->size + EVENT_SEAL, (unsigned long long)end + EVENT_SEAL);
    return OK;
}

static hid_t expected_type(StoreType type) {
    switch (type) {
    case STORE_I64: return H5T_STD_I64LE;
    case STORE_U64: return H5T_STD_U64LE;
    case STORE_U32: return H5T_STD_U32LE;
    case STORE_U16: return H5T_STD_U16LE;
    case STORE_U8: return H5T_STD_U8LE;
    default: return H5T_IEEE_F32LE;
    }
}

static int link_exists(hid_t file, const char *name) {
    H5L_info_t info;
    return H5Lexists(file, name, H5P_DEFAULT) > 0 && H5Lget_info(file, name, &info, H5P_DEFAULT) >= 0 &&
           info.type == H5L_TYPE_HARD;
}

/* Place of a plain dataset.  type STORE_COUNT: fixed-length strings, whose size is returned.  n < 0: any length. */
static Status extent_find(EventFile *f, hid_t file, const char *name, StoreType type, int64_t n, Extent *out,
                          Err *err) {
    char what[160];
    snprintf(what, sizeof what, "dataset /%s is missing or a link", name);
    if (!link_exists(file, name)) return damaged(f, err, what);
    hid_t set = H5Dopen2(file, name, H5P_DEFAULT);
    if (set < 0) return damaged(f, err, what);
    hid_t t = H5Dget_type(set), space = H5Dget_space(set), plist = H5Dget_create_plist(set);
    hsize_t dims[1] = {0};
    int plain = H5Pget_layout(plist) == H5D_CONTIGUOUS && H5Pget_nfilters(plist) == 0 &&
                H5Pget_external_count(plist) == 0 && H5Sget_simple_extent_ndims(space) == 1 &&
                H5Sget_simple_extent_dims(space, dims, NULL) == 1;
    int typed = type == STORE_COUNT ? H5Tget_class(t) == H5T_STRING && H5Tis_variable_str(t) == 0
                                    : H5Tequal(t, expected_type(type)) > 0;
    uint64_t size = typed ? H5Tget_size(t) : 0, offset = 0, limit = (uint64_t)f->impl->size;
    if (plain && dims[0]) offset = H5Dget_offset(set);
    H5Pclose(plist);
    H5Sclose(space);
    H5Tclose(t);
    H5Dclose(set);
    snprintf(what, sizeof what, "dataset /%s does not have the expected type and layout", name);
    if (!plain || !typed || !size) return damaged(f, err, what);
    snprintf(what, sizeof what, "dataset /%s has %llu rows, %lld were expected", name, (unsigned long long)dims[0],
             (long long)n);
    if (n >= 0 && dims[0] != (uint64_t)n) return damaged(f, err, what);
    snprintf(what, sizeof what, "dataset /%s lies outside the file", name);
    if (dims[0] && (offset >= limit || dims[0] > (limit - offset) / size)) return damaged(f, err, what);
    *out = (Extent){(int64_t)offset, (int64_t)dims[0], (int64_t)size};
    return OK;
}

static Status attribute_text(EventFile *f, hid_t file, const char *name, char **out, Err *err) {
    char what[80];
    snprintf(what, sizeof what, "attribute %s is missing or not text", name);
    *out = NULL;
    hid_t attr = H5Aexists(file, name) > 0 ? H5Aopen(file, name, H5P_DEFAULT) : -1;
    if (attr < 0) return damaged(f, err, what);
    hid_t type = H5Aget_type(attr), space = H5Aget_space(attr);
    size_t size =
        H5Tget_class(type) == H5T_STRING && !H5Tis_variable_str(type) && H5Sget_simple_extent_npoints(space) == 1
            ? H5Tget_size(type)
            : 0;
    if (size && size <= (size_t)f->impl->size && (*out = try_calloc(size + 1, 1)) && H5Aread(attr, type, *out) < 0) {
        free(*out);
        *out = NULL;
    }
    H5Sclose(space);
    H5Tclose(type);
    H5Aclose(attr);
    return *out ? OK : damaged(f, err, what);
}

static Status attribute_number(EventFile *f, hid_t file, const char *name, hid_t type, void *out, Err *err) {
    char what[80];
    snprintf(what, sizeof what, "attribute %s is missing or not a number", name);
    hid_t attr = H5Aexists(file, name) > 0 ? H5Aopen(file, name, H5P_DEFAULT) : -1;
    if (attr < 0) return damaged(f, err, what);
    hid_t t = H5Aget_type(attr), space = H5Aget_space(attr);
    int good = H5Tequal(t, type) > 0 && H5Sget_simple_extent_npoints(space) == 1 && H5Aread(attr, type, out) >= 0;
    H5Sclose(space);
    H5Tclose(t);
    H5Aclose(attr);
    return good ? OK : damaged(f, err, what);
}

static Status bytes_read(EventFile *f, void *out, int64_t offset, int64_t size, Err *err) {
    char *p = out;
    while (size) {
        ssize_t n = pread(f->impl->fd, p, (size_t)size, (off_t)offset);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0)
            return err_set(err, ERR_IO, "cannot read %s: %s", f->path,
                           n < 0 ? strerror(errno) : "it shrank while in use");
        p += n;
        offset += n;
        size -= n;
    }
    return OK;
}

/* Reads a string dataset as an array of C strings, in one block: free(*out) frees all. */
static Status strings_read(EventFile *f, hid_t file, const char *name, int64_t n, char ***out, int64_t *n_out,
                           Err *err) {
    Extent e;
    if (extent_find(f, file, name, STORE_COUNT, n, &e, err)) return err->code;
    size_t head = ((size_t)e.n + 1) * sizeof(char *);
    char **item = try_calloc(head + (size_t)e.n * (size_t)(e.size + 1), 1);
    if (!item) return err_set(err, ERR_NOMEM, "no memory for %lld strings of %s of %s", (long long)e.n, name, f->path);
    char *text = (char *)item + head;
    Status status = bytes_read(f, text, e.offset, e.n * e.size, err);
    if (status) {
        free(item);
        return status;
    }
    for (int64_t i = e.n - 1; i >= 0; i--) { /* from the last, so that each moves into room already free */
        memmove(text + i * (e.size + 1), text + i * e.size, (size_t)e.size);
        text[i * (e.size + 1) + e.size] = 0;
        item[i] = text + i * (e.size + 1);
    }
    *out = item;
    *n_out = e.n;
    return OK;
}

static Status dictionary_read(EventFile *f, hid_t file, Err *err) {
    Extent kinds;
    Status status = strings_read(f, file, "codes", -1, &f->codes, &f->n_codes, err);
    if (!status) status = extent_find(f, file, "code_kind", STORE_U8, f->n_codes, &kinds, err);
    if (!status && !(f->code_kind = try_calloc((size_t)f->n_codes + 1, 1)))
        status = err_set(err, ERR_NOMEM, "no memory for the codes of %s", f->path);
    if (!status) status = bytes_read(f, f->code_kind, kinds.offset, kinds.n, err);
    int64_t n;
    if (!status) status = strings_read(f, file, "code_name", f->n_codes, &f->code_name, &n, err);
    if (!status) status = strings_read(f, file, "code_parent", f->n_codes, &f->code_parent, &n, err);
    if (!status) status = strings_read(f, file, "units", -1, &f->units, &f->n_units, err);
    if (status) return status;
    for (int64_t i = 0; i < f->n_codes; i++)
        if (f->code_kind[i] >= KIND_COUNT || !*f->codes[i] || (i && strcmp(f->codes[i - 1], f->codes[i]) >= 0))
            return damaged(f, err, "its codes are not in order");
    if (f->n_units < 1 || f->n_units > 65536 || *f->units[0]) return damaged(f, err, "its units are not in order");
    return OK;
}

/* Where texts are; what they say of themselves is checked as they are read. */
static Status notes_layout(EventFile *f, hid_t file, Err *err) {
    struct EventFileImpl *x = f->impl;
    uint64_t end = 0;
    Status status = extent_find(f, file, "note_event", STORE_U64, -1, &x->note_event, err);
    if (!status) status = extent_find(f, file, "note_offsets", STORE_U64, x->note_event.n + 1, &x->note_offsets, err);
    if (!status) status = extent_find(f, file, "note_text", STORE_U8, -1, &x->note_text, err);
    if (!status) status = bytes_read(f, &end, x->note_offsets.offset + 8 * x->note_event.n, 8, err);
    if (!status && end != (uint64_t)x->note_text.n) status = damaged(f, err, "the last text does not end at the end");
    if (status) return status;
    f->n_notes = x->note_event.n;
    f->note_bytes = x->note_text.n;
    x->note_row = xmalloc(NOTE_WINDOW * sizeof *x->note_row);
    return OK;
}

static Status layout_read(EventFile *f, hid_t file, Err *err) {
    struct EventFileImpl *x = f->impl;
    char *format = NULL;
    int32_t version = 0;
    if (attribute_text(f, file, "format", &format, err) || strcmp(format, EVENT_FORMAT)) {
        Status status = err_set(err, ERR_FORMAT,
                                "%s is not an events file (its format is %s, \"%s\" was expected); make one "
                                "with ehr-data import",
                                f->path, format ? format : "not given", EVENT_FORMAT);
        free(format);
        return status;
    }
    free(format);
    Status status = attribute_number(f, file, "format_version", H5T_STD_I32LE, &version, err);
    if (!status && version != EVENT_FORMAT_VERSION)
        status = err_set(err, ERR_FORMAT, "%s has format version %d, this program reads version %d", f->path, version,
                         EVENT_FORMAT_VERSION);
    if (!status) status = attribute_text(f, file, "source", &f->source, err);
    if (!status) status = attribute_text(f, file, "provenance", &f->provenance, err);
    for (int c = 0; c < EVENT_COLUMNS && !status; c++)
        status = extent_find(f, file, event_columns[c].name, event_columns[c].type, c ? x->event[0].n : -1,
                             &x->event[c], err);
    if (status) return status;
    f->n_events = x->event[0].n;
    x->with_split = link_exists(file, "split");
    for (int c = 0; c < PATIENT_COLUMNS - !x->with_split && !status; c++)
        status = extent_find(f, file, patient_columns[c].name, patient_columns[c].type,
                             c ? f->n_patients + (c == 1) : -1, &x->patient[c], err),
        f->n_patients = x->patient[0].n;
    if (!status) status = dictionary_read(f, file, err);
    if (!status && link_exists(file, "note_event")) status = notes_layout(f, file, err);
    uint64_t end = 0;
    if (!status) status = bytes_read(f, &end, x->patient[1].offset + 8 * f->n_patients, 8, err);
    if (!status && end != (uint64_t)f->n_events)
        status = damaged(f, err, "the last patient does not end at the last event");
    return status;
}

Status event_seal_compute(int fd, const char *path, int64_t size, int64_t more, unsigned char seal[EVENT_SEAL],
                          char hex[65], Err *err) {
    unsigned char *piece = xmalloc(HASH_PIECE), all[EVENT_SEAL];
    crypto_hash_sha256_state state, sealed;
    crypto_hash_sha256_init(&state);
    sealed = state;
    int64_t at = 0, end = size;
    ssize_t n = 1;
    while (n > 0 && at < size + more) {
        n = pread(fd, piece, (size_t)(end - at < HASH_PIECE ? end - at : HASH_PIECE), (off_t)at);
        if (n < 0 && errno == EINTR) n = 0;
        crypto_hash_sha256_update(&state, piece, n > 0 ? (unsigned long long)n : 0);
        at += n > 0 ? n : 0;
        if (at == size) {
            sealed = state;
            end = size + more;
        }
    }
    free(piece);
    if (at < size + more)
        return err_set(err, ERR_IO, "cannot read %s: %s", path, n < 0 ? strerror(errno) : "it shrank while in use");
    crypto_hash_sha256_final(&sealed, seal);
    crypto_hash_sha256_final(&state, all);
    if (hex) sodium_bin2hex(hex, 65, all, sizeof all);
    return OK;
}

static Status seal_check(EventFile *f, Err *err) {
    unsigned char computed[EVENT_SEAL], stored[EVENT_SEAL];
    Status status = bytes_read(f, stored, f->impl->size, EVENT_SEAL, err);
    if (!status) status = event_seal_compute(f->impl->fd, f->path, f->impl->size, EVENT_SEAL, computed, f->sha256, err);
    if (!status && memcmp(computed, stored, EVENT_SEAL))
        status = err_set(err, ERR_FORMAT,
                         "%s is damaged, was changed by another program, or is not an events file: the seal "
                         "at its end does not match; import it again or restore it from a backup",
                         f->path);
    return status;
}

Status event_file_open(EventFile *f, const char *path, Err *err) {
    *f = (EventFile){.path = xstrdup(path), .impl = xcalloc(1, sizeof *f->impl)};
    struct stat st;
    f->impl->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* waits for no pipe */
    Status status = OK;
    if (f->impl->fd < 0) status = err_set(err, ERR_IO, "cannot read events file %s: %s", path, strerror(errno));
    else if (fstat(f->impl->fd, &st) || !S_ISREG(st.st_mode))
        status = err_set(err, ERR_FORMAT,
                         "%s is not an events file (a folder or a device); make one with ehr-data import", path);
    else f->impl->size = st.st_size > EVENT_SEAL ? (int64_t)st.st_size - EVENT_SEAL : 0;
    if (!status) status = superblock_check(f, err);
    if (!status) status = seal_check(f, err);
    if (!status) {
        H5E_BEGIN_TRY {
            hid_t file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
            if (file < 0) status = damaged(f, err, "HDF5 cannot open it");
            else status = layout_read(f, file, err);
            if (file >= 0) H5Fclose(file);
        }
        H5E_END_TRY
    }
    if (status) event_file_close(f);
    else f->impl->patients = xmalloc(PATIENT_WINDOW * sizeof *f->impl->patients);
    return status;
}

int event_file_is_relative(const EventFile *f) {
    json_t *root = json_loads(f->provenance, 0, NULL);
    const char *origin = json_string_value(json_object_get(root, "time_origin"));
    int relative = origin && !strcmp(origin, "first_event");
    json_decref(root);
    return relative;
}

void event_file_close(EventFile *f) {
    if (f->impl) {
        if (f->impl->fd >= 0) close(f->impl->fd);
        free(f->impl->patients);
        free(f->impl->events);
        free(f->impl->column);
        free(f->impl->note_row);
        free(f->impl->text);
    }
    free(f->impl);
    free(f->path);
    free(f->source);
    free(f->provenance);
    free(f->codes);
    free(f->code_name);
    free(f->code_parent);
    free(f->units);
    free(f->code_kind);
    *f = (EventFile){0};
}

void event_file_share(EventFile *copy, const EventFile *f) {
    *copy = *f;
    copy->impl = xmalloc(sizeof *copy->impl);
    *copy->impl = *f->impl;
    struct EventFileImpl *x = copy->impl;
    x->patients = xmalloc(PATIENT_WINDOW * sizeof *x->patients);
    x->patient_lo = x->patient_hi = x->event_lo = x->event_hi = x->event_capacity = x->note_lo = x->note_hi = 0;
    x->next_event = 0;
    x->events = NULL;
    x->column = NULL;
    x->column_bytes = 0;
    x->text = NULL;
    x->text_capacity = 0;
    x->note_row = f->n_notes ? xmalloc(NOTE_WINDOW * sizeof *x->note_row) : NULL;
}

void event_file_unshare(EventFile *copy) {
    free(copy->impl->patients);
    free(copy->impl->events);
    free(copy->impl->column);
    free(copy->impl->note_row);
    free(copy->impl->text);
    free(copy->impl);
    *copy = (EventFile){0};
}

/* ---- patients ---------------------------------------------------------------------------------------------------- */

static Status column_room(EventFile *f, int64_t bytes, Err *err) {
    if (bytes <= f->impl->column_bytes) return OK;
    free(f->impl->column);
    f->impl->column_bytes = 0;
    if (!(f->impl->column = try_calloc((size_t)bytes, 1)))
        return err_set(err, ERR_NOMEM, "no memory (%lld bytes) to read a patient of %s", (long long)bytes, f->path);
    f->impl->column_bytes = bytes;
    return OK;
}

static Status patients_load(EventFile *f, int64_t row, Err *err) {
    struct EventFileImpl *x = f->impl;
    int64_t lo = row / PATIENT_WINDOW * PATIENT_WINDOW;
    int64_t n = f->n_patients - lo < PATIENT_WINDOW ? f->n_patients - lo : PATIENT_WINDOW;
    x->patient_lo = x->patient_hi = 0;
    Status status = column_room(f, 8 * PATIENT_WINDOW, err);
    for (int64_t i = 0; i < n; i++) x->patients[i].split = SPLIT_UNSET;
    for (int c = 0; c < PATIENT_COLUMNS - !x->with_split && !status; c++) {
        const PatientColumn *col = &patient_columns[c];
        status = bytes_read(f, x->column, x->patient[c].offset + lo * col->size, n * col->size, err);
        if (status) break;
        column_scatter((char *)x->patients + col->offset, sizeof *x->patients, x->column, col->size, n);
    }
    for (int64_t i = 0; i < n && !status; i++) {
        const PatientRow *p = &x->patients[i];
        if ((i && (p->offset < p[-1].offset || p->subject <= p[-1].subject)) || p->offset > (uint64_t)f->n_events ||
            (p->split >= SPLIT_COUNT && p->split != SPLIT_UNSET))
            status = damaged(f, err, "its patients are not in order");
    }
    if (!status) {
        x->patient_lo = lo;
        x->patient_hi = lo + n;
    }
    return status;
}

static Status events_check(EventFile *f, const Event *e, int64_t n, Err *err) {
    for (int64_t i = 0; i < n; i++, e++)
        if (e->code >= f->n_codes || e->unit >= f->n_units || e->comparator > COMPARE_GT ||
            e->precision > PRECISION_NONE || isinf(e->value) || (e->time == TIME_NONE) != (e->available == TIME_NONE))
            return damaged(f, err, "an event has a code, unit or flag out of range");
    return OK;
}

/* Makes the window hold [first, first + n), and more behind it when `ahead`. */
static Status events_load(EventFile *f, int64_t first, int64_t n, int ahead, Err *err) {
    struct EventFileImpl *x = f->impl;
    int64_t rows = ahead && n < READ_AHEAD ? READ_AHEAD : n;
    if (rows > f->n_events - first) rows = f->n_events - first;
    x->event_lo = x->event_hi = 0;
    if (rows > x->event_capacity) {
        free(x->events);
        x->event_capacity = 0;
        x->events = try_calloc((size_t)rows, sizeof *x->events);
        if (!x->events)
            return err_set(err, ERR_NOMEM, "no memory for a patient of %lld events of %s", (long long)n, f->path);
        x->event_capacity = rows;
    }
    Status status = column_room(f, rows * 8, err);
    for (int c = 0; c < EVENT_COLUMNS && !status; c++) {
        const EventColumn *col = &event_columns[c];
        status = bytes_read(f, x->column, x->event[c].offset + first * col->size, rows * col->size, err);
        if (status) break;
        column_scatter((char *)x->events + col->event_offset, sizeof *x->events, x->column, col->size, rows);
    }
    if (!status) status = events_check(f, x->events, rows, err);
    if (!status) {
        x->event_lo = first;
        x->event_hi = first + rows;
    }
    return status;
}

/* Rows of the texts from number `at` on. */
static Status notes_load(EventFile *f, int64_t at, Err *err) {
    struct EventFileImpl *x = f->impl;
    int64_t n = f->n_notes - at < NOTE_WINDOW ? f->n_notes - at : NOTE_WINDOW;
    x->note_lo = x->note_hi = 0;
    Status status = bytes_read(f, x->note_row, x->note_event.offset + 8 * at, 8 * n, err);
    for (int64_t i = 0; i < n && !status; i++)
        if (x->note_row[i] >= (uint64_t)f->n_events || (i && x->note_row[i] <= x->note_row[i - 1]))
            status = damaged(f, err, "its texts are not in the order of its events");
    if (status) return status;
    x->note_lo = at;
    x->note_hi = at + n;
    return OK;
}

/* Number of the first text of an event at `row` or later, by the window or by bisection in the file. */
static Status note_find(EventFile *f, uint64_t row, int64_t *note, Err *err) {
    struct EventFileImpl *x = f->impl;
    int64_t n = x->note_hi - x->note_lo, lo = 0, hi = f->n_notes;
    Status status = OK;
    if (n && x->note_row[0] <= row && (x->note_row[n - 1] >= row || x->note_hi == f->n_notes)) {
        for (lo = 0, hi = n; lo < hi;) {
            int64_t mid = lo + (hi - lo) / 2;
            if (x->note_row[mid] < row) lo = mid + 1;
            else hi = mid;
        }
        *note = x->note_lo + lo;
        return OK;
    }
    while (lo < hi && !status) {
        int64_t mid = lo + (hi - lo) / 2;
        uint64_t there = 0;
        status = bytes_read(f, &there, x->note_event.offset + 8 * mid, 8, err);
        if (there < row) lo = mid + 1;
        else hi = mid;
    }
    *note = lo;
    return status ? status : lo < f->n_notes ? notes_load(f, lo, err) : OK;
}

/* Tells the events of a patient which of them have a text. */
static Status notes_mark(EventFile *f, EventPatient *p, Err *err) {
    struct EventFileImpl *x = f->impl;
    uint64_t first = (uint64_t)p->first_event, end = first + (uint64_t)p->n;
    Status status = note_find(f, first, &p->first_note, err);
    for (int64_t note = p->first_note; !status && note < f->n_notes; note++) {
        if (note < x->note_lo || note >= x->note_hi) status = notes_load(f, note, err);
        if (status) break;
        uint64_t row = x->note_row[note - x->note_lo];
        if (row >= end) break;
        if (row < first) return damaged(f, err, "its texts are not in the order of its events");
        p->event[row - first].note = (uint32_t)++p->n_notes;
    }
    return status;
}

Status event_file_patient(EventFile *f, int64_t row, EventPatient *out, Err *err) {
    struct EventFileImpl *x = f->impl;
    if (row < 0 || row >= f->n_patients)
        return err_set(err, ERR_USAGE, "%s has patients 0 to %lld, not %lld", f->path, (long long)f->n_patients - 1,
                       (long long)row);
    if ((row < x->patient_lo || row >= x->patient_hi) && patients_load(f, row, err)) return err->code;
    PatientRow p = x->patients[row - x->patient_lo];
    uint64_t end = (uint64_t)f->n_events;
    if (row + 1 < x->patient_hi) end = x->patients[row + 1 - x->patient_lo].offset;
    else if (row + 1 < f->n_patients) {
        Status status = bytes_read(f, &end, x->patient[1].offset + 8 * (row + 1), 8, err);
        if (status) return status;
    }
    if (end <= p.offset || end > (uint64_t)f->n_events) return damaged(f, err, "a patient has no events");
    int64_t first = (int64_t)p.offset, n = (int64_t)(end - p.offset);
    if (first < x->event_lo || first + n > x->event_hi) {
        Status status = events_load(f, first, n, first == x->next_event, err);
        if (status) return status;
    }
    x->next_event = first + n;
    Event *e = x->events + (first - x->event_lo);
    for (int64_t i = 0; i < n; i++) {
        e[i].subject = p.subject;
        e[i].source_row = (uint32_t)(first + i);
        e[i].note = 0;
        if (!i) continue;
        int kind = f->code_kind[e[i].code], before = f->code_kind[e[i - 1].code];
        if (e[i].available < e[i - 1].available ||
            (e[i].available == e[i - 1].available && (kind < before || (kind == before && e[i].code < e[i - 1].code))))
            return damaged(f, err, "a patient's events are not in timeline order");
    }
    *out = (EventPatient){.subject = p.subject,
                          .observation_end = p.observation_end,
                          .split = p.split,
                          .n = n,
                          .event = e,
                          .first_event = first};
    return f->n_notes ? notes_mark(f, out, err) : OK;
}

Status event_file_text(EventFile *f, int64_t note, const char **text, size_t *n, Err *err) {
    struct EventFileImpl *x = f->impl;
    uint64_t at[2] = {0, 0};
    *text = "";
    *n = 0;
    if (note < 0 || note >= f->n_notes)
        return err_set(err, ERR_USAGE, "%s has %lld texts, none of number %lld", f->path, (long long)f->n_notes,
                       (long long)note);
    Status status = bytes_read(f, at, x->note_offsets.offset + 8 * note, sizeof at, err);
    if (status) return status;
    if (at[0] >= at[1] || at[1] > (uint64_t)f->note_bytes || at[1] - at[0] > EVENT_TEXT_MAX)
        return damaged(f, err, "its texts are not in order, or one is too long");
    *n = (size_t)(at[1] - at[0]);
    if (*n > x->text_capacity) {
        free(x->text);
        x->text_capacity = *n > 1 << 16 ? EVENT_TEXT_MAX : 1 << 16;
        x->text = xmalloc(x->text_capacity);
    }
    status = bytes_read(f, x->text, x->note_text.offset + (int64_t)at[0], (int64_t)*n, err);
    if (!status) *text = x->text;
    return status;
}

int64_t event_file_code(const EventFile *f, const char *code) {
    int64_t lo = 0, hi = f->n_codes;
    while (lo < hi) {
        int64_t mid = lo + (hi - lo) / 2;
        int c = strcmp(f->codes[mid], code);
        if (!c) return mid;
        if (c < 0) lo = mid + 1;
        else hi = mid;
    }
    return -1;
}
