/* fuzz_csv.c [SECONDS [SEED]] - mutated tables never crash the CSV reader or the OMOP importer, every record is
 * accounted for, and what comes out is valid UTF-8 and a readable events file.  An input is one table or several
 * (fuzz_text.h). */
#include "data/csv.h"
#include "tests/fuzz_import.h"

enum { CAPACITY = 1 << 18 };

static const struct {
    const char *name, *text;
} base[] = {{"person.csv",
             "person_id,gender_concept_id,year_of_birth,month_of_birth,day_of_birth,birth_datetime,race_concept_id\n"
             "1,8507,1950,6,15,1950-06-15 00:00:00,8527\n2,8532,1960,,,,0\n3,0,,,,,\n"},
            {"visit_occurrence.csv",
             "visit_occurrence_id,person_id,visit_concept_id,visit_start_date,visit_start_datetime,visit_end_date\n"
             "1,1,9201,2019-01-01,2019-01-01 10:00:00,2019-01-05\n2,2,9202,2019-02-01,,2019-02-01\n"},
            {"measurement.csv",
             "person_id,measurement_concept_id,measurement_date,value_as_number,unit_concept_id,unit_source_value,"
             "value_as_concept_id,value_source_value,visit_occurrence_id,operator_concept_id\n"
             "1,100,2019-01-02,1.5,8840,mg/dL,,,1,4171756\n2,101,2019-02-01,,,,45878583,\"<5, \"\"x\"\"\",2,\n"},
            {"condition_occurrence.csv",
             "person_id\tcondition_concept_id\tcondition_start_date\tcondition_source_value\tvisit_occurrence_id\n"
             "1\t200\t2019-01-03\tE11.9\t1\n2\t0\t2019-02-01\tI10 \"x\t2\n"},
            {"death.csv", "person_id,death_date\n1,2019-12-31\n"},
            {"concept.csv", "concept_id\tconcept_name\tvocabulary_id\tconcept_code\n100\tGlucose\tLOINC\t2345-"
                            "7\n200\tDiabetes\tSNOMED\t44054006\n"},
            {"concept_relationship.csv",
             "concept_id_1,concept_id_2,relationship_id\n200,201,Is a\n201,200,Is a\n100,200,Subsumes\n"}};
enum { TABLES = sizeof base / sizeof *base };

static const char *const WORD[] = {"\"",
                                   "\"\"",
                                   ",",
                                   "\t",
                                   "\n",
                                   "\r\n",
                                   "\xEF\xBB\xBF",
                                   "\xE9",
                                   "\xC3\xA9",
                                   "9999-12-31",
                                   "1900-01-01",
                                   "2019-02-30",
                                   "-1",
                                   "99999999999999999999",
                                   "1e999",
                                   "NULL",
                                   "\\N",
                                   "0",
                                   "2019-01-01T25:00:00",
                                   "<",
                                   ">=1:640",
                                   ";",
                                   "|",
                                   "\xF0\x9F\x92\x8A",
                                   "9201",
                                   "32037"};
enum { WORDS = sizeof WORD / sizeof *WORD };

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
    int got = 0;
    int64_t records = 0;
    char *exact = xmalloc(n); /* so that reading past the end is seen */
    memcpy(exact, text, n);
    stream_memory(&s, "fuzz", exact, (int64_t)n);
    const Status bad = csv_open(&c, &s, 1 << 16, &err);
    if (bad) {
        REQUIRE(err.msg[0]);
    } else {
        while (!csv_next(&c, &got, &err) && got) {
            records++;
            for (int i = 0; i < c.n_columns; i++)
                if (!valid_utf8((const unsigned char *)c.field[i])) fuzz_fail("a field is not UTF-8");
        }
        if (c.counts.rows != records + c.counts.wrong_count + c.counts.too_long + c.counts.open_quote)
            fuzz_fail("records are not accounted for");
        csv_close(&c);
    }
    stream_close(&s);
    free(exact);
    return !bad;
}

/* Each table by itself; where there are several, as an OMOP export as well. */
static int try(const char *input, size_t size) {
    FuzzFile f;
    int n = 0, taken = 1;
    for (size_t at = 0; files_next(input, size, &at, &f); n++) taken &= try_csv(f.data, f.size);
    if (n < 2) return n && taken;
    for (size_t at = 0; files_next(input, size, &at, &f);) fuzz_put(f.name, f.data, f.size);
    taken = import_try(import_omop, (ImportOptions){.path = fuzz_folder()});
    for (size_t at = 0; files_next(input, size, &at, &f);) fuzz_remove(f.name);
    return taken;
}

static size_t put_table(char *input, size_t n, int t, int mutations) {
    const size_t body = files_name(input, n, CAPACITY, base[t].name), length = strlen(base[t].text);
    size_t end = body + length, room = CAPACITY - (TABLES - 1) * 1024; /* for the tables behind it */
    memcpy(input + body, base[t].text, length);
    if (room < end) room = end;
    for (; mutations > 0; mutations--) end = body + text_mutate(input + body, end - body, room - body, WORD, WORDS);
    return end;
}

static void begin(void) {
    char *all = xmalloc(CAPACITY);
    size_t n = 0;
    for (int t = 0; t < TABLES; t++) n = put_table(all, n, t, 0);
    fuzz_keep(all, n);
    free(all);
}

/* One table, now and then a kept input, now and then (an import takes 100 times as long) all tables. */
static size_t make(char *input) {
    size_t n = 0;
    const uint64_t which = draw(128);
    if (which < 2) return text_mutate(input, fuzz_take(input), CAPACITY, WORD, WORDS);
    if (which > 2) return put_table(input, 0, (int)draw(TABLES), (int)draw(4));
    for (int t = 0; t < TABLES; t++) n = put_table(input, n, t, !draw(3));
    return n;
}

static const Fuzzer FUZZER = {.name = "csv", .max = CAPACITY, .open = begin, .make = make, .try = try};
