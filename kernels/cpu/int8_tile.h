/* int8_tile.h - the vector code behind CpuInt8, included by int8_vnni.c, int8_avx2.c and int8_portable.c, which bring the
 * tile. */
#include "kernels/cpu/int8.h"
#include "kernels/cpu/vec.h"

static float int8_quantize(uint8_t *q, const float *x, int n, int padded, int offset) {
    const float round_magic = 12582912.0f; /* 1.5 * 2^23: adding it leaves the nearest integer in the low bits */
    Vec         largest = v_zero(), bad = v_zero();
    for (int i = 0; i < n; i += VEC) {
        Vec v = load_up_to(x + i, n - i);
        largest = v_max(v_max(v, v_sub(v_zero(), v)), largest);
        bad = v_fma(v, v_zero(), bad); /* 0, or NaN when one is not finite */
    }
    float max = v_largest(largest), inverse = max > 0 ? 127.0f / max : 0.0f;
    for (int i = 0; i < padded; i += VEC) {
        Vec v = i < n ? load_up_to(x + i, n - i) : v_zero();
        v_low_bytes(q + i, v_add(v_mul(v, v_set1(inverse)), v_set1(round_magic + (float)offset)));
    }
    return max / 127.0f + v_sum(bad);
}

static void int8_scale(float *out, ptrdiff_t ld, const float *add, const int32_t *acc, const int32_t *offset_sum,
                       const float *row_scale, const float *scale, int m, int n) {
    for (int i = 0; i < m; i++, out += ld, acc += SGEMM_PANEL, add = add ? add + ld : NULL)
        for (int j = 0; j < n; j += VEC) { /* acc, offset_sum and scale are whole panels */
            Vec v = v_from_int(acc + j, offset_sum ? offset_sum + j : NULL);
            v = v_mul(v_mul(v, v_set1(row_scale[i])), v_load(scale + j));
            store_up_to(out + j, add ? v_add(load_up_to(add + j, n - j), v) : v, n - j);
        }
}
