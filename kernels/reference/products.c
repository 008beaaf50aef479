/* products.c - matrix products and SwiGLU. */
#include "kernels/reference/reference.h"

#include <string.h>

static int weight_usable(Device *dev, const char *op, const Weight *w) {
    if (device_error(dev)) return 0;
    if (w->dtype == DTYPE_F64 && w->layout == WEIGHT_ROWS) return 1;
    device_fail(dev, op, "the reference takes float64 weights in rows only");
    return 0;
}

/* There is nothing to prepare: a copy, so that callers need not know. */
size_t reference_weight_prepared_bytes(const Device *dev, int rows, int cols, DType dtype) {
    (void)dev;
    return dtype == DTYPE_F64 ? sizeof(double) * (size_t)rows * (size_t)cols : 0;
}

void reference_weight_prepare(Device *dev, Weight *out, void *storage, DType dtype, const Weight *src) {
    if (!weight_usable(dev, "weight_prepare", src)) return;
    if (dtype != DTYPE_F64) {
        device_fail(dev, "weight_prepare", "the reference prepares float64 as float64 only");
        return;
    }
    memcpy(storage, src->data, reference_weight_prepared_bytes(dev, src->rows, src->cols, dtype));
    *out = *src;
    out->data = storage;
}

void reference_matmul_forward(Device *dev, void *out, const void *inp, const Weight *w, int N) {
    if (!weight_usable(dev, "matmul_forward", w)) return;
    double       *y = out;
    const double *x = inp, *weight = w->data;
    for (int64_t n = 0; n < N; n++)
        for (int64_t r = 0; r < w->rows; r++)
            y[n * w->rows + r] = reference_dot(x + n * w->cols, weight + r * w->cols, w->cols);
}

void reference_matmul_add_forward(Device *dev, void *out, const void *residual, const void *inp, const Weight *w,
                                  int N) {
    if (!weight_usable(dev, "matmul_add_forward", w)) return;
    double       *y = out;
    const double *x = inp, *weight = w->data, *base = residual;
    for (int64_t n = 0; n < N; n++)
        for (int64_t r = 0; r < w->rows; r++)
            y[n * w->rows + r] = base[n * w->rows + r] + reference_dot(x + n * w->cols, weight + r * w->cols, w->cols);
}

static double sigmoid(double x) { return 1 / (1 + exp(-x)); }

void reference_matmul_swiglu_forward(Device *dev, void *out, void *gate_up, const void *inp, const Weight *w, int N) {
    if (!weight_usable(dev, "matmul_swiglu_forward", w)) return;
    double       *y = out, *kept = gate_up;
    const double *x = inp, *weight = w->data;
    int           F = w->rows / 2;
    for (int64_t n = 0; n < N; n++)
        for (int64_t f = 0; f < F; f++) {
            double gate = reference_dot(x + n * w->cols, weight + f * w->cols, w->cols);
            double up = reference_dot(x + n * w->cols, weight + (F + f) * w->cols, w->cols);
            if (kept) kept[n * 2 * F + f] = gate, kept[n * 2 * F + F + f] = up;
            y[n * F + f] = gate * sigmoid(gate) * up;
        }
}

void reference_matmul_dgrad(Device *dev, void *dinp, const void *dout, const Weight *w, int N) {
    if (!weight_usable(dev, "matmul_dgrad", w)) return;
    double       *dx = dinp;
    const double *dy = dout, *weight = w->data;
    for (int64_t n = 0; n < N; n++)
        for (int64_t c = 0; c < w->cols; c++) {
            double sum = 0;
            for (int64_t r = 0; r < w->rows; r++) sum += dy[n * w->rows + r] * weight[r * w->cols + c];
            dx[n * w->cols + c] = sum;
        }
}

void reference_matmul_wgrad(Device *dev, void *dweight, const void *dout, const void *inp, int N, int rows, int cols) {
    if (device_error(dev)) return;
    double       *dw = dweight;
    const double *dy = dout, *x = inp;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < cols; c++) {
            double sum = 0;
            for (int64_t n = 0; n < N; n++) sum += dy[n * rows + r] * x[n * cols + c];
            dw[r * cols + c] += sum;
        }
}

void reference_swiglu_forward(Device *dev, void *out, const void *gate_up, int N, int F) {
    if (device_error(dev)) return;
    double       *y = out;
    const double *pair = gate_up;
    for (int64_t n = 0; n < N; n++)
        for (int64_t f = 0; f < F; f++) {
            double gate = pair[n * 2 * F + f], up = pair[n * 2 * F + F + f];
            y[n * F + f] = gate * sigmoid(gate) * up;
        }
}

void reference_swiglu_backward(Device *dev, void *dgate_up, void *act, const void *dout, const void *gate_up, int N,
                               int F) {
    if (device_error(dev)) return;
    double       *dpair = dgate_up, *y = act;
    const double *dy = dout, *pair = gate_up;
    for (int64_t n = 0; n < N; n++)
        for (int64_t f = 0; f < F; f++) {
            double gate = pair[n * 2 * F + f], up = pair[n * 2 * F + F + f], d = dy[n * F + f], s = sigmoid(gate);
            dpair[n * 2 * F + f] = d * up * s * (1 + gate * (1 - s));
            dpair[n * 2 * F + F + f] = d * gate * s;
            y[n * F + f] = gate * s * up;
        }
}
