/* losses.h - the losses of a pass, brought to the host while the next pass runs: two page-locked buffers, taken in
 * turn. */
#ifndef EHR_TRAIN_LOSSES_H
#define EHR_TRAIN_LOSSES_H
#include "model/model.h"

typedef struct {
    Device *dev;
    float *host[2];        /* (N) page-locked */
    const Batch *batch[2]; /* whose losses are on their way; NULL: none */
    int turn;              /* the next one to fill; where it is full, the oldest */
} LossQueue;

Status losses_open(LossQueue *q, Device *dev, int N, Err *err);
void losses_close(LossQueue *q);
/* Right after a pass over b was queued; b must stay as it is until its losses were taken.  At most two are on their
 * way. */
void losses_queue(LossQueue *q, const Acts *a, const Batch *b);
/* The batch of the oldest pass whose losses were not taken yet, NULL = none: waits for that pass.  *losses (N) stays
 * until two more were queued. */
const Batch *losses_take(LossQueue *q, const float **losses);

#endif
