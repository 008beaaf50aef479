/* losses.c - see losses.h. */
#include "train/losses.h"

Status losses_open(LossQueue *q, Device *dev, int N, Err *err) {
    *q = (LossQueue){.dev = dev};
    for (int i = 0; i < 2; i++) q->host[i] = device_host_alloc(dev, (size_t)N * sizeof(float));
    if (q->host[0] && q->host[1]) return OK;
    losses_close(q);
    return err_set(err, ERR_NOMEM, "no page-locked memory for the losses of %d tokens: lower --micro-batch", N);
}

void losses_close(LossQueue *q) {
    for (int i = 0; i < 2 && q->dev; i++) device_host_free(q->dev, q->host[i]);
    *q = (LossQueue){0};
}

void losses_queue(LossQueue *q, const Acts *a, const Batch *b) {
    REQUIRE(!q->batch[q->turn]);
    device_download_async(q->dev, STREAM_COMPUTE, q->host[q->turn], acts_losses(a), (size_t)b->N * sizeof(float));
    device_mark(q->dev, STREAM_COMPUTE, MARK_LOSSES + q->turn);
    q->batch[q->turn] = b;
    q->turn = !q->turn;
}

const Batch *losses_take(LossQueue *q, const float **losses) {
    int oldest = q->batch[q->turn] ? q->turn : !q->turn;
    const Batch *b = q->batch[oldest];
    if (!b) return NULL;
    device_mark_wait(q->dev, MARK_LOSSES + oldest);
    q->batch[oldest] = NULL;
    *losses = q->host[oldest];
    return b;
}
