/* batch.h - what one pass of the model reads, in host memory.  Leaf: filled by data/loader.c, uploaded by model/.
 *
 * N = rows * T slots.  A *row* is T slots; windows (pieces of one patient: prefix + events) are laid end to end inside
 * a row, never across rows.  Attention, positions and loss stop at every window border (cu_seqlens).  Slots after the
 * last window of a row belong to a filler sequence of PAD tokens without targets, so that cu_seqlens covers all N. */
#ifndef EHR_MODEL_BATCH_H
#define EHR_MODEL_BATCH_H
#include <stdint.h>

typedef struct {
    int rows, T, N; /* N = rows * T */
    int n_seq;      /* sequences, fillers included */
    int n_targets;  /* slots that carry a target */

    int32_t *tokens;     /* (N) ids in [0, vocab_size) */
    int32_t *positions;  /* (N) 0-based inside its sequence */
    int32_t *target_lo;  /* (N) the target is the id range [lo, hi): an ordinary target has hi = lo + 1, */
    int32_t *target_hi;  /* (N) a censored gap is wider; lo = -1: no target here */
    int32_t *cu_seqlens; /* (N + 1 capacity) row offsets of sequences; first 0, last N */

    /* For reports, not read by the model: */
    int64_t *seq_patient; /* (N capacity) row of the patient in its split, per sequence; -1 = filler */
    int64_t *target_index; /* (N) the target's index in its patient's tokens; -1 = no target, or a censored gap */
    float   *oracle_logp; /* (N) log p of the target under the oracle's law; NaN = unknown or not counted */
    int32_t *minutes;     /* (N) minutes since the patient's first event at this slot (prefix: window start) */
} Batch;

#endif
