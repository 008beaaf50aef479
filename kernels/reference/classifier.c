/* classifier.c - the loss of a row's target range, its gradient, and drawing a token from a row of logits. */
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

/* ---- sampling ------------------------------------------------------------------------------------------------------ */

/* The law is softmax(logits / temperature) over ids that are not forbidden and, with top_k, among the k likeliest; of
 * equal logits the lower id comes first. */
static int in_law(const double *logits, const SampleSpec *spec, int v) {
    if (spec->forbidden && spec->forbidden[v]) return 0;
    if (spec->top_k <= 0) return 1;
    int better = 0;
    for (int u = 0; u < spec->V; u++)
        if (!(spec->forbidden && spec->forbidden[u]) && (logits[u] > logits[v] || (logits[u] == logits[v] && u < v)))
            better++;
    return better < spec->top_k;
}

/* The first id whose cumulated probability passes uniform, among those that may be drawn; -1 when there is none. */
static int draw(const double *p, double uniform, uint32_t suppress, const SampleSpec *spec) {
    double total = 0, sum = 0;
    int    last = -1;
    for (int v = 0; v < spec->V; v++)
        if (!(spec->outcome_bits && (spec->outcome_bits[v] & suppress))) total += p[v];
    for (int v = 0; v < spec->V; v++) {
        if (p[v] == 0 || (spec->outcome_bits && (spec->outcome_bits[v] & suppress))) continue;
        sum += p[v];
        last = v;
        if (sum > uniform * total) return v;
    }
    return last; /* rounding kept the sum just below uniform * total */
}

void reference_sample(Device *dev, int32_t *tokens, float *logp, float *p_outcome, const void *logits,
                      const double *uniform, const uint32_t *suppress, const SampleSpec *spec, int B) {
    if (device_error(dev)) return;
    size_t  have;
    double *p = device_workspace(dev, &have);
    if (have < sizeof(double) * (size_t)spec->V) {
        device_fail(dev, "sample", "the reference needs a workspace of V doubles");
        return;
    }
    for (int64_t b = 0; b < B; b++) {
        const double *row = (const double *)logits + b * spec->Vp;
        double        max = -INFINITY, all = 0;
        for (int v = 0; v < spec->V; v++)
            if (in_law(row, spec, v)) max = fmax(max, row[v]);
        for (int v = 0; v < spec->V; v++) {
            p[v] = in_law(row, spec, v) ? exp((row[v] - max) / spec->temperature) : 0;
            all += p[v];
        }
        for (int v = 0; v < spec->V; v++) p[v] /= all;
        tokens[b] = draw(p, uniform[b], suppress ? suppress[b] : 0, spec);
        if (logp) logp[b] = tokens[b] < 0 ? -INFINITY : (float)log(p[tokens[b]]);
        for (int o = 0; p_outcome && o < spec->n_outcomes; o++) {
            double sum = 0;
            for (int v = 0; v < spec->V; v++)
                if (spec->outcome_bits && (spec->outcome_bits[v] >> o & 1)) sum += p[v];
            p_outcome[b * spec->n_outcomes + o] = (float)sum;
        }
    }
}
