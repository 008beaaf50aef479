/* dist_staged.c - ranks over MPI whose buffers are memory of GPUs: down to page-locked host memory, through the host
 * transport, and up again.  Serves ranks that share a GPU and machines without NCCL.
 *
 * Nobody waits for a copy: an operation's download is queued on STREAM_COMM with a mark after it, dist_progress() and
 * dist_wait() hand it to the host transport when the mark has passed, in the order of queueing on every rank, and queue
 * the upload of what came back.  STREAM_COMM keeps these copies in order, so that the host memory of an operation is
 * written again only after the upload out of it. */
#include "model/model.h"
#include "train/dist_transport.h"
#include <stdlib.h>
#include <string.h>

enum { MARKS = DEVICE_MARKS - MARK_FREE };

typedef struct {
    void *target;      /* device memory of the result */
    int64_t count;     /* reduce-scatter: elements of the input; 0: an all-gather */
    size_t part_bytes; /* of one rank's part */
    int ticket;        /* of the host transport */
    char *stage;       /* reduce-scatter: the input, then the result; all-gather: all parts */
    size_t stage_bytes;
} StagedOp;

/* Operations [0, n_done) have been uploaded, [n_done, n_copied) are with the host transport, the rest is coming down.
 */
typedef struct {
    StagedOp *op;
    int n_done, n_copied, n_queued, capacity;
} Staged;

static StagedOp *op_begin(Dist *d, size_t stage_bytes) {
    Staged *s = d->device_state;
    if (s->n_queued == s->capacity) {
        int grown = s->capacity ? 2 * s->capacity : 16;
        s->op = xrealloc(s->op, (size_t)grown * sizeof *s->op);
        memset(s->op + s->capacity, 0, (size_t)(grown - s->capacity) * sizeof *s->op);
        s->capacity = grown;
    }
    StagedOp *op = &s->op[s->n_queued];
    if (stage_bytes > op->stage_bytes) {
        device_sync(d->dev); /* the copies out of the old one; sizes settle in the first step */
        device_host_free(d->dev, op->stage);
        op->stage = device_host_alloc(d->dev, stage_bytes);
        op->stage_bytes = op->stage ? stage_bytes : 0;
        if (!op->stage) {
            err_set(&d->error, ERR_NOMEM,
                    "no page-locked memory for the exchange between ranks (%.1f MB): raise `ulimit -l`, or use "
                    "fewer ranks a host",
                    1e-6 * (double)stage_bytes);
            return NULL;
        }
    }
    device_order(d->dev, STREAM_COMPUTE, STREAM_COMM);
    return op;
}

static void op_queued(Dist *d) {
    Staged *s = d->device_state;
    device_mark(d->dev, STREAM_COMM, MARK_FREE + s->n_queued % MARKS);
    s->n_queued++;
}

static void staged_reduce_scatter(Dist *d, float *out, const float *in, int64_t count) {
    size_t bytes = (size_t)count * sizeof *in, part_bytes = bytes / (size_t)d->launch.world;
    StagedOp *op = op_begin(d, bytes + part_bytes);
    if (!op) return;
    op->target = out;
    op->count = count;
    op->part_bytes = part_bytes;
    device_download_async(d->dev, STREAM_COMM, op->stage, in, bytes);
    op_queued(d);
}

static void staged_all_gather(Dist *d, void *buf, size_t part_bytes) {
    size_t own = (size_t)d->launch.rank * part_bytes;
    StagedOp *op = op_begin(d, part_bytes * (size_t)d->launch.world);
    if (!op) return;
    op->target = buf;
    op->count = 0;
    op->part_bytes = part_bytes;
    device_download_async(d->dev, STREAM_COMM, op->stage + own, (char *)buf + own, part_bytes);
    op_queued(d);
}

static void exchange(Dist *d, StagedOp *op) {
    float *in = (float *)(void *)op->stage;
    op->ticket = op->count ? d->host->reduce_scatter(d, in + op->count, in, op->count)
                           : d->host->all_gather(d, op->stage, op->part_bytes);
}

static void upload(Dist *d, const StagedOp *op) {
    if (op->count) {
        device_upload_async(d->dev, STREAM_COMM, op->target, op->stage + (size_t)op->count * sizeof(float),
                            op->part_bytes);
        return;
    }
    size_t before = (size_t)d->launch.rank * op->part_bytes, after = before + op->part_bytes;
    size_t all = (size_t)d->launch.world * op->part_bytes;
    device_upload_async(d->dev, STREAM_COMM, op->target, op->stage, before);
    device_upload_async(d->dev, STREAM_COMM, (char *)op->target + after, op->stage + after, all - after);
}

static void staged_progress(Dist *d) {
    Staged *s = d->device_state;
    for (; s->n_copied < s->n_queued && !d->error.code; s->n_copied++) {
        /* A mark set again since then has passed later, so that it never says too early that a copy is there. */
        if (device_mark_poll(d->dev, MARK_FREE + s->n_copied % MARKS) != 1) break;
        exchange(d, &s->op[s->n_copied]);
    }
    d->host->progress(d);
    for (; s->n_done < s->n_copied && !d->error.code && d->host->done(d, s->op[s->n_done].ticket); s->n_done++)
        upload(d, &s->op[s->n_done]);
    dist_device_failed(d);
}

static int staged_pending(Dist *d) {
    Staged *s = d->device_state;
    staged_progress(d);
    /* While this rank still computes, nobody is to be blamed for silence. */
    if (s->n_copied < s->n_queued && device_poll(d->dev, STREAM_COMPUTE) == 0) d->news_s = clock_s();
    return 2 * s->n_queued - s->n_copied - s->n_done;
}

static void staged_late(Dist *d) {
    const Staged *s = d->device_state;
    if (s->n_done < s->n_copied) d->host->late(d);
    else
        err_set(&d->error, ERR_DEVICE, "%s has not copied to host memory for %.0f s", device_name(d->dev),
                d->timeout_s);
}

static Status staged_wait(Dist *d, Err *err) {
    Staged *s = d->device_state;
    Status status = dist_wait_for(d, staged_pending, staged_late, err);
    if (status) return status;
    if (s->n_queued) device_order(d->dev, STREAM_COMM, STREAM_COMPUTE);
    s->n_queued = s->n_copied = s->n_done = 0;
    return d->host->wait(d, err);
}

static void staged_abort(Dist *d) { (void)d; }

static void staged_close(Dist *d) {
    Staged *s = d->device_state;
    device_sync(d->dev);
    for (int i = 0; i < s->capacity; i++) device_host_free(d->dev, s->op[i].stage);
    free(s->op);
    free(s);
}

static const DeviceTransport staged = {.name = "mpi",
                                       .reduce_scatter = staged_reduce_scatter,
                                       .all_gather = staged_all_gather,
                                       .progress = staged_progress,
                                       .wait = staged_wait,
                                       .abort = staged_abort,
                                       .close = staged_close};

Status dist_staged_open(Dist *d, Err *err) {
    (void)err;
    d->device_state = xcalloc(1, sizeof(Staged));
    d->device = &staged;
    return OK;
}
