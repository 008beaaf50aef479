/* int8_portable.c - 8-bit products in plain C. */
#include "kernels/cpu/int8_tile.h"

static void tile(int32_t *acc, int more, int m, int groups, const uint8_t *a, ptrdiff_t lda, const int8_t *panel,
                 const int8_t *soon) {
    (void)soon;
    if (!more) memset(acc, 0, sizeof *acc * SGEMM_PANEL * (size_t)m);
    for (int i = 0; i < m; i++, acc += SGEMM_PANEL, a += lda)
        for (int g = 0; g < groups; g++)
            for (int j = 0; j < SGEMM_PANEL; j++)
                for (int k = 0; k < INT8_GROUP; k++)
                    acc[j] += (int8_t)a[g * INT8_GROUP + k] * panel[(g * SGEMM_PANEL + j) * INT8_GROUP + k];
}

const CpuInt8 cpu_int8_portable = {4, 0, tile, int8_quantize, int8_scale};
