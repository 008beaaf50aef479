/* matmul_sm90.cuh - the tensor-core kernel of Hopper (sm_90a): blocks that stay and make tile after tile of out.
 *
 * One warp, the producer, has the copy engine fill a ring of STAGES stages in shared memory, each 64 elements of k
 * deep. One or two warpgroups, the consumers, own 64 x N of the tile each: they wait for a stage, have wgmma multiply
 * it from where it lies, and give the stage before it back while the tensor cores work.  The producer runs ahead into
 * the next tile while consumers still store the last one, and the consumers may be some stages apart, so that one
 * stores while the other multiplies.  The producer's warpgroup gives its registers to the consumers.
 *
 * 128 x 256 asks 48 KiB of L2 for 1024 clocks of arithmetic, the least of any tile whose sums fit in registers.  A pair
 * of blocks (a cluster of two) makes two tiles one above the other and shares b: each asks for half of b's part of a
 * stage and has it sent to both, 32 KiB a block in place of 48.  A block's stage is then full when its own and the
 * other block's copies are there, and empty when the consumers of both have given it back, since what fills it fills
 * both.
 *
 * A stage holds boxes of rows of 128 bytes in the copy engine's swizzle: lines along k 64 elements of each, otherwise
 * 64 of the lines' elements for each of 64 k. */
#ifndef EHR_KERNELS_CUDA_MATMUL_SM90_CUH
#define EHR_KERNELS_CUDA_MATMUL_SM90_CUH
#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/matmul_end.cuh"

enum {
    HOPPER_DEPTH = 64,
    HOPPER_BOX = 8192,   /* bytes of 64 lines of 64 elements */
    HOPPER_STORE = 2048, /* and of 16 rows of 64 results */
};

/* Which endings a form of product has, as bits. */
enum {
    FORWARD_ENDINGS = 1 << END_STORE | 1 << END_FLOAT | 1 << END_ADD | 1 << END_SWIGLU,
    DGRAD_ENDINGS = 1 << END_STORE,
    WGRAD_ENDINGS = 1 << END_FLOAT | 1 << END_ACCUMULATE,
};
static __host__ __device__ constexpr bool knows(int endings, Ending e) { return endings >> e & 1; }

/* CLUSTER: blocks that share b, 1 or 2. */
template <int M_, int N_, int STAGES_, int RESIDENT_, int CLUSTER_ = 1> struct HopperTile {
    static constexpr int M = M_, N = N_, STAGES = STAGES_, RESIDENT = RESIDENT_, CLUSTER = CLUSTER_;
    static constexpr int CONSUMERS = M / 64, PART = N / 2; /* b's lines come in two parts */
    /* A whole warpgroup produces where registers have to change hands; otherwise one warp does. */
    static constexpr bool REGISTERS_MOVE = CONSUMERS == 2;
    static constexpr int THREADS = CONSUMERS * WARPGROUP + (REGISTERS_MOVE ? WARPGROUP : 32);
    static constexpr int A_BYTES = M * 128, STAGE_BYTES = A_BYTES + N * 128;
    static constexpr int WIDTH = N < 32 ? N : 32, PAIR_WIDTH = N < 64 ? N : 64; /* columns that leave at a time */
    /* A warp's way out: 16 rows as the endings of matmul_end.cuh want them, or two boxes for the copy engine. */
    static constexpr bool BOXES = N >= 64;
    static constexpr int SLAB_BYTES = BOXES ? 2 * HOPPER_STORE : 16 * (WIDTH + 8) * 4, SLABS = STAGES * STAGE_BYTES;
    static constexpr int BARRIERS = SLABS + CONSUMERS * 4 * SLAB_BYTES, SHARED = BARRIERS + 2 * STAGES * 8;
    static_assert(SLAB_BYTES >= 16 * (WIDTH + 8) * 4, "float has room");
    static_assert(SLAB_BYTES >= 16 * (PAIR_WIDTH + 8) * 2, "bf16 leaves in wider parts than float");
    static constexpr HopperShape shape() { return {M, N, RESIDENT, SHARED, STAGES, CLUSTER}; }
};

/* ---- the order of tiles ------------------------------------------------------------------------------------------ */

/* Tiles are numbered down strips 16 tiles high: those under way together cover about a square of out, and read few
 * distinct lines of a and b.  Splits of k come one after another.  Where blocks go in pairs, so do tiles: one above the
 * other with neighbouring numbers, the lower one outside of out where out's height in tiles is odd (it reads zeros for
 * a's lines and stores nothing). */
struct HopperPlace {
    int m0, n0, k_begin, steps, split;
};
template <class Tile> static __device__ __forceinline__ HopperPlace hopper_place(const Product &p, int tile) {
    const int tiles_m = (p.M + Tile::M * Tile::CLUSTER - 1) / (Tile::M * Tile::CLUSTER) * Tile::CLUSTER;
    const int tiles_n = (p.N + Tile::N - 1) / Tile::N, area = tiles_m * tiles_n;
    const int split = tile / area, rest = tile - split * area, strip = rest / (16 * tiles_n);
    const int first = strip * 16, height = min(16, tiles_m - first), in_strip = rest - first * tiles_n;
    const int k_begin = split * p.split_k, k_end = min(p.K, k_begin + p.split_k);
    return {(first + in_strip % height) * Tile::M, in_strip / height * Tile::N, k_begin,
            (k_end - k_begin + HOPPER_DEPTH - 1) / HOPPER_DEPTH, split};
}

/* ---- producer ---------------------------------------------------------------------------------------------------- */

/* a's part of a stage: Tile::M lines from `first` on. */
template <class Tile, bool ALONG_K>
static __device__ __forceinline__ void load_a(char *to, const CUtensorMap *map, int first, int k, uint64_t *full) {
    if (ALONG_K) {
        tma_load_2d(to, map, k, first, full);
    } else {
#pragma unroll
        for (int i = 0; i < Tile::M / 64; i++) tma_load_2d(to + i * HOPPER_BOX, map, first + 64 * i, k, full);
    }
}

/* b's: half of Tile::N lines from `first` and half from `second` on, SwiGLU's gates and ups or neighbours.  Of a pair
 * of blocks each asks for one half on behalf of both: half of the lines, or where they do not run along k, half of k.
 */
template <class Tile, bool ALONG_K>
static __device__ __forceinline__ void load_b(char *to, const CUtensorMap *map, int first, int second, int k,
                                              uint64_t *full, int rank) {
    if constexpr (Tile::CLUSTER == 2) {
        if (ALONG_K) {
            tma_multicast_2d(to + rank * Tile::PART * 128, map, k, rank ? second : first, full, 3);
        } else {
            to += rank * HOPPER_BOX / 2;
            k += rank * HOPPER_DEPTH / 2;
#pragma unroll
            for (int i = 0; i < Tile::N / 64; i++)
                tma_multicast_2d(to + i * HOPPER_BOX, map, first + 64 * i, k, full, 3);
        }
    } else if (ALONG_K) {
        tma_load_2d(to, map, k, first, full);
        tma_load_2d(to + Tile::PART * 128, map, k, second, full);
    } else {
#pragma unroll
        for (int i = 0; i < Tile::N / 64; i++) tma_load_2d(to + i * HOPPER_BOX, map, first + 64 * i, k, full);
    }
}

template <class Tile, bool A_ALONG_K, bool B_ALONG_K>
static __device__ __forceinline__ void produce(const Product &p, const CUtensorMap *a, const CUtensorMap *b,
                                               char *stages, uint64_t *full, uint64_t *empty, int tiles) {
    const int rank = Tile::CLUSTER > 1 ? cluster_rank() : 0;
    int stage = 0, parity = 1; /* of the first round: nobody waits for a stage that was never used */
    for (int tile = (int)blockIdx.x; tile < tiles; tile += (int)gridDim.x) {
        const HopperPlace at = hopper_place<Tile>(p, tile);
        /* b's lines in two halves: SwiGLU's gates, then their ups, so that a thread has both. */
        const int lines = p.ending == END_SWIGLU ? at.n0 / 2 : at.n0;
        const int second = p.ending == END_SWIGLU ? p.N / 2 + lines : lines + Tile::PART;
        for (int i = 0; i < at.steps; i++) {
            char *to = stages + stage * Tile::STAGE_BYTES;
            const int k = at.k_begin + i * HOPPER_DEPTH;
            mbarrier_wait(empty + stage, parity);
            mbarrier_expect(full + stage, Tile::STAGE_BYTES);
            load_a<Tile, A_ALONG_K>(to, a, at.m0, k, full + stage);
            load_b<Tile, B_ALONG_K>(to + Tile::A_BYTES, b, lines, second, k, full + stage, rank);
            if (++stage == Tile::STAGES) stage = 0, parity ^= 1;
        }
    }
}

/* ---- consumers --------------------------------------------------------------------------------------------------- */

/* END_STORE of aligned bf16: the copy engine takes 64 columns at a time while the warp goes on to the next, and to the
 * next tile.  Before the kernel ends: tma_store_wait<0>() by lane 0. */
template <int N>
static __device__ __forceinline__ void rows_to_boxes(const Product &p, const CUtensorMap *out, char *slab,
                                                     const float (*sum)[4], int row, int column) {
    const int lane = (int)threadIdx.x % 32, g = lane / 4;
#pragma unroll
    for (int i = 0; i < N / 64; i++) {
        char *box = slab + i % 2 * HOPPER_STORE;
        /* For the last store from this box: the one before, or of a tile with an odd number the last one. */
        if (lane == 0) {
            if (N / 64 % 2 && i == 0) tma_store_wait<0>();
            else tma_store_wait<1>();
        }
        __syncwarp();
#pragma unroll
        for (int j = 0; j < 8; j++) {
            char *to = box + g * 128 + (j ^ g) * 16 + lane % 4 * 4;
            *(__nv_bfloat162 *)to = __floats2bfloat162_rn(sum[8 * i + j][0], sum[8 * i + j][1]);
            *(__nv_bfloat162 *)(to + 1024) = __floats2bfloat162_rn(sum[8 * i + j][2], sum[8 * i + j][3]);
        }
        proxy_fence();
        __syncwarp();
        if (lane == 0) {
            if (row < p.M && column + 64 * i < p.N) tma_store_2d(out, column + 64 * i, row, box);
            tma_store_commit();
        }
    }
}

/* A warp's 16 rows of the tile.  A kernel knows the endings of its form only: each costs registers in all. */
template <class Tile, int ENDINGS>
static __device__ __forceinline__ void tile_end(const Product &p, const CUtensorMap *boxes, void *out, char *slab,
                                                const float (*sum)[4], int row, int column) {
    constexpr int N = Tile::N, W = Tile::WIDTH, PAIR = Tile::PAIR_WIDTH, AHEAD = N / W < 2 ? 1 : 2;
    if (knows(ENDINGS, END_SWIGLU) && p.ending == END_SWIGLU) {
#pragma unroll
        for (int i = 0; i < N / PAIR; i++) {
            float turns[PAIR / 8][4];
#pragma unroll
            for (int j = 0; j < PAIR / 16; j++)
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    turns[2 * j][e] = sum[i * PAIR / 16 + j][e];
                    turns[2 * j + 1][e] = sum[N / 16 + i * PAIR / 16 + j][e];
                }
            rows_swiglu<bf16, PAIR>(p, out, slab, turns, row, column + PAIR * i);
        }
    } else if (Tile::BOXES && knows(ENDINGS, END_STORE) && p.ending == END_STORE && p.vectors) {
        if constexpr (Tile::BOXES) rows_to_boxes<N>(p, boxes, slab, sum, row, column);
    } else if (knows(ENDINGS, END_STORE) && p.ending == END_STORE) {
#pragma unroll
        for (int i = 0; i < N / PAIR; i++)
            rows_store<bf16, PAIR>(p, out, slab, sum + PAIR / 8 * i, row, column + PAIR * i);
    } else if (knows(ENDINGS, END_ADD) && p.ending == END_ADD) {
        rows_add<bf16, W, N / W, AHEAD>(p, out, p.residual, slab, sum, row, column);
    } else if (knows(ENDINGS, END_ACCUMULATE) && p.ending == END_ACCUMULATE) {
        rows_add<float, W, N / W, AHEAD>(p, out, out, slab, sum, row, column);
    } else if (knows(ENDINGS, END_FLOAT)) {
#pragma unroll
        for (int i = 0; i < N / W; i++) rows_store<float, W>(p, out, slab, sum + W / 8 * i, row, column + W * i);
    }
}

/* A consumer's warp says that the tensor cores have read a stage for it, to the producer of each block that fills it.
 */
template <class Tile> static __device__ __forceinline__ void give_back(uint64_t *empty, int lane) {
    if (Tile::CLUSTER > 1 && lane < Tile::CLUSTER) mbarrier_arrive_at(empty, lane);
    if (Tile::CLUSTER == 1 && lane == 0) mbarrier_arrive(empty);
}

template <class Tile, bool A_ALONG_K, bool B_ALONG_K, int ENDINGS>
static __device__ __forceinline__ void consume(const Product &p, const CUtensorMap *boxes, char *stages, char *slab,
                                               uint64_t *full, uint64_t *empty, int tiles) {
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32, consumer = warp / 4;
    const uint64_t a0 = wgmma_descriptor(stages + consumer * HOPPER_BOX, 16, 1024);
    const uint64_t b0 = wgmma_descriptor(stages + Tile::A_BYTES, B_ALONG_K ? 16 : HOPPER_BOX, 1024);
    int stage = 0, parity = 0;
    for (int tile = (int)blockIdx.x; tile < tiles; tile += (int)gridDim.x) {
        const HopperPlace at = hopper_place<Tile>(p, tile);
        float sum[Tile::N / 8][4];
        int before = 0;
        for (int i = 0; i < at.steps; i++) {
            const uint64_t a = wgmma_advance(a0, stage * Tile::STAGE_BYTES);
            const uint64_t b = wgmma_advance(b0, stage * Tile::STAGE_BYTES);
            mbarrier_wait(full + stage, parity);
            wgmma_fence();
#pragma unroll
            for (int k = 0; k < HOPPER_DEPTH / 16; k++)
                wgmma<Tile::N, A_ALONG_K, B_ALONG_K>(sum, wgmma_advance(a, k * (A_ALONG_K ? 32 : 2048)),
                                                     wgmma_advance(b, k * (B_ALONG_K ? 32 : 2048)), i + k);
            wgmma_commit();
            wgmma_wait<1>(); /* for the stage before */
            if (i) give_back<Tile>(empty + before, lane);
            before = stage;
            if (++stage == Tile::STAGES) stage = 0, parity ^= 1;
        }
        wgmma_wait<0>();
        wgmma_settle<Tile::N>(sum);
        give_back<Tile>(empty + before, lane);
        void *out = (char *)p.out + at.split * p.split_elements * (int64_t)sizeof(float);
        tile_end<Tile, ENDINGS>(p, boxes, out, slab, sum, at.m0 + warp * 16, at.n0);
    }
    if (Tile::BOXES && knows(ENDINGS, END_STORE) && lane == 0) tma_store_wait<0>();
}

template <class Tile, bool A_ALONG_K, bool B_ALONG_K, int ENDINGS>
__global__ void __launch_bounds__(Tile::THREADS, Tile::RESIDENT)
    hopper_matmul_kernel(const __grid_constant__ CUtensorMap a, const __grid_constant__ CUtensorMap b,
                         const __grid_constant__ CUtensorMap out, const Product p, int tiles) {
#if HOPPER_BODY
    DYNAMIC_SHARED(char, shared);
    uint64_t *full = (uint64_t *)(shared + Tile::BARRIERS), *empty = full + Tile::STAGES;
    const int warp = (int)threadIdx.x / 32;
    if (threadIdx.x == 0) {
        tma_prefetch(&a);
        tma_prefetch(&b);
        for (int s = 0; s < Tile::STAGES; s++) {
            mbarrier_init(full + s, 1);
            mbarrier_init(empty + s, Tile::CLUSTER * Tile::CONSUMERS * 4); /* warps */
        }
        mbarrier_published();
    }
    __syncwarp();
    if constexpr (Tile::CLUSTER > 1) cluster_arrive(), cluster_wait();
    else __syncthreads();
    if (warp >= Tile::CONSUMERS * 4) {
        if constexpr (Tile::REGISTERS_MOVE) registers_release<40>();
        if (threadIdx.x == Tile::CONSUMERS * WARPGROUP)
            produce<Tile, A_ALONG_K, B_ALONG_K>(p, &a, &b, shared, full, empty, tiles);
    } else {
        if constexpr (Tile::REGISTERS_MOVE) registers_take<232>();
        consume<Tile, A_ALONG_K, B_ALONG_K, ENDINGS>(p, &out, shared, shared + Tile::SLABS + warp * Tile::SLAB_BYTES,
                                                     full, empty, tiles);
    }
    __syncwarp();
    if constexpr (Tile::CLUSTER > 1) cluster_arrive(), cluster_wait(); /* the other block may still arrive here */
#else
    (void)tiles;
#endif
}

/* ---- launching --------------------------------------------------------------------------------------------------- */

/* A matrix of bf16 in boxes of 64 columns.  1 = encoded. */
static inline int matrix_map(Device *dev, const char *op, CUtensorMap *map, const void *base, int columns, int rows,
                             int stride, int box_rows) {
    const cuuint64_t size[] = {(cuuint64_t)columns, (cuuint64_t)rows};
    const cuuint64_t bytes[] = {(cuuint64_t)stride * sizeof(bf16)};
    const cuuint32_t box[] = {64, (cuuint32_t)box_rows}, step[] = {1, 1};
    const TensorMapEncode encode = cuda_tensor_map_encode(dev);
    if (encode && encode(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, (void *)base, size, bytes, box, step,
                         CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                         CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS)
        return 1;
    device_fail(dev, op, "the driver refuses a tensor map of an operand");
    return 0;
}
/* An operand of `lines` by K elements, in boxes of box_lines lines and 64 elements of k, or 64 and box_depth. */
static inline int operand_map(Device *dev, const char *op, CUtensorMap *map, const void *base, int along_k, int lines,
                              int K, int stride, int box_lines, int box_depth) {
    return matrix_map(dev, op, map, base, along_k ? K : lines, along_k ? lines : K, stride,
                      along_k ? box_lines : box_depth);
}

template <class Tile, bool A_ALONG_K, bool B_ALONG_K, int ENDINGS>
static void hopper_launch(Device *dev, const char *op, const Product &p) {
    static_assert(B_ALONG_K || Tile::N % 64 == 0, "lines that do not run along k come in 64s");
    CUtensorMap a, b;
    if (!operand_map(dev, op, &a, p.a, A_ALONG_K, p.M, p.K, p.a_stride, Tile::M, HOPPER_DEPTH) ||
        !operand_map(dev, op, &b, p.b, B_ALONG_K, p.N, p.K, p.b_stride, Tile::PART, HOPPER_DEPTH / Tile::CLUSTER))
        return;
    CUtensorMap out = a; /* not looked at, except where results leave in boxes */
    if (Tile::BOXES && p.ending == END_STORE && p.vectors &&
        !matrix_map(dev, op, &out, p.out, p.N, p.M, (int)p.out_stride, 16))
        return;
    const int tiles =
        round_up(ceil_div(p.M, Tile::M), Tile::CLUSTER) * ceil_div(p.N, Tile::N) * ceil_div(p.K, p.split_k);
    const int resident = Tile::RESIDENT * cuda_sm_count(dev) / Tile::CLUSTER * Tile::CLUSTER;
    const unsigned grid = (unsigned)(tiles < resident ? tiles : resident);
    if constexpr (Tile::CLUSTER > 1)
        CUDA_LAUNCH_CLUSTER(dev, op, (hopper_matmul_kernel<Tile, A_ALONG_K, B_ALONG_K, ENDINGS>), Tile::CLUSTER, grid,
                            Tile::THREADS, Tile::SHARED, a, b, out, p, tiles);
    else
        CUDA_LAUNCH(dev, op, (hopper_matmul_kernel<Tile, A_ALONG_K, B_ALONG_K, ENDINGS>), grid, Tile::THREADS,
                    Tile::SHARED, a, b, out, p, tiles);
}

#endif
