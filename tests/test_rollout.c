/* test_rollout.c - cache bookkeeping; estimators against a law small enough to enumerate; results that do not depend on
 * batch or threads; refills beyond the context. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "infer/estimate.h"
#include "infer/rollout_step.h"
#include "infer/rollout_window.h"
#include "tests/tiny_law.h"

/* ---- collecting results -------------------------------------------------------------------------------------------- */

enum { JOBS = 5 };
typedef struct {
    PatientView patient[JOBS];
    int         n_samples;
    double     *risk;    /* (JOBS, n_samples) of outcome 0 */
    double      competing; /* sum over all */
    int        *tokens;  /* (JOBS, n_samples) */
    uint64_t    hash;    /* of all paths, in job and sample order */
    uint64_t    job_hash[JOBS];
} Collected;

static Status get_job(void *ctx, int64_t i, RolloutJob *job, Err *err) {
    (void)err;
    Collected *c = ctx;
    job->patient = c->patient[i];
    job->index_minutes = c->patient[i].n ? c->patient[i].minutes[c->patient[i].n - 1] : 0;
    job->n_known = rollout_known(&job->patient, job->index_minutes);
    return OK;
}

static Status job_done(void *ctx, int64_t i, const RolloutJob *job, const RolloutSample *s, int n, Err *err) {
    (void)job;
    assert_int_equal(n, ((Collected *)ctx)->n_samples);
    (void)err;
    Collected *c = ctx;
    uint64_t h = 0;
    for (int k = 0; k < c->n_samples; k++) {
        c->risk[i * c->n_samples + k] = s[k].risk[0];
        c->competing += s[k].competing[0];
        c->tokens[i * c->n_samples + k] = s[k].n_tokens;
        uint64_t bits;
        memcpy(&bits, &s[k].risk[0], sizeof bits);
        h = h * 1000003 + bits;
        for (int t = 0; s[k].tokens && t < s[k].n_tokens; t++) {
            memcpy(&bits, &s[k].token_minutes[t], sizeof bits);
            h = h * 1000003 + (uint64_t)s[k].tokens[t] * 31 + bits;
        }
    }
    c->job_hash[i] = h;
    return OK;
}

static RolloutStats run(const Law *law, const Vocabulary *v, RolloutOptions o, int n_jobs, Collected *c) {
    Err err = {OK, ""};
    RolloutStats stats;
    c->n_samples = o.n_samples;
    c->risk = calloc((size_t)n_jobs * (size_t)o.n_samples, sizeof *c->risk);
    c->tokens = calloc((size_t)n_jobs * (size_t)o.n_samples, sizeof *c->tokens);
    RolloutCallbacks cb = {.get_job = get_job, .job_done = job_done, .ctx = c};
    Status s = rollout_run(law, v, &o, n_jobs, &cb, &stats, &err);
    if (s) fail_msg("%s", err.msg);
    c->hash = 0;
    for (int i = 0; i < n_jobs; i++) c->hash = c->hash * 1000003 + c->job_hash[i];
    return stats;
}

static void collected_free(Collected *c) {
    free(c->risk);
    free(c->tokens);
}

/* ---- a law to enumerate ----------------------------------------------------------------------------------------- */

/* Exact probability that A happens within the horizon, by enumeration with the mean clock. */
static double exact(const Vocabulary *v, int last, double now, double horizon) {
    if (last >= GAP && last < DEATH) return .1 + .85 * exact(v, EVENT_B, now, horizon);
    double p = .2;
    for (int b = 16; b < 18; b++) {
        double t = now + vocabulary_gap_minutes(v, GAP + b, -1);
        if (t <= horizon) p += (b == 16 ? .3 : .5) * exact(v, GAP + b, t, horizon);
    }
    return p;
}

static void test_estimators_are_unbiased(void **state) {
    (void)state;
    Vocabulary v = make_vocabulary();
    uint16_t tokens[8];
    int32_t minutes[8];
    uint32_t mark[N_TOKENS] = {0};
    mark[EVENT_A] = 1;
    Law law = {.logits = tiny_law, .seq_len = 64};
    double truth = exact(&v, EVENT_B, 0, 365 * 1440.0), variance[3];
    for (int e = ESTIMATOR_MC; e <= ESTIMATOR_REACH; e++) {
        Collected c = {0};
        c.patient[0] = make_patient(1, 3, tokens, minutes);
        RolloutOptions o = {.n_samples = 20000, .batch = 64, .max_tokens = 500, .seed = 7, .horizon_minutes = 365 * 1440.0,
                            .estimator = (Estimator)e, .outcome_bits = mark, .n_outcomes = 1, .mean_clock = 1,
                            .temperature = 1};
        run(&law, &v, o, 1, &c);
        RiskEstimate r = risk_estimate((Estimator)e, c.risk, o.n_samples, 1);
        variance[e] = r.mc_se * r.mc_se;
        if (fabs(r.risk - truth) > 4 * r.mc_se) fail_msg("estimator %d: %g, truth %g, se %g", e, r.risk, truth, r.mc_se);
        assert_true(r.lo <= truth && truth <= r.hi);
        collected_free(&c);
    }
    assert_true(variance[ESTIMATOR_REACH] < variance[ESTIMATOR_MC]);
}

/* B ends a future: only A drawn before any B counts, so the risk is .2 + .8 x .1 when gaps fit the horizon. */
static void test_stop_events_end_a_future(void **state) {
    (void)state;
    Vocabulary v = make_vocabulary();
    uint16_t tokens[8];
    int32_t minutes[8];
    uint32_t mark[N_TOKENS] = {0}, stop[N_TOKENS] = {0};
    mark[EVENT_A] = 1;
    stop[EVENT_B] = 1;
    Law law = {.logits = tiny_law, .seq_len = 64};
    for (int e = ESTIMATOR_MC; e <= ESTIMATOR_REACH; e++) {
        Collected c = {0};
        c.patient[0] = make_patient(1, 3, tokens, minutes);
        RolloutOptions o = {.n_samples = 20000, .batch = 64, .max_tokens = 500, .seed = 7, .horizon_minutes = 365 * 1440.0,
                            .estimator = (Estimator)e, .outcome_bits = mark, .n_outcomes = 1, .stop_bits = stop,
                            .temperature = 1};
        run(&law, &v, o, 1, &c);
        RiskEstimate r = risk_estimate((Estimator)e, c.risk, o.n_samples, 1);
        assert_true(fabs(r.risk - .28) <= 4 * r.mc_se + 1e-6);
        collected_free(&c);
    }
}

static Status late_job(void *ctx, int64_t i, RolloutJob *job, Err *err) {
    Status s = get_job(ctx, i, job, err);
    job->index_minutes += 100 * 1440;
    return s;
}

static Status late_done(void *ctx, int64_t i, const RolloutJob *job, const RolloutSample *s, int n, Err *err) {
    (void)n;
    (void)i;
    (void)job;
    (void)err;
    Collected *c = ctx;
    double mean = 0;
    int at_once = 0;
    for (int k = 0; k < c->n_samples; k++) {
        assert_int_equal(s[k].n_tokens, 1);
        assert_int_equal(s[k].tokens[0], GAP + 17);
        assert_true(s[k].token_minutes[0] >= 0 && s[k].token_minutes[0] <= 80 * 1440);
        mean += s[k].token_minutes[0] / 1440 / c->n_samples;
        at_once += s[k].token_minutes[0] < 4 * 1440;
    }
    /* Quantiles of 60 d - 180 d, of which those beyond 100 d are left: evenly over 80 d, nothing heaped up at the index. */
    if (fabs(mean - 40) > 4 || at_once > c->n_samples / 10) fail_msg("%g d to come, %d of them at once", mean, at_once);
    return OK;
}

/* After a gap: B, the end of a visit, .6, A, a result, .4.  After B: at once DEATH .3 or A .1, else a gap.  After A: a gap. */
static void visit_law(void *ctx, const int32_t *tokens, int n, float *out) {
    (void)ctx;
    const int last = tokens[n - 1];
    for (int i = 0; i < N_TOKENS; i++) out[i] = -INFINITY;
    if (last >= GAP && last < DEATH) {
        out[EVENT_B] = logf(.6f);
        out[EVENT_A] = logf(.4f);
    } else {
        out[GAP + 16] = last == EVENT_B ? logf(.6f) : 0;
        if (last == EVENT_B) out[DEATH] = logf(.3f), out[EVENT_A] = logf(.1f);
    }
}

/* What a minute tells behind the end of a visit, as only its death may be, is of that visit still; labels have it so, and
 * in records of those who died in hospital the end comes first.  A result cannot follow in the same minute. */
static void test_death_in_the_minute_of_a_stop(void **state) {
    (void)state;
    Vocabulary v = make_vocabulary();
    uint16_t tokens[8];
    int32_t minutes[8];
    uint32_t stop[N_TOKENS] = {0};
    token_table[EVENT_A].event_kind = KIND_LAB;
    token_table[EVENT_B].event_kind = KIND_VISIT_END;
    token_table[DEATH].event_kind = KIND_DEATH;
    stop[EVENT_B] = 1;
    Law law = {.logits = visit_law, .seq_len = 64};
    const struct { int token; double risk; } outcome[] = {{DEATH, .3}, {EVENT_A, .4}};
    for (int e = ESTIMATOR_MC; e <= ESTIMATOR_REACH; e++)
        for (int k = 0; k < 2; k++) {
            Collected c = {0};
            uint32_t mark[N_TOKENS] = {0};
            mark[outcome[k].token] = 1;
            c.patient[0] = make_patient(1, 2, tokens, minutes);
            RolloutOptions o = {.n_samples = 20000, .batch = 64, .max_tokens = 500, .seed = 7, .horizon_minutes = 3650 * 1440.0,
                                .estimator = (Estimator)e, .outcome_bits = mark, .n_outcomes = 1, .stop_bits = stop,
                                .temperature = 1};
            run(&law, &v, o, 1, &c);
            RiskEstimate r = risk_estimate((Estimator)e, c.risk, o.n_samples, 1);
            if (fabs(r.risk - outcome[k].risk) > 4 * r.mc_se + 1e-6)
                fail_msg("estimator %d, outcome %d: %g, truth %g, se %g", e, k, r.risk, outcome[k].risk, r.mc_se);
            collected_free(&c);
        }
    /* Told by one kind, either may come first: A behind B counts, .4 + .6 x .1, and a death behind B competes with nothing. */
    token_table[EVENT_A].event_kind = KIND_VISIT_END;
    for (int e = ESTIMATOR_MC; e <= ESTIMATOR_REACH; e++) {
        Collected c = {0};
        uint32_t mark[N_TOKENS] = {0};
        mark[EVENT_A] = 1;
        c.patient[0] = make_patient(1, 2, tokens, minutes);
        RolloutOptions o = {.n_samples = 20000, .batch = 64, .max_tokens = 500, .seed = 7, .horizon_minutes = 3650 * 1440.0,
                            .estimator = (Estimator)e, .outcome_bits = mark, .n_outcomes = 1, .stop_bits = stop, .temperature = 1};
        run(&law, &v, o, 1, &c);
        RiskEstimate r = risk_estimate((Estimator)e, c.risk, o.n_samples, 1);
        if (fabs(r.risk - .46) > 4 * r.mc_se + 1e-6) fail_msg("estimator %d: %g, truth .46, se %g", e, r.risk, r.mc_se);
        assert_true(c.competing == 0);
        collected_free(&c);
    }
}

/* The index lies 100 d after the last event: of what the law allows, only the gap of 60 d - 180 d outlasts that, and only
 * its rest, at most 80 d, still runs. */
static void test_gap_running_at_the_index(void **state) {
    (void)state;
    Vocabulary v = make_vocabulary();
    uint16_t tokens[8];
    int32_t minutes[8];
    uint32_t mark[N_TOKENS] = {0};
    mark[EVENT_A] = 1;
    Law law = {.logits = tiny_law, .seq_len = 64};
    Collected c = {.n_samples = 500};
    c.patient[0] = make_patient(1, 3, tokens, minutes);
    RolloutOptions o = {.n_samples = 500, .batch = 64, .max_tokens = 1, .seed = 7, .horizon_minutes = 365 * 1440.0,
                        .estimator = ESTIMATOR_MC, .outcome_bits = mark, .n_outcomes = 1, .temperature = 1, .keep_paths = 1};
    Err err = {OK, ""};
    RolloutStats stats;
    RolloutCallbacks cb = {.get_job = late_job, .job_done = late_done, .ctx = &c};
    assert_int_equal(rollout_run(&law, &v, &o, 1, &cb, &stats, &err), OK);
    assert_int_equal(stats.samples, 500);
}

/* ---- a model ------------------------------------------------------------------------------------------------------- */

static Model open_model(Device *dev, int seq_len) {
    ModelConfig cfg;
    Err err = {OK, ""};
    if (config_preset(&cfg, "nano", &err)) fail_msg("%s", err.msg);
    cfg.n_layers = 2;
    cfg.vocab_size = N_TOKENS;
    cfg.seq_len = seq_len;
    cfg.init_std = 0.2; /* far from uniform, so that a wrong bit changes draws */
    Model m;
    if (config_check(&cfg, &err) || model_open(&m, &cfg, dev, DTYPE_F32, 1, &err)) fail_msg("%s", err.msg);
    model_init(&m, 3);
    if (model_prepare(&m, DTYPE_F32, &err)) fail_msg("%s", err.msg);
    return m;
}

static uint64_t model_run_as(int threads, int batch, int seq_len, Estimator e, int exact_window, DType kv_type,
                             RolloutStats *stats) {
    char why[256];
    Device *dev = device_open(DEVICE_CPU, 0, threads, why, sizeof why);
    assert_non_null(dev);
    Model m = open_model(dev, seq_len);
    m.kv_type = kv_type;
    Vocabulary v = make_vocabulary();
    static uint16_t tokens[JOBS][200];
    static int32_t minutes[JOBS][200];
    const int n[JOBS] = {3, 70, 130, 0, 64};
    Collected c = {0};
    for (int i = 0; i < JOBS; i++) c.patient[i] = make_patient((uint64_t)i, n[i], tokens[i], minutes[i]);
    uint32_t mark[N_TOKENS] = {0};
    mark[EVENT_A] = 1;
    mark[DEATH] = 2;
    RolloutOptions o = {.n_samples = 9, .batch = batch, .max_tokens = exact_window ? 12 : 120, .seed = 11, .horizon_minutes = 400 * 1440.0,
                        .estimator = e, .outcome_bits = mark, .n_outcomes = e == ESTIMATOR_REACH ? 1 : 2, .temperature = 1,
                        .keep_paths = 1, .exact_window = exact_window};
    Law law = {.model = &m, .seq_len = seq_len};
    *stats = run(&law, &v, o, JOBS, &c);
    collected_free(&c);
    model_close(&m);
    device_close(dev);
    return c.hash;
}

static uint64_t model_run(int threads, int batch, int seq_len, Estimator e, RolloutStats *stats) {
    return model_run_as(threads, batch, seq_len, e, 0, DTYPE_F32, stats);
}

static void test_batch_and_threads_change_nothing(void **state) {
    (void)state;
    RolloutStats st;
    for (int e = ESTIMATOR_MC; e <= ESTIMATOR_REACH; e++) {
        uint64_t one = model_run(1, 1, 256, (Estimator)e, &st);
        assert_int_equal(st.samples, JOBS * 9);
        assert_true(model_run(1, 7, 256, (Estimator)e, &st) == one);
        assert_true(model_run(2, 64, 256, (Estimator)e, &st) == one);
    }
    uint64_t narrow = model_run_as(1, 1, 256, ESTIMATOR_SCOPE, 0, DTYPE_BF16, &st);
    assert_true(narrow != model_run(1, 1, 256, ESTIMATOR_SCOPE, &st)); /* the cache is another one */
    assert_true(model_run_as(1, 7, 256, ESTIMATOR_SCOPE, 0, DTYPE_BF16, &st) == narrow);
    assert_true(model_run_as(2, 64, 256, ESTIMATOR_SCOPE, 0, DTYPE_BF16, &st) == narrow);
}

static void test_refill_beyond_the_context(void **state) {
    (void)state;
    RolloutStats st;
    uint64_t one = model_run(1, 1, 64, ESTIMATOR_REACH, &st);
    assert_true(st.refills > 0);
    assert_true(model_run(2, 64, 64, ESTIMATOR_REACH, &st) == one);
}

static void test_exact_window_beyond_the_context(void **state) {
    (void)state;
    RolloutStats st, block;
    uint64_t one = model_run_as(1, 1, 64, ESTIMATOR_MC, 1, DTYPE_F32, &st);
    assert_true(model_run_as(1, 64, 64, ESTIMATOR_MC, 1, DTYPE_F32, &st) == one);
    assert_true(model_run(1, 64, 64, ESTIMATOR_MC, &block) != one);
    assert_true(st.refills > 4 * block.refills && block.refills > 0);
}

/* A record of more than 8,192 tokens, prefilled as one, and futures behind it. */
static void test_long_record(void **state) {
    (void)state;
    enum { LONG = 8200, CONTEXT = 11000 };
    char why[256];
    static uint16_t tokens[LONG];
    static int32_t minutes[LONG];
    Device *dev = device_open(DEVICE_CPU, 0, 2, why, sizeof why);
    assert_non_null(dev);
    Model m = open_model(dev, CONTEXT);
    Vocabulary v = make_vocabulary();
    uint32_t mark[N_TOKENS] = {0};
    mark[DEATH] = 1;
    Law law = {.model = &m, .seq_len = CONTEXT};
    Collected c = {.patient = {make_patient(1, LONG, tokens, minutes)}};
    RolloutOptions o = {.n_samples = 2, .batch = 2, .max_tokens = 12, .seed = 11, .horizon_minutes = 4000 * 1440.0,
                        .estimator = ESTIMATOR_REACH, .outcome_bits = mark, .n_outcomes = 1, .temperature = 1, .keep_paths = 1};
    RolloutStats st = run(&law, &v, o, 1, &c);
    assert_true(st.prefill_tokens == LONG + 3 && st.samples == 2 && c.tokens[0] == 12 && c.tokens[1] == 12);
    assert_true(c.risk[0] > 0 && c.risk[0] < 1 && c.risk[1] > 0 && c.risk[1] < 1 && c.risk[0] != c.risk[1]);
    collected_free(&c);
    model_close(&m);
    device_close(dev);
}

/* ---- jobs of one patient ---------------------------------------------------------------------------------------------- */

typedef struct {
    Collected c;
    int64_t   known[JOBS];
    int32_t   given[2];
    int       n_given[JOBS];
    int64_t   out[2];
    int       n_out[JOBS];
} SameJobs;

static Status same_job(void *ctx, int64_t i, RolloutJob *job, Err *err) {
    SameJobs *s = ctx;
    (void)err;
    job->patient = s->c.patient[i];
    job->n_known = s->known[i];
    job->index_minutes = job->patient.minutes[job->n_known - 1];
    job->given = s->given;
    job->n_given = s->n_given[i];
    job->left_out = s->out;
    job->n_left_out = s->n_out[i];
    return OK;
}

static RolloutStats run_same(const Law *law, const Vocabulary *v, RolloutOptions o, int n_jobs, SameJobs *s) {
    Err err = {OK, ""};
    RolloutStats stats;
    s->c.n_samples = o.n_samples;
    s->c.risk = calloc((size_t)n_jobs * (size_t)o.n_samples, sizeof *s->c.risk);
    s->c.tokens = calloc((size_t)n_jobs * (size_t)o.n_samples, sizeof *s->c.tokens);
    RolloutCallbacks cb = {.get_job = same_job, .job_done = job_done, .ctx = s};
    if (rollout_run(law, v, &o, n_jobs, &cb, &stats, &err)) fail_msg("%s", err.msg);
    collected_free(&s->c);
    return stats;
}

/* What is left out or given must read as if the record had been so; and pages that jobs share change no bit. */
static void test_jobs_of_one_patient_share_pages(void **state) {
    (void)state;
    char why[256];
    Device *dev = device_open(DEVICE_CPU, 0, 1, why, sizeof why);
    Model m = open_model(dev, 512);
    Vocabulary v = make_vocabulary();
    Law law = {.model = &m, .seq_len = 512};
    static uint16_t tokens[200], edited[200], longer[201];
    static int32_t minutes[200], edited_minutes[200], longer_minutes[201];
    SameJobs s = {.known = {100, 150, 199, 199, 199}, .given = {EVENT_A, EVENT_B}, .n_given = {0, 0, 0, 2, 0}, .out = {130, 132},
                  .n_out = {0, 0, 0, 0, 2}};
    for (int i = 0; i < JOBS; i++) s.c.patient[i] = make_patient(4, 199, tokens, minutes);
    RolloutOptions o = {.n_samples = 5, .batch = 16, .max_tokens = 40, .seed = 2, .horizon_minutes = 400 * 1440.0,
                        .estimator = ESTIMATOR_MC, .temperature = 1, .keep_paths = 1};
    RolloutStats st = run_same(&law, &v, o, JOBS, &s);
    uint64_t shared[JOBS];
    memcpy(shared, s.c.job_hash, sizeof shared);
    assert_true(st.shared_tokens >= 64 + 128 + 192 + 128);
    o.no_sharing = 1;
    st = run_same(&law, &v, o, JOBS, &s);
    assert_int_equal(st.shared_tokens, 0);
    assert_memory_equal(shared, s.c.job_hash, sizeof shared);
    assert_true(shared[2] != shared[3] && shared[2] != shared[4]);
    /* The same records, written out. */
    int n = 0;
    for (int i = 0; i < 199; i++) {
        if (i == 130 || i == 132) continue;
        edited[n] = tokens[i];
        edited_minutes[n++] = minutes[i];
    }
    SameJobs whole = {.known = {n}};
    whole.c.patient[0] = s.c.patient[0];
    whole.c.patient[0].n = n;
    whole.c.patient[0].tokens = edited;
    whole.c.patient[0].minutes = edited_minutes;
    run_same(&law, &v, o, 1, &whole);
    assert_true(whole.c.job_hash[0] == shared[4]);
    memcpy(longer, tokens, sizeof tokens);
    memcpy(longer_minutes, minutes, sizeof minutes);
    longer[199] = EVENT_A;
    longer[200] = EVENT_B;
    longer_minutes[199] = longer_minutes[200] = minutes[198];
    whole = (SameJobs){.known = {201}};
    whole.c.patient[0] = s.c.patient[0];
    whole.c.patient[0].n = 201;
    whole.c.patient[0].tokens = longer;
    whole.c.patient[0].minutes = longer_minutes;
    run_same(&law, &v, o, 1, &whole);
    assert_true(whole.c.job_hash[0] == shared[3]);
    model_close(&m);
    device_close(dev);
}

static void test_cache_forks_share_and_return_pages(void **state) {
    (void)state;
    char why[256];
    Err err = {OK, ""};
    Device *dev = device_open(DEVICE_CPU, 0, 1, why, sizeof why);
    Model m = open_model(dev, 256);
    KvCache c;
    assert_int_equal(kv_cache_open(&c, &m, 6, &err), OK);
    KvSequence a = {0}, b = {0};
    int64_t slot[130];
    assert_true(kv_sequence_extend(&c, &a, 130, slot));
    assert_int_equal(a.n_pages, 3);
    assert_int_equal(slot[64] % KV_PAGE, 0);
    assert_true(kv_sequence_fork(&c, &b, &a));
    assert_int_equal(c.n_free, 2); /* two full pages shared, the partial one copied */
    assert_int_equal(b.page[0], a.page[0]);
    assert_int_not_equal(b.page[2], a.page[2]);
    assert_false(kv_sequence_extend(&c, &b, 300, NULL)); /* too much: nothing changes */
    assert_int_equal(b.len, 130);
    kv_sequence_release(&c, &a);
    assert_int_equal(c.n_free, 3); /* only the page nobody else holds */
    kv_sequence_release(&c, &b);
    assert_int_equal(c.n_free, 6);
    kv_sequence_free(&a);
    kv_sequence_free(&b);
    kv_cache_close(&c);
    model_close(&m);
    device_close(dev);
}

static void test_known_tokens(void **state) {
    (void)state;
    uint16_t tokens[8];
    int32_t minutes[8];
    PatientView p = make_patient(1, 5, tokens, minutes); /* minutes 0, 2000, 2000, 4000, 4000 */
    assert_int_equal(rollout_known(&p, -1), 0);
    assert_int_equal(rollout_known(&p, 0), 1);
    assert_int_equal(rollout_known(&p, 1999), 1);
    assert_int_equal(rollout_known(&p, 2000), 3);
    assert_int_equal(rollout_known(&p, 99999), 5);
}

/* The age that a cut record begins with is that of the last token left out, reckoned in years of 365.25 days; whole
 * half-years without an event that have passed at the index are told, the last one to the minute. */
static void test_age_of_a_window(void **state) {
    (void)state;
    enum { N = 40, SEQ_LEN = 16, KEEP = SEQ_LEN - SEQ_LEN / 4 - 3 };
    Vocabulary v = make_vocabulary();
    v.age_lo = 1000;
    v.n_age = 120;
    v.age_bin_years = 1;
    uint16_t tokens[N];
    int32_t minutes[N];
    for (int short_of = 0; short_of < 2; short_of++) {
        RolloutJob job = {.patient = make_patient(1, N, tokens, minutes), .n_known = N};
        for (int i = 0; i < N; i++) minutes[i] = i * 525960 - (i ? 100 * short_of : 0);
        job.index_minutes = minutes[N - 1] + 2 * GAP_MINUTES[GAP_BINS] - short_of;
        RolloutOptions o = {.n_samples = 1};
        RolloutWindow w;
        rollout_window(&v, &o, SEQ_LEN, &job, &w);
        const int told = N + 2 - short_of;
        assert_int_equal(w.from, told - KEEP);
        assert_int_equal(w.n, KEEP + 3);
        assert_int_equal(w.token[0], TOKEN_CONTINUES);
        assert_int_equal(w.token[2], 1000 + 40 + w.from - 1 - short_of);
        assert_int_equal(w.token[w.n - 1], GAP + GAP_BINS);
        assert_true(w.elapsed == (short_of ? GAP_MINUTES[GAP_BINS] - 1 : 0));
        rollout_window_free(&w);
        /* An event that is given comes at the index: the gap before it is over. */
        const int32_t given = EVENT_B;
        job.given = &given;
        job.n_given = 1;
        rollout_window(&v, &o, SEQ_LEN, &job, &w);
        assert_true(w.token[w.n - 1] == EVENT_B && w.elapsed == 0);
        assert_int_equal(w.token[w.n - 2], GAP + (short_of ? GAP_BINS - 1 : GAP_BINS));
        rollout_window_free(&w);
        job.n_given = 0;
        /* Ten years of future later the whole history is left out; its age is counted from the index on. */
        double later[10];
        int32_t drawn[10], out[8];
        for (int i = 0; i < 10; i++) later[i] = (i + 1) * 525960.0, drawn[i] = EVENT_A;
        ActiveJob j = {.job = job};
        job_history(&j, &v);
        assert_int_equal(build_window(&v, &j, &(Future){.token = drawn, .minutes = later, .n = 10}, 4, out), 7);
        assert_int_equal(out[2], 1000 + (int)(40 + (job.index_minutes + later[5]) / 525960));
        free(j.history);
        free(j.history_minutes);
        free(j.history_origin);
    }
}

static void test_intervals(void **state) {
    (void)state;
    double values[64] = {0};
    RiskEstimate none = risk_estimate(ESTIMATOR_MC, values, 64, 1);
    assert_true(none.risk == 0 && none.lo < 1e-12);
    /* Wilson's upper bound at 0 of 64 is z^2 / (n + z^2). */
    double z2 = 1.959963984540054 * 1.959963984540054;
    assert_true(fabs(none.hi - z2 / (64 + z2)) < 1e-12);
    assert_true(fabs(normal_quantile(.975) - 1.959963984540054) < 1e-9 && fabs(normal_quantile(.5)) < 1e-9);
    assert_true(fabs(normal_quantile(.001) + 3.090232306167813) < 1e-9);
    assert_int_equal(look_count(64, 64), 1);
    assert_int_equal(look_count(64, 65), 2);
    assert_int_equal(look_count(64, 4096), 7);
    /* Nothing seen yet is no certainty: the standard error to stop at is that of 2 in 68. */
    assert_true(fabs(risk_se_to_stop(ESTIMATOR_MC, values, 64) - sqrt(2. / 68 * 66 / 68 / 68)) < 1e-12);
    assert_true(risk_estimate(ESTIMATOR_MC, values, 64, 7).hi > none.hi);
}

/* Ten futures of which three hit, and what the formulas make of them by hand. */
static void test_estimates_by_hand(void **state) {
    (void)state;
    const double z = 1.959963984540054, values[10] = {1, 0, 0, 1, 0, 0, 0, 1, 0, 0}, more[4] = {-1, 0, 0.5, 2.5};
    /* Squares 3 x .49 + 7 x .09 = 2.1, over 9 for the variance, over 10 for that of the mean. */
    RiskEstimate hit = risk_estimate(ESTIMATOR_MC, values, 10, 1);
    assert_true(fabs(hit.risk - 0.3) < 1e-12 && fabs(hit.mc_se - sqrt(2.1 / 90)) < 1e-12);
    /* Wilson's bounds are where (p - .3)^2 = z^2 p (1 - p) / 10. */
    const double bound[] = {hit.lo, hit.hi};
    for (int i = 0; i < 2; i++)
        assert_true(fabs((bound[i] - 0.3) * (bound[i] - 0.3) - z * z * bound[i] * (1 - bound[i]) / 10) < 1e-12);
    assert_true(hit.lo < 0.3 && hit.hi > 0.3);
    /* Other estimators: a normal's interval, clipped; of a difference not clipped. */
    RiskEstimate scope = risk_estimate(ESTIMATOR_SCOPE, values, 10, 1);
    assert_true(fabs(scope.lo - (0.3 - z * sqrt(2.1 / 90))) < 1e-12 && fabs(scope.hi - (0.3 + z * sqrt(2.1 / 90))) < 1e-12);
    RiskEstimate difference = mean_estimate(more, 4, 1); /* mean .5, squares 2.25 + .25 + 0 + 4 = 6.5 */
    assert_true(fabs(difference.risk - 0.5) < 1e-12 && fabs(difference.mc_se - sqrt(6.5 / 12)) < 1e-12);
    assert_true(difference.lo < 0 && difference.hi > 1);
    assert_true(risk_estimate(ESTIMATOR_SCOPE, more, 4, 1).lo == 0 && risk_estimate(ESTIMATOR_SCOPE, more, 4, 1).hi == 1);
    /* Five looks: 95% over all of them is 99% at each (Bonferroni). */
    assert_true(fabs(mean_estimate(more, 4, 5).hi - (0.5 + 2.5758293035489004 * sqrt(6.5 / 12))) < 1e-9);
    assert_true(isnan(mean_estimate(more, 1, 1).mc_se));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known_tokens),
        cmocka_unit_test(test_age_of_a_window),
        cmocka_unit_test(test_intervals),
        cmocka_unit_test(test_estimates_by_hand),
        cmocka_unit_test(test_estimators_are_unbiased),
        cmocka_unit_test(test_stop_events_end_a_future),
        cmocka_unit_test(test_death_in_the_minute_of_a_stop),
        cmocka_unit_test(test_gap_running_at_the_index),
        cmocka_unit_test(test_cache_forks_share_and_return_pages),
        cmocka_unit_test(test_batch_and_threads_change_nothing),
        cmocka_unit_test(test_refill_beyond_the_context),
        cmocka_unit_test(test_long_record),
        cmocka_unit_test(test_exact_window_beyond_the_context),
        cmocka_unit_test(test_jobs_of_one_patient_share_pages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
