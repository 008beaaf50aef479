/* bench_step.c - one training step (forward, loss, backward, AdamW) on random tokens, no data set: tokens a second,
 * time by phase, arithmetic rate and peak memory, beside what other programs were measured to do at the same sizes.  On
 * a GPU also whole steps as ehr-train runs them: passes recorded, the host ahead, nobody waiting between phases. */
#include "kernels/philox.h"
#include "model/flags.h"
#include "train/optimizer.h"
#include "tests/bench_process.h"
#include "tests/bench_profile.h"
#include "tests/bench_rivals.h"
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
enum { N_SHAPES = sizeof SHAPES / sizeof *SHAPES, PHASES = 4, STEPS_MAX = BENCH_TIMES, MODES = 2 };

static const char *const PHASE_NAME[PHASES] = {"forward", "loss", "backward", "update"};
static const char *const RIVAL_MODE[MODES] = {"eager", "compile"};

typedef struct {
    const char *shape, *device, *dtype, *rival;
    int rows, T, steps, threads, vocab_size, sequences, profile;
    Recompute level;
} BenchOptions;

typedef struct {
    const BenchOptions *o;
    Device *dev;
    DType dtype;
    Dist *dist;
    Model m;
    Acts *acts;
    Optimizer optimizer;
    Batch batch;
    size_t free_before; /* bytes of the device's memory */
    double peak;        /* bytes of this process after a step, before anything that only measures */
    RivalProcess rival[MODES];
    int rival_runs[MODES];
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

/* sequences: of equal length, in each row. */
static void fill_batch(Batch *b, int rows, int T, int sequences, int vocab_size) {
    *b = (Batch){.rows = rows, .T = T, .N = rows * T, .n_seq = rows * sequences, .n_targets = rows * T};
    int32_t **arrays[] = {&b->tokens, &b->positions, &b->target_lo, &b->target_hi, &b->cu_seqlens};
    for (int i = 0; i < 5; i++) *arrays[i] = xcalloc((size_t)b->N + 1, sizeof(int32_t));
    for (int s = 0; s <= b->n_seq; s++)
        b->cu_seqlens[s] = s / sequences * T + (int)((int64_t)T * (s % sequences) / sequences);
    for (int s = 0; s < b->n_seq; s++)
        for (int n = b->cu_seqlens[s]; n < b->cu_seqlens[s + 1]; n++) {
            const Philox4 r = philox4x32(1, (uint64_t)n, 0);
            b->tokens[n] = (int32_t)(r.v[0] % (uint32_t)vocab_size);
            b->target_lo[n] = (int32_t)(r.v[1] % (uint32_t)vocab_size);
            b->target_hi[n] = b->target_lo[n] + 1;
            b->positions[n] = n - b->cu_seqlens[s];
        }
}

static Status device_status(const Bench *x, Err *err) {
    return device_sync(x->dev) ? err_set(err, ERR_DEVICE, "%s", device_error(x->dev)) : OK;
}

/* o->rival: command of a process as tests/bench_torch.py, which gets the shape.  They get ready meanwhile. */
static void rivals_start(Bench *x, const ModelConfig *m) {
    for (int i = 0; x->o->rival && i < MODES; i++) {
        char *command = xasprintf("exec %s %d %d %d %d %d %d %d %d %d %d %d %s", x->o->rival, m->n_layers, m->d_model,
                                  m->n_heads, m->n_kv_heads, m->head_dim, m->d_ff, m->vocab_size, m->tied, x->o->rows,
                                  x->o->T, device_threads(x->dev), RIVAL_MODE[i]);
        rival_start(&x->rival[i], command);
        free(command);
    }
}

static Status step_open(Bench *x, const ModelConfig *cfg, const BenchOptions *o, Err *err) {
    const OptimizerOptions adamw = {.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1};
    const int gpu = !strcmp(o->device, "cuda");
    char msg[512];
    size_t total;
    x->o = o;
    x->dtype = !strcmp(o->dtype, "bf16") || (gpu && !strcmp(o->dtype, "auto")) ? DTYPE_BF16 : DTYPE_F32;
    x->dev = device_open(gpu ? DEVICE_CUDA : DEVICE_CPU, 0, o->threads, msg, sizeof msg);
    if (!x->dev) return err_set(err, ERR_DEVICE, "%s", msg);
    /* One thread is timed by the process's own clock, which stands still while others have the core. */
    bench_clock = !gpu && device_threads(x->dev) == 1 ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC;
    device_memory(x->dev, &x->free_before, &total);
    if (!gpu) rivals_start(x, cfg);
    Status s = dist_open(&x->dist, "none", 1, err);
    if (!s) s = model_open(&x->m, cfg, x->dev, x->dtype, 16, err);
    if (s) return s;
    model_init(&x->m, 1);
    fill_batch(&x->batch, o->rows, o->T, o->sequences, cfg->vocab_size);
    s = optimizer_open(&x->optimizer, &x->m, x->dist, &adamw, err);
    if (!s) s = acts_open_lent(&x->acts, &x->m, x->batch.N, o->level, x->optimizer.grad, err);
    if (!s) optimizer_init(&x->optimizer, 1);
    return s;
}

static void step_close(Bench *x) {
    for (int i = 0; i < MODES; i++) rival_end(&x->rival[i]);
    if (!x->dev) return;
    int32_t *arrays[] = {x->batch.tokens, x->batch.positions, x->batch.target_lo, x->batch.target_hi,
                         x->batch.cu_seqlens};
    for (int i = 0; i < 5; i++) free(arrays[i]);
    optimizer_close(&x->optimizer);
    acts_close(x->acts);
    if (x->m.dev) model_close(&x->m);
    dist_close(x->dist);
    device_close(x->dev);
}

/* The same work, waiting after each phase; seconds of each in out. */
static Status bench_phases(Bench *x, int step, double out[PHASES], Err *err) {
    Model *m = &x->m;
    double at[PHASES + 1];
    at[0] = bench_now();
    model_upload(m, x->acts, &x->batch);
    model_forward(m, x->acts);
    device_sync(x->dev);
    at[1] = bench_now();
    model_loss(m, x->acts, &x->optimizer.grads);
    device_sync(x->dev);
    at[2] = bench_now();
    model_backward(m, x->acts, &x->optimizer.grads, NULL, NULL);
    device_sync(x->dev);
    at[3] = bench_now();
    optimizer_queue_norm(&x->optimizer);
    optimizer_norm(&x->optimizer);
    optimizer_update(&x->optimizer, 1e-4, 1.0 / x->batch.n_targets, step);
    Status s = device_status(x, err);
    at[4] = bench_now();
    for (int i = 0; i < PHASES; i++) out[i] = at[i + 1] - at[i];
    return s;
}

/* Steps as ehr-train runs them; seconds of one, on average. */
static Status bench_whole(Bench *x, int n, double *seconds, Err *err) {
    double start = 0;
    for (int step = -2; step < n; step++) { /* the first runs directly, the second is recorded */
        if (step == 0) {
            Status s = device_status(x, err);
            if (s) return s;
            start = bench_now();
        }
        model_upload(&x->m, x->acts, &x->batch);
        model_pass(&x->m, x->acts, &x->optimizer.grads, NULL, NULL);
        optimizer_queue_norm(&x->optimizer);
        optimizer_norm(&x->optimizer);
        optimizer_update(&x->optimizer, 1e-4, 1.0 / x->batch.n_targets, step + 3);
    }
    Status s = device_status(x, err);
    *seconds = (bench_now() - start) / n;
    return s;
}

static void report_memory(const Bench *x) {
    const double GIB = 1073741824.0, total = (double)x->m.table.total;
    const double state = ((x->dtype == DTYPE_F32 ? 16.0 : 18.0) * total) / GIB;
    const double acts = (double)acts_bytes(&x->m.cfg, x->dtype, x->batch.N, 1, x->o->level) / GIB;
    const double lent = (double)acts_lent_bytes(&x->m.cfg, &x->m.table, x->dtype, x->batch.N, x->o->level) / GIB;
    double peak = x->peak / GIB;
    if (device_kind(x->dev) == DEVICE_CUDA) {
        size_t now, all;
        device_memory(x->dev, &now, &all);
        peak = (double)(x->free_before - now) / GIB; /* nothing is allocated or freed once steps run */
    }
    printf("  %-10s %9.2f GiB   (%d B a parameter are %.2f, activations %.2f more and %.2f in memory of gradients)\n",
           device_kind(x->dev) == DEVICE_CUDA ? "device" : "peak RSS", peak, x->dtype == DTYPE_F32 ? 16 : 18, state,
           acts - lent, lent);
}

static void report_rate(const Bench *x, const char *what, double median, double best) {
    const double tokens = x->batch.N;
    const double flops = model_flops_per_token(&x->m.cfg, x->batch.N / (double)x->batch.n_seq) * tokens;
    const double peak = device_peak_flops(x->dev, x->dtype);
    printf("  %-10s %12.2f %12.2f\n", what, 1e3 * median, 1e3 * best);
    printf("  tokens/s   %12.1f %12.1f\n", tokens / median, tokens / best);
    printf("  GFLOP/s    %12.1f %12.1f", 1e-9 * flops / median, 1e-9 * flops / best);
    if (peak > 0) printf("   best = MFU %.1f%% of %.0f TFLOP/s", 100 * flops / best / peak, peak * 1e-12);
    printf("\n");
}

static void report(const Bench *x, double steps[][PHASES], int n, double whole) {
    double total[STEPS_MAX], column[STEPS_MAX];
    for (int i = 0; i < n; i++) {
        total[i] = 0;
        for (int p = 0; p < PHASES; p++) total[i] += steps[i][p];
    }
    const double median = bench_middle(total, n);
    printf("  %-10s %12s %12s %10s\n", "phase", "median ms", "best ms", "share");
    for (int p = 0; p < PHASES; p++) {
        for (int i = 0; i < n; i++) column[i] = steps[i][p];
        const double middle = bench_middle(column, n);
        printf("  %-10s %12.2f %12.2f %9.1f%%\n", PHASE_NAME[p], 1e3 * middle, 1e3 * column[0], 100 * middle / median);
    }
    report_rate(x, "step", median, total[0]);
    if (whole > 0) {
        printf("  whole steps, recorded, nobody waiting in between: mean of %d\n", n);
        report_rate(x, "step", whole, whole);
    }
    report_memory(x);
}

/* The machine's ceilings, measured beside the steps. */
typedef struct {
    Rivals libraries;
    float *memory;
    BenchTimes peak, read, sgemm; /* seconds a FLOP or byte */
} Ceilings;
enum { CEILING_FLOATS = 32 << 20, PROFILE_STEPS = 3 };

static void ceilings_measure(Ceilings *c, const Bench *x) {
    bench_add(&c->peak, 1 / bench_peak_flops(x->dev));
    bench_add(&c->read, 1 / bench_read_bytes(c->memory, CEILING_FLOATS, device_threads(x->dev)));
    bench_add(&c->sgemm, 1 / rivals_sgemm_rate(&c->libraries, x->dev, c->memory));
}

/* Forward and loss without gradient: what scoring does. */
static Status bench_forward(Bench *x, double *seconds, Err *err) {
    const double start = bench_now();
    model_upload(&x->m, x->acts, &x->batch);
    model_forward(&x->m, x->acts);
    model_loss(&x->m, x->acts, NULL);
    *seconds = bench_now() - start;
    return device_status(x, err);
}

static void report_turn(const char *name, BenchTimes *step, BenchTimes *forward, const RivalProcess *r, double step_best,
                        double forward_best, double step_median) {
    printf("  %-58s %9.1f %9.1f %9.1f", name, 1e3 * bench_median(step), 1e3 * bench_best(step), 1e3 * bench_best(forward));
    if (r)
        printf("   %5.2fx  %5.2fx  %5.2fx   %5.2f GiB", bench_best(step) / step_best, bench_median(step) / step_median,
               bench_best(forward) / forward_best, r->memory / 1073741824.0);
    printf("\n");
}

/* n steps of ours and of the rivals, in turn. */
static Status take_turns(Bench *x, Ceilings *c, double steps[][PHASES], BenchTimes *forward, int n, Err *err) {
    Status s = OK;
    for (int i = 0; x->o->rival && i < MODES; i++) {
        x->rival_runs[i] = !rival_ready(&x->rival[i]);
        if (!x->rival_runs[i]) printf("  %s: does not run here\n", RIVAL_MODE[i]);
    }
    for (int rep = 0; rep < n && !s; rep++) {
        double seconds = 0;
        ceilings_measure(c, x);
        s = bench_phases(x, rep + 2, steps[rep], err);
        if (!s) s = bench_forward(x, &seconds, err);
        bench_add(forward, seconds);
        for (int i = 0; i < MODES; i++) {
            RivalProcess *r = &x->rival[i];
            if (x->rival_runs[i]) bench_add(&r->step, rival_ask(r, "step")), bench_add(&r->forward, rival_ask(r, "forward"));
        }
    }
    return s;
}

static void report_turns(Bench *x, Ceilings *c, double steps[][PHASES], BenchTimes *forward, int n) {
    BenchTimes *mine = xcalloc(1, sizeof *mine);
    for (int i = 0; i < n; i++) bench_add(mine, steps[i][0] + steps[i][1] + steps[i][2] + steps[i][3]);
    const double best = bench_best(mine), quickest = bench_best(forward), median = bench_median(mine);
    const double flops = model_flops_per_token(&x->m.cfg, x->batch.N / (double)x->batch.n_seq) * x->batch.N;
    const double sgemm = 1 / bench_best(&c->sgemm), peak = 1 / bench_best(&c->peak);
    printf("  %d in turn, ms %44s %9s %9s %9s", n, "", "median", "best", "forward");
    printf(x->o->rival ? "   ours is: step, median, forward\n" : "\n");
    report_turn("ours", mine, forward, NULL, best, quickest, median);
    for (int i = 0; i < MODES; i++) {
        RivalProcess *r = &x->rival[i];
        if (!x->rival_runs[i]) continue;
        r->memory = rival_ask(r, "memory");
        report_turn(r->name, &r->step, &r->forward, r, best, quickest, median);
    }
    printf("  whole step, best: %.1f GFLOP/s = %.0f%% of the best sgemm (%.1f: ours%s%s%s%s), %.0f%% of the multiply-add peak\n",
           1e-9 * flops / best, 100 * flops / best / sgemm, 1e-9 * sgemm, c->libraries.name[0][0] ? ", " : "",
           c->libraries.name[0], c->libraries.name[1][0] ? ", " : "", c->libraries.name[1], 100 * flops / best / peak);
    free(mine);
}

/* The same steps again, every operation timed by itself; the CPU's are a plain table. */
static Status report_operations(Bench *x, Ceilings *c, int n, Err *err) {
    double phases[PHASES];
    Status s = OK;
    x->m.k = profile_table(x->m.k, device_threads(x->dev));
    for (int i = 0; i < n && !s; i++) {
        ceilings_measure(c, x);
        s = bench_phases(x, i + 2, phases, err);
    }
    if (!s) profile_print(stdout, n, 1 / bench_best(&c->peak), 1 / bench_best(&c->read));
    return s;
}

/* Steps on the CPU beside rivals and ceilings. */
static Status run_beside(Bench *x, double steps[][PHASES], Err *err) {
    const int n = x->o->steps;
    Ceilings *c = xcalloc(1, sizeof *c);
    BenchTimes *forward = xcalloc(1, sizeof *forward);
    c->libraries = rivals_open(cpu_level(x->dev), device_threads(x->dev));
    c->memory = bench_floats(x->dev, CEILING_FLOATS);
    Status s = take_turns(x, c, steps, forward, n, err);
    if (!s) {
        report(x, steps, n, 0);
        report_turns(x, c, steps, forward, n);
    }
    if (!s && x->o->profile) s = report_operations(x, c, n < PROFILE_STEPS ? n : PROFILE_STEPS, err);
    device_free(x->dev, c->memory);
    free(forward);
    free(c);
    return s;
}

static Status run_alone(Bench *x, double steps[][PHASES], Err *err) {
    const int n = x->o->steps;
    double whole = 0;
    Status s = OK;
    for (int i = 0; i < n && !s; i++) s = bench_phases(x, i + 2, steps[i], err);
    if (!s && device_kind(x->dev) == DEVICE_CUDA) s = bench_whole(x, n, &whole, err);
    if (!s) report(x, steps, n, whole);
    return s;
}

static Status run(const BenchOptions *o, Err *err) {
    ModelConfig cfg;
    Status s = shape_config(&cfg, o->shape, o->vocab_size, err);
    if (s) return s;
    cfg.seq_len = o->T;
    Bench *x = xcalloc(1, sizeof *x);
    double(*steps)[PHASES] = xcalloc(STEPS_MAX, sizeof *steps), warm[PHASES];
    s = step_open(x, &cfg, o, err);
    if (!s) {
        printf("%s: %.2f million parameters (%d layers, C %d, H %d, G %d, F %d, V %d, %s head), batch %d x %d in %d "
               "sequences, %s, %s\n",
               o->shape, (double)x->m.table.n_params * 1e-6, cfg.n_layers, cfg.d_model, cfg.n_heads, cfg.n_kv_heads,
               cfg.d_ff, cfg.vocab_size, cfg.tied ? "tied" : "untied", o->rows, o->T, x->batch.n_seq,
               dtype_name(x->dtype), device_name(x->dev));
        for (int i = 0; i < N_SHAPES; i++)
            if (!strcmp(SHAPES[i].name, o->shape)) printf("  %s\n", SHAPES[i].note);
        s = bench_phases(x, 1, warm, err);
        struct rusage usage;
        getrusage(RUSAGE_SELF, &usage);
        x->peak = 1024.0 * (double)usage.ru_maxrss;
    }
    const int beside = (o->profile || o->rival) && device_kind(x->dev) == DEVICE_CPU;
    if (!s) s = beside ? run_beside(x, steps, err) : run_alone(x, steps, err);
    step_close(x);
    free(steps);
    free(x);
    return s;
}

int main(int argc, char **argv) {
    BenchOptions o = {.shape = "gpt14m", .device = "cpu", .dtype = "auto"};
    const char *recompute = "none";
    int64_t batch = 4, seq_len = 256, steps = 5, threads = 0, vocabulary = 7168, sequences = 1;
    Flag flags[] = {
        {"--shape", FLAG_ENUM, &o.shape, 0, 0, "gpt14m|gpt124m|llama134m|nano|micro|small|medium|large",
         "a rival's exact size, or a preset", 0},
        {"--preset", FLAG_ENUM, &o.shape, 0, 0, "nano|micro|small|medium|large", "the same as --shape", 0},
        {"--device", FLAG_ENUM, &o.device, 0, 0, "cpu|cuda", "where to compute", 0},
        {"--dtype", FLAG_ENUM, &o.dtype, 0, 0, "auto|f32|bf16", "auto: bf16 on a GPU, f32 on the CPU", 0},
        {"--batch", FLAG_INT, &batch, 1, 4096, NULL, "rows a step", 0},
        {"--seq-len", FLAG_INT, &seq_len, 1, 65536, NULL, "tokens a row", 0},
        {"--sequences", FLAG_INT, &sequences, 1, 4096, NULL, "packed into each row, of equal length", 0},
        {"--steps", FLAG_INT, &steps, 1, STEPS_MAX, NULL, "steps measured, after one to warm up", 0},
        {"--threads", FLAG_INT, &threads, 0, 1024, NULL, "worker threads, 0 = all this process may use", 0},
        {"--vocabulary", FLAG_INT, &vocabulary, 2, 1 << 20, NULL, "ids, for the presets", 0},
        {"--recompute", FLAG_ENUM, &recompute, 0, 0, "none|mlp|block", "activations rebuilt in backward", 0},
        {"--profile", FLAG_BOOL, &o.profile, 0, 0, NULL, "then the time of every operation (on the CPU)", 0},
        {"--rival", FLAG_STRING, &o.rival, 0, 0, NULL, "command that runs tests/bench_torch.py, its steps in turn with ours", 0},
    };
    enum { N_FLAGS = sizeof flags / sizeof *flags };
    Err err = {OK, ""};
    int help;
    Status s = flags_parse(flags, N_FLAGS, argc - 1, argv + 1, NULL, 0, NULL, &help, &err);
    if (!s && help) {
        flags_help(flags, N_FLAGS, "bench_step [--shape NAME] ...", "One training step on random tokens.", stdout);
        return 0;
    }
    if (!s && sequences > seq_len)
        s = err_set(&err, ERR_USAGE, "--sequences %lld do not fit into --seq-len %lld", (long long)sequences,
                    (long long)seq_len);
    o.rows = (int)batch, o.T = (int)seq_len, o.steps = (int)steps, o.threads = (int)threads;
    o.vocab_size = (int)vocabulary, o.sequences = (int)sequences;
    o.level = !strcmp(recompute, "none") ? RECOMPUTE_NONE : !strcmp(recompute, "mlp") ? RECOMPUTE_MLP : RECOMPUTE_BLOCK;
    if (!s) s = run(&o, &err);
    if (s) fprintf(stderr, "bench_step: %s\n", err.msg);
    return s == OK ? 0 : s == ERR_USAGE ? 2 : 1;
}
