/* make_events.h - hand-made events for the tests of tokenize: a list of events in any order, written as an events file,
 * tokenised, and read back as strings.  Any failure ends the test. */
#ifndef EHR_TESTS_MAKE_EVENTS_H
#define EHR_TESTS_MAKE_EVENTS_H
#include "data/dataset.h"
#include "data/table.h"
#include "data/tokenizer.h"
#include "data/tokenizer_values.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#define MADE __attribute__((unused)) static
#define DAY 1440
#define NONE NAN
#define UNDATED INT64_MIN

typedef struct {
    int64_t     subject, minute; /* since 2000-01-01; UNDATED = static */
    const char *code;
    int         kind;
    float       value; /* NONE */
    const char *unit;
    int         comparator;
} MadeEvent;

static char made_folder[256];

MADE int folder_make(void **state) {
    (void)state;
    const char *tmp = getenv("TMPDIR");
    snprintf(made_folder, sizeof made_folder, "%s/test_tokenizer-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    return mkdtemp(made_folder) ? 0 : -1;
}

MADE int folder_remove(void **state) {
    (void)state;
    char command[300];
    snprintf(command, sizeof command, "rm -rf '%s'", made_folder);
    return system(command);
}

MADE const char *at(const char *name) {
    static char path[128][512]; /* a test names fewer */
    static int  turn;
    turn = (turn + 1) % 128;
    snprintf(path[turn], sizeof path[turn], "%s/%s", made_folder, name);
    return path[turn];
}

#define MUST(call) do { Err must_err = {0}; Err *err = &must_err; if (call) fail_msg("%s: %s", #call, must_err.msg); } while (0)

/* ---- writing --------------------------------------------------------------------------------------------------------- */

typedef struct {
    EventWriter *w;
} MadeFile;

MADE int64_t made_us(int64_t minute) { return time_from_civil(2000, 1, 1, 0, 0, 0) + minute * US_PER_MINUTE; }

MADE MadeFile events_begin(const char *path) {
    MadeFile f;
    MUST(event_writer_open(&f.w, path, 64 << 20, err));
    return f;
}

MADE void events_add(MadeFile *f, MadeEvent e, const char *parent) {
    uint32_t code;
    uint16_t unit = 0;
    MUST(event_writer_code(f->w, e.code, e.kind, NULL, parent, &code, err));
    if (e.unit) MUST(event_writer_unit(f->w, e.unit, &unit, err));
    int64_t us = e.minute == UNDATED ? TIME_NONE : made_us(e.minute);
    Event row = {.subject = e.subject, .time = us, .available = us, .code = code, .value = e.value, .unit = unit,
                 .comparator = (uint8_t)e.comparator, .precision = PRECISION_MINUTE};
    MUST(event_writer_add(f->w, &row, err));
}

MADE void events_subject(MadeFile *f, int64_t subject, int64_t end_minute, int split) {
    MUST(event_writer_subject(f->w, subject, end_minute == UNDATED ? TIME_NONE : made_us(end_minute), split, err));
}

MADE void events_end(MadeFile *f) {
    int64_t p, e, d;
    MUST(event_writer_close(f->w, "test", "{}", &p, &e, &d, err));
}

/* Events of a table ended by subject 0; every subject is in train and observed to its last event. */
MADE void events_write(const char *path, const MadeEvent *e) {
    MadeFile f = events_begin(path);
    for (int i = 0; e[i].subject; i++) {
        int seen = 0;
        for (int k = 0; k < i; k++) seen |= e[k].subject == e[i].subject;
        if (!seen) events_subject(&f, e[i].subject, UNDATED, SPLIT_TRAIN);
        events_add(&f, e[i], NULL);
    }
    events_end(&f);
}

/* n patients with ids step, 2 step, ...; a visit each, `day` days after 2000 plus their number. */
MADE void write_patients(const char *path, int n, int step, int days_apart, int reverse) {
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

/* ---- tokenising -------------------------------------------------------------------------------------------------------- */

MADE TokenizeOptions made_options(const char *events, const char *out) {
    return (TokenizeOptions){.events = events, .out = out, .age_bin_years = 1, .min_patients = 1, .shard_size = 256 << 20};
}

MADE TokenizeReport made_tokenize(TokenizeOptions o) {
    TokenizeReport r;
    MUST(tokenize_events(&o, &r, err));
    return r;
}

MADE void made_refused(TokenizeOptions o, Status code, const char *says) {
    TokenizeReport r;
    Err err = {0};
    Status status = tokenize_events(&o, &r, &err);
    if (status != code || !strstr(err.msg, says)) fail_msg("status %d: %s; expected %d: %s", status, err.msg, code, says);
    char *tmp = xasprintf("%s.tmp", o.out);
    assert_false(path_exists(tmp));
    free(tmp);
}

MADE Dataset made_open(const char *path) {
    Dataset d;
    MUST(dataset_open(&d, path, err));
    return d;
}

/* The place of a source subject, through the linkage beside the events. */
MADE PatientView made_patient_of(Dataset *d, const char *linkage, int64_t subject) {
    Table t;
    PatientView p = {0};
    MUST(table_read_h5(&t, linkage, err));
    const int64_t *id = table_get(&t, "subject_id", COLUMN_I64), *split = table_get(&t, "split", COLUMN_I64);
    const int64_t *row = table_get(&t, "patient_row", COLUMN_I64);
    const uint64_t *key = table_get(&t, "patient_key", COLUMN_U64);
    for (int64_t i = 0; i < t.n; i++) {
        if (id[i] != subject) continue;
        MUST(dataset_patient(d, (int)split[i], row[i], &p, err));
        assert_int_equal(p.key, key[i]);
        table_free(&t);
        return p;
    }
    fail_msg("subject %lld is not in %s", (long long)subject, linkage);
    return p;
}

/* "TOKEN@minute TOKEN@minute ..."; minutes only where they change. free() it. */
MADE char *made_story(const Dataset *d, const PatientView *p) {
    char *text = NULL;
    size_t size;
    FILE *f = open_memstream(&text, &size);
    int32_t prefix[64];
    int n = dataset_prefix(d, p, 0, prefix, 64);
    for (int i = 0; i < n; i++) fprintf(f, "%s%s", i ? " " : "", d->vocabulary.token[prefix[i]].code);
    fprintf(f, " |");
    for (int64_t i = 0; i < p->n; i++) {
        fprintf(f, " %s", d->vocabulary.token[patient_token(p, i)].code);
        if (!i || p->minutes[i] != p->minutes[i - 1]) fprintf(f, "@%d", p->minutes[i]);
    }
    fclose(f);
    return text;
}

MADE void assert_story(Dataset *d, const char *linkage, int64_t subject, const char *expected) {
    PatientView p = made_patient_of(d, linkage, subject);
    char *story = made_story(d, &p);
    assert_string_equal(story, expected);
    free(story);
}

/* Two folders hold the same files with the same bytes. */
MADE void assert_same_folder(const char *a, const char *b) {
    char *command = xasprintf("diff -r '%s' '%s' > /dev/null", a, b);
    assert_int_equal(system(command), 0);
    free(command);
}

#endif
