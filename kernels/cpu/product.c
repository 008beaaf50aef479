/* product.c - c = a b: blocking, packing and threads around the register tile of CpuIsa.
 *
 * A task is a block of c.  Its columns of b are packed into panels of SGEMM_PANEL columns, k after k, a slab of k at a
 * time, which stays in the last cache while all rows of a pass.  TILES_BLOCK tiles of rows, k_block products deep, are
 * copied together and stay in the second cache; each panel meets all of them from the first, where it was fetched while
 * the one before was busy.  An element's chain is continued from c between blocks of k, so that who computes which block,
 * and in which tile, changes no bit. */
#include "kernels/cpu/ops.h"

#include <string.h>

enum {
    TILES_BLOCK = 8,    /* tiles of rows that go through a slab together: their part of c stays in the second cache */
    TILES_ONE = 12,     /* the same when they are all there are: a panel of b is done with when they have met it */
    COLUMNS_MAX = 512,  /* of a task */
    COLUMNS_MIN = 256,  /* below this a row of a is read again too soon, and k is cut into slabs instead */
    STREAM_TILES = 5,   /* so few tiles of rows: b is read once, panel by panel */
    STREAM_AHEAD = 64,  /* k of which b is fetched ahead then */
    FEW_ROWS = 4,       /* with so few, b comes faster when the caches alone foresee it */
    TASKS_A_THREAD = 4, /* evens out slow cores */
    COPY_PANELS = 8,    /* rows that meet so many panels are copied first */
    ROW_PAD = 16
};

/* How a product is cut. */
typedef struct {
    int rows, columns;     /* a task; columns of each part */
    int n_rows, n_columns; /* tasks */
    int parts;             /* 2: columns of the left half of c and the same of the right (gated) */
    int slab;              /* k packed at a time */
    int one;               /* panels are packed over each other: no rows come later that would meet them */
    int k_block;
    int chain_apart; /* the chain cannot grow in c */
} Cut;

/* A thread's own memory. */
typedef struct {
    float *slab, *rows, *chain;
    int    packed; /* first column of what slab holds whole, or -1 */
} Own;

typedef struct {
    const CpuState *cpu;
    const Product  *t;
    Cut             cut;
} Job;

/* Rows that go through a slab together. */
static int rows_max(const CpuIsa *isa, int M) {
    return (M <= TILES_ONE * isa->tile_rows ? TILES_ONE : TILES_BLOCK) * isa->tile_rows;
}
static size_t rows_floats(void) { return (size_t)TILES_ONE * SGEMM_LANES * (SGEMM_RUN + ROW_PAD); }
static size_t chain_floats(void) { return (size_t)TILES_ONE * SGEMM_LANES * COLUMNS_MAX; }
static size_t own_floats(const CpuState *cpu) { return (size_t)cpu->slab_floats + rows_floats() + chain_floats(); }

size_t product_scratch(const Device *dev) {
    return sizeof(float) * own_floats(cpu_state(dev)) * (size_t)device_threads(dev);
}

/* ---- one task ------------------------------------------------------------------------------------------------------ */

/* The block of c and the k that a stretch of tiles works on: rows [m0, m1), columns from n0 on of each part, k [k0, k1). */
typedef struct {
    int          m0, m1, n0, columns, k0, k1;
    const float *slab;  /* packed k [k0, k1) of the columns, part after part; NULL: b is in panels */
    float       *chain; /* element (m0, 0) when it does not grow in c; part p at column p * columns */
} Block;

/* What a tile multiplies: rows of a given by strides, panel p of part `part` of the block's columns, k [k, k_end).  soon:
 * what to fetch meanwhile, two lines a k; NULL: nothing. */
typedef struct {
    int          m, rows, part, p, k, k_end;
    const float *a;
    ptrdiff_t    a_rs, a_cs;
    const float *soon;
    ptrdiff_t    ld_soon;
} Operands;

static TileOut tile_out(const Job *j, const Block *b, const Operands *x, int column) {
    const Product *t = j->t;
    int            run = t->mode == SGEMM_ADD, starts = run || x->k == 0, ends = run || x->k_end == t->K;
    float         *out = t->c ? t->c + x->m * t->ldc + column : NULL, *chain = out;
    TileOut        o = {.ld_chain = t->ldc, .ld_out = t->ldc, .soon = x->soon, .ld_soon = x->ld_soon};
    if (b->chain) {
        chain = b->chain + (x->m - b->m0) * (ptrdiff_t)COLUMNS_MAX + x->part * b->columns + x->p * SGEMM_PANEL;
        o.ld_chain = COLUMNS_MAX;
        if (!ends || !out) out = chain, o.ld_out = COLUMNS_MAX;
    }
    o.out = out;
    if (!starts) o.chain = chain;
    else if (t->mode == SGEMM_CHAIN) o.chain = out;
    if (run) o.add = out, o.ld_add = t->ldc;
    else if (ends && t->residual) o.add = t->residual + x->m * t->ld_residual + column, o.ld_add = t->ld_residual;
    return o;
}

/* Panel p of a part, from k on, where it is packed. */
static const void *panel_at(const Job *j, const Block *b, int part, int p, int k) {
    const Product *t = j->t;
    if (b->slab && j->cut.one) return b->slab;
    if (b->slab) {
        ptrdiff_t panel = part * (ptrdiff_t)ceil_div(b->columns, SGEMM_PANEL) + p;
        return b->slab + (panel * (b->k1 - b->k0) + (k - b->k0)) * SGEMM_PANEL;
    }
    ptrdiff_t column = part * (t->N / j->cut.parts) + b->n0 + p * SGEMM_PANEL;
    return (const char *)t->panels + (column * t->K + (ptrdiff_t)k * SGEMM_PANEL) * (ptrdiff_t)dtype_size(t->panel_type);
}

static int panel_is_bf16(const Product *t) { return t->panels && t->panel_type == DTYPE_BF16; }

static void tile_run(const Job *j, const Block *b, const Operands *x) {
    const Product *t = j->t;
    const CpuIsa  *isa = j->cpu->isa;
    int            n = x->p * SGEMM_PANEL, column = x->part * (t->N / j->cut.parts) + b->n0 + n, depth = x->k_end - x->k;
    int            columns = int_min(SGEMM_PANEL, b->columns - n);
    TileOut        o = tile_out(j, b, x, column);
    const void    *panel = panel_at(j, b, x->part, x->p, x->k);
    if (panel_is_bf16(t)) isa->sgemm_tile_bf16(x->rows, columns, depth, x->a, x->a_rs, panel, &o);
    else isa->sgemm_tile(x->rows, columns, depth, x->a, x->a_rs, x->a_cs, panel, SGEMM_PANEL, &o);
}

/* Rows a tile, evenly: 16 rows are 8 + 8, not 14 + 2. */
static int rows_per_tile(int rows, int tile_rows) { return ceil_div(rows, ceil_div(rows, tile_rows)); }

/* Rows of a 4,096 bytes or a multiple apart meet in the same few sets of the first cache: they are copied first. */
static int rows_collide(const Product *t) { return t->a_rs % 1024 == 0; }

/* Rows that are read later, fetched a few at a time meanwhile: caches do not foresee so many short ones. */
typedef struct {
    const float *row;
    ptrdiff_t    ld;
    int          rows, depth;
} Ahead;

static void ahead_fetch(Ahead *x, int rows) {
    for (; rows > 0 && x->rows > 0; rows--, x->rows--, x->row += x->ld)
        for (int k = 0; k < x->depth; k += 16) __builtin_prefetch(x->row + k, 0, 2);
}

/* The rows of a that are copied after those of the block at k [k, k_end). */
static Ahead rows_ahead(const Job *j, const Block *b, int k_end) {
    const Product *t = j->t;
    int            m = b->m0, next = k_end;
    if (k_end == b->k1) m = b->m1, next = b->k0;
    int depth = int_min(j->cut.k_block, b->k1 - next);
    return m < t->M ? (Ahead){t->a + m * t->a_rs + next, t->a_rs, int_min(b->m1 - b->m0, t->M - m), depth} : (Ahead){0};
}

/* Where column n of a part of the block begins in b at k. */
static const float *column_at(const Job *j, const Block *b, int part, int n, int k) {
    const Product *t = j->t;
    return t->b + (part * (t->N / 2) + b->n0 + n) * t->b_cs + k * t->b_rs;
}

/* The panel of column n that is packed next, at k. */
static Ahead columns_ahead(const Job *j, const Block *b, int part, int n, int k, int depth) {
    if (n >= b->columns || j->t->b_rs != 1) return (Ahead){0};
    return (Ahead){column_at(j, b, part, n, k), j->t->b_cs, int_min(SGEMM_PANEL, b->columns - n), depth};
}

/* The block's rows at x->k: as they lie in a, copied, or packed.  Returns the distance from one tile to the next. */
static ptrdiff_t rows_take(const Job *j, const Block *b, Operands *x, int step, int copied, float *to) {
    const Product *t = j->t;
    int            rows = b->m1 - b->m0, depth = x->k_end - x->k;
    x->a = t->a + b->m0 * t->a_rs + x->k * t->a_cs, x->a_rs = t->a_rs, x->a_cs = t->a_cs;
    if (t->a_cs != 1 || (copied && !panel_is_bf16(t))) {
        j->cpu->isa->sgemm_pack_rows(to, rows, step, depth, x->a, t->a_rs, t->a_cs);
        x->a = to, x->a_rs = 1, x->a_cs = SGEMM_LANES;
        return (ptrdiff_t)(depth + 1) * SGEMM_LANES;
    }
    if (copied) {
        for (int m = 0; m < rows; m++)
            memcpy(to + m * (depth + ROW_PAD), x->a + m * t->a_rs, sizeof(float) * (size_t)depth);
        x->a = to, x->a_rs = depth + ROW_PAD;
    }
    return step * x->a_rs;
}

/* Up to rows_max() rows through all panels of the block, which are packed on the way when `pack` says so. */
static void rows_run(const Job *j, const Block *b, int pack, const Own *own) {
    const Product *t = j->t;
    int            rows = b->m1 - b->m0, step = rows_per_tile(rows, j->cpu->isa->tile_rows), tiles = ceil_div(rows, step);
    int            panels = ceil_div(b->columns, SGEMM_PANEL), all = panels * j->cut.parts;
    int            copied = t->a_cs == 1 && (all >= COPY_PANELS || rows_collide(t));
    for (int k = b->k0; k < b->k1; k += j->cut.k_block) {
        Operands  x = {.k = k, .k_end = int_min(k + j->cut.k_block, b->k1)};
        int       depth = x.k_end - k, fetched = 0;
        ptrdiff_t a_tile = rows_take(j, b, &x, step, copied, own->rows);
        /* The rows that are to be packed next are fetched while tiles are busy with these. */
        const float *first = x.a, *soon = t->a_rs == 1 && b->m1 < t->M ? t->a + b->m1 + k * t->a_cs : NULL;
        Ahead        next_rows = copied ? rows_ahead(j, b, x.k_end) : (Ahead){0};
        for (int i = 0; i < all; i++) {
            x.part = i / panels, x.p = i % panels;
            int   part = (i + 1) / panels, p = (i + 1) % panels, last = i + 1 == all;
            Ahead next = pack && !last ? columns_ahead(j, b, part, p * SGEMM_PANEL, k, depth) : (Ahead){0};
            if (pack)
                j->cpu->isa->sgemm_pack_panel((float *)panel_at(j, b, x.part, x.p, k),
                                              int_min(SGEMM_PANEL, b->columns - x.p * SGEMM_PANEL), depth,
                                              column_at(j, b, x.part, x.p * SGEMM_PANEL, k), t->b_rs, t->b_cs);
            x.a = first;
            for (x.m = b->m0; x.m < b->m1; x.m += step, x.a += a_tile) {
                x.rows = int_min(step, b->m1 - x.m);
                x.soon = NULL;
                if (x.m == b->m0 && !last && !pack) {
                    x.soon = panel_at(j, b, part, p, k), x.ld_soon = panel_is_bf16(t) ? SGEMM_PANEL / 2 : SGEMM_PANEL;
                } else if (x.m == b->m0 && !last && t->b_cs == 1) {
                    x.soon = column_at(j, b, part, p * SGEMM_PANEL, k), x.ld_soon = t->b_rs;
                } else if (soon && fetched < rows) {
                    x.soon = soon + fetched, x.ld_soon = t->a_cs, fetched += SGEMM_PANEL;
                }
                ahead_fetch(&next, ceil_div(SGEMM_PANEL, tiles));
                ahead_fetch(&next_rows, ceil_div(rows, all * tiles));
                tile_run(j, b, &x);
            }
        }
    }
}

/* A few rows: every panel is read once and in order. */
static void rows_stream(const Job *j, const Block *b) {
    const Product *t = j->t;
    int            step = rows_per_tile(b->m1 - b->m0, j->cpu->isa->tile_rows);
    Operands       x = {.a_rs = t->a_rs, .a_cs = 1, .ld_soon = panel_is_bf16(t) ? SGEMM_PANEL / 2 : SGEMM_PANEL};
    for (x.part = 0; x.part < j->cut.parts; x.part++)
        for (x.p = 0; x.p < ceil_div(b->columns, SGEMM_PANEL); x.p++)
            for (x.k = b->k0; x.k < b->k1; x.k = x.k_end)
                for (x.m = b->m0; x.m < b->m1; x.m += step) {
                    x.k_end = int_min(x.k + j->cut.k_block, b->k1);
                    x.rows = int_min(step, b->m1 - x.m);
                    x.a = t->a + x.m * t->a_rs + x.k;
                    if (x.rows > FEW_ROWS) x.soon = (const float *)panel_at(j, b, x.part, x.p, x.k) + STREAM_AHEAD * x.ld_soon;
                    tile_run(j, b, &x);
                }
}

static void block_gate(const Job *j, const Block *b) {
    const Product *t = j->t;
    int            F = t->N / 2;
    for (int m = b->m0; m < b->m1; m++) {
        const float *left = t->c ? t->c + m * t->ldc + b->n0 : b->chain + (m - b->m0) * (ptrdiff_t)COLUMNS_MAX;
        j->cpu->isa->swiglu(t->gated + m * (ptrdiff_t)F + b->n0, left, left + (t->c ? F : b->columns), b->columns);
    }
}

/* Rows [m0, m1), columns [n0, n0 + columns) of each part. */
static void task_run(const Job *j, int m0, int m1, int n0, int columns, Own *own) {
    const Product *t = j->t;
    int            most = rows_max(j->cpu->isa, t->M);
    /* A chain that grows apart must end before the next rows begin, however often that packs b. */
    int   through = j->cut.chain_apart && j->cut.slab < t->K ? most : m1 - m0;
    Block b = {.n0 = n0, .columns = columns, .chain = j->cut.chain_apart ? own->chain : NULL};
    int   stream = t->panels && t->a_cs == 1 && m1 - m0 <= STREAM_TILES * j->cpu->isa->tile_rows;
    for (int top = m0; top < m1; top += through)
        for (b.k0 = 0; b.k0 < t->K; b.k0 += j->cut.slab) {
            b.k1 = int_min(b.k0 + j->cut.slab, t->K);
            b.slab = t->panels ? NULL : own->slab;
            int pack = !t->panels && own->packed != n0;
            for (b.m0 = top; b.m0 < int_min(top + through, m1); b.m0 += most) {
                b.m1 = int_min(b.m0 + most, int_min(top + through, m1));
                if (stream) rows_stream(j, &b);
                else rows_run(j, &b, pack && b.m0 == top, own);
                if (t->gated && b.k1 == t->K) block_gate(j, &b);
            }
            if (pack) own->packed = b.k1 - b.k0 == t->K && !j->cut.one ? n0 : -1;
        }
}

/* ---- all tasks ----------------------------------------------------------------------------------------------------- */

static Cut cut_make(const CpuState *cpu, const Product *t, int threads) {
    Cut g = {.parts = t->gated ? 2 : 1, .k_block = t->mode == SGEMM_ADD ? SGEMM_RUN : cpu->k_block};
    int width = t->N / g.parts, tile = cpu->isa->tile_rows;
    g.chain_apart = (t->gated && !t->c) || (t->residual && t->residual == t->c && t->K > g.k_block);
    /* Whole k when enough columns fit, otherwise slabs; packed panels need none. */
    int least = int_min(t->mode == SGEMM_ADD ? COLUMNS_MAX : COLUMNS_MIN, ceil_div(t->N, SGEMM_PANEL) * SGEMM_PANEL);
    g.one = !t->panels && t->M <= rows_max(cpu->isa, t->M);
    g.slab = t->K;
    if (!t->panels && !g.one && (ptrdiff_t)t->K * least > cpu->slab_floats)
        g.slab = int_max(1, cpu->slab_floats / least / g.k_block) * g.k_block;
    int columns = t->panels || g.one ? COLUMNS_MAX : cpu->slab_floats / int_max(g.slab, 1) / SGEMM_PANEL * SGEMM_PANEL;
    columns = int_min(columns, COLUMNS_MAX);
    columns = int_max(columns / g.parts / SGEMM_PANEL, 1) * SGEMM_PANEL;
    int panels = ceil_div(width, SGEMM_PANEL);
    g.columns = int_min(columns, panels * SGEMM_PANEL);
    g.rows = t->M;
    if (threads > 1) {
        int want = threads * TASKS_A_THREAD;
        if (t->M <= 2 * rows_max(cpu->isa, t->M)) /* few rows: by columns, so that no b is read twice */
            g.columns = int_min(g.columns, int_max(1, panels / want) * SGEMM_PANEL);
        int row_tasks = ceil_div(want, ceil_div(width, g.columns));
        if (t->M > rows_max(cpu->isa, t->M)) g.rows = int_min(g.rows, ceil_div(ceil_div(t->M, row_tasks), tile) * tile);
    }
    g.rows = int_max(int_min(g.rows, t->M), 1);
    g.n_rows = ceil_div(t->M, g.rows);
    g.n_columns = ceil_div(width, g.columns);
    return g;
}

/* Inside a team.  Rows are the fast index, so that a thread's next task finds its columns of b packed. */
static void team_run(const Job *j, float *memory) {
    const Cut *g = &j->cut;
    Own        own = {memory, memory + j->cpu->slab_floats, memory + j->cpu->slab_floats + rows_floats(), -1};
#pragma omp for schedule(dynamic, 1) nowait
    for (int task = 0; task < g->n_rows * g->n_columns; task++) {
        int m = task % g->n_rows * g->rows, n = task / g->n_rows * g->columns;
        task_run(j, m, int_min(m + g->rows, j->t->M), n, int_min(g->columns, j->t->N / g->parts - n), &own);
    }
}

void product_run(Device *dev, const Product *t, void *scratch) {
    if (t->M <= 0 || t->N <= 0) return;
    if (t->K < 1 || t->K > SGEMM_K_MAX) {
        device_fail(dev, "product", "products of an element must number 1 to 65536");
        return;
    }
    int threads = cpu_threads_for(dev, 2.0 * t->M * t->N * t->K);
    Job j = {cpu_state(dev), t, cut_make(cpu_state(dev), t, threads)};
    if (threads == 1) {
        team_run(&j, scratch);
        return;
    }
#pragma omp parallel num_threads(threads)
    team_run(&j, (float *)scratch + own_floats(j.cpu) * (size_t)cpu_thread());
}

void cpu_sgemm(Device *dev, int M, int N, int K, const float *a, ptrdiff_t a_rs, ptrdiff_t a_cs, const float *b,
               ptrdiff_t b_rs, ptrdiff_t b_cs, float *c, ptrdiff_t ldc, SgemmMode mode, void *scratch) {
    Product t = {.M = M, .N = N, .K = K, .a = a, .a_rs = a_rs, .a_cs = a_cs, .b = b, .b_rs = b_rs, .b_cs = b_cs,
                 .c = c, .ldc = ldc, .mode = mode};
    product_run(dev, &t, scratch);
}
