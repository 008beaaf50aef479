/* int8.h - the vector code of 8-bit products; private to kernels/cpu/.
 *
 * A weight is one scale a row and whole numbers in [-127, 127]; a row of activations likewise.  Sums of their products
 * are whole numbers below 2^31, so every instruction set finds the same ones, in any order. */
#ifndef EHR_KERNELS_CPU_INT8_H
#define EHR_KERNELS_CPU_INT8_H
#include "kernels/cpu/cpu.h"

enum {
    INT8_GROUP = 4, /* k that lie together: panel byte (k / 4, column, k % 4) */
    INT8_ROWS_MAX = 14
};

struct CpuInt8 {
    int tile_rows;
    int offset; /* added to activations, for instructions that take them unsigned; sums hold offset times the weights' */
    /* acc (m, SGEMM_PANEL) = sum over `groups` groups of k, with `more` added to what acc holds; m <= tile_rows; row i of a
     * at a + i * lda.  soon: fetched into the second cache on the way, a line of 64 bytes a group; NULL: nothing but, where
     * that helps, the panel itself a little ahead. */
    void (*tile)(int32_t *acc, int more, int m, int groups, const uint8_t *a, ptrdiff_t lda, const int8_t *panel,
                 const int8_t *soon);
    /* q[i] = round(127 x[i] / max |x|) + offset for i < n, offset up to padded, a multiple of 16; returns max |x| / 127, NaN when one of x
     * is not finite */
    float (*quantize)(uint8_t *q, const float *x, int n, int padded, int offset);
    /* m rows of n <= SGEMM_PANEL: out[j] = (add[j] +) (acc[j] - offset_sum[j]) * row_scale * scale[j]; out and add have rows
     * ld apart; add, offset_sum may be NULL */
    void (*scale)(float *out, ptrdiff_t ld, const float *add, const int32_t *acc, const int32_t *offset_sum,
                  const float *row_scale, const float *scale, int m, int n);
};

extern const CpuInt8 cpu_int8_portable;
#if defined(__x86_64__)
extern const CpuInt8 cpu_int8_avx2, cpu_int8_vnni;
#endif

/* A prepared weight of rows (a multiple of SGEMM_PANEL when padded) by cols: panels, then scales, then 128 times the sums
 * of the rows. */
typedef struct {
    const int8_t  *panels;
    const float   *scale;
    const int32_t *offset_sum;
} Int8Weight;

size_t     int8_weight_bytes(int rows, int cols);
Int8Weight int8_weight_at(const void *storage, int rows, int cols);
void       int8_weight_prepare(Device *dev, void *storage, const float *w, int rows, int cols);

/* out (N, rows) = (residual +) inp @ w^T, or with gated (N, rows / 2) = silu(left half) * right half and out NULL (rows a
 * multiple of 2 SGEMM_PANEL).  scratch: int8_scratch(N, cols) bytes. */
void   int8_product(Device *dev, float *out, float *gated, const float *residual, const float *inp, const Weight *w, int N,
                    void *scratch);
size_t int8_scratch(int N, int cols);

#endif
