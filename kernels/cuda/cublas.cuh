/* cublas.cuh - products by cuBLASLt, see cublas.cu. */
#ifndef EHR_KERNELS_CUDA_CUBLAS_CUH
#define EHR_KERNELS_CUDA_CUBLAS_CUH
#include "kernels/cuda/matmul.cuh"

static const size_t CUBLAS_WORKSPACE_BYTES = (size_t)32 << 20;

/* NULL: msg says why and what to do. */
Cublas *cublas_open(char *msg, size_t msg_size);
void cublas_close(Cublas *c);
/* out (x->M, x->N) with x->ending, anything but END_SWIGLU; operands of `type`, lines as matmul.cuh describes them.
 * workspace: CUBLAS_WORKSPACE_BYTES, aligned to 256. */
void cublas_product(Device *dev, const char *op, Cublas *c, const Product *x, DType type, int a_along_k, int b_along_k,
                    void *workspace);

#endif
