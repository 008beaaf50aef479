/* weights.c - weights prepared for inference: panels of SGEMM_PANEL rows, as products stream them, in float32, bfloat16 or
 * 8-bit integers.  Bfloat16 is widened where it is multiplied, exactly.  The instruction that multiplies pairs of it
 * (vdpbf16ps) would round activations too, and adds in an order that machines without it cannot follow bit for bit. */
#include "kernels/cpu/int8.h"
#include "kernels/cpu/ops.h"

#include <string.h>

enum { K_BLOCK = 64 };

size_t cpu_weight_prepared_bytes(const Device *dev, int rows, int cols, DType dtype) {
    (void)dev;
    size_t elements = round_up((size_t)rows, SGEMM_PANEL) * (size_t)cols;
    return dtype == DTYPE_F32    ? sizeof(float) * elements
           : dtype == DTYPE_BF16 ? sizeof(uint16_t) * elements
           : dtype == DTYPE_I8   ? int8_weight_bytes(rows, cols)
                                 : 0;
}

/* A panel of n rows of w: word j of a k holds row j low and row j + 16 high. */
static void panel_bf16(const CpuIsa *isa, uint32_t *dst, const float *w, int n, int cols) {
    float block[K_BLOCK * SGEMM_PANEL];
    for (int k = 0; k < cols; k += K_BLOCK) {
        int depth = int_min(K_BLOCK, cols - k);
        isa->sgemm_pack_panel(block, n, depth, w + k, 1, cols);
        for (int p = 0; p < depth; p++, dst += SGEMM_PANEL / 2)
            for (int j = 0; j < SGEMM_PANEL / 2; j++)
                dst[j] = bf16_of(block[p * SGEMM_PANEL + j]) | bf16_of(block[p * SGEMM_PANEL + SGEMM_PANEL / 2 + j]) << 16;
    }
}

void cpu_weight_prepare(Device *dev, Weight *out, void *storage, DType dtype, const Weight *src) {
    const char *why = NULL;
    if (device_error(dev)) return;
    if (src->dtype != DTYPE_F32 || src->layout != WEIGHT_ROWS) why = "the float32 CPU kernels prepare rows of float32";
    else if (src->rows < 1 || src->cols < 1 || src->rows > SGEMM_K_MAX || src->cols > SGEMM_K_MAX)
        why = "a weight has 1 to 65536 rows and columns";
    else if (!cpu_weight_prepared_bytes(dev, 1, 1, dtype)) why = "weights are prepared as float32, bfloat16 or int8";
    if (why) {
        device_fail(dev, "weight_prepare", why);
        return;
    }
    const CpuIsa *isa = cpu_isa(dev);
    const float  *w = src->data;
    int           rows = src->rows, cols = src->cols;
    if (dtype == DTYPE_I8) int8_weight_prepare(dev, storage, w, rows, cols);
#pragma omp parallel for num_threads(cpu_threads_for(dev, 4.0 * rows * cols)) schedule(static)
    for (int row = 0; row < rows; row += SGEMM_PANEL) {
        int       n = int_min(SGEMM_PANEL, rows - row);
        ptrdiff_t at = (ptrdiff_t)row * cols;
        if (dtype == DTYPE_F32) isa->sgemm_pack_panel((float *)storage + at, n, cols, w + at, 1, cols);
        else if (dtype == DTYPE_BF16) panel_bf16(isa, (uint32_t *)storage + at / 2, w + at, n, cols);
    }
    *out = *src;
    out->data = storage;
    out->dtype = dtype;
    out->layout = WEIGHT_PACKED;
    if (dtype == DTYPE_I8) out->scale = int8_weight_at(storage, rows, cols).scale;
}
