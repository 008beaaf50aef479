/* deidentify_codes.h - which codes and units of an events file a release may hold, and what the others become.
 *
 * First by what a code says (columns of places and institutions, identifiers, free text), then by how many patients of
 * the whole release have it: fewer than k, and it rolls up its hierarchy until the code there has k, else to
 * RARE//kind. Births, deaths and visits as such stay. */
#ifndef EHR_DATA_DEIDENTIFY_CODES_H
#define EHR_DATA_DEIDENTIFY_CODES_H
#include "data/event.h"
#include "data/intern.h"
#include "data/phi_scan_patterns.h"

/* What became of a code, in the order in which rules are tried. */
typedef enum {
    FATE_KEPT,
    FATE_GEOGRAPHY,  /* dropped: a place smaller than a state */
    FATE_COLUMN,     /* dropped: a static column that is not on the list */
    FATE_IDENTIFIER, /* dropped: it looks like an identifier, or its column holds them */
    FATE_TEXT,       /* dropped: free text of the source */
    FATE_ANSWER,     /* an answer in prose, or one that looks like an identifier: the question alone stays */
    FATE_ROLLED_UP,  /* fewer than k patients: an ancestor stands for it */
    FATE_RARE,       /* the same, and no ancestor with k patients: RARE//kind */
    FATE_DROPPED,    /* the same, and RARE//kind has fewer than k patients too */
    FATE_COUNT
} CodeFate;
const char *code_fate_text(int fate);
#define CODE_GONE UINT32_MAX

typedef struct {
    int64_t n, capacity; /* distinct patients, n = k stands for k or more */
    int64_t *row;        /* (n) ascending, while n < k */
} Holders;

typedef struct {
    const EventFile *f;
    int64_t k;
    Intern out;            /* codes of the release */
    uint8_t *out_kind;     /* (out.n) */
    uint32_t *forward;     /* (out.n) what stands for it; itself, or CODE_GONE */
    int32_t *source;       /* (out.n) place in f->codes, -1: none */
    Holders *holders;      /* (out.n) */
    uint32_t capacity;     /* of the four */
    uint32_t *first;       /* (f->n_codes) in out before roll-up, CODE_GONE: dropped by what it says */
    uint8_t *fate, *used;  /* (f->n_codes) used: some event has it */
    uint8_t *unit_kept;    /* (f->n_units) */
    Holders *unit_holders; /* (f->n_units) */
} ReleaseCodes;

/* keep_text: an attestation says that texts were scrubbed.  keep_state: STATE//XX may stay. */
typedef struct {
    const char *statics; /* further static columns to keep, "LANGUAGE,INSURANCE"; NULL: none */
    int keep_text, keep_state;
} CodeRules;

Status release_codes_open(ReleaseCodes *m, const EventFile *f, int64_t k, const CodeRules *rules, Err *err);
void release_codes_close(ReleaseCodes *m);
/* Place in out of a source code, roll-up included; CODE_GONE: dropped. */
uint32_t release_codes_of(const ReleaseCodes *m, uint32_t code);
/* Counting: forget all holders, then tell of each event that stays, patients by ascending row. */
void release_codes_count_begin(ReleaseCodes *m);
void release_codes_count(ReleaseCodes *m, int64_t row, uint32_t out_code, uint16_t unit);
/* Rolls up what has fewer than k patients; 0: nothing had to be done. */
int release_codes_roll_up(ReleaseCodes *m);
/* Codes of a public vocabulary, whose names and texts are nobody's. */
int code_is_public(const char *code);

#endif
