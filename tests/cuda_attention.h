/* cuda_attention.h - packed sequences for the tests of attention on the GPU, their results as they are on it, and the same
 * tests on an emulated GPU of sm_90, which has its own kernels. */
#ifndef EHR_TESTS_CUDA_ATTENTION_H
#define EHR_TESTS_CUDA_ATTENTION_H
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

static inline size_t width_qk(const Packed *p) { return (size_t)(p->H + p->G) * (size_t)p->D; }
static inline size_t width_qkv(const Packed *p) { return (size_t)(p->H + 2 * p->G) * (size_t)p->D; }
static inline size_t width_out(const Packed *p) { return (size_t)p->H * (size_t)p->D; }

static inline CudaTest open_for(DType dtype, int N, int H, int G, int D, int n_seq) {
    CudaTest t = cuda_test_open(dtype);
    KernelLimits limits = {.N = N, .C = H * D, .F = 64, .Vp = 64, .H = H, .G = G, .D = D, .n_seq = n_seq};
    cuda_test_reserve(&t, &limits);
    return t;
}

/* spare: sequences of the capacity that are not there; loose: rows after the last sequence */
static inline Packed packed_random(CudaTest *t, const int *lengths, int n_seq, int spare, int loose, int H, int G, int D) {
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

static inline void packed_free(CudaTest *t, Packed *p) {
    Tensor *all[] = {&p->qk, &p->qkv, &p->out, &p->lse, &p->dout, &p->dqk, &p->dqkv};
    for (int i = 0; i < 7; i++) tensor_free(t, all[i]);
    device_free(t->dev[FAST], p->d_cu);
}

static inline void packed_forward(CudaTest *t, Packed *p) {
    t->ops[FAST]->attention_forward(t->dev[FAST], p->out.fast, p->lse.fast, p->qk.fast, p->qkv.fast, p->d_cu,
                                    p->capacity, p->N, p->H, p->G, p->D);
}

static inline void packed_backward(CudaTest *t, Packed *p) {
    t->ops[FAST]->attention_backward(t->dev[FAST], p->dqk.fast, p->dqkv.fast, p->dout.fast, p->qk.fast, p->qkv.fast,
                                     p->out.fast, p->lse.fast, p->d_cu, p->capacity, p->N, p->H, p->G, p->D);
}

/* ---- results ----------------------------------------------------------------------------------------------------- */

/* A snapshot of a result on the GPU. */
typedef struct {
    float *out, *lse, *dqk, *dqkv;
} Results;

static inline Results results_of(CudaTest *t, const Packed *p) {
    return (Results){tensor_download(t, &p->out), tensor_download(t, &p->lse), tensor_download(t, &p->dqk),
                     tensor_download(t, &p->dqkv)};
}

static inline void results_free(Results *r) {
    free(r->out);
    free(r->lse);
    free(r->dqk);
    free(r->dqkv);
}

/* Rows [first, end) of both.  backward: the gradients too. */
static inline void check_rows(const Packed *p, const Results *got, const Results *want, int first, int end,
                              int backward, const char *what) {
    size_t a = (size_t)first, n = (size_t)(end - first), w[] = {width_out(p), width_qk(p), width_qkv(p)};
    assert_same_bits(got->out + a * w[0], want->out + a * w[0], n * w[0], what);
    for (int h = 0; h < p->H; h++)
        assert_same_bits(got->lse + (size_t)(h * p->N) + a, want->lse + (size_t)(h * p->N) + a, n, what);
    if (!backward) return;
    assert_same_bits(got->dqk + a * w[1], want->dqk + a * w[1], n * w[1], what);
    assert_same_bits(got->dqkv + a * w[2], want->dqkv + a * w[2], n * w[2], what);
}

static inline void fill_rows(CudaTest *t, Tensor *x, size_t width, int first, int end, float value) {
    for (size_t i = (size_t)first * width; i < (size_t)end * width; i++) x->naive[i] = value;
    tensor_push(t, x);
}

/* ---- the same on Hopper ---------------------------------------------------------------------------------------- */

static inline int hopper_begin(void **state) {
    (void)state;
    hopper = test_emulated();
    if (hopper) emu_config()->compute_capability = 90;
    return 0;
}
static inline int hopper_end(void **state) {
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
#define hopper_test(test) cmocka_unit_test_setup_teardown(test, hopper_begin, hopper_end)

#endif
