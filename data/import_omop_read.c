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
};
/* clang-format on */
enum { N_TABLES = sizeof tables / sizeof *tables };

/* ---- keys -------------------------------------------------------------------------------------------------------- */

static uint32_t key_probe(const KeyTable *t, const CodeKey *k) {
    uint64_t h = philox_mix(philox_mix((uint64_t)k->concept, (uint64_t)k->value_concept),
                            (uint64_t)k->text << 24 | (uint64_t)k->role << 16 | (uint64_t)k->kind << 8 | k->table);
    uint32_t mask = t->n_slots - 1, i = (uint32_t)h & mask;
    for (; t->slot[i] != INTERN_NONE; i = (i + 1) & mask) {
        const CodeKey *x = &t->key[t->slot[i]];
        if (x->concept == k->concept && x->value_concept == k->value_concept && x->text == k->text &&
            x->role == k->role && x->kind == k->kind && x->table == k->table)
            break;
    }
    return i;
}

uint32_t key_add(KeyTable *t, const CodeKey *key) {
    if (t->n == t->capacity) {
        t->capacity = t->capacity ? 2 * t->capacity : 256;
        t->key = xrealloc(t->key, t->capacity * sizeof *t->key);
        t->n_slots = 2 * t->capacity;
        t->slot = xrealloc(t->slot, t->n_slots * sizeof *t->slot);
        memset(t->slot, 0xff, t->n_slots * sizeof *t->slot);
        for (uint32_t i = 0; i < t->n; i++) t->slot[key_probe(t, &t->key[i])] = i;
        t->bytes = t->capacity * (sizeof *t->key + 2 * sizeof *t->slot);
    }
    uint32_t i = key_probe(t, key);
    if (t->slot[i] == INTERN_NONE) {
        t->slot[i] = t->n;
        t->key[t->n++] = *key;
    }
    return t->slot[i];
}

static int compare_i64(int64_t a, int64_t b) { return a < b ? -1 : a > b; }

/* By content, since ids depend on the order of arrival. */
static int key_compare(const Omop *o, uint32_t a, uint32_t b) {
    if (a == b) return 0;
    if (a == INTERN_NONE || b == INTERN_NONE) return a == INTERN_NONE ? -1 : 1;
    const CodeKey *x = &o->keys.key[a], *y = &o->keys.key[b];
    int c = compare_i64(x->concept, y->concept);
    if (!c) c = compare_i64(x->value_concept, y->value_concept);
    if (!c && x->text != y->text)
        c = x->text == INTERN_NONE   ? -1
            : y->text == INTERN_NONE ? 1
                                     : strcmp(o->texts.item[x->text], o->texts.item[y->text]);
    return c;
}

int stage_compare(const void *a, const void *b, void *omop) {
    const StageRow *x = a, *y = b;
    int c = compare_i64(x->person, y->person);
    if (!c) c = (int)x->stage - y->stage;
    if (!c && x->stage == STAGE_CLINICAL)
        return compare_i64(x->start, y->start); /* among equals the order does not show */
    if (!c) c = compare_i64(x->visit, y->visit);
    if (!c) c = compare_i64(x->start, y->start);
    if (c) return c;
    if (x->stage == STAGE_PERSON) {
        c = key_compare(omop, (uint32_t)(x->end >> 32), (uint32_t)(y->end >> 32));
        if (!c) c = key_compare(omop, (uint32_t)x->end, (uint32_t)y->end);
    } else {
        c = compare_i64(x->end, y->end);
    }
    if (!c) c = (int)x->start_precision - y->start_precision;
    if (!c) c = (int)x->end_precision - y->end_precision;
    return c ? c : key_compare(omop, x->key, y->key);
}

/* ---- one row ----------------------------------------------------------------------------------------------------- */

typedef struct {
    Omop *o;
    Csv csv;
    const SourceTable *source;
    int table, bound[COL_COUNT];
    int64_t row;
} RowReader;

static const char *field(const RowReader *r, ColumnRole role) {
    return r->bound[role] < 0 ? "" : r->csv.field[r->bound[role]];
}

static void count(RowReader *r, ReportReason reason) { import_report_count(r->o->report, r->table, reason, r->row); }

static int drop(RowReader *r, ReportReason reason) {
    count(r, reason);
    return 0;
}

/* A concept or visit id: 0 when empty, negative or unreadable. */
static int64_t id_read(RowReader *r, ColumnRole role) {
    int64_t id;
    int got = field_int(field(r, role), &id);
    if (got < 0) count(r, NOTE_BAD_ID);
    return got > 0 && id > 0 ? id : 0;
}

/* Source text fit for a code: no control characters, blanks trimmed, at most 180 bytes; INTERN_NONE when empty. */
static uint32_t text_add(Omop *o, const char *s) {
    char text[181];
    while (*s == ' ') s++;
    size_t n = utf8_cut(s, sizeof text - 1);
    for (size_t i = 0; i < n; i++) text[i] = (unsigned char)s[i] < ' ' ? ' ' : s[i];
    while (n && text[n - 1] == ' ') n--;
    text[n] = 0;
    return n ? intern_add(&o->texts, text) : INTERN_NONE;
}

/* *us from a date column and its datetime column: 1, 0 = none, -1 = unreadable. */
static int time_read(RowReader *r, ColumnRole date_role, ColumnRole datetime_role, int64_t *us, uint8_t *precision) {
    FieldTime date, datetime, *t = &datetime;
    int has_date = field_time(field(r, date_role), &date), has_time = field_time(field(r, datetime_role), &datetime);
    if (has_time > 0) {
        if (datetime.zone) count(r, NOTE_TIME_ZONE);
        int64_t day = day_of(datetime.us);
        if (has_date > 0 && day_of(date.us) != day) {
            count(r, NOTE_DATES_DIFFER);
            if (date.us > datetime.us) t = &date;
        }
        if (date_role == COL_DATE && t->midnight) count(r, NOTE_MIDNIGHT);
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

static void day_count(Omop *o, int64_t us) {
    int64_t day = day_of(us) - DAY_FIRST;
    if (day >= 0 && day < DAY_COUNT && o->day_rows[day] < UINT32_MAX) o->day_rows[day]++;
}

/* Start of the row, or drops it. */
static int start_read(RowReader *r, StageRow *s) {
    int got = time_read(r, COL_DATE, COL_DATETIME, &s->start, &s->start_precision);
    if (got <= 0) return drop(r, got ? DROP_BAD_DATE : DROP_NO_DATE);
    int64_t clock;
    if (s->start_precision == PRECISION_DAY && r->bound[COL_CLOCK] >= 0 &&
        field_clock(field(r, COL_CLOCK), &clock) > 0 && clock) {
        s->start += clock;
        s->start_precision = PRECISION_MINUTE;
    }
    if (date_is_placeholder(s->start)) return drop(r, DROP_PLACEHOLDER_DATE);
    day_count(r->o, s->start);
    return 1;
}

static void end_read(RowReader *r, StageRow *s) {
    int got = time_read(r, COL_END_DATE, COL_END_DATETIME, &s->end, &s->end_precision);
    if (got > 0 && !date_is_placeholder(s->end)) {
        day_count(r->o, s->end);
    } else {
        s->end = TIME_NONE;
        s->end_precision = PRECISION_NONE;
    }
}

/* A code key from a concept, or from its source concept where it is not mapped, or from source text. */
static uint32_t key_read(RowReader *r, KeyRole role, ColumnRole concept, ColumnRole source, ColumnRole text) {
    CodeKey k = {
        .role = (uint8_t)role, .kind = (uint8_t)r->source->kind, .table = (uint8_t)r->table, .text = INTERN_NONE};
    if (role != KEY_CLINICAL) k.table = 0;
    k.concept = id_read(r, concept);
    if (!k.concept && (k.concept = id_read(r, source)) && role == KEY_CLINICAL) count(r, NOTE_SOURCE_CONCEPT);
    if (k.concept) {
        k.table = 0;
    } else if (text < COL_COUNT) {
        k.text = text_add(r->o, field(r, text));
        if (k.text == INTERN_NONE && role == KEY_CLINICAL) return INTERN_NONE;
        if (role == KEY_CLINICAL) count(r, NOTE_SOURCE_TEXT);
    }
    return key_add(&r->o->keys, &k);
}

static int person_row(RowReader *r, StageRow *s) {
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
        if (birth.zone) count(r, NOTE_TIME_ZONE);
    } else if (has_year > 0 && year >= 1 && year <= 9999) {
        int has_month = field_int(field(r, COL_MONTH), &month) > 0 && month >= 1 && month <= 12;
        int has_day = has_month && field_int(field(r, COL_DAY), &day) > 0 && day >= 1 && day <= 31;
        if (!has_day) count(r, NOTE_BIRTH_YEAR_ONLY);
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

static int period_row(RowReader *r, StageRow *s) {
    end_read(r, s);
    if (s->end == TIME_NONE) return drop(r, DROP_NO_DATE);
    if (s->end > r->o->last_period_end) r->o->last_period_end = s->end;
    if (time_read(r, COL_DATE, COL_DATETIME, &s->start, &s->start_precision) <= 0) s->start = s->end;
    return 1;
}

static int visit_row(RowReader *r, StageRow *s) {
    if (!start_read(r, s)) return 0;
    end_read(r, s);
    s->key = key_read(r, s->stage == STAGE_VISIT ? KEY_VISIT : KEY_DETAIL, COL_CONCEPT, COL_SOURCE_CONCEPT, COL_COUNT);
    return 1;
}

/* OMOP's concepts of operators; NULL means =. */
static int operator_read(RowReader *r) {
    switch (id_read(r, COL_OPERATOR)) {
    case 0:
    case 4172703: return COMPARE_EQ;
    case 4171756: return COMPARE_LT;
    case 4171754: return COMPARE_LE;
    case 4171755: return COMPARE_GE;
    case 4172704: return COMPARE_GT;
    default: count(r, NOTE_BAD_OPERATOR); return COMPARE_EQ;
    }
}

static void unit_read(RowReader *r, StageRow *s) {
    int64_t id = 0;
    int given = field_int(field(r, COL_UNIT), &id) > 0;
    CodeKey k = {.role = KEY_UNIT, .concept = id > 0 ? id : 0, .text = INTERN_NONE};
    if (!k.concept) {
        k.text = text_add(r->o, field(r, COL_UNIT_TEXT));
        if (k.text == INTERN_NONE && !given) { /* NULL: no unit; 0: there is one, nobody knows which */
            count(r, NOTE_NO_UNIT);
            return;
        }
        count(r, NOTE_UNMAPPED_UNIT);
    }
    s->unit = key_add(&r->o->keys, &k);
}

static void value_read(RowReader *r, StageRow *s) {
    const char *number = field(r, COL_VALUE), *text = field(r, COL_VALUE_TEXT);
    int from_text = COMPARE_EQ, got = field_number(number, &s->value);
    s->comparator = (uint8_t)operator_read(r);
    if (got < 0 && (got = field_limit(number, &s->value, &from_text)) < 0) count(r, NOTE_BAD_NUMBER);
    if (got <= 0 && id_read(r, COL_VALUE_CONCEPT) == 0 && *text) {
        if (r->source->kind == KIND_LAB && (got = field_limit(text, &s->value, &from_text)) > 0)
            count(r, NOTE_NUMBER_FROM_TEXT);
        else if (got != 0 || r->source->kind != KIND_LAB) count(r, NOTE_TEXT_VALUE);
    }
    if (got <= 0) {
        s->value = NAN;
        s->comparator = COMPARE_EQ;
        return;
    }
    if (from_text != COMPARE_EQ) s->comparator = (uint8_t)from_text;
    if (s->comparator != COMPARE_EQ) count(r, NOTE_LIMIT);
    if (r->bound[COL_UNIT] >= 0 || r->bound[COL_UNIT_TEXT] >= 0) unit_read(r, s);
}

/* Types and states of a condition row that say it was known when it was written, not only when the stay was coded. */
static int known_on_admission(RowReader *r) {
    static const int64_t known[] = {38000245, 32840, /* EHR problem list */
                                    32890,    32901,   32907,
                                    4203942,  42894222}; /* admission diagnoses, chief complaint */
    int64_t type = id_read(r, COL_TYPE), status = id_read(r, COL_STATUS);
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (type == known[i] || status == known[i]) return 1;
    return 0;
}

static int clinical_row(RowReader *r, StageRow *s) {
    if (!start_read(r, s)) return 0;
    s->key = key_read(r, KEY_CLINICAL, COL_CONCEPT, COL_SOURCE_CONCEPT, COL_SOURCE_TEXT);
    if (s->key == INTERN_NONE) return drop(r, DROP_NO_CODE);
    if (r->source->kind == KIND_DIAGNOSIS && known_on_admission(r)) s->flags |= ROW_ON_ADMISSION;
    if (r->source->column[COL_VALUE]) value_read(r, s);
    int64_t value_concept = isnan(s->value) ? id_read(r, COL_VALUE_CONCEPT) : 0;
    if (value_concept) {
        CodeKey k = r->o->keys.key[s->key];
        k.value_concept = value_concept;
        s->key = key_add(&r->o->keys, &k);
    }
    return 1;
}

static Status row_stage(RowReader *r, Err *err) {
    Omop *o = r->o;
    StageRow s = {.stage = (uint8_t)r->source->stage,
                  .table = (uint8_t)r->table,
                  .row = (uint32_t)r->row,
                  .key = INTERN_NONE,
                  .unit = INTERN_NONE,
                  .value = NAN,
                  .end = TIME_NONE,
                  .end_precision = PRECISION_NONE};
    if (field_int(field(r, COL_PERSON), &s.person) <= 0) return drop(r, DROP_PERSON_ID), OK;
    int keep;
    s.visit = id_read(r, COL_VISIT);
    switch (s.stage) {
    case STAGE_PERSON: keep = person_row(r, &s); break;
    case STAGE_PERIOD: keep = period_row(r, &s); break;
    case STAGE_DEATH: keep = start_read(r, &s); break;
    case STAGE_VISIT:
    case STAGE_DETAIL: keep = visit_row(r, &s); break;
    default: keep = clinical_row(r, &s); break;
    }
    if (!keep) return OK;
    if (sorter_full(o->stage)) {
        Status status = sorter_spill(o->stage, err);
        if (status) return status;
    }
    sorter_add(o->stage, &s);
    if (o->keys.bytes + o->texts.bytes > (size_t)o->options->memory / 4)
        return err_set(err, ERR_NOMEM,
                       "%s: %u distinct codes do not fit into a quarter of --memory %lld; give more, or check "
                       "that %s_source_value does not hold identifiers",
                       r->csv.stream->name, o->keys.n, (long long)o->options->memory, r->source->name);
    return OK;
}

/* ---- tables ------------------------------------------------------------------------------------------------------ */

static Status columns_bind(RowReader *r, Err *err) {
    const char *const *column = r->source->column;
    for (int k = 0; k < COL_COUNT; k++) r->bound[k] = column[k] ? csv_column(&r->csv, column[k]) : -1;
    const int *b = r->bound;
    const char *missing = b[COL_PERSON] < 0 ? column[COL_PERSON] : NULL;
    if (!missing && r->source->stage == STAGE_PERSON && b[COL_YEAR] < 0 && b[COL_DATETIME] < 0)
        missing = column[COL_YEAR];
    if (!missing && column[COL_DATE] && b[COL_DATE] < 0 && b[COL_DATETIME] < 0 && r->source->stage != STAGE_PERIOD)
        missing = column[COL_DATE];
    if (!missing && r->source->stage == STAGE_PERIOD && b[COL_END_DATE] < 0) missing = column[COL_END_DATE];
    if (!missing && r->source->stage == STAGE_VISIT && b[COL_VISIT] < 0) missing = column[COL_VISIT];
    if (!missing && r->source->stage == STAGE_CLINICAL && b[COL_CONCEPT] < 0 && b[COL_SOURCE_CONCEPT] < 0 &&
        b[COL_SOURCE_TEXT] < 0)
        missing = column[COL_CONCEPT];
    if (!missing) return OK;
    return err_set(err, ERR_FORMAT, "%s has no column %s (its %d columns begin with %.40s); is it an OMOP %s table?",
                   r->csv.stream->name, missing, r->csv.n_columns, r->csv.column[0], r->source->name);
}

static void counts_add(RowReader *r) {
    const CsvCounts *c = &r->csv.counts;
    ReportTable *t = &r->o->report->table[r->table];
    const struct {
        ReportReason reason;
        int64_t n;
    } bad[] = {{DROP_FIELDS, c->wrong_count},
               {DROP_TOO_LONG, c->too_long},
               {DROP_OPEN_QUOTE, c->open_quote},
               {NOTE_UTF8, c->bad_utf8},
               {NOTE_NUL, c->nul_bytes}};
    t->read = c->rows;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        t->count[bad[i].reason] += bad[i].n;
        if (bad[i].n && bad[i].reason < DROP_END) t->first_row[bad[i].reason] = c->first_bad;
    }
}

static Status table_read(Omop *o, int table, int entry, Err *err) {
    RowReader r = {.o = o, .source = &tables[table], .table = table};
    Stream stream;
    Status status = stream_open(&stream, &o->archive, entry, err);
    if (status) return status;
    status = csv_open(&r.csv, &stream, (size_t)o->options->max_line, err);
    if (!status) {
        o->report->table[table].present = 1;
        o->report->table[table].bytes = stream.size;
        status = columns_bind(&r, err);
        for (int got = 1; !status && !(status = csv_next(&r.csv, &got, err)) && got;) {
            r.row = r.csv.counts.rows;
            status = row_stage(&r, err);
            if (!(r.row & 4095)) progress_update(&o->progress, (o->bytes_done + stream.done) >> 20);
        }
        counts_add(&r);
        csv_close(&r.csv);
    }
    o->bytes_done += stream.done;
    stream_close(&stream);
    return status;
}

/* cdm_source has one row; its release date is the day the data were pulled. */
static Status source_date_read(Omop *o, Err *err) {
    int entry, got;
    Status status = omop_find_table(o, "cdm_source", &entry, err);
    if (status || entry < 0) return status;
    Stream stream;
    Csv csv;
    if ((status = stream_open(&stream, &o->archive, entry, err))) return status;
    status = csv_open(&csv, &stream, (size_t)o->options->max_line, err);
    if (!status) {
        int column = csv_column(&csv, "source_release_date");
        FieldTime t;
        while (!status && column >= 0 && !(status = csv_next(&csv, &got, err)) && got)
            if (field_time(csv.field[column], &t) > 0 && !date_is_placeholder(t.us) && t.us > o->source_date)
                o->source_date = t.us;
        csv_close(&csv);
    }
    stream_close(&stream);
    return status;
}

/* Names of tables that no step reads. */
static void unused_list(Omop *o) {
    static const char *const others[] = {"concept", "concept_ancestor", "concept_relationship", "cdm_source"};
    char text[2048] = "", name[64];
    for (int i = 0; i < o->archive.n; i++) {
        if (!omop_table_name(o->archive.entry[i].name, name)) continue;
        int known = 0;
        for (int k = 0; k < N_TABLES; k++) known |= !strcmp(name, tables[k].name);
        for (size_t k = 0; k < sizeof others / sizeof *others; k++) known |= !strcmp(name, others[k]);
        size_t n = strlen(text);
        if (!known && n + strlen(name) + 3 < sizeof text)
            snprintf(text + n, sizeof text - n, "%s%s", n ? ", " : "", name);
    }
    o->report->unused = xstrdup(text);
}

Status omop_read_tables(Omop *o, Err *err) {
    int entry[N_TABLES], found = 0;
    int64_t bytes = 0;
    Status status = OK;
    o->report->n_tables = N_TABLES;
    for (int k = 0; k < N_TABLES && !status; k++) {
        o->report->table[k] = (ReportTable){.name = tables[k].name};
        status = omop_find_table(o, tables[k].name, &entry[k], err);
        if (status || entry[k] < 0) continue;
        found++;
        bytes += o->archive.entry[entry[k]].size;
    }
    if (status) return status;
    unused_list(o);
    if (!found)
        return err_set(err, ERR_FORMAT,
                       "%s holds no OMOP table (PERSON.csv, MEASUREMENT.csv, ... were expected; found: %.300s)",
                       o->options->path, *o->report->unused ? o->report->unused : "nothing");
    o->has_person = entry[TABLE_PERSON] >= 0;
    progress_open(&o->progress, o->options->progress, "read tables", "MiB", bytes >> 20);
    for (int k = 0; k < N_TABLES && !status; k++)
        if (entry[k] >= 0) status = table_read(o, k, entry[k], err);
    progress_close(&o->progress, o->bytes_done >> 20);
    if (!status) status = source_date_read(o, err);
    int64_t rows, errors = import_report_errors(o->report, &rows), most = o->options->max_errors;
    if (most < 0) most = rows / 100 > 100 ? rows / 100 : 100;
    if (!status && errors > most)
        status = err_set(err, ERR_FORMAT,
                         "%lld of %lld rows of %s could not be read, more than --max-errors %lld; the report names "
                         "the reasons",
                         (long long)errors, (long long)rows, o->options->path, (long long)most);
    return status;
}
