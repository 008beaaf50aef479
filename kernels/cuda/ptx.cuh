/* ptx.cuh - every PTX instruction the kernels use, as a named function.  The emulator defines the same functions for the
 * CPU (tests/emulator/cuda_emu.h); nothing else in kernels/cuda/ may contain asm but hopper.cuh, for sm_90a alone. */
#ifndef EHR_KERNELS_CUDA_PTX_CUH
#define EHR_KERNELS_CUDA_PTX_CUH
#include <stdint.h>

static __device__ __forceinline__ uint32_t shared_address(const void *smem) {
    return (uint32_t)__cvta_generic_to_shared(smem);
}

/* d = a b + c: a (16, 16) row-major, b (16, 8) column-major, bf16; c, d (16, 8) float.  PTX ISA, fragments of m16n8k16. */
static __device__ __forceinline__ void mma_m16n8k16_bf16(float *d, const uint32_t *a, const uint32_t *b, const float *c) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};"
                 : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]), "f"(c[2]),
                   "f"(c[3]));
}

/* d = a b + c: a (16, 32) row-major, b (32, 8) column-major, int8; c, d (16, 8) int32, exact. */
static __device__ __forceinline__ void mma_m16n8k32_s8(int32_t *d, const uint32_t *a, const uint32_t *b, const int32_t *c) {
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};"
                 : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(c[0]), "r"(c[1]), "r"(c[2]),
                   "r"(c[3]));
}

/* Four (or two) 8x8 matrices of 16-bit elements; lane l names row l % 8 of matrix l / 8 (16 bytes, aligned to 16). */
static __device__ __forceinline__ void ldmatrix_x4(uint32_t *r, const void *smem) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(smem)) : "memory");
}
static __device__ __forceinline__ void ldmatrix_x4_trans(uint32_t *r, const void *smem) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(smem)) : "memory");
}
static __device__ __forceinline__ void ldmatrix_x2(uint32_t *r, const void *smem) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1]) : "r"(shared_address(smem)) : "memory");
}
static __device__ __forceinline__ void ldmatrix_x2_trans(uint32_t *r, const void *smem) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1]) : "r"(shared_address(smem)) : "memory");
}

/* Copies 16 bytes from global to shared memory behind the thread's back; valid = 0 writes zeros and reads nothing.
 * Both addresses are multiples of 16.  The bytes are there after cp_async_wait and a barrier. */
static __device__ __forceinline__ void cp_async_16(void *smem, const void *global, int valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(smem)), "l"(global), "r"(valid ? 16 : 0)
                 : "memory");
}
/* The same for 4 bytes, through L1: for rows that are not a multiple of 16 bytes apart. */
static __device__ __forceinline__ void cp_async_4(void *smem, const void *global, int valid) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(smem)), "l"(global), "r"(valid ? 4 : 0)
                 : "memory");
}
static __device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/* Waits until at most `pending` of this thread's committed groups are still under way. */
template <int pending> static __device__ __forceinline__ void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

/* Named barriers 1 to 15 among `threads` threads of a block (a multiple of 32); 0 is __syncthreads(). */
static __device__ __forceinline__ void barrier_sync(int id, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
static __device__ __forceinline__ void barrier_arrive(int id, int threads) {
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

/* 2^x to about 2 units in the last place; 2^-inf = 0. */
static __device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

#endif
