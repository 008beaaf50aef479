/* test_import_omop_limits.c - what the import of OMOP files refuses: hostile and damaged archives, tables that cannot be
 * read, too many bad rows; and the memory that it stays in. */
#include "tests/import_omop.h"
#include <sys/wait.h>
#include <zip.h>
#include <zlib.h>

static void folder_anew(void) {
    folder_close(NULL);
    folder_open(NULL);
}

/* ---- refusals -------------------------------------------------------------------------------------------------------- */

static void zip_make(const char *path, const char *const names[], const char *const texts[], int n, size_t zeros) {
    int code;
    char *blank = xcalloc(zeros + 1, 1);
    zip_t *z = zip_open(path, ZIP_CREATE | ZIP_TRUNCATE, &code);
    assert_non_null(z);
    for (int i = 0; i < n; i++) {
        zip_source_t *s = texts[i] ? zip_source_buffer(z, texts[i], strlen(texts[i]), 0) : zip_source_buffer(z, blank, zeros, 0);
        assert_true(zip_file_add(z, names[i], s, ZIP_FL_ENC_UTF_8) >= 0);
    }
    assert_int_equal(zip_close(z), 0);
    free(blank);
}

static void test_archives(void **state) {
    (void)state;
    static const char *const good_names[] = {"export/PERSON.csv", "__MACOSX/._PERSON.csv", "export/.hidden.csv", "export/Measurement.csv"};
    static const char *const good_texts[] = {PERSON_1, "junk", "junk",
                                             "person_id,measurement_concept_id,measurement_date\n1,7,2020-01-01\n"};
    zip_make(at("good.zip"), good_names, good_texts, 4, 0);
    ok(import_with(import_omop, at("good.zip"), at("out.h5"), 8 << 20));
    assert_int_equal(report.n_patients, 1);

    static const char *const bad_names[][1] = {{"../person.csv"}, {"/etc/person.csv"}, {"a/../../person.csv"}, {"a\\..\\person.csv"},
                                               {"C:person.csv"}};
    for (size_t i = 0; i < sizeof bad_names / sizeof *bad_names; i++) {
        zip_make(at("bad.zip"), bad_names[i], good_texts, 1, 0);
        assert_int_equal(import_with(import_omop, at("bad.zip"), at("no.h5"), 8 << 20), ERR_FORMAT);
        assert_non_null(strstr(err.msg, "outside"));
    }
    static const char *const bomb_names[] = {"person.csv", "measurement.csv"};
    static const char *const bomb_texts[] = {PERSON_1, NULL};
    zip_make(at("zeros.zip"), bomb_names, bomb_texts, 2, 24 << 20);
    assert_int_equal(import_with(import_omop, at("zeros.zip"), at("no.h5"), 8 << 20), ERR_FORMAT);
    assert_non_null(strstr(err.msg, "zip bomb"));
    /* The same in a folder: a gzip file says nothing of its size beforehand. */
    put("person.csv", PERSON_1);
    gzFile bomb = gzopen(at("measurement.csv.gz"), "wb9");
    assert_non_null(bomb);
    gzputs(bomb, "person_id,measurement_concept_id,measurement_date\n");
    char *row = xcalloc(1, 1 << 20);
    memset(row, '1', (1 << 20) - 1);
    for (int i = 0; i < 64; i++) gzputs(bomb, row);
    free(row);
    assert_int_equal(gzclose(bomb), Z_OK);
    assert_int_equal(import_with(import_omop, folder, at("no.h5"), 8 << 20), ERR_FORMAT);
    assert_non_null(strstr(err.msg, "looks like a bomb"));
    unlink(at("measurement.csv.gz"));
    unlink(at("person.csv"));

    /* Damage: cut, and a flipped bit in the packed data. */
    char *data;
    size_t size;
    ok(file_read(FIXTURE, 1u << 30, &data, &size, &err));
    ok(file_write(at("cut.zip"), data, size / 2, &err));
    assert_int_equal(import_with(import_omop, at("cut.zip"), at("no.h5"), 8 << 20), ERR_FORMAT);
    for (size_t i = 0; i < 8; i++) data[size / 16 * (i + 1)] ^= 0x40;
    ok(file_write(at("flip.zip"), data, size, &err));
    assert_int_not_equal(import_with(import_omop, at("flip.zip"), at("no.h5"), 8 << 20), OK);
    free(data);
    assert_int_equal(import_with(import_omop, at("absent"), at("no.h5"), 8 << 20), ERR_IO);
    put("plain.txt", "not a zip");
    assert_int_equal(import_with(import_omop, at("plain.txt"), at("no.h5"), 8 << 20), ERR_FORMAT);
    assert_false(path_exists(at("no.h5")));
}

static void test_refusals(void **state) {
    (void)state;
    static const struct { const char *name, *text, *says; } cases[] = {
        {"note.csv", "note_id\n1\n", "no OMOP table"},
        {"person.csv", "id,year_of_birth\n1,1950\n", "person_id"},
        {"person.csv", "person_id,gender_concept_id\n1,8507\n", "year_of_birth"},
        {"person.csv", "", "header"},
        {"person.csv", PERSON_HEAD, "usable date"},
        {"measurement.csv", "person_id,measurement_concept_id\n1,5\n", "measurement_date"},
        {"visit_occurrence.csv", "person_id,visit_concept_id,visit_start_date\n1,9201,2020-01-01\n", "visit_occurrence_id"},
        {"condition_occurrence.csv", "person_id,condition_start_date\n1,2020-01-01\n", "condition_concept_id"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        folder_anew();
        put(cases[i].name, cases[i].text);
        assert_int_equal(import_with(import_omop, folder, at("no.h5"), 8 << 20), ERR_FORMAT);
        if (!strstr(err.msg, cases[i].says)) fail_msg("case %zu: %s", i, err.msg);
        assert_false(path_exists(at("no.h5")));
    }
    folder_anew();
    put("PERSON.csv", PERSON_1);
    put("person.tsv", PERSON_1);
    assert_int_equal(import_with(import_omop, folder, at("no.h5"), 8 << 20), ERR_FORMAT);
    assert_non_null(strstr(err.msg, "twice"));

    /* 150 of 200 rows unreadable: too many by default, fine when told so. */
    folder_anew();
    put("person.csv", PERSON_1);
    FILE *f = fopen(at("drug_exposure.csv"), "w");
    fprintf(f, "person_id,drug_concept_id,drug_exposure_start_date\n");
    for (int i = 0; i < 200; i++) fprintf(f, "1,%d,%s\n", i + 1, i < 150 ? "31.12.2019" : "2019-12-31");
    fclose(f);
    assert_int_equal(import_with(import_omop, folder, at("no.h5"), 8 << 20), ERR_FORMAT);
    assert_non_null(strstr(err.msg, "max-errors"));
    assert_int_equal(table("drug_exposure")->count[DROP_BAD_DATE], 150);
    ImportOptions o = {.path = folder, .out = at("yes.h5"), .memory = 8 << 20, .max_line = 1 << 20, .max_errors = 150};
    import_report_free(&report);
    assert_int_equal(import_omop(&o, &report, &err), OK);
    assert_int_equal(report.n_events, 4 + 50);
    char *json = import_report_json(&report, 1);
    assert_non_null(strstr(json, "unreadable date"));
    free(json);
}

/* ---- memory ---------------------------------------------------------------------------------------------------------- */

/* Peak memory of an import in a child, KiB. */
static long child_peak(const char *path, const char *out, int64_t memory) {
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (!pid) {
        Status s = import_with(import_omop, path, out, memory);
        if (s) fprintf(stderr, "%s\n", err.msg);
        _exit(s != OK);
    }
    struct rusage usage;
    int code;
    assert_int_equal(wait4(pid, &code, 0, &usage), pid);
    assert_int_equal(code, 0);
    return usage.ru_maxrss;
}

static void test_memory(void **state) {
    (void)state;
    enum { PERSONS = 30000, ROWS =
#ifdef __SANITIZE_ADDRESS__
        60000
#else
        600000
#endif
    };
    FILE *f = fopen(at("person.csv"), "w");
    fprintf(f, PERSON_HEAD);
    for (int i = 0; i < PERSONS; i++) fprintf(f, "%d,8507,%d,1,1,8527,38003564\n", i, 1930 + i % 70);
    fclose(f);
    f = fopen(at("visit_occurrence.csv"), "w");
    fprintf(f, "visit_occurrence_id,person_id,visit_concept_id,visit_start_date,visit_end_date\n");
    for (int i = 1; i <= ROWS / 4; i++) fprintf(f, "%d,%d,9202,20%02d-01-01,20%02d-01-01\n", i, i * 7 % PERSONS, i % 20, i % 20);
    fclose(f);
    f = fopen(at("measurement.csv"), "w");
    fprintf(f, "person_id,measurement_concept_id,measurement_datetime,value_as_number,unit_concept_id,visit_occurrence_id\n");
    for (int64_t i = 1; i <= ROWS; i++)
        fprintf(f, "%lld,%lld,20%02lld-%02lld-03 10:%02lld:00,%lld.5,8840,%lld\n", (long long)(i * 7919 % PERSONS), (long long)(1000 + i % 500),
                (long long)(i % 20), (long long)(i % 12 + 1), (long long)(i % 60), (long long)(i % 100), (long long)(i % (ROWS / 4) + 1));
    fclose(f);
    f = fopen(at("concept.csv"), "w");
    fprintf(f, "concept_id\tconcept_name\tvocabulary_id\tconcept_code\n");
    for (int i = 1; i <= ROWS / 2; i++) fprintf(f, "%d\tname of concept number %d\tLOINC\t%d-1\n", i, i, i);
    fclose(f);
    long low = child_peak(folder, at("low.h5"), 8 << 20), high = child_peak(folder, at("high.h5"), 512 << 20);
    assert_same_bytes(at("low.h5"), at("high.h5"));
#ifndef __SANITIZE_ADDRESS__
    /* 600,000 measurements, 150,000 visits and 300,000 concepts take some 60 MiB when all are held; what a process needs
     * before it does anything is about 20 MiB. */
    if (low > 40000) fail_msg("%ld KiB with --memory 8M", low);
    if (high < low + 20000) fail_msg("%ld KiB with --memory 512M: the test is too small to show anything", high);
#else
    (void)low, (void)high;
#endif
}

int main(void) {
    const struct CMUnitTest tests[] = {IN_FOLDER(test_archives), IN_FOLDER(test_refusals), IN_FOLDER(test_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
