/* activations.h - what one pass keeps in device memory.  One table (activations.c) of name, columns per token and the
 * recompute level from which a row is no longer kept per layer drives allocation, the memory report and nothing else
 * has to know sizes.  Private to model/: others see `Acts` through model.h.
 *
 * Rebuilding in backward: norm outputs and the SwiGLU product are always rebuilt (elementwise, under a hundredth of a
 * step, and a quarter of the memory); level mlp also rebuilds gate_up (one product), level block the whole block from
 * its input. */
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
} LayerActs;

/* Of the pass as a whole; forward rows first, then what only backward needs. */
typedef struct {
    void *norm;       /* (N,C) output of the norm in front of a product; gathered rows in model_logits */
    void *act;        /* (N,F) silu(gate) * up; in backward its gradient */
    void *hidden;     /* (N,C) after the final norm */
    void *final_rstd; /* (N) real */
    void *losses;     /* (N) real */
    int32_t *tokens, *positions, *target_lo, *target_hi; /* (N) the batch on the device */
    int32_t *cu_seqlens;                                 /* (N+1) */
    void *dx;    /* (N,C) gradient of the residual stream, accumulates downwards */
    void *dnorm; /* (N,C) gradient of a norm's output */
    void *dattn; /* (N, H*D) */
    void *dqk;   /* (N, (H+G)*D) */
    void *dqkv;  /* (N, (H+2G)*D) */
} PassActs;

struct Acts {
    Device *dev;
    int N; /* capacity in rows */
    int n_layers, training;
    Recompute recompute;
    void *arena;
    LayerActs *layer; /* n_layers + 1: the last one has only x, the output of the last block */
    PassActs pass;
    KernelLimits limits; /* what the device's scratch memory has been reserved for */
    int rows, n_seq;     /* of the batch in it */
};

/* Scratch for a batch of n_seq sequences; 0 = there is enough. */
int acts_reserve(Acts *a, const Model *m, int n_seq);

#endif
