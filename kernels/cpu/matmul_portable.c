/* matmul_portable.c - plain C with fmaf, for any machine; a compiler that has a fused multiply-add vectorises it. */
#define TILE_PORTABLE 1
#define TILE_ROWS 4
#define TILE_VECS 1
#include "kernels/cpu/matmul_tile.h"

const CpuIsa cpu_isa_portable = CPU_ISA_TABLE(CPU_PORTABLE, "portable");
