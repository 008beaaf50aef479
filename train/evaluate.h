/* evaluate.h - the loss on the tuning split, with what it must be compared to: counting (baseline.h) and, on an oracle
 * cohort, the best any model can do. */
#ifndef EHR_TRAIN_EVALUATE_H
#define EHR_TRAIN_EVALUATE_H
#include "data/loader.h"
#include "model/model.h"
#include "train/dist.h"
#include "train/losses.h"

typedef struct {
    double  loss;             /* nats a target */
    double  per_event;        /* nats an event: all losses over the number of event tokens (gaps and values belong to them) */
    double  per_patient_year; /* nats a year of observation */
    int64_t targets, events, patients;
    double  patient_years;
    /* Over the targets whose true law is known; known = 0: none, and the rest is NaN. */
    int64_t known;
    double  loss_known, loss_floor, excess, excess_se; /* excess: mean paired difference; se clustered by patient */
    /* Over all targets; NaN where not computed (ranks above 0). */
    double loss_unigram, loss_bigram;
} Evaluation;

typedef struct {
    Dataset *data; /* borrowed */
    Loader  *loader;
    Dist    *dist;
    int      rows, T;
    LossQueue losses;          /* opened by the first run */
    int64_t  max_rows;         /* global rows counted, so that the result does not depend on the number of ranks */
    double  *patient;          /* (3 * patients of the split) targets, known targets, sum of excess; then sums */
    double   unigram, bigram;  /* rank 0 */
} Evaluator;

/* max_tokens: slots looked at, 0 = the whole split.  rows: what one pass of the model takes.  Rank 0 counts the
 * baselines here, once.  A dataset without tuning patients gives an evaluator whose loader is NULL. */
Status evaluator_open(Evaluator *e, Dataset *d, Dist *dist, int rows, int T, int64_t max_tokens, Err *err);
void   evaluator_close(Evaluator *e);
/* Collective; the same result on every rank.  acts: room for a pass, with or without backward. */
Status evaluator_run(Evaluator *e, Model *m, Acts *acts, Evaluation *out, Err *err);

#endif
