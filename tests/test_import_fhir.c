/* test_import_fhir.c - FHIR R4 in, events out: choice types, partial dates, statuses, versions, references, components;
 * every way a file may come; hostile JSON. */
#include "data/archive.h"
#include "tests/import_timelines.h"
#include <zip.h>
#include <zlib.h>

#define PATIENT                                                                                                        \
    "{\"resourceType\":\"Patient\",\"id\":\"p1\",\"name\":[{\"family\":\"Doe34\"}],\"telecom\":[{\"value\":\"555-0199\"}]," \
    "\"gender\":\"female\",\"birthDate\":\"1950-06-15\",\"address\":[{\"city\":\"Boston\"}],\"extension\":["           \
    "{\"url\":\"http://hl7.org/fhir/us/core/StructureDefinition/us-core-race\",\"extension\":[{\"url\":\"ombCategory\"," \
    "\"valueCoding\":{\"system\":\"urn:oid:2.16.840.1.113883.6.238\",\"code\":\"2054-5\"}}]}]}\n"
#define BORN                                                                                                           \
    "-|-|ETHNICITY//UNKNOWN||0\n-|-|RACE//BLACK||0\n-|-|SEX//F||0\n1950-06-15 00:00|1950-06-15|MEDS_BIRTH||0\n"
#define SUBJECT "\"subject\":{\"reference\":\"Patient/p1\"}"
#define SNOMED(code) "{\"coding\":[{\"system\":\"http://snomed.info/sct\",\"code\":\"" code "\"}]}"
#define LOINC(code) "{\"coding\":[{\"system\":\"http://loinc.org\",\"code\":\"" code "\"}]}"
/* A laboratory value: rest begins with a comma. */
#define LAB(id, code, rest)                                                                                            \
    "{\"resourceType\":\"Observation\",\"id\":\"" id "\",\"category\":[{\"coding\":[{\"code\":\"laboratory\"}]}],"        \
    "\"code\":" LOINC(code) "," SUBJECT rest "}\n"
#define AT(time) ",\"effectiveDateTime\":\"" time "\""
#define FINAL ",\"status\":\"final\""
#define MG(value) ",\"valueQuantity\":{\"value\":" value ",\"unit\":\"mg/dL\",\"code\":\"mg/dL\"}"
#define CONDITION(id, code, rest)                                                                                      \
    "{\"resourceType\":\"Condition\",\"id\":\"" id "\",\"code\":" SNOMED(code) "," SUBJECT rest "}\n"

static void lines_import(const char *text) {
    put("all.ndjson", text);
    import_folder();
}

/* Dates are on the clock of times, unless the test is about clocks. */
static int utc_make(void **state) {
    int failed = folder_make(state);
    options.utc_offset = "Z";
    return failed;
}

/* ---- times ------------------------------------------------------------------------------------------------------- */

static void test_times(void **state) {
    (void)state;
    options.utc_offset = NULL;
    lines_import(
        PATIENT
        /* sampled at ten, known at two; offsets differ within a patient */
        LAB("1", "2345-7", FINAL AT("2020-01-02T10:00:00-05:00") MG("90") ",\"issued\":\"2020-01-02T19:00:00.5Z\"")
        LAB("2", "2345-7", FINAL AT("2020-01-02T10:00:00-04:00") MG("91") ",\"issued\":\"2020-01-02T10:30:00-04:00\"")
        /* no result time; known before it was sampled; effective as a period, an instant, a timing */
        LAB("3", "2345-7", FINAL AT("2020-01-03T10:00:00Z") MG("92"))
        LAB("4", "2345-7", FINAL AT("2020-01-04T10:00:00Z") MG("93") ",\"issued\":\"2020-01-01T00:00:01Z\"")
        LAB("5", "2345-7", FINAL ",\"effectivePeriod\":{\"start\":\"2020-01-05T10:00:00Z\",\"end\":\"2020-01-06T10:00:00Z\"}" MG("94"))
        LAB("6", "2345-7", FINAL ",\"effectiveInstant\":\"2020-01-07T10:00:00Z\"" MG("95"))
        LAB("7", "2345-7", FINAL ",\"effectiveTiming\":{\"event\":[\"2020-01-08T10:00:00Z\"]}" MG("96"))
        LAB("8", "2345-7", FINAL AT("2020-01-09T10:00:00") MG("97"))
        /* a date alone; midnight; known to the minute */
        LAB("9", "2345-7", FINAL AT("2020-01-10") MG("98"))
        LAB("10", "2345-7", FINAL AT("2020-01-11T00:00:00-05:00") MG("99"))
        LAB("11", "2345-7", FINAL AT("2020-01-12") MG("100") ",\"issued\":\"2020-01-12T15:00:00Z\"")
        /* months and years are known when they are over, or when they were written down */
        CONDITION("12", "1", ",\"onsetDateTime\":\"2019\"")
        CONDITION("13", "2", ",\"onsetDateTime\":\"2019-02\"")
        CONDITION("14", "3", ",\"onsetDateTime\":\"2010\",\"recordedDate\":\"2020-01-13T10:00:00Z\"")
        CONDITION("15", "4", ",\"onsetAge\":{\"value\":52},\"recordedDate\":\"2020-01-14\"")
        CONDITION("16", "5", ",\"onsetString\":\"as a child\"")
        CONDITION("17", "6", ",\"onsetDateTime\":\"2019-13\"")
        CONDITION("18", "7", ",\"onsetDateTime\":\"1900-01-01\"")
        CONDITION("19", "8", ""));
    assert_timelines(BORN "2019-03-01 04:59|2019-02-01|SNOMED//2||0\n"
                          "2020-01-01 04:59|2019-01-01|SNOMED//1||0\n"
                          "2020-01-02 14:30|2020-01-02 14:00|LOINC//2345-7|91mg/dL|0\n"
                          "2020-01-02 19:00|2020-01-02 15:00|LOINC//2345-7|90mg/dL|0\n"
                          "2020-01-03 10:00|=|LOINC//2345-7|92mg/dL|0\n"
                          "2020-01-04 10:00|=|LOINC//2345-7|93mg/dL|0\n"
                          "2020-01-05 10:00|=|LOINC//2345-7|94mg/dL|0\n"
                          "2020-01-07 10:00|=|LOINC//2345-7|95mg/dL|0\n"
                          "2020-01-08 10:00|=|LOINC//2345-7|96mg/dL|0\n"
                          "2020-01-09 10:00|=|LOINC//2345-7|97mg/dL|0\n"
                          "2020-01-11 04:59|2020-01-10|LOINC//2345-7|98mg/dL|0\n"
                          "2020-01-12 04:59|2020-01-11|LOINC//2345-7|99mg/dL|0\n"
                          "2020-01-12 15:00|2020-01-12|LOINC//2345-7|100mg/dL|0\n"
                          "2020-01-13 10:00|2010-01-01|SNOMED//3||0\n"
                          "2020-01-15 04:59|2020-01-14|SNOMED//4||0\n"
                          "end 2020-01-15 04:59\n");
    const Counted expected[] = {{"Observation", NOTE_LAG, 7},         {"Observation", NOTE_KNOWN_BEFORE, 1},
                                {"Observation", NOTE_NO_ZONE, 1},     {"Observation", NOTE_MIDNIGHT, 1},
                                {"Observation", NOTE_DATE_ONLY, 3},   {"Condition", NOTE_PARTIAL_DATE, 3},
                                {"Condition", NOTE_NO_START, 1},      {"Condition", DROP_PLACEHOLDER_DATE, 2},
                                {"Condition", DROP_BAD_DATE, 1},      {"Condition", DROP_NO_DATE, 1}};
    assert_counts(expected, sizeof expected / sizeof *expected);
    assert_int_equal(report.recorded[KIND_LAB], 4);
    options.lab_lag = 60 * US_PER_MINUTE;
    import_folder();
    assert_non_null(strstr(timelines(at("out.h5")), "2020-01-03 11:00|2020-01-03 10:00|LOINC//2345-7|92mg/dL|0\n"));
}

/* An hour that comes twice, a stay that ends before it begins, what was before birth, after death or is yet to come. */
static void test_impossible_times(void **state) {
    (void)state;
    options.utc_offset = NULL;
#define STAY_OF(id, start, end) "{\"resourceType\":\"Encounter\",\"id\":\"" id "\",\"status\":\"finished\",\"class\":{\"code\":\"AMB\"}," SUBJECT ",\"period\":{\"start\":\"" start "\",\"end\":\"" end "\"}}\n"
    options.extract_date = "2021-06-30";
    lines_import("{\"resourceType\":\"Patient\",\"id\":\"p1\",\"birthDate\":\"1950-06-15\",\"deceasedDateTime\":\"2021-01-01\",\"link\":[{\"type\":\"replaced-by\"}]}\n"
                 LAB("1", "1-8", FINAL AT("2020-11-01T01:10:00-05:00") MG("2")) LAB("2", "1-8", FINAL AT("2020-11-01T01:30:00-04:00") MG("1"))
                 LAB("3", "1-8", FINAL AT("1950-06-13T10:00:00Z") MG("3")) LAB("4", "1-8", FINAL AT("2021-02-01T10:00:00Z") MG("4"))
                 LAB("5", "1-8", FINAL AT("2022-02-01T10:00:00Z") MG("5"))
                 STAY_OF("a", "2020-12-02T10:00:00Z", "2020-12-01T10:00:00Z") STAY_OF("b", "2020-12-03T10:00:00Z", "2020-12-03T10:00:00Z")
                 STAY_OF("c", "2020-12-04T10:00:00Z", "9999-12-31T00:00:00Z"));
    assert_timelines("-|-|ETHNICITY//UNKNOWN||0\n-|-|RACE//UNKNOWN||0\n-|-|SEX//UNKNOWN||0\n1950-06-15 00:00|1950-06-15|MEDS_BIRTH||0\n"
                     "2020-11-01 05:30|=|LOINC//1-8|1mg/dL|0\n2020-11-01 06:10|=|LOINC//1-8|2mg/dL|0\n2020-12-02 10:00|=|VISIT//OP||1\n"
                     "2020-12-03 10:00|=|VISIT//OP||2\n2020-12-03 10:00|=|VISIT_END//OP||2\n2020-12-04 10:00|=|VISIT//OP||3\n"
                     "2021-01-02 04:59|2021-01-01|MEDS_DEATH||0\n2021-02-01 10:00|=|LOINC//1-8|4mg/dL|0\nend 2021-07-01 04:59\n");
    const Counted expected[] = {{"Observation", DROP_BEFORE_BIRTH, 1}, {"Observation", DROP_FUTURE, 1}, {"Observation", NOTE_AFTER_DEATH, 1},
                                {"Encounter", NOTE_END_BEFORE_START, 1}, {"Encounter", NOTE_ZERO_LENGTH, 1}, {"Encounter", NOTE_NO_END, 1},
                                {"Patient", NOTE_REPLACED, 1}};
    assert_counts(expected, sizeof expected / sizeof *expected);
}

/* Times in UTC do not tell the clock of dates, which are over only when they are over everywhere; offsets do. */
static void test_clocks(void **state) {
    (void)state;
    static const char z[] = PATIENT CONDITION("1", "1", ",\"onsetDateTime\":\"2020-01-01\"") CONDITION("2", "2", ",\"onsetDateTime\":\"2020-01-01T10:00:00Z\"");
    options.utc_offset = NULL;
    lines_import(z);
    assert_non_null(strstr(timelines(at("out.h5")), "2020-01-02 11:59|2020-01-01|SNOMED//1||0\n"));
    char offset[4096];
    snprintf(offset, sizeof offset, "%s%s", z, CONDITION("3", "3", ",\"onsetDateTime\":\"2020-01-01T10:00:00+02:00\""));
    lines_import(offset);
    assert_non_null(strstr(timelines(at("out.h5")), "2020-01-01 08:00|=|SNOMED//3||0\n"));
    assert_non_null(strstr(timelines(at("out.h5")), "2020-01-01 23:59|2020-01-01|SNOMED//1||0\n"));
    /* results that were known months later */
    lines_import(PATIENT LAB("1", "2345-7", FINAL AT("2020-01-02T10:00:00Z") MG("90") ",\"issued\":\"2020-06-02T19:00:00Z\""));
    assert_int_equal(table("Observation")->count[NOTE_LATE], 1);
}

/* Of a death only the date is known: at the end of the stay that it ended, which a disposition or one clock tells; else when
 * the day is over. */
static void test_day_of_death(void **state) {
    (void)state;
    static const struct {
        const char *zone, *class, *disposition, *end, *expected;
    } row[] = {
        {NULL, "IMP", "exp", "2020-05-05T12:00:00Z", "2020-05-05 12:00|2020-05-05|MEDS_DEATH||0\n"},
        {NULL, "IMP", "exp", "2020-05-06T01:00:00Z", "2020-05-06 01:00|2020-05-06|MEDS_DEATH||0\n"}, /* in Boston still the 5th */
        {NULL, "EMER", "20", "2020-05-04T22:00:00Z", "2020-05-04 22:00|2020-05-04|MEDS_DEATH||0\n"}, /* in Tokyo the 5th already */
        {NULL, "IMP", "exp", "2020-05-07T12:00:00Z", "2020-05-06 11:59|2020-05-05|MEDS_DEATH||0\n"},
        {NULL, "IMP", "home", "2020-05-05T12:00:00Z", "2020-05-06 11:59|2020-05-05|MEDS_DEATH||0\n"},
        {"Z", "IMP", "oth", "2020-05-05T12:00:00Z", "2020-05-05 12:00|2020-05-05|MEDS_DEATH||0\n"},
        {"Z", "AMB", "oth", "2020-05-05T12:00:00Z", "2020-05-05 23:59|2020-05-05|MEDS_DEATH||0\n"},
        {"-05:00", "IMP", "oth", "2020-05-06T01:00:00Z", "2020-05-06 01:00|2020-05-06|MEDS_DEATH||0\n"},
        {"-05:00", "IMP", "exp", "2020-05-05T01:00:00Z", "2020-05-06 04:59|2020-05-05|MEDS_DEATH||0\n"}, /* the 4th there */
    };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        char text[2000];
        snprintf(text, sizeof text,
                 "{\"resourceType\":\"Patient\",\"id\":\"p1\",\"birthDate\":\"1950-06-15\",\"deceasedDateTime\":\"2020-05-05\"}\n"
                 "{\"resourceType\":\"Encounter\",\"id\":\"e\",\"status\":\"finished\",\"class\":{\"code\":\"%s\"}," SUBJECT
                 ",\"period\":{\"start\":\"2020-05-01T10:00:00Z\",\"end\":\"%s\"},\"hospitalization\":{\"dischargeDisposition\":"
                 "{\"coding\":[{\"code\":\"%s\"}]}}}\n", row[i].class, row[i].end, row[i].disposition);
        options.utc_offset = row[i].zone;
        lines_import(text);
        const char *told = timelines(at("out.h5"));
        if (!strstr(told, row[i].expected)) fail_msg("%zu: no %s in %s", i, row[i].expected, told);
    }
}

static void test_patients(void **state) {
    (void)state;
    lines_import("{\"resourceType\":\"Patient\",\"id\":\"a\",\"birthDate\":\"1980\",\"deceasedBoolean\":true}\n"
                 "{\"resourceType\":\"Patient\",\"id\":\"b\",\"birthDate\":\"1981-03\",\"gender\":\"male\",\"deceasedDateTime\":\"2020-05-06T10:00:00Z\"}\n"
                 "{\"resourceType\":\"Patient\",\"id\":\"c\",\"gender\":\"other\"}\n"
                 "{\"resourceType\":\"Patient\",\"birthDate\":\"1981-03\"}\n"
                 "{\"resourceType\":\"Procedure\",\"code\":" SNOMED("1") ",\"subject\":{\"reference\":\"Patient/a\"},\"performedDateTime\":\"2019-01-01T10:00:00Z\"}\n"
                 "{\"resourceType\":\"Procedure\",\"code\":" SNOMED("2") ",\"subject\":{\"reference\":\"Patient/b\"},\"performedDateTime\":\"2019-01-01T10:00:00Z\"}\n"
                 "{\"resourceType\":\"Procedure\",\"code\":" SNOMED("2") ",\"subject\":{\"reference\":\"Patient/c\"},\"performedDateTime\":\"2019-01-01T10:00:00Z\"}\n"
                 "{\"resourceType\":\"Procedure\",\"code\":" SNOMED("2") ",\"subject\":{\"reference\":\"Patient/d\"},\"performedDateTime\":\"2019-01-01T10:00:00Z\"}\n");
    const char *text = timelines(at("out.h5"));
    /* Observed until the last event: dead since nobody knows when. */
    assert_non_null(strstr(text, "1980-01-01 00:00|1980-01-01|MEDS_BIRTH||0\n2019-01-01 10:00|=|SNOMED//1||0\nend 2019-01-01 10:00\n"));
    assert_non_null(strstr(text, "2020-05-06 10:00|=|MEDS_DEATH||0\nend 2020-05-06 23:59\n"));
    const Counted expected[] = {{"Patient", NOTE_DEAD_UNDATED, 1}, {"Patient", NOTE_BIRTH_YEAR_ONLY, 2}, {"Patient", DROP_NO_BIRTH, 1},
                                {"Patient", DROP_NO_SUBJECT, 1},   {"Procedure", DROP_PERSON_DROPPED, 1}, {"Procedure", DROP_NO_PERSON, 1}};
    assert_counts(expected, sizeof expected / sizeof *expected);
    lines_import(PATIENT LAB("1", "1-8", FINAL AT("2020-01-01T10:00:00Z") MG("1")));
    assert_absent(at("out.h5"), "Doe34");
    assert_absent(at("out.h5"), "555-0199");
    assert_absent(at("out.h5"), "Boston");
}

/* ---- statuses and versions --------------------------------------------------------------------------------------- */

static void test_statuses(void **state) {
    (void)state;
    lines_import(PATIENT LAB("1", "1-8", ",\"status\":\"preliminary\"" AT("2020-01-01T10:00:00Z") MG("1"))
                 LAB("2", "1-8", ",\"status\":\"registered\"" AT("2020-01-01T10:00:00Z") MG("1"))
                 LAB("3", "1-8", ",\"status\":\"entered-in-error\"" AT("2020-01-01T10:00:00Z") MG("1"))
                 LAB("4", "1-8", ",\"status\":\"cancelled\"" AT("2020-01-01T10:00:00Z") MG("1"))
                 LAB("5", "1-8", ",\"status\":\"corrected\"" AT("2020-01-01T10:00:00Z") MG("5"))
                 LAB("6", "1-8", FINAL AT("2020-01-01T10:00:00Z") MG("6") ",\"modifierExtension\":[{\"url\":\"x\"}]")
                 LAB("7", "1-8", FINAL AT("2020-01-01T10:00:00Z") ",\"dataAbsentReason\":" SNOMED("1"))
                 LAB("8", "1-8", FINAL AT("2020-01-01T10:00:00Z"))
                 CONDITION("9", "9", ",\"onsetDateTime\":\"2020-01-01\",\"verificationStatus\":{\"coding\":[{\"code\":\"refuted\"}]}")
                 CONDITION("10", "10", ",\"onsetDateTime\":\"2020-01-01\",\"verificationStatus\":{\"coding\":[{\"code\":\"entered-in-error\"}]}")
                 CONDITION("11", "11", ",\"onsetDateTime\":\"2020-01-01\",\"verificationStatus\":{\"coding\":[{\"code\":\"provisional\"}]}")
                 "{\"resourceType\":\"Procedure\",\"id\":\"12\",\"status\":\"not-done\",\"code\":" SNOMED("12") "," SUBJECT ",\"performedDateTime\":\"2020-01-01\"}\n"
                 "{\"resourceType\":\"Immunization\",\"id\":\"13\",\"status\":\"not-done\",\"vaccineCode\":" SNOMED("13") ",\"patient\":{\"reference\":\"Patient/p1\"},\"occurrenceDateTime\":\"2020-01-01\"}\n"
                 "{\"resourceType\":\"MedicationRequest\",\"id\":\"14\",\"status\":\"active\",\"intent\":\"proposal\",\"medicationCodeableConcept\":" SNOMED("14") "," SUBJECT ",\"authoredOn\":\"2020-01-01\"}\n"
                 "{\"resourceType\":\"MedicationRequest\",\"id\":\"15\",\"status\":\"active\",\"intent\":\"order\",\"doNotPerform\":true,\"medicationCodeableConcept\":" SNOMED("15") "," SUBJECT ",\"authoredOn\":\"2020-01-01\"}\n"
                 "{\"resourceType\":\"Encounter\",\"id\":\"16\",\"status\":\"planned\",\"class\":{\"code\":\"AMB\"}," SUBJECT ",\"period\":{\"start\":\"2020-02-01\"}}\n");
    assert_timelines(BORN "2020-01-01 10:00|=|LOINC//1-8|5mg/dL|0\n2020-01-01 10:00|=|LOINC//1-8||0\n"
                          "2020-01-01 23:59|2020-01-01|SNOMED//11||0\nend 2020-01-01 23:59\n");
    const Counted expected[] = {
        {"Observation", DROP_NOT_FINAL, 2}, {"Observation", DROP_IN_ERROR, 1},   {"Observation", DROP_NOT_DONE, 2},
        {"Observation", DROP_MODIFIED, 1},  {"Observation", NOTE_VALUE_ABSENT, 1}, {"Condition", DROP_REFUTED, 1},
        {"Condition", DROP_IN_ERROR, 1},    {"Condition", NOTE_UNCONFIRMED, 1},  {"Procedure", DROP_NOT_DONE, 1},
        {"Immunization", DROP_NOT_DONE, 1}, {"MedicationRequest", DROP_NOT_DONE, 2}, {"Encounter", DROP_NOT_DONE, 1}};
    assert_counts(expected, sizeof expected / sizeof *expected);
}

#define UPDATED(time) ",\"meta\":{\"lastUpdated\":\"" time "\"}"

#define MOVED(id, status, day, more)                                                                                   \
    "{\"resourceType\":\"Encounter\",\"id\":\"" id "\",\"status\":\"" status "\",\"class\":{\"code\":\"IMP\"}," SUBJECT \
    ",\"period\":{\"start\":\"" day "T10:00:00Z\"},\"location\":[{\"location\":{\"reference\":\"Location/icu\"},"           \
    "\"period\":{\"start\":\"" day "T11:00:00Z\"}}]" more "}\n"
static void test_versions(void **state) {
    (void)state;
    lines_import(
        PATIENT
        LAB("1", "1-8", ",\"status\":\"corrected\"" AT("2020-01-01T10:00:00Z") MG("2") UPDATED("2020-01-03T00:00:00.002Z"))
        LAB("1", "1-8", FINAL AT("2020-01-01T10:00:00Z") MG("1") UPDATED("2020-01-03T00:00:00.001Z"))
        /* the newest says that it never was */
        LAB("2", "1-8", FINAL AT("2020-01-01T10:00:00Z") MG("3") UPDATED("2020-01-01T00:00:00Z"))
        LAB("2", "1-8", ",\"status\":\"entered-in-error\"" AT("2020-01-01T10:00:00Z") MG("3") UPDATED("2020-01-02T00:00:00Z"))
        /* versions are told apart by number where there is no date; without either the last one counts */
        LAB("3", "1-8", FINAL AT("2020-01-01T10:00:00Z") MG("5") ",\"meta\":{\"versionId\":\"10\"}")
        LAB("3", "1-8", FINAL AT("2020-01-01T10:00:00Z") MG("4") ",\"meta\":{\"versionId\":\"9\"}")
        LAB("4", "1-8", FINAL AT("2020-01-01T10:00:00Z") MG("6"))
        LAB("4", "1-8", FINAL AT("2020-01-01T10:00:00Z") MG("7"))
        /* an encounter that began, ended and was void; its type goes with it */
        "{\"resourceType\":\"Encounter\",\"id\":\"e1\",\"status\":\"in-progress\",\"class\":{\"code\":\"IMP\"},\"type\":[" SNOMED("77") "]," SUBJECT ",\"period\":{\"start\":\"2020-02-01T10:00:00Z\"}" UPDATED("2020-02-01T00:00:00Z") "}\n"
        "{\"resourceType\":\"Encounter\",\"id\":\"e1\",\"status\":\"finished\",\"class\":{\"code\":\"IMP\"},\"type\":[" SNOMED("77") "]," SUBJECT ",\"period\":{\"start\":\"2020-02-01T10:00:00Z\",\"end\":\"2020-02-03T10:00:00Z\"}" UPDATED("2020-02-04T00:00:00Z") "}\n"
        "{\"resourceType\":\"Encounter\",\"id\":\"e2\",\"status\":\"finished\",\"class\":{\"code\":\"IMP\"},\"type\":[" SNOMED("78") "]," SUBJECT ",\"period\":{\"start\":\"2020-02-05T10:00:00Z\"}" UPDATED("2020-02-01T00:00:00Z") "}\n"
        "{\"resourceType\":\"Encounter\",\"id\":\"e2\",\"status\":\"entered-in-error\",\"class\":{\"code\":\"IMP\"}," SUBJECT UPDATED("2020-02-04T00:00:00Z") "}\n"
        /* moves of an encounter that was void, and of one whose newest version has none */
        "{\"resourceType\":\"Location\",\"id\":\"icu\",\"type\":[{\"coding\":[{\"code\":\"ICU\"}]}]}\n"
        MOVED("e3", "finished", "2020-02-06", UPDATED("2020-02-07T00:00:00Z"))
        "{\"resourceType\":\"Encounter\",\"id\":\"e3\",\"status\":\"entered-in-error\",\"class\":{\"code\":\"IMP\"}," SUBJECT UPDATED("2020-02-08T00:00:00Z") "}\n"
        MOVED("e4", "in-progress", "2020-02-10", UPDATED("2020-02-10T10:00:00Z"))
        "{\"resourceType\":\"Encounter\",\"id\":\"e4\",\"status\":\"finished\",\"class\":{\"code\":\"IMP\"}," SUBJECT ",\"period\":{\"start\":\"2020-02-10T10:00:00Z\"}" UPDATED("2020-02-11T00:00:00Z") "}\n"
        MOVED("e5", "in-progress", "2020-02-12", UPDATED("2020-02-12T10:00:00Z"))
        MOVED("e5", "finished", "2020-02-12", UPDATED("2020-02-13T00:00:00Z"))
        /* the newest has no code any more */
        "{\"resourceType\":\"Condition\",\"id\":\"c1\",\"code\":" SNOMED("79") "," SUBJECT ",\"onsetDateTime\":\"2020-02-02T10:00:00Z\"" UPDATED("2020-02-02T00:00:00Z") "}\n"
        "{\"resourceType\":\"Condition\",\"id\":\"c1\"," SUBJECT ",\"onsetDateTime\":\"2020-02-02T10:00:00Z\"" UPDATED("2020-02-03T00:00:00Z") "}\n"
        /* declared dead by mistake */
        "{\"resourceType\":\"Patient\",\"id\":\"p2\",\"birthDate\":\"1960-01-01\",\"deceasedDateTime\":\"2020-01-01T10:00:00Z\"" UPDATED("2020-02-01T00:00:00Z") "}\n"
        "{\"resourceType\":\"Patient\",\"id\":\"p2\",\"birthDate\":\"1960-01-01\",\"deceasedBoolean\":false" UPDATED("2020-02-02T00:00:00Z") "}\n");
    const char *text = timelines(at("out.h5"));
    assert_non_null(strstr(text, "2020-01-01 10:00|=|LOINC//1-8|2mg/dL|0\n2020-01-01 10:00|=|LOINC//1-8|5mg/dL|0\n"
                                 "2020-01-01 10:00|=|LOINC//1-8|7mg/dL|0\n2020-02-01 10:00|=|VISIT//IP||1\n"
                                 "2020-02-01 10:00|=|SNOMED//77||1\n2020-02-03 10:00|=|VISIT_END//IP||1\n"
                                 "2020-02-10 10:00|=|VISIT//IP||2\n2020-02-12 10:00|=|VISIT//IP||3\n2020-02-12 11:00|=|ICU_IN||3\nend"));
    assert_null(strstr(text, "SNOMED//78"));
    assert_null(strstr(text, "MEDS_DEATH"));
    const Counted expected[] = {{"Observation", DROP_AMENDED, 3}, {"Observation", DROP_IN_ERROR, 1}, {"Observation", DROP_SAME_ID, 1},
                                {"Encounter", DROP_AMENDED, 5},   {"Encounter", DROP_IN_ERROR, 2},   {"Patient", DROP_AMENDED, 1},
                                {"Condition", DROP_AMENDED, 1},   {"Condition", DROP_NO_CODE, 1}};
    assert_counts(expected, sizeof expected / sizeof *expected);
}

/* Records that are taken back by someone who does not say whose they are. */
static void test_deletions(void **state) {
    (void)state;
    put("gone.json", "{\"resourceType\":\"Bundle\",\"type\":\"transaction\",\"entry\":["
                     "{\"request\":{\"method\":\"DELETE\",\"url\":\"Observation/1\"}},"
                     "{\"request\":{\"method\":\"DELETE\",\"url\":\"http://h.org/fhir/Observation/2\"},\"response\":{\"lastModified\":\"2020-01-02T00:00:00Z\"}},"
                     "{\"request\":{\"method\":\"DELETE\",\"url\":\"Patient/p2\"}}]}");
    lines_import(PATIENT LAB("1", "1-8", FINAL AT("2020-01-01T10:00:00Z") MG("1") UPDATED("2020-01-01T00:00:00Z"))
                 LAB("2", "1-8", FINAL AT("2020-01-01T10:00:00Z") MG("2") UPDATED("2020-01-03T00:00:00Z")) /* written anew since */
                 LAB("3", "1-8", FINAL AT("2020-01-01T10:00:00Z") MG("3") UPDATED("2020-01-01T00:00:00Z"))
                 "{\"resourceType\":\"Observation\",\"id\":\"3\",\"status\":\"entered-in-error\"" UPDATED("2020-01-02T00:00:00Z") "}\n"
                 "{\"resourceType\":\"Patient\",\"id\":\"p2\",\"birthDate\":\"1960-01-01\"}\n"
                 "{\"resourceType\":\"Condition\",\"id\":\"4\",\"code\":" SNOMED("1") ",\"subject\":{\"reference\":\"Patient/p2\"},\"onsetDateTime\":\"2020-01-01T10:00:00Z\"}\n");
    assert_timelines(BORN "2020-01-01 10:00|=|LOINC//1-8|2mg/dL|0\nend 2020-01-01 23:59\n");
    const Counted expected[] = {{"Observation", DROP_AMENDED, 2}, {"Observation", DROP_IN_ERROR, 1}, {"Patient", DROP_AMENDED, 1},
                                {"Condition", DROP_NO_PERSON, 1}, {"other types", DROP_DELETION, 3}};
    assert_counts(expected, sizeof expected / sizeof *expected);
}

/* ---- codes and values -------------------------------------------------------------------------------------------- */

static void test_values(void **state) {
    (void)state;
#define NOW FINAL AT("2020-01-01T10:00:00Z")
    lines_import(
        PATIENT
        LAB("1", "1-8", NOW ",\"valueQuantity\":{\"value\":0.01,\"comparator\":\"<\",\"code\":\"mg/dL\"}")
        LAB("2", "2-8", NOW ",\"valueQuantity\":{\"value\":7,\"comparator\":\">=\",\"unit\":\"MG/DL\"}")
        LAB("3", "3-8", NOW ",\"valueQuantity\":{\"value\":7,\"comparator\":\"ad\"}")
        LAB("4", "4-8", NOW ",\"valueQuantity\":{\"value\":1e300}")
        LAB("5", "5-8", NOW ",\"valueQuantity\":{\"value\":\"12.5\",\"code\":\"%\"}")
        LAB("6", "6-8", NOW ",\"valueInteger\":12345678901234567890")
        LAB("7", "7-8", NOW ",\"valueString\":\">100\"") LAB("8", "8-8", NOW ",\"valueString\":\"seen by Dr. Jones\"")
        LAB("9", "9-8", NOW ",\"valueBoolean\":true")
        LAB("10", "10-8", NOW ",\"valueCodeableConcept\":" SNOMED("10828004"))
        LAB("11", "11-8", NOW ",\"valueCodeableConcept\":{\"text\":\"what only she said\"}")
        LAB("12", "12-8", NOW ",\"valueRange\":{\"low\":{\"value\":1}}")
        LAB("13", "2823-3", NOW ",\"valueQuantity\":{\"value\":15.64,\"code\":\"mg/dL\"}")
        LAB("14", "56799-0", NOW ",\"valueString\":\"1 Main St\"")
        /* a panel of two, one of them without a value; and one whose members are resources */
        "{\"resourceType\":\"Observation\",\"id\":\"15\",\"status\":\"final\",\"category\":[{\"coding\":[{\"code\":\"vital-signs\"}]}],"
        "\"code\":" LOINC("85354-9") "," SUBJECT AT("2020-01-01T10:00:00Z") ",\"component\":[{\"code\":" LOINC("8480-6")
        ",\"valueQuantity\":{\"value\":120,\"unit\":\"mmHg\",\"code\":\"mm[Hg]\"}},{\"code\":" LOINC("8462-4")
        ",\"valueQuantity\":{\"value\":10.666,\"code\":\"kPa\"}},{\"code\":" LOINC("8478-0") ",\"dataAbsentReason\":{}}]}\n"
        LAB("16", "24323-8", NOW ",\"hasMember\":[{\"reference\":\"Observation/1\"}]")
        "{\"resourceType\":\"DiagnosticReport\",\"id\":\"17\",\"status\":\"final\",\"code\":" LOINC("24323-8") "," SUBJECT AT("2020-01-01T10:00:00Z") ",\"result\":[{\"reference\":\"Observation/1\"}]}\n"
        "{\"resourceType\":\"DiagnosticReport\",\"id\":\"18\",\"status\":\"final\",\"code\":" LOINC("11526-1") "," SUBJECT AT("2020-01-01T10:00:00Z") ",\"conclusionCode\":[" SNOMED("254837009") "],\"presentedForm\":[{\"data\":\"aGk=\"}]}\n"
        "{\"resourceType\":\"DiagnosticReport\",\"id\":\"19\",\"status\":\"final\",\"code\":" LOINC("34117-2") "," SUBJECT AT("2020-01-01T10:00:00Z") ",\"presentedForm\":[{\"data\":\"aGk=\"}]}\n"
        "{\"resourceType\":\"DiagnosticReport\",\"id\":\"30\",\"status\":\"final\",\"category\":[{\"coding\":[{\"code\":\"LAB\"}]}],\"code\":" LOINC("24323-8") "," SUBJECT AT("2020-01-01T10:00:00Z") ",\"result\":[{\"reference\":\"#o\"}],"
        "\"contained\":[{\"resourceType\":\"Observation\",\"id\":\"o\",\"code\":" LOINC("99-8") ",\"valueQuantity\":{\"value\":9,\"code\":\"mg/dL\"}},"
        /* what would not count by itself does not count in there */
        "{\"resourceType\":\"Observation\",\"id\":\"x\",\"status\":\"preliminary\",\"code\":" LOINC("98-8") ",\"valueQuantity\":{\"value\":9,\"code\":\"mg/dL\"}},"
        "{\"resourceType\":\"Observation\",\"id\":\"y\",\"status\":\"cancelled\",\"code\":" LOINC("97-8") ",\"valueQuantity\":{\"value\":9,\"code\":\"mg/dL\"}},"
        "{\"resourceType\":\"Observation\",\"id\":\"z\",\"status\":\"final\",\"modifierExtension\":[{\"url\":\"http://h.org/not\"}],\"code\":" LOINC("96-8") ",\"valueQuantity\":{\"value\":9,\"code\":\"mg/dL\"}}]}\n"
        /* codes: several systems, a local one, none */
        "{\"resourceType\":\"Condition\",\"id\":\"20\",\"code\":{\"coding\":[{\"system\":\"http://hl7.org/fhir/sid/icd-10-cm\",\"code\":\"E11.9\"},{\"system\":\"http://snomed.info/sct\",\"code\":\"44054006\"}]}," SUBJECT ",\"onsetDateTime\":\"2020-01-01T10:00:00Z\"}\n"
        "{\"resourceType\":\"Condition\",\"id\":\"21\",\"code\":{\"coding\":[{\"system\":\"http://h.org/dx\",\"code\":\"17\"}]}," SUBJECT ",\"onsetDateTime\":\"2020-01-01T10:00:00Z\"}\n"
        "{\"resourceType\":\"Condition\",\"id\":\"22\",\"code\":{\"text\":\"Sore throat\"}," SUBJECT ",\"onsetDateTime\":\"2020-01-01T10:00:00Z\"}\n"
        "{\"resourceType\":\"Condition\",\"id\":\"23\"," SUBJECT ",\"onsetDateTime\":\"2020-01-01T10:00:00Z\"}\n"
        "{\"resourceType\":\"AllergyIntolerance\",\"id\":\"24\",\"code\":{\"coding\":[{\"system\":\"http://www.nlm.nih.gov/research/umls/rxnorm\",\"code\":\"7982\"}]},\"patient\":{\"reference\":\"Patient/p1\"},\"recordedDate\":\"2020-01-01T10:00:00Z\"}\n"
        "{\"resourceType\":\"Claim\",\"id\":\"25\"}\n");
    assert_timelines(BORN "2020-01-01 10:00|=|LOINC//1-8|<0.01mg/dL|0\n2020-01-01 10:00|=|LOINC//10-8=SNOMED//10828004||0\n"
                          "2020-01-01 10:00|=|LOINC//11-8||0\n2020-01-01 10:00|=|LOINC//12-8||0\n2020-01-01 10:00|=|LOINC//2-8|>=7mg/dL|0\n"
                          "2020-01-01 10:00|=|LOINC//2823-3|4.00017mmol/L|0\n2020-01-01 10:00|=|LOINC//3-8|7|0\n"
                          "2020-01-01 10:00|=|LOINC//4-8||0\n2020-01-01 10:00|=|LOINC//5-8|12.5%|0\n"
                          "2020-01-01 10:00|=|LOINC//6-8|1.23457e+19|0\n2020-01-01 10:00|=|LOINC//7-8|>100|0\n"
                          "2020-01-01 10:00|=|LOINC//8-8||0\n2020-01-01 10:00|=|LOINC//8462-4|80.0016mm[Hg]|0\n"
                          "2020-01-01 10:00|=|LOINC//8480-6|120mm[Hg]|0\n2020-01-01 10:00|=|LOINC//9-8=true||0\n"
                          "2020-01-01 10:00|=|LOINC//99-8|9mg/dL|0\n"
                          "2020-01-01 10:00|=|SNOMED//44054006||0\n2020-01-01 10:00|=|TEXT//Sore throat||0\n"
                          "2020-01-01 10:00|=|h.org_dx//17||0\n2020-01-01 10:00|=|ALLERGY//RxNorm//7982||0\n"
                          "2020-01-01 10:00|=|SNOMED//254837009||0\nend 2020-01-01 23:59\n");
    assert_absent(at("out.h5"), "only she");
    assert_absent(at("out.h5"), "Jones");
    assert_absent(at("out.h5"), "Main St");
    const Counted expected[] = {
        {"Observation", NOTE_LIMIT, 3},       {"Observation", NOTE_BAD_OPERATOR, 1},     {"Observation", NOTE_BAD_NUMBER, 1},
        {"Observation", NOTE_UNIT_TEXT, 1},   {"Observation", NOTE_NO_UNIT, 1},          {"Observation", NOTE_NUMBER_FROM_TEXT, 2},
        {"Observation", NOTE_TEXT_VALUE, 1},  {"Observation", NOTE_RARE_WORDS, 1},       {"Observation", NOTE_VALUE_TYPE, 1},
        {"Observation", NOTE_UNIT_CONVERTED, 2}, {"Observation", NOTE_COMPONENTS, 1},    {"Observation", NOTE_PART_DROPPED, 1},
        {"Observation", DROP_PANEL, 1},       {"Observation", DROP_IDENTITY, 1},         {"DiagnosticReport", DROP_PANEL, 1},
        {"DiagnosticReport", DROP_DOCUMENT, 1}, {"DiagnosticReport", NOTE_CONTAINED, 1}, {"Condition", NOTE_CODINGS, 1},          {"Condition", NOTE_NO_SYSTEM, 1},
        {"Condition", NOTE_SOURCE_TEXT, 1},   {"Condition", DROP_NO_CODE, 1},            {"other types", DROP_NOT_EVENT, 1}};
    assert_counts(expected, sizeof expected / sizeof *expected);
    assert_string_equal(report.unused, "Claim");
}

/* ---- references -------------------------------------------------------------------------------------------------- */

#define REQUEST(id, medication, subject)                                                                               \
    "{\"resourceType\":\"MedicationRequest\",\"id\":\"" id "\",\"status\":\"active\",\"intent\":\"order\"," medication     \
    ",\"subject\":{\"reference\":\"" subject "\"},\"authoredOn\":\"2020-01-01T10:00:00Z\"}\n"
#define RXNORM(code) "{\"coding\":[{\"system\":\"http://www.nlm.nih.gov/research/umls/rxnorm\",\"code\":\"" code "\"}]}"
#define REFERS(to) "\"medicationReference\":{\"reference\":\"" to "\"}"

/* Variants, findings of pathology and images: all of them codes, and of a variant its gene with what was found in it. */
static void test_genomics_and_imaging(void **state) {
    (void)state;
#define VALUED(system, code) "{\"coding\":[{\"system\":\"" system "\",\"code\":\"" code "\"}]}"
#define PART(code, value) "{\"code\":" LOINC(code) "," value "}"
#define CONCEPT(system, code) "\"valueCodeableConcept\":" VALUED(system, code)
#define VARIANT(id, present, parts)                                                                                    \
    LAB(id, "69548-6", NOW "," CONCEPT("http://loinc.org", present) ",\"component\":[" parts "]")
#define GENE(id) PART("48018-6", CONCEPT("http://www.genenames.org/geneId", "HGNC:" id))
    lines_import(
        PATIENT
        VARIANT("1", "LA9633-4", GENE("1100") "," PART("48004-6", CONCEPT("http://varnomen.hgvs.org", "NM_007294.4:c.68_69del")) ","
                PART("53037-8", CONCEPT("http://loinc.org", "LA6668-3")) "," PART("81252-9", CONCEPT("http://www.ncbi.nlm.nih.gov/clinvar", "17662")))
        /* looked for and absent; a name told as text; prose */
        VARIANT("2", "LA9634-2", GENE("1101") "," PART("53037-8", CONCEPT("http://loinc.org", "LA6668-3")))
        VARIANT("3", "LA9633-4", GENE("3236") "," PART("48004-6", "\"valueString\":\"NM_005228.5:c.2573T>G\"") "," PART("48005-3", "\"valueString\":\"seen in Ann Doe\""))
        "{\"resourceType\":\"DiagnosticReport\",\"id\":\"4\",\"status\":\"final\",\"code\":" LOINC("22637-3") "," SUBJECT AT("2020-01-01T10:00:00Z")
        ",\"conclusion\":\"invasive\",\"conclusionCode\":[" VALUED("http://terminology.hl7.org/CodeSystem/icd-o-3", "8500/3") "," SNOMED("413448000") "]}\n"
        "{\"resourceType\":\"ImagingStudy\",\"id\":\"5\",\"status\":\"available\"," SUBJECT ",\"started\":\"2020-01-01T10:00:00Z\",\"procedureCode\":[" SNOMED("399208008") "],\"series\":[{\"modality\":{\"code\":\"CR\"}}]}\n"
        "{\"resourceType\":\"ImagingStudy\",\"id\":\"6\",\"status\":\"available\"," SUBJECT ",\"started\":\"2020-01-01T10:00:00Z\",\"series\":[{\"uid\":\"1.2.3.4.5.6.7.8.9\",\"modality\":{\"system\":\"http://dicom.nema.org/resources/ontology/DCM\",\"code\":\"CT\"},"
        "\"bodySite\":{\"system\":\"http://snomed.info/sct\",\"code\":\"51185008\"}},{\"modality\":{\"system\":\"http://dicom.nema.org/resources/ontology/DCM\",\"code\":\"MR\"}}]}\n"
        "{\"resourceType\":\"ImagingStudy\",\"id\":\"7\",\"status\":\"available\"," SUBJECT ",\"started\":\"2020-01-01T10:00:00Z\",\"modality\":[{\"system\":\"http://dicom.nema.org/resources/ontology/DCM\",\"code\":\"US\"}]}\n"
        "{\"resourceType\":\"ImagingStudy\",\"id\":\"8\",\"status\":\"available\"," SUBJECT ",\"started\":\"2020-01-01T10:00:00Z\"}\n");
#define T "2020-01-01 10:00|=|"
    assert_timelines(BORN T "HGNC//HGNC:1100=CLINVAR//17662||0\n" T "HGNC//HGNC:1100=HGVS//NM_007294.4:c.68_69del||0\n" T "HGNC//HGNC:1100=LOINC//LA6668-3||0\n"
                          T "LOINC//48004-6=HGVS//NM_005228.5:c.2573T>G||0\n" T "LOINC//48004-6=HGVS//NM_007294.4:c.68_69del||0\n" T "LOINC//48005-3||0\n"
                          T "LOINC//48018-6=HGNC//HGNC:1100||0\n" T "LOINC//48018-6=HGNC//HGNC:1101||0\n" T "LOINC//48018-6=HGNC//HGNC:3236||0\n"
                          T "LOINC//53037-8=LOINC//LA6668-3||0\n"
                          T "LOINC//69548-6=LOINC//LA9633-4||0\n" T "LOINC//69548-6=LOINC//LA9634-2||0\n" T "LOINC//81252-9=CLINVAR//17662||0\n"
                          T "DICOM//CT=SNOMED//51185008||0\n" T "DICOM//MR||0\n" T "DICOM//US||0\n" T "SNOMED//399208008||0\n"
                          T "ICDO3//8500/3||0\n" T "SNOMED//413448000||0\nend 2020-01-01 23:59\n");
    const Counted expected[] = {{"Observation", NOTE_VARIANT, 1}, {"ImagingStudy", DROP_NO_CODE, 1}, {"Observation", NOTE_TEXT_VALUE, 1}};
    assert_counts(expected, sizeof expected / sizeof *expected);
    assert_absent(at("out.h5"), "Ann Doe");
    assert_absent(at("out.h5"), "1.2.3.4.5.6.7.8.9");
    assert_absent(at("out.h5"), "invasive");
    /* Its gene alone is what the finding rolls up to. */
    EventFile f;
    ok(event_file_open(&f, at("out.h5"), &err));
    assert_string_equal(f.code_parent[event_file_code(&f, "HGNC//HGNC:1100=CLINVAR//17662")], "HGNC//HGNC:1100");
    event_file_close(&f);
#undef T
}

static void test_references(void **state) {
    (void)state;
    lines_import(PATIENT REQUEST("1", "\"medicationCodeableConcept\":" RXNORM("1"), "Patient/p1")
                 REQUEST("2", "\"medicationCodeableConcept\":" RXNORM("2"), "https://ehr.example.org/fhir/Patient/p1")
                 REQUEST("3", "\"medicationCodeableConcept\":" RXNORM("3"), "Patient/p1/_history/4")
                 REQUEST("4", "\"medicationCodeableConcept\":" RXNORM("4"), "urn:uuid:p1")
                 REQUEST("5", "\"medicationCodeableConcept\":" RXNORM("5"), "Group/p1")
                 REQUEST("6", "\"medicationCodeableConcept\":" RXNORM("6"), "Patient?identifier=x|p1")
                 REQUEST("7", "\"medicationCodeableConcept\":" RXNORM("7"), "#p1")
                 REQUEST("8", "\"contained\":[{\"resourceType\":\"Medication\",\"id\":\"m\",\"code\":" RXNORM("8") "}]," REFERS("#m"), "Patient/p1")
                 REQUEST("9", REFERS("Medication/m9"), "Patient/p1") REQUEST("10", REFERS("Medication/m10"), "Patient/p1")
                 REQUEST("11", REFERS("#nothing"), "Patient/p1")
                 "{\"resourceType\":\"Medication\",\"id\":\"m9\",\"code\":" RXNORM("99") UPDATED("2020-01-01T00:00:00Z") "}\n"
                 "{\"resourceType\":\"Medication\",\"id\":\"m9\",\"code\":" RXNORM("9") UPDATED("2020-01-02T00:00:00Z") "}\n");
    assert_timelines(BORN "2020-01-01 10:00|=|RxNorm//1||0\n2020-01-01 10:00|=|RxNorm//2||0\n2020-01-01 10:00|=|RxNorm//3||0\n"
                          "2020-01-01 10:00|=|RxNorm//4||0\n2020-01-01 10:00|=|RxNorm//8||0\n2020-01-01 10:00|=|RxNorm//9||0\nend 2020-01-01 23:59\n");
    const Counted expected[] = {{"MedicationRequest", DROP_NO_SUBJECT, 3}, {"MedicationRequest", NOTE_ABSOLUTE, 2},
                                {"MedicationRequest", NOTE_CONTAINED, 1},  {"MedicationRequest", DROP_UNRESOLVED, 1},
                                {"MedicationRequest", DROP_NO_CODE, 1}};
    assert_counts(expected, sizeof expected / sizeof *expected);
}

/* In a transaction references mean the fullUrl, whatever the id says; the same drug ordered and given is one event. */
static void test_bundle_references(void **state) {
    (void)state;
    put("b.json",
        "{\"entry\":[{\"fullUrl\":\"urn:uuid:aaa\",\"resource\":{\"resourceType\":\"Patient\",\"id\":\"17\",\"birthDate\":\"1950-06-15\"},\"request\":{\"method\":\"POST\",\"url\":\"Patient\"}},\n"
        "{\"fullUrl\":\"urn:uuid:eee\",\"resource\":{\"resourceType\":\"Encounter\",\"status\":\"finished\",\"class\":{\"code\":\"EMER\"},\"subject\":{\"reference\":\"urn:uuid:aaa\"},\"period\":{\"start\":\"2020-01-01T09:00:00Z\",\"end\":\"2020-01-01T12:00:00Z\"}}},\n"
        "{\"fullUrl\":\"urn:uuid:m\",\"resource\":{\"resourceType\":\"Medication\",\"code\":" RXNORM("8") "}},\n"
        "{\"resource\":{\"resourceType\":\"MedicationRequest\",\"status\":\"active\",\"intent\":\"order\"," REFERS("urn:uuid:m") ",\"subject\":{\"reference\":\"urn:uuid:aaa\"},\"encounter\":{\"reference\":\"urn:uuid:eee\"},\"authoredOn\":\"2020-01-01T10:00:00Z\"}},\n"
        "{\"resource\":{\"resourceType\":\"MedicationAdministration\",\"status\":\"completed\",\"medicationCodeableConcept\":" RXNORM("8") ",\"subject\":{\"reference\":\"urn:uuid:aaa\"},\"context\":{\"reference\":\"urn:uuid:eee\"},\"effectiveDateTime\":\"2020-01-01T10:00:00Z\"}},\n"
        "{\"resource\":{\"resourceType\":\"Condition\",\"code\":" SNOMED("1") ",\"subject\":{\"reference\":\"urn:uuid:aaa\"},\"encounter\":{\"reference\":\"urn:uuid:lost\"},\"onsetDateTime\":\"2020-01-01T10:00:00Z\"}},\n"
        "{\"request\":{\"method\":\"DELETE\",\"url\":\"Condition/17\"}}\n"
        "],\"type\":\"transaction\",\"resourceType\":\"Bundle\"}");
    import_folder();
    assert_non_null(strstr(timelines(at("out.h5")),
                           "2020-01-01 09:00|=|VISIT//ER||1\n2020-01-01 10:00|=|SNOMED//1||0\n2020-01-01 10:00|=|RxNorm//8||1\n"
                           "2020-01-01 12:00|=|VISIT_END//ER||1\nend"));
    assert_int_equal(report.n_duplicates, 1);
    assert_int_equal(table("Condition")->count[NOTE_NO_VISIT], 1);
    assert_int_equal(table("other types")->count[DROP_DELETION], 1);
}

/* Coded at discharge, unless it is on the problem list. */
static void test_inpatient_diagnoses(void **state) {
    (void)state;
#define STAY "{\"resourceType\":\"Encounter\",\"id\":\"e\",\"status\":\"finished\",\"class\":{\"code\":\"IMP\"}," SUBJECT ",\"period\":{\"start\":\"2020-01-01T09:00:00Z\",\"end\":\"2020-01-05T12:00:00Z\"}}\n"
#define IN ",\"encounter\":{\"reference\":\"Encounter/e\"},\"onsetDateTime\":\"2020-01-01T10:00:00Z\",\"recordedDate\":\"2020-01-01T11:00:00Z\""
#define CATEGORY(code) ",\"category\":[{\"coding\":[{\"code\":\"" code "\"}]}]"
    lines_import(PATIENT STAY CONDITION("1", "1", IN CATEGORY("encounter-diagnosis")) CONDITION("2", "2", IN CATEGORY("problem-list-item")));
    assert_timelines(BORN "2020-01-01 09:00|=|VISIT//IP||1\n2020-01-01 11:00|2020-01-01 10:00|SNOMED//2||1\n"
                          "2020-01-05 12:00|2020-01-01 10:00|SNOMED//1||1\n2020-01-05 12:00|=|VISIT_END//IP||1\nend 2020-01-05 23:59\n");
    assert_int_equal(table("Condition")->count[NOTE_HELD_BACK], 1);
    assert_int_equal(table("Condition")->count[NOTE_ON_ADMISSION], 1);
}

/* ICD-9 becomes ICD-10 where --map says so, and gets its name there. */
static void test_maps(void **state) {
    (void)state;
    put("icd.csv", "icd_9,icd_10\n25000,E119\n4280,I501\n4280,I509\n");
    put("names.csv", "source,target\nh.org_dx//17,ICD10CM//J45.909\n");
    const char *files[] = {at("icd.csv"), at("names.csv")};
    options.maps.n = 2;
    for (int i = 0; i < 2; i++) options.maps.item[i] = files[i];
#define CODED(id, system, code) "{\"resourceType\":\"Condition\",\"id\":\"" id "\",\"code\":{\"coding\":[{\"system\":\"" system "\",\"code\":\"" code "\"}]}," SUBJECT ",\"onsetDateTime\":\"2020-01-01T10:00:00Z\"}\n"
    lines_import(PATIENT CODED("1", "http://hl7.org/fhir/sid/icd-9-cm", "250.00") CODED("2", "http://hl7.org/fhir/sid/icd-9-cm", "428.0")
                 CODED("3", "http://hl7.org/fhir/sid/icd-9-cm", "401.9") CODED("4", "http://h.org/dx", "17")
                 CODED("5", "http://hl7.org/fhir/sid/icd-10-cm", "E11.9")
                 "{\"resourceType\":\"Procedure\",\"status\":\"completed\",\"code\":{\"coding\":[{\"system\":\"http://hl7.org/fhir/sid/icd-9-cm\",\"code\":\"54.91\"}]}," SUBJECT ",\"performedDateTime\":\"2020-01-01T10:00:00Z\"}\n");
    assert_timelines(BORN "2020-01-01 10:00|=|ICD10CM//E11.9||0\n2020-01-01 10:00|=|ICD10CM//I50||0\n"
                          "2020-01-01 10:00|=|ICD10CM//J45.909||0\n2020-01-01 10:00|=|ICD9CM//401.9||0\n2020-01-01 10:00|=|ICD9Proc//54.91||0\nend 2020-01-01 23:59\n");
    const Counted expected[] = {{"Condition", NOTE_MAPPED, 2}, {"Condition", NOTE_MAPPED_WIDER, 1}};
    assert_counts(expected, 2);
    assert_int_equal(report.n_duplicates, 1); /* the same by both codes */
    options.maps.item[0] = at("nowhere.csv");
    assert_int_equal(import_path(folder, at("x.h5")), ERR_IO);
}

/* Wards that are intensive care, and where the patient goes in the end. */
static void test_wards(void **state) {
    (void)state;
#define WARD(id, code) "{\"resourceType\":\"Location\",\"id\":\"" id "\",\"type\":[{\"coding\":[{\"system\":\"http://terminology.hl7.org/CodeSystem/v3-RoleCode\",\"code\":\"" code "\"}]}]}\n"
#define MOVE(id, start, end) "{\"location\":{\"reference\":\"Location/" id "\"},\"period\":{\"start\":\"" start "\"" end "}}"
    lines_import(PATIENT "{\"resourceType\":\"Encounter\",\"id\":\"e\",\"status\":\"finished\",\"class\":{\"code\":\"IMP\"}," SUBJECT
                 ",\"period\":{\"start\":\"2020-01-01T09:00:00Z\",\"end\":\"2020-01-05T12:00:00Z\"},\"hospitalization\":{\"dischargeDisposition\":{\"coding\":[{\"code\":\"home\"}]}},"
                 "\"location\":[" MOVE("w", "2020-01-01T09:00:00Z", "") "," MOVE("i", "2020-01-02T09:00:00Z", ",\"end\":\"2020-01-03T09:00:00Z\"") "," MOVE("gone", "2020-01-03T09:00:00Z", "") "]}\n"
                 WARD("w", "HU") WARD("i", "ICU"));
    assert_timelines(BORN "2020-01-01 09:00|=|VISIT//IP||1\n2020-01-02 09:00|=|ICU_IN||1\n2020-01-03 09:00|=|ICU_OUT||1\n"
                          "2020-01-05 12:00|=|VISIT_END//IP//home||1\nend 2020-01-05 23:59\n");
    assert_int_equal(table("Location")->emitted, 1);
    assert_int_equal(table("Location")->count[DROP_NOT_EVENT], 1);
}

/* ---- files ------------------------------------------------------------------------------------------------------- */

#define THREE PATIENT LAB("1", "1-8", FINAL AT("2020-01-01T10:00:00Z") MG("1")) CONDITION("2", "2", ",\"onsetDateTime\":\"2020-01-02\"")

/* Lines, packed lines, a zip, a bundle, an array, single resources, indented: the same events file. */
static void test_forms(void **state) {
    (void)state;
    char three[4096] = THREE, *line[3], text[3 * 4096], folders[8][100];
    size_t n = 0;
    for (int k = 0; k < 3; k++) line[k] = strtok(k ? NULL : three, "\n");
    for (int k = 0; k < 8; k++) {
        snprintf(folders[k], sizeof folders[k], "f%d", k);
        ok(dir_make(at(folders[k]), &err));
    }
    put("f0/a.ndjson", THREE);
    char many[2 * 4096];
    snprintf(many, sizeof many, "\xEF\xBB\xBF%s\r\n\r\n%s\r\n", line[2], line[0]);
    put("f1/a.jsonl", many);
    put("f1/b.ndjson", line[1]); /* no line end */
    gzFile gz = gzopen(at("f2/a.ndjson.gz"), "wb");
    gzputs(gz, THREE);
    gzclose(gz);
    int code;
    zip_t *z = zip_open(at("f3.zip"), ZIP_CREATE, &code);
    zip_file_add(z, "export/a.ndjson", zip_source_buffer(z, THREE, strlen(THREE), 0), 0);
    zip_close(z);
    n = (size_t)snprintf(text, sizeof text, "{\"resourceType\": \"Bundle\",\n \"type\": \"collection\",\n \"entry\": [\n");
    for (int k = 0; k < 3; k++) n += (size_t)snprintf(text + n, sizeof text - n, "  {\n   \"resource\": %s\n  }%s\n", line[k], k < 2 ? "," : "");
    snprintf(text + n, sizeof text - n, " ]\n}\n");
    put("f4/bundle.json", text);
    snprintf(text, sizeof text, "[%s,\n%s,%s]", line[0], line[1], line[2]);
    put("f5/array.json", text);
    for (int k = 0; k < 3; k++) {
        char name[20];
        snprintf(name, sizeof name, "f6/%d.json", k);
        put(name, line[k]);
    }
    snprintf(text, sizeof text, "{\"resourceType\":\"Bundle\",\"entry\":[{\"resource\":%s}]}\n{\"entry\":[{\"resource\":%s},{\"resource\":%s}],\"resourceType\":\"Bundle\"}\n", line[2], line[1], line[0]);
    put("f7/bundles.ndjson", text);
    import_as(at("f0"), at("0.h5"));
    for (int k = 1; k < 8; k++) {
        char name[20];
        snprintf(name, sizeof name, k == 3 ? "f%d.zip" : "f%d", k);
        import_as(at(name), at("k.h5"));
        assert_same_bytes(at("0.h5"), at("k.h5"));
    }
    import_as(at("f2/a.ndjson.gz"), at("k.h5")); /* the file itself */
    assert_same_bytes(at("0.h5"), at("k.h5"));
    import_as(at("f4/bundle.json"), at("k.h5"));
    assert_same_bytes(at("0.h5"), at("k.h5"));
}

/* Each damaged piece is dropped and counted; its neighbours stay. */
static void test_hostile(void **state) {
    (void)state;
    char *deep = xmalloc(20000), *text = xmalloc(1 << 20), *p = text;
    memset(deep, '[', 9000);
    memset(deep + 9000, ']', 9000);
    deep[18000] = 0;
    p += sprintf(p, PATIENT "%s", LAB("ok1", "1-8", FINAL AT("2020-01-01T10:00:00Z") MG("1")));
    p += sprintf(p, "{\"resourceType\":\"Observation\",\"x\":%s}\n", deep);                        /* deep */
    p += sprintf(p, "{\"resourceType\":\"Observation\",\"id\":\"1\",\"id\":\"2\"}\n");                   /* a key twice */
    p += sprintf(p, "{\"resourceType\":\"Observation\",\"valueQuantity\":{\"value\":1e999}}\n");      /* too large a number */
    p += sprintf(p, "{\"resourceType\":\"Observation\",\"code\":{\"coding\":[{\"system\":\"htt\n");       /* cut off */
    p += sprintf(p, "%s", LAB("ok2", "1-8", FINAL AT("2020-01-02T10:00:00Z") MG("2")));
    p += sprintf(p, "{\"resourceType\":\"Observation\"]}\n");                                       /* wrong bracket: two */
    p += sprintf(p, "%s", CONDITION("ok3", "3", ",\"onsetDateTime\":\"2020-01-03\",\"note\":\"caf\xE9\""));     /* Latin-1 */
    p += sprintf(p, "{\"id\":\"no type\"}\nnull\nhello {\"resourceType\":\"Observation\"}\n");        /* the last is one after a stray word */
    p += sprintf(p, "{\"resourceType\":\"Observation\",\"id\":\"\\u0000\"}\n");                        /* NUL in a string */
    p += sprintf(p, "{\"resourceType\":\"Observation\",\"note\":\"");
    memset(p, 'x', 200000); /* longer than --max-line */
    p += 200000;
    p += sprintf(p, "\"}\n%s", CONDITION("ok4", "4", ",\"onsetDateTime\":\"2020-01-04\""));
    size_t nul = (size_t)(p - text);
    p += sprintf(p, "%s", CONDITION("ok5", "5", ",\"onsetDateTime\":\"2020-01-05\",\"note\":\"n\""));
    text[nul + (size_t)(strstr(text + nul, "\"n\"") - text - nul) + 1] = 0;
    p += sprintf(p, "{\"resourceType\":\"Condition\",\"id\":\"last\"");
    put_bytes("all.ndjson", text, (size_t)(p - text));
    options.max_line = 1 << 16;
    import_folder();
    const Counted expected[] = {{"unreadable", DROP_JSON_DEEP, 1},    {"unreadable", DROP_JSON_TWICE, 1},
                                {"unreadable", DROP_JSON_CUT, 2},     {"unreadable", DROP_TOO_LONG, 1},
                                {"unreadable", DROP_NOT_RESOURCE, 1}, {"unreadable", DROP_JSON, 6},
                                {"Condition", NOTE_UTF8, 1},          {"Condition", NOTE_NUL, 1}};
    assert_counts(expected, sizeof expected / sizeof *expected);
    assert_int_equal(table("Observation")->emitted, 2);
    assert_int_equal(table("Condition")->emitted, 3);
    assert_string_equal(report.first_unreadable, "all.ndjson, resource 3");
    options.max_errors = 10;
    assert_int_equal(import_path(folder, at("x.h5")), ERR_FORMAT);
    assert_false(path_exists(at("x.h5")));

    /* A bundle that is cut off keeps the entries before the cut. */
    put("all.ndjson", "");
    put("b.json", "{\"resourceType\":\"Bundle\",\"entry\":[{\"resource\":{\"resourceType\":\"Patient\",\"id\":\"p\",\"birthDate\":\"1950-01-01\"}},"
                  "{\"resource\":{\"resourceType\":\"Condition\",\"code\":" SNOMED("1") ",\"subject\":{\"reference\":\"Patient/p\"},\"onsetDateTime\":\"2020-01-01\"}},"
                  "{\"resource\":{\"resourceType\":\"Condition\",\"id\":\"");
    options.max_errors = -1;
    import_folder();
    assert_int_equal(table("Patient")->emitted, 1);
    assert_int_equal(table("unreadable")->count[DROP_JSON_CUT], 1);
    free(deep);
    free(text);
}

static void test_refusals(void **state) {
    (void)state;
    put("patients.csv", "Id\n");
    assert_int_equal(import_path(folder, at("x.h5")), ERR_FORMAT);
    assert_non_null(strstr(err.msg, "no FHIR file"));
    put_bytes("a.json", "\xFF\xFE{\0}\0", 6);
    assert_int_equal(import_path(folder, at("x.h5")), ERR_FORMAT);
    assert_non_null(strstr(err.msg, "UTF-16"));
    put("a.json", "{}");
    assert_int_equal(import_path(folder, at("x.h5")), ERR_FORMAT);
    assert_int_equal(import_path(at("none.json"), at("x.h5")), ERR_IO);
    put("a.ndjson.gz", "no gzip"); /* read as it is, as gunzip -f would */
    put("a.json", THREE);
    import_folder();
    assert_int_equal(table("unreadable")->count[DROP_JSON], 1);
    assert_false(path_exists(at("x.h5")));
}

static void test_many_references(void **state) {
    (void)state;
    FILE *f = fopen(at("all.ndjson"), "w");
    assert_non_null(f);
    fputs(THREE, f);
    for (int i = 0; i < 40000; i++) fprintf(f, "{\"resourceType\":\"Medication\",\"id\":\"m%d\",\"code\":" RXNORM("1") "}\n", i);
    fclose(f);
    options.memory = 4 << 20;
    assert_int_equal(import_path(folder, at("x.h5")), ERR_NOMEM);
    assert_non_null(strstr(err.msg, "records that others refer to"));
    options.memory = 64 << 20;
    import_folder();
}

/* What grows or is written anew while it is read is refused. */
static void test_changing_file(void **state) {
    (void)state;
    Archive a;
    Stream s;
    char part[16];
    size_t got = 1;
    put("a.ndjson", THREE);
    ok(archive_open(&a, folder, &err));
    ok(stream_open(&s, &a, 0, &err));
    ok(stream_read(&s, part, sizeof part, &got, &err));
    FILE *f = fopen(at("a.ndjson"), "a");
    fputs(PATIENT, f);
    fclose(f);
    Status status = OK;
    while (!status && got) status = stream_read(&s, part, sizeof part, &got, &err);
    assert_int_equal(status, ERR_IO);
    assert_non_null(strstr(err.msg, "changed while it was read"));
    stream_close(&s);
    archive_close(&a);
}

/* ---- the sample -------------------------------------------------------------------------------------------------- */

static void test_sample_counts(void **state) {
    (void)state;
    options.utc_offset = NULL;
    static const struct {
        const char *name;
        int64_t rows, emitted;
    } rows[] = {{"Patient", 4, 4},           {"Encounter", 126, 126},      {"Condition", 83, 83},
                {"Observation", 501, 501},   {"DiagnosticReport", 206, 0}, {"Procedure", 201, 201},
                {"MedicationRequest", 31, 31}, {"MedicationAdministration", 4, 4}, {"Immunization", 33, 33},
                {"AllergyIntolerance", 1, 1}, {"CarePlan", 14, 14},        {"SupplyDelivery", 20, 20},
                {"ImagingStudy", 2, 2},      {"Medication", 4, 4},         {"DocumentReference", 126, 0},
                {"other types", 335, 0}};
    import_as(sample_data("synthea-csv-fhir/fhir"), at("out.h5"));
    int64_t all = 0;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        assert_int_equal(table(rows[i].name)->read, rows[i].rows);
        assert_int_equal(table(rows[i].name)->emitted, rows[i].emitted);
        all += table(rows[i].name)->read;
    }
    assert_int_equal(all, 436 + 415 + 368 + 472); /* entries of the four bundles */
    const Counted expected[] = {{"DiagnosticReport", DROP_PANEL, 80},  {"DiagnosticReport", DROP_DOCUMENT, 126},
                                {"Observation", NOTE_COMPONENTS, 42},  {"Observation", NOTE_PART_DROPPED, 18},
                                {"Observation", NOTE_TEXT_VALUE, 1},   {"Condition", NOTE_HELD_BACK, 3}};
    assert_counts(expected, sizeof expected / sizeof *expected);
    assert_absent(at("out.h5"), "999-38-2615");
}

#define IN_UTC(test) cmocka_unit_test_setup_teardown(test, utc_make, folder_close)
int main(void) {
    import_format = import_fhir;
    const struct CMUnitTest tests[] = {
        IN_UTC(test_times),      IN_UTC(test_clocks),      IN_UTC(test_impossible_times), IN_UTC(test_day_of_death), IN_UTC(test_patients),          IN_UTC(test_statuses),
        IN_UTC(test_versions),   IN_UTC(test_values),            IN_UTC(test_genomics_and_imaging), IN_UTC(test_references),
        IN_UTC(test_bundle_references), IN_UTC(test_inpatient_diagnoses), IN_UTC(test_deletions), IN_UTC(test_maps), IN_UTC(test_wards), IN_UTC(test_forms),
        IN_UTC(test_hostile),    IN_UTC(test_refusals),  IN_UTC(test_many_references), IN_UTC(test_changing_file), IN_UTC(test_sample_counts)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
