/* test_import_omop.c - OMOP files in, events out: every row accounted for, every trap of the format met, nothing known
 * before its time. */
#include "tests/import_omop.h"
#include "data/archive.h"

#define BORN "-|-|ETHNICITY//UNKNOWN||0\n-|-|RACE//WHITE||0\n-|-|SEX//F||0\n1950-06-15 00:00|day|MEDS_BIRTH||0\n"
#define SOURCE_2020 "source_release_date\n2020-12-31\n"

static void import_folder(void) { ok(import_with(import_omop, folder, at("out.h5"), 8 << 20)); }

/* ---- the fixture ------------------------------------------------------------------------------------------------- */

static void test_fixture_counts(void **state) {
    (void)state;
    static const struct { const char *name; int64_t rows; } expected[] = {
        {"person", 28}, {"death", 3}, {"measurement", 10040}, {"condition_occurrence", 470}, {"drug_exposure", 883},
        {"procedure_occurrence", 1649}, {"observation", 8099}, {"visit_occurrence", 1791}, {"device_exposure", 1}};
    ok(import_with(import_omop, FIXTURE, at("out.h5"), 64 << 20));
    assert_accounted();
    int64_t events = 0;
    for (int i = 0; i < report.n_tables; i++) events += report.table[i].events;
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        assert_int_equal(table(expected[i].name)->read, expected[i].rows);
        assert_int_equal(table(expected[i].name)->emitted, expected[i].rows);
    }
    assert_int_equal(table("visit_detail")->count[DROP_NOT_ICU], 1791);
    assert_int_equal(report.n_patients, 28);
    assert_int_equal(report.n_events + report.n_duplicates, events);
    assert_string_equal(report.extract_date, "2022-10-10");
    EventFile f;
    ok(event_file_open(&f, at("out.h5"), &err));
    int64_t c = event_file_code(&f, "LOINC//29463-7");
    assert_true(c >= 0 && f.code_kind[c] == KIND_LAB && strstr(f.code_name[c], "weight"));
    assert_true(event_file_code(&f, "SEX//F") >= 0 && event_file_code(&f, "VISIT//OP") >= 0);
    for (int64_t i = 0; i < f.n_codes; i++) /* encounters carry UUIDs as source values */
        assert_null(strstr(f.codes[i], "3528b5de-9f60"));
    event_file_close(&f);
}

/* Unpacks the fixture, its rows in another order, its names in another case, line ends and a byte order mark changed. */
static void fixture_shuffle(const char *to) {
    Archive a;
    Stream s;
    ok(archive_open(&a, FIXTURE, &err));
    for (int i = 0; i < a.n; i++) {
        ok(stream_open(&s, &a, i, &err));
        char *text = xmalloc((size_t)a.entry[i].size + 1);
        size_t n = 0, got;
        do {
            ok(stream_read(&s, text + n, (size_t)a.entry[i].size - n + 1, &got, &err));
            n += got;
        } while (got);
        text[n] = 0;
        stream_close(&s);
        char path[700];
        snprintf(path, sizeof path, "%s/%s", to, a.entry[i].name);
        for (char *p = path + strlen(to); *p; p++) *p = (char)(*p >= 'A' && *p <= 'Z' ? *p + 32 : *p);
        FILE *out = fopen(path, "wb");
        assert_non_null(out);
        char **line = xcalloc(300000, sizeof *line);
        int lines = 0;
        for (char *p = strtok(text, "\n"); p; p = strtok(NULL, "\n")) line[lines++] = p;
        fprintf(out, "\xEF\xBB\xBF%s\r\n", line[0]);
        for (int k = 1; k < lines; k++) fprintf(out, "%s\r\n", line[1 + (int64_t)(k - 1) * 7919 % (lines - 1)]);
        fclose(out);
        free(line);
        free(text);
    }
    archive_close(&a);
}

/* No quoted field of the fixture's rows holds a line end, and 7919 divides none of its row counts: a permutation. */
static void test_order_and_memory(void **state) {
    (void)state;
    ok(import_with(import_omop, FIXTURE, at("a.h5"), 512 << 20));
    ok(import_with(import_omop, FIXTURE, at("b.h5"), 4 << 20));
    assert_same_bytes(at("a.h5"), at("b.h5"));
    char other[400];
    snprintf(other, sizeof other, "%s/omop", folder);
    ok(dir_make(other, &err));
    fixture_shuffle(other);
    ok(import_with(import_omop, other, at("c.h5"), 5 << 20));
    assert_same_bytes(at("a.h5"), at("c.h5"));
}

/* ---- what is known when -------------------------------------------------------------------------------------------- */

static void test_visits_and_diagnoses(void **state) {
    (void)state;
    put("PERSON.csv", PERSON_1);
    put("cdm_source.csv", SOURCE_2020);
    put("Visit_Occurrence.CSV",
        "visit_occurrence_id,person_id,visit_concept_id,visit_start_date,visit_start_datetime,visit_end_date,visit_end_datetime\n"
        "10,1,9201,2020-01-01,2020-01-01 08:00:00,2020-01-05,2020-01-05 11:30:00\n"   /* a stay with times */
        "11,1,9202,2020-02-01,2020-02-01 00:00:00,2020-02-01,2020-02-01 00:00:00\n"   /* dates only, zero length */
        "12,1,9203,2020-03-01,2020-03-01 10:00:00,,\n"                                /* no end */
        "13,1,9203,2020-04-02,2020-04-02 10:00:00,2020-04-01,2020-04-01 10:00:00\n"   /* ends before it starts */
        "14,1,9201,2020-12-30,2020-12-30 09:00:00,2020-12-31,\n");                    /* still in at the extract */
    put("condition_occurrence.csv",
        "condition_occurrence_id,person_id,condition_concept_id,condition_start_date,condition_type_concept_id,"
        "condition_status_concept_id,visit_occurrence_id\n"
        "1,1,100,2020-01-02,32817,0,10\n"      /* coded at discharge: known at the end of the stay */
        "2,1,101,2020-01-02,32840,0,10\n"      /* problem list */
        "3,1,102,2020-01-02,32817,32890,10\n"  /* admission diagnosis */
        "4,1,103,2020-01-05,32840,0,10\n"      /* problem list on the day of discharge: known at the visit's end */
        "5,1,104,2020-02-01,32817,0,11\n"      /* outpatient: that day */
        "6,1,105,2020-12-30,32817,0,14\n"      /* stay still open: known only at the extract */
        "7,1,106,2020-06-01,32817,0,999\n");   /* a visit that is not there */
    import_folder();
    assert_accounted();
    assert_string_equal(timeline("out.h5", 1), BORN
                        "2020-01-01 08:00|2020-01-01 08:00|VISIT//IP||1\n"
                        "2020-01-02 23:59|day|OMOP//101||1\n"
                        "2020-01-02 23:59|day|OMOP//102||1\n"
                        "2020-01-05 11:30|day|OMOP//100||1\n"
                        "2020-01-05 11:30|day|OMOP//103||1\n"
                        "2020-01-05 11:30|2020-01-05 11:30|VISIT_END//IP||1\n"
                        "2020-02-01 23:59|day|VISIT//OP||2\n"
                        "2020-02-01 23:59|day|OMOP//104||2\n"
                        "2020-02-01 23:59|day|VISIT_END//OP||2\n"
                        "2020-03-01 10:00|2020-03-01 10:00|VISIT//ER||3\n"
                        "2020-04-02 10:00|2020-04-02 10:00|VISIT//ER||4\n"
                        "2020-06-01 23:59|day|OMOP//106||0\n"
                        "2020-12-30 09:00|2020-12-30 09:00|VISIT//IP||5\n"
                        "2020-12-31 23:59|day|OMOP//105||5\n"
                        "end 2020-12-31 23:59\n");
    const ReportTable *v = table("visit_occurrence"), *c = table("condition_occurrence");
    assert_int_equal(v->count[NOTE_ZERO_LENGTH], 1);
    assert_int_equal(v->count[NOTE_NO_END], 1);
    assert_int_equal(v->count[NOTE_END_BEFORE_START], 1);
    assert_int_equal(v->count[NOTE_OPEN_STAY], 1);
    assert_int_equal(c->count[NOTE_HELD_BACK], 2);
    assert_int_equal(c->count[NOTE_ON_ADMISSION], 3);
    assert_int_equal(c->count[NOTE_NO_VISIT], 1);
    assert_int_equal(c->first_row[NOTE_NO_VISIT], 7);
    assert_int_equal(report.assumed[KIND_DIAGNOSIS], 7);
    assert_int_equal(report.recorded[KIND_VISIT_START], 4);
}

/* A visit that starts on a date begins no later than the first event in it that has a time. */
static void test_day_visit_with_timed_events(void **state) {
    (void)state;
    put("person.csv", PERSON_1);
    put("cdm_source.csv", SOURCE_2020);
    put("visit_occurrence.csv", "visit_occurrence_id,person_id,visit_concept_id,visit_start_date,visit_end_date,visit_end_datetime\n"
                                "7,1,9201,2020-01-01,2020-01-01,2020-01-01 20:00:00\n");
    put("measurement.csv", "person_id,measurement_concept_id,measurement_date,measurement_datetime,measurement_time,visit_occurrence_id\n"
                           "1,200,2020-01-01,2020-01-01 09:15:00,,7\n"
                           "1,201,2020-01-01,2020-01-01 00:00:00,14:30:00,7\n"
                           "1,202,2020-01-01,2020-01-01 00:00:00,2020-01-01,7\n");
    import_folder();
    assert_string_equal(timeline("out.h5", 1), BORN
                        "2020-01-01 09:15|day|VISIT//IP||1\n"
                        "2020-01-01 09:15|2020-01-01 09:15|OMOP//200||1\n"
                        "2020-01-01 14:30|2020-01-01 14:30|OMOP//201||1\n"
                        "2020-01-01 20:00|day|OMOP//202||1\n"
                        "2020-01-01 20:00|2020-01-01 20:00|VISIT_END//IP||1\n"
                        "end 2020-12-31 23:59\n");
    assert_int_equal(table("measurement")->count[NOTE_MIDNIGHT], 2);
}

static void test_icu(void **state) {
    (void)state;
    put("person.csv", PERSON_1);
    put("cdm_source.csv", SOURCE_2020);
    put("visit_detail.csv", "visit_detail_id,person_id,visit_detail_concept_id,visit_detail_start_date,visit_detail_start_datetime,"
                            "visit_detail_end_date,visit_detail_end_datetime,visit_occurrence_id\n"
                            "1,1,32037,2020-01-01,2020-01-01 10:00:00,2020-01-03,2020-01-03 12:00:00,\n"
                            "2,1,777,2020-02-01,2020-02-01 10:00:00,2020-02-03,2020-02-03 12:00:00,\n" /* below 32037 */
                            "3,1,9202,2020-03-01,2020-03-01 10:00:00,2020-03-01,2020-03-01 12:00:00,\n"
                            "4,1,581379,2020-12-30,2020-12-30 10:00:00,2020-12-31,,\n");
    put("concept_ancestor.csv", "ancestor_concept_id,descendant_concept_id,min_levels_of_separation,max_levels_of_separation\n"
                                "32037,777,1,1\n777,777,0,0\n");
    import_folder();
    assert_string_equal(timeline("out.h5", 1), BORN
                        "2020-01-01 10:00|2020-01-01 10:00|ICU_IN||0\n2020-01-03 12:00|2020-01-03 12:00|ICU_OUT||0\n"
                        "2020-02-01 10:00|2020-02-01 10:00|ICU_IN||0\n2020-02-03 12:00|2020-02-03 12:00|ICU_OUT||0\n"
                        "2020-12-30 10:00|2020-12-30 10:00|ICU_IN||0\nend 2020-12-31 23:59\n");
    assert_int_equal(table("visit_detail")->count[DROP_NOT_ICU], 1);
    assert_accounted();
}

/* For splits by site; an id that is none is no site. */
static void test_care_sites(void **state) {
    (void)state;
    put("person.csv", "person_id,gender_concept_id,year_of_birth,month_of_birth,day_of_birth,race_concept_id,ethnicity_concept_id,care_site_id\n"
                      "1,8532,1950,6,15,8527,0,77\n2,8532,1950,6,15,8527,0,\n3,8532,1950,6,15,8527,0,0\n4,8532,1950,6,15,8527,0,ward\n");
    put("cdm_source.csv", SOURCE_2020);
    import_folder();
    assert_string_equal(timeline("out.h5", 1), "-|-|CARE_SITE//77||0\n" BORN "end 2020-12-31 23:59\n");
    for (int i = 2; i <= 4; i++) assert_string_equal(timeline("out.h5", i), BORN "end 2020-12-31 23:59\n");
    assert_accounted();
}

static void test_people(void **state) {
    (void)state;
    put("person.csv", "PERSON_ID,Gender_Concept_Id,YEAR_OF_BIRTH,birth_datetime,gender_source_value\n"
                      "1,8507,1940,1940-03-04 00:00:00,\n"
                      "2,0,,,F\n"                            /* no year of birth */
                      "3,0,1960,,female\n"                   /* a year only; sex from text */
                      "4,0,1970,1970-01-01 05:30:00,x\n"
                      "4,0,1971,,x\n"                        /* twice */
                      "x5,0,1970,,\n");
    put("cdm_source.csv", SOURCE_2020);
    put("death.csv", "person_id,death_date,death_datetime\n"
                     "1,2019-12-31,2019-12-31 00:00:00\n"
                     "1,2019-05-01,\n"                       /* the earlier one counts */
                     "3,1959-01-01,\n"                       /* before birth */
                     "4,2021-06-01,\n");                     /* after the extract */
    put("observation_period.csv", "person_id,observation_period_start_date,observation_period_end_date\n"
                                  "1,2000-01-01,2018-01-01\n3,2000-01-01,2015-01-01\n4,2000-01-01,2029-01-01\n");
    put("drug_exposure.csv", "person_id,drug_concept_id,drug_exposure_start_date\n"
                             "1,300,2018-01-01\n1,301,2019-05-20\n" /* the second after death */
                             "2,300,2018-01-01\n"
                             "3,300,1950-01-01\n3,302,1960-01-01\n" /* the first before birth */
                             "4,300,1900-01-01\n4,301,9999-12-31\n4,302,2020-12-31\n4,303,2021-01-01\n"
                             "99,300,2018-01-01\n");
    import_folder();
    assert_accounted();
    assert_string_equal(timeline("out.h5", 1), "-|-|ETHNICITY//UNKNOWN||0\n-|-|RACE//UNKNOWN||0\n-|-|SEX//M||0\n"
                                     "1940-03-04 00:00|day|MEDS_BIRTH||0\n2018-01-01 23:59|day|OMOP//300||0\n"
                                     "2019-05-01 23:59|day|MEDS_DEATH||0\n2019-05-20 23:59|day|OMOP//301||0\n"
                                     "end 2019-05-01 23:59\n");
    assert_string_equal(timeline("out.h5", 2), "");
    assert_string_equal(timeline("out.h5", 3), "-|-|ETHNICITY//UNKNOWN||0\n-|-|RACE//UNKNOWN||0\n-|-|SEX//F||0\n"
                                     "1960-01-01 00:00|day|MEDS_BIRTH||0\n1960-01-01 23:59|day|OMOP//302||0\n"
                                     "end 2015-01-01 23:59\n");
    assert_string_equal(timeline("out.h5", 4), "-|-|ETHNICITY//UNKNOWN||0\n-|-|RACE//UNKNOWN||0\n-|-|SEX//UNKNOWN||0\n"
                                     "1970-01-01 05:30|1970-01-01 05:30|MEDS_BIRTH||0\n2020-12-31 23:59|day|OMOP//302||0\n"
                                     "end 2020-12-31 23:59\n");
    const ReportTable *p = table("person"), *d = table("death"), *x = table("drug_exposure");
    assert_int_equal(p->count[DROP_NO_BIRTH], 1);
    assert_int_equal(p->count[DROP_SAME_ID], 1);
    assert_int_equal(p->count[DROP_PERSON_ID], 1);
    assert_int_equal(p->count[NOTE_BIRTH_YEAR_ONLY], 2);
    assert_int_equal(d->count[DROP_SAME_ID], 1);
    assert_int_equal(d->count[DROP_BEFORE_BIRTH], 1);
    assert_int_equal(d->count[DROP_FUTURE], 1);
    assert_int_equal(x->count[NOTE_AFTER_DEATH], 1);
    assert_int_equal(x->count[DROP_PERSON_DROPPED], 1);
    assert_int_equal(x->count[DROP_BEFORE_BIRTH], 1);
    assert_int_equal(x->count[DROP_PLACEHOLDER_DATE], 2);
    assert_int_equal(x->count[DROP_FUTURE], 1);
    assert_int_equal(x->count[DROP_NO_PERSON], 1);
}

/* Samples have no result time: --lab-lag assumes one. */
static void test_lab_lag(void **state) {
    (void)state;
    put("person.csv", PERSON_1);
    put("cdm_source.csv", SOURCE_2020);
    put("measurement.csv", "person_id,measurement_concept_id,measurement_date,measurement_datetime,value_as_number\n"
                           "1,100,2020-01-01,2020-01-01 10:00:00,1\n1,100,2020-01-02,,2\n");
    ImportOptions o = {.path = folder, .out = at("out.h5"), .memory = 8 << 20, .max_line = 1 << 20, .max_errors = -1, .lab_lag = 120 * US_PER_MINUTE};
    import_report_free(&report);
    if (import_omop(&o, &report, &err)) fail_msg("%s", err.msg);
    assert_string_equal(timeline("out.h5", 1), BORN "2020-01-01 12:00|2020-01-01 10:00|OMOP//100|1|0\n2020-01-02 23:59|day|OMOP//100|2|0\nend 2020-12-31 23:59\n");
    assert_int_equal(table("measurement")->count[NOTE_LAG], 2);
    assert_int_equal(report.assumed[KIND_LAB], 2);
    import_folder();
    assert_int_equal(report.recorded[KIND_LAB], 1);
}

static void test_imprecise_death(void **state) {
    (void)state;
    put("person.csv", PERSON_1);
    put("death.csv", "person_id,death_date\n1,2019-12-31\n");
    put("observation.csv", "person_id,observation_concept_id,observation_date\n1,5,2020-06-01\n");
    import_folder();
    assert_int_equal(table("death")->count[NOTE_IMPRECISE_DEATH], 1);
    assert_string_equal(report.extract_date, "2020-06-01");
    assert_string_equal(report.extract_from, "last date in the data");
}

/* Of a death that only has a date: known when the stay ended that day, unless they left it alive. */
static void test_death_in_stay(void **state) {
    (void)state;
    put("cdm_source.csv", SOURCE_2020);
    put("person.csv", PERSON_HEAD "1,8532,1950,6,15,8527,0\n2,8532,1950,6,15,8527,0\n3,8532,1950,6,15,8527,0\n"
                                  "4,8532,1950,6,15,8527,0\n5,8532,1950,6,15,8527,0\n");
    put("concept.csv", "concept_id\tconcept_name\tdomain_id\tvocabulary_id\tconcept_code\n"
                       "9201\tInpatient\tVisit\tVisit\tIP\n9202\tOutpatient\tVisit\tVisit\tOP\n");
    put("death.csv", "person_id,death_date\n1,2019-05-02\n2,2019-05-03\n3,2019-05-02\n4,2019-05-02\n5,2019-05-02\n");
    put("visit_occurrence.csv",
        "visit_occurrence_id,person_id,visit_concept_id,visit_start_datetime,visit_end_datetime\n"
        "1,1,9201,2019-05-01 08:00:00,2019-05-02 14:00:00\n"  /* died in the stay */
        "2,2,9201,2019-05-01 08:00:00,2019-05-02 14:00:00\n"  /* the day after it */
        "3,3,9202,2019-05-02 08:00:00,2019-05-02 09:00:00\n"  /* after seeing a doctor */
        "4,4,9201,2019-05-01 08:00:00,2019-05-02 14:00:00\n"  /* went home, and came again */
        "5,4,9202,2019-05-02 18:00:00,2019-05-02 19:00:00\n"
        "6,5,9201,2019-05-01 08:00:00,2019-05-02 14:00:00\n"  /* moved to another hospital */
        "7,5,9201,2019-05-02 14:00:00,2019-05-02 20:00:00\n");
    import_folder();
    static const char *const known[] = {"2019-05-02 14:00", "2019-05-03 23:59", "2019-05-02 23:59", "2019-05-02 23:59",
                                        "2019-05-02 20:00"};
    for (int i = 0; i < 5; i++) {
        char expected[64];
        snprintf(expected, sizeof expected, "\n%s|day|MEDS_DEATH||0\n", known[i]);
        if (!strstr(timeline("out.h5", i + 1), expected))
            fail_msg("person %d: expected %s in:\n%s", i + 1, expected, timeline("out.h5", i + 1));
    }
    assert_accounted();
}

/* A note of no class and no type is a note still. */
static void test_note_without_concept(void **state) {
    (void)state;
    put("cdm_source.csv", SOURCE_2020);
    put("person.csv", PERSON_1);
    put("note.csv", "person_id,note_date,note_class_concept_id,note_text\n1,2020-01-01,0,Went home.\n");
    ImportOptions o = {.path = folder, .out = at("out.h5"), .memory = 8 << 20, .max_line = 1 << 20, .max_errors = -1, .notes = 1};
    import_report_free(&report);
    if (import_omop(&o, &report, &err)) fail_msg("%s", err.msg);
    if (!strstr(timeline("out.h5", 1), "2020-01-01 23:59|day|note//UNKNOWN||0\n")) fail_msg("%s", timeline("out.h5", 1));
}

static void test_values(void **state) {
    (void)state;
    put("person.csv", PERSON_1);
    put("cdm_source.csv", SOURCE_2020);
    put("concept.csv", "concept_id\tconcept_name\tdomain_id\tvocabulary_id\tconcept_code\n"
                       "400\t5\" disc test\tMeasurement\tLOINC\t111-1\n"
                       "401\tColour\tMeasurement\tLOINC\t222-2\n"
                       "402\tRed\tMeas Value\tSNOMED\t386713009\n"
                       "8840\tmilligram per deciliter\tUnit\tUCUM\tmg/dL\n"
                       "777\tunused\tUnit\tUCUM\tL\n");
    put("measurement.csv",
        "person_id,measurement_concept_id,measurement_date,operator_concept_id,value_as_number,value_as_concept_id,unit_concept_id,"
        "unit_source_value,value_source_value,measurement_source_concept_id,measurement_source_value\n"
        "1,400,2020-01-01,,1.5,,8840,,,,\n"
        "1,400,2020-01-02,4171756,0.01,,8840,,,,\n"
        "1,400,2020-01-03,4172704,100,,,,,,\n"            /* no unit */
        "1,400,2020-01-04,,7,,0,,,,\n"                    /* a unit nobody knows */
        "1,400,2020-01-05,,7,,0,MMol/DL,,,\n"               /* unmapped, and case kept */
        "1,400,2020-01-06,,,,,,>=2.5,,\n"                 /* number in text */
        "1,400,2020-01-07,,\"1,200\",,,,,,\n"             /* not a number */
        "1,401,2020-01-08,,,402,,,,,\n"                   /* a concept as value */
        "1,401,2020-01-09,,,,,,POS,,\n"                   /* text as value */
        "1,0,2020-01-10,,3,,8840,,,401,\n"                /* source concept */
        "1,0,2020-01-11,,3,,8840,,,0, LOCAL 17 \n"        /* source text */
        "1,0,2020-01-12,,3,,,,,0,\n"                      /* nothing */
        "1,555.0,2020-01-13,123,4,,9999,,,,\n"            /* no row in CONCEPT; unknown operator */
        "1,400,2020-01-14,,1e99,,,,,,\n");
    import_folder();
    assert_accounted();
    assert_string_equal(timeline("out.h5", 1), BORN
                        "2020-01-01 23:59|day|LOINC//111-1|1.5mg/dL|0\n"
                        "2020-01-02 23:59|day|LOINC//111-1|<0.01mg/dL|0\n"
                        "2020-01-03 23:59|day|LOINC//111-1|>100|0\n"
                        "2020-01-04 23:59|day|LOINC//111-1|7{unmapped}|0\n"
                        "2020-01-05 23:59|day|LOINC//111-1|7MMol/DL|0\n"
                        "2020-01-06 23:59|day|LOINC//111-1|>=2.5|0\n"
                        "2020-01-07 23:59|day|LOINC//111-1||0\n"
                        "2020-01-08 23:59|day|LOINC//222-2=SNOMED//386713009||0\n"
                        "2020-01-09 23:59|day|LOINC//222-2||0\n"
                        "2020-01-10 23:59|day|LOINC//222-2|3mg/dL|0\n"
                        "2020-01-11 23:59|day|measurement//LOCAL 17|3mg/dL|0\n"
                        "2020-01-13 23:59|day|OMOP//555|4OMOP//9999|0\n"
                        "2020-01-14 23:59|day|LOINC//111-1||0\n"
                        "end 2020-12-31 23:59\n");
    const ReportTable *m = table("measurement");
    assert_int_equal(m->count[NOTE_LIMIT], 3);
    assert_int_equal(m->count[NOTE_NO_UNIT], 2);
    assert_int_equal(m->count[NOTE_UNMAPPED_UNIT], 2);
    assert_int_equal(m->count[NOTE_BAD_NUMBER], 2);
    assert_int_equal(m->count[NOTE_NUMBER_FROM_TEXT], 1);
    assert_int_equal(m->count[NOTE_TEXT_VALUE], 1);
    assert_int_equal(m->count[NOTE_SOURCE_CONCEPT], 1);
    assert_int_equal(m->count[NOTE_SOURCE_TEXT], 1);
    assert_int_equal(m->count[NOTE_BAD_OPERATOR], 1);
    assert_int_equal(m->count[DROP_NO_CODE], 1);
    EventFile f;
    ok(event_file_open(&f, at("out.h5"), &err));
    assert_string_equal(f.code_name[event_file_code(&f, "LOINC//111-1")], "5\" disc test");
    assert_string_equal(f.code_parent[event_file_code(&f, "LOINC//222-2=SNOMED//386713009")], "LOINC//222-2");
    assert_string_equal(f.code_name[event_file_code(&f, "LOINC//222-2=SNOMED//386713009")], "Colour: Red");
    event_file_close(&f);
}

static void assert_parent(const char *code, const char *parent, int kind) {
    EventFile f;
    ok(event_file_open(&f, at("out.h5"), &err));
    int64_t c = event_file_code(&f, code);
    if (c < 0) fail_msg("%s is not there", code);
    assert_string_equal(f.code_parent[c], parent);
    assert_int_equal(f.code_kind[c], kind);
    event_file_close(&f);
}

#define CONDITION_A "person_id,condition_concept_id,condition_start_date\n1,1,2020-01-01\n"
#define CONCEPTS                                                                                                              \
    "concept_id,concept_name,vocabulary_id,concept_code\n1,a,V,a\n2,b,V,b\n3,c,V,c\n4,d,V,d\n5,e,V,e\n6,f,W,f\n"

static void test_hierarchy(void **state) {
    (void)state;
    put("person.csv", PERSON_1);
    put("condition_occurrence.csv", CONDITION_A);
    put("concept.csv", CONCEPTS);
    put("concept_ancestor.csv", "ancestor_concept_id,descendant_concept_id,min_levels_of_separation,max_levels_of_separation\n"
                                "1,1,0,0\n5,1,3,3\n3,1,1,1\n2,1,1,1\n4,1,2,2\n4,2,1,1\n5,4,1,1\n6,5,0,0\n2,6,1,1\n");
    import_folder();
    assert_parent("V//a", "V//b", KIND_DIAGNOSIS);
    assert_parent("V//b", "V//d", KIND_DIAGNOSIS);
    assert_parent("V//d", "V//e", KIND_DIAGNOSIS);
    assert_parent("V//e", "", KIND_DIAGNOSIS);

    assert_int_equal(unlink(at("concept_ancestor.csv")), 0);
    /* Both directions, an invalid step, and a circle d -> e -> d, which is cut at its smallest code. */
    put("concept_relationship.csv", "concept_id_1,concept_id_2,relationship_id,invalid_reason\n"
                                    "1,2,Is a,D\n1,3,Is a,\n4,3,Subsumes,\n4,5,is a,\n5,4,Is a,\n1,6,Maps to,\n");
    import_folder();
    assert_parent("V//a", "V//c", KIND_DIAGNOSIS);
    assert_parent("V//c", "V//d", KIND_DIAGNOSIS);
    assert_parent("V//d", "", KIND_DIAGNOSIS);
    assert_int_equal(report.codes_with_parent, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        IN_FOLDER(test_fixture_counts), IN_FOLDER(test_order_and_memory), IN_FOLDER(test_visits_and_diagnoses),
        IN_FOLDER(test_day_visit_with_timed_events), IN_FOLDER(test_icu), IN_FOLDER(test_care_sites), IN_FOLDER(test_people),
        IN_FOLDER(test_imprecise_death), IN_FOLDER(test_death_in_stay), IN_FOLDER(test_note_without_concept), IN_FOLDER(test_lab_lag), IN_FOLDER(test_values), IN_FOLDER(test_hierarchy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
