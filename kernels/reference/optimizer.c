/* optimizer.c - AdamW and the sum of squares. */
#include "kernels/reference/reference.h"

void reference_adamw(Device *dev, void *param, void *out, void *m, void *v, const void *grad, const AdamwRange *ranges,
                     int n_ranges, const AdamwStep *step) {
    if (device_error(dev) || step->skip) return;
    double       *p = param, *copy = out, *mean = m, *square = v;
    const double *g = grad;
    double        beta1 = step->beta1, beta2 = step->beta2;
    double        correct1 = 1 - pow(beta1, step->step), correct2 = 1 - pow(beta2, step->step);
    for (int r = 0; r < n_ranges; r++)
        for (int64_t i = ranges[r].offset; i < ranges[r].offset + ranges[r].count; i++) {
            double d = g[i] * step->grad_scale;
            mean[i] = beta1 * mean[i] + (1 - beta1) * d;
            square[i] = beta2 * square[i] + (1 - beta2) * d * d;
            double move = mean[i] / correct1 / (sqrt(square[i] / correct2) + step->eps);
            if (ranges[r].decay) move += step->weight_decay * p[i];
            p[i] -= step->learning_rate * move;
            if (copy) copy[i] = p[i];
        }
}

void reference_sum_squares(Device *dev, double *sum, const void *x, int64_t count) {
    if (device_error(dev)) return;
    const double *values = x;
    for (int64_t i = 0; i < count; i++) *sum += values[i] * values[i];
}
