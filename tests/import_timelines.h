/* import_timelines.h - import_check.h for importers whose tests import one folder and compare all of its timelines as
 * text: options of the current test, counts of the report by reason, what must not be in a file. */
#ifndef EHR_TESTS_IMPORT_TIMELINES_H
#define EHR_TESTS_IMPORT_TIMELINES_H
#include "tests/import_check.h"

static Importer import_format;
static ImportOptions options; /* reset for each test */

static inline int folder_make(void **state) {
    options = (ImportOptions){.memory = 8 << 20, .max_line = 1 << 20, .max_errors = -1};
    return folder_open(state);
}
#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, folder_make, folder_close)

static inline void put_bytes(const char *name, const void *text, size_t size) { spill(folder, name, text, size); }

static inline Status import_path(const char *path, const char *out) {
    options.path = path;
    options.out = out;
    import_report_free(&report);
    err = (Err){0};
    return import_format(&options, &report, &err);
}

static inline void import_as(const char *path, const char *out) {
    ok(import_path(path, out));
    assert_accounted();
    int64_t events = 0; /* each is in the file or was a duplicate */
    for (int i = 0; i < report.n_tables; i++) events += report.table[i].events;
    assert_int_equal(report.n_events + report.n_duplicates, events);
}

static inline void import_folder(void) { import_as(folder, at("out.h5")); }

typedef struct {
    const char *table;
    ReportReason reason;
    int64_t count;
} Counted;

static inline void assert_counts(const Counted *expected, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (table(expected[i].table)->count[expected[i].reason] != expected[i].count)
            fail_msg("%s, %s: %lld, not %lld", expected[i].table, import_report_reason_text(expected[i].reason),
                     (long long)table(expected[i].table)->count[expected[i].reason], (long long)expected[i].count);
}

/* The events of all subjects, a line each: available | time | code | value comparator unit | visit.  A time is "=" when
 * it is the available one, a date when only the date is known. */
static inline const char *timelines(const char *path) {
    static const char *const comparators[] = {"", "<", "<=", ">=", ">"};
    static char text[1 << 16];
    EventFile f;
    EventPatient p;
    size_t n = 0;
    text[0] = 0;
    ok(event_file_open(&f, path, &err));
    for (int64_t r = 0; r < f.n_patients; r++) {
        ok(event_file_patient(&f, r, &p, &err));
        for (int64_t i = 0; i < p.n && n < sizeof text - 1000; i++) {
            const Event *e = &p.event[i];
            char a[40], t[40], value[80] = "";
            time_write(a, sizeof a, e->available);
            time_write(t, sizeof t, e->time);
            if (e->precision == PRECISION_DAY) t[10] = 0;
            else if (e->time != TIME_NONE && e->time == e->available) snprintf(t, sizeof t, "=");
            if (!isnan(e->value))
                snprintf(value, sizeof value, "%s%g%s", comparators[e->comparator], (double)e->value, f.units[e->unit]);
            n += (size_t)snprintf(text + n, sizeof text - n, "%s|%s|%s|%s|%u\n", a, t, f.codes[e->code], value,
                                  e->visit);
        }
        char end[40];
        time_write(end, sizeof end, p.observation_end);
        n += (size_t)snprintf(text + n, sizeof text - n, "end %s\n", end);
    }
    event_file_close(&f);
    return text;
}

/* assert_string_equal cuts long texts. */
static inline void assert_timelines(const char *expected) {
    const char *found = timelines(at("out.h5"));
    if (!strcmp(found, expected)) return;
    size_t n = 0, line = 0;
    for (; found[n] && found[n] == expected[n]; n++)
        if (found[n] == '\n') line = n + 1;
    print_message("expected from there:\n%.300s\n", expected + line);
    print_message("found:\n%.300s\n", found + line);
    fail_msg("timelines differ");
}

/* No part of the file, codes and names included, holds the text. */
static inline void assert_absent(const char *path, const char *text) {
    char *x;
    size_t n;
    ok(file_read(path, 1u << 30, &x, &n, &err));
    if (memmem(x, n, text, strlen(text))) fail_msg("%s holds %s", path, text);
    free(x);
}

#endif
