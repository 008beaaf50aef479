/* attention_f32.cu - attention in float32: one fused multiply-add a product, no tensor cores, which would round to
 * TF32. This table is for checking and for cards without much else to do; it is blocked like the bf16 one, and simpler.
 *
 * Thread (y, x) of 16 x 16 has rows R y .. R y + R - 1 of its block's 16 R.  A score is one chain over d, a block's
 * output one chain over its 64 keys from zero, blocks are merged as attention.cuh says.  Rows are queries times the
 * heads of a key/value head, and one kernel serves packed sequences and pages, which so agree bit for bit; groups are
 * not needed for that and ignored.  R is 4 at D = 64 and 2 at D = 128, where tiles are twice as wide: every card has
 * shared memory for that. */
#include "kernels/cuda/attention.cuh"

#include <math.h>

static constexpr int THREADS = 256;

/* A tile's rows are D + 4 floats apart, so that 16 rows' same column fills the banks evenly. */
template <int D, int ROWS> struct TileF32 {
    enum { LD = D + 4 };
    float x[ROWS * LD];
};

template <int D, int ROWS>
static __device__ __forceinline__ void tile_load_rows(TileF32<D, ROWS> *t, const float *src, size_t ld, int valid) {
    for (int i = threadIdx.x; i < ROWS * (D / 4); i += THREADS) {
        int row = i / (D / 4), c = i % (D / 4) * 4;
        float4 v = row < valid ? *(const float4 *)(src + row * ld + c) : make_float4(0, 0, 0, 0);
        *(float4 *)(t->x + row * (D + 4) + c) = v;
    }
}

/* c[i][j] = a[R y + i] . b[x + 16 j] */
template <int D, int R, int J>
static __device__ __forceinline__ void tile_dot(float (*c)[J], const TileF32<D, 16 * R> *a,
                                                const TileF32<D, 16 * J> *b) {
    const int y = threadIdx.x / 16, x = threadIdx.x % 16;
    for (int i = 0; i < R; i++)
        for (int j = 0; j < J; j++) c[i][j] = 0;
    for (int d = 0; d < D; d += 4) {
        float4 u[R], v[J];
        for (int i = 0; i < R; i++) u[i] = *(const float4 *)(a->x + (R * y + i) * (D + 4) + d);
        for (int j = 0; j < J; j++) v[j] = *(const float4 *)(b->x + (x + 16 * j) * (D + 4) + d);
        for (int i = 0; i < R; i++)
            for (int j = 0; j < J; j++) {
                c[i][j] = fmaf(u[i].x, v[j].x, c[i][j]);
                c[i][j] = fmaf(u[i].y, v[j].y, c[i][j]);
                c[i][j] = fmaf(u[i].z, v[j].z, c[i][j]);
                c[i][j] = fmaf(u[i].w, v[j].w, c[i][j]);
            }
    }
}

/* c[i] += p[R y + i] b, columns 4 x + 64 j */
template <int D, int R, int J>
static __device__ __forceinline__ void tile_add(float4 (*c)[D / 64], const float *p, const TileF32<D, 16 * J> *b) {
    const int y = threadIdx.x / 16, x = threadIdx.x % 16;
    for (int k = 0; k < 16 * J; k++)
        for (int i = 0; i < R; i++) {
            float w = p[(R * y + i) * (16 * J + 4) + k];
            for (int j = 0; j < D / 64; j++) {
                float4 v = *(const float4 *)(b->x + k * (D + 4) + 4 * x + 64 * j);
                c[i][j].x = fmaf(w, v.x, c[i][j].x);
                c[i][j].y = fmaf(w, v.y, c[i][j].y);
                c[i][j].z = fmaf(w, v.z, c[i][j].z);
                c[i][j].w = fmaf(w, v.w, c[i][j].w);
            }
        }
}

/* p[R y + i][x + 16 j] = c[i][j]; read by the same 16 threads alone */
template <int R, int J> static __device__ __forceinline__ void scores_keep(float *p, const float (*c)[J]) {
    const int y = threadIdx.x / 16, x = threadIdx.x % 16;
    for (int i = 0; i < R; i++)
        for (int j = 0; j < J; j++) p[(R * y + i) * (16 * J + 4) + x + 16 * j] = c[i][j];
    __syncwarp();
}

static __device__ __forceinline__ float4 scaled(float4 v, float s) {
    return make_float4(v.x * s, v.y * s, v.z * s, v.w * s);
}

/* Row `row` of a tile's row space: query row / ratio, head row % ratio of the key/value head's. */
struct HeadRow {
    int n, head;
};
static __device__ __forceinline__ HeadRow head_row(int row, int ratio, int g) {
    return HeadRow{row / ratio, g * ratio + row % ratio};
}

/* ---- forward, over packed sequences (pool NULL) or pages -------------------------------------------------------- */

struct KeysF32 {
    const float *qkv; /* packed: keys are in qk itself */
    const float *pool;
    const int32_t *offset; /* cu_seqlens, q_offset */
    const int32_t *kv_len, *block_table;
    int n_seq, max_blocks;
};

template <int D> struct ForwardSharedF32 {
    enum { R = 256 / D, J = KEYS / 16 };
    TileF32<D, 16 * R> q;
    TileF32<D, KEYS> k, v;
    float p[16 * R * (KEYS + 4)];
};

template <int D>
__global__ void __launch_bounds__(THREADS, 1)
    attention_forward_f32_kernel(float *out, float *lse, const float *qk, KeysF32 keys, int N, int H, int G,
                                 float scale) {
    constexpr int R = ForwardSharedF32<D>::R, J = ForwardSharedF32<D>::J, ROWS = 16 * R;
    DYNAMIC_SHARED(ForwardSharedF32<D>, shared);
    const int g = blockIdx.x % G, ratio = H / G, y = threadIdx.x / 16, x = threadIdx.x % 16;
    const RowTile t =
        row_tile([&](int u) { return keys.offset[u] * ratio; }, keys.n_seq, N * ratio, ROWS, blockIdx.x / G);
    if (t.first >= t.end) return;
    const size_t ld_qk = (size_t)(H + G) * D, ld_qkv = (size_t)(H + 2 * G) * D;
    const int rows = min(ROWS, t.end - t.first), s = t.unit, begin = t.begin / ratio, end = t.end / ratio;
    for (int i = threadIdx.x; i < ROWS * (D / 4); i += THREADS) {
        int row = i / (D / 4), c = i % (D / 4) * 4;
        HeadRow r = head_row(t.first + min(row, rows - 1), ratio, g);
        if (s == keys.n_seq && row < rows) /* rows of no sequence */
            *(float4 *)(out + ((size_t)r.n * H + r.head) * D + c) = make_float4(0, 0, 0, 0);
        *(float4 *)(shared->q.x + row * (D + 4) + c) = *(const float4 *)(qk + r.n * ld_qk + r.head * D + c);
    }
    if (s == keys.n_seq) return;
    const int before =
        keys.pool ? keys.kv_len[s] - (end - begin) : 0; /* keys cached before the sequence's first query */
    int visible[R];
    for (int i = 0; i < R; i++) visible[i] = before + (t.first + min(R * y + i, rows - 1)) / ratio - begin + 1;
    const int most = before + (t.first + rows - 1) / ratio - begin + 1;

    float4 acc[R][D / 64];
    float max[R], sum[R];
    for (int i = 0; i < R; i++) {
        max[i] = -INFINITY, sum[i] = 0;
        for (int j = 0; j < D / 64; j++) acc[i][j] = make_float4(0, 0, 0, 0);
    }
    for (int first = 0; first < most; first += KEYS) {
        __syncthreads();
        if (keys.pool) {
            int64_t page = keys.block_table[(size_t)s * keys.max_blocks + first / KEYS];
            const float *k = keys.pool + ((size_t)(page * 2) * G + g) * (KEYS * D);
            tile_load_rows<D, KEYS>(&shared->k, k, D, most - first);
            tile_load_rows<D, KEYS>(&shared->v, k + (size_t)G * KEYS * D, D, most - first);
        } else {
            size_t n = begin + first;
            tile_load_rows<D, KEYS>(&shared->k, qk + n * ld_qk + (H + g) * D, ld_qk, most - first);
            tile_load_rows<D, KEYS>(&shared->v, keys.qkv + n * ld_qkv + (H + G + g) * D, ld_qkv, most - first);
        }
        __syncthreads();
        float p[R][J];
        Merge merge[R];
        float4 part[R][D / 64];
        tile_dot<D, R, J>(p, &shared->q, &shared->k);
        for (int i = 0; i < R; i++) {
            float top = -INFINITY, total = 0;
            for (int j = 0; j < J; j++) {
                if (first + x + 16 * j >= visible[i]) p[i][j] = -INFINITY;
                top = fmaxf(top, p[i][j]);
            }
            for (int o = 1; o < 16; o *= 2) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, o));
            top *= scale;
            for (int j = 0; j < J; j++) {
                p[i][j] = exp2f(fmaf(p[i][j], scale, top == -INFINITY ? 0 : -top));
                total += p[i][j];
            }
            for (int o = 1; o < 16; o *= 2) total += __shfl_xor_sync(0xffffffffu, total, o);
            merge[i] = block_merge(max + i, sum + i, top, total);
            for (int j = 0; j < D / 64; j++) part[i][j] = make_float4(0, 0, 0, 0);
        }
        scores_keep<R, J>(shared->p, p);
        tile_add<D, R, J>(part, shared->p, &shared->v);
        for (int i = 0; i < R; i++)
            for (int j = 0; j < D / 64; j++) {
                float4 &a = acc[i][j], b = part[i][j];
                a.x = fmaf(b.x, merge[i].given, a.x * merge[i].kept);
                a.y = fmaf(b.y, merge[i].given, a.y * merge[i].kept);
                a.z = fmaf(b.z, merge[i].given, a.z * merge[i].kept);
                a.w = fmaf(b.w, merge[i].given, a.w * merge[i].kept);
            }
        __syncwarp();
    }
    for (int i = 0; i < R && R * y + i < rows; i++) {
        HeadRow r = head_row(t.first + R * y + i, ratio, g);
        for (int j = 0; j < D / 64; j++)
            *(float4 *)(out + ((size_t)r.n * H + r.head) * D + 4 * x + 64 * j) = scaled(acc[i][j], 1 / sum[i]);
        if (lse && x == 0) lse[(size_t)r.head * N + r.n] = max[i] * LN_2 + logf(sum[i]);
    }
}

/* ---- backward: as in attention_backward.cu ---------------------------------------------------------------------- */

/* real mean (H, N) = rowsum(dout out); a warp a row */
template <int D>
__global__ void __launch_bounds__(THREADS, 1)
    attention_backward_rows_f32_kernel(float *mean, const float *dout, const float *out, int N, int H) {
    const int64_t row = (int64_t)blockIdx.x * (THREADS / 32) + threadIdx.x / 32;
    if (row >= (int64_t)N * H) return;
    float sum = 0;
    for (int d = threadIdx.x % 32; d < D; d += 32) sum = fmaf(dout[row * D + d], out[row * D + d], sum);
    for (int i = 16; i; i /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, i);
    if (threadIdx.x % 32 == 0) mean[row % H * N + row / H] = sum;
}

struct BackwardArgsF32 {
    float *dqk, *dqkv;
    const float *dout, *qk, *qkv, *mean, *lse;
    const int32_t *cu_seqlens;
    int n_seq, N, H, G;
    float scale;
};

template <int D> struct BackwardSharedF32 {
    enum { R = 256 / D, ROWS = 16 * R }; /* of both sides */
    TileF32<D, ROWS> mine[2],
        other[2]; /* k, v and q, dout in the key kernel, the other way round in the query kernel */
    float p[ROWS * (ROWS + 4)];
    float lse[ROWS], mean[ROWS];
};

/* From c = q k^T and dc = dout v^T of one pair: the weight and the score's gradient, in place. */
static __device__ __forceinline__ void score_gradient(float *c, float *dc, bool seen, float lse, float mean,
                                                      float scale) {
    *c = seen ? expf(fmaf(*c, scale, -lse)) : 0;
    *dc = *c * (*dc - mean);
}

template <int D> __global__ void __launch_bounds__(THREADS, 1) attention_backward_keys_f32_kernel(BackwardArgsF32 a) {
    constexpr int R = BackwardSharedF32<D>::R, ROWS = BackwardSharedF32<D>::ROWS;
    DYNAMIC_SHARED(BackwardSharedF32<D>, shared);
    const int g = blockIdx.x % a.G, ratio = a.H / a.G, y = threadIdx.x / 16, x = threadIdx.x % 16;
    const RowTile t = row_tile([&](int u) { return a.cu_seqlens[u]; }, a.n_seq, a.N, ROWS, blockIdx.x / a.G);
    if (t.first >= t.end) return;
    const size_t ld_qk = (size_t)(a.H + a.G) * D, ld_qkv = (size_t)(a.H + 2 * a.G) * D, ld_out = (size_t)a.H * D;
    const int rows = min(ROWS, t.end - t.first), at = t.first - t.begin,
              length = t.unit < a.n_seq ? t.end - t.begin : 0;
    tile_load_rows<D, ROWS>(shared->mine, a.qk + t.first * ld_qk + (a.H + g) * D, ld_qk, rows);
    tile_load_rows<D, ROWS>(shared->mine + 1, a.qkv + t.first * ld_qkv + (a.H + a.G + g) * D, ld_qkv, rows);
    float4 dk[R][D / 64], dv[R][D / 64];
    for (int i = 0; i < R; i++)
        for (int j = 0; j < D / 64; j++) dk[i][j] = dv[i][j] = make_float4(0, 0, 0, 0);
    for (int head = g * ratio; head < (g + 1) * ratio; head++)
        for (int first = at; first < length; first += ROWS) {
            const size_t n = t.begin + first;
            __syncthreads();
            tile_load_rows<D, ROWS>(shared->other, a.qk + n * ld_qk + head * D, ld_qk, length - first);
            tile_load_rows<D, ROWS>(shared->other + 1, a.dout + n * ld_out + head * D, ld_out, length - first);
            if ((int)threadIdx.x < ROWS) {
                bool there = first + (int)threadIdx.x < length;
                shared->lse[threadIdx.x] = there ? a.lse[(size_t)head * a.N + n + threadIdx.x] : 0;
                shared->mean[threadIdx.x] = there ? a.mean[(size_t)head * a.N + n + threadIdx.x] : 0;
            }
            __syncthreads();
            float p[R][R], ds[R][R];
            tile_dot<D, R, R>(p, shared->mine, shared->other);
            tile_dot<D, R, R>(ds, shared->mine + 1, shared->other + 1);
            for (int i = 0; i < R; i++)
                for (int j = 0; j < R; j++)
                    score_gradient(&p[i][j], &ds[i][j], first + x + 16 * j >= at + R * y + i, shared->lse[x + 16 * j],
                                   shared->mean[x + 16 * j], a.scale);
            scores_keep<R, R>(shared->p, p);
            tile_add<D, R, R>(dv, shared->p, shared->other + 1);
            __syncwarp();
            scores_keep<R, R>(shared->p, ds);
            tile_add<D, R, R>(dk, shared->p, shared->other);
            __syncwarp();
        }
    for (int i = 0; i < R && R * y + i < rows; i++)
        for (int j = 0; j < D / 64; j++) {
            const size_t n = t.first + R * y + i;
            *(float4 *)(a.dqk + n * ld_qk + (a.H + g) * D + 4 * x + 64 * j) = scaled(dk[i][j], a.scale);
            *(float4 *)(a.dqkv + n * ld_qkv + (a.H + a.G + g) * D + 4 * x + 64 * j) = dv[i][j];
        }
}

template <int D>
__global__ void __launch_bounds__(THREADS, 1) attention_backward_queries_f32_kernel(BackwardArgsF32 a) {
    constexpr int R = BackwardSharedF32<D>::R, ROWS = BackwardSharedF32<D>::ROWS;
    DYNAMIC_SHARED(BackwardSharedF32<D>, shared);
    const int head = blockIdx.x % a.H, g = head / (a.H / a.G), y = threadIdx.x / 16, x = threadIdx.x % 16;
    const RowTile t = row_tile([&](int u) { return a.cu_seqlens[u]; }, a.n_seq, a.N, ROWS, blockIdx.x / a.H);
    if (t.first >= t.end) return;
    const size_t ld_qk = (size_t)(a.H + a.G) * D, ld_qkv = (size_t)(a.H + 2 * a.G) * D, ld_out = (size_t)a.H * D;
    const int rows = min(ROWS, t.end - t.first), at = t.first - t.begin, end = t.unit < a.n_seq ? at + rows : 0;
    tile_load_rows<D, ROWS>(shared->mine, a.qk + t.first * ld_qk + head * D, ld_qk, rows);
    tile_load_rows<D, ROWS>(shared->mine + 1, a.dout + t.first * ld_out + head * D, ld_out, rows);
    float4 dq[R][D / 64];
    float lse[R], mean[R];
    for (int i = 0; i < R; i++) {
        size_t n = (size_t)head * a.N + t.first + min(R * y + i, rows - 1);
        lse[i] = a.lse[n], mean[i] = a.mean[n];
        for (int j = 0; j < D / 64; j++) dq[i][j] = make_float4(0, 0, 0, 0);
    }
    for (int first = 0; first < end; first += ROWS) {
        const size_t n = t.begin + first;
        __syncthreads();
        tile_load_rows<D, ROWS>(shared->other, a.qk + n * ld_qk + (a.H + g) * D, ld_qk, end - first);
        tile_load_rows<D, ROWS>(shared->other + 1, a.qkv + n * ld_qkv + (a.H + a.G + g) * D, ld_qkv, end - first);
        __syncthreads();
        float p[R][R], ds[R][R];
        tile_dot<D, R, R>(p, shared->mine, shared->other);
        tile_dot<D, R, R>(ds, shared->mine + 1, shared->other + 1);
        for (int i = 0; i < R; i++)
            for (int j = 0; j < R; j++)
                score_gradient(&p[i][j], &ds[i][j], first + x + 16 * j <= at + R * y + i, lse[i], mean[i], a.scale);
        scores_keep<R, R>(shared->p, ds);
        tile_add<D, R, R>(dq, shared->p, shared->other);
        __syncwarp();
    }
    for (int i = 0; i < R && R * y + i < rows; i++)
        for (int j = 0; j < D / 64; j++)
            *(float4 *)(a.dqk + (t.first + R * y + i) * ld_qk + head * D + 4 * x + 64 * j) = scaled(dq[i][j], a.scale);
}

/* ---- pages: (KEYS, D) row-major --------------------------------------------------------------------------------- */

__global__ void __launch_bounds__(THREADS, 1) kv_append_f32_kernel(float *pool, const float *qk, const float *qkv,
                                                                   const int64_t *slot, int N, int H, int G, int D) {
    const int64_t at = (int64_t)blockIdx.x * THREADS + threadIdx.x, n = at / (G * D);
    if (n >= N || slot[n] < 0) return;
    const int g = at / D % G, d = at % D;
    const size_t to = ((size_t)(slot[n] / KEYS * 2) * G + g) * (KEYS * D) + slot[n] % KEYS * D + d;
    pool[to] = qk[(n * (H + G) + H + g) * D + d];
    pool[to + (size_t)G * KEYS * D] = qkv[(n * (H + 2 * G) + H + G + g) * D + d];
}

__global__ void __launch_bounds__(THREADS, 1)
    kv_copy_page_f32_kernel(float *pool, int dst, int src, int n_keys, int G, int D) {
    const int at = blockIdx.x * THREADS + threadIdx.x, head = at / (KEYS * D), i = at % (KEYS * D);
    const size_t page = (size_t)2 * G * KEYS * D;
    if (head < 2 * G && i / D < n_keys) pool[dst * page + at] = pool[src * page + at];
}

/* ---- operations ------------------------------------------------------------------------------------------------- */

static void attend(Device *dev, const char *op, float *out, float *lse, const float *qk, const KeysF32 *keys, int N,
                   int H, int G, int D) {
    if (N < 1 || !attention_head_size_fits(dev, op, D)) return;
    const int grid = row_tiles(N * (H / G), 16 * 256 / D, keys->n_seq) * G;
    const float scale = LOG2_E / sqrtf((float)D);
    if (D == 64)
        CUDA_LAUNCH(dev, op, attention_forward_f32_kernel<64>, grid, THREADS, sizeof(ForwardSharedF32<64>), out, lse,
                    qk, *keys, N, H, G, scale);
    else
        CUDA_LAUNCH(dev, op, attention_forward_f32_kernel<128>, grid, THREADS, sizeof(ForwardSharedF32<128>), out, lse,
                    qk, *keys, N, H, G, scale);
}

template <>
void cuda_attention_forward<float>(Device *dev, void *out, void *lse, const void *qk, const void *qkv,
                                   const int32_t *cu_seqlens, int n_seq, int N, int H, int G, int D) {
    KeysF32 keys = {(const float *)qkv, NULL, cu_seqlens, NULL, NULL, n_seq, 0};
    attend(dev, "attention_forward", (float *)out, (float *)lse, (const float *)qk, &keys, N, H, G, D);
}

template <>
void cuda_attention_paged<float>(Device *dev, void *out, const void *qk, const PagedBatch *batch, int N, int H, int G,
                                 int D) {
    KeysF32 keys = {NULL,         (const float *)batch->pool, batch->q_offset, batch->kv_len, batch->block_table,
                    batch->n_seq, batch->max_blocks};
    attend(dev, "attention_paged", (float *)out, NULL, (const float *)qk, &keys, N, H, G, D);
}

template <int D> static void backward(Device *dev, const BackwardArgsF32 *a, float *mean, const float *out) {
    const char *op = "attention_backward";
    const int tiles = row_tiles(a->N, BackwardSharedF32<D>::ROWS, a->n_seq);
    CUDA_LAUNCH(dev, op, attention_backward_rows_f32_kernel<D>, (unsigned)(((int64_t)a->N * a->H + 7) / 8), THREADS, 0,
                mean, a->dout, out, a->N, a->H);
    CUDA_LAUNCH(dev, op, attention_backward_keys_f32_kernel<D>, tiles * a->G, THREADS, sizeof(BackwardSharedF32<D>),
                *a);
    CUDA_LAUNCH(dev, op, attention_backward_queries_f32_kernel<D>, tiles * a->H, THREADS, sizeof(BackwardSharedF32<D>),
                *a);
}

template <>
void cuda_attention_backward<float>(Device *dev, void *dqk, void *dqkv, const void *dout, const void *qk,
                                    const void *qkv, const void *out, const void *lse, const int32_t *cu_seqlens,
                                    int n_seq, int N, int H, int G, int D) {
    if (N < 1 || !attention_head_size_fits(dev, "attention_backward", D)) return;
    float *mean = (float *)cuda_scratch(dev, "attention_backward", attention_backward_scratch(N, H));
    if (!mean) return;
    BackwardArgsF32 a = {(float *)dqk,
                         (float *)dqkv,
                         (const float *)dout,
                         (const float *)qk,
                         (const float *)qkv,
                         mean,
                         (const float *)lse,
                         cu_seqlens,
                         n_seq,
                         N,
                         H,
                         G,
                         1 / sqrtf((float)D)};
    (D == 64 ? backward<64> : backward<128>)(dev, &a, mean, (const float *)out);
}

template <>
void cuda_kv_append<float>(Device *dev, void *pool, DType, const void *qk, const void *qkv, const int64_t *slot, int N,
                           int H, int G, int D) {
    if (N < 1 || !attention_head_size_fits(dev, "kv_append", D)) return;
    CUDA_LAUNCH(dev, "kv_append", kv_append_f32_kernel, (unsigned)(((int64_t)N * G * D + THREADS - 1) / THREADS),
                THREADS, 0, (float *)pool, (const float *)qk, (const float *)qkv, slot, N, H, G, D);
}

template <> void cuda_kv_copy_page<float>(Device *dev, void *pool, DType, int dst, int src, int n_keys, int G, int D) {
    if (dst == src || n_keys < 1 || !attention_head_size_fits(dev, "kv_copy_page", D)) return;
    CUDA_LAUNCH(dev, "kv_copy_page", kv_copy_page_f32_kernel, (unsigned)(2 * G * KEYS * D / THREADS), THREADS, 0,
                (float *)pool, dst, src, n_keys, G, D);
}
