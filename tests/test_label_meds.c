/* test_label_meds.c - label files in MEDS's terms: the same rows as by our own index, outcomes that the file gives, labels
 * of the source of a release, and files that are none. */
#include "data/linkage.h"
#include "tests/make_oracle.h"

enum { SOURCE_SHIFT = 1000000 /* added to ids to make those of a source */ };

static LabelOptions options(void) {
    return made_oracle((OracleCohortOptions){.patients = 120, .seed = 9, .max_tokens = 300, .risk_samples = 4});
}

static Table labelled(const char *outcome, const char *index, const LabelOptions *o, LabelCounts *counts) {
    LabelTask t;
    Table table;
    MUST(label_task_shorthand(&t, outcome, 365 * DAY, err));
    MUST(label_index_parse(&t, index, "--index", err));
    MUST(label_build(&table, &t, o, counts, err));
    label_task_free(&t);
    return table;
}

/* Rows of a label table as a MEDS label file; of `decided` rows the outcome, `flips` of them turned round. */
static void meds_write(const char *path, const Table *t, int outcomes, int flips, int64_t id_shift, int64_t us_shift) {
    const uint64_t *key = table_get(t, "patient_key", COLUMN_U64);
    const int64_t *index = table_get(t, "index_minutes", COLUMN_I64), *outcome = table_get(t, "outcome", COLUMN_I64);
    Table l;
    MUST(table_read_h5(&l, at("o.linkage.h5"), err));
    const int64_t *subject = table_get(&l, "subject_id", COLUMN_I64), *origin = table_get(&l, "origin_us", COLUMN_I64);
    const uint64_t *link_key = table_get(&l, "patient_key", COLUMN_U64);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fprintf(f, "subject_id,prediction_time_us%s\n", outcomes ? ",boolean_value" : "");
    for (int64_t i = t->n - 1; i >= 0; i--) { /* in another order than ours */
        int64_t k = 0;
        while (link_key[k] != key[i]) k++;
        fprintf(f, "%lld,%lld", (long long)(subject[k] + id_shift), (long long)(origin[k] + index[i] * US_PER_MINUTE + us_shift));
        int told = (int)outcome[i];
        if (told >= 0 && flips > 0 && told == flips % 2) told = !told, flips--; /* by turns one that is and one that is not */
        if (outcomes) fprintf(f, ",%s", told < 0 ? "" : told ? "true" : "false");
        fprintf(f, "\n");
    }
    fclose(f);
    table_free(&l);
}

/* Whether the tables have the same rows, but for those at one time of one patient, which a label file has once. */
static void assert_same_rows(const Table *ours, const Table *theirs) {
    static const char *const columns[] = {"split", "patient_row", "index_minutes", "outcome"};
    int64_t j = 0;
    for (int64_t i = 0; i < ours->n; i++) {
        int same = i > 0;
        for (int c = 0; c < 3 && same; c++) {
            const int64_t *x = table_get(ours, columns[c], COLUMN_I64);
            same = x[i] == x[i - 1];
        }
        if (same) continue;
        assert_true(j < theirs->n);
        for (int c = 0; c < 4; c++) {
            const int64_t *x = table_get(ours, columns[c], COLUMN_I64), *y = table_get(theirs, columns[c], COLUMN_I64);
            if (x[i] != y[j]) fail_msg("row %lld: %s is %lld, %lld was expected", (long long)j, columns[c], (long long)y[j], (long long)x[i]);
        }
        const double *x = table_get(ours, "event_minutes", COLUMN_F64), *y = table_get(theirs, "event_minutes", COLUMN_F64);
        assert_true(x[i] == y[j] || (isnan(x[i]) && isnan(y[j])));
        j++;
    }
    assert_int_equal(j, theirs->n);
}

static void test_index_times(void **state) {
    (void)state;
    LabelOptions o = options();
    LabelCounts ours, theirs;
    Table a = labelled("admission=VISIT//IN", "visit-end", &o, &ours);
    assert_true(ours.positive > 20 && ours.negative > 20 && ours.censored > 5);
    meds_write(at("times.csv"), &a, 0, 0, 0, 0);
    o.meds = at("times.csv");
    Table b = labelled("admission=VISIT//IN", "file", &o, &theirs);
    assert_same_rows(&a, &b);
    assert_int_equal(theirs.given, 0);
    assert_int_equal(theirs.unplaced, 0);
    assert_int_equal(theirs.labels, theirs.eligible);
    table_free(&a);
    table_free(&b);
}

static void test_given_outcomes(void **state) {
    (void)state;
    enum { FLIPS = 5 };
    LabelOptions o = options();
    LabelCounts ours, theirs;
    Table a = labelled("death=MEDS_DEATH", "visit-end", &o, &ours);
    meds_write(at("given.csv"), &a, 1, 0, 0, 0);
    o.meds = at("given.csv");
    Table b = labelled("death=MEDS_DEATH", "file", &o, &theirs);
    assert_same_rows(&a, &b);
    assert_int_equal(theirs.differ, 0);
    assert_int_equal(theirs.given, theirs.positive + theirs.negative);
    assert_int_equal(theirs.expressible, theirs.positive);
    table_free(&b);
    meds_write(at("given.csv"), &a, 1, FLIPS, 0, 0);
    LabelCounts flipped;
    b = labelled("death=MEDS_DEATH", "file", &o, &flipped);
    assert_int_equal(flipped.differ, FLIPS);
    /* A death that the record does not show has no token; a death that the file denies is none. */
    assert_true(flipped.expressible < flipped.positive);
    assert_int_equal(flipped.positive, theirs.positive - 1); /* of five, three are denied */
    const int64_t *outcome = table_get(&b, "outcome", COLUMN_I64);
    const double *event = table_get(&b, "event_minutes", COLUMN_F64);
    for (int64_t i = 0; i < b.n; i++) assert_true(outcome[i] == 1 || isnan(event[i]));
    table_free(&a);
    table_free(&b);
}

/* The labels name subjects and times of the source; the release has other ids, and times since the first event. */
static void test_release(void **state) {
    (void)state;
    const int64_t shift = 12345 * US_PER_MINUTE;
    LabelOptions o = options();
    LabelCounts ours, theirs;
    Table a = labelled("admission=VISIT//IN", "visit-end", &o, &ours), link, release;
    meds_write(at("source.csv"), &a, 1, 0, SOURCE_SHIFT, shift);
    MUST(table_read_h5(&link, at("o.linkage.h5"), err));
    int64_t n = link.n - 10; /* ten are not in the release */
    table_init(&release, n);
    int64_t *subject = table_add(&release, "subject_id", COLUMN_I64), *origin = table_add(&release, "origin_us", COLUMN_I64);
    uint64_t *key = table_add(&release, "patient_key", COLUMN_U64);
    const int64_t *id = table_get(&link, "subject_id", COLUMN_I64);
    for (int64_t i = 0; i < n; i++) {
        subject[i] = id[i] + SOURCE_SHIFT;
        key[i] = (uint64_t)id[i];
        origin[i] = shift;
    }
    table_set(&release, "name", RELEASE_LINKAGE);
    MUST(table_write_h5(&release, at("release.h5"), err));
    o.meds = at("source.csv");
    o.release_linkage = at("release.h5");
    Table b = labelled("admission=VISIT//IN", "file", &o, &theirs);
    assert_true(theirs.eligible < ours.eligible && theirs.eligible > ours.eligible / 2);
    assert_int_equal(theirs.differ, 0);
    assert_int_equal(theirs.given, theirs.positive + theirs.negative);
    table_free(&b);
    /* Without it nobody is known. */
    o.release_linkage = NULL;
    b = labelled("admission=VISIT//IN", "file", &o, &theirs);
    assert_int_equal(theirs.eligible, 0);
    assert_int_equal(theirs.unplaced, theirs.labels);
    table_free(&a);
    table_free(&b);
    table_free(&link);
    table_free(&release);
}

static void test_refusals(void **state) {
    (void)state;
    static const struct {
        const char *name, *text, *says;
    } cases[] = {{"a.csv", "a,b\n1,2\n", "no label file"},
                 {"a.csv", "subject_id,boolean_value\n1,true\n", "no label file"},
                 {"a.csv", "subject_id,prediction_time\nx,2020-01-01\n", "row 1: subject_id"},
                 {"a.csv", "subject_id,prediction_time\n1,yesterday\n", "prediction_time is \"yesterday\""},
                 {"a.csv", "subject_id,prediction_time\n1,\n", "row 1: prediction_time"},
                 {"a.csv", "subject_id,prediction_time,boolean_value\n1,2020-01-01,maybe\n", "true or false"},
                 {"a.csv", "subject_id,prediction_time,boolean_value\n1,2020-01-01,true\n1,2020-01-01 00:00:00,false\n", "two outcomes"},
                 {"a.csv", "subject_id,prediction_time\n1,2020-01-01\n1\n", "row 2: wrong number"},
                 {"a.csv", "", "header"},
                 {"a.parquet", "PAR1", "meds_labels.py"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        MedsLabels m;
        Err problem = {0};
        MUST(file_write(at(cases[i].name), cases[i].text, strlen(cases[i].text), err));
        Status s = meds_labels_read(&m, at(cases[i].name), NULL, &problem);
        if (!s || !strstr(problem.msg, cases[i].says)) fail_msg("case %zu: %s", i, problem.msg);
    }
    MedsLabels m;
    Err problem = {0};
    options();
    MUST(file_write(at("a.csv"), "subject_id,prediction_time,boolean_value\n1,2020-01-01,\n1,2020-01-01,\n", 68, err));
    assert_int_equal(meds_labels_read(&m, at("a.csv"), at("o.linkage.h5"), &problem), ERR_FORMAT); /* of a dataset */
    assert_non_null(strstr(problem.msg, "linkage of a release"));
    MUST(meds_labels_read(&m, at("a.csv"), NULL, err));
    assert_int_equal(m.n, 1);
    assert_int_equal(m.n_repeated, 1);
    assert_int_equal(m.label[0].outcome, -1);
    meds_labels_free(&m);
    /* An index in a file, and no file. */
    LabelOptions o = options();
    LabelTask t;
    LabelCounts counts;
    Table table;
    MUST(label_task_shorthand(&t, "death=MEDS_DEATH", DAY, err));
    MUST(label_index_parse(&t, "file", "--index", err));
    assert_int_equal(label_build(&table, &t, &o, &counts, &problem), ERR_USAGE);
    assert_non_null(strstr(problem.msg, "--meds"));
    label_task_free(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_index_times), cmocka_unit_test(test_given_outcomes),
                                       cmocka_unit_test(test_release), cmocka_unit_test(test_refusals)};
    return cmocka_run_group_tests_name("label_meds", tests, folder_make, folder_remove);
}
