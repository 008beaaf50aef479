/* h5.c - see h5.h. */
#include "data/h5.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* HDF5's clean-up at exit crashes on a file that a full disk kept it from closing.  Ours are closed by then, or
 * removed; and it can be told so only before any other call of it. */
__attribute__((constructor)) static void h5_leave_exit_alone(void) { H5dont_atexit(); }

/* ---- writing ---------------------------------------------------------------------------------------------------- */

Status h5_probe(const char *path, int64_t bytes, int64_t text, Err *err) {
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) return err_set(err, ERR_IO, "cannot create %s: %s", path, strerror(errno));
    int64_t structure = (1 << 18) + 2 * text;
    char *zero = xcalloc((size_t)structure, 1);
    Status status = h5_write_at(fd, path, zero, (size_t)structure, 0, err);
    if (!status && (ftruncate(fd, (off_t)(bytes + structure)) || fsync(fd)))
        status = err_set(err, ERR_IO, "cannot write %s: %s", path, strerror(errno));
    free(zero);
    close(fd);
    return status;
}

Status h5_create(hid_t *file, const char *path, Err *err) {
    h5_quiet();
    hid_t access = H5Pcreate(H5P_FILE_ACCESS), create = H5Pcreate(H5P_FILE_CREATE);
    /* The 1.8 format: object headers carry checksums, and readers since 2008 know it. */
    H5Pset_libver_bounds(access, H5F_LIBVER_V18, H5F_LIBVER_V18);
    H5Pset_alignment(access, 1, 64);
    H5Pset_obj_track_times(create, 0);
    H5Pset_link_creation_order(create, H5P_CRT_ORDER_TRACKED | H5P_CRT_ORDER_INDEXED);
    H5Pset_attr_creation_order(create, H5P_CRT_ORDER_TRACKED | H5P_CRT_ORDER_INDEXED);
    errno = 0;
    *file = H5Fcreate(path, H5F_ACC_TRUNC, create, access);
    int why = errno;
    H5Pclose(access);
    H5Pclose(create);
    return *file < 0 ? err_set(err, ERR_IO, "cannot create %s: %s", path, why ? strerror(why) : "HDF5 failed") : OK;
}

Status h5_place_dataset(hid_t file, const char *path, const char *name, hid_t type, int ndim, const hsize_t *dim,
                        int64_t *place, Err *err) {
    hid_t space = H5Screate_simple(ndim, dim, NULL), create = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_layout(create, H5D_CONTIGUOUS);
    H5Pset_alloc_time(create, H5D_ALLOC_TIME_EARLY);
    H5Pset_fill_time(create, H5D_FILL_TIME_NEVER);
    H5Pset_obj_track_times(create, 0);
    hid_t set = H5Dcreate2(file, name, type, space, H5P_DEFAULT, create, H5P_DEFAULT);
    H5Pclose(create);
    H5Sclose(space);
    int empty = 0, bad = set < 0;
    for (int i = 0; i < ndim; i++) empty |= dim[i] == 0;
    haddr_t at = bad || empty ? 0 : H5Dget_offset(set);
    if (set >= 0) bad |= H5Dclose(set) < 0;
    bad |= at == HADDR_UNDEF;
    *place = bad ? 0 : (int64_t)at;
    return bad ? err_set(err, ERR_IO, "cannot make room for /%s in %s: HDF5 failed", name, path) : OK;
}

Status h5_write_at(int fd, const char *path, const void *data, size_t size, int64_t place, Err *err) {
    const char *p = data;
    while (size) {
        ssize_t n = pwrite(fd, p, size, (off_t)place);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0)
            return err_set(err, ERR_IO, "cannot write %s: %s", path, n ? strerror(errno) : "the disk takes no more");
        p += n;
        place += n;
        size -= (size_t)n;
    }
    return OK;
}

Status h5_publish(int fd, const char *tmp, const char *path, Status status, Err *err) {
    if (!status && fsync(fd)) status = err_set(err, ERR_IO, "cannot write %s: %s", tmp, strerror(errno));
    if (fd >= 0 && close(fd) && !status) status = err_set(err, ERR_IO, "cannot write %s: %s", tmp, strerror(errno));
    if (!status) status = file_publish(tmp, path, err);
    if (status) unlink(tmp);
    return status;
}

/* ---- reading ---------------------------------------------------------------------------------------------------- */

Status h5_open(hid_t *file, const char *path, Err *err) {
    h5_quiet();
    *file = -1;
    struct stat st;
    if (access(path, R_OK) || stat(path, &st)) return err_set(err, ERR_IO, "cannot read %s: %s", path, strerror(errno));
    if (S_ISFIFO(st.st_mode)) return err_set(err, ERR_FORMAT, "%s is a pipe, a file was expected", path);
    *file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    return *file < 0 ? err_set(err, ERR_FORMAT, "%s is not a whole HDF5 file (truncated or damaged?)", path) : OK;
}

static const char *dataset_flaw(hid_t set, int ndim, hsize_t *dim) {
    hid_t create = H5Dget_create_plist(set), space = H5Dget_space(set);
    const char *flaw = NULL;
    if (create < 0 || space < 0) flaw = "its description cannot be read";
    else if (H5Pget_layout(create) != H5D_CONTIGUOUS) flaw = "it is not contiguous";
    else if (H5Pget_nfilters(create) != 0) flaw = "it is filtered";
    else if (H5Pget_external_count(create) != 0) flaw = "its data lie in another file";
    else if (H5Sget_simple_extent_type(space) != H5S_SIMPLE || H5Sget_simple_extent_ndims(space) != ndim)
        flaw = "it has the wrong number of dimensions";
    else if (H5Sget_simple_extent_dims(space, dim, NULL) != ndim) flaw = "its size cannot be read";
    if (create >= 0) H5Pclose(create);
    if (space >= 0) H5Sclose(space);
    return flaw;
}

Status h5_open_dataset(hid_t *out, hid_t file, const char *path, const char *name, int ndim, hsize_t *dim, Err *err) {
    H5L_info_t link;
    *out = -1;
    if (H5Lexists(file, name, H5P_DEFAULT) <= 0 || H5Lget_info(file, name, &link, H5P_DEFAULT) < 0)
        return err_set(err, ERR_FORMAT, "%s has no dataset /%s", path, name);
    if (link.type != H5L_TYPE_HARD)
        return err_set(err, ERR_FORMAT, "%s: /%s is a link to elsewhere, which is refused", path, name);
    hid_t set = H5Dopen2(file, name, H5P_DEFAULT);
    if (set < 0) return err_set(err, ERR_FORMAT, "%s: /%s cannot be opened (damaged?)", path, name);
    const char *flaw = dataset_flaw(set, ndim, dim);
    if (flaw) {
        H5Dclose(set);
        return err_set(err, ERR_FORMAT, "%s: /%s is refused: %s", path, name, flaw);
    }
    *out = set;
    return OK;
}

Status h5_write_text(hid_t object, const char *path, const char *name, const char *text, Err *err) {
    hid_t type = H5Tcopy(H5T_C_S1), space = H5Screate(H5S_SCALAR);
    size_t n = strlen(text);
    H5Tset_size(type, n ? n : 1);
    H5Tset_strpad(type, H5T_STR_NULLPAD);
    H5Tset_cset(type, H5T_CSET_UTF8);
    hid_t a = H5Acreate2(object, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    int bad = a < 0 || H5Awrite(a, type, text) < 0;
    if (a >= 0) bad |= H5Aclose(a) < 0;
    H5Sclose(space);
    H5Tclose(type);
    return bad ? err_set(err, ERR_IO, "cannot write attribute %s to %s (disk full?)", name, path) : OK;
}

static char *read_text(hid_t a, hid_t type, hid_t space) {
    if (H5Tget_class(type) != H5T_STRING || H5Sget_simple_extent_npoints(space) != 1) return NULL;
    if (H5Tis_variable_str(type) > 0) { /* as h5py writes them */
        char *s = NULL, *copy = NULL;
        if (H5Aread(a, type, &s) >= 0 && s) {
            copy = xstrdup(s);
            H5free_memory(s);
        }
        return copy;
    }
    size_t n = H5Tget_size(type);
    char *s = n < SIZE_MAX ? try_calloc(n + 1, 1) : NULL;
    if (s && H5Aread(a, type, s) < 0) {
        free(s);
        s = NULL;
    }
    return s;
}

Status h5_read_text(hid_t object, const char *path, const char *name, char **out, Err *err) {
    *out = NULL;
    if (H5Aexists(object, name) <= 0) return err_set(err, ERR_FORMAT, "%s has no attribute %s", path, name);
    hid_t a = H5Aopen(object, name, H5P_DEFAULT);
    hid_t type = a >= 0 ? H5Aget_type(a) : -1, space = a >= 0 ? H5Aget_space(a) : -1;
    if (type >= 0 && space >= 0) *out = read_text(a, type, space);
    if (space >= 0) H5Sclose(space);
    if (type >= 0) H5Tclose(type);
    if (a >= 0) H5Aclose(a);
    return *out ? OK : err_set(err, ERR_FORMAT, "%s: attribute %s is not text", path, name);
}

Status h5_write_int(hid_t object, const char *path, const char *name, int64_t value, Err *err) {
    hid_t space = H5Screate(H5S_SCALAR);
    hid_t a = H5Acreate2(object, name, H5T_STD_I64LE, space, H5P_DEFAULT, H5P_DEFAULT);
    int bad = a < 0 || H5Awrite(a, H5T_NATIVE_INT64, &value) < 0;
    if (a >= 0) bad |= H5Aclose(a) < 0;
    H5Sclose(space);
    return bad ? err_set(err, ERR_IO, "cannot write attribute %s to %s (disk full?)", name, path) : OK;
}

Status h5_read_int(hid_t object, const char *path, const char *name, int64_t *out, Err *err) {
    if (H5Aexists(object, name) <= 0) return err_set(err, ERR_FORMAT, "%s has no attribute %s", path, name);
    hid_t a = H5Aopen(object, name, H5P_DEFAULT);
    hid_t type = a >= 0 ? H5Aget_type(a) : -1, space = a >= 0 ? H5Aget_space(a) : -1;
    int bad = type < 0 || space < 0 || H5Tget_class(type) != H5T_INTEGER || H5Sget_simple_extent_npoints(space) != 1 ||
              H5Aread(a, H5T_NATIVE_INT64, out) < 0;
    if (space >= 0) H5Sclose(space);
    if (type >= 0) H5Tclose(type);
    if (a >= 0) H5Aclose(a);
    return bad ? err_set(err, ERR_FORMAT, "%s: attribute %s is not a number", path, name) : OK;
}

char *h5_format(const char *path) {
    hid_t file;
    char *format = NULL;
    Err ignored;
    if (H5Fis_hdf5(path) > 0 && !h5_open(&file, path, &ignored)) {
        if (h5_read_text(file, path, "format", &format, &ignored)) format = NULL;
        H5Fclose(file);
    }
    return format;
}

int h5_is_events(const char *path) {
    if (!path_exists(path) || path_is_dir(path)) return 0;
    size_t n = strlen(path);
    char *format = h5_format(path);
    int events = format ? !strcmp(format, "ehr.c events") : n > 3 && !strcmp(path + n - 3, ".h5");
    free(format);
    return events;
}
