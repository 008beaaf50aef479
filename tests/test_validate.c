/* test_validate.c - every finding is provoked once, sound data give none, and no flipped bit of a dataset passes; the
 * commands validate and inspect from their command lines. */
#include "data/commands.h"
#include "data/inspect.h"
#include "data/validate.h"
#include "tests/make_dataset.h"
#include <math.h>
#include <setjmp.h>
#include <sodium.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

/* HDF5 1.10 leaks a little of its own when it meets damaged metadata; what our code leaks is still reported. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) { return "leak:libhdf5"; }

static char root[512], dir[600];

static int group_open(void **state) {
    (void)state;
    const char *base = getenv("TMPDIR");
    snprintf(root, sizeof root, "%s/ehr-validate-XXXXXX", base ? base : "/tmp");
    if (!mkdtemp(root)) return 1;
    snprintf(dir, sizeof dir, "%s/data", root);
    return 0;
}

static int group_close(void **state) {
    (void)state;
    made_remove(root);
    return 0;
}

/* ---- datasets --------------------------------------------------------------------------------------------------------- */

/* The findings of a report, as "name name", errors and warnings and infos in the order of the table. */
static void names_of(const ValidateReport *r, char *out, size_t size) {
    out[0] = 0;
    for (int i = 0; i < FIND_COUNT; i++)
        if (r->finding[i].count) {
            size_t n = strlen(out);
            snprintf(out + n, size - n, "%s%s", n ? " " : "", finding_name(i));
        }
}

static void expect_findings(const char *want) {
    ValidateReport r;
    Err err = {0};
    char got[1000];
    assert_int_equal(validate_dataset(&r, dir, NULL, &err), OK);
    names_of(&r, got, sizeof got);
    assert_string_equal(got, want);
    for (int i = 0; i < FIND_COUNT; i++)
        if (r.finding[i].count) {
            assert_in_range(r.finding[i].n_examples, 1, EXAMPLES_MAX);
            assert_true(strlen(finding_about(i)) > 10);
        }
    report_free(&r);
}

/* Twelve sound patients: eight in train, two in each other split; censored an hour after their last event. */
typedef struct {
    MadePatient p[12];
    MadeSplit   split[SPLIT_COUNT];
} Cohort;

static Cohort *cohort_open(void) {
    Cohort *c = xcalloc(1, sizeof *c);
    for (int i = 0; i < 12; i++) {
        c->p[i] = (MadePatient){.key = (uint64_t)i + 1, .statics = {MADE_SEX_F, 60}, .group = {1}};
        made_push(&c->p[i], MADE_VISIT, 0);
        made_push(&c->p[i], MADE_VISIT_END, 1);
        int64_t at = made_gap(&c->p[i], 1, 500 * 1440 + 77);
        made_push(&c->p[i], MADE_VISIT, at);
        made_push(&c->p[i], MADE_VISIT_END, at + 4);
        c->p[i].observation_end = (int32_t)at + 64;
    }
    c->split[0] = (MadeSplit){c->p, 8};
    c->split[1] = (MadeSplit){c->p + 8, 2};
    c->split[2] = (MadeSplit){c->p + 10, 2};
    return c;
}

static void cohort_close(Cohort *c, const char *want) {
    made_write(dir, c->split, 0, NULL);
    expect_findings(want);
    for (int i = 0; i < 12; i++) made_patient_free(&c->p[i]);
    free(c);
    made_remove(dir);
}

static void edit_json(const char *from, const char *to) {
    char path[700], *json, *at;
    Err err = {0};
    snprintf(path, sizeof path, "%s/dataset.json", dir);
    assert_int_equal(file_read(path, 1 << 20, &json, NULL, &err), OK);
    at = strstr(json, from);
    assert_non_null(at);
    char *changed = xasprintf("%.*s%s%s", (int)(at - json), json, to, at + strlen(from));
    assert_int_equal(file_write(path, changed, strlen(changed), &err), OK);
    free(changed);
    free(json);
}

static void test_sound(void **state) {
    (void)state;
    cohort_close(cohort_open(), "");
    make_dataset(dir, 300, 6);
    expect_findings("");
    made_remove(dir);
}

static void test_tokens(void **state) {
    (void)state;
    Cohort *c = cohort_open();
    c->p[3].tokens[1] = MADE_VOCABULARY;
    cohort_close(c, "token.range");

    c = cohort_open();
    c->p[3].tokens[1] = MADE_AGE;
    c->p[4].tokens[1] = TOKEN_PAD;
    cohort_close(c, "token.prefix_only");

    c = cohort_open();
    c->p[9].tokens[1] = MADE_DEATH;
    cohort_close(c, "token.after_death");

    c = cohort_open();
    c->p[0].statics[0] = MADE_VISIT;
    cohort_close(c, "static.kind");

    c = cohort_open();
    c->p[0].group[0] = 3;
    cohort_close(c, "group.code");
    c = cohort_open();
    c->p[0].group[0] = 0; /* unknown is a group like others */
    cohort_close(c, "");
}

static void test_times(void **state) {
    (void)state;
    Cohort *c = cohort_open();
    c->p[3].minutes[1] = -1;
    cohort_close(c, "order");

    c = cohort_open();
    for (int64_t i = 0; i < c->p[2].n; i++) c->p[2].minutes[i] += 7;
    cohort_close(c, "minutes.first");

    /* 500 days are two =6mt and 140 days: another bin, one too few, one too many, one at a wrong minute, one missing. */
    for (int k = 0; k < 5; k++) {
        c = cohort_open();
        MadePatient *p = &c->p[5];
        assert_int_equal(p->n, 7);
        assert_int_equal(p->tokens[4], MADE_GAP + 17);
        if (k == 0) p->tokens[4] = MADE_GAP + 16;
        if (k == 1) p->tokens[2] = MADE_GAP + 17;
        if (k == 2) p->minutes[2] += 5;
        if (k == 3) p->tokens[3] = MADE_VISIT_END;
        if (k == 4) {
            memmove(p->tokens + 4, p->tokens + 5, 2 * sizeof *p->tokens);
            memmove(p->minutes + 4, p->minutes + 5, 2 * sizeof *p->minutes);
            p->n--;
        }
        cohort_close(c, "gap.mismatch");
    }

    c = cohort_open();
    c->p[1].observation_end = c->p[1].minutes[6] - 1;
    cohort_close(c, "observation_end.before_last");

    c = cohort_open();
    for (int i = 0; i < 6; i++) c->p[i].observation_end = c->p[i].minutes[6];
    cohort_close(c, "");
    c = cohort_open();
    for (int i = 0; i < 7; i++) c->p[i].observation_end = c->p[i].minutes[6];
    cohort_close(c, "observation_end.equals_last_event");
}

static void test_patients(void **state) {
    (void)state;
    Cohort *c = cohort_open();
    c->p[1].key = c->p[3].key;
    cohort_close(c, "patient.twice");
    c = cohort_open();
    c->p[1].key = c->p[11].key;
    cohort_close(c, "patient.two_splits");
    c = cohort_open();
    c->p[1].n = 0;
    cohort_close(c, "patient.empty");
    c = cohort_open();
    c->split[1].n = 0;
    cohort_close(c, "split.empty");
    c = cohort_open();
    for (int s = 0; s < SPLIT_COUNT; s++) c->split[s].n = 0;
    cohort_close(c, "empty split.empty");
}

/* A vocabulary with one value token, which then stands in the wrong places. */
static void test_value_tokens(void **state) {
    (void)state;
    Cohort *c = cohort_open();
    char path[700], *json, sha[65], old[65];
    Err err = {0};
    made_write(dir, c->split, 0, NULL);
    snprintf(path, sizeof path, "%s/vocabulary.json", dir);
    assert_int_equal(file_sha256(path, old, &err), OK);
    assert_int_equal(file_read(path, 1 << 20, &json, NULL, &err), OK);
    char *at = strstr(json, "\"code\": \"ATC//R03AC02\"");
    assert_non_null(at);
    char *kind = strstr(at, "\"event\"");
    assert_non_null(kind);
    memcpy(kind, "\"value\"", 7);
    assert_int_equal(file_write(path, json, strlen(json), &err), OK);
    bytes_sha256(json, strlen(json), sha);
    free(json);
    /* Shards name their vocabulary, so they are written again, by hand. */
    static const char *const name[] = {"train", "tuning", "held_out"};
    for (int s = 0; s < SPLIT_COUNT; s++) {
        ShardWriter *w;
        char file_sha[65], old_sha[65];
        snprintf(path, sizeof path, "%s/%s-00000.h5", dir, name[s]);
        assert_int_equal(file_sha256(path, old_sha, &err), OK);
        assert_int_equal(shard_writer_open(&w, path, 0, 1, 1, 0, &err), OK);
        for (int64_t i = 0; i < c->split[s].n; i++) {
            MadePatient p = c->split[s].patient[i];
            uint32_t tokens[7];
            memcpy(tokens, p.tokens, sizeof tokens);
            if (s == 0 && i < 3) tokens[i == 0 ? 0 : i == 1 ? 1 : 6] = MADE_DRUG + 3; /* first; later than its event */
            assert_int_equal(shard_writer_patient(w, p.key, tokens, p.minutes, p.n, p.statics, p.group, p.observation_end, NULL,
                                                  &err), OK);
        }
        assert_int_equal(shard_writer_close(w, "{}", sha, &err), OK);
        assert_int_equal(file_sha256(path, file_sha, &err), OK);
        edit_json(old_sha, file_sha);
    }
    edit_json(old, sha);
    expect_findings("value.orphan");
    for (int i = 0; i < 12; i++) made_patient_free(&c->p[i]);
    free(c);
    made_remove(dir);
}

static void test_oracle(void **state) {
    (void)state;
    Cohort *c = cohort_open();
    for (int i = 0; i < 12; i++) {
        c->p[i].observation_end = c->p[i].minutes[6]; /* by design: an info */
        c->p[i].oracle_logp = xcalloc(7, sizeof(float));
        c->p[i].oracle_logp[1] = NAN;
    }
    made_write(dir, c->split, 1, "hand-made");
    ValidateReport r;
    Err err = {0};
    assert_int_equal(validate_dataset(&r, dir, NULL, &err), OK);
    assert_int_equal(report_count(&r, SEVERITY_ERROR) + report_count(&r, SEVERITY_WARNING), 0);
    assert_int_equal(r.finding[FIND_END_EQUALS_LAST].count, 1);
    assert_int_equal(r.finding[FIND_END_EQUALS_LAST].severity, SEVERITY_INFO);
    report_free(&r);
    c->p[2].oracle_logp[3] = 0.5f;
    c->p[2].oracle_logp[4] = -INFINITY;
    made_write(dir, c->split, 1, "hand-made");
    expect_findings("observation_end.equals_last_event oracle.logp");
    for (int i = 0; i < 12; i++) made_patient_free(&c->p[i]);
    free(c);
    made_remove(dir);
}

static void test_release(void **state) {
    (void)state;
    char path[700];
    Err err = {0};
    make_dataset(dir, 50, 6);
    snprintf(path, sizeof path, "%s/linkage.h5", dir);
    assert_int_equal(file_write(path, "x", 1, &err), OK);
    expect_findings("file.unlisted");
    assert_int_equal(unlink(path), 0);
    snprintf(path, sizeof path, "%s/labels", dir);
    assert_int_equal(dir_make(path, &err), OK);
    expect_findings("");
    edit_json("\"level\"", "\"nothing\"");
    expect_findings("deidentification.missing");
    made_remove(dir);

    Cohort *c = cohort_open();
    c->p[0].statics[1] = 90; /* 91 by the last event */
    c->p[1].statics[1] = 89;
    made_write(dir, c->split, 0, NULL);
    expect_findings("");
    edit_json("\"synthetic\"", "\"structural\"");
    expect_findings("age.over_90");
    for (int i = 0; i < 12; i++) made_patient_free(&c->p[i]);
    free(c);
    made_remove(dir);
}

static void test_flips(void **state) {
    (void)state;
    char path[700], *whole;
    size_t size;
    Err err = {0};
    make_dataset(dir, 40, 3);
    snprintf(path, sizeof path, "%s/train-00000.h5", dir);
    assert_int_equal(file_read(path, 1 << 26, &whole, &size, &err), OK);
    int checksums = 0;
    for (int i = 0; i < 200; i++) {
        ValidateReport r;
        Philox4 random = philox4x32(7, (uint64_t)i, 0);
        size_t at = (size_t)random.v[0] % size;
        whole[at] ^= (char)(1 << random.v[1] % 8);
        assert_int_equal(file_write(path, whole, size, &err), OK);
        whole[at] ^= (char)(1 << random.v[1] % 8);
        assert_int_equal(validate_dataset(&r, dir, NULL, &err), OK);
        if (!r.finding[FIND_HASH].count) fail_msg("the flip at %zu went unseen", at);
        checksums += r.finding[FIND_CHECKSUM].count > 0;
        report_free(&r);
    }
    assert_true(checksums > 20);
    free(whole);
    assert_int_equal(unlink(path), 0);
    expect_findings("format.open hash.mismatch");
    made_remove(dir);
}

static void test_not_a_dataset(void **state) {
    (void)state;
    ValidateReport r;
    Err err = {0};
    assert_int_equal(validate_dataset(&r, "/no/such/folder", NULL, &err), ERR_IO);
    assert_int_equal(validate_dataset(&r, root, NULL, &err), ERR_FORMAT);
    assert_int_equal(validate_events(&r, "/no/such/events.h5", NULL, &err), ERR_IO);
}

/* ---- events files --------------------------------------------------------------------------------------------------------- */

static char events_path[600];
enum { CODE_BIRTH, CODE_VISIT, CODE_LAB, CODE_DEATH };

/* Patient `subject` is born in 1950, has a lab result in 2010, and is observed until 2011; `change` alters that. */
typedef struct {
    int64_t birth, visit, lab_time, lab_available, death, end;
} Life;

static Life life_open(void) {
    return (Life){time_from_civil(1950, 1, 1, 0, 0, 0),    time_from_civil(2010, 1, 1, 10, 0, 0),
                  time_from_civil(2010, 1, 1, 11, 0, 0),   time_from_civil(2010, 1, 1, 12, 0, 0),
                  TIME_NONE,                               time_from_civil(2011, 1, 1, 0, 0, 0)};
}

static void add(EventWriter *w, int64_t subject, int64_t time, int64_t available, uint32_t code, float value) {
    Err err = {0};
    assert_int_equal(event_writer_add(w, &(Event){.subject = subject, .time = time, .available = available, .code = code,
                                                  .value = value}, &err), OK);
}

static void write_events(const Life *life, int n) {
    EventWriter *w;
    Err err = {0};
    uint32_t code[4];
    int64_t patients, events, duplicates;
    static const struct {
        const char *code;
        int         kind;
    } codes[] = {{"MEDS_BIRTH", KIND_BIRTH}, {"VISIT//OUT", KIND_VISIT_START}, {"LOINC//1", KIND_LAB}, {"MEDS_DEATH", KIND_DEATH}};
    snprintf(events_path, sizeof events_path, "%s/events.h5", root);
    assert_int_equal(event_writer_open(&w, events_path, 1 << 20, &err), OK);
    for (int i = 0; i < 4; i++)
        assert_int_equal(event_writer_code(w, codes[i].code, codes[i].kind, i == 2 ? "a lab" : NULL, NULL, &code[i], &err), OK);
    for (int i = 0; i < n; i++) {
        add(w, i + 1, life[i].birth, life[i].birth, code[CODE_BIRTH], NAN);
        add(w, i + 1, life[i].visit, life[i].visit, code[CODE_VISIT], NAN);
        add(w, i + 1, life[i].lab_time, life[i].lab_available, code[CODE_LAB], 2.5f);
        if (life[i].death != TIME_NONE) add(w, i + 1, life[i].death, life[i].death, code[CODE_DEATH], NAN);
        assert_int_equal(event_writer_subject(w, i + 1, life[i].end, SPLIT_UNSET, &err), OK);
    }
    assert_int_equal(event_writer_close(w, "test", "{}", &patients, &events, &duplicates, &err), OK);
}

static void expect_event_findings(const char *want) {
    ValidateReport r;
    Err err = {0};
    char got[1000];
    assert_int_equal(validate_events(&r, events_path, NULL, &err), OK);
    names_of(&r, got, sizeof got);
    assert_string_equal(got, want);
    report_free(&r);
}

static void expect_life(Life life, const char *want) {
    Life three[3] = {life_open(), life, life_open()};
    write_events(three, 3);
    expect_event_findings(want);
}

static void test_events(void **state) {
    (void)state;
    expect_life(life_open(), "");
    Life l = life_open();
    l.lab_available = l.lab_time - US_PER_MINUTE;
    expect_life(l, "available.before_time");
    l = life_open();
    l.birth = l.visit + 40 * US_PER_DAY;
    expect_life(l, "event.before_birth");
    l = life_open();
    l.death = l.visit - 2 * US_PER_DAY;
    expect_life(l, "event.after_death");
    l.death = l.lab_time; /* the same day: dates of death rarely carry a time */
    expect_life(l, "");
    l = life_open();
    l.birth = time_from_civil(1649, 1, 1, 0, 0, 0);
    expect_life(l, "time.implausible");
    l = life_open();
    l.end = l.visit - 10 * US_PER_DAY;
    expect_life(l, "observation_end.before_last");
    l = life_open();
    l.end = TIME_NONE;
    expect_life(l, "observation_end.unknown");
    l = life_open();
    l.end = l.lab_available;
    expect_life(l, "");
    Life two[2] = {l, l};
    write_events(two, 2);
    expect_event_findings("observation_end.equals_last_event");
    write_events(NULL, 0);
    expect_event_findings("empty");
}

/* Changes bytes of an events file as a program that knows the format would: the seal at its end is made anew. */
static void patch_events(const void *from, const void *to, size_t n) {
    char *whole;
    size_t size;
    Err err = {0};
    assert_int_equal(file_read(events_path, 1 << 20, &whole, &size, &err), OK);
    char *at = memmem(whole, size, from, n);
    assert_non_null(at);
    memcpy(at, to, n);
    crypto_hash_sha256((unsigned char *)whole + size - 32, (const unsigned char *)whole, size - 32);
    assert_int_equal(file_write(events_path, whole, size, &err), OK);
    free(whole);
}

static void test_events_order(void **state) {
    (void)state;
    Life three[3] = {life_open(), life_open(), life_open()};
    three[1].visit = three[1].lab_time = three[1].lab_available = time_from_civil(2010, 5, 5, 5, 5, 0);
    /* Two results of one minute, the smaller one first; then the larger. */
    EventWriter *w;
    Err err = {0};
    uint32_t code;
    int64_t patients, events, duplicates;
    snprintf(events_path, sizeof events_path, "%s/events.h5", root);
    assert_int_equal(event_writer_open(&w, events_path, 1 << 20, &err), OK);
    assert_int_equal(event_writer_code(w, "LOINC//1", KIND_LAB, NULL, NULL, &code, &err), OK);
    add(w, 1, three[1].visit, three[1].visit, code, 2.5f);
    add(w, 1, three[1].visit, three[1].visit, code, 4.5f);
    assert_int_equal(event_writer_subject(w, 1, three[1].end, SPLIT_UNSET, &err), OK);
    assert_int_equal(event_writer_close(w, "test", "{}", &patients, &events, &duplicates, &err), OK);
    expect_event_findings("");
    float sorted[2] = {2.5f, 4.5f}, turned[2] = {4.5f, 2.5f};
    patch_events(sorted, turned, sizeof sorted);
    expect_event_findings("order");

    three[1] = life_open();
    write_events(three, 3);
    int64_t ids[3] = {1, 2, 3}, twice[3] = {1, 1, 3};
    patch_events(ids, twice, sizeof ids);
    expect_event_findings("format.record");
    write_events(three, 3);
    int64_t times[2] = {three[0].visit, three[0].lab_available}, backwards[2] = {three[0].lab_available, three[0].visit};
    patch_events(times, backwards, sizeof times);
    expect_event_findings("format.record");
}

static void test_events_damage(void **state) {
    (void)state;
    Life three[3] = {life_open(), life_open(), life_open()};
    char *whole;
    size_t size;
    Err err = {0};
    write_events(three, 3);
    assert_int_equal(file_read(events_path, 1 << 20, &whole, &size, &err), OK);
    assert_int_equal(file_write(events_path, whole, size / 2, &err), OK);
    expect_event_findings("format.open");
    whole[size / 2] ^= 4;
    assert_int_equal(file_write(events_path, whole, size, &err), OK);
    expect_event_findings("format.open");
    free(whole);
}

/* ---- commands --------------------------------------------------------------------------------------------------------------- */

/* Runs a command with stdout into a file; returns its text, free() it. */
static char *run(Status (*command)(int, char **, Err *), Status want, const char *const *args) {
    char path[600], *text, *argv[16];
    int argc = 0;
    Err err = {0};
    for (; args[argc]; argc++) argv[argc] = xstrdup(args[argc]);
    snprintf(path, sizeof path, "%s/stdout", root);
    fflush(stdout);
    int saved = dup(STDOUT_FILENO);
    assert_non_null(freopen(path, "w", stdout));
    Status status = command(argc, argv, &err);
    fflush(stdout);
    dup2(saved, STDOUT_FILENO);
    close(saved);
    for (int i = 0; i < argc; i++) free(argv[i]);
    if (status != want) fail_msg("status %d instead of %d: %s", status, want, err.msg);
    REQUIRE(!file_read(path, 1 << 20, &text, NULL, &err) && text);
    return text;
}

static void expect_text(Status (*command)(int, char **, Err *), Status want, const char *mention, const char *const *args) {
    char *text = run(command, want, args);
    if (*mention && !strstr(text, mention)) fail_msg("'%s' is not in:\n%s", mention, text);
    free(text);
}
#define ARGS(...) ((const char *const[]){__VA_ARGS__, NULL})

static void test_validate_command(void **state) {
    (void)state;
    char json[600], extra[700], *text;
    Err err = {0};
    snprintf(json, sizeof json, "%s/findings.json", root);
    make_dataset(dir, 50, 2);
    expect_text(cmd_validate, OK, "\nvalid\n", ARGS(dir));
    expect_text(cmd_validate, OK, "\nvalid\n", ARGS(dir, "--strict"));
    snprintf(extra, sizeof extra, "%s/extra", dir);
    assert_int_equal(file_write(extra, "x", 1, &err), OK);
    expect_text(cmd_validate, OK, "0 errors, 1 warning\n", ARGS(dir));
    expect_text(cmd_validate, ERR_FORMAT, "file.unlisted", ARGS(dir, "--strict", "--json", json));
    assert_int_equal(file_read(json, 1 << 20, &text, NULL, &err), OK);
    assert_non_null(strstr(text, "\"name\": \"file.unlisted\""));
    assert_non_null(strstr(text, "\"warnings\": 1"));
    free(text);
    snprintf(extra, sizeof extra, "%s/train-00000.h5", dir);
    assert_int_equal(truncate(extra, 4000), 0);
    expect_text(cmd_validate, ERR_FORMAT, "hash.mismatch", ARGS(dir));
    expect_text(cmd_validate, ERR_USAGE, "", ARGS(dir, dir));
    expect_text(cmd_validate, ERR_USAGE, "", ARGS(dir, "--sticky"));
    expect_text(cmd_validate, ERR_IO, "", ARGS("/no/such/folder"));
    expect_text(cmd_validate, OK, "--strict", ARGS("--help"));
    made_remove(dir);
    Life three[3] = {life_open(), life_open(), life_open()};
    write_events(three, 3);
    expect_text(cmd_validate, OK, "events file: 3 patients, 9 events checked\nvalid\n", ARGS(events_path));
    assert_int_equal(truncate(events_path, 1000), 0);
    expect_text(cmd_validate, ERR_FORMAT, "format.open", ARGS(events_path));
}

static void test_inspect_command(void **state) {
    (void)state;
    Cohort *c = cohort_open();
    made_write(dir, c->split, 0, NULL);
    expect_text(cmd_inspect, OK, "train          8 patients", ARGS(dir, "--limit", "1"));
    expect_text(cmd_inspect, OK, "observed       16.4 patient-years, 5.1 tokens a year, 0 deaths", ARGS(dir));
    expect_text(cmd_inspect, OK, "min 7   5% 7   25% 7   median 7", ARGS(dir));
    expect_text(cmd_inspect, OK, "gap                        36   42.86%\n", ARGS(dir));
    expect_text(cmd_inspect, OK, "tuning         2 patients, 14 tokens\nobserved", ARGS(dir, "--split", "val"));
    expect_text(cmd_inspect, OK, "   +1y 135d 01:18   61.4  VISIT//OUT  outpatient visit\n", ARGS(dir, "--patient", "1"));
    expect_text(cmd_inspect, OK, "39     518401  GAP//=6mt\n", ARGS(dir, "--patient", "0", "--tokens"));
    expect_text(cmd_inspect, OK, "patient        1 of held_out (key 12)", ARGS(dir, "--patient", "12", "--split", "train"));
    expect_text(cmd_inspect, OK, "SEX//F, age 60 at the first event", ARGS(dir, "--patient", "1", "--split", "held_out"));
    expect_text(cmd_inspect, ERR_USAGE, "", ARGS(dir, "--patient", "99"));
    expect_text(cmd_inspect, ERR_USAGE, "", ARGS(dir, "--patient", "-1"));
    expect_text(cmd_inspect, ERR_USAGE, "", ARGS(dir, "--split", "middle"));
    expect_text(cmd_inspect, ERR_IO, "", ARGS("/no/such/folder"));
    for (int i = 0; i < 12; i++) made_patient_free(&c->p[i]);
    free(c);
    made_remove(dir);
    Life three[3] = {life_open(), life_open(), life_open()};
    write_events(three, 3);
    expect_text(cmd_inspect, OK, "patients       3, 100.0% with a known end of observation", ARGS(events_path));
    expect_text(cmd_inspect, OK, "2010-01-01 11:00 2010-01-01 12:00        LOINC//1  a lab  2.5\n",
                ARGS(events_path, "--patient", "2"));
    expect_text(cmd_inspect, OK, "subject        3 (row 2)", ARGS(events_path, "--patient", "3"));
    expect_text(cmd_inspect, ERR_USAGE, "", ARGS(events_path, "--patient", "77"));
    expect_text(cmd_inspect, ERR_USAGE, "", ARGS(events_path, "--tokens"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sound),         cmocka_unit_test(test_tokens),       cmocka_unit_test(test_times),
        cmocka_unit_test(test_patients),      cmocka_unit_test(test_value_tokens), cmocka_unit_test(test_oracle),
        cmocka_unit_test(test_release),       cmocka_unit_test(test_flips),        cmocka_unit_test(test_not_a_dataset),
        cmocka_unit_test(test_events),        cmocka_unit_test(test_events_order), cmocka_unit_test(test_events_damage),
        cmocka_unit_test(test_validate_command), cmocka_unit_test(test_inspect_command),
    };
    return cmocka_run_group_tests(tests, group_open, group_close);
}
