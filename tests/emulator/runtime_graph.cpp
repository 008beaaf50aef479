/* runtime_graph.cpp - recording a stream into a graph, and launching it.
 *
 * A node comes after the last node of its stream, and after those of other streams that an event brought in; a launch
 * runs the nodes in an order that the schedule picks among those allowed. */
#include "tests/emulator/runtime.h"

#include <algorithm>

using namespace emu;

namespace {

std::vector<std::shared_ptr<Capture>> captures; /* under way */
Random choice = {0x9E3779B97F4A7C15ull};

cudaError_t run_nodes(const std::vector<GraphNode> &nodes) {
    std::vector<size_t> missing(nodes.size());
    std::vector<std::vector<size_t>> next(nodes.size());
    std::vector<size_t> ready;
    for (size_t i = 0; i < nodes.size(); i++) {
        missing[i] = nodes[i].after.size();
        for (size_t before : nodes[i].after) next[before].push_back(i);
        if (!missing[i]) ready.push_back(i);
    }
    while (!ready.empty()) {
        size_t k = 0;
        if (emu_config()->schedule == SCHEDULE_REVERSE) k = ready.size() - 1;
        if (emu_config()->schedule >= SCHEDULE_RANDOM) k = choice.next() % ready.size();
        size_t node = ready[k];
        ready.erase(ready.begin() + (long)k);
        if (nodes[node].work) {
            cudaError_t e = nodes[node].work();
            if (e) return e;
        }
        for (size_t i : next[node])
            if (!--missing[i]) ready.push_back(i);
    }
    return cudaSuccess;
}

/* Whether every node is one of ends or comes before one. */
bool all_joined(const Capture &c, const std::vector<size_t> &ends) {
    std::vector<bool> seen(c.nodes.size());
    std::vector<size_t> todo = ends;
    while (!todo.empty()) {
        size_t i = todo.back();
        todo.pop_back();
        if (seen[i]) continue;
        seen[i] = true;
        todo.insert(todo.end(), c.nodes[i].after.begin(), c.nodes[i].after.end());
    }
    return std::find(seen.begin(), seen.end(), false) == seen.end();
}

} // namespace

cudaError_t emu::not_while_capturing(const char *what) {
    for (auto &c : captures)
        if (c->mode == cudaStreamCaptureModeGlobal ||
            (c->mode == cudaStreamCaptureModeThreadLocal && c->thread == std::this_thread::get_id())) {
            c->broken = true;
            return fail(cudaErrorStreamCaptureUnsupported, "%s while a stream records", what);
        }
    return cudaSuccess;
}

void emu::capture_add(cudaStream_t stream, Work work) {
    stream->capture->nodes.push_back({std::move(work), stream->ends});
    stream->ends = {stream->capture->nodes.size() - 1};
}

extern "C" {

cudaError_t cudaStreamBeginCapture(cudaStream_t handle, cudaStreamCaptureMode mode) {
    Call call;
    cudaStream_t stream;
    cudaError_t e = stream_of(handle, &stream);
    if (e) return e;
    if (!handle || handle == cudaStreamLegacy)
        return fail(cudaErrorStreamCaptureUnsupported, "the default stream cannot record");
    if (stream->capture) return fail(cudaErrorIllegalState, "the stream records already");
    stream->capture = std::make_shared<Capture>();
    stream->capture->origin = stream;
    stream->capture->mode = mode;
    stream->capture->thread = std::this_thread::get_id();
    stream->capture->broken = false;
    stream->capture->streams = {stream};
    stream->ends.clear();
    captures.push_back(stream->capture);
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
    Call call;
    *graph = nullptr;
    cudaError_t e = stream_of(stream, &stream);
    if (e) return e;
    std::shared_ptr<Capture> c = stream->capture;
    if (!c) return fail(cudaErrorIllegalState, "the stream does not record");
    if (c->origin != stream) return fail(cudaErrorStreamCaptureUnmatched);
    if (c->mode != cudaStreamCaptureModeRelaxed && c->thread != std::this_thread::get_id())
        return fail(cudaErrorStreamCaptureWrongThread);
    bool joined = all_joined(*c, stream->ends);
    for (cudaStream_t s : c->streams) {
        s->capture = nullptr;
        s->ends.clear();
    }
    captures.erase(std::find(captures.begin(), captures.end(), c));
    if (c->broken) return fail(cudaErrorStreamCaptureInvalidated);
    c->broken = true; /* for events that still name it */
    if (!joined) return fail(cudaErrorStreamCaptureUnjoined, "a stream that took part was not waited for");
    *graph = new CUgraph_st{c->nodes};
    return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t handle, cudaStreamCaptureStatus *status) {
    Call call;
    cudaStream_t stream;
    cudaError_t e = stream_of(handle, &stream);
    if (e) return e;
    *status = !stream->capture          ? cudaStreamCaptureStatusNone
              : stream->capture->broken ? cudaStreamCaptureStatusInvalidated
                                        : cudaStreamCaptureStatusActive;
    return cudaSuccess;
}

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *nodes, size_t *count) {
    Call call;
    if (nodes) return fail(cudaErrorNotSupported);
    *count = graph->nodes.size();
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long) {
    Call call;
    cudaError_t e = driver_state();
    if (e) return e;
    if (!graph) return fail(cudaErrorInvalidValue);
    *exec = new CUgraphExec_st{std::make_shared<const std::vector<GraphNode>>(graph->nodes)};
    return cudaSuccess;
}

cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t) { return failed(); }

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t handle) {
    Call call;
    cudaStream_t stream;
    cudaError_t e = stream_of(handle, &stream);
    if (e) return e;
    if (!exec) return fail(cudaErrorInvalidValue);
    launches++;
    return enqueue(stream, [nodes = exec->nodes] { return run_nodes(*nodes); });
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    Call call;
    if (!graph) return fail(cudaErrorInvalidValue);
    delete graph;
    return failed();
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
    Call call;
    if (!exec) return fail(cudaErrorInvalidValue);
    delete exec;
    return failed();
}
}
