/* test_lora.c - low-rank adapters in the model: their gradients against finite differences in double, a start that is the
 * parent's bit for bit, merged against apart, what they make of the parameter table, and what is refused. */
#include "tests/model_check.h"
#include "tests/op_check.h"
#include "tests/naive_kernels.h"

static ModelConfig with_adapters(const ModelConfig *shape, const char *targets, int rank, int embeddings) {
    Err err = {OK, ""};
    ModelConfig cfg = *shape;
    cfg.lora = (LoraConfig){.rank = rank, .alpha = 1.5 * rank, .embeddings = embeddings};
    if (lora_targets_parse(targets, "--lora-targets", &cfg.lora.targets, &err)) fail_msg("%s", err.msg);
    return cfg;
}

/* ---- the two operations ------------------------------------------------------------------------------------------ */

static void check_ops(Device *dev, const AdapterBlocks *s) {
    const KernelOps *ops[SIDES] = {kernels_get(dev, DTYPE_F32), &naive_kernels, kernels_get(dev, DTYPE_F64)};
    const size_t width = (size_t)(s->n * s->rank), rows = (size_t)s->rows, cols = (size_t)s->cols;
    size_t height = 0;
    for (int i = 0; i < s->n; i++) height += (size_t)s->height[i];
    Trio a = trio_random(dev, width * cols, 1), b = trio_random(dev, height * (size_t)s->rank, 1);
    Trio wide = trio_random(dev, rows * width, 1), turned = trio_random(dev, cols * width, 1);
    Trio dwide = trio_random(dev, rows * width, 1), db = trio_random(dev, height * (size_t)s->rank, 1);
    for (int side = 0; side < SIDES; side++) {
        const Side at = (Side)side;
        ops[side]->adapter_spread(dev, side_of(&wide, at), side_of(&turned, at), side_of(&a, at), side_of(&b, at), s);
        ops[side]->adapter_spread(dev, side_of(&wide, at), NULL, side_of(&a, at), side_of(&b, at), s);
        ops[side]->adapter_gather(dev, side_of(&db, at), side_of(&dwide, at), s);
    }
    check_device(dev);
    trio_check(&wide, "adapter_spread, b_wide");
    trio_check(&turned, "adapter_spread, a_turned");
    trio_check(&db, "adapter_gather");
    double zeros = 0;
    for (size_t i = 0; i < wide.count; i++) zeros += wide.ref[i] == 0;
    assert_true(zeros >= (double)(rows * width - height * (size_t)s->rank)); /* what the blocks leave */
    Trio *all[] = {&a, &b, &wide, &turned, &dwide, &db};
    for (int i = 0; i < 6; i++) trio_free(dev, all[i]);
}

static void test_ops(void **state) {
    (void)state;
    static const AdapterBlocks shapes[] = {
        {.n = 1, .rank = 1, .rows = 5, .cols = 3, .row = {0}, .height = {5}, .scale = 2},
        {.n = 1, .rank = 7, .rows = 40, .cols = 9, .row = {11}, .height = {13}, .scale = 0.3},
        {.n = 2, .rank = 16, .rows = 64, .cols = 33, .row = {0, 48}, .height = {32, 16}, .scale = 1.5},
        {.n = 3, .rank = 4, .rows = 64, .cols = 64, .row = {0, 32, 48}, .height = {32, 16, 16}, .scale = 1},
    };
    Device *dev = open_device(2);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) check_ops(dev, &shapes[i]);
    device_close(dev);
}

/* ---- gradients --------------------------------------------------------------------------------------------------- */

static void check_gradients(const char *targets, int tied, int embeddings) {
    static const int length[] = {7, 1, 13, 5};
    const ModelConfig cfg = with_adapters(&TINY, targets, 3, embeddings);
    Model m;
    Device *dev = open_device(2);
    open_model(&m, dev, &cfg, tied, DTYPE_F64);
    Batch b = make_batch(length, 4, TINY.vocab_size, 3);
    Acts *a = open_acts(&m, b.N, 0, RECOMPUTE_NONE);
    double *grad = gradient(&m, &b, RECOMPUTE_NONE);
    int rows = 0;
    for (int i = 0; i < m.table.n; i++) {
        const ParamSpec *s = &m.table.spec[i];
        assert_int_equal(s->trainable, s->offset < m.table.trained);
        if (s->trainable) check_row(&m, a, &b, s, grad + s->offset);
        for (int64_t k = 0; !s->trainable && k < s->count; k++) assert_true(grad[s->offset + k] == 0);
        rows += s->trainable;
    }
    assert_true(rows >= 2 * TINY.n_layers);
    free(grad);
    acts_close(a);
    free_batch(&b);
    model_close(&m);
    device_close(dev);
}

static void test_gradients(void **state) {
    (void)state;
    check_gradients("q,k,v,o,gate,up,down", 0, 0);
    check_gradients("q,v", 1, 0);
    check_gradients("k,up", 0, 1);
    check_gradients("o", 1, 1);
    check_gradients("down,gate", 0, 0);
}

/* Recomputed activations have the bits of kept ones; two batches add up. */
static void test_recompute_and_accumulation(void **state) {
    (void)state;
    static const int length[] = {30, 3, 70};
    for (int f64 = 0; f64 < 2; f64++) {
        const ModelConfig cfg = with_adapters(f64 ? &TINY : &WIDE, "q,k,v,o,gate,up,down", 8, 0);
        Model m;
        Params grad;
        Device *dev = open_device(2);
        open_model(&m, dev, &cfg, 1, f64 ? DTYPE_F64 : DTYPE_F32);
        Batch b = make_batch(length, 3, 70, 5);
        const size_t bytes = (size_t)m.table.trained * real_size(&m);
        void *none = gradient(&m, &b, RECOMPUTE_NONE), *mlp = gradient(&m, &b, RECOMPUTE_MLP);
        void *block = gradient(&m, &b, RECOMPUTE_BLOCK);
        assert_memory_equal(none, mlp, bytes);
        assert_memory_equal(none, block, bytes);
        if (f64) {
            Acts *a = open_acts(&m, b.N, 1, RECOMPUTE_NONE);
            void *arena = open_grad(&m, &grad);
            model_upload(&m, a, &b);
            for (int i = 0; i < 2; i++) model_pass(&m, a, &grad, NULL, NULL);
            double *twice = download(&m, arena, bytes), *once = none;
            for (int64_t k = 0; k < m.table.trained; k++)
                assert_true(fabs(twice[k] - 2 * once[k]) <= 1e-12 * (1 + fabs(twice[k])));
            free(twice);
            close_grad(&m, &grad, arena);
            acts_close(a);
        }
        free(none);
        free(mlp);
        free(block);
        free_batch(&b);
        model_close(&m);
        device_close(dev);
    }
}

/* ---- against a model without ------------------------------------------------------------------------------------- */

static float *host_weights(const Model *m) {
    float *out = xmalloc((size_t)m->table.total * sizeof *out);
    void *raw = download(m, m->w_arena, (size_t)m->table.total * dtype_size(m->dtype));
    for (int64_t i = 0; i < m->table.total; i++) out[i] = m->dtype == DTYPE_F64 ? (float)((double *)raw)[i] : ((float *)raw)[i];
    free(raw);
    return out;
}

/* The weights of `from` for what both have; B zero, if asked. */
static void take_weights(Model *m, const Model *from, int zero_b) {
    float *w = host_weights(m), *f = host_weights(from);
    for (int i = 0; i < m->table.n; i++) {
        const ParamSpec *s = &m->table.spec[i];
        const int at = param_find(&from->table, s->name);
        if (at >= 0) memcpy(w + s->offset, f + from->table.spec[at].offset, (size_t)s->count * sizeof *w);
        if (zero_b && s->init == INIT_LORA_B) memset(w + s->offset, 0, (size_t)s->count * sizeof *w);
    }
    model_set_weights(m, w, 0, m->table.total);
    free(w);
    free(f);
}

/* B starts at zero: every loss has the parent's bits. */
static void test_start_is_the_parent(void **state) {
    (void)state;
    static const int length[] = {90, 17, 1, 64};
    for (int f64 = 0; f64 < 2; f64++) {
        const ModelConfig *shape = f64 ? &TINY : &WIDE, cfg = with_adapters(shape, "q,k,v,o,gate,up,down", 8, 0);
        Model parent, m;
        Device *dev = open_device(2);
        open_model(&parent, dev, shape, 1, f64 ? DTYPE_F64 : DTYPE_F32);
        open_model(&m, dev, &cfg, 1, parent.dtype);
        take_weights(&m, &parent, 1);
        Batch b = make_batch(length, 4, 70, 4);
        Acts *a = open_acts(&parent, b.N, 0, RECOMPUTE_NONE), *c = open_acts(&m, b.N, 0, RECOMPUTE_NONE);
        double *want = losses(&parent, a, &b), *got = losses(&m, c, &b);
        assert_memory_equal(want, got, (size_t)b.N * sizeof *got);
        free(want);
        free(got);
        acts_close(a);
        acts_close(c);
        free_batch(&b);
        model_close(&m);
        model_close(&parent);
        device_close(dev);
    }
}

/* W + alpha/rank B A in one matrix, by a loop over the projections that knows nothing of blocks. */
static void merge_by_hand(double *merged, const Model *plain, const double *apart, const Model *m) {
    static const struct {
        const char *matrix;
        int first, count;
    } matrices[] = {{"attn.qkv", LORA_Q, 3}, {"attn.out", LORA_O, 1}, {"mlp.gate_up", LORA_GATE, 2}, {"mlp.down", LORA_DOWN, 1}};
    const LoraConfig *lora = &m->cfg.lora;
    for (int l = 0; l < m->cfg.n_layers; l++)
        for (int k = 0; k < 4; k++) {
            char name[64];
            snprintf(name, sizeof name, "layers.%d.%s", l, matrices[k].matrix);
            double *w = merged + plain->table.spec[param_find(&plain->table, name)].offset;
            snprintf(name, sizeof name, "layers.%d.%s.lora_a", l, matrices[k].matrix);
            const int at = param_find(&m->table, name);
            if (at < 0) continue;
            const double *a = apart + m->table.spec[at].offset, *b = apart + m->table.spec[at + 1].offset;
            for (int p = matrices[k].first; p < matrices[k].first + matrices[k].count; p++) {
                int rows, cols;
                lora_projection_shape(&m->cfg, (LoraProjection)p, &rows, &cols);
                if (!(lora->targets >> p & 1)) {
                    w += rows * cols;
                    continue;
                }
                for (int r = 0; r < rows; r++, w += cols, b += lora->rank)
                    for (int c = 0; c < cols; c++)
                        for (int i = 0; i < lora->rank; i++) w[c] += lora->alpha / lora->rank * b[i] * a[i * cols + c];
                a += lora->rank * cols;
            }
        }
}

static void test_merged_equals_apart(void **state) {
    (void)state;
    static const int length[] = {40, 17, 1};
    static const char *const targets[] = {"q,k,v,o,gate,up,down", "q,v", "v,up", "k,o,down"};
    for (size_t t = 0; t < sizeof targets / sizeof *targets; t++) {
        const ModelConfig cfg = with_adapters(&TINY, targets[t], 3, 0);
        Model plain, m;
        Device *dev = open_device(2);
        open_model(&m, dev, &cfg, 0, DTYPE_F64);
        open_model(&plain, dev, &TINY, 0, DTYPE_F64);
        take_weights(&plain, &m, 0);
        double *apart = download(&m, m.w_arena, (size_t)m.table.total * 8);
        double *merged = download(&plain, plain.w_arena, (size_t)plain.table.total * 8);
        Batch b = make_batch(length, 3, TINY.vocab_size, 4);
        Acts *a = open_acts(&plain, b.N, 0, RECOMPUTE_NONE), *c = open_acts(&m, b.N, 0, RECOMPUTE_NONE);
        double *before = losses(&plain, a, &b), moved = 0;
        merge_by_hand(merged, &plain, apart, &m);
        device_upload(dev, plain.w_arena, merged, (size_t)plain.table.total * 8);
        double *want = losses(&plain, a, &b), *got = losses(&m, c, &b);
        for (int n = 0; n < b.N; n++) {
            if (!(fabs(got[n] - want[n]) <= 1e-11 * (1 + fabs(want[n]))))
                fail_msg("%s: loss %d is %.15g apart, %.15g merged", targets[t], n, got[n], want[n]);
            moved = fmax(moved, fabs(before[n] - want[n]));
        }
        assert_true(moved > 1e-2); /* the adapters do something */
        free(before);
        free(want);
        free(got);
        free(apart);
        free(merged);
        acts_close(a);
        acts_close(c);
        free_batch(&b);
        model_close(&m);
        model_close(&plain);
        device_close(dev);
    }
}

/* ---- the table --------------------------------------------------------------------------------------------------- */

static void test_table(void **state) {
    (void)state;
    Err err = {OK, ""};
    ParamTable plain, t;
    const ModelConfig cfg = with_adapters(&TINY, "q,v,down", 5, 0);
    enum { PAD = 7 * 16 };
    assert_int_equal(param_table_build(&plain, &TINY, PAD, &err), OK);
    assert_int_equal(param_table_build(&t, &cfg, PAD, &err), OK);
    assert_true(t.adapter && !plain.adapter && plain.trained == plain.total);
    const int64_t of_layer = 5 * (2 * 24 + 32 + 16) + 5 * (40 + 24);
    assert_int_equal(t.n_trainable, 2 * of_layer);
    assert_int_equal(t.n_params, plain.n_params + 2 * of_layer);
    assert_true(t.trained == t.bucket_offset[t.n_buckets] && t.trained < plain.total);
    assert_int_equal(t.bucket_offset[1], 0); /* of the embedding nothing is trained */
    for (int b = 0; b < t.n_buckets; b++) assert_int_equal((t.bucket_offset[b + 1] - t.bucket_offset[b]) % PAD, 0);
    unsigned char *used = xcalloc((size_t)t.total, 1);
    for (int i = 0; i < t.n; i++) {
        const ParamSpec *s = &t.spec[i];
        if (s->trainable) assert_true(s->offset >= t.bucket_offset[s->bucket] && s->offset + s->count <= t.bucket_offset[s->bucket + 1]);
        else assert_true(s->offset >= t.trained);
        assert_true(s->offset % 16 == 0 && s->offset + s->count <= t.total);
        for (int64_t k = 0; k < s->count; k++) assert_int_equal(used[s->offset + k]++, 0);
    }
    const ParamSpec *a = &t.spec[param_find(&t, "layers.1.attn.qkv.lora_a")], *b = &t.spec[param_find(&t, "layers.1.attn.qkv.lora_b")];
    assert_string_equal(a->slice_name[1], "base_model.model.model.layers.1.self_attn.v_proj.lora_A.weight");
    assert_string_equal(b->slice_name[0], "base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight");
    assert_true(a->n_slices == 2 && a->slice_rows[0] == 5 && b->slice_rows[0] == 32 && b->slice_rows[1] == 16 && b->cols == 5);
    free(used);
    param_table_free(&plain);
    param_table_free(&t);
}

static void test_refusals(void **state) {
    (void)state;
    static const struct {
        const char *targets, *want;
    } row[] = {{"q,vv", "'vv', the nearest is 'v'"}, {"q,gte", "the nearest is 'gate'"}, {"q,q", "names 'q' twice"},
               {"", "names no projection"},          {"dwon", "the nearest is 'down'"}};
    Err err = {OK, ""};
    unsigned targets;
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        if (lora_targets_parse(row[i].targets, "--lora-targets", &targets, &err) != ERR_USAGE || !strstr(err.msg, row[i].want))
            fail_msg("'%s': %s", row[i].targets, err.msg);
    }
    assert_int_equal(lora_targets_parse("q_proj,self_attn.v_proj,down", "x", &targets, &err), OK);
    assert_int_equal(targets, 1u << LORA_Q | 1u << LORA_V | 1u << LORA_DOWN);
    ModelConfig cfg = with_adapters(&TINY, "q,k", 17, 0); /* k has 16 rows */
    assert_int_equal(config_check(&cfg, &err), ERR_USAGE);
    assert_non_null(strstr(err.msg, "between 1 and 16"));
    cfg.lora.rank = -1;
    assert_int_equal(config_check(&cfg, &err), ERR_USAGE);
    cfg.lora.rank = 16;
    assert_int_equal(config_check(&cfg, &err), OK);
    cfg.lora.alpha = 0;
    assert_int_equal(config_check(&cfg, &err), ERR_USAGE);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ops),
        cmocka_unit_test(test_gradients),
        cmocka_unit_test(test_recompute_and_accumulation),
        cmocka_unit_test(test_start_is_the_parent),
        cmocka_unit_test(test_merged_equals_apart),
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
