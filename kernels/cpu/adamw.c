/* adamw.c - the optimizer's update and the norm it clips by. */
#include "kernels/cpu/ops.h"

#include <math.h>

void cpu_adamw(Device *dev, void *param, void *out, void *m, void *v, const void *grad, const AdamwRange *ranges,
               int n_ranges, const AdamwStep *step) {
    enum { CHUNK = 16384 };
    if (device_error(dev) || step->skip) return;
    const CpuOps *ops = cpu_ops(dev);
    AdamwScalars  s = {step->beta1, step->beta2, step->eps, step->grad_scale, step->learning_rate, 0,
                       (float)(1 - pow(step->beta1, step->step)), (float)(1 - pow(step->beta2, step->step))};
    for (int r = 0; r < n_ranges; r++) {
        int64_t end = ranges[r].offset + ranges[r].count;
        s.weight_decay = ranges[r].decay ? step->weight_decay : 0;
#pragma omp parallel for num_threads(cpu_threads_for(dev, 30.0 * (double)ranges[r].count)) schedule(static)
        for (int64_t i = ranges[r].offset; i < end; i += CHUNK)
            ops->adamw((float *)param + i, out ? (float *)out + i : NULL, (float *)m + i, (float *)v + i,
                       (const float *)grad + i, end - i < CHUNK ? end - i : CHUNK, &s);
    }
}

/* In double over fixed chunks, which are then added in order. */
void cpu_sum_squares(Device *dev, double *sum, const void *x, int64_t count) {
    enum { CHUNK = 65536, CHUNKS = 512 };
    if (device_error(dev)) return;
    const CpuOps *ops = cpu_ops(dev);
    for (int64_t first = 0; first < count; first += (int64_t)CHUNK * CHUNKS) {
        double       part[CHUNKS];
        int64_t      left = count - first;
        int          chunks = (int)(left < (int64_t)CHUNK * CHUNKS ? (left + CHUNK - 1) / CHUNK : CHUNKS);
        const float *values = (const float *)x + first;
#pragma omp parallel for num_threads(cpu_threads_for(dev, 4.0 * (double)left)) schedule(static)
        for (int i = 0; i < chunks; i++) {
            int64_t at = (int64_t)i * CHUNK;
            part[i] = ops->sum_squares(values + at, left - at < CHUNK ? left - at : CHUNK);
        }
        for (int i = 0; i < chunks; i++) *sum += part[i];
    }
}
