/* base.c - see base.h.  Messages are built in a scratch buffer first, so that an Err may appear among its own arguments. */
#include "model/base.h"
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

Status err_set(Err *err, Status code, const char *fmt, ...) {
    if (!err) return code;
    char text[sizeof err->msg];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    memcpy(err->msg, text, sizeof text);
    err->code = code;
    return code;
}

Status err_context(Err *err, const char *fmt, ...) {
    if (!err) return ERR_IO;
    char text[sizeof err->msg];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (n >= 0 && (size_t)n < sizeof text - 3) snprintf(text + n, sizeof text - (size_t)n, ": %s", err->msg);
    memcpy(err->msg, text, sizeof text);
    return err->code;
}

void require_failed(const char *cond, const char *file, int line) {
    fprintf(stderr, "%s:%d: broken promise: %s\n", file, line, cond);
    abort();
}

static void *must(void *p, size_t bytes) {
    if (!p && bytes) {
        fprintf(stderr, "out of memory (%zu bytes)\n", bytes);
        abort();
    }
    return p;
}

void *xmalloc(size_t bytes) { return must(malloc(bytes ? bytes : 1), bytes); }

void *xcalloc(size_t count, size_t size) {
    REQUIRE(size == 0 || count <= SIZE_MAX / size);
    return must(calloc(count ? count : 1, size ? size : 1), count * size);
}

void *xrealloc(void *p, size_t bytes) { return must(realloc(p, bytes ? bytes : 1), bytes); }

char *xstrdup(const char *s) {
    size_t n = strlen(s) + 1;
    return memcpy(xmalloc(n), s, n);
}

char *xasprintf(const char *fmt, ...) {
    va_list ap;
    char *out = NULL;
    va_start(ap, fmt);
    int n = vasprintf(&out, fmt, ap);
    va_end(ap);
    REQUIRE(n >= 0);
    return out;
}

void *try_calloc(size_t count, size_t size) {
    if (size && count > SIZE_MAX / size) return NULL;
    return calloc(count ? count : 1, size ? size : 1);
}

double clock_s(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

/* ---- progress ---------------------------------------------------------------------------------------------------- */

void progress_open(Progress *p, FILE *out, const char *label, const char *unit, int64_t total) {
    *p = (Progress){.out = out, .label = label, .unit = unit, .total = total};
    p->start_s = p->last_s = clock_s();
    p->terminal = out && isatty(fileno(out));
}

static void progress_print(Progress *p, int64_t done, double now, int last) {
    double took = now - p->start_s, rate = took > 0 ? (double)done / took : 0;
    char left[64] = "";
    if (!last && p->total > done && rate > 0) {
        double s = (double)(p->total - done) / rate;
        snprintf(left, sizeof left, ", %d:%02d left", (int)(s / 60), (int)s % 60);
    }
    if (last) snprintf(left, sizeof left, ", %.1f s", took);
    if (p->total > 0)
        fprintf(p->out, "%s%s: %lld / %lld %s, %.4g/s%s%s", p->terminal ? "\r\033[K" : "", p->label, (long long)done,
                (long long)p->total, p->unit, rate, p->note, left);
    else
        fprintf(p->out, "%s%s: %lld %s, %.4g/s%s%s", p->terminal ? "\r\033[K" : "", p->label, (long long)done, p->unit, rate,
                p->note, left);
    if (!p->terminal || last) fputc('\n', p->out);
    fflush(p->out);
    p->shown = 1;
}

void progress_update(Progress *p, int64_t done) {
    if (!p->out) return;
    double now = clock_s();
    if (now - p->last_s < (p->terminal ? 0.5 : 10.0) || now - p->start_s < 1.0) return;
    p->last_s = now;
    progress_print(p, done, now, 0);
}

void progress_close(Progress *p, int64_t done) {
    if (!p->out) return;
    double now = clock_s();
    if (p->shown || now - p->start_s >= 1.0) progress_print(p, done, now, 1);
    p->out = NULL;
}

/* ---- files ------------------------------------------------------------------------------------------------------- */

Status file_read(const char *path, size_t max_bytes, char **out, size_t *size, Err *err) {
    *out = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* waits for no pipe */
    FILE *f = fd < 0 ? NULL : fdopen(fd, "rb");
    if (!f && fd >= 0) close(fd);
    if (!f) return err_set(err, ERR_IO, "cannot read %s: %s", path, strerror(errno));
    struct stat st;
    Status status = OK;
    if (fstat(fileno(f), &st) || !S_ISREG(st.st_mode)) {
        status = err_set(err, ERR_IO, "cannot read %s: not a regular file", path);
    } else if ((uint64_t)st.st_size > max_bytes) {
        status = err_set(err, ERR_FORMAT, "%s is %lld bytes long, at most %zu were expected", path, (long long)st.st_size,
                         max_bytes);
    } else {
        size_t n = (size_t)st.st_size;
        char *data = xmalloc(n + 1);
        if (fread(data, 1, n, f) != n) {
            free(data);
            status = err_set(err, ERR_IO, "cannot read %s: %s", path, ferror(f) ? strerror(errno) : "it shrank while read");
        } else {
            data[n] = 0;
            *out = data;
            if (size) *size = n;
        }
    }
    fclose(f);
    return status;
}

static int is_special(const char *path) {
    struct stat there;
    return !stat(path, &there) && !S_ISREG(there.st_mode) && !S_ISDIR(there.st_mode);
}

Status out_file_open(OutFile *o, const char *path, Err *err) {
    *o = (OutFile){.path = xstrdup(path), .tmp = is_special(path) ? NULL : xasprintf("%s.tmp", path)};
    o->f = fopen(o->tmp ? o->tmp : path, "wb");
    return o->f ? OK : err_set(err, ERR_IO, "cannot write %s: %s", path, strerror(errno));
}

Status out_file_close(OutFile *o, Status s, Err *err) {
    const int opened = o->f != NULL;
    int bad = opened && (ferror(o->f) || fflush(o->f) || (o->tmp && fsync(fileno(o->f)))), why = errno;
    if (opened && fclose(o->f) && !bad) {
        bad = 1;
        why = errno;
    }
    if (opened && !s && !bad && o->tmp && (rename(o->tmp, o->path) || dir_sync_parent(o->path))) {
        bad = 1;
        why = errno;
    }
    if (opened && o->tmp && (s || bad)) unlink(o->tmp);
    if (!s && bad) s = err_set(err, ERR_IO, "cannot write %s: %s", o->path, strerror(why));
    free(o->tmp);
    free(o->path);
    *o = (OutFile){0};
    return s;
}

Status file_publish(const char *tmp, const char *path, Err *err) {
    if (is_special(path)) return err_set(err, ERR_IO, "cannot write %s: it is not a plain file; name another", path);
    return rename(tmp, path) || dir_sync_parent(path) ? err_set(err, ERR_IO, "cannot write %s: %s", path, strerror(errno)) : OK;
}

Status file_write(const char *path, const void *data, size_t size, Err *err) {
    OutFile o;
    Status s = out_file_open(&o, path, err);
    if (!s) (void)fwrite(data, 1, size, o.f); /* its end tells how it went */
    return out_file_close(&o, s, err);
}

Status dir_make(const char *path, Err *err) {
    char *p = xstrdup(path);
    int bad = 0;
    for (char *s = p + 1; !bad; s++) {
        if (*s != '/' && *s) continue;
        char c = *s;
        *s = 0;
        if (mkdir(p, 0777) ? errno != EEXIST : dir_sync_parent(p)) bad = errno;
        *s = c;
        if (!c) break;
    }
    free(p);
    if (!bad && !path_is_dir(path)) bad = ENOTDIR;
    return bad ? err_set(err, ERR_IO, "cannot make the folder %s: %s", path, strerror(bad)) : OK;
}

/* Some file systems have no fsync of folders (EINVAL), and a folder to drop files in may not be read: all was done then that
 * can be. */
int dir_sync(const char *path) {
    const int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return errno == EACCES ? 0 : -1;
    const int bad = fsync(fd) && errno != EINVAL, why = errno;
    close(fd);
    errno = why;
    return bad;
}

int dir_sync_parent(const char *path) {
    char *parent = xstrdup(path), *slash = strrchr(parent, '/');
    if (slash && slash != parent) *slash = 0;
    const int bad = dir_sync(!slash ? "." : slash == parent ? "/" : parent);
    free(parent);
    return bad;
}

int path_exists(const char *path) {
    struct stat st;
    return lstat(path, &st) == 0;
}

int path_is_dir(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

char *path_copy(const char *path) {
    char *out = xstrdup(path);
    for (size_t n = strlen(out); n > 1 && out[n - 1] == '/'; n--) out[n - 1] = 0;
    return out;
}

char **split_all(char *s, int *n) {
    size_t room = 1;
    for (const char *c = s; *c; c++) room += *c == ',';
    char **parts = xcalloc(room, sizeof *parts);
    *n = split_list(s, parts, room < INT32_MAX ? (int)room : INT32_MAX);
    return parts;
}

int split_list(char *s, char **parts, int max) {
    int n = 0;
    for (char *save = NULL, *p = strtok_r(s, ",", &save); p && n < max; p = strtok_r(NULL, ",", &save)) parts[n++] = p;
    return n;
}
