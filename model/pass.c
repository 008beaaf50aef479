/* pass.c - how a batch reaches the device, and how a pass over it is queued: operation by operation, or, on devices
 * that record, as graphs.
 *
 * Upload: b -> page-locked staging (two, taken in turn) -> `incoming` on STREAM_COPY, while the pass before still runs
 * -> `batch` on STREAM_COMPUTE when the next pass begins.  So graphs always read the same memory, and the host waits
 * for nothing but the upload before the last.
 *
 * Graphs: a small model is bound by launching its thousands of operations.  A recorded pass is one launch a bucket;
 * between them the caller may start to exchange gradients.  What kernels are launched for is a capacity of sequences, a
 * power of two; the ones that are not there are empty, at the end. */
#include "model/activations.h"
#include <stdlib.h>
#include <string.h>

/* ---- upload ------------------------------------------------------------------------------------------------------ */

/* Kernels trust their indices, so they are checked here, once a pass: microseconds against milliseconds. */
static const char *batch_fault(const Model *m, const Acts *a, const Batch *b) {
    if (b->N < 1 || b->N > a->N) return "the batch has more rows than the activations have room for";
    if (b->n_seq < 1 || b->n_seq > b->N || b->cu_seqlens[0] != 0 || b->cu_seqlens[b->n_seq] != b->N)
        return "cu_seqlens does not cover the batch";
    for (int s = 0; s < b->n_seq; s++)
        if (b->cu_seqlens[s + 1] <= b->cu_seqlens[s]) return "cu_seqlens does not ascend";
    for (int n = 0; n < b->N; n++) {
        if (b->tokens[n] < 0 || b->tokens[n] >= m->cfg.vocab_size) return "a token id is beyond the vocabulary";
        if (b->positions[n] < 0 || b->positions[n] >= m->cfg.seq_len) return "a position is beyond the sequence length";
        if (b->target_lo && b->target_lo[n] >= 0 &&
            (b->target_hi[n] <= b->target_lo[n] || b->target_hi[n] > m->cfg.vocab_size))
            return "a target range is empty or beyond the vocabulary";
    }
    return NULL;
}

/* Only ever grows, so that batches do not make each other's recordings useless. */
static int launch_sequences(Acts *a, const Batch *b) {
    if (!a->records) return b->n_seq;
    if (!a->n_seq_launched) a->n_seq_launched = 16;
    while (a->n_seq_launched < b->n_seq) a->n_seq_launched *= 2;
    return a->n_seq_launched < a->N ? a->n_seq_launched : a->N;
}

void model_upload(Model *m, Acts *a, const Batch *b) {
    if (device_error(m->dev)) return;
    const char *fault = batch_fault(m, a, b);
    const int n_seq = fault ? 0 : launch_sequences(a, b);
    if (!fault && acts_reserve(a, m, n_seq)) fault = "no scratch memory for so many sequences";
    if (fault) {
        device_fail(m->dev, "model_upload", fault);
        return;
    }
    int32_t *to = a->staging[a->turn];
    if (device_mark_wait(m->dev, MARK_UPLOAD + a->turn)) return;
    const int32_t *rows[] = {b->tokens, b->positions, b->target_lo, b->target_hi};
    const size_t stride = batch_stride(a->N);
    for (size_t r = 0; r < BATCH_CU_SEQLENS; r++)
        if (rows[r]) memcpy(to + r * stride, rows[r], (size_t)b->N * sizeof *to);
    int32_t *cu_seqlens = to + BATCH_CU_SEQLENS * stride;
    memcpy(cu_seqlens, b->cu_seqlens, ((size_t)b->n_seq + 1) * sizeof *to);
    for (int s = b->n_seq + 1; s <= n_seq; s++) cu_seqlens[s] = b->N;
    device_upload_async(m->dev, STREAM_COPY, a->pass.incoming, to, BATCH_ROWS * stride * sizeof *to);
    device_mark(m->dev, STREAM_COPY, MARK_UPLOAD + a->turn);
    a->turn = !a->turn;
    a->uploaded = b;
    a->incoming = (BatchShape){.rows = b->N, .n_seq = n_seq, .targets = b->target_lo != NULL};
}

int model_uploaded(const Acts *a, const Batch *b) {
    return a->uploaded == b;
}

void acts_take(Acts *a) {
    if (!a->uploaded) return;
    device_order(a->dev, STREAM_COPY, STREAM_COMPUTE);
    device_copy(a->dev, a->pass.batch, a->pass.incoming, BATCH_ROWS * batch_stride(a->N) * sizeof(int32_t));
    device_order(a->dev, STREAM_COMPUTE, STREAM_COPY); /* the next upload waits for this copy, not for the pass */
    a->shape = a->incoming;
    a->uploaded = NULL;
}

/* ---- passes ------------------------------------------------------------------------------------------------------ */

static void pass_direct(Model *m, Acts *a, Params *grad, BucketReady bucket_ready, void *ctx) {
    model_forward(m, a);
    model_loss(m, a, grad);
    if (grad) model_backward(m, a, grad, bucket_ready, ctx);
}

void recording_free(Acts *a, Recording *r) {
    for (int i = 0; i < r->n; i++) device_graph_free(a->dev, r->segment[i]);
    r->n = 0;
}

static int same_recording(const Acts *a, const Recording *r, const Params *grad) {
    return r->shape.rows == a->shape.rows && r->shape.n_seq == a->shape.n_seq &&
           r->workspace == device_workspace(a->dev, NULL) && r->grad == (grad ? grad->embedding : NULL);
}

typedef struct {
    Device *dev;
    Recording *r;
} Recorder;

static void segment_end(Recorder *rec) {
    DeviceGraph *graph = device_record_end(rec->dev);
    if (graph)
        rec->r->segment[rec->r->n++] = graph;
    else
        device_fail(rec->dev, "model_pass", "the device did not record the pass");
}

static void segment_cut(void *ctx, int bucket) {
    Recorder *rec = ctx;
    segment_end(rec);
    if (bucket > 0 && device_record(rec->dev)) device_fail(rec->dev, "model_pass", "the device stopped recording");
}

/* 0: this device does not record, and nothing was done.  1: recorded, nothing has run yet; or the device has failed. */
static int record_pass(Model *m, Acts *a, Params *grad, Recording *r) {
    Recorder rec = {.dev = m->dev, .r = r};
    if (device_record(m->dev)) return 0;
    pass_direct(m, a, grad, segment_cut, &rec);
    if (!grad) segment_end(&rec);
    return 1;
}

void model_pass(Model *m, Acts *a, Params *grad, BucketReady bucket_ready, void *ctx) {
    if (device_error(m->dev)) return;
    acts_take(a);
    Recording *r = &a->recording[grad != NULL];
    if (a->records && !same_recording(a, r, grad)) {
        recording_free(a, r);
        *r = (Recording){.shape = a->shape,
                         .workspace = device_workspace(m->dev, NULL),
                         .segment = r->segment,
                         .grad = grad ? grad->embedding : NULL};
    }
    /* The first pass of a shape runs directly: what kernels need is loaded then, not while recording. */
    if (a->records && r->passes++ && !r->n) a->records = record_pass(m, a, grad, r);
    if (!r->n) {
        pass_direct(m, a, grad, bucket_ready, ctx);
        return;
    }
    for (int i = 0; i < r->n; i++) {
        device_graph_launch(m->dev, r->segment[i]);
        if (bucket_ready) bucket_ready(ctx, m->table.n_buckets - 1 - i);
    }
}
