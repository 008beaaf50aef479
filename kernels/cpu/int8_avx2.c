/* int8_avx2.c - 2 x 32 tiles.  vpmaddubsw adds two products of an unsigned and a signed byte in 16 bits, which hold
 * 2 x 127 x 127: the activation's size goes in unsigned, its sign goes to the weight. */
#if defined(__AVX2__)
#include "kernels/cpu/int8_tile.h"

enum { ROWS = 2, VECS = 4 /* of 8 columns */ };

static void tile(int32_t *acc, int more, int m, int groups, const uint8_t *a, ptrdiff_t lda, const int8_t *panel,
                 const int8_t *soon) {
    const uint8_t *second = m > 1 ? a + lda : a;
    const __m256i  ones = _mm256_set1_epi16(1);
    __m256i        sum[ROWS][VECS];
    for (int i = 0; i < ROWS; i++)
        for (int v = 0; v < VECS; v++)
            sum[i][v] = more && i < m ? _mm256_loadu_si256((const __m256i *)(acc + i * SGEMM_PANEL + v * 8))
                                      : _mm256_setzero_si256();
    for (int g = 0; g < groups; g++, panel += SGEMM_PANEL * INT8_GROUP) {
        int32_t four[ROWS];
        if (soon) __builtin_prefetch(soon + g * 64, 0, 2);
        memcpy(&four[0], a + g * INT8_GROUP, sizeof four[0]);
        memcpy(&four[1], second + g * INT8_GROUP, sizeof four[1]);
#pragma GCC unroll 4
        for (int v = 0; v < VECS; v++) {
            __m256i b = _mm256_loadu_si256((const __m256i *)(panel + v * 32));
#pragma GCC unroll 2
            for (int i = 0; i < ROWS; i++) {
                __m256i av = _mm256_set1_epi32(four[i]);
                __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(av), _mm256_sign_epi8(b, av));
                sum[i][v] = _mm256_add_epi32(sum[i][v], _mm256_madd_epi16(pairs, ones));
            }
        }
    }
    for (int i = 0; i < m; i++)
        for (int v = 0; v < VECS; v++)
            _mm256_storeu_si256((__m256i *)(acc + i * SGEMM_PANEL + v * 8), sum[i][v]);
}

const CpuInt8 cpu_int8_avx2 = {ROWS, 0, tile, int8_quantize, int8_scale};
#endif
