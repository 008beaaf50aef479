/* attention_backward.cu - gradients of causal attention over packed sequences, in bf16, without atomics.  With
 * p = exp(score - lse) recomputed from the kept log-sum-exp (Dao 2023):
 *     dv = p^T dout    dscore = p (dout v^T - rowsum(dout out))    dq = dscore k / sqrt(D)    dk = dscore^T q / sqrt(D)
 *
 * Two kernels, each of which owns what it writes: one holds a tile of keys and goes over the queries of all heads of
 * the group, ascending, for dk and dv; one holds a tile of queries and goes over the keys, for dq.  Scores and dout v^T
 * are computed in both, 7 products in place of 5.  In one kernel dq would need atomics (another sum every run), or
 * blocks that wait for each other (which assumes that they run at once), or a copy of dq for every block of keys.  What
 * the second pass costs comes back in part: no float dq passes through memory, and the key kernel computes the scores
 * transposed, so that a result's rows are the rows of the next product's left operand.
 *
 * What bounds these kernels is shared memory: a fragment of the right operand must serve two products, so a warp has 32
 * rows.  Accumulators of 32 rows fit the registers for 64 columns.  At D = 128, then, two warps share 32 rows: each
 * computes the weights of its half of the other side's rows, both put them where the other one finds them, and each
 * accumulates its half of the columns.  At D = 64 a warp is alone and weights never leave registers.  Tiles of the
 * other side are loaded one ahead. */
#include "kernels/cuda/attention.cuh"

#include <math.h>

static constexpr int STEP = 64;    /* rows of the other side loaded at once */
static constexpr int PART = 32;    /* of which a warp computes the weights at once, for as many rows of its own */
static constexpr int COLUMNS = 64; /* that a warp accumulates */
static constexpr int MT = PART / 16;

template <int D> struct Team {
    enum {
        WARPS = D / COLUMNS, /* that share rows */
        SLICE = WARPS * PART /* rows of the other side that a team takes at once */
    };
    static_assert(WARPS == 1 || SLICE == STEP, "a team's weights are written once a step");
};

/* Of a thread block: ROWS rows of its own side.  Cards with 100 KB of shared memory a multiprocessor take half of them
 * at D = 128, and the key kernel there loads a step only after the last one is done with. */
template <int D, int ROWS> struct BackwardTile {
    enum {
        THREADS = 32 * Team<D>::WARPS * ROWS / PART,
        RESIDENT = D == 64 ? 2 : 1,
        STEPS = ROWS == 128 ? 2 : 1 /* of the key kernel */
    };
};

/* Of a warp: its team's first row of the tile, and which part of the work is its own. */
struct Member {
    int team, row, part;
};
template <int D> static __device__ __forceinline__ Member member_of(int warp) {
    return Member{warp / Team<D>::WARPS, warp / Team<D>::WARPS * PART, warp % Team<D>::WARPS};
}
template <int D> static __device__ __forceinline__ void team_sync(Member w) {
    if (Team<D>::WARPS == 1) __syncwarp();
    else barrier_sync(1 + w.team, 32 * Team<D>::WARPS);
}

/* A team's weights, as left operands: of 16 rows of the other side (k) and 16 of its own (m), 16 bytes a lane.  Those
 * of one step; the barrier between steps keeps them until everybody has read them. */
template <int D, int ROWS> struct Weights {
    uint4 of[Team<D>::WARPS == 1 ? 1 : ROWS / PART][Team<D>::SLICE / 16][MT][32];
};
template <int D, int ROWS>
static __device__ __forceinline__ void weights_give(Weights<D, ROWS> *w, Member me, const float (*c)[PART / 8][4],
                                                    int lane) {
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int k = 0; k < PART / 16; k++) {
            uint32_t a[4];
            fragment_of(a, c[m][2 * k], c[m][2 * k + 1]);
            w->of[me.team][me.part * (PART / 16) + k][m][lane] = make_uint4(a[0], a[1], a[2], a[3]);
        }
}
template <int D, int ROWS>
static __device__ __forceinline__ void weights_take(uint32_t (*a)[4], const Weights<D, ROWS> *w, Member me,
                                                    const float (*c)[PART / 8][4], int k, int lane) {
#pragma unroll
    for (int m = 0; m < MT; m++)
        if (Team<D>::WARPS == 1) {
            fragment_of(a[m], c[m][2 * k], c[m][2 * k + 1]);
        } else {
            uint4 x = w->of[me.team][k][m][lane];
            a[m][0] = x.x, a[m][1] = x.y, a[m][2] = x.z, a[m][3] = x.w;
        }
}

/* c += a b for both of the team's 16-row pieces and 16 columns */
static __device__ __forceinline__ void add_product(float (*c)[COLUMNS / 8][4], const uint32_t (*a)[4],
                                                   const uint32_t *b, int n) {
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int i = 0; i < 2; i++) mma_m16n8k16_bf16(c[m][2 * n + i], a[m], b + 2 * i, c[m][2 * n + i]);
}

/* ---- row sums --------------------------------------------------------------------------------------------------- */

/* real mean (H, N) = rowsum(dout out)   real lse2 (H, N) = lse, to the base 2; D / 8 lanes a row */
template <int D>
__global__ void __launch_bounds__(256) attention_backward_rows_kernel(float *mean, float *lse2, const bf16 *dout,
                                                                      const bf16 *out, const float *lse, int N, int H) {
    const int64_t row = ((int64_t)blockIdx.x * 256 + threadIdx.x) / (D / 8);
    const int lane = threadIdx.x % (D / 8);
    float sum = 0;
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

/* ---- keys and values -------------------------------------------------------------------------------------------- */

template <int D, int ROWS> struct KeyShared {
    bf16 k[ROWS * D], v[ROWS * D];
    struct Step {
        bf16 q[STEP * D], dout[STEP * D];
        float lse2[STEP], mean[STEP];
    } step[BackwardTile<D, ROWS>::STEPS];
    Weights<D, ROWS> p, ds;
    int first, rows, g; /* needed at the end; the accumulators fill the registers */
};

/* p and dscore, transposed, of the team's keys and this warp's 32 of the queries of the step, from `own` on.
 * key, query: the first of each, of the sequence */
template <int D, int ROWS>
static __device__ __forceinline__ void key_weights(float (*p)[PART / 8][4], float (*ds)[PART / 8][4],
                                                   const KeyShared<D, ROWS> *shared,
                                                   const typename KeyShared<D, ROWS>::Step &step, int row, int own,
                                                   int key, int query, float scale, Lanes lanes) {
#pragma unroll
    for (int k = 0; k < D / 16; k++) {
        uint32_t ak[MT][4], av[MT][4];
#pragma unroll
        for (int m = 0; m < MT; m++) {
            fragment_rows<D>(ak[m], shared->k, row + 16 * m, k, lanes);
            fragment_rows<D>(av[m], shared->v, row + 16 * m, k, lanes);
        }
#pragma unroll
        for (int n = 0; n < PART / 16; n++) {
            uint32_t bq[4], bd[4];
            fragment_columns<D>(bq, step.q, own + 16 * n, k, lanes);
            fragment_columns<D>(bd, step.dout, own + 16 * n, k, lanes);
#pragma unroll
            for (int m = 0; m < MT; m++)
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    mma_m16n8k16_bf16(p[m][2 * n + i], ak[m], bq + 2 * i, p[m][2 * n + i]);
                    mma_m16n8k16_bf16(ds[m][2 * n + i], av[m], bd + 2 * i, ds[m][2 * n + i]);
                }
        }
    }
    const bool diagonal = query < key + PART - 1;
#pragma unroll
    for (int n = 0; n < PART / 8; n++) {
        int column = n * 8 + lanes.lane % 4 * 2;
        float2 lse2 = *(const float2 *)(step.lse2 + own + column), mean = *(const float2 *)(step.mean + own + column);
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
}

/* dv, dk += what the queries from `slice` on, of the step, give the team's keys */
template <int D, int ROWS>
static __device__ __forceinline__ void keys_meet_queries(float (*dk)[COLUMNS / 8][4], float (*dv)[COLUMNS / 8][4],
                                                         KeyShared<D, ROWS> *shared,
                                                         const typename KeyShared<D, ROWS>::Step &step, Member me,
                                                         int slice, int key, int query, float scale, Lanes lanes) {
    float p[MT][PART / 8][4] = {}, ds[MT][PART / 8][4] = {};
    const int own = me.part * PART;
    key_weights<D, ROWS>(p, ds, shared, step, me.row, slice + own, key, query + own, scale, lanes);
    if (Team<D>::WARPS > 1) {
        weights_give<D, ROWS>(&shared->p, me, p, lanes.lane);
        weights_give<D, ROWS>(&shared->ds, me, ds, lanes.lane);
        team_sync<D>(me);
    }
#pragma unroll
    for (int k = 0; k < Team<D>::SLICE / 16; k++) {
        uint32_t ap[MT][4], as[MT][4];
        weights_take<D, ROWS>(ap, &shared->p, me, p, k, lanes.lane);
        weights_take<D, ROWS>(as, &shared->ds, me, ds, k, lanes.lane);
#pragma unroll
        for (int n = 0; n < COLUMNS / 16; n++) {
            uint32_t bd[4], bq[4];
            fragment_summed<D>(bd, step.dout, slice + 16 * k, me.part * (COLUMNS / 16) + n, lanes);
            fragment_summed<D>(bq, step.q, slice + 16 * k, me.part * (COLUMNS / 16) + n, lanes);
            add_product(dv, ap, bd, n);
            add_product(dk, as, bq, n);
        }
    }
}

template <int D, int ROWS>
__global__ void __launch_bounds__(BackwardTile<D, ROWS>::THREADS, BackwardTile<D, ROWS>::RESIDENT)
    attention_backward_keys_kernel(bf16 *dqk, bf16 *dqkv, const bf16 *dout, const bf16 *qk, const bf16 *qkv,
                                   const float *mean, const float *lse2, const int32_t *cu_seqlens, int n_seq, int N,
                                   int H, int G, float scale) {
    constexpr int THREADS = BackwardTile<D, ROWS>::THREADS, STEPS = BackwardTile<D, ROWS>::STEPS;
    using Shared = KeyShared<D, ROWS>;
    DYNAMIC_SHARED(Shared, shared);
    const int g = blockIdx.x % G, ratio = H / G, lane = threadIdx.x % 32;
    const Lanes lanes = lanes_of<D>(lane);
    const RowTile t = row_tile([=](int u) { return cu_seqlens[u]; }, n_seq, N, ROWS, blockIdx.x / G);
    if (t.first >= t.end) return;
    const size_t ld_qk = (size_t)(H + G) * D, ld_qkv = (size_t)(H + 2 * G) * D, ld_out = (size_t)H * D;
    const int rows = min(ROWS, t.end - t.first), at = t.first - t.begin, length = t.end - t.begin;
    if (t.unit == n_seq) { /* rows of no sequence */
        rows_zero<D>(dqk + t.first * ld_qk + (H + g) * D, ld_qk, rows);
        rows_zero<D>(dqkv + t.first * ld_qkv + (H + G + g) * D, ld_qkv, rows);
        return;
    }
    const int q_begin = at / STEP, q_end = (length + STEP - 1) / STEP;
    auto step_load = [&](int i, int head, int block) {
        int n = t.begin + block * STEP, valid = length - block * STEP;
        size_t row = (size_t)head * N + n;
        auto &step = shared->step[i];
        tile_load<D, STEP, THREADS>(step.q, qk + n * ld_qk + head * D, ld_qk, valid);
        tile_load<D, STEP, THREADS>(step.dout, dout + n * ld_out + head * D, ld_out, valid);
        for (int j = threadIdx.x; j < 2 * STEP; j += THREADS) {
            int r = j % STEP;
            cp_async_4(j < STEP ? step.lse2 + r : step.mean + r, (j < STEP ? lse2 : mean) + row + (r < valid ? r : 0),
                       r < valid);
        }
    };
    tile_load<D, ROWS, THREADS>(shared->k, qk + t.first * ld_qk + (H + g) * D, ld_qk, rows);
    tile_load<D, ROWS, THREADS>(shared->v, qkv + t.first * ld_qkv + (H + G + g) * D, ld_qkv, rows);
    step_load(0, g * ratio, q_begin);
    cp_async_commit();

    if (threadIdx.x == 0) shared->first = t.first, shared->rows = rows, shared->g = g;

    const Member me = member_of<D>(threadIdx.x / 32);
    const int key = at + me.row;
    float dk[MT][COLUMNS / 8][4] = {}, dv[MT][COLUMNS / 8][4] = {};
    int head = g * ratio, block = q_begin;
    for (int i = 0; head < (g + 1) * ratio; i ^= STEPS - 1) {
        const int query = block * STEP;
        if (++block == q_end) block = q_begin, head++;
        cp_async_wait<0>();
        __syncthreads(); /* this step has come, and nobody reads the last one any more */
        if (STEPS == 2 && head < (g + 1) * ratio) step_load(i ^ 1, head, block);
        cp_async_commit();
#pragma unroll 1
        for (int slice = 0; slice < STEP; slice += Team<D>::SLICE)
            if (query + slice + Team<D>::SLICE > key)
                keys_meet_queries<D, ROWS>(dk, dv, shared, shared->step[i], me, slice, key, query + slice,
                                           scale * LOG2_E, lanes);
        if (STEPS == 1) {
            __syncthreads();
            if (head < (g + 1) * ratio) step_load(0, head, block);
            cp_async_commit();
        }
    }
    team_sync<D>(me); /* a team's rows of k and v are read by no other */
#pragma unroll
    for (int m = 0; m < MT; m++) {
        accumulator_store<D, COLUMNS>(shared->k, me.row + 16 * m, me.part, dk[m], scale, scale, lane);
        accumulator_store<D, COLUMNS>(shared->v, me.row + 16 * m, me.part, dv[m], 1, 1, lane);
    }
    team_sync<D>(me);
    const int row = me.row + me.part * (PART / Team<D>::WARPS);
    const int n = shared->first, left = shared->rows, h = H + shared->g;
    rows_write<D, PART / Team<D>::WARPS>(dqk + n * ld_qk + h * D, ld_qk, shared->k, row, left, lane);
    rows_write<D, PART / Team<D>::WARPS>(dqkv + n * ld_qkv + (h + G) * D, ld_qkv, shared->v, row, left, lane);
}

/* ---- queries ---------------------------------------------------------------------------------------------------- */

template <int D, int ROWS> struct QueryShared {
    bf16 dout[ROWS * D];
    struct Step {
        bf16 k[STEP * D], v[STEP * D];
    } step[2];
    Weights<D, ROWS> ds;
};

/* dq += what the keys from `slice` on, of the step, give the team's queries.  key, query: the first, of the sequence */
template <int D, int ROWS>
static __device__ __forceinline__ void
queries_meet_keys(float (*dq)[COLUMNS / 8][4], const uint32_t (*q)[D / 16][4], QueryShared<D, ROWS> *shared,
                  const typename QueryShared<D, ROWS>::Step &step, Member me, int slice, int key, int query,
                  const float (*lse2)[2], const float (*mean)[2], float scale, Lanes lanes) {
    float p[MT][PART / 8][4] = {}, ds[MT][PART / 8][4] = {};
    const int own = me.part * PART;
#pragma unroll
    for (int k = 0; k < D / 16; k++) {
        uint32_t ad[MT][4];
#pragma unroll
        for (int m = 0; m < MT; m++) fragment_rows<D>(ad[m], shared->dout, me.row + 16 * m, k, lanes);
#pragma unroll
        for (int n = 0; n < PART / 16; n++) {
            uint32_t bk[4], bv[4];
            fragment_columns<D>(bk, step.k, slice + own + 16 * n, k, lanes);
            fragment_columns<D>(bv, step.v, slice + own + 16 * n, k, lanes);
#pragma unroll
            for (int m = 0; m < MT; m++)
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    mma_m16n8k16_bf16(p[m][2 * n + i], q[m][k], bk + 2 * i, p[m][2 * n + i]);
                    mma_m16n8k16_bf16(ds[m][2 * n + i], ad[m], bv + 2 * i, ds[m][2 * n + i]);
                }
        }
    }
    const bool diagonal = key + own + PART - 1 > query;
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int n = 0; n < PART / 8; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                float w = exp2_fast(fmaf(p[m][n][e], scale, -lse2[m][e >> 1]));
                int j = key + own + n * 8 + lanes.lane % 4 * 2 + (e & 1);
                if (diagonal && j > query + 16 * m + lanes.lane / 4 + (e >> 1) * 8) w = 0;
                ds[m][n][e] = w * (ds[m][n][e] - mean[m][e >> 1]);
            }
    if (Team<D>::WARPS > 1) {
        weights_give<D, ROWS>(&shared->ds, me, ds, lanes.lane);
        team_sync<D>(me);
    }
#pragma unroll
    for (int k = 0; k < Team<D>::SLICE / 16; k++) {
        uint32_t as[MT][4];
        weights_take<D, ROWS>(as, &shared->ds, me, ds, k, lanes.lane);
#pragma unroll
        for (int n = 0; n < COLUMNS / 16; n++) {
            uint32_t bk[4];
            fragment_summed<D>(bk, step.k, slice + 16 * k, me.part * (COLUMNS / 16) + n, lanes);
            add_product(dq, as, bk, n);
        }
    }
}

template <int D, int ROWS>
__global__ void __launch_bounds__(BackwardTile<D, ROWS>::THREADS, BackwardTile<D, ROWS>::RESIDENT)
    attention_backward_queries_kernel(bf16 *dqk, const bf16 *dout, const bf16 *qk, const bf16 *qkv, const float *mean,
                                      const float *lse2, const int32_t *cu_seqlens, int n_seq, int N, int H, int G,
                                      float scale) {
    constexpr int THREADS = BackwardTile<D, ROWS>::THREADS;
    using Shared = QueryShared<D, ROWS>;
    DYNAMIC_SHARED(Shared, shared);
    const int tiles = gridDim.x / H, head = blockIdx.x % H, g = head / (H / G), lane = threadIdx.x % 32;
    const Lanes lanes = lanes_of<D>(lane);
    const RowTile t = row_tile([=](int u) { return cu_seqlens[u]; }, n_seq, N, ROWS, tiles - 1 - blockIdx.x / H);
    if (t.first >= t.end) return;
    const size_t ld_qk = (size_t)(H + G) * D, ld_qkv = (size_t)(H + 2 * G) * D, ld_out = (size_t)H * D;
    const int rows = min(ROWS, t.end - t.first), at = t.first - t.begin, length = t.end - t.begin;
    bf16 *dst = dqk + t.first * ld_qk + head * D;
    if (t.unit == n_seq) { /* rows of no sequence */
        rows_zero<D>(dst, ld_qk, rows);
        return;
    }
    const bf16 *keys = qk + t.begin * ld_qk + (H + g) * D, *values = qkv + t.begin * ld_qkv + (H + G + g) * D;
    auto step_load = [&](int i, int b) {
        tile_load<D, STEP, THREADS>(shared->step[i].k, keys + b * STEP * ld_qk, ld_qk, length - b * STEP);
        tile_load<D, STEP, THREADS>(shared->step[i].v, values + b * STEP * ld_qkv, ld_qkv, length - b * STEP);
    };
    static_assert(sizeof shared->step[1] >= sizeof(bf16) * ROWS * D, "queries pass through step 1, into registers");
    bf16 *staged = (bf16 *)&shared->step[1];
    tile_load<D, ROWS, THREADS>(staged, qk + t.first * ld_qk + head * D, ld_qk, rows);
    cp_async_commit();
    tile_load<D, ROWS, THREADS>(shared->dout, dout + t.first * ld_out + head * D, ld_out, rows);
    step_load(0, 0);
    cp_async_commit();
    const Member me = member_of<D>(threadIdx.x / 32);
    uint32_t q[MT][D / 16][4];
    float row_mean[MT][2], row_lse2[MT][2], dq[MT][COLUMNS / 8][4] = {};
    for (int m = 0; m < MT; m++)
        for (int half = 0; half < 2; half++) {
            int r = me.row + 16 * m + half * 8 + lane / 4;
            row_mean[m][half] = r < rows ? mean[(size_t)head * N + t.first + r] : 0;
            row_lse2[m][half] = r < rows ? lse2[(size_t)head * N + t.first + r] : 0;
        }
    cp_async_wait<1>();
    __syncthreads();
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int k = 0; k < D / 16; k++) fragment_rows<D>(q[m][k], staged, me.row + 16 * m, k, lanes);

    const int query = at + me.row, blocks = (at + rows + STEP - 1) / STEP;
    for (int b = 0; b < blocks; b++) {
        cp_async_wait<0>();
        __syncthreads();
        if (b + 1 < blocks) step_load((b + 1) & 1, b + 1);
        cp_async_commit();
#pragma unroll 1
        for (int slice = 0; slice < STEP; slice += Team<D>::SLICE)
            if (b * STEP + slice < query + PART)
                queries_meet_keys<D, ROWS>(dq, q, shared, shared->step[b & 1], me, slice, b * STEP + slice, query,
                                           row_lse2, row_mean, scale * LOG2_E, lanes);
    }
    team_sync<D>(me); /* a team's rows of dout are read by no other */
#pragma unroll
    for (int m = 0; m < MT; m++)
        accumulator_store<D, COLUMNS>(shared->dout, me.row + 16 * m, me.part, dq[m], scale, scale, lane);
    team_sync<D>(me);
    rows_write<D, PART / Team<D>::WARPS>(dst, ld_qk, shared->dout, me.row + me.part * (PART / Team<D>::WARPS), rows,
                                         lane);
}

/* ---- the operation ---------------------------------------------------------------------------------------------- */

template <int D, int ROWS>
static void backward(Device *dev, bf16 *dqk, bf16 *dqkv, const bf16 *dout, const bf16 *qk, const bf16 *qkv,
                     const bf16 *out, const float *lse, const int32_t *cu_seqlens, int n_seq, int N, int H, int G) {
    constexpr int threads = BackwardTile<D, ROWS>::THREADS;
    const char *op = "attention_backward";
    const size_t rows = (size_t)N * H;
    const float scale = 1 / sqrtf((float)D);
    const int tiles = row_tiles(N, ROWS, n_seq);
    float *mean = (float *)cuda_scratch(dev, op, attention_backward_scratch(N, H));
    if (!mean) return;
    float *lse2 = mean + rows;
    CUDA_LAUNCH(dev, op, attention_backward_rows_kernel<D>, (unsigned)((rows * (D / 8) + 255) / 256), 256, 0, mean,
                lse2, dout, out, lse, N, H);
    if (sm90_attention_backward(dev, op, dqk, dqkv, dout, qk, qkv, mean, lse2, cu_seqlens, n_seq, N, H, G, D)) return;
    CUDA_LAUNCH(dev, op, (attention_backward_keys_kernel<D, ROWS>), tiles * G, threads, (sizeof(KeyShared<D, ROWS>)),
                dqk, dqkv, dout, qk, qkv, mean, lse2, cu_seqlens, n_seq, N, H, G, scale);
    CUDA_LAUNCH(dev, op, (attention_backward_queries_kernel<D, ROWS>), tiles * H, threads,
                (sizeof(QueryShared<D, ROWS>)), dqk, dout, qk, qkv, mean, lse2, cu_seqlens, n_seq, N, H, G, scale);
}

template <>
void cuda_attention_backward<bf16>(Device *dev, void *dqk, void *dqkv, const void *dout, const void *qk,
                                   const void *qkv, const void *out, const void *lse, const int32_t *cu_seqlens,
                                   int n_seq, int N, int H, int G, int D) {
    if (N < 1 || !attention_head_size_fits(dev, "attention_backward", D)) return;
    const bool roomy = (size_t)shared_per_sm(cuda_compute_capability(dev)) > sizeof(KeyShared<128, 128>) + 1024;
    (D == 64 ? backward<64, 128>
     : roomy ? backward<128, 128>
             : backward<128, 64>)(dev, (bf16 *)dqk, (bf16 *)dqkv, (const bf16 *)dout, (const bf16 *)qk,
                                  (const bf16 *)qkv, (const bf16 *)out, (const float *)lse, cu_seqlens, n_seq, N, H, G);
}
