/* import_fhir_observation.c - observations, reports with what they hold, variants, imaging, and free texts -> StageRows. */
#include "data/import_fhir.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* "NM_007294.4:c.68_69del": a variant by its name is a code, not prose. */
static int is_hgvs(const char *text) {
    const char *colon = strchr(text, ':');
    size_t n = strlen(text);
    return colon && colon - text >= 5 && n < 100 && !text[strcspn(text, " \t\n\"\\")] && colon[1] &&
           strchr("cgmnpr", colon[1]) && colon[2] == '.' && text[2] == '_';
}

/* value[x] of an observation or a component -> a number, or an answer that becomes part of the code.  *has = 0: there
 * is none. */
static Status value_read(FhirRow *r, const json_t *o, int kind, const FhirCode *code, StageRow *s, int *has, Err *err) {
    static const char *const others[] = {"valueRange", "valueRatio",    "valueSampledData",
                                         "valueTime",  "valueDateTime", "valuePeriod"};
    const json_t *value;
    FhirCode answer;
    *has = 1;
    if (json_is_object(value = json_object_get(o, "valueQuantity"))) return fhir_quantity(r, value, s, err);
    if ((value = json_object_get(o, "valueInteger"))) return fhir_number(r, value, s), OK;
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
    return fhir_stage(r, &s, err);
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
        if (!status) status = fhir_stage(r, &s, err);
        told++;
    }
    if (told) fhir_count(r, NOTE_VARIANT);
    return status;
}

Status fhir_observation(FhirRow *r, const FhirType *t, Err *err) {
    const json_t *components = json_object_get(r->resource, "component"), *item;
    size_t i;
    int go, told;
    Status status = fhir_frame(r, t, &go, err);
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
        return fhir_stage_void(r, DROP_PANEL, err);
    FhirCode code;
    fhir_code(r, json_object_get(r->resource, "code"), &code);
    if (import_asks_identity(code.code)) return fhir_stage_void(r, DROP_IDENTITY, err);
    return fhir_stage_void(r, json_object_get(r->resource, "dataAbsentReason") ? DROP_NOT_DONE : DROP_NO_CODE, err);
}

/* Observations that exist inside their report only. */
static Status contained_read(FhirRow *r, Err *err) {
    const json_t *item, *part;
    Status status = OK;
    size_t i, k;
    int told;
    json_array_foreach(json_object_get(r->resource, "contained"), i, item) {
        if (status || strcmp(fhir_text(item, "resourceType"), "Observation")) continue;
        const char *state = fhir_text(item, "status");
        if (json_array_size(json_object_get(item, "modifierExtension")) ||
            (*state && strcmp(state, "final") && strcmp(state, "amended") && strcmp(state, "corrected")))
            continue; /* as if it came by itself */
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
Status fhir_imaging(FhirRow *r, const FhirType *t, Err *err) {
    const json_t *series = json_object_get(r->resource, "series"), *kinds = json_object_get(r->resource, "modality");
    const json_t *item;
    FhirCode code, part;
    size_t i;
    int go;
    fhir_code(r, json_object_get(r->resource, t->code), &code);
    if (*code.code) return fhir_clinical(r, t, err);
    Status status = fhir_frame(r, t, &go, err);
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
        if (!status) status = fhir_stage(r, &s, err);
    }
    return status || r->staged ? status : fhir_stage_void(r, DROP_NO_CODE, err);
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
    return status ? status : fhir_stage(r, &s, err);
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

Status fhir_document(FhirRow *r, const FhirType *t, Err *err) {
    const json_t *context = json_object_get(json_object_get(r->resource, "context"), "encounter");
    FhirCode code;
    char id[160];
    int go;
    if (json_is_array(context)) context = json_array_get(context, 0);
    if (fhir_reference(r, context, "Encounter", id, sizeof id, NULL) > 0) r->stage.row.visit = import_id_hash(id, NULL);
    Status status = fhir_frame(r, t, &go, err);
    if (status || !go) return status;
    const char *state = fhir_text(r->resource, "docStatus");
    if (!strcmp(state, "preliminary")) return fhir_stage_void(r, DROP_NOT_FINAL, err);
    if (!strcmp(state, "entered-in-error")) return fhir_stage_void(r, DROP_IN_ERROR, err);
    fhir_code(r, json_object_get(r->resource, t->code), &code);
    status = attachments_read(r, json_object_get(r->resource, "content"), "attachment", &code, t->kind, err);
    return status || r->staged ? status : fhir_stage_void(r, DROP_NO_TEXT, err);
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
Status fhir_report(FhirRow *r, const FhirType *t, Err *err) {
    const json_t *conclusions = json_object_get(r->resource, "conclusionCode"), *item;
    FhirCode code;
    size_t i;
    int go;
    Status status = fhir_frame(r, t, &go, err);
    if (status || !go) return status;
    StageResource s = r->stage;
    json_array_foreach(conclusions, i, item) {
        fhir_code(r, item, &code);
        if (!*code.code || status) continue;
        status = import_code(&r->f->im, KEY_CLINICAL, t->kind, code.code, code.name, 0, &s.row.key, err);
        if (!status) status = fhir_stage(r, &s, err);
    }
    if (!status) status = contained_read(r, err);
    if (!status) status = report_texts(r, t, err);
    if (status || r->staged) return status;
    if (json_array_size(json_object_get(r->resource, "result"))) return fhir_stage_void(r, DROP_PANEL, err);
    if (json_array_size(json_object_get(r->resource, "presentedForm"))) return fhir_stage_void(r, DROP_DOCUMENT, err);
    fhir_code(r, json_object_get(r->resource, "code"), &code);
    if (!*code.code) return fhir_stage_void(r, DROP_NO_CODE, err);
    status = import_code(&r->f->im, KEY_CLINICAL, t->kind, code.code, code.name, 0, &s.row.key, err);
    return status ? status : fhir_stage(r, &s, err);
}
