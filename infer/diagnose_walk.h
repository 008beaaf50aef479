/* diagnose_walk.h - whole walks of sequential diagnosis: from the opening of an encounter to every test asked for. */
#ifndef EHR_INFER_DIAGNOSE_WALK_H
#define EHR_INFER_DIAGNOSE_WALK_H
#include "data/table.h"
#include "infer/diagnose.h"

/* Which test is asked for next: the one held likeliest to be recorded, or that which is recorded most often in the train
 * split, whoever the patient is. */
typedef enum { ASK_LIKELY, ASK_USUAL } AskRule;

typedef struct {
    AskRule ask;
    int split, max_asks;      /* tests asked for one by one; then all that are left at once */
    int64_t limit;            /* encounters, one a patient */
    const OracleLaw *oracle;  /* the generator's beliefs besides; NULL: none */
    int by_generator;         /* its beliefs instead of the law's */
    int oracle_samples;
    DiagnoseOptions d;
} WalkOptions;

typedef struct {
    int64_t looked_at, eligible; /* patients; those with an encounter in which a new diagnosis follows a test */
    int64_t encounters, tokens, unfit; /* walked; drawn; beliefs that no course was consistent with: the last ones stand */
} WalkReport;

/* One row an encounter and step, in columns:
 *   patient_key, patient_row, opening (token), step (tests asked for), cost, minutes (waited, one after another)
 *   asked (token id, -1: none before this row, -2: several), recorded (of those), next_p (belief that the next is recorded)
 *   named (token id), confidence P(named is new here | something is), right, fit
 *   n_new, n_recorded, recorded_cost, recorded_minutes (of all recorded tests at once: the longest)
 *   common, common_right: the diagnosis that is new most often in the train split, of those the record does not have
 *   truth_named, truth_best: the generator's P(named is new here | something is), and the highest there is; with oracle */
Status diagnose_walk(const Law *law, Dataset *d, const DiagnosisCodes *c, const WalkOptions *o, FILE *progress, Table *out,
                     WalkReport *report, Err *err);

#endif
