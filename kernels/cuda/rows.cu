/* rows.cu - the second stage of sums over rows, and the scratch memory of the row kernels. */
#include "kernels/cuda/rows.cuh"

namespace {

constexpr int COLUMNS = 32, STRIPES = 32;

/* Stripe s adds runs s, s + STRIPES, ... of a column; then the stripes are added in order. */
__global__ void add_partials_kernel(float *out, const float *partial, int runs, int C, int stride) {
    __shared__ float stripe[STRIPES][COLUMNS];
    int   column = (int)threadIdx.x, s = (int)threadIdx.y, c = (int)blockIdx.x * COLUMNS + column;
    float sum = 0;
    if (c < C) {
#pragma unroll 8
        for (int p = s; p < runs; p += STRIPES) sum += partial[(int64_t)p * stride + c];
    }
    stripe[s][column] = sum;
    __syncthreads();
    if (s || c >= C) return;
    for (int i = 1; i < STRIPES; i++) sum += stripe[i][column];
    out[c] += sum;
}

} // namespace

void cuda_add_partials(Device *dev, const char *op, float *out, const float *partial, int runs, int C, int stride) {
    CUDA_LAUNCH(dev, op, add_partials_kernel, ceil_div(C, COLUMNS), dim3(COLUMNS, STRIPES), 0, out, partial, runs, C, stride);
}

template <typename T> size_t cuda_rows_workspace(const Device *dev, const KernelLimits *limits) {
    (void)dev;
    size_t need[] = {sizeof(float) * ROW_SUMS_MAX * (size_t)(limits->C > 2 * limits->D ? limits->C : 2 * limits->D),
                     cuda_embedding_workspace(limits->N, limits->C, limits->Vp), cuda_sum_squares_workspace()};
    size_t most = 0;
    for (size_t bytes : need) most = bytes > most ? bytes : most;
    return most;
}
template size_t cuda_rows_workspace<float>(const Device *, const KernelLimits *);
template size_t cuda_rows_workspace<bf16>(const Device *, const KernelLimits *);
