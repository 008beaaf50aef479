/* sync_watch.h - whether a name would outlive a power failure: whether the folder that it stands in was brought to the disk
 * while it stood there.  The program's own fsync stands before libc's, for all that is linked with it. */
#ifndef EHR_TESTS_SYNC_WATCH_H
#define EHR_TESTS_SYNC_WATCH_H
#include "model/base.h"
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { WATCHED_MAX = 8 };
static struct {
    char *path, *folder;
    int kept;
} watched[WATCHED_MAX];
static int n_watched;

int fsync(int fd) {
    struct stat synced, folder;
    fstat(fd, &synced);
    for (int i = 0; i < n_watched; i++)
        if (!stat(watched[i].folder, &folder) && folder.st_ino == synced.st_ino && folder.st_dev == synced.st_dev)
            watched[i].kept |= path_exists(watched[i].path);
    return (int)syscall(SYS_fsync, fd);
}

/* Of a name that is not there yet, or will be replaced: what is there now does not count. */
static inline int watch_sync(const char *path) {
    char *folder = xstrdup(path);
    *strrchr(folder, '/') = 0;
    if (path_exists(path)) unlink(path);
    watched[n_watched].path = xstrdup(path);
    watched[n_watched].folder = folder;
    return n_watched++;
}

/* Ends all watches; how many of the names would have been lost. */
static inline int watch_lost(void) {
    int lost = 0;
    for (; n_watched; n_watched--) {
        lost += !watched[n_watched - 1].kept;
        watched[n_watched - 1].kept = 0;
        free(watched[n_watched - 1].path);
        free(watched[n_watched - 1].folder);
    }
    return lost;
}

#endif
