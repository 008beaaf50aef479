/* vocabulary_extend.h - a frozen vocabulary with new codes after its last token, for training that goes on at another
 * place: ids, value edges and units of what was known stay as they are, so that the parent's weights still fit. */
#ifndef EHR_DATA_VOCABULARY_EXTEND_H
#define EHR_DATA_VOCABULARY_EXTEND_H
#include "data/vocabulary.h"

/* *json: known's vocabulary.json with the event tokens of fitted (same settings) whose codes known neither has nor rolls
 * up; with their edges and roll-ups.  free() it.  *added: tokens. */
Status vocabulary_extend(char **json, const Vocabulary *known, const Vocabulary *fitted, int *added, Err *err);

#endif
