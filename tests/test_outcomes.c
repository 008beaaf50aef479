/* test_outcomes.c - several outcomes in one pool of futures, each with its horizon and stops; curves and competing ends
 * against enumeration; looks at a growing number of samples; the next event alone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "infer/estimate.h"
#include "tests/tiny_law.h"

enum { POINTS = 6 };
#define HORIZON_A (365 * 1440.0)
#define HORIZON_B (200 * 1440.0)

typedef struct {
    int n, n_outcomes;
    RolloutSample *sample;
    float *curve; /* (n, n_outcomes, POINTS, 2) */
} Kept;

static Status keep_job(void *ctx, int64_t i, RolloutJob *job, Err *err) {
    static uint16_t tokens[8];
    static int32_t minutes[8];
    (void)ctx;
    (void)i;
    (void)err;
    job->patient = make_patient(1, 3, tokens, minutes);
    job->index_minutes = minutes[2];
    job->n_known = 3;
    return OK;
}

static Status keep_done(void *ctx, int64_t i, const RolloutJob *job, const RolloutSample *s, int n, Err *err) {
    (void)i;
    (void)job;
    (void)err;
    Kept *k = ctx;
    k->n = n;
    k->sample = malloc((size_t)n * sizeof *s);
    memcpy(k->sample, s, (size_t)n * sizeof *s);
    size_t each = (size_t)k->n_outcomes * POINTS * 2;
    k->curve = calloc((size_t)n * each, sizeof *k->curve);
    for (int j = 0; s[0].curve && j < n; j++) memcpy(k->curve + (size_t)j * each, s[j].curve, each * sizeof *k->curve);
    return OK;
}

static Kept run_tiny(RolloutOptions o, int (*enough)(void *, int64_t, const RolloutSample *, int)) {
    Vocabulary v = make_vocabulary();
    Law law = {.logits = tiny_law, .seq_len = 64};
    Err err = {OK, ""};
    RolloutStats stats;
    Kept k = {.n_outcomes = o.n_outcomes};
    RolloutCallbacks cb = {.get_job = keep_job, .job_done = keep_done, .enough = enough, .ctx = &k};
    if (rollout_run(&law, &v, &o, 1, &cb, &stats, &err)) fail_msg("%s", err.msg);
    return k;
}

static void kept_free(Kept *k) {
    free(k->sample);
    free(k->curve);
}

static RolloutOptions tiny_options(Estimator e, int n) {
    return (RolloutOptions){.n_samples = n,
                            .batch = 64,
                            .max_tokens = 500,
                            .seed = 7,
                            .horizon_minutes = HORIZON_A,
                            .estimator = e,
                            .mean_clock = 1,
                            .temperature = 1,
                            .n_curve = POINTS};
}

/* Everything that a sample says about an outcome must not depend on what else is watched. */
static void check_alone(RolloutOptions o, const Kept *pool, int k, const uint32_t *bits, const uint32_t *stops,
                        double horizon) {
    uint32_t mark[N_TOKENS] = {0}, stop[N_TOKENS] = {0};
    for (int i = 0; i < N_TOKENS; i++) {
        mark[i] = bits[i] >> k & 1;
        stop[i] = stops[i] >> k & 1;
    }
    o.outcome_bits = mark;
    o.stop_bits = stop;
    o.outcome_horizon = NULL;
    o.horizon_minutes = horizon;
    o.n_outcomes = 1;
    Kept alone = run_tiny(o, NULL);
    int hits = 0;
    for (int i = 0; i < alone.n; i++) {
        const RolloutSample *a = &pool->sample[i], *b = &alone.sample[i];
        hits += isfinite(b->hit_minutes[0]) != 0;
        assert_true(a->risk[k] == b->risk[0] && a->competing[k] == b->competing[0]);
        assert_true(a->weighted_minutes[k] == b->weighted_minutes[0] && a->decided[k] == b->decided[0]);
        assert_memory_equal(pool->curve + ((size_t)i * 2 + (size_t)k) * POINTS * 2,
                            alone.curve + (size_t)i * POINTS * 2, POINTS * 2 * sizeof(float));
    }
    assert_true(hits > 0 && hits < alone.n);
    kept_free(&alone);
}

static void test_outcomes_of_one_pool_are_those_of_their_own(void **state) {
    (void)state;
    uint32_t bits[N_TOKENS] = {0}, stops[N_TOKENS] = {0};
    double horizon[2] = {HORIZON_A, HORIZON_B};
    bits[EVENT_A] = 1;
    bits[EVENT_B] = 2;
    bits[DEATH] = 2;
    stops[EVENT_B] = 1;
    for (int e = ESTIMATOR_MC; e <= ESTIMATOR_SCOPE; e++) {
        RolloutOptions o = tiny_options((Estimator)e, 200);
        o.outcome_bits = bits;
        o.outcome_horizon = horizon;
        o.stop_bits = stops;
        o.n_outcomes = 2;
        Kept pool = run_tiny(o, NULL);
        for (int k = 0; k < 2; k++) check_alone(o, &pool, k, bits, stops, horizon[k]);
        kept_free(&pool);
    }
}

/* P(A by minute `until`) or P(death before A by then), by enumeration with the mean clock. */
static double exact_by(const Vocabulary *v, int last, double now, double until, int death) {
    if (last >= GAP && last < DEATH) return (death ? .05 : .1) + .85 * exact_by(v, EVENT_B, now, until, death);
    double p = death ? 0 : .2;
    for (int b = 16; b < 18; b++) {
        double t = now + vocabulary_gap_minutes(v, GAP + b, -1);
        if (t <= until) p += (b == 16 ? .3 : .5) * exact_by(v, GAP + b, t, until, death);
    }
    return p;
}

static void test_curves_and_competing_ends_against_enumeration(void **state) {
    (void)state;
    enum { N = 20000 };
    Vocabulary v = make_vocabulary();
    uint32_t mark[N_TOKENS] = {0};
    mark[EVENT_A] = 1;
    double *x = malloc(N * sizeof *x), variance[3];
    for (int e = ESTIMATOR_MC; e <= ESTIMATOR_REACH; e++) {
        RolloutOptions o = tiny_options((Estimator)e, N);
        o.outcome_bits = mark;
        o.n_outcomes = 1;
        Kept k = run_tiny(o, NULL);
        for (int p = 0; p < POINTS; p++)
            for (int death = 0; death < 2; death++) {
                for (int i = 0; i < N; i++) x[i] = k.curve[((size_t)i * POINTS + (size_t)p) * 2 + (size_t)death];
                RiskEstimate r = mean_estimate(x, N, 1);
                double truth = exact_by(&v, EVENT_B, 0, HORIZON_A * (p + 1) / POINTS, death);
                if (fabs(r.risk - truth) > 4 * r.mc_se + 1e-6)
                    fail_msg("estimator %d, point %d, %s: %g, truth %g, se %g", e, p, death ? "death" : "A", r.risk,
                             truth, r.mc_se);
                if (p == POINTS - 1 && !death) variance[e] = r.mc_se * r.mc_se;
            }
        for (int i = 0; i < N; i++) {
            size_t last = ((size_t)i * POINTS + POINTS - 1) * 2;
            assert_true((float)k.sample[i].risk[0] == k.curve[last] &&
                        (float)k.sample[i].competing[0] == k.curve[last + 1]);
        }
        kept_free(&k);
    }
    assert_true(variance[ESTIMATOR_REACH] < variance[ESTIMATOR_MC]);
    free(x);
}

/* Sum over futures of the minute of A, by enumeration with the mean clock. */
static double exact_minutes(const Vocabulary *v, int last, double now, double until) {
    if (last >= GAP && last < DEATH) return .1 * now + .85 * exact_minutes(v, EVENT_B, now, until);
    double sum = .2 * now;
    for (int b = 16; b < 18; b++) {
        double t = now + vocabulary_gap_minutes(v, GAP + b, -1);
        if (t <= until) sum += (b == 16 ? .3 : .5) * exact_minutes(v, GAP + b, t, until);
    }
    return sum;
}

/* When the outcome comes, by every estimator: the lead time that is reported is this over the risk. */
static void test_minutes_of_the_outcome(void **state) {
    (void)state;
    enum { N = 20000 };
    Vocabulary v = make_vocabulary();
    uint32_t mark[N_TOKENS] = {0};
    mark[EVENT_A] = 1;
    const double truth = exact_minutes(&v, EVENT_B, 0, HORIZON_A);
    double *x = calloc(N, sizeof *x);
    for (int e = ESTIMATOR_MC; e <= ESTIMATOR_REACH; e++) {
        RolloutOptions o = tiny_options((Estimator)e, N);
        o.outcome_bits = mark;
        o.n_outcomes = 1;
        Kept k = run_tiny(o, NULL);
        for (int i = 0; i < N; i++) x[i] = k.sample[i].weighted_minutes[0];
        for (int i = 0; i < N; i++) { /* nothing is told of what lies beyond; the only outcome is decided as its future ends */
            assert_true(k.sample[i].minutes <= HORIZON_A);
            assert_int_equal(k.sample[i].decided[0], k.sample[i].n_tokens);
        }
        const RiskEstimate r = mean_estimate(x, N, 1);
        if (fabs(r.risk - truth) > 4 * r.mc_se + 1e-6) fail_msg("estimator %d: %g, truth %g, se %g", e, r.risk, truth, r.mc_se);
        kept_free(&k);
    }
    free(x);
}

static int enough_at_256(void *ctx, int64_t i, const RolloutSample *s, int n) {
    (void)ctx;
    (void)i;
    (void)s;
    return n >= 256;
}

static void test_sampling_ends_at_a_look_and_changes_no_sample(void **state) {
    (void)state;
    uint32_t mark[N_TOKENS] = {0};
    mark[EVENT_A] = 1;
    RolloutOptions o = tiny_options(ESTIMATOR_MC, 1000);
    o.outcome_bits = mark;
    o.n_outcomes = 1;
    Kept all = run_tiny(o, NULL);
    o.first_look = 64;
    Kept some = run_tiny(o, enough_at_256);
    assert_int_equal(all.n, 1000);
    assert_int_equal(some.n, 256);
    for (int i = 0; i < 256; i++)
        assert_true(all.sample[i].risk[0] == some.sample[i].risk[0] &&
                    all.sample[i].n_tokens == some.sample[i].n_tokens);
    kept_free(&some);
    o.n_samples = 200; /* the last look is at what there is */
    some = run_tiny(o, enough_at_256);
    assert_int_equal(some.n, 200);
    kept_free(&some);
    kept_free(&all);
}

/* A at once, .2, is too early: it ends a future without the outcome, or is passed over and A may come again. */
static void test_outcomes_that_come_too_early(void **state) {
    (void)state;
    enum { N = 20000 };
    Vocabulary v = make_vocabulary();
    uint32_t mark[N_TOKENS] = {0};
    mark[EVENT_A] = 1;
    const double after = 1440, later = exact_by(&v, EVENT_B, 0, HORIZON_A, 0) - .2;
    double *x = calloc(N, sizeof *x);
    for (int e = ESTIMATOR_MC; e <= ESTIMATOR_REACH; e++)
        for (int ends = 0; ends < 2; ends++) {
            RolloutOptions o = tiny_options((Estimator)e, N);
            o.outcome_bits = mark;
            o.n_outcomes = 1;
            o.outcome_after = &after;
            o.after_ends = (uint32_t)ends;
            Kept k = run_tiny(o, NULL);
            for (int i = 0; i < N; i++) x[i] = k.sample[i].risk[0];
            const RiskEstimate r = mean_estimate(x, N, 1);
            const double truth = ends ? later : later / .8;
            if (fabs(r.risk - truth) > 4 * r.mc_se + 1e-6)
                fail_msg("estimator %d, %s: %g, truth %g, se %g", e, ends ? "ended" : "passed over", r.risk, truth, r.mc_se);
            kept_free(&k);
        }
    free(x);
}

/* The last minute of a horizon counts, and the last of those that are too early does not; a point of a curve has what
 * happened in its minute.  By the mean clock the shorter gap ends on day 45 to the minute. */
static void test_minutes_at_the_edge(void **state) {
    (void)state;
    enum { N = 20000 };
    Vocabulary v = make_vocabulary();
    uint32_t mark[N_TOKENS] = {0};
    mark[EVENT_A] = 1;
    const double day45 = 45 * 1440, by_then = .2 + .3 * (.1 + .85 * .2), by_end = exact_by(&v, EVENT_B, 0, HORIZON_A, 0);
    assert_true(vocabulary_gap_minutes(&v, GAP + 16, -1) == day45);
    double *x = calloc(N, sizeof *x);
    for (int e = ESTIMATOR_MC; e <= ESTIMATOR_REACH; e++)
        for (int edge = 0; edge < 4; edge++) {
            RolloutOptions o = tiny_options((Estimator)e, N);
            o.outcome_bits = mark;
            o.n_outcomes = 1;
            if (edge == 0) o.horizon_minutes = day45;
            if (edge == 1) o.outcome_horizon = &day45;
            if (edge == 2) o.horizon_minutes = POINTS * day45;
            if (edge == 3) o.outcome_after = &day45, o.after_ends = 1;
            Kept k = run_tiny(o, NULL);
            for (int i = 0; i < N; i++) x[i] = edge == 2 ? k.curve[(size_t)i * POINTS * 2] : k.sample[i].risk[0];
            const RiskEstimate r = mean_estimate(x, N, 1);
            const double truth = edge == 3 ? by_end - by_then : by_then;
            if (fabs(r.risk - truth) > 4 * r.mc_se + 1e-6) fail_msg("estimator %d, edge %d: %g, truth %g, se %g", e, edge, r.risk, truth, r.mc_se);
            kept_free(&k);
        }
    free(x);
}

/* .2 at once, or .1 after the first gap; what follows does not count. */
static void test_next_event_alone(void **state) {
    (void)state;
    uint32_t mark[N_TOKENS] = {0};
    mark[EVENT_A] = 1;
    double x[4000];
    RolloutOptions o = tiny_options(ESTIMATOR_SCOPE, 4000);
    o.outcome_bits = mark;
    o.n_outcomes = 1;
    o.first_event = 1;
    Kept k = run_tiny(o, NULL);
    for (int i = 0; i < k.n; i++) x[i] = k.sample[i].risk[0];
    RiskEstimate r = mean_estimate(x, k.n, 1);
    assert_true(fabs(r.risk - (.2 + .8 * .1)) < 4 * r.mc_se + 1e-6);
    kept_free(&k);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_outcomes_of_one_pool_are_those_of_their_own),
        cmocka_unit_test(test_curves_and_competing_ends_against_enumeration),
        cmocka_unit_test(test_sampling_ends_at_a_look_and_changes_no_sample),
        cmocka_unit_test(test_outcomes_that_come_too_early),
        cmocka_unit_test(test_minutes_of_the_outcome),
        cmocka_unit_test(test_minutes_at_the_edge),
        cmocka_unit_test(test_next_event_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
