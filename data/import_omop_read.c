/* import_omop_read.c - the first pass: every row of every table becomes a StageRow or is dropped for a reason.
 *
 * `tables` below is the format: which column of which table feeds which field of an event.  Columns are bound by name
 * in any case; one that is missing reads as empty. */
#include "data/csv.h"
#include "data/import_omop.h"
#include "kernels/philox.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef enum {
    COL_PERSON,
    COL_CONCEPT,
    COL_SOURCE_CONCEPT,
    COL_SOURCE_TEXT,
    COL_DATE,
    COL_DATETIME,
    COL_CLOCK,
    COL_END_DATE,
    COL_END_DATETIME,
    COL_VISIT,
    COL_TYPE,
    COL_STATUS,
    COL_VALUE,
    COL_VALUE_CONCEPT,
    COL_VALUE_TEXT,
    COL_OPERATOR,
    COL_UNIT,
    COL_UNIT_TEXT,
    COL_YEAR,
    COL_MONTH,
    COL_DAY,
    COL_RACE,
    COL_RACE_SOURCE,
    COL_ETHNICITY,
    COL_ETHNICITY_SOURCE,
    COL_SITE,
    COL_TEXT,
    COL_COUNT
} ColumnRole;

typedef struct {
    const char *name;
    StageKind stage;
    EventKind kind;
    const char *column[COL_COUNT];
} SourceTable;

/* clang-format off */
#define CODED(table)                                                                                                   \
    [COL_PERSON] = "person_id", [COL_VISIT] = "visit_occurrence_id", [COL_CONCEPT] = table "_concept_id",              \
    [COL_SOURCE_CONCEPT] = table "_source_concept_id", [COL_SOURCE_TEXT] = table "_source_value"

/* In the order of TABLE_PERSON ... in import_omop.h. */
static const SourceTable tables[] = {
    {"person", STAGE_PERSON, KIND_STATIC,
     {[COL_PERSON] = "person_id", [COL_YEAR] = "year_of_birth", [COL_MONTH] = "month_of_birth",
      [COL_DAY] = "day_of_birth", [COL_DATETIME] = "birth_datetime", [COL_CONCEPT] = "gender_concept_id",
      [COL_SOURCE_CONCEPT] = "gender_source_concept_id", [COL_SOURCE_TEXT] = "gender_source_value",
      [COL_RACE] = "race_concept_id", [COL_RACE_SOURCE] = "race_source_concept_id",
      [COL_ETHNICITY] = "ethnicity_concept_id", [COL_ETHNICITY_SOURCE] = "ethnicity_source_concept_id",
      [COL_SITE] = "care_site_id"}},
    {"observation_period", STAGE_PERIOD, KIND_OTHER,
     {[COL_PERSON] = "person_id", [COL_DATE] = "observation_period_start_date",
      [COL_END_DATE] = "observation_period_end_date"}},
    {"death", STAGE_DEATH, KIND_DEATH,
     {[COL_PERSON] = "person_id", [COL_DATE] = "death_date", [COL_DATETIME] = "death_datetime"}},
    {"visit_occurrence", STAGE_VISIT, KIND_VISIT_START,
     {CODED("visit"), [COL_DATE] = "visit_start_date", [COL_DATETIME] = "visit_start_datetime",
      [COL_END_DATE] = "visit_end_date", [COL_END_DATETIME] = "visit_end_datetime"}},
    {"visit_detail", STAGE_DETAIL, KIND_TRANSFER,
     {CODED("visit_detail"), [COL_DATE] = "visit_detail_start_date", [COL_DATETIME] = "visit_detail_start_datetime",
      [COL_END_DATE] = "visit_detail_end_date", [COL_END_DATETIME] = "visit_detail_end_datetime"}},
    {"condition_occurrence", STAGE_CLINICAL, KIND_DIAGNOSIS,
     {CODED("condition"), [COL_DATE] = "condition_start_date", [COL_DATETIME] = "condition_start_datetime",
      [COL_TYPE] = "condition_type_concept_id", [COL_STATUS] = "condition_status_concept_id"}},
    {"procedure_occurrence", STAGE_CLINICAL, KIND_PROCEDURE,
     {CODED("procedure"), [COL_DATE] = "procedure_date", [COL_DATETIME] = "procedure_datetime"}},
    {"drug_exposure", STAGE_CLINICAL, KIND_DRUG,
     {CODED("drug"), [COL_DATE] = "drug_exposure_start_date", [COL_DATETIME] = "drug_exposure_start_datetime"}},
    {"measurement", STAGE_CLINICAL, KIND_LAB,
     {CODED("measurement"), [COL_DATE] = "measurement_date", [COL_DATETIME] = "measurement_datetime",
      [COL_CLOCK] = "measurement_time", [COL_VALUE] = "value_as_number", [COL_VALUE_CONCEPT] = "value_as_concept_id",
      [COL_VALUE_TEXT] = "value_source_value", [COL_OPERATOR] = "operator_concept_id", [COL_UNIT] = "unit_concept_id",
      [COL_UNIT_TEXT] = "unit_source_value"}},
    {"observation", STAGE_CLINICAL, KIND_OTHER,
     {CODED("observation"), [COL_DATE] = "observation_date", [COL_DATETIME] = "observation_datetime",
      [COL_VALUE] = "value_as_number", [COL_VALUE_CONCEPT] = "value_as_concept_id",
      [COL_VALUE_TEXT] = "value_as_string", [COL_UNIT] = "unit_concept_id", [COL_UNIT_TEXT] = "unit_source_value"}},
    {"device_exposure", STAGE_CLINICAL, KIND_OTHER,
     {CODED("device"), [COL_DATE] = "device_exposure_start_date", [COL_DATETIME] = "device_exposure_start_datetime",
      [COL_VALUE] = "quantity"}},
    /* The last, read with --notes only.  Its title is free text, too, and is not read. */
    {"note", STAGE_CLINICAL, KIND_OTHER,
     {[COL_PERSON] = "person_id", [COL_VISIT] = "visit_occurrence_id", [COL_CONCEPT] = "note_class_concept_id",
      [COL_SOURCE_CONCEPT] = "note_type_concept_id", [COL_DATE] = "note_date", [COL_DATETIME] = "note_datetime",
      [COL_TEXT] = "note_text"}},
};
/* clang-format on */
enum { N_TABLES = sizeof tables / sizeof *tables, TABLE_NOTE = N_TABLES - 1 };

/* ---- one row ----------------------------------------------------------------------------------------------------- */

static const char *field(const TableReader *r, ColumnRole role) { return table_field(r, (int)role); }

static const SourceTable *source_of(const TableReader *r) { return r->source; }

static int drop(TableReader *r, ReportReason reason) {
    table_count(r, reason);
    return 0;
}

/* A concept or visit id: 0 when empty, negative or unreadable. */
static int64_t id_read(TableReader *r, ColumnRole role) {
    int64_t id;
    int got = field_int(field(r, role), &id);
    if (got < 0) table_count(r, NOTE_BAD_ID);
    return got > 0 && id > 0 ? id : 0;
}

/* *us from a date column and its datetime column: 1, 0 = none, -1 = unreadable. */
static int time_read(TableReader *r, ColumnRole date_role, ColumnRole datetime_role, int64_t *us, uint8_t *precision) {
    FieldTime date, datetime, *t = &datetime;
    int has_date = field_time(field(r, date_role), &date), has_time = field_time(field(r, datetime_role), &datetime);
    if (has_time > 0) {
        if (datetime.zone) table_count(r, NOTE_TIME_ZONE);
        int64_t day = day_of(datetime.us);
        if (has_date > 0 && day_of(date.us) != day) {
            table_count(r, NOTE_DATES_DIFFER);
            if (date.us > datetime.us) t = &date;
        }
        if (date_role == COL_DATE && t->midnight) table_count(r, NOTE_MIDNIGHT);
    } else if (has_date > 0) {
        t = &date;
    } else {
        return has_date < 0 || has_time < 0 ? -1 : 0;
    }
    *us = t->us;
    *precision = (uint8_t)t->precision;
    if (t->precision == PRECISION_DAY) *us = day_of(*us) * US_PER_DAY;
    return 1;
}

/* Start of the row, or drops it. */
static int start_read(TableReader *r, StageRow *s) {
    int got = time_read(r, COL_DATE, COL_DATETIME, &s->start, &s->start_precision);
    if (got <= 0) return drop(r, got ? DROP_BAD_DATE : DROP_NO_DATE);
    int64_t clock;
    if (s->start_precision == PRECISION_DAY && r->bound[COL_CLOCK] >= 0 &&
        field_clock(field(r, COL_CLOCK), &clock) > 0 && clock) {
        s->start += clock;
        s->start_precision = PRECISION_MINUTE;
    }
    if (date_is_placeholder(s->start)) return drop(r, DROP_PLACEHOLDER_DATE);
    import_day_count(r->im, s->start);
    return 1;
}

static void end_read(TableReader *r, StageRow *s) {
    int got = time_read(r, COL_END_DATE, COL_END_DATETIME, &s->end, &s->end_precision);
    if (got > 0 && !date_is_placeholder(s->end)) {
        import_day_count(r->im, s->end);
    } else {
        s->end = TIME_NONE;
        s->end_precision = PRECISION_NONE;
    }
}

/* A code key from a concept, or from its source concept where it is not mapped, or from source text. */
static uint32_t key_read(TableReader *r, KeyRole role, ColumnRole concept, ColumnRole source, ColumnRole text) {
    CodeKey k = {
        .role = (uint8_t)role, .kind = (uint8_t)source_of(r)->kind, .table = (uint8_t)r->table, .text = INTERN_NONE};
    if (role != KEY_CLINICAL) k.table = 0;
    k.concept = id_read(r, concept);
    if (!k.concept && (k.concept = id_read(r, source)) && role == KEY_CLINICAL) table_count(r, NOTE_SOURCE_CONCEPT);
    if (k.concept) {
        k.table = 0;
    } else if (text < COL_COUNT) {
        k.text = import_text_add(r->im, field(r, text));
        if (k.text == INTERN_NONE && role == KEY_CLINICAL) return INTERN_NONE;
        if (role == KEY_CLINICAL) table_count(r, NOTE_SOURCE_TEXT);
    }
    return key_add(&r->im->keys, &k);
}

static int person_row(TableReader *r, StageRow *s) {
    int64_t year = 0, month = 0, day = 0;
    FieldTime birth;
    int has_year = field_int(field(r, COL_YEAR), &year), has_time = field_time(field(r, COL_DATETIME), &birth);
    s->start = TIME_NONE;
    s->start_precision = PRECISION_DAY;
    int y = 0, mo, d, h, mi, sec;
    if (has_time > 0) time_to_civil(birth.us, &y, &mo, &d, &h, &mi, &sec);
    if (has_time > 0 && (has_year <= 0 || year == y)) {
        s->start = birth.us;
        s->start_precision = (uint8_t)birth.precision;
        if (birth.zone) table_count(r, NOTE_TIME_ZONE);
    } else if (has_year > 0 && year >= 1 && year <= 9999) {
        int has_month = field_int(field(r, COL_MONTH), &month) > 0 && month >= 1 && month <= 12;
        int has_day = has_month && field_int(field(r, COL_DAY), &day) > 0 && day >= 1 && day <= 31;
        if (!has_day) table_count(r, NOTE_BIRTH_YEAR_ONLY);
        s->start = time_from_civil((int)year, has_month ? (int)month : 1, has_day ? (int)day : 1, 0, 0, 0);
    }
    y = 0;
    if (s->start != TIME_NONE) time_to_civil(s->start, &y, &mo, &d, &h, &mi, &sec);
    if (y < 1850 || y > 2300) s->start = TIME_NONE; /* stays in the stage: its other rows are dropped with it */
    s->key = key_read(r, KEY_SEX, COL_CONCEPT, COL_SOURCE_CONCEPT, COL_SOURCE_TEXT);
    uint32_t race = key_read(r, KEY_RACE, COL_RACE, COL_RACE_SOURCE, COL_COUNT);
    uint32_t ethnicity = key_read(r, KEY_ETHNICITY, COL_ETHNICITY, COL_ETHNICITY_SOURCE, COL_COUNT);
    s->end = (int64_t)race << 32 | ethnicity;
    if (field_int(field(r, COL_SITE), &s->visit) <= 0) s->visit = 0;
    return 1;
}

static int period_row(TableReader *r, StageRow *s) {
    end_read(r, s);
    if (s->end == TIME_NONE) return drop(r, DROP_NO_DATE);
    if (s->end > r->im->last_period_end) r->im->last_period_end = s->end;
    if (time_read(r, COL_DATE, COL_DATETIME, &s->start, &s->start_precision) <= 0) s->start = s->end;
    return 1;
}

static int visit_row(TableReader *r, StageRow *s) {
    if (!start_read(r, s)) return 0;
    end_read(r, s);
    s->key = key_read(r, s->stage == STAGE_VISIT ? KEY_VISIT : KEY_DETAIL, COL_CONCEPT, COL_SOURCE_CONCEPT, COL_COUNT);
    return 1;
}

/* OMOP's concepts of operators; NULL means =. */
static int operator_read(TableReader *r) {
    switch (id_read(r, COL_OPERATOR)) {
    case 0:
    case 4172703: return COMPARE_EQ;
    case 4171756: return COMPARE_LT;
    case 4171754: return COMPARE_LE;
    case 4171755: return COMPARE_GE;
    case 4172704: return COMPARE_GT;
    default: table_count(r, NOTE_BAD_OPERATOR); return COMPARE_EQ;
    }
}

static void unit_read(TableReader *r, StageRow *s) {
    int64_t id = 0;
    int given = field_int(field(r, COL_UNIT), &id) > 0;
    CodeKey k = {.role = KEY_UNIT, .concept = id > 0 ? id : 0, .text = INTERN_NONE};
    if (!k.concept) {
        k.text = import_text_add(r->im, field(r, COL_UNIT_TEXT));
        if (k.text == INTERN_NONE && !given) { /* NULL: no unit; 0: there is one, nobody knows which */
            table_count(r, NOTE_NO_UNIT);
            return;
        }
        table_count(r, NOTE_UNMAPPED_UNIT);
    }
    s->unit = key_add(&r->im->keys, &k);
}

static void value_read(TableReader *r, StageRow *s) {
    const char *number = field(r, COL_VALUE), *text = field(r, COL_VALUE_TEXT);
    int from_text = COMPARE_EQ, got = field_number(number, &s->value);
    s->comparator = (uint8_t)operator_read(r);
    if (got < 0 && (got = field_limit(number, &s->value, &from_text)) < 0) table_count(r, NOTE_BAD_NUMBER);
    if (got <= 0 && id_read(r, COL_VALUE_CONCEPT) == 0 && *text) {
        if (source_of(r)->kind == KIND_LAB && (got = field_limit(text, &s->value, &from_text)) > 0)
            table_count(r, NOTE_NUMBER_FROM_TEXT);
        else if (got != 0 || source_of(r)->kind != KIND_LAB) table_count(r, NOTE_TEXT_VALUE);
    }
    if (got <= 0) {
        s->value = NAN;
        s->comparator = COMPARE_EQ;
        return;
    }
    if (from_text != COMPARE_EQ) s->comparator = (uint8_t)from_text;
    if (s->comparator != COMPARE_EQ) table_count(r, NOTE_LIMIT);
    if (r->bound[COL_UNIT] >= 0 || r->bound[COL_UNIT_TEXT] >= 0) unit_read(r, s);
}

/* Types and states of a condition row that say it was known when it was written, not only when the stay was coded. */
static int known_on_admission(TableReader *r) {
    static const int64_t known[] = {38000245, 32840, /* EHR problem list */
                                    32890,    32901,   32907,
                                    4203942,  42894222}; /* admission diagnoses, chief complaint */
    int64_t type = id_read(r, COL_TYPE), status = id_read(r, COL_STATUS);
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (type == known[i] || status == known[i]) return 1;
    return 0;
}

static int clinical_row(TableReader *r, StageRow *s) {
    if (!start_read(r, s)) return 0;
    s->key = key_read(r, KEY_CLINICAL, COL_CONCEPT, COL_SOURCE_CONCEPT, COL_SOURCE_TEXT);
    if (s->key == INTERN_NONE) return drop(r, DROP_NO_CODE);
    if (source_of(r)->kind == KIND_DIAGNOSIS && known_on_admission(r)) s->flags |= ROW_ON_ADMISSION;
    /* OMOP has no result time; its measurements are samples and vital signs alike. */
    if (source_of(r)->kind == KIND_LAB && r->im->options->lab_lag > 0) s->flags |= ROW_LAG;
    if (source_of(r)->column[COL_VALUE]) value_read(r, s);
    int64_t value_concept = isnan(s->value) ? id_read(r, COL_VALUE_CONCEPT) : 0;
    if (value_concept) {
        CodeKey k = r->im->keys.key[s->key];
        k.value_concept = value_concept;
        s->key = key_add(&r->im->keys, &k);
    }
    return 1;
}

/* A note: known when it is dated, its code its class. */
static int note_row(TableReader *r, StageRow *s, Err *err, Status *status) {
    const char *text = field(r, COL_TEXT);
    if (!start_read(r, s)) return 0;
    CodeKey k = {.role = KEY_CLINICAL, .kind = KIND_OTHER, .table = (uint8_t)r->table, .text = INTERN_NONE};
    k.concept = id_read(r, COL_CONCEPT);
    if (!k.concept) k.concept = id_read(r, COL_SOURCE_CONCEPT);
    if (k.concept) k.table = 0;
    else k.text = import_text_add(r->im, "UNKNOWN");
    s->key = key_add(&r->im->keys, &k);
    *status = import_note(r->im, r->table, r->row, text, strlen(text), &s->text, err);
    s->flags |= ROW_TEXT;
    return *status || s->text ? 1 : drop(r, DROP_NO_TEXT);
}

static Status row_stage(TableReader *r, Err *err) {
    StageRow s = {.stage = (uint8_t)source_of(r)->stage,
                  .table = (uint8_t)r->table,
                  .row = (uint32_t)r->row,
                  .key = INTERN_NONE,
                  .unit = INTERN_NONE,
                  .value = NAN,
                  .end = TIME_NONE,
                  .end_precision = PRECISION_NONE};
    if (field_int(field(r, COL_PERSON), &s.person) <= 0) return drop(r, DROP_PERSON_ID), OK;
    int keep;
    Status status = OK;
    s.visit = id_read(r, COL_VISIT);
    switch (s.stage) {
    case STAGE_PERSON: keep = person_row(r, &s); break;
    case STAGE_PERIOD: keep = period_row(r, &s); break;
    case STAGE_DEATH: keep = start_read(r, &s); break;
    case STAGE_VISIT:
    case STAGE_DETAIL: keep = visit_row(r, &s); break;
    default: keep = r->table == TABLE_NOTE ? note_row(r, &s, err, &status) : clinical_row(r, &s); break;
    }
    return status || !keep ? status : import_stage(r->im, &s, err);
}

/* ---- tables ------------------------------------------------------------------------------------------------------ */

static Status columns_check(TableReader *r, Err *err) {
    const char *const *column = source_of(r)->column;
    const int *b = r->bound;
    const char *missing = b[COL_PERSON] < 0 ? column[COL_PERSON] : NULL;
    if (!missing && source_of(r)->stage == STAGE_PERSON && b[COL_YEAR] < 0 && b[COL_DATETIME] < 0)
        missing = column[COL_YEAR];
    if (!missing && column[COL_DATE] && b[COL_DATE] < 0 && b[COL_DATETIME] < 0 && source_of(r)->stage != STAGE_PERIOD)
        missing = column[COL_DATE];
    if (!missing && source_of(r)->stage == STAGE_PERIOD && b[COL_END_DATE] < 0) missing = column[COL_END_DATE];
    if (!missing && source_of(r)->stage == STAGE_VISIT && b[COL_VISIT] < 0) missing = column[COL_VISIT];
    if (!missing && source_of(r)->stage == STAGE_CLINICAL && b[COL_CONCEPT] < 0 && b[COL_SOURCE_CONCEPT] < 0 &&
        b[COL_SOURCE_TEXT] < 0)
        missing = column[COL_CONCEPT];
    if (!missing && column[COL_TEXT] && b[COL_TEXT] < 0) missing = column[COL_TEXT];
    if (!missing) return OK;
    return err_set(err, ERR_FORMAT, "%s has no column %s (its %d columns begin with %.40s); is it an OMOP %s table?",
                   r->csv.stream->name, missing, r->csv.n_columns, r->csv.column[0], source_of(r)->name);
}

/* cdm_source has one row; its release date is the day the data were pulled. */
static Status source_date_read(Omop *o, Err *err) {
    int entry, got;
    Status status = import_table_find(&o->im, "cdm_source", &entry, err);
    if (status || entry < 0) return status;
    Stream stream;
    Csv csv;
    if ((status = stream_open(&stream, &o->im.archive, entry, err))) return status;
    status = csv_open(&csv, &stream, (size_t)o->im.options->max_line, err);
    if (!status) {
        int column = csv_column(&csv, "source_release_date");
        FieldTime t;
        while (!status && column >= 0 && !(status = csv_next(&csv, &got, err)) && got)
            if (field_time(csv.field[column], &t) > 0 && !date_is_placeholder(t.us) && t.us > o->im.source_date)
                o->im.source_date = t.us;
        csv_close(&csv);
    }
    stream_close(&stream);
    return status;
}

/* Names of tables that no step reads. */
static void unused_list(Omop *o) {
    const char *known[N_TABLES + 4] = {"concept", "concept_ancestor", "concept_relationship", "cdm_source"};
    int n = N_TABLES - !o->im.options->notes;
    for (int k = 0; k < n; k++) known[4 + k] = tables[k].name;
    import_tables_unused(&o->im, known, n + 4);
}

Status omop_read_tables(Omop *o, Err *err) {
    int entry[N_TABLES], found = 0;
    int64_t bytes = 0;
    Status status = OK;
    const int n = N_TABLES - !o->im.options->notes;
    o->im.report->n_tables = n;
    for (int k = 0; k < n && !status; k++) {
        o->im.report->table[k] = (ReportTable){.name = tables[k].name};
        status = import_table_find(&o->im, tables[k].name, &entry[k], err);
        if (status || entry[k] < 0) continue;
        found++;
        bytes += o->im.archive.entry[entry[k]].size;
    }
    if (status) return status;
    unused_list(o);
    if (!found)
        return err_set(err, ERR_FORMAT,
                       "%s holds no OMOP table (PERSON.csv, MEASUREMENT.csv, ... were expected; found: %.300s)",
                       o->im.options->path, *o->im.report->unused ? o->im.report->unused : "nothing");
    o->im.has_person = entry[TABLE_PERSON] >= 0;
    progress_open(&o->im.progress, o->im.options->progress, "read tables", "MiB", bytes >> 20);
    for (int k = 0; k < n && !status; k++)
        if (entry[k] >= 0)
            status = import_table_read(&o->im, k, entry[k], &tables[k], tables[k].column, COL_COUNT, columns_check,
                                       row_stage, err);
    progress_close(&o->im.progress, o->im.bytes_done >> 20);
    if (!status) status = source_date_read(o, err);
    return status ? status : import_errors_judge(&o->im, err);
}
