/* decode_pass.h - one pass of the model over sequences of a KvCache.  All that a pass reads is laid out on the host and
 * uploaded as one: arrays of the caller, which it adds, and those of the pass itself.
 *
 * A step of decoding, one token a sequence, is some 200 launches of a few microseconds each.  On devices that record (a
 * GPU) it is laid out for a shape that comes again, recorded when it does, and one launch from then on; rows beyond its
 * own are of no sequence, and as a row's bits do not hang on others they change nothing. */
#ifndef EHR_INFER_DECODE_PASS_H
#define EHR_INFER_DECODE_PASS_H
#include "infer/kv_cache.h"

typedef struct {
    KvSequence *seq;
    const int32_t *token; /* (count) what follows the keys that seq holds */
    int count;
} DecodeRow;

/* What kernels of a step are launched for, at least what there is of each. */
typedef struct {
    int rows, blocks, groups;
} StepShape;

/* A step recorded; valid for a shape and for the memory it was recorded with. */
typedef struct {
    StepShape shape;
    const void *workspace, *logits;
    int64_t last; /* step that it served last */
    int steps;    /* that it served */
    DeviceGraph *graph; /* NULL: not recorded yet */
} StepRecording;
enum { STEP_RECORDINGS = 32 };

typedef struct {
    Model *model;
    Acts *acts;
    KvCache *cache;
    int max_seqs, max_blocks;
    char *host, *device; /* (size) */
    size_t size, used;
    int64_t *slot; /* (max_rows) */
    /* Of the pass that was laid out last, on the device. */
    int32_t *d_tokens, *d_positions;
    int64_t *d_slot;
    PagedBatch pages;
    int rows;
    int records; /* steps are recorded and replayed; 0 where the device cannot, or should not (Model.graphs) */
    int64_t steps, replayed;
    StepRecording recording[STEP_RECORDINGS]; /* the one that served longest ago makes room for another */
} DecodePass;

/* Bytes that the pass itself lays out at most: max_rows tokens in max_seqs sequences of max_blocks pages. */
size_t decode_pass_bytes(int max_rows, int max_seqs, int max_blocks);
/* extra: bytes for arrays of the caller, each rounded up by decode_pass_aligned.  Acts and cache are the caller's and must
 * take max_rows. */
Status decode_pass_open(DecodePass *p, Model *m, Acts *acts, KvCache *cache, int max_rows, int max_seqs, int max_blocks, size_t extra,
                        Err *err);
void decode_pass_close(DecodePass *p);
size_t decode_pass_aligned(size_t bytes);

/* Room for an array: where the host writes it; *device (any pointer): where it will be. */
void *decode_pass_add(DecodePass *p, size_t count, size_t size, void *device);
void decode_pass_copy(DecodePass *p, const void *from, size_t count, size_t size, void *device);
void decode_pass_upload(DecodePass *p); /* what was added; the next pass starts empty */

/* Makes room for the tokens of n rows in their sequences and lays the pass out.  Sequences of a group g, rows
 * [group_offset[g], group_offset[g+1]), share their first group_shared[g] pages.  ERR_NOMEM when the cache is full. */
Status decode_pass_lay(DecodePass *p, const DecodeRow *row, int n, const int32_t *group_offset, const int32_t *group_shared, int n_group,
                       Err *err);
/* Uploads and runs what was laid out; logits then come from model_logits by the row's place. */
void decode_pass_run(DecodePass *p);

/* The same for a step: n rows of one token each, laid out before anything of the caller's. */
Status decode_step_lay(DecodePass *p, const DecodeRow *row, int n, const int32_t *group_offset, const int32_t *group_shared, int n_group,
                       Err *err);
/* float *logits (max_seqs, Vp), device: of rows 0 .. n-1 in order; behind them there may be anything. */
void decode_step_run(DecodePass *p, void *logits);

#endif
