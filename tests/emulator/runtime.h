/* runtime.h - between the parts of the runtime's stand-in: runtime_device.cpp (devices, errors, attributes, launches),
 * runtime_memory.cpp, runtime_stream.cpp (streams, events, the order of work), runtime_graph.cpp (recording).
 *
 * Work on a stream does not run when it is queued but when somebody waits, and then in an order that the schedule
 * chooses among all that CUDA allows: so a missing wait, a missing order between two streams, or a page-locked buffer
 * that is filled again too early shows in the results. */
#ifndef EHR_TESTS_EMULATOR_RUNTIME_H
#define EHR_TESTS_EMULATOR_RUNTIME_H
#include "tests/emulator/scheduler.h"

#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

namespace emu {

typedef std::function<cudaError_t()> Work;

/* Something queued on a stream. */
struct Operation {
    uint64_t number; /* in the order of queueing, over all streams */
    cudaStream_t stream;
    Work work;                   /* may be empty */
    std::function<int()> shared; /* work that other processes take part in: emu_enqueue() */
    std::vector<std::shared_ptr<Operation>> after;
    bool done;
};
typedef std::shared_ptr<Operation> Op;

struct GraphNode {
    Work work;
    std::vector<size_t> after;
};

struct Capture {
    cudaStream_t origin;
    cudaStreamCaptureMode mode;
    std::thread::id thread;
    bool broken;
    std::vector<GraphNode> nodes;
    std::vector<cudaStream_t> streams;
};

} // namespace emu

struct CUstream_st {
    int device;
    bool blocking; /* ordered with the default stream */
    std::deque<emu::Op> queue;
    emu::Op last;
    std::shared_ptr<emu::Capture> capture;
    std::vector<size_t> ends; /* of the capture: what the next node of this stream comes after */
};
struct CUevent_st {
    bool timing, recorded;
    emu::Op op;
    std::shared_ptr<double> time_ms;
    std::shared_ptr<emu::Capture> capture;
    std::vector<size_t> ends;
};
struct CUgraph_st {
    std::vector<emu::GraphNode> nodes;
};
struct CUgraphExec_st {
    std::shared_ptr<const std::vector<emu::GraphNode>> nodes;
};

namespace emu {

/* ---- runtime_device.cpp -------------------------------------------------------------------------------------- */
extern thread_local int device_index;
extern uint64_t launches; /* by the host so far: emu_launches() */

/* Every function of the runtime begins with one: the emulator serves one CPU thread at a time. */
struct Call {
    Call();
    std::lock_guard<std::recursive_mutex> lock;
};
/* Makes e, or the error that a kernel left behind, the calling thread's last one.  why, if any, is printed: the
 * runtime's own words are few. */
__attribute__((format(printf, 2, 3))) cudaError_t fail(cudaError_t e, const char *why = nullptr, ...);
cudaError_t failed();              /* what a kernel left behind; cudaSuccess = nothing */
void device_broken(cudaError_t e); /* a kernel or copy failed: every later call does, too */
cudaError_t driver_state();        /* whether there is a driver and a GPU */

/* ---- runtime_memory.cpp -------------------------------------------------------------------------------------- */
enum Place { NOWHERE, ON_DEVICE, ON_HOST }; /* ON_HOST: page-locked */
struct Allocation {
    unsigned char *address;
    size_t bytes;
    Place place;
    int device;
};
/* The allocation that holds all of p[0..bytes), or NULL. */
const Allocation *memory_find(const void *p, size_t bytes);
/* Device memory cannot be touched but in between: the host reaching for it faults, as it does with a GPU. */
void memory_open();
void memory_close();
/* Where a GPU's memory lies, and for each `unit` bytes of it the allocation they belong to, or NULL. */
struct MemoryMap {
    unsigned char *base;
    size_t size, unit;
    const Allocation *const *units;
};
MemoryMap memory_map(int device);
bool memory_is_device(const void *p);      /* allocated or not */
void copies_finished(cudaStream_t stream); /* the host waited for stream */
void copies_must_be_finished();            /* something else is queued, or asked for */

/* ---- runtime_stream.cpp -------------------------------------------------------------------------------------- */
cudaError_t stream_of(cudaStream_t handle,
                      cudaStream_t *stream); /* the default stream's object; refuses unknown ones */
cudaError_t enqueue(cudaStream_t stream, Work work, Op *op = nullptr);
cudaError_t wait_for(const std::vector<Op> &targets);
cudaError_t wait_for_device();
bool is_done(const Op &op);

/* ---- runtime_graph.cpp --------------------------------------------------------------------------------------- */
/* Waiting for a stream, or allocating, is not allowed while this thread records; it spoils the recording. */
cudaError_t not_while_capturing(const char *what);
void capture_add(cudaStream_t stream, Work work);

/* ---- signals.cpp --------------------------------------------------------------------------------------------- */
void watch_addresses();

} // namespace emu
#endif
