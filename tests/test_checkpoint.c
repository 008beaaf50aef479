/* test_checkpoint.c - checkpoint folders: bytes that do not depend on the number of ranks, what damage is called, full
 * disks, and the life of step-N folders. */
#include "kernels/philox.h"
#include "model/checkpoint.h"
#include "model/safetensors.h"
#include "tests/temp_files.h"
#include <jansson.h>
#include <math.h>

static const ModelConfig SHAPE = {.n_layers = 2,
                                  .d_model = 24,
                                  .n_heads = 4,
                                  .n_kv_heads = 2,
                                  .head_dim = 64,
                                  .d_ff = 40,
                                  .vocab_size = 70,
                                  .seq_len = 128,
                                  .rope_theta = 10000,
                                  .rms_eps = 1e-6,
                                  .init_std = 0.02};
static Device *cpu;

/* ---- checkpoints ------------------------------------------------------------------------------------------------- */

/* A vocabulary with what may trip a tokenizer: blanks, quotes, other scripts, two codes that differ in blanks only. */
static char *make_vocabulary(int n) {
    static const char *special[] = {"PAD",
                                    "RECORD_START",
                                    "A B",
                                    "A\xE2\x96\x81"
                                    "B",
                                    "A\xC2\xA0"
                                    "B",
                                    "quote\"\\/",
                                    "\xC3\xA9\xE6\xBC\xA2",
                                    "MEDS_DEATH",
                                    "UNKNOWN//drug",
                                    ""};
    json_t *tokens = json_array();
    for (int i = 0; i < n; i++) {
        char code[32];
        snprintf(code, sizeof code, "CODE//%d", i);
        json_array_append_new(tokens, json_pack("{s:i,s:s,s:s}", "id", i, "code", i < 10 ? special[i] : code, "kind",
                                                i == 8 ? "unknown" : "event"));
    }
    json_t *o = json_pack("{s:s,s:o}", "format", "ehr.c vocabulary", "tokens", tokens);
    char *text = json_dumps(o, JSON_COMPACT);
    json_decref(o);
    return text;
}

/* Element k of a file tensor, whatever the padding of the arena. */
static float value(const ParamSpec *s, int64_t k, int kind) {
    return (float)(philox_uniform(philox4x32(philox_hash(s->name), (uint64_t)k, (uint64_t)kind), 0) - 0.5);
}

static float *make_arena(const ParamTable *t, int kind) {
    float *a = xmalloc((size_t)t->total * sizeof *a);
    for (int64_t i = 0; i < t->total; i++) a[i] = NAN; /* padding must not reach a file */
    for (int i = 0; i < t->n; i++)
        for (int64_t k = 0; k < t->spec[i].file_rows * t->spec[i].cols; k++)
            a[t->spec[i].offset + k] = value(&t->spec[i], k, kind);
    return a;
}

static void build_table(ParamTable *t, ModelConfig *cfg, int tied, int64_t pad) {
    *cfg = SHAPE;
    cfg->tied = tied;
    ok(config_check(cfg, &err));
    ok(param_table_build(t, cfg, pad, &err));
}

/* Saves as `world` ranks would, each with `pieces` slices of its shard; last rank first. */
static Status save(const char *dir, int tied, int world, int pieces, int64_t max_file_bytes, const char *vocabulary) {
    ModelConfig cfg;
    ParamTable t;
    build_table(&t, &cfg, tied, 16 * world);
    float *arena[3];
    for (int k = 0; k < 3; k++) arena[k] = make_arena(&t, k);
    Status s = checkpoint_begin(dir, &cfg, &t, vocabulary, "{\"step\":7}", 1, max_file_bytes, &err);
    for (int rank = world - 1; rank >= 0 && !s; rank--) {
        ArenaSlice slice[3][8];
        const int64_t shard = t.total / world;
        for (int p = 0; p < pieces; p++) {
            const int64_t begin = rank * shard + shard * p / pieces, end = rank * shard + shard * (p + 1) / pieces;
            for (int k = 0; k < 3; k++) slice[k][p] = (ArenaSlice){arena[k] + begin, begin, end - begin};
        }
        s = checkpoint_write_slices(dir, &t, cpu, slice[0], slice[1], slice[2], pieces, &err);
    }
    for (int k = 0; k < 3; k++) free(arena[k]);
    param_table_free(&t);
    return s;
}

static void assert_same_folders(const char *a, const char *b) {
    DIR *d = opendir(a);
    int n = 0;
    for (struct dirent *e; (e = readdir(d));) {
        size_t x, y;
        if (e->d_name[0] == '.') continue;
        char *p = slurp(a, e->d_name, &x), *q = slurp(b, e->d_name, &y);
        assert_int_equal(x, y);
        assert_memory_equal(p, q, x);
        free(p);
        free(q);
        n++;
    }
    closedir(d);
    d = opendir(b);
    for (struct dirent *e; (e = readdir(d));) n -= e->d_name[0] != '.';
    closedir(d);
    assert_int_equal(n, 0);
}

static void check_loaded(const char *dir, int tied, int64_t pad) {
    static const char *what[] = {"model", "exp_avg", "exp_avg_sq"};
    char msg[256];
    Device *dev = device_open(DEVICE_CPU, 0, 1, msg, sizeof msg);
    Model m;
    ok(checkpoint_load_model(dir, &m, dev, DTYPE_F32, pad, &err));
    assert_int_equal(m.cfg.tied, tied);
    float *w = xmalloc((size_t)m.table.total * 4), *out = xmalloc((size_t)m.table.total * 4);
    device_download(dev, w, m.w_arena, (size_t)m.table.total * 4);
    const int64_t middle = m.table.total / 3;
    for (int kind = 0; kind < 3; kind++) {
        ok(checkpoint_read_slice(dir, &m.table, what[kind], cpu, out, 0, middle, &err));
        ok(checkpoint_read_slice(dir, &m.table, what[kind], cpu, out + middle, middle, m.table.total - middle, &err));
        if (kind == 0) assert_memory_equal(w, out, (size_t)m.table.total * 4);
        double padding = 0;
        for (int64_t i = 0; i < m.table.total; i++) padding += fabs(out[i]);
        for (int i = 0; i < m.table.n; i++) {
            const ParamSpec *s = &m.table.spec[i];
            for (int64_t k = 0; k < s->file_rows * s->cols; k++) {
                assert_true(out[s->offset + k] == value(s, k, kind));
                padding -= fabs(value(s, k, kind));
            }
        }
        assert_true(fabs(padding) < 1e-6); /* whatever is not in the files is zero */
    }
    free(w);
    free(out);
    model_close(&m);
    device_close(dev);
}

static void test_round_trip(void **state) {
    (void)state;
    char *vocabulary = make_vocabulary(70);
    for (int tied = 0; tied < 2; tied++) {
        char *dir = temp_dir(), *one = join(dir, "one"), *four = join(dir, "four"), *many = join(dir, "many");
        ok(save(one, tied, 1, 1, 0, vocabulary));
        ok(save(four, tied, 4, 3, 0, vocabulary));
        ok(checkpoint_sums_write(one, &err));
        ok(checkpoint_sums_write(four, &err));
        assert_same_folders(one, four);
        check_loaded(one, tied, 16);
        check_loaded(four, tied, 16 * 3);
        ok(save(many, tied, 3, 2, 5000, vocabulary)); /* moments over several files */
        assert_true(exists(many, "optimizer-00003-of-00025.safetensors") ||
                    !exists(many, "optimizer-00001-of-00001.safetensors"));
        check_loaded(many, tied, 32);
        size_t size;
        char *text = slurp(one, "vocabulary.json", &size);
        assert_string_equal(text, vocabulary);
        free(text);
        ok(checkpoint_read_text(one, "trainer.json", &text, &size, &err));
        assert_string_equal(text, "{\"step\":7}");
        free(text);
        refused(checkpoint_read_text(one, "none.json", &text, &size, &err), ERR_IO, "none.json");
        remove_tree(dir);
        free(dir);
        free(one);
        free(four);
        free(many);
    }
    free(vocabulary);
}

/* Every id has one word without white space; PAD is special; the unknown word exists. */
static void test_tokenizer(void **state) {
    (void)state;
    char *dir = temp_dir(), *vocabulary = make_vocabulary(70);
    ok(save(dir, 1, 1, 1, 0, vocabulary));
    char *text = slurp(dir, "tokenizer.json", NULL);
    json_t *o = json_loads(text, JSON_REJECT_DUPLICATES, NULL), *model = json_object_get(o, "model"),
           *vocab = json_object_get(model, "vocab"), *id;
    char seen[70] = {0};
    const char *word;
    assert_string_equal(json_string_value(json_object_get(model, "type")), "WordLevel");
    assert_string_equal(json_string_value(json_object_get(model, "unk_token")), "UNKNOWN//drug");
    assert_string_equal(json_string_value(json_object_get(json_object_get(o, "pre_tokenizer"), "type")),
                        "WhitespaceSplit");
    json_object_foreach(vocab, word, id) {
        assert_true(*word && !strpbrk(word, " \t\n\r\v\f") && !strstr(word, "\xC2\xA0"));
        seen[json_integer_value(id)]++;
    }
    for (int i = 0; i < 70; i++) assert_int_equal(seen[i], 1);
    assert_int_equal(json_integer_value(json_object_get(vocab, "PAD")), 0);
    json_decref(o);
    free(text);
    text = slurp(dir, "generation_config.json", NULL);
    o = json_loads(text, 0, NULL);
    assert_int_equal(json_integer_value(json_object_get(o, "eos_token_id")), 7);
    assert_int_equal(json_integer_value(json_object_get(o, "bos_token_id")), 1);
    json_decref(o);
    free(text);
    free(vocabulary);
    remove_tree(dir);
    free(dir);
}

/* ---- damaged checkpoints ----------------------------------------------------------------------------------------- */

static Status load(const char *dir) {
    char msg[256];
    Device *dev = device_open(DEVICE_CPU, 0, 1, msg, sizeof msg);
    Model m;
    Status s = checkpoint_load_model(dir, &m, dev, DTYPE_F32, 16, &err);
    if (!s) model_close(&m);
    device_close(dev);
    return s;
}

/* Replaces text inside a file by text of the same length. */
static void patch(const char *dir, const char *name, const char *from, const char *to) {
    size_t size;
    char *bytes = slurp(dir, name, &size), *at = memmem(bytes, size, from, strlen(from));
    assert_int_equal(strlen(from), strlen(to));
    assert_non_null(at);
    memcpy(at, to, strlen(to));
    spill(dir, name, bytes, size);
    free(bytes);
}

static void test_damaged(void **state) {
    (void)state;
    static const struct {
        const char *file, *from, *to, *says;
    } bad[] = {
        {"model.safetensors", "layers.1.mlp.down_proj", "layers.1.mlp.down_prok",
         "model.layers.1.mlp.down_proj.weight [24, 40] is missing"},
        {"model.safetensors", "[24,40]", "[40,24]", "is [40, 24] but config.json asks for [24, 40]"},
        {"model.safetensors", "\"shape\":[64],", "\"shape\":[64[,", "header is not valid JSON"},
        {"model.safetensors", "\"shape\":[64]", "\"shape\":[63]", "does not fill"},
        {"model.safetensors", "\"F32\"", "\"I32\"", "F32 and BF16 can be loaded"},
        {"config.json", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1", "does not belong"},
        {"config.json", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 9",
         "layers.2.input_layernorm.weight [24] is missing"},
        {"config.json", "\"hidden_size\": 24", "\"hidden_size\": 32", "[70, 24] but config.json asks for [70, 32]"},
        {"config.json", "\"vocab_size\": 70", "\"vocab_size\": 71", "has 70 tokens but the model was made for 71"},
        {"vocabulary.json", "\"id\":33", "\"id\":34", "token 33 does not have id 33"},
        {"vocabulary.json", "\"tokens\"", "\"tokems\"", "no array \"tokens\""},
    };
    char *dir = temp_dir(), *vocabulary = make_vocabulary(70), *ckpt = join(dir, "step-7");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        ok(save(ckpt, 1, 1, 1, 0, vocabulary));
        ok(load(ckpt));
        patch(ckpt, bad[i].file, bad[i].from, bad[i].to);
        refused(load(ckpt), ERR_FORMAT, bad[i].says);
    }
    size_t twice; /* two files with the same tensors: which of them counts? */
    ok(save(ckpt, 1, 1, 1, 0, vocabulary));
    char *copy = slurp(ckpt, "model.safetensors", &twice);
    spill(ckpt, "again.safetensors", copy, twice);
    free(copy);
    static const char index[] = "{\"weight_map\": {\"model.norm.weight\": \"model.safetensors\", \"model.embed_tokens.weight\": \"again.safetensors\"}}";
    spill(ckpt, "model.safetensors.index.json", index, sizeof index - 1);
    refused(load(ckpt), ERR_FORMAT, "a tensor is in two files");
    static const char *files[] = {"model.safetensors", "config.json", "vocabulary.json"};
    for (int i = 0; i < 3; i++) { /* cut short, and gone */
        size_t size;
        ok(save(ckpt, 1, 1, 1, 0, vocabulary));
        char *bytes = slurp(ckpt, files[i], &size), *path = join(ckpt, files[i]);
        spill(ckpt, files[i], bytes, size * 3 / 4);
        refused(load(ckpt), ERR_FORMAT, files[i]);
        unlink(path);
        assert_int_not_equal(load(ckpt), OK);
        assert_non_null(strstr(err.msg, files[i]));
        free(bytes);
        free(path);
    }
    free(ckpt);
    free(vocabulary);
    remove_tree(dir);
    free(dir);
}

static void test_not_finite(void **state) {
    (void)state;
    char *dir = temp_dir(), *vocabulary = make_vocabulary(70), *path = join(dir, "model.safetensors");
    size_t size;
    Safetensors st;
    ok(save(dir, 1, 1, 1, 0, vocabulary));
    ok(safetensors_open(&st, path, &err));
    const int64_t at = safetensors_find(&st, "model.norm.weight")->begin + 4 * 5;
    safetensors_close(&st);
    char *bytes = slurp(dir, "model.safetensors", &size);
    const float nan = NAN;
    memcpy(bytes + at, &nan, 4);
    spill(dir, "model.safetensors", bytes, size);
    refused(load(dir), ERR_FORMAT, "element 5 of tensor model.norm.weight is not a finite number");
    free(bytes);
    free(path);
    free(vocabulary);
    remove_tree(dir);
    free(dir);
}

static void test_optimizer_damaged(void **state) {
    (void)state;
    char *dir = temp_dir(), *vocabulary = make_vocabulary(70);
    ModelConfig cfg;
    ParamTable t;
    build_table(&t, &cfg, 1, 16);
    float *out = xmalloc((size_t)t.total * 4);
    ok(save(dir, 1, 1, 1, 20000, vocabulary));
    char name[64], *path = NULL;
    for (int m = 2; m < 99 && !path; m++) {
        snprintf(name, sizeof name, "optimizer-00002-of-%05d.safetensors", m);
        if (exists(dir, name)) path = join(dir, name);
    }
    assert_non_null(path);
    ok(checkpoint_read_slice(dir, &t, "exp_avg", cpu, out, 0, t.total, &err));
    unlink(path);
    refused(checkpoint_read_slice(dir, &t, "exp_avg", cpu, out, 0, t.total, &err), ERR_IO, name);
    remove_tree(dir);
    ok(checkpoint_begin(dir, &cfg, &t, vocabulary, "{}", 0, 0, &err));
    refused(checkpoint_read_slice(dir, &t, "exp_avg", cpu, out, 0, t.total, &err), ERR_IO, "no optimizer state");
    /* Moments exist for trainable parameters only: a run that freezes others cannot resume from them. */
    t.spec[3].trainable = 0;
    ok(checkpoint_begin(dir, &cfg, &t, vocabulary, "{}", 1, 0, &err));
    ok(checkpoint_read_slice(dir, &t, "exp_avg", cpu, out, 0, t.total, &err));
    t.spec[3].trainable = 1;
    refused(checkpoint_read_slice(dir, &t, "exp_avg", cpu, out, 0, t.total, &err), ERR_FORMAT,
            "q_norm.weight [64] is missing");
    t.spec[3].trainable = t.spec[4].trainable = 0;
    refused(checkpoint_read_slice(dir, &t, "exp_avg", cpu, out, 0, t.total, &err), ERR_FORMAT, "does not belong");
    free(out);
    free(path);
    free(vocabulary);
    param_table_free(&t);
    remove_tree(dir);
    free(dir);
}

/* BF16 weights (an exported model) load as the floats they stand for. */
static void test_bf16(void **state) {
    (void)state;
    char *dir = temp_dir(), *vocabulary = make_vocabulary(70), *path = join(dir, "model.safetensors");
    Safetensors st;
    ok(save(dir, 1, 1, 1, 0, vocabulary));
    ok(safetensors_open(&st, path, &err));
    TensorInfo *t = xcalloc((size_t)st.n, sizeof *t);
    memcpy(t, st.tensor, (size_t)st.n * sizeof *t);
    for (int i = 0; i < st.n; i++) t[i].dtype = DTYPE_BF16;
    char *half_path = join(dir, "half");
    ok(safetensors_create(half_path, t, st.n, NULL, &err));
    size_t size;
    char *bytes = slurp(dir, "half", &size);
    for (int i = 0; i < st.n; i++)
        for (int64_t k = 0; k < (t[i].end - t[i].begin) / 2; k++)
            memcpy(bytes + t[i].begin + 2 * k, (const char *)safetensors_data(&st, &st.tensor[i]) + 4 * k + 2, 2);
    const int n = st.n;
    safetensors_close(&st);
    spill(dir, "model.safetensors", bytes, size);
    assert_true(n > 0);
    ModelConfig cfg;
    ParamTable table;
    build_table(&table, &cfg, 1, 16);
    float *out = xmalloc((size_t)table.total * 4);
    ok(load(dir));
    ok(checkpoint_read_slice(dir, &table, "model", cpu, out, 0, table.total, &err));
    for (int i = 0; i < table.n; i++)
        for (int64_t k = 0; k < table.spec[i].file_rows * table.spec[i].cols; k++) {
            const float want = value(&table.spec[i], k, 0), got = out[table.spec[i].offset + k];
            assert_true(fabsf(got - want) <= fabsf(want) / 128 && (want == 0) == (got == 0));
        }
    free(out);
    param_table_free(&table);
    free(bytes);
    free(t);
    free(half_path);
    free(path);
    free(vocabulary);
    remove_tree(dir);
    free(dir);
}

static void test_wrong_folder(void **state) {
    (void)state;
    char *dir = temp_dir();
    refused(load("/nonexistent/step-1"), ERR_IO, "no checkpoint folder");
    refused(load(dir), ERR_FORMAT, "no config.json");
    spill(dir, "log.jsonl", "", 0);
    refused(load(dir), ERR_FORMAT, "without a whole checkpoint");
    spill(dir, "dataset.json", "{}", 2);
    refused(load(dir), ERR_FORMAT, "train on it first");
    remove_tree(dir);
    free(dir);
}

/* ---- the life of step-N ------------------------------------------------------------------------------------------ */

static void save_step(const char *run, int step, int tied, const char *vocabulary) {
    char *tmp = xasprintf("%s/step-%d.tmp", run, step), *final = xasprintf("%s/step-%d", run, step);
    ok(save(tmp, tied, 1, 1, 0, vocabulary));
    ok(checkpoint_commit(tmp, final, &err));
    assert_false(path_exists(tmp));
    free(tmp);
    free(final);
}

static void test_steps(void **state) {
    (void)state;
    char *run = temp_dir(), *vocabulary = make_vocabulary(70), dir[512];
    int64_t step;
    ok(checkpoint_latest(run, dir, sizeof dir, &step, &err));
    assert_int_equal(step, -1);
    ok(checkpoint_latest("/nonexistent/run", dir, sizeof dir, &step, &err));
    assert_int_equal(step, -1);
    for (int i = 1; i <= 5; i++) save_step(run, i * 3, 1, vocabulary);
    ok(checkpoint_link(run, "best", "step-3", &err));
    ok(checkpoint_link(run, "latest", "step-12", &err));
    ok(checkpoint_link(run, "latest", "step-15", &err));
    char *left = join(run, "step-18.tmp"), *other = join(run, "step-007"), *final = join(run, "step-15");
    ok(dir_make(left, &err));
    ok(dir_make(other, &err));
    spill(left, "model.safetensors", "half", 4);
    ok(checkpoint_latest(run, dir, sizeof dir, &step, &err));
    assert_int_equal(step, 15);
    assert_string_equal(dir, final);
    ok(checkpoint_prune(run, 2, &err));
    assert_true(exists(run, "step-3") && exists(run, "step-12") && exists(run, "step-15") && exists(run, "step-007"));
    assert_false(exists(run, "step-6") || exists(run, "step-9") || exists(run, "step-18.tmp") ||
                 exists(run, "step-6.tmp"));
    char *latest = join(run, "latest");
    ok(load(latest));
    /* Saving a step again replaces it whole, and a stale .tmp of it is no hindrance. */
    char *stale = join(run, "step-15.tmp");
    ok(dir_make(stale, &err));
    spill(stale, "junk", "x", 1);
    save_step(run, 15, 0, vocabulary);
    ok(load(latest));
    assert_false(exists(final, "junk"));
    ok(checkpoint_remove(final, &err));
    assert_false(exists(run, "step-15") || exists(run, "step-15.tmp"));
    refused(checkpoint_remove(final, &err), ERR_IO, "step-15");
    free(stale);
    free(latest);
    free(left);
    free(other);
    free(final);
    free(vocabulary);
    remove_tree(run);
    free(run);
}

/* ---- checksums --------------------------------------------------------------------------------------------------- */

static void flip(const char *dir, const char *name, size_t at, int bit) {
    size_t size;
    char *bytes = slurp(dir, name, &size);
    assert_true(at < size);
    bytes[at] = (char)(bytes[at] ^ 1 << bit);
    spill(dir, name, bytes, size);
    free(bytes);
}

/* Any bit of any file: the first and last byte, some in between, and the low bit of a weight's mantissa, which no reader
 * could notice.  Flipped back, the checkpoint is whole again. */
static void test_sums(void **state) {
    (void)state;
    char *run = temp_dir(), *vocabulary = make_vocabulary(70), *dir = join(run, "step-1"), sha[65];
    static const char *const files[] = {"config.json", "generation_config.json", "tokenizer.json", "trainer.json", "vocabulary.json",
                                        "model.safetensors", "optimizer-00001-of-00001.safetensors"};
    int listed;
    save_step(run, 1, 1, vocabulary);
    ok(checkpoint_verify(dir, 1, &listed, sha, &err));
    assert_int_equal(listed, 1);
    assert_int_equal(strlen(sha), 64);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        size_t size;
        free(slurp(dir, files[i], &size));
        for (int k = 0; k < 9; k++) {
            const size_t at = k == 8 ? size - 1 : size * (size_t)k / 8;
            flip(dir, files[i], at, k % 8);
            refused(checkpoint_verify(dir, 1, &listed, sha, &err), ERR_FORMAT, files[i]);
            assert_non_null(strstr(err.msg, "is damaged or was changed"));
            if (!strncmp(files[i], "optimizer", 9)) ok(checkpoint_verify(dir, 0, &listed, sha, &err));
            else refused(checkpoint_verify(dir, 0, &listed, NULL, &err), ERR_FORMAT, files[i]);
            flip(dir, files[i], at, k % 8);
        }
    }
    ok(checkpoint_verify(dir, 1, &listed, NULL, &err));
    Safetensors st;
    char *path = join(dir, "model.safetensors");
    ok(safetensors_open(&st, path, &err));
    const size_t mantissa = (size_t)safetensors_find(&st, "model.layers.1.mlp.down_proj.weight")->begin + 4 * 33;
    safetensors_close(&st);
    flip(dir, "model.safetensors", mantissa, 0);
    ok(load(dir)); /* the reason for checksums */
    refused(checkpoint_verify(dir, 0, &listed, sha, &err), ERR_FORMAT, "model.safetensors");
    flip(dir, "model.safetensors", mantissa, 0);
    free(path);
    free(dir);
    free(vocabulary);
    remove_tree(run);
    free(run);
}

/* The list itself may be damaged, or not there. */
static void test_sums_damaged(void **state) {
    (void)state;
    char *run = temp_dir(), *vocabulary = make_vocabulary(70), *dir = join(run, "step-1"), *path = join(dir, "SHA256SUMS"), sha[65];
    int listed;
    save_step(run, 1, 1, vocabulary);
    size_t size;
    char *bytes = slurp(dir, "SHA256SUMS", &size);
    for (size_t at = 0; at < size; at += 7) { /* another digit, an unreadable line or another name: never unnoticed */
        flip(dir, "SHA256SUMS", at, 2);
        assert_int_equal(checkpoint_verify(dir, 1, &listed, sha, &err), ERR_FORMAT);
        flip(dir, "SHA256SUMS", at, 2);
    }
    spill(dir, "SHA256SUMS", bytes, size - 1);
    refused(checkpoint_verify(dir, 1, &listed, sha, &err), ERR_FORMAT, "line 8 is damaged");
    spill(dir, "SHA256SUMS", bytes, 0);
    refused(checkpoint_verify(dir, 1, &listed, sha, &err), ERR_FORMAT, "is not listed");
    unlink(path);
    ok(checkpoint_verify(dir, 1, &listed, sha, &err));
    assert_int_equal(listed, 0);
    assert_string_equal(sha, "");
    free(bytes);
    free(path);
    free(dir);
    free(vocabulary);
    remove_tree(run);
    free(run);
}

/* The disk fills up when the files are created, or while they are written: an error, and the last good one stays. */
static void test_disk_full(void **state) {
    (void)state;
    char *run = temp_dir(), *vocabulary = make_vocabulary(70), *tmp = join(run, "step-2.tmp"),
         *good = join(run, "step-1"), dir[512];
    save_step(run, 1, 1, vocabulary);
    ModelConfig cfg;
    ParamTable t;
    build_table(&t, &cfg, 1, 16);
    static const rlim_t limits[] = {16, 3000, 20000, 100000};
    for (int i = 0; i < 4; i++) {
        disk_limit(limits[i]);
        Status s = checkpoint_begin(tmp, &cfg, &t, vocabulary, "{}", 1, 0, &err);
        disk_unlimited();
        refused(s, ERR_IO, "cannot write");
    }
    ok(checkpoint_begin(tmp, &cfg, &t, vocabulary, "{}", 1, 0, &err));
    float *arena = make_arena(&t, 0);
    const ArenaSlice all = {arena, 0, t.total};
    disk_limit(20000);
    Status s = checkpoint_write_slices(tmp, &t, cpu, &all, &all, &all, 1, &err);
    disk_unlimited();
    refused(s, ERR_IO, "model.safetensors");
    int64_t step;
    ok(checkpoint_latest(run, dir, sizeof dir, &step, &err));
    assert_int_equal(step, 1);
    ok(load(good));
    ok(checkpoint_prune(run, 1, &err));
    assert_false(path_exists(tmp));
    assert_true(path_exists(good));
    free(arena);
    param_table_free(&t);
    free(tmp);
    free(good);
    free(vocabulary);
    remove_tree(run);
    free(run);
}

/* A vocabulary of another size is refused when the first checkpoint is begun, not when it is loaded. */
static void test_begin_refused(void **state) {
    (void)state;
    char *dir = temp_dir(), *vocabulary = make_vocabulary(69);
    refused(save(dir, 1, 1, 1, 0, vocabulary), ERR_FORMAT, "has 69 tokens but the model was made for 70");
    refused(save(dir, 1, 1, 1, 0, "{"), ERR_FORMAT, "not valid JSON");
    free(vocabulary);
    remove_tree(dir);
    free(dir);
}

static int open_cpu(void **state) {
    (void)state;
    char msg[256];
    return (cpu = device_open(DEVICE_CPU, 0, 1, msg, sizeof msg)) == NULL;
}

static int close_cpu(void **state) {
    (void)state;
    device_close(cpu);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),        cmocka_unit_test(test_tokenizer),
        cmocka_unit_test(test_sums),              cmocka_unit_test(test_sums_damaged),
        cmocka_unit_test(test_damaged),           cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_optimizer_damaged), cmocka_unit_test(test_bf16),
        cmocka_unit_test(test_wrong_folder),      cmocka_unit_test(test_steps),
        cmocka_unit_test(test_disk_full),         cmocka_unit_test(test_begin_refused),
    };
    return cmocka_run_group_tests_name("checkpoint", tests, open_cpu, close_cpu);
}
