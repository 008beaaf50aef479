/* diagnose.h - sequential diagnosis: an encounter is revealed test by test, and at each step the model says which
 * diagnosis it would name and which test it would ask for.
 *
 * What it believes after some answers is P(code is recorded in the rest of the encounter | record up to the opening, the
 * answers): the share of simulated courses of the encounter that are consistent with them.  A course starts at the
 * opening.  Results that were revealed are woven into it where the law expects them, tests that were asked for and not
 * recorded never occur, other tests are drawn, and only then may anything that is no test follow; each course carries the
 * probability of what was forced over that of drawing it (importance sampling).  A diagnosis gets the sum of its
 * probabilities along a course up to its first occurrence (scope of rollout.h), which is smoother than counting.
 *
 * A course is a pure function of (seed, patient key, opening, answers, number): batch and threads change no bit. */
#ifndef EHR_INFER_DIAGNOSE_H
#define EHR_INFER_DIAGNOSE_H
#include "data/oracle.h"
#include "infer/encounter.h"
#include "infer/rollout.h"

typedef struct {
    double *test, *dx; /* (n_test), (n_dx) probability of being recorded */
    double any;        /* of any diagnosis that the record did not have at the opening */
    double fit;        /* courses that the weights are worth, 0: none is consistent, and nothing else is filled */
} Belief;
void belief_init(Belief *b, const DiagnosisCodes *c);
void belief_free(Belief *b);

typedef struct {
    int samples, max_tokens; /* courses a question; tokens a course */
    int batch;               /* courses at a time, about */
    uint64_t seed;
} DiagnoseOptions;

/* A run of questions about encounters that lie open side by side. */
typedef struct Diagnoser Diagnoser;
Status diagnoser_open(Diagnoser **out, const Law *law, const Vocabulary *v, const DiagnosisCodes *c, const DiagnoseOptions *o,
                      Err *err);
void diagnoser_close(Diagnoser *g);
int diagnoser_width(const Diagnoser *g); /* encounters at a time */
/* Opens e (n at most width): their records up to the opening are read once. */
Status diagnoser_load(Diagnoser *g, const Encounter *const *e, int n, Err *err);
/* belief (n) about each loaded encounter given asked[i] (n_test), NULL = leave it out. */
Status diagnoser_ask(Diagnoser *g, const uint8_t *const *asked, Belief *belief, Err *err);
int64_t diagnoser_tokens(const Diagnoser *g); /* drawn so far */

/* The same of the generator of an oracle cohort, in place of a model; 0: it does not cover this encounter. */
int oracle_believes(const OracleLaw *law, const Dataset *d, const DiagnosisCodes *c, const Encounter *e, const uint8_t *asked,
                    int samples, uint64_t seed, Belief *out);

#endif
