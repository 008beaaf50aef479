/* import_stage.h - what importers share: the way of a row from its table to events.
 *
 *   read    each source row becomes a StageRow, into a sort by person; codes become CodeKeys (import_stage.c)
 *   write   the sorted rows, person by person: visits joined, times judged, events written (import_people.c)
 *
 * Sorting by person makes every join (person, death, visit) local to one person, so that memory holds one person's
 * visits and never a table.  A format is a file import_NAME.c: a table of source columns and what is special. */
#ifndef EHR_DATA_IMPORT_STAGE_H
#define EHR_DATA_IMPORT_STAGE_H
#include "data/archive.h"
#include "data/code_map.h"
#include "data/csv.h"
#include "data/import.h"
#include "data/intern.h"
#include "data/sort.h"
#include "data/text_heap.h"

/* ---- codes ------------------------------------------------------------------------------------------------------- */
typedef enum { KEY_CLINICAL, KEY_VISIT, KEY_DETAIL, KEY_SEX, KEY_RACE, KEY_ETHNICITY, KEY_UNIT } KeyRole;

enum { VISIT_BED = 1 /* inpatient */, VISIT_DIED = 2 /* it ended by death, as the source says */ };
typedef struct {
    int64_t concept, value_concept; /* OMOP; 0 = none */
    uint32_t text;                  /* in Import.texts, INTERN_NONE = none */
    uint8_t role, kind, table;      /* KeyRole, EventKind, table of the source text */
    uint8_t mark;                   /* KEY_DETAIL: an intensive care unit; KEY_VISIT: VISIT_BED | VISIT_DIED */
    uint32_t words;                 /* an answer in words to a question: 1 + the key of the question alone; else 0 */
    uint8_t mapped;                 /* --map stands behind its code: 1 exactly, 2 with a wider one */
    uint8_t analyte;                /* 1 + number in the table of units.h, 0 = none */
    uint32_t code, end_code;        /* of the writer, once resolved; end_code: of KEY_VISIT.  KEY_UNIT: a unit id */
} CodeKey;

typedef struct {
    CodeKey *key;
    uint32_t n, capacity;
    uint32_t *slot; /* open addressing */
    uint32_t n_slots;
    size_t bytes;
} KeyTable;

uint32_t key_add(KeyTable *t, const CodeKey *key); /* id of a key, new or old */

/* ---- rows on their way to their person; also the order of rows inside a person ----------------------------------- */
typedef enum { STAGE_PERSON, STAGE_PERIOD, STAGE_DEATH, STAGE_VISIT, STAGE_DETAIL, STAGE_CLINICAL } StageKind;

enum {                       /* flags */
       ROW_ON_ADMISSION = 1, /* a diagnosis that is known during the stay */
       ROW_MORE = 2,         /* a further row made of a source row that is counted already */
       ROW_LAG = 4,          /* a laboratory result without a result time: known --lab-lag later */
       ROW_DEAD_UNDATED = 8, /* STAGE_PERSON: dead, nobody says since when */
       ROW_TEXT = 16         /* it has a text instead of unit and value */
};

typedef struct {
    int64_t person, visit; /* visit: id of the visit, 0 = none.  STAGE_PERSON: care site */
    /* us, TIME_NONE = none.  STAGE_PERSON: start = birth, end = race key << 32 | ethnicity key.  STAGE_CLINICAL: end is
     * when it was known, if the source says so. */
    int64_t start, end;
    uint32_t key; /* of KeyTable, INTERN_NONE = none.  STAGE_PERSON: key = sex */
    uint32_t row; /* of the source table, from 1 */
    union {
        struct {
            uint32_t unit; /* of KeyTable */
            float value;
        };
        uint64_t text; /* of Import.notes */
    };
    uint8_t stage, table, flags, comparator, start_precision, end_precision;
    uint16_t person_check; /* of a hashed person id: tells two persons with the same id */
} StageRow;

/* A row of a source whose records have an identity and versions: the newest version counts, also when it says that the
 * record is void. */
typedef struct {
    StageRow row;
    uint64_t resource; /* hash of type and id */
    int64_t version;   /* us, TIME_NONE = none given */
    uint64_t refers;   /* hash of the record that holds its code (import_refer), 0 = none: key is its own */
    int32_t drop;      /* ReportReason, -1 = keep */
} StageResource;

/* What is remembered of records by the hash of their type and id: the code that others refer to, or that they are void.
 */
typedef struct {
    struct CodeRef {
        uint64_t resource;
        int64_t version;
        uint32_t key;
    } * item;
    size_t n, n_slots; /* open addressing; resource 0 = free */
} RefTable;

/* ---- one import -------------------------------------------------------------------------------------------------- */
static inline int64_t day_of(int64_t us) { return us / US_PER_DAY - (us % US_PER_DAY < 0); }
#define END_OF_DAY (US_PER_DAY - US_PER_MINUTE) /* 23:59 */

enum { DAY_FIRST = -32872 /* 1880-01-01 */, DAY_COUNT = 153402 /* to 2299-12-31 */ };

typedef struct {
    const ImportOptions *options;
    ImportReport *report;
    Archive archive;
    Sorter *stage;
    int versioned; /* rows are StageResource */
    KeyTable keys;
    int has_words; /* some key is an answer in words */
    RefTable refs;
    RefTable voids; /* records that are taken back where nothing says whose they are */
    Intern texts;
    TextHeap notes; /* free texts of rows */
    CodeMap map;    /* --map */
    EventWriter *writer;
    uint32_t *day_rows;                   /* (DAY_COUNT) rows dated on each day, for the extract date */
    int64_t last_period_end, source_date; /* us, TIME_NONE = unknown; source_date: when the source says it was pulled */
    const char *source_date_from;         /* "cdm_source" */
    int64_t extract;                      /* 00:00 of the extract date, us */
    int concept_codes;                    /* codes are concepts: their number is not that of the keys */
    int has_person;                       /* rows of persons without a row of their own are dropped */
    int table_visit, table_period;        /* of the report, -1 = none */
    /* Times of day are on one clock (UTC) and dates alone on the local ones: these are up to `west` behind it and up to
     * `east` before it, us, both >= 0. */
    int zoned, zone_given; /* zone_given: by --utc-offset, one clock for all */
    int64_t west, east;
    Progress progress;
    int64_t bytes_done; /* of tables that are finished */
} Import;

/* Opens the archive and the sort; row_size: sizeof(StageRow) or sizeof(StageResource). */
Status import_begin(Import *im, const ImportOptions *options, ImportReport *r, const char *source, size_t row_size,
                    Err *err);
Status import_writer_open(Import *im, Err *err); /* and reads --map */
/* After reading: too many rows that could not be read are an error. */
Status import_errors_judge(const Import *im, Err *err);
Status import_choose_extract(Import *im, Err *err);
Status import_write_people(Import *im, Err *err); /* import_people.c */
Status import_finish(Import *im, Err *err);       /* writes the events file */
void import_end(Import *im);                      /* frees everything, removes what is not finished */

/* Whether --exclude names a person. */
int import_is_excluded(const Import *im, int64_t person);
/* row: a StageRow, or the first member of a StageResource. */
Status import_stage(Import *im, const StageRow *row, Err *err);
void import_day_count(Import *im, int64_t us);
/* Source text fit for a code: no control characters, blanks trimmed, at most 180 bytes; INTERN_NONE when empty. */
uint32_t import_text_add(Import *im, const char *s);
/* A key of a code that is a string already ("SNOMED//44054006"); name may be NULL.  KEY_VISIT: code is the "IP" of
 * VISIT//IP and VISIT_END//IP, mark: a stay in a bed.  The writer is open. */
Status import_code(Import *im, KeyRole role, int kind, const char *code, const char *name, int mark, uint32_t *key,
                   Err *err);
/* What stands for a code by --map, and its name there; else the code itself. */
const char *import_mapped(const Import *im, KeyRole role, const char *code, const char **name, uint8_t *mapped);
/* A code that is a question and its answer, "LOINC//72166-2=SNOMED//266919005", which rolls up to the question. */
Status import_answer(Import *im, int kind, const char *code, const char *name, const char *answer,
                     const char *answer_name, uint32_t *key, Err *err);
/* The same of an answer that is words of the source, not a code: only what WORDS_PATIENTS_MIN patients answered is
 * told, of the others the question alone: what one patient has alone may name him.  question: key of the question. */
enum { WORDS_PATIENTS_MIN = 2 };
uint32_t import_words(Import *im, uint32_t question, const char *words);
/* Codes of questions whose answers identify a person: address, name, birth date, ... */
int import_asks_identity(const char *code);
Status import_unit(Import *im, const char *unit, uint32_t *key, Err *err); /* "" = INTERN_NONE */
/* The code of a record that others refer to; the newest version stays. */
Status import_refer(Import *im, uint64_t resource, int64_t version, uint32_t key, Err *err);
uint32_t import_referred(const Import *im, uint64_t resource); /* INTERN_NONE: not there */
/* Takes back a record up to a version, of a versioned source, whoever's it is. */
Status import_void(Import *im, uint64_t resource, int64_t version, Err *err);
int import_is_void(const Import *im, uint64_t resource, int64_t version);
/* Gives a key of a unit its text and id: UCUM's spelling where it is known. */
Status import_unit_add(Import *im, const char *unit, CodeKey *k, Err *err);
/* ---- free texts (import_notes.c) ---- */
/* Keeps a text of n bytes, any bytes, for the row that is being read; *at: what the row carries, 0 = it was empty. */
Status import_note(Import *im, int table, int64_t row, const char *text, size_t n, uint64_t *at, Err *err);
/* Writes an event with the text of its row; 0 = none. */
Status import_emit(Import *im, const Event *e, uint64_t text_at, Err *err);
char *import_base64(const char *text, size_t *n); /* free() it; NULL: it is not base64 */

/* A positive id from a text id (a UUID), by a hash with a fixed public key; check: 16 more bits of it. */
int64_t import_id_hash(const char *id, uint16_t *check);

/* For sources with times in UTC and dates on local clocks: west and east in minutes, unless --utc-offset says more. */
Status import_zone(Import *im, int west_min, int east_min, Err *err);

/* ---- words of sources (import_codes.c) --------------------------------------------------------------------------- */
/* "SNOMED" of "http://snomed.info/sct"; NULL: not known.  *rank: the smaller, the better where there are several. */
const char *import_vocabulary(const char *system, int *rank);
/* "inpatient", "IMP" -> VISIT//IP; place: where the patient goes, VISIT_END//IP//home; may be "". */
Status import_visit_class(Import *im, const char *source, const char *place, uint32_t *key, Err *err);
Status import_person_code(Import *im, KeyRole role, const char *source, uint32_t *key, Err *err);

/* ---- tables of CSV files ----------------------------------------------------------------------------------------- */
enum { IMPORT_COLUMNS_MAX = 32, IMPORT_TABLES_MAX = REPORT_TABLES_MAX };

/* "person" of "export/PERSON.csv"; 0 when the entry is not a table by its name. */
int import_table_name(const char *entry, char table[64]);
/* Entry of the archive that holds a table ("person"), -1: none; ERR_FORMAT when there are two. */
Status import_table_find(const Import *im, const char *table, int *entry, Err *err);
/* Names of the archive's tables that are not in `known` -> report->unused. */
void import_tables_unused(Import *im, const char *const *known, int n);

typedef struct TableReader {
    Import *im;
    Csv csv;
    const void *source; /* the importer's own description of the table */
    int table;          /* of the report */
    int bound[IMPORT_COLUMNS_MAX];
    int64_t row; /* from 1 */
} TableReader;

typedef Status (*TableStep)(TableReader *r, Err *err);

/* Reads a table: columns are bound by name in any case ("START|DATE": the first there is; NULL or missing: reads as
 * ""), `ready` (may be NULL) checks them, `row` takes each row. */
Status import_table_read(Import *im, int table, int entry, const void *source, const char *const *columns,
                         int n_columns, TableStep ready, TableStep row, Err *err);
static inline const char *table_field(const TableReader *r, int column) {
    return r->bound[column] < 0 ? "" : r->csv.field[r->bound[column]];
}
static inline void table_count(TableReader *r, ReportReason reason) {
    import_report_count(r->im->report, r->table, reason, r->row);
}

#endif
