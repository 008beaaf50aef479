/* matmul.c - products: blocking, packing and threads around the register tile of CpuIsa, and the operations made of
 * products.
 *
 * b is laid out as panels of SGEMM_PANEL columns, k after k, so that a tile streams it; a prepared weight is stored so.
 * A task is a block of c; inside it k advances in blocks of K_BLOCK, each continuing the element's one chain from c, so
 * that the slice of b and the rows of a in use stay in the caches.  Who computes a block, and in which tile, changes no
 * bit. */
#include "kernels/cpu/cpu.h"

enum {
    LANES = 16,          /* of a gather */
    GATHER_FROM = 2,     /* panels */
    K_BLOCK = 256,       /* 14 rows of a: 14 KiB, half of L1 */
    COLUMNS_BLOCK = 256, /* K_BLOCK x COLUMNS_BLOCK of b: 256 KiB, a quarter of L2 */
    ROWS_BLOCK = 224,
    ROWS_CHUNK = 1024,   /* rows a pass of matmul_swiglu when gate_up is not kept */
    PACK_FLOATS = 1 << 21, /* b packed a pass: all columns of the small presets' weights, always at least a panel */
    TASK_FLOATS = ROWS_BLOCK * COLUMNS_BLOCK + LANES * K_BLOCK /* a thread's own: a block of c, rows of a */
};

/* A product as cpu.h states it.  residual: c = residual + chain (SGEMM_ADD has c itself there). */
typedef struct {
    const CpuIsa *isa;
    int           M, N, K;
    const float  *a;
    ptrdiff_t     a_rs, a_cs;
    const float  *panels; /* b, packed: panel q at panels + q * K * SGEMM_PANEL */
    float        *c;
    ptrdiff_t     ldc;
    const float  *residual;
    ptrdiff_t     ldr;
    SgemmMode     mode;
} Product;

static int imin(int a, int b) { return a < b ? a : b; }
static int ceil_div(int a, int b) { return (a + b - 1) / b; }

/* A panel of b, n <= SGEMM_PANEL columns, padded with zeros. */
static void panel_pack(const CpuIsa *isa, float *dst, int n, int k, const float *b, ptrdiff_t b_rs, ptrdiff_t b_cs) {
    for (int j = 0; j < SGEMM_PANEL; j += LANES)
        isa->sgemm_gather(dst + j, SGEMM_PANEL, n > j ? imin(LANES, n - j) : 0, k, b + j * b_cs, b_rs, b_cs);
}

/* Rows a tile, evenly: 16 rows are 8 + 8, not 14 + 2. */
static int rows_per_tile(int rows, int tile_rows) { return ceil_div(rows, ceil_div(rows, tile_rows)); }

/* One k block of one block of c.  When enough panels will read them, rows of a are gathered k after k first: the tile
 * then walks one stream instead of 14, which lie in the same few cache sets when the row length is a power of two. */
static void block_k(const Product *t, int m0, int m1, int n0, int n1, int k0, int k1, float *c, ptrdiff_t ldc,
                    SgemmMode mode, float *a_rows) {
    int step = rows_per_tile(m1 - m0, t->isa->tile_rows), k = k1 - k0;
    int gather = a_rows && n1 - n0 > GATHER_FROM * SGEMM_PANEL;
    for (int m = m0; m < m1; m += step) {
        int          rows = imin(step, m1 - m);
        const float *a = t->a + m * t->a_rs + k0 * t->a_cs;
        ptrdiff_t    a_rs = t->a_rs, a_cs = t->a_cs;
        if (gather) {
            t->isa->sgemm_gather(a_rows, LANES, rows, k, a, a_cs, a_rs);
            a = a_rows, a_rs = 1, a_cs = LANES;
        }
        for (int n = n0; n < n1; n += SGEMM_PANEL)
            t->isa->sgemm_tile(rows, imin(SGEMM_PANEL, n1 - n), k, a, a_rs, a_cs,
                               t->panels + (ptrdiff_t)n * t->K + (ptrdiff_t)k0 * SGEMM_PANEL, SGEMM_PANEL,
                               c + (m - m0) * ldc + (n - n0), ldc, mode);
    }
}

/* The block [m0, m1) x [n0, n1) of c, n0 a multiple of SGEMM_PANEL.  When something is to be added after a chain longer
 * than K_BLOCK, the chain grows in own (a thread's TASK_FLOATS). */
static void block_compute(const Product *t, int m0, int m1, int n0, int n1, float *own) {
    float *a_rows = own ? own + ROWS_BLOCK * COLUMNS_BLOCK : NULL;
    float *c = t->c + m0 * t->ldc + n0;
    int    apart = t->mode == SGEMM_ADD && t->K > K_BLOCK;
    if (t->mode == SGEMM_ADD && !apart && t->residual != t->c)
        for (int m = m0; m < m1; m++)
            for (int n = n0; n < n1; n++) t->c[m * t->ldc + n] = t->residual[m * t->ldr + n];
    float    *chain = apart ? own : c;
    ptrdiff_t ld = apart ? COLUMNS_BLOCK : t->ldc;
    for (int k = 0; k < t->K; k += K_BLOCK) {
        SgemmMode mode = k ? SGEMM_CHAIN : apart ? SGEMM_STORE : t->mode;
        block_k(t, m0, m1, n0, n1, k, imin(k + K_BLOCK, t->K), chain, ld, mode, a_rows);
    }
    if (apart)
        for (int m = m0; m < m1; m++)
            t->isa->add(t->c + m * t->ldc + n0, t->residual + m * t->ldr + n0, chain + (m - m0) * ld, n1 - n0);
}

/* How the threads cut c: rows first, since a row block re-reads b from L2; columns when rows are few. */
typedef struct {
    int rows, columns; /* a block */
    int n_rows, n_columns;
} Blocks;

static Blocks blocks_cut(const Product *t, int threads) {
    Blocks g;
    int    tile = t->isa->tile_rows;
    g.rows = imin(ROWS_BLOCK, t->M);
    if (threads > 1) { /* about three blocks of rows a thread, each a whole number of tiles, evens out slow cores */
        int even = ceil_div(ceil_div(t->M, threads * 3), tile) * tile;
        g.rows = imin(g.rows, even);
    }
    g.n_rows = ceil_div(t->M, g.rows);
    g.columns = COLUMNS_BLOCK;
    if (g.n_rows < threads) {
        int panels = ceil_div(ceil_div(t->N, SGEMM_PANEL), ceil_div(threads, g.n_rows));
        g.columns = imin(g.columns, panels * SGEMM_PANEL);
    }
    g.n_columns = ceil_div(t->N, g.columns);
    return g;
}

/* Inside a team: packs b (unless b is NULL: packed already), then computes all of c.  Column blocks are the slow index,
 * so that a thread's consecutive tasks read the same part of b. */
static void product_team(const Product *t, const float *b, ptrdiff_t b_rs, ptrdiff_t b_cs, float *pack, Blocks g,
                         float *own) {
    (void)pack;
    if (b) {
#pragma omp for schedule(static)
        for (int n = 0; n < t->N; n += SGEMM_PANEL)
            panel_pack(t->isa, pack + (ptrdiff_t)n * t->K, imin(SGEMM_PANEL, t->N - n), t->K, b + n * b_cs, b_rs, b_cs);
    }
#pragma omp for schedule(dynamic, 1) nowait
    for (int task = 0; task < g.n_rows * g.n_columns; task++) {
        int m = task % g.n_rows * g.rows, n = task / g.n_rows * g.columns;
        block_compute(t, m, imin(m + g.rows, t->M), n, imin(n + g.columns, t->N), own);
    }
}

/* c (M, N); b is packed a pass of columns at a time into the scratch unless t->panels is set. */
static void product_run(Device *dev, Product t, const float *b, ptrdiff_t b_rs, ptrdiff_t b_cs, float *scratch) {
    if (t.M <= 0 || t.N <= 0) return;
    float *pack = scratch, *own = scratch + PACK_FLOATS;
    int    pass = b ? imin(ceil_div(t.N, SGEMM_PANEL), PACK_FLOATS / SGEMM_PANEL / t.K) * SGEMM_PANEL : t.N;
    for (int n = 0; n < t.N; n += pass) {
        Product part = t;
        part.N = imin(pass, t.N - n);
        part.c += n;
        if (part.residual) part.residual += n;
        const float *b_part = b ? b + n * b_cs : NULL;
        if (b) part.panels = pack;
        int    threads = cpu_threads_for(dev, 2.0 * part.M * part.N * part.K);
        Blocks g = blocks_cut(&part, threads);
        if (threads == 1) {
            product_team(&part, b_part, b_rs, b_cs, pack, g, own);
        } else {
#pragma omp parallel num_threads(threads)
            product_team(&part, b_part, b_rs, b_cs, pack, g, own + (ptrdiff_t)cpu_thread() * TASK_FLOATS);
        }
    }
}

size_t cpu_sgemm_scratch(const Device *dev) {
    return sizeof(float) * (PACK_FLOATS + (size_t)device_threads(dev) * TASK_FLOATS);
}

void cpu_sgemm(Device *dev, int M, int N, int K, const float *a, ptrdiff_t a_rs, ptrdiff_t a_cs, const float *b,
               ptrdiff_t b_rs, ptrdiff_t b_cs, float *c, ptrdiff_t ldc, SgemmMode mode, void *scratch) {
    if (K < 1 || K > SGEMM_K_MAX) {
        device_fail(dev, "cpu_sgemm", "products of an element must number 1 to 65536");
        return;
    }
    Product t = {cpu_isa(dev), M, N, K, a, a_rs, a_cs, NULL, c, ldc, mode == SGEMM_ADD ? c : NULL, ldc, mode};
    product_run(dev, t, b, b_rs, b_cs, scratch);
}

size_t cpu_sgemm_serial_scratch(int N, int K) { return (size_t)ceil_div(N, SGEMM_PANEL) * SGEMM_PANEL * (size_t)K; }

void cpu_sgemm_serial(const CpuIsa *isa, int M, int N, int K, const float *a, ptrdiff_t a_rs, ptrdiff_t a_cs,
                      const float *b, ptrdiff_t b_rs, ptrdiff_t b_cs, float *c, ptrdiff_t ldc, SgemmMode mode,
                      float *scratch) {
    if (M <= 0 || N <= 0) return;
    for (int n = 0; n < N; n += SGEMM_PANEL)
        panel_pack(isa, scratch + (ptrdiff_t)n * K, imin(SGEMM_PANEL, N - n), K, b + n * b_cs, b_rs, b_cs);
    /* One block of k: the operands of these small products fit the caches, and no chain is left half done. */
    Product t = {isa, M, N, K, a, a_rs, a_cs, scratch, c, ldc, NULL, 0, mode};
    block_k(&t, 0, M, 0, N, 0, K, c, ldc, mode, NULL);
}

/* ---- operations ---------------------------------------------------------------------------------------------------- */

static int weight_usable(Device *dev, const char *op, const Weight *w) {
    if (device_error(dev)) return 0;
    if (w->dtype != DTYPE_F32) device_fail(dev, op, "the float32 CPU kernels take float32 weights only");
    else if (w->rows < 1 || w->cols < 1 || w->rows > SGEMM_K_MAX || w->cols > SGEMM_K_MAX)
        device_fail(dev, op, "a weight has 1 to 65536 rows and columns");
    else return 1;
    return 0;
}

/* c = (residual +) inp @ w^T for rows [row, row + n_rows) of w */
static void rows_product(Device *dev, float *c, ptrdiff_t ldc, const float *residual, const float *inp, const Weight *w,
                         int row, int n_rows, int N, float *scratch) {
    const float *data = w->data;
    Product      t = {cpu_isa(dev), N, n_rows, w->cols, inp, w->cols, 1, NULL, c, ldc, residual, ldc,
                      residual ? SGEMM_ADD : SGEMM_STORE};
    const float *rows = data + (ptrdiff_t)row * w->cols; /* a panel of 32 rows holds as many floats as the rows do */
    if (w->layout == WEIGHT_PACKED) {
        t.panels = rows;
        rows = NULL;
    }
    product_run(dev, t, rows, 1, w->cols, scratch);
}

void cpu_matmul_rows(Device *dev, float *out, ptrdiff_t ldc, const float *inp, const Weight *w, int row, int n_rows,
                     int N, void *scratch) {
    if (weight_usable(dev, "cpu_matmul_rows", w)) rows_product(dev, out, ldc, NULL, inp, w, row, n_rows, N, scratch);
}

void cpu_matmul_forward(Device *dev, void *out, const void *inp, const Weight *w, int N) {
    float *scratch = cpu_scratch(dev, "matmul_forward", cpu_sgemm_scratch(dev));
    if (!scratch || !weight_usable(dev, "matmul_forward", w)) return;
    rows_product(dev, out, w->rows, NULL, inp, w, 0, w->rows, N, scratch);
}

void cpu_matmul_add_forward(Device *dev, void *out, const void *residual, const void *inp, const Weight *w, int N) {
    float *scratch = cpu_scratch(dev, "matmul_add_forward", cpu_sgemm_scratch(dev));
    if (!scratch || !weight_usable(dev, "matmul_add_forward", w)) return;
    rows_product(dev, out, w->rows, residual, inp, w, 0, w->rows, N, scratch);
}

void cpu_matmul_swiglu_forward(Device *dev, void *out, void *gate_up, const void *inp, const Weight *w, int N) {
    int    F = w->rows / 2, chunk = gate_up ? N : imin(N, ROWS_CHUNK);
    size_t products = cpu_sgemm_scratch(dev), kept = gate_up ? 0 : sizeof(float) * (size_t)chunk * (size_t)w->rows;
    char  *scratch = cpu_scratch(dev, "matmul_swiglu_forward", products + kept);
    if (!scratch || !weight_usable(dev, "matmul_swiglu_forward", w)) return;
    for (int n = 0; n < N; n += chunk) {
        int    rows = imin(chunk, N - n);
        float *pair = gate_up ? gate_up : (float *)(scratch + products);
        rows_product(dev, pair, w->rows, NULL, (const float *)inp + (ptrdiff_t)n * w->cols, w, 0, w->rows, rows,
                     (float *)scratch);
        cpu_swiglu_forward(dev, (float *)out + (ptrdiff_t)n * F, pair, rows, F);
    }
}

size_t cpu_matmul_workspace(const Device *dev, const KernelLimits *limits) {
    return cpu_sgemm_scratch(dev) + sizeof(float) * 2 * (size_t)imin(limits->N, ROWS_CHUNK) * (size_t)limits->F;
}

void cpu_matmul_dgrad(Device *dev, void *dinp, const void *dout, const Weight *w, int N) {
    float *scratch = cpu_scratch(dev, "matmul_dgrad", cpu_sgemm_scratch(dev));
    if (!scratch || !weight_usable(dev, "matmul_dgrad", w)) return;
    if (w->layout != WEIGHT_ROWS) {
        device_fail(dev, "matmul_dgrad", "a prepared weight is for inference only");
        return;
    }
    cpu_sgemm(dev, N, w->cols, w->rows, dout, w->rows, 1, w->data, w->cols, 1, dinp, w->cols, SGEMM_STORE, scratch);
}

void cpu_matmul_wgrad(Device *dev, void *dweight, const void *dout, const void *inp, int N, int rows, int cols) {
    float *scratch = cpu_scratch(dev, "matmul_wgrad", cpu_sgemm_scratch(dev));
    if (!scratch) return;
    for (int n = 0; n < N; n += SGEMM_K_MAX)
        cpu_sgemm(dev, rows, cols, imin(N - n, SGEMM_K_MAX), (const float *)dout + (ptrdiff_t)n * rows, 1, rows,
                  (const float *)inp + (ptrdiff_t)n * cols, cols, 1, dweight, cols, SGEMM_ADD, scratch);
}

void cpu_swiglu_forward(Device *dev, void *out, const void *gate_up, int N, int F) {
    if (device_error(dev)) return;
    const CpuIsa *isa = cpu_isa(dev);
#pragma omp parallel for num_threads(cpu_threads_for(dev, 30.0 * N * F)) schedule(static)
    for (int n = 0; n < N; n++) {
        const float *gate = (const float *)gate_up + (ptrdiff_t)n * 2 * F;
        isa->swiglu((float *)out + (ptrdiff_t)n * F, gate, gate + F, F);
    }
}

void cpu_swiglu_backward(Device *dev, void *dgate_up, const void *dout, const void *gate_up, int N, int F) {
    if (device_error(dev)) return;
    const CpuIsa *isa = cpu_isa(dev);
#pragma omp parallel for num_threads(cpu_threads_for(dev, 40.0 * N * F)) schedule(static)
    for (int n = 0; n < N; n++) {
        const float *gate = (const float *)gate_up + (ptrdiff_t)n * 2 * F;
        float       *dgate = (float *)dgate_up + (ptrdiff_t)n * 2 * F;
        isa->swiglu_backward(dgate, dgate + F, (const float *)dout + (ptrdiff_t)n * F, gate, gate + F, F);
    }
}

/* ---- prepared weights: panels of 32 rows ---------------------------------------------------------------------------- */

size_t cpu_weight_prepared_bytes(const Device *dev, int rows, int cols, DType dtype) {
    (void)dev;
    return dtype == DTYPE_F32 ? sizeof(float) * cpu_sgemm_serial_scratch(rows, cols) : 0;
}

void cpu_weight_prepare(Device *dev, Weight *out, void *storage, DType dtype, const Weight *src) {
    if (!weight_usable(dev, "weight_prepare", src)) return;
    if (dtype != DTYPE_F32 || src->layout != WEIGHT_ROWS) {
        device_fail(dev, "weight_prepare", "the float32 CPU kernels prepare float32 rows as float32 only");
        return;
    }
    const CpuIsa *isa = cpu_isa(dev);
    const float  *data = src->data;
    float        *panels = storage;
#pragma omp parallel for num_threads(cpu_threads_for(dev, 4.0 * src->rows * src->cols)) schedule(static)
    for (int row = 0; row < src->rows; row += SGEMM_PANEL)
        panel_pack(isa, panels + (ptrdiff_t)row * src->cols, imin(SGEMM_PANEL, src->rows - row), src->cols,
                        data + (ptrdiff_t)row * src->cols, 1, src->cols);
    *out = *src;
    out->data = storage;
    out->layout = WEIGHT_PACKED;
}
