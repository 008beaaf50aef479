/* oracle_risk.c - true risks: futures drawn from the law, with the outcome suppressed and its probability collected.
 *
 * A future in which the outcome cannot happen, weighted by the probability that it did not, gives the exact risk in
 * expectation with far less noise than counting; Rao-Blackwell, in effect. */
#include <math.h>
#include <string.h>

#include "data/oracle.h"
#include "kernels/philox.h"

enum { DAY = 1440, YEAR_DAYS = 365 };

const OracleOutcome ORACLE_OUTCOME[ORACLE_OUTCOMES] = {
    {"death_1y", "MEDS_DEATH", YEAR_DAYS * DAY, 0, 0},
    {"admission_1y", "VISIT//IN", YEAR_DAYS * DAY, 0, 0},
    {"heart_failure_1y", "ICD10CM//I50", YEAR_DAYS * DAY, 1, 0},
    {"diabetes_1y", "ICD10CM//E11", YEAR_DAYS * DAY, 1, 0},
    {"readmission_30d", "VISIT//IN", 30 * DAY, 0, 1},
};

void oracle_outcome_mark(const OracleOutcome *o, uint8_t *mark) {
    for (int what = 0; what < ORACLE_WHATS; what++)
        mark[what] = !oracle_is_gap(what) && code_matches(oracle_item(what).code, o->pattern);
}

/* Minutes that a token takes: gaps what they last, an event one minute unless a gap led to it. */
static int64_t token_minutes(const OracleState *s, int what, OracleRng *rng) {
    if (oracle_is_gap(what)) return oracle_gap_draw(what, rng);
    return s->after_gap ? 0 : 1;
}

/* One future up to the horizon.  with_outcome: it may happen, and the answer is whether it did; else the answer is the
 * probability that it would have. */
static double future(const OracleState *at, const uint8_t *mark, int64_t horizon, OracleRng *rng, int with_outcome) {
    OracleState s = *at;
    int64_t     t = 0;
    double      absent = 1, p;
    while (s.mode != ORACLE_MODE_DEAD) {
        double u = oracle_rng_uniform(rng), before = absent;
        int    what = with_outcome ? oracle_what_draw(&s, u, &p) : oracle_what_draw_without(&s, mark, u, &absent);
        /* What this step passed over would have come now: a minute after the last event, or as the gap ends. */
        if (absent != before && t + (s.after_gap ? 0 : 1) > horizon) {
            absent = before;
            break;
        }
        if (what < 0) break;
        t += token_minutes(&s, what, rng);
        if (t > horizon) break;
        if (with_outcome && mark[what]) return 1;
        oracle_feed(&s, what, oracle_is_lab(what) ? oracle_level_draw(&s, what - ORACLE_LAB, oracle_rng_uniform(rng), &p) : 0);
    }
    return with_outcome ? 0 : 1 - absent;
}

static void estimate(const OracleState *at, const uint8_t *mark, int64_t horizon, int samples, uint64_t key,
                     int with_outcome, double *p, double *se) {
    double sum = 0, squares = 0;
    for (int i = 0; i < samples; i++) {
        OracleRng rng;
        oracle_rng_init(&rng, key, (uint64_t)i);
        double x = future(at, mark, horizon, &rng, with_outcome);
        sum += x;
        squares += x * x;
    }
    double mean = sum / samples, variance = samples > 1 ? (squares - samples * mean * mean) / (samples - 1) : 0;
    *p = mean;
    *se = sqrt(variance > 0 ? variance / samples : 0);
}

void oracle_risk(const OracleState *at, const uint8_t *mark, int64_t horizon_minutes, int samples, uint64_t key, double *p,
                 double *se) {
    estimate(at, mark, horizon_minutes, samples, philox_mix(key, philox_hash("oracle risk")), 0, p, se);
}

void oracle_risk_counted(const OracleState *at, const uint8_t *mark, int64_t horizon_minutes, int samples, uint64_t key,
                         double *p, double *se) {
    estimate(at, mark, horizon_minutes, samples, philox_mix(key, philox_hash("oracle risk counted")), 1, p, se);
}
