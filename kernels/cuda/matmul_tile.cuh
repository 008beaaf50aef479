/* matmul_tile.cuh - the tensor-core kernel: one block makes one M x N tile of out.
 *
 * Operands come from global memory by cp.async into a ring of STAGES shared-memory stages, each DEPTH bytes of k deep,
 * from there by ldmatrix (transposing where lines do not run along k) into registers, one MMA step ahead of the
 * arithmetic.  A warp owns WARP_M x WARP_N of the tile: 64 x 64 reads (64 + 64) * 32 bytes of shared memory for 32 MMA
 * instructions, half of what shared memory delivers in that time.  The finished tile leaves through the same shared
 * memory, so that every store is 16 bytes a thread and whole lines a warp. */
#ifndef EHR_KERNELS_CUDA_MATMUL_TILE_CUH
#define EHR_KERNELS_CUDA_MATMUL_TILE_CUH
#include "kernels/cuda/matmul_end.cuh"

template <int M_, int N_, int DEPTH_, int WARPS_M_, int WARPS_N_, int STAGES_, int RESIDENT_> struct Tile {
    static constexpr int M = M_, N = N_, DEPTH = DEPTH_, WARPS_M = WARPS_M_, WARPS_N = WARPS_N_, STAGES = STAGES_;
    static constexpr int RESIDENT = RESIDENT_, THREADS = 32 * WARPS_M * WARPS_N;
    static constexpr int WARP_M = M / WARPS_M, WARP_N = N / WARPS_N;
    static constexpr int STAGE_BYTES = (M + N) * DEPTH, SHARED = STAGES * STAGE_BYTES;
    static constexpr TileShape shape() { return {M, N, RESIDENT, SHARED}; }
};

/* ---- shared-memory layout ---------------------------------------------------------------------------------------- */

/* Where chunk (of 16 bytes) of a line lies in a stage.  Eight threads that read the same chunk of eight lines in a row,
 * or eight chunks of one line, meet 32 different banks. */
template <int CHUNKS> static __device__ __forceinline__ int chunk_swizzle(int line) {
    return CHUNKS >= 8 ? line & 7 : line >> 1 & 3;
}
template <int CHUNKS> static __device__ __forceinline__ int chunk_offset(int line, int chunk) {
    return (line * CHUNKS + (chunk ^ chunk_swizzle<CHUNKS>(line))) * 16;
}

/* ---- from global to shared memory -------------------------------------------------------------------------------- */

/* This thread's share of an operand's stage: chunk `chunk` of lines `line`, `line + PASS`, ...
 * Lines outside the matrix and elements past its edge are zeros.
 * Paired lines (SwiGLU's weight): PAIR gate rows, then their PAIR up rows, and so on, so that a gate and its up meet in
 * one thread's registers. */
template <typename E, bool ALONG_K, int LINES, int CHUNKS, int THREADS, int PAIR, bool ALIGNED> struct Loader {
    static constexpr int PASS = THREADS / CHUNKS, PASSES = LINES / PASS, PER_CHUNK = 16 / (int)sizeof(E);
    static_assert(LINES % PASS == 0 && (PASS % (2 * PAIR) == 0 || 2 * PAIR % PASS == 0), "whole passes");
    const E *from;
    int64_t stride; /* elements from line to line */
    int64_t side;   /* elements from a gate row to its up row; 0: not paired */
    int lines;      /* valid from `line` on */
    int elements;   /* valid from the chunk's first on */
    int line, chunk;

    /* first, end: of the tile in the matrix' dimension that is not k. */
    __device__ __forceinline__ void init(const void *base, int stride_, int first, int end, int k_begin, int k_end,
                                         int pair_rows) {
        line = (int)threadIdx.x / CHUNKS;
        chunk = (int)threadIdx.x % CHUNKS;
        stride = stride_;
        side = (int64_t)pair_rows * stride_;
        int row, at_side = 0;
        if (ALONG_K) {
            row = first + line;
            if (pair_rows) {
                row = first / 2 + line / (2 * PAIR) * PAIR + line % PAIR;
                at_side = line / PAIR % 2;
                end = pair_rows;
            }
            lines = end - row;
            elements = k_end - k_begin - chunk * PER_CHUNK;
            from = (const E *)base + row * stride + at_side * side + k_begin + chunk * PER_CHUNK;
        } else {
            row = k_begin + line;
            lines = k_end - row;
            elements = end - first - chunk * PER_CHUNK;
            from = (const E *)base + row * stride + first + chunk * PER_CHUNK;
        }
    }

    /* Rows from `line` to the line of pass i. */
    __device__ __forceinline__ int row_of(int i) const {
        int d = i * PASS;
        if (!ALONG_K || !side) return d;
        return PASS % (2 * PAIR) == 0 ? d / 2 : d / (2 * PAIR) * PAIR + d % PAIR;
    }

    __device__ __forceinline__ void load(char *stage, int i) const {
        int row = row_of(i);
        bool up = ALONG_K && PASS % (2 * PAIR) && i * PASS / PAIR % 2;
        const E *p = from + row * stride + (up ? side : 0);
        char *to = stage + chunk_offset<CHUNKS>(line + i * PASS, chunk);
        if (ALIGNED) {
            cp_async_16(to, p, row < lines && elements > 0);
        } else {
            for (int e = 0; e < PER_CHUNK; e++) ((E *)to)[e] = row < lines && e < elements ? p[e] : E(0.0f);
        }
    }

    __device__ __forceinline__ void advance(int depth) {
        from += ALONG_K ? depth : depth * stride;
        (ALONG_K ? elements : lines) -= depth;
    }
};

/* ---- from shared memory to registers ----------------------------------------------------------------------------- */

/* a's fragments of one MMA step: SIZE / 16 times 16 x 16.  Lines of CHUNKS chunks run along k or along M. */
template <bool ALONG_K, int SIZE, int CHUNKS> struct FragmentsA {
    int offset, chunk;
    __device__ __forceinline__ void init(int warp) {
        int lane = threadIdx.x & 31, first = warp * SIZE;
        int line = ALONG_K ? first + (lane & 15) : (lane >> 4) * 8 + (lane & 7);
        offset = line * CHUNKS * 16;
        chunk = (ALONG_K ? lane >> 4 : first / 8 + (lane >> 3 & 1)) ^ chunk_swizzle<CHUNKS>(line);
    }
    __device__ __forceinline__ void read(uint32_t (*r)[4], const char *stage, int step) const {
#pragma unroll
        for (int i = 0; i < SIZE / 16; i++) {
            if (ALONG_K) ldmatrix_x4(r[i], stage + offset + i * 16 * CHUNKS * 16 + (chunk ^ 2 * step) * 16);
            else ldmatrix_x4_trans(r[i], stage + offset + step * 16 * CHUNKS * 16 + (chunk ^ 2 * i) * 16);
        }
    }
};

/* b's: SIZE / 8 times 16 x 8, two at a time. */
template <bool ALONG_K, int SIZE, int CHUNKS> struct FragmentsB {
    int offset, chunk;
    __device__ __forceinline__ void init(int warp) {
        int lane = threadIdx.x & 31, first = warp * SIZE;
        int line = ALONG_K ? first + (lane >> 4) * 8 + (lane & 7) : lane & 15;
        offset = line * CHUNKS * 16;
        chunk = (ALONG_K ? lane >> 3 & 1 : first / 8 + (lane >> 4)) ^ chunk_swizzle<CHUNKS>(line);
    }
    __device__ __forceinline__ void read(uint32_t (*r)[2], const char *stage, int step) const {
#pragma unroll
        for (int i = 0; i < SIZE / 16; i++) {
            if (ALONG_K) ldmatrix_x4(r[2 * i], stage + offset + i * 16 * CHUNKS * 16 + (chunk ^ 2 * step) * 16);
            else ldmatrix_x4_trans(r[2 * i], stage + offset + step * 16 * CHUNKS * 16 + (chunk ^ 2 * i) * 16);
        }
    }
};

/* One MMA step takes 32 bytes of every line along k. */
struct Bf16Math {
    typedef bf16 Element;
    typedef float Sum;
    static __device__ __forceinline__ void step(float *sum, const uint32_t *a, const uint32_t *b) {
        mma_m16n8k16_bf16(sum, a, b, sum);
    }
};
struct Int8Math {
    typedef int8_t Element;
    typedef int32_t Sum;
    static __device__ __forceinline__ void step(int32_t *sum, const uint32_t *a, const uint32_t *b) {
        mma_m16n8k32_s8(sum, a, b, sum);
    }
};

/* ---- int8 --------------------------------------------------------------------------------------------------------- */

/* int8: the exact sum times the row's and the column's scale. */
template <int WIDTH>
static __device__ __forceinline__ void sums_scale(const Product &p, float (*out)[4], const int32_t (*sum)[4], int row,
                                                  int column) {
    const int g = (threadIdx.x & 31) >> 2, t = (threadIdx.x & 3) * 2;
    const float upper = row + g < p.M ? p.a_scale[row + g] : 0, lower = row + g + 8 < p.M ? p.a_scale[row + g + 8] : 0;
#pragma unroll
    for (int j = 0; j < WIDTH / 8; j++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            int c = column + 8 * j + t + e;
            if (p.ending == END_SWIGLU) {
                int f = c / 16 * 8 + c % 8;
                c = f < p.N / 2 ? f + (c / 8 % 2) * (p.N / 2) : p.N;
            }
            float scale = c < p.N ? p.b_scale[c] : 0;
            out[j][e] = __fmul_rn(__fmul_rn((float)sum[j][e], upper), scale);
            out[j][2 + e] = __fmul_rn(__fmul_rn((float)sum[j][2 + e], lower), scale);
        }
}
template <int WIDTH>
static __device__ __forceinline__ void sums_scale(const Product &, float (*out)[4], const float (*sum)[4], int, int) {
#pragma unroll
    for (int j = 0; j < WIDTH / 8; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) out[j][e] = sum[j][e];
}

/* ---- the kernel -------------------------------------------------------------------------------------------------- */

/* Blocks are numbered down strips 16 tiles high: the hundred or so that run together then cover about a square of out,
 * and read few distinct lines of a and b. */
static __device__ __forceinline__ void block_place(int block, int tiles_m, int tiles_n, int *m, int *n) {
    const int strip = block / (16 * tiles_n), first = strip * 16, height = min(16, tiles_m - first);
    block -= strip * 16 * tiles_n;
    *m = first + block % height;
    *n = block / height;
}

template <class Math, typename T, class Tile, bool A_ALONG_K, bool B_ALONG_K, bool ALIGNED>
__global__ void __launch_bounds__(Tile::THREADS, Tile::RESIDENT) matmul_kernel(const Product p) {
    DYNAMIC_SHARED(char, shared);
    typedef typename Math::Element E;
    constexpr int SIZE = (int)sizeof(E), DEPTH = Tile::DEPTH / SIZE, STEPS = Tile::DEPTH / 32, STAGES = Tile::STAGES;
    constexpr int MI = Tile::WARP_M / 16, NI = Tile::WARP_N / 8;
    constexpr int A_CHUNKS = (A_ALONG_K ? Tile::DEPTH : Tile::M * SIZE) / 16;
    constexpr int B_CHUNKS = (B_ALONG_K ? Tile::DEPTH : Tile::N * SIZE) / 16;
    typedef Loader<E, A_ALONG_K, A_ALONG_K ? Tile::M : DEPTH, A_CHUNKS, Tile::THREADS, 8, ALIGNED> LoaderA;
    typedef Loader<E, B_ALONG_K, B_ALONG_K ? Tile::N : DEPTH, B_CHUNKS, Tile::THREADS, 8, ALIGNED> LoaderB;
    constexpr int A_BYTES = Tile::M * Tile::DEPTH, PASSES = LoaderA::PASSES + LoaderB::PASSES;
    constexpr int SLAB_BYTES = 16 * (Tile::WARP_N + 8) * 4;
    static_assert(SLAB_BYTES * Tile::THREADS / 32 <= Tile::SHARED, "the tile leaves through the stages");

    int tile_m, tile_n;
    block_place((int)blockIdx.x, (p.M + Tile::M - 1) / Tile::M, (p.N + Tile::N - 1) / Tile::N, &tile_m, &tile_n);
    const int m0 = tile_m * Tile::M, n0 = tile_n * Tile::N;
    const int k_begin = (int)blockIdx.y * p.split_k, k_end = min(p.K, k_begin + p.split_k);
    const int tiles = (k_end - k_begin + DEPTH - 1) / DEPTH;
    const int warp = threadIdx.x >> 5, warp_m = warp / Tile::WARPS_N, warp_n = warp % Tile::WARPS_N;

    LoaderA load_a;
    LoaderB load_b;
    load_a.init(p.a, p.a_stride, m0, p.M, k_begin, k_end, 0);
    load_b.init(p.b, p.b_stride, n0, p.N, k_begin, k_end, p.ending == END_SWIGLU ? p.N / 2 : 0);
    FragmentsA<A_ALONG_K, Tile::WARP_M, A_CHUNKS> read_a;
    FragmentsB<B_ALONG_K, Tile::WARP_N, B_CHUNKS> read_b;
    read_a.init(warp_m);
    read_b.init(warp_n);

    typename Math::Sum sum[MI][NI][4];
#pragma unroll
    for (int i = 0; i < MI; i++)
#pragma unroll
        for (int j = 0; j < NI; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) sum[i][j][e] = 0;

#pragma unroll
    for (int s = 0; s < STAGES - 1; s++) {
        if (s < tiles) {
            char *stage = shared + s * Tile::STAGE_BYTES;
#pragma unroll
            for (int i = 0; i < LoaderA::PASSES; i++) load_a.load(stage, i);
#pragma unroll
            for (int i = 0; i < LoaderB::PASSES; i++) load_b.load(stage + A_BYTES, i);
            load_a.advance(DEPTH);
            load_b.advance(DEPTH);
        }
        cp_async_commit();
    }
    cp_async_wait<STAGES - 2>();
    __syncthreads();

    /* Fragments of the step under way and of the next one. */
    uint32_t a[2][MI][4], b[2][NI][2];
    read_a.read(a[0], shared, 0);
    read_b.read(b[0], shared + A_BYTES, 0);
    int reading = 0, writing = STAGES - 1;
    for (int tile = 0; tile < tiles; tile++) {
        const char *now = shared + reading * Tile::STAGE_BYTES;
        char *later = shared + writing * Tile::STAGE_BYTES; /* what all warps read before the last barrier */
#pragma unroll
        for (int step = 0; step < STEPS; step++) {
            if (tile + STAGES - 1 < tiles) {
#pragma unroll
                for (int i = step * PASSES / STEPS; i < (step + 1) * PASSES / STEPS; i++) {
                    if (i < LoaderA::PASSES) load_a.load(later, i);
                    else load_b.load(later + A_BYTES, i - LoaderA::PASSES);
                }
            }
            if (step == STEPS - 1) {
                cp_async_commit();
                load_a.advance(DEPTH);
                load_b.advance(DEPTH);
                cp_async_wait<STAGES - 2>();
                __syncthreads();
                reading = reading + 1 == STAGES ? 0 : reading + 1;
                writing = writing + 1 == STAGES ? 0 : writing + 1;
                now = shared + reading * Tile::STAGE_BYTES;
            }
            if (step < STEPS - 1 || tile + 1 < tiles) {
                read_a.read(a[(step + 1) & 1], now, (step + 1) % STEPS);
                read_b.read(b[(step + 1) & 1], now + A_BYTES, (step + 1) % STEPS);
            }
#pragma unroll
            for (int i = 0; i < MI; i++)
#pragma unroll
                for (int j = 0; j < NI; j++) {
                    int column = i & 1 ? NI - 1 - j : j; /* neighbours in time share an operand */
                    Math::step(sum[i][column], a[step & 1][i], b[step & 1][column]);
                }
        }
    }

    /* The last barrier came after the last read of a stage: the stages are free. */
    char *slab = shared + warp * SLAB_BYTES;
    void *out = (char *)p.out + (int64_t)blockIdx.y * p.split_elements * (int64_t)sizeof(float);
    const int row = m0 + warp_m * Tile::WARP_M, column = n0 + warp_n * Tile::WARP_N;
    float values[NI][4];
    if (p.ending == END_ADD) {
        /* The residual of several rows is asked for at once: the wait for it is much of what this ending costs. */
        typedef Slab<float, Tile::WARP_N> Floats;
        constexpr int TURNS = Floats::template TURNS<T>, AHEAD = MI * TURNS <= 8 ? MI : MI % 2 == 0 && TURNS <= 4 ? 2 : 1;
        Vector<T> base[AHEAD][TURNS];
        Floats s = {(float *)slab};
#pragma unroll
        for (int i = 0; i < MI; i++) {
            Place<T> to = {(T *)out, p.out_stride, row + 16 * i, column, p.M, p.N, (bool)p.vectors};
#pragma unroll
            for (int j = 0; i % AHEAD == 0 && j < AHEAD; j++) {
                Place<T> from = {(T *)out, p.out_stride, row + 16 * (i + j), column, p.M, p.N, (bool)p.vectors};
                s.fetch(from, (const T *)p.residual, base[j]);
            }
            sums_scale<Tile::WARP_N>(p, values, sum[i], row + 16 * i, column);
            s.put_fragments(values);
            s.write(to, (const T *)p.residual, base[i % AHEAD]);
        }
    } else {
#pragma unroll
        for (int i = 0; i < MI; i++) {
            sums_scale<Tile::WARP_N>(p, values, sum[i], row + 16 * i, column);
            rows_end<T, Tile::WARP_N>(p, out, slab, values, row + 16 * i, column);
        }
    }
}

/* ---- launching --------------------------------------------------------------------------------------------------- */

template <class Math, typename T, class Tile, bool A_ALONG_K, bool B_ALONG_K, bool ALIGNED>
static void tile_launch(Device *dev, const char *op, const Product &p) {
    dim3 grid((unsigned)(ceil_div(p.M, Tile::M) * ceil_div(p.N, Tile::N)), (unsigned)ceil_div(p.K, p.split_k));
    CUDA_LAUNCH(dev, op, (matmul_kernel<Math, T, Tile, A_ALONG_K, B_ALONG_K, ALIGNED>), grid, Tile::THREADS,
                Tile::SHARED, p);
}

#endif
