/* import_field.c - dates and numbers as exports write them; see import.h. */
#include "data/import.h"
#include <ctype.h>
#include <errno.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *skip_blanks(const char *s) {
    while (isspace((unsigned char)*s)) s++;
    return s;
}

static int is_empty(const char *s) {
    static const char *const words[] = {"", "NULL", "\\N", "NA", "N/A", "NONE", "NAN"};
    char word[8];
    size_t n = strlen(s);
    while (n && isspace((unsigned char)s[n - 1])) n--;
    if (n >= sizeof word) return 0;
    for (size_t i = 0; i < n; i++) word[i] = (char)toupper((unsigned char)s[i]);
    word[n] = 0;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (!strcmp(word, words[i])) return 1;
    return 0;
}

/* n digits at *s into *out; moves on. */
static int digits(const char **s, int n, int *out) {
    *out = 0;
    for (int i = 0; i < n; i++, ++*s) {
        if (!isdigit((unsigned char)**s)) return 0;
        *out = *out * 10 + (**s - '0');
    }
    return 1;
}

static int clock_read(const char **s, int *h, int *m, int *sec, int *has_seconds) {
    *sec = *has_seconds = 0;
    if (!digits(s, 2, h) || **s != ':') return 0;
    ++*s;
    if (!digits(s, 2, m)) return 0;
    if (**s == ':') {
        ++*s;
        *has_seconds = 1;
        if (!digits(s, 2, sec)) return 0;
        if (**s == '.' || **s == ',')
            for (++*s; isdigit((unsigned char)**s);) ++*s;
    }
    if (*sec == 60) *sec = 59; /* a leap second */
    return *h < 24 && *m < 60 && *sec < 60;
}

/* "", "Z", "+01:00", "-0500", " UTC" */
static int zone_read(const char *s, int *zone, int *offset_min) {
    s = skip_blanks(s);
    *zone = *s != 0;
    *offset_min = 0;
    if (!*s) return 1;
    if (!strcmp(s, "Z") || !strcmp(s, "UTC")) return 1;
    int h, m = 0, west = *s == '-';
    if ((*s != '+' && *s != '-') || (s++, !digits(&s, 2, &h))) return 0;
    if (*s == ':') s++;
    if (*s && (!digits(&s, 2, &m) || *skip_blanks(s))) return 0;
    if (h > 15 || m > 59) return 0;
    *offset_min = west ? -(60 * h + m) : 60 * h + m;
    return 1;
}

int field_time(const char *text, FieldTime *out) {
    static const int month_days[] = {31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    const char *s = skip_blanks(text);
    if (is_empty(s)) return 0;
    int y, mo, d, h = 0, mi = 0, sec = 0, has_seconds = 0, dashed;
    *out = (FieldTime){.precision = PRECISION_DAY};
    if (!digits(&s, 4, &y)) return -1;
    dashed = *s == '-';
    s += dashed;
    if (!digits(&s, 2, &mo) || (dashed && *s++ != '-') || !digits(&s, 2, &d)) return -1;
    if (mo < 1 || mo > 12 || d < 1 || d > month_days[mo - 1]) return -1;
    if (mo == 2 && d == 29 && (y % 4 || (y % 100 == 0 && y % 400))) return -1;
    if (*s == 'T' || (*s == ' ' && isdigit((unsigned char)s[1]))) {
        s++;
        if (!clock_read(&s, &h, &mi, &sec, &has_seconds)) return -1;
        out->midnight = !h && !mi && !sec;
        if (!out->midnight) out->precision = has_seconds ? PRECISION_SECOND : PRECISION_MINUTE;
    }
    if (!zone_read(s, &out->zone, &out->offset_min)) return -1;
    out->us = time_from_civil(y, mo, d, h, mi, sec);
    return 1;
}

int field_clock(const char *text, int64_t *us) {
    const char *s = skip_blanks(text);
    int h, m, sec, has_seconds;
    if (is_empty(s)) return 0;
    if (!clock_read(&s, &h, &m, &sec, &has_seconds) || *skip_blanks(s)) return -1;
    *us = ((int64_t)h * 3600 + m * 60 + sec) * 1000000;
    return 1;
}

int field_int(const char *text, int64_t *out) {
    const char *s = skip_blanks(text);
    if (!isdigit((unsigned char)*s) && is_empty(s)) return 0;
    int negative = *s == '-', n = 0;
    uint64_t x = 0;
    for (s += negative; isdigit((unsigned char)*s); s++, n++) {
        if (x > (uint64_t)INT64_MAX / 10 - 1) return -1;
        x = x * 10 + (uint64_t)(*s - '0');
    }
    if (*s == '.') /* what a table of floats makes of integers with gaps */
        for (s++; *s == '0';) s++;
    if (!n || *skip_blanks(s)) return -1;
    *out = negative ? -(int64_t)x : (int64_t)x;
    return 1;
}

int field_number(const char *text, float *out) {
    const char *s = skip_blanks(text);
    if (!isdigit((unsigned char)*s) && is_empty(s)) return 0;
    size_t n = strspn(s, "+-0123456789.eE");
    if (!n || n > 60 || *skip_blanks(s + n)) return -1;
    char number[64], *end;
    memcpy(number, s, n);
    number[n] = 0;
    double x = strtod(number, &end);
    if (*end || !isfinite(x) || fabs(x) > FLT_MAX) return -1;
    *out = (float)x;
    return 1;
}

int field_limit(const char *text, float *out, int *comparator) {
    const char *s = skip_blanks(text);
    *comparator = COMPARE_EQ;
    if (*s == '<' || *s == '>') {
        int less = *s++ == '<', equal = *s == '=';
        s += equal;
        *comparator = less ? (equal ? COMPARE_LE : COMPARE_LT) : (equal ? COMPARE_GE : COMPARE_GT);
        if (field_number(s, out) != 1) return -1;
        return 1;
    }
    return field_number(s + (*s == '='), out);
}

int date_is_placeholder(int64_t us) {
    int y, mo, d, h, mi, s;
    time_to_civil(us, &y, &mo, &d, &h, &mi, &s);
    return y < 1880 || y >= 2300 || (y == 1900 && mo == 1 && d == 1) || (y == 2099 && mo == 12 && d == 31);
}
