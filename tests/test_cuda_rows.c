/* test_cuda_rows.c - the CUDA backend's operations on rows: embedding, RMSNorm, rotary positions, SwiGLU, optimizer and
 * sampling, in float32 and bf16, against the reference in double. */
#include "tests/cuda_check.h"

static const DType dtypes[] = {DTYPE_F32, DTYPE_BF16};
#define FOR_DTYPES(i) for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++)

/* The long list is for sizes, which no order of execution changes: it runs under the first. */
static int order;
static int test_longer(void) { return test_long() && order == 0; }

/* One device serves all tests; float32 and bf16 share it. */
static CudaTest shared_test;

static CudaTest open_for(DType dtype, int N, int C, int V) {
    if (!shared_test.dev[FAST]) shared_test = cuda_test_open(dtype);
    CudaTest     t = shared_test;
    KernelLimits limits = {.N = N, .C = C, .F = 2 * C, .Vp = (V + 63) / 64 * 64, .H = 4, .G = 4, .D = 128, .n_seq = 4};
    t.dtype = dtype;
    t.ops[FAST] = kernels_get(t.dev[FAST], dtype);
    cuda_test_reserve(&t, &limits);
    return t;
}

static int close_shared(void **state) {
    (void)state;
    if (shared_test.dev[FAST]) cuda_test_close(&shared_test);
    shared_test = (CudaTest){0};
    return 0;
}

static void free_all(CudaTest *t, Tensor **all, size_t n) {
    for (size_t i = 0; i < n; i++) tensor_free(t, all[i]);
}
#define FREE_ALL(t, ...)                                                                                              \
    do {                                                                                                              \
        Tensor *all_[] = {__VA_ARGS__};                                                                               \
        free_all(t, all_, sizeof all_ / sizeof *all_);                                                                \
    } while (0)

/* ---- embedding ------------------------------------------------------------------------------------------------------ */

typedef enum { SPREAD, EQUAL, SKEWED } Draw; /* every id alike, one id only, half of the rows on one id */

static void embedding_check(DType dtype, int N, int C, int V, Draw draw) {
    CudaTest t = open_for(dtype, N, C, V);
    size_t   n = (size_t)N, c = (size_t)C, v = (size_t)V;
    int32_t *tokens = malloc(n * sizeof *tokens), *uses = calloc(v, sizeof *uses);
    for (int i = 0; i < N; i++) {
        int any = (int)(random_uniform() * V);
        tokens[i] = draw == EQUAL || (draw == SKEWED && i % 2) ? V / 2 : any;
        uses[tokens[i]]++;
    }
    void  *d_tokens = cuda_upload(&t, tokens, n * sizeof *tokens);
    Tensor w = tensor_random(&t, dtype, v * c, 1), out = tensor_poison(&t, dtype, n * c);
    Tensor dout = tensor_random(&t, dtype, n * c, 1), dw = tensor_random(&t, DTYPE_F32, v * c, 1);
    Tensor again = tensor_from(&t, DTYPE_F32, v * c, dw.naive);
    FOR_SIDES(s) {
        const int32_t *ids = s == FAST ? d_tokens : tokens;
        t.ops[s]->embedding_forward(t.dev[s], side(&out, s), ids, side(&w, s), N, C);
        t.ops[s]->embedding_backward(t.dev[s], side(&dw, s), side(&dout, s), ids, N, C, V);
    }
    t.ops[FAST]->embedding_backward(t.dev[FAST], again.fast, dout.fast, d_tokens, N, C, V);
    float *copied = tensor_download(&t, &out);
    assert_same_bits(copied, out.naive, out.count, label("embedding_forward", N, C, V));
    free(copied);
    tensor_check(&t, &dw, label("embedding_backward", N, C, V));
    tensor_check_same(&t, &dw, &again, label("embedding_backward twice", N, C, V));
    float *sum = tensor_download(&t, &dw); /* up to 32 rows are added one by one */
    for (int id = 0; id < V; id++)
        if (uses[id] <= 32) assert_same_bits(sum + id * C, dw.naive + id * C, c, label("embedding_backward", N, C, id));
    free(sum);
    FREE_ALL(&t, &w, &out, &dout, &dw, &again);
    device_free(t.dev[FAST], d_tokens);
    free(tokens);
    free(uses);
    cuda_test_sync(&t);
}

static void test_embedding(void **state) {
    (void)state;
    FOR_DTYPES(i) {
        embedding_check(dtypes[i], 1, 1, 1, SPREAD);
        embedding_check(dtypes[i], 7, 33, 5, SPREAD);
        embedding_check(dtypes[i], 200, 48, 50, SPREAD);
        embedding_check(dtypes[i], 33, 8, 1000, SPREAD);
        embedding_check(dtypes[i], 97, 40, 3, EQUAL);
        embedding_check(dtypes[i], 300, 264, 20, SKEWED);
        if (!test_longer()) continue;
        embedding_check(dtypes[i], 2048, 768, 7168, SKEWED);
        embedding_check(dtypes[i], 4096, 64, 2000, SPREAD);
        embedding_check(dtypes[i], 4097, 17, 2, EQUAL);
    }
}

/* ---- RMSNorm -------------------------------------------------------------------------------------------------------- */

static void rmsnorm_check(DType dtype, int N, int C) {
    CudaTest t = open_for(dtype, N, C, 64);
    size_t   n = (size_t)N, c = (size_t)C;
    Tensor   inp = tensor_random(&t, dtype, n * c, 3), w = tensor_random(&t, dtype, c, 1);
    Tensor   out = tensor_poison(&t, dtype, n * c), bare = tensor_poison(&t, dtype, n * c);
    Tensor   rstd = tensor_poison(&t, DTYPE_F32, n), dout = tensor_random(&t, dtype, n * c, 1);
    Tensor   dw = tensor_random(&t, DTYPE_F32, c, 1), dinp = tensor_random(&t, dtype, n * c, 1);
    Tensor   frozen = tensor_zero(&t, dtype, n * c);
    FOR_SIDES(s) {
        const KernelOps *o = t.ops[s];
        Device          *dev = t.dev[s];
        o->rmsnorm_forward(dev, side(&out, s), side(&rstd, s), side(&inp, s), side(&w, s), 1e-6f, N, C);
        o->rmsnorm_forward(dev, side(&bare, s), NULL, side(&inp, s), side(&w, s), 1e-6f, N, C);
        for (int twice = 0; twice < 2; twice++)
            o->rmsnorm_backward(dev, side(&dinp, s), side(&dw, s), side(&dout, s), side(&inp, s), side(&w, s),
                                side(&rstd, s), N, C);
        o->rmsnorm_backward(dev, side(&frozen, s), NULL, side(&dout, s), side(&inp, s), side(&w, s), side(&rstd, s), N, C);
    }
    tensor_check_stored(&t, &out, label("rmsnorm_forward", N, C, 0));
    tensor_check_stored(&t, &rstd, label("rmsnorm_forward rstd", N, C, 0));
    tensor_check(&t, &dinp, label("rmsnorm_backward dinp", N, C, 0)); /* rounded twice */
    tensor_check_stored(&t, &frozen, label("rmsnorm_backward dinp, frozen weight", N, C, 0));
    tensor_check(&t, &dw, label("rmsnorm_backward dweight", N, C, 0));
    tensor_check_same(&t, &bare, &out, label("rmsnorm_forward without rstd", N, C, 0));
    if (N > 1) { /* a row has the same bits alone */
        Tensor alone = tensor_poison(&t, dtype, c), last = {dtype, c, NULL, NULL, NULL};
        size_t at = (n - 1) * c * dtype_size(dtype);
        t.ops[FAST]->rmsnorm_forward(t.dev[FAST], alone.fast, NULL, (char *)inp.fast + at, w.fast, 1e-6f, 1, C);
        last.fast = (char *)out.fast + at;
        tensor_check_same(&t, &alone, &last, label("rmsnorm_forward of one row", N, C, 0));
        tensor_free(&t, &alone);
    }
    FREE_ALL(&t, &inp, &w, &out, &bare, &rstd, &dout, &dw, &dinp, &frozen);
    cuda_test_sync(&t);
}

/* Rows of one lane, of uneven packs, of one warp, and of teams of 2, 4 and 16 warps.  (A row of another alignment is
 * measured alone only where its start is aligned: the last one of several is when C is a multiple of a pack.) */
static void test_rmsnorm(void **state) {
    (void)state;
    static const int shapes[][2] = {{1, 8}, {3, 24}, {65, 128}, {10, 768}, {9, 1280}, {5, 2048}};
    static const int longer[][2] = {{130, 256}, {4100, 16}, {33, 4096}, {9, 8192}, {700, 768}};
    FOR_DTYPES(i) {
        for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++) rmsnorm_check(dtypes[i], shapes[k][0], shapes[k][1]);
        rmsnorm_check(dtypes[i], 1, 17);
        rmsnorm_check(dtypes[i], 19, 333);
        rmsnorm_check(dtypes[i], 3, 1029);
        if (dtypes[i] == DTYPE_F32) rmsnorm_check(dtypes[i], 517, 514); /* more rows than blocks, teams of 8 warps */
        if (!test_longer()) continue;
        for (size_t k = 0; k < sizeof longer / sizeof *longer; k++) rmsnorm_check(dtypes[i], longer[k][0], longer[k][1]);
        rmsnorm_check(dtypes[i], 1, 1);
        if (dtypes[i] == DTYPE_BF16) rmsnorm_check(dtypes[i], 2, 12288);
        rmsnorm_check(dtypes[i], 7, 2047);
    }
}

/* ---- query and key norms with rotary positions ---------------------------------------------------------------------- */

enum { POSITIONS = 512 };

static Tensor rope_table(CudaTest *t, int D) {
    size_t half = (size_t)D / 2;
    float *values = malloc(POSITIONS * 2 * half * sizeof *values);
    for (size_t p = 0; p < POSITIONS; p++)
        for (size_t i = 0; i < half; i++) {
            double angle = (double)p * pow(10000.0, -2.0 * (double)i / D);
            values[p * 2 * half + i] = (float)cos(angle);
            values[p * 2 * half + half + i] = (float)sin(angle);
        }
    Tensor table = tensor_from(t, DTYPE_F32, POSITIONS * 2 * half, values);
    free(values);
    return table;
}

static void rope_check(DType dtype, int N, int H, int G, int D) {
    CudaTest t = open_for(dtype, N, 64, 64);
    size_t   n = (size_t)N, d = (size_t)D, in_width = (size_t)(H + 2 * G) * d, out_width = (size_t)(H + G) * d;
    int32_t *positions = malloc(n * sizeof *positions);
    for (size_t i = 0; i < n; i++) positions[i] = (int32_t)(random_uniform() * POSITIONS);
    void  *d_positions = cuda_upload(&t, positions, n * sizeof *positions);
    Tensor rope = rope_table(&t, D), qkv = tensor_random(&t, dtype, n * in_width, 2);
    Tensor qw = tensor_random(&t, dtype, d, 1), kw = tensor_random(&t, dtype, d, 1);
    Tensor qk = tensor_poison(&t, dtype, n * out_width), bare = tensor_poison(&t, dtype, n * out_width);
    Tensor rstd = tensor_poison(&t, DTYPE_F32, n * (size_t)(H + G)), dqk = tensor_random(&t, dtype, n * out_width, 1);
    Tensor dqkv = tensor_random(&t, dtype, n * in_width, 1), frozen = tensor_zero(&t, dtype, n * in_width);
    Tensor dqw = tensor_random(&t, DTYPE_F32, d, 1), dkw = tensor_random(&t, DTYPE_F32, d, 1);
    Tensor only = tensor_from(&t, DTYPE_F32, d, dkw.naive);
    FOR_SIDES(s) {
        const KernelOps *o = t.ops[s];
        Device          *dev = t.dev[s];
        const int32_t   *at = s == FAST ? d_positions : positions;
        o->qk_norm_rope_forward(dev, side(&qk, s), side(&rstd, s), side(&qkv, s), side(&qw, s), side(&kw, s), at,
                                side(&rope, s), 1e-6f, N, H, G, D);
        o->qk_norm_rope_forward(dev, side(&bare, s), NULL, side(&qkv, s), side(&qw, s), side(&kw, s), at, side(&rope, s),
                                1e-6f, N, H, G, D);
        o->qk_norm_rope_backward(dev, side(&dqkv, s), side(&dqw, s), side(&dkw, s), side(&dqk, s), side(&qkv, s),
                                 side(&qw, s), side(&kw, s), side(&rstd, s), at, side(&rope, s), N, H, G, D);
        o->qk_norm_rope_backward(dev, side(&frozen, s), NULL, NULL, side(&dqk, s), side(&qkv, s), side(&qw, s),
                                 side(&kw, s), side(&rstd, s), at, side(&rope, s), N, H, G, D);
        o->qk_norm_rope_backward(dev, side(&frozen, s), NULL, side(&only, s), side(&dqk, s), side(&qkv, s), side(&qw, s),
                                 side(&kw, s), side(&rstd, s), at, side(&rope, s), N, H, G, D);
    }
    tensor_check_stored(&t, &qk, label("qk_norm_rope_forward", N, H, D));
    tensor_check_stored(&t, &rstd, label("qk_norm_rope_forward rstd", N, H, D));
    tensor_check_stored(&t, &dqkv, label("qk_norm_rope_backward dqkv", N, H, D)); /* v parts stay on every side */
    tensor_check_stored(&t, &frozen, label("qk_norm_rope_backward dqkv, frozen weights", N, H, D));
    tensor_check(&t, &dqw, label("qk_norm_rope_backward dq_weight", N, H, D));
    tensor_check(&t, &dkw, label("qk_norm_rope_backward dk_weight", N, H, D));
    tensor_check_same(&t, &only, &dkw, label("qk_norm_rope_backward dk_weight alone", N, H, D));
    tensor_check_same(&t, &bare, &qk, label("qk_norm_rope_forward without rstd", N, H, D));
    FREE_ALL(&t, &rope, &qkv, &qw, &kw, &qk, &bare, &rstd, &dqk, &dqkv, &frozen, &dqw, &dkw, &only);
    device_free(t.dev[FAST], d_positions);
    free(positions);
    cuda_test_sync(&t);
}

static void test_qk_norm_rope(void **state) {
    (void)state;
    static const int shapes[][4] = {{1, 1, 1, 64}, {5, 2, 1, 64}, {19, 4, 1, 64}, {1, 1, 1, 128}, {9, 6, 2, 128}};
    static const int longer[][4] = {{67, 4, 2, 64}, {33, 4, 4, 128}, {4100, 1, 1, 64}};
    FOR_DTYPES(i) {
        for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++)
            rope_check(dtypes[i], shapes[k][0], shapes[k][1], shapes[k][2], shapes[k][3]);
        for (size_t k = 0; test_longer() && k < sizeof longer / sizeof *longer; k++)
            rope_check(dtypes[i], longer[k][0], longer[k][1], longer[k][2], longer[k][3]);
    }
}

/* ---- SwiGLU --------------------------------------------------------------------------------------------------------- */

static void swiglu_check(DType dtype, int N, int F) {
    CudaTest t = open_for(dtype, N, F, 64);
    size_t   n = (size_t)N, f = (size_t)F;
    Tensor   gate_up = tensor_random(&t, dtype, 2 * n * f, 3), out = tensor_poison(&t, dtype, n * f);
    Tensor   dout = tensor_random(&t, dtype, n * f, 1), dgate_up = tensor_poison(&t, dtype, 2 * n * f);
    Tensor   act = tensor_poison(&t, dtype, n * f);
    FOR_SIDES(s) {
        t.ops[s]->swiglu_forward(t.dev[s], side(&out, s), side(&gate_up, s), N, F);
        t.ops[s]->swiglu_backward(t.dev[s], side(&dgate_up, s), side(&act, s), side(&dout, s), side(&gate_up, s), N, F);
    }
    t.ops[FAST]->swiglu_backward(t.dev[FAST], gate_up.fast, dout.fast, dout.fast, gate_up.fast, N, F);
    tensor_check_stored(&t, &out, label("swiglu_forward", N, F, 0));
    tensor_check_stored(&t, &dgate_up, label("swiglu_backward", N, F, 0));
    tensor_check_same(&t, &gate_up, &dgate_up, label("swiglu_backward in place", N, F, 0));
    tensor_check_same(&t, &act, &out, label("swiglu_backward act", N, F, 0));
    tensor_check_same(&t, &dout, &out, label("swiglu_backward act in place", N, F, 0));
    FREE_ALL(&t, &gate_up, &out, &dout, &dgate_up, &act);
    cuda_test_sync(&t);
}

static void test_swiglu(void **state) {
    (void)state;
    static const int shapes[][2] = {{1, 1}, {3, 8}, {5, 33}, {9, 200}, {4, 1536}};
    FOR_DTYPES(i) {
        for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++) swiglu_check(dtypes[i], shapes[k][0], shapes[k][1]);
        if (test_longer()) swiglu_check(dtypes[i], 65, 5632), swiglu_check(dtypes[i], 300, 257);
    }
}

/* ---- adapters ------------------------------------------------------------------------------------------------------- */

static void adapter_check(DType dtype, const AdapterBlocks *blocks) {
    CudaTest t = open_for(dtype, 1, 64, 64);
    int      width = blocks->n * blocks->rank, height = 0;
    for (int i = 0; i < blocks->n; i++) height += blocks->height[i];
    size_t n_wide = (size_t)(blocks->rows * width), n_b = (size_t)(height * blocks->rank), n_a = (size_t)(blocks->cols * width);
    Tensor a = tensor_random(&t, dtype, n_a, 1), b = tensor_random(&t, dtype, n_b, 1);
    Tensor wide = tensor_poison(&t, dtype, n_wide), turned = tensor_poison(&t, dtype, n_a), alone = tensor_poison(&t, dtype, n_wide);
    Tensor dwide = tensor_random(&t, DTYPE_F32, n_wide, 1), db = tensor_random(&t, DTYPE_F32, n_b, 1);
    FOR_SIDES(s) {
        t.ops[s]->adapter_spread(t.dev[s], side(&wide, s), side(&turned, s), side(&a, s), side(&b, s), blocks);
        t.ops[s]->adapter_spread(t.dev[s], side(&alone, s), NULL, side(&a, s), side(&b, s), blocks);
        t.ops[s]->adapter_gather(t.dev[s], side(&db, s), side(&dwide, s), blocks);
    }
    tensor_check_stored(&t, &wide, label("adapter_spread b_wide", blocks->rows, blocks->rank, blocks->n));
    tensor_check_stored(&t, &turned, label("adapter_spread a_turned", blocks->cols, blocks->rank, blocks->n));
    tensor_check_same(&t, &alone, &wide, label("adapter_spread b_wide alone", blocks->rows, blocks->rank, blocks->n));
    tensor_check(&t, &db, label("adapter_gather", blocks->rows, blocks->rank, blocks->n));
    FREE_ALL(&t, &a, &b, &wide, &turned, &alone, &dwide, &db);
    cuda_test_sync(&t);
}

static void test_adapters(void **state) {
    (void)state;
    static const AdapterBlocks shapes[] = {
        {.n = 1, .rank = 1, .rows = 5, .cols = 3, .row = {0}, .height = {5}, .scale = 2},
        {.n = 1, .rank = 7, .rows = 40, .cols = 9, .row = {11}, .height = {13}, .scale = 0.3},
        {.n = 2, .rank = 16, .rows = 64, .cols = 33, .row = {0, 48}, .height = {32, 16}, .scale = 1.5},
        {.n = 3, .rank = 4, .rows = 64, .cols = 64, .row = {0, 32, 48}, .height = {32, 16, 16}, .scale = 1},
    };
    FOR_DTYPES(i) for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++) adapter_check(dtypes[i], &shapes[k]);
}

/* Far into the tails silu is its argument or nothing, and its slope one or nothing; a NaN stays one. */
static void test_swiglu_extremes(void **state) {
    (void)state;
    FOR_DTYPES(i) {
        CudaTest    t = open_for(dtypes[i], 1, 8, 64);
        const float gate_up[] = {8192, -8192, 0, NAN, 1, 1, 1, 1}, ones[] = {1, 1, 1, 1};
        Tensor      x = tensor_from(&t, dtypes[i], 8, gate_up), dout = tensor_from(&t, dtypes[i], 4, ones);
        Tensor      out = tensor_poison(&t, dtypes[i], 4), dx = tensor_poison(&t, dtypes[i], 8);
        t.ops[FAST]->swiglu_forward(t.dev[FAST], out.fast, x.fast, 1, 4);
        t.ops[FAST]->swiglu_backward(t.dev[FAST], dx.fast, dout.fast, dout.fast, x.fast, 1, 4);
        float *y = tensor_download(&t, &out), *d = tensor_download(&t, &dx);
        assert_true(y[0] == 8192 && fabsf(y[1]) < 1e-30f && y[2] == 0 && isnan(y[3]));
        assert_true(d[0] == 1 && fabsf(d[1]) < 1e-30f && d[2] == 0.5f && isnan(d[3]));
        assert_true(d[4] == 8192 && fabsf(d[5]) < 1e-30f && d[6] == 0 && isnan(d[7]));
        free(y);
        free(d);
        FREE_ALL(&t, &x, &dout, &out, &dx);
        cuda_test_sync(&t);
    }
}

/* ---- optimizer ------------------------------------------------------------------------------------------------------ */

static void *shifted(const Tensor *x, Side s, int elements) {
    size_t size = s == DOUBLE ? sizeof(double) : s == NAIVE ? sizeof(float) : dtype_size(x->dtype);
    return (char *)side(x, s) + (size_t)elements * size;
}

enum { ADAMW_ARENAS = 5 }; /* param, out, m, v, grad */

/* Four updates, the third of them skipped, over ranges with gaps between them.  shift: by how many elements each arena
 * begins after an aligned address; where they differ, vectors of all of them cannot line up. */
static void adamw_check(DType dtype, const AdamwRange *ranges, int n_ranges, size_t count, const int *shift) {
    CudaTest t = open_for(dtype, 1, 64, 64);
    count += 8;
    Tensor p = tensor_random(&t, DTYPE_F32, count, 1), out = tensor_zero(&t, dtype, count);
    Tensor m = tensor_zero(&t, DTYPE_F32, count), v = tensor_zero(&t, DTYPE_F32, count);
    for (int step = 1; step <= 4; step++) {
        AdamwStep how = {1e-2f, 0.9f, 0.95f, 1e-8f, 0.1f, 0.25f, step == 3, step - (step > 3)};
        Tensor    g = tensor_random(&t, DTYPE_F32, count, 1);
        void     *d_how = cuda_upload(&t, &how, sizeof how);
        FOR_SIDES(s)
        t.ops[s]->adamw(t.dev[s], shifted(&p, s, shift[0]), step == 2 ? NULL : shifted(&out, s, shift[1]),
                        shifted(&m, s, shift[2]), shifted(&v, s, shift[3]), shifted(&g, s, shift[4]), ranges, n_ranges,
                        s == FAST ? d_how : &how);
        cuda_test_sync(&t);
        tensor_free(&t, &g);
        device_free(t.dev[FAST], d_how);
    }
    tensor_check(&t, &p, "adamw param");
    tensor_check_stored(&t, &out, "adamw out");
    tensor_check(&t, &m, "adamw m");
    tensor_check(&t, &v, "adamw v");
    FREE_ALL(&t, &p, &out, &m, &v);
    cuda_test_sync(&t);
}

static void test_adamw(void **state) {
    (void)state;
    static const AdamwRange few[] = {{0, 1, 1}, {3, 17, 0}, {30, 0, 1}, {41, 4200, 1}, {4243, 757, 0}}, none[] = {{5, 0, 1}};
    enum { MANY = 150 };
    AdamwRange many[MANY]; /* more than one launch takes */
    for (int i = 0; i < MANY; i++) many[i] = (AdamwRange){i * 7, 5 + i % 3, i % 2};
    static const int shifts[][ADAMW_ARENAS] = {{0, 0, 0, 0, 0}, {1, 1, 1, 1, 1}, {3, 7, 3, 3, 7}, {1, 0, 0, 0, 0},
                                               {0, 1, 0, 0, 0}, {0, 0, 2, 0, 0}, {0, 0, 0, 3, 0}, {0, 0, 0, 0, 1}};
    FOR_DTYPES(i) {
        for (size_t k = 0; k < sizeof shifts / sizeof *shifts; k++) adamw_check(dtypes[i], few, 5, 5000, shifts[k]);
        adamw_check(dtypes[i], many, MANY, MANY * 7, shifts[0]);
        adamw_check(dtypes[i], none, 1, 10, shifts[0]);
    }
}

/* The same bits wherever the ranges are cut: what sharding over ranks relies on. */
static void test_adamw_cuts(void **state) {
    (void)state;
    enum { COUNT = 1003 };
    static const AdamwRange whole[] = {{0, COUNT, 1}}, cut[] = {{0, 2, 1}, {2, 501, 1}, {503, 497, 1}, {1000, 3, 1}};
    CudaTest  t = open_for(DTYPE_BF16, 1, 64, 64);
    AdamwStep how = {1e-2f, 0.9f, 0.95f, 1e-8f, 0.1f, 0.25f, 0, 7};
    Device   *dev = t.dev[FAST];
    void     *d_how = cuda_upload(&t, &how, sizeof how);
    Tensor    g = tensor_random(&t, DTYPE_F32, COUNT, 1), p = tensor_random(&t, DTYPE_F32, COUNT, 1);
    Tensor    m = tensor_random(&t, DTYPE_F32, COUNT, 1), v = tensor_zero(&t, DTYPE_F32, COUNT), q[3], *first[] = {&p, &m, &v};
    for (int i = 0; i < 3; i++) q[i] = tensor_from(&t, DTYPE_F32, COUNT, first[i]->naive);
    t.ops[FAST]->adamw(dev, p.fast, NULL, m.fast, v.fast, g.fast, whole, 1, d_how);
    t.ops[FAST]->adamw(dev, q[0].fast, NULL, q[1].fast, q[2].fast, g.fast, cut, 4, d_how);
    for (int i = 0; i < 3; i++) tensor_check_same(&t, first[i], q + i, "adamw in one range and in four");
    FREE_ALL(&t, &g, &p, &m, &v, q, q + 1, q + 2);
    device_free(dev, d_how);
    cuda_test_sync(&t);
}

static void test_sum_squares(void **state) {
    (void)state;
    static const int counts[] = {0, 1, 3, 4, 5, 1000, 70001, 9000000};
    CudaTest t = open_for(DTYPE_F32, 1, 64, 64);
    for (size_t i = 0; i < sizeof counts / sizeof *counts - !test_longer(); i++) {
        Tensor x = tensor_random(&t, DTYPE_F32, (size_t)counts[i] + 1, 1);
        double start[2] = {3, 3}, want = 3;
        double *d_sum = cuda_upload(&t, start, sizeof start);
        t.ops[FAST]->sum_squares(t.dev[FAST], d_sum, (float *)x.fast + 1, counts[i]); /* not aligned */
        t.ops[DOUBLE]->sum_squares(t.dev[DOUBLE], &want, x.ref + 1, counts[i]);
        double *sum = cuda_download(&t, d_sum, 2 * sizeof *sum);
        if (!(fabs(sum[0] - want) <= 1e-12 * want) || sum[1] != 3)
            fail_msg("sum_squares of %d: %.17g, expected %.17g", counts[i], sum[0], want);
        free(sum);
        /* Aligned or not, the same numbers make the same bits. */
        Tensor y = tensor_from(&t, DTYPE_F32, (size_t)counts[i], x.naive + 1);
        t.ops[FAST]->sum_squares(t.dev[FAST], d_sum + 1, y.fast, counts[i]);
        sum = cuda_download(&t, d_sum, 2 * sizeof *sum);
        assert_memory_equal(sum, sum + 1, sizeof *sum);
        free(sum);
        device_free(t.dev[FAST], d_sum);
        FREE_ALL(&t, &x, &y);
    }
    cuda_test_sync(&t);
}

/* ---- sampling ------------------------------------------------------------------------------------------------------- */

enum { ROWS = 24, OUTCOMES = 3 };

/* Device copies of a SampleSpec's arrays, and the results of one call. */
typedef struct {
    SampleSpec spec[SIDES];
    double     uniform[ROWS], *d_uniform;
    uint32_t   suppress[ROWS], *bits, *d_suppress;
    uint8_t   *forbidden;
    int32_t    tokens[SIDES][ROWS], *d_tokens;
    float      logp[SIDES][ROWS], p[SIDES][ROWS * OUTCOMES], *d_logp, *d_p;
} Draws;

static void draws_open(CudaTest *t, Draws *d, int V, int top_k, float temperature) {
    size_t v = (size_t)V;
    d->forbidden = calloc(v, 1), d->bits = calloc(v, sizeof *d->bits);
    for (int i = 1; i < V; i++)
        d->forbidden[i] = i % 7 == 3, d->bits[i] = (i % 5 == 1) | (uint32_t)(i % 3 == 2) << 1 | (uint32_t)(i == 2) << 2;
    for (int b = 0; b < ROWS; b++) d->uniform[b] = b ? random_uniform() : 0, d->suppress[b] = b % 3 ? 0 : (uint32_t)(b % 4);
    d->uniform[1] = 1; /* what rounding could make of the largest uniform: the last id that can be drawn */
    SampleSpec spec = {V, (V + 63) / 64 * 64, temperature, top_k, d->forbidden, d->bits, OUTCOMES};
    FOR_SIDES(s) d->spec[s] = spec;
    d->spec[FAST].forbidden = cuda_upload(t, d->forbidden, v);
    d->spec[FAST].outcome_bits = cuda_upload(t, d->bits, v * sizeof *d->bits);
    d->d_uniform = cuda_upload(t, d->uniform, sizeof d->uniform);
    d->d_suppress = cuda_upload(t, d->suppress, sizeof d->suppress);
    d->d_tokens = device_alloc(t->dev[FAST], sizeof *d->tokens);
    d->d_logp = device_alloc(t->dev[FAST], sizeof *d->logp), d->d_p = device_alloc(t->dev[FAST], sizeof *d->p);
}

static void draws_run(CudaTest *t, Draws *d, const Tensor *logits, int rows) {
    t->ops[FAST]->sample(t->dev[FAST], d->d_tokens, d->d_logp, d->d_p, logits->fast, d->d_uniform, d->d_suppress,
                         &d->spec[FAST], rows);
    t->ops[DOUBLE]->sample(t->dev[DOUBLE], d->tokens[DOUBLE], d->logp[DOUBLE], d->p[DOUBLE], logits->ref, d->uniform,
                           d->suppress, &d->spec[DOUBLE], rows);
    device_download(t->dev[FAST], d->tokens[FAST], d->d_tokens, sizeof *d->tokens);
    device_download(t->dev[FAST], d->logp[FAST], d->d_logp, sizeof *d->logp);
    device_download(t->dev[FAST], d->p[FAST], d->d_p, sizeof *d->p);
    cuda_test_sync(t);
}

static void draws_close(CudaTest *t, Draws *d) {
    void *all[] = {(void *)d->spec[FAST].forbidden, (void *)d->spec[FAST].outcome_bits, d->d_uniform, d->d_suppress,
                   d->d_tokens, d->d_logp, d->d_p};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) device_free(t->dev[FAST], all[i]);
    free(d->forbidden);
    free(d->bits);
}

/* The drawn id may differ from the reference's only where uniform falls on a border between two ids. */
static void test_sample(void **state) {
    (void)state;
    static const struct {
        int   V, top_k;
        float temperature;
    } laws[] = {{1, 0, 1}, {3, 0, 1}, {100, 0, 1}, {250, 10, 0.7f}, {1000, 0, 1.3f}, {300, 299, 1}, {129, 1, 1}};
    for (size_t i = 0; i < sizeof laws / sizeof *laws; i++) {
        CudaTest t = open_for(DTYPE_F32, 1, 64, laws[i].V);
        assert_int_equal(device_reserve(t.dev[DOUBLE], sizeof(double) * (size_t)laws[i].V), 0);
        Draws d;
        draws_open(&t, &d, laws[i].V, laws[i].top_k, laws[i].temperature);
        Tensor logits = tensor_random(&t, DTYPE_F32, (size_t)(ROWS * d.spec[FAST].Vp), 2);
        draws_run(&t, &d, &logits, ROWS);
        int moved = 0;
        for (int b = 0; b < ROWS; b++) {
            int id = d.tokens[FAST][b], same = id == d.tokens[DOUBLE][b];
            moved += !same;
            if (id >= 0) assert_false(d.forbidden[id] || (d.bits[id] & d.suppress[b]));
            assert_true(id < laws[i].V);
            if (same && id >= 0) assert_true(fabsf(d.logp[FAST][b] - d.logp[DOUBLE][b]) < 1e-5f);
            if (same && id < 0) assert_true(d.logp[FAST][b] == -INFINITY);
            for (int o = 0; o < OUTCOMES; o++)
                assert_true(fabsf(d.p[FAST][b * OUTCOMES + o] - d.p[DOUBLE][b * OUTCOMES + o]) < 1e-6f);
        }
        assert_in_range(moved, 0, 1);
        t.ops[FAST]->sample(t.dev[FAST], d.d_tokens, NULL, NULL, logits.fast, d.d_uniform, NULL, &d.spec[FAST], 1);
        tensor_free(&t, &logits);
        draws_close(&t, &d);
        cuda_test_sync(&t);
    }
}

/* With logits that are whole numbers everything but exp is exact: ties, their order under top_k, and every border of the
 * cumulated law come out as in the reference. */
static void test_sample_ties(void **state) {
    (void)state;
    enum { V = 400 };
    CudaTest t = open_for(DTYPE_F32, 1, 64, V);
    assert_int_equal(device_reserve(t.dev[DOUBLE], sizeof(double) * V), 0);
    for (int k = 0; k <= 40; k += 8) {
        Draws d;
        draws_open(&t, &d, V, k, 1);
        size_t count = (size_t)(ROWS * d.spec[FAST].Vp);
        float *values = malloc(count * sizeof *values);
        for (size_t i = 0; i < count; i++) values[i] = (float)(i % 11 < 2); /* many ties at the top */
        Tensor logits = tensor_from(&t, DTYPE_F32, count, values);
        draws_run(&t, &d, &logits, ROWS);
        for (int b = 0; b < ROWS; b++) {
            assert_int_equal(d.tokens[FAST][b], d.tokens[DOUBLE][b]);
            assert_true(fabsf(d.logp[FAST][b] - d.logp[DOUBLE][b]) < 1e-5f || d.tokens[FAST][b] < 0);
        }
        free(values);
        tensor_free(&t, &logits);
        draws_close(&t, &d);
    }
    cuda_test_sync(&t);
}

/* Equal weights, as many as a power of two: an id's share of the law begins where that of its predecessor ends, and its
 * first number is its own. */
static void test_sample_borders(void **state) {
    (void)state;
    enum { V = 512 };
    CudaTest t = open_for(DTYPE_F32, 1, 64, V);
    assert_int_equal(device_reserve(t.dev[DOUBLE], sizeof(double) * V), 0);
    Draws d;
    draws_open(&t, &d, V, 0, 1);
    static const int ids[ROWS] = {0, 1, 2, 3, 4, 31, 32, 63, 64, 127, 128, 129, 130, 255, 256, 257, 383, 384, 385, 500, 508, 509, 510, 511};
    for (int b = 0; b < ROWS; b++) d.uniform[b] = ids[b] / (double)V;
    device_upload(t.dev[FAST], d.d_uniform, d.uniform, sizeof d.uniform);
    device_zero(t.dev[FAST], d.d_suppress, sizeof d.suppress);
    d.spec[FAST].forbidden = NULL;
    Tensor logits = tensor_zero(&t, DTYPE_F32, ROWS * V);
    t.ops[FAST]->sample(t.dev[FAST], d.d_tokens, NULL, NULL, logits.fast, d.d_uniform, NULL, &d.spec[FAST], ROWS);
    int32_t *tokens = cuda_download(&t, d.d_tokens, sizeof *d.tokens);
    for (int b = 0; b < ROWS; b++) assert_int_equal(tokens[b], ids[b]);
    free(tokens);
    tensor_free(&t, &logits);
    draws_close(&t, &d);
    cuda_test_sync(&t);
}

/* Rows without a law: a NaN, an infinity, nothing but minus infinity; then only suppressed ids. */
static void test_sample_no_law(void **state) {
    (void)state;
    enum { V = 70 };
    const float bad[] = {NAN, INFINITY, -INFINITY};
    CudaTest t = open_for(DTYPE_F32, 1, 64, V);
    assert_int_equal(device_reserve(t.dev[DOUBLE], sizeof(double) * V), 0);
    Draws d;
    draws_open(&t, &d, V, 0, 1);
    size_t Vp = (size_t)d.spec[FAST].Vp;
    float *values = calloc(4 * Vp, sizeof *values);
    for (int r = 0; r < 2; r++) values[(size_t)r * Vp + 40] = bad[r];
    for (size_t i = 0; i < Vp; i++) values[2 * Vp + i] = -INFINITY, values[3 * Vp + i] = i % 5 == 1 ? 0 : -INFINITY;
    memset(d.suppress, 0, sizeof d.suppress);
    d.suppress[3] = 1;
    device_upload(t.dev[FAST], d.d_suppress, d.suppress, sizeof d.suppress);
    Tensor logits = tensor_from(&t, DTYPE_F32, 4 * Vp, values);
    draws_run(&t, &d, &logits, 4);
    for (int r = 0; r < 4; r++) {
        assert_int_equal(d.tokens[FAST][r], -1);
        assert_true(r < 3 ? isnan(d.logp[FAST][r]) && isnan(d.p[FAST][r * OUTCOMES]) : d.logp[FAST][r] == -INFINITY);
    }
    assert_true(fabsf(d.p[FAST][3 * OUTCOMES] - 1) < 1e-6f);
    free(values);
    tensor_free(&t, &logits);
    draws_close(&t, &d);
    cuda_test_sync(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_embedding),       cmocka_unit_test(test_rmsnorm),     cmocka_unit_test(test_qk_norm_rope),
        cmocka_unit_test(test_swiglu),          cmocka_unit_test(test_adapters),    cmocka_unit_test(test_swiglu_extremes),
        cmocka_unit_test(test_adamw),
        cmocka_unit_test(test_adamw_cuts),      cmocka_unit_test(test_sum_squares), cmocka_unit_test(test_sample),
        cmocka_unit_test(test_sample_ties),     cmocka_unit_test(test_sample_borders), cmocka_unit_test(test_sample_no_law),
    };
    int failed = 0;
    FOR_SCHEDULES(i) {
        order = i;
        failed += cmocka_run_group_tests_name("CUDA rows", tests, NULL, close_shared);
    }
    return failed;
}
