/* main.c - ehr-train: from a dataset to a trained model.  The order of steps; each lives in a file of its own. */
#include "data/deidentify_record.h"
#include "model/adapter.h"
#include "train/dryrun.h"
#include "train/memory.h"
#include "train/metrics.h"
#include "train/parent.h"
#include "train/place.h"
#include "train/state.h"
#include "train/stop.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    TrainOptions options;
    Dist        *dist;
    Place        place;
    Dataset      data;
    Parent       parent; /* --init */
    ModelConfig  cfg;
    Model        model;
    Acts        *acts;
    Optimizer    optimizer;
    Loader      *loader;
    Evaluator    evaluator;
    Stepper      stepper;
    Metrics      metrics;
    TrainState   state;
    int          micro_batch_given;
    char         start_dir[4096]; /* checkpoint to go on from, "" = none */
    int          start_checked;   /* rank 0: its files were compared with their checksums */
    StepResult   result;          /* of the last step */
    Evaluation   evaluation;      /* the last one */
    int64_t      eval_step;       /* of the last evaluation, 0 = none yet */
    int          main_rank;
    int          together; /* the failure is every rank's: all end the ordinary way */
} Run;

/* ---- opening ------------------------------------------------------------------------------------------------------ */

/* Rows of the first epoch, counted by walking it: what --epochs is measured in. */
static Status count_epoch_rows(Run *r, int64_t *rows, Err *err) {
    Loader *loader = NULL;
    LoaderOptions lo = {.rows = 1, .T = (int)r->options.seq_len, .seed = (uint64_t)r->options.seed, .shuffle = 1, .world = 1};
    LoaderCursor at = {0, 0, 0};
    Batch *b;
    Status s = loader_open(&loader, &r->data, SPLIT_TRAIN, &lo, err);
    for (*rows = -1; !s && at.epoch == 0; ++*rows) { /* the row that tells of the second epoch is not of the first */
        s = loader_next(loader, &b, err);
        if (!s) loader_tell(loader, &at);
    }
    loader_close(loader);
    return s;
}

/* With adapters, what a start from scratch and a resumed run need of the parent. */
static Status check_adapted(const Run *r, Err *err) {
    const TrainOptions *o = &r->options;
    const Parent *p = &r->parent;
    LoraConfig before;
    if (r->start_dir[0]) {
        if (!adapter_there(r->start_dir)) return OK; /* state_read says what is wrong */
        Status s = adapter_read(r->start_dir, &before, err);
        if (s || !strcmp(before.base_sha256, p->sha256)) return s;
        return err_set(err, ERR_USAGE, "--init %s has weights with sha256 %.12s..., the adapters in %s were begun on %.12s...: give the folder "
                                       "they were begun on", o->init, p->sha256, r->start_dir, before.base_sha256);
    }
    if (r->data.vocabulary.n == p->cfg.vocab_size || o->train_embeddings) return OK;
    return err_set(err, ERR_USAGE, "--data %s has %d tokens that --init %s does not have, and with --lora-rank nothing would be learnt of them: add "
                                   "--train-embeddings", o->data, r->data.vocabulary.n - p->cfg.vocab_size, o->init);
}

/* On resuming, what was begun decides the shape, and the parent may be gone; adapters are nothing without it. */
static Status open_parent(Run *r, Err *err) {
    TrainOptions *o = &r->options;
    const int from_parent = !r->start_dir[0] || o->lora_rank;
    Status s = parent_open(&r->parent, from_parent ? o->init : r->start_dir, r->main_rank && !r->start_dir[0], err);
    if (!s && from_parent && adapter_there(r->parent.dir))
        s = err_set(err, ERR_USAGE, "--init %s holds adapters: merge them first, ehr-infer export %s --dtype f32 --out FOLDER", o->init, o->init);
    if (!s) s = options_take_shape(o, &r->parent.cfg, o->init, err);
    if (!s && !r->start_dir[0]) s = parent_check(&r->parent, &r->data, err);
    return s || !o->lora_rank ? s : check_adapted(r, err);
}

static Status open_data(Run *r, Err *err) {
    TrainOptions *o = &r->options;
    int world = o->world ? (int)o->world : dist_world(r->dist);
    int64_t epoch_rows = 0;
    /* On the CPU the activations of a pass shall stay in caches between one operation and the next; a GPU has no such
     * caches to keep and more units to fill. */
    int gpu = device_kind(r->place.dev) == DEVICE_CUDA;
    r->micro_batch_given = o->micro_batch > 0;
    Status s = dataset_open(&r->data, o->data, err);
    if (!s && o->require_deidentified && !deidentify_level_is_release(r->data.deidentification))
        s = err_set(err, ERR_USAGE, "--require-deidentified: --data %s is %s: run ehr-data deidentify on its events and tokenize the result",
                    o->data, r->data.deidentification);
    if (!s && r->data.n_patients[SPLIT_TRAIN] == 0)
        s = err_set(err, ERR_USAGE, "--data %s has no patients in its train split", o->data);
    if (!s && !o->dry_run) s = state_find(o, r->start_dir, sizeof r->start_dir, err);
    if (!s && o->init) s = open_parent(r, err);
    if (!s) s = options_model(o, r->data.vocabulary.n, &r->cfg, err);
    if (!s && o->init) {
        r->cfg.rope_theta = r->parent.cfg.rope_theta;
        r->cfg.rms_eps = r->parent.cfg.rms_eps;
        snprintf(r->cfg.lora.base, sizeof r->cfg.lora.base, "%s", r->parent.path);
        snprintf(r->cfg.lora.base_sha256, sizeof r->cfg.lora.base_sha256, "%s", r->parent.sha256);
    }
    if (!s) s = options_split_batch(o, world, gpu ? 32768 : 1024, err);
    if (!s && o->epochs > 0) s = count_epoch_rows(r, &epoch_rows, err);
    return s ? s : options_plan(o, epoch_rows, err);
}

static Status open_model(Run *r, Err *err) {
    const TrainOptions *o = &r->options;
    OptimizerOptions adamw = options_optimizer(o);
    LoaderOptions lo = {.rows = (int)o->micro_batch, .T = (int)o->seq_len, .seed = (uint64_t)o->seed, .shuffle = 1,
                        .rank = dist_rank(r->dist), .world = dist_world(r->dist)};
    int64_t pad = 16 * (int64_t)dist_world(r->dist);
    Status s = memory_check(o, &r->cfg, &r->place, dist_world(r->dist), err);
    if (!s) s = loader_open(&r->loader, &r->data, SPLIT_TRAIN, &lo, err);
    if (s) return s;
    if (r->start_dir[0]) {
        if (r->main_rank) s = checkpoint_verify(r->start_dir, 1, &r->start_checked, NULL, err);
        if (!s) s = state_read(&r->state, r->start_dir, o, &r->data, err);
        if (!s && !o->lora_rank) s = checkpoint_load_model(r->start_dir, &r->model, r->place.dev, r->place.dtype, pad, err);
    }
    if (!s && (!r->start_dir[0] || o->lora_rank)) {
        s = model_open(&r->model, &r->cfg, r->place.dev, r->place.dtype, pad, err);
        if (!s) model_init(&r->model, (uint64_t)o->seed);
    }
    r->model.graphs = o->graphs;
    if (!s) s = optimizer_open(&r->optimizer, &r->model, r->dist, &adamw, err);
    if (!s && o->init && (!r->start_dir[0] || o->lora_rank))
        s = parent_weights(&r->parent, &r->model, &r->optimizer, (uint64_t)o->seed, err);
    if (!s && r->start_dir[0] && o->lora_rank) s = checkpoint_load_weights(r->start_dir, &r->model, err);
    if (!s && !r->start_dir[0] && o->init) {
        r->state.parent = xstrdup(r->parent.name);
        if (r->parent.provenance) r->state.parent_provenance = xstrdup(r->parent.provenance);
    } else if (!s && !r->start_dir[0]) {
        optimizer_init(&r->optimizer, (uint64_t)o->seed);
    }
    if (!s && r->start_dir[0]) s = optimizer_read(&r->optimizer, r->start_dir, err);
    if (!s && r->start_dir[0]) s = loader_seek(r->loader, &r->state.cursor, err);
    return s;
}

static Status open_training(Run *r, Err *err) {
    const TrainOptions *o = &r->options;
    int rows = (int)o->micro_batch, T = (int)o->seq_len;
    const Recompute level = options_recompute(o);
    Status s = options_passes(o, dist_world(r->dist)) == 1
                   ? acts_open_lent(&r->acts, &r->model, rows * T, level, r->optimizer.grad, err)
                   : acts_open(&r->acts, &r->model, rows * T, 1, level, err);
    if (!s) s = evaluator_open(&r->evaluator, &r->data, r->dist, rows, T, o->eval_tokens, err);
    if (!s) s = stepper_open(&r->stepper, &r->model, r->acts, &r->optimizer, r->loader,
                             options_passes(o, dist_world(r->dist)), rows * T, err);
    r->stepper.floor_valid = r->data.floor_valid;
    return s;
}

static json_t *run_json(const Run *r) {
    char *flags = options_json(&r->options);
    json_t *o = json_pack("{s:o, s:s, s:i, s:i, s:s, s:s, s:s, s:I, s:I, s:i, s:s, s:s}", "flags", json_loads(flags, 0, NULL), "transport",
                          dist_transport(r->dist), "world", dist_world(r->dist), "threads", device_threads(r->place.dev), "device",
                          device_name(r->place.dev), "dtype", dtype_name(r->place.dtype), "commit", state_commit(), "parameters",
                          (json_int_t)r->model.table.n_params, "trained_parameters", (json_int_t)r->model.table.n_trainable, "vocabulary", r->cfg.vocab_size, "dataset_sha256", r->data.sha256, "vocabulary_sha256",
                          r->data.vocabulary.sha256);
    REQUIRE(o != NULL);
    free(flags);
    return o;
}

static void print_banner(const Run *r) {
    const TrainOptions *o = &r->options;
    fprintf(stderr, "ehr-train %s: settings (* = given)\n", state_commit());
    flags_print(o->flags, o->n_flags, stderr);
    fprintf(stderr, "data    %s: %lld train patients, %lld tokens; vocabulary %d\n", o->data,
            (long long)r->data.n_patients[SPLIT_TRAIN], (long long)r->data.n_tokens[SPLIT_TRAIN], r->data.vocabulary.n);
    const int N = (int)(o->micro_batch * o->seq_len);
    fprintf(stderr, "model   %s: %.2f M parameters; computes in %s; activations %.0f MB a rank", o->preset,
            1e-6 * (double)r->model.table.n_params, dtype_name(r->place.dtype),
            1e-6 * (double)acts_bytes(&r->cfg, r->place.dtype, N, 1, options_recompute(o)));
    if (acts_lent(r->acts))
        fprintf(stderr, ", %.0f MB of them in memory of gradients",
                1e-6 * (double)acts_lent_bytes(&r->cfg, &r->model.table, r->place.dtype, N, options_recompute(o)));
    fprintf(stderr, "\n");
    if (o->lora_rank)
        fprintf(stderr, "lora    rank %lld, alpha %g, on %s%s: %.3f M parameters are trained; gradients and moments take %.1f MB\n",
                (long long)o->lora_rank, o->lora_alpha, o->lora_targets, o->train_embeddings ? ", embeddings whole" : "",
                1e-6 * (double)r->model.table.n_trainable, 12e-6 * (double)r->model.table.trained);
    fprintf(stderr, "ranks   %d on %s, transport %s; a step = %d x %d passes x %lld rows of %lld tokens\n", dist_world(r->dist),
            device_name(r->place.dev), dist_transport(r->dist), dist_world(r->dist), r->stepper.passes, (long long)o->micro_batch,
            (long long)o->seq_len);
    fprintf(stderr, "privacy de-identification: %s\n", r->data.deidentification);
    if (!deidentify_level_is_release(r->data.deidentification))
        fprintf(stderr, "warning: these records did not go through ehr-data deidentify: the checkpoints must not leave the steward\n");
    if (r->place.why[0]) fprintf(stderr, "note: no GPU is used: %s\n", r->place.why);
    if (r->place.sharers > 1)
        fprintf(stderr, "note: %d ranks share a GPU and exchange through host memory\n", r->place.sharers);
    else if (dist_why(r->dist)[0])
        fprintf(stderr, "note: ranks exchange through host memory: %s\n", dist_why(r->dist));
    if (!strcmp(o->matmul, "cublas"))
        fprintf(stderr, "note: with --matmul cublas results may depend on the batch and the number of ranks\n");
    if (r->start_dir[0])
        fprintf(stderr, "resume  %s: step %lld%s\n", r->start_dir, (long long)r->state.step,
                r->start_checked ? "" : "; its files could not be checked, it has no SHA256SUMS");
    else if (o->init)
        fprintf(stderr, "init    %s: %d of %d tokens%s%s\n", r->parent.name, r->parent.cfg.vocab_size, r->cfg.vocab_size,
                r->parent.compared ? "" : "; without vocabulary.json there, whether they mean the same is not known",
                r->parent.checked ? "" : "; its files could not be checked, it has no SHA256SUMS");
    if (!r->evaluator.loader) fprintf(stderr, "warning: the dataset has no tuning patients: no evaluation, no best checkpoint\n");
}

static Status open_outputs(Run *r, Err *err) {
    if (!r->main_rank) return OK;
    print_banner(r);
    Status s = dir_make(r->options.out, err);
    double peak = device_peak_flops(r->place.dev, r->place.dtype) * dist_world(r->dist) / r->place.sharers;
    if (!s) s = metrics_open(&r->metrics, r->options.out, r->state.step, r->options.steps, &r->cfg, peak, run_json(r), err);
    return s;
}

/* ---- training ----------------------------------------------------------------------------------------------------- */

static Status evaluate(Run *r, Err *err) {
    if (!r->evaluator.loader) return OK;
    Status s = evaluator_run(&r->evaluator, &r->model, r->acts, &r->evaluation, err);
    if (!s) r->eval_step = r->state.step;
    if (!s && r->main_rank) metrics_eval(&r->metrics, r->state.step, &r->evaluation);
    return s;
}

/* must: this is the last chance, so that a failure is one; otherwise it is a warning and the next interval tries again. */
static Status save(Run *r, int fresh_evaluation, int must, Err *err) {
    TrainState *st = &r->state;
    int64_t best_step = st->best_step;
    double best_loss = st->best_loss, start_s = clock_s();
    if (fresh_evaluation && isfinite(r->evaluation.loss) && (!best_step || r->evaluation.loss < best_loss)) {
        st->best_step = st->step;
        st->best_loss = r->evaluation.loss;
    }
    Status s = state_save(st, &r->options, &r->data, &r->optimizer, r->dist, err);
    if (!s) {
        if (r->main_rank) metrics_checkpoint(&r->metrics, st->step, clock_s() - start_s);
        return OK;
    }
    st->best_step = best_step;
    st->best_loss = best_loss;
    if (s == ERR_COMM || must) {
        r->together = s != ERR_COMM;
        err_context(err, "saving step %lld", (long long)st->step);
        return s;
    }
    if (r->main_rank)
        fprintf(stderr, "warning: step %lld was not saved: %s; the last good checkpoint is kept, the next try is in %lld steps\n",
                (long long)st->step, err->msg, (long long)r->options.checkpoint_every);
    *err = (Err){OK, ""};
    return OK;
}

static Status one_step(Run *r, double learning_rate, Err *err) {
    TrainState *st = &r->state;
    LoaderCursor at = st->cursor;
    double start_s = clock_s();
    dist_at_step(r->dist, st->step + 1);
    Status s = stepper_run(&r->stepper, learning_rate, st->updates + 1, stop_requested(), &r->result, err);
    if (s == ERR_DEVICE && dist_world(r->dist) == 1) err_context(err, "step %lld", (long long)st->step + 1); /* else dist_abort's */
    if (s) return s;
    st->step++;
    st->targets_seen += r->result.targets;
    st->cursor = r->stepper.cursor;
    if (!r->result.skipped) {
        st->updates++;
        st->skipped_in_row = 0;
        if (r->main_rank) metrics_step(&r->metrics, st->step, at.epoch, learning_rate, clock_s() - start_s, &r->result);
        return OK;
    }
    st->skipped_in_row++;
    if (r->main_rank) metrics_skipped(&r->metrics, st->step, &r->result, &at, st->skipped_in_row);
    if (st->skipped_in_row < r->options.max_skipped) return OK;
    r->together = 1;
    return err_set(err, ERR_FORMAT, "%d steps in a row had a loss or gradient that is not finite, the last with the batch at epoch "
                                    "%lld, block %lld, row %lld: lower --learning-rate, or look at that data with ehr-data validate",
                   st->skipped_in_row, (long long)at.epoch, (long long)at.block, (long long)at.row);
}

static Status train(Run *r, Err *err) {
    const TrainOptions *o = &r->options;
    Schedule schedule = options_schedule(o);
    Status s = OK;
    while (!s && r->state.step < o->steps && !r->result.stop) {
        s = one_step(r, schedule_rate(&schedule, r->state.step + 1), err);
        if (s) break;
        int64_t step = r->state.step;
        int last = step == o->steps, evaluating = !r->result.stop && (last || step % o->eval_every == 0);
        if (evaluating) s = evaluate(r, err);
        if (!s && (last || r->result.stop || step % o->checkpoint_every == 0))
            s = save(r, r->eval_step == step, last || r->result.stop, err);
    }
    if (s || !r->main_rank) return s;
    const char *stopped = r->state.step < o->steps ? (stop_requested() ? stop_signal() : "stopped by another rank") : NULL;
    return metrics_summary(&r->metrics, r->state.step, stopped, &r->result, r->eval_step ? &r->evaluation : NULL,
                           r->eval_step, r->state.best_step, r->state.best_loss, run_json(r), err);
}

/* ---- program ------------------------------------------------------------------------------------------------------ */

/* A failure is agreed on before anybody goes on, so that all ranks end alike and rank 0 says why. */
static Status run(Run *r, Err *err) {
    Status s = place_open(&r->place, &r->options, r->dist, err);
    if (s) return s;
    open_data(r, err);
    if ((s = dist_agree(r->dist, err))) return s;
    int world = r->options.world ? (int)r->options.world : dist_world(r->dist);
    if (!r->micro_batch_given && (s = memory_choose(&r->options, &r->cfg, &r->place, world, r->dist, err))) return s;
    if (r->options.dry_run) {
        if (r->main_rank) dry_run(&r->options, &r->cfg, &r->data, &r->place, world, stdout, err);
        return dist_agree(r->dist, err);
    }
    open_model(r, err);
    if (!err->code) open_training(r, err);
    if (err->code == ERR_NOMEM) memory_explain(&r->options, &r->cfg, &r->place, dist_world(r->dist), err);
    if ((s = dist_agree(r->dist, err))) return s;
    if (r->state.step >= r->options.steps) {
        if (r->main_rank)
            printf("%s is at step %lld of %lld: nothing left to do (raise --steps to go on)\n", r->start_dir,
                   (long long)r->state.step, (long long)r->options.steps);
        return OK;
    }
    open_outputs(r, err);
    if ((s = dist_agree(r->dist, err))) return s;
    s = train(r, err);
    if (s && !r->together && dist_world(r->dist) > 1) dist_abort(r->dist, err); /* the others may be waiting for this rank */
    return s;
}

static void close_all(Run *r) {
    metrics_close(&r->metrics);
    evaluator_close(&r->evaluator);
    stepper_close(&r->stepper);
    acts_close(r->acts);
    optimizer_close(&r->optimizer);
    if (r->model.dev) model_close(&r->model);
    loader_close(r->loader);
    dataset_close(&r->data);
    train_state_free(&r->state);
    parent_close(&r->parent);
    dist_close(r->dist);
    if (r->place.dev) device_close(r->place.dev);
}

int main(int argc, char **argv) {
    static Run r;
    Launch launch;
    Err err = {OK, ""};
    launch_read(&launch);
    Status s = options_parse(&r.options, argc - 1, argv + 1, &err);
    if (!s && r.options.help) {
        if (launch.rank == 0) options_help(&r.options, stdout);
        return 0;
    }
    stop_install();
    if (!s) s = dist_open(&r.dist, r.options.transport, r.options.timeout, &err);
    if (!s) {
        r.main_rank = dist_rank(r.dist) == 0;
        s = run(&r, &err);
        if (s == ERR_COMM) dist_abort(r.dist, &err);
    }
    if (s && launch.rank == 0) fprintf(stderr, "ehr-train: %s\n", err.msg);
    if (r.dist) close_all(&r);
    return s == OK ? 0 : s == ERR_USAGE ? 2 : 1;
}
