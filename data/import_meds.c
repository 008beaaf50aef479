/* import_meds.c - MEDS tables as CSV -> events.h5.
 *
 * scripts/meds_to_events.py writes them from a MEDS folder's parquet, and may be skipped by whoever has events in CSV:
 *   events.csv   subject_id, time_us or time (empty = static), code, numeric_value; a subject's rows stand together.
 *                If there: available_us, comparator, unit, precision, visit; observation_end_us and split, the same in
 *                all of a subject's rows
 *   codes.csv    code; if there: description, parent, kind
 *   units.csv    unit
 *   origin.csv   source, provenance: of an events file that went to MEDS and comes back
 * MEDS has one time and no word on when things were known: it is taken for both, and a midnight for a date. */
#include "data/import_stage.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef enum {
    COL_SUBJECT,
    COL_TIME_US,
    COL_TIME,
    COL_CODE,
    COL_VALUE,
    COL_AVAILABLE_US,
    COL_COMPARATOR,
    COL_UNIT,
    COL_PRECISION,
    COL_VISIT,
    COL_END_US,
    COL_SPLIT,
    COL_COUNT
} ColumnRole;

static const char *const event_columns[COL_COUNT] = {
    "subject_id", "time_us", "time",      "code",  "numeric_value",      "available_us",
    "comparator", "unit",    "precision", "visit", "observation_end_us", "split"};

/* Kinds of codes that no codes.csv tells, by how they begin; the first that fits. */
static const struct {
    const char *begins;
    EventKind kind;
} guesses[] = {{"MEDS_BIRTH", KIND_BIRTH},
               {"DOB", KIND_BIRTH},
               {"MEDS_DEATH", KIND_DEATH},
               {"DEATH", KIND_DEATH},
               {"HOSPITAL_ADMISSION", KIND_VISIT_START},
               {"ADMISSION", KIND_VISIT_START},
               {"ED_REGISTRATION", KIND_VISIT_START},
               {"VISIT//", KIND_VISIT_START},
               {"HOSPITAL_DISCHARGE", KIND_VISIT_END},
               {"DISCHARGE", KIND_VISIT_END},
               {"ED_OUT", KIND_VISIT_END},
               {"VISIT_END", KIND_VISIT_END},
               {"ICU_", KIND_TRANSFER},
               {"TRANSFER", KIND_TRANSFER},
               {"LAB", KIND_LAB},
               {"LOINC", KIND_LAB},
               {"VITAL", KIND_LAB},
               {"MEASUREMENT", KIND_LAB},
               {"DIAGNOSIS", KIND_DIAGNOSIS},
               {"CONDITION", KIND_DIAGNOSIS},
               {"ICD9CM", KIND_DIAGNOSIS},
               {"ICD10CM", KIND_DIAGNOSIS},
               {"SNOMED", KIND_DIAGNOSIS},
               {"DRG", KIND_DIAGNOSIS},
               {"PROCEDURE", KIND_PROCEDURE},
               {"ICD9Proc", KIND_PROCEDURE},
               {"ICD10PCS", KIND_PROCEDURE},
               {"CPT", KIND_PROCEDURE},
               {"HCPCS", KIND_PROCEDURE},
               {"MEDICATION", KIND_DRUG},
               {"DRUG", KIND_DRUG},
               {"INFUSION", KIND_DRUG},
               {"RxNorm", KIND_DRUG},
               {"ATC", KIND_DRUG},
               {"NDC", KIND_DRUG},
               {"CVX", KIND_DRUG}};

typedef struct {
    Import im;
    Intern coded; /* codes that codes.csv gives a kind */
    uint8_t *kind;
    uint32_t kind_room;
    int64_t subject, last, death; /* the subject at hand; us, TIME_NONE = none */
    int64_t end;
    int split, begun;
    char *source, *provenance;
} Meds;

enum { TABLE_EVENTS, TABLE_CODES, TABLE_UNITS, TABLE_ORIGIN, N_TABLES };

static const char *field(const TableReader *r, ColumnRole c) { return table_field(r, (int)c); }

static int kind_of(const Meds *m, const char *code, int has_value) {
    uint32_t i = intern_find(&m->coded, code);
    if (i != INTERN_NONE) return m->kind[i];
    for (size_t k = 0; k < sizeof guesses / sizeof *guesses; k++)
        if (!strncmp(code, guesses[k].begins, strlen(guesses[k].begins))) return guesses[k].kind;
    return has_value ? KIND_LAB : KIND_OTHER;
}

/* ---- events ------------------------------------------------------------------------------------------------------ */

static Status subject_close(Meds *m, Err *err) {
    if (!m->begun) return OK;
    int64_t end = m->end != TIME_NONE ? m->end : m->last;
    return event_writer_subject(m->im.writer, m->subject, end, m->split, err);
}

static Status subject_turn(TableReader *r, Meds *m, int64_t subject, Err *err) {
    int64_t end;
    if (m->begun && subject == m->subject) return OK;
    Status status = subject_close(m, err);
    m->begun = 1;
    m->subject = subject;
    m->last = m->death = TIME_NONE;
    m->end = field_int(field(r, COL_END_US), &end) > 0 ? end : TIME_NONE;
    int split = split_find(field(r, COL_SPLIT));
    m->split = split < 0 ? SPLIT_UNSET : split;
    return status;
}

/* Time of the event into us; 1, 0 = static, -1 = dropped. */
static int time_read(TableReader *r, int64_t *us, int *precision) {
    FieldTime t;
    int got = field_int(field(r, COL_TIME_US), us);
    *precision = PRECISION_SECOND;
    if (!got && (got = field_time(field(r, COL_TIME), &t)) > 0) {
        *us = t.us;
        *precision = t.precision;
        if (t.zone) table_count(r, NOTE_TIME_ZONE);
    }
    if (got >= 0) return got;
    table_count(r, DROP_BAD_DATE);
    return -1;
}

/* When it was known, of an event that does not say. */
static void known_assume(TableReader *r, Event *e, int kind) {
    e->available = e->time;
    if (e->time % US_PER_DAY) return;
    e->precision = PRECISION_DAY;
    if (kind == KIND_BIRTH || kind == KIND_VISIT_START) return; /* these come before what happens next */
    table_count(r, NOTE_MIDNIGHT);
    e->available += END_OF_DAY;
}

static void value_read(TableReader *r, Event *e) {
    int64_t comparator;
    if (field_number(field(r, COL_VALUE), &e->value) < 0) table_count(r, NOTE_BAD_NUMBER);
    if (!isfinite(e->value)) e->value = NAN;
    if (field_int(field(r, COL_COMPARATOR), &comparator) > 0 && comparator >= 0 && comparator <= COMPARE_GT)
        e->comparator = (uint8_t)comparator;
}

static Status event_row(TableReader *r, Err *err) {
    Meds *m = (Meds *)r->im; /* its first member */
    ReportTable *t = &r->im->report->table[TABLE_EVENTS];
    Event e = {.value = NAN, .source_row = (uint32_t)r->row};
    const char *code = field(r, COL_CODE);
    int64_t given, visit;
    int precision;
    if (field_int(field(r, COL_SUBJECT), &e.subject) <= 0) return table_count(r, DROP_PERSON_ID), OK;
    if (import_is_excluded(r->im, e.subject)) return table_count(r, DROP_EXCLUDED), OK;
    if (!*code) return table_count(r, DROP_NO_CODE), OK;
    if (strlen(code) > 255) return table_count(r, DROP_LONG_CODE), OK;
    int timed = time_read(r, &e.time, &precision);
    if (timed < 0) return OK;
    value_read(r, &e);
    int kind = timed ? kind_of(m, code, !isnan(e.value)) : KIND_STATIC;
    int recorded = timed && field_int(field(r, COL_AVAILABLE_US), &e.available) > 0;
    e.precision = (uint8_t)precision;
    if (!timed) {
        e.time = e.available = TIME_NONE;
        e.precision = PRECISION_NONE;
    } else if (!recorded) {
        if (kind != KIND_BIRTH && date_is_placeholder(e.time)) return table_count(r, DROP_PLACEHOLDER_DATE), OK;
        known_assume(r, &e, kind);
    } else if (e.available < e.time) {
        table_count(r, NOTE_KNOWN_BEFORE);
        e.available = e.time;
    }
    if (field_int(field(r, COL_PRECISION), &given) > 0 && given >= 0 && given <= PRECISION_NONE)
        e.precision = (uint8_t)given;
    if (field_int(field(r, COL_VISIT), &visit) > 0 && visit > 0 && visit < UINT32_MAX) e.visit = (uint32_t)visit;
    Status status = subject_turn(r, m, e.subject, err);
    if (!status) status = event_writer_code(r->im->writer, code, kind, NULL, NULL, &e.code, err);
    if (!status) status = event_writer_unit(r->im->writer, field(r, COL_UNIT), &e.unit, err);
    if (status) return status;
    if (kind == KIND_DEATH && timed && m->death == TIME_NONE) m->death = e.available;
    if (m->death != TIME_NONE && e.available > m->death) table_count(r, NOTE_AFTER_DEATH);
    if (e.available > m->last) m->last = e.available;
    t->emitted++;
    t->events++;
    r->im->report->recorded[kind] += recorded || !timed;
    r->im->report->assumed[kind] += timed && !recorded;
    return event_writer_add(r->im->writer, &e, err);
}

static Status events_check(TableReader *r, Err *err) {
    const char *missing = r->bound[COL_SUBJECT] < 0                             ? "subject_id"
                          : r->bound[COL_CODE] < 0                              ? "code"
                          : r->bound[COL_TIME_US] < 0 && r->bound[COL_TIME] < 0 ? "time_us"
                                                                                : NULL;
    if (!missing) return OK;
    return err_set(
        err, ERR_FORMAT,
        "%s has no column %s (its %d columns begin with %.40s); scripts/meds_to_events.py makes these tables "
        "from MEDS parquet",
        r->csv.stream->name, missing, r->csv.n_columns, r->csv.column[0]);
}

/* ---- the other tables -------------------------------------------------------------------------------------------- */

static Status code_row(TableReader *r, Err *err) {
    Meds *m = (Meds *)r->im;
    const char *code = table_field(r, 0), *name = table_field(r, 1), *parent = table_field(r, 2);
    uint32_t id;
    if (!*code) return table_count(r, DROP_NO_CODE), OK;
    if (strlen(code) > 255) return table_count(r, DROP_LONG_CODE), OK;
    int kind = event_kind_find(table_field(r, 3));
    if (kind >= 0) {
        uint32_t i = intern_add(&m->coded, code);
        if (i >= m->kind_room) m->kind = xrealloc(m->kind, m->kind_room = m->coded.capacity);
        m->kind[i] = (uint8_t)kind;
        if (m->coded.bytes > (size_t)m->im.options->memory / 4)
            return err_set(err, ERR_NOMEM, "%s: %u codes do not fit into a quarter of --memory", r->csv.stream->name,
                           m->coded.n);
    } else {
        kind = kind_of(m, code, 0);
    }
    r->im->report->table[TABLE_CODES].emitted++;
    return event_writer_code(r->im->writer, code, kind, name, parent, &id, err);
}

static Status unit_row(TableReader *r, Err *err) {
    uint16_t id;
    r->im->report->table[TABLE_UNITS].emitted++;
    return event_writer_unit(r->im->writer, table_field(r, 0), &id, err);
}

static Status origin_row(TableReader *r, Err *err) {
    Meds *m = (Meds *)r->im;
    (void)err;
    free(m->source);
    free(m->provenance);
    m->source = xstrdup(table_field(r, 0));
    m->provenance = xstrdup(table_field(r, 1));
    r->im->report->table[TABLE_ORIGIN].emitted++;
    return OK;
}

/* ---- steps ------------------------------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    const char *columns[4];
    TableStep row;
} others[N_TABLES] = {[TABLE_CODES] = {"codes", {"code", "description", "parent", "kind"}, code_row},
                      [TABLE_UNITS] = {"units", {"unit"}, unit_row},
                      [TABLE_ORIGIN] = {"origin", {"source", "provenance"}, origin_row}};

static Status tables_read(Meds *m, Err *err) {
    Import *im = &m->im;
    static const char *const known[N_TABLES] = {"events", "codes", "units", "origin"};
    int entry[N_TABLES];
    Status status = OK;
    im->report->n_tables = N_TABLES;
    for (int k = 0; k < N_TABLES && !status; k++) {
        im->report->table[k] = (ReportTable){.name = known[k]};
        status = import_table_find(im, known[k], &entry[k], err);
    }
    if (status) return status;
    import_tables_unused(im, known, N_TABLES);
    if (entry[TABLE_EVENTS] < 0)
        return err_set(err, ERR_FORMAT,
                       "%s holds no events.csv; give a MEDS folder to scripts/meds_to_events.py, which calls this "
                       "program (found: %.300s)",
                       im->options->path, *im->report->unused ? im->report->unused : "nothing");
    for (int k = TABLE_CODES; k < N_TABLES && !status; k++)
        if (entry[k] >= 0)
            status = import_table_read(im, k, entry[k], NULL, others[k].columns, 4, NULL, others[k].row, err);
    progress_open(&im->progress, im->options->progress, "read events", "MiB",
                  im->archive.entry[entry[TABLE_EVENTS]].size >> 20);
    if (!status)
        status = import_table_read(im, TABLE_EVENTS, entry[TABLE_EVENTS], NULL, event_columns, COL_COUNT, events_check,
                                   event_row, err);
    progress_close(&im->progress, im->bytes_done >> 20);
    if (!status) status = subject_close(m, err);
    if (!status) status = import_errors_judge(im, err);
    if (!status && !im->report->table[TABLE_EVENTS].emitted)
        status = err_set(err, ERR_FORMAT, "%s has no event to import: every row was dropped; the report says why",
                         im->options->path);
    return status;
}

static Status meds_run(Meds *m, Err *err) {
    ImportReport *r = m->im.report;
    Status status = import_writer_open(&m->im, err);
    if (!status) status = tables_read(m, err);
    if (status) return status;
    char *report = import_report_json(r, 0);
    EventWriter *w = m->im.writer;
    m->im.writer = NULL; /* closing frees it */
    status = event_writer_close(w, m->source && *m->source ? m->source : "meds", m->source ? m->provenance : report,
                                &r->n_patients, &r->n_events, &r->n_duplicates, err);
    free(report);
    return status;
}

Status import_meds(const ImportOptions *options, ImportReport *r, Err *err) {
    *r = (ImportReport){.source = "meds",
                        .extract_from =
                            "MEDS names none; observed until the last event, unless observation_end says so"};
    Meds m = {.im = {.options = options, .report = r}};
    intern_init(&m.im.texts);
    intern_init(&m.coded);
    Status status = archive_open(&m.im.archive, options->path, err);
    if (status) return status;
    status = meds_run(&m, err);
    intern_free(&m.coded);
    free(m.kind);
    free(m.source);
    free(m.provenance);
    import_end(&m.im);
    return status;
}
