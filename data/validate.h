/* validate.h - checks a dataset or an events file against everything this project promises about it.  What is wrong is
 * not an error of the check but a named finding with a count and the places of the first few; places are ranks (split,
 * row, token), never identifiers. */
#ifndef EHR_DATA_VALIDATE_H
#define EHR_DATA_VALIDATE_H
#include "data/dataset.h"

typedef enum { SEVERITY_INFO, SEVERITY_WARNING, SEVERITY_ERROR } Severity;

typedef enum {
    /* both kinds of files */
    FIND_OPEN,
    FIND_EMPTY,
    FIND_PATIENT_TWICE,
    FIND_END_BEFORE_LAST,
    FIND_END_EQUALS_LAST,
    FIND_ORDER,
    FIND_TWO_IDS,
    FIND_PERSON_TWO_SPLITS,
    /* datasets */
    FIND_HASH,
    FIND_UNLISTED,
    FIND_CHECKSUM,
    FIND_TWO_SPLITS,
    FIND_SPLIT_EMPTY,
    FIND_PATIENT_EMPTY,
    FIND_TOKEN_RANGE,
    FIND_TOKEN_PREFIX,
    FIND_AFTER_DEATH,
    FIND_STATIC,
    FIND_GROUP,
    FIND_GAP,
    FIND_VALUE,
    FIND_NOTE,
    FIND_NOTE_ATTESTED,
    FIND_FIRST_MINUTE,
    FIND_LOGP,
    FIND_AGE,
    FIND_DEIDENTIFICATION,
    FIND_VOCABULARY,
    FIND_LABEL_ROW,
    FIND_OUTCOME_KNOWN,
    FIND_FOLLOW_UP,
    /* events files */
    FIND_RECORD,
    FIND_AVAILABLE,
    FIND_BEFORE_BIRTH,
    FIND_POSTHUMOUS,
    FIND_IMPLAUSIBLE_TIME,
    FIND_END_UNKNOWN,
    FIND_MIDNIGHT,
    FIND_IMPLAUSIBLE,
    FIND_RELEASE,
    FIND_DIAGNOSED_FIRST,
    FIND_COUNT
} FindingKind;

enum { EXAMPLES_MAX = 3 };
typedef struct {
    int64_t count;
    int severity; /* starts as that of the kind */
    int n_examples;
    char *example[EXAMPLES_MAX];
} Finding;

typedef struct {
    const char *what;            /* "dataset" or "events file" */
    int64_t n_patients, n_items; /* looked at: tokens or events */
    Finding finding[FIND_COUNT];
} ValidateReport;

const char *finding_name(int kind);  /* "token.after_death" */
const char *finding_about(int kind); /* one sentence: what it means */

/* Both fill the report; an error only when there is nothing to look at (no such path, or another kind of thing).
 * progress: NULL = silent. */
Status validate_dataset(ValidateReport *r, const char *path, FILE *progress, Err *err);
Status validate_events(ValidateReport *r, const char *path, FILE *progress, Err *err);

void report_init(ValidateReport *r, const char *what);
void report_free(ValidateReport *r);
void report_add(ValidateReport *r, int kind, const char *place, ...) __attribute__((format(printf, 3, 4)));
int report_count(const ValidateReport *r, Severity severity); /* kinds of findings */
void report_print(const ValidateReport *r, FILE *out);
char *report_json(const ValidateReport *r, const char *path); /* free() it */

#endif
