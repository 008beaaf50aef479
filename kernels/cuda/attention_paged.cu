/* attention_paged.cu - the cache of keys and values, and attention over it, in bf16.
 *
 * A page keeps a head's 64 keys (and values) in the order in which mma.sync takes them: a unit of 16 bytes is what one
 * lane holds of two steps of a product, 32 units, one a lane, lie side by side.  So a warp takes a block of keys
 * straight from global memory into registers, each byte once, and shared memory is free for what the blocks give.
 *
 * The rows of a tile are queries times the heads that share a key/value head, of one sequence or of a group of them.
 * Each warp takes a block of keys for all rows of the tile; then the warps' results are merged through shared memory,
 * in ascending order of the blocks, 16 or 64 rows by as many columns as fit at a time: one decoded token is spread over
 * as many warps as it has blocks, and has the bits of attention_forward (attention.cuh).
 *
 * Groups: one launch goes over the shared pages, with the rows of all the group's sequences in one product, and leaves
 * max, sum and output of each row in scratch memory; the next goes on from there with the sequences' own pages. */
#include "kernels/cuda/attention_pages.cuh"

#include <math.h>

/* ---- pages ------------------------------------------------------------------------------------------------------ */

enum { UNIT = 8 }; /* elements */

/* Element d of key i in the page: units are (key / 8, d / 32), lanes (key % 8, d / 2 % 4). */
template <int D> static __device__ __forceinline__ int key_unit(int i, int d32, int quad) {
    return (i / 8 * (D / 32) + d32) * 32 + i % 8 * 4 + quad;
}
/* Of a lane's unit: d = 32 d32 + 2 quad + { 0, 1, 8, 9, 16, 17, 24, 25 }; of values, keys in the same way. */
static __device__ __forceinline__ int unit_member(int quad, int e) { return 2 * quad + e / 2 * 8 + e % 2; }
/* Values: units are (d / 8, key / 32), lanes (d % 8, key / 2 % 4). */
static __device__ __forceinline__ int value_unit(int i32, int d, int quad) {
    return (d / 8 * (KEYS / 32) + i32) * 32 + d % 8 * 4 + quad;
}

/* A thread has eight d of a row and head: a unit of the key, and one element of each of eight units of the values. */
template <int D>
__global__ void __launch_bounds__(256)
    kv_append_kernel(bf16 *pool, const bf16 *qk, const bf16 *qkv, const int64_t *slot, int N, int H, int G) {
    const int64_t at = (int64_t)blockIdx.x * 256 + threadIdx.x;
    const int part = at % (D / 8), g = at / (D / 8) % G;
    const int64_t n = at / (D / 8 * G);
    if (n >= N || slot[n] < 0) return;
    const int i = (int)(slot[n] % KEYS), d32 = part / 4, quad = part % 4;
    const bf16 *k = qk + (n * (H + G) + H + g) * D, *v = qkv + (n * (H + 2 * G) + H + G + g) * D;
    bf16 *keys = pool + page_at<D>(slot[n] / KEYS, 0, g, G), *values = pool + page_at<D>(slot[n] / KEYS, 1, g, G);
    uint32_t unit[4];
    for (int r = 0; r < 4; r++) unit[r] = *(const uint32_t *)(k + 32 * d32 + unit_member(quad, 2 * r));
    *(uint4 *)(keys + key_unit<D>(i, d32, quad) * UNIT) = make_uint4(unit[0], unit[1], unit[2], unit[3]);
    const int in = i % 32; /* unit_member's inverse */
    for (int d = part * 8; d < part * 8 + 8; d++)
        values[value_unit(i / 32, d, in / 2 % 4) * UNIT + in / 8 * 2 + in % 2] = v[d];
}

template <int D>
__global__ void __launch_bounds__(256) kv_copy_page_kernel(bf16 *pool, int dst, int src, int n_keys, int G) {
    const int unit = blockIdx.x * 256 + threadIdx.x, g = blockIdx.y, quad = unit % 4; /* KEYS * D / UNIT of them */
    const bf16 *k = pool + page_at<D>(src, 0, g, G), *v = pool + page_at<D>(src, 1, g, G);
    bf16 *to_k = pool + page_at<D>(dst, 0, g, G), *to_v = pool + page_at<D>(dst, 1, g, G);
    if (unit / 32 / (D / 32) * 8 + unit % 32 / 4 < n_keys) ((uint4 *)to_k)[unit] = ((const uint4 *)k)[unit];
    const int first = unit / 32 % (KEYS / 32) * 32;
    for (int e = 0; e < UNIT; e++)
        if (first + unit_member(quad, e) < n_keys) to_v[unit * UNIT + e] = v[unit * UNIT + e];
}

/* ---- attention over pages --------------------------------------------------------------------------------------- */

/* Rows of a tile are MT pieces of 16; WARPS blocks of keys are under way at once. */
template <int D, int MT> struct PagedShape {
    enum {
        ROWS = 16 * MT,
        WARPS = MT == 1 ? 4 : 8,
        THREADS = 32 * WARPS,
        COLUMNS = MT == 1 ? D : 32, /* merged at a time */
        PASSES = D / COLUMNS,
        QUADS = COLUMNS / 4,
        OWN = ROWS * QUADS / THREADS /* groups of four columns a thread and pass */
    };
};

template <int D, int MT> struct PagedShared {
    using S = PagedShape<D, MT>;
    bf16 q[S::ROWS * D];
    float part[S::WARPS][S::ROWS][S::COLUMNS]; /* out_b, groups of four columns exchanged as in swizzle() */
    float max[S::WARPS][S::ROWS], sum[S::WARPS][S::ROWS][4];
    Merge merge[S::WARPS][S::ROWS];
    int visible[S::ROWS];
};

/* Scores of the tile's rows and the keys of a page. */
template <int D, int MT>
static __device__ __forceinline__ void page_scores(float (*s)[KEYS / 8][4], const bf16 *q, const uint4 *keys,
                                                   Lanes lanes) {
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) s[m][n][e] = 0;
#pragma unroll 1 /* eight units a lane are under way: more, and registers run out */
    for (int d = 0; d < D / 32; d++) {
        uint32_t a[2][MT][4];
#pragma unroll
        for (int k = 0; k < 2; k++)
#pragma unroll
            for (int m = 0; m < MT; m++) fragment_rows<D>(a[k][m], q, 16 * m, 2 * d + k, lanes);
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++) {
            uint4 unit = __ldg(keys + (n * (D / 32) + d) * 32 + lanes.lane);
            uint32_t b[4] = {unit.x, unit.y, unit.z, unit.w};
#pragma unroll
            for (int k = 0; k < 2; k++)
#pragma unroll
                for (int m = 0; m < MT; m++) mma_m16n8k16_bf16(s[m][n], a[k][m], b + 2 * k, s[m][n]);
        }
    }
}

/* part = p v of columns [first, first + COLUMNS).  keys: how many of the page's are there; the rest may hold anything.
 */
template <int D, int MT>
static __device__ __forceinline__ void page_values(float (*part)[PagedShape<D, MT>::COLUMNS],
                                                   const uint32_t (*p)[KEYS / 16][4], const uint4 *values, int first,
                                                   int keys, int lane) {
    constexpr int COLUMNS = PagedShape<D, MT>::COLUMNS;
#pragma unroll 4
    for (int n = 0; n < COLUMNS / 8; n++) {
        float out[MT][4] = {};
#pragma unroll
        for (int h = 0; h < KEYS / 32; h++) {
            uint4 unit = __ldg(values + ((first / 8 + n) * (KEYS / 32) + h) * 32 + lane);
            uint32_t b[4] = {unit.x, unit.y, unit.z, unit.w};
            if (keys < KEYS) /* 0 times what is no number would still be none */
#pragma unroll
                for (int r = 0; r < 4; r++) {
                    int left = keys - 32 * h - unit_member(lane % 4, 2 * r);
                    b[r] &= left >= 2 ? 0xffffffffu : left == 1 ? 0x0000ffffu : 0;
                }
#pragma unroll
            for (int k = 0; k < 2; k++)
#pragma unroll
                for (int m = 0; m < MT; m++) mma_m16n8k16_bf16(out[m], p[m][2 * h + k], b + 2 * k, out[m]);
        }
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                int row = 16 * m + 8 * half + lane / 4, quad = (2 * n + lane % 4 / 2) ^ (row & 7);
                *(float2 *)(part[row] + quad * 4 + lane % 2 * 2) = make_float2(out[m][2 * half], out[m][2 * half + 1]);
            }
    }
}

/* state (N, H, STATE_HEAD + D): written by the launch over shared pages, where the other goes on from there */
template <int D, int MT>
__global__ void __launch_bounds__(PagedShape<D, MT>::THREADS, MT == 1 ? 4 : 1)
    attention_paged_kernel(bf16 *out, float *state, const bf16 *qk, Pages pages, int N, int H, int G, float scale) {
    using S = PagedShape<D, MT>;
    using Shared = PagedShared<D, MT>;
    DYNAMIC_SHARED(Shared, shared);
    const int g = blockIdx.x % G, ratio = H / G, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const Lanes lanes = lanes_of<D>(lane);
    auto offset = [&](int u) { return pages.q_offset[pages.shared ? pages.group_offset[u] : u] * ratio; };
    const int n_units = pages.shared ? pages.n_group : pages.n_seq;
    const RowTile t = row_tile(offset, n_units, N * ratio, S::ROWS, blockIdx.x / G);
    if (t.first >= t.end || t.unit == n_units) return;
    if (pages.shared && pages.group_shared[t.unit] == 0) return;
    const int rows = min((int)S::ROWS, t.end - t.first);

    for (int i = threadIdx.x; i < S::ROWS * (D / 8); i += S::THREADS) {
        int row = i / (D / 8), chunk = i % (D / 8);
        PagedRow r = paged_row(t.first + min(row, rows - 1), ratio, g);
        cp_async_16(shared->q + swizzle<D>(row, chunk), qk + ((size_t)r.n * (H + G) + r.head) * D + chunk * 8,
                    row < rows);
    }
    cp_async_commit();
    if (threadIdx.x < S::ROWS) {
        int n = paged_row(t.first + min((int)threadIdx.x, rows - 1), ratio, g).n;
        int s = pages.shared ? owner_of(pages.q_offset, pages.group_offset[t.unit], pages.group_offset[t.unit + 1], n)
                             : t.unit;
        shared->visible[threadIdx.x] = pages.kv_len[s] - (pages.q_offset[s + 1] - n) + 1;
    }
    cp_async_wait<0>();
    __syncthreads();
    int least = shared->visible[lane % S::ROWS], most = least;
    if (S::ROWS > 32) {
        least = min(least, shared->visible[lane + 32]);
        most = max(most, shared->visible[lane + 32]);
    }
    for (int i = 16; i; i /= 2) {
        least = min(least, __shfl_xor_sync(0xffffffffu, least, i));
        most = max(most, __shfl_xor_sync(0xffffffffu, most, i));
    }
    const BlockRange range = block_range(pages, t.unit, most);

    /* Of the rows' state, thread 4 row + i keeps max, and sum of lane i of four; of the output each thread keeps its
     * own groups of four columns. */
    float4 acc[S::PASSES][S::OWN];
    float max = -INFINITY, sum = 0;
    auto state_of = [&](int row) {
        PagedRow r = paged_row(t.first + min(row, rows - 1), ratio, g);
        return state + ((size_t)r.n * H + r.head) * (STATE_HEAD + D);
    };
    auto own_row = [&](int i) { return (int)threadIdx.x / S::QUADS + i * (S::THREADS / S::QUADS); };
    auto own_quad = [&](int pass) { return pass * S::QUADS + (int)threadIdx.x % S::QUADS; };
    const bool resumes = !pages.shared && range.first > 0;
#pragma unroll
    for (int pass = 0; pass < S::PASSES; pass++)
#pragma unroll
        for (int i = 0; i < S::OWN; i++)
            acc[pass][i] = resumes ? *(const float4 *)(state_of(own_row(i)) + STATE_HEAD + own_quad(pass) * 4)
                                   : make_float4(0, 0, 0, 0);
    if (resumes && threadIdx.x < 4 * S::ROWS) {
        sum = state_of(threadIdx.x / 4)[threadIdx.x % 4];
        max = state_of(threadIdx.x / 4)[4];
    }

    for (int first = range.first; first < range.end; first += S::WARPS) {
        const int under_way = min((int)S::WARPS, range.end - first), b = first + warp;
        const bool mine = warp < under_way;
        const uint4 *values = NULL;
        uint32_t p[MT][KEYS / 16][4] = {};
        if (mine) {
            int64_t page = pages.block_table[(size_t)range.sequence * pages.max_blocks + b];
            float s[MT][KEYS / 8][4];
            values = (const uint4 *)(pages.pool + page_at<D>(page, 1, g, G));
            page_scores<D, MT>(s, shared->q, (const uint4 *)(pages.pool + page_at<D>(page, 0, g, G)), lanes);
#pragma unroll
            for (int m = 0; m < MT; m++) {
                int row = 16 * m + lane / 4, visible[2] = {shared->visible[row], shared->visible[row + 8]};
                float block_max[2], block_sum[2];
                if ((b + 1) * KEYS > least) block_mask(s[m], b * KEYS, visible, lane);
                block_softmax(s[m], scale, block_max, block_sum);
                for (int half = 0; half < 2; half++) {
                    if (lane % 4 == 0) shared->max[warp][row + 8 * half] = block_max[half];
                    shared->sum[warp][row + 8 * half][lane % 4] = block_sum[half];
                }
#pragma unroll
                for (int k = 0; k < KEYS / 16; k++) fragment_of(p[m][k], s[m][2 * k], s[m][2 * k + 1]);
            }
        }
        __syncthreads();
        if (threadIdx.x < 4 * S::ROWS)
            for (int w = 0; w < under_way; w++) {
                int row = threadIdx.x / 4;
                Merge m = block_merge(&max, &sum, shared->max[w][row], shared->sum[w][row][threadIdx.x % 4]);
                if (threadIdx.x % 4 == 0) shared->merge[w][row] = m;
            }
#pragma unroll
        for (int pass = 0; pass < S::PASSES; pass++) {
            if (mine) page_values<D, MT>(shared->part[warp], p, values, pass * S::COLUMNS, most - b * KEYS, lane);
            __syncthreads();
#pragma unroll
            for (int i = 0; i < S::OWN; i++) {
                int row = own_row(i), quad = threadIdx.x % S::QUADS ^ (row & 7);
                for (int w = 0; w < under_way; w++) {
                    Merge m = shared->merge[w][row];
                    float4 x = *(const float4 *)(shared->part[w][row] + quad * 4), &y = acc[pass][i];
                    y.x = fmaf(x.x, m.given, y.x * m.kept);
                    y.y = fmaf(x.y, m.given, y.y * m.kept);
                    y.z = fmaf(x.z, m.given, y.z * m.kept);
                    y.w = fmaf(x.w, m.given, y.w * m.kept);
                }
            }
            __syncthreads();
        }
    }

    if (pages.shared) {
        if ((int)threadIdx.x < 4 * rows) {
            state_of(threadIdx.x / 4)[threadIdx.x % 4] = sum;
            if (threadIdx.x % 4 == 0) state_of(threadIdx.x / 4)[4] = max;
        }
#pragma unroll
        for (int pass = 0; pass < S::PASSES; pass++)
#pragma unroll
            for (int i = 0; i < S::OWN; i++)
                if (own_row(i) < rows)
                    *(float4 *)(state_of(own_row(i)) + STATE_HEAD + own_quad(pass) * 4) = acc[pass][i];
        return;
    }
    if (threadIdx.x < 4 * S::ROWS) {
        float total = row_sum(sum);
        if (threadIdx.x % 4 == 0) shared->max[0][threadIdx.x / 4] = 1 / total;
    }
    __syncthreads();
#pragma unroll
    for (int pass = 0; pass < S::PASSES; pass++)
#pragma unroll
        for (int i = 0; i < S::OWN; i++) {
            int row = own_row(i);
            PagedRow r = paged_row(t.first + row, ratio, g);
            float scale_row = shared->max[0][row];
            float4 x = acc[pass][i];
            if (row < rows) /* + 0: as in accumulator_store() */
                *(uint2 *)(out + ((size_t)r.n * H + r.head) * D + own_quad(pass) * 4) =
                    make_uint2(pack_bf16(x.x * scale_row + 0.0f, x.y * scale_row + 0.0f),
                               pack_bf16(x.z * scale_row + 0.0f, x.w * scale_row + 0.0f));
        }
}

/* ---- operations ------------------------------------------------------------------------------------------------- */

template <int D, int MT>
static void paged_launch(Device *dev, bf16 *out, float *state, const bf16 *qk, const Pages *pages, int N, int H,
                         int G) {
    int tiles = row_tiles(N * (H / G), PagedShape<D, MT>::ROWS, pages->shared ? pages->n_group : pages->n_seq);
    CUDA_LAUNCH(dev, "attention_paged", (attention_paged_kernel<D, MT>), tiles * G, (PagedShape<D, MT>::THREADS),
                (sizeof(PagedShared<D, MT>)), out, state, qk, *pages, N, H, G, LOG2_E / sqrtf((float)D));
}

template <int D>
static void paged(Device *dev, bf16 *out, const bf16 *qk, const PagedBatch *batch, int N, int H, int G) {
    Pages pages = {
        (const bf16 *)batch->pool, batch->q_offset,     batch->kv_len,       batch->block_table, batch->n_seq,
        batch->max_blocks,         batch->group_offset, batch->group_shared, batch->n_group,     1};
    float *state = NULL;
    /* Groups of one sequence gain nothing, and a call of so many rows is a prefill, which does not share. */
    if (batch->n_group < batch->n_seq && N <= PAGED_GROUP_ROWS) {
        state = (float *)cuda_scratch(dev, "attention_paged", attention_paged_scratch(N, H, D));
        if (!state) return;
        if (sm90_attention(dev)) sm90_attention_paged(dev, out, state, qk, &pages, N, H, G, D);
        else paged_launch<D, 4>(dev, out, state, qk, &pages, N, H, G);
    } else {
        pages.group_offset = NULL;
    }
    pages.shared = 0;
    if (sm90_attention(dev)) sm90_attention_paged(dev, out, state, qk, &pages, N, H, G, D);
    else if ((int64_t)N * (H / G) <= 16 * (int64_t)batch->n_seq)
        paged_launch<D, 1>(dev, out, state, qk, &pages, N, H, G);
    else paged_launch<D, 4>(dev, out, state, qk, &pages, N, H, G);
}

template <>
void cuda_attention_paged<bf16>(Device *dev, void *out, const void *qk, const PagedBatch *batch, int N, int H, int G,
                                int D) {
    if (N < 1 || batch->n_seq < 1 || !attention_head_size_fits(dev, "attention_paged", D)) return;
    (D == 64 ? paged<64> : paged<128>)(dev, (bf16 *)out, (const bf16 *)qk, batch, N, H, G);
}

template <>
void cuda_kv_append<bf16>(Device *dev, void *pool, DType, const void *qk, const void *qkv, const int64_t *slot, int N,
                          int H, int G, int D) {
    const unsigned blocks = (unsigned)(((int64_t)N * G * (D / 8) + 255) / 256);
    if (N < 1 || !attention_head_size_fits(dev, "kv_append", D)) return;
    if (sm90_attention(dev)) sm90_kv_append(dev, (bf16 *)pool, (const bf16 *)qk, (const bf16 *)qkv, slot, N, H, G, D);
    else if (D == 64)
        CUDA_LAUNCH(dev, "kv_append", kv_append_kernel<64>, blocks, 256, 0, (bf16 *)pool, (const bf16 *)qk,
                    (const bf16 *)qkv, slot, N, H, G);
    else
        CUDA_LAUNCH(dev, "kv_append", kv_append_kernel<128>, blocks, 256, 0, (bf16 *)pool, (const bf16 *)qk,
                    (const bf16 *)qkv, slot, N, H, G);
}

template <> void cuda_kv_copy_page<bf16>(Device *dev, void *pool, DType, int dst, int src, int n_keys, int G, int D) {
    if (dst == src || n_keys < 1 || !attention_head_size_fits(dev, "kv_copy_page", D)) return;
    const dim3 grid((unsigned)(KEYS * D / UNIT / 256), (unsigned)G);
    if (sm90_attention(dev)) sm90_kv_copy_page(dev, (bf16 *)pool, dst, src, n_keys, G, D);
    else if (D == 64)
        CUDA_LAUNCH(dev, "kv_copy_page", kv_copy_page_kernel<64>, grid, 256, 0, (bf16 *)pool, dst, src, n_keys, G);
    else CUDA_LAUNCH(dev, "kv_copy_page", kv_copy_page_kernel<128>, grid, 256, 0, (bf16 *)pool, dst, src, n_keys, G);
}
