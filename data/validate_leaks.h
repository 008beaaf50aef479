/* validate_leaks.h - inside validate: what the whole of a file gives away, patient by patient and then in sum. */
#ifndef EHR_DATA_VALIDATE_LEAKS_H
#define EHR_DATA_VALIDATE_LEAKS_H
#include "data/validate.h"
#include "data/validate_twins.h"

/* ---- events files: dates taken for times, diagnoses known before anything was measured --------------------------- */
typedef struct {
    EventFile *f;
    int64_t *timed, *midnight; /* (n_codes) events with a time of day; of those, at 00:00 and known there and then */
    int64_t k;                 /* of a release: patients behind each code; 0: no release */
    int64_t *holders, *stamp;  /* (n_codes) of a release */
    int *analyte, *usual_unit; /* (n_codes) of units.h, -1: none; unit of the file, -1: none */
    int64_t *measured, *beyond; /* (n_codes) values in the usual unit; of those, implausible ones */
    int notes_unattested;      /* a release with free texts that nobody attested to be scrubbed */
    int64_t stays, stays_diagnosed_first;
    int64_t first_stay_row; /* patient of the first such stay */
    Twins *twins;
} EventLeaks;
void event_leaks_open(EventLeaks *l, EventFile *f);
void event_leaks_patient(EventLeaks *l, ValidateReport *r, int64_t row, const EventPatient *p);
void event_leaks_report(EventLeaks *l, ValidateReport *r);
void event_leaks_close(EventLeaks *l);

/* ---- datasets: a vocabulary that knows more than the train split, labels that know the future -------------------- */
typedef struct {
    Dataset *d;
    int64_t *holders, *stamp; /* (vocabulary.n) train patients; last patient seen */
    int64_t seen;
    Twins *twins;
} DatasetLeaks;
void dataset_leaks_open(DatasetLeaks *l, Dataset *d);
void dataset_leaks_patient(DatasetLeaks *l, int split, const PatientView *p); /* ids are within the vocabulary */
void dataset_leaks_report(DatasetLeaks *l, ValidateReport *r);
void dataset_leaks_close(DatasetLeaks *l);
/* Every labels/NAME.h5 of the dataset (validate_labels.c). */
void label_leaks_report(Dataset *d, ValidateReport *r);

#endif
