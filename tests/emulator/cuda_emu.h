/* cuda_emu.h - put in front of a .cu file (-include), it makes the file C++ that runs on the CPU:
 *
 *     g++ -std=c++17 -O2 -I. -I/usr/local/cuda/include -include tests/emulator/cuda_emu.h -x c++ -c kernels/cuda/X.cu
 *
 * Types and the runtime's declarations come from the CUDA toolkit's own headers; the runtime's functions are those of
 * runtime.cpp.  CUDA_LAUNCH and DYNAMIC_SHARED take the place of cuda.cuh's. */
#ifndef EHR_TESTS_EMULATOR_CUDA_EMU_H
#define EHR_TESTS_EMULATOR_CUDA_EMU_H
#include <cmath>
#include <cstdint>
#include <limits>
#include <tuple>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#undef __global__
#undef __device__
#undef __host__
#undef __shared__
#undef __constant__
#undef __forceinline__
#undef __launch_bounds__
#undef __grid_constant__
#undef __restrict__
#undef __align__
/* Kernels have internal linkage, so that two files may use the same name, and so have their shared variables, which
 * symbols.cpp finds by it. */
#define __global__ static
#define __device__
#define __host__
#define __shared__ static
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __restrict__
#define __align__(n) __attribute__((aligned(n)))

#include "tests/emulator/atomics.h"
#include "tests/emulator/block.h"
#include "tests/emulator/device_math.h"
#include "tests/emulator/hopper.h"
#include "tests/emulator/warp.h"

#define threadIdx (static_cast<const uint3 &>(emu::current->index))
#define blockIdx (static_cast<const uint3 &>(emu::current->block->index))
#define blockDim (static_cast<const dim3 &>(emu::current->block->size))
#define gridDim (static_cast<const dim3 &>(emu::current->block->grid))
static constexpr int warpSize = 32;

namespace emu {

template <class... P> struct Arguments {
    void (*kernel)(P...);
    std::tuple<std::decay_t<P>...> values;
    const void *pointers[sizeof...(P) + 1];
    unsigned n_pointers;
};

/* A launch converts its arguments to the kernel's parameters implicitly, never by a cast. */
template <class T> T implicit(T v) { return v; }
template <class T> void note_pointer(const void **pointers, unsigned *n, T *p) { pointers[(*n)++] = (const void *)p; }
template <class T> void note_pointer(const void **, unsigned *, const T &) {}

template <class... P, class... A>
void launch_cluster(const char *op, const char *name, void (*kernel)(P...), unsigned cluster, dim3 grid, dim3 size,
                    size_t shared, cudaStream_t stream, A &&...args) {
    using Args = Arguments<P...>;
    static_assert(sizeof(std::tuple<std::decay_t<P>...>) <= 4096, "a kernel takes at most 4 KiB of arguments");
    Args *a = new Args{kernel, std::tuple<std::decay_t<P>...>(implicit<std::decay_t<P>>(args)...), {}, 0};
    std::apply([a](auto &...v) { (note_pointer(a->pointers, &a->n_pointers, v), ...); }, a->values);
    Launch l = {};
    l.op = op;
    l.kernel = name;
    l.function = (const void *)kernel;
    l.run = [](const void *p) { std::apply(((const Args *)p)->kernel, ((const Args *)p)->values); };
    l.args = a;
    l.args_bytes = sizeof *a;
    l.pointers = a->pointers;
    l.n_pointers = a->n_pointers;
    l.grid = grid;
    l.block = size;
    l.cluster = cluster;
    l.shared = shared;
    submit(
        &l, [](const void *p) { delete (const Args *)p; }, stream);
}
template <class... P, class... A>
void launch(const char *op, const char *name, void (*kernel)(P...), dim3 grid, dim3 size, size_t shared,
            cudaStream_t stream, A &&...args) {
    launch_cluster(op, name, kernel, 1, grid, size, shared, stream, std::forward<A>(args)...);
}

} // namespace emu

#define CUDA_LAUNCH(dev, op, kernel, grid, block, smem, ...)                                                           \
    do {                                                                                                               \
        if (cuda_launch_ready(dev, op, (const void *)(kernel), smem)) {                                                \
            emu::launch(op, #kernel, (kernel), grid, block, smem, cuda_compute_stream(dev), ##__VA_ARGS__);            \
            cuda_launch_check(dev, op);                                                                                \
        }                                                                                                              \
    } while (0)
#define CUDA_LAUNCH_CLUSTER(dev, op, kernel, cluster, grid, block, smem, ...)                                          \
    do {                                                                                                               \
        if (cuda_launch_ready(dev, op, (const void *)(kernel), smem)) {                                                \
            emu::launch_cluster(op, #kernel, (kernel), cluster, grid, block, smem, cuda_compute_stream(dev),           \
                                ##__VA_ARGS__);                                                                        \
            cuda_launch_check(dev, op);                                                                                \
        }                                                                                                              \
    } while (0)
#define DYNAMIC_SHARED(T, name) T *name = reinterpret_cast<T *>(emu::current->block->shared)

#endif
