/* ops_avx2.c - the vector code of the operations, for AVX2. */
#if defined(__AVX2__)
#include "kernels/cpu/ops_vec.h"

const CpuOps cpu_ops_avx2 = CPU_OPS_TABLE;
#endif
