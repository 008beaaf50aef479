/* serve_record.h - one patient's record as a request tells it: raw events, through the tokenizer that made the training
 * data, or tokens.
 *
 * {"events": [{"code": "LOINC//4548-4", "time": "2024-03-01T08:30:00" | "minutes": 1440, "value": 7.1 | "<5", "unit":
 * "%", "kind": "lab", "text": "Seen for cough."}, ...],
 *                                     statics and birth are events too: SEX//F, MEDS_BIRTH; no time for statics.  text: of
 *                                     a note; only where the vocabulary has tokens of texts, and masked where those that the
 *                                     model learned from were
 *  "age_years": 63}                           at the first event, instead of MEDS_BIRTH
 * {"tokens": [120, "GAP//1d-2d", ...], "minutes": [0, ...], "statics": ["SEX//F"], "age_years": 63}
 * Both: "index": a time as those of the events (the end of what is known; default: the last event), "key": number or
 * decimal text that keys the random numbers (default: a hash of the record).  Without "minutes", tokens are dated by
 * the mean lengths of their gaps. */
#ifndef EHR_INFER_SERVE_RECORD_H
#define EHR_INFER_SERVE_RECORD_H
#include "data/dataset.h"
#include "data/phi_scan_patterns.h"
#include <jansson.h>

enum { RECORD_EVENTS_MAX = 20000, RECORD_CODES_MAX = 4096, RECORD_UNITS_MAX = 64 };
enum { RECORD_NOTES_MAX = 1024, RECORD_NOTE_BYTES_MAX = 1 << 16 }; /* texts of a record; of a text */

typedef struct {
    PatientView view; /* of the arrays below */
    uint32_t *tokens;
    int32_t *minutes;
    uint16_t *statics;
    int64_t n_known; /* tokens known at the index */
    int32_t index_minutes;
    int64_t n_events, n_unknown; /* told as UNKNOWN//kind */
} ServeRecord;

/* What was done to the records that the model learned from, and so is done to those told. */
typedef struct {
    int synthetic;           /* its patients were drawn: ages past 89 stay as they are */
    const PhiPatterns *mask; /* its texts were masked as releases are (deidentify_notes.h); NULL: they were not */
} RecordRules;

/* ERR_USAGE says what is wrong with o. */
Status serve_record_parse(ServeRecord *r, const json_t *o, const Vocabulary *v, const RecordRules *rules, Err *err);
/* The same of one prompt: a list of ids and codes, or codes in one text separated by spaces.  It may open with
 * RECORD_START, statics and an age.  where: "prompt[3]", for errors. */
Status serve_record_prompt(ServeRecord *r, const json_t *prompt, const char *where, const Vocabulary *v, Err *err);
void serve_record_free(ServeRecord *r);

/* Refuses members of o whose name is not in known (NULL-ended), naming the nearest; where: "body". */
Status serve_members(const json_t *o, const char *const *known, const char *where, Err *err);

#endif
