/* attention_backward.c - gradients of packed causal attention, with the weights recomputed from the log-sum-exp.
 *
 * A task is one sequence and one key/value head; it alone writes that head's dk, dv and its query heads' dq, block by
 * block in a fixed order, so the bits do not depend on the threads.  With p_j = exp(score_j - lse):
 *   dv_j += p_j dout    ds_j = p_j (dout . v_j - dout . out)    dq += ds_j k_j / sqrt(D)    dk_j += ds_j q / sqrt(D) */
#include "kernels/cpu/ops.h"

#include <math.h>
#include <string.h>

enum {
    ROWS = KV_PAGE, /* query rows a block */
    ROWS_AHEAD = 16,
    EDGE_ROWS = 8 /* a tile on the diagonal: the lower, the fewer products are thrown away */
};

/* A thread's own memory.  Rows are padded to whole vectors of columns. */
typedef struct {
    float *keys_t, *values_t;     /* (KV_PAGE / SGEMM_PANEL, D, SGEMM_PANEL) */
    float *keys;                  /* (KV_PAGE, ld), times 1 / sqrt(D) */
    float *dkeys, *dvalues;       /* (KV_PAGE, ld) */
    float *q, *dout;              /* (ROWS, ld), q times 1 / sqrt(D) */
    float *p, *ds;                /* (ROWS, KV_PAGE) */
    int    ld;
} Blocks;

static size_t blocks_floats(int D) {
    return KV_PAGE * (2 * (size_t)D + 5 * round_up((size_t)D, 16) + 2 * KV_PAGE);
}

static Blocks blocks_at(float *memory, int D) {
    Blocks b;
    b.ld = (int)round_up((size_t)D, 16);
    ptrdiff_t square = (ptrdiff_t)KV_PAGE * KV_PAGE, rows = (ptrdiff_t)KV_PAGE * b.ld, columns = (ptrdiff_t)KV_PAGE * D;
    b.p = memory;
    b.ds = b.p + square;
    b.keys = b.ds + square;
    b.dkeys = b.keys + rows;
    b.dvalues = b.dkeys + rows;
    b.q = b.dvalues + rows;
    b.dout = b.q + rows;
    b.keys_t = b.dout + rows;
    b.values_t = b.keys_t + columns;
    return b;
}

/* What a task reads and writes. */
typedef struct {
    const CpuIsa *isa;
    const CpuOps *ops;
    const float  *qk, *qkv, *dout, *out, *lse;
    float        *dqk, *dqkv;
    float        *mean; /* (H, N) dout . out */
    int           N, H, G, D;
} Task;

static ptrdiff_t qk_at(const Task *t, ptrdiff_t n, int head) { return (n * (t->H + t->G) + head) * t->D; }
static ptrdiff_t qkv_at(const Task *t, ptrdiff_t n, int head) { return (n * (t->H + 2 * t->G) + head) * t->D; }
static ptrdiff_t out_at(const Task *t, ptrdiff_t n, int h) { return (n * t->H + h) * t->D; }

static void keys_load(const Task *t, const Blocks *b, ptrdiff_t n, int rows, int g) {
    const int D = t->D;
    ptrdiff_t ld_qk = qk_at(t, 1, 0), ld_qkv = qkv_at(t, 1, 0);
    t->ops->transpose(b->keys_t, t->qk + qk_at(t, n, t->H + g), ld_qk, rows, D);
    t->ops->transpose(b->values_t, t->qkv + qkv_at(t, n, t->H + t->G + g), ld_qkv, rows, D);
    for (int j = 0; j < rows; j++)
        t->ops->scale(b->keys + j * b->ld, t->qk + qk_at(t, n + j, t->H + g), 1.0f / sqrtf((float)D), D);
    memset(b->dkeys, 0, sizeof(float) * KV_PAGE * (size_t)b->ld);
    memset(b->dvalues, 0, sizeof(float) * KV_PAGE * (size_t)b->ld);
}

/* Query rows [n, n + rows) of head h meet the loaded block of keys.  diagonal: row i sees keys 0..i of the block, otherwise
 * all of them.  step: rows of a tile. */
typedef struct {
    ptrdiff_t n;
    int       rows, h, diagonal, step;
} Meeting;

static void rows_load(const Task *t, const Blocks *b, const Meeting *x) {
    const int D = t->D;
    for (int i = 0; i < x->rows; i++) {
        for (int d = 0; d < D; d += 16) {
            __builtin_prefetch(t->qk + qk_at(t, x->n + i + ROWS_AHEAD, x->h) + d);
            __builtin_prefetch(t->dout + out_at(t, x->n + i + ROWS_AHEAD, x->h) + d);
        }
        t->ops->scale(b->q + i * b->ld, t->qk + qk_at(t, x->n + i, x->h), 1.0f / sqrtf((float)D), D);
        memcpy(b->dout + i * b->ld, t->dout + out_at(t, x->n + i, x->h), sizeof(float) * (size_t)D);
    }
}

/* Each product goes a panel of columns at a time, so that its part of b stays in the first cache for all rows. */

/* c (rows, KV_PAGE) = a (rows, D) times transposed keys or values */
static void meet_keys(const Task *t, const Blocks *b, const Meeting *x, const float *a, const float *columns, float *c,
                      Later *later) {
    for (int j = 0; j < KV_PAGE; j += SGEMM_PANEL)
        for (int i = 0; i < x->rows; i += x->step) {
            int m = int_min(x->step, x->rows - i), seen = x->diagonal ? i + m : KV_PAGE;
            if (seen <= j) continue;
            TileOut o = {.out = c + i * KV_PAGE + j, .ld_out = KV_PAGE};
            later_take(later, t->D, &o);
            t->isa->sgemm_tile(m, int_min(SGEMM_PANEL, seen - j), t->D, a + i * b->ld, b->ld, 1, columns + j * t->D,
                               SGEMM_PANEL, &o);
        }
}

/* dq (rows, D) (+)= ds keys */
static void add_dq(const Task *t, const Blocks *b, const Meeting *x, int first) {
    ptrdiff_t ld = qk_at(t, 1, 0);
    for (int d = 0; d < t->D; d += SGEMM_PANEL)
        for (int i = 0; i < x->rows; i += x->step) {
            int m = int_min(x->step, x->rows - i);
            tile_product(t->isa, m, int_min(SGEMM_PANEL, t->D - d), x->diagonal ? i + m : KV_PAGE, b->ds + i * KV_PAGE,
                         KV_PAGE, 1, b->keys + d, b->ld, t->dqk + qk_at(t, x->n + i, x->h) + d, ld,
                         first ? SGEMM_STORE : SGEMM_CHAIN);
        }
}

/* c (keys, D) += transposed a (rows, KV_PAGE) times rows */
static void add_transposed(const Task *t, const Blocks *b, const Meeting *x, const float *a, const float *rows, float *c) {
    int keys = x->diagonal ? x->rows : KV_PAGE;
    for (int d = 0; d < t->D; d += SGEMM_PANEL)
        for (int j = 0; j < keys; j += x->step) {
            int i = x->diagonal ? j : 0; /* the first row that sees key j */
            tile_product(t->isa, int_min(x->step, keys - j), int_min(SGEMM_PANEL, t->D - d), x->rows - i,
                         a + i * KV_PAGE + j, 1, KV_PAGE, rows + i * b->ld + d, b->ld, c + j * b->ld + d, b->ld,
                         SGEMM_CHAIN);
        }
}

/* first: dq is started.  later: fetched meanwhile. */
static void rows_meet_block(const Task *t, const Blocks *b, const Meeting *x, int first, Later *later) {
    rows_load(t, b, x);
    meet_keys(t, b, x, b->q, b->keys_t, b->p, later);
    meet_keys(t, b, x, b->dout, b->values_t, b->ds, later);
    for (int i = 0; i < x->rows; i++) {
        int       m = int_min(x->step, x->rows - i / x->step * x->step), seen = i / x->step * x->step + m;
        ptrdiff_t at = (ptrdiff_t)x->h * t->N + x->n + i;
        t->ops->softmax_backward(b->p + i * KV_PAGE, b->ds + i * KV_PAGE, x->diagonal ? i + 1 : KV_PAGE,
                                 x->diagonal ? seen : KV_PAGE, t->lse[at], t->mean[at]);
    }
    add_dq(t, b, x, first);
    add_transposed(t, b, x, b->p, b->dout, b->dvalues);
    add_transposed(t, b, x, b->ds, b->q, b->dkeys);
}

static void later_queries(Later *l, const Task *t, ptrdiff_t n, int rows, int h) {
    later_add(l, t->qk + qk_at(t, n, h), qk_at(t, 1, 0), rows, t->D);
    later_add(l, t->dout + out_at(t, n, h), out_at(t, 1, 0), rows, t->D);
}

static void later_keys(Later *l, const Task *t, ptrdiff_t n, int rows, int g) {
    later_add(l, t->qk + qk_at(t, n, t->H + g), qk_at(t, 1, 0), rows, t->D);
    later_add(l, t->qkv + qkv_at(t, n, t->H + t->G + g), qkv_at(t, 1, 0), rows, t->D);
}

/* One sequence and one key/value head. */
typedef struct {
    int begin, end, g;
} Head;

/* What x writes, and what is read after it: by the next rows, the next head, the next block of keys, the next task. */
static Later later_of(const Task *t, const Head *w, const Meeting *x, int k, const Head *next) {
    const int ratio = t->H / t->G, after = (int)x->n + x->rows, block = k + KV_PAGE;
    Later     l = {.n = 0};
    later_add(&l, t->dqk + qk_at(t, x->n, x->h), qk_at(t, 1, 0), x->rows, t->D);
    if (after < w->end) {
        later_queries(&l, t, after, int_min(ROWS, w->end - after), x->h);
    } else if ((x->h + 1) % ratio) {
        later_queries(&l, t, k, int_min(ROWS, w->end - k), x->h + 1);
    } else if (block < w->end) {
        later_keys(&l, t, block, int_min(KV_PAGE, w->end - block), w->g);
        later_queries(&l, t, block, int_min(ROWS, w->end - block), w->g * ratio);
    } else if (next) {
        int rows = int_min(KV_PAGE, next->end - next->begin);
        later_keys(&l, t, next->begin, rows, next->g);
        later_queries(&l, t, next->begin, rows, next->g * ratio);
        later_add(&l, t->out + out_at(t, next->begin, next->g * ratio), out_at(t, 1, 0), rows, ratio * t->D);
    }
    return l;
}

static void task_run(const Task *t, const Blocks *b, const Head *w, const Head *next) {
    const int D = t->D, ratio = t->H / t->G, begin = w->begin, end = w->end, g = w->g;
    for (int h = g * ratio; h < (g + 1) * ratio; h++)
        t->ops->row_dots(t->mean + (ptrdiff_t)h * t->N + begin, t->dout + out_at(t, begin, h), out_at(t, 1, 0),
                         t->out + out_at(t, begin, h), out_at(t, 1, 0), end - begin, D);
    for (int k = begin; k < end; k += KV_PAGE) {
        int keys = int_min(KV_PAGE, end - k);
        keys_load(t, b, k, keys, g);
        for (int h = g * ratio; h < (g + 1) * ratio; h++)
            for (int n = k; n < end; n += ROWS) {
                int     step = n == k ? int_min(EDGE_ROWS, t->isa->tile_rows) : t->isa->tile_rows;
                Meeting x = {n, int_min(ROWS, end - n), h, n == k, step};
                Later   later = later_of(t, w, &x, k, next);
                rows_meet_block(t, b, &x, k == begin, &later);
            }
        for (int j = 0; j < keys; j++) {
            memcpy(t->dqk + qk_at(t, k + j, t->H + g), b->dkeys + j * b->ld, sizeof(float) * (size_t)D);
            memcpy(t->dqkv + qkv_at(t, k + j, t->H + t->G + g), b->dvalues + j * b->ld, sizeof(float) * (size_t)D);
        }
    }
}

size_t cpu_attention_backward_workspace(const Device *dev, const KernelLimits *limits) {
    return sizeof(float) * (round_up((size_t)limits->N * (size_t)limits->H, 16) +
                            blocks_floats(limits->D) * (size_t)device_threads(dev));
}

void cpu_attention_backward(Device *dev, void *dqk, void *dqkv, const void *dout, const void *qk, const void *qkv,
                            const void *out, const void *lse, const int32_t *cu_seqlens, int n_seq, int N, int H, int G,
                            int D) {
    KernelLimits limits = {.N = N, .H = H, .D = D};
    float       *scratch = cpu_scratch(dev, "attention_backward", cpu_attention_backward_workspace(dev, &limits));
    if (!scratch || n_seq < 1) return;
    Task   t = {cpu_isa(dev), cpu_ops(dev), qk, qkv, dout, out, lse, dqk, dqkv, scratch, N, H, G, D};
    float *memory = scratch + round_up((size_t)N * (size_t)H, 16);
    double scores = 0;
    for (int s = 0; s < n_seq; s++) {
        double rows = cu_seqlens[s + 1] - cu_seqlens[s];
        scores += rows * rows / 2;
    }
#pragma omp parallel num_threads(cpu_threads_for(dev, 10.0 * scores * H * D))
    {
        Blocks b = blocks_at(memory + (size_t)cpu_thread() * blocks_floats(D), D);
#pragma omp for schedule(dynamic, 1)
        for (int i = 0; i < n_seq * G; i++) {
            int  k = int_min(i + cpu_team(), n_seq * G - 1); /* what this thread does next, likely */
            Head mine = {cu_seqlens[i / G], cu_seqlens[i / G + 1], i % G};
            Head next = {cu_seqlens[k / G], cu_seqlens[k / G + 1], k % G};
            task_run(&t, &b, &mine, k > i ? &next : NULL);
        }
    }
    for (ptrdiff_t n = cu_seqlens[n_seq]; n < N; n++) { /* rows of no sequence */
        memset((float *)dqk + qk_at(&t, n, 0), 0, sizeof(float) * (size_t)(H + G) * (size_t)D);
        memset((float *)dqkv + qkv_at(&t, n, H + G), 0, sizeof(float) * (size_t)G * (size_t)D);
    }
}
