/* runtime_stream.cpp - streams and events: what may run, and the order in which it does.
 *
 * The schedules: forward runs everything in the order of queueing; reverse lets the streams whose work was queued last
 * run ahead as far as they can; random takes any stream that can go on; priority runs only what is waited for, and
 * leaves the rest as long as possible. */
#include "tests/emulator/runtime.h"

#include <algorithm>
#include <chrono>
#include <set>

using namespace emu;

namespace {

std::set<cudaStream_t> streams; /* all, the default ones too */
std::vector<cudaStream_t> default_streams;
std::set<cudaEvent_t> events;
uint64_t queued;
bool running; /* an operation is under way: it may not call the runtime */
Random choice;

/* Whether op's turn has come; goes on with what other processes take part in, which then may have to wait again. */
bool can_run(const Op &op) {
    for (const Op &before : op->after)
        if (!before->done) return false;
    if (!op->shared || failed()) return true;
    memory_open();
    running = true;
    int state = op->shared();
    running = false;
    if (state == EMU_AGAIN) return false;
    if (state) device_broken(cudaErrorLaunchFailure);
    op->shared = nullptr;
    return true;
}

/* Then there may be nothing to run now, but there will be. */
bool others_at_work() {
    for (cudaStream_t s : streams)
        if (!s->queue.empty() && s->queue.front()->shared) return true;
    return false;
}

/* What has to run first for op to run, and can. */
Op needed_for(Op op) {
    for (;;) {
        Op head = op->stream->queue.front(), before;
        if (head == op) {
            for (const Op &o : op->after)
                if (!o->done) before = o;
            if (!before) return op;
        }
        op = head == op ? before : head;
    }
}

Op choose(const Op &target) {
    std::vector<Op> heads;
    for (cudaStream_t s : streams)
        if (!s->queue.empty() && can_run(s->queue.front())) heads.push_back(s->queue.front());
    std::sort(heads.begin(), heads.end(), [](const Op &a, const Op &b) { return a->number < b->number; });
    if (heads.empty()) return nullptr;
    switch (emu_config()->schedule) {
    case SCHEDULE_FORWARD: return heads.front();
    case SCHEDULE_REVERSE: return heads.back();
    case SCHEDULE_RANDOM:
        if (!choice.state) choice.state = emu_config()->seed * 2654435761u + 1;
        return heads[choice.next() % heads.size()];
    case SCHEDULE_PRIORITY: {
        Op op = target ? needed_for(target) : heads.front();
        return std::find(heads.begin(), heads.end(), op) == heads.end() ? nullptr : op;
    }
    }
    return nullptr;
}

void run(const Op &op) {
    op->stream->queue.pop_front();
    op->done = true;
    op->after.clear();
    Work work = std::move(op->work);
    op->work = nullptr;
    if (!work || failed()) return;
    memory_open();
    running = true;
    cudaError_t e = work();
    running = false;
    if (e) device_broken(e);
}

/* One operation of one stream; false = there is none. */
bool run_one(const Op &target) {
    Op op = choose(target);
    if (op) run(op);
    return op != nullptr;
}

cudaError_t usable(cudaEvent_t event) {
    if (!events.count(event)) return fail(cudaErrorInvalidResourceHandle);
    return failed();
}

std::vector<Op> ends_of(int device, bool only_blocking) {
    std::vector<Op> ends;
    for (cudaStream_t s : streams)
        if (s->device == device && (s->blocking || !only_blocking) && !is_done(s->last)) ends.push_back(s->last);
    return ends;
}

} // namespace

bool emu::is_done(const Op &op) { return !op || op->done; }

cudaError_t emu::stream_of(cudaStream_t handle, cudaStream_t *stream) {
    if (running) return fail(cudaErrorNotPermitted, "a host function on a stream calls the runtime");
    cudaError_t e = driver_state();
    if (e) return e;
    if (handle && handle != cudaStreamLegacy) {
        if (!streams.count(handle)) return fail(cudaErrorInvalidResourceHandle);
        *stream = handle;
        return cudaSuccess;
    }
    while (default_streams.size() <= (size_t)device_index) {
        default_streams.push_back(new CUstream_st{(int)default_streams.size(), true, {}, nullptr, nullptr, {}});
        streams.insert(default_streams.back());
    }
    *stream = default_streams[(size_t)device_index];
    return cudaSuccess;
}

cudaError_t emu::enqueue(cudaStream_t stream, Work work, Op *out) {
    copies_must_be_finished();
    if (stream->capture) {
        if (stream->capture->broken) return fail(cudaErrorStreamCaptureInvalidated);
        capture_add(stream, std::move(work));
        return cudaSuccess;
    }
    Op op = std::make_shared<Operation>();
    op->number = queued++;
    op->stream = stream;
    op->work = std::move(work);
    op->done = false;
    /* The default stream waits for the blocking streams of its device, and they for it. */
    cudaStream_t by_default =
        (size_t)stream->device < default_streams.size() ? default_streams[(size_t)stream->device] : nullptr;
    if (stream == by_default) op->after = ends_of(stream->device, true);
    else if (stream->blocking && by_default && !is_done(by_default->last)) op->after.push_back(by_default->last);
    stream->queue.push_back(op);
    stream->last = op;
    if (out) *out = op;
    return cudaSuccess;
}

cudaError_t emu::wait_for(const std::vector<Op> &targets) {
    for (const Op &target : targets)
        while (!is_done(target) && (run_one(target) || others_at_work())) {
        }
    memory_close();
    return failed();
}

cudaError_t emu::wait_for_device() {
    for (cudaStream_t s : streams)
        if (s->device == device_index) copies_finished(s);
    return wait_for(ends_of(device_index, false));
}

extern "C" {

/* ---- streams ------------------------------------------------------------------------------------------------- */
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int) {
    Call call;
    cudaError_t e = driver_state();
    if (e) return e;
    *stream = new CUstream_st{device_index, flags != cudaStreamNonBlocking, {}, nullptr, nullptr, {}};
    streams.insert(*stream);
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags) {
    return cudaStreamCreateWithPriority(stream, flags, 0);
}

cudaError_t cudaStreamCreate(cudaStream_t *stream) { return cudaStreamCreateWithPriority(stream, 0, 0); }

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    Call call;
    if (!stream || !streams.count(stream)) return fail(cudaErrorInvalidResourceHandle);
    if (stream->capture) stream->capture->broken = true;
    wait_for({stream->last});
    streams.erase(stream);
    delete stream;
    return failed();
}

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
    *least = 0;
    *greatest = -5;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
    Call call;
    cudaStream_t stream;
    cudaError_t e = stream_of(handle, &stream);
    if (e) return e;
    if (stream->capture) {
        stream->capture->broken = true;
        return fail(cudaErrorStreamCaptureUnsupported, "cudaStreamSynchronize of a stream that records");
    }
    if ((e = not_while_capturing("cudaStreamSynchronize"))) return e;
    copies_finished(stream);
    return wait_for({stream->last});
}

cudaError_t cudaStreamQuery(cudaStream_t handle) {
    Call call;
    cudaStream_t stream;
    cudaError_t e = stream_of(handle, &stream);
    if (e) return e;
    if (stream->capture) {
        stream->capture->broken = true;
        return fail(cudaErrorStreamCaptureUnsupported, "cudaStreamQuery of a stream that records");
    }
    if ((e = not_while_capturing("cudaStreamQuery"))) return e;
    if (!is_done(stream->last)) run_one(stream->last);
    memory_close();
    if ((e = failed())) return e;
    return is_done(stream->last) ? cudaSuccess : fail(cudaErrorNotReady);
}

cudaError_t cudaDeviceSynchronize(void) {
    Call call;
    cudaError_t e = driver_state();
    if (!e) e = not_while_capturing("cudaDeviceSynchronize");
    return e ? e : wait_for_device();
}

cudaError_t cudaLaunchHostFunc(cudaStream_t handle, cudaHostFn_t function, void *data) {
    Call call;
    cudaStream_t stream;
    cudaError_t e = stream_of(handle, &stream);
    if (e) return e;
    return enqueue(stream, [function, data] {
        memory_close();
        function(data);
        memory_open();
        return cudaSuccess;
    });
}

int emu_enqueue(void *handle, int (*work)(void *), void *data) {
    Call call;
    cudaStream_t stream;
    if (stream_of((cudaStream_t)handle, &stream)) return -1;
    /* In a recording it has no turn to be asked about: it runs in one go, and EMU_AGAIN is an error. */
    if (stream->capture)
        return enqueue(stream, [work, data] { return work(data) ? cudaErrorLaunchFailure : cudaSuccess; }) ? -1 : 0;
    Op op;
    if (enqueue(stream, nullptr, &op)) return -1;
    op->shared = [work, data] { return work(data); };
    return 0;
}

/* ---- events -------------------------------------------------------------------------------------------------- */
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags) {
    Call call;
    cudaError_t e = driver_state();
    if (e) return e;
    *event = new CUevent_st{};
    (*event)->timing = !(flags & cudaEventDisableTiming);
    events.insert(*event);
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *event) { return cudaEventCreateWithFlags(event, 0); }

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    Call call;
    if (!events.erase(event)) return fail(cudaErrorInvalidResourceHandle);
    delete event;
    return failed();
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t handle) {
    Call call;
    cudaStream_t stream;
    cudaError_t e = usable(event);
    if (e || (e = stream_of(handle, &stream))) return e;
    event->recorded = true;
    event->op = nullptr;
    event->capture = stream->capture;
    event->ends = stream->ends;
    if (stream->capture) return stream->capture->broken ? fail(cudaErrorStreamCaptureInvalidated) : cudaSuccess;
    auto time = std::make_shared<double>(0);
    event->time_ms = time;
    return enqueue(
        stream,
        [time] {
            auto now = std::chrono::steady_clock::now().time_since_epoch();
            *time = std::chrono::duration<double, std::milli>(now).count();
            return cudaSuccess;
        },
        &event->op);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t event, unsigned) {
    Call call;
    cudaStream_t stream;
    cudaError_t e = usable(event);
    if (e || (e = stream_of(handle, &stream))) return e;
    if (!event->recorded) return cudaSuccess;
    if (event->capture) {
        if (event->capture->broken) return fail(cudaErrorStreamCaptureInvalidated);
        if (stream->capture && stream->capture != event->capture) return fail(cudaErrorStreamCaptureMerge);
        if (!stream->capture) {
            stream->capture = event->capture;
            stream->capture->streams.push_back(stream);
            stream->ends.clear();
        }
        for (size_t end : event->ends)
            if (std::find(stream->ends.begin(), stream->ends.end(), end) == stream->ends.end())
                stream->ends.push_back(end);
        return cudaSuccess;
    }
    if (stream->capture) {
        stream->capture->broken = true;
        return fail(cudaErrorStreamCaptureIsolation, "a stream that records waits for an event from outside");
    }
    if (is_done(event->op)) return cudaSuccess;
    Op op;
    if ((e = enqueue(stream, nullptr, &op))) return e;
    op->after.push_back(event->op);
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    Call call;
    cudaError_t e = usable(event);
    if (e) return e;
    if (event->capture) return fail(cudaErrorCapturedEvent);
    if ((e = not_while_capturing("cudaEventSynchronize"))) return e;
    return wait_for({event->op});
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
    Call call;
    cudaError_t e = usable(event);
    if (e) return e;
    if (event->capture) return fail(cudaErrorCapturedEvent);
    if ((e = not_while_capturing("cudaEventQuery"))) return e;
    if (!is_done(event->op)) run_one(event->op);
    memory_close();
    if ((e = failed())) return e;
    return is_done(event->op) ? cudaSuccess : fail(cudaErrorNotReady);
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t start, cudaEvent_t end) {
    Call call;
    cudaError_t e = usable(start);
    if (e || (e = usable(end))) return e;
    if (!start->timing || !end->timing || !start->time_ms || !end->time_ms) return fail(cudaErrorInvalidResourceHandle);
    if (!is_done(start->op) || !is_done(end->op)) return fail(cudaErrorNotReady);
    *ms = (float)(*end->time_ms - *start->time_ms);
    return cudaSuccess;
}
}
