/* ops_portable.c - the vector code of the operations in plain C, and the choice among the three. */
#include "kernels/cpu/ops_vec.h"

const CpuOps cpu_ops_portable = CPU_OPS_TABLE;

const CpuOps *cpu_ops(const Device *dev) {
#if defined(__x86_64__)
    if (cpu_level(dev) == CPU_AVX512) return &cpu_ops_avx512;
    if (cpu_level(dev) == CPU_AVX2) return &cpu_ops_avx2;
#endif
    (void)dev;
    return &cpu_ops_portable;
}
