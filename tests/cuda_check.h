/* cuda_check.h - the same tensor on the GPU in some dtype, for the naive formula in float, and in double; and the
 * tolerance rule.  For plain C tests of the CUDA backend: device memory is only ever uploaded and downloaded, so the same
 * test runs against the emulator and against a real GPU.
 *
 *     CudaTest t = cuda_test_open(DTYPE_BF16);
 *     Tensor   x = tensor_random(&t, t.dtype, n, 1), out = tensor_poison(&t, t.dtype, n), loss = tensor_zero(&t, DTYPE_F32, n);
 *     FOR_SIDES(s) t.ops[s]->an_op(t.dev[s], side(&out, s), side(&x, s), ...);
 *     tensor_check(&t, &out, "an_op");
 *
 * Input: all three sides start from the same values, rounded to the tensor's dtype.  Integers go to the GPU with
 * cuda_upload(); the two CPU sides read the host array.
 * Naive side: float arithmetic (tests/naive_kernels.h) whose results are rounded to the dtype when they are checked, or
 * by tensor_store() where a later operation reads them.
 * Tolerance: error against double at most twice the naive error, plus TENSOR_ULPS units in the last place (of the dtype)
 * of the largest value.  tensor_check_stored() is stricter and for operations that compute in float and round once, when
 * they store: a value may be off by twice the naive error before rounding, plus one unit in *its own* last place. */
#ifndef EHR_TESTS_CUDA_CHECK_H
#define EHR_TESTS_CUDA_CHECK_H
#include "tests/op_check.h"
#include "tests/naive_kernels.h"
#include "tests/emulator/emulator.h"

enum { TENSOR_ULPS = 2 };

typedef struct {
    DType            dtype;      /* of the table under test */
    Device          *dev[SIDES]; /* the GPU, then the CPU twice */
    const KernelOps *ops[SIDES];
} CudaTest;

typedef struct {
    DType   dtype; /* on the GPU: DTYPE_F32 or DTYPE_BF16 */
    size_t  count;
    void   *fast;
    float  *naive;
    double *ref;
} Tensor;

/* In the emulator, the orders of threads, blocks and copies to run everything under (tests/emulator/emulator.h); a GPU has
 * its own.  FOR_SCHEDULES(i) { ... } runs its body once for each. */
#pragma weak emu_set_schedule
#pragma weak emu_config
#pragma weak emu_take_faults
static inline int test_emulated(void) { return emu_set_schedule != NULL; }
static inline int schedule_begin(int i) {
    if (i > (test_emulated() ? SCHEDULE_PRIORITY : 0)) return 0;
    if (test_emulated()) emu_set_schedule((EmuSchedule)i, 20260101u + (uint64_t)i);
    random_counter = 0; /* the same numbers each time */
    return 1;
}
#define FOR_SCHEDULES(i) for (int i = 0; schedule_begin(i); i++)

#define FOR_SIDES(s) for (Side s = FAST; s < SIDES; s++)

/* ---- bf16 on the host ---------------------------------------------------------------------------------------------- */

static inline float bf16_to_float(uint16_t bits) {
    uint32_t u = (uint32_t)bits << 16;
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

static inline uint16_t bf16_from_float(float x) { /* to nearest, ties to even */
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    if (isnan(x)) return (uint16_t)(u >> 16 | 64);
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

static inline float rounded_to(DType t, float x) { return t == DTYPE_BF16 ? bf16_to_float(bf16_from_float(x)) : x; }
/* Distance between neighbours at 1. */
static inline double dtype_epsilon(DType t) { return t == DTYPE_BF16 ? 0.0078125 : FLT_EPSILON; }

/* ---- devices ------------------------------------------------------------------------------------------------------- */

/* The longer list of shapes: EHR_TEST_LONG=1. */
static inline int test_long(void) {
    const char *text = getenv("EHR_TEST_LONG");
    return text && *text && strcmp(text, "0");
}
/* The longest: sizes that take no path the others leave out, where size costs nothing. */
static inline int test_large(void) { return test_long() && !test_emulated(); }

/* Skips the test, with the reason, where there is no GPU. */
static inline CudaTest cuda_test_open(DType dtype) {
    CudaTest t = {dtype, {NULL}, {NULL}};
    char     msg[256];
    t.dev[FAST] = device_open(DEVICE_CUDA, 0, 0, msg, sizeof msg);
    if (!t.dev[FAST]) {
        print_message("skip - %s\n", msg);
        skip();
    }
    t.dev[DOUBLE] = t.dev[NAIVE] = device_open(DEVICE_CPU, 0, 1, msg, sizeof msg);
    if (!t.dev[DOUBLE]) fail_msg("%s", msg);
    t.ops[FAST] = kernels_get(t.dev[FAST], dtype);
    t.ops[NAIVE] = &naive_kernels;
    t.ops[DOUBLE] = kernels_get(t.dev[DOUBLE], DTYPE_F64);
    assert_true(t.ops[FAST] && t.ops[DOUBLE]);
    return t;
}

/* Workspace for every side; call again for larger shapes. */
static inline void cuda_test_reserve(CudaTest *t, const KernelLimits *limits) {
    assert_int_equal(device_reserve(t->dev[FAST], t->ops[FAST]->workspace_bytes(t->dev[FAST], limits)), 0);
    assert_int_equal(device_reserve(t->dev[DOUBLE], t->ops[DOUBLE]->workspace_bytes(t->dev[DOUBLE], limits)), 0);
}

static inline void cuda_test_sync(CudaTest *t) {
    FOR_SIDES(s) if (device_sync(t->dev[s])) fail_msg("%s", device_error(t->dev[s]));
}

static inline void cuda_test_close(CudaTest *t) {
    cuda_test_sync(t);
    device_close(t->dev[FAST]);
    device_close(t->dev[DOUBLE]);
}

/* A copy of host memory on the GPU. */
static inline void *cuda_upload(CudaTest *t, const void *host, size_t bytes) {
    void *p = device_alloc(t->dev[FAST], bytes);
    assert_non_null(p);
    device_upload(t->dev[FAST], p, host, bytes);
    return p;
}

/* A copy of GPU memory, from malloc. */
static inline void *cuda_download(CudaTest *t, const void *src, size_t bytes) {
    void *p = malloc(bytes ? bytes : 1);
    assert_non_null(p);
    device_download(t->dev[FAST], p, src, bytes);
    cuda_test_sync(t);
    return p;
}

/* ---- tensors ------------------------------------------------------------------------------------------------------- */

static inline void *side(const Tensor *x, Side s) {
    return s == FAST ? x->fast : s == NAIVE ? (void *)x->naive : (void *)x->ref;
}

static inline Weight tensor_weight(const Tensor *x, Side s, int rows, int cols) {
    return (Weight){side(x, s), s == FAST ? x->dtype : s == NAIVE ? DTYPE_F32 : DTYPE_F64, NULL, rows, cols, WEIGHT_ROWS};
}

/* Uploads what the naive side holds, which must be representable. */
static inline void tensor_push(CudaTest *t, Tensor *x) {
    if (x->dtype == DTYPE_F32) {
        device_upload(t->dev[FAST], x->fast, x->naive, x->count * sizeof *x->naive);
        return;
    }
    uint16_t *bits = malloc(x->count * sizeof *bits + 1);
    assert_non_null(bits);
    for (size_t i = 0; i < x->count; i++) bits[i] = bf16_from_float(x->naive[i]);
    device_upload(t->dev[FAST], x->fast, bits, x->count * sizeof *bits);
    free(bits);
}

static inline Tensor tensor_zero(CudaTest *t, DType dtype, size_t count) {
    Tensor x = {dtype, count, device_alloc(t->dev[FAST], count * dtype_size(dtype)),
                device_alloc(t->dev[NAIVE], count * sizeof(float)), device_alloc(t->dev[DOUBLE], count * sizeof(double))};
    assert_true(x.fast && x.naive && x.ref);
    return x;
}

/* values: (count) on the host. */
static inline Tensor tensor_from(CudaTest *t, DType dtype, size_t count, const float *values) {
    Tensor x = tensor_zero(t, dtype, count);
    for (size_t i = 0; i < count; i++) x.ref[i] = x.naive[i] = rounded_to(dtype, values[i]);
    tensor_push(t, &x);
    return x;
}

/* Roughly normal with deviation `scale`. */
static inline Tensor tensor_random(CudaTest *t, DType dtype, size_t count, double scale) {
    Tensor x = tensor_zero(t, dtype, count);
    for (size_t i = 0; i < count; i++) x.ref[i] = x.naive[i] = rounded_to(dtype, (float)(scale * random_value()));
    tensor_push(t, &x);
    return x;
}

/* NaN everywhere: for results that an operation writes as a whole. */
static inline Tensor tensor_poison(CudaTest *t, DType dtype, size_t count) {
    Tensor x = tensor_zero(t, dtype, count);
    for (size_t i = 0; i < count; i++) x.ref[i] = x.naive[i] = NAN;
    tensor_push(t, &x);
    return x;
}

static inline void tensor_free(CudaTest *t, Tensor *x) {
    device_free(t->dev[FAST], x->fast);
    device_free(t->dev[NAIVE], x->naive);
    device_free(t->dev[DOUBLE], x->ref);
}

/* The GPU's values as float, from malloc. */
static inline float *tensor_download(CudaTest *t, const Tensor *x) {
    void *raw = cuda_download(t, x->fast, x->count * dtype_size(x->dtype));
    if (x->dtype == DTYPE_F32) return raw;
    float *values = malloc(x->count * sizeof *values + 1);
    assert_non_null(values);
    for (size_t i = 0; i < x->count; i++) values[i] = bf16_to_float(((uint16_t *)raw)[i]);
    free(raw);
    return values;
}

/* Rounds the naive side's values to the dtype, as memory of that dtype would have. */
static inline void tensor_store(Tensor *x) {
    for (size_t i = 0; i < x->count; i++) x->naive[i] = rounded_to(x->dtype, x->naive[i]);
}

static inline double tensor_largest(const Tensor *x) {
    double scale = 0;
    for (size_t i = 0; i < x->count; i++) scale = fmax(scale, fabs(x->ref[i]));
    return scale;
}

/* terms: size of the summands where they may cancel and leave the result much smaller than its own rounding; or 0 */
static inline void tensor_check_terms(CudaTest *t, const Tensor *x, const char *what, double terms) {
    float *fast = tensor_download(t, x);
    double error = 0, naive = 0, scale = fmax(terms, tensor_largest(x));
    size_t at = 0;
    for (size_t i = 0; i < x->count; i++) {
        double e = fabs((double)fast[i] - x->ref[i]);
        if (!(e <= error)) error = e, at = i; /* a NaN counts as an error */
        naive = fmax(naive, fabs((double)rounded_to(x->dtype, x->naive[i]) - x->ref[i]));
    }
    if (!(error <= 2 * naive + TENSOR_ULPS * dtype_epsilon(x->dtype) * scale))
        fail_msg("%s (%s): error %.3g at [%zu] (%.9g, in double %.9g); naive error %.3g, largest value %.3g", what,
                 dtype_name(t->dtype), error, at, fast[at], x->ref[at], naive, scale);
    free(fast);
}

static inline void tensor_check(CudaTest *t, const Tensor *x, const char *what) { tensor_check_terms(t, x, what, 0); }

static inline void tensor_check_stored(CudaTest *t, const Tensor *x, const char *what) {
    float *fast = tensor_download(t, x);
    double naive = 4 * FLT_EPSILON * tensor_largest(x);
    for (size_t i = 0; i < x->count; i++) naive = fmax(naive, fabs((double)x->naive[i] - x->ref[i]));
    for (size_t i = 0; i < x->count; i++) {
        double e = fabs((double)fast[i] - x->ref[i]);
        if (!(e <= 2 * naive + dtype_epsilon(x->dtype) * fabs(x->ref[i])))
            fail_msg("%s (%s): [%zu] is %.9g, in double %.9g; naive error before rounding %.3g", what,
                     dtype_name(t->dtype), i, fast[i], x->ref[i], naive);
    }
    free(fast);
}

/* Two tensors of the GPU, bit for bit. */
static inline void tensor_check_same(CudaTest *t, const Tensor *a, const Tensor *b, const char *what) {
    assert_true(a->count == b->count && a->dtype == b->dtype);
    float *x = tensor_download(t, a), *y = tensor_download(t, b);
    assert_same_bits(x, y, a->count, what);
    free(x);
    free(y);
}

/* A label for failures, valid until the next call. */
static inline const char *label(const char *what, int a, int b, int c) {
    static char text[128];
    snprintf(text, sizeof text, "%s (%d, %d, %d)", what, a, b, c);
    return text;
}

#endif
