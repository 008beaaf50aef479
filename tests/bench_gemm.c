/* bench_gemm.c - products of the float32 CPU backend beside the machine's multiply-add peak, OpenBLAS and oneDNN, those
 * of the two that are installed; interleaved repetition by repetition: such machines are too noisy for anything else.
 *
 *   build/bench_gemm [--threads N] [--seconds S a row] [--filter TEXT] [--isa NAME] [--smoke 1]
 *
 * A ratio is our speed over that of the better rival, by the best repetition of each; beside it the same of medians. */
#include "tests/bench_machine.h"
#include "tests/bench_rivals.h"

typedef enum { FORWARD, PACKED, DGRAD, WGRAD } Kind;
static const char *const kind_name[] = {"NT", "NT packed", "NN dgrad", "TN wgrad"};

typedef struct {
    const char *name;
    int N, rows, cols;
    int training; /* NT, NN, TN; otherwise NT packed */
} Shape;
static const Shape shapes[] = {
    {"nano qkv", 1024, 256, 128, 1},        {"nano gate_up", 1024, 768, 128, 1},
    {"nano down", 1024, 128, 384, 1},       {"micro qkv", 1024, 512, 256, 1},
    {"micro gate_up", 1024, 1536, 256, 1},  {"micro down", 1024, 256, 768, 1},
    {"micro head", 1024, 7168, 256, 1},     {"medium qkv", 1024, 1280, 768, 1},
    {"medium out", 1024, 768, 768, 1},      {"medium gate_up", 64, 4096, 768, 1},
    {"medium gate_up", 256, 4096, 768, 1},  {"medium gate_up", 1024, 4096, 768, 1},
    {"medium gate_up", 8192, 4096, 768, 1}, {"medium down", 64, 768, 2048, 1},
    {"medium down", 256, 768, 2048, 1},     {"medium down", 1024, 768, 2048, 1},
    {"medium down", 8192, 768, 2048, 1},    {"large gate_up", 512, 11264, 2048, 1},
    {"nano decode", 64, 768, 128, 0},       {"micro decode", 1, 1536, 256, 0},
    {"micro decode", 8, 1536, 256, 0},      {"micro decode", 16, 1536, 256, 0},
    {"micro decode", 64, 1536, 256, 0},     {"micro decode", 256, 1536, 256, 0},
    {"medium decode", 1, 4096, 768, 0},     {"medium decode", 2, 4096, 768, 0},
    {"medium decode", 4, 4096, 768, 0},     {"medium decode", 8, 4096, 768, 0},
    {"medium decode", 16, 4096, 768, 0},    {"medium decode", 32, 4096, 768, 0},
    {"medium decode", 64, 4096, 768, 0},    {"medium head", 32, 32000, 768, 0},
};

typedef struct {
    Device *dev;
    const KernelOps *ops;
    Rivals rivals;
    float *inp, *weight, *out;
    Weight rows, packed;
} Bench;

enum { OURS = RIVALS, RUNNERS };

static void run(const Bench *b, int who, Kind kind, const Shape *s) {
    const int N = s->N, R = s->rows, C = s->cols;
    if (who == OURS) {
        switch (kind) {
        case FORWARD: b->ops->matmul_forward(b->dev, b->out, b->inp, &b->rows, N); break;
        case PACKED: b->ops->matmul_forward(b->dev, b->out, b->inp, &b->packed, N); break;
        case DGRAD: b->ops->matmul_dgrad(b->dev, b->inp, b->out, &b->rows, N); break;
        case WGRAD: b->ops->matmul_wgrad(b->dev, b->weight, b->out, b->inp, N, R, C); break;
        }
        return;
    }
    RivalProduct p = {.tb = 1, .m = N, .n = R, .k = C, .a = b->inp, .b = b->weight, .c = b->out};
    if (kind == DGRAD) p = (RivalProduct){.m = N, .n = C, .k = R, .a = b->out, .b = b->weight, .c = b->inp};
    if (kind == WGRAD)
        p = (RivalProduct){.ta = 1, .m = R, .n = C, .k = N, .a = b->out, .b = b->inp, .c = b->weight, .beta = 1};
    rival_product(&b->rivals, who, &p);
}

/* Seconds a call, over enough calls to fill about a millisecond, in the caches as calls like it leave them: whoever ran
 * before has filled them with the rivals' weight or with our packed copy, and a last cache takes some calls to change over. */
static double timed(const Bench *b, int who, Kind kind, const Shape *s) {
    const double flops = 2.0 * s->N * s->rows * s->cols;
    const int calls = flops > 5e7 ? 1 : (int)(5e7 / flops) + 1;
    for (int i = 0; i < (kind == PACKED ? 4 : 1); i++) run(b, who, kind, s);
    const double start = bench_now();
    for (int i = 0; i < calls; i++) run(b, who, kind, s);
    return (bench_now() - start) / calls;
}

/* ---- what a group of rows comes to ------------------------------------------------------------------------------- */

typedef struct {
    const char *what;
    double log_ratio, log_peak, worst, least_peak;
    int count, rivals;
} Summary;
enum { ALL, BIG, FEW, SUMMARIES };

static void summary_add(Summary *s, double peak, double ratio) {
    s->log_peak += log(peak), s->count++;
    s->least_peak = s->count == 1 ? peak : fmin(s->least_peak, peak);
    if (ratio <= 0) return;
    s->log_ratio += log(ratio);
    s->worst = s->rivals++ ? fmin(s->worst, ratio) : ratio;
}

static void summary_print(const Summary *s) {
    if (!s->count) return;
    printf("%-22s %3d rows: geometric mean %3.0f%% of peak, least %3.0f%%", s->what, s->count,
           100 * exp(s->log_peak / s->count), 100 * s->least_peak);
    if (s->rivals) printf("; %.2fx the better rival, worst %.2fx", exp(s->log_ratio / s->rivals), s->worst);
    printf("\n");
}

static void bench_shape(Bench *b, const Shape *s, Kind kind, double seconds, Summary *sum) {
    const size_t n = (size_t)s->N, r = (size_t)s->rows, c = (size_t)s->cols;
    b->inp = bench_floats(b->dev, n * c);
    b->weight = bench_floats(b->dev, r * c);
    b->out = bench_floats(b->dev, n * r);
    b->rows = (Weight){b->weight, DTYPE_F32, NULL, s->rows, s->cols, WEIGHT_ROWS};
    void *storage = device_alloc(b->dev, b->ops->weight_prepared_bytes(b->dev, s->rows, s->cols, DTYPE_F32));
    if (!storage) exit(1);
    b->ops->weight_prepare(b->dev, &b->packed, storage, DTYPE_F32, &b->rows);

    BenchTimes t[RUNNERS] = {0}, peak = {0};
    const double start = bench_now();
    for (int rep = 0; rep < 3 || bench_now() - start < seconds; rep++) {
        bench_add(&peak, 1 / bench_peak_flops(b->dev));
        for (int who = 0; who < RUNNERS; who++)
            if (who == OURS || b->rivals.name[who][0]) bench_add(&t[who], timed(b, who, kind, s));
    }
    const double flops = 2.0 * s->N * s->rows * s->cols, mine = bench_best(&t[OURS]),
                 of_peak = flops / mine * bench_best(&peak);
    double best = INFINITY, median = INFINITY;
    printf("%-15s %-10s %5d %5d %5d  %8.1f %4.0f%%", s->name, kind_name[kind], s->N, s->rows, s->cols,
           1e-9 * flops / mine, 100 * of_peak);
    for (int who = 0; who < RIVALS; who++) {
        if (!t[who].n) {
            printf("  %8s", "-");
            continue;
        }
        printf("  %8.1f", 1e-9 * flops / bench_best(&t[who]));
        best = fmin(best, bench_best(&t[who]));
        median = fmin(median, bench_median(&t[who]));
    }
    if (isfinite(best)) printf("  %5.2fx  %5.2fx", best / mine, median / bench_median(&t[OURS]));
    printf("\n");
    fflush(stdout);
    const double ratio = isfinite(best) ? best / mine : 0;
    summary_add(&sum[ALL], of_peak, ratio);
    if (s->N >= 512) summary_add(&sum[BIG], of_peak, ratio);
    if (kind == PACKED && s->N >= 8 && s->N <= 64) summary_add(&sum[FEW], of_peak, ratio);
    void *all[] = {b->inp, b->weight, b->out, storage};
    for (int i = 0; i < 4; i++) device_free(b->dev, all[i]);
}

static int bench_threads(int threads, const BenchFlags *f) {
    Bench b = {.dev = bench_device(threads, f)};
    Summary sum[SUMMARIES] = {{.what = "all"}, {.what = "512 rows and more"}, {.what = "packed, 8 to 64 rows"}};
    if (!b.dev) return 1;
    b.ops = kernels_get(b.dev, DTYPE_F32);
    b.rivals = rivals_open(cpu_level(b.dev), threads);
    KernelLimits limits = {.N = 8192, .C = 2048, .F = 5632, .Vp = 7168, .H = 12, .G = 12, .D = 64, .n_seq = 64};
    if (device_reserve(b.dev, b.ops->workspace_bytes(b.dev, &limits))) return 1;
    printf("%s; peak: multiply-adds in registers, measured with each row; rivals:", device_name(b.dev));
    for (int i = 0; i < RIVALS; i++)
        if (b.rivals.name[i][0]) printf(" %s", b.rivals.name[i]);
    printf("%s\n%-15s %-10s %5s %5s %5s  %8s %5s  %8s  %8s  %6s  %6s\n", rivals_any(&b.rivals) ? "" : " none installed",
           "shape", "kind", "N", "rows", "cols", "GFLOP/s", "peak", "OpenBLAS", "oneDNN", "best", "median");
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const Shape *s = &shapes[i];
        char named[64];
        snprintf(named, sizeof named, "%s %d", s->name, s->N);
        if ((f->filter && !strstr(named, f->filter)) || (f->smoke && i % 9)) continue;
        for (Kind k = FORWARD; k <= WGRAD; k++)
            if (s->training ? k != PACKED : k == PACKED) bench_shape(&b, s, k, f->seconds, sum);
    }
    for (int i = 0; i < SUMMARIES; i++) summary_print(&sum[i]);
    return bench_close(b.dev, "bench_gemm") ? 1 : 0;
}

int main(int argc, char **argv) {
    BenchFlags f;
    if (bench_flags(&f, argc, argv, "bench_gemm")) return 2;
    for (int threads = f.threads ? f.threads : 1; threads <= (f.threads ? f.threads : 2); threads++)
        if (bench_threads(threads, &f)) return 1;
    return 0;
}
