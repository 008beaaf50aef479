/* checkpoint_sums.c - SHA256SUMS of a checkpoint, as `sha256sum` writes it and `sha256sum -c` checks it: a bit flipped
 * inside a weight leaves a valid file, so only a checksum tells. */
#include "model/adapter.h"
#include "model/checkpoint.h"
#include "model/sha256.h"
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const char SUMS_FILE[] = "SHA256SUMS";
enum { HEX = 64, NAME = HEX + 2 /* where a line's name starts */ };

static int ends_with(const char *s, const char *end) {
    const size_t n = strlen(s), k = strlen(end);
    return n >= k && !strcmp(s + n - k, end);
}
/* release.json comes later and carries signatures of its own. */
static int is_content(const char *name) {
    return (ends_with(name, ".json") && strcmp(name, "release.json")) || ends_with(name, ".safetensors");
}
static int is_optimizer(const char *name) { return !strncmp(name, "optimizer-", 10); }

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static void names_free(char **names, int n) {
    for (int i = 0; i < n; i++) free(names[i]);
    free(names);
}

/* The files of a checkpoint in dir, by name. */
static Status names_list(const char *dir, char ***names, int *n, Err *err) {
    DIR *d = opendir(dir);
    *names = NULL;
    *n = 0;
    if (!d) return err_set(err, ERR_IO, "cannot read %s: %s", dir, strerror(errno));
    for (struct dirent *e; (e = readdir(d));) {
        if (!is_content(e->d_name)) continue;
        *names = xrealloc(*names, ((size_t)*n + 1) * sizeof **names);
        (*names)[(*n)++] = xstrdup(e->d_name);
    }
    closedir(d);
    if (*n) qsort(*names, (size_t)*n, sizeof **names, by_name);
    return OK;
}

static Status sum_of(const char *dir, const char *name, char hex[HEX + 1], Err *err) {
    char *path = xasprintf("%s/%s", dir, name);
    Status s = file_sha256(path, hex, err);
    free(path);
    return s;
}

Status checkpoint_sums_write(const char *dir, Err *err) {
    char **names, *text = NULL, *path = xasprintf("%s/%s", dir, SUMS_FILE);
    size_t size = 0;
    int n;
    Status s = names_list(dir, &names, &n, err);
    for (int i = 0; i < n && !s; i++) {
        char hex[HEX + 1];
        s = sum_of(dir, names[i], hex, err);
        if (s) break;
        const size_t more = NAME + strlen(names[i]) + 1;
        text = xrealloc(text, size + more + 1);
        size += (size_t)snprintf(text + size, more + 1, "%s  %s\n", hex, names[i]);
    }
    if (!s) s = file_write(path, text, size, err);
    names_free(names, n);
    free(text);
    free(path);
    return s;
}

/* ---- checking ---------------------------------------------------------------------------------------------------- */

/* Ends every line with NUL; refuses what sha256sum would not write. */
static Status lines_split(char *text, size_t size, const char *path, Err *err) {
    int line = 1;
    for (char *p = text; p < text + size; line++) {
        char *end = memchr(p, '\n', (size_t)(text + size - p));
        if (end) *end = 0;
        if (!end || strlen(p) != (size_t)(end - p) || end - p <= NAME || strspn(p, "0123456789abcdef") != HEX ||
            memcmp(p + HEX, "  ", 2))
            return err_set(err, ERR_FORMAT, "%s: line %d is damaged: expected a SHA-256, two spaces and a file name", path, line);
        p = end + 1;
    }
    return OK;
}

static const char *line_find(const char *text, size_t size, const char *name) {
    for (const char *p = text; p < text + size; p += strlen(p) + 1)
        if (!strcmp(p + NAME, name)) return p;
    return NULL;
}

static Status file_check(const char *dir, const char *name, const char *text, size_t size, char model_sha256[65], Err *err) {
    char got[HEX + 1];
    const char *line = line_find(text, size, name);
    if (!line)
        return err_set(err, ERR_FORMAT, "%s/%s is not listed in %s there: one of the two is damaged or came from elsewhere; "
                                        "remove %s to load the checkpoint unchecked", dir, name, SUMS_FILE, SUMS_FILE);
    Status s = sum_of(dir, name, got, err);
    if (s) return s;
    if (memcmp(line, got, HEX))
        return err_set(err, ERR_FORMAT, "%s/%s is damaged or was changed after it was saved: its SHA-256 is %.16s..., %s says "
                                        "%.16s...; take another checkpoint, or a copy of this one", dir, name, got, SUMS_FILE, line);
    if (model_sha256 && !strcmp(name, "model.safetensors")) memcpy(model_sha256, got, sizeof got);
    return OK;
}

Status checkpoint_verify(const char *dir, int with_optimizer, int *listed, char model_sha256[65], Err *err) {
    char **names, *text = NULL, *path = xasprintf("%s/%s", dir, SUMS_FILE);
    size_t size = 0;
    int n = 0;
    *listed = path_exists(path);
    if (model_sha256) model_sha256[0] = 0;
    if (!*listed) {
        free(path);
        return OK;
    }
    Status s = file_read(path, 1 << 20, &text, &size, err);
    if (!s) s = lines_split(text, size, path, err);
    if (!s) s = names_list(dir, &names, &n, err);
    for (int i = 0; i < n && !s; i++)
        if (with_optimizer || !is_optimizer(names[i])) s = file_check(dir, names[i], text, size, model_sha256, err);
    if (n) names_free(names, n);
    free(text);
    free(path);
    return s;
}

Status checkpoint_model_sha256(const char *dir, char hex[65], Err *err) {
    ModelFiles files;
    if (adapter_there(dir)) return adapter_sha256(dir, NULL, hex, err);
    Status s = checkpoint_model_files(dir, &files, err);
    if (s) return s;
    char *all = xcalloc((size_t)files.n + 1, HEX);
    for (int i = 0; i < files.n && !s; i++) {
        s = sum_of(dir, files.name[i], hex, err);
        if (!s) memcpy(all + (size_t)i * HEX, hex, HEX);
    }
    if (!s && files.n > 1) bytes_sha256(all, (size_t)files.n * HEX, hex);
    free(all);
    model_files_free(&files);
    return s;
}
