/* runtime_device.cpp - devices, their properties, errors, kernel attributes and launches. */
#include "tests/emulator/runtime.h"

#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <map>

using namespace emu;

namespace {

enum { SHARED_PLAIN = 48 << 10 };

std::recursive_mutex mutex;
thread_local cudaError_t last_error;
cudaError_t sticky_error;
std::map<const void *, int> shared_granted; /* kernel -> bytes of dynamic shared memory, above 48 KiB */

int shared_optin() { return emu_config()->compute_capability >= 90 ? 232448 : 166912; }

int granted(const void *function) {
    auto i = shared_granted.find(function);
    return i == shared_granted.end() ? SHARED_PLAIN : i->second;
}

bool exists(int device) { return device >= 0 && device < emu_config()->devices; }

} // namespace

thread_local int emu::device_index;

emu::Call::Call() : lock(mutex) {}

cudaError_t emu::fail(cudaError_t e, const char *why, ...) {
    if (e && why && !sticky_error) {
        va_list list;
        va_start(list, why);
        fprintf(stderr, "emulator: %s: ", cudaGetErrorString(e));
        vfprintf(stderr, why, list);
        fprintf(stderr, "\n");
        va_end(list);
    }
    if (sticky_error) e = sticky_error;
    if (e) last_error = e;
    return e;
}

cudaError_t emu::failed() { return sticky_error ? fail(sticky_error) : cudaSuccess; }

void emu::device_broken(cudaError_t e) {
    if (!sticky_error) sticky_error = e;
}

void emu::device_mended() { sticky_error = last_error = cudaSuccess; }

cudaError_t emu::driver_state() {
    if (emu_config()->driver != DRIVER_OK) return fail(cudaErrorInsufficientDriver);
    if (emu_config()->devices < 1) return fail(cudaErrorNoDevice);
    return failed();
}

static Launch last_launch;
uint64_t emu::launches;
uint64_t emu_launches() { return launches; }
void emu_last_launch(unsigned *blocks, unsigned *threads, size_t *shared) {
    *blocks = last_launch.grid.x;
    *threads = last_launch.block.x * last_launch.block.y * last_launch.block.z;
    *shared = last_launch.shared;
}

unsigned emu_last_cluster(void) { return last_launch.cluster; }

cudaError_t emu::submit(const Launch *launch, void (*destroy)(const void *), cudaStream_t handle) {
    Call call;
    std::shared_ptr<const void> args(launch->args, destroy);
    Launch l = *launch;
    cudaStream_t stream;
    cudaError_t e = stream_of(handle, &stream);
    if (e) return e;
    uint64_t threads = (uint64_t)l.block.x * l.block.y * l.block.z;
    last_launch = l;
    launches++;
    if (!threads || threads > THREADS_MAX || l.block.z > 64 || !l.grid.x || !l.grid.y || !l.grid.z ||
        l.grid.x > 0x7FFFFFFFu || l.grid.y > 65535 || l.grid.z > 65535)
        return fail(cudaErrorInvalidConfiguration, "%s: kernel %s: grid (%u,%u,%u) of blocks (%u,%u,%u)", l.op,
                    l.kernel, l.grid.x, l.grid.y, l.grid.z, l.block.x, l.block.y, l.block.z);
    size_t fixed = kernel_symbols(l.function).shared_bytes;
    if (l.cluster > 1 && emu_config()->compute_capability < 90)
        return fail(cudaErrorNotSupported, "%s: kernel %s: clusters need compute capability 9.0", l.op, l.kernel);
    if (!l.cluster || l.grid.x % l.cluster || l.cluster > CLUSTER_MAX || emu_config()->sm_count < (int)l.cluster)
        return fail(cudaErrorInvalidConfiguration,
                    "%s: kernel %s: %u blocks in x in clusters of %u on %d multiprocessors", l.op, l.kernel, l.grid.x,
                    l.cluster, emu_config()->sm_count);
    if (l.cluster > 1 && (l.cluster * threads > THREADS_MAX || threads % 128 || fixed))
        return fail(
            cudaErrorNotSupported,
            "%s: kernel %s: the emulator runs clusters of whole warpgroups, at most %d threads together, without "
            "static shared memory",
            l.op, l.kernel, (int)THREADS_MAX);
    if (fixed > SHARED_PLAIN || l.shared > (size_t)granted(l.function) ||
        (!shared_granted.count(l.function) && fixed + l.shared > SHARED_PLAIN))
        return fail(cudaErrorInvalidValue,
                    "%s: kernel %s: %zu bytes of static and %zu of dynamic shared memory; granted: %d", l.op, l.kernel,
                    fixed, l.shared, granted(l.function));
    l.device = stream->device;
    return enqueue(stream, [queued = l, op = std::string(l.op), args]() -> cudaError_t {
        Launch l = queued;
        l.op = op.c_str();
        for (unsigned i = 0; i < l.n_pointers; i++) {
            const Allocation *a = memory_find(l.pointers[i], 0);
            if (!l.pointers[i] || (a && (a->place == ON_HOST || a->device == l.device))) continue;
            char text[400];
            snprintf(text, sizeof text, "%s: kernel %s: its pointer argument number %u, %p, is %s", l.op, l.kernel,
                     i + 1, l.pointers[i], a ? "memory of another GPU" : "no memory of the GPU (never was, or freed)");
            report(text);
            return cudaErrorIllegalAddress;
        }
        return run_grid(l);
    });
}

extern "C" {

/* ---- devices ------------------------------------------------------------------------------------------------- */
cudaError_t cudaGetDeviceCount(int *count) {
    Call call;
    *count = 0;
    cudaError_t e = driver_state();
    if (!e) *count = emu_config()->devices;
    return e;
}

cudaError_t cudaSetDevice(int device) {
    Call call;
    cudaError_t e = driver_state();
    if (e) return e;
    if (!exists(device)) return fail(cudaErrorInvalidDevice);
    device_index = device;
    return cudaSuccess;
}

cudaError_t cudaGetDevice(int *device) {
    *device = device_index;
    return cudaSuccess;
}

cudaError_t cudaSetDeviceFlags(unsigned) { return cudaSuccess; }

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int device) {
    Call call;
    cudaError_t e = driver_state();
    if (e) return e;
    if (!exists(device)) return fail(cudaErrorInvalidDevice);
    *p = cudaDeviceProp{};
    snprintf(p->name, sizeof p->name, "Emulated GPU");
    p->totalGlobalMem = emu_config()->memory;
    p->sharedMemPerBlock = SHARED_PLAIN;
    p->sharedMemPerBlockOptin = (size_t)shared_optin();
    p->sharedMemPerMultiprocessor = (size_t)shared_optin() + 1024;
    p->reservedSharedMemPerBlock = 1024;
    p->regsPerBlock = p->regsPerMultiprocessor = 65536;
    p->warpSize = WARP;
    p->maxThreadsPerBlock = THREADS_MAX;
    p->maxThreadsPerMultiProcessor = 2048;
    p->maxBlocksPerMultiProcessor = 32;
    p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024;
    p->maxThreadsDim[2] = 64;
    p->maxGridSize[0] = 0x7FFFFFFF;
    p->maxGridSize[1] = p->maxGridSize[2] = 65535;
    p->major = emu_config()->compute_capability / 10;
    p->minor = emu_config()->compute_capability % 10;
    p->multiProcessorCount = emu_config()->sm_count;
    p->l2CacheSize = 4 << 20;
    p->asyncEngineCount = 2;
    p->concurrentKernels = 1;
    p->unifiedAddressing = 1;
    p->memoryBusWidth = 5120;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attr, int device) {
    Call call;
    cudaDeviceProp p;
    cudaError_t e = cudaGetDeviceProperties(&p, device);
    if (e) return e;
    switch (attr) {
    case cudaDevAttrMaxThreadsPerBlock: *value = p.maxThreadsPerBlock; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = (int)p.sharedMemPerBlock; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = (int)p.sharedMemPerBlockOptin; break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = (int)p.sharedMemPerMultiprocessor; break;
    case cudaDevAttrReservedSharedMemoryPerBlock: *value = (int)p.reservedSharedMemPerBlock; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = p.maxThreadsPerMultiProcessor; break;
    case cudaDevAttrMaxBlocksPerMultiprocessor: *value = p.maxBlocksPerMultiProcessor; break;
    case cudaDevAttrMultiProcessorCount: *value = p.multiProcessorCount; break;
    case cudaDevAttrComputeCapabilityMajor: *value = p.major; break;
    case cudaDevAttrComputeCapabilityMinor: *value = p.minor; break;
    case cudaDevAttrL2CacheSize: *value = p.l2CacheSize; break;
    case cudaDevAttrWarpSize: *value = WARP; break;
    case cudaDevAttrClockRate: *value = 1410000; break;
    case cudaDevAttrMemoryClockRate: *value = 1215000; break;
    case cudaDevAttrGlobalMemoryBusWidth: *value = p.memoryBusWidth; break;
    case cudaDevAttrMaxRegistersPerBlock:
    case cudaDevAttrMaxRegistersPerMultiprocessor: *value = p.regsPerBlock; break;
    case cudaDevAttrMaxGridDimX: *value = p.maxGridSize[0]; break;
    case cudaDevAttrMaxGridDimY:
    case cudaDevAttrMaxGridDimZ: *value = p.maxGridSize[1]; break;
    case cudaDevAttrAsyncEngineCount: *value = p.asyncEngineCount; break;
    case cudaDevAttrConcurrentKernels:
    case cudaDevAttrUnifiedAddressing: *value = 1; break;
    case cudaDevAttrComputeMode: *value = cudaComputeModeDefault; break;
    case cudaDevAttrCooperativeLaunch:
    case cudaDevAttrIntegrated: *value = 0; break;
    default:
        return fail(cudaErrorInvalidValue, "cudaDeviceGetAttribute: attribute %d is unknown to the emulator", attr);
    }
    return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char *text, int size, int device) {
    Call call;
    cudaError_t e = driver_state();
    if (e) return e;
    if (!exists(device)) return fail(cudaErrorInvalidDevice);
    snprintf(text, (size_t)size, "0000:%02x:00.0", device + 1);
    return cudaSuccess;
}

cudaError_t cudaDeviceCanAccessPeer(int *can, int, int) {
    *can = 0;
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *version) {
    EmuDriver d = emu_config()->driver;
    *version = d == DRIVER_OK ? CUDART_VERSION : d == DRIVER_OLD ? 11040 : 0;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version) {
    *version = CUDART_VERSION;
    return cudaSuccess;
}

/* ---- errors -------------------------------------------------------------------------------------------------- */
cudaError_t cudaGetLastError(void) {
    Call call;
    cudaError_t e = sticky_error ? sticky_error : last_error;
    last_error = cudaSuccess;
    return e;
}

cudaError_t cudaPeekAtLastError(void) {
    Call call;
    return sticky_error ? sticky_error : last_error;
}

static const struct {
    cudaError_t code;
    const char *name, *text;
} errors[] = {
#define ERROR(e, text)                                                                                                 \
    { e, #e, text }
    ERROR(cudaSuccess, "no error"),
    ERROR(cudaErrorInvalidValue, "invalid argument"),
    ERROR(cudaErrorMemoryAllocation, "out of memory"),
    ERROR(cudaErrorInvalidConfiguration, "invalid configuration argument"),
    ERROR(cudaErrorInvalidDevicePointer, "invalid device pointer"),
    ERROR(cudaErrorInsufficientDriver, "CUDA driver version is insufficient for CUDA runtime version"),
    ERROR(cudaErrorNoDevice, "no CUDA-capable device is detected"),
    ERROR(cudaErrorInvalidDevice, "invalid device ordinal"),
    ERROR(cudaErrorInvalidResourceHandle, "invalid resource handle"),
    ERROR(cudaErrorIllegalState, "the operation cannot be performed in the present state"),
    ERROR(cudaErrorSymbolNotFound, "named symbol not found"),
    ERROR(cudaErrorNotReady, "device not ready"),
    ERROR(cudaErrorIllegalAddress, "an illegal memory access was encountered"),
    ERROR(cudaErrorMisalignedAddress, "misaligned address"),
    ERROR(cudaErrorLaunchFailure, "unspecified launch failure"),
    ERROR(cudaErrorNotPermitted, "operation not permitted"),
    ERROR(cudaErrorNotSupported, "operation not supported"),
    ERROR(cudaErrorStreamCaptureUnsupported, "operation not permitted when stream is capturing"),
    ERROR(cudaErrorStreamCaptureInvalidated, "operation failed due to a previous error during capture"),
    ERROR(cudaErrorStreamCaptureMerge, "operation would result in a merge of separate capture sequences"),
    ERROR(cudaErrorStreamCaptureUnmatched, "capture was not ended in the same stream as it began"),
    ERROR(cudaErrorStreamCaptureUnjoined, "capturing stream has unjoined work"),
    ERROR(cudaErrorStreamCaptureIsolation, "dependency created on uncaptured work in another stream"),
    ERROR(cudaErrorStreamCaptureImplicit,
          "operation would make the legacy stream depend on a capturing blocking stream"),
    ERROR(cudaErrorStreamCaptureWrongThread,
          "attempt to terminate a thread-local capture sequence from another thread"),
    ERROR(cudaErrorCapturedEvent, "operation not permitted on an event last recorded in a capturing stream"),
#undef ERROR
};

const char *cudaGetErrorName(cudaError_t e) {
    for (auto &known : errors)
        if (known.code == e) return known.name;
    return "unrecognized error code";
}

const char *cudaGetErrorString(cudaError_t e) {
    for (auto &known : errors)
        if (known.code == e) return known.text;
    return "unrecognized error code";
}

/* ---- kernels ------------------------------------------------------------------------------------------------- */
cudaError_t cudaFuncSetAttribute(const void *function, cudaFuncAttribute attr, int value) {
    Call call;
    if (attr == cudaFuncAttributePreferredSharedMemoryCarveout) return cudaSuccess;
    if (attr != cudaFuncAttributeMaxDynamicSharedMemorySize) return fail(cudaErrorInvalidValue);
    size_t fixed = kernel_symbols(function).shared_bytes;
    if (value < 0 || (size_t)value + fixed > (size_t)shared_optin())
        return fail(cudaErrorInvalidValue,
                    "%d bytes of dynamic and %zu of static shared memory; the GPU has %d a block", value, fixed,
                    shared_optin());
    shared_granted[function] = value;
    return cudaSuccess;
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *a, const void *function) {
    Call call;
    *a = cudaFuncAttributes{};
    a->sharedSizeBytes = kernel_symbols(function).shared_bytes;
    a->maxDynamicSharedSizeBytes = granted(function);
    a->maxThreadsPerBlock = THREADS_MAX;
    a->numRegs = 64;
    return cudaSuccess;
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, const void *function, int threads,
                                                                   size_t shared, unsigned) {
    Call call;
    if (threads < 1 || threads > THREADS_MAX) return fail(cudaErrorInvalidValue);
    size_t bytes = kernel_symbols(function).shared_bytes + shared + 1024;
    int by_threads = 2048 / ((threads + WARP - 1) / WARP * WARP),
        by_shared = (int)((size_t)(shared_optin() + 1024) / bytes);
    *blocks = by_threads < by_shared ? by_threads : by_shared;
    return cudaSuccess;
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, const void *function, int threads,
                                                          size_t shared) {
    return cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, function, threads, shared, 0);
}
}
