/* fuzz_corpus.h - inputs that fuzzers keep: tests/corpus/NAME/, a file each.  A fuzzer runs all of them as they are,
 * then mutates them.  What it dies on (a crash, a sanitizer's report, a broken promise, a hang that tests/run.sh ends) is
 * put there as found-HASH before the end, and from then on met first.  Runs stand in the project's root (tests/run.sh). */
#ifndef EHR_TESTS_FUZZ_CORPUS_H
#define EHR_TESTS_FUZZ_CORPUS_H
#include "model/base.h"
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CORPUS_MAX = 256, CORPUS_FILE_MAX = 1 << 16 };
typedef struct {
    int n;
    struct {
        char *name, *data;
        size_t size;
    } file[CORPUS_MAX];
} Corpus;

/* What is being tried: data, or, where that is a kept file itself, its name. */
static struct {
    const char *folder, *kept;
    const char *prefix; /* of the name of what is found; NULL: none */
    const void *data;
    size_t size;
} corpus_now;

/* Before each input; it stays the caller's. */
static inline void corpus_try(const void *data, size_t size, const char *kept) {
    corpus_now.data = data;
    corpus_now.size = size;
    corpus_now.kept = kept;
}

/* From signal handlers as well: system calls alone, besides what formats the name. */
static inline void corpus_keep(void) {
    char path[256], said[512];
    uint64_t hash = 14695981039346656037u; /* FNV-1a */
    if (corpus_now.kept) snprintf(said, sizeof said, "it died on %s\n", corpus_now.kept);
    for (size_t i = 0; i < corpus_now.size; i++) hash = (hash ^ ((const unsigned char *)corpus_now.data)[i]) * 1099511628211u;
    snprintf(path, sizeof path, "%s/%s%sfound-%016llx", corpus_now.folder, corpus_now.prefix ? corpus_now.prefix : "", corpus_now.prefix ? "-" : "",
             (unsigned long long)hash);
    if (!corpus_now.kept && corpus_now.data) {
        const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
        const int bad = fd < 0 || write(fd, corpus_now.data, corpus_now.size) != (ssize_t)corpus_now.size;
        snprintf(said, sizeof said, "%s %s: mend what it died on, then leave it there under a name that says what it is\n",
                 bad ? "the input could not be written to" : "the input is in", path);
        if (fd >= 0) close(fd);
    }
    if ((corpus_now.kept || corpus_now.data) && write(2, said, strlen(said)) < 0) return;
    corpus_try(NULL, 0, NULL);
}

static void corpus_signal(int sig) {
    corpus_keep();
    signal(sig, SIG_DFL);
    raise(sig);
}

void __sanitizer_set_death_callback(void (*call)(void)) __attribute__((weak)); /* of ASan and UBSan, where they are */

static int corpus_by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

/* In the order of names; ends the program when there are none: a fuzzer without its corpus would find less. */
static inline void corpus_open(Corpus *c, const char *name) {
    char *folder = xasprintf("tests/corpus/%s", name);
    DIR *d = opendir(folder);
    Err err;
    c->n = 0;
    for (struct dirent *e; d && (e = readdir(d)) && c->n < CORPUS_MAX;) {
        if (e->d_name[0] == '.') continue;
        char *path = xasprintf("%s/%s", folder, e->d_name);
        if (file_read(path, CORPUS_FILE_MAX, &c->file[c->n].data, &c->file[c->n].size, &err)) {
            fprintf(stderr, "%s\n", err.msg);
            exit(1);
        }
        c->file[c->n++].name = path;
    }
    if (d) closedir(d);
    if (!c->n) {
        fprintf(stderr, "%s: no corpus: run from the project's root\n", folder);
        exit(1);
    }
    qsort(c->file, (size_t)c->n, sizeof *c->file, corpus_by_name);
    corpus_now.folder = folder;
    const int sig[] = {SIGABRT, SIGTERM, SIGSEGV, SIGBUS, SIGFPE, SIGILL};
    for (int i = 0; i < (__sanitizer_set_death_callback ? 2 : 6); i++) signal(sig[i], corpus_signal); /* ASan reports the rest */
    if (__sanitizer_set_death_callback) __sanitizer_set_death_callback(corpus_keep);
}

static inline void corpus_close(Corpus *c) {
    for (int i = 0; i < c->n; i++) {
        free(c->file[i].name);
        free(c->file[i].data);
    }
    free((char *)(uintptr_t)corpus_now.folder);
    memset(&corpus_now, 0, sizeof corpus_now);
}

#endif
