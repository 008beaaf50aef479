/* matmul.cu - the operations on matrices: what each asks of the products, scratch memory, prepared weights. */
#include "kernels/cuda/cublas.cuh"
#include "kernels/cuda/matmul.cuh"

#include <stdio.h>

namespace {

template <typename T> DType dtype_of();
template <> DType dtype_of<float>() { return DTYPE_F32; }
template <> DType dtype_of<bf16>() { return DTYPE_BF16; }

/* Lines of int8 are padded to whole 16-byte chunks. */
int int8_stride(int cols) { return round_up(cols, 16); }

size_t rounded(size_t bytes) { return (bytes + 255) / 256 * 256; }

size_t int8_scratch_bytes(int N, int cols) {
    return rounded((size_t)N * (size_t)int8_stride(cols)) + rounded(sizeof(float) * (size_t)N);
}

template <typename T> int weight_usable(Device *dev, const char *op, const Weight *w, int backward) {
    char why[160];
    if (device_error(dev)) return 0;
    if (w->dtype == dtype_of<T>() && w->layout == WEIGHT_ROWS) return 1;
    if (w->dtype == DTYPE_I8 && w->layout == WEIGHT_PACKED && w->scale && !backward) return 1;
    if (backward)
        snprintf(why, sizeof why, "the weight is %s%s; gradients take it in %s rows, as it was before weight_prepare()",
                 dtype_name(w->dtype), w->layout == WEIGHT_PACKED ? ", packed" : "", dtype_name(dtype_of<T>()));
    else
        snprintf(why, sizeof why, "the weight is %s%s; this table takes %s rows, or int8 from weight_prepare()",
                 dtype_name(w->dtype), w->layout == WEIGHT_PACKED ? ", packed" : "", dtype_name(dtype_of<T>()));
    device_fail(dev, op, why);
    return 0;
}

int on_16_bytes(const void *p) { return (uintptr_t)p % 16 == 0; }

/* 1 = the product was cuBLASLt's to do. */
template <typename T> int by_cublas(Device *dev, const char *op, const Product &p, int a_along_k, int b_along_k) {
    Cublas *c = cuda_cublas(dev);
    if (!c) return 0;
    void *scratch = cuda_scratch(dev, op, CUBLAS_WORKSPACE_BYTES);
    if (scratch) cublas_product(dev, op, c, &p, dtype_of<T>(), a_along_k, b_along_k, scratch);
    return 1;
}

/* out = inp @ W^T and what follows; p holds ending, out, residual and gate_up. */
template <typename T> void forward(Device *dev, const char *op, Product p, const void *inp, const Weight *w, int N) {
    if (N <= 0 || !weight_usable<T>(dev, op, w, 0)) return;
    p.a = inp;
    p.b = w->data;
    p.M = N;
    p.N = w->rows;
    p.K = w->cols;
    p.a_stride = p.b_stride = w->cols;
    p.out_stride = p.ending == END_SWIGLU ? w->rows / 2 : w->rows;
    const int chunk = p.ending == END_FLOAT ? 4 : 16 / (int)sizeof(T);
    p.vectors = p.out_stride % chunk == 0 && on_16_bytes(p.out) && on_16_bytes(p.residual) && on_16_bytes(p.gate_up);
    if (w->dtype != DTYPE_I8) {
        Product pair = p;
        pair.ending = END_STORE;
        pair.out = p.gate_up;
        pair.out_stride = w->rows;
        if (p.ending != END_SWIGLU) {
            if (!by_cublas<T>(dev, op, p, 1, 1)) product_forward<T>(dev, op, p);
        } else if (p.gate_up && by_cublas<T>(dev, op, pair, 1, 1)) {
            cuda_swiglu_forward<T>(dev, p.out, p.gate_up, N, w->rows / 2);
        } else {
            product_forward<T>(dev, op, p);
        }
        return;
    }
    int stride = int8_stride(w->cols);
    char *scratch = (char *)cuda_scratch(dev, op, int8_scratch_bytes(N, w->cols));
    if (!scratch) return;
    float *scale = (float *)(scratch + rounded((size_t)N * (size_t)stride));
    quantize_rows<T>(dev, op, (int8_t *)scratch, scale, (const T *)inp, N, w->cols, stride);
    p.a = scratch;
    p.a_scale = scale;
    p.b_scale = w->scale;
    p.K = p.a_stride = p.b_stride = stride;
    product_int8<T>(dev, op, p);
}

int largest(int a, int b) { return a > b ? a : b; }

} // namespace

size_t product_scratch_bytes(const Device *dev) {
    size_t split = split_scratch_bytes(cuda_sm_count(dev));
    return cuda_cublas(dev) && split < CUBLAS_WORKSPACE_BYTES ? CUBLAS_WORKSPACE_BYTES : split;
}

template <typename T> size_t cuda_matmul_workspace(const Device *dev, const KernelLimits *limits) {
    int cols = largest(largest(limits->C, limits->F), limits->H * limits->D);
    size_t int8 = int8_scratch_bytes(limits->N, cols), products = product_scratch_bytes(dev);
    return int8 > products ? int8 : products;
}

template <typename T> void cuda_matmul_forward(Device *dev, void *out, const void *inp, const Weight *w, int N) {
    Product p = {};
    p.ending = END_STORE;
    p.out = out;
    forward<T>(dev, "matmul_forward", p, inp, w, N);
}

template <typename T> void cuda_logits_forward(Device *dev, void *logits, const void *inp, const Weight *w, int N) {
    Product p = {};
    p.ending = END_FLOAT;
    p.out = logits;
    forward<T>(dev, "logits_forward", p, inp, w, N);
}

template <typename T>
void cuda_matmul_add_forward(Device *dev, void *out, const void *residual, const void *inp, const Weight *w, int N) {
    Product p = {};
    p.ending = END_ADD;
    p.out = out;
    p.residual = residual;
    forward<T>(dev, "matmul_add_forward", p, inp, w, N);
}

template <typename T>
void cuda_matmul_swiglu_forward(Device *dev, void *out, void *gate_up, const void *inp, const Weight *w, int N) {
    Product p = {};
    p.ending = END_SWIGLU;
    p.out = out;
    p.gate_up = gate_up;
    forward<T>(dev, "matmul_swiglu_forward", p, inp, w, N);
}

template <typename T> void cuda_matmul_dgrad(Device *dev, void *dinp, const void *dout, const Weight *w, int N) {
    if (N <= 0 || !weight_usable<T>(dev, "matmul_dgrad", w, 1)) return;
    Product p = {};
    p.a = dout;
    p.b = w->data;
    p.M = N;
    p.N = p.b_stride = p.out_stride = w->cols;
    p.K = p.a_stride = w->rows;
    p.ending = END_STORE;
    p.out = dinp;
    p.vectors = p.out_stride % (16 / (int)sizeof(T)) == 0 && on_16_bytes(dinp);
    if (!by_cublas<T>(dev, "matmul_dgrad", p, 1, 0)) product_dgrad<T>(dev, "matmul_dgrad", p);
}

template <typename T>
void cuda_matmul_wgrad(Device *dev, void *dweight, const void *dout, const void *inp, int N, int rows, int cols) {
    void *scratch = cuda_scratch(dev, "matmul_wgrad", product_scratch_bytes(dev));
    if (N <= 0 || !scratch) return;
    Product p = {};
    p.a = dout;
    p.b = inp;
    p.M = p.a_stride = rows;
    p.N = p.b_stride = p.out_stride = cols;
    p.K = N;
    p.out = dweight;
    p.ending = END_ACCUMULATE;
    p.vectors = cols % 4 == 0 && on_16_bytes(dweight);
    if (!by_cublas<T>(dev, "matmul_wgrad", p, 0, 0)) product_wgrad<T>(dev, "matmul_wgrad", p, scratch);
}

/* ---- prepared weights -------------------------------------------------------------------------------------------- */

/* In the table's own dtype a weight is read as it lies: the prepared form is the weight itself and needs no storage. */
template <typename T> size_t cuda_weight_prepared_bytes(const Device *dev, int rows, int cols, DType dtype) {
    (void)dev;
    return dtype == DTYPE_I8 ? int8_scratch_bytes(rows, cols) : 0;
}

template <typename T>
void cuda_weight_prepare(Device *dev, Weight *out, void *storage, DType dtype, const Weight *src) {
    const char *op = "weight_prepare";
    if (!weight_usable<T>(dev, op, src, 1)) return;
    *out = *src;
    if (dtype == src->dtype) return;
    if (dtype != DTYPE_I8) {
        device_fail(dev, op, "a weight can be prepared in the table's own dtype or as int8");
        return;
    }
    int stride = int8_stride(src->cols);
    float *scale = (float *)((char *)storage + rounded((size_t)src->rows * (size_t)stride));
    quantize_rows<T>(dev, op, (int8_t *)storage, scale, (const T *)src->data, src->rows, src->cols, stride);
    out->data = storage;
    out->dtype = DTYPE_I8;
    out->layout = WEIGHT_PACKED;
    out->scale = scale;
}

#define OPERATIONS(T)                                                                                                  \
    template size_t cuda_matmul_workspace<T>(const Device *, const KernelLimits *);                                    \
    template void cuda_matmul_forward<T>(Device *, void *, const void *, const Weight *, int);                         \
    template void cuda_logits_forward<T>(Device *, void *, const void *, const Weight *, int);                         \
    template void cuda_matmul_add_forward<T>(Device *, void *, const void *, const void *, const Weight *, int);       \
    template void cuda_matmul_swiglu_forward<T>(Device *, void *, void *, const void *, const Weight *, int);          \
    template void cuda_matmul_dgrad<T>(Device *, void *, const void *, const Weight *, int);                           \
    template void cuda_matmul_wgrad<T>(Device *, void *, const void *, const void *, int, int, int);                   \
    template size_t cuda_weight_prepared_bytes<T>(const Device *, int, int, DType);                                    \
    template void cuda_weight_prepare<T>(Device *, Weight *, void *, DType, const Weight *);
OPERATIONS(float)
OPERATIONS(bf16)
