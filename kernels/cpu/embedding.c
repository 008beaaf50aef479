/* embedding.c - rows of a table, and their gradient. */
#include "kernels/cpu/ops.h"

#include <string.h>

void cpu_embedding_forward(Device *dev, void *out, const int32_t *tokens, const void *weight, int N, int C) {
    if (device_error(dev)) return;
#pragma omp parallel for num_threads(cpu_threads_for(dev, 4.0 * N * C)) schedule(static)
    for (int n = 0; n < N; n++)
        memcpy((float *)out + (ptrdiff_t)n * C, (const float *)weight + (ptrdiff_t)tokens[n] * C,
               sizeof(float) * (size_t)C);
}

/* Each thread owns some columns of the table and goes through all rows: ascending n everywhere, no two writers. */
void cpu_embedding_backward(Device *dev, void *dweight, const void *dout, const int32_t *tokens, int N, int C, int V) {
    (void)V;
    if (device_error(dev)) return;
    enum { COLUMNS = 16 }; /* a cache line */
    int threads = int_min(cpu_threads_for(dev, 4.0 * N * C), ceil_div(C, COLUMNS));
    int width = ceil_div(ceil_div(C, COLUMNS), threads) * COLUMNS;
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int c = 0; c < C; c += width) {
        int columns = int_min(width, C - c);
        for (int n = 0; n < N; n++) {
            float       *dst = (float *)dweight + (ptrdiff_t)tokens[n] * C + c;
            const float *src = (const float *)dout + (ptrdiff_t)n * C + c;
            for (int i = 0; i < columns; i++) dst[i] += src[i];
        }
    }
}
