/* rope.c - per-head RMSNorm of queries and keys, then rotary positions in the rotate-half form (Su et al. 2021). */
#include "kernels/cpu/ops.h"

#include <string.h>

void cpu_qk_norm_rope_forward(Device *dev, void *qk, void *rstd, const void *qkv, const void *q_weight,
                              const void *k_weight, const int32_t *positions, const void *rope, float eps, int N, int H,
                              int G, int D) {
    if (device_error(dev)) return;
    const CpuOps *ops = cpu_ops(dev);
#pragma omp parallel for num_threads(cpu_threads_for(dev, 12.0 * N * (H + G) * D)) schedule(static)
    for (int n = 0; n < N; n++) {
        const float *x = (const float *)qkv + (ptrdiff_t)n * (H + 2 * G) * D;
        const float *angles = (const float *)rope + (ptrdiff_t)positions[n] * D;
        float       *out = (float *)qk + (ptrdiff_t)n * (H + G) * D;
        for (int h = 0; h < H + G; h++) {
            if (n + ROWS_AHEAD < N) {
                fetch(x + (ROWS_AHEAD * (H + 2 * G) + h) * D, D);
                fetch_to_write(out + (ROWS_AHEAD * (H + G) + h) * D, D);
            }
            float r = ops->norm_rope(out + h * D, x + h * D, h < H ? q_weight : k_weight, angles, eps, D);
            if (rstd) ((float *)rstd)[(ptrdiff_t)n * (H + G) + h] = r;
        }
    }
}

void cpu_qk_norm_rope_backward(Device *dev, void *dqkv, void *dq_weight, void *dk_weight, const void *dqk,
                               const void *qkv, const void *q_weight, const void *k_weight, const void *rstd,
                               const int32_t *positions, const void *rope, int N, int H, int G, int D) {
    if (D > HEAD_MAX) device_fail(dev, "qk_norm_rope_backward", "the CPU backend takes heads of at most 128");
    float *partial = cpu_scratch(dev, "qk_norm_rope_backward", sizeof(float) * PARTIAL_SUMS * 2 * (size_t)D);
    if (!partial) return;
    const CpuOps *ops = cpu_ops(dev);
    int           run = int_max(1, ceil_div(N, PARTIAL_SUMS)), runs = ceil_div(N, run);
#pragma omp parallel for num_threads(cpu_threads_for(dev, 20.0 * N * (H + G) * D)) schedule(static)
    for (int p = 0; p < runs; p++) {
        float *sums = partial + (ptrdiff_t)p * 2 * D; /* of q_weight, of k_weight */
        memset(sums, 0, sizeof(float) * 2 * (size_t)D);
        for (ptrdiff_t n = (ptrdiff_t)p * run; n < int_min(N, (p + 1) * run); n++)
            for (int h = 0; h < H + G; h++) {
                ptrdiff_t at = (n * (H + 2 * G) + h) * D, at_qk = (n * (H + G) + h) * D;
                int       key = h >= H;
                float    *dw = (key ? dk_weight : dq_weight) ? sums + key * D : NULL;
                if (n + ROWS_AHEAD < N) {
                    fetch((const float *)qkv + at + ROWS_AHEAD * (H + 2 * G) * D, D);
                    fetch((const float *)dqk + at_qk + ROWS_AHEAD * (H + G) * D, D);
                    fetch_to_write((float *)dqkv + at + ROWS_AHEAD * (H + 2 * G) * D, D);
                }
                ops->norm_rope_backward((float *)dqkv + at, dw, (const float *)dqk + at_qk, (const float *)qkv + at,
                                        key ? k_weight : q_weight, (const float *)rope + (ptrdiff_t)positions[n] * D,
                                        ((const float *)rstd)[n * (H + G) + h], D);
            }
    }
    for (int p = 0; p < runs; p++) {
        float *sums = partial + (ptrdiff_t)p * 2 * D;
        if (dq_weight) cpu_isa(dev)->add(dq_weight, dq_weight, sums, D);
        if (dk_weight) cpu_isa(dev)->add(dk_weight, dk_weight, sums + D, D);
    }
}
