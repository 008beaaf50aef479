/* embedding.cu - rows of a table by token, and the table's gradient: dweight[tokens[n]] += dout[n], the same bits every
 * time.
 *
 * The rows of each token are listed, ascending, by a counting sort: count (integer atomics: any order gives the same
 * counts), scan over the vocabulary, scatter.  Atomics hand out the places inside a token's list in any order, so each
 * list is then sorted.  Row numbers of a list are distinct: the result does not depend on how it was reached.
 * Lists are summed in chunks of CHUNK rows, in float: the first chunk onto dweight itself, which is all there is for most
 * tokens, the others into partial rows that are added after it in order.
 *
 * Forward moves 2 N C elements; backward reads N C elements and reads and writes one float row a distinct token. */
#include "kernels/cuda/rows.cuh"

namespace {

constexpr int CHUNK = 32, BLOCK = 256, WARPS = BLOCK / WARP, SCAN_BLOCK = 1024;

template <typename T, int W> __global__ void embedding_forward_kernel(T *out, const int32_t *tokens, const T *weight, int N, int C) {
    int n = (int)blockIdx.x * WARPS + (int)threadIdx.x / WARP;
    if (n >= N) return;
    const T *from = weight + (int64_t)tokens[n] * C;
    T       *to = out + (int64_t)n * C;
    for (int c = (int)threadIdx.x % WARP * W; c < C; c += WARP * W) pack_store<T, W>(to + c, pack_load<T, W>(from + c));
}

/* ---- listing the rows of each token -------------------------------------------------------------------------------- */

struct Lists {
    int32_t *count;   /* (V) rows of a token */
    int32_t *start;   /* (V+1) its first place in `rows` */
    int32_t *extra;   /* (V+1) its first chunk after the first, among all such chunks */
    int32_t *place;   /* (N) of row n in the list of its token, before sorting */
    int32_t *rows;    /* (N) */
    int32_t *owner;   /* (N / CHUNK) token of an extra chunk */
    float   *partial; /* (N / CHUNK, C) sum of an extra chunk */
    size_t   bytes;
};

/* base may be NULL: bytes alone count then. */
Lists lists_in(char *base, int N, int C, int V) {
    Lists  l = {};
    size_t chunks = (size_t)(N / CHUNK), n = (size_t)N, v = (size_t)V;
    auto   take = [&](size_t bytes) {
        char *p = base ? base + l.bytes : nullptr;
        l.bytes += (bytes + 255) / 256 * 256;
        return p;
    };
    l.count = (int32_t *)take(4 * v), l.start = (int32_t *)take(4 * (v + 1)), l.extra = (int32_t *)take(4 * (v + 1));
    l.place = (int32_t *)take(4 * n), l.rows = (int32_t *)take(4 * n), l.owner = (int32_t *)take(4 * chunks);
    l.partial = (float *)take(sizeof(float) * chunks * (size_t)C);
    return l;
}

__global__ void clear_kernel(int32_t *count, int V) {
    int v = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (v < V) count[v] = 0;
}

__global__ void count_kernel(Lists l, const int32_t *tokens, int N) {
    int n = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (n < N) l.place[n] = atomicAdd(&l.count[tokens[n]], 1);
}

__device__ __forceinline__ int extra_chunks(int count) { return count > CHUNK ? (count - 1) / CHUNK : 0; }

/* Exclusive sums over the vocabulary by one block; each thread takes neighbouring tokens. */
__global__ void scan_kernel(Lists l, int V) {
    __shared__ int2 sums[SCAN_BLOCK];
    int t = (int)threadIdx.x, each = (V + SCAN_BLOCK - 1) / SCAN_BLOCK, first = t * each, end = min(first + each, V);
    int2 own = make_int2(0, 0);
    for (int v = first; v < end; v++) own.x += l.count[v], own.y += extra_chunks(l.count[v]);
    sums[t] = own;
    __syncthreads();
    for (int o = 1; o < SCAN_BLOCK; o *= 2) {
        int2 left = t >= o ? sums[t - o] : make_int2(0, 0);
        __syncthreads();
        sums[t].x += left.x, sums[t].y += left.y;
        __syncthreads();
    }
    int2 at = make_int2(sums[t].x - own.x, sums[t].y - own.y);
    for (int v = first; v < end; v++) {
        l.start[v] = at.x, l.extra[v] = at.y;
        at.x += l.count[v], at.y += extra_chunks(l.count[v]);
    }
    if (t == SCAN_BLOCK - 1) l.start[V] = sums[t].x, l.extra[V] = sums[t].y;
}

__global__ void scatter_kernel(Lists l, const int32_t *tokens, int N) {
    int n = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (n >= N) return;
    int v = tokens[n], place = l.place[n];
    l.rows[l.start[v] + place] = n;
    if (place >= CHUNK && place % CHUNK == 0) l.owner[l.extra[v] + place / CHUNK - 1] = v;
}

/* A list longer than a warp, by the whole block: each row sets its bit, and the bits are read back in order. */
__device__ void sort_long(int32_t *rows, int count, uint32_t *bits, int words, int *sums) {
    int t = (int)threadIdx.x, each = (words + BLOCK - 1) / BLOCK, first = t * each, end = min(first + each, words);
    for (int i = t; i < words; i += BLOCK) bits[i] = 0;
    __syncthreads();
    for (int i = t; i < count; i += BLOCK) atomicOr(&bits[rows[i] / 32], 1u << rows[i] % 32);
    __syncthreads();
    int own = 0;
    for (int i = first; i < end; i++) own += __popc(bits[i]);
    sums[t] = own;
    __syncthreads();
    for (int o = 1; o < BLOCK; o *= 2) {
        int left = t >= o ? sums[t - o] : 0;
        __syncthreads();
        sums[t] += left;
        __syncthreads();
    }
    int at = sums[t] - own;
    for (int i = first; i < end; i++)
        for (uint32_t word = bits[i]; word; word &= word - 1) rows[at++] = i * 32 + __ffs((int)word) - 1;
    __syncthreads();
}

/* A warp sorts the list of its token by ranks; what is longer waits for the block. */
__global__ void sort_kernel(Lists l, int V, int words) {
    __shared__ int sums[BLOCK];
    DYNAMIC_SHARED(uint32_t, bits); /* (words) */
    int first = (int)blockIdx.x * WARPS, v = first + (int)threadIdx.x / WARP, lane = (int)threadIdx.x % WARP;
    int count = v < V ? l.count[v] : 0;
    if (count > 1 && count <= WARP) { /* uniform in a warp */
        int32_t *rows = l.rows + l.start[v];
        int      row = lane < count ? rows[lane] : INT32_MAX, rank = 0;
        for (int i = 0; i < count; i++) rank += __shfl_sync(0xffffffffu, row, i) < row;
        __syncwarp();
        if (lane < count) rows[rank] = row;
    }
    for (int u = first; u < min(first + WARPS, V); u++)
        if (l.count[u] > WARP) sort_long(l.rows + l.start[u], l.count[u], bits, words, sums);
}

/* ---- summing -------------------------------------------------------------------------------------------------------- */

/* One warp a chunk and a stretch of WARP * W columns.  Warps [0, V) take first chunks, those after them extra ones. */
template <typename T, int W> __global__ void sum_kernel(float *dweight, Lists l, const T *dout, int C, int V) {
    int w = (int)blockIdx.x * WARPS + (int)threadIdx.x / WARP, lane = (int)threadIdx.x % WARP;
    int c = ((int)blockIdx.y * WARP + lane) * W, extra = w - V;
    if (extra >= l.extra[V]) return;
    int v = extra < 0 ? w : l.owner[extra], chunk = extra < 0 ? 0 : 1 + extra - l.extra[v];
    int count = min(l.count[v] - chunk * CHUNK, CHUNK);
    const int32_t *rows = l.rows + l.start[v] + chunk * CHUNK;
    if (count <= 0) return;
    int    mine = lane < count ? rows[lane] : 0; /* a chunk is as long as a warp is wide */
    float *to = extra < 0 ? dweight + (int64_t)v * C + c : l.partial + (int64_t)extra * C + c;
    Pack<float, W> sum = {};
    if (extra < 0 && c < C) sum = pack_load<float, W>(to);
#pragma unroll 8
    for (int i = 0; i < count; i++) {
        int64_t n = __shfl_sync(0xffffffffu, mine, i);
        if (c >= C) continue;
        Pack<T, W> x = pack_load<T, W>(dout + n * C + c);
        for (int j = 0; j < W; j++) sum.v[j] += to_float(x.v[j]);
    }
    if (c < C) pack_store<float, W>(to, sum);
}

/* dweight[v, c] += the partial sums of its extra chunks, ascending. */
__global__ void add_extra_kernel(float *dweight, Lists l, int C, int V) {
    int v = (int)blockIdx.x * WARPS + (int)threadIdx.x / WARP, lane = (int)threadIdx.x % WARP;
    if (v >= V || l.extra[v] == l.extra[v + 1]) return;
    for (int c = lane; c < C; c += WARP) {
        float sum = dweight[(int64_t)v * C + c];
#pragma unroll 8
        for (int e = l.extra[v]; e < l.extra[v + 1]; e++) sum += l.partial[(int64_t)e * C + c];
        dweight[(int64_t)v * C + c] = sum;
    }
}

template <typename T, int W>
void sum_launch(Device *dev, const char *op, float *dweight, const Lists &l, const T *dout, int N, int C, int V) {
    dim3 grid((unsigned)ceil_div((int64_t)V + N / CHUNK, WARPS), (unsigned)ceil_div(C, WARP * W));
    CUDA_LAUNCH(dev, op, (sum_kernel<T, W>), grid, BLOCK, 0, dweight, l, dout, C, V);
}

} // namespace

size_t cuda_embedding_workspace(int N, int C, int V) { return lists_in(nullptr, N, C, V).bytes; }

template <typename T>
void cuda_embedding_forward(Device *dev, void *out, const int32_t *tokens, const void *weight, int N, int C) {
    const char *op = "embedding_forward";
    if (N <= 0) return;
    if (C % PACK<T>)
        CUDA_LAUNCH(dev, op, (embedding_forward_kernel<T, 1>), ceil_div(N, WARPS), BLOCK, 0, (T *)out, tokens, (const T *)weight,
                    N, C);
    else
        CUDA_LAUNCH(dev, op, (embedding_forward_kernel<T, PACK<T>>), ceil_div(N, WARPS), BLOCK, 0, (T *)out, tokens,
                    (const T *)weight, N, C);
}

template <typename T>
void cuda_embedding_backward(Device *dev, void *dweight, const void *dout, const int32_t *tokens, int N, int C, int V) {
    const char *op = "embedding_backward";
    if (N <= 0) return;
    char *scratch = (char *)cuda_scratch(dev, op, cuda_embedding_workspace(N, C, V));
    if (!scratch) return;
    Lists  l = lists_in(scratch, N, C, V);
    int    words = ceil_div(N, 32), warps = ceil_div(V, WARPS);
    float *dw = (float *)dweight;
    CUDA_LAUNCH(dev, op, clear_kernel, ceil_div(V, BLOCK), BLOCK, 0, l.count, V);
    CUDA_LAUNCH(dev, op, count_kernel, ceil_div(N, BLOCK), BLOCK, 0, l, tokens, N);
    CUDA_LAUNCH(dev, op, scan_kernel, 1, SCAN_BLOCK, 0, l, V);
    CUDA_LAUNCH(dev, op, scatter_kernel, ceil_div(N, BLOCK), BLOCK, 0, l, tokens, N);
    CUDA_LAUNCH(dev, op, sort_kernel, warps, BLOCK, sizeof(uint32_t) * (size_t)words, l, V, words);
    if (C % PACK<T>)
        sum_launch<T, 1>(dev, op, dw, l, (const T *)dout, N, C, V);
    else
        sum_launch<T, PACK<T>>(dev, op, dw, l, (const T *)dout, N, C, V);
    CUDA_LAUNCH(dev, op, add_extra_kernel, warps, BLOCK, 0, dw, l, C, V);
}

#define INSTANTIATE(T)                                                                                                \
    template void cuda_embedding_forward<T>(Device *, void *, const int32_t *, const void *, int, int);               \
    template void cuda_embedding_backward<T>(Device *, void *, const void *, const int32_t *, int, int, int);
INSTANTIATE(float)
INSTANTIATE(bf16)
