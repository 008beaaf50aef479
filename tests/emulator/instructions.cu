/* instructions.cu - each built-in function and instruction of the emulator against what the CUDA manuals say of it,
 * written once more in the plainest way. */
#include "tests/emulator/planted.h"
#include "tests/emulator/planted_array.h"

#include <cstdio>
#include <cstring>

namespace {

typedef __nv_bfloat16 bf16;

#define EXPECT(condition)                                                                                              \
    do {                                                                                                               \
        if (!(condition)) return fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition), 1;            \
    } while (0)

uint32_t mixed(uint32_t x) {
    x = (x ^ x >> 16) * 0x7feb352du;
    x = (x ^ x >> 15) * 0x846ca68bu;
    return x ^ x >> 16;
}

/* ---- shuffles, votes, reductions --------------------------------------------------------------------------------- */
__global__ void shuffles_kernel(int *out, int width) {
    int t = (int)threadIdx.x, v = 100 + t;
    out[t] = __shfl_sync(~0u, v, 5, width);
    out[32 + t] = __shfl_sync(~0u, v, t + 3, width);
    out[64 + t] = __shfl_xor_sync(~0u, v, width / 2, width);
    out[96 + t] = __shfl_up_sync(~0u, v, 3u, width);
    out[128 + t] = __shfl_down_sync(~0u, v, 3u, width);
    double d = __shfl_xor_sync(~0u, (double)v + 0.25, 1);
    out[160 + t] = d == (100 + (t ^ 1)) + 0.25;
}
int shuffles() {
    for (int width = 4; width <= 32; width *= 2) {
        Array<int> out(192);
        LAUNCH(shuffles_kernel, 1, 32, 0, nullptr, out.device, width);
        std::vector<int> r = out.read();
        for (int t = 0; t < 32; t++) {
            int first = t / width * width, in = t % width;
            EXPECT(r[(size_t)t] == 100 + first + 5 % width);
            EXPECT(r[(size_t)t + 32] == 100 + first + (t + 3) % width);
            EXPECT(r[(size_t)t + 64] == 100 + (t ^ width / 2));
            EXPECT(r[(size_t)t + 96] == 100 + (in >= 3 ? t - 3 : t));
            EXPECT(r[(size_t)t + 128] == 100 + (in + 3 < width ? t + 3 : t));
            EXPECT(r[(size_t)t + 160] == 1);
        }
    }
    return 0;
}

enum { VOTES = 16 };
__global__ void votes_kernel(const uint32_t *in, uint32_t *out) {
    int t = (int)threadIdx.x;
    uint32_t v = in[t], *o = out + t * VOTES, mask = t % 2 ? 0xAAAAAAAAu : 0x55555555u;
    int all = 0;
    o[0] = __ballot_sync(mask, v & 1);
    o[1] = (uint32_t)__any_sync(mask, (v & 31) == 7);
    o[2] = (uint32_t)__all_sync(mask, v != 0);
    o[3] = __match_any_sync(~0u, v & 3);
    o[4] = __match_all_sync(mask, t % 2, &all);
    o[5] = (uint32_t)all;
    o[6] = __reduce_add_sync(mask, v);
    o[7] = __reduce_min_sync(mask, v);
    o[8] = __reduce_max_sync(mask, v);
    o[9] = (uint32_t)__reduce_min_sync(~0u, (int)v);
    o[10] = (uint32_t)__reduce_max_sync(~0u, (int)v);
    o[11] = __reduce_and_sync(~0u, v | 0xFF);
    o[12] = __reduce_or_sync(~0u, v & 0xFFFF);
    o[13] = __reduce_xor_sync(mask, v);
    o[14] = (uint32_t)__match_all_sync(~0u, v, &all);
    o[15] = (uint32_t)__reduce_add_sync(~0u, (int)(v & 1023) - 512);
}
int votes() {
    std::vector<uint32_t> v(32);
    for (uint32_t i = 0; i < 32; i++) v[i] = mixed(i + 1);
    Array<uint32_t> in(v), out(32 * VOTES);
    LAUNCH(votes_kernel, 1, 32, 0, nullptr, in.device, out.device);
    std::vector<uint32_t> r = out.read();
    for (uint32_t t = 0; t < 32; t++) {
        uint32_t e[VOTES] = {0, 0, 1, 0, t % 2 ? 0xAAAAAAAAu : 0x55555555u, 1, 0, ~0u, 0, v[0], v[0], ~0u, 0, 0, 0, 0};
        for (uint32_t i = 0; i < 32; i++) {
            e[3] |= (uint32_t)((v[i] & 3) == (v[t] & 3)) << i;
            if ((int)v[i] < (int)e[9]) e[9] = v[i];
            if ((int)v[i] > (int)e[10]) e[10] = v[i];
            e[11] &= v[i] | 0xFF;
            e[12] |= v[i] & 0xFFFF;
            e[15] += (v[i] & 1023) - 512u;
            if (i % 2 != t % 2) continue;
            e[0] |= (v[i] & 1) << i;
            e[1] |= (v[i] & 31) == 7;
            e[2] &= v[i] != 0;
            e[6] += v[i];
            if (v[i] < e[7]) e[7] = v[i];
            if (v[i] > e[8]) e[8] = v[i];
            e[13] ^= v[i];
        }
        for (uint32_t k = 0; k < VOTES; k++)
            if (r[t * VOTES + k] != e[k])
                return fprintf(stderr, "vote %u of lane %u: %08x, expected %08x\n", k, t, r[t * VOTES + k], e[k]), 1;
    }
    return 0;
}

__global__ void block_votes_kernel(int *out, int n) {
    int t = (int)threadIdx.x, votes[3];
    votes[0] = __syncthreads_count(t < n);
    votes[1] = __syncthreads_or(t < n);
    votes[2] = __syncthreads_and(t < n);
    for (int i = 0; i < 3; i++) out[t * 3 + i] = votes[i] != 0 ? votes[i] : 0;
}
int block_votes() {
    for (int n : {0, 1, 77, 96}) {
        Array<int> out(96 * 3);
        LAUNCH(block_votes_kernel, 1, 96, 0, nullptr, out.device, n);
        std::vector<int> r = out.read();
        for (size_t t = 0; t < 96; t++) {
            EXPECT(r[t * 3] == n);
            EXPECT((r[t * 3 + 1] != 0) == (n > 0));
            EXPECT((r[t * 3 + 2] != 0) == (n == 96));
        }
    }
    return 0;
}

/* ---- tensor cores and their loads -------------------------------------------------------------------------------- */
/* Fragments loaded element by element, as the PTX manual draws them; then through ldmatrix. */
__global__ void mma_bf16_kernel(const bf16 *a, const bf16 *b, const float *c, float *by_element, float *by_ldmatrix) {
    __shared__ __align__(16) bf16 as[16 * 16], bt[16 * 8]; /* b as (k, n), n contiguous */
    int t = (int)threadIdx.x, g = t / 4, q = t % 4;
    for (int i = t; i < 256; i += 32) as[i] = a[i];
    for (int i = t; i < 128; i += 32) bt[i] = b[i];
    __syncwarp();
    auto two = [](bf16 lo, bf16 hi) {
        unsigned short l, h;
        memcpy(&l, &lo, 2);
        memcpy(&h, &hi, 2);
        return (uint32_t)h << 16 | l;
    };
    uint32_t af[4], bf[2];
    for (int i = 0; i < 4; i++) {
        int row = i == 1 || i == 3 ? g + 8 : g, column = q * 2 + (i >= 2 ? 8 : 0);
        af[i] = two(a[row * 16 + column], a[row * 16 + column + 1]);
    }
    for (int i = 0; i < 2; i++) bf[i] = two(b[(q * 2 + 8 * i) * 8 + g], b[(q * 2 + 8 * i + 1) * 8 + g]);
    float cf[4], d[4];
    for (int i = 0; i < 4; i++) cf[i] = c[(i >= 2 ? g + 8 : g) * 8 + q * 2 + i % 2];
    mma_m16n8k16_bf16(d, af, bf, cf);
    for (int i = 0; i < 4; i++) by_element[(i >= 2 ? g + 8 : g) * 8 + q * 2 + i % 2] = d[i];
    ldmatrix_x4(af, &as[t % 16 * 16 + t / 16 * 8]);
    ldmatrix_x2_trans(bf, &bt[t % 16 * 8]);
    mma_m16n8k16_bf16(cf, af, bf, cf);
    for (int i = 0; i < 4; i++) by_ldmatrix[(i >= 2 ? g + 8 : g) * 8 + q * 2 + i % 2] = cf[i];
}
int mma_bf16() {
    std::vector<bf16> a(256), b(128);
    std::vector<float> c(128);
    for (uint32_t i = 0; i < 256; i++) a[i] = __float2bfloat16((float)(mixed(i) % 2001) / 1000.0f - 1.0f);
    for (uint32_t i = 0; i < 128; i++) b[i] = __float2bfloat16((float)(mixed(i + 999) % 2001) / 1000.0f - 1.0f);
    for (uint32_t i = 0; i < 128; i++) c[i] = (float)(mixed(i + 7777) % 2001) / 100.0f - 10.0f;
    Array<bf16> da(a), db(b);
    Array<float> dc(c), d1(128), d2(128);
    LAUNCH(mma_bf16_kernel, 1, 32, 0, nullptr, da.device, db.device, dc.device, d1.device, d2.device);
    std::vector<float> r1 = d1.read(), r2 = d2.read();
    for (size_t i = 0; i < 16; i++)
        for (size_t j = 0; j < 8; j++) {
            float sum = c[i * 8 + j];
            for (size_t k = 0; k < 16; k++) sum += __bfloat162float(a[i * 16 + k]) * __bfloat162float(b[k * 8 + j]);
            EXPECT(r1[i * 8 + j] == sum);
            EXPECT(r2[i * 8 + j] == sum);
        }
    return 0;
}

__global__ void mma_s8_kernel(const int8_t *a, const int8_t *b, int32_t *out) {
    int t = (int)threadIdx.x, g = t / 4, q = t % 4;
    uint32_t af[4] = {}, bf[2] = {};
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++)
            af[i] |= (uint32_t)(uint8_t)a[(i % 2 ? g + 8 : g) * 32 + q * 4 + (i >= 2 ? 16 : 0) + j] << 8 * j;
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 4; j++) bf[i] |= (uint32_t)(uint8_t)b[(q * 4 + 16 * i + j) * 8 + g] << 8 * j;
    int32_t d[4] = {1, 2, 3, 4};
    mma_m16n8k32_s8(d, af, bf, d);
    for (int i = 0; i < 4; i++) out[(i >= 2 ? g + 8 : g) * 8 + q * 2 + i % 2] = d[i];
}
int mma_s8() {
    std::vector<int8_t> a(512), b(256);
    for (uint32_t i = 0; i < 512; i++) a[i] = (int8_t)mixed(i);
    for (uint32_t i = 0; i < 256; i++) b[i] = (int8_t)mixed(i + 999);
    Array<int8_t> da(a), db(b);
    Array<int32_t> out(128);
    LAUNCH(mma_s8_kernel, 1, 32, 0, nullptr, da.device, db.device, out.device);
    std::vector<int32_t> r = out.read();
    for (size_t i = 0; i < 16; i++)
        for (size_t j = 0; j < 8; j++) {
            int32_t sum = (int32_t)(1 + j % 2 + (i >= 8 ? 2 : 0));
            for (size_t k = 0; k < 32; k++) sum += a[i * 32 + k] * b[k * 8 + j];
            EXPECT(r[i * 8 + j] == sum);
        }
    return 0;
}

__global__ void ldmatrix_kernel(uint32_t *out) {
    __shared__ __align__(16) uint16_t s[32 * 8];
    int t = (int)threadIdx.x;
    for (int i = 0; i < 8; i++) s[t * 8 + i] = (uint16_t)(t * 8 + i);
    __syncwarp();
    uint32_t r[12];
    ldmatrix_x4(r, s + t * 8);
    ldmatrix_x4_trans(r + 4, s + t * 8);
    ldmatrix_x2(r + 8, s + t % 16 * 8);
    ldmatrix_x2_trans(r + 10, s + t % 16 * 8);
    for (int i = 0; i < 12; i++) out[t * 12 + i] = r[i];
}
int ldmatrix() {
    Array<uint32_t> out(32 * 12);
    LAUNCH(ldmatrix_kernel, 1, 32, 0, nullptr, out.device);
    std::vector<uint32_t> r = out.read();
    for (uint32_t t = 0; t < 32; t++)
        for (uint32_t i = 0; i < 12; i++) {
            uint32_t matrix = i < 8 ? i % 4 : i % 2, row = t / 4, column = t % 4 * 2;
            bool transposed = (i >= 4 && i < 8) || i >= 10;
            uint32_t lo = transposed ? column * 8 + row : row * 8 + column;
            uint32_t hi = transposed ? (column + 1) * 8 + row : row * 8 + column + 1;
            EXPECT(r[t * 12 + i] == ((matrix * 64 + hi) << 16 | (matrix * 64 + lo)));
        }
    return 0;
}

__global__ void async_kernel(const int *in, int *out, int n) {
    __shared__ __align__(16) int s[256];
    int t = (int)threadIdx.x;
    cp_async_16(s + t * 4, in + t * 4, t * 4 < n);
    cp_async_commit();
    cp_async_4(s + 128 + t, in + t, t < n);
    cp_async_commit();
    cp_async_wait<1>();
    __syncthreads();
    for (int i = t; i < 128; i += 32) out[i] = s[i];
    cp_async_wait<0>();
    __syncthreads();
    out[128 + t] = s[128 + t];
}
int async_copies() {
    Array<int> in(128, 1, 1), out(160);
    LAUNCH(async_kernel, 1, 32, 0, nullptr, in.device, out.device, 20);
    std::vector<int> r = out.read();
    for (int i = 0; i < 160; i++) {
        int from = i < 128 ? i : i - 128;
        EXPECT(r[(size_t)i] == (from < 20 ? from + 1 : 0));
    }
    return 0;
}

/* ---- atomics, indices, arithmetic -------------------------------------------------------------------------------- */
__global__ void atomics_kernel(int *a, unsigned *u, unsigned long long *l) {
    int t = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    atomicAdd(&a[0], t);
    atomicMin(&a[1], -t);
    atomicMax(&a[2], t);
    atomicSub(&a[3], 1);
    atomicAnd(&u[0], ~(1u << t % 32));
    atomicOr(&u[1], 1u << t % 32);
    atomicXor(&u[2], 3u);
    atomicInc(&u[3], 9u);
    atomicDec(&u[4], 9u);
    atomicAdd(&l[0], 1ull << 40);
    for (unsigned old = 0, seen;; old = seen)
        if ((seen = atomicCAS(&u[5], old, old + 2)) == old) break;
    if (t == 63) atomicExch(&u[6], 5u);
}
int atomics() {
    Array<int> a(4);
    Array<unsigned> u(std::vector<unsigned>{~0u, 0, 1, 0, 0, 0, 0});
    Array<unsigned long long> l(1);
    LAUNCH(atomics_kernel, 2, 32, 0, nullptr, a.device, u.device, l.device);
    std::vector<int> ra = a.read();
    std::vector<unsigned> ru = u.read();
    EXPECT(ra[0] == 2016 && ra[1] == -63 && ra[2] == 63 && ra[3] == -64);
    EXPECT(ru[0] == 0 && ru[1] == ~0u && ru[2] == 1 && ru[3] == 4 && ru[4] == 6 && ru[5] == 128 && ru[6] == 5);
    EXPECT(l.read()[0] == 64ull << 40);
    return 0;
}

/* The last block to finish adds what the others left: the one pattern in which blocks meet. */
__global__ void last_block_kernel(int *parts, unsigned *count, int *sum) {
    if (threadIdx.x) return;
    parts[blockIdx.x] = (int)blockIdx.x + 1;
    __threadfence();
    if (atomicAdd(count, 1u) + 1 < gridDim.x) return;
    int s = 0;
    for (unsigned i = 0; i < gridDim.x; i++) s += parts[i];
    *sum = s;
}
int last_block() {
    Array<int> parts(20), sum(1);
    Array<unsigned> count(1);
    LAUNCH(last_block_kernel, 20, 32, 0, nullptr, parts.device, count.device, sum.device);
    EXPECT(sum.read()[0] == 210);
    return 0;
}

__global__ void indices_kernel(int *out) {
    unsigned block_number = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    out[block_number * blockDim.x * blockDim.y * blockDim.z + thread] += (int)(block_number * 1000 + thread);
}
int indices() {
    Array<int> out(24 * 30);
    LAUNCH(indices_kernel, dim3(2, 3, 4), dim3(5, 3, 2), 0, nullptr, out.device);
    std::vector<int> r = out.read();
    for (int i = 0; i < 24 * 30; i++) EXPECT(r[(size_t)i] == i / 30 * 1000 + i % 30);
    return 0;
}

int arithmetic() {
    EXPECT(min(3, 5u) == 3u && max(-1, 2) == 2 && max(1.0f, NAN) == 1.0f && min(2ll, 1) == 1);
    EXPECT(__popc(0xF0u) == 4 && __popcll(~0ull) == 64 && __ffs(8) == 4 && __ffs(0) == 0 && __clz(1) == 31 &&
           __clz(0) == 32);
    EXPECT(__clzll(1) == 63 && __brev(1u) == 0x80000000u && __brev(0x0Fu) == 0xF0000000u);
    EXPECT(__byte_perm(0x33221100u, 0x77665544u, 0x6420u) == 0x66442200u);
    EXPECT(__funnelshift_l(0x80000000u, 1u, 1u) == 3u && __funnelshift_r(1u, 2u, 1u) == 0u);
    EXPECT(__funnelshift_r(0u, 1u, 1u) == 0x80000000u && __funnelshift_l(5u, 7u, 0u) == 7u);
    EXPECT(__umulhi(0x80000000u, 4u) == 2u && __mulhi(-1, 1) == -1 && __umul64hi(1ull << 63, 4) == 2);
    EXPECT(__dp4a(0x01FF0203, 0x01010101, 10) == 10 + 1 - 1 + 2 + 3);
    EXPECT(__float_as_uint(1.0f) == 0x3F800000u && __uint_as_float(0x40000000u) == 2.0f && __int_as_float(0) == 0.0f);
    EXPECT(__float2int_rn(2.5f) == 2 && __float2int_rn(-1.5f) == -2 && __float2int_rz(-1.9f) == -1 &&
           __float2int_rd(-1.1f) == -2);
    EXPECT(__float2int_ru(1.1f) == 2 && __float2int_rn(3e10f) == INT32_MAX && __float2int_rn(NAN) == 0);
    EXPECT(__float2uint_rn(-3.0f) == 0 && __float2uint_rz(5e9f) == UINT32_MAX);
    EXPECT(__saturatef(-1.0f) == 0.0f && __saturatef(0.5f) == 0.5f && __saturatef(7.0f) == 1.0f &&
           __saturatef(NAN) == 0.0f);
    EXPECT(rsqrtf(4.0f) == 0.5f && __frcp_rn(4.0f) == 0.25f && __fdividef(1.0f, 8.0f) == 0.125f);
    EXPECT(__fmaf_rn(1.0f + 0x1p-23f, 1.0f - 0x1p-23f, -1.0f) == -0x1p-46f); /* one rounding */
    EXPECT(exp2_fast(3.0f) == 8.0f && exp2_fast(-INFINITY) == 0.0f && exp2_fast(-140.0f) == 0.0f);
    return 0;
}

} // namespace

const Instruction instructions[] = {
    {"shuffles", shuffles},
    {"votes and reductions", votes},
    {"votes of a block", block_votes},
    {"mma m16n8k16 bf16", mma_bf16},
    {"mma m16n8k32 s8", mma_s8},
    {"ldmatrix", ldmatrix},
    {"cp.async", async_copies},
    {"atomics", atomics},
    {"last block", last_block},
    {"indices", indices},
    {"arithmetic", arithmetic},
};
const int n_instructions = sizeof instructions / sizeof *instructions;
