/* options.h - the command line of ehr-train: one flag table, defaults by preset, and what must fit together. */
#ifndef EHR_TRAIN_OPTIONS_H
#define EHR_TRAIN_OPTIONS_H
#include "model/config.h"
#include "model/flags.h"
#include "model/lora.h"
#include "model/model.h"
#include "train/optimizer.h"
#include "train/schedule.h"

enum { TRAIN_FLAGS_MAX = 64 };
typedef struct {
    /* The recipe: decides the weights that come out; stored in checkpoints. */
    const char *preset, *schedule, *note, *lora_targets;
    int64_t layers, d_model, heads, kv_heads, head_dim, d_ff;
    int     tied;
    int64_t seq_len, batch, steps, warmup_steps, decay_steps, seed;
    double  epochs, learning_rate, min_lr_ratio, weight_decay, beta1, beta2, clip, lora_alpha;
    int64_t lora_rank; /* 0: every weight is trained */
    int     train_embeddings;
    unsigned lora_mask; /* of lora_targets */
    /* The circumstances. */
    const char *data, *out, *init, *resume, *device, *dtype, *matmul, *transport, *recompute;
    int64_t micro_batch, checkpoint_every, keep, eval_every, eval_tokens, threads, max_skipped, world;
    double  timeout;
    int     dry_run, graphs, require_deidentified;

    Flag flags[TRAIN_FLAGS_MAX];
    int  n_flags, n_recipe; /* the recipe's flags come first */
    int  help;
} TrainOptions;

/* Parses and checks everything that needs no dataset; flags left out get the preset's values. */
Status options_parse(TrainOptions *o, int argc, char **argv, Err *err);
void   options_help(const TrainOptions *o, FILE *out);
/* --batch rows a step must split evenly into passes over `world` ranks; --micro-batch, when it was left out, becomes the
 * most rows that make at most `pass_tokens` tokens. */
Status options_split_batch(TrainOptions *o, int world, int64_t pass_tokens, Err *err);
int    options_passes(const TrainOptions *o, int64_t world); /* a step on each rank, after that */
/* Rows an epoch has: --epochs becomes --steps; then warm-up, decay and intervals left out get their values. */
Status options_plan(TrainOptions *o, int64_t epoch_rows, Err *err);

/* --init: the shape is the parent's; flags that were given and say otherwise are refused. */
Status           options_take_shape(TrainOptions *o, const ModelConfig *parent, const char *dir, Err *err);
Status           options_model(const TrainOptions *o, int vocab_size, ModelConfig *cfg, Err *err);
Recompute        options_recompute(const TrainOptions *o);
Schedule         options_schedule(const TrainOptions *o);
OptimizerOptions options_optimizer(const TrainOptions *o);
char            *options_recipe_json(const TrainOptions *o); /* free() it */
char            *options_json(const TrainOptions *o);        /* all of them; free() it */

#endif
