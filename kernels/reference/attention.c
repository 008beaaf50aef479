/* attention.c - causal attention over packed sequences and over pages of cached keys.  Scores are computed twice rather
 * than kept: once for their log-sum-exp, once for the weights. */
#include "kernels/reference/reference.h"

#include <string.h>

/* Where row n, head h of each tensor lies. */
typedef struct {
    int64_t H, G, D;
} Heads;
static int64_t at_q(Heads s, int64_t n, int64_t h) { return (n * (s.H + s.G) + h) * s.D; }
static int64_t at_k(Heads s, int64_t n, int64_t g) { return (n * (s.H + s.G) + s.H + g) * s.D; }
static int64_t at_v(Heads s, int64_t n, int64_t g) { return (n * (s.H + 2 * s.G) + s.H + s.G + g) * s.D; }
static int64_t at_out(Heads s, int64_t n, int64_t h) { return (n * s.H + h) * s.D; }
/* key (kv = 0) or value (kv = 1) of head g at index i of a page: pool is (n_pages, 2, G, KV_PAGE, D) */
static int64_t at_page(Heads s, int64_t page, int kv, int64_t g, int64_t i) {
    return (((page * 2 + kv) * s.G + g) * KV_PAGE + i) * s.D;
}

/* out = sum_j softmax_j(q . key_j / sqrt(D)) value_j over n_keys keys; returns the log-sum-exp of the scores. */
typedef const double *(*KeyFn)(const void *context, int64_t j, int kv);
static double attend(double *out, const double *q, KeyFn key, const void *context, int64_t n_keys, int64_t D) {
    double scale = 1 / sqrt((double)D), max = -INFINITY, sum = 0;
    for (int64_t j = 0; j < n_keys; j++) max = fmax(max, scale * reference_dot(q, key(context, j, 0), (int)D));
    for (int64_t j = 0; j < n_keys; j++) sum += exp(scale * reference_dot(q, key(context, j, 0), (int)D) - max);
    double lse = max + log(sum);
    for (int64_t d = 0; d < D; d++) out[d] = 0;
    for (int64_t j = 0; j < n_keys; j++) {
        double p = exp(scale * reference_dot(q, key(context, j, 0), (int)D) - lse);
        for (int64_t d = 0; d < D; d++) out[d] += p * key(context, j, 1)[d];
    }
    return lse;
}

typedef struct {
    Heads         s;
    const double *qk, *qkv;
    int64_t       first, g; /* first row of the sequence, key/value head */
} PackedKeys;

static const double *packed_key(const void *context, int64_t j, int kv) {
    const PackedKeys *c = context;
    return kv ? c->qkv + at_v(c->s, c->first + j, c->g) : c->qk + at_k(c->s, c->first + j, c->g);
}

void reference_attention_forward(Device *dev, void *out, void *lse, const void *qk, const void *qkv,
                                 const int32_t *cu_seqlens, int n_seq, int N, int H, int G, int D) {
    if (device_error(dev)) return;
    Heads   s = {H, G, D};
    double *y = out, *kept = lse;
    for (int seq = 0; seq < n_seq; seq++)
        for (int64_t n = cu_seqlens[seq]; n < cu_seqlens[seq + 1]; n++)
            for (int64_t h = 0; h < H; h++) {
                PackedKeys keys = {s, qk, qkv, cu_seqlens[seq], h / (H / G)};
                double     l = attend(y + at_out(s, n, h), (const double *)qk + at_q(s, n, h), packed_key, &keys,
                                      n - cu_seqlens[seq] + 1, D);
                if (kept) kept[h * N + n] = l;
            }
}

/* With p_j = exp(score_j - lse) and score_j = q . k_j / sqrt(D):
 *   dv_j += p_j dout    dscore_j = p_j (dout . v_j - dout . out)    dq += dscore_j k_j / sqrt(D)    dk_j likewise */
void reference_attention_backward(Device *dev, void *dqk, void *dqkv, const void *dout, const void *qk, const void *qkv,
                                  const void *out, const void *lse, const int32_t *cu_seqlens, int n_seq, int N, int H,
                                  int G, int D) {
    if (device_error(dev)) return;
    Heads         s = {H, G, D};
    double       *dqk_ = dqk, *dqkv_ = dqkv, scale = 1 / sqrt((double)D);
    const double *qk_ = qk, *qkv_ = qkv, *dy = dout, *y = out, *l = lse;
    memset(dqk_, 0, sizeof(double) * (size_t)N * (size_t)(H + G) * (size_t)D);
    for (int64_t n = 0; n < N; n++)
        memset(dqkv_ + at_v(s, n, 0), 0, sizeof(double) * (size_t)G * (size_t)D);
    for (int seq = 0; seq < n_seq; seq++)
        for (int64_t n = cu_seqlens[seq]; n < cu_seqlens[seq + 1]; n++)
            for (int64_t h = 0; h < H; h++) {
                int64_t       g = h / (H / G);
                const double *q = qk_ + at_q(s, n, h), *d_out = dy + at_out(s, n, h);
                double       *dq = dqk_ + at_q(s, n, h), mean = reference_dot(d_out, y + at_out(s, n, h), D);
                for (int64_t j = cu_seqlens[seq]; j <= n; j++) {
                    const double *k = qk_ + at_k(s, j, g), *v = qkv_ + at_v(s, j, g);
                    double       *dk = dqk_ + at_k(s, j, g), *dv = dqkv_ + at_v(s, j, g);
                    double        p = exp(scale * reference_dot(q, k, D) - l[h * N + n]);
                    double        dscore = p * (reference_dot(d_out, v, D) - mean);
                    for (int64_t d = 0; d < D; d++) {
                        dv[d] += p * d_out[d];
                        dq[d] += scale * dscore * k[d];
                        dk[d] += scale * dscore * q[d];
                    }
                }
            }
}

/* ---- cached keys --------------------------------------------------------------------------------------------------- */

size_t reference_kv_page_bytes(const Device *dev, DType type, int G, int D) {
    (void)dev;
    return type == DTYPE_F64 ? sizeof(double) * 2 * (size_t)G * KV_PAGE * (size_t)D : 0;
}

void reference_kv_append(Device *dev, void *pool, DType type, const void *qk, const void *qkv, const int64_t *slot,
                         int N, int H, int G, int D) {
    (void)type;
    if (device_error(dev)) return;
    Heads         s = {H, G, D};
    double       *pages = pool;
    const double *qk_ = qk, *qkv_ = qkv;
    for (int64_t n = 0; n < N; n++)
        for (int64_t g = 0; g < G && slot[n] >= 0; g++) {
            int64_t page = slot[n] / KV_PAGE, i = slot[n] % KV_PAGE;
            memcpy(pages + at_page(s, page, 0, g, i), qk_ + at_k(s, n, g), sizeof(double) * (size_t)D);
            memcpy(pages + at_page(s, page, 1, g, i), qkv_ + at_v(s, n, g), sizeof(double) * (size_t)D);
        }
}

void reference_kv_copy_page(Device *dev, void *pool, DType type, int dst, int src, int n_keys, int G, int D) {
    (void)type;
    if (device_error(dev)) return;
    Heads   s = {0, G, D};
    double *pages = pool;
    for (int kv = 0; kv < 2; kv++)
        for (int64_t g = 0; g < G; g++)
            memmove(pages + at_page(s, dst, kv, g, 0), pages + at_page(s, src, kv, g, 0),
                    sizeof(double) * (size_t)n_keys * (size_t)D);
}

typedef struct {
    Heads          s;
    const double  *pool;
    const int32_t *blocks; /* of this sequence */
    int64_t        g;
} PagedKeys;

static const double *paged_key(const void *context, int64_t j, int kv) {
    const PagedKeys *c = context;
    return c->pool + at_page(c->s, c->blocks[j / KV_PAGE], kv, c->g, j % KV_PAGE);
}

void reference_attention_paged(Device *dev, void *out, const void *qk, const PagedBatch *batch, int N, int H, int G,
                               int D) {
    (void)N;
    if (device_error(dev)) return;
    Heads   s = {H, G, D};
    double *y = out;
    for (int seq = 0; seq < batch->n_seq; seq++) {
        int64_t first = batch->q_offset[seq], end = batch->q_offset[seq + 1];
        for (int64_t n = first; n < end; n++)
            for (int64_t h = 0; h < H; h++) {
                PagedKeys keys = {s, batch->pool, batch->block_table + (int64_t)seq * batch->max_blocks, h / (H / G)};
                attend(y + at_out(s, n, h), (const double *)qk + at_q(s, n, h), paged_key, &keys,
                       batch->kv_len[seq] - (end - first) + (n - first) + 1, D);
            }
    }
}
