/* attention_sm90.cuh - tiles of a head's rows on Hopper: how they come, and the products of attention over wgmma;
 * private to kernels/cuda/attention*_sm90.cu. */
#ifndef EHR_KERNELS_CUDA_ATTENTION_SM90_CUH
#define EHR_KERNELS_CUDA_ATTENTION_SM90_CUH
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/hopper.cuh"

enum { BOX = 8192 /* bytes of 64 rows of 64 columns, as the copy engine swizzles them */ };

/* 64 rows of D as boxes of 64 columns, behind each other. */
template <int D> struct HeadTile { static constexpr int BYTES = D / 64 * BOX; };

/* 64 rows from `row` on, columns of one head from `column` on. */
template <int D>
static __device__ __forceinline__ void tile_fetch(char *to, const CUtensorMap *map, int column, int row,
                                                  uint64_t *bar) {
#pragma unroll
    for (int c = 0; c < D / 64; c++) tma_load_2d(to + c * BOX, map, column + 64 * c, row, bar);
}

/* c (64, 64) = a b^T, both of 64 rows */
template <int D> static __device__ __forceinline__ void rows_by_rows(float (*c)[4], const char *a, const char *b) {
    const uint64_t from_a = wgmma_descriptor(a, 16, 1024), from_b = wgmma_descriptor(b, 16, 1024);
#pragma unroll
    for (int k = 0; k < D / 16; k++) {
        const int at = k / 4 * BOX + k % 4 * 32;
        wgmma<64, true, true>(c, wgmma_advance(from_a, at), wgmma_advance(from_b, at), k);
    }
}
/* c (64, D) = a b, or += unless it is fresh: a (64, 64) as left operands, b of 64 rows */
template <int D, bool FRESH>
static __device__ __forceinline__ void weights_by_rows(float (*c)[4], const uint32_t (*a)[4], const char *b) {
    const uint64_t from_b = wgmma_descriptor(b, BOX, 1024);
#pragma unroll
    for (int k = 0; k < 64 / 16; k++)
        wgmma_registers<D, false>(c, a[k], wgmma_advance(from_b, k * 2048), FRESH ? k : 1);
}

/* A warpgroup's 64 rows of results leave through a tile of its own: scaled, rows lane / 4 and lane / 4 + 8 of each warp
 * by scale0 and scale1, to dst, those below `valid`. */
template <int D>
static __device__ __forceinline__ void result_write(bf16 *dst, size_t ld, char *tile, const float (*c)[4], float scale0,
                                                    float scale1, int valid) {
    const int lane = threadIdx.x % 32, row = threadIdx.x % WARPGROUP / 32 * 16;
    accumulator_store<D, D>((bf16 *)tile, row, 0, c, scale0, scale1, lane);
    __syncwarp();
    rows_write<D, 16>(dst, ld, (const bf16 *)tile, row, valid, lane);
}

/* A matrix of bf16 in boxes of 64 by 64; false: the device has failed. */
static inline bool boxes_map(Device *dev, const char *op, CUtensorMap *map, const void *base, int columns,
                             uint64_t rows) {
    const cuuint64_t size[] = {(cuuint64_t)columns, (cuuint64_t)rows}, bytes[] = {(cuuint64_t)columns * sizeof(bf16)};
    const cuuint32_t box[] = {64, 64}, step[] = {1, 1};
    if (cuda_tensor_map_encode(dev)(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, (void *)base, size, bytes, box, step,
                                    CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                    CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                                    CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS)
        return true;
    device_fail(dev, op, "the driver refuses a tensor map of an operand");
    return false;
}

#endif
