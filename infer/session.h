/* session.h - a checkpoint opened for inference beside the dataset it is asked about. */
#ifndef EHR_INFER_SESSION_H
#define EHR_INFER_SESSION_H
#include "data/dataset.h"
#include "infer/rollout.h"
#include "model/flags.h"
#include "model/model.h"

typedef struct {
    char       *checkpoint; /* folder, links resolved: ".../step-400" */
    Device     *dev;
    char        why[512]; /* "": all is well; else why "auto" left a GPU that is there unused */
    Model       model;
    int         model_open, dataset_open;
    DType       weights; /* what the matrices of the blocks are kept in */
    Dataset     dataset;
    int         checked;          /* its files were compared with SHA256SUMS there; 0: a folder from elsewhere has none */
    char        model_sha256[65]; /* of model.safetensors: names the weights in results */
    Law         law;
    Model      *plain; /* float32, not re-laid, for gradients; NULL: loaded when needed, by who needs it */
} Session;

/* path: a checkpoint folder, or a run folder (its `latest` is taken).  dataset NULL: no dataset.  device: "auto" (a GPU if
 * there is one), "cpu", "cuda".  dtype: "auto" (bf16 on a GPU, f32 on the CPU), "f32", "bf16".
 * weights: "auto" (in dtype), "f32", "bf16", "int8".  Refuses a file that differs from its checksum, and a dataset whose vocabulary is not the checkpoint's. */
Status session_open(Session *s, const char *path, const char *dataset, const char *device, const char *dtype,
                    const char *weights, int threads, Err *err);
/* The folder that path means, links resolved; free() it. */
Status session_find(const char *path, char **checkpoint, Err *err);
void   session_close(Session *s);
/* What computes, and whether the checkpoint came without checksums. */
void   session_note(const Session *s, FILE *out);

/* "12" is the rank of a patient in the split, "key:12" a patient key in any split (then *split is set). */
Status session_patient(Session *s, const char *text, int *split, int64_t *row, PatientView *out, Err *err);
/* --patient and --at (last-year, end, last-event, or days since the first event such as 400d) -> one patient at an index
 * time. */
Status session_job(Session *s, const char *patient, const char *at, int *split, RolloutJob *out, Err *err);
/* "--split" text -> split; ERR_USAGE names the choices, also when the split is empty. */
Status session_split(const Session *s, const char *text, int *split, Err *err);

/* "VISIT//IN" or "NAME=CODE[,CODE...]": bits of an outcome over the vocabulary; ERR_USAGE names the nearest codes when no
 * token can express it.  mark (V): bit `bit` is set for matching ids. */
Status outcome_mark(const Vocabulary *v, const char *name, char *const *codes, int n_codes, int bit, uint32_t *mark, Err *err);

/* "+3 d 04:10", "-1 y 20 d" from minutes; out holds at least 32 bytes. */
void minutes_text(double minutes, char *out, size_t size);

#endif
