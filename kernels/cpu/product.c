/* product.c - c = a b: blocking, packing and threads around the register tile of CpuIsa.
 *
 * A task is a block of c.  Its columns of b are packed into panels of SGEMM_PANEL columns, k after k, a slab of k at a
 * time, so that they stay in the second cache while all rows of a pass; a tile then walks k_block products whose operands
 * stay in the first.  An element's chain is continued from c between blocks of k, so that who computes which block, and
 * in which tile, changes no bit. */
#include "kernels/cpu/ops.h"

#include <string.h>

enum {
    TILES_BLOCK = 8,    /* tiles of rows that go through a slab together: their part of c stays in the second cache */
    COLUMNS_MAX = 512,  /* of a task */
    COLUMNS_MIN = 256,  /* below this a row of a is read again too soon, and k is cut into slabs instead */
    ROWS_ADD = 36,      /* tiles of rows a task when c is added to every SGEMM_RUN products: c stays in a cache */
    STREAM_TILES = 5,   /* so few tiles of rows: b is read once, panel by panel */
    STREAM_AHEAD = 8192, /* floats of b fetched ahead there */
    TASKS_A_THREAD = 4, /* evens out slow cores */
    ROW_PAD = 16
};

/* How a product is cut. */
typedef struct {
    int rows, columns;     /* a task; columns of each part */
    int n_rows, n_columns; /* tasks */
    int parts;             /* 2: columns of the left half of c and the same of the right (gated) */
    int slab;              /* k packed at a time */
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

static int rows_max(const CpuIsa *isa) { return TILES_BLOCK * isa->tile_rows; }
static size_t rows_floats(void) { return (size_t)TILES_BLOCK * SGEMM_LANES * (SGEMM_RUN + ROW_PAD); }
static size_t chain_floats(void) { return (size_t)TILES_BLOCK * SGEMM_LANES * COLUMNS_MAX; }
static size_t own_floats(const CpuState *cpu) { return (size_t)cpu->slab_floats + rows_floats() + chain_floats(); }

size_t product_scratch(const Device *dev) {
    return sizeof(float) * own_floats(cpu_state(dev)) * (size_t)device_threads(dev);
}

/* ---- one task ------------------------------------------------------------------------------------------------------ */

/* The block of c and the k that a stretch of tiles works on: rows [m0, m1), columns from n0 on of each part, k [k0, k1). */
typedef struct {
    int          m0, m1, n0, columns, k0, k1;
    const float *panels; /* of the first part at k0 */
    ptrdiff_t    stride; /* from panel to panel */
    float       *chain;  /* element (m0, 0) when it does not grow in c; part p at column p * columns */
} Block;

static int part_panels(const Block *b) { return ceil_div(b->columns, SGEMM_PANEL); }

/* Panel p of part `part`: its tile of rows from m on meets k [k, k_end), rows of a given by strides. */
static void tile_run(const Job *j, const Block *b, int part, int p, int m, int rows, int k, int k_end, const float *a,
                     ptrdiff_t a_rs, ptrdiff_t a_cs, const float *soon, ptrdiff_t ld_soon) {
    const Product *t = j->t;
    int            n = p * SGEMM_PANEL, width = t->N / j->cut.parts, column = part * width + b->n0 + n;
    const float   *panel = b->panels + (part * (ptrdiff_t)part_panels(b) + p) * b->stride;
    int            run = t->mode == SGEMM_ADD, starts = run || k == 0, ends = run || k_end == t->K;
    float         *out = t->c ? t->c + m * t->ldc + column : NULL, *chain = out;
    TileOut        o = {.ld_chain = t->ldc, .ld_out = t->ldc, .soon = soon, .ld_soon = ld_soon};
    if (j->cut.parts == 2 && t->panels) panel = t->panels + (ptrdiff_t)column * t->K + (ptrdiff_t)b->k0 * SGEMM_PANEL;
    if (b->chain) {
        chain = b->chain + (m - b->m0) * (ptrdiff_t)COLUMNS_MAX + part * b->columns + n;
        o.ld_chain = COLUMNS_MAX;
        if (!ends || !out) out = chain, o.ld_out = COLUMNS_MAX;
    }
    o.out = out;
    if (!starts) o.chain = chain;
    else if (t->mode == SGEMM_CHAIN) o.chain = out;
    if (run) o.add = out, o.ld_add = t->ldc;
    else if (ends && t->residual) o.add = t->residual + m * t->ld_residual + column, o.ld_add = t->ld_residual;
    j->cpu->isa->sgemm_tile(rows, int_min(SGEMM_PANEL, b->columns - n), k_end - k, a, a_rs, a_cs,
                            panel + (ptrdiff_t)(k - b->k0) * SGEMM_PANEL, SGEMM_PANEL, &o);
}

/* Rows a tile, evenly: 16 rows are 8 + 8, not 14 + 2. */
static int rows_per_tile(int rows, int tile_rows) { return ceil_div(rows, ceil_div(rows, tile_rows)); }

/* Rows of a 4,096 bytes or a multiple apart meet in the same few sets of the first cache: they are copied first. */
static int rows_collide(const Product *t) { return t->a_rs % 1024 == 0; }

/* Up to rows_max() rows through all panels of the block. */
static void rows_run(const Job *j, const Block *b, const Own *own) {
    const Product *t = j->t;
    const CpuIsa  *isa = j->cpu->isa;
    int            step = rows_per_tile(b->m1 - b->m0, isa->tile_rows);
    for (int k = b->k0; k < b->k1; k += j->cut.k_block) {
        int          k_end = int_min(k + j->cut.k_block, b->k1), depth = k_end - k;
        const float *a = t->a + b->m0 * t->a_rs + k * t->a_cs;
        ptrdiff_t    a_rs = t->a_rs, a_cs = t->a_cs, a_tile = step * a_rs;
        /* The next rows, to be packed next: while tiles are busy with these. */
        const float *soon = a_rs == 1 && b->m1 < t->M ? a + (b->m1 - b->m0) : NULL;
        if (a_cs != 1) {
            isa->sgemm_pack_rows(own->rows, b->m1 - b->m0, step, depth, a, a_rs, a_cs);
            a = own->rows, a_rs = 1, a_cs = SGEMM_LANES, a_tile = (ptrdiff_t)depth * SGEMM_LANES;
        } else if (rows_collide(t)) {
            for (int m = 0; m < b->m1 - b->m0; m++)
                memcpy(own->rows + m * (depth + ROW_PAD), a + m * a_rs, sizeof(float) * (size_t)depth);
            a = own->rows, a_rs = depth + ROW_PAD, a_tile = step * a_rs;
        }
        int done = 0; /* columns of `soon` */
        for (int m = b->m0; m < b->m1; m += step, a += a_tile)
            for (int part = 0; part < j->cut.parts; part++)
                for (int p = 0; p < part_panels(b); p++, done += SGEMM_PANEL)
                    tile_run(j, b, part, p, m, int_min(step, b->m1 - m), k, k_end, a, a_rs, a_cs,
                             soon && done < b->m1 - b->m0 ? soon + done : NULL, t->a_cs);
    }
}

/* A few rows: every panel is read once and in order, what comes next is fetched meanwhile. */
static void rows_stream(const Job *j, const Block *b) {
    const Product *t = j->t;
    int            step = rows_per_tile(b->m1 - b->m0, j->cpu->isa->tile_rows);
    for (int part = 0; part < j->cut.parts; part++)
        for (int p = 0; p < part_panels(b); p++)
            for (int k = b->k0; k < b->k1; k += j->cut.k_block)
                for (int m = b->m0; m < b->m1; m += step)
                    tile_run(j, b, part, p, m, int_min(step, b->m1 - m), k, int_min(k + j->cut.k_block, b->k1),
                             t->a + m * t->a_rs + k, t->a_rs, 1, NULL, 0);
}

static void block_gate(const Job *j, const Block *b) {
    const Product *t = j->t;
    int            F = t->N / 2;
    for (int m = b->m0; m < b->m1; m++) {
        const float *left = t->c ? t->c + m * t->ldc + b->n0 : b->chain + (m - b->m0) * (ptrdiff_t)COLUMNS_MAX;
        j->cpu->isa->swiglu(t->gated + m * (ptrdiff_t)F + b->n0, left, left + (t->c ? F : b->columns), b->columns);
    }
}

/* Packs k [k0, k1) of the task's columns, part after part. */
static void slab_pack(const Job *j, Block *b, Own *own) {
    const Product *t = j->t;
    float         *to = own->slab;
    if (t->panels) {
        b->stride = (ptrdiff_t)t->K * SGEMM_PANEL;
        b->panels = t->panels + (ptrdiff_t)b->n0 * t->K + (ptrdiff_t)b->k0 * SGEMM_PANEL;
        return;
    }
    b->stride = (ptrdiff_t)(b->k1 - b->k0) * SGEMM_PANEL;
    b->panels = own->slab;
    if (own->packed == b->n0) return;
    for (int part = 0; part < j->cut.parts; part++)
        for (int n = 0; n < b->columns; n += SGEMM_PANEL, to += b->stride)
            j->cpu->isa->sgemm_pack_panel(to, int_min(SGEMM_PANEL, b->columns - n), b->k1 - b->k0,
                                          t->b + (part * (t->N / 2) + b->n0 + n) * t->b_cs + b->k0 * t->b_rs, t->b_rs,
                                          t->b_cs);
    own->packed = b->k1 - b->k0 == t->K ? b->n0 : -1;
}

/* Rows [m0, m1), columns [n0, n0 + columns) of each part. */
static void task_run(const Job *j, int m0, int m1, int n0, int columns, Own *own) {
    const Product *t = j->t;
    int            most = rows_max(j->cpu->isa);
    /* A chain that grows apart must end before the next rows begin, however often that packs b. */
    int   through = j->cut.chain_apart && j->cut.slab < t->K ? most : m1 - m0;
    Block b = {.n0 = n0, .columns = columns, .chain = j->cut.chain_apart ? own->chain : NULL};
    int   stream = t->panels && t->a_cs == 1 && m1 - m0 <= STREAM_TILES * j->cpu->isa->tile_rows;
    for (int top = m0; top < m1; top += through)
        for (b.k0 = 0; b.k0 < t->K; b.k0 += j->cut.slab) {
            b.k1 = int_min(b.k0 + j->cut.slab, t->K);
            slab_pack(j, &b, own);
            for (b.m0 = top; b.m0 < int_min(top + through, m1); b.m0 += most) {
                b.m1 = int_min(b.m0 + most, int_min(top + through, m1));
                if (stream) rows_stream(j, &b);
                else rows_run(j, &b, own);
                if (t->gated && b.k1 == t->K) block_gate(j, &b);
            }
        }
}

/* ---- all tasks ----------------------------------------------------------------------------------------------------- */

static Cut cut_make(const CpuState *cpu, const Product *t, int threads) {
    Cut g = {.parts = t->gated ? 2 : 1, .k_block = t->mode == SGEMM_ADD ? SGEMM_RUN : cpu->k_block};
    int width = t->N / g.parts, tile = cpu->isa->tile_rows, add = t->mode == SGEMM_ADD;
    g.chain_apart = (t->gated && !t->c) || (t->residual && t->residual == t->c && t->K > g.k_block);
    /* Whole k when enough columns fit, otherwise slabs; packed panels need none. */
    int least = t->panels ? 1 : COLUMNS_MIN;
    g.slab = add ? SGEMM_RUN : t->K;
    if ((ptrdiff_t)g.slab * least > cpu->slab_floats) g.slab = int_max(1, cpu->slab_floats / COLUMNS_MIN / g.k_block) * g.k_block;
    int columns = int_min(COLUMNS_MAX, cpu->slab_floats / int_min(g.slab, int_max(t->K, 1)) / SGEMM_PANEL * SGEMM_PANEL);
    columns = int_max(columns / g.parts / SGEMM_PANEL, 1) * SGEMM_PANEL;
    int panels = ceil_div(width, SGEMM_PANEL);
    g.columns = int_min(columns, panels * SGEMM_PANEL);
    g.rows = t->M;
    if (threads > 1) {
        int want = threads * TASKS_A_THREAD;
        if (t->M <= 2 * rows_max(cpu->isa)) /* few rows: by columns, so that no b is read twice */
            g.columns = int_min(g.columns, int_max(1, panels / want) * SGEMM_PANEL);
        int row_tasks = ceil_div(want, ceil_div(width, g.columns));
        if (t->M > rows_max(cpu->isa)) g.rows = int_min(g.rows, ceil_div(ceil_div(t->M, row_tasks), tile) * tile);
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
