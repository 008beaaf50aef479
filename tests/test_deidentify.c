/* test_deidentify.c - every rule of deidentify has a leak that it closes: a check sees the leak in the source, or in a
 * release made with the rule turned off, and not in the release. */
#include "data/attest.h"
#include "data/deidentify.h"
#include "data/deidentify_record.h"
#include "data/linkage.h"
#include "data/whereis.h"
#include "tests/make_events.h"

enum { PATIENTS = 40, YEAR = 365 * DAY, PULL = 20 * YEAR };

/* ---- a source with something of everything -------------------------------------------------------------------------- */

static void add_static(MadeFile *f, int64_t subject, const char *code) {
    events_add(f, (MadeEvent){subject, UNDATED, code, KIND_STATIC, NONE, NULL, 0}, NULL);
}

static void add_lab(MadeFile *f, int64_t subject, int64_t minute, const char *code, float value, const char *unit) {
    events_add(f, (MadeEvent){subject, minute, code, KIND_LAB, value, unit, 0}, NULL);
}

static void add_event(MadeFile *f, int64_t subject, int64_t minute, const char *code, int kind) {
    events_add(f, (MadeEvent){subject, minute, code, kind, NONE, NULL, 0}, NULL);
}

/* Subjects 1001...: visits every half year from their own start to the data pull; 1001 is 92 then, 1002 dies. */
static const char *source_make(void) {
    const char *path = at("source.h5");
    MadeFile f = events_begin(path);
    for (int64_t i = 0; i < PATIENTS; i++) {
        int64_t id = 1001 + i, start = (10 * YEAR) + i * 37 * DAY + 601, birth = start - (20 + i) * YEAR - 100 * DAY;
        char text[80];
        if (id == 1001) birth = PULL - 92 * YEAR;
        events_subject(&f, id, PULL, SPLIT_UNSET);
        add_static(&f, id, i % 2 ? "SEX//F" : "SEX//M");
        add_static(&f, id, i < 3 ? "RACE//RARE_ONE" : "RACE//WHITE");
        add_static(&f, id, i % 2 ? "CARE_SITE//7" : "CARE_SITE//8");
        add_static(&f, id, i % 2 ? "ZIP//02155" : "STATE//MA");
        add_static(&f, id, "INSURANCE//MEDICARE");
        add_event(&f, id, birth, "MEDS_BIRTH", KIND_BIRTH);
        for (int64_t t = start; t < PULL; t += YEAR / 2) {
            add_event(&f, id, t, "VISIT//OP", KIND_VISIT_START);
            add_lab(&f, id, t + 10, "LOINC//8480-6", 120, "mm[Hg]");
            add_lab(&f, id, t + 11, "LOINC//1-1", 7, i < 2 ? "furlong" : "g");
            add_event(&f, id, t + 20, "VISIT_END//OP", KIND_VISIT_END);
        }
        if (i < 5) add_event(&f, id, start + 2 * DAY, "ICD10CM//E11.65", KIND_DIAGNOSIS);
        else if (i < 12) add_event(&f, id, start + 2 * DAY, "ICD10CM//E11.64", KIND_DIAGNOSIS);
        else if (i < 30) add_event(&f, id, start + 2 * DAY, "ICD10CM//E11", KIND_DIAGNOSIS);
        add_event(&f, id, start + 3 * DAY, "condition_occurrence//seen by Dr Miller after the fall", KIND_DIAGNOSIS);
        add_event(&f, id, start + 3 * DAY, "LOINC//72166-2=lives with her sister Ann in the old mill", KIND_LAB);
        add_event(&f, id, start + 3 * DAY, "LOINC//72166-2=Never smoked", KIND_LAB);
        add_event(&f, id, start + 4 * DAY, "LOCAL//call 555-123-4567", KIND_OTHER);
        add_event(&f, id, start + 4 * DAY, "member_id//77", KIND_OTHER);
        add_event(&f, id, start + 4 * DAY, "PROVIDER//1234567893", KIND_OTHER);
        snprintf(text, sizeof text, "UDI//(01)0088%010lld", (long long)i);
        add_event(&f, id, start + 5 * DAY, text, KIND_OTHER);
        if (id == 1002) add_event(&f, id, PULL - 3 * YEAR, "MEDS_DEATH", KIND_DEATH);
    }
    events_end(&f);
    return path;
}

static DeidentifyOptions options(const char *events, const char *name) {
    char file[80];
    snprintf(file, sizeof file, "%s.h5", name);
    const char *out = at(file);
    snprintf(file, sizeof file, "%s.link.h5", name);
    return (DeidentifyOptions){.events = events, .out = out, .linkage = at(file), .min_patients = 11,
                               .blur_end_minutes = YEAR, .memory = 8 << 20, .seed = -1};
}

static DeidentifyReport release(const DeidentifyOptions *o) {
    DeidentifyReport r;
    MUST(deidentify_events(o, &r, err));
    return r;
}

/* ---- checks that see a leak ----------------------------------------------------------------------------------------- */

static int has_code(const char *path, const char *part) {
    EventFile f;
    int found = 0;
    MUST(event_file_open(&f, path, err));
    for (int64_t c = 0; c < f.n_codes; c++) found |= strstr(f.codes[c], part) != NULL;
    for (int64_t u = 0; u < f.n_units; u++) found |= strstr(f.units[u], part) != NULL;
    event_file_close(&f);
    return found;
}

typedef struct {
    int source_ids, calendar, exact_birth, over_90, alike_ends, rare, dead, first_off;
    int64_t patients;
} Leaks;

static Leaks leaks_of(const char *path) {
    EventFile f;
    Leaks l = {0};
    MUST(event_file_open(&f, path, err));
    int64_t *holders = calloc((size_t)f.n_codes, sizeof *holders), *last = calloc((size_t)f.n_codes, sizeof *last);
    int64_t end0 = 0;
    for (int64_t row = 0; row < f.n_patients; row++) {
        EventPatient p;
        MUST(event_file_patient(&f, row, &p, err));
        int64_t birth = TIME_NONE, first = TIME_NONE, final = TIME_NONE;
        l.source_ids += p.subject > 1000 && p.subject <= 1000 + PATIENTS;
        for (int64_t i = 0; i < p.n; i++) {
            const Event *e = &p.event[i];
            int kind = f.code_kind[e->code];
            if (last[e->code] != row + 1) holders[e->code]++;
            last[e->code] = row + 1;
            if (kind == KIND_BIRTH) birth = e->time;
            l.dead += kind == KIND_DEATH;
            if (kind == KIND_BIRTH || kind == KIND_STATIC) continue;
            if (first == TIME_NONE) first = e->available;
            final = e->available;
            l.calendar += e->time > made_us(0);
        }
        l.first_off += first != 0;
        double age = (double)(first - birth) / (365.25 * (double)US_PER_DAY);
        l.exact_birth += birth != TIME_NONE && fabs(age - round(age)) > 1e-6;
        int64_t until = p.observation_end == TIME_NONE ? final : p.observation_end;
        l.over_90 += birth != TIME_NONE && (double)(until - birth) / (365.25 * (double)US_PER_DAY) > 90.0001;
        /* Whoever knows the pull day gets the calendar back when all ends lie on one. */
        if (!row) end0 = p.observation_end + first;
        l.alike_ends += row && p.observation_end + first == end0;
        l.patients++;
    }
    for (int64_t c = 0; c < f.n_codes; c++)
        l.rare += holders[c] > 0 && holders[c] < 11 && f.code_kind[c] != KIND_DEATH;
    event_file_close(&f);
    free(holders);
    free(last);
    return l;
}

/* ---- tests ---------------------------------------------------------------------------------------------------------- */

static void rules_close_leaks(void **state) {
    (void)state;
    const char *source = source_make();
    DeidentifyOptions o = options(source, "release");
    DeidentifyReport r = release(&o);
    Leaks before = leaks_of(source), after = leaks_of(o.out);
    assert_int_equal(before.patients, PATIENTS);
    assert_int_equal(after.patients, PATIENTS);
    assert_int_equal(before.source_ids, PATIENTS);
    assert_int_equal(after.source_ids, 0);
    assert_true(before.calendar > 0 && after.calendar == 0);
    assert_true(before.first_off == PATIENTS && after.first_off == 0);
    assert_true(before.exact_birth > 30 && after.exact_birth == 0);
    assert_true(before.over_90 > 0 && after.over_90 == 0);
    assert_true(before.rare > 0 && after.rare == 0);
    assert_int_equal(before.dead, 1);
    const char *const gone[] = {"ZIP//",  "STATE//",  "CARE_SITE", "INSURANCE", "Dr Miller", "555-123", "PROVIDER",
                                "UDI//", "RARE_ONE", "furlong",   "E11.64",  "E11.65", "sister", "member_id"};
    for (size_t i = 0; i < sizeof gone / sizeof *gone; i++) {
        if (!has_code(source, gone[i])) fail_msg("%s is not planted", gone[i]);
        if (has_code(o.out, gone[i])) fail_msg("%s is in the release", gone[i]);
    }
    assert_true(has_code(o.out, "LOINC//72166-2=Never smoked"));
    assert_int_equal(r.codes_by_fate[FATE_ANSWER], 1);
    assert_true(has_code(o.out, "ICD10CM//E11.6")); /* 5 and 7 patients are 12 together */
    assert_true(has_code(o.out, "RACE//WHITE") && has_code(o.out, "SEX//F") && has_code(o.out, "mm[Hg]"));
    assert_string_equal(r.level, "safe-harbor-rules");
    assert_true(r.ages_shifted >= 1 && r.ends_blurred > 0 && r.beyond_end > 0);
    assert_int_equal(r.codes_by_fate[FATE_ROLLED_UP], 2);
    assert_true(r.sampled == PATIENTS && r.unique_by_codes <= PATIENTS);
    deidentify_report_free(&r);
}

/* Each rule turned off lets its leak through, and the level says so. */
static void rules_turned_off_leak(void **state) {
    (void)state;
    const char *source = source_make();
    DeidentifyOptions o = options(source, "end");
    o.blur_end_minutes = 0;
    DeidentifyReport r = release(&o);
    EventFile f;
    MUST(event_file_open(&f, o.out, err));
    Linkage l = {0};
    MUST(table_read_h5(&l.table, o.linkage, err));
    const int64_t *origin = table_get(&l.table, "origin_us", COLUMN_I64);
    const uint64_t *key = table_get(&l.table, "patient_key", COLUMN_U64);
    int alike = 0;
    for (int64_t row = 0; row < f.n_patients; row++) {
        EventPatient p;
        MUST(event_file_patient(&f, row, &p, err));
        for (int64_t i = 0; i < l.table.n; i++)
            if (key[i] == (uint64_t)p.subject) alike += p.observation_end + origin[i] == made_us(PULL);
    }
    event_file_close(&f);
    table_free(&l.table);
    assert_int_equal(alike, PATIENTS); /* who died too: until then they would have been observed */
    assert_string_equal(r.level, "structural");
    assert_non_null(strstr(json_string_value(json_object_get(r.record, "weakened")), "pull"));
    deidentify_report_free(&r);

    o = options(source, "rare");
    o.min_patients = 1;
    r = release(&o);
    assert_true(leaks_of(o.out).rare > 0 && has_code(o.out, "E11.65"));
    assert_string_equal(r.level, "structural");
    deidentify_report_free(&r);

    o = options(source, "state");
    o.keep_state = 1;
    o.statics = "INSURANCE,ZIP"; /* a place smaller than a state goes all the same */
    r = release(&o);
    assert_true(has_code(o.out, "STATE//MA") && has_code(o.out, "INSURANCE") && !has_code(o.out, "ZIP//"));
    assert_string_equal(r.level, "safe-harbor-rules");
    deidentify_report_free(&r);

    o = options(source, "seeded");
    o.seed = 7;
    r = release(&o);
    assert_string_equal(r.level, "structural");
    deidentify_report_free(&r);
}

static void with_own_end(void **state) {
    (void)state;
    const char *source = source_make();
    DeidentifyOptions o = options(source, "own");
    DeidentifyReport r = release(&o);
    EventFile f;
    MUST(event_file_open(&f, o.out, err));
    Table l;
    MUST(table_read_h5(&l, o.linkage, err));
    const int64_t *origin = table_get(&l, "origin_us", COLUMN_I64), *subject = table_get(&l, "subject_id", COLUMN_I64);
    const uint64_t *key = table_get(&l, "patient_key", COLUMN_U64);
    int64_t day0 = 0;
    int days = 0;
    for (int64_t row = 0; row < f.n_patients; row++) {
        EventPatient p;
        MUST(event_file_patient(&f, row, &p, err));
        int64_t i = 0;
        while (key[i] != (uint64_t)p.subject) i++;
        if (subject[i] == 1002) continue;
        int64_t early = made_us(PULL) - (p.observation_end + origin[i]);
        assert_true(early >= 0 && early < YEAR * US_PER_MINUTE);
        days += row && early / US_PER_DAY != day0;
        day0 = early / US_PER_DAY;
    }
    assert_true(days > PATIENTS / 2);
    event_file_close(&f);
    table_free(&l);
    deidentify_report_free(&r);
}

static void keys_are_random(void **state) {
    (void)state;
    const char *source = source_make();
    DeidentifyOptions o = options(source, "a"), p = options(source, "b");
    DeidentifyReport r = release(&o), q = release(&p);
    assert_string_not_equal(r.release, q.release);
    Table a, b;
    MUST(table_read_h5(&a, o.linkage, err));
    MUST(table_read_h5(&b, p.linkage, err));
    const uint64_t *x = table_get(&a, "patient_key", COLUMN_U64), *y = table_get(&b, "patient_key", COLUMN_U64);
    for (int64_t i = 0; i < a.n; i++)
        for (int64_t k = 0; k < b.n; k++) assert_true(x[i] != y[k]);
    table_free(&a);
    table_free(&b);
    deidentify_report_free(&r);
    deidentify_report_free(&q);
    /* A seed repeats to the byte. */
    o.seed = p.seed = 3;
    r = release(&o);
    q = release(&p);
    assert_string_equal(r.sha256, q.sha256);
    deidentify_report_free(&r);
    deidentify_report_free(&q);
}

/* Whole sites, and whoever comes first after a date, are held out by what the release no longer tells. */
static void split_before_it_is_gone(void **state) {
    (void)state;
    const char *source = source_make(), *const split[] = {"site:CARE_SITE=7", "time:2012-01-01"};
    for (int k = 0; k < 2; k++) {
        DeidentifyOptions o = options(source, k ? "by-time" : "by-site");
        o.split = split[k];
        DeidentifyReport r = release(&o);
        assert_false(has_code(o.out, "CARE_SITE"));
        Table t;
        EventFile f;
        MUST(table_read_h5(&t, o.linkage, err));
        MUST(event_file_open(&f, o.out, err));
        const int64_t *subject = table_get(&t, "subject_id", COLUMN_I64), *given = table_get(&t, "split", COLUMN_I64);
        const uint64_t *key = table_get(&t, "patient_key", COLUMN_U64);
        int64_t n = 0;
        for (int64_t row = 0; row < f.n_patients; row++) {
            EventPatient p;
            MUST(event_file_patient(&f, row, &p, err));
            for (int64_t i = 0; i < t.n; i++) {
                if (key[i] != (uint64_t)p.subject) continue;
                int64_t nth = subject[i] - 1001, start = made_us(10 * YEAR + nth * 37 * DAY + 601);
                int held_out = k ? start >= time_from_civil(2012, 1, 1, 0, 0, 0) : nth % 2 == 1;
                assert_int_equal(p.split, given[i]);
                assert_int_equal(p.split == SPLIT_HELD_OUT, held_out);
                n++;
            }
        }
        assert_int_equal(n, PATIENTS);
        event_file_close(&f);
        table_free(&t);
        deidentify_report_free(&r);
    }
}

static void excluded_and_twice(void **state) {
    (void)state;
    const char *source = source_make(), *list = at("list");
    MUST(file_write(list, "1003\n1003 # twice\n", 18, err));
    DeidentifyOptions o = options(source, "excluded");
    o.exclude_file = list;
    DeidentifyReport r = release(&o);
    assert_int_equal(r.excluded, 1);
    assert_int_equal(leaks_of(o.out).patients, PATIENTS - 1);
    deidentify_report_free(&r);
    DeidentifyOptions again = options(o.out, "again");
    Err err = {0};
    assert_int_equal(deidentify_events(&again, &r, &err), ERR_USAGE);
    assert_non_null(strstr(err.msg, "already"));
    /* Too few patients for any code to stay. */
    o = options(source, "none");
    o.min_patients = 1000;
    assert_int_equal(deidentify_events(&o, &r, &err), ERR_FORMAT);
    assert_false(path_exists(o.out) || path_exists(o.linkage));
}

static void dataset_carries_record(void **state) {
    (void)state;
    const char *source = source_make();
    DeidentifyOptions o = options(source, "carried");
    DeidentifyReport r = release(&o);
    /* Tokens and minutes are those of the source but for what rules took. */
    TokenizeOptions t = made_options(o.out, at("carried.d"));
    TokenizeReport tr = made_tokenize(t);
    assert_string_equal(tr.level, "safe-harbor-rules");
    assert_int_equal(tr.released, 1);
    Dataset d = made_open(t.out);
    assert_string_equal(d.deidentification, "safe-harbor-rules");
    json_t *root = json_loads(d.json, 0, NULL), *said = json_object_get(root, "deidentification");
    char a[65], b[65];
    deidentify_record_sha256(r.record, a);
    deidentify_record_sha256(json_object_get(said, "record"), b);
    assert_string_equal(a, b);
    Table link;
    MUST(table_read_h5(&link, o.linkage, err));
    const uint64_t *key = table_get(&link, "patient_key", COLUMN_U64);
    int split;
    int64_t row;
    for (int64_t i = 0; i < link.n; i++) MUST(dataset_find(&d, key[i], &split, &row, err));
    table_free(&link);
    dataset_close(&d);
    /* A claim beyond what was done is refused. */
    const char *const level[] = {"safe-harbor", "expert", "anonymous"};
    for (int i = 0; i < 3; i++) {
        Err err = {0};
        json_object_set_new(said, "level", json_string(level[i]));
        assert_int_equal(deidentify_claim_check(said, "x", "d", &err), ERR_FORMAT);
    }
    json_object_set_new(said, "level", json_string("safe-harbor-rules"));
    Err err = {0};
    assert_int_equal(deidentify_claim_check(said, "x", "d", &err), OK);
    json_object_set_new(json_object_get(said, "record"), "level", json_string("structural")); /* as if a rule had been turned off */
    assert_int_equal(deidentify_claim_check(said, "x", "d", &err), ERR_FORMAT);
    json_object_del(said, "record");
    assert_int_equal(deidentify_claim_check(said, "x", "d", &err), ERR_FORMAT);
    json_decref(root);
    tokenize_report_free(&tr);
    deidentify_report_free(&r);
}

/* With nothing rolled up and no blur, a release tokenises to the very timelines of its source. */
static void timelines_stay(void **state) {
    (void)state;
    const char *source = source_make();
    DeidentifyOptions o = options(source, "same");
    o.blur_end_minutes = 0;
    o.min_patients = 1;
    DeidentifyReport r = release(&o);
    TokenizeOptions t = made_options(source, at("same.source")), u = made_options(o.out, at("same.d"));
    TokenizeReport tr = made_tokenize(t), ur = made_tokenize(u);
    Dataset a = made_open(t.out), b = made_open(u.out);
    Table link;
    MUST(table_read_h5(&link, o.linkage, err));
    const int64_t *subject = table_get(&link, "subject_id", COLUMN_I64);
    const uint64_t *key = table_get(&link, "patient_key", COLUMN_U64);
    char *source_linkage = linkage_path(source);
    for (int64_t i = 0; i < link.n; i++) {
        PatientView x = made_patient_of(&a, source_linkage, subject[i]), y;
        int split;
        int64_t row, k = 0;
        MUST(dataset_find(&b, key[i], &split, &row, err));
        MUST(dataset_patient(&b, split, row, &y, err));
        assert_int_equal(x.age_years, y.age_years);
        for (int64_t j = 0; j < y.n; j++, k++) { /* the source has some events more: identifiers and texts */
            while (k < x.n && (x.minutes[k] != y.minutes[j] || strcmp(a.vocabulary.token[patient_token(&x, k)].code,
                                                                      b.vocabulary.token[patient_token(&y, j)].code)))
                k++;
            const VocabToken *token = &b.vocabulary.token[patient_token(&y, j)];
            assert_true(k < x.n || token->kind == TOKEN_GAP || !strcmp(token->code, "LOINC//72166-2")); /* lost its answer */
            if (k == x.n) k = 0;
        }
        if (subject[i] != 1002) assert_int_equal(x.observation_end, y.observation_end);
    }
    free(source_linkage);
    table_free(&link);
    dataset_close(&a);
    dataset_close(&b);
    tokenize_report_free(&tr);
    tokenize_report_free(&ur);
    deidentify_report_free(&r);
}

static void add_dated(MadeFile *f, int64_t subject, int64_t minute, int64_t available, int precision, const char *code) {
    Event e = {.subject = subject, .time = made_us(minute), .available = made_us(available), .value = NAN, .precision = (uint8_t)precision};
    MUST(event_writer_code(f->w, code, KIND_DIAGNOSIS, NULL, NULL, &e.code, err));
    MUST(event_writer_add(f->w, &e, err));
}

/* 24 people: two have a result in a rare unit, twelve a value of a code that is rolled up; the third died, and is told of later;
 * the fourth has a diagnosis dated before birth, the fifth three that only have a date; the sixth turns 90 while watched, the
 * seventh's birth is a slip of the pen, more than a year after the first visit. */
static const char *small_source_make(void) {
    const char *path = at("small.h5");
    MadeFile f = events_begin(path);
    for (int64_t i = 0; i < 24; i++) {
        const int64_t id = 2001 + i, start = 40 * YEAR + i * 37 * DAY + 601, day = start - 601 + 100 * DAY; /* a midnight */
        events_subject(&f, id, start + 2 * YEAR, SPLIT_UNSET);
        add_event(&f, id, i == 5 ? start - 89 * YEAR - 300 * DAY : i == 6 ? start + 400 * DAY : start - 30 * YEAR, "MEDS_BIRTH", KIND_BIRTH);
        add_event(&f, id, start, "VISIT//OP", KIND_VISIT_START);
        events_add(&f, (MadeEvent){id, start + 11, "LOINC//1-1", KIND_LAB, 7, i < 2 ? "furlong" : "g", COMPARE_LT}, NULL);
        if (i < 12) add_lab(&f, id, start + 12, i < 6 ? "ICD10CM//E11.65" : "ICD10CM//E11.64", 3.25f, "g");
        if (i == 2) add_event(&f, id, start + 50 * DAY, "MEDS_DEATH", KIND_DEATH);
        add_lab(&f, id, start + 60 * DAY, "LOINC//2-2", i == 2 ? 99 : 4, "g");
        add_dated(&f, id, i == 3 ? start - 31 * YEAR : start, start, PRECISION_MINUTE, "ICD10CM//I10");
        if (i != 2) add_dated(&f, id, day, day + 600, i == 4 ? PRECISION_DAY : PRECISION_MINUTE, "ICD10CM//I11"); /* known that day */
        if (i != 2) add_dated(&f, id, day, day + 9 * DAY, i == 4 ? PRECISION_DAY : PRECISION_MINUTE, "ICD10CM//I12"); /* billed later */
        if (i != 2) add_dated(&f, id, day, day - 600, i == 4 ? PRECISION_DAY : PRECISION_MINUTE, "ICD10CM//I13"); /* known before */
    }
    events_end(&f);
    return path;
}

/* A value goes with the code or the unit that it was told in, and with it how it compares. */
static void values_and_times_of_what_stays(void **state) {
    (void)state;
    DeidentifyOptions o = options(small_source_make(), "small.out");
    o.blur_end_minutes = 0;
    DeidentifyReport r = release(&o);
    EventFile f;
    int without_unit = 0, rolled = 0, at_birth = 0, dead = 0, same_day = 0, end_of_day = 0, early = 0;
    assert_true(has_code(o.events, "furlong") && !has_code(o.out, "furlong"));
    MUST(event_file_open(&f, o.out, err));
    assert_int_equal(f.n_patients, 24);
    for (int64_t row = 0; row < f.n_patients; row++) {
        EventPatient p;
        MUST(event_file_patient(&f, row, &p, err));
        int64_t birth = TIME_NONE;
        int died = 0;
        for (int64_t i = 0; i < p.n; i++) {
            const Event *e = &p.event[i];
            const char *code = f.codes[e->code];
            if (f.code_kind[e->code] == KIND_BIRTH) {
                birth = e->time;
                continue;
            }
            assert_false(died); /* nothing comes after a death */
            died = f.code_kind[e->code] == KIND_DEATH;
            dead += died;
            assert_true(e->value != 99 && e->time >= birth && e->precision == PRECISION_MINUTE);
            at_birth += e->time == birth && birth < 0;
            if (isnan(e->value)) assert_true(e->unit == 0 && e->comparator == COMPARE_EQ);
            if (!strcmp(code, "LOINC//1-1")) without_unit += isnan(e->value);
            if (!strcmp(code, "LOINC//1-1") && !isnan(e->value)) assert_true(e->value == 7 && e->comparator == COMPARE_LT && !strcmp(f.units[e->unit], "g"));
            if (!strcmp(code, "ICD10CM//E11.6")) {
                assert_true(isnan(e->value));
                rolled++;
            }
            same_day += !strcmp(code, "ICD10CM//I11") && e->time == e->available;
            end_of_day += !strcmp(code, "ICD10CM//I12") && e->available - e->time == (8 * DAY + 1) * US_PER_MINUTE;
            early += !strcmp(code, "ICD10CM//I13") && e->time == e->available;
        }
        assert_true(birth != TIME_NONE && birth <= 0);
        assert_true((double)(p.observation_end - birth) <= 90.0001 * 365.25 * (double)US_PER_DAY); /* nor is anybody watched beyond 90 */
    }
    event_file_close(&f);
    assert_int_equal(without_unit, 2);
    assert_int_equal(rolled, 12);
    assert_int_equal(at_birth, 1);
    assert_int_equal(dead, 1);
    assert_true(same_day == 1 && end_of_day == 1 && early == 1); /* of the fifth, whose dates have no times */
    assert_true(r.values_rolled == 12 && r.values_of_units == 2 && r.before_birth == 1 && r.after_death == 1);
    assert_true(r.ages_shifted == 1 && r.ends_blurred == 0);
    deidentify_report_free(&r);
}

static void attestations(void **state) {
    (void)state;
    const char *source = source_make(), *key = at("key"), *path = at("attestation.json");
    DeidentifyOptions o = options(source, "attested");
    DeidentifyReport r = release(&o);
    char record[65], *json, public_key[PUBLIC_KEY_HEX];
    deidentify_record_sha256(r.record, record);
    MUST(signing_key_make(key, err));
    MUST(public_key_read(public_key, at("key.pub"), err));
    Attestation a = {"safe-harbor", "A. Person", "privacy officer", "", "2026-01-01", "I say so.", r.sha256, record};
    MUST(attest_sign(&json, &a, key, err));
    MUST(file_write(path, json, strlen(json), err));
    TokenizeOptions t = made_options(o.out, at("attested.d"));
    t.attestation = path;
    TokenizeReport tr = made_tokenize(t);
    Dataset d = made_open(t.out);
    assert_string_equal(d.deidentification, "safe-harbor");
    dataset_close(&d);
    tokenize_report_free(&tr);
    /* A dataset claims what was attested, not more and not something else. */
    json_t *said = json_loads(json, 0, NULL);
    json_t *claim = json_pack("{s:s, s:O, s:O}", "level", "safe-harbor", "record", r.record, "attestation", said);
    Err err = {0};
    assert_int_equal(deidentify_claim_check(claim, r.sha256, "d", &err), OK);
    assert_int_equal(deidentify_claim_check(claim, "another", "d", &err), ERR_FORMAT);
    json_object_set_new(claim, "level", json_string("expert"));
    assert_int_equal(deidentify_claim_check(claim, r.sha256, "d", &err), ERR_FORMAT);
    json_decref(claim);
    /* Changed words, another key, another release. */
    assert_int_equal(attest_verify(said, public_key, "it", &err), OK);
    public_key[0] = public_key[0] == '0' ? '1' : '0';
    assert_int_equal(attest_verify(said, public_key, "it", &err), ERR_FORMAT);
    json_object_set_new(said, "name", json_string("B. Person"));
    assert_int_equal(attest_verify(said, NULL, "it", &err), ERR_FORMAT);
    char *changed = json_dumps(said, 0);
    MUST(file_write(at("changed.json"), changed, strlen(changed), err));
    free(changed);
    t.attestation = at("changed.json");
    t.out = at("changed.d");
    made_refused(t, ERR_FORMAT, "changed after signing");
    json_decref(said);
    free(json);
    DeidentifyOptions other = options(source, "other");
    DeidentifyReport q = release(&other);
    t = made_options(other.out, at("other.d"));
    t.attestation = path;
    made_refused(t, ERR_FORMAT, "another release");
    /* Texts stay only with a statement about this very source. */
    o = options(source, "texts");
    o.text_attestation = path;
    DeidentifyReport s;
    assert_int_equal(deidentify_events(&o, &s, &err), ERR_FORMAT);
    EventFile f;
    MUST(event_file_open(&f, source, err));
    a = (Attestation){"text-scrubbed", "A. Person", "", "", "2026-01-01", "", f.sha256, ""};
    const char *texts = at("texts.json");
    MUST(attest_sign(&json, &a, key, err));
    MUST(file_write(texts, json, strlen(json), err));
    event_file_close(&f);
    o.text_attestation = texts;
    s = release(&o);
    assert_true(has_code(o.out, "Dr Miller"));
    assert_true(deidentify_record_texts_attested(s.record) && !deidentify_record_texts_attested(r.record));
    free(json);
    deidentify_report_free(&r);
    deidentify_report_free(&q);
    deidentify_report_free(&s);
}

static void patient_is_found(void **state) {
    (void)state;
    const char *source = source_make();
    DeidentifyOptions o = options(source, "found");
    DeidentifyReport r = release(&o);
    TokenizeOptions t = made_options(o.out, at("found.d"));
    TokenizeReport tr = made_tokenize(t);
    const char *path[] = {t.out, o.out, source};
    WhereisOptions w = {o.linkage, 1005, path, 3};
    WhereisReport wr;
    FILE *quiet = tmpfile();
    MUST(whereis(&w, &wr, quiet, err));
    assert_int_equal(wr.found, 3);
    w.subject = 999;
    MUST(whereis(&w, &wr, quiet, err));
    assert_int_equal(wr.found, 0);
    /* Without the patient. */
    const char *list = at("found.list");
    MUST(file_write(list, "1005\n", 5, err));
    TokenizeOptions u = made_options(o.out, at("found.without"));
    u.exclude_file = list;
    TokenizeReport ur = made_tokenize(u);
    assert_int_equal(ur.n_exclude_unknown, 1); /* an id of the source, of nobody here */
    tokenize_report_free(&ur);
    u.overwrite = 1;
    u.release_linkage = o.linkage;
    ur = made_tokenize(u);
    assert_true(ur.n_excluded == 1 && ur.n_exclude_unknown == 0);
    const char *without[] = {u.out};
    w = (WhereisOptions){o.linkage, 1005, without, 1};
    MUST(whereis(&w, &wr, quiet, err));
    assert_true(wr.datasets == 1 && wr.found == 0);
    fclose(quiet);
    tokenize_report_free(&tr);
    tokenize_report_free(&ur);
    deidentify_report_free(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rules_close_leaks),      cmocka_unit_test(rules_turned_off_leak),
        cmocka_unit_test(with_own_end),           cmocka_unit_test(keys_are_random),
        cmocka_unit_test(excluded_and_twice),     cmocka_unit_test(dataset_carries_record),
        cmocka_unit_test(timelines_stay),         cmocka_unit_test(attestations),
        cmocka_unit_test(values_and_times_of_what_stays),
        cmocka_unit_test(patient_is_found),       cmocka_unit_test(split_before_it_is_gone),
    };
    return cmocka_run_group_tests(tests, folder_make, folder_remove);
}
