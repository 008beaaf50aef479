/* test_import_omop.c - OMOP files in, events out: every row accounted for, every trap of the format met, nothing known
 * before its time, memory bounded, hostile archives refused. */
#include "data/archive.h"
#include "data/csv.h"
#include "data/import.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <zlib.h>
#include <unistd.h>
#include <zip.h>
#include <cmocka.h>

#define FIXTURE "tests/fixtures/omop-synthea27nj.zip"

static char root[256], folder[300]; /* folder: where the current test puts its tables */

static int root_make(void **state) {
    (void)state;
    const char *tmp = getenv("TMPDIR");
    snprintf(root, sizeof root, "%s/test_import_omop-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    return mkdtemp(root) ? 0 : -1;
}

static int root_remove(void **state) {
    (void)state;
    char command[300];
    snprintf(command, sizeof command, "rm -rf '%s'", root);
    return system(command);
}

static int folder_make(void **state) {
    (void)state;
    static int n;
    snprintf(folder, sizeof folder, "%s/%d", root, n++);
    Err err;
    return dir_make(folder, &err);
}

static const char *at(const char *name) {
    static char path[4][600];
    static int  turn;
    turn = (turn + 1) % 4;
    snprintf(path[turn], sizeof path[turn], "%s/%s", folder, name);
    return path[turn];
}

static void put(const char *name, const char *text) {
    Err err;
    assert_int_equal(file_write(at(name), text, strlen(text), &err), OK);
}

static ImportReport report;

static Status import_path(const char *path, const char *out, int64_t memory, Err *err) {
    ImportOptions o = {.path = path, .out = out, .memory = memory, .max_line = 1 << 20, .max_errors = -1};
    import_report_free(&report);
    return import_omop(&o, &report, err);
}

static void import_folder(void) {
    Err err = {0};
    if (import_path(folder, at("out.h5"), 8 << 20, &err)) fail_msg("%s", err.msg);
}

static const ReportTable *table(const char *name) {
    for (int i = 0; i < report.n_tables; i++)
        if (!strcmp(report.table[i].name, name)) return &report.table[i];
    fail_msg("no table %s", name);
    return NULL;
}

static void assert_accounted(void) {
    for (int i = 0; i < report.n_tables; i++) {
        const ReportTable *t = &report.table[i];
        if (t->read != t->emitted + import_report_dropped(t))
            fail_msg("%s: %lld rows read, %lld emitted, %lld dropped", t->name, (long long)t->read, (long long)t->emitted,
                     (long long)import_report_dropped(t));
    }
}

static void time_write(char *out, size_t size, int64_t us) {
    int y, mo, d, h, mi, s;
    if (us == TIME_NONE) {
        snprintf(out, size, "-");
        return;
    }
    time_to_civil(us, &y, &mo, &d, &h, &mi, &s);
    snprintf(out, size, s ? "%04d-%02d-%02d %02d:%02d:%02d" : "%04d-%02d-%02d %02d:%02d", y, mo, d, h, mi, s);
}

/* The events of a subject, a line each: available | time | code | value comparator unit | visit. */
static char *timeline(int64_t subject) {
    static const char *const comparators[] = {"", "<", "<=", ">=", ">"};
    static char text[8192];
    Err err = {0};
    EventFile f;
    EventPatient p;
    size_t n = 0;
    text[0] = 0;
    if (event_file_open(&f, at("out.h5"), &err)) fail_msg("%s", err.msg);
    for (int64_t r = 0; r < f.n_patients; r++) {
        assert_int_equal(event_file_patient(&f, r, &p, &err), OK);
        for (int64_t i = 0; i < p.n && p.subject == subject; i++) {
            const Event *e = &p.event[i];
            char a[40], t[40], value[40] = "";
            time_write(a, sizeof a, e->available);
            time_write(t, sizeof t, e->time);
            if (!isnan(e->value)) snprintf(value, sizeof value, "%s%g%s", comparators[e->comparator], (double)e->value, f.units[e->unit]);
            n += (size_t)snprintf(text + n, sizeof text - n, "%s|%s|%s|%s|%u\n", a, e->precision == PRECISION_DAY ? "day" : t,
                                  f.codes[e->code], value, e->visit);
        }
        if (p.subject == subject) {
            char end[40];
            time_write(end, sizeof end, p.observation_end);
            n += (size_t)snprintf(text + n, sizeof text - n, "end %s\n", end);
        }
    }
    event_file_close(&f);
    return text;
}

static void assert_same_bytes(const char *a, const char *b) {
    Err err;
    char *x, *y;
    size_t nx, ny;
    assert_int_equal(file_read(a, 1u << 30, &x, &nx, &err), OK);
    assert_int_equal(file_read(b, 1u << 30, &y, &ny, &err), OK);
    assert_int_equal(nx, ny);
    assert_memory_equal(x, y, nx);
    free(x);
    free(y);
}

#define PERSON_HEAD "person_id,gender_concept_id,year_of_birth,month_of_birth,day_of_birth,race_concept_id,ethnicity_concept_id\n"
#define PERSON_1 PERSON_HEAD "1,8532,1950,6,15,8527,0\n"
#define BORN "-|-|ETHNICITY//UNKNOWN||0\n-|-|RACE//WHITE||0\n-|-|SEX//F||0\n1950-06-15 00:00|day|MEDS_BIRTH||0\n"
#define SOURCE_2020 "source_release_date\n2020-12-31\n"

/* ---- the fixture ------------------------------------------------------------------------------------------------- */

static void test_fixture_counts(void **state) {
    (void)state;
    static const struct { const char *name; int64_t rows; } expected[] = {
        {"person", 28}, {"death", 3}, {"measurement", 10040}, {"condition_occurrence", 470}, {"drug_exposure", 883},
        {"procedure_occurrence", 1649}, {"observation", 8099}, {"visit_occurrence", 1791}, {"device_exposure", 1}};
    Err err = {0};
    if (import_path(FIXTURE, at("out.h5"), 64 << 20, &err)) fail_msg("%s", err.msg);
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
    assert_int_equal(event_file_open(&f, at("out.h5"), &err), OK);
    int64_t c = event_file_code(&f, "LOINC//29463-7");
    assert_true(c >= 0 && f.code_kind[c] == KIND_LAB && strstr(f.code_name[c], "weight"));
    assert_true(event_file_code(&f, "SEX//F") >= 0 && event_file_code(&f, "VISIT//OP") >= 0);
    for (int64_t i = 0; i < f.n_codes; i++) /* encounters carry UUIDs as source values */
        assert_null(strstr(f.codes[i], "3528b5de-9f60"));
    event_file_close(&f);
}

/* Unpacks the fixture, its rows in another order, its names in another case, line ends and a byte order mark changed. */
static void fixture_shuffle(const char *to) {
    Err err = {0};
    Archive a;
    Stream s;
    assert_int_equal(archive_open(&a, FIXTURE, &err), OK);
    for (int i = 0; i < a.n; i++) {
        assert_int_equal(stream_open(&s, &a, i, &err), OK);
        char *text = xmalloc((size_t)a.entry[i].size + 1);
        size_t n = 0, got;
        do {
            assert_int_equal(stream_read(&s, text + n, (size_t)a.entry[i].size - n + 1, &got, &err), OK);
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
    Err err = {0};
    if (import_path(FIXTURE, at("a.h5"), 512 << 20, &err)) fail_msg("%s", err.msg);
    if (import_path(FIXTURE, at("b.h5"), 4 << 20, &err)) fail_msg("%s", err.msg);
    assert_same_bytes(at("a.h5"), at("b.h5"));
    char other[400];
    snprintf(other, sizeof other, "%s/omop", folder);
    assert_int_equal(dir_make(other, &err), OK);
    fixture_shuffle(other);
    if (import_path(other, at("c.h5"), 5 << 20, &err)) fail_msg("%s", err.msg);
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
    assert_string_equal(timeline(1), BORN
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
    assert_string_equal(timeline(1), BORN
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
    assert_string_equal(timeline(1), BORN
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
    assert_string_equal(timeline(1), "-|-|CARE_SITE//77||0\n" BORN "end 2020-12-31 23:59\n");
    for (int i = 2; i <= 4; i++) assert_string_equal(timeline(i), BORN "end 2020-12-31 23:59\n");
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
    assert_string_equal(timeline(1), "-|-|ETHNICITY//UNKNOWN||0\n-|-|RACE//UNKNOWN||0\n-|-|SEX//M||0\n"
                                     "1940-03-04 00:00|day|MEDS_BIRTH||0\n2018-01-01 23:59|day|OMOP//300||0\n"
                                     "2019-05-01 23:59|day|MEDS_DEATH||0\n2019-05-20 23:59|day|OMOP//301||0\n"
                                     "end 2019-05-01 23:59\n");
    assert_string_equal(timeline(2), "");
    assert_string_equal(timeline(3), "-|-|ETHNICITY//UNKNOWN||0\n-|-|RACE//UNKNOWN||0\n-|-|SEX//F||0\n"
                                     "1960-01-01 00:00|day|MEDS_BIRTH||0\n1960-01-01 23:59|day|OMOP//302||0\n"
                                     "end 2015-01-01 23:59\n");
    assert_string_equal(timeline(4), "-|-|ETHNICITY//UNKNOWN||0\n-|-|RACE//UNKNOWN||0\n-|-|SEX//UNKNOWN||0\n"
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
    Err err = {0};
    import_report_free(&report);
    if (import_omop(&o, &report, &err)) fail_msg("%s", err.msg);
    assert_string_equal(timeline(1), BORN "2020-01-01 12:00|2020-01-01 10:00|OMOP//100|1|0\n2020-01-02 23:59|day|OMOP//100|2|0\nend 2020-12-31 23:59\n");
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
    assert_string_equal(timeline(1), BORN
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
    Err err = {0};
    assert_int_equal(event_file_open(&f, at("out.h5"), &err), OK);
    assert_string_equal(f.code_name[event_file_code(&f, "LOINC//111-1")], "5\" disc test");
    assert_string_equal(f.code_parent[event_file_code(&f, "LOINC//222-2=SNOMED//386713009")], "LOINC//222-2");
    assert_string_equal(f.code_name[event_file_code(&f, "LOINC//222-2=SNOMED//386713009")], "Colour: Red");
    event_file_close(&f);
}

static void assert_parent(const char *code, const char *parent, int kind) {
    EventFile f;
    Err err = {0};
    assert_int_equal(event_file_open(&f, at("out.h5"), &err), OK);
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

/* ---- fields and records ---------------------------------------------------------------------------------------------- */

static void test_fields(void **state) {
    (void)state;
    static const struct { const char *text; int got, precision; const char *written; } times[] = {
        {"2020-02-29", 1, PRECISION_DAY, "2020-02-29 00:00"}, {"2021-02-29", -1, 0, ""}, {"20200131", 1, PRECISION_DAY, "2020-01-31 00:00"},
        {" 2020-01-01 ", 1, PRECISION_DAY, "2020-01-01 00:00"}, {"2020-01-01 00:00:00", 1, PRECISION_DAY, "2020-01-01 00:00"},
        {"2020-01-01T13:05:07.123456Z", 1, PRECISION_SECOND, "2020-01-01 13:05:07"},
        {"2020-01-01 13:05", 1, PRECISION_MINUTE, "2020-01-01 13:05"}, {"2020-01-01 13:05:00+02:00", 1, PRECISION_SECOND, "2020-01-01 13:05"},
        {"2020-01-01 24:00:00", -1, 0, ""}, {"2020-13-01", -1, 0, ""}, {"01/02/2020", -1, 0, ""}, {"", 0, 0, ""}, {"NULL", 0, 0, ""},
        {"\\N", 0, 0, ""}, {"2020", -1, 0, ""}, {"2020-01-01 x", -1, 0, ""}, {"1600-01-01", 1, PRECISION_DAY, "1600-01-01 00:00"}};
    for (size_t i = 0; i < sizeof times / sizeof *times; i++) {
        FieldTime t = {0};
        char text[40];
        if (field_time(times[i].text, &t) != times[i].got) fail_msg("field_time(\"%s\")", times[i].text);
        if (times[i].got <= 0) continue;
        time_write(text, sizeof text, t.us);
        assert_string_equal(text, times[i].written);
        assert_int_equal(t.precision, times[i].precision);
    }
    static const struct { const char *text; int got; int64_t x; } ints[] = {
        {"12", 1, 12}, {" -7 ", 1, -7}, {"33.0", 1, 33}, {"33.5", -1, 0}, {"x", -1, 0}, {"", 0, 0}, {"nan", 0, 0},
        {"9223372036854775807", -1, 0}, {"900000000000000000", 1, 900000000000000000}, {"99999999999999999999", -1, 0}, {"-", -1, 0}};
    for (size_t i = 0; i < sizeof ints / sizeof *ints; i++) {
        int64_t x = 0;
        if (field_int(ints[i].text, &x) != ints[i].got || x != ints[i].x) fail_msg("field_int(\"%s\")", ints[i].text);
    }
    static const struct { const char *text; int got, comparator; float x; } numbers[] = {
        {"1.5", 1, 0, 1.5f}, {"<5", 1, COMPARE_LT, 5}, {">= 2", 1, COMPARE_GE, 2}, {"=3", 1, 0, 3}, {"1,200", -1, 0, 0}, {"0x10", -1, 0, 0},
        {"inf", -1, 0, 0}, {"1e39", -1, 0, 0}, {">=1:640", -1, 0, 0}, {"120/80", -1, 0, 0}, {"N/A", 0, 0, 0}, {"1e", -1, 0, 0}, {"<", -1, 0, 0}};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        float x = 0;
        int comparator = 0;
        if (field_limit(numbers[i].text, &x, &comparator) != numbers[i].got) fail_msg("field_limit(\"%s\")", numbers[i].text);
        if (numbers[i].got > 0) assert_true(x == numbers[i].x && comparator == numbers[i].comparator);
    }
}

/* The records of a text as "a|b;c|d", then counts. */
static const char *records(const char *data, size_t size, size_t max_line, CsvCounts *counts) {
    static char text[4096];
    Err err = {0};
    Stream s;
    Csv c;
    int got;
    size_t n = 0;
    text[0] = 0;
    stream_memory(&s, "test", data, (int64_t)size);
    if (csv_open(&c, &s, max_line, &err)) {
        stream_close(&s);
        return err.msg[0] ? "error" : "no message";
    }
    while (!csv_next(&c, &got, &err) && got)
        for (int i = 0; i < c.n_columns; i++)
            n += (size_t)snprintf(text + n, sizeof text - n, "%.200s%s", c.field[i], i + 1 < c.n_columns ? "|" : ";");
    *counts = c.counts;
    csv_close(&c);
    stream_close(&s);
    return text;
}

static void test_records(void **state) {
    (void)state;
    static const struct { const char *text, *expected; int64_t rows, wrong, open, utf8; } cases[] = {
        {"a,b\n1,2\n3,4\n", "1|2;3|4;", 2, 0, 0, 0},
        {"\xEF\xBB\xBF" "A , b\r\n1,2\r\n\r\n3,4", "1|2;3|4;", 2, 0, 0, 0},
        {"a,b\n\"x, \"\"y\"\"\",\"two\nlines\"\n3,4\n", "x, \"y\"|two\nlines;3|4;", 2, 0, 0, 0},
        {"a\tb\n5\" disc\t\"q\"\n3\t\n", "5\" disc|q;3|;", 2, 0, 0, 0},
        {"a,b\n1\n1,2,3\n1,2,,\n", "1|2;", 3, 2, 0, 0},
        {"a,b\n\"never closed,2\n3,4\n", "3|4;", 2, 0, 1, 0},
        {"a,b\n\xE9t\xE9,caf\xC3\xA9\n", "\xC3\xA9t\xC3\xA9|caf\xC3\xA9;", 1, 0, 0, 1},
        {"a;b\n1;2\n", "1|2;", 1, 0, 0, 0},
        {"a,b\n\"1\"x,2\n", "1x|2;", 1, 0, 0, 0},
        {"a,b", "", 0, 0, 0, 0},
        {"", "error", 0, 0, 0, 0},
        {"\n\n", "error", 0, 0, 0, 0},
        {"\xFF\xFE" "a", "error", 0, 0, 0, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        CsvCounts c = {0};
        const char *got = records(cases[i].text, strlen(cases[i].text), 1 << 20, &c);
        if (strcmp(got, cases[i].expected)) fail_msg("case %zu: '%s' instead of '%s'", i, got, cases[i].expected);
        if (c.rows != cases[i].rows || c.wrong_count != cases[i].wrong || c.open_quote != cases[i].open || c.bad_utf8 != cases[i].utf8)
            fail_msg("case %zu: counts %lld %lld %lld %lld", i, (long long)c.rows, (long long)c.wrong_count, (long long)c.open_quote,
                     (long long)c.bad_utf8);
    }
    CsvCounts c = {0};
    assert_string_equal(records("a,b\n1\0002,3\n", 10, 1 << 20, &c), "1 2|3;");
    assert_int_equal(c.nul_bytes, 1);
    /* A line of 200,000 bytes under a limit of 65,536, and one just inside it. */
    char *text = xmalloc(400000);
    size_t n = (size_t)sprintf(text, "a,b\n1,");
    memset(text + n, 'x', 200000);
    n += 200000;
    n += (size_t)sprintf(text + n, "\n2,");
    memset(text + n, 'y', 60000);
    n += 60000;
    n += (size_t)sprintf(text + n, "\n3,\"");
    memset(text + n, 'z', 80000);
    n += 80000;
    n += (size_t)sprintf(text + n, "\n4,5\n");
    records(text, n, 1 << 16, &c);
    assert_int_equal(c.rows, 4);
    assert_int_equal(c.too_long + c.open_quote, 2);
    assert_true(c.open_quote >= 1);
    free(text);
}

/* ---- refusals -------------------------------------------------------------------------------------------------------- */

static void zip_make(const char *path, const char *const names[], const char *const texts[], int n, size_t zeros) {
    int code;
    char *blank = xcalloc(zeros + 1, 1);
    zip_t *z = zip_open(path, ZIP_CREATE | ZIP_TRUNCATE, &code);
    assert_non_null(z);
    for (int i = 0; i < n; i++) {
        zip_source_t *s = texts[i] ? zip_source_buffer(z, texts[i], strlen(texts[i]), 0) : zip_source_buffer(z, blank, zeros, 0);
        assert_true(zip_file_add(z, names[i], s, ZIP_FL_ENC_UTF_8) >= 0);
    }
    assert_int_equal(zip_close(z), 0);
    free(blank);
}

static void test_archives(void **state) {
    (void)state;
    static const char *const good_names[] = {"export/PERSON.csv", "__MACOSX/._PERSON.csv", "export/.hidden.csv", "export/Measurement.csv"};
    static const char *const good_texts[] = {PERSON_1, "junk", "junk",
                                             "person_id,measurement_concept_id,measurement_date\n1,7,2020-01-01\n"};
    Err err = {0};
    zip_make(at("good.zip"), good_names, good_texts, 4, 0);
    if (import_path(at("good.zip"), at("out.h5"), 8 << 20, &err)) fail_msg("%s", err.msg);
    assert_int_equal(report.n_patients, 1);

    static const char *const bad_names[][1] = {{"../person.csv"}, {"/etc/person.csv"}, {"a/../../person.csv"}, {"a\\..\\person.csv"},
                                               {"C:person.csv"}};
    for (size_t i = 0; i < sizeof bad_names / sizeof *bad_names; i++) {
        zip_make(at("bad.zip"), bad_names[i], good_texts, 1, 0);
        assert_int_equal(import_path(at("bad.zip"), at("no.h5"), 8 << 20, &err), ERR_FORMAT);
        assert_non_null(strstr(err.msg, "outside"));
    }
    static const char *const bomb_names[] = {"person.csv", "measurement.csv"};
    static const char *const bomb_texts[] = {PERSON_1, NULL};
    zip_make(at("zeros.zip"), bomb_names, bomb_texts, 2, 24 << 20);
    assert_int_equal(import_path(at("zeros.zip"), at("no.h5"), 8 << 20, &err), ERR_FORMAT);
    assert_non_null(strstr(err.msg, "zip bomb"));
    /* The same in a folder: a gzip file says nothing of its size beforehand. */
    put("person.csv", PERSON_1);
    gzFile bomb = gzopen(at("measurement.csv.gz"), "wb9");
    assert_non_null(bomb);
    gzputs(bomb, "person_id,measurement_concept_id,measurement_date\n");
    char *row = xcalloc(1, 1 << 20);
    memset(row, '1', (1 << 20) - 1);
    for (int i = 0; i < 64; i++) gzputs(bomb, row);
    free(row);
    assert_int_equal(gzclose(bomb), Z_OK);
    assert_int_equal(import_path(folder, at("no.h5"), 8 << 20, &err), ERR_FORMAT);
    assert_non_null(strstr(err.msg, "looks like a bomb"));
    unlink(at("measurement.csv.gz"));
    unlink(at("person.csv"));

    /* Damage: cut, and a flipped bit in the packed data. */
    char *data;
    size_t size;
    assert_int_equal(file_read(FIXTURE, 1u << 30, &data, &size, &err), OK);
    assert_int_equal(file_write(at("cut.zip"), data, size / 2, &err), OK);
    assert_int_equal(import_path(at("cut.zip"), at("no.h5"), 8 << 20, &err), ERR_FORMAT);
    for (size_t i = 0; i < 8; i++) data[size / 16 * (i + 1)] ^= 0x40;
    assert_int_equal(file_write(at("flip.zip"), data, size, &err), OK);
    assert_int_not_equal(import_path(at("flip.zip"), at("no.h5"), 8 << 20, &err), OK);
    free(data);
    assert_int_equal(import_path(at("absent"), at("no.h5"), 8 << 20, &err), ERR_IO);
    put("plain.txt", "not a zip");
    assert_int_equal(import_path(at("plain.txt"), at("no.h5"), 8 << 20, &err), ERR_FORMAT);
    assert_false(path_exists(at("no.h5")));
}

static void test_refusals(void **state) {
    (void)state;
    static const struct { const char *name, *text, *says; } cases[] = {
        {"note.csv", "note_id\n1\n", "no OMOP table"},
        {"person.csv", "id,year_of_birth\n1,1950\n", "person_id"},
        {"person.csv", "person_id,gender_concept_id\n1,8507\n", "year_of_birth"},
        {"person.csv", "", "header"},
        {"person.csv", PERSON_HEAD, "usable date"},
        {"measurement.csv", "person_id,measurement_concept_id\n1,5\n", "measurement_date"},
        {"visit_occurrence.csv", "person_id,visit_concept_id,visit_start_date\n1,9201,2020-01-01\n", "visit_occurrence_id"},
        {"condition_occurrence.csv", "person_id,condition_start_date\n1,2020-01-01\n", "condition_concept_id"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Err err = {0};
        folder_make(NULL);
        put(cases[i].name, cases[i].text);
        assert_int_equal(import_path(folder, at("no.h5"), 8 << 20, &err), ERR_FORMAT);
        if (!strstr(err.msg, cases[i].says)) fail_msg("case %zu: %s", i, err.msg);
        assert_false(path_exists(at("no.h5")));
    }
    Err err = {0};
    folder_make(NULL);
    put("PERSON.csv", PERSON_1);
    put("person.tsv", PERSON_1);
    assert_int_equal(import_path(folder, at("no.h5"), 8 << 20, &err), ERR_FORMAT);
    assert_non_null(strstr(err.msg, "twice"));

    /* 150 of 200 rows unreadable: too many by default, fine when told so. */
    folder_make(NULL);
    put("person.csv", PERSON_1);
    FILE *f = fopen(at("drug_exposure.csv"), "w");
    fprintf(f, "person_id,drug_concept_id,drug_exposure_start_date\n");
    for (int i = 0; i < 200; i++) fprintf(f, "1,%d,%s\n", i + 1, i < 150 ? "31.12.2019" : "2019-12-31");
    fclose(f);
    assert_int_equal(import_path(folder, at("no.h5"), 8 << 20, &err), ERR_FORMAT);
    assert_non_null(strstr(err.msg, "max-errors"));
    assert_int_equal(table("drug_exposure")->count[DROP_BAD_DATE], 150);
    ImportOptions o = {.path = folder, .out = at("yes.h5"), .memory = 8 << 20, .max_line = 1 << 20, .max_errors = 150};
    import_report_free(&report);
    assert_int_equal(import_omop(&o, &report, &err), OK);
    assert_int_equal(report.n_events, 4 + 50);
    char *json = import_report_json(&report, 1);
    assert_non_null(strstr(json, "unreadable date"));
    free(json);
}

/* ---- memory ---------------------------------------------------------------------------------------------------------- */

/* Peak memory of an import in a child, KiB. */
static long child_peak(const char *path, const char *out, int64_t memory) {
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (!pid) {
        Err err = {0};
        Status s = import_path(path, out, memory, &err);
        if (s) fprintf(stderr, "%s\n", err.msg);
        _exit(s != OK);
    }
    struct rusage usage;
    int code;
    assert_int_equal(wait4(pid, &code, 0, &usage), pid);
    assert_int_equal(code, 0);
    return usage.ru_maxrss;
}

static void test_memory(void **state) {
    (void)state;
    enum { PERSONS = 30000, ROWS =
#ifdef __SANITIZE_ADDRESS__
        60000
#else
        600000
#endif
    };
    FILE *f = fopen(at("person.csv"), "w");
    fprintf(f, PERSON_HEAD);
    for (int i = 0; i < PERSONS; i++) fprintf(f, "%d,8507,%d,1,1,8527,38003564\n", i, 1930 + i % 70);
    fclose(f);
    f = fopen(at("visit_occurrence.csv"), "w");
    fprintf(f, "visit_occurrence_id,person_id,visit_concept_id,visit_start_date,visit_end_date\n");
    for (int i = 1; i <= ROWS / 4; i++) fprintf(f, "%d,%d,9202,20%02d-01-01,20%02d-01-01\n", i, i * 7 % PERSONS, i % 20, i % 20);
    fclose(f);
    f = fopen(at("measurement.csv"), "w");
    fprintf(f, "person_id,measurement_concept_id,measurement_datetime,value_as_number,unit_concept_id,visit_occurrence_id\n");
    for (int64_t i = 1; i <= ROWS; i++)
        fprintf(f, "%lld,%lld,20%02lld-%02lld-03 10:%02lld:00,%lld.5,8840,%lld\n", (long long)(i * 7919 % PERSONS), (long long)(1000 + i % 500),
                (long long)(i % 20), (long long)(i % 12 + 1), (long long)(i % 60), (long long)(i % 100), (long long)(i % (ROWS / 4) + 1));
    fclose(f);
    f = fopen(at("concept.csv"), "w");
    fprintf(f, "concept_id\tconcept_name\tvocabulary_id\tconcept_code\n");
    for (int i = 1; i <= ROWS / 2; i++) fprintf(f, "%d\tname of concept number %d\tLOINC\t%d-1\n", i, i, i);
    fclose(f);
    long low = child_peak(folder, at("low.h5"), 8 << 20), high = child_peak(folder, at("high.h5"), 512 << 20);
    assert_same_bytes(at("low.h5"), at("high.h5"));
#ifndef __SANITIZE_ADDRESS__
    /* 600,000 measurements, 150,000 visits and 300,000 concepts take some 60 MiB when all are held; what a process needs
     * before it does anything is about 20 MiB. */
    if (low > 40000) fail_msg("%ld KiB with --memory 8M", low);
    if (high < low + 20000) fail_msg("%ld KiB with --memory 512M: the test is too small to show anything", high);
#else
    (void)low, (void)high;
#endif
}

int main(void) {
#define IN_FOLDER(test) cmocka_unit_test_setup(test, folder_make)
    const struct CMUnitTest tests[] = {
        IN_FOLDER(test_fixture_counts), IN_FOLDER(test_order_and_memory), IN_FOLDER(test_visits_and_diagnoses),
        IN_FOLDER(test_day_visit_with_timed_events), IN_FOLDER(test_icu), IN_FOLDER(test_care_sites), IN_FOLDER(test_people),
        IN_FOLDER(test_imprecise_death), IN_FOLDER(test_lab_lag),
        IN_FOLDER(test_values), IN_FOLDER(test_hierarchy), IN_FOLDER(test_fields), IN_FOLDER(test_records), IN_FOLDER(test_archives),
        IN_FOLDER(test_refusals), IN_FOLDER(test_memory),
    };
    int failed = cmocka_run_group_tests(tests, root_make, root_remove);
    import_report_free(&report);
    return failed;
}
