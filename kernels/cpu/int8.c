/* int8.c - products with weights of 8 bits: rows of activations are quantized, panels of the weight stream past them.
 * Memory is what such products wait for, so a panel is read once for up to ROWS_CHUNK rows. */
#include "kernels/cpu/int8.h"
#include "kernels/cpu/ops.h"

#include <stdlib.h>
#include <string.h>

enum {
    ROWS_CHUNK = 512,
    TILES_ONE = 3, /* that meet a panel one after the other */
    K_BLOCK = 1024 /* products of a tile: the panel and its rows stay in the first cache */
};

static int padded_cols(int cols) { return (int)round_up((size_t)cols, 16); }

/* ---- the weight ---------------------------------------------------------------------------------------------------- */

static size_t panel_bytes(int rows, int cols) {
    return round_up(round_up((size_t)rows, SGEMM_PANEL) * (size_t)padded_cols(cols), 64);
}

size_t int8_weight_bytes(int rows, int cols) {
    return panel_bytes(rows, cols) + round_up((size_t)rows, SGEMM_PANEL) * (sizeof(float) + sizeof(int32_t));
}

Int8Weight int8_weight_at(const void *storage, int rows, int cols) {
    const char *after = (const char *)storage + panel_bytes(rows, cols);
    return (Int8Weight){storage, (const float *)(const void *)after,
                        (const int32_t *)(const void *)(after + round_up((size_t)rows, SGEMM_PANEL) * sizeof(float))};
}

/* Row r of w into its column of its panel; `bytes` holds a row. */
static void row_prepare(const CpuInt8 *code, int8_t *panel, float *scale, int32_t *offset_sum, const float *w, int r,
                        int cols, uint8_t *bytes) {
    int padded = padded_cols(cols), sum = 0;
    *scale = code->quantize(bytes, w, cols, padded, 0);
    for (int k = 0; k < padded; k++) sum += (int8_t)bytes[k];
    *offset_sum = 128 * sum;
    for (int k = 0; k < padded; k += INT8_GROUP)
        memcpy(panel + (k * SGEMM_PANEL + r % SGEMM_PANEL * INT8_GROUP), bytes + k, INT8_GROUP);
}

void int8_weight_prepare(Device *dev, void *storage, const float *w, int rows, int cols) {
    const CpuInt8 *code = cpu_state(dev)->int8;
    Int8Weight     at = int8_weight_at(storage, rows, cols);
    size_t         panel = (size_t)padded_cols(cols) * SGEMM_PANEL;
    memset(storage, 0, int8_weight_bytes(rows, cols));
    int failed = 0;
#pragma omp parallel num_threads(cpu_threads_for(dev, 8.0 * rows * cols)) reduction(| : failed)
    {
        uint8_t *bytes = malloc((size_t)padded_cols(cols));
        failed = !bytes;
#pragma omp for schedule(static)
        for (int r = 0; r < rows; r++)
            if (bytes)
                row_prepare(code, (int8_t *)storage + (size_t)(r / SGEMM_PANEL) * panel, (float *)at.scale + r,
                            (int32_t *)at.offset_sum + r, w + (ptrdiff_t)r * cols, r, cols, bytes);
        free(bytes);
    }
    if (failed) device_fail(dev, "weight_prepare", "out of memory");
}

/* ---- products ------------------------------------------------------------------------------------------------------ */

typedef struct {
    const CpuInt8 *code;
    const CpuIsa  *isa;
    Int8Weight     w;
    int            M, rows, cols, padded;
    float         *out, *gated;
    const float   *residual;
    uint8_t       *q;         /* (M, padded) */
    float         *row_scale; /* (M) */
} Int8Job;

size_t int8_scratch(int N, int cols) {
    size_t rows = (size_t)int_min(N, ROWS_CHUNK);
    return round_up(sizeof(float) * rows, 64) + rows * (size_t)padded_cols(cols);
}

/* Rows [m, m + rows) of panel p of the weight, as floats at `to`, rows ld apart.  next: the panel that comes after, of
 * which the first two tiles fetch a half each; below 0: nothing. */
static void panel_rows(const Int8Job *j, int p, int next, int m, int rows, float *to, ptrdiff_t ld, const float *add) {
    int32_t       acc[TILES_ONE * INT8_ROWS_MAX * SGEMM_PANEL];
    const int     column = p * SGEMM_PANEL, n = int_min(SGEMM_PANEL, j->rows - column);
    const int     tiles = ceil_div(rows, j->code->tile_rows), step = ceil_div(rows, tiles); /* evenly */
    const int     block = (int)round_up((size_t)ceil_div(j->padded, ceil_div(j->padded, K_BLOCK)), INT8_GROUP);
    const int8_t *panel = j->w.panels + (ptrdiff_t)column * j->padded, *soon = NULL;
    if (next >= 0 && tiles > 1) soon = j->w.panels + (ptrdiff_t)next * SGEMM_PANEL * j->padded;
    for (int k = 0; k < j->padded; k += block) {
        int       depth = int_min(block, j->padded - k);
        ptrdiff_t half = (ptrdiff_t)depth * SGEMM_PANEL / 2, at = (ptrdiff_t)k * SGEMM_PANEL;
        for (int i = 0, t = 0; i < rows; i += step, t++)
            j->code->tile(acc + i * SGEMM_PANEL, k > 0, int_min(step, rows - i), depth / INT8_GROUP,
                          j->q + (ptrdiff_t)(m + i) * j->padded + k, j->padded, panel + at,
                          soon && t < 2 ? soon + at + t * half : NULL);
    }
    j->code->scale(to, ld, add, acc, j->code->offset ? j->w.offset_sum + column : NULL, j->row_scale + m,
                   j->w.scale + column, rows, n);
}

/* Panel p of the left half and of the right, gated. */
static void panels_gated(const Int8Job *j, int p, int next, int m, int rows) {
    float pair[TILES_ONE * INT8_ROWS_MAX * 2 * SGEMM_PANEL];
    int   F = j->rows / 2, right = F / SGEMM_PANEL + p;
    panel_rows(j, p, m ? -1 : right, m, rows, pair, 2 * SGEMM_PANEL, NULL);
    panel_rows(j, right, next, m, rows, pair + SGEMM_PANEL, 2 * SGEMM_PANEL, NULL);
    for (int i = 0; i < rows; i++)
        j->isa->swiglu(j->gated + (ptrdiff_t)(m + i) * F + p * SGEMM_PANEL, pair + i * 2 * SGEMM_PANEL,
                       pair + i * 2 * SGEMM_PANEL + SGEMM_PANEL, SGEMM_PANEL);
}

static void team_run(const Int8Job *j, const float *inp) {
    int panels = ceil_div(j->gated ? j->rows / 2 : j->rows, SGEMM_PANEL);
    int step = ceil_div(j->M, ceil_div(j->M, TILES_ONE * j->code->tile_rows)); /* evenly */
#pragma omp for schedule(static)
    for (int m = 0; m < j->M; m++)
        j->row_scale[m] = j->code->quantize(j->q + (ptrdiff_t)m * j->padded, inp + (ptrdiff_t)m * j->cols, j->cols,
                                            j->padded, j->code->offset);
#pragma omp for schedule(static) nowait
    for (int p = 0; p < panels; p++)
        for (int m = 0; m < j->M; m += step) {
            int       rows = int_min(step, j->M - m);
            int       next = m || p + 1 == panels ? -1 : p + 1; /* fetched once, by the first rows */
            ptrdiff_t at = (ptrdiff_t)m * j->rows + p * SGEMM_PANEL;
            if (j->gated) panels_gated(j, p, next, m, rows);
            else panel_rows(j, p, next, m, rows, j->out + at, j->rows, j->residual ? j->residual + at : NULL);
        }
}

void int8_product(Device *dev, float *out, float *gated, const float *residual, const float *inp, const Weight *w, int N,
                  void *scratch) {
    for (int n = 0; n < N; n += ROWS_CHUNK) {
        ptrdiff_t at = (ptrdiff_t)n * w->rows;
        Int8Job   j = {.code = cpu_state(dev)->int8,
                       .isa = cpu_isa(dev),
                       .w = int8_weight_at(w->data, w->rows, w->cols),
                       .M = int_min(N - n, ROWS_CHUNK),
                       .rows = w->rows,
                       .cols = w->cols,
                       .padded = padded_cols(w->cols),
                       .out = out ? out + at : NULL,
                       .gated = gated ? gated + at / 2 : NULL,
                       .residual = residual ? residual + at : NULL,
                       .row_scale = scratch};
        j.q = (uint8_t *)scratch + round_up(sizeof(float) * (size_t)int_min(N, ROWS_CHUNK), 64);
        int threads = cpu_threads_for(dev, (2.0 + 0.5 * j.M) * j.rows * j.cols); /* memory, then arithmetic */
        const float *rows = inp + (ptrdiff_t)n * w->cols;
        if (threads == 1) {
            team_run(&j, rows);
        } else {
#pragma omp parallel num_threads(threads)
            team_run(&j, rows);
        }
    }
}
