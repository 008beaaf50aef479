/* test_csv.c - the text of delimited files: times, whole numbers and numbers of a field; quotes, separators, line ends
 * and encodings of records, with what is wrong counted. */
#include "data/archive.h"
#include "data/csv.h"
#include "tests/import_check.h"

static void test_fields(void **state) {
    (void)state;
    static const struct { const char *text; int got, precision; const char *written; } times[] = {
        {"2020-02-29", 1, PRECISION_DAY, "2020-02-29 00:00"}, {"2021-02-29", -1, 0, ""}, {"20200131", 1, PRECISION_DAY, "2020-01-31 00:00"},
        {" 2020-01-01 ", 1, PRECISION_DAY, "2020-01-01 00:00"}, {"2020-01-01 00:00:00", 1, PRECISION_DAY, "2020-01-01 00:00"},
        {"2020-01-01T13:05:07.123456Z", 1, PRECISION_SECOND, "2020-01-01 13:05:07"},
        {"2020-01-01 13:05", 1, PRECISION_MINUTE, "2020-01-01 13:05"}, {"2020-01-01 13:05:00+02:00", 1, PRECISION_SECOND, "2020-01-01 13:05"},
        {"2020-01-01 24:00:00", -1, 0, ""}, {"2020-13-01", -1, 0, ""}, {"01/02/2020", -1, 0, ""}, {"", 0, 0, ""}, {"NULL", 0, 0, ""},
        {"\\N", 0, 0, ""}, {"2020", -1, 0, ""}, {"2020-01-01 x", -1, 0, ""}, {"1600-01-01", 1, PRECISION_DAY, "1600-01-01 00:00"}};
    for (size_t i = 0; i < sizeof times / sizeof *times; i++) {
        FieldTime t = {0};
        char text[40];
        if (field_time(times[i].text, &t) != times[i].got) fail_msg("field_time(\"%s\")", times[i].text);
        if (times[i].got <= 0) continue;
        time_write(text, sizeof text, t.us);
        assert_string_equal(text, times[i].written);
        assert_int_equal(t.precision, times[i].precision);
    }
    static const struct { const char *text; int got; int64_t x; } ints[] = {
        {"12", 1, 12}, {" -7 ", 1, -7}, {"33.0", 1, 33}, {"33.5", -1, 0}, {"x", -1, 0}, {"", 0, 0}, {"nan", 0, 0},
        {"9223372036854775807", -1, 0}, {"900000000000000000", 1, 900000000000000000}, {"99999999999999999999", -1, 0}, {"-", -1, 0}};
    for (size_t i = 0; i < sizeof ints / sizeof *ints; i++) {
        int64_t x = 0;
        if (field_int(ints[i].text, &x) != ints[i].got || x != ints[i].x) fail_msg("field_int(\"%s\")", ints[i].text);
    }
    static const struct { const char *text; int got, comparator; float x; } numbers[] = {
        {"1.5", 1, 0, 1.5f}, {"<5", 1, COMPARE_LT, 5}, {">= 2", 1, COMPARE_GE, 2}, {"=3", 1, 0, 3}, {"1,200", -1, 0, 0}, {"0x10", -1, 0, 0},
        {"inf", -1, 0, 0}, {"1e39", -1, 0, 0}, {">=1:640", -1, 0, 0}, {"120/80", -1, 0, 0}, {"N/A", 0, 0, 0}, {"1e", -1, 0, 0}, {"<", -1, 0, 0}};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        float x = 0;
        int comparator = 0;
        if (field_limit(numbers[i].text, &x, &comparator) != numbers[i].got) fail_msg("field_limit(\"%s\")", numbers[i].text);
        if (numbers[i].got > 0) assert_true(x == numbers[i].x && comparator == numbers[i].comparator);
    }
}

/* The records of a text as "a|b;c|d", then counts. */
static const char *records(const char *data, size_t size, size_t max_line, CsvCounts *counts) {
    static char text[4096];
    Stream s;
    Csv c;
    int got;
    size_t n = 0;
    text[0] = 0;
    stream_memory(&s, "test", data, (int64_t)size);
    err = (Err){0};
    if (csv_open(&c, &s, max_line, &err)) {
        stream_close(&s);
        return err.msg[0] ? "error" : "no message";
    }
    while (!csv_next(&c, &got, &err) && got)
        for (int i = 0; i < c.n_columns; i++)
            n += (size_t)snprintf(text + n, sizeof text - n, "%.200s%s", c.field[i], i + 1 < c.n_columns ? "|" : ";");
    *counts = c.counts;
    csv_close(&c);
    stream_close(&s);
    return text;
}

static void test_records(void **state) {
    (void)state;
    static const struct { const char *text, *expected; int64_t rows, wrong, open, utf8; } cases[] = {
        {"a,b\n1,2\n3,4\n", "1|2;3|4;", 2, 0, 0, 0},
        {"\xEF\xBB\xBF" "A , b\r\n1,2\r\n\r\n3,4", "1|2;3|4;", 2, 0, 0, 0},
        {"a,b\n\"x, \"\"y\"\"\",\"two\nlines\"\n3,4\n", "x, \"y\"|two\nlines;3|4;", 2, 0, 0, 0},
        {"a\tb\n5\" disc\t\"q\"\n3\t\n", "5\" disc|q;3|;", 2, 0, 0, 0},
        {"a,b\n1\n1,2,3\n1,2,,\n", "1|2;", 3, 2, 0, 0},
        {"a,b\n\"never closed,2\n3,4\n", "3|4;", 2, 0, 1, 0},
        {"a,b\n\xE9t\xE9,caf\xC3\xA9\n", "\xC3\xA9t\xC3\xA9|caf\xC3\xA9;", 1, 0, 0, 1},
        {"a;b\n1;2\n", "1|2;", 1, 0, 0, 0},
        {"a,b\n\"1\"x,2\n", "1x|2;", 1, 0, 0, 0},
        {"a,b", "", 0, 0, 0, 0},
        {"", "error", 0, 0, 0, 0},
        {"\n\n", "error", 0, 0, 0, 0},
        {"\xFF\xFE" "a", "error", 0, 0, 0, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        CsvCounts c = {0};
        const char *got = records(cases[i].text, strlen(cases[i].text), 1 << 20, &c);
        if (strcmp(got, cases[i].expected)) fail_msg("case %zu: '%s' instead of '%s'", i, got, cases[i].expected);
        if (c.rows != cases[i].rows || c.wrong_count != cases[i].wrong || c.open_quote != cases[i].open || c.bad_utf8 != cases[i].utf8)
            fail_msg("case %zu: counts %lld %lld %lld %lld", i, (long long)c.rows, (long long)c.wrong_count, (long long)c.open_quote,
                     (long long)c.bad_utf8);
    }
    CsvCounts c = {0};
    assert_string_equal(records("a,b\n1\0002,3\n", 10, 1 << 20, &c), "1 2|3;");
    assert_int_equal(c.nul_bytes, 1);
    /* A line of 200,000 bytes under a limit of 65,536, and one just inside it. */
    char *text = xmalloc(400000);
    size_t n = (size_t)sprintf(text, "a,b\n1,");
    memset(text + n, 'x', 200000);
    n += 200000;
    n += (size_t)sprintf(text + n, "\n2,");
    memset(text + n, 'y', 60000);
    n += 60000;
    n += (size_t)sprintf(text + n, "\n3,\"");
    memset(text + n, 'z', 80000);
    n += 80000;
    n += (size_t)sprintf(text + n, "\n4,5\n");
    records(text, n, 1 << 16, &c);
    assert_int_equal(c.rows, 4);
    assert_int_equal(c.too_long + c.open_quote, 2);
    assert_true(c.open_quote >= 1);
    free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_fields), cmocka_unit_test(test_records)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
