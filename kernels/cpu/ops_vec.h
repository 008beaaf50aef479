/* ops_vec.h - the vector code behind CpuOps, included by ops_avx512.c, ops_avx2.c and ops_portable.c.
 *
 * Sums over a row run in 16 (or 64) lanes, lane i % 16 in ascending order, and meet in a fixed tree, so that the bits
 * depend on the row's length alone. */
#ifndef EHR_KERNELS_CPU_OPS_VEC_H
#define EHR_KERNELS_CPU_OPS_VEC_H
#include "kernels/cpu/ops.h"
#include "kernels/cpu/vec.h"

static inline Vec sum4(const Vec s[4]) { return v_add(v_add(s[0], s[1]), v_add(s[2], s[3])); }

/* ---- plain ------------------------------------------------------------------------------------------------------- */

static inline float row_dot(const float *a, const float *b, int n) {
    Vec s = v_zero();
    for (int i = 0; i < n; i += VEC) s = v_fma(load_up_to(a + i, n - i), load_up_to(b + i, n - i), s);
    return v_sum(s);
}

static void ops_row_dots(float *out, const float *a, ptrdiff_t lda, const float *b, ptrdiff_t ldb, int rows, int n) {
    for (int i = 0; i < rows; i += VEC) {
        Vec s[VEC];
        for (int k = 0; k < VEC; k++) {
            const int    row = i + k < rows ? i + k : rows - 1; /* lanes from rows on are not kept */
            const float *x = a + row * lda, *y = b + row * ldb;
            int          d = 0;
            s[k] = v_zero();
            for (; d + VEC <= n; d += VEC) s[k] = v_fma(v_load(x + d), v_load(y + d), s[k]);
            if (d < n) s[k] = v_fma(v_load_n(x + d, n - d), v_load_n(y + d, n - d), s[k]);
        }
        store_up_to(out + i, v_fold(0, s), rows - i);
    }
}

static double ops_sum_squares(const float *x, int64_t n) {
    enum { LANES = 32 };
    double  lane[LANES] = {0};
    int64_t whole = n / LANES * LANES;
    for (int64_t i = 0; i < whole; i += LANES)
        for (int j = 0; j < LANES; j++) lane[j] += (double)x[i + j] * (double)x[i + j];
    for (int64_t i = whole; i < n; i++) lane[i - whole] += (double)x[i] * (double)x[i];
    double sum = 0;
    for (int j = 0; j < LANES; j++) sum += lane[j];
    return sum;
}

/* ---- RMSNorm ----------------------------------------------------------------------------------------------------- */

static float ops_rmsnorm(float *out, const float *x, const float *weight, float eps, int C) {
    float rstd = 1.0f / sqrtf(row_dot(x, x, C) / (float)C + eps);
    Vec   r = v_set1(rstd);
    for (int i = 0; i < C; i += VEC)
        store_up_to(out + i, v_mul(v_mul(load_up_to(x + i, C - i), r), load_up_to(weight + i, C - i)), C - i);
    return rstd;
}

/* dx += r (w dy - x r mean(w dy x r))   dweight += dy x r */
static void ops_rmsnorm_backward(float *dx, float *dweight, const float *dout, const float *x, const float *weight,
                                 float rstd, int C) {
    Vec s = v_zero(), r = v_set1(rstd);
    for (int i = 0; i < C; i += VEC)
        s = v_fma(v_mul(load_up_to(dout + i, C - i), load_up_to(weight + i, C - i)),
                  v_mul(load_up_to(x + i, C - i), r), s);
    Vec mean = v_set1(v_sum(s) / (float)C);
    for (int i = 0; i < C; i += VEC) {
        Vec dy = load_up_to(dout + i, C - i), w = load_up_to(weight + i, C - i);
        Vec xr = v_mul(load_up_to(x + i, C - i), r), d = v_sub(v_mul(w, dy), v_mul(xr, mean));
        store_up_to(dx + i, v_fma(d, r, load_up_to(dx + i, C - i)), C - i);
        if (dweight) store_up_to(dweight + i, v_fma(dy, xr, load_up_to(dweight + i, C - i)), C - i);
    }
}

/* ---- per-head norm and rotary positions -------------------------------------------------------------------------- */

/* D, a literal where it can be: then a head stays in registers. */
static inline __attribute__((always_inline)) float norm_rope(float *out, const float *x, const float *weight,
                                                             const float *rope, float eps, const int D) {
    const int half = D / 2;
    Vec s = v_zero();
    for (int i = 0; i < half; i += VEC) {
        Vec a = load_up_to(x + i, half - i), b = load_up_to(x + half + i, half - i);
        s = v_fma(b, b, v_fma(a, a, s));
    }
    float rstd = 1.0f / sqrtf(v_sum(s) / (float)D + eps);
    Vec   r = v_set1(rstd);
    for (int i = 0; i < half; i += VEC) {
        int n = half - i;
        Vec a = v_mul(v_mul(load_up_to(x + i, n), r), load_up_to(weight + i, n));
        Vec b = v_mul(v_mul(load_up_to(x + half + i, n), r), load_up_to(weight + half + i, n));
        Vec c = load_up_to(rope + i, n), sine = load_up_to(rope + half + i, n);
        store_up_to(out + i, v_fnma(b, sine, v_mul(a, c)), n);
        store_up_to(out + half + i, v_fma(a, sine, v_mul(b, c)), n);
    }
    return rstd;
}

static float ops_norm_rope(float *out, const float *x, const float *weight, const float *rope, float eps, int D) {
    if (D == 64) return norm_rope(out, x, weight, rope, eps, 64);
    if (D == 128) return norm_rope(out, x, weight, rope, eps, 128);
    return norm_rope(out, x, weight, rope, eps, D);
}

static inline __attribute__((always_inline)) void norm_rope_backward(float *dx, float *dweight, const float *dout,
                                                                     const float *x, const float *weight, const float *rope,
                                                                     float rstd, const int D) {
    const int half = D / 2;
    Vec dy[HEAD_MAX / VEC], s = v_zero(), r = v_set1(rstd); /* dy: of the normed head, turned back; its two halves in turn */
    for (int i = 0, j = 0; i < half; i += VEC, j += 2) {
        int n = half - i;
        Vec da = load_up_to(dout + i, n), db = load_up_to(dout + half + i, n);
        Vec c = load_up_to(rope + i, n), sine = load_up_to(rope + half + i, n);
        dy[j] = v_fma(db, sine, v_mul(da, c)), dy[j + 1] = v_fnma(da, sine, v_mul(db, c));
        s = v_fma(v_mul(dy[j], load_up_to(weight + i, n)), v_mul(load_up_to(x + i, n), r), s);
        s = v_fma(v_mul(dy[j + 1], load_up_to(weight + half + i, n)), v_mul(load_up_to(x + half + i, n), r), s);
    }
    Vec mean = v_set1(v_sum(s) / (float)D);
    for (int i = 0, j = 0; i < half; i += VEC)
        for (int at = i; at < D; at += half, j++) {
            int n = half - i;
            Vec xr = v_mul(load_up_to(x + at, n), r);
            if (dweight) store_up_to(dweight + at, v_fma(dy[j], xr, load_up_to(dweight + at, n)), n);
            store_up_to(dx + at, v_mul(r, v_sub(v_mul(dy[j], load_up_to(weight + at, n)), v_mul(xr, mean))), n);
        }
}

static void ops_norm_rope_backward(float *dx, float *dweight, const float *dout, const float *x, const float *weight,
                                   const float *rope, float rstd, int D) {
    if (D == 64) norm_rope_backward(dx, dweight, dout, x, weight, rope, rstd, 64);
    else if (D == 128) norm_rope_backward(dx, dweight, dout, x, weight, rope, rstd, 128);
    else norm_rope_backward(dx, dweight, dout, x, weight, rope, rstd, D);
}

/* ---- attention --------------------------------------------------------------------------------------------------- */

/* Scores j.. of a row that sees the first `seen` keys; all rows see the first `least`. */
static inline __attribute__((always_inline)) Vec row_scores(const float *scores, int j, int seen, const int least) {
    return j + VEC <= least ? v_load(scores + j) : v_below(v_load(scores + j), seen - j);
}

/* least, padded: literals but for rows that end in different vectors */
static inline __attribute__((always_inline)) void softmax_rows(float *scores, int m, const int *seen, const int least,
                                                               const int padded, float scale, float *max, float *sum,
                                                               float *factor, float *inverse) {
    Vec   r[VEC], old = v_load_n(max, m), unit = v_set1(scale);
    float shift[VEC];
    for (int i = 0; i < VEC; i++) { /* lanes from m on are not kept */
        r[i] = v_set1(-INFINITY);
        for (int j = 0; i < m && j < KV_PAGE; j += VEC)
            if (j < padded) r[i] = v_max(row_scores(scores + i * KV_PAGE, j, seen[i], least), r[i]);
    }
    Vec largest = v_max(v_mul(v_fold(1, r), unit), old), shrunk = v_exp2(v_sub(old, largest));
    v_store(shift, v_sub(v_zero(), largest));
    v_store_n(max, largest, m);
    v_store_n(factor, shrunk, m);
    for (int i = 0; i < m; i++) {
        float *s = scores + i * KV_PAGE;
        Vec    p[4] = {v_zero(), v_zero(), v_zero(), v_zero()}, row_shift = v_set1(shift[i]);
        for (int j = 0; j < 4; j++)
            if (j * VEC < padded) {
                p[j] = v_exp2(v_fma(row_scores(s, j * VEC, seen[i], least), unit, row_shift));
                v_store(s + j * VEC, p[j]);
            }
        r[i] = sum4(p);
    }
    Vec total = v_fma(v_load_n(sum, m), shrunk, v_fold(0, r));
    v_store_n(sum, total, m);
    if (inverse) v_store_n(inverse, v_div(v_set1(1.0f), total), m);
}

/* A row that sees nothing here gets the factor 1 and adds 0. */
static void ops_softmax_merge(float *scores, int m, const int *seen, int padded, float scale, float *max, float *sum,
                              float *factor, float *inverse) {
    int least = KV_PAGE;
    for (int i = 0; i < m; i++) least = int_min(least, seen[i]);
#define ROWS_THAT_SEE(least, padded) softmax_rows(scores, m, seen, least, padded, scale, max, sum, factor, inverse)
    if (least == KV_PAGE) ROWS_THAT_SEE(KV_PAGE, KV_PAGE);
    else if (least < padded - VEC) ROWS_THAT_SEE(0, padded);
    else if (padded == 16) ROWS_THAT_SEE(0, 16);
    else if (padded == 32) ROWS_THAT_SEE(16, 32);
    else if (padded == 48) ROWS_THAT_SEE(32, 48);
    else ROWS_THAT_SEE(48, 64);
#undef ROWS_THAT_SEE
}

/* diagonal: a literal */
static inline __attribute__((always_inline)) void weights_backward(const int diagonal, float *p, float *dp, int m,
                                                                   float scale, const float *lse, const float *mean) {
    const Vec most = v_set1(128.0f), unit = v_set1(LOG2_E * scale), slope = v_set1(scale);
    for (int i = 0; i < m; i++, p += KV_PAGE, dp += KV_PAGE) {
        Vec shift = v_set1(-lse[i] * LOG2_E), middle = v_set1(mean[i]);
        for (int j = 0; j < KV_PAGE && (!diagonal || j <= i); j += VEC) {
            Vec s = diagonal && i < j + VEC ? v_below(v_load(p + j), i + 1 - j) : v_load(p + j);
            Vec e = v_exp2(v_min(most, v_fma(s, unit, shift)));
            v_store(p + j, e);
            v_store(dp + j, v_mul(v_mul(e, slope), v_sub(v_load(dp + j), middle)));
        }
    }
}

static void ops_softmax_backward(float *p, float *dp, int m, int diagonal, float scale, const float *lse,
                                 const float *mean) {
    if (diagonal) weights_backward(1, p, dp, m, scale, lse, mean);
    else weights_backward(0, p, dp, m, scale, lse, mean);
}

/* ---- classifier -------------------------------------------------------------------------------------------------- */

enum { BLOCK = 4 * VEC }; /* logits that are summed side by side */

/* The block of logits from i on, -inf but for ids lo <= v < hi: where it lies, or in `edge`. */
static inline const float *block_at(float edge[BLOCK], const float *logits, int i, int lo, int hi) {
    if (i >= lo && i + BLOCK <= hi) return logits + i;
    for (int j = 0; j < BLOCK; j++) edge[j] = i + j >= lo && i + j < hi ? logits[i + j] : -INFINITY;
    return edge;
}

static inline void block_store(float *logits, const Vec x[4], int i, int V) {
    for (int k = 0; k < 4 && i + BLOCK <= V; k++) v_store(logits + i + k * VEC, x[k]);
    for (int k = 0; k < 4 && i + BLOCK > V; k++) store_up_to(logits + i + k * VEC, x[k], V - i - k * VEC);
}

typedef struct {
    float max, sum, log; /* log of the sum of exp(logits - max) */
} LogSum;

/* Over [lo, hi), in blocks by id: over the whole range of ids a target range has the very bits of the normaliser.
 * left, unless NULL: the exponentials take the place of the logits, but for the blocks that [left[0], left[1]) meets.
 * soon, unless NULL: of another row, fetched meanwhile. */
static LogSum log_sum(float *logits, int lo, int hi, int V, const int *left, const float *soon) {
    const Vec none = v_set1(-INFINITY);
    Vec       most[4] = {none, none, none, none}, s[4] = {v_zero(), v_zero(), v_zero(), v_zero()}, e[4];
    float     edge[BLOCK];
    LogSum    all;
    for (int i = lo & -BLOCK; i < hi; i += BLOCK) {
        const float *x = block_at(edge, logits, i, lo, hi);
        for (int k = 0; k < 4; k++) most[k] = v_max(v_load(x + k * VEC), most[k]);
    }
    all.max = v_largest(v_max(v_max(most[0], most[1]), v_max(most[2], most[3])));
    const Vec max = v_set1(all.max);
    for (int i = lo & -BLOCK; i < hi; i += BLOCK) {
        const float *x = block_at(edge, logits, i, lo, hi);
        for (int k = 0; k < 4; k++) {
            e[k] = v_exp(v_sub(v_load(x + k * VEC), max));
            s[k] = v_add(s[k], e[k]);
            if (soon) __builtin_prefetch(soon + i + k * VEC, 0, 2);
        }
        if (left && (i + BLOCK <= left[0] || i >= left[1])) block_store(logits, e, i, V);
    }
    all.sum = v_sum(sum4(s));
    all.log = logf(all.sum);
    return all;
}

static float ops_range_loss(float *logits, int lo, int hi, int V, int gradient, const float *soon) {
    if (lo < 0) {
        if (gradient) memset(logits, 0, sizeof(float) * (size_t)V);
        return 0;
    }
    const int    target[2] = {lo, hi = int_min(hi, V)};
    const LogSum range = log_sum(logits, lo, hi, V, NULL, NULL);
    const LogSum all = log_sum(logits, 0, V, V, gradient ? target : NULL, soon);
    const Vec    m = v_set1(all.max), inverse = v_set1(1.0f / all.sum);
    const Vec    range_m = v_set1(range.max), range_inverse = v_set1(1.0f / range.sum);
    for (int i = 0; gradient && i < V; i += BLOCK) {
        float        edge[BLOCK], target_edge[BLOCK];
        const float *x = block_at(edge, logits, i, 0, V);
        Vec          d[4];
        for (int k = 0; k < 4; k++) d[k] = v_load(x + k * VEC);
        if (i + BLOCK > lo && i < hi) {
            const float *t = block_at(target_edge, logits, i, lo, hi);
            for (int k = 0; k < 4; k++) {
                const Vec q = v_exp(v_sub(v_load(t + k * VEC), range_m));
                d[k] = v_fnma(q, range_inverse, v_mul(v_exp(v_sub(d[k], m)), inverse));
            }
        } else
            for (int k = 0; k < 4; k++) d[k] = v_mul(d[k], inverse);
        block_store(logits, d, i, V);
    }
    return (all.max - range.max) + (all.log - range.log);
}

/* ---- sampling ---------------------------------------------------------------------------------------------------- */

static float ops_sample_weights(float *weight, const float *logits, const float *cap, float inverse_temperature,
                                int V) {
    Vec largest = v_set1(-INFINITY), factor = v_set1(inverse_temperature);
    int padded = (int)round_up((size_t)V, SAMPLE_BLOCK);
    for (int i = 0; i < V; i += VEC) /* v_min gives cap for a NaN: infinity where the id counts */
        largest = v_max(v_min(load_up_to(logits + i, V - i), v_load(cap + i)), largest);
    float max = v_largest(largest);
    if (max == INFINITY || max == -INFINITY) return max;
    for (int i = 0; i < padded; i += VEC) {
        Vec x = i < V ? v_min(load_up_to(logits + i, V - i), v_load(cap + i)) : v_set1(-INFINITY);
        v_store(weight + i, v_exp(v_mul(v_sub(x, v_set1(max)), factor)));
    }
    return max;
}

static float ops_sample_block_sum(const float *weight) {
    Vec x[4] = {v_load(weight), v_load(weight + VEC), v_load(weight + 2 * VEC), v_load(weight + 3 * VEC)};
    return v_sum(sum4(x));
}

/* ---- AdamW ------------------------------------------------------------------------------------------------------- */

/* Tails are padded vectors: an element's bits do not depend on where its range begins, so neither on the sharding. */
static void ops_adamw(float *param, float *out, float *m, float *v, const float *grad, int64_t n,
                      const AdamwScalars *s) {
    Vec beta1 = v_set1(s->beta1), beta2 = v_set1(s->beta2), scale = v_set1(s->grad_scale), eps = v_set1(s->eps);
    Vec rest1 = v_set1(1.0f - s->beta1), rest2 = v_set1(1.0f - s->beta2), rate = v_set1(s->learning_rate);
    Vec correct1 = v_set1(s->correct1), correct2 = v_set1(s->correct2), decay = v_set1(s->weight_decay);
    for (int64_t i = 0; i < n; i += VEC) {
        int left = n - i < VEC ? (int)(n - i) : VEC;
        Vec g = v_mul(load_up_to(grad + i, left), scale), p = load_up_to(param + i, left);
        Vec mean = v_fma(rest1, g, v_mul(beta1, load_up_to(m + i, left)));
        Vec square = v_fma(v_mul(rest2, g), g, v_mul(beta2, load_up_to(v + i, left)));
        Vec move = v_div(v_div(mean, correct1), v_add(v_sqrt(v_div(square, correct2)), eps));
        p = v_fnma(rate, v_fma(decay, p, move), p);
        store_up_to(m + i, mean, left);
        store_up_to(v + i, square, left);
        store_up_to(param + i, p, left);
        if (out) store_up_to(out + i, p, left);
    }
}

#define CPU_OPS_TABLE                                                                                                  \
    {                                                                                                                  \
        .row_dots = ops_row_dots, .sum_squares = ops_sum_squares, .rmsnorm = ops_rmsnorm,                              \
        .rmsnorm_backward = ops_rmsnorm_backward, .norm_rope = ops_norm_rope,                                          \
        .norm_rope_backward = ops_norm_rope_backward, .softmax_merge = ops_softmax_merge,                              \
        .softmax_backward = ops_softmax_backward, .range_loss = ops_range_loss, .sample_weights = ops_sample_weights,  \
        .sample_block_sum = ops_sample_block_sum, .adamw = ops_adamw                                                   \
    }

#endif
