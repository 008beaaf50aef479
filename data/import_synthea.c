/* import_synthea.c - Synthea's CSV export -> events.h5.
 *
 * `tables` is the format: which column feeds which field; columns that only some releases have may be missing.  What is
 * special: ids are UUIDs; times are UTC but dates alone are on the local clock; STOP of a condition or a drug is the
 * generator's plan and not told; the generator's own scores (QALY ...) look into the future and are dropped. */
#include "data/import_stage.h"
#include <math.h>
#include <string.h>

typedef enum {
    COL_PERSON,
    COL_VISIT,
    COL_START,
    COL_STOP,
    COL_CODE,
    COL_SYSTEM,
    COL_NAME,
    COL_VALUE,
    COL_UNIT,
    COL_CATEGORY,
    COL_CLASS,
    COL_BIRTH,
    COL_DEATH,
    COL_SEX,
    COL_RACE,
    COL_ETHNICITY,
    COL_COUNT
} ColumnRole;

typedef struct {
    const char *name;
    StageKind stage;
    EventKind kind;
    const char *vocabulary, *prefix; /* vocabulary: where there is no SYSTEM column */
    const char *column[COL_COUNT];
} SourceTable;

/* clang-format off */
#define ROW(start)                                                                                                     \
    [COL_PERSON] = "PATIENT", [COL_VISIT] = "ENCOUNTER", [COL_START] = start, [COL_CODE] = "CODE",                     \
    [COL_SYSTEM] = "SYSTEM", [COL_NAME] = "DESCRIPTION"

/* Never read: names, addresses, SSN, DRIVERS, PASSPORT, LAT, LON, UDI, the UIDs of images; costs and payers. */
static const SourceTable tables[] = {
    {"patients", STAGE_PERSON, KIND_STATIC, "", "",
     {[COL_PERSON] = "Id", [COL_BIRTH] = "BIRTHDATE", [COL_DEATH] = "DEATHDATE", [COL_SEX] = "GENDER",
      [COL_RACE] = "RACE", [COL_ETHNICITY] = "ETHNICITY"}},
    {"encounters", STAGE_VISIT, KIND_OTHER, "SNOMED", "",
     {[COL_VISIT] = "Id", [COL_PERSON] = "PATIENT", [COL_START] = "START|DATE", [COL_STOP] = "STOP",
      [COL_CLASS] = "ENCOUNTERCLASS", [COL_CODE] = "CODE", [COL_NAME] = "DESCRIPTION"}},
    {"conditions", STAGE_CLINICAL, KIND_DIAGNOSIS, "SNOMED", "", {ROW("START")}},
    {"procedures", STAGE_CLINICAL, KIND_PROCEDURE, "SNOMED", "", {ROW("START|DATE")}},
    {"medications", STAGE_CLINICAL, KIND_DRUG, "RxNorm", "", {ROW("START")}},
    {"immunizations", STAGE_CLINICAL, KIND_DRUG, "CVX", "", {ROW("DATE")}},
    {"observations", STAGE_CLINICAL, KIND_LAB, "LOINC", "",
     {ROW("DATE"), [COL_VALUE] = "VALUE", [COL_UNIT] = "UNITS", [COL_CATEGORY] = "CATEGORY"}},
    {"allergies", STAGE_CLINICAL, KIND_OTHER, "SNOMED", "ALLERGY//", {ROW("START")}},
    {"careplans", STAGE_CLINICAL, KIND_OTHER, "SNOMED", "", {ROW("START")}},
    {"devices", STAGE_CLINICAL, KIND_OTHER, "SNOMED", "", {ROW("START")}},
    {"supplies", STAGE_CLINICAL, KIND_OTHER, "SNOMED", "", {ROW("DATE"), [COL_VALUE] = "QUANTITY"}},
    {"imaging_studies", STAGE_CLINICAL, KIND_PROCEDURE, "SNOMED", "",
     {[COL_PERSON] = "PATIENT", [COL_VISIT] = "ENCOUNTER", [COL_START] = "DATE", [COL_CODE] = "PROCEDURE_CODE"}},
};
/* clang-format on */
enum { N_TABLES = sizeof tables / sizeof *tables, TABLE_PATIENTS = 0, TABLE_ENCOUNTERS = 1, ANSWER_MAX = 150 };

static const SourceTable *source_of(const TableReader *r) { return r->source; }
static const char *field(const TableReader *r, ColumnRole role) { return table_field(r, (int)role); }

/* 1 = read, 0 = empty, -1 = unreadable, told in UTC when there is a time of day. */
static int time_read(const TableReader *r, ColumnRole role, int64_t *us, uint8_t *precision) {
    FieldTime t;
    int got = field_time(field(r, role), &t);
    if (got <= 0) return got;
    *precision = (uint8_t)t.precision;
    *us = t.precision == PRECISION_DAY ? day_of(t.us) * US_PER_DAY : t.us - t.offset_min * US_PER_MINUTE;
    return 1;
}

/* 0 = the row is dropped. */
static int start_read(TableReader *r, StageRow *s) {
    int got = time_read(r, COL_START, &s->start, &s->start_precision);
    ReportReason why = got < 0                         ? DROP_BAD_DATE
                       : !got                          ? DROP_NO_DATE
                       : date_is_placeholder(s->start) ? DROP_PLACEHOLDER_DATE
                                                       : DROP_END;
    if (why == DROP_END) import_day_count(r->im, s->start);
    else table_count(r, why);
    return why == DROP_END;
}

static Status patient_row(TableReader *r, StageRow *s, Err *err) {
    uint32_t race, ethnicity;
    Status status = import_person_code(r->im, KEY_SEX, field(r, COL_SEX), &s->key, err);
    if (!status) status = import_person_code(r->im, KEY_RACE, field(r, COL_RACE), &race, err);
    if (!status) status = import_person_code(r->im, KEY_ETHNICITY, field(r, COL_ETHNICITY), &ethnicity, err);
    if (status) return status;
    if (time_read(r, COL_BIRTH, &s->start, &s->start_precision) <= 0) s->start = TIME_NONE;
    s->end = (int64_t)race << 32 | ethnicity;
    if ((status = import_stage(r->im, s, err))) return status;

    StageRow death = *s;
    death.stage = STAGE_DEATH;
    death.flags = ROW_MORE;
    death.end = TIME_NONE;
    death.key = INTERN_NONE;
    int got = time_read(r, COL_DEATH, &death.start, &death.start_precision);
    if (!got) return OK;
    if (got < 0 || date_is_placeholder(death.start)) {
        table_count(r, NOTE_DEAD_UNDATED);
        return OK;
    }
    import_day_count(r->im, death.start);
    return import_stage(r->im, &death, err);
}

/* Key of the row's code; INTERN_NONE when it has none. */
static Status code_read(TableReader *r, int kind, uint32_t *key, char code[256], Err *err) {
    const SourceTable *t = source_of(r);
    const char *system = field(r, COL_SYSTEM), *text = field(r, COL_CODE);
    const char *vocabulary = *system ? import_vocabulary(system, NULL) : t->vocabulary;
    *key = INTERN_NONE;
    while (*text == ' ') text++;
    if (!*text) return OK;
    if (!vocabulary) {
        table_count(r, NOTE_NO_SYSTEM);
        vocabulary = system;
    }
    snprintf(code, 256, "%s%.*s//%.*s", t->prefix, (int)utf8_cut(vocabulary, 40), vocabulary, (int)utf8_cut(text, 100),
             text);
    return import_code(r->im, KEY_CLINICAL, kind, code, field(r, COL_NAME), 0, key, err);
}

static Status visit_row(TableReader *r, StageRow *s, Err *err) {
    char code[256];
    if (!start_read(r, s)) return OK;
    int got = time_read(r, COL_STOP, &s->end, &s->end_precision);
    if (got <= 0 || date_is_placeholder(s->end)) s->end = TIME_NONE;
    else import_day_count(r->im, s->end);
    Status status = import_visit_class(r->im, field(r, COL_CLASS), "", &s->key, err);
    if (!status) status = import_stage(r->im, s, err);
    if (status) return status;
    /* What kind of encounter it is, known as it begins. */
    StageRow type = *s;
    type.stage = STAGE_CLINICAL;
    type.flags = ROW_MORE;
    type.end = TIME_NONE;
    status = code_read(r, KIND_OTHER, &type.key, code, err);
    return status || type.key == INTERN_NONE ? status : import_stage(r->im, &type, err);
}

/* A number, or one of a few answers in words, which become part of the code. */
static Status value_read(TableReader *r, StageRow *s, Err *err) {
    const char *text = field(r, COL_VALUE);
    int comparator, got = field_limit(text, &s->value, &comparator);
    if (got > 0) {
        s->comparator = (uint8_t)comparator;
        if (comparator != COMPARE_EQ) table_count(r, NOTE_LIMIT);
        if (r->bound[COL_UNIT] < 0) return OK;
        if (!*field(r, COL_UNIT)) table_count(r, NOTE_NO_UNIT);
        return import_unit(r->im, field(r, COL_UNIT), &s->unit, err);
    }
    s->value = NAN;
    if (!*text) {
        table_count(r, NOTE_VALUE_ABSENT);
        return OK;
    }
    if (strlen(text) > ANSWER_MAX) {
        table_count(r, NOTE_TEXT_VALUE);
        return OK;
    }
    s->key = import_words(r->im, s->key, text);
    return OK;
}

static Status clinical_row(TableReader *r, StageRow *s, Err *err) {
    static const char *const scores[] = {"QALY", "DALY", "QOLS"};
    const SourceTable *t = source_of(r);
    const char *category = field(r, COL_CATEGORY);
    char code[256];
    for (size_t i = 0; i < sizeof scores / sizeof *scores && t->kind == KIND_LAB; i++)
        if (!strcmp(field(r, COL_CODE), scores[i])) return table_count(r, DROP_GENERATOR), OK;
    if (!start_read(r, s)) return OK;
    int lab = !strcasecmp(category, "laboratory"), kind = (int)t->kind;
    if (r->bound[COL_CATEGORY] >= 0 && !lab && strcasecmp(category, "vital-signs")) kind = KIND_OTHER;
    if (lab) s->flags |= ROW_LAG;
    Status status = code_read(r, kind, &s->key, code, err);
    if (status) return status;
    if (s->key == INTERN_NONE) return table_count(r, DROP_NO_CODE), OK;
    if (import_asks_identity(code)) return table_count(r, DROP_IDENTITY), OK;
    if (r->bound[COL_VALUE] >= 0) status = value_read(r, s, err);
    return status ? status : import_stage(r->im, s, err);
}

static Status row_stage(TableReader *r, Err *err) {
    const SourceTable *t = source_of(r);
    StageRow s = {.stage = (uint8_t)t->stage,
                  .table = (uint8_t)r->table,
                  .row = (uint32_t)r->row,
                  .key = INTERN_NONE,
                  .unit = INTERN_NONE,
                  .value = NAN,
                  .end = TIME_NONE,
                  .end_precision = PRECISION_NONE};
    const char *person = field(r, COL_PERSON), *visit = field(r, COL_VISIT);
    if (!*person) return table_count(r, DROP_NO_SUBJECT), OK;
    s.person = import_id_hash(person, &s.person_check);
    if (*visit) s.visit = import_id_hash(visit, NULL);
    switch (t->stage) {
    case STAGE_PERSON: return patient_row(r, &s, err);
    case STAGE_VISIT: return visit_row(r, &s, err);
    default: return clinical_row(r, &s, err);
    }
}

static Status columns_check(TableReader *r, Err *err) {
    static const ColumnRole needed[][4] = {[STAGE_PERSON] = {COL_PERSON, COL_BIRTH, COL_COUNT},
                                           [STAGE_VISIT] = {COL_PERSON, COL_VISIT, COL_START, COL_COUNT},
                                           [STAGE_CLINICAL] = {COL_PERSON, COL_START, COL_CODE, COL_COUNT}};
    const SourceTable *t = source_of(r);
    for (const ColumnRole *c = needed[t->stage]; *c != COL_COUNT; c++)
        if (r->bound[*c] < 0)
            return err_set(err, ERR_FORMAT,
                           "%s has no column %s (its %d columns begin with %.40s); is it Synthea's %s table?",
                           r->csv.stream->name, t->column[*c], r->csv.n_columns, r->csv.column[0], t->name);
    return OK;
}

static Status synthea_run(Import *im, Err *err) {
    const char *known[N_TABLES];
    int entry[N_TABLES], found = 0;
    int64_t bytes = 0;
    Status status = import_zone(im, 12 * 60, 14 * 60, err);
    im->report->n_tables = N_TABLES;
    for (int k = 0; k < N_TABLES && !status; k++) {
        known[k] = tables[k].name;
        im->report->table[k] = (ReportTable){.name = tables[k].name};
        status = import_table_find(im, tables[k].name, &entry[k], err);
        if (status || entry[k] < 0) continue;
        found++;
        bytes += im->archive.entry[entry[k]].size;
    }
    if (status) return status;
    import_tables_unused(im, known, N_TABLES);
    if (!found)
        return err_set(err, ERR_FORMAT,
                       "%s holds no Synthea table (patients.csv, encounters.csv, ... were expected; "
                       "found: %.300s)",
                       im->options->path, *im->report->unused ? im->report->unused : "nothing");
    im->has_person = entry[TABLE_PATIENTS] >= 0;
    im->table_visit = TABLE_ENCOUNTERS;
    status = import_writer_open(im, err);
    progress_open(&im->progress, im->options->progress, "read tables", "MiB", bytes >> 20);
    for (int k = 0; k < N_TABLES && !status; k++)
        if (entry[k] >= 0)
            status = import_table_read(im, k, entry[k], &tables[k], tables[k].column, COL_COUNT, columns_check,
                                       row_stage, err);
    progress_close(&im->progress, im->bytes_done >> 20);
    if (!status) status = import_errors_judge(im, err);
    if (!status) status = import_choose_extract(im, err);
    if (!status) status = import_write_people(im, err);
    return status ? status : import_finish(im, err);
}

Status import_synthea(const ImportOptions *options, ImportReport *r, Err *err) {
    Import im;
    Status status = import_begin(&im, options, r, "synthea", sizeof(StageRow), err);
    if (status) return status;
    status = synthea_run(&im, err);
    import_end(&im);
    return status;
}
