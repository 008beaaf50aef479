/* attention_backward.c - gradients of packed causal attention, with the weights recomputed from the log-sum-exp.
 *
 * A block of keys meets its sequence's query rows a block at a time, head after head, and ends with its dk and dv; dq
 * adds up over the blocks of keys in ascending order.  Threads take whole heads, or where those are too few, blocks of
 * keys: a block follows its predecessor through the rows.  So the bits do not depend on the threads.
 * With p_j = exp(score_j - lse):
 *   dv_j += p_j dout    ds_j = p_j (dout . v_j - dout . out)    dq += ds_j k_j / sqrt(D)    dk_j += ds_j q / sqrt(D) */
#include "kernels/cpu/ops.h"

#include <math.h>
#include <sched.h>
#include <string.h>

enum {
    ROWS = KV_PAGE, /* query rows a block */
    EDGE_ROWS = 8,  /* a tile on the diagonal: the lower, the fewer products are thrown away */
    SPLIT_BLOCKS = 4 /* of keys; threads would wait for each other in a shorter head */
};

/* A thread's own memory.  Rows are padded to whole vectors of columns. */
typedef struct {
    float *keys_t, *values_t; /* (KV_PAGE / SGEMM_PANEL, D, SGEMM_PANEL) */
    float *dkeys, *dvalues;   /* (KV_PAGE, ld) */
    float *keys, *q, *dout;   /* (KV_PAGE or ROWS, ld): copies, where rows cannot be read in place */
    float *p, *ds;            /* (ROWS, KV_PAGE) */
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

/* What the threads read and write. */
typedef struct {
    const CpuIsa  *isa;
    const CpuOps  *ops;
    const float   *qk, *qkv, *dout, *out, *lse;
    float         *dqk, *dqkv;
    const int32_t *cu_seqlens;
    float         *mean; /* (H, N) dout . out */
    int           *met;  /* a block of keys of a head: blocks of rows it has met */
    double         split; /* a head of more scores is split */
    int            n_seq, N, H, G, D;
} Task;

static ptrdiff_t qk_at(const Task *t, ptrdiff_t n, int head) { return (n * (t->H + t->G) + head) * t->D; }
static ptrdiff_t qkv_at(const Task *t, ptrdiff_t n, int head) { return (n * (t->H + 2 * t->G) + head) * t->D; }
static ptrdiff_t out_at(const Task *t, ptrdiff_t n, int h) { return (n * t->H + h) * t->D; }

/* Blocks [block, end_block) of the keys of one sequence and one key/value head. */
typedef struct {
    int  begin, end, g; /* rows of the sequence */
    int  block, end_block;
    int *met; /* of the sequence's and head's blocks; NULL: one thread has them all */
} Item;

/* Rows as products read them, in whole vectors */
typedef struct {
    const float *at;
    ptrdiff_t    ld;
} Rows;

/* Query rows [n, n + rows) of head h meet the loaded block of keys.  diagonal: row i sees keys 0..i of the block, otherwise
 * all of them.  step: rows of a tile. */
typedef struct {
    int n, rows, h, diagonal, step;
    int starts_dq;   /* these are the sequence's first keys */
    int first, last; /* of the block's meetings */
    Rows q, dout, keys;
} Meeting;

/* In place; copied where they end in a part of a vector, or each would lie in a page of memory of its own. */
static Rows rows_at(const float *at, ptrdiff_t ld, float *copy, int rows, int D) {
    const ptrdiff_t padded = (ptrdiff_t)round_up((size_t)D, 16);
    if (D == padded && ld < 1024) return (Rows){at, ld};
    for (int i = 0; i < rows; i++) memcpy(copy + i * padded, at + i * ld, sizeof(float) * (size_t)D);
    return (Rows){copy, padded};
}

static Rows keys_load(const Task *t, const Blocks *b, int n, int rows, int g) {
    const float *keys = t->qk + qk_at(t, n, t->H + g), *values = t->qkv + qkv_at(t, n, t->H + t->G + g);
    keys_transpose(t->isa, b->keys_t, keys, qk_at(t, 1, 0), rows, t->D);
    keys_transpose(t->isa, b->values_t, values, qkv_at(t, 1, 0), rows, t->D);
    return rows_at(keys, qk_at(t, 1, 0), b->keys, rows, t->D);
}

static void rows_load(const Task *t, const Blocks *b, Meeting *x) {
    x->q = rows_at(t->qk + qk_at(t, x->n, x->h), qk_at(t, 1, 0), b->q, x->rows, t->D);
    x->dout = rows_at(t->dout + out_at(t, x->n, x->h), out_at(t, 1, 0), b->dout, x->rows, t->D);
    if (x->starts_dq)
        t->ops->row_dots(t->mean + (ptrdiff_t)x->h * t->N + x->n, x->dout.at, x->dout.ld,
                         t->out + out_at(t, x->n, x->h), out_at(t, 1, 0), x->rows, t->D);
}

/* Each product goes a panel of columns at a time, so that its part of b stays in the first cache for all rows. */

/* c (rows, KV_PAGE) = a (rows, D) times transposed keys or values */
static void meet_keys(const Task *t, const Meeting *x, Rows a, const float *columns, float *c, Later *later) {
    for (int j = 0; j < KV_PAGE; j += SGEMM_PANEL)
        for (int i = 0; i < x->rows; i += x->step) {
            int m = int_min(x->step, x->rows - i), seen = x->diagonal ? (int)round_up((size_t)(i + m), 16) : KV_PAGE;
            if (seen <= j) continue;
            TileOut o = {.out = c + i * KV_PAGE + j, .ld_out = KV_PAGE};
            later_take(later, t->D, &o);
            t->isa->sgemm_tile(m, int_min(SGEMM_PANEL, seen - j), t->D, a.at + i * a.ld, a.ld, 1, columns + j * t->D,
                               SGEMM_PANEL, &o);
        }
}

/* dq (rows, D) (+)= ds keys */
static void add_dq(const Task *t, const Blocks *b, const Meeting *x) {
    ptrdiff_t ld = qk_at(t, 1, 0);
    for (int d = 0; d < t->D; d += SGEMM_PANEL)
        for (int i = 0; i < x->rows; i += x->step) {
            int m = int_min(x->step, x->rows - i);
            tile_product(t->isa, m, int_min(SGEMM_PANEL, t->D - d), x->diagonal ? i + m : KV_PAGE, b->ds + i * KV_PAGE,
                         KV_PAGE, 1, x->keys.at + d, x->keys.ld, t->dqk + qk_at(t, x->n + i, x->h) + d, ld,
                         x->starts_dq ? SGEMM_STORE : SGEMM_CHAIN);
        }
}

/* sum (keys, D) += transposed a (rows, KV_PAGE) times rows; the last goes to out (keys, D) */
static void add_transposed(const Task *t, const Blocks *b, const Meeting *x, const float *a, Rows rows, float *sum,
                           float *out, ptrdiff_t ld_out) {
    int keys = x->diagonal ? x->rows : KV_PAGE;
    for (int d = 0; d < t->D; d += SGEMM_PANEL)
        for (int j = 0; j < keys; j += x->step) {
            int     i = x->diagonal ? j : 0; /* the first row that sees key j */
            float  *c = sum + j * b->ld + d;
            TileOut o = {.chain = x->first ? NULL : c, .ld_chain = b->ld, .out = c, .ld_out = b->ld};
            if (x->last) o.out = out + j * ld_out + d, o.ld_out = ld_out;
            t->isa->sgemm_tile(int_min(x->step, keys - j), int_min(SGEMM_PANEL, t->D - d), x->rows - i,
                               a + i * KV_PAGE + j, 1, KV_PAGE, rows.at + i * rows.ld + d, rows.ld, &o);
        }
}

/* k: where the keys begin.  later: fetched meanwhile. */
static void rows_meet_block(const Task *t, const Blocks *b, Meeting *x, int k, int g, Later *later) {
    ptrdiff_t at = (ptrdiff_t)x->h * t->N + x->n;
    rows_load(t, b, x);
    meet_keys(t, x, x->q, b->keys_t, b->p, later);
    meet_keys(t, x, x->dout, b->values_t, b->ds, later);
    if (x->starts_dq && x->diagonal) t->mean[at] = b->ds[0]; /* one key weighs 1: its ds is 0, not a rounding error */
    t->ops->softmax_backward(b->p, b->ds, x->rows, x->diagonal, 1.0f / sqrtf((float)t->D), t->lse + at, t->mean + at);
    add_dq(t, b, x);
    add_transposed(t, b, x, b->p, x->dout, b->dvalues, t->dqkv + qkv_at(t, k, t->H + t->G + g), qkv_at(t, 1, 0));
    add_transposed(t, b, x, b->ds, x->q, b->dkeys, t->dqk + qk_at(t, k, t->H + g), qk_at(t, 1, 0));
}

/* ---- order --------------------------------------------------------------------------------------------------------- */

static void later_queries(Later *l, const Task *t, int n, int end, int h, int with_out) {
    int rows = int_min(ROWS, end - n);
    later_add(l, t->qk + qk_at(t, n, h), qk_at(t, 1, 0), rows, t->D);
    later_add(l, t->dout + out_at(t, n, h), out_at(t, 1, 0), rows, t->D);
    if (with_out) later_add(l, t->out + out_at(t, n, h), out_at(t, 1, 0), rows, t->D);
}

static void later_keys(Later *l, const Task *t, int n, int end, int g) {
    int rows = int_min(KV_PAGE, end - n);
    later_add(l, t->qk + qk_at(t, n, t->H + g), qk_at(t, 1, 0), rows, t->D);
    later_add(l, t->qkv + qkv_at(t, n, t->H + t->G + g), qkv_at(t, 1, 0), rows, t->D);
    later_queries(l, t, n, end, g * (t->H / t->G), 0);
}

/* What x writes, and what is read after it: by the next rows, the next head, the next block of keys, the next item. */
static Later later_of(const Task *t, const Item *w, const Meeting *x, int block, const Item *next) {
    const int after = x->n + x->rows, k = w->begin + block * KV_PAGE;
    Later     l = {.n = 0};
    later_add(&l, t->dqk + qk_at(t, x->n, x->h), qk_at(t, 1, 0), x->rows, t->D);
    if (after < w->end) {
        later_queries(&l, t, after, w->end, x->h, x->starts_dq);
    } else if (!x->last) {
        later_queries(&l, t, k, w->end, x->h + 1, x->starts_dq);
    } else {
        int keys = int_min(KV_PAGE, w->end - k);
        later_add(&l, t->dqk + qk_at(t, k, t->H + w->g), qk_at(t, 1, 0), keys, t->D);
        later_add(&l, t->dqkv + qkv_at(t, k, t->H + t->G + w->g), qkv_at(t, 1, 0), keys, t->D);
        if (block + 1 < w->end_block) later_keys(&l, t, k + KV_PAGE, w->end, w->g);
        else if (next) later_keys(&l, t, next->begin + next->block * KV_PAGE, next->end, next->g);
    }
    return l;
}

/* Until *met >= least: another thread is at it. */
static void wait_for(const int *met, int least) {
    while (__atomic_load_n(met, __ATOMIC_ACQUIRE) < least) sched_yield(); /* threads may share cores */
}

static void item_run(const Task *t, const Blocks *b, const Item *w, const Item *next) {
    const int ratio = t->H / t->G, blocks = ceil_div(w->end - w->begin, KV_PAGE), edge = t->isa->tile_rows < EDGE_ROWS;
    for (int block = w->block; block < w->end_block; block++) {
        int k = w->begin + block * KV_PAGE, meetings = 0;
        const Rows keys = keys_load(t, b, k, int_min(KV_PAGE, w->end - k), w->g);
        for (int r = 0; r < ratio; r++)
            for (int n = k; n < w->end; n += ROWS) {
                Meeting x = {.n = n, .rows = int_min(ROWS, w->end - n), .h = w->g * ratio + r, .diagonal = n == k,
                             .keys = keys};
                x.step = x.diagonal ? EDGE_ROWS >> edge : t->isa->tile_rows;
                x.starts_dq = block == 0, x.first = meetings == 0, x.last = ++meetings == ratio * (blocks - block);
                /* The predecessor meets one block of rows more a head. */
                if (w->met && block) wait_for(w->met + block - 1, meetings + r + 1);
                Later later = later_of(t, w, &x, block, next);
                rows_meet_block(t, b, &x, k, w->g, &later);
                if (w->met) __atomic_store_n(w->met + block, meetings, __ATOMIC_RELEASE);
            }
    }
}

/* ---- items --------------------------------------------------------------------------------------------------------- */

/* A walk through the sequences, at one and its first item and block. */
typedef struct {
    int     s;
    int64_t item, block;
} Walk;

/* Item `number`, at or after where the walk is; 0 when there are no more.  The blocks of all heads go side by side. */
static int item_at(const Task *t, Walk *at, int64_t number, Item *x) {
    for (; at->s < t->n_seq; at->s++) {
        int     begin = t->cu_seqlens[at->s], end = t->cu_seqlens[at->s + 1], blocks = ceil_div(end - begin, KV_PAGE);
        int     split = blocks >= SPLIT_BLOCKS && 0.5 * (end - begin) * (end - begin) > t->split;
        int64_t items = (int64_t)t->G * (split ? blocks : blocks > 0);
        if (number < at->item + items) {
            int block = (int)(number - at->item) / t->G, g = (int)(number - at->item) % t->G;
            *x = (Item){begin, end, g, block, split ? block + 1 : blocks, NULL};
            if (split) x->met = t->met + at->block * t->G + g * blocks;
            return 1;
        }
        at->item += items;
        at->block += blocks;
    }
    return 0;
}

/* What each thread of a team does.  Items are taken in their order, so that one a thread waits for is being worked on. */
static void team_run(const Task *t, const Blocks *b, int64_t *taken) {
    Walk at = {0};
    for (;;) {
        int64_t mine;
#pragma omp atomic capture
        mine = (*taken)++;
        Item x, next;
        if (!item_at(t, &at, mine, &x)) return;
        Walk ahead = at;
        item_run(t, b, &x, item_at(t, &ahead, mine + cpu_team(), &next) ? &next : NULL); /* likely next */
    }
}

static size_t means_floats(int N, int H) { return round_up((size_t)N * (size_t)H, 16); }
static size_t met_ints(int N, int G, int n_seq) { /* every sequence may end in a block that it fills in part */
    return round_up(((size_t)N / KV_PAGE + (size_t)n_seq) * (size_t)G, 16);
}

size_t cpu_attention_backward_workspace(const Device *dev, const KernelLimits *limits) {
    const int n_seq = int_max(1, int_min(limits->n_seq, limits->N));
    return sizeof(float) * (means_floats(limits->N, limits->H) + blocks_floats(limits->D) * (size_t)device_threads(dev)) +
           sizeof(int) * met_ints(limits->N, limits->G, n_seq);
}

void cpu_attention_backward(Device *dev, void *dqk, void *dqkv, const void *dout, const void *qk, const void *qkv,
                            const void *out, const void *lse, const int32_t *cu_seqlens, int n_seq, int N, int H, int G,
                            int D) {
    if (n_seq > int_max(N, 1)) device_fail(dev, "attention_backward", "there are more sequences than rows");
    KernelLimits limits = {.N = N, .H = H, .G = G, .D = D, .n_seq = n_seq};
    float       *scratch = cpu_scratch(dev, "attention_backward", cpu_attention_backward_workspace(dev, &limits));
    if (!scratch || n_seq < 1) return;
    double scores = 0;
    for (int s = 0; s < n_seq; s++) {
        double rows = cu_seqlens[s + 1] - cu_seqlens[s];
        scores += rows * rows / 2;
    }
    const int threads = cpu_threads_for(dev, 10.0 * scores * H * D);
    float    *memory = scratch + means_floats(N, H);
    Task      t = {cpu_isa(dev), cpu_ops(dev), qk, qkv, dout, out, lse, dqk, dqkv, cu_seqlens, .mean = scratch,
                   .met = (int *)(void *)(memory + blocks_floats(D) * (size_t)device_threads(dev)),
                   .split = threads > 1 ? scores * G / (3 * threads) : INFINITY, /* a third of a thread's share */
                   .n_seq = n_seq, .N = N, .H = H, .G = G, .D = D};
    int64_t   taken = 0;
    memset(t.met, 0, sizeof(int) * met_ints(N, G, n_seq));
#pragma omp parallel num_threads(threads)
    {
        Blocks b = blocks_at(memory + (size_t)cpu_thread() * blocks_floats(D), D);
        team_run(&t, &b, &taken);
    }
    for (ptrdiff_t n = cu_seqlens[n_seq]; n < N; n++) { /* rows of no sequence */
        memset((float *)dqk + qk_at(&t, n, 0), 0, sizeof(float) * (size_t)(H + G) * (size_t)D);
        memset((float *)dqkv + qkv_at(&t, n, H + G), 0, sizeof(float) * (size_t)G * (size_t)D);
    }
}
