/* planted_host.cu - mistakes in the use of streams, memory and recordings, and their right twins. */
#include "tests/emulator/planted.h"

#include "tests/emulator/planted_array.h"

#include <cstdlib>

namespace {

__global__ void set_kernel(int *out, int n, int value) {
    for (int i = (int)threadIdx.x; i < n; i += (int)blockDim.x) out[i] = value;
}
__global__ void add_kernel(int *out, const int *in, int n) {
    for (int i = (int)threadIdx.x; i < n; i += (int)blockDim.x) out[i] += in[i];
}

enum { N = 64 };

/* Two streams and a few arrays, as a program would have them. */
struct Bench {
    cudaStream_t a, b;
    cudaEvent_t event;
    int *x, *y, *host;
    Bench() {
        cudaStreamCreateWithFlags(&a, cudaStreamNonBlocking);
        cudaStreamCreateWithFlags(&b, cudaStreamNonBlocking);
        cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
        cudaMalloc((void **)&x, N * sizeof *x);
        cudaMalloc((void **)&y, N * sizeof *y);
        cudaMallocHost((void **)&host, N * sizeof *host);
        cudaMemsetAsync(x, 0, N * sizeof *x, a);
        cudaMemsetAsync(y, 0, N * sizeof *y, a);
        cudaStreamSynchronize(a);
    }
    ~Bench() {
        cudaFree(x);
        cudaFree(y);
        cudaFreeHost(host);
        cudaEventDestroy(event);
        cudaStreamDestroy(a);
        cudaStreamDestroy(b);
    }
    void order(cudaStream_t from, cudaStream_t to) {
        cudaEventRecord(event, from);
        cudaStreamWaitEvent(to, event, 0);
    }
};

int verdict(bool right) { return cudaGetLastError() ? 2 : right ? 0 : 1; }
int refused(cudaError_t e) { return e ? 2 : 0; }

int missing_order(bool bug) {
    Bench m;
    LAUNCH(set_kernel, 1, 32, 0, m.a, m.x, (int)N, 7);
    if (!bug) m.order(m.a, m.b);
    cudaMemcpyAsync(m.host, m.x, N * sizeof *m.host, cudaMemcpyDeviceToHost, m.b);
    cudaStreamSynchronize(m.b);
    return verdict(m.host[0] == 7);
}

/* The other direction: a copy into an array that the other stream has not read yet. */
int overwritten_input(bool bug) {
    Bench m;
    LAUNCH(add_kernel, 1, 32, 0, m.a, m.y, m.x, (int)N);
    if (!bug) m.order(m.a, m.b);
    LAUNCH(set_kernel, 1, 32, 0, m.b, m.x, (int)N, 5);
    cudaMemcpyAsync(m.host, m.y, N * sizeof *m.host, cudaMemcpyDeviceToHost, m.a);
    cudaStreamSynchronize(m.a);
    return verdict(m.host[0] == 0);
}

int host_buffer_reused(bool bug) {
    Bench m;
    int *back = nullptr;
    cudaMallocHost((void **)&back, N * sizeof *back);
    m.host[0] = 1;
    cudaMemcpyAsync(m.x, m.host, N * sizeof *m.host, cudaMemcpyHostToDevice, m.a);
    if (!bug) cudaStreamSynchronize(m.a);
    m.host[0] = 2;
    cudaMemcpyAsync(back, m.x, N * sizeof *back, cudaMemcpyDeviceToHost, m.a);
    cudaStreamSynchronize(m.a);
    bool right = back[0] == 1;
    cudaFreeHost(back);
    return verdict(right);
}

int read_before_sync(bool bug) {
    Bench m;
    m.host[0] = 0;
    LAUNCH(set_kernel, 1, 32, 0, m.a, m.x, (int)N, 7);
    cudaMemcpyAsync(m.host, m.x, N * sizeof *m.host, cudaMemcpyDeviceToHost, m.a);
    if (!bug) cudaStreamSynchronize(m.a);
    bool right = m.host[0] == 7;
    cudaStreamSynchronize(m.a);
    return verdict(right);
}

/* An event recorded too early orders too little. */
int event_too_early(bool bug) {
    Bench m;
    if (bug) cudaEventRecord(m.event, m.a);
    LAUNCH(set_kernel, 1, 32, 0, m.a, m.x, (int)N, 7);
    if (!bug) cudaEventRecord(m.event, m.a);
    cudaStreamWaitEvent(m.b, m.event, 0);
    cudaMemcpyAsync(m.host, m.x, N * sizeof *m.host, cudaMemcpyDeviceToHost, m.b);
    cudaStreamSynchronize(m.b);
    return verdict(m.host[0] == 7);
}

int pageable_copy(bool bug) {
    Bench m;
    std::vector<int> host(N, 3);
    cudaMemcpyAsync(m.x, host.data(), N * sizeof(int), cudaMemcpyHostToDevice, m.a);
    if (!bug) cudaStreamSynchronize(m.a);
    LAUNCH(set_kernel, 1, 32, 0, m.a, m.y, (int)N, 7);
    cudaStreamSynchronize(m.a);
    return verdict(true);
}

int host_touches_device(bool bug) {
    Bench m;
    volatile int *p = bug ? m.x : m.host;
    *p = 1;
    return verdict(true);
}

int kernel_given_host_memory(bool bug) {
    Bench m;
    std::vector<int> host(N, 3);
    int *p = bug ? host.data() : m.x;
    LAUNCH(set_kernel, 1, 32, 0, m.a, p, (int)N, 7);
    cudaStreamSynchronize(m.a);
    return verdict(true);
}

int use_after_free(bool bug) {
    Bench m;
    int *p = nullptr;
    cudaMalloc((void **)&p, 100);
    if (bug) cudaFree(p);
    LAUNCH(set_kernel, 1, 32, 0, m.a, p, 25, 7);
    cudaStreamSynchronize(m.a);
    if (!bug) cudaFree(p);
    return verdict(true);
}

int copy_too_long(bool bug) {
    Bench m;
    return refused(cudaMemcpyAsync(m.x, m.host, N * sizeof *m.host + (bug ? 4 : 0), cudaMemcpyHostToDevice, m.a));
}

int wrong_direction(bool bug) {
    Bench m;
    return refused(
        cudaMemcpyAsync(m.x, m.host, N * sizeof *m.host, bug ? cudaMemcpyDeviceToHost : cudaMemcpyHostToDevice, m.a));
}

int too_many_threads(bool bug) {
    Bench m;
    LAUNCH(set_kernel, 1, bug ? 1025 : 1024, 0, m.a, m.x, (int)N, 7);
    return refused(cudaGetLastError());
}

int empty_grid(bool bug) {
    Bench m;
    LAUNCH(set_kernel, bug ? 0 : 1, 32, 0, m.a, m.x, (int)N, 7);
    return refused(cudaGetLastError());
}

int shared_not_granted(bool bug) {
    Bench m;
    if (!bug) cudaFuncSetAttribute((const void *)set_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 49153);
    LAUNCH(set_kernel, 1, 32, 49153, m.a, m.x, (int)N, 7);
    return refused(cudaGetLastError());
}

int shared_beyond_gpu(bool bug) {
    return refused(cudaFuncSetAttribute((const void *)set_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                        bug ? 166913 : 166912));
}

/* ---- recordings ---------------------------------------------------------------------------------------------- */
/* Records two kernels with `inside` between them, launches the recording twice, and looks at the sum. */
template <class F> int record(F inside) {
    Bench m;
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t exec = nullptr;
    cudaStreamBeginCapture(m.a, cudaStreamCaptureModeThreadLocal);
    LAUNCH(set_kernel, 1, 32, 0, m.a, m.x, (int)N, 7);
    cudaError_t e = inside(m);
    LAUNCH(add_kernel, 1, 32, 0, m.a, m.y, m.x, (int)N);
    cudaError_t end = cudaStreamEndCapture(m.a, &graph);
    if (e || end) return cudaGetLastError(), 2;
    cudaGraphInstantiate(&exec, graph, 0);
    cudaGraphDestroy(graph);
    cudaGraphLaunch(exec, m.a);
    cudaGraphLaunch(exec, m.a);
    cudaMemcpyAsync(m.host, m.y, N * sizeof *m.host, cudaMemcpyDeviceToHost, m.a);
    cudaStreamSynchronize(m.a);
    cudaGraphExecDestroy(exec);
    return verdict(m.host[0] == 14);
}

int wait_while_recording(bool bug) {
    return record([bug](Bench &m) { return bug ? cudaStreamSynchronize(m.a) : cudaSuccess; });
}
int alloc_while_recording(bool bug) {
    return record([bug](Bench &) {
        void *p = nullptr;
        return bug ? cudaMalloc(&p, 100) : cudaSuccess;
    });
}
int pageable_copy_while_recording(bool bug) {
    return record([bug](Bench &m) {
        int one[N];
        for (int &v : one) v = 7;
        return bug ? cudaMemcpyAsync(m.x, one, sizeof one, cudaMemcpyHostToDevice, m.a) : cudaSuccess;
    });
}
/* A second stream takes part: brought in by an event, and back by another. */
int fork_not_joined(bool bug) {
    return record([bug](Bench &m) {
        m.order(m.a, m.b);
        LAUNCH(set_kernel, 1, 32, 0, m.b, m.x, (int)N, 7);
        if (!bug) m.order(m.b, m.a);
        return cudaSuccess;
    });
}
int wait_for_outside(bool bug) {
    return record([bug](Bench &m) {
        if (!bug) return cudaSuccess;
        cudaEventRecord(m.event, m.b);
        return cudaStreamWaitEvent(m.a, m.event, 0);
    });
}
/* A recording holds the arguments' values, but memory's contents are read when it runs. */
int recorded_contents(bool bug) {
    Bench m;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    cudaStreamBeginCapture(m.a, cudaStreamCaptureModeThreadLocal);
    cudaMemcpyAsync(m.x, m.host, N * sizeof *m.host, cudaMemcpyHostToDevice, m.a);
    LAUNCH(add_kernel, 1, 32, 0, m.a, m.y, m.x, (int)N);
    cudaStreamEndCapture(m.a, &graph);
    cudaGraphInstantiate(&exec, graph, 0);
    cudaGraphDestroy(graph);
    for (int i = 1; i <= 3; i++) {
        m.host[0] = i;
        cudaGraphLaunch(exec, m.a);
        if (!bug) cudaStreamSynchronize(m.a);
    }
    cudaMemcpyAsync(m.host, m.y, N * sizeof *m.host, cudaMemcpyDeviceToHost, m.a);
    cudaStreamSynchronize(m.a);
    cudaGraphExecDestroy(exec);
    return verdict(m.host[0] == 6);
}

} // namespace

const Planted planted_host[] = {
    {"stream order missing before a read", missing_order, WRONG_RESULT, ""},
    {"stream order missing before a write", overwritten_input, WRONG_RESULT, ""},
    {"page-locked buffer filled again too early", host_buffer_reused, WRONG_RESULT, ""},
    {"page-locked buffer read before the wait", read_before_sync, WRONG_RESULT, ""},
    {"event recorded too early", event_too_early, WRONG_RESULT, ""},
    {"async copy of pageable memory", pageable_copy, FAULT, "not page-locked"},
    {"host touches GPU memory", host_touches_device, FAULT, "the host reaches for GPU memory|AddressSanitizer: SEGV"},
    {"kernel given host memory", kernel_given_host_memory, FAULT, "pointer argument number 1"},
    {"kernel given freed memory", use_after_free, FAULT, "never was, or freed"},
    {"copy longer than the allocation", copy_too_long, RUNTIME_ERROR, "not inside one allocation"},
    {"copy in the wrong direction", wrong_direction, RUNTIME_ERROR, "copy of"},
    {"too many threads in a block", too_many_threads, RUNTIME_ERROR, "blocks (1025,1,1)"},
    {"empty grid", empty_grid, RUNTIME_ERROR, "grid (0,1,1)"},
    {"shared memory that was not granted", shared_not_granted, RUNTIME_ERROR, "49153 of dynamic shared memory"},
    {"more shared memory than the GPU has", shared_beyond_gpu, RUNTIME_ERROR, "the GPU has 166912"},
    {"wait while recording", wait_while_recording, RUNTIME_ERROR, "stream that records"},
    {"allocation while recording", alloc_while_recording, RUNTIME_ERROR, "allocation while a stream records"},
    {"pageable copy while recording", pageable_copy_while_recording, RUNTIME_ERROR, "not page-locked"},
    {"recording with a stream that does not come back", fork_not_joined, RUNTIME_ERROR, "was not waited for"},
    {"recording that waits for work outside", wait_for_outside, RUNTIME_ERROR, "an event from outside"},
    {"recorded upload's buffer filled again too early", recorded_contents, WRONG_RESULT, ""},
};
const int n_planted_host = sizeof planted_host / sizeof *planted_host;
