/* test_vocabulary.c - what a vocabulary promises: look-ups, patterns, gaps and ages; and a table of corruptions. */
#include "data/event.h"
#include "data/vocabulary.h"
#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

/* ---- a small vocabulary ------------------------------------------------------------------------------------------------ */

static json_t *token_add(json_t *list, const char *code, const char *kind, const char *event_kind) {
    json_t *t = json_pack("{s:i, s:s, s:s}", "id", (int)json_array_size(list), "code", code, "kind", kind);
    if (event_kind) json_object_set_new(t, "event_kind", json_string(event_kind));
    json_array_append_new(list, t);
    return t;
}

static json_t *small_json(void) {
    json_t *root = json_pack("{s:s, s:i, s:s, s:[s], s:i}", "format", "ehr.c vocabulary", "format_version", 1, "values", "fused",
                             "static", "SEX", "age_bin_years", 10);
    json_t *tokens = json_array(), *bins = json_array();
    token_add(tokens, "PAD", "special", NULL);
    token_add(tokens, "RECORD_START", "special", NULL);
    token_add(tokens, "RECORD_CONTINUES", "special", NULL);
    token_add(tokens, "SEX//F", "static", NULL);
    token_add(tokens, "SEX//M", "static", NULL);
    for (int i = 2; i < 9; i++) {
        char code[32];
        snprintf(code, sizeof code, "AGE//%d-%d", 10 * i, 10 * i + 9);
        token_add(tokens, code, "age", NULL);
    }
    token_add(tokens, "AGE//UNKNOWN", "age", NULL);
    for (int b = 0; b < GAP_TOKENS; b++) {
        json_t *q = json_array();
        double lo = GAP_MINUTES[b], hi = b < GAP_BINS ? GAP_MINUTES[b + 1] : lo;
        for (int i = 0; i < GAP_QUANTILES; i++) json_array_append_new(q, json_real(lo + (hi - lo) * (i + 0.5) / GAP_QUANTILES));
        json_array_append_new(bins, json_pack("{s:i, s:s, s:o}", "id", (int)json_array_size(tokens), "code", GAP_NAME[b],
                                              "quantiles_minutes", q));
        token_add(tokens, GAP_NAME[b], "gap", NULL);
    }
    token_add(tokens, "VISIT//IN", "event", "visit_start");
    token_add(tokens, "UNKNOWN//lab", "unknown", "lab");
    for (int k = 1; k <= 3; k++) {
        char code[32];
        snprintf(code, sizeof code, "LOINC//4548-4=Q%d", k);
        json_t *t = token_add(tokens, code, "event", "lab");
        json_object_set_new(t, "base", json_string("LOINC//4548-4"));
        json_object_set_new(t, "name", json_string("Hemoglobin A1c"));
        json_object_set_new(t, "unit", json_string("%"));
        json_object_set_new(t, "level", json_integer(k));
        if (k > 1) json_object_set_new(t, "lo", json_real(5.5 + 0.6 * (k - 2)));
        if (k < 3) json_object_set_new(t, "hi", json_real(5.5 + 0.6 * (k - 1)));
    }
    json_t *limit = token_add(tokens, "LOINC//4548-4=LT", "event", "lab");
    json_object_set_new(limit, "base", json_string("LOINC//4548-4"));
    json_object_set_new(limit, "level", json_integer(LEVEL_LT));
    token_add(tokens, "ICD10CM//E11", "event", "diagnosis");
    token_add(tokens, "ICD10CM//E11.9", "event", "diagnosis");
    token_add(tokens, "ICD10CM//E110", "event", "diagnosis");
    token_add(tokens, "VISIT_END", "event", "visit_end");
    token_add(tokens, "MEDS_DEATH", "event", "death");
    json_object_set_new(root, "gap_bins", bins);
    json_object_set_new(root, "tokens", tokens);
    json_object_set_new(root, "rollup", json_pack("{s:s, s:s}", "ICD10CM//E11.65", "ICD10CM//E11.9", "ICD10CM//E11.2", "ICD10CM//E11"));
    json_object_set_new(root, "edges", json_pack("{s:[f,f]}", "LOINC//4548-4|%", 5.5, 6.1));
    json_object_set_new(root, "edge_shares", json_pack("{s:[f,f,f]}", "LOINC//4548-4|%", 0.5, 0.25, 0.25));
    return root;
}

static Status parse(Vocabulary *v, json_t *root, Err *err) {
    char *text = json_dumps(root, 0);
    Status status = vocabulary_parse(v, text, strlen(text), "vocabulary.json", err);
    free(text);
    return status;
}

static Vocabulary small(void) {
    Vocabulary v;
    Err err = {0};
    json_t *root = small_json();
    if (parse(&v, root, &err)) fail_msg("%s", err.msg);
    json_decref(root);
    return v;
}

/* ---- look-ups ------------------------------------------------------------------------------------------------------------- */

static void test_find(void **state) {
    (void)state;
    Vocabulary v = small();
    for (int id = 0; id < v.n; id++) assert_int_equal(vocabulary_find(&v, v.token[id].code), id);
    assert_int_equal(vocabulary_find(&v, "LOINC//4548-4"), -1);
    assert_int_equal(vocabulary_find(&v, ""), -1);
    assert_int_equal(v.unknown[KIND_LAB], vocabulary_find(&v, "UNKNOWN//lab"));
    assert_int_equal(v.unknown[KIND_DRUG], -1);
    assert_int_equal(v.death, v.n - 1);
    assert_int_equal(v.n_static, 1);
    assert_string_equal(v.static_name[0], "SEX");
    assert_int_equal(strlen(v.sha256), 64);
    assert_int_equal(v.n_rollup, 2);
    assert_string_equal(v.rollup_from[0], "ICD10CM//E11.2");
    vocabulary_free(&v);
}

static void test_ages(void **state) {
    (void)state;
    Vocabulary v = small();
    struct {
        double      years;
        const char *code;
    } const row[] = {{0, "AGE//20-29"},    {20, "AGE//20-29"},    {29.99, "AGE//20-29"},     {30, "AGE//30-39"},
                     {80, "AGE//80-89"},   {199, "AGE//80-89"},   {AGE_UNKNOWN, "AGE//UNKNOWN"}, {NAN, "AGE//UNKNOWN"},
                     {-1, "AGE//UNKNOWN"}, {1e300, "AGE//UNKNOWN"}};
    for (size_t i = 0; i < sizeof row / sizeof *row; i++)
        assert_string_equal(v.token[vocabulary_age_token(&v, row[i].years)].code, row[i].code);
    vocabulary_free(&v);
}

static void test_gaps(void **state) {
    (void)state;
    Vocabulary v = small();
    assert_int_equal(vocabulary_gap_bin(0), -1);
    assert_int_equal(vocabulary_gap_bin(4), -1);
    for (int b = 0; b < GAP_BINS; b++) {
        assert_int_equal(vocabulary_gap_bin(GAP_MINUTES[b]), b);
        assert_int_equal(vocabulary_gap_bin(GAP_MINUTES[b + 1] - 1), b);
    }
    assert_int_equal(vocabulary_gap_bin(180 * 1440), GAP_BINS);
    assert_int_equal(vocabulary_gap_bin(INT32_MAX), GAP_BINS);

    int day = vocabulary_find(&v, "GAP//1d-2d"), longest = vocabulary_find(&v, "GAP//=6mt");
    assert_float_equal(vocabulary_gap_minutes(&v, day, -1), 2160, 1e-9);
    assert_float_equal(vocabulary_gap_minutes(&v, day, 0.5), 2160, 1e-9);
    assert_float_equal(vocabulary_gap_minutes(&v, day, 0), 1440 + 45, 1e-9);
    assert_float_equal(vocabulary_gap_minutes(&v, day, 0.999999), 2880 - 45, 1e-9);
    assert_float_equal(vocabulary_gap_minutes(&v, longest, 0.3), 259200, 0);
    assert_float_equal(vocabulary_gap_minutes(&v, TOKEN_PAD, 0.3), 0, 0);
    /* Drawing at evenly spread u has the mean that u < 0 gives. */
    double sum = 0;
    for (int i = 0; i < 16000; i++) sum += vocabulary_gap_minutes(&v, day, (i + 0.5) / 16000);
    assert_float_equal(sum / 16000, vocabulary_gap_minutes(&v, day, -1), 1e-6 * 2160);
    vocabulary_free(&v);
}

static void test_levels(void **state) {
    (void)state;
    Vocabulary v = small();
    const VocabEdges *e = vocabulary_edges(&v, "LOINC//4548-4", "%");
    assert_non_null(e);
    assert_null(vocabulary_edges(&v, "LOINC//4548-4", "mmol/mol"));
    /* Equal to an edge stays low, also where the float nearest to 6.1 lies above it. */
    assert_int_equal(edges_level(e, 5.4f), 1);
    assert_int_equal(edges_level(e, 5.5f), 1);
    assert_int_equal(edges_level(e, 5.6f), 2);
    assert_int_equal(edges_level(e, 6.1f), 2);
    assert_int_equal(edges_level(e, nextafterf(6.1f, 7)), 3);
    assert_float_equal(e->share[0], 0.5, 0);
    char text[128];
    vocabulary_describe(&v, vocabulary_find(&v, "LOINC//4548-4=Q2"), text, sizeof text);
    assert_string_equal(text, "LOINC//4548-4=Q2  Hemoglobin A1c  5.5-6.1 %");
    vocabulary_describe(&v, vocabulary_find(&v, "LOINC//4548-4=Q1"), text, sizeof text);
    assert_string_equal(text, "LOINC//4548-4=Q1  Hemoglobin A1c  up to 5.5 %");
    vocabulary_describe(&v, vocabulary_find(&v, "VISIT_END"), text, sizeof text);
    assert_string_equal(text, "VISIT_END");
    vocabulary_describe(&v, 9999, text, sizeof text);
    assert_string_equal(text, "(no token 9999)");
    vocabulary_free(&v);
}

static void test_patterns(void **state) {
    (void)state;
    struct {
        const char *code, *pattern;
        int         match;
    } const row[] = {{"ICD10CM//I50", "ICD10CM//I50", 1},     {"ICD10CM//I50.1", "ICD10CM//I50", 1},
                     {"ICD10CM//I501", "ICD10CM//I50", 0},    {"ICD10CM//I501", "ICD10CM//I50*", 1},
                     {"VISIT//IN", "VISIT", 1},               {"VISIT_END", "VISIT", 0},
                     {"VISIT//IN", "VISIT//", 1},             {"ICD10CM//I5", "ICD10CM//I50", 0},
                     {"LOINC//4548-4", "LOINC//4548", 0},     {"anything", "*", 1},
                     {"anything", "", 0},                     {"MEDS_DEATH", "MEDS_DEATH", 1}};
    for (size_t i = 0; i < sizeof row / sizeof *row; i++)
        if (code_matches(row[i].code, row[i].pattern) != row[i].match) fail_msg("%s against %s", row[i].code, row[i].pattern);

    Vocabulary v = small();
    uint32_t *mark = calloc((size_t)v.n, sizeof *mark);
    const char *two[] = {"ICD10CM//E11", "LOINC//4548-4"};
    assert_int_equal(vocabulary_match(&v, two, 2, 4, mark), 6); /* E11, E11.9, three levels, LT */
    assert_int_equal(mark[vocabulary_find(&v, "ICD10CM//E11.9")], 4);
    assert_int_equal(mark[vocabulary_find(&v, "ICD10CM//E110")], 0);
    const char *level[] = {"LOINC//4548-4=Q3"};
    assert_int_equal(vocabulary_match(&v, level, 1, 1, mark), 1);
    assert_int_equal(mark[vocabulary_find(&v, "LOINC//4548-4=Q3")], 5);
    const char *other[] = {"SEX//F", "GAP*", "AGE*", "PAD"};
    assert_int_equal(vocabulary_match(&v, other, 4, 1, mark), 0);
    char text[128];
    vocabulary_nearest(&v, "ICD10//E119", text, sizeof text);
    assert_non_null(strstr(text, "ICD10CM//E11"));
    vocabulary_nearest(&v, "4548", text, sizeof text);
    assert_int_equal(strncmp(text, "LOINC//4548-4", 13), 0);
    vocabulary_nearest(&v, "4548", text, 5); /* truncated, not overrun */
    assert_string_equal(text, "LOIN");
    uint8_t *forbidden = malloc((size_t)v.n);
    vocabulary_forbidden(&v, forbidden);
    assert_int_equal(forbidden[TOKEN_PAD] + forbidden[3] + forbidden[v.age_lo] + forbidden[v.age_unknown], 4);
    assert_int_equal(forbidden[v.gap_lo] + forbidden[v.death], 0);
    free(forbidden);
    free(mark);
    vocabulary_free(&v);
}

/* What is written reads back the same, and writing that again gives the same bytes. */
static void test_round_trip(void **state) {
    (void)state;
    Vocabulary v = small(), w;
    Err err = {0};
    char *text = vocabulary_format(&v, NULL, NULL);
    assert_int_equal(vocabulary_parse(&w, text, strlen(text), "formatted", &err), OK);
    assert_int_equal(w.n, v.n);
    for (int id = 0; id < v.n; id++) {
        assert_string_equal(w.token[id].code, v.token[id].code);
        assert_string_equal(w.token[id].base, v.token[id].base);
        assert_string_equal(w.token[id].name, v.token[id].name);
        assert_string_equal(w.token[id].unit, v.token[id].unit);
        assert_int_equal(w.token[id].kind, v.token[id].kind);
        assert_int_equal(w.token[id].event_kind, v.token[id].event_kind);
        assert_int_equal(w.token[id].level, v.token[id].level);
        assert_true(w.token[id].lo == v.token[id].lo && w.token[id].hi == v.token[id].hi);
    }
    assert_memory_equal(w.gap_quantile, v.gap_quantile, sizeof v.gap_quantile);
    assert_int_equal(w.n_edges, 1);
    assert_true(w.edges[0].edge[1] == 6.1 && w.edges[0].share[2] == 0.25);
    assert_int_equal(w.n_rollup, 2);
    assert_int_equal(w.age_first_years, 20);
    char *again = vocabulary_format(&w, NULL, NULL);
    assert_string_equal(text, again);
    free(again);
    free(text);
    vocabulary_free(&v);
    vocabulary_free(&w);
}

/* ---- corruptions ------------------------------------------------------------------------------------------------------------ */

static json_t *token_of(json_t *root, const char *code) {
    size_t i;
    json_t *t;
    json_array_foreach(json_object_get(root, "tokens"), i, t)
        if (!strcmp(json_string_value(json_object_get(t, "code")), code)) return t;
    fail_msg("no token %s", code);
    return NULL;
}

static void set(json_t *root, const char *code, const char *key, json_t *value) { json_object_set_new(token_of(root, code), key, value); }

static void c_format(json_t *r) { json_object_set_new(r, "format", json_string("something")); }
static void c_version(json_t *r) { json_object_set_new(r, "format_version", json_integer(2)); }
static void c_values(json_t *r) { json_object_set_new(r, "values", json_string("both")); }
static void c_bin(json_t *r) { json_object_set_new(r, "age_bin_years", json_integer(0)); }
static void c_static(json_t *r) { json_object_set_new(r, "static", json_pack("[s,s]", "SEX", "SEX")); }
static void c_tokens(json_t *r) { json_object_del(r, "tokens"); }
static void c_few(json_t *r) { json_object_set_new(r, "tokens", json_array()); }
static void c_id(json_t *r) { set(r, "ICD10CM//E11", "id", json_integer(7)); }
static void c_negative(json_t *r) { set(r, "PAD", "id", json_integer(-1)); }
static void c_code(json_t *r) { set(r, "ICD10CM//E11", "code", json_string("")); }
static void c_control(json_t *r) { set(r, "ICD10CM//E11", "code", json_string("a\nb")); }
static void c_twice(json_t *r) { set(r, "ICD10CM//E11", "code", json_string("VISIT_END")); }
static void c_kind(json_t *r) { set(r, "ICD10CM//E11", "kind", json_string("thing")); }
static void c_event_kind(json_t *r) { set(r, "ICD10CM//E11", "event_kind", json_string("thing")); }
static void c_level(json_t *r) { set(r, "LOINC//4548-4=Q2", "level", json_integer(1 << 20)); }
static void c_levels(json_t *r) { set(r, "LOINC//4548-4=Q2", "level", json_integer(3)); }
static void c_bounds(json_t *r) { set(r, "LOINC//4548-4=Q2", "lo", json_real(7)); }
static void c_bound_text(json_t *r) { set(r, "LOINC//4548-4=Q2", "lo", json_string("5")); }
static void c_pad(json_t *r) { set(r, "PAD", "code", json_string("NOPAD")); }
static void c_death(json_t *r) { set(r, "MEDS_DEATH", "code", json_string("DEATH")); }
static void c_age(json_t *r) { set(r, "AGE//40-49", "code", json_string("AGE//45-49")); }
static void c_age_kind(json_t *r) { set(r, "AGE//40-49", "kind", json_string("static")); }
static void c_gap(json_t *r) { set(r, "GAP//1d-2d", "kind", json_string("special")); }
static void c_gap_bins(json_t *r) { json_array_remove(json_object_get(r, "gap_bins"), 3); }
static void c_quantile(json_t *r) {
    json_t *bin = json_array_get(json_object_get(r, "gap_bins"), 3);
    json_array_set_new(json_object_get(bin, "quantiles_minutes"), 2, json_real(1e6));
}
static void c_quantile_order(json_t *r) {
    json_t *q = json_object_get(json_array_get(json_object_get(r, "gap_bins"), 3), "quantiles_minutes");
    json_array_set_new(q, 5, json_incref(json_array_get(q, 2)));
}
static void c_unknown(json_t *r) { set(r, "VISIT//IN", "kind", json_string("unknown")), set(r, "VISIT//IN", "event_kind", json_string("lab")); }
static void c_edges(json_t *r) { json_object_set_new(r, "edges", json_pack("{s:[f,f]}", "LOINC//4548-4|%", 6.1, 6.1)); }
static void c_edges_key(json_t *r) { json_object_set_new(r, "edges", json_pack("{s:[f,f]}", "LOINC//4548-4", 5.5, 6.1)); }
static void c_edges_text(json_t *r) { json_object_set_new(r, "edges", json_pack("{s:[s,f]}", "LOINC//4548-4|%", "5", 6.1)); }
static void c_edges_count(json_t *r) { json_object_del(r, "edge_shares"), json_object_set_new(r, "edges", json_pack("{s:[f]}", "LOINC//4548-4|%", 5.5)); }
static void c_edges_float(json_t *r) { json_object_set_new(r, "edges", json_pack("{s:[f,f]}", "LOINC//4548-4|%", 5.5, 1e300)); }
static void c_shares(json_t *r) { json_object_set_new(r, "edge_shares", json_pack("{s:[f]}", "LOINC//4548-4|%", 0.5)); }
static void c_rollup(json_t *r) { json_object_set_new(r, "rollup", json_pack("{s:s}", "X", "NOWHERE")); }
static void c_rollup_kind(json_t *r) { json_object_set_new(r, "rollup", json_pack("{s:s}", "X", "GAP//1d-2d")); }
static void c_rollup_type(json_t *r) { json_object_set_new(r, "rollup", json_pack("{s:i}", "X", 3)); }

static const struct {
    const char *says; /* part of the message */
    void (*damage)(json_t *root);
} corruption[] = {{"not a vocabulary", c_format},
                  {"format_version 1", c_version},
                  {"fused or separate", c_values},
                  {"age_bin_years", c_bin},
                  {"column twice", c_static},
                  {"\"tokens\"", c_tokens},
                  {"\"tokens\"", c_few},
                  {"count from 0", c_id},
                  {"count from 0", c_negative},
                  {"printable", c_code},
                  {"printable", c_control},
                  {"of its own", c_twice},
                  {"a token's kind", c_kind},
                  {"event_kind", c_event_kind},
                  {"small integer", c_level},
                  {"do not agree", c_levels},
                  {"lo < hi", c_bounds},
                  {"numbers or null", c_bound_text},
                  {"PAD, RECORD_START", c_pad},
                  {"MEDS_DEATH", c_death},
                  {"age tokens", c_age},
                  {"age tokens", c_age_kind},
                  {"gap tokens", c_gap},
                  {"19 gap tokens", c_gap_bins},
                  {"ascend inside their bin", c_quantile},
                  {"ascend inside their bin", c_quantile_order},
                  {"two UNKNOWN", c_unknown},
                  {"ascending numbers", c_edges},
                  {"CODE|unit", c_edges_key},
                  {"ascending numbers", c_edges_text},
                  {"do not agree", c_edges_count},
                  {"ascending numbers", c_edges_float},
                  {"one number a level", c_shares},
                  {"\"rollup\"", c_rollup},
                  {"\"rollup\"", c_rollup_kind},
                  {"\"rollup\"", c_rollup_type}};

static void test_corruptions(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof corruption / sizeof *corruption; i++) {
        json_t *root = small_json();
        corruption[i].damage(root);
        Vocabulary v;
        Err err = {0};
        if (parse(&v, root, &err) != ERR_FORMAT) fail_msg("corruption %zu (%s) was accepted", i, corruption[i].says);
        if (!strstr(err.msg, corruption[i].says)) fail_msg("corruption %zu: %s", i, err.msg);
        if (strncmp(err.msg, "vocabulary.json: ", 17)) fail_msg("no file named: %s", err.msg);
        assert_null(v.token);
        json_decref(root);
    }
}

static void test_not_json(void **state) {
    (void)state;
    static const char *const text[] = {"", "{", "[]", "null", "\"x\"", "{\"format\": \"ehr.c vocabulary\"}", "\xff\xfe",
                                       "{\"format\": \"a\", \"format\": \"b\"}"};
    for (size_t i = 0; i < sizeof text / sizeof *text; i++) {
        Vocabulary v;
        Err err = {0};
        assert_int_equal(vocabulary_parse(&v, text[i], strlen(text[i]), "x", &err), ERR_FORMAT);
        assert_true(err.msg[0] != 0);
    }
    char *deep = malloc(1 << 20); /* a parser that recursed would run out of stack */
    memset(deep, '[', 1 << 20);
    Vocabulary v;
    Err err = {0};
    assert_int_equal(vocabulary_parse(&v, deep, 1 << 20, "deep", &err), ERR_FORMAT);
    free(deep);
    assert_int_equal(vocabulary_load(&v, "/nonexistent/vocabulary.json", &err), ERR_IO);
}

/* What does not fit is cut between characters: explain's JSON lost events whose names were cut inside of one. */
static void test_describe_cuts_characters(void **state) {
    (void)state;
    VocabToken t = {.code = (char *)"X", .name = (char *)"\303\251\303\251", .unit = (char *)""};
    Vocabulary v = {.n = 1, .token = &t};
    char out[7];
    vocabulary_describe(&v, 0, out, sizeof out);
    assert_string_equal(out, "X  \303\251");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_describe_cuts_characters),cmocka_unit_test(test_find),       cmocka_unit_test(test_ages),
                                       cmocka_unit_test(test_gaps),       cmocka_unit_test(test_levels),
                                       cmocka_unit_test(test_patterns),   cmocka_unit_test(test_round_trip),
                                       cmocka_unit_test(test_corruptions), cmocka_unit_test(test_not_json)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
