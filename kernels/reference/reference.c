/* reference.c - the table. */
#include "kernels/reference/reference.h"

static size_t workspace_bytes(const Device *dev, const KernelLimits *limits) {
    (void)dev;
    return sizeof(double) * (size_t)limits->Vp; /* one row of logits */
}

const KernelOps reference_kernels = {
    .workspace_bytes = workspace_bytes,
    .weight_prepared_bytes = reference_weight_prepared_bytes,
    .weight_prepare = reference_weight_prepare,
    .embedding_forward = reference_embedding_forward,
    .embedding_backward = reference_embedding_backward,
    .rmsnorm_forward = reference_rmsnorm_forward,
    .rmsnorm_backward = reference_rmsnorm_backward,
    .matmul_forward = reference_matmul_forward,
    .logits_forward = reference_matmul_forward,
    .matmul_add_forward = reference_matmul_add_forward,
    .matmul_swiglu_forward = reference_matmul_swiglu_forward,
    .matmul_dgrad = reference_matmul_dgrad,
    .matmul_wgrad = reference_matmul_wgrad,
    .swiglu_forward = reference_swiglu_forward,
    .swiglu_backward = reference_swiglu_backward,
    .adapter_spread = reference_adapter_spread,
    .adapter_gather = reference_adapter_gather,
    .qk_norm_rope_forward = reference_qk_norm_rope_forward,
    .qk_norm_rope_backward = reference_qk_norm_rope_backward,
    .attention_forward = reference_attention_forward,
    .attention_backward = reference_attention_backward,
    .kv_page_bytes = reference_kv_page_bytes,
    .kv_append = reference_kv_append,
    .kv_copy_page = reference_kv_copy_page,
    .attention_paged = reference_attention_paged,
    .classifier = reference_classifier,
    .adamw = reference_adamw,
    .sum_squares = reference_sum_squares,
    .sample = reference_sample,
};
