/* matmul_split.cuh - weight gradients whose sum over rows is cut into parts, so that a small weight fills the card. */
#ifndef EHR_KERNELS_CUDA_MATMUL_SPLIT_CUH
#define EHR_KERNELS_CUDA_MATMUL_SPLIT_CUH
#include "kernels/cuda/matmul.cuh"

/* out[i] += part 0 + part 1 + ...: always in this order. */
template <int THREADS>
__global__ void __launch_bounds__(THREADS) split_sum_kernel(float *out, const float *parts, int64_t count, int splits) {
    int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * 4;
    if (i + 4 <= count && count % 4 == 0) {
        float4 sum = *(const float4 *)(parts + i);
        for (int s = 1; s < splits; s++) {
            float4 x = *(const float4 *)(parts + s * count + i);
            sum.x += x.x, sum.y += x.y, sum.z += x.z, sum.w += x.w;
        }
        float4 *to = (float4 *)(out + i), before = *to;
        *to = make_float4(before.x + sum.x, before.y + sum.y, before.z + sum.z, before.w + sum.w);
    } else {
        for (int64_t e = i; e < i + 4 && e < count; e++) {
            float sum = parts[e];
            for (int s = 1; s < splits; s++) sum += parts[s * count + e];
            out[e] += sum;
        }
    }
}

/* launch(p) starts the kernel of p.  Parts are cut at multiples of 64 rows, so that no stage is. */
template <class Launch>
static void wgrad_in_splits(Device *dev, const char *op, Product p, int splits, void *scratch, Launch launch) {
    p.split_k = round_up(ceil_div(p.K, splits), 64);
    splits = ceil_div(p.K, p.split_k);
    if (splits == 1) {
        p.ending = END_ACCUMULATE;
        launch(p);
        return;
    }
    float *out = (float *)p.out, *parts = (float *)scratch;
    int64_t count = (int64_t)p.M * p.N;
    p.ending = END_FLOAT;
    p.out = parts;
    p.split_elements = count;
    launch(p);
    CUDA_LAUNCH(dev, op, split_sum_kernel<256>, (unsigned)((count + 1023) / 1024), 256, 0, out, parts, count, splits);
}

#endif
