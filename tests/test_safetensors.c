/* test_safetensors.c - the container and config.json: round trips and a table of corruptions for each. */
#include "model/config.h"
#include "model/safetensors.h"
#include "tests/temp_files.h"

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
/* ---- safetensors ------------------------------------------------------------------------------------------------- */

static void test_safetensors_round_trip(void **state) {
    (void)state;
    char *dir = temp_dir(), *path = join(dir, "x.safetensors");
    TensorInfo t[3] = {{.name = "b", .dtype = DTYPE_F32, .ndim = 2, .dim = {3, 5}},
                       {.name = "a", .dtype = DTYPE_I8, .ndim = 1, .dim = {7}},
                       {.name = "empty", .dtype = DTYPE_F64, .ndim = 3, .dim = {2, 0, 9}}};
    ok(safetensors_create(path, t, 3, "{\"format\":\"pt\"}", &err));
    size_t size;
    char *bytes = slurp(dir, "x.safetensors", &size);
    assert_int_equal(size, t[1].end);
    assert_int_equal(t[0].begin % 64, 0);
    memset(bytes + t[1].begin, 42, 7);
    spill(dir, "x.safetensors", bytes, size);
    Safetensors st;
    ok(safetensors_open(&st, path, &err));
    assert_int_equal(st.n, 3);
    assert_string_equal(st.metadata, "{\"format\":\"pt\"}");
    const TensorInfo *a = safetensors_find(&st, "a");
    assert_int_equal(a->dtype, DTYPE_I8);
    assert_int_equal(a->dim[0], 7);
    assert_int_equal(((const char *)safetensors_data(&st, a))[6], 42);
    assert_null(safetensors_find(&st, "c"));
    safetensors_close(&st);
    /* Cut anywhere: never accepted, never a crash. */
    for (size_t cut = 0; cut < size; cut++) {
        refused(safetensors_parse(&st, bytes, cut, "cut", &err), ERR_FORMAT, "cut");
        assert_null(st.tensor);
    }
    free(bytes);
    refused(safetensors_open(&st, dir, &err), ERR_IO, "regular file");
    char *none = join(dir, "none");
    refused(safetensors_open(&st, none, &err), ERR_IO, none);
    free(none);
    remove_tree(dir);
    free(path);
    free(dir);
}

/* Parses a file of `header` and n data bytes. */
static Status parse_text(const char *header, size_t n) {
    const uint64_t length = strlen(header);
    char *file = xcalloc(1, 8 + length + n);
    memcpy(file, &length, 8);
    memcpy(file + 8, header, length);
    Safetensors st;
    Status s = safetensors_parse(&st, file, 8 + length + n, "x.safetensors", &err);
    if (!s) safetensors_close(&st);
    free(file);
    return s;
}

static void test_safetensors_corrupt(void **state) {
    (void)state;
    static const struct {
        const char *header;
        size_t data;
        const char *says;
    } bad[] = {
        {"[]", 0, "not a safetensors file"},
        {"{", 0, "cut short"},
        {"{]", 0, "not valid JSON"},
        {"{} x", 0, "not valid JSON"},
        {"{}", 4, "its tensors end at byte 10"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 8, "tensors end at byte"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 3, "cut short"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}", 4, "does not fill its 4 bytes"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]}}", 4, "lies at bytes"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[-4,0]}}", 4, "lies at bytes"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}", 8, "hole"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},\"b\":{\"dtype\":\"F32\",\"shape\":[2],"
         "\"data_offsets\":[0,8]}}",
         8, "overlap"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}", 4, "dimension 0"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1.0],\"data_offsets\":[0,4]}}", 4, "dimension 0"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904,4],\"data_offsets\":[0,0]}}", 0, "does not fill"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[9223372036854775808],\"data_offsets\":[0,0]}}", 0, "not valid JSON"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1],\"data_offsets\":[0,4]}}", 4, "at most 4 dimensions"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":1,\"data_offsets\":[0,4]}}", 4, "no shape"},
        {"{\"a\":{\"dtype\":\"F31\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "dtype 'F31'"},
        {"{\"a\":{\"dtype\":7,\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "dtype 'missing'"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}", 4, "pair of data_offsets"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,\"4\"]}}", 4, "pair of data_offsets"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "exactly dtype"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"x\":1}}", 4, "exactly dtype"},
        {"{\"a\":4}", 4, "exactly dtype"},
        {"{\"a\":{\"dtype\":\"I8\",\"shape\":[0],\"data_offsets\":[0,0]},\"a\":{\"dtype\":\"I8\",\"shape\":[0],"
         "\"data_offsets\":[0,0]}}",
         0, "not valid JSON"},
        {"{\"__metadata__\":{\"format\":1}}", 0, "not a string"},
        {"{\"__metadata__\":[]}", 0, "not an object"},
        {"{\"\xff\":{}}", 0, "not valid JSON"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        refused(parse_text(bad[i].header, bad[i].data), ERR_FORMAT, bad[i].says);
    ok(parse_text("{}", 0));
    ok(parse_text("{\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}   ", 4));
    char longer[300];
    snprintf(longer, sizeof longer, "{\"%0150d\":{\"dtype\":\"I8\",\"shape\":[0],\"data_offsets\":[0,0]}}", 1);
    refused(parse_text(longer, 0), ERR_FORMAT, "longer than");
    static const uint64_t lengths[] = {UINT64_MAX, UINT64_MAX - 7, (uint64_t)1 << 63, 100000001, 17, 1, 0};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) { /* a lying length, before anything is read by it */
        char file[24] = "........{}              ";
        Safetensors st;
        memcpy(file, &lengths[i], 8);
        refused(safetensors_parse(&st, file, sizeof file, "x", &err), ERR_FORMAT, "not a safetensors file");
    }
}

/* ---- config.json ------------------------------------------------------------------------------------------------- */

static void test_config_round_trip(void **state) {
    (void)state;
    char *dir = temp_dir();
    for (int i = 0; i < 2; i++) {
        ModelConfig cfg = SHAPE, back;
        cfg.tied = i;
        if (i) cfg.rope_theta = 1e6 / 3; /* needs all 17 digits */
        ok(config_check(&cfg, &err));
        ok(config_write(dir, &cfg, 0, 1, -1, &err));
        ok(config_read(dir, &back, &err));
        assert_memory_equal(&cfg, &back, sizeof cfg);
    }
    remove_tree(dir);
    free(dir);
}

static char *replaced(const char *text, const char *from, const char *to) {
    size_t at = 0;
    while (text[at] && strncmp(text + at, from, strlen(from))) at++;
    if (!text[at]) fail_msg("no '%s' in %s", from, text);
    return xasprintf("%.*s%s%s", (int)at, text, to, text + at + strlen(from));
}

static void test_config_refused(void **state) {
    (void)state;
    static const struct {
        const char *from, *to, *says;
    } bad[] = {
        {"{", "", "not a JSON object"},
        {"\"qwen3\"", "\"llama\"", "model_type is 'llama'"},
        {"\"hidden_size\": 24", "\"hidden_size\": 24.5", "hidden_size is missing or not a whole number"},
        {"\"hidden_size\": 24", "\"hidden_sice\": 24", "hidden_size is missing"},
        {"\"hidden_size\": 24", "\"hidden_size\": 1e999", "not a JSON object"},
        {"\"hidden_size\": 24", "\"hidden_size\": 4294967320", "hidden_size is 4294967320"},
        {"\"hidden_size\": 24", "\"hidden_size\": -24", "hidden_size is -24"},
        {"\"num_key_value_heads\": 2", "\"num_key_value_heads\": 3", "evenly"},
        {"\"silu\"", "\"gelu\"", "hidden_act is 'gelu'"},
        {"\"attention_bias\": false", "\"attention_bias\": true", "attention_bias"},
        {"\"use_sliding_window\": false", "\"use_sliding_window\": true", "sliding"},
        {"\"full_attention\"", "\"sliding_attention\"", "layer_types[0]"},
        {"\"rope_type\": \"default\"", "\"rope_type\": \"yarn\"", "rope_type is 'yarn'"},
        {"\"rope_theta\": 10000.0\n", "\"rope_theta\": \"x\"\n", "rope_theta"},
        {"\"rms_norm_eps\": 1e-6", "\"rms_norm_eps\": -1", "rms_eps"},
        {"\"tie_word_embeddings\": false", "\"tie_word_embeddings\": 1", "tie_word_embeddings"},
    };
    char *dir = temp_dir();
    ModelConfig cfg = SHAPE;
    ok(config_check(&cfg, &err));
    ok(config_write(dir, &cfg, 0, 1, -1, &err));
    char *text = slurp(dir, "config.json", NULL);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char *changed = replaced(text, bad[i].from, bad[i].to);
        spill(dir, "config.json", changed, strlen(changed));
        refused(config_read(dir, &cfg, &err), ERR_FORMAT, bad[i].says);
        free(changed);
    }
    spill(dir, "config.json", text, strlen(text) / 2);
    refused(config_read(dir, &cfg, &err), ERR_FORMAT, "config.json");
    free(text);
    remove_tree(dir);
    refused(config_read(dir, &cfg, &err), ERR_IO, "config.json");
    free(dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_safetensors_round_trip),
        cmocka_unit_test(test_safetensors_corrupt),
        cmocka_unit_test(test_config_round_trip),
        cmocka_unit_test(test_config_refused),
    };
    return cmocka_run_group_tests_name("safetensors", tests, NULL, NULL);
}
