/* optimizer.h - AdamW over the parameter table, its state sharded over ranks by bucket (ZeRO-1; Rajbhandari et al. 2020).
 *
 * Every bucket of the arena is cut into `world` equal parts; rank r keeps both moments of part r of each bucket, sums
 * that part of the gradient over ranks, updates that part of the weights and sends it to everyone.  Where the model
 * computes in bfloat16 the rank also keeps part r in float, the master that checkpoints hold; float weights are their own
 * master. */
#ifndef EHR_TRAIN_OPTIMIZER_H
#define EHR_TRAIN_OPTIMIZER_H
#include "model/checkpoint.h"
#include "train/dist.h"

typedef struct {
    double beta1, beta2, eps, weight_decay;
    double clip; /* gradients are scaled down to this global norm; 0 = never */
} OptimizerOptions;

typedef struct {
    OptimizerOptions options;
    Model           *model; /* borrowed */
    Dist            *dist;  /* borrowed */
    /* Device memory. */
    float           *grad;  /* (table.trained) this rank's sums over its passes; may lend its memory (acts_open_lent) */
    Params           grads; /* into grad */
    /* Own parts, bucket after bucket (table.trained / world); part b starts at bucket_offset[b] / world. */
    float           *grad_part; /* summed over ranks; grad itself with one rank */
    float           *m, *v;
    float           *master; /* NULL: the weights themselves */
    AdamwRange     **ranges; /* (n_buckets): trainable elements of own part, counted from its start */
    int             *n_ranges;
    AdamwStep       *step_scalars; /* device */
    double          *norm;         /* device */
} Optimizer;

/* A master of its own is zero until optimizer_init() or optimizer_read(). */
Status optimizer_open(Optimizer *o, Model *model, Dist *dist, const OptimizerOptions *options, Err *err);
void   optimizer_close(Optimizer *o);
/* The master as model_init(seed) makes the weights. */
void   optimizer_init(Optimizer *o, uint64_t seed);
/* Elements [begin, begin + count) of the arena; those of own part go to the master. */
void   optimizer_set_master(Optimizer *o, const float *host, int64_t begin, int64_t count);
void   optimizer_zero_grad(Optimizer *o);
/* Queues the sum over ranks of a bucket whose local gradient is complete; of the type model_backward calls. */
void   optimizer_reduce_bucket(void *optimizer, int bucket);
/* After dist_wait(): this rank's share of the squared norm of the summed gradient; queued first, then waited for. */
void   optimizer_queue_norm(Optimizer *o);
double optimizer_norm(Optimizer *o);
/* One update: gradients times grad_scale; `update` counts from 1.  Queues the exchange of new weights: dist_wait(). */
void   optimizer_update(Optimizer *o, double learning_rate, double grad_scale, int64_t update);

/* Own part of a bucket: elements [begin, begin + count) of the arena. */
void optimizer_part(const Optimizer *o, int bucket, int64_t *begin, int64_t *count);
/* What checkpoints hold: own parts of the master and the moments written into dir, or read from it (the weights are
 * checkpoint_load_model's). */
Status optimizer_write(const Optimizer *o, const char *dir, Err *err);
Status optimizer_read(Optimizer *o, const char *dir, Err *err);

#endif
