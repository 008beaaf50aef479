/* fuzz_shard.c SECONDS [SEED] - whatever a dataset folder holds, opening, loading, validating and inspecting it ends in an
 * answer or an error.  Three attacks in turn: bytes of a shard are changed (checksums must catch it); a shard is written
 * whose checksums are right and whose content is not; dataset.json is changed. */
#include "data/inspect.h"
#include "data/loader.h"
#include "data/validate.h"
#include "tests/make_dataset.h"
#include <unistd.h>

/* HDF5 1.10 leaks a little of its own when it meets damaged metadata; what our code leaks is still reported. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) { return "leak:libhdf5"; }

static uint64_t counter, seed = 1;
static uint64_t draw(uint64_t below) {
    Philox4 r = philox4x32(seed, counter++, 0);
    return ((uint64_t)r.v[0] << 32 | r.v[1]) % below;
}

static void write_bytes(const char *path, const char *data, size_t size) {
    FILE *f = fopen(path, "wb");
    REQUIRE(f && fwrite(data, 1, size, f) == size && fclose(f) == 0);
}

/* Everything that reads a dataset; returns whether it opened. */
static int use(const char *dir, FILE *sink) {
    Dataset d;
    ValidateReport r;
    Err err = {OK, ""};
    if (validate_dataset(&r, dir, NULL, &err)) REQUIRE(err.msg[0]);
    else report_print(&r, sink);
    report_free(&r);
    if (dataset_open(&d, dir, &err)) {
        REQUIRE(err.code != OK && err.msg[0]);
        return 0;
    }
    inspect_dataset(&d, -1, 5, sink, &err);
    for (int split = 0; split < SPLIT_COUNT; split++) {
        Loader *ld;
        LoaderOptions o = {.rows = 2, .T = 5 + (int)draw(200), .seed = seed, .shuffle = (int)draw(2), .world = 1};
        if (d.n_patients[split]) inspect_patient(&d, split, (int64_t)draw((uint64_t)d.n_patients[split]), 50, (int)draw(2), sink, &err);
        if (loader_open(&ld, &d, split, &o, &err)) continue;
        Batch *b;
        for (int call = 0; call < 30 && !loader_next(ld, &b, &err) && b; call++)
            for (int i = 0; i < b->N; i++) {
                REQUIRE(b->tokens[i] >= 0 && b->tokens[i] < d.vocabulary.n);
                REQUIRE(b->target_lo[i] < 0 || (b->target_lo[i] < b->target_hi[i] && b->target_hi[i] <= d.vocabulary.n));
            }
        loader_close(ld);
    }
    dataset_close(&d);
    return 1;
}

static int attack_bytes(const char *dir, const char *file, const char *whole, size_t size, FILE *sink) {
    char *path = xasprintf("%s/%s", dir, file), *copy = xmalloc(size);
    memcpy(copy, whole, size);
    for (uint64_t k = 1 + draw(6); k; k--) {
        /* Structure lies at the front and between the arrays; half of the changes go to the first 4 KiB. */
        size_t at = (size_t)draw(draw(2) && size > 4096 ? 4096 : size);
        copy[at] = (char)(draw(2) ? draw(256) : (uint64_t)copy[at] ^ 1u << draw(8));
    }
    write_bytes(path, copy, draw(8) ? size : (size_t)draw(size));
    int opened = use(dir, sink);
    write_bytes(path, whole, size);
    free(copy);
    free(path);
    return opened;
}

static int32_t hostile(void) {
    static const int32_t edge[] = {0, -1, 1, INT32_MAX, INT32_MIN, 259199, 259200, 1000000000};
    return draw(2) ? edge[draw(sizeof edge / sizeof *edge)] : (int32_t)draw(1u << 20);
}

static int attack_content(const char *dir, FILE *sink) {
    enum { P = 5 };
    MadePatient p[P];
    for (int i = 0; i < P; i++) {
        made_patient(&p[i], seed + counter, i);
        for (uint64_t k = draw(5); k; k--) {
            size_t at = (size_t)draw((uint64_t)p[i].n);
            switch (draw(7)) {
            case 0: p[i].tokens[at] = (uint32_t)draw(80); break;
            case 1: p[i].minutes[at] = hostile(); break;
            case 2: p[i].observation_end = hostile(); break;
            case 3: p[i].statics[draw(2)] = (uint16_t)draw(65536); break;
            case 4: p[i].group[0] = (uint8_t)draw(256); break;
            case 5: p[i].n = (int64_t)draw((uint64_t)p[i].n) + 1; break;
            default: p[i].key = draw(3);
            }
        }
    }
    MadeSplit split[SPLIT_COUNT] = {{p, 3}, {p + 3, 1}, {p + 4, 1}};
    made_write(dir, split, 0, NULL);
    for (int i = 0; i < P; i++) made_patient_free(&p[i]);
    return use(dir, sink);
}

int main(int argc, char **argv) {
    double seconds = argc > 1 ? atof(argv[1]) : 2, start = clock_s();
    if (argc > 2) seed = strtoull(argv[2], NULL, 10);
    const char *base = getenv("TMPDIR");
    char *root = xasprintf("%s/ehr-fuzz-XXXXXX", base ? base : "/tmp"), *whole[2];
    REQUIRE(mkdtemp(root));
    char *dir = xasprintf("%s/bytes", root), *other = xasprintf("%s/content", root);
    static const char *const file[2] = {"train-00000.h5", "dataset.json"};
    size_t size[2];
    Err err;
    make_dataset(dir, 30, 1);
    for (int i = 0; i < 2; i++) {
        char *path = xasprintf("%s/%s", dir, file[i]);
        REQUIRE(!file_read(path, 1 << 26, &whole[i], &size[i], &err));
        free(path);
    }
    FILE *sink = fopen("/dev/null", "w");
    REQUIRE(sink);
    int64_t runs = 0, opened = 0;
    for (; clock_s() - start < seconds; runs++)
        opened += runs % 3 == 0 ? attack_content(other, sink) : attack_bytes(dir, file[runs % 3 - 1], whole[runs % 3 - 1], size[runs % 3 - 1], sink);
    printf("fuzz_shard: %lld datasets, %lld of them opened\n", (long long)runs, (long long)opened);
    fclose(sink);
    made_remove(root);
    for (int i = 0; i < 2; i++) free(whole[i]);
    free(dir);
    free(other);
    free(root);
    return 0;
}
