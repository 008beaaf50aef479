/* test_cuda_attention.c - attention over packed sequences on the GPU, in float32 and bf16: against the reference in double,
 * and bit for bit against itself in other company.  Over pages: test_cuda_paged.c. */
#include "tests/cuda_attention.h"

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

HOPPER_TEST(packed)
HOPPER_TEST(future_changes_no_past)
HOPPER_TEST(neighbours_do_not_meet)
HOPPER_TEST(rows_of_no_sequence)
HOPPER_TEST(recorded)

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_packed),
        cmocka_unit_test(test_future_changes_no_past),
        cmocka_unit_test(test_neighbours_do_not_meet),
        cmocka_unit_test(test_rows_of_no_sequence),
        cmocka_unit_test(test_recorded),
        cmocka_unit_test(test_head_sizes),
        hopper_test(test_hopper_packed),
        hopper_test(test_hopper_future_changes_no_past),
        hopper_test(test_hopper_neighbours_do_not_meet),
        hopper_test(test_hopper_rows_of_no_sequence),
        hopper_test(test_hopper_recorded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
