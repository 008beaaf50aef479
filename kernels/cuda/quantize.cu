/* quantize.cu - int8 for inference: rows of weights and of activations to 8 bits with one scale each, and their
 * products, which are exact in int32 and scaled once. */
#include "kernels/cuda/matmul_tile.cuh"

namespace {

enum { QUANTIZE_THREADS = 128 };

/* NaN stays, and becomes the row's scale: 8 bits could not say so. */
__device__ __forceinline__ float larger(float most, float x) { return x > most || x != x ? x : most; }

/* A block a row; the row is read twice, the second time from L1. */
template <typename T>
__global__ void __launch_bounds__(QUANTIZE_THREADS)
    quantize_kernel(int8_t *q, float *scale, const T *x, int cols, int stride) {
    __shared__ float largest[QUANTIZE_THREADS / 32];
    const T *from = x + (int64_t)blockIdx.x * cols;
    int8_t *to = q + (int64_t)blockIdx.x * stride;
    float most = 0;
    for (int c = threadIdx.x; c < cols; c += QUANTIZE_THREADS) most = larger(most, fabsf(value_of(from[c])));
    for (int lane = 16; lane; lane >>= 1) most = larger(most, __shfl_xor_sync(0xffffffffu, most, lane));
    if (threadIdx.x % 32 == 0) largest[threadIdx.x / 32] = most;
    __syncthreads();
    for (int w = 0; w < QUANTIZE_THREADS / 32; w++) most = larger(most, largest[w]);
    if (threadIdx.x == 0) scale[blockIdx.x] = most / 127.0f;
    /* A row so small that 127 / most overflows counts as zero. */
    const float inverse = most > 1e-36f ? 127.0f / most : 0.0f;
    for (int c = threadIdx.x * 4; c < stride; c += QUANTIZE_THREADS * 4) {
        char4 v;
        v.x = c + 0 < cols ? (signed char)__float2int_rn(value_of(from[c + 0]) * inverse) : 0;
        v.y = c + 1 < cols ? (signed char)__float2int_rn(value_of(from[c + 1]) * inverse) : 0;
        v.z = c + 2 < cols ? (signed char)__float2int_rn(value_of(from[c + 2]) * inverse) : 0;
        v.w = c + 3 < cols ? (signed char)__float2int_rn(value_of(from[c + 3]) * inverse) : 0;
        *(char4 *)(to + c) = v;
    }
}

/* The tiles of matmul_forward.cu, but with the large one left out: half the bytes a multiply-add make it unnecessary.
 */
typedef Tile<128, 128, 64, 2, 2, 4, 2> Medium;
typedef Tile<64, 64, 128, 2, 2, 3, 3> Small;
typedef Tile<16, 64, 128, 1, 4, 6, 3> Low;
typedef Tile<16, 16, 128, 1, 1, 8, 6> Single;

const TileShape shapes[] = {Medium::shape(), Small::shape(), Low::shape(), Single::shape()};

template <typename T, class Tile> void launch(Device *dev, const char *op, const Product &p) {
    tile_launch<Int8Math, T, Tile, true, true, true>(dev, op, p);
}

} // namespace

template <typename T>
void quantize_rows(Device *dev, const char *op, int8_t *q, float *scale, const T *x, int rows, int cols, int stride) {
    CUDA_LAUNCH(dev, op, quantize_kernel<T>, (unsigned)rows, QUANTIZE_THREADS, 0, q, scale, x, cols, stride);
}

template <typename T> void product_int8(Device *dev, const char *op, Product p) {
    p.split_k = p.K;
    switch (
        tile_choose(shapes, 4, RATE_TENSOR, p.M, p.N, p.K, 1, cuda_sm_count(dev), cuda_compute_capability(dev)).tile) {
    case 0: launch<T, Medium>(dev, op, p); break;
    case 1: launch<T, Small>(dev, op, p); break;
    case 2: launch<T, Low>(dev, op, p); break;
    case 3: launch<T, Single>(dev, op, p); break;
    }
}

template void quantize_rows<float>(Device *, const char *, int8_t *, float *, const float *, int, int, int);
template void quantize_rows<bf16>(Device *, const char *, int8_t *, float *, const bf16 *, int, int, int);
template void product_int8<float>(Device *, const char *, Product);
template void product_int8<bf16>(Device *, const char *, Product);
