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
    int64_t n;           /* tokens of the patient */
    int32_t extra;       /* =6mt tokens that are known to have passed */
    int32_t censored_lo; /* the unfinished gap: ids [censored_lo, gap_lo + GAP_TOKENS); -1 = none */
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
    Stream *stream; /* of the block's patients, as they lie in the split */
} Packing;

typedef struct {
    int T, n_prefix, shuffle;
    uint64_t seed;
} PackOptions;

/* Packs patients [block * BLOCK_PATIENTS, ...) of a split; a pure function of its arguments. */
void packing_build(Packing *p, const Dataset *d, int split, int64_t block, int64_t epoch, const PackOptions *o);
void packing_free(Packing *p);

/* Asks the caches for elements [first, first + n) of a patient, which are read soon.  Always inline: compilers take a
 * function that only fetches for one without effect, and drop its calls. */
static inline __attribute__((always_inline)) void patient_fetch(const PatientView *p, int64_t first, int64_t n) {
    enum { LINE = 64 };
    const int64_t width = p->wide ? 4 : 2;
    const char *tokens = (const char *)p->tokens + first * width, *minutes = (const char *)(p->minutes + first);
    for (int64_t i = 0; i < n * width; i += LINE) __builtin_prefetch(tokens + i);
    for (int64_t i = 0; i < n * 4; i += LINE) __builtin_prefetch(minutes + i);
    if (!p->oracle_logp) return;
    const char *logp = (const char *)(p->oracle_logp + first);
    for (int64_t i = 0; i < n * 4; i += LINE) __builtin_prefetch(logp + i);
}

/* A permutation of 0..n-1 that depends on the key alone; free() it. */
int64_t *permutation(int64_t n, uint64_t key);
/* What the numbers are for, so that the same (seed, epoch) does not serve twice. */
enum { DRAW_BLOCKS, DRAW_PATIENTS, DRAW_ROWS, DRAW_CUT };
uint64_t loader_key(uint64_t seed, int64_t epoch, int draw, int64_t item);

#endif
