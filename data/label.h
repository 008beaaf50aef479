/* label.h - index times and outcomes of a task, evaluated on raw codes and event times on the steward's side.
 *
 * labels/NAME.h5 is a table (table.h), one row per patient and index time (two where two stays begin together):
 *   patient_key u64 | split i64 | patient_row i64 (rank in the split) | index_minutes i64 (tokens with minutes <= index
 * are known) | outcome i64 (1 yes, 0 no, -1 censored before the horizon) | event_minutes f64 after the index (NaN none)
 * | censor_minutes f64 after the index | death_minutes f64 after the index (NaN none) true_risk, true_risk_se f64
 * (oracle cohorts only) attributes: name, task (JSON), outcome_codes (JSON array of code patterns; for kind value of
 * level tokens; empty for kind duration, which no single token is), stop_codes (JSON array: follow-up ends there
 * without the outcome; death always does), horizon_minutes, after_minutes (what happens up to then is no outcome; absent
 * = 0) and after_ends (then, and ends the follow-up: yes or no), dataset_sha256, vocabulary_sha256, counts (JSON: eligible,
 * positive, negative, censored, expressible = share of the positives' events that the vocabulary has a token for,
 * excluded by reason). */
#ifndef EHR_DATA_LABEL_H
#define EHR_DATA_LABEL_H
#include "data/dataset.h"
#include "data/table.h"

typedef struct {
    Table table;
    char *name;
    int n_codes;
    char **codes; /* outcome code patterns */
    int n_stops;
    char **stops; /* code patterns of competing ends, death left out */
    int64_t horizon_minutes, after_minutes;
    int after_ends;
    const uint64_t *patient_key;
    const int64_t *split, *patient_row, *index_minutes, *outcome;
    const double *true_risk, *true_risk_se; /* NULL unless an oracle cohort */
} LabelFile;

Status label_file_open(LabelFile *f, const char *path, Err *err); /* checks every column and range */
/* Whether it was made for this dataset, as far as it says. */
Status label_file_fits(const LabelFile *f, const char *path, const Dataset *d, Err *err);
void label_file_close(LabelFile *f);

#endif
