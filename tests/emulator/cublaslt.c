/* cublaslt.c - a stand-in for libcublasLt.so.13 on emulated GPUs: the functions that kernels/cuda/cublas.cu asks for,
 * with plain loops for a product, so that what it asks for can be checked.  Built to build/emulator/libcublasLt.so.13
 * and found by the same dlopen() with LD_LIBRARY_PATH.
 *
 * Kept of the real library: matrices are column-major, nothing happens before the stream's turn, float operands and
 * sums, D = alpha op(A) op(B) + beta C where C may be D.  Shapes and strides that do not fit each other, and pointers
 * that are less aligned than was promised, are errors. */
#include "tests/emulator/emulator.h"
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, INVALID = 7, NOT_SUPPORTED = 15 };
enum { REAL_F32 = 0, REAL_BF16 = 14 };

typedef struct {
    int compute, scale, transposed[2];
} Desc;
typedef struct {
    int type;
    int64_t rows, columns, stride;
} Layout;
typedef struct {
    uint64_t workspace;
    uint32_t alignment[4];
} Preference;
typedef struct {
    uint64_t data[8];
} Algorithm;
typedef struct {
    Algorithm algorithm;
    size_t workspace;
    int status;
    float waves;
    int reserved[4];
} Heuristic;

/* The chosen kernel remembers what it was chosen for. */
typedef struct {
    uint32_t magic, alignment[4];
} Choice;

typedef struct Job {
    struct Job *next; /* kept until the library is closed: a recorded product runs more than once */
    Desc desc;
    float alpha, beta;
    Layout a, b, c, d;
    const void *pa, *pb, *pc;
    void *pd;
} Job;
static Job *jobs;

static float load(const void *p, int type, int64_t i) {
    if (type == REAL_F32) return ((const float *)p)[i];
    uint32_t bits = (uint32_t)((const uint16_t *)p)[i] << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static void store(void *p, int type, int64_t i, float x) {
    if (type == REAL_F32) {
        ((float *)p)[i] = x;
        return;
    }
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    ((uint16_t *)p)[i] = (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

static int run(void *data) {
    Job *j = data;
    const int ta = j->desc.transposed[0], tb = j->desc.transposed[1];
    const int64_t depth = ta ? j->a.rows : j->a.columns;
    for (int64_t n = 0; n < j->d.columns; n++)
        for (int64_t m = 0; m < j->d.rows; m++) {
            float sum = 0;
            for (int64_t k = 0; k < depth; k++)
                sum += load(j->pa, j->a.type, ta ? k + m * j->a.stride : m + k * j->a.stride) *
                       load(j->pb, j->b.type, tb ? n + k * j->b.stride : k + n * j->b.stride);
            sum *= j->alpha;
            if (j->beta != 0) sum += j->beta * load(j->pc, j->c.type, m + n * j->c.stride);
            store(j->pd, j->d.type, m + n * j->d.stride, sum);
        }
    return 0;
}

static int fits(const Desc *desc, const Layout *a, const Layout *b, const Layout *c, const Layout *d) {
    const int ta = desc->transposed[0], tb = desc->transposed[1];
    if ((ta ? a->columns : a->rows) != d->rows || (tb ? b->rows : b->columns) != d->columns) return 0;
    if ((ta ? a->rows : a->columns) != (tb ? b->columns : b->rows)) return 0;
    if (c->rows != d->rows || c->columns != d->columns || c->type != d->type || a->type != b->type) return 0;
    return a->stride >= a->rows && b->stride >= b->rows && c->stride >= c->rows && d->stride >= d->rows;
}

int cublasLtCreate(void **handle) {
    *handle = malloc(1);
    return *handle ? SUCCESS : INVALID;
}

int cublasLtDestroy(void *handle) {
    for (Job *next; jobs; jobs = next) {
        next = jobs->next;
        free(jobs);
    }
    free(handle);
    return SUCCESS;
}

int cublasLtMatmulDescCreate(void **out, int compute, int scale) {
    Desc *d = calloc(1, sizeof *d);
    if (compute != 68 || scale != REAL_F32) return NOT_SUPPORTED;
    d->compute = compute;
    d->scale = scale;
    *out = d;
    return SUCCESS;
}

int cublasLtMatmulDescDestroy(void *desc) {
    free(desc);
    return SUCCESS;
}

int cublasLtMatmulDescSetAttribute(void *desc, int attribute, const void *value, size_t bytes) {
    int on;
    if (bytes != sizeof on || attribute < 3 || attribute > 4) return INVALID;
    memcpy(&on, value, sizeof on);
    ((Desc *)desc)->transposed[attribute - 3] = on;
    return SUCCESS;
}

int cublasLtMatrixLayoutCreate(void **out, int type, uint64_t rows, uint64_t columns, int64_t stride) {
    Layout *l = calloc(1, sizeof *l);
    *l = (Layout){type, (int64_t)rows, (int64_t)columns, stride};
    *out = l;
    return type == REAL_F32 || type == REAL_BF16 ? SUCCESS : NOT_SUPPORTED;
}

int cublasLtMatrixLayoutDestroy(void *layout) {
    free(layout);
    return SUCCESS;
}

int cublasLtMatmulPreferenceCreate(void **out) {
    Preference *p = calloc(1, sizeof *p);
    for (int i = 0; i < 4; i++) p->alignment[i] = 256;
    *out = p;
    return SUCCESS;
}

int cublasLtMatmulPreferenceDestroy(void *preference) {
    free(preference);
    return SUCCESS;
}

int cublasLtMatmulPreferenceSetAttribute(void *preference, int attribute, const void *value, size_t bytes) {
    Preference *p = preference;
    if (attribute == 1 && bytes == sizeof p->workspace) memcpy(&p->workspace, value, bytes);
    else if (attribute >= 5 && attribute <= 8 && bytes == sizeof(uint32_t))
        memcpy(&p->alignment[attribute - 5], value, bytes);
    else return INVALID;
    return SUCCESS;
}

int cublasLtMatmulAlgoGetHeuristic(void *handle, void *desc, void *a, void *b, void *c, void *d, void *preference,
                                   int wanted, Heuristic *results, int *found) {
    *found = 0;
    if (!handle || wanted < 1 || !fits(desc, a, b, c, d)) return INVALID;
    Choice choice = {.magic = 0xb1a5};
    memcpy(choice.alignment, ((Preference *)preference)->alignment, sizeof choice.alignment);
    memset(results, 0, sizeof *results);
    memcpy(&results->algorithm, &choice, sizeof choice);
    *found = 1;
    return SUCCESS;
}

int cublasLtMatmul(void *handle, void *desc, const void *alpha, const void *a, void *a_layout, const void *b,
                   void *b_layout, const void *beta, const void *c, void *c_layout, void *d, void *d_layout,
                   const Algorithm *algorithm, void *workspace, size_t workspace_bytes, void *stream) {
    int (*enqueue)(void *, int (*)(void *), void *);
    *(void **)&enqueue = dlsym(RTLD_DEFAULT, "emu_enqueue");
    const void *pointers[] = {a, b, c, d};
    Choice choice;
    memcpy(&choice, algorithm, sizeof choice);
    if (!handle || choice.magic != 0xb1a5 || !fits(desc, a_layout, b_layout, c_layout, d_layout)) return INVALID;
    for (int i = 0; i < 4; i++)
        if ((uintptr_t)pointers[i] % choice.alignment[i]) return INVALID;
    if (!enqueue || !workspace || (uintptr_t)workspace % 256 || workspace_bytes < 1) return INVALID;
    Job *j = malloc(sizeof *j);
    *j = (Job){.next = jobs,
               .desc = *(Desc *)desc,
               .alpha = *(const float *)alpha,
               .beta = *(const float *)beta,
               .a = *(Layout *)a_layout,
               .b = *(Layout *)b_layout,
               .c = *(Layout *)c_layout,
               .d = *(Layout *)d_layout,
               .pa = a,
               .pb = b,
               .pc = c,
               .pd = d};
    jobs = j;
    return enqueue(stream, run, j) ? INVALID : SUCCESS;
}
