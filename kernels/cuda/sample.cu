/* sample.cu - one token a row by inverse CDF over ids ascending; one block a row.
 *
 * Weights exp((logit - max) / temperature) are summed in double over tiles of TILE ids, a warp a tile, and the tiles in
 * ascending order; the draw finds its tile, then its id.  A weight is a function of its id alone, so it is computed again
 * where it is needed instead of being kept.  Outcome ids are few: a warp walks through those of its tile one by one, and
 * lane o adds up outcome o.
 * Reads 4 B V bytes from memory; the later passes find them in the caches. */
#include "kernels/cuda/rows.cuh"

namespace {

constexpr int BLOCK = 256, WARPS = BLOCK / WARP, LANE = 4, TILE = WARP * LANE;

/* What a row's weights depend on. */
struct Law {
    const float   *logits;
    const uint8_t *forbidden;
    int            V;
    float          max, factor;
    uint32_t       key; /* with top_k: the k-th largest key; ids of this key count up to id `last` */
    int            last;
};

/* Ascending in x; 0 is below every number. */
__device__ __forceinline__ uint32_t key_of(float x) {
    uint32_t u = __float_as_uint(x);
    return u & 0x80000000u ? ~u : u | 0x80000000u;
}

__device__ __forceinline__ bool counts(const Law &law, int v) { return v < law.V && !(law.forbidden && law.forbidden[v]); }

__device__ __forceinline__ float weight_of(const Law &law, int v) {
    if (!counts(law, v)) return 0;
    float    x = law.logits[v];
    uint32_t key = key_of(x);
    if (key < law.key || (key == law.key && v > law.last)) return 0;
    return expf((x - law.max) * law.factor);
}

/* The largest logit that counts; infinity when one of them is NaN. */
__device__ float row_max(const Law &law, float *shared) {
    float max = -INFINITY;
    for (int v = (int)threadIdx.x; v < law.V; v += BLOCK)
        if (counts(law, v)) max = fmaxf(max, law.logits[v] == law.logits[v] ? law.logits[v] : INFINITY);
    for (int o = WARP / 2; o > 0; o /= 2) max = fmaxf(max, __shfl_xor_sync(0xffffffffu, max, o));
    if (threadIdx.x % WARP == 0) shared[threadIdx.x / WARP] = max;
    __syncthreads();
    for (int i = 0; i < WARPS; i++) max = fmaxf(max, shared[i]);
    return max;
}

__device__ int block_count(int own, int *shared) {
    for (int o = WARP / 2; o > 0; o /= 2) own += __shfl_xor_sync(0xffffffffu, own, o);
    __syncthreads();
    if (threadIdx.x % WARP == 0) shared[threadIdx.x / WARP] = own;
    __syncthreads();
    int sum = 0;
    for (int i = 0; i < WARPS; i++) sum += shared[i];
    return sum;
}

/* Narrows the law to its k largest logits; of equal ones the lower ids stay.  The key is found bit by bit, then the last
 * of the ids that have it, likewise: passes over cached logits that only --top-k pays for. */
__device__ void keep_top(Law &law, int k, int *shared) {
    uint32_t key = 0;
    for (int bit = 31; bit >= 0; bit--) {
        int own = 0;
        for (int v = (int)threadIdx.x; v < law.V; v += BLOCK) own += counts(law, v) && key_of(law.logits[v]) >= (key | 1u << bit);
        if (block_count(own, shared) >= k) key |= 1u << bit;
    }
    int above = 0;
    for (int v = (int)threadIdx.x; v < law.V; v += BLOCK) above += counts(law, v) && key_of(law.logits[v]) > key;
    int quota = k - block_count(above, shared), last = 0;
    for (int step = 1 << 30; step; step /= 2) { /* the largest `last` such that at most quota equal ids lie below it */
        int own = 0;
        if (step > law.V - last) continue;
        for (int v = (int)threadIdx.x; v < last + step; v += BLOCK) own += counts(law, v) && key_of(law.logits[v]) == key;
        if (block_count(own, shared) <= quota) last += step;
    }
    law.key = key, law.last = last - 1;
}

/* Sums of the tile's weights, to all lanes: of every id, and of those that may be drawn.  outcome: lane o's sum over ids
 * that are outcome o. */
__device__ void tile_sum(const Law &law, const uint32_t *outcome_bits, uint32_t suppress, int tile, double *all,
                         double *drawable, double *outcome) {
    int    lane = (int)threadIdx.x % WARP, v = tile * TILE + lane * LANE;
    double sum = 0, open = 0;
    for (int j = 0; j < LANE; j++) {
        float    w = weight_of(law, v + j);
        uint32_t bits = outcome_bits && v + j < law.V ? outcome_bits[v + j] : 0;
        sum += (double)w;
        if (!(bits & suppress)) open += (double)w;
        for (uint32_t lanes = __ballot_sync(0xffffffffu, bits != 0 && w > 0); lanes; lanes &= lanes - 1) {
            int      from = __ffs((int)lanes) - 1;
            uint32_t theirs = __shfl_sync(0xffffffffu, bits, from);
            float    weight = __shfl_sync(0xffffffffu, w, from);
            if (theirs >> lane & 1) *outcome += (double)weight;
        }
    }
    *all = lanes_sum(sum);
    *drawable = lanes_sum(open);
}

/* By one warp: the first id of the tile at which `before` plus the weights so far passes; if rounding hides it, the last
 * id of positive weight.  -1: none has any. */
__device__ int tile_draw(const Law &law, const uint32_t *outcome_bits, uint32_t suppress, int tile, double before,
                         double passes) {
    int    lane = (int)threadIdx.x % WARP, v = tile * TILE + lane * LANE, id = -1, last = -1;
    float  w[LANE];
    double own = 0;
    for (int j = 0; j < LANE; j++) {
        bool closed = v + j >= law.V || (outcome_bits && (outcome_bits[v + j] & suppress));
        w[j] = closed ? 0.0f : weight_of(law, v + j);
        own += (double)w[j];
    }
    double upto = own;
    for (int o = 1; o < WARP; o *= 2) {
        double left = __shfl_up_sync(0xffffffffu, upto, (unsigned)o);
        if (lane >= o) upto += left;
    }
    double sum = before + (upto - own);
    for (int j = 0; j < LANE; j++) {
        if (!(w[j] > 0)) continue;
        sum += (double)w[j];
        last = v + j;
        if (id < 0 && sum > passes) id = v + j;
    }
    uint32_t found = __ballot_sync(0xffffffffu, id >= 0), any = __ballot_sync(0xffffffffu, last >= 0);
    if (found) return __shfl_sync(0xffffffffu, id, __ffs((int)found) - 1);
    return any ? __shfl_sync(0xffffffffu, last, 31 - __clz((int)any)) : -1;
}

__global__ void __launch_bounds__(BLOCK)
    sample_kernel(int32_t *tokens, float *logp, float *p_outcome, const float *logits, const double *uniform,
                  const uint32_t *suppress, SampleSpec spec) {
    DYNAMIC_SHARED(double, drawable); /* (tiles) */
    __shared__ float  max_of_warp[WARPS];
    __shared__ int    counted[WARPS], drawn_tile;
    __shared__ double all_of_warp[WARPS], outcome_of_warp[WARPS][SAMPLE_OUTCOMES_MAX], before, passes;
    int      b = (int)blockIdx.x, thread = (int)threadIdx.x, warp = thread / WARP, lane = thread % WARP;
    int      tiles = (spec.V + TILE - 1) / TILE, n_outcomes = p_outcome ? spec.n_outcomes : 0;
    uint32_t closed = suppress ? suppress[b] : 0;
    Law law = {logits + (int64_t)b * spec.Vp, spec.forbidden, spec.V, 0, 1.0f / spec.temperature, 0, 0};
    law.last = spec.V;
    law.max = row_max(law, max_of_warp);
    if (law.max == INFINITY || law.max == -INFINITY) { /* no law: a number that is none, or nothing that counts */
        if (thread == 0) tokens[b] = -1;
        if (thread == 0 && logp) logp[b] = NAN;
        if (thread < n_outcomes) p_outcome[(int64_t)b * spec.n_outcomes + thread] = NAN;
        return;
    }
    if (spec.top_k > 0 && spec.top_k < spec.V) keep_top(law, spec.top_k, counted);

    double sum = 0, outcome = 0, all = 0;
    for (int t = warp; t < tiles; t += WARPS) {
        double open;
        tile_sum(law, spec.outcome_bits, closed, t, &all, &open, &outcome);
        sum += all;
        if (lane == 0) drawable[t] = open;
    }
    if (lane == 0) all_of_warp[warp] = sum;
    outcome_of_warp[warp][lane] = outcome;
    __syncthreads();
    all = 0;
    for (int i = 0; i < WARPS; i++) all += all_of_warp[i];
    if (thread < n_outcomes) {
        double o = 0;
        for (int i = 0; i < WARPS; i++) o += outcome_of_warp[i][thread];
        p_outcome[(int64_t)b * spec.n_outcomes + thread] = (float)(o / all);
    }
    if (thread == 0) { /* the last tile that holds anything: rounding may keep the sum just below what it must pass */
        double total = 0, so_far = 0;
        for (int t = 0; t < tiles; t++) total += drawable[t];
        passes = uniform[b] * total, drawn_tile = -1;
        for (int t = 0; t < tiles; t++) {
            if (!(drawable[t] > 0)) continue;
            drawn_tile = t, before = so_far;
            so_far += drawable[t];
            if (so_far > passes) break;
        }
    }
    __syncthreads();
    if (warp) return;
    int id = drawn_tile < 0 ? -1 : tile_draw(law, spec.outcome_bits, closed, drawn_tile, before, passes);
    if (lane) return;
    tokens[b] = id;
    if (logp) logp[b] = id < 0 ? -INFINITY : (float)log((double)weight_of(law, id) / all);
}

} // namespace

void cuda_sample(Device *dev, int32_t *tokens, float *logp, float *p_outcome, const void *logits, const double *uniform,
                 const uint32_t *suppress, const SampleSpec *spec, int B) {
    if (!(spec->temperature > 0) || spec->V < 1 || spec->V > spec->Vp || spec->n_outcomes > SAMPLE_OUTCOMES_MAX) {
        device_fail(dev, "sample", "expected temperature > 0, 1 <= V <= Vp and at most 32 outcomes");
        return;
    }
    if (B <= 0) return;
    size_t smem = sizeof(double) * (size_t)ceil_div(spec->V, TILE);
    CUDA_LAUNCH(dev, "sample", sample_kernel, B, BLOCK, smem, tokens, logp, p_outcome, (const float *)logits, uniform,
                suppress, *spec);
}
