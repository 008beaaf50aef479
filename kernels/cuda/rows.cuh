/* rows.cuh - what the memory-bound kernels share: loads and stores of 16 bytes, sums in a fixed order, and how the warps
 * of a block are dealt to rows.
 *
 * A row of C elements is worked on by a team of warps that keeps the row in registers, so that it is read once.  Lane l
 * of the team holds packs l, l + lanes, l + 2 lanes, ... of W elements each: 16 bytes where rows are multiples of that,
 * else single elements.  The shape depends on C alone, and so does the order of every sum over a row. */
#ifndef EHR_KERNELS_CUDA_ROWS_CUH
#define EHR_KERNELS_CUDA_ROWS_CUH
#include "kernels/cuda/cuda.cuh"

/* A block has ROW_WARPS warps; teams grow to all of them before a lane takes more than ROW_PACKS_GOOD packs. */
constexpr int WARP = 32, ROW_WARPS = 8, ROW_THREADS = ROW_WARPS * WARP, ROW_PACKS_GOOD = 4, ROW_PACKS_MAX = 8;

static __device__ __forceinline__ float to_float(float x) { return x; }
static __device__ __forceinline__ float to_float(bf16 x) { return __bfloat162float(x); }
template <typename T> static __device__ __forceinline__ T from_float(float x);
template <> __device__ __forceinline__ float from_float<float>(float x) { return x; }
template <> __device__ __forceinline__ bf16 from_float<bf16>(float x) { return __float2bfloat16_rn(x); }

/* Elements of 16 bytes. */
template <typename T> constexpr int PACK = 16 / (int)sizeof(T);

/* W neighbours in memory, moved as one. */
template <typename T, int W> struct __align__(sizeof(T) * W) Pack {
    T v[W];
};

template <typename T, int W> static __device__ __forceinline__ Pack<T, W> pack_load(const T *p) {
    return *reinterpret_cast<const Pack<T, W> *>(p);
}
template <typename T, int W> static __device__ __forceinline__ void pack_store(T *p, const Pack<T, W> &x) {
    *reinterpret_cast<Pack<T, W> *>(p) = x;
}

/* Every lane gets the sum over the `width` lanes (a power of two) it is aligned with. */
static __device__ __forceinline__ float lanes_sum(float x, int width = WARP) {
    for (int o = width / 2; o > 0; o /= 2) x += __shfl_xor_sync(0xffffffffu, x, o);
    return x;
}
static __device__ __forceinline__ double lanes_sum(double x) {
    for (int o = WARP / 2; o > 0; o /= 2) x += __shfl_xor_sync(0xffffffffu, x, o);
    return x;
}

static inline int ceil_div(int64_t a, int64_t b) { return (int)((a + b - 1) / b); }

/* ---- rows and teams ------------------------------------------------------------------------------------------------- */

/* W: elements of a pack; packs: of one lane; team: warps a row. */
struct RowShape {
    int W, packs, team;
};

/* packs = 0: the row is too long for any team. */
static inline RowShape row_shape(int C, int pack) {
    RowShape s = {C % pack ? 1 : pack, 1, 1};
    int      n = C / s.W;
    while (s.team < ROW_WARPS && s.team * WARP * ROW_PACKS_GOOD < n) s.team *= 2;
    s.packs = ceil_div(n, s.team * WARP);
    if (s.packs > ROW_PACKS_MAX) s.packs = 0;
    return s;
}

/* Where a thread stands: its team in the block, the teams there are, its lane in the team. */
struct Seat {
    int team, teams, lane, lanes;
};
static __device__ __forceinline__ Seat seat_of(int team_warps) {
    int lanes = team_warps * WARP, thread = (int)threadIdx.x;
    return Seat{thread / lanes, ROW_THREADS / lanes, thread % lanes, lanes};
}

/* The sum over a team's lanes, to each of them.  shared: two rows of ROW_WARPS floats, taken in turns (`turn` goes up
 * by one a call), so that one barrier a sum is enough.  All threads of the block call it equally often. */
static __device__ __forceinline__ float team_sum(float x, int team_warps, float (*shared)[ROW_WARPS], int turn) {
    x = lanes_sum(x);
    if (team_warps == 1) return x;
    int    warp = (int)threadIdx.x / WARP;
    float *slot = shared[turn & 1];
    if (threadIdx.x % WARP == 0) slot[warp] = x;
    __syncthreads();
    float sum = 0;
    for (int i = 0, first = warp / team_warps * team_warps; i < team_warps; i++) sum += slot[first + i];
    return sum;
}

/* Calls F<T, W, PACKS>(args...) for a shape found at run time. */
#define ROW_DISPATCH(F, T, shape, ...)                                                                                \
    do {                                                                                                              \
        switch ((shape).W == 1 ? -1 : (shape).packs) {                                                                \
        case -1: F<T, 1, 8>(__VA_ARGS__); break;                                                                      \
        case 1: F<T, PACK<T>, 1>(__VA_ARGS__); break;                                                                 \
        case 2: F<T, PACK<T>, 2>(__VA_ARGS__); break;                                                                 \
        case 3: F<T, PACK<T>, 3>(__VA_ARGS__); break;                                                                 \
        case 4: F<T, PACK<T>, 4>(__VA_ARGS__); break;                                                                 \
        case 5: case 6: case 7: case 8: F<T, PACK<T>, 8>(__VA_ARGS__); break;                                         \
        default: break;                                                                                               \
        }                                                                                                             \
    } while (0)

/* ---- sums over rows ------------------------------------------------------------------------------------------------- */

/* Gradients that sum over rows do so in at most this many runs of rows, one a block, and add the runs in order. */
constexpr int ROW_SUMS_MAX = 512;

/* out[c] += sum over p of partial[p * stride + c]   (runs, C), in an order that depends on runs alone. */
void cuda_add_partials(Device *dev, const char *op, float *out, const float *partial, int runs, int C, int stride);

/* Scratch of single operations, in bytes. */
size_t cuda_embedding_workspace(int N, int C, int V);
size_t cuda_sum_squares_workspace();

#endif
