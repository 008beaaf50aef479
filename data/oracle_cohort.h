/* oracle_cohort.h - cohorts drawn from the oracle's law: records, the events file, figures, and checks of a dataset. */
#ifndef EHR_DATA_ORACLE_COHORT_H
#define EHR_DATA_ORACLE_COHORT_H
#include "data/event.h"
#include "data/oracle.h"

typedef struct {
    int64_t patients;
    uint64_t seed;
    int64_t max_tokens;   /* targets at which a record stops */
    int64_t risk_samples; /* futures an index; 0 = no true risks */
    int threads;          /* 0 = all */
    FILE *progress;       /* NULL: silent */
} OracleCohortOptions;

/* One drawn record.  Tokens exclude the prefix. */
typedef struct {
    int sex, race, age_bin, split;
    int64_t n, room;
    uint8_t *what, *level;
    float *logp_what, *logp_level; /* (n) log p; level 0 without value */
    int32_t *minute;               /* (n) since the first event; a gap's is when it is over */
    int64_t index; /* token of the index, -1 = none; tokens after it are future, not counted in the loss */
    double risk[ORACLE_OUTCOMES][2]; /* p, standard error; NaN = none */
} OracleRecord;

/* Draws subject's record (1..patients); a held-out one goes on past its index. */
void oracle_record_draw(OracleRecord *r, const OracleCohortOptions *o, int64_t subject, int split);
/* Fills r->risk at the index. */
void oracle_record_risks(OracleRecord *r, const OracleCohortOptions *o);
void oracle_record_free(OracleRecord *r);
/* split (patients): 80/10/10 by the rank of a keyed hash of the subject. */
void oracle_split(const OracleCohortOptions *o, uint8_t *split);

/* ---- figures: what ORACLE.md's realism paragraph asks about ------------------------------------------------------ */
typedef struct OracleFigures OracleFigures;
typedef struct {
    int64_t patients, tokens, indices, whats, stays, discharges;
    double tokens_mean;
    double unigram, bigram, floor; /* nats a token, tuning split; the first two fitted on train */
    double floor_all;              /* over every counted token */
    double death_1y, admission_1y, heart_failure_1y, diabetes_1y; /* shares that happened after held-out indices */
    double risk[ORACLE_OUTCOMES];                                 /* means of the true risks; NaN = none computed */
    int64_t risk_n[ORACLE_OUTCOMES];
    double readmission_30d, icu, death_in_hospital, stay_median_days, conditions_mean, age_mean, years_mean;
    int uneven_conditions; /* with a group prevalence ratio outside 0.8 .. 1.25 */
} OracleFigureTable;
OracleFigures *oracle_figures_open(void);
void oracle_figures_add(OracleFigures *f, const OracleRecord *r);
void oracle_figures_table(const OracleFigures *f, OracleFigureTable *t);
void oracle_figures_free(OracleFigures *f);

/* ---- the cohort -------------------------------------------------------------------------------------------------- */
/* Draws the cohort; with path, writes the events file there.  figures may be NULL. */
Status oracle_cohort_draw(const OracleCohortOptions *o, const char *path, OracleFigures *figures, double *risk_s,
                          Err *err);
/* The cohort's own frozen vocabulary.json, with fused or separate values; free() it. */
char *oracle_vocabulary_format(int separate_values);

/* ---- checks of a tokenised cohort, from its shards alone --------------------------------------------------------- */
typedef struct {
    int64_t patients, tokens, counted;
    double floor;       /* mean of -log p recomputed, nats a counted token */
    double max_diff;    /* largest |stored - recomputed| */
    int64_t impossible; /* tokens to which the law gives probability 0 */
} OracleScore;
/* Recomputes log p of every token of every split.  ERR_FORMAT when the dataset carries no oracle data. */
Status oracle_score_dataset(const char *path, OracleScore *out, FILE *progress, Err *err);

typedef struct {
    uint64_t key;                    /* of the patient */
    int64_t token;                   /* the index */
    int32_t minute;                  /* of it */
    double risk[ORACLE_OUTCOMES][2]; /* NaN = none */
} OracleRiskRow;
/* True risks of the held-out patients that have an index; rows is freed by the caller. */
Status oracle_risk_dataset(const char *path, const OracleCohortOptions *o, OracleRiskRow **rows, int64_t *n, Err *err);

/* The risks at one state; seen (ORACLE_WHATS): whats of the history; history: hash of its tokens. */
void oracle_state_risks(const OracleState *at, const uint8_t *seen, uint64_t history, const OracleCohortOptions *o,
                        double risk[ORACLE_OUTCOMES][2]);

#endif
