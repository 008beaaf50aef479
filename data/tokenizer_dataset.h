/* tokenizer_dataset.h - the files of a dataset while it is being written: shards, dataset.json, the folder's last step.
 */
#ifndef EHR_DATA_TOKENIZER_DATASET_H
#define EHR_DATA_TOKENIZER_DATASET_H
#include "data/dataset.h"
#include "data/tokenizer.h"

/* ---- subgroups: small enumerations, one a static column, and the age at the last event
 * -------------------------------- */
enum { GROUP_LABELS_MAX = 255 };
typedef struct {
    int n;
    char **name; /* (n) */
    int *n_labels;
    char ***label;     /* (n)(n_labels) */
    uint8_t *of_token; /* (vocabulary.n) code of a static token in its group */
} Groups;
void groups_init(Groups *g, const Vocabulary *v);
void groups_free(Groups *g);
void groups_of(const Groups *g, const Timeline *t, int n_static, uint8_t *out); /* (n) */

/* ---- shards of one split
 * ------------------------------------------------------------------------------------------------ */
typedef struct {
    char name[32], sha256[65];
    int64_t patients, tokens;
} ShardEntry;

typedef struct {
    const char *folder;
    int split, wide, n_static, n_groups, oracle;
    int64_t shard_size;
    const char *deidentification, *vocabulary_sha256;
    ShardWriter *writer;
    int n;
    ShardEntry *entry;
} SplitShards;
Status split_shards_add(SplitShards *s, uint64_t key, const Timeline *t, const uint8_t *group, Err *err);
Status split_shards_close(SplitShards *s, Err *err); /* finishes the shard that is open */
void split_shards_free(SplitShards *s);              /* also after a failure */

/* ---- dataset.json and the folder
 * ------------------------------------------------------------------------------------------ */
/* What was done about identity, time and age, as JSON text for shards and dataset.json, around the record of released
 * events and what a person attests of it (NULL: nothing); free() it. */
Status deidentification_format(char **text, TokenizeReport *r, const EventFile *f, const char *attestation, int own_key,
                               Err *err);
/* The text of dataset.json; free() it. */
char *dataset_json_format(const TokenizeOptions *o, const TokenizeReport *r, const EventFile *f, const Vocabulary *v,
                          const Groups *g, const SplitShards *shards, const char *deidentification,
                          const char *edges_sha256);

/* Makes out.tmp.  An existing out is refused unless overwrite, and then only replaced when it is a dataset. */
Status folder_begin(const char *out, int overwrite, char **tmp, Err *err);
Status folder_commit(const char *tmp, const char *out, Err *err);
void folder_abort(const char *tmp);

#endif
