/* test_tokenizer_split.c - who trains and who is held out: by a key of the id, by time, by site, as given; the excluded. */
#include "tests/make_events.h"

/* splits (n): of subjects step, 2 step, ... through the linkage. */
static void read_splits(const char *linkage, int n, int step, int *split) {
    Table t;
    MUST(table_read_h5(&t, linkage, err));
    const int64_t *id = table_get(&t, "subject_id", COLUMN_I64), *s = table_get(&t, "split", COLUMN_I64);
    for (int i = 0; i < n; i++) split[i] = -1;
    for (int64_t k = 0; k < t.n; k++) {
        assert_true(id[k] % step == 0 && id[k] / step >= 1 && id[k] / step <= n);
        assert_true(k == 0 || id[k] > id[k - 1]);
        split[id[k] / step - 1] = (int)s[k];
    }
    table_free(&t);
}

static TokenizeReport split_report(const char *events, const char *out, const char *split) {
    TokenizeOptions o = made_options(events, out);
    o.split = split;
    o.overwrite = 1;
    return made_tokenize(o);
}

static void test_split_sizes(void **state) {
    (void)state;
    const int row[][4] = {{1, 1, 0, 0}, {2, 2, 0, 0}, {3, 1, 1, 1}, {4, 2, 1, 1}, {10, 8, 1, 1}, {15, 11, 2, 2}, {29, 23, 3, 3}};
    for (size_t k = 0; k < sizeof row / sizeof *row; k++) {
        write_patients(at("n.h5"), row[k][0], 1, 1, 0);
        TokenizeReport r = split_report(at("n.h5"), at("n"), NULL);
        assert_string_equal(r.split_method, "patient");
        for (int s = 0; s < SPLIT_COUNT; s++) assert_int_equal(r.n_patients[s], row[k][1 + s]);
        tokenize_report_free(&r);
    }
    write_patients(at("n.h5"), 1000, 1, 1, 0);
    TokenizeReport r = split_report(at("n.h5"), at("n"), "patient");
    assert_in_range(r.n_patients[SPLIT_TRAIN], 750, 850);
    assert_in_range(r.n_patients[SPLIT_TUNING], 70, 130);
    assert_in_range(r.n_patients[SPLIT_HELD_OUT], 70, 130);
    assert_int_equal(r.n_patients[0] + r.n_patients[1] + r.n_patients[2], 1000);
    tokenize_report_free(&r);
}

/* Who else is there changes nobody's split; a key of one's own changes them, the seed only the order. */
static void test_split_is_a_function_of_the_id(void **state) {
    (void)state;
    int all[1000], half[500], other[1000], reseeded[1000], differ = 0;
    write_patients(at("all.h5"), 1000, 1, 1, 0);
    write_patients(at("half.h5"), 500, 2, 1, 0);
    TokenizeReport r = split_report(at("all.h5"), at("all"), NULL);
    tokenize_report_free(&r);
    r = split_report(at("half.h5"), at("half"), NULL);
    tokenize_report_free(&r);
    read_splits(at("all.linkage.h5"), 1000, 1, all);
    read_splits(at("half.linkage.h5"), 500, 2, half);
    for (int i = 0; i < 500; i++) assert_int_equal(half[i], all[2 * i + 1]);
    MUST(file_write(at("key"), "a key of our own, long enough\n", 30, err));
    TokenizeOptions o = made_options(at("all.h5"), at("keyed"));
    o.key_file = at("key");
    r = made_tokenize(o);
    tokenize_report_free(&r);
    read_splits(at("all.linkage.h5"), 1000, 1, other);
    for (int i = 0; i < 1000; i++) differ += other[i] != all[i];
    assert_in_range(differ, 200, 500); /* 1 - .8^2 - 2 x .1^2 = 34% of chance */
    /* Every byte of the key counts. */
    int last[1000];
    MUST(file_write(at("key"), "a key of our own, long enougH\n", 30, err));
    o.overwrite = 1;
    r = made_tokenize(o);
    tokenize_report_free(&r);
    read_splits(at("all.linkage.h5"), 1000, 1, last);
    for (int i = differ = 0; i < 1000; i++) differ += other[i] != last[i];
    assert_in_range(differ, 200, 500);
    o = made_options(at("all.h5"), at("seeded"));
    o.seed = 5;
    r = made_tokenize(o);
    tokenize_report_free(&r);
    read_splits(at("all.linkage.h5"), 1000, 1, reseeded);
    assert_memory_equal(all, reseeded, sizeof all);
    Dataset a = made_open(at("all")), b = made_open(at("seeded"));
    for (int64_t row = differ = 0; row < a.n_patients[SPLIT_TRAIN]; row++) {
        PatientView p, q;
        MUST(dataset_patient(&a, SPLIT_TRAIN, row, &p, err));
        MUST(dataset_patient(&b, SPLIT_TRAIN, row, &q, err));
        differ += p.minutes[p.n - 1] != q.minutes[q.n - 1]; /* 2000 + the patient's number */
    }
    assert_true(differ > a.n_patients[SPLIT_TRAIN] * 9 / 10);
    dataset_close(&a);
    dataset_close(&b);
    MUST(file_write(at("key"), "short\n", 6, err));
    o.key_file = at("key");
    o.out = at("short");
    made_refused(o, ERR_USAGE, "16 to 4096 bytes");
}

static void test_split_by_time(void **state) {
    (void)state;
    int split[400];
    write_patients(at("time.h5"), 400, 1, 1, 0); /* patient i starts i days after 2000-01-01 */
    TokenizeReport r = split_report(at("time.h5"), at("time"), "time:2000-11-01");
    read_splits(at("time.linkage.h5"), 400, 1, split);
    for (int i = 0; i < 400; i++) assert_int_equal(split[i] == SPLIT_HELD_OUT, i + 1 >= 305); /* 2000-11-01 is day 305 */
    assert_in_range(r.n_patients[SPLIT_TUNING], 12, 50);
    tokenize_report_free(&r);
    TokenizeOptions o = made_options(at("time.h5"), at("time2"));
    static const char *const bad[] = {"time:", "time:2000", "time:2000-02-30", "time:2000-13-01", "time:2000-01-01x", "thirds"};
    for (int i = 0; i < 6; i++) {
        o.split = bad[i];
        made_refused(o, ERR_USAGE, "--split");
    }
    o.split = "time:1990-01-01";
    made_refused(o, ERR_USAGE, "nobody to train on");
    o.split = "time:2001-02-05"; /* the day after the last one came */
    made_refused(o, ERR_USAGE, "nobody to hold out: the patients of");
    made_refused(o, ERR_USAGE, "come first from 2000-01-02 to 2001-02-04");
    o.split = "time:2001-02-04";
    o.out = at("time3");
    r = made_tokenize(o);
    assert_int_equal(r.n_patients[SPLIT_HELD_OUT], 1);
    tokenize_report_free(&r);
    /* It is the first visit that is dated, not the birth. */
    MadeFile f = events_begin(at("born.h5"));
    for (int i = 1; i <= 20; i++) {
        events_subject(&f, i, UNDATED, SPLIT_UNSET);
        events_add(&f, (MadeEvent){i, (i - 5000) * DAY, "MEDS_BIRTH", KIND_BIRTH, NONE, NULL, 0}, NULL);
        events_add(&f, (MadeEvent){i, i * DAY, "VISIT//IN", KIND_VISIT_START, NONE, NULL, 0}, NULL);
    }
    events_end(&f);
    r = split_report(at("born.h5"), at("born"), "time:2000-01-16"); /* the 15th came then */
    assert_int_equal(r.n_patients[SPLIT_HELD_OUT], 6);
    tokenize_report_free(&r);
    o.out = at("time2");
    o.split = "given";
    made_refused(o, ERR_USAGE, "names a split for 0 of 400");
}

/* n patients; patient i has site "S<site[i % k]>" where it is not empty. */
static void write_sites(const char *path, int n, const char *const *site, int k) {
    MadeFile f = events_begin(path);
    for (int i = 1; i <= n; i++) {
        const char *s = site[(i - 1) % k];
        char code[64];
        events_subject(&f, i, UNDATED, SPLIT_UNSET);
        if (s[0]) {
            snprintf(code, sizeof code, "CARE_SITE//%s", s);
            events_add(&f, (MadeEvent){i, UNDATED, code, KIND_STATIC, NONE, NULL, 0}, NULL);
        }
        if (i == 7) events_add(&f, (MadeEvent){i, UNDATED, "CARE_SITE//second", KIND_STATIC, NONE, NULL, 0}, NULL);
        events_add(&f, (MadeEvent){i, UNDATED, i % 2 ? "SEX//F" : "SEX//M", KIND_STATIC, NONE, NULL, 0}, NULL);
        events_add(&f, (MadeEvent){i, i * DAY, "VISIT//IN", KIND_VISIT_START, NONE, NULL, 0}, NULL);
    }
    events_end(&f);
}

/* No site is in two splits; who has none, or two, is nobody's; the names of sites do not leave with the dataset. */
static void test_split_by_site(void **state) {
    (void)state;
    enum { N = 660 };
    static const char *const site[] = {"A", "B", "C", "D", "E", "F", "G", "H", "I", "J", ""};
    int split[N], held[11] = {0}, other[N];
    write_sites(at("site.h5"), N, site, 11);
    TokenizeReport r = split_report(at("site.h5"), at("site"), "site:CARE_SITE");
    assert_string_equal(r.split_method, "site:CARE_SITE");
    assert_int_equal(r.n_no_site, N / 11 + 1);
    read_splits(at("site.linkage.h5"), N, 1, split);
    int n_held = 0, n_tuning = 0;
    for (int i = 0; i < N; i++) {
        if (i % 11 == 10 || i == 6) assert_int_equal(split[i], -1);
        else if (split[i] == SPLIT_HELD_OUT) held[i % 11]++;
        n_tuning += split[i] == SPLIT_TUNING;
    }
    for (int k = 0; k < 10; k++) { /* all of a site or nobody; the patient of two sites is missing from the seventh */
        assert_true(held[k] == 0 || held[k] == N / 11 - (k == 6));
        n_held += held[k] > 0;
    }
    assert_int_equal(n_held, 1);
    assert_in_range(n_tuning, 25, 90);
    tokenize_report_free(&r);
    char *json;
    MUST(file_read(at("site/dataset.json"), 1 << 20, &json, NULL, err));
    assert_non_null(strstr(json, "\"split\": \"site:CARE_SITE\""));
    free(json);
    /* These sites, by name. */
    r = split_report(at("site.h5"), at("named"), "site:CARE_SITE=C,J");
    assert_string_equal(r.split_method, "site:CARE_SITE");
    read_splits(at("site.linkage.h5"), N, 1, other);
    for (int i = 0; i < N; i++)
        if (i % 11 != 10 && i != 6) assert_int_equal(other[i] == SPLIT_HELD_OUT, i % 11 == 2 || i % 11 == 9);
    tokenize_report_free(&r);
    /* Two large sites: the smaller one is held out.  Any static column will do. */
    static const char *const two[] = {"big", "big", "small"};
    write_sites(at("two.h5"), 90, two, 3);
    r = split_report(at("two.h5"), at("two"), "site:CARE_SITE");
    read_splits(at("two.linkage.h5"), 90, 1, split);
    for (int i = 0; i < 90; i++)
        if (i != 6) assert_int_equal(split[i] == SPLIT_HELD_OUT, i % 3 == 2);
    tokenize_report_free(&r);
    r = split_report(at("two.h5"), at("sexes"), "site:SEX=M");
    read_splits(at("two.linkage.h5"), 90, 1, split);
    for (int i = 0; i < 90; i++) assert_int_equal(split[i] == SPLIT_HELD_OUT, i % 2 == 1);
    tokenize_report_free(&r);
    TokenizeOptions o = made_options(at("two.h5"), at("bad"));
    static const char *const bad[][2] = {{"site:", "there are CARE_SITE, SEX"}, {"site:WARD", "no static code WARD//"},
                                         {"site:CARE_SITE=tiny", "no patient of"}, {"site:CARE_SITE=big,small,", "CARE_SITE//"},
                                         {"site:CARE_SITE=big,small", "nobody to train on"}, {"sites", "site:COLUMN was expected"}};
    for (int i = 0; i < 6; i++) {
        o.split = bad[i][0];
        made_refused(o, ERR_USAGE, bad[i][1]);
    }
    static const char *const one[] = {"only"};
    write_sites(at("one.h5"), 6, one, 1);
    o.events = at("one.h5");
    o.split = "site:CARE_SITE";
    made_refused(o, ERR_USAGE, "two sites at least");
}

static void test_split_given(void **state) {
    (void)state;
    MadeFile f = events_begin(at("given.h5"));
    for (int i = 1; i <= 40; i++) {
        events_subject(&f, i, UNDATED, i % SPLIT_COUNT);
        events_add(&f, (MadeEvent){i, 0, "VISIT//IN", KIND_VISIT_START, NONE, NULL, 0}, NULL);
    }
    events_end(&f);
    int split[40];
    TokenizeReport r = split_report(at("given.h5"), at("given"), NULL);
    assert_string_equal(r.split_method, "given");
    read_splits(at("given.linkage.h5"), 40, 1, split);
    for (int i = 0; i < 40; i++) assert_int_equal(split[i], (i + 1) % SPLIT_COUNT);
    tokenize_report_free(&r);
}

static void test_exclude(void **state) {
    (void)state;
    int split[50];
    write_patients(at("ex.h5"), 50, 1, 1, 0);
    MUST(file_write(at("ids"), "# withdrawn\n1000\n49 # and this\n\n 7\n49\n3\n", 40, err)); /* in any order */
    TokenizeOptions o = made_options(at("ex.h5"), at("ex"));
    o.exclude_file = at("ids");
    TokenizeReport r = made_tokenize(o);
    assert_int_equal(r.n_excluded, 3);
    read_splits(at("ex.linkage.h5"), 50, 1, split);
    for (int i = 0; i < 50; i++) assert_int_equal(split[i] == -1, i == 2 || i == 6 || i == 48);
    tokenize_report_free(&r);
    MUST(file_write(at("ids"), "7\n8 9\n", 6, err));
    o.out = at("ex2");
    made_refused(o, ERR_FORMAT, "line 2");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_split_sizes),   cmocka_unit_test(test_split_is_a_function_of_the_id),
        cmocka_unit_test(test_split_by_time), cmocka_unit_test(test_split_by_site),
        cmocka_unit_test(test_split_given),   cmocka_unit_test(test_exclude)};
    return cmocka_run_group_tests(tests, folder_make, folder_remove);
}
