/* label_task.h - what a task asks: task.json, or the shorthand of `ehr-data label`.
 *
 * {"name": "readmission_30d", "note": "...",
 *  "kind": "event" | "duration" | "value",
 *      event: the outcome happens;  value: the outcome's codes are measured above or below a bound;
 *      duration: the stay that the index lies in lasts "longer_than" from its start
 *  "index": "admission+24h" | "discharge" | "visit-end" | "age:65" | "last-year" | "oracle" | "file" (of --meds),
 *           or "admission-day" | "discharge-day": 23:59 of that day; "before-result": 1 min before each of the outcome's is known,
 *  "outcome": {"codes": ["VISIT//IP", ...], "above": 5.5, "below": 3.0, "unit": "mmol/L"},
 *  "horizon": "30d",          longest time after the index
 *  "until": "discharge",      and no longer than the stay of the index
 *  "after": "1d",             what happens up to then is no outcome, nor is anything that follows a first one there
 *  "first": true,             patients who had the outcome before the index are excluded; "stay": in this stay
 *  "censored": "negative",    who is lost before the horizon had no outcome, as some published tasks have it [excluded]
 *  "stops": [{"codes": [...]}],       other competing ends: negative from there on, as death is
 *  "inpatient": ["VISIT//IP", ...]}   what counts as an admission
 */
#ifndef EHR_DATA_LABEL_TASK_H
#define EHR_DATA_LABEL_TASK_H
#include "model/base.h"

typedef struct {
    int n;
    char **codes;        /* patterns (vocabulary.h) */
    double above, below; /* -inf, +inf when open: above < value < below */
    int bounded;
    char *unit; /* "" = any */
} LabelPredicate;

typedef enum { LABEL_EVENT, LABEL_DURATION, LABEL_VALUE } LabelKind;
typedef enum {
    INDEX_ADMISSION,
    INDEX_DISCHARGE,
    INDEX_VISIT_END,
    INDEX_AGE,
    INDEX_LAST_YEAR,
    INDEX_ORACLE,
    INDEX_FILE,
    INDEX_BEFORE_RESULT
} LabelIndex;
enum { FIRST_OF_STAY = 2 };
enum { LABEL_STOPS_MAX = 16 };

typedef struct {
    char *name;
    int kind, index;
    int64_t index_offset_minutes; /* admission+24h */
    double index_age_years;
    LabelPredicate outcome, inpatient, stop[LABEL_STOPS_MAX];
    int n_stops;
    int until_discharge;
    int at_discharge; /* with the oracle's index: only where that is a discharge */
    int day_end;      /* the index is 23:59 of the day of admission or discharge */
    int first;        /* -1: when every outcome code is a diagnosis; FIRST_OF_STAY */
    int censored_negative;
    int64_t horizon_minutes, longer_than_minutes, after_minutes;
    char *note;
} LabelTask;

/* ERR_FORMAT names the key, what was expected and what was found. */
Status label_task_parse(LabelTask *t, const char *json, size_t size, const char *where, Err *err);
/* "NAME=PATTERN[,PATTERN...]": an event within the horizon, indexed at the ends of visits until label_index_parse. */
Status label_task_shorthand(LabelTask *t, const char *outcome, int64_t horizon_minutes, Err *err);
/* Sets t->index, its offset and age from "admission+24h" and the like. */
Status label_index_parse(LabelTask *t, const char *text, const char *where, Err *err);
/* What the index allows the rest of the task to ask, and the horizon of a duration: once the index is settled. */
Status label_index_check(LabelTask *t, const char *where, Err *err);
const char *label_index_name(int index);
/* "negative" or "excluded". */
Status label_censored_parse(LabelTask *t, const char *text, const char *where, Err *err);
/* The task as JSON, complete and in one order; free() it. */
char *label_task_format(const LabelTask *t);
void label_task_free(LabelTask *t);

#endif
