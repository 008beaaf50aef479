/* test_params.c - the tables: parameters (layout, padding, initial law), presets, activation memory, arithmetic. */
#include "tests/model_check.h"

static void test_param_table(void **state) {
    (void)state;
    for (int tied = 0; tied < 2; tied++) {
        ModelConfig cfg = TINY;
        Err err = {OK, ""};
        ParamTable small, padded;
        cfg.tied = tied;
        assert_int_equal(config_check(&cfg, &err), OK);
        assert_int_equal(cfg.vocab_padded, 128);
        assert_int_equal(param_table_build(&small, &cfg, 1, &err), OK);
        assert_int_equal(param_table_build(&padded, &cfg, 7 * 16, &err), OK);
        const int64_t C = 24, block = C + (32 + 2 * 16) * C + 8 + 8 + 32 * C + C + 3 * 40 * C;
        assert_int_equal(small.n_params, 70 * C * (tied ? 1 : 2) + 2 * block + C);
        assert_int_equal(small.n_trainable, small.n_params);
        float *a = xmalloc((size_t)small.total * 4), *b = xmalloc((size_t)padded.total * 4);
        params_init(a, &small, &cfg, 11);
        params_init(b, &padded, &cfg, 11);
        for (int i = 0; i < small.n; i++) {
            const ParamSpec *s = &small.spec[i], *p = &padded.spec[i];
            assert_int_equal(s->offset % 16, 0);
            assert_true(p->offset >= padded.bucket_offset[p->bucket]);
            assert_true(p->offset + p->count <= padded.bucket_offset[p->bucket + 1]);
            if (i) assert_true(s->offset >= small.spec[i - 1].offset + small.spec[i - 1].count);
            int64_t rows = 0;
            for (int k = 0; k < s->n_slices; k++) rows += s->slice_rows[k];
            assert_int_equal(rows, s->file_rows);
            assert_int_equal(param_find(&small, s->name), i);
            assert_memory_equal(a + s->offset, b + p->offset, (size_t)s->count * 4); /* padding changes no value */
            for (int64_t k = s->file_rows * s->cols; k < s->count; k++) assert_true(a[s->offset + k] == 0);
        }
        for (int k = 0; k <= padded.n_buckets; k++) assert_int_equal(padded.bucket_offset[k] % (7 * 16), 0);
        free(a);
        free(b);
        param_table_free(&small);
        param_table_free(&padded);
    }
}

static void check_init(const ModelConfig *cfg) {
    Err err;
    ParamTable t;
    assert_int_equal(param_table_build(&t, cfg, 1, &err), OK);
    float *w = xmalloc((size_t)t.total * 4);
    params_init(w, &t, cfg, 1);
    for (int i = 0; i < t.n; i++) {
        const ParamSpec *s = &t.spec[i];
        double sum = 0, squares = 0, n = (double)(s->file_rows * s->cols), std = cfg->init_std;
        for (int64_t k = 0; k < s->file_rows * s->cols; k++) {
            sum += w[s->offset + k];
            squares += (double)w[s->offset + k] * w[s->offset + k];
        }
        if (s->init == INIT_NORMAL_RESIDUAL) std /= 2; /* sqrt(2 * 2 layers) */
        if (s->init == INIT_LORA_A) std = 1 / sqrt(3 * (double)s->cols);
        assert_int_equal(s->decay, s->ndim == 2); /* matrices decay, norms do not */
        if (s->init == INIT_ONE) assert_true(sum == n && squares == n);
        else if (s->init == INIT_LORA_B) assert_true(squares == 0); /* adapters begin by changing nothing */
        else assert_true(fabs(sum / n) < 4 * std / sqrt(n) && fabs(sqrt(squares / n) / std - 1) < 4 / sqrt(2 * n));
        /* No two matrices begin alike. */
        for (int j = 0; j < i && s->init != INIT_ONE && s->init != INIT_LORA_B; j++)
            assert_memory_not_equal(w + s->offset, w + t.spec[j].offset, 8 * sizeof *w);
    }
    free(w);
    param_table_free(&t);
}

static void test_init_law(void **state) {
    (void)state;
    ModelConfig cfg = WIDE;
    Err err;
    assert_int_equal(config_check(&cfg, &err), OK);
    check_init(&cfg);
    cfg.lora = (LoraConfig){.rank = 8, .alpha = 8};
    assert_int_equal(lora_targets_parse("q,k,v,o,gate,up,down", "test", &cfg.lora.targets, &err), OK);
    assert_int_equal(config_check(&cfg, &err), OK);
    check_init(&cfg);
}

static void test_presets(void **state) {
    (void)state;
    static const struct {
        const char *name;
        double millions;
    } sizes[] = {{"nano", 1.8}, {"micro", 8.1}, {"small", 60}, {"medium", 119}, {"large", 1020}};
    Err err = {OK, ""};
    for (int i = 0; i < 5; i++) {
        ModelConfig cfg = {.vocab_size = 7168, .seq_len = 1024};
        ParamTable t;
        assert_int_equal(config_preset(&cfg, sizes[i].name, &err), OK);
        assert_int_equal(config_check(&cfg, &err), OK);
        assert_int_equal(param_table_build(&t, &cfg, 1, &err), OK);
        const double found = (double)t.n_params * 1e-6;
        if (fabs(found / sizes[i].millions - 1) > 0.1) fail_msg("%s has %.2f million parameters", sizes[i].name, found);
        param_table_free(&t);
    }
    ModelConfig cfg;
    assert_int_equal(config_preset(&cfg, "nanoo", &err), ERR_USAGE);
    assert_non_null(strstr(err.msg, "nano|micro"));
}

/* What the report prints is what acts_open takes, and each level keeps less. */
static void test_memory_report(void **state) {
    (void)state;
    ModelConfig cfg = WIDE;
    Err err;
    char *text;
    size_t size;
    assert_int_equal(config_check(&cfg, &err), OK);
    const size_t none = acts_bytes(&cfg, DTYPE_F32, 512, 1, RECOMPUTE_NONE),
                 mlp = acts_bytes(&cfg, DTYPE_F32, 512, 1, RECOMPUTE_MLP);
    const size_t block = acts_bytes(&cfg, DTYPE_F32, 512, 1, RECOMPUTE_BLOCK),
                 infer = acts_bytes(&cfg, DTYPE_F32, 512, 0, RECOMPUTE_NONE);
    assert_true(none > mlp && mlp > block && block > infer);
    FILE *out = open_memstream(&text, &size);
    acts_report(&cfg, NULL, DTYPE_F32, 512, 1, RECOMPUTE_NONE, out);
    fclose(out);
    char last[64];
    snprintf(last, sizeof last, "%.2f\n", (double)none / 1048576);
    assert_non_null(strstr(text, "gate_up"));
    assert_string_equal(text + size - strlen(last), last);
    free(text);
    ParamTable table;
    assert_int_equal(param_table_build(&table, &cfg, 16, &err), OK);
    out = open_memstream(&text, &size);
    acts_report(&cfg, &table, DTYPE_F32, 512, 1, RECOMPUTE_NONE, out);
    fclose(out);
    const size_t lent = acts_lent_bytes(&cfg, &table, DTYPE_F32, 512, RECOMPUTE_NONE);
    assert_true(lent > 0 && lent < none);
    assert_non_null(strstr(text, last));
    snprintf(last, sizeof last, "%.2f\n", (double)lent / 1048576);
    assert_string_equal(text + size - strlen(last), last);
    free(text);
    param_table_free(&table);
}

static void test_flops(void **state) {
    (void)state;
    ModelConfig cfg = TINY;
    const double matrices = 2 * (24.0 * (32 + 32) + 32 * 24 + 3 * 24 * 40) + 24 * 70;
    assert_true(fabs(model_flops_per_token(&cfg, 100) - (6 * matrices + 6 * 2 * 32 * 100.0)) < 1e-6);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_param_table),   cmocka_unit_test(test_init_law), cmocka_unit_test(test_presets),
        cmocka_unit_test(test_memory_report), cmocka_unit_test(test_flops),
    };
    return cmocka_run_group_tests_name("params", tests, NULL, NULL);
}
