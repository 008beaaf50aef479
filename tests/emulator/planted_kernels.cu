/* planted_kernels.cu - kernels with one bug each, and their right twins (bug = false). */
#include "tests/emulator/planted.h"

#include "tests/emulator/planted_array.h"

namespace {

int verdict(bool right) { return cudaGetLastError() ? 2 : right ? 0 : 1; }

/* ---- races in shared memory ---------------------------------------------------------------------------------- */
__global__ void reverse_kernel(const int *in, int *out, bool bug) {
    __shared__ int s[256];
    s[threadIdx.x] = in[threadIdx.x];
    if (!bug) __syncthreads();
    out[threadIdx.x] = s[255 - threadIdx.x];
}
int missing_barrier(bool bug) {
    Array<int> in(256, 0, 1), out(256);
    LAUNCH(reverse_kernel, 1, 256, 0, nullptr, in.device, out.device, bug);
    std::vector<int> r = out.read();
    bool right = true;
    for (int i = 0; i < 256; i++) right &= r[(size_t)i] == 255 - i;
    return verdict(right);
}

/* Two sums through one buffer: the second may start before slow warps have read the first. */
__device__ int block_sum(int v, int *buffer, bool bug) {
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    for (int i = 16; i; i /= 2) v += __shfl_xor_sync(~0u, v, i);
    if (!bug) __syncthreads();
    if (!lane) buffer[warp] = v;
    __syncthreads();
    v = 0;
    for (int i = 0; i < (int)blockDim.x / 32; i++) v += buffer[i];
    return v;
}
__global__ void two_sums_kernel(int *out, bool bug) {
    __shared__ int buffer[8];
    int a = block_sum((int)threadIdx.x, buffer, bug), b = block_sum(1000, buffer, bug);
    out[threadIdx.x] = a + b;
}
int reused_buffer(bool bug) {
    Array<int> out(256);
    LAUNCH(two_sums_kernel, 1, 256, 0, nullptr, out.device, bug);
    bool right = true;
    for (int v : out.read()) right &= v == 255 * 128 + 256000;
    return verdict(right);
}

__global__ void tiled_product_kernel(const float *a, const float *b, float *c, int n, bool bug) {
    __shared__ float as[16][16], bs[16][16];
    int row = blockIdx.y * 16 + threadIdx.y, column = blockIdx.x * 16 + threadIdx.x;
    float sum = 0;
    for (int k = 0; k < n; k += 16) {
        as[threadIdx.y][threadIdx.x] = a[row * n + k + threadIdx.x];
        bs[threadIdx.y][threadIdx.x] = b[(k + threadIdx.y) * n + column];
        __syncthreads();
        for (int i = 0; i < 16; i++) sum += as[threadIdx.y][i] * bs[i][threadIdx.x];
        if (!bug) __syncthreads();
    }
    c[row * n + column] = sum;
}
int overwritten_tile(bool bug) {
    enum { N = 64 };
    Array<float> a(N * N, 0, 1), b(N * N, 1, 2), c(N * N);
    LAUNCH(tiled_product_kernel, dim3(N / 16, N / 16), dim3(16, 16), 0, nullptr, a.device, b.device, c.device, (int)N,
           bug);
    std::vector<float> r = c.read();
    bool right = true;
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            float sum = 0;
            for (int k = 0; k < N; k++) sum += (float)(i * N + k) * (float)(1 + 2 * (k * N + j));
            right &= r[(size_t)(i * N + j)] == sum;
        }
    return verdict(right);
}

__global__ void warp_exchange_kernel(int *out, bool bug) {
    __shared__ int s[32];
    s[threadIdx.x] = (int)threadIdx.x;
    if (!bug) __syncwarp();
    out[threadIdx.x] = s[threadIdx.x ^ 1];
}
int missing_syncwarp(bool bug) {
    Array<int> out(32);
    LAUNCH(warp_exchange_kernel, 1, 32, 0, nullptr, out.device, bug);
    std::vector<int> r = out.read();
    bool right = true;
    for (int i = 0; i < 32; i++) right &= r[(size_t)i] == (i ^ 1);
    return verdict(right);
}

__global__ void counter_kernel(int *out, bool bug) {
    __shared__ int count;
    if (!bug && !threadIdx.x) count = 0;
    __syncthreads();
    atomicAdd(&count, 1);
    __syncthreads();
    if (!threadIdx.x) out[blockIdx.x] = count;
}
int uninitialized_shared(bool bug) {
    Array<int> out(2);
    /* Twice: a second block must not find what the first one left. */
    LAUNCH(counter_kernel, 2, 64, 0, nullptr, out.device, bug);
    bool right = true;
    for (int v : out.read()) right &= v == 64;
    return verdict(right);
}

/* Producer warps hand over through named barriers; the bug hands over before the data is written. */
__global__ void handover_kernel(int *out, bool bug) {
    __shared__ int s[32];
    if (threadIdx.x < 32) {
        if (bug) barrier_arrive(1, 64);
        s[threadIdx.x] = (int)threadIdx.x + 5;
        if (!bug) barrier_arrive(1, 64);
    } else {
        barrier_sync(1, 64);
        out[threadIdx.x - 32] = s[threadIdx.x - 32];
    }
}
int early_arrival(bool bug) {
    Array<int> out(32);
    LAUNCH(handover_kernel, 1, 64, 0, nullptr, out.device, bug);
    std::vector<int> r = out.read();
    bool right = true;
    for (int i = 0; i < 32; i++) right &= r[(size_t)i] == i + 5;
    return verdict(right);
}

/* ---- asynchronous copies ------------------------------------------------------------------------------------- */
/* Three stages in flight; wait = how many groups may still be under way. */
template <int wait>
__global__ void pipeline_kernel(const int *in, int *out, int steps, bool no_barrier, bool no_reuse_barrier) {
    __shared__ __align__(16) int s[3][128];
    int t = threadIdx.x, sum = 0;
    for (int i = 0; i < 2; i++) {
        if (t < 32) cp_async_16(&s[i][t * 4], in + i * 128 + t * 4, 1);
        cp_async_commit();
    }
    for (int i = 0; i < steps; i++) {
        if (wait >= 0) cp_async_wait<(wait >= 0 ? wait : 0)>();
        if (!no_barrier) __syncthreads();
        sum += s[i % 3][127 - t];
        int next = no_reuse_barrier ? i % 3 : (i + 2) % 3; /* the stage that everybody has left, or still reads */
        if (i + 2 < steps && t < 32) cp_async_16(&s[next][t * 4], in + (i + 2) * 128 + t * 4, 1);
        cp_async_commit();
    }
    cp_async_wait<0>();
    out[t] = sum;
}
int pipeline(int wait, bool no_barrier, bool no_reuse_barrier) {
    enum { STEPS = 8 };
    Array<int> in(STEPS * 128, 0, 1), out(128);
    if (wait == 1)
        LAUNCH((pipeline_kernel<1>), 1, 128, 0, nullptr, in.device, out.device, (int)STEPS, no_barrier,
               no_reuse_barrier);
    if (wait == 2)
        LAUNCH((pipeline_kernel<2>), 1, 128, 0, nullptr, in.device, out.device, (int)STEPS, no_barrier,
               no_reuse_barrier);
    if (wait < 0)
        LAUNCH((pipeline_kernel<-1>), 1, 128, 0, nullptr, in.device, out.device, (int)STEPS, no_barrier,
               no_reuse_barrier);
    std::vector<int> r = out.read();
    bool right = true;
    for (int t = 0; t < 128; t++) {
        int sum = 0;
        for (int i = 0; i < STEPS; i++) sum += i * 128 + 127 - t;
        right &= r[(size_t)t] == sum;
    }
    return verdict(right);
}
int copy_not_waited_for(bool bug) { return pipeline(bug ? -1 : 1, false, false); }
int wrong_group_count(bool bug) { return pipeline(bug ? 2 : 1, false, false); }
int copy_without_barrier(bool bug) { return pipeline(1, bug, false); }
int copy_into_read_stage(bool bug) { return pipeline(1, false, bug); }

__global__ void misaligned_copy_kernel(const int *in, int *out, bool bug) {
    __shared__ __align__(16) int s[8];
    cp_async_16(s, in + (bug ? 1 : 4), 1);
    cp_async_commit();
    cp_async_wait<0>();
    *out = s[0];
}
int misaligned_copy(bool bug) {
    Array<int> in(16, 0, 1), out(1);
    LAUNCH(misaligned_copy_kernel, 1, 1, 0, nullptr, in.device, out.device, bug);
    return verdict(out.read()[0] == 4);
}

/* ---- addresses ----------------------------------------------------------------------------------------------- */
__global__ void fill_kernel(float *out, int n, bool bug) {
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (bug ? i <= n : i < n) out[i] = 1;
}
int global_overrun(bool bug) {
    int wrong = 0;
    {
        Array<float> out(100);
        LAUNCH(fill_kernel, 4, 32, 0, nullptr, out.device, 100, bug);
        wrong = verdict(out.read()[99] == 1);
    }
    return wrong;
}

__global__ void fill_shared_kernel(int *out, int n) {
    DYNAMIC_SHARED(int, s);
    for (int i = (int)threadIdx.x; i < n; i += 32) s[i] = i;
    __syncthreads();
    if (!threadIdx.x) *out = s[0];
}
int shared_overrun(bool bug) {
    Array<int> out(1);
    LAUNCH(fill_shared_kernel, 1, 32, 200, nullptr, out.device, bug ? 51 : 50);
    return verdict(out.read()[0] == 0);
}

/* ---- warp operations and barriers ---------------------------------------------------------------------------- */
__global__ void missing_lane_kernel(int *out, bool bug) {
    int v = (int)threadIdx.x;
    if (bug && threadIdx.x == 7) return;
    for (int i = 16; i; i /= 2) v += __shfl_xor_sync(~0u, v, i);
    out[threadIdx.x] = v;
}
int missing_lane(bool bug) {
    Array<int> out(32);
    LAUNCH(missing_lane_kernel, 1, 32, 0, nullptr, out.device, bug);
    return verdict(out.read()[0] == 496);
}

__global__ void divergent_lanes_kernel(int *out, bool bug) {
    int v = (int)threadIdx.x;
    if (bug && threadIdx.x == 7) v += (int)__ballot_sync(~0u, 1);
    v += __shfl_xor_sync(~0u, v, 1);
    out[threadIdx.x] = v;
}
int divergent_lanes(bool bug) {
    Array<int> out(32);
    LAUNCH(divergent_lanes_kernel, 1, 32, 0, nullptr, out.device, bug);
    return verdict(out.read()[0] == 1);
}

__global__ void outside_mask_kernel(int *out, bool bug) {
    int v = (int)threadIdx.x;
    if (threadIdx.x < 16) v = __shfl_sync(0xFFFFu, v, bug ? 20 : 2);
    out[threadIdx.x] = v;
}
int lane_outside_mask(bool bug) {
    Array<int> out(32);
    LAUNCH(outside_mask_kernel, 1, 32, 0, nullptr, out.device, bug);
    return verdict(out.read()[0] == 2);
}

__global__ void divergent_barrier_kernel(int *out, bool bug) {
    if (bug && threadIdx.x < 16) __syncthreads();
    else __syncthreads();
    out[threadIdx.x] = 1;
}
int divergent_barrier(bool bug) {
    Array<int> out(64);
    LAUNCH(divergent_barrier_kernel, 1, 64, 0, nullptr, out.device, bug);
    return verdict(out.read()[0] == 1);
}

__global__ void early_exit_kernel(int *out, int n, bool bug) {
    if (bug && (int)threadIdx.x >= n) return;
    __syncthreads();
    if ((int)threadIdx.x < n) out[threadIdx.x] = 1;
}
int exit_before_barrier(bool bug) {
    Array<int> out(50);
    LAUNCH(early_exit_kernel, 1, 64, 0, nullptr, out.device, 50, bug);
    return verdict(out.read()[49] == 1);
}

__global__ void named_barrier_kernel(int *out, int other) {
    barrier_sync(3, threadIdx.x < 32 ? 64 : other);
    out[threadIdx.x] = 1;
}
int barrier_counts_differ(bool bug) {
    Array<int> out(96);
    LAUNCH(named_barrier_kernel, 1, 64, 0, nullptr, out.device, bug ? 96 : 64);
    return verdict(out.read()[0] == 1);
}
int barrier_incomplete(bool bug) {
    Array<int> out(96);
    LAUNCH(named_barrier_kernel, 1, bug ? 32 : 64, 0, nullptr, out.device, 64);
    return verdict(out.read()[0] == 1);
}

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
__global__ void unset_kernel(float *out, bool bug) {
    float sum[4];
    if (!bug)
        for (float &v : sum) v = 0;
    for (int i = 0; i < 8; i++) sum[i % 4] += 1;
    *out = sum[0] + sum[1] + sum[2] + sum[3];
}
#pragma GCC diagnostic pop
int unset_accumulator(bool bug) {
    Array<float> out(1);
    LAUNCH(unset_kernel, 1, 1, 0, nullptr, out.device, bug);
    return verdict(out.read()[0] == 8);
}

/* ---- blocks -------------------------------------------------------------------------------------------------- */
__global__ void chain_kernel(int *out, bool bug) {
    int b = (int)blockIdx.x;
    out[b] = bug && b ? out[b - 1] + 1 : b;
}
int block_needs_block(bool bug) {
    Array<int> out(50);
    LAUNCH(chain_kernel, 50, 1, 0, nullptr, out.device, bug);
    std::vector<int> r = out.read();
    bool right = true;
    for (int i = 0; i < 50; i++) right &= r[(size_t)i] == i;
    return verdict(right);
}

} // namespace

const Planted planted_kernels[] = {
    {"missing __syncthreads", missing_barrier, WRONG_RESULT, "race for shared s"},
    {"reduction buffer reused too early", reused_buffer, WRONG_RESULT, "race for shared buffer"},
    {"tile overwritten while others read it", overwritten_tile, WRONG_RESULT, "race for shared"},
    {"missing __syncwarp", missing_syncwarp, WRONG_RESULT, "race for shared s"},
    {"shared memory taken for zero", uninitialized_shared, WRONG_RESULT, ""},
    {"arrival at a named barrier before the data", early_arrival, WRONG_RESULT, "race for shared s"},
    {"async copy read without a wait", copy_not_waited_for, WRONG_RESULT, "under way"},
    {"async copy: wait for one group too few", wrong_group_count, WRONG_RESULT, "under way"},
    {"async copy of another thread without a barrier", copy_without_barrier, WRONG_RESULT,
     "race for shared s|under way"},
    {"async copy into a stage still read", copy_into_read_stage, WRONG_RESULT, "race for shared s|under way"},
    {"async copy from a misaligned address", misaligned_copy, FAULT, "addresses are not multiples of 16"},
    {"store behind a global array", global_overrun, FAULT,
     "was overrun|AddressSanitizer: use-after-poison|ends 4 bytes behind an allocation of 400"},
    {"store behind dynamic shared memory", shared_overrun, FAULT,
     "behind its 200|AddressSanitizer: use-after-poison|4 bytes behind the block's 200"},
    {"lane missing from a full mask", missing_lane, FAULT, "left the kernel"},
    {"lanes of one warp in different operations", divergent_lanes, FAULT, "__shfl_xor_sync"},
    {"shuffle from a lane outside the mask", lane_outside_mask, FAULT, "reads lane 20, which is not in the mask"},
    {"barrier in divergent code", divergent_barrier, FAULT, "in divergent code"},
    {"exit before a barrier", exit_before_barrier, FAULT, "left the kernel"},
    {"named barrier with two counts", barrier_counts_differ, FAULT, "barrier 3 among"},
    {"named barrier that nobody completes", barrier_incomplete, FAULT, "no thread can go on|at most the block's 32"},
    {"accumulator that was never set", unset_accumulator, WRONG_RESULT, ""},
    {"block that needs another block", block_needs_block, WRONG_RESULT, "what block"},
};
const int n_planted_kernels = sizeof planted_kernels / sizeof *planted_kernels;
