/* test_train_evaluate.c - baselines, losses of a split, and the excess over the oracle with its clustered interval. */
#include "tests/train_check.h"
#include "train/baseline.h"
#include "train/evaluate.h"
#include "train/metrics.h"

static void test_baselines(void **state) {
    (void)state;
    Dataset d;
    Baseline b;
    Err err = {OK, ""};
    CHECK(dataset_open(&d, data_dir, &err));
    CHECK(baseline_open(&b, &d, 1000000, &err));
    int V = d.vocabulary.n;
    double *count = xcalloc((size_t)V, sizeof *count), total = 0, pairs = 0, after_visit = 0;
    for (int64_t row = 0; row < d.n_patients[SPLIT_TRAIN]; row++) {
        PatientView p;
        CHECK(dataset_patient(&d, SPLIT_TRAIN, row, &p, &err));
        for (int64_t i = 0; i < p.n; i++) {
            count[patient_token(&p, i)] += 1;
            total += 1;
            after_visit += i > 0 && patient_token(&p, i - 1) == MADE_VISIT;
            pairs += i > 0 && patient_token(&p, i - 1) == MADE_VISIT && patient_token(&p, i) == MADE_COMPLAINT;
        }
    }
    double p_complaint = (count[MADE_COMPLAINT] + 0.5) / (total + 0.5 * V);
    assert_true(fabs(baseline_unigram(&b, MADE_COMPLAINT, MADE_COMPLAINT + 1) + log(p_complaint)) < 1e-12);
    assert_true(fabs(baseline_bigram(&b, MADE_VISIT, MADE_COMPLAINT, MADE_COMPLAINT + 1) + log((pairs + 5 * p_complaint) / (after_visit + 5))) < 1e-12);
    assert_true(fabs(baseline_unigram(&b, 0, V)) < 1e-12); /* both are laws: all ids together are certain */
    for (int u = 0; u < V; u++) assert_true(fabs(baseline_bigram(&b, u, 0, V)) < 1e-12);
    free(count);
    baseline_close(&b);
    dataset_close(&d);
}

static void evaluate_with(Dataset *d, Model *m, int rows, int64_t max_tokens, Evaluation *out) {
    Evaluator e;
    Acts *acts;
    Err err = {OK, ""};
    CHECK(acts_open(&acts, m, rows * 64, 1, RECOMPUTE_NONE, &err));
    CHECK(evaluator_open(&e, d, dist, rows, 64, max_tokens, &err));
    CHECK(evaluator_run(&e, m, acts, out, &err));
    Evaluation again;
    CHECK(evaluator_run(&e, m, acts, &again, &err));
    assert_true(again.loss == out->loss && again.targets == out->targets && again.patient_years == out->patient_years);
    evaluator_close(&e);
    acts_close(acts);
}

static void test_evaluation(void **state) {
    (void)state;
    Dataset d;
    Model m;
    Evaluation all, one, some;
    Err err = {OK, ""};
    CHECK(dataset_open(&d, data_dir, &err));
    open_model(&m, d.vocabulary.n, 16);
    evaluate_with(&d, &m, 3, 0, &all);
    evaluate_with(&d, &m, 1, 0, &one);
    evaluate_with(&d, &m, 3, 64, &some); /* one row */
    double events = 0, years = 0;
    int64_t P = d.n_patients[SPLIT_TUNING];
    for (int64_t row = 0; row < P; row++) {
        PatientView p;
        CHECK(dataset_patient(&d, SPLIT_TUNING, row, &p, &err));
        for (int64_t i = 0; i < p.n; i++) events += d.vocabulary.token[patient_token(&p, i)].kind != TOKEN_GAP;
        years += p.observation_end / 525960.0;
    }
    assert_int_equal(all.patients, P);
    assert_int_equal(all.events, events);
    assert_int_equal(all.targets, loader_targets(&d, SPLIT_TUNING, &err));
    /* Windows of long patients may leave out the time between them, never count any twice. */
    if (all.patient_years > years * (1 + 1e-9) || all.patient_years < 0.8 * years) fail_msg("%g patient-years of %g", all.patient_years, years);
    assert_true(fabs(all.loss * (double)all.targets / events - all.per_event) < 1e-9);
    assert_int_equal(one.targets, all.targets);
    assert_true(fabs(one.loss - all.loss) < 1e-12); /* a row's losses do not depend on the batch */
    assert_true(some.targets < all.targets && some.targets > 0 && some.targets <= 64);
    assert_true(all.loss_bigram < all.loss_unigram && all.loss_bigram > 0);
    assert_int_equal(all.known, 0);
    assert_true(isnan(all.excess) && isnan(all.loss_floor));
    model_close(&m);
    dataset_close(&d);
}

static MadePatient made_woman(int i) {
    return (MadePatient){.key = (uint64_t)i + 1, .statics = {MADE_SEX_F, 40}, .group = {1}};
}

/* A dataset whose oracle says what the model itself says plus 0.25 nats on every second patient: then the excess and its
 * standard error are known. */
static void test_excess_is_paired_and_clustered(void **state) {
    (void)state;
    enum { P = 12, TOKENS = 10, UNKNOWN = 3 }; /* the oracle says nothing of the last three */
    MadePatient patient[P + UNKNOWN];
    MadeSplit split[SPLIT_COUNT] = {{0}};
    char dir[4300];
    Dataset d;
    Model m;
    Evaluation e;
    Err err = {OK, ""};
    for (int i = 0; i < P + UNKNOWN; i++) {
        patient[i] = made_woman(i);
        for (int t = 0; t < TOKENS; t++) made_push(&patient[i], t == TOKENS - 1 ? MADE_DEATH : MADE_EVENT + (uint32_t)(t + i) % 15, t);
        patient[i].observation_end = TOKENS - 1;
        patient[i].oracle_logp = xcalloc(TOKENS, sizeof(float));
    }
    split[SPLIT_TRAIN] = split[SPLIT_TUNING] = (MadeSplit){patient, P + UNKNOWN};
    snprintf(dir, sizeof dir, "%s/oracle", folder);
    /* All weights zero: every id is equally likely, loss = log(62) wherever one looks. */
    for (int i = 0; i < P + UNKNOWN; i++)
        for (int t = 0; t < TOKENS; t++) patient[i].oracle_logp[t] = t == 3 || i >= P ? NAN : (float)(-log(MADE_VOCABULARY) + (i % 2 ? 0.25 : 0));
    made_write(dir, split, 1, "test");
    CHECK(dataset_open(&d, dir, &err));
    open_model(&m, d.vocabulary.n, 16);
    memset(m.w_arena, 0, (size_t)m.table.total * sizeof(float));
    evaluate_with(&d, &m, 2, 0, &e);
    assert_int_equal(e.known, P * (TOKENS - 1));
    assert_int_equal(e.targets, (P + UNKNOWN) * TOKENS);
    assert_int_equal(e.patients, P + UNKNOWN);
    assert_true(fabs(e.loss - log(MADE_VOCABULARY)) < 1e-5);
    assert_true(fabs(e.excess - 0.125) < 1e-5 && fabs(e.loss_known - e.loss_floor - e.excess) < 1e-9);
    /* Residual of each patient +-0.125 * 9 tokens: se = sqrt(12 * 1.125^2 * 12/11) / 108. */
    assert_true(fabs(e.excess_se - sqrt(12 * 1.125 * 1.125 * 12 / 11) / 108) < 1e-5);
    model_close(&m);
    dataset_close(&d);
    for (int i = 0; i < P + UNKNOWN; i++) made_patient_free(&patient[i]);
}

/* Time is counted to the last thing told, and beyond it to the end of observation of those who live. */
static void test_patient_years(void **state) {
    (void)state;
    static const struct {
        int32_t last, observation_end;
        uint32_t token;
    } made[] = {{500000, 500000, MADE_DEATH}, {1000, 300000, MADE_EVENT}, {2000, 2000, MADE_EVENT}, {700, 900000, MADE_DEATH}};
    enum { P = 4 };
    MadePatient patient[P];
    MadeSplit split[SPLIT_COUNT] = {{0}};
    char dir[4300];
    Dataset d;
    Model m;
    Evaluation e;
    Err err = {OK, ""};
    for (int i = 0; i < P; i++) {
        patient[i] = made_woman(i);
        made_push(&patient[i], MADE_EVENT, 0);
        made_push(&patient[i], MADE_EVENT + 1, 10);
        made_push(&patient[i], made[i].token, made[i].last);
        patient[i].observation_end = made[i].observation_end;
    }
    split[SPLIT_TRAIN] = split[SPLIT_TUNING] = (MadeSplit){patient, P};
    snprintf(dir, sizeof dir, "%s/years", folder);
    made_write(dir, split, 0, NULL);
    CHECK(dataset_open(&d, dir, &err));
    open_model(&m, d.vocabulary.n, 16);
    evaluate_with(&d, &m, 2, 0, &e);
    const double minutes = 500000 + 300000 + 2000 + 700;
    if (fabs(e.patient_years * 365.25 * 1440 - minutes) > 1e-3) fail_msg("%g minutes of %g", e.patient_years * 365.25 * 1440, minutes);
    assert_true(fabs(e.per_patient_year * e.patient_years - e.loss * (double)e.targets) < 1e-9);
    model_close(&m);
    dataset_close(&d);
    for (int i = 0; i < P; i++) made_patient_free(&patient[i]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_baselines),
        cmocka_unit_test(test_evaluation),
        cmocka_unit_test(test_excess_is_paired_and_clustered),
        cmocka_unit_test(test_patient_years),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
