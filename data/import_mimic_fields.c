/* import_mimic_fields.c - times, codes, values and units as MIMIC writes them; see import_mimic.h. */
#include "data/import_mimic.h"
#include "data/units.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* "5/15/2156 18:00": some copies have been through a spreadsheet. */
static int spreadsheet_time(MimicReader *r, const char *text, FieldTime *out) {
    int month, day, year, hour = 0, minute = 0, n = 0;
    char iso[40];
    if (sscanf(text, "%2d/%2d/%4d%n", &month, &day, &year, &n) < 3 || !n) return -1;
    if (text[n] && sscanf(text + n, " %2d:%2d", &hour, &minute) != 2) return -1;
    snprintf(iso, sizeof iso, text[n] ? "%04d-%02d-%02d %02d:%02d" : "%04d-%02d-%02d", year, month, day, hour, minute);
    int got = field_time(iso, out);
    if (got > 0 && r->spreadsheet_row != r->t->row) mimic_count(r, NOTE_SPREADSHEET);
    if (got > 0) r->spreadsheet_row = r->t->row;
    return got;
}

int mimic_time(MimicReader *r, MimicColumn c, FieldTime *out) {
    const char *text = mimic_field(r, c);
    if (!*text) return 0;
    int got = field_time(text, out);
    if (got < 0) got = spreadsheet_time(r, text, out);
    if (got > 0 && date_is_placeholder(out->us)) return -1;
    return got;
}

/* Time of the row; a date alone has the precision of a day.  Midnight counts as a time where times are to the minute:
 * one in 1,440 is, and a date alone is written without one. */
int mimic_start(MimicReader *r, MimicRow *s) {
    FieldTime t;
    int got = mimic_time(r, COL_TIME, &t), dated = 0;
    if (!got && r->t->bound[COL_DATE] >= 0) {
        got = mimic_time(r, COL_DATE, &t);
        dated = 1;
    }
    if (got <= 0) return mimic_drop(r, got ? DROP_BAD_DATE : DROP_NO_DATE);
    s->time = t.us;
    s->precision = (uint8_t)(t.midnight && !dated ? PRECISION_MINUTE : t.precision);
    return 1;
}

void mimic_store(MimicReader *r, MimicRow *s, int64_t from, int lags) {
    FieldTime t;
    s->available = from;
    if (!r->column[COL_STORE]) return;
    if (mimic_time(r, COL_STORE, &t) <= 0) {
        mimic_count(r, NOTE_NOT_STORED);
        if (lags) s->available += r->m->im.options->lab_lag;
        return;
    }
    /* A date alone began to be known some time that day, not at its end. */
    if (s->precision == PRECISION_DAY && t.us < from && t.us >= s->time) from = t.us;
    if (t.us < from && s->stage != MIMIC_ORDER) mimic_count(r, NOTE_STORED_BEFORE);
    s->available = t.us > from ? t.us : from;
    s->flags |= MIMIC_STORED;
}

void mimic_text(char *out, size_t size, const char *s) {
    while (*s == ' ') s++;
    size_t n = utf8_cut(s, size - 1);
    for (size_t i = 0; i < n; i++) out[i] = (unsigned char)s[i] < ' ' ? ' ' : s[i];
    while (n && out[n - 1] == ' ') n--;
    out[n] = 0;
}

uint32_t mimic_code(MimicReader *r, const char *code, int kind, const char *name, const char *parent) {
    uint32_t id = 0;
    if (!r->status) r->status = event_writer_code(r->m->im.writer, code, kind, name, parent, &id, r->err);
    return id;
}

int mimic_code_read(MimicReader *r, MimicRow *s, const char *vocabulary, const char *text, const char *name) {
    char code[220], clean[180];
    int wider;
    mimic_text(clean, sizeof clean, text);
    if (!*clean) return 0;
    snprintf(code, sizeof code, "%s//%s", vocabulary, clean);
    const char *to = code_map_find(&r->m->im.map, code, &wider);
    if (to) {
        mimic_count(r, NOTE_MAPPED);
        name = code_map_name(&r->m->im.map, to);
    }
    r->analyte = unit_analyte(to ? to : code);
    s->code = mimic_code(r, to ? to : code, s->kind, name, NULL);
    return 1;
}

void mimic_unit(MimicReader *r, MimicRow *s, const char *text) {
    char given[100];
    if (isnan(s->value)) return;
    mimic_text(given, sizeof given, text);
    const char *unit = unit_spelling(given);
    double value = (double)s->value;
    if (!*unit) mimic_count(r, NOTE_NO_UNIT);
    if (*unit && r->analyte >= 0 && unit_convert(r->analyte, unit, &value) > 0) {
        s->value = (float)value;
        unit = unit_usual(r->analyte);
        mimic_count(r, NOTE_UNIT_CONVERTED);
    }
    if (*unit && !r->status) r->status = event_writer_unit(r->m->im.writer, unit, &s->unit, r->err);
}

MimicRow *mimic_second(MimicReader *r, const MimicRow *s) {
    REQUIRE(r->n_second < MIMIC_SECONDS);
    MimicRow *x = &r->second[r->n_second++];
    *x = *s;
    x->flags |= MIMIC_SECOND;
    return x;
}

/* The words of results that are categories; other text may hold anything and is left out. */
static const char *result_word(const char *text) {
    static const char *const words[] = {"POS",      "NEG",   "NORMAL",   "ABNORMAL",    "TRACE",    "SMALL",
                                        "MODERATE", "LARGE", "NONE",     "RARE",        "FEW",      "OCCASIONAL",
                                        "MANY",     "CLEAR", "HAZY",     "CLOUDY",      "YELLOW",   "STRAW",
                                        "AMBER",    "RED",   "REACTIVE", "NONREACTIVE", "DETECTED", "NOT DETECTED"};
    static const char *const also[][2] = {{"POSITIVE", "POS"},  {"NEGATIVE", "NEG"}, {"TR", "TRACE"},
                                          {"SM", "SMALL"},      {"MOD", "MODERATE"}, {"LG", "LARGE"},
                                          {"OCC", "OCCASIONAL"}};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (!strcasecmp(text, words[i])) return words[i];
    for (size_t i = 0; i < sizeof also / sizeof *also; i++)
        if (!strcasecmp(text, also[i][0])) return also[i][1];
    return NULL;
}

int mimic_word(MimicReader *r, MimicRow *s, const char *item) {
    char text[40], code[220], answer[256];
    int wider;
    mimic_text(text, sizeof text, mimic_field(r, COL_TEXT));
    const char *word = result_word(text);
    if (!word || !*item) return 0;
    snprintf(code, sizeof code, "%s//%.*s", r->vocabulary, UTF8_CUT(item, 180));
    const char *to = code_map_find(&r->m->im.map, code, &wider), *base = to ? to : code;
    if (to) mimic_count(r, NOTE_MAPPED);
    snprintf(answer, sizeof answer, "%.*s=%s", UTF8_CUT(base, 230), word);
    mimic_code(r, base, s->kind, NULL, NULL);
    s->code = mimic_code(r, answer, s->kind, NULL, base);
    mimic_count(r, NOTE_WORD_VALUE);
    return 1;
}

static void words_to_sign(char *text, const char *words, char sign) {
    size_t n = strlen(words);
    if (strncasecmp(text, words, n)) return;
    text[0] = sign;
    memmove(text + 1, text + n, strlen(text + n) + 1);
}

void mimic_number(MimicReader *r, MimicRow *s) {
    char text[64];
    float limit;
    int comparator = COMPARE_EQ, got = field_number(mimic_field(r, COL_VALUE), &s->value);
    mimic_text(text, sizeof text, mimic_field(r, COL_TEXT));
    words_to_sign(text, "GREATER THAN ", '>');
    words_to_sign(text, "LESS THAN ", '<');
    int limited = field_limit(text, &limit, &comparator);
    if (got < 0 && limited <= 0) mimic_count(r, NOTE_BAD_NUMBER);
    if (got <= 0 && limited > 0) {
        s->value = limit;
        if (r->column[COL_TEXT]) mimic_count(r, NOTE_NUMBER_FROM_TEXT);
        got = 1;
    }
    if (got <= 0) s->value = NAN;
    else if (limited > 0 && comparator != COMPARE_EQ) {
        s->comparator = (uint8_t)comparator;
        mimic_count(r, NOTE_LIMIT);
    }
}
