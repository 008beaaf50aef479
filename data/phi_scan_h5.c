/* phi_scan_h5.c - the strings of an HDF5 file: every text attribute and every dataset of strings.  Of our own formats
 * also what numbers say: times of an events file that are calendar times, ids of the source, free texts, in a shard
 * those that its tokens spell. */
#include "data/event.h"
#include "data/h5.h"
#include "data/note_text.h"
#include "data/phi_scan_report.h"
#include "data/shard.h"
#include <stdlib.h>
#include <string.h>

enum { SLICE_BYTES = 1 << 20, STRING_MAX_BYTES = 64 << 20 };

typedef struct {
    PhiFile *f;
    const char *path;
    int failed, nested; /* some text cannot be read; some lies within other types, or is too large */
} Visit;

/* Text in the fields of a compound, in arrays and the like, which is not searched. */
static int is_nested(hid_t type) {
    return H5Tget_class(type) != H5T_STRING && H5Tdetect_class(type, H5T_STRING) > 0;
}

/* n strings of `size` bytes each (fixed length), or n pointers. */
static void look(Visit *v, const char *place, const char *data, hid_t type, int64_t first, int64_t n) {
    if (H5Tis_variable_str(type) > 0) {
        char *const *item = (char *const *)data;
        for (int64_t i = 0; i < n; i++)
            if (item[i]) phi_file_text(v->f, place, item[i], strlen(item[i]), first + i + 1);
        return;
    }
    size_t size = H5Tget_size(type);
    for (int64_t i = 0; i < n; i++) {
        const char *text = data + (size_t)i * size;
        phi_file_text(v->f, place, text, strnlen(text, size), first + i + 1);
    }
}

static herr_t visit_attribute(hid_t object, const char *name, const H5A_info_t *info, void *visit) {
    (void)info;
    Visit *v = visit;
    hid_t attr = H5Aopen(object, name, H5P_DEFAULT), type = H5Aget_type(attr), space = H5Aget_space(attr);
    hssize_t n = H5Sget_simple_extent_npoints(space);
    size_t size = H5Tget_size(type);
    const int text = H5Tget_class(type) == H5T_STRING && n > 0 && size;
    if (is_nested(type)) v->nested = 1;
    if (text && size > STRING_MAX_BYTES / (size_t)n) v->failed = 1;
    else if (text) {
        char *data = try_calloc((size_t)n, size), *place = xasprintf("attribute %s", name);
        if (!data || H5Aread(attr, type, data) < 0) v->failed = 1;
        else {
            look(v, place, data, type, 0, n);
            v->f->r->bytes += (int64_t)size * n;
            if (H5Tis_variable_str(type) > 0) H5Dvlen_reclaim(type, space, H5P_DEFAULT, data);
        }
        free(place);
        free(data);
    }
    H5Sclose(space);
    H5Tclose(type);
    H5Aclose(attr);
    return 0;
}

static void visit_strings(Visit *v, hid_t set, const char *name, hid_t type) {
    hid_t space = H5Dget_space(set);
    hsize_t dims[1] = {0};
    size_t size = H5Tget_size(type);
    char *place = xasprintf("/%s", name);
    int64_t slice = size && size < SLICE_BYTES ? (int64_t)(SLICE_BYTES / size) : 1;
    if (H5Sget_simple_extent_ndims(space) != 1 || size > STRING_MAX_BYTES) v->failed = 1;
    else H5Sget_simple_extent_dims(space, dims, NULL);
    char *data = dims[0] ? try_calloc((size_t)slice, size) : NULL;
    if (dims[0] && !data) v->failed = 1;
    for (hsize_t at = 0; data && at < dims[0] && !v->failed; at += (hsize_t)slice) {
        hsize_t n[1] = {dims[0] - at < (hsize_t)slice ? dims[0] - at : (hsize_t)slice}, start[1] = {at};
        hid_t memory = H5Screate_simple(1, n, NULL);
        if (H5Sselect_hyperslab(space, H5S_SELECT_SET, start, NULL, n, NULL) < 0 ||
            H5Dread(set, type, memory, space, H5P_DEFAULT, data) < 0)
            v->failed = 1;
        else {
            look(v, place, data, type, (int64_t)at, (int64_t)n[0]);
            v->f->r->bytes += (int64_t)(size * n[0]);
            if (H5Tis_variable_str(type) > 0) H5Dvlen_reclaim(type, memory, H5P_DEFAULT, data);
        }
        H5Sclose(memory);
    }
    free(data);
    free(place);
    H5Sclose(space);
}

static herr_t visit_object(hid_t root, const char *name, const H5O_info_t *info, void *visit) {
    Visit *v = visit;
    hid_t object = H5Oopen(root, name, H5P_DEFAULT);
    if (object < 0) {
        v->failed = 1;
        return 0;
    }
    hsize_t at = 0;
    H5Aiterate2(object, H5_INDEX_NAME, H5_ITER_INC, &at, visit_attribute, v);
    if (info->type == H5O_TYPE_DATASET) {
        hid_t type = H5Dget_type(object);
        if (type >= 0 && is_nested(type)) v->nested = 1;
        if (type >= 0 && H5Tget_class(type) == H5T_STRING) visit_strings(v, object, name, type);
        if (type >= 0) H5Tclose(type);
    }
    H5Oclose(object);
    return 0;
}

/* ---- our own formats --------------------------------------------------------------------------------------------- */

static Status look_events(PhiFile *file, const char *path, Err *err) {
    EventFile f;
    Status    status = event_file_open(&f, path, err);
    if (status) return status;
    if (!event_file_is_relative(&f) && strcmp(f.source, "oracle")) {
        if (f.n_patients) phi_file_add(file, "/subject_id, ids of the source", PHI_NUMBER, 1, f.n_patients);
        if (f.n_events) phi_file_add(file, "/time, calendar times", PHI_DATE, 1, f.n_events);
    }
    for (int64_t i = 0; i < f.n_notes && !status; i++) {
        const char *text;
        size_t      n;
        status = event_file_text(&f, i, &text, &n, err);
        if (status) break;
        phi_file_text(file, "/note_text", text, n, i + 1);
        file->r->bytes += (int64_t)n;
    }
    event_file_close(&f);
    return status;
}

/* Notes of a shard, by the vocabulary beside it; row: patient in the shard, from 1. */
static Status look_shard(PhiFile *file, const char *path, Err *err) {
    const char *slash = strrchr(path, '/');
    char       *beside = xasprintf("%.*svocabulary.json", slash ? (int)(slash - path + 1) : 0, path);
    Vocabulary  v;
    Shard       s;
    NoteText    note = {0};
    Status      status = vocabulary_load(&v, beside, err);
    free(beside);
    if (status) return err_context(err, "%s: what its tokens spell cannot be read", path);
    if (v.text_begin >= 0 && !(status = shard_open(&s, path, err))) {
        for (int64_t p = 0; p < s.n_patients; p++)
            for (uint64_t i = s.offsets[p]; i < s.offsets[p + 1]; i++) {
                uint32_t id = s.wide ? ((const uint32_t *)s.tokens)[i] : ((const uint16_t *)s.tokens)[i];
                if (id >= (uint32_t)v.n || note_text_take(&note, &v, (int)id) != NOTE_WHOLE) continue;
                phi_file_text(file, "a note in tokens", note.text, note.n, p + 1);
            }
        shard_close(&s);
    }
    note_text_free(&note);
    vocabulary_free(&v);
    return status;
}

static void look_table(PhiFile *file, hid_t h5) {
    hid_t    set = H5Lexists(h5, "subject_id", H5P_DEFAULT) > 0 ? H5Dopen2(h5, "subject_id", H5P_DEFAULT) : -1;
    hid_t    space = set >= 0 ? H5Dget_space(set) : -1;
    hssize_t n = space >= 0 ? H5Sget_simple_extent_npoints(space) : 0;
    if (n > 0) phi_file_add(file, "/subject_id of a linkage", PHI_NUMBER, 1, n);
    if (space >= 0) H5Sclose(space);
    if (set >= 0) H5Dclose(set);
}

Status phi_scan_h5(PhiFile *f, const char *path, Err *err) {
    hid_t file;
    Visit v = {f, path, 0, 0};
    h5_quiet();
    Status status = h5_open(&file, path, err);
    if (status) return status;
    char *format = h5_format(path);
    H5E_BEGIN_TRY {
        if (H5Ovisit(file, H5_INDEX_NAME, H5_ITER_INC, visit_object, &v) < 0) v.failed = 1;
    }
    H5E_END_TRY
    if (format && !strcmp(format, "ehr.c table")) look_table(f, file);
    H5Fclose(file);
    if (format && !strcmp(format, "ehr.c events")) status = look_events(f, path, err);
    if (format && !strcmp(format, SHARD_FORMAT)) status = look_shard(f, path, err);
    free(format);
    if (status) return status;
    if (v.nested && !v.failed)
        return err_set(err, ERR_FORMAT, "%s: text within compound or array types is not searched: write it as plain strings, "
                       "or as CSV, and search that", path);
    return v.failed ? err_set(err, ERR_FORMAT, "%s: some of its strings cannot be read (damaged?)", path) : OK;
}
