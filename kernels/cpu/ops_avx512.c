/* ops_avx512.c - the vector code of the operations, for AVX-512. */
#if defined(__AVX512F__)
#include "kernels/cpu/ops_vec.h"

const CpuOps cpu_ops_avx512 = CPU_OPS_TABLE;
#endif
