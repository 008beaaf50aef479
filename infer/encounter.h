/* encounter.h - visits of a record as questions of diagnosis: what is known at the door, which tests were recorded with
 * which result, and which diagnoses came after them that the record did not have.
 *
 * An encounter runs from the token of a visit's start to its end (a visit's end, death, or the next visit's start).  Its
 * *opening* is everything before its first test result; what is to be found are the diagnoses recorded after that and
 * nowhere earlier in the record.  A test is a code of kind lab, whatever its level; its result is the first recorded. */
#ifndef EHR_INFER_ENCOUNTER_H
#define EHR_INFER_ENCOUNTER_H
#include "data/dataset.h"

typedef struct {
    int V, n_test, n_dx;
    int *test, *dx;           /* (V) number of the id's test or diagnosis, -1 = it is none */
    int *test_id, *dx_id;     /* (n_test), (n_dx) the first id of each: its name */
    uint8_t *starts, *ends;   /* (V) the id begins, ends an encounter */
    double *price, *minutes;  /* (n_test) of asking for it, until its result is there */
    /* Of encounters of the train split, by encounters_count: */
    int64_t n_counted;
    double *usual;         /* (n_test) share of encounters in which it is recorded */
    double *common;        /* (n_dx) share in which it is new, of those whose records did not have it */
    uint8_t *never_before; /* (n_test, n_test) [a, b]: a's result never came before b's where both were recorded */
} DiagnosisCodes;

typedef struct {
    PatientView patient;
    int64_t start, opening, end; /* tokens: the visit's start; first test result; one past the last */
    int32_t *result;             /* (n_test) id of the first result, -1 = not recorded */
    uint8_t *had, *fresh;        /* (n_dx) known at the opening; to be found */
    int n_recorded, n_fresh;
} Encounter;

/* ERR_USAGE when the vocabulary has no tests, no diagnoses, or values apart from their tests. */
Status diagnosis_codes_open(DiagnosisCodes *c, const Vocabulary *v, Err *err);
void diagnosis_codes_close(DiagnosisCodes *c);
/* Prices of tests from a JSON file: {"default": {"price", "minutes"}, "tests": [{"codes": [patterns], "price",
 * "minutes"}]}; path NULL: each costs 1 and takes no time.  currency (size) gets its name. */
Status diagnosis_prices(DiagnosisCodes *c, const Vocabulary *v, const char *path, char *currency, size_t size, Err *err);

void encounter_init(Encounter *e, const DiagnosisCodes *c);
void encounter_free(Encounter *e);
/* The next encounter of p from token `from` on that has a test result; 0 when there is none.  p's tokens must outlive e. */
int encounter_next(const DiagnosisCodes *c, const PatientView *p, int64_t from, Encounter *e);
/* Fills usual, common and never_before from the first `patients` of the train split. */
Status encounters_count(DiagnosisCodes *c, Dataset *d, int64_t patients, Err *err);

/* How a test's being recorded goes with new diagnoses, over every encounter of the first `patients` of a split. */
typedef struct {
    int64_t visits, encounters, with_fresh; /* visits begun; those with a test result; of these, with a new diagnosis */
    int64_t *recorded, *recorded_fresh;     /* (n_test) encounters with the test, and with a new diagnosis besides */
} TestUse;
Status test_use_count(const DiagnosisCodes *c, Dataset *d, int split, int64_t patients, TestUse *out, Err *err);
void test_use_free(TestUse *u);

#endif
