/* test_import_synthea.c - Synthea's CSV files in, events out: old and new columns, every trap counted, no identifier
 * let through, and the counts of two releases' exports to the row. */
#include "tests/import_timelines.h"

#define PATIENTS                                                                                                       \
    "Id,BIRTHDATE,DEATHDATE,SSN,DRIVERS,PASSPORT,PREFIX,FIRST,LAST,MARITAL,RACE,ETHNICITY,GENDER,ADDRESS,LAT,LON\r\n"  \
    "p-1,1950-06-15,,999-12-3456,S99912345,X123456X,Mr.,Fred12,Doe34,M,white,nonhispanic,M,1 Main St,42.1,-71.2\r\n"
#define BORN "-|-|ETHNICITY//NOT_HISPANIC||0\n-|-|RACE//WHITE||0\n-|-|SEX//M||0\n1950-06-15 00:00|1950-06-15|MEDS_BIRTH||0\n"
#define ENCOUNTERS                                                                                                     \
    "Id,START,STOP,PATIENT,ORGANIZATION,ENCOUNTERCLASS,CODE,DESCRIPTION,REASONCODE\n"                                  \
    "e-1,2020-01-02T10:00:00Z,2020-01-02T10:30:00Z,p-1,o,wellness,410620009,Well child visit,\n"                       \
    "e-2,2020-03-01T23:40:00Z,2020-03-05T08:00:00Z,p-1,o,inpatient,185347001,Encounter for problem,\n"

static void test_new_columns(void **state) {
    (void)state;
    put("patients.csv", PATIENTS);
    put("encounters.csv", ENCOUNTERS);
    put("conditions.csv", "START,STOP,PATIENT,ENCOUNTER,SYSTEM,CODE,DESCRIPTION\n"
                          "2020-01-02,2020-02-01,p-1,e-1,http://snomed.info/sct,44054006,Diabetes\n"
                          "2020-03-01,,p-1,e-2,SNOMED-CT,233604007,Pneumonia\n");
    put("medications.csv", "START,STOP,PATIENT,PAYER,ENCOUNTER,CODE,DESCRIPTION,BASE_COST\n"
                           "2020-01-02T10:05:00Z,2021-01-01T00:00:00Z,p-1,x,e-1,860975,metformin,1\n");
    put("observations.csv", "DATE,PATIENT,ENCOUNTER,CATEGORY,CODE,DESCRIPTION,VALUE,UNITS,TYPE\n"
                            "2020-01-02T10:10:00Z,p-1,e-1,laboratory,2345-7,Glucose,<5.5,mmol/L,numeric\n"
                            "2020-01-02T10:10:00Z,p-1,e-1,vital-signs,29463-7,Weight,220.46,lb,numeric\n"
                            "2020-01-02T10:10:00Z,p-1,e-1,survey,72514-3,Pain,3,{score},numeric\n"
                            "2020-01-02T10:10:00Z,p-1,,,QALY,QALY,40.0,a,numeric\n"
                            "2020-01-02T10:20:00Z,p-1,e-1,survey,56799-0,Address,1 Main St,,text\n");
    put("procedures.csv", "START,STOP,PATIENT,ENCOUNTER,SYSTEM,CODE,DESCRIPTION,BASE_COST\n"
                          "2020-03-01T23:59:59Z,,p-1,e-2,SNOMED-CT,399208008,Chest X-ray,1\n");
    put("imaging_studies.csv", "Id,DATE,PATIENT,ENCOUNTER,SERIES_UID,MODALITY_CODE,INSTANCE_UID,PROCEDURE_CODE\n"
                               "i,2020-03-01T23:59:59Z,p-1,e-2,1.2.840,DX,1.2.840.1,399208008\n"
                               "i,2020-03-01T23:59:59Z,p-1,e-2,1.2.840,DX,1.2.840.2,399208008\n");
    put("immunizations.csv", "DATE,PATIENT,ENCOUNTER,CODE,DESCRIPTION,BASE_COST\n2020-01-02T10:15:00Z,p-1,e-1,140,Flu,1\n");
    put("allergies.csv", "START,STOP,PATIENT,ENCOUNTER,CODE,SYSTEM,DESCRIPTION,TYPE\n"
                         "2020-01-02,,p-1,e-1,7982,RxNorm,Penicillin G,allergy\n");
    put("devices.csv", "START,STOP,PATIENT,ENCOUNTER,CODE,DESCRIPTION,UDI\n"
                       "2020-03-02T01:00:00Z,,p-1,e-2,705643001,Stent,(01)13465995954590\n");
    put("supplies.csv", "DATE,PATIENT,ENCOUNTER,CODE,DESCRIPTION,QUANTITY\n2020-03-02,p-1,e-2,409534002,Respirator,2\n");
    put("careplans.csv", "Id,START,STOP,PATIENT,ENCOUNTER,CODE,DESCRIPTION\nc,2020-01-02,,p-1,e-1,384758001,Self-care\n");
    put("claims.csv", "Id,PATIENTID\nx,p-1\n");
    import_folder();
    assert_timelines(
        BORN "2020-01-02 10:00|=|VISIT//OP||1\n"
             "2020-01-02 10:00|=|SNOMED//410620009||1\n"
             "2020-01-02 10:05|=|RxNorm//860975||1\n"
             "2020-01-02 10:10|=|LOINC//2345-7|<99.0858mg/dL|1\n"
             "2020-01-02 10:10|=|LOINC//29463-7|99.999kg|1\n"
             "2020-01-02 10:10|=|LOINC//72514-3|3{score}|1\n"
             "2020-01-02 10:15|=|CVX//140||1\n"
             "2020-01-02 10:30|2020-01-02|SNOMED//44054006||1\n"
             "2020-01-02 10:30|2020-01-02|ALLERGY//RxNorm//7982||1\n"
             "2020-01-02 10:30|2020-01-02|SNOMED//384758001||1\n"
             "2020-01-02 10:30|=|VISIT_END//OP||1\n"
             "2020-03-01 23:40|=|VISIT//IP||2\n"
             "2020-03-01 23:40|=|SNOMED//185347001||2\n"
             "2020-03-01 23:59:59|=|SNOMED//399208008||2\n"
             "2020-03-02 01:00|=|SNOMED//705643001||2\n"
             "2020-03-03 11:59|2020-03-02|SNOMED//409534002|2|2\n"      /* over everywhere */
             "2020-03-05 08:00|2020-03-01|SNOMED//233604007||2\n" /* coded at discharge */
             "2020-03-05 08:00|=|VISIT_END//IP||2\n"
             "end 2020-03-06 11:59\n");
    const Counted expected[] = {{"observations", DROP_GENERATOR, 1}, {"observations", DROP_IDENTITY, 1},
                                {"observations", NOTE_LIMIT, 1},     {"observations", NOTE_UNIT_CONVERTED, 2},
                                {"observations", NOTE_LAG, 1},       {"conditions", NOTE_HELD_BACK, 1}};
    assert_counts(expected, sizeof expected / sizeof *expected);
    assert_int_equal(report.n_duplicates, 2); /* of the X-ray */
    assert_string_equal(report.unused, "claims");
    const char *const identifiers[] = {"999-12", "S999", "X123", "Fred", "Doe34", "Main St", "42.1", "1346599", "1.2.840"};
    for (size_t i = 0; i < sizeof identifiers / sizeof *identifiers; i++) assert_absent(at("out.h5"), identifiers[i]);
}

/* Dates are local, times are UTC: a date is known at the end of its short visit, whichever day that is in UTC. */
static void test_clocks(void **state) {
    (void)state;
    put("patients.csv", "Id,BIRTHDATE,DEATHDATE,RACE,ETHNICITY,GENDER\np-1,1950-06-15,2020-03-10,white,nonhispanic,M\n");
    put("encounters.csv", "Id,START,STOP,PATIENT,ENCOUNTERCLASS\n"
                          "e-1,2020-01-03T01:00:00Z,2020-01-03T01:30:00Z,p-1,ambulatory\n"
                          "e-2,2020-02-01T22:00:00Z,2020-02-01T22:30:00Z,p-1,urgentcare\n"
                          "e-3,2020-02-10T12:00:00Z,,p-1,odd\n");
    put("conditions.csv", "START,STOP,PATIENT,ENCOUNTER,CODE,DESCRIPTION\n"
                          "2020-01-02,,p-1,e-1,1,evening in Boston\n"
                          "2020-02-02,,p-1,e-2,2,morning in Tokyo\n"
                          "2020-02-10,,p-1,e-3,3,open visit\n"
                          "2020-02-20,,p-1,,4,no visit\n"
                          "2020-03-12,,p-1,,5,after death\n");
    import_folder();
    assert_timelines(BORN "2020-01-03 01:00|=|VISIT//OP||1\n"
                          "2020-01-03 01:30|2020-01-03|SNOMED//1||1\n"
                          "2020-01-03 01:30|=|VISIT_END//OP||1\n"
                          "2020-02-01 22:00|=|VISIT//OP||2\n"
                          "2020-02-01 22:30|2020-02-01|SNOMED//2||2\n"
                          "2020-02-01 22:30|=|VISIT_END//OP||2\n"
                          "2020-02-10 12:00|=|VISIT//odd||3\n"
                          "2020-02-11 11:59|2020-02-10|SNOMED//3||3\n"
                          "2020-02-21 11:59|2020-02-20|SNOMED//4||0\n"
                          "2020-03-11 11:59|2020-03-10|MEDS_DEATH||0\n"
                          "2020-03-13 11:59|2020-03-12|SNOMED//5||0\n"
                          "end 2020-03-13 11:59\n");
    assert_int_equal(table("conditions")->count[NOTE_AFTER_DEATH], 1);
    options.utc_offset = "-05:00";
    import_folder();
    assert_non_null(strstr(timelines(at("out.h5")), "2020-02-21 04:59|2020-02-20|SNOMED//4||0\n"));
    put("encounters.csv", "Id,START,STOP,PATIENT,ENCOUNTERCLASS\ne-1,2020-03-01T01:00:00Z,2020-03-11T01:30:00Z,p-1,inpatient\n");
    import_folder(); /* of one clock: the stay ended on the evening of the day of death, and by it */
    assert_non_null(strstr(timelines(at("out.h5")), "2020-03-11 01:30|2020-03-11|MEDS_DEATH||0\n"));
    options.utc_offset = NULL;
    import_folder();
    assert_non_null(strstr(timelines(at("out.h5")), "2020-03-11 11:59|2020-03-10|MEDS_DEATH||0\n"));
    options.utc_offset = "Boston";
    assert_int_equal(import_path(folder, at("x.h5")), ERR_USAGE);
}

/* An early release: no Ids of columns that came later, DATE where START is now, no CATEGORY, no SYSTEM, no class. */
static void test_old_columns(void **state) {
    (void)state;
    put("patients.csv", "ID,BIRTHDATE,DEATHDATE,SSN,RACE,ETHNICITY,GENDER\np-1,1950-06-15,,999-12-3456,white,nonhispanic,M\n");
    put("encounters.csv", "ID,DATE,PATIENT,CODE,DESCRIPTION,REASONCODE\ne-1,2010-05-04,p-1,185349003,Encounter for check up,\n");
    put("procedures.csv", "DATE,PATIENT,ENCOUNTER,CODE,DESCRIPTION\n2010-05-04,p-1,e-1,428191000124101,Medications\n");
    put("observations.csv", "DATE,PATIENT,ENCOUNTER,CODE,DESCRIPTION,VALUE,UNITS\n2010-05-04,p-1,e-1,8302-2,Height,70,in\n");
    options.utc_offset = "Z";
    import_folder();
    assert_timelines(BORN "2010-05-04 23:59|2010-05-04|VISIT//UNKNOWN||1\n"
                          "2010-05-04 23:59|2010-05-04|LOINC//8302-2|177.8cm|1\n"
                          "2010-05-04 23:59|2010-05-04|SNOMED//428191000124101||1\n"
                          "2010-05-04 23:59|2010-05-04|SNOMED//185349003||1\n"
                          "end 2010-05-04 23:59\n");
}

/* What two patients answered is told, what one alone has written may name him. */
static void test_words(void **state) {
    (void)state;
    put("patients.csv", "Id,BIRTHDATE,RACE,ETHNICITY,GENDER\np-1,1950-01-01,white,nonhispanic,M\np-2,1950-01-01,white,nonhispanic,M\n");
    put("observations.csv", "DATE,PATIENT,ENCOUNTER,CATEGORY,CODE,DESCRIPTION,VALUE,UNITS,TYPE\n"
                            "2020-01-02T10:10:00Z,p-1,,survey,72166-2,Tobacco,Never smoked,,text\n"
                            "2020-01-03T10:10:00Z,p-1,,survey,72166-2,Tobacco,Never smoked,,text\n"
                            "2020-01-02T10:10:00Z,p-2,,survey,72166-2,Tobacco,Never smoked,,text\n"
                            "2020-01-02T10:10:00Z,p-2,,survey,11111-1,Remark,call Jane 555-0199,,text\n"
                            "2020-01-02T10:11:00Z,p-2,,survey,11111-1,Remark,call Jane 555-0199,,text\n"
                            "2020-01-02T10:12:00Z,p-2,,survey,11111-1,Remark,,,text\n");
    import_folder();
    const Counted expected[] = {{"observations", NOTE_RARE_WORDS, 2}, {"observations", NOTE_VALUE_ABSENT, 1}};
    assert_counts(expected, 2);
    const char *text = timelines(at("out.h5"));
    assert_non_null(strstr(text, "LOINC//72166-2=Never smoked||0\n"));
    assert_non_null(strstr(text, "2020-01-02 10:10|=|LOINC//11111-1||0\n"));
    assert_absent(at("out.h5"), "Jane");
}

static void test_bad_rows(void **state) {
    (void)state;
    put("patients.csv", "Id,BIRTHDATE,DEATHDATE,RACE,ETHNICITY,GENDER\np-1,1950-06-15,,white,nonhispanic,M\n"
                        "p-1,1950-06-15,,white,nonhispanic,M\n,1950-06-15,,white,nonhispanic,M\np-2,,,white,nonhispanic,F\n"
                        "p-3,1960-01-01,9999-12-31,martian,,X\n");
    put("conditions.csv", "START,STOP,PATIENT,ENCOUNTER,CODE,DESCRIPTION\n"
                          "2020-01-02,,p-1,,1,fine\n"
                          "2020-01-02,,p-1,,1,fine\n"            /* exact duplicate */
                          ",,p-1,,2,no date\n"
                          "2020-02-30,,p-1,,3,no such day\n"
                          "1900-01-01,,p-1,,4,placeholder\n"
                          "2020-01-03,,p-1,,,no code\n"
                          "2020-01-03,,,,5,no patient\n"
                          "2020-01-03,,p-9,,6,unknown patient\n"
                          "2020-01-03,,p-2,,7,her patient has no birth\n"
                          "1949-01-03,,p-1,,8,before birth\n"
                          "2020-01-03,,p-1\n"
                          "2020-01-03,,p-1,e-9,9,unknown visit\n"
                          "2020-01-04,,p-3,,10,caf\xE9\n"
                          "2020-01-04T00:00:00Z,,p-3,,11,midnight\n");
    import_folder();
    const Counted expected[] = {
        {"patients", DROP_SAME_ID, 1},          {"patients", DROP_NO_SUBJECT, 1},   {"patients", DROP_NO_BIRTH, 1},
        {"patients", NOTE_DEAD_UNDATED, 1},     {"conditions", DROP_NO_DATE, 1},    {"conditions", DROP_BAD_DATE, 1},
        {"conditions", DROP_PLACEHOLDER_DATE, 1}, {"conditions", DROP_NO_CODE, 1},  {"conditions", DROP_NO_SUBJECT, 1},
        {"conditions", DROP_NO_PERSON, 1},      {"conditions", DROP_PERSON_DROPPED, 1}, {"conditions", DROP_BEFORE_BIRTH, 1},
        {"conditions", DROP_FIELDS, 1},         {"conditions", NOTE_UTF8, 1}};
    assert_counts(expected, sizeof expected / sizeof *expected);
    assert_int_equal(report.n_duplicates, 1);
    assert_int_equal(report.n_patients, 2);
    assert_non_null(strstr(timelines(at("out.h5")), "RACE//UNKNOWN"));
    options.max_errors = 3;
    assert_int_equal(import_path(folder, at("x.h5")), ERR_FORMAT);
    assert_non_null(strstr(err.msg, "--max-errors"));
    assert_false(path_exists(at("x.h5")));
}

static void test_refusals(void **state) {
    (void)state;
    put("person.csv", "person_id\n1\n");
    assert_int_equal(import_path(folder, at("x.h5")), ERR_FORMAT);
    assert_non_null(strstr(err.msg, "no Synthea table"));
    put("conditions.csv", "START,STOP,ENCOUNTER,CODE\n2020-01-01,,,1\n");
    assert_int_equal(import_path(folder, at("x.h5")), ERR_FORMAT);
    assert_non_null(strstr(err.msg, "no column PATIENT"));
    assert_int_equal(import_path(at("nowhere"), at("x.h5")), ERR_IO);
    assert_false(path_exists(at("x.h5")));
}

/* A column of codes that holds something else is refused before it takes all memory. */
static void test_many_codes(void **state) {
    (void)state;
    put("patients.csv", PATIENTS);
    FILE *f = fopen(at("conditions.csv"), "w");
    assert_non_null(f);
    fputs("START,STOP,PATIENT,ENCOUNTER,CODE,DESCRIPTION\n", f);
    for (int i = 0; i < 40000; i++) fprintf(f, "2020-01-01,,p-1,,%d,\n", i);
    fclose(f);
    options.memory = 4 << 20;
    assert_int_equal(import_path(folder, at("x.h5")), ERR_NOMEM);
    assert_false(path_exists(at("x.h5")));
    options.memory = 64 << 20;
    import_folder();
    assert_int_equal(report.codes, 40000);
}

static void test_lab_lag(void **state) {
    (void)state;
    put("patients.csv", PATIENTS);
    put("observations.csv", "DATE,PATIENT,ENCOUNTER,CATEGORY,CODE,DESCRIPTION,VALUE,UNITS,TYPE\n"
                            "2020-01-02T10:10:00Z,p-1,,laboratory,2345-7,Glucose,90,mg/dL,numeric\n"
                            "2020-01-02T10:10:00Z,p-1,,vital-signs,8867-4,Heart rate,70,/min,numeric\n");
    options.lab_lag = 6 * 60 * US_PER_MINUTE;
    import_folder();
    assert_timelines(BORN "2020-01-02 10:10|=|LOINC//8867-4|70/min|0\n"
                          "2020-01-02 16:10|2020-01-02 10:10|LOINC//2345-7|90mg/dL|0\nend 2020-01-03 11:59\n");
    assert_int_equal(report.assumed[KIND_LAB], 1);
    assert_int_equal(report.recorded[KIND_LAB], 1);
}

/* ---- the samples ------------------------------------------------------------------------------------------------- */

/* Rows, and rows dropped, of each table: observations that are scores or addresses, nothing else. */
static void test_samples(void **state) {
    (void)state;
    static const struct {
        const char *name;
        int64_t old_rows, new_rows;
    } rows[] = {{"patients", 27, 11},     {"encounters", 604, 388},   {"conditions", 438, 273}, {"procedures", 249, 889},
                {"medications", 663, 173}, {"immunizations", 29, 129}, {"observations", 990, 3626}, {"allergies", 40, 14},
                {"careplans", 49, 37},    {"devices", 3, 11},         {"supplies", 72, 47},     {"imaging_studies", 1, 11}};
    for (int k = 0; k < 2; k++) {
        ok(import_path(sample_data(k ? "synthea-csv-fhir/csv" : "synthea-csv-27"), at("out.h5")));
            for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
            const ReportTable *t = table(rows[i].name);
            int64_t scores = t->count[DROP_GENERATOR], identity = t->count[DROP_IDENTITY];
            assert_int_equal(t->read, k ? rows[i].new_rows : rows[i].old_rows);
            assert_int_equal(t->emitted, t->read - scores - identity);
            if (strcmp(rows[i].name, "observations")) continue;
            assert_int_equal(scores, k ? 336 : 75);
            assert_int_equal(identity, k ? 70 : 18);
        }
    }
}

/* The rows of every table in another order, with little memory: the same bytes. */
static void test_row_order(void **state) {
    (void)state;
    static const char *const names[] = {"patients", "encounters", "conditions", "procedures", "medications", "observations",
                                        "allergies", "careplans", "devices", "supplies", "imaging_studies", "immunizations"};
    const char *from = sample_data("synthea-csv-27");
    ok(import_path(from, at("a.h5")));
    for (size_t t = 0; t < sizeof names / sizeof *names; t++) {
        char path[700], to[100], *text;
        size_t size;
        snprintf(path, sizeof path, "%s/%s.csv", from, names[t]);
        ok(file_read(path, 1 << 26, &text, &size, &err));
        char **line = xcalloc(100000, sizeof *line), *out = xmalloc(size + 2), *p = out;
        int n = 0;
        for (char *s = strtok(text, "\n"); s; s = strtok(NULL, "\n")) line[n++] = s;
        p += sprintf(p, "%s\n", line[0]);
        for (int k = n - 1; k > 0; k--) p += sprintf(p, "%s\n", line[k]);
        snprintf(to, sizeof to, "%s.csv", names[t]);
        put_bytes(to, out, (size_t)(p - out));
        free(line);
        free(out);
        free(text);
    }
    static const char *const unread[] = {"claims.csv", "organizations.csv", "payer_transitions.csv", "payers.csv",
                                         "providers.csv"}; /* their names are told in the file */
    for (size_t t = 0; t < sizeof unread / sizeof *unread; t++) put(unread[t], "Id\n");
    options.memory = 4 << 20;
    ok(import_path(folder, at("b.h5")));
    assert_same_bytes(at("a.h5"), at("b.h5"));
}

int main(void) {
    import_format = import_synthea;
    const struct CMUnitTest tests[] = {IN_FOLDER(test_new_columns), IN_FOLDER(test_clocks),  IN_FOLDER(test_old_columns),
                                       IN_FOLDER(test_words),       IN_FOLDER(test_bad_rows), IN_FOLDER(test_refusals),
                                       IN_FOLDER(test_many_codes), IN_FOLDER(test_lab_lag),     IN_FOLDER(test_samples), IN_FOLDER(test_row_order)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
