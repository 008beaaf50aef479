/* checkpoint.h - a checkpoint is a Hugging Face model folder:
 *   step-N/config.json  model.safetensors (fp32 master)  tokenizer.json  generation_config.json  vocabulary.json
 *          optimizer-NNNNN-of-MMMMM.safetensors  trainer.json  SHA256SUMS
 * Of adapters (ehr-train --lora-rank) it is a peft folder: adapter_config.json and adapter_model.safetensors in place of
 * model.safetensors.  The base model stays where it is: of a model of 1 B parameters a checkpoint takes 30 MB instead of
 * 4 GB, and two folders never hold the same weights.  Whoever loads one gets the two merged (adapter.h).
 * Every rank writes its element ranges at computed offsets into step-N.tmp; all fsync, all agree, rank 0 renames: a
 * name without .tmp is whole, and its bytes do not depend on the number of ranks. */
#ifndef EHR_MODEL_CHECKPOINT_H
#define EHR_MODEL_CHECKPOINT_H
#include "model/model.h"

/* A part of an arena that this rank holds: elements [begin, begin + count) of the padded parameter arena, as float in
 * device memory. */
typedef struct {
    const float *data;
    int64_t begin, count;
} ArenaSlice;

/* Rank 0, before the others: creates dir (step-N.tmp; what a killed run left there is removed), the small JSON files
 * and the safetensors files at full size with their headers, tensors still zero.  A full disk is met here already:
 * ERR_IO, and whole checkpoints are untouched.  vocabulary_json: the dataset's vocabulary.json, verbatim; trainer_json:
 * the text of trainer.json; with_optimizer 0 for inference-only checkpoints.  Optimizer files are split at
 * max_file_bytes (0 = 4 GiB). */
Status checkpoint_begin(const char *dir, const ModelConfig *cfg, const ParamTable *table, const char *vocabulary_json,
                        const char *trainer_json, int with_optimizer, int64_t max_file_bytes, Err *err);
/* Any rank, any number of slices in the memory of dev: master weights, first and second moments (m, v NULL: no optimizer
 * state); written in place, through a small buffer unless dev is the CPU, and fsynced.  Padding and moments of frozen
 * parameters have no place in the files and are skipped. */
Status checkpoint_write_slices(const char *dir, const ParamTable *table, Device *dev, const ArenaSlice *master,
                               const ArenaSlice *m, const ArenaSlice *v, int n_slices, Err *err);
/* Rank 0, after all ranks agreed: write SHA256SUMS, fsync the folder, rename to final_dir; a checkpoint of that name is
 * replaced whole. */
Status checkpoint_commit(const char *tmp_dir, const char *final_dir, Err *err);
/* Points the link run_dir/link ("latest", "best") at target_name ("step-40"), in one step. */
Status checkpoint_link(const char *run_dir, const char *link, const char *target_name, Err *err);
/* Removes all but the newest `keep` step-N and whatever latest and best point at; leftovers step-N.tmp too. */
Status checkpoint_prune(const char *run_dir, int keep, Err *err);
/* Removes a checkpoint folder, not what its links point at: renamed to a name with .tmp first, so that a half-removed
 * one never looks whole. */
Status checkpoint_remove(const char *dir, Err *err);
/* Path of the newest whole checkpoint under run_dir; step -1 and OK when there is none. */
Status checkpoint_latest(const char *run_dir, char *dir, size_t dir_size, int64_t *step, Err *err);

/* SHA256SUMS of every .json and .safetensors file in dir. */
Status checkpoint_sums_write(const char *dir, Err *err);
/* Compares the files in dir with SHA256SUMS there and names the one that differs; without it (a folder from elsewhere)
 * *listed is 0 and nothing is compared.  with_optimizer 0 leaves out what inference does not read.  model_sha256 (may be
 * NULL): the sum of model.safetensors, "" where it was not compared.  Call it before loading: a file that is missing is
 * told by its reader. */
Status checkpoint_verify(const char *dir, int with_optimizer, int *listed, char model_sha256[65], Err *err);

/* What names the weights: the SHA-256 of model.safetensors; of several files, that of their digests in order; of an
 * adapter, adapter_sha256(). */
Status checkpoint_model_sha256(const char *dir, char hex[65], Err *err);

/* Files that hold the weights in dir: model.safetensors, or those that model.safetensors.index.json lists. */
typedef struct {
    int n;
    char **name;
} ModelFiles;
Status checkpoint_model_files(const char *dir, ModelFiles *files, Err *err);
void model_files_free(ModelFiles *files);

/* Opens a model from a checkpoint folder; an adapter merged into its base.  Refuses missing, extra or misshaped tensors
 * and says which; takes F32 and BF16 files. */
Status checkpoint_load_model(const char *dir, Model *m, Device *dev, DType dtype, int64_t param_pad, Err *err);
/* base: of an adapter, the folder of the model that it changes; NULL: the one it names. */
Status checkpoint_load_on(const char *dir, const char *base, Model *m, Device *dev, DType dtype, int64_t param_pad, Err *err);
/* The weights of dir into a model that is open; with adapters (m->cfg.lora) theirs alone. */
Status checkpoint_load_weights(const char *dir, Model *m, Err *err);
/* Elements [begin, begin+count) of the padded arena from the files to out in the memory of dev, 0 where the files hold
 * nothing (padding, moments of frozen parameters): what = "model", "exp_avg" or "exp_avg_sq". */
Status checkpoint_read_slice(const char *dir, const ParamTable *table, const char *what, Device *dev, float *out,
                             int64_t begin, int64_t count, Err *err);
Status checkpoint_read_text(const char *dir, const char *name, char **out, size_t *size, Err *err); /* free() it */

#endif
