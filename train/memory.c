/* memory.c - see memory.h. */
#include "train/memory.h"
#include <stdlib.h>
#include <string.h>

Status memory_plan(MemoryPlan *p, const TrainOptions *o, const ModelConfig *cfg, const Place *place, int world,
                   PassShape pass, Err *err) {
    const DType dtype = place->dtype;
    ParamTable table;
    Status s = param_table_build(&table, cfg, 16 * (int64_t)world, err);
    if (s) return s;
    const KernelOps *k = kernels_get(place->dev, dtype);
    const double elements = (double)table.total, arena = 4 * (double)table.trained, share = arena / world;
    const int N = (int)(pass.micro_batch * o->seq_len),
              host = device_kind(place->dev) == DEVICE_CPU && dtype == DTYPE_F32;
    const LoraWidest wide = lora_widest(cfg);
    const double adapters = (double)wide.width * (wide.rows + wide.cols) * (double)dtype_size(dtype) + 4.0 * wide.width * wide.rows;
    *p = (MemoryPlan){.weights = (double)dtype_size(dtype) * elements + adapters,
                      .gradients = arena,
                      .master = dtype == DTYPE_F32 ? 0 : share,
                      .moments = 2 * share,
                      .exchange = world == 1 ? 0
                                  : host     ? arena
                                             : share,
                      .activations = (double)acts_bytes(cfg, dtype, N, 1, pass.level),
                      .lent = o->batch == pass.micro_batch * world
                                  ? (double)acts_lent_bytes(cfg, &table, dtype, N, pass.level)
                                  : 0,
                      .scratch = k ? (double)acts_scratch_bytes(cfg, place->dev, k, N) : 0};
    p->trained = arena / 4;
    p->activations -= p->lent;
    p->all = p->weights + p->gradients + p->master + p->moments + p->exchange + p->activations + p->scratch;
    param_table_free(&table);
    return OK;
}

int64_t memory_fit(const TrainOptions *o, const ModelConfig *cfg, const Place *place, int world, Recompute level,
                   double available) {
    MemoryPlan p;
    Err err;
    const int64_t rows = o->batch / world;
    for (int64_t n = o->micro_batch; n > 0; n--) {
        if (rows % n) continue;
        if (memory_plan(&p, o, cfg, place, world, (PassShape){n, level}, &err)) return 0;
        if (p.all <= available) return n;
    }
    return 0;
}

Status memory_choose(TrainOptions *o, const ModelConfig *cfg, const Place *place, int world, Dist *dist, Err *err) {
    if (device_kind(place->dev) == DEVICE_CPU) return OK;
    double *rank = xcalloc((size_t)dist_world(dist), sizeof *rank);
    Status s = OK;
    /* Until all agree: fewer rows can need more memory, when for their sake a step gets more than one pass. */
    for (int64_t before = 0; !s && before != o->micro_batch;) {
        const int64_t fits = memory_fit(o, cfg, place, world, options_recompute(o), 0.95 * place->available);
        before = o->micro_batch;
        for (int r = 0; r < dist_world(dist); r++) rank[r] = 0;
        rank[dist_rank(dist)] = (double)(fits ? fits : o->micro_batch);
        s = dist_sum(dist, rank, dist_world(dist), err);
        for (int r = 0; !s && r < dist_world(dist); r++)
            if (rank[r] < (double)o->micro_batch) o->micro_batch = (int64_t)rank[r];
    }
    free(rank);
    return s;
}

typedef struct {
    char text[32];
} Size;

static Size size_text(double bytes) {
    const double GIB = 1073741824.0, MIB = 1048576.0;
    Size s;
    if (bytes >= 0.1 * GIB) snprintf(s.text, sizeof s.text, "%.2f GiB", bytes / GIB);
    else snprintf(s.text, sizeof s.text, "%.2f MiB", bytes / MIB);
    return s;
}

static Status explain(const TrainOptions *o, const ModelConfig *cfg, const Place *place, int world, const MemoryPlan *p,
                      double available, Err *err) {
    static const char *const levels[] = {"none", "mlp", "block"};
    const Recompute level = options_recompute(o);
    char fits[256] = "";
    for (int l = level; l <= RECOMPUTE_BLOCK; l++) {
        const int64_t n = memory_fit(o, cfg, place, world, (Recompute)l, available);
        if (!n) continue;
        const size_t at = strlen(fits);
        snprintf(fits + at, sizeof fits - at, "%s--micro-batch %lld --recompute %s", at ? ", or " : "", (long long)n,
                 levels[l]);
        if (n == o->micro_batch) break; /* recomputing more would only be slower */
    }
    return err_set(err, ERR_NOMEM,
                   "%s: a rank needs %s (weights %s, gradients %s, optimizer %s, activations %s, scratch %s) with "
                   "--micro-batch %lld --recompute %s, and %s can be had; %s%s",
                   device_name(place->dev), size_text(p->all).text, size_text(p->weights).text,
                   size_text(p->gradients).text, size_text(p->master + p->moments + p->exchange).text,
                   size_text(p->activations).text, size_text(p->scratch).text, (long long)o->micro_batch, o->recompute,
                   size_text(available).text,
                   fits[0] ? "what would fit: "
                           : "no --micro-batch fits: use more ranks, which share the optimizer's state, or a smaller "
                             "--model or --seq-len",
                   fits);
}

Status memory_check(const TrainOptions *o, const ModelConfig *cfg, const Place *place, int world, Err *err) {
    MemoryPlan p;
    if (device_kind(place->dev) == DEVICE_CPU) return OK;
    Status s = memory_plan(&p, o, cfg, place, world, (PassShape){o->micro_batch, options_recompute(o)}, err);
    return s || p.all <= place->available ? s : explain(o, cfg, place, world, &p, place->available, err);
}

void memory_explain(const TrainOptions *o, const ModelConfig *cfg, const Place *place, int world, Err *err) {
    MemoryPlan p;
    if (device_kind(place->dev) == DEVICE_CPU) return;
    if (memory_plan(&p, o, cfg, place, world, (PassShape){o->micro_batch, options_recompute(o)}, err)) return;
    explain(o, cfg, place, world, &p, place->available < p.all ? place->available : 0.9 * p.all, err);
}
