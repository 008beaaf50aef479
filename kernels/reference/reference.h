/* reference.h - the operations of kernels.h in double precision, as plain loops: the specification that fast kernels are
 * compared with.  Every void * of the table and every `real` is double here.  Private to kernels/reference/. */
#ifndef EHR_KERNELS_REFERENCE_REFERENCE_H
#define EHR_KERNELS_REFERENCE_REFERENCE_H
#include "kernels/backend.h"

#include <math.h>

/* products.c */
size_t reference_weight_prepared_bytes(const Device *dev, int rows, int cols, DType dtype);
void   reference_weight_prepare(Device *dev, Weight *out, void *storage, DType dtype, const Weight *src);
void   reference_matmul_forward(Device *dev, void *out, const void *inp, const Weight *w, int N);
void   reference_matmul_add_forward(Device *dev, void *out, const void *residual, const void *inp, const Weight *w,
                                    int N);
void   reference_matmul_swiglu_forward(Device *dev, void *out, void *gate_up, const void *inp, const Weight *w, int N);
void   reference_matmul_dgrad(Device *dev, void *dinp, const void *dout, const Weight *w, int N);
void   reference_matmul_wgrad(Device *dev, void *dweight, const void *dout, const void *inp, int N, int rows, int cols);
void   reference_swiglu_forward(Device *dev, void *out, const void *gate_up, int N, int F);
void   reference_swiglu_backward(Device *dev, void *dgate_up, void *act, const void *dout, const void *gate_up, int N,
                                 int F);

/* adapter.c */
void reference_adapter_spread(Device *dev, void *b_wide, void *a_turned, const void *a, const void *b, const AdapterBlocks *s);
void reference_adapter_gather(Device *dev, void *db, const void *db_wide, const AdapterBlocks *s);

/* rows.c */
void reference_embedding_forward(Device *dev, void *out, const int32_t *tokens, const void *weight, int N, int C);
void reference_embedding_backward(Device *dev, void *dweight, const void *dout, const int32_t *tokens, int N, int C,
                                  int V);
void reference_rmsnorm_forward(Device *dev, void *out, void *rstd, const void *inp, const void *weight, float eps,
                               int N, int C);
void reference_rmsnorm_backward(Device *dev, void *dinp_acc, void *dweight, const void *dout, const void *inp,
                                const void *weight, const void *rstd, int N, int C);
void reference_qk_norm_rope_forward(Device *dev, void *qk, void *rstd, const void *qkv, const void *q_weight,
                                    const void *k_weight, const int32_t *positions, const void *rope, float eps, int N,
                                    int H, int G, int D);
void reference_qk_norm_rope_backward(Device *dev, void *dqkv, void *dq_weight, void *dk_weight, const void *dqk,
                                     const void *qkv, const void *q_weight, const void *k_weight, const void *rstd,
                                     const int32_t *positions, const void *rope, int N, int H, int G, int D);

/* attention.c */
void reference_attention_forward(Device *dev, void *out, void *lse, const void *qk, const void *qkv,
                                 const int32_t *cu_seqlens, int n_seq, int N, int H, int G, int D);
void reference_attention_backward(Device *dev, void *dqk, void *dqkv, const void *dout, const void *qk, const void *qkv,
                                  const void *out, const void *lse, const int32_t *cu_seqlens, int n_seq, int N, int H,
                                  int G, int D);
size_t reference_kv_page_bytes(const Device *dev, DType type, int G, int D);
void reference_kv_append(Device *dev, void *pool, DType type, const void *qk, const void *qkv, const int64_t *slot,
                         int N, int H, int G, int D);
void reference_kv_copy_page(Device *dev, void *pool, DType type, int dst, int src, int n_keys, int G, int D);
void reference_attention_paged(Device *dev, void *out, const void *qk, const PagedBatch *batch, int N, int H, int G,
                               int D);

/* classifier.c */
void reference_classifier(Device *dev, void *losses, void *dinp, void *dweight, const void *inp, const Weight *w,
                          const int32_t *lo, const int32_t *hi, int N, int V);

/* sample.c */
void reference_sample(Device *dev, int32_t *tokens, float *logp, float *p_outcome, const void *logits,
                      const double *uniform, const uint32_t *suppress, const SampleSpec *spec, int B);

/* optimizer.c */
void reference_adamw(Device *dev, void *param, void *out, void *m, void *v, const void *grad, const AdamwRange *ranges,
                     int n_ranges, const AdamwStep *step);
void reference_sum_squares(Device *dev, double *sum, const void *x, int64_t count);

static inline double reference_dot(const double *a, const double *b, int n) {
    double sum = 0;
    for (int i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

#endif
