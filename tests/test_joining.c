/* test_joining.c - jobs that join a run while others are being decoded, each with options of its own, get the bytes that
 * they get alone; small ones need not wait for large ones; those that nobody wants any more leave their places. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include "kernels/philox.h"
#include "tests/tiny_law.h"

enum { JOBS = 8, SEQ_LEN = 128 };
typedef struct {
    PatientView patient[JOBS];
    RolloutOptions o[JOBS];
    int arrives[JOBS], step, n_ready, dropped; /* the step a job comes at; dropped: the job that is given up, -1 none */
    uint64_t hash[JOBS], heard[JOBS];          /* of the samples; of the tokens as they were drawn, whatever their order */
    int done[JOBS], order[JOBS], n_done;
    int alone; /* a run of one job, by the run's options */
} Joining;

static uint64_t mixed(uint64_t a, uint64_t b) { return philox_mix(a, b); }

static uint64_t token_hash(int sample, int n, int32_t token, double minutes) {
    uint64_t bits;
    memcpy(&bits, &minutes, sizeof bits);
    return mixed(mixed((uint64_t)sample << 32 | (uint64_t)(uint32_t)n, (uint64_t)token), bits);
}

static Status get_job(void *ctx, int64_t i, RolloutJob *job, Err *err) {
    Joining *j = ctx;
    (void)err;
    *job = (RolloutJob){.patient = j->patient[i], .o = j->alone ? NULL : &j->o[i], .user = &j->done[i]};
    job->index_minutes = job->patient.n ? job->patient.minutes[job->patient.n - 1] : 0;
    job->n_known = rollout_known(&job->patient, job->index_minutes);
    return OK;
}

static Status job_done(void *ctx, int64_t i, const RolloutJob *job, const RolloutSample *s, int n, Err *err) {
    Joining *j = ctx;
    uint64_t h = 0, heard = 0, bits;
    (void)err;
    assert_ptr_equal(job->user, &j->done[i]);
    assert_int_equal(n, j->o[i].n_samples);
    for (int k = 0; k < n; k++) {
        for (int o = 0; o < j->o[i].n_outcomes; o++) {
            memcpy(&bits, &s[k].risk[o], sizeof bits);
            h = mixed(h, bits);
        }
        for (int t = 0; t < s[k].n_tokens; t++) heard += token_hash(k, t, s[k].tokens[t], s[k].token_minutes[t]);
        h = mixed(h, (uint64_t)s[k].n_tokens << 8 | (uint64_t)s[k].stop);
    }
    j->hash[i] = mixed(h, heard);
    j->heard[i] -= heard;
    j->done[i] = 1;
    j->order[j->n_done++] = (int)i;
    return OK;
}

static void drawn(void *ctx, int64_t i, const RolloutJob *job, int sample, int n, int32_t token, double minutes,
                  double logprob) {
    assert_true(isnan(logprob)); /* no job asks for it */
    (void)job;
    ((Joining *)ctx)->heard[i] += token_hash(sample, n, token, minutes);
}

static int more(void *ctx, int64_t i, int idle) {
    Joining *j = ctx;
    if (i >= JOBS) return 0;
    if (idle && j->step < j->arrives[i]) j->step = j->arrives[i]; /* the wait for it */
    return j->step >= j->arrives[i];
}

static int wanted(void *ctx, int64_t i, const RolloutJob *job) {
    (void)job;
    return ((Joining *)ctx)->dropped != i;
}

/* Asked once a step. */
static int stop(void *ctx) {
    ((Joining *)ctx)->step++;
    return 0;
}

static Model open_model(Device *dev) {
    Err err = {OK, ""};
    ModelConfig cfg;
    if (config_preset(&cfg, "nano", &err)) fail_msg("%s", err.msg);
    cfg.n_layers = 2;
    cfg.vocab_size = N_TOKENS;
    cfg.seq_len = SEQ_LEN;
    cfg.init_std = 0.2; /* far from uniform, so that a wrong bit changes draws */
    Model m;
    if (config_check(&cfg, &err) || model_open(&m, &cfg, dev, DTYPE_F32, 1, &err)) fail_msg("%s", err.msg);
    model_init(&m, 3);
    if (model_prepare(&m, DTYPE_F32, &err)) fail_msg("%s", err.msg);
    return m;
}

static uint32_t mark_a[N_TOKENS], mark_b[N_TOKENS], mark_two[N_TOKENS], stop_b[N_TOKENS];
static const double horizons[2] = {30 * 1440.0, 300 * 1440.0};

static void jobs_make(Joining *j) {
    static uint16_t tokens[JOBS][200];
    static int32_t minutes[JOBS][200];
    const int n[JOBS] = {3, 70, 150, 0, 64, 70, 5, 40}, samples[JOBS] = {9, 3, 40, 1, 9, 5, 2, 7};
    mark_a[EVENT_A] = 1;
    mark_two[EVENT_B] = 1;
    mark_two[DEATH] = 2;
    mark_b[EVENT_B] = 1;
    stop_b[EVENT_B] = 1;
    *j = (Joining){.dropped = -1};
    for (int i = 0; i < JOBS; i++) {
        j->patient[i] = make_patient((uint64_t)i, n[i], tokens[i], minutes[i]);
        j->o[i] = (RolloutOptions){.n_samples = samples[i], .batch = 1, .max_tokens = 90, .seed = (uint64_t)(11 + i),
                                   .horizon_minutes = 400 * 1440.0, .temperature = 1, .keep_paths = 1};
    }
    j->o[0].outcome_bits = j->o[6].outcome_bits = mark_a;
    j->o[4].outcome_bits = mark_b;
    j->o[2].outcome_bits = j->o[5].outcome_bits = mark_two;
    j->o[0].n_outcomes = j->o[4].n_outcomes = j->o[6].n_outcomes = 1;
    j->o[2].n_outcomes = j->o[5].n_outcomes = 2;
    j->o[0].estimator = j->o[4].estimator = ESTIMATOR_REACH;
    j->o[2].estimator = ESTIMATOR_SCOPE;
    j->o[5].outcome_horizon = horizons;
    j->o[6].stop_bits = stop_b;
    j->o[1].temperature = 0.7;
    j->o[7].top_k = 1;
    j->o[7].max_tokens = 5;
    j->o[3] = j->o[4]; /* drawn beside it, watching another outcome */
    j->o[3].outcome_bits = mark_a;
}

static RolloutStats run(Model *m, Joining *j, int batch, int jobs_max) {
    Err err = {OK, ""};
    RolloutStats stats;
    Vocabulary v = make_vocabulary();
    Law law = {.model = m, .seq_len = SEQ_LEN};
    const RolloutOptions o = {.batch = batch, .jobs_max = jobs_max};
    const RolloutCallbacks cb = {.get_job = get_job, .job_done = job_done, .stop = stop, .more = more, .wanted = wanted,
                                 .drawn = drawn, .ctx = j};
    if (rollout_run(&law, &v, &o, -1, &cb, &stats, &err)) fail_msg("%s", err.msg);
    return stats;
}

/* What each job gets by itself. */
static void alone(Model *m, uint64_t *hash) {
    Err err = {OK, ""};
    Vocabulary v = make_vocabulary();
    Law law = {.model = m, .seq_len = SEQ_LEN};
    for (int i = 0; i < JOBS; i++) {
        Joining j;
        RolloutStats stats;
        jobs_make(&j);
        j.patient[0] = j.patient[i];
        const RolloutOptions o = j.o[i];
        j.o[0] = o;
        j.alone = 1;
        RolloutCallbacks cb = {.get_job = get_job, .job_done = job_done, .ctx = &j};
        if (rollout_run(&law, &v, &o, 1, &cb, &stats, &err)) fail_msg("%s", err.msg);
        hash[i] = j.hash[0];
    }
}

static void test_joining_changes_no_byte(void **state) {
    (void)state;
    static const struct {
        int threads, batch, jobs_max, arrives[JOBS];
    } row[] = {{1, 64, 8, {0, 0, 0, 0, 0, 0, 0, 0}},
               {1, 64, 8, {0, 3, 5, 5, 6, 30, 31, 60}},
               {2, 7, 8, {0, 1, 2, 3, 4, 5, 6, 7}},
               {1, 1, 2, {0, 0, 40, 40, 41, 42, 43, 44}},
               {2, 64, 1, {0, 2, 4, 6, 8, 10, 12, 14}},
               {1, 16, 3, {0, 9, 9, 9, 400, 400, 401, 5000}}};
    uint64_t want[JOBS];
    for (size_t r = 0; r < sizeof row / sizeof *row; r++) {
        char why[256];
        Device *dev = device_open(DEVICE_CPU, 0, row[r].threads, why, sizeof why);
        Model m = open_model(dev);
        Joining j;
        if (!r) alone(&m, want);
        jobs_make(&j);
        memcpy(j.arrives, row[r].arrives, sizeof j.arrives);
        RolloutStats stats = run(&m, &j, row[r].batch, row[r].jobs_max);
        for (int i = 0; i < JOBS; i++) {
            if (!j.done[i] || j.hash[i] != want[i]) fail_msg("row %zu: job %d got other bytes than alone", r, i);
            if (j.heard[i]) fail_msg("row %zu: job %d was told other tokens than it got", r, i);
        }
        assert_int_equal(stats.jobs, JOBS);
        assert_true(stats.decoded > stats.steps || row[r].batch == 1);
        model_close(&m);
        device_close(dev);
    }
}

/* Job 2 wants 40 samples of 8 places; what comes later is not served after it. */
static void test_small_jobs_do_not_wait_for_large_ones(void **state) {
    (void)state;
    char why[256];
    Device *dev = device_open(DEVICE_CPU, 0, 1, why, sizeof why);
    Model m = open_model(dev);
    Joining j;
    jobs_make(&j);
    j.o[0].n_samples = 200;
    for (int i = 1; i < JOBS; i++) j.arrives[i] = 10;
    run(&m, &j, 8, 8);
    assert_int_equal(j.n_done, JOBS);
    assert_int_equal(j.order[JOBS - 1], 0);
    model_close(&m);
    device_close(dev);
}

static void test_unwanted_jobs_leave(void **state) {
    (void)state;
    char why[256];
    Device *dev = device_open(DEVICE_CPU, 0, 1, why, sizeof why);
    Model m = open_model(dev);
    uint64_t want[JOBS];
    alone(&m, want);
    for (int gone = 0; gone < JOBS; gone += 2) {
        Joining j;
        jobs_make(&j);
        for (int i = 0; i < JOBS; i++) j.arrives[i] = 2 * i;
        j.o[gone].n_samples = 1000;
        j.dropped = gone;
        RolloutStats stats = run(&m, &j, 16, 8);
        assert_int_equal(j.n_done, JOBS - 1);
        for (int i = 0; i < JOBS; i++)
            if (i != gone && j.hash[i] != want[i]) fail_msg("job %d got other bytes after job %d had left", i, gone);
        assert_true(stats.samples < 200);
    }
    model_close(&m);
    device_close(dev);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_joining_changes_no_byte),
        cmocka_unit_test(test_small_jobs_do_not_wait_for_large_ones),
        cmocka_unit_test(test_unwanted_jobs_leave),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
