/* test_tokenizer_dataset.c - splits, order and bytes of what tokenize writes; the oracle's floor; input it must refuse. */
#include "data/commands.h"
#include "data/oracle.h"
#include "data/oracle_cohort.h"
#include "kernels/philox.h"
#include "data/tokenizer_build.h"
#include "tests/make_events.h"

/* n patients with ids step, 2 step, ...; a visit each, `day` days after 2000 plus their number. */
static void write_patients(const char *path, int n, int step, int days_apart, int reverse) {
    MadeFile f = events_begin(path);
    for (int k = 0; k < n; k++) {
        int i = reverse ? n - k : k + 1;
        int64_t start = (int64_t)i * days_apart * DAY;
        events_subject(&f, (int64_t)i * step, start + 900 * DAY, SPLIT_UNSET);
        MadeEvent e[] = {{(int64_t)i * step, start, "VISIT//IN", KIND_VISIT_START, NONE, NULL, 0},
                         {(int64_t)i * step, start + 60 + i % 7, "LAB//X", KIND_LAB, (float)(i % 50), "u", 0},
                         {(int64_t)i * step, start + 2000 + i, "VISIT_END", KIND_VISIT_END, NONE, NULL, 0}};
        for (int j = 0; j < 3; j++) events_add(&f, e[reverse ? 2 - j : j], NULL);
    }
    events_end(&f);
}

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
    MUST(file_write(at("ids"), "# withdrawn\n7\n 49 # and this\n\n1000\n", 35, err));
    TokenizeOptions o = made_options(at("ex.h5"), at("ex"));
    o.exclude_file = at("ids");
    TokenizeReport r = made_tokenize(o);
    assert_int_equal(r.n_excluded, 2);
    read_splits(at("ex.linkage.h5"), 50, 1, split);
    for (int i = 0; i < 50; i++) assert_int_equal(split[i] == -1, i == 6 || i == 48);
    tokenize_report_free(&r);
    MUST(file_write(at("ids"), "7\n8 9\n", 6, err));
    o.out = at("ex2");
    made_refused(o, ERR_FORMAT, "line 2");
}

/* Keys are the places in one shuffle over all splits; rows of a split ascend by it; nothing follows the source's order. */
static void test_order(void **state) {
    (void)state;
    write_patients(at("o.h5"), 300, 1, 1, 0);
    TokenizeReport r = split_report(at("o.h5"), at("o"), NULL);
    Dataset d = made_open(at("o"));
    int seen[300] = {0};
    for (int s = 0; s < SPLIT_COUNT; s++) {
        uint64_t before = 0;
        for (int64_t row = 0; row < d.n_patients[s]; row++) {
            PatientView p;
            MUST(dataset_patient(&d, s, row, &p, err));
            assert_true(p.key < 300 && (row == 0 || p.key > before));
            before = p.key;
            seen[p.key]++;
        }
    }
    for (int i = 0; i < 300; i++) assert_int_equal(seen[i], 1);
    Table t;
    MUST(table_read_h5(&t, at("o.linkage.h5"), err));
    const uint64_t *key = table_get(&t, "patient_key", COLUMN_U64);
    const int64_t *origin = table_get(&t, "origin_us", COLUMN_I64);
    int ascending = 0;
    for (int64_t i = 0; i < t.n; i++) {
        ascending += i && key[i] > key[i - 1];
        assert_true(origin[i] == made_us((i + 1) * DAY));
    }
    assert_in_range(ascending, 110, 190);
    assert_string_equal(table_attribute(&t, "dataset_sha256"), d.sha256);
    table_free(&t);
    dataset_close(&d);
    tokenize_report_free(&r);
}

static void test_same_bytes(void **state) {
    (void)state;
    write_patients(at("s1.h5"), 200, 1, 3, 0);
    write_patients(at("s2.h5"), 200, 1, 3, 1); /* arrives in the opposite order */
    for (int separate = 0; separate < 2; separate++) {
        TokenizeOptions o = made_options(at("s1.h5"), at("s1"));
        o.separate_values = separate;
        o.overwrite = 1;
        TokenizeReport a = made_tokenize(o);
        o.out = at("s1again");
        TokenizeReport b = made_tokenize(o);
        o.out = at("s2");
        o.events = at("s2.h5");
        TokenizeReport c = made_tokenize(o);
        assert_same_folder(at("s1"), at("s1again"));
        assert_same_folder(at("s1"), at("s2"));
        tokenize_report_free(&a);
        tokenize_report_free(&b);
        tokenize_report_free(&c);
    }
}

/* Another place's records: the same lab, one that is new, and a new diagnosis that too few have. */
static void write_elsewhere(const char *path, int n) {
    MadeFile f = events_begin(path);
    for (int i = 1; i <= n; i++) {
        const int64_t start = (int64_t)i * DAY;
        events_subject(&f, i, start + 900 * DAY, SPLIT_UNSET);
        MadeEvent e[] = {{i, start, "VISIT//IN", KIND_VISIT_START, NONE, NULL, 0},
                         {i, start + 60, "LAB//X", KIND_LAB, (float)(i % 37), "u", 0},
                         {i, start + 70, "LAB//Y", KIND_LAB, (float)(i % 41), "v", 0},
                         {i, start + 80, "DX//N", KIND_DIAGNOSIS, NONE, NULL, 0},
                         {i, start + 90, i == 1 ? "DX//RARE" : "DX//N", KIND_DIAGNOSIS, NONE, NULL, 0}};
        for (int j = 0; j < 5; j++) events_add(&f, e[j], NULL);
    }
    events_end(&f);
}

/* Some records are so long that others are built meanwhile: whoever does not wait for their turn is seen. */
static void write_unequal(const char *path, int n, const char *lab) {
    MadeFile f = events_begin(path);
    for (int64_t i = 1; i <= n; i++) {
        int events = i % 90 == 1 ? 40000 : 3;
        events_subject(&f, i, (events + 10) * DAY, SPLIT_TRAIN);
        for (int64_t k = 0; k < events; k++)
            events_add(&f, (MadeEvent){i, k * DAY, lab, KIND_LAB, (float)((i * 7 + k * k) % 53), "u", 0}, NULL);
    }
    events_end(&f);
}

typedef struct {
    int64_t next, n_events[2000];
} Taken;

static Status take_in_order(void *context, int64_t place, const BuiltPatient *p, Err *err) {
    Taken *t = context;
    if (place != t->next || p->row != place) return err_set(err, ERR_FORMAT, "patient %lld out of turn", (long long)place);
    t->next++;
    t->n_events[place] = p->n_events;
    return OK;
}

/* The first patient takes longer than all others together: those wait. */
static void test_turns(void **state) {
    (void)state;
    enum { N = 2000, LONG = 400000 };
    MadeFile f = events_begin(at("turns.h5"));
    static int64_t rows[N];
    for (int64_t i = 1; i <= N; i++) {
        rows[i - 1] = i - 1;
        events_subject(&f, i, LONG + 9, SPLIT_TRAIN);
        for (int64_t k = 0; k < (i == 1 ? LONG : 2); k++)
            events_add(&f, (MadeEvent){i, k, "LAB//X", KIND_LAB, (float)(k % 53), "u", 0}, NULL);
    }
    events_end(&f);
    TokenizeOptions o = made_options(at("turns.h5"), at("turns"));
    TokenizeReport r = made_tokenize(o);
    tokenize_report_free(&r);
    Dataset d = made_open(at("turns"));
    EventFile file;
    MUST(event_file_open(&file, at("turns.h5"), err));
    for (int threads = 1; threads <= 4; threads++) {
        TokenMap map;
        TimelineBuild b;
        TokenizeCounts counts = {.values = 0};
        static Taken taken;
        taken = (Taken){0};
        MUST(token_map_open(&map, &d.vocabulary, &file, err));
        MUST(build_open(&b, &map, &file, NULL, threads, err));
        MUST(build_run(&b, rows, N, take_in_order, &taken, err));
        build_counts(&b, &counts);
        assert_int_equal(taken.next, N);
        assert_int_equal(taken.n_events[0], LONG);
        assert_int_equal(counts.values, LONG + 2 * (N - 1));
        build_close(&b);
        token_map_close(&map);
    }
    event_file_close(&file);
    dataset_close(&d);
}

/* One thread or seven, of an own vocabulary and of a frozen one, whose drift is counted: the same folder. */
static void test_threads(void **state) {
    (void)state;
    write_unequal(at("home.h5"), 500, "LAB//X");
    write_unequal(at("away.h5"), 400, "LAB//X");
    for (int frozen = 0; frozen < 2; frozen++)
        for (int threads = 1; threads <= 7; threads += 3) {
            char *out = xasprintf("%d-%d", frozen, threads);
            TokenizeOptions o = made_options(at(frozen ? "away.h5" : "home.h5"), at(out));
            o.threads = threads;
            o.vocabulary = frozen ? at("0-1") : NULL;
            TokenizeReport r = made_tokenize(o);
            assert_int_equal(r.n_drift > 0, frozen);
            if (threads > 1) assert_same_folder(at(frozen ? "1-1" : "0-1"), at(out));
            tokenize_report_free(&r);
            free(out);
        }
    /* Whoever fails ends it for all: a record of 4,000 years, and those behind it. */
    MadeFile f = events_begin(at("long.h5"));
    for (int64_t i = 1; i <= 300; i++) {
        events_subject(&f, i, UNDATED, SPLIT_TRAIN);
        events_add(&f, (MadeEvent){i, 0, "DX//N", KIND_DIAGNOSIS, NONE, NULL, 0}, NULL);
        if (i == 150) events_add(&f, (MadeEvent){i, (int64_t)1 << 33, "DX//N", KIND_DIAGNOSIS, NONE, NULL, 0}, NULL);
    }
    events_end(&f);
    for (int threads = 1; threads <= 7; threads += 3) {
        TokenizeOptions o = made_options(at("long.h5"), at("long"));
        o.threads = threads;
        o.vocabulary = at("0-1");
        made_refused(o, ERR_FORMAT, "4,000 years");
    }
}

static void test_append_codes(void **state) {
    (void)state;
    write_patients(at("home.h5"), 300, 1, 1, 0);
    write_elsewhere(at("away.h5"), 300);
    for (int separate = 0; separate < 2; separate++) {
        TokenizeOptions o = made_options(at("home.h5"), at("home"));
        o.separate_values = separate;
        o.overwrite = 1;
        TokenizeReport home = made_tokenize(o);
        o = made_options(at("away.h5"), at("frozen"));
        o.vocabulary = at("home");
        o.min_patients = 5;
        o.overwrite = 1;
        TokenizeReport frozen = made_tokenize(o);
        o.out = at("away");
        o.append_codes = 1;
        TokenizeReport away = made_tokenize(o);
        Dataset a = made_open(at("home")), f = made_open(at("frozen")), b = made_open(at("away"));
        const Vocabulary *v = &b.vocabulary;
        assert_int_equal(frozen.n_vocabulary, home.n_vocabulary);
        assert_int_equal(away.n_vocabulary, home.n_vocabulary + away.n_appended);
        for (int i = 0; i < a.vocabulary.n; i++) {
            assert_string_equal(v->token[i].code, a.vocabulary.token[i].code);
            assert_true(v->token[i].lo == a.vocabulary.token[i].lo && v->token[i].hi == a.vocabulary.token[i].hi);
        }
        const VocabEdges *x = vocabulary_edges(v, "LAB//X", "u"), *was = vocabulary_edges(&a.vocabulary, "LAB//X", "u");
        const VocabEdges *y = vocabulary_edges(v, "LAB//Y", "v");
        assert_int_equal(x->n, was->n);
        assert_memory_equal(x->edge, was->edge, (size_t)x->n * sizeof *x->edge);
        assert_non_null(y);
        /* DX//N, and LAB//Y: itself, or its levels when they are fused. */
        assert_int_equal(away.n_appended, 1 + (separate ? 1 : y->n + 1));
        assert_true(vocabulary_find(v, "DX//N") >= home.n_vocabulary);
        assert_int_equal(vocabulary_find(v, "DX//RARE"), -1);
        assert_true(tokenize_unknown_share(&frozen.counts, KIND_DIAGNOSIS) == 1);
        assert_true(tokenize_unknown_share(&away.counts, KIND_DIAGNOSIS) * (double)away.counts.events[KIND_DIAGNOSIS] == 1);
        PatientView p, q;
        MUST(dataset_patient(&f, SPLIT_TRAIN, 0, &p, err));
        MUST(dataset_patient(&b, SPLIT_TRAIN, 0, &q, err));
        for (int64_t i = 0, k = 0; i < p.n; i++) { /* what was known reads as before */
            const int known = (int)patient_token(&p, i);
            if (a.vocabulary.token[known].kind == TOKEN_UNKNOWN) continue;
            while (k < q.n && (int)patient_token(&q, k) != known) k++;
            assert_true(k < q.n);
        }
        dataset_close(&a);
        dataset_close(&f);
        dataset_close(&b);
        tokenize_report_free(&home);
        tokenize_report_free(&frozen);
        tokenize_report_free(&away);
    }
}

static void test_canaries(void **state) {
    (void)state;
    enum { N = 3, COPIES = 4 };
    write_patients(at("can.h5"), 200, 1, 1, 0);
    TokenizeOptions o = made_options(at("can.h5"), at("plain"));
    TokenizeReport plain = made_tokenize(o);
    o.out = at("can");
    o.canaries = N;
    o.canary_copies = COPIES;
    TokenizeReport r = made_tokenize(o);
    assert_int_equal(r.n_patients[SPLIT_TRAIN], plain.n_patients[SPLIT_TRAIN] + N * COPIES);
    Dataset d = made_open(at("can")), ref = made_open(at("can.canaries"));
    assert_non_null(strstr(d.json, "\"canaries\""));
    assert_non_null(strstr(ref.json, "\"canaries\""));
    assert_string_equal(d.vocabulary.sha256, ref.vocabulary.sha256);
    assert_int_equal(d.n_patients[SPLIT_TRAIN], r.n_patients[SPLIT_TRAIN]);
    assert_int_equal(d.n_patients[SPLIT_HELD_OUT], plain.n_patients[SPLIT_HELD_OUT]);
    assert_int_equal(ref.n_patients[SPLIT_HELD_OUT], N + 1000);
    assert_int_equal(ref.n_patients[SPLIT_TRAIN] + ref.n_patients[SPLIT_TUNING], 0);
    for (int i = 0; i < N * COPIES; i++) { /* the last of the train split, copy beside copy */
        PatientView p, q, other;
        MUST(dataset_patient(&d, SPLIT_TRAIN, plain.n_patients[SPLIT_TRAIN] + i, &p, err));
        MUST(dataset_patient(&ref, SPLIT_HELD_OUT, i / COPIES, &q, err));
        MUST(dataset_patient(&ref, SPLIT_HELD_OUT, N + i, &other, err));
        assert_true(p.key >> 62 == 1 && (int64_t)q.key == i / COPIES && p.n == q.n);
        int same = 1;
        for (int64_t k = 0; k < p.n; k++) {
            assert_int_equal(patient_token(&p, k), patient_token(&q, k));
            assert_int_equal(d.vocabulary.token[patient_token(&p, k)].kind, TOKEN_EVENT);
            same &= patient_token(&p, k) == patient_token(&other, k);
        }
        assert_false(same);
    }
    dataset_close(&d);
    dataset_close(&ref);
    tokenize_report_free(&plain);
    tokenize_report_free(&r);
}

/* Shards of a few patients and one shard hold the same records. */
static void test_shards(void **state) {
    (void)state;
    write_patients(at("sh.h5"), 300, 1, 3, 0);
    TokenizeOptions o = made_options(at("sh.h5"), at("one"));
    TokenizeReport a = made_tokenize(o);
    o.out = at("many");
    o.shard_size = 1024;
    TokenizeReport b = made_tokenize(o);
    assert_true(path_exists(at("many/train-00005.h5")) && path_exists(at("one/train-00000.h5")));
    assert_false(path_exists(at("one/train-00001.h5")));
    Dataset x = made_open(at("one")), y = made_open(at("many"));
    for (int s = 0; s < SPLIT_COUNT; s++) {
        assert_int_equal(x.n_patients[s], y.n_patients[s]);
        for (int64_t row = 0; row < x.n_patients[s]; row++) {
            PatientView p, q;
            MUST(dataset_patient(&x, s, row, &p, err));
            MUST(dataset_patient(&y, s, row, &q, err));
            char *m = made_story(&x, &p), *n = made_story(&y, &q);
            assert_string_equal(m, n);
            assert_true(p.key == q.key && p.observation_end == q.observation_end);
            free(m);
            free(n);
        }
    }
    dataset_close(&x);
    dataset_close(&y);
    tokenize_report_free(&a);
    tokenize_report_free(&b);
}

static void test_long_record(void **state) {
    (void)state;
    enum { LONG = 200000 };
    MadeFile f = events_begin(at("long.h5"));
    events_subject(&f, 1, UNDATED, SPLIT_TRAIN);
    for (int i = 0; i < LONG; i++) {
        char code[16];
        snprintf(code, sizeof code, "DX//%d", i % 97);
        events_add(&f, (MadeEvent){1, (int64_t)i * 10, code, KIND_DIAGNOSIS, NONE, NULL, 0}, NULL);
    }
    events_end(&f);
    TokenizeReport r = made_tokenize(made_options(at("long.h5"), at("long")));
    assert_int_equal(r.n_tokens[SPLIT_TRAIN], 2 * LONG - 1);
    Dataset d = made_open(at("long"));
    PatientView p = made_patient_of(&d, at("long.linkage.h5"), 1);
    for (int64_t i = 0; i < LONG; i++) {
        char code[16];
        snprintf(code, sizeof code, "DX//%d", (int)(i % 97));
        assert_int_equal(patient_token(&p, 2 * i), vocabulary_find(&d.vocabulary, code));
        assert_int_equal(p.minutes[2 * i], 10 * i);
    }
    dataset_close(&d);
    tokenize_report_free(&r);
}

/* ---- the oracle's floor -------------------------------------------------------------------------------------------------- */

static double counted_logp(const char *dataset, int64_t *counted, int floor_valid) {
    Dataset d = made_open(dataset);
    double sum = 0;
    *counted = 0;
    assert_int_equal(d.floor_valid, floor_valid);
    assert_string_equal(d.deidentification, "synthetic");
    for (int s = 0; s < SPLIT_COUNT; s++)
        for (int64_t row = 0; row < d.n_patients[s]; row++) {
            PatientView p;
            MUST(dataset_patient(&d, s, row, &p, err));
            for (int64_t i = 0, ended = 0; i < p.n; i++) {
                if (isnan(p.oracle_logp[i])) {
                    ended = 1;
                    continue;
                }
                assert_true(!ended || !floor_valid); /* what is not counted comes after what is */
                assert_true(p.oracle_logp[i] <= 0);
                sum += p.oracle_logp[i];
                ++*counted;
            }
        }
    dataset_close(&d);
    return sum;
}

/* All that the events file says is counted, gaps, whats and levels together. */
static double stored_logp(const char *path) {
    EventFile f;
    OracleFile o;
    double sum = 0;
    MUST(event_file_open(&f, path, err));
    MUST(oracle_file_open(&o, path, f.n_patients, f.n_events, err));
    const uint64_t *offset;
    const float *logp;
    MUST(oracle_file_events(&o, 0, f.n_events, &offset, &logp, err));
    for (uint64_t i = 0; i < offset[f.n_events]; i++) sum += isnan(logp[i]) ? 0 : logp[i];
    oracle_file_close(&o);
    event_file_close(&f);
    return sum;
}

/* A record of the law's tokens, or (foreign) with one that the law does not know. */
static int small_floor(const char *path, const char *out, int foreign) {
    MadeFile f = events_begin(path);
    events_subject(&f, 1, 5000, SPLIT_TRAIN);
    events_add(&f, (MadeEvent){1, UNDATED, oracle_sex_code(0), KIND_STATIC, NONE, NULL, 0}, NULL);
    events_add(&f, (MadeEvent){1, UNDATED, oracle_race_code(0), KIND_STATIC, NONE, NULL, 0}, NULL);
    events_add(&f, (MadeEvent){1, 0, oracle_item(ORACLE_VISIT_OUT).code, KIND_VISIT_START, NONE, NULL, 0}, NULL);
    OracleItem drug = oracle_item(ORACLE_DRUG);
    events_add(&f, (MadeEvent){1, 1, foreign ? "ATC//X99" : drug.code, KIND_DRUG, NONE, NULL, 0}, NULL);
    events_add(&f, (MadeEvent){1, 2 + DAY, oracle_item(ORACLE_VISIT_OUT).code, KIND_VISIT_START, NONE, NULL, 0}, NULL);
    events_end(&f);
    const uint8_t count[] = {0, 0, 2, 2, 3};
    const float   logp[] = {-1, 0, -2, 0, -0.5f, -0.25f, 0};
    const int64_t index[] = {made_us(2 + DAY)};
    const double  risk[] = {0.5, 0.1};
    const OracleFileOutcome outcome = {"death", "MEDS_DEATH", 1};
    OracleFileContent c = {1, 5, 7, count, logp, index, 1, &outcome, risk, 1, 1};
    MUST(oracle_file_write(&c, path, err));
    TokenizeOptions o = made_options(path, out);
    o.vocabulary = at("fused.json");
    TokenizeReport r = made_tokenize(o);
    int valid = r.floor_valid;
    Dataset d = made_open(out);
    PatientView p;
    MUST(dataset_patient(&d, SPLIT_TRAIN, 0, &p, err));
    const float expected[] = {-1, foreign ? NAN : -2, -0.5f, -0.25f};
    assert_int_equal(p.n, 4);
    for (int i = 0; i < 4; i++) assert_true(p.oracle_logp[i] == expected[i] || (isnan(p.oracle_logp[i]) && isnan(expected[i])));
    dataset_close(&d);
    tokenize_report_free(&r);
    return valid;
}

static void test_oracle(void **state) {
    (void)state;
    OracleCohortOptions co = {.patients = 300, .seed = 3, .max_tokens = 500, .risk_samples = 0, .threads = 1};
    double seconds;
    MUST(oracle_cohort_draw(&co, at("oracle.h5"), NULL, &seconds, err));
    char *fused = oracle_vocabulary_format(0), *separate = oracle_vocabulary_format(1);
    MUST(file_write(at("fused.json"), fused, strlen(fused), err));
    MUST(file_write(at("separate.json"), separate, strlen(separate), err));
    TokenizeOptions o = made_options(at("oracle.h5"), at("of"));
    o.vocabulary = at("fused.json");
    TokenizeReport r = made_tokenize(o);
    assert_true(r.oracle && r.floor_valid);
    tokenize_report_free(&r);
    o.vocabulary = at("separate.json");
    o.out = at("os");
    r = made_tokenize(o);
    assert_true(r.floor_valid && r.separate_values);
    tokenize_report_free(&r);
    int64_t n_fused, n_separate, n_fitted;
    double lp_fused = counted_logp(at("of"), &n_fused, 1), lp_separate = counted_logp(at("os"), &n_separate, 1);
    assert_true(n_separate > n_fused && n_fused > 300 * 50);
    double stored = stored_logp(at("oracle.h5"));
    assert_float_equal(lp_fused, stored, 1e-6 * fabs(stored));
    assert_float_equal(lp_separate, stored, 1e-6 * fabs(stored));
    assert_true(small_floor(at("small.h5"), at("small"), 0));
    assert_false(small_floor(at("foreign.h5"), at("foreign"), 1));
    OracleScore score;
    MUST(oracle_score_dataset(at("of"), &score, NULL, err));
    assert_true(score.max_diff < 1e-5 && score.impossible == 0);
    assert_int_equal(score.counted, n_fused);
    MUST(oracle_score_dataset(at("os"), &score, NULL, err));
    assert_true(score.max_diff < 1e-5 && score.impossible == 0);
    /* A vocabulary fitted to the cohort is not the law's. */
    o.vocabulary = NULL;
    o.out = at("or");
    r = made_tokenize(o);
    assert_false(r.floor_valid);
    assert_non_null(strstr(r.floor_reason, "fitted"));
    tokenize_report_free(&r);
    counted_logp(at("or"), &n_fitted, 0);
    /* Nor is one whose edges lie elsewhere, though every token has its name. */
    char *edge = strstr(strstr(fused, "\"edges\""), ": [") + 3;
    *edge = *edge == '1' ? '2' : '1';
    Vocabulary v;
    Err err = {0};
    if (!vocabulary_parse(&v, fused, strlen(fused), "moved", &err)) {
        vocabulary_free(&v);
        MUST(file_write(at("moved.json"), fused, strlen(fused), err));
        o.vocabulary = at("moved.json");
        o.out = at("om");
        r = made_tokenize(o);
        assert_false(r.floor_valid);
        assert_non_null(strstr(r.floor_reason, "edges"));
        tokenize_report_free(&r);
    }
    free(fused);
    free(separate);
}

/* ---- refusals ------------------------------------------------------------------------------------------------------------ */

static void test_folder(void **state) {
    (void)state;
    write_patients(at("fo.h5"), 5, 1, 1, 0);
    TokenizeOptions o = made_options(at("fo.h5"), at("fo/"));
    TokenizeReport r = made_tokenize(o); /* a slash at the end is fine */
    tokenize_report_free(&r);
    o.out = at("fo");
    made_refused(o, ERR_USAGE, "exists");
    MUST(dir_make(at("fo/labels"), err));
    MUST(file_write(at("fo/labels/x.h5"), "x", 1, err));
    o.overwrite = 1;
    o.seed = 9;
    r = made_tokenize(o);
    tokenize_report_free(&r);
    assert_false(path_exists(at("fo/labels"))); /* labels of the old tokens */
    assert_false(path_exists(at("fo.old.tmp")));
    Dataset d = made_open(at("fo"));
    dataset_close(&d);
    /* Somebody's folder is not replaced, and what lies in the way is not ours to remove. */
    MUST(dir_make(at("mine"), err));
    MUST(file_write(at("mine/thesis.txt"), "x", 1, err));
    o.out = at("mine");
    made_refused(o, ERR_USAGE, "is not one");
    assert_true(path_exists(at("mine/thesis.txt")));
    MUST(dir_make(at("w.tmp"), err));
    MUST(file_write(at("w.tmp/thesis.txt"), "x", 1, err));
    TokenizeReport none;
    Err err = {0};
    o.out = at("w");
    assert_int_equal(tokenize_events(&o, &none, &err), ERR_IO);
    assert_true(path_exists(at("w.tmp/thesis.txt")));
    /* What a killed run left behind is. */
    MUST(dir_make(at("k.tmp"), err));
    MUST(file_write(at("k.tmp/train-00000.h5.tmp"), "x", 1, err));
    o.out = at("k");
    r = made_tokenize(o);
    tokenize_report_free(&r);
}

static void test_refusals(void **state) {
    (void)state;
    made_refused(made_options(at("absent.h5"), at("x")), ERR_IO, "absent.h5");
    MUST(file_write(at("text.h5"), "hello", 5, err));
    made_refused(made_options(at("text.h5"), at("x")), ERR_FORMAT, "text.h5");
    const MadeEvent statics[] = {{1, UNDATED, "SEX//F", KIND_STATIC, NONE, NULL, 0}, {1, 5, "MEDS_BIRTH", KIND_BIRTH, NONE, NULL, 0}, {0}};
    events_write(at("statics.h5"), statics);
    made_refused(made_options(at("statics.h5"), at("x")), ERR_FORMAT, "no patient with a timed event");
    const MadeEvent ours[] = {{1, 5, "GAP//=6mt", KIND_LAB, NONE, NULL, 0}, {0}};
    events_write(at("ours.h5"), ours);
    made_refused(made_options(at("ours.h5"), at("x")), ERR_FORMAT, "tokens of our own");
    MadeFile f = events_begin(at("aeons.h5"));
    events_subject(&f, 1, UNDATED, SPLIT_TRAIN);
    events_add(&f, (MadeEvent){1, -3000000000ll, "DX//A", KIND_DIAGNOSIS, NONE, NULL, 0}, NULL);
    events_add(&f, (MadeEvent){1, 3000000000ll, "DX//B", KIND_DIAGNOSIS, NONE, NULL, 0}, NULL);
    events_end(&f);
    made_refused(made_options(at("aeons.h5"), at("x")), ERR_FORMAT, "4,000 years");
}

static void test_command_line(void **state) {
    (void)state;
    static char *const row[][8] = {{"a.h5", NULL},
                                   {"--out", "d", NULL},
                                   {"a.h5", "--out", "d", "--vocabulary", "v.json", "--values", "separate", NULL},
                                   {"a.h5", "--out", "d", "--vocabulary", "v.json", "--age-bin", "5", NULL},
                                   {"a.h5", "--out", "d", "--append-codes", NULL},
                                   {"a.h5", "--out", "d", "--age-bin", "2", NULL},
                                   {"a.h5", "--out", "d", "--values", "fuse", NULL},
                                   {"a.h5", "--out", "d", "--min-patients", "-1", NULL},
                                   {"a.h5", "--out", "d", "--shard-size", "12x", NULL},
                                   {"a.h5", "b.h5", "--out", "d", NULL},
                                   {"a.h5", "--out", "d", "--spilt", "patient", NULL}};
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        int argc = 0;
        char *argv[8];
        while (row[i][argc]) argv[argc] = row[i][argc], argc++;
        Err err = {0};
        assert_int_equal(cmd_tokenize(argc, argv, &err), ERR_USAGE);
        assert_true(err.msg[0] != 0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_split_sizes), cmocka_unit_test(test_split_is_a_function_of_the_id),
        cmocka_unit_test(test_split_by_time), cmocka_unit_test(test_split_by_site), cmocka_unit_test(test_split_given), cmocka_unit_test(test_exclude),
        cmocka_unit_test(test_append_codes),
        cmocka_unit_test(test_canaries),
        cmocka_unit_test(test_order),       cmocka_unit_test(test_same_bytes), cmocka_unit_test(test_threads), cmocka_unit_test(test_turns),    cmocka_unit_test(test_shards),
        cmocka_unit_test(test_long_record), cmocka_unit_test(test_oracle),        cmocka_unit_test(test_folder),
        cmocka_unit_test(test_refusals),    cmocka_unit_test(test_command_line)};
    return cmocka_run_group_tests(tests, folder_make, folder_remove);
}
