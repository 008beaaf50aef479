/* canaries.h - made-up records put into a train split on purpose, to measure what a model remembers (the exposure of
 * Carlini et al. 2019, https://arxiv.org/abs/1802.08232).  Whoever trains on them must not release the model:
 * dataset.json and every checkpoint say `canaries`.
 *
 * A canary is a patient of CANARY_EVENTS event tokens drawn evenly from the vocabulary, a minute apart.  Beside the
 * dataset lies OUT.canaries, a dataset of the same vocabulary whose held_out split has the inserted sequences (keys 0 to
 * n - 1) and CANARY_REFERENCES that were never inserted (keys from n on): `ehr-infer score` tells the loss of each. */
#ifndef EHR_DATA_CANARIES_H
#define EHR_DATA_CANARIES_H
#include "data/tokenizer_dataset.h"

enum { CANARY_EVENTS = 12, CANARY_REFERENCES = 1000, CANARY_KEY_BIT = 62 };

/* Adds the sequences, `copies` times each, to the train shards; keys have bit CANARY_KEY_BIT set. */
Status canaries_insert(SplitShards *train, const TokenizeOptions *o, const Vocabulary *v, const Groups *g, Err *err);
/* Writes OUT.canaries; deidentification: what its shards say of identity. */
Status canaries_reference(const TokenizeOptions *o, const Vocabulary *v, const Groups *g, const EventFile *f, Err *err);

#endif
