/* rows.c - what happens to each row by itself: embedding, RMSNorm, per-head norm with rotary positions. */
#include "kernels/reference/reference.h"

#include <string.h>

void reference_embedding_forward(Device *dev, void *out, const int32_t *tokens, const void *weight, int N, int C) {
    if (device_error(dev)) return;
    double       *y = out;
    const double *table = weight;
    for (int64_t n = 0; n < N; n++)
        for (int64_t c = 0; c < C; c++) y[n * C + c] = table[(int64_t)tokens[n] * C + c];
}

void reference_embedding_backward(Device *dev, void *dweight, const void *dout, const int32_t *tokens, int N, int C,
                                  int V) {
    (void)V;
    if (device_error(dev)) return;
    double       *dtable = dweight;
    const double *dy = dout;
    for (int64_t n = 0; n < N; n++)
        for (int64_t c = 0; c < C; c++) dtable[(int64_t)tokens[n] * C + c] += dy[n * C + c];
}

/* ---- RMSNorm of one row -------------------------------------------------------------------------------------------- */

static double row_rstd(const double *x, double eps, int C) { return 1 / sqrt(reference_dot(x, x, C) / C + eps); }

static void row_norm(double *y, const double *x, const double *weight, double rstd, int C) {
    for (int c = 0; c < C; c++) y[c] = x[c] * rstd * weight[c];
}

/* y = x r w with r = (mean x^2 + eps)^(-1/2):  dx = r (w dy - x r mean(w dy x r)).  dx += when add, else =. */
static void row_norm_backward(double *dx, int add, double *dweight, const double *dy, const double *x,
                              const double *weight, double rstd, int C) {
    double mean = 0;
    for (int c = 0; c < C; c++) mean += weight[c] * dy[c] * x[c] * rstd / C;
    for (int c = 0; c < C; c++) {
        double d = rstd * (weight[c] * dy[c] - x[c] * rstd * mean);
        if (dweight) dweight[c] += dy[c] * x[c] * rstd;
        dx[c] = add ? dx[c] + d : d;
    }
}

void reference_rmsnorm_forward(Device *dev, void *out, void *rstd, const void *inp, const void *weight, float eps,
                               int N, int C) {
    if (device_error(dev)) return;
    double       *y = out, *kept = rstd;
    const double *x = inp;
    for (int64_t n = 0; n < N; n++) {
        double r = row_rstd(x + n * C, eps, C);
        if (kept) kept[n] = r;
        row_norm(y + n * C, x + n * C, weight, r, C);
    }
}

void reference_rmsnorm_backward(Device *dev, void *dinp_acc, void *dweight, const void *dout, const void *inp,
                                const void *weight, const void *rstd, int N, int C) {
    if (device_error(dev)) return;
    double       *dx = dinp_acc;
    const double *dy = dout, *x = inp, *r = rstd;
    for (int64_t n = 0; n < N; n++) row_norm_backward(dx + n * C, 1, dweight, dy + n * C, x + n * C, weight, r[n], C);
}

/* ---- per-head norm, then a rotation of the pairs (i, i + D/2) by the position's angles ------------------------------ */

static void rotate(double *y, const double *angles, int D) {
    const double *cosine = angles, *sine = angles + D / 2;
    for (int i = 0; i < D / 2; i++) {
        double a = y[i], b = y[i + D / 2];
        y[i] = a * cosine[i] - b * sine[i];
        y[i + D / 2] = b * cosine[i] + a * sine[i];
    }
}

static void rotate_back(double *dy, const double *dout, const double *angles, int D) {
    const double *cosine = angles, *sine = angles + D / 2;
    for (int i = 0; i < D / 2; i++) {
        dy[i] = dout[i] * cosine[i] + dout[i + D / 2] * sine[i];
        dy[i + D / 2] = dout[i + D / 2] * cosine[i] - dout[i] * sine[i];
    }
}

void reference_qk_norm_rope_forward(Device *dev, void *qk, void *rstd, const void *qkv, const void *q_weight,
                                    const void *k_weight, const int32_t *positions, const void *rope, float eps, int N,
                                    int H, int G, int D) {
    if (device_error(dev)) return;
    double       *y = qk, *kept = rstd;
    const double *x = qkv, *angles = rope;
    for (int64_t n = 0; n < N; n++)
        for (int64_t h = 0; h < H + G; h++) {
            const double *head = x + n * (H + 2 * G) * D + h * D;
            double       *out = y + n * (H + G) * D + h * D, r = row_rstd(head, eps, D);
            if (kept) kept[n * (H + G) + h] = r;
            row_norm(out, head, h < H ? q_weight : k_weight, r, D);
            rotate(out, angles + (int64_t)positions[n] * D, D);
        }
}

void reference_qk_norm_rope_backward(Device *dev, void *dqkv, void *dq_weight, void *dk_weight, const void *dqk,
                                     const void *qkv, const void *q_weight, const void *k_weight, const void *rstd,
                                     const int32_t *positions, const void *rope, int N, int H, int G, int D) {
    enum { HEAD_MAX = 1024 };
    if (device_error(dev)) return;
    if (D > HEAD_MAX) {
        device_fail(dev, "qk_norm_rope_backward", "the reference takes heads of at most 1024");
        return;
    }
    double        dnormed[HEAD_MAX], *dx = dqkv;
    const double *dy = dqk, *x = qkv, *r = rstd, *angles = rope;
    for (int64_t n = 0; n < N; n++)
        for (int64_t h = 0; h < H + G; h++) {
            int64_t at = n * (H + 2 * G) * D + h * D;
            rotate_back(dnormed, dy + n * (H + G) * D + h * D, angles + (int64_t)positions[n] * D, D);
            row_norm_backward(dx + at, 0, h < H ? dq_weight : dk_weight, dnormed, x + at, h < H ? q_weight : k_weight,
                              r[n * (H + G) + h], D);
        }
}
