/* tensor_map.cpp - the driver's cuTensorMapEncodeTiled, found as a program without libcuda finds it. */
#include "tests/emulator/tensor_map.h"
#include "tests/emulator/runtime.h"

#include <cstring>

using namespace emu;

namespace {

/* What the CUDA driver's manual demands, of the forms that kernels here use. */
const char *refusal(CUtensorMapDataType type, unsigned rank, const void *base, const cuuint64_t *size,
                    const cuuint64_t *stride, const cuuint32_t *box, const cuuint32_t *step, unsigned span,
                    CUtensorMapInterleave interleave, CUtensorMapFloatOOBfill fill) {
    if (type != CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 || interleave || fill) return "bf16, zeros outside, no interleave";
    if (rank < 1 || rank > 5) return "1 to 5 dimensions";
    if (reinterpret_cast<uintptr_t>(base) % 16) return "an address that is a multiple of 16";
    for (unsigned d = 0; d < rank; d++) {
        if (!size[d] || size[d] > 1ull << 32) return "sizes from 1 to 2^32";
        if (!box[d] || box[d] > 256) return "boxes from 1 to 256";
        if (step[d] != 1) return "element strides of 1";
        if (d && (stride[d - 1] % 16 || stride[d - 1] >= 1ull << 40)) return "strides that are multiples of 16";
    }
    if (2 * box[0] % 16) return "rows of a box that are multiples of 16 bytes";
    if (span > 16 && 2 * box[0] > span) return "rows of a box inside the swizzle's span";
    return nullptr;
}

CUresult encode(CUtensorMap *map, CUtensorMapDataType type, cuuint32_t rank, void *base, const cuuint64_t *size,
                const cuuint64_t *stride, const cuuint32_t *box, const cuuint32_t *step,
                CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle, CUtensorMapL2promotion,
                CUtensorMapFloatOOBfill fill) {
    static const uint8_t spans[] = {16, 32, 64, 128};
    if ((unsigned)swizzle > 3) return CUDA_ERROR_INVALID_VALUE;
    if (const char *expected = refusal(type, rank, base, size, stride, box, step, spans[swizzle], interleave, fill)) {
        fprintf(stderr, "emulator: cuTensorMapEncodeTiled: expected %s\n", expected);
        return CUDA_ERROR_INVALID_VALUE;
    }
    TensorMap t = {};
    t.magic = TENSOR_MAP_MAGIC;
    t.base = static_cast<const char *>(base);
    t.rank = (uint8_t)rank;
    t.element_bytes = 2;
    t.span = spans[swizzle];
    for (unsigned d = 0; d < rank; d++) {
        t.size[d] = size[d];
        t.stride[d] = d ? stride[d - 1] : 2;
        t.box[d] = (uint16_t)box[d];
    }
    memset(map, 0, sizeof *map);
    memcpy(map, &t, sizeof t);
    return CUDA_SUCCESS;
}

} // namespace

extern "C" cudaError_t CUDARTAPI cudaGetDriverEntryPointByVersion(const char *symbol, void **function, unsigned int,
                                                                  unsigned long long,
                                                                  cudaDriverEntryPointQueryResult *result) {
    Call call;
    *function = nullptr;
    if (cudaError_t e = driver_state()) return e;
    bool known = !strcmp(symbol, "cuTensorMapEncodeTiled");
    if (known) *function = reinterpret_cast<void *>(encode);
    if (result) *result = known ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
    return known || result ? cudaSuccess : fail(cudaErrorSymbolNotFound);
}
