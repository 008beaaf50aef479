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
    TASK_ROWS = 112, /* whole tiles of 14, whole vectors of keys */
    MERGE_ROWS = 16, /* whose softmax is merged together */
    EDGE_ROWS = 8    /* a tile where rows see different keys: the lower, the fewer products are thrown away */
};

/* The rows of a task. */
typedef struct {
    const float *q;     /* rows ld_q apart */
    float       *acc;   /* rows ld_acc apart */
    ptrdiff_t    ld_q, ld_acc;
    float *own_q, *own_acc; /* (rows, D), from here on a thread's own memory: of rows that lie unevenly */
    float *scores;    /* (MERGE_ROWS, KV_PAGE) */
    float *max, *sum; /* of scores / sqrt(D) in units of ln 2 */
    float *values;    /* (KV_PAGE, SGEMM_PANEL): a panel of values that ends in a part of a vector */
    int   *visible;   /* (rows) keys of its sequence that the row sees */
} TaskRows;

static int rows_a_task(int H, int G) { return int_max(TASK_ROWS, H / G); }

static size_t task_floats(int H, int G, int D) {
    size_t rows = (size_t)rows_a_task(H, G);
    return round_up(rows * (2 * (size_t)D + 3) + (MERGE_ROWS + SGEMM_PANEL) * KV_PAGE, 16);
}

size_t attend_scratch(const Device *dev, int H, int G, int D) {
    return sizeof(float) * task_floats(H, G, D) * (size_t)device_threads(dev);
}

static TaskRows task_rows(float *memory, int H, int G, int D) {
    TaskRows t = {0};
    size_t   rows = (size_t)rows_a_task(H, G);
    t.own_q = memory;
    t.own_acc = t.own_q + rows * (size_t)D;
    t.scores = t.own_acc + rows * (size_t)D;
    t.values = t.scores + MERGE_ROWS * KV_PAGE;
    t.max = t.values + SGEMM_PANEL * KV_PAGE;
    t.sum = t.max + rows;
    t.visible = (int *)(t.sum + rows);
    return t;
}

/* One head's keys and values of a page. */
typedef struct {
    const void *keys, *values;
    DType       type;
    ptrdiff_t   ld; /* of values that lie in rows; 0: in panels */
} Page;

/* A few rows of a task, from `row` on, and the first n keys of a block. */
typedef struct {
    int          row, m, n;
    float       *scores; /* (m, KV_PAGE) */
    const float *factor; /* (m) */
    const float *scale;  /* (m), or NULL */
} RowTile;

static void keys_meet(const CpuIsa *isa, const TaskRows *t, const RowTile *x, const Page *page, Later *later, int D) {
    for (int j = 0; j < x->n; j += SGEMM_PANEL) {
        TileOut o = {.out = x->scores + j, .ld_out = KV_PAGE};
        const float *q = t->q + x->row * t->ld_q;
        int          n = (int)round_up((size_t)int_min(SGEMM_PANEL, x->n - j), 16);
        later_take(later, D, &o);
        if (page->type == DTYPE_BF16) isa->sgemm_tile_bf16(x->m, n, D, q, t->ld_q, (const uint16_t *)page->keys + j * D, &o);
        else isa->sgemm_tile(x->m, n, D, q, t->ld_q, 1, (const float *)page->keys + j * D, SGEMM_PANEL, &o);
    }
}

/* acc (m, D) = scale * (factor * acc + p values); columns a panel at a time */
static void values_add(const CpuIsa *isa, const TaskRows *t, const RowTile *x, const Page *page, Later *later, int first,
                       int D) {
    for (int d = 0; d < D; d += SGEMM_PANEL) {
        int          width = panel_width(d, D);
        ptrdiff_t    ld = page->ld ? page->ld : width;
        const float *values = (const float *)page->values + (page->ld ? d : d * KV_PAGE);
        float       *acc = t->acc + x->row * t->ld_acc + d;
        TileOut      o = {.chain = first ? NULL : acc, .out = acc, .ld_chain = t->ld_acc, .ld_out = t->ld_acc,
                          .factor = x->factor, .scale = x->scale};
        later_take(later, x->n, &o);
        if (page->type == DTYPE_BF16) {
            isa->sgemm_tile_bf16(x->m, width, x->n, x->scores, KV_PAGE, (const uint16_t *)page->values + d * KV_PAGE, &o);
            continue;
        }
        if (width % 16) { /* sgemm_tile reads whole vectors: all of a panel that ends in a part of one is copied */
            ld = (ptrdiff_t)round_up((size_t)width, 16);
            for (int j = 0; j < x->n; j++) memcpy(t->values + j * ld, values + j * width, sizeof(float) * (size_t)width);
            values = t->values;
        }
        isa->sgemm_tile(x->m, width, x->n, x->scores, KV_PAGE, 1, values, ld, &o);
    }
}

/* Rows [row, row + n_rows) of the task meet block `block` of their keys. */
static void rows_meet_block(const CpuIsa *isa, const CpuOps *ops, const TaskRows *t, int row, int n_rows, int block,
                            const Page *page, Later *later, int D) {
    const int   passed = block * KV_PAGE, edge = t->visible[row] - passed < KV_PAGE;
    const float scale = LOG2_E * (1.0f / sqrtf((float)D));
    int tile = edge ? int_min(EDGE_ROWS, isa->tile_rows) : isa->tile_rows, tiles = MERGE_ROWS / tile;
    if (!edge) tile = ceil_div(n_rows, ceil_div(n_rows, tile)); /* evenly */
    for (int i = row; i < row + n_rows; i += tile * tiles) {
        int   rows = int_min(tile * tiles, row + n_rows - i), seen[MERGE_ROWS], most = 0, ends = 0;
        float factor[MERGE_ROWS], inverse[MERGE_ROWS];
        for (int r = 0; r < rows; r++) {
            seen[r] = int_min(t->visible[i + r] - passed, KV_PAGE);
            most = int_max(most, seen[r]);
            ends |= t->visible[i + r] - passed <= KV_PAGE;
        }
        if (most <= 0) continue;
        RowTile x[MERGE_ROWS];
        for (int k = 0, r = 0; r < rows; k++, r += tile) {
            x[k] = (RowTile){i + r, int_min(tile, rows - r), 0, t->scores + r * KV_PAGE, factor + r,
                             ends ? inverse + r : NULL};
            for (int q = 0; q < x[k].m; q++) x[k].n = int_max(x[k].n, seen[r + q]);
            keys_meet(isa, t, &x[k], page, later, D);
        }
        ops->softmax_merge(t->scores, rows, seen, (int)round_up((size_t)most, 16), scale, t->max + i, t->sum + i, factor,
                           ends ? inverse : NULL);
        for (int r = 0; ends && r < rows; r++) /* only rows whose last keys these are */
            if (t->visible[i + r] - passed > KV_PAGE || seen[r] <= 0) inverse[r] = 1;
        for (int k = 0; k * tile < rows; k++) values_add(isa, t, &x[k], page, later, block == 0, D);
    }
}

static int visible_keys(const Attention *a, int s, int n) {
    int rows = a->q_offset[s + 1] - a->q_offset[s];
    return (a->kv_len ? a->kv_len[s] : rows) - rows + (n - a->q_offset[s]) + 1;
}

static int64_t page_of(const Attention *a, int s, int block) {
    return a->block_table ? a->block_table[(int64_t)s * a->max_blocks + block] : int_max(a->first_page[s], 0) + block;
}

/* Head g of block `block` of sequence s */
static Page page_at(const Attention *a, int s, int g, int block) {
    int64_t page = page_of(a, s, block);
    int     head = g - a->first_head;
    Page    p = {.keys = page_keys(a->pool, a->pool_type, page, head, a->n_heads, a->D), .type = a->pool_type};
    p.ld = a->value_rows ? a->ld_values : 0;
    p.values = a->value_rows ? a->value_rows + block * KV_PAGE * a->ld_values
                             : page_values(a->pool, a->pool_type, page, head, a->n_heads, a->D);
    return p;
}

static Later later_page(const Page *page, int D) {
    Later l = {.n = 0};
    int   rows = (int)(page_head_bytes(page->type, D) / (sizeof(float) * SGEMM_PANEL));
    later_add(&l, page->keys, SGEMM_PANEL, rows, SGEMM_PANEL);
    later_add(&l, page->values, SGEMM_PANEL, rows, SGEMM_PANEL);
    return l;
}

/* Rows [row, row + n_rows) of the task meet blocks [first, end) of sequence s.  later: what comes after it, or NULL:
 * then each block's successor is fetched. */
static void rows_meet_blocks(const CpuIsa *isa, const CpuOps *ops, const Attention *a, const TaskRows *t, int row,
                             int n_rows, int s, int g, int first, int end, Later *later) {
    for (int b = first; b < end; b++) {
        Page  page = page_at(a, s, g, b);
        Later next = {.n = 0};
        if (!later && b + 1 < end) {
            Page after = page_at(a, s, g, b + 1);
            next = later_page(&after, a->D);
        }
        rows_meet_block(isa, ops, t, row, n_rows, b, &page, later ? later : &next, a->D);
    }
}

/* Where the rows' queries and sums are: in place, but copied where they lie unevenly, both heads and queries being several,
 * and queries too where all would share a set of the cache. */
static void rows_place(const Attention *a, TaskRows *t, int n0, int n1, int h0, int heads) {
    const int    D = a->D, row = heads * D;
    ptrdiff_t    ld_qk = (ptrdiff_t)(a->H + a->G) * D, ld_out = (ptrdiff_t)a->H * D;
    const float *q = a->qk + n0 * ld_qk + h0 * D;
    const int    one = n1 - n0 == 1, even = heads == 1 || one, in_place = one || (heads == 1 && ld_qk % 1024);
    t->q = in_place ? q : t->own_q, t->ld_q = in_place && !one ? ld_qk : D;
    t->acc = even ? a->out + n0 * ld_out + h0 * D : t->own_acc, t->ld_acc = even && !one ? ld_out : D;
    for (int i = 0; !in_place && i < n1 - n0; i++) memcpy(t->own_q + i * row, q + i * ld_qk, sizeof(float) * (size_t)row);
}

static void rows_finish(const Attention *a, const TaskRows *t, int n0, int n1, int h0, int heads) {
    const int row = heads * a->D;
    for (int i = 0; t->acc == t->own_acc && i < n1 - n0; i++)
        memcpy(a->out + ((ptrdiff_t)(n0 + i) * a->H + h0) * a->D, t->acc + i * row, sizeof(float) * (size_t)row);
    for (int r = 0; a->lse && r < heads; r++)
        for (int n = n0, i = r; n < n1; n++, i += heads)
            a->lse[(ptrdiff_t)(h0 + r) * a->N + n] = t->max[i] * LN_2 + logf(t->sum[i]);
}

/* Query rows [n0, n1) of sequences s0.., heads [h0, h0 + heads) of one key/value head, a query's heads side by side; the
 * first `shared` pages are common to all of them.  later: as for rows_meet_blocks. */
static void task_run(const CpuIsa *isa, const CpuOps *ops, const Attention *a, TaskRows *t, int n0, int n1, int s0,
                     int h0, int heads, int shared, Later *later) {
    const int g = h0 / (a->H / a->G);
    rows_place(a, t, n0, n1, h0, heads);
    while (a->q_offset[s0 + 1] <= n0) s0++;
    for (int n = n0, s = s0, row = 0; n < n1; s++)
        for (int end = int_min(n1, a->q_offset[s + 1]), visible = visible_keys(a, s, n); n < end; n++, visible++)
            for (int r = 0; r < heads; r++, row++) {
                t->max[row] = -INFINITY;
                t->sum[row] = 0;
                t->visible[row] = visible;
            }
    rows_meet_blocks(isa, ops, a, t, 0, (n1 - n0) * heads, s0, g, 0, shared, later);
    for (int n = n0, s = s0; n < n1; s++) {
        int end = int_min(n1, a->q_offset[s + 1]);
        if (end <= n) continue;
        rows_meet_blocks(isa, ops, a, t, (n - n0) * heads, (end - n) * heads, s, g, shared,
                         ceil_div(visible_keys(a, s, end - 1), KV_PAGE), later);
        n = end;
    }
    rows_finish(a, t, n0, n1, h0, heads);
}

/* Queries of each task that takes so many heads, evenly; of one head in whole vectors of keys. */
static int queries_a_task(const Attention *a, int queries, int heads) {
    int most = int_max(1, rows_a_task(a->H, a->G) / heads);
    int share = ceil_div(queries, int_max(1, ceil_div(queries, most)));
    return heads == 1 ? int_min(most, (int)round_up((size_t)share, 16)) : share;
}

/* What each thread of a team does: takes task after task, walking the groups once. */
static void team_run(const CpuIsa *isa, const CpuOps *ops, const Attention *a, float *memory, int64_t *next) {
    TaskRows  t = task_rows(memory, a->H, a->G, a->D);
    int       n_group = a->group_offset ? a->n_group : a->n_seq;
    int64_t   first = 0; /* number of group's first task */
    int64_t   mine;
#pragma omp atomic capture
    mine = (*next)++;
    for (int group = 0; group < n_group; group++) {
        int s0 = a->group_offset ? a->group_offset[group] : group;
        int s1 = a->group_offset ? a->group_offset[group + 1] : group + 1;
        int begin = a->q_offset[s0], end = a->q_offset[s1], heads = a->H / a->G;
        int queries = queries_a_task(a, end - begin, heads), parts = queries ? ceil_div(end - begin, queries) : 0;
        if (!a->block_table && a->first_page[s0] < 0) parts = 0;
        while (mine < first + (int64_t)parts * a->G) {
            /* One head's keys after the other, while they are in the cache; the longest (latest) rows first. */
            int task = (int)(mine - first), part = parts - 1 - task % parts;
            int n0 = begin + part * queries;
            if (n0 < end)
                task_run(isa, ops, a, &t, n0, int_min(n0 + queries, end), s0, task / parts * heads, heads,
                         a->group_shared ? a->group_shared[group] : 0, NULL);
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

/* A sequence of few pages is laid out one head at a time, by the thread that attends to it, in memory that stays in its
 * second cache; longer ones all at once before anybody attends. */
enum {
    OWN_FLOATS = 1 << 17,
    IN_PLACE = 2 * KV_PAGE /* the values of so few rows are read too seldom to be worth laying out */
};

static size_t page_floats(int G, int D) { return 2 * (size_t)G * KV_PAGE * (size_t)D; }
static int    own_pages(int D) { return (int)(OWN_FLOATS / page_floats(1, D)); }

typedef struct {
    int32_t *first_page; /* (n_seq) of longer ones; -1 for the others */
    float   *pool;       /* of longer ones */
    float   *own;        /* OWN_FLOATS a thread */
    size_t   bytes;
} PackedPages;

/* At `memory` (NULL: only the size). */
static PackedPages packed_pages(const Device *dev, char *memory, int64_t pages, int n_seq, int G, int D) {
    size_t      table = round_up(sizeof(int32_t) * ((size_t)n_seq + 1), 64);
    size_t      own = sizeof(float) * OWN_FLOATS * (size_t)device_threads(dev);
    PackedPages p = {.bytes = table + own + sizeof(float) * (size_t)pages * page_floats(G, D)};
    if (!memory) return p;
    p.first_page = (int32_t *)memory;
    p.own = (float *)(memory + table);
    p.pool = (float *)(memory + table + own);
    return p;
}

/* Head g of rows [n, n + rows) becomes head `head` of `heads` of a page. */
static void page_fill(const CpuIsa *isa, const Attention *a, const float *qkv, int n, int rows, int g, void *pool,
                      int64_t page, int head, int heads) {
    const int    H = a->H, G = a->G, D = a->D;
    ptrdiff_t    ld_qk = (ptrdiff_t)(H + G) * D, ld_qkv = (ptrdiff_t)(H + 2 * G) * D;
    const float *k = a->qk + n * ld_qk + (H + g) * D, *v = qkv + n * ld_qkv + (H + G + g) * D;
    float       *values = page_values(pool, DTYPE_F32, page, head, heads, D);
    keys_transpose(isa, page_keys(pool, DTYPE_F32, page, head, heads, D), k, ld_qk, rows, D);
    for (int d = 0; !a->value_rows && d < D; d += SGEMM_PANEL) {
        int   width = panel_width(d, D);
        float *panel = values + d * KV_PAGE;
        if (width == SGEMM_PANEL) isa->sgemm_pack_panel(panel, width, rows, v + d, ld_qkv, 1);
        else
            for (int i = 0; i < rows; i++)
                memcpy(panel + i * width, v + i * ld_qkv + d, sizeof(float) * (size_t)width);
    }
}

static void long_fill(Device *dev, const Attention *a, const float *qkv) {
    const CpuIsa *isa = cpu_isa(dev);
#pragma omp parallel num_threads(cpu_threads_for(dev, 8.0 * a->N * a->G * a->D))
    for (int s = 0; s < a->n_seq; s++) {
        int begin = a->q_offset[s], end = a->q_offset[s + 1];
        if (a->first_page[s] < 0) continue;
#pragma omp for schedule(static) nowait
        for (int block = 0; block < ceil_div(end - begin, KV_PAGE); block++) {
            int n = begin + block * KV_PAGE;
            for (int g = 0; g < a->G; g++)
                page_fill(isa, a, qkv, n, int_min(KV_PAGE, end - n), g, a->pool, a->first_page[s] + block, g, a->G);
        }
    }
}

/* All that head g of sequence s needs. */
static Later later_sequence(const Attention *a, const float *qkv, int s, int g) {
    const int H = a->H, G = a->G, D = a->D, ratio = H / G, rows = a->q_offset[s + 1] - a->q_offset[s];
    ptrdiff_t n = a->q_offset[s], ld_qk = (ptrdiff_t)(H + G) * D, ld_qkv = (ptrdiff_t)(H + 2 * G) * D;
    Later     l = {.n = 0};
    later_add(&l, a->qk + n * ld_qk + (H + g) * D, ld_qk, rows, D);
    later_add(&l, qkv + n * ld_qkv + (H + G + g) * D, ld_qkv, rows, D);
    later_add(&l, a->qk + n * ld_qk + g * ratio * D, ld_qk, rows, ratio * D);
    later_add(&l, a->out + (n * H + g * ratio) * D, (ptrdiff_t)H * D, rows, ratio * D);
    return l;
}

/* In a team: attends to the shorter sequences. */
static void short_run(Device *dev, const Attention *packed, const float *qkv, const PackedPages *p, float *tasks) {
    const CpuIsa *isa = cpu_isa(dev);
    const CpuOps *ops = cpu_ops(dev);
    const int     G = packed->G, ratio = packed->H / G;
    Attention     a = *packed;
    TaskRows      t = task_rows(tasks + (size_t)cpu_thread() * task_floats(a.H, G, a.D), a.H, G, a.D);
    a.pool = p->own + (size_t)cpu_thread() * OWN_FLOATS, a.n_heads = 1;
    a.ld_values = (ptrdiff_t)(a.H + 2 * G) * a.D;
#pragma omp for schedule(dynamic, 1) nowait
    for (int i = 0; i < a.n_seq * G; i++) {
        int s = i / G, g = i % G, begin = a.q_offset[s], end = a.q_offset[s + 1];
        if (p->first_page[s] >= 0) continue;
        a.value_rows = NULL;
        if (a.D % 16 == 0 && end - begin <= IN_PLACE) a.value_rows = qkv + begin * a.ld_values + (a.H + G + g) * a.D;
        for (int n = begin; n < end; n += KV_PAGE)
            page_fill(isa, &a, qkv, n, int_min(KV_PAGE, end - n), g, a.pool, (n - begin) / KV_PAGE, 0, 1);
        /* One head at a time, whose rows lie evenly and are used in place, unless there are too few to fill a tile. */
        int heads = end - begin >= EDGE_ROWS ? 1 : ratio, queries = queries_a_task(&a, end - begin, heads);
        int next = i + cpu_team(); /* likely */
        a.first_head = g;
        Later later = {.n = 0};
        if (next < a.n_seq * G) later = later_sequence(&a, qkv, next / G, next % G);
        for (int h = g * ratio; h < (g + 1) * ratio; h += heads)
            for (int n = begin; n < end; n += queries)
                task_run(isa, ops, &a, &t, n, int_min(n + queries, end), s, h, heads, 0, &later);
    }
}

/* Rows that belong to no sequence get zeros, not whatever was there. */
static void zero_rows(float *x, int first, int N, ptrdiff_t width) {
    if (first < N) memset(x + first * width, 0, sizeof(float) * (size_t)(N - first) * (size_t)width);
}

void cpu_attention_forward(Device *dev, void *out, void *lse, const void *qk, const void *qkv,
                           const int32_t *cu_seqlens, int n_seq, int N, int H, int G, int D) {
    if (device_error(dev) || n_seq < 1) return;
    /* With few heads in all, no thread can be spared for one of them. */
    const int threads = device_threads(dev), own = threads > 1 && n_seq * G < 4 * threads ? 0 : own_pages(D);
    int64_t   pages = 0;
    double    scores = 0;
    for (int s = 0; s < n_seq; s++) {
        int rows = cu_seqlens[s + 1] - cu_seqlens[s], n = ceil_div(rows, KV_PAGE);
        if (n > own) pages += n;
        else scores += 0.5 * rows * rows;
    }
    size_t      tasks = round_up(attend_scratch(dev, H, G, D), 64);
    PackedPages p = packed_pages(dev, NULL, pages, n_seq, G, D);
    char       *scratch = cpu_scratch(dev, "attention_forward", tasks + p.bytes);
    if (!scratch) return;
    p = packed_pages(dev, scratch + tasks, pages, n_seq, G, D);
    for (int s = 0, page = 0; s < n_seq; s++) {
        int n = ceil_div(cu_seqlens[s + 1] - cu_seqlens[s], KV_PAGE);
        p.first_page[s] = n > own ? page : -1;
        if (n > own) page += n;
    }
    Attention a = {.out = out, .lse = lse, .qk = qk, .pool = p.pool, .n_heads = G, .q_offset = cu_seqlens,
                   .first_page = p.first_page, .n_seq = n_seq, .N = N, .H = H, .G = G, .D = D};
    if (pages) {
        long_fill(dev, &a, qkv);
        attend(dev, &a, scratch);
    }
    if (scores > 0) {
#pragma omp parallel num_threads(cpu_threads_for(dev, 4.0 * scores * H * D))
        short_run(dev, &a, qkv, &p, (float *)(void *)scratch);
    }
    zero_rows(out, cu_seqlens[n_seq], N, (ptrdiff_t)H * D);
}

size_t cpu_attention_workspace(const Device *dev, const KernelLimits *limits) {
    int n_seq = int_max(1, int_min(limits->n_seq, limits->N));
    int64_t pages = ceil_div(limits->N, KV_PAGE) + n_seq; /* every sequence may end in a page that it fills in part */
    return round_up(attend_scratch(dev, limits->H, limits->G, limits->D), 64) +
           packed_pages(dev, NULL, pages, n_seq, limits->G, limits->D).bytes;
}
