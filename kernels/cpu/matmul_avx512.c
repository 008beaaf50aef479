/* matmul_avx512.c - 14 x 32 tiles: 28 of 32 registers accumulate, two hold b, one broadcasts a. */
#if defined(__AVX512F__)
#define TILE_ROWS 14
#define TILE_VECS 2
#include "kernels/cpu/matmul_tile.h"

const CpuIsa cpu_isa_avx512 = CPU_ISA_TABLE(CPU_AVX512, "AVX-512");
#endif
