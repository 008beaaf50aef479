/* rmsnorm.cu - out = inp * rstd * weight by rows, and its gradients.
 *
 * One pass over memory each: forward moves 2 N C elements, backward 4 N C (dout, inp, and dinp_acc in and out), plus
 * 8 bytes a partial sum of dweight, of which there are ROW_SUMS_MAX a column at most. */
#include "kernels/cuda/rows.cuh"

namespace {

template <typename T, int W, int PACKS>
__global__ void __launch_bounds__(ROW_THREADS)
    rmsnorm_forward_kernel(T *out, float *rstd, const T *inp, const T *weight, float eps, int N, int C, int team) {
    __shared__ float shared[2][ROW_WARPS];
    Seat seat = seat_of(team);
    int  n = (int)blockIdx.x * seat.teams + seat.team;
    bool row = n < N;
    Pack<T, W> x[PACKS];
    float squares = 0;
#pragma unroll
    for (int i = 0; i < PACKS; i++) {
        int c = (i * seat.lanes + seat.lane) * W;
        if (!row || c >= C) continue;
        x[i] = pack_load<T, W>(inp + (int64_t)n * C + c);
        for (int j = 0; j < W; j++) squares = fmaf(to_float(x[i].v[j]), to_float(x[i].v[j]), squares);
    }
    float r = rsqrtf(team_sum(squares, team, shared, 0) / (float)C + eps);
    if (!row) return;
    if (rstd && seat.lane == 0) rstd[n] = r;
#pragma unroll
    for (int i = 0; i < PACKS; i++) {
        int c = (i * seat.lanes + seat.lane) * W;
        if (c >= C) continue;
        Pack<T, W> w = pack_load<T, W>(weight + c);
        for (int j = 0; j < W; j++) x[i].v[j] = from_float<T>(to_float(x[i].v[j]) * r * to_float(w.v[j]));
        pack_store<T, W>(out + (int64_t)n * C + c, x[i]);
    }
}

/* With y = x r w:  dx = r (w dy - x r mean(w dy x r)),  dw = sum over rows of dy x r.
 * Each team walks through its rows and sums dweight in registers; the block adds its teams' sums in order. */
template <typename T, int W, int PACKS>
__global__ void __launch_bounds__(ROW_THREADS, PACKS < ROW_PACKS_GOOD ? 2 : 1)
    rmsnorm_backward_kernel(T *dinp, float *partial, const T *dout, const T *inp, const T *weight, const float *rstd,
                                int N, int C, int team) {
    __shared__ float shared[2][ROW_WARPS];
    DYNAMIC_SHARED(float, sums); /* (teams, C), when partial */
    Seat  seat = seat_of(team);
    Pack<float, W> dw[PACKS] = {};
    int   step = (int)gridDim.x * seat.teams, turn = 0;
    for (int64_t first = (int64_t)blockIdx.x * seat.teams; first < N; first += step, turn++) {
        int64_t    n = first + seat.team;
        bool       row = n < N;
        float      r = row ? rstd[n] : 0, dot = 0;
        Pack<T, W> x[PACKS], dy[PACKS], acc[PACKS];
#pragma unroll
        for (int i = 0; i < PACKS; i++) {
            int c = (i * seat.lanes + seat.lane) * W;
            if (!row || c >= C) continue;
            x[i] = pack_load<T, W>(inp + n * C + c);
            dy[i] = pack_load<T, W>(dout + n * C + c);
            if (PACKS <= ROW_PACKS_GOOD) acc[i] = pack_load<T, W>(dinp + n * C + c);
        }
#pragma unroll
        for (int i = 0; i < PACKS; i++) {
            int c = (i * seat.lanes + seat.lane) * W;
            if (!row || c >= C) continue;
            Pack<T, W> w = pack_load<T, W>(weight + c);
            for (int j = 0; j < W; j++) dot = fmaf(to_float(w.v[j]) * to_float(dy[i].v[j]), to_float(x[i].v[j]) * r, dot);
        }
        float mean = team_sum(dot, team, shared, turn) / (float)C;
#pragma unroll
        for (int i = 0; i < PACKS; i++) {
            int c = (i * seat.lanes + seat.lane) * W;
            if (!row || c >= C) continue;
            Pack<T, W> w = pack_load<T, W>(weight + c);
            if (PACKS > ROW_PACKS_GOOD) acc[i] = pack_load<T, W>(dinp + n * C + c); /* registers are short */
            for (int j = 0; j < W; j++) {
                float normed = to_float(x[i].v[j]) * r, g = to_float(dy[i].v[j]);
                dw[i].v[j] = fmaf(g, normed, dw[i].v[j]);
                acc[i].v[j] = from_float<T>(to_float(acc[i].v[j]) + r * (to_float(w.v[j]) * g - normed * mean));
            }
            pack_store<T, W>(dinp + n * C + c, acc[i]);
        }
    }
    if (!partial) return;
#pragma unroll
    for (int i = 0; i < PACKS; i++) {
        int c = (i * seat.lanes + seat.lane) * W;
        if (c < C) pack_store<float, W>(sums + seat.team * C + c, dw[i]);
    }
    __syncthreads();
    for (int c = (int)threadIdx.x; c < C; c += (int)blockDim.x) {
        float sum = 0;
        for (int t = 0; t < seat.teams; t++) sum += sums[t * C + c];
        partial[(int64_t)blockIdx.x * C + c] = sum;
    }
}

template <typename T, int W, int PACKS>
void rmsnorm_forward_launch(Device *dev, RowShape s, T *out, float *rstd, const T *inp, const T *weight, float eps, int N, int C) {
    CUDA_LAUNCH(dev, "rmsnorm_forward", (rmsnorm_forward_kernel<T, W, PACKS>), ceil_div(N, ROW_WARPS / s.team), ROW_THREADS, 0,
                out, rstd, inp, weight, eps, N, C, s.team);
}

template <typename T, int W, int PACKS>
void rmsnorm_backward_launch(Device *dev, RowShape s, int blocks, T *dinp, float *partial, const T *dout, const T *inp,
                     const T *weight, const float *rstd, int N, int C) {
    size_t smem = partial ? sizeof(float) * (size_t)(ROW_WARPS / s.team) * (size_t)C : 0;
    CUDA_LAUNCH(dev, "rmsnorm_backward", (rmsnorm_backward_kernel<T, W, PACKS>), blocks, ROW_THREADS, smem, dinp, partial,
                dout, inp, weight, rstd, N, C, s.team);
}

/* 1 = there is something to do. */
int row_fits(Device *dev, const char *op, RowShape s, int N) {
    if (!s.packs) device_fail(dev, op, "rows of so many elements do not fit a block's registers");
    return s.packs && N > 0;
}

} // namespace

template <typename T>
void cuda_rmsnorm_forward(Device *dev, void *out, void *rstd, const void *inp, const void *weight, float eps, int N,
                          int C) {
    RowShape s = row_shape(C, PACK<T>);
    if (!row_fits(dev, "rmsnorm_forward", s, N)) return;
    ROW_DISPATCH(rmsnorm_forward_launch, T, s, dev, s, (T *)out, (float *)rstd, (const T *)inp, (const T *)weight, eps, N, C);
}

template <typename T>
void cuda_rmsnorm_backward(Device *dev, void *dinp_acc, void *dweight, const void *dout, const void *inp,
                           const void *weight, const void *rstd, int N, int C) {
    const char *op = "rmsnorm_backward";
    RowShape    s = row_shape(C, PACK<T>);
    if (!row_fits(dev, op, s, N)) return;
    int    blocks = ceil_div(N, ROW_WARPS / s.team);
    float *partial = nullptr;
    if (blocks > ROW_SUMS_MAX) blocks = ROW_SUMS_MAX;
    if (dweight && !(partial = (float *)cuda_scratch(dev, op, sizeof(float) * (size_t)blocks * (size_t)C))) return;
    ROW_DISPATCH(rmsnorm_backward_launch, T, s, dev, s, blocks, (T *)dinp_acc, partial, (const T *)dout, (const T *)inp,
                 (const T *)weight, (const float *)rstd, N, C);
    if (dweight) cuda_add_partials(dev, op, (float *)dweight, partial, blocks, C, C);
}

#define INSTANTIATE(T)                                                                                                \
    template void cuda_rmsnorm_forward<T>(Device *, void *, void *, const void *, const void *, float, int, int);     \
    template void cuda_rmsnorm_backward<T>(Device *, void *, void *, const void *, const void *, const void *,        \
                                           const void *, int, int);
INSTANTIATE(float)
INSTANTIATE(bf16)
