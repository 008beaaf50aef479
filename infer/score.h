/* score.h - what a model makes of recorded tokens: -log p of each, per patient and in all. */
#ifndef EHR_INFER_SCORE_H
#define EHR_INFER_SCORE_H
#include "data/loader.h"
#include "infer/score_detail.h"

typedef struct {
    int64_t patient, index; /* row in the split; token index */
    double  loss;           /* nats */
} Surprise;

typedef struct {
    int64_t   n_patients;
    double   *loss;      /* (n_patients) sum over the patient's targets, nats; censored gaps included */
    int64_t  *n_targets; /* (n_patients) ordinary targets */
    double    total;     /* sum of losses of ordinary targets */
    int64_t   n, n_events;
    double    censored;  /* sum of losses of censored gaps */
    int64_t   n_censored;
    double    oracle, oracle_model; /* over targets whose log p under the oracle's law is known: its sum, and ours */
    int64_t   n_oracle;
    double    patient_years;
    int       n_top;
    Surprise *top; /* (n_top) most surprising events, descending */
    float   **token_loss; /* (n_patients) -> (tokens) NaN where no target; NULL unless asked */
} Score;

/* limit: patients, 0 = all (from the first).  T: slots a row.  top: how many surprising events to keep.
 * detail: takes every target as well; NULL: none. */
Status score_split(Session *s, int split, int64_t limit, int T, int top, int keep_tokens, ScoreDetail *detail,
                   FILE *progress, Score *out, Err *err);
void   score_free(Score *sc);

#endif
