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
    ParamTable table;
    void *w_arena; /* (table.total) of dtype, on the device */
    Params w;
    void *rope;     /* real (seq_len, D) cos, sin */
    void *prepared; /* weights re-laid for inference, NULL while training */
    struct PreparedWeights *prepared_weights;
} Model;

typedef struct Acts Acts; /* activation arena for one batch shape */

/* Allocates parameters (zero) for cfg on dev.  dtype DTYPE_F32, or DTYPE_F64 for the reference. */
Status model_open(Model *m, const ModelConfig *cfg, Device *dev, DType dtype, int64_t param_pad, Err *err);
void model_close(Model *m);
void model_init(Model *m, uint64_t seed);
/* Copies host values into elements [begin, begin + count) of the weights. */
void model_set_weights(Model *m, const float *host, int64_t begin, int64_t count);
/* Re-lays the weights for inference (packing); call once after loading, never while training. */
Status model_prepare(Model *m, Err *err);

/* 6 x parameters that multiply activations + 6 x L x H x D x mean context: forward + backward, causal, no recompute.
 * mean_context: mean over tokens of the length of their own sequence. */
double model_flops_per_token(const ModelConfig *cfg, double mean_context);

/* training: room for backward.  N = rows a pass. */
Status acts_open(Acts **out, const Model *m, int N, int training, Recompute recompute, Err *err);
size_t acts_bytes(const ModelConfig *cfg, DType t, int N, int training, Recompute recompute);
void acts_report(const ModelConfig *cfg, DType t, int N, int training, Recompute recompute, FILE *out); /* table */
void acts_close(Acts *a);

/* Training and scoring.  Queue work on m->dev and return; errors show at device_sync(), a malformed batch (ids, ranges,
 * positions or cu_seqlens out of bounds) among them.  The batch is uploaded by model_forward and may be reused when it
 * returns; model_loss and model_backward work on the uploaded copy and take b to check that it is the same one.
 * target_lo = NULL: no losses will be asked for. */
void model_forward(Model *m, Acts *a, const Batch *b);
/* losses (N), 0 where there is no target, readable through acts_losses().  With grad (needs training activations): also
 * the gradient of the sum of losses, added to the head's and left in the activations for model_backward. */
void model_loss(Model *m, Acts *a, const Batch *b, Params *grad);
/* Adds to *grad, an arena of float (double for DTYPE_F64) bound with params_bind; frozen parameters are left alone.
 * bucket_ready(ctx, bucket) is called as soon as the work that completes a bucket's gradient is queued, from the last
 * bucket to the first; NULL = do not tell. */
void model_backward(Model *m, Acts *a, const Batch *b, Params *grad, void (*bucket_ready)(void *ctx, int bucket),
                    void *ctx);

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
const void *acts_hidden(const Acts *a); /* (N,C) after the final norm */

#endif
