/* product.c - c = a b: threads, blocking and packing around the register tile of CpuIsa.
 *
 * Threads take rectangles of c (grid_make), each computed as if the thread were alone: nobody packs for others or
 * waits for them.  Rows of a are packed, tile after tile, into a slab in the last cache, and columns of b into panels of
 * SGEMM_PANEL columns, k after k, which stay in the second cache while tile after tile of the slab meets all of them; what
 * meets too little to pay for its packing is used where it lies (cut_make).  What is packed next is fetched meanwhile.  An
 * element's chain is continued from c between blocks of k (SGEMM_ADD: each block is a chain, added to c), so that who
 * computes which block, and in which tile, changes no bit. */
#include "kernels/cpu/ops.h"

#include <string.h>

enum {
    CHAIN_FLOATS = 96 << 10,
    CHAIN_COLUMNS = 128, /* of a block whose chains grow apart: many rows share what is packed of b */
    COLUMNS_MAX = 512,   /* of a block */
    GROUP_TILES = 8,     /* packed together if all columns meet them at once, and fetched while those before are busy */
    ROW_PANELS = 48,     /* rows of a that meet so few panels are not packed, */
    COLUMN_PANELS = 2,   /* nor columns of a that meet so few for each row of a tile, */
    DIRECT_TILES = 19,   /* nor rows of b that meet so few tiles */
    STREAM_TILES = 5,    /* so few tiles of rows: packed panels are read once, one after the other */
    NEAR_FLOATS = 3072,  /* of a panel are fetched ahead of a single tile then: 12 KiB, a quarter of the first cache */
    SLAB_ROWS = 1024,    /* share what is packed of b */
    PACK_COST = 16,      /* an element packed costs as much as so many multiply-adds, */
    SHARE_COST = 12000,  /* as does a row of c that threads share, each time that it is read and written */
    TURNS_MAX = 4        /* rectangles a thread */
};
#define WAIT (1.0 / 64) /* of a rectangle */

/* A rectangle of c; columns are those of each part. */
typedef struct {
    int rows, columns; /* how many rectangles */
    int m, n;          /* of each, at most */
    int step;          /* rows a tile */
} Grid;

/* How a rectangle is cut. */
typedef struct {
    int parts;              /* 2: columns of the left half of c and the same of the right (gated) */
    int stream;             /* few rows: b panel by panel */
    int copied, kept;       /* a is packed; it stays so for other columns */
    int direct;             /* b is used where it lies */
    int chain_apart;        /* the chain cannot grow in c */
    int step, group;        /* rows a tile; tiles packed together */
    int k_block;            /* of packed b; a run if those are added one after the other */
    int columns;            /* of each part, of packed b */
    int rows_slab, k_slab;  /* of packed a */
} Cut;

/* A thread's work and its memory. */
typedef struct {
    const CpuState *cpu;
    const Product *t;
    Cut cut;
    int m0, m1, n0, n1; /* its rectangle */
    float *slab, *panels, *chain;
} Job;

static size_t own_floats(const CpuState *cpu) { return (size_t)cpu->slab_floats + (size_t)cpu->block_floats + CHAIN_FLOATS; }

size_t product_scratch(const Device *dev) {
    return sizeof(float) * own_floats(cpu_state(dev)) * (size_t)device_threads(dev);
}

/* ---- one block --------------------------------------------------------------------------------------------------- */

/* Rows [m0, m1) of c, columns from n0 on of each part, k [k0, k1) of those packed of a from slab_k on. */
typedef struct {
    int m0, m1, n0, columns, k0, k1, slab_k;
    float *chain; /* element (m0, 0) when it does not grow in c; part p at column p * columns */
} Block;

/* What a tile multiplies: rows from m on, panel p of part `part` of the block's columns, k [k, k_end). */
typedef struct {
    int m, rows, part, p, k, k_end;
    const float *a;
    ptrdiff_t a_rs, a_cs;
    ptrdiff_t near;    /* floats that b is fetched ahead */
    const float *soon; /* fetched meanwhile: two lines each of so many places, so far apart */
    ptrdiff_t ld_soon;
    int n_soon;
} Operands;

static int panels_of(int columns) { return ceil_div(columns, SGEMM_PANEL); }
static int chain_ld(const Job *j, const Block *b) { return j->cut.parts * b->columns; }

static TileOut tile_out(const Job *j, const Block *b, const Operands *x, int column) {
    const Product *t = j->t;
    int run = t->mode == SGEMM_ADD, starts = run || x->k == 0, ends = run || x->k_end == t->K;
    float *out = t->c ? t->c + x->m * t->ldc + column : NULL, *chain = out;
    TileOut o = {.ld_chain = t->ldc, .ld_out = t->ldc, .near = x->near};
    o.soon = x->soon, o.ld_soon = x->ld_soon, o.n_soon = x->n_soon;
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
static const float *panel_at(const Job *j, const Block *b, int part, int p, int k) {
    const Product *t = j->t;
    if (!t->panels)
        return j->panels + (ptrdiff_t)((part * panels_of(b->columns) + p) * (b->k1 - b->k0) + k - b->k0) * SGEMM_PANEL;
    ptrdiff_t column = column_of(j, b, part) + p * SGEMM_PANEL, element = column * t->K + (ptrdiff_t)k * SGEMM_PANEL;
    return (const float *)t->panels + (panel_is_bf16(t) ? element / 2 : element);
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
    const float *panel = j->cut.direct ? column_at(j, b, x->part, n, x->k) : panel_at(j, b, x->part, x->p, x->k);
    if (panel_is_bf16(t)) isa->sgemm_tile_bf16(x->rows, columns, depth, x->a, x->a_rs, (const uint16_t *)panel, &o);
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

/* ---- what is fetched while tiles run ----------------------------------------------------------------------------- */

/* Strips of two lines each of `places`, ld apart; `each` strips of a part.  Every `spread`-th of the last tiles fetches
 * one, so that the most is still there when it is used. */
typedef struct {
    const float *at;
    ptrdiff_t part, strip, ld;
    int strips, each, places;
    int spread;
} Fetch;

static void fetch_spread(Fetch *f, int tiles, int row) {
    f->spread = int_max(1, int_min(row, tiles / int_max(f->strips, 1)));
}

/* The strip, if any, for the tile after which so many are left. */
static int fetch_take(Operands *x, const Fetch *f, int left) {
    int i = left / f->spread;
    if (left % f->spread || i >= f->strips) return 0;
    i = f->strips - 1 - i;
    x->soon = f->at + i / f->each * f->part + i % f->each * f->strip, x->ld_soon = f->ld, x->n_soon = f->places;
    return 1;
}

/* (count, depth) elements of a or b: at[i * stride + k * k_stride] */
static Fetch fetch_of(const float *at, int count, int depth, ptrdiff_t stride, ptrdiff_t k_stride) {
    Fetch f = {.at = at, .strip = SGEMM_PANEL};
    if (k_stride == 1) f.ld = stride, f.places = count, f.each = panels_of(depth);
    else if (stride == 1) f.ld = k_stride, f.places = depth, f.each = panels_of(count);
    f.strips = f.each;
    return f;
}

/* Columns of b that are packed, or read as panels, after the block: the next k, or else the next columns. */
static Fetch fetch_columns(const Job *j, const Block *b) {
    const Product *t = j->t;
    const Cut *g = &j->cut;
    Block next = *b;
    if (b->k1 < int_min(b->slab_k + g->k_slab, t->K)) next.k0 = b->k1;
    else next.n0 = b->n0 + g->columns, next.k0 = b->slab_k;
    if (next.n0 >= j->n1) next.n0 = j->n0, next.k0 = b->k1 < t->K ? b->k1 : b->m1 < j->m1 ? 0 : t->K;
    next.k1 = int_min(next.k0 + g->k_block, t->K);
    next.columns = int_min(g->columns, j->n1 - next.n0);
    int depth = next.k1 - next.k0;
    if (depth <= 0) return (Fetch){0};
    Fetch f;
    if (t->panels) {
        int words = panel_is_bf16(t) ? SGEMM_PANEL / 2 : SGEMM_PANEL; /* a k */
        f = (Fetch){.at = panel_at(j, &next, 0, 0, next.k0), .strip = (ptrdiff_t)t->K * words, .ld = SGEMM_PANEL,
                    .each = panels_of(next.columns), .places = ceil_div(depth * words, SGEMM_PANEL)};
        f.part = (ptrdiff_t)(t->N / g->parts / SGEMM_PANEL) * f.strip;
    } else {
        f = fetch_of(column_at(j, &next, 0, 0, next.k0), next.columns, depth, t->b_cs, t->b_rs);
        f.part = t->N / g->parts * t->b_cs;
    }
    f.strips = f.each * g->parts;
    return f;
}

/* Where a tile of rows is packed. */
static float *slab_at(const Job *j, const Block *b, int m) {
    const Cut *g = &j->cut;
    int tile = (m - b->m0) / g->step, before = (b->k0 - b->slab_k) / g->k_block * (g->rows_slab / g->step);
    if (!g->kept) return j->slab + (ptrdiff_t)(tile % g->group) * (b->k1 - b->k0 + 1) * SGEMM_LANES;
    return j->slab + ((ptrdiff_t)before * (g->k_block + 1) + (ptrdiff_t)tile * (b->k1 - b->k0 + 1)) * SGEMM_LANES;
}

/* Rows [m, m1) of the block, as they lie; or a packed tile, a piece for each panel that the one before meets. */
static Fetch fetch_rows(const Job *j, const Block *b, int m, int m1) {
    const Product *t = j->t;
    int depth = b->k1 - b->k0, all = panels_of(b->columns) * j->cut.parts, places = ceil_div(depth, 2 * all);
    if (m >= m1 || !j->cut.copied) return (Fetch){0};
    if (j->cut.kept)
        return (Fetch){.at = slab_at(j, b, m), .ld = SGEMM_PANEL, .strip = places * SGEMM_PANEL,
                       .strips = all, .each = all, .places = places};
    return fetch_of(t->a + m * t->a_rs + b->k0 * t->a_cs, m1 - m, depth, t->a_rs, t->a_cs);
}

/* ---- a block's tiles --------------------------------------------------------------------------------------------- */

static void rows_pack(const Job *j, const Block *b, int m, int m1) {
    const Product *t = j->t;
    int depth = b->k1 - b->k0;
    const float *a = t->a + m * t->a_rs + b->k0 * t->a_cs;
    if (!panel_is_bf16(t)) {
        j->cpu->isa->sgemm_pack_rows(slab_at(j, b, m), m1 - m, j->cut.step, depth, a, t->a_rs, t->a_cs);
        return;
    }
    for (int i = 0; m + i < m1; i++) {
        float *row = slab_at(j, b, m + i) + i % j->cut.step * depth;
        memcpy(row, a + i * t->a_rs, sizeof(float) * (size_t)depth);
    }
}

static void columns_pack(const Job *j, const Block *b) {
    const Product *t = j->t;
    for (int part = 0; part < j->cut.parts; part++)
        j->cpu->isa->sgemm_pack_panel((float *)(uintptr_t)panel_at(j, b, part, 0, b->k0), b->columns, b->k1 - b->k0,
                                      column_at(j, b, part, 0, b->k0), t->b_rs, t->b_cs);
}

/* Rows from x->m on through all panels.  left, left_rows: tiles after these of the block, of its packed rows. */
static void rows_run(const Job *j, const Block *b, Operands *x, const Fetch *columns, int left, const Fetch *rows,
                     int left_rows) {
    const Cut *g = &j->cut;
    const Product *t = j->t;
    int panels = panels_of(b->columns), all = panels * g->parts;
    x->k = b->k0, x->k_end = b->k1;
    x->a = t->a + x->m * t->a_rs + b->k0 * t->a_cs, x->a_rs = t->a_rs, x->a_cs = t->a_cs;
    if (g->copied) {
        int bf16 = panel_is_bf16(t);
        x->a = slab_at(j, b, x->m), x->a_rs = bf16 ? b->k1 - b->k0 : 1, x->a_cs = bf16 ? 1 : SGEMM_LANES;
    }
    for (int i = 0; i < all; i++) {
        x->part = i / panels, x->p = i % panels, x->soon = NULL;
        if (!fetch_take(x, columns, left + all - 1 - i)) fetch_take(x, rows, left_rows + all - 1 - i);
        tile_run(j, b, x);
    }
    if (t->gated && b->k1 == t->K) gate(j, b, x->m, x->rows);
}

static void block_run(const Job *j, const Block *b) {
    const Cut *g = &j->cut;
    int packing = g->copied && !g->kept, group = (packing ? g->group : 1) * g->step;
    int all = panels_of(b->columns) * g->parts, tiles = ceil_div(b->m1 - b->m0, g->step) * all;
    Fetch columns = fetch_columns(j, b);
    fetch_spread(&columns, tiles, all);
    Operands x = {.m = b->m0};
    while (x.m < b->m1) {
        int m1 = int_min(x.m + group, b->m1), left = ceil_div(m1 - x.m, g->step) * all;
        if (packing) rows_pack(j, b, x.m, m1);
        Fetch rows = fetch_rows(j, b, m1, int_min(m1 + group, b->m1));
        fetch_spread(&rows, left, all);
        for (; x.m < m1; x.m += g->step) {
            x.rows = int_min(g->step, m1 - x.m);
            tiles -= all, left -= all;
            rows_run(j, b, &x, &columns, tiles, &rows, left);
        }
    }
}

/* A few rows: every panel is read once and in order.  One tile of them waits for b, of which it fetches what it comes to
 * shortly; several have the time to fetch as much into the second cache as they are reading. */
static void block_stream(const Job *j, const Block *b) {
    const Product *t = j->t;
    const int k_floats = panel_is_bf16(t) ? SGEMM_PANEL / 2 : SGEMM_PANEL, one_tile = b->m1 - b->m0 <= j->cut.step;
    Operands x = {.a_rs = t->a_rs, .a_cs = 1, .near = one_tile ? NEAR_FLOATS : 0, .ld_soon = SGEMM_PANEL};
    for (x.part = 0; x.part < j->cut.parts; x.part++)
        for (x.p = 0; x.p < panels_of(b->columns); x.p++)
            for (x.k = 0; x.k < t->K; x.k = x.k_end) {
                x.k_end = int_min(x.k + j->cut.k_block, t->K);
                int floats = (x.k_end - x.k) * k_floats;
                if (!one_tile) x.soon = panel_at(j, b, x.part, x.p, x.k) + floats, x.n_soon = floats / SGEMM_PANEL;
                for (x.m = b->m0; x.m < b->m1; x.m += j->cut.step) {
                    x.rows = int_min(j->cut.step, b->m1 - x.m);
                    x.a = t->a + x.m * t->a_rs + x.k;
                    tile_run(j, b, &x);
                }
            }
    if (t->gated) gate(j, b, b->m0, b->m1 - b->m0);
}

/* ---- a thread's rectangle ---------------------------------------------------------------------------------------- */

/* Pieces of `whole` that are at most `most` long and even: 16 rows are 8 + 8, not 14 + 2. */
static int evenly(int whole, int most) { return ceil_div(whole, ceil_div(whole, int_max(most, 1))); }

/* Rows of 4,096 bytes or a multiple apart meet in the same few sets of the first cache: they are copied first. */
static int collide(ptrdiff_t ld) { return ld % 1024 == 0; }

/* Rows that meet few panels are used where they lie; where they are columns of a, as long as those share no sets. */
static int rows_in_place(const CpuIsa *isa, const Product *t, int panels) {
    if (t->a_cs == 1) return panels <= ROW_PANELS && !collide(t->a_rs);
    return t->a_rs == 1 && panels <= COLUMN_PANELS * isa->tile_rows && t->a_cs <= 1024;
}

/* (m, n): the rectangle's rows and columns of each part */
static Cut cut_make(const CpuState *cpu, const Product *t, int step, int m, int n) {
    Cut g = {.parts = t->gated ? 2 : 1, .step = step};
    int tiles = ceil_div(m, step), panels = panels_of(n);
    g.stream = t->panels && t->a_cs == 1 && tiles <= STREAM_TILES;
    /* k: a run; or even blocks of whole vectors, or one if c is passed over once then; of a stream as many as leave half
     * of the second cache to the panel that is read and the one that comes */
    int k_most = int_max((g.stream ? cpu->block_floats / 2 / SGEMM_PANEL : cpu->k_block) / 16, 1) * 16;
    if (!g.stream && t->K <= 2 * k_most) k_most *= 2;
    g.k_block = t->mode == SGEMM_ADD ? SGEMM_RUN : ceil_div(evenly(t->K, k_most), 16) * 16;
    g.chain_apart = (t->gated && !t->c) || (t->residual && t->residual == t->c && t->K > g.k_block);
    g.direct = !t->panels && t->b_cs == 1 && t->N % SGEMM_LANES == 0 && tiles <= DIRECT_TILES && !collide(t->b_rs);

    int most = int_min(cpu->block_floats / g.k_block, g.chain_apart ? CHAIN_COLUMNS : COLUMNS_MAX);
    if (g.stream) most = COLUMNS_MAX;
    g.columns = evenly(panels, most / g.parts / SGEMM_PANEL) * SGEMM_PANEL;
    /* k of the slab: all of it, or what leaves room for enough rows; rows of which c, passed over again and again, stays in
     * the last cache too */
    int blocks = ceil_div(t->K, g.k_block), room = cpu->slab_floats / ((g.k_block + 1) * SGEMM_LANES);
    g.kept = !g.stream && g.columns < n;
    g.copied = !g.stream && !rows_in_place(cpu->isa, t, panels * g.parts) && room >= (g.kept && g.chain_apart ? blocks : 1);
    g.group = int_min(GROUP_TILES, room);
    int wide = blocks, most_tiles = tiles;
    if (g.kept) {
        if (!g.chain_apart) wide = g.direct ? 1 : int_min(blocks, int_max(1, room / int_min(tiles, SLAB_ROWS / step)));
        most_tiles = int_min(most_tiles, int_max(1, room / wide));
    }
    if (g.chain_apart) most_tiles = int_min(most_tiles, CHAIN_FLOATS / (g.parts * g.columns) / step);
    else if (blocks > 1) most_tiles = int_min(most_tiles, cpu->slab_floats / (g.parts * g.columns) / step);
    g.rows_slab = evenly(tiles, most_tiles) * step;
    g.k_slab = wide * g.k_block;
    return g;
}

/* Rectangle i of the grid. */
static void rectangle_run(Job *j, const Grid *grid, int i) {
    j->m0 = i / grid->columns * grid->m, j->m1 = int_min(j->m0 + grid->m, j->t->M);
    j->n0 = i % grid->columns * grid->n, j->n1 = int_min(j->n0 + grid->n, j->t->N / j->cut.parts);
    const Cut *g = &j->cut;
    int K = j->t->K, whole = !g->kept && K <= g->k_block; /* b stays packed */
    Block b = {.chain = g->chain_apart ? j->chain : NULL};
    for (b.m0 = j->m0; b.m0 < j->m1; b.m0 = b.m1)
        for (b.m1 = int_min(b.m0 + g->rows_slab, j->m1), b.slab_k = 0; b.slab_k < K; b.slab_k += g->k_slab)
            for (b.n0 = j->n0; b.n0 < j->n1; b.n0 += g->columns) {
                b.columns = int_min(g->columns, j->n1 - b.n0);
                if (g->stream) {
                    block_stream(j, &b);
                    continue;
                }
                for (b.k0 = b.slab_k; b.k0 < int_min(b.slab_k + g->k_slab, K); b.k0 = b.k1) {
                    b.k1 = int_min(b.k0 + g->k_block, K);
                    if (g->copied && g->kept && b.n0 == j->n0) rows_pack(j, &b, b.m0, b.m1);
                    if (!g->direct && !j->t->panels && !(whole && b.m0 > j->m0)) columns_pack(j, &b);
                    block_run(j, &b);
                }
            }
}

/* ---- threads ----------------------------------------------------------------------------------------------------- */

/* Rectangles of c, of whole panels, taken by threads as they come free: the grid that is done first.  A rectangle is so
 * much work: its multiply-adds, and the m rows of a and n columns of b that its thread packs.  Where a row of c is cut
 * between threads, what the cores fetch ahead on their own belongs to the neighbour, which costs dearly where those have
 * no cache in common.  Threads take equal turns, and in the end wait for a part of a rectangle, since cores differ: more
 * rectangles than threads make the wait short, fewer pack less.  k is never cut: an element's chain is one thread's. */
static Grid grid_make(const CpuState *cpu, const Product *t, int threads) {
    int parts = t->gated ? 2 : 1, panels = panels_of(t->N / parts);
    int passes = t->mode == SGEMM_ADD ? ceil_div(t->K, SGEMM_RUN) : t->K <= 2 * cpu->k_block ? 1 : t->K / cpu->k_block;
    double share = (double)SHARE_COST * passes / t->K;
    Grid best = {0};
    double least = 0;
    int turns = threads == 1 || t->panels ? 1 : TURNS_MAX; /* a prepared weight is one stretch of memory a thread */
    for (int all = threads; all <= turns * threads; all *= 2)
        for (int rows = all; rows >= 1; rows--) {
            Grid g = {.m = ceil_div(t->M, rows), .n = ceil_div(panels, all / rows) * SGEMM_PANEL};
            g.step = evenly(g.m, cpu->isa->tile_rows);
            g.rows = ceil_div(t->M, g.m), g.columns = ceil_div(t->N / parts, g.n);
            double work = (double)g.m * g.n * parts + PACK_COST * (double)(g.m + g.n * parts);
            if (g.columns > 1) work += share * g.m;
            work *= ceil_div(g.rows * g.columns, threads) + WAIT;
            if (!best.rows || work < least) best = g, least = work;
        }
    return best;
}

void product_run(Device *dev, const Product *t, void *scratch) {
    if (t->M <= 0 || t->N <= 0) return;
    if (t->K < 1 || t->K > SGEMM_K_MAX) {
        device_fail(dev, "product", "products of an element must number 1 to 65536");
        return;
    }
    const CpuState *cpu = cpu_state(dev);
    int width = t->N / (t->gated ? 2 : 1), threads = cpu_threads_for(dev, 2.0 * t->M * t->N * t->K);
    Grid grid = grid_make(cpu, t, threads);
    Cut cut = cut_make(cpu, t, grid.step, grid.m, int_min(grid.n, width));
    int all = grid.rows * grid.columns, next = threads = int_min(threads, all);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        Job j = {.cpu = cpu, .t = t, .cut = cut, .slab = (float *)scratch + own_floats(cpu) * (size_t)cpu_thread()};
        j.panels = j.slab + cpu->slab_floats, j.chain = j.panels + cpu->block_floats;
        for (int i = cpu_thread(); i < threads; i += cpu_team()) rectangle_run(&j, &grid, i);
        for (int i = 0; i < all;) {
#pragma omp atomic capture
            i = next++;
            if (i < all) rectangle_run(&j, &grid, i);
        }
    }
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
