/* import_fhir.h - the FHIR importer's parts.
 *
 *   fhir_text.c                streams -> the text of one resource at a time
 *   import_fhir.c              files, parsing, identity and version of a resource, accounts
 *   import_fhir_element.c      elements: dates, references, codes, quantities
 *   import_fhir_frame.c        what resources of all types share: subject, visit, status, times, numbers, rows
 *   import_fhir_resource.c     resource types -> StageRows: the table of the format; patients, encounters
 *   import_fhir_observation.c  observations, reports, imaging, free texts -> StageRows */
#ifndef EHR_DATA_IMPORT_FHIR_H
#define EHR_DATA_IMPORT_FHIR_H
#include "data/import_stage.h"
#include <jansson.h>

typedef struct {
    Import im;
    char **others; /* names of types without events that were met */
    int n_others;
    int zone_told;    /* some time had an offset, which tells the clock that dates are on */
    const char *file; /* that is being read */
    int64_t piece;    /* of it, from 1 */
} Fhir;

/* One resource on its way. */
typedef struct {
    Fhir *f;
    const json_t *resource;
    char id[160]; /* "" = none */
    int table;
    int64_t row;
    StageResource stage; /* what its rows have in common */
    int staged;          /* rows so far: the first one counts */
} FhirRow;

enum { FHIR_TABLES_MAX = 24 };
extern const int fhir_type_count;
const char *fhir_type_name(int type);
int fhir_type_find(const char *name); /* -1: a type without events */
int fhir_type_is_document(int type);  /* free text, which is read with --notes only */
Status fhir_resource(FhirRow *r, int type, Err *err);

/* ---- elements ---------------------------------------------------------------------------------------------------- */
static inline void fhir_count(FhirRow *r, ReportReason reason) {
    import_report_count(r->f->im.report, r->table, reason, r->row);
}
const char *fhir_text(const json_t *object, const char *key); /* "" when it is not a string */
/* "suppliedItem.itemCodeableConcept"; NULL = not there. */
const json_t *fhir_path(const json_t *object, const char *path);

typedef struct {
    int64_t us, over; /* over: the last day it may be, when only year or month are told; else TIME_NONE */
    int precision;
} FhirTime;
/* A date, dateTime or instant: 1 = read, 0 = empty, -1 = unreadable.  Told in UTC. */
int fhir_time(FhirRow *r, const char *text, FhirTime *out);
/* Of a choice of types: NAME, NAMEDateTime, NAMEInstant, NAMEPeriod, NAMETiming.  *other: told in another way. */
int fhir_choice_time(FhirRow *r, const char *name, FhirTime *out, int *other);

/* Id in a reference to a `type` ("Patient/1", "http://.../Patient/1/_history/2", "urn:uuid:..."): 1 = read, 0 = none,
 * -1 = not to that type or not by id.  *contained: "#1". */
int fhir_reference(FhirRow *r, const json_t *reference, const char *type, char *id, size_t size, int *contained);

typedef struct {
    char code[200]; /* "SNOMED//44054006", "" = none */
    const char *name;
} FhirCode;
/* The best coding of a CodeableConcept, a Coding, or an array of them. */
void fhir_code(FhirRow *r, const json_t *concept, FhirCode *out);
/* Code of a status concept: clinicalStatus, verificationStatus. */
const char *fhir_status(const json_t *concept);

/* ---- resources --------------------------------------------------------------------------------------------------- */
typedef struct FhirType {
    const char *name;
    EventKind kind;
    const char *subject, *visit; /* elements that refer to the patient and the encounter */
    const char *code, *prefix;   /* path of a CodeableConcept, or of an array of them */
    const char *time, *known;    /* element or choice; when it was recorded */
    const char *quantity;        /* path of a number */
    /* Statuses between bars.  Those that are in neither list are not final; "entered-in-error" is void for all. */
    const char *keep, *not_done;
    Status (*read)(FhirRow *r, const struct FhirType *t, Err *err); /* NULL: fhir_clinical */
} FhirType;

/* Counts why the row is dropped. */
Status fhir_drop(FhirRow *r, ReportReason reason);
Status fhir_stage(FhirRow *r, StageResource *s, Err *err);
/* A resource that says of itself that it does not hold: it still takes the place of its older versions. */
Status fhir_stage_void(FhirRow *r, ReportReason reason, Err *err);
/* Subject, visit, status, times of a resource.  *go = 0: it is dropped. */
Status fhir_frame(FhirRow *r, const FhirType *t, int *go, Err *err);
/* A number of any JSON kind, or one written as text: 1 = read. */
int fhir_number(FhirRow *r, const json_t *value, StageRow *s);
Status fhir_quantity(FhirRow *r, const json_t *quantity, StageRow *s, Err *err);

/* FhirType.read */
Status fhir_clinical(FhirRow *r, const FhirType *t, Err *err);
Status fhir_observation(FhirRow *r, const FhirType *t, Err *err);
Status fhir_report(FhirRow *r, const FhirType *t, Err *err);
Status fhir_document(FhirRow *r, const FhirType *t, Err *err);
Status fhir_imaging(FhirRow *r, const FhirType *t, Err *err);

#endif
