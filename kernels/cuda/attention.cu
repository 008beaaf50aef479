/* attention.cu - causal attention over packed sequences, forward, in bf16 (Dao 2023; attention.cuh has the order of
 * sums).
 *
 * A block of four warps takes 128 query rows of one head, 32 a warp, so that each fragment of keys or values that a
 * warp reads from shared memory feeds two products.  Keys and values come as one stream of tiles k0 v0 k1 v1 ...
 * through a ring of three, two tiles ahead: 80 KB at D = 128, two thread blocks on every multiprocessor from sm_80 on.
 * Queries stay in shared memory, for the accumulators fill the registers.  The last query tiles of a sequence, which
 * meet the most keys, come first in the grid. */
#include "kernels/cuda/attention.cuh"

#include <math.h>

static constexpr int ROWS = 128, THREADS = 128, RING = 3;

template <int D> struct ForwardShared {
    bf16 q[ROWS * D];
    bf16 ring[RING][KEYS * D];
    /* What is needed once a block of keys, or after them all, waits here: the accumulators fill the registers. */
    const bf16 *keys, *values;
    int first, rows, head;
};

/* scores of the warp's 32 rows and the 64 keys of the tile */
template <int D>
static __device__ __forceinline__ void scores_of(float (*s)[KEYS / 8][4], const bf16 *q, const bf16 *keys, int row,
                                                 Lanes lanes) {
#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) s[m][n][e] = 0;
#pragma unroll
    for (int k = 0; k < D / 16; k++) {
        uint32_t a[2][4];
        for (int m = 0; m < 2; m++) fragment_rows<D>(a[m], q, row + 16 * m, k, lanes);
#pragma unroll
        for (int n = 0; n < KEYS / 16; n++) {
            uint32_t b[4];
            fragment_columns<D>(b, keys, 16 * n, k, lanes);
#pragma unroll
            for (int m = 0; m < 2; m++)
#pragma unroll
                for (int i = 0; i < 2; i++) mma_m16n8k16_bf16(s[m][2 * n + i], a[m], b + 2 * i, s[m][2 * n + i]);
        }
    }
}

/* out = merge(out, p v), 16 columns at a time */
template <int D>
static __device__ __forceinline__ void values_merge(float (*out)[D / 8][4], const uint32_t (*p)[KEYS / 16][4],
                                                    const bf16 *values, Merge (*merge)[2], Lanes lanes) {
    bool grown = false;
    for (int m = 0; m < 2; m++)
        for (int half = 0; half < 2; half++) grown |= merge[m][half].kept != 1;
    if (__any_sync(0xffffffffu, grown)) /* otherwise times 1 */
#pragma unroll
        for (int m = 0; m < 2; m++)
#pragma unroll
            for (int n = 0; n < D / 8; n++)
#pragma unroll
                for (int e = 0; e < 4; e++) out[m][n][e] *= merge[m][e >> 1].kept;
#pragma unroll
    for (int n = 0; n < D / 16; n++) {
        float part[2][2][4] = {};
        __syncwarp(); /* no fragments of further columns yet: there are no registers for them */
#pragma unroll
        for (int k = 0; k < KEYS / 16; k++) {
            uint32_t b[4];
            fragment_summed<D>(b, values, 16 * k, n, lanes);
#pragma unroll
            for (int m = 0; m < 2; m++)
#pragma unroll
                for (int i = 0; i < 2; i++) mma_m16n8k16_bf16(part[m][i], p[m][k], b + 2 * i, part[m][i]);
        }
#pragma unroll
        for (int m = 0; m < 2; m++)
#pragma unroll
            for (int i = 0; i < 2; i++)
#pragma unroll
                for (int e = 0; e < 4; e++)
                    out[m][2 * n + i][e] = fmaf(part[m][i][e], merge[m][e >> 1].given, out[m][2 * n + i][e]);
    }
}

template <int D>
__global__ void __launch_bounds__(THREADS, 2)
    attention_forward_kernel(bf16 *out, float *lse, const bf16 *qk, const bf16 *qkv, const int32_t *cu_seqlens,
                             int n_seq, int N, int H, int G, float scale) {
    DYNAMIC_SHARED(ForwardShared<D>, shared);
    const int tiles = gridDim.x / H, head = blockIdx.x % H, g = head / (H / G);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const Lanes lanes = lanes_of<D>(lane);
    const RowTile t = row_tile([=](int u) { return cu_seqlens[u]; }, n_seq, N, ROWS, tiles - 1 - blockIdx.x / H);
    if (t.first >= t.end) return;
    const size_t ld_qk = (size_t)(H + G) * D, ld_qkv = (size_t)(H + 2 * G) * D, ld_out = (size_t)H * D;
    const int rows = min(ROWS, t.end - t.first), at = t.first - t.begin; /* of the sequence */
    bf16 *dst = out + t.first * ld_out + head * D;
    if (t.unit == n_seq) { /* rows of no sequence */
        rows_zero<D>(dst, ld_out, rows);
        return;
    }
    const int length = t.end - t.begin, blocks = (at + rows + KEYS - 1) / KEYS;
    const bf16 *keys = qk + t.begin * ld_qk + (H + g) * D, *values = qkv + t.begin * ld_qkv + (H + G + g) * D;
    tile_load<D, ROWS, THREADS>(shared->q, qk + t.first * ld_qk + head * D, ld_qk, rows);
    tile_load<D, KEYS, THREADS>(shared->ring[0], keys, ld_qk, length);
    cp_async_commit();
    tile_load<D, KEYS, THREADS>(shared->ring[1], values, ld_qkv, length);
    cp_async_commit();
    if (threadIdx.x == 0) {
        shared->keys = keys, shared->values = values;
        shared->first = t.first, shared->rows = rows, shared->head = head;
    }

    float acc[2][D / 8][4] = {}, max[2][2], sum[2][2] = {};
    for (int m = 0; m < 2; m++)
        for (int half = 0; half < 2; half++) max[m][half] = -INFINITY;
    const int row = warp * 32; /* the warp's first, of the tile */
    for (int b = 0, slot = 0; b < blocks; b++) {
        const int first = b * KEYS, after = first + KEYS;
        const int spare = (slot + 2) % RING; /* whose tile every warp has left behind, once all are here */
        cp_async_wait<1>();
        __syncthreads();
        if (b + 1 < blocks)
            tile_load<D, KEYS, THREADS>(shared->ring[spare], shared->keys + after * ld_qk, ld_qk, length - after);
        cp_async_commit();
        uint32_t p[2][KEYS / 16][4];
        Merge merge[2][2];
        float s[2][KEYS / 8][4];
        scores_of<D>(s, shared->q, shared->ring[slot], row, lanes);
#pragma unroll
        for (int m = 0; m < 2; m++) {
            int i = at + row + 16 * m + lane / 4, visible[2] = {i + 1, i + 9};
            float block_max[2], block_sum[2];
            if (after > at + row + 16 * m + 1) block_mask(s[m], first, visible, lane);
            block_softmax(s[m], scale, block_max, block_sum);
            for (int half = 0; half < 2; half++)
                merge[m][half] = block_merge(&max[m][half], &sum[m][half], block_max[half], block_sum[half]);
#pragma unroll
            for (int k = 0; k < KEYS / 16; k++) fragment_of(p[m][k], s[m][2 * k], s[m][2 * k + 1]);
        }
        cp_async_wait<1>();
        __syncthreads();
        if (b + 1 < blocks)
            tile_load<D, KEYS, THREADS>(shared->ring[slot], shared->values + after * ld_qkv, ld_qkv, length - after);
        cp_async_commit();
        slot = (slot + 1) % RING;
        values_merge<D>(acc, p, shared->ring[slot], merge, lanes);
        slot = (slot + 1) % RING;
    }

    const int rows_left = shared->rows, n = shared->first, h = shared->head;
#pragma unroll
    for (int m = 0; m < 2; m++) {
        float total[2] = {row_sum(sum[m][0]), row_sum(sum[m][1])};
        accumulator_store<D, D>(shared->q, row + 16 * m, 0, acc[m], 1 / total[0], 1 / total[1], lane);
        for (int half = 0; half < 2 && lse; half++) {
            int r = row + 16 * m + half * 8 + lane / 4;
            if (lane % 4 == 0 && r < rows_left) lse[(size_t)h * N + n + r] = max[m][half] * LN_2 + logf(total[half]);
        }
    }
    __syncwarp();
    rows_write<D, 32>(out + n * ld_out + h * D, ld_out, shared->q, row, rows_left, lane);
}

template <int D>
static void forward(Device *dev, bf16 *out, float *lse, const bf16 *qk, const bf16 *qkv, const int32_t *cu_seqlens,
                    int n_seq, int N, int H, int G) {
    CUDA_LAUNCH(dev, "attention_forward", attention_forward_kernel<D>, row_tiles(N, ROWS, n_seq) * H, THREADS,
                sizeof(ForwardShared<D>), out, lse, qk, qkv, cu_seqlens, n_seq, N, H, G, LOG2_E / sqrtf((float)D));
}

template <> size_t cuda_attention_workspace<bf16>(const Device *, const KernelLimits *limits) {
    size_t backward = attention_backward_scratch(limits->N, limits->H);
    size_t paged = attention_paged_scratch(limits->N, limits->H, limits->D);
    return backward > paged ? backward : paged;
}
template <> size_t cuda_attention_workspace<float>(const Device *, const KernelLimits *limits) {
    return attention_backward_scratch(limits->N, limits->H);
}

template <>
void cuda_attention_forward<bf16>(Device *dev, void *out, void *lse, const void *qk, const void *qkv,
                                  const int32_t *cu_seqlens, int n_seq, int N, int H, int G, int D) {
    if (N < 1 || !attention_head_size_fits(dev, "attention_forward", D)) return;
    if (sm90_attention(dev))
        sm90_attention_forward(dev, "attention_forward", (bf16 *)out, (float *)lse, (const bf16 *)qk, (const bf16 *)qkv,
                               cu_seqlens, n_seq, N, H, G, D);
    else if (D == 64)
        forward<64>(dev, (bf16 *)out, (float *)lse, (const bf16 *)qk, (const bf16 *)qkv, cu_seqlens, n_seq, N, H, G);
    else forward<128>(dev, (bf16 *)out, (float *)lse, (const bf16 *)qk, (const bf16 *)qkv, cu_seqlens, n_seq, N, H, G);
}
