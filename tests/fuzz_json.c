/* fuzz_json.c SECONDS [SEED] - whatever the JSON files of a model folder hold (config.json, the index of split weights,
 * adapter_config.json, release.json, recalibration.json, an attestation), reading them ends in an answer within the
 * reader's bounds, or in an error with a message.  An input is such a file behind a heading with its name
 * (fuzz_text.h). vocabulary.json and dataset.json have fuzzers of their own. */
#include "data/attest.h"
#include "infer/release.h"
#include "infer/serve_maps.h"
#include "model/adapter.h"
#include "model/checkpoint.h"
#include "tests/fuzz_text.h"
#include <math.h>

enum { CAPACITY = 1 << 17 };
/* ---- the readers: each says whether it took the file ------------------------------------------------------------- */

static int read_config(const char *dir, Err *err) {
    ModelConfig c;
    if (config_read(dir, &c, err)) return 0;
    REQUIRE(c.n_layers > 0 && c.d_model > 0 && c.d_ff > 0 && c.head_dim > 0 && c.n_kv_heads > 0 && c.vocab_size > 0 &&
            c.seq_len > 0);
    REQUIRE(c.n_heads % c.n_kv_heads == 0 && c.vocab_padded >= c.vocab_size && c.vocab_padded % 64 == 0);
    REQUIRE(c.rope_theta > 0 && c.rms_eps >= 0 && isfinite(c.rope_theta) && isfinite(c.rms_eps));
    return 1;
}

static int read_index(const char *dir, Err *err) {
    ModelFiles files;
    if (checkpoint_model_files(dir, &files, err)) return 0;
    REQUIRE(files.n > 0);
    for (int i = 0; i < files.n; i++) REQUIRE(files.name[i][0] && !strchr(files.name[i], '/'));
    model_files_free(&files);
    return 1;
}

static int read_adapter(const char *dir, Err *err) {
    LoraConfig lora;
    if (adapter_config_read(dir, &lora, err)) return 0;
    REQUIRE(lora.rank > 0 && lora.targets && !(lora.targets & ~(unsigned)LORA_ALL) && isfinite(lora.alpha));
    return 1;
}

static int read_release(const char *dir, Err *err) {
    Release r;
    if (release_verify(dir, NULL, NULL, "2026-11-30", &r, err)) return 0;
    REQUIRE(r.stage >= STAGE_NONE && r.stage < STAGES);
    return 1;
}

static int read_maps(const char *dir, Err *err) {
    RecalibrationMaps m;
    char *path = xasprintf("%s/recalibration.json", dir);
    const int bad = maps_read(&m, path, "the model", err);
    free(path);
    if (bad) return 0;
    for (int i = 0; i < m.n; i++) {
        const double p = map_apply(&m.map[i], 0.25);
        REQUIRE(m.map[i].name[0] && m.map[i].n_codes > 0 && p >= 0 && p <= 1);
    }
    maps_free(&m);
    return 1;
}

static int read_attestation(const char *dir, Err *err) {
    char *path = xasprintf("%s/attestation.json", dir);
    json_t *o;
    int good = !attest_load(&o, path, err);
    if (good) good = !attest_verify(o, NULL, path, err);
    json_decref(o);
    free(path);
    return good;
}

static const struct {
    const char *file;
    int (*read)(const char *dir, Err *err);
} READER[] = {{"config.json", read_config},          {"model.safetensors.index.json", read_index},
              {"adapter_config.json", read_adapter}, {"release.json", read_release},
              {"recalibration.json", read_maps},     {"attestation.json", read_attestation}};
enum { READERS = sizeof READER / sizeof *READER };

/* With this and two more the folder is what the kept release.json was signed for. */
static const char CONFIG[] = "{}\n";
static int taken[READERS];

static void begin(void) {
    fuzz_put("config.json", CONFIG, strlen(CONFIG));
    fuzz_put("model.safetensors", "weights\n", 8);
    fuzz_put("trainer.json", "{\"provenance\":{}}\n", 18);
}

static int try(const char *input, size_t n) {
    FuzzFile f;
    Err err = {OK, ""};
    size_t at = 0;
    int r = 0;
    if (!files_next(input, n, &at, &f)) return 0;
    while (r < READERS && strcmp(f.name, READER[r].file)) r++;
    if (r == READERS) return 0;
    fuzz_put(f.name, f.data, f.size);
    const int good = READER[r].read(fuzz_folder(), &err);
    REQUIRE(good || (err.code && err.msg[0]));
    fuzz_remove(f.name);
    fuzz_put("config.json", CONFIG, strlen(CONFIG));
    taken[r] += good;
    return good;
}

static const char *const WORD[] = {"null",
                                   "-1",
                                   "0",
                                   "1e999",
                                   "1e-320",
                                   "99999999999999999999",
                                   "2147483648",
                                   "\"\"",
                                   "[]",
                                   "{}",
                                   "true",
                                   "0.5",
                                   "\"../x\"",
                                   "\"\\u0000\"",
                                   "[[[[",
                                   "\"\xff\"",
                                   "4611686018427387904",
                                   "\"model-00001-of-00002.safetensors\""};
enum { WORDS = sizeof WORD / sizeof *WORD };

/* The heading stays as it is. */
static size_t make(char *input) {
    char name[FUZZ_NAME_MAX];
    const size_t n = fuzz_take(input), head = files_heading(input, n, name);
    return head + json_mutate(input + head, n - head, CAPACITY - head, WORD, WORDS);
}

static const char *end(void) {
    for (int i = 0; i < READERS; i++)
        if (!taken[i]) {
            fprintf(stderr, "fuzz_json: no %s was taken\n", READER[i].file);
            return "a reader is hardly reached";
        }
    return NULL;
}

static const Fuzzer FUZZER = {.name = "json", .max = CAPACITY, .open = begin, .make = make, .try = try, .close = end};
