/* naive_kernels.h - the formulas of kernels/reference/ compiled in float: what the plain loop loses to rounding, which is
 * the yardstick of the tolerance rule.  Include last: it leaves nothing redefined, but the sources come in whole. */
#ifndef EHR_TESTS_NAIVE_KERNELS_H
#define EHR_TESTS_NAIVE_KERNELS_H
#include "kernels/backend.h"

#include <math.h>
#include <string.h>

#define double float
#define DTYPE_F64 DTYPE_F32
#define exp expf
#define log logf
#define sqrt sqrtf
#define fmax fmaxf
#define pow powf
#define reference_dot naive_dot
#define reference_weight_prepared_bytes naive_weight_prepared_bytes
#define reference_weight_prepare naive_weight_prepare
#define reference_matmul_forward naive_matmul_forward
#define reference_matmul_add_forward naive_matmul_add_forward
#define reference_matmul_swiglu_forward naive_matmul_swiglu_forward
#define reference_matmul_dgrad naive_matmul_dgrad
#define reference_matmul_wgrad naive_matmul_wgrad
#define reference_swiglu_forward naive_swiglu_forward
#define reference_swiglu_backward naive_swiglu_backward
#define reference_adapter_spread naive_adapter_spread
#define reference_adapter_gather naive_adapter_gather
#define reference_embedding_forward naive_embedding_forward
#define reference_embedding_backward naive_embedding_backward
#define reference_rmsnorm_forward naive_rmsnorm_forward
#define reference_rmsnorm_backward naive_rmsnorm_backward
#define reference_qk_norm_rope_forward naive_qk_norm_rope_forward
#define reference_qk_norm_rope_backward naive_qk_norm_rope_backward
#define reference_attention_forward naive_attention_forward
#define reference_attention_backward naive_attention_backward
#define reference_kv_page_bytes naive_kv_page_bytes
#define reference_kv_append naive_kv_append
#define reference_kv_copy_page naive_kv_copy_page
#define reference_attention_paged naive_attention_paged
#define reference_classifier naive_classifier
#define reference_adamw naive_adamw
#define reference_sum_squares naive_sum_squares
#define reference_sample naive_sample
#define weight_usable naive_weight_usable

#include "kernels/reference/adapter.c"
#include "kernels/reference/attention.c"
#include "kernels/reference/classifier.c"
#include "kernels/reference/optimizer.c"
#include "kernels/reference/products.c"
#include "kernels/reference/rows.c"

#undef double
#undef DTYPE_F64
#undef exp
#undef log
#undef sqrt
#undef fmax
#undef pow

/* sample and sum_squares take doubles whatever the table: they have tests of their own. */
static const KernelOps naive_kernels = {
    .embedding_forward = naive_embedding_forward,
    .embedding_backward = naive_embedding_backward,
    .rmsnorm_forward = naive_rmsnorm_forward,
    .rmsnorm_backward = naive_rmsnorm_backward,
    .matmul_forward = naive_matmul_forward,
    .logits_forward = naive_matmul_forward,
    .matmul_add_forward = naive_matmul_add_forward,
    .matmul_swiglu_forward = naive_matmul_swiglu_forward,
    .matmul_dgrad = naive_matmul_dgrad,
    .matmul_wgrad = naive_matmul_wgrad,
    .swiglu_forward = naive_swiglu_forward,
    .swiglu_backward = naive_swiglu_backward,
    .adapter_spread = naive_adapter_spread,
    .adapter_gather = naive_adapter_gather,
    .qk_norm_rope_forward = naive_qk_norm_rope_forward,
    .qk_norm_rope_backward = naive_qk_norm_rope_backward,
    .attention_forward = naive_attention_forward,
    .attention_backward = naive_attention_backward,
    .attention_paged = naive_attention_paged,
    .kv_page_bytes = naive_kv_page_bytes,
    .kv_append = naive_kv_append,
    .classifier = naive_classifier,
    .adamw = naive_adamw,
};

#endif
