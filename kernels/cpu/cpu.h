/* cpu.h - what the files of the float32 CPU backend share; private to kernels/cpu/ (and its tests).
 *
 * Three instruction sets, one source: code that vectorises is written once against vec.h, whose vector is 16 floats on
 * every machine, and compiled three times (x_avx512.c, x_avx2.c, x_portable.c).  Since the virtual width, the order of
 * every sum and the fused multiply-add are the same, all three give the same bits. */
#ifndef EHR_KERNELS_CPU_CPU_H
#define EHR_KERNELS_CPU_CPU_H
#include "kernels/kernels.h"

#ifdef _OPENMP
#include <omp.h>
#endif

typedef enum { CPU_PORTABLE, CPU_AVX2, CPU_AVX512, CPU_LEVELS } CpuLevel;

/* How a product's chain meets what c held before. */
typedef enum {
    SGEMM_STORE, /* c = chain, started from 0 */
    SGEMM_CHAIN, /* c = chain, started from c: continues an earlier product bit for bit */
    SGEMM_ADD    /* c = c + chain, the chain started from 0 */
} SgemmMode;

/* Where a tile's chains start and end: out = (add +) (scale *) ((factor * chain +) sum over k). */
typedef struct {
    const float *chain; /* NULL: they start at 0 */
    const float *add;   /* NULL: nothing */
    float       *out;
    ptrdiff_t    ld_chain, ld_add, ld_out;
    const float *soon; /* what is needed next, fetched into the caches on the way, two lines a k; NULL: nothing */
    ptrdiff_t    ld_soon;
    int          n_soon; /* in so many of the k; 0: in all */
    ptrdiff_t    near;   /* floats further on, b is fetched into the first cache; 0: nothing but what is read */
    const float *factor; /* of each row's chain; NULL: 1 */
    const float *scale;  /* of each row's result; NULL: 1 */
} TileOut;

enum {
    SGEMM_PANEL = 32,    /* columns of b lie together, k after k */
    SGEMM_LANES = 16,    /* floats a k of packed rows of a: room for any tile */
    SGEMM_K_MAX = 65536, /* products of an element */
    SGEMM_RUN = 256      /* SGEMM_ADD adds chains of so many products, one after the other */
};

/* The vector code of one instruction set. */
typedef struct {
    CpuLevel    level;
    const char *name; /* "AVX-512" */
    int         tile_rows;
    /* A tile (m, n) over k products; m <= tile_rows, n <= SGEMM_PANEL.  a(i, p) = a[i * a_rs + p * a_cs]; b(p, j) =
     * b[p * ldb + j], readable to a multiple of 16 in j.  Touches no element beyond (m, n). */
    void (*sgemm_tile)(int m, int n, int k, const float *a, ptrdiff_t a_rs, ptrdiff_t a_cs, const float *b,
                       ptrdiff_t ldb, const TileOut *o);
    /* The same with a panel of bfloat16: word j of its k, 16 words a k, holds column j low and column 16 + j high.
     * a(i, p) = a[i * a_rs + p] */
    void (*sgemm_tile_bf16)(int m, int n, int k, const float *a, ptrdiff_t a_rs, const uint16_t *panel,
                            const TileOut *o);
    /* Panels, one after the other: dst[(j / SGEMM_PANEL * k + p) * SGEMM_PANEL + j % SGEMM_PANEL] = b(p, j) =
     * b[p * b_rs + j * b_cs] for j < n, 0 for the rest of the last panel */
    void (*sgemm_pack_panel)(float *dst, int n, int k, const float *b, ptrdiff_t b_rs, ptrdiff_t b_cs);
    /* Rows in groups of `step` <= SGEMM_LANES, each k after k and a line apart, so that they share no set of a cache: row i at
     * dst[(i / step * (k + 1) + p) * SGEMM_LANES + i % step] = a[i * a_rs + p * a_cs] */
    void (*sgemm_pack_rows)(float *dst, int rows, int step, int k, const float *a, ptrdiff_t a_rs, ptrdiff_t a_cs);
    /* out[i] = exp(inp[i] * scale - shift); returns their sum, in an order that depends on n alone.  out may be inp. */
    float (*exp_sum)(float *out, const float *inp, float scale, float shift, int n);
    float (*max)(const float *inp, int n);                                   /* -inf when n = 0 */
    void (*swiglu)(float *out, const float *gate, const float *up, int n);   /* silu(gate) * up */
    /* Rows of F, or 2F, as in kernels.h */
    void (*swiglu_backward)(float *dgate_up, float *act, const float *dout, const float *gate_up, int rows, int F);
    void (*add)(float *out, const float *a, const float *b, int n);          /* out may be a or b */
} CpuIsa;

extern const CpuIsa cpu_isa_portable;
#if defined(__x86_64__)
extern const CpuIsa cpu_isa_avx2, cpu_isa_avx512;
#endif

/* What is known of the machine; a Device's state. */
typedef struct CpuInt8 CpuInt8; /* int8.h */
typedef struct {
    const CpuIsa  *isa;
    const CpuInt8 *int8;
    int           k_block;      /* k of what is packed together; twice that if it is all */
    int           block_floats; /* of b packed at a time: half of the second cache */
    int           slab_floats;  /* of a that a thread keeps packed: its share of the last cache */
} CpuState;

const CpuState *cpu_state(const Device *dev);
const CpuIsa *cpu_isa(const Device *dev);
CpuLevel      cpu_level(const Device *dev); /* cpu_isa(dev)->level, to index a table of one's own */
/* Tests only: 0, or -1 when this machine lacks it. */
int cpu_device_force_isa(Device *dev, CpuLevel level);

/* The device's workspace, or NULL after device_fail(dev, op, ...) when it is smaller than bytes or the device has
 * failed already. */
void *cpu_scratch(Device *dev, const char *op, size_t bytes);

/* ---- threads: #pragma omp parallel num_threads(device_threads(dev)) ------------------------------------------------ */
static inline int cpu_thread(void) { /* 0-based, in the innermost team */
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}
static inline int cpu_team(void) {
#ifdef _OPENMP
    return omp_get_num_threads();
#else
    return 1;
#endif
}
/* Threads worth starting for work of about `flops` floating point operations: a fork costs a few microseconds. */
int cpu_threads_for(const Device *dev, double flops);

/* ---- products ------------------------------------------------------------------------------------------------------ */

/* c (M, N) = a b: a(m, p) = a[m * a_rs + p * a_cs], b(p, n) = b[p * b_rs + n * b_cs], K products an element in one
 * ascending chain of fused multiply-adds (SGEMM_ADD: a chain a SGEMM_RUN): the bits do not depend on M, N, tiles, threads
 * or instruction set. */
typedef struct {
    int          M, N, K;
    const float *a;
    ptrdiff_t    a_rs, a_cs;
    const float *b;
    ptrdiff_t    b_rs, b_cs;
    const void  *panels; /* instead of b: packed, panel after panel of K * SGEMM_PANEL elements */
    DType        panel_type; /* DTYPE_F32 or DTYPE_BF16 */
    float       *c;      /* may be NULL when gated is set */
    ptrdiff_t    ldc;
    SgemmMode    mode;
    const float *residual; /* c = residual + chain (SGEMM_STORE, whole chains); may be c */
    ptrdiff_t    ld_residual;
    float       *gated; /* (M, N / 2) = silu(left half of c) * right half; N a multiple of 2 SGEMM_PANEL */
} Product;

/* On all threads of the device.  scratch: product_scratch(dev) bytes, 64-byte aligned. */
void   product_run(Device *dev, const Product *t, void *scratch);
size_t product_scratch(const Device *dev);

void cpu_sgemm(Device *dev, int M, int N, int K, const float *a, ptrdiff_t a_rs, ptrdiff_t a_cs, const float *b,
               ptrdiff_t b_rs, ptrdiff_t b_cs, float *c, ptrdiff_t ldc, SgemmMode mode, void *scratch);
/* out (N, rows) = inp (N, cols) @ w^T for rows [row, row + n_rows) of w, in either layout (row a multiple of
 * SGEMM_PANEL when packed), out with leading dimension ldc. */
void cpu_matmul_rows(Device *dev, float *out, ptrdiff_t ldc, const float *inp, const Weight *w, int row, int n_rows,
                     int N, void *scratch);

/* A tile where all of c lies in one place. */
static inline void tile_product(const CpuIsa *isa, int m, int n, int k, const float *a, ptrdiff_t a_rs, ptrdiff_t a_cs,
                                const float *b, ptrdiff_t ldb, float *c, ptrdiff_t ldc, SgemmMode mode) {
    TileOut o = {.out = c, .ld_chain = ldc, .ld_add = ldc, .ld_out = ldc};
    if (mode == SGEMM_CHAIN) o.chain = c;
    if (mode == SGEMM_ADD) o.add = c;
    isa->sgemm_tile(m, n, k, a, a_rs, a_cs, b, ldb, &o);
}

/* ---- operations of kernels.h, one function each -------------------------------------------------------------------- */
size_t cpu_workspace_bytes(const Device *dev, const KernelLimits *limits);
size_t cpu_matmul_workspace(const Device *dev, const KernelLimits *limits);    /* the products */
size_t cpu_ops_workspace_bytes(const Device *dev, const KernelLimits *limits); /* all other operations */

size_t cpu_weight_prepared_bytes(const Device *dev, int rows, int cols, DType dtype);
void   cpu_weight_prepare(Device *dev, Weight *out, void *storage, DType dtype, const Weight *src);
void   cpu_matmul_forward(Device *dev, void *out, const void *inp, const Weight *w, int N);
void   cpu_matmul_add_forward(Device *dev, void *out, const void *residual, const void *inp, const Weight *w, int N);
void   cpu_matmul_swiglu_forward(Device *dev, void *out, void *gate_up, const void *inp, const Weight *w, int N);
void   cpu_matmul_dgrad(Device *dev, void *dinp, const void *dout, const Weight *w, int N);
void   cpu_matmul_wgrad(Device *dev, void *dweight, const void *dout, const void *inp, int N, int rows, int cols);
void   cpu_swiglu_forward(Device *dev, void *out, const void *gate_up, int N, int F);
void   cpu_swiglu_backward(Device *dev, void *dgate_up, void *act, const void *dout, const void *gate_up, int N, int F);

void cpu_embedding_forward(Device *dev, void *out, const int32_t *tokens, const void *weight, int N, int C);
void cpu_embedding_backward(Device *dev, void *dweight, const void *dout, const int32_t *tokens, int N, int C, int V);
void cpu_rmsnorm_forward(Device *dev, void *out, void *rstd, const void *inp, const void *weight, float eps, int N,
                         int C);
void cpu_rmsnorm_backward(Device *dev, void *dinp_acc, void *dweight, const void *dout, const void *inp,
                          const void *weight, const void *rstd, int N, int C);
void cpu_adapter_spread(Device *dev, void *b_wide, void *a_turned, const void *a, const void *b, const AdapterBlocks *s);
void cpu_adapter_gather(Device *dev, void *db, const void *db_wide, const AdapterBlocks *s);
void cpu_qk_norm_rope_forward(Device *dev, void *qk, void *rstd, const void *qkv, const void *q_weight,
                              const void *k_weight, const int32_t *positions, const void *rope, float eps, int N, int H,
                              int G, int D);
void cpu_qk_norm_rope_backward(Device *dev, void *dqkv, void *dq_weight, void *dk_weight, const void *dqk,
                               const void *qkv, const void *q_weight, const void *k_weight, const void *rstd,
                               const int32_t *positions, const void *rope, int N, int H, int G, int D);
void cpu_attention_forward(Device *dev, void *out, void *lse, const void *qk, const void *qkv,
                           const int32_t *cu_seqlens, int n_seq, int N, int H, int G, int D);
void cpu_attention_backward(Device *dev, void *dqk, void *dqkv, const void *dout, const void *qk, const void *qkv,
                            const void *out, const void *lse, const int32_t *cu_seqlens, int n_seq, int N, int H, int G,
                            int D);
size_t cpu_kv_page_bytes(const Device *dev, DType type, int G, int D);
void cpu_kv_append(Device *dev, void *pool, DType type, const void *qk, const void *qkv, const int64_t *slot, int N,
                   int H, int G, int D);
void cpu_kv_copy_page(Device *dev, void *pool, DType type, int dst, int src, int n_keys, int G, int D);
void cpu_attention_paged(Device *dev, void *out, const void *qk, const PagedBatch *batch, int N, int H, int G, int D);
void cpu_classifier(Device *dev, void *losses, void *dinp, void *dweight, const void *inp, const Weight *w,
                    const int32_t *lo, const int32_t *hi, int N, int V);
void cpu_adamw(Device *dev, void *param, void *out, void *m, void *v, const void *grad, const AdamwRange *ranges,
               int n_ranges, const AdamwStep *step);
void cpu_sum_squares(Device *dev, double *sum, const void *x, int64_t count);
void cpu_sample(Device *dev, int32_t *tokens, float *logp, float *p_outcome, const void *logits, const double *uniform,
                const uint32_t *suppress, const SampleSpec *spec, int B);

#endif
