/* oracle_file.c - see oracle_file.h. */
#include "data/oracle_file.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "data/event_format.h"
#include "data/h5.h"

enum { OFFSET_SLAB = 1 << 16, OUTCOMES_MAX = 64 };

struct OracleFileImpl {
    char *path;
    hid_t file, offsets, logp;
    uint64_t n_logp;
    uint64_t *offset; /* of the last oracle_file_events */
    float *value;
    size_t offset_room, value_room;
};

int oracle_file_present(const char *path) {
    h5_quiet();
    hid_t file = access(path, R_OK) ? -1 : H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    if (file < 0) return 0;
    int present = H5Lexists(file, "oracle_index", H5P_DEFAULT) > 0;
    H5Fclose(file);
    return present;
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

static int slab_io(hid_t set, hid_t type, hsize_t first, hsize_t n, void *data, int write) {
    hid_t space = H5Dget_space(set), mem = H5Screate_simple(1, &n, NULL);
    int bad = H5Sselect_hyperslab(space, H5S_SELECT_SET, &first, NULL, &n, NULL) < 0;
    if (!bad)
        bad = (write ? H5Dwrite(set, type, mem, space, H5P_DEFAULT, data)
                     : H5Dread(set, type, mem, space, H5P_DEFAULT, data)) < 0;
    H5Sclose(mem);
    H5Sclose(space);
    return bad;
}

/* Contiguous and unfiltered, as everything in an events file; data NULL: filled in by slabs. */
static Status dataset_write(hid_t file, const char *path, const char *name, hid_t type, int ndim, const hsize_t *dim,
                            const void *data, Err *err) {
    hid_t space = H5Screate_simple(ndim, dim, NULL), create = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_layout(create, H5D_CONTIGUOUS);
    H5Pset_alloc_time(create, H5D_ALLOC_TIME_EARLY);
    H5Pset_fill_time(create, H5D_FILL_TIME_NEVER);
    H5Pset_obj_track_times(create, 0);
    hid_t set = H5Dcreate2(file, name, type, space, H5P_DEFAULT, create, H5P_DEFAULT);
    int bad = set < 0 || (data && H5Dwrite(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) < 0);
    if (set >= 0) bad |= H5Dclose(set) < 0;
    H5Pclose(create);
    H5Sclose(space);
    return bad ? err_set(err, ERR_IO, "cannot write /%s to %s (disk full?)", name, path) : OK;
}

static Status offsets_write(hid_t file, const OracleFileContent *c, const char *path, Err *err) {
    hsize_t n = (hsize_t)c->n_events + 1;
    Status status = dataset_write(file, path, "oracle_offsets", H5T_STD_U64LE, 1, &n, NULL, err);
    if (status) return status;
    hid_t set = H5Dopen2(file, "oracle_offsets", H5P_DEFAULT);
    uint64_t *slab = xmalloc(OFFSET_SLAB * sizeof *slab), at = 0;
    int bad = set < 0;
    for (hsize_t first = 0; !bad && first < n; first += OFFSET_SLAB) {
        hsize_t rows = n - first < OFFSET_SLAB ? n - first : OFFSET_SLAB;
        for (hsize_t i = 0; i < rows; i++) {
            slab[i] = at;
            if (first + i < (hsize_t)c->n_events) at += c->count[first + i];
        }
        bad = slab_io(set, H5T_NATIVE_UINT64, first, rows, slab, 1);
    }
    REQUIRE(bad || at == (uint64_t)c->n_logp);
    free(slab);
    if (set >= 0) H5Dclose(set);
    return bad ? err_set(err, ERR_IO, "cannot write /oracle_offsets to %s (disk full?)", path) : OK;
}

static Status outcomes_write(hid_t file, const OracleFileContent *c, const char *path, Err *err) {
    size_t size = 1;
    for (int i = 0; i < c->n_outcomes; i++) size += strlen(c->outcome[i].name) + strlen(c->outcome[i].pattern) + 2;
    char *names = xcalloc(size, 1), *patterns = xcalloc(size, 1);
    for (int i = 0; i < c->n_outcomes; i++) {
        strcat(strcat(names, i ? "\n" : ""), c->outcome[i].name);
        strcat(strcat(patterns, i ? "\n" : ""), c->outcome[i].pattern);
    }
    hid_t set = H5Dopen2(file, "oracle_risk", H5P_DEFAULT);
    Status status = set < 0 ? err_set(err, ERR_IO, "cannot reopen /oracle_risk of %s", path) : OK;
    if (!status) status = h5_write_text(set, path, "names", names, err);
    if (!status) status = h5_write_text(set, path, "patterns", patterns, err);
    if (!status) status = h5_write_int(set, path, "samples", c->samples, err);
    if (!status) status = h5_write_int(set, path, "seed", (int64_t)c->seed, err);
    for (int i = 0; !status && i < c->n_outcomes; i++) {
        char key[32];
        snprintf(key, sizeof key, "horizon_minutes_%d", i);
        status = h5_write_int(set, path, key, c->outcome[i].horizon_minutes, err);
    }
    if (set >= 0) H5Dclose(set);
    free(names);
    free(patterns);
    return status;
}

static Status datasets_write(const OracleFileContent *c, const char *path, Err *err) {
    h5_quiet();
    hid_t access_list = H5Pcreate(H5P_FILE_ACCESS);
    H5Pset_libver_bounds(access_list, H5F_LIBVER_V18, H5F_LIBVER_V18);
    H5Pset_alignment(access_list, 1, 64);
    hid_t file = H5Fopen(path, H5F_ACC_RDWR, access_list);
    H5Pclose(access_list);
    if (file < 0) return err_set(err, ERR_IO, "cannot reopen %s to add the oracle's data", path);
    hsize_t events[1] = {(hsize_t)c->n_logp}, patients[1] = {(hsize_t)c->n_patients};
    hsize_t risk[3] = {(hsize_t)c->n_patients, (hsize_t)c->n_outcomes, 2};
    Status status = offsets_write(file, c, path, err);
    if (!status) status = dataset_write(file, path, "oracle_logp", H5T_NATIVE_FLOAT, 1, events, c->logp, err);
    if (!status) status = dataset_write(file, path, "oracle_index", H5T_NATIVE_INT64, 1, patients, c->index, err);
    if (!status) status = dataset_write(file, path, "oracle_risk", H5T_NATIVE_DOUBLE, 3, risk, c->risk, err);
    if (!status) status = outcomes_write(file, c, path, err);
    if (H5Fclose(file) < 0 && !status) status = err_set(err, ERR_IO, "cannot finish %s (disk full?)", path);
    return status;
}

/* HDF5 1.10 frees its own state twice when a disk is full as it closes a file: the space is taken before it begins.  It
 * cuts the file to size at the end. */
static Status space_reserve(const OracleFileContent *c, const char *path, int64_t size, Err *err) {
    int64_t more =
        (1 << 20) + 8 * (c->n_events + 1) + 4 * c->n_logp + c->n_patients * (8 + 16 * (int64_t)c->n_outcomes);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    int why = fd < 0 ? errno : posix_fallocate(fd, size, more);
    if (fd >= 0) close(fd);
    return why ? err_set(err, ERR_IO, "no room for another %lld bytes in %s: %s", (long long)more, path, strerror(why))
               : OK;
}

/* The seal is the last thing in an events file: off before HDF5 writes, and a new one on after. */
Status oracle_file_write(const OracleFileContent *c, const char *path, Err *err) {
    struct stat st;
    unsigned char seal[EVENT_SEAL];
    if (stat(path, &st) || st.st_size < EVENT_SEAL || truncate(path, st.st_size - EVENT_SEAL))
        return err_set(err, ERR_IO, "cannot unseal %s: %s", path, strerror(errno));
    Status status = space_reserve(c, path, st.st_size - EVENT_SEAL, err);
    if (!status) status = datasets_write(c, path, err);
    if (status) return status;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st)) status = err_set(err, ERR_IO, "cannot read %s back: %s", path, strerror(errno));
    if (!status) status = event_seal_compute(fd, path, st.st_size, 0, seal, NULL, err);
    if (!status && (pwrite(fd, seal, sizeof seal, st.st_size) != (ssize_t)sizeof seal || fsync(fd)))
        status = err_set(err, ERR_IO, "cannot seal %s: %s", path, strerror(errno));
    if (fd >= 0) close(fd);
    return status;
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

static Status bad_shape(const char *path, const char *name, Err *err) {
    return err_set(err, ERR_FORMAT,
                   "%s: /%s does not fit the events beside it; make the cohort again with `ehr-data synth`", path,
                   name);
}

static Status whole_read(OracleFile *f, const char *name, hid_t type, int ndim, const hsize_t *want, void **out,
                         size_t item, Err *err) {
    hsize_t dim[3];
    hid_t set;
    Status status = h5_open_dataset(&set, f->impl->file, f->impl->path, name, ndim, dim, err);
    if (status) return status;
    size_t n = 1;
    for (int i = 0; i < ndim; i++) {
        if (dim[i] != want[i]) status = bad_shape(f->impl->path, name, err);
        n *= (size_t)want[i];
    }
    if (!status && !(*out = try_calloc(n ? n : 1, item)))
        status = err_set(err, ERR_NOMEM, "%s: no memory for /%s", f->impl->path, name);
    if (!status && H5Dread(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, *out) < 0)
        status = err_set(err, ERR_IO, "%s: /%s cannot be read (damaged?)", f->impl->path, name);
    H5Dclose(set);
    return status;
}

static int split_lines(char *text, char **line, int max) {
    int n = 0;
    for (char *save = NULL, *s = strtok_r(text, "\n", &save); s && n < max; s = strtok_r(NULL, "\n", &save))
        line[n++] = s;
    return n;
}

static Status outcomes_read(OracleFile *f, Err *err) {
    const char *path = f->impl->path;
    char *names = NULL, *patterns = NULL, *name[OUTCOMES_MAX], *pattern[OUTCOMES_MAX];
    hsize_t dim[3];
    hid_t set;
    Status status = h5_open_dataset(&set, f->impl->file, path, "oracle_risk", 3, dim, err);
    if (status) return status;
    status = h5_read_text(set, path, "names", &names, err);
    if (!status) status = h5_read_text(set, path, "patterns", &patterns, err);
    int n = status ? 0 : split_lines(names, name, OUTCOMES_MAX);
    if (!status && (dim[1] != (hsize_t)n || split_lines(patterns, pattern, OUTCOMES_MAX) != n))
        status = bad_shape(path, "oracle_risk", err);
    f->outcome = xcalloc((size_t)n + 1, sizeof *f->outcome);
    for (int i = 0; !status && i < n; i++) {
        char key[32];
        snprintf(key, sizeof key, "horizon_minutes_%d", i);
        f->outcome[i].name = xstrdup(name[i]);
        f->outcome[i].pattern = xstrdup(pattern[i]);
        f->n_outcomes = i + 1;
        status = h5_read_int(set, path, key, &f->outcome[i].horizon_minutes, err);
    }
    free(names);
    free(patterns);
    H5Dclose(set);
    return status;
}

Status oracle_file_open(OracleFile *f, const char *path, int64_t n_patients, int64_t n_events, Err *err) {
    memset(f, 0, sizeof *f);
    f->n_patients = n_patients;
    f->n_events = n_events;
    f->impl = xcalloc(1, sizeof *f->impl);
    f->impl->path = xstrdup(path);
    f->impl->file = f->impl->offsets = f->impl->logp = -1;
    hsize_t dim[1] = {0}, patients[1] = {(hsize_t)n_patients};
    Status status = h5_open(&f->impl->file, path, err);
    if (!status) status = h5_open_dataset(&f->impl->offsets, f->impl->file, path, "oracle_offsets", 1, dim, err);
    if (!status && dim[0] != (hsize_t)n_events + 1) status = bad_shape(path, "oracle_offsets", err);
    if (!status) status = h5_open_dataset(&f->impl->logp, f->impl->file, path, "oracle_logp", 1, dim, err);
    f->impl->n_logp = dim[0];
    if (!status)
        status =
            whole_read(f, "oracle_index", H5T_NATIVE_INT64, 1, patients, (void **)&f->index, sizeof *f->index, err);
    if (!status) status = outcomes_read(f, err);
    hsize_t risk[3] = {(hsize_t)n_patients, (hsize_t)f->n_outcomes, 2};
    if (!status)
        status = whole_read(f, "oracle_risk", H5T_NATIVE_DOUBLE, 3, risk, (void **)&f->risk, sizeof *f->risk, err);
    for (int64_t i = 0; !status && i < 2 * n_patients * f->n_outcomes; i++)
        if (!(isnan(f->risk[i]) || (f->risk[i] >= 0 && f->risk[i] <= 1)))
            status = err_set(err, ERR_FORMAT, "%s: /oracle_risk holds %g, which is no probability (damaged?)", path,
                             f->risk[i]);
    if (status) oracle_file_close(f);
    return status;
}

void oracle_file_close(OracleFile *f) {
    if (f->impl) {
        if (f->impl->offsets >= 0) H5Dclose(f->impl->offsets);
        if (f->impl->logp >= 0) H5Dclose(f->impl->logp);
        if (f->impl->file >= 0) H5Fclose(f->impl->file);
        free(f->impl->path);
        free(f->impl->offset);
        free(f->impl->value);
        free(f->impl);
    }
    for (int i = 0; i < f->n_outcomes; i++) {
        free(f->outcome[i].name);
        free(f->outcome[i].pattern);
    }
    free(f->outcome);
    free(f->index);
    free(f->risk);
    memset(f, 0, sizeof *f);
}

static void *room(void *p, size_t *have, size_t want, size_t item) {
    if (want <= *have) return p;
    *have = want * 2;
    return xrealloc(p, *have * item);
}

Status oracle_file_events(OracleFile *f, int64_t first, int64_t n, const uint64_t **offsets, const float **logp,
                          Err *err) {
    struct OracleFileImpl *x = f->impl;
    REQUIRE(first >= 0 && n >= 0 && first + n <= f->n_events);
    x->offset = room(x->offset, &x->offset_room, (size_t)n + 1, sizeof *x->offset);
    if (slab_io(x->offsets, H5T_NATIVE_UINT64, (hsize_t)first, (hsize_t)n + 1, x->offset, 0))
        return err_set(err, ERR_IO, "%s: /oracle_offsets cannot be read (damaged?)", x->path);
    uint64_t begin = x->offset[0];
    for (int64_t i = 0; i <= n; i++) {
        if (x->offset[i] > x->n_logp || (i && x->offset[i] < x->offset[i - 1]))
            return err_set(err, ERR_FORMAT, "%s: /oracle_offsets do not ascend at event %lld (damaged?)", x->path,
                           (long long)(first + i));
    }
    uint64_t count = x->offset[n] - begin;
    for (int64_t i = 0; i <= n; i++) x->offset[i] -= begin;
    x->value = room(x->value, &x->value_room, (size_t)count + 1, sizeof *x->value);
    if (count && slab_io(x->logp, H5T_NATIVE_FLOAT, (hsize_t)begin, (hsize_t)count, x->value, 0))
        return err_set(err, ERR_IO, "%s: /oracle_logp cannot be read (damaged?)", x->path);
    *offsets = x->offset;
    *logp = x->value;
    return OK;
}
