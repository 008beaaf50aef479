/* import_fhir_resource.c - resource types -> StageRows.
 *
 * `types` is the format: which element feeds which field.  Most types are told by their row alone (clinical_resource);
 * the others have a function of their own. */
#include "data/import_fhir.h"
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct FhirType {
    const char *name;
    EventKind kind;
    const char *subject, *visit; /* elements that refer to the patient and the encounter */
    const char *code, *prefix;   /* path of a CodeableConcept, or of an array of them */
    const char *time, *known;    /* element or choice; when it was recorded */
    const char *quantity;        /* path of a number */
    /* Statuses between bars.  Those that are in neither list are not final; "entered-in-error" is void for all. */
    const char *keep, *not_done;
    Status (*read)(FhirRow *r, const struct FhirType *t, Err *err); /* NULL: clinical_resource */
} FhirType;

static Status patient_read(FhirRow *r, const FhirType *t, Err *err);
static Status encounter_read(FhirRow *r, const FhirType *t, Err *err);
static Status observation_read(FhirRow *r, const FhirType *t, Err *err);
static Status report_read(FhirRow *r, const FhirType *t, Err *err);
static Status medication_read(FhirRow *r, const FhirType *t, Err *err);
static Status location_read(FhirRow *r, const FhirType *t, Err *err);
static Status document_read(FhirRow *r, const FhirType *t, Err *err);
static Status imaging_read(FhirRow *r, const FhirType *t, Err *err);

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
     "|final|amended|corrected|", "|cancelled|", observation_read},
    {"DiagnosticReport", KIND_OTHER, "subject", "encounter", "code", "", "effective", "issued", "",
     "|final|amended|corrected|appended|", "|cancelled|", report_read},
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
     "|available|", "|cancelled|", imaging_read},
    {.name = "Medication", .read = medication_read},
    {.name = "Location", .read = location_read},
    {.name = "DocumentReference", .kind = KIND_OTHER, .subject = "subject", .code = "type", .time = "date",
     .keep = "|current|", .not_done = "", .read = document_read}, /* not parsed without --notes */
};
/* clang-format on */
const int fhir_type_count = sizeof types / sizeof *types;

const char *fhir_type_name(int type) { return types[type].name; }

int fhir_type_find(const char *name) {
    for (int k = 0; k < fhir_type_count; k++)
        if (!strcmp(types[k].name, name)) return k;
    return -1;
}

/* ---- what they share --------------------------------------------------------------------------------------------- */

static Status drop(FhirRow *r, ReportReason reason) {
    fhir_count(r, reason);
    return OK;
}

static Status stage(FhirRow *r, StageResource *s, Err *err) {
    if (r->staged++) s->row.flags |= ROW_MORE;
    return import_stage(&r->f->im, &s->row, err);
}

/* A resource that says of itself that it does not hold: it still takes the place of its older versions. */
static Status stage_void(FhirRow *r, ReportReason reason, Err *err) {
    StageResource s = r->stage;
    s.drop = (int32_t)reason;
    Status status = stage(r, &s, err);
    if (status || s.row.stage != STAGE_VISIT) return status;
    s.row.stage = STAGE_CLINICAL; /* of its older versions */
    return stage(r, &s, err);
}

static int in_list(const char *list, const char *word) {
    size_t n = strlen(word);
    for (const char *p = list; n && (p = strstr(p, word)); p += n)
        if (p > list && p[-1] == '|' && p[n] == '|') return 1;
    return 0;
}

/* Why a resource does not count, DROP_END when it does. */
static ReportReason void_reason(FhirRow *r, const FhirType *t) {
    const json_t *o = r->resource;
    const char *status = fhir_text(o, "status"), *intent = fhir_text(o, "intent");
    const char *verified = fhir_status(json_object_get(o, "verificationStatus"));
    if (json_array_size(json_object_get(o, "modifierExtension"))) return DROP_MODIFIED;
    if (!strcmp(status, "entered-in-error") || !strcmp(verified, "entered-in-error")) return DROP_IN_ERROR;
    if (!strcmp(verified, "refuted")) return DROP_REFUTED;
    if (*verified && strcmp(verified, "confirmed")) fhir_count(r, NOTE_UNCONFIRMED);
    if (json_is_true(json_object_get(o, "doNotPerform"))) return DROP_NOT_DONE;
    if (!strcmp(intent, "proposal") || (!strcmp(intent, "plan") && t->kind == KIND_DRUG)) return DROP_NOT_DONE;
    if (t->not_done && in_list(t->not_done, status)) return DROP_NOT_DONE;
    if (t->keep && *t->keep && *status && !in_list(t->keep, status)) return DROP_NOT_FINAL;
    return DROP_END;
}

/* The patient; 0: the row is dropped. */
static int subject_read(FhirRow *r, const FhirType *t) {
    char id[160];
    if (fhir_reference(r, json_object_get(r->resource, t->subject), "Patient", id, sizeof id, NULL) <= 0) {
        fhir_count(r, DROP_NO_SUBJECT);
        return 0;
    }
    r->stage.row.person = import_id_hash(id, &r->stage.row.person_check);
    return 1;
}

static void visit_read(FhirRow *r, const FhirType *t) {
    char id[160];
    if (t->visit && *t->visit &&
        fhir_reference(r, json_object_get(r->resource, t->visit), "Encounter", id, sizeof id, NULL) > 0)
        r->stage.row.visit = import_id_hash(id, NULL);
}

/* Start, and when it was known; *why: why the row is dropped, else DROP_END. */
static ReportReason times_read(FhirRow *r, const FhirType *t) {
    FhirTime start, known;
    StageRow *s = &r->stage.row;
    int other, got = fhir_choice_time(r, t->time, &start, &other);
    int has_known = t->known && *t->known ? fhir_time(r, fhir_text(r->resource, t->known), &known) : 0;
    if (got > 0 && date_is_placeholder(start.us)) got = 0, other = 1;
    if (has_known > 0 && date_is_placeholder(known.us)) has_known = 0;
    if (got <= 0 && has_known > 0) { /* nobody knows since when; it is known from then on */
        if (got < 0) return DROP_BAD_DATE;
        fhir_count(r, NOTE_NO_START);
        start = known;
        has_known = 0;
    } else if (got <= 0) {
        return got < 0 ? DROP_BAD_DATE : other ? DROP_PLACEHOLDER_DATE : DROP_NO_DATE;
    }
    s->start = start.us;
    s->start_precision = (uint8_t)start.precision;
    if (has_known > 0) {
        s->end = known.over != TIME_NONE ? known.over : known.us;
        s->end_precision = (uint8_t)known.precision;
        import_day_count(&r->f->im, known.us);
    } else if (start.over != TIME_NONE) {
        s->end = start.over;
        s->end_precision = PRECISION_DAY;
    }
    import_day_count(&r->f->im, start.us);
    return DROP_END;
}

/* Subject, visit, status, times of a resource.  *go = 0: it is dropped. */
static Status frame_read(FhirRow *r, const FhirType *t, int *go, Err *err) {
    *go = 0;
    if (!json_object_get(r->resource, t->subject) && !strcmp(fhir_text(r->resource, "status"), "entered-in-error")) {
        fhir_count(r, DROP_IN_ERROR); /* what is void may be told without its patient */
        return import_void(&r->f->im, r->stage.resource, r->stage.version, err);
    }
    if (!subject_read(r, t)) return OK;
    visit_read(r, t);
    ReportReason why = void_reason(r, t);
    if (why != DROP_END) return stage_void(r, why, err);
    why = times_read(r, t);
    if (why != DROP_END) return drop(r, why);
    *go = 1;
    return OK;
}

/* A number of any JSON kind, or one written as text. */
static int number_read(FhirRow *r, const json_t *value, StageRow *s) {
    int comparator;
    if (json_is_number(value)) {
        double x = json_number_value(value);
        if (isfinite(x) && fabs(x) <= FLT_MAX) {
            s->value = (float)x;
            return 1;
        }
    } else if (json_is_string(value) && field_limit(json_string_value(value), &s->value, &comparator) > 0) {
        s->comparator = (uint8_t)comparator;
        fhir_count(r, NOTE_NUMBER_FROM_TEXT);
        return 1;
    } else if (!value) {
        return 0;
    }
    s->value = NAN;
    fhir_count(r, NOTE_BAD_NUMBER);
    return 0;
}

static Status quantity_read(FhirRow *r, const json_t *quantity, StageRow *s, Err *err) {
    static const char *const comparators[] = {"", "<", "<=", ">=", ">"};
    const char *comparator = fhir_text(quantity, "comparator"), *code = fhir_text(quantity, "code");
    const char *unit = fhir_text(quantity, "unit");
    if (!number_read(r, json_object_get(quantity, "value"), s)) return OK;
    int found = !*comparator;
    for (int k = 1; k < 5; k++)
        if (!strcmp(comparator, comparators[k])) s->comparator = (uint8_t)k, found = 1;
    if (!found) fhir_count(r, NOTE_BAD_OPERATOR);
    if (s->comparator != COMPARE_EQ) fhir_count(r, NOTE_LIMIT);
    if (!*code && *unit) fhir_count(r, NOTE_UNIT_TEXT);
    if (!*code && !*unit) fhir_count(r, NOTE_NO_UNIT);
    return import_unit(&r->f->im, *code ? code : unit, &s->unit, err);
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

static Status clinical_resource(FhirRow *r, const FhirType *t, Err *err) {
    Import *im = &r->f->im;
    FhirCode code;
    char text[256];
    int go;
    Status status = frame_read(r, t, &go, err);
    if (status || !go) return status;
    StageResource s = r->stage;
    fhir_code(r, fhir_path(r->resource, t->code), &code);
    if (!*code.code && t->kind == KIND_DRUG) status = drug_refers(r, &code, &s.refers);
    if (!*code.code && !s.refers) return drop(r, DROP_NO_CODE);
    /* ICD-9-CM has one system for diagnoses and procedures, whose codes overlap. */
    if (t->kind == KIND_PROCEDURE && !strncmp(code.code, "ICD9CM//", 8))
        snprintf(text, sizeof text, "ICD9Proc//%s", code.code + 8);
    else snprintf(text, sizeof text, "%s%s", t->prefix, code.code);
    if (!s.refers) status = import_code(im, KEY_CLINICAL, t->kind, text, code.name, 0, &s.row.key, err);
    if (!status && t->quantity && *t->quantity) {
        const json_t *quantity = fhir_path(r->resource, t->quantity);
        if (quantity) number_read(r, json_object_get(quantity, "value"), &s.row);
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
    return status ? status : stage(r, &s, err);
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
    if (!*r->id) return drop(r, DROP_NO_SUBJECT);
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
    if ((status = stage(r, &s, err))) return status;
    d.row.stage = STAGE_DEATH;
    d.row.flags = 0;
    d.row.key = INTERN_NONE;
    if (dead <= 0) { /* takes back the death that an older version told */
        d.drop = DROP_NOT_EVENT;
        return stage(r, &d, err);
    }
    d.row.start = death.over != TIME_NONE ? death.over : death.us; /* a year alone: dead when it is over */
    d.row.start_precision = (uint8_t)death.precision;
    d.row.end = TIME_NONE;
    import_day_count(im, d.row.start);
    return stage(r, &d, err);
}

/* Moves between wards: those in intensive care, which their Location says, are told. */
static Status moves_read(FhirRow *r, Err *err) {
    const json_t *item;
    char id[160], resource[200];
    FhirTime start, end;
    Status status = OK;
    size_t i;
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
        status = stage(r, &s, err);
    }
    return status;
}

static Status encounter_read(FhirRow *r, const FhirType *t, Err *err) {
    Import *im = &r->f->im;
    const json_t *class = json_object_get(r->resource, "class");
    FhirTime end;
    FhirCode code;
    int go;
    if (json_is_array(class)) class = json_array_get(class, 0);
    if (!*r->id) return drop(r, DROP_NOT_RESOURCE);
    r->stage.row.visit = import_id_hash(r->id, NULL);
    r->stage.row.stage = STAGE_VISIT;
    Status status = frame_read(r, t, &go, err);
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
    if (!status) status = stage(r, &s, err);
    if (!status) status = moves_read(r, err);
    fhir_code(r, json_object_get(r->resource, "type"), &code);
    if (status) return status;
    /* What kind of encounter it is, known as it begins. */
    s = r->stage;
    s.row.stage = STAGE_CLINICAL;
    s.row.end = TIME_NONE;
    if (!*code.code) s.drop = DROP_NOT_EVENT; /* nor what an older version told */
    status = import_code(im, KEY_CLINICAL, KIND_OTHER, code.code, code.name, 0, &s.row.key, err);
    return status ? status : stage(r, &s, err);
}

/* ---- observations and reports ------------------------------------------------------------------------------------ */

/* value[x] of an observation or a component -> a number, or an answer that becomes part of the code.  *has = 0: there
 * is none. */
/* "NM_007294.4:c.68_69del": a variant by its name is a code, not prose. */
static int is_hgvs(const char *text) {
    const char *colon = strchr(text, ':');
    size_t n = strlen(text);
    return colon && colon - text >= 5 && n < 100 && !text[strcspn(text, " \t\n\"\\")] && colon[1] &&
           strchr("cgmnpr", colon[1]) && colon[2] == '.' && text[2] == '_';
}

static Status value_read(FhirRow *r, const json_t *o, int kind, const FhirCode *code, StageRow *s, int *has, Err *err) {
    static const char *const others[] = {"valueRange", "valueRatio",    "valueSampledData",
                                         "valueTime",  "valueDateTime", "valuePeriod"};
    const json_t *value;
    FhirCode answer;
    *has = 1;
    if (json_is_object(value = json_object_get(o, "valueQuantity"))) return quantity_read(r, value, s, err);
    if ((value = json_object_get(o, "valueInteger"))) return number_read(r, value, s), OK;
    if (json_is_object(value = json_object_get(o, "valueCodeableConcept"))) {
        fhir_code(r, value, &answer);
        if (!*answer.code) return OK;
        if (!strncmp(answer.code, "TEXT//", 6)) {
            s->key = import_words(&r->f->im, s->key, answer.code + 6);
            return OK;
        }
        return import_answer(&r->f->im, kind, code->code, code->name, answer.code, answer.name, &s->key, err);
    }
    if (json_is_boolean(value = json_object_get(o, "valueBoolean"))) {
        const char *word = json_is_true(value) ? "true" : "false";
        return import_answer(&r->f->im, kind, code->code, code->name, word, word, &s->key, err);
    }
    if (json_is_string(value = json_object_get(o, "valueString"))) {
        int comparator;
        if (field_limit(json_string_value(value), &s->value, &comparator) > 0) {
            s->comparator = (uint8_t)comparator;
            fhir_count(r, NOTE_NUMBER_FROM_TEXT);
            if (comparator != COMPARE_EQ) fhir_count(r, NOTE_LIMIT);
        } else if (is_hgvs(json_string_value(value))) {
            char text[128];
            s->value = NAN;
            snprintf(text, sizeof text, "HGVS//%s", json_string_value(value));
            return import_answer(&r->f->im, kind, code->code, code->name, text, json_string_value(value), &s->key, err);
        } else {
            s->value = NAN;
            fhir_count(r, NOTE_TEXT_VALUE);
        }
        return OK;
    }
    for (size_t k = 0; k < sizeof others / sizeof *others; k++)
        if (json_object_get(o, others[k])) {
            fhir_count(r, NOTE_VALUE_TYPE);
            return OK;
        }
    *has = 0;
    return OK;
}

static int has_category(const json_t *resource, const char *code) {
    const json_t *item, *coding;
    size_t i, k;
    json_array_foreach(json_object_get(resource, "category"), i, item) {
        json_array_foreach(json_object_get(item, "coding"), k, coding) {
            if (!strcmp(fhir_text(coding, "code"), code)) return 1;
        }
    }
    return 0;
}

/* One code with its value; *told: a row was made of it. */
static Status measured(FhirRow *r, const json_t *o, int kind, int *told, Err *err) {
    FhirCode code;
    StageResource s = r->stage;
    int has;
    *told = 0;
    fhir_code(r, json_object_get(o, "code"), &code);
    if (!*code.code || import_asks_identity(code.code)) return OK;
    Status status = import_code(&r->f->im, KEY_CLINICAL, kind, code.code, code.name, 0, &s.row.key, err);
    if (!status) status = value_read(r, o, kind, &code, &s.row, &has, err);
    if (status) return status;
    int is_panel = o == r->resource && (json_array_size(json_object_get(o, "component")) ||
                                        json_array_size(json_object_get(o, "hasMember")));
    if (!has && (is_panel || json_object_get(o, "dataAbsentReason") || o != r->resource)) return OK;
    if (!has) fhir_count(r, NOTE_VALUE_ABSENT);
    *told = 1;
    return stage(r, &s, err);
}

/* ---- genomic variants (HL7 Genomics Reporting) ---- */

static const json_t *component_of(const json_t *observation, const char *loinc) {
    const json_t *item, *coding;
    size_t i, k;
    json_array_foreach(json_object_get(observation, "component"), i, item) {
        json_array_foreach(json_object_get(json_object_get(item, "code"), "coding"), k, coding) {
            if (!strcmp(fhir_text(coding, "code"), loinc)) return item;
        }
    }
    return NULL;
}

/* A variant's components are told one by one, which loses what belongs together where a report has several.  So its gene
 * is told with what was found in it: HGNC//HGNC:1100=LOINC//LA6668-3 (pathogenic), =CLINVAR//17661 (which variant).  Not
 * of variants that were looked for and are absent. */
static Status variant_read(FhirRow *r, int kind, Err *err) {
    static const char *const found_by[] = {"53037-8" /* significance */, "81252-9" /* variation id */,
                                           "48004-6" /* name by its DNA */};
    const json_t *present = json_object_get(r->resource, "valueCodeableConcept");
    FhirCode gene, answer;
    fhir_code(r, present, &answer);
    if (!strcmp(answer.code, "LOINC//LA9634-2") || !strcmp(answer.code, "LOINC//LA18198-4")) return OK; /* absent, no call */
    fhir_code(r, json_object_get(component_of(r->resource, "48018-6"), "valueCodeableConcept"), &gene);
    Status status = OK;
    int told = 0;
    for (size_t k = 0; k < sizeof found_by / sizeof *found_by && *gene.code && !status; k++) {
        StageResource s = r->stage;
        fhir_code(r, json_object_get(component_of(r->resource, found_by[k]), "valueCodeableConcept"), &answer);
        if (!*answer.code || !strncmp(answer.code, "TEXT//", 6) || !strncmp(gene.code, "TEXT//", 6)) continue;
        status = import_answer(&r->f->im, kind, gene.code, gene.name, answer.code, answer.name, &s.row.key, err);
        if (!status) status = stage(r, &s, err);
        told++;
    }
    if (told) fhir_count(r, NOTE_VARIANT);
    return status;
}

static Status observation_read(FhirRow *r, const FhirType *t, Err *err) {
    const json_t *components = json_object_get(r->resource, "component"), *item;
    size_t i;
    int go, told;
    Status status = frame_read(r, t, &go, err);
    if (status || !go) return status;
    int lab = has_category(r->resource, "laboratory"), kind = lab ? KIND_LAB : KIND_OTHER;
    if (has_category(r->resource, "vital-signs") || !json_array_size(json_object_get(r->resource, "category")))
        kind = KIND_LAB;
    if (lab && !*fhir_text(r->resource, "issued")) r->stage.row.flags |= ROW_LAG;
    status = measured(r, r->resource, kind, &told, err);
    int parts = 0;
    json_array_foreach(components, i, item) {
        if (status) break;
        status = measured(r, item, kind, &told, err);
        parts += told;
        if (!status && !told) fhir_count(r, NOTE_PART_DROPPED);
    }
    if (parts) fhir_count(r, NOTE_COMPONENTS);
    if (!status && parts && component_of(r->resource, "48018-6")) status = variant_read(r, kind, err);
    if (status || r->staged) return status;
    if (json_array_size(components) || json_array_size(json_object_get(r->resource, "hasMember")))
        return stage_void(r, DROP_PANEL, err);
    FhirCode code;
    fhir_code(r, json_object_get(r->resource, "code"), &code);
    if (import_asks_identity(code.code)) return stage_void(r, DROP_IDENTITY, err);
    return stage_void(r, json_object_get(r->resource, "dataAbsentReason") ? DROP_NOT_DONE : DROP_NO_CODE, err);
}

/* Observations that exist inside their report only. */
static Status contained_read(FhirRow *r, Err *err) {
    const json_t *item, *part;
    Status status = OK;
    size_t i, k;
    int told;
    json_array_foreach(json_object_get(r->resource, "contained"), i, item) {
        if (status || strcmp(fhir_text(item, "resourceType"), "Observation")) continue;
        if (!strcmp(fhir_text(item, "status"), "entered-in-error")) continue;
        fhir_count(r, NOTE_CONTAINED);
        int kind = has_category(item, "laboratory") || has_category(r->resource, "LAB") ? KIND_LAB : KIND_OTHER;
        status = measured(r, item, kind, &told, err);
        json_array_foreach(json_object_get(item, "component"), k, part) {
            if (!status) status = measured(r, part, kind, &told, err);
        }
    }
    return status;
}

/* What was imaged: the procedure's code, or else each kind of image with the part of the body, DICOM//CT=SNOMED//51185008. */
static Status imaging_read(FhirRow *r, const FhirType *t, Err *err) {
    const json_t *series = json_object_get(r->resource, "series"), *kinds = json_object_get(r->resource, "modality");
    const json_t *item;
    FhirCode code, part;
    size_t i;
    int go;
    fhir_code(r, json_object_get(r->resource, t->code), &code);
    if (*code.code) return clinical_resource(r, t, err);
    Status status = frame_read(r, t, &go, err);
    if (status || !go) return status;
    int of_series = json_array_size(series) > 0;
    json_array_foreach(of_series ? series : kinds, i, item) {
        StageResource s = r->stage;
        fhir_code(r, of_series ? json_object_get(item, "modality") : item, &code);
        fhir_code(r, of_series ? json_object_get(item, "bodySite") : NULL, &part);
        if (status || !*code.code) continue;
        if (*part.code && strncmp(part.code, "TEXT//", 6))
            status = import_answer(&r->f->im, t->kind, code.code, code.name, part.code, part.name, &s.row.key, err);
        else status = import_code(&r->f->im, KEY_CLINICAL, t->kind, code.code, code.name, 0, &s.row.key, err);
        if (!status) status = stage(r, &s, err);
    }
    return status || r->staged ? status : stage_void(r, DROP_NO_CODE, err);
}

/* ---- free texts ---- */

/* The text of an attachment that holds it itself, as plain text; NULL: there is none, or it is counted why not. */
static char *attachment_text(FhirRow *r, const json_t *attachment, size_t *n) {
    const char *type = fhir_text(attachment, "contentType"), *data = fhir_text(attachment, "data");
    char *text = NULL;
    if (!*data && !*fhir_text(attachment, "url")) return NULL;
    if (*data && (!*type || !strncasecmp(type, "text/plain", 10))) text = import_base64(data, n);
    if (!text) fhir_count(r, NOTE_NOT_PLAIN);
    return text;
}

/* One text of a resource with the code that says what it is: an event of its own. */
static Status note_stage(FhirRow *r, const FhirCode *code, int kind, const char *text, size_t n, Err *err) {
    Import *im = &r->f->im;
    StageResource s = r->stage;
    uint64_t at;
    Status status = import_note(im, r->table, r->row, text, n, &at, err);
    if (status || !at) return status;
    status = import_code(im, KEY_CLINICAL, kind, *code->code ? code->code : "NOTE//UNKNOWN", code->name, 0, &s.row.key,
                         err);
    s.row.text = at;
    s.row.flags |= ROW_TEXT;
    return status ? status : stage(r, &s, err);
}

static Status attachments_read(FhirRow *r, const json_t *list, const char *member, const FhirCode *code, int kind,
                               Err *err) {
    const json_t *item;
    Status status = OK;
    size_t i, n;
    json_array_foreach(list, i, item) {
        char *text = status ? NULL : attachment_text(r, *member ? json_object_get(item, member) : item, &n);
        if (text) status = note_stage(r, code, kind, text, n, err);
        free(text);
    }
    return status;
}

static Status document_read(FhirRow *r, const FhirType *t, Err *err) {
    const json_t *context = json_object_get(json_object_get(r->resource, "context"), "encounter");
    FhirCode code;
    char id[160];
    int go;
    if (json_is_array(context)) context = json_array_get(context, 0);
    if (fhir_reference(r, context, "Encounter", id, sizeof id, NULL) > 0) r->stage.row.visit = import_id_hash(id, NULL);
    Status status = frame_read(r, t, &go, err);
    if (status || !go) return status;
    const char *state = fhir_text(r->resource, "docStatus");
    if (!strcmp(state, "preliminary")) return stage_void(r, DROP_NOT_FINAL, err);
    if (!strcmp(state, "entered-in-error")) return stage_void(r, DROP_IN_ERROR, err);
    fhir_code(r, json_object_get(r->resource, t->code), &code);
    status = attachments_read(r, json_object_get(r->resource, "content"), "attachment", &code, t->kind, err);
    return status || r->staged ? status : stage_void(r, DROP_NO_TEXT, err);
}

/* What a report says in words: its conclusion, and itself where it is plain text. */
static Status report_texts(FhirRow *r, const FhirType *t, Err *err) {
    const char *conclusion = fhir_text(r->resource, "conclusion");
    FhirCode code;
    if (!r->f->im.options->notes) return OK;
    fhir_code(r, json_object_get(r->resource, "code"), &code);
    Status status = *conclusion ? note_stage(r, &code, t->kind, conclusion, strlen(conclusion), err) : OK;
    if (status) return status;
    return attachments_read(r, json_object_get(r->resource, "presentedForm"), "", &code, t->kind, err);
}

/* Members of a report are observations of their own.  What remains are its conclusions, or that it was made. */
static Status report_read(FhirRow *r, const FhirType *t, Err *err) {
    const json_t *conclusions = json_object_get(r->resource, "conclusionCode"), *item;
    FhirCode code;
    size_t i;
    int go;
    Status status = frame_read(r, t, &go, err);
    if (status || !go) return status;
    StageResource s = r->stage;
    json_array_foreach(conclusions, i, item) {
        fhir_code(r, item, &code);
        if (!*code.code || status) continue;
        status = import_code(&r->f->im, KEY_CLINICAL, t->kind, code.code, code.name, 0, &s.row.key, err);
        if (!status) status = stage(r, &s, err);
    }
    if (!status) status = contained_read(r, err);
    if (!status) status = report_texts(r, t, err);
    if (status || r->staged) return status;
    if (json_array_size(json_object_get(r->resource, "result"))) return stage_void(r, DROP_PANEL, err);
    if (json_array_size(json_object_get(r->resource, "presentedForm"))) return stage_void(r, DROP_DOCUMENT, err);
    fhir_code(r, json_object_get(r->resource, "code"), &code);
    if (!*code.code) return drop(r, DROP_NO_CODE);
    status = import_code(&r->f->im, KEY_CLINICAL, t->kind, code.code, code.name, 0, &s.row.key, err);
    return status ? status : stage(r, &s, err);
}

/* ---- others ------------------------------------------------------------------------------------------------------ */

/* Told through the requests and administrations that refer to it. */
static Status medication_read(FhirRow *r, const FhirType *t, Err *err) {
    (void)t;
    FhirCode code;
    uint32_t key;
    fhir_code(r, json_object_get(r->resource, "code"), &code);
    if (!*r->id || !*code.code) return drop(r, DROP_NO_CODE);
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
    if (!icu || !*r->id) return drop(r, DROP_NOT_EVENT);
    CodeKey key = {.role = KEY_DETAIL, .text = INTERN_NONE, .mark = 1};
    r->f->im.report->table[r->table].emitted++;
    return import_refer(&r->f->im, r->stage.resource, r->stage.version, key_add(&r->f->im.keys, &key), err);
}

int fhir_type_is_document(int type) { return types[type].read == document_read; }

Status fhir_resource(FhirRow *r, int type, Err *err) {
    const FhirType *t = &types[type];
    return t->read ? t->read(r, t, err) : clinical_resource(r, t, err);
}
