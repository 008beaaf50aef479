/* test_label.c - labels: every rule on hand-made events, tasks that are wrong, and label files as risk and evaluate read
 * them. */
#include "data/label_build.h"
#include "data/linkage.h"
#include "data/oracle_cohort.h"
#include "data/oracle_file.h"
#include "tests/make_events.h"
#include <jansson.h>

/* One event of the only subject; day-only events have their date in `time`. */
typedef struct {
    int64_t     time, available; /* minutes since 2000-01-01; available 0 = time */
    const char *code;
    int         kind, visit, day_only;
    float       value;
    const char *unit;
} Row;

#define AT(d, h) ((int64_t)(d) * DAY + (h) * 60)
#define OPEN(t, code, visit) {t, 0, code, KIND_VISIT_START, visit, 0, NAN, NULL}
#define CLOSE(t, visit) {t, 0, "VISIT_END", KIND_VISIT_END, visit, 0, NAN, NULL}
#define DX(t, code) {t, 0, code, KIND_DIAGNOSIS, 0, 0, NAN, NULL}
#define DEATH(t) {t, 0, "MEDS_DEATH", KIND_DEATH, 0, 0, NAN, NULL}
#define END {0, 0, NULL, 0, 0, 0, 0, NULL}

static void rows_write(const char *path, const Row *row, int64_t observed_minute) {
    EventWriter *w;
    MUST(event_writer_open(&w, path, 64 << 20, err));
    for (; row->code; row++) {
        Event e = {.subject = 1, .visit = (uint32_t)row->visit, .value = row->kind == KIND_LAB ? row->value : NAN};
        MUST(event_writer_code(w, row->code, row->kind, NULL, NULL, &e.code, err));
        if (row->unit) MUST(event_writer_unit(w, row->unit, &e.unit, err));
        e.time = made_us(row->time);
        e.available = made_us(row->available ? row->available : row->time);
        e.precision = row->day_only ? PRECISION_DAY : PRECISION_MINUTE;
        MUST(event_writer_add(w, &e, err));
    }
    MUST(event_writer_subject(w, 1, observed_minute == UNDATED ? TIME_NONE : made_us(observed_minute), SPLIT_TRAIN, err));
    int64_t p, n, d;
    MUST(event_writer_close(w, "test", "{}", &p, &n, &d, err));
}

/* "outcome@index(+minutes to the event) ...", then "| reason n" for each exclusion; compared with `expected`. */
static void assert_labels(const char *task, const Row *row, int64_t observed, const char *expected) {
    LabelTask   t;
    EventFile   f;
    EventPatient p;
    LabelCounts counts = {0};
    LabelRow   *out = NULL;
    int64_t     room = 0;
    rows_write(at("label.h5"), row, observed);
    MUST(label_task_parse(&t, task, strlen(task), "test", err));
    MUST(event_file_open(&f, at("label.h5"), err));
    MUST(event_file_patient(&f, 0, &p, err));
    uint32_t   *marks = label_marks(&t, &f);
    LabelRecord r = {made_us(0), TIME_NONE, made_us(AT(4000, 0)), NULL, 0};
    int64_t     n = label_patient(&t, &f, marks, &p, &r, &out, &room, &counts);
    char       *text = NULL;
    size_t      size;
    FILE       *s = open_memstream(&text, &size);
    for (int64_t i = 0; i < n; i++) {
        fprintf(s, "%s%d@%lld", i ? " " : "", out[i].outcome, (long long)((out[i].index_us - made_us(0)) / US_PER_MINUTE));
        if (!isnan(out[i].event_minutes)) fprintf(s, "(+%g)", out[i].event_minutes);
    }
    for (int i = 0; i < EXCLUSIONS; i++)
        if (counts.excluded[i]) fprintf(s, "| %s %lld", EXCLUSION_NAME[i], (long long)counts.excluded[i]);
    fclose(s);
    assert_string_equal(text, expected);
    free(text);
    free(out);
    free(marks);
    event_file_close(&f);
    label_task_free(&t);
}

#define TASK(index, codes, horizon, more) \
    "{\"name\": \"t\", \"index\": \"" index "\", \"outcome\": {\"codes\": [" codes "]}, \"horizon\": \"" horizon "\"" more "}"
#define IN "\"VISIT//IP\", \"VISIT//IN\""

/* ---- horizon, censoring, competing ends ---------------------------------------------------------------------------- */

static void test_horizon_and_censoring(void **state) {
    (void)state;
    const char *task = TASK("visit-end", "\"ICD10CM//I50\"", "10d", "");
    Row         none[] = {OPEN(0, "VISIT//OUT", 1), CLOSE(10, 1), END};
    assert_labels(task, none, 10 + AT(10, 0), "0@10");
    assert_labels(task, none, 9 + AT(10, 0), "-1@10"); /* a minute short of the horizon */
    assert_labels(task, none, UNDATED, "-1@10");       /* observed to the last event */
    assert_labels(task, none, 5, "| not observed at the index 1");
    Row last[] = {OPEN(0, "VISIT//OUT", 1), CLOSE(10, 1), DX(10 + AT(10, 0), "ICD10CM//I50.9"), END};
    assert_labels(task, last, UNDATED, "1@10(+14400)"); /* the last minute counts */
    Row late[] = {OPEN(0, "VISIT//OUT", 1), CLOSE(10, 1), DX(11 + AT(10, 0), "ICD10CM//I50.9"), END};
    assert_labels(task, late, UNDATED, "0@10");
    Row other[] = {OPEN(0, "VISIT//OUT", 1), CLOSE(10, 1), DX(50, "ICD10CM//I501"), END}; /* no code boundary */
    assert_labels(task, other, AT(20, 0), "0@10");
    Row same[] = {OPEN(0, "VISIT//OUT", 1), DX(10, "ICD10CM//I50"), CLOSE(10, 1), END}; /* known at the index */
    assert_labels(task, same, AT(20, 0), "0@10");
    Row twice[] = {OPEN(0, "VISIT//OUT", 1), CLOSE(10, 1), DX(100, "ICD10CM//I50.1"), DX(50, "ICD10CM//I50.2"), END};
    assert_labels(task, twice, UNDATED, "1@10(+40)"); /* the first of them */
    assert_labels(task, (Row[]){DX(5, "X"), END}, UNDATED, "| no index 1");
    /* Ten days after the latest of times are not before it. */
    const int64_t end = (INT64_MAX - made_us(0)) / US_PER_MINUTE - 5;
    char          expected[40];
    snprintf(expected, sizeof expected, "-1@%lld", (long long)end);
    assert_labels(task, (Row[]){OPEN(end - 9, "VISIT//OUT", 1), CLOSE(end, 1), END}, UNDATED, expected);
}

static void test_competing_ends(void **state) {
    (void)state;
    const char *task = TASK("visit-end", "\"ICD10CM//I50\"", "10d", "");
    Row dead[] = {OPEN(0, "VISIT//OUT", 1), CLOSE(10, 1), DEATH(500), END};
    assert_labels(task, dead, UNDATED, "0@10"); /* death without it is a negative, not censored */
    assert_labels(TASK("visit-end", "\"MEDS_DEATH\"", "10d", ""), dead, UNDATED, "1@10(+490)");
    Row before[] = {OPEN(0, "VISIT//OUT", 1), DEATH(5), CLOSE(10, 1), END};
    assert_labels(task, before, AT(30, 0), "| dead at the index 1");
    const char *stopped = TASK("visit-end", "\"ICD10CM//I50\"", "10d", ", \"stops\": [{\"codes\": [\"CPT4\"]}]");
    Row stop[] = {OPEN(0, "VISIT//OUT", 1), CLOSE(10, 1), {100, 0, "CPT4//1", KIND_PROCEDURE, 0, 0, NAN, NULL}, DX(200, "ICD10CM//I50"), END};
    assert_labels(stopped, stop, UNDATED, "0@10"); /* "CPT4" ends before a / */
    assert_labels(task, stop, AT(20, 0), "1@10(+190)");
    Row after[] = {OPEN(0, "VISIT//OUT", 1), CLOSE(10, 1), DX(100, "ICD10CM//I50"), {200, 0, "CPT4//1", KIND_PROCEDURE, 0, 0, NAN, NULL}, END};
    assert_labels(stopped, after, AT(20, 0), "1@10(+90)");
}

static void test_first(void **state) {
    (void)state;
    Row row[] = {OPEN(0, "VISIT//OUT", 1), CLOSE(10, 1), DX(20, "ICD10CM//I50.9"), OPEN(30, "VISIT//OUT", 2), CLOSE(40, 2), DX(60, "ICD10CM//I50.9"), END};
    assert_labels(TASK("visit-end", "\"ICD10CM//I50\"", "10d", ", \"first\": true"), row, AT(20, 0), "1@10(+10)| had it before 1");
    assert_labels(TASK("visit-end", "\"ICD10CM//I50\"", "10d", ", \"first\": false"), row, AT(20, 0), "1@10(+10) 1@40(+20)");
}

/* What happened before the index and became known after it is no outcome, and is a prior case. */
static void test_known_late(void **state) {
    (void)state;
    Row billed[] = {OPEN(0, "VISIT//OUT", 1), CLOSE(100, 1), {50, 900, "ICD10CM//I50.9", KIND_DIAGNOSIS, 0, 0, NAN, NULL}, END};
    assert_labels(TASK("visit-end", "\"ICD10CM//I50\"", "10d", ""), billed, AT(20, 0), "0@100");
    assert_labels(TASK("visit-end", "\"ICD10CM//I50\"", "10d", ", \"first\": true"), billed, AT(20, 0), "| had it before 1");
    /* Only a date: at the end of that day, unless it became known earlier that day. */
    Row dated[] = {OPEN(0, "VISIT//OUT", 1), CLOSE(100, 1), {AT(0, 0), 1439, "ICD10CM//I50.9", KIND_DIAGNOSIS, 0, 1, NAN, NULL}, END};
    assert_labels(TASK("visit-end", "\"ICD10CM//I50\"", "10d", ""), dated, AT(20, 0), "1@100(+1339)");
    Row closed[] = {OPEN(0, "VISIT//OUT", 1), CLOSE(100, 1), {AT(0, 0), 100, "ICD10CM//I50.9", KIND_DIAGNOSIS, 0, 1, NAN, NULL}, END};
    assert_labels(TASK("visit-end", "\"ICD10CM//I50\"", "10d", ""), closed, AT(20, 0), "0@100");
}

/* ---- index times --------------------------------------------------------------------------------------------------- */

static void test_discharges(void **state) {
    (void)state;
    const char *task = TASK("discharge", IN, "30d", ", \"inpatient\": [" IN "]");
    Row row[] = {OPEN(0, "VISIT//OUT", 1),           CLOSE(10, 1),
                 OPEN(AT(1, 0), "VISIT//IP", 2),     CLOSE(AT(3, 0), 2),
                 OPEN(AT(20, 0), "VISIT//OUT", 3),   CLOSE(AT(20, 1), 3),
                 OPEN(AT(25, 0), "VISIT//IN", 4),    CLOSE(AT(26, 0), 4), END};
    assert_labels(task, row, AT(100, 0), "1@4320(+31680) 0@37440");
    assert_labels(task, row, AT(40, 0), "1@4320(+31680) -1@37440");
    Row died[] = {OPEN(0, "VISIT//IP", 1), DEATH(AT(1, 0)), CLOSE(AT(1, 0), 1), END};
    assert_labels(task, died, UNDATED, "| dead at the index 1");
    /* Without visit numbers, the end that comes next closes the stay. */
    Row bare[] = {OPEN(0, "VISIT//IP", 0), CLOSE(AT(1, 0), 0), OPEN(AT(2, 0), "VISIT//OUT", 0), CLOSE(AT(2, 1), 0), END};
    assert_labels(task, bare, AT(100, 0), "0@1440");
    assert_labels(TASK("visit-end", IN, "30d", ""), bare, AT(100, 0), "0@1440 0@2940");
}

static void test_in_hospital_mortality(void **state) {
    (void)state;
    const char *task = TASK("admission+24h", "\"MEDS_DEATH\"", "90d", ", \"until\": \"discharge\"");
    Row alive[] = {OPEN(0, "VISIT//IP", 1), CLOSE(AT(3, 0), 1), DEATH(AT(4, 0)), END};
    assert_labels(task, alive, UNDATED, "0@1440"); /* died after discharge */
    Row inside[] = {OPEN(0, "VISIT//IP", 1), DEATH(AT(2, 0)), END};
    assert_labels(task, inside, UNDATED, "1@1440(+1440)");
    Row at_end[] = {OPEN(0, "VISIT//IP", 1), CLOSE(AT(3, 0), 1), DEATH(AT(3, 0)), END};
    assert_labels(task, at_end, UNDATED, "1@1440(+2880)");
    /* Discharged dead at noon; the death has a date only. */
    Row dated[] = {OPEN(0, "VISIT//IP", 1), CLOSE(AT(3, 12), 1), {AT(3, 0), AT(3, 23), "MEDS_DEATH", KIND_DEATH, 0, 1, NAN, NULL}, END};
    assert_labels(task, dated, AT(4, 0), "1@1440(+4260)");
    Row next_day[] = {OPEN(0, "VISIT//IP", 1), CLOSE(AT(3, 12), 1), {AT(4, 0), AT(4, 23), "MEDS_DEATH", KIND_DEATH, 0, 1, NAN, NULL}, END};
    assert_labels(task, next_day, AT(5, 0), "0@1440");
    Row brief[] = {OPEN(0, "VISIT//IP", 1), CLOSE(AT(0, 20), 1), END};
    assert_labels(task, brief, AT(50, 0), "| stay over at the index 1");
    Row early[] = {OPEN(0, "VISIT//IP", 1), DEATH(AT(0, 5)), END};
    assert_labels(task, early, UNDATED, "| dead at the index 1");
    Row open_end[] = {OPEN(0, "VISIT//IP", 1), DX(AT(5, 0), "X"), END};
    assert_labels(task, open_end, AT(6, 0), "-1@1440"); /* still in hospital when observation ends */
    Row clinic[] = {OPEN(0, "VISIT//OUT", 1), CLOSE(AT(3, 0), 1), END};
    assert_labels(task, clinic, AT(50, 0), "| no index 1");
}

/* A row is a patient at an index time, however many visits end then; stays that begin together are two. */
static void test_index_times_are_told_once(void **state) {
    (void)state;
    Row day[] = {OPEN(0, "VISIT//OUT", 1), OPEN(5, "VISIT//OUT", 2), CLOSE(10, 1), CLOSE(10, 2), DX(40, "ICD10CM//I50"), OPEN(50, "VISIT//OUT", 3), CLOSE(60, 3), END};
    assert_labels(TASK("visit-end", "\"ICD10CM//I50\"", "10d", ""), day, AT(20, 0), "1@10(+30) 0@60");
    Row two[] = {OPEN(0, "VISIT//IP", 1), OPEN(0, "VISIT//IN", 2), CLOSE(AT(2, 0), 1), DEATH(AT(3, 0)), CLOSE(AT(3, 0), 2), END};
    assert_labels(TASK("admission+24h", "\"MEDS_DEATH\"", "90d", ", \"until\": \"discharge\""), two, UNDATED, "1@1440(+2880) 0@1440");
}

static void test_ages_and_last_year(void **state) {
    (void)state;
    Row row[] = {{-AT(23741, 6), 0, "MEDS_BIRTH", KIND_BIRTH, 0, 0, NAN, NULL}, OPEN(0, "VISIT//OUT", 1), CLOSE(10, 1), DX(AT(5, 0), "ICD10CM//I50"), END};
    /* 65 x 365.25 d after birth is noon of day 0 minus ... : 23741.25 d. */
    assert_labels(TASK("age:65", "\"ICD10CM//I50\"", "30d", ""), row, AT(100, 0), "1@0(+7200)");
    assert_labels(TASK("age:64", "\"ICD10CM//I50\"", "30d", ""), row, AT(100, 0), "| index before the record 1");
    assert_labels(TASK("age:70", "\"ICD10CM//I50\"", "30d", ""), row, AT(100, 0), "| not observed at the index 1");
    const char *task = TASK("last-year", "\"MEDS_DEATH\"", "365d", "");
    Row         living[] = {OPEN(0, "VISIT//OUT", 1), CLOSE(10, 1), END};
    assert_labels(task, living, AT(1000, 0), "0@914400");
    assert_labels(task, living, AT(300, 0), "| index before the record 1");
    /* The dead are looked at a year before the file's last day (4000), not a year before they died. */
    Row dead[] = {OPEN(0, "VISIT//OUT", 1), CLOSE(10, 1), DEATH(AT(3700, 0)), END};
    assert_labels(task, dead, AT(3700, 0), "1@5234400(+93600)");
    Row long_dead[] = {OPEN(0, "VISIT//OUT", 1), CLOSE(10, 1), DEATH(AT(3000, 0)), END};
    assert_labels(task, long_dead, AT(3000, 0), "| dead at the index 1");
}

/* ---- values and durations ------------------------------------------------------------------------------------------ */

static void test_values(void **state) {
    (void)state;
    const char *task = "{\"name\": \"t\", \"kind\": \"value\", \"index\": \"visit-end\", \"horizon\": \"10d\","
                       " \"outcome\": {\"codes\": [\"LOINC//2823-3\"], \"above\": 5.5, \"unit\": \"mmol/L\"}}";
    Row row[] = {OPEN(0, "VISIT//OUT", 1), CLOSE(10, 1), {20, 0, "LOINC//2823-3", KIND_LAB, 0, 0, 5.5f, "mmol/L"},
                 {30, 0, "LOINC//2823-3", KIND_LAB, 0, 0, 7.0f, "mg/dL"}, {40, 0, "LOINC//2823-3", KIND_LAB, 0, 0, NAN, "mmol/L"},
                 {50, 0, "LOINC//2823-3", KIND_LAB, 0, 0, 5.6f, "mmol/L"}, END};
    assert_labels(task, row, AT(20, 0), "1@10(+40)");
    row[5] = (Row)END;
    assert_labels(task, row, AT(20, 0), "0@10");
}

static void test_durations(void **state) {
    (void)state;
    const char *task = "{\"name\": \"t\", \"kind\": \"duration\", \"index\": \"admission+24h\", \"longer_than\": \"7d\"}";
    Row longer[] = {OPEN(0, "VISIT//IP", 1), CLOSE(AT(7, 1), 1), END};
    assert_labels(task, longer, UNDATED, "1@1440(+8640)");
    Row exact[] = {OPEN(0, "VISIT//IP", 1), CLOSE(AT(7, 0), 1), END};
    assert_labels(task, exact, UNDATED, "0@1440");
    Row dead[] = {OPEN(0, "VISIT//IP", 1), DEATH(AT(3, 0)), END};
    assert_labels(task, dead, UNDATED, "0@1440");
    Row unknown[] = {OPEN(0, "VISIT//IP", 1), DX(AT(3, 0), "X"), END};
    assert_labels(task, unknown, AT(4, 0), "-1@1440");
    assert_labels(task, unknown, AT(8, 0), "1@1440(+8640)");
}

/* ---- published variants -------------------------------------------------------------------------------------------- */

static void test_ends_of_days(void **state) {
    (void)state;
    const char *stay = "{\"name\": \"t\", \"kind\": \"duration\", \"index\": \"admission-day\", \"longer_than\": \"7d\"}";
    Row longer[] = {OPEN(600, "VISIT//IP", 1), CLOSE(600 + AT(7, 1), 1), END};
    assert_labels(stay, longer, UNDATED, "1@1439(+9241)"); /* 7 d after 10:00, told at 23:59 */
    Row day[] = {OPEN(600, "VISIT//IP", 1), CLOSE(1400, 1), END};
    assert_labels(stay, day, AT(20, 0), "| stay over at the index 1");
    const char *again = TASK("discharge-day", IN, "30d", ", \"after\": \"1min\"");
    Row back[] = {OPEN(0, "VISIT//IP", 1), CLOSE(600, 1), OPEN(900, "VISIT//IP", 2), CLOSE(AT(2, 0), 2), END};
    assert_labels(again, back, AT(60, 0), "0@4319| admitted again that day 1");
    Row later[] = {OPEN(0, "VISIT//IP", 1), CLOSE(600, 1), OPEN(AT(5, 0), "VISIT//IP", 2), END};
    assert_labels(again, later, AT(60, 0), "1@1439(+5761)");
    Row soon[] = {OPEN(0, "VISIT//IP", 1), CLOSE(600, 1), OPEN(1440, "VISIT//IP", 2), END};
    assert_labels(again, soon, AT(60, 0), "0@1439"); /* within the minute */
    const char *unit = TASK("admission-day", "\"ICU_IN\"", "90d", ", \"until\": \"discharge\", \"first\": \"stay\"");
    Row twice[] = {OPEN(0, "VISIT//IP", 1), {5, 0, "ICU_IN", KIND_TRANSFER, 0, 1, NAN, NULL}, CLOSE(AT(2, 0), 1), OPEN(AT(9, 0), "VISIT//IP", 2),
                   {AT(11, 0), 0, "ICU_IN", KIND_TRANSFER, 0, 2, NAN, NULL}, CLOSE(AT(12, 0), 2), END};
    assert_labels(unit, twice, AT(60, 0), "1@14399(+1441)| had it before 1"); /* of this stay, not of an earlier one */
}

/* The writer takes any time: what is reckoned from the latest, or the earliest, does not wrap round. */
static void test_absurd_times(void **state) {
    (void)state;
    const int64_t last = (INT64_MAX - made_us(0)) / US_PER_MINUTE, first = INT64_MIN / US_PER_MINUTE;
    const char *task = TASK("visit-end", "\"ICD10CM//I50\"", "10d", "");
    Row far[] = {OPEN(0, "VISIT//OUT", 1), CLOSE(10, 1), {last, 0, "MEDS_DEATH", KIND_DEATH, 0, 1, NAN, NULL}, END};
    assert_labels(task, far, AT(60, 0), "0@10"); /* once dead before the index */
    Row early[] = {{first, 0, "ICD10CM//I50", KIND_DIAGNOSIS, 0, 1, NAN, NULL}, OPEN(0, "VISIT//OUT", 1), CLOSE(10, 1), END};
    assert_labels(TASK("visit-end", "\"ICD10CM//I50\"", "10d", ", \"first\": true"), early, AT(60, 0), "| had it before 1");
    const char *day = TASK("admission-day", "\"ICD10CM//I50\"", "10d", "");
    Row stay[] = {OPEN(last, "VISIT//IP", 1), END};
    assert_labels(day, stay, UNDATED, "| not observed at the index 1");
    /* Times before 1970: the span from them to the latest. */
    Row old[] = {OPEN(0, "VISIT//OUT", 1), CLOSE(10, 1), DEATH(last), END};
    for (int i = 0; i < 2; i++) old[i].time -= AT(40 * 365, 0);
    LabelTask t;
    EventFile f;
    EventPatient p;
    LabelCounts counts = {0};
    LabelRow *out = NULL;
    int64_t room = 0;
    rows_write(at("label.h5"), old, AT(60, 0));
    MUST(label_task_parse(&t, task, strlen(task), "test", err));
    MUST(event_file_open(&f, at("label.h5"), err));
    MUST(event_file_patient(&f, 0, &p, err));
    uint32_t *marks = label_marks(&t, &f);
    LabelRecord r = {made_us(-AT(40 * 365, 0)), TIME_NONE, made_us(0), NULL, 0};
    assert_int_equal(label_patient(&t, &f, marks, &p, &r, &out, &room, &counts), 1);
    assert_true(out[0].death_minutes > 1e11);
    free(out);
    free(marks);
    event_file_close(&f);
    label_task_free(&t);
}

static void test_window_begins_later(void **state) {
    (void)state;
    const char *task = TASK("visit-end", "\"ICD10CM//I50\"", "10d", ", \"after\": \"1d\", \"first\": true");
    Row early[] = {OPEN(0, "VISIT//OUT", 1), CLOSE(10, 1), DX(10 + AT(1, 0), "ICD10CM//I50"), DX(AT(5, 0), "ICD10CM//I50"), END};
    assert_labels(task, early, AT(60, 0), "0@10"); /* the first was too soon, what follows it is none */
    Row late[] = {OPEN(0, "VISIT//OUT", 1), CLOSE(10, 1), DX(11 + AT(1, 0), "ICD10CM//I50"), END};
    assert_labels(task, late, AT(60, 0), "1@10(+1441)");
    assert_labels(TASK("visit-end", "\"ICD10CM//I50\"", "10d", ", \"after\": \"1d\""), early, AT(60, 0), "1@10(+7190)");
}

static void test_censored_as_negatives(void **state) {
    (void)state;
    Row none[] = {OPEN(0, "VISIT//OUT", 1), CLOSE(10, 1), END};
    assert_labels(TASK("visit-end", "\"ICD10CM//I50\"", "10d", ", \"censored\": \"negative\""), none, 9 + AT(10, 0), "0@10");
    assert_labels(TASK("visit-end", "\"ICD10CM//I50\"", "10d", ", \"censored\": \"excluded\""), none, 9 + AT(10, 0), "-1@10");
}

static void test_before_results(void **state) {
    (void)state;
    const char *task = "{\"name\": \"t\", \"kind\": \"value\", \"index\": \"before-result\", \"outcome\": {\"codes\": [\"LOINC//2823-3\"], "
                       "\"above\": 5.5, \"unit\": \"mmol/L\"}, \"horizon\": \"1min\"}";
    Row row[] = {{0, 0, "LOINC//2823-3", KIND_LAB, 0, 0, 6.0f, "mmol/L"}, {20, 0, "LOINC//2823-3", KIND_LAB, 0, 0, 5.5f, "mmol/L"},
                 {30, 0, "LOINC//2823-3", KIND_LAB, 0, 0, 7.0f, "mg/dL"}, {40, 0, "LOINC//2823-3", KIND_LAB, 0, 0, NAN, "mmol/L"},
                 {50, 0, "LOINC//2823-3", KIND_LAB, 0, 0, 5.6f, "mmol/L"}, END};
    assert_labels(task, row, UNDATED, "0@19 1@49(+1)| index before the record 1");
    /* Drawn an hour before the laboratory tells what it is: the result is what follows the index. */
    Row drawn[] = {OPEN(0, "VISIT//OUT", 1), {20, 80, "LOINC//2823-3", KIND_LAB, 0, 0, 5.6f, "mmol/L"}, {90, 150, "LOINC//2823-3", KIND_LAB, 0, 0, 5.0f, "mmol/L"}, END};
    assert_labels(task, drawn, AT(1, 0), "1@79(+1) 0@149");
}

/* ---- tasks --------------------------------------------------------------------------------------------------------- */

static void test_wrong_tasks(void **state) {
    (void)state;
    static const char *const wrong[][2] = {
        {"", "not JSON"},
        {"[]", "a task is a JSON object"},
        {"{\"index\": \"discharge\"}", "\"name\""},
        {"{\"name\": \"a/b\", \"index\": \"discharge\"}", "\"name\""},
        {"{\"name\": \"..\", \"index\": \"discharge\"}", "\"name\""},
        {"{\"name\": \"t\", \"indx\": \"discharge\"}", "unknown key \"indx\""},
        {"{\"name\": \"t\", \"name\": \"t\"}", "duplicate"},
        {TASK("tomorrow", "\"X\"", "1d", ""), "found \"tomorrow\""},
        {TASK("admission+x", "\"X\"", "1d", ""), "admission+x"},
        {TASK("age:sixty", "\"X\"", "1d", ""), "age:sixty"},
        {TASK("discharge", "", "1d", ""), "list of code patterns"},
        {TASK("discharge", "3", "1d", ""), "each of them text"},
        {TASK("discharge", "\"X\"", "soon", ""), "\"horizon\""},
        {TASK("discharge", "\"X\"", "-1d", ""), "\"horizon\""},
        {TASK("discharge", "\"X\"", "1e300d", ""), "\"horizon\""},
        {TASK("discharge", "\"X\"", "1d", ", \"until\": \"discharge\""), "admission+"},
        {TASK("discharge", "\"X\"", "1d", ", \"until\": \"noon\""), "\"until\""},
        {TASK("discharge", "\"X\"", "1d", ", \"first\": 1"), "\"first\""},
        {TASK("discharge", "\"X\"", "1d", ", \"kind\": \"value\""), "bounded"},
        {TASK("discharge", "\"X\"", "1d", ", \"kind\": \"guess\""), "\"kind\""},
        {TASK("discharge", "\"X\"", "1d", ", \"kind\": [\"value\"]"), "\"kind\""},
        {TASK("discharge", "\"X\"", "1d", ", \"note\": 3"), "\"note\""},
        {TASK("discharge", "\"X\"", "1d", ", \"censored\": \"maybe\""), "\"censored\""},
        {TASK("discharge", "\"X\"", "1d", ", \"after\": \"1d\""), "\"after\""},
        {TASK("discharge", "\"X\"", "1d", ", \"first\": \"stay\""), "\"index\""},
        {TASK("before-result", "\"X\"", "1d", ""), "\"kind\""},
        {TASK("discharge", "\"X\"", "1d", ", \"stops\": [{}]"), "list of code patterns"},
        {"{\"name\": \"t\", \"index\": \"discharge\", \"horizon\": \"1d\", \"outcome\": {\"codes\": [\"X\"], \"above\": 2, \"below\": 1}}", "\"above\""},
        {"{\"name\": \"t\", \"kind\": \"duration\", \"index\": \"admission+24h\", \"longer_than\": \"12h\"}", "longer_than"},
        {"{\"name\": \"t\", \"kind\": \"duration\", \"index\": \"admission-day\", \"longer_than\": \"12h\"}", "longer_than"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        LabelTask t;
        Err       problem = {0};
        Status    s = label_task_parse(&t, wrong[i][0], strlen(wrong[i][0]), "t.json", &problem);
        if (!s || !strstr(problem.msg, wrong[i][1])) fail_msg("task %zu: status %d, \"%s\" does not say %s", i, s, problem.msg, wrong[i][1]);
    }
    /* Another index may be given for a task, which has to fit it, too. */
    static const struct {
        const char *index;
        int64_t horizon; /* 0: refused */
    } other[] = {{"admission+48h", 0}, {"admission+12h", 24 * 60}, {"admission-day", 36 * 60}, {"discharge", 0}, {"before-result", 0}};
    const char *longer = "{\"name\": \"t\", \"kind\": \"duration\", \"index\": \"admission+24h\", \"longer_than\": \"36h\"}";
    for (size_t i = 0; i < sizeof other / sizeof *other; i++) {
        LabelTask t;
        Err       problem = {0};
        MUST(label_task_parse(&t, longer, strlen(longer), "t.json", err));
        MUST(label_index_parse(&t, other[i].index, "--index", err));
        assert_int_equal(label_index_check(&t, "--index", &problem), other[i].horizon ? OK : ERR_FORMAT);
        if (other[i].horizon) assert_int_equal(t.horizon_minutes, other[i].horizon);
        label_task_free(&t);
    }
    static const char *const shorthand[] = {"x", "x=", "=Y", "a/b=Y"};
    for (int i = 0; i < 4; i++) {
        LabelTask t;
        Err       problem = {0};
        assert_int_equal(label_task_shorthand(&t, shorthand[i], DAY, &problem), ERR_USAGE);
    }
}

/* A task written out and read again is the same task; the built-in ones are sound. */
static void test_tasks_round_trip(void **state) {
    (void)state;
    static const char *const file[] = {"in_hospital_mortality", "readmission_30d", "death_1y", "admission_1y", "first_diagnosis_1y",
                                       "ehrshot/long_los", "ehrshot/readmission_30d", "ehrshot/icu_transfer", "ehrshot/new_lupus", "ehrshot/lab_anemia",
                                       "meds_dev/acidosis_24h", "meds_dev/anemia_24h", "meds_dev/creatinine_24h", "meds_dev/hyponatremia_24h",
                                       "meds_dev/hypotension_24h", "meds_dev/leukocytosis_24h", "meds_dev/thrombocytopenia_24h"};
    for (size_t i = 0; i < sizeof file / sizeof *file; i++) {
        char     *path = xasprintf("scripts/tasks/%s.json", file[i]), *json;
        size_t    size;
        LabelTask t;
        MUST(file_read(path, 1 << 20, &json, &size, err));
        MUST(label_task_parse(&t, json, size, path, err));
        const char *slash = strchr(file[i], '/'), *short_name = slash ? strchr(t.name, '_') : NULL;
        if (!slash) assert_string_equal(t.name, file[i]);
        else assert_true(short_name && !strcmp(short_name + 1, slash + 1));
        if (slash && file[i][0] == 'm') assert_true(t.kind == LABEL_VALUE && t.outcome.bounded && t.first == FIRST_OF_STAY && t.until_discharge);
        assert_int_equal(t.inpatient.n, 3);
        char *once = label_task_format(&t);
        label_task_free(&t);
        MUST(label_task_parse(&t, once, strlen(once), "again", err));
        char *twice = label_task_format(&t);
        assert_string_equal(once, twice);
        label_task_free(&t);
        free(once);
        free(twice);
        free(json);
        free(path);
    }
}

/* ---- through files ------------------------------------------------------------------------------------------------- */

static LabelOptions oracle_options(void) {
    static int made;
    if (!made++) {
        OracleCohortOptions o = {.patients = 200, .seed = 4, .max_tokens = 500, .risk_samples = 8};
        MUST(oracle_cohort_draw(&o, at("o.h5"), NULL, NULL, err));
        char *json = oracle_vocabulary_format(0);
        MUST(file_write(at("o.json"), json, strlen(json), err));
        free(json);
        TokenizeOptions t = made_options(at("o.h5"), at("o"));
        t.vocabulary = at("o.json");
        TokenizeReport r = made_tokenize(t);
        tokenize_report_free(&r);
    }
    return (LabelOptions){.events = at("o.h5"), .dataset = at("o"), .split = -1};
}

static LabelTask shorthand(const char *outcome, const char *index) {
    LabelTask t;
    MUST(label_task_shorthand(&t, outcome, 365 * DAY, err));
    MUST(label_index_parse(&t, index, "--index", err));
    return t;
}

static void test_label_file(void **state) {
    (void)state;
    LabelOptions o = oracle_options();
    LabelTask    t = shorthand("heart_failure=ICD10CM//I50", "oracle");
    LabelCounts  counts;
    Table        table;
    LabelFile    f;
    MUST(label_build(&table, &t, &o, &counts, err));
    assert_int_equal(t.first, 1); /* a diagnosis */
    assert_true(counts.eligible > 5 && counts.eligible == counts.positive + counts.negative && counts.expressible == counts.positive);
    assert_int_equal(counts.eligible + counts.excluded[EXCLUDED_PRIOR] + counts.excluded[EXCLUDED_NO_INDEX], counts.patients);
    MUST(table_write_h5(&table, at("hf.h5"), err));
    table_free(&table);
    MUST(label_file_open(&f, at("hf.h5"), err));
    assert_string_equal(f.name, "heart_failure");
    assert_int_equal(f.horizon_minutes, 365 * DAY);
    assert_int_equal(f.n_codes, 1);
    assert_string_equal(f.codes[0], "ICD10CM//I50");
    assert_int_equal(f.n_stops, 0);
    assert_int_equal(f.table.n, counts.eligible);
    assert_true(f.after_minutes == 0 && !f.after_ends);
    /* The stored risks of this outcome, in the order of the events file; rows of the table are a subset of them. */
    EventFile  events;
    OracleFile oracle;
    MUST(event_file_open(&events, at("o.h5"), err));
    MUST(oracle_file_open(&oracle, at("o.h5"), events.n_patients, events.n_events, err));
    assert_string_equal(oracle.outcome[2].name, "heart_failure_1y");
    for (int64_t i = 0, k = 0; i < events.n_patients; i++) {
        double stored = oracle.risk[(i * oracle.n_outcomes + 2) * 2];
        if (isnan(stored)) continue;
        assert_true(k < f.table.n && f.true_risk[k] == stored);
        k++;
    }
    oracle_file_close(&oracle);
    event_file_close(&events);
    Dataset d = made_open(at("o"));
    assert_string_equal(table_attribute(&f.table, "dataset_sha256"), d.sha256);
    for (int64_t i = 0; i < f.table.n; i++) {
        PatientView p;
        MUST(dataset_patient(&d, (int)f.split[i], f.patient_row[i], &p, err));
        assert_int_equal(p.key, f.patient_key[i]);
        assert_int_equal(f.split[i], SPLIT_HELD_OUT);
        /* The index is the last counted token: a VISIT_END. */
        int64_t k = 0;
        while (k < p.n && p.minutes[k] <= f.index_minutes[i]) k++;
        assert_true(k > 0 && k < p.n && !isnan(p.oracle_logp[k - 1]) && isnan(p.oracle_logp[k]));
        assert_string_equal(d.vocabulary.token[patient_token(&p, k - 1)].code, "VISIT_END");
        assert_true(f.true_risk[i] >= 0 && f.true_risk[i] <= 1 && f.true_risk_se[i] >= 0);
        /* The outcome, told again from tokens. */
        int hit = 0;
        for (; k < p.n && p.minutes[k] <= f.index_minutes[i] + f.horizon_minutes; k++)
            hit |= code_matches(d.vocabulary.token[patient_token(&p, k)].base, "ICD10CM//I50");
        assert_int_equal(hit, f.outcome[i]);
    }
    dataset_close(&d);
    label_file_close(&f);
    label_task_free(&t);
}

static void test_choices_of_rows(void **state) {
    (void)state;
    LabelOptions o = oracle_options();
    LabelTask    t = shorthand("admission=VISIT//IN", "visit-end");
    LabelCounts  all, one, tuning;
    Table        table;
    MUST(label_build(&table, &t, &o, &all, err));
    assert_int_equal(t.first, 0);
    assert_true(all.eligible > 5 * all.patients && all.censored > 0);
    const double *risk = table_get(&table, "true_risk", COLUMN_F64);
    for (int64_t i = 0; i < table.n; i++) assert_true(isnan(risk[i])); /* known at the oracle's index only */
    table_free(&table);
    o.one_per_patient = 1;
    MUST(label_build(&table, &t, &o, &one, err));
    assert_true(one.eligible <= one.patients && one.eligible > one.patients / 2);
    table_free(&table);
    o.split = SPLIT_TUNING;
    MUST(label_build(&table, &t, &o, &tuning, err));
    assert_int_equal(tuning.patients, 20);
    table_free(&table);
    label_task_free(&t);
}

/* The codes in attribute `name` of what a task makes of these events. */
static json_t *codes_of(const char *task, const LabelOptions *o, const char *name) {
    LabelTask   t;
    LabelCounts counts;
    Table       table;
    MUST(label_task_parse(&t, task, strlen(task), "test", err));
    MUST(label_build(&table, &t, o, &counts, err));
    json_t *codes = json_loads(table_attribute(&table, name), 0, NULL);
    table_free(&table);
    label_task_free(&t);
    return codes;
}

static int token_level(const Dataset *d, const json_t *code, const char *base) {
    int id = vocabulary_find(&d->vocabulary, json_string_value(code));
    assert_true(id >= 0 && !strcmp(d->vocabulary.token[id].base, base));
    return id;
}

/* What simulated futures look for are the levels whose values the label counts: of outcomes and of stops. */
static void test_levels_of_bounds(void **state) {
    (void)state;
    static const char edges[] = "{\"format\": \"ehr.c value edges\", \"format_version\": 1, \"edges\": ["
                                "{\"codes\": [\"LAB//X\"], \"units\": [\"u\"], \"lt\": [20], \"le\": [20, 30]}]}";
    MUST(file_write(at("edges.json"), edges, strlen(edges), err));
    MadeFile f = events_begin(at("levels.h5"));
    for (int i = 1; i <= 600; i++) {
        events_subject(&f, i, DAY, SPLIT_UNSET);
        events_add(&f, (MadeEvent){i, 0, "VISIT//IN", KIND_VISIT_START, NONE, NULL, 0}, NULL);
        events_add(&f, (MadeEvent){i, 60, "LAB//X", KIND_LAB, (float)(i % 50), "u", i % 50 < 2 ? COMPARE_LT : COMPARE_EQ}, NULL);
        events_add(&f, (MadeEvent){i, 100, "VISIT_END", KIND_VISIT_END, NONE, NULL, 0}, NULL);
    }
    events_end(&f);
    TokenizeOptions options = made_options(at("levels.h5"), at("levels"));
    options.edges = at("edges.json");
    TokenizeReport r = made_tokenize(options);
    tokenize_report_free(&r);
    Dataset      d = made_open(at("levels"));
    LabelOptions o = {.events = at("levels.h5"), .dataset = at("levels"), .split = -1};
    size_t       i, at_bound = 0, limits = 0;
    json_t      *code, *codes = codes_of("{\"name\": \"t\", \"kind\": \"value\", \"index\": \"visit-end\", \"horizon\": \"10d\", "
                                         "\"outcome\": {\"codes\": [\"LAB//X\"], \"below\": 20, \"unit\": \"u\"}}", &o, "outcome_codes");
    json_array_foreach(codes, i, code) {
        const VocabToken *token = &d.vocabulary.token[token_level(&d, code, "LAB//X")];
        limits += token->level == LEVEL_LT;
        assert_true(token->level == LEVEL_LT || token->hi < 20);
    }
    assert_true(i > 1 && limits == 1); /* "< 1" is below 20 as well */
    json_decref(codes);
    for (int id = 0; id < d.vocabulary.n; id++) at_bound += d.vocabulary.token[id].level > 0 && d.vocabulary.token[id].hi == 20;
    assert_int_equal(at_bound, 1); /* there is a level of 20 alone, which "below 20" leaves out */
    codes = codes_of("{\"name\": \"t\", \"index\": \"visit-end\", \"horizon\": \"10d\", \"outcome\": {\"codes\": [\"VISIT//IN\"]}, "
                     "\"stops\": [{\"codes\": [\"LAB//X\"], \"above\": 30, \"unit\": \"u\"}, {\"codes\": [\"VISIT_END\"]}]}", &o, "stop_codes");
    assert_true(json_array_size(codes) > 1);
    assert_string_equal(json_string_value(json_array_get(codes, json_array_size(codes) - 1)), "VISIT_END");
    json_array_remove(codes, json_array_size(codes) - 1);
    json_array_foreach(codes, i, code) assert_true(d.vocabulary.token[token_level(&d, code, "LAB//X")].lo >= 30); /* no limit */
    json_decref(codes);
    dataset_close(&d);
    LabelTask   none;
    LabelCounts counts;
    Table       table;
    Err         problem = {0};
    const char *far = "{\"name\": \"t\", \"index\": \"visit-end\", \"horizon\": \"10d\", \"outcome\": {\"codes\": [\"VISIT//IN\"]}, "
                      "\"stops\": [{\"codes\": [\"LAB//X\"], \"above\": 3000}]}";
    MUST(label_task_parse(&none, far, strlen(far), "test", err));
    assert_int_equal(label_build(&table, &none, &o, &counts, &problem), ERR_USAGE);
    assert_non_null(strstr(problem.msg, "stop"));
    label_task_free(&none);
}

/* Times have seconds and tokens minutes: what a model is told at the index, the label does not ask for. */
static void test_minute_of_the_index(void **state) {
    (void)state;
    static const struct { int second; const char *code; int kind; } row[] = {
        {30, "VISIT//OUT", KIND_VISIT_START}, {36040, "VISIT_END", KIND_VISIT_END}, {36080, "ICD10CM//I50", KIND_DIAGNOSIS},
        {72000, "VISIT//OUT", KIND_VISIT_START}, {73000, "VISIT_END", KIND_VISIT_END}, {73010, "MEDS_DEATH", KIND_DEATH}};
    EventWriter *w;
    int64_t      n[3];
    MUST(event_writer_open(&w, at("seconds.h5"), 64 << 20, err));
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        Event e = {.subject = 1, .value = NAN, .time = made_us(0) + row[i].second * 1000000ll, .precision = PRECISION_SECOND};
        e.available = e.time;
        MUST(event_writer_code(w, row[i].code, row[i].kind, NULL, NULL, &e.code, err));
        MUST(event_writer_add(w, &e, err));
    }
    MUST(event_writer_subject(w, 1, made_us(AT(40, 0)), SPLIT_TRAIN, err));
    MUST(event_writer_close(w, "test", "{}", &n[0], &n[1], &n[2], err));
    TokenizeReport r = made_tokenize(made_options(at("seconds.h5"), at("seconds")));
    tokenize_report_free(&r);
    LabelTask    t;
    LabelOptions o = {.events = at("seconds.h5"), .dataset = at("seconds"), .split = -1};
    LabelCounts  counts;
    Table        table;
    MUST(label_task_shorthand(&t, "heart_failure=ICD10CM//I50", 10 * DAY, err));
    MUST(label_index_parse(&t, "visit-end", "--index", err));
    t.first = 0;
    MUST(label_build(&table, &t, &o, &counts, err));
    Dataset     d = made_open(at("seconds"));
    PatientView p = made_patient_of(&d, at("seconds.linkage.h5"), 1);
    assert_int_equal(table.n, 1);
    assert_int_equal(counts.excluded[EXCLUDED_DEAD], 1); /* ten seconds later, in the same minute */
    const int64_t *index = table_get(&table, "index_minutes", COLUMN_I64), *outcome = table_get(&table, "outcome", COLUMN_I64);
    int told = 0;
    for (int64_t i = 0; i < p.n && p.minutes[i] <= index[0]; i++)
        told |= !strcmp(d.vocabulary.token[patient_token(&p, i)].code, "ICD10CM//I50");
    assert_int_equal(told, 1);
    assert_int_equal(outcome[0], 0);
    dataset_close(&d);
    table_free(&table);
    label_task_free(&t);
}

/* From when on outcomes count is told to whoever simulates them; the oracle's risk is of those from the index on. */
static void test_labels_that_begin_later(void **state) {
    (void)state;
    LabelOptions o = oracle_options();
    LabelTask    t = shorthand("heart_failure=ICD10CM//I50", "oracle");
    LabelCounts  counts;
    Table        table;
    LabelFile    f;
    t.after_minutes = 2 * DAY;
    MUST(label_build(&table, &t, &o, &counts, err));
    MUST(table_write_h5(&table, at("later.h5"), err));
    table_free(&table);
    MUST(label_file_open(&f, at("later.h5"), err));
    assert_true(f.after_minutes == 2 * DAY && f.after_ends);
    for (int64_t i = 0; i < f.table.n; i++) assert_true(isnan(f.true_risk[i]));
    label_file_close(&f);
    label_task_free(&t);
}

static void refused(const LabelOptions *o, const char *outcome, const char *index, Status code, const char *says) {
    LabelTask   t = shorthand(outcome, index);
    LabelCounts counts;
    Table       table;
    Err         problem = {0};
    Status      s = label_build(&table, &t, o, &counts, &problem);
    if (s != code || !strstr(problem.msg, says)) fail_msg("status %d: %s; expected %d: %s", s, problem.msg, code, says);
    label_task_free(&t);
}

static void test_refusals(void **state) {
    (void)state;
    LabelOptions o = oracle_options();
    refused(&o, "x=MEDS_DETH", "oracle", ERR_USAGE, "MEDS_DEATH"); /* names the nearest */
    LabelOptions bad = o;
    bad.dataset = at("nothing");
    refused(&bad, "x=MEDS_DEATH", "oracle", ERR_IO, "nothing");
    bad = o;
    bad.events = at("o.json");
    refused(&bad, "x=MEDS_DEATH", "oracle", ERR_FORMAT, "o.json");
    bad = o;
    bad.linkage = at("none.h5");
    refused(&bad, "x=MEDS_DEATH", "oracle", ERR_IO, "tokenize");
    /* A linkage of another dataset. */
    Table t;
    MUST(table_read_h5(&t, at("o.linkage.h5"), err));
    table_set(&t, "dataset_sha256", "0");
    MUST(table_write_h5(&t, at("other.h5"), err));
    table_free(&t);
    bad.linkage = at("other.h5");
    refused(&bad, "x=MEDS_DEATH", "oracle", ERR_FORMAT, "another dataset");
    /* No oracle. */
    events_write(at("plain.h5"), (MadeEvent[]){{1, 0, "VISIT//OUT", KIND_VISIT_START, NONE, NULL, 0},
                                               {1, 5, "MEDS_DEATH", KIND_DEATH, NONE, NULL, 0}, {0, 0, NULL, 0, 0, NULL, 0}});
    TokenizeReport r = made_tokenize(made_options(at("plain.h5"), at("plain")));
    tokenize_report_free(&r);
    LabelOptions plain = {.events = at("plain.h5"), .dataset = at("plain"), .split = -1};
    refused(&plain, "x=MEDS_DEATH", "oracle", ERR_USAGE, "no oracle cohort");
}

static int64_t label_rows(const char *events, const char *dataset, const char *linkage) {
    LabelTask    t;
    LabelOptions o = {.events = events, .dataset = dataset, .linkage = linkage, .split = -1};
    LabelCounts  counts;
    Table        table;
    MUST(label_task_shorthand(&t, "x=MEDS_DEATH", 400 * DAY, err));
    MUST(label_index_parse(&t, "visit-end", "--index", err));
    MUST(label_build(&table, &t, &o, &counts, err));
    int64_t n = table.n;
    table_free(&table);
    label_task_free(&t);
    return n;
}

/* Tokenised again with other splits, the dataset made first can still be labelled; replaced, its linkage goes with it. */
static void test_two_datasets_of_one_source(void **state) {
    (void)state;
    MadeFile f = events_begin(at("two.h5"));
    for (int i = 1; i <= 40; i++) {
        events_subject(&f, i, UNDATED, SPLIT_UNSET);
        events_add(&f, (MadeEvent){i, i, "VISIT//IN", KIND_VISIT_START, NONE, NULL, 0}, NULL);
        events_add(&f, (MadeEvent){i, i + 60, "VISIT_END", KIND_VISIT_END, NONE, NULL, 0}, NULL);
        events_add(&f, (MadeEvent){i, i + 500 * DAY, "MEDS_DEATH", KIND_DEATH, NONE, NULL, 0}, NULL);
    }
    events_end(&f);
    char sha[3][65];
    static const char *const name[] = {"first", "second", "third"};
    for (int k = 0; k < 3; k++) {
        TokenizeOptions o = made_options(at("two.h5"), at(name[k]));
        o.seed = k;
        TokenizeReport r = made_tokenize(o);
        tokenize_report_free(&r);
        Dataset d = made_open(at(name[k]));
        memcpy(sha[k], d.sha256, sizeof d.sha256);
        dataset_close(&d);
    }
    for (int k = 0; k < 3; k++) assert_int_equal(label_rows(at("two.h5"), at(name[k]), NULL), 40);
    char *kept[2];
    for (int k = 0; k < 2; k++) {
        kept[k] = linkage_path_of(at("two.h5"), sha[k]);
        assert_true(path_exists(kept[k]));
        assert_int_equal(label_rows(at("two.h5"), at(name[k]), kept[k]), 40);
    }
    LabelOptions wrong = {.events = at("two.h5"), .dataset = at("third"), .linkage = kept[0], .split = -1};
    refused(&wrong, "x=MEDS_DEATH", "visit-end", ERR_FORMAT, "another dataset");
    TokenizeOptions o = made_options(at("two.h5"), at("third"));
    o.seed = 9;
    o.overwrite = 1;
    TokenizeReport r = made_tokenize(o);
    tokenize_report_free(&r);
    char *gone = linkage_path_of(at("two.h5"), sha[2]);
    assert_false(path_exists(gone));
    for (int k = 0; k < 3; k++) assert_int_equal(label_rows(at("two.h5"), at(name[k]), NULL), 40);
    /* What is no linkage is not overwritten. */
    MUST(file_write(at("two.linkage.h5"), "mine", 4, err));
    o.out = at("fourth");
    made_refused(o, ERR_FORMAT, "move it away");
    free(gone);
    for (int k = 0; k < 2; k++) free(kept[k]);
}

static void test_damaged_label_files(void **state) {
    (void)state;
    static const struct {
        const char *attribute, *value, *says;
    } damage[] = {{"outcome_codes", "{}", "outcome_codes"}, {"outcome_codes", "[1]", "not text"}, {"name", "a/b", "name"},
                  {"horizon_minutes", "0", "horizon"},      {"horizon_minutes", "12x", "horizon"}, {"stop_codes", "3", "stop_codes"},
                  {"after_minutes", "0", "after_minutes"},  {"after_minutes", "99999999", "after_minutes"}};
    LabelOptions o = oracle_options();
    LabelTask    t = shorthand("death=MEDS_DEATH", "oracle");
    LabelCounts  counts;
    LabelFile    f;
    Err          problem = {0};
    Table        table;
    for (size_t i = 0; i < sizeof damage / sizeof *damage; i++) {
        MUST(label_build(&table, &t, &o, &counts, err));
        table_set(&table, damage[i].attribute, damage[i].value);
        MUST(table_write_h5(&table, at("bad.h5"), err));
        table_free(&table);
        assert_int_equal(label_file_open(&f, at("bad.h5"), &problem), ERR_FORMAT);
        assert_non_null(strstr(problem.msg, damage[i].says));
    }
    static const struct {
        const char *column;
        int64_t     value;
    } cell[] = {{"split", 3}, {"patient_row", -1}, {"index_minutes", -5}, {"index_minutes", 1ll << 40}, {"outcome", 2}};
    for (size_t i = 0; i < sizeof cell / sizeof *cell; i++) {
        MUST(label_build(&table, &t, &o, &counts, err));
        ((int64_t *)table_get(&table, cell[i].column, COLUMN_I64))[table.n - 1] = cell[i].value;
        MUST(table_write_h5(&table, at("bad.h5"), err));
        table_free(&table);
        assert_int_equal(label_file_open(&f, at("bad.h5"), &problem), ERR_FORMAT);
    }
    assert_int_not_equal(label_file_open(&f, at("o.linkage.h5"), &problem), OK);
    label_task_free(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_horizon_and_censoring),
        cmocka_unit_test(test_competing_ends),
        cmocka_unit_test(test_first),
        cmocka_unit_test(test_known_late),
        cmocka_unit_test(test_discharges),
        cmocka_unit_test(test_in_hospital_mortality),
        cmocka_unit_test(test_ages_and_last_year),
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_durations),
        cmocka_unit_test(test_ends_of_days),
        cmocka_unit_test(test_absurd_times),
        cmocka_unit_test(test_window_begins_later),
        cmocka_unit_test(test_censored_as_negatives),
        cmocka_unit_test(test_before_results),
        cmocka_unit_test(test_wrong_tasks),
        cmocka_unit_test(test_tasks_round_trip),
        cmocka_unit_test(test_label_file),
        cmocka_unit_test(test_choices_of_rows),
        cmocka_unit_test(test_two_datasets_of_one_source), cmocka_unit_test(test_labels_that_begin_later), cmocka_unit_test(test_index_times_are_told_once), cmocka_unit_test(test_levels_of_bounds), cmocka_unit_test(test_minute_of_the_index), cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_damaged_label_files),
    };
    return cmocka_run_group_tests_name("label", tests, folder_make, folder_remove);
}
