/* archive.c - see archive.h. */
#include "data/archive.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zip.h>
#include <zlib.h>

static int entry_compare(const void *a, const void *b) {
    return strcmp(((const ArchiveEntry *)a)->name, ((const ArchiveEntry *)b)->name);
}

static const char *base_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static void entry_add(Archive *a, const char *name, int64_t size, int64_t index, int64_t changed) {
    if (!(a->n & (a->n - 1))) a->entry = xrealloc(a->entry, (size_t)(a->n ? 2 * a->n : 1) * sizeof *a->entry);
    a->entry[a->n++] = (ArchiveEntry){xstrdup(name), size, index, changed};
}

static int64_t changed_ns(const struct stat *st) {
    return (int64_t)st->st_mtim.tv_sec * 1000000000 + st->st_mtim.tv_nsec;
}

/* A file that is read on its own, by its name. */
static int is_single(const char *path) {
    static const char *const endings[] = {".json", ".ndjson", ".jsonl", ".json.gz", ".ndjson.gz", ".jsonl.gz"};
    size_t n = strlen(path);
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
        size_t m = strlen(endings[i]);
        if (n > m && !strcasecmp(path + n - m, endings[i])) return 1;
    }
    return 0;
}

/* The folder becomes the archive, the file its only entry. */
static Status single_list(Archive *a, Err *err) {
    struct stat st;
    if (stat(a->path, &st)) return err_set(err, ERR_IO, "cannot read %s: %s", a->path, strerror(errno));
    char *slash = strrchr(a->path, '/');
    entry_add(a, base_name(a->path), (int64_t)st.st_size, 0, changed_ns(&st));
    if (slash) *slash = 0;
    char *folder = xstrdup(!slash ? "." : *a->path ? a->path : "/");
    free(a->path);
    a->path = folder;
    return OK;
}

/* prefix: "" or "hosp/" */
static Status folder_list(Archive *a, const char *prefix, Err *err) {
    char *path = xasprintf("%s/%s", a->path, prefix);
    DIR *dir = opendir(path);
    Status status = dir ? OK : err_set(err, ERR_IO, "cannot read folder %s: %s", path, strerror(errno));
    for (struct dirent *d; dir && (d = readdir(dir)) && a->n < ARCHIVE_ENTRIES_MAX;) {
        struct stat st;
        if (d->d_name[0] == '.' || fstatat(dirfd(dir), d->d_name, &st, 0) || !S_ISREG(st.st_mode)) continue;
        char *name = xasprintf("%s%s", prefix, d->d_name);
        entry_add(a, name, (int64_t)st.st_size, 0, changed_ns(&st));
        free(name);
    }
    if (dir) closedir(dir);
    free(path);
    return status;
}

/* A path that would leave the folder it is unpacked in.  We never unpack, but such an archive was made to harm. */
static int escapes(const char *name) {
    if (name[0] == '/' || name[0] == '\\' || (name[0] && name[1] == ':')) return 1;
    for (const char *p = name; *p; p += strcspn(p, "/\\"), p += *p != 0)
        if (!strncmp(p, "..", 2) && (!p[2] || p[2] == '/' || p[2] == '\\')) return 1;
    return 0;
}

static Status ratio_check(const Archive *a, const char *what, uint64_t size, uint64_t packed, Err *err) {
    if (size <= ARCHIVE_SMALL || size / ARCHIVE_RATIO_MAX <= packed) return OK;
    return err_set(err, ERR_FORMAT,
                   "%s: %s would unpack to %llu bytes from %llu (more than %d times): it looks like a zip bomb; "
                   "if it is not, unpack it yourself and import the folder",
                   a->path, what, (unsigned long long)size, (unsigned long long)packed, ARCHIVE_RATIO_MAX);
}

static Status zip_entry_add(Archive *a, zip_int64_t i, Err *err) {
    zip_stat_t st;
    if (zip_stat_index(a->zip, (zip_uint64_t)i, 0, &st))
        return err_set(err, ERR_FORMAT, "%s is damaged: %s", a->path, zip_strerror(a->zip));
    size_t length = strlen(st.name);
    if (escapes(st.name))
        return err_set(err, ERR_FORMAT,
                       "%s has an entry named %.200s, which points outside the archive; it was not made by an "
                       "export and is refused",
                       a->path, st.name);
    if (!length || st.name[length - 1] == '/' || !strncmp(st.name, "__MACOSX/", 9) || strstr(st.name, "/__MACOSX/") ||
        base_name(st.name)[0] == '.')
        return OK;
    if ((st.valid & ZIP_STAT_ENCRYPTION_METHOD) && st.encryption_method != ZIP_EM_NONE)
        return err_set(err, ERR_FORMAT, "%s: entry %.200s is encrypted; unpack it yourself and import the folder",
                       a->path, st.name);
    if (st.size > INT64_MAX)
        return err_set(err, ERR_FORMAT, "%s: entry %.200s has an impossible size", a->path, st.name);
    entry_add(a, st.name, (int64_t)st.size, i, 0);
    return ratio_check(a, st.name, st.size, st.comp_size, err);
}

static Status zip_list(Archive *a, Err *err) {
    int code = 0;
    struct stat st;
    a->zip = zip_open(a->path, ZIP_RDONLY, &code);
    if (!a->zip || stat(a->path, &st)) {
        zip_error_t e;
        zip_error_init_with_code(&e, code);
        Status status =
            err_set(err, ERR_FORMAT, "%s is neither a folder nor a readable .zip: %s", a->path, zip_error_strerror(&e));
        zip_error_fini(&e);
        return status;
    }
    zip_int64_t n = zip_get_num_entries(a->zip, 0);
    if (n > ARCHIVE_ENTRIES_MAX)
        return err_set(err, ERR_FORMAT, "%s has %lld entries, at most %d were expected", a->path, (long long)n,
                       ARCHIVE_ENTRIES_MAX);
    Status status = OK;
    for (zip_int64_t i = 0; i < n && !status; i++) status = zip_entry_add(a, i, err);
    /* Entries may overlap in the file, so that each looks harmless. */
    uint64_t total = 0;
    for (int i = 0; i < a->n; i++) total += total > UINT64_MAX / 2 ? 0 : (uint64_t)a->entry[i].size;
    return status ? status : ratio_check(a, "it", total, (uint64_t)st.st_size, err);
}

Status archive_open(Archive *a, const char *path, Err *err) {
    *a = (Archive){.path = xstrdup(path)};
    Status status;
    if (!path_exists(path)) status = err_set(err, ERR_IO, "cannot read %s: %s", path, strerror(ENOENT));
    else if (path_is_dir(path)) status = folder_list(a, "", err);
    else status = is_single(path) ? single_list(a, err) : zip_list(a, err);
    if (status) archive_close(a);
    else if (a->n) qsort(a->entry, (size_t)a->n, sizeof *a->entry, entry_compare);
    return status;
}

Status archive_add_folder(Archive *a, const char *name, Err *err) {
    if (a->zip) return OK;
    char *path = xasprintf("%s/%s", a->path, name), *prefix = xasprintf("%s/", name);
    Status status = path_is_dir(path) ? folder_list(a, prefix, err) : OK;
    if (a->n) qsort(a->entry, (size_t)a->n, sizeof *a->entry, entry_compare);
    free(prefix);
    free(path);
    return status;
}

void archive_close(Archive *a) {
    for (int i = 0; i < a->n; i++) free(a->entry[i].name);
    free(a->entry);
    free(a->path);
    if (a->zip) zip_discard(a->zip);
    *a = (Archive){0};
}

/* ---- streams ----------------------------------------------------------------------------------------------------- */

static int is_gz(const char *name) {
    size_t n = strlen(name);
    return n > 3 && !strcasecmp(name + n - 3, ".gz");
}

/* s->name is the path. */
static Status file_open(Stream *s, Err *err) {
    s->fd = open(s->name, O_RDONLY | O_CLOEXEC);
    if (s->fd >= 0 && is_gz(s->name) && (s->gz = gzdopen(s->fd, "rb"))) s->fd = -1;
    if (s->fd >= 0 || s->gz) return OK;
    Status status = err_set(err, ERR_IO, "cannot read %s: %s", s->name, strerror(errno));
    stream_close(s);
    return status;
}

/* What a .gz entry of a zip is unpacked with. */
enum { PACKED = 1 << 16 };
typedef struct {
    z_stream z;
    int64_t packed_done; /* of the entry */
    int at_start;        /* of a member: nothing of it has been read */
    unsigned char in[PACKED];
} Inflate;

Status stream_open(Stream *s, const Archive *a, int entry, Err *err) {
    const ArchiveEntry *e = &a->entry[entry];
    *s = (Stream){.fd = -1,
                  .size = e->size,
                  .changed = e->changed,
                  .name = xasprintf(a->zip ? "%s:%s" : "%s/%s", a->path, e->name)};
    if (!a->zip) return file_open(s, err);
    s->zip_file = zip_fopen_index(a->zip, (zip_uint64_t)e->index, 0);
    if (!s->zip_file) {
        Status status = err_set(err, ERR_FORMAT, "cannot read %s: %s", s->name, zip_strerror(a->zip));
        stream_close(s);
        return status;
    }
    if (is_gz(s->name)) {
        Inflate *x = s->inflate = xcalloc(1, sizeof *x);
        x->at_start = 1;
        REQUIRE(inflateInit2(&x->z, 16 + MAX_WBITS) == Z_OK);
    }
    return OK;
}

Status stream_open_path(Stream *s, const char *path, Err *err) {
    struct stat st;
    *s = (Stream){.fd = -1, .name = xstrdup(path)};
    if (!stat(path, &st)) {
        s->size = (int64_t)st.st_size;
        s->changed = changed_ns(&st);
    }
    return file_open(s, err);
}

void stream_memory(Stream *s, const char *name, const void *data, int64_t size) {
    *s = (Stream){.fd = -1, .name = xstrdup(name), .memory = data, .size = size};
}

void stream_close(Stream *s) {
    if (s->fd >= 0) close(s->fd);
    if (s->gz) gzclose(s->gz);
    if (s->zip_file) zip_fclose(s->zip_file);
    if (s->inflate) inflateEnd(&((Inflate *)s->inflate)->z);
    free(s->inflate);
    free(s->name);
    *s = (Stream){.fd = -1};
}

/* Bytes of a zip entry as they lie in it; *done counts them. */
static Status entry_read(Stream *s, int64_t *done, void *out, size_t n, int64_t *got, Err *err) {
    *got = zip_fread(s->zip_file, out, n);
    if (*got < 0)
        return err_set(err, ERR_FORMAT, "%s is damaged after %lld bytes: %s", s->name, (long long)*done,
                       zip_file_strerror(s->zip_file));
    if (*done + *got > s->size || (*got == 0 && n && *done != s->size))
        return err_set(err, ERR_FORMAT, "%s is damaged: it does not unpack to the %lld bytes it declares", s->name,
                       (long long)s->size);
    *done += *got;
    return OK;
}

static Status ratio_stop(const Stream *s, int64_t unpacked, Err *err) {
    if (unpacked <= ARCHIVE_SMALL || unpacked / ARCHIVE_RATIO_MAX <= s->size) return OK;
    return err_set(err, ERR_FORMAT, "%s unpacks to more than %d times its %lld bytes: it looks like a bomb", s->name,
                   ARCHIVE_RATIO_MAX, (long long)s->size);
}

static Status inflate_read(Stream *s, void *out, size_t n, int64_t *got, Err *err) {
    Inflate *x = s->inflate;
    size_t room = n > 1 << 30 ? 1 << 30 : n;
    x->z.next_out = out;
    x->z.avail_out = (unsigned)room;
    while (x->z.avail_out == room && room) {
        int64_t packed = x->z.avail_in;
        if (!packed) {
            Status status = entry_read(s, &x->packed_done, x->in, PACKED, &packed, err);
            if (status) return status;
            x->z.next_in = x->in;
            x->z.avail_in = (unsigned)packed;
        }
        if (!packed && x->at_start) break;
        x->at_start = 0;
        int code = packed ? inflate(&x->z, Z_NO_FLUSH) : Z_BUF_ERROR;
        if (code == Z_STREAM_END) { /* more members may follow */
            x->at_start = 1;
            inflateReset(&x->z);
        } else if (code != Z_OK) {
            return err_set(err, ERR_FORMAT, "%s is damaged after %lld bytes: %s", s->name, (long long)s->done,
                           packed ? x->z.msg ? x->z.msg : "no gzip data" : "it ends in the middle");
        }
    }
    *got = (int64_t)(room - x->z.avail_out);
    return ratio_stop(s, s->done + *got, err);
}

/* What is read last does not belong to what was read first when the file has changed between. */
static Status unchanged_check(const Stream *s, Err *err) {
    struct stat st;
    if (!stat(s->name, &st) && (int64_t)st.st_size == s->size && changed_ns(&st) == s->changed) return OK;
    return err_set(err, ERR_IO, "%s changed while it was read; wait until the export is finished and import again",
                   s->name);
}

Status stream_read(Stream *s, void *out, size_t n, size_t *got, Err *err) {
    int64_t r = 0;
    *got = 0;
    if (s->memory) {
        r = s->size - s->done < (int64_t)n ? s->size - s->done : (int64_t)n;
        memcpy(out, s->memory + s->done, (size_t)r);
    } else if (s->inflate) {
        Status status = inflate_read(s, out, n, &r, err);
        if (status) return status;
    } else if (s->zip_file) {
        Status status = entry_read(s, &s->done, out, n, &r, err);
        *got = status ? 0 : (size_t)r;
        return status;
    } else if (s->gz) {
        r = gzread(s->gz, out, n > 1 << 30 ? 1 << 30 : (unsigned)n);
        int code = 0;
        const char *text = gzerror(s->gz, &code);
        if (r < 0 || (r == 0 && code != Z_OK && code != Z_STREAM_END))
            return err_set(err, ERR_FORMAT, "%s is damaged after %lld bytes: %s", s->name, (long long)s->done, text);
        Status status = ratio_stop(s, s->done + r, err);
        if (status) return status;
    } else {
        do r = read(s->fd, out, n);
        while (r < 0 && errno == EINTR);
        if (r < 0) return err_set(err, ERR_IO, "cannot read %s: %s", s->name, strerror(errno));
    }
    s->done += r;
    *got = (size_t)r;
    return r || s->memory || s->zip_file || !n ? OK : unchanged_check(s, err);
}
