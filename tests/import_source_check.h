/* import_source_check.h - what tests of importers share: a folder for each test, tables put into it, an import, its report and
 * timelines read back as text. */
#ifndef EHR_TESTS_IMPORT_SOURCE_CHECK_H
#define EHR_TESTS_IMPORT_SOURCE_CHECK_H
#include "data/import.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

static char root[256], folder[300]; /* folder: of the current test */
static ImportReport report;
static Status (*import_format)(const ImportOptions *options, ImportReport *r, Err *err);
static ImportOptions options; /* reset for each test */

static int root_make(void **state) {
    (void)state;
    const char *tmp = getenv("TMPDIR");
    snprintf(root, sizeof root, "%s/test_import-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    return mkdtemp(root) ? 0 : -1;
}

static int root_remove(void **state) {
    (void)state;
    char command[300];
    import_report_free(&report);
    snprintf(command, sizeof command, "rm -rf '%s'", root);
    return system(command);
}

static int folder_make(void **state) {
    (void)state;
    static int n;
    Err err;
    snprintf(folder, sizeof folder, "%s/%d", root, n++);
    options = (ImportOptions){.memory = 8 << 20, .max_line = 1 << 20, .max_errors = -1};
    return dir_make(folder, &err);
}

static const char *at(const char *name) {
    static char path[4][700];
    static int turn;
    turn = (turn + 1) % 4;
    snprintf(path[turn], sizeof path[turn], "%s/%s", folder, name);
    return path[turn];
}

static void put_bytes(const char *name, const void *text, size_t size) {
    Err err;
    assert_int_equal(file_write(at(name), text, size, &err), OK);
}

static void put(const char *name, const char *text) { put_bytes(name, text, strlen(text)); }

static Status import_path(const char *path, const char *out, Err *err) {
    options.path = path;
    options.out = out;
    import_report_free(&report);
    return import_format(&options, &report, err);
}

static void import_folder(void) {
    Err err = {0};
    if (import_path(folder, at("out.h5"), &err)) fail_msg("%s", err.msg);
}

static const ReportTable *table(const char *name) {
    for (int i = 0; i < report.n_tables; i++)
        if (!strcmp(report.table[i].name, name)) return &report.table[i];
    fail_msg("no table %s", name);
    return NULL;
}

/* Every row was emitted or dropped for a reason, and every event is in the file or was a duplicate. */
static void assert_accounted(void) {
    int64_t events = 0;
    for (int i = 0; i < report.n_tables; i++) {
        const ReportTable *t = &report.table[i];
        events += t->events;
        if (t->read != t->emitted + import_report_dropped(t))
            fail_msg("%s: %lld rows read, %lld emitted, %lld dropped", t->name, (long long)t->read,
                     (long long)t->emitted, (long long)import_report_dropped(t));
    }
    assert_int_equal(report.n_events + report.n_duplicates, events);
}

typedef struct {
    const char *table;
    ReportReason reason;
    int64_t count;
} Counted;

static void assert_counts(const Counted *expected, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (table(expected[i].table)->count[expected[i].reason] != expected[i].count)
            fail_msg("%s, %s: %lld, not %lld", expected[i].table, import_report_reason_text(expected[i].reason),
                     (long long)table(expected[i].table)->count[expected[i].reason], (long long)expected[i].count);
}

static void time_write(char *out, size_t size, int64_t us) {
    int y, mo, d, h, mi, s;
    if (us == TIME_NONE) {
        snprintf(out, size, "-");
        return;
    }
    time_to_civil(us, &y, &mo, &d, &h, &mi, &s);
    snprintf(out, size, s ? "%04d-%02d-%02d %02d:%02d:%02d" : "%04d-%02d-%02d %02d:%02d", y, mo, d, h, mi, s);
}

/* The events of all subjects, a line each: available | time | code | value comparator unit | visit.  A time is "=" when
 * it is the available one, a date when only the date is known. */
static const char *timelines(const char *path) {
    static const char *const comparators[] = {"", "<", "<=", ">=", ">"};
    static char text[1 << 16];
    Err err = {0};
    EventFile f;
    EventPatient p;
    size_t n = 0;
    text[0] = 0;
    if (event_file_open(&f, path, &err)) fail_msg("%s", err.msg);
    for (int64_t r = 0; r < f.n_patients; r++) {
        assert_int_equal(event_file_patient(&f, r, &p, &err), OK);
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
static void assert_timelines(const char *expected) {
    const char *found = timelines(at("out.h5"));
    if (!strcmp(found, expected)) return;
    size_t n = 0, line = 0;
    for (; found[n] && found[n] == expected[n]; n++)
        if (found[n] == '\n') line = n + 1;
    print_message("expected from there:\n%.300s\n", expected + line);
    print_message("found:\n%.300s\n", found + line);
    fail_msg("timelines differ");
}

static void assert_same_bytes(const char *a, const char *b) {
    Err err;
    char *x, *y;
    size_t nx, ny;
    assert_int_equal(file_read(a, 1u << 30, &x, &nx, &err), OK);
    assert_int_equal(file_read(b, 1u << 30, &y, &ny, &err), OK);
    assert_int_equal(nx, ny);
    assert_memory_equal(x, y, nx);
    free(x);
    free(y);
}

/* No part of the file, codes and names included, holds the text. */
static void assert_absent(const char *path, const char *text) {
    Err err;
    char *x;
    size_t n;
    assert_int_equal(file_read(path, 1u << 30, &x, &n, &err), OK);
    if (memmem(x, n, text, strlen(text))) fail_msg("%s holds %s", path, text);
    free(x);
}

/* EHR_SAMPLE_DATA/NAME or ../shared/data/NAME; skips the test when it is not there. */
__attribute__((unused)) static const char *sample(const char *name) {
    static char path[2][600];
    static int turn;
    const char *given = getenv("EHR_SAMPLE_DATA");
    turn = !turn;
    snprintf(path[turn], sizeof path[turn], "%s/%s", given && *given ? given : "../shared/data", name);
    if (!path_exists(path[turn])) {
        print_message("skip - no sample data at %s (EHR_SAMPLE_DATA names another place)\n", path[turn]);
        skip();
    }
    return path[turn];
}

#define IN_FOLDER(test) cmocka_unit_test_setup(test, folder_make)
#endif
