/* bench_attention.c - causal attention of the float32 CPU backend, forward and backward, beside the machine's
 * multiply-add peak.  Only query-key pairs that exist are counted, so what a blocked kernel wastes at borders shows.
 *
 *   build/bench_attention [--threads N] [--seconds S a shape] [--filter "T x n"] [--smoke 1] */
#include "tests/bench_machine.h"

typedef struct {
    int T, sequences, H, G, D; /* sequences of T tokens each */
} Shape;

static const Shape SHAPES[] = {{170, 6, 2, 1, 64},   {64, 16, 4, 2, 64},   {256, 4, 6, 6, 64}, {256, 4, 12, 12, 64},
                               {1024, 1, 12, 12, 64}, {1024, 1, 6, 2, 128}, {8192, 1, 2, 1, 64}, {8192, 1, 2, 1, 128}};

static void bench_shape(Device *dev, const Shape *s, double seconds) {
    const KernelOps *ops = kernels_get(dev, DTYPE_F32);
    const int N = s->T * s->sequences;
    const size_t n = (size_t)N, d = (size_t)s->D, h = (size_t)s->H, g = (size_t)s->G;
    float *qk = bench_floats(dev, n * (h + g) * d), *qkv = bench_floats(dev, n * (h + 2 * g) * d);
    float *dout = bench_floats(dev, n * h * d), *out = bench_floats(dev, n * h * d), *lse = bench_floats(dev, n * h);
    float *dqk = bench_floats(dev, n * (h + g) * d), *dqkv = bench_floats(dev, n * (h + 2 * g) * d);
    int32_t *cu = device_alloc(dev, sizeof(int32_t) * ((size_t)s->sequences + 1));
    for (int i = 0; i <= s->sequences; i++) cu[i] = i * s->T;
    const double pairs = 0.5 * s->T * (s->T + 1.0) * s->sequences * s->H, forward = 4 * pairs * s->D;
    double best[2] = {INFINITY, INFINITY}, peak = 0;
    const double start = bench_now();
    for (int rep = 0; rep < 3 || bench_now() - start < seconds; rep++) {
        peak = fmax(peak, bench_peak_flops(dev));
        double t = bench_now();
        ops->attention_forward(dev, out, lse, qk, qkv, cu, s->sequences, N, s->H, s->G, s->D);
        best[0] = fmin(best[0], bench_now() - t);
        t = bench_now();
        ops->attention_backward(dev, dqk, dqkv, dout, qk, qkv, out, lse, cu, s->sequences, N, s->H, s->G, s->D);
        best[1] = fmin(best[1], bench_now() - t);
    }
    printf("%6d x %-3d %3d %3d %4d   %8.1f %5.0f%%   %8.1f %5.0f%%\n", s->T, s->sequences, s->H, s->G, s->D,
           1e-9 * forward / best[0], 100 * forward / best[0] / peak, 2.5e-9 * forward / best[1],
           250 * forward / best[1] / peak);
    fflush(stdout);
    void *all[] = {qk, qkv, dout, out, lse, dqk, dqkv, cu};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) device_free(dev, all[i]);
}

int main(int argc, char **argv) {
    BenchFlags f;
    if (bench_flags(&f, argc, argv, "bench_attention")) return 2;
    for (int threads = f.threads ? f.threads : 1; threads <= (f.threads ? f.threads : 2); threads++) {
        Device *dev = bench_device(threads, &f);
        if (!dev) return 1;
        KernelLimits limits = {.N = 8192, .C = 768, .F = 64, .Vp = 64, .H = 12, .G = 12, .D = 128, .n_seq = 64};
        if (device_reserve(dev, kernels_get(dev, DTYPE_F32)->workspace_bytes(dev, &limits))) return 1;
        printf("attention, %s\n%6s x %-3s %3s %3s %4s   %8s %6s   %8s %6s\n", device_name(dev), "T", "n", "H", "G", "D",
               "forward", "peak", "backward", "peak");
        for (size_t i = 0; i < (f.smoke ? 2 : sizeof SHAPES / sizeof *SHAPES); i++) {
            char name[32];
            snprintf(name, sizeof name, "%d x %d", SHAPES[i].T, SHAPES[i].sequences);
            if (!f.filter || strstr(name, f.filter)) bench_shape(dev, &SHAPES[i], f.seconds);
        }
        if (bench_close(dev, "bench_attention")) return 1;
    }
    return 0;
}
