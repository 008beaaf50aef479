/* memory.h - what one rank needs on its device, and what would fit.  The dry run, the choice of --micro-batch on a GPU
 * and the message when memory is short all read the same plan. */
#ifndef EHR_TRAIN_MEMORY_H
#define EHR_TRAIN_MEMORY_H
#include "train/options.h"
#include "train/place.h"

/* Bytes. */
typedef struct {
    double weights;     /* in the dtype of the computation, whole */
    double gradients;   /* float, whole */
    double master;      /* float, this rank's part; 0 where the weights are float themselves */
    double moments;     /* two floats, this rank's part */
    double exchange;    /* the summed gradient, this rank's part; on the CPU also what peers send */
    double activations; /* of one pass, in memory of their own */
    double lent;        /* activations in memory of the gradients (model.h), in `gradients` already */
    double scratch;     /* of operations; 0 where the device is not at hand */
    double all;
    double trained; /* elements, whole: what gradients and moments are of */
} MemoryPlan;

typedef struct {
    int64_t micro_batch;
    Recompute level;
} PassShape;

/* world: ranks.  The device may lack operations in the dtype (a dry run for another machine). */
Status memory_plan(MemoryPlan *p, const TrainOptions *o, const ModelConfig *cfg, const Place *place, int world,
                   PassShape pass, Err *err);
/* The largest --micro-batch, at most o's, that splits o's rows evenly and fits into `available` bytes at this level of
 * recomputation; 0: none. */
int64_t memory_fit(const TrainOptions *o, const ModelConfig *cfg, const Place *place, int world, Recompute level,
                   double available);
/* Collective.  On a GPU, when --micro-batch was left out: the largest that fits into all but a twentieth of every
 * rank's memory, at most what o has. */
Status memory_choose(TrainOptions *o, const ModelConfig *cfg, const Place *place, int world, Dist *dist, Err *err);
/* On a GPU, before anything is allocated: ERR_NOMEM that says what a rank needs, what there is, and which --micro-batch
 * and --recompute would fit. */
Status memory_check(const TrainOptions *o, const ModelConfig *cfg, const Place *place, int world, Err *err);
/* On a GPU, err holds an allocation's ERR_NOMEM: says the same, supposing that a tenth less can be had. */
void memory_explain(const TrainOptions *o, const ModelConfig *cfg, const Place *place, int world, Err *err);

#endif
