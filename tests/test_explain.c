/* test_explain.c - gradient x input against central differences; leave one out against records written without the
 * event, and against a law's own change; futures taken again under another history. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "infer/explain.h"
#include "tests/tiny_law.h"

enum { KNOWN = 41, AT = 20 };
static uint16_t tokens[KNOWN];
static int32_t minutes[KNOWN];

static Model open_model(Device *dev, DType dtype) {
    ModelConfig cfg;
    Err err = {OK, ""};
    if (config_preset(&cfg, "nano", &err)) fail_msg("%s", err.msg);
    cfg.n_layers = 2;
    cfg.vocab_size = N_TOKENS;
    cfg.seq_len = 128;
    cfg.init_std = 0.2;
    cfg.tied = 0; /* so that a row of the embedding acts on the input alone */
    Model m;
    if (config_check(&cfg, &err) || model_open(&m, &cfg, dev, dtype, 1, &err)) fail_msg("%s", err.msg);
    model_init(&m, 3);
    return m;
}

/* One A among Bs. */
static RolloutJob make_job(void) {
    for (int i = 0; i < KNOWN; i++) {
        tokens[i] = (uint16_t)(i % 2 ? GAP + 10 : i == AT ? EVENT_A : EVENT_B);
        minutes[i] = (i + 1) / 2 * 2000;
    }
    PatientView p = {
        .key = 5, .n = KNOWN, .tokens = tokens, .minutes = minutes, .statics = patient_statics, .age_years = 40};
    return (RolloutJob){.patient = p, .n_known = KNOWN, .index_minutes = minutes[KNOWN - 1]};
}

static ExplainOptions options(const uint32_t *bits) {
    ExplainOptions o = {.gradient_samples = 3};
    o.rollout = (RolloutOptions){.n_samples = 8,
                                 .batch = 16,
                                 .max_tokens = 60,
                                 .seed = 3,
                                 .horizon_minutes = 200 * 1440.0,
                                 .estimator = ESTIMATOR_REACH,
                                 .outcome_bits = bits,
                                 .n_outcomes = 1,
                                 .temperature = 1};
    return o;
}

/* 1 - prod(1 - p) along one future in double precision, the embedding of A scaled.  running: a gap runs at the index, and the
 * first step is its end, whatever the law says. */
static double risk_along(Model *m, const RolloutSample *f, const uint32_t *bits, int running, double scale) {
    enum { PREFIX = 3 };
    int32_t token[128], position[128], lo[128], hi[128], ends[2] = {0}, n = 0;
    double losses[128], *row = (double *)m->w.embedding + (size_t)EVENT_A * (size_t)m->cfg.d_model, p[128] = {0},
                        survive = 1;
    Err err = {OK, ""};
    token[n++] = TOKEN_START;
    token[n++] = SEX;
    token[n++] = AGE;
    for (int i = 0; i < KNOWN; i++) token[n++] = tokens[i];
    for (int i = 0; i < f->n_tokens; i++) token[n++] = f->tokens[i];
    int first = PREFIX + KNOWN - 1 + running, rows = f->n_tokens + (f->stop == STOP_HORIZON) - running;
    for (int i = 0; i < n; i++) position[i] = i;
    ends[1] = n;
    for (int c = 0; c < m->cfg.d_model; c++) row[c] *= scale;
    Acts *acts;
    assert_int_equal(acts_open(&acts, m, n, 0, RECOMPUTE_NONE, &err), OK);
    for (int id = 0; id < N_TOKENS; id++) {
        if (!bits[id]) continue;
        for (int i = 0; i < n; i++) {
            lo[i] = i >= first && i < first + rows ? id : -1;
            hi[i] = id + 1;
        }
        Batch b = {.rows = 1,
                   .T = n,
                   .N = n,
                   .n_seq = 1,
                   .tokens = token,
                   .positions = position,
                   .target_lo = lo,
                   .target_hi = hi,
                   .cu_seqlens = ends};
        model_upload(m, acts, &b);
        model_forward(m, acts);
        model_loss(m, acts, NULL);
        device_download(m->dev, losses, acts_losses(acts), (size_t)n * sizeof *losses);
        for (int t = 0; t < rows; t++) p[t] += exp(-losses[first + t]);
    }
    acts_close(acts);
    for (int c = 0; c < m->cfg.d_model; c++) row[c] /= scale;
    for (int t = 0; t < rows; t++) survive *= 1 - p[t];
    return 1 - survive;
}

static void test_gradient_against_central_differences(void **state) {
    (void)state;
    char why[256];
    Err err = {OK, ""};
    Device *dev = device_open(DEVICE_CPU, 0, 1, why, sizeof why);
    Model m = open_model(dev, DTYPE_F32), exact = open_model(dev, DTYPE_F64);
    Session s = {.dev = dev, .plain = &m, .law = {.model = &m, .seq_len = m.cfg.seq_len}};
    s.dataset.vocabulary = make_vocabulary();
    uint32_t bits[N_TOKENS] = {0};
    bits[DEATH] = bits[GAP + 5] = bits[GAP + 6] = 1; /* two runs of ids */
    int32_t path[] = {GAP + 12, EVENT_B, GAP + 14, EVENT_B, EVENT_B, GAP + 3};
    RolloutSample f[3] = {{.stop = STOP_HORIZON, .n_tokens = 6, .tokens = path},
                          {.stop = STOP_DEATH, .n_tokens = 4, .tokens = path + 2},
                          {.stop = STOP_HORIZON, .n_tokens = 0, .tokens = path}};
    for (int running = 0; running < 2; running++) {
        RolloutJob job = make_job();
        job.index_minutes += running * 100 * 1440;
        ExplainOptions o = options(bits);
        ExplainItem item = {.index = {AT}, .n_index = 1};
        Explanation x = {.n = 1, .item = &item};
        if (explain_gradient(&s, &job, &o, f, 3, &x, &err)) fail_msg("%s", err.msg);
        double difference = 0, along = 0, h = 1e-4;
        for (int k = 0; k < 3; k++) {
            difference += (risk_along(&exact, &f[k], bits, running, 1 + h) - risk_along(&exact, &f[k], bits, running, 1 - h)) / (2 * h) / 3;
            along += risk_along(&exact, &f[k], bits, running, 1) / 3;
        }
        assert_true(fabs(difference) > 1e-4 && fabs(x.along - along) < 1e-5);
        /* float32 against double: a thousandth is far above its rounding, far below any wrong term. */
        if (fabs(item.gradient - difference) > 1e-3 * fabs(difference))
            fail_msg("gradient %g, difference %g", item.gradient, difference);
    }
    model_close(&m);
    model_close(&exact);
    device_close(dev);
}

static double mean_risk(Session *s, const RolloutJob *job, const ExplainOptions *o) {
    Explanation x;
    Err err = {OK, ""};
    ExplainOptions none = *o;
    none.gradient_samples = 0;
    if (explain_run(s, job, &none, NULL, &x, &err)) fail_msg("%s", err.msg);
    double risk = x.risk.risk;
    explain_free(&x);
    return risk;
}

static void test_leaving_out_is_a_record_without_it(void **state) {
    (void)state;
    char why[256];
    Err err = {OK, ""};
    Device *dev = device_open(DEVICE_CPU, 0, 1, why, sizeof why);
    Model m = open_model(dev, DTYPE_F32), plain = open_model(dev, DTYPE_F32);
    assert_int_equal(model_prepare(&m, DTYPE_F32, &err), OK);
    Session s = {.dev = dev, .plain = &plain, .law = {.model = &m, .seq_len = m.cfg.seq_len}};
    s.dataset.vocabulary = make_vocabulary();
    uint32_t bits[N_TOKENS] = {0};
    bits[DEATH] = 1;
    RolloutJob job = make_job();
    ExplainOptions o = options(bits);
    Explanation x;
    o.max_events = 15;
    if (explain_run(&s, &job, &o, NULL, &x, &err)) fail_msg("%s", err.msg);
    assert_int_equal(x.n, 15);
    assert_int_equal(x.skipped, 6); /* 21 events in 41 tokens */
    int differ = 0;
    for (int i = 0; i < x.n; i++) {
        assert_int_equal(x.item[i].index[0], 12 + 2 * i);
        int64_t at = x.item[i].index[0];
        RolloutJob without = make_job();
        memmove(tokens + at, tokens + at + 1, (size_t)(KNOWN - 1 - at) * sizeof *tokens);
        memmove(minutes + at, minutes + at + 1, (size_t)(KNOWN - 1 - at) * sizeof *minutes);
        without.n_known = without.patient.n = KNOWN - 1;
        without.index_minutes = job.index_minutes;
        const double risk = mean_risk(&s, &without, &o);
        assert_true(fabs(risk - x.item[i].without) < 1e-12);
        /* Two estimates of one change from the same futures. */
        assert_true(fabs(x.risk.risk - risk - x.item[i].change) < 4 * (x.item[i].se + x.risk.mc_se));
        differ += x.item[i].change != 0;
        assert_true(x.item[i].lo <= x.item[i].change && x.item[i].change <= x.item[i].hi &&
                    isfinite(x.item[i].gradient));
        make_job();
    }
    assert_true(differ > 10);
    explain_free(&x);
    model_close(&m);
    model_close(&plain);
    device_close(dev);
}

/* What a window leaves out is counted in events: a value is part of its event. */
static void test_events_left_out(void **state) {
    (void)state;
    Model m = {0};
    Session s = {.law = {.model = &m, .seq_len = 16}};
    s.dataset.vocabulary = make_vocabulary();
    token_table[EVENT_B].kind = TOKEN_VALUE; /* 7 of A and B, a gap between any two */
    for (int i = 0; i < 21; i++) {
        tokens[i] = (uint16_t)(i % 3 == 0 ? EVENT_A : i % 3 == 1 ? EVENT_B : GAP + 10);
        minutes[i] = i / 3 * 2000;
    }
    PatientView p = {.key = 5, .n = 21, .tokens = tokens, .minutes = minutes, .statics = patient_statics, .age_years = 40};
    RolloutJob job = {.patient = p, .n_known = 21, .index_minutes = minutes[20]};
    uint32_t bits[N_TOKENS] = {0};
    ExplainOptions o = options(bits);
    Explanation x;
    explain_find(&s, &job, &o, &x);
    assert_int_equal(x.n, 3); /* the window has room for the last nine tokens */
    assert_int_equal(x.item[0].index[0], 12);
    assert_int_equal(x.n + x.skipped, 7);
    for (int i = 0; i < x.n; i++) assert_int_equal(x.item[i].n_index, 2);
    explain_free(&x);
    make_vocabulary();
}

/* ---- futures taken again under another history -------------------------------------------------------------------- */

/* A law with a memory: each A seen before makes A, DEATH and the longer gap likelier. */
static void memory_law(void *ctx, const int32_t *t, int n, float *out) {
    (void)ctx;
    int seen = 0;
    for (int i = 0; i < n; i++) seen += t[i] == EVENT_A;
    const double more = seen < 4 ? seen : 4;
    for (int i = 0; i < N_TOKENS; i++) out[i] = -INFINITY;
    if (t[n - 1] >= GAP && t[n - 1] < DEATH) {
        out[EVENT_A] = (float)log(.1 + .05 * more);
        out[DEATH] = (float)log(.03 + .03 * more);
        out[EVENT_B] = (float)log(.87 - .08 * more);
    } else {
        out[GAP + 16] = (float)log(.6 - .1 * more);
        out[GAP + 17] = (float)log(.4 + .1 * more);
    }
}

/* log q of a drawn future, step by step. */
static double log_q(const RolloutJob *job, const RolloutSample *f, const uint32_t *bits) {
    int32_t t[256] = {TOKEN_START, SEX, AGE}, n = 3;
    double sum = 0;
    for (int64_t i = 0; i < job->n_known; i++) t[n++] = (int32_t)patient_token(&job->patient, i);
    for (int i = 0; i <= f->n_tokens; i++) {
        const int32_t next = i < f->n_tokens ? f->tokens[i] : f->last;
        float logits[N_TOKENS];
        double outcome = 0;
        if (next < 0) break;
        memory_law(NULL, t, n, logits);
        for (int id = 0; id < N_TOKENS; id++) outcome += bits[id] ? exp(logits[id]) : 0;
        sum += logits[next] - log(1 - outcome);
        t[n++] = next;
    }
    return sum;
}

typedef struct {
    RolloutJob job;
    RolloutSample sample[64], *following;
    const RolloutSample *path[64];
    double own_log_q[64];
    const uint32_t *bits;
    int n;
} Followed;

static Status follow_job(void *ctx, int64_t i, RolloutJob *job, Err *err) {
    (void)i;
    (void)err;
    Followed *f = ctx;
    *job = f->job;
    if (!f->following) return OK;
    job->follow = f->path;
    job->n_follow = f->n;
    return OK;
}

static Status follow_done(void *ctx, int64_t i, const RolloutJob *job, const RolloutSample *s, int n, Err *err) {
    (void)i;
    (void)err;
    Followed *f = ctx;
    assert_int_equal(n, f->n);
    for (int k = 0; k < n; k++) {
        if (!f->following) {
            f->sample[k] = s[k];
            f->sample[k].tokens = memcpy(malloc(1024), s[k].tokens, (size_t)s[k].n_tokens * sizeof *s[k].tokens);
            f->sample[k].token_minutes = memcpy(malloc(1024), s[k].token_minutes, (size_t)s[k].n_tokens * sizeof *s[k].token_minutes);
            f->own_log_q[k] = f->bits ? log_q(job, &s[k], f->bits) : s[k].log_q;
            f->path[k] = &f->sample[k];
            continue;
        }
        const RolloutSample *own = &f->sample[k];
        assert_true(s[k].stop == own->stop && s[k].n_tokens == own->n_tokens && s[k].last == own->last);
        assert_true(s[k].risk[0] == own->risk[0] && s[k].minutes == own->minutes);
        assert_true(fabs(s[k].log_q - own->log_q) < 1e-5); /* sums of floats by way of another token's */
    }
    return OK;
}

static void follow_own(const Law *law, const uint32_t *bits, const uint32_t *check) {
    Vocabulary v = make_vocabulary();
    RolloutJob job = make_job();
    RolloutOptions o = options(bits).rollout;
    o.n_samples = 64;
    o.keep_paths = o.weigh_paths = 1;
    job.index_minutes += 40 * 1440; /* a gap is running */
    Followed f = {.job = job, .bits = check, .n = o.n_samples};
    if (check) f.job.index_minutes = minutes[KNOWN - 1];
    RolloutCallbacks cb = {.get_job = follow_job, .job_done = follow_done, .ctx = &f};
    RolloutStats stats;
    Err err = {OK, ""};
    assert_int_equal(rollout_run(law, &v, &o, 1, &cb, &stats, &err), OK);
    int weighed = 0;
    for (int k = 0; k < f.n; k++) {
        weighed += f.sample[k].n_tokens > 2 && f.sample[k].log_q < -0.1;
        assert_true(fabs(f.sample[k].log_q - f.own_log_q[k]) < 1e-4);
    }
    assert_true(weighed > f.n / 2);
    f.following = f.sample;
    o.seed = 99; /* whatever the seed: nothing is drawn */
    assert_int_equal(rollout_run(law, &v, &o, 1, &cb, &stats, &err), OK);
    for (int k = 0; k < f.n; k++) free(f.sample[k].tokens), free(f.sample[k].token_minutes);
}

static void test_following_ones_own_future_changes_no_bit(void **state) {
    (void)state;
    char why[256];
    uint32_t bits[N_TOKENS] = {0};
    bits[DEATH] = 1;
    Law law = {.logits = memory_law, .seq_len = 1 << 20};
    follow_own(&law, bits, bits);
    Device *dev = device_open(DEVICE_CPU, 0, 1, why, sizeof why);
    Model m = open_model(dev, DTYPE_F32);
    law = (Law){.model = &m, .seq_len = m.cfg.seq_len};
    follow_own(&law, bits, NULL);
    model_close(&m);
    device_close(dev);
}

/* The change against risks of many futures that know nothing of each other. */
static void test_change_is_that_of_the_law(void **state) {
    (void)state;
    Session s = {.law = {.logits = memory_law, .seq_len = 1 << 20}};
    s.dataset.vocabulary = make_vocabulary();
    uint32_t bits[N_TOKENS] = {0};
    uint8_t only[KNOWN] = {[AT] = 1, [AT + 2] = 1};
    bits[DEATH] = 1;
    RolloutJob job = make_job();
    ExplainOptions o = options(bits);
    o.gradient_samples = 0;
    o.only = only;
    o.rollout.n_samples = 1000;
    Explanation x;
    Err err = {OK, ""};
    assert_int_equal(explain_run(&s, &job, &o, NULL, &x, &err), OK);
    assert_int_equal(x.n, 2);
    assert_true(x.item[1].change == 0 && x.item[1].se == 0); /* a B: the law does not mind */
    const double change = x.item[0].change, se = x.item[0].se, plain_se = x.risk.mc_se;
    explain_free(&x);
    o.rollout.n_samples = 250;
    o.target_se = se;
    o.samples_most = 4000;
    assert_int_equal(explain_run(&s, &job, &o, NULL, &x, &err), OK);
    const ExplainItem more = x.item[0];
    assert_true(more.n_samples > 250 && more.n_samples <= 4000 && more.se <= se && x.item[1].n_samples == 250);
    explain_free(&x);
    o.target_se = 0;
    double risk[2], risk_se[2];
    o.rollout.n_samples = 20000;
    for (int without = 0; without < 2; without++) {
        o.rollout.seed = 11 + (uint64_t)without;
        if (without) tokens[AT] = EVENT_B; /* the law counts As alone */
        assert_int_equal(explain_run(&s, &job, &(ExplainOptions){.rollout = o.rollout, .only = (uint8_t[KNOWN]){0}}, NULL, &x, &err), OK);
        risk[without] = x.risk.risk;
        risk_se[without] = x.risk.mc_se;
        explain_free(&x);
    }
    const double truth = risk[0] - risk[1];
    assert_true(truth > 0.02);
    const double z = (change - truth) / sqrt(se * se + risk_se[0] * risk_se[0] + risk_se[1] * risk_se[1]);
    if (!(fabs(z) < 4)) fail_msg("change %g, truth %g, z %.1f", change, truth, z);
    const double z_more = (more.change - truth) / sqrt(more.se * more.se + risk_se[0] * risk_se[0] + risk_se[1] * risk_se[1]);
    if (!(fabs(z_more) < 4)) fail_msg("change by rounds %g, truth %g, z %.1f", more.change, truth, z_more);
    assert_true(se < plain_se);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gradient_against_central_differences),
        cmocka_unit_test(test_leaving_out_is_a_record_without_it),
        cmocka_unit_test(test_events_left_out),
        cmocka_unit_test(test_following_ones_own_future_changes_no_bit),
        cmocka_unit_test(test_change_is_that_of_the_law),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
