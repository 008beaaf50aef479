/* bench_gemm.c - products of the float32 CPU backend beside the machine's multiply-add peak and, when libopenblas.so.0
 * can be opened, OpenBLAS, interleaved repetition by repetition: such machines are too noisy for anything else.
 *
 *   build/bench_gemm [--threads N] [--seconds S a shape] [--filter TEXT] */
#include "kernels/cpu/cpu.h"

#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* One thread is timed by its own clock, which stands still while others have the core. */
static clockid_t timer = CLOCK_MONOTONIC;

static double now_s(void) {
    struct timespec t;
    clock_gettime(timer, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- the ceiling: independent multiply-adds in registers ------------------------------------------------------------ */

enum { PEAK_STEPS = 1 << 17 };
static volatile float sink;

#if defined(__x86_64__)
__attribute__((target("avx512f"))) static double peak_avx512(void) {
    __m512 acc[20], x = _mm512_set1_ps(0.5f), y = _mm512_set1_ps(1e-3f);
    for (int i = 0; i < 20; i++) acc[i] = _mm512_set1_ps((float)i);
    for (int s = 0; s < PEAK_STEPS; s++) {
#pragma GCC unroll 20
        for (int i = 0; i < 20; i++) acc[i] = _mm512_fmadd_ps(acc[i], x, y);
    }
    for (int i = 1; i < 20; i++) acc[0] = _mm512_add_ps(acc[0], acc[i]);
    sink = _mm512_cvtss_f32(acc[0]);
    return 2.0 * 16 * 20 * PEAK_STEPS;
}
__attribute__((target("avx2,fma"))) static double peak_avx2(void) {
    __m256 acc[12], x = _mm256_set1_ps(0.5f), y = _mm256_set1_ps(1e-3f);
    for (int i = 0; i < 12; i++) acc[i] = _mm256_set1_ps((float)i);
    for (int s = 0; s < PEAK_STEPS; s++) {
#pragma GCC unroll 12
        for (int i = 0; i < 12; i++) acc[i] = _mm256_fmadd_ps(acc[i], x, y);
    }
    for (int i = 1; i < 12; i++) acc[0] = _mm256_add_ps(acc[0], acc[i]);
    sink = _mm256_cvtss_f32(acc[0]);
    return 2.0 * 8 * 12 * PEAK_STEPS;
}
#endif
static double peak_portable(void) {
    float acc[16];
    for (int i = 0; i < 16; i++) acc[i] = (float)i;
    for (int s = 0; s < PEAK_STEPS / 8; s++)
        for (int i = 0; i < 16; i++) acc[i] = fmaf(acc[i], 0.5f, 1e-3f);
    sink = acc[0] + acc[15];
    return 2.0 * 16 * (PEAK_STEPS / 8);
}

static double peak_flops(const Device *dev) {
    double flops = 0, start = now_s();
#pragma omp parallel num_threads(device_threads(dev)) reduction(+ : flops)
    {
#if defined(__x86_64__)
        if (cpu_level(dev) == CPU_AVX512) flops += peak_avx512();
        else if (cpu_level(dev) == CPU_AVX2) flops += peak_avx2();
        else
#endif
            flops += peak_portable();
    }
    return flops / (now_s() - start);
}

/* ---- the rival ------------------------------------------------------------------------------------------------------ */

typedef void (*SgemmFn)(int, int, int, int, int, int, float, const float *, int, const float *, int, float, float *, int);
typedef struct {
    SgemmFn sgemm;
    void (*set_threads)(int);
} Blas;

static Blas blas_open(void) {
    Blas  b = {0};
    void *so = dlopen("libopenblas.so.0", RTLD_NOW | RTLD_LOCAL);
    if (!so) return b;
    *(void **)&b.sgemm = dlsym(so, "cblas_sgemm");
    *(void **)&b.set_threads = dlsym(so, "openblas_set_num_threads");
    if (!b.set_threads) b.sgemm = NULL;
    return b;
}

/* ---- shapes --------------------------------------------------------------------------------------------------------- */

typedef enum { FORWARD, PACKED, DGRAD, WGRAD } Kind;
static const char *const kind_name[] = {"NT", "NT packed", "NN dgrad", "TN wgrad"};

typedef struct {
    const char *name;
    int         N, rows, cols;
    int         training; /* NT, NN, TN; otherwise NT packed */
} Shape;
static const Shape shapes[] = {
    {"nano qkv", 1024, 256, 128, 1},       {"nano gate_up", 1024, 768, 128, 1},   {"nano down", 1024, 128, 384, 1},
    {"nano head", 1024, 256, 128, 1},      {"micro qkv", 1024, 512, 256, 1},      {"micro gate_up", 1024, 1536, 256, 1},
    {"micro down", 1024, 256, 768, 1},     {"micro head", 1024, 7168, 256, 1},    {"medium qkv", 1024, 1280, 768, 1},
    {"medium out", 1024, 768, 768, 1},     {"medium gate_up", 1024, 4096, 768, 1}, {"medium down", 1024, 768, 2048, 1},
    {"nano decode", 64, 768, 128, 0},      {"micro decode", 1, 1536, 256, 0},     {"micro decode", 8, 1536, 256, 0},
    {"micro decode", 16, 1536, 256, 0},    {"micro decode", 64, 1536, 256, 0},    {"micro decode", 256, 1536, 256, 0},
    {"medium decode", 1, 4096, 768, 0},    {"medium decode", 8, 4096, 768, 0},    {"medium decode", 32, 4096, 768, 0},
    {"medium decode", 64, 4096, 768, 0},
};

typedef struct {
    Device       *dev;
    const KernelOps *ops;
    Blas          blas;
    float        *inp, *weight, *out;
    Weight        rows, packed;
} Bench;

static float *randoms(Device *dev, size_t count) {
    float *x = device_alloc(dev, count * sizeof(float));
    if (!x) exit(1);
    for (size_t i = 0; i < count; i++) x[i] = (float)((i * 2654435761u >> 8) & 0xFFFF) / 65536.0f - 0.5f;
    return x;
}

static void ours(const Bench *b, Kind kind, const Shape *s) {
    switch (kind) {
    case FORWARD: b->ops->matmul_forward(b->dev, b->out, b->inp, &b->rows, s->N); break;
    case PACKED: b->ops->matmul_forward(b->dev, b->out, b->inp, &b->packed, s->N); break;
    case DGRAD: b->ops->matmul_dgrad(b->dev, b->inp, b->out, &b->rows, s->N); break;
    case WGRAD: b->ops->matmul_wgrad(b->dev, b->weight, b->out, b->inp, s->N, s->rows, s->cols); break;
    }
}

static void rival(const Bench *b, Kind kind, const Shape *s) {
    enum { ROW_MAJOR = 101, NO = 111, TRANSPOSED = 112 };
    int N = s->N, R = s->rows, C = s->cols;
    switch (kind) {
    case FORWARD:
    case PACKED: b->blas.sgemm(ROW_MAJOR, NO, TRANSPOSED, N, R, C, 1, b->inp, C, b->weight, C, 0, b->out, R); break;
    case DGRAD: b->blas.sgemm(ROW_MAJOR, NO, NO, N, C, R, 1, b->out, R, b->weight, C, 0, b->inp, C); break;
    case WGRAD: b->blas.sgemm(ROW_MAJOR, TRANSPOSED, NO, R, C, N, 1, b->out, R, b->inp, C, 1, b->weight, C); break;
    }
}

typedef void (*RunFn)(const Bench *, Kind, const Shape *);

/* Seconds a call, over enough calls to fill about a millisecond. */
static double timed(RunFn run, const Bench *b, Kind kind, const Shape *s) {
    double flops = 2.0 * s->N * s->rows * s->cols;
    int    calls = flops > 5e7 ? 1 : (int)(5e7 / flops) + 1;
    double start = now_s();
    for (int i = 0; i < calls; i++) run(b, kind, s);
    return (now_s() - start) / calls;
}

typedef struct {
    double log_ratio, worst, log_peak;
    int    count, shapes;
} Summary;

static void bench_shape(Bench *b, const Shape *s, Kind kind, double seconds, Summary *sum) {
    size_t n = (size_t)s->N, r = (size_t)s->rows, c = (size_t)s->cols;
    b->inp = randoms(b->dev, n * c);
    b->weight = randoms(b->dev, r * c);
    b->out = randoms(b->dev, n * r);
    b->rows = (Weight){b->weight, DTYPE_F32, NULL, s->rows, s->cols, WEIGHT_ROWS};
    void *storage = device_alloc(b->dev, b->ops->weight_prepared_bytes(b->dev, s->rows, s->cols, DTYPE_F32));
    b->ops->weight_prepare(b->dev, &b->packed, storage, DTYPE_F32, &b->rows);

    double mine = INFINITY, theirs = INFINITY, peak = 0, start = now_s();
    for (int rep = 0; rep < 5 || now_s() - start < seconds; rep++) {
        peak = fmax(peak, peak_flops(b->dev));
        mine = fmin(mine, timed(ours, b, kind, s));
        if (b->blas.sgemm) theirs = fmin(theirs, timed(rival, b, kind, s));
    }
    double flops = 2.0 * s->N * s->rows * s->cols;
    sum->log_peak += log(flops / mine / peak), sum->shapes++;
    printf("%-14s %-10s %5d %5d %5d  %8.1f %5.0f%%", s->name, kind_name[kind], s->N, s->rows, s->cols, 1e-9 * flops / mine,
           100 * flops / mine / peak);
    if (b->blas.sgemm) {
        printf("  %8.1f  %5.2fx", 1e-9 * flops / theirs, theirs / mine);
        sum->log_ratio += log(theirs / mine);
        sum->worst = fmin(sum->worst, theirs / mine);
        sum->count++;
    }
    printf("\n");
    fflush(stdout);
    device_free(b->dev, b->inp);
    device_free(b->dev, b->weight);
    device_free(b->dev, b->out);
    device_free(b->dev, storage);
}

static int bench_threads(int threads, double seconds, const char *filter) {
    char    msg[256];
    Bench   b = {.blas = blas_open()};
    Summary sum = {.worst = INFINITY};
    b.dev = device_open(DEVICE_CPU, 0, threads, msg, sizeof msg);
    if (!b.dev) {
        fprintf(stderr, "bench_gemm: %s\n", msg);
        return 1;
    }
    b.ops = kernels_get(b.dev, DTYPE_F32);
    KernelLimits limits = {.N = 4096, .C = 768, .F = 3072, .Vp = 7168, .H = 12, .G = 12, .D = 64, .n_seq = 64};
    if (device_reserve(b.dev, b.ops->workspace_bytes(b.dev, &limits))) return 1;
    if (b.blas.sgemm) b.blas.set_threads(threads);
    timer = threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC;
    printf("%s; rival %s; peak: multiply-adds in registers, measured with each row\n", device_name(b.dev),
           b.blas.sgemm ? "OpenBLAS" : "none (no libopenblas.so.0)");
    printf("%-14s %-10s %5s %5s %5s  %8s %6s  %8s  %6s\n", "shape", "kind", "N", "rows", "cols", "GFLOP/s", "peak",
           "OpenBLAS", "ratio");
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        if (filter && !strstr(shapes[i].name, filter)) continue;
        if (!shapes[i].training) bench_shape(&b, &shapes[i], PACKED, seconds, &sum);
        else
            for (Kind k = FORWARD; k <= WGRAD; k++)
                if (k != PACKED) bench_shape(&b, &shapes[i], k, seconds, &sum);
    }
    if (sum.shapes) printf("geometric mean %.0f%% of peak\n", 100 * exp(sum.log_peak / sum.shapes));
    if (sum.count) printf("geometric mean %.2fx OpenBLAS, worst %.2fx\n", exp(sum.log_ratio / sum.count), sum.worst);
    int failed = device_sync(b.dev);
    if (failed) fprintf(stderr, "bench_gemm: %s\n", device_error(b.dev));
    device_close(b.dev);
    return failed ? 1 : 0;
}

int main(int argc, char **argv) {
    int         threads = 0;
    double      seconds = 0.15;
    const char *filter = NULL;
    for (int i = 1; i < argc; i += 2) {
        if (i + 1 < argc && !strcmp(argv[i], "--threads")) threads = atoi(argv[i + 1]);
        else if (i + 1 < argc && !strcmp(argv[i], "--seconds")) seconds = atof(argv[i + 1]);
        else if (i + 1 < argc && !strcmp(argv[i], "--filter")) filter = argv[i + 1];
        else {
            fprintf(stderr, "usage: bench_gemm [--threads N] [--seconds S] [--filter NAME]\n");
            return 2;
        }
    }
    if (threads > 0) return bench_threads(threads, seconds, filter);
    return bench_threads(1, seconds, filter) || bench_threads(2, seconds, filter);
}
