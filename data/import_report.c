/* import_report.c - the data-quality report of an import; see import.h. */
#include "data/import.h"
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

static const char *const reason_text[REPORT_REASONS] = {
    [DROP_FIELDS] = "wrong number of fields",
    [DROP_TOO_LONG] = "longer than --max-line",
    [DROP_OPEN_QUOTE] = "a quote opens that never closes",
    [DROP_PERSON_ID] = "person id is not a number",
    [DROP_NO_DATE] = "no date",
    [DROP_JSON] = "not readable as JSON",
    [DROP_JSON_DEEP] = "JSON nested too deep",
    [DROP_JSON_TWICE] = "JSON object with the same key twice",
    [DROP_JSON_CUT] = "cut off: the line or the file ends inside it",
    [DROP_NOT_RESOURCE] = "no resourceType",
    [DROP_NO_SUBJECT] = "no patient, or a reference that names none",
    [DROP_BAD_DATE] = "unreadable date",
    [DROP_PLACEHOLDER_DATE] = "placeholder date (1900-01-01, 2099-12-31, ...)",
    [DROP_NO_CODE] = "no code",
    [DROP_NO_PERSON] = "person is not in the person table",
    [DROP_NO_BIRTH] = "no usable year of birth",
    [DROP_PERSON_DROPPED] = "its person was dropped",
    [DROP_BEFORE_BIRTH] = "before birth",
    [DROP_NO_STAY] = "no time of its own, and its stay is unknown or has no end",
    [DROP_LONG_CODE] = "code of more than 255 bytes",
    [DROP_DUPLICATE] = "the same event again in its table",
    [DROP_CROSS_TABLE] = "told by another table already",
    [DROP_NOT_GIVEN] = "not given (held, refused, stopped, rewritten)",
    [DROP_FUTURE] = "after the extract date",
    [DROP_SAME_ID] = "another row has the same id",
    [DROP_NOT_ICU] = "not an ICU stay",
    [DROP_AMENDED] = "a newer version of it is there, or it was taken back",
    [DROP_IN_ERROR] = "entered in error",
    [DROP_NOT_FINAL] = "not final (registered, preliminary, cancelled, unknown)",
    [DROP_NOT_DONE] = "did not happen (planned, proposed, cancelled, not done)",
    [DROP_REFUTED] = "refuted",
    [DROP_PANEL] = "panel or report whose members are told themselves",
    [DROP_DOCUMENT] = "document: free text is not read without --notes",
    [DROP_GENERATOR] = "a score of the generator, not of a clinician (QALY, DALY, QOLS)",
    [DROP_UNRESOLVED] = "its code is in a record that is not there",
    [DROP_MODIFIED] = "a modifierExtension may turn it into its opposite",
    [DROP_DELETION] = "takes back another record, which is dropped if it is here",
    [DROP_IDENTITY] = "asks who the patient is (address, name, birth date)",
    [DROP_NOT_EVENT] = "holds no event of a patient",
    [DROP_NO_TEXT] = "a note without a text",
    [DROP_EXCLUDED] = "its person is excluded (--exclude)",
    [NOTE_DATE_ONLY] = "date without time: available at 23:59 or at the visit's end that day",
    [NOTE_MIDNIGHT] = "midnight datetime read as a date without time",
    [NOTE_DATES_DIFFER] = "date and datetime name different days: the later is used",
    [NOTE_TIME_ZONE] = "time zone ignored: the record's clock is kept",
    [NOTE_HELD_BACK] = "diagnosis available only at the end of its stay",
    [NOTE_ON_ADMISSION] = "diagnosis known during its stay (problem list, admission)",
    [NOTE_OPEN_STAY] = "stay still open at the extract: no end",
    [NOTE_ZERO_LENGTH] = "ends when it starts",
    [NOTE_NO_END] = "no known end",
    [NOTE_END_BEFORE_START] = "end before start: end ignored",
    [NOTE_NO_VISIT] = "its visit is not in the visit table",
    [NOTE_BIRTH_YEAR_ONLY] = "birth without month or day: the first one is used",
    [NOTE_IMPRECISE_DEATH] = "death on a December 31: may be a year only",
    [NOTE_AFTER_DEATH] = "after death: in the file, never told to a model",
    [NOTE_AFTER_PERIOD] = "observation period ends before the last event: prolonged",
    [NOTE_SPREADSHEET] = "date as a spreadsheet writes it (month/day/year)",
    [NOTE_STORED_BEFORE] = "stored before it happened: available when it happened",
    [NOTE_NOT_STORED] = "no readable time of storing: available when it happened",
    [NOTE_DIED_IN_STAY] = "stay ended by death: no discharge is told",
    [NOTE_DEATH_BY_STAY] = "died in hospital without a time of death: the end of the stay is used",
    [NOTE_DEATH_DIFFERS] = "date of death is not the day of the death in hospital, which is used",
    [NOTE_OVER_89] = "age over 89, given as 91: born at least that long ago",
    [NOTE_STATIC_DIFFERS] = "race differs from that of the first stay, which is used",
    [NOTE_TWO_VALUES] = "two values in one field (120/80): two events",
    [NOTE_WORD_VALUE] = "result in words: part of the code",
    [NOTE_BAD_CODE] = "too short or too long for an ICD code: kept as it is",
    [NOTE_MAPPED] = "code mapped (--map)",
    [NOTE_MAPPED_WIDER] = "code mapped to what its several targets have in common (--map)",
    [NOTE_NOT_MAPPED] = "no single code to map to: kept (--map)",
    [NOTE_BAD_NUMBER] = "unreadable number: kept without value",
    [NOTE_NUMBER_FROM_TEXT] = "number read from text",
    [NOTE_TEXT_VALUE] = "free text value left out",
    [NOTE_RARE_WORDS] = "answer in words that no other patient gave: left out",
    [NOTE_NO_UNIT] = "value without unit",
    [NOTE_UNMAPPED_UNIT] = "unit not mapped to a concept",
    [NOTE_LIMIT] = "value below or above a detection limit",
    [NOTE_BAD_OPERATOR] = "unknown operator: read as =",
    [NOTE_SOURCE_CONCEPT] = "not mapped: source concept used",
    [NOTE_SOURCE_TEXT] = "no concept: source text used as code",
    [NOTE_BAD_ID] = "unreadable concept or visit id: read as none",
    [NOTE_UTF8] = "not UTF-8: read as Latin-1",
    [NOTE_NUL] = "NUL bytes: read as blanks",
    [NOTE_PARTIAL_DATE] = "year or month alone: available when it is over",
    [NOTE_UTC] = "time with an offset: told in UTC",
    [NOTE_NO_ZONE] = "time of day without a zone: read as UTC",
    [NOTE_NO_START] = "start is an age, a range, text or missing: the recorded date is used",
    [NOTE_KNOWN_BEFORE] = "known before it happened: known when it happened",
    [NOTE_LAG] = "no result time: assumed known --lab-lag after the sample",
    [NOTE_LATE] = "result known more than 30 days after the sample: is its time that of a migration?",
    [NOTE_DEAD_UNDATED] = "dead, nobody says since when: observed until the last event",
    [NOTE_REPLACED] = "merged into another patient: rows stay under their own id",
    [NOTE_ABSOLUTE] = "absolute or versioned reference: its id is used",
    [NOTE_CONTAINED] = "contained resource used",
    [NOTE_COMPONENTS] = "components told one by one",
    [NOTE_PART_DROPPED] = "component without code or value left out",
    [NOTE_CODINGS] = "several codings: that of the first known system is used",
    [NOTE_NO_SYSTEM] = "code of a system that is not known: named after it",
    [NOTE_VALUE_TYPE] = "value of a kind that is no number (Range, Ratio, SampledData, ...): left out",
    [NOTE_VALUE_ABSENT] = "no value",
    [NOTE_UNCONFIRMED] = "diagnosis that is not confirmed",
    [NOTE_UNIT_TEXT] = "unit as text, without UCUM code",
    [NOTE_UNIT_CONVERTED] = "converted to the usual unit of the code",
    [NOTE_WITH_TEXT] = "with its free text",
    [NOTE_TEXT_CUT] = "text longer than 1 MiB: cut there",
    [NOTE_NOT_PLAIN] = "text that is no plain text, or not in the record itself: not read",
    [NOTE_VARIANT] = "genomic variant: also told as a finding of its gene",
};

const char *import_report_reason_text(int reason) {
    return reason >= 0 && reason < REPORT_REASONS ? reason_text[reason] : "?";
}

void import_report_count(ImportReport *r, int table, ReportReason reason, int64_t row) {
    ReportTable *t = &r->table[table];
    /* The smallest row, since rows are not judged in file order. */
    if (!t->count[reason]++ || row < t->first_row[reason]) t->first_row[reason] = row;
}

int64_t import_report_dropped(const ReportTable *t) {
    int64_t n = 0;
    for (int k = 0; k < DROP_END; k++) n += t->count[k];
    return n;
}

int64_t import_report_errors(const ImportReport *r, int64_t *rows) {
    int64_t n = 0;
    *rows = 0;
    for (int i = 0; i < r->n_tables; i++) {
        *rows += r->table[i].read;
        for (int k = 0; k < DROP_ERRORS_END; k++) n += r->table[i].count[k];
    }
    return n;
}

static json_t *counts_json(const ReportTable *t, int from, int to, int rows) {
    json_t *list = json_array();
    for (int k = from; k < to; k++) {
        if (!t->count[k]) continue;
        json_t *row = json_pack("{s:s, s:I}", "what", reason_text[k], "rows", (json_int_t)t->count[k]);
        if (rows) json_object_set_new(row, "first_row", json_integer((json_int_t)t->first_row[k]));
        json_array_append_new(list, row);
    }
    return list;
}

char *import_report_json(const ImportReport *r, int rows) {
    json_t *tables = json_array(), *kinds = json_array();
    for (int i = 0; i < r->n_tables; i++) {
        const ReportTable *t = &r->table[i];
        if (!t->present) continue;
        json_t *row =
            json_pack("{s:s, s:I, s:I, s:I, s:o, s:o}", "table", t->name, "rows", (json_int_t)t->read, "emitted",
                      (json_int_t)t->emitted, "events", (json_int_t)t->events, "dropped",
                      counts_json(t, 0, DROP_END, rows), "notes", counts_json(t, DROP_END, REPORT_REASONS, rows));
        if (rows) json_object_set_new(row, "bytes", json_integer((json_int_t)t->bytes));
        json_array_append_new(tables, row);
    }
    for (int k = 0; k < KIND_COUNT; k++)
        if (r->recorded[k] || r->assumed[k])
            json_array_append_new(kinds, json_pack("{s:s, s:I, s:I}", "kind", event_kind_name(k), "available_recorded",
                                                   (json_int_t)r->recorded[k], "available_assumed",
                                                   (json_int_t)r->assumed[k]));
    json_t *all =
        json_pack("{s:s, s:s, s:s, s:o, s:o, s:I, s:I, s:I, s:s}", "source", r->source, "extract_date", r->extract_date,
                  "extract_date_from", r->extract_from ? r->extract_from : "", "tables", tables, "kinds", kinds,
                  "codes", (json_int_t)r->codes, "codes_with_parent", (json_int_t)r->codes_with_parent,
                  "concepts_missing", (json_int_t)r->concepts_missing, "tables_not_used", r->unused ? r->unused : "");
    if (r->missing) json_object_set_new(all, "tables_missing", json_string(r->missing));
    if (rows) {
        json_object_set_new(all, "patients", json_integer((json_int_t)r->n_patients));
        json_object_set_new(all, "events", json_integer((json_int_t)r->n_events));
        json_object_set_new(all, "duplicates", json_integer((json_int_t)r->n_duplicates));
    }
    char *text = json_dumps(all, JSON_INDENT(2));
    REQUIRE(text);
    json_decref(all);
    return text;
}

void import_report_print(const ImportReport *r, FILE *out) {
    fprintf(out, "%-22s %12s %12s %12s %12s\n", "table", "rows", "emitted", "dropped", "events");
    for (int i = 0; i < r->n_tables; i++) {
        const ReportTable *t = &r->table[i];
        if (!t->present) continue;
        fprintf(out, "%-22s %12lld %12lld %12lld %12lld\n", t->name, (long long)t->read, (long long)t->emitted,
                (long long)import_report_dropped(t), (long long)t->events);
        for (int k = 0; k < REPORT_REASONS; k++)
            if (t->count[k])
                fprintf(out, "  %s %12lld  %s%s (first: row %lld)\n", k < DROP_END ? "dropped" : "   note",
                        (long long)t->count[k], reason_text[k], k < DROP_ERRORS_END ? " [error]" : "",
                        (long long)t->first_row[k]);
    }
    fprintf(out, "\n%-22s %12s %12s   available time recorded / assumed\n", "events by kind", "recorded", "assumed");
    for (int k = 0; k < KIND_COUNT; k++)
        if (r->recorded[k] || r->assumed[k])
            fprintf(out, "%-22s %12lld %12lld\n", event_kind_name(k), (long long)r->recorded[k],
                    (long long)r->assumed[k]);
    if (!*r->extract_date) fprintf(out, "\nno extract date: %s\n", r->extract_from ? r->extract_from : "");
    else
        fprintf(out,
                "\nextract date %s (%s); %lld codes, %lld with a parent; %lld concepts without a row in the "
                "vocabulary\n",
                r->extract_date, r->extract_from ? r->extract_from : "", (long long)r->codes,
                (long long)r->codes_with_parent, (long long)r->concepts_missing);
    if (r->missing && *r->missing) fprintf(out, "tables that are not there: %s\n", r->missing);
    if (*r->first_unreadable) fprintf(out, "the first that could not be read: %s\n", r->first_unreadable);
    if (r->unused && *r->unused) fprintf(out, "tables that are not read: %s\n", r->unused);
}

void import_report_free(ImportReport *r) {
    free(r->missing);
    free(r->unused);
    r->missing = r->unused = NULL;
}
