/* runtime.cpp - the CUDA runtime's functions over the emulator: devices, errors, memory, streams, events, graphs.
 *
 * Work on a stream does not run when it is queued but when somebody waits for it. */
#include "tests/emulator/scheduler.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <new>

using Work = std::function<cudaError_t()>;

struct CUevent_st {
    uint64_t after; /* done when so many pieces of work have run */
};
struct CUstream_st {
    int device;
    std::vector<Work> *capture;
};
struct CUgraph_st {
    std::vector<Work> work;
};
struct CUgraphExec_st {
    std::vector<Work> work;
};

namespace {

struct Allocation {
    size_t bytes;
    int device;
    bool host;
};

std::map<const unsigned char *, Allocation> allocations;
size_t memory_used[64];
std::map<const void *, int> shared_limits;
std::deque<Work> queue;
uint64_t queued, done;
int device_index;
cudaError_t last_error, sticky_error;

cudaError_t fail(cudaError_t e) {
    if (sticky_error) e = sticky_error;
    if (e) last_error = e;
    return e;
}

const Allocation *find(const void *p, size_t bytes) {
    auto *c = static_cast<const unsigned char *>(p);
    auto i = allocations.upper_bound(c);
    if (i == allocations.begin()) return nullptr;
    --i;
    return c + bytes <= i->first + i->second.bytes ? &i->second : nullptr;
}

cudaError_t run_until(uint64_t n) {
    while (done < n && !queue.empty()) {
        Work w = std::move(queue.front());
        queue.pop_front();
        done++;
        if (sticky_error) continue;
        cudaError_t e = w();
        if (e) sticky_error = e;
    }
    return fail(cudaSuccess);
}

cudaError_t enqueue(cudaStream_t stream, Work w) {
    if (sticky_error) return fail(sticky_error);
    if (stream && stream->capture) {
        stream->capture->push_back(std::move(w));
        return cudaSuccess;
    }
    queue.push_back(std::move(w));
    queued++;
    return cudaSuccess;
}

bool ready(cudaError_t *e) {
    switch (emu_config()->driver) {
    case DRIVER_OK: *e = emu_config()->devices > 0 ? cudaSuccess : cudaErrorNoDevice; break;
    case DRIVER_OLD:
    case DRIVER_NONE: *e = cudaErrorInsufficientDriver; break;
    }
    fail(*e);
    return !*e;
}

int shared_optin() {
    return emu_config()->compute_capability >= 90 ? 232448 : 166912;
}

} // namespace

cudaError_t emu::submit(const Launch *launch, void (*destroy)(const void *), cudaStream_t stream) {
    std::shared_ptr<const void> args(launch->args, destroy);
    uint64_t threads = (uint64_t)launch->block.x * launch->block.y * launch->block.z;
    if (!threads || threads > THREADS_MAX || launch->block.z > 64 || !launch->grid.x || !launch->grid.y ||
        !launch->grid.z || launch->grid.x > 0x7FFFFFFF || launch->grid.y > 65535 || launch->grid.z > 65535)
        return fail(cudaErrorInvalidConfiguration);
    size_t fixed = kernel_symbols(launch->function).shared_bytes;
    auto limit = shared_limits.find(launch->function);
    size_t allowed = limit == shared_limits.end() ? 48 << 10 : (size_t)limit->second;
    if (launch->shared > allowed || (fixed + launch->shared > 48 << 10 && fixed + launch->shared > allowed + fixed) ||
        fixed > 48 << 10)
        return fail(cudaErrorInvalidValue);
    Launch l = *launch;
    return enqueue(stream, [l, args]() -> cudaError_t {
        for (unsigned i = 0; i < l.n_pointers; i++)
            if (l.pointers[i] && !find(l.pointers[i], 0)) {
                char text[300];
                snprintf(text, sizeof text, "%s: kernel %s: pointer argument %u, %p, is no device memory", l.op,
                         l.kernel, i + 1, l.pointers[i]);
                report(text);
                return cudaErrorIllegalAddress;
            }
        return run_grid(l) ? cudaSuccess : cudaErrorLaunchFailure;
    });
}

extern "C" {

/* ---- devices and errors --------------------------------------------------------------------------------------------
 */
cudaError_t cudaGetDeviceCount(int *count) {
    cudaError_t e;
    *count = 0;
    if (!ready(&e)) return e;
    *count = emu_config()->devices;
    return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
    cudaError_t e;
    if (!ready(&e)) return e;
    if (device < 0 || device >= emu_config()->devices) return fail(cudaErrorInvalidDevice);
    device_index = device;
    return cudaSuccess;
}
cudaError_t cudaGetDevice(int *device) {
    *device = device_index;
    return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int device) {
    cudaError_t e;
    if (!ready(&e)) return e;
    if (device < 0 || device >= emu_config()->devices) return fail(cudaErrorInvalidDevice);
    memset(p, 0, sizeof *p);
    snprintf(p->name, sizeof p->name, "Emulated GPU");
    p->totalGlobalMem = emu_config()->memory;
    p->sharedMemPerBlock = 48 << 10;
    p->sharedMemPerBlockOptin = (size_t)shared_optin();
    p->sharedMemPerMultiprocessor = (size_t)shared_optin() + 1024;
    p->regsPerBlock = 65536;
    p->regsPerMultiprocessor = 65536;
    p->warpSize = 32;
    p->maxThreadsPerBlock = 1024;
    p->maxThreadsPerMultiProcessor = 2048;
    p->maxBlocksPerMultiProcessor = 32;
    p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024;
    p->maxThreadsDim[2] = 64;
    p->maxGridSize[0] = 0x7FFFFFFF;
    p->maxGridSize[1] = p->maxGridSize[2] = 65535;
    p->major = emu_config()->compute_capability / 10;
    p->minor = emu_config()->compute_capability % 10;
    p->multiProcessorCount = 4;
    p->l2CacheSize = 4 << 20;
    p->asyncEngineCount = 2;
    p->concurrentKernels = 1;
    p->unifiedAddressing = 1;
    p->memoryBusWidth = 5120;
    return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attr, int device) {
    cudaDeviceProp p;
    cudaError_t e = cudaGetDeviceProperties(&p, device);
    if (e) return e;
    switch (attr) {
    case cudaDevAttrMaxThreadsPerBlock: *value = p.maxThreadsPerBlock; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = (int)p.sharedMemPerBlock; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = (int)p.sharedMemPerBlockOptin; break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = (int)p.sharedMemPerMultiprocessor; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = p.maxThreadsPerMultiProcessor; break;
    case cudaDevAttrMultiProcessorCount: *value = p.multiProcessorCount; break;
    case cudaDevAttrComputeCapabilityMajor: *value = p.major; break;
    case cudaDevAttrComputeCapabilityMinor: *value = p.minor; break;
    case cudaDevAttrL2CacheSize: *value = p.l2CacheSize; break;
    case cudaDevAttrWarpSize: *value = 32; break;
    case cudaDevAttrClockRate: *value = 1410000; break;
    case cudaDevAttrMemoryClockRate: *value = 1215000; break;
    case cudaDevAttrGlobalMemoryBusWidth: *value = p.memoryBusWidth; break;
    case cudaDevAttrMaxRegistersPerBlock: *value = p.regsPerBlock; break;
    case cudaDevAttrConcurrentKernels: *value = 1; break;
    case cudaDevAttrComputeMode: *value = cudaComputeModeDefault; break;
    default: return fail(cudaErrorInvalidValue);
    }
    return cudaSuccess;
}
cudaError_t cudaDeviceGetPCIBusId(char *bus, int size, int device) {
    cudaError_t e;
    if (!ready(&e)) return e;
    if (device < 0 || device >= emu_config()->devices) return fail(cudaErrorInvalidDevice);
    snprintf(bus, (size_t)size, "0000:%02X:00.0", device + 1);
    return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int *version) {
    *version = emu_config()->driver == DRIVER_OK ? CUDART_VERSION : emu_config()->driver == DRIVER_OLD ? 11040 : 0;
    return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int *version) {
    *version = CUDART_VERSION;
    return cudaSuccess;
}
cudaError_t cudaGetLastError(void) {
    cudaError_t e = last_error;
    last_error = sticky_error;
    return e;
}
cudaError_t cudaPeekAtLastError(void) {
    return last_error;
}
const char *cudaGetErrorName(cudaError_t e) {
    static const struct {
        cudaError_t code;
        const char *name;
    } names[] = {
#define NAME(e) {e, #e}
        NAME(cudaSuccess),
        NAME(cudaErrorInvalidValue),
        NAME(cudaErrorMemoryAllocation),
        NAME(cudaErrorInitializationError),
        NAME(cudaErrorInvalidConfiguration),
        NAME(cudaErrorInsufficientDriver),
        NAME(cudaErrorNoDevice),
        NAME(cudaErrorInvalidDevice),
        NAME(cudaErrorInvalidResourceHandle),
        NAME(cudaErrorNotReady),
        NAME(cudaErrorIllegalAddress),
        NAME(cudaErrorLaunchFailure),
        NAME(cudaErrorNotSupported),
        NAME(cudaErrorStreamCaptureUnsupported),
        NAME(cudaErrorStreamCaptureInvalidated),
        NAME(cudaErrorIllegalState),
        NAME(cudaErrorSymbolNotFound),
#undef NAME
    };
    for (auto &n : names)
        if (n.code == e) return n.name;
    return "cudaErrorUnknown";
}
const char *cudaGetErrorString(cudaError_t e) {
    switch (e) {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorInvalidConfiguration: return "invalid configuration argument";
    case cudaErrorInsufficientDriver: return "CUDA driver version is insufficient for CUDA runtime version";
    case cudaErrorNoDevice: return "no CUDA-capable device is detected";
    case cudaErrorInvalidDevice: return "invalid device ordinal";
    case cudaErrorInvalidResourceHandle: return "invalid resource handle";
    case cudaErrorNotReady: return "device not ready";
    case cudaErrorIllegalAddress: return "an illegal memory access was encountered";
    case cudaErrorLaunchFailure: return "unspecified launch failure";
    case cudaErrorNotSupported: return "operation not supported";
    case cudaErrorStreamCaptureUnsupported: return "operation not permitted when stream is capturing";
    case cudaErrorStreamCaptureInvalidated: return "operation failed due to a previous error during capture";
    default: return cudaGetErrorName(e);
    }
}
cudaError_t cudaDeviceSynchronize(void) {
    return run_until(queued);
}
cudaError_t cudaDeviceReset(void) {
    return run_until(queued);
}
cudaError_t cudaSetDeviceFlags(unsigned) {
    return cudaSuccess;
}
cudaError_t cudaFuncSetAttribute(const void *function, cudaFuncAttribute attr, int value) {
    if (attr == cudaFuncAttributePreferredSharedMemoryCarveout) return cudaSuccess;
    if (attr != cudaFuncAttributeMaxDynamicSharedMemorySize) return fail(cudaErrorInvalidValue);
    if (value < 0 || (size_t)value + emu::kernel_symbols(function).shared_bytes > (size_t)shared_optin())
        return fail(cudaErrorInvalidValue);
    shared_limits[function] = value;
    return cudaSuccess;
}
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *a, const void *function) {
    memset(a, 0, sizeof *a);
    a->sharedSizeBytes = emu::kernel_symbols(function).shared_bytes;
    a->maxThreadsPerBlock = 1024;
    a->numRegs = 64;
    auto limit = shared_limits.find(function);
    a->maxDynamicSharedSizeBytes = limit == shared_limits.end() ? 48 << 10 : limit->second;
    return cudaSuccess;
}
cudaError_t cudaGetDriverEntryPointByVersion(const char *, void **function, unsigned, unsigned long long,
                                             cudaDriverEntryPointQueryResult *status) {
    *function = nullptr;
    if (status) *status = cudaDriverEntryPointSymbolNotFound;
    return fail(cudaErrorSymbolNotFound);
}

/* ---- memory --------------------------------------------------------------------------------------------------------
 */
static cudaError_t allocate(void **p, size_t bytes, bool host) {
    cudaError_t e;
    *p = nullptr;
    if (!ready(&e)) return e;
    if (sticky_error) return fail(sticky_error);
    size_t rounded = (bytes + 255) / 256 * 256;
    if (!host && memory_used[device_index] + rounded > emu_config()->memory) return fail(cudaErrorMemoryAllocation);
    *p = aligned_alloc(256, rounded ? rounded : 256);
    if (!*p) return fail(cudaErrorMemoryAllocation);
    memset(*p, 0xFF, rounded);
    if (!host) memory_used[device_index] += rounded;
    allocations[static_cast<unsigned char *>(*p)] = {bytes, device_index, host};
    return cudaSuccess;
}
static cudaError_t release(void *p, bool host) {
    if (!p) return cudaSuccess;
    run_until(queued);
    auto i = allocations.find(static_cast<unsigned char *>(p));
    if (i == allocations.end() || i->second.host != host) return fail(cudaErrorInvalidValue);
    if (!host) memory_used[i->second.device] -= (i->second.bytes + 255) / 256 * 256;
    allocations.erase(i);
    free(p);
    return cudaSuccess;
}
cudaError_t cudaMalloc(void **p, size_t bytes) {
    return allocate(p, bytes, false);
}
cudaError_t cudaFree(void *p) {
    return release(p, false);
}
cudaError_t cudaMallocHost(void **p, size_t bytes) {
    return allocate(p, bytes, true);
}
cudaError_t cudaHostAlloc(void **p, size_t bytes, unsigned) {
    return allocate(p, bytes, true);
}
cudaError_t cudaFreeHost(void *p) {
    return release(p, true);
}
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total) {
    *total = emu_config()->memory;
    *free_bytes = *total - memory_used[device_index];
    return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t stream) {
    if (!find(p, bytes)) return fail(cudaErrorInvalidValue);
    return enqueue(stream, [=] {
        memset(p, value, bytes);
        return cudaSuccess;
    });
}
cudaError_t cudaMemset(void *p, int value, size_t bytes) {
    return cudaMemsetAsync(p, value, bytes, nullptr);
}
cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
    if (stream && stream->capture && (!find(dst, bytes) || !find(src, bytes)))
        return fail(cudaErrorStreamCaptureUnsupported);
    return enqueue(stream, [=] {
        memcpy(dst, src, bytes);
        return cudaSuccess;
    });
}
cudaError_t cudaMemcpy(void *dst, const void *src, size_t bytes, cudaMemcpyKind kind) {
    cudaError_t e = cudaMemcpyAsync(dst, src, bytes, kind, nullptr);
    return e ? e : run_until(queued);
}

/* ---- streams, events, graphs ---------------------------------------------------------------------------------------
 */
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *s, unsigned, int) {
    cudaError_t e;
    if (!ready(&e)) return e;
    *s = new CUstream_st{device_index, nullptr};
    return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags) {
    return cudaStreamCreateWithPriority(s, flags, 0);
}
cudaError_t cudaStreamCreate(cudaStream_t *s) {
    return cudaStreamCreateWithPriority(s, 0, 0);
}
cudaError_t cudaStreamDestroy(cudaStream_t s) {
    run_until(queued);
    delete s;
    return cudaSuccess;
}
cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
    *least = 0;
    *greatest = -5;
    return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t s) {
    if (s && s->capture) return fail(cudaErrorStreamCaptureUnsupported);
    return run_until(queued);
}
cudaError_t cudaStreamQuery(cudaStream_t) {
    cudaError_t e = run_until(done + 1);
    return e ? e : done < queued ? cudaErrorNotReady : cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned) {
    *e = new CUevent_st{0};
    return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t *e) {
    return cudaEventCreateWithFlags(e, 0);
}
cudaError_t cudaEventDestroy(cudaEvent_t e) {
    delete e;
    return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t) {
    e->after = queued;
    return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t e) {
    run_until(done + 1);
    return done < e->after ? cudaErrorNotReady : fail(cudaSuccess);
}
cudaError_t cudaEventSynchronize(cudaEvent_t e) {
    return run_until(e->after);
}
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t, cudaEvent_t) {
    *ms = 0;
    return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) {
    return cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode) {
    if (!s || s->capture) return fail(cudaErrorIllegalState);
    s->capture = new std::vector<Work>;
    return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *graph) {
    *graph = nullptr;
    if (!s || !s->capture) return fail(cudaErrorIllegalState);
    *graph = new CUgraph_st{std::move(*s->capture)};
    delete s->capture;
    s->capture = nullptr;
    return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t s, cudaStreamCaptureStatus *status) {
    *status = s && s->capture ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long) {
    *exec = new CUgraphExec_st{graph->work};
    return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t s) {
    for (Work &w : exec->work) {
        cudaError_t e = enqueue(s, w);
        if (e) return e;
    }
    return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    delete graph;
    return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
    delete exec;
    return cudaSuccess;
}
}
