/* inspect.h - what is in a dataset or an events file, as text for people: statistics of the whole, or one patient's
 * timeline.  Everything goes to `out`. */
#ifndef EHR_DATA_INSPECT_H
#define EHR_DATA_INSPECT_H
#include "data/dataset.h"

/* split -1: all splits.  top: how many of the most frequent codes are listed. */
Status inspect_dataset(Dataset *d, int split, int top, FILE *out, Err *err);
Status inspect_events(EventFile *f, int top, FILE *out, Err *err);

/* limit: events printed at most, 0 = all.  tokens: raw ids, gaps and prefix included, instead of events and times. */
Status inspect_patient(Dataset *d, int split, int64_t row, int64_t limit, int tokens, FILE *out, Err *err);
/* Times as they stand in the file (events files are the steward's). */
Status inspect_subject(EventFile *f, int64_t row, int64_t limit, FILE *out, Err *err);

/* "+2y 41d 03:10"; years of 365 days, so that the time of day stays readable. */
void minutes_format(int64_t minutes, char *out, size_t size);

#endif
