/* bench_step.c - one training step (forward, loss, backward, AdamW) on random tokens, no data set: tokens a second,
 * time by phase, arithmetic rate and peak memory, beside what other programs were measured to do at the same sizes. */
#include "kernels/philox.h"
#include "model/flags.h"
#include "model/model.h"
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

/* The GPT shapes are GPT-2's: learned positions, LayerNorm, a GELU MLP of 4C.  Ours is the Qwen3 block with F = 2/3 *
 * 4C, which has the same matrix elements a layer (4 C^2 + 3 C F = 12 C^2), so the same arithmetic a token. */
typedef struct {
    const char *name;
    ModelConfig cfg;
    const char *note;
} Shape;
static const Shape SHAPES[] = {
    {"gpt14m",
     {.n_layers = 6,
      .d_model = 384,
      .n_heads = 6,
      .n_kv_heads = 6,
      .head_dim = 64,
      .d_ff = 1024,
      .vocab_size = 8192,
      .tied = 1},
     "GPT-2 block 6 x 384, GELU MLP of 1536 = our block with SwiGLU of 1024: equal matrices a layer"},
    {"gpt124m",
     {.n_layers = 12,
      .d_model = 768,
      .n_heads = 12,
      .n_kv_heads = 12,
      .head_dim = 64,
      .d_ff = 2048,
      .vocab_size = 50257,
      .tied = 1},
     "GPT-2 block 12 x 768, GELU MLP of 3072 = our block with SwiGLU of 2048: equal matrices a layer"},
    {"llama134m",
     {.n_layers = 12,
      .d_model = 768,
      .n_heads = 12,
      .n_kv_heads = 12,
      .head_dim = 64,
      .d_ff = 2048,
      .vocab_size = 32000},
     "Llama block 12 x 768, SwiGLU of 2048, untied head: the same matrices"},
};
enum { N_SHAPES = sizeof SHAPES / sizeof *SHAPES, PHASES = 4, STEPS_MAX = 1000 };

/* Published or measured elsewhere, two cores of a 2.5 GHz AVX-512 Xeon, fp32, batch 4 x 256, 2026-11-20 (+-30%). */
static const struct {
    const char *shape, *rival, *tokens_per_s, *memory;
} RIVALS[] = {
    {"gpt14m", "llm.c (gcc, OpenMP)", "141-170", "0.80 GiB"},
    {"gpt14m", "PyTorch 1.13 (OpenBLAS), mean and best", "1012, 1196", "0.92 GiB"},
    {"gpt124m", "llm.c (gcc, OpenMP)", "16", "4.47 GiB"},
    {"gpt124m", "PyTorch 1.13 (OpenBLAS), mean and best", "105, 106", "4.19 GiB"},
    {"llama134m", "llama.cpp, forward only: prefill of 512", "355", ""},
};

static const char *const PHASE_NAME[PHASES] = {"forward", "loss", "backward", "update"};

typedef struct {
    Device *dev;
    Model m;
    Acts *acts;
    Batch batch;
    void *grad_arena, *moment1, *moment2, *step_scalars, *norm;
    Params grad;
    AdamwRange ranges[2048];
    int n_ranges;
    Recompute level;
} Bench;

static Status shape_config(ModelConfig *cfg, const char *name, int vocab_size, Err *err) {
    *cfg = (ModelConfig){0};
    if (config_preset(cfg, name, err) == OK) cfg->vocab_size = vocab_size;
    for (int i = 0; i < N_SHAPES; i++) {
        if (strcmp(SHAPES[i].name, name)) continue;
        *cfg = SHAPES[i].cfg;
        cfg->rope_theta = 10000;
        cfg->rms_eps = 1e-6;
        cfg->init_std = 0.02;
    }
    return cfg->n_layers ? OK : err->code;
}

static void fill_batch(Batch *b, int rows, int T, int vocab_size) {
    *b = (Batch){.rows = rows, .T = T, .N = rows * T, .n_seq = rows, .n_targets = rows * T};
    int32_t **arrays[] = {&b->tokens, &b->positions, &b->target_lo, &b->target_hi, &b->cu_seqlens};
    for (int i = 0; i < 5; i++) *arrays[i] = xcalloc((size_t)b->N + 1, sizeof(int32_t));
    for (int n = 0; n < b->N; n++) {
        const Philox4 r = philox4x32(1, (uint64_t)n, 0);
        b->tokens[n] = (int32_t)(r.v[0] % (uint32_t)vocab_size);
        b->target_lo[n] = (int32_t)(r.v[1] % (uint32_t)vocab_size);
        b->target_hi[n] = b->target_lo[n] + 1;
        b->positions[n] = n % T;
    }
    for (int s = 0; s <= rows; s++) b->cu_seqlens[s] = s * T;
}

static Status bench_open(Bench *x, const ModelConfig *cfg, int rows, int T, int threads, Recompute level, Err *err) {
    char msg[512];
    x->level = level;
    x->dev = device_open(DEVICE_CPU, 0, threads, msg, sizeof msg);
    if (!x->dev) return err_set(err, ERR_DEVICE, "%s", msg);
    Status s = model_open(&x->m, cfg, x->dev, DTYPE_F32, 16, err);
    if (s) return s;
    model_init(&x->m, 1);
    fill_batch(&x->batch, rows, T, cfg->vocab_size);
    if ((s = acts_open(&x->acts, &x->m, x->batch.N, 1, level, err))) return s;
    const size_t bytes = (size_t)x->m.table.total * sizeof(float);
    x->grad_arena = device_alloc(x->dev, bytes);
    x->moment1 = device_alloc(x->dev, bytes);
    x->moment2 = device_alloc(x->dev, bytes);
    x->step_scalars = device_alloc(x->dev, sizeof(AdamwStep));
    x->norm = device_alloc(x->dev, sizeof(double));
    if (!x->grad_arena || !x->moment1 || !x->moment2 || !x->step_scalars || !x->norm)
        return err_set(err, ERR_NOMEM, "no memory for gradients and moments (%.0f MiB)", 3.0 * (double)bytes / 1048576);
    for (int i = 0; i < x->m.table.n; i++) {
        const ParamSpec *p = &x->m.table.spec[i];
        REQUIRE(x->n_ranges < (int)(sizeof x->ranges / sizeof *x->ranges));
        x->ranges[x->n_ranges++] = (AdamwRange){p->offset, p->count, p->decay};
    }
    return params_bind(&x->grad, &x->m.table, &x->m.cfg, x->grad_arena, DTYPE_F32, err);
}

static void bench_close(Bench *x) {
    if (!x->dev) return;
    int32_t *arrays[] = {x->batch.tokens, x->batch.positions, x->batch.target_lo, x->batch.target_hi,
                         x->batch.cu_seqlens};
    for (int i = 0; i < 5; i++) free(arrays[i]);
    void *memory[] = {x->grad_arena, x->moment1, x->moment2, x->step_scalars, x->norm};
    for (int i = 0; i < 5; i++)
        if (memory[i]) device_free(x->dev, memory[i]);
    params_unbind(&x->grad);
    acts_close(x->acts);
    if (x->m.dev) model_close(&x->m);
    device_close(x->dev);
}

/* What a step of ehr-train does on one rank; seconds of each phase in out. */
static Status bench_step(Bench *x, int step, double out[PHASES], Err *err) {
    Model *m = &x->m;
    const size_t bytes = (size_t)m->table.total * sizeof(float);
    const AdamwStep scalars = {.learning_rate = 1e-4f,
                               .beta1 = 0.9f,
                               .beta2 = 0.95f,
                               .eps = 1e-8f,
                               .weight_decay = 0.1f,
                               .grad_scale = 1.0f / (float)x->batch.n_targets,
                               .step = step};
    double at[PHASES + 1];
    at[0] = clock_s();
    model_upload(m, x->acts, &x->batch);
    model_forward(m, x->acts);
    device_sync(x->dev);
    at[1] = clock_s();
    model_loss(m, x->acts, &x->grad);
    device_sync(x->dev);
    at[2] = clock_s();
    model_backward(m, x->acts, &x->grad, NULL, NULL);
    device_sync(x->dev);
    at[3] = clock_s();
    device_zero(x->dev, x->norm, sizeof(double));
    m->k->sum_squares(x->dev, x->norm, x->grad_arena, m->table.total);
    device_upload(x->dev, x->step_scalars, &scalars, sizeof scalars);
    m->k->adamw(x->dev, m->w_arena, NULL, x->moment1, x->moment2, x->grad_arena, x->ranges, x->n_ranges,
                x->step_scalars);
    device_zero(x->dev, x->grad_arena, bytes);
    const int bad = device_sync(x->dev);
    at[4] = clock_s();
    for (int i = 0; i < PHASES; i++) out[i] = at[i + 1] - at[i];
    return bad ? err_set(err, ERR_DEVICE, "%s", device_error(x->dev)) : OK;
}

static int ascending(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static void report(const Bench *x, const char *shape, double steps[][PHASES], int n) {
    double total[STEPS_MAX], column[STEPS_MAX];
    for (int i = 0; i < n; i++) {
        total[i] = 0;
        for (int p = 0; p < PHASES; p++) total[i] += steps[i][p];
    }
    qsort(total, (size_t)n, sizeof *total, ascending);
    const double tokens = x->batch.N, flops = model_flops_per_token(&x->m.cfg, x->batch.T) * tokens;
    const double peak = device_peak_flops(x->dev, DTYPE_F32);
    printf("  %-10s %12s %12s %10s\n", "phase", "median ms", "best ms", "share");
    for (int p = 0; p < PHASES; p++) {
        for (int i = 0; i < n; i++) column[i] = steps[i][p];
        qsort(column, (size_t)n, sizeof *column, ascending);
        printf("  %-10s %12.1f %12.1f %9.1f%%\n", PHASE_NAME[p], 1e3 * column[n / 2], 1e3 * column[0],
               100 * column[n / 2] / total[n / 2]);
    }
    printf("  %-10s %12.1f %12.1f\n", "step", 1e3 * total[n / 2], 1e3 * total[0]);
    printf("  tokens/s   %12.1f %12.1f\n", tokens / total[n / 2], tokens / total[0]);
    printf("  GFLOP/s    %12.1f %12.1f", 1e-9 * flops / total[n / 2], 1e-9 * flops / total[0]);
    if (peak > 0) printf("   best = %.0f%% of the device's %.0f", 100 * flops / total[0] / peak, peak * 1e-9);
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    printf("\n  peak RSS   %9.2f GiB   (16 B a parameter are %.2f, activations %.2f)\n",
           (double)usage.ru_maxrss / 1048576, 16.0 * (double)x->m.table.total / 1073741824,
           (double)acts_bytes(&x->m.cfg, DTYPE_F32, x->batch.N, 1, x->level) / 1073741824);
    int shown = 0;
    for (size_t i = 0; i < sizeof RIVALS / sizeof *RIVALS; i++) {
        if (strcmp(RIVALS[i].shape, shape)) continue;
        if (!shown++) printf("  others, 2 threads, batch 4 x 256, measured 2026-11-20 on such a machine (+-30%%):\n");
        printf("    %-42s %12s tok/s   %s\n", RIVALS[i].rival, RIVALS[i].tokens_per_s, RIVALS[i].memory);
    }
}

static Status run(const char *shape, int rows, int T, int n, int threads, int vocab_size, Recompute level, Err *err) {
    ModelConfig cfg;
    Status s = shape_config(&cfg, shape, vocab_size, err);
    if (s) return s;
    cfg.seq_len = T;
    Bench *x = xcalloc(1, sizeof *x);
    double (*steps)[PHASES] = xcalloc(STEPS_MAX, sizeof *steps), warm[PHASES];
    s = bench_open(x, &cfg, rows, T, threads, level, err);
    if (!s) {
        printf(
            "%s: %.2f million parameters (%d layers, C %d, H %d, G %d, F %d, V %d, %s head), batch %d x %d, fp32, %s\n",
            shape, (double)x->m.table.n_params * 1e-6, cfg.n_layers, cfg.d_model, cfg.n_heads, cfg.n_kv_heads, cfg.d_ff,
            cfg.vocab_size, cfg.tied ? "tied" : "untied", rows, T, device_name(x->dev));
        for (int i = 0; i < N_SHAPES; i++)
            if (!strcmp(SHAPES[i].name, shape)) printf("  %s\n", SHAPES[i].note);
        s = bench_step(x, 1, warm, err);
    }
    for (int i = 0; i < n && !s; i++) s = bench_step(x, i + 2, steps[i], err);
    if (!s) report(x, shape, steps, n);
    bench_close(x);
    free(steps);
    free(x);
    return s;
}

int main(int argc, char **argv) {
    const char *shape = "gpt14m", *recompute = "none";
    int64_t batch = 4, seq_len = 256, steps = 5, threads = 0, vocabulary = 7168;
    Flag flags[] = {
        {"--shape", FLAG_ENUM, &shape, 0, 0, "gpt14m|gpt124m|llama134m|nano|micro|small|medium",
         "a rival's exact size, or a preset", 0},
        {"--batch", FLAG_INT, &batch, 1, 4096, NULL, "rows a step", 0},
        {"--seq-len", FLAG_INT, &seq_len, 1, 65536, NULL, "tokens a row", 0},
        {"--steps", FLAG_INT, &steps, 1, STEPS_MAX, NULL, "steps measured, after one to warm up", 0},
        {"--threads", FLAG_INT, &threads, 0, 1024, NULL, "worker threads, 0 = all this process may use", 0},
        {"--vocabulary", FLAG_INT, &vocabulary, 2, 1 << 20, NULL, "ids, for the presets", 0},
        {"--recompute", FLAG_ENUM, &recompute, 0, 0, "none|mlp|block", "activations rebuilt in backward", 0},
    };
    enum { N_FLAGS = sizeof flags / sizeof *flags };
    Err err = {OK, ""};
    int help;
    Status s = flags_parse(flags, N_FLAGS, argc - 1, argv + 1, NULL, 0, NULL, &help, &err);
    if (!s && help) {
        flags_help(flags, N_FLAGS, "bench_step [--shape NAME] ...", "One training step on random tokens.", stdout);
        return 0;
    }
    const Recompute level = !strcmp(recompute, "none")  ? RECOMPUTE_NONE
                            : !strcmp(recompute, "mlp") ? RECOMPUTE_MLP
                                                        : RECOMPUTE_BLOCK;
    if (!s) s = run(shape, (int)batch, (int)seq_len, (int)steps, (int)threads, (int)vocabulary, level, &err);
    if (s) fprintf(stderr, "bench_step: %s\n", err.msg);
    return s == OK ? 0 : s == ERR_USAGE ? 2 : 1;
}
