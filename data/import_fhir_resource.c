/* import_fhir_resource.c - resource types -> StageRows.
 *
 * `types` is the format: which element feeds which field.  Most types are told by their row alone (fhir_clinical); the
 * others have a function of their own, here or in import_fhir_observation.c. */
#include "data/import_fhir.h"
#include <stdlib.h>
#include <string.h>

static Status patient_read(FhirRow *r, const FhirType *t, Err *err);
static Status encounter_read(FhirRow *r, const FhirType *t, Err *err);
static Status medication_read(FhirRow *r, const FhirType *t, Err *err);
static Status location_read(FhirRow *r, const FhirType *t, Err *err);

/* clang-format off */
#define DRUG_CODE "medicationCodeableConcept", ""
/* Never read: identifier, name, telecom, address, photo, contact, text, note, UDIs, practitioners; attachments and
 * conclusions in words with --notes only. */
static const FhirType types[] = {
    {.name = "Patient", .read = patient_read},
    {.name = "Encounter", .kind = KIND_OTHER, .subject = "subject", .code = "type", .time = "period",
     .keep = "|arrived|triaged|in-progress|onleave|finished|unknown|", .not_done = "|planned|cancelled|",
     .read = encounter_read},
    {"Condition", KIND_DIAGNOSIS, "subject", "encounter", "code", "", "onset", "recordedDate", "", "", "", NULL},
    {"Observation", KIND_LAB, "subject", "encounter", "code", "", "effective", "issued", "",
     "|final|amended|corrected|", "|cancelled|", fhir_observation},
    {"DiagnosticReport", KIND_OTHER, "subject", "encounter", "code", "", "effective", "issued", "",
     "|final|amended|corrected|appended|", "|cancelled|", fhir_report},
    {"Procedure", KIND_PROCEDURE, "subject", "encounter", "code", "", "performed", "", "",
     "|in-progress|on-hold|stopped|completed|", "|preparation|not-done|", NULL},
    {"MedicationRequest", KIND_DRUG, "subject", "encounter", DRUG_CODE, "authoredOn", "", "",
     "|active|on-hold|completed|stopped|unknown|", "|cancelled|draft|", NULL},
    {"MedicationAdministration", KIND_DRUG, "subject", "context", DRUG_CODE, "effective", "", "",
     "|in-progress|on-hold|completed|stopped|", "|not-done|", NULL},
    {"MedicationDispense", KIND_DRUG, "subject", "context", DRUG_CODE, "whenHandedOver", "", "",
     "|in-progress|on-hold|completed|stopped|", "|preparation|cancelled|declined|", NULL},
    {"MedicationStatement", KIND_DRUG, "subject", "context", DRUG_CODE, "effective", "dateAsserted", "",
     "|active|completed|on-hold|stopped|", "|intended|not-taken|", NULL},
    {"Immunization", KIND_DRUG, "patient", "encounter", "vaccineCode", "", "occurrence", "recorded", "",
     "|completed|", "|not-done|", NULL},
    {"AllergyIntolerance", KIND_OTHER, "patient", "encounter", "code", "ALLERGY//", "onset", "recordedDate", "",
     "", "", NULL},
    {"CarePlan", KIND_OTHER, "subject", "encounter", "category", "", "period", "created", "",
     "|active|on-hold|revoked|completed|unknown|", "|draft|", NULL},
    {"SupplyDelivery", KIND_OTHER, "patient", "", "suppliedItem.itemCodeableConcept", "", "occurrence", "",
     "suppliedItem.quantity", "|in-progress|completed|", "|abandoned|", NULL},
    {"ImagingStudy", KIND_PROCEDURE, "subject", "encounter", "procedureCode", "", "started", "", "",
     "|available|", "|cancelled|", fhir_imaging},
    {.name = "Medication", .read = medication_read},
    {.name = "Location", .read = location_read},
    {.name = "DocumentReference", .kind = KIND_OTHER, .subject = "subject", .code = "type", .time = "date",
     .keep = "|current|", .not_done = "", .read = fhir_document}, /* not parsed without --notes */
};
/* clang-format on */
const int fhir_type_count = sizeof types / sizeof *types;

const char *fhir_type_name(int type) { return types[type].name; }

int fhir_type_find(const char *name) {
    for (int k = 0; k < fhir_type_count; k++)
        if (!strcmp(types[k].name, name)) return k;
    return -1;
}

/* ---- types that are told by their row of the table --------------------------------------------------------------- */

/* The code of a drug is its own, that of a contained Medication, or that of a Medication elsewhere. */
static Status drug_refers(FhirRow *r, FhirCode *code, uint64_t *refers) {
    char id[160], resource[200];
    int contained;
    const json_t *reference = json_object_get(r->resource, "medicationReference"), *item;
    size_t i;
    *refers = 0;
    if (fhir_reference(r, reference, "Medication", id, sizeof id, &contained) <= 0) return OK;
    if (!contained) {
        snprintf(resource, sizeof resource, "Medication/%s", id);
        *refers = (uint64_t)import_id_hash(resource, NULL);
        return OK;
    }
    json_array_foreach(json_object_get(r->resource, "contained"), i, item) {
        if (strcmp(fhir_text(item, "id"), id)) continue;
        fhir_count(r, NOTE_CONTAINED);
        fhir_code(r, json_object_get(item, "code"), code);
    }
    return OK;
}

Status fhir_clinical(FhirRow *r, const FhirType *t, Err *err) {
    Import *im = &r->f->im;
    FhirCode code;
    char text[256];
    int go;
    Status status = fhir_frame(r, t, &go, err);
    if (status || !go) return status;
    StageResource s = r->stage;
    fhir_code(r, fhir_path(r->resource, t->code), &code);
    if (!*code.code && t->kind == KIND_DRUG) status = drug_refers(r, &code, &s.refers);
    if (!*code.code && !s.refers) return fhir_stage_void(r, DROP_NO_CODE, err);
    /* ICD-9-CM has one system for diagnoses and procedures, whose codes overlap. */
    if (t->kind == KIND_PROCEDURE && !strncmp(code.code, "ICD9CM//", 8))
        snprintf(text, sizeof text, "ICD9Proc//%s", code.code + 8);
    else snprintf(text, sizeof text, "%s%s", t->prefix, code.code);
    if (!s.refers) status = import_code(im, KEY_CLINICAL, t->kind, text, code.name, 0, &s.row.key, err);
    if (!status && t->quantity && *t->quantity) {
        const json_t *quantity = fhir_path(r->resource, t->quantity);
        if (quantity) fhir_number(r, json_object_get(quantity, "value"), &s.row);
    }
    if (t->kind == KIND_DIAGNOSIS) {
        FhirCode category;
        const json_t *categories = json_object_get(r->resource, "category"), *item;
        size_t i;
        json_array_foreach(categories, i, item) {
            category.name = fhir_status(item);
            if (!strcmp(category.name, "problem-list-item")) s.row.flags |= ROW_ON_ADMISSION;
        }
    }
    return status ? status : fhir_stage(r, &s, err);
}

/* ---- patients and encounters ------------------------------------------------------------------------------------- */

/* OMB's category in a US Core extension. */
static const char *us_core(const json_t *patient, const char *name) {
    const json_t *item, *part;
    size_t i, k;
    json_array_foreach(json_object_get(patient, "extension"), i, item) {
        const char *url = fhir_text(item, "url"), *tail = strrchr(url, '/');
        if (!tail || strcmp(tail + 1, name)) continue;
        json_array_foreach(json_object_get(item, "extension"), k, part) {
            if (!strcmp(fhir_text(part, "url"), "ombCategory"))
                return fhir_text(json_object_get(part, "valueCoding"), "code");
        }
    }
    return "";
}

static Status patient_read(FhirRow *r, const FhirType *t, Err *err) {
    (void)t;
    Import *im = &r->f->im;
    const json_t *o = r->resource;
    uint32_t race, ethnicity;
    FhirTime birth, death;
    if (!*r->id) return fhir_drop(r, DROP_NO_SUBJECT);
    StageResource s = r->stage, d;
    s.row.stage = STAGE_PERSON;
    s.row.person = import_id_hash(r->id, &s.row.person_check);
    Status status = import_person_code(im, KEY_SEX, fhir_text(o, "gender"), &s.row.key, err);
    if (!status) status = import_person_code(im, KEY_RACE, us_core(o, "us-core-race"), &race, err);
    if (!status) status = import_person_code(im, KEY_ETHNICITY, us_core(o, "us-core-ethnicity"), &ethnicity, err);
    if (status) return status;
    s.row.end = (int64_t)race << 32 | ethnicity;
    const char *text = fhir_text(o, "birthDate");
    if (fhir_time(r, text, &birth) > 0) {
        s.row.start = birth.us;
        s.row.start_precision = (uint8_t)birth.precision;
        if (birth.over != TIME_NONE) fhir_count(r, NOTE_BIRTH_YEAR_ONLY);
    }
    text = fhir_text(o, "deceasedDateTime");
    int dead = fhir_time(r, text, &death);
    if (dead > 0 && date_is_placeholder(death.us)) dead = -1;
    if (dead < 0 || json_is_true(json_object_get(o, "deceasedBoolean"))) s.row.flags |= ROW_DEAD_UNDATED;
    const json_t *link;
    size_t i;
    json_array_foreach(json_object_get(o, "link"), i, link) {
        if (!strcmp(fhir_text(link, "type"), "replaced-by")) fhir_count(r, NOTE_REPLACED);
    }
    r->f->im.has_person = 1;
    d = s;
    if ((status = fhir_stage(r, &s, err))) return status;
    d.row.stage = STAGE_DEATH;
    d.row.flags = 0;
    d.row.key = INTERN_NONE;
    if (dead <= 0) { /* takes back the death that an older version told */
        d.drop = DROP_NOT_EVENT;
        return fhir_stage(r, &d, err);
    }
    d.row.start = death.over != TIME_NONE ? death.over : death.us; /* a year alone: dead when it is over */
    d.row.start_precision = (uint8_t)death.precision;
    d.row.end = TIME_NONE;
    import_day_count(im, d.row.start);
    return fhir_stage(r, &d, err);
}

/* Moves between wards: those in intensive care, which their Location says, are told. */
static Status moves_read(FhirRow *r, Err *err) {
    const json_t *item;
    char id[160], resource[200];
    FhirTime start, end;
    Status status = OK;
    size_t i;
    int told = 0;
    json_array_foreach(json_object_get(r->resource, "location"), i, item) {
        const json_t *period = json_object_get(item, "period");
        StageResource s = r->stage;
        if (status || fhir_reference(r, json_object_get(item, "location"), "Location", id, sizeof id, NULL) <= 0 ||
            fhir_time(r, fhir_text(period, "start"), &start) <= 0 || date_is_placeholder(start.us))
            continue;
        snprintf(resource, sizeof resource, "Location/%s", id);
        s.refers = (uint64_t)import_id_hash(resource, NULL);
        s.row.stage = STAGE_DETAIL;
        s.row.start = start.us;
        s.row.start_precision = (uint8_t)start.precision;
        s.row.end = TIME_NONE;
        if (fhir_time(r, fhir_text(period, "end"), &end) > 0 && !date_is_placeholder(end.us)) {
            s.row.end = end.us;
            s.row.end_precision = (uint8_t)end.precision;
        }
        status = fhir_stage(r, &s, err);
        told = 1;
    }
    if (status || told) return status;
    StageResource none = r->stage; /* nor those of an older version */
    none.row.stage = STAGE_DETAIL;
    none.drop = DROP_NOT_EVENT;
    return fhir_stage(r, &none, err);
}

static Status encounter_read(FhirRow *r, const FhirType *t, Err *err) {
    Import *im = &r->f->im;
    const json_t *class = json_object_get(r->resource, "class");
    FhirTime end;
    FhirCode code;
    int go;
    if (json_is_array(class)) class = json_array_get(class, 0);
    if (!*r->id) return fhir_drop(r, DROP_NOT_RESOURCE);
    r->stage.row.visit = import_id_hash(r->id, NULL);
    r->stage.row.stage = STAGE_VISIT;
    Status status = fhir_frame(r, t, &go, err);
    if (status || !go) return status;
    StageResource s = r->stage;
    s.row.end = TIME_NONE;
    if (fhir_time(r, fhir_text(json_object_get(r->resource, "period"), "end"), &end) > 0 &&
        !date_is_placeholder(end.us)) {
        s.row.end = end.over != TIME_NONE ? end.over : end.us;
        s.row.end_precision = (uint8_t)end.precision;
        import_day_count(im, s.row.end);
    }
    const char *class_code = json_is_string(class) ? json_string_value(class) : fhir_text(class, "code");
    if (!*class_code) class_code = fhir_status(class);
    status = import_visit_class(
        im, class_code, fhir_status(fhir_path(r->resource, "hospitalization.dischargeDisposition")), &s.row.key, err);
    if (!status) status = fhir_stage(r, &s, err);
    if (!status) status = moves_read(r, err);
    fhir_code(r, json_object_get(r->resource, "type"), &code);
    if (status) return status;
    /* What kind of encounter it is, known as it begins. */
    s = r->stage;
    s.row.stage = STAGE_CLINICAL;
    s.row.end = TIME_NONE;
    if (!*code.code) s.drop = DROP_NOT_EVENT; /* nor what an older version told */
    status = import_code(im, KEY_CLINICAL, KIND_OTHER, code.code, code.name, 0, &s.row.key, err);
    return status ? status : fhir_stage(r, &s, err);
}

/* ---- others ------------------------------------------------------------------------------------------------------ */

/* Told through the requests and administrations that refer to it. */
static Status medication_read(FhirRow *r, const FhirType *t, Err *err) {
    (void)t;
    FhirCode code;
    uint32_t key;
    fhir_code(r, json_object_get(r->resource, "code"), &code);
    if (!*r->id || !*code.code) return fhir_drop(r, DROP_NO_CODE);
    Status status = import_code(&r->f->im, KEY_CLINICAL, KIND_DRUG, code.code, code.name, 0, &key, err);
    r->f->im.report->table[r->table].emitted++;
    return status ? status : import_refer(&r->f->im, r->stage.resource, r->stage.version, key, err);
}

/* Told through the encounters in it. */
static Status location_read(FhirRow *r, const FhirType *t, Err *err) {
    (void)t;
    static const char *const icus[] = {"ICU", "PEDICU", "PEDNICU", "CCU", "309904001"}; /* HL7 v3 RoleCode, SNOMED CT */
    const json_t *type = json_object_get(r->resource, "type"), *item, *coding;
    size_t i, k;
    int icu = 0;
    json_array_foreach(type, i, item) {
        json_array_foreach(json_object_get(item, "coding"), k, coding) {
            for (size_t n = 0; n < sizeof icus / sizeof *icus; n++) icu |= !strcmp(fhir_text(coding, "code"), icus[n]);
        }
    }
    if (!icu || !*r->id) return fhir_drop(r, DROP_NOT_EVENT);
    CodeKey key = {.role = KEY_DETAIL, .text = INTERN_NONE, .mark = 1};
    r->f->im.report->table[r->table].emitted++;
    return import_refer(&r->f->im, r->stage.resource, r->stage.version, key_add(&r->f->im.keys, &key), err);
}

int fhir_type_is_document(int type) { return types[type].read == fhir_document; }

Status fhir_resource(FhirRow *r, int type, Err *err) {
    const FhirType *t = &types[type];
    return t->read ? t->read(r, t, err) : fhir_clinical(r, t, err);
}
