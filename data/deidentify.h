/* deidentify.h - from an events file to one that may leave the steward: random patient keys, times relative to the
 * first event, ages that end at 90, no places, no rare codes, no identifiers, no free text; and the record of it
 * (deidentify_record.h).
 *
 * Dates: every record's time 0 is its first event.  The end of observation would give the calendar away, since most
 * records end on the day the data were pulled, which is known.  So each record gets an end of its own: the pull day
 * less a random time below blur_end, the same rule for everybody whatever happened to them, and what comes later is
 * left out: censoring that says nothing about the patient. Ages: birth lies whole years before the first event.  A
 * record that passes 89 is shifted to end at 90. Splits are fixed here, where dates and sites are still known. */
#ifndef EHR_DATA_DEIDENTIFY_H
#define EHR_DATA_DEIDENTIFY_H
#include "data/deidentify_codes.h"
#include "data/tokenizer_split.h"
#include <jansson.h>

typedef struct {
    const char *events, *out;                    /* out NULL: dry run, nothing is written */
    const char *linkage;                         /* NULL in a dry run */
    const char *split, *key_file, *exclude_file; /* as for tokenize */
    const char *text_attestation;                /* attestation.json of level text-scrubbed, NULL: texts are dropped */
    const char *names;                           /* a source whose people's names are masked in texts, NULL: none */
    const char *statics;                         /* further static columns to keep */
    int64_t min_patients, blur_end_minutes, memory;
    int keep_state;
    int64_t seed; /* >= 0: everything random comes from it, for tests; -1: from the system */
    int overwrite;
    FILE *progress;
} DeidentifyOptions;

typedef struct {
    int64_t patients, events, codes, units;
} ReleaseSize;

typedef struct {
    ReleaseSize before, after;
    int64_t events_by_fate[FATE_COUNT], codes_by_fate[FATE_COUNT];
    int64_t beyond_end;                                /* events after the record's own end */
    int64_t after_death;                               /* events told after death */
    int64_t values_of_units;                           /* values whose unit too few patients have */
    int64_t values_rolled;                             /* values of codes that rolled up */
    int64_t names;                                     /* words of names that were looked for in texts */
    int64_t notes_before, notes_after, masked[PHI_COUNT + 1]; /* free texts; what was masked in them by kind, ages last */
    int64_t repetitions;                               /* events that became the same as another of the patient */
    int64_t before_birth;                              /* times moved to the (coarsened) birth */
    int64_t ages_shifted, ends_blurred, spans_dropped; /* patients */
    int64_t exclude_unknown;                           /* ids that nobody has */
    int64_t excluded, untimed, no_site, emptied;       /* patients left out; emptied: nothing remained */
    int64_t n_split[SPLIT_COUNT];
    /* Residual risk */
    int64_t sampled, unique_by_codes, unique_by_traits;
    char split_method[200];
    char release[33]; /* random name of the release, hex */
    char level[32];
    char sha256[65]; /* of the events file written; "" in a dry run */
    json_t *record;
} DeidentifyReport;

Status deidentify_events(const DeidentifyOptions *o, DeidentifyReport *r, Err *err);
void deidentify_report_free(DeidentifyReport *r);
/* One page for a privacy board, with room for a signature. */
void deidentify_report_print(const DeidentifyReport *r, const DeidentifyOptions *o, FILE *out);

#endif
