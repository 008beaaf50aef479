/* import_mimic_tables.c - MIMIC-IV's format: `tables` says which column of which table feeds which field of an event,
 * and the functions above it what is particular to some of them.  Columns are bound by name in any case; one that is
 * missing reads as empty. */
#include "data/import_mimic.h"
#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const char *name, *also;                  /* also: what some releases call it */
    int (*read)(MimicReader *r, MimicRow *s); /* 0: the row is dropped */
    MimicStage stage;
    EventKind kind;
    const char *vocabulary;
    const char *column[COL_COUNT];
} MimicTable;

/* ---- people and stays -------------------------------------------------------------------------------------------- */

static int patient_row(MimicReader *r, MimicRow *s) {
    int64_t age = 0, year = 0;
    FieldTime t;
    char code[40], gender[20];
    mimic_text(gender, sizeof gender, mimic_field(r, COL_CODE));
    snprintf(code, sizeof code, "SEX//%s", *gender ? gender : "UNKNOWN");
    s->code = mimic_code(r, code, KIND_STATIC,
                         !strcmp(gender, "F")   ? "Female"
                         : !strcmp(gender, "M") ? "Male"
                                                : NULL,
                         NULL);
    s->time = s->end = TIME_NONE;
    if (field_int(mimic_field(r, COL_AGE), &age) > 0 && field_int(mimic_field(r, COL_YEAR), &year) > 0 && age >= 0 &&
        age < 130 && year > 1850 && year < 2300) {
        s->time = time_from_civil((int)(year - age), 1, 1, 0, 0, 0);
        s->precision = PRECISION_DAY;
        mimic_count(r, NOTE_BIRTH_YEAR_ONLY);
        if (age > 89) mimic_count(r, NOTE_OVER_89);
    }
    int dead = mimic_time(r, COL_DEATH, &t);
    if (dead < 0) return mimic_drop(r, DROP_BAD_DATE);
    if (dead) s->end = t.us;
    return 1;
}

/* As MIMIC-IV writes them, by how they begin; it has one column for race and ethnicity. */
static const char *race_code(const char *text) {
    static const struct {
        const char *begins, *code;
    } races[] = {{"WHITE", "RACE//WHITE"},
                 {"BLACK", "RACE//BLACK"},
                 {"ASIAN", "RACE//ASIAN"},
                 {"HISPANIC", "ETHNICITY//HISPANIC"},
                 {"AMERICAN INDIAN", "RACE//NATIVE"},
                 {"NATIVE HAWAIIAN", "RACE//PACIFIC"},
                 {"PORTUGUESE", "RACE//OTHER"},
                 {"SOUTH AMERICAN", "RACE//OTHER"},
                 {"MULTIPLE", "RACE//OTHER"},
                 {"OTHER", "RACE//OTHER"}};
    for (size_t i = 0; i < sizeof races / sizeof *races; i++)
        if (!strncasecmp(text, races[i].begins, strlen(races[i].begins))) return races[i].code;
    return NULL; /* unknown, declined, unable to obtain */
}

static void stay_codes(MimicReader *r, MimicRow *s, const char *class, const char *type, const char *place) {
    char start[120], end[120], text[100], base[2][20];
    snprintf(base[0], sizeof base[0], "VISIT//%s", class);
    snprintf(base[1], sizeof base[1], "VISIT_END//%s", class);
    mimic_text(text, sizeof text, type);
    snprintf(start, sizeof start, *text ? "%s//%s" : "%s", base[0], text);
    mimic_text(text, sizeof text, place);
    snprintf(end, sizeof end, *text ? "%s//%s" : "%s", base[1], text);
    s->code = mimic_code(r, start, KIND_VISIT_START, NULL, base[0]);
    s->end_code = mimic_code(r, end, KIND_VISIT_END, NULL, base[1]);
}

/* Discharge; before admission it cannot be. */
static void stay_end(MimicReader *r, MimicRow *s) {
    FieldTime t;
    s->end = TIME_NONE;
    if (mimic_time(r, COL_END, &t) <= 0) {
        mimic_count(r, NOTE_NO_END);
        return;
    }
    s->end = t.us;
    s->end_precision = (uint8_t)t.precision;
    if (t.midnight) mimic_count(r, NOTE_MIDNIGHT);
    if (t.us >= s->time || (t.precision == PRECISION_DAY && t.us + US_PER_DAY > s->time)) return;
    mimic_count(r, NOTE_END_BEFORE_START);
    s->end = TIME_NONE;
}

/* What an admission says of the patient: events at its start. */
static void stay_fact(MimicReader *r, const MimicRow *s, const char *vocabulary, MimicColumn role) {
    MimicRow *x = mimic_second(r, s);
    x->stage = MIMIC_EVENT;
    x->kind = KIND_OTHER;
    x->order = 0;
    if (!mimic_code_read(r, x, vocabulary, mimic_field(r, role), NULL)) r->n_second--;
}

static int admission_row(MimicReader *r, MimicRow *s) {
    FieldTime t;
    int64_t died = 0;
    if (!s->stay) return mimic_drop(r, DROP_NO_STAY);
    if (!mimic_start(r, s)) return 0;
    if (s->time % US_PER_DAY == 0) {
        s->precision = PRECISION_DAY;
        mimic_count(r, NOTE_MIDNIGHT);
    }
    s->available = s->time;
    if (s->precision != PRECISION_DAY) s->flags |= MIMIC_STORED;
    stay_end(r, s);
    stay_codes(r, s, "IP", mimic_field(r, COL_CODE), mimic_field(r, COL_CODE2));
    s->order = mimic_time(r, COL_DEATH, &t) > 0 ? t.us : TIME_NONE;
    if (s->order != TIME_NONE && t.precision == PRECISION_DAY && !t.midnight) { /* a day in the place of a time */
        int at_end = s->end != TIME_NONE && s->end_precision != PRECISION_DAY && day_of(s->end) == day_of(t.us);
        if (at_end) s->order = s->end;
        else s->flags |= MIMIC_DIED_DAY;
    }
    if (s->order == TIME_NONE && field_int(mimic_field(r, COL_STATUS), &died) > 0 && died == 1 && s->end != TIME_NONE) {
        mimic_count(r, NOTE_DEATH_BY_STAY);
        s->order = s->end;
    }
    if (s->order != TIME_NONE) s->flags |= MIMIC_DIED;
    stay_fact(r, s, "INSURANCE", COL_NAME);
    stay_fact(r, s, "MARITAL_STATUS", COL_NAME2);
    if (!r->m->has_transfers && mimic_time(r, COL_ED, &t) > 0) {
        MimicRow *x = mimic_second(r, s);
        x->stage = MIMIC_EVENT;
        x->kind = KIND_TRANSFER;
        x->order = 0;
        x->time = x->available = t.us;
        x->precision = (uint8_t)t.precision;
        x->code = mimic_code(r, "TRANSFER//Emergency Department", KIND_TRANSFER, NULL, NULL);
    }
    const char *race = race_code(mimic_field(r, COL_RACE));
    if (race) {
        MimicRow *x = mimic_second(r, s);
        x->stage = MIMIC_RACE;
        x->code = mimic_code(r, race, KIND_STATIC, NULL, NULL);
    }
    return 1;
}

static int transfer_row(MimicReader *r, MimicRow *s) {
    const char *what = mimic_field(r, COL_STATUS), *unit = mimic_field(r, COL_CODE);
    if (!strcasecmp(what, "discharge")) return mimic_drop(r, DROP_CROSS_TABLE); /* admissions has it */
    if (!mimic_start(r, s)) return 0;
    s->available = s->time;
    s->flags |= MIMIC_STORED;
    if (!strcasecmp(what, "ED") && !s->stay) { /* came to the emergency room and was not admitted */
        s->stage = MIMIC_STAY;
        s->kind = KIND_VISIT_START;
        s->stay = s->order; /* transfer_id: hadm_id has another range */
        s->order = TIME_NONE;
        stay_end(r, s);
        stay_codes(r, s, "ER", "", "");
        return 1;
    }
    s->order = 0;
    return mimic_code_read(r, s, r->vocabulary, *unit ? unit : "UNKNOWN", NULL);
}

static int icu_row(MimicReader *r, MimicRow *s) {
    FieldTime t;
    if (!mimic_start(r, s)) return 0;
    s->available = s->time;
    s->flags |= MIMIC_STORED;
    s->code = mimic_code(r, "ICU_IN", KIND_TRANSFER, "Admission to intensive care", NULL);
    if (mimic_time(r, COL_END, &t) <= 0) {
        mimic_count(r, NOTE_NO_END);
    } else if (t.us < s->time) {
        mimic_count(r, NOTE_END_BEFORE_START);
    } else {
        MimicRow *out = mimic_second(r, s);
        out->time = out->available = t.us;
        out->code = mimic_code(r, "ICU_OUT", KIND_TRANSFER, "Discharge from intensive care", NULL);
    }
    return 1;
}

/* ---- codes of stays ---------------------------------------------------------------------------------------------- */

/* Coded from the chart when the stay was over, unless there is a column for the day. */
static int coded_time(MimicReader *r, MimicRow *s) {
    if (r->column[COL_TIME]) return mimic_start(r, s);
    s->flags |= MIMIC_AT_DISCHARGE;
    s->time = TIME_NONE;
    return 1;
}

static int icd_row(MimicReader *r, MimicRow *s) {
    char code[80], raw[40];
    int64_t version = 0;
    int wider = 0, procedure = s->kind == KIND_PROCEDURE;
    if (!coded_time(r, s)) return 0;
    mimic_text(raw, sizeof raw, mimic_field(r, COL_CODE));
    if (!*raw || field_int(mimic_field(r, COL_VERSION), &version) <= 0 || (version != 9 && version != 10))
        return mimic_drop(r, DROP_NO_CODE);
    if (!icd_code(code, sizeof code, raw, (int)version, procedure)) {
        snprintf(code, sizeof code, "%s//%s",
                 version == 9 ? procedure ? "ICD9Proc" : "ICD9CM"
                 : procedure  ? "ICD10PCS"
                              : "ICD10CM",
                 raw);
        mimic_count(r, NOTE_BAD_CODE);
    }
    const char *to = version == 9 ? code_map_find(&r->m->im.map, code, &wider) : NULL;
    if (to) mimic_count(r, wider ? NOTE_MAPPED_WIDER : NOTE_MAPPED);
    else if (version == 9 && r->m->im.map.from.n) mimic_count(r, NOTE_NOT_MAPPED);
    if (!to) to = code;
    s->code = mimic_code(r, to, s->kind, code_map_name(&r->m->im.map, to), NULL);
    return 1;
}

static int drg_row(MimicReader *r, MimicRow *s) {
    char code[100], type[40], number[40];
    if (!coded_time(r, s)) return 0;
    mimic_text(type, sizeof type, mimic_field(r, COL_CODE));
    mimic_text(number, sizeof number, mimic_field(r, COL_CODE2));
    if (!*number) return mimic_drop(r, DROP_NO_CODE);
    snprintf(code, sizeof code, "DRG//%s//%s", type, number);
    s->code = mimic_code(r, code, s->kind, mimic_field(r, COL_NAME), NULL);
    return 1;
}

/* A code of one column, at the row's time. */
static int coded_row(MimicReader *r, MimicRow *s) {
    if (!coded_time(r, s)) return 0;
    if (!mimic_code_read(r, s, r->vocabulary, mimic_field(r, COL_CODE),
                         *mimic_field(r, COL_NAME) ? mimic_field(r, COL_NAME) : NULL))
        return mimic_drop(r, DROP_NO_CODE);
    s->available = s->time;
    if (s->precision != PRECISION_DAY) s->flags |= MIMIC_STORED;
    return 1;
}

/* ---- measurements ------------------------------------------------------------------------------------------------ */

static int measured_row(MimicReader *r, MimicRow *s) {
    if (!mimic_start(r, s)) return 0;
    mimic_store(r, s, s->time, r->vocabulary[6] == 'L'); /* not what is charted at the bedside */
    const char *item = mimic_field(r, COL_CODE), *text = mimic_field(r, COL_TEXT);
    mimic_number(r, s);
    if (isnan(s->value) && mimic_word(r, s, item)) return 1;
    if (isnan(s->value) && *text) mimic_count(r, NOTE_TEXT_VALUE);
    if (!mimic_code_read(r, s, r->vocabulary, item, NULL)) return mimic_drop(r, DROP_NO_CODE);
    mimic_unit(r, s, mimic_field(r, COL_UNIT));
    return 1;
}

/* "Blood Pressure" "120/80"; "Weight (Lbs)" "127". */
static int omr_row(MimicReader *r, MimicRow *s) {
    char name[120], unit[60] = "";
    float low;
    int comparator;
    if (!mimic_start(r, s)) return 0;
    s->available = s->time;
    mimic_text(name, sizeof name, mimic_field(r, COL_CODE));
    if (!*name) return mimic_drop(r, DROP_NO_CODE);
    char *open = strstr(name, " ("), *close = open ? strchr(open, ')') : NULL;
    if (open && close && !close[1] && !isdigit((unsigned char)open[2])) { /* not "Standing (1 min)" */
        snprintf(unit, sizeof unit, "%.*s", (int)(close - open - 2), open + 2);
        *open = 0;
    }
    const char *text = mimic_field(r, COL_TEXT), *slash = strchr(text, '/');
    if (slash) {
        char high[32], part[160];
        snprintf(high, sizeof high, "%.*s", (int)(slash - text < 31 ? slash - text : 31), text);
        if (field_number(high, &s->value) > 0 && field_number(slash + 1, &low) > 0) {
            mimic_count(r, NOTE_TWO_VALUES);
            snprintf(part, sizeof part, "%s//diastolic", name);
            MimicRow *x = mimic_second(r, s);
            x->value = low;
            mimic_code_read(r, x, r->vocabulary, part, NULL);
            mimic_unit(r, x, "mmHg");
            snprintf(part, sizeof part, "%s//systolic", name);
            mimic_code_read(r, s, r->vocabulary, part, NULL);
            mimic_unit(r, s, "mmHg");
            return 1;
        }
    }
    s->value = NAN;
    if (field_limit(text, &s->value, &comparator) > 0) s->comparator = (uint8_t)comparator;
    else if (*text) mimic_count(r, NOTE_TEXT_VALUE);
    if (s->comparator != COMPARE_EQ) mimic_count(r, NOTE_LIMIT);
    mimic_code_read(r, s, r->vocabulary, name, NULL);
    mimic_unit(r, s, unit);
    return 1;
}

/* A test; an organism that grew; what an organism is sensitive to.  All of it is known when it is stored. */
static int micro_row(MimicReader *r, MimicRow *s) {
    char base[100], code[160], name[260];
    if (!mimic_start(r, s)) return 0;
    int64_t end = s->time - s->time % US_PER_DAY + US_PER_DAY - US_PER_MINUTE;
    mimic_store(r, s, s->precision == PRECISION_DAY ? end : s->time, 1);
    const char *test = mimic_field(r, COL_CODE), *organism = mimic_field(r, COL_CODE2),
               *drug = mimic_field(r, COL_CODE3);
    if (!*organism && !mimic_code_read(r, s, "MIMIC_MICRO", test, mimic_field(r, COL_NAME)))
        return mimic_drop(r, DROP_NO_CODE);
    if (!*organism) return 1;
    snprintf(base, sizeof base, "MIMIC_ORGANISM//%.*s", UTF8_CUT(organism, 40));
    s->code = mimic_code(r, base, s->kind, mimic_field(r, COL_NAME2), NULL);
    if (!*drug) return 1;
    char result[12], comparator[8];
    mimic_text(result, sizeof result, mimic_field(r, COL_STATUS));
    mimic_text(comparator, sizeof comparator, mimic_field(r, COL_COMPARATOR));
    snprintf(code, sizeof code, *result ? "%s//%.*s=%s" : "%s//%.*s%s", base, UTF8_CUT(drug, 40), result);
    snprintf(name, sizeof name, "%.*s: %.*s %s", UTF8_CUT(mimic_field(r, COL_NAME2), 120),
             UTF8_CUT(mimic_field(r, COL_TEXT), 60), result);
    s->code = mimic_code(r, code, s->kind, name, base);
    if (field_number(mimic_field(r, COL_VALUE), &s->value) <= 0) {
        s->value = NAN;
        return 1;
    }
    const char *c = comparator;
    s->comparator = (uint8_t)(!strcmp(c, "<=") || !strcmp(c, "=<")   ? COMPARE_LE
                              : !strcmp(c, ">=") || !strcmp(c, "=>") ? COMPARE_GE
                              : !strcmp(c, "<")                      ? COMPARE_LT
                              : !strcmp(c, ">")                      ? COMPARE_GT
                                                                     : COMPARE_EQ);
    if (*c && strcmp(c, "=") && s->comparator == COMPARE_EQ) mimic_count(r, NOTE_BAD_OPERATOR);
    if (s->comparator != COMPARE_EQ) mimic_count(r, NOTE_LIMIT);
    mimic_unit(r, s, "ug/mL");
    return 1;
}

/* ---- drugs and what runs for a while ----------------------------------------------------------------------------- */

static int was_given(const char *status) {
    static const char *const given[] = {"Administered",
                                        "Applied",
                                        "Started",
                                        "Restarted",
                                        "Delayed Administered",
                                        "Delayed Applied",
                                        "Delayed Started",
                                        "Partial Administered",
                                        "Administered in Other Location",
                                        "Administered Bolus from IV Drip",
                                        "Started in Other Location"};
    for (size_t i = 0; i < sizeof given / sizeof *given; i++)
        if (!strcasecmp(status, given[i])) return 1;
    return 0;
}

/* prescriptions: ordered; pharmacy: the same orders, with the time they were entered; emar: given. */
static int drug_row(MimicReader *r, MimicRow *s) {
    if (r->column[COL_STATUS] && !was_given(mimic_field(r, COL_STATUS))) return mimic_drop(r, DROP_NOT_GIVEN);
    if (!mimic_start(r, s)) return 0;
    mimic_store(r, s, s->time, 0);
    int known = mimic_code_read(r, s, "DRUG", mimic_field(r, COL_CODE), NULL);
    if (!known && s->stage != MIMIC_ORDER) return mimic_drop(r, DROP_NO_CODE);
    if (!known) s->code = UINT32_MAX; /* no drug is named, yet prescriptions may ask when it was entered */
    const char *dose = mimic_field(r, COL_VALUE);
    s->value = NAN;
    if (*dose && field_number(dose, &s->value) < 0) {
        s->value = NAN;
        mimic_count(r, NOTE_BAD_NUMBER);
    }
    mimic_unit(r, s, mimic_field(r, COL_UNIT));
    return 1;
}

/* Starts at once, with its rate; how much or how long it was is known when it was over and stored. */
static int interval_row(MimicReader *r, MimicRow *s) {
    FieldTime t;
    char code[100];
    const char *item = mimic_field(r, COL_CODE);
    if (!strcasecmp(mimic_field(r, COL_STATUS), "Rewritten")) return mimic_drop(r, DROP_NOT_GIVEN);
    if (!mimic_start(r, s)) return 0;
    s->available = s->time;
    if (s->stage == MIMIC_EVENT && r->column[COL_RATE]) s->flags |= MIMIC_INFUSION;
    if (!mimic_code_read(r, s, r->vocabulary, item, NULL)) return mimic_drop(r, DROP_NO_CODE);
    MimicRow *end = mimic_second(r, s);
    s->value = NAN;
    if (field_number(mimic_field(r, COL_RATE), &s->value) > 0) mimic_unit(r, s, mimic_field(r, COL_RATE_UNIT));
    else s->value = NAN;
    if (mimic_time(r, COL_END, &t) <= 0 || t.us < s->time) {
        mimic_count(r, *mimic_field(r, COL_END) ? NOTE_END_BEFORE_START : NOTE_NO_END);
        r->n_second--;
        return 1;
    }
    snprintf(code, sizeof code, "%.*s//END", UTF8_CUT(item, 60));
    mimic_code_read(r, end, r->vocabulary, code, NULL);
    end->time = t.us;
    end->value = NAN;
    if (field_number(mimic_field(r, COL_VALUE), &end->value) <= 0) end->value = NAN;
    mimic_unit(r, end, mimic_field(r, COL_UNIT));
    mimic_store(r, end, t.us, 0);
    return 1;
}

/* ---- notes ---- */

/* A discharge summary is written at the end of its stay, a report when it was stored. */
static int note_row(MimicReader *r, MimicRow *s) {
    uint64_t at = 0;
    const char *text = mimic_field(r, COL_TEXT);
    if (!mimic_start(r, s)) return 0;
    mimic_store(r, s, s->time, 0);
    if (!mimic_code_read(r, s, r->vocabulary, *mimic_field(r, COL_CODE) ? mimic_field(r, COL_CODE) : "UNKNOWN", NULL))
        return mimic_drop(r, DROP_NO_CODE);
    r->status = import_note(&r->m->im, r->t->table, r->t->row, text, strlen(text), &at, r->err);
    if (!at) return mimic_drop(r, DROP_NO_TEXT);
    s->order = (int64_t)at;
    s->flags |= MIMIC_TEXT;
    return 1;
}

/* ---- the format -------------------------------------------------------------------------------------------------- */

/* clang-format off */
#define WHO [COL_SUBJECT] = "subject_id", [COL_STAY] = "hadm_id"

static const MimicTable tables[] = {
    {"patients", NULL, patient_row, MIMIC_PATIENT, KIND_STATIC, NULL,
     {[COL_SUBJECT] = "subject_id", [COL_CODE] = "gender", [COL_AGE] = "anchor_age", [COL_YEAR] = "anchor_year",
      [COL_DEATH] = "dod"}},
    {"admissions", NULL, admission_row, MIMIC_STAY, KIND_VISIT_START, NULL,
     {WHO, [COL_TIME] = "admittime", [COL_END] = "dischtime", [COL_DEATH] = "deathtime", [COL_CODE] = "admission_type",
      [COL_CODE2] = "discharge_location", [COL_NAME] = "insurance", [COL_NAME2] = "marital_status", [COL_RACE] = "race",
      [COL_STATUS] = "hospital_expire_flag", [COL_ED] = "edregtime"}},
    {"transfers", NULL, transfer_row, MIMIC_EVENT, KIND_TRANSFER, "TRANSFER",
     {WHO, [COL_ORDER] = "transfer_id", [COL_TIME] = "intime", [COL_END] = "outtime", [COL_CODE] = "careunit",
      [COL_STATUS] = "eventtype"}},
    {"services", NULL, coded_row, MIMIC_EVENT, KIND_TRANSFER, "SERVICE",
     {WHO, [COL_TIME] = "transfertime", [COL_CODE] = "curr_service"}},
    {"icustays", NULL, icu_row, MIMIC_EVENT, KIND_TRANSFER, NULL,
     {WHO, [COL_TIME] = "intime", [COL_END] = "outtime"}},
    {"diagnoses_icd", NULL, icd_row, MIMIC_EVENT, KIND_DIAGNOSIS, NULL,
     {WHO, [COL_CODE] = "icd_code", [COL_VERSION] = "icd_version"}},
    {"drgcodes", NULL, drg_row, MIMIC_EVENT, KIND_DIAGNOSIS, NULL,
     {WHO, [COL_CODE] = "drg_type", [COL_CODE2] = "drg_code", [COL_NAME] = "description"}},
    {"procedures_icd", NULL, icd_row, MIMIC_EVENT, KIND_PROCEDURE, NULL,
     {WHO, [COL_TIME] = "chartdate", [COL_CODE] = "icd_code", [COL_VERSION] = "icd_version"}},
    {"hcpcsevents", "hcpcsevent", coded_row, MIMIC_EVENT, KIND_PROCEDURE, "HCPCS",
     {WHO, [COL_TIME] = "chartdate", [COL_CODE] = "hcpcs_cd", [COL_NAME] = "short_description"}},
    {"labevents", NULL, measured_row, MIMIC_EVENT, KIND_LAB, "MIMIC_LAB",
     {WHO, [COL_TIME] = "charttime", [COL_STORE] = "storetime", [COL_CODE] = "itemid", [COL_VALUE] = "valuenum",
      [COL_TEXT] = "value", [COL_UNIT] = "valueuom"}},
    {"microbiologyevents", NULL, micro_row, MIMIC_EVENT, KIND_LAB, NULL,
     {WHO, [COL_TIME] = "charttime", [COL_DATE] = "chartdate", [COL_STORE] = "storetime", [COL_CODE] = "test_itemid",
      [COL_CODE2] = "org_itemid", [COL_CODE3] = "ab_itemid", [COL_NAME] = "test_name", [COL_NAME2] = "org_name",
      [COL_TEXT] = "ab_name", [COL_STATUS] = "interpretation", [COL_COMPARATOR] = "dilution_comparison",
      [COL_VALUE] = "dilution_value"}},
    {"omr", NULL, omr_row, MIMIC_EVENT, KIND_LAB, "MIMIC_OMR",
     {[COL_SUBJECT] = "subject_id", [COL_TIME] = "chartdate", [COL_CODE] = "result_name", [COL_TEXT] = "result_value"}},
    {"chartevents", NULL, measured_row, MIMIC_EVENT, KIND_LAB, "MIMIC_ITEM",
     {WHO, [COL_TIME] = "charttime", [COL_STORE] = "storetime", [COL_CODE] = "itemid", [COL_VALUE] = "valuenum",
      [COL_TEXT] = "value", [COL_UNIT] = "valueuom"}},
    {"outputevents", NULL, measured_row, MIMIC_EVENT, KIND_LAB, "MIMIC_ITEM",
     {WHO, [COL_TIME] = "charttime", [COL_STORE] = "storetime", [COL_CODE] = "itemid", [COL_VALUE] = "value",
      [COL_UNIT] = "valueuom"}},
    {"prescriptions", NULL, drug_row, MIMIC_EVENT, KIND_DRUG, NULL,
     {WHO, [COL_ORDER] = "pharmacy_id", [COL_TIME] = "starttime", [COL_CODE] = "drug", [COL_VALUE] = "dose_val_rx",
      [COL_UNIT] = "dose_unit_rx"}},
    {"emar", NULL, drug_row, MIMIC_EVENT, KIND_DRUG, NULL,
     {WHO, [COL_TIME] = "charttime", [COL_STORE] = "storetime", [COL_CODE] = "medication", [COL_STATUS] = "event_txt"}},
    {"pharmacy", NULL, drug_row, MIMIC_ORDER, KIND_DRUG, NULL,
     {WHO, [COL_ORDER] = "pharmacy_id", [COL_TIME] = "starttime", [COL_STORE] = "entertime", [COL_CODE] = "medication"}},
    {"inputevents", NULL, interval_row, MIMIC_EVENT, KIND_DRUG, "MIMIC_ITEM",
     {WHO, [COL_ORDER] = "orderid", [COL_TIME] = "starttime", [COL_END] = "endtime", [COL_STORE] = "storetime",
      [COL_CODE] = "itemid", [COL_VALUE] = "amount", [COL_UNIT] = "amountuom", [COL_RATE] = "rate",
      [COL_RATE_UNIT] = "rateuom", [COL_STATUS] = "statusdescription"}},
    {"ingredientevents", NULL, interval_row, MIMIC_PART, KIND_DRUG, "MIMIC_ITEM",
     {WHO, [COL_ORDER] = "orderid", [COL_TIME] = "starttime", [COL_END] = "endtime", [COL_STORE] = "storetime",
      [COL_CODE] = "itemid", [COL_VALUE] = "amount", [COL_UNIT] = "amountuom", [COL_RATE] = "rate",
      [COL_RATE_UNIT] = "rateuom", [COL_STATUS] = "statusdescription"}},
    {"procedureevents", NULL, interval_row, MIMIC_EVENT, KIND_PROCEDURE, "MIMIC_ITEM",
     {WHO, [COL_TIME] = "starttime", [COL_END] = "endtime", [COL_STORE] = "storetime", [COL_CODE] = "itemid",
      [COL_VALUE] = "value", [COL_UNIT] = "valueuom", [COL_STATUS] = "statusdescription"}},
    {"discharge", NULL, note_row, MIMIC_EVENT, KIND_OTHER, "NOTE",
     {WHO, [COL_TIME] = "charttime", [COL_STORE] = "storetime", [COL_CODE] = "note_type", [COL_TEXT] = "text"}},
    {"radiology", NULL, note_row, MIMIC_EVENT, KIND_OTHER, "NOTE",
     {WHO, [COL_TIME] = "charttime", [COL_STORE] = "storetime", [COL_CODE] = "note_type", [COL_TEXT] = "text"}},
};
/* clang-format on */
enum { N_TABLES = sizeof tables / sizeof *tables };

/* ---- reading ----------------------------------------------------------------------------------------------------- */

static Status row_put(Mimic *m, const MimicRow *s, Err *err) {
    if (import_is_excluded(&m->im, s->subject)) {
        if (!(s->flags & MIMIC_SECOND)) import_report_count(m->im.report, s->table, DROP_EXCLUDED, s->row);
        return OK;
    }
    if (sorter_full(m->im.stage)) {
        Status status = sorter_spill(m->im.stage, err);
        if (status) return status;
    }
    sorter_add(m->im.stage, s);
    return OK;
}

static int64_t id_read(MimicReader *r, MimicColumn c) {
    int64_t id;
    int got = field_int(mimic_field(r, c), &id);
    if (got < 0) mimic_count(r, NOTE_BAD_ID);
    return got > 0 && id > 0 ? id : 0;
}

static Status row_read(TableReader *t, Err *err) {
    const MimicTable *table = t->source;
    Mimic *m = (Mimic *)t->im; /* its first member */
    MimicReader r = {
        .t = t, .m = m, .vocabulary = table->vocabulary, .column = table->column, .analyte = -1, .err = err};
    MimicRow s = {.stage = (uint8_t)table->stage,
                  .kind = (uint8_t)table->kind,
                  .table = (uint8_t)t->table,
                  .row = (uint32_t)t->row,
                  .value = NAN,
                  .end = TIME_NONE};
    if (field_int(mimic_field(&r, COL_SUBJECT), &s.subject) <= 0) return mimic_drop(&r, DROP_PERSON_ID), OK;
    s.stay = id_read(&r, COL_STAY);
    s.order = id_read(&r, COL_ORDER);
    int keep = table->read(&r, &s);
    if (r.status || !keep) return r.status;
    Status status = row_put(m, &s, err);
    for (int i = 0; i < r.n_second && !status; i++) status = row_put(m, &r.second[i], err);
    return status;
}

static Status columns_check(TableReader *t, Err *err) {
    static const MimicColumn needed[] = {COL_SUBJECT, COL_TIME, COL_CODE};
    const MimicTable *table = t->source;
    for (size_t k = 0; k < sizeof needed / sizeof *needed; k++)
        if (table->column[needed[k]] && t->bound[needed[k]] < 0 && !(needed[k] == COL_TIME && t->bound[COL_DATE] >= 0))
            return err_set(
                err, ERR_FORMAT, "%s has no column %s (its %d columns begin with %.40s); is it MIMIC-IV's %s?",
                t->csv.stream->name, table->column[needed[k]], t->csv.n_columns, t->csv.column[0], table->name);
    return OK;
}

static Status entries_find(Mimic *m, int entry[N_TABLES], int *found, Err *err) {
    Status status = OK;
    *found = 0;
    for (int k = 0; k < N_TABLES && !status; k++) {
        m->im.report->table[k] = (ReportTable){.name = tables[k].name};
        entry[k] = -1;
        if (tables[k].read == note_row && !m->im.options->notes) continue;
        status = import_table_find(&m->im, tables[k].name, &entry[k], err);
        if (!status && entry[k] < 0 && tables[k].also)
            status = import_table_find(&m->im, tables[k].also, &entry[k], err);
        *found += entry[k] >= 0;
        if (!strcmp(tables[k].name, "patients")) m->has_patients = entry[k] >= 0;
        if (!strcmp(tables[k].name, "admissions")) m->has_stays = entry[k] >= 0;
        if (!strcmp(tables[k].name, "transfers")) m->has_transfers = entry[k] >= 0;
    }
    return status;
}

/* Names of tables that are not there, and of tables that no step reads. */
static void others_list(Mimic *m, const int entry[N_TABLES]) {
    static const char *const dictionaries[] = {"license",         "d_labitems",       "d_items",
                                               "d_icd_diagnoses", "d_icd_procedures", "d_hcpcs"};
    enum { N_DICTIONARIES = sizeof dictionaries / sizeof *dictionaries };
    const char *known[2 * N_TABLES + N_DICTIONARIES];
    char text[1024] = "";
    int n_known = N_DICTIONARIES;
    memcpy(known, dictionaries, sizeof dictionaries);
    for (int k = 0; k < N_TABLES; k++) {
        size_t n = strlen(text);
        if (tables[k].read == note_row && !m->im.options->notes) continue;
        known[n_known++] = tables[k].name;
        if (tables[k].also) known[n_known++] = tables[k].also;
        if (entry[k] < 0) snprintf(text + n, sizeof text - n, "%s%s", n ? ", " : "", tables[k].name);
    }
    m->im.report->missing = xstrdup(text);
    import_tables_unused(&m->im, known, n_known);
}

Status mimic_read_tables(Mimic *m, Err *err) {
    Import *im = &m->im;
    int entry[N_TABLES], found;
    int64_t bytes = 0;
    im->report->n_tables = N_TABLES;
    Status status = entries_find(m, entry, &found, err);
    if (status) return status;
    others_list(m, entry);
    if (!found)
        return err_set(err, ERR_FORMAT,
                       "%s holds no table of MIMIC-IV (patients.csv, admissions.csv.gz, ... were expected, there or in "
                       "hosp/ and icu/; found: %.300s)",
                       im->options->path, *im->report->unused ? im->report->unused : "nothing");
    for (int k = 0; k < N_TABLES; k++) bytes += entry[k] >= 0 ? im->archive.entry[entry[k]].size : 0;
    progress_open(&im->progress, im->options->progress, "read tables", "MiB", bytes >> 20);
    for (int k = 0; k < N_TABLES && !status; k++)
        if (entry[k] >= 0)
            status = import_table_read(im, k, entry[k], &tables[k], tables[k].column, COL_COUNT, columns_check,
                                       row_read, err);
    progress_close(&im->progress, im->bytes_done >> 20);
    return status ? status : import_errors_judge(im, err);
}
