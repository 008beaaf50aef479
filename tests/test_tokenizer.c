/* test_tokenizer.c - the rules that turn events into tokens, each on hand-made events with the tokens written out. */
#include "tests/make_events.h"

/* ---- time -------------------------------------------------------------------------------------------------------------- */

static void test_timeline(void **state) {
    (void)state;
    const MadeEvent e[] = {
        {1, 100, "VISIT//IN", KIND_VISIT_START, NONE, NULL, 0},
        {1, UNDATED, "SEX//F", KIND_STATIC, NONE, NULL, 0},
        {1, UNDATED, "RACE//A", KIND_STATIC, NONE, NULL, 0},
        {1, UNDATED, "LANGUAGE//X", KIND_STATIC, NONE, NULL, 0},
        {1, 100 - 40 * 365 * DAY - 20 * DAY, "MEDS_BIRTH", KIND_BIRTH, NONE, NULL, 0},
        {1, 104, "DRUG//D", KIND_DRUG, NONE, NULL, 0},          /* 4 minutes: no gap */
        {1, 109, "DX//B", KIND_DIAGNOSIS, NONE, NULL, 0},       /* 5 minutes: the first bin */
        {1, 109, "DX//A", KIND_DIAGNOSIS, NONE, NULL, 0},       /* same minute: by code */
        {1, 109, "PROC//P", KIND_PROCEDURE, NONE, NULL, 0},     /* after diagnoses */
        {1, 109, "LAB//L", KIND_LAB, NONE, NULL, 0},            /* before them */
        {1, 109 + 400 * DAY, "VISIT//OUT", KIND_VISIT_START, NONE, NULL, 0}, /* 2 x 180 d, then 40 d */
        {1, 109 + 580 * DAY, "DX//A", KIND_DIAGNOSIS, NONE, NULL, 0},        /* 180 d: no remainder */
        {1, 109 + 580 * DAY + 90, "MEDS_DEATH", KIND_DEATH, NONE, NULL, 0},
        {1, 109 + 580 * DAY + 90, "DX//B", KIND_DIAGNOSIS, NONE, NULL, 0},   /* of the same minute: told before death */
        {1, 109 + 581 * DAY, "DRUG//D", KIND_DRUG, NONE, NULL, 0},           /* after death */
        {2, 7, "VISIT//OUT", KIND_VISIT_START, NONE, NULL, 0},               /* a record of one event */
        {0}};
    events_write(at("a.h5"), e);
    TokenizeReport r = made_tokenize(made_options(at("a.h5"), at("a")));
    Dataset d = made_open(at("a"));
    assert_story(&d, at("a.linkage.h5"), 1,
                 "RECORD_START SEX//F RACE//A AGE//40 | VISIT//IN@0 DRUG//D@4 GAP//5min-15min@9 LAB//L DX//A DX//B PROC//P "
                 "GAP//=6mt@259209 GAP//=6mt@518409 GAP//30d-2mt@576009 VISIT//OUT GAP//=6mt@835209 DX//A "
                 "GAP//1h15min-2h@835299 DX//B MEDS_DEATH");
    assert_story(&d, at("a.linkage.h5"), 2, "RECORD_START SEX//UNKNOWN RACE//UNKNOWN AGE//UNKNOWN | VISIT//OUT@0");
    assert_int_equal(r.counts.after_death, 1);
    assert_int_equal(r.counts.static_unused, 1);
    assert_int_equal(r.counts.static_unknown, 2);
    assert_int_equal(r.counts.age_unknown, 1);
    assert_int_equal(r.n_tokens[SPLIT_TRAIN], 17);
    assert_int_equal(r.n_events[SPLIT_TRAIN], 11);
    dataset_close(&d);
    tokenize_report_free(&r);
}

static void test_gap_split(void **state) {
    (void)state;
    struct {
        int32_t gap, long_gaps;
        int     bin;
    } const row[] = {{0, 0, -1},          {4, 0, -1},           {5, 0, 0},
                     {14, 0, 0},          {15, 0, 1},           {180 * DAY - 1, 0, 17},
                     {180 * DAY, 1, -1},  {180 * DAY + 4, 1, -1}, {180 * DAY + 5, 1, 0},
                     {400 * DAY, 2, 16},  {INT32_MAX, 8285, 13}};
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        int bin;
        assert_int_equal(gap_split(row[i].gap, &bin), row[i].long_gaps);
        assert_int_equal(bin, row[i].bin);
    }
}

/* Seconds are floored from the origin on, not from midnight or event to event. */
static void test_seconds(void **state) {
    (void)state;
    MadeFile f = events_begin(at("sec.h5"));
    events_subject(&f, 1, UNDATED, SPLIT_TRAIN);
    uint32_t code;
    const int second[] = {50, 110, 349, 350}; /* 0, 60, 299 and 300 s after the first */
    for (int i = 0; i < 4; i++) {
        char name[8] = {'X', '/', '/', (char)('a' + i), 0};
        MUST(event_writer_code(f.w, name, KIND_OTHER, NULL, NULL, &code, err));
        int64_t us = made_us(0) + second[i] * 1000000ll;
        Event e = {.subject = 1, .time = us, .available = us, .code = code, .value = NONE};
        MUST(event_writer_add(f.w, &e, err));
    }
    events_end(&f);
    TokenizeReport r = made_tokenize(made_options(at("sec.h5"), at("sec")));
    Dataset d = made_open(at("sec"));
    assert_story(&d, at("sec.linkage.h5"), 1, "RECORD_START SEX//UNKNOWN AGE//UNKNOWN | X//a@0 X//b@1 X//c@4 X//d@5");
    dataset_close(&d);
    tokenize_report_free(&r);
}

/* Order is by when things were known; what happened earlier but came late is told late. */
static void test_available(void **state) {
    (void)state;
    MadeFile f = events_begin(at("av.h5"));
    events_subject(&f, 1, 20000, SPLIT_TRAIN);
    const struct {
        const char *code;
        int         kind;
        int64_t     time, available;
    } row[] = {{"DX//late", KIND_DIAGNOSIS, 0, 2880}, {"VISIT//IN", KIND_VISIT_START, 1440, 1440}, {"VISIT_END", KIND_VISIT_END, 2880, 2880}};
    for (int i = 0; i < 3; i++) {
        uint32_t code;
        MUST(event_writer_code(f.w, row[i].code, row[i].kind, NULL, NULL, &code, err));
        Event e = {.subject = 1, .time = made_us(row[i].time), .available = made_us(row[i].available), .code = code, .value = NONE};
        MUST(event_writer_add(f.w, &e, err));
    }
    events_end(&f);
    TokenizeReport r = made_tokenize(made_options(at("av.h5"), at("av")));
    Dataset d = made_open(at("av"));
    assert_story(&d, at("av.linkage.h5"), 1, "RECORD_START SEX//UNKNOWN AGE//UNKNOWN | VISIT//IN@0 GAP//1d-2d@1440 DX//late VISIT_END");
    PatientView p = made_patient_of(&d, at("av.linkage.h5"), 1);
    assert_int_equal(p.observation_end, 20000 - 1440);
    dataset_close(&d);
    tokenize_report_free(&r);
}

static void test_ages(void **state) {
    (void)state;
    const int64_t year = 525960; /* 365.25 d */
    MadeFile f = events_begin(at("age.h5"));
    /* age at the first event, years of record, age token expected; the second is one minute short of 90 */
    const struct {
        int64_t     first, span;
        const char *age;
        int         group;
    } row[] = {{40 * year, 10 * year, "AGE//40", 3},    {80 * year, 10 * year - 1, "AGE//80", 5}, {80 * year, 10 * year, "AGE//80", 5},
               {80 * year, 15 * year, "AGE//75", 5},    {95 * year, 0, "AGE//90+", 5},            {105 * year, 100 * year, "AGE//0", 5},
               {year - 1, 0, "AGE//0", 1},              {-5 * DAY, 10, "AGE//0", 1},              {18 * year, 0, "AGE//18", 2}};
    int n = sizeof row / sizeof *row;
    for (int i = 0; i < n; i++) {
        events_subject(&f, i + 1, UNDATED, SPLIT_TRAIN);
        events_add(&f, (MadeEvent){i + 1, -row[i].first, "MEDS_BIRTH", KIND_BIRTH, NONE, NULL, 0}, NULL);
        events_add(&f, (MadeEvent){i + 1, 0, "VISIT//IN", KIND_VISIT_START, NONE, NULL, 0}, NULL);
        events_add(&f, (MadeEvent){i + 1, row[i].span, "VISIT_END", KIND_VISIT_END, NONE, NULL, 0}, NULL);
    }
    events_end(&f);
    TokenizeReport r = made_tokenize(made_options(at("age.h5"), at("age")));
    Dataset d = made_open(at("age"));
    for (int i = 0; i < n; i++) {
        PatientView p = made_patient_of(&d, at("age.linkage.h5"), i + 1);
        int32_t prefix[8];
        assert_int_equal(dataset_prefix(&d, &p, 0, prefix, 8), 3);
        assert_string_equal(d.vocabulary.token[prefix[2]].code, row[i].age);
        assert_int_equal(p.group[1], row[i].group);
        /* Nobody is ever past 90: the age that any token's time implies is capped with the axis. */
        assert_true(p.age_years + p.minutes[p.n - 1] / 525960.0 <= 100 || row[i].span > 90 * year);
    }
    assert_int_equal(r.counts.age_shifted, 4);
    assert_int_equal(r.counts.age_negative, 1);
    TokenizeOptions five = made_options(at("age.h5"), at("age5"));
    five.age_bin_years = 5;
    TokenizeReport r5 = made_tokenize(five);
    Dataset d5 = made_open(at("age5"));
    PatientView p = made_patient_of(&d5, at("age.linkage.h5"), 9);
    int32_t prefix[8];
    dataset_prefix(&d5, &p, 0, prefix, 8);
    assert_string_equal(d5.vocabulary.token[prefix[2]].code, "AGE//15-19");
    assert_int_equal(d5.vocabulary.n_age, 19);
    dataset_close(&d);
    dataset_close(&d5);
    tokenize_report_free(&r);
    tokenize_report_free(&r5);
}

static void test_observation_end(void **state) {
    (void)state;
    MadeFile f = events_begin(at("obs.h5"));
    const int64_t end[] = {50000, UNDATED, 3, 50000};
    for (int i = 0; i < 4; i++) {
        events_subject(&f, i + 1, end[i], SPLIT_TRAIN);
        events_add(&f, (MadeEvent){i + 1, 10, "VISIT//IN", KIND_VISIT_START, NONE, NULL, 0}, NULL);
        events_add(&f, (MadeEvent){i + 1, 40, i == 3 ? "MEDS_DEATH" : "VISIT_END", i == 3 ? KIND_DEATH : KIND_VISIT_END, NONE, NULL, 0}, NULL);
    }
    events_end(&f);
    TokenizeReport r = made_tokenize(made_options(at("obs.h5"), at("obs")));
    Dataset d = made_open(at("obs"));
    const int expected[] = {49990, 30, 30, 30};
    for (int i = 0; i < 4; i++) assert_int_equal(made_patient_of(&d, at("obs.linkage.h5"), i + 1).observation_end, expected[i]);
    dataset_close(&d);
    tokenize_report_free(&r);
}

/* The quantiles of a gap bin are those of the gaps seen, once there are enough of them. */
static void test_gap_quantiles(void **state) {
    (void)state;
    MadeFile f = events_begin(at("gq.h5"));
    events_subject(&f, 1, UNDATED, SPLIT_TRAIN);
    int64_t minute = 0;
    for (int i = 0; i < 160; i++) {
        char code[32];
        snprintf(code, sizeof code, "X//%d", i % 3);
        events_add(&f, (MadeEvent){1, minute, code, KIND_OTHER, NONE, NULL, 0}, NULL);
        minute += DAY + i; /* 1440 .. 1599 minutes, all in the bin 1d-2d */
    }
    events_end(&f);
    TokenizeReport r = made_tokenize(made_options(at("gq.h5"), at("gq")));
    Dataset d = made_open(at("gq"));
    const Vocabulary *v = &d.vocabulary;
    int day = vocabulary_find(v, "GAP//1d-2d") - v->gap_lo;
    for (int i = 0; i < GAP_QUANTILES; i++) {
        assert_true(fabs(v->gap_quantile[day][i] - (1440 + (i + 0.5) / 16 * 159)) <= 1);
        assert_float_equal(v->gap_quantile[0][i], 5 + (i + 0.5) / 16 * 10, 1e-9); /* none seen: across the bin */
    }
    dataset_close(&d);
    tokenize_report_free(&r);
}

/* ---- values ---------------------------------------------------------------------------------------------------------- */

/* 100 patients with values 1..100 of X; some more to try what else a result may be. */
static void write_values(const char *path) {
    MadeFile f = events_begin(path);
    for (int i = 1; i <= 100; i++) {
        events_subject(&f, i, UNDATED, SPLIT_TRAIN);
        events_add(&f, (MadeEvent){i, 0, "LAB//X", KIND_LAB, (float)i, "u", 0}, NULL);
        if (i <= 30) events_add(&f, (MadeEvent){i, 1, "LAB//X", KIND_LAB, (float)i / 10, "w", 0}, NULL);
        if (i <= 8) events_add(&f, (MadeEvent){i, 2, "LAB//X", KIND_LAB, 1, "rare", 0}, NULL);
        events_add(&f, (MadeEvent){i, 3, "LAB//CONSTANT", KIND_LAB, 7, "u", 0}, NULL);
        events_add(&f, (MadeEvent){i, 4, "LAB//LIMIT", KIND_LAB, 5, "u",
                                    i <= 25 ? COMPARE_LT : i <= 50 ? COMPARE_LE : i <= 75 ? COMPARE_GT : COMPARE_GE}, NULL);
        if (i <= 12) events_add(&f, (MadeEvent){i, 5, "LAB//X", KIND_LAB, NONE, NULL, 0}, NULL);
        if (i == 20) events_add(&f, (MadeEvent){i, 6, "LAB//X", KIND_LAB, 50, "u", COMPARE_LT}, NULL);
        if (i == 21) events_add(&f, (MadeEvent){i, 6, "LAB//X", KIND_LAB, 50, "u", COMPARE_GT}, NULL);
    }
    events_end(&f);
}

static void test_values_fused(void **state) {
    (void)state;
    write_values(at("v.h5"));
    TokenizeOptions o = made_options(at("v.h5"), at("v"));
    o.min_patients = 10;
    TokenizeReport r = made_tokenize(o);
    Dataset d = made_open(at("v"));
    const Vocabulary *v = &d.vocabulary;
    const VocabEdges *u = vocabulary_edges(v, "LAB//X", "u"), *w = vocabulary_edges(v, "LAB//X", "w");
    assert_int_equal(u->n, 9);
    for (int k = 0; k < 9; k++) assert_float_equal(u->edge[k], 10 * (k + 1), 0);
    assert_int_equal(w->n, 1); /* ten levels of 3 patients join to 12 and 18 */
    assert_float_equal(w->edge[0], 1.2, 0);
    assert_null(vocabulary_edges(v, "LAB//X", "rare"));
    assert_null(vocabulary_edges(v, "LAB//CONSTANT", "u"));
    assert_string_equal(v->token[vocabulary_find(v, "LAB//X=Q7")].unit, "u");
    assert_string_equal(v->token[vocabulary_find(v, "LAB//X|w=Q2")].unit, "w");
    /* Equal to an edge stays low.  A rare unit and no value are told by the code; limits without a token of their own by
     * the level beside them: below 50 as 50 (Q5), above 50 as just above (Q6). */
    assert_story(&d, at("v.linkage.h5"), 8,
                 "RECORD_START SEX//UNKNOWN AGE//UNKNOWN | LAB//X=Q1@0 LAB//X|w=Q1@1 LAB//X@2 LAB//CONSTANT@3 LAB//LIMIT=LT@4 LAB//X@5");
    assert_story(&d, at("v.linkage.h5"), 20,
                 "RECORD_START SEX//UNKNOWN AGE//UNKNOWN | LAB//X=Q2@0 LAB//X|w=Q2@1 LAB//CONSTANT@3 LAB//LIMIT=LT@4 LAB//X=Q5@6");
    assert_story(&d, at("v.linkage.h5"), 21,
                 "RECORD_START SEX//UNKNOWN AGE//UNKNOWN | LAB//X=Q3@0 LAB//X|w=Q2@1 LAB//CONSTANT@3 LAB//LIMIT=LT@4 LAB//X=Q6@6");
    assert_story(&d, at("v.linkage.h5"), 100,
                 "RECORD_START SEX//UNKNOWN AGE//UNKNOWN | LAB//X=Q10@0 LAB//CONSTANT@3 LAB//LIMIT=GT@4");
    assert_story(&d, at("v.linkage.h5"), 40, "RECORD_START SEX//UNKNOWN AGE//UNKNOWN | LAB//X=Q4@0 LAB//CONSTANT@3 LAB//LIMIT=LT@4");
    assert_story(&d, at("v.linkage.h5"), 60, "RECORD_START SEX//UNKNOWN AGE//UNKNOWN | LAB//X=Q6@0 LAB//CONSTANT@3 LAB//LIMIT=GT@4");
    assert_int_equal(r.counts.values, 100 + 30 + 8 + 100 + 100 + 2);
    assert_int_equal(r.counts.leveled, 100 + 30 + 100 + 2);
    dataset_close(&d);
    tokenize_report_free(&r);
}

/* Whoever has a code a hundred times is one patient. */
static void test_patients_are_counted_once(void **state) {
    (void)state;
    PatientSet s = {0}, other = {0};
    for (uint32_t i = 0; i < 300; i++) patient_set_add(&s, 5 + i / 100, 11);
    assert_int_equal(s.count, 3);
    for (uint32_t i = 0; i < 40; i++) patient_set_add(&other, 6 + i / 10, 11);
    patient_set_merge(&s, &other, 11); /* 5, 6, 7 and 6, 7, 8, 9 */
    assert_int_equal(s.count, 5);
    for (uint32_t i = 0; i < 40; i++) patient_set_add(&other, 20 + i / 2, 11);
    assert_int_equal(other.count, 24); /* beyond what is enough they are counted still */
    patient_set_free(&s);
    patient_set_free(&other);
}

/* Of many values a sample is kept in which each is as likely as another, whenever it came. */
static void test_sample_of_many_values(void **state) {
    (void)state;
    ValueSample s = {.key = 7};
    const int n = 4 * SAMPLE_MAX;
    for (int i = 0; i < n; i++) sample_add(&s, (float)i / (float)n, (uint32_t)i);
    assert_int_equal(s.n, SAMPLE_MAX);
    assert_int_equal(s.seen, n);
    double mean = 0;
    for (int i = 0; i < s.n; i++) mean += (double)s.value[i] / s.n;
    if (fabs(mean - 0.5) > 5 / sqrt(12.0 * SAMPLE_MAX)) fail_msg("a mean of %g, not a half", mean);
    sample_free(&s);
    /* One patient has nine tenths of the values: shares are of values, and counts of patients. */
    FittedEdges e;
    s = (ValueSample){.key = 7};
    for (int i = 0; i < 100; i++) sample_add(&s, i < 90 ? 1 : (float)(i - 80), i < 90 ? 1 : (uint32_t)i);
    edges_fit(&e, &s, NULL, 1, 10);
    assert_int_equal(e.n, 1);
    assert_true(e.edge[0] == 1 && e.share[0] == 0.9 && e.share[1] == 0.1);
    assert_true(e.patients[0] == 1 && e.patients[1] == 10);
    sample_free(&s);
}

/* Every event token, also after merging, has min_patients distinct train patients behind it. */
static void test_min_patients(void **state) {
    (void)state;
    write_values(at("m.h5"));
    for (int min = 1; min <= 60; min += 6) {
        TokenizeOptions o = made_options(at("m.h5"), at("m"));
        o.min_patients = min;
        o.overwrite = 1;
        TokenizeReport r = made_tokenize(o);
        Dataset d = made_open(at("m"));
        int *patients = xcalloc((size_t)d.vocabulary.n, sizeof *patients);
        for (int64_t row = 0; row < d.n_patients[SPLIT_TRAIN]; row++) {
            PatientView p;
            MUST(dataset_patient(&d, SPLIT_TRAIN, row, &p, err));
            for (int64_t i = 0; i < p.n; i++) {
                int first = 1;
                for (int64_t k = 0; k < i; k++) first &= patient_token(&p, k) != patient_token(&p, i);
                patients[patient_token(&p, i)] += first;
            }
        }
        for (int id = 0; id < d.vocabulary.n; id++) {
            int kind = d.vocabulary.token[id].kind;
            if (kind == TOKEN_EVENT && id != d.vocabulary.death && patients[id] < min)
                fail_msg("%s has %d patients, not %d", d.vocabulary.token[id].code, patients[id], min);
        }
        free(patients);
        dataset_close(&d);
        tokenize_report_free(&r);
    }
}

static void test_values_separate(void **state) {
    (void)state;
    write_values(at("s.h5"));
    TokenizeOptions o = made_options(at("s.h5"), at("s"));
    o.min_patients = 10;
    o.separate_values = 1;
    TokenizeReport r = made_tokenize(o);
    Dataset d = made_open(at("s"));
    assert_true(d.vocabulary.separate_values);
    assert_story(&d, at("s.linkage.h5"), 20,
                 "RECORD_START SEX//UNKNOWN AGE//UNKNOWN | LAB//X@0 Q2 LAB//X@1 Q2 LAB//CONSTANT@3 LAB//LIMIT@4 LT LAB//X@6 LT");
    assert_story(&d, at("s.linkage.h5"), 100,
                 "RECORD_START SEX//UNKNOWN AGE//UNKNOWN | LAB//X@0 Q10 LAB//CONSTANT@3 LAB//LIMIT@4 GT");
    dataset_close(&d);
    tokenize_report_free(&r);
}

static void test_thresholds(void **state) {
    (void)state;
    static const char text[] = "{\"format\": \"ehr.c value edges\", \"format_version\": 1, \"edges\": ["
                               "{\"codes\": [\"LAB//X\"], \"units\": [\"U\"], \"lt\": [35], \"gt\": [70.5]},"
                               "{\"codes\": [\"LAB//X\"], \"units\": [\"w\"], \"ge\": [1.5], \"le\": [2.2]}]}";
    write_values(at("t.h5"));
    MUST(file_write(at("edges.json"), text, strlen(text), err));
    TokenizeOptions o = made_options(at("t.h5"), at("t"));
    o.min_patients = 5;
    o.edges = at("edges.json");
    TokenizeReport r = made_tokenize(o);
    Dataset d = made_open(at("t"));
    const VocabEdges *e = vocabulary_edges(&d.vocabulary, "LAB//X", "u");
    /* The deciles 10..90 and the two: 31-34 are too few patients, and of the edges beside them 30 goes, being a decile;
     * between 70 and 70.5 there is nobody. */
    const double expected[] = {10, 20, (double)nextafterf(35, 0), 40, 50, 60, 70.5, 80, 90};
    assert_int_equal(e->n, 9);
    for (int k = 0; k < 9; k++) assert_true((float)e->edge[k] == (float)expected[k]);
    assert_int_equal(edges_level(e, 34) + 1, edges_level(e, 35));
    assert_int_equal(edges_level(e, 70.5f) + 1, edges_level(e, 71));
    e = vocabulary_edges(&d.vocabulary, "LAB//X", "w"); /* a threshold itself is above "ge", and below "le" */
    assert_int_equal(edges_level(e, 1.4f) + 1, edges_level(e, 1.5f));
    assert_int_equal(edges_level(e, 1.5f), edges_level(e, 1.6f));
    assert_int_equal(edges_level(e, 2.1f), edges_level(e, 2.2f));
    assert_int_equal(edges_level(e, 2.2f) + 1, edges_level(e, 2.3f));
    dataset_close(&d);
    tokenize_report_free(&r);
    static const char *const bad[] = {"{", "{\"format\": \"x\"}",
                                      "{\"format\": \"ehr.c value edges\", \"format_version\": 1, \"edges\": [{\"codes\": [\"A\"], \"units\": [\"U\"]}]}",
                                      "{\"format\": \"ehr.c value edges\", \"format_version\": 1, \"edges\": [{\"codes\": [\"A\"], \"units\": [\"U\"], \"lt\": [\"5\"]}]}"};
    for (int i = 0; i < 4; i++) {
        MUST(file_write(at("edges.json"), bad[i], strlen(bad[i]), err));
        o.out = at("t2");
        o.edges = at("edges.json");
        made_refused(o, ERR_FORMAT, "edges.json");
    }
}

/* The thresholds that come with the program can be read. */
static void test_shipped_thresholds(void **state) {
    (void)state;
    EdgeRules r;
    Err err = {0};
    if (edge_rules_load(&r, "scripts/tasks/value_edges.json", &err)) fail_msg("%s", err.msg);
    assert_true(r.n >= 15);
    const EdgeRule *platelets = edge_rules_find(&r, "LOINC//777-3", "10*3/UL");
    assert_non_null(platelets);
    assert_int_equal(platelets->n_edges, 4);
    assert_true((float)platelets->edge[3] < 150 && nextafterf((float)platelets->edge[3], 200) == 150);
    assert_null(edge_rules_find(&r, "LOINC//777-3", "mg/dL"));
    edge_rules_free(&r);
}

/* ---- roll-up ----------------------------------------------------------------------------------------------------------- */

/* code is given to `patients` patients, from number `first` on. */
typedef struct {
    const char *code, *parent;
    int         kind, first, patients;
} Given;

static void write_given(const char *path, const Given *g, int n_patients) {
    MadeFile f = events_begin(path);
    for (int i = 1; i <= n_patients; i++) {
        events_subject(&f, i, UNDATED, SPLIT_TRAIN);
        events_add(&f, (MadeEvent){i, 0, "VISIT//IN", KIND_VISIT_START, NONE, NULL, 0}, NULL);
        for (int k = 0; g[k].code; k++)
            if (i >= g[k].first && i < g[k].first + g[k].patients)
                events_add(&f, (MadeEvent){i, 1 + k, g[k].code, g[k].kind, NONE, NULL, 0}, g[k].parent);
    }
    events_end(&f);
}

static void assert_token_of(Dataset *d, const char *linkage, int64_t subject, int minute, const char *token) {
    PatientView p = made_patient_of(d, linkage, subject);
    for (int64_t i = 0; i < p.n; i++)
        if (p.minutes[i] == minute && d->vocabulary.token[patient_token(&p, i)].kind != TOKEN_GAP) {
            assert_string_equal(d->vocabulary.token[patient_token(&p, i)].code, token);
            return;
        }
    fail_msg("no token at minute %d", minute);
}

static void test_rollup(void **state) {
    (void)state;
    const Given g[] = {{"ICD10CM//E11.9", NULL, KIND_DIAGNOSIS, 1, 20},   /* enough */
                       {"ICD10CM//E11.65", NULL, KIND_DIAGNOSIS, 1, 3},   /* E11.6 has 3 + 4 = 7 together */
                       {"ICD10CM//E11.61", NULL, KIND_DIAGNOSIS, 4, 4},
                       {"ICD10CM//I50.1", NULL, KIND_DIAGNOSIS, 1, 5},    /* 5 + 5, three of them the same: 7 in I50 */
                       {"ICD10CM//I50.9", NULL, KIND_DIAGNOSIS, 3, 5},
                       {"ICD10CM//Z99.1", NULL, KIND_DIAGNOSIS, 1, 6},    /* too few all the way */
                       {"ICD10CM//J44", NULL, KIND_DIAGNOSIS, 1, 10},     /* J44 stands; J44.1 joins it */
                       {"ICD10CM//J44.1", NULL, KIND_DIAGNOSIS, 1, 2},
                       {"ATC//C03CA01", NULL, KIND_DRUG, 1, 4},           /* C03CA has 4, C03C 4 + 4 = 8 */
                       {"ATC//C03CB02", NULL, KIND_DRUG, 10, 4},
                       {"SNOMED//leaf", "SNOMED//middle", KIND_PROCEDURE, 1, 3}, /* given hierarchy, two steps up */
                       {"SNOMED//middle", "SNOMED//top", KIND_PROCEDURE, 5, 2},
                       {"SNOMED//other", "SNOMED//top", KIND_PROCEDURE, 10, 4},
                       {"LOOP//a", "LOOP//b", KIND_OTHER, 1, 2},          /* a hierarchy in a circle */
                       {"LOOP//b", "LOOP//a", KIND_OTHER, 4, 2},
                       {"LOCAL//x", NULL, KIND_LAB, 1, 6},                /* no hierarchy */
                       {"ICD10PCS//0FT44ZZ", NULL, KIND_PROCEDURE, 1, 4}, /* nor is a shorter code of it one: 8 in 0FT44Z */
                       {"ICD10PCS//0FT44ZY", NULL, KIND_PROCEDURE, 5, 4},
                       {0}};
    write_given(at("r.h5"), g, 30);
    TokenizeOptions o = made_options(at("r.h5"), at("r"));
    o.min_patients = 7;
    TokenizeReport r = made_tokenize(o);
    Dataset d = made_open(at("r"));
    const char *expected[] = {"ICD10CM//E11.9", "ICD10CM//E11.6", "ICD10CM//E11.6",     "ICD10CM//I50",       "ICD10CM//I50",
                              "UNKNOWN//diagnosis", "ICD10CM//J44", "ICD10CM//J44",     "ATC//C03C",          "ATC//C03C",
                              "SNOMED//top",    "SNOMED//top",    "SNOMED//top",        "UNKNOWN//other",     "UNKNOWN//other",
                              "UNKNOWN//lab",   "UNKNOWN//procedure", "UNKNOWN//procedure"};
    for (int k = 0; g[k].code; k++) assert_token_of(&d, at("r.linkage.h5"), g[k].first, 1 + k, expected[k]);
    assert_int_equal(r.counts.mapped[KIND_DIAGNOSIS][MAPPED_OWN], 30);
    assert_int_equal(r.counts.mapped[KIND_DIAGNOSIS][MAPPED_ROLLED_UP], 3 + 4 + 5 + 5 + 2);
    assert_int_equal(r.counts.mapped[KIND_DIAGNOSIS][MAPPED_UNKNOWN], 6);
    assert_float_equal(tokenize_unknown_share(&r.counts, KIND_DIAGNOSIS), 6.0 / 55, 1e-12);
    assert_float_equal(tokenize_unknown_share(&r.counts, KIND_LAB), 1, 0);
    int events = 0;
    for (int k = 0; k < KIND_COUNT; k++) events += (int)r.counts.events[k];
    assert_int_equal(events, 30 + 20 + 3 + 4 + 5 + 5 + 6 + 10 + 2 + 4 + 4 + 3 + 2 + 4 + 2 + 2 + 6 + 4 + 4); /* nothing lost */
    assert_int_equal(d.vocabulary.n_rollup, 10); /* UNKNOWN needs no entry */
    dataset_close(&d);
    tokenize_report_free(&r);
}

static void test_rare_statics(void **state) {
    (void)state;
    MadeFile f = events_begin(at("st.h5"));
    for (int i = 1; i <= 20; i++) {
        events_subject(&f, i, UNDATED, SPLIT_TRAIN);
        events_add(&f, (MadeEvent){i, UNDATED, i % 2 ? "SEX//F" : "SEX//M", KIND_STATIC, NONE, NULL, 0}, NULL);
        events_add(&f, (MadeEvent){i, UNDATED, i <= 2 ? "RACE//rare" : "RACE//common", KIND_STATIC, NONE, NULL, 0}, NULL);
        if (i == 9) events_add(&f, (MadeEvent){i, UNDATED, "SEX//M", KIND_STATIC, NONE, NULL, 0}, NULL);
        events_add(&f, (MadeEvent){i, 0, "VISIT//IN", KIND_VISIT_START, NONE, NULL, 0}, NULL);
    }
    events_end(&f);
    TokenizeOptions o = made_options(at("st.h5"), at("st"));
    o.min_patients = 5;
    TokenizeReport r = made_tokenize(o);
    Dataset d = made_open(at("st"));
    assert_story(&d, at("st.linkage.h5"), 1, "RECORD_START SEX//F RACE//UNKNOWN AGE//UNKNOWN | VISIT//IN@0");
    assert_story(&d, at("st.linkage.h5"), 4, "RECORD_START SEX//M RACE//common AGE//UNKNOWN | VISIT//IN@0");
    assert_story(&d, at("st.linkage.h5"), 9, "RECORD_START SEX//F RACE//common AGE//UNKNOWN | VISIT//IN@0");
    assert_int_equal(vocabulary_find(&d.vocabulary, "RACE//rare"), -1);
    assert_int_equal(r.counts.static_repeated, 1);
    PatientView p = made_patient_of(&d, at("st.linkage.h5"), 4);
    assert_string_equal(d.group_name[0], "SEX");
    assert_string_equal(dataset_group_label(&d, 0, p.group[0]), "M");
    assert_string_equal(dataset_group_label(&d, 1, p.group[1]), "common");
    assert_string_equal(dataset_group_label(&d, 2, p.group[2]), "UNKNOWN");
    dataset_close(&d);
    o.out = at("st2");
    o.statics = "RACE";
    TokenizeReport r2 = made_tokenize(o);
    d = made_open(at("st2"));
    assert_story(&d, at("st.linkage.h5"), 4, "RECORD_START RACE//common AGE//UNKNOWN | VISIT//IN@0");
    dataset_close(&d);
    o.out = at("st3");
    o.statics = "RACE,HAIR";
    made_refused(o, ERR_USAGE, "HAIR");
    o.statics = "RACE,RACE";
    made_refused(o, ERR_USAGE, "twice");
    tokenize_report_free(&r);
    tokenize_report_free(&r2);
}

/* ---- a frozen vocabulary -------------------------------------------------------------------------------------------------- */

static void test_frozen(void **state) {
    (void)state;
    write_values(at("f1.h5"));
    TokenizeOptions o = made_options(at("f1.h5"), at("f1"));
    o.min_patients = 10;
    o.separate_values = 0;
    TokenizeReport r1 = made_tokenize(o);
    /* Elsewhere: the same test reads twice as high, in another unit too, with a code never seen. */
    MadeFile f = events_begin(at("f2.h5"));
    for (int i = 1; i <= 200; i++) {
        events_subject(&f, i, UNDATED, SPLIT_UNSET);
        events_add(&f, (MadeEvent){i, 0, "LAB//X", KIND_LAB, (float)i, "u", 0}, NULL);
        events_add(&f, (MadeEvent){i, 1, "LAB//X", KIND_LAB, (float)i, "new unit", 0}, NULL);
        events_add(&f, (MadeEvent){i, 2, "LAB//NEW", KIND_LAB, (float)i, "u", 0}, NULL);
        events_add(&f, (MadeEvent){i, 3, "DX//NEW", KIND_DIAGNOSIS, NONE, NULL, 0}, NULL);
    }
    events_end(&f);
    TokenizeOptions o2 = made_options(at("f2.h5"), at("f2"));
    o2.vocabulary = at("f1"); /* a folder that has one */
    TokenizeReport r2 = made_tokenize(o2);
    Dataset d = made_open(at("f2"));
    assert_string_equal(r1.vocabulary_sha256, r2.vocabulary_sha256);
    assert_string_equal(d.vocabulary.sha256, r1.vocabulary_sha256);
    assert_story(&d, at("f2.linkage.h5"), 150,
                 "RECORD_START SEX//UNKNOWN AGE//UNKNOWN | LAB//X=Q10@0 LAB//X@1 UNKNOWN//lab@2 UNKNOWN//diagnosis@3");
    assert_float_equal(tokenize_unknown_share(&r2.counts, KIND_DIAGNOSIS), 1, 0);
    assert_float_equal(tokenize_unknown_share(&r2.counts, KIND_LAB), 1.0 / 3, 1e-12);
    /* Levels 1-9 hold 5% instead of 10%, level 10 holds 55%: 9 x -.05 ln .5 + .45 ln 5.5 */
    assert_int_equal(r2.n_drift, 1);
    assert_string_equal(r2.drift[0].code, "LAB//X");
    assert_float_equal(r2.drift[0].psi, 9 * 0.05 * log(2) + 0.45 * log(5.5), 1e-6);
    dataset_close(&d);
    tokenize_report_free(&r1);
    tokenize_report_free(&r2);
    MUST(file_write(at("broken.json"), "{}", 2, err));
    o2.vocabulary = at("broken.json");
    o2.out = at("f3");
    made_refused(o2, ERR_FORMAT, "broken.json");
    o2.vocabulary = at("missing.json");
    made_refused(o2, ERR_IO, "missing.json");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_timeline),    cmocka_unit_test(test_gap_split),      cmocka_unit_test(test_seconds),
        cmocka_unit_test(test_available),   cmocka_unit_test(test_ages),           cmocka_unit_test(test_observation_end),
        cmocka_unit_test(test_gap_quantiles), cmocka_unit_test(test_values_fused), cmocka_unit_test(test_patients_are_counted_once), cmocka_unit_test(test_sample_of_many_values), cmocka_unit_test(test_min_patients),
        cmocka_unit_test(test_values_separate), cmocka_unit_test(test_thresholds), cmocka_unit_test(test_shipped_thresholds),
        cmocka_unit_test(test_rollup),      cmocka_unit_test(test_rare_statics),   cmocka_unit_test(test_frozen)};
    return cmocka_run_group_tests(tests, folder_make, folder_remove);
}
