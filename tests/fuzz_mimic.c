/* fuzz_mimic.c SECONDS [SEED] - mutated MIMIC-IV tables and MEDS tables as CSV never crash an importer, every row is
 * accounted for, and what comes out is a readable events file; maps of codes and label files are refused or read. */
#include "data/code_map.h"
#include "data/import.h"
#include "data/label_meds.h"
#include "kernels/philox.h"
#include "make_mimic.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CAPACITY = 1 << 16 };
static uint64_t counter, seed = 1;
static char folder[256];

static uint64_t draw(uint64_t below) {
    Philox4 r = philox4x32(seed, counter++, 0);
    return below ? ((uint64_t)r.v[0] << 32 | r.v[1]) % below : 0;
}

static int fail(const char *what) {
    fprintf(stderr, "fuzz_mimic: %s (seed %llu, draw %llu)\n", what, (unsigned long long)seed, (unsigned long long)counter);
    return 1;
}

static const char *const token[] = {"",           "\"",        ",",         "\n",         "\r\n",      "\xE9",       "0",
                                    "-1",         "1",         "2",         "10",         "1e999",     "nan",        "<",
                                    "<5",         "120/80",    "/",         "99999999999999999999", "-9223372036854775808",
                                    "9223372036854775807", "2150-02-30", "2150-01-05 24:00:00", "0000-00-00", "9999-12-31 23:59:59",
                                    "13/45/2150", "1/1/1",     "1/1/2150 99:99", "2300-01-01", "1880-01-01 00:00:00", "2299-12-31 23:59:59",
                                    "GREATER THAN ", "POS",    "ED",        "DIED",       "Rewritten", "Administered",
                                    "MEDS_DEATH", "MEDS_BIRTH", "\xEF\xBB\xBF", "\xF0\x9F\x92\x8A", "subject_id", "E"};

static size_t splice(char *text, size_t n, size_t at, size_t gone, const char *more) {
    size_t m = strlen(more);
    if (n - gone + m + 1 > CAPACITY) return n;
    memmove(text + at + m, text + at + gone, n - at - gone);
    memcpy(text + at, more, m);
    return n - gone + m;
}

/* A field becomes a token; a byte another; a line stands twice or not at all. */
static size_t mutate(char *text, size_t n) {
    if (!n) return n;
    size_t at = (size_t)draw(n), end = at;
    switch (draw(8)) {
    case 0: text[at] = (char)draw(256); return n;
    case 1: return splice(text, n, at, 0, token[draw(sizeof token / sizeof *token)]);
    case 2:
        while (at && text[at - 1] != '\n') at--;
        while (end < n && text[end] != '\n') end++;
        if (draw(2)) return splice(text, n, at, end - at, "");
        char line[1024];
        snprintf(line, sizeof line, "%.*s\n", (int)(end - at < 1000 ? end - at : 1000), text + at);
        return splice(text, n, at, 0, line);
    default:
        while (at && text[at - 1] != ',' && text[at - 1] != '\n') at--;
        while (end < n && text[end] != ',' && text[end] != '\n') end++;
        return splice(text, n, at, end - at, token[draw(sizeof token / sizeof *token)]);
    }
}

static int put(const char *name, const char *text, size_t n) {
    char path[600];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "wb");
    int bad = !f || fwrite(text, 1, n, f) != n;
    if (f && fclose(f)) bad = 1;
    return bad;
}

static int put_mutated(const char *name, const char *base, uint64_t most) {
    static char text[CAPACITY + 1024];
    size_t n = strlen(base);
    memcpy(text, base, n);
    for (uint64_t k = draw(most + 1); k > 0; k--) n = mutate(text, n);
    return put(name, text, n);
}

static int events_read(const char *path) {
    EventFile f;
    EventPatient p;
    Err err = {0};
    if (event_file_open(&f, path, &err)) return fail(err.msg);
    int bad = 0;
    for (int64_t i = 0; i < f.n_patients && !bad; i++)
        if (event_file_patient(&f, i, &p, &err)) bad = fail(err.msg);
    event_file_close(&f);
    return bad;
}

static int import(Status (*run)(const ImportOptions *, ImportReport *, Err *), const char *map) {
    char out[600], map_path[600];
    Err err = {0};
    ImportReport r;
    ImportOptions o = {.path = folder, .out = out, .memory = 4 << 20, .max_line = 1 << 16, .max_errors = -1};
    snprintf(out, sizeof out, "%s.h5", folder);
    if (map) {
        snprintf(map_path, sizeof map_path, "%s/%s", folder, map);
        o.maps.item[o.maps.n++] = map_path;
    }
    int bad = 0;
    if (run(&o, &r, &err)) {
        if (!err.msg[0]) bad = fail("an error without a message");
        if (path_exists(out)) bad = fail("a failed import leaves a file");
    } else {
        for (int t = 0; t < r.n_tables; t++)
            if (r.table[t].read != r.table[t].emitted + import_report_dropped(&r.table[t])) bad = fail(r.table[t].name);
        if (!bad) bad = events_read(out);
        unlink(out);
    }
    import_report_free(&r);
    return bad;
}

static int try_mimic(void) {
    static const char *const maps[] = {"icd_9,icd_10,flags\n4280,I509,10000\n4280,I5020,10000\n", "drug,atc_code\nHeparin,B01AB01\n",
                                       "source,target\nMIMIC_LAB//50912,LOINC//2160-0\n"};
    for (int i = 0; i < N_FIXTURE; i++) {
        char path[600];
        snprintf(path, sizeof path, "%s/%s", folder, fixture[i].name);
        if (!draw(6)) unlink(path);
        else if (put_mutated(fixture[i].name, fixture[i].text, draw(3) ? 4 : 0)) return fail("cannot write");
    }
    if (put_mutated("map.dat", maps[draw(3)], 2)) return fail("cannot write");
    return import(import_mimic, draw(2) ? "map.dat" : NULL);
}

static int try_meds(void) {
    static const char events[] = "subject_id,time_us,code,numeric_value,available_us,comparator,unit,precision,visit,observation_end_us,split\n"
                                 "1,,SEX//F,,,,,3,,7,train\n1,0,LAB//1,2.5,60000000,3,mg/dL,2,4,7,train\n1,60000000,MEDS_DEATH,,,,,,,7,train\n"
                                 "2,86400000000,DIAGNOSIS//X,,,,,,,,\n";
    static const char codes[] = "code,description,parent,kind\nLAB//1,\"a \"\"name\"\"\",LAB,lab\nLAB,,,lab\n";
    static const char labels[] = "subject_id,prediction_time_us,boolean_value\n1,5,true\n1,6,false\n2,5,\n";
    char path[600];
    MedsLabels m;
    Err err = {0};
    if (put_mutated("events.csv", events, 5) || put_mutated("codes.csv", codes, 2) || put_mutated("origin.csv", "source,provenance\na,b\n", 1) ||
        put_mutated("labels.dat", labels, 4))
        return fail("cannot write");
    snprintf(path, sizeof path, "%s/labels.dat", folder);
    if (!meds_labels_read(&m, path, NULL, &err)) {
        for (int64_t i = 1; i < m.n; i++)
            if (m.label[i].subject < m.label[i - 1].subject) return fail("labels do not ascend");
        meds_labels_free(&m);
    } else if (!err.msg[0]) return fail("an error without a message");
    return import(import_meds, NULL);
}

int main(int argc, char **argv) {
    double limit = argc > 1 ? atof(argv[1]) : 2, start = clock_s();
    if (argc > 2) seed = strtoull(argv[2], NULL, 10);
    const char *tmp = getenv("TMPDIR");
    char command[700];
    snprintf(folder, sizeof folder, "%s/fuzz_mimic-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    if (!mkdtemp(folder)) return fail("cannot make a folder");
    int bad = 0;
    int64_t runs = 0;
    for (; !bad && clock_s() - start < limit; runs++) bad = draw(3) ? try_mimic() : try_meds();
    snprintf(command, sizeof command, "rm -rf '%s' '%s.h5'", folder, folder);
    if (system(command)) bad = 1;
    printf("fuzz_mimic: %lld inputs, seed %llu: %s\n", (long long)runs, (unsigned long long)seed, bad ? "failed" : "ok");
    return bad;
}
