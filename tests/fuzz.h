/* fuzz.h - what every fuzzer shares: main(), draws, and the inputs that are kept.  A fuzzer defines FUZZER.
 *
 *   fuzz_NAME [SECONDS = 2 [SEED = 1]]   the inputs in tests/corpus/NAME/, a file each, as they are; then made ones
 *   fuzz_NAME --replay FILE...           these files alone
 *
 * An input is bytes, and they alone decide what happens to it: draws inside try() follow from them.  What the fuzzer
 * dies on (a crash, a sanitizer's report, a broken promise, a hang that tests/run.sh ends) is put into
 * tests/corpus/NAME/ as found-HASH before the end, so that it can be replayed, and is from then on met first.  Runs
 * stand in the project's root.
 *
 * With clang and -DLIBFUZZER -fsanitize=fuzzer, main() is libFuzzer's. */
#ifndef EHR_TESTS_FUZZ_H
#define EHR_TESTS_FUZZ_H
#include "kernels/philox.h"
#include "model/base.h"
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct {
    const char *name;
    size_t max;                                 /* bytes of an input */
    void (*open)(void);                         /* NULL: none */
    size_t (*make)(char *input);                /* writes the next input, at most max bytes; returns its size */
    int (*try)(const char *input, size_t size); /* whether it was taken; a broken promise ends the program */
    const char *(*close)(void);                 /* NULL: none; returns why the run proves little, or NULL */
} Fuzzer;
static const Fuzzer FUZZER;

/* ---- draws --------------------------------------------------------------------------------------------------------
 */

static struct { uint64_t key, next; } fuzz_random;

/* Uniform below `below`; 0 when that is 0. */
static inline uint64_t draw(uint64_t below) {
    const Philox4 r = philox4x32(fuzz_random.key, fuzz_random.next++, 0);
    return below ? ((uint64_t)r.v[0] << 32 | r.v[1]) % below : 0;
}

static inline void fuzz_draws_from(uint64_t key) {
    fuzz_random.key = key;
    fuzz_random.next = 0;
}

static inline uint64_t fuzz_hash(const char *data, size_t size) { /* FNV-1a */
    uint64_t hash = 14695981039346656037u;
    for (size_t i = 0; i < size; i++) hash = (hash ^ (unsigned char)data[i]) * 1099511628211u;
    return hash;
}

/* ---- what is kept -------------------------------------------------------------------------------------------------
 */

enum { FUZZ_KEPT_MAX = 256 };
typedef struct {
    char *path; /* NULL: made by open() */
    char *data;
    size_t size;
} FuzzInput;
static struct {
    int n, made; /* the first `made` are open()'s */
    FuzzInput input[FUZZ_KEPT_MAX];
} fuzz_kept;

/* What is being tried.  kept: not one that make() made.  path: NULL: it is in no file. */
static struct {
    const char *program, *path, *data;
    size_t size;
    int kept;
} fuzz_now;

/* From open(): one more input to begin with, copied. */
static inline void fuzz_keep(const char *data, size_t size) {
    REQUIRE(fuzz_kept.n == fuzz_kept.made && fuzz_kept.n < FUZZ_KEPT_MAX && size <= FUZZER.max);
    FuzzInput *k = &fuzz_kept.input[fuzz_kept.made++];
    *k = (FuzzInput){NULL, xmalloc(size), size};
    memcpy(k->data, data, size);
    fuzz_kept.n++;
}

/* Copies one of them, three times in four one of open()'s when there are any; returns its size. */
static inline size_t fuzz_take(char *input) {
    const int made = fuzz_kept.made && (fuzz_kept.n == fuzz_kept.made || draw(4)), first = made ? 0 : fuzz_kept.made;
    const FuzzInput *k = &fuzz_kept.input[first + (int)draw((uint64_t)((made ? fuzz_kept.made : fuzz_kept.n) - first))];
    memcpy(input, k->data, k->size);
    return k->size;
}

/* From signal handlers as well: system calls alone, besides what formats the text. */
static inline void fuzz_save(void) {
    char path[256], said[1024];
    if (!fuzz_now.data) return;
    snprintf(path, sizeof path, "tests/corpus/%s/found-%016llx", FUZZER.name,
             (unsigned long long)fuzz_hash(fuzz_now.data, fuzz_now.size));
    if (fuzz_now.path) {
        snprintf(said, sizeof said, "fuzz_%s died on %s\n", FUZZER.name, fuzz_now.path);
    } else {
        const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
        const int bad = fd < 0 || write(fd, fuzz_now.data, fuzz_now.size) != (ssize_t)fuzz_now.size;
        if (fd >= 0) close(fd);
        snprintf(
            said, sizeof said,
            bad ? "fuzz_%s: what it died on could not be written to %s\n"
                : "fuzz_%s: what it died on is in %s\nagain: %s --replay %s; when it is mended, leave the file there "
                  "under a name that says what it is\n",
            FUZZER.name, path, fuzz_now.program, path);
    }
    fuzz_now.data = NULL; /* once, however many signals follow */
    if (write(2, said, strlen(said)) < 0) return;
}

static inline void fuzz_signal(int sig) {
    fuzz_save();
    signal(sig, SIG_DFL);
    raise(sig);
}

/* ASan calls this where it ends the program; UBSan, which has a callback of its own that cannot be set, aborts instead.
 */
void __sanitizer_set_death_callback(void (*call)(void)) __attribute__((weak));
const char *__ubsan_default_options(void);
const char *__ubsan_default_options(void) { return "abort_on_error=1"; }

/* A promise is broken that no REQUIRE can word. */
__attribute__((noreturn)) static inline void fuzz_fail(const char *why) {
    fprintf(stderr, "fuzz_%s: %s\n", FUZZER.name, why);
    abort();
}

/* ---- files --------------------------------------------------------------------------------------------------------
 */

/* A folder for try()'s files, made when first asked for, removed at the end. */
static char fuzz_folder_path[256];
static inline const char *fuzz_folder(void) {
    const char *base = getenv("TMPDIR");
    if (fuzz_folder_path[0]) return fuzz_folder_path;
    snprintf(fuzz_folder_path, sizeof fuzz_folder_path, "%s/ehr-fuzz-XXXXXX", base && *base ? base : "/tmp");
    REQUIRE(mkdtemp(fuzz_folder_path));
    return fuzz_folder_path;
}

/* Into that folder; it is not sent to disk at once, as file_write does. */
static inline void fuzz_put(const char *name, const char *data, size_t size) {
    char *path = xasprintf("%s/%s", fuzz_folder(), name);
    unlink(path); /* a file that is overwritten goes to disk at once */
    FILE *f = fopen(path, "wb");
    REQUIRE(f && fwrite(data, 1, size, f) == size && !fclose(f));
    free(path);
}

static inline void fuzz_remove(const char *name) {
    char *path = xasprintf("%s/%s", fuzz_folder(), name);
    unlink(path);
    free(path);
}

/* ---- a run --------------------------------------------------------------------------------------------------------
 */

static inline int fuzz_one(const char *data, size_t size, const char *path, int kept) {
    char *exact = xmalloc(size); /* of exactly this size, so that a sanitizer sees one byte too far */
    memcpy(exact, data, size);
    fuzz_now.path = path;
    fuzz_now.kept = kept;
    fuzz_now.size = size;
    fuzz_now.data = exact;
    fuzz_draws_from(fuzz_hash(data, size));
    const int taken = FUZZER.try(exact, size);
    fuzz_now.data = NULL;
    free(exact);
    return taken;
}

#ifdef LIBFUZZER

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static int opened;
    if (!opened++ && FUZZER.open) FUZZER.open();
    if (size <= FUZZER.max) fuzz_one((const char *)data, size, "libFuzzer's input", 0);
    return 0;
}

#else

static inline FuzzInput fuzz_read(char *path) {
    FuzzInput k = {path, NULL, 0};
    Err err = {OK, ""};
    if (!file_read(path, FUZZER.max, &k.data, &k.size, &err)) return k;
    fprintf(stderr, "fuzz_%s: %s\n", FUZZER.name, err.msg);
    exit(1);
}

static int fuzz_by_path(const void *a, const void *b) {
    return strcmp(((const FuzzInput *)a)->path, ((const FuzzInput *)b)->path);
}

/* In the order of names; ends the program when there are none: a fuzzer without its corpus would find less. */
static inline void fuzz_corpus_open(void) {
    char *folder = xasprintf("tests/corpus/%s", FUZZER.name);
    DIR *d = opendir(folder);
    for (struct dirent *e; d && (e = readdir(d)) && fuzz_kept.n < FUZZ_KEPT_MAX;)
        if (e->d_name[0] != '.') fuzz_kept.input[fuzz_kept.n++] = fuzz_read(xasprintf("%s/%s", folder, e->d_name));
    if (d) closedir(d);
    if (fuzz_kept.n == fuzz_kept.made) {
        fprintf(stderr, "fuzz_%s: nothing is kept in %s: run from the project's root\n", FUZZER.name, folder);
        exit(1);
    }
    free(folder);
    qsort(fuzz_kept.input + fuzz_kept.made, (size_t)(fuzz_kept.n - fuzz_kept.made), sizeof *fuzz_kept.input,
          fuzz_by_path);
}

static inline const char *fuzz_close(void) {
    const char *lacks = FUZZER.close ? FUZZER.close() : NULL;
    for (int i = 0; i < fuzz_kept.n; i++) {
        free(fuzz_kept.input[i].path);
        free(fuzz_kept.input[i].data);
    }
    if (fuzz_folder_path[0]) {
        char *command = xasprintf("rm -rf -- '%s'", fuzz_folder_path);
        if (system(command)) fprintf(stderr, "cannot remove %s\n", fuzz_folder_path);
        free(command);
    }
    return lacks;
}

static inline int fuzz_replay(int n, char **path) {
    for (int i = 0; i < n; i++) {
        FuzzInput k = fuzz_read(path[i]);
        printf("%s: %s\n", path[i], fuzz_one(k.data, k.size, path[i], 1) ? "taken" : "refused");
        free(k.data);
    }
    fuzz_close();
    return 0;
}

int main(int argc, char **argv) {
    char *end = "";
    const int replay = argc > 2 && !strcmp(argv[1], "--replay");
    const double seconds = argc > 1 && !replay ? strtod(argv[1], &end) : 2, until = clock_s() + seconds;
    const uint64_t seed = argc > 2 && !replay && !*end ? strtoull(argv[2], &end, 10) : 1;
    if (*end || (argc > 3 && !replay)) {
        fprintf(stderr, "fuzz_%s [SECONDS = 2 [SEED = 1]] | --replay FILE...\n", FUZZER.name);
        return 2;
    }
    fuzz_now.program = argv[0];
    const int sig[] = {SIGABRT, SIGTERM, SIGSEGV, SIGBUS, SIGFPE, SIGILL};
    for (int i = 0; i < (__sanitizer_set_death_callback ? 2 : 6); i++)
        signal(sig[i], fuzz_signal); /* ASan reports the rest */
    if (__sanitizer_set_death_callback) __sanitizer_set_death_callback(fuzz_save);
    if (FUZZER.open) FUZZER.open();
    if (replay) return fuzz_replay(argc - 2, argv + 2);
    int64_t runs = 0, good = 0, taken = 0;
    fuzz_corpus_open();
    const int kept = fuzz_kept.n;
    for (int i = 0; i < kept; i++) {
        const FuzzInput *k = &fuzz_kept.input[i];
        good += fuzz_one(k->data, k->size, k->path, 1);
    }
    char *input = xmalloc(FUZZER.max);
    for (; clock_s() < until; runs++) {
        fuzz_draws_from(philox_mix(seed, (uint64_t)runs));
        const size_t size = FUZZER.make(input);
        REQUIRE(size <= FUZZER.max);
        taken += fuzz_one(input, size, NULL, 0);
    }
    free(input);
    const char *lacks = fuzz_close();
    if (!good) lacks = "no kept input is a good one: hardly anything is reached";
    printf("fuzz_%s: %d kept inputs, %lld taken; %lld made, %lld taken; seed %llu: %s\n", FUZZER.name, kept,
           (long long)good, (long long)runs, (long long)taken, (unsigned long long)seed, lacks ? lacks : "ok");
    return lacks != NULL;
}

#endif
#endif
