/* hopper.cuh - the instructions that only sm_90a has, as named functions: ptx.cuh's twin for the files *_sm90.cu.  The
 * emulator defines the same functions for the CPU (tests/emulator/hopper.h).
 *
 * nvcc compiles every file for several architectures: a kernel's body stands under #if HOPPER_BODY, and for the others
 * it is empty and never started.
 *
 * The way of an operand: one thread expects its bytes at an mbarrier and asks the copy engine for a box of a matrix
 * (tma_load_2d), the engine swizzles the box's rows of 128 bytes into shared memory and counts the bytes at the
 * mbarrier, a warpgroup (four warps) waits for the phase and lets the tensor cores read the tile from there (wgmma),
 * and when they have (wgmma_wait), its warps say so at another mbarrier, after which the place is free for the next
 * box.  In a cluster a box may go to several blocks at once; then those of all of them say so to whoever asks for it.
 */
#ifndef EHR_KERNELS_CUDA_HOPPER_CUH
#define EHR_KERNELS_CUDA_HOPPER_CUH
#include "kernels/cuda/cuda.cuh"

#include <cuda.h>
#include <stdint.h>

#if defined(__CUDACC__) && !(defined(__CUDA_ARCH__) && defined(__CUDA_ARCH_FEAT_SM90_ALL))
#define HOPPER_BODY 0
#else
#define HOPPER_BODY 1
#endif

enum { WARPGROUP = 128 };

/* Where wgmma finds an operand's 16 x n or 64 x 16 elements.  Rows of 128 bytes as the copy engine swizzles them
 * (layout 1), in groups of 8 that are `stride` bytes apart; lines that do not run along k: 64 of them are a row, the
 * next 64 `leading` bytes further on.  PTX ISA, matrix descriptor. */
static __device__ __forceinline__ uint64_t wgmma_descriptor(const void *shared, int leading, int stride) {
    return (uint64_t)(shared_address(shared) >> 4 & 0x3FFF) | (uint64_t)(leading >> 4) << 16 |
           (uint64_t)(stride >> 4) << 32 | (uint64_t)1 << 62;
}
/* The same operand, bytes further on in shared memory. */
static __device__ __forceinline__ uint64_t wgmma_advance(uint64_t descriptor, int bytes) {
    return descriptor + (uint64_t)(bytes >> 4);
}

#ifdef __CUDACC__

/* ---- mbarriers --------------------------------------------------------------------------------------------------- */

/* A phase ends with its `count`-th arrival, when as many bytes have come as were expected in it. */
static __device__ __forceinline__ void mbarrier_init(uint64_t *bar, int count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(bar)), "r"(count) : "memory");
}
/* After the last mbarrier_init(), by the same thread and before the barrier that lets others use them. */
static __device__ __forceinline__ void mbarrier_published() {
    asm volatile("fence.mbarrier_init.release.cluster;\n\tfence.proxy.async.shared::cta;" ::: "memory");
}
/* Arrives, and adds bytes to what the phase waits for. */
static __device__ __forceinline__ void mbarrier_expect(uint64_t *bar, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(bar)), "r"(bytes)
                 : "memory");
}
static __device__ __forceinline__ void mbarrier_arrive(uint64_t *bar) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(bar)) : "memory");
}
/* Arrives at the mbarrier in the same place of another block of the cluster, or of this one.  What it says is that
 * wgmma has read, which was waited for; it is no fence for this thread's own stores. */
static __device__ __forceinline__ void mbarrier_arrive_at(uint64_t *bar, int rank) {
    asm volatile("{\n\t"
                 ".reg .b32 there;\n\t"
                 "mapa.shared::cluster.u32 there, %0, %1;\n\t"
                 "mbarrier.arrive.shared::cluster.b64 _, [there];\n\t"
                 "}" ::"r"(shared_address(bar)),
                 "r"(rank)
                 : "memory");
}
/* Waits for the end of the phase of this parity: 0 for the first, 1 for the second, ...; 1 returns at once on a new
 * one. */
static __device__ __forceinline__ void mbarrier_wait(uint64_t *bar, int parity) {
    asm volatile("{\n\t"
                 ".reg .pred done;\n\t"
                 "again:\n\t"
                 "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n\t"
                 "@done bra out;\n\t"
                 "bra again;\n\t"
                 "out:\n\t"
                 "}" ::"r"(shared_address(bar)),
                 "r"(parity)
                 : "memory");
}

/* ---- the copy engine --------------------------------------------------------------------------------------------- */

static __device__ __forceinline__ void tma_prefetch(const CUtensorMap *map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"((uint64_t)map) : "memory");
}
/* The map's box with its first element at column x, row y; elements outside the matrix are zeros, and count as bytes.
 */
static __device__ __forceinline__ void tma_load_2d(void *shared, const CUtensorMap *map, int x, int y, uint64_t *bar) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(
            shared_address(shared)),
        "l"((uint64_t)map), "r"(shared_address(bar)), "r"(x), "r"(y)
        : "memory");
}
/* Into the same place of each block of the cluster whose bit is set in `blocks`; each counts the bytes at its own
 * mbarrier in the place of bar. */
static __device__ __forceinline__ void tma_multicast_2d(void *shared, const CUtensorMap *map, int x, int y,
                                                        uint64_t *bar, int blocks) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
                 "[%0], [%1, {%3, %4}], [%2], %5;" ::"r"(shared_address(shared)),
                 "l"((uint64_t)map), "r"(shared_address(bar)), "r"(x), "r"(y), "h"((uint16_t)blocks)
                 : "memory");
}
/* The other way, from shared memory; what lies outside the matrix is left out.  By one thread, after the proxy_fence()
 * of those who wrote the box and a barrier; in groups, as cp.async. */
static __device__ __forceinline__ void tma_store_2d(const CUtensorMap *map, int x, int y, const void *shared) {
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];" ::"l"((uint64_t)map),
                 "r"(shared_address(shared)), "r"(x), "r"(y)
                 : "memory");
}
static __device__ __forceinline__ void tma_store_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
/* Waits until at most `pending` of this thread's groups have still to read shared memory. */
template <int pending> static __device__ __forceinline__ void tma_store_wait() {
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(pending) : "memory");
}
/* By each thread whose stores wgmma or the copy engine will touch, before the barrier that says so. */
static __device__ __forceinline__ void proxy_fence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

/* ---- clusters ---------------------------------------------------------------------------------------------------- */

/* Blocks that run at the same time on neighbouring multiprocessors and reach each other's shared memory, as long as
 * none has left: before the first reach and after the last one all threads of all blocks meet. */
static __device__ __forceinline__ int cluster_rank() {
    uint32_t rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return (int)rank;
}
/* By whole warps; what a thread did before it arrived, all know who have waited. */
static __device__ __forceinline__ void cluster_arrive() {
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}
static __device__ __forceinline__ void cluster_wait() {
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

/* ---- registers --------------------------------------------------------------------------------------------------- */

/* From here on this warpgroup has COUNT registers a thread. */
template <int COUNT> static __device__ __forceinline__ void registers_release() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT));
}
template <int COUNT> static __device__ __forceinline__ void registers_take() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT));
}

/* ---- tensor cores ------------------------------------------------------------------------------------------------ */

/* Before a wgmma whose registers the threads touched last. */
static __device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
static __device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
/* Waits until at most `pending` of the committed groups are under way.  Until then their accumulators, register
 * operands and shared memory are not to be touched. */
template <int pending> static __device__ __forceinline__ void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
}

/* Keeps the compiler, which does not know that wgmma is asynchronous, from moving what uses or makes these registers
 * across this point: after a wgmma_wait(), before a wgmma_fence(). */
template <int N> static __device__ __forceinline__ void wgmma_settle(float (*d)[4]) {
#pragma unroll
    for (int j = 0; j < N / 8; j++)
        asm volatile("" : "+f"(d[j][0]), "+f"(d[j][1]), "+f"(d[j][2]), "+f"(d[j][3])::"memory");
}
template <int STEPS> static __device__ __forceinline__ void wgmma_settle(uint32_t (*a)[4]) {
#pragma unroll
    for (int k = 0; k < STEPS; k++)
        asm volatile("" : "+r"(a[k][0]), "+r"(a[k][1]), "+r"(a[k][2]), "+r"(a[k][3])::"memory");
}

/* d = a b, plus d if accumulate, asynchronously: a (64, 16), b (16, N) by descriptor, bf16; d[j] as mma_m16n8k16_bf16()
 * has it for rows 16 w to 16 w + 15, w the warp in its warpgroup, and columns 8 j to 8 j + 7. */
template <int N, bool A_ALONG_K, bool B_ALONG_K>
static __device__ __forceinline__ void wgmma(float (*d)[4], uint64_t a, uint64_t b, int accumulate);

#define SUMS_1(i) "+f"(d[i][0]), "+f"(d[i][1]), "+f"(d[i][2]), "+f"(d[i][3])
#define SUMS_2(i) SUMS_1(i), SUMS_1(i + 1)
#define SUMS_4(i) SUMS_2(i), SUMS_2(i + 2)
#define SUMS_8(i) SUMS_4(i), SUMS_4(i + 4)
#define SUMS_16(i) SUMS_8(i), SUMS_8(i + 8)
#define SUMS_32(i) SUMS_16(i), SUMS_16(i + 16)
#define REGISTERS_256                                                                                                  \
    "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%"  \
    "30,%31,"                                                                                                          \
    "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59," \
    "%60,%61,%62,%63,"                                                                                                 \
    "%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91," \
    "%92,%93,%94,%95,"                                                                                                 \
    "%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111,%112,%113,%114,%115,%116,%117,%118,%" \
    "119,%120,%121,%122,%123,%124,%125,%126,%127"
#define REGISTERS_192                                                                                                  \
    "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%"  \
    "30,%31,"                                                                                                          \
    "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59," \
    "%60,%61,%62,%63,"                                                                                                 \
    "%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91," \
    "%92,%93,%94,%95"
#define REGISTERS_128                                                                                                  \
    "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%"  \
    "30,%31,"                                                                                                          \
    "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59," \
    "%60,%61,%62,%63"
#define REGISTERS_64                                                                                                   \
    "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%"  \
    "30,%31"
#define REGISTERS_16 "%0,%1,%2,%3,%4,%5,%6,%7"
#define WGMMA_256(A, B)                                                                                                \
    template <>                                                                                                        \
    __device__ __forceinline__ void wgmma<256, A, B>(float(*d)[4], uint64_t a, uint64_t b, int accumulate) {           \
        asm volatile("{\n\t"                                                                                           \
                     ".reg .pred add;\n\t"                                                                             \
                     "setp.ne.b32 add, %130, 0;\n\t"                                                                   \
                     "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {" REGISTERS_256                           \
                     "}, %128, %129, add, 1, 1, %131, %132;\n\t"                                                       \
                     "}"                                                                                               \
                     : SUMS_32(0)                                                                                      \
                     : "l"(a), "l"(b), "r"(accumulate), "n"(!(A)), "n"(!(B)));                                         \
    }
#define WGMMA_192(A, B)                                                                                                \
    template <>                                                                                                        \
    __device__ __forceinline__ void wgmma<192, A, B>(float(*d)[4], uint64_t a, uint64_t b, int accumulate) {           \
        asm volatile("{\n\t"                                                                                           \
                     ".reg .pred add;\n\t"                                                                             \
                     "setp.ne.b32 add, %98, 0;\n\t"                                                                    \
                     "wgmma.mma_async.sync.aligned.m64n192k16.f32.bf16.bf16 {" REGISTERS_192                           \
                     "}, %96, %97, add, 1, 1, %99, %100;\n\t"                                                          \
                     "}"                                                                                               \
                     : SUMS_16(0), SUMS_8(16)                                                                          \
                     : "l"(a), "l"(b), "r"(accumulate), "n"(!(A)), "n"(!(B)));                                         \
    }
#define WGMMA_128(A, B)                                                                                                \
    template <>                                                                                                        \
    __device__ __forceinline__ void wgmma<128, A, B>(float(*d)[4], uint64_t a, uint64_t b, int accumulate) {           \
        asm volatile("{\n\t"                                                                                           \
                     ".reg .pred add;\n\t"                                                                             \
                     "setp.ne.b32 add, %66, 0;\n\t"                                                                    \
                     "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" REGISTERS_128                           \
                     "}, %64, %65, add, 1, 1, %67, %68;\n\t"                                                           \
                     "}"                                                                                               \
                     : SUMS_16(0)                                                                                      \
                     : "l"(a), "l"(b), "r"(accumulate), "n"(!(A)), "n"(!(B)));                                         \
    }
#define WGMMA_64(A, B)                                                                                                 \
    template <>                                                                                                        \
    __device__ __forceinline__ void wgmma<64, A, B>(float(*d)[4], uint64_t a, uint64_t b, int accumulate) {            \
        asm volatile("{\n\t"                                                                                           \
                     ".reg .pred add;\n\t"                                                                             \
                     "setp.ne.b32 add, %34, 0;\n\t"                                                                    \
                     "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" REGISTERS_64                             \
                     "}, %32, %33, add, 1, 1, %35, %36;\n\t"                                                           \
                     "}"                                                                                               \
                     : SUMS_8(0)                                                                                       \
                     : "l"(a), "l"(b), "r"(accumulate), "n"(!(A)), "n"(!(B)));                                         \
    }
#define WGMMA_16(A, B)                                                                                                 \
    template <>                                                                                                        \
    __device__ __forceinline__ void wgmma<16, A, B>(float(*d)[4], uint64_t a, uint64_t b, int accumulate) {            \
        asm volatile("{\n\t"                                                                                           \
                     ".reg .pred add;\n\t"                                                                             \
                     "setp.ne.b32 add, %10, 0;\n\t"                                                                    \
                     "wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 {" REGISTERS_16                             \
                     "}, %8, %9, add, 1, 1, %11, %12;\n\t"                                                             \
                     "}"                                                                                               \
                     : SUMS_2(0)                                                                                       \
                     : "l"(a), "l"(b), "r"(accumulate), "n"(!(A)), "n"(!(B)));                                         \
    }
#define WGMMA_FORMS(N) WGMMA_##N(true, true) WGMMA_##N(true, false) WGMMA_##N(false, false)
WGMMA_FORMS(256)
WGMMA_FORMS(192)
WGMMA_FORMS(128)
WGMMA_FORMS(64)
WGMMA_FORMS(16)

/* The same with a in registers, laid out as mma_m16n8k16_bf16() has it, of the warp's 16 rows. */
template <int N, bool B_ALONG_K>
static __device__ __forceinline__ void wgmma_registers(float (*d)[4], const uint32_t *a, uint64_t b, int accumulate);

#define WGMMA_REGISTERS_128(B)                                                                                         \
    template <>                                                                                                        \
    __device__ __forceinline__ void wgmma_registers<128, B>(float(*d)[4], const uint32_t *a, uint64_t b,               \
                                                            int accumulate) {                                          \
        asm volatile("{\n\t"                                                                                           \
                     ".reg .pred add;\n\t"                                                                             \
                     "setp.ne.b32 add, %69, 0;\n\t"                                                                    \
                     "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" REGISTERS_128                           \
                     "}, {%64,%65,%66,%67}, %68, add, 1, 1, %70;\n\t"                                                  \
                     "}"                                                                                               \
                     : SUMS_16(0)                                                                                      \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate), "n"(!(B)));                \
    }
#define WGMMA_REGISTERS_64(B)                                                                                          \
    template <>                                                                                                        \
    __device__ __forceinline__ void wgmma_registers<64, B>(float(*d)[4], const uint32_t *a, uint64_t b,                \
                                                           int accumulate) {                                           \
        asm volatile("{\n\t"                                                                                           \
                     ".reg .pred add;\n\t"                                                                             \
                     "setp.ne.b32 add, %37, 0;\n\t"                                                                    \
                     "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" REGISTERS_64                             \
                     "}, {%32,%33,%34,%35}, %36, add, 1, 1, %38;\n\t"                                                  \
                     "}"                                                                                               \
                     : SUMS_8(0)                                                                                       \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate), "n"(!(B)));                \
    }
WGMMA_REGISTERS_128(false) WGMMA_REGISTERS_64(false) WGMMA_REGISTERS_64(true)

#endif

#endif
