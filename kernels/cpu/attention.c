/* attention.c - attention of query rows over pages of keys; the packed form lays its keys out as pages first.
 *
 * A task is up to TASK_ROWS query rows of one key/value head and one group of sequences.  It walks the group's shared
 * pages with all its rows, then each sequence's own pages with that sequence's rows.  A row meets the blocks of KV_PAGE
 * keys in ascending order: scores (one chain over d a key), softmax_merge, then acc continues its chain over the keys
 * of the block (Dao 2023).  Keys a row may not see add exactly nothing, so its bits depend neither on the other rows of
 * the task nor on what follows, and the packed form, a prefill and one-by-one decoding agree. */
#include "kernels/cpu/ops.h"

#include <math.h>
#include <string.h>

enum {
    TASK_ROWS = 98,
    ROWS_AHEAD = 16,
    EDGE_ROWS = 8, /* a tile where rows see different keys: the lower, the fewer products are thrown away */
    TILE_ROWS_MAX = 16
};

/* The rows of a task: a thread's own memory. */
typedef struct {
    float *q;      /* (rows, D), scaled by 1 / sqrt(D) */
    float *acc;    /* (rows, D) */
    float *scores; /* (TILE_ROWS_MAX, KV_PAGE) of a tile */
    float *max, *sum;
    float *values; /* (KV_PAGE, 16): those columns of a page's values that fill no vector */
    int   *visible; /* (rows) keys of its sequence that the row sees */
} TaskRows;

static int rows_a_task(int H, int G) { return int_max(TASK_ROWS, H / G); }

static size_t task_floats(int H, int G, int D) {
    size_t rows = (size_t)rows_a_task(H, G);
    return round_up(rows * (2 * (size_t)D + 3) + (TILE_ROWS_MAX + 16) * KV_PAGE, 16);
}

size_t attend_scratch(const Device *dev, int H, int G, int D) {
    return sizeof(float) * task_floats(H, G, D) * (size_t)device_threads(dev);
}

static TaskRows task_rows(float *memory, int H, int G, int D) {
    TaskRows t;
    size_t   rows = (size_t)rows_a_task(H, G);
    t.q = memory;
    t.acc = t.q + rows * (size_t)D;
    t.scores = t.acc + rows * (size_t)D;
    t.values = t.scores + TILE_ROWS_MAX * KV_PAGE;
    t.max = t.values + 16 * KV_PAGE;
    t.sum = t.max + rows;
    t.visible = (int *)(t.sum + rows);
    return t;
}

/* One head's keys and values of a page, and those that will be needed after them (NULL: not known), to be fetched. */
typedef struct {
    const float *keys, *values, *next_keys, *next_values;
} Page;

/* acc (m, D) = factor * acc + p values, over the first n keys; columns a panel at a time */
static void values_add(const CpuIsa *isa, const TaskRows *t, int row, int m, int n, const Page *page, int fetch,
                       const float *factor, int first, int D) {
    for (int d = 0; d < D; d += SGEMM_PANEL) {
        int          width = panel_width(d, D), ld = width;
        const float *values = page->values + d * KV_PAGE;
        float       *acc = t->acc + (ptrdiff_t)row * D + d;
        if (width % 16) { /* sgemm_tile reads whole vectors: all of a panel narrower than one is copied */
            ld = (int)round_up((size_t)width, 16);
            for (int j = 0; j < n; j++) memcpy(t->values + j * ld, values + j * width, sizeof(float) * (size_t)width);
            values = t->values;
        }
        TileOut o = {.chain = first ? NULL : acc, .out = acc, .ld_chain = D, .ld_out = D, .factor = factor};
        if (fetch && page->next_values) o.soon = page->next_values + d * KV_PAGE, o.ld_soon = width;
        isa->sgemm_tile(m, width, n, t->scores, KV_PAGE, 1, values, ld, &o);
    }
}

/* Rows [row, row + n_rows) of the task meet block `block` of their keys. */
static void rows_meet_block(const CpuIsa *isa, const CpuOps *ops, const TaskRows *t, int row, int n_rows, int block,
                            const Page *page, int D) {
    int edge = t->visible[row] - block * KV_PAGE < KV_PAGE;
    int most = edge ? int_min(EDGE_ROWS, isa->tile_rows) : isa->tile_rows;
    int step = ceil_div(n_rows, ceil_div(n_rows, most)), fetch = 1; /* evenly */
    for (int i = row; i < row + n_rows; i += step) {
        int   m = int_min(step, row + n_rows - i), n = 0, seen[TILE_ROWS_MAX];
        float factor[TILE_ROWS_MAX];
        for (int r = 0; r < m; r++) {
            seen[r] = int_min(t->visible[i + r] - block * KV_PAGE, KV_PAGE);
            n = int_max(n, seen[r]);
        }
        if (n <= 0) continue;
        for (int j = 0; j < n; j += SGEMM_PANEL) {
            TileOut o = {.out = t->scores + j, .ld_out = KV_PAGE, .ld_soon = SGEMM_PANEL};
            if (fetch && page->next_keys) o.soon = page->next_keys + j * D;
            isa->sgemm_tile(m, int_min(SGEMM_PANEL, n - j), D, t->q + (ptrdiff_t)i * D, D, 1, page->keys + j * D,
                            SGEMM_PANEL, &o);
        }
        ops->softmax_merge(t->scores, m, seen, (int)round_up((size_t)n, 16), t->max + i, t->sum + i, factor);
        values_add(isa, t, i, m, n, page, fetch, factor, block == 0, D);
        fetch = 0;
    }
}

static int visible_keys(const Attention *a, int s, int n) {
    int rows = a->q_offset[s + 1] - a->q_offset[s];
    return (a->kv_len ? a->kv_len[s] : rows) - rows + (n - a->q_offset[s]) + 1;
}

static int64_t page_of(const Attention *a, int s, int block) {
    return a->block_table ? a->block_table[(int64_t)s * a->max_blocks + block] : a->first_page[s] + block;
}

/* Head g of block `block` of sequence s; the same of the block after it, when there is one before `end`, comes next. */
static Page page_at(const Attention *a, int s, int g, int block, int end) {
    int64_t page = page_of(a, s, block);
    Page    p = {page_keys(a->pool, page, g, a->G, a->D), page_values(a->pool, page, g, a->G, a->D), NULL, NULL};
    if (block + 1 >= end) return p;
    page = page_of(a, s, block + 1);
    p.next_keys = page_keys(a->pool, page, g, a->G, a->D);
    p.next_values = page_values(a->pool, page, g, a->G, a->D);
    return p;
}

/* Query rows [n0, n1) of sequences s0.., key/value head g; the first `shared` pages are common to all of them. */
static void task_run(const CpuIsa *isa, const CpuOps *ops, const Attention *a, const TaskRows *t, int n0, int n1,
                     int s0, int g, int shared) {
    const int D = a->D, ratio = a->H / a->G, ld = (a->H + a->G) * D;
    float     scale = 1.0f / sqrtf((float)D);
    while (a->q_offset[s0 + 1] <= n0) s0++;
    for (int n = n0, s = s0, row = 0; n < n1; n++) {
        const float *ahead = a->qk + (ptrdiff_t)int_min(n + ROWS_AHEAD, n1 - 1) * ld + g * ratio * D;
        while (a->q_offset[s + 1] <= n) s++;
        for (int r = 0; r < ratio; r++, row++) {
            for (int d = 0; d < D; d += 16) __builtin_prefetch(ahead + r * D + d);
            ops->scale(t->q + (ptrdiff_t)row * D, a->qk + (ptrdiff_t)n * ld + (g * ratio + r) * D, scale, D);
            t->max[row] = -INFINITY;
            t->sum[row] = 0;
            t->visible[row] = visible_keys(a, s, n);
        }
    }
    for (int b = 0; b < shared; b++) {
        Page page = page_at(a, s0, g, b, shared);
        rows_meet_block(isa, ops, t, 0, (n1 - n0) * ratio, b, &page, D);
    }
    for (int n = n0, s = s0; n < n1; s++) {
        int end = int_min(n1, a->q_offset[s + 1]);
        if (end <= n) continue;
        int blocks = ceil_div(visible_keys(a, s, end - 1), KV_PAGE);
        for (int b = shared; b < blocks; b++) {
            Page page = page_at(a, s, g, b, blocks);
            rows_meet_block(isa, ops, t, (n - n0) * ratio, (end - n) * ratio, b, &page, D);
        }
        n = end;
    }
    for (int n = n0, row = 0; n < n1; n++)
        for (int r = 0; r < ratio; r++, row++) {
            int h = g * ratio + r;
            ops->scale(a->out + ((ptrdiff_t)n * a->H + h) * D, t->acc + (ptrdiff_t)row * D,
                       t->sum[row] > 0 || t->sum[row] != t->sum[row] ? 1.0f / t->sum[row] : 0.0f, D);
            if (a->lse) a->lse[(ptrdiff_t)h * a->N + n] = t->max[row] + logf(t->sum[row]);
        }
}

/* What each thread of a team does: takes task after task, walking the groups once. */
static void team_run(const CpuIsa *isa, const CpuOps *ops, const Attention *a, float *memory, int64_t *next) {
    TaskRows  t = task_rows(memory, a->H, a->G, a->D);
    const int most = int_max(1, rows_a_task(a->H, a->G) / (a->H / a->G)); /* queries a task */
    int       n_group = a->group_offset ? a->n_group : a->n_seq;
    int64_t   first = 0; /* number of group's first task */
    int64_t   mine;
#pragma omp atomic capture
    mine = (*next)++;
    for (int group = 0; group < n_group; group++) {
        int s0 = a->group_offset ? a->group_offset[group] : group;
        int s1 = a->group_offset ? a->group_offset[group + 1] : group + 1;
        int begin = a->q_offset[s0], end = a->q_offset[s1], parts = ceil_div(end - begin, most);
        int queries = parts ? ceil_div(end - begin, parts) : 0; /* evenly */
        while (mine < first + (int64_t)parts * a->G) {
            /* One head's keys after the other, while they are in the cache; the longest (latest) rows first. */
            int task = (int)(mine - first), part = parts - 1 - task % parts;
            int n0 = begin + part * queries;
            if (n0 < end)
                task_run(isa, ops, a, &t, n0, int_min(n0 + queries, end), s0, task / parts,
                         a->group_shared ? a->group_shared[group] : 0);
#pragma omp atomic capture
            mine = (*next)++;
        }
        first += (int64_t)parts * a->G;
    }
}

void attend(Device *dev, const Attention *a, void *scratch) {
    const CpuIsa *isa = cpu_isa(dev);
    const CpuOps *ops = cpu_ops(dev);
    double        scores = 0;
    for (int s = 0; s < a->n_seq; s++) {
        double rows = a->q_offset[s + 1] - a->q_offset[s], keys = a->kv_len ? a->kv_len[s] : rows;
        scores += rows * (keys - rows / 2);
    }
    int64_t next = 0;
#pragma omp parallel num_threads(cpu_threads_for(dev, 4.0 * scores * a->H * a->D))
    team_run(isa, ops, a, (float *)scratch + (size_t)cpu_thread() * task_floats(a->H, a->G, a->D), &next);
}

/* ---- packed sequences -------------------------------------------------------------------------------------------- */

typedef struct {
    int32_t *first_page;
    float   *pool;
    size_t   bytes;
} PackedPages;

/* Packed sequences as pages at `memory` (NULL: only the size). */
static PackedPages packed_pages(char *memory, int64_t pages, int n_seq, int G, int D) {
    size_t table = round_up(sizeof(int32_t) * ((size_t)n_seq + 1), 64);
    return (PackedPages){(int32_t *)memory, memory ? (float *)(memory + table) : NULL,
                         table + sizeof(float) * (size_t)pages * 2 * (size_t)G * KV_PAGE * (size_t)D};
}

static void pages_fill(Device *dev, const PackedPages *p, const float *qk, const float *qkv, const int32_t *cu_seqlens,
                       int n_seq, int N, int H, int G, int D) {
    (void)N; /* without OpenMP */
    const CpuOps *ops = cpu_ops(dev);
    ptrdiff_t     ld_qk = (ptrdiff_t)(H + G) * D, ld_qkv = (ptrdiff_t)(H + 2 * G) * D;
#pragma omp parallel for num_threads(cpu_threads_for(dev, 8.0 * N * G * D)) schedule(dynamic, 4)
    for (int s = 0; s < n_seq; s++)
        for (int n = cu_seqlens[s], page = p->first_page[s]; n < cu_seqlens[s + 1]; n += KV_PAGE, page++)
            for (int g = 0; g < G; g++) {
                int    rows = int_min(KV_PAGE, cu_seqlens[s + 1] - n);
                float *values = page_values(p->pool, page, g, G, D);
                for (int j = 0; j < rows; j++)
                    for (int d = 0; d < D; d += 16)
                        __builtin_prefetch(qkv + (n + j) * ld_qkv + (H + G + g) * D + d, 0, 2);
                ops->transpose(page_keys(p->pool, page, g, G, D), qk + n * ld_qk + (H + g) * D, ld_qk, rows, D);
                for (int j = 0; j < rows; j++)
                    value_store(values, j, qkv + (n + j) * ld_qkv + (H + G + g) * D, D);
            }
}

/* Rows that belong to no sequence get zeros, not whatever was there. */
static void zero_rows(float *x, int first, int N, ptrdiff_t width) {
    if (first < N) memset(x + first * width, 0, sizeof(float) * (size_t)(N - first) * (size_t)width);
}

void cpu_attention_forward(Device *dev, void *out, void *lse, const void *qk, const void *qkv,
                           const int32_t *cu_seqlens, int n_seq, int N, int H, int G, int D) {
    if (device_error(dev) || n_seq < 1) return;
    int64_t pages = 0;
    for (int s = 0; s < n_seq; s++) pages += ceil_div(cu_seqlens[s + 1] - cu_seqlens[s], KV_PAGE);
    size_t tasks = round_up(attend_scratch(dev, H, G, D), 64);
    char  *scratch = cpu_scratch(dev, "attention_forward", tasks + packed_pages(NULL, pages, n_seq, G, D).bytes);
    if (!scratch) return;
    PackedPages p = packed_pages(scratch + tasks, pages, n_seq, G, D);
    for (int s = 0, page = 0; s < n_seq; s++) {
        p.first_page[s] = page;
        page += ceil_div(cu_seqlens[s + 1] - cu_seqlens[s], KV_PAGE);
    }
    pages_fill(dev, &p, qk, qkv, cu_seqlens, n_seq, N, H, G, D);
    Attention a = {.out = out, .lse = lse, .qk = qk, .pool = p.pool, .q_offset = cu_seqlens, .first_page = p.first_page,
                   .n_seq = n_seq, .N = N, .H = H, .G = G, .D = D};
    attend(dev, &a, scratch);
    zero_rows(out, cu_seqlens[n_seq], N, (ptrdiff_t)H * D);
}

size_t cpu_attention_workspace(const Device *dev, const KernelLimits *limits) {
    int n_seq = int_max(1, int_min(limits->n_seq, limits->N));
    int64_t pages = ceil_div(limits->N, KV_PAGE) + n_seq; /* every sequence may end in a page that it fills in part */
    return round_up(attend_scratch(dev, limits->H, limits->G, limits->D), 64) +
           packed_pages(NULL, pages, n_seq, limits->G, limits->D).bytes;
}
