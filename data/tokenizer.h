/* tokenizer.h - from an events file to a dataset folder: splits, vocabulary, shards, dataset.json, and the linkage
 * table that stays with the steward.  The same input and options give the same bytes. */
#ifndef EHR_DATA_TOKENIZER_H
#define EHR_DATA_TOKENIZER_H
#include "data/tokenizer_split.h"
#include "data/tokenizer_timeline.h"

enum { DRIFT_MIN_VALUES = 100 };

typedef struct {
    const char *events, *out;
    const char *
        vocabulary; /* NULL: fitted on the train split; a vocabulary.json or a folder that has one: applied unchanged */
    int append_codes;    /* with vocabulary: codes that it does not know become tokens after its last */
    const char *edges;   /* NULL: deciles only; a file of decision thresholds */
    const char *statics; /* "SEX,RACE"; NULL: SEX, and RACE if the events have it */
    int separate_values;
    int age_bin_years;
    int notes;               /* free texts are told, in symbols fitted on those of the train split */
    int64_t note_merges, note_tokens; /* symbols beyond bytes; of a note at most */
    int64_t min_patients;                /* 0: min(11, max(1, 1% of the train patients)) */
    const char *split;                   /* NULL, "patient", "given", "time:DATE", "site:COLUMN" (tokenizer_split.h) */
    const char *key_file, *exclude_file; /* NULL: none */
    const char *release_linkage;         /* the ids of exclude_file are the source's: translate them; NULL: no */
    const char *attestation;             /* a person's signed statement about released events; NULL: none */
    int64_t seed, shard_size;
    int64_t canaries, canary_copies; /* made-up sequences in the train split, times each (canaries.h); 0: none */
    int overwrite;
    int threads; /* 0: all; the bytes do not depend on it */
    FILE *progress;
} TokenizeOptions;

typedef struct {
    char *code, *unit;
    int64_t n;  /* values */
    double psi; /* population stability index of the value levels, against where the vocabulary was fitted */
} Drift;

typedef struct {
    char source[32], split_method[200], level[32], vocabulary_sha256[65], floor_reason[256], linkage[1024];
    int64_t min_patients; /* 0 with a frozen vocabulary */
    int64_t n_patients[SPLIT_COUNT], n_events[SPLIT_COUNT], n_tokens[SPLIT_COUNT];
    int64_t n_untimed, n_no_site, n_excluded, n_exclude_unknown; /* the last: ids to exclude that nobody has */
    int n_vocabulary, tokens_by_kind[TOKEN_KINDS];
    int n_appended;                      /* tokens that a frozen vocabulary did not have */
    int oracle, floor_valid, separate_values;
    int notes_unattested; /* told, though nobody attested that they were scrubbed */
    int released; /* the events went through deidentify: their subject ids are the patient keys */
    TokenizeCounts counts;
    int n_drift;
    Drift *drift; /* by code; frozen vocabularies that recorded their shares only */
} TokenizeReport;

Status tokenize_events(const TokenizeOptions *o, TokenizeReport *r, Err *err);
void tokenize_report_free(TokenizeReport *r);
/* The share of events of a kind that became UNKNOWN//kind. */
double tokenize_unknown_share(const TokenizeCounts *c, int kind);

#endif
