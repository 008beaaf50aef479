/* fuzz_mimic.c [SECONDS [SEED]] - mutated MIMIC-IV tables and MEDS tables as CSV never crash an importer, every row is
 * accounted for, and what comes out is a readable events file; maps of codes and label files are refused or read.  An
 * input is the files of one import (fuzz_text.h): of MEDS where events.csv is among them. */
#include "data/code_map.h"
#include "data/label_meds.h"
#include "make_mimic.h"
#include "tests/fuzz_import.h"

enum { CAPACITY = 1 << 17 };

static const char *const token[] = {"",
                                    "\"",
                                    ",",
                                    "\n",
                                    "\r\n",
                                    "\xE9",
                                    "0",
                                    "-1",
                                    "1",
                                    "2",
                                    "10",
                                    "1e999",
                                    "nan",
                                    "<",
                                    "<5",
                                    "120/80",
                                    "/",
                                    "99999999999999999999",
                                    "-9223372036854775808",
                                    "9223372036854775807",
                                    "2150-02-30",
                                    "2150-01-05 24:00:00",
                                    "0000-00-00",
                                    "9999-12-31 23:59:59",
                                    "13/45/2150",
                                    "1/1/1",
                                    "1/1/2150 99:99",
                                    "2300-01-01",
                                    "1880-01-01 00:00:00",
                                    "2299-12-31 23:59:59",
                                    "GREATER THAN ",
                                    "POS",
                                    "ED",
                                    "DIED",
                                    "Rewritten",
                                    "Administered",
                                    "MEDS_DEATH",
                                    "MEDS_BIRTH",
                                    "\xEF\xBB\xBF",
                                    "\xF0\x9F\x92\x8A",
                                    "subject_id",
                                    "E"};

static size_t replace(char *text, size_t n, size_t at, size_t gone, const char *more) {
    size_t m = strlen(more);
    if (n - gone + m + 1 > CAPACITY / N_FIXTURE) return n;
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
    case 1: return replace(text, n, at, 0, token[draw(sizeof token / sizeof *token)]);
    case 2:
        while (at && text[at - 1] != '\n') at--;
        while (end < n && text[end] != '\n') end++;
        if (draw(2)) return replace(text, n, at, end - at, "");
        char line[1024];
        snprintf(line, sizeof line, "%.*s\n", (int)(end - at < 1000 ? end - at : 1000), text + at);
        return replace(text, n, at, 0, line);
    default:
        while (at && text[at - 1] != ',' && text[at - 1] != '\n') at--;
        while (end < n && text[end] != ',' && text[end] != '\n') end++;
        return replace(text, n, at, end - at, token[draw(sizeof token / sizeof *token)]);
    }
}

static void try_labels(void) {
    char *path = xasprintf("%s/labels.dat", fuzz_folder());
    MedsLabels m;
    Err err = {0};
    if (meds_labels_read(&m, path, NULL, &err)) {
        REQUIRE(err.msg[0]);
    } else {
        for (int64_t i = 1; i < m.n; i++)
            if (m.label[i].subject < m.label[i - 1].subject) fuzz_fail("labels do not ascend");
        meds_labels_free(&m);
    }
    free(path);
}

static int try(const char *input, size_t size) {
    char *map = xasprintf("%s/map.dat", fuzz_folder());
    FuzzFile f;
    int meds = 0;
    ImportOptions o = {.path = fuzz_folder()};
    for (size_t at = 0; files_next(input, size, &at, &f);) {
        fuzz_put(f.name, f.data, f.size);
        meds |= !strcmp(f.name, "events.csv");
        if (!strcmp(f.name, "map.dat") && !o.maps.n) o.maps.item[o.maps.n++] = map;
    }
    if (meds) try_labels();
    const int taken = import_try(meds ? import_meds : import_mimic, o);
    for (size_t at = 0; files_next(input, size, &at, &f);) fuzz_remove(f.name);
    free(map);
    return taken;
}

static size_t put(char *input, size_t n, const char *name, const char *base, uint64_t mutations) {
    const size_t begin = files_name(input, n, CAPACITY, name);
    size_t size = strlen(base);
    memcpy(input + begin, base, size);
    for (; mutations > 0; mutations--) size = mutate(input + begin, size);
    return begin + size;
}

/* damage: 0 none, otherwise some. */
static size_t make_mimic(char *input, int damage) {
    static const char *const maps[] = {"icd_9,icd_10,flags\n4280,I509,10000\n4280,I5020,10000\n",
                                       "drug,atc_code\nHeparin,B01AB01\n",
                                       "source,target\nMIMIC_LAB//50912,LOINC//2160-0\n"};
    size_t n = 0;
    for (int i = 0; i < N_FIXTURE; i++)
        if (!damage || draw(6)) n = put(input, n, fixture[i].name, fixture[i].text, damage && draw(3) ? draw(5) : 0);
    return !damage || draw(2) ? put(input, n, "map.dat", maps[draw(3)], damage ? draw(3) : 0) : n;
}

static size_t make_meds(char *input, int damage) {
    static const char events[] =
        "subject_id,time_us,code,numeric_value,available_us,comparator,unit,precision,visit,observation_end_us,split\n"
        "1,,SEX//F,,,,,3,,7,train\n1,0,LAB//1,2.5,60000000,3,mg/dL,2,4,7,train\n1,60000000,MEDS_DEATH,,,,,,,7,train\n"
        "2,86400000000,DIAGNOSIS//X,,,,,,,,\n";
    static const char codes[] = "code,description,parent,kind\nLAB//1,\"a \"\"name\"\"\",LAB,lab\nLAB,,,lab\n";
    static const char labels[] = "subject_id,prediction_time_us,boolean_value\n1,5,true\n1,6,false\n2,5,\n";
    size_t n = put(input, 0, "events.csv", events, damage ? draw(6) : 0);
    n = put(input, n, "codes.csv", codes, damage ? draw(3) : 0);
    n = put(input, n, "origin.csv", "source,provenance\na,b\n", damage ? draw(2) : 0);
    return put(input, n, "labels.dat", labels, damage ? draw(5) : 0);
}

static void begin(void) {
    char *input = xmalloc(CAPACITY);
    fuzz_keep(input, make_mimic(input, 0));
    fuzz_keep(input, make_meds(input, 0));
    free(input);
}

static size_t make(char *input) {
    if (!draw(8)) return mutate(input, fuzz_take(input));
    return draw(3) ? make_mimic(input, 1) : make_meds(input, 1);
}

static const Fuzzer FUZZER = {.name = "mimic", .max = CAPACITY, .open = begin, .make = make, .try = try};
