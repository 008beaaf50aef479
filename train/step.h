/* step.h - one optimizer step: passes over this rank's rows, sums over ranks, update. */
#ifndef EHR_TRAIN_STEP_H
#define EHR_TRAIN_STEP_H
#include "data/loader.h"
#include "train/optimizer.h"

typedef struct {
    Model     *model;
    Acts      *acts;
    Optimizer *optimizer;
    Loader    *loader;
    Dist      *dist;
    int        passes; /* micro-batches a step on this rank */
    float     *losses; /* (N) scratch */
    int        floor_valid; /* oracle_logp of the batches is the floor of these tokens */
} Stepper;

/* Over all ranks. */
typedef struct {
    double  loss;         /* nats a target */
    double  excess;       /* loss minus the oracle's, over targets whose law is known; NaN: none is */
    double  grad_norm;    /* of the mean gradient, before clipping */
    double  mean_context; /* mean over tokens of the length of their own sequence */
    int64_t targets, tokens;
    int     stop;    /* some rank was asked to stop */
    int     skipped; /* loss or norm not finite: the weights were left as they are */
} StepResult;

/* update: 1 for the first update of the weights.  stop: this rank was asked to stop. */
Status stepper_run(Stepper *s, double learning_rate, int64_t update, int stop, StepResult *r, Err *err);

#endif
