/* swiglu.cuh - silu(gate) * up of one pair, with the same bits wherever it is computed: in the epilogue of the product
 * that makes the pair, and from a kept gate_up.  Roundings are spelled out: no compiler may fuse them in one place and
 * not in the other.  For bf16 a fast exponential and reciprocal do (about 2^-21 each, against the 2^-9 of a result). */
#ifndef EHR_KERNELS_CUDA_SWIGLU_CUH
#define EHR_KERNELS_CUDA_SWIGLU_CUH
#include "kernels/cuda/cuda.cuh"

template <typename T> static __device__ __forceinline__ float swiglu_value(float gate, float up);

template <> __device__ __forceinline__ float swiglu_value<float>(float gate, float up) {
    return __fmul_rn(__fdiv_rn(gate, __fadd_rn(1.0f, expf(-gate))), up);
}

template <> __device__ __forceinline__ float swiglu_value<bf16>(float gate, float up) {
    float e = exp2_fast(__fmul_rn(gate, -1.442695041f)); /* infinity below -88: the quotient is then 0 */
    return __fmul_rn(__fdividef(gate, __fadd_rn(1.0f, e)), up);
}

#endif
