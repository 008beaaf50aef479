/* loader.h - shuffled, packed, resumable batches for one rank.
 *
 * An epoch permutes blocks of 4,096 patients, then the patients inside each block; a patient longer than the row is cut
 * into consecutive windows (first cut random per epoch and patient), each with its own prefix; windows are packed
 * best-fit into rows of T inside the block.  Every token is a target once an epoch.  The global sequence of rows
 * depends on (dataset, split, seed, epoch, T) alone; row r of it, counted from the cursor, belongs to rank r mod world.
 *
 * A window is prefix + tokens; slot i predicts what slot i + 1 holds, and the last prefix slot the first token.  The
 * last token a window predicts is not among its own slots: nothing would be predicted from it.
 *
 * The end of a record that is not a death is censored: whole half-years observed after the last token are =6mt tokens
 * like any others (target_index -1), and of the gap that was still open the target is the range of gap ids longer than
 * what had passed of it (no target when that is under 5 minutes). */
#ifndef EHR_DATA_LOADER_H
#define EHR_DATA_LOADER_H
#include "data/dataset.h"
#include "model/batch.h"

typedef struct Loader Loader;
typedef struct {
    int64_t epoch, block, row; /* the next global row: independent of the number of ranks */
} LoaderCursor;

typedef struct {
    int rows; /* rows a call of loader_next fills for this rank */
    int T;    /* slots a row; at least the prefix + 2, or ERR_USAGE */
    uint64_t seed;
    int shuffle; /* 0: patients in dataset order, the same rows every time, for evaluation */
    int rank, world;
} LoaderOptions;

/* The dataset must outlive the loader.  ERR_USAGE when there is nothing to shuffle. */
Status loader_open(Loader **out, Dataset *d, int split, const LoaderOptions *o, Err *err);
void loader_close(Loader *ld); /* NULL is fine */
/* Fills a batch of the loader's own (valid until the next call but one) with this rank's share of the next rows * world
 * global rows. Shuffled: goes on into the next epoch.  Not shuffled: *out = NULL when the split is used up; rows
 * missing at the end are filler without targets, on every rank alike (all ranks see the end in the same call). */
Status loader_next(Loader *ld, Batch **out, Err *err);
void loader_tell(const Loader *ld, LoaderCursor *at);
/* ERR_FORMAT when there is no such row: the cursor is of another dataset or another T. */
Status loader_seek(Loader *ld, const LoaderCursor *at, Err *err);

/* Targets an epoch (the same for every T); -1 on error. */
int64_t loader_targets(Dataset *d, int split, Err *err);

#endif
