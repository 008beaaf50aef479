/* attention_sm90.cu - causal attention on Hopper (sm_90a): forward over packed sequences, and over pages.
 *
 * Both have the order of sums of attention.cuh, and they have it from one function, consume(): the same instruction on
 * the same tiles.  A block's products come from wgmma there and nowhere from mma.sync, since nobody promises that the
 * two add a step of 16 to the same bits.
 *
 * A warpgroup owns 64 rows; one warp has the copy engine bring blocks of 64 keys and 64 values, some blocks ahead.  A
 * page is such a block as it lies.  The scores of a block are under way together with what the block before gives its
 * values, and the softmax of a block goes on beside the latter.  Two warpgroups issue in turns, so that one has its
 * exponentials while the other multiplies (Shah et al. 2024).
 *
 * Values behind the last key, a neighbour's or what a page held before, become zeros before anybody multiplies them,
 * since 0 times NaN is not 0.  The producer does that, in a sequence's last block. */
#include "kernels/cuda/attention_pages.cuh"
#include "kernels/cuda/attention_sm90.cuh"

#include <math.h>

namespace {

/* Named barriers: TURN + w lets warpgroup w issue, OWN + w is among its warps. */
enum { TURN = 1, OWN = 3 };

/* ROWS queries as a tile for each warpgroup, then stages of a tile of keys and one of values. */
template <int D, int CONSUMERS_> struct Shape {
    static constexpr int CONSUMERS = CONSUMERS_, STAGES = CONSUMERS == 2 ? 4 : 3, ROWS = 64 * CONSUMERS;
    static constexpr int THREADS = (CONSUMERS + 1) * WARPGROUP;
    static constexpr int RESIDENT = CONSUMERS == 2 ? 1 : 2, TILE = HeadTile<D>::BYTES;
    static constexpr int TILES = CONSUMERS * TILE, VISIBLE = TILES + STAGES * 2 * TILE;
    static constexpr int KEPT = VISIBLE + ROWS * 4, BARRIERS = KEPT + 32, SHARED = BARRIERS + (4 * STAGES + 2) * 8;
};

/* full and empty: of keys, then values, of each stage. */
struct Barriers {
    uint64_t *full, *empty, *queries, *tail;
};
template <class S> __device__ __forceinline__ Barriers barriers_init(char *shared, int consumers) {
    uint64_t *at = (uint64_t *)(shared + S::BARRIERS);
    const Barriers b = {at, at + 2 * S::STAGES, at + 4 * S::STAGES, at + 4 * S::STAGES + 1};
    if (threadIdx.x == 0) {
        for (int s = 0; s < 2 * S::STAGES; s++) {
            mbarrier_init(b.full + s, 1);
            mbarrier_init(b.empty + s, 4 * consumers); /* warps */
        }
        mbarrier_init(b.queries, 1);
        mbarrier_init(b.tail, 1);
        mbarrier_published();
    }
    __syncthreads();
    return b;
}

/* ---- producer ---------------------------------------------------------------------------------------------------- */

/* Where block b's keys and values are: a column and row each. */
struct Place {
    int key_column, key_row, value_column, value_row;
};

/* By a warp, whose first lane asks for everything: the others might come to an mbarrier a phase too late.  keys: how
 * many there are from the first block's first one on.  keys_map and values_map may be one. */
template <int D, class S, class At>
__device__ __forceinline__ void produce(char *tiles, Barriers bars, const CUtensorMap *keys_map,
                                        const CUtensorMap *values_map, int blocks, int keys, At place_of) {
    const int lane = threadIdx.x % 32, last = (blocks - 1) % S::STAGES, left = keys - (blocks - 1) * KEYS;
    if (blocks < 1) return;
    for (int b = 0, stage = 0, parity = 1; b < blocks && lane == 0; b++) { /* 1: nobody waits in the first round */
        char *to = tiles + stage * 2 * S::TILE;
        uint64_t *full = bars.full + 2 * stage, *empty = bars.empty + 2 * stage;
        const Place at = place_of(b);
        mbarrier_wait(empty, parity);
        mbarrier_expect(full, S::TILE);
        tile_fetch<D>(to, keys_map, at.key_column, at.key_row, full);
        uint64_t *come = b + 1 == blocks && left < KEYS ? bars.tail : full + 1;
        mbarrier_wait(empty + 1, parity);
        mbarrier_expect(come, S::TILE);
        tile_fetch<D>(to + S::TILE, values_map, at.value_column, at.value_row, come);
        if (++stage == S::STAGES) stage = 0, parity ^= 1;
    }
    if (left >= KEYS) return;
    char *values = tiles + (2 * last + 1) * S::TILE;
    __syncwarp();
    mbarrier_wait(bars.tail, 0);
    for (int i = lane; i < (KEYS - left) * (D / 8); i += 32)
        *(uint4 *)(values + i / 8 % (D / 64) * BOX + (left + i / (D / 8)) * 128 + i % 8 * 16) = make_uint4(0, 0, 0, 0);
    proxy_fence();
    __syncwarp();
    if (lane == 0) mbarrier_arrive(bars.full + 2 * last + 1);
}

/* ---- consumers --------------------------------------------------------------------------------------------------- */

/* Of a warpgroup's 64 rows each lane keeps what mma_m16n8k16_bf16() would leave it of its warp's 16. */
template <int D> struct Rows { float out[D / 8][4], max[2], sum[2]; };
template <int D> __device__ __forceinline__ void rows_init(Rows<D> *r) {
#pragma unroll
    for (int n = 0; n < D / 8; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) r->out[n][e] = 0;
    for (int half = 0; half < 2; half++) r->max[half] = -INFINITY, r->sum[half] = 0;
}

/* scores become weights, and how the block is to be merged.  The lane's rows see keys below sight(0) and sight(1). */
template <int D, class Sight>
__device__ __forceinline__ void block_weights(float (*s)[4], Merge *merge, Rows<D> *r, int first, Sight sight,
                                              float scale) {
    const int visible[2] = {sight(0), sight(1)};
    float block_max[2], block_sum[2];
    if (first + KEYS > min(visible[0], visible[1])) block_mask(s, first, visible, threadIdx.x % 32);
    block_softmax(s, scale, block_max, block_sum);
    for (int half = 0; half < 2; half++)
        merge[half] = block_merge(r->max + half, r->sum + half, block_max[half], block_sum[half]);
}
[[maybe_unused]] __device__ __forceinline__ void weights_pack(uint32_t (*p)[4], const float (*s)[4]) {
#pragma unroll
    for (int k = 0; k < KEYS / 16; k++) fragment_of(p[k], s[2 * k], s[2 * k + 1]);
}
template <int D>
__device__ __forceinline__ void part_merge(float (*out)[4], const float (*part)[4], const Merge *merge) {
    if (__any_sync(0xffffffffu, merge[0].kept != 1 || merge[1].kept != 1)) /* otherwise times 1 */
#pragma unroll
        for (int n = 0; n < D / 8; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) out[n][e] *= merge[e >> 1].kept;
#pragma unroll
    for (int n = 0; n < D / 8; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) out[n][e] = fmaf(part[n][e], merge[e >> 1].given, out[n][e]);
}

/* What a warpgroup goes over: `blocks` of the tile, of which its rows see the first `mine` > 0; the others it only lets
 * pass.  first: the first one's first key. */
struct Span {
    int first, blocks, mine;
    bool turns; /* the other warpgroup does the same */
};

/* A warp's 16 rows of queries stay in its registers: from shared memory each of the two warpgroups would read them
 * again for every block, and shared memory would be as busy as the tensor cores. */
template <int D> __device__ __forceinline__ void queries_take(uint32_t (*q)[4], const char *tile) {
    const int lane = threadIdx.x % 32, row = threadIdx.x % WARPGROUP / 32 * 16 + lane % 16;
#pragma unroll
    for (int k = 0; k < D / 16; k++) {
        const int chunk = 2 * k + lane / 16;
        ldmatrix_x4(q[k], tile + chunk / 8 * BOX + row * 128 + (chunk % 8 ^ row % 8) * 16);
    }
}
/* c (64, 64) = queries keys^T */
template <int D>
__device__ __forceinline__ void queries_by_rows(float (*c)[4], const uint32_t (*q)[4], const char *keys) {
    const uint64_t from = wgmma_descriptor(keys, 16, 1024);
#pragma unroll
    for (int k = 0; k < D / 16; k++)
        wgmma_registers<64, true>(c, q[k], wgmma_advance(from, k / 4 * BOX + k % 4 * 32), k);
}

template <int D, class S, class Sight>
__device__ __forceinline__ void consume(Rows<D> *r, const char *queries, const char *tiles, Barriers bars,
                                        const Span &span, Sight sight, float scale) {
    const int group = (int)threadIdx.x / WARPGROUP, lane = (int)threadIdx.x % 32;
    /* Of block b: stage, and the parity of its phase.  Worked out each time, for the registers are few. */
    auto stage_of = [](int b) { return (int)((unsigned)b % S::STAGES); };
    auto parity_of = [](int b) { return (int)((unsigned)b / S::STAGES & 1); };
    float s[KEYS / 8][4], part[D / 8][4];
    uint32_t q[D / 16][4], p[KEYS / 16][4];
    Merge merge[2];
    queries_take<D>(q, queries);
    mbarrier_wait(bars.full, 0);
    wgmma_settle<D / 16>(q);
    wgmma_fence();
    queries_by_rows<D>(s, q, tiles);
    wgmma_commit();
    wgmma_wait<0>();
    wgmma_settle<KEYS>(s);
    if (lane == 0) mbarrier_arrive(bars.empty);
    block_weights<D>(s, merge, r, span.first, sight, scale);
    weights_pack(p, s);
    if (span.turns && group == 1 && span.blocks > 1) barrier_arrive(TURN, 2 * WARPGROUP);
#pragma unroll 1
    for (int b = 1; b < span.mine; b++) {
        const int keys = 2 * stage_of(b), values = 2 * stage_of(b - 1) + 1; /* tiles */
        mbarrier_wait(bars.full + keys, parity_of(b));
        mbarrier_wait(bars.full + values, parity_of(b - 1));
        if (span.turns) barrier_sync(TURN + group, 2 * WARPGROUP);
        wgmma_settle<KEYS / 16>(p);
        wgmma_fence();
        queries_by_rows<D>(s, q, tiles + keys * S::TILE);
        wgmma_commit();
        weights_by_rows<D, true>(part, p, tiles + values * S::TILE);
        wgmma_commit();
        if (span.turns && (group == 0 || b + 1 < span.blocks)) barrier_arrive(TURN + 1 - group, 2 * WARPGROUP);
        wgmma_wait<1>();
        wgmma_settle<KEYS>(s);
        if (lane == 0) mbarrier_arrive(bars.empty + keys);
        const Merge before[2] = {merge[0], merge[1]};
        block_weights<D>(s, merge, r, span.first + b * KEYS, sight, scale);
        wgmma_wait<0>();
        wgmma_settle<D>(part);
        if (lane == 0) mbarrier_arrive(bars.empty + values);
        part_merge<D>(r->out, part, before);
        weights_pack(p, s);
    }
    for (int b = span.mine; span.turns && b < span.blocks; b++) {
        barrier_sync(TURN + group, 2 * WARPGROUP);
        if (group == 0 || b + 1 < span.blocks) barrier_arrive(TURN + 1 - group, 2 * WARPGROUP);
    }
    const int values = 2 * stage_of(span.mine - 1) + 1;
    mbarrier_wait(bars.full + values, parity_of(span.mine - 1));
    wgmma_settle<KEYS / 16>(p);
    wgmma_fence();
    weights_by_rows<D, true>(part, p, tiles + values * S::TILE);
    wgmma_commit();
    wgmma_wait<0>();
    wgmma_settle<D>(part);
    if (lane == 0) mbarrier_arrive(bars.empty + values);
    part_merge<D>(r->out, part, merge);
}

/* ---- packed sequences -------------------------------------------------------------------------------------------- */

template <int D>
__global__ void __launch_bounds__((Shape<D, 2>::THREADS), (Shape<D, 2>::RESIDENT))
    hopper_attention_forward_kernel(const __grid_constant__ CUtensorMap qk_map,
                                    const __grid_constant__ CUtensorMap qkv_map, bf16 *out, float *lse,
                                    const int32_t *cu_seqlens, int n_seq, int N, int H, int G, float scale) {
#if HOPPER_BODY
    using S = Shape<D, 2>;
    DYNAMIC_SHARED(char, shared);
    const int tiles = gridDim.x / H, head = blockIdx.x % H, g = head / (H / G);
    const RowTile t = row_tile([=](int u) { return cu_seqlens[u]; }, n_seq, N, S::ROWS, tiles - 1 - blockIdx.x / H);
    if (t.first >= t.end) return;
    const size_t ld_out = (size_t)H * D;
    const int rows = min((int)S::ROWS, t.end - t.first), at = t.first - t.begin; /* of the sequence */
    bf16 *dst = out + t.first * ld_out + head * D;
    if (t.unit == n_seq) { /* rows of no sequence */
        rows_zero<D>(dst, ld_out, rows);
        return;
    }
    const int blocks = (at + rows + KEYS - 1) / KEYS, groups = rows > 64 ? 2 : 1, group = threadIdx.x / WARPGROUP;
    const Barriers bars = barriers_init<S>(shared, groups);
    if (group == 2) {
        registers_release<24>();
        if (threadIdx.x / 32 != 8) return;
        if (threadIdx.x % 32 == 0) {
            mbarrier_expect(bars.queries, groups * S::TILE);
            for (int i = 0; i < groups; i++)
                tile_fetch<D>(shared + i * S::TILE, &qk_map, head * D, t.first + 64 * i, bars.queries);
        }
        produce<D, S>(shared + S::TILES, bars, &qk_map, &qkv_map, blocks, t.end - t.begin, [=](int b) {
            return Place{(H + g) * D, t.begin + b * KEYS, (H + G + g) * D, t.begin + b * KEYS};
        });
        return;
    }
    registers_take<240>();
    if (group >= groups) return;
    const int lane = threadIdx.x % 32, warp_row = 64 * group + threadIdx.x % WARPGROUP / 32 * 16;
    const int row = warp_row + lane / 4;
    char *own = shared + group * S::TILE;
    Rows<D> r;
    rows_init<D>(&r);
    mbarrier_wait(bars.queries, 0);
    consume<D, S>(
        &r, own, shared + S::TILES, bars, Span{0, blocks, min(blocks, at / KEYS + group + 1), groups == 2},
        [=](int half) { return at + row + 8 * half + 1; }, scale);
    const float total[2] = {row_sum(r.sum[0]), row_sum(r.sum[1])};
    for (int half = 0; half < 2 && lse; half++)
        if (lane % 4 == 0 && row + 8 * half < rows)
            lse[(size_t)head * N + t.first + row + 8 * half] = r.max[half] * LN_2 + logf(total[half]);
    barrier_sync(OWN + group, WARPGROUP); /* all four warps have read the queries */
    result_write<D>(dst + (size_t)64 * group * ld_out, ld_out, own, r.out, 1 / total[0], 1 / total[1],
                    rows - 64 * group);
#endif
}

/* ---- pages ------------------------------------------------------------------------------------------------------- */

/* A sequence's pages are one block's, in turn.  Two chains of them, merged at the end, would be other sums than those of
 * attention_forward, which has no registers for a second set of outputs; spreading them over blocks needs none, but
 * memory for what every page gives, to be merged ascending (tests/gpu/PENDING.md has what it would bring). */

/* A page's keys and values of a head are 64 rows of D each.  A thread copies 16 bytes of both. */
template <int D>
__global__ void __launch_bounds__(256)
    hopper_kv_append_kernel(bf16 *pool, const bf16 *qk, const bf16 *qkv, const int64_t *slot, int N, int H, int G) {
    const int64_t at = (int64_t)blockIdx.x * 256 + threadIdx.x, n = at / (D / 8 * G);
    const int chunk = at % (D / 8), g = at / (D / 8) % G;
    if (n >= N || slot[n] < 0) return;
    const size_t row = slot[n] % KEYS * D + chunk * 8;
    *(uint4 *)(pool + page_at<D>(slot[n] / KEYS, 0, g, G) + row) =
        *(const uint4 *)(qk + (n * (H + G) + H + g) * D + chunk * 8);
    *(uint4 *)(pool + page_at<D>(slot[n] / KEYS, 1, g, G) + row) =
        *(const uint4 *)(qkv + (n * (H + 2 * G) + H + G + g) * D + chunk * 8);
}

template <int D>
__global__ void __launch_bounds__(256) hopper_kv_copy_page_kernel(bf16 *pool, int dst, int src, int n_keys, int G) {
    const int chunk = blockIdx.x * 256 + threadIdx.x;
    if (chunk / (D / 8) >= n_keys) return;
    for (int kv = 0; kv < 2; kv++)
        ((uint4 *)(pool + page_at<D>(dst, kv, blockIdx.y, G)))[chunk] =
            ((const uint4 *)(pool + page_at<D>(src, kv, blockIdx.y, G)))[chunk];
}

/* What a tile of attention_paged is: rows from `first` on are queries times heads of g.  It waits in shared memory, for
 * the accumulators fill the registers. */
struct PagedTile {
    int unit, first, rows, g, ratio, H, G;
};
static_assert(sizeof(PagedTile) <= 32, "Shape keeps 32 bytes for it");

/* Queries into their tiles, zeros after the last; how many keys each row sees. */
template <int D, class S>
__device__ __forceinline__ void queries_load(char *shared, const PagedTile &w, const bf16 *qk, const Pages &pages) {
    for (int i = threadIdx.x; i < S::ROWS * (D / 8); i += S::THREADS) {
        const int row = i / (D / 8), chunk = i % (D / 8);
        const PagedRow r = paged_row(w.first + row, w.ratio, w.g);
        uint4 x = make_uint4(0, 0, 0, 0);
        if (row < w.rows) x = *(const uint4 *)(qk + ((size_t)r.n * (w.H + w.G) + r.head) * D + chunk * 8);
        *(uint4 *)(shared + row / 64 * S::TILE + chunk / 8 * BOX + row % 64 * 128 + (chunk % 8 ^ row % 8) * 16) = x;
    }
    for (int row = threadIdx.x; row < S::ROWS; row += S::THREADS) {
        const int n = paged_row(w.first + min(row, w.rows - 1), w.ratio, w.g).n;
        const int s = pages.shared
                          ? owner_of(pages.q_offset, pages.group_offset[w.unit], pages.group_offset[w.unit + 1], n)
                          : w.unit;
        ((int *)(shared + S::VISIBLE))[row] = pages.kv_len[s] - (pages.q_offset[s + 1] - n) + 1;
    }
    if (threadIdx.x == 0) *(PagedTile *)(shared + S::KEPT) = w;
}

/* A row's state between the launches over shared pages and over its own: attention.cuh. */
template <int D> __device__ __forceinline__ void rows_resume(Rows<D> *r, const float *state, int half) {
    const int quad = threadIdx.x % 4;
    r->sum[half] = state[quad];
    r->max[half] = state[4];
#pragma unroll
    for (int n = 0; n < D / 8; n++) {
        const float2 x = *(const float2 *)(state + STATE_HEAD + 8 * n + 2 * quad);
        r->out[n][2 * half] = x.x, r->out[n][2 * half + 1] = x.y;
    }
}
template <int D> __device__ __forceinline__ void rows_leave(const Rows<D> &r, float *state, int half) {
    const int quad = threadIdx.x % 4;
    state[quad] = r.sum[half];
    if (quad == 0) state[4] = r.max[half];
#pragma unroll
    for (int n = 0; n < D / 8; n++)
        *(float2 *)(state + STATE_HEAD + 8 * n + 2 * quad) = make_float2(r.out[n][2 * half], r.out[n][2 * half + 1]);
}

/* state (N, H, STATE_HEAD + D) */
template <int D, class S>
__device__ __forceinline__ void paged_consume(bf16 *out, float *state, char *shared, Barriers bars, const Pages &pages,
                                              const BlockRange &range, int groups, float scale) {
    const int group = threadIdx.x / WARPGROUP, lane = threadIdx.x % 32;
    const int warp_row = threadIdx.x % WARPGROUP / 32 * 16, row = 64 * group + warp_row + lane / 4;
    const int *visible = (const int *)(shared + S::VISIBLE), blocks = range.end - range.first;
    const PagedTile &w = *(const PagedTile *)(shared + S::KEPT);
    auto own_state = [&](int half) {
        const PagedRow at = paged_row(w.first + min(row + 8 * half, w.rows - 1), w.ratio, w.g);
        return state + ((size_t)at.n * w.H + at.head) * (STATE_HEAD + D);
    };
    Rows<D> r;
    rows_init<D>(&r);
    for (int half = 0; half < 2 && !pages.shared && range.first > 0; half++) rows_resume<D>(&r, own_state(half), half);
    if (blocks > 0)
        consume<D, S>(
            &r, shared + group * S::TILE, shared + S::TILES, bars,
            Span{range.first * KEYS, blocks, blocks, groups == 2}, [=](int half) { return visible[row + 8 * half]; },
            scale);
    if (pages.shared) {
        for (int half = 0; half < 2; half++)
            if (row + 8 * half < w.rows) rows_leave<D>(r, own_state(half), half);
        return;
    }
    bf16 *tile = (bf16 *)(shared + group * S::TILE);
    barrier_sync(OWN + group, WARPGROUP); /* all four warps have read the queries */
    accumulator_store<D, D>(tile, warp_row, 0, r.out, 1 / row_sum(r.sum[0]), 1 / row_sum(r.sum[1]), lane);
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 16 * (D / 8) / 32; i++) {
        const int in_tile = warp_row + (lane + i * 32) / (D / 8), chunk = (lane + i * 32) % (D / 8);
        const PagedRow at = paged_row(w.first + 64 * group + in_tile, w.ratio, w.g);
        if (64 * group + in_tile < w.rows)
            *(uint4 *)(out + ((size_t)at.n * w.H + at.head) * D + chunk * 8) =
                *(const uint4 *)(tile + swizzle<D>(in_tile, chunk));
    }
}

template <int D, int CONSUMERS>
__global__ void __launch_bounds__((Shape<D, CONSUMERS>::THREADS), (Shape<D, CONSUMERS>::RESIDENT))
    hopper_attention_paged_kernel(const __grid_constant__ CUtensorMap pool, bf16 *out, float *state, const bf16 *qk,
                                  Pages pages, int N, int H, int G, float scale) {
#if HOPPER_BODY
    using S = Shape<D, CONSUMERS>;
    DYNAMIC_SHARED(char, shared);
    const int g = blockIdx.x % G, ratio = H / G, lane = threadIdx.x % 32;
    auto offset = [&](int u) { return pages.q_offset[pages.shared ? pages.group_offset[u] : u] * ratio; };
    const int n_units = pages.shared ? pages.n_group : pages.n_seq;
    const RowTile t = row_tile(offset, n_units, N * ratio, S::ROWS, blockIdx.x / G);
    if (t.first >= t.end || t.unit == n_units) return;
    if (pages.shared && pages.group_shared[t.unit] == 0) return;
    const PagedTile w = {t.unit, t.first, min((int)S::ROWS, t.end - t.first), g, ratio, H, G};
    const int groups = CONSUMERS == 2 && w.rows > 64 ? 2 : 1, group = threadIdx.x / WARPGROUP;
    queries_load<D, S>(shared, w, qk, pages);
    const Barriers bars = barriers_init<S>(shared, groups);
    int most = 0;
    for (int row = lane; row < S::ROWS; row += 32) most = max(most, ((const int *)(shared + S::VISIBLE))[row]);
    most = __reduce_max_sync(0xffffffffu, most);
    const BlockRange range = block_range(pages, t.unit, most);
    if (group == CONSUMERS) {
        registers_release<24>();
        if (threadIdx.x / 32 != 4 * CONSUMERS) return;
        const int32_t *table = pages.block_table + (size_t)range.sequence * pages.max_blocks + range.first;
        produce<D, S>(shared + S::TILES, bars, &pool, &pool, range.end - range.first, most - range.first * KEYS,
                      [=](int b) {
                          const int row = (table[b] * 2 * G + g) * KEYS;
                          return Place{0, row, 0, row + G * KEYS};
                      });
        return;
    }
    registers_take<CONSUMERS == 2 ? 240 : 232>();
    if (group < groups) paged_consume<D, S>(out, state, shared, bars, pages, range, groups, scale);
#endif
}

/* ---- launching --------------------------------------------------------------------------------------------------- */

template <int D>
void forward(Device *dev, const char *op, bf16 *out, float *lse, const bf16 *qk, const bf16 *qkv,
             const int32_t *cu_seqlens, int n_seq, int N, int H, int G) {
    using S = Shape<D, 2>;
    CUtensorMap qk_map, qkv_map;
    if (!boxes_map(dev, op, &qk_map, qk, (H + G) * D, (uint64_t)N) ||
        !boxes_map(dev, op, &qkv_map, qkv, (H + 2 * G) * D, (uint64_t)N))
        return;
    CUDA_LAUNCH(dev, op, hopper_attention_forward_kernel<D>, row_tiles(N, S::ROWS, n_seq) * H, S::THREADS, S::SHARED,
                qk_map, qkv_map, out, lse, cu_seqlens, n_seq, N, H, G, LOG2_E / sqrtf((float)D));
}

template <int D, int CONSUMERS>
void paged(Device *dev, bf16 *out, float *state, const bf16 *qk, const Pages *pages, int N, int H, int G) {
    using S = Shape<D, CONSUMERS>;
    const char *op = "attention_paged";
    const int tiles = row_tiles(N * (H / G), S::ROWS, pages->shared ? pages->n_group : pages->n_seq);
    CUtensorMap pool; /* of as many rows as there may be: how many pages there are nobody says */
    if (!boxes_map(dev, op, &pool, pages->pool, D, 1u << 31)) return;
    CUDA_LAUNCH(dev, op, (hopper_attention_paged_kernel<D, CONSUMERS>), tiles * G, S::THREADS, S::SHARED, pool, out,
                state, qk, *pages, N, H, G, LOG2_E / sqrtf((float)D));
}

} // namespace

void sm90_attention_forward(Device *dev, const char *op, bf16 *out, float *lse, const bf16 *qk, const bf16 *qkv,
                            const int32_t *cu_seqlens, int n_seq, int N, int H, int G, int D) {
    (D == 64 ? forward<64> : forward<128>)(dev, op, out, lse, qk, qkv, cu_seqlens, n_seq, N, H, G);
}

void sm90_attention_paged(Device *dev, bf16 *out, float *state, const bf16 *qk, const Pages *pages, int N, int H, int G,
                          int D) {
    const int units = pages->shared ? pages->n_group : pages->n_seq;
    const bool few = (int64_t)N * (H / G) <= 64 * (int64_t)units; /* rows a unit: one warpgroup has them all */
    if (D == 64) (few ? paged<64, 1> : paged<64, 2>)(dev, out, state, qk, pages, N, H, G);
    else (few ? paged<128, 1> : paged<128, 2>)(dev, out, state, qk, pages, N, H, G);
}

void sm90_kv_append(Device *dev, bf16 *pool, const bf16 *qk, const bf16 *qkv, const int64_t *slot, int N, int H, int G,
                    int D) {
    const unsigned blocks = (unsigned)(((int64_t)N * G * (D / 8) + 255) / 256);
    if (D == 64)
        CUDA_LAUNCH(dev, "kv_append", hopper_kv_append_kernel<64>, blocks, 256, 0, pool, qk, qkv, slot, N, H, G);
    else CUDA_LAUNCH(dev, "kv_append", hopper_kv_append_kernel<128>, blocks, 256, 0, pool, qk, qkv, slot, N, H, G);
}

void sm90_kv_copy_page(Device *dev, bf16 *pool, int dst, int src, int n_keys, int G, int D) {
    const dim3 grid((unsigned)(KEYS * (D / 8) / 256), (unsigned)G);
    if (D == 64)
        CUDA_LAUNCH(dev, "kv_copy_page", hopper_kv_copy_page_kernel<64>, grid, 256, 0, pool, dst, src, n_keys, G);
    else CUDA_LAUNCH(dev, "kv_copy_page", hopper_kv_copy_page_kernel<128>, grid, 256, 0, pool, dst, src, n_keys, G);
}
