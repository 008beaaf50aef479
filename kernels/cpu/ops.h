/* ops.h - what the operations that are not products share; private to kernels/cpu/.
 *
 * CpuOps is their vector code, written once in ops_vec.h and compiled per instruction set; all give the same bits. */
#ifndef EHR_KERNELS_CPU_OPS_H
#define EHR_KERNELS_CPU_OPS_H
#include "kernels/cpu/cpu.h"

#include <string.h>

enum { HEAD_MAX = 128 }; /* head widths: the backward of norm and rotation keeps a head in registers */

typedef struct {
    float beta1, beta2, eps, grad_scale;
    float learning_rate, weight_decay; /* 0 where the range does not decay */
    float correct1, correct2;          /* 1 - beta^step */
} AdamwScalars;

typedef struct {
    /* out[i] = a_i . b_i over n columns */
    void (*row_dots)(float *out, const float *a, ptrdiff_t lda, const float *b, ptrdiff_t ldb, int rows, int n);
    double (*sum_squares)(const float *x, int64_t n);

    /* out = x * rstd * weight; returns rstd */
    float (*rmsnorm)(float *out, const float *x, const float *weight, float eps, int C);
    /* dx += , dweight += (NULL: frozen), of one row */
    void (*rmsnorm_backward)(float *dx, float *dweight, const float *dout, const float *x, const float *weight,
                             float rstd, int C);
    /* One head: norm, then rotation of the pairs (i, i + D/2).  rope: D/2 cosines, D/2 sines.  Returns rstd. */
    float (*norm_rope)(float *out, const float *x, const float *weight, const float *rope, float eps, int D);
    /* dx = , dweight += (NULL: frozen) */
    void (*norm_rope_backward)(float *dx, float *dweight, const float *dout, const float *x, const float *weight,
                               const float *rope, float rstd, int D);

    /* Merges one block of KV_PAGE keys into the running softmax of m <= 16 query rows.  scores (m, KV_PAGE), which
     * times scale are in units of ln 2: row i sees the first seen[i] keys; on return 2^(scale * score - new max), and 0 for the others
     * up to `padded`, a multiple of 16 that covers all seen.  max, sum (m) are updated; factor (m) is what sums of earlier
     * blocks are to be multiplied by; inverse (m), unless NULL, is 1 / sum. */
    void (*softmax_merge)(float *scores, int m, const int *seen, int padded, float scale, float *max, float *sum,
                          float *factor, float *inverse);
    /* m rows of KV_PAGE keys.  p: scores in, exp(scale * score - lse) out.  dp: dout . v in, scale p (dp - mean) out.
     * diagonal: row i sees the first i + 1 keys; 0 for the others up to a multiple of 16, nothing beyond. */
    void (*softmax_backward)(float *p, float *dp, int m, int diagonal, float scale, const float *lse,
                             const float *mean);

    /* Loss of a target range of ids [lo, hi) from V logits; lo < 0: 0.  gradient: logits become dloss/dlogits.
     * soon: V floats that are fetched meanwhile; NULL: nothing. */
    float (*range_loss)(float *logits, int lo, int hi, int V, int gradient, const float *soon);
    /* weight[v] = exp((min(logits[v], cap[v]) - max) * inverse_temperature), 0 from V to the next multiple of
     * SAMPLE_BLOCK; cap[v] is infinity, or -infinity for ids that are never drawn.  Returns max: infinity says that a
     * logit is NaN or infinite, -infinity that nothing can be drawn; both leave weight unset. */
    float (*sample_weights)(float *weight, const float *logits, const float *cap, float inverse_temperature, int V);
    float (*sample_block_sum)(const float *weight); /* of SAMPLE_BLOCK */

    void (*adamw)(float *param, float *out, float *m, float *v, const float *grad, int64_t n, const AdamwScalars *s);
} CpuOps;

enum {
    SAMPLE_BLOCK = 64,
    PARTIAL_SUMS = 32, /* gradients that sum over rows do so in this many runs of rows, whatever the threads */
};

extern const CpuOps cpu_ops_portable;
#if defined(__x86_64__)
extern const CpuOps cpu_ops_avx2, cpu_ops_avx512;
#endif
const CpuOps *cpu_ops(const Device *dev);

/* Each file's share of the workspace, in bytes. */
size_t cpu_attention_workspace(const Device *dev, const KernelLimits *limits);
size_t cpu_attention_backward_workspace(const Device *dev, const KernelLimits *limits);
size_t cpu_classifier_workspace(const Device *dev, const KernelLimits *limits);
size_t cpu_sample_workspace(const Device *dev, int Vp);

/* To nearest, ties to even; NaN stays one. */
static inline uint32_t bf16_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return bits >> 16 | 0x40;
    return (bits + 0x7FFFu + (bits >> 16 & 1)) >> 16;
}
/* Where column j of a panel's k lies among its SGEMM_PANEL bfloat16. */
static inline int bf16_place(int j) { return j % (SGEMM_PANEL / 2) * 2 + j / (SGEMM_PANEL / 2); }

static inline int    int_min(int a, int b) { return a < b ? a : b; }
static inline int    int_max(int a, int b) { return a > b ? a : b; }
static inline int    ceil_div(int a, int b) { return (a + b - 1) / b; }
static inline size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

/* Operations that pass over rows fetch those that come so many later: caches do not foresee heads that lie between others,
 * and what another core wrote or read last, to be read or overwritten, is far away. */
enum { ROWS_AHEAD = 2 };
static inline void fetch(const float *at, int n) {
    for (int i = 0; i < n; i += 16) __builtin_prefetch(at + i);
}
static inline void fetch_to_write(float *at, int n) {
    for (int i = 0; i < n; i += 16) __builtin_prefetch(at + i, 1);
}

/* ---- attention --------------------------------------------------------------------------------------------------- */

/* Where head g of a page lies: keys transposed, so that a query meets 16 keys with one vector; both in panels as products
 * read them: keys (KV_PAGE / SGEMM_PANEL, D, SGEMM_PANEL), values (D / SGEMM_PANEL, KV_PAGE, SGEMM_PANEL), whose last panel
 * is as narrow as what is left of D.  In bfloat16 (sgemm_tile_bf16) every panel is whole. */
static inline size_t page_head_bytes(DType type, int D) {
    return type == DTYPE_BF16 ? sizeof(uint16_t) * KV_PAGE * round_up((size_t)D, SGEMM_PANEL)
                              : sizeof(float) * KV_PAGE * (size_t)D;
}
static inline void *page_keys(void *pool, DType type, int64_t page, int g, int G, int D) {
    return (char *)pool + (size_t)(page * 2 * G + g) * page_head_bytes(type, D);
}
static inline void *page_values(void *pool, DType type, int64_t page, int g, int G, int D) {
    return (char *)pool + (size_t)(page * 2 * G + G + g) * page_head_bytes(type, D);
}

#define LOG2_E 1.44269504f /* attention's exponentials are powers of 2 */
#define LN_2   0.693147181f

static inline int panel_width(int d, int D) { return int_min(SGEMM_PANEL, D - d); } /* of the panel from column d on */

/* dst, panels of keys as a page has them, = D columns of rows <= KV_PAGE keys; 0 for the rest of the last panel */
static inline void keys_transpose(const CpuIsa *isa, float *dst, const float *keys, ptrdiff_t ld, int rows, int D) {
    for (int j = 0; j < rows; j += SGEMM_PANEL)
        isa->sgemm_pack_panel(dst + j * D, int_min(SGEMM_PANEL, rows - j), D, keys + j * ld, 1, ld);
}

/* What is needed later, fetched into the second cache a few lines at a time while tiles are busy. */
typedef struct {
    const float *at; /* (rows, columns), rows ld apart */
    ptrdiff_t    ld;
    int          rows, columns;
} Stretch;
typedef struct {
    Stretch stretch[8];
    int     n, i, row, column; /* stretch[i] is fetched up to row `row` of SGEMM_PANEL columns from `column` on */
} Later;

static inline void later_add(Later *l, const float *at, ptrdiff_t ld, int rows, int columns) {
    l->stretch[l->n++] = (Stretch){at, ld, rows, columns};
}

/* A tile of k products fetches two lines of each of k rows. */
static inline void later_take(Later *l, int k, TileOut *o) {
    if (l->i >= l->n) return;
    const Stretch *s = &l->stretch[l->i];
    o->soon = s->at + l->row * s->ld + l->column, o->ld_soon = s->ld;
    l->row += k;
    if (l->row < s->rows) return;
    l->row = 0;
    l->column += SGEMM_PANEL;
    if (l->column >= s->columns) l->column = 0, l->i++;
}

/* Query rows and the pages their sequences' keys lie in: attention over a packed batch and over a cache alike. */
typedef struct {
    float         *out, *lse; /* lse may be NULL */
    const float   *qk;
    void          *pool;
    DType          pool_type;
    const float   *value_rows; /* NULL, or one sequence's and head's values, in rows ld_values apart: not in the pool */
    ptrdiff_t      ld_values;
    int            first_head, n_heads; /* key/value heads that the pool holds */
    const int32_t *q_offset;    /* (n_seq + 1) */
    const int32_t *kv_len;      /* (n_seq), NULL: as many keys as query rows */
    const int32_t *block_table; /* (n_seq, max_blocks), or NULL: block b of sequence s is page first_page[s] + b */
    const int32_t *first_page;  /* below 0: attend() passes the sequence over */
    int            max_blocks, n_seq;
    const int32_t *group_offset, *group_shared; /* (n_group); NULL: every sequence is a group that shares nothing */
    int            n_group;
    int            N, H, G, D;
} Attention;

/* scratch: attend_scratch() bytes */
void   attend(Device *dev, const Attention *a, void *scratch);
size_t attend_scratch(const Device *dev, int H, int G, int D);

#endif
