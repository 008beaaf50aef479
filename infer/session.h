/* session.h - a checkpoint opened for inference beside the dataset it is asked about. */
#ifndef EHR_INFER_SESSION_H
#define EHR_INFER_SESSION_H
#include "data/dataset.h"
#include "infer/rollout.h"
#include "model/flags.h"
#include "model/model.h"

typedef struct {
    char       *checkpoint; /* folder, links resolved: ".../step-400" */
    const char *base;       /* SessionFlags' */
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

/* What computes, as SESSION_FLAGS asks for it. */
typedef struct {
    const char *device;  /* "auto" (a GPU if there is one), "cpu", "cuda" */
    const char *dtype;   /* "auto" (bf16 on a GPU, f32 on the CPU), "f32", "bf16" */
    const char *weights; /* "auto" (in dtype), "f32", "bf16", "int8" */
    const char *kv_type; /* "auto" (in dtype; bf16 beside narrower weights), "f32", "bf16" */
    int64_t     threads; /* of the CPU; 0 = all */
    const char *base;    /* of an adapter: the model it changes; NULL: the one it names */
    int         graphs;  /* a GPU records steps of decoding and replays them */
} SessionFlags;
#define SESSION_FLAGS_DEFAULT {.device = "auto", .dtype = "auto", .weights = "auto", .kv_type = "auto", .graphs = 1}
#define SESSION_FLAGS_PLAIN   {.device = "cpu", .dtype = "f32", .weights = "f32", .kv_type = "auto", .threads = 1}
/* Rows of a command's table of flags; f is a SessionFlags. */
#define SESSION_BASE_FLAG(f)                                                                                           \
    {"--base", FLAG_STRING, &(f).base, 0, 0, NULL, "of a LoRA checkpoint: the model it changes, if it is elsewhere", 0}
#define SESSION_FLAGS(f)                                                                                               \
    {"--threads", FLAG_INT, &(f).threads, 0, 4096, NULL, "CPU threads; 0 = all", 0},                                   \
    {"--device", FLAG_ENUM, &(f).device, 0, 0, "auto|cpu|cuda", "where to compute; auto: on a GPU if there is one", 0},\
    {"--dtype", FLAG_ENUM, &(f).dtype, 0, 0, "auto|f32|bf16", "to compute in; auto: bf16 on a GPU, f32 on the CPU", 0},\
    {"--weights", FLAG_ENUM, &(f).weights, 0, 0, "auto|f32|bf16|int8",                                                 \
     "what matrices are kept in; int8 is fastest, and rounds: `score` with it and without tells how much (infer/EXPORT.md)", 0}, \
    {"--kv-dtype", FLAG_ENUM, &(f).kv_type, 0, 0, "auto|f32|bf16",                                                     \
     "what decoding keeps keys and values in; auto: as --dtype, bf16 beside narrower --weights", 0},                   \
    SESSION_BASE_FLAG(f)
/* Of commands that decode. */
#define SESSION_GRAPHS_FLAG(f)                                                                                         \
    {"--graphs", FLAG_BOOL, &(f).graphs, 0, 0, NULL,                                                                   \
     "on a GPU: launch a step of decoding as a whole; --graphs=no: one operation at a time", 0}

/* path: a checkpoint folder, or a run folder (its `latest` is taken).  dataset NULL: no dataset.  Refuses a file that
 * differs from its checksum, and a dataset whose vocabulary is not the checkpoint's. */
Status session_open(Session *s, const char *path, const char *dataset, const SessionFlags *f, Err *err);
/* The folder that path means, links resolved; free() it. */
Status session_find(const char *path, char **checkpoint, Err *err);
void   session_close(Session *s);
/* What computes, and whether the checkpoint came without checksums. */
void   session_note(const Session *s, FILE *out);

/* "12" is the rank of a patient in the split, "key:12" a patient key in any split (then *split is set). */
Status session_patient(Session *s, const char *text, int *split, int64_t *row, PatientView *out, Err *err);
/* One patient at an index time, as PATIENT_FLAGS asks for it. */
typedef struct {
    const char *split, *patient, *at;
} PatientFlags;
#define PATIENT_FLAGS_DEFAULT {.split = "held_out", .patient = "0", .at = "last-year"}
#define PATIENT_FLAGS(f)                                                                                               \
    {"--split", FLAG_ENUM, &(f).split, 0, 0, "train|tuning|val|held_out|test", "where --patient is looked up", 0},     \
    {"--patient", FLAG_STRING, &(f).patient, 0, 0, NULL, "rank in the split (0, 1, ...) or key:K", 0},                 \
    {"--at", FLAG_STRING, &(f).at, 0, 0, NULL,                                                                         \
     "index time: last-year (a year before the record ends), end, last-event, or days since the first event (400d)", 0}
Status session_job(Session *s, const PatientFlags *f, RolloutJob *out, Err *err);
/* "--split" text -> split; ERR_USAGE names the choices, also when the split is empty. */
Status session_split(const Session *s, const char *text, int *split, Err *err);

/* Bits of an outcome over the vocabulary; ERR_USAGE names the nearest codes when no token can express it.  mark (V): bit
 * `bit` is set for matching ids.  Codes that no token matches do no harm beside others: a task names what many sites call
 * it; outcome_unknown tells of them. */
Status outcome_mark(const Vocabulary *v, const char *name, char *const *codes, int n_codes, int bit, uint32_t *mark, Err *err);
/* The codes that no token matches, in out as "A, B"; returns how many. */
int outcome_unknown(const Vocabulary *v, char *const *codes, int n_codes, char *out, size_t size);
/* Of "CODE[,CODE...]" as flag `flag` gives them: each has to match, for it was typed for this vocabulary. */
Status outcome_list_mark(const Vocabulary *v, const char *flag, const char *list, int bit, uint32_t *mark, Err *err);

/* "+3 d 04:10", "-1 y 20 d" from minutes; out holds at least 32 bytes. */
void minutes_text(double minutes, char *out, size_t size);

#endif
