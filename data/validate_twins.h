/* validate_twins.h - the same person under two ids: records that share stretches of events, told with the same codes,
 * values and times between them, that nobody else has. */
#ifndef EHR_DATA_VALIDATE_TWINS_H
#define EHR_DATA_VALIDATE_TWINS_H
#include "data/validate.h"

typedef struct Twins Twins;
/* P patients in all; memory: 128 bytes each. */
Twins *twins_open(int64_t P);
void twins_close(Twins *t);
/* Patients one after the other, their events in order.  value: NaN = none; is_level: the code itself tells one. */
void twins_patient(Twins *t, int split, int64_t row);
void twins_event(Twins *t, uint32_t code, float value, int is_level, int64_t minute);
/* Adds the pairs to the report: of one split, or of no split (SPLIT_UNSET), and across splits. */
void twins_report(Twins *t, ValidateReport *r);

#endif
