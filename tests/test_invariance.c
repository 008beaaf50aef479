/* test_invariance.c - the bits of a result do not depend on the batch it was computed in, on tiles, threads, instruction
 * set, weight layout, or on how keys were cached. */
#include "tests/op_check.h"
#include "kernels/cpu/cpu.h"

enum { THREADS = 2 };

typedef struct {
    Device          *dev[THREADS]; /* with 1 and 2 threads */
    const KernelOps *ops;
    CpuLevel         best;
} Fixture;

static int setup(void **state) {
    Fixture *f = calloc(1, sizeof *f);
    for (int t = 0; t < THREADS; t++) f->dev[t] = device_for_test(t + 1);
    f->ops = kernels_get(f->dev[0], DTYPE_F32);
    f->best = cpu_level(f->dev[0]);
    *state = f;
    return 0;
}

static int teardown(void **state) {
    Fixture *f = *state;
    for (int t = 0; t < THREADS; t++) device_close(f->dev[t]);
    free(f);
    return 0;
}

/* Every instruction set on one thread, the best on two as well: -1 when there is nothing (new) to see. */
static int use_isa(Fixture *f, int t, CpuLevel level) {
    return t > 0 && level != f->best ? -1 : cpu_device_force_isa(f->dev[t], level);
}

static float *randoms(Device *dev, size_t count, double scale) {
    float *x = device_alloc(dev, count * sizeof *x);
    assert_non_null(x);
    for (size_t i = 0; i < count; i++) x[i] = (float)(scale * random_value());
    return x;
}

static float *zeros(Device *dev, size_t count) { return device_alloc(dev, count * sizeof(float)); }

static const char *label(const char *what, const Device *dev, int a, int b) {
    static char text[192];
    snprintf(text, sizeof text, "%s (%d, %d) on %s", what, a, b, device_name(dev));
    return text;
}

/* ---- products ------------------------------------------------------------------------------------------------------ */

typedef struct {
    int     N, R, C;
    float  *inp, *w, *residual, *dout;
    float  *out, *sum, *dinp, *dweight, *gated; /* by one thread, all rows at once */
    float  *got;
    Weight  rows, packed;
} Products;

static void products_check(Fixture *f, Device *dev, Products *p) {
    const KernelOps *o = f->ops;
    size_t           r = (size_t)p->R, c = (size_t)p->C, n = (size_t)p->N;
    o->weight_prepare(dev, &p->packed, (void *)p->packed.data, DTYPE_F32, &p->rows);
    for (int layout = 0; layout < 2; layout++) {
        const Weight *w = layout ? &p->packed : &p->rows;
        o->matmul_forward(dev, p->got, p->inp, w, p->N);
        assert_same_bits(p->got, p->out, n * r, label("matmul_forward", dev, p->N, layout));
        static const int parts[] = {1, 3, 14, 17}; /* rows a call */
        for (int i = 0; i < 4; i++) {
            size_t some = (size_t)(parts[i] < p->N ? parts[i] : p->N), last = n - some;
            o->matmul_forward(dev, p->got, p->inp + last * c, w, (int)some);
            assert_same_bits(p->got, p->out + last * r, some * r, label("matmul_forward, last rows", dev, (int)some, layout));
        }
        o->matmul_add_forward(dev, p->got, p->residual, p->inp, w, p->N);
        assert_same_bits(p->got, p->sum, n * r, label("matmul_add_forward", dev, p->N, layout));
        o->matmul_add_forward(dev, p->got, p->residual + (n - 1) * r, p->inp + (n - 1) * c, w, 1);
        assert_same_bits(p->got, p->sum + (n - 1) * r, r, label("matmul_add_forward, last row", dev, p->N, layout));
        if (p->R % 2) continue;
        o->matmul_swiglu_forward(dev, p->got, NULL, p->inp, w, p->N);
        assert_same_bits(p->got, p->gated, n * r / 2, label("matmul_swiglu_forward", dev, p->N, layout));
        o->matmul_swiglu_forward(dev, p->got, NULL, p->inp + (n - 1) * c, w, 1);
        assert_same_bits(p->got, p->gated + (n - 1) * r / 2, r / 2, label("matmul_swiglu_forward, last row", dev, p->N, layout));
    }
    o->matmul_dgrad(dev, p->got, p->dout, &p->rows, p->N);
    assert_same_bits(p->got, p->dinp, n * c, label("matmul_dgrad", dev, p->N, p->C));
    o->matmul_dgrad(dev, p->got, p->dout + (n - 1) * r, &p->rows, 1);
    assert_same_bits(p->got, p->dinp + (n - 1) * c, c, label("matmul_dgrad, last row", dev, p->N, p->C));
    memset(p->got, 0, r * c * sizeof(float));
    o->matmul_wgrad(dev, p->got, p->dout, p->inp, p->N, p->R, p->C);
    assert_same_bits(p->got, p->dweight, r * c, label("matmul_wgrad", dev, p->N, p->R));
}

/* The definition: one chain of fused multiply-adds, k ascending from 0. */
static void check_chain(const Products *p) {
    for (int i = 0; i < p->N * p->R; i += 7) {
        const float *x = p->inp + i / p->R * p->C, *w = p->w + i % p->R * p->C;
        float        chain = 0;
        for (int k = 0; k < p->C; k++) chain = fmaf(x[k], w[k], chain);
        assert_true(p->out[i] == chain);
        assert_true(p->sum[i] == p->residual[i] + chain);
    }
}

/* On a machine of other caches: blocks of few columns, slabs of few rows, which end within k. */
static void small_caches_check(Fixture *f, Device *dev, Products *p) {
    CpuState *cpu = (CpuState *)(uintptr_t)cpu_state(dev), real = *cpu;
    size_t    cells = (size_t)p->N * (size_t)p->R;
    for (int k_block = 32; k_block <= 128; k_block *= 2) {
        cpu->k_block = k_block, cpu->block_floats = 1 << 14, cpu->slab_floats = 1 << 12;
        products_check(f, dev, p);
        memcpy(p->got, p->residual, cells * sizeof(float)); /* in place */
        f->ops->matmul_add_forward(dev, p->got, p->got, p->inp, &p->rows, p->N);
        assert_same_bits(p->got, p->sum, cells, label("matmul_add_forward in place", dev, p->N, k_block));
        assert_int_equal(device_sync(dev), 0);
    }
    *cpu = real;
}

static void test_products(void **state) {
    Fixture *f = *state;
    static const int shapes[][3] = {{1, 1, 1},     {3, 34, 17},    {29, 96, 300},   {31, 130, 600},
                                    {290, 64, 33}, {230, 290, 20}, {130, 640, 300}, {23, 70, 48}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        Device  *one = f->dev[0];
        Products p = {.N = shapes[i][0], .R = shapes[i][1], .C = shapes[i][2]};
        size_t   r = (size_t)p.R, c = (size_t)p.C, n = (size_t)p.N, most = n * r + n * c + r * c;
        p.inp = randoms(one, n * c, 1), p.w = randoms(one, r * c, 1);
        p.residual = randoms(one, n * r, 1), p.dout = randoms(one, n * r, 1);
        p.out = zeros(one, n * r), p.sum = zeros(one, n * r), p.gated = zeros(one, n * r);
        p.dinp = zeros(one, n * c), p.dweight = zeros(one, r * c), p.got = zeros(one, most);
        p.rows = (Weight){p.w, DTYPE_F32, NULL, p.R, p.C, WEIGHT_ROWS};
        void *storage = device_alloc(one, f->ops->weight_prepared_bytes(one, p.R, p.C, DTYPE_F32));
        cpu_device_force_isa(one, f->best);
        f->ops->matmul_forward(one, p.out, p.inp, &p.rows, p.N);
        f->ops->matmul_add_forward(one, p.sum, p.residual, p.inp, &p.rows, p.N);
        if (p.R % 2 == 0) f->ops->matmul_swiglu_forward(one, p.gated, NULL, p.inp, &p.rows, p.N);
        f->ops->matmul_dgrad(one, p.dinp, p.dout, &p.rows, p.N);
        f->ops->matmul_wgrad(one, p.dweight, p.dout, p.inp, p.N, p.R, p.C);
        check_chain(&p);
        for (CpuLevel level = CPU_PORTABLE; level < CPU_LEVELS; level++)
            for (int t = 0; t < THREADS; t++) {
                if (use_isa(f, t, level)) continue;
                p.packed.data = storage;
                products_check(f, f->dev[t], &p);
                assert_int_equal(device_sync(f->dev[t]), 0);
            }
        for (int t = 0; t < THREADS; t++) small_caches_check(f, f->dev[t], &p);
        float *all[] = {p.inp, p.w, p.residual, p.dout, p.out, p.sum, p.gated, p.dinp, p.dweight, p.got};
        for (size_t a = 0; a < sizeof all / sizeof *all; a++) device_free(one, all[a]);
        device_free(one, storage);
    }
}

/* Any strides, and a chain continued in pieces is one chain. */
static void test_sgemm(void **state) {
    Fixture *f = *state;
    enum { M = 17, N = 70, K = 90, CUT = 37 };
    Device *dev = f->dev[0];
    float  *a = randoms(dev, M * K, 1), *b = randoms(dev, K * N, 1), *at = zeros(dev, M * K), *bt = zeros(dev, K * N);
    float  *scratch = zeros(dev, product_scratch(dev) / sizeof(float)), want[M * N], got[M * N];
    for (int m = 0; m < M; m++)
        for (int k = 0; k < K; k++) at[k * M + m] = a[m * K + k];
    for (int k = 0; k < K; k++)
        for (int n = 0; n < N; n++) bt[n * K + k] = b[k * N + n];
    for (int m = 0; m < M; m++)
        for (int n = 0; n < N; n++) {
            float sum = 0;
            for (int k = 0; k < K; k++) sum = fmaf(a[m * K + k], b[k * N + n], sum);
            want[m * N + n] = sum;
        }
    for (CpuLevel level = CPU_PORTABLE; level < CPU_LEVELS; level++) {
        if (cpu_device_force_isa(dev, level)) continue;
        cpu_sgemm(dev, M, N, K, a, K, 1, b, N, 1, got, N, SGEMM_STORE, scratch);
        assert_same_bits(got, want, M * N, label("sgemm NN", dev, 0, 0));
        cpu_sgemm(dev, M, N, K, a, K, 1, bt, 1, K, got, N, SGEMM_STORE, scratch);
        assert_same_bits(got, want, M * N, label("sgemm NT", dev, 0, 0));
        cpu_sgemm(dev, M, N, K, at, 1, M, bt, 1, K, got, N, SGEMM_STORE, scratch);
        assert_same_bits(got, want, M * N, label("sgemm TT", dev, 0, 0));
        cpu_sgemm(dev, M, N, CUT, a, K, 1, b, N, 1, got, N, SGEMM_STORE, scratch);
        cpu_sgemm(dev, M, N, K - CUT, a + CUT, K, 1, b + CUT * N, N, 1, got, N, SGEMM_CHAIN, scratch);
        assert_same_bits(got, want, M * N, label("sgemm in two pieces", dev, 0, 0));
        for (int i = 0; i < M * N; i++) got[i] = 1;
        cpu_sgemm(dev, M, N, K, a, K, 1, b, N, 1, got, N, SGEMM_ADD, scratch);
        for (int i = 0; i < M * N; i++) assert_true(got[i] == 1 + want[i]);
    }
    cpu_device_force_isa(dev, f->best);
    float *all[] = {a, b, at, bt, scratch};
    for (int i = 0; i < 5; i++) device_free(dev, all[i]);
}

/* Wide enough that threads take several rectangles of it each. */
static void test_sgemm_turns(void **state) {
    Fixture *f = *state;
    enum { M = 600, N = 8192, K = 24 };
    float *a = randoms(f->dev[0], M * K, 1), *b = randoms(f->dev[0], K * N, 1), *c[THREADS];
    for (int t = 0; t < THREADS; t++) {
        float *scratch = zeros(f->dev[t], product_scratch(f->dev[t]) / sizeof(float));
        c[t] = zeros(f->dev[t], M * N);
        cpu_sgemm(f->dev[t], M, N, K, a, K, 1, b, N, 1, c[t], N, SGEMM_STORE, scratch);
        cpu_sgemm(f->dev[t], M, N, K, a, K, 1, b, N, 1, c[t], N, SGEMM_ADD, scratch);
        assert_int_equal(device_sync(f->dev[t]), 0);
        device_free(f->dev[t], scratch);
    }
    assert_same_bits(c[1], c[0], (size_t)M * N, label("sgemm in turns", f->dev[1], M, N));
    for (int t = 0; t < THREADS; t++) device_free(f->dev[t], c[t]);
    device_free(f->dev[0], a);
    device_free(f->dev[0], b);
}

/* ---- weights of 16 and 8 bits -------------------------------------------------------------------------------------- */

/* The definition: whole numbers in [-127, 127], one scale a row; returns the scale. */
static float quantize(int *q, const float *x, int n) {
    float max = 0;
    for (int k = 0; k < n; k++) max = fmaxf(max, fabsf(x[k]));
    for (int k = 0; k < n; k++) q[k] = max > 0 ? (int)nearbyintf(x[k] * (127.0f / max)) : 0;
    return max / 127.0f;
}

/* out (N, R) as the definition has it: exact sums, then (sum * row's scale) * weight's scale. */
static void int8_expected(float *out, const float *inp, const float *w, int N, int R, int C) {
    int *x = malloc(sizeof(int) * (size_t)C), *y = malloc(sizeof(int) * (size_t)C);
    for (int n = 0; n < N; n++) {
        float row_scale = quantize(x, inp + n * C, C);
        for (int r = 0; r < R; r++) {
            float   scale = quantize(y, w + r * C, C);
            int64_t sum = 0;
            for (int k = 0; k < C; k++) sum += (int64_t)x[k] * y[k];
            out[n * R + r] = (float)sum * row_scale * scale;
            for (int k = 0; k < C; k++) assert_true(fabsf(w[r * C + k] - (float)y[k] * scale) <= 0.501f * scale);
        }
    }
    free(x);
    free(y);
}

/* Every product with p->packed, all rows at once and the last few alone, against p->out, p->sum and p->gated. */
static void narrow_check(Fixture *f, Device *dev, const Products *p, const char *what) {
    const KernelOps *o = f->ops;
    size_t           r = (size_t)p->R, c = (size_t)p->C, n = (size_t)p->N;
    for (int alone = 0; alone < 2; alone++) {
        size_t some = alone ? (n > 3 ? 3 : 1) : n, last = n - some;
        o->matmul_forward(dev, p->got, p->inp + last * c, &p->packed, (int)some);
        assert_same_bits(p->got, p->out + last * r, some * r, label(what, dev, p->N, (int)some));
        o->matmul_add_forward(dev, p->got, p->residual + last * r, p->inp + last * c, &p->packed, (int)some);
        assert_same_bits(p->got, p->sum + last * r, some * r, label(what, dev, p->N, (int)some));
        if (p->R % 2) continue;
        o->matmul_swiglu_forward(dev, p->got, NULL, p->inp + last * c, &p->packed, (int)some);
        assert_same_bits(p->got, p->gated + last * r / 2, some * r / 2, label(what, dev, p->N, (int)some));
        o->matmul_swiglu_forward(dev, p->got, p->got + n * r, p->inp + last * c, &p->packed, (int)some);
        assert_same_bits(p->got, p->gated + last * r / 2, some * r / 2, label(what, dev, p->N, (int)some));
        assert_same_bits(p->got + n * r, p->out + last * r, some * r, label(what, dev, p->N, (int)some));
    }
    memcpy(p->got, p->residual, n * r * sizeof(float)); /* in place */
    o->matmul_add_forward(dev, p->got, p->got, p->inp, &p->packed, p->N);
    assert_same_bits(p->got, p->sum, n * r, label(what, dev, p->N, p->N));
}

/* bfloat16: the bits of products with the rounded weights in float.  int8: the bits of the definition. */
static void narrow_expect(Fixture *f, Device *dev, Products *p, DType t, float *rounded) {
    size_t count = (size_t)p->R * (size_t)p->C, cells = (size_t)p->N * (size_t)p->R;
    if (t == DTYPE_BF16) {
        for (size_t i = 0; i < count; i++) {
            uint32_t bits;
            memcpy(&bits, p->w + i, 4);
            bits = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000u;
            memcpy(rounded + i, &bits, 4);
        }
        Weight w = {rounded, DTYPE_F32, NULL, p->R, p->C, WEIGHT_ROWS};
        f->ops->matmul_forward(dev, p->out, p->inp, &w, p->N);
    } else {
        int8_expected(p->out, p->inp, p->w, p->N, p->R, p->C);
    }
    for (size_t i = 0; i < cells; i++) p->sum[i] = p->residual[i] + p->out[i];
    if (p->R % 2 == 0) f->ops->swiglu_forward(dev, p->gated, p->out, p->N, p->R / 2);
}

static void test_narrow_weights(void **state) {
    Fixture *f = *state;
    static const int   shapes[][3] = {{1, 1, 1}, {3, 34, 17}, {29, 96, 300}, {31, 130, 600}, {90, 192, 33}, {600, 64, 20}, {33, 66, 2100}};
    static const DType types[] = {DTYPE_BF16, DTYPE_I8};
    Device            *one = f->dev[0];
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int k = 0; k < 2; k++) {
            Products p = {.N = shapes[i][0], .R = shapes[i][1], .C = shapes[i][2]};
            size_t   r = (size_t)p.R, c = (size_t)p.C, n = (size_t)p.N;
            p.inp = randoms(one, n * c, 1), p.w = randoms(one, r * c, 1), p.residual = randoms(one, n * r, 1);
            p.out = zeros(one, n * r), p.sum = zeros(one, n * r), p.gated = zeros(one, n * r), p.got = zeros(one, 2 * n * r);
            float *rounded = zeros(one, r * c);
            for (size_t j = 0; j < c; j++) p.w[j] = 0; /* a row of zeros has no scale */
            p.rows = (Weight){p.w, DTYPE_F32, NULL, p.R, p.C, WEIGHT_ROWS};
            void *storage = device_alloc(one, f->ops->weight_prepared_bytes(one, p.R, p.C, types[k]));
            cpu_device_force_isa(one, f->best);
            narrow_expect(f, one, &p, types[k], rounded);
            for (CpuLevel level = CPU_PORTABLE; level < CPU_LEVELS; level++)
                for (int t = 0; t < THREADS; t++) {
                    if (use_isa(f, t, level)) continue;
                    f->ops->weight_prepare(f->dev[t], &p.packed, storage, types[k], &p.rows);
                    narrow_check(f, f->dev[t], &p, dtype_name(types[k]));
                    assert_int_equal(device_sync(f->dev[t]), 0);
                }
            float *all[] = {p.inp, p.w, p.residual, p.out, p.sum, p.gated, p.got, rounded};
            for (size_t a = 0; a < sizeof all / sizeof *all; a++) device_free(one, all[a]);
            device_free(one, storage);
        }
}

/* An activation that is no number must not pass for one. */
static void test_int8_not_finite(void **state) {
    Fixture *f = *state;
    enum { R = 32, C = 48, ROWS = 3 };
    Device *dev = f->dev[0];
    float  *w = randoms(dev, R * C, 1), *inp = randoms(dev, ROWS * C, 1), *out = zeros(dev, ROWS * R);
    void   *storage = device_alloc(dev, f->ops->weight_prepared_bytes(dev, R, C, DTYPE_I8));
    Weight  rows = {w, DTYPE_F32, NULL, R, C, WEIGHT_ROWS}, packed;
    f->ops->weight_prepare(dev, &packed, storage, DTYPE_I8, &rows);
    inp[7] = NAN;
    inp[2 * C + 40] = INFINITY;
    for (CpuLevel level = CPU_PORTABLE; level < CPU_LEVELS; level++) {
        if (use_isa(f, 0, level)) continue;
        f->ops->matmul_forward(dev, out, inp, &packed, ROWS);
        for (int j = 0; j < R; j++) assert_true(isnan(out[j]) && isfinite(out[R + j]) && isnan(out[2 * R + j]));
    }
    cpu_device_force_isa(dev, f->best);
    void *all[] = {w, inp, out, storage};
    for (int i = 0; i < 4; i++) device_free(dev, all[i]);
}

/* The vector functions: the same bits in every instruction set and at every place in a vector, and near the truth. */
static void test_vector_functions(void **state) {
    Fixture *f = *state;
    enum { COUNT = 1000 };
    static float x[COUNT], want[COUNT], got[COUNT], one[1];
    for (int i = 0; i < COUNT; i++) x[i] = 30 * random_value();
    float sum = cpu_isa(f->dev[0])->exp_sum(want, x, 1, 0, COUNT - 3);
    for (int i = 0; i < COUNT - 3; i++)
        if (x[i] > -87 && x[i] < 88) assert_true(fabs(want[i] - exp(x[i])) <= 2 * FLT_EPSILON * exp(x[i]));
    for (CpuLevel level = CPU_PORTABLE; level < CPU_LEVELS; level++) {
        if (cpu_device_force_isa(f->dev[0], level)) continue;
        const CpuIsa *isa = cpu_isa(f->dev[0]);
        assert_true(isa->exp_sum(got, x, 1, 0, COUNT - 3) == sum);
        assert_same_bits(got, want, COUNT - 3, label("exp_sum", f->dev[0], 0, 0));
        for (int i = 0; i < COUNT - 3; i += 37) {
            isa->exp_sum(one, x + i, 1, 0, 1);
            assert_same_bits(one, want + i, 1, label("exp of one", f->dev[0], i, 0));
        }
        float edge[] = {-INFINITY, -1e30f, 0, 1e30f, INFINITY}, e[5];
        isa->exp_sum(e, edge, 1, 0, 5);
        assert_true(e[0] == 0 && e[1] == 0 && e[2] == 1 && isinf(e[3]) && isinf(e[4]));
        edge[3] = NAN;
        assert_true(isnan(isa->exp_sum(e, edge, 1, 0, 5)) && isnan(e[3]));
        float largest = -INFINITY;
        for (int i = 0; i < 19; i++) largest = fmaxf(largest, x[i]);
        assert_true(isa->max(x, 19) == largest && isa->max(x, 0) == -INFINITY);
    }
    cpu_device_force_isa(f->dev[0], f->best);
}

/* ---- every forward operation, all rows at once --------------------------------------------------------------------- */

enum { N = 150, C = 96, H = 4, G = 2, D = 64, V = 300, VP = 320, SEQUENCES = 3 };
static const int32_t cu_seqlens[SEQUENCES + 1] = {0, 70, 71, N};

typedef struct {
    float   *x, *norm, *qkv, *q_weight, *k_weight, *rope, *qk, *head, *dout, *uniforms;
    int32_t *positions, *lo, *hi;
    double  *uniform;
} Inputs;

static Inputs inputs_random(Device *dev) {
    Inputs in = {.x = randoms(dev, N * C, 2), .norm = randoms(dev, C, 1), .qkv = randoms(dev, N * (H + 2 * G) * D, 1),
                 .q_weight = randoms(dev, D, 1), .k_weight = randoms(dev, D, 1), .rope = randoms(dev, N * D, 1),
                 .qk = randoms(dev, N * (H + G) * D, 1), .head = randoms(dev, VP * C, 1), .dout = randoms(dev, N * 512, 1)};
    in.positions = device_alloc(dev, N * 4), in.lo = device_alloc(dev, N * 4), in.hi = device_alloc(dev, N * 4);
    in.uniform = device_alloc(dev, N * sizeof(double));
    for (int n = 0; n < N; n++) {
        in.positions[n] = n;
        in.lo[n] = n * 2, in.hi[n] = in.lo[n] + 1 + n % 3 * (n / 50);
        if (in.hi[n] > V) in.hi[n] = V;
        in.uniform[n] = random_uniform();
    }
    return in;
}

static void inputs_free(Device *dev, Inputs *in) {
    void *all[] = {in->x, in->norm, in->qkv, in->q_weight, in->k_weight, in->rope, in->qk, in->head, in->dout,
                   in->positions, in->lo, in->hi, in->uniform};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) device_free(dev, all[i]);
}

/* Rows [first, first + n) of every forward operation that treats rows alone; returns the floats written a row. */
enum { ROW_FLOATS = C + (H + G) * D + 1 + 2 };
static void forward_rows(const KernelOps *o, Device *dev, const Inputs *in, int first, int n, float *out) {
    size_t   at = (size_t)first, rows = (size_t)n;
    Weight   head = {in->head, DTYPE_F32, NULL, VP, C, WEIGHT_ROWS};
    float   *norm = out, *qk = norm + rows * C, *losses = qk + rows * (H + G) * D, *logp = losses + rows;
    int32_t *tokens = (int32_t *)(logp + rows);
    float   *logits = zeros(dev, rows * VP);
    o->rmsnorm_forward(dev, norm, NULL, in->x + at * C, in->norm, 1e-6f, n, C);
    o->qk_norm_rope_forward(dev, qk, NULL, in->qkv + at * (H + 2 * G) * D, in->q_weight, in->k_weight,
                            in->positions + at, in->rope, 1e-6f, n, H, G, D);
    o->classifier(dev, losses, NULL, NULL, in->x + at * C, &head, in->lo + at, in->hi + at, n, V);
    o->matmul_forward(dev, logits, in->x + at * C, &head, n);
    SampleSpec spec = {.V = V, .Vp = VP, .temperature = 1};
    o->sample(dev, tokens, logp, NULL, logits, in->uniform + at, NULL, &spec, n);
    assert_int_equal(device_sync(dev), 0);
    device_free(dev, logits);
}

static void test_rows_alone(void **state) {
    Fixture *f = *state;
    Inputs   in = inputs_random(f->dev[0]);
    float   *all = zeros(f->dev[0], N * ROW_FLOATS), *part = zeros(f->dev[0], N * ROW_FLOATS);
    forward_rows(f->ops, f->dev[0], &in, 0, N, all);
    for (CpuLevel level = CPU_PORTABLE; level < CPU_LEVELS; level++)
        for (int t = 0; t < THREADS; t++) {
            Device *dev = f->dev[t];
            if (use_isa(f, t, level)) continue;
            forward_rows(f->ops, dev, &in, 0, N, part);
            assert_same_bits(part, all, N * ROW_FLOATS, label("forward operations", dev, 0, N));
            static const int cuts[][2] = {{0, 1}, {N - 1, 1}, {33, 1}, {5, 64}, {71, 79}};
            for (int i = 0; i < 5; i++) {
                size_t first = (size_t)cuts[i][0], n = (size_t)cuts[i][1], begin = 0, begin_all = 0;
                forward_rows(f->ops, dev, &in, cuts[i][0], cuts[i][1], part);
                static const size_t width[] = {C, (H + G) * D, 1, 1, 1};
                for (int k = 0; k < 5; k++) {
                    assert_same_bits(part + begin, all + begin_all + first * width[k], n * width[k],
                                     label("forward operation, some rows", dev, k, cuts[i][0]));
                    begin += n * width[k], begin_all += N * width[k];
                }
            }
        }
    for (int t = 0; t < THREADS; t++) cpu_device_force_isa(f->dev[t], f->best);
    device_free(f->dev[0], all);
    device_free(f->dev[0], part);
    inputs_free(f->dev[0], &in);
}

/* Every backward operation; returns the floats written. */
enum { BACKWARD_FLOATS = N * C + C + N * (H + 2 * G) * D + 2 * D + N * (H + 2 * G) * D + N * (H + G) * D + N * C + VP * C + V * C };
static void backward_all(const KernelOps *o, Device *dev, const Inputs *in, float *out) {
    float *rstd = zeros(dev, N * (H + G)), *y = zeros(dev, N * (H + G) * D), *lse = zeros(dev, N * H), *losses = zeros(dev, N);
    Weight head = {in->head, DTYPE_F32, NULL, VP, C, WEIGHT_ROWS};
    memset(out, 0, BACKWARD_FLOATS * sizeof *out);
    o->rmsnorm_forward(dev, y, rstd, in->x, in->norm, 1e-6f, N, C);
    o->rmsnorm_backward(dev, out, out + N * C, in->dout, in->x, in->norm, rstd, N, C);
    out += N * C + C;
    o->qk_norm_rope_forward(dev, y, rstd, in->qkv, in->q_weight, in->k_weight, in->positions, in->rope, 1e-6f, N, H, G, D);
    o->qk_norm_rope_backward(dev, out + 2 * D, out, out + D, in->dout, in->qkv, in->q_weight, in->k_weight, rstd,
                             in->positions, in->rope, N, H, G, D);
    out += 2 * D + N * (H + 2 * G) * D;
    o->attention_forward(dev, y, lse, in->qk, in->qkv, cu_seqlens, SEQUENCES, N, H, G, D);
    o->attention_backward(dev, out, out + N * (H + G) * D, in->dout, in->qk, in->qkv, y, lse, cu_seqlens, SEQUENCES, N, H, G, D);
    out += N * (H + G) * D + N * (H + 2 * G) * D;
    o->classifier(dev, losses, out, out + N * C, in->x, &head, in->lo, in->hi, N, V);
    out += N * C + VP * C;
    o->embedding_backward(dev, out, in->dout, in->lo, N, C, V);
    assert_int_equal(device_sync(dev), 0);
    float *all[] = {rstd, y, lse, losses};
    for (int i = 0; i < 4; i++) device_free(dev, all[i]);
}

static void test_backward(void **state) {
    Fixture *f = *state;
    Inputs   in = inputs_random(f->dev[0]);
    float   *want = zeros(f->dev[0], BACKWARD_FLOATS), *got = zeros(f->dev[0], BACKWARD_FLOATS);
    for (int t = 0; t < THREADS; t++) {
        backward_all(f->ops, f->dev[t], &in, want);
        for (CpuLevel level = CPU_PORTABLE; level < CPU_LEVELS; level++) {
            if (use_isa(f, t, level)) continue;
            for (int again = 0; again < 2; again++) {
                backward_all(f->ops, f->dev[t], &in, got);
                assert_same_bits(got, want, BACKWARD_FLOATS, label("backward operations", f->dev[t], again, 0));
            }
        }
        cpu_device_force_isa(f->dev[t], f->best);
    }
    device_free(f->dev[0], want);
    device_free(f->dev[0], got);
    inputs_free(f->dev[0], &in);
}

/* ---- cached keys --------------------------------------------------------------------------------------------------- */

/* SAMPLES futures of one patient: the first PREFIX rows are the same, so whole pages of them are shared, and the last
 * partial one is copied.  What attention_forward says over each whole sequence, attention_paged must say too. */
enum { SAMPLES = 3, PREFIX = 150, OWN = 50, LENGTH = PREFIX + OWN, SHARED = PREFIX / KV_PAGE, OWN_PAGES = 2 };
enum { BLOCKS = (LENGTH + KV_PAGE - 1) / KV_PAGE, PAGES = SHARED + SAMPLES * OWN_PAGES + 1, TOTAL = SAMPLES * LENGTH };
enum { QK = (H + G) * D, QKV = (H + 2 * G) * D, OUT = H * D };

typedef struct {
    DType   type; /* of the pool */
    float  *qk, *qkv, *want, *pool;
    int32_t table[SAMPLES * BLOCKS];
} Cache;

static int32_t page_of(int sample, int block) { /* scattered on purpose */
    int page = block < SHARED ? block : SHARED + sample * OWN_PAGES + block - SHARED;
    return (page * 5 + 3) % PAGES;
}

static Cache cache_random(Fixture *f, Device *dev, DType type) {
    Cache c = {type, randoms(dev, TOTAL * QK, 1), randoms(dev, TOTAL * QKV, 1), zeros(dev, TOTAL * OUT),
               randoms(dev, (size_t)PAGES * 2 * G * KV_PAGE * D, 1), {0}};
    int32_t cu[SAMPLES + 1];
    for (int s = 0; s <= SAMPLES; s++) cu[s] = s * LENGTH;
    for (int s = 1; s < SAMPLES; s++) {
        memcpy(c.qk + (size_t)s * LENGTH * QK, c.qk, sizeof(float) * PREFIX * QK);
        memcpy(c.qkv + (size_t)s * LENGTH * QKV, c.qkv, sizeof(float) * PREFIX * QKV);
    }
    for (int s = 0; s < SAMPLES; s++)
        for (int b = 0; b < BLOCKS; b++) c.table[s * BLOCKS + b] = page_of(s, b);
    if (type == DTYPE_F32) {
        f->ops->attention_forward(dev, c.want, NULL, c.qk, c.qkv, cu, SAMPLES, TOTAL, H, G, D);
        return c;
    }
    for (int s = 0; s < SAMPLES; s++) { /* rounded pages: each whole sequence as one prefill, from other pages */
        int32_t q_offset[] = {0, LENGTH}, kv_len[] = {LENGTH}, group[] = {0, 1}, none[] = {0}, table[BLOCKS];
        int64_t slot[LENGTH];
        for (int i = 0; i < BLOCKS; i++) table[i] = i;
        for (int i = 0; i < LENGTH; i++) slot[i] = i;
        PagedBatch batch = {c.pool, q_offset, kv_len, table, 1, BLOCKS, group, none, 1, type};
        f->ops->kv_append(dev, c.pool, type, c.qk + (size_t)s * LENGTH * QK, c.qkv + (size_t)s * LENGTH * QKV, slot, LENGTH, H, G, D);
        f->ops->attention_paged(dev, c.want + (size_t)s * LENGTH * OUT, c.qk + (size_t)s * LENGTH * QK, &batch, LENGTH, H, G, D);
    }
    return c;
}

/* Appends rows [from, to) of each sample in [first, end) and attends from them; groups share pages, or each is alone. */
static void cache_advance(Fixture *f, Device *dev, Cache *c, int first, int end, int from, int to, int grouped) {
    int     n_seq = end - first, rows = to - from, n = n_seq * rows;
    float  *qk = zeros(dev, (size_t)n * QK), *qkv = zeros(dev, (size_t)n * QKV), *out = zeros(dev, (size_t)n * OUT);
    int32_t q_offset[SAMPLES + 1], kv_len[SAMPLES], group_offset[SAMPLES + 1], group_shared[SAMPLES];
    int64_t *slot = device_alloc(dev, (size_t)n * sizeof *slot);
    for (int s = 0; s < n_seq; s++) {
        size_t row = (size_t)((first + s) * LENGTH + from);
        memcpy(qk + (size_t)s * (size_t)rows * QK, c->qk + row * QK, sizeof(float) * (size_t)rows * QK);
        memcpy(qkv + (size_t)s * (size_t)rows * QKV, c->qkv + row * QKV, sizeof(float) * (size_t)rows * QKV);
        for (int i = 0; i < rows; i++) {
            int at = from + i;
            slot[s * rows + i] = (int64_t)page_of(first + s, at / KV_PAGE) * KV_PAGE + at % KV_PAGE;
        }
        q_offset[s] = s * rows, kv_len[s] = to;
        group_offset[s] = s, group_shared[s] = 0;
    }
    q_offset[n_seq] = n, group_offset[n_seq] = n_seq;
    PagedBatch batch = {c->pool, q_offset, kv_len, c->table + first * BLOCKS, n_seq, BLOCKS, group_offset, group_shared, n_seq, c->type};
    if (grouped) {
        batch.n_group = 1, group_offset[1] = n_seq;
        group_shared[0] = SHARED;
    }
    f->ops->kv_append(dev, c->pool, c->type, qk, qkv, slot, n, H, G, D);
    f->ops->attention_paged(dev, out, qk, &batch, n, H, G, D);
    assert_int_equal(device_sync(dev), 0);
    for (int s = 0; s < n_seq; s++)
        assert_same_bits(out + (size_t)s * (size_t)rows * OUT, c->want + (size_t)((first + s) * LENGTH + from) * OUT,
                         (size_t)rows * OUT, label(grouped ? "attention_paged, grouped" : "attention_paged", dev, from, to));
    float *all[] = {qk, qkv, out};
    for (int i = 0; i < 3; i++) device_free(dev, all[i]);
    device_free(dev, slot);
}

static void cache_free(Device *dev, Cache *c) {
    float *all[] = {c->qk, c->qkv, c->want, c->pool};
    for (int i = 0; i < 4; i++) device_free(dev, all[i]);
}

/* A fork: the samples of [1, SAMPLES) get their own copy of the prefix's last, partial page. */
static void cache_fork(Fixture *f, Device *dev, Cache *c) {
    for (int s = 1; s < SAMPLES; s++)
        f->ops->kv_copy_page(dev, c->pool, c->type, page_of(s, SHARED), page_of(0, SHARED), PREFIX - SHARED * KV_PAGE, G, D);
}

static void cache_check(Fixture *f, Device *dev, DType type) {
    Cache c = cache_random(f, dev, type);
    cache_advance(f, dev, &c, 0, 1, 0, LENGTH, 0); /* prefill at one go */
    int chunks[] = {0, 1, 8, 63, 64, 129, PREFIX};
    for (int i = 1; i < 7; i++) cache_advance(f, dev, &c, 0, 1, chunks[i - 1], chunks[i], 0);
    cache_fork(f, dev, &c);
    for (int at = PREFIX; at < PREFIX + 8; at++) cache_advance(f, dev, &c, 0, SAMPLES, at, at + 1, at % 2);
    cache_advance(f, dev, &c, 0, SAMPLES, PREFIX + 8, LENGTH - 3, 1); /* several new rows a sample */
    for (int at = LENGTH - 3; at < LENGTH; at++) {
        cache_advance(f, dev, &c, 0, SAMPLES, at, at + 1, 1);
        cache_advance(f, dev, &c, 2, 3, at, at + 1, 0); /* one sample by itself */
    }
    cache_free(dev, &c);
}

static void test_attention_paged(void **state) {
    Fixture *f = *state;
    for (int t = 0; t < THREADS; t++)
        for (CpuLevel level = CPU_PORTABLE; level < CPU_LEVELS; level++) {
            if (use_isa(f, t, level)) continue;
            cache_check(f, f->dev[t], DTYPE_F32);
            cache_check(f, f->dev[t], DTYPE_BF16);
        }
    for (int t = 0; t < THREADS; t++) cpu_device_force_isa(f->dev[t], f->best);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_products, setup, teardown),
        cmocka_unit_test_setup_teardown(test_sgemm, setup, teardown),
        cmocka_unit_test_setup_teardown(test_sgemm_turns, setup, teardown),
        cmocka_unit_test_setup_teardown(test_narrow_weights, setup, teardown),
        cmocka_unit_test_setup_teardown(test_int8_not_finite, setup, teardown),
        cmocka_unit_test_setup_teardown(test_vector_functions, setup, teardown),
        cmocka_unit_test_setup_teardown(test_rows_alone, setup, teardown),
        cmocka_unit_test_setup_teardown(test_backward, setup, teardown),
        cmocka_unit_test_setup_teardown(test_attention_paged, setup, teardown),
    };
    return cmocka_run_group_tests_name("invariance", tests, NULL, NULL);
}
