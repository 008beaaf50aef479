/* matmul_avx2.c - 6 x 16 tiles: 12 of 16 registers accumulate, two hold b, one broadcasts a. */
#if defined(__AVX2__)
#define TILE_ROWS 6
#define TILE_VECS 1
#include "kernels/cpu/matmul_tile.h"

const CpuIsa cpu_isa_avx2 = CPU_ISA_TABLE(CPU_AVX2, "AVX2");
#endif
