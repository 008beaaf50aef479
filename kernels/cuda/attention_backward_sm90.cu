/* attention_backward_sm90.cu - gradients of causal attention on Hopper (sm_90a): the two kernels of
 * attention_backward.cu, which has the formulas, over wgmma.
 *
 * Each of two warpgroups owns 64 rows; a third one's first warp has the copy engine bring 64 rows of the other side at
 * a time, three steps ahead.  Scores and dout v^T are products from shared memory.  Weights stay in registers, the left
 * operand of the next products, whose right operand is read across its rows: no weight passes through shared memory and
 * no barrier stands between the warpgroups, so that one has its exponentials while the other multiplies.
 *
 * A box of the copy engine knows nothing of sequences.  Rows behind the sequence, in its last step, are a neighbour's:
 * they are made zeros before anybody multiplies them, since 0 times NaN is not 0. */
#include "kernels/cuda/attention_sm90.cuh"

#include <math.h>

namespace {

constexpr int ROWS = 128, STEP = 64, STAGES = 3, THREADS = 3 * WARPGROUP;

/* SHARED: a warpgroup's two tiles each, then the stages. */
template <int D> struct Layout {
    static constexpr int TILE = HeadTile<D>::BYTES, OWN = 4 * TILE, STAGE = 2 * TILE + 1024;
    static constexpr int BARRIERS = OWN + STAGES * STAGE, SHARED = BARRIERS + (2 * STAGES + 1) * 8;
};

struct Barriers {
    uint64_t *full, *empty, *own;
};

[[maybe_unused]] __device__ __forceinline__ Barriers barriers_init(char *at, int writers) {
    Barriers b = {(uint64_t *)at, (uint64_t *)at + STAGES, (uint64_t *)at + 2 * STAGES};
    if (threadIdx.x == 0) {
        for (int s = 0; s < STAGES; s++) {
            mbarrier_init(b.full + s, 1 + writers);
            mbarrier_init(b.empty + s, 8); /* warps */
        }
        mbarrier_init(b.own, 1);
        mbarrier_published();
    }
    __syncthreads();
    return b;
}

/* Both tiles of a stage: rows from `valid` on are no longer anybody's.  By all consumers. */
template <int D> __device__ __forceinline__ void tail_zero(char *stage, int valid) {
    constexpr int CHUNKS = 8 * 2 * D / 64; /* of a row, in both tiles */
    for (int i = (int)threadIdx.x; i < (STEP - valid) * CHUNKS; i += 2 * WARPGROUP)
        *(uint4 *)(stage + i / 8 % (CHUNKS / 8) * BOX + (valid + i / CHUNKS) * 128 + i % 8 * 16) =
            make_uint4(0, 0, 0, 0);
    proxy_fence();
    barrier_sync(1, 2 * WARPGROUP);
}

/* ---- keys and values --------------------------------------------------------------------------------------------- */

struct KeyWork {
    const float *mean, *lse2;
    int begin, length, at, q_begin, q_end; /* of the sequence; the tile's first row there; steps of queries */
    int g, ratio, N, H, G;
};

template <int D>
__device__ __forceinline__ void keys_produce(const KeyWork &w, const CUtensorMap *qk, const CUtensorMap *qkv,
                                             const CUtensorMap *dout, char *shared, Barriers bars) {
    using L = Layout<D>;
    const int lane = threadIdx.x % 32;
    if (lane == 0) {
        mbarrier_expect(bars.own, L::OWN);
        for (int i = 0; i < 2; i++) {
            const int row = w.begin + w.at + 64 * i;
            tile_fetch<D>(shared + 2 * i * L::TILE, qk, (w.H + w.g) * D, row, bars.own);
            tile_fetch<D>(shared + (2 * i + 1) * L::TILE, qkv, (w.H + w.G + w.g) * D, row, bars.own);
        }
    }
    int stage = 0, parity = 1;
    for (int head = w.g * w.ratio; head < (w.g + 1) * w.ratio; head++)
        for (int block = w.q_begin; block < w.q_end; block++) {
            char *to = shared + L::OWN + stage * L::STAGE;
            float *sums = (float *)(to + 2 * L::TILE);
            const int valid = w.length - block * STEP;
            const size_t row = (size_t)head * w.N + w.begin + block * STEP;
            mbarrier_wait(bars.empty + stage, parity);
            if (lane == 0) {
                mbarrier_expect(bars.full + stage, 2 * L::TILE);
                tile_fetch<D>(to, qk, head * D, w.begin + block * STEP, bars.full + stage);
                tile_fetch<D>(to + L::TILE, dout, head * D, w.begin + block * STEP, bars.full + stage);
            }
            for (int r = lane; r < STEP; r += 32) {
                sums[r] = r < valid ? w.lse2[row + r] : 0;
                sums[STEP + r] = r < valid ? w.mean[row + r] : 0;
            }
            mbarrier_arrive(bars.full + stage);
            if (++stage == STAGES) stage = 0, parity ^= 1;
        }
}

/* p and dscore, transposed: rows are the warpgroup's keys, columns the step's queries. */
[[maybe_unused]] __device__ __forceinline__ void key_weights(uint32_t (*p)[4], uint32_t (*ds)[4], float (*s)[4],
                                                             float (*dp)[4], const float *sums, int key, int query,
                                                             float scale) {
    const int lane = threadIdx.x % 32, row = key + threadIdx.x % WARPGROUP / 32 * 16 + lane / 4;
    const bool diagonal = query < key + 63;
#pragma unroll
    for (int n = 0; n < STEP / 8; n++) {
        const int column = n * 8 + lane % 4 * 2;
        const float2 lse2 = *(const float2 *)(sums + column), mean = *(const float2 *)(sums + STEP + column);
#pragma unroll
        for (int e = 0; e < 4; e++) {
            float w = exp2_fast(fmaf(s[n][e], scale, e & 1 ? -lse2.y : -lse2.x));
            if (diagonal && query + column + (e & 1) < row + (e >> 1) * 8) w = 0;
            s[n][e] = w;
            dp[n][e] = w * (dp[n][e] - (e & 1 ? mean.y : mean.x));
        }
    }
#pragma unroll
    for (int k = 0; k < STEP / 16; k++) {
        fragment_of(p[k], s[2 * k], s[2 * k + 1]);
        fragment_of(ds[k], dp[2 * k], dp[2 * k + 1]);
    }
}

template <int D>
__device__ __forceinline__ void keys_consume(const KeyWork &w, float (*dk)[4], float (*dv)[4], char *shared,
                                             const char *own, Barriers bars, float scale) {
    using L = Layout<D>;
    const int key = w.at + (int)threadIdx.x / WARPGROUP * 64;
    int stage = 0, parity = 0;
    mbarrier_wait(bars.own, 0);
    for (int head = 0; head < w.ratio; head++)
        for (int block = w.q_begin; block < w.q_end; block++) {
            char *q = shared + L::OWN + stage * L::STAGE, *dout = q + L::TILE;
            mbarrier_wait(bars.full + stage, parity);
            if (w.length - block * STEP < STEP) tail_zero<D>(q, w.length - block * STEP);
            if (block * STEP + STEP > key) {
                float s[STEP / 8][4], dp[STEP / 8][4];
                uint32_t p[STEP / 16][4], ds[STEP / 16][4];
                wgmma_fence();
                rows_by_rows<D>(s, own, q);
                rows_by_rows<D>(dp, own + L::TILE, dout);
                wgmma_commit();
                wgmma_wait<0>();
                wgmma_settle<STEP>(s);
                wgmma_settle<STEP>(dp);
                key_weights(p, ds, s, dp, (const float *)(q + 2 * L::TILE), key, block * STEP, scale);
                wgmma_settle<STEP / 16>(p);
                wgmma_settle<STEP / 16>(ds);
                wgmma_fence();
                weights_by_rows<D, false>(dv, p, dout);
                weights_by_rows<D, false>(dk, ds, q);
                wgmma_commit();
                wgmma_wait<0>();
                wgmma_settle<D>(dv);
                wgmma_settle<D>(dk);
            }
            __syncwarp();
            if (threadIdx.x % 32 == 0) mbarrier_arrive(bars.empty + stage);
            if (++stage == STAGES) stage = 0, parity ^= 1;
        }
}

template <int D>
__global__ void __launch_bounds__(THREADS, 1)
    hopper_attention_keys_kernel(const __grid_constant__ CUtensorMap qk_map,
                                 const __grid_constant__ CUtensorMap qkv_map,
                                 const __grid_constant__ CUtensorMap dout_map, bf16 *dqk, bf16 *dqkv, const float *mean,
                                 const float *lse2, const int32_t *cu_seqlens, int n_seq, int N, int H, int G,
                                 float scale) {
#if HOPPER_BODY
    using L = Layout<D>;
    DYNAMIC_SHARED(char, shared);
    const int g = blockIdx.x % G;
    const RowTile t = row_tile([=](int u) { return cu_seqlens[u]; }, n_seq, N, ROWS, blockIdx.x / G);
    if (t.first >= t.end) return;
    const size_t ld_qk = (size_t)(H + G) * D, ld_qkv = (size_t)(H + 2 * G) * D;
    const int rows = min(ROWS, t.end - t.first), at = t.first - t.begin, length = t.end - t.begin;
    bf16 *dk_to = dqk + t.first * ld_qk + (H + g) * D, *dv_to = dqkv + t.first * ld_qkv + (H + G + g) * D;
    if (t.unit == n_seq) { /* rows of no sequence */
        rows_zero<D>(dk_to, ld_qk, rows);
        rows_zero<D>(dv_to, ld_qkv, rows);
        return;
    }
    const Barriers bars = barriers_init(shared + L::BARRIERS, 32);
    const KeyWork w = {mean, lse2, t.begin, length, at, at / STEP, (length + STEP - 1) / STEP, g, H / G, N, H, G};
    const int group = threadIdx.x / WARPGROUP;
    if (group == 2) {
        registers_release<24>();
        if (threadIdx.x / 32 == 8) keys_produce<D>(w, &qk_map, &qkv_map, &dout_map, shared, bars);
    } else {
        registers_take<240>();
        float dk[D / 8][4] = {}, dv[D / 8][4] = {};
        char *own = shared + 2 * group * L::TILE;
        keys_consume<D>(w, dk, dv, shared, own, bars, scale * LOG2_E);
        barrier_sync(2 + group, WARPGROUP); /* all four warps have read the tiles */
        const int left = rows - 64 * group;
        result_write<D>(dk_to + (size_t)64 * group * ld_qk, ld_qk, own, dk, scale, scale, left);
        result_write<D>(dv_to + (size_t)64 * group * ld_qkv, ld_qkv, own + L::TILE, dv, 1, 1, left);
    }
#endif
}

/* ---- queries ----------------------------------------------------------------------------------------------------- */

struct QueryWork {
    int begin, length, at, blocks; /* of the sequence; the tile's first row there; steps of keys */
    int head, g, H, G;
};

template <int D>
__device__ __forceinline__ void queries_produce(const QueryWork &w, const CUtensorMap *qk, const CUtensorMap *qkv,
                                                const CUtensorMap *dout, char *shared, Barriers bars) {
    using L = Layout<D>;
    mbarrier_expect(bars.own, L::OWN);
    for (int i = 0; i < 2; i++) {
        const int row = w.begin + w.at + 64 * i;
        tile_fetch<D>(shared + 2 * i * L::TILE, qk, w.head * D, row, bars.own);
        tile_fetch<D>(shared + (2 * i + 1) * L::TILE, dout, w.head * D, row, bars.own);
    }
    int stage = 0, parity = 1;
    for (int b = 0; b < w.blocks; b++) {
        char *to = shared + L::OWN + stage * L::STAGE;
        mbarrier_wait(bars.empty + stage, parity);
        mbarrier_expect(bars.full + stage, 2 * L::TILE);
        tile_fetch<D>(to, qk, (w.H + w.g) * D, w.begin + b * STEP, bars.full + stage);
        tile_fetch<D>(to + L::TILE, qkv, (w.H + w.G + w.g) * D, w.begin + b * STEP, bars.full + stage);
        if (++stage == STAGES) stage = 0, parity ^= 1;
    }
}

/* dscore: rows are the warpgroup's queries, columns the step's keys. */
[[maybe_unused]] __device__ __forceinline__ void query_weights(uint32_t (*ds)[4], const float (*s)[4], float (*dp)[4],
                                                               const float *lse2, const float *mean, int row, int key,
                                                               bool diagonal, float scale) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < STEP / 8; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            float w = exp2_fast(fmaf(s[n][e], scale, -lse2[e >> 1]));
            if (diagonal && key + n * 8 + lane % 4 * 2 + (e & 1) > row + (e >> 1) * 8) w = 0;
            dp[n][e] = w * (dp[n][e] - mean[e >> 1]);
        }
#pragma unroll
    for (int k = 0; k < STEP / 16; k++) fragment_of(ds[k], dp[2 * k], dp[2 * k + 1]);
}

template <int D>
__device__ __forceinline__ void queries_consume(const QueryWork &w, float (*dq)[4], char *shared, const char *own,
                                                Barriers bars, const float *lse2, const float *mean, float scale) {
    using L = Layout<D>;
    const int query = w.at + (int)threadIdx.x / WARPGROUP * 64;
    const int row = query + threadIdx.x % WARPGROUP / 32 * 16 + threadIdx.x % 32 / 4;
    int stage = 0, parity = 0;
    mbarrier_wait(bars.own, 0);
    for (int b = 0; b < w.blocks; b++) {
        char *k = shared + L::OWN + stage * L::STAGE;
        mbarrier_wait(bars.full + stage, parity);
        if (w.length - b * STEP < STEP) tail_zero<D>(k, w.length - b * STEP);
        if (b * STEP < query + 64) {
            float s[STEP / 8][4], dp[STEP / 8][4];
            uint32_t ds[STEP / 16][4];
            wgmma_fence();
            rows_by_rows<D>(s, own, k);
            rows_by_rows<D>(dp, own + L::TILE, k + L::TILE);
            wgmma_commit();
            wgmma_wait<0>();
            wgmma_settle<STEP>(s);
            wgmma_settle<STEP>(dp);
            query_weights(ds, s, dp, lse2, mean, row, b * STEP, b * STEP + 63 > query, scale);
            wgmma_settle<STEP / 16>(ds);
            wgmma_fence();
            weights_by_rows<D, false>(dq, ds, k);
            wgmma_commit();
            wgmma_wait<0>();
            wgmma_settle<D>(dq);
        }
        __syncwarp();
        if (threadIdx.x % 32 == 0) mbarrier_arrive(bars.empty + stage);
        if (++stage == STAGES) stage = 0, parity ^= 1;
    }
}

template <int D>
__global__ void __launch_bounds__(THREADS, 1)
    hopper_attention_queries_kernel(const __grid_constant__ CUtensorMap qk_map,
                                    const __grid_constant__ CUtensorMap qkv_map,
                                    const __grid_constant__ CUtensorMap dout_map, bf16 *dqk, const float *mean,
                                    const float *lse2, const int32_t *cu_seqlens, int n_seq, int N, int H, int G,
                                    float scale) {
#if HOPPER_BODY
    using L = Layout<D>;
    DYNAMIC_SHARED(char, shared);
    const int tiles = gridDim.x / H, head = blockIdx.x % H, g = head / (H / G);
    const RowTile t = row_tile([=](int u) { return cu_seqlens[u]; }, n_seq, N, ROWS, tiles - 1 - blockIdx.x / H);
    if (t.first >= t.end) return;
    const size_t ld_qk = (size_t)(H + G) * D;
    const int rows = min(ROWS, t.end - t.first), at = t.first - t.begin, length = t.end - t.begin;
    bf16 *dst = dqk + t.first * ld_qk + head * D;
    if (t.unit == n_seq) { /* rows of no sequence */
        rows_zero<D>(dst, ld_qk, rows);
        return;
    }
    const Barriers bars = barriers_init(shared + L::BARRIERS, 0);
    const QueryWork w = {t.begin, length, at, (at + rows + STEP - 1) / STEP, head, g, H, G};
    const int group = threadIdx.x / WARPGROUP;
    if (group == 2) {
        registers_release<24>();
        if (threadIdx.x == 2 * WARPGROUP) queries_produce<D>(w, &qk_map, &qkv_map, &dout_map, shared, bars);
    } else {
        registers_take<240>();
        const int left = rows - 64 * group, lane = threadIdx.x % 32;
        float row_lse2[2], row_mean[2], dq[D / 8][4] = {};
        for (int half = 0; half < 2; half++) {
            const int r = threadIdx.x % WARPGROUP / 32 * 16 + half * 8 + lane / 4;
            const size_t i = (size_t)head * N + t.first + 64 * group + r;
            row_lse2[half] = r < left ? lse2[i] : 0;
            row_mean[half] = r < left ? mean[i] : 0;
        }
        char *own = shared + 2 * group * L::TILE;
        queries_consume<D>(w, dq, shared, own, bars, row_lse2, row_mean, scale * LOG2_E);
        barrier_sync(2 + group, WARPGROUP); /* all four warps have read the tiles */
        result_write<D>(dst + (size_t)64 * group * ld_qk, ld_qk, own, dq, scale, scale, left);
    }
#endif
}

/* ---- launching --------------------------------------------------------------------------------------------------- */

template <int D>
void backward(Device *dev, const char *op, bf16 *dqk, bf16 *dqkv, const bf16 *dout, const bf16 *qk, const bf16 *qkv,
              const float *mean, const float *lse2, const int32_t *cu_seqlens, int n_seq, int N, int H, int G) {
    CUtensorMap qk_map, qkv_map, dout_map;
    const float scale = 1 / sqrtf((float)D);
    const int tiles = row_tiles(N, ROWS, n_seq);
    if (!boxes_map(dev, op, &qk_map, qk, (H + G) * D, (uint64_t)N) ||
        !boxes_map(dev, op, &qkv_map, qkv, (H + 2 * G) * D, (uint64_t)N) ||
        !boxes_map(dev, op, &dout_map, dout, H * D, (uint64_t)N))
        return;
    CUDA_LAUNCH(dev, op, hopper_attention_keys_kernel<D>, tiles * G, THREADS, Layout<D>::SHARED, qk_map, qkv_map,
                dout_map, dqk, dqkv, mean, lse2, cu_seqlens, n_seq, N, H, G, scale);
    CUDA_LAUNCH(dev, op, hopper_attention_queries_kernel<D>, tiles * H, THREADS, Layout<D>::SHARED, qk_map, qkv_map,
                dout_map, dqk, mean, lse2, cu_seqlens, n_seq, N, H, G, scale);
}

} // namespace

bool sm90_attention_backward(Device *dev, const char *op, bf16 *dqk, bf16 *dqkv, const bf16 *dout, const bf16 *qk,
                             const bf16 *qkv, const float *mean, const float *lse2, const int32_t *cu_seqlens,
                             int n_seq, int N, int H, int G, int D) {
    const uintptr_t at = (uintptr_t)qk | (uintptr_t)qkv | (uintptr_t)dout;
    if (cuda_compute_capability(dev) != 90 || !cuda_tensor_map_encode(dev) || at % 16) return false;
    (D == 64 ? backward<64> : backward<128>)(dev, op, dqk, dqkv, dout, qk, qkv, mean, lse2, cu_seqlens, n_seq, N, H, G);
    return true;
}
