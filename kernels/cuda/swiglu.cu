/* swiglu.cu - silu(gate) * up by itself, and its gradient together with the value, which no pass keeps.
 *
 * One block a row; forward moves 3 N F elements, backward 6 N F.  A thread reads all it needs before it writes, so the
 * gradient may take the place of gate_up, and the value that of dout. */
#include "kernels/cuda/rows.cuh"
#include "kernels/cuda/swiglu.cuh"

namespace {

constexpr int THREADS_MAX = 256;

template <typename T, int W> __global__ void swiglu_forward_kernel(T *out, const T *gate_up, int F) {
    const T *gate = gate_up + (int64_t)blockIdx.x * 2 * F, *up = gate + F;
    T       *y = out + (int64_t)blockIdx.x * F;
    for (int c = (int)threadIdx.x * W; c < F; c += (int)blockDim.x * W) {
        Pack<T, W> g = pack_load<T, W>(gate + c), u = pack_load<T, W>(up + c);
        for (int j = 0; j < W; j++) g.v[j] = from_float<T>(swiglu_value<T>(to_float(g.v[j]), to_float(u.v[j])));
        pack_store<T, W>(y + c, g);
    }
}

/* With s = 1 / (1 + exp(-g)):  dgate = dy up s (1 + g (1 - s)),  dup = dy g s. */
template <typename T, int W>
__global__ void swiglu_backward_kernel(T *dgate_up, T *act, const T *dout, const T *gate_up, int F) {
    int64_t  row = blockIdx.x;
    const T *gate = gate_up + row * 2 * F, *up = gate + F, *dy = dout + row * F;
    T       *dgate = dgate_up + row * 2 * F, *dup = dgate + F, *y = act + row * F;
    for (int c = (int)threadIdx.x * W; c < F; c += (int)blockDim.x * W) {
        Pack<T, W> g = pack_load<T, W>(gate + c), u = pack_load<T, W>(up + c), d = pack_load<T, W>(dy + c);
        for (int j = 0; j < W; j++) {
            float x = to_float(g.v[j]), z = to_float(u.v[j]), s = 1.0f / (1.0f + expf(-x)), t = to_float(d.v[j]) * s;
            g.v[j] = from_float<T>(t * z * (1.0f + x * (1.0f - s)));
            u.v[j] = from_float<T>(t * x);
            d.v[j] = from_float<T>(swiglu_value<T>(x, z));
        }
        pack_store<T, W>(dgate + c, g);
        pack_store<T, W>(dup + c, u);
        pack_store<T, W>(y + c, d);
    }
}

int threads_for(int packs) { return packs >= THREADS_MAX ? THREADS_MAX : ceil_div(packs, WARP) * WARP; }

} // namespace

template <typename T> void cuda_swiglu_forward(Device *dev, void *out, const void *gate_up, int N, int F) {
    const char *op = "swiglu_forward";
    if (N <= 0) return;
    if (F % PACK<T>)
        CUDA_LAUNCH(dev, op, (swiglu_forward_kernel<T, 1>), N, threads_for(F), 0, (T *)out, (const T *)gate_up, F);
    else
        CUDA_LAUNCH(dev, op, (swiglu_forward_kernel<T, PACK<T>>), N, threads_for(F / PACK<T>), 0, (T *)out, (const T *)gate_up,
                    F);
}

template <typename T>
void cuda_swiglu_backward(Device *dev, void *dgate_up, void *act, const void *dout, const void *gate_up, int N, int F) {
    const char *op = "swiglu_backward";
    if (N <= 0) return;
    if (F % PACK<T>)
        CUDA_LAUNCH(dev, op, (swiglu_backward_kernel<T, 1>), N, threads_for(F), 0, (T *)dgate_up, (T *)act,
                    (const T *)dout, (const T *)gate_up, F);
    else
        CUDA_LAUNCH(dev, op, (swiglu_backward_kernel<T, PACK<T>>), N, threads_for(F / PACK<T>), 0, (T *)dgate_up,
                    (T *)act, (const T *)dout, (const T *)gate_up, F);
}

#define INSTANTIATE(T)                                                                                                \
    template void cuda_swiglu_forward<T>(Device *, void *, const void *, int, int);                                   \
    template void cuda_swiglu_backward<T>(Device *, void *, void *, const void *, const void *, int, int);
INSTANTIATE(float)
INSTANTIATE(bf16)
