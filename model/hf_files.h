/* hf_files.h - the small files that make a checkpoint usable by transformers and vLLM as it stands, made from
 * vocabulary.json: tokenizer.json (WordLevel: one code, one token), tokenizer_config.json, generation_config.json. */
#ifndef EHR_MODEL_HF_FILES_H
#define EHR_MODEL_HF_FILES_H
#include "model/config.h"

/* Ids that other programs want to know; -1: none. */
typedef struct {
    int pad, bos, eos, unknown; /* PAD, RECORD_START, MEDS_DEATH, the first UNKNOWN//kind */
} SpecialIds;

/* Checks that vocabulary_json has exactly cfg->vocab_size tokens with ids 0..V-1 in order (ERR_FORMAT, naming both
 * counts; where = the file, for messages). */
Status hf_vocabulary_check(const char *vocabulary_json, int vocab_size, const char *where, Err *err);
Status hf_special_ids(const char *vocabulary_json, int vocab_size, const char *where, SpecialIds *ids, Err *err);
Status hf_files_write(const char *dir, const char *vocabulary_json, int vocab_size, SpecialIds *ids, Err *err);

#endif
