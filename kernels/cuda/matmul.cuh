/* matmul.cuh - matrix products of the CUDA backend: what a product is, and which tile works on it.
 *
 * Every product is out (M, N) = sum over k of a (M, k) b (k, N).  How the operands lie in memory makes three forms:
 *     forward  out (N, rows) = inp @ W^T      a's lines run along k, b's too
 *     dgrad    dinp (N, cols) = dout @ W      a's lines run along k, b's along N
 *     wgrad    dweight += dout^T @ inp        a's lines run along M, b's along N
 * No operand is ever copied into another order.  Each element is one chain of sums over k ascending, in steps of one
 * MMA instruction that are the same for every tile, so the tile never shows in the bits. */
#ifndef EHR_KERNELS_CUDA_MATMUL_CUH
#define EHR_KERNELS_CUDA_MATMUL_CUH
#include "kernels/cuda/cuda.cuh"

/* What happens to a finished sum. */
enum Ending {
    END_STORE,      /* out = sum, in the table's dtype */
    END_FLOAT,      /* out = sum, float: logits, partial sums */
    END_ADD,        /* out = residual + sum; out may be residual */
    END_SWIGLU,     /* columns [0, N/2) are gates and [N/2, N) ups: out (M, N/2) = silu(gate) up */
    END_ACCUMULATE, /* float out += sum */
};

struct Product {
    const void *a, *b;
    int M, N, K;
    int a_stride, b_stride, out_stride; /* elements from line to line */
    Ending ending;
    void *out;
    const void *residual;           /* END_ADD: laid out as out */
    void *gate_up;                  /* END_SWIGLU: (M, N) kept, or NULL */
    const float *a_scale, *b_scale; /* int8: (M) and (N), multiplied to the sum; otherwise NULL */
    int split_k;                    /* blocks of split s (blockIdx.y) sum k in [s * split_k, (s+1) * split_k) ... */
    int64_t split_elements;         /* ... into out + s * split_elements */
    int vectors;                    /* what out, residual and gate_up consist of may be moved 16 bytes at a time */
};

static inline int ceil_div(int a, int b) { return (a + b - 1) / b; }
static inline int round_up(int a, int b) { return ceil_div(a, b) * b; }

/* Every line of a and b starts at a multiple of 16 bytes. */
static inline int lines_aligned(const Product *p, int element_bytes) {
    return (((uintptr_t)p->a | (uintptr_t)p->b) % 16) == 0 && p->a_stride * element_bytes % 16 == 0 &&
           p->b_stride * element_bytes % 16 == 0;
}

/* ---- choosing a tile --------------------------------------------------------------------------------------------- */

struct TileShape {
    int m, n;
    int resident; /* blocks a multiprocessor has registers for */
    int shared;   /* bytes a block */
};
enum MathRate { RATE_TENSOR = 64, RATE_FMA = 16 }; /* m * n / rate: clocks a tile needs for 32 bytes of k */

/* Clocks from first launch to last store, to compare tiles by; time goes in steps of 32 bytes of k (one MMA step).  A
 * step takes the longest of
 *   - the arithmetic: an A100 tensor core does 1024 bf16 (2048 int8) multiply-adds a clock and multiprocessor;
 *   - the operands' way from L2: about 28 bytes a clock and multiprocessor when all ask at once;
 *   - the latency of one link of the chain, about 40 clocks, which resident blocks hide from each other.
 * Filling the pipeline and storing the tile come once a block and overlap with other resident blocks only. */
static inline int64_t tile_clocks(const TileShape *t, MathRate rate, int M, int N, int k_bytes, int splits,
                                  int sm_count, int shared_sm) {
    int fit = shared_sm / (t->shared + 1024), resident = fit < t->resident ? fit : t->resident;
    int64_t blocks = (int64_t)ceil_div(M, t->m) * ceil_div(N, t->n) * splits;
    int64_t per_sm = (blocks + sm_count - 1) / sm_count, rounds = (per_sm + resident - 1) / resident;
    int64_t steps = ceil_div(ceil_div(k_bytes, 32), splits);
    int64_t math = t->m * t->n / rate, feed = (t->m + t->n) * 32 / 28, step = per_sm * (math > feed ? math : feed);
    if (step < rounds * 40) step = rounds * 40;
    return step * steps + rounds * (1000 + t->m * t->n / 32);
}

struct TileChoice {
    int tile, splits;
};

/* The cheapest of the tiles by tile_clocks(), the first of equals, and into how many parts k is split.  A pure function
 * of the shape and the card.  Splits (weight gradients only) write partial sums that somebody has to read again; there
 * are at most two blocks of splits a multiprocessor, which bounds the scratch memory they need. */
static inline TileChoice tile_choose(const TileShape *tiles, int n_tiles, MathRate rate, int M, int N, int k_bytes,
                                     int max_splits, int sm_count, int capability) {
    TileChoice best = {0, 1};
    int64_t least = INT64_MAX;
    int shared_sm = shared_per_sm(capability);
    for (int i = 0; i < n_tiles; i++) {
        if (tiles[i].shared > shared_sm - 1024) continue;
        int64_t area = (int64_t)ceil_div(M, tiles[i].m) * ceil_div(N, tiles[i].n);
        for (int s = 1; s <= max_splits; s++) {
            if (s > 1 && area * s > 2 * sm_count) break;
            int64_t clocks = tile_clocks(&tiles[i], rate, M, N, k_bytes, s, sm_count, shared_sm);
            if (s > 1) clocks += 2000 + (2 * s + 1) * 4ll * M * N / (28 * sm_count);
            if (clocks < least) least = clocks, best = {i, s};
        }
    }
    return best;
}

enum { SPLITS_MAX = 16 };

/* A tile of the Hopper kernel (matmul_sm90.cuh), which stays on its multiprocessor and makes one tile after another. */
struct HopperShape {
    int m, n, resident, shared, stages;
    int cluster; /* blocks that make tiles one above the other and share what they read of b */
};

/* As tile_clocks(), in steps of 64 of k.  Assumed of an H100 or H200 multiprocessor, and to be measured:
 *   - 2048 bf16 multiply-adds a clock; a wgmma of 16 columns takes as long as one of 32;
 *   - 36 bytes a clock from L2 when all ask at once; of a tile's lines those that are in the matrix;
 *     A cluster asks for b's once (what a multiprocessor receives stays below the 64 bytes a clock that it can);
 *   - 1000 clocks from asking the copy engine to the last byte, in which a block has `stages` steps under way.
 * What ends a tile (1500 clocks and its stores) is hidden by nobody but other resident blocks. */
static inline int64_t hopper_clocks(const HopperShape *t, int M, int N, int K, int splits, int sm_count) {
    sm_count = sm_count / t->cluster * t->cluster;
    int64_t tiles = (int64_t)round_up(ceil_div(M, t->m), t->cluster) * ceil_div(N, t->n) * splits;
    int64_t per_sm = (tiles + sm_count - 1) / sm_count, rounds = (per_sm + t->resident - 1) / t->resident;
    int64_t steps = ceil_div(ceil_div(K, 64), splits);
    int64_t lines = (M < t->m ? M : t->m) + (N < t->n ? N : t->n) / t->cluster;
    int64_t math = t->m * (t->n < 32 ? 32 : t->n) / 32, feed = lines * 128 / 36;
    int64_t step = per_sm * (math > feed ? math : feed), latency = rounds * 1000 / t->stages;
    return (step > latency ? step : latency) * steps + rounds * (1500 + t->m * t->n / 16) + 1000;
}

/* The cheapest by hopper_clocks(), the first of equals: a pure function of the shape and the card, as tile_choose().
 * Clusters only where there are tiles for each of their blocks. */
static inline TileChoice hopper_choose(const HopperShape *tiles, int n_tiles, int M, int N, int K, int max_splits,
                                       int sm_count) {
    TileChoice best = {0, 1};
    int64_t least = INT64_MAX;
    for (int i = 0; i < n_tiles; i++) {
        if (tiles[i].cluster > sm_count || (tiles[i].cluster > 1 && M <= tiles[i].m)) continue;
        int64_t area = (int64_t)round_up(ceil_div(M, tiles[i].m), tiles[i].cluster) * ceil_div(N, tiles[i].n);
        for (int s = 1; s <= max_splits; s++) {
            if (s > 1 && (area * s > 2 * sm_count || ceil_div(K, s) < 64)) break;
            int64_t clocks = hopper_clocks(&tiles[i], M, N, K, s, sm_count);
            if (s > 1) clocks += 2000 + (2 * s + 1) * 4ll * M * N / (36 * sm_count);
            if (clocks < least) least = clocks, best = {i, s};
        }
    }
    return best;
}

/* Enough for the partial sums of any split that tile_choose() makes. */
static inline size_t split_scratch_bytes(int sm_count) { return sizeof(float) * 2 * 128 * 256 * (size_t)sm_count; }

/* ---- inside the backend ------------------------------------------------------------------------------------------ */

/* Scratch that products need at the start of the workspace, whoever calculates them. */
size_t product_scratch_bytes(const Device *dev);

/* By our own kernels: p.a, b, the shape and the ending are set, the rest of the launch is decided here.  T: bf16 or
 * float, of operands and results.  A path for one kind of card starts in these functions, which know the device. */
template <typename T> void product_forward(Device *dev, const char *op, Product p);
template <typename T> void product_dgrad(Device *dev, const char *op, Product p);
/* scratch: product_scratch_bytes() */
template <typename T> void product_wgrad(Device *dev, const char *op, Product p, void *scratch);
/* The same on compute capability 9.0 in bf16, whatever the number of rows: a row's bits never come from two kinds of
 * tensor-core instruction.  0 = not for this path, nothing was done: another card, or lines that are not aligned. */
int sm90_forward(Device *dev, const char *op, Product p);
int sm90_dgrad(Device *dev, const char *op, Product p);
int sm90_wgrad(Device *dev, const char *op, Product p, void *scratch);
static inline int sm90_takes(const Device *dev, const Product *p) {
    return cuda_compute_capability(dev) == 90 && cuda_tensor_map_encode(dev) && lines_aligned(p, sizeof(bf16));
}
/* Operands int8, both lines along k and a multiple of 16 apart; T is the results' dtype. */
template <typename T> void product_int8(Device *dev, const char *op, Product p);

/* q[r,:] = round(x[r,:] / scale[r]), scale[r] = max |x[r,:]| / 127; lines of q are `stride` bytes apart, zero-filled.
 */
template <typename T>
void quantize_rows(Device *dev, const char *op, int8_t *q, float *scale, const T *x, int rows, int cols, int stride);

#endif
