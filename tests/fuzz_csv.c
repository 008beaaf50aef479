/* fuzz_csv.c SECONDS [SEED] - mutated tables never crash the CSV reader or the OMOP importer, every record is accounted for,
 * and what comes out is valid UTF-8 and a readable events file. */
#include "data/csv.h"
#include "data/import.h"
#include "kernels/philox.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CAPACITY = 1 << 18 };
static uint64_t counter, seed = 1;

static uint64_t draw(uint64_t below) {
    Philox4 r = philox4x32(seed, counter++, 0);
    return below ? ((uint64_t)r.v[0] << 32 | r.v[1]) % below : 0;
}

static const struct { const char *name, *text; } base[] = {
    {"person.csv", "person_id,gender_concept_id,year_of_birth,month_of_birth,day_of_birth,birth_datetime,race_concept_id\n"
                   "1,8507,1950,6,15,1950-06-15 00:00:00,8527\n2,8532,1960,,,,0\n3,0,,,,,\n"},
    {"visit_occurrence.csv", "visit_occurrence_id,person_id,visit_concept_id,visit_start_date,visit_start_datetime,visit_end_date\n"
                             "1,1,9201,2019-01-01,2019-01-01 10:00:00,2019-01-05\n2,2,9202,2019-02-01,,2019-02-01\n"},
    {"measurement.csv", "person_id,measurement_concept_id,measurement_date,value_as_number,unit_concept_id,unit_source_value,"
                        "value_as_concept_id,value_source_value,visit_occurrence_id,operator_concept_id\n"
                        "1,100,2019-01-02,1.5,8840,mg/dL,,,1,4171756\n2,101,2019-02-01,,,,45878583,\"<5, \"\"x\"\"\",2,\n"},
    {"condition_occurrence.csv", "person_id\tcondition_concept_id\tcondition_start_date\tcondition_source_value\tvisit_occurrence_id\n"
                                 "1\t200\t2019-01-03\tE11.9\t1\n2\t0\t2019-02-01\tI10 \"x\t2\n"},
    {"death.csv", "person_id,death_date\n1,2019-12-31\n"},
    {"concept.csv", "concept_id\tconcept_name\tvocabulary_id\tconcept_code\n100\tGlucose\tLOINC\t2345-7\n200\tDiabetes\tSNOMED\t44054006\n"},
    {"concept_relationship.csv", "concept_id_1,concept_id_2,relationship_id\n200,201,Is a\n201,200,Is a\n100,200,Subsumes\n"}};
enum { TABLES = sizeof base / sizeof *base };

static size_t mutate(char *text, size_t n) {
    static const char *const token[] = {"\"", "\"\"", ",", "\t", "\n", "\r\n", "\xEF\xBB\xBF", "\xE9", "\xC3\xA9", "9999-12-31", "1900-01-01",
                                        "2019-02-30", "-1", "99999999999999999999", "1e999", "NULL", "\\N", "0", "2019-01-01T25:00:00",
                                        "<", ">=1:640", ";", "|", "\xF0\x9F\x92\x8A", "9201", "32037"};
    for (uint64_t k = draw(6); k > 0 && n; k--) {
        size_t at = (size_t)draw(n), length;
        switch (draw(5)) {
        case 0: text[at] = (char)draw(256); break;
        case 1: /* cut a piece out */
            length = (size_t)draw(draw(10) ? 8 : 200);
            if (at + length > n) length = n - at;
            memmove(text + at, text + at + length, n - at - length);
            n -= length;
            break;
        case 2: { /* put a word in */
            const char *word = token[draw(sizeof token / sizeof *token)];
            length = strlen(word);
            if (n + length > CAPACITY) break;
            memmove(text + at + length, text + at, n - at);
            memcpy(text + at, word, length);
            n += length;
            break;
        }
        case 3: /* repeat a piece */
            length = (size_t)draw(300);
            if (at + length > n || n + length > CAPACITY) break;
            memmove(text + at + length, text + at, n - at);
            n += length;
            break;
        default: /* a very long field */
            length = (size_t)draw(draw(20) ? 300 : 100000);
            if (n + length > CAPACITY) break;
            memmove(text + at + length, text + at, n - at);
            memset(text + at, draw(2) ? 'x' : '"', length);
            n += length;
        }
    }
    return n;
}

static int fail(const char *what) {
    fprintf(stderr, "fuzz_csv: %s (seed %llu, counter %llu)\n", what, (unsigned long long)seed, (unsigned long long)counter);
    return 1;
}

static int valid_utf8(const unsigned char *s) {
    for (int n; *s; s += n) {
        n = *s < 0x80 ? 1 : (*s & 0xE0) == 0xC0 ? 2 : (*s & 0xF0) == 0xE0 ? 3 : (*s & 0xF8) == 0xF0 ? 4 : 0;
        if (!n) return 0;
        for (int i = 1; i < n; i++)
            if ((s[i] & 0xC0) != 0x80) return 0;
    }
    return 1;
}

static int try_csv(const char *text, size_t n) {
    Err err = {0};
    Stream s;
    Csv c;
    int got = 0, bad = 0;
    int64_t records = 0;
    char *exact = xmalloc(n); /* so that reading past the end is seen */
    memcpy(exact, text, n);
    stream_memory(&s, "fuzz", exact, (int64_t)n);
    if (csv_open(&c, &s, 1 << 16, &err)) {
        if (!err.msg[0]) bad = fail("an error without a message");
    } else {
        while (!bad && !csv_next(&c, &got, &err) && got) {
            records++;
            for (int i = 0; i < c.n_columns && !bad; i++)
                if (!valid_utf8((const unsigned char *)c.field[i])) bad = fail("a field is not UTF-8");
        }
        if (!bad && c.counts.rows != records + c.counts.wrong_count + c.counts.too_long + c.counts.open_quote)
            bad = fail("records are not accounted for");
        csv_close(&c);
    }
    stream_close(&s);
    free(exact);
    return bad;
}

static int try_events(const char *path) {
    Err err = {0};
    EventFile f;
    EventPatient p;
    if (event_file_open(&f, path, &err)) return fail(err.msg);
    int bad = 0;
    for (int64_t r = 0; r < f.n_patients && !bad; r++)
        if (event_file_patient(&f, r, &p, &err)) bad = fail(err.msg);
    event_file_close(&f);
    return bad;
}

static int try_import(const char *folder, char *text) {
    char path[400], out[400];
    Err err = {0};
    for (int t = 0; t < TABLES; t++) {
        size_t n = strlen(base[t].text);
        memcpy(text, base[t].text, n);
        if (!draw(3)) n = mutate(text, n);
        snprintf(path, sizeof path, "%s/%s", folder, base[t].name);
        FILE *f = fopen(path, "wb");
        if (!f || fwrite(text, 1, n, f) != n || fclose(f)) return fail("cannot write");
    }
    snprintf(out, sizeof out, "%s/out.h5", folder);
    ImportOptions o = {.path = folder, .out = out, .memory = 4 << 20, .max_line = 1 << 16, .max_errors = -1};
    ImportReport r;
    int bad = 0;
    if (import_omop(&o, &r, &err)) {
        if (!err.msg[0]) bad = fail("an error without a message");
    } else {
        for (int t = 0; t < r.n_tables; t++)
            if (r.table[t].read != r.table[t].emitted + import_report_dropped(&r.table[t])) bad = fail("rows are not accounted for");
        if (!bad) bad = try_events(out);
    }
    import_report_free(&r);
    return bad;
}

int main(int argc, char **argv) {
    double limit = argc > 1 ? atof(argv[1]) : 2, start = clock_s();
    if (argc > 2) seed = strtoull(argv[2], NULL, 10);
    const char *tmp = getenv("TMPDIR");
    char folder[256], command[300];
    snprintf(folder, sizeof folder, "%s/fuzz_csv-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    if (!mkdtemp(folder)) return fail("cannot make a folder");
    char *text = xmalloc(CAPACITY);
    int bad = 0;
    int64_t runs = 0;
    for (; !bad && clock_s() - start < limit; runs++) {
        int t = (int)draw(TABLES);
        size_t n = strlen(base[t].text);
        memcpy(text, base[t].text, n);
        for (uint64_t k = draw(4); k > 0; k--) n = mutate(text, n);
        bad = try_csv(text, n);
        if (!bad && runs % 128 == 0) bad = try_import(folder, text);
    }
    free(text);
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    if (system(command)) bad = 1;
    printf("fuzz_csv: %lld inputs, seed %llu: %s\n", (long long)runs, (unsigned long long)seed, bad ? "failed" : "ok");
    return bad;
}
