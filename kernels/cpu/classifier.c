/* classifier.c - head product, loss of a target range and its gradient, in chunks of rows: the logits of a chunk are
 * computed, turned into their gradient in place and multiplied on while they are still in the cache. */
#include "kernels/cpu/ops.h"

#include <string.h>

enum { CHUNK_FLOATS = 4 << 20, CHUNK_ROWS_MIN = 512, CHUNK_ROWS_MAX = 1024 };

/* Rows a chunk: enough of them that packing the weight and passing over dweight once a chunk is cheap, few enough for the
 * last cache, or, of a large vocabulary, for memory; whole runs of SGEMM_ADD. */
static int chunk_rows(int N, int Vp) {
    int rows = int_min(CHUNK_ROWS_MAX, int_max(CHUNK_ROWS_MIN, CHUNK_FLOATS / int_max(Vp, 1)));
    return int_min(rows / SGEMM_RUN * SGEMM_RUN, int_max(N, 1));
}

/* A bound on chunk_rows() * Vp that grows with N and Vp, so that what fits the limits fits every smaller shape. */
static size_t classifier_bytes(const Device *dev, int N, int Vp) {
    size_t all = (size_t)int_min(N, CHUNK_ROWS_MAX) * (size_t)Vp, chunk = (size_t)CHUNK_ROWS_MIN * (size_t)Vp;
    if (chunk < CHUNK_FLOATS) chunk = CHUNK_FLOATS;
    return round_up(product_scratch(dev), 64) + sizeof(float) * (all < chunk ? all : chunk);
}

size_t cpu_classifier_workspace(const Device *dev, const KernelLimits *limits) {
    return classifier_bytes(dev, limits->N, limits->Vp);
}

static int classifier_usable(Device *dev, const Weight *w, int V, int gradient) {
    const char *why = NULL;
    if (w->dtype != DTYPE_F32 && w->dtype != DTYPE_BF16) why = "the head is float32, or bfloat16 prepared";
    else if (gradient && w->layout != WEIGHT_ROWS) why = "a prepared weight is for inference only";
    else if (V < 1 || V > w->rows || V > SGEMM_K_MAX) why = "V must be 1 to the rows of the weight and at most 65536";
    if (why) device_fail(dev, "classifier", why);
    return !why;
}

void cpu_classifier(Device *dev, void *losses, void *dinp, void *dweight, const void *inp, const Weight *w,
                    const int32_t *lo, const int32_t *hi, int N, int V) {
    char *scratch = cpu_scratch(dev, "classifier", classifier_bytes(dev, N, w->rows));
    int   gradient = dinp || dweight;
    if (!scratch || !classifier_usable(dev, w, V, gradient)) return;
    const CpuOps *ops = cpu_ops(dev);
    const int     C = w->cols, chunk = chunk_rows(N, w->rows);
    ptrdiff_t     ld = w->rows;
    float        *logits = (float *)(scratch + round_up(product_scratch(dev), 64));
    for (int n = 0; n < N; n += chunk) {
        int          rows = int_min(chunk, N - n);
        const float *x = (const float *)inp + (ptrdiff_t)n * C;
        cpu_matmul_rows(dev, logits, ld, x, w, 0, V, rows, scratch);
#pragma omp parallel for num_threads(cpu_threads_for(dev, 40.0 * rows * V)) schedule(static)
        for (int i = 0; i < rows; i++)
            ((float *)losses)[n + i] = ops->range_loss(logits + i * ld, lo[n + i], hi[n + i], V, gradient,
                                                       i + 1 < rows ? logits + (i + 1) * ld : NULL);
        if (dinp)
            cpu_sgemm(dev, rows, C, V, logits, ld, 1, w->data, C, 1, (float *)dinp + (ptrdiff_t)n * C, C, SGEMM_STORE,
                      scratch);
        if (dweight) cpu_sgemm(dev, V, C, rows, logits, 1, ld, x, C, 1, dweight, C, SGEMM_ADD, scratch);
    }
}
