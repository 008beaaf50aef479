/* import_check.h - for tests of importers: a folder of tables, an import of it, the timeline it gave, and the promise
 * that every row is accounted for. */
#ifndef EHR_TESTS_IMPORT_CHECK_H
#define EHR_TESTS_IMPORT_CHECK_H
#include "data/import.h"
#include "temp_files.h"
#include <math.h>

typedef Status (*Importer)(const ImportOptions *options, ImportReport *r, Err *err);

static char *folder; /* of the current test */
static ImportReport report;

static inline int folder_open(void **state) {
    (void)state;
    folder = temp_dir();
    return 0;
}

static inline int folder_close(void **state) {
    (void)state;
    import_report_free(&report);
    remove_tree(folder);
    free(folder);
    return 0;
}

/* A path in the folder; four at a time. */
static inline const char *at(const char *name) {
    static char path[4][600];
    static int turn;
    turn = (turn + 1) % 4;
    snprintf(path[turn], sizeof path[turn], "%s/%s", folder, name);
    return path[turn];
}

static inline void put(const char *name, const char *text) { spill(folder, name, text, strlen(text)); }

static inline Status import_with(Importer run, const char *path, const char *out, int64_t memory) {
    ImportOptions o = {.path = path, .out = out, .memory = memory, .max_line = 1 << 20, .max_errors = -1};
    import_report_free(&report);
    err = (Err){0};
    return run(&o, &report, &err);
}

static inline const ReportTable *table(const char *name) {
    for (int i = 0; i < report.n_tables; i++)
        if (!strcmp(report.table[i].name, name)) return &report.table[i];
    fail_msg("no table %s", name);
    return NULL;
}

static inline void assert_accounted(void) {
    for (int i = 0; i < report.n_tables; i++) {
        const ReportTable *t = &report.table[i];
        if (t->read != t->emitted + import_report_dropped(t))
            fail_msg("%s: %lld rows read, %lld emitted, %lld dropped", t->name, (long long)t->read, (long long)t->emitted,
                     (long long)import_report_dropped(t));
    }
}

static inline void time_write(char *out, size_t size, int64_t us) {
    int y, mo, d, h, mi, s;
    if (us == TIME_NONE) {
        snprintf(out, size, "-");
        return;
    }
    time_to_civil(us, &y, &mo, &d, &h, &mi, &s);
    snprintf(out, size, s ? "%04d-%02d-%02d %02d:%02d:%02d" : "%04d-%02d-%02d %02d:%02d", y, mo, d, h, mi, s);
}

/* The events of a subject in events file `name`, a line each: available|time|code|value comparator unit|visit. */
static inline char *timeline(const char *name, int64_t subject) {
    static const char *const comparators[] = {"", "<", "<=", ">=", ">"};
    static char text[16384];
    EventFile f;
    EventPatient p;
    size_t n = 0;
    text[0] = 0;
    ok(event_file_open(&f, at(name), &err));
    for (int64_t r = 0; r < f.n_patients; r++) {
        ok(event_file_patient(&f, r, &p, &err));
        for (int64_t i = 0; i < p.n && p.subject == subject; i++) {
            const Event *e = &p.event[i];
            char a[40], t[40], value[140] = "";
            time_write(a, sizeof a, e->available);
            time_write(t, sizeof t, e->time);
            if (!isnan(e->value))
                snprintf(value, sizeof value, "%s%g%s", comparators[e->comparator], (double)e->value, f.units[e->unit]);
            n += (size_t)snprintf(text + n, sizeof text - n, "%s|%s|%s|%s|%u\n", a, e->precision == PRECISION_DAY ? "day" : t,
                                  f.codes[e->code], value, e->visit);
        }
        if (p.subject == subject) {
            char end[40];
            time_write(end, sizeof end, p.observation_end);
            n += (size_t)snprintf(text + n, sizeof text - n, "end %s\n", end);
        }
    }
    event_file_close(&f);
    return text;
}

static inline void assert_same_bytes(const char *a, const char *b) {
    char *x, *y;
    size_t nx, ny;
    ok(file_read(a, 1u << 30, &x, &nx, &err));
    ok(file_read(b, 1u << 30, &y, &ny, &err));
    assert_int_equal(nx, ny);
    assert_memory_equal(x, y, nx);
    free(x);
    free(y);
}

/* The folder of sample data NAME, from EHR_SAMPLE_DATA or ../shared/data; skips the test where it is not. */
static inline const char *sample_data(const char *name) {
    static char path[600];
    const char *base = getenv("EHR_SAMPLE_DATA");
    snprintf(path, sizeof path, "%s/%s", base && *base ? base : "../shared/data", name);
    if (!path_exists(path)) skip();
    return path;
}

#endif
