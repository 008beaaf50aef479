/* loader_pack.h - which windows one block of patients is cut into, and which rows they share.  Inside data/ only.
 *
 * A patient's *stream* is what the loader predicts: its n tokens, then `extra` =6mt tokens for whole half-years
 * observed after the last one, then perhaps one censored gap.  A window [first, first + count) of the stream takes
 * n_prefix + count - 1 slots, because its last element is predicted but not read. */
#ifndef EHR_DATA_LOADER_PACK_H
#define EHR_DATA_LOADER_PACK_H
#include "data/dataset.h"

enum { BLOCK_PATIENTS = 4096 };

typedef struct {
    int64_t n;       /* tokens of the patient */
    int64_t extra;   /* =6mt tokens that are known to have passed */
    int censored_lo; /* the unfinished gap: ids [censored_lo, gap_lo + GAP_TOKENS); -1 = none */
} Stream;
Stream stream_of(const Vocabulary *v, const PatientView *p);
static inline int64_t stream_length(const Stream *s) { return s->n + s->extra + (s->censored_lo >= 0); }

typedef struct {
    int64_t patient; /* row in the split */
    int64_t first;   /* stream index of its first target */
    int32_t count;   /* targets */
    int32_t slots;
} Window;

typedef struct {
    int64_t n_rows;
    int64_t *row_offset; /* (n_rows + 1) into window, rows in the order in which they are dealt */
    Window *window;
} Packing;

typedef struct {
    int T, n_prefix, shuffle;
    uint64_t seed;
} PackOptions;

/* Packs patients [block * BLOCK_PATIENTS, ...) of a split; a pure function of its arguments. */
void packing_build(Packing *p, const Dataset *d, int split, int64_t block, int64_t epoch, const PackOptions *o);
void packing_free(Packing *p);

/* A permutation of 0..n-1 that depends on the key alone; free() it. */
int64_t *permutation(int64_t n, uint64_t key);
/* What the numbers are for, so that the same (seed, epoch) does not serve twice. */
enum { DRAW_BLOCKS, DRAW_PATIENTS, DRAW_ROWS, DRAW_CUT };
uint64_t loader_key(uint64_t seed, int64_t epoch, int draw, int64_t item);

#endif
