/* test_label.c - labels: every rule on hand-made events, and tasks that are wrong.  Label files: test_label_file.c. */
#include "data/label_build.h"
#include "tests/make_events.h"

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

static const char *rows_source = "test";

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
    MUST(event_writer_close(w, rows_source, "{}", &p, &n, &d, err));
}

/* What a task makes of rows written by rows_write. */
typedef struct {
    LabelRow   *row;
    int64_t     n;
    LabelCounts counts;
} Labelled;

static Labelled rows_label(const char *task, const LabelRecord *record) {
    LabelTask    t;
    EventFile    f;
    EventPatient p;
    Labelled     l = {0};
    int64_t      room = 0;
    MUST(label_task_parse(&t, task, strlen(task), "test", err));
    MUST(event_file_open(&f, at("label.h5"), err));
    MUST(event_file_patient(&f, 0, &p, err));
    uint32_t *marks = label_marks(&t, &f);
    l.n = label_patient(&t, &f, marks, &p, record, &l.row, &room, &l.counts);
    free(marks);
    event_file_close(&f);
    label_task_free(&t);
    return l;
}

/* "outcome@index(+minutes to the event) ...", then "| reason n" for each exclusion; compared with `expected`. */
static void assert_labels(const char *task, const Row *row, int64_t observed, const char *expected) {
    rows_write(at("label.h5"), row, observed);
    Labelled l = rows_label(task, &(LabelRecord){made_us(0), TIME_NONE, made_us(AT(4000, 0)), NULL, 0});
    char    *text = NULL;
    size_t   size;
    FILE    *s = open_memstream(&text, &size);
    for (int64_t i = 0; i < l.n; i++) {
        fprintf(s, "%s%d@%lld", i ? " " : "", l.row[i].outcome, (long long)((l.row[i].index_us - made_us(0)) / US_PER_MINUTE));
        if (!isnan(l.row[i].event_minutes)) fprintf(s, "(+%g)", l.row[i].event_minutes);
    }
    for (int i = 0; i < EXCLUSIONS; i++)
        if (l.counts.excluded[i]) fprintf(s, "| %s %lld", EXCLUSION_NAME[i], (long long)l.counts.excluded[i]);
    fclose(s);
    assert_string_equal(text, expected);
    free(text);
    free(l.row);
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
    Row between[] = {OPEN(0, "VISIT//OUT", 1), CLOSE(10, 1), {50, 0, "CPT4//1", KIND_PROCEDURE, 0, 0, NAN, NULL}, DX(100, "ICD10CM//I50"),
                     {200, 0, "CPT4//1", KIND_PROCEDURE, 0, 0, NAN, NULL}, END};
    assert_labels(stopped, between, AT(20, 0), "0@10"); /* the first stop is the one */
    between[2].time = 100;
    assert_labels(stopped, between, AT(20, 0), "1@10(+90)"); /* in the minute of the stop it still counts */
    Row at_limit[] = {OPEN(0, "VISIT//OUT", 1), CLOSE(10, 1), DEATH(10 + AT(10, 0)), END};
    assert_labels(task, at_limit, AT(5, 0), "0@10"); /* known dead by the horizon, though observed for half of it */
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

/* What was known before the index is history, also of a thing that its date puts after it: a planned operation, a slip of the
 * pen.  It is told to the model, and no outcome to be foretold. */
static void test_known_early(void **state) {
    (void)state;
    Row planned[] = {OPEN(0, "VISIT//OUT", 1), CLOSE(100, 1), {500, 50, "ICD10CM//I50.9", KIND_DIAGNOSIS, 0, 0, NAN, NULL}, END};
    assert_labels(TASK("visit-end", "\"ICD10CM//I50\"", "10d", ""), planned, AT(20, 0), "0@100");
    assert_labels(TASK("visit-end", "\"ICD10CM//I50\"", "10d", ", \"first\": true"), planned, AT(20, 0), "| had it before 1");
    planned[2].available = 101; /* told a minute after the index: then it is one */
    assert_labels(TASK("visit-end", "\"ICD10CM//I50\"", "10d", ""), planned, AT(20, 0), "1@100(+400)");
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
    /* A clinic visit that begins during the stay does not make its discharge the clinic's. */
    Row overlap[] = {OPEN(0, "VISIT//IP", 1), OPEN(AT(1, 0), "VISIT//OUT", 2), CLOSE(AT(2, 0), 1), CLOSE(AT(3, 0), 2), END};
    assert_labels(task, overlap, AT(100, 0), "0@2880");
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
    rows_source = "mimic"; /* tells of no discharge that was a death */
    assert_labels(task, dated, AT(4, 0), "0@1440");
    assert_labels(TASK("discharge", "\"MEDS_DEATH\"", "30d", ""), dated, AT(4, 0), "1@5040(+660)");
    Row found[] = {OPEN(0, "VISIT//IP", 1), CLOSE(AT(3, 12), 1), {AT(3, 0), AT(3, 23), "X", KIND_DIAGNOSIS, 0, 1, NAN, NULL}, END};
    assert_labels(TASK("admission+24h", "\"X\"", "90d", ", \"until\": \"discharge\""), found, AT(4, 0), "1@1440(+4260)");
    rows_source = "test";
    Row next_day[] = {OPEN(0, "VISIT//IP", 1), CLOSE(AT(3, 12), 1), {AT(4, 0), AT(4, 23), "MEDS_DEATH", KIND_DEATH, 0, 1, NAN, NULL}, END};
    assert_labels(task, next_day, AT(5, 0), "0@1440");
    Row brief[] = {OPEN(0, "VISIT//IP", 1), CLOSE(AT(0, 20), 1), END};
    assert_labels(task, brief, AT(50, 0), "| stay over at the index 1");
    Row early[] = {OPEN(0, "VISIT//IP", 1), DEATH(AT(0, 5)), END};
    assert_labels(task, early, UNDATED, "| dead at the index 1");
    Row open_end[] = {OPEN(0, "VISIT//IP", 1), DX(AT(5, 0), "X"), END};
    assert_labels(task, open_end, AT(6, 0), "-1@1440"); /* still in hospital when observation ends */
    assert_labels(task, (Row[]){OPEN(0, "VISIT//IP", 1), CLOSE(AT(3, 0), 1), END}, AT(2, 0), "0@1440"); /* the discharge is known all the same */
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
    const char *low = "{\"name\": \"t\", \"kind\": \"value\", \"index\": \"visit-end\", \"horizon\": \"10d\","
                      " \"outcome\": {\"codes\": [\"LOINC//2823-3\"], \"below\": 5.5, \"unit\": \"mmol/L\"}}";
    assert_labels(low, row, AT(20, 0), "0@10"); /* the bound itself is not below it */
    row[2].value = 5.25f;
    assert_labels(low, row, AT(20, 0), "1@10(+10)");
}

static void test_durations(void **state) {
    (void)state;
    const char *task = "{\"name\": \"t\", \"kind\": \"duration\", \"index\": \"admission+24h\", \"longer_than\": \"7d\"}";
    Row longer[] = {OPEN(0, "VISIT//IP", 1), CLOSE(AT(7, 1), 1), END};
    assert_labels(task, longer, UNDATED, "1@1440(+8640)");
    assert_labels(task, longer, AT(5, 0), "1@1440(+8640)"); /* its end is told, though observed for five days of it */
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
    back[2].time = 600; /* in the minute of the discharge: moved to another ward's stay */
    assert_labels(again, back, AT(60, 0), "0@4319| admitted again that day 1");
    back[2].time = 1439; /* in the minute of the index */
    assert_labels(again, back, AT(60, 0), "0@4319| admitted again that day 1");
    Row later[] = {OPEN(0, "VISIT//IP", 1), CLOSE(600, 1), OPEN(AT(5, 0), "VISIT//IP", 2), END};
    assert_labels(again, later, AT(60, 0), "1@1439(+5761)");
    Row soon[] = {OPEN(0, "VISIT//IP", 1), CLOSE(600, 1), OPEN(1440, "VISIT//IP", 2), END};
    assert_labels(again, soon, AT(60, 0), "0@1439"); /* within the minute */
    const char *unit = TASK("admission-day", "\"ICU_IN\"", "90d", ", \"until\": \"discharge\", \"first\": \"stay\"");
    Row twice[] = {OPEN(0, "VISIT//IP", 1), {5, 0, "ICU_IN", KIND_TRANSFER, 0, 1, NAN, NULL}, CLOSE(AT(2, 0), 1), OPEN(AT(9, 0), "VISIT//IP", 2),
                   {AT(11, 0), 0, "ICU_IN", KIND_TRANSFER, 0, 2, NAN, NULL}, CLOSE(AT(12, 0), 2), END};
    assert_labels(unit, twice, AT(60, 0), "1@14399(+1441)| had it before 1"); /* of this stay, not of an earlier one */
    twice[4].time = AT(9, 0); /* in the minute of the admission: of this stay */
    assert_labels(unit, twice, AT(60, 0), "| had it before 2");
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
    rows_write(at("label.h5"), old, AT(60, 0));
    Labelled l = rows_label(task, &(LabelRecord){made_us(-AT(40 * 365, 0)), TIME_NONE, made_us(0), NULL, 0});
    assert_int_equal(l.n, 1);
    assert_true(l.row[0].death_minutes > 1e11);
    free(l.row);
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

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_horizon_and_censoring),
        cmocka_unit_test(test_competing_ends),
        cmocka_unit_test(test_first),
        cmocka_unit_test(test_known_late),
        cmocka_unit_test(test_known_early),
        cmocka_unit_test(test_discharges),
        cmocka_unit_test(test_in_hospital_mortality),
        cmocka_unit_test(test_index_times_are_told_once),
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
    };
    return cmocka_run_group_tests_name("label", tests, folder_make, folder_remove);
}
