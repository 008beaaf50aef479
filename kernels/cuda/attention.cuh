/* attention.cuh - what the attention kernels share; private to kernels/cuda/attention*.cu.
 *
 * The order of every forward sum, the same on every path.  A row of queries meets the blocks of 64 keys of its sequence
 * one by one, and a block gives it three things that depend on no other block:
 *     max_b = log2(e) / sqrt(D) * max_j score_j    sum_b = sum_j p_j    out_b = sum_j bf16(p_j) value_j
 * with p_j = exp2(log2(e) / sqrt(D) * score_j - max_b), the products from zero, in MMA steps of 16, all of a device by one
 * instruction: wgmma where sm90_attention(), mma.sync elsewhere.  block_merge()
 * joins them to what is there, in ascending order of blocks.  So it does not matter who computes a block, with which
 * other rows, or when: packed, prefilled, decoded, forked and grouped rows have the same bits, and decoding may spread
 * the blocks of one row over warps.  The price against the recurrence of Dao (2023), whose products go on from the
 * block before: its one multiplication an output element and block (the rescaling) becomes one fused multiply-add here,
 * and a second one in the blocks where the largest score of a row grows; no register more, for out_b is made 16 columns
 * at a time.  Cutting the keys into longer spans, merged after each, would save that too, but keep two sets of
 * accumulators alive, which 32 rows a warp at D = 128 have no registers for.
 *
 * Every sum over rows of keys in the backward kernels is likewise of one thread, in a fixed order: no atomics. */
#ifndef EHR_KERNELS_CUDA_ATTENTION_CUH
#define EHR_KERNELS_CUDA_ATTENTION_CUH
#include "kernels/cuda/cuda.cuh"

#include <string.h>

enum { KEYS = KV_PAGE }; /* a block */

#define LOG2_E 1.4426950408889634f
#define LN_2 0.6931471805599453f

static inline bool attention_head_size_fits(Device *dev, const char *op, int D) {
    if (D != 64 && D != 128) device_fail(dev, op, "the CUDA backend takes head sizes 64 and 128");
    return D == 64 || D == 128;
}

/* rowsum(dout out) and the log-sum-exp to the base 2, (H, N) each */
static inline size_t attention_backward_scratch(int N, int H) { return 2 * sizeof(float) * (size_t)N * (size_t)H; }

/* Whether forward attention goes over wgmma: a property of the device alone, since attention_forward, attention_paged
 * and the order inside pages change together. */
static inline bool sm90_attention(const Device *dev) {
    return cuda_compute_capability(dev) == 90 && cuda_tensor_map_encode(dev);
}
/* attention_sm90.cu, where sm90_attention() */
void sm90_attention_forward(Device *dev, const char *op, bf16 *out, float *lse, const bf16 *qk, const bf16 *qkv,
                            const int32_t *cu_seqlens, int n_seq, int N, int H, int G, int D);
/* attention_backward_sm90.cu, after the row sums.  false: not for this path, another card. */
bool sm90_attention_backward(Device *dev, const char *op, bf16 *dqk, bf16 *dqkv, const bf16 *dout, const bf16 *qk,
                             const bf16 *qkv, const float *mean, const float *lse2, const int32_t *cu_seqlens,
                             int n_seq, int N, int H, int G, int D);

/* What a group's shared pages give its rows, between two launches of attention_paged: of calls up to so many rows. */
enum { PAGED_GROUP_ROWS = 4096 };
enum { STATE_HEAD = 8 }; /* floats before the D outputs of a row and head: sum as four lanes have it, max */
static inline size_t attention_paged_scratch(int N, int H, int D) {
    return sizeof(float) * (size_t)(N < PAGED_GROUP_ROWS ? N : PAGED_GROUP_ROWS) * (size_t)H * (size_t)(STATE_HEAD + D);
}

/* ---- who works on what ------------------------------------------------------------------------------------------ */

/* Rows of packed units (sequences, or groups of them), a tile of `rows` a block.  The grid cannot know the lengths, so
 * it has total / rows + n_units + 1 tiles: unit u owns tiles offset(u) / rows + u up to those of u + 1, which are
 * always enough, and the rows past the last unit count as unit n_units.  Tiles without rows have first >= end. */
struct RowTile {
    int unit;
    int begin, end; /* the unit's rows */
    int first;      /* of the tile; it ends at min(first + rows, end) */
};

static inline int row_tiles(int total, int rows, int n_units) { return total / rows + n_units + 1; }

template <class Offset>
static __device__ __forceinline__ RowTile row_tile(Offset offset, int n_units, int total, int rows, int tile) {
    int spare = tile - total / rows; /* empty units at the end, when n_units is a capacity: no search for them */
    if (spare >= 0 && offset(spare) >= total) return RowTile{spare, total, total, total};
    int lo = 0, hi = n_units;
    while (lo < hi) {
        int mid = (lo + hi + 1) / 2;
        if (offset(mid) / rows + mid <= tile) lo = mid;
        else hi = mid - 1;
    }
    int begin = offset(lo), end = lo < n_units ? offset(lo + 1) : total;
    return RowTile{lo, begin, end, begin + (tile - begin / rows - lo) * rows};
}

/* ---- bf16 tiles in shared memory -------------------------------------------------------------------------------- */

/* Element of 16-byte chunk `chunk` of a row: chunks are exchanged inside their 128 bytes so that eight rows' same
 * chunk, which is what ldmatrix reads, lie in different banks. */
template <int D> static __device__ __forceinline__ int swizzle(int row, int chunk) {
    return row * D + (chunk ^ (row & 7)) * 8;
}

/* Starts copying ROWS rows of D; rows from `valid` on become zeros. */
template <int D, int ROWS, int THREADS>
static __device__ __forceinline__ void tile_load(bf16 *tile, const bf16 *src, size_t ld, int valid) {
    int row = threadIdx.x / (D / 8), chunk = threadIdx.x % (D / 8);
    src += row * ld + chunk * 8;
    tile += swizzle<D>(row, chunk);
#pragma unroll
    for (int i = 0; i < ROWS * (D / 8) / THREADS; i++) {
        constexpr int step = THREADS / (D / 8);
        static_assert(step % 8 == 0, "the exchange of chunks repeats every eight rows");
        cp_async_16(tile + i * step * D, src, row + i * step < valid);
        src += step * ld;
    }
}

/* Where a lane reads a 16 by 16 piece of a tile, as an element; ^ 16 k moves it to columns 16 k. */
struct Lanes {
    int lane;
    int rows;    /* eight rows by eight columns below each other */
    int columns; /* and beside each other */
};
template <int D> static __device__ __forceinline__ Lanes lanes_of(int lane) {
    return Lanes{lane, swizzle<D>(lane & 15, lane >> 4), swizzle<D>((lane & 7) + (lane >> 4) * 8, lane >> 3 & 1)};
}
/* Left operand: rows [row, row + 16), columns [16 k, 16 k + 16). */
template <int D>
static __device__ __forceinline__ void fragment_rows(uint32_t *a, const bf16 *tile, int row, int k, Lanes lanes) {
    ldmatrix_x4(a, tile + (lanes.rows ^ 16 * k) + row * D);
}
/* Right operand, the tile's rows being its columns (q k^T): rows [row, row + 16) as two operands of 8, columns 16 k...
 */
template <int D>
static __device__ __forceinline__ void fragment_columns(uint32_t *b, const bf16 *tile, int row, int k, Lanes lanes) {
    ldmatrix_x4(b, tile + (lanes.columns ^ 16 * k) + row * D);
}
/* Right operand, the tile's rows being summed over (p v): rows [row, row + 16), columns [16 n, 16 n + 16) as two of 8.
 */
template <int D>
static __device__ __forceinline__ void fragment_summed(uint32_t *b, const bf16 *tile, int row, int n, Lanes lanes) {
    ldmatrix_x4_trans(b, tile + (lanes.rows ^ 16 * n) + row * D);
}

static __device__ __forceinline__ uint32_t pack_bf16(float lo, float hi) {
    __nv_bfloat162 pair = __floats2bfloat162_rn(lo, hi);
    uint32_t bits;
    memcpy(&bits, &pair, sizeof bits);
    return bits;
}

/* Two accumulators of 8 columns (a result 16 by 16) as the left operand of the next product. */
static __device__ __forceinline__ void fragment_of(uint32_t *a, const float *c0, const float *c1) {
    a[0] = pack_bf16(c0[0], c0[1]);
    a[1] = pack_bf16(c0[2], c0[3]);
    a[2] = pack_bf16(c1[0], c1[1]);
    a[3] = pack_bf16(c1[2], c1[3]);
}

/* A warp's accumulator of 16 rows (at `row` of the tile) and COLUMNS columns (part of D), scaled by row, as bf16 rows
 * of the swizzled tile. */
template <int D, int COLUMNS>
static __device__ __forceinline__ void accumulator_store(bf16 *tile, int row, int part, const float (*acc)[4],
                                                         float scale0, float scale1, int lane) {
#pragma unroll
    for (int n = 0; n < COLUMNS / 8; n++) { /* + 0: no negative zeros, whichever way a sum vanished */
        int chunk = part * (COLUMNS / 8) + n;
        bf16 *top = tile + swizzle<D>(row + lane / 4, chunk) + lane % 4 * 2;
        bf16 *low = tile + swizzle<D>(row + lane / 4 + 8, chunk) + lane % 4 * 2;
        *(uint32_t *)top = pack_bf16(acc[n][0] * scale0 + 0.0f, acc[n][1] * scale0 + 0.0f);
        *(uint32_t *)low = pack_bf16(acc[n][2] * scale1 + 0.0f, acc[n][3] * scale1 + 0.0f);
    }
}
/* A warp writes rows [row, row + ROWS) of the tile to dst, those below `valid` only. */
template <int D, int ROWS>
static __device__ __forceinline__ void rows_write(bf16 *dst, size_t ld, const bf16 *tile, int row, int valid,
                                                  int lane) {
#pragma unroll
    for (int i = 0; i < ROWS * (D / 8) / 32; i++) {
        int r = (lane + i * 32) / (D / 8), chunk = (lane + i * 32) % (D / 8);
        if (row + r < valid)
            *(uint4 *)(dst + (row + r) * ld + chunk * 8) = *(const uint4 *)(tile + swizzle<D>(row + r, chunk));
    }
}
/* A thread block writes zeros to rows [0, rows) of D. */
template <int D> static __device__ __forceinline__ void rows_zero(bf16 *dst, size_t ld, int rows) {
    for (int i = threadIdx.x; i < rows * (D / 8); i += blockDim.x)
        *(uint4 *)(dst + i / (D / 8) * ld + i % (D / 8) * 8) = make_uint4(0, 0, 0, 0);
}

/* ---- softmax ---------------------------------------------------------------------------------------------------- */

/* Scores of 16 rows and 64 keys, in place: p.  Of rows lane / 4 and lane / 4 + 8: max_b, and the part of sum_b of the
 * columns that this lane holds; the four lanes of a row add up at the very end (row_sum). */
static __device__ __forceinline__ void block_softmax(float (*s)[4], float scale, float *max, float *sum) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float top = -INFINITY, total = 0;
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++) top = fmaxf(top, fmaxf(s[n][2 * half], s[n][2 * half + 1]));
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2)) * scale;
        float shift = top == -INFINITY ? 0 : -top; /* a row that sees no key of the block: p = 0 */
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
            for (int e = 2 * half; e < 2 * half + 2; e++) {
                s[n][e] = exp2_fast(fmaf(s[n][e], scale, shift));
                total += s[n][e];
            }
        max[half] = top;
        sum[half] = total;
    }
}

static __device__ __forceinline__ float row_sum(float part) {
    part += __shfl_xor_sync(0xffffffffu, part, 1);
    return part + __shfl_xor_sync(0xffffffffu, part, 2);
}

/* What a row keeps times `kept`, plus what its block gave times `given`; one of the two is 1. */
struct Merge {
    float kept, given;
};
static __device__ __forceinline__ Merge block_merge(float *max, float *sum, float block_max, float block_sum) {
    float top = fmaxf(*max, block_max);
    Merge m = {exp2_fast(*max - top), exp2_fast(block_max - top)};
    *sum = fmaf(block_sum, m.given, *sum * m.kept);
    *max = top;
    return m;
}

/* Keys from visible[row] on are none of the row's business.  first: of the 64 keys.  visible: of rows lane / 4 and + 8.
 */
static __device__ __forceinline__ void block_mask(float (*s)[4], int first, const int *visible, int lane) {
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            if (first + n * 8 + lane % 4 * 2 + (e & 1) >= visible[e >> 1]) s[n][e] = -INFINITY;
}

#endif
