/* activations.h - what one pass keeps in device memory.  One table (activations.c) of name, columns per token, the
 * recompute level from which a row is no longer kept per layer, and the row in whose memory it may lie, drives allocation
 * and the memory report; nothing else has to know sizes.  Private to model/: others see `Acts` through model.h.
 *
 * Rebuilding in backward: norm outputs, turned queries and keys and the SwiGLU product are always rebuilt (elementwise,
 * under a hundredth of a step, and a third of the memory); level mlp also rebuilds gate_up (one product), level block the whole block from
 * its input.
 *
 * Gradients may lend their memory (acts_open_lent): block l's is written when block l's backward begins, and until then
 * holds what layers from l + 1 on keep, whose backward has ended by then. */
#ifndef EHR_MODEL_ACTIVATIONS_H
#define EHR_MODEL_ACTIVATIONS_H
#include "model/model.h"

/* Of one block.  Rows not kept per layer point to one buffer that all layers share; NULL: not needed at inference. */
typedef struct {
    void *x;         /* (N,C) residual stream entering the block */
    void *attn_rstd; /* (N) real */
    void *qkv;       /* (N, (H+2G)*D) */
    void *qk;        /* (N, (H+G)*D) normalized and turned */
    void *qk_rstd;   /* (N, H+G) real */
    void *attn;      /* (N, H*D) */
    void *lse;       /* (H,N) real */
    void *x_mid;     /* (N,C) residual stream between attention and MLP */
    void *mlp_rstd;  /* (N) real */
    void *gate_up;   /* (N,2F) */
    void *dqk;       /* (N, (H+G)*D) */
    void *dqkv;      /* (N, (H+2G)*D) */
} LayerActs;

/* Of the pass as a whole; forward rows first, then what only backward needs. */
typedef struct {
    void *norm;       /* (N,C) output of the norm in front of a product; gathered rows in model_logits */
    void *act;        /* (N,F) silu(gate) * up; in backward first its gradient */
    void *hidden;     /* (N,C) after the final norm */
    void *final_rstd; /* (N) real */
    void *losses;     /* (N) real */
    int32_t *batch, *incoming; /* (5, batch_stride) the batch of this pass and the one being uploaded */
    void *dx;    /* (N,C) gradient of the residual stream, accumulates downwards */
    void *dnorm; /* (N,C) gradient of a norm's output */
    void *dattn; /* (N, H*D) */
    void *low, *dlow; /* (N, lora_widest().width) A inp of an adapter, and its gradient */
} PassActs;

/* The rows of `batch`. */
enum { BATCH_TOKENS, BATCH_POSITIONS, BATCH_TARGET_LO, BATCH_TARGET_HI, BATCH_CU_SEQLENS, BATCH_ROWS };

typedef struct {
    int rows, n_seq; /* n_seq: what kernels are launched for; on devices that record more than there are, the rest empty */
    int targets;     /* 0: target_lo was NULL */
} BatchShape;

/* A pass recorded on the device, in segments that end where a bucket's gradient is complete; valid for one shape and for
 * the memory it was recorded with. */
typedef struct {
    int passes; /* run with this shape so far */
    BatchShape shape;
    const void *workspace, *grad;
    DeviceGraph **segment; /* (n_layers + 2) */
    int n;
} Recording;

struct Acts {
    Device *dev;
    int N; /* capacity in rows */
    int n_layers, training;
    Recompute recompute;
    void *arena;
    char *lender;     /* gradients whose memory holds what is kept, as long as they are not written; NULL: none */
    LayerActs *layer; /* n_layers + 1: the last one has only x, the output of the last block */
    PassActs pass;
    KernelLimits limits; /* what the device's scratch memory has been reserved for */
    BatchShape shape;    /* of the batch in it */

    /* Uploading and recording (pass.c). */
    int32_t *staging[2]; /* page-locked, as `batch` */
    int turn;            /* which one is next */
    const Batch *uploaded; /* waiting in `incoming`; NULL: none */
    BatchShape incoming;
    int n_seq_launched; /* sequences kernels are launched for where passes are recorded: a power of two */
    int records;            /* passes are recorded and replayed; 0 where the device cannot */
    Recording recording[2]; /* without and with backward */
};

size_t batch_stride(int N); /* int32 elements from one row of `batch` to the next */
const int32_t *acts_batch(const Acts *a, int row);
/* Scratch for a batch of n_seq sequences; 0 = there is enough. */
int acts_reserve(Acts *a, const Model *m, int n_seq);
/* Makes the uploaded batch, if there is one, that of the pass to come. */
void acts_take(Acts *a);
void recording_free(Acts *a, Recording *r);

#endif
