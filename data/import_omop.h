/* import_omop.h - the OMOP importer's parts.
 *
 *   import_omop_read.c      each table's rows -> StageRow, into a sort by person; codes become CodeKeys, not yet
 * strings import_omop_concepts.c  the vocabulary tables, for the concepts that were met: code strings, names, parents
 *   import_omop_people.c    the sorted rows person by person: visits joined, times judged, events written
 *   import_omop.c           the order of steps
 *
 * Sorting by person makes every join (person, death, visit) local to one person, so that memory holds one person's
 * visits and never a table. */
#ifndef EHR_DATA_IMPORT_OMOP_H
#define EHR_DATA_IMPORT_OMOP_H
#include "data/archive.h"
#include "data/import.h"
#include "data/intern.h"
#include "data/sort.h"

/* ---- codes ---------------------------------------------------------------------------------------------------------
 */
typedef enum { KEY_CLINICAL, KEY_VISIT, KEY_DETAIL, KEY_SEX, KEY_RACE, KEY_ETHNICITY, KEY_UNIT } KeyRole;

typedef struct {
    int64_t concept, value_concept; /* 0 = none */
    uint32_t text;                  /* in Omop.texts, INTERN_NONE = none */
    uint8_t role, kind, table;      /* KeyRole, EventKind, table of the source text */
    uint8_t icu;                    /* KEY_DETAIL: an intensive care unit */
    uint32_t code, end_code;        /* of the writer, once resolved; end_code: of KEY_VISIT.  KEY_UNIT: a unit id */
} CodeKey;

typedef struct {
    CodeKey *key;
    uint32_t n, capacity;
    uint32_t *slot; /* open addressing */
    uint32_t n_slots;
    size_t bytes;
} KeyTable;

/* ---- rows on their way to their person; also the order of rows inside a person
 * --------------------------------------- */
typedef enum { STAGE_PERSON, STAGE_PERIOD, STAGE_DEATH, STAGE_VISIT, STAGE_DETAIL, STAGE_CLINICAL } StageKind;

enum { ROW_ON_ADMISSION = 1 }; /* flags: a diagnosis that is known during the stay */

typedef struct {
    int64_t person, visit; /* visit: visit_occurrence_id, 0 = none.  STAGE_PERSON: care site */
    int64_t start, end; /* us, TIME_NONE = none.  STAGE_PERSON: start = birth, end = race key << 32 | ethnicity key */
    uint32_t key, unit; /* of KeyTable, INTERN_NONE = none.  STAGE_PERSON: key = sex */
    uint32_t row;       /* of the source table, from 1 */
    float value;
    uint8_t stage, table, flags, comparator, start_precision, end_precision;
} StageRow;

/* ---- concepts ------------------------------------------------------------------------------------------------------
 */
typedef struct {
    int64_t id;
    char *code, *name;    /* "LOINC//4548-4"; NULL until its row is met */
    uint32_t parent;      /* index in ConceptTable, INTERN_NONE = none */
    uint8_t level;        /* 0: of a row; k: found as an ancestor in pass k */
    uint8_t wanted, used; /* wanted: parents are looked for; used: some clinical code is made of it */
    uint8_t icu;          /* intensive care, or below it */
} Concept;

typedef struct {
    uint32_t child, parent; /* indexes in ConceptTable */
} ConceptEdge;

typedef struct {
    Concept *item;
    uint32_t n, capacity;
    uint32_t *slot;
    uint32_t n_slots;
    ConceptEdge *edge;
    size_t n_edges, edge_capacity;
    size_t bytes;
} ConceptTable;

static inline int64_t day_of(int64_t us) { return us / US_PER_DAY - (us % US_PER_DAY < 0); }

enum { DAY_FIRST = -32872 /* 1880-01-01 */, DAY_COUNT = 153402 /* to 2299-12-31 */ };

typedef struct {
    const ImportOptions *options;
    ImportReport *report;
    Archive archive;
    Sorter *stage;
    KeyTable keys;
    Intern texts;
    ConceptTable concepts;
    EventWriter *writer;
    uint32_t *day_rows;                   /* (DAY_COUNT) rows dated on each day, for the extract date */
    int64_t last_period_end, source_date; /* us, TIME_NONE = unknown */
    int64_t extract;                      /* 00:00 of the extract date, us */
    int has_person;
    Progress progress;
    int64_t bytes_done; /* of tables that are finished */
} Omop;

int stage_compare(const void *a, const void *b, void *omop);
/* ImportReport table of each source table; visit, person and so on are named by these. */
enum { TABLE_PERSON, TABLE_PERIOD, TABLE_DEATH, TABLE_VISIT, TABLE_DETAIL, TABLE_CONDITION };

/* "person" of "export/PERSON.csv"; 0 when the entry is not a table by its name. */
int omop_table_name(const char *entry, char table[64]);
/* Entry of the archive that holds a table ("person"), -1: none; ERR_FORMAT when there are two. */
Status omop_find_table(const Omop *o, const char *table, int *entry, Err *err);
Status omop_read_tables(Omop *o, Err *err);
Status omop_choose_extract(Omop *o, Err *err);
Status omop_resolve_codes(Omop *o, Err *err);
Status omop_write_people(Omop *o, Err *err);

/* Id of a key, new or old. */
uint32_t key_add(KeyTable *t, const CodeKey *key);
void concepts_free(ConceptTable *t);

#endif
