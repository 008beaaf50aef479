/* hopper_kernels.h - what hopper_instructions.cu and planted_hopper.cu share: numbers, tensor maps, the plain product.
 */
#ifndef EHR_TESTS_EMULATOR_HOPPER_KERNELS_H
#define EHR_TESTS_EMULATOR_HOPPER_KERNELS_H
#include "kernels/cuda/hopper.cuh"
#include "tests/emulator/emulator.h"
#include "tests/emulator/planted.h"
#include "tests/emulator/planted_array.h"

#include <cstdio>

namespace {

/* Small integers and quarters, so that sums are exact in any order. */
inline std::vector<bf16> numbers(size_t n, uint32_t seed) {
    std::vector<bf16> v(n);
    for (size_t i = 0; i < n; i++) {
        uint32_t x = ((uint32_t)i + seed * 7919u) * 2654435761u;
        v[i] = __float2bfloat16((float)((int)(x >> 24) % 17 - 8) / 4.0f);
    }
    return v;
}

/* Of rows of `columns` elements, `stride` apart, in boxes. */
inline CUtensorMap map_of(const bf16 *base, int columns, int rows, int stride, int box_columns, int box_rows,
                          CUtensorMapSwizzle swizzle = CU_TENSOR_MAP_SWIZZLE_128B) {
    void *function = nullptr;
    cudaDriverEntryPointQueryResult found;
    cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found);
    auto encode = (decltype(&cuTensorMapEncodeTiled))function;
    CUtensorMap map = {};
    cuuint64_t size[] = {(cuuint64_t)columns, (cuuint64_t)rows}, bytes[] = {(cuuint64_t)stride * 2};
    cuuint32_t box[] = {(cuuint32_t)box_columns, (cuuint32_t)box_rows}, step[] = {1, 1};
    if (encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, (void *)base, size, bytes, box, step,
               CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
               CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE))
        fprintf(stderr, "cuTensorMapEncodeTiled refuses\n");
    return map;
}

/* A row of d's fragment, as wgmma leaves it: to out (64, N). */
template <int N> __device__ void store_sums(float *out, const float (*d)[4]) {
    int t = (int)threadIdx.x % WARPGROUP, row = t / 32 * 16 + t % 32 / 4, column = t % 4 * 2;
    for (int j = 0; j < N / 8; j++)
        for (int e = 0; e < 4; e++) out[(row + e / 2 * 8) * N + 8 * j + column + e % 2] = d[j][e];
}

} // namespace

#endif
