/* phi_scan_patterns.h - what an identifier of a person looks like: in any text, by pattern; in a table, by the name of
 * its column; and the names of the source's own people, as words. */
#ifndef EHR_DATA_PHI_SCAN_PATTERNS_H
#define EHR_DATA_PHI_SCAN_PATTERNS_H
#include "model/base.h"

typedef enum {
    PHI_NAME,      /* 45 CFR 164.514(b)(2)(i) A */
    PHI_GEOGRAPHY, /* B: anything smaller than a state */
    PHI_DATE,      /* C */
    PHI_PHONE,     /* D, E */
    PHI_EMAIL,     /* F */
    PHI_SSN,       /* G */
    PHI_NUMBER,    /* H to M, R: record, plan, account, licence, device numbers; UUIDs */
    PHI_URL,       /* N */
    PHI_IP,        /* O */
    PHI_COUNT
} PhiKind;
const char *phi_kind_name(int kind); /* "ssn" */

typedef struct PhiPatterns PhiPatterns;
typedef struct {
    int kind;
    size_t at, n; /* bytes of the text */
} PhiHit;

Status phi_patterns_open(PhiPatterns **out, Err *err);
void phi_patterns_close(PhiPatterns *p);
/* Words of a person's name, to be found in texts from then on; words of one or two letters are not kept. */
void phi_names_add(PhiPatterns *p, const char *name);
int64_t phi_names_count(const PhiPatterns *p);
/* The first `max` hits of a text in no particular order; returns how many there are. */
int64_t phi_find(const PhiPatterns *p, const char *text, size_t n, PhiHit *hit, int max);
/* What a column or JSON key of that name holds: a PhiKind, or -1.  Case, _ and - do not matter. */
int phi_column_kind(const char *name);
int phi_column_is_name(const char *name); /* of a person: its values are words to look for elsewhere */

#endif
