/* kernels.h - every math operation the model uses, as one table of functions per (device, dtype):
 * kernels_get(dev, DTYPE_F32)->rmsnorm_forward(...).
 *
 * Sizes, here and in model.c:
 *   N rows (tokens of all sequences)   C model width   F feed-forward width   V vocabulary (Vp padded to 64)
 *   H query heads   G key/value heads (H a multiple of G)   D head width (64 or 128; the reference takes any even D)
 * Tensors are device memory, dense, row-major, 64-byte aligned.  void * holds the table's dtype, except `real *` in the
 * comments: statistics, rotations, logits, losses and parameter gradients, which are float, or double in the F64 table.
 *
 * Accumulate rule, no exceptions: parameter gradients accumulate (+=) so that micro-batches add up; activation
 * gradients overwrite (=), except arguments named *_acc, which carry the residual stream and accumulate.
 *
 * Invariance: in forward operations each output element is one accumulation chain over k ascending (one fused
 * multiply-add per k), whatever the batch, tile, thread or rank: a row of a product has the same bits alone and among a
 * thousand others.  Attention takes keys in blocks of 64 counted from the sequence's first key, the same in
 * attention_forward and attention_paged, and merges blocks in ascending order.  Backward sums over rows have a fixed
 * order for a given thread count.
 *
 * Operations queue work and return nothing; what goes wrong shows at device_sync() (device.h). */
#ifndef EHR_KERNELS_KERNELS_H
#define EHR_KERNELS_KERNELS_H
#include "kernels/device.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { KV_PAGE = 64, SAMPLE_OUTCOMES_MAX = 32, ADAPTER_BLOCKS_MAX = 3 };

/* A matrix that multiplies activations: out (N, rows) = inp (N, cols) @ W^T. */
typedef enum { WEIGHT_ROWS, WEIGHT_PACKED } WeightLayout;
typedef struct {
    const void  *data;   /* WEIGHT_ROWS: (rows, cols) row-major; WEIGHT_PACKED: the backend's own, from weight_prepare */
    DType        dtype;  /* of data */
    const float *scale;  /* int8: (rows) per-output-channel scales; otherwise NULL */
    int          rows, cols;
    WeightLayout layout;
} Weight;

/* What attention_paged reads: a pool of pages and who owns which.  Pool: [layer][page][K|V][G][KV_PAGE][D]; the order
 * inside a head's elements, and how many there are, is the backend's own (the CPU keeps panels of keys, transposed). */
typedef struct {
    void          *pool;        /* of one layer: n_pages of kv_page_bytes() */
    const int32_t *q_offset;    /* (n_seq+1) s has query rows [q_offset[s], q_offset[s+1]); a GPU lets rows behind them be */
    const int32_t *kv_len;      /* (n_seq) keys of s, those of its own query rows (already appended) included */
    const int32_t *block_table; /* (n_seq, max_blocks) page of each block of KV_PAGE keys */
    int            n_seq, max_blocks;
    /* Sequences [group_offset[g], group_offset[g+1]) have their first group_shared[g] pages in common: they are read
     * once for all queries of the group.  Grouping changes speed, never a bit of the result. */
    const int32_t *group_offset; /* (n_group+1), covers all sequences */
    const int32_t *group_shared; /* (n_group) */
    int            n_group;
    DType          pool_type; /* what the pool was filled in, as kv_append was told */
} PagedBatch;

/* Scalars of one optimizer step, in device memory so that a step can be captured as a graph. */
typedef struct {
    float   learning_rate, beta1, beta2, eps, weight_decay;
    float   grad_scale; /* gradients are multiplied by this first: 1 / targets, times the clip factor */
    int32_t skip;       /* 1: leave everything as it is (non-finite step) */
    int32_t step;       /* 1 for the first update: bias correction */
} AdamwStep;
typedef struct {
    int64_t offset, count; /* elements of the arena */
    int     decay;         /* weight decay applies */
} AdamwRange;

typedef struct {
    int             V, Vp;
    float           temperature;  /* > 0; 1 = the model's own law */
    int             top_k;        /* 0 = off */
    const uint8_t  *forbidden;    /* (V) 1 = never sampled: PAD, prefix-only ids; excluded from the softmax as well */
    const uint32_t *outcome_bits; /* (V) bit o set: this id is outcome o */
    int             n_outcomes;   /* at most SAMPLE_OUTCOMES_MAX */
} SampleSpec;

/* Low-rank adapters (Hu et al. 2021) of up to three projections whose weights lie one below the other in a matrix W (rows,
 * cols): rows [row[i], row[i] + height[i]) of W have the adapter scale * b_i a_i.  Together they are b_wide @ a, where b_wide
 * holds the scaled b_i on a block diagonal.
 *   a (n * rank, cols): a_0, a_1, ...   b (sum of height, rank): b_0, b_1, ...   b_wide (rows, n * rank) */
typedef struct {
    int    n, rank, rows, cols;
    int    row[ADAPTER_BLOCKS_MAX], height[ADAPTER_BLOCKS_MAX];
    double scale;
} AdapterBlocks;

/* Upper bounds that size scratch memory. */
typedef struct {
    int N, C, F, Vp, H, G, D, n_seq;
} KernelLimits;

typedef struct {
    /* Scratch the operations below need for any shape within the limits; pass it to device_reserve() at start-up. */
    size_t (*workspace_bytes)(const Device *dev, const KernelLimits *limits);

    /* Re-lays a weight for inference, as dtype: the table's own, DTYPE_BF16 of float32 (products have the bits of products
     * with the rounded weight in float32), or DTYPE_I8 (symmetric, one scale a row of W; products then quantize each row
     * of inp to int8 with one scale and sum exactly in int32).  out->data must hold
     * weight_prepared_bytes(), out->scale points into it; src stays unchanged.  Products with the prepared weight have
     * the bits of products with src when the dtype is the same.  0 bytes: in the table's own dtype, out
     * becomes src itself, whose data must outlive it; in another, weight_prepare fails. */
    size_t (*weight_prepared_bytes)(const Device *dev, int rows, int cols, DType dtype);
    void (*weight_prepare)(Device *dev, Weight *out, void *storage, DType dtype, const Weight *src);

    /* out[n,:] = weight[tokens[n],:]      out (N,C)   tokens (N)   weight (V,C) */
    void (*embedding_forward)(Device *dev, void *out, const int32_t *tokens, const void *weight, int N, int C);
    /* dweight[tokens[n],:] += dout[n,:]   in ascending n      real *dweight (V,C) */
    void (*embedding_backward)(Device *dev, void *dweight, const void *dout, const int32_t *tokens, int N, int C, int V);

    /* out = inp / sqrt(mean(inp^2) + eps) * weight   (Zhang and Sennrich 2019)
     *   out, inp (N,C)   weight (C)   real *rstd (N) kept for backward, NULL at inference */
    void (*rmsnorm_forward)(Device *dev, void *out, void *rstd, const void *inp, const void *weight, float eps, int N,
                            int C);
    /*   dinp_acc (N,C) +=   real *dweight (C) += (NULL: frozen)   dout, inp (N,C) */
    void (*rmsnorm_backward)(Device *dev, void *dinp_acc, void *dweight, const void *dout, const void *inp,
                             const void *weight, const void *rstd, int N, int C);

    /* out = inp @ W^T               inp (N, cols)   out (N, rows) */
    void (*matmul_forward)(Device *dev, void *out, const void *inp, const Weight *w, int N);
    /* logits = inp @ W^T            real *logits (N, rows): the head keeps what a 16-bit product would round away */
    void (*logits_forward)(Device *dev, void *logits, const void *inp, const Weight *w, int N);
    /* out = residual + inp @ W^T    residual, out (N, rows), may be the same; residual is added after the chain */
    void (*matmul_add_forward)(Device *dev, void *out, const void *residual, const void *inp, const Weight *w, int N);
    /* gate_up = inp @ W^T, out = silu(gate) * up   (Shazeer 2020)
     *   w (2F, C): rows [0,F) gate, [F,2F) up   out (N,F)   gate_up (N,2F) kept for backward; NULL at inference */
    void (*matmul_swiglu_forward)(Device *dev, void *out, void *gate_up, const void *inp, const Weight *w, int N);
    /* dinp (N, cols) = dout (N, rows) @ W */
    void (*matmul_dgrad)(Device *dev, void *dinp, const void *dout, const Weight *w, int N);
    /* real *dweight (rows, cols) += dout^T @ inp */
    void (*matmul_wgrad)(Device *dev, void *dweight, const void *dout, const void *inp, int N, int rows, int cols);

    /* out = silu(gate) * up   gate_up (N,2F)   out (N,F) */
    void (*swiglu_forward)(Device *dev, void *out, const void *gate_up, int N, int F);
    /* dgate_up (N,2F) = ; may be gate_up itself   dout (N,F)
     *   act (N,F) = silu(gate) * up once more, for the gradient of the weight that it met; may be dout itself */
    void (*swiglu_backward)(Device *dev, void *dgate_up, void *act, const void *dout, const void *gate_up, int N, int F);

    /* b_wide = scale * b_i on the diagonal, 0 elsewhere; a_turned (cols, n * rank) = a^T, unless it is NULL */
    void (*adapter_spread)(Device *dev, void *b_wide, void *a_turned, const void *a, const void *b, const AdapterBlocks *s);
    /* real *db += scale * the diagonal blocks of real *db_wide */
    void (*adapter_gather)(Device *dev, void *db, const void *db_wide, const AdapterBlocks *s);

    /* Per-head RMSNorm on q and k, then RoPE in the rotate-half form (Su et al. 2021; Qwen3).
     *   qkv (N, (H+2G)*D): q heads, k heads, v heads   qk out (N, (H+G)*D)   q_weight, k_weight (D)
     *   positions (N)   real *rope (positions, D): cos of D/2 angles, then sin of D/2 angles
     *   real *rstd (N, H+G), NULL at inference */
    void (*qk_norm_rope_forward)(Device *dev, void *qk, void *rstd, const void *qkv, const void *q_weight,
                                 const void *k_weight, const int32_t *positions, const void *rope, float eps, int N,
                                 int H, int G, int D);
    /*   the q and k parts of dqkv (N, (H+2G)*D) = ; its v part is left alone
     *   real *dq_weight, *dk_weight (D) += (NULL: frozen)   dqk (N, (H+G)*D) */
    void (*qk_norm_rope_backward)(Device *dev, void *dqkv, void *dq_weight, void *dk_weight, const void *dqk,
                                  const void *qkv, const void *q_weight, const void *k_weight, const void *rstd,
                                  const int32_t *positions, const void *rope, int N, int H, int G, int D);

    /* Causal attention inside each packed sequence, softmax(q k^T / sqrt(D)) v, never as a T x T matrix (Dao 2023).
     *   q = qk[:, 0:H], k = qk[:, H:H+G]   v = the last G heads of qkv   query head h reads kv head h / (H/G)
     *   out (N, H*D)   real *lse (H, N) log-sum-exp, NULL at inference
     *   cu_seqlens (n_seq+1): sequence s owns rows [cu[s], cu[s+1]), of which there may be none; n_seq at most N */
    void (*attention_forward)(Device *dev, void *out, void *lse, const void *qk, const void *qkv,
                              const int32_t *cu_seqlens, int n_seq, int N, int H, int G, int D);
    /*   dqk (N, (H+G)*D) =   the v part of dqkv (N, (H+2G)*D) =   dout, out (N, H*D) */
    void (*attention_backward)(Device *dev, void *dqk, void *dqkv, const void *dout, const void *qk, const void *qkv,
                               const void *out, const void *lse, const int32_t *cu_seqlens, int n_seq, int N, int H,
                               int G, int D);

    /* A page of keys and values, of one layer, kept as type: the table's own dtype; float32 on the CPU also DTYPE_BF16,
     * keys and values rounded to nearest even as they are stored, everything else as ever.  0: this table keeps none so. */
    size_t (*kv_page_bytes)(const Device *dev, DType type, int G, int D);
    /* pool[slot[n]/64][K|V][:][slot[n]%64] = k, v of row n; slot[n] < 0: row is not stored.   slot (N) */
    void (*kv_append)(Device *dev, void *pool, DType type, const void *qk, const void *qkv, const int64_t *slot, int N,
                      int H, int G, int D);
    /* Copies the first n_keys keys and values of page src to page dst. */
    void (*kv_copy_page)(Device *dev, void *pool, DType type, int dst, int src, int n_keys, int G, int D);
    /* Attention of new rows over cached keys: query row i (from 0) of sequence s sees its first
     * kv_len[s] - (rows of s) + i + 1 keys.  Same bits as attention_forward over the whole sequence, in a pool of the
     * table's own dtype.
     *   qk (N, (H+G)*D), only its q part is read   out (N, H*D) */
    void (*attention_paged)(Device *dev, void *out, const void *qk, const PagedBatch *batch, int N, int H, int G, int D);

    /* Fused classifier, in chunks: the N x V logits never exist as a whole.
     *   losses[n] = -log sum_{lo[n] <= v < hi[n]} softmax(inp[n] @ W^T)[v]; 0 where lo[n] < 0
     *   real *losses (N)   inp (N,C)   w (Vp, C), ids >= V have probability 0
     *   dinp (N,C) = , NULL at evaluation   real *dweight (Vp,C) += , NULL at evaluation or when frozen
     *   both are the gradient of the plain sum of losses */
    void (*classifier)(Device *dev, void *losses, void *dinp, void *dweight, const void *inp, const Weight *w,
                       const int32_t *lo, const int32_t *hi, int N, int V);

    /* AdamW (Loshchilov and Hutter 2019) over ranges of flat arenas; param, m, v, grad are `real`.
     *   out: the working copy in the table's dtype, NULL when it is param itself */
    void (*adamw)(Device *dev, void *param, void *out, void *m, void *v, const void *grad, const AdamwRange *ranges,
                  int n_ranges, const AdamwStep *step);
    /* *sum += sum of squares of real x (count), in a fixed order that does not depend on the thread count */
    void (*sum_squares)(Device *dev, double *sum, const void *x, int64_t count);

    /* One token a row by inverse CDF over ids ascending.
     *   tokens (B)   float logp (B) of the drawn id under the unsuppressed law, or NULL
     *   float p_outcome (B, n_outcomes) probability of each outcome under the unsuppressed law, or NULL
     *   real *logits (B, Vp)   uniform (B) in [0,1)   suppress (B): ids with outcome_bits & suppress[b] are not drawn; or NULL */
    void (*sample)(Device *dev, int32_t *tokens, float *logp, float *p_outcome, const void *logits,
                   const double *uniform, const uint32_t *suppress, const SampleSpec *spec, int B);
} KernelOps;

/* NULL if this build or device has no such table.  CPU: DTYPE_F32 (fast) and DTYPE_F64 (the reference). */
const KernelOps *kernels_get(const Device *dev, DType dtype);

#ifdef __cplusplus
}
#endif
#endif
