/* fuzz_shard.c [SECONDS [SEED]] - whatever a dataset folder holds, opening, loading, validating and inspecting it ends
 * in an answer or an error.  Three attacks: bytes of a shard are changed (checksums must catch it); dataset.json is
 * changed; a dataset is written whose checksums are right and whose content is not.  An input is the files that lie
 * over those of a good dataset (fuzz_text.h). */
#include "data/inspect.h"
#include "data/loader.h"
#include "data/validate.h"
#include "tests/fuzz_text.h"
#include "tests/make_dataset.h"

enum { CAPACITY = 1 << 18, FILES = 5 };
static const char *const NAME[FILES] = {"train-00000.h5", "dataset.json", "vocabulary.json", "tuning-00000.h5",
                                        "held_out-00000.h5"};
static struct {
    char *data;
    size_t size;
} good[FILES];
static FILE *sink;

/* HDF5 1.10 leaks a little of its own when it meets damaged metadata; what our code leaks is still reported. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) { return "leak:libhdf5"; }

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
        LoaderOptions o = {.rows = 2, .T = 5 + (int)draw(200), .seed = 1, .shuffle = (int)draw(2), .world = 1};
        if (d.n_patients[split])
            inspect_patient(&d, split, (int64_t)draw((uint64_t)d.n_patients[split]), 50, (int)draw(2), sink, &err);
        if (loader_open(&ld, &d, split, &o, &err)) continue;
        Batch *b;
        for (int call = 0; call < 30 && !loader_next(ld, &b, &err) && b; call++)
            for (int i = 0; i < b->N; i++) {
                REQUIRE(b->tokens[i] >= 0 && b->tokens[i] < d.vocabulary.n);
                REQUIRE(b->target_lo[i] < 0 ||
                        (b->target_lo[i] < b->target_hi[i] && b->target_hi[i] <= d.vocabulary.n));
            }
        loader_close(ld);
    }
    dataset_close(&d);
    return 1;
}

static int32_t hostile(void) {
    static const int32_t edge[] = {0, -1, 1, INT32_MAX, INT32_MIN, 259199, 259200, 1000000000};
    return draw(2) ? edge[draw(sizeof edge / sizeof *edge)] : (int32_t)draw(1u << 20);
}

/* The files of the dataset in `dir`, behind what the input already holds. */
static size_t put_dataset(char *input, const char *dir) {
    size_t n = 0;
    for (int i = 0; i < FILES; i++) {
        char *path = xasprintf("%s/%s", dir, NAME[i]), *data;
        size_t size;
        Err err;
        REQUIRE(!file_read(path, CAPACITY, &data, &size, &err));
        n = files_add(input, n, CAPACITY, NAME[i], data, size);
        free(data);
        free(path);
    }
    return n;
}

static size_t make_content(char *input) {
    enum { P = 5 };
    MadePatient p[P];
    char *dir = xasprintf("%s.made", fuzz_folder());
    for (int i = 0; i < P; i++) {
        made_patient(&p[i], draw(UINT64_MAX), i);
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
    const size_t n = put_dataset(input, dir);
    made_remove(dir);
    free(dir);
    return n;
}

static size_t mutate(char *data, size_t size) {
    for (uint64_t k = 1 + draw(6); k; k--) {
        /* Structure lies at the front and between the arrays; half of the changes go to the first 4 KiB. */
        size_t at = (size_t)draw(draw(2) && size > 4096 ? 4096 : size);
        data[at] = (char)(draw(2) ? draw(256) : (uint64_t)data[at] ^ 1u << draw(8));
    }
    return draw(8) ? size : (size_t)draw(size);
}

static size_t make(char *input) {
    const uint64_t which = draw(8);
    if (which == 0) return mutate(input, fuzz_take(input));
    if (which < 4) return make_content(input);
    const size_t head = files_name(input, 0, CAPACITY, NAME[which & 1]);
    memcpy(input + head, good[which & 1].data, good[which & 1].size);
    return head + mutate(input + head, good[which & 1].size);
}

static int try(const char *input, size_t size) {
    FuzzFile f;
    for (size_t at = 0; files_next(input, size, &at, &f);)
        for (int i = 0; i < FILES; i++)
            if (!strcmp(f.name, NAME[i])) fuzz_put(f.name, f.data, f.size);
    const int opened = use(fuzz_folder(), sink);
    for (size_t at = 0; files_next(input, size, &at, &f);)
        for (int i = 0; i < FILES; i++)
            if (!strcmp(f.name, NAME[i])) fuzz_put(f.name, good[i].data, good[i].size);
    return opened;
}

static void begin(void) {
    char *input = xmalloc(CAPACITY);
    FuzzFile f;
    size_t at = 0;
    make_dataset(fuzz_folder(), 30, 1);
    fuzz_keep(input, put_dataset(input, fuzz_folder()));
    for (int i = 0; files_next(fuzz_kept.input[0].data, fuzz_kept.input[0].size, &at, &f); i++) {
        good[i].data = (char *)(uintptr_t)f.data;
        good[i].size = f.size;
    }
    free(input);
    sink = fopen("/dev/null", "w");
    REQUIRE(good[FILES - 1].data && sink);
}

static const char *end(void) {
    fclose(sink);
    return NULL;
}

static const Fuzzer FUZZER = {.name = "shard", .max = CAPACITY, .open = begin, .make = make, .try = try, .close = end};
