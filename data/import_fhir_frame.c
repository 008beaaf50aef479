/* import_fhir_frame.c - what resources of all types share: subject, visit, status, times; numbers and quantities; rows. */
#include "data/import_fhir.h"
#include <float.h>
#include <math.h>
#include <string.h>

Status fhir_drop(FhirRow *r, ReportReason reason) {
    fhir_count(r, reason);
    return OK;
}

Status fhir_stage(FhirRow *r, StageResource *s, Err *err) {
    if (r->staged++) s->row.flags |= ROW_MORE;
    return import_stage(&r->f->im, &s->row, err);
}

/* A resource that says of itself that it does not hold: it still takes the place of its older versions. */
Status fhir_stage_void(FhirRow *r, ReportReason reason, Err *err) {
    StageResource s = r->stage;
    s.drop = (int32_t)reason;
    Status status = fhir_stage(r, &s, err);
    if (status || s.row.stage != STAGE_VISIT) return status;
    s.row.stage = STAGE_DETAIL; /* what its older versions told */
    if ((status = fhir_stage(r, &s, err))) return status;
    s.row.stage = STAGE_CLINICAL;
    return fhir_stage(r, &s, err);
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
Status fhir_frame(FhirRow *r, const FhirType *t, int *go, Err *err) {
    *go = 0;
    if (!json_object_get(r->resource, t->subject) && !strcmp(fhir_text(r->resource, "status"), "entered-in-error")) {
        fhir_count(r, DROP_IN_ERROR); /* what is void may be told without its patient */
        return import_void(&r->f->im, r->stage.resource, r->stage.version, err);
    }
    if (!subject_read(r, t)) return OK;
    visit_read(r, t);
    ReportReason why = void_reason(r, t);
    if (why != DROP_END) return fhir_stage_void(r, why, err);
    why = times_read(r, t);
    if (why != DROP_END) return fhir_drop(r, why);
    *go = 1;
    return OK;
}

/* A number of any JSON kind, or one written as text. */
int fhir_number(FhirRow *r, const json_t *value, StageRow *s) {
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

Status fhir_quantity(FhirRow *r, const json_t *quantity, StageRow *s, Err *err) {
    static const char *const comparators[] = {"", "<", "<=", ">=", ">"};
    const char *comparator = fhir_text(quantity, "comparator"), *code = fhir_text(quantity, "code");
    const char *unit = fhir_text(quantity, "unit");
    if (!fhir_number(r, json_object_get(quantity, "value"), s)) return OK;
    int found = !*comparator;
    for (int k = 1; k < 5; k++)
        if (!strcmp(comparator, comparators[k])) s->comparator = (uint8_t)k, found = 1;
    if (!found) fhir_count(r, NOTE_BAD_OPERATOR);
    if (s->comparator != COMPARE_EQ) fhir_count(r, NOTE_LIMIT);
    if (!*code && *unit) fhir_count(r, NOTE_UNIT_TEXT);
    if (!*code && !*unit) fhir_count(r, NOTE_NO_UNIT);
    return import_unit(&r->f->im, *code ? code : unit, &s->unit, err);
}
