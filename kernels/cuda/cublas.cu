/* cublas.cu - the same products by NVIDIA's cuBLASLt (--matmul cublas): a rival to measure against and a second
 * opinion.
 *
 * The library is opened when somebody asks for it and its few functions are declared here, so that nothing of it is
 * needed to build or to start.  It chooses its kernel by the whole shape: a row's bits may depend on the batch.
 * It counts in columns: what lies row-major (M, N) here is column-major (N, M) there, so out^T = b^T a^T is asked for.
 */
#include "kernels/cuda/cublas.cuh"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

namespace {

enum { COMPUTE_F32 = 68, REAL_F32 = 0, REAL_BF16 = 14, OP_TRANSPOSED = 1 }; /* float32: fused multiply-adds, no TF32 */
enum { DESC_TRANSA = 3, DESC_TRANSB = 4, PREFERENCE_WORKSPACE = 1, PREFERENCE_ALIGNMENT_A = 5 };

struct Algorithm {
    uint64_t data[8];
};
struct Heuristic {
    Algorithm algorithm;
    size_t workspace;
    int status;
    float waves;
    int reserved[4];
};

/* Each returns 0 for success. */
struct Library {
    int (*Create)(void **handle);
    int (*Destroy)(void *handle);
    int (*Matmul)(void *handle, void *desc, const void *alpha, const void *a, void *a_layout, const void *b,
                  void *b_layout, const void *beta, const void *c, void *c_layout, void *d, void *d_layout,
                  const Algorithm *algorithm, void *workspace, size_t workspace_bytes, cudaStream_t stream);
    int (*MatmulAlgoGetHeuristic)(void *handle, void *desc, void *a_layout, void *b_layout, void *c_layout,
                                  void *d_layout, void *preference, int wanted, Heuristic *results, int *found);
    int (*MatmulDescCreate)(void **desc, int compute, int scale);
    int (*MatmulDescDestroy)(void *desc);
    int (*MatmulDescSetAttribute)(void *desc, int attribute, const void *value, size_t bytes);
    int (*MatrixLayoutCreate)(void **layout, int type, uint64_t rows, uint64_t columns, int64_t stride);
    int (*MatrixLayoutDestroy)(void *layout);
    int (*MatmulPreferenceCreate)(void **preference);
    int (*MatmulPreferenceDestroy)(void *preference);
    int (*MatmulPreferenceSetAttribute)(void *preference, int attribute, const void *value, size_t bytes);
};

/* What was found out for one shape. */
struct Plan {
    int M, N, K, type, out_type, a_along_k, b_along_k, alignment;
    void *desc, *a, *b, *out;
    Algorithm algorithm;
};

enum { PLANS = 128 };

} // namespace

struct Cublas {
    Library lib;
    void *handle;
    int n_plans;
    Plan plan[PLANS];
};

static void plan_drop(Cublas *c, Plan *p) {
    if (p->desc) c->lib.MatmulDescDestroy(p->desc);
    void *layouts[] = {p->a, p->b, p->out};
    for (int i = 0; i < 3; i++)
        if (layouts[i]) c->lib.MatrixLayoutDestroy(layouts[i]);
    memset(p, 0, sizeof *p);
}

void cublas_close(Cublas *c) {
    if (!c) return;
    for (int i = 0; i < c->n_plans; i++) plan_drop(c, &c->plan[i]);
    if (c->handle) c->lib.Destroy(c->handle);
    free(c);
}

Cublas *cublas_open(char *msg, size_t msg_size) {
    static const char *const names[] = {"Create",
                                        "Destroy",
                                        "Matmul",
                                        "MatmulAlgoGetHeuristic",
                                        "MatmulDescCreate",
                                        "MatmulDescDestroy",
                                        "MatmulDescSetAttribute",
                                        "MatrixLayoutCreate",
                                        "MatrixLayoutDestroy",
                                        "MatmulPreferenceCreate",
                                        "MatmulPreferenceDestroy",
                                        "MatmulPreferenceSetAttribute"};
    static_assert(sizeof(Library) == sizeof names, "a name for each function");
    void *library = dlopen("libcublasLt.so.13", RTLD_NOW | RTLD_LOCAL);
    if (!library) library = dlopen("libcublasLt.so.12", RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        snprintf(
            msg, msg_size,
            "opening cuBLASLt: neither libcublasLt.so.13 nor libcublasLt.so.12 is found; install it, put its folder "
            "into LD_LIBRARY_PATH, or leave --matmul at ehr");
        return NULL;
    }
    Cublas *c = (Cublas *)calloc(1, sizeof *c);
    void *functions[sizeof names / sizeof *names];
    for (size_t i = 0; c && i < sizeof names / sizeof *names; i++) {
        char name[64];
        snprintf(name, sizeof name, "cublasLt%s", names[i]);
        if ((functions[i] = dlsym(library, name))) continue;
        snprintf(msg, msg_size,
                 "opening cuBLASLt: the library has no %s; install version 12 or 13, or leave --matmul at ehr", name);
        free(c);
        return NULL;
    }
    if (c) memcpy(&c->lib, functions, sizeof c->lib);
    int status = c ? c->lib.Create(&c->handle) : -1;
    if (!status) return c;
    snprintf(msg, msg_size, "opening cuBLASLt: cublasLtCreate failed with status %d; leave --matmul at ehr", status);
    free(c);
    return NULL;
}

/* The first status that is not 0, with what was being done in *step. */
static int plan_make(Cublas *c, Plan *p, const Product *x, const char **step) {
    const Library *lib = &c->lib;
    const int transposed = OP_TRANSPOSED;
    const size_t workspace = CUBLAS_WORKSPACE_BYTES;
    void *preference = NULL;
    int status = 0, found = 0;
    Heuristic best;
    *step = "describing a product";
    status = lib->MatmulDescCreate(&p->desc, COMPUTE_F32, REAL_F32);
    if (!status && p->b_along_k) status = lib->MatmulDescSetAttribute(p->desc, DESC_TRANSA, &transposed, sizeof(int));
    if (!status && !p->a_along_k) status = lib->MatmulDescSetAttribute(p->desc, DESC_TRANSB, &transposed, sizeof(int));
    const uint64_t M = (uint64_t)x->M, N = (uint64_t)x->N, K = (uint64_t)x->K;
    if (!status)
        status = lib->MatrixLayoutCreate(&p->b, p->type, p->b_along_k ? K : N, p->b_along_k ? N : K, x->b_stride);
    if (!status)
        status = lib->MatrixLayoutCreate(&p->a, p->type, p->a_along_k ? K : M, p->a_along_k ? M : K, x->a_stride);
    if (!status) status = lib->MatrixLayoutCreate(&p->out, p->out_type, N, M, x->out_stride);
    if (!status) status = lib->MatmulPreferenceCreate(&preference);
    if (!status)
        status = lib->MatmulPreferenceSetAttribute(preference, PREFERENCE_WORKSPACE, &workspace, sizeof workspace);
    const uint32_t alignment = (uint32_t)p->alignment; /* of a, b, c and d: the library assumes 256 otherwise */
    for (int i = 0; i < 4 && !status; i++)
        status =
            lib->MatmulPreferenceSetAttribute(preference, PREFERENCE_ALIGNMENT_A + i, &alignment, sizeof alignment);
    if (!status) {
        *step = "finding a kernel";
        status =
            lib->MatmulAlgoGetHeuristic(c->handle, p->desc, p->b, p->a, p->out, p->out, preference, 1, &best, &found);
        if (!status) status = found ? best.status : -1;
        if (!status) p->algorithm = best.algorithm;
    }
    if (preference) lib->MatmulPreferenceDestroy(preference);
    return status;
}

void cublas_product(Device *dev, const char *op, Cublas *c, const Product *x, DType type, int a_along_k, int b_along_k,
                    void *workspace) {
    const int float_out = x->ending == END_FLOAT || x->ending == END_ACCUMULATE;
    const int real = type == DTYPE_F32 ? REAL_F32 : REAL_BF16;
    const uintptr_t all = (uintptr_t)x->a | (uintptr_t)x->b | (uintptr_t)x->out | (uintptr_t)x->residual;
    Plan want = {x->M, x->N, x->K, real, float_out ? REAL_F32 : real, a_along_k, b_along_k, 0, NULL,
                 NULL, NULL, NULL, {}};
    want.alignment = all % 16 ? (int)dtype_size(type) : 16;
    const char *step = NULL;
    int status = 0;
    Plan *p = NULL;
    if (device_error(dev)) return;
    for (int i = 0; i < c->n_plans && !p; i++)
        if (!memcmp(&c->plan[i], &want, offsetof(Plan, desc))) p = &c->plan[i];
    if (!p) {
        if (c->n_plans == PLANS) plan_drop(c, &c->plan[--c->n_plans]);
        p = &c->plan[c->n_plans];
        *p = want;
        status = plan_make(c, p, x, &step);
        if (status) plan_drop(c, p);
        else c->n_plans++;
    }
    if (!status) {
        const float alpha = 1, beta = x->ending == END_ADD || x->ending == END_ACCUMULATE;
        const void *added = x->ending == END_ADD ? x->residual : x->out;
        step = "queueing a product";
        status = c->lib.Matmul(c->handle, p->desc, &alpha, x->b, p->b, x->a, p->a, &beta, added, p->out, x->out, p->out,
                               &p->algorithm, workspace, CUBLAS_WORKSPACE_BYTES, cuda_compute_stream(dev));
    }
    if (!status) {
        cuda_launch_check(dev, op);
        return;
    }
    char why[200];
    snprintf(why, sizeof why, "cuBLASLt, %s of (%d, %d) over %d: status %d; leave --matmul at ehr", step, x->M, x->N,
             x->K, status);
    device_fail(dev, op, why);
}
