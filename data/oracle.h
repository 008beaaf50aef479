/* oracle.h - the law of the oracle cohort: p(next token | tokens so far), exact and a function of the visible tokens
 * alone.
 *
 * A token is a *what* (OracleWhat: visit marks, gap bins, labs, diagnoses, drugs ...) and, for labs, a level 1..10. The
 * next what is drawn by a chain of steps: the items of a list, each taken with its probability or passed over, then one
 * of a few choices.  Probabilities, sampling and true risks all walk that chain, so there is one definition of the law.
 *
 * Everything here is a pure function of its arguments; states are plain values and may be copied. */
#ifndef EHR_DATA_ORACLE_H
#define EHR_DATA_ORACLE_H
#include "data/vocabulary.h"
#include "model/base.h"

enum {
    ORACLE_LABS = 12,
    ORACLE_ACUTE_LABS = 8, /* the first of the labs */
    ORACLE_LEVELS = 10,
    ORACLE_CHRONIC = 24,
    ORACLE_ACUTE = 12,
    ORACLE_DRUGS = 16,
    ORACLE_PROCEDURES = 6,
    ORACLE_COMPLAINTS = 12,
    ORACLE_SEXES = 2,
    ORACLE_RACES = 4,
    ORACLE_AGES = 14, /* 5-year bins from 20 */
    ORACLE_AGE_FIRST = 20,
    ORACLE_AGE_BIN = 5
};

/* Ids of whats. */
typedef enum {
    ORACLE_VISIT_OUT,
    ORACLE_VISIT_IN,
    ORACLE_VISIT_END,
    ORACLE_ICU_IN,
    ORACLE_ICU_OUT,
    ORACLE_DEATH,
    ORACLE_GAP, /* + bin of vocabulary.h; + GAP_BINS is =6mt */
    ORACLE_LAB = ORACLE_GAP + GAP_TOKENS,
    ORACLE_CHRONIC_DX = ORACLE_LAB + ORACLE_LABS,
    ORACLE_ACUTE_DX = ORACLE_CHRONIC_DX + ORACLE_CHRONIC,
    ORACLE_DRUG = ORACLE_ACUTE_DX + ORACLE_ACUTE,
    ORACLE_PROCEDURE = ORACLE_DRUG + ORACLE_DRUGS,
    ORACLE_COMPLAINT = ORACLE_PROCEDURE + ORACLE_PROCEDURES,
    ORACLE_WHATS = ORACLE_COMPLAINT + ORACLE_COMPLAINTS
} OracleWhat;

/* How a what is written: code and name, EventKind, value unit and 9 inner edges for labs (else NULL).  Gaps have none.
 */
typedef struct {
    const char *code, *name, *unit;
    const double *edges;
    int kind;
} OracleItem;
OracleItem oracle_item(int what);
const char *oracle_sex_code(int sex);
const char *oracle_race_code(int race);
double oracle_sex_share(int sex);
double oracle_race_share(int race);
double oracle_age_share(int bin);

static inline int oracle_is_gap(int what) { return what >= ORACLE_GAP && what < ORACLE_LAB; }
static inline int oracle_is_lab(int what) { return what >= ORACLE_LAB && what < ORACLE_CHRONIC_DX; }
/* Bounds of a gap in minutes, [lo, hi); =6mt stands for exactly lo. */
int32_t oracle_gap_lo(int what);
int32_t oracle_gap_hi(int what);

/* ---- state ------------------------------------------------------------------------------------------------------- */
typedef enum {
    ORACLE_MODE_START,
    ORACLE_MODE_OUT,
    ORACLE_MODE_HOME,
    ORACLE_MODE_WARD,
    ORACLE_MODE_ICU,
    ORACLE_MODE_DEAD
} OracleMode;

typedef struct {
    uint8_t mode;
    uint8_t stage; /* what the mode waits for, private to oracle.c */
    uint8_t sex, race;
    uint8_t position;   /* items of the present list up to here are behind us */
    uint8_t after_gap;  /* the last token was a gap */
    uint8_t admissions; /* 0..3 */
    uint8_t last_inpatient;
    uint8_t level[ORACLE_LABS]; /* last level seen, 0 = none */
    uint32_t chronic;           /* bit i: chronic i present */
    uint32_t drugs;             /* bit m: drug m seen */
    int32_t visits;             /* closed */
    int32_t day;                /* rounds begun in this stay */
    double age;                 /* years, nominal */
    double pending;             /* years of a gap at home that count from the next event on */
    /* Sums that change only with a condition, a drug or a lab, kept so that a future costs microseconds: */
    double bad[ORACLE_LABS];             /* b_j */
    double lab_q[ORACLE_LABS];           /* of being measured */
    double push[ORACLE_LABS];            /* B.c - D.d */
    double chronic_z[ORACLE_CHRONIC];    /* a_i + sex + race + C.c */
    double complaint[ORACLE_COMPLAINTS]; /* probabilities */
    double rate_z[3];                    /* sex + race + c + treated c, of the rates at home */
    double chronic_q[ORACLE_CHRONIC];    /* rule 9, valid when chronic_ready */
    int chronic_ready;
    double drug_q[ORACLE_DRUGS], procedure_q[2][ORACLE_PROCEDURES]; /* ward, ICU */
} OracleState;

void oracle_start(OracleState *s, int sex, int race, int age_bin);
/* Total: a token that the law would not give here updates what it tells (a drug at home: that it is taken). */
void oracle_feed(OracleState *s, int what, int level);

/* ---- the next token ---------------------------------------------------------------------------------------------- */
enum { ORACLE_CHOICES_MAX = 16 };
typedef struct {
    int n;
    int what[ORACLE_CHOICES_MAX];
    double p[ORACLE_CHOICES_MAX]; /* sums to 1, or n = 0 after death */
} OracleChoices;

/* Functions that take a state that is not const keep in it what they worked out; it tells nothing new. */

/* The list part: items [s->position, oracle_list_size(s)), each taken with probability q given that the ones before it
 * were passed over. */
int oracle_list_size(const OracleState *s);
int oracle_list_what(const OracleState *s, int item);
double oracle_list_q(OracleState *s, int item);
/* The list as three runs of adjacent whats; returns 3, or 0 without a list.  The q of conditions hold only after
 * oracle_list_refresh, which is due again whenever the state has changed. */
typedef struct {
    int what, n;     /* whats [what, what + n) */
    const double *q; /* (n), inside the state */
} OracleRun;
enum { ORACLE_RUNS = 3 };
int oracle_list_runs(const OracleState *s, OracleRun *run);
void oracle_list_refresh(OracleState *s);
/* At home: rates per day of VISIT//OUT, VISIT//IN, MEDS_DEATH; returns their sum. */
double oracle_home_rates(const OracleState *s, double *rate);
/* What follows when the list ends (or when there is none). */
void oracle_choices(const OracleState *s, OracleChoices *c);
/* p (10): the level of a lab given that it is measured. */
void oracle_levels(const OracleState *s, int lab, double *p);

/* p (ORACLE_WHATS): all of the above multiplied out. */
void oracle_what_probs(OracleState *s, double *p);
/* The what at u in [0,1) of the chain's inverse distribution function, with its probability; -1 after death. */
int oracle_what_draw(OracleState *s, double u, double *p);
int oracle_level_draw(const OracleState *s, int lab, double u, double *p);

/* ---- randomness: stream `key` of counter-based numbers ----------------------------------------------------------- */
typedef struct {
    uint64_t key, stream, counter;
    double spare;
    int has_spare;
} OracleRng;
void oracle_rng_init(OracleRng *r, uint64_t key, uint64_t stream);
double oracle_rng_uniform(OracleRng *r);
/* Whole minutes of a gap token: uniform in its bin. */
int32_t oracle_gap_draw(int what, OracleRng *r);

/* ---- outcomes and true risks ------------------------------------------------------------------------------------- */
typedef struct {
    const char *name;    /* "death_1y" */
    const char *pattern; /* of codes: "ICD10CM//I50" */
    int64_t horizon_minutes;
    int first;           /* patients whose history has it are excluded */
    int after_inpatient; /* only indices whose last visit was an admission */
} OracleOutcome;
enum { ORACLE_OUTCOMES = 5 };
extern const OracleOutcome ORACLE_OUTCOME[ORACLE_OUTCOMES];

/* mark (ORACLE_WHATS): 1 for the whats whose code matches. */
void oracle_outcome_mark(const OracleOutcome *o, uint8_t *mark);
/* mean and standard error over `samples` futures of 1 - prod(1 - p), p the probability of the outcome at each step
 * within the horizon, the outcome itself suppressed.  at: the state at the index; key: names the stream. */
void oracle_risk(const OracleState *at, const uint8_t *mark, int64_t horizon_minutes, int samples, uint64_t key,
                 double *p, double *se);
/* The share of futures that have the outcome, by plain counting: what oracle_risk is tested against. */
void oracle_risk_counted(const OracleState *at, const uint8_t *mark, int64_t horizon_minutes, int samples, uint64_t key,
                         double *p, double *se);

/* ---- what a visit will hold -------------------------------------------------------------------------------------- */
enum { ORACLE_ANSWER_NONE = -1, ORACLE_ANSWER_ABSENT = 0 }; /* not asked; not recorded; else its level */
typedef struct {
    double p[ORACLE_WHATS]; /* of being recorded in the rest of the visit: labs and chronic conditions, others 0 */
    double any;             /* of at least one condition that `had` does not hold */
} OracleVisit;
/* The rest of an outpatient visit in which at least one lab is recorded, given answers about labs (ORACLE_LABS) and
 * `had` (bits of the conditions known): labs that are not asked about are drawn, those that are stand as answered.  Means
 * over `samples` visits; exact in the limit, since labs of a visit do not depend on each other.  0: `at` is at no list of
 * an outpatient visit, or no lab can be recorded any more. */
int oracle_visit(const OracleState *at, const int *answer, uint32_t had, int samples, uint64_t key, OracleVisit *out);

/* ---- in terms of a vocabulary ------------------------------------------------------------------------------------ */
/* The law over token ids, prefix included; works for fused and for separate value tokens. */
typedef struct {
    int n;       /* ids */
    int *what;   /* (n) OracleWhat, -1: not an event or gap of the law */
    int *level;  /* (n) of fused tokens, and of shared Q tokens; 0 = none */
    int *prefix; /* (n) 1 + sex, 11 + race, 31 + age bin, 99 = a record starts; 0 = no part of the prefix */
    int *id;     /* (ORACLE_WHATS * 11) id of (what, level), -1: none */
    int level_id[ORACLE_LEVELS + 1]; /* separate values: ids of Q1..Q10 */
    int separate;
} OracleLaw;
typedef struct {
    OracleState state;
    int lab;          /* separate values: lab whose level comes next, -1 = none */
    uint64_t history; /* hash of the tokens so far: names the stream of true risks */
} OracleCursor;

/* ERR_FORMAT names the first token of the law that the vocabulary lacks. */
Status oracle_law_open(OracleLaw *law, const Vocabulary *v, Err *err);
void oracle_law_close(OracleLaw *law);
void oracle_law_start(OracleCursor *c);
/* ERR_FORMAT when the law has no such token (an UNKNOWN one, say). */
Status oracle_law_feed(const OracleLaw *law, OracleCursor *c, int token, Err *err);
/* p (n ids): sums to 1; all 0 after death. */
void oracle_law_probs(const OracleLaw *law, const OracleCursor *c, double *p);
/* Hash step used for `history`; the first value is 0. */
uint64_t oracle_history_step(uint64_t history, int what, int level);
uint64_t oracle_history_prefix(int sex, int race, int age_bin);

#endif
