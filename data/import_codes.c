/* import_codes.c - names of code systems, visit classes, sexes, races as sources write them -> the codes we write. */
#include "data/import_stage.h"
#include <string.h>

/* In the order of preference where a record has codes of several systems. */
static const struct {
    const char *vocabulary, *names[6];
} systems[] = {
    {"LOINC", {"http://loinc.org", "urn:oid:2.16.840.1.113883.6.1", "LOINC"}},
    {"RxNorm", {"http://www.nlm.nih.gov/research/umls/rxnorm", "urn:oid:2.16.840.1.113883.6.88", "RxNorm"}},
    {"CVX", {"http://hl7.org/fhir/sid/cvx", "urn:oid:2.16.840.1.113883.12.292", "CVX"}},
    {"SNOMED", {"http://snomed.info/sct", "urn:oid:2.16.840.1.113883.6.96", "SNOMED-CT", "SNOMED"}},
    {"ICD10CM", {"http://hl7.org/fhir/sid/icd-10-cm", "urn:oid:2.16.840.1.113883.6.90", "ICD10CM", "ICD-10-CM"}},
    {"ICD10PCS",
     {"http://www.cms.gov/Medicare/Coding/ICD10", "http://hl7.org/fhir/sid/icd-10-pcs", "urn:oid:2.16.840.1.113883.6.4",
      "ICD10PCS", "ICD-10-PCS"}},
    {"ICD10", {"http://hl7.org/fhir/sid/icd-10", "urn:oid:2.16.840.1.113883.6.3", "ICD10", "ICD-10"}},
    {"ICD9CM", {"http://hl7.org/fhir/sid/icd-9-cm", "urn:oid:2.16.840.1.113883.6.103", "ICD9CM", "ICD-9-CM"}},
    {"CPT4", {"http://www.ama-assn.org/go/cpt", "urn:oid:2.16.840.1.113883.6.12", "CPT4", "CPT"}},
    {"HCPCS",
     {"https://www.cms.gov/Medicare/Coding/HCPCSReleaseCodeSets",
      "http://www.cms.gov/Medicare/Coding/HCPCSReleaseCodeSets", "urn:oid:2.16.840.1.113883.6.285", "HCPCS"}},
    {"ATC", {"http://www.whocc.no/atc", "urn:oid:2.16.840.1.113883.6.73", "ATC"}},
    {"NDC", {"http://hl7.org/fhir/sid/ndc", "urn:oid:2.16.840.1.113883.6.69", "NDC"}},
    /* Genes and variants, tumours, images, phenotypes. */
    {"HGNC", {"http://www.genenames.org/geneId", "http://www.genenames.org", "urn:oid:2.16.840.1.113883.6.281", "HGNC"}},
    {"CLINVAR",
     {"http://www.ncbi.nlm.nih.gov/clinvar", "https://www.ncbi.nlm.nih.gov/clinvar", "urn:oid:2.16.840.1.113883.6.319"}},
    {"DBSNP",
     {"http://www.ncbi.nlm.nih.gov/projects/SNP", "http://www.ncbi.nlm.nih.gov/snp", "urn:oid:2.16.840.1.113883.6.284"}},
    {"HGVS", {"http://varnomen.hgvs.org", "https://varnomen.hgvs.org", "urn:oid:2.16.840.1.113883.6.282"}},
    {"SO", {"http://www.sequenceontology.org", "http://sequenceontology.org"}},
    {"HPO", {"http://human-phenotype-ontology.org", "http://purl.obolibrary.org/obo/hp.owl"}},
    {"ICDO3",
     {"http://terminology.hl7.org/CodeSystem/icd-o-3", "http://hl7.org/fhir/sid/icd-o-3",
      "urn:oid:2.16.840.1.113883.6.43.1"}},
    {"RADLEX", {"http://radlex.org", "http://www.radlex.org", "urn:oid:2.16.840.1.113883.6.256"}},
    {"DICOM", {"http://dicom.nema.org/resources/ontology/DCM", "urn:oid:1.2.840.10008.2.16.4", "DCM"}},
};

const char *import_vocabulary(const char *system, int *rank) {
    for (size_t i = 0; i < sizeof systems / sizeof *systems; i++)
        for (int k = 0; k < 6 && systems[i].names[k]; k++)
            if (!strcasecmp(system, systems[i].names[k])) {
                if (rank) *rank = (int)i;
                return systems[i].vocabulary;
            }
    return NULL;
}

/* Synthea's words and HL7's ActCodes. */
static const struct {
    const char *source, *code, *name;
    int bed;
} visit_classes[] = {
    {"inpatient", "IP", "Inpatient visit", 1},
    {"IMP", "IP", "Inpatient visit", 1},
    {"ACUTE", "IP", "Inpatient visit", 1},
    {"NONAC", "IP", "Inpatient visit", 1},
    {"SS", "IP", "Inpatient visit", 1},
    {"OBSENC", "OBS", "Observation stay", 1},
    {"emergency", "ER", "Emergency room visit", 0},
    {"EMER", "ER", "Emergency room visit", 0},
    {"ambulatory", "OP", "Outpatient visit", 0},
    {"outpatient", "OP", "Outpatient visit", 0},
    {"wellness", "OP", "Outpatient visit", 0},
    {"urgentcare", "OP", "Outpatient visit", 0},
    {"AMB", "OP", "Outpatient visit", 0},
    {"home", "HOME", "Home visit", 0},
    {"HH", "HOME", "Home visit", 0},
    {"FLD", "FIELD", "Visit in the field", 0},
    {"virtual", "VIRTUAL", "Telehealth visit", 0},
    {"VR", "VIRTUAL", "Telehealth visit", 0},
    {"snf", "SNF", "Skilled nursing facility", 1},
    {"hospice", "HOSPICE", "Hospice", 1},
};

static Status class_key(Import *im, const char *source, uint32_t *key, Err *err) {
    for (size_t i = 0; i < sizeof visit_classes / sizeof *visit_classes; i++)
        if (!strcasecmp(source, visit_classes[i].source))
            return import_code(im, KEY_VISIT, KIND_VISIT_START, visit_classes[i].code, visit_classes[i].name,
                               visit_classes[i].bed, key, err);
    return import_code(im, KEY_VISIT, KIND_VISIT_START, *source ? source : "UNKNOWN", NULL, 0, key, err);
}

Status import_visit_class(Import *im, const char *source, const char *place, uint32_t *key, Err *err) {
    Status status = class_key(im, source, key, err);
    if (status || !*place) return status;
    CodeKey k = im->keys.key[*key];
    /* HL7's word, and UB-04's codes of death in hospital and in a medical facility. */
    if (!strcasecmp(place, "exp") || !strcasecmp(place, "expired") || !strcmp(place, "20") || !strcmp(place, "41")) k.mark |= VISIT_DIED;
    const char *class = im->texts.item[k.text];
    char parent[220], code[300];
    snprintf(parent, sizeof parent, "VISIT_END//%s", class);
    snprintf(code, sizeof code, "%s//%.*s", class, (int)utf8_cut(place, 60), place);
    k.text = import_text_add(im, code);
    snprintf(code, sizeof code, "VISIT_END//%s", im->texts.item[k.text]);
    status = event_writer_code(im->writer, code, KIND_VISIT_END, NULL, parent, &k.end_code, err);
    *key = key_add(&im->keys, &k);
    return status;
}

/* Words of Synthea and FHIR, and the codes of OMB's race and ethnicity categories. */
static const struct {
    KeyRole role;
    const char *sources[4], *code, *name;
} person_codes[] = {
    {KEY_SEX, {"M", "male"}, "SEX//M", "Male"},
    {KEY_SEX, {"F", "female"}, "SEX//F", "Female"},
    {KEY_SEX, {"O", "other"}, "SEX//OTHER", "Other sex"},
    {KEY_RACE, {"white", "2106-3"}, "RACE//WHITE", "White"},
    {KEY_RACE, {"black", "2054-5"}, "RACE//BLACK", "Black or African American"},
    {KEY_RACE, {"asian", "2028-9"}, "RACE//ASIAN", "Asian"},
    {KEY_RACE, {"native", "1002-5"}, "RACE//NATIVE", "American Indian or Alaska Native"},
    {KEY_RACE, {"hawaiian", "pacific", "2076-8"}, "RACE//PACIFIC", "Native Hawaiian or Other Pacific Islander"},
    {KEY_RACE, {"other", "2131-1"}, "RACE//OTHER", "Other race"},
    {KEY_ETHNICITY, {"hispanic", "2135-2"}, "ETHNICITY//HISPANIC", "Hispanic or Latino"},
    {KEY_ETHNICITY, {"nonhispanic", "2186-5"}, "ETHNICITY//NOT_HISPANIC", "Not Hispanic or Latino"},
};

Status import_person_code(Import *im, KeyRole role, const char *source, uint32_t *key, Err *err) {
    for (size_t i = 0; i < sizeof person_codes / sizeof *person_codes; i++)
        for (int k = 0; k < 4 && person_codes[i].sources[k] && person_codes[i].role == role; k++)
            if (!strcasecmp(source, person_codes[i].sources[k]))
                return import_code(im, role, KIND_STATIC, person_codes[i].code, person_codes[i].name, 0, key, err);
    return import_code(im, role, KIND_STATIC,
                       role == KEY_SEX    ? "SEX//UNKNOWN"
                       : role == KEY_RACE ? "RACE//UNKNOWN"
                                          : "ETHNICITY//UNKNOWN",
                       NULL, 0, key, err);
}

int import_asks_identity(const char *code) {
    static const char *const codes[] = {"LOINC//56799-0" /* address */, "LOINC//54125-0" /* patient name */,
                                        "LOINC//21112-8" /* birth date */, "LOINC//45401-7" /* ZIP code */,
                                        "LOINC//45396-3" /* social security number */};
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++)
        if (!strcmp(code, codes[i])) return 1;
    return 0;
}
