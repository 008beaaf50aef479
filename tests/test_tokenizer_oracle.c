/* test_tokenizer_oracle.c - the oracle's floor in a dataset: the log probabilities of the law, token by token, when the
 * vocabulary is the law's own, and a reason when it is not. */
#include "data/oracle.h"
#include "data/oracle_cohort.h"
#include "tests/make_events.h"

static double counted_logp(const char *dataset, int64_t *counted, int floor_valid) {
    Dataset d = made_open(dataset);
    double sum = 0;
    *counted = 0;
    assert_int_equal(d.floor_valid, floor_valid);
    assert_string_equal(d.deidentification, "synthetic");
    for (int s = 0; s < SPLIT_COUNT; s++)
        for (int64_t row = 0; row < d.n_patients[s]; row++) {
            PatientView p;
            MUST(dataset_patient(&d, s, row, &p, err));
            for (int64_t i = 0, ended = 0; i < p.n; i++) {
                if (isnan(p.oracle_logp[i])) {
                    ended = 1;
                    continue;
                }
                assert_true(!ended || !floor_valid); /* what is not counted comes after what is */
                assert_true(p.oracle_logp[i] <= 0);
                sum += p.oracle_logp[i];
                ++*counted;
            }
        }
    dataset_close(&d);
    return sum;
}

/* All that the events file says is counted, gaps, whats and levels together. */
static double stored_logp(const char *path) {
    EventFile f;
    OracleFile o;
    double sum = 0;
    MUST(event_file_open(&f, path, err));
    MUST(oracle_file_open(&o, path, f.n_patients, f.n_events, err));
    const uint64_t *offset;
    const float *logp;
    MUST(oracle_file_events(&o, 0, f.n_events, &offset, &logp, err));
    for (uint64_t i = 0; i < offset[f.n_events]; i++) sum += isnan(logp[i]) ? 0 : logp[i];
    oracle_file_close(&o);
    event_file_close(&f);
    return sum;
}

/* A record of the law's tokens, or (foreign) with one that the law does not know. */
static int small_floor(const char *path, const char *out, int foreign) {
    MadeFile f = events_begin(path);
    events_subject(&f, 1, 5000, SPLIT_TRAIN);
    events_add(&f, (MadeEvent){1, UNDATED, oracle_sex_code(0), KIND_STATIC, NONE, NULL, 0}, NULL);
    events_add(&f, (MadeEvent){1, UNDATED, oracle_race_code(0), KIND_STATIC, NONE, NULL, 0}, NULL);
    events_add(&f, (MadeEvent){1, 0, oracle_item(ORACLE_VISIT_OUT).code, KIND_VISIT_START, NONE, NULL, 0}, NULL);
    OracleItem drug = oracle_item(ORACLE_DRUG);
    events_add(&f, (MadeEvent){1, 1, foreign ? "ATC//X99" : drug.code, KIND_DRUG, NONE, NULL, 0}, NULL);
    events_add(&f, (MadeEvent){1, 2 + DAY, oracle_item(ORACLE_VISIT_OUT).code, KIND_VISIT_START, NONE, NULL, 0}, NULL);
    events_end(&f);
    const uint8_t count[] = {0, 0, 2, 2, 3};
    const float   logp[] = {-1, 0, -2, 0, -0.5f, -0.25f, 0};
    const int64_t index[] = {made_us(2 + DAY)};
    const double  risk[] = {0.5, 0.1};
    const OracleFileOutcome outcome = {"death", "MEDS_DEATH", 1};
    OracleFileContent c = {1, 5, 7, count, logp, index, 1, &outcome, risk, 1, 1};
    MUST(oracle_file_write(&c, path, err));
    TokenizeOptions o = made_options(path, out);
    o.vocabulary = at("fused.json");
    TokenizeReport r = made_tokenize(o);
    int valid = r.floor_valid;
    Dataset d = made_open(out);
    PatientView p;
    MUST(dataset_patient(&d, SPLIT_TRAIN, 0, &p, err));
    const float expected[] = {-1, foreign ? NAN : -2, -0.5f, -0.25f};
    assert_int_equal(p.n, 4);
    for (int i = 0; i < 4; i++) assert_true(p.oracle_logp[i] == expected[i] || (isnan(p.oracle_logp[i]) && isnan(expected[i])));
    dataset_close(&d);
    tokenize_report_free(&r);
    return valid;
}

static void test_oracle(void **state) {
    (void)state;
    OracleCohortOptions co = {.patients = 300, .seed = 3, .max_tokens = 500, .risk_samples = 0, .threads = 1};
    double seconds;
    MUST(oracle_cohort_draw(&co, at("oracle.h5"), NULL, &seconds, err));
    char *fused = oracle_vocabulary_format(0), *separate = oracle_vocabulary_format(1);
    MUST(file_write(at("fused.json"), fused, strlen(fused), err));
    MUST(file_write(at("separate.json"), separate, strlen(separate), err));
    TokenizeOptions o = made_options(at("oracle.h5"), at("of"));
    o.vocabulary = at("fused.json");
    TokenizeReport r = made_tokenize(o);
    assert_true(r.oracle && r.floor_valid);
    tokenize_report_free(&r);
    o.vocabulary = at("separate.json");
    o.out = at("os");
    r = made_tokenize(o);
    assert_true(r.floor_valid && r.separate_values);
    tokenize_report_free(&r);
    int64_t n_fused, n_separate, n_fitted;
    double lp_fused = counted_logp(at("of"), &n_fused, 1), lp_separate = counted_logp(at("os"), &n_separate, 1);
    assert_true(n_separate > n_fused && n_fused > 300 * 50);
    double stored = stored_logp(at("oracle.h5"));
    assert_float_equal(lp_fused, stored, 1e-6 * fabs(stored));
    assert_float_equal(lp_separate, stored, 1e-6 * fabs(stored));
    assert_true(small_floor(at("small.h5"), at("small"), 0));
    assert_false(small_floor(at("foreign.h5"), at("foreign"), 1));
    OracleScore score;
    MUST(oracle_score_dataset(at("of"), &score, NULL, err));
    assert_true(score.max_diff < 1e-5 && score.impossible == 0);
    assert_int_equal(score.counted, n_fused);
    MUST(oracle_score_dataset(at("os"), &score, NULL, err));
    assert_true(score.max_diff < 1e-5 && score.impossible == 0);
    /* A vocabulary fitted to the cohort is not the law's. */
    o.vocabulary = NULL;
    o.out = at("or");
    r = made_tokenize(o);
    assert_false(r.floor_valid);
    assert_non_null(strstr(r.floor_reason, "fitted"));
    tokenize_report_free(&r);
    counted_logp(at("or"), &n_fitted, 0);
    /* Nor is one whose edges lie elsewhere, though every token has its name. */
    char *edge = strstr(strstr(fused, "\"edges\""), ": [") + 3;
    *edge = *edge == '1' ? '2' : '1';
    Vocabulary v;
    Err err = {0};
    if (!vocabulary_parse(&v, fused, strlen(fused), "moved", &err)) {
        vocabulary_free(&v);
        MUST(file_write(at("moved.json"), fused, strlen(fused), err));
        o.vocabulary = at("moved.json");
        o.out = at("om");
        r = made_tokenize(o);
        assert_false(r.floor_valid);
        assert_non_null(strstr(r.floor_reason, "edges"));
        tokenize_report_free(&r);
    }
    free(fused);
    free(separate);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_oracle)};
    return cmocka_run_group_tests(tests, folder_make, folder_remove);
}
