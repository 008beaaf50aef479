/* bench_rivals.h - matrix products of other libraries, looked up while running: OpenBLAS (libopenblas0-openmp) and
 * oneDNN (libdnnl2), each where it is installed. */
#ifndef EHR_TESTS_BENCH_RIVALS_H
#define EHR_TESTS_BENCH_RIVALS_H
#include "tests/bench_machine.h"
#include <dlfcn.h>

/* c (m, n) = a b + beta c, all row-major; a is stored (k, m) where ta, b is stored (n, k) where tb. */
typedef struct {
    int ta, tb, m, n, k;
    const float *a, *b;
    float *c, beta;
} RivalProduct;

enum { RIVAL_OPENBLAS, RIVAL_ONEDNN, RIVALS };

typedef struct {
    char name[RIVALS][64]; /* with the kernels it chose; "" = not here */
    void (*sgemm)(int, int, int, int, int, int, float, const float *, int, const float *, int, float, float *, int);
    int (*dnnl_sgemm)(char, char, int64_t, int64_t, int64_t, float, const float *, int64_t, const float *, int64_t,
                      float, float *, int64_t);
} Rivals;

static inline void rivals_function(void *out, void *library, const char *name) {
    void *f = library ? dlsym(library, name) : NULL;
    memcpy(out, &f, sizeof f);
}

/* level: OpenBLAS gets its widest kernels for that instruction set, whatever the environment or its own idea of a
 * machine it does not know; both take their number of threads here. */
static inline Rivals rivals_open(CpuLevel level, int threads) {
    Rivals r = {0};
    unsetenv("OPENBLAS_CORETYPE");
    if (level == CPU_AVX512) setenv("OPENBLAS_CORETYPE", "SKYLAKEX", 1);
    if (level == CPU_AVX2) setenv("OPENBLAS_CORETYPE", "HASWELL", 1), setenv("DNNL_MAX_CPU_ISA", "AVX2", 1);
    unsetenv("OPENBLAS_L2_SIZE");
    void *blas = dlopen("libopenblas.so.0", RTLD_NOW | RTLD_LOCAL), *dnnl = NULL;
    void (*set_threads)(int);
    char *(*core)(void);
    rivals_function(&r.sgemm, blas, "cblas_sgemm");
    rivals_function(&set_threads, blas, "openblas_set_num_threads");
    rivals_function(&core, blas, "openblas_get_corename");
    if (r.sgemm && set_threads && core) {
        set_threads(threads);
        snprintf(r.name[RIVAL_OPENBLAS], sizeof r.name[0], "OpenBLAS (%s kernels)", core());
    }
    const char *const names[] = {"libdnnl.so.3", "libdnnl.so.2"};
    for (int i = 0; i < 2 && !dnnl; i++) dnnl = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    const struct { int major, minor, patch; } * (*version)(void);
    rivals_function(&r.dnnl_sgemm, dnnl, "dnnl_sgemm");
    rivals_function(&version, dnnl, "dnnl_version");
    if (r.dnnl_sgemm && version) {
#ifdef _OPENMP
        omp_set_num_threads(threads);
#endif
        snprintf(r.name[RIVAL_ONEDNN], sizeof r.name[0], "oneDNN %d.%d.%d", version()->major, version()->minor,
                 version()->patch);
    }
    return r;
}

static inline int rivals_any(const Rivals *r) { return r->name[RIVAL_OPENBLAS][0] || r->name[RIVAL_ONEDNN][0]; }

static inline void rival_product(const Rivals *r, int which, const RivalProduct *p) {
    enum { ROW_MAJOR = 101, NO = 111, TRANSPOSED = 112 };
    const int lda = p->ta ? p->m : p->k, ldb = p->tb ? p->k : p->n;
    if (which == RIVAL_OPENBLAS)
        r->sgemm(ROW_MAJOR, p->ta ? TRANSPOSED : NO, p->tb ? TRANSPOSED : NO, p->m, p->n, p->k, 1, p->a, lda, p->b, ldb,
                 p->beta, p->c, p->n);
    else
        r->dnnl_sgemm(p->ta ? 'T' : 'N', p->tb ? 'T' : 'N', p->m, p->n, p->k, 1, p->a, lda, p->b, ldb, p->beta, p->c,
                      p->n);
}

/* FLOP/s of the best sgemm of 1024 x 1024 x 1024 here: ours, or a library's.  x: three such matrices. */
static inline double rivals_sgemm_rate(const Rivals *r, Device *dev, float *x) {
    enum { S = 1024 };
    const RivalProduct p = {.tb = 1, .m = S, .n = S, .k = S, .a = x, .b = x + S * S, .c = x + 2 * S * S};
    const Weight w = {p.b, DTYPE_F32, NULL, S, S, WEIGHT_ROWS};
    double best = INFINITY;
    for (int who = 0; who <= RIVALS; who++) {
        if (who < RIVALS && !r->name[who][0]) continue;
        const double start = bench_now();
        if (who < RIVALS) rival_product(r, who, &p);
        else kernels_get(dev, DTYPE_F32)->matmul_forward(dev, p.c, p.a, &w, S);
        best = fmin(best, bench_now() - start);
    }
    return 2.0 * S * S * S / best;
}

#endif
