/* audit.c - see audit.h. */
#include "infer/audit.h"
#include "model/sha256.h"
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <pthread.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { LINE_MAX_BYTES = 16384, TAIL = 75 /* bytes of ,"hash":"..."} */ };

struct Audit {
    char *path;
    int fd, broken; /* broken: a line could not be written whole, nothing may follow it */
    int64_t seq, size;
    char head[65];
    unsigned char key[32];
    pthread_mutex_t lock;
};

/* ---- checking ---------------------------------------------------------------------------------------------------- */

static Status line_check(const char *path, const char *line, size_t n, AuditReport *r, Err *err) {
    char hash[65];
    const long long number = (long long)r->lines + 1;
    if (n <= TAIL || strncmp(line + n - TAIL, ",\"hash\":\"", 9) || line[n - 1] != '}')
        return err_set(err, ERR_FORMAT, "%s: line %lld is no line of an audit log", path, number);
    bytes_sha256(line, n - TAIL, hash);
    if (strncmp(hash, line + n - TAIL + 9, 64))
        return err_set(err, ERR_FORMAT, "%s: line %lld was changed after it was written: its hash does not match", path,
                       number);
    json_t *o = json_loadb(line, n, JSON_REJECT_DUPLICATES, NULL);
    const char *prev = json_string_value(json_object_get(o, "prev")),
               *time = json_string_value(json_object_get(o, "time"));
    const long long seq = (long long)json_integer_value(json_object_get(o, "seq"));
    Status s = OK;
    if (!prev || !time || strcmp(prev, r->head) || seq != number)
        s = err_set(
            err, ERR_FORMAT,
            "%s: line %lld (numbered %lld) does not follow the line before it: one was removed, moved or put in", path,
            number, seq);
    if (!s) {
        if (!r->lines) snprintf(r->from, sizeof r->from, "%s", time);
        snprintf(r->to, sizeof r->to, "%s", time);
        memcpy(r->head, hash, sizeof hash);
        r->lines++;
    }
    json_decref(o);
    return s;
}

/* All whole lines of f; *end: where the last of them ends. */
static Status chain_check(FILE *f, const char *path, AuditReport *r, int64_t *end, Err *err) {
    char *line = NULL;
    size_t room = 0;
    ssize_t n;
    Status s = OK;
    *r = (AuditReport){0};
    memset(r->head, '0', 64);
    *end = 0;
    while (!s && (n = getline(&line, &room, f)) > 0) {
        if (line[n - 1] != '\n') break;
        s = line_check(path, line, (size_t)n - 1, r, err);
        if (!s) *end += n;
    }
    if (!s && ferror(f)) s = err_set(err, ERR_IO, "cannot read %s: %s", path, strerror(errno));
    free(line);
    return s;
}

Status audit_verify(const char *path, const char *head, AuditReport *r, Err *err) {
    FILE *f = fopen(path, "r");
    int64_t end;
    if (!f) return err_set(err, ERR_IO, "cannot read %s: %s", path, strerror(errno));
    Status s = chain_check(f, path, r, &end, err);
    if (!s && !fseek(f, 0, SEEK_END) && ftell(f) != end)
        s = err_set(err, ERR_FORMAT,
                    "%s: line %lld is not whole: the end of the file was cut, or a server is writing to it now", path,
                    (long long)r->lines + 1);
    fclose(f);
    if (!s && head && strcmp(head, r->head))
        s = err_set(err, ERR_FORMAT,
                    "%s ends with hash %.16s..., not with %.16s... as was said: lines were cut off or added", path,
                    r->head, head);
    return s;
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

/* lines: of the log.  A new key for an old log would keep equal inputs from being known by their hashes. */
static Status key_open(Audit *a, int64_t lines, Err *err) {
    char *path = xasprintf("%s.key", a->path), hex[65], *text = NULL;
    size_t size, got = 0;
    Status s = OK;
    if (!path_exists(path) && lines) {
        s = err_set(err, ERR_USAGE,
                    "the audit log %s has %lld lines, but its key %s is missing: put the key back, or give --audit another "
                    "file (a new log with a new key)", a->path, (long long)lines, path);
    } else if (!path_exists(path)) {
        randombytes_buf(a->key, sizeof a->key);
        sodium_bin2hex(hex, sizeof hex, a->key, sizeof a->key);
        int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        if (fd < 0 || write(fd, hex, 64) != 64 || write(fd, "\n", 1) != 1 || fsync(fd) || dir_sync_parent(path))
            s = err_set(err, ERR_IO, "cannot write %s: %s", path, strerror(errno));
        if (fd >= 0) close(fd);
    } else if (!(s = file_read(path, 4096, &text, &size, err)) &&
               (sodium_hex2bin(a->key, sizeof a->key, text, strcspn(text, "\r\n"), NULL, &got, NULL) ||
                got != sizeof a->key)) {
        s = err_set(err, ERR_FORMAT, "%s is no key of 64 hexadecimal digits", path);
    }
    free(text);
    free(path);
    return s;
}

Status audit_open(Audit **out, const char *path, int64_t *cut, Err *err) {
    struct stat info;
    AuditReport r;
    *out = NULL;
    *cut = 0;
    if (sodium_init() < 0) return err_set(err, ERR_IO, "libsodium does not start on this machine");
    Audit *a = xcalloc(1, sizeof *a);
    a->path = xstrdup(path);
    pthread_mutex_init(&a->lock, NULL);
    a->fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    Status s = a->fd < 0 || fstat(a->fd, &info)
                   ? err_set(err, ERR_IO, "cannot open the audit log %s: %s", path, strerror(errno))
                   : OK;
    if (!s && !info.st_size && dir_sync_parent(path)) s = err_set(err, ERR_IO, "cannot write the audit log %s: %s", path, strerror(errno));
    if (!s && !S_ISREG(info.st_mode)) s = err_set(err, ERR_USAGE, "the audit log %s is no plain file", path);
    if (!s && flock(a->fd, LOCK_EX | LOCK_NB))
        s = err_set(err, ERR_USAGE, "another server writes to the audit log %s", path);
    FILE *f = s ? NULL : fopen(path, "r");
    if (!s && !f) s = err_set(err, ERR_IO, "cannot read %s: %s", path, strerror(errno));
    if (!s) s = chain_check(f, path, &r, &a->size, err);
    if (f) fclose(f);
    if (!s && (*cut = info.st_size - a->size) > 0 && ftruncate(a->fd, a->size))
        s = err_set(err, ERR_IO, "cannot cut the half-written last line off %s: %s", path, strerror(errno));
    if (!s) s = key_open(a, r.lines, err);
    if (s) {
        audit_close(a);
        return s;
    }
    a->seq = r.lines;
    memcpy(a->head, r.head, sizeof a->head);
    *out = a;
    return OK;
}

void audit_close(Audit *a) {
    if (a->fd >= 0) close(a->fd);
    sodium_memzero(a->key, sizeof a->key);
    pthread_mutex_destroy(&a->lock);
    free(a->path);
    free(a);
}

static void now_text(char out[32]) {
    struct timespec t;
    struct tm utc;
    clock_gettime(CLOCK_REALTIME, &t);
    size_t n = strftime(out, 32, "%Y-%m-%dT%H:%M:%S", gmtime_r(&t.tv_sec, &utc));
    snprintf(out + n, 32 - n, ".%03dZ", (int)(t.tv_nsec / 1000000));
}

void audit_input_hash(const Audit *a, const void *input, size_t size, char out[65]) {
    unsigned char keyed[32];
    crypto_generichash(keyed, sizeof keyed, input, size, a->key, sizeof a->key);
    sodium_bin2hex(out, 65, keyed, sizeof keyed);
}

/* The line without its hash and closing brace; free() it. */
static char *line_make(const Audit *a, const AuditEntry *e) {
    char time[32], input[65] = "", output[65] = "";
    now_text(time);
    if (e->input_hash) snprintf(input, sizeof input, "%s", e->input_hash);
    else if (e->input) audit_input_hash(a, e->input, e->input_size, input);
    if (e->output_hash) snprintf(output, sizeof output, "%s", e->output_hash);
    else if (e->output) bytes_sha256(e->output, e->output_size, output);
    json_t *o = json_pack("{s:I, s:s, s:s, s:s, s:s, s:i, s:s, s:s, s:s, s:s}", "seq", (json_int_t)(a->seq + 1), "time",
                          time, "who", e->who, "from", e->from, "action", e->action, "status", e->status, "model",
                          e->model, "input", input, "output", output, "prev", a->head);
    REQUIRE(o);
    char *text = json_dumps(o, JSON_COMPACT | JSON_PRESERVE_ORDER | JSON_ENSURE_ASCII);
    json_decref(o);
    REQUIRE(text && strlen(text) < LINE_MAX_BYTES);
    text[strlen(text) - 1] = 0;
    return text;
}

Status audit_write(Audit *a, const AuditEntry *e, int sync, Err *err) {
    pthread_mutex_lock(&a->lock);
    char hash[65], *head = line_make(a, e);
    bytes_sha256(head, strlen(head), hash);
    char *line = xasprintf("%s,\"hash\":\"%s\"}\n", head, hash);
    const ssize_t n = (ssize_t)strlen(line);
    Status s = OK;
    if (a->broken) {
        s = err_set(err, ERR_IO, "the audit log %s could not be written to earlier", a->path);
    } else if (write(a->fd, line, (size_t)n) != n) {
        /* Half a line must not stay in front of the next one. */
        s = err_set(err, ERR_IO, "cannot write to the audit log %s: %s", a->path, strerror(errno));
        a->broken = ftruncate(a->fd, a->size) != 0;
    } else {
        a->seq++;
        a->size += n;
        memcpy(a->head, hash, sizeof hash);
        if (sync && fdatasync(a->fd))
            s = err_set(err, ERR_IO, "cannot write to the audit log %s: %s", a->path, strerror(errno));
    }
    pthread_mutex_unlock(&a->lock);
    free(head);
    free(line);
    return s;
}

Status audit_sync(Audit *a, Err *err) {
    /* Appending goes on meanwhile: what it adds may be on the disk too, or not. */
    return fdatasync(a->fd) ? err_set(err, ERR_IO, "cannot write to the audit log %s: %s", a->path, strerror(errno)) : OK;
}
