/* state.h - what a run must remember to go on as if it had never stopped, trainer.json, and the folder of checkpoints.
 *
 * trainer.json: {"format": "ehr.c trainer", "format_version": 1, "step", "updates", "targets_seen", "skipped_in_row",
 *   "cursor": {"epoch", "block", "row"}, "best_step", "best_loss", "flags": {the recipe}, "provenance": {"commit",
 *   "dataset_sha256", "vocabulary_sha256", "deidentification" (the level), "parent", "parent_provenance" (this object
 *   of the parent's, so that every dataset it learnt from is named), "canaries" (true, or not there),
 *   "deidentification_record" (of the dataset, whole)}}
 * Nothing in it depends on the machine, the time or the number of ranks: the same recipe gives the same bytes. */
#ifndef EHR_TRAIN_STATE_H
#define EHR_TRAIN_STATE_H
#include "data/loader.h"
#include "train/options.h"

typedef struct {
    int64_t      step;    /* done */
    int64_t      updates; /* of the weights: steps that were not skipped */
    int64_t      targets_seen;
    int          skipped_in_row;
    LoaderCursor cursor; /* of the next step */
    int64_t      best_step; /* 0: none yet */
    double       best_loss;
    char        *parent; /* checkpoint of another run that this one started from, NULL = none */
    char        *parent_provenance; /* JSON: what that one recorded of itself, NULL = nothing */
} TrainState;
void train_state_free(TrainState *s);

/* Where to start: "" = from nothing.  Refuses a run folder that would be overwritten. */
Status state_find(const TrainOptions *o, char *dir, size_t dir_size, Err *err);
/* Reads trainer.json of dir; refuses another dataset, vocabulary, seed, row length or model than o and d say. */
Status state_read(TrainState *s, const char *dir, const TrainOptions *o, const Dataset *d, Err *err);
char  *state_json(const TrainState *s, const TrainOptions *o, const Dataset *d); /* free() it */

/* Collective.  Writes RUN/step-N, points latest (and best when s->best_step is this step) at it and removes old ones.
 * ERR_COMM: the job is over.  Any other error: nothing was changed but the attempt, and every rank has the message. */
Status state_save(const TrainState *s, const TrainOptions *o, const Dataset *d, const Optimizer *optimizer, Dist *dist,
                  Err *err);
const char *state_commit(void); /* of the source, "unknown" outside a repository */

#endif
