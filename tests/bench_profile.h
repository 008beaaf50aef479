/* bench_profile.h - a table of operations that measures the one it stands before: seconds, arithmetic and memory traffic
 * of every operation, for the question where a step's time goes. */
#ifndef EHR_TESTS_BENCH_PROFILE_H
#define EHR_TESTS_BENCH_PROFILE_H
#include "kernels/kernels.h"
#include <stdio.h>
#include <time.h>

typedef struct {
    const char *name;
    double seconds, flops, bytes; /* bytes: every operand once */
    long calls;
} ProfileRow;

enum {
    PROFILE_EMBEDDING,
    PROFILE_RMSNORM,
    PROFILE_ROPE,
    PROFILE_QKV_OUT_DOWN,
    PROFILE_GATE_UP,
    PROFILE_ATTENTION,
    PROFILE_CLASSIFIER,
    PROFILE_DGRAD,
    PROFILE_WGRAD,
    PROFILE_SWIGLU,
    PROFILE_SWIGLU_BACKWARD,
    PROFILE_ATTENTION_BACKWARD,
    PROFILE_ROPE_BACKWARD,
    PROFILE_RMSNORM_BACKWARD,
    PROFILE_EMBEDDING_BACKWARD,
    PROFILE_NORM,
    PROFILE_ADAMW,
    PROFILE_ROWS
};

static struct {
    const KernelOps *real;
    clockid_t clock;
    double started;
    ProfileRow row[PROFILE_ROWS];
} profile;

static double profile_now(void) {
    struct timespec t;
    clock_gettime(profile.clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void profile_add(Device *dev, int row, double flops, double floats) {
    device_sync(dev);
    ProfileRow *r = &profile.row[row];
    r->seconds += profile_now() - profile.started;
    r->flops += flops;
    r->bytes += 4 * floats;
    r->calls++;
}

/* An operation's stand-in: the same arguments, timed, with its arithmetic and the floats it reads and writes. */
#define PROFILED(op, row, parameters, arguments, flops, floats)                                                        \
    static void profiled_##op parameters {                                                                             \
        profile.started = profile_now();                                                                               \
        profile.real->op arguments;                                                                                    \
        profile_add(dev, row, flops, floats);                                                                          \
    }

static double profile_pairs(const int32_t *cu_seqlens, int n_seq) { /* query and key */
    double pairs = 0;
    for (int s = 0; s < n_seq; s++) {
        const double n = cu_seqlens[s + 1] - cu_seqlens[s];
        pairs += n * (n + 1) / 2;
    }
    return pairs;
}

static double profile_elements(const AdamwRange *ranges, int n_ranges) {
    double n = 0;
    for (int i = 0; i < n_ranges; i++) n += (double)ranges[i].count;
    return n;
}

static double profile_product(int N, double rows, double cols) { return N * cols + rows * cols + N * rows; }

PROFILED(embedding_forward, PROFILE_EMBEDDING,
         (Device * dev, void *out, const int32_t *tokens, const void *weight, int N, int C),
         (dev, out, tokens, weight, N, C), 0, 2.0 * N * C)
PROFILED(embedding_backward, PROFILE_EMBEDDING_BACKWARD,
         (Device * dev, void *dweight, const void *dout, const int32_t *tokens, int N, int C, int V),
         (dev, dweight, dout, tokens, N, C, V), 1.0 * N * C, 3.0 * N * C)
PROFILED(rmsnorm_forward, PROFILE_RMSNORM,
         (Device * dev, void *out, void *rstd, const void *inp, const void *weight, float eps, int N, int C),
         (dev, out, rstd, inp, weight, eps, N, C), 4.0 * N * C, 2.0 * N * C)
PROFILED(rmsnorm_backward, PROFILE_RMSNORM_BACKWARD,
         (Device * dev, void *dinp_acc, void *dweight, const void *dout, const void *inp, const void *weight,
          const void *rstd, int N, int C),
         (dev, dinp_acc, dweight, dout, inp, weight, rstd, N, C), 10.0 * N * C, 4.0 * N * C)
PROFILED(matmul_forward, PROFILE_QKV_OUT_DOWN, (Device * dev, void *out, const void *inp, const Weight *w, int N),
         (dev, out, inp, w, N), 2.0 * N * w->rows * w->cols, profile_product(N, w->rows, w->cols))
PROFILED(matmul_add_forward, PROFILE_QKV_OUT_DOWN,
         (Device * dev, void *out, const void *residual, const void *inp, const Weight *w, int N),
         (dev, out, residual, inp, w, N), 2.0 * N * w->rows * w->cols,
         profile_product(N, w->rows, w->cols) + (double)N * w->rows)
PROFILED(matmul_swiglu_forward, PROFILE_GATE_UP,
         (Device * dev, void *out, void *gate_up, const void *inp, const Weight *w, int N),
         (dev, out, gate_up, inp, w, N), 2.0 * N * w->rows * w->cols,
         profile_product(N, w->rows, w->cols) + (double)N * w->rows / 2)
PROFILED(matmul_dgrad, PROFILE_DGRAD, (Device * dev, void *dinp, const void *dout, const Weight *w, int N),
         (dev, dinp, dout, w, N), 2.0 * N * w->rows * w->cols, profile_product(N, w->rows, w->cols))
PROFILED(matmul_wgrad, PROFILE_WGRAD,
         (Device * dev, void *dweight, const void *dout, const void *inp, int N, int rows, int cols),
         (dev, dweight, dout, inp, N, rows, cols), 2.0 * N * rows * cols,
         profile_product(N, rows, cols) + (double)rows * cols)
PROFILED(swiglu_forward, PROFILE_SWIGLU, (Device * dev, void *out, const void *gate_up, int N, int F),
         (dev, out, gate_up, N, F), 20.0 * N * F, 3.0 * N * F)
PROFILED(swiglu_backward, PROFILE_SWIGLU_BACKWARD,
         (Device * dev, void *dgate_up, void *act, const void *dout, const void *gate_up, int N, int F),
         (dev, dgate_up, act, dout, gate_up, N, F), 26.0 * N * F, 6.0 * N * F)
PROFILED(qk_norm_rope_forward, PROFILE_ROPE,
         (Device * dev, void *qk, void *rstd, const void *qkv, const void *q_weight, const void *k_weight,
          const int32_t *positions, const void *rope, float eps, int N, int H, int G, int D),
         (dev, qk, rstd, qkv, q_weight, k_weight, positions, rope, eps, N, H, G, D), 8.0 * N * (H + G) * D,
         2.0 * N * (H + G) * D)
PROFILED(qk_norm_rope_backward, PROFILE_ROPE_BACKWARD,
         (Device * dev, void *dqkv, void *dq_weight, void *dk_weight, const void *dqk, const void *qkv,
          const void *q_weight, const void *k_weight, const void *rstd, const int32_t *positions, const void *rope, int N,
          int H, int G, int D),
         (dev, dqkv, dq_weight, dk_weight, dqk, qkv, q_weight, k_weight, rstd, positions, rope, N, H, G, D),
         15.0 * N * (H + G) * D, 3.0 * N * (H + G) * D)
PROFILED(attention_forward, PROFILE_ATTENTION,
         (Device * dev, void *out, void *lse, const void *qk, const void *qkv, const int32_t *cu_seqlens, int n_seq,
          int N, int H, int G, int D),
         (dev, out, lse, qk, qkv, cu_seqlens, n_seq, N, H, G, D), 4.0 * profile_pairs(cu_seqlens, n_seq) * H * D,
         2.0 * N * (H + G) * D)
PROFILED(attention_backward, PROFILE_ATTENTION_BACKWARD,
         (Device * dev, void *dqk, void *dqkv, const void *dout, const void *qk, const void *qkv, const void *out,
          const void *lse, const int32_t *cu_seqlens, int n_seq, int N, int H, int G, int D),
         (dev, dqk, dqkv, dout, qk, qkv, out, lse, cu_seqlens, n_seq, N, H, G, D),
         10.0 * profile_pairs(cu_seqlens, n_seq) * H * D, N * (4.0 * H + 4.0 * G) * D)
PROFILED(classifier, PROFILE_CLASSIFIER,
         (Device * dev, void *losses, void *dinp, void *dweight, const void *inp, const Weight *w, const int32_t *lo,
          const int32_t *hi, int N, int V),
         (dev, losses, dinp, dweight, inp, w, lo, hi, N, V), 2.0 * N * V * w->cols * (1 + !!dinp + !!dweight),
         2.0 * N * w->cols + (double)V * w->cols * (1 + !!dinp + 2 * !!dweight))
PROFILED(sum_squares, PROFILE_NORM, (Device * dev, double *sum, const void *x, int64_t count), (dev, sum, x, count),
         2.0 * (double)count, (double)count)
PROFILED(adamw, PROFILE_ADAMW,
         (Device * dev, void *param, void *out, void *m, void *v, const void *grad, const AdamwRange *ranges,
          int n_ranges, const AdamwStep *step),
         (dev, param, out, m, v, grad, ranges, n_ranges, step), 12.0 * profile_elements(ranges, n_ranges),
         7.0 * profile_elements(ranges, n_ranges))

/* The table to compute with from here on.  One thread is timed by its own clock, which stands still while others have
 * the core. */
static const KernelOps *profile_table(const KernelOps *real, int threads) {
    static KernelOps table;
    static const char *const names[PROFILE_ROWS] = {
        "embedding",      "RMSNorm",           "q/k norm, rotation",  "products qkv, out, down", "product gate/up + SwiGLU",
        "attention",      "classifier",        "products, dgrad",     "products, wgrad",         "SwiGLU",
        "SwiGLU backward", "attention backward", "rotation backward", "RMSNorm backward",        "embedding backward",
        "gradient norm",  "AdamW"};
    table = *real;
    profile.real = real;
    profile.clock = threads == 1 ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC;
    for (int i = 0; i < PROFILE_ROWS; i++) profile.row[i] = (ProfileRow){.name = names[i]};
    table.embedding_forward = profiled_embedding_forward, table.embedding_backward = profiled_embedding_backward;
    table.rmsnorm_forward = profiled_rmsnorm_forward, table.rmsnorm_backward = profiled_rmsnorm_backward;
    table.matmul_forward = profiled_matmul_forward, table.matmul_add_forward = profiled_matmul_add_forward;
    table.matmul_swiglu_forward = profiled_matmul_swiglu_forward;
    table.matmul_dgrad = profiled_matmul_dgrad, table.matmul_wgrad = profiled_matmul_wgrad;
    table.swiglu_forward = profiled_swiglu_forward, table.swiglu_backward = profiled_swiglu_backward;
    table.qk_norm_rope_forward = profiled_qk_norm_rope_forward;
    table.qk_norm_rope_backward = profiled_qk_norm_rope_backward;
    table.attention_forward = profiled_attention_forward, table.attention_backward = profiled_attention_backward;
    table.classifier = profiled_classifier;
    table.sum_squares = profiled_sum_squares, table.adamw = profiled_adamw;
    return &table;
}

/* Where the time of `steps` steps went.  At the ceiling: what of a row's time its arithmetic at the multiply-add peak, or its
 * memory traffic at the bandwidth of reading, would have taken, whichever is longer; over 100% when it stays in caches. */
static void profile_print(FILE *out, int steps, double peak, double read) {
    double all = 0, flops = 0, ceiling = 0;
    for (int i = 0; i < PROFILE_ROWS; i++) all += profile.row[i].seconds, flops += profile.row[i].flops;
    fprintf(out, "  where a step's time goes; ceilings: %.1f GFLOP/s, %.1f GB/s\n", 1e-9 * peak, 1e-9 * read);
    fprintf(out, "  %-26s %7s %10s %7s %9s %7s  %s\n", "operation", "calls", "ms", "share", "GFLOP/s", "GB/s", "at the ceiling");
    for (int i = 0; i < PROFILE_ROWS; i++) {
        const ProfileRow *r = &profile.row[i];
        if (!r->calls) continue;
        const double arithmetic = r->flops / peak, traffic = r->bytes / read;
        const double least = arithmetic > traffic ? arithmetic : traffic;
        ceiling += least < r->seconds ? least : r->seconds;
        fprintf(out, "  %-26s %7ld %10.3f %6.1f%% %9.1f %7.1f  %4.0f%% of %s\n", r->name, r->calls / steps,
                1e3 * r->seconds / steps, 100 * r->seconds / all, 1e-9 * r->flops / r->seconds, 1e-9 * r->bytes / r->seconds,
                100 * least / r->seconds, arithmetic > traffic ? "arithmetic" : "memory");
    }
    fprintf(out, "  %-26s %7s %10.3f %7s %9.1f %7s  %4.0f%%\n", "all operations", "", 1e3 * all / steps, "", 1e-9 * flops / all,
            "", 100 * ceiling / all);
}

#endif
