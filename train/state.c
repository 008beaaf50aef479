/* state.c - see state.h. */
#include "train/state.h"
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#ifndef EHR_COMMIT
#define EHR_COMMIT "unknown"
#endif

const char *state_commit(void) { return EHR_COMMIT; }

void train_state_free(TrainState *s) {
    free(s->parent);
    free(s->parent_provenance);
    *s = (TrainState){0};
}

/* ---- trainer.json ------------------------------------------------------------------------------------------------- */

char *state_json(const TrainState *s, const TrainOptions *o, const Dataset *d) {
    char *flags = options_recipe_json(o);
    json_t *j = json_pack("{s:s, s:i, s:I, s:I, s:I, s:i, s:{s:I, s:I, s:I}}", "format", "ehr.c trainer", "format_version", 1,
                          "step", (json_int_t)s->step, "updates", (json_int_t)s->updates, "targets_seen",
                          (json_int_t)s->targets_seen, "skipped_in_row", s->skipped_in_row, "cursor", "epoch",
                          (json_int_t)s->cursor.epoch, "block", (json_int_t)s->cursor.block, "row", (json_int_t)s->cursor.row);
    REQUIRE(j != NULL);
    json_object_set_new(j, "best_step", s->best_step ? json_integer(s->best_step) : json_null());
    json_object_set_new(j, "best_loss", s->best_step ? json_real(s->best_loss) : json_null());
    json_object_set_new(j, "flags", json_loads(flags, 0, NULL));
    json_t *provenance = json_pack("{s:s, s:s, s:s, s:s?, s:s?}", "commit", state_commit(), "dataset_sha256", d->sha256,
                                   "vocabulary_sha256", d->vocabulary.sha256, "deidentification", d->deidentification, "parent",
                                   s->parent);
    REQUIRE(provenance != NULL);
    if (s->parent_provenance) json_object_set_new(provenance, "parent_provenance", json_loads(s->parent_provenance, 0, NULL));
    json_t *dataset = json_loads(d->json, 0, NULL), *record = json_object_get(dataset, "deidentification");
    if (record) json_object_set(provenance, "deidentification_record", record);
    if (json_object_get(dataset, "canaries")) json_object_set_new(provenance, "canaries", json_true());
    json_decref(dataset);
    json_object_set_new(j, "provenance", provenance);
    char *text = json_dumps(j, JSON_INDENT(1) | JSON_PRESERVE_ORDER);
    json_decref(j);
    free(flags);
    return text;
}

static Status read_int(const json_t *o, const char *key, const char *path, int64_t *out, Err *err) {
    const json_t *v = json_object_get(o, key);
    if (!json_is_integer(v) || json_integer_value(v) < 0)
        return err_set(err, ERR_FORMAT, "%s: %s is missing or not a whole number", path, key);
    *out = json_integer_value(v);
    return OK;
}

static Status read_numbers(TrainState *s, const json_t *j, const char *path, Err *err) {
    const json_t *cursor = json_object_get(j, "cursor"), *best = json_object_get(j, "best_step");
    int64_t skipped = 0;
    Status status = read_int(j, "step", path, &s->step, err);
    if (!status) status = read_int(j, "updates", path, &s->updates, err);
    if (!status) status = read_int(j, "targets_seen", path, &s->targets_seen, err);
    if (!status) status = read_int(j, "skipped_in_row", path, &skipped, err);
    if (!status) status = read_int(cursor, "epoch", path, &s->cursor.epoch, err);
    if (!status) status = read_int(cursor, "block", path, &s->cursor.block, err);
    if (!status) status = read_int(cursor, "row", path, &s->cursor.row, err);
    if (!status && json_is_integer(best)) {
        s->best_step = json_integer_value(best);
        s->best_loss = json_number_value(json_object_get(j, "best_loss"));
    }
    s->skipped_in_row = skipped < 1000000 ? (int)skipped : 1000000;
    return status;
}

static Status same_text(const json_t *o, const char *key, const char *here, const char *what, const char *path, Err *err) {
    const char *there = json_string_value(json_object_get(o, key));
    if (there && !strcmp(there, here)) return OK;
    return err_set(err, ERR_USAGE, "cannot resume from %s: it was trained on another %s (sha256 %.12s..., --data has %.12s...)",
                   path, what, there ? there : "missing", here);
}

static Status same_number(const json_t *flags, const char *key, int64_t here, const char *path, Err *err) {
    const json_t *v = json_object_get(flags, key);
    int64_t there = json_is_boolean(v) ? json_is_true(v) : json_integer_value(v);
    if (v && there == here) return OK;
    return err_set(err, ERR_USAGE, "cannot resume from %s: it was trained with --%s %lld, this command says %lld", path, key,
                   (long long)there, (long long)here);
}

/* Checkpoints from before adapters do not mention them. */
static Status same_adapters(const json_t *flags, const TrainOptions *o, const char *path, Err *err) {
    const int64_t rank = json_integer_value(json_object_get(flags, "lora-rank"));
    const double alpha = json_number_value(json_object_get(flags, "lora-alpha"));
    const char *targets = json_string_value(json_object_get(flags, "lora-targets"));
    unsigned mask = 0;
    if (rank != o->lora_rank)
        return err_set(err, ERR_USAGE, "cannot resume from %s: it was trained %s --lora-rank %lld, this command says %lld%s", path,
                       rank ? "with" : "without adapters,", (long long)rank, (long long)o->lora_rank,
                       rank && !o->lora_rank ? " (none)" : "");
    if (!rank) return OK;
    Status s = lora_targets_parse(targets ? targets : "", path, &mask, err);
    if (s) return s;
    if (mask != o->lora_mask)
        return err_set(err, ERR_USAGE, "cannot resume from %s: it was trained with --lora-targets %s, this command says %s", path, targets,
                       o->lora_targets);
    if (alpha != o->lora_alpha)
        return err_set(err, ERR_USAGE, "cannot resume from %s: it was trained with --lora-alpha %g, this command says %g", path, alpha,
                       o->lora_alpha);
    return same_number(flags, "train-embeddings", o->train_embeddings, path, err);
}

static Status same_run(const json_t *j, const TrainOptions *o, const Dataset *d, const char *path, Err *err) {
    const json_t *from = json_object_get(j, "provenance"), *flags = json_object_get(j, "flags");
    const struct {
        const char *key;
        int64_t     value;
    } same[] = {{"seq-len", o->seq_len}, {"seed", o->seed},         {"layers", o->layers},     {"d-model", o->d_model}, {"heads", o->heads},
                {"kv-heads", o->kv_heads}, {"head-dim", o->head_dim}, {"d-ff", o->d_ff}, {"tied", o->tied}};
    Status s = same_text(from, "dataset_sha256", d->sha256, "dataset", path, err);
    if (!s) s = same_text(from, "vocabulary_sha256", d->vocabulary.sha256, "vocabulary", path, err);
    for (size_t i = 0; !s && i < sizeof same / sizeof *same; i++) s = same_number(flags, same[i].key, same[i].value, path, err);
    return s ? s : same_adapters(flags, o, path, err);
}

/* The run folder that a checkpoint folder lies in is the one we write to: then it is no parent but ourselves. */
static int same_folder(const char *checkpoint, const char *run_dir) {
    char *parent = xasprintf("%s/..", checkpoint), *a = realpath(parent, NULL), *b = realpath(run_dir, NULL);
    int same = a && b && !strcmp(a, b);
    free(parent);
    free(a);
    free(b);
    return same;
}

/* "run/step-20" of a longer path: enough to recognise it, and no folder names of the machine. */
static char *run_and_step(const char *dir) {
    const char *start = dir + strlen(dir);
    for (int slashes = 0; start > dir; start--)
        if (start[-1] == '/' && ++slashes == 2) break;
    return xstrdup(start);
}

Status state_read(TrainState *s, const char *dir, const TrainOptions *o, const Dataset *d, Err *err) {
    char *text, *path = xasprintf("%s/trainer.json", dir);
    json_error_t why;
    *s = (TrainState){0};
    Status status = file_read(path, 1 << 24, &text, NULL, err);
    if (!status) {
        json_t *j = json_loads(text, 0, &why);
        if (!json_is_object(j))
            status = err_set(err, ERR_FORMAT, "%s is not valid JSON: %s", path, j ? "no object" : why.text);
        if (!status) status = read_numbers(s, j, path, err);
        if (!status) status = same_run(j, o, d, path, err);
        if (!status) {
            const json_t *from = json_object_get(j, "provenance"), *before = json_object_get(from, "parent_provenance");
            const char *parent = json_string_value(json_object_get(from, "parent"));
            if (same_folder(dir, o->out)) {
                s->parent = parent ? xstrdup(parent) : NULL;
                s->parent_provenance = before ? json_dumps(before, JSON_COMPACT | JSON_PRESERVE_ORDER) : NULL;
            } else {
                s->parent = run_and_step(dir);
                s->parent_provenance = from ? json_dumps(from, JSON_COMPACT | JSON_PRESERVE_ORDER) : NULL;
                s->best_step = 0; /* the best checkpoint lies in the other run's folder */
            }
        }
        json_decref(j);
        free(text);
    }
    free(path);
    return status;
}

/* ---- where to start ----------------------------------------------------------------------------------------------- */

static Status refuse_other_folder(const char *out, Err *err) {
    static const char *const foreign[][2] = {{"dataset.json", "a dataset"}, {"config.json", "a checkpoint"}};
    if (path_exists(out) && !path_is_dir(out))
        return err_set(err, ERR_USAGE, "--out %s is a file; a run needs a folder", out);
    for (int i = 0; i < 2; i++) {
        char *path = xasprintf("%s/%s", out, foreign[i][0]);
        int there = path_exists(path);
        free(path);
        if (there) return err_set(err, ERR_USAGE, "--out %s is %s: choose another folder for the run", out, foreign[i][1]);
    }
    return OK;
}

Status state_find(const TrainOptions *o, char *dir, size_t dir_size, Err *err) {
    int64_t newest = -1;
    char latest[4096] = "";
    dir[0] = 0;
    Status s = refuse_other_folder(o->out, err);
    if (!s && path_is_dir(o->out)) s = checkpoint_latest(o->out, latest, sizeof latest, &newest, err);
    if (s) return s;
    if (!strcmp(o->resume, "auto")) {
        if (newest >= 0) snprintf(dir, dir_size, "%s", latest);
        return OK;
    }
    if (!strcmp(o->resume, "none")) {
        if (newest < 0) return OK;
        return err_set(err, ERR_USAGE, "--out %s already holds a run, up to step %lld: --resume auto goes on from there; otherwise "
                                       "choose another folder", o->out, (long long)newest);
    }
    char *trainer = xasprintf("%s/trainer.json", o->resume);
    if (!path_exists(trainer))
        s = err_set(err, ERR_USAGE, "--resume %s is no checkpoint to go on from (it has no trainer.json): give auto, none or a "
                                    "step-N folder", o->resume);
    free(trainer);
    if (s) return s;
    char *real = realpath(o->resume, NULL), *real_latest = newest < 0 ? NULL : realpath(latest, NULL);
    if (real_latest && real && strcmp(real, real_latest))
        s = err_set(err, ERR_USAGE, "--out %s already holds step %lld, which is not the checkpoint to go on from: choose another folder",
                    o->out, (long long)newest);
    else
        snprintf(dir, dir_size, "%s", real ? real : o->resume);
    free(real);
    free(real_latest);
    return s;
}

/* ---- saving ------------------------------------------------------------------------------------------------------- */

/* At every save: whoever was killed between a checkpoint and the link to it left an older one, which would keep the
 * best from being kept. */
static Status link_best(const TrainState *s, const TrainOptions *o, Err *err) {
    char *name = xasprintf("step-%lld", (long long)s->best_step), *path = xasprintf("%s/%s", o->out, name);
    Status status = s->best_step && path_is_dir(path) ? checkpoint_link(o->out, "best", name, err) : OK;
    free(name);
    free(path);
    return status;
}

static Status publish(const TrainState *s, const TrainOptions *o, const char *tmp, const char *final, const char *name, Err *err) {
    Status status = checkpoint_commit(tmp, final, err);
    if (!status) status = checkpoint_link(o->out, "latest", name, err);
    if (!status) status = link_best(s, o, err);
    if (!status) status = checkpoint_prune(o->out, (int)o->keep, err);
    return status;
}

Status state_save(const TrainState *s, const TrainOptions *o, const Dataset *d, const Optimizer *optimizer, Dist *dist,
                  Err *err) {
    char name[32];
    snprintf(name, sizeof name, "step-%lld", (long long)s->step);
    char *final = xasprintf("%s/%s", o->out, name), *tmp = xasprintf("%s.tmp", final);
    const Model *m = optimizer->model;
    *err = (Err){OK, ""};
    if (dist_rank(dist) == 0) {
        char *trainer = state_json(s, o, d);
        checkpoint_begin(tmp, &m->cfg, &m->table, d->vocabulary.json, trainer, 1, 0, err);
        free(trainer);
    }
    Status status = dist_agree(dist, err);
    if (!status) {
        optimizer_write(optimizer, tmp, err);
        status = dist_agree(dist, err);
    }
    if (!status) {
        if (dist_rank(dist) == 0) publish(s, o, tmp, final, name, err);
        status = dist_agree(dist, err);
    }
    if (status && status != ERR_COMM && dist_rank(dist) == 0) {
        Err ignored = {OK, ""}; /* the failure that matters is in err */
        checkpoint_prune(o->out, (int)o->keep, &ignored);
    }
    free(final);
    free(tmp);
    return status;
}
