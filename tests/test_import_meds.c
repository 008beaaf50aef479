/* test_import_meds.c - MEDS tables as CSV in, events out; the way back is tests/test_meds.sh. */
#include "import_check.h"
#include <cmocka.h>

static Status meds_import(const char *out) { return import_with(import_meds, folder, out, 8 << 20); }

#define HEAD "subject_id,time,code,numeric_value\n"

/* What MEDS alone says: one time, no word on when things were known. */
static void test_plain(void **state) {
    (void)state;
    put("events.csv", HEAD "7,,GENDER//F,\n7,1950-02-03 00:00:00,MEDS_BIRTH,\n"
                           "7,2020-01-01 00:00:00,HOSPITAL_ADMISSION//URGENT,\n"
                           "7,2020-01-01 00:00:00,DIAGNOSIS//I10,\n" /* a date: it may have been the evening */
                           "7,2020-01-01 10:30:00,LAB//1,1.5\n7,2020-01-01 10:30:00,LAB//1,1.5\n"
                           "7,2020-01-01 11:00:00,SOMETHING,2\n7,2020-01-01 11:00:00,ELSE,\n"
                           "7,2020-01-03 00:00:00,MEDS_DEATH,\n7,2020-01-04 09:00:00,LAB//1,nan\n"
                           "-3,2021-05-05 05:05:05,LAB//1,1e40\n");
    ok(meds_import(at("e.h5")));
    assert_accounted();
    assert_string_equal(timeline("e.h5", 7), "-|-|GENDER//F||0\n1950-02-03 00:00|day|MEDS_BIRTH||0\n"
                                             "2020-01-01 00:00|day|HOSPITAL_ADMISSION//URGENT||0\n"
                                             "2020-01-01 10:30|2020-01-01 10:30|LAB//1|1.5|0\n"
                                             "2020-01-01 11:00|2020-01-01 11:00|SOMETHING|2|0\n"
                                             "2020-01-01 11:00|2020-01-01 11:00|ELSE||0\n"
                                             "2020-01-01 23:59|day|DIAGNOSIS//I10||0\n"
                                             "2020-01-03 23:59|day|MEDS_DEATH||0\n"
                                             "2020-01-04 09:00|2020-01-04 09:00|LAB//1||0\nend 2020-01-04 09:00\n");
    assert_string_equal(timeline("e.h5", -3), "2021-05-05 05:05:05|2021-05-05 05:05:05|LAB//1||0\nend 2021-05-05 05:05:05\n");
    assert_int_equal(report.n_duplicates, 1);
    assert_int_equal(report.assumed[KIND_LAB], 5);
    assert_int_equal(report.recorded[KIND_LAB], 0);
    assert_int_equal(table("events")->count[NOTE_AFTER_DEATH], 1);
    assert_int_equal(table("events")->count[NOTE_BAD_NUMBER], 1);
    assert_int_equal(table("events")->count[NOTE_MIDNIGHT], 2);
    EventFile f;
    ok(event_file_open(&f, at("e.h5"), &err));
    static const struct {
        const char *code;
        EventKind kind;
    } kinds[] = {{"GENDER//F", KIND_STATIC}, {"HOSPITAL_ADMISSION//URGENT", KIND_VISIT_START}, {"DIAGNOSIS//I10", KIND_DIAGNOSIS},
                 {"LAB//1", KIND_LAB},       {"SOMETHING", KIND_LAB},                          {"ELSE", KIND_OTHER}};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        assert_int_equal(f.code_kind[event_file_code(&f, kinds[i].code)], kinds[i].kind);
    assert_string_equal(f.source, "meds");
    event_file_close(&f);
}

/* What events_to_meds.py adds is taken as it is. */
static void test_whole(void **state) {
    (void)state;
    put("codes.csv", "code,description,parent,kind\nX//1,\"a \"\"name\"\", of two\nlines\",X,procedure\nX,,,procedure\n");
    put("units.csv", "unit\nmg/dL\n\"odd, unit\"\n");
    put("origin.csv", "source,provenance\nomop,\"{\"\"a\"\": 1}\"\n");
    put("events.csv", "subject_id,time_us,code,numeric_value,available_us,comparator,unit,precision,visit,observation_end_us,split\n"
                      "1,0,X//1,2.5,60000000,3,mg/dL,2,4,120000000,held_out\n2,-60000000,X//1,,0,0,,0,0,,\n");
    ok(meds_import(at("e.h5")));
    assert_string_equal(timeline("e.h5", 1), "1970-01-01 00:01|day|X//1|>=2.5mg/dL|4\nend 1970-01-01 00:02\n");
    assert_string_equal(timeline("e.h5", 2), "1970-01-01 00:00|1969-12-31 23:59|X//1||0\nend 1970-01-01 00:00\n");
    EventFile f;
    EventPatient p;
    ok(event_file_open(&f, at("e.h5"), &err));
    assert_int_equal(f.n_codes, 2);
    assert_int_equal(f.n_units, 3);
    assert_int_equal(f.code_kind[event_file_code(&f, "X//1")], KIND_PROCEDURE);
    assert_string_equal(f.code_name[event_file_code(&f, "X//1")], "a \"name\", of two\nlines");
    assert_string_equal(f.code_parent[event_file_code(&f, "X//1")], "X");
    assert_string_equal(f.source, "omop");
    assert_string_equal(f.provenance, "{\"a\": 1}");
    ok(event_file_patient(&f, 0, &p, &err));
    assert_int_equal(p.split, SPLIT_HELD_OUT);
    ok(event_file_patient(&f, 1, &p, &err));
    assert_int_equal(p.split, SPLIT_UNSET);
    event_file_close(&f);
}

/* What is said to have been known before it happened was known when it happened: an error to `validate` otherwise. */
static void test_known_before(void **state) {
    (void)state;
    put("events.csv", "subject_id,time_us,code,available_us\n1,60000000,A,0\n1,0,B,0\n1,-60000000,C,60000000\n");
    ok(meds_import(at("e.h5")));
    assert_accounted();
    assert_string_equal(timeline("e.h5", 1), "1970-01-01 00:00|1970-01-01 00:00|B||0\n1970-01-01 00:01|1970-01-01 00:01|A||0\n"
                                             "1970-01-01 00:01|1969-12-31 23:59|C||0\nend 1970-01-01 00:01\n");
    assert_int_equal(table("events")->count[NOTE_KNOWN_BEFORE], 1);
    assert_int_equal(report.recorded[KIND_OTHER], 3);
}

static void test_bad_rows(void **state) {
    (void)state;
    char *text = xcalloc(1, 4096);
    int n = sprintf(text, HEAD "x,2020-01-01 10:00:00,A,\n1,2020-01-01 10:00:00,,\n1,31.12.2020,A,\n1,1900-01-01 00:00:00,A,\n"
                               "1,2020-01-01 10:00:00,A\n1,2020-01-01 10:00:00,A,x\n9,2020-01-01 10:00:00,A,\n1,2020-01-01 10:00:00,");
    memset(text + n, 'c', 300);
    strcat(text, ",\n");
    put("events.csv", text);
    free(text);
    static const int64_t excluded[] = {9};
    ImportOptions o = {.path = folder, .out = at("e.h5"), .memory = 8 << 20, .max_line = 1 << 20, .max_errors = -1,
                       .excluded = excluded, .n_excluded = 1};
    ok(import_meds(&o, &report, &err));
    assert_accounted();
    static const ReportReason once[] = {DROP_PERSON_ID,        DROP_NO_CODE, DROP_BAD_DATE,  DROP_PLACEHOLDER_DATE,
                                        DROP_FIELDS, NOTE_BAD_NUMBER, DROP_LONG_CODE, DROP_EXCLUDED};
    for (size_t i = 0; i < sizeof once / sizeof *once; i++)
        if (table("events")->count[once[i]] != 1) fail_msg("%s: not once", import_report_reason_text(once[i]));
    assert_string_equal(timeline("e.h5", 1), "2020-01-01 10:00|2020-01-01 10:00|A||0\nend 2020-01-01 10:00\n");
    assert_string_equal(timeline("e.h5", 9), "");
}

static void test_refusals(void **state) {
    (void)state;
    static const struct {
        const char *name, *text, *says;
    } cases[] = {{"other.csv", "a\n1\n", "meds_to_events.py"},
                 {"events.csv", "subject_id,time\n1,2020-01-01\n", "no column code"},
                 {"events.csv", "time,code\n2020-01-01,A\n", "no column subject_id"},
                 {"events.csv", "subject_id,code\n1,A\n", "no column time_us"},
                 {"events.csv", HEAD, "no event to import"},
                 {"events.csv", HEAD "1,2020-01-01,A,\n2,2020-01-01,A,\n1,2020-01-02,A,\n", "given twice"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        put(cases[i].name, cases[i].text);
        Status status = meds_import(at("no.h5"));
        if (status != ERR_FORMAT || !strstr(err.msg, cases[i].says)) fail_msg("case %zu: %s", i, err.msg);
        assert_false(path_exists(at("no.h5")));
    }
}

int main(void) {
#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, folder_open, folder_close)
    const struct CMUnitTest tests[] = {IN_FOLDER(test_plain), IN_FOLDER(test_whole), IN_FOLDER(test_known_before),
                                       IN_FOLDER(test_bad_rows), IN_FOLDER(test_refusals)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
