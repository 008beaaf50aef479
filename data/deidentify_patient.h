/* deidentify_patient.h - inside deidentify: the state of a run, and one patient as the release tells them. */
#ifndef EHR_DATA_DEIDENTIFY_PATIENT_H
#define EHR_DATA_DEIDENTIFY_PATIENT_H
#include "data/deidentify.h"

typedef struct {
    EventFile f;
    Cohort cohort;
    ReleaseCodes codes;
    int64_t *key;    /* (f.n_patients) random id in the release */
    PhiPatterns *phi;  /* texts are masked by it; NULL: they are dropped */
    int64_t *end_us; /* (f.n_patients) own end of the record, TIME_NONE: none but the source's */
    const DeidentifyOptions *o;
} Deid;

/* Events hold places in codes.out as codes, source places as units; times are relative. */
typedef struct {
    int64_t n, capacity;
    Event *event;
    int64_t origin_us, observation_end;
    int64_t first_note; /* events' notes count from it */
    int age_years; /* at time 0; -1: unknown */
    int ends_at_own_end, age_shifted, span_dropped;
} DeidPatient;

/* row as in the events file.  out->n = 0: the patient is not in the release.  r is added to when it is not NULL. */
Status deid_patient(Deid *d, int64_t row, DeidPatient *out, DeidentifyReport *r, Err *err);
void deid_patient_free(DeidPatient *p);
/* Residual risk: shares of patients who are the only ones with what is told. */
Status deid_risk(Deid *d, DeidentifyReport *r, uint64_t seed, Err *err);
/* The de-identification record (deidentify_record.h) of a finished run; json_decref it. */
json_t *deidentify_record_make(const DeidentifyReport *r, const DeidentifyOptions *o, const ReleaseCodes *m,
                               int synthetic, const json_t *text_attestation);

#endif
