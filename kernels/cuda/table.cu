/* table.cu - the CUDA backend's tables of operations: bf16, which trains and infers, and float32. */
#include "kernels/cuda/cuda.cuh"

namespace {

size_t larger(size_t a, size_t b) { return a > b ? a : b; }

template <typename T> size_t workspace_bytes(const Device *dev, const KernelLimits *limits) {
    size_t products = larger(cuda_matmul_workspace<T>(dev, limits), cuda_classifier_workspace<T>(dev, limits));
    size_t rows = cuda_rows_workspace<T>(dev, limits), attention = cuda_attention_workspace<T>(dev, limits);
    return larger(larger(rows, products), attention);
}

template <typename T> size_t kv_page_bytes(const Device *, DType type, int G, int D) {
    return type == (sizeof(T) == sizeof(float) ? DTYPE_F32 : DTYPE_BF16) ? sizeof(T) * 2 * (size_t)G * KV_PAGE * (size_t)D : 0;
}

template <typename T> constexpr KernelOps table_of() {
    KernelOps k = {};
    k.workspace_bytes = workspace_bytes<T>;
    k.weight_prepared_bytes = cuda_weight_prepared_bytes<T>;
    k.weight_prepare = cuda_weight_prepare<T>;
    k.embedding_forward = cuda_embedding_forward<T>;
    k.embedding_backward = cuda_embedding_backward<T>;
    k.rmsnorm_forward = cuda_rmsnorm_forward<T>;
    k.rmsnorm_backward = cuda_rmsnorm_backward<T>;
    k.matmul_forward = cuda_matmul_forward<T>;
    k.logits_forward = cuda_logits_forward<T>;
    k.matmul_add_forward = cuda_matmul_add_forward<T>;
    k.matmul_swiglu_forward = cuda_matmul_swiglu_forward<T>;
    k.matmul_dgrad = cuda_matmul_dgrad<T>;
    k.matmul_wgrad = cuda_matmul_wgrad<T>;
    k.swiglu_forward = cuda_swiglu_forward<T>;
    k.swiglu_backward = cuda_swiglu_backward<T>;
    k.adapter_spread = cuda_adapter_spread<T>;
    k.adapter_gather = cuda_adapter_gather;
    k.qk_norm_rope_forward = cuda_qk_norm_rope_forward<T>;
    k.qk_norm_rope_backward = cuda_qk_norm_rope_backward<T>;
    k.attention_forward = cuda_attention_forward<T>;
    k.attention_backward = cuda_attention_backward<T>;
    k.kv_page_bytes = kv_page_bytes<T>;
    k.kv_append = cuda_kv_append<T>;
    k.kv_copy_page = cuda_kv_copy_page<T>;
    k.attention_paged = cuda_attention_paged<T>;
    k.classifier = cuda_classifier<T>;
    k.adamw = cuda_adamw<T>;
    k.sum_squares = cuda_sum_squares;
    k.sample = cuda_sample;
    return k;
}

} // namespace

const KernelOps *cuda_kernels(const Device *dev, DType t) {
    static constexpr KernelOps f32 = table_of<float>(), mixed = table_of<bf16>();
    (void)dev;
    return t == DTYPE_F32 ? &f32 : t == DTYPE_BF16 ? &mixed : nullptr;
}
