/* test_phi_scan.c - what looks like an identifier is found, what does not is left; in text, tables, JSON, HDF5, gz. */
#include "data/phi_scan.h"
#include "tests/make_events.h"
#include <hdf5.h>
#include <zlib.h>

static PhiPatterns *patterns;

static int find(const char *text) {
    PhiHit hit[4];
    return phi_find(patterns, text, strlen(text), hit, 4) ? hit[0].kind : -1;
}

static void identifiers_are_found(void **state) {
    (void)state;
    static const struct {
        int         kind;
        const char *text;
    } table[] = {
        {PHI_SSN, "999-17-5017"},
        {PHI_SSN, "ssn:999-17-5017,"},
        {PHI_PHONE, "call 555-123-4567 now"},
        {PHI_PHONE, "(617) 555-0199"},
        {PHI_PHONE, "+1 617 555 0199"},
        {PHI_PHONE, "617.555.0199"},
        {PHI_PHONE, "+44 20 7946 0958"},
        {PHI_EMAIL, "mail a.b+c@hospital.example.org"},
        {PHI_URL, "see https://portal.example.org/p?id=3"},
        {PHI_URL, "www.example.com"},
        {PHI_IP, "from 192.168.10.254"},
        {PHI_IP, "2001:0db8:85a3:0000:0000:8a2e:0370:7334"},
        {PHI_DATE, "on 2014-10-06"},
        {PHI_DATE, "2014-10-06T12:00:00Z"},
        {PHI_DATE, "10/6/2014"},
        {PHI_DATE, "6 March 2014"},
        {PHI_DATE, "March 6th, 2014"},
        {PHI_NUMBER, "MRN: 00123456"},
        {PHI_NUMBER, "Medical record number 8123456"},
        {PHI_NUMBER, "3edac2e3-d223-6fae-d515-daf96ef6bc76"},
        {PHI_NUMBER, "S99992337"},
        {PHI_NUMBER, "X33401017X"},
        {PHI_NUMBER, "(01)00880123456789(17)2501"},
        {PHI_NUMBER, "1.2.840.113619.2.55.3.604688119.969.1268071029.320"},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (find(table[i].text) != table[i].kind) fail_msg("%s: found %d, not %d", table[i].text, find(table[i].text), table[i].kind);
}

static void codes_are_left(void **state) {
    (void)state;
    static const char *const text[] = {
        "LOINC//8480-6", "LOINC//72514-3", "SNOMED//710824005", "SNOMED//1234567890123", "NDC//0093-1234-56", "NDC//00093123456",
        "RxNorm//1049221", "ICD10CM//E11.65", "ICD10PCS//0DTJ4ZZ", "CPT4//99213", "HCPCS//J1234", "ATC//C09AA05", "1.2.3", "v1.10.3",
        "0.123456789", "-71.15168", "1234567890", "80-120", "100-200-3000", "d9428888122b11e1b85c61cd3cbb3210",
        "3c556fe737004b72cca29169d4acab4d39e51e88bdf307164c246d48b97f5154", "http://loinc.org", "http://hl7.org/fhir/us", "http://snomed.info/sct",
        "www.w3.org/2000/svg", "May increase", "45 CFR 164.514(b)(2)(i)", "12/80", "120/80", "1:640", "time:2020-01-01", "2020-13-45", "AB12",
        "\"signed_on\": \"2026-01-01\"", "10.5.3", "300.1.2.3",
    };
    for (size_t i = 0; i < sizeof text / sizeof *text; i++)
        if (find(text[i]) >= 0) fail_msg("%s is taken for %s", text[i], phi_kind_name(find(text[i])));
}

static void names_are_words(void **state) {
    (void)state;
    PhiPatterns *p;
    PhiHit hit[4];
    MUST(phi_patterns_open(&p, err));
    phi_names_add(p, "Anna-Lena O'Hara Li");
    assert_int_equal(phi_names_count(p), 3); /* Li is too short to look for */
    const char *const there[] = {"seen by O'Hara", "Lena", "(Anna)"}, *const not_there[] = {"Annabel", "lena", "Li", "Hara"};
    for (int i = 0; i < 3; i++) assert_int_equal(phi_find(p, there[i], strlen(there[i]), hit, 4), 1);
    for (int i = 0; i < 4; i++) assert_int_equal(phi_find(p, not_there[i], strlen(not_there[i]), hit, 4), 0);
    phi_patterns_close(p);
}

static void columns_by_name(void **state) {
    (void)state;
    assert_int_equal(phi_column_kind("SSN"), PHI_SSN);
    assert_int_equal(phi_column_kind("birth_date"), PHI_DATE);
    assert_int_equal(phi_column_kind("Postal-Code"), PHI_GEOGRAPHY);
    assert_int_equal(phi_column_kind("person_source_value"), PHI_NUMBER);
    const char *const harmless[] = {"code", "value", "state", "race", "gender", "patient_key", "token", "marital", "", "lin"};
    for (size_t i = 0; i < sizeof harmless / sizeof *harmless; i++) assert_int_equal(phi_column_kind(harmless[i]), -1);
}

/* ---- files ---------------------------------------------------------------------------------------------------------- */

static PhiReport scan(const char *path) {
    PhiReport r = {0};
    MUST(phi_scan(&r, patterns, path, NULL, err));
    return r;
}

static const char *write_file(const char *name, const char *text) {
    const char *path = at(name);
    MUST(file_write(path, text, strlen(text), err));
    return path;
}

static void tables(void **state) {
    (void)state;
    const char *csv = "Id,SSN,FIRST,note,code\r\n1,999-17-5017,Ann,\"call\n555-123-4567\",8480-6\r\n2,,Bob,,8462-4\r\n";
    PhiReport r = scan(write_file("people.csv", csv));
    assert_int_equal(phi_report_count(&r, NULL, "column ssn", PHI_SSN), 1);
    assert_int_equal(phi_report_count(&r, NULL, "column first", PHI_NAME), 2);
    assert_int_equal(phi_report_count(&r, NULL, "column note", PHI_PHONE), 1);
    assert_int_equal(phi_report_count(&r, NULL, NULL, -1), 4);
    char *json = phi_report_json(&r);
    assert_null(strstr(json, "999-17")); /* told by place, never shown */
    assert_null(strstr(json, "Ann\""));
    free(json);
    phi_report_free(&r);
    const char *gz = at("people.csv.gz");
    gzFile z = gzopen(gz, "wb");
    gzwrite(z, csv, (unsigned)strlen(csv));
    gzclose(z);
    r = scan(gz);
    assert_int_equal(phi_report_count(&r, NULL, NULL, -1), 4);
    phi_report_free(&r);
}

static void json_and_text(void **state) {
    (void)state;
    PhiReport r = scan(write_file("bundle.json", "{\"resourceType\": \"Patient\", \"name\": [{\"family\": \"Lakin515\", \"given\": [\"Chasidy481\"]}],\n"
                                                 "\"birthDate\": \"1990-02-03\", \"city\": null, \"line\": [], \"code\": \"8480-6\"}"));
    assert_int_equal(phi_report_count(&r, NULL, "key family", PHI_NAME), 1);
    assert_int_equal(phi_report_count(&r, NULL, "key given", PHI_NAME), 1);
    assert_int_equal(phi_report_count(&r, NULL, "key birthDate", PHI_DATE), 1);
    assert_int_equal(phi_report_count(&r, NULL, "key city", -1), 0);
    assert_int_equal(phi_report_count(&r, NULL, "key line", -1), 0);
    phi_report_free(&r);
    /* Behind escapes: a \n is no letter of the number behind it, and an escaped quote ends no string. */
    r = scan(write_file("escapes.ndjson",
                        "{\"note\": \"Tel:\\n617-555-1234\\tSSN:\\t999-17-5017 http:\\/\\/a.example\\/b\"}\n"
                        "{\"note\": \"he is 5 ft 10\\\" tall\", \"family\": \"Lakin515\", \"birthDate\": \"1990-02-03\"}\n"
                        "{\"note\": \"cut \\"));
    assert_int_equal(phi_report_count(&r, NULL, "text", PHI_PHONE), 1);
    assert_int_equal(phi_report_count(&r, NULL, "text", PHI_SSN), 1);
    assert_int_equal(phi_report_count(&r, NULL, "text", PHI_URL), 1);
    assert_int_equal(phi_report_count(&r, NULL, "key family", PHI_NAME), 1);
    assert_int_equal(phi_report_count(&r, NULL, "key birthDate", PHI_DATE), 1);
    phi_report_free(&r);
    PhiPatterns *named;
    MUST(phi_patterns_open(&named, err));
    phi_names_add(named, "M\303\274ller");
    r = (PhiReport){0};
    MUST(phi_scan(&r, named, write_file("name.json", "{\"note\": \"Herr M\\u00fcller, \\uzzzz\"}"), NULL, err));
    assert_int_equal(phi_report_count(&r, NULL, "text", PHI_NAME), 1);
    phi_report_free(&r);
    phi_patterns_close(named);
    /* At the end of a line longer than what is held, and where pieces meet. */
    enum { LONG = 3 << 20 };
    char *text = malloc(LONG + 64);
    for (int shift = 0; shift < 30; shift += 5) {
        memset(text, 'a', LONG);
        for (int i = 0; i < LONG; i += 9) text[i] = ' ';
        memcpy(text + (1 << 20) - shift, " 999-17-5017 ", 13);
        memcpy(text + LONG, " b@c.org", 9);
        r = scan(write_file("long.txt", text));
        assert_true(phi_report_count(&r, NULL, "text", PHI_SSN) >= 1);
        assert_int_equal(phi_report_count(&r, NULL, "text", PHI_EMAIL), 1);
        phi_report_free(&r);
    }
    free(text);
    /* What lies too deep is told. */
    char deep[512];
    int  n = snprintf(deep, sizeof deep, "%s", at("deep"));
    for (int i = 0; i < 33; i++) n += snprintf(deep + n, sizeof deep - (size_t)n, "/f");
    MUST(dir_make(deep, err));
    r = scan(at("deep"));
    assert_int_equal(r.n_skipped, 1);
    assert_int_equal(r.n_unsearched, 1);
    assert_non_null(strstr(r.skipped[0], "too deep"));
    phi_report_free(&r);
    PhiPatterns *other;
    MUST(phi_patterns_open(&other, err));
    assert_int_not_equal(phi_names_read(other, at("deep"), &(Err){0}), OK);
    phi_patterns_close(other);
    r = scan(write_file("empty.txt", ""));
    assert_int_equal(r.n + r.n_skipped, 0);
    phi_report_free(&r);
}

static void events_and_datasets(void **state) {
    (void)state;
    static const MadeEvent events[] = {{1, UNDATED, "SEX//F", KIND_STATIC, NONE, NULL, 0},
                                       {1, 0, "A//1", KIND_LAB, NONE, NULL, 0},
                                       {1, DAY, "LOCAL//call 555-123-4567", KIND_LAB, NONE, NULL, 0},
                                       {0, 0, NULL, 0, 0, NULL, 0}};
    events_write(at("e.h5"), events);
    PhiReport r = scan(at("e.h5"));
    assert_int_equal(phi_report_count(&r, NULL, "/codes", PHI_PHONE), 1);
    assert_int_equal(phi_report_count(&r, NULL, "/subject_id, ids of the source", PHI_NUMBER), 1);
    assert_int_equal(phi_report_count(&r, NULL, "/time, calendar times", PHI_DATE), 3);
    phi_report_free(&r);
    TokenizeOptions o = made_options(at("e.h5"), at("d"));
    TokenizeReport t = made_tokenize(o);
    r = scan(at("d"));
    assert_true(phi_report_count(&r, "vocabulary.json", "text", PHI_PHONE) >= 1);
    assert_int_equal(phi_report_count(&r, ".h5", NULL, -1), 0);
    phi_report_free(&r);
    /* What tokens spell is not known without the vocabulary. */
    assert_int_equal(rename(at("d/vocabulary.json"), at("d/words.json")), 0);
    r = scan(at("d/train-00000.h5"));
    assert_int_equal(r.n_unsearched, 1);
    assert_non_null(strstr(r.skipped[0], "spell"));
    phi_report_free(&r);
    r = scan(at("e.linkage.h5"));
    assert_true(phi_report_count(&r, NULL, NULL, PHI_NUMBER) > 0);
    phi_report_free(&r);
    tokenize_report_free(&t);
    /* Text that is not searched is told. */
    hid_t text = H5Tcopy(H5T_C_S1), pair = H5Tcreate(H5T_COMPOUND, 16);
    H5Tset_size(text, 12);
    H5Tinsert(pair, "n", 0, H5T_NATIVE_INT);
    H5Tinsert(pair, "ssn", 4, text);
    hid_t h5 = H5Fcreate(at("pair.h5"), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT), space = H5Screate_simple(1, (hsize_t[]){1}, NULL);
    hid_t set = H5Dcreate2(h5, "t", pair, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    H5Dclose(set), H5Sclose(space), H5Fclose(h5), H5Tclose(pair), H5Tclose(text);
    r = scan(at("pair.h5"));
    assert_int_equal(r.n_unsearched, 1);
    assert_non_null(strstr(r.skipped[0], "compound"));
    phi_report_free(&r);
    /* Damaged files are named, not passed over. */
    r = scan(write_file("bad.h5", "\x89HDF\r\n\x1a\n nothing behind it"));
    assert_int_equal(r.n_skipped, 1);
    phi_report_free(&r);
    r = scan(write_file("bad.safetensors", "tensors without a header"));
    assert_int_equal(r.n_unsearched, 1);
    phi_report_free(&r);
}

/* ---- the samples of others ------------------------------------------------------------------------------------------- */

static char *sample(const char *name) {
    const char *root = getenv("EHR_SAMPLE_DATA");
    char       *path = xasprintf("%s/%s", root ? root : "../shared/data", name);
    if (path_exists(path)) return path;
    free(path);
    return NULL;
}

static void synthea_patients(const char *name, const char *const *columns) {
    char *path = sample(name);
    if (!path) {
        print_message("skip - %s is not there\n", name);
        skip();
    }
    PhiReport r = scan(path);
    for (int i = 0; columns[i]; i++) {
        char place[64];
        snprintf(place, sizeof place, "column %s", columns[i]);
        if (!phi_report_count(&r, NULL, place, -1)) fail_msg("%s: nothing found in %s", path, place);
    }
    assert_int_equal(phi_report_count(&r, NULL, "column gender", -1) + phi_report_count(&r, NULL, "column race", -1), 0);
    /* Under other names for the columns, by what the fields hold. */
    char *text;
    size_t size;
    MUST(file_read(path, 1 << 20, &text, &size, err));
    int64_t rows = phi_report_count(&r, NULL, "column id", -1);
    phi_report_free(&r);
    for (char *p = text, n = 'A'; *p && *p != '\n'; p++)
        if (*p != ',' && *p != '\r') *p = p == text || p[-1] == ',' ? n++ : 'q';
    r = scan(write_file("renamed.csv", text));
    assert_int_equal(phi_report_count(&r, NULL, NULL, PHI_SSN), rows);
    assert_true(phi_report_count(&r, NULL, NULL, PHI_DATE) >= rows);
    assert_true(phi_report_count(&r, NULL, NULL, PHI_NUMBER) >= rows + 10); /* ids, licences, passports */
    phi_report_free(&r);
    free(text);
    free(path);
}

#define EVERYWHERE "id", "birthdate", "deathdate", "ssn", "drivers", "passport", "first", "last", "maiden", "birthplace", "address", "city", "county", "zip", "lat", "lon"
static void synthea_27(void **state) {
    (void)state;
    static const char *const columns[] = {EVERYWHERE, NULL};
    synthea_patients("synthea-csv-27/patients.csv", columns);
}
static void synthea_11(void **state) {
    (void)state;
    static const char *const columns[] = {EVERYWHERE, "fips", NULL};
    synthea_patients("synthea-csv-fhir/csv/patients.csv", columns);
}

static void synthea_fhir_names(void **state) {
    (void)state;
    char *fhir = sample("synthea-csv-fhir/fhir");
    if (!fhir) {
        print_message("skip - synthea-csv-fhir/fhir is not there\n");
        skip();
    }
    PhiPatterns *p;
    PhiHit hit[4];
    MUST(phi_patterns_open(&p, err));
    MUST(phi_names_read(p, fhir, err));
    assert_int_equal(phi_find(p, "Chasidy481", 10, hit, 4), 1);
    assert_int_equal(phi_find(p, "Heaney114", 9, hit, 4), 1);
    assert_int_equal(phi_find(p, "Patient", 7, hit, 4), 0);
    phi_patterns_close(p);
    free(fhir);
}

static int open_patterns(void **state) {
    Err err;
    return folder_make(state) || phi_patterns_open(&patterns, &err);
}
static int close_patterns(void **state) {
    phi_patterns_close(patterns);
    return folder_remove(state);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(identifiers_are_found), cmocka_unit_test(codes_are_left),      cmocka_unit_test(names_are_words),
        cmocka_unit_test(columns_by_name),       cmocka_unit_test(tables),              cmocka_unit_test(json_and_text),
        cmocka_unit_test(events_and_datasets),   cmocka_unit_test(synthea_27),          cmocka_unit_test(synthea_11),
        cmocka_unit_test(synthea_fhir_names),
    };
    return cmocka_run_group_tests(tests, open_patterns, close_patterns);
}
