/* matmul_end.cuh - from registers to global memory: what happens to finished sums (enum Ending), 16 rows at a time
 * through shared memory, so that every store is 16 bytes a thread and whole lines a warp. */
#ifndef EHR_KERNELS_CUDA_MATMUL_END_CUH
#define EHR_KERNELS_CUDA_MATMUL_END_CUH
#include "kernels/cuda/matmul.cuh"
#include "kernels/cuda/swiglu.cuh"

static __device__ __forceinline__ float value_of(float x) { return x; }
static __device__ __forceinline__ float value_of(bf16 x) { return __bfloat162float(x); }
template <typename T> static __device__ __forceinline__ T rounded(float x);
template <> __device__ __forceinline__ float rounded<float>(float x) { return x; }
template <> __device__ __forceinline__ bf16 rounded<bf16>(float x) { return __float2bfloat16_rn(x); }

/* 16 bytes of consecutive elements. */
template <typename O> struct alignas(16) Vector {
    static constexpr int COUNT = 16 / (int)sizeof(O);
    O v[COUNT];
};

/* Where 16 rows of results go: (rows, columns) at out, from (row, column) on. */
template <typename O> struct Place {
    O *out;
    int64_t stride;
    int row, column, rows, columns;
    bool vectors; /* rows start at multiples of 16 bytes */
};

/* 16 rows of WIDTH columns in a warp's own shared memory: fragments go in, whole rows come out.  The 8 elements between
 * rows keep both ways free of bank conflicts.  Every thread always has the same parts of the rows. */
template <typename S, int WIDTH> struct Slab {
    static constexpr int STRIDE = WIDTH + 8;
    template <typename O> static constexpr int TURNS = (16 * WIDTH / Vector<O>::COUNT + 31) / 32;
    S *data;

    __device__ __forceinline__ void put(int row, int column, float x, float y) {
        S *to = data + row * STRIDE + column;
        if (sizeof(S) == 4) *(float2 *)to = make_float2(x, y);
        else *(__nv_bfloat162 *)to = __floats2bfloat162_rn(x, y);
    }
    __device__ __forceinline__ void put_fragments(const float (*sum)[4]) {
        const int g = (threadIdx.x & 31) >> 2, t = (threadIdx.x & 3) * 2;
#pragma unroll
        for (int j = 0; j < WIDTH / 8; j++) {
            put(g, 8 * j + t, sum[j][0], sum[j][1]);
            put(g + 8, 8 * j + t, sum[j][2], sum[j][3]);
        }
    }

    /* This thread's part `turn`: row, column, and how many of its elements are inside; false: none. */
    template <typename O>
    static __device__ __forceinline__ bool part(const Place<O> &p, int turn, int *r, int *c, int *n) {
        constexpr int V = Vector<O>::COUNT, PER_ROW = WIDTH / V;
        const int i = turn * 32 + (threadIdx.x & 31);
        *r = i / PER_ROW;
        *c = i % PER_ROW * V;
        *n = min(V, p.columns - p.column - *c);
        return *r < 16 && p.row + *r<p.rows && * n> 0;
    }

    /* What will be added to the rows, while the sums are still under way: laid out as out. */
    template <typename O>
    static __device__ __forceinline__ void fetch(const Place<O> &p, const O *add, Vector<O> *base) {
#pragma unroll
        for (int turn = 0; turn < TURNS<O>; turn++) {
            int r, c, n;
            if (part(p, turn, &r, &c, &n) && p.vectors && n == Vector<O>::COUNT)
                base[turn] = *(const Vector<O> *)(add + (p.row + r) * p.stride + p.column + c);
        }
    }

    /* add: laid out as out, added first in float, base what fetch() made of it; or both NULL. */
    template <typename O>
    __device__ __forceinline__ void write(const Place<O> &p, const O *add, const Vector<O> *base) const {
        constexpr int V = Vector<O>::COUNT;
        __syncwarp();
#pragma unroll
        for (int turn = 0; turn < TURNS<O>; turn++) {
            int r, c, n;
            if (!part(p, turn, &r, &c, &n)) continue;
            const S *from = data + r * STRIDE + c;
            const int64_t at = (p.row + r) * p.stride + p.column + c;
            if (p.vectors && n == V) {
                alignas(16) S x[V];
                Vector<O> y;
#pragma unroll
                for (int q = 0; q < V * (int)sizeof(S) / 16; q++) ((uint4 *)x)[q] = ((const uint4 *)from)[q];
#pragma unroll
                for (int e = 0; e < V; e++)
                    y.v[e] = rounded<O>(add ? value_of(base[turn].v[e]) + value_of(x[e]) : value_of(x[e]));
                if (sizeof(S) == sizeof(O) && !add) *(uint4 *)(p.out + at) = *(uint4 *)x;
                else *(Vector<O> *)(p.out + at) = y;
            } else {
#pragma unroll 1
                for (int e = 0; e < n; e++)
                    p.out[at + e] = rounded<O>(add ? value_of(add[at + e]) + value_of(from[e]) : value_of(from[e]));
            }
        }
        __syncwarp();
    }
};

/* Below: the 16 rows from `row` on, columns from `column` on, of the tile; sum[j][e]: columns 8 j + 2 t + e % 2 of rows
 * g and g + 8 (e / 2), where g = lane / 4, t = lane % 4. */

/* END_SWIGLU: gates and ups in turns, 8 columns each. */
template <typename T, int WIDTH>
static __device__ __forceinline__ void rows_swiglu(const Product &p, void *out, char *slab, const float (*sum)[4],
                                                   int row, int column) {
    const int F = p.N / 2;
    float half[WIDTH / 16][4];
    Slab<T, WIDTH / 2> s = {(T *)slab};
    Place<T> to = {(T *)p.gate_up, 2 * F, row, column / 2, p.M, F, (bool)p.vectors};
    for (int side = 0; p.gate_up && side < 2; side++) {
#pragma unroll
        for (int j = 0; j < WIDTH / 16; j++)
            for (int e = 0; e < 4; e++) half[j][e] = side ? sum[2 * j + 1][e] : sum[2 * j][e];
        s.put_fragments(half);
        s.write(to, (const T *)nullptr, (const Vector<T> *)nullptr);
        to.out += F;
    }
#pragma unroll
    for (int j = 0; j < WIDTH / 16; j++)
        for (int e = 0; e < 4; e++) /* as swiglu_forward() makes it of what gate_up keeps */
            half[j][e] = swiglu_value<T>(value_of(rounded<T>(sum[2 * j][e])), value_of(rounded<T>(sum[2 * j + 1][e])));
    s.put_fragments(half);
    to.out = (T *)out;
    to.stride = p.out_stride;
    s.write(to, (const T *)nullptr, (const Vector<T> *)nullptr);
}

/* END_STORE, END_FLOAT: as O. */
template <typename O, int WIDTH>
static __device__ __forceinline__ void rows_store(const Product &p, void *out, char *slab, const float (*sum)[4],
                                                  int row, int column) {
    Slab<O, WIDTH> s = {(O *)slab};
    Place<O> to = {(O *)out, p.out_stride, row, column, p.M, p.N, (bool)p.vectors};
    s.put_fragments(sum);
    s.write(to, (const O *)nullptr, (const Vector<O> *)nullptr);
}

/* END_ADD, END_ACCUMULATE: WIDTH columns, PARTS times; what is added to AHEAD parts is asked for at once, since the
 * wait for it is much of what this ending costs. */
template <typename O, int WIDTH, int PARTS, int AHEAD>
static __device__ __forceinline__ void rows_add(const Product &p, void *out, const void *add, char *slab,
                                                const float (*sum)[4], int row, int column) {
    typedef Slab<float, WIDTH> Floats;
    constexpr int TURNS = Floats::template TURNS<O>;
    static_assert(PARTS % AHEAD == 0, "whole groups");
    Floats s = {(float *)slab};
    Vector<O> before[AHEAD][TURNS];
#pragma unroll
    for (int i = 0; i < PARTS; i++) {
        Place<O> to = {(O *)out, p.out_stride, row, column + WIDTH * i, p.M, p.N, (bool)p.vectors};
#pragma unroll
        for (int j = 0; i % AHEAD == 0 && j < AHEAD; j++) {
            Place<O> from = to;
            from.column += WIDTH * j;
            s.fetch(from, (const O *)add, before[j]);
        }
        s.put_fragments(sum + WIDTH / 8 * i);
        s.write(to, (const O *)add, before[i % AHEAD]);
    }
}

/* Everything but END_ADD. */
template <typename T, int WIDTH>
static __device__ __forceinline__ void rows_end(const Product &p, void *out, char *slab, const float (*sum)[4], int row,
                                                int column) {
    if (p.ending == END_SWIGLU) rows_swiglu<T, WIDTH>(p, out, slab, sum, row, column);
    else if (p.ending == END_STORE && sizeof(T) == 2) rows_store<T, WIDTH>(p, out, slab, sum, row, column);
    else if (p.ending == END_ACCUMULATE) rows_add<float, WIDTH, 1, 1>(p, out, out, slab, sum, row, column);
    else rows_store<float, WIDTH>(p, out, slab, sum, row, column);
}

#endif
