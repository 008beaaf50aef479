/* runtime_functions.cu - the runtime's functions as a right program uses them: what they return, and what has happened
 * when they do. */
#include "tests/emulator/emulator.h"
#include "tests/emulator/planted.h"
#include "tests/emulator/planted_array.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

namespace {

#define EXPECT(condition)                                                                                              \
    do {                                                                                                               \
        if (!(condition)) return fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition), 1;            \
    } while (0)

__global__ void set_kernel(int *out, int value) { out[threadIdx.x] = value; }
__global__ void add_kernel(int *out, int value) { out[threadIdx.x] += value; }
__global__ void trap_kernel(int *out) {
    if (*out == 0) __trap();
    *out = 7;
}

int devices() {
    emu_config()->devices = 2;
    emu_config()->memory = 1 << 20;
    int n = 0, value = 0;
    EXPECT(!cudaGetDeviceCount(&n) && n == 2);
    EXPECT(cudaSetDevice(2) == cudaErrorInvalidDevice && cudaGetLastError() == cudaErrorInvalidDevice);
    EXPECT(cudaGetLastError() == cudaSuccess);
    EXPECT(!cudaSetDevice(1) && !cudaGetDevice(&n) && n == 1);
    cudaDeviceProp p;
    EXPECT(!cudaGetDeviceProperties(&p, 1) && p.major == 8 && p.minor == 0 && p.totalGlobalMem == 1 << 20);
    EXPECT(!cudaDeviceGetAttribute(&value, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0) && value == 166912);
    EXPECT(!strcmp(cudaGetErrorString(cudaErrorMemoryAllocation), "out of memory"));
    EXPECT(!strcmp(cudaGetErrorName(cudaErrorMemoryAllocation), "cudaErrorMemoryAllocation"));
    void *function = &p;
    cudaDriverEntryPointQueryResult found;
    EXPECT(!cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, 0, &found));
    EXPECT(function && found == cudaDriverEntryPointSuccess);
    EXPECT(!cudaGetDriverEntryPointByVersion("cuNoSuchThing", &function, 12000, 0, &found));
    EXPECT(!function && found == cudaDriverEntryPointSymbolNotFound);
    return 0;
}

int no_driver() {
    int n = 1, version = 1;
    emu_config()->driver = DRIVER_NONE;
    EXPECT(cudaGetDeviceCount(&n) == cudaErrorInsufficientDriver && n == 0);
    EXPECT(!cudaDriverGetVersion(&version) && version == 0);
    emu_config()->driver = DRIVER_OLD;
    EXPECT(cudaGetDeviceCount(&n) == cudaErrorInsufficientDriver);
    EXPECT(!cudaDriverGetVersion(&version) && version == 11040);
    emu_config()->driver = DRIVER_OK;
    emu_config()->devices = 0;
    EXPECT(cudaGetDeviceCount(&n) == cudaErrorNoDevice);
    return 0;
}

/* Memory of two GPUs apart, each with its limit; freed memory can be had again; what was freed twice is refused. */
int memory() {
    emu_config()->devices = 2;
    emu_config()->memory = 1 << 20;
    size_t left = 0, total = 0;
    void *p = nullptr, *q = nullptr, *other = nullptr;
    EXPECT(!cudaMalloc(&p, 700000) && (uintptr_t)p % 256 == 0);
    EXPECT(cudaMalloc(&q, 700000) == cudaErrorMemoryAllocation && !q && cudaGetLastError());
    EXPECT(!cudaMemGetInfo(&left, &total) && total == 1 << 20 && left < 400000 && left > 340000);
    EXPECT(!cudaSetDevice(1) && !cudaMalloc(&other, 700000) && !cudaSetDevice(0));
    EXPECT(!cudaFree(p) && cudaFree(p) == cudaErrorInvalidValue && cudaGetLastError());
    EXPECT(!cudaMemGetInfo(&left, &total) && left == total);
    for (int i = 0; i < 50; i++) {
        EXPECT(!cudaMalloc(&p, 1000000) && !cudaFree(p));
    }
    EXPECT(!cudaFree(nullptr));
    unsigned char bytes[16];
    EXPECT(!cudaMalloc(&p, 16) && !cudaMemcpy(bytes, p, 16, cudaMemcpyDeviceToHost));
    for (unsigned char b : bytes) EXPECT(b == 0xFF); /* new memory is NaN */
    EXPECT(!cudaFree(p));
    return 0;
}

int copies() {
    char *a = nullptr, *b = nullptr;
    char host[64], back[64];
    for (int i = 0; i < 64; i++) host[i] = (char)i;
    EXPECT(!cudaMalloc((void **)&a, 64) && !cudaMalloc((void **)&b, 64));
    EXPECT(!cudaMemcpy(a, host, 64, cudaMemcpyHostToDevice) && !cudaMemcpy(b, a, 64, cudaMemcpyDeviceToDevice));
    EXPECT(!cudaMemset(b + 8, 1, 8) && !cudaMemcpy(back, b, 64, cudaMemcpyDefault));
    for (int i = 0; i < 64; i++) EXPECT(back[i] == (i >= 8 && i < 16 ? 1 : i));
    EXPECT(!cudaMemcpy2DAsync(back, 8, a, 16, 4, 4, cudaMemcpyDeviceToHost, nullptr) && !cudaDeviceSynchronize());
    for (int row = 0; row < 4; row++)
        for (int i = 0; i < 4; i++) EXPECT(back[row * 8 + i] == row * 16 + i);
    cudaPointerAttributes where;
    EXPECT(!cudaPointerGetAttributes(&where, a + 10) && where.type == cudaMemoryTypeDevice);
    EXPECT(!cudaPointerGetAttributes(&where, host) && where.type == cudaMemoryTypeUnregistered);
    EXPECT(!cudaFree(a) && !cudaFree(b));
    return 0;
}

struct Streams {
    cudaStream_t a, b, plain;
    int *x, *host;
    Streams() {
        cudaStreamCreateWithFlags(&a, cudaStreamNonBlocking);
        cudaStreamCreateWithPriority(&b, cudaStreamNonBlocking, -1);
        cudaStreamCreate(&plain);
        cudaMalloc((void **)&x, 32 * sizeof *x);
        cudaMallocHost((void **)&host, 32 * sizeof *host);
        cudaMemset(x, 0, 32 * sizeof *x);
        cudaDeviceSynchronize();
    }
    ~Streams() {
        cudaFree(x);
        cudaFreeHost(host);
        for (cudaStream_t s : {a, b, plain}) cudaStreamDestroy(s);
    }
    int value(cudaStream_t s) {
        cudaMemcpyAsync(host, x, 32 * sizeof *x, cudaMemcpyDeviceToHost, s);
        cudaStreamSynchronize(s);
        return host[0];
    }
};

/* A stream is done when all of its work is; polling gets there; an event is done when what came before it is. */
int waiting() {
    Streams m;
    cudaEvent_t e, start;
    EXPECT(!cudaEventCreate(&e) && !cudaEventCreate(&start));
    EXPECT(!cudaEventQuery(e) && !cudaEventSynchronize(e)); /* never recorded */
    EXPECT(!cudaEventRecord(start, m.a));
    for (int i = 0; i < 5; i++) LAUNCH(add_kernel, 1, 32, 0, m.a, m.x, 1);
    EXPECT(!cudaEventRecord(e, m.a));
    for (int i = 0; i < 5; i++) LAUNCH(add_kernel, 1, 32, 0, m.a, m.x, 10);
    EXPECT(cudaStreamQuery(m.a) == cudaErrorNotReady && cudaEventQuery(e) == cudaErrorNotReady);
    int polls = 0;
    while (cudaEventQuery(e) == cudaErrorNotReady) EXPECT(++polls < 100);
    float ms = -1;
    EXPECT(!cudaEventElapsedTime(&ms, start, e) && ms >= 0);
    while (cudaStreamQuery(m.a) == cudaErrorNotReady) EXPECT(++polls < 100);
    EXPECT(m.value(m.b) == 55);
    EXPECT(!cudaEventDestroy(e) && !cudaEventDestroy(start) && cudaEventDestroy(e) && cudaGetLastError());
    return 0;
}

/* Recording an event again does not move those who wait for it already. */
int events_reused() {
    Streams m;
    cudaEvent_t e;
    cudaEventCreateWithFlags(&e, cudaEventDisableTiming);
    LAUNCH(set_kernel, 1, 32, 0, m.a, m.x, 1);
    cudaEventRecord(e, m.a);
    cudaStreamWaitEvent(m.b, e, 0);
    LAUNCH(add_kernel, 1, 32, 0, m.b, m.x, 2);
    cudaEventRecord(e, m.b);
    cudaStreamWaitEvent(m.a, e, 0);
    LAUNCH(add_kernel, 1, 32, 0, m.a, m.x, 4);
    EXPECT(m.value(m.a) == 7);
    cudaEventDestroy(e);
    return 0;
}

/* The default stream waits for streams that did not opt out, and they for it. */
int default_stream() {
    Streams m;
    LAUNCH(set_kernel, 1, 32, 0, m.plain, m.x, 1);
    LAUNCH(add_kernel, 1, 32, 0, nullptr, m.x, 2);
    LAUNCH(add_kernel, 1, 32, 0, m.plain, m.x, 4);
    EXPECT(m.value(m.plain) == 7);
    EXPECT(cudaStreamSynchronize((cudaStream_t)&m) == cudaErrorInvalidResourceHandle && cudaGetLastError());
    return 0;
}

int host_functions() {
    Streams m;
    static std::string order;
    order = "";
    cudaLaunchHostFunc(
        m.a, [](void *text) { order += (const char *)text; }, const_cast<char *>("first "));
    cudaLaunchHostFunc(
        m.a, [](void *text) { order += (const char *)text; }, const_cast<char *>("second"));
    EXPECT(order.empty());
    EXPECT(!cudaStreamSynchronize(m.a) && order == "first second");
    auto touch = [](void *p) { return *(int *)p += 3, 0; };
    LAUNCH(set_kernel, 1, 32, 0, m.a, m.x, 1);
    EXPECT(!emu_enqueue(m.a, touch, m.x) && m.value(m.a) == 4);
    return 0;
}

/* A recording with a fork and a join; launched often, and after the recording's own events are gone. */
int recordings() {
    Streams m;
    cudaEvent_t e;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    cudaStreamCaptureStatus status;
    int *y;
    size_t nodes = 0;
    cudaMalloc((void **)&y, 32 * sizeof *y);
    cudaEventCreateWithFlags(&e, cudaEventDisableTiming);
    EXPECT(!cudaStreamBeginCapture(m.a, cudaStreamCaptureModeGlobal));
    EXPECT(!cudaStreamIsCapturing(m.a, &status) && status == cudaStreamCaptureStatusActive);
    LAUNCH(add_kernel, 1, 32, 0, m.a, m.x, 1);
    cudaEventRecord(e, m.a);
    cudaStreamWaitEvent(m.b, e, 0);
    LAUNCH(set_kernel, 1, 32, 0, m.b, y, 5);
    LAUNCH(add_kernel, 1, 32, 0, m.a, m.x, 10);
    cudaEventRecord(e, m.b);
    cudaStreamWaitEvent(m.a, e, 0);
    LAUNCH(add_kernel, 1, 32, 0, m.a, m.x, 100);
    EXPECT(!cudaStreamEndCapture(m.a, &graph) && !cudaGraphGetNodes(graph, nullptr, &nodes) && nodes == 4);
    EXPECT(m.value(m.a) == 0); /* nothing has run yet */
    EXPECT(!cudaGraphInstantiate(&exec, graph, 0) && !cudaGraphDestroy(graph) && !cudaEventDestroy(e));
    for (int i = 0; i < 3; i++) EXPECT(!cudaGraphLaunch(exec, m.a));
    EXPECT(!cudaGraphExecDestroy(exec) && m.value(m.a) == 333);
    cudaFree(y);
    return 0;
}

/* What a kernel did wrong stays the GPU's error, whatever is called. */
int sticky() {
    Streams m;
    LAUNCH(trap_kernel, 1, 1, 0, m.a, m.x);
    EXPECT(!cudaGetLastError()); /* nobody knows yet */
    EXPECT(cudaStreamSynchronize(m.a) == cudaErrorLaunchFailure);
    EXPECT(cudaGetLastError() == cudaErrorLaunchFailure && cudaGetLastError() == cudaErrorLaunchFailure);
    void *p;
    EXPECT(cudaMalloc(&p, 100) == cudaErrorLaunchFailure);
    char text[200];
    EXPECT(emu_take_faults(text, sizeof text) == 1 && strstr(text, "trap_kernel, block (0,0,0), thread (0,0,0)"));
    EXPECT(!cudaMalloc(&p, 100) && !cudaFree(p)); /* the emulator's way of opening the GPU again */
    return 0;
}

int occupancy() {
    int blocks = 0;
    EXPECT(!cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, (const void *)set_kernel, 256, 0) && blocks == 8);
    EXPECT(!cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, (const void *)set_kernel, 256, 80000) &&
           blocks == 2);
    cudaFuncAttributes a;
    EXPECT(!cudaFuncGetAttributes(&a, (const void *)set_kernel) && a.sharedSizeBytes == 0);
    return 0;
}

} // namespace

const Instruction runtime_functions[] = {
    {"devices", devices},
    {"no driver", no_driver},
    {"memory", memory},
    {"copies", copies},
    {"waiting", waiting},
    {"events reused", events_reused},
    {"default stream", default_stream},
    {"host functions", host_functions},
    {"recordings", recordings},
    {"sticky errors", sticky},
    {"occupancy", occupancy},
};
const int n_runtime_functions = sizeof runtime_functions / sizeof *runtime_functions;
