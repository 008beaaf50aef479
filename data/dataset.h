/* dataset.h - a tokenised dataset: a folder with dataset.json, vocabulary.json and HDF5 shards per split.
 *
 * Shard: contiguous, unfiltered, little-endian HDF5 datasets, memory-mapped through H5Dget_offset:
 *   /tokens u16 (u32 when the vocabulary passes 65,535) [n]     events and gaps of all patients, no prefix
 *   /minutes i32 [n] since the patient's first event (available time): when the token became known.  A gap token is
 * known when the gap is over: each =6mt 180 d after the token before it, a gap bin at the minute of the event that
 * follows /patient_offsets u64 [P+1]  /patient_key u64 [P]  /patient_static u16 [P,S+1] (S static token ids, then age
 * in whole years at the first event, capped)  /observation_end i32 [P] minutes  /patient_group u8 [P,G] subgroup codes
 *   /oracle_logp f32 [n] optional (NaN = not counted: after the index)
 *   /tokens_crc32c, /minutes_crc32c, /oracle_logp_crc32c u32 per 65,536 tokens, checked on first touch
 *   attributes: format "ehr.c shard", format_version, vocabulary_sha256, deidentification, patients_crc32c (over
 *   patient_offsets, patient_key, patient_static, observation_end, patient_group; checked on opening)
 * A shard is data, never trusted: structure is checked on opening, ids and order when read.
 *
 * dataset.json: {"format": "ehr.c dataset", "format_version": 1, "source": ..., "splits": {"train": {"patients": N,
 *   "tokens": N, "shards": [{"file": "train-00000.h5", "sha256", "patients", "tokens"}]}, ...}, "vocabulary": {"file":
 *   "vocabulary.json", "sha256"}, "groups": [{"name": "SEX", "labels": ["", "F", "M"]}], "deidentification": {"level":
 *   "synthetic"|"structural"|"safe-harbor-rules"|"safe-harbor"|"expert", "record", "attestation", ...}, "floor_valid": true|false, "floor_note", "statistics": {...}, "settings": {...}} */
#ifndef EHR_DATA_DATASET_H
#define EHR_DATA_DATASET_H
#include "data/event.h"
#include "data/vocabulary.h"
#include "model/base.h"
#include "model/sha256.h"

typedef struct {
    uint64_t key;
    int64_t row;        /* rank of the patient in its split */
    int64_t n;          /* tokens */
    const void *tokens; /* u16 or u32: read through patient_token */
    int wide;
    const int32_t *minutes;   /* (n) ascending */
    const uint16_t *statics;  /* (S) token ids */
    int age_years;            /* at the first event */
    int32_t observation_end;  /* minutes */
    const uint8_t *group;     /* (n_groups) */
    const float *oracle_logp; /* (n) or NULL */
} PatientView;

static inline uint32_t patient_token(const PatientView *p, int64_t i) {
    return p->wide ? ((const uint32_t *)p->tokens)[i] : ((const uint16_t *)p->tokens)[i];
}

typedef struct {
    char *path;
    char sha256[65];        /* of dataset.json: names the dataset in checkpoints and results */
    char *json;             /* dataset.json */
    char *deidentification; /* level: "synthetic", "structural", ... */
    Vocabulary vocabulary;
    int n_groups;
    char **group_name; /* "SEX", ... */
    int64_t n_patients[SPLIT_COUNT], n_tokens[SPLIT_COUNT];
    int floor_valid; /* the oracle's floor applies to these tokens */
    struct DatasetImpl *impl;
} Dataset;

/* Opens dataset.json, the vocabulary and every shard; says which step is missing when given something else (an events
 * file, an OMOP folder, a checkpoint). */
Status dataset_open(Dataset *d, const char *path, Err *err);
void dataset_close(Dataset *d);
/* The row-th patient of a split; the view stays valid until dataset_close.  Verifies, once a patient, the checksums of
 * the blocks it touches, ids within the vocabulary, minutes from 0 that do not descend.  Threads may call it at once.
 */
Status dataset_patient(Dataset *d, int split, int64_t row, PatientView *out, Err *err);
/* The same without any check, for sizes alone: what the view points at may be damaged.  row must exist. */
void dataset_patient_unchecked(const Dataset *d, int split, int64_t row, PatientView *out);
/* By key; ERR_USAGE when no split has it. */
Status dataset_find(Dataset *d, uint64_t key, int *split, int64_t *row, Err *err);
/* Group label of a code of a group column: "F"; "" when unknown. */
const char *dataset_group_label(const Dataset *d, int group, int code);

/* The prefix a window that starts at token index `at` gets: RECORD_START (at = 0) or RECORD_CONTINUES, statics, age at
 * the window start, which is the minute of token at - 1 (at beyond n counts =6mt tokens appended after the record's
 * end). Writes at most max ids, returns how many (= 2 + n_static). */
int dataset_prefix(const Dataset *d, const PatientView *p, int64_t at, int32_t *out, int max);

/* ---- writing, by tokenize ---------------------------------------------------------------------------------------- */
typedef struct ShardWriter ShardWriter;
Status shard_writer_open(ShardWriter **out, const char *path, int wide, int n_static, int n_groups, int with_oracle,
                         Err *err);
/* statics: n_static + 1 values as in /patient_static; tokens below 65,536 unless wide; oracle_logp NULL unless
 * with_oracle. */
Status shard_writer_patient(ShardWriter *w, uint64_t key, const uint32_t *tokens, const int32_t *minutes, int64_t n,
                            const uint16_t *statics, const uint8_t *group, int32_t observation_end,
                            const float *oracle_logp, Err *err);
int64_t shard_writer_tokens(const ShardWriter *w);
/* deidentification_json is stored in the shard as an attribute.  path appears only when complete.  Frees the writer,
 * whether it succeeds or not; abort frees it and leaves nothing behind. */
Status shard_writer_close(ShardWriter *w, const char *deidentification_json, const char *vocabulary_sha256, Err *err);
void shard_writer_abort(ShardWriter *w);

#endif
