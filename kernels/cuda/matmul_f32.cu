/* matmul_f32.cu - matrix products in float32: fused multiply-adds, never TF32, one chain an element over k ascending.
 *
 * The same ring of cp.async stages as matmul_tile.cuh; from there each thread takes 4 steps of k at a time for its
 * TM x TN elements: 16 reads of 16 bytes for 256 multiply-adds.  Its rows and columns are THREADS_M and THREADS_N apart
 * where lines run along k, in runs of 4 where they do not: either way a warp's reads meet all banks. */
#include "kernels/cuda/matmul_split.cuh"
#include "kernels/cuda/matmul_tile.cuh"

namespace {

template <int M_, int N_, int DEPTH_, int TM_, int TN_, int STAGES_, int RESIDENT_> struct FloatTile {
    static constexpr int M = M_, N = N_, DEPTH = DEPTH_, TM = TM_, TN = TN_, STAGES = STAGES_, RESIDENT = RESIDENT_;
    static constexpr int THREADS_M = M / TM, THREADS_N = N / TN, THREADS = THREADS_M * THREADS_N;
    static constexpr int STAGE_BYTES = (M + N) * DEPTH, SHARED = STAGES * STAGE_BYTES;
    static constexpr TileShape shape() { return {M, N, RESIDENT, SHARED}; }
};

typedef FloatTile<128, 128, 64, 8, 8, 4, 1> Large;
typedef FloatTile<64, 64, 64, 4, 4, 4, 2> Small;
typedef FloatTile<16, 32, 128, 2, 2, 6, 4> Low;

/* What a thread works on: element i of COUNT in one dimension, thread `at` of THREADS. */
template <bool ALONG_K, int THREADS> __device__ __forceinline__ int element_of(int at, int i) {
    return ALONG_K ? at + THREADS * i : (at + THREADS * (i / 4)) * 4 + i % 4;
}

/* x[kk][i], 4 steps of k for this thread's elements. */
template <bool ALONG_K, int COUNT, int THREADS, int CHUNKS>
__device__ __forceinline__ void fetch(float (*x)[COUNT], const char *stage, int at, int step, int first) {
    if (ALONG_K) {
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            float4 v = *(const float4 *)(stage + chunk_offset<CHUNKS>(element_of<true, THREADS>(at, first + i), step));
            x[0][i] = v.x, x[1][i] = v.y, x[2][i] = v.z, x[3][i] = v.w;
        }
    } else {
#pragma unroll
        for (int kk = 0; kk < 4; kk++)
#pragma unroll
            for (int i = 0; i < COUNT; i += 4) {
                int chunk = at + THREADS * ((first + i) / 4);
                float4 v = *(const float4 *)(stage + chunk_offset<CHUNKS>(4 * step + kk, chunk));
                x[kk][i] = v.x, x[kk][i + 1] = v.y, x[kk][i + 2] = v.z, x[kk][i + 3] = v.w;
            }
    }
}

__device__ __forceinline__ void element_end(const Product &p, float *out, int row, int column, float sum) {
    if (row >= p.M || column >= p.N) return;
    float *to = out + (int64_t)row * p.out_stride + column;
    if (p.ending == END_ADD) *to = ((const float *)p.residual)[(int64_t)row * p.out_stride + column] + sum;
    else if (p.ending == END_ACCUMULATE) *to += sum;
    else *to = sum;
}

__device__ __forceinline__ void pair_end(const Product &p, float *out, int row, int f, float gate, float up) {
    const int F = p.N / 2;
    if (row >= p.M || f >= F) return;
    if (p.gate_up) {
        float *kept = (float *)p.gate_up + (int64_t)row * 2 * F + f;
        kept[0] = gate;
        kept[F] = up;
    }
    out[(int64_t)row * p.out_stride + f] = swiglu_value<float>(gate, up);
}

template <class Tile, bool A_ALONG_K, bool B_ALONG_K, bool ALIGNED>
__global__ void __launch_bounds__(Tile::THREADS, Tile::RESIDENT) matmul_f32_kernel(const Product p) {
    DYNAMIC_SHARED(char, shared);
    constexpr int DEPTH = Tile::DEPTH / 4, STAGES = Tile::STAGES, TM = Tile::TM, TN = Tile::TN;
    constexpr int A_CHUNKS = (A_ALONG_K ? Tile::DEPTH : Tile::M * 4) / 16;
    constexpr int B_CHUNKS = (B_ALONG_K ? Tile::DEPTH : Tile::N * 4) / 16;
    constexpr int PAIR = Tile::THREADS_N; /* a thread's columns are gate, up, gate, up ... */
    typedef Loader<float, A_ALONG_K, A_ALONG_K ? Tile::M : DEPTH, A_CHUNKS, Tile::THREADS, PAIR, ALIGNED> LoaderA;
    typedef Loader<float, B_ALONG_K, B_ALONG_K ? Tile::N : DEPTH, B_CHUNKS, Tile::THREADS, PAIR, ALIGNED> LoaderB;
    constexpr int A_BYTES = Tile::M * Tile::DEPTH;

    int tile_m, tile_n;
    block_place((int)blockIdx.x, (p.M + Tile::M - 1) / Tile::M, (p.N + Tile::N - 1) / Tile::N, &tile_m, &tile_n);
    const int m0 = tile_m * Tile::M, n0 = tile_n * Tile::N;
    const int k_begin = (int)blockIdx.y * p.split_k, k_end = min(p.K, k_begin + p.split_k);
    const int tiles = (k_end - k_begin + DEPTH - 1) / DEPTH;
    /* Warps of 4 x 8 threads. */
    constexpr int WARPS_N = Tile::THREADS_N / 8;
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const int at_m = warp / WARPS_N * 4 + lane / 8, at_n = warp % WARPS_N * 8 + lane % 8;

    LoaderA load_a;
    LoaderB load_b;
    load_a.init(p.a, p.a_stride, m0, p.M, k_begin, k_end, 0);
    load_b.init(p.b, p.b_stride, n0, p.N, k_begin, k_end, p.ending == END_SWIGLU ? p.N / 2 : 0);
    float sum[TM][TN];
#pragma unroll
    for (int i = 0; i < TM; i++)
#pragma unroll
        for (int j = 0; j < TN; j++) sum[i][j] = 0;

    for (int tile = 1 - STAGES, reading = 1, writing = 0; tile < tiles; tile++) {
        if (tile >= 0) {
            cp_async_wait<STAGES - 2>();
            __syncthreads(); /* all have read the stage that is written next */
        }
        if (tile + STAGES - 1 < tiles) {
            char *stage = shared + writing * Tile::STAGE_BYTES;
#pragma unroll
            for (int i = 0; i < LoaderA::PASSES; i++) load_a.load(stage, i);
#pragma unroll
            for (int i = 0; i < LoaderB::PASSES; i++) load_b.load(stage + A_BYTES, i);
            load_a.advance(DEPTH);
            load_b.advance(DEPTH);
        }
        cp_async_commit();
        writing = writing + 1 == STAGES ? 0 : writing + 1;
        if (tile >= 0) {
            const char *stage = shared + reading * Tile::STAGE_BYTES;
#pragma unroll
            for (int step = 0; step < DEPTH / 4; step++) {
                constexpr int ROWS = A_ALONG_K ? 1 : 4;
                float b[4][TN], a[4][ROWS];
                fetch<B_ALONG_K, TN, Tile::THREADS_N, B_CHUNKS>(b, stage + A_BYTES, at_n, step, 0);
#pragma unroll
                for (int i = 0; i < TM; i += ROWS) {
                    fetch<A_ALONG_K, ROWS, Tile::THREADS_M, A_CHUNKS>(a, stage, at_m, step, i);
#pragma unroll
                    for (int kk = 0; kk < 4; kk++)
#pragma unroll
                        for (int r = 0; r < ROWS; r++)
#pragma unroll
                            for (int j = 0; j < TN; j++) sum[i + r][j] = fmaf(a[kk][r], b[kk][j], sum[i + r][j]);
                }
            }
        }
        reading = reading + 1 == STAGES ? 0 : reading + 1;
    }

    float *out = (float *)p.out + (int64_t)blockIdx.y * p.split_elements;
#pragma unroll
    for (int i = 0; i < TM; i++) {
        const int row = m0 + element_of<A_ALONG_K, Tile::THREADS_M>(at_m, i);
        if (B_ALONG_K && p.ending == END_SWIGLU) {
#pragma unroll
            for (int j = 0; j < TN; j += 2)
                pair_end(p, out, row, n0 / 2 + at_n + PAIR * (j / 2), sum[i][j], sum[i][j + 1]);
        } else {
#pragma unroll
            for (int j = 0; j < TN; j++)
                element_end(p, out, row, n0 + element_of<B_ALONG_K, Tile::THREADS_N>(at_n, j), sum[i][j]);
        }
    }
}

const TileShape shapes[] = {Large::shape(), Small::shape(), Low::shape()};

template <class Tile, bool A_ALONG_K, bool B_ALONG_K, bool ALIGNED>
void launch(Device *dev, const char *op, const Product &p) {
    dim3 grid((unsigned)(ceil_div(p.M, Tile::M) * ceil_div(p.N, Tile::N)), (unsigned)ceil_div(p.K, p.split_k));
    CUDA_LAUNCH(dev, op, (matmul_f32_kernel<Tile, A_ALONG_K, B_ALONG_K, ALIGNED>), grid, Tile::THREADS, Tile::SHARED,
                p);
}

bool aligned(const Product &p) { return lines_aligned(&p, sizeof(float)); }

TileChoice choose(const Device *dev, const Product &p, int n_tiles, int splits) {
    const TileShape *from = aligned(p) ? shapes : shapes + 1;
    TileChoice c = tile_choose(from, aligned(p) ? n_tiles : 1, RATE_FMA, p.M, p.N, 4 * p.K, splits, cuda_sm_count(dev),
                               cuda_compute_capability(dev));
    c.tile += (int)(from - shapes);
    return c;
}

template <bool A_ALONG_K> void launch_backward(Device *dev, const char *op, const Product &p, int tile) {
    if (!aligned(p)) launch<Small, A_ALONG_K, false, false>(dev, op, p);
    else if (tile == 0) launch<Large, A_ALONG_K, false, true>(dev, op, p);
    else launch<Small, A_ALONG_K, false, true>(dev, op, p);
}

} // namespace

template <> void product_forward<float>(Device *dev, const char *op, Product p) {
    p.split_k = p.K;
    int tile = choose(dev, p, 3, 1).tile;
    if (!aligned(p)) launch<Small, true, true, false>(dev, op, p);
    else if (tile == 0) launch<Large, true, true, true>(dev, op, p);
    else if (tile == 1) launch<Small, true, true, true>(dev, op, p);
    else launch<Low, true, true, true>(dev, op, p);
}

template <> void product_dgrad<float>(Device *dev, const char *op, Product p) {
    p.split_k = p.K;
    launch_backward<true>(dev, op, p, choose(dev, p, 2, 1).tile);
}

template <> void product_wgrad<float>(Device *dev, const char *op, Product p, void *scratch) {
    TileChoice c = choose(dev, p, 2, SPLITS_MAX);
    wgrad_in_splits(dev, op, p, c.splits, scratch,
                    [&](const Product &part) { launch_backward<false>(dev, op, part, c.tile); });
}
