/* oracle_risk.c - true risks: futures drawn from the law, with the outcome suppressed and its probability collected.
 *
 * A future in which the outcome cannot happen, and the probability along it that it would have, gives the exact risk in
 * expectation with far less noise than counting.
 *
 * Millions of futures are drawn, so a list is swept in one pass, item by item, and what changes nothing (a known
 * condition told again, a drug renewed) only takes its minute.  q and rates come from oracle.c; oracle_risk_counted
 * draws token by token with oracle_what_draw, and the two are held against each other in tests. */
#include <math.h>
#include <string.h>

#include "data/oracle.h"
#include "kernels/philox.h"

enum { DAY = 1440, YEAR_DAYS = 365 };

const OracleOutcome ORACLE_OUTCOME[ORACLE_OUTCOMES] = {
    {"death_1y", "MEDS_DEATH", YEAR_DAYS *DAY, 0, 0},           {"admission_1y", "VISIT//IN", YEAR_DAYS *DAY, 0, 0},
    {"heart_failure_1y", "ICD10CM//I50", YEAR_DAYS *DAY, 1, 0}, {"diabetes_1y", "ICD10CM//E11", YEAR_DAYS *DAY, 1, 0},
    {"readmission_30d", "VISIT//IN", 30 * DAY, 0, 1},
};

void oracle_outcome_mark(const OracleOutcome *o, uint8_t *mark) {
    for (int what = 0; what < ORACLE_WHATS; what++)
        mark[what] = !oracle_is_gap(what) && code_matches(oracle_item(what).code, o->pattern);
}

/* ---- one future, the outcome suppressed -------------------------------------------------------------------------- */

/* Four 32-bit numbers a block: enough for one choice each. */
typedef struct {
    uint64_t key, stream, counter;
    Philox4 block;
    int used;
} Bits;

static inline uint32_t bits_next(Bits *b) {
    if (b->used == 4) {
        b->block = philox4x32(b->key, b->counter++, b->stream);
        b->used = 0;
    }
    return b->block.v[b->used++];
}

static inline double bits_uniform(Bits *b) { return bits_next(b) * 0x1p-32 + 0x1p-33; }

typedef struct {
    OracleState s;
    const uint8_t *mark;
    int64_t t, horizon; /* minutes since the index */
    double absent;      /* probability so far that the outcome would not have happened */
    Bits bits;
} Future;

static inline int64_t next_minute(const Future *f) { return f->t + (f->s.after_gap ? 0 : 1); }

/* The outcome would happen now with probability p. */
static inline void suppress(Future *f, double p) {
    if (next_minute(f) <= f->horizon) f->absent *= 1 - p;
}

static void happen(Future *f, int what) {
    double p;
    if (oracle_is_gap(what)) {
        int32_t lo = oracle_gap_lo(what), hi = oracle_gap_hi(what);
        f->t += hi > lo ? lo + (int32_t)(bits_uniform(&f->bits) * (hi - lo)) : lo;
    } else {
        f->t = next_minute(f);
    }
    int level = oracle_is_lab(what) ? oracle_level_draw(&f->s, what - ORACLE_LAB, bits_uniform(&f->bits), &p) : 0;
    oracle_feed(&f->s, what, level);
}

/* Something happened that tells nothing new. */
static inline void pass_minute(Future *f) {
    f->t = next_minute(f);
    f->s.after_gap = 0;
}

static void sweep_run(Future *f, const OracleRun *run) {
    for (int i = 0; i < run->n; i++) {
        int what = run->what + i;
        if (f->mark[what]) suppress(f, run->q[i]);
        else if (bits_uniform(&f->bits) < run->q[i]) happen(f, what);
    }
}

/* First of the items from `at` on that is a new condition, -1: none.  One number decides for all. */
static int new_condition(Future *f, const OracleRun *run, uint32_t fresh) {
    double none = 1, u = bits_uniform(&f->bits);
    for (uint32_t left = fresh; left; left &= left - 1) {
        none *= 1 - run->q[__builtin_ctz(left)];
        if (1 - none > u) return __builtin_ctz(left);
    }
    return -1;
}

static void sweep_conditions(Future *f, const OracleRun *run) {
    uint32_t all = (1u << run->n) - 1, marked = 0;
    for (int i = 0; i < run->n; i++) marked |= (uint32_t)f->mark[run->what + i] << i;
    /* Known ones are told again with one half: a random bit each. */
    uint32_t again = bits_next(&f->bits) & f->s.chronic & ~marked;
    for (int at = 0; at < run->n;) {
        oracle_list_refresh(&f->s);
        uint32_t later = all & ~((1u << at) - 1);
        int new = new_condition(f, run, later & ~f->s.chronic & ~marked);
        uint32_t until = later;
        if (new >= 0) until &= (1u << new) - 1;
        for (uint32_t left = until & (again | marked); left; left &= left - 1) {
            int i = __builtin_ctz(left);
            if (marked >> i & 1) suppress(f, run->q[i]);
            else pass_minute(f);
        }
        if (new < 0) return;
        happen(f, run->what + new);
        at = new + 1;
    }
}

static void sweep_drugs(Future *f, const OracleRun *run) {
    for (int i = 0; i < run->n; i++) {
        if (run->q[i] == 0) continue;
        int what = run->what + i;
        if (f->mark[what]) suppress(f, run->q[i]);
        else if (bits_uniform(&f->bits) < run->q[i]) {
            if (f->s.drugs >> i & 1) pass_minute(f);
            else happen(f, what);
        }
    }
}

static void sweep_list(Future *f) {
    OracleRun run[ORACLE_RUNS];
    int n = oracle_list_runs(&f->s, run);
    for (int k = 0; k < n && f->t <= f->horizon; k++) {
        if (run[k].what == ORACLE_CHRONIC_DX) sweep_conditions(f, &run[k]);
        else if (run[k].what == ORACLE_DRUG) sweep_drugs(f, &run[k]);
        else sweep_run(f, &run[k]);
    }
}

/* A choice among the unmarked; 0: nothing else can happen. */
static int choose(Future *f, const OracleChoices *c) {
    double marked = 0, u;
    int last = -1;
    for (int i = 0; i < c->n; i++) {
        if (f->mark[c->what[i]]) marked += c->p[i];
        else last = i;
    }
    if (marked > 0) suppress(f, marked);
    if (last < 0) return 0;
    u = bits_uniform(&f->bits) * (1 - marked);
    for (int i = 0; i < last; i++) {
        if (f->mark[c->what[i]]) continue;
        if (u < c->p[i]) {
            last = i;
            break;
        }
        u -= c->p[i];
    }
    happen(f, c->what[last]);
    return 1;
}

/* From the end of a visit to the next contact: an exponential time from one day on, told in gap tokens. */
static int at_home(Future *f) {
    OracleChoices type = {.n = 3, .what = {ORACLE_VISIT_OUT, ORACLE_VISIT_IN, ORACLE_DEATH}};
    for (;;) {
        double sum = oracle_home_rates(&f->s, type.p);
        double days = 1 - log(bits_uniform(&f->bits)) / sum;
        int32_t minutes = days < 180 ? (int32_t)(days * DAY) : 180 * DAY;
        int bin = vocabulary_gap_bin(minutes);
        happen(f, ORACLE_GAP + bin);
        if (f->t > f->horizon) return 0;
        if (bin == GAP_BINS) continue;
        for (int k = 0; k < 3; k++) type.p[k] /= sum;
        return choose(f, &type);
    }
}

static double future(const OracleState *at, const uint8_t *mark, int64_t horizon, uint64_t key, uint64_t sample) {
    Future f = {
        .s = *at, .mark = mark, .horizon = horizon, .absent = 1, .bits = {.key = key, .stream = sample, .used = 4}};
    while (f.t <= horizon && f.s.mode != ORACLE_MODE_DEAD) {
        if (f.s.mode == ORACLE_MODE_HOME) {
            if (!at_home(&f)) break;
            continue;
        }
        sweep_list(&f);
        if (f.t > horizon) break;
        OracleChoices c;
        oracle_choices(&f.s, &c);
        if (!choose(&f, &c)) break;
    }
    return 1 - f.absent;
}

/* ---- one future, token by token ---------------------------------------------------------------------------------- */

static double future_counted(const OracleState *at, const uint8_t *mark, int64_t horizon, uint64_t key,
                             uint64_t sample) {
    OracleState s = *at;
    OracleRng rng;
    oracle_rng_init(&rng, key, sample);
    for (int64_t t = 0; s.mode != ORACLE_MODE_DEAD;) {
        double p;
        int what = oracle_what_draw(&s, oracle_rng_uniform(&rng), &p);
        t += oracle_is_gap(what) ? oracle_gap_draw(what, &rng) : s.after_gap ? 0 : 1;
        if (t > horizon) break;
        if (mark[what]) return 1;
        oracle_feed(&s, what,
                    oracle_is_lab(what) ? oracle_level_draw(&s, what - ORACLE_LAB, oracle_rng_uniform(&rng), &p) : 0);
    }
    return 0;
}

static void estimate(double (*draw)(const OracleState *, const uint8_t *, int64_t, uint64_t, uint64_t),
                     const OracleState *at, const uint8_t *mark, int64_t horizon, int samples, uint64_t key, double *p,
                     double *se) {
    double sum = 0, squares = 0;
    for (int i = 0; i < samples; i++) {
        double x = draw(at, mark, horizon, key, (uint64_t)i);
        sum += x;
        squares += x * x;
    }
    double mean = sum / samples, variance = samples > 1 ? (squares - samples * mean * mean) / (samples - 1) : 0;
    *p = mean;
    *se = sqrt(variance > 0 ? variance / samples : 0);
}

void oracle_risk(const OracleState *at, const uint8_t *mark, int64_t horizon_minutes, int samples, uint64_t key,
                 double *p, double *se) {
    estimate(future, at, mark, horizon_minutes, samples, philox_mix(key, philox_hash("oracle risk")), p, se);
}

void oracle_risk_counted(const OracleState *at, const uint8_t *mark, int64_t horizon_minutes, int samples, uint64_t key,
                         double *p, double *se) {
    estimate(future_counted, at, mark, horizon_minutes, samples, philox_mix(key, philox_hash("oracle risk counted")), p,
             se);
}
