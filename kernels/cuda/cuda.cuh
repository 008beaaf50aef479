/* cuda.cuh - what the files of the CUDA backend share; private to kernels/cuda/.
 *
 * One source, two compilers: nvcc for GPUs, and a C++ compiler with an emulation header in front (tests/emulator/),
 * which runs the same kernels on a CPU.  So: kernels are started with CUDA_LAUNCH, dynamic shared memory is declared with
 * DYNAMIC_SHARED, and PTX is written in ptx.cuh alone.
 *
 * Operations are templates over the table's dtype T (float or bf16), declared here with the meaning, shapes and
 * accumulate rules of kernels.h, and instantiated in the file that defines them. */
#ifndef EHR_KERNELS_CUDA_CUDA_CUH
#define EHR_KERNELS_CUDA_CUDA_CUH
#include "kernels/backend.h"
#include <cuda.h>
#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include "kernels/cuda/ptx.cuh"
/* Queues kernel on STREAM_COMPUTE of dev; a refused launch becomes the device's error, named after the operation.
 * A kernel that is a template with commas goes into parentheses.  smem: bytes of dynamic shared memory. */
#define CUDA_LAUNCH(dev, op, kernel, grid, block, smem, ...)                                                          \
    do {                                                                                                              \
        if (cuda_launch_ready(dev, op, (const void *)(kernel), smem)) {                                               \
            (kernel)<<<grid, block, smem, cuda_compute_stream(dev)>>>(__VA_ARGS__);                                   \
            cuda_launch_check(dev, op);                                                                               \
        }                                                                                                             \
    } while (0)
/* The same in clusters of so many blocks along x, of which grid is a multiple (sm_90). */
#define CUDA_LAUNCH_CLUSTER(dev, op, kernel, cluster, grid, block, smem, ...)                                          \
    do {                                                                                                               \
        if (cuda_launch_ready(dev, op, (const void *)(kernel), smem)) {                                                \
            cudaLaunchAttribute attribute_ = {};                                                                       \
            attribute_.id = cudaLaunchAttributeClusterDimension;                                                       \
            attribute_.val.clusterDim.x = cluster;                                                                     \
            attribute_.val.clusterDim.y = attribute_.val.clusterDim.z = 1;                                             \
            cudaLaunchConfig_t config_ = {grid, block, smem, cuda_compute_stream(dev), &attribute_, 1};                \
            cudaLaunchKernelEx(&config_, kernel, __VA_ARGS__);                                                         \
            cuda_launch_check(dev, op);                                                                                \
        }                                                                                                              \
    } while (0)
#define DYNAMIC_SHARED(T, name)                                                                                       \
    extern __shared__ __align__(1024) unsigned char cuda_dynamic_shared[];                                            \
    T *name = reinterpret_cast<T *>(cuda_dynamic_shared)
#endif

typedef __nv_bfloat16 bf16;

cudaStream_t cuda_compute_stream(const Device *dev);
int          cuda_sm_count(const Device *dev);
int          cuda_compute_capability(const Device *dev); /* 80, 90, ... */
/* The driver's cuTensorMapEncodeTiled on Hopper; NULL elsewhere. */
typedef decltype(&cuTensorMapEncodeTiled) TensorMapEncode;
TensorMapEncode cuda_tensor_map_encode(const Device *dev);
/* Shared memory of a multiprocessor, by compute capability; one block may have 1 KiB less. */
static inline int shared_per_sm(int capability) {
    return capability == 80 || capability == 87   ? 164 << 10
           : capability >= 90 && capability < 120 ? 228 << 10
                                                  : 100 << 10;
}
/* 1 = go; 0 = the device has failed already, or refuses so much shared memory (then it has now). */
int          cuda_launch_ready(Device *dev, const char *op, const void *kernel, size_t smem);
void         cuda_launch_check(Device *dev, const char *op);
/* The device's workspace, or NULL after device_fail() when it is smaller than bytes. */
void        *cuda_scratch(Device *dev, const char *op, size_t bytes);

/* cublas.cu; NULL: products are our own. */
struct Cublas;
Cublas *cuda_cublas(const Device *dev);

/* Serves DeviceBackend.kernels; NULL for dtypes the backend does not compute in. */
const KernelOps *cuda_kernels(const Device *dev, DType t);

/* ---- operations, one template each --------------------------------------------------------------------------------- */
/* matmul.cu, classifier.cu */
template <typename T> size_t cuda_matmul_workspace(const Device *dev, const KernelLimits *limits);
template <typename T> size_t cuda_classifier_workspace(const Device *dev, const KernelLimits *limits);
template <typename T> size_t cuda_weight_prepared_bytes(const Device *dev, int rows, int cols, DType dtype);
template <typename T> void cuda_weight_prepare(Device *dev, Weight *out, void *storage, DType dtype, const Weight *src);
template <typename T> void cuda_matmul_forward(Device *dev, void *out, const void *inp, const Weight *w, int N);
template <typename T> void cuda_logits_forward(Device *dev, void *logits, const void *inp, const Weight *w, int N);
template <typename T>
void cuda_matmul_add_forward(Device *dev, void *out, const void *residual, const void *inp, const Weight *w, int N);
template <typename T>
void cuda_matmul_swiglu_forward(Device *dev, void *out, void *gate_up, const void *inp, const Weight *w, int N);
template <typename T> void cuda_matmul_dgrad(Device *dev, void *dinp, const void *dout, const Weight *w, int N);
template <typename T>
void cuda_matmul_wgrad(Device *dev, void *dweight, const void *dout, const void *inp, int N, int rows, int cols);
template <typename T>
void cuda_classifier(Device *dev, void *losses, void *dinp, void *dweight, const void *inp, const Weight *w,
                     const int32_t *lo, const int32_t *hi, int N, int V);

/* attention.cu, attention_backward.cu, attention_paged.cu */
template <typename T> size_t cuda_attention_workspace(const Device *dev, const KernelLimits *limits);
template <typename T>
void cuda_attention_forward(Device *dev, void *out, void *lse, const void *qk, const void *qkv,
                            const int32_t *cu_seqlens, int n_seq, int N, int H, int G, int D);
template <typename T>
void cuda_attention_backward(Device *dev, void *dqk, void *dqkv, const void *dout, const void *qk, const void *qkv,
                             const void *out, const void *lse, const int32_t *cu_seqlens, int n_seq, int N, int H,
                             int G, int D);
template <typename T>
void cuda_kv_append(Device *dev, void *pool, DType type, const void *qk, const void *qkv, const int64_t *slot, int N,
                    int H, int G, int D);
template <typename T>
void cuda_kv_copy_page(Device *dev, void *pool, DType type, int dst, int src, int n_keys, int G, int D);
template <typename T>
void cuda_attention_paged(Device *dev, void *out, const void *qk, const PagedBatch *batch, int N, int H, int G, int D);

/* adapter.cu */
template <typename T>
void cuda_adapter_spread(Device *dev, void *b_wide, void *a_turned, const void *a, const void *b, const AdapterBlocks *s);
void cuda_adapter_gather(Device *dev, void *db, const void *db_wide, const AdapterBlocks *s);

/* embedding.cu, rmsnorm.cu, rope.cu, swiglu.cu, optimizer.cu, sample.cu */
template <typename T> size_t cuda_rows_workspace(const Device *dev, const KernelLimits *limits);
template <typename T>
void cuda_embedding_forward(Device *dev, void *out, const int32_t *tokens, const void *weight, int N, int C);
template <typename T>
void cuda_embedding_backward(Device *dev, void *dweight, const void *dout, const int32_t *tokens, int N, int C, int V);
template <typename T>
void cuda_rmsnorm_forward(Device *dev, void *out, void *rstd, const void *inp, const void *weight, float eps, int N,
                          int C);
template <typename T>
void cuda_rmsnorm_backward(Device *dev, void *dinp_acc, void *dweight, const void *dout, const void *inp,
                           const void *weight, const void *rstd, int N, int C);
template <typename T> void cuda_swiglu_forward(Device *dev, void *out, const void *gate_up, int N, int F);
template <typename T>
void cuda_swiglu_backward(Device *dev, void *dgate_up, void *act, const void *dout, const void *gate_up, int N, int F);
template <typename T>
void cuda_qk_norm_rope_forward(Device *dev, void *qk, void *rstd, const void *qkv, const void *q_weight,
                               const void *k_weight, const int32_t *positions, const void *rope, float eps, int N,
                               int H, int G, int D);
template <typename T>
void cuda_qk_norm_rope_backward(Device *dev, void *dqkv, void *dq_weight, void *dk_weight, const void *dqk,
                                const void *qkv, const void *q_weight, const void *k_weight, const void *rstd,
                                const int32_t *positions, const void *rope, int N, int H, int G, int D);
template <typename T>
void cuda_adamw(Device *dev, void *param, void *out, void *m, void *v, const void *grad, const AdamwRange *ranges,
                int n_ranges, const AdamwStep *step);
void cuda_sum_squares(Device *dev, double *sum, const void *x, int64_t count);
void cuda_sample(Device *dev, int32_t *tokens, float *logp, float *p_outcome, const void *logits, const double *uniform,
                 const uint32_t *suppress, const SampleSpec *spec, int B);

#endif
