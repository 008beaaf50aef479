/* dryrun.c - see dryrun.h. */
#include "train/dryrun.h"
#include "data/loader.h"
#include <stdlib.h>

/* FLOP/s of the model's own kind of product, on this machine now. */
static double matmul_rate(Device *dev) {
    enum { ROWS = 1024, WIDTH = 512 };
    const KernelOps *k = kernels_get(dev, DTYPE_F32);
    if (!k) return 0;
    float *in = device_alloc(dev, ROWS * WIDTH * sizeof *in), *w = device_alloc(dev, WIDTH * WIDTH * sizeof *w);
    float *out = device_alloc(dev, ROWS * WIDTH * sizeof *out);
    KernelLimits limits = {.N = ROWS, .C = WIDTH, .F = WIDTH, .Vp = 64, .H = 1, .G = 1, .D = 64, .n_seq = 1};
    Weight weight = {.data = w, .dtype = DTYPE_F32, .rows = WIDTH, .cols = WIDTH, .layout = WEIGHT_ROWS};
    double rate = 0, start = clock_s();
    if (in && w && out && !device_reserve(dev, k->workspace_bytes(dev, &limits)))
        for (int n = 0; n < 3 || clock_s() - start < 0.3; n++) {
            double begin = clock_s();
            k->matmul_forward(dev, out, in, &weight, ROWS);
            if (device_sync(dev)) break;
            double now = 2.0 * ROWS * WIDTH * WIDTH / (clock_s() - begin);
            if (now > rate) rate = now;
        }
    device_free(dev, in);
    device_free(dev, w);
    device_free(dev, out);
    return rate;
}

static Status batch_shape(const TrainOptions *o, Dataset *d, double *tokens_per_row, double *context, Err *err) {
    Loader *loader = NULL;
    LoaderOptions lo = {.rows = (int)(o->batch < 64 ? o->batch : 64), .T = (int)o->seq_len, .seed = (uint64_t)o->seed,
                        .shuffle = 1, .world = 1};
    Batch *b;
    Status s = loader_open(&loader, d, SPLIT_TRAIN, &lo, err);
    if (!s) s = loader_next(loader, &b, err);
    if (!s) {
        double tokens = 0, squares = 0;
        for (int i = 0; i < b->n_seq; i++) {
            double n = b->cu_seqlens[i + 1] - b->cu_seqlens[i];
            if (b->seq_patient[i] < 0) continue;
            tokens += n;
            squares += n * n;
        }
        *tokens_per_row = tokens / b->rows;
        *context = squares / tokens;
    }
    loader_close(loader);
    return s;
}

Status dry_run(const TrainOptions *o, const ModelConfig *cfg, Dataset *d, Device *dev, int world, FILE *out, Err *err) {
    const double MB = 1e-6;
    ParamTable table;
    double tokens_per_row, context;
    Status s = batch_shape(o, d, &tokens_per_row, &context, err);
    if (!s) s = param_table_build(&table, cfg, 16 * (int64_t)world, err);
    if (s) return s;
    double arena = 4.0 * (double)table.total, share = arena / world;
    int N = (int)(o->micro_batch * o->seq_len);
    double acts = (double)acts_bytes(cfg, DTYPE_F32, N, 1, options_recompute(o));
    double exchange = world > 1 ? share + arena - share : 0;
    fprintf(out, "%s: %.2f M parameters, vocabulary %d; %d ranks x %lld passes x %lld rows of %lld tokens\n", o->preset,
            1e-6 * (double)table.n_params, cfg->vocab_size, world, (long long)(o->batch / world / o->micro_batch),
            (long long)o->micro_batch, (long long)o->seq_len);
    fprintf(out, "memory of a rank, MB\n");
    fprintf(out, "  weights         %10.1f\n  gradients       %10.1f\n", MB * arena, MB * arena);
    fprintf(out, "  moments         %10.1f   (two, over %d ranks)\n", MB * 2 * share, world);
    fprintf(out, "  exchange        %10.1f   (summed part and what peers send)\n", MB * exchange);
    fprintf(out, "  activations     %10.1f   (--recompute %s)\n", MB * acts, o->recompute);
    fprintf(out, "  in all          %10.1f\n", MB * (2 * arena + 2 * share + exchange + acts));
    acts_report(cfg, DTYPE_F32, N, 1, options_recompute(o), out);
    fprintf(out, "sent by a rank each step: %.1f MB (gradients) + %.1f MB (weights)\n", MB * (arena - share), MB * (arena - share));
    double rate = matmul_rate(dev), flops = model_flops_per_token(cfg, context) * tokens_per_row * (double)o->batch / world;
    fprintf(out, "a step: %.0f tokens (rows %.0f%% full, mean context %.0f), %.1f GFLOP a rank", tokens_per_row * (double)o->batch,
            100 * tokens_per_row / (double)o->seq_len, context, 1e-9 * flops);
    if (rate > 0)
        fprintf(out, "; at the %.0f GFLOP/s of a matrix product here: %.3f s, %.0f tokens/s\n", 1e-9 * rate, flops / rate,
                tokens_per_row * (double)o->batch * rate / flops);
    else
        fputc('\n', out);
    param_table_free(&table);
    return OK;
}
