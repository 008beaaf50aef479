/* test_diagnose.c - beliefs of sequential diagnosis: against laws small enough to enumerate, against the oracle's own law,
 * and bit for bit whatever the batch; encounters, answers and prices. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "data/oracle_cohort.h"
#include "infer/diagnose_walk.h"
#include "infer/rollout_window.h"
#include "tests/oracle_logits.h"

/* ---- a clinic of three tests and three diagnoses ------------------------------------------------------------------- */

enum { SEX = 3, AGE = 4, GAP = 5, DEATH = GAP + GAP_TOKENS, VISIT, END, X1, X2, Y1, Y2, Z, A, B, C, V };
enum { TX, TY, TZ, TESTS, DA = 0, DB, DC, DIAGNOSES };

static VocabToken token_table[V];

static Vocabulary clinic_vocabulary(void) {
    static char *statics[] = {"SEX"};
    static const struct {
        int id, kind;
        const char *code, *base;
        int level;
    } events[] = {{DEATH, KIND_DEATH, "MEDS_DEATH", "MEDS_DEATH", 0}, {VISIT, KIND_VISIT_START, "VISIT", "VISIT", 0}, {END, KIND_VISIT_END, "END", "END", 0},
                  {X1, KIND_LAB, "T//X=Q1", "T//X", 1}, {X2, KIND_LAB, "T//X=Q2", "T//X", 2}, {Y1, KIND_LAB, "T//Y=Q1", "T//Y", 1},
                  {Y2, KIND_LAB, "T//Y=Q2", "T//Y", 2}, {Z, KIND_LAB, "T//Z", "T//Z", 0}, {A, KIND_DIAGNOSIS, "D//A", "D//A", 0},
                  {B, KIND_DIAGNOSIS, "D//B", "D//B", 0}, {C, KIND_DIAGNOSIS, "D//C", "D//C", 0}};
    Vocabulary v = {.n = V, .token = token_table, .gap_lo = GAP, .age_lo = AGE, .n_age = 1, .age_bin_years = 5, .n_static = 1,
                    .static_name = statics, .death = DEATH};
    for (int i = 0; i < V; i++) {
        VocabToken *t = &token_table[i];
        t->code = t->base = t->name = t->unit = (char *)"";
        t->event_kind = -1;
        t->kind = i < SEX ? TOKEN_SPECIAL : i == SEX ? TOKEN_STATIC : i == AGE ? TOKEN_AGE : i < DEATH ? TOKEN_GAP : TOKEN_EVENT;
    }
    for (size_t i = 0; i < sizeof events / sizeof *events; i++) {
        VocabToken *t = &token_table[events[i].id];
        t->code = (char *)events[i].code;
        t->base = (char *)events[i].base;
        t->event_kind = events[i].kind;
        t->level = events[i].level;
    }
    return v;
}

/* One earlier visit with C, then one with X = 2, Z, A and B; gaps between. */
static const uint16_t record[] = {VISIT, Y1, C, END, GAP + 12, VISIT, X2, Z, A, B, C, END, GAP + 13, VISIT, END};
static const int32_t when[] = {0, 0, 0, 0, 9000, 9000, 9000, 9000, 9000, 9000, 9000, 9000, 50000, 50000, 50000};
static const uint16_t sexes[] = {SEX};
static PatientView clinic_patient(uint64_t key) {
    return (PatientView){.key = key, .n = sizeof record / sizeof *record, .tokens = record, .minutes = when, .statics = sexes, .age_years = 40};
}

/* What has come in the present visit, as bits of ids. */
static uint64_t visit_so_far(const int32_t *tokens, int n) {
    uint64_t seen = 0;
    for (int i = n - 1; i >= 0 && tokens[i] != VISIT; i--) seen |= 1ull << tokens[i];
    return seen;
}

/* The rest of the visit as a list: X, Y, Z, A, B, C, then its end; each with a chance that the results before it move. */
static double item_chance(uint64_t seen, int item) {
    int high = seen >> X2 & 1, low = seen >> Y1 & 1, z = seen >> Z & 1, a = seen >> A & 1;
    switch (item) {
    case 0: return 0.5;
    case 1: return high ? 0.7 : 0.3;
    case 2: return low ? 0.2 : 0.6;
    case 3: return high ? (z ? 0.8 : 0.5) : 0.1;
    case 4: return a ? 0.6 : low ? 0.4 : 0.15;
    default: return 0.5;
    }
}

static void list_law(void *ctx, const int32_t *tokens, int n, float *out) {
    (void)ctx;
    static const int first[] = {X1, Y1, Z, A, B, C}, last[] = {X2, Y2, Z, A, B, C};
    uint64_t seen = visit_so_far(tokens, n);
    double passed = 1;
    int from = 0;
    for (int i = 0; i < V; i++) out[i] = -INFINITY;
    for (int i = 0; i < 6; i++)
        for (int id = first[i]; id <= last[i]; id++)
            if (seen >> id & 1) from = i + 1;
    for (int i = from; i < 6; i++) {
        double q = item_chance(seen, i), up = i == 1 && seen >> X2 & 1 ? 0.9 : 0.25;
        if (first[i] == last[i]) out[first[i]] = (float)log(passed * q);
        else {
            out[first[i]] = (float)log(passed * q * (1 - up));
            out[last[i]] = (float)log(passed * q * up);
        }
        passed *= 1 - q;
    }
    out[END] = (float)log(passed);
}

/* Tests in any order, each once, before diagnoses: which of them comes first tells something, too.  B may be told twice. */
static void loose_law(void *ctx, const int32_t *tokens, int n, float *out) {
    (void)ctx;
    static const int tests[] = {X1, X2, Y1, Y2, Z};
    uint64_t seen = visit_so_far(tokens, n), told = seen & (1ull << A | 1ull << B | 1ull << C);
    int twice = 0;
    double left = 1;
    for (int i = n - 1; i >= 0 && tokens[i] != VISIT; i--) twice += tokens[i] == B;
    for (int i = 0; i < V; i++) out[i] = -INFINITY;
    for (int i = 0; i < 5 && !told; i++) {
        int id = tests[i], other = id == X1 ? X2 : id == X2 ? X1 : id == Y1 ? Y2 : id == Y2 ? Y1 : Z;
        if (seen >> id & 1 || seen >> other & 1) continue;
        double p = tokens[n - 1] == VISIT ? 0.1 : id == Y2 && seen >> X2 & 1 ? 0.25 : 0.07;
        out[id] = (float)log(p);
        left -= p;
    }
    double a = seen >> A & 1 ? 0 : seen >> X2 & 1 ? 0.5 : 0.1, b = twice > 1 ? 0 : tokens[n - 1] == Z ? 0.4 : 0.15, c = seen >> C & 1 ? 0 : 0.05;
    if (a > 0) out[A] = (float)log(left * a);
    if (b > 0) out[B] = (float)log(left * b);
    if (c > 0) out[C] = (float)log(left * c);
    out[END] = (float)log(left * (1 - a - b - c));
}

/* ---- every course, one by one -------------------------------------------------------------------------------------- */

typedef struct {
    const Law *law;
    const DiagnosisCodes *c;
    const Encounter *e;
    const uint8_t *asked;
    int32_t token[64];
    int opening, n;
    double all, test[TESTS], dx[DIAGNOSES], any;
} Enumeration;

/* Is the finished course one of those that the answers allow?  Its tests: all revealed results and no others of what was
 * asked for; nothing but tests before the last of them, and one test at least before anything else. */
static int allowed(const Enumeration *x) {
    int found[TESTS] = {0}, other = 0, tests = 0;
    for (int i = x->opening; i < x->n; i++) {
        int id = x->token[i], t = x->c->test[id];
        if (t < 0) {
            if (!tests) return 0;
            other = 1;
            continue;
        }
        tests++;
        if (!x->asked[t]) continue;
        if (x->e->result[t] != id || found[t] || other) return 0;
        found[t] = 1;
    }
    for (int t = 0; t < TESTS; t++)
        if (x->asked[t] && x->e->result[t] >= 0 && !found[t]) return 0;
    return 1;
}

static void enumerate(Enumeration *x, double p) {
    if (x->n > x->opening && x->c->ends[x->token[x->n - 1]]) {
        int seen[V] = {0}, any = 0;
        if (!allowed(x)) return;
        x->all += p;
        for (int i = x->opening; i < x->n; i++) seen[x->token[i]] = 1;
        for (int t = 0; t < TESTS; t++) x->test[t] += p * (seen[x->c->test_id[t]] || (t != TZ && seen[x->c->test_id[t] + 1]));
        for (int d = 0; d < DIAGNOSES; d++) {
            x->dx[d] += p * seen[x->c->dx_id[d]];
            any |= seen[x->c->dx_id[d]] && !x->e->had[d];
        }
        x->any += p * any;
        return;
    }
    float next[V];
    x->law->logits(x->law->ctx, x->token, x->n, next);
    for (int id = 0; id < V; id++) {
        if (next[id] == -INFINITY) continue;
        x->token[x->n++] = id;
        enumerate(x, p * exp(next[id]));
        x->n--;
    }
}

/* ---- the comparison -------------------------------------------------------------------------------------------------- */

enum { RUNS = 24, QUANTITIES = TESTS + DIAGNOSES + 1 };

static void quantities(const Belief *b, double *out) {
    for (int t = 0; t < TESTS; t++) out[t] = b->test[t];
    for (int d = 0; d < DIAGNOSES; d++) out[TESTS + d] = b->dx[d];
    out[TESTS + DIAGNOSES] = b->any;
}

/* |mean of the runs - exact| in standard errors of that mean. */
static double z_of(const double *value, double exact) {
    double mean = 0, square = 0;
    for (int r = 0; r < RUNS; r++) mean += value[r] / RUNS;
    for (int r = 0; r < RUNS; r++) square += (value[r] - mean) * (value[r] - mean);
    double se = sqrt(square / (RUNS - 1) / RUNS), off = fabs(mean - exact);
    return off < 1e-6 ? 0 : off / fmax(se, 1e-9);
}

static void compare(const Law *law, int ordered) {
    Err err = {OK, ""};
    Vocabulary v = clinic_vocabulary();
    DiagnosisCodes c;
    assert_int_equal(diagnosis_codes_open(&c, &v, &err), OK);
    assert_int_equal(c.n_test, TESTS);
    assert_int_equal(c.n_dx, DIAGNOSES);
    for (int a = 0; a < TESTS; a++)
        for (int b = 0; b < a; b++) c.never_before[a * TESTS + b] = (uint8_t)ordered;
    Encounter e;
    encounter_init(&e, &c);
    PatientView p = clinic_patient(7);
    assert_int_equal(encounter_next(&c, &p, 4, &e), 1);
    for (int mask = 0; mask < 1 << TESTS; mask++) {
        uint8_t asked[TESTS] = {mask & 1, mask >> 1 & 1, mask >> 2 & 1};
        double value[QUANTITIES][RUNS], row[QUANTITIES], exact[QUANTITIES];
        Enumeration x = {.law = law, .c = &c, .e = &e, .asked = asked};
        x.token[x.n++] = TOKEN_START;
        x.token[x.n++] = SEX;
        x.token[x.n++] = AGE;
        for (int i = 0; i < e.opening; i++) x.token[x.n++] = record[i];
        x.opening = x.n;
        enumerate(&x, 1);
        Belief exactly = {.test = x.test, .dx = x.dx, .any = x.any}, b;
        quantities(&exactly, exact);
        belief_init(&b, &c);
        for (int r = 0; r < RUNS; r++) {
            DiagnoseOptions o = {.samples = 1500, .max_tokens = 20, .batch = 1500, .seed = (uint64_t)(100 * mask + r)};
            Diagnoser *g;
            const Encounter *one = &e;
            const uint8_t *ask = asked;
            assert_int_equal(diagnoser_open(&g, law, &v, &c, &o, &err), OK);
            assert_int_equal(diagnoser_load(g, &one, 1, &err), OK);
            assert_int_equal(diagnoser_ask(g, &ask, &b, &err), OK);
            diagnoser_close(g);
            assert_true(b.fit > 20);
            quantities(&b, row);
            for (int q = 0; q < QUANTITIES; q++) value[q][r] = row[q];
        }
        for (int q = 0; q < QUANTITIES; q++) {
            if (q < TESTS && asked[q]) continue; /* what was answered is no belief */
            double z = z_of(value[q], exact[q] / x.all);
            if (!(z < 4.5)) fail_msg("asked %d, quantity %d: %.4f, exactly %.4f, z %.1f", mask, q, value[q][0], exact[q] / x.all, z);
        }
        belief_free(&b);
    }
    encounter_free(&e);
    diagnosis_codes_close(&c);
}

static void test_beliefs_of_a_list(void **state) {
    (void)state;
    Law law = {.logits = list_law, .seq_len = 1 << 20};
    compare(&law, 1);
}

/* Without knowing which test comes before which many courses fail; what is left is still right. */
static void test_beliefs_without_an_order(void **state) {
    (void)state;
    Law law = {.logits = list_law, .seq_len = 1 << 20};
    compare(&law, 0);
}

static void test_beliefs_of_tests_in_any_order(void **state) {
    (void)state;
    Law law = {.logits = loose_law, .seq_len = 1 << 20};
    compare(&law, 0);
}

/* ---- encounters ------------------------------------------------------------------------------------------------------ */

static void test_encounters(void **state) {
    (void)state;
    Err err = {OK, ""};
    Vocabulary v = clinic_vocabulary();
    DiagnosisCodes c;
    assert_int_equal(diagnosis_codes_open(&c, &v, &err), OK);
    Encounter e;
    encounter_init(&e, &c);
    PatientView p = clinic_patient(7);
    assert_int_equal(encounter_next(&c, &p, 0, &e), 1);
    assert_true(e.start == 0 && e.opening == 1 && e.end == 3);
    assert_true(e.n_fresh == 1 && e.fresh[DC] && !e.had[DC] && e.result[TY] == Y1 && e.result[TX] == -1);
    assert_int_equal(encounter_next(&c, &p, e.end, &e), 1);
    assert_true(e.start == 5 && e.opening == 6 && e.end == 11);
    assert_true(e.n_fresh == 2 && e.fresh[DA] && e.fresh[DB] && !e.fresh[DC] && e.had[DC]); /* C was known */
    assert_true(e.n_recorded == 2 && e.result[TX] == X2 && e.result[TZ] == Z && e.result[TY] == -1);
    assert_int_equal(encounter_next(&c, &p, e.end, &e), 0); /* a visit without a test is no question */
    encounter_free(&e);
    diagnosis_codes_close(&c);
    v.separate_values = 1;
    assert_int_equal(diagnosis_codes_open(&c, &v, &err), ERR_USAGE);
}

static Status prices_from(const char *text, DiagnosisCodes *c, const Vocabulary *v, Err *err) {
    char path[] = "/tmp/prices-XXXXXX", currency[32];
    int fd = mkstemp(path);
    assert_true(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    close(fd);
    Status st = diagnosis_prices(c, v, path, currency, sizeof currency, err);
    unlink(path);
    return st;
}

static void test_prices(void **state) {
    (void)state;
    Err err = {OK, ""};
    Vocabulary v = clinic_vocabulary();
    DiagnosisCodes c;
    assert_int_equal(diagnosis_codes_open(&c, &v, &err), OK);
    assert_true(c.price[TX] == 1 && c.minutes[TX] == 0);
    assert_int_equal(prices_from("{\"default\": {\"price\": 3, \"minutes\": 9}, \"tests\": [{\"codes\": [\"T//Y\"], \"price\": 0.5, \"minutes\": 2}]}", &c,
                                 &v, &err), OK);
    assert_true(c.price[TX] == 3 && c.minutes[TZ] == 9 && c.price[TY] == 0.5 && c.minutes[TY] == 2);
    static const char *const bad[] = {"{", "{}", "{\"default\": {\"price\": -1, \"minutes\": 1}}",
                                      "{\"default\": {\"price\": 1, \"minutes\": 1}, \"tests\": [{\"codes\": \"T//Y\", \"price\": 1, \"minutes\": 1}]}",
                                      "{\"default\": {\"price\": 1, \"minutes\": 1}, \"tests\": [{\"codes\": [], \"price\": \"1\", \"minutes\": 1}]}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) assert_int_equal(prices_from(bad[i], &c, &v, &err), ERR_FORMAT);
    diagnosis_codes_close(&c);
}

/* ---- the oracle's law: simulated courses and the closed form agree -------------------------------------------------- */

static void test_the_oracles_own_answer(void **state) {
    (void)state;
    Err err = {OK, ""};
    Vocabulary v;
    char *json = oracle_vocabulary_format(0);
    assert_int_equal(vocabulary_parse(&v, json, strlen(json), "the oracle's vocabulary", &err), OK);
    free(json);
    LawContext context;
    assert_int_equal(law_open(&context, &v, &err), OK);
    Law law = law_of(&context);
    DiagnosisCodes c;
    assert_int_equal(diagnosis_codes_open(&c, &v, &err), OK);
    assert_int_equal(c.n_test, ORACLE_LABS);
    int *lab = xcalloc((size_t)c.n_test, sizeof *lab);
    for (int t = 0; t < c.n_test; t++) lab[t] = context.law.what[c.test_id[t]] - ORACLE_LAB;
    for (int a = 0; a < c.n_test; a++)
        for (int b = 0; b < c.n_test; b++) c.never_before[a * c.n_test + b] = lab[a] > lab[b];
    /* A first visit: tired, some results, and what was found. */
    static const char *const codes[] = {"VISIT//OUT", "COMPLAINT//FATIGUE", "LOINC//2160-0=Q9", "LOINC//718-7=Q2", "LOINC//8480-6=Q10",
                                        "ICD10CM//I10", "VISIT_END"};
    uint16_t tokens[7], statics[2] = {(uint16_t)vocabulary_find(&v, "SEX//F"), (uint16_t)vocabulary_find(&v, "RACE//BLACK")};
    int32_t minutes[7] = {0, 1, 2, 3, 4, 5, 6};
    for (int i = 0; i < 7; i++) {
        assert_true(vocabulary_find(&v, codes[i]) >= 0);
        tokens[i] = (uint16_t)vocabulary_find(&v, codes[i]);
    }
    PatientView p = {.key = 5, .n = 7, .tokens = tokens, .minutes = minutes, .statics = statics, .age_years = 67};
    Encounter e;
    encounter_init(&e, &c);
    assert_int_equal(encounter_next(&c, &p, 0, &e), 1);
    assert_int_equal(e.opening, 2);
    uint8_t *asked = xcalloc((size_t)c.n_test, 1);
    Belief b, exact;
    belief_init(&b, &c);
    belief_init(&exact, &c);
    for (int k = 0; k <= c.n_test; k += 4) { /* none, then four more each time: recorded ones and others */
        for (int t = 0; t < c.n_test; t++) asked[t] = (lab[t] * 5 + 2) % ORACLE_LABS < k;
        OracleCursor cursor;
        int answer[ORACLE_LABS];
        OracleVisit visit;
        oracle_law_start(&cursor);
        RolloutWindow w;
        const RolloutOptions none = {0};
        RolloutJob job = {.patient = p, .n_known = e.opening, .index_minutes = 1};
        rollout_window(&v, &none, 1 << 20, &job, &w);
        for (int i = 0; i < w.n; i++) assert_int_equal(oracle_law_feed(&context.law, &cursor, w.token[i], &err), OK);
        rollout_window_free(&w);
        for (int t = 0; t < c.n_test; t++)
            answer[lab[t]] = !asked[t] ? ORACLE_ANSWER_NONE : e.result[t] < 0 ? ORACLE_ANSWER_ABSENT : context.law.level[e.result[t]];
        assert_int_equal(oracle_visit(&cursor.state, answer, 0, 200000, 3, &visit), 1);
        double any[RUNS], dx[RUNS][ORACLE_CHRONIC], test[RUNS][ORACLE_LABS], one[RUNS];
        for (int r = 0; r < RUNS; r++) {
            DiagnoseOptions o = {.samples = 400, .max_tokens = 80, .batch = 400, .seed = (uint64_t)(77 * k + r)};
            Diagnoser *g;
            const Encounter *which = &e;
            const uint8_t *ask = asked;
            assert_int_equal(diagnoser_open(&g, &law, &v, &c, &o, &err), OK);
            assert_int_equal(diagnoser_load(g, &which, 1, &err), OK);
            assert_int_equal(diagnoser_ask(g, &ask, &b, &err), OK);
            diagnoser_close(g);
            assert_true(b.fit > 250); /* knowing the order, few courses are lost */
            any[r] = b.any;
            for (int t = 0; t < c.n_test; t++) test[r][lab[t]] = b.test[t];
            for (int x = 0; x < c.n_dx; x++) {
                int what = context.law.what[c.dx_id[x]] - ORACLE_CHRONIC_DX;
                if (what >= 0 && what < ORACLE_CHRONIC) dx[r][what] = b.dx[x];
            }
        }
        if (!(z_of(any, visit.any) < 4.5)) fail_msg("%d asked, any: %.8f %.8f, %.8f, z %g", k, any[0], any[1], visit.any, z_of(any, visit.any));
        for (int x = 0; x < ORACLE_CHRONIC; x++) {
            for (int r = 0; r < RUNS; r++) one[r] = dx[r][x];
            if (!(z_of(one, visit.p[ORACLE_CHRONIC_DX + x]) < 4.5)) fail_msg("%d asked, condition %d: %g, %g", k, x, one[0], visit.p[ORACLE_CHRONIC_DX + x]);
        }
        for (int t = 0; t < c.n_test; t++) {
            for (int r = 0; r < RUNS; r++) one[r] = test[r][lab[t]];
            if (!asked[t] && !(z_of(one, visit.p[ORACLE_LAB + lab[t]]) < 4.5)) fail_msg("%d asked, lab %d: %g, %g", k, lab[t], one[0], visit.p[ORACLE_LAB + lab[t]]);
        }
    }
    belief_free(&b);
    belief_free(&exact);
    encounter_free(&e);
    free(asked);
    free(lab);
    diagnosis_codes_close(&c);
    law_close(&context);
    vocabulary_free(&v);
}

/* ---- a model: the cache changes nothing, nor does the batch --------------------------------------------------------- */

typedef struct {
    Model *m;
    Acts *acts;
    float *logits; /* (Vp) */
} Whole;

/* The next token's logits from a pass over everything, without a cache. */
static void whole_law(void *ctx, const int32_t *tokens, int n, float *out) {
    Whole *w = ctx;
    int32_t positions[256], lo[256], ends[2] = {0, n}, zero[256] = {0}, row = n - 1;
    int64_t none[256];
    float nan[256];
    for (int i = 0; i < n; i++) {
        positions[i] = i;
        lo[i] = -1;
        none[i] = -1;
        nan[i] = NAN;
    }
    Batch b = {.rows = 1, .T = n, .N = n, .n_seq = 1, .tokens = (int32_t *)(uintptr_t)tokens, .positions = positions, .target_lo = lo,
               .target_hi = lo, .cu_seqlens = ends, .seq_patient = none, .target_index = none, .oracle_logp = nan, .minutes = zero};
    model_upload(w->m, w->acts, &b);
    model_pass(w->m, w->acts, NULL, NULL, NULL);
    int32_t *d_row = device_alloc(w->m->dev, sizeof row);
    device_upload(w->m->dev, d_row, &row, sizeof row);
    model_logits(w->m, w->acts, w->logits, d_row, 1);
    device_free(w->m->dev, d_row);
    device_download(w->m->dev, out, w->logits, V * sizeof *out);
}

static void ask_both(const Law *law, const Vocabulary *v, const DiagnosisCodes *c, int batch, double out[2][QUANTITIES]) {
    Err err = {OK, ""};
    Encounter e[2];
    const Encounter *pe[2] = {&e[0], &e[1]};
    uint8_t asked[2][TESTS] = {{1, 0, 0}, {0, 1, 1}};
    const uint8_t *ask[2] = {asked[0], asked[1]};
    Belief b[2];
    PatientView p[2] = {clinic_patient(3), clinic_patient(4)};
    for (int i = 0; i < 2; i++) {
        encounter_init(&e[i], c);
        belief_init(&b[i], c);
        assert_int_equal(encounter_next(c, &p[i], i ? 0 : 4, &e[i]), 1);
    }
    DiagnoseOptions o = {.samples = 16, .max_tokens = 80, .batch = batch, .seed = 9};
    Diagnoser *g;
    assert_int_equal(diagnoser_open(&g, law, v, c, &o, &err), OK);
    for (int i = 0; i < 2; i += diagnoser_width(g)) {
        int n = diagnoser_width(g) < 2 ? 1 : 2;
        assert_int_equal(diagnoser_load(g, pe + i, n, &err), OK);
        for (int twice = 0; twice < 2; twice++) assert_int_equal(diagnoser_ask(g, ask + i, b + i, &err), OK);
    }
    diagnoser_close(g);
    for (int i = 0; i < 2; i++) {
        quantities(&b[i], out[i]);
        belief_free(&b[i]);
        encounter_free(&e[i]);
    }
}

static void test_cache_and_batch_change_nothing(void **state) {
    (void)state;
    Err err = {OK, ""};
    char why[256];
    ModelConfig cfg;
    Device *dev = device_open(DEVICE_CPU, 0, 1, why, sizeof why);
    assert_non_null(dev);
    if (config_preset(&cfg, "nano", &err)) fail_msg("%s", err.msg);
    cfg.n_layers = 2;
    cfg.vocab_size = V;
    cfg.seq_len = 256;
    cfg.init_std = 0.2;
    Model m;
    if (config_check(&cfg, &err) || model_open(&m, &cfg, dev, DTYPE_F32, 1, &err)) fail_msg("%s", err.msg);
    model_init(&m, 3);
    if (model_prepare(&m, DTYPE_F32, &err)) fail_msg("%s", err.msg);
    Vocabulary v = clinic_vocabulary();
    DiagnosisCodes c;
    assert_int_equal(diagnosis_codes_open(&c, &v, &err), OK);
    Whole w = {.m = &m};
    assert_int_equal(acts_open(&w.acts, &m, 256, 0, RECOMPUTE_NONE, &err), OK);
    w.logits = device_alloc(dev, (size_t)cfg.vocab_padded * sizeof(float));
    double one[2][QUANTITIES], two[2][QUANTITIES], whole[2][QUANTITIES];
    Law cached = {.model = &m, .seq_len = 256}, plain = {.logits = whole_law, .ctx = &w, .seq_len = 256};
    ask_both(&cached, &v, &c, 1, one);
    ask_both(&cached, &v, &c, 64, two);
    ask_both(&plain, &v, &c, 16, whole);
    assert_true(one[0][TESTS + DIAGNOSES] > 0 && one[0][TESTS] != one[1][TESTS]);
    assert_memory_equal(one, two, sizeof one);
    assert_memory_equal(one, whole, sizeof one);
    device_free(dev, w.logits);
    acts_close(w.acts);
    diagnosis_codes_close(&c);
    model_close(&m);
    device_close(dev);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_encounters),
        cmocka_unit_test(test_prices),
        cmocka_unit_test(test_beliefs_of_a_list),
        cmocka_unit_test(test_beliefs_without_an_order),
        cmocka_unit_test(test_beliefs_of_tests_in_any_order),
        cmocka_unit_test(test_the_oracles_own_answer),
        cmocka_unit_test(test_cache_and_batch_change_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
