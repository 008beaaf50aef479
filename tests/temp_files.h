/* temp_files.h - for tests that write files: a folder that is removed at the end, whole files, a disk that fills up. */
#ifndef EHR_TESTS_TEMP_FILES_H
#define EHR_TESTS_TEMP_FILES_H
#include "model/base.h"
#include <dirent.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

static Err err;

static inline char *temp_dir(void) {
    const char *base = getenv("TMPDIR");
    char *dir = xasprintf("%s/ehr-test-XXXXXX", base && *base ? base : "/tmp");
    assert_non_null(mkdtemp(dir));
    return dir;
}

static inline void remove_tree(const char *path) {
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d));) {
        struct stat st;
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        char *child = xasprintf("%s/%s", path, e->d_name);
        assert_int_equal(lstat(child, &st), 0);
        if (S_ISDIR(st.st_mode))
            remove_tree(child);
        else
            unlink(child);
        free(child);
    }
    if (d) closedir(d);
    rmdir(path);
}

static inline char *join(const char *dir, const char *name) {
    return xasprintf("%s/%s", dir, name);
}

static inline int exists(const char *dir, const char *name) {
    char *path = join(dir, name);
    const int there = path_exists(path);
    free(path);
    return there;
}

static inline char *slurp(const char *dir, const char *name, size_t *size) {
    char *path = join(dir, name), *text = NULL;
    if (file_read(path, 1 << 24, &text, size, &err)) fail_msg("%s", err.msg);
    free(path);
    return text;
}

static inline void spill(const char *dir, const char *name, const void *data, size_t size) {
    char *path = join(dir, name);
    if (file_write(path, data, size, &err)) fail_msg("%s", err.msg);
    free(path);
}

static inline void ok(Status s) {
    if (s) fail_msg("%s", err.msg);
}

static inline void refused(Status s, Status code, const char *says) {
    if (s != code || err.code != code || !strstr(err.msg, says))
        fail_msg("code %d, wanted %d '%s': %s", s, code, says, err.msg);
}

/* Runs with files limited to `bytes`, as on a full disk. */
static struct rlimit unlimited;
static inline void disk_limit(rlim_t bytes) {
    struct rlimit limit;
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &unlimited);
    limit = unlimited;
    limit.rlim_cur = bytes;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}
static inline void disk_unlimited(void) {
    unlimited.rlim_cur = unlimited.rlim_max;
    setrlimit(RLIMIT_FSIZE, &unlimited);
}

#endif
