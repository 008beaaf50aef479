/* tensor_map.h - what the emulator keeps in the 128 bytes of a CUtensorMap, and the swizzle of 16-byte chunks that bulk
 * copies and wgmma's descriptors share. */
#ifndef EHR_TESTS_EMULATOR_TENSOR_MAP_H
#define EHR_TESTS_EMULATOR_TENSOR_MAP_H
#include <cuda.h>

#include <cstdint>

namespace emu {

constexpr uint64_t TENSOR_MAP_MAGIC = 0x70616d726f736e74ull;

struct TensorMap {
    uint64_t magic;
    const char *base;
    uint64_t size[5], stride[5]; /* elements; bytes */
    uint16_t box[5];             /* elements */
    uint8_t rank, element_bytes;
    uint8_t span; /* bytes in which chunks are swizzled: 32, 64, 128; 16: not */
};
static_assert(sizeof(TensorMap) <= sizeof(CUtensorMap), "a tensor map has 128 bytes");

/* Address bits 4 to 6 (span 128; 4 and 5: 64; 4: 32) are XORed with bits 7 to 9. */
inline uint64_t swizzled(uint64_t address, unsigned span) { return address ^ (address >> 7 & (span / 16 - 1)) << 4; }

} // namespace emu
#endif
