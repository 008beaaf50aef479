/* options.c - see options.h.  A flag left out holds 0 or -1 until the preset or the plan fills it in, so that the banner
 * and the stored settings show the values that were used. */
#include "train/options.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* What a preset trains with when nobody says otherwise. */
typedef struct {
    const char *name;
    int64_t     seq_len, batch;
    double      learning_rate;
    int         d_model; /* the preset's: of other shapes the widest that is no wider lends its learning rate */
} PresetDefaults;
static const PresetDefaults PRESET_DEFAULTS[] = {
    {"nano", 512, 8, 3e-3, 128},     {"micro", 1024, 8, 2e-3, 256},   {"small", 8192, 16, 1e-3, 512},
    {"medium", 8192, 16, 6e-4, 768}, {"large", 8192, 32, 3e-4, 2048},
};
enum { PRESETS = sizeof PRESET_DEFAULTS / sizeof *PRESET_DEFAULTS };
/* Adapters start at nothing and want larger steps than weights.  Nats over the best after 100 steps of 4 x 512 tokens, rank 8, a
 * model of width 192 on a cohort whose drugs and complaints had changed names (Zen 5, 2026-11-30): 0.50, 0.21, 0.07 and 0 at 1e-3,
 * 3e-3, 1e-2 and 3e-2; at 1e-1 it breaks. */
static const double LORA_RATE = 3; /* times the rate for weights */

static void add(TrainOptions *o, const char *name, FlagType type, void *value, double min, double max, const char *choices,
                const char *help) {
    REQUIRE(o->n_flags < TRAIN_FLAGS_MAX);
    o->flags[o->n_flags++] = (Flag){name, type, value, min, max, choices, help, 0};
}

static void recipe_flags(TrainOptions *o) {
    const double big = 1e12;
    add(o, "--model", FLAG_ENUM, &o->preset, 0, 0, config_presets(), "size of the model");
    add(o, "--layers", FLAG_INT, &o->layers, 1, 1024, NULL, "blocks, instead of the preset's");
    add(o, "--d-model", FLAG_INT, &o->d_model, 16, 65536, NULL, "width, instead of the preset's");
    add(o, "--heads", FLAG_INT, &o->heads, 1, 1024, NULL, "query heads, instead of the preset's");
    add(o, "--kv-heads", FLAG_INT, &o->kv_heads, 1, 1024, NULL, "key/value heads, instead of the preset's");
    add(o, "--head-dim", FLAG_INT, &o->head_dim, 16, 256, NULL, "width of a head, 64 or 128, instead of the preset's");
    add(o, "--d-ff", FLAG_INT, &o->d_ff, 16, 1 << 20, NULL, "feed-forward width, instead of the preset's");
    add(o, "--tied", FLAG_BOOL, &o->tied, 0, 0, NULL, "head and embedding share weights, instead of the preset's");
    add(o, "--seq-len", FLAG_INT, &o->seq_len, 16, 1 << 20, NULL, "tokens a row, the longest context");
    add(o, "--batch", FLAG_INT, &o->batch, 1, 1 << 24, NULL, "rows a step, over all ranks");
    add(o, "--steps", FLAG_INT, &o->steps, 1, big, NULL, "updates in all");
    add(o, "--epochs", FLAG_FLOAT, &o->epochs, 1e-6, 1e6, NULL, "passes over the train split, instead of --steps");
    add(o, "--learning-rate", FLAG_FLOAT, &o->learning_rate, 1e-12, 1e6, NULL, "peak; with --init by the parent's width, with --lora-rank 3 times that");
    add(o, "--min-lr-ratio", FLAG_FLOAT, &o->min_lr_ratio, 0, 1, NULL, "last learning rate over the peak");
    add(o, "--warmup-steps", FLAG_INT, &o->warmup_steps, 0, big, NULL, "linear rise; a twentieth of the steps if left out");
    add(o, "--schedule", FLAG_ENUM, &o->schedule, 0, 0, "cosine|wsd|constant", "course of the learning rate");
    add(o, "--decay-steps", FLAG_INT, &o->decay_steps, 0, big, NULL, "wsd: falling steps; a fifth if left out");
    add(o, "--weight-decay", FLAG_FLOAT, &o->weight_decay, 0, 1e3, NULL, "AdamW, of matrices");
    add(o, "--beta1", FLAG_FLOAT, &o->beta1, 0, 0.999999, NULL, "AdamW, first moment");
    add(o, "--beta2", FLAG_FLOAT, &o->beta2, 0, 0.999999, NULL, "AdamW, second moment");
    add(o, "--clip", FLAG_FLOAT, &o->clip, 0, 1e9, NULL, "largest norm of the gradient; 0 = no limit");
    add(o, "--lora-rank", FLAG_INT, &o->lora_rank, 1, 65536, NULL, "train low-rank adapters of --init, and leave its weights as they are");
    add(o, "--lora-alpha", FLAG_FLOAT, &o->lora_alpha, 1e-6, 1e6, NULL, "adapters count alpha / rank; twice the rank if left out");
    add(o, "--lora-targets", FLAG_STRING, &o->lora_targets, 0, 0, NULL, "projections that get one, of q,k,v,o,gate,up,down");
    add(o, "--train-embeddings", FLAG_BOOL, &o->train_embeddings, 0, 0, NULL, "with --lora-rank: train embedding and head whole, for new codes");
    add(o, "--seed", FLAG_INT, &o->seed, 0, 9e15, NULL, "of the initial weights and the order of patients");
    add(o, "--note", FLAG_STRING, &o->note, 0, 0, NULL, "free text kept with the checkpoints");
    o->n_recipe = o->n_flags;
}

static void circumstance_flags(TrainOptions *o) {
    const double big = 1e12;
    add(o, "--data", FLAG_STRING, &o->data, 0, 0, NULL, "dataset folder, from ehr-data tokenize");
    add(o, "--out", FLAG_STRING, &o->out, 0, 0, NULL, "run folder: step-N/, latest, best, log.jsonl");
    add(o, "--require-deidentified", FLAG_BOOL, &o->require_deidentified, 0, 0, NULL, "refuse data that did not go through ehr-data deidentify");
    add(o, "--init", FLAG_STRING, &o->init, 0, 0, NULL, "start from the weights of a Qwen3 folder (a checkpoint, an export); resuming goes first");
    add(o, "--resume", FLAG_STRING, &o->resume, 0, 0, NULL, "auto: go on from the newest checkpoint in --out; none; or a checkpoint folder");
    add(o, "--micro-batch", FLAG_INT, &o->micro_batch, 1, 1 << 20, NULL, "rows a pass of one rank; fitted to --batch if left out");
    add(o, "--recompute", FLAG_ENUM, &o->recompute, 0, 0, "none|mlp|block", "activations rebuilt in the backward pass, for memory");
    add(o, "--checkpoint-every", FLAG_INT, &o->checkpoint_every, 1, big, NULL, "steps; a tenth of them, at most 1000, if left out");
    add(o, "--keep", FLAG_INT, &o->keep, 1, 1e6, NULL, "newest checkpoints kept, besides best");
    add(o, "--eval-every", FLAG_INT, &o->eval_every, 1, big, NULL, "steps between losses on the tuning split; as checkpoints if left out");
    add(o, "--eval-tokens", FLAG_INT, &o->eval_tokens, 0, 1e15, NULL, "tokens of the tuning split looked at; 0 = all");
    add(o, "--max-skipped", FLAG_INT, &o->max_skipped, 1, 1e6, NULL, "steps with a non-finite loss or gradient in a row before giving up");
    add(o, "--threads", FLAG_INT, &o->threads, 1, 4096, NULL, "worker threads a rank; the host's cores over its ranks if left out");
    add(o, "--device", FLAG_ENUM, &o->device, 0, 0, "auto|cpu|cuda", "where to compute");
    add(o, "--dtype", FLAG_ENUM, &o->dtype, 0, 0, "auto|f32|bf16", "of weights and activations; auto: bf16 on a GPU, f32 on the CPU");
    add(o, "--matmul", FLAG_ENUM, &o->matmul, 0, 0, "ehr|cublas", "on a GPU: our products, or cuBLASLt's, which may depend on the batch");
    add(o, "--graphs", FLAG_BOOL, &o->graphs, 0, 0, NULL, "on a GPU: launch a pass as a whole; --graphs=no: one operation at a time");
    add(o, "--transport", FLAG_ENUM, &o->transport, 0, 0, "auto|none|mpi|nccl", "how ranks talk; auto: NCCL where each has a GPU, else MPI");
    add(o, "--timeout", FLAG_FLOAT, &o->timeout, 1, 1e6, NULL, "seconds without an answer before peers count as dead");
    add(o, "--dry-run", FLAG_BOOL, &o->dry_run, 0, 0, NULL, "print memory, traffic and predicted step time, and stop");
    add(o, "--world", FLAG_INT, &o->world, 1, 1 << 20, NULL, "ranks to assume with --dry-run");
}

static const Flag *flag(const TrainOptions *o, const void *value) {
    for (int i = 0; i < o->n_flags; i++)
        if (o->flags[i].value == value) return &o->flags[i];
    require_failed("flag in the table", __FILE__, __LINE__);
}
static int seen(const TrainOptions *o, const void *value) { return flag(o, value)->seen; }

/* What adapters need, and what belongs to them. */
static Status check_lora(TrainOptions *o, Err *err) {
    const void *theirs[] = {&o->lora_alpha, &o->lora_targets, &o->train_embeddings};
    for (int i = 0; i < 3 && !o->lora_rank; i++)
        if (seen(o, theirs[i])) return err_set(err, ERR_USAGE, "%s belongs to --lora-rank: give that, too", flag(o, theirs[i])->name);
    if (!o->lora_rank) return OK;
    if (!o->init)
        return err_set(err, ERR_USAGE, "--lora-rank needs --init: the folder of the model that the adapters are to change");
    if (o->lora_alpha == 0) o->lora_alpha = 2 * (double)o->lora_rank;
    return lora_targets_parse(o->lora_targets, "--lora-targets", &o->lora_mask, err);
}

static Status preset_values(TrainOptions *o, Err *err) {
    ModelConfig cfg;
    Status s = config_preset(&cfg, o->preset, err);
    if (s) return s;
    if (!o->layers) o->layers = cfg.n_layers;
    if (!o->d_model) o->d_model = cfg.d_model;
    if (!o->heads) o->heads = cfg.n_heads;
    if (!o->kv_heads) o->kv_heads = cfg.n_kv_heads;
    if (!o->head_dim) o->head_dim = cfg.head_dim;
    if (!o->d_ff) o->d_ff = cfg.d_ff;
    if (!seen(o, &o->tied)) o->tied = cfg.tied;
    PresetDefaults d = PRESET_DEFAULTS[0];
    for (int i = 0; i < PRESETS; i++)
        if (!strcmp(PRESET_DEFAULTS[i].name, o->preset)) d = PRESET_DEFAULTS[i];
    if (!o->seq_len) o->seq_len = d.seq_len;
    if (!o->batch) o->batch = d.batch;
    if (o->learning_rate == 0) o->learning_rate = d.learning_rate;
    return OK;
}

Status options_parse(TrainOptions *o, int argc, char **argv, Err *err) {
    *o = (TrainOptions){.preset = "nano", .schedule = "cosine", .resume = "none", .device = "auto", .dtype = "auto", .matmul = "ehr",
                        .graphs = 1, .transport = "auto",
                        .recompute = "none", .min_lr_ratio = 0.1, .weight_decay = 0.1, .beta1 = 0.9, .beta2 = 0.95,
                        .clip = 1, .seed = 1, .steps = 1000, .warmup_steps = -1, .decay_steps = -1, .keep = 3, .eval_tokens = 131072,
                        .max_skipped = 10, .timeout = 120, .lora_targets = "q,k,v,o,gate,up,down"};
    recipe_flags(o);
    circumstance_flags(o);
    const char *stray[1];
    int n_stray;
    Status s = flags_parse(o->flags, o->n_flags, argc, argv, stray, 0, &n_stray, &o->help, err);
    if (!s) s = preset_values(o, err);
    if (s || o->help) return s;
    if (!o->data) return err_set(err, ERR_USAGE, "--data is missing: the dataset folder that ehr-data tokenize wrote");
    if (!o->out && !o->dry_run) return err_set(err, ERR_USAGE, "--out is missing: the folder for checkpoints and log");
    if (seen(o, &o->steps) && seen(o, &o->epochs)) return err_set(err, ERR_USAGE, "--steps and --epochs say the same thing: give one of them");
    if (seen(o, &o->world) && !o->dry_run) return err_set(err, ERR_USAGE, "--world belongs to --dry-run; ranks come from mpirun -np N");
    if (seen(o, &o->decay_steps) && strcmp(o->schedule, "wsd"))
        return err_set(err, ERR_USAGE, "--decay-steps belongs to --schedule wsd, not %s", o->schedule);
    return check_lora(o, err);
}

void options_help(const TrainOptions *o, FILE *out) {
    flags_help(o->flags, o->n_flags, "[mpirun -np N] ehr-train --data DATASET --model PRESET --out RUN [flags]",
               "Trains a transformer on patient timelines.  The number of ranks changes speed, never what is optimized.", out);
}

Status options_split_batch(TrainOptions *o, int world, int64_t pass_tokens, Err *err) {
    int64_t unit = world * (o->micro_batch ? o->micro_batch : 1);
    if (o->batch % unit) {
        int64_t below = o->batch / unit * unit, above = below + unit;
        char near[128];
        if (below) snprintf(near, sizeof near, "--batch %lld or --batch %lld", (long long)below, (long long)above);
        else snprintf(near, sizeof near, "--batch %lld", (long long)above);
        if (o->micro_batch)
            return err_set(err, ERR_USAGE, "--batch %lld does not split into passes of --micro-batch %lld rows on %d ranks: try %s",
                           (long long)o->batch, (long long)o->micro_batch, world, near);
        return err_set(err, ERR_USAGE, "--batch %lld does not split evenly over %d ranks: try %s", (long long)o->batch, world, near);
    }
    if (o->micro_batch) return OK;
    int64_t rows = o->batch / world, most = o->seq_len < pass_tokens ? pass_tokens / o->seq_len : 1;
    for (o->micro_batch = rows < most ? rows : most; rows % o->micro_batch; o->micro_batch--) {}
    return OK;
}

int options_passes(const TrainOptions *o, int64_t world) { return (int)(o->batch / world / o->micro_batch); }

Status options_plan(TrainOptions *o, int64_t epoch_rows, Err *err) {
    if (o->epochs > 0) o->steps = (int64_t)ceil(o->epochs * (double)epoch_rows / (double)o->batch);
    if (o->warmup_steps < 0) o->warmup_steps = o->steps / 20 < 2000 ? o->steps / 20 : 2000;
    if (o->decay_steps < 0) o->decay_steps = o->steps / 5;
    if (o->warmup_steps > o->steps)
        return err_set(err, ERR_USAGE, "--warmup-steps %lld is more than the %lld steps in all", (long long)o->warmup_steps, (long long)o->steps);
    int64_t tenth = (o->steps + 9) / 10;
    if (!o->checkpoint_every) o->checkpoint_every = tenth < 1000 ? tenth : 1000;
    if (!o->eval_every) o->eval_every = o->checkpoint_every;
    return OK;
}

Status options_take_shape(TrainOptions *o, const ModelConfig *parent, const char *dir, Err *err) {
    const struct {
        int64_t *value;
        int     there;
    } shape[] = {{&o->layers, parent->n_layers},         {&o->d_model, parent->d_model},   {&o->heads, parent->n_heads},
                 {&o->kv_heads, parent->n_kv_heads}, {&o->head_dim, parent->head_dim}, {&o->d_ff, parent->d_ff}};
    if (seen(o, &o->preset))
        return err_set(err, ERR_USAGE, "--model and --init: the shape is that of %s; leave --model out", dir);
    for (size_t i = 0; i < sizeof shape / sizeof *shape; i++) {
        if (seen(o, shape[i].value) && *shape[i].value != shape[i].there)
            return err_set(err, ERR_USAGE, "%s %lld: --init %s has %d; leave the flag out", flag(o, shape[i].value)->name,
                           (long long)*shape[i].value, dir, shape[i].there);
        *shape[i].value = shape[i].there;
    }
    if (seen(o, &o->tied) && o->tied != parent->tied)
        return err_set(err, ERR_USAGE, "--tied: the head of --init %s is %s; leave the flag out", dir, parent->tied ? "tied" : "not tied");
    o->tied = parent->tied;
    if (!seen(o, &o->seq_len)) o->seq_len = parent->seq_len;
    if (!seen(o, &o->learning_rate)) {
        for (int i = 0; i < PRESETS; i++)
            if (!i || PRESET_DEFAULTS[i].d_model <= parent->d_model) o->learning_rate = PRESET_DEFAULTS[i].learning_rate;
        if (o->lora_rank) o->learning_rate *= LORA_RATE;
    }
    return OK;
}

Status options_model(const TrainOptions *o, int vocab_size, ModelConfig *cfg, Err *err) {
    Status s = config_preset(cfg, o->preset, err);
    if (s) return s;
    cfg->n_layers = (int)o->layers;
    cfg->d_model = (int)o->d_model;
    cfg->init_std = config_init_std(cfg->d_model);
    cfg->n_heads = (int)o->heads;
    cfg->n_kv_heads = (int)o->kv_heads;
    cfg->head_dim = (int)o->head_dim;
    cfg->d_ff = (int)o->d_ff;
    cfg->tied = o->tied;
    cfg->seq_len = (int)o->seq_len;
    cfg->vocab_size = vocab_size;
    if (o->lora_rank)
        cfg->lora = (LoraConfig){.rank = (int)o->lora_rank, .alpha = o->lora_alpha, .targets = o->lora_mask, .embeddings = o->train_embeddings};
    return config_check(cfg, err);
}

Recompute options_recompute(const TrainOptions *o) {
    return !strcmp(o->recompute, "mlp") ? RECOMPUTE_MLP : !strcmp(o->recompute, "block") ? RECOMPUTE_BLOCK : RECOMPUTE_NONE;
}

Schedule options_schedule(const TrainOptions *o) {
    Schedule s = {.peak = o->learning_rate, .min_ratio = o->min_lr_ratio, .warmup_steps = o->warmup_steps,
                  .decay_steps = o->decay_steps, .total_steps = o->steps};
    REQUIRE(!schedule_find(o->schedule, &s.kind));
    return s;
}

OptimizerOptions options_optimizer(const TrainOptions *o) {
    return (OptimizerOptions){.beta1 = o->beta1, .beta2 = o->beta2, .eps = 1e-8, .weight_decay = o->weight_decay, .clip = o->clip};
}

char *options_recipe_json(const TrainOptions *o) { return flags_json(o->flags, o->n_recipe); }
char *options_json(const TrainOptions *o) { return flags_json(o->flags, o->n_flags); }
