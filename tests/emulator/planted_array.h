/* planted_array.h - for the emulator's own kernels: launching without a Device, arrays on the GPU. */
#ifndef EHR_TESTS_EMULATOR_PLANTED_ARRAY_H
#define EHR_TESTS_EMULATOR_PLANTED_ARRAY_H
#include <vector>

#define LAUNCH(kernel, grid, block, smem, stream, ...)                                                                 \
    emu::launch("planted", #kernel, (kernel), grid, block, smem, stream, __VA_ARGS__)
#define LAUNCH_CLUSTER(kernel, cluster, grid, block, smem, stream, ...)                                                \
    emu::launch_cluster("planted", #kernel, (kernel), cluster, grid, block, smem, stream, __VA_ARGS__)

/* GPU memory filled from, and read back into, a vector. */
template <class T> struct Array {
    T *device = nullptr;
    size_t n;
    explicit Array(const std::vector<T> &host) : n(host.size()) {
        cudaMalloc((void **)&device, n * sizeof(T));
        cudaMemcpy(device, host.data(), n * sizeof(T), cudaMemcpyHostToDevice);
    }
    explicit Array(size_t count, T first = T(), T step = T()) : Array(ramp(count, first, step)) {}
    ~Array() { cudaFree(device); }
    Array(const Array &) = delete;
    std::vector<T> read() const {
        std::vector<T> host(n);
        cudaMemcpy(host.data(), device, n * sizeof(T), cudaMemcpyDeviceToHost);
        return host;
    }
    static std::vector<T> ramp(size_t count, T first, T step) {
        std::vector<T> host(count);
        for (size_t i = 0; i < count; i++) host[i] = (T)(first + step * (T)i);
        return host;
    }
};

#endif
