/* code_map.h - codes that stand for other codes, and names of codes, from CSV files (.gz too).
 *
 * A file is known by its columns:
 *   icd_9,icd_10            general equivalence mappings of diagnoses, or of procedures when every target has 7
 * characters drug,atc_code           names of drugs, in any case -> ATC source,target           whole codes:
 * MIMIC_LAB//50912,LOINC//2160-0 code,billable,...,long  names of ICD-10-CM codes, as the order file has them
 *   atc_code,atc_name       names of ATC codes
 * Of several ICD-10 codes for one ICD-9 code only what they have in common is kept, at least a category of three
 * characters: a wider code that is true instead of a narrow one that may not be. */
#ifndef EHR_DATA_CODE_MAP_H
#define EHR_DATA_CODE_MAP_H
#include "data/intern.h"
#include "model/base.h"

typedef struct {
    Intern from;    /* "ICD9CM//428.0"; drugs in lower case */
    char **to;      /* (from.capacity) "ICD10CM//I50.9"; NULL = nothing in common */
    uint8_t *wider; /* (from.capacity) `to` is what several targets have in common */
    uint32_t room;  /* of to, wider */
    Intern named;   /* "ICD10CM//I50.9" */
    char **name;    /* (named.capacity) */
    uint32_t name_room;
    size_t bytes, memory;
} CodeMap;

/* memory: bytes all files together may take. */
void code_map_init(CodeMap *m, int64_t memory);
/* Adds a file; what an earlier file says of a code stays. */
Status code_map_add(CodeMap *m, const char *path, Err *err);
void code_map_free(CodeMap *m);
/* What `code` stands for; NULL: not in the map, or several codes that have nothing in common. */
const char *code_map_find(const CodeMap *m, const char *code, int *wider);
const char *code_map_name(const CodeMap *m, const char *code); /* NULL: not known */

/* "ICD9CM//428.0" from a code with or without dot, padded with blanks or not.  0: too short or too long to be one. */
int icd_code(char *out, size_t size, const char *text, int version, int is_procedure);

#endif
