/* test_export.c - number formats against exact arithmetic, GGUF read back byte by byte, exported folders that load again,
 * and what is refused. */
#include "infer/export.h"
#include "infer/gguf.h"
#include "infer/gguf_read.h"
#include "model/checkpoint.h"
#include "tests/temp_files.h"
#include <jansson.h>
#include <math.h>

/* ---- numbers ----------------------------------------------------------------------------------------------------- */

static void test_half(void **state) {
    (void)state;
    float before = -INFINITY;
    for (int h = 0x7BFF; h >= 0; h--) assert_int_equal(half_from_float(-half_to_float((uint16_t)h)), h | 0x8000);
    for (int h = 0; h < 0x7C00; h++) {
        const float x = half_to_float((uint16_t)h), next = half_to_float((uint16_t)(h + 1));
        assert_int_equal(half_from_float(x), h);
        assert_true(x > before);
        before = x;
        if (h + 1 == 0x7C00) continue;
        /* Between neighbours: the nearest, and the even one from the middle, which a float holds exactly. */
        const float middle = 0.5f * (x + next);
        assert_int_equal(half_from_float(middle), h + (h & 1));
        assert_int_equal(half_from_float(nextafterf(middle, 0)), h);
        assert_int_equal(half_from_float(nextafterf(middle, INFINITY)), h + 1);
    }
    assert_true(half_to_float(0x3C00) == 1 && half_to_float(1) == 0x1p-24f && half_to_float(0x7BFF) == 65504);
    assert_int_equal(half_from_float(65519.99f), 0x7BFF);
    assert_int_equal(half_from_float(65520), 0x7C00);
    assert_int_equal(half_from_float(-INFINITY), 0xFC00);
    assert_true(isnan(half_to_float(half_from_float(NAN))));
}

static void test_bf16(void **state) {
    (void)state;
    assert_int_equal(bf16_from(1), 0x3F80);
    assert_int_equal(bf16_from(1 + 0x1p-8f), 0x3F80);            /* halfway: to even */
    assert_int_equal(bf16_from(1 + 0x1p-7f + 0x1p-8f), 0x3F82);  /* halfway: to even */
    assert_int_equal(bf16_from(1 + 0x1p-8f + 0x1p-20f), 0x3F81); /* above it */
    assert_int_equal(bf16_from(-3e38f), 0xFF62);
    assert_true(bf16_from(NAN) > 0x7F80);
}

static void test_q8_0(void **state) {
    (void)state;
    float x[2 * Q8_0_BLOCK] = {0};
    uint8_t out[68];
    for (int i = 0; i < Q8_0_BLOCK; i++) x[i] = (float)(i - 16);
    assert_int_equal(encode_bytes(ENCODE_Q8_0, 2 * Q8_0_BLOCK), 68);
    assert_int_equal(encode_floats(ENCODE_Q8_0, x, 2 * Q8_0_BLOCK, out), 2 * Q8_0_BLOCK);
    uint16_t scale;
    memcpy(&scale, out, 2);
    assert_int_equal(scale, half_from_float(16.0f / 127));
    assert_int_equal((int8_t)out[2], -127);
    assert_int_equal((int8_t)out[2 + 16], 0);
    assert_int_equal((int8_t)out[2 + 31], 119); /* 15 * 127 / 16 = 119.06 */
    for (int i = 34; i < 68; i++) assert_int_equal(out[i], 0);
    x[40] = 1e9f; /* its scale is beyond F16 */
    assert_int_equal(encode_floats(ENCODE_Q8_0, x, 2 * Q8_0_BLOCK, out), Q8_0_BLOCK);
    x[3] = 70000;
    assert_int_equal(encode_floats(ENCODE_F16, x, 8, out), 3);
}

/* ---- a checkpoint ------------------------------------------------------------------------------------------------ */

static Device *cpu;
static char *dir, *checkpoint;
static Model model;

static char *make_vocabulary(int n) {
    json_t *tokens = json_array();
    for (int i = 0; i < n; i++) {
        char code[32];
        snprintf(code, sizeof code, i == 0 ? "PAD" : i == 1 ? "RECORD_START" : i == 2 ? "MEDS_DEATH" : "CODE//\xC3\xA9 %d", i);
        json_array_append_new(tokens, json_pack("{s:i,s:s,s:s}", "id", i, "code", code, "kind", "event"));
    }
    json_t *o = json_pack("{s:s,s:o}", "format", "ehr.c vocabulary", "tokens", tokens);
    char *text = json_dumps(o, JSON_COMPACT);
    json_decref(o);
    return text;
}

/* d_ff 48 is no multiple of Q8_0's block; d_model 64 is. */
static int set_up(void **state) {
    (void)state;
    ModelConfig cfg = {.n_layers = 2, .d_model = 64, .n_heads = 2, .n_kv_heads = 1, .head_dim = 64, .d_ff = 48, .vocab_size = 70,
                       .seq_len = 128, .tied = 0, .rope_theta = 10000, .rms_eps = 1e-6, .init_std = 0.02};
    char why[256];
    cpu = device_open(DEVICE_CPU, 0, 1, why, sizeof why);
    dir = temp_dir();
    checkpoint = join(dir, "step-1");
    char *tmp = join(dir, "step-1.tmp"), *vocabulary = make_vocabulary(70);
    ok(model_open(&model, &cfg, cpu, DTYPE_F32, 1, &err));
    model_init(&model, 5);
    ArenaSlice all = {model.w_arena, 0, model.table.total};
    ok(checkpoint_begin(tmp, &cfg, &model.table, vocabulary, "{\"step\": 1, \"provenance\": {\"commit\": \"abc\", \"parent\": null}}", 0,
                        0, &err));
    ok(checkpoint_write_slices(tmp, &model.table, cpu, &all, NULL, NULL, 1, &err));
    ok(checkpoint_commit(tmp, checkpoint, &err));
    free(tmp);
    free(vocabulary);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    model_close(&model);
    device_close(cpu);
    free(checkpoint);
    remove_tree(dir);
    free(dir);
    return 0;
}

static Status export_to(const char *name, ExportFormat format, Encoding e, int64_t max_file, ExportSummary *sum) {
    char *out = join(dir, name);
    ExportOptions o = {.checkpoint = checkpoint, .format = format, .encoding = e, .max_file_bytes = max_file, .name = "n", .out = out};
    Status s = export_run(&o, sum, &err);
    free(out);
    return s;
}

/* ---- folders ----------------------------------------------------------------------------------------------------- */

/* Weights of an exported folder, which must load. */
static void check_folder(const char *name, int bf16) {
    char *path = join(dir, name);
    Model m;
    int listed;
    ok(checkpoint_verify(path, 0, &listed, NULL, &err));
    assert_true(listed);
    ok(checkpoint_load_model(path, &m, cpu, DTYPE_F32, 1, &err));
    const float *want = model.w_arena, *got = m.w_arena;
    for (int i = 0; i < m.table.n; i++)
        for (int64_t k = 0; k < m.table.spec[i].file_rows * m.table.spec[i].cols; k++) {
            const float x = want[m.table.spec[i].offset + k], y = got[m.table.spec[i].offset + k];
            uint32_t bits = (uint32_t)bf16_from(x) << 16;
            float rounded;
            memcpy(&rounded, &bits, sizeof rounded);
            if (y != (bf16 ? rounded : x)) fail_msg("%s: %s[%lld] is %g, not %g", name, m.table.spec[i].name, (long long)k, y, x);
        }
    model_close(&m);
    free(path);
}

static void test_folders(void **state) {
    (void)state;
    ExportSummary sum;
    size_t a, b;
    ok(export_to("f32", EXPORT_SAFETENSORS, ENCODE_F32, 1 << 30, &sum));
    assert_int_equal(sum.files, 1);
    char *there = slurp(dir, "step-1/model.safetensors", &a), *here = slurp(dir, "f32/model.safetensors", &b);
    assert_int_equal(a, b);
    assert_memory_equal(there, here, a);
    free(there);
    free(here);
    check_folder("f32", 0);
    ok(export_to("split", EXPORT_SAFETENSORS, ENCODE_F32, 40000, &sum));
    assert_true(sum.files > 2);
    check_folder("split", 0);
    ok(export_to("bf16", EXPORT_SAFETENSORS, ENCODE_BF16, 20000, &sum));
    assert_true(sum.files > 2);
    check_folder("bf16", 1);
    here = slurp(dir, "bf16/config.json", &a);
    assert_non_null(strstr(here, "\"dtype\": \"bfloat16\""));
    free(here);
}

static void test_split_damage(void **state) {
    (void)state;
    ExportSummary sum;
    Model m;
    ok(export_to("cut", EXPORT_SAFETENSORS, ENCODE_F32, 40000, &sum));
    char *path = join(dir, "cut"), *sums = join(dir, "cut/SHA256SUMS");
    char *file = xasprintf("%s/model-00002-of-%05d.safetensors", path, sum.files);
    remove(sums);
    rename(file, sums);
    assert_int_equal(checkpoint_load_model(path, &m, cpu, DTYPE_F32, 1, &err), ERR_IO);
    assert_non_null(strstr(err.msg, "model-00002"));
    static const char *const index[] = {"{", "{}", "{\"weight_map\": {\"a\": \"../x.safetensors\"}}", "{\"weight_map\": {\"a\": 3}}",
                                        "{\"weight_map\": {}}"};
    for (size_t i = 0; i < sizeof index / sizeof *index; i++) {
        spill(dir, "cut/model.safetensors.index.json", index[i], strlen(index[i]));
        assert_int_equal(checkpoint_load_model(path, &m, cpu, DTYPE_F32, 1, &err), ERR_FORMAT);
        assert_non_null(strstr(err.msg, "index.json"));
    }
    free(path);
    free(sums);
    free(file);
}

static void test_refused(void **state) {
    (void)state;
    ExportSummary sum;
    assert_int_equal(export_to("half", EXPORT_SAFETENSORS, ENCODE_F16, 1 << 30, &sum), ERR_USAGE);
    spill(dir, "old", "x", 1);
    assert_int_equal(export_to("old", EXPORT_GGUF, ENCODE_F32, 0, &sum), ERR_USAGE);
    assert_non_null(strstr(err.msg, "there already"));
    assert_int_equal(export_to("nowhere/x.gguf", EXPORT_GGUF, ENCODE_F32, 0, &sum), ERR_IO);
    disk_limit(50000);
    const Status full[] = {export_to("full.gguf", EXPORT_GGUF, ENCODE_F32, 0, &sum),
                           export_to("full", EXPORT_SAFETENSORS, ENCODE_F32, 1 << 30, &sum)};
    disk_unlimited();
    assert_int_equal(full[0], ERR_IO);
    assert_int_equal(full[1], ERR_IO);
    const char *const left[] = {"full.gguf", "full.gguf.tmp", "full", "full.tmp"};
    for (int i = 0; i < 4; i++) assert_false(exists(dir, left[i]));
}

/* ---- gguf -------------------------------------------------------------------------------------------------------- */

typedef struct {
    const char *p, *end;
} Reader;

static uint64_t take(Reader *r, int bytes) {
    uint64_t x = 0;
    assert_true(r->end - r->p >= bytes);
    memcpy(&x, r->p, (size_t)bytes);
    r->p += bytes;
    return x;
}

static void take_text(Reader *r, char *out, size_t size) {
    const uint64_t n = take(r, 8);
    assert_true(n <= (uint64_t)(r->end - r->p));
    if (out) snprintf(out, size, "%.*s", (int)n, r->p);
    r->p += n;
}

static void skip_value(Reader *r, uint32_t type) {
    static const int size[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    assert_true(type <= 12);
    if (type == 8) {
        take_text(r, NULL, 0);
    } else if (type == 9) {
        const uint32_t of = (uint32_t)take(r, 4);
        for (uint64_t n = take(r, 8); n; n--) skip_value(r, of);
    } else {
        take(r, size[type]);
    }
}

/* Value of a 32-bit key; texts go to out. */
static uint32_t key_find(Reader r, uint64_t n_keys, const char *want, char *out, size_t size) {
    for (; n_keys; n_keys--) {
        char name[128];
        take_text(&r, name, sizeof name);
        const uint32_t type = (uint32_t)take(&r, 4);
        if (strcmp(name, want)) {
            skip_value(&r, type);
        } else if (type == 8) {
            take_text(&r, out, size);
            return 0;
        } else if (type == 9) {
            assert_int_equal(take(&r, 4), 8);
            return (uint32_t)take(&r, 8);
        } else {
            return (uint32_t)take(&r, 4);
        }
    }
    fail_msg("no key %s", want);
    return 0;
}

static void test_gguf(void **state) {
    (void)state;
    static const uint32_t type_of[] = {[ENCODE_F32] = 0, [ENCODE_F16] = 1, [ENCODE_Q8_0] = 8, [ENCODE_BF16] = 30};
    for (Encoding e = ENCODE_F32; e <= ENCODE_Q8_0; e++) {
        char name[16], text[256];
        ExportSummary sum;
        size_t size;
        snprintf(name, sizeof name, "%s.gguf", encode_name(e));
        ok(export_to(name, EXPORT_GGUF, e, 0, &sum));
        assert_int_equal(sum.wider, e == ENCODE_Q8_0 ? 2 : 0); /* down, of two blocks */
        char *bytes = slurp(dir, name, &size);
        GgufFile g;
        Err err;
        assert_int_equal(gguf_parse(&g, bytes, size, name, &err), OK);
        assert_int_equal(g.n_tensors, 3 + 2 * 11);
        for (int64_t i = 1; i < g.n_tensors; i++) assert_true(g.tensor[i].begin >= g.tensor[i - 1].end);
        assert_true(size - g.tensor[g.n_tensors - 1].end < 32);
        gguf_file_free(&g);
        assert_int_equal(gguf_parse(&g, bytes, size - 32, name, &err), ERR_FORMAT);
        Reader r = {bytes, bytes + size};
        assert_memory_equal(bytes, "GGUF", 4);
        r.p += 4;
        assert_int_equal(take(&r, 4), 3);
        const uint64_t n_tensors = take(&r, 8), n_keys = take(&r, 8);
        assert_int_equal(n_tensors, 3 + 2 * 11);
        key_find(r, n_keys, "general.architecture", text, sizeof text);
        assert_string_equal(text, "qwen3");
        key_find(r, n_keys, "ehr.provenance.commit", text, sizeof text);
        assert_string_equal(text, "abc");
        assert_int_equal(key_find(r, n_keys, "qwen3.block_count", NULL, 0), 2);
        assert_int_equal(key_find(r, n_keys, "qwen3.attention.key_length", NULL, 0), 64);
        assert_int_equal(key_find(r, n_keys, "tokenizer.ggml.tokens", NULL, 0), 70);
        assert_int_equal(key_find(r, n_keys, "general.sampling.top_k", NULL, 0), 0); /* llama.cpp's own: 40 */
        assert_int_equal(key_find(r, n_keys, "general.sampling.temp", NULL, 0), 0x3F800000);
        assert_int_equal(key_find(r, n_keys, "general.sampling.top_p", NULL, 0), 0x3F800000);
        assert_int_equal(key_find(r, n_keys, "general.sampling.min_p", NULL, 0), 0);
        assert_int_equal(key_find(r, n_keys, "tokenizer.ggml.eos_token_id", NULL, 0), 2);
        for (uint64_t k = 0; k < n_keys; k++) {
            take_text(&r, NULL, 0);
            skip_value(&r, (uint32_t)take(&r, 4));
        }
        struct {
            char name[64];
            uint64_t cols, rows, type, offset;
        } t[32];
        for (uint64_t i = 0; i < n_tensors; i++) {
            take_text(&r, t[i].name, sizeof t[i].name);
            const uint64_t ndim = take(&r, 4);
            t[i].cols = take(&r, 8);
            t[i].rows = ndim == 2 ? take(&r, 8) : 1;
            t[i].type = take(&r, 4);
            t[i].offset = take(&r, 8);
            assert_int_equal(t[i].offset % 32, 0);
            assert_int_equal(t[i].type, ndim == 1 ? 0 : e == ENCODE_Q8_0 && t[i].cols % 32 ? 1 : type_of[e]);
        }
        const char *data = bytes + ((size_t)(r.p - bytes) + 31) / 32 * 32;
        for (uint64_t i = 0; i < n_tensors; i++) {
            int layer = 0;
            const float *want = NULL;
            if (!strcmp(t[i].name, "token_embd.weight")) want = model.w.embedding;
            if (!strcmp(t[i].name, "output.weight")) want = model.w.head;
            if (sscanf(t[i].name, "blk.%d.", &layer) == 1) {
                const LayerParams *l = &model.w.layer[layer];
                const char *what = t[i].name + 6;
                if (!strcmp(what, "attn_v.weight")) want = (const float *)l->qkv + (ptrdiff_t)3 * 64 * 64;
                if (!strcmp(what, "ffn_up.weight")) want = (const float *)l->gate_up + (ptrdiff_t)48 * 64;
                if (!strcmp(what, "attn_q_norm.weight")) want = l->q_norm;
            }
            if (!want) continue;
            Encoding used = t[i].type == 0 ? ENCODE_F32 : e;
            const int64_t count = (int64_t)(t[i].cols * t[i].rows), n = encode_bytes(used, count);
            void *expected = xmalloc((size_t)n);
            encode_floats(used, want, count, expected);
            assert_true(data + t[i].offset + n <= bytes + size);
            assert_memory_equal(data + t[i].offset, expected, n);
            free(expected);
        }
        free(bytes);
    }
}

static void test_pipe(void **state) {
    (void)state;
    char path[700];
    snprintf(path, sizeof path, "%s/pipe.gguf", dir);
    assert_int_equal(mkfifo(path, 0600), 0);
    alarm(30); /* ends the test when it waits */
    assert_int_equal(gguf_print(path, stdout, &err), ERR_IO);
    alarm(0);
    assert_non_null(strstr(err.msg, "no plain file"));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_half),     cmocka_unit_test(test_bf16),
                                       cmocka_unit_test(test_q8_0),     cmocka_unit_test(test_folders),
                                       cmocka_unit_test(test_refused),  cmocka_unit_test(test_split_damage),
                                       cmocka_unit_test(test_gguf),     cmocka_unit_test(test_pipe)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
