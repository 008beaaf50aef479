/* classifier.cu - the loss of each row's target range and its gradient, in chunks of rows.
 *
 * Of a chunk there are float logits (rows, Vp), from the same product as logits_forward, and their gradient in the
 * table's dtype, which dgrad and wgrad turn into dinp and dweight; both live in the workspace. */
#include "kernels/cuda/matmul.cuh"

#include <stdio.h>

namespace {

enum { LOSS_THREADS = 256, CHUNK_ALIGN = 128 };
/* More rows a chunk: dgrad has more tiles to spread and dweight is read and written less often. */
const size_t CHUNK_BYTES = (size_t)256 << 20;

/* sum of exp(x - max) over what was seen; none: max = -infinity */
struct Tally {
    float max, sum;
};

__device__ __forceinline__ void tally_add(Tally &t, float x) {
    if (x > t.max) {
        t.sum = t.sum * expf(t.max - x) + 1.0f;
        t.max = x;
    } else {
        t.sum += expf(x - t.max);
    }
}

__device__ __forceinline__ Tally tally_merge(Tally a, Tally b) {
    float max = fmaxf(a.max, b.max);
    if (max == -INFINITY) return a;
    Tally t = {max, a.sum * expf(a.max - max) + b.sum * expf(b.max - max)};
    return t;
}

/* The same in every thread, merged in an order that depends on nothing. */
__device__ __forceinline__ Tally block_tally(Tally t, Tally *shared) {
    for (int lane = 16; lane; lane >>= 1) {
        Tally other = {__shfl_xor_sync(0xffffffffu, t.max, lane), __shfl_xor_sync(0xffffffffu, t.sum, lane)};
        t = threadIdx.x & lane ? tally_merge(other, t) : tally_merge(t, other);
    }
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = t;
    __syncthreads();
    t = shared[0];
    for (int w = 1; w < LOSS_THREADS / 32; w++) t = tally_merge(t, shared[w]);
    return t;
}

__device__ __forceinline__ void gradient_store(float *to, const float *v) {
    *(float4 *)to = make_float4(v[0], v[1], v[2], v[3]);
}
__device__ __forceinline__ void gradient_store(bf16 *to, const float *v) {
    ((__nv_bfloat162 *)to)[0] = __floats2bfloat162_rn(v[0], v[1]);
    ((__nv_bfloat162 *)to)[1] = __floats2bfloat162_rn(v[2], v[3]);
}

/* A block a row: losses[n], and dlogits = softmax over v < V minus softmax over the range (NULL: not wanted; may be the
 * logits themselves).  Vp is a multiple of 4. */
template <typename T>
__global__ void __launch_bounds__(LOSS_THREADS)
    loss_kernel(float *losses, T *dlogits, const float *logits, const int32_t *lo, const int32_t *hi, int V, int Vp) {
    __shared__ Tally shared[2][LOSS_THREADS / 32];
    const int n = blockIdx.x, from = lo[n], to = hi[n];
    const float *x = logits + (int64_t)n * Vp;
    T *d = dlogits + (int64_t)n * Vp;
    if (from < 0) {
        const float zeros[4] = {0, 0, 0, 0};
        if (threadIdx.x == 0) losses[n] = 0;
        if (dlogits)
            for (int v = 4 * threadIdx.x; v < Vp; v += 4 * LOSS_THREADS) gradient_store(d + v, zeros);
        return;
    }
    Tally all = {-INFINITY, 0}, range = {-INFINITY, 0};
    for (int v = 4 * threadIdx.x; v < V; v += 4 * LOSS_THREADS) {
        float4 four = *(const float4 *)(x + v);
        tally_add(all, four.x);
        if (v + 1 < V) tally_add(all, four.y);
        if (v + 2 < V) tally_add(all, four.z);
        if (v + 3 < V) tally_add(all, four.w);
    }
    for (int v = from + threadIdx.x; v < to; v += LOSS_THREADS) tally_add(range, x[v]);
    all = block_tally(all, shared[0]);
    range = block_tally(range, shared[1]);
    if (threadIdx.x == 0) losses[n] = (all.max + logf(all.sum)) - (range.max + logf(range.sum));
    if (!dlogits) return;
    for (int v = 4 * threadIdx.x; v < Vp; v += 4 * LOSS_THREADS) {
        float4 four = *(const float4 *)(x + v);
        float logit[4] = {four.x, four.y, four.z, four.w}, g[4];
        for (int e = 0; e < 4; e++) {
            g[e] = v + e < V ? expf(logit[e] - all.max) / all.sum : 0;
            if (v + e >= from && v + e < to) g[e] -= expf(logit[e] - range.max) / range.sum;
        }
        gradient_store(d + v, g);
    }
}

/* float gradients replace the logits, bf16 ones lie behind them. */
template <typename T> size_t row_bytes(int Vp) {
    return (sizeof(float) + (sizeof(T) == 4 ? 0 : sizeof(T))) * (size_t)Vp;
}

/* Rows a chunk, as many as CHUNK_BYTES hold, in chunks of about equal size; a pure function of the shape. */
template <typename T> int chunk_rows(int N, int Vp) {
    size_t fit = CHUNK_BYTES / row_bytes<T>(Vp) / CHUNK_ALIGN * CHUNK_ALIGN;
    int most = fit < CHUNK_ALIGN ? CHUNK_ALIGN : fit > (size_t)N ? round_up(N, CHUNK_ALIGN) : (int)fit;
    int rows = round_up(ceil_div(N, ceil_div(N, most)), CHUNK_ALIGN);
    return rows < N ? rows : N;
}

} // namespace

template <typename T> size_t cuda_classifier_workspace(const Device *dev, const KernelLimits *limits) {
    return product_scratch_bytes(dev) + (size_t)chunk_rows<T>(limits->N, limits->Vp) * row_bytes<T>(limits->Vp);
}

template <typename T>
void cuda_classifier(Device *dev, void *losses, void *dinp, void *dweight, const void *inp, const Weight *w,
                     const int32_t *lo, const int32_t *hi, int N, int V) {
    const char *op = "classifier";
    const int Vp = w->rows, C = w->cols;
    const size_t products = product_scratch_bytes(dev);
    size_t have;
    char *scratch = (char *)device_workspace(dev, &have);
    if (N <= 0 || device_error(dev)) return;
    if (Vp % 4 || V > Vp || w->layout != WEIGHT_ROWS) {
        device_fail(dev, op,
                    "takes a head whose rows are a multiple of 4 and at least V, as it was before weight_prepare()");
        return;
    }
    /* A workspace made for fewer rows serves in smaller chunks. */
    size_t fit = have > products ? (have - products) / row_bytes<T>(Vp) : 0;
    int rows = chunk_rows<T>(N, Vp);
    if (fit < (size_t)rows) rows = (int)fit;
    if (!rows) {
        cuda_scratch(dev, op, products + row_bytes<T>(Vp)); /* says how much is missing */
        return;
    }
    float *logits = (float *)(scratch + products);
    T *dlogits = sizeof(T) == sizeof(float) ? (T *)logits : (T *)(logits + (size_t)rows * (size_t)Vp);
    for (int n = 0; n < N; n += rows) {
        int count = N - n < rows ? N - n : rows;
        const T *x = (const T *)inp + (int64_t)n * C;
        cuda_logits_forward<T>(dev, logits, x, w, count);
        CUDA_LAUNCH(dev, op, loss_kernel<T>, (unsigned)count, LOSS_THREADS, 0, (float *)losses + n,
                    dinp || dweight ? dlogits : (T *)nullptr, (const float *)logits, lo + n, hi + n, V, Vp);
        if (dinp) cuda_matmul_dgrad<T>(dev, (T *)dinp + (int64_t)n * C, dlogits, w, count);
        if (dweight) cuda_matmul_wgrad<T>(dev, dweight, dlogits, x, count, Vp, C);
    }
}

#define OPERATIONS(T)                                                                                                  \
    template size_t cuda_classifier_workspace<T>(const Device *, const KernelLimits *);                                \
    template void cuda_classifier<T>(Device *, void *, void *, void *, const void *, const Weight *, const int32_t *,  \
                                     const int32_t *, int, int);
OPERATIONS(float)
OPERATIONS(bf16)
