/* tokenizer_fit.h - a vocabulary made from the train split of an events file: one pass over its patients. */
#ifndef EHR_DATA_TOKENIZER_FIT_H
#define EHR_DATA_TOKENIZER_FIT_H
#include "data/event.h"
#include "data/tokenizer_split.h"
#include "data/tokenizer_values.h"

typedef struct {
    int64_t min_patients; /* >= 1: distinct train patients behind every event token */
    int separate_values;
    int age_bin_years; /* 1 or 5 */
    int n_static;
    char **static_name;
    const EdgeRules *rules;
    int threads;
    int notes;                    /* notes are told */
    int note_merges, note_tokens; /* symbols beyond bytes at most; symbols told of a note at most */
} FitOptions;

/* *json: vocabulary.json, to be parsed by vocabulary_parse; free() it. */
Status vocabulary_fit(char **json, EventFile *f, const Cohort *c, const FitOptions *o, FILE *progress, Err *err);

#endif
