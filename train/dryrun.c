/* dryrun.c - see dryrun.h. */
#include "train/dryrun.h"
#include "data/loader.h"
#include "train/memory.h"
#include <stdlib.h>

/* FLOP/s of one product of (rows, width) with (width, width); 0 where it cannot be had. */
static double product_rate(Device *dev, DType dtype, int rows, int width, double *seconds) {
    const KernelOps *k = kernels_get(dev, dtype);
    const size_t element = dtype_size(dtype), n = (size_t)rows * (size_t)width * element;
    void *in = device_alloc(dev, n), *w = device_alloc(dev, (size_t)width * (size_t)width * element);
    void *out = device_alloc(dev, n);
    KernelLimits limits = {.N = rows, .C = width, .F = width, .Vp = 64, .H = 1, .G = 1, .D = 64, .n_seq = 1};
    Weight weight = {.data = w, .dtype = dtype, .rows = width, .cols = width, .layout = WEIGHT_ROWS};
    double start = clock_s();
    *seconds = 1e9;
    if (in && w && out && !device_reserve(dev, k->workspace_bytes(dev, &limits)))
        for (int i = 0; i < 3 || clock_s() - start < 0.3; i++) {
            double begin = clock_s();
            k->matmul_forward(dev, out, in, &weight, rows);
            if (device_sync(dev)) break;
            if (clock_s() - begin < *seconds) *seconds = clock_s() - begin;
        }
    device_free(dev, in);
    device_free(dev, w);
    device_free(dev, out);
    return 2.0 * rows * width * width / *seconds;
}

/* FLOP/s of the model's own kind of product, on this machine now: sizes grow until starting one costs nothing. */
static double matmul_rate(const Place *p) {
    double rate = 0, seconds = 0;
    if (!kernels_get(p->dev, p->dtype)) return 0;
    for (int width = 512; width <= 4096 && seconds < 1e-3; width *= 2)
        rate = product_rate(p->dev, p->dtype, 2 * width, width, &seconds);
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

static void print_memory(const MemoryPlan *p, const TrainOptions *o, const Place *place, int world, FILE *out) {
    const double MB = 1e-6;
    fprintf(out, "memory of a rank, MB\n");
    fprintf(out, "  weights         %10.1f   (%s)\n  gradients       %10.1f   (F32)\n", MB * p->weights, dtype_name(place->dtype),
            MB * p->gradients);
    if (p->master > 0) fprintf(out, "  master          %10.1f   (F32, over %d ranks)\n", MB * p->master, world);
    fprintf(out, "  moments         %10.1f   (two, F32, over %d ranks)\n", MB * p->moments, world);
    fprintf(out, "  exchange        %10.1f   (summed part%s)\n", MB * p->exchange,
            device_kind(place->dev) == DEVICE_CPU ? " and what peers send" : "");
    fprintf(out, "  activations     %10.1f   (--micro-batch %lld --recompute %s", MB * p->activations,
            (long long)o->micro_batch, o->recompute);
    if (p->lent > 0) fprintf(out, "; %.1f more in memory of gradients", MB * p->lent);
    fprintf(out, ")\n");
    if (p->scratch > 0) fprintf(out, "  scratch         %10.1f\n", MB * p->scratch);
    fprintf(out, "  in all          %10.1f", MB * p->all);
    if (device_kind(place->dev) == DEVICE_CUDA) fprintf(out, "   of %.1f", MB * place->available);
    fprintf(out, "\n");
}

Status dry_run(const TrainOptions *o, const ModelConfig *cfg, Dataset *d, const Place *place, int world, FILE *out, Err *err) {
    const double MB = 1e-6;
    const int N = (int)(o->micro_batch * o->seq_len);
    const Recompute level = options_recompute(o);
    ParamTable table;
    MemoryPlan plan;
    double tokens_per_row, context;
    Status s = batch_shape(o, d, &tokens_per_row, &context, err);
    if (!s) s = memory_plan(&plan, o, cfg, place, world, (PassShape){o->micro_batch, level}, err);
    if (!s) s = param_table_build(&table, cfg, 16 * (int64_t)world, err);
    if (s) return s;
    fprintf(out, "%s: %.2f M parameters, vocabulary %d; %d ranks x %lld passes x %lld rows of %lld tokens, on %s\n", o->preset,
            1e-6 * (double)table.n_params, cfg->vocab_size, world, (long long)options_passes(o, world),
            (long long)o->micro_batch, (long long)o->seq_len, device_name(place->dev));
    if (o->lora_rank)
        fprintf(out, "adapters of rank %lld on %s%s: %.3f M of them are trained; gradients, moments and master are of these alone\n",
                (long long)o->lora_rank, o->lora_targets, o->train_embeddings ? ", embeddings whole" : "", 1e-6 * (double)table.n_trainable);
    double everything = 0; /* parameters, without adapters */
    for (int i = 0; i < table.n; i++)
        if (table.spec[i].init < INIT_LORA_A) everything += (double)(table.spec[i].file_rows * table.spec[i].cols);
    print_memory(&plan, o, place, world, out);
    if (o->lora_rank)
        fprintf(out, "optimizer of the adapters: %.2f MB of moments and gradients, where all parameters would have %.2f MB\n",
                12 * MB * plan.trained, 12 * MB * everything);
    acts_report(cfg, plan.lent > 0 ? &table : NULL, place->dtype, N, 1, level, out);
    param_table_free(&table);
    double others = 1 - 1.0 / world;
    fprintf(out, "sent by a rank each step: %.1f MB (gradients) + %.1f MB (weights)\n", MB * plan.gradients * others,
            MB * plan.trained * (double)dtype_size(place->dtype) * others);
    double rate = matmul_rate(place), flops = model_flops_per_token(cfg, context) * tokens_per_row * (double)o->batch / world;
    fprintf(out, "a step: %.0f tokens (rows %.0f%% full, mean context %.0f), %.1f GFLOP a rank", tokens_per_row * (double)o->batch,
            100 * tokens_per_row / (double)o->seq_len, context, 1e-9 * flops);
    if (rate > 0)
        fprintf(out, "; at the %.0f GFLOP/s of a matrix product here: %.3f s, %.0f tokens/s\n", 1e-9 * rate, flops / rate,
                tokens_per_row * (double)o->batch * rate / flops);
    else
        fprintf(out, "; no speed: %s does not compute in %s\n", device_name(place->dev), dtype_name(place->dtype));
    return memory_check(o, cfg, place, world, err);
}
