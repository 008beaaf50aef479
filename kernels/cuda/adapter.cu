/* adapter.cu - low-rank adapters of projections that share a matrix.  What is moved has the size of weights, and a small
 * part of theirs: a thread an element, of what is written. */
#include "kernels/cuda/rows.cuh"

namespace {

constexpr int THREADS = 256;

/* Element (r, i * rank + c) of b_wide is element *at of b, where row r is one of block i's; otherwise 0 and no element. */
__device__ __forceinline__ bool block_element(const AdapterBlocks &s, int r, int column, int64_t *at) {
    int i = column / s.rank, before = 0;
    for (int k = 0; k < i; k++) before += s.height[k];
    *at = (int64_t)(before + r - s.row[i]) * s.rank + column % s.rank;
    return r >= s.row[i] && r < s.row[i] + s.height[i];
}

template <typename T> __global__ void __launch_bounds__(THREADS) spread_kernel(T *b_wide, const T *b, const AdapterBlocks s) {
    int     width = s.n * s.rank;
    int64_t e = (int64_t)blockIdx.x * THREADS + threadIdx.x, at;
    if (e >= (int64_t)s.rows * width) return;
    float x = 0;
    if (block_element(s, (int)(e / width), (int)(e % width), &at)) x = (float)s.scale * to_float(b[at]);
    b_wide[e] = from_float<T>(x);
}

template <typename T> __global__ void __launch_bounds__(THREADS) turn_kernel(T *out, const T *inp, int rows, int cols) {
    int64_t e = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (e < (int64_t)rows * cols) out[e] = inp[e % rows * cols + e / rows];
}

__global__ void __launch_bounds__(THREADS) gather_kernel(float *db, const float *db_wide, const AdapterBlocks s) {
    int     width = s.n * s.rank;
    int64_t e = (int64_t)blockIdx.x * THREADS + threadIdx.x, at;
    if (e >= (int64_t)s.rows * width) return;
    if (block_element(s, (int)(e / width), (int)(e % width), &at)) db[at] += (float)s.scale * db_wide[e];
}

} // namespace

template <typename T>
void cuda_adapter_spread(Device *dev, void *b_wide, void *a_turned, const void *a, const void *b, const AdapterBlocks *s) {
    const char *op = "adapter_spread";
    int64_t     width = s->n * s->rank;
    CUDA_LAUNCH(dev, op, (spread_kernel<T>), ceil_div(s->rows * width, THREADS), THREADS, 0, (T *)b_wide, (const T *)b, *s);
    if (!a_turned) return;
    CUDA_LAUNCH(dev, op, (turn_kernel<T>), ceil_div(s->cols * width, THREADS), THREADS, 0, (T *)a_turned, (const T *)a,
                (int)width, s->cols);
}

void cuda_adapter_gather(Device *dev, void *db, const void *db_wide, const AdapterBlocks *s) {
    int64_t count = (int64_t)s->rows * s->n * s->rank;
    CUDA_LAUNCH(dev, "adapter_gather", gather_kernel, ceil_div(count, THREADS), THREADS, 0, (float *)db, (const float *)db_wide,
                *s);
}

template void cuda_adapter_spread<float>(Device *, void *, void *, const void *, const void *, const AdapterBlocks *);
template void cuda_adapter_spread<bf16>(Device *, void *, void *, const void *, const void *, const AdapterBlocks *);
