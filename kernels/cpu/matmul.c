/* matmul.c - the operations that are products, and weights prepared for them. */
#include "kernels/cpu/ops.h"

enum { ROWS_CHUNK = 1024 }; /* rows a pass of matmul_swiglu where it is not fused and gate_up is not kept */

static int weight_usable(Device *dev, const char *op, const Weight *w) {
    if (device_error(dev)) return 0;
    if (w->dtype != DTYPE_F32) device_fail(dev, op, "the float32 CPU kernels take float32 weights only");
    else if (w->rows < 1 || w->cols < 1 || w->rows > SGEMM_K_MAX || w->cols > SGEMM_K_MAX)
        device_fail(dev, op, "a weight has 1 to 65536 rows and columns");
    else return 1;
    return 0;
}

/* inp @ w^T for rows [row, row + n_rows) of w */
static Product weight_product(const float *inp, const Weight *w, int row, int n_rows, int N) {
    const float *rows = (const float *)w->data + (ptrdiff_t)row * w->cols; /* a panel holds as many floats as its rows */
    Product      t = {.M = N, .N = n_rows, .K = w->cols, .a = inp, .a_rs = w->cols, .a_cs = 1, .b_rs = 1, .b_cs = w->cols};
    if (w->layout == WEIGHT_PACKED) t.panels = rows;
    else t.b = rows;
    return t;
}

void cpu_matmul_rows(Device *dev, float *out, ptrdiff_t ldc, const float *inp, const Weight *w, int row, int n_rows,
                     int N, void *scratch) {
    if (!weight_usable(dev, "cpu_matmul_rows", w)) return;
    Product t = weight_product(inp, w, row, n_rows, N);
    t.c = out, t.ldc = ldc;
    product_run(dev, &t, scratch);
}

void cpu_matmul_forward(Device *dev, void *out, const void *inp, const Weight *w, int N) {
    float *scratch = cpu_scratch(dev, "matmul_forward", product_scratch(dev));
    if (!scratch || !weight_usable(dev, "matmul_forward", w)) return;
    cpu_matmul_rows(dev, out, w->rows, inp, w, 0, w->rows, N, scratch);
}

void cpu_matmul_add_forward(Device *dev, void *out, const void *residual, const void *inp, const Weight *w, int N) {
    float *scratch = cpu_scratch(dev, "matmul_add_forward", product_scratch(dev));
    if (!scratch || !weight_usable(dev, "matmul_add_forward", w)) return;
    Product t = weight_product(inp, w, 0, w->rows, N);
    t.c = out, t.residual = residual, t.ldc = t.ld_residual = w->rows;
    product_run(dev, &t, scratch);
}

void cpu_matmul_swiglu_forward(Device *dev, void *out, void *gate_up, const void *inp, const Weight *w, int N) {
    int    F = w->rows / 2, fused = F % SGEMM_PANEL == 0, chunk = fused || gate_up ? N : int_min(N, ROWS_CHUNK);
    size_t products = product_scratch(dev), apart = fused || gate_up ? 0 : sizeof(float) * (size_t)chunk * (size_t)w->rows;
    char  *scratch = cpu_scratch(dev, "matmul_swiglu_forward", products + apart);
    if (!scratch || !weight_usable(dev, "matmul_swiglu_forward", w)) return;
    if (fused) {
        Product t = weight_product(inp, w, 0, w->rows, N);
        t.c = gate_up, t.ldc = w->rows, t.gated = out;
        product_run(dev, &t, scratch);
        return;
    }
    for (int n = 0; n < N; n += chunk) { /* halves of a width that panels do not divide: one product, then the gate */
        int    rows = int_min(chunk, N - n);
        float *pair = gate_up ? gate_up : (float *)(scratch + products);
        cpu_matmul_rows(dev, pair, w->rows, (const float *)inp + (ptrdiff_t)n * w->cols, w, 0, w->rows, rows, scratch);
        cpu_swiglu_forward(dev, (float *)out + (ptrdiff_t)n * F, pair, rows, F);
    }
}

size_t cpu_matmul_workspace(const Device *dev, const KernelLimits *limits) {
    return product_scratch(dev) + sizeof(float) * 2 * (size_t)int_min(limits->N, ROWS_CHUNK) * (size_t)limits->F;
}

void cpu_matmul_dgrad(Device *dev, void *dinp, const void *dout, const Weight *w, int N) {
    float *scratch = cpu_scratch(dev, "matmul_dgrad", product_scratch(dev));
    if (!scratch || !weight_usable(dev, "matmul_dgrad", w)) return;
    if (w->layout != WEIGHT_ROWS) {
        device_fail(dev, "matmul_dgrad", "a prepared weight is for inference only");
        return;
    }
    cpu_sgemm(dev, N, w->cols, w->rows, dout, w->rows, 1, w->data, w->cols, 1, dinp, w->cols, SGEMM_STORE, scratch);
}

void cpu_matmul_wgrad(Device *dev, void *dweight, const void *dout, const void *inp, int N, int rows, int cols) {
    float *scratch = cpu_scratch(dev, "matmul_wgrad", product_scratch(dev));
    if (!scratch) return;
    for (int n = 0; n < N; n += SGEMM_K_MAX)
        cpu_sgemm(dev, rows, cols, int_min(N - n, SGEMM_K_MAX), (const float *)dout + (ptrdiff_t)n * rows, 1, rows,
                  (const float *)inp + (ptrdiff_t)n * cols, cols, 1, dweight, cols, SGEMM_ADD, scratch);
}

void cpu_swiglu_forward(Device *dev, void *out, const void *gate_up, int N, int F) {
    if (device_error(dev)) return;
    const CpuIsa *isa = cpu_isa(dev);
#pragma omp parallel for num_threads(cpu_threads_for(dev, 30.0 * N * F)) schedule(static)
    for (int n = 0; n < N; n++) {
        const float *gate = (const float *)gate_up + (ptrdiff_t)n * 2 * F;
        isa->swiglu((float *)out + (ptrdiff_t)n * F, gate, gate + F, F);
    }
}

void cpu_swiglu_backward(Device *dev, void *dgate_up, const void *dout, const void *gate_up, int N, int F) {
    if (device_error(dev)) return;
    const CpuIsa *isa = cpu_isa(dev);
#pragma omp parallel for num_threads(cpu_threads_for(dev, 40.0 * N * F)) schedule(static)
    for (int n = 0; n < N; n++) {
        const float *gate = (const float *)gate_up + (ptrdiff_t)n * 2 * F;
        float       *dgate = (float *)dgate_up + (ptrdiff_t)n * 2 * F;
        isa->swiglu_backward(dgate, dgate + F, (const float *)dout + (ptrdiff_t)n * F, gate, gate + F, F);
    }
}

/* ---- prepared weights: panels of 32 rows ---------------------------------------------------------------------------- */

size_t cpu_weight_prepared_bytes(const Device *dev, int rows, int cols, DType dtype) {
    (void)dev;
    return dtype == DTYPE_F32 ? sizeof(float) * round_up((size_t)rows, SGEMM_PANEL) * (size_t)cols : 0;
}

void cpu_weight_prepare(Device *dev, Weight *out, void *storage, DType dtype, const Weight *src) {
    if (!weight_usable(dev, "weight_prepare", src)) return;
    if (dtype != DTYPE_F32 || src->layout != WEIGHT_ROWS) {
        device_fail(dev, "weight_prepare", "the float32 CPU kernels prepare float32 rows as float32 only");
        return;
    }
    const CpuIsa *isa = cpu_isa(dev);
    const float  *data = src->data;
    float        *panels = storage;
#pragma omp parallel for num_threads(cpu_threads_for(dev, 4.0 * src->rows * src->cols)) schedule(static)
    for (int row = 0; row < src->rows; row += SGEMM_PANEL)
        isa->sgemm_pack_panel(panels + (ptrdiff_t)row * src->cols, int_min(SGEMM_PANEL, src->rows - row), src->cols,
                              data + (ptrdiff_t)row * src->cols, 1, src->cols);
    *out = *src;
    out->data = storage;
    out->layout = WEIGHT_PACKED;
}
