/* device_cuda.cu - a GPU as a device: three streams, events between them, pinned memory, recorded steps.
 *
 * Calls queue work and return; what goes wrong later shows at the next wait, with the name of the last operation
 * queued.  Nothing here needs a driver to start: on a machine without one device_open_cuda() says so and fails. */
#include "kernels/cuda/cublas.cuh"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Small uploads go through page-locked slots, so that the host buffer is free again at once and nobody waits for the
 * stream; a slot is taken again when its event says that the copy out of it is done. */
enum { STAGING_SLOTS = 16, STAGING_BYTES = 64 << 10, LARGE_SHARED_KERNELS = 256, PLAIN_SHARED_BYTES = 16 << 10 };

namespace {

struct CudaState {
    int          index, capability, sm_count, recording;
    double       peak_f32, peak_bf16;
    cudaStream_t stream[STREAM_COUNT];
    cudaEvent_t  order[STREAM_COUNT], mark[DEVICE_MARKS], staged[STAGING_SLOTS];
    char        *staging;
    unsigned     next_slot;
    const char  *last_op; /* the last operation whose kernel was queued */
    Cublas      *cublas;
    TensorMapEncode tensor_map_encode; /* NULL: not a Hopper GPU, or a driver that does not know it */
    /* Kernels that were granted dynamic shared memory, and how much. */
    pthread_mutex_t lock;
    const void     *kernel[LARGE_SHARED_KERNELS];
    size_t          kernel_smem[LARGE_SHARED_KERNELS];
};

CudaState *state_of(const Device *dev) { return (CudaState *)dev->state; }

/* 1 = worked; otherwise the failure is the device's from now on. */
int check(Device *dev, const char *what, cudaError_t rc) {
    if (rc == cudaSuccess) return 1;
    cudaGetLastError();
    device_fail(dev, what, cudaGetErrorString(rc));
    return 0;
}

/* For waits: the error belongs to some kernel queued before. */
int check_queued(Device *dev, const char *what, cudaError_t rc) {
    if (rc == cudaSuccess) return 1;
    cudaGetLastError();
    char why[224];
    if (state_of(dev)->last_op)
        snprintf(why, sizeof why, "%s, in this or an earlier operation (CUDA_LAUNCH_BLOCKING=1 tells which)",
                 cudaGetErrorString(rc));
    else
        snprintf(why, sizeof why, "%s", cudaGetErrorString(rc));
    device_fail(dev, state_of(dev)->last_op ? state_of(dev)->last_op : what, why);
    return 0;
}

/* The calling thread works on this device from now on; 0 after device_fail(). */
int enter(Device *dev, const char *what) { return check(dev, what, cudaSetDevice(state_of(dev)->index)); }

int recordable(Device *dev, const char *what) {
    if (!state_of(dev)->recording) return 1;
    device_fail(dev, what, "the host cannot take part in a recording; copy before device_record()");
    return 0;
}

/* ---- memory --------------------------------------------------------------------------------------------------------- */

void *memory_alloc(Device *dev, size_t bytes) {
    CudaState *s = state_of(dev);
    void      *p = NULL;
    if (!enter(dev, "device_alloc")) return NULL;
    cudaError_t rc = cudaMalloc(&p, bytes);
    if (rc == cudaErrorMemoryAllocation) {
        cudaGetLastError();
        return NULL;
    }
    if (!check(dev, "device_alloc", rc)) return NULL;
    if (check(dev, "device_alloc", cudaMemsetAsync(p, 0, bytes, s->stream[STREAM_COMPUTE])) &&
        check_queued(dev, "device_alloc", cudaStreamSynchronize(s->stream[STREAM_COMPUTE])))
        return p;
    cudaFree(p);
    return NULL;
}

void memory_free(Device *dev, void *ptr) {
    if (enter(dev, "device_free")) check_queued(dev, "device_free", cudaFree(ptr));
}

void memory_zero(Device *dev, void *ptr, size_t bytes) {
    if (enter(dev, "device_zero"))
        check(dev, "device_zero", cudaMemsetAsync(ptr, 0, bytes, state_of(dev)->stream[STREAM_COMPUTE]));
}

void memory_copy(Device *dev, void *dst, const void *src, size_t bytes) {
    if (enter(dev, "device_copy"))
        check(dev, "device_copy",
              cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToDevice, state_of(dev)->stream[STREAM_COMPUTE]));
}

void memory_upload(Device *dev, void *dst, const void *host, size_t bytes) {
    CudaState   *s = state_of(dev);
    cudaStream_t stream = s->stream[STREAM_COMPUTE];
    if (!recordable(dev, "device_upload") || !enter(dev, "device_upload")) return;
    if (bytes > STAGING_BYTES) {
        if (check(dev, "device_upload", cudaMemcpyAsync(dst, host, bytes, cudaMemcpyHostToDevice, stream)))
            check_queued(dev, "device_upload", cudaStreamSynchronize(stream));
        return;
    }
    unsigned slot = s->next_slot++ % STAGING_SLOTS;
    char    *staging = s->staging + (size_t)slot * STAGING_BYTES;
    if (!check_queued(dev, "device_upload", cudaEventSynchronize(s->staged[slot]))) return;
    memcpy(staging, host, bytes);
    if (check(dev, "device_upload", cudaMemcpyAsync(dst, staging, bytes, cudaMemcpyHostToDevice, stream)))
        check(dev, "device_upload", cudaEventRecord(s->staged[slot], stream));
}

void memory_download(Device *dev, void *host, const void *src, size_t bytes) {
    cudaStream_t stream = state_of(dev)->stream[STREAM_COMPUTE];
    if (recordable(dev, "device_download") && enter(dev, "device_download") &&
        check(dev, "device_download", cudaMemcpyAsync(host, src, bytes, cudaMemcpyDeviceToHost, stream)))
        check_queued(dev, "device_download", cudaStreamSynchronize(stream));
}

void *host_alloc(Device *dev, size_t bytes) {
    void *p = NULL;
    if (!enter(dev, "device_host_alloc")) return NULL;
    if (cudaMallocHost(&p, bytes) != cudaSuccess) {
        cudaGetLastError();
        return NULL;
    }
    return memset(p, 0, bytes); /* page-aligned */
}

void host_free(Device *dev, void *ptr) {
    if (enter(dev, "device_host_free")) check_queued(dev, "device_host_free", cudaFreeHost(ptr));
}

void upload_async(Device *dev, Stream s, void *dst, const void *host, size_t bytes) {
    if (recordable(dev, "device_upload_async") && enter(dev, "device_upload_async"))
        check(dev, "device_upload_async",
              cudaMemcpyAsync(dst, host, bytes, cudaMemcpyHostToDevice, state_of(dev)->stream[s]));
}

void download_async(Device *dev, Stream s, void *host, const void *src, size_t bytes) {
    if (recordable(dev, "device_download_async") && enter(dev, "device_download_async"))
        check(dev, "device_download_async",
              cudaMemcpyAsync(host, src, bytes, cudaMemcpyDeviceToHost, state_of(dev)->stream[s]));
}

void memory_info(const Device *dev, size_t *free_bytes, size_t *total_bytes) {
    *free_bytes = *total_bytes = 0;
    if (cudaSetDevice(state_of(dev)->index) == cudaSuccess) cudaMemGetInfo(free_bytes, total_bytes);
    cudaGetLastError();
}

/* ---- order and waiting ---------------------------------------------------------------------------------------------- */

/* An event may be recorded again while streams still wait for its last state: they wait for what it stood for then. */
void stream_order(Device *dev, Stream from, Stream to) {
    CudaState *s = state_of(dev);
    if (from == to || device_error(dev) || !enter(dev, "device_order")) return;
    if (check(dev, "device_order", cudaEventRecord(s->order[from], s->stream[from])))
        check(dev, "device_order", cudaStreamWaitEvent(s->stream[to], s->order[from], 0));
}

void stream_mark(Device *dev, Stream s, int index) {
    if (index < 0 || index >= DEVICE_MARKS) {
        device_fail(dev, "device_mark", "there is no mark of this number");
        return;
    }
    if (recordable(dev, "device_mark") && enter(dev, "device_mark"))
        check(dev, "device_mark", cudaEventRecord(state_of(dev)->mark[index], state_of(dev)->stream[s]));
}

int stream_mark_wait(Device *dev, int index) {
    if (index < 0 || index >= DEVICE_MARKS) {
        device_fail(dev, "device_mark_wait", "there is no mark of this number");
        return -1;
    }
    return check_queued(dev, "device_mark_wait", cudaEventSynchronize(state_of(dev)->mark[index])) ? 0 : -1;
}

int poll_result(Device *dev, const char *what, cudaError_t rc) {
    if (rc == cudaErrorNotReady) {
        cudaGetLastError();
        return 0;
    }
    return check_queued(dev, what, rc) ? 1 : -1;
}

int stream_mark_poll(Device *dev, int index) {
    if (index < 0 || index >= DEVICE_MARKS) {
        device_fail(dev, "device_mark_poll", "there is no mark of this number");
        return -1;
    }
    return poll_result(dev, "device_mark_poll", cudaEventQuery(state_of(dev)->mark[index]));
}

int stream_poll(Device *dev, Stream s) { return poll_result(dev, "device_poll", cudaStreamQuery(state_of(dev)->stream[s])); }

int stream_sync(Device *dev) {
    int ok = 1;
    if (state_of(dev)->recording && !recordable(dev, "device_sync")) return -1;
    for (int i = 0; i < STREAM_COUNT; i++)
        ok &= check_queued(dev, "device_sync", cudaStreamSynchronize(state_of(dev)->stream[i]));
    return ok ? 0 : -1;
}

void *stream_of(Device *dev, Stream s) { return state_of(dev)->stream[s]; }

/* ---- recording ------------------------------------------------------------------------------------------------------ */

int record_begin(Device *dev) {
    CudaState *s = state_of(dev);
    if (s->recording) {
        device_fail(dev, "device_record", "a recording is under way");
        return -1;
    }
    if (!enter(dev, "device_record") ||
        !check(dev, "device_record",
               cudaStreamBeginCapture(s->stream[STREAM_COMPUTE], cudaStreamCaptureModeThreadLocal)))
        return -1;
    s->recording = 1;
    return 0;
}

/* A device that failed while recording still leaves capture mode here. */
DeviceGraph *record_end(Device *dev) {
    CudaState      *s = state_of(dev);
    cudaGraph_t     graph = NULL;
    cudaGraphExec_t ready = NULL;
    if (!s->recording) return NULL;
    s->recording = 0;
    cudaError_t rc = cudaStreamEndCapture(s->stream[STREAM_COMPUTE], &graph);
    if (rc == cudaSuccess && !device_error(dev)) rc = cudaGraphInstantiate(&ready, graph, 0);
    if (graph) cudaGraphDestroy(graph);
    check(dev, "device_record_end", rc);
    if (!device_error(dev)) return (DeviceGraph *)ready;
    if (ready) cudaGraphExecDestroy(ready);
    return NULL;
}

void graph_launch(Device *dev, DeviceGraph *graph) {
    if (!recordable(dev, "device_graph_launch") || !enter(dev, "device_graph_launch")) return;
    state_of(dev)->last_op = "device_graph_launch";
    check(dev, "device_graph_launch",
          cudaGraphLaunch((cudaGraphExec_t)graph, state_of(dev)->stream[STREAM_COMPUTE]));
}

void graph_free(Device *dev, DeviceGraph *graph) { check(dev, "device_graph_free", cudaGraphExecDestroy((cudaGraphExec_t)graph)); }

/* ---- opening and closing -------------------------------------------------------------------------------------------- */

double peak_flops(const Device *dev, DType t) {
    const CudaState *s = state_of(dev);
    return t == DTYPE_F32 ? s->peak_f32 : t == DTYPE_BF16 ? s->peak_bf16 : t == DTYPE_I8 ? 2 * s->peak_bf16 : 0;
}

/* Dense bf16 tensor-core rates of the vendor's data sheets; first match counts. */
double peak_bf16_of(const char *name) {
    static const struct {
        const char *part;
        double      flops;
    } cards[] = {{"H100 PCIe", 756e12}, {"H100 NVL", 835e12}, {"H200 NVL", 835e12}, {"H100", 989e12}, {"H200", 989e12},
                 {"A100", 312e12},      {"L40S", 362e12},     {"A40", 150e12}};
    for (size_t i = 0; i < sizeof cards / sizeof *cards; i++)
        if (strstr(name, cards[i].part)) return cards[i].flops;
    return 0;
}

/* One fused multiply-add a lane and clock; 64 lanes a multiprocessor on sm_80, 128 on every later one. */
double peak_f32_of(int index, int sm_count, int capability) {
    int khz = 0;
    if (cudaDeviceGetAttribute(&khz, cudaDevAttrClockRate, index) != cudaSuccess) cudaGetLastError();
    return 2.0 * (capability == 80 ? 64 : 128) * sm_count * khz * 1e3;
}

void state_close(CudaState *s) {
    cudaSetDevice(s->index);
    for (int i = 0; i < STREAM_COUNT; i++)
        if (s->stream[i]) cudaStreamSynchronize(s->stream[i]);
    for (int i = 0; i < STREAM_COUNT; i++)
        if (s->order[i]) cudaEventDestroy(s->order[i]);
    for (int i = 0; i < DEVICE_MARKS; i++)
        if (s->mark[i]) cudaEventDestroy(s->mark[i]);
    for (int i = 0; i < STAGING_SLOTS; i++)
        if (s->staged[i]) cudaEventDestroy(s->staged[i]);
    if (s->staging) cudaFreeHost(s->staging);
    for (int i = 0; i < STREAM_COUNT; i++)
        if (s->stream[i]) cudaStreamDestroy(s->stream[i]);
    pthread_mutex_destroy(&s->lock);
    cudaGetLastError();
    free(s);
}

void cuda_close(Device *dev) {
    cublas_close(state_of(dev)->cublas);
    state_close(state_of(dev));
}

int use_cublas(Device *dev, char *msg, size_t msg_size) {
    CudaState *s = state_of(dev);
    if (cudaSetDevice(s->index) == cudaSuccess && !s->cublas) s->cublas = cublas_open(msg, msg_size);
    return s->cublas ? 0 : -1;
}

/* Communication goes first where both want the machine: a collective is what other ranks wait for. */
cudaError_t state_fill(CudaState *s) {
    int least, greatest;
    cudaError_t rc = cudaSetDevice(s->index);
    if (rc == cudaSuccess) rc = cudaDeviceGetStreamPriorityRange(&least, &greatest);
    for (int i = 0; i < STREAM_COUNT && rc == cudaSuccess; i++)
        rc = cudaStreamCreateWithPriority(&s->stream[i], cudaStreamNonBlocking, i == STREAM_COMM ? greatest : least);
    for (int i = 0; i < STREAM_COUNT && rc == cudaSuccess; i++)
        rc = cudaEventCreateWithFlags(&s->order[i], cudaEventDisableTiming);
    for (int i = 0; i < DEVICE_MARKS && rc == cudaSuccess; i++)
        rc = cudaEventCreateWithFlags(&s->mark[i], cudaEventDisableTiming);
    for (int i = 0; i < STAGING_SLOTS && rc == cudaSuccess; i++)
        rc = cudaEventCreateWithFlags(&s->staged[i], cudaEventDisableTiming);
    if (rc == cudaSuccess) rc = cudaMallocHost((void **)&s->staging, (size_t)STAGING_SLOTS * STAGING_BYTES);
    return rc;
}

/* The driver's function, without linking to the driver. */
TensorMapEncode driver_tensor_map_encode() {
    void                           *function = NULL;
    cudaDriverEntryPointQueryResult found;
    cudaError_t rc = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found);
    if (rc == cudaSuccess && found == cudaDriverEntryPointSuccess) return (TensorMapEncode)function;
    cudaGetLastError();
    return NULL;
}

/* Why no GPU can be opened, and what to do; 0 = some can. */
int devices_missing(int *count, char *msg, size_t msg_size) {
    int         driver = 0, runtime = 0;
    cudaError_t rc = cudaGetDeviceCount(count);
    if (rc == cudaSuccess && *count > 0) return 0;
    cudaGetLastError();
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    if (!driver)
        snprintf(msg, msg_size, "opening a GPU: this machine has no NVIDIA driver; install it, or use --device cpu");
    else if (rc == cudaErrorInsufficientDriver)
        snprintf(msg, msg_size,
                 "opening a GPU: the NVIDIA driver serves CUDA %d.%d, expected %d.%d or later; update the driver, or use "
                 "--device cpu", driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
    else if (rc == cudaSuccess || rc == cudaErrorNoDevice)
        snprintf(msg, msg_size, "opening a GPU: the driver shows none%s%s; see `nvidia-smi -L`, or use --device cpu",
                 visible ? ", with CUDA_VISIBLE_DEVICES=" : "", visible ? visible : "");
    else
        snprintf(msg, msg_size, "opening a GPU: %s; see `nvidia-smi`, or use --device cpu", cudaGetErrorString(rc));
    return -1;
}

} // namespace

static const DeviceBackend *backend_table();

int device_count_cuda(void) {
    int count = 0;
    if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
    cudaGetLastError();
    return 0;
}

int device_open_cuda(Device *dev, int index, char *msg, size_t msg_size) {
    enum { CAPABILITY_MIN = 80 };
    int count = 0;
    if (devices_missing(&count, msg, msg_size)) return -1;
    if (index < 0 || index >= count) {
        snprintf(msg, msg_size,
                 "opening GPU %d: this machine shows %d (0 to %d); start at most one rank a GPU, or use --device cpu",
                 index, count, count - 1);
        return -1;
    }
    cudaDeviceProp card;
    cudaError_t    rc = cudaGetDeviceProperties(&card, index);
    if (rc != cudaSuccess) {
        cudaGetLastError();
        snprintf(msg, msg_size, "opening GPU %d: %s; see `nvidia-smi`, or use --device cpu", index, cudaGetErrorString(rc));
        return -1;
    }
    int capability = card.major * 10 + card.minor;
    if (capability < CAPABILITY_MIN) {
        snprintf(msg, msg_size,
                 "opening GPU %d: %s has compute capability %d.%d, expected 8.0 or later (A100 and newer); use another "
                 "GPU, or --device cpu", index, card.name, card.major, card.minor);
        return -1;
    }
    CudaState *s = (CudaState *)calloc(1, sizeof *s);
    if (!s) {
        snprintf(msg, msg_size, "opening GPU %d: out of host memory", index);
        return -1;
    }
    pthread_mutex_init(&s->lock, NULL);
    s->index = index;
    s->capability = capability;
    s->sm_count = card.multiProcessorCount;
    s->peak_bf16 = peak_bf16_of(card.name);
    s->peak_f32 = peak_f32_of(index, s->sm_count, capability);
    rc = state_fill(s);
    if (rc == cudaSuccess && capability == 90) s->tensor_map_encode = driver_tensor_map_encode();
    if (rc != cudaSuccess) {
        state_close(s);
        snprintf(msg, msg_size, "opening GPU %d (%s): %s; see who uses it with `nvidia-smi`, or use --device cpu", index,
                 card.name, cudaGetErrorString(rc));
        return -1;
    }
    dev->backend = backend_table();
    dev->threads = 1;
    dev->state = s;
    if (cudaDeviceGetPCIBusId(dev->bus, sizeof dev->bus, index) != cudaSuccess) snprintf(dev->bus, sizeof dev->bus, "GPU %d", index);
    cudaGetLastError();
    snprintf(dev->name, sizeof dev->name, "GPU %d, %.80s, sm_%d, %.0f GiB", index, card.name, capability,
             (double)card.totalGlobalMem / (1 << 30));
    return 0;
}

/* ---- for the kernels ------------------------------------------------------------------------------------------------ */

Cublas      *cuda_cublas(const Device *dev) { return state_of(dev)->cublas; }
TensorMapEncode cuda_tensor_map_encode(const Device *dev) { return state_of(dev)->tensor_map_encode; }
cudaStream_t cuda_compute_stream(const Device *dev) { return state_of(dev)->stream[STREAM_COMPUTE]; }
int          cuda_sm_count(const Device *dev) { return state_of(dev)->sm_count; }
int          cuda_compute_capability(const Device *dev) { return state_of(dev)->capability; }

/* Above 48 KiB in all a kernel has to be granted its dynamic shared memory first, once; its static memory may be 32. */
static int shared_granted(Device *dev, const char *op, const void *kernel, size_t smem) {
    CudaState *s = state_of(dev);
    int        ok = 1, i = 0;
    pthread_mutex_lock(&s->lock);
    while (i < LARGE_SHARED_KERNELS && s->kernel[i] && s->kernel[i] != kernel) i++;
    if (i == LARGE_SHARED_KERNELS || s->kernel_smem[i] < smem) {
        ok = check(dev, op, cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)smem));
        if (ok && i < LARGE_SHARED_KERNELS) s->kernel[i] = kernel, s->kernel_smem[i] = smem;
    }
    pthread_mutex_unlock(&s->lock);
    return ok;
}

int cuda_launch_ready(Device *dev, const char *op, const void *kernel, size_t smem) {
    if (device_error(dev) || !enter(dev, op)) return 0;
    return smem <= PLAIN_SHARED_BYTES || shared_granted(dev, op, kernel, smem);
}

void cuda_launch_check(Device *dev, const char *op) {
    state_of(dev)->last_op = op;
    check(dev, op, cudaGetLastError());
}

void *cuda_scratch(Device *dev, const char *op, size_t bytes) {
    if (device_error(dev)) return NULL;
    size_t have;
    void  *workspace = device_workspace(dev, &have);
    if (have >= bytes) return workspace;
    char why[160];
    snprintf(why, sizeof why, "needs %zu bytes of workspace, %zu reserved: device_reserve(workspace_bytes(limits))",
             bytes, have);
    device_fail(dev, op, why);
    return NULL;
}

static const DeviceBackend *backend_table() {
    static constexpr DeviceBackend table = [] {
        DeviceBackend b = {};
        b.close = cuda_close;
        b.alloc = memory_alloc, b.free = memory_free;
        b.zero = memory_zero, b.copy = memory_copy;
        b.upload = memory_upload, b.download = memory_download;
        b.host_alloc = host_alloc, b.host_free = host_free;
        b.upload_async = upload_async, b.download_async = download_async;
        b.mark = stream_mark, b.mark_wait = stream_mark_wait, b.mark_poll = stream_mark_poll;
        b.record = record_begin, b.record_end = record_end;
        b.graph_launch = graph_launch, b.graph_free = graph_free;
        b.memory = memory_info;
        b.order = stream_order, b.poll = stream_poll, b.sync = stream_sync, b.stream = stream_of;
        b.peak_flops = peak_flops;
        b.use_cublas = use_cublas;
        b.kernels = cuda_kernels;
        return b;
    }();
    return &table;
}
