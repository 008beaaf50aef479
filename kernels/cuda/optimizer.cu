/* optimizer.cu - AdamW over ranges of flat arenas, and the sum of squares that clipping needs.
 *
 * AdamW moves 28 bytes an element (param, m, v in and out, grad in) and 2 or 4 more where there is a working copy; the sum
 * reads 4.  An element's bits do not depend on the range, block or thread that it falls to. */
#include "kernels/cuda/rows.cuh"

namespace {

constexpr int BLOCK = 256, LANE = 4, GROUPS = 4, SPAN = BLOCK * LANE * GROUPS; /* elements of a thread's load; of a block */
constexpr int RANGES_MAX = 64; /* of one launch: they travel as its argument */

/* Ranges are cut into spans of SPAN elements, one a block. */
struct Ranges {
    int64_t offset[RANGES_MAX], count[RANGES_MAX];
    int     first_block[RANGES_MAX + 1];
    uint8_t decay[RANGES_MAX], aligned[RANGES_MAX]; /* aligned: vectors may begin at offset - phase */
    uint8_t phase[RANGES_MAX];
    int     n;
};

struct Scalars {
    float beta1, rest1, beta2, rest2, eps, scale, rate, decay, correct1, correct2;
};

__device__ __forceinline__ void adamw_element(float &p, float &m, float &v, float grad, const Scalars &s) {
    float g = grad * s.scale;
    m = fmaf(s.rest1, g, s.beta1 * m);
    v = fmaf(s.rest2 * g, g, s.beta2 * v);
    float move = (m / s.correct1) / (sqrtf(v / s.correct2) + s.eps);
    p = fmaf(-s.rate, fmaf(s.decay, p, move), p);
}

template <typename T>
__global__ void __launch_bounds__(BLOCK)
    adamw_kernel(float *param, T *out, float *m, float *v, const float *grad, const Ranges ranges, const AdamwStep *step) {
    __shared__ Scalars shared;
    if (step->skip) return;
    if (threadIdx.x == 0) {
        shared.beta1 = step->beta1, shared.rest1 = 1.0f - step->beta1;
        shared.beta2 = step->beta2, shared.rest2 = 1.0f - step->beta2;
        shared.eps = step->eps, shared.scale = step->grad_scale, shared.rate = step->learning_rate;
        shared.decay = step->weight_decay;
        shared.correct1 = (float)(1 - pow((double)step->beta1, (double)step->step));
        shared.correct2 = (float)(1 - pow((double)step->beta2, (double)step->step));
    }
    int r = 0;
    while (r + 1 < ranges.n && (int)blockIdx.x >= ranges.first_block[r + 1]) r++;
    /* Groups of LANE start at an aligned address; the first and last of a range may stick out of it. */
    int64_t begin = ranges.offset[r], end = begin + ranges.count[r];
    int64_t base = begin - ranges.phase[r] + (int64_t)((int)blockIdx.x - ranges.first_block[r]) * SPAN;
    Pack<float, LANE> p[GROUPS], mean[GROUPS], square[GROUPS], g[GROUPS];
#pragma unroll
    for (int i = 0; i < GROUPS; i++) { /* on its way while thread 0 takes its powers */
        int64_t at = base + (i * BLOCK + (int)threadIdx.x) * LANE;
        if (!ranges.aligned[r] || at < begin || at + LANE > end) continue;
        p[i] = pack_load<float, LANE>(param + at), g[i] = pack_load<float, LANE>(grad + at);
        mean[i] = pack_load<float, LANE>(m + at), square[i] = pack_load<float, LANE>(v + at);
    }
    __syncthreads();
    Scalars s = shared;
    if (!ranges.decay[r]) s.decay = 0;
#pragma unroll
    for (int i = 0; i < GROUPS; i++) {
        int64_t at = base + (i * BLOCK + (int)threadIdx.x) * LANE;
        if (ranges.aligned[r] && at >= begin && at + LANE <= end) {
            Pack<T, LANE> copy;
            for (int j = 0; j < LANE; j++) {
                adamw_element(p[i].v[j], mean[i].v[j], square[i].v[j], g[i].v[j], s);
                copy.v[j] = from_float<T>(p[i].v[j]);
            }
            pack_store<float, LANE>(param + at, p[i]);
            pack_store<float, LANE>(m + at, mean[i]), pack_store<float, LANE>(v + at, square[i]);
            if (out) pack_store<T, LANE>(out + at, copy);
            continue;
        }
#pragma unroll 1
        for (int64_t k = at > begin ? at : begin; k < at + LANE && k < end; k++) {
            float a = param[k], b = m[k], c = v[k];
            adamw_element(a, b, c, grad[k], s);
            param[k] = a, m[k] = b, v[k] = c;
            if (out) out[k] = from_float<T>(a);
        }
    }
}

int phase_of(const void *p, int64_t offset, size_t size) {
    return (int)((((uintptr_t)p / size) + (uintptr_t)offset) % LANE);
}

/* The arenas' pointers may be anything; vectors need all of them to be aligned at the same elements. */
void range_add(Ranges *to, const AdamwRange *from, const float *param, const void *out, size_t out_size, const float *m,
               const float *v, const float *grad) {
    int r = to->n++, phase = phase_of(param, from->offset, sizeof *param);
    to->offset[r] = from->offset, to->count[r] = from->count, to->decay[r] = (uint8_t)(from->decay != 0);
    to->aligned[r] = phase_of(m, from->offset, sizeof *m) == phase && phase_of(v, from->offset, sizeof *v) == phase &&
                     phase_of(grad, from->offset, sizeof *grad) == phase &&
                     (!out || phase_of(out, from->offset, out_size) == phase);
    to->phase[r] = (uint8_t)phase;
    to->first_block[r + 1] = to->first_block[r] + ceil_div(from->count + phase, SPAN);
}

} // namespace

template <typename T>
void cuda_adamw(Device *dev, void *param, void *out, void *m, void *v, const void *grad, const AdamwRange *ranges,
                int n_ranges, const AdamwStep *step) {
    Ranges part = {};
    for (int r = 0; r < n_ranges; r++) {
        if (ranges[r].count > 0)
            range_add(&part, ranges + r, (float *)param, out, sizeof(T), (float *)m, (float *)v, (const float *)grad);
        if (part.n < RANGES_MAX && (r + 1 < n_ranges || !part.n)) continue;
        CUDA_LAUNCH(dev, "adamw", adamw_kernel<T>, part.first_block[part.n], BLOCK, 0, (float *)param, (T *)out,
                    (float *)m, (float *)v, (const float *)grad, part, step);
        part = Ranges();
    }
}
template void cuda_adamw<float>(Device *, void *, void *, void *, void *, const void *, const AdamwRange *, int,
                                const AdamwStep *);
template void cuda_adamw<bf16>(Device *, void *, void *, void *, void *, const void *, const AdamwRange *, int,
                               const AdamwStep *);

/* ---- sum of squares ------------------------------------------------------------------------------------------------- */

namespace {

constexpr int SUMS = 1024, SUM_SPAN = BLOCK * LANE * 8;

__device__ double block_sum(double x) {
    __shared__ double warps[BLOCK / WARP];
    x = lanes_sum(x);
    if (threadIdx.x % WARP == 0) warps[threadIdx.x / WARP] = x;
    __syncthreads();
    double sum = 0;
    for (int i = 0; i < BLOCK / WARP; i++) sum += warps[i];
    return sum;
}

/* Block b sums spans b, b + SUMS, ...: the same additions on every machine. */
__global__ void __launch_bounds__(BLOCK) squares_kernel(double *part, const float *x, int64_t count, int aligned) {
    double sum = 0;
    for (int64_t base = (int64_t)blockIdx.x * SUM_SPAN; base < count; base += (int64_t)SUMS * SUM_SPAN) {
#pragma unroll
        for (int i = 0; i < SUM_SPAN / (BLOCK * LANE); i++) {
            int64_t at = base + (i * BLOCK + (int)threadIdx.x) * LANE;
            Pack<float, LANE> y = {};
            if (aligned && at + LANE <= count) y = pack_load<float, LANE>(x + at);
            else
                for (int j = 0; j < LANE; j++) y.v[j] = at + j < count ? x[at + j] : 0.0f;
            for (int j = 0; j < LANE; j++) sum = fma((double)y.v[j], (double)y.v[j], sum);
        }
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) part[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(BLOCK) add_sums_kernel(double *total, const double *part, int parts) {
    double sum = 0;
    for (int i = (int)threadIdx.x; i < parts; i += BLOCK) sum += part[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) *total += sum;
}

} // namespace

size_t cuda_sum_squares_workspace() { return sizeof(double) * SUMS; }

void cuda_sum_squares(Device *dev, double *sum, const void *x, int64_t count) {
    const char *op = "sum_squares";
    if (count <= 0) return;
    double *part = (double *)cuda_scratch(dev, op, cuda_sum_squares_workspace());
    if (!part) return;
    int64_t spans = (count + SUM_SPAN - 1) / SUM_SPAN;
    int     blocks = (int)(spans < SUMS ? spans : SUMS);
    CUDA_LAUNCH(dev, op, squares_kernel, blocks, BLOCK, 0, part, (const float *)x, count, (uintptr_t)x % 16 == 0);
    CUDA_LAUNCH(dev, op, add_sums_kernel, 1, BLOCK, 0, sum, part, blocks);
}
