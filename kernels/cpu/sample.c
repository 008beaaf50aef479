/* sample.c - one token a row by inverse CDF over ids ascending.
 *
 * Weights exp((logit - max) / temperature) are summed in blocks of SAMPLE_BLOCK ids, the blocks in double in ascending
 * order; the draw finds its block, then its id.  Outcomes are few ids out of thousands, so those are listed once. */
#include "kernels/cpu/ops.h"

#include <math.h>
#include <string.h>

/* What all rows share. */
typedef struct {
    float    *cap;       /* (V padded) infinity, or -infinity: never drawn */
    int32_t  *outcome;   /* ids that are some outcome, ascending */
    int       n_outcome_ids, blocks;
    const SampleSpec *spec;
} Law;

static size_t padded_ids(int Vp) { return round_up((size_t)Vp, SAMPLE_BLOCK); }

/* A thread's own: weights, block sums, and the k largest logits. */
static size_t row_floats(int Vp) { return 2 * padded_ids(Vp) + round_up(padded_ids(Vp) / SAMPLE_BLOCK, 16); }

size_t cpu_sample_workspace(const Device *dev, int Vp) {
    return sizeof(float) * (2 * padded_ids(Vp) + row_floats(Vp) * (size_t)device_threads(dev));
}

static Law law_make(const SampleSpec *spec, float *memory) {
    size_t padded = padded_ids(spec->Vp);
    Law    law = {memory, (int32_t *)(memory + padded), 0, ceil_div(spec->V, SAMPLE_BLOCK), spec};
    for (int v = 0; v < (int)padded; v++)
        law.cap[v] = v >= spec->V || (spec->forbidden && spec->forbidden[v]) ? -INFINITY : INFINITY;
    for (int v = 0; v < spec->V && spec->outcome_bits; v++)
        if (spec->outcome_bits[v]) law.outcome[law.n_outcome_ids++] = v;
    return law;
}

/* Keeps heap[0] the smallest of k values. */
static void heap_sink(float *heap, int k, float x) {
    int i = 0;
    for (int child; (child = 2 * i + 1) < k; i = child) {
        if (child + 1 < k && heap[child + 1] < heap[child]) child++;
        if (heap[child] >= x) break;
        heap[i] = heap[child];
    }
    heap[i] = x;
}

/* Zeroes all weights but those of the k largest logits; of equal logits the lower id stays. */
static void keep_top(float *weight, float *heap, const float *logits, const Law *law, int k) {
    const int V = law->spec->V;
    for (int i = 0; i < k; i++) heap[i] = -INFINITY;
    for (int v = 0; v < V; v++)
        if (law->cap[v] > 0 && logits[v] > heap[0]) heap_sink(heap, k, logits[v]);
    float least = heap[0];
    int   equal = 0;
    for (int i = 0; i < k; i++) equal += heap[i] == least;
    for (int v = 0; v < V; v++) {
        if (law->cap[v] < 0 || logits[v] < least) weight[v] = 0;
        else if (logits[v] == least && --equal < 0) weight[v] = 0;
    }
}

/* The first id whose cumulated weight passes uniform * total; only ids of positive weight are ever drawn. */
static int draw(const float *weight, const float *block_sum, int blocks, double uniform) {
    double total = 0, sum = 0;
    for (int b = 0; b < blocks; b++) total += (double)block_sum[b];
    double passes = uniform * total;
    int    last = -1; /* the last block that holds anything: rounding may keep the sum just below what it must pass */
    for (int b = 0; b < blocks; b++) {
        if (!(block_sum[b] > 0)) continue;
        last = b;
        if (sum + (double)block_sum[b] > passes) break;
        sum += (double)block_sum[b];
    }
    if (last < 0) return -1;
    int id = -1;
    for (int v = last * SAMPLE_BLOCK; v < (last + 1) * SAMPLE_BLOCK; v++) {
        if (!(weight[v] > 0)) continue;
        id = v;
        sum += (double)weight[v];
        if (sum > passes) break;
    }
    return id;
}

/* p_outcome (n_outcomes) or NULL, logp or NULL; returns the token. */
static int row_sample(const CpuOps *ops, const Law *law, float *memory, const float *logits, double uniform,
                      uint32_t suppress, float *logp, float *p_outcome) {
    const SampleSpec *spec = law->spec;
    float            *weight = memory, *heap = weight + padded_ids(spec->Vp), *block_sum = heap + padded_ids(spec->Vp);
    double            all = 0, outcome[SAMPLE_OUTCOMES_MAX] = {0};
    float max = ops->sample_weights(weight, logits, law->cap, 1.0f / spec->temperature, spec->V);
    if (max == INFINITY || max == -INFINITY) {
        if (logp) *logp = NAN;
        for (int o = 0; p_outcome && o < spec->n_outcomes; o++) p_outcome[o] = NAN;
        return -1;
    }
    if (spec->top_k > 0 && spec->top_k < spec->V) keep_top(weight, heap, logits, law, spec->top_k);
    for (int b = 0; b < law->blocks; b++) {
        block_sum[b] = ops->sample_block_sum(weight + b * SAMPLE_BLOCK);
        all += (double)block_sum[b];
    }
    for (int i = 0; i < law->n_outcome_ids; i++) { /* in the unsuppressed law; then the suppressed ones are taken out */
        int v = law->outcome[i];
        for (uint32_t bits = spec->outcome_bits[v]; p_outcome && bits; bits &= bits - 1)
            outcome[__builtin_ctz(bits)] += (double)weight[v];
        if (!(spec->outcome_bits[v] & suppress)) continue;
        weight[v] = 0;
        block_sum[v / SAMPLE_BLOCK] = ops->sample_block_sum(weight + v / SAMPLE_BLOCK * SAMPLE_BLOCK);
    }
    for (int o = 0; p_outcome && o < spec->n_outcomes; o++) p_outcome[o] = (float)(outcome[o] / all);
    int id = draw(weight, block_sum, law->blocks, uniform);
    if (logp) *logp = id < 0 ? -INFINITY : (float)log((double)weight[id] / all);
    return id;
}

void cpu_sample(Device *dev, int32_t *tokens, float *logp, float *p_outcome, const void *logits, const double *uniform,
                const uint32_t *suppress, const SampleSpec *spec, int B) {
    float *memory = cpu_scratch(dev, "sample", cpu_sample_workspace(dev, spec->Vp));
    if (!memory) return;
    if (!(spec->temperature > 0) || spec->V < 1 || spec->V > spec->Vp || spec->n_outcomes > SAMPLE_OUTCOMES_MAX) {
        device_fail(dev, "sample", "expected temperature > 0, 1 <= V <= Vp and at most 32 outcomes");
        return;
    }
    const CpuOps *ops = cpu_ops(dev);
    Law           law = law_make(spec, memory);
    float        *own = memory + 2 * padded_ids(spec->Vp);
#pragma omp parallel for num_threads(cpu_threads_for(dev, 30.0 * B * spec->V)) schedule(static)
    for (int b = 0; b < B; b++)
        tokens[b] = row_sample(ops, &law, own + (size_t)cpu_thread() * row_floats(spec->Vp),
                               (const float *)logits + (ptrdiff_t)b * spec->Vp, uniform[b], suppress ? suppress[b] : 0,
                               logp ? logp + b : NULL, p_outcome ? p_outcome + (ptrdiff_t)b * spec->n_outcomes : NULL);
}

/* ---- the workspace of every operation that is not a product ------------------------------------------------------ */

size_t cpu_ops_workspace_bytes(const Device *dev, const KernelLimits *limits) {
    size_t rows = sizeof(float) * PARTIAL_SUMS * (size_t)int_max(limits->C, 2 * limits->D);
    size_t need[] = {cpu_attention_workspace(dev, limits), cpu_attention_backward_workspace(dev, limits),
                     cpu_classifier_workspace(dev, limits), cpu_sample_workspace(dev, limits->Vp)};
    for (size_t i = 0; i < sizeof need / sizeof *need; i++) rows = need[i] > rows ? need[i] : rows;
    return rows;
}
