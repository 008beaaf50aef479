/* loader.h - shuffled, packed, resumable batches for one rank.
 *
 * An epoch permutes blocks of 4,096 patients, then the patients inside each block; a patient longer than the row is cut
 * into consecutive windows (first cut random per epoch and patient), each with its own prefix; windows are packed
 * best-fit into rows of T inside the block.  Every token is a target once an epoch, and the unfinished gap at the end of
 * a record is a censored target.  The global sequence of rows depends on (seed, epoch) alone; row r of it belongs to
 * rank r mod world. */
#ifndef EHR_DATA_LOADER_H
#define EHR_DATA_LOADER_H
#include "data/dataset.h"
#include "model/batch.h"

typedef struct Loader Loader;
typedef struct {
    int64_t epoch, block, row; /* the next global row: independent of the number of ranks */
} LoaderCursor;

typedef struct {
    int      rows; /* rows a call of loader_next fills for this rank */
    int      T;    /* slots a row */
    uint64_t seed;
    int      shuffle; /* 0: dataset order, for evaluation */
    int      rank, world;
} LoaderOptions;

Status loader_open(Loader **out, Dataset *d, int split, const LoaderOptions *o, Err *err);
void   loader_close(Loader *ld);
/* Fills the loader's own batch (valid until the next call) with this rank's share of the next rows * world global rows.
 * Shuffled: goes on into the next epoch.  Not shuffled: *out = NULL when the split is used up; rows missing at the end
 * are filler without targets, on every rank alike (all ranks see the end in the same call). */
Status loader_next(Loader *ld, Batch **out, Err *err);
void   loader_tell(const Loader *ld, LoaderCursor *at);
Status loader_seek(Loader *ld, const LoaderCursor *at, Err *err);

/* Windows of one patient, as the loader would cut them for evaluation (no random first cut).  Used by score. */
int64_t loader_targets(Dataset *d, int split, Err *err); /* targets an epoch; -1 on error */

#endif
