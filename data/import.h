/* import.h - what importers share: options, the data-quality report, and reading of dates and numbers.
 *
 * An importer turns one source format into events.  Every row it reads is accounted for: it is emitted, or dropped for
 * a named reason; what was changed or is worth knowing about rows that stay is a note. */
#ifndef EHR_DATA_IMPORT_H
#define EHR_DATA_IMPORT_H
#include "data/event.h"
#include "model/flags.h"

/* Why rows are dropped, and what is noted about rows that stay.  Texts are in import_report.c. */
typedef enum {
    DROP_FIELDS,
    DROP_TOO_LONG,
    DROP_OPEN_QUOTE,
    DROP_PERSON_ID,
    DROP_NO_DATE,
    DROP_JSON,
    DROP_JSON_DEEP,
    DROP_JSON_TWICE,
    DROP_JSON_CUT,
    DROP_NOT_RESOURCE,
    DROP_NO_SUBJECT,
    DROP_BAD_DATE, /* count as errors */
    DROP_PLACEHOLDER_DATE,
    DROP_NO_CODE,
    DROP_NO_PERSON,
    DROP_NO_BIRTH,
    DROP_PERSON_DROPPED,
    DROP_BEFORE_BIRTH,
    DROP_NO_STAY,
    DROP_LONG_CODE,
    DROP_DUPLICATE,
    DROP_CROSS_TABLE,
    DROP_NOT_GIVEN,
    DROP_FUTURE,
    DROP_SAME_ID,
    DROP_NOT_ICU,
    DROP_AMENDED,
    DROP_IN_ERROR,
    DROP_NOT_FINAL,
    DROP_NOT_DONE,
    DROP_REFUTED,
    DROP_PANEL,
    DROP_DOCUMENT,
    DROP_GENERATOR,
    DROP_IDENTITY,
    DROP_UNRESOLVED,
    DROP_MODIFIED,
    DROP_DELETION,
    DROP_NOT_EVENT,
    DROP_EXCLUDED,
    DROP_NO_TEXT,
    NOTE_DATE_ONLY,
    NOTE_MIDNIGHT,
    NOTE_DATES_DIFFER,
    NOTE_TIME_ZONE,
    NOTE_HELD_BACK,
    NOTE_ON_ADMISSION,
    NOTE_OPEN_STAY,
    NOTE_ZERO_LENGTH,
    NOTE_NO_END,
    NOTE_END_BEFORE_START,
    NOTE_NO_VISIT,
    NOTE_BIRTH_YEAR_ONLY,
    NOTE_IMPRECISE_DEATH,
    NOTE_AFTER_DEATH,
    NOTE_AFTER_PERIOD,
    NOTE_SPREADSHEET,
    NOTE_STORED_BEFORE,
    NOTE_NOT_STORED,
    NOTE_DIED_IN_STAY,
    NOTE_DEATH_BY_STAY,
    NOTE_DEATH_DIFFERS,
    NOTE_OVER_89,
    NOTE_STATIC_DIFFERS,
    NOTE_TWO_VALUES,
    NOTE_WORD_VALUE,
    NOTE_BAD_CODE,
    NOTE_MAPPED,
    NOTE_MAPPED_WIDER,
    NOTE_NOT_MAPPED,
    NOTE_BAD_NUMBER,
    NOTE_NUMBER_FROM_TEXT,
    NOTE_TEXT_VALUE,
    NOTE_RARE_WORDS,
    NOTE_NO_UNIT,
    NOTE_UNMAPPED_UNIT,
    NOTE_LIMIT,
    NOTE_BAD_OPERATOR,
    NOTE_SOURCE_CONCEPT,
    NOTE_SOURCE_TEXT,
    NOTE_BAD_ID,
    NOTE_UTF8,
    NOTE_NUL,
    NOTE_PARTIAL_DATE,
    NOTE_UTC,
    NOTE_NO_ZONE,
    NOTE_NO_START,
    NOTE_KNOWN_BEFORE,
    NOTE_LAG,
    NOTE_LATE,
    NOTE_DEAD_UNDATED,
    NOTE_REPLACED,
    NOTE_ABSOLUTE,
    NOTE_CONTAINED,
    NOTE_COMPONENTS,
    NOTE_PART_DROPPED,
    NOTE_CODINGS,
    NOTE_NO_SYSTEM,
    NOTE_VALUE_TYPE,
    NOTE_VALUE_ABSENT,
    NOTE_UNCONFIRMED,
    NOTE_UNIT_TEXT,
    NOTE_UNIT_CONVERTED,
    NOTE_WITH_TEXT,
    NOTE_TEXT_CUT,
    NOTE_NOT_PLAIN,
    NOTE_VARIANT,
    REPORT_REASONS,
    DROP_ERRORS_END = DROP_PLACEHOLDER_DATE,
    DROP_END = NOTE_DATE_ONLY
} ReportReason;

typedef struct {
    const char *name; /* "measurement" */
    int64_t bytes;    /* unpacked */
    int present;
    int64_t read, emitted, events;                            /* rows, rows, events made of them */
    int64_t count[REPORT_REASONS], first_row[REPORT_REASONS]; /* first_row from 1 */
} ReportTable;

enum { REPORT_TABLES_MAX = 32 };
typedef struct {
    int n_tables;
    ReportTable table[REPORT_TABLES_MAX];
    const char *source;                                /* "omop" */
    int64_t recorded[KIND_COUNT], assumed[KIND_COUNT]; /* events whose available time was recorded, or assumed */
    int64_t concepts_missing;                          /* distinct concepts without a row in the vocabulary */
    int64_t codes, codes_with_parent;
    int64_t n_patients, n_events, n_duplicates; /* of the file written */
    char extract_date[16];
    const char *extract_from;   /* where it comes from */
    char *missing;              /* tables that the format has and the source has not; NULL = not told */
    char first_unreadable[200]; /* "FILE, resource 17", "" = none */
    char *unused;               /* tables that are there and are not read: "note, cost" */
} ImportReport;

const char *import_report_reason_text(int reason);
void import_report_count(ImportReport *r, int table, ReportReason reason, int64_t row); /* adds 1 */
int64_t import_report_dropped(const ReportTable *t);                                    /* all reasons */
int64_t import_report_errors(const ImportReport *r, int64_t *rows); /* rows that could not be read */
/* {"tables": [...], ...}; free() it.  rows = 0 leaves out row numbers, file sizes and duplicates: what remains does not
 * depend on the order of the source's rows. */
char *import_report_json(const ImportReport *r, int rows);
void import_report_print(const ImportReport *r, FILE *out);
void import_report_free(ImportReport *r);

typedef struct {
    const char *path, *out;
    StringList maps; /* files for code_map.h */
    int64_t memory, max_line;
    int64_t max_errors;       /* rows; -1 = 1% of the rows, at least 100 */
    const char *extract_date; /* YYYY-MM-DD, NULL = from the data */
    const char *utc_offset;   /* "-05:00": clock of dates without time where times are UTC; NULL = any */
    const int64_t *excluded;  /* (n_excluded) subject ids, ascending: nothing of theirs is told */
    int64_t n_excluded;
    int notes;       /* free texts are read, too */
    int64_t lab_lag; /* us from sample to result, for results without a time of their own */
    FILE *progress;  /* NULL = silent */
} ImportOptions;

/* MEDS tables as CSV (scripts/meds_to_events.py). */
Status import_meds(const ImportOptions *options, ImportReport *r, Err *err);
/* MIMIC-IV's hosp, icu and (options->notes) note modules as CSV files, .gz or not, in a folder or a zip. */
Status import_mimic(const ImportOptions *options, ImportReport *r, Err *err);
/* OMOP CDM 5.3 / 5.4 CSV files.  Memory: a quarter for sorting rows by person, a quarter for codes and concepts, a
 * quarter for the events writer; the rest for read buffers.  r is valid also after an error; import_report_free it. */
Status import_omop(const ImportOptions *options, ImportReport *r, Err *err);
/* Synthea's CSV export, of any release. */
Status import_synthea(const ImportOptions *options, ImportReport *r, Err *err);
/* FHIR R4: bulk exports in lines, bundles, single resources. */
Status import_fhir(const ImportOptions *options, ImportReport *r, Err *err);

/* ---- fields: 1 = read, 0 = empty (also NULL, \N, NA), -1 = not what it should be
 * ------------------------------------- */
typedef struct {
    int64_t us;
    int precision;  /* PRECISION_DAY when there is no time of day, or it is midnight */
    int midnight;   /* a time of day was given and is 00:00:00 */
    int zone;       /* a time zone was given; it is not applied: us is what the record's clock shows */
    int offset_min; /* of that zone, east of UTC */
} FieldTime;

int field_time(const char *text, FieldTime *out); /* YYYY-MM-DD[ HH:MM[:SS[.f]][zone]], YYYYMMDD */
int field_clock(const char *text, int64_t *us);   /* HH:MM[:SS] since midnight */
int field_int(const char *text, int64_t *out);    /* also "33.0" */
int field_number(const char *text, float *out);
int field_limit(const char *text, float *out, int *comparator); /* "<5", ">= 2.5", "7" */
/* A free text made plain, into out (2 n + 1); returns its length.  Line ends become \n, other control characters blanks,
 * blanks at both ends go.  *bad, *nul: bytes that are not UTF-8 (then it is taken as Latin-1), NUL bytes were there. */
size_t field_text(const char *text, size_t n, char *out, int *bad, int *nul);
int date_is_placeholder(int64_t us);                            /* 1900-01-01, 2099-12-31, before 1880, from 2300 on */

#endif
