/* rmsnorm.c - RMSNorm of rows (Zhang and Sennrich 2019).  The weight's gradient is summed in PARTIAL_SUMS runs of rows,
 * which are then added in order: the bits do not depend on the threads. */
#include "kernels/cpu/ops.h"

#include <string.h>

void cpu_rmsnorm_forward(Device *dev, void *out, void *rstd, const void *inp, const void *weight, float eps, int N,
                         int C) {
    if (device_error(dev)) return;
    const CpuOps *ops = cpu_ops(dev);
#pragma omp parallel for num_threads(cpu_threads_for(dev, 8.0 * N * C)) schedule(static)
    for (int n = 0; n < N; n++) {
        const float *x = (const float *)inp + (ptrdiff_t)n * C;
        float       *to = (float *)out + (ptrdiff_t)n * C;
        if (n + ROWS_AHEAD < N) fetch(x + ROWS_AHEAD * C, C), fetch_to_write(to + ROWS_AHEAD * C, C);
        float r = ops->rmsnorm(to, x, weight, eps, C);
        if (rstd) ((float *)rstd)[n] = r;
    }
}

void cpu_rmsnorm_backward(Device *dev, void *dinp_acc, void *dweight, const void *dout, const void *inp,
                          const void *weight, const void *rstd, int N, int C) {
    float *partial = cpu_scratch(dev, "rmsnorm_backward", sizeof(float) * PARTIAL_SUMS * (size_t)C);
    if (!partial) return;
    const CpuOps *ops = cpu_ops(dev);
    int           run = int_max(1, ceil_div(N, PARTIAL_SUMS));
#pragma omp parallel for num_threads(cpu_threads_for(dev, 16.0 * N * C)) schedule(static)
    for (int p = 0; p < ceil_div(N, run); p++) {
        float *dw = dweight ? partial + (ptrdiff_t)p * C : NULL;
        if (dw) memset(dw, 0, sizeof(float) * (size_t)C);
        for (ptrdiff_t n = (ptrdiff_t)p * run; n < int_min(N, (p + 1) * run); n++) {
            const float *dy = (const float *)dout + n * C, *x = (const float *)inp + n * C;
            float       *dx = (float *)dinp_acc + n * C;
            if (n + ROWS_AHEAD < N) {
                fetch(dy + ROWS_AHEAD * C, C), fetch(x + ROWS_AHEAD * C, C);
                fetch_to_write(dx + ROWS_AHEAD * C, C);
            }
            ops->rmsnorm_backward(dx, dw, dy, x, weight, ((const float *)rstd)[n], C);
        }
    }
    for (int p = 0; p < ceil_div(N, run) && dweight; p++)
        cpu_isa(dev)->add(dweight, dweight, partial + (ptrdiff_t)p * C, C);
}
