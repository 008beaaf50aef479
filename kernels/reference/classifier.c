/* classifier.c - the loss of a row's target range and its gradient. */
#include "kernels/reference/reference.h"

/* losses[n] = -log S, S = sum of p over [lo, hi):  dlogit_v = p_v - [lo <= v < hi] p_v / S */
void reference_classifier(Device *dev, void *losses, void *dinp, void *dweight, const void *inp, const Weight *w,
                          const int32_t *lo, const int32_t *hi, int N, int V) {
    if (device_error(dev)) return;
    size_t  have;
    double *logits = device_workspace(dev, &have), *loss = losses, *dx = dinp, *dw = dweight;
    if (w->dtype != DTYPE_F64 || w->layout != WEIGHT_ROWS || have < sizeof(double) * (size_t)V) {
        device_fail(dev, "classifier", "the reference takes float64 weights in rows and a workspace of V doubles");
        return;
    }
    const double *x = inp, *weight = w->data;
    int64_t       C = w->cols;
    for (int64_t n = 0; n < N; n++) {
        if (dx)
            for (int64_t c = 0; c < C; c++) dx[n * C + c] = 0;
        loss[n] = 0;
        if (lo[n] < 0) continue;
        double max = -INFINITY, all = 0, range = 0, range_max = -INFINITY;
        for (int64_t v = 0; v < V; v++) {
            logits[v] = reference_dot(x + n * C, weight + v * C, (int)C);
            max = fmax(max, logits[v]);
            if (lo[n] <= v && v < hi[n]) range_max = fmax(range_max, logits[v]);
        }
        for (int64_t v = 0; v < V; v++) all += exp(logits[v] - max);
        for (int64_t v = lo[n]; v < hi[n]; v++) range += exp(logits[v] - range_max);
        loss[n] = (max + log(all)) - (range_max + log(range));
        for (int64_t v = 0; v < V && (dx || dw); v++) {
            double d = exp(logits[v] - max) / all;
            if (lo[n] <= v && v < hi[n]) d -= exp(logits[v] - range_max) / range;
            for (int64_t c = 0; c < C; c++) {
                if (dx) dx[n * C + c] += d * weight[v * C + c];
                if (dw) dw[v * C + c] += d * x[n * C + c];
            }
        }
    }
}
