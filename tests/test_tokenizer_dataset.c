/* test_tokenizer_dataset.c - order and bytes of what tokenize writes, by any number of threads and in any number of shards;
 * appended codes, canaries; input and folders that it must refuse. */
#include "data/commands.h"
#include "data/tokenizer_build.h"
#include "tests/make_events.h"
#include "tests/sync_watch.h"

/* Keys are the places in one shuffle over all splits; rows of a split ascend by it; nothing follows the source's order. */
static void test_order(void **state) {
    (void)state;
    write_patients(at("o.h5"), 300, 1, 1, 0);
    TokenizeReport r = made_tokenize(made_options(at("o.h5"), at("o")));
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

/* ---- refusals ------------------------------------------------------------------------------------------------------------ */

static void test_folder(void **state) {
    (void)state;
    write_patients(at("fo.h5"), 5, 1, 1, 0);
    TokenizeOptions o = made_options(at("fo.h5"), at("fo/"));
    watch_sync(at("fo"));
    watch_sync(at("fo.linkage.h5"));
    TokenizeReport r = made_tokenize(o); /* a slash at the end is fine */
    assert_int_equal(watch_lost(), 0);
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
        cmocka_unit_test(test_append_codes), cmocka_unit_test(test_canaries), cmocka_unit_test(test_order),
        cmocka_unit_test(test_same_bytes),   cmocka_unit_test(test_threads),  cmocka_unit_test(test_turns),
        cmocka_unit_test(test_shards),       cmocka_unit_test(test_long_record), cmocka_unit_test(test_folder),
        cmocka_unit_test(test_refusals),     cmocka_unit_test(test_command_line)};
    return cmocka_run_group_tests(tests, folder_make, folder_remove);
}
