/* import_omop.h - the OMOP importer's parts.
 *
 *   import_omop_read.c      each table's rows -> StageRow; codes are concepts, not yet strings
 *   import_omop_concepts.c  the vocabulary tables, for the concepts that were met: code strings, names, parents
 *   import_omop.c           the order of steps
 *   import_people.c         the rest, for every format: rows -> events; see import_stage.h */
#ifndef EHR_DATA_IMPORT_OMOP_H
#define EHR_DATA_IMPORT_OMOP_H
#include "data/import_stage.h"

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

typedef struct {
    Import im; /* first: a TableReader's im is the Omop's */
    ConceptTable concepts;
} Omop;

/* ImportReport table of each source table; visit, person and so on are named by these. */
enum { TABLE_PERSON, TABLE_PERIOD, TABLE_DEATH, TABLE_VISIT, TABLE_DETAIL, TABLE_CONDITION };

Status omop_read_tables(Omop *o, Err *err);
Status omop_resolve_codes(Omop *o, Err *err);
void concepts_free(ConceptTable *t);

#endif
