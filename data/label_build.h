/* label_build.h - evaluates a task on an events file: index times, outcomes, censoring. */
#ifndef EHR_DATA_LABEL_BUILD_H
#define EHR_DATA_LABEL_BUILD_H
#include "data/event.h"
#include "data/label.h"
#include "data/label_meds.h"
#include "data/label_task.h"

typedef enum {
    EXCLUDED_NO_INDEX,     /* patients: nothing the index could be set at */
    EXCLUDED_BEFORE,       /* the index comes before the first token */
    EXCLUDED_DEAD,         /* dead at the index */
    EXCLUDED_LEFT,         /* the stay was over at the index */
    EXCLUDED_UNOBSERVED,   /* observation ended before the index */
    EXCLUDED_PRIOR,        /* had the outcome before, for first outcomes */
    EXCLUDED_NOT_DISCHARGE, /* oracle index that is no discharge, for a task that needs one */
    EXCLUDED_BACK           /* admitted again on the day of discharge, before an index at its end */
} LabelExclusion;
enum { EXCLUSIONS = 8 };
extern const char *const EXCLUSION_NAME[EXCLUSIONS];

typedef struct {
    int64_t eligible, positive, negative, censored, excluded[EXCLUSIONS];
    int64_t expressible; /* positives whose outcome event has a token of its own or a roll-up that is an outcome too */
    int64_t patients;    /* looked at */
    int64_t labels;      /* rows of a MEDS label file */
    int64_t unplaced;    /* of these: of nobody in the dataset */
    char    unmet[512];  /* "A, B": codes of the outcome and the stops that neither an event nor a token has */
    int64_t given, differ; /* rows whose outcome the file gives; that the task would have judged otherwise */
} LabelCounts;

typedef struct {
    int64_t index_us;
    int outcome;                                         /* 1, 0, -1 */
    double event_minutes, censor_minutes, death_minutes; /* after the index; NaN = none */
    uint32_t event_code;                                 /* of the outcome event, of positives */
    float event_value;
    uint16_t event_unit;
} LabelRow;

/* marks (n_codes): what each code of the events file is to the task. */
enum { MARK_OUTCOME = 1, MARK_INPATIENT = 2, MARK_STOP = 4 /* << stop */ };
uint32_t *label_marks(const LabelTask *t, const EventFile *f); /* free() it */
typedef struct {
    int64_t origin_us;      /* minute 0 of the tokens */
    int64_t oracle_us;      /* the oracle's index, TIME_NONE = none */
    int64_t last_us;        /* last day of observation of the whole file */
    const MedsLabel *label; /* (n_labels) of a label file, by time */
    int64_t n_labels;
} LabelRecord;

/* The rows of one patient, in time order; *rows is grown with *room.  Returns how many. */
int64_t label_patient(const LabelTask *t, const EventFile *f, const uint32_t *marks, const EventPatient *p,
                      const LabelRecord *r, LabelRow **rows, int64_t *room, LabelCounts *counts);

typedef struct {
    const char *events, *dataset;
    const char *linkage;         /* NULL: beside the events file */
    const char *meds;            /* label file that gives index times, and outcomes if it has any; NULL = none */
    const char *release_linkage; /* the label file's subjects and times are those of the source of this release */
    int split;                   /* -1: all */
    int one_per_patient;
    FILE *progress;
} LabelOptions;

/* Fills a label table (label.h).  t->first = -1 is decided here.  ERR_USAGE when no token can express the outcome. */
Status label_build(Table *out, LabelTask *t, const LabelOptions *o, LabelCounts *counts, Err *err);

#endif
