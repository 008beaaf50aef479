/* test_import_same_patients.c - four patients that Synthea wrote as CSV and as FHIR give the same timelines, but for a
 * list of differences: each event is paired with one of the other file, and every kind of difference is counted. */
#include "tests/import_timelines.h"

typedef enum {
    SAME,
    ROUNDED,
    WORDS,
    LOCAL_DATE,
    EARLIER,
    ALONE,
    MERGED_DATES,
    ONLY_CSV,
    ONLY_FHIR,
    N_DIFFERENCES
} Difference;
static const char *const difference_text[N_DIFFERENCES] = {
    "the same in all fields",
    "values: one decimal in CSV, five digits in FHIR",
    "answers: in words in CSV, as a code in FHIR",
    "times: a local date in CSV, a time in FHIR (conditions, allergies, care plans, supplies)",
    "of those: known at the visit's end in CSV, before the time that FHIR tells",
    "answers that one patient alone gave: left out of CSV, where they are words; a code in FHIR",
    "two care plans of one date are one in CSV, two times in FHIR",
    "devices: without a time of use in FHIR",
    "in FHIR only"};

/* CSV writes blanks for commas. */
static int same_words(const char *a, const char *b) {
    for (;; a++, b++) {
        while (*a == ' ' || *a == ',') a++;
        while (*b == ' ' || *b == ',') b++;
        if (*a != *b) return 0;
        if (!*a) return 1;
    }
}

/* "question: answer" */
static int ends_with_words(const char *name, const char *words) {
    for (const char *p = name; (p = strstr(p, ": ")); p += 2)
        if (same_words(words, p + 2)) return 1;
    return 0;
}

static int same_value(float a, float b) { return a == b || (isnan(a) && isnan(b)); }

static int differs_by(Difference d, const EventFile *f, const Event *x, const EventFile *g, const Event *y) {
    const char *a = f->codes[x->code], *b = g->codes[y->code];
    int same_code = !strcmp(a, b), same_time = x->time == y->time && x->available == y->available;
    int same_place = same_time && x->visit == y->visit && x->precision == y->precision;
    int same_unit = !strcmp(f->units[x->unit], g->units[y->unit]) && x->comparator == y->comparator;
    int64_t apart = x->time > y->time ? x->time - y->time : y->time - x->time;
    switch (d) {
    case SAME: return same_code && same_place && same_unit && same_value(x->value, y->value);
    case ROUNDED:
        return same_code && same_place && same_unit &&
               fabsf(x->value - y->value) <= fmaxf(0.0501f, 6e-5f * fabsf(x->value));
    case WORDS:
        return same_place && strchr(a, '=') && strchr(b, '=') && (size_t)(strchr(a, '=') - a) == strcspn(b, "=") &&
               !strncmp(a, b, strcspn(b, "=")) && ends_with_words(g->code_name[y->code], f->code_name[x->code]);
    case LOCAL_DATE:
        /* Known at the end of the visit in CSV; FHIR's supplies and allergies have no visit. */
        return same_code && x->precision == PRECISION_DAY && y->precision == PRECISION_SECOND &&
               apart < US_PER_DAY + 300 * US_PER_MINUTE && (x->visit == y->visit || !y->visit) && same_unit &&
               same_value(x->value, y->value);
    case ALONE:
        return same_place && isnan(x->value) && (size_t)strlen(a) >= strcspn(b, "=") &&
               !strncmp(a, b, strcspn(b, "=")) && a[strcspn(b, "=")] == 0;
    default: return 0;
    }
}

/* Pairs each event with one of the other file's, the strictest rule first, and counts what differs how. */
static void patients_compare(const EventFile *f, EventPatient *p, const EventFile *g, EventPatient *q,
                             int64_t counts[]) {
    char *x_done = xcalloc((size_t)p->n, 1), *y_done = xcalloc((size_t)q->n, 1);
    for (int d = SAME; d <= ALONE; d++)
        for (int64_t i = 0; i < p->n; i++)
            for (int64_t k = 0; k < q->n && !x_done[i]; k++)
                if (!y_done[k] && differs_by((Difference)d, f, &p->event[i], g, &q->event[k])) {
                    x_done[i] = y_done[k] = 1;
                    counts[d]++;
                    counts[EARLIER] += d == LOCAL_DATE && p->event[i].available < q->event[k].available;
                }
    for (int64_t i = 0; i < p->n; i++) {
        const char *name = f->code_name[p->event[i].code];
        if (x_done[i]) continue;
        counts[ONLY_CSV]++;
        if (!strstr(name, "nebulizer") && !strstr(name, "glucose meter"))
            fail_msg("in CSV only: %s", f->codes[p->event[i].code]);
    }
    for (int64_t k = 0; k < q->n; k++) {
        if (y_done[k]) continue;
        const char *code = g->codes[q->event[k].code];
        if (strcmp(code, "SNOMED//736376001")) fail_msg("in FHIR only: %s", code);
        counts[MERGED_DATES]++;
    }
    free(x_done);
    free(y_done);
}

static void test_same_patients(void **state) {
    (void)state;
    EventFile f, g;
    EventPatient p, q;
    int64_t counts[N_DIFFERENCES] = {0}, k = 0;
    options.extract_date = "2024-04-12";
    options.utc_offset = "-05:00";
    import_format = import_fhir;
    import_as(sample_data("synthea-csv-fhir/fhir"), at("fhir.h5"));
    import_format = import_synthea;
    import_as(sample_data("synthea-csv-fhir/csv"), at("csv.h5"));
    ok(event_file_open(&f, at("csv.h5"), &err));
    ok(event_file_open(&g, at("fhir.h5"), &err));
    assert_int_equal(g.n_patients, 4);
    for (int64_t r = 0; r < f.n_patients && k < 4; r++) {
        ok(event_file_patient(&g, k, &q, &err));
        ok(event_file_patient(&f, r, &p, &err));
        if (p.subject != q.subject) continue;
        k++;
        assert_int_equal(p.observation_end, q.observation_end);
        patients_compare(&f, &p, &g, &q, counts);
    }
    assert_int_equal(k, 4);
    for (int d = 0; d < N_DIFFERENCES; d++) print_message("%6lld  %s\n", (long long)counts[d], difference_text[d]);
    static const int64_t expected[N_DIFFERENCES] = {916, 252, 343, 116, 2, 14, 1, 3, 0};
    for (int d = 0; d < N_DIFFERENCES; d++) assert_int_equal(counts[d], expected[d]);
    event_file_close(&f);
    event_file_close(&g);
}

int main(void) {
    const struct CMUnitTest tests[] = {IN_FOLDER(test_same_patients)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
