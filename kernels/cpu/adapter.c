/* adapter.c - low-rank adapters of projections that share a matrix.  What is moved has the size of weights, and a small part
 * of theirs: plain loops do. */
#include "kernels/cpu/ops.h"

#include <string.h>

void cpu_adapter_spread(Device *dev, void *b_wide, void *a_turned, const void *a, const void *b, const AdapterBlocks *s) {
    if (device_error(dev)) return;
    const int   width = s->n * s->rank;
    const float scale = (float)s->scale, *from = b;
    memset(b_wide, 0, sizeof(float) * (size_t)s->rows * (size_t)width);
    for (int i = 0; i < s->n; i++)
        for (int r = s->row[i]; r < s->row[i] + s->height[i]; r++, from += s->rank) {
            float *to = (float *)b_wide + (ptrdiff_t)r * width + i * s->rank;
            for (int c = 0; c < s->rank; c++) to[c] = scale * from[c];
        }
    if (!a_turned) return;
    for (int c = 0; c < s->cols; c++)
        for (int r = 0; r < width; r++)
            ((float *)a_turned)[(ptrdiff_t)c * width + r] = ((const float *)a)[(ptrdiff_t)r * s->cols + c];
}

void cpu_adapter_gather(Device *dev, void *db, const void *db_wide, const AdapterBlocks *s) {
    if (device_error(dev)) return;
    const int   width = s->n * s->rank;
    const float scale = (float)s->scale;
    float      *to = db;
    for (int i = 0; i < s->n; i++)
        for (int r = s->row[i]; r < s->row[i] + s->height[i]; r++, to += s->rank) {
            const float *from = (const float *)db_wide + (ptrdiff_t)r * width + i * s->rank;
            for (int c = 0; c < s->rank; c++) to[c] += scale * from[c];
        }
}
