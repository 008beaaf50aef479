/* int8_vnni.c - 14 x 32 tiles of vpdpbusd, which adds four products of unsigned and signed bytes to each lane. */
#if defined(__AVX512VNNI__)
#include "kernels/cpu/int8_tile.h"

#if defined(__SANITIZE_ADDRESS__) /* the compiler would take minutes, see matmul_tile.h */
#define TILE_FN static
#define UNROLL
#else
#define TILE_FN static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")
#endif

enum { NEAR = 12 << 10 }; /* bytes of the panel that are fetched ahead where nothing else is: a quarter of the first cache */

TILE_FN void body(const int m, int32_t *acc, int more, int groups, const uint8_t *a, ptrdiff_t lda, const int8_t *panel,
                  const int8_t *soon) {
    __m512i sum[INT8_ROWS_MAX][2];
    UNROLL
    for (int i = 0; i < m; i++) {
        sum[i][0] = more ? _mm512_loadu_si512(acc + i * SGEMM_PANEL) : _mm512_setzero_si512();
        sum[i][1] = more ? _mm512_loadu_si512(acc + i * SGEMM_PANEL + VEC) : _mm512_setzero_si512();
    }
    for (int g = 0; g < groups; g++, panel += SGEMM_PANEL * INT8_GROUP) {
        __m512i b0 = _mm512_loadu_si512(panel), b1 = _mm512_loadu_si512(panel + 64);
        if (soon) {
            __builtin_prefetch(soon, 0, 2);
            soon += 64;
        } else {
            __builtin_prefetch(panel + NEAR, 0, 3);
            __builtin_prefetch(panel + NEAR + 64, 0, 3);
        }
        UNROLL
        for (int i = 0; i < m; i++) {
            int32_t four;
            memcpy(&four, a + i * lda + g * INT8_GROUP, sizeof four);
            __m512i av = _mm512_set1_epi32(four);
            sum[i][0] = _mm512_dpbusd_epi32(sum[i][0], av, b0);
            sum[i][1] = _mm512_dpbusd_epi32(sum[i][1], av, b1);
        }
    }
    UNROLL
    for (int i = 0; i < m; i++) {
        _mm512_storeu_si512(acc + i * SGEMM_PANEL, sum[i][0]);
        _mm512_storeu_si512(acc + i * SGEMM_PANEL + VEC, sum[i][1]);
    }
}

#define CASE(m) \
    case m: body(m, acc, more, groups, a, lda, panel, soon); break;
static void tile(int32_t *acc, int more, int m, int groups, const uint8_t *a, ptrdiff_t lda, const int8_t *panel,
                 const int8_t *soon) {
    switch (m) {
        CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7)
        CASE(8) CASE(9) CASE(10) CASE(11) CASE(12) CASE(13) CASE(14)
    }
}

const CpuInt8 cpu_int8_vnni = {INT8_ROWS_MAX, 128, tile, int8_quantize, int8_scale};
#endif
