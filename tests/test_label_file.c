/* test_label_file.c - label files as risk and evaluate read them: made of an events file and a dataset, of the oracle's and of
 * hand-made patients, the wrong ones that are refused, and files that were damaged. */
#include "data/deidentify.h"
#include "data/linkage.h"
#include "data/oracle_file.h"
#include "tests/make_oracle.h"
#include <jansson.h>

static LabelOptions oracle_options(void) {
    return made_oracle((OracleCohortOptions){.patients = 200, .seed = 4, .max_tokens = 500, .risk_samples = 8});
}

static LabelTask shorthand(const char *outcome, const char *index, int days) {
    LabelTask t;
    MUST(label_task_shorthand(&t, outcome, days * DAY, err));
    MUST(label_index_parse(&t, index, "--index", err));
    return t;
}

static LabelTask parsed(const char *json) {
    LabelTask t;
    MUST(label_task_parse(&t, json, strlen(json), "test", err));
    return t;
}

/* A task and its label table. */
typedef struct {
    LabelTask   task;
    LabelCounts counts;
    Table       table;
} Built;

static Built built(LabelTask t, const LabelOptions *o) {
    Built b = {.task = t};
    MUST(label_build(&b.table, &b.task, o, &b.counts, err));
    return b;
}

static void built_free(Built *b) {
    table_free(&b->table);
    label_task_free(&b->task);
}

/* The same as a file. */
static LabelFile written(Built *b, const char *path) {
    LabelFile f;
    MUST(table_write_h5(&b->table, path, err));
    MUST(label_file_open(&f, path, err));
    return f;
}

static void test_label_file(void **state) {
    (void)state;
    LabelOptions o = oracle_options();
    Built        b = built(shorthand("heart_failure=ICD10CM//I50", "oracle", 365), &o);
    LabelCounts  counts = b.counts;
    assert_int_equal(b.task.first, 1); /* a diagnosis */
    assert_true(counts.eligible > 5 && counts.eligible == counts.positive + counts.negative && counts.expressible == counts.positive);
    assert_int_equal(counts.eligible + counts.excluded[EXCLUDED_PRIOR] + counts.excluded[EXCLUDED_NO_INDEX], counts.patients);
    LabelFile f = written(&b, at("hf.h5"));
    built_free(&b);
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
}

static void test_choices_of_rows(void **state) {
    (void)state;
    LabelOptions o = oracle_options();
    Built        all = built(shorthand("admission=VISIT//IN", "visit-end", 365), &o);
    assert_int_equal(all.task.first, 0);
    assert_true(all.counts.eligible > 5 * all.counts.patients && all.counts.censored > 0);
    const double *risk = table_get(&all.table, "true_risk", COLUMN_F64);
    for (int64_t i = 0; i < all.table.n; i++) assert_true(isnan(risk[i])); /* known at the oracle's index only */
    built_free(&all);
    o.one_per_patient = 1;
    Built one = built(shorthand("admission=VISIT//IN", "visit-end", 365), &o);
    assert_true(one.counts.eligible <= one.counts.patients && one.counts.eligible > one.counts.patients / 2);
    built_free(&one);
    o.split = SPLIT_TUNING;
    Built tuning = built(shorthand("admission=VISIT//IN", "visit-end", 365), &o);
    assert_int_equal(tuning.counts.patients, 20);
    built_free(&tuning);
}

static void refused(const LabelOptions *o, LabelTask t, Status code, const char *says) {
    LabelCounts counts;
    Table       table;
    Err         problem = {0};
    Status      s = label_build(&table, &t, o, &counts, &problem);
    if (s != code || !strstr(problem.msg, says)) fail_msg("status %d: %s; expected %d: %s", s, problem.msg, code, says);
    label_task_free(&t);
}

/* The codes in attribute `name` of what a task makes of these events. */
static json_t *codes_of(const char *task, const LabelOptions *o, const char *name) {
    Built   b = built(parsed(task), o);
    json_t *codes = json_loads(table_attribute(&b.table, name), 0, NULL);
    built_free(&b);
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
    refused(&o, parsed("{\"name\": \"t\", \"index\": \"visit-end\", \"horizon\": \"10d\", \"outcome\": {\"codes\": [\"VISIT//IN\"]}, "
                       "\"stops\": [{\"codes\": [\"LAB//X\"], \"above\": 3000}]}"), ERR_USAGE, "stop");
}

/* Codes that nobody has are told, of the outcome and of stops; those that only the events or only the tokens have are not. */
static void test_codes_of_nobody(void **state) {
    (void)state;
    LabelOptions o = oracle_options();
    Built        b = built(parsed("{\"name\": \"t\", \"index\": \"visit-end\", \"horizon\": \"10d\", \"outcome\": {\"codes\": [\"VISIT//IP\", "
                                  "\"VISIT//IN\"]}, \"stops\": [{\"codes\": [\"VISIT_END\"]}, {\"codes\": [\"MEDS_DETH\", \"MEDS_DEATH\"]}]}"), &o);
    assert_string_equal(b.counts.unmet, "VISIT//IP, MEDS_DETH");
    built_free(&b);
    MadeEvent row[] = {{1, 0, "VISIT//OUT", KIND_VISIT_START, NONE, NULL, 0}, {1, 5, "DEAD", KIND_DIAGNOSIS, NONE, NULL, 0}, {0, 0, NULL, 0, 0, NULL, 0}};
    events_write(at("frequent.h5"), row);
    row[1].code = "RARE";
    events_write(at("rare.h5"), row);
    TokenizeReport r = made_tokenize(made_options(at("frequent.h5"), at("frequent")));
    tokenize_report_free(&r);
    TokenizeOptions frozen = made_options(at("rare.h5"), at("rare"));
    frozen.vocabulary = at("frequent/vocabulary.json");
    r = made_tokenize(frozen);
    tokenize_report_free(&r);
    o = (LabelOptions){.events = at("rare.h5"), .dataset = at("rare"), .split = -1};
    b = built(shorthand("x=RARE,DEAD", "visit-end", 10), &o);
    assert_string_equal(b.counts.unmet, "");
    built_free(&b);
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
    MUST(event_writer_subject(w, 1, made_us(40 * DAY), SPLIT_TRAIN, err));
    MUST(event_writer_close(w, "test", "{}", &n[0], &n[1], &n[2], err));
    TokenizeReport r = made_tokenize(made_options(at("seconds.h5"), at("seconds")));
    tokenize_report_free(&r);
    LabelOptions o = {.events = at("seconds.h5"), .dataset = at("seconds"), .split = -1};
    LabelTask    t = shorthand("heart_failure=ICD10CM//I50", "visit-end", 10);
    t.first = 0;
    Built b = built(t, &o);
    Dataset     d = made_open(at("seconds"));
    PatientView p = made_patient_of(&d, at("seconds.linkage.h5"), 1);
    assert_int_equal(b.table.n, 1);
    assert_int_equal(b.counts.excluded[EXCLUDED_DEAD], 1); /* ten seconds later, in the same minute */
    const int64_t *index = table_get(&b.table, "index_minutes", COLUMN_I64), *outcome = table_get(&b.table, "outcome", COLUMN_I64);
    int told = 0;
    for (int64_t i = 0; i < p.n && p.minutes[i] <= index[0]; i++)
        told |= !strcmp(d.vocabulary.token[patient_token(&p, i)].code, "ICD10CM//I50");
    assert_int_equal(told, 1);
    assert_int_equal(outcome[0], 0);
    dataset_close(&d);
    built_free(&b);
}

/* From when on outcomes count is told to whoever simulates them; the oracle's risk is of those from the index on. */
static void test_labels_that_begin_later(void **state) {
    (void)state;
    LabelOptions o = oracle_options();
    LabelTask    t = shorthand("heart_failure=ICD10CM//I50", "oracle", 365);
    t.after_minutes = 2 * DAY;
    Built     b = built(t, &o);
    LabelFile f = written(&b, at("later.h5"));
    assert_true(f.after_minutes == 2 * DAY && f.after_ends);
    for (int64_t i = 0; i < f.table.n; i++) assert_true(isnan(f.true_risk[i]));
    label_file_close(&f);
    built_free(&b);
}

/* A release has no calendar: everybody is looked at a year before their own end, the dead too. */
static void test_last_year_of_a_release(void **state) {
    (void)state;
    oracle_options();
    DeidentifyOptions d = {.events = at("o.h5"), .out = at("released.h5"), .linkage = at("released.link.h5"), .min_patients = 3,
                           .blur_end_minutes = 365 * DAY, .memory = 8 << 20, .seed = -1};
    DeidentifyReport r;
    MUST(deidentify_events(&d, &r, err));
    deidentify_report_free(&r);
    TokenizeReport tr = made_tokenize(made_options(d.out, at("released")));
    tokenize_report_free(&tr);
    LabelOptions o = {.events = d.out, .dataset = at("released"), .split = -1};
    Built b = built(shorthand("visit=VISIT//OUT", "last-year", 365), &o);
    const double *censor = table_get(&b.table, "censor_minutes", COLUMN_F64), *death = table_get(&b.table, "death_minutes", COLUMN_F64);
    int dead = 0;
    for (int64_t i = 0; i < b.table.n; i++) {
        assert_true(censor[i] == 365 * DAY);
        dead += isfinite(death[i]);
    }
    assert_true(b.table.n > 20 && dead > 0);
    built_free(&b);
}

/* Positive rows that the model's tokens can tell of: a rare code is told as its parent, which is the outcome's or is not. */
static void test_rare_outcomes(void **state) {
    (void)state;
    MadeFile f = events_begin(at("seldom.h5"));
    for (int i = 1; i <= 24; i++) {
        events_subject(&f, i, 30 * DAY, SPLIT_TRAIN);
        events_add(&f, (MadeEvent){i, 0, "VISIT//OUT", KIND_VISIT_START, NONE, NULL, 0}, NULL);
        events_add(&f, (MadeEvent){i, 100, "VISIT_END", KIND_VISIT_END, NONE, NULL, 0}, NULL);
        const char *code = i <= 6 ? "ICD10CM//I50" : i <= 8 ? "ICD10CM//E11.65" : i <= 14 ? "ICD10CM//E11.6" : NULL;
        if (code) events_add(&f, (MadeEvent){i, 200, code, KIND_DIAGNOSIS, NONE, NULL, 0}, NULL);
    }
    events_end(&f);
    TokenizeOptions t = made_options(at("seldom.h5"), at("seldom"));
    t.min_patients = 5;
    TokenizeReport r = made_tokenize(t);
    tokenize_report_free(&r);
    LabelOptions o = {.events = at("seldom.h5"), .dataset = at("seldom"), .split = -1};
    static const struct {
        const char *codes;
        int positive, expressible;
    } row[] = {{"\"ICD10CM//I50\", \"ICD10CM//E11.65\"", 8, 6}, {"\"ICD10CM//E11\"", 8, 8}, {"\"ICD10CM//I50\"", 6, 6}};
    for (int i = 0; i < 3; i++) {
        char *task = xasprintf("{\"name\": \"t\", \"index\": \"visit-end\", \"outcome\": {\"codes\": [%s]}, \"horizon\": \"10d\"}", row[i].codes);
        Built b = built(parsed(task), &o);
        assert_int_equal(b.counts.positive, row[i].positive);
        assert_int_equal(b.counts.expressible, row[i].expressible);
        built_free(&b);
        free(task);
    }
}

/* A task that ends with the stay ends simulated futures with it, too. */
static void test_stops_of_a_stay(void **state) {
    (void)state;
    LabelOptions o = oracle_options();
    for (int until = 0; until < 2; until++) {
        char *task = xasprintf("{\"name\": \"t\", \"index\": \"admission+24h\", \"outcome\": {\"codes\": [\"MEDS_DEATH\"]}, "
                               "\"horizon\": \"90d\"%s}", until ? ", \"until\": \"discharge\"" : "");
        json_t *stops = codes_of(task, &o, "stop_codes");
        assert_int_equal(json_array_size(stops), until);
        if (until) assert_string_equal(json_string_value(json_array_get(stops, 0)), "VISIT_END");
        json_decref(stops);
        free(task);
    }
}

static void test_refusals(void **state) {
    (void)state;
    LabelOptions o = oracle_options();
    refused(&o, shorthand("x=MEDS_DETH", "oracle", 365), ERR_USAGE, "MEDS_DEATH"); /* names the nearest */
    LabelOptions bad = o;
    bad.dataset = at("nothing");
    refused(&bad, shorthand("x=MEDS_DEATH", "oracle", 365), ERR_IO, "nothing");
    bad = o;
    bad.events = at("o.json");
    refused(&bad, shorthand("x=MEDS_DEATH", "oracle", 365), ERR_FORMAT, "o.json");
    bad = o;
    bad.linkage = at("none.h5");
    refused(&bad, shorthand("x=MEDS_DEATH", "oracle", 365), ERR_IO, "tokenize");
    /* A linkage of another dataset. */
    Table t;
    MUST(table_read_h5(&t, at("o.linkage.h5"), err));
    table_set(&t, "dataset_sha256", "0");
    MUST(table_write_h5(&t, at("other.h5"), err));
    table_free(&t);
    bad.linkage = at("other.h5");
    refused(&bad, shorthand("x=MEDS_DEATH", "oracle", 365), ERR_FORMAT, "another dataset");
    /* No oracle. */
    events_write(at("plain.h5"), (MadeEvent[]){{1, 0, "VISIT//OUT", KIND_VISIT_START, NONE, NULL, 0},
                                               {1, 5, "MEDS_DEATH", KIND_DEATH, NONE, NULL, 0}, {0, 0, NULL, 0, 0, NULL, 0}});
    TokenizeReport r = made_tokenize(made_options(at("plain.h5"), at("plain")));
    tokenize_report_free(&r);
    LabelOptions plain = {.events = at("plain.h5"), .dataset = at("plain"), .split = -1};
    refused(&plain, shorthand("x=MEDS_DEATH", "oracle", 365), ERR_USAGE, "no oracle cohort");
}

static int64_t label_rows(const char *events, const char *dataset, const char *linkage) {
    Built   b = built(shorthand("x=MEDS_DEATH", "visit-end", 400),
                      &(LabelOptions){.events = events, .dataset = dataset, .linkage = linkage, .split = -1});
    int64_t n = b.table.n;
    built_free(&b);
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
    refused(&wrong, shorthand("x=MEDS_DEATH", "visit-end", 365), ERR_FORMAT, "another dataset");
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

/* What was built and then damaged is refused as a file, with these words. */
static void damaged(Built *b, const char *says) {
    LabelFile f;
    Err       problem = {0};
    MUST(table_write_h5(&b->table, at("bad.h5"), err));
    assert_int_equal(label_file_open(&f, at("bad.h5"), &problem), ERR_FORMAT);
    assert_non_null(strstr(problem.msg, says));
    built_free(b);
}

static void test_damaged_label_files(void **state) {
    (void)state;
    static const struct {
        const char *attribute, *value, *says;
    } damage[] = {{"outcome_codes", "{}", "outcome_codes"}, {"outcome_codes", "[1]", "not text"}, {"name", "a/b", "name"},
                  {"horizon_minutes", "0", "horizon"},      {"horizon_minutes", "12x", "horizon"}, {"stop_codes", "3", "stop_codes"},
                  {"after_minutes", "0", "after_minutes"},  {"after_minutes", "99999999", "after_minutes"}};
    static const struct {
        const char *column;
        int64_t     value;
    } cell[] = {{"split", 3}, {"patient_row", -1}, {"index_minutes", -5}, {"index_minutes", 1ll << 40}, {"outcome", 2}};
    LabelOptions o = oracle_options();
    for (size_t i = 0; i < sizeof damage / sizeof *damage; i++) {
        Built b = built(shorthand("death=MEDS_DEATH", "oracle", 365), &o);
        table_set(&b.table, damage[i].attribute, damage[i].value);
        damaged(&b, damage[i].says);
    }
    for (size_t i = 0; i < sizeof cell / sizeof *cell; i++) {
        Built b = built(shorthand("death=MEDS_DEATH", "oracle", 365), &o);
        ((int64_t *)table_get(&b.table, cell[i].column, COLUMN_I64))[b.table.n - 1] = cell[i].value;
        damaged(&b, "");
    }
    LabelFile f;
    assert_int_not_equal(label_file_open(&f, at("o.linkage.h5"), &(Err){0}), OK);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_label_file),
        cmocka_unit_test(test_choices_of_rows),
        cmocka_unit_test(test_levels_of_bounds),
        cmocka_unit_test(test_codes_of_nobody),
        cmocka_unit_test(test_minute_of_the_index),
        cmocka_unit_test(test_labels_that_begin_later),
        cmocka_unit_test(test_last_year_of_a_release),
        cmocka_unit_test(test_rare_outcomes),
        cmocka_unit_test(test_stops_of_a_stay),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_two_datasets_of_one_source),
        cmocka_unit_test(test_damaged_label_files),
    };
    return cmocka_run_group_tests_name("label_file", tests, folder_make, folder_remove);
}
