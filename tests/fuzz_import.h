/* fuzz_import.h - for fuzzers of importers: an import ends in an error with a message and no file, or with every row
 * accounted for and an events file that can be read. */
#ifndef EHR_TESTS_FUZZ_IMPORT_H
#define EHR_TESTS_FUZZ_IMPORT_H
#include "data/import.h"
#include "data/intern.h"
#include "tests/fuzz_text.h"

/* UTF-8 without control characters but line ends? */
static inline int text_is_plain(const char *text, size_t n) {
    for (size_t k = 0; k < n;) {
        const unsigned char c = (unsigned char)text[k];
        const int size = c < 0x80 ? 1 : utf8_length((const unsigned char *)text + k);
        if (!size || k + (size_t)size > n || (c < ' ' && c != '\n') || c == 0x7f) return 0;
        k += (size_t)size;
    }
    return 1;
}

static inline void events_read(const char *path) {
    Err err = {0};
    EventFile f;
    EventPatient p;
    if (event_file_open(&f, path, &err)) fuzz_fail(err.msg);
    for (int64_t r = 0; r < f.n_patients; r++) {
        if (event_file_patient(&f, r, &p, &err)) fuzz_fail(err.msg);
        for (int64_t i = 0; i < p.n; i++)
            if (p.event[i].time != TIME_NONE && p.event[i].available < p.event[i].time)
                fuzz_fail("known before it happened");
    }
    for (int64_t i = 0; i < f.n_notes; i++) {
        const char *text;
        size_t n;
        if (event_file_text(&f, i, &text, &n, &err)) fuzz_fail(err.msg);
        if (!text_is_plain(text, n)) fuzz_fail("a text that is not plain");
    }
    event_file_close(&f);
}

/* o: what is not the same for all.  Returns whether it was imported. */
static inline int import_try(Status (*run)(const ImportOptions *, ImportReport *, Err *), ImportOptions o) {
    char *out = xasprintf("%s.h5", fuzz_folder()); /* beside the folder: an importer may read all that lies in it */
    Err err = {0};
    ImportReport r;
    o.out = out;
    o.memory = 4 << 20;
    o.max_line = 1 << 16;
    o.max_errors = -1;
    const Status s = run(&o, &r, &err);
    if (s) {
        REQUIRE(err.msg[0] && !path_exists(out));
    } else {
        for (int t = 0; t < r.n_tables; t++)
            if (r.table[t].read != r.table[t].emitted + import_report_dropped(&r.table[t]))
                fuzz_fail("rows are not accounted for");
        events_read(out);
        unlink(out);
    }
    import_report_free(&r);
    free(out);
    return !s;
}

#endif
