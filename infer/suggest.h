/* suggest.h - which diagnoses a patient's simulated futures hold that the record does not, beside how often people of
 * the same sex and age get them. */
#ifndef EHR_INFER_SUGGEST_H
#define EHR_INFER_SUGGEST_H
#include "infer/estimate.h"
#include "infer/session.h"

typedef struct {
    int token; /* of the code; one of them when values make several */
    int hits;  /* futures that have it */
    RiskEstimate risk;
    double median_days; /* to its first mention, in the futures that have it */
    int64_t base_n,
        base_hits;          /* people to compare with who did not have it at that age, and got it in as long a time */
    double base_rate, lift; /* (hits + .5) / (n + 1); risk over it; NaN: nobody to compare with */
} Suggestion;

typedef struct {
    int n_samples;
    int64_t matched;   /* people to compare with */
    double age_window; /* years from the patient's age, infinite = any age */
    int by_sex;
    int n;
    Suggestion *list; /* (n) most likely first */
} Suggestions;

/* o: samples, batch, seed, horizon.  reference: at most so many patients of the train split are looked at. */
Status suggest_run(Session *s, const RolloutJob *job, const RolloutOptions *o, int64_t reference, Suggestions *out,
                   Err *err);
void suggest_free(Suggestions *s);

#endif
