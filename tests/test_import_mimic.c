/* test_import_mimic.c - MIMIC-IV in, events out: every row accounted for, nothing known before it was stored or coded,
 * deaths not announced, codes mapped; on an invented patient, and on the demo where it is there. */
#include "import_check.h"
#include "data/code_map.h"
#include "make_mimic.h"
#include <zip.h>
#include <zlib.h>
#include <cmocka.h>

#define DEMO "mimic-iv-demo"

static Status mimic_import(const char *path, const char *out, int64_t memory) {
    return import_with(import_mimic, path, out, memory);
}

static void fixture_put(void) {
    for (int i = 0; i < N_FIXTURE; i++) put(fixture[i].name, fixture[i].text);
}

static void test_timelines(void **state) {
    (void)state;
    fixture_put();
    ok(mimic_import(folder, at("e.h5"), 8 << 20));
    assert_accounted();
    assert_string_equal(
        timeline("e.h5", 1),
        "-|-|RACE//WHITE||0\n-|-|SEX//F||0\n2059-01-01 00:00|day|MEDS_BIRTH||0\n"
        "2150-01-05 08:00|2150-01-05 08:00|VISIT//IP//URGENT||1\n"
        "2150-01-05 08:00|2150-01-05 08:00|INSURANCE//Medicare||1\n"
        "2150-01-05 08:00|2150-01-05 08:00|MARITAL_STATUS//WIDOWED||1\n"
        "2150-01-05 09:00|2150-01-05 09:00|MIMIC_LAB//50800||1\n"       /* no time of storing; its text is left out */
        "2150-01-05 11:00|2150-01-05 09:00|MIMIC_LAB//50912|1.2mg/dL|1\n" /* when it was stored, and once */
        "2150-01-05 12:00|2150-01-05 09:00|MIMIC_LAB//51003|<0.01ng/mL|1\n"
        "2150-01-05 13:00|2150-01-05 09:30|MIMIC_LAB//50813|>15mmol/L|1\n"
        "2150-01-05 13:00|2150-01-05 09:00|MIMIC_LAB//51464=NEG||1\n"
        "2150-01-06 23:59|day|ICD9Proc//54.91||1\n"
        "2150-01-09 23:59|day|ICD9CM//428.0||1\n" /* the discharge is a date: a midnight */
        "2150-01-09 23:59|day|VISIT_END//IP//HOME||1\n"
        "2150-01-20 00:00|2150-01-20 00:00|MIMIC_LAB//50971|4meq/L|0\n" /* stored before it happened */
        "2150-06-01 01:00|2150-06-01 01:00|VISIT//ER||2\n2150-06-01 05:00|2150-06-01 05:00|VISIT_END//ER||2\n"
        "2151-03-01 10:00|2151-03-01 10:00|VISIT//IP//EW EMER.||3\n"
        "2151-03-01 10:00|2151-03-01 10:00|TRANSFER//Medicine||3\n2151-03-01 20:00|2151-03-01 20:00|ICU_IN||3\n"
        "2151-03-01 21:00|2151-03-01 21:00|MIMIC_ITEM//225158|125mL/hour|3\n"
        "2151-03-01 23:00|2151-03-01 23:00|MIMIC_ITEM//225158//END|250ml|3\n"
        "2151-03-02 14:30|2151-03-02 14:30|ICU_OUT||3\n"
        "2151-03-02 14:30|2151-03-02 14:30|MEDS_DEATH||0\n" /* no discharge before it, and its codes after it */
        "2151-03-02 14:31|day|ICD10CM//I50.23||3\n"
        "end 2152-03-01 14:30\n");
    assert_string_equal(timeline("e.h5", 2),
                        "-|-|RACE//BLACK||0\n-|-|SEX//M||0\n2090-01-01 00:00|day|MEDS_BIRTH||0\n"
                        "2130-05-01 12:00|day|VISIT//IP//ELECTIVE||1\n" /* a date: no later than its first event */
                        "2130-05-01 12:00|2130-05-01 12:00|DRUG//Senna||1\n"
                        "2130-05-01 12:40|2130-05-01 12:00|DRUG//Heparin|5000UNIT|1\n"
                        "2130-05-01 23:59|day|MARITAL_STATUS//SINGLE||1\n"
                        "2130-05-02 08:05|2130-05-02 08:00|DRUG//Heparin||1\n"
                        "2130-05-02 12:00|2130-05-02 12:00|DRUG//TPN||1\n"
                        "2130-05-03 09:00|2130-05-01 10:00|MIMIC_MICRO//90201||1\n"
                        "2130-05-03 09:00|day|MIMIC_ORGANISM//80002//90004=R|>=32ug/mL|1\n"
                        "2130-05-03 12:00|2130-05-03 12:00|ICD9CM//7||1\n2130-05-03 12:00|2130-05-03 12:00|ICD9CM//E934.2||1\n"
                        "2130-05-03 12:00|day|ICD10PCS//02HV33Z||1\n"
                        "2130-05-03 12:00|2130-05-03 12:00|VISIT_END//IP//HOME||1\n"
                        "2130-06-01 23:59|day|MIMIC_OMR//Blood Pressure//diastolic|80mm[Hg]|0\n"
                        "2130-06-01 23:59|day|MIMIC_OMR//Blood Pressure//systolic|120mm[Hg]|0\n"
                        "2130-06-01 23:59|day|MIMIC_OMR//Weight|180[lb_av]|0\n"
                        "end 2131-05-03 12:00\n");
}

static void test_counts(void **state) {
    (void)state;
    static const struct {
        const char *table;
        ReportReason reason;
        int64_t n;
    } expected[] = {{"patients", NOTE_OVER_89, 1},
                    {"admissions", NOTE_DIED_IN_STAY, 1},
                    {"admissions", NOTE_MIDNIGHT, 3},
                    {"transfers", DROP_CROSS_TABLE, 1},
                    {"diagnoses_icd", DROP_NO_STAY, 1},
                    {"diagnoses_icd", NOTE_HELD_BACK, 4},
                    {"diagnoses_icd", NOTE_BAD_CODE, 1},
                    {"diagnoses_icd", NOTE_AFTER_DEATH, 1},
                    {"procedures_icd", NOTE_DATE_ONLY, 2},
                    {"procedures_icd", NOTE_SPREADSHEET, 1},
                    {"labevents", DROP_DUPLICATE, 1},
                    {"labevents", NOTE_STORED_BEFORE, 1},
                    {"labevents", NOTE_NOT_STORED, 1},
                    {"labevents", NOTE_LIMIT, 2},
                    {"labevents", NOTE_NUMBER_FROM_TEXT, 1},
                    {"labevents", NOTE_WORD_VALUE, 1},
                    {"labevents", NOTE_TEXT_VALUE, 1},
                    {"microbiologyevents", NOTE_LIMIT, 1},
                    {"omr", NOTE_TWO_VALUES, 1},
                    {"prescriptions", NOTE_BAD_NUMBER, 1},
                    {"pharmacy", DROP_CROSS_TABLE, 1},
                    {"pharmacy", DROP_NO_CODE, 1},
                    {"emar", DROP_NOT_GIVEN, 1},
                    {"emar", DROP_CROSS_TABLE, 1},
                    {"inputevents", DROP_NOT_GIVEN, 1},
                    {"ingredientevents", DROP_CROSS_TABLE, 1}};
    fixture_put();
    ok(mimic_import(folder, at("e.h5"), 8 << 20));
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++)
        if (table(expected[i].table)->count[expected[i].reason] != expected[i].n)
            fail_msg("%s: %lld rows '%s', %lld were expected", expected[i].table,
                     (long long)table(expected[i].table)->count[expected[i].reason],
                     import_report_reason_text(expected[i].reason), (long long)expected[i].n);
    assert_string_equal(report.missing, "services, drgcodes, hcpcsevents, chartevents, outputevents, procedureevents");
    assert_string_equal(report.unused, "datetimeevents");
    assert_int_equal(report.n_duplicates, 0);
    EventFile f;
    ok(event_file_open(&f, at("e.h5"), &err));
    static const char *const names[][2] = {{"MIMIC_LAB//50912", "Creatinine (Blood, Chemistry)"},
                                           {"MIMIC_ITEM//225158//END", "NaCl 0.9%: end"},
                                           {"ICD10CM//I50.23", "Acute on chronic systolic heart failure"},
                                           {"MIMIC_ORGANISM//80002//90004=R", "ESCHERICHIA COLI: AMPICILLIN R"}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        assert_string_equal(f.code_name[event_file_code(&f, names[i][0])], names[i][1]);
    assert_string_equal(f.code_parent[event_file_code(&f, "VISIT//IP//URGENT")], "VISIT//IP");
    assert_string_equal(f.code_parent[event_file_code(&f, "MIMIC_ORGANISM//80002//90004=R")], "MIMIC_ORGANISM//80002");
    assert_int_equal(f.code_kind[event_file_code(&f, "ICD10CM//I50.23")], KIND_DIAGNOSIS); /* naming it changes nothing */
    event_file_close(&f);
}

/* ---- the same records, packed otherwise -------------------------------------------------------------------------- */

/* In two members, as tools that pack in parallel write. */
static void gz_put(const char *path, const char *text) {
    size_t n = strlen(text);
    for (int part = 0; part < 2; part++) {
        gzFile f = gzopen(path, part ? "ab" : "wb");
        assert_non_null(f);
        gzwrite(f, text + (part ? n / 2 : 0), (unsigned)(part ? n - n / 2 : n / 2));
        assert_int_equal(gzclose(f), Z_OK);
    }
}

/* The rows of a table in the opposite order. */
static char *reversed(const char *text) {
    char *out = xcalloc(1, strlen(text) + 1), *copy = xstrdup(text), *line[64] = {copy};
    int n = 0;
    for (char *p = strtok(copy, "\n"); p; p = strtok(NULL, "\n")) line[n++] = p;
    assert_true(n > 0);
    sprintf(out, "%s\n", line[0]);
    for (int i = n - 1; i > 0; i--) strcat(strcat(out, line[i]), "\n");
    free(copy);
    return out;
}

static void test_packings(void **state) {
    (void)state;
    fixture_put();
    ok(mimic_import(folder, at("plain.h5"), 8 << 20));
    char path[700];
    ok(dir_make(at("other/icu"), &err));
    ok(dir_make(at("other/hosp"), &err));
    int code;
    zip_t *zip = zip_open(at("mimic.zip"), ZIP_CREATE, &code);
    assert_non_null(zip);
    for (int i = 0; i < N_FIXTURE; i++) { /* hosp and icu, backwards, packed; and a zip of packed files */
        int in_icu = strstr("icustays.csv inputevents.csv ingredientevents.csv d_items.csv", fixture[i].name) != NULL;
        char *back = reversed(fixture[i].text);
        snprintf(path, sizeof path, "%s/other/%s/%s.gz", folder, in_icu ? "icu" : "hosp", fixture[i].name);
        gz_put(path, back);
        char name[100];
        snprintf(name, sizeof name, "mimic-iv/%s/%s.gz", in_icu ? "icu" : "hosp", fixture[i].name);
        zip_int64_t entry = zip_file_add(zip, name, zip_source_file(zip, path, 0, -1), ZIP_FL_ENC_UTF_8);
        assert_true(entry >= 0);
        free(back);
    }
    assert_int_equal(zip_close(zip), 0);
    ok(mimic_import(at("other"), at("other.h5"), 64 << 20));
    assert_accounted();
    ok(mimic_import(at("mimic.zip"), at("zip.h5"), 4 << 20));
    assert_accounted();
    assert_same_bytes(at("plain.h5"), at("other.h5"));
    assert_same_bytes(at("plain.h5"), at("zip.h5"));
}

/* ---- maps of codes ----------------------------------------------------------------------------------------------- */

static void assert_maps(const CodeMap *m, const char *from, const char *to, int wider) {
    int is_wider;
    const char *got = code_map_find(m, from, &is_wider);
    if ((got == NULL) != (to == NULL) || (to && (strcmp(got, to) || is_wider != wider)))
        fail_msg("%s -> %s%s, %s was expected", from, got ? got : "nothing", is_wider ? " (wider)" : "", to ? to : "nothing");
}

static void test_code_map(void **state) {
    (void)state;
    static const struct {
        const char *text;
        int version, procedure;
        const char *code;
    } codes[] = {{"4280", 9, 0, "ICD9CM//428.0"},     {"428", 9, 0, "ICD9CM//428"},      {"V4581 ", 9, 0, "ICD9CM//V45.81"},
                 {"E8497", 9, 0, "ICD9CM//E849.7"},   {"i5023", 10, 0, "ICD10CM//I50.23"}, {"I50.23", 10, 0, "ICD10CM//I50.23"},
                 {"5491", 9, 1, "ICD9Proc//54.91"},   {"02HV33Z", 10, 1, "ICD10PCS//02HV33Z"},
                 {"88", 9, 0, NULL},                  {"123456", 9, 0, NULL},            {"", 10, 0, NULL}};
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++) {
        char code[80] = "";
        int got = icd_code(code, sizeof code, codes[i].text, codes[i].version, codes[i].procedure);
        assert_int_equal(got, codes[i].code != NULL);
        if (got) assert_string_equal(code, codes[i].code);
    }
    put("cm.csv", "icd_9,icd_10,flags\n0010,A000,00000\n0020,A0100,10000\n0020,A0101,10000\n"
                  "25000,E119,10000\n25000,Z999,10000\nE0000,NoDx,11000\n0010,B999,00000\n");
    put("pcs.csv", "icd_9,icd_10,flags,year\n5491,0W9G3ZZ,10000,2018\n5491,0W9G3ZX,10000,2018\n0001,6A750Z4,10000,2018\n");
    put("drugs.csv", "drug,atc_code\nHeparin,B01AB01\nheparin,Z99\n");
    put("labs.csv", "source,target\nMIMIC_LAB//50912,LOINC//2160-0\n");
    put("names.csv", "code,billable,short,long\nA000,1,Chol,Cholera of the classical kind\n");
    put("atc.csv", "atc_code,atc_name\nB01AB01,heparin\n");
    CodeMap m;
    code_map_init(&m, 1 << 20);
    static const char *const files[] = {"cm.csv", "pcs.csv", "drugs.csv", "labs.csv", "names.csv", "atc.csv"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) ok(code_map_add(&m, at(files[i]), &err));
    assert_maps(&m, "ICD9CM//001.0", NULL, 0); /* two targets in different chapters */
    assert_maps(&m, "ICD9CM//002.0", "ICD10CM//A01.0", 1);
    assert_maps(&m, "ICD9CM//250.00", NULL, 0);
    assert_maps(&m, "ICD9CM//E000.0", NULL, 0);
    assert_maps(&m, "ICD9Proc//54.91", "ICD10PCS//0W9G3Z", 1);
    assert_maps(&m, "ICD9Proc//00.01", "ICD10PCS//6A750Z4", 0);
    assert_maps(&m, "DRUG//HEPARIN", "ATC//B01AB01", 0);
    assert_maps(&m, "MIMIC_LAB//50912", "LOINC//2160-0", 0);
    assert_maps(&m, "MIMIC_LAB//50913", NULL, 0);
    assert_string_equal(code_map_name(&m, "ICD10CM//A00.0"), "Cholera of the classical kind");
    assert_string_equal(code_map_name(&m, "ATC//B01AB01"), "heparin");
    code_map_free(&m);

    put("odd.csv", "a,b\n1,2\n");
    code_map_init(&m, 1 << 20);
    refused(code_map_add(&m, at("odd.csv"), &err), ERR_FORMAT, "no map that is known");
    refused(code_map_add(&m, at("absent.csv"), &err), ERR_IO, "absent.csv");
    code_map_free(&m);
    code_map_init(&m, 100);
    refused(code_map_add(&m, at("cm.csv"), &err), ERR_NOMEM, "--memory");
    code_map_free(&m);
}

static void test_mapped_import(void **state) {
    (void)state;
    fixture_put();
    put("cm.csv", "icd_9,icd_10,flags\n4280,I509,10000\n");
    put("drugs.csv", "drug,atc_code\nHEPARIN,B01AB01\n");
    put("labs.csv", "source,target\nMIMIC_LAB//51464,LOINC//5770-3\nMIMIC_LAB//50971,LOINC//2823-3\n");
    ImportOptions o = {.path = folder, .out = at("e.h5"), .memory = 8 << 20, .max_line = 1 << 20, .max_errors = -1};
    char maps[3][700];
    for (int i = 0; i < 3; i++) {
        snprintf(maps[i], sizeof maps[i], "%s", at(i == 0 ? "cm.csv" : i == 1 ? "drugs.csv" : "labs.csv"));
        o.maps.item[o.maps.n++] = maps[i];
    }
    ok(import_mimic(&o, &report, &err));
    assert_accounted();
    const char *text = timeline("e.h5", 1);
    assert_non_null(strstr(text, "|ICD10CM//I50.9||1"));
    assert_non_null(strstr(text, "|LOINC//5770-3=NEG||1"));
    assert_non_null(strstr(text, "|LOINC//2823-3|4mmol/L|0")); /* from mEq/L: potassium has one charge */
    assert_int_equal(table("labevents")->count[NOTE_UNIT_CONVERTED], 1);
    text = timeline("e.h5", 2);
    assert_non_null(strstr(text, "|ATC//B01AB01|5000UNIT|1"));
    assert_null(strstr(text, "DRUG//Heparin"));
    assert_int_equal(table("diagnoses_icd")->count[NOTE_MAPPED], 1);
    assert_int_equal(table("diagnoses_icd")->count[NOTE_NOT_MAPPED], 2);
    assert_int_equal(table("emar")->count[DROP_CROSS_TABLE], 1); /* still the same event, by its new name */
}

/* ---- bad input --------------------------------------------------------------------------------------------------- */

static void test_refusals(void **state) {
    (void)state;
    static const struct {
        const char *name, *text, *says;
    } cases[] = {{"note.csv", "note_id\n1\n", "no table of MIMIC-IV"},
                 {"patients.csv", "id,gender\n1,F\n", "subject_id"},
                 {"labevents.csv", "subject_id,itemid\n1,2\n", "charttime"},
                 {"labevents.csv", "subject_id,charttime\n1,2150-01-01\n", "itemid"},
                 {"diagnoses_icd.csv", "subject_id,hadm_id\n1,2\n", "icd_code"},
                 {"patients.csv", "", "header"},
                 {"patients.csv", "subject_id,gender,anchor_age,anchor_year\n1,F,x,2150\n", "no patient to import"},
                 {"patients.csv", "subject_id,gender,anchor_age,anchor_year\nx,F,40,2150\n", "no patient to import"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char path[700], dir[20];
        snprintf(dir, sizeof dir, "case%zu", i);
        ok(dir_make(at(dir), &err));
        snprintf(path, sizeof path, "%s/%s", dir, cases[i].name);
        put(path, cases[i].text);
        Status status = mimic_import(at(dir), at("no.h5"), 8 << 20);
        if (status != ERR_FORMAT || !strstr(err.msg, cases[i].says)) fail_msg("case %zu: %s", i, err.msg);
        assert_false(path_exists(at("no.h5")));
    }
    fixture_put();
    put("PATIENTS.csv", fixture[0].text);
    refused(mimic_import(folder, at("no.h5"), 8 << 20), ERR_FORMAT, "twice");
}

/* Rows that cannot be: each is counted for its reason, the others stay. */
static void test_bad_rows(void **state) {
    (void)state;
    put("patients.csv", "subject_id,gender,anchor_age,anchor_year,dod\n"
                        "1,F,40,2150,\n1,F,40,2150,\n2,F,,2150,\n3,M,30,2150,31.12.2151\n4,,20,2150,2150-05-05\n");
    put("admissions.csv", "subject_id,hadm_id,admittime,dischtime,deathtime,admission_type,hospital_expire_flag\n"
                          "1,10,2150-01-05 08:00:00,2150-01-04 08:00:00,,URGENT,0\n" /* ends before it starts */
                          "1,10,2150-01-05 09:00:00,2150-01-06 08:00:00,,URGENT,0\n" /* the same id */
                          "1,,2150-01-05 09:00:00,2150-01-06 08:00:00,,URGENT,0\n"   /* no id */
                          "1,12,2099-12-31 00:00:00,2150-01-06 08:00:00,,URGENT,0\n" /* a placeholder */
                          "1,13,2100-01-01 08:00:00,2150-01-06 08:00:00,,URGENT,0\n" /* before birth */
                          "2,20,2150-01-05 09:00:00,2150-01-06 08:00:00,,URGENT,0\n" /* its patient is dropped */
                          "4,40,2150-05-01 09:00:00,2150-05-05 08:00:00,,URGENT,1\n" /* died, no time of death */
                          "9,90,2150-01-05 09:00:00,2150-01-06 08:00:00,,URGENT,0\n");
    put("diagnoses_icd.csv", "subject_id,hadm_id,seq_num,icd_code,icd_version\n"
                             "1,10,1,I10,10\n1,10,2,,10\n4,40,1,I10,11\n4,40,1,I10,10\n");
    put("labevents.csv", "subject_id,hadm_id,itemid,charttime,storetime,value,valuenum,valueuom\n"
                         "1,10,50912,2150-01-05 25:00:00,,1,1,mg/dL\n"
                         "1,10,50912,,,1,1,mg/dL\n"
                         "1,10,,2150-01-05 10:00:00,2150-01-05 10:00:00,1,1,mg/dL\n"
                         "1,10,50912,2150-01-05 10:00:00,2150-01-05 10:00:00,1e99,1e99,mg/dL\n"
                         "1,10,50912,2150-01-05 10:00:00\n"
                         "4,40,50912,2150-05-03 10:00:00,2150-05-06 10:00:00,1,1,\n"); /* result after death */
    ok(mimic_import(folder, at("e.h5"), 8 << 20));
    assert_accounted();
    static const struct {
        const char *table;
        ReportReason reason;
    } once[] = {{"patients", DROP_SAME_ID},      {"patients", DROP_NO_BIRTH},      {"patients", DROP_BAD_DATE},
                {"admissions", DROP_SAME_ID},    {"admissions", DROP_NO_STAY},     {"admissions", DROP_BAD_DATE},
                {"admissions", DROP_BEFORE_BIRTH}, {"admissions", DROP_PERSON_DROPPED}, {"admissions", DROP_NO_PERSON},
                {"admissions", NOTE_END_BEFORE_START}, {"admissions", NOTE_DEATH_BY_STAY}, {"diagnoses_icd", DROP_NO_STAY},
                {"labevents", DROP_BAD_DATE},    {"labevents", DROP_NO_DATE},      {"labevents", DROP_NO_CODE},
                {"labevents", DROP_FIELDS},      {"labevents", NOTE_BAD_NUMBER},   {"labevents", NOTE_NO_UNIT},
                {"labevents", NOTE_AFTER_DEATH}};
    for (size_t i = 0; i < sizeof once / sizeof *once; i++)
        if (table(once[i].table)->count[once[i].reason] != 1)
            fail_msg("%s: %lld rows '%s', 1 was expected", once[i].table,
                     (long long)table(once[i].table)->count[once[i].reason], import_report_reason_text(once[i].reason));
    assert_int_equal(table("diagnoses_icd")->count[DROP_NO_CODE], 2);
    assert_string_equal(timeline("e.h5", 4), "-|-|SEX//UNKNOWN||0\n2130-01-01 00:00|day|MEDS_BIRTH||0\n"
                                             "2150-05-01 09:00|2150-05-01 09:00|VISIT//IP//URGENT||1\n"
                                             "2150-05-05 08:00|2150-05-05 08:00|MEDS_DEATH||0\n"
                                             "2150-05-05 08:01|2150-05-05 08:00|ICD10CM//I10||1\n"
                                             "2150-05-06 10:00|2150-05-03 10:00|MIMIC_LAB//50912|1|1\n"
                                             "end 2151-05-05 08:00\n");
}

/* A day of death in the place of its time: at the end of the stay, if that is the same day, else when it is over. */
static void test_day_of_death(void **state) {
    (void)state;
    put("patients.csv", "subject_id,gender,anchor_age,anchor_year,dod\n1,F,40,2150,2150-05-05\n2,F,40,2150,2150-05-05\n3,F,40,2150,2150-05-05\n");
    put("admissions.csv", "subject_id,hadm_id,admittime,dischtime,deathtime,admission_type,hospital_expire_flag\n"
                          "1,10,2150-05-01 09:00:00,2150-05-05 08:00:00,2150-05-05,URGENT,1\n"
                          "2,20,5/1/2150 9:00,5/6/2150 8:00,5/5/2150,URGENT,1\n"
                          "3,30,2150-05-01 09:00:00,2150-05-05 08:00:00,,URGENT,0\n"); /* left alive */
    put("labevents.csv", "subject_id,hadm_id,itemid,charttime,storetime,value,valuenum,valueuom\n"
                         "1,10,50912,2150-05-05 06:00:00,2150-05-05 07:00:00,1,1,mg/dL\n");
    ok(mimic_import(folder, at("e.h5"), 8 << 20));
    assert_int_equal(table("labevents")->count[NOTE_AFTER_DEATH], 0);
    if (!strstr(timeline("e.h5", 1), "2150-05-05 08:00|2150-05-05 08:00|MEDS_DEATH||0\n")) fail_msg("%s", timeline("e.h5", 1));
    if (!strstr(timeline("e.h5", 2), "2150-05-05 23:59|day|MEDS_DEATH||0\n")) fail_msg("%s", timeline("e.h5", 2));
    if (!strstr(timeline("e.h5", 3), "2150-05-05 23:59|day|MEDS_DEATH||0\n")) fail_msg("%s", timeline("e.h5", 3));
}

/* Long names are cut between characters. */
static void test_long_names(void **state) {
    (void)state;
    char a[121], text[400], expected[200];
    memset(a, 'a', 119);
    a[119] = 0;
    put("patients.csv", "subject_id,gender,anchor_age,anchor_year,dod\n1,F,40,2150,\n");
    put("labevents.csv", "subject_id,hadm_id,itemid,charttime,storetime,value,valuenum,valueuom\n"
                         "1,,50912,2150-05-05 06:00:00,2150-05-05 07:00:00,1,1,mg/dL\n");
    snprintf(text, sizeof text, "itemid,label,fluid,category\n50912,%s\303\251bb,Blood,Chemistry\n", a);
    put("d_labitems.csv", text);
    ok(mimic_import(folder, at("e.h5"), 8 << 20));
    EventFile f;
    if (event_file_open(&f, at("e.h5"), &err)) fail_msg("%s", err.msg);
    snprintf(expected, sizeof expected, "%s (Blood, Chemistry)", a);
    assert_string_equal(f.code_name[event_file_code(&f, "MIMIC_LAB//50912")], expected);
    event_file_close(&f);
}

static void test_without_patients(void **state) {
    (void)state;
    put("labevents.csv.gz", "");
    unlink(at("labevents.csv.gz"));
    put("diagnoses_icd.csv", "subject_id,hadm_id,seq_num,icd_code,icd_version\n1,10,1,I10,10\n");
    put("labevents.csv", "subject_id,hadm_id,itemid,charttime,storetime,value,valuenum,valueuom\n"
                         "1,10,50912,2150-01-05 10:00:00,2150-01-05 11:00:00,1,1,mg/dL\n");
    ok(mimic_import(folder, at("e.h5"), 8 << 20));
    assert_accounted();
    assert_string_equal(timeline("e.h5", 1), "2150-01-05 11:00|2150-01-05 10:00|MIMIC_LAB//50912|1mg/dL|0\nend 2150-01-05 11:00\n");
    assert_int_equal(table("diagnoses_icd")->count[DROP_NO_STAY], 1); /* no admissions: nobody knows when */
    assert_int_equal(table("labevents")->count[NOTE_NO_VISIT], 0);
}

/* Damage of a packed entry is named, and nothing is written. */
static void test_damage(void **state) {
    (void)state;
    fixture_put();
    char *text = xcalloc(1, 400000);
    size_t n = (size_t)sprintf(text, "subject_id,hadm_id,itemid,charttime,storetime,value,valuenum,valueuom\n");
    for (int i = 0; i < 4000; i++)
        n += (size_t)sprintf(text + n, "1,10,%d,2150-01-05 10:%02d:00,2150-01-05 11:00:00,1,%d,mg/dL\n", 50000 + i, i % 60, i * 7919 % 977);
    gz_put(at("labevents.csv.gz"), text);
    free(text);
    unlink(at("labevents.csv"));
    char *gz;
    size_t size;
    ok(file_read(at("labevents.csv.gz"), 1 << 20, &gz, &size, &err));
    for (int k = 0; k < 3; k++) { /* cut; a flipped bit; zeros from a gzip header on */
        char *bad = xcalloc(1, size);
        memcpy(bad, gz, k == 0 ? size / 2 : size);
        if (k == 1) bad[size / 2] ^= 0x10;
        size_t length = k == 0 ? size / 2 : size;
        if (k == 2) memset(bad + 2, 0, size - 2);
        spill(folder, "labevents.csv.gz", bad, length);
        if (mimic_import(folder, at("no.h5"), 8 << 20) != ERR_FORMAT) fail_msg("damage %d of a file is not seen", k);
        int code;
        unlink(at("bad.zip"));
        zip_t *zip = zip_open(at("bad.zip"), ZIP_CREATE, &code);
        assert_true(zip_file_add(zip, "hosp/labevents.csv.gz", zip_source_buffer(zip, bad, length, 0), 0) >= 0);
        assert_int_equal(zip_close(zip), 0);
        Status status = mimic_import(at("bad.zip"), at("no.h5"), 8 << 20);
        if (status != ERR_FORMAT || !strstr(err.msg, "damaged")) fail_msg("damage %d of a zip's file: %s", k, err.msg);
        assert_false(path_exists(at("no.h5")));
        free(bad);
    }
    free(gz);
}

/* ---- the demo ---------------------------------------------------------------------------------------------------- */

static void test_demo(void **state) {
    (void)state;
    static const struct {
        const char *name;
        int64_t rows, emitted;
    } expected[] = {{"patients", 100, 100},           {"admissions", 275, 275},         {"transfers", 1190, 915},
                    {"services", 319, 319},           {"icustays", 140, 140},           {"diagnoses_icd", 4506, 4506},
                    {"drgcodes", 454, 454},           {"procedures_icd", 722, 722},     {"hcpcsevents", 61, 60},
                    {"microbiologyevents", 2899, 2837}, {"omr", 2964, 2835},            {"outputevents", 9362, 9362},
                    {"prescriptions", 18087, 16723},  {"pharmacy", 15306, 0},           {"ingredientevents", 25728, 24514},
                    {"procedureevents", 1468, 1435}};
    const char *path = sample_data(DEMO);
    ok(mimic_import(path, at("e.h5"), 64 << 20));
    assert_accounted();
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        assert_int_equal(table(expected[i].name)->read, expected[i].rows);
        assert_int_equal(table(expected[i].name)->emitted, expected[i].emitted);
    }
    /* What is not told, to the row. */
    assert_int_equal(table("transfers")->count[DROP_CROSS_TABLE], 275); /* one discharge each admission */
    assert_int_equal(table("pharmacy")->count[DROP_CROSS_TABLE], 15225);
    assert_int_equal(table("pharmacy")->count[DROP_NO_CODE], 81);
    assert_int_equal(table("prescriptions")->count[DROP_DUPLICATE], 1364);
    assert_int_equal(table("admissions")->count[NOTE_DIED_IN_STAY], 15);
    assert_int_equal(table("patients")->count[NOTE_OVER_89], 3);
    assert_int_equal(report.recorded[KIND_DEATH] + report.assumed[KIND_DEATH], 31);
    assert_int_equal(report.n_patients, 100);
    assert_int_equal(report.n_duplicates, 0);
    int64_t events = 0;
    for (int i = 0; i < report.n_tables; i++) events += report.table[i].events;
    assert_int_equal(report.n_events, events);
    ok(mimic_import(path, at("small.h5"), 4 << 20));
    assert_same_bytes(at("e.h5"), at("small.h5"));
}

int main(void) {
#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, folder_open, folder_close)
    const struct CMUnitTest tests[] = {IN_FOLDER(test_timelines), IN_FOLDER(test_counts),   IN_FOLDER(test_packings),
                                       IN_FOLDER(test_code_map),  IN_FOLDER(test_mapped_import), IN_FOLDER(test_refusals),
                                       IN_FOLDER(test_bad_rows),  IN_FOLDER(test_day_of_death), IN_FOLDER(test_long_names), IN_FOLDER(test_without_patients), IN_FOLDER(test_damage),
                                       IN_FOLDER(test_demo)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
