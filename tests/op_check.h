/* op_check.h - the same tensor for a fast kernel, for the naive formula in float, and in double; and the tolerance rule:
 * the fast error against double is at most twice the naive one, plus a few units in the last place. */
#ifndef EHR_TESTS_OP_CHECK_H
#define EHR_TESTS_OP_CHECK_H
#include "kernels/kernels.h"

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/philox.h"

typedef enum { FAST, NAIVE, DOUBLE, SIDES } Side;
typedef struct {
    size_t count;
    float *fast, *naive;
    double *ref;
} Trio;

static uint64_t random_counter;

static inline double random_uniform(void) { return philox_uniform(philox4x32(20260101, random_counter++, 0), 0); }
/* Roughly normal: a few values well above the rest, as activations have. */
static inline float random_value(void) {
    double sum = 0;
    for (int i = 0; i < 4; i++) sum += random_uniform() - 0.5;
    return (float)(1.7 * sum);
}

static inline Trio trio_zero(Device *dev, size_t count) {
    Trio t = {count, device_alloc(dev, count * sizeof(float)), device_alloc(dev, count * sizeof(float)),
              device_alloc(dev, count * sizeof(double))};
    assert_true(t.fast && t.naive && t.ref);
    return t;
}

static inline Trio trio_random(Device *dev, size_t count, double scale) {
    Trio t = trio_zero(dev, count);
    for (size_t i = 0; i < count; i++) t.ref[i] = t.naive[i] = t.fast[i] = (float)(scale * random_value());
    return t;
}

static inline void trio_free(Device *dev, Trio *t) {
    device_free(dev, t->fast);
    device_free(dev, t->naive);
    device_free(dev, t->ref);
}

static inline void *side_of(const Trio *t, Side side) {
    return side == FAST ? (void *)t->fast : side == NAIVE ? (void *)t->naive : (void *)t->ref;
}

static inline Weight weight_of(const Trio *t, Side side, int rows, int cols) {
    return (Weight){side_of(t, side), side == DOUBLE ? DTYPE_F64 : DTYPE_F32, NULL, rows, cols, WEIGHT_ROWS};
}

static inline double trio_largest(const Trio *t) {
    double scale = 0;
    for (size_t i = 0; i < t->count; i++) scale = fmax(scale, fabs(t->ref[i]));
    return scale;
}

/* terms: size of the summands where they may cancel and leave the result much smaller than its own rounding; or 0 */
static inline void trio_check_terms(const Trio *t, const char *what, double terms) {
    double fast = 0, naive = 0, scale = fmax(terms, trio_largest(t));
    size_t at = 0;
    for (size_t i = 0; i < t->count; i++) {
        double e = fabs((double)t->fast[i] - t->ref[i]);
        if (!(e <= fast)) fast = e, at = i; /* a NaN counts as an error */
        naive = fmax(naive, fabs((double)t->naive[i] - t->ref[i]));
    }
    if (!(fast <= 2 * naive + 4 * FLT_EPSILON * scale))
        fail_msg("%s: error %.3g at [%zu] (%.9g, in double %.9g); naive error %.3g, largest value %.3g", what, fast, at,
                 t->fast[at], t->ref[at], naive, scale);
}

static inline void trio_check(const Trio *t, const char *what) { trio_check_terms(t, what, 0); }

static inline void assert_same_bits(const float *a, const float *b, size_t count, const char *what) {
    for (size_t i = 0; i < count; i++)
        if (memcmp(a + i, b + i, sizeof *a)) fail_msg("%s: [%zu] is %.9g, expected %.9g", what, i, a[i], b[i]);
}

static inline Device *device_for_test(int threads) {
    char    msg[256];
    Device *dev = device_open(DEVICE_CPU, 0, threads, msg, sizeof msg);
    if (!dev) fail_msg("%s", msg);
    const KernelOps *fast = kernels_get(dev, DTYPE_F32), *ref = kernels_get(dev, DTYPE_F64);
    KernelLimits     limits = {.N = 1024, .C = 512, .F = 1024, .Vp = 2048, .H = 8, .G = 8, .D = 128, .n_seq = 64};
    size_t           a = fast->workspace_bytes(dev, &limits), b = ref->workspace_bytes(dev, &limits);
    assert_int_equal(device_reserve(dev, a > b ? a : b), 0);
    return dev;
}

#endif
