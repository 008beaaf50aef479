/* test_cuda_matmul.c - products on the GPU: every operation, dtype and tile against the reference, sizes below, at and
 * above the tiles, bits that do not depend on the batch, exact int8, the classifier and its chunks.
 *
 * In the emulator the number of multiprocessors is set here, because the choice of a tile depends on it, and a tally of
 * launches proves that every tile was used. */
#include "tests/cuda_check.h"

/* tests/emulator/emulator.h; NULL on a real GPU. */
extern void emu_set_multiprocessors(int count) __attribute__((weak));
extern void emu_last_launch(unsigned *blocks, unsigned *threads, size_t *shared) __attribute__((weak));
extern unsigned emu_last_cluster(void) __attribute__((weak));
extern void emu_take_work(uint64_t *products, uint64_t *copied) __attribute__((weak));

static void multiprocessors(int count) {
    if (emu_set_multiprocessors) emu_set_multiprocessors(count);
}

/* ---- which kernels ran ------------------------------------------------------------------------------------------- */

typedef struct {
    const char *name; /* tile of out, threads, bytes of shared memory: as in matmul_forward.cu and matmul_backward.cu */
    unsigned threads;
    size_t shared;
    int rows, columns, seen, resident; /* resident: blocks that stay on a multiprocessor; 0: a block a tile */
    unsigned cluster;                  /* blocks that share an operand; 0: none do */
} TileUse;

static TileUse bf16_forward[] = {
    {"128 x 256", 256, 147456, 128, 256, 0, 0, 0}, {"128 x 128", 128, 65536, 128, 128, 0, 0, 0},
    {"64 x 64", 128, 49152, 64, 64, 0, 0, 0},      {"64 x 32", 128, 49152, 64, 32, 0, 0, 0},
    {"16 x 64", 128, 61440, 16, 64, 0, 0, 0},      {"16 x 16", 32, 32768, 16, 16, 0, 0, 0}};
static TileUse bf16_dgrad[] = {{"128 x 256", 256, 147456, 128, 256, 0, 0, 0},
                               {"128 x 128", 128, 65536, 128, 128, 0, 0, 0},
                               {"64 x 64", 128, 49152, 64, 64, 0, 0, 0}};
static TileUse bf16_wgrad[] = {{"128 x 256", 256, 147456, 128, 256, 0, 0, 0},
                               {"128 x 128", 128, 65536, 128, 128, 0, 0, 0},
                               {"64 x 64", 128, 49152, 64, 64, 0, 0, 0}};
/* As in matmul_sm90.cu and matmul_sm90_backward.cu. */
#define HOPPER_BACKWARD                                                                                                \
    {                                                                                                                  \
        {"128 x 256 of a pair", 384, 229440, 128, 256, 0, 1, 2},                                                       \
            {"128 x 192 of a pair", 384, 196672, 128, 192, 0, 1, 2}, {"128 x 256", 384, 229440, 128, 256, 0, 1, 1},    \
            {"128 x 128", 384, 229472, 128, 128, 0, 1, 1}, {"64 x 64", 160, 98384, 64, 64, 0, 2, 1},                   \
    }
static TileUse hopper_forward[] = {{"128 x 256 of a pair", 384, 229440, 128, 256, 0, 1, 2},
                                   {"128 x 192 of a pair", 384, 196672, 128, 192, 0, 1, 2},
                                   {"128 x 256", 384, 229440, 128, 256, 0, 1, 1},
                                   {"128 x 128", 384, 229472, 128, 128, 0, 1, 1},
                                   {"64 x 64", 160, 98384, 64, 64, 0, 2, 1},
                                   {"64 x 16", 160, 108704, 64, 16, 0, 2, 1}};
static TileUse hopper_dgrad[] = HOPPER_BACKWARD, hopper_wgrad[] = HOPPER_BACKWARD;
static TileUse f32_forward[] = {{"128 x 128", 256, 65536, 128, 128, 0, 0, 0},
                                {"64 x 64", 256, 32768, 64, 64, 0, 0, 0},
                                {"16 x 32", 128, 36864, 16, 32, 0, 0, 0}};
static TileUse int8_forward[] = {{"128 x 128", 128, 65536, 128, 128, 0, 0, 0},
                                 {"64 x 64", 128, 49152, 64, 64, 0, 0, 0},
                                 {"16 x 64", 128, 61440, 16, 64, 0, 0, 0},
                                 {"16 x 16", 32, 32768, 16, 16, 0, 0, 0}};
static int splits_seen;

/* Emulated GPUs are of sm_80, or of sm_90 for the tests of Hopper's path; a real one is what it is. */
static int hopper(void) { return test_emulated() && emu_config()->compute_capability == 90; }
static int opened_sms; /* of the device that is open */

/* Called after an operation that ends with its product. */
static void note_tile(TileUse *tiles, int n, int M, int N) {
    if (!emu_last_launch) return;
    unsigned grid, threads;
    size_t shared;
    emu_last_launch(&grid, &threads, &shared);
    for (int i = 0; i < n; i++) {
        const unsigned cluster = tiles[i].cluster ? tiles[i].cluster : 1;
        const unsigned high = ((unsigned)((M + tiles[i].rows - 1) / tiles[i].rows) + cluster - 1) / cluster * cluster;
        const unsigned most = (unsigned)(tiles[i].resident * opened_sms) / cluster * cluster;
        unsigned blocks = high * (unsigned)((N + tiles[i].columns - 1) / tiles[i].columns);
        if (tiles[i].resident && blocks > most) blocks = most;
        if (threads == tiles[i].threads && shared == tiles[i].shared && grid == blocks && cluster == emu_last_cluster())
            tiles[i].seen++;
    }
}
/* The kernel that adds up partial sums is the only one here without shared memory. */
static int last_was_split_sum(void) {
    unsigned grid, threads;
    size_t shared = 1;
    if (emu_last_launch) emu_last_launch(&grid, &threads, &shared);
    return !shared;
}
#define NOTE(tiles, M, N) note_tile(tiles, (int)(sizeof(tiles) / sizeof *(tiles)), M, N)

static void require_seen(const TileUse *tiles, int n, const char *what) {
    for (int i = 0; emu_last_launch && i < n; i++)
        if (!tiles[i].seen) fail_msg("%s: no shape of this test was worked on with the %s tile", what, tiles[i].name);
}
#define REQUIRE(tiles, what) require_seen(tiles, (int)(sizeof(tiles) / sizeof *(tiles)), what)

/* ---- shapes ------------------------------------------------------------------------------------------------------ */

/* Always, of the long list, of the list for what costs nothing on a GPU, on Hopper for pairs of blocks (with an odd
 * number of tiles in height, and one pair for several pairs of tiles).  In the emulator the long list is for the edges
 * of the tiles: one below, at and above 64 and 128 rows, 256 columns and a stage of the inner dimension; one row and
 * one column; more tiles than the multiprocessors hold; odd sizes, which take the slow path, over several tiles. */
enum { LARGE = -1, LONG, ALWAYS, PAIRS };

typedef struct {
    int N, rows, cols, sms; /* multiprocessors, in the emulator */
    int list;
} Shape;

/* cols and rows that are multiples of 8 take the fast path, others the slow one. */
static const Shape shapes[] = {
    {65, 264, 136, 1, ALWAYS}, {130, 272, 264, 1, ALWAYS}, {121, 248, 248, 1, ALWAYS}, {127, 256, 64, 1, LONG},
    {128, 256, 128, 1, LONG},  {129, 256, 192, 1, LONG},   {256, 512, 256, 1, LARGE},  {2100, 272, 24, 1, LARGE},
    {700, 272, 24, 1, LONG},   {130, 144, 104, 2, ALWAYS}, {128, 128, 320, 2, LONG},   {300, 776, 392, 2, LARGE},
    {1, 16, 16, 4, ALWAYS},    {16, 136, 72, 4, ALWAYS},   {33, 100, 300, 4, ALWAYS},  {7, 34, 65, 4, ALWAYS},
    {70, 66, 131, 4, ALWAYS},  {3, 2, 8, 4, ALWAYS},       {64, 96, 128, 4, ALWAYS},   {15, 64, 256, 4, LONG},
    {63, 128, 64, 4, LONG},    {65, 64, 128, 4, LONG},     {1000, 130, 40, 4, LONG},   {257, 258, 259, 4, LARGE},
    {131, 130, 133, 4, LONG},  {31, 33, 1, 4, LONG},       {1, 6, 1, 4, LONG},         {100, 112, 64, 8, ALWAYS},
    {17, 80, 192, 8, LONG},    {512, 64, 1024, 8, LARGE},  {1, 72, 40, 16, ALWAYS},    {5, 48, 200, 16, ALWAYS},
    {64, 64, 64, 16, ALWAYS},  {200, 136, 96, 16, ALWAYS}, {2100, 16, 24, 16, ALWAYS}, {64, 1536, 512, 16, LARGE},
    {257, 272, 136, 2, PAIRS}, {150, 200, 200, 2, PAIRS},
};
#define FOR_SHAPES(s)                                                                                                  \
    for (const Shape *s = shapes; s < shapes + sizeof shapes / sizeof *shapes; s++)                                    \
        if (s->list == ALWAYS || (s->list == PAIRS  ? hopper() || !test_emulated()                                     \
                                  : s->list == LONG ? test_long()                                                      \
                                                    : test_large()))

static const KernelLimits limits = {.N = 2200, .C = 1024, .F = 768, .Vp = 64, .H = 4, .G = 2, .D = 64, .n_seq = 4};

/* The device is kept while tests want the same: shapes are listed by the number of multiprocessors. */
static CudaTest opened;

static void close_opened(void) {
    if (opened_sms) cuda_test_close(&opened);
    opened_sms = 0;
}

static CudaTest open_for(DType dtype, int sms) {
    if (opened_sms == sms && opened.dtype == dtype) return opened;
    close_opened();
    multiprocessors(sms);
    opened = cuda_test_open(dtype);
    opened_sms = sms;
    cuda_test_reserve(&opened, &limits);
    return opened;
}

static int close_after(void **state) {
    (void)state;
    close_opened();
    return 0;
}

static const char *at(const char *what, const Shape *s) { return label(what, s->N, s->rows, s->cols); }

/* ---- forward ----------------------------------------------------------------------------------------------------- */

static void forward_shape(DType dtype, const Shape *s) {
    CudaTest t = open_for(dtype, s->sms);
    const size_t NR = (size_t)s->N * (size_t)s->rows;
    Tensor inp = tensor_random(&t, dtype, (size_t)s->N * (size_t)s->cols, 1);
    Tensor w = tensor_random(&t, dtype, (size_t)s->rows * (size_t)s->cols, 1 / sqrt(s->cols));
    Tensor out = tensor_poison(&t, dtype, NR), logits = tensor_poison(&t, DTYPE_F32, NR);
    Tensor residual = tensor_random(&t, dtype, NR, 1), sum = tensor_poison(&t, dtype, NR);
    FOR_SIDES(side_) {
        Weight weight = tensor_weight(&w, side_, s->rows, s->cols);
        t.ops[side_]->matmul_forward(t.dev[side_], side(&out, side_), side(&inp, side_), &weight, s->N);
        if (side_ == FAST && dtype == DTYPE_BF16 && s->rows % 8 == 0 && s->cols % 8 == 0)
            hopper() ? NOTE(hopper_forward, s->N, s->rows) : NOTE(bf16_forward, s->N, s->rows);
        if (side_ == FAST && dtype == DTYPE_F32 && s->rows % 4 == 0 && s->cols % 4 == 0)
            NOTE(f32_forward, s->N, s->rows);
        t.ops[side_]->logits_forward(t.dev[side_], side(&logits, side_), side(&inp, side_), &weight, s->N);
        t.ops[side_]->matmul_add_forward(t.dev[side_], side(&sum, side_), side(&residual, side_), side(&inp, side_),
                                         &weight, s->N);
        t.ops[side_]->matmul_add_forward(t.dev[side_], side(&residual, side_), side(&residual, side_),
                                         side(&inp, side_), &weight, s->N); /* in place */
    }
    cuda_test_sync(&t);
    tensor_check_stored(&t, &out, at("matmul_forward", s));
    tensor_check(&t, &logits, at("logits_forward", s));
    tensor_check_stored(&t, &sum, at("matmul_add_forward", s));
    tensor_check_same(&t, &sum, &residual, at("matmul_add_forward in place", s));
    Tensor *all[] = {&inp, &w, &out, &logits, &residual, &sum};
    for (int i = 0; i < 6; i++) tensor_free(&t, all[i]);
}

static void swiglu_shape(DType dtype, const Shape *s) {
    if (s->rows % 2) return;
    CudaTest t = open_for(dtype, s->sms);
    const int F = s->rows / 2;
    Tensor inp = tensor_random(&t, dtype, (size_t)s->N * (size_t)s->cols, 1.5);
    Tensor w = tensor_random(&t, dtype, (size_t)s->rows * (size_t)s->cols, 1.5 / sqrt(s->cols));
    Tensor out = tensor_poison(&t, dtype, (size_t)s->N * (size_t)F), alone = tensor_poison(&t, dtype, out.count);
    Tensor again = tensor_poison(&t, dtype, out.count), kept = tensor_poison(&t, dtype, 2 * out.count);
    FOR_SIDES(side_) {
        Weight weight = tensor_weight(&w, side_, s->rows, s->cols);
        const KernelOps *k = t.ops[side_];
        k->matmul_swiglu_forward(t.dev[side_], side(&out, side_), side(&kept, side_), side(&inp, side_), &weight, s->N);
        k->matmul_swiglu_forward(t.dev[side_], side(&alone, side_), NULL, side(&inp, side_), &weight, s->N);
        k->swiglu_forward(t.dev[side_], side(&again, side_), side(&kept, side_), s->N, F);
    }
    cuda_test_sync(&t);
    tensor_check_stored(&t, &kept, at("matmul_swiglu_forward's gate_up", s));
    tensor_check(&t, &out, at("matmul_swiglu_forward", s));
    tensor_check_same(&t, &alone, &out, at("matmul_swiglu_forward without gate_up", s));
    tensor_check_same(&t, &again, &out, at("swiglu_forward from gate_up", s));
    Tensor *all[] = {&inp, &w, &out, &alone, &again, &kept};
    for (int i = 0; i < 6; i++) tensor_free(&t, all[i]);
}

static void test_forward_bf16(void **state) {
    (void)state;
    FOR_SHAPES(s) forward_shape(DTYPE_BF16, s);
    REQUIRE(bf16_forward, "matmul_forward");
}

static void test_forward_f32(void **state) {
    (void)state;
    FOR_SHAPES(s) forward_shape(DTYPE_F32, s);
    REQUIRE(f32_forward, "matmul_forward, float");
}

static void test_swiglu(void **state) {
    (void)state;
    FOR_SHAPES(s) swiglu_shape(DTYPE_BF16, s);
    FOR_SHAPES(s) swiglu_shape(DTYPE_F32, s);
}

/* ---- backward ---------------------------------------------------------------------------------------------------- */

static void backward_shape(DType dtype, const Shape *s) {
    CudaTest t = open_for(dtype, s->sms);
    const size_t weights = (size_t)s->rows * (size_t)s->cols;
    Tensor inp = tensor_random(&t, dtype, (size_t)s->N * (size_t)s->cols, 1);
    Tensor dout = tensor_random(&t, dtype, (size_t)s->N * (size_t)s->rows, 1);
    Tensor w = tensor_random(&t, dtype, weights, 1), dinp = tensor_poison(&t, dtype, inp.count);
    Tensor dweight = tensor_random(&t, DTYPE_F32, weights, 3);
    FOR_SIDES(side_) {
        Weight weight = tensor_weight(&w, side_, s->rows, s->cols);
        const KernelOps *k = t.ops[side_];
        k->matmul_dgrad(t.dev[side_], side(&dinp, side_), side(&dout, side_), &weight, s->N);
        if (side_ == FAST && dtype == DTYPE_BF16 && s->rows % 8 == 0 && s->cols % 8 == 0)
            hopper() ? NOTE(hopper_dgrad, s->N, s->cols) : NOTE(bf16_dgrad, s->N, s->cols);
        for (int twice = 0; twice < 2; twice++) /* micro-batches add up */
            k->matmul_wgrad(t.dev[side_], side(&dweight, side_), side(&dout, side_), side(&inp, side_), s->N, s->rows,
                            s->cols);
        if (side_ == FAST && last_was_split_sum()) splits_seen++;
        else if (side_ == FAST && dtype == DTYPE_BF16 && s->rows % 8 == 0 && s->cols % 8 == 0)
            hopper() ? NOTE(hopper_wgrad, s->rows, s->cols) : NOTE(bf16_wgrad, s->rows, s->cols);
    }
    cuda_test_sync(&t);
    tensor_check_stored(&t, &dinp, at("matmul_dgrad", s));
    tensor_check(&t, &dweight, at("matmul_wgrad", s));
    Tensor *all[] = {&inp, &dout, &w, &dinp, &dweight};
    for (int i = 0; i < 5; i++) tensor_free(&t, all[i]);
}

static void test_backward(void **state) {
    (void)state;
    FOR_SHAPES(s) backward_shape(DTYPE_BF16, s);
    FOR_SHAPES(s) backward_shape(DTYPE_F32, s);
    REQUIRE(bf16_dgrad, "matmul_dgrad");
    REQUIRE(bf16_wgrad, "matmul_wgrad");
    if (emu_last_launch && !splits_seen) fail_msg("matmul_wgrad: no shape of this test was split");
}

/* ---- the same bits ----------------------------------------------------------------------------------------------- */

/* Runs the forward operations on N rows; results one after the other, float, from malloc. */
static float *forward_bits(CudaTest *t, const Weight *w, const void *inp, int N, size_t *count) {
    const int rows = w->rows, F = rows / 2;
    const size_t n = (size_t)N * (size_t)rows;
    Tensor out = tensor_poison(t, t->dtype, n), logits = tensor_poison(t, DTYPE_F32, n);
    Tensor act = tensor_poison(t, t->dtype, n / 2);
    t->ops[FAST]->matmul_forward(t->dev[FAST], out.fast, inp, w, N);
    t->ops[FAST]->logits_forward(t->dev[FAST], logits.fast, inp, w, N);
    t->ops[FAST]->matmul_swiglu_forward(t->dev[FAST], act.fast, NULL, inp, w, N);
    if (w->dtype == DTYPE_I8) NOTE(int8_forward, N, rows);
    *count = (size_t)(2 * rows + F);
    float *a = tensor_download(t, &out), *b = tensor_download(t, &logits), *c = tensor_download(t, &act);
    float *all = malloc(sizeof *all * (size_t)N * *count);
    assert_non_null(all);
    for (size_t i = 0; i < (size_t)N; i++) {
        memcpy(all + i * *count, a + i * (size_t)rows, sizeof *a * (size_t)rows);
        memcpy(all + i * *count + rows, b + i * (size_t)rows, sizeof *b * (size_t)rows);
        memcpy(all + i * *count + 2 * rows, c + i * (size_t)F, sizeof *c * (size_t)F);
    }
    free(a), free(b), free(c);
    tensor_free(t, &out), tensor_free(t, &logits), tensor_free(t, &act);
    return all;
}

/* Each row alone, in small groups and among all, on cards of different sizes: one result. */
static void invariance(DType dtype, int int8, int N, int rows, int cols) {
    static const struct {
        int sms, first, count;
    } parts[] = {{16, 0, 1}, {1, 3, 1}, {4, 5, 16}, {16, 40, 64}, {1, 17, 90}, {8, 100, 30}, {16, 0, 0}, {2, 0, 0}};
    float *want = NULL;
    for (int i = -1; i < (int)(sizeof parts / sizeof *parts); i++) {
        int first = i < 0 ? 0 : parts[i].first, count = i < 0 || !parts[i].count ? N : parts[i].count;
        CudaTest t = open_for(dtype, i < 0 ? 1 : parts[i].sms);
        random_counter = 1000;
        Tensor inp = tensor_random(&t, dtype, (size_t)N * (size_t)cols, 1);
        Tensor w = tensor_random(&t, dtype, (size_t)rows * (size_t)cols, 1);
        Weight plain = tensor_weight(&w, FAST, rows, cols), weight;
        DType form = int8 ? DTYPE_I8 : dtype;
        void *storage = device_alloc(t.dev[FAST], t.ops[FAST]->weight_prepared_bytes(t.dev[FAST], rows, cols, form));
        t.ops[FAST]->weight_prepare(t.dev[FAST], &weight, storage, form, &plain);
        size_t width;
        char *from = (char *)inp.fast + (size_t)first * (size_t)cols * dtype_size(dtype);
        float *got = forward_bits(&t, &weight, from, count, &width);
        if (want)
            assert_same_bits(got, want + (size_t)first * width, (size_t)count * width, "a row alone and among others");
        if (want) free(got);
        else want = got;
        device_free(t.dev[FAST], storage);
        tensor_free(&t, &inp), tensor_free(&t, &w);
    }
    free(want);
}

static void test_rows_have_one_result(void **state) {
    (void)state;
    int N = test_large() ? 1000 : 140, rows = test_large() ? 512 : 272;
    invariance(DTYPE_BF16, 0, N, rows, 192);
    invariance(DTYPE_F32, 0, N, rows, 72);
    invariance(DTYPE_BF16, 1, N, rows, 144);
    invariance(DTYPE_F32, 1, 140, 80, 40);
    REQUIRE(int8_forward, "int8 products");
}

/* Again, in the emulator with threads, blocks and copies in another order: the same bits, gradients included. */
static float *gradient_bits(CudaTest *t, const Shape *s, size_t *count) {
    random_counter = 5000;
    const size_t weights = (size_t)s->rows * (size_t)s->cols;
    Tensor inp = tensor_random(t, t->dtype, (size_t)s->N * (size_t)s->cols, 1);
    Tensor dout = tensor_random(t, t->dtype, (size_t)s->N * (size_t)s->rows, 1);
    Tensor w = tensor_random(t, t->dtype, weights, 1), out = tensor_poison(t, t->dtype, dout.count);
    Tensor dinp = tensor_poison(t, t->dtype, inp.count), dweight = tensor_random(t, DTYPE_F32, weights, 1);
    Weight weight = tensor_weight(&w, FAST, s->rows, s->cols);
    t->ops[FAST]->matmul_forward(t->dev[FAST], out.fast, inp.fast, &weight, s->N);
    t->ops[FAST]->matmul_dgrad(t->dev[FAST], dinp.fast, dout.fast, &weight, s->N);
    t->ops[FAST]->matmul_wgrad(t->dev[FAST], dweight.fast, dout.fast, inp.fast, s->N, s->rows, s->cols);
    float *a = tensor_download(t, &out), *b = tensor_download(t, &dinp), *c = tensor_download(t, &dweight);
    *count = out.count + dinp.count + weights;
    float *all = malloc(sizeof *all * *count);
    assert_non_null(all);
    memcpy(all, a, sizeof *a * out.count);
    memcpy(all + out.count, b, sizeof *b * dinp.count);
    memcpy(all + out.count + dinp.count, c, sizeof *c * weights);
    free(a), free(b), free(c);
    Tensor *tensors[] = {&inp, &dout, &w, &out, &dinp, &dweight};
    for (int i = 0; i < 6; i++) tensor_free(t, tensors[i]);
    return all;
}

static void runs_agree(DType dtype) {
    const Shape picks[] = {
        {150, 136, 136, hopper() ? 2 : 1, ALWAYS}, {300, 72, 40, 16, ALWAYS}, {40, 33, 65, 4, ALWAYS}};
    for (int i = 0; i < 3; i++) {
        CudaTest t = open_for(dtype, picks[i].sms);
        size_t count;
        float *want = NULL, *got;
        FOR_SCHEDULES(k) {
            for (int run = test_emulated(); run < 2; run++) { /* a GPU has one schedule, and two runs of it */
                got = gradient_bits(&t, &picks[i], &count);
                if (want) assert_same_bits(got, want, count, "another run");
                if (want) free(got);
                else want = got;
            }
        }
        if (emu_set_schedule) emu_set_schedule(0, 1);
        free(want);
    }
}

static void test_runs_agree(void **state) {
    (void)state;
    runs_agree(DTYPE_BF16);
    runs_agree(DTYPE_F32);
}

/* ---- int8 -------------------------------------------------------------------------------------------------------- */

/* What weight_prepare() and the products do to a row, in plain C. */
static float quantize(int8_t *q, const float *x, int cols) {
    float most = 0;
    for (int c = 0; c < cols; c++) most = fmaxf(most, fabsf(x[c]));
    float inverse = most > 1e-36f ? 127.0f / most : 0.0f;
    for (int c = 0; c < cols; c++) q[c] = (int8_t)lrintf(x[c] * inverse);
    return most / 127.0f;
}

static void int8_shape(DType dtype, int N, int rows, int cols, int sms) {
    CudaTest t = open_for(dtype, sms);
    Tensor inp = tensor_random(&t, dtype, (size_t)N * (size_t)cols, 1),
           w = tensor_random(&t, dtype, (size_t)rows * (size_t)cols, 0.1);
    for (int c = 0; c < cols; c++) inp.naive[c] = inp.ref[c] = 0; /* a row of zeros */
    tensor_push(&t, &inp);
    Tensor residual = tensor_random(&t, dtype, (size_t)N * (size_t)rows, 1);
    Tensor logits = tensor_poison(&t, DTYPE_F32, residual.count), out = tensor_poison(&t, dtype, residual.count);
    Tensor sum = tensor_poison(&t, dtype, residual.count);
    Tensor gate_up = tensor_poison(&t, dtype, residual.count), act = tensor_poison(&t, dtype, residual.count / 2);
    Tensor again = tensor_poison(&t, dtype, act.count);
    Weight plain = tensor_weight(&w, FAST, rows, cols), weight;
    const KernelOps *k = t.ops[FAST];
    size_t bytes = k->weight_prepared_bytes(t.dev[FAST], rows, cols, DTYPE_I8);
    assert_true(bytes >= (size_t)rows * (size_t)cols);
    void *storage = device_alloc(t.dev[FAST], bytes);
    k->weight_prepare(t.dev[FAST], &weight, storage, DTYPE_I8, &plain);
    assert_int_equal(weight.dtype, DTYPE_I8);
    k->logits_forward(t.dev[FAST], logits.fast, inp.fast, &weight, N);
    NOTE(int8_forward, N, rows);
    k->matmul_forward(t.dev[FAST], out.fast, inp.fast, &weight, N);
    k->matmul_add_forward(t.dev[FAST], sum.fast, residual.fast, inp.fast, &weight, N);
    k->matmul_swiglu_forward(t.dev[FAST], act.fast, rows % 2 ? NULL : gate_up.fast, inp.fast, &weight, N);
    if (rows % 2 == 0) k->swiglu_forward(t.dev[FAST], again.fast, gate_up.fast, N, rows / 2);
    cuda_test_sync(&t);

    int8_t *qx = malloc((size_t)N * (size_t)cols), *qw = malloc((size_t)rows * (size_t)cols);
    float *sx = malloc(sizeof *sx * (size_t)N), *sw = malloc(sizeof *sw * (size_t)rows);
    assert_true(qx && qw && sx && sw);
    for (int n = 0; n < N; n++) sx[n] = quantize(qx + n * cols, inp.naive + n * cols, cols);
    for (int r = 0; r < rows; r++) sw[r] = quantize(qw + r * cols, w.naive + r * cols, cols);
    float *got = tensor_download(&t, &logits), *got_out = tensor_download(&t, &out),
          *got_sum = tensor_download(&t, &sum);
    float *kept = tensor_download(&t, &gate_up);
    for (int n = 0; n < N; n++)
        for (int r = 0; r < rows; r++) {
            int32_t exact = 0;
            for (int c = 0; c < cols; c++) exact += (int32_t)qx[n * cols + c] * qw[r * cols + c];
            float value = (float)exact * sx[n] * sw[r];
            int i = n * rows + r;
            if (got[i] != value)
                fail_msg("int8 logits [%d,%d] of %dx%dx%d: %.9g, exactly %.9g", n, r, N, rows, cols, got[i], value);
            assert_true(got_out[i] == rounded_to(dtype, value));
            assert_true(got_sum[i] == rounded_to(dtype, residual.naive[i] + value));
            if (rows % 2 == 0) assert_true(kept[i] == got_out[i]);
        }
    if (rows % 2 == 0) tensor_check_same(&t, &again, &act, "int8 swiglu");
    free(qx), free(qw), free(sx), free(sw), free(got), free(got_out), free(got_sum), free(kept);
    device_free(t.dev[FAST], storage);
    Tensor *all[] = {&inp, &w, &residual, &logits, &out, &sum, &gate_up, &act, &again};
    for (int i = 0; i < 9; i++) tensor_free(&t, all[i]);
}

static void test_int8_is_exact(void **state) {
    (void)state;
    int8_shape(DTYPE_BF16, 3, 48, 64, 4);
    int8_shape(DTYPE_BF16, 35, 66, 100, 2);
    int8_shape(DTYPE_F32, 18, 31, 33, 4);
    int8_shape(DTYPE_F32, 130, 144, 272, 1);
    if (test_long()) int8_shape(DTYPE_BF16, 1, 1024, 768, 16);
    if (test_large()) int8_shape(DTYPE_BF16, 200, 520, 1000, 1);
}

/* A NaN among activations must not come out as a number. */
static void test_int8_keeps_nan(void **state) {
    (void)state;
    CudaTest t = open_for(DTYPE_BF16, 4);
    Tensor inp = tensor_random(&t, DTYPE_BF16, 2 * 64, 1), w = tensor_random(&t, DTYPE_BF16, 32 * 64, 1);
    Tensor logits = tensor_poison(&t, DTYPE_F32, 2 * 32);
    inp.naive[64 + 7] = NAN;
    tensor_push(&t, &inp);
    Weight plain = tensor_weight(&w, FAST, 32, 64), weight;
    void *storage = device_alloc(t.dev[FAST], t.ops[FAST]->weight_prepared_bytes(t.dev[FAST], 32, 64, DTYPE_I8));
    t.ops[FAST]->weight_prepare(t.dev[FAST], &weight, storage, DTYPE_I8, &plain);
    t.ops[FAST]->logits_forward(t.dev[FAST], logits.fast, inp.fast, &weight, 2);
    float *got = tensor_download(&t, &logits);
    for (int r = 0; r < 32; r++) assert_true(isfinite(got[r]) && isnan(got[32 + r]));
    free(got);
    device_free(t.dev[FAST], storage);
    tensor_free(&t, &inp), tensor_free(&t, &w), tensor_free(&t, &logits);
}

/* ---- classifier -------------------------------------------------------------------------------------------------- */

typedef struct {
    int N, V, Vp, C;
    int chunk; /* rows the workspace is made for; 0: all */
} Head;

static void classifier_shape(DType dtype, const Head *h) {
    close_opened();
    multiprocessors(4);
    CudaTest t = cuda_test_open(dtype);
    KernelLimits small = {
        .N = h->chunk ? h->chunk : h->N, .C = h->C, .F = h->C, .Vp = h->Vp, .H = 1, .G = 1, .D = 64, .n_seq = 1};
    cuda_test_reserve(&t, &small);
    Tensor inp = tensor_random(&t, dtype, (size_t)h->N * (size_t)h->C, 1);
    Tensor w = tensor_random(&t, dtype, (size_t)h->Vp * (size_t)h->C, 2 / sqrt(h->C));
    Tensor losses = tensor_poison(&t, DTYPE_F32, (size_t)h->N), only = tensor_poison(&t, DTYPE_F32, (size_t)h->N);
    Tensor dinp = tensor_poison(&t, dtype, inp.count), frozen = tensor_poison(&t, dtype, inp.count);
    Tensor dweight = tensor_random(&t, DTYPE_F32, w.count, 0.5);
    int32_t *lo = malloc(sizeof *lo * (size_t)h->N), *hi = malloc(sizeof *hi * (size_t)h->N);
    for (int n = 0; n < h->N; n++) {
        int width = n % 5 == 3 ? 1 + (n * 7) % h->V : 1; /* some ranges, one of them all ids */
        lo[n] = n % 7 == 2 ? -1 : (int32_t)(random_uniform() * (h->V - width + 1));
        hi[n] = lo[n] + width;
        if (n == 3) lo[n] = 0, hi[n] = h->V;
    }
    void *gpu_lo = cuda_upload(&t, lo, sizeof *lo * (size_t)h->N),
         *gpu_hi = cuda_upload(&t, hi, sizeof *hi * (size_t)h->N);
    FOR_SIDES(side_) {
        Weight weight = tensor_weight(&w, side_, h->Vp, h->C);
        const int32_t *l = side_ == FAST ? gpu_lo : lo, *r = side_ == FAST ? gpu_hi : hi;
        const KernelOps *k = t.ops[side_];
        k->classifier(t.dev[side_], side(&only, side_), NULL, NULL, side(&inp, side_), &weight, l, r, h->N, h->V);
        k->classifier(t.dev[side_], side(&losses, side_), side(&frozen, side_), NULL, side(&inp, side_), &weight, l, r,
                      h->N, h->V);
        k->classifier(t.dev[side_], side(&losses, side_), side(&dinp, side_), side(&dweight, side_), side(&inp, side_),
                      &weight, l, r, h->N, h->V);
    }
    cuda_test_sync(&t);
    const char *what = label("classifier", h->N, h->V, h->C);
    tensor_check(&t, &losses, what);
    tensor_check_same(&t, &only, &losses, what);
    tensor_check_same(&t, &frozen, &dinp, what);
    /* A gradient of the table's dtype is rounded once on the way, as dlogits. */
    tensor_check_terms(&t, &dinp, what, 1);
    tensor_check_terms(&t, &dweight, what,
                       dtype == DTYPE_BF16 ? tensor_largest(&dweight) * dtype_epsilon(DTYPE_BF16) / FLT_EPSILON / 8
                                           : 1);
    float *got = tensor_download(&t, &losses), *grad = tensor_download(&t, &dinp);
    for (int n = 0; n < h->N; n++)
        if (lo[n] < 0) {
            assert_true(got[n] == 0);
            for (int c = 0; c < h->C; c++) assert_true(grad[n * h->C + c] == 0);
        }
    free(got), free(grad), free(lo), free(hi);
    device_free(t.dev[FAST], gpu_lo), device_free(t.dev[FAST], gpu_hi);
    Tensor *all[] = {&inp, &w, &losses, &only, &dinp, &frozen, &dweight};
    for (int i = 0; i < 7; i++) tensor_free(&t, all[i]);
    cuda_test_close(&t);
}

static void test_classifier(void **state) {
    (void)state;
    static const Head heads[] = {{9, 50, 64, 32, 0}, {40, 131, 192, 40, 16}, {33, 61, 68, 33, 0}};
    /* Several tiles of rows and of ids; a last chunk of one row; many chunks. */
    static const Head more[] = {{140, 300, 320, 64, 0}, {129, 200, 256, 64, 64}, {20, 700, 704, 72, 3}};
    static const Head large[] = {{300, 1000, 1024, 64, 0}, {257, 500, 512, 64, 128}, {70, 1500, 1536, 136, 3}};
    for (int i = 0; i < 3; i++) classifier_shape(DTYPE_BF16, &heads[i]), classifier_shape(DTYPE_F32, &heads[i]);
    for (int i = 0; i < 3 && test_long(); i++)
        classifier_shape(DTYPE_BF16, &more[i]), classifier_shape(DTYPE_F32, &more[i]);
    for (int i = 0; i < 3 && test_large(); i++)
        classifier_shape(DTYPE_BF16, &large[i]), classifier_shape(DTYPE_F32, &large[i]);
}

/* ---- what is refused --------------------------------------------------------------------------------------------- */

static void test_refusals(void **state) {
    (void)state;
    for (int i = 0; i < 4; i++) {
        CudaTest t = open_for(DTYPE_BF16, 4);
        const KernelOps *k = t.ops[FAST];
        Tensor x = tensor_random(&t, DTYPE_BF16, 64 * 64, 1);
        Weight w = tensor_weight(&x, FAST, 64, 64), packed = w;
        w.dtype = DTYPE_F32;
        packed.layout = WEIGHT_PACKED;
        switch (i) {
        case 0: k->matmul_forward(t.dev[FAST], x.fast, x.fast, &w, 1); break;
        case 1: k->matmul_dgrad(t.dev[FAST], x.fast, x.fast, &packed, 1); break;
        case 2:
            k->weight_prepare(t.dev[FAST], &packed, x.fast, DTYPE_F32,
                              &(Weight){x.fast, DTYPE_BF16, NULL, 8, 8, WEIGHT_ROWS});
            break;
        case 3: k->classifier(t.dev[FAST], x.fast, NULL, NULL, x.fast, &packed, x.fast, x.fast, 1, 64); break;
        }
        static const char *const says[] = {"matmul_forward: the weight is F32",
                                           "matmul_dgrad: the weight is BF16, packed",
                                           "weight_prepare: a weight can be prepared", "classifier: takes a head"};
        const char *error = device_error(t.dev[FAST]);
        if (!error || strncmp(error, says[i], strlen(says[i])))
            fail_msg("expected '%s...', got '%s'", says[i], error ? error : "nothing");
        tensor_free(&t, &x);
        device_close(t.dev[FAST]);
        device_close(t.dev[DOUBLE]);
        opened_sms = 0;
    }
}

/* In the table's own dtype the prepared form is the weight itself. */
static void test_prepared_is_the_weight(void **state) {
    (void)state;
    CudaTest t = open_for(DTYPE_BF16, 4);
    Tensor w = tensor_random(&t, DTYPE_BF16, 64 * 40, 1);
    Weight plain = tensor_weight(&w, FAST, 64, 40), out;
    assert_int_equal(t.ops[FAST]->weight_prepared_bytes(t.dev[FAST], 64, 40, DTYPE_BF16), 0);
    t.ops[FAST]->weight_prepare(t.dev[FAST], &out, NULL, DTYPE_BF16, &plain);
    assert_ptr_equal(out.data, w.fast);
    assert_true(out.layout == WEIGHT_ROWS && out.dtype == DTYPE_BF16 && out.rows == 64 && out.cols == 40);
    tensor_free(&t, &w);
}

/* ---- the same on Hopper ------------------------------------------------------------------------------------------ */

static int hopper_begin(void **state) {
    (void)state;
    close_opened();
    if (test_emulated()) emu_config()->compute_capability = 90;
    splits_seen = 0;
    return 0;
}

static int hopper_end(void **state) {
    (void)state;
    close_opened();
    if (test_emulated()) emu_config()->compute_capability = 80;
    return 0;
}

/* A real GPU has taken its own path in the tests above. */
#define HOPPER_ONLY_EMULATED                                                                                           \
    do {                                                                                                               \
        (void)state;                                                                                                   \
        if (!test_emulated()) skip();                                                                                  \
    } while (0)

static void test_hopper_forward(void **state) {
    HOPPER_ONLY_EMULATED;
    FOR_SHAPES(s) forward_shape(DTYPE_BF16, s);
    FOR_SHAPES(s) swiglu_shape(DTYPE_BF16, s);
    REQUIRE(hopper_forward, "matmul_forward on Hopper");
}

static void test_hopper_backward(void **state) {
    HOPPER_ONLY_EMULATED;
    FOR_SHAPES(s) backward_shape(DTYPE_BF16, s);
    REQUIRE(hopper_dgrad, "matmul_dgrad on Hopper");
    REQUIRE(hopper_wgrad, "matmul_wgrad on Hopper");
    if (!splits_seen) fail_msg("matmul_wgrad on Hopper: no shape of this test was split");
}

static void test_hopper_rows_have_one_result(void **state) {
    HOPPER_ONLY_EMULATED;
    invariance(DTYPE_BF16, 0, test_large() ? 1000 : 140, test_large() ? 512 : 272, 192);
}

static void test_hopper_runs_agree(void **state) {
    HOPPER_ONLY_EMULATED;
    runs_agree(DTYPE_BF16);
}

/* Blocks in pairs make the bits of blocks alone, gradients too, from two thirds of the bytes: b's come once for both.
 */
static void test_hopper_pairs(void **state) {
    HOPPER_ONLY_EMULATED;
    const Shape shape = {150, 200, 200, 2, ALWAYS};
    float *bits[2];
    uint64_t products[2], bytes[2];
    size_t count;
    for (int pair = 0; pair < 2; pair++) {
        CudaTest t = open_for(DTYPE_BF16, 1 + pair);
        emu_take_work(&products[pair], &bytes[pair]);
        bits[pair] = gradient_bits(&t, &shape, &count);
        emu_take_work(&products[pair], &bytes[pair]);
        assert_int_equal(emu_last_cluster(), 1 + pair);
    }
    assert_same_bits(bits[1], bits[0], count, "a pair of blocks and one");
    assert_int_equal(products[1], products[0]);
    assert_int_equal(3 * bytes[1], 2 * bytes[0]);
    free(bits[0]), free(bits[1]);
}

static void test_hopper_classifier(void **state) {
    HOPPER_ONLY_EMULATED;
    static const Head head = {40, 131, 192, 40, 16};
    classifier_shape(DTYPE_BF16, &head);
}

#define hopper_test(test) cmocka_unit_test_setup_teardown(test, hopper_begin, hopper_end)

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forward_bf16),
        cmocka_unit_test(test_forward_f32),
        cmocka_unit_test(test_swiglu),
        cmocka_unit_test(test_backward),
        cmocka_unit_test(test_rows_have_one_result),
        cmocka_unit_test(test_runs_agree),
        cmocka_unit_test(test_int8_is_exact),
        cmocka_unit_test(test_int8_keeps_nan),
        cmocka_unit_test(test_classifier),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_prepared_is_the_weight),
        hopper_test(test_hopper_forward),
        hopper_test(test_hopper_backward),
        hopper_test(test_hopper_rows_have_one_result),
        hopper_test(test_hopper_runs_agree),
        hopper_test(test_hopper_pairs),
        hopper_test(test_hopper_classifier),
    };
    return cmocka_run_group_tests(tests, NULL, close_after);
}
