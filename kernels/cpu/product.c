/* product.c - c = a b: blocking, packing and threads around the register tile of CpuIsa.
 *
 * k is cut into blocks.  For each, rows of a are packed once, tile after tile, into a slab in the last cache that all
 * threads read.  A task is a block of c: its columns of b are packed into panels of SGEMM_PANEL columns, k after k,
 * which stay in the second cache while tile after tile of the slab, from the first cache, meets all of them.  An
 * element's chain is continued from c between blocks of k, so that who computes which block, and in which tile, changes
 * no bit. */
#include "kernels/cpu/ops.h"

#include <string.h>

enum {
    SLAB_FLOATS = SGEMM_LANES * (SGEMM_K_MAX + 1), /* room for a tile of any product */
    SLABS = 2,                                     /* threads pack one while others still read the one before */
    CHAIN_FLOATS = 96 << 10,
    CHAIN_COLUMNS = 128, /* of a task whose chains grow apart: many rows share what is packed of b */
    COLUMNS_MAX = 512,   /* of a task */
    COLUMNS_MIN = 128,   /* below this a tile leaves the first cache too soon */
    PACK_TILES = 8,      /* packed together; a whole slab, in the second cache, if all columns are packed at once */
    ROW_PANELS = 24,     /* rows of a that meet so few panels are not packed, */
    COLUMN_PANELS = 8,   /* nor columns of a, */
    DIRECT_TILES = 19,   /* nor rows of b that meet so few tiles */
    STREAM_TILES = 5,    /* so few tiles of rows: packed panels are read once, one after the other */
    STREAM_AHEAD = 64,   /* k of which a panel is fetched ahead then */
    FEW_ROWS = 4,        /* with so few, b comes faster when the caches alone foresee it */
    TASKS_A_THREAD = 4   /* evens out slow cores */
};

/* How a product is cut. */
typedef struct {
    int parts;                  /* 2: columns of the left half of c and the same of the right (gated) */
    int stream;                 /* few rows: b panel by panel */
    int copied, direct;         /* a is packed; b is used where it lies */
    int chain_apart;            /* the chain cannot grow in c */
    int step;                   /* rows a tile */
    int k_block, k_slab, k_run; /* of packed b; of packed a; of a chain that is added apart */
    int rows_slab;              /* of packed a */
    int rows, columns, threads; /* a task; columns of each part */
} Cut;

/* A thread's own memory. */
typedef struct {
    float *panels, *chain;
    int packed; /* first column of what panels hold for the whole slab, or -1 */
} Own;

typedef struct {
    const CpuState *cpu;
    const Product *t;
    Cut cut;
    float *slab;
} Job;

static size_t own_floats(const CpuState *cpu) { return (size_t)cpu->block_floats + CHAIN_FLOATS; }

size_t product_scratch(const Device *dev) {
    return sizeof(float) * (SLABS * SLAB_FLOATS + own_floats(cpu_state(dev)) * (size_t)device_threads(dev));
}

/* ---- one task ---------------------------------------------------------------------------------------------------- */

/* The block of c and the k that a stretch of tiles works on: rows [m0, m1), columns from n0 on of each part, k [k0,
 * k1); the slab holds rows from slab_m on, k from slab_k on. */
typedef struct {
    int m0, m1, n0, columns, k0, k1, slab_m, slab_k;
    float *slab;         /* packed rows of a */
    const float *packed; /* columns of b, part after part; NULL: b is in panels */
    float *chain;        /* element (m0, 0) when it does not grow in c; part p at column p * columns */
} Block;

/* What is fetched meanwhile: two lines each of n places, ld apart; NULL: nothing. */
typedef struct {
    const float *at;
    ptrdiff_t ld;
    int n;
} Soon;

/* What a tile multiplies: rows from m on, panel p of part `part` of the block's columns, k [k, k_end). */
typedef struct {
    int m, rows, part, p, k, k_end;
    const float *a;
    ptrdiff_t a_rs, a_cs;
    Soon soon;
} Operands;

static int panels_of(int columns) { return ceil_div(columns, SGEMM_PANEL); }
static int chain_ld(const Job *j, const Block *b) { return j->cut.parts * b->columns; }

static TileOut tile_out(const Job *j, const Block *b, const Operands *x, int column) {
    const Product *t = j->t;
    int run = t->mode == SGEMM_ADD, starts = run || x->k == 0, ends = run || x->k_end == t->K;
    float *out = t->c ? t->c + x->m * t->ldc + column : NULL, *chain = out;
    TileOut o = {.ld_chain = t->ldc, .ld_out = t->ldc, .soon = x->soon.at, .ld_soon = x->soon.ld, .n_soon = x->soon.n};
    if (b->chain) {
        o.ld_chain = chain_ld(j, b);
        chain = b->chain + (x->m - b->m0) * o.ld_chain + x->part * b->columns + x->p * SGEMM_PANEL;
        if (!ends || !out) out = chain, o.ld_out = o.ld_chain;
    }
    o.out = out;
    if (!starts) o.chain = chain;
    else if (t->mode == SGEMM_CHAIN) o.chain = out;
    if (run) o.add = out, o.ld_add = t->ldc;
    else if (ends && t->residual) o.add = t->residual + x->m * t->ld_residual + column, o.ld_add = t->ld_residual;
    return o;
}

static int panel_is_bf16(const Product *t) { return t->panels && t->panel_type == DTYPE_BF16; }

/* The first column of a part of the block. */
static int column_of(const Job *j, const Block *b, int part) { return part * (j->t->N / j->cut.parts) + b->n0; }

/* Panel p of a part, from k on, where it is packed. */
static const void *panel_at(const Job *j, const Block *b, int part, int p, int k) {
    const Product *t = j->t;
    if (b->packed)
        return b->packed + (ptrdiff_t)((part * panels_of(b->columns) + p) * (b->k1 - b->k0) + k - b->k0) * SGEMM_PANEL;
    ptrdiff_t column = column_of(j, b, part) + p * SGEMM_PANEL;
    return (const char *)t->panels +
           (column * t->K + (ptrdiff_t)k * SGEMM_PANEL) * (ptrdiff_t)dtype_size(t->panel_type);
}

/* Column n of a part of the block where it lies in b, from k on. */
static const float *column_at(const Job *j, const Block *b, int part, int n, int k) {
    return j->t->b + (column_of(j, b, part) + n) * j->t->b_cs + k * j->t->b_rs;
}

static void tile_run(const Job *j, const Block *b, const Operands *x) {
    const Product *t = j->t;
    const CpuIsa *isa = j->cpu->isa;
    int n = x->p * SGEMM_PANEL, columns = int_min(SGEMM_PANEL, b->columns - n), depth = x->k_end - x->k;
    TileOut o = tile_out(j, b, x, column_of(j, b, x->part) + n);
    const void *panel = j->cut.direct ? column_at(j, b, x->part, n, x->k) : panel_at(j, b, x->part, x->p, x->k);
    if (panel_is_bf16(t)) isa->sgemm_tile_bf16(x->rows, columns, depth, x->a, x->a_rs, panel, &o);
    else
        isa->sgemm_tile(x->rows, columns, depth, x->a, x->a_rs, x->a_cs, panel, j->cut.direct ? t->b_rs : SGEMM_PANEL,
                        &o);
}

static void gate(const Job *j, const Block *b, int m, int rows) {
    const Product *t = j->t;
    int F = t->N / 2;
    for (int end = m + rows; m < end; m++) {
        const float *left = t->c ? t->c + m * t->ldc + b->n0 : b->chain + (m - b->m0) * (ptrdiff_t)chain_ld(j, b);
        j->cpu->isa->swiglu(t->gated + m * (ptrdiff_t)F + b->n0, left, left + (t->c ? F : b->columns), b->columns);
    }
}

/* What is fetched while tiles of a block run, its successor's rows of a or columns of b, in so many pieces. */
static int pieces(const Job *j, const Block *next) {
    const Product *t = j->t;
    if (!next->columns && t->a_cs == 1) return next->m1 > next->m0 ? ceil_div(next->k1 - next->k0, SGEMM_PANEL) : 0;
    if (!next->columns) return t->a_rs == 1 ? ceil_div(next->m1 - next->m0, SGEMM_PANEL) : 0;
    if (t->panels || t->b_cs == 1) return j->cut.parts * panels_of(next->columns);
    return t->b_rs == 1 ? j->cut.parts * ceil_div(next->k1 - next->k0, SGEMM_PANEL) : 0;
}

static Soon piece(const Job *j, const Block *next, int i) {
    const Product *t = j->t;
    if (!next->columns) {
        const float *a = t->a + next->m0 * t->a_rs + next->k0 * t->a_cs + i * SGEMM_PANEL;
        return t->a_cs == 1 ? (Soon){a, t->a_rs, next->m1 - next->m0} : (Soon){a, t->a_cs, next->k1 - next->k0};
    }
    int each = pieces(j, next) / j->cut.parts, part = i / each, depth = next->k1 - next->k0;
    if (t->panels) {
        int lines = depth * SGEMM_PANEL * (int)dtype_size(t->panel_type) / 64;
        return (Soon){panel_at(j, next, part, i % each, next->k0), SGEMM_PANEL, lines / 2};
    }
    const float *b = column_at(j, next, part, 0, next->k0);
    if (t->b_cs == 1) return (Soon){b + i % each * SGEMM_PANEL, t->b_rs, depth};
    return (Soon){b + i % each * SGEMM_PANEL, t->b_cs, next->columns};
}

/* From one tile to the next in the slab. */
static ptrdiff_t slab_tile(const Job *j, const Block *b) {
    return (ptrdiff_t)(int_min(j->cut.k_slab, j->t->K - b->slab_k) + 1) * SGEMM_LANES;
}

/* The rows from m on at k: in the slab or as they lie. */
static void rows_find(const Job *j, const Block *b, Operands *x) {
    const Product *t = j->t;
    x->a = t->a + x->m * t->a_rs + b->k0 * t->a_cs, x->a_rs = t->a_rs, x->a_cs = t->a_cs;
    if (!j->cut.copied) return;
    int bf16 = panel_is_bf16(t);
    x->a_rs = bf16 ? int_min(j->cut.k_slab, t->K - b->slab_k) : 1, x->a_cs = bf16 ? 1 : SGEMM_LANES;
    x->a = b->slab + (x->m - b->slab_m) / j->cut.step * slab_tile(j, b) + (b->k0 - b->slab_k) * x->a_cs;
}

/* Tile after tile through all panels of the block. */
static void block_run(const Job *j, const Block *b, const Block *next) {
    const Cut *g = &j->cut;
    int panels = panels_of(b->columns), all = panels * g->parts, step = g->step;
    int calls = ceil_div(b->m1 - b->m0, step) * all, fetches = pieces(j, next);
    int spread = int_max(1, int_min(all, calls / int_max(fetches, 1)));
    Operands x = {.m = b->m0};
    for (; x.m < b->m1; x.m += step) {
        x.rows = int_min(step, b->m1 - x.m);
        rows_find(j, b, &x);
        const float *a = x.a;
        for (int i = 0; i < all; i++) {
            int left = --calls; /* the last calls fetch, so that the most is still there when it is packed */
            x.part = i / panels, x.p = i % panels;
            x.soon = (Soon){0};
            if (left % spread == 0 && left / spread < fetches) x.soon = piece(j, next, fetches - 1 - left / spread);
            else if (i == all / 2 && g->copied && b->m1 - b->m0 > PACK_TILES * step && x.m + step < b->m1)
                x.soon = (Soon){a + slab_tile(j, b), SGEMM_PANEL, (b->k1 - b->k0) / 2};
            for (x.k = b->k0; x.k < b->k1; x.k = x.k_end, x.soon.at = NULL) {
                x.k_end = int_min(x.k + g->k_run, b->k1);
                x.a = a + (x.k - b->k0) * x.a_cs;
                tile_run(j, b, &x);
            }
        }
        if (j->t->gated && b->k1 == j->t->K) gate(j, b, x.m, x.rows);
    }
}

/* A few rows: every panel is read once and in order. */
static void block_stream(const Job *j, const Block *b) {
    const Product *t = j->t;
    const int ld = panel_is_bf16(t) ? SGEMM_PANEL / 2 : SGEMM_PANEL;
    Operands x = {.a_rs = t->a_rs, .a_cs = 1};
    for (x.part = 0; x.part < j->cut.parts; x.part++)
        for (x.p = 0; x.p < panels_of(b->columns); x.p++)
            for (x.k = 0; x.k < t->K; x.k = x.k_end)
                for (x.m = b->m0; x.m < b->m1; x.m += j->cut.step) {
                    x.k_end = int_min(x.k + j->cut.k_block, t->K);
                    x.rows = int_min(j->cut.step, b->m1 - x.m);
                    x.a = t->a + x.m * t->a_rs + x.k;
                    if (x.rows > FEW_ROWS)
                        x.soon = (Soon){(const float *)panel_at(j, b, x.part, x.p, x.k) + STREAM_AHEAD * ld, ld,
                                        x.k_end - x.k};
                    tile_run(j, b, &x);
                }
    if (t->gated) gate(j, b, b->m0, b->m1 - b->m0);
}

static void block_pack(const Job *j, const Block *b) {
    const Product *t = j->t;
    for (int part = 0; part < j->cut.parts; part++)
        for (int p = 0, n = 0; n < b->columns; p++, n += SGEMM_PANEL)
            j->cpu->isa->sgemm_pack_panel((float *)panel_at(j, b, part, p, b->k0), int_min(SGEMM_PANEL, b->columns - n),
                                          b->k1 - b->k0, column_at(j, b, part, n, b->k0), t->b_rs, t->b_cs);
}

/* What the thread is likely to pack after b: rows of the next slab if it keeps its columns (columns = 0 then),
 * otherwise the next k of its columns, or the columns a team's round further on. */
static Block block_after(const Job *j, const Block *b) {
    const Cut *g = &j->cut;
    int width = j->t->N / g->parts;
    Block next = *b;
    next.packed = NULL;
    if (g->threads == 1 && g->columns >= width && b->m1 == b->slab_m + g->rows_slab && b->m1 < j->t->M) {
        next.columns = 0, next.m0 = b->m1, next.m1 = int_min(b->m1 + g->rows_slab, j->t->M);
        return next;
    }
    if (b->k1 < int_min(b->slab_k + g->k_slab, j->t->K)) next.k0 = b->k1;
    else next.n0 = b->n0 + g->threads * g->columns;
    if (next.n0 >= width) next.k0 = b->k1, next.n0 = 0;
    next.k1 = int_min(next.k0 + g->k_block, j->t->K);
    next.columns = next.k0 < next.k1 ? int_min(g->columns, width - next.n0) : 0;
    if (!next.columns) next.m1 = next.m0;
    return next;
}

/* A block of c at the slab's k. */
static void task_run(const Job *j, Block b, Own *own) {
    const Cut *g = &j->cut;
    int k_end = int_min(b.slab_k + g->k_slab, j->t->K);
    b.chain = g->chain_apart ? own->chain : NULL;
    b.packed = j->t->panels || g->direct ? NULL : own->panels;
    if (g->stream) {
        block_stream(j, &b);
        return;
    }
    for (b.k0 = b.slab_k; b.k0 < k_end; b.k0 = b.k1) {
        b.k1 = int_min(b.k0 + g->k_block, k_end);
        Block next = block_after(j, &b);
        if (b.packed && own->packed != b.n0) block_pack(j, &b);
        if (b.k0 == b.slab_k && b.k1 == k_end) own->packed = b.n0;
        block_run(j, &b, &next);
    }
}

/* ---- all tasks --------------------------------------------------------------------------------------------------- */

/* Pieces of `whole` that are at most `most` long and even: 16 rows are 8 + 8, not 14 + 2. */
static int evenly(int whole, int most) { return ceil_div(whole, ceil_div(whole, int_max(most, 1))); }

/* Rows of 4,096 bytes or a multiple apart meet in the same few sets of the first cache: they are copied first. */
static int collide(ptrdiff_t ld) { return ld % 1024 == 0; }

/* Rows that meet few panels are used where they lie; where they are columns of a, as long as those share no sets. */
static int rows_in_place(const Product *t, int panels) {
    if (t->a_cs == 1) return panels <= ROW_PANELS && !collide(t->a_rs);
    return t->a_rs == 1 && panels <= COLUMN_PANELS && t->a_cs <= 1024;
}

/* Panels a task, at most `most`: as many tasks for each thread as for the others, where that goes. */
static int panels_for_all(int panels, int most, int threads) {
    for (int rounds = 1, each; (each = ceil_div(panels, rounds * threads)) > 1; rounds++)
        if (each <= most && ceil_div(panels, each) % threads == 0) return each;
    return 1;
}

static Cut cut_make(const CpuState *cpu, const Product *t, int threads) {
    Cut g = {.parts = t->gated ? 2 : 1, .threads = threads, .step = evenly(t->M, cpu->isa->tile_rows)};
    int tiles = ceil_div(t->M, g.step), width = t->N / g.parts, panels = panels_of(width);
    /* k: even blocks of whole vectors, or of whole runs, and of one run if all columns fit then */
    int unit = t->mode == SGEMM_ADD ? SGEMM_RUN : 16, k_most = int_max(cpu->k_block / unit, 1) * unit;
    if (t->mode == SGEMM_ADD && panels * SGEMM_PANEL <= cpu->block_floats / SGEMM_RUN) k_most = SGEMM_RUN;
    g.k_block = ceil_div(evenly(t->K, k_most), unit) * unit;
    g.k_run = t->mode == SGEMM_ADD ? SGEMM_RUN : g.k_block;
    g.chain_apart = (t->gated && !t->c) || (t->residual && t->residual == t->c && t->K > g.k_block);
    g.stream = t->panels && t->a_cs == 1 && tiles <= STREAM_TILES;
    g.direct = !t->panels && t->b_cs == 1 && t->N % SGEMM_LANES == 0 && tiles <= DIRECT_TILES && !collide(t->b_rs);
    g.copied = !g.stream && !rows_in_place(t, panels * g.parts);
    g.k_slab = g.chain_apart || g.stream ? t->K : g.k_block;
    g.rows_slab = g.step * (g.copied ? evenly(tiles, cpu->slab_floats / ((g.k_slab + 1) * SGEMM_LANES)) : tiles);

    int most =
        int_min(cpu->block_floats / g.k_block, g.chain_apart ? CHAIN_COLUMNS : COLUMNS_MAX) / g.parts / SGEMM_PANEL;
    if (threads > 1) {
        int even = panels / (threads * TASKS_A_THREAD), least = g.stream ? 1 : COLUMNS_MIN / g.parts / SGEMM_PANEL;
        most = int_min(most, int_max(even, least));
        most = panels_for_all(panels, most, threads);
    }
    g.columns = evenly(panels, most) * SGEMM_PANEL;
    if (threads == 1 && g.copied && g.columns >= width) g.rows_slab = int_min(g.rows_slab, PACK_TILES * g.step);
    int n_columns = ceil_div(width, g.columns),
        row_tasks = n_columns < threads ? ceil_div(threads * TASKS_A_THREAD, n_columns) : 1;
    g.rows = ceil_div(ceil_div(g.rows_slab, row_tasks), g.step) * g.step;
    if (g.chain_apart) g.rows = int_min(g.rows, CHAIN_FLOATS / (g.parts * g.columns) / g.step * g.step);
    return g;
}

/* Tiles [tile, tile + PACK_TILES) of the slab. */
static void slab_pack(const Job *j, const Block *s, int tile) {
    const Product *t = j->t;
    int m = s->slab_m + tile * j->cut.step, rows = int_min(PACK_TILES * j->cut.step, s->m1 - m);
    int depth = int_min(j->cut.k_slab, t->K - s->slab_k);
    const float *a = t->a + m * t->a_rs + s->slab_k * t->a_cs;
    float *to = s->slab + tile * slab_tile(j, s);
    if (!panel_is_bf16(t)) {
        j->cpu->isa->sgemm_pack_rows(to, rows, j->cut.step, depth, a, t->a_rs, t->a_cs);
        return;
    }
    for (int i = 0; i < rows; i++) {
        float *row = to + i / j->cut.step * slab_tile(j, s) + i % j->cut.step * depth;
        memcpy(row, a + i * t->a_rs, sizeof(float) * (size_t)depth);
    }
}

/* Inside a team.  Rows are the fast index, so that a thread's next task may find its columns of b packed.  Slabs take
 * turns: a thread that has no task left begins to pack the next one, and only then waits for the others. */
static void team_run(const Job *j, float *memory) {
    const Cut *g = &j->cut;
    int width = j->t->N / g->parts, turn = 0;
    Own own = {memory, memory + j->cpu->block_floats, -1};
    for (int k = 0; k < j->t->K; k += g->k_slab, own.packed = -1)
        for (int top = 0; top < j->t->M; top += g->rows_slab, turn = !turn && g->threads > 1) {
            Block s = {.slab_m = top, .slab_k = k, .slab = j->slab + turn * SLAB_FLOATS};
            s.m1 = int_min(top + g->rows_slab, j->t->M);
            int tiles = g->copied ? ceil_div(s.m1 - top, g->step) : 0, n_rows = ceil_div(s.m1 - top, g->rows);
            if (g->copied || k > 0) {
#pragma omp for schedule(dynamic, 1)
                for (int tile = 0; tile < tiles; tile += PACK_TILES) slab_pack(j, &s, tile);
            }
#pragma omp for schedule(dynamic, 1) nowait
            for (int task = 0; task < n_rows * ceil_div(width, g->columns); task++) {
                Block b = s;
                b.m0 = top + task % n_rows * g->rows, b.m1 = int_min(b.m0 + g->rows, s.m1);
                b.n0 = task / n_rows * g->columns, b.columns = int_min(g->columns, width - b.n0);
                task_run(j, b, &own);
            }
        }
}

void product_run(Device *dev, const Product *t, void *scratch) {
    if (t->M <= 0 || t->N <= 0) return;
    if (t->K < 1 || t->K > SGEMM_K_MAX) {
        device_fail(dev, "product", "products of an element must number 1 to 65536");
        return;
    }
    const CpuState *cpu = cpu_state(dev);
    int threads = cpu_threads_for(dev, 2.0 * t->M * t->N * t->K);
    Job j = {cpu, t, cut_make(cpu, t, threads), scratch};
    float *own = (float *)scratch + SLABS * SLAB_FLOATS;
    if (threads == 1) {
        team_run(&j, own);
        return;
    }
#pragma omp parallel num_threads(threads)
    team_run(&j, own + own_floats(cpu) * (size_t)cpu_thread());
}

void cpu_sgemm(Device *dev, int M, int N, int K, const float *a, ptrdiff_t a_rs, ptrdiff_t a_cs, const float *b,
               ptrdiff_t b_rs, ptrdiff_t b_cs, float *c, ptrdiff_t ldc, SgemmMode mode, void *scratch) {
    Product t = {.M = M,
                 .N = N,
                 .K = K,
                 .a = a,
                 .a_rs = a_rs,
                 .a_cs = a_cs,
                 .b = b,
                 .b_rs = b_rs,
                 .b_cs = b_cs,
                 .c = c,
                 .ldc = ldc,
                 .mode = mode};
    product_run(dev, &t, scratch);
}
