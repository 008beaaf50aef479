/* fuzz_corpus.h - inputs that fuzzers keep: tests/corpus/NAME/, a file each.  A fuzzer runs all of them as they are,
 * then mutates them; what it once failed on is put there.  Runs stand in the project's root (tests/run.sh). */
#ifndef EHR_TESTS_FUZZ_CORPUS_H
#define EHR_TESTS_FUZZ_CORPUS_H
#include "model/base.h"
#include <dirent.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    int n;
    struct {
        char *name, *data;
        size_t size;
    } file[256];
} Corpus;

static int corpus_by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

/* In the order of names; ends the program when there are none: a fuzzer without its corpus would find less. */
static inline void corpus_open(Corpus *c, const char *name) {
    char *folder = xasprintf("tests/corpus/%s", name);
    DIR *d = opendir(folder);
    Err err;
    c->n = 0;
    for (struct dirent *e; d && (e = readdir(d)) && c->n < 256;) {
        if (e->d_name[0] == '.') continue;
        char *path = xasprintf("%s/%s", folder, e->d_name);
        if (file_read(path, 1 << 16, &c->file[c->n].data, &c->file[c->n].size, &err)) {
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
    free(folder);
}

static inline void corpus_close(Corpus *c) {
    for (int i = 0; i < c->n; i++) {
        free(c->file[i].name);
        free(c->file[i].data);
    }
}

#endif
