/* test_units.c - spellings of units and conversions against figures from textbooks, and that every table entry is sound. */
#include "data/units.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

static void test_spellings(void **state) {
    (void)state;
    static const char *const same[][2] = {
        {"mg/dL", "mg/dL"}, {"MG/DL", "mg/dL"}, {"mg/dl", "mg/dL"}, {"mg/dL (See scan or EMR data for detail)", "mg/dL"},
        {"mmHg", "mm[Hg]"}, {"mm[Hg]", "mm[Hg]"}, {"K/uL", "10*3/uL"}, {"x10E3/uL", "10*3/uL"}, {"10^9/L", "10*9/L"},
        {"mEq/L", "meq/L"}, {"degF", "[degF]"}, {"lbs", "[lb_av]"}, {"\xC2\xB5mol/L", "umol/L"}, {"{beats}/min", "/min"},
        {"g/dl", "g/dL"},
        /* not known, or known to be something else in another case: left alone */
        {"{score}", "{score}"}, {"", ""}, {"Mg", "Mg"}, {"widgets (new)", "widgets (new)"}, {"M", "M"}, {"(x)", "(x)"}};
    for (size_t i = 0; i < sizeof same / sizeof *same; i++) assert_string_equal(unit_spelling(same[i][0]), same[i][1]);
}

static void test_conversions(void **state) {
    (void)state;
    static const struct { const char *code, *unit; double value, expected; int result; } rows[] = {
        {"LOINC//2823-3", "mg/dL", 15.64, 4.0, 1},      /* potassium: / 3.91, and not / 18 */
        {"LOINC//2823-3", "meq/L", 4.1, 4.1, 1},        {"LOINC//2823-3", "mmol/L", 4.1, 4.1, 0},
        {"LOINC//2345-7", "mmol/L", 5.0, 90.08, 1},     /* glucose: * 18 */
        {"LOINC//15074-8", "mg/dL", 90.08, 5.0, 1},     {"LOINC//2160-0", "umol/L", 88.42, 1.0, 1},
        {"LOINC//14682-9", "mg/dL", 1.0, 88.4, 1},      {"LOINC//3094-0", "mmol/L", 5.0, 14.0, 1},
        {"LOINC//1975-2", "umol/L", 17.1, 1.0, 1},      {"LOINC//2093-3", "mmol/L", 5.0, 193.3, 1},
        {"LOINC//2571-8", "mmol/L", 1.0, 88.5, 1},      {"LOINC//17861-6", "mmol/L", 2.5, 10.02, 1},
        {"LOINC//17861-6", "meq/L", 5.0, 10.02, 1},     /* two charges */
        {"LOINC//1994-3", "meq/L", 2.4, 1.2, 1},        {"LOINC//718-7", "g/L", 140, 14, 1},
        {"LOINC//718-7", "mmol/L", 8.7, 8.7, -1},       /* of the monomer or the tetramer? */
        {"LOINC//777-3", "10*9/L", 250, 250, 1},        {"LOINC//777-3", "/uL", 250000, 250, 1},
        {"LOINC//29463-7", "[lb_av]", 220.46, 100, 1},  {"LOINC//8302-2", "[in_i]", 70, 177.8, 1},
        {"LOINC//8302-2", "kg", 70, 70, -1},            {"LOINC//8310-5", "[degF]", 98.6, 37, 1},
        {"LOINC//8480-6", "kPa", 16, 120.01, 1},        {"LOINC//2524-7", "mg/dL", 18.02, 2.0, 1},
        {"LOINC//2823-3", "%", 4.1, 4.1, -1},           {"LOINC//2823-3", "furlong", 4.1, 4.1, -1},
        {"LOINC//19123-9", "mmol/L", 0.85, 2.066, 1},   {"LOINC//2777-1", "mmol/L", 1.0, 3.097, 1},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        double x = rows[i].value;
        int analyte = unit_analyte(rows[i].code);
        assert_true(analyte >= 0);
        assert_int_equal(unit_convert(analyte, rows[i].unit, &x), rows[i].result);
        if (fabs(x - rows[i].expected) > 2e-3 * rows[i].expected)
            fail_msg("%s: %g %s became %g, not %g", rows[i].code, rows[i].value, rows[i].unit, x, rows[i].expected);
    }
    assert_int_equal(unit_analyte("LOINC//2823"), -1);
    assert_int_equal(unit_analyte("SNOMED//2823-3"), -1);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_spellings), cmocka_unit_test(test_conversions)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
