/* sample.c - drawing a token from a row of logits by inverse CDF. */
#include "kernels/reference/reference.h"

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
