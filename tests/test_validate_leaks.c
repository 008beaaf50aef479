/* test_validate_leaks.c - each leak is planted once and found; the same data without it give no finding. */
#include "data/deidentify.h"
#include "data/label_build.h"
#include "data/linkage.h"
#include "data/validate.h"
#include "kernels/philox.h"
#include "tests/make_events.h"

static int64_t count(const ValidateReport *r, int kind) { return r->finding[kind].count; }

static ValidateReport check(const char *path) {
    ValidateReport r;
    if (path_is_dir(path)) MUST(validate_dataset(&r, path, NULL, err));
    else MUST(validate_events(&r, path, NULL, err));
    return r;
}

static void expect(const char *path, int kind, int64_t n) {
    ValidateReport r = check(path);
    if (count(&r, kind) != n) {
        report_print(&r, stdout);
        fail_msg("%s: %lld of %s, %lld were expected", path, (long long)count(&r, kind), finding_name(kind), (long long)n);
    }
    report_free(&r);
}

typedef struct {
    int64_t  subject, minute, known; /* known: available, 0 = at once */
    char     code[40];
    int      kind, visit, precision;
    float    value;
} Row;

static void add(MadeFile *f, Row e) {
    uint32_t code;
    MUST(event_writer_code(f->w, e.code, e.kind, NULL, NULL, &code, err));
    Event row = {.subject = e.subject, .time = made_us(e.minute), .available = made_us(e.known ? e.known : e.minute), .code = code,
                 .value = e.value ? e.value : NAN, .visit = (uint32_t)e.visit, .precision = (uint8_t)e.precision};
    MUST(event_writer_add(f->w, &row, err));
}

/* A plausible record, its own for each `who`: visits with labs at irregular times. */
static void add_record(MadeFile *f, int64_t subject, uint64_t who, int64_t start, int visits) {
    int64_t at = start;
    for (int v = 1; v <= visits; v++) {
        uint64_t h = philox_mix(who, (uint64_t)v);
        at += 3 * DAY + (int64_t)(h % (90 * DAY));
        add(f, (Row){subject, at, 0, "VISIT//OP", KIND_VISIT_START, v, PRECISION_MINUTE, 0});
        for (int i = 0; i < 3; i++) {
            Row lab = {subject, at + 5 + i, 0, "", KIND_LAB, v, PRECISION_MINUTE, 50 + (float)(philox_mix(h, (uint64_t)i) % 100)};
            snprintf(lab.code, sizeof lab.code, "LOINC//%d", (int)(philox_mix(h, (uint64_t)i + 9) % 12));
            add(f, lab);
        }
        add(f, (Row){subject, at + 60, 0, "VISIT_END//OP", KIND_VISIT_END, v, PRECISION_MINUTE, 0});
    }
    events_subject(f, subject, start + 4000 * DAY, subject % 10 == 8 ? SPLIT_TUNING : subject % 10 == 9 ? SPLIT_HELD_OUT : SPLIT_TRAIN);
}

/* Subject 37 twin (0: nobody): tells record 5 again, later and with something added. */
static const char *people(const char *name, int64_t twin) {
    const char *path = at(name);
    MadeFile f = events_begin(path);
    for (int64_t id = 1; id <= 40; id++)
        if (id != twin) add_record(&f, id, (uint64_t)id, id * 100 * DAY, 12);
    if (twin) {
        add_record(&f, twin, 5, 500 * DAY + 12345, 10);
        add(&f, (Row){twin, 500 * DAY + 12346, 0, "LOINC//3", KIND_LAB, 0, PRECISION_MINUTE, 7});
    }
    events_end(&f);
    return path;
}

static void one_person_twice(void **state) {
    (void)state;
    expect(people("apart.h5", 0), FIND_TWO_IDS, 0);
    expect(people("twin.h5", 37), FIND_TWO_IDS, 1); /* both in train */
    expect(at("twin.h5"), FIND_PERSON_TWO_SPLITS, 0);
    expect(people("split.h5", 39), FIND_PERSON_TWO_SPLITS, 1);
    /* A protocol that only two follow: the same codes at whole days. */
    const char *path = at("protocol.h5");
    MadeFile f = events_begin(path);
    for (int64_t id = 1; id <= 2; id++)
        for (int v = 1; v <= 12; v++) {
            int64_t t = id * 501 + v * 28 * DAY;
            add(&f, (Row){id, t, 0, "VISIT//OP", KIND_VISIT_START, v, PRECISION_MINUTE, 0});
            Row care = {id, t, 0, "SNOMED//1", KIND_PROCEDURE, v, PRECISION_MINUTE, 0};
            care.code[8] = (char)('1' + v % 2);
            add(&f, care);
            add(&f, (Row){id, t + 15, 0, "VISIT_END//OP", KIND_VISIT_END, v, PRECISION_MINUTE, 0});
        }
    events_end(&f);
    expect(path, FIND_TWO_IDS, 0);
    /* The same through tokens. */
    const char *const name[] = {"apart", "twin", "split"};
    for (int i = 0; i < 3; i++) {
        char file[40];
        snprintf(file, sizeof file, "%s.h5", name[i]);
        const char *events = at(file), *out = at(name[i]);
        TokenizeReport t = made_tokenize(made_options(events, out));
        expect(out, FIND_TWO_IDS, i == 1);
        expect(out, FIND_PERSON_TWO_SPLITS, i == 2);
        tokenize_report_free(&t);
    }
}

/* 30 procedures of three people at that minute of their days; from number `until` on at 07:00. */
static const char *at_hour(const char *name, int64_t minute, int precision, int64_t known, int until) {
    const char *path = at(name);
    MadeFile f = events_begin(path);
    for (int64_t i = 0; i < 30; i++) {
        if (i == until) minute = 420;
        add(&f, (Row){1 + i % 3, i * DAY + minute, known ? i * DAY + known : 0, "HCPCS//1", KIND_PROCEDURE, 0, precision, 0});
        add(&f, (Row){1 + i % 3, i * DAY + 600, 0, "LOINC//1", KIND_LAB, 0, PRECISION_MINUTE, 0});
    }
    events_end(&f);
    return path;
}

static void dates_as_times(void **state) {
    (void)state;
    expect(at_hour("midnight.h5", 0, PRECISION_MINUTE, 0, 30), FIND_MIDNIGHT, 1);
    expect(at_hour("morning.h5", 540, PRECISION_MINUTE, 0, 30), FIND_MIDNIGHT, 0);
    expect(at_hour("known-late.h5", 0, PRECISION_MINUTE, 1439, 30), FIND_MIDNIGHT, 0); /* as importers hold dates back */
    expect(at_hour("said.h5", 0, PRECISION_DAY, 1439, 30), FIND_MIDNIGHT, 0);
    expect(at_hour("more.h5", 0, PRECISION_MINUTE, 0, 16), FIND_MIDNIGHT, 1);
    expect(at_hour("half.h5", 0, PRECISION_MINUTE, 0, 15), FIND_MIDNIGHT, 0); /* more than half of them are told of */
    ValidateReport r = check(at("midnight.h5"));
    assert_non_null(strstr(r.finding[FIND_MIDNIGHT].example[0], "HCPCS//1: 30 of 30"));
    report_free(&r);
}

/* Eight stays of that many minutes, diagnosed as they begin and, where it is not 0, once more later; labs after two hours. */
static const char *stays(const char *name, int diagnosed_at, int again_at, int length) {
    const char *path = at(name);
    MadeFile f = events_begin(path);
    for (int64_t id = 1; id <= 8; id++) {
        int64_t in = id * 3 * DAY + 11 * id;
        add(&f, (Row){id, in, 0, "VISIT//IP", KIND_VISIT_START, 1, PRECISION_MINUTE, 0});
        add(&f, (Row){id, in + 120, 0, "LOINC//1", KIND_LAB, 1, PRECISION_MINUTE, 5});
        add(&f, (Row){id, in, in + diagnosed_at, "ICD10CM//A01", KIND_DIAGNOSIS, 1, PRECISION_MINUTE, 0});
        if (again_at) add(&f, (Row){id, in, in + again_at, "ICD10CM//A02", KIND_DIAGNOSIS, 1, PRECISION_MINUTE, 0});
        add(&f, (Row){id, in + length, 0, "VISIT_END//IP", KIND_VISIT_END, 1, PRECISION_MINUTE, 0});
    }
    events_end(&f);
    return path;
}

static void diagnoses_of_discharge(void **state) {
    (void)state;
    expect(stays("first.h5", 1, 0, 2 * DAY), FIND_DIAGNOSED_FIRST, 1);
    expect(stays("last.h5", 2 * DAY, 0, 2 * DAY), FIND_DIAGNOSED_FIRST, 0);
    expect(stays("both.h5", 1, 2 * DAY, 2 * DAY), FIND_DIAGNOSED_FIRST, 0); /* one of admission and one of discharge */
    expect(stays("early.h5", 1, 60, 2 * DAY), FIND_DIAGNOSED_FIRST, 1);
    expect(stays("brief.h5", 1, 0, 719), FIND_DIAGNOSED_FIRST, 0); /* under 12 hours all is known at once */
    expect(stays("half-day.h5", 1, 0, 720), FIND_DIAGNOSED_FIRST, 1);
}

/* A file that carries a record and is none of deidentify's. */
static void release_that_is_none(void **state) {
    (void)state;
    const char *path = people("people.h5", 0);
    DeidentifyOptions o = {.events = path, .out = at("kept.h5"), .linkage = at("kept.link.h5"), .min_patients = 3,
                           .blur_end_minutes = 365 * DAY, .memory = 8 << 20, .seed = -1};
    DeidentifyReport r;
    MUST(deidentify_events(&o, &r, err));
    expect(o.out, FIND_RELEASE, 0);
    char *text = json_dumps(r.record, 0), *provenance = xasprintf("{\"deidentification\": %s}", text);
    MadeFile f = events_begin(at("forged.h5"));
    int64_t n;
    for (int64_t id = 1; id <= 3; id++) {
        events_subject(&f, id, UNDATED, SPLIT_TRAIN);
        add(&f, (Row){id, -95 * 366 * DAY, 0, "MEDS_BIRTH", KIND_BIRTH, 0, PRECISION_DAY, 0});
        add(&f, (Row){id, 0, 0, "LOINC//1", KIND_LAB, 0, PRECISION_MINUTE, 0});
        if (id < 3) add(&f, (Row){id, 5, 0, "LOINC//2", KIND_LAB, 0, PRECISION_MINUTE, 0});
        for (int k = 0; id == 1 && k < 4; k++) add(&f, (Row){id, 6 + k, 0, "LOINC//3", KIND_LAB, 0, PRECISION_MINUTE, 0});
    }
    MUST(event_writer_close(f.w, "test", provenance, &n, &n, &n, err));
    expect(at("forged.h5"), FIND_RELEASE, 3 + 3 + 2); /* calendar times, ages, a code of two patients, one that one has four times */
    /* Their first event is at time 0, and they are 89 when it is; one is observed for two years more. */
    f = events_begin(at("observed.h5"));
    const int64_t zero = -made_us(0) / US_PER_MINUTE;
    for (int64_t id = 1; id <= 3; id++) {
        events_subject(&f, id, id == 2 ? zero + 2 * 366 * DAY : UNDATED, SPLIT_TRAIN);
        add(&f, (Row){id, zero - 89 * 365 * DAY, 0, "MEDS_BIRTH", KIND_BIRTH, 0, PRECISION_MINUTE, 0});
        add(&f, (Row){id, zero, 0, "LOINC//1", KIND_LAB, 0, PRECISION_MINUTE, 0});
    }
    MUST(event_writer_close(f.w, "test", provenance, &n, &n, &n, err));
    expect(at("observed.h5"), FIND_RELEASE, 1);
    free(text);
    free(provenance);
    deidentify_report_free(&r);
}

/* ---- datasets ------------------------------------------------------------------------------------------------------- */

static void edit(const char *path, const char *from, const char *to) {
    char *text, *place;
    MUST(file_read(path, 1 << 24, &text, NULL, err));
    place = strstr(text, from);
    assert_non_null(place);
    char *changed = xasprintf("%.*s%s%s", (int)(place - text), text, to, place + strlen(from));
    MUST(file_write(path, changed, strlen(changed), err));
    free(changed);
    free(text);
}

static void vocabulary_beyond_train(void **state) {
    (void)state;
    const char *path = at("v.h5");
    MadeFile f = events_begin(path);
    for (int64_t id = 1; id <= 10; id++) {
        add_record(&f, id, (uint64_t)id, id * DAY, 4);
        if (id == 9) add(&f, (Row){id, 999 * DAY, 0, "LOCAL//only", KIND_OTHER, 0, PRECISION_MINUTE, 0});
    }
    events_end(&f);
    TokenizeOptions o = made_options(path, at("v.sound"));
    TokenizeReport t = made_tokenize(o);
    expect(o.out, FIND_VOCABULARY, 0);
    tokenize_report_free(&t);
    /* With 10 alone held out 9 trains, and the vocabulary knows its code, too. */
    o.out = at("v.all");
    o.split = "time:2000-03-31";
    t = made_tokenize(o);
    tokenize_report_free(&t);
    o.vocabulary = at("v.all");
    o.split = "given";
    o.out = at("v.leak");
    t = made_tokenize(o);
    Dataset d = made_open(o.out);
    int there = vocabulary_find(&d.vocabulary, "LOCAL//only") >= 0;
    dataset_close(&d);
    tokenize_report_free(&t);
    if (!there) fail_msg("the wide vocabulary does not know the code: this data does not leak");
    expect(o.out, FIND_VOCABULARY, 0); /* frozen: from elsewhere, as it may be */
    char *json = xasprintf("%s/dataset.json", o.out);
    edit(json, "\"fitted_here\": false", "\"fitted_here\": true");
    free(json);
    ValidateReport r = check(o.out);
    assert_true(count(&r, FIND_VOCABULARY) >= 1); /* LOCAL//only, and levels of values that train does not reach */
    report_free(&r);
}

/* 80 patients with a visit; odd ones have the outcome 100 days later.  cut: the records of cases end with it. */
static void label_source(const char *events, const char *dataset, int cut) {
    MadeFile f = events_begin(events);
    for (int64_t id = 1; id <= 80; id++) {
        int64_t start = id * 7 * DAY, end = start + 700 * DAY + (id * 37 % 50) * DAY;
        if (cut && id % 2) end = start + 420 * DAY + 60;
        events_subject(&f, id, end, id % 10 == 8 ? SPLIT_TUNING : id % 10 == 9 ? SPLIT_HELD_OUT : SPLIT_TRAIN);
        add(&f, (Row){id, start, 0, "VISIT//OP", KIND_VISIT_START, 1, PRECISION_MINUTE, 0});
        add(&f, (Row){id, start + 300 * DAY, 0, "VISIT//OP", KIND_VISIT_START, 2, PRECISION_MINUTE, 0});
        add(&f, (Row){id, start + 300 * DAY + 60, 0, "VISIT_END//OP", KIND_VISIT_END, 2, PRECISION_MINUTE, 0});
        if (id % 2) add(&f, (Row){id, start + 420 * DAY, 0, "ICD10CM//I21", KIND_DIAGNOSIS, 0, PRECISION_MINUTE, 0});
    }
    events_end(&f);
    TokenizeReport t = made_tokenize(made_options(events, dataset));
    tokenize_report_free(&t);
}

static void label_make(const char *events, const char *dataset, Table *table) {
    LabelTask task;
    LabelCounts counts;
    LabelOptions o = {.events = events, .dataset = dataset, .split = -1};
    MUST(label_task_shorthand(&task, "mi=ICD10CM//I21", 365 * DAY, err));
    task.first = 1;
    MUST(label_build(table, &task, &o, &counts, err));
    assert_int_equal(counts.positive, 40);
    label_task_free(&task);
}

static void label_put(const Table *table, const char *dataset) {
    char *dir = xasprintf("%s/labels", dataset), *path = xasprintf("%s/mi.h5", dir);
    MUST(dir_make(dir, err));
    MUST(table_write_h5(table, path, err));
    free(path);
    free(dir);
}

static int64_t *column(Table *t, const char *name) {
    for (int i = 0; i < t->n_columns; i++)
        if (!strcmp(t->column[i].name, name)) return t->column[i].data;
    fail_msg("no column %s", name);
    return NULL;
}

static void labels_that_know(void **state) {
    (void)state;
    const char *events = at("l.h5"), *dataset = at("l");
    Table t;
    label_source(events, dataset, 0);
    label_make(events, dataset, &t);
    label_put(&t, dataset);
    const int labels[] = {FIND_LABEL_ROW, FIND_OUTCOME_KNOWN, FIND_FOLLOW_UP};
    for (int i = 0; i < 3; i++) expect(dataset, labels[i], 0);
    /* An index set after the outcome of three patients; one beyond observation; one of another patient. */
    int64_t *index = column(&t, "index_minutes"), *outcome = column(&t, "outcome"), *row = column(&t, "patient_row"), n = 0, bad = -1;
    for (int64_t i = 0; i < t.n && n < 3; i++)
        if (outcome[i] == 1) {
            index[i] += 200 * DAY;
            n++;
        } else if (bad < 0) {
            bad = i;
        }
    index[bad] += 5000 * DAY;
    label_put(&t, dataset);
    expect(dataset, FIND_OUTCOME_KNOWN, 3);
    expect(dataset, FIND_LABEL_ROW, 1);
    row[bad] = row[bad] ? 0 : 1;
    label_put(&t, dataset);
    expect(dataset, FIND_LABEL_ROW, 1);
    table_set(&t, "dataset_sha256", "0");
    label_put(&t, dataset);
    expect(dataset, FIND_LABEL_ROW, 1);
    table_free(&t);
}

static void follow_up_tells(void **state) {
    (void)state;
    const char *events = at("c.h5"), *dataset = at("c");
    Table t;
    label_source(events, dataset, 1);
    label_make(events, dataset, &t);
    label_put(&t, dataset);
    expect(dataset, FIND_FOLLOW_UP, 1);
    ValidateReport r = check(dataset);
    char *json = report_json(&r, dataset);
    assert_non_null(strstr(json, "\"label.follow_up\""));
    assert_non_null(strstr(json, "AUC of 1.000"));
    free(json);
    report_free(&r);
    table_free(&t);
}

/* Potassium in mmol/L, but for some values: typing errors, or another unit. */
static void values_of_another_unit(void **state) {
    (void)state;
    for (int wrong = 0; wrong <= 20; wrong += 10) {
        MadeFile f = events_begin(at("units.h5"));
        for (int64_t i = 1; i <= 300; i++) {
            /* not looked at: below a limit, in a unit that is told, of another code */
            float value = i <= wrong ? (wrong == 10 ? 140.0f : 17.6f) : 4.1f;
            events_subject(&f, i, 900 * DAY + i, SPLIT_TRAIN);
            events_add(&f, (MadeEvent){i, i, "LOINC//2823-3", KIND_LAB, value, "mmol/L", 0}, NULL);
            events_add(&f, (MadeEvent){i, i + 60, "LOINC//2823-3", KIND_LAB, 0.1f, "mmol/L", COMPARE_LT}, NULL);
            events_add(&f, (MadeEvent){i, i + 70, "LOINC//2823-3", KIND_LAB, 900, "mg/dL", 0}, NULL);
            events_add(&f, (MadeEvent){i, i + 80, "LOINC//99-9", KIND_LAB, -5, "mmol/L", 0}, NULL);
        }
        events_end(&f);
        ValidateReport r = check(at("units.h5"));
        assert_int_equal(count(&r, FIND_IMPLAUSIBLE), wrong > 0);
        assert_int_equal(r.finding[FIND_IMPLAUSIBLE].severity, SEVERITY_INFO);
        if (wrong == 20) assert_string_equal(r.finding[FIND_IMPLAUSIBLE].example[0], "LOINC//2823-3: 20 of 300 values beyond 0.8 to 15 mmol/L");
        report_free(&r);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_of_another_unit),
        cmocka_unit_test(one_person_twice),       cmocka_unit_test(dates_as_times),   cmocka_unit_test(diagnoses_of_discharge),
        cmocka_unit_test(vocabulary_beyond_train), cmocka_unit_test(labels_that_know), cmocka_unit_test(follow_up_tells),
        cmocka_unit_test(release_that_is_none),
    };
    return cmocka_run_group_tests(tests, folder_make, folder_remove);
}
