/* attention_backward.cu - gradients of causal attention over packed sequences, in bf16, without atomics.  With
 * p = exp(score - lse) recomputed from the kept log-sum-exp (Dao 2023):
 *     dv = p^T dout    dscore = p (dout v^T - rowsum(dout out))    dq = dscore k / sqrt(D)    dk = dscore^T q / sqrt(D)
 *
 * Two kernels, each of which owns what it writes: one holds a tile of keys and goes over the queries of all heads of the
 * group, ascending, for dk and dv; one holds a tile of queries and goes over the keys, for dq.  Scores and dout v^T are
 * computed in both, 7 products in place of 5.  In one kernel dq would need atomics (another sum every run), or blocks that
 * wait for each other (which assumes that they run at once), or a copy of dq for every block of keys.  What the second
 * pass costs comes back in part: no float dq passes through memory, and p and dscore never leave registers, since the key
 * kernel computes the scores transposed: a result's rows are then the rows of the next product's left operand.
 *
 * A warp has 16 rows of keys (queries) at D = 128, 32 at D = 64, where the accumulators leave room to use each fragment
 * twice, and takes the other side 32 rows at a time.  Tiles of the other side are loaded one ahead. */
#include "kernels/cuda/attention.cuh"

#include <math.h>

enum { THREADS = 128, SLICE = 32 };

template <int D> struct BackwardShape {
    enum {
        MT = 128 / D,      /* 16-row pieces a warp */
        ROWS = 64 * MT,    /* of the tile that a thread block holds */
        QUERIES = 4096 / D /* a step of the key kernel */
    };
};

/* ---- row sums ------------------------------------------------------------------------------------------------------ */

/* real mean (H, N) = rowsum(dout out)   real lse2 (H, N) = lse, to the base 2; D / 8 lanes a row */
template <int D>
__global__ void __launch_bounds__(256)
    attention_backward_rows_kernel(float *mean, float *lse2, const bf16 *dout, const bf16 *out, const float *lse, int N,
                                   int H) {
    const int64_t row = ((int64_t)blockIdx.x * 256 + threadIdx.x) / (D / 8);
    const int     lane = threadIdx.x % (D / 8);
    float         sum = 0;
    if (row < (int64_t)N * H) {
        uint4 a = ((const uint4 *)(dout + row * D))[lane], b = ((const uint4 *)(out + row * D))[lane];
        const __nv_bfloat162 *x = (const __nv_bfloat162 *)&a, *y = (const __nv_bfloat162 *)&b;
        for (int i = 0; i < 4; i++) {
            float2 u = __bfloat1622float2(x[i]), v = __bfloat1622float2(y[i]);
            sum = fmaf(u.x, v.x, sum);
            sum = fmaf(u.y, v.y, sum);
        }
    }
    for (int i = D / 16; i; i /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, i);
    if (row < (int64_t)N * H && lane == 0) {
        int64_t at = row % H * N + row / H;
        mean[at] = sum;
        lse2[at] = lse[at] * LOG2_E;
    }
}

/* ---- keys and values ----------------------------------------------------------------------------------------------- */

template <int D> struct KeyShared {
    bf16 k[BackwardShape<D>::ROWS * D], v[BackwardShape<D>::ROWS * D];
    struct {
        bf16  q[BackwardShape<D>::QUERIES * D], dout[BackwardShape<D>::QUERIES * D];
        float lse2[BackwardShape<D>::QUERIES], mean[BackwardShape<D>::QUERIES];
    } step[2];
};

/* dv, dk += what 32 queries give the warp's keys.  key, query: first of each, in the sequence */
template <int D, class Step>
static __device__ __forceinline__ void keys_meet_queries(float (*dk)[D / 8][4], float (*dv)[D / 8][4],
                                                         const KeyShared<D> *shared, const Step &step, int row, int slice,
                                                         int key, int query, float scale, Lanes lanes) {
    constexpr int MT = BackwardShape<D>::MT;
    float         p[MT][4][4] = {}, ds[MT][4][4] = {};
#pragma unroll
    for (int k = 0; k < D / 16; k++) {
        uint32_t ak[MT][4], av[MT][4];
#pragma unroll
        for (int m = 0; m < MT; m++) {
            fragment_rows<D>(ak[m], shared->k, row + 16 * m, k, lanes);
            fragment_rows<D>(av[m], shared->v, row + 16 * m, k, lanes);
        }
#pragma unroll
        for (int n = 0; n < 2; n++) {
            uint32_t bq[4], bd[4];
            fragment_columns<D>(bq, step.q, slice + 16 * n, k, lanes);
            fragment_columns<D>(bd, step.dout, slice + 16 * n, k, lanes);
#pragma unroll
            for (int m = 0; m < MT; m++)
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    mma_m16n8k16_bf16(p[m][2 * n + i], ak[m], bq + 2 * i, p[m][2 * n + i]);
                    mma_m16n8k16_bf16(ds[m][2 * n + i], av[m], bd + 2 * i, ds[m][2 * n + i]);
                }
        }
    }
    const bool diagonal = query < key + 16 * MT - 1;
#pragma unroll
    for (int n = 0; n < 4; n++) {
        int    column = n * 8 + lanes.lane % 4 * 2;
        float2 lse2 = *(const float2 *)(step.lse2 + slice + column), mean = *(const float2 *)(step.mean + slice + column);
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                float w = exp2_fast(fmaf(p[m][n][e], scale, e & 1 ? -lse2.y : -lse2.x));
                if (diagonal && query + column + (e & 1) < key + 16 * m + lanes.lane / 4 + (e >> 1) * 8) w = 0;
                p[m][n][e] = w;
                ds[m][n][e] = w * (ds[m][n][e] - (e & 1 ? mean.y : mean.x));
            }
    }
#pragma unroll
    for (int k = 0; k < 2; k++) {
        uint32_t ap[MT][4], as[MT][4];
#pragma unroll
        for (int m = 0; m < MT; m++) {
            fragment_of(ap[m], p[m][2 * k], p[m][2 * k + 1]);
            fragment_of(as[m], ds[m][2 * k], ds[m][2 * k + 1]);
        }
#pragma unroll
        for (int n = 0; n < D / 16; n++) {
            uint32_t bd[4], bq[4];
            fragment_summed<D>(bd, step.dout, slice + 16 * k, n, lanes);
            fragment_summed<D>(bq, step.q, slice + 16 * k, n, lanes);
#pragma unroll
            for (int m = 0; m < MT; m++)
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    mma_m16n8k16_bf16(dv[m][2 * n + i], ap[m], bd + 2 * i, dv[m][2 * n + i]);
                    mma_m16n8k16_bf16(dk[m][2 * n + i], as[m], bq + 2 * i, dk[m][2 * n + i]);
                }
        }
    }
}

template <int D>
__global__ void __launch_bounds__(THREADS, 2)
    attention_backward_keys_kernel(bf16 *dqk, bf16 *dqkv, const bf16 *dout, const bf16 *qk, const bf16 *qkv,
                                   const float *mean, const float *lse2, const int32_t *cu_seqlens, int n_seq, int N,
                                   int H, int G, float scale) {
    constexpr int MT = BackwardShape<D>::MT, ROWS = BackwardShape<D>::ROWS, QUERIES = BackwardShape<D>::QUERIES;
    DYNAMIC_SHARED(KeyShared<D>, shared);
    const int     g = blockIdx.x % G, ratio = H / G, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const Lanes   lanes = lanes_of<D>(lane);
    const RowTile t = row_tile([=](int u) { return cu_seqlens[u]; }, n_seq, N, ROWS, blockIdx.x / G);
    if (t.first >= t.end) return;
    const size_t ld_qk = (size_t)(H + G) * D, ld_qkv = (size_t)(H + 2 * G) * D, ld_out = (size_t)H * D;
    const int    rows = min(ROWS, t.end - t.first), at = t.first - t.begin, length = t.end - t.begin;
    bf16        *dk_rows = dqk + t.first * ld_qk + (H + g) * D, *dv_rows = dqkv + t.first * ld_qkv + (H + G + g) * D;
    if (t.unit == n_seq) { /* rows of no sequence */
        rows_zero<D>(dk_rows, ld_qk, rows);
        rows_zero<D>(dv_rows, ld_qkv, rows);
        return;
    }
    const int q_begin = at / QUERIES, q_end = (length + QUERIES - 1) / QUERIES;
    auto      step_load = [&](int i, int head, int block) {
        int    n = t.begin + block * QUERIES, valid = length - block * QUERIES;
        size_t row = (size_t)head * N + n;
        auto  &step = shared->step[i];
        tile_load<D, QUERIES, THREADS>(step.q, qk + n * ld_qk + head * D, ld_qk, valid);
        tile_load<D, QUERIES, THREADS>(step.dout, dout + n * ld_out + head * D, ld_out, valid);
        for (int j = threadIdx.x; j < 2 * QUERIES; j += THREADS) {
            int r = j % QUERIES;
            cp_async_4(j < QUERIES ? step.lse2 + r : step.mean + r, (j < QUERIES ? lse2 : mean) + row + (r < valid ? r : 0),
                       r < valid);
        }
    };
    tile_load<D, ROWS, THREADS>(shared->k, qk + t.first * ld_qk + (H + g) * D, ld_qk, rows);
    tile_load<D, ROWS, THREADS>(shared->v, qkv + t.first * ld_qkv + (H + G + g) * D, ld_qkv, rows);
    step_load(0, g * ratio, q_begin);
    cp_async_commit();

    float     dk[MT][D / 8][4] = {}, dv[MT][D / 8][4] = {};
    const int row = warp * 16 * MT, key = at + row;
    int       head = g * ratio, block = q_begin;
    for (int i = 0; head < (g + 1) * ratio; i ^= 1) {
        const int query = block * QUERIES;
        if (++block == q_end) block = q_begin, head++;
        cp_async_wait<0>();
        __syncthreads(); /* this step has come, and nobody reads the last one any more */
        if (head < (g + 1) * ratio) step_load(i ^ 1, head, block);
        cp_async_commit();
#pragma unroll 1
        for (int slice = 0; slice < QUERIES; slice += SLICE)
            if (query + slice + SLICE > key)
                keys_meet_queries<D>(dk, dv, shared, shared->step[i], row, slice, key, query + slice, scale * LOG2_E,
                                     lanes);
    }
    __syncwarp(); /* a warp's own rows of k and v are read by no other */
#pragma unroll
    for (int m = 0; m < MT; m++) {
        accumulator_store<D>(shared->k, row + 16 * m, dk[m], scale, scale, lane);
        accumulator_store<D>(shared->v, row + 16 * m, dv[m], 1, 1, lane);
    }
    __syncwarp();
    rows_write<D, 16 * MT>(dk_rows, ld_qk, shared->k, row, rows, lane);
    rows_write<D, 16 * MT>(dv_rows, ld_qkv, shared->v, row, rows, lane);
}

/* ---- queries ------------------------------------------------------------------------------------------------------- */

template <int D> struct QueryShared {
    struct {
        bf16 k[KEYS * D], v[KEYS * D];
    } step[2];
};

/* dq += what 32 keys give the warp's queries.  slice: the first key, of the tile */
template <int D>
static __device__ __forceinline__ void queries_meet_keys(float (*dq)[D / 8][4], const uint32_t (*q)[D / 16][4],
                                                         const uint32_t (*dout)[D / 16][4], const bf16 *keys,
                                                         const bf16 *values, int slice, int key, int query,
                                                         const float (*lse2)[2], const float (*mean)[2], float scale,
                                                         Lanes lanes) {
    constexpr int MT = BackwardShape<D>::MT;
    float         p[MT][4][4] = {}, ds[MT][4][4] = {};
#pragma unroll
    for (int k = 0; k < D / 16; k++)
#pragma unroll
        for (int n = 0; n < 2; n++) {
            uint32_t bk[4], bv[4];
            fragment_columns<D>(bk, keys, slice + 16 * n, k, lanes);
            fragment_columns<D>(bv, values, slice + 16 * n, k, lanes);
#pragma unroll
            for (int m = 0; m < MT; m++)
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    mma_m16n8k16_bf16(p[m][2 * n + i], q[m][k], bk + 2 * i, p[m][2 * n + i]);
                    mma_m16n8k16_bf16(ds[m][2 * n + i], dout[m][k], bv + 2 * i, ds[m][2 * n + i]);
                }
        }
    const bool diagonal = key + SLICE - 1 > query;
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int n = 0; n < 4; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                float w = exp2_fast(fmaf(p[m][n][e], scale, -lse2[m][e >> 1]));
                if (diagonal && key + n * 8 + lanes.lane % 4 * 2 + (e & 1) > query + 16 * m + lanes.lane / 4 + (e >> 1) * 8)
                    w = 0;
                ds[m][n][e] = w * (ds[m][n][e] - mean[m][e >> 1]);
            }
#pragma unroll
    for (int k = 0; k < 2; k++) {
        uint32_t as[MT][4];
#pragma unroll
        for (int m = 0; m < MT; m++) fragment_of(as[m], ds[m][2 * k], ds[m][2 * k + 1]);
#pragma unroll
        for (int n = 0; n < D / 16; n++) {
            uint32_t bk[4];
            fragment_summed<D>(bk, keys, slice + 16 * k, n, lanes);
#pragma unroll
            for (int m = 0; m < MT; m++)
#pragma unroll
                for (int i = 0; i < 2; i++) mma_m16n8k16_bf16(dq[m][2 * n + i], as[m], bk + 2 * i, dq[m][2 * n + i]);
        }
    }
}

template <int D>
__global__ void __launch_bounds__(THREADS, 2)
    attention_backward_queries_kernel(bf16 *dqk, const bf16 *dout, const bf16 *qk, const bf16 *qkv, const float *mean,
                                      const float *lse2, const int32_t *cu_seqlens, int n_seq, int N, int H, int G,
                                      float scale) {
    constexpr int MT = BackwardShape<D>::MT, ROWS = BackwardShape<D>::ROWS;
    DYNAMIC_SHARED(QueryShared<D>, shared);
    const int     tiles = gridDim.x / H, head = blockIdx.x % H, g = head / (H / G);
    const int     warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const Lanes   lanes = lanes_of<D>(lane);
    const RowTile t = row_tile([=](int u) { return cu_seqlens[u]; }, n_seq, N, ROWS, tiles - 1 - blockIdx.x / H);
    if (t.first >= t.end) return;
    const size_t ld_qk = (size_t)(H + G) * D, ld_qkv = (size_t)(H + 2 * G) * D, ld_out = (size_t)H * D;
    const int    rows = min(ROWS, t.end - t.first), at = t.first - t.begin, length = t.end - t.begin;
    bf16        *dst = dqk + t.first * ld_qk + head * D;
    if (t.unit == n_seq) { /* rows of no sequence */
        rows_zero<D>(dst, ld_qk, rows);
        return;
    }
    const bf16 *keys = qk + t.begin * ld_qk + (H + g) * D, *values = qkv + t.begin * ld_qkv + (H + G + g) * D;
    auto        step_load = [&](int i, int b) {
        tile_load<D, KEYS, THREADS>(shared->step[i].k, keys + b * KEYS * ld_qk, ld_qk, length - b * KEYS);
        tile_load<D, KEYS, THREADS>(shared->step[i].v, values + b * KEYS * ld_qkv, ld_qkv, length - b * KEYS);
    };
    static_assert(ROWS <= 2 * KEYS, "queries and dout pass through step 1");
    bf16 *staged = shared->step[1].k;
    tile_load<D, ROWS, THREADS>(staged, qk + t.first * ld_qk + head * D, ld_qk, rows);
    cp_async_commit();
    step_load(0, 0);
    cp_async_commit();
    cp_async_wait<1>();
    __syncthreads();
    const int row = warp * 16 * MT, query = at + row;
    uint32_t  q[MT][D / 16][4], d[MT][D / 16][4];
    float     row_mean[MT][2], row_lse2[MT][2];
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int k = 0; k < D / 16; k++) fragment_rows<D>(q[m][k], staged, row + 16 * m, k, lanes);
    __syncthreads();
    tile_load<D, ROWS, THREADS>(staged, dout + t.first * ld_out + head * D, ld_out, rows);
    cp_async_commit();
#pragma unroll
    for (int m = 0; m < MT; m++)
        for (int half = 0; half < 2; half++) {
            int r = row + 16 * m + half * 8 + lane / 4;
            row_mean[m][half] = r < rows ? mean[(size_t)head * N + t.first + r] : 0;
            row_lse2[m][half] = r < rows ? lse2[(size_t)head * N + t.first + r] : 0;
        }
    cp_async_wait<0>();
    __syncthreads();
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int k = 0; k < D / 16; k++) fragment_rows<D>(d[m][k], staged, row + 16 * m, k, lanes);

    float     dq[MT][D / 8][4] = {};
    const int blocks = (at + rows + KEYS - 1) / KEYS;
    for (int b = 0; b < blocks; b++) {
        cp_async_wait<0>();
        __syncthreads();
        if (b + 1 < blocks) step_load((b + 1) & 1, b + 1);
        cp_async_commit();
#pragma unroll 1
        for (int slice = 0; slice < KEYS; slice += SLICE)
            if (b * KEYS + slice < query + 16 * MT)
                queries_meet_keys<D>(dq, q, d, shared->step[b & 1].k, shared->step[b & 1].v, slice, b * KEYS + slice,
                                     query, row_lse2, row_mean, scale * LOG2_E, lanes);
    }
    __syncthreads();
#pragma unroll
    for (int m = 0; m < MT; m++) accumulator_store<D>(staged, row + 16 * m, dq[m], scale, scale, lane);
    __syncwarp();
    rows_write<D, 16 * MT>(dst, ld_qk, staged, row, rows, lane);
}

/* ---- the operation ------------------------------------------------------------------------------------------------- */

template <int D>
static void backward(Device *dev, bf16 *dqk, bf16 *dqkv, const bf16 *dout, const bf16 *qk, const bf16 *qkv,
                     const bf16 *out, const float *lse, const int32_t *cu_seqlens, int n_seq, int N, int H, int G) {
    const char  *op = "attention_backward";
    const size_t rows = (size_t)N * H;
    const float  scale = 1 / sqrtf((float)D);
    float       *mean = (float *)cuda_scratch(dev, op, attention_backward_scratch(N, H));
    if (!mean) return;
    float *lse2 = mean + rows;
    CUDA_LAUNCH(dev, op, attention_backward_rows_kernel<D>, (unsigned)((rows * (D / 8) + 255) / 256), 256, 0, mean, lse2,
                dout, out, lse, N, H);
    CUDA_LAUNCH(dev, op, attention_backward_keys_kernel<D>, row_tiles(N, BackwardShape<D>::ROWS, n_seq) * G, THREADS,
                sizeof(KeyShared<D>), dqk, dqkv, dout, qk, qkv, mean, lse2, cu_seqlens, n_seq, N, H, G, scale);
    CUDA_LAUNCH(dev, op, attention_backward_queries_kernel<D>, row_tiles(N, BackwardShape<D>::ROWS, n_seq) * H, THREADS,
                sizeof(QueryShared<D>), dqk, dout, qk, qkv, mean, lse2, cu_seqlens, n_seq, N, H, G, scale);
}

template <>
void cuda_attention_backward<bf16>(Device *dev, void *dqk, void *dqkv, const void *dout, const void *qk, const void *qkv,
                                   const void *out, const void *lse, const int32_t *cu_seqlens, int n_seq, int N, int H,
                                   int G, int D) {
    if (N < 1 || !attention_head_size_fits(dev, "attention_backward", D)) return;
    (D == 64 ? backward<64> : backward<128>)(dev, (bf16 *)dqk, (bf16 *)dqkv, (const bf16 *)dout, (const bf16 *)qk,
                                             (const bf16 *)qkv, (const bf16 *)out, (const float *)lse, cu_seqlens, n_seq,
                                             N, H, G);
}
