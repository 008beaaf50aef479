/* step.h - one optimizer step: passes over this rank's rows, sums over ranks, update. */
#ifndef EHR_TRAIN_STEP_H
#define EHR_TRAIN_STEP_H
#include "data/loader.h"
#include "train/losses.h"
#include "train/optimizer.h"

typedef struct {
    Model       *model;
    Acts        *acts;
    Optimizer   *optimizer;
    Loader      *loader;
    Dist        *dist;
    int          passes;      /* micro-batches a step on this rank */
    int          floor_valid; /* oracle_logp of the batches is the floor of these tokens */
    LossQueue    losses;
    Batch       *next;   /* read and uploaded ahead while the device was busy; NULL: not yet */
    LoaderCursor cursor; /* of the next step's first row: the loader itself is a pass ahead */
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

/* Everything is borrowed.  N: tokens a pass.  The loader may be moved until the first step.  With one pass a step the
 * optimizer's gradients may lend their memory to the activations (acts_open_lent): between steps nobody needs them. */
Status stepper_open(Stepper *s, Model *model, Acts *acts, Optimizer *optimizer, Loader *loader, int passes, int N, Err *err);
void   stepper_close(Stepper *s);
/* update: 1 for the first update of the weights.  stop: this rank was asked to stop.  Returns with the update queued. */
Status stepper_run(Stepper *s, double learning_rate, int64_t update, int stop, StepResult *r, Err *err);

#endif
