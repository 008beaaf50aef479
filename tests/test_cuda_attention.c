/* test_cuda_attention.c - attention on the GPU, packed and over pages, in float32 and bf16: against the reference in
 * double, and bit for bit against itself in other company. */
#include "tests/cuda_check.h"

static const DType dtypes[] = {DTYPE_F32, DTYPE_BF16};
static int hopper; /* bf16 alone, on an emulated GPU of sm_90 */
#define FOR_DTYPES(i) for (size_t i = (size_t)hopper; i < sizeof dtypes / sizeof *dtypes; i++)

enum { SEQUENCES_MAX = 64 };

/* Packed sequences, and room for `capacity` of them: the unused ones are empty and last. */
typedef struct {
    int H, G, D, N, n_seq, capacity;
    int32_t cu[SEQUENCES_MAX + 1];
    int32_t *d_cu;
    Tensor qk, qkv, out, lse, dout, dqk, dqkv;
} Packed;

static size_t width_qk(const Packed *p) { return (size_t)(p->H + p->G) * (size_t)p->D; }
static size_t width_qkv(const Packed *p) { return (size_t)(p->H + 2 * p->G) * (size_t)p->D; }
static size_t width_out(const Packed *p) { return (size_t)p->H * (size_t)p->D; }

static CudaTest open_for(DType dtype, int N, int H, int G, int D, int n_seq) {
    CudaTest t = cuda_test_open(dtype);
    KernelLimits limits = {.N = N, .C = H * D, .F = 64, .Vp = 64, .H = H, .G = G, .D = D, .n_seq = n_seq};
    cuda_test_reserve(&t, &limits);
    return t;
}

/* spare: sequences of the capacity that are not there; loose: rows after the last sequence */
static Packed packed_random(CudaTest *t, const int *lengths, int n_seq, int spare, int loose, int H, int G, int D) {
    Packed p = {.H = H, .G = G, .D = D, .n_seq = n_seq, .capacity = n_seq + spare};
    assert_true(p.capacity <= SEQUENCES_MAX);
    for (int s = 0; s < n_seq; s++) p.cu[s + 1] = p.N += lengths[s];
    for (int s = n_seq; s < p.capacity; s++) p.cu[s + 1] = p.N;
    p.N += loose;
    size_t n = (size_t)p.N;
    p.d_cu = cuda_upload(t, p.cu, sizeof *p.cu * ((size_t)p.capacity + 1));
    p.qk = tensor_random(t, t->dtype, n * width_qk(&p), 1), p.qkv = tensor_random(t, t->dtype, n * width_qkv(&p), 1);
    p.dout = tensor_random(t, t->dtype, n * width_out(&p), 1), p.out = tensor_poison(t, t->dtype, n * width_out(&p));
    p.lse = tensor_poison(t, DTYPE_F32, n * (size_t)H), p.dqk = tensor_poison(t, t->dtype, n * width_qk(&p));
    p.dqkv = tensor_random(t, t->dtype, n * width_qkv(&p), 1);
    return p;
}

static void packed_free(CudaTest *t, Packed *p) {
    Tensor *all[] = {&p->qk, &p->qkv, &p->out, &p->lse, &p->dout, &p->dqk, &p->dqkv};
    for (int i = 0; i < 7; i++) tensor_free(t, all[i]);
    device_free(t->dev[FAST], p->d_cu);
}

static void packed_forward(CudaTest *t, Packed *p) {
    t->ops[FAST]->attention_forward(t->dev[FAST], p->out.fast, p->lse.fast, p->qk.fast, p->qkv.fast, p->d_cu,
                                    p->capacity, p->N, p->H, p->G, p->D);
}

static void packed_backward(CudaTest *t, Packed *p) {
    t->ops[FAST]->attention_backward(t->dev[FAST], p->dqk.fast, p->dqkv.fast, p->dout.fast, p->qk.fast, p->qkv.fast,
                                     p->out.fast, p->lse.fast, p->d_cu, p->capacity, p->N, p->H, p->G, p->D);
}

/* ---- the naive formula in bf16 --------------------------------------------------------------------------------------
 * Products of bf16 numbers summed in float; the weights, and the gradients of the scores, pass through bf16 once, for
 * they enter the next product.  All else is the formula of kernels/reference/attention.c. */

static float score(const Packed *p, int64_t n, int64_t j, int h) {
    int64_t w = p->H + p->G, g = h / (p->H / p->G);
    const float *q = p->qk.naive + (n * w + h) * p->D, *k = p->qk.naive + (j * w + p->H + g) * p->D;
    float sum = 0;
    for (int d = 0; d < p->D; d++) sum += q[d] * k[d];
    return sum / sqrtf((float)p->D);
}

static float *value_row(const Packed *p, float *x, int64_t j, int h) {
    return x + (j * (p->H + 2 * p->G) + p->H + p->G + h / (p->H / p->G)) * p->D;
}

static void bf16_forward(Packed *p) {
    for (int s = 0; s < p->n_seq; s++)
        for (int64_t n = p->cu[s]; n < p->cu[s + 1]; n++)
            for (int h = 0; h < p->H; h++) {
                float max = -INFINITY, sum = 0, *out = p->out.naive + (n * p->H + h) * p->D;
                for (int64_t j = p->cu[s]; j <= n; j++) max = fmaxf(max, score(p, n, j, h));
                memset(out, 0, sizeof *out * (size_t)p->D);
                for (int64_t j = p->cu[s]; j <= n; j++) {
                    float w = expf(score(p, n, j, h) - max), *v = value_row(p, p->qkv.naive, j, h);
                    sum += w;
                    for (int d = 0; d < p->D; d++) out[d] += rounded_to(DTYPE_BF16, w) * v[d];
                }
                for (int d = 0; d < p->D; d++) out[d] /= sum;
                p->lse.naive[h * p->N + n] = max + logf(sum);
            }
}

static void bf16_backward_pair(Packed *p, int64_t n, int64_t j, int h, float mean) {
    const int D = p->D;
    int64_t w = p->H + p->G, g = h / (p->H / p->G);
    const float *dout = p->dout.naive + (n * p->H + h) * D, *v = value_row(p, p->qkv.naive, j, h);
    const float *q = p->qk.naive + (n * w + h) * D, *k = p->qk.naive + (j * w + p->H + g) * D;
    float *dq = p->dqk.naive + (n * w + h) * D, *dk = p->dqk.naive + (j * w + p->H + g) * D;
    float *dv = value_row(p, p->dqkv.naive, j, h), dp = 0;
    float weight = expf(score(p, n, j, h) - p->lse.naive[h * p->N + n]), scale = 1 / sqrtf((float)D);
    for (int d = 0; d < D; d++) dp += dout[d] * v[d];
    float ds = rounded_to(DTYPE_BF16, weight * (dp - mean));
    for (int d = 0; d < D; d++) {
        dv[d] += rounded_to(DTYPE_BF16, weight) * dout[d];
        dq[d] += scale * ds * k[d];
        dk[d] += scale * ds * q[d];
    }
}

static void bf16_backward(Packed *p) {
    memset(p->dqk.naive, 0, sizeof(float) * p->dqk.count);
    for (int64_t n = 0; n < p->N; n++)
        for (int g = 0; g < p->G; g++)
            memset(value_row(p, p->dqkv.naive, n, g * (p->H / p->G)), 0, sizeof(float) * (size_t)p->D);
    for (int s = 0; s < p->n_seq; s++)
        for (int64_t n = p->cu[s]; n < p->cu[s + 1]; n++)
            for (int h = 0; h < p->H; h++) {
                const float *dout = p->dout.naive + (n * p->H + h) * p->D, *out = p->out.naive + (n * p->H + h) * p->D;
                float mean = 0;
                for (int d = 0; d < p->D; d++) mean += dout[d] * out[d];
                for (int64_t j = p->cu[s]; j <= n; j++) bf16_backward_pair(p, n, j, h, mean);
            }
}

/* ---- against the reference -------------------------------------------------------------------------------------- */

/* A score's gradient is the difference of two products, which may cancel to nothing: the size of their terms, times q
 * or k. */
static double dqk_terms(const Packed *p) {
    double most = 0;
    for (size_t i = 0; i < p->out.count; i += (size_t)p->D) {
        double terms = 0;
        for (size_t d = i; d < i + (size_t)p->D; d++) terms += fabs(p->dout.ref[d] * p->out.ref[d]);
        most = fmax(most, terms);
    }
    return most * tensor_largest(&p->qk) / sqrt((double)p->D);
}

static void packed_check(DType dtype, const int *lengths, int n_seq, int spare, int H, int G, int D) {
    int N = 0;
    for (int s = 0; s < n_seq; s++) N += lengths[s];
    CudaTest t = open_for(dtype, N, H, G, D, n_seq + spare);
    Packed p = packed_random(&t, lengths, n_seq, spare, 0, H, G, D);
    Tensor bare = tensor_poison(&t, dtype, p.out.count);
    packed_forward(&t, &p);
    t.ops[FAST]->attention_forward(t.dev[FAST], bare.fast, NULL, p.qk.fast, p.qkv.fast, p.d_cu, p.capacity, N, H, G, D);
    packed_backward(&t, &p);
    for (Side s = dtype == DTYPE_F32 ? NAIVE : DOUBLE; s < SIDES; s++) {
        t.ops[s]->attention_forward(t.dev[s], side(&p.out, s), side(&p.lse, s), side(&p.qk, s), side(&p.qkv, s), p.cu,
                                    n_seq, N, H, G, D);
        t.ops[s]->attention_backward(t.dev[s], side(&p.dqk, s), side(&p.dqkv, s), side(&p.dout, s), side(&p.qk, s),
                                     side(&p.qkv, s), side(&p.out, s), side(&p.lse, s), p.cu, n_seq, N, H, G, D);
    }
    if (dtype == DTYPE_BF16) {
        bf16_forward(&p);
        tensor_store(&p.out);
        bf16_backward(&p);
    }
    cuda_test_sync(&t);
    tensor_check(&t, &p.out, label("attention_forward", H, G, D));
    tensor_check(&t, &p.lse, label("attention_forward lse", H, G, D));
    tensor_check_same(&t, &bare, &p.out, label("attention_forward without lse", H, G, D));
    tensor_check_terms(&t, &p.dqk, label("attention_backward dqk", H, G, D), dqk_terms(&p));
    tensor_check(&t, &p.dqkv, label("attention_backward dqkv", H, G, D)); /* its q and k parts stay on every side */
    tensor_free(&t, &bare);
    packed_free(&t, &p);
    cuda_test_close(&t);
}

static void test_packed(void **state) {
    (void)state;
    static const int edges[] = {1, 63, 64, 0, 65}, tiles[] = {127, 128, 129}, far[] = {0, 200, 3, 0};
    static const int many[] = {1, 2, 1, 0, 7, 3, 1, 1, 16, 0, 0, 5, 1, 33, 2, 1, 1, 1, 4, 9};
    FOR_DTYPES(i) {
        packed_check(dtypes[i], edges, 5, 0, 2, 1, 64);
        packed_check(dtypes[i], far, 4, 9, 3, 1, 128);
        packed_check(dtypes[i], many, 20, 0, 2, 2, 64);
        packed_check(dtypes[i], tiles + 2, 1, 1, 4, 1, 64);
        packed_check(dtypes[i], edges, 1, 0, 1, 1, 128);
        if (test_emulated()) { /* cards with less shared memory */
            const int capability = emu_config()->compute_capability;
            emu_config()->compute_capability = 86;
            packed_check(dtypes[i], far + 1, 2, 0, 2, 1, 128);
            emu_config()->compute_capability = capability;
        }
        if (!test_long()) continue;
        /* In the emulator: the edges of pages and short sequences with every number of heads to a group, for heads of a
         * group share a tile; tiles' own edges, spare capacity and two groups with one number each, as they do not meet
         * it; and keys for two turns of the ring. */
        const int all = test_large();
        for (int D = 64; D <= 128; D += 64)
            for (int ratio = 1; ratio <= 4; ratio++) {
                const int groups = all || ratio == 3 ? 2 : 1;
                packed_check(dtypes[i], edges, 5, ratio, groups * ratio, groups, D);
                packed_check(dtypes[i], many, 20, 30, ratio, 1, D);
                if (all || ratio == 1) packed_check(dtypes[i], tiles, 3, 0, ratio, 1, D);
                if (all || ratio == 2) packed_check(dtypes[i], far, 4, 40, ratio, 1, D);
            }
        const int longest[] = {all ? 517 : 390};
        packed_check(dtypes[i], longest, 1, 0, 2, 1, 64);
        packed_check(dtypes[i], longest, 1, 0, 1, 1, 128);
    }
}

/* ---- who may change whose bits ---------------------------------------------------------------------------------- */

/* A snapshot of a result on the GPU. */
typedef struct {
    float *out, *lse, *dqk, *dqkv;
} Results;

static Results results_of(CudaTest *t, const Packed *p) {
    return (Results){tensor_download(t, &p->out), tensor_download(t, &p->lse), tensor_download(t, &p->dqk),
                     tensor_download(t, &p->dqkv)};
}

static void results_free(Results *r) {
    free(r->out);
    free(r->lse);
    free(r->dqk);
    free(r->dqkv);
}

/* Rows [first, end) of both.  backward: the gradients too. */
static void check_rows(const Packed *p, const Results *got, const Results *want, int first, int end, int backward,
                       const char *what) {
    size_t a = (size_t)first, n = (size_t)(end - first), w[] = {width_out(p), width_qk(p), width_qkv(p)};
    assert_same_bits(got->out + a * w[0], want->out + a * w[0], n * w[0], what);
    for (int h = 0; h < p->H; h++)
        assert_same_bits(got->lse + (size_t)(h * p->N) + a, want->lse + (size_t)(h * p->N) + a, n, what);
    if (!backward) return;
    assert_same_bits(got->dqk + a * w[1], want->dqk + a * w[1], n * w[1], what);
    assert_same_bits(got->dqkv + a * w[2], want->dqkv + a * w[2], n * w[2], what);
}

/* Row r of q, k and v gets new values; only rows of its own sequence from r on may differ, and r itself must. */
static void future_check(DType dtype, int H, int G, int D) {
    static const int lengths[] = {1, 63, 65, 150};
    CudaTest t = open_for(dtype, 279, H, G, D, 4);
    Packed p = packed_random(&t, lengths, 4, 0, 0, H, G, D);
    size_t a = width_qk(&p), b = width_qkv(&p), c = width_out(&p);
    packed_forward(&t, &p);
    Results want = results_of(&t, &p);
    for (int s = 0; s < 4; s++)
        for (int i = 0; i < (test_large() ? 5 : 1 + (s == 3)); i++) {
            size_t row = (size_t)(p.cu[s] + (i * 67 + 130) % lengths[s]);
            float kept[2][1024];
            memcpy(kept[0], p.qk.naive + row * a, sizeof(float) * a);
            memcpy(kept[1], p.qkv.naive + row * b, sizeof(float) * b);
            for (size_t j = 0; j < a; j++) p.qk.naive[row * a + j] = rounded_to(dtype, 3 * random_value());
            for (size_t j = 0; j < b; j++) p.qkv.naive[row * b + j] = rounded_to(dtype, 3 * random_value());
            tensor_push(&t, &p.qk);
            tensor_push(&t, &p.qkv);
            packed_forward(&t, &p);
            Results got = results_of(&t, &p);
            check_rows(&p, &got, &want, 0, (int)row, 0, "rows before the changed one");
            check_rows(&p, &got, &want, p.cu[s + 1], p.N, 0, "sequences after the changed one");
            assert_memory_not_equal(got.out + row * c, want.out + row * c, sizeof(float) * c);
            results_free(&got);
            memcpy(p.qk.naive + row * a, kept[0], sizeof(float) * a);
            memcpy(p.qkv.naive + row * b, kept[1], sizeof(float) * b);
        }
    results_free(&want);
    packed_free(&t, &p);
    cuda_test_close(&t);
}

static void test_future_changes_no_past(void **state) {
    (void)state;
    FOR_DTYPES(i) {
        future_check(dtypes[i], 2, 1, 64);
        if (test_long()) future_check(dtypes[i], 3, 1, 128);
    }
}

static void fill_rows(CudaTest *t, Tensor *x, size_t width, int first, int end, float value) {
    for (size_t i = (size_t)first * width; i < (size_t)end * width; i++) x->naive[i] = value;
    tensor_push(t, x);
}

/* A sequence of NaN, infinity or other numbers: its neighbours keep their bits, forward and backward.  The same with
 * other sequences at the same place: a sequence has the bits it has alone. */
static void neighbours_check(DType dtype, int H, int G, int D) {
    static const int lengths[] = {70, 100, 5, 90};
    CudaTest t = open_for(dtype, 265, H, G, D, 4);
    Packed p = packed_random(&t, lengths, 4, 0, 0, H, G, D);
    packed_forward(&t, &p);
    packed_backward(&t, &p);
    Results want = results_of(&t, &p);
    const float poison[] = {NAN, INFINITY, 7};
    for (int i = 0; i < 3; i++) {
        fill_rows(&t, &p.qk, width_qk(&p), p.cu[1], p.cu[2], poison[i]);
        fill_rows(&t, &p.qkv, width_qkv(&p), p.cu[1], p.cu[2], poison[i]);
        fill_rows(&t, &p.dout, width_out(&p), p.cu[1], p.cu[2], poison[i]);
        packed_forward(&t, &p);
        packed_backward(&t, &p);
        Results got = results_of(&t, &p);
        check_rows(&p, &got, &want, 0, p.cu[1], 1, "before");
        check_rows(&p, &got, &want, p.cu[2], p.N, 1, "after");
        results_free(&got);
    }
    int32_t cut[] = {0, 11, 70, 170, 175, 265}; /* the first in two */
    device_free(t.dev[FAST], p.d_cu);
    p.d_cu = cuda_upload(&t, cut, sizeof cut);
    p.capacity = 5;
    packed_forward(&t, &p);
    packed_backward(&t, &p);
    Results got = results_of(&t, &p);
    check_rows(&p, &got, &want, p.cu[2], p.N, 1, "after others");
    check_rows(&p, &got, &want, 0, 11, 0, "the beginning alone");
    results_free(&got);
    results_free(&want);
    packed_free(&t, &p);
    cuda_test_close(&t);
}

static void test_neighbours_do_not_meet(void **state) {
    (void)state;
    FOR_DTYPES(i) {
        neighbours_check(dtypes[i], 2, 1, 64);
        if (test_long()) neighbours_check(dtypes[i], test_large() ? 4 : 2, 2, 128);
    }
}

/* Rows past the last sequence come back as zeros, whatever was there, also when the number of sequences is a capacity.
 */
static void test_rows_of_no_sequence(void **state) {
    (void)state;
    FOR_DTYPES(i) {
        static const int lengths[] = {70, 9};
        CudaTest t = open_for(dtypes[i], 149, 2, 1, 64, 5);
        Packed p = packed_random(&t, lengths, 2, 3, 70, 2, 1, 64);
        packed_forward(&t, &p);
        packed_backward(&t, &p);
        Results r = results_of(&t, &p);
        float *before = p.dqkv.naive;
        for (size_t n = 79; n < (size_t)p.N; n++) {
            for (size_t j = 0; j < width_out(&p); j++) assert_true(r.out[n * width_out(&p) + j] == 0);
            for (size_t j = 0; j < width_qk(&p); j++) assert_true(r.dqk[n * width_qk(&p) + j] == 0);
            for (size_t j = 0; j < width_qkv(&p); j++)
                assert_true(r.dqkv[n * width_qkv(&p) + j] == (j < width_qk(&p) ? before[n * width_qkv(&p) + j] : 0));
        }
        for (size_t j = 0; j < 79 * width_qk(&p); j++) assert_true(isfinite(r.dqk[j]));
        results_free(&r);
        packed_free(&t, &p);
        cuda_test_close(&t);
    }
}

/* A recorded step meets other lengths: shapes of launches come from the capacity alone. */
static void test_recorded(void **state) {
    (void)state;
    static const int lengths[] = {100, 30}, others[] = {3, 64, 0, 63};
    CudaTest t = open_for(DTYPE_BF16, 130, 2, 1, 64, 6);
    Packed p = packed_random(&t, lengths, 2, 4, 0, 2, 1, 64);
    int32_t cu[7] = {0};
    for (int s = 0; s < 6; s++) cu[s + 1] = cu[s] + (s < 4 ? others[s] : 0);
    if (device_record(t.dev[FAST])) fail_msg("the device does not record");
    packed_forward(&t, &p);
    packed_backward(&t, &p);
    DeviceGraph *graph = device_record_end(t.dev[FAST]);
    assert_non_null(graph);
    device_upload(t.dev[FAST], p.d_cu, cu, sizeof cu);
    device_graph_launch(t.dev[FAST], graph);
    Results got = results_of(&t, &p);
    packed_forward(&t, &p);
    packed_backward(&t, &p);
    Results want = results_of(&t, &p);
    check_rows(&p, &got, &want, 0, p.N, 1, "recorded");
    results_free(&got);
    results_free(&want);
    device_graph_free(t.dev[FAST], graph);
    packed_free(&t, &p);
    cuda_test_close(&t);
}

/* ---- pages ------------------------------------------------------------------------------------------------------ */

enum { PAGED_SEQS = 7, BLOCKS = 4, PAGES = PAGED_SEQS * BLOCKS };

/* Sequences in groups whose first pages are the same, their keys and values in pages that held NaN before. */
typedef struct {
    Packed p;
    Tensor pool, qk, out;
    int32_t table[PAGED_SEQS * BLOCKS], shared[PAGED_SEQS];
    int64_t *d_slot;
    int32_t *d_table, *d_q_offset, *d_kv_len, *d_groups, *d_shared, *d_alone, *d_none;
} Paged;

static const int32_t group_offset[] = {0, 3, 4, PAGED_SEQS}, group_shared[] = {2, 0, 1};
static const int paged_lengths[PAGED_SEQS] = {130, 140, 191, 3, 65, 66, 200};

static void paged_append(CudaTest *t, Paged *g, int s, int first, int end) {
    Packed *p = &g->p;
    size_t n = (size_t)(p->cu[s] + first), size = dtype_size(t->dtype);
    t->ops[FAST]->kv_append(t->dev[FAST], g->pool.fast, t->dtype, (char *)p->qk.fast + n * width_qk(p) * size,
                            (char *)p->qkv.fast + n * width_qkv(p) * size, g->d_slot + n, end - first, p->H, p->G,
                            p->D);
}

static Paged paged_random(CudaTest *t, int H, int G, int D) {
    Paged g = {.p = packed_random(t, paged_lengths, PAGED_SEQS, 0, 0, H, G, D)};
    Packed *p = &g.p;
    size_t a = width_qk(p), b = width_qkv(p);
    int64_t slot[1024];
    int32_t alone[PAGED_SEQS + 1], none[PAGED_SEQS] = {0};
    for (int s = 0, k = 0; s < PAGED_SEQS; s++) {
        k += s == group_offset[k + 1];
        int first = group_offset[k];
        size_t rows = (size_t)group_shared[k] * 64;
        for (int i = 0; i < BLOCKS; i++)
            g.table[s * BLOCKS + i] = ((i < group_shared[k] ? first : s) * BLOCKS + i) * 5 % PAGES;
        for (int i = 0; i < paged_lengths[s]; i++)
            slot[p->cu[s] + i] = (int64_t)g.table[s * BLOCKS + i / 64] * 64 + i % 64;
        memmove(p->qk.naive + (size_t)p->cu[s] * a, p->qk.naive + (size_t)p->cu[first] * a, sizeof(float) * rows * a);
        memmove(p->qkv.naive + (size_t)p->cu[s] * b, p->qkv.naive + (size_t)p->cu[first] * b, sizeof(float) * rows * b);
        alone[s] = s;
    }
    alone[PAGED_SEQS] = PAGED_SEQS;
    tensor_push(t, &p->qk);
    tensor_push(t, &p->qkv);
    g.pool = tensor_poison(t, t->dtype, (size_t)(PAGES * 2 * G * 64 * D));
    g.qk = tensor_poison(t, t->dtype, p->qk.count), g.out = tensor_poison(t, t->dtype, p->out.count);
    g.d_slot = cuda_upload(t, slot, sizeof *slot * (size_t)p->N), g.d_table = cuda_upload(t, g.table, sizeof g.table);
    g.d_q_offset = cuda_upload(t, alone, sizeof alone), g.d_kv_len = cuda_upload(t, alone, sizeof alone);
    g.d_groups = cuda_upload(t, group_offset, sizeof group_offset);
    g.d_shared = cuda_upload(t, group_shared, sizeof group_shared);
    g.d_alone = cuda_upload(t, alone, sizeof alone), g.d_none = cuda_upload(t, none, sizeof none);
    packed_forward(t, p);
    for (int s = 0; s < PAGED_SEQS; s++) paged_append(t, &g, s, 0, paged_lengths[s]);
    return g;
}

static void paged_free(CudaTest *t, Paged *g) {
    void *all[] = {g->d_slot, g->d_table, g->d_q_offset, g->d_kv_len, g->d_groups, g->d_shared, g->d_alone, g->d_none};
    for (int i = 0; i < 8; i++) device_free(t->dev[FAST], all[i]);
    tensor_free(t, &g->pool);
    tensor_free(t, &g->qk);
    tensor_free(t, &g->out);
    packed_free(t, &g->p);
}

/* Rows [first[s], end[s]) of each sequence as new queries, the keys before them as cached ones: the bits of the packed
 * form, `want`. */
static void paged_check(CudaTest *t, Paged *g, const int *first, const int *end, int grouped, const float *want) {
    Packed *p = &g->p;
    size_t a = width_qk(p), c = width_out(p);
    int32_t q_offset[PAGED_SEQS + 1] = {0}, kv_len[PAGED_SEQS];
    for (size_t i = 0; i < g->qk.count; i++) g->qk.naive[i] = NAN;
    for (int s = 0; s < PAGED_SEQS; s++) {
        size_t rows = (size_t)(end[s] - first[s]);
        kv_len[s] = end[s];
        q_offset[s + 1] = q_offset[s] + (int32_t)rows;
        memcpy(g->qk.naive + (size_t)q_offset[s] * a, p->qk.naive + (size_t)(p->cu[s] + first[s]) * a,
               sizeof(float) * rows * a);
    }
    tensor_push(t, &g->qk);
    device_upload(t->dev[FAST], g->d_q_offset, q_offset, sizeof q_offset);
    device_upload(t->dev[FAST], g->d_kv_len, kv_len, sizeof kv_len);
    PagedBatch batch = {g->pool.fast, g->d_q_offset, g->d_kv_len, g->d_table, PAGED_SEQS,
                        BLOCKS,       g->d_alone,    g->d_none,   PAGED_SEQS, t->dtype};
    if (grouped) batch.group_offset = g->d_groups, batch.group_shared = g->d_shared, batch.n_group = 3;
    t->ops[FAST]->attention_paged(t->dev[FAST], g->out.fast, g->qk.fast, &batch, q_offset[PAGED_SEQS], p->H, p->G,
                                  p->D);
    float *got = tensor_download(t, &g->out);
    for (int s = 0; s < PAGED_SEQS; s++)
        assert_same_bits(got + (size_t)q_offset[s] * c, want + (size_t)(p->cu[s] + first[s]) * c,
                         (size_t)(end[s] - first[s]) * c,
                         label(grouped ? "grouped" : "each alone", s, first[s], end[s]));
    free(got);
}

/* The last rows of every sequence, one to three; chunks of a prefill; whole sequences; some sequences without a query.
 */
static void paged_is_packed(DType dtype, int H, int G, int D) {
    CudaTest t = open_for(dtype, 795, H, G, D, PAGED_SEQS);
    Paged g = paged_random(&t, H, G, D);
    float *want = tensor_download(&t, &g.p.out);
    int first[PAGED_SEQS], end[PAGED_SEQS];
    for (int grouped = 0; grouped < 2; grouped++) {
        for (int rows = 1; rows <= (test_long() ? 3 : 1); rows++) {
            for (int s = 0; s < PAGED_SEQS; s++) end[s] = paged_lengths[s], first[s] = end[s] - rows;
            paged_check(&t, &g, first, end, grouped, want);
        }
        for (int s = 0; s < PAGED_SEQS; s++) { /* past the shared pages, in the middle of a page, or nothing */
            first[s] = s < 3 ? 128 : s == 3 ? 0 : 64;
            end[s] = s == 5 ? first[s] : first[s] + (paged_lengths[s] - first[s] + 1) / 2;
        }
        paged_check(&t, &g, first, end, grouped, want);
        /* Of more than 16 heads all is seen by now. */
        if (test_long() ? H > 16 && !test_large() : !(hopper && D == 64)) continue;
        for (int s = 0; s < PAGED_SEQS; s++) first[s] = end[s], end[s] = paged_lengths[s]; /* the rest of them */
        paged_check(&t, &g, first, end, grouped, want);
        for (int s = 0; s < PAGED_SEQS; s++) first[s] = 0, end[s] = paged_lengths[s]; /* queries inside shared pages */
        paged_check(&t, &g, first, end, grouped, want);
        for (int i = 60; i < 66; i++) { /* token by token over the end of a page; 3 keys are one sequence's all */
            for (int s = 0; s < PAGED_SEQS; s++) end[s] = s == 3 ? 1 + i % 3 : i, first[s] = end[s] - (s != 4);
            paged_check(&t, &g, first, end, 0, want);
        }
    }
    free(want);
    paged_free(&t, &g);
    cuda_test_close(&t);
}

static void test_paged_is_packed(void **state) {
    (void)state;
    FOR_DTYPES(i) {
        paged_is_packed(dtypes[i], 3, 1, 128);
        paged_is_packed(dtypes[i], 4, 2, 64);
        if (!test_long()) continue;
        paged_is_packed(dtypes[i], 4, 2, 128);
        paged_is_packed(dtypes[i], 1, 1, 64);
        paged_is_packed(dtypes[i], test_large() ? 24 : 17, 1, 64); /* more heads than a tile of 16 rows */
    }
}

/* A fork: the first keys of a page come from another one, the rest stay what they were. */
static void test_fork(void **state) {
    (void)state;
    FOR_DTYPES(i)
    for (int D = 64; D <= 128; D += 64) {
        CudaTest t = open_for(dtypes[i], 795, 2, 2, D, PAGED_SEQS);
        Paged g = paged_random(&t, 2, 2, D);
        float *want = tensor_download(&t, &g.p.out);
        int first[PAGED_SEQS], end[PAGED_SEQS], spare = PAGES - 1, n_keys[] = {1, 40, 63};
        for (int page = 0; page < PAGES; page++) { /* one that no sequence uses */
            int used = 0;
            for (int k = 0; k < PAGED_SEQS * BLOCKS; k++)
                used |= g.table[k] == page && k % BLOCKS * 64 < paged_lengths[k / BLOCKS];
            if (!used) spare = page;
        }
        const int old = g.table[6 * BLOCKS + 1]; /* keys 64 to 127 of the last sequence */
        g.table[6 * BLOCKS + 1] = spare;
        device_upload(t.dev[FAST], g.d_table, g.table, sizeof g.table);
        for (int s = 0; s < PAGED_SEQS; s++) first[s] = 0, end[s] = s == 6 ? 128 : 0;
        for (int k = 0; k < 3; k++) {
            int64_t slot[1024];
            for (int n = 0; n < 1024; n++) slot[n] = -1; /* rows that are not stored */
            for (int n = n_keys[k]; n < 64; n++) {
                slot[g.p.cu[6] + 64 + n] = (int64_t)spare * 64 + n;
                slot[g.p.cu[2] + 64 + n] = (int64_t)old * 64 + n; /* what a copy of too much would bring */
            }
            device_upload(t.dev[FAST], g.d_slot, slot, sizeof *slot * (size_t)g.p.N);
            paged_append(&t, &g, 6, 0, 200);
            paged_append(&t, &g, 2, 0, 191);
            t.ops[FAST]->kv_copy_page(t.dev[FAST], g.pool.fast, t.dtype, spare, old, n_keys[k], 2, D);
            paged_check(&t, &g, first, end, 0, want);
            fill_rows(&t, &g.pool, (size_t)(2 * 2 * 64 * D), 0, 0, 0); /* all pages NaN again, then back */
            for (int s = 0; s < PAGED_SEQS; s++)
                for (int n = 0; n < paged_lengths[s]; n++)
                    slot[g.p.cu[s] + n] =
                        (int64_t)(s == 6 && n / 64 == 1 ? old : g.table[s * BLOCKS + n / 64]) * 64 + n % 64;
            device_upload(t.dev[FAST], g.d_slot, slot, sizeof *slot * (size_t)g.p.N);
            for (int s = 0; s < PAGED_SEQS; s++) paged_append(&t, &g, s, 0, paged_lengths[s]);
        }
        free(want);
        paged_free(&t, &g);
        cuda_test_close(&t);
    }
}

/* ---- order of execution, bad input ------------------------------------------------------------------------------ */

/* The same bits under every order of threads, blocks and async copies. */
static void schedules_check(DType dtype, int H, int D) {
    const int lengths[] = {hopper ? 330 : 130, 0, 40}; /* Hopper: more blocks than are under way */
    Results first = {NULL, NULL, NULL, NULL};
    float *paged = NULL;
    FOR_SCHEDULES(schedule) {
        CudaTest t = open_for(dtype, 795, H, 1, D, PAGED_SEQS);
        Packed p = packed_random(&t, lengths, 3, 2, 0, H, 1, D);
        packed_forward(&t, &p);
        packed_backward(&t, &p);
        Results r = results_of(&t, &p);
        if (schedule) {
            check_rows(&p, &r, &first, 0, p.N, 1, label("schedule", schedule, D, 0));
            results_free(&r);
        } else {
            first = r;
        }
        Paged g = paged_random(&t, H, 1, D);
        float *want = tensor_download(&t, &g.p.out);
        int from[PAGED_SEQS], end[PAGED_SEQS];
        for (int s = 0; s < PAGED_SEQS; s++) end[s] = paged_lengths[s], from[s] = end[s] - 1;
        paged_check(&t, &g, from, end, 1, want);
        if (paged) assert_same_bits(want, paged, g.p.out.count, label("schedule, pages", schedule, D, 0));
        free(paged);
        paged = want;
        paged_free(&t, &g);
        packed_free(&t, &p);
        cuda_test_close(&t);
    }
    results_free(&first);
    free(paged);
}

static void test_schedules(void **state) {
    (void)state;
    schedules_check(DTYPE_BF16, 1, 128);
    schedules_check(DTYPE_BF16, 1, 64);
    schedules_check(DTYPE_F32, 1, 64);
    if (!test_long()) return;
    schedules_check(DTYPE_BF16, 3, 64);
    schedules_check(DTYPE_F32, 1, 128);
}

static void test_head_sizes(void **state) {
    (void)state;
    FOR_DTYPES(i) {
        CudaTest t = open_for(dtypes[i], 64, 2, 1, 64, 1);
        t.ops[FAST]->attention_forward(t.dev[FAST], NULL, NULL, NULL, NULL, NULL, 1, 64, 2, 1, 96);
        assert_int_not_equal(device_sync(t.dev[FAST]), 0);
        assert_non_null(
            strstr(device_error(t.dev[FAST]), "attention_forward: the CUDA backend takes head sizes 64 and 128"));
        device_close(t.dev[FAST]);
        device_close(t.dev[DOUBLE]);
    }
}

/* ---- the same on Hopper, which has its own kernels ----------------------------------------------------------- */

static int hopper_begin(void **state) {
    (void)state;
    hopper = test_emulated();
    if (hopper) emu_config()->compute_capability = 90;
    return 0;
}
static int hopper_end(void **state) {
    (void)state;
    if (hopper) emu_config()->compute_capability = 80;
    hopper = 0;
    return 0;
}

/* A real GPU has taken its own path in the tests of these names without hopper. */
#define HOPPER_TEST(name)                                                                                              \
    static void test_hopper_##name(void **state) {                                                                     \
        if (!hopper) skip();                                                                                           \
        test_##name(state);                                                                                            \
    }
HOPPER_TEST(packed)
HOPPER_TEST(future_changes_no_past)
HOPPER_TEST(recorded)
HOPPER_TEST(paged_is_packed)
HOPPER_TEST(fork)
HOPPER_TEST(neighbours_do_not_meet)
HOPPER_TEST(rows_of_no_sequence)

extern void emu_take_work(uint64_t *products, uint64_t *copied) __attribute__((weak));

static void work_check(uint64_t products, uint64_t copied, const char *what) {
    uint64_t did[2] = {0, 0};
    emu_take_work(&did[0], &did[1]);
    if (did[0] != products || did[1] != copied)
        fail_msg("%s: %llu multiply-adds and %llu bytes brought, of which %llu and %llu are needed", what,
                 (unsigned long long)did[0], (unsigned long long)did[1], (unsigned long long)products,
                 (unsigned long long)copied);
}

/* No product and no copy too many: 64 rows meet the blocks of keys up to their own, 128 rows fetch a block once, and so
 * does a group of sequences its shared pages, in one product. */
static void work_of(int H, int G, int D) {
    static const int lengths[] = {300, 0, 70, 64};
    const uint64_t tile = 64 * (uint64_t)D * 2, block = 2 * 64 * 64 * (uint64_t)D;
    CudaTest t = open_for(DTYPE_BF16, 795, H, G, D, PAGED_SEQS);
    Packed p = packed_random(&t, lengths, 4, 1, 0, H, G, D);
    uint64_t blocks = 0, tiles = 0;
    for (int s = 0; s < 4; s++)
        for (int row = 0; row < lengths[s]; row += 64) {
            blocks += (uint64_t)row / 64 + 1;
            tiles += 1 + (row % 128 == 0 ? 2 * (uint64_t)(row / 64 + (lengths[s] > row + 64 ? 2 : 1)) : 0);
        }
    emu_take_work(&(uint64_t){0}, &(uint64_t){0});
    packed_forward(&t, &p);
    cuda_test_sync(&t);
    work_check((uint64_t)H * blocks * block, (uint64_t)H * tiles * tile, label("attention_forward", H, G, D));
    packed_free(&t, &p);

    Paged g = paged_random(&t, H, G, D);
    float *want = tensor_download(&t, &g.p.out);
    for (int grouped = 0; grouped < 2; grouped++) {
        int first[PAGED_SEQS], end[PAGED_SEQS];
        uint64_t pages = 0;
        for (int s = 0; s < PAGED_SEQS; s++) end[s] = paged_lengths[s], first[s] = end[s] - 1;
        for (int k = 0; k < 3; k++) {
            const int shared = grouped ? group_shared[k] : 0;
            for (int s = group_offset[k]; s < group_offset[k + 1]; s++)
                pages += (uint64_t)((paged_lengths[s] + 63) / 64 - shared);
            pages += (uint64_t)shared;
        }
        emu_take_work(&(uint64_t){0}, &(uint64_t){0});
        paged_check(&t, &g, first, end, grouped, want);
        work_check((uint64_t)G * pages * block, (uint64_t)G * pages * 2 * tile,
                   label(grouped ? "attention_paged, grouped" : "attention_paged", H, G, D));
    }
    free(want);
    paged_free(&t, &g);
    cuda_test_close(&t);
}

static void test_hopper_work(void **state) {
    (void)state;
    if (!hopper) skip();
    work_of(4, 2, 64);
    work_of(2, 1, 128);
}

static void test_hopper_schedules(void **state) {
    (void)state;
    if (!hopper) skip();
    schedules_check(DTYPE_BF16, 1, 128);
    schedules_check(DTYPE_BF16, 2, 64);
}

#define hopper_test(test) cmocka_unit_test_setup_teardown(test, hopper_begin, hopper_end)

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_packed),
        cmocka_unit_test(test_future_changes_no_past),
        cmocka_unit_test(test_neighbours_do_not_meet),
        cmocka_unit_test(test_rows_of_no_sequence),
        cmocka_unit_test(test_recorded),
        cmocka_unit_test(test_paged_is_packed),
        cmocka_unit_test(test_fork),
        cmocka_unit_test(test_schedules),
        cmocka_unit_test(test_head_sizes),
        hopper_test(test_hopper_packed),
        hopper_test(test_hopper_future_changes_no_past),
        hopper_test(test_hopper_recorded),
        hopper_test(test_hopper_paged_is_packed),
        hopper_test(test_hopper_fork),
        hopper_test(test_hopper_neighbours_do_not_meet),
        hopper_test(test_hopper_rows_of_no_sequence),
        hopper_test(test_hopper_work),
        hopper_test(test_hopper_schedules),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
