/* bench_machine.h - what the kernel benchmarks share: a clock, the machine's ceilings measured beside every row, since on
 * a shared machine they move by the minute, and the flags. */
#ifndef EHR_TESTS_BENCH_MACHINE_H
#define EHR_TESTS_BENCH_MACHINE_H
#include "kernels/cpu/cpu.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* One thread is timed by its own clock, which stands still while others have the core. */
static clockid_t bench_clock = CLOCK_MONOTONIC;

static inline double bench_now(void) {
    struct timespec t;
    clock_gettime(bench_clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- repetitions ---------------------------------------------------------------------------------------------------- */

enum { BENCH_TIMES = 512 };
typedef struct {
    double seconds[BENCH_TIMES];
    int n; /* later ones are not kept */
} BenchTimes;

static inline int bench_ascending(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}
static inline void bench_add(BenchTimes *t, double seconds) {
    if (t->n < BENCH_TIMES) t->seconds[t->n++] = seconds;
}
static inline double bench_middle(double *x, int n) { /* sorts them */
    qsort(x, (size_t)n, sizeof *x, bench_ascending);
    return n ? (x[(n - 1) / 2] + x[n / 2]) / 2 : INFINITY;
}
static inline double bench_median(BenchTimes *t) { return bench_middle(t->seconds, t->n); }
static inline double bench_best(BenchTimes *t) {
    bench_median(t);
    return t->n ? t->seconds[0] : INFINITY;
}

/* ---- multiply-adds in registers ------------------------------------------------------------------------------------ */

enum { BENCH_PEAK_STEPS = 1 << 16 };
static volatile float bench_sink;

#if defined(__x86_64__)
__attribute__((target("avx512f"))) static inline double bench_peak_avx512(void) {
    __m512 acc[20], x = _mm512_set1_ps(0.5f), y = _mm512_set1_ps(1e-3f);
    for (int i = 0; i < 20; i++) acc[i] = _mm512_set1_ps((float)i);
    for (int s = 0; s < BENCH_PEAK_STEPS; s++) {
#pragma GCC unroll 20
        for (int i = 0; i < 20; i++) acc[i] = _mm512_fmadd_ps(acc[i], x, y);
    }
    for (int i = 1; i < 20; i++) acc[0] = _mm512_add_ps(acc[0], acc[i]);
    bench_sink = _mm512_cvtss_f32(acc[0]);
    return 2.0 * 16 * 20 * BENCH_PEAK_STEPS;
}
__attribute__((target("avx2,fma"))) static inline double bench_peak_avx2(void) {
    __m256 acc[12], x = _mm256_set1_ps(0.5f), y = _mm256_set1_ps(1e-3f);
    for (int i = 0; i < 12; i++) acc[i] = _mm256_set1_ps((float)i);
    for (int s = 0; s < BENCH_PEAK_STEPS; s++) {
#pragma GCC unroll 12
        for (int i = 0; i < 12; i++) acc[i] = _mm256_fmadd_ps(acc[i], x, y);
    }
    for (int i = 1; i < 12; i++) acc[0] = _mm256_add_ps(acc[0], acc[i]);
    bench_sink = _mm256_cvtss_f32(acc[0]);
    return 2.0 * 8 * 12 * BENCH_PEAK_STEPS;
}
#endif
static inline double bench_peak_portable(void) {
    float acc[16];
    for (int i = 0; i < 16; i++) acc[i] = (float)i;
    for (int s = 0; s < BENCH_PEAK_STEPS / 8; s++)
        for (int i = 0; i < 16; i++) acc[i] = fmaf(acc[i], 0.5f, 1e-3f);
    bench_sink = acc[0] + acc[15];
    return 2.0 * 16 * (BENCH_PEAK_STEPS / 8);
}

/* Of the device's instruction set and threads, FLOP/s. */
static inline double bench_peak_flops(const Device *dev) {
    double flops = 0, start = bench_now();
#pragma omp parallel num_threads(device_threads(dev)) reduction(+ : flops)
    {
#if defined(__x86_64__)
        if (cpu_level(dev) == CPU_AVX512) flops += bench_peak_avx512();
        else if (cpu_level(dev) == CPU_AVX2) flops += bench_peak_avx2();
        else
#endif
            flops += bench_peak_portable();
    }
    return flops / (bench_now() - start);
}

/* ---- memory --------------------------------------------------------------------------------------------------------- */

/* Reads all of x, bytes/s; much larger than the caches it is the bandwidth of memory. */
static inline double bench_read_bytes(const float *x, size_t count, int threads) {
    double start = bench_now();
    float sum = 0;
#pragma omp parallel num_threads(threads) reduction(+ : sum)
    {
        float lane[64] = {0};
#pragma omp for schedule(static)
        for (size_t i = 0; i < count / 64; i++)
            for (int j = 0; j < 64; j++) lane[j] += x[i * 64 + (size_t)j];
        for (int j = 0; j < 64; j++) sum += lane[j];
    }
    bench_sink = sum;
    return (double)(count / 64 * 64) * sizeof(float) / (bench_now() - start);
}

/* ---- the device and the flags --------------------------------------------------------------------------------------- */

typedef struct {
    int threads; /* 0: 1 and 2 */
    int isa;     /* -1: the best */
    int smoke;   /* 1: few rows, to see that it runs */
    double seconds;
    const char *filter;
} BenchFlags;

static inline int bench_flags(BenchFlags *f, int argc, char **argv, const char *program) {
    *f = (BenchFlags){.isa = -1, .seconds = 0.15};
    for (int i = 1; i < argc; i += 2) {
        static const char *const isa[] = {"portable", "avx2", "avx512"};
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        int known = 0;
        if (value && !strcmp(argv[i], "--threads")) f->threads = atoi(value), known = 1;
        else if (value && !strcmp(argv[i], "--seconds")) f->seconds = atof(value), known = 1;
        else if (value && !strcmp(argv[i], "--filter")) f->filter = value, known = 1;
        else if (value && !strcmp(argv[i], "--smoke")) f->smoke = atoi(value), known = 1;
        for (int k = 0; value && k < 3 && !strcmp(argv[i], "--isa"); k++)
            if (!strcmp(value, isa[k])) f->isa = k, known = 1;
        if (known) continue;
        fprintf(stderr, "usage: %s [--threads N] [--seconds S] [--filter NAME] [--isa portable|avx2|avx512] [--smoke 1]\n",
                program);
        return -1;
    }
    return 0;
}

static inline Device *bench_device(int threads, const BenchFlags *f) {
    char msg[256];
    Device *dev = device_open(DEVICE_CPU, 0, threads, msg, sizeof msg);
    if (!dev) fprintf(stderr, "bench: %s\n", msg);
    else if (f->isa >= 0 && cpu_device_force_isa(dev, (CpuLevel)f->isa)) {
        fprintf(stderr, "bench: this machine lacks --isa\n");
        device_close(dev);
        dev = NULL;
    }
    bench_clock = threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC;
    return dev;
}

static inline int bench_close(Device *dev, const char *program) {
    int failed = device_sync(dev);
    if (failed) fprintf(stderr, "%s: %s\n", program, device_error(dev));
    device_close(dev);
    return failed;
}

static inline float *bench_floats(Device *dev, size_t count) {
    float *x = device_alloc(dev, count * sizeof(float));
    if (!x) exit(1);
    for (size_t i = 0; i < count; i++) x[i] = (float)((i * 2654435761u >> 8) & 0xFFFF) / 65536.0f - 0.5f;
    return x;
}

#endif
