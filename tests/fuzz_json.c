/* fuzz_json.c SECONDS [SEED] - whatever the JSON files of a model folder hold (config.json, the index of split weights,
 * adapter_config.json, release.json, recalibration.json, an attestation), reading them ends in an answer within the reader's
 * bounds, or in an error with a message.  The corpus's names begin with the file's.  vocabulary.json and dataset.json have
 * fuzzers of their own. */
#include "data/attest.h"
#include "infer/release.h"
#include "infer/serve_maps.h"
#include "model/adapter.h"
#include "model/checkpoint.h"
#include "tests/fuzz_corpus.h"
#include "tests/fuzz_json.h"
#include "tests/make_dataset.h"
#include <math.h>

enum { CAPACITY = CORPUS_FILE_MAX + 8192 };
/* ---- the readers: each says whether it took the file ------------------------------------------------------------- */

static int read_config(const char *dir, Err *err) {
    ModelConfig c;
    if (config_read(dir, &c, err)) return 0;
    REQUIRE(c.n_layers > 0 && c.d_model > 0 && c.d_ff > 0 && c.head_dim > 0 && c.n_kv_heads > 0 && c.vocab_size > 0 && c.seq_len > 0);
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
} READER[] = {{"config.json", read_config},   {"model.safetensors.index.json", read_index}, {"adapter_config.json", read_adapter},
              {"release.json", read_release}, {"recalibration.json", read_maps},            {"attestation.json", read_attestation}};
enum { READERS = sizeof READER / sizeof *READER };

static int reader_of(const char *name) {
    const char *base = strrchr(name, '/') + 1;
    for (int i = 0; i < READERS; i++)
        if (!strncmp(base, READER[i].file, strlen(READER[i].file))) return i;
    fprintf(stderr, "%s: its name begins with none of the files that are read here\n", name);
    exit(1);
}

static void put(const char *dir, const char *name, const char *text, size_t n) {
    char *path = xasprintf("%s/%s", dir, name);
    unlink(path); /* a file that is overwritten goes to disk at once */
    FILE *f = fopen(path, "wb");
    REQUIRE(f && fwrite(text, 1, n, f) == n && !fclose(f));
    free(path);
}

/* With this and two more the folder is what the kept release.json was signed for. */
static const char CONFIG[] = "{}\n";

static int try(const char *dir, int reader, const char *text, size_t n, const char *kept) {
    char *path = xasprintf("%s/%s", dir, READER[reader].file);
    Err err = {OK, ""};
    put(dir, READER[reader].file, text, n);
    corpus_now.prefix = READER[reader].file;
    corpus_try(text, n, kept);
    const int taken = READER[reader].read(dir, &err);
    REQUIRE(taken || (err.code && err.msg[0]));
    corpus_try(NULL, 0, NULL);
    unlink(path);
    put(dir, "config.json", CONFIG, strlen(CONFIG));
    free(path);
    return taken;
}

static const char *const WORD[] = {
    "null", "-1", "0", "1e999", "1e-320", "99999999999999999999", "2147483648", "\"\"", "[]", "{}", "true", "0.5",
    "\"../x\"", "\"\\u0000\"", "[[[[", "\"\xff\"", "4611686018427387904", "\"model-00001-of-00002.safetensors\""};
enum { WORDS = sizeof WORD / sizeof *WORD };

int main(int argc, char **argv) {
    const double until = clock_s() + (argc > 1 ? atof(argv[1]) : 2);
    if (argc > 2) seed = strtoull(argv[2], NULL, 10);
    const char *tmp = getenv("TMPDIR");
    char *dir = xasprintf("%s/ehr-fuzz-XXXXXX", tmp && *tmp ? tmp : "/tmp"), *text = xmalloc(CAPACITY);
    int64_t runs = 0, taken = 0;
    int good[READERS] = {0}, lacks = 0;
    Corpus c;
    REQUIRE(mkdtemp(dir));
    corpus_open(&c, "json");
    put(dir, "config.json", CONFIG, strlen(CONFIG));
    put(dir, "model.safetensors", "weights\n", 8);
    put(dir, "trainer.json", "{\"provenance\":{}}\n", 18);
    for (int i = 0; i < c.n; i++) {
        const int r = reader_of(c.file[i].name);
        good[r] += try(dir, r, c.file[i].data, c.file[i].size, c.file[i].name);
    }
    for (; clock_s() < until; runs++) {
        const int i = (int)draw((uint64_t)c.n);
        memcpy(text, c.file[i].data, c.file[i].size);
        const size_t n = json_mutate(text, c.file[i].size, CORPUS_FILE_MAX, WORD, WORDS);
        taken += try(dir, reader_of(c.file[i].name), text, n, NULL);
    }
    for (int i = 0; i < READERS; i++) {
        if (!good[i]) fprintf(stderr, "no kept %s is a good one: its reader is hardly reached\n", READER[i].file);
        lacks |= !good[i];
    }
    printf("fuzz_json: %d kept and %lld mutated files, %lld of them taken, seed %llu: %s\n", c.n, (long long)runs, (long long)taken,
           (unsigned long long)seed, lacks ? "failed" : "ok");
    corpus_close(&c);
    made_remove(dir);
    free(dir);
    free(text);
    return lacks;
}
