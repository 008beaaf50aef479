/* rope.cu - RMSNorm of each query and key head, then rotation of the pairs (i, i + D/2); and the gradient.
 *
 * D / 8 lanes a head: a lane holds 4 neighbours of the first half and their 4 partners of the second, so the rotation
 * needs no other lane.  A warp takes the heads of one token in turns and reads the token's angles once.
 * Forward moves 2 N (H+G) D elements, backward 3, and both N D floats of angles. */
#include "kernels/cuda/rows.cuh"

namespace {

constexpr int HALF = 4, BLOCK = 256, WARPS = BLOCK / WARP; /* elements a lane holds of each half of a head */

/* A lane's part of a head: 4 of the first half, their 4 partners. */
struct Part {
    float lo[HALF], hi[HALF];
};

template <typename T> __device__ __forceinline__ Part part_load(const T *head, int at, int D) {
    Pack<T, HALF> a = pack_load<T, HALF>(head + at), b = pack_load<T, HALF>(head + at + D / 2);
    Part          p;
    for (int j = 0; j < HALF; j++) p.lo[j] = to_float(a.v[j]), p.hi[j] = to_float(b.v[j]);
    return p;
}

template <typename T> __device__ __forceinline__ void part_store(T *head, int at, int D, const Part &p) {
    Pack<T, HALF> a, b;
    for (int j = 0; j < HALF; j++) a.v[j] = from_float<T>(p.lo[j]), b.v[j] = from_float<T>(p.hi[j]);
    pack_store<T, HALF>(head + at, a);
    pack_store<T, HALF>(head + at + D / 2, b);
}

/* sum += a b */
__device__ __forceinline__ void part_add(Part &sum, const Part &a, const Part &b) {
    for (int j = 0; j < HALF; j++) sum.lo[j] = fmaf(a.lo[j], b.lo[j], sum.lo[j]), sum.hi[j] = fmaf(a.hi[j], b.hi[j], sum.hi[j]);
}

/* Where a lane stands: which of the warp's heads, its elements, the row of its warp. */
template <int D> struct Place {
    static constexpr int LANES = D / (2 * HALF), HEADS = WARP / LANES;
    int head, lane, at, warp;
    __device__ Place() {
        int l = (int)threadIdx.x % WARP;
        head = l / LANES, lane = l % LANES, at = lane * HALF;
        warp = (int)blockIdx.x * WARPS + (int)threadIdx.x / WARP;
    }
};

template <typename T, int D>
__global__ void __launch_bounds__(BLOCK) norm_rope_forward_kernel(T *qk, float *rstd, const T *qkv, const T *q_weight, const T *k_weight,
                                         const int32_t *positions, const float *rope, float eps, int N, int H, int G) {
    Place<D> p;
    int64_t  n = p.warp;
    if (n >= N) return;
    Part angle = part_load(rope + (int64_t)positions[n] * D, p.at, D); /* cosines, sines */
    Part qw = part_load(q_weight, p.at, D), kw = part_load(k_weight, p.at, D);
    Part next = {};
    if (p.head < H + G) next = part_load(qkv + (n * (H + 2 * G) + p.head) * D, p.at, D);
    for (int first = 0; first < H + G; first += p.HEADS) { /* every lane takes part in the sums */
        int   h = first + p.head;
        bool  mine = h < H + G;
        Part  x = next;
        float squares = 0;
        if (h + p.HEADS < H + G) next = part_load(qkv + (n * (H + 2 * G) + h + p.HEADS) * D, p.at, D);
        for (int j = 0; j < HALF; j++) squares = fmaf(x.lo[j], x.lo[j], fmaf(x.hi[j], x.hi[j], squares));
        float r = rsqrtf(lanes_sum(squares, p.LANES) / (float)D + eps);
        if (!mine) continue;
        if (rstd && p.lane == 0) rstd[n * (H + G) + h] = r;
        Part y;
        for (int j = 0; j < HALF; j++) {
            float a = x.lo[j] * r * (h < H ? qw.lo[j] : kw.lo[j]), b = x.hi[j] * r * (h < H ? qw.hi[j] : kw.hi[j]);
            y.lo[j] = a * angle.lo[j] - b * angle.hi[j];
            y.hi[j] = b * angle.lo[j] + a * angle.hi[j];
        }
        part_store(qk + (n * (H + G) + h) * D, p.at, D, y);
    }
}

/* The rotation turned back, then the norm's gradient (rmsnorm.cu).  partial (blocks, 2 D): this block's sums for
 * dq_weight, then for dk_weight. */
template <typename T, int D>
__global__ void __launch_bounds__(BLOCK) norm_rope_backward_kernel(T *dqkv, float *partial, const T *dqk, const T *qkv, const T *q_weight,
                                          const T *k_weight, const float *rstd, const int32_t *positions,
                                          const float *rope, int N, int H, int G) {
    __shared__ float sums[WARPS * (WARP / (D / (2 * HALF)))][2 * D]; /* of each of the block's heads */
    Place<D> p;
    Part     dqw = {}, dkw = {}, qw = part_load(q_weight, p.at, D), kw = part_load(k_weight, p.at, D);
    for (int64_t n = p.warp; n < N; n += (int)gridDim.x * WARPS) {
        Part angle = part_load(rope + (int64_t)positions[n] * D, p.at, D);
        for (int first = 0; first < H + G; first += p.HEADS) {
            int   h = first + p.head;
            bool  mine = h < H + G, query = h < H;
            Part  x = {}, dy = {}, g, w = query ? qw : kw;
            float r = 0, dot = 0;
            if (mine) {
                x = part_load(qkv + (n * (H + 2 * G) + h) * D, p.at, D);
                dy = part_load(dqk + (n * (H + G) + h) * D, p.at, D);
                r = rstd[n * (H + G) + h];
            }
            for (int j = 0; j < HALF; j++) {
                g.lo[j] = dy.lo[j] * angle.lo[j] + dy.hi[j] * angle.hi[j];
                g.hi[j] = dy.hi[j] * angle.lo[j] - dy.lo[j] * angle.hi[j];
                x.lo[j] *= r, x.hi[j] *= r;
                dot = fmaf(w.lo[j] * g.lo[j], x.lo[j], fmaf(w.hi[j] * g.hi[j], x.hi[j], dot));
            }
            float mean = lanes_sum(dot, p.LANES) / (float)D;
            if (!mine) continue;
            if (query) part_add(dqw, g, x);
            else part_add(dkw, g, x);
            for (int j = 0; j < HALF; j++) {
                x.lo[j] = r * (w.lo[j] * g.lo[j] - x.lo[j] * mean), x.hi[j] = r * (w.hi[j] * g.hi[j] - x.hi[j] * mean);
            }
            part_store(dqkv + (n * (H + 2 * G) + h) * D, p.at, D, x);
        }
    }
    if (!partial) return;
    float *own = sums[(int)threadIdx.x / WARP * p.HEADS + p.head];
    for (int j = 0; j < HALF; j++) {
        own[p.at + j] = dqw.lo[j], own[p.at + D / 2 + j] = dqw.hi[j];
        own[D + p.at + j] = dkw.lo[j], own[D + p.at + D / 2 + j] = dkw.hi[j];
    }
    __syncthreads();
    for (int c = (int)threadIdx.x; c < 2 * D; c += BLOCK) {
        float sum = 0;
        for (int i = 0; i < WARPS * p.HEADS; i++) sum += sums[i][c];
        partial[(int64_t)blockIdx.x * 2 * D + c] = sum;
    }
}

int head_fits(Device *dev, const char *op, int N, int D) {
    if (D == 64 || D == 128) return N > 0;
    device_fail(dev, op, "expected heads of 64 or 128");
    return 0;
}

} // namespace

template <typename T>
void cuda_qk_norm_rope_forward(Device *dev, void *qk, void *rstd, const void *qkv, const void *q_weight,
                               const void *k_weight, const int32_t *positions, const void *rope, float eps, int N,
                               int H, int G, int D) {
    const char *op = "qk_norm_rope_forward";
    if (!head_fits(dev, op, N, D)) return;
    auto kernel = D == 64 ? norm_rope_forward_kernel<T, 64> : norm_rope_forward_kernel<T, 128>;
    CUDA_LAUNCH(dev, op, kernel, ceil_div(N, WARPS), BLOCK, 0, (T *)qk, (float *)rstd, (const T *)qkv,
                (const T *)q_weight, (const T *)k_weight, positions, (const float *)rope, eps, N, H, G);
}

template <typename T>
void cuda_qk_norm_rope_backward(Device *dev, void *dqkv, void *dq_weight, void *dk_weight, const void *dqk,
                                const void *qkv, const void *q_weight, const void *k_weight, const void *rstd,
                                const int32_t *positions, const void *rope, int N, int H, int G, int D) {
    const char *op = "qk_norm_rope_backward";
    if (!head_fits(dev, op, N, D)) return;
    int    blocks = ceil_div(N, WARPS);
    float *partial = nullptr;
    if (blocks > ROW_SUMS_MAX) blocks = ROW_SUMS_MAX;
    if ((dq_weight || dk_weight) && !(partial = (float *)cuda_scratch(dev, op, sizeof(float) * 2 * (size_t)(blocks * D))))
        return;
    auto kernel = D == 64 ? norm_rope_backward_kernel<T, 64> : norm_rope_backward_kernel<T, 128>;
    CUDA_LAUNCH(dev, op, kernel, blocks, BLOCK, 0, (T *)dqkv, partial, (const T *)dqk, (const T *)qkv,
                (const T *)q_weight, (const T *)k_weight, (const float *)rstd, positions, (const float *)rope, N, H, G);
    if (dq_weight) cuda_add_partials(dev, op, (float *)dq_weight, partial, blocks, D, 2 * D);
    if (dk_weight) cuda_add_partials(dev, op, (float *)dk_weight, partial + D, blocks, D, 2 * D);
}

#define INSTANTIATE(T)                                                                                                \
    template void cuda_qk_norm_rope_forward<T>(Device *, void *, void *, const void *, const void *, const void *,    \
                                               const int32_t *, const void *, float, int, int, int, int);             \
    template void cuda_qk_norm_rope_backward<T>(Device *, void *, void *, void *, const void *, const void *,         \
                                                const void *, const void *, const void *, const int32_t *,            \
                                                const void *, int, int, int, int);
INSTANTIATE(float)
INSTANTIATE(bf16)
