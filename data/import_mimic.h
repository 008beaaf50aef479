/* import_mimic.h - the MIMIC-IV importer's parts.
 *
 *   import_mimic_tables.c  the format: every table's columns, and its rows -> MimicRow, into a sort by subject
 *   import_mimic_fields.c  times, codes, values and units as MIMIC writes them
 *   import_mimic_people.c  the sorted rows subject by subject: stays joined, times judged, events written
 *   import_mimic.c         the order of steps; names of codes
 *
 * Dates are shifted for every patient by an amount of its own: a calendar year means nothing, there is no date of
 * extract, and nobody is compared with anybody. */
#ifndef EHR_DATA_IMPORT_MIMIC_H
#define EHR_DATA_IMPORT_MIMIC_H
#include "data/import_stage.h"

/* The order of a subject's rows: whatever a row must be judged by comes before it. */
typedef enum {
    MIMIC_PATIENT,
    MIMIC_STAY,  /* admissions, visits of the emergency room that led to none */
    MIMIC_RACE,  /* as each admission has it */
    MIMIC_ORDER, /* pharmacy: when an order was entered */
    MIMIC_EVENT,
    MIMIC_PART /* ingredients of infusions: not told when the infusion is */
} MimicStage;

enum {                         /* flags */
       MIMIC_SECOND = 1,       /* another event of a row that is accounted for already */
       MIMIC_AT_DISCHARGE = 2, /* coded when the stay was over: no time of its own */
       MIMIC_STORED = 4,       /* available is the record's own */
       MIMIC_INFUSION = 8,     /* MIMIC_EVENT: `order` is the id of an order that MIMIC_PART rows may be of */
       MIMIC_DIED = 16,        /* MIMIC_STAY: ended by death */
       MIMIC_LAG = 32,         /* a laboratory result without a time of its own: known --lab-lag later */
       MIMIC_TEXT = 64,        /* MIMIC_EVENT: `order` is a text of Import.notes */
       MIMIC_DIED_DAY = 128    /* MIMIC_STAY: `order` is the day of death */
};

typedef struct {
    int64_t subject, stay; /* stay: hadm_id, 0 = none; of MIMIC_STAY the id of the stay */
    int64_t time, available;
    int64_t end;   /* MIMIC_STAY: discharge; MIMIC_PATIENT: date of death */
    int64_t order; /* pharmacy_id or orderid, 0 = none.  MIMIC_STAY: time of death */
    uint32_t code, end_code, row;
    float value;
    uint16_t unit;
    uint8_t stage, table, flags, comparator, precision, end_precision, kind;
} MimicRow;

typedef struct {
    Import im; /* without its own sort and keys */
    int has_patients, has_stays, has_transfers;
} Mimic;

int mimic_row_compare(const void *a, const void *b, void *unused);
Status mimic_read_tables(Mimic *m, Err *err);
Status mimic_write_people(Mimic *m, Err *err);

/* For "%.*s": at most n bytes of a text, which no character is cut in two by. */
#define UTF8_CUT(text, n) (int)utf8_cut(text, n), text

/* ---- one row of a table ------------------------------------------------------------------------------------------ */
typedef enum {
    COL_SUBJECT,
    COL_STAY,
    COL_TIME,
    COL_DATE, /* where COL_TIME is empty */
    COL_END,
    COL_STORE,
    COL_CODE,
    COL_CODE2,
    COL_CODE3,
    COL_NAME,
    COL_NAME2,
    COL_VERSION,
    COL_VALUE,
    COL_TEXT,
    COL_UNIT,
    COL_RATE,
    COL_RATE_UNIT,
    COL_COMPARATOR,
    COL_STATUS,
    COL_ORDER,
    COL_DEATH,
    COL_RACE,
    COL_ED,
    COL_AGE,
    COL_YEAR,
    COL_COUNT
} MimicColumn;

enum { MIMIC_SECONDS = 4 };
typedef struct {
    TableReader *t;
    Mimic *m;
    const char *vocabulary;
    const char *const *column; /* (COL_COUNT) names, NULL = the table has no such column */
    int64_t spreadsheet_row;   /* the last one that was noted for its dates */
    MimicRow second[MIMIC_SECONDS];
    int n_second;
    int analyte; /* of the code read last, -1 = none: units.h */
    Err *err;
    Status status; /* the first failure: what follows does nothing */
} MimicReader;

static inline const char *mimic_field(const MimicReader *r, MimicColumn c) { return table_field(r->t, (int)c); }
static inline void mimic_count(MimicReader *r, ReportReason reason) { table_count(r->t, reason); }
static inline int mimic_drop(MimicReader *r, ReportReason reason) {
    table_count(r->t, reason);
    return 0;
}

int mimic_time(MimicReader *r, MimicColumn c, FieldTime *out); /* 1 = read, 0 = empty, -1 = unreadable, a placeholder */
/* Time of the row; 0: dropped. */
int mimic_start(MimicReader *r, MimicRow *s);
/* When the row was stored, no earlier than `from`; lags: it is a result, which takes its time when none is told. */
void mimic_store(MimicReader *r, MimicRow *s, int64_t from, int lags);
void mimic_text(char *out, size_t size, const char *s); /* fit for a code: no control characters, blanks trimmed */
uint32_t mimic_code(MimicReader *r, const char *code, int kind, const char *name, const char *parent);
/* s->code = VOCABULARY//text, or what --map says of it; 0: the text is empty. */
int mimic_code_read(MimicReader *r, MimicRow *s, const char *vocabulary, const char *text, const char *name);
/* Unit of s->value, in UCUM's spelling; values of codes that have a usual unit are converted to it. */
void mimic_unit(MimicReader *r, MimicRow *s, const char *text);
/* valuenum, with the comparator that stands in the text beside it ("<0.01" has valuenum 0.01). */
void mimic_number(MimicReader *r, MimicRow *s);
/* s->code = CODE=WORD, which rolls up to CODE, when the result is one of the words that are categories; 0: it is not.
 */
int mimic_word(MimicReader *r, MimicRow *s, const char *item);
/* A second event of the row that is being read. */
MimicRow *mimic_second(MimicReader *r, const MimicRow *s);

#endif
