/* model.h - the transformer, defined once for training, inference and gradient check.  Owns parameters; borrows the
 * device.  model.c alone knows the order of operations. */
#ifndef EHR_MODEL_MODEL_H
#define EHR_MODEL_MODEL_H
#include "kernels/kernels.h"
#include "model/batch.h"
#include "model/config.h"
#include "model/params.h"

typedef enum { RECOMPUTE_NONE, RECOMPUTE_MLP, RECOMPUTE_BLOCK } Recompute;

typedef struct {
    ModelConfig cfg;
    Device *dev;
    const KernelOps *k;
    DType dtype;
    DType kv_type; /* what a cache of keys and values is kept in: dtype, unless its owner asks for another (kernels.h) */
    ParamTable table;
    void *w_arena; /* (table.total) of dtype, on the device */
    Params w;
    void *rope;     /* real (seq_len, D) cos, sin */
    void *b_wide, *a_turned, *db_wide; /* of one matrix's adapters at a time (AdapterBlocks); NULL without any */
    int graphs;     /* 1: passes and steps of decoding are recorded and replayed where the device can; the default */
    void *prepared; /* weights re-laid for inference, NULL while training */
    struct PreparedWeights *prepared_weights;
} Model;

typedef struct Acts Acts; /* activation arena for one batch shape */
typedef void (*BucketReady)(void *ctx, int bucket);

/* Marks (device.h) that passes use; collectives have the rest. */
enum { MARK_UPLOAD = 0, MARK_LOSSES = 2, MARK_FREE = 4 };

/* Allocates parameters (zero) for cfg on dev.  dtype DTYPE_F32, DTYPE_BF16 on a GPU, or DTYPE_F64 for the reference. */
Status model_open(Model *m, const ModelConfig *cfg, Device *dev, DType dtype, int64_t param_pad, Err *err);
void model_close(Model *m);
void model_init(Model *m, uint64_t seed);
/* Copies host values into elements [begin, begin + count) of the weights; to bfloat16 they are rounded to nearest even. */
void model_set_weights(Model *m, const float *host, int64_t begin, int64_t count);
/* The dtype of what kernels.h calls real in t's table: statistics, logits, losses, parameter gradients. */
DType dtype_real(DType t);
/* Re-lays the weights for inference (packing); call once after loading, never while training.  weights: what the
 * matrices of the blocks become, m->dtype, DTYPE_BF16 or DTYPE_I8 (kernels.h); embedding and norms stay m->dtype, the head
 * is DTYPE_BF16 beside narrower blocks. */
Status model_prepare(Model *m, DType weights, Err *err);

/* 6 x parameters that multiply activations + 6 x L x H x D x mean context: forward + backward, causal, no recompute; with
 * adapters 4 x those parameters, whose gradient nobody asks for, + 6 x the adapters'.
 * mean_context: mean over tokens of the length of their own sequence. */
double model_flops_per_token(const ModelConfig *cfg, double mean_context);

/* training: room for backward.  N = rows a pass. */
Status acts_open(Acts **out, const Model *m, int N, int training, Recompute recompute, Err *err);
/* For training with one pass a step: most of what is kept for backward lies in the memory of gradients that are not yet
 * written then.  grad: the arena (table.trained real) that every pass with backward is given, bound; it outlives the
 * activations.  model_loss and model_backward set the gradient, whatever was there, instead of adding to it.  It is whole,
 * bucket by bucket, when bucket_ready says so, until the next pass of any kind begins. */
Status acts_open_lent(Acts **out, const Model *m, int N, Recompute recompute, void *grad, Err *err);
int    acts_lent(const Acts *a); /* opened so: passes set the gradient */
size_t acts_bytes(const ModelConfig *cfg, DType t, int N, int training, Recompute recompute);
/* Of acts_bytes, for training, what lies in gradients when they lend. */
size_t acts_lent_bytes(const ModelConfig *cfg, const ParamTable *lender, DType t, int N, Recompute recompute);
/* Scratch memory that acts_open reserves on dev for passes of N rows with the operations k. */
size_t acts_scratch_bytes(const ModelConfig *cfg, Device *dev, const KernelOps *k, int N);
/* A table of them.  lender: NULL, or the parameters whose gradients lend. */
void acts_report(const ModelConfig *cfg, const ParamTable *lender, DType t, int N, int training, Recompute recompute,
                 FILE *out);
void acts_close(Acts *a);

/* Training and scoring: upload a batch, then run a pass over it.  All of them queue work on m->dev and return; errors show
 * at device_sync(), a malformed batch (ids, ranges, positions or cu_seqlens out of bounds) among them.
 *
 * model_upload copies b to page-locked memory and from there, on STREAM_COPY, to the device, while the pass before may
 * still be running; b may be reused when it returns.  The next pass is over the batch uploaded last.  b->target_lo =
 * NULL: no losses will be asked for. */
void model_upload(Model *m, Acts *a, const Batch *b);
int  model_uploaded(const Acts *a, const Batch *b); /* b was uploaded last and no pass has begun since */
/* Starts a pass: over a new batch if one was uploaded, otherwise over the same one again. */
void model_forward(Model *m, Acts *a);
/* losses (N), 0 where there is no target, readable through acts_losses().  With grad (needs training activations): also
 * the gradient of the sum of losses, added to the head's (set, where acts_lent) and left in the activations for
 * model_backward. */
void model_loss(Model *m, Acts *a, Params *grad);
/* Adds to *grad, an arena of real bound with params_bind (sets it, where acts_lent); frozen parameters are left alone.
 * bucket_ready(ctx, bucket) is called as soon as the work that completes a bucket's gradient is queued, from the last
 * bucket to the first; NULL = do not tell. */
void model_backward(Model *m, Acts *a, Params *grad, BucketReady bucket_ready, void *ctx);
/* The three in one, grad NULL: without backward.  On devices that record (a GPU) the pass becomes one graph, cut where
 * bucket_ready is called, from its second time on: launching it costs next to nothing, and the bits are the same. */
void model_pass(Model *m, Acts *a, Params *grad, BucketReady bucket_ready, void *ctx);

/* Inference.  Runs N new tokens (any number a sequence: a prefill is a decode of the whole prefix) against the paged
 * cache: appends their keys and values at `slot`, attends, leaves the hidden states.  Feeding tokens one at a time
 * gives the bits of one full pass.
 *   tokens, positions (N), slot (N): device memory   pages: PagedBatch with pool = the whole pool, pool_layer_stride
 *   bytes from one layer's pages to the next */
void model_decode(Model *m, Acts *a, const int32_t *tokens, const int32_t *positions, const int64_t *slot,
                  const PagedBatch *pages, size_t pool_layer_stride, int N);
/* real *logits (n_rows, Vp) = head(final norm(hidden[rows[i]])) of the last forward or decode; rows: device memory, NULL =
 * all rows in order. */
void model_logits(Model *m, Acts *a, void *logits, const int32_t *rows, int n_rows);

const void *acts_losses(const Acts *a); /* (N) real */
const void *acts_hidden(const Acts *a); /* (N,C) after the final norm; until model_backward */
/* Of training activations, for attribution: what entered the first block; after model_loss with grad the gradient of the
 * hidden states, which may be changed before model_backward; after that the gradient of what entered. */
const void *acts_embedded(const Acts *a);          /* (N,C) */
void       *acts_hidden_gradient(Acts *a);         /* (N,C) */
const void *acts_embedded_gradient(const Acts *a); /* (N,C) */

#endif
