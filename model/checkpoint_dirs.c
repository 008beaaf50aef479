/* checkpoint_dirs.c - step-N folders of a run: a name without .tmp is whole at every moment, whatever is killed when.
 */
#include "model/checkpoint.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int ends_with(const char *s, const char *end) {
    const size_t n = strlen(s), k = strlen(end);
    return n >= k && !strcmp(s + n - k, end);
}

/* Checkpoints are flat: files and links only.  A folder inside is not ours and stops the removal. */
Status checkpoint_remove(const char *dir, Err *err) {
    const int whole = !ends_with(dir, ".tmp");
    char *gone = xasprintf("%s%s", dir, whole ? ".tmp" : "");
    Status s = whole && path_exists(gone) ? checkpoint_remove(gone, err) : OK;
    if (s) {
        free(gone);
        return s;
    }
    int bad = whole ? rename(dir, gone) : 0;
    DIR *d = bad ? NULL : opendir(gone);
    bad = bad || !d;
    for (struct dirent *e; !bad && (e = readdir(d));)
        if (strcmp(e->d_name, ".") && strcmp(e->d_name, "..")) bad = unlinkat(dirfd(d), e->d_name, 0);
    const int why = errno;
    if (d) closedir(d);
    if (bad)
        s = err_set(err, ERR_IO, "cannot remove %s: %s", dir, strerror(why));
    else if (rmdir(gone))
        s = err_set(err, ERR_IO, "cannot remove %s: %s", gone, strerror(errno));
    free(gone);
    return s;
}

/* An existing checkpoint of that name (a resumed run passes the same step again) changes places with the new one in one
 * step where the file system can, else is renamed away first. */
Status checkpoint_commit(const char *tmp_dir, const char *final_dir, Err *err) {
    Status s = checkpoint_sums_write(tmp_dir, err);
    if (s) return s;
    if (dir_sync(tmp_dir)) return err_set(err, ERR_IO, "cannot write %s: %s", tmp_dir, strerror(errno));
    int bad = 0;
    if (!path_exists(final_dir)) {
        bad = rename(tmp_dir, final_dir);
    } else if (renameat2(AT_FDCWD, tmp_dir, AT_FDCWD, final_dir, RENAME_EXCHANGE) == 0) {
        s = checkpoint_remove(tmp_dir, err);
    } else {
        char *old = xasprintf("%s.replaced.tmp", final_dir);
        bad = rename(final_dir, old) || rename(tmp_dir, final_dir);
        if (!bad) s = checkpoint_remove(old, err);
        free(old);
    }
    if (bad || (!s && dir_sync_parent(final_dir)))
        s = err_set(err, ERR_IO, "cannot rename %s to %s: %s", tmp_dir, final_dir, strerror(errno));
    return s;
}

Status checkpoint_link(const char *run_dir, const char *link, const char *target_name, Err *err) {
    char *path = xasprintf("%s/%s", run_dir, link), *tmp = xasprintf("%s/%s.link.tmp", run_dir, link);
    unlink(tmp);
    Status s = OK;
    if (symlink(target_name, tmp) || rename(tmp, path) || dir_sync(run_dir)) {
        s = err_set(err, ERR_IO, "cannot point %s at %s: %s", path, target_name, strerror(errno));
        unlink(tmp);
    }
    free(tmp);
    free(path);
    return s;
}

/* ---- the steps of a run ------------------------------------------------------------------------------------------ */

/* N of "step-N"; -1 for other names, "step-007" and "step-7.tmp" among them. */
static int64_t step_of(const char *name) {
    long long n;
    char again[40];
    if (sscanf(name, "step-%18lld", &n) != 1 || n < 0) return -1;
    snprintf(again, sizeof again, "step-%lld", n);
    return strcmp(again, name) ? -1 : n;
}

static int ascending(const void *a, const void *b) {
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

/* Whole checkpoints under run_dir, ascending; leftovers "step-*.tmp" in *tmp when asked for.  -1 with errno set. */
static int scan(const char *run_dir, int64_t **steps, char ***tmp, int *n_tmp) {
    DIR *d = opendir(run_dir);
    int n = 0;
    *steps = NULL;
    if (!d) return -1;
    for (struct dirent *e; (e = readdir(d));) {
        const int64_t step = step_of(e->d_name);
        char *path = xasprintf("%s/%s", run_dir, e->d_name);
        if (path_is_dir(path) && step >= 0) {
            *steps = xrealloc(*steps, ((size_t)n + 1) * sizeof **steps);
            (*steps)[n++] = step;
        } else if (tmp && path_is_dir(path) && !strncmp(e->d_name, "step-", 5) && ends_with(e->d_name, ".tmp")) {
            *tmp = xrealloc(*tmp, ((size_t)*n_tmp + 1) * sizeof **tmp);
            (*tmp)[(*n_tmp)++] = xstrdup(path);
        }
        free(path);
    }
    closedir(d);
    if (n) qsort(*steps, (size_t)n, sizeof **steps, ascending);
    return n;
}

static int64_t linked_step(const char *run_dir, const char *link) {
    char target[256], *path = xasprintf("%s/%s", run_dir, link);
    ssize_t n = readlink(path, target, sizeof target - 1);
    free(path);
    if (n < 0) return -1;
    target[n] = 0;
    const char *slash = strrchr(target, '/');
    return step_of(slash ? slash + 1 : target);
}

Status checkpoint_prune(const char *run_dir, int keep, Err *err) {
    int64_t *steps;
    char **tmp = NULL;
    int n_tmp = 0;
    Status s = OK;
    const int n = scan(run_dir, &steps, &tmp, &n_tmp);
    if (n < 0) return err_set(err, ERR_IO, "cannot read %s: %s", run_dir, strerror(errno));
    const int64_t latest = linked_step(run_dir, "latest"), best = linked_step(run_dir, "best");
    for (int i = 0; i < n - keep && !s; i++) {
        if (steps[i] == latest || steps[i] == best) continue;
        char *path = xasprintf("%s/step-%lld", run_dir, (long long)steps[i]);
        s = checkpoint_remove(path, err);
        free(path);
    }
    for (int i = 0; i < n_tmp; i++) {
        if (!s) s = checkpoint_remove(tmp[i], err);
        free(tmp[i]);
    }
    free(tmp);
    free(steps);
    return s;
}

Status checkpoint_latest(const char *run_dir, char *dir, size_t dir_size, int64_t *step, Err *err) {
    int64_t *steps;
    *step = -1;
    if (dir_size) dir[0] = 0;
    const int n = scan(run_dir, &steps, NULL, NULL);
    if (n < 0 && errno != ENOENT) return err_set(err, ERR_IO, "cannot read %s: %s", run_dir, strerror(errno));
    if (n > 0) {
        *step = steps[n - 1];
        snprintf(dir, dir_size, "%s/step-%lld", run_dir, (long long)*step);
    }
    free(steps);
    return OK;
}
