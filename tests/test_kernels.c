/* test_kernels.c - every operation of the float32 table against the double-precision reference, and the reference's own
 * backward operations against finite differences. */
#include "tests/op_check.h"
#include "tests/naive_kernels.h"

typedef struct {
    Device          *dev;
    const KernelOps *ops[SIDES];
} Fixture;

static int setup(void **state) {
    Fixture *f = calloc(1, sizeof *f);
    f->dev = device_for_test(2);
    f->ops[FAST] = kernels_get(f->dev, DTYPE_F32);
    f->ops[NAIVE] = &naive_kernels;
    f->ops[DOUBLE] = kernels_get(f->dev, DTYPE_F64);
    assert_true(f->ops[FAST] && f->ops[DOUBLE]);
    *state = f;
    return 0;
}

static int teardown(void **state) {
    Fixture *f = *state;
    device_close(f->dev);
    free(f);
    return 0;
}

static void assert_device_ok(Device *dev) {
    if (device_sync(dev)) fail_msg("%s", device_error(dev));
}

#define FOR_SIDES(s) for (Side s = FAST; s < SIDES; s++)
#define AT(t) side_of(&t, s)

/* A label for failures, valid until the next call. */
static const char *label(const char *what, int a, int b, int c) {
    static char text[128];
    snprintf(text, sizeof text, "%s (%d, %d, %d)", what, a, b, c);
    return text;
}

/* ---- products ------------------------------------------------------------------------------------------------------ */

static const struct {
    int N, rows, cols;
} product_shapes[] = {{1, 1, 1},     {1, 64, 128},   {2, 33, 7},    {5, 32, 16},    {14, 96, 64},  {15, 31, 257},
                      {16, 128, 256}, {33, 100, 300}, {64, 48, 513}, {225, 290, 65}, {300, 258, 31}, {517, 64, 40}};
enum { PRODUCT_SHAPES = sizeof product_shapes / sizeof *product_shapes };

static void test_products(void **state) {
    Fixture *f = *state;
    for (int i = 0; i < PRODUCT_SHAPES; i++) {
        int    N = product_shapes[i].N, R = product_shapes[i].rows, C = product_shapes[i].cols;
        size_t n = (size_t)N, r = (size_t)R, c = (size_t)C;
        Trio   inp = trio_random(f->dev, n * c, 1), w = trio_random(f->dev, r * c, 0.1);
        Trio   residual = trio_random(f->dev, n * r, 1), dout = trio_random(f->dev, n * r, 1);
        Trio   out = trio_zero(f->dev, n * r), sum = trio_zero(f->dev, n * r), dinp = trio_random(f->dev, n * c, 1);
        Trio   dweight = trio_random(f->dev, r * c, 1), in_place = trio_random(f->dev, n * r, 1);
        FOR_SIDES(s) {
            Weight weight = weight_of(&w, s, R, C);
            f->ops[s]->matmul_forward(f->dev, AT(out), AT(inp), &weight, N);
            f->ops[s]->matmul_add_forward(f->dev, AT(sum), AT(residual), AT(inp), &weight, N);
            f->ops[s]->matmul_add_forward(f->dev, AT(in_place), AT(in_place), AT(inp), &weight, N);
            f->ops[s]->matmul_dgrad(f->dev, AT(dinp), AT(dout), &weight, N);
            f->ops[s]->matmul_wgrad(f->dev, AT(dweight), AT(dout), AT(inp), N, R, C);
            f->ops[s]->matmul_wgrad(f->dev, AT(dweight), AT(residual), AT(inp), N, R, C); /* accumulates */
        }
        assert_device_ok(f->dev);
        trio_check(&out, label("matmul_forward", N, R, C));
        trio_check(&sum, label("matmul_add_forward", N, R, C));
        trio_check(&in_place, label("matmul_add_forward in place", N, R, C));
        trio_check(&dinp, label("matmul_dgrad", N, R, C));
        trio_check(&dweight, label("matmul_wgrad", N, R, C));
        Trio *all[] = {&inp, &w, &residual, &dout, &out, &sum, &dinp, &dweight, &in_place};
        for (size_t t = 0; t < sizeof all / sizeof *all; t++) trio_free(f->dev, all[t]);
    }
}

static void test_swiglu(void **state) {
    Fixture *f = *state;
    for (int i = 0; i < PRODUCT_SHAPES; i++) {
        int    N = product_shapes[i].N, F = product_shapes[i].rows, C = product_shapes[i].cols;
        size_t n = (size_t)N, ff = (size_t)F, c = (size_t)C;
        Trio   inp = trio_random(f->dev, n * c, 1), w = trio_random(f->dev, 2 * ff * c, 0.3);
        Trio   out = trio_zero(f->dev, n * ff), not_kept = trio_zero(f->dev, n * ff), again = trio_zero(f->dev, n * ff);
        Trio   gate_up = trio_zero(f->dev, 2 * n * ff), dout = trio_random(f->dev, n * ff, 1);
        Trio   dgate_up = trio_zero(f->dev, 2 * n * ff), act = trio_zero(f->dev, n * ff);
        FOR_SIDES(s) {
            Weight weight = weight_of(&w, s, 2 * F, C);
            f->ops[s]->matmul_swiglu_forward(f->dev, AT(out), AT(gate_up), AT(inp), &weight, N);
            f->ops[s]->matmul_swiglu_forward(f->dev, AT(not_kept), NULL, AT(inp), &weight, N);
            f->ops[s]->swiglu_forward(f->dev, AT(again), AT(gate_up), N, F);
        }
        trio_check(&gate_up, label("matmul_swiglu_forward gate_up", N, F, C));
        FOR_SIDES(s) f->ops[s]->swiglu_backward(f->dev, AT(dgate_up), AT(act), AT(dout), AT(gate_up), N, F);
        f->ops[FAST]->swiglu_backward(f->dev, gate_up.fast, dout.fast, dout.fast, gate_up.fast, N, F); /* in place */
        assert_device_ok(f->dev);
        trio_check(&out, label("matmul_swiglu_forward", N, F, C));
        trio_check(&dgate_up, label("swiglu_backward", N, F, C));
        assert_same_bits(gate_up.fast, dgate_up.fast, gate_up.count, "swiglu_backward in place");
        assert_same_bits(act.fast, out.fast, out.count, "swiglu_backward act");
        assert_same_bits(dout.fast, out.fast, out.count, "swiglu_backward act in place");
        assert_same_bits(not_kept.fast, out.fast, out.count, "matmul_swiglu_forward without gate_up");
        assert_same_bits(again.fast, out.fast, out.count, "swiglu_forward from gate_up");
        Trio *all[] = {&inp, &w, &out, &not_kept, &again, &gate_up, &dout, &dgate_up, &act};
        for (size_t t = 0; t < sizeof all / sizeof *all; t++) trio_free(f->dev, all[t]);
    }
}

/* Far into the tails silu is its argument or nothing, and a NaN stays one. */
static void test_swiglu_extremes(void **state) {
    Fixture *f = *state;
    float    gate_up[8] = {1e4f, -1e4f, 0.0f, NAN, 1, 1, 1, 1}, out[4];
    f->ops[FAST]->swiglu_forward(f->dev, out, gate_up, 1, 4);
    assert_true(out[0] == 1e4f && fabsf(out[1]) < 1e-30f && out[2] == 0.0f && isnan(out[3]));
}

/* ---- rows ---------------------------------------------------------------------------------------------------------- */

static int32_t *random_ids(Device *dev, int count, int below) {
    int32_t *ids = device_alloc(dev, (size_t)count * sizeof *ids);
    for (int i = 0; i < count; i++) ids[i] = (int32_t)(random_uniform() * below);
    return ids;
}

static void test_embedding(void **state) {
    Fixture *f = *state;
    static const int shapes[][3] = {{1, 1, 3}, {7, 33, 5}, {200, 128, 50}, {64, 16, 1000}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        int      N = shapes[i][0], C = shapes[i][1], V = shapes[i][2];
        size_t   n = (size_t)N, c = (size_t)C, v = (size_t)V;
        int32_t *tokens = random_ids(f->dev, N, V);
        Trio     w = trio_random(f->dev, v * c, 1), out = trio_zero(f->dev, n * c), dout = trio_random(f->dev, n * c, 1);
        Trio     dw = trio_random(f->dev, v * c, 1);
        FOR_SIDES(s) {
            f->ops[s]->embedding_forward(f->dev, AT(out), tokens, AT(w), N, C);
            f->ops[s]->embedding_backward(f->dev, AT(dw), AT(dout), tokens, N, C, V);
        }
        assert_device_ok(f->dev);
        trio_check(&out, label("embedding_forward", N, C, V));
        assert_same_bits(out.fast, out.naive, out.count, "embedding_forward");
        assert_same_bits(dw.fast, dw.naive, dw.count, "embedding_backward");
        Trio *all[] = {&w, &out, &dout, &dw};
        for (size_t t = 0; t < 4; t++) trio_free(f->dev, all[t]);
        device_free(f->dev, tokens);
    }
}

static void test_rmsnorm(void **state) {
    Fixture *f = *state;
    static const int shapes[][2] = {{1, 8}, {3, 17}, {65, 128}, {130, 256}, {9, 513}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        int    N = shapes[i][0], C = shapes[i][1];
        size_t n = (size_t)N, c = (size_t)C;
        Trio   inp = trio_random(f->dev, n * c, 3), w = trio_random(f->dev, c, 1), out = trio_zero(f->dev, n * c);
        Trio   rstd = trio_zero(f->dev, n), dout = trio_random(f->dev, n * c, 1), dw = trio_random(f->dev, c, 1);
        Trio   dinp = trio_random(f->dev, n * c, 1), bare = trio_zero(f->dev, n * c), frozen = trio_zero(f->dev, n * c);
        FOR_SIDES(s) {
            f->ops[s]->rmsnorm_forward(f->dev, AT(out), AT(rstd), AT(inp), AT(w), 1e-6f, N, C);
            f->ops[s]->rmsnorm_forward(f->dev, AT(bare), NULL, AT(inp), AT(w), 1e-6f, N, C);
            for (int twice = 0; twice < 2; twice++)
                f->ops[s]->rmsnorm_backward(f->dev, AT(dinp), AT(dw), AT(dout), AT(inp), AT(w), AT(rstd), N, C);
            f->ops[s]->rmsnorm_backward(f->dev, AT(frozen), NULL, AT(dout), AT(inp), AT(w), AT(rstd), N, C);
        }
        assert_device_ok(f->dev);
        trio_check(&out, label("rmsnorm_forward", N, C, 0));
        trio_check(&rstd, label("rmsnorm_forward rstd", N, C, 0));
        trio_check(&dinp, label("rmsnorm_backward dinp", N, C, 0));
        trio_check(&frozen, label("rmsnorm_backward dinp, frozen weight", N, C, 0));
        trio_check(&dw, label("rmsnorm_backward dweight", N, C, 0));
        assert_same_bits(bare.fast, out.fast, out.count, "rmsnorm_forward without rstd");
        Trio *all[] = {&inp, &w, &out, &rstd, &dout, &dw, &dinp, &bare, &frozen};
        for (size_t t = 0; t < sizeof all / sizeof *all; t++) trio_free(f->dev, all[t]);
    }
}

enum { POSITIONS = 512 };

static Trio rope_table(Device *dev, int D) {
    Trio t = trio_zero(dev, (size_t)POSITIONS * (size_t)D);
    for (int p = 0; p < POSITIONS; p++)
        for (int i = 0; i < D / 2; i++) {
            double angle = p * pow(10000.0, -2.0 * i / D);
            size_t at = (size_t)p * (size_t)D + (size_t)i, half = (size_t)D / 2;
            t.ref[at] = t.fast[at] = t.naive[at] = (float)cos(angle);
            t.ref[at + half] = t.fast[at + half] = t.naive[at + half] = (float)sin(angle);
        }
    return t;
}

static void test_qk_norm_rope(void **state) {
    Fixture *f = *state;
    static const int shapes[][4] = {{1, 1, 1, 64}, {5, 2, 1, 64}, {67, 4, 2, 64}, {33, 4, 4, 128}, {12, 6, 2, 128}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        int      N = shapes[i][0], H = shapes[i][1], G = shapes[i][2], D = shapes[i][3];
        size_t   in_width = (size_t)(H + 2 * G) * (size_t)D, out_width = (size_t)(H + G) * (size_t)D, n = (size_t)N;
        int32_t *positions = random_ids(f->dev, N, POSITIONS);
        Trio     rope = rope_table(f->dev, D), qkv = trio_random(f->dev, n * in_width, 2);
        Trio     qw = trio_random(f->dev, (size_t)D, 1), kw = trio_random(f->dev, (size_t)D, 1);
        Trio     qk = trio_zero(f->dev, n * out_width), rstd = trio_zero(f->dev, n * (size_t)(H + G));
        Trio     bare = trio_zero(f->dev, n * out_width), dqk = trio_random(f->dev, n * out_width, 1);
        Trio     dqkv = trio_random(f->dev, n * in_width, 1), dqw = trio_random(f->dev, (size_t)D, 1);
        Trio     dkw = trio_random(f->dev, (size_t)D, 1), frozen = trio_zero(f->dev, n * in_width);
        FOR_SIDES(s) {
            const KernelOps *o = f->ops[s];
            o->qk_norm_rope_forward(f->dev, AT(qk), AT(rstd), AT(qkv), AT(qw), AT(kw), positions, AT(rope), 1e-6f, N, H,
                                    G, D);
            o->qk_norm_rope_forward(f->dev, AT(bare), NULL, AT(qkv), AT(qw), AT(kw), positions, AT(rope), 1e-6f, N, H,
                                    G, D);
            for (int twice = 0; twice < 2; twice++)
                o->qk_norm_rope_backward(f->dev, AT(dqkv), AT(dqw), AT(dkw), AT(dqk), AT(qkv), AT(qw), AT(kw), AT(rstd),
                                         positions, AT(rope), N, H, G, D);
            o->qk_norm_rope_backward(f->dev, AT(frozen), NULL, NULL, AT(dqk), AT(qkv), AT(qw), AT(kw), AT(rstd),
                                     positions, AT(rope), N, H, G, D);
        }
        assert_device_ok(f->dev);
        trio_check(&qk, label("qk_norm_rope_forward", N, H, D));
        trio_check(&rstd, label("qk_norm_rope_forward rstd", N, H, D));
        trio_check(&dqkv, label("qk_norm_rope_backward dqkv", N, H, D));
        trio_check(&frozen, label("qk_norm_rope_backward dqkv, frozen weights", N, H, D));
        trio_check(&dqw, label("qk_norm_rope_backward dq_weight", N, H, D));
        trio_check(&dkw, label("qk_norm_rope_backward dk_weight", N, H, D));
        assert_same_bits(bare.fast, qk.fast, qk.count, "qk_norm_rope_forward without rstd");
        Trio *all[] = {&rope, &qkv, &qw, &kw, &qk, &rstd, &bare, &dqk, &dqkv, &dqw, &dkw, &frozen};
        for (size_t t = 0; t < sizeof all / sizeof *all; t++) trio_free(f->dev, all[t]);
        device_free(f->dev, positions);
    }
}

/* ---- attention ----------------------------------------------------------------------------------------------------- */

static const struct {
    int H, G, D, n_seq, cu[8];
} attention_shapes[] = {
    {1, 1, 64, 1, {0, 1}},
    {2, 1, 64, 3, {0, 63, 127, 128}},
    {4, 2, 64, 5, {0, 65, 65, 70, 270, 271}}, /* one sequence is empty */
    {2, 2, 128, 2, {0, 129, 193}},
    {6, 2, 128, 1, {0, 100}},
};
enum { ATTENTION_SHAPES = sizeof attention_shapes / sizeof *attention_shapes };

static void test_attention(void **state) {
    Fixture *f = *state;
    for (int i = 0; i < ATTENTION_SHAPES; i++) {
        int            H = attention_shapes[i].H, G = attention_shapes[i].G, D = attention_shapes[i].D;
        int            n_seq = attention_shapes[i].n_seq, N = attention_shapes[i].cu[n_seq];
        const int32_t *cu = attention_shapes[i].cu;
        size_t         n = (size_t)N, d = (size_t)D;
        size_t         in_width = (size_t)(H + 2 * G) * d, qk_width = (size_t)(H + G) * d, width = (size_t)H * d;
        Trio           qk = trio_random(f->dev, n * qk_width, 1.5), qkv = trio_random(f->dev, n * in_width, 1);
        Trio           out = trio_zero(f->dev, n * width), lse = trio_zero(f->dev, n * (size_t)H);
        Trio           bare = trio_zero(f->dev, n * width), dout = trio_random(f->dev, n * width, 1);
        Trio           dqk = trio_random(f->dev, n * qk_width, 1), dqkv = trio_random(f->dev, n * in_width, 1);
        FOR_SIDES(s) {
            const KernelOps *o = f->ops[s];
            o->attention_forward(f->dev, AT(out), AT(lse), AT(qk), AT(qkv), cu, n_seq, N, H, G, D);
            o->attention_forward(f->dev, AT(bare), NULL, AT(qk), AT(qkv), cu, n_seq, N, H, G, D);
            o->attention_backward(f->dev, AT(dqk), AT(dqkv), AT(dout), AT(qk), AT(qkv), AT(out), AT(lse), cu, n_seq, N,
                                  H, G, D);
        }
        assert_device_ok(f->dev);
        trio_check(&out, label("attention_forward", i, N, D));
        trio_check(&lse, label("attention_forward lse", i, N, D));
        trio_check_terms(&dqk, label("attention_backward dqk", i, N, D), trio_largest(&dqkv)); /* one key: all cancels */
        trio_check(&dqkv, label("attention_backward dqkv", i, N, D)); /* its q and k parts untouched on every side */
        assert_same_bits(bare.fast, out.fast, out.count, "attention_forward without lse");
        Trio *all[] = {&qk, &qkv, &out, &lse, &bare, &dout, &dqk, &dqkv};
        for (size_t t = 0; t < sizeof all / sizeof *all; t++) trio_free(f->dev, all[t]);
    }
}

/* ---- classifier ---------------------------------------------------------------------------------------------------- */

static void test_classifier(void **state) {
    Fixture *f = *state;
    static const int shapes[][3] = {{1, 8, 3}, {33, 64, 64}, {70, 128, 250}, {257, 40, 1000}, {5, 33, 1025}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        int      N = shapes[i][0], C = shapes[i][1], V = shapes[i][2], Vp = (V + 63) / 64 * 64;
        size_t   n = (size_t)N, c = (size_t)C, vp = (size_t)Vp;
        int32_t *lo = random_ids(f->dev, N, V), *hi = device_alloc(f->dev, n * sizeof *hi);
        for (int r = 0; r < N; r++) {
            int kind = r % 5; /* ordinary, no target, a range, the whole vocabulary, from beside to beside a multiple of 64 */
            hi[r] = lo[r] + 1;
            if (kind == 1) lo[r] = -1, hi[r] = -1;
            if (kind == 2) hi[r] = lo[r] + 1 + (int)(random_uniform() * (V - lo[r]));
            if (kind == 3) lo[r] = 0, hi[r] = V;
            if (kind == 4 && V > 192) lo[r] = 62 + r / 5 % 4, hi[r] = r < 128 ? lo[r] + 1 : 127 + r / 20 % 3;
        }
        Trio x = trio_random(f->dev, n * c, 1), w = trio_random(f->dev, vp * c, 0.5), losses = trio_random(f->dev, n, 1);
        Trio dx = trio_random(f->dev, n * c, 1), dw = trio_random(f->dev, vp * c, 1);
        Trio only = trio_zero(f->dev, n), frozen = trio_zero(f->dev, n * c);
        FOR_SIDES(s) {
            Weight weight = weight_of(&w, s, Vp, C);
            f->ops[s]->classifier(f->dev, AT(losses), AT(dx), AT(dw), AT(x), &weight, lo, hi, N, V);
            f->ops[s]->classifier(f->dev, AT(losses), AT(dx), AT(dw), AT(x), &weight, lo, hi, N, V);
            f->ops[s]->classifier(f->dev, AT(only), NULL, NULL, AT(x), &weight, lo, hi, N, V);
            f->ops[s]->classifier(f->dev, AT(losses), AT(frozen), NULL, AT(x), &weight, lo, hi, N, V);
        }
        assert_device_ok(f->dev);
        trio_check(&losses, label("classifier losses", N, C, V));
        trio_check(&only, label("classifier losses alone", N, C, V));
        trio_check(&dx, label("classifier dinp", N, C, V));
        trio_check(&frozen, label("classifier dinp, frozen weight", N, C, V));
        trio_check(&dw, label("classifier dweight", N, C, V));
        Trio *all[] = {&x, &w, &losses, &dx, &dw, &only, &frozen};
        for (size_t t = 0; t < sizeof all / sizeof *all; t++) trio_free(f->dev, all[t]);
        device_free(f->dev, lo);
        device_free(f->dev, hi);
    }
}

/* ---- optimizer ----------------------------------------------------------------------------------------------------- */

static void test_adamw(void **state) {
    Fixture *f = *state;
    enum { COUNT = 1000 };
    AdamwRange ranges[] = {{0, 1, 1}, {3, 17, 0}, {40, 901, 1}}; /* gaps stay as they are */
    Trio       p = trio_random(f->dev, COUNT, 1), m = trio_zero(f->dev, COUNT), v = trio_zero(f->dev, COUNT);
    Trio       out = trio_zero(f->dev, COUNT);
    for (int step = 1; step <= 4; step++) {
        AdamwStep how = {1e-2f, 0.9f, 0.95f, 1e-8f, 0.1f, 0.25f, step == 3, step - (step > 3)};
        Trio      g = trio_random(f->dev, COUNT, 1);
        FOR_SIDES(s)
        f->ops[s]->adamw(f->dev, AT(p), step == 2 ? NULL : AT(out), AT(m), AT(v), AT(g), ranges, 3, &how);
        trio_free(f->dev, &g);
    }
    assert_device_ok(f->dev);
    trio_check(&p, "adamw param");
    trio_check(&out, "adamw out");
    trio_check(&m, "adamw m");
    trio_check(&v, "adamw v");
    Trio *all[] = {&p, &m, &v, &out};
    for (size_t t = 0; t < 4; t++) trio_free(f->dev, all[t]);
}

static void test_sum_squares(void **state) {
    Fixture *f = *state;
    static const int counts[] = {0, 1, 15, 16, 17, 1000, 100003};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        Trio    x = trio_random(f->dev, (size_t)counts[i], 1);
        double *sum = device_alloc(f->dev, 2 * sizeof *sum);
        sum[0] = sum[1] = 3;
        f->ops[FAST]->sum_squares(f->dev, sum, x.fast, counts[i]);
        f->ops[DOUBLE]->sum_squares(f->dev, sum + 1, x.ref, counts[i]);
        assert_true(fabs(sum[0] - sum[1]) <= 4 * FLT_EPSILON * sum[1]);
        device_free(f->dev, sum);
        trio_free(f->dev, &x);
    }
}

/* The drawn id may differ from the reference's only where uniform falls on a border between two ids. */
static void test_sample(void **state) {
    Fixture *f = *state;
    static const struct {
        int   V, top_k;
        float temperature;
    } laws[] = {{3, 0, 1}, {100, 0, 1}, {250, 10, 0.7f}, {1000, 0, 1.3f}};
    enum { B = 64, OUTCOMES = 3 };
    for (size_t i = 0; i < sizeof laws / sizeof *laws; i++) {
        int        V = laws[i].V, Vp = (V + 63) / 64 * 64;
        uint8_t   *forbidden = device_alloc(f->dev, (size_t)V);
        uint32_t  *bits = device_alloc(f->dev, (size_t)V * 4), *suppress = device_alloc(f->dev, B * 4);
        double    *u = device_alloc(f->dev, B * sizeof *u);
        Trio       logits = trio_random(f->dev, (size_t)(B * Vp), 2);
        SampleSpec spec = {V, Vp, laws[i].temperature, laws[i].top_k, forbidden, bits, OUTCOMES};
        for (int v = 1; v < V; v++) forbidden[v] = v % 7 == 3, bits[v] = (v % 5 == 1) | (v % 3 == 2) << 1 | (v == 2) << 2;
        for (int b = 0; b < B; b++) u[b] = b ? random_uniform() : 0, suppress[b] = b % 3 ? 0 : (uint32_t)(b % 4);
        int32_t tokens[SIDES][B];
        float   logp[SIDES][B], p_outcome[SIDES][B * OUTCOMES];
        for (Side s = FAST; s < SIDES; s += DOUBLE)
            f->ops[s]->sample(f->dev, tokens[s], logp[s], p_outcome[s], AT(logits), u, suppress, &spec, B);
        assert_device_ok(f->dev);
        int moved = 0;
        for (int b = 0; b < B; b++) {
            int t = tokens[FAST][b];
            assert_in_range(t, 0, V - 1);
            assert_false(forbidden[t] || (bits[t] & suppress[b]));
            moved += t != tokens[DOUBLE][b];
            if (t == tokens[DOUBLE][b]) assert_true(fabsf(logp[FAST][b] - logp[DOUBLE][b]) < 1e-5f);
            for (int o = 0; o < OUTCOMES; o++)
                assert_true(fabsf(p_outcome[FAST][b * OUTCOMES + o] - p_outcome[DOUBLE][b * OUTCOMES + o]) < 1e-6f);
        }
        assert_in_range(moved, 0, 1);
        f->ops[FAST]->sample(f->dev, tokens[NAIVE], NULL, NULL, logits.fast, u, NULL, &spec, B);
        assert_device_ok(f->dev);
        void *all[] = {forbidden, bits, suppress, u};
        for (size_t t = 0; t < 4; t++) device_free(f->dev, all[t]);
        trio_free(f->dev, &logits);
    }
}

/* ---- the reference's backward operations against central differences ----------------------------------------------- */

typedef double (*LossFn)(Fixture *f, void *problem);

static void check_gradient(Fixture *f, LossFn loss, void *problem, double *x, const double *dx, size_t count,
                           const char *what) {
    const double h = 1e-4;
    double       worst = 0, largest = 0;
    for (size_t i = 0; i < count; i++) {
        double kept = x[i];
        x[i] = kept + h;
        double up = loss(f, problem);
        x[i] = kept - h;
        double slope = (up - loss(f, problem)) / (2 * h);
        x[i] = kept;
        worst = fmax(worst, fabs(slope - dx[i]));
        largest = fmax(largest, fabs(slope));
    }
    assert_true(largest > 0);
    if (!(worst <= 1e-6 * largest)) fail_msg("%s: gradient off by %.3g, largest %.3g", what, worst, largest);
}

enum { GN = 5, GC = 6, GF = 4, GH = 2, GG = 1, GD = 4, GV = 7 };
typedef struct {
    double  x[GN * 2 * GF * GC], w[GV * GC * GF], w2[GC], aux[GN * GC * GF], r[GN * 2 * GF * GC]; /* r: weights of the loss */
    double  out[GN * GC * GF];
    int32_t ids[GN], hi[GN], cu[3];
    double  rope[GN * GD];
} Problem;

static Problem problem_random(void) {
    Problem p;
    for (double *x = (double *)&p; x < p.out; x++) *x = random_value();
    for (int i = 0; i < GN; i++) p.ids[i] = (i * 3) % GN, p.hi[i] = p.ids[i] + 1 + i % 3;
    p.cu[0] = 0, p.cu[1] = 2, p.cu[2] = GN;
    for (int i = 0; i < GN * GD; i++) p.rope[i] = i % GD < GD / 2 ? cos(i) : sin(i - GD / 2);
    return p;
}

static double weighted(const Problem *p, int count) {
    double sum = 0;
    for (int i = 0; i < count; i++) sum += p->out[i] * p->r[i];
    return sum;
}

static Weight gradient_weight(const double *data, int rows, int cols) {
    return (Weight){data, DTYPE_F64, NULL, rows, cols, WEIGHT_ROWS};
}

static double loss_matmul(Fixture *f, void *problem) {
    Problem *p = problem;
    Weight   w = gradient_weight(p->w, GF, GC);
    f->ops[DOUBLE]->matmul_forward(f->dev, p->out, p->x, &w, GN);
    return weighted(p, GN * GF);
}

static double loss_swiglu(Fixture *f, void *problem) {
    Problem *p = problem;
    f->ops[DOUBLE]->swiglu_forward(f->dev, p->out, p->x, GN, GF);
    return weighted(p, GN * GF);
}

static double loss_rmsnorm(Fixture *f, void *problem) {
    Problem *p = problem;
    f->ops[DOUBLE]->rmsnorm_forward(f->dev, p->out, p->aux, p->x, p->w, 1e-6f, GN, GC);
    return weighted(p, GN * GC);
}

static double loss_rope(Fixture *f, void *problem) {
    Problem *p = problem;
    f->ops[DOUBLE]->qk_norm_rope_forward(f->dev, p->out, p->aux, p->x, p->w, p->w2, p->ids, p->rope, 1e-6f, GN, GH, GG,
                                         GD);
    return weighted(p, GN * (GH + GG) * GD);
}

static double loss_attention(Fixture *f, void *problem) { /* w holds qk, x holds qkv */
    Problem *p = problem;
    f->ops[DOUBLE]->attention_forward(f->dev, p->out, p->aux, p->w, p->x, p->cu, 2, GN, GH, GG, GD);
    return weighted(p, GN * GH * GD);
}

static double loss_classifier(Fixture *f, void *problem) {
    Problem *p = problem;
    Weight   w = gradient_weight(p->w, GV, GC);
    f->ops[DOUBLE]->classifier(f->dev, p->out, NULL, NULL, p->x, &w, p->ids, p->hi, GN, GV);
    double sum = 0;
    for (int i = 0; i < GN; i++) sum += p->out[i];
    return sum;
}

static void test_gradients(void **state) {
    Fixture         *f = *state;
    const KernelOps *ops = f->ops[DOUBLE];
    Problem          p = problem_random();
    double           dx[GN * 2 * GF * GC] = {0}, dw[GV * GC * GF] = {0}, dw2[GC] = {0};
    Weight           w = gradient_weight(p.w, GF, GC);

    ops->matmul_dgrad(f->dev, dx, p.r, &w, GN);
    ops->matmul_wgrad(f->dev, dw, p.r, p.x, GN, GF, GC);
    check_gradient(f, loss_matmul, &p, p.x, dx, GN * GC, "matmul_dgrad");
    check_gradient(f, loss_matmul, &p, p.w, dw, GF * GC, "matmul_wgrad");

    ops->swiglu_backward(f->dev, dx, p.out, p.r, p.x, GN, GF);
    check_gradient(f, loss_swiglu, &p, p.x, dx, GN * 2 * GF, "swiglu_backward");

    memset(dx, 0, sizeof dx), memset(dw, 0, sizeof dw);
    loss_rmsnorm(f, &p);
    ops->rmsnorm_backward(f->dev, dx, dw, p.r, p.x, p.w, p.aux, GN, GC);
    check_gradient(f, loss_rmsnorm, &p, p.x, dx, GN * GC, "rmsnorm_backward dinp");
    check_gradient(f, loss_rmsnorm, &p, p.w, dw, GC, "rmsnorm_backward dweight");

    memset(dx, 0, sizeof dx), memset(dw, 0, sizeof dw);
    loss_rope(f, &p);
    ops->qk_norm_rope_backward(f->dev, dx, dw, dw2, p.r, p.x, p.w, p.w2, p.aux, p.ids, p.rope, GN, GH, GG, GD);
    check_gradient(f, loss_rope, &p, p.x, dx, GN * (GH + 2 * GG) * GD, "qk_norm_rope_backward dqkv");
    check_gradient(f, loss_rope, &p, p.w, dw, GD, "qk_norm_rope_backward dq_weight");
    check_gradient(f, loss_rope, &p, p.w2, dw2, GD, "qk_norm_rope_backward dk_weight");

    memset(dx, 0, sizeof dx), memset(dw, 0, sizeof dw);
    loss_attention(f, &p);
    ops->attention_backward(f->dev, dw, dx, p.r, p.w, p.x, p.out, p.aux, p.cu, 2, GN, GH, GG, GD);
    check_gradient(f, loss_attention, &p, p.w, dw, GN * (GH + GG) * GD, "attention_backward dqk");
    check_gradient(f, loss_attention, &p, p.x, dx, GN * (GH + 2 * GG) * GD, "attention_backward dqkv");

    memset(dw, 0, sizeof dw);
    Weight head = gradient_weight(p.w, GV, GC);
    ops->classifier(f->dev, p.out, dx, dw, p.x, &head, p.ids, p.hi, GN, GV);
    check_gradient(f, loss_classifier, &p, p.x, dx, GN * GC, "classifier dinp");
    check_gradient(f, loss_classifier, &p, p.w, dw, GV * GC, "classifier dweight");

    ops->embedding_backward(f->dev, memset(dw, 0, sizeof dw), p.r, p.ids, GN, GC, GN);
    for (int i = 0; i < GN * GC; i++) assert_true(dw[p.ids[i / GC] * GC + i % GC] == p.r[i]); /* ids are distinct */
    assert_device_ok(f->dev);
}

/* ---- the device ---------------------------------------------------------------------------------------------------- */

static void test_device(void **state) {
    (void)state;
    char msg[256];
    Device *gpu = device_open(DEVICE_CUDA, 0, 0, msg, sizeof msg);
    if (!gpu) assert_non_null(strstr(msg, "--device cpu")); /* none here, or no kernels for it: what to do is said */
    device_close(gpu);
    assert_null(device_open(DEVICE_CPU, 0, -1, msg, sizeof msg));
    Device *dev = device_open(DEVICE_CPU, 0, 1, msg, sizeof msg);
    assert_non_null(dev);
    assert_int_equal(device_threads(dev), 1);
    assert_non_null(strstr(device_name(dev), "CPU, 1 thread, "));
    char *p = device_alloc(dev, 1000), zero[1000] = {0};
    assert_int_equal((uintptr_t)p % 256, 0);
    assert_memory_equal(p, zero, 1000);
    assert_null(kernels_get(dev, DTYPE_BF16));

    float  x[4] = {1, 2, 3, 4}, out[2] = {5, 6};
    Weight w = {x, DTYPE_F32, NULL, 2, 2, WEIGHT_ROWS};
    kernels_get(dev, DTYPE_F32)->matmul_forward(dev, out, x, &w, 1); /* no workspace was reserved */
    assert_true(out[0] == 5 && out[1] == 6);
    assert_int_not_equal(device_sync(dev), 0);
    assert_non_null(strstr(device_error(dev), "matmul_forward"));
    device_fail(dev, "later", "must not replace the first");
    assert_non_null(strstr(device_error(dev), "matmul_forward"));
    assert_int_equal(device_poll(dev, STREAM_COMPUTE), -1);
    device_free(dev, p);
    device_close(dev);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_device),
        cmocka_unit_test_setup_teardown(test_gradients, setup, teardown),
        cmocka_unit_test_setup_teardown(test_products, setup, teardown),
        cmocka_unit_test_setup_teardown(test_swiglu, setup, teardown),
        cmocka_unit_test_setup_teardown(test_swiglu_extremes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_embedding, setup, teardown),
        cmocka_unit_test_setup_teardown(test_rmsnorm, setup, teardown),
        cmocka_unit_test_setup_teardown(test_qk_norm_rope, setup, teardown),
        cmocka_unit_test_setup_teardown(test_attention, setup, teardown),
        cmocka_unit_test_setup_teardown(test_classifier, setup, teardown),
        cmocka_unit_test_setup_teardown(test_adamw, setup, teardown),
        cmocka_unit_test_setup_teardown(test_sum_squares, setup, teardown),
        cmocka_unit_test_setup_teardown(test_sample, setup, teardown),
    };
    return cmocka_run_group_tests_name("kernels", tests, NULL, NULL);
}
