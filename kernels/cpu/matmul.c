/* matmul.c - the operations that are products. */
#include "kernels/cpu/int8.h"
#include "kernels/cpu/ops.h"

enum { ROWS_CHUNK = 1024 }; /* rows a pass of matmul_swiglu where it is not fused and gate_up is not kept */

static int weight_usable(Device *dev, const char *op, const Weight *w) {
    if (device_error(dev)) return 0;
    if (w->dtype != DTYPE_F32 && w->layout != WEIGHT_PACKED)
        device_fail(dev, op, "the float32 CPU kernels take float32 weights, or what weight_prepare made of them");
    else if (w->rows < 1 || w->cols < 1 || w->rows > SGEMM_K_MAX || w->cols > SGEMM_K_MAX)
        device_fail(dev, op, "a weight has 1 to 65536 rows and columns");
    else return 1;
    return 0;
}

/* inp @ w^T for rows [row, row + n_rows) of w; a panel holds as many elements as its rows do */
static Product weight_product(const float *inp, const Weight *w, int row, int n_rows, int N) {
    const void *rows = (const char *)w->data + (size_t)row * (size_t)w->cols * dtype_size(w->dtype);
    Product     t = {.M = N, .N = n_rows, .K = w->cols, .a = inp, .a_rs = w->cols, .a_cs = 1, .b_rs = 1, .b_cs = w->cols};
    t.panel_type = w->dtype;
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

static size_t products_scratch(const Device *dev, int N, int cols) {
    size_t floats = product_scratch(dev), bytes = int8_scratch(N, cols);
    return round_up(floats > bytes ? floats : bytes, 64);
}

/* out = (residual +) inp @ w^T, w of any prepared type */
static void whole_product(Device *dev, const char *op, float *out, const float *residual, const float *inp, const Weight *w,
                          int N) {
    void *scratch = cpu_scratch(dev, op, products_scratch(dev, N, w->cols));
    if (!scratch || !weight_usable(dev, op, w)) return;
    if (w->dtype == DTYPE_I8) {
        int8_product(dev, out, NULL, residual, inp, w, N, scratch);
        return;
    }
    Product t = weight_product(inp, w, 0, w->rows, N);
    t.c = out, t.residual = residual, t.ldc = t.ld_residual = w->rows;
    product_run(dev, &t, scratch);
}

void cpu_matmul_forward(Device *dev, void *out, const void *inp, const Weight *w, int N) {
    whole_product(dev, "matmul_forward", out, NULL, inp, w, N);
}

void cpu_matmul_add_forward(Device *dev, void *out, const void *residual, const void *inp, const Weight *w, int N) {
    whole_product(dev, "matmul_add_forward", out, residual, inp, w, N);
}

void cpu_matmul_swiglu_forward(Device *dev, void *out, void *gate_up, const void *inp, const Weight *w, int N) {
    const char *op = "matmul_swiglu_forward";
    int         F = w->rows / 2, narrow = w->dtype == DTYPE_I8, fused = F % SGEMM_PANEL == 0 && !(narrow && gate_up);
    int         chunk = fused || gate_up ? N : int_min(N, ROWS_CHUNK);
    size_t      products = products_scratch(dev, N, w->cols);
    size_t      apart = fused || gate_up ? 0 : sizeof(float) * (size_t)chunk * (size_t)w->rows;
    char       *scratch = cpu_scratch(dev, op, products + apart);
    if (!scratch || !weight_usable(dev, op, w)) return;
    if (fused && narrow) {
        int8_product(dev, NULL, out, NULL, inp, w, N, scratch);
    } else if (fused) {
        Product t = weight_product(inp, w, 0, w->rows, N);
        t.c = gate_up, t.ldc = w->rows, t.gated = out;
        product_run(dev, &t, scratch);
    } else {
        for (int n = 0; n < N; n += chunk) { /* halves of a width that panels do not divide: the product, then the gate */
            int    rows = int_min(chunk, N - n);
            float *pair = gate_up ? gate_up : (float *)(scratch + products);
            whole_product(dev, op, pair, NULL, (const float *)inp + (ptrdiff_t)n * w->cols, w, rows);
            cpu_swiglu_forward(dev, (float *)out + (ptrdiff_t)n * F, pair, rows, F);
        }
    }
}

size_t cpu_matmul_workspace(const Device *dev, const KernelLimits *limits) {
    int widest = int_max(int_max(limits->C, limits->F), limits->H * limits->D);
    return products_scratch(dev, limits->N, widest) +
           sizeof(float) * 2 * (size_t)int_min(limits->N, ROWS_CHUNK) * (size_t)limits->F;
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

void cpu_swiglu_backward(Device *dev, void *dgate_up, void *act, const void *dout, const void *gate_up, int N, int F) {
    if (device_error(dev)) return;
    const CpuIsa *isa = cpu_isa(dev);
    int           threads = cpu_threads_for(dev, 40.0 * N * F), run = int_max(1, ceil_div(N, threads));
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int n = 0; n < N; n += run) {
        ptrdiff_t at = (ptrdiff_t)n * F;
        isa->swiglu_backward((float *)dgate_up + 2 * at, (float *)act + at, (const float *)dout + at,
                             (const float *)gate_up + 2 * at, int_min(run, N - n), F);
    }
}
