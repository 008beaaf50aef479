/* dryrun.h - what a run would need, without running it: memory of each rank, bytes a step, predicted step time. */
#ifndef EHR_TRAIN_DRYRUN_H
#define EHR_TRAIN_DRYRUN_H
#include "data/dataset.h"
#include "train/place.h"

/* Reads one batch for the real fill and context length and times a product of matrices for the real speed. */
Status dry_run(const TrainOptions *o, const ModelConfig *cfg, Dataset *d, const Place *place, int world, FILE *out, Err *err);

#endif
