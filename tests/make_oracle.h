/* make_oracle.h - a dataset of the oracle's patients in the test's folder: o.h5, o.json and o. */
#ifndef EHR_TESTS_MAKE_ORACLE_H
#define EHR_TESTS_MAKE_ORACLE_H
#include "data/label_build.h"
#include "data/oracle_cohort.h"
#include "tests/make_events.h"

/* What labels are made from.  The first call of a test program makes the dataset. */
static inline LabelOptions made_oracle(OracleCohortOptions o) {
    static int made;
    if (!made++) {
        MUST(oracle_cohort_draw(&o, at("o.h5"), NULL, NULL, err));
        char *json = oracle_vocabulary_format(0);
        MUST(file_write(at("o.json"), json, strlen(json), err));
        free(json);
        TokenizeOptions t = made_options(at("o.h5"), at("o"));
        t.vocabulary = at("o.json");
        TokenizeReport r = made_tokenize(t);
        tokenize_report_free(&r);
    }
    return (LabelOptions){.events = at("o.h5"), .dataset = at("o"), .split = -1};
}

#endif
