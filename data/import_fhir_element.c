/* import_fhir_element.c - see import_fhir.h. */
#include "data/import_fhir.h"
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

const char *fhir_text(const json_t *object, const char *key) {
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

const json_t *fhir_path(const json_t *object, const char *path) {
    char key[64];
    for (; object && *path; path += *path == '.') {
        size_t n = strcspn(path, ".");
        snprintf(key, sizeof key, "%.*s", (int)n, path);
        object = json_object_get(object, key);
        path += n;
    }
    return object;
}

/* ---- times ------------------------------------------------------------------------------------------------------- */

/* "2019" and "2019-04". */
static int partial_time(const char *s, FhirTime *out) {
    size_t n = strlen(s);
    for (size_t i = 0; i < n; i++)
        if (i == 4 ? s[i] != '-' : !isdigit((unsigned char)s[i])) return 0;
    if (n != 4 && n != 7) return 0;
    int y = atoi(s), mo = n == 7 ? atoi(s + 5) : 0;
    if (n == 7 && (mo < 1 || mo > 12)) return 0;
    out->us = time_from_civil(y, mo ? mo : 1, 1, 0, 0, 0);
    int64_t next = mo && mo < 12 ? time_from_civil(y, mo + 1, 1, 0, 0, 0) : time_from_civil(y + 1, 1, 1, 0, 0, 0);
    out->over = next - US_PER_DAY;
    out->precision = PRECISION_DAY;
    return 1;
}

int fhir_time(FhirRow *r, const char *text, FhirTime *out) {
    Import *im = &r->f->im;
    FieldTime t;
    *out = (FhirTime){.over = TIME_NONE};
    if (partial_time(text, out)) {
        fhir_count(r, NOTE_PARTIAL_DATE);
        return 1;
    }
    int got = field_time(text, &t);
    if (got <= 0) return got;
    out->precision = t.precision;
    out->us = t.us;
    if (t.midnight) fhir_count(r, NOTE_MIDNIGHT);
    if (t.precision == PRECISION_DAY) {
        out->us = day_of(t.us) * US_PER_DAY;
        return 1;
    }
    if (!t.zone) fhir_count(r, NOTE_NO_ZONE);
    int64_t offset = t.offset_min * US_PER_MINUTE;
    out->us -= offset;
    if (offset) fhir_count(r, NOTE_UTC);
    if (!im->options->utc_offset && offset) {
        r->f->zone_told = 1;
        if (-offset > im->west) im->west = -offset;
        if (offset > im->east) im->east = offset;
    }
    return 1;
}

int fhir_choice_time(FhirRow *r, const char *name, FhirTime *out, int *other) {
    static const char *const texts[] = {"", "DateTime", "Instant", "Date"};
    static const char *const others[] = {"Age", "Range", "String", "Timing"};
    char key[64];
    *other = 0;
    const json_t *value;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        snprintf(key, sizeof key, "%.40s%s", name, texts[i]);
        value = json_object_get(r->resource, key);
        if (json_is_string(value)) return fhir_time(r, json_string_value(value), out);
        if (json_is_object(value) && *fhir_text(value, "start")) return fhir_time(r, fhir_text(value, "start"), out);
    }
    snprintf(key, sizeof key, "%.40sPeriod", name);
    value = json_object_get(r->resource, key);
    if (json_is_object(value)) {
        if (*fhir_text(value, "start")) return fhir_time(r, fhir_text(value, "start"), out);
        if (*fhir_text(value, "end")) return fhir_time(r, fhir_text(value, "end"), out); /* known then, at the latest */
    }
    snprintf(key, sizeof key, "%.40sTiming", name);
    value = json_array_get(json_object_get(json_object_get(r->resource, key), "event"), 0);
    if (json_is_string(value)) return fhir_time(r, json_string_value(value), out);
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        snprintf(key, sizeof key, "%.40s%s", name, others[i]);
        *other |= json_object_get(r->resource, key) != NULL;
    }
    return 0;
}

/* ---- references -------------------------------------------------------------------------------------------------- */

int fhir_reference(FhirRow *r, const json_t *reference, const char *type, char *id, size_t size, int *contained) {
    const char *s = fhir_text(reference, "reference");
    if (contained) *contained = *s == '#';
    if (!*s) return 0;
    if (*s == '#') {
        snprintf(id, size, "%s", s + 1);
        return contained && s[1] ? 1 : -1;
    }
    if (!strncmp(s, "urn:uuid:", 9) || !strncmp(s, "urn:oid:", 8)) {
        s = strchr(s + 4, ':') + 1;
        if (!*s || strlen(s) >= size) return -1;
        snprintf(id, size, "%s", s);
        return 1;
    }
    if (strchr(s, '?')) return -1; /* a search, not an id */
    const char *end = strstr(s, "/_history/");
    if (!end) end = s + strlen(s);
    const char *from = end, *word, *type_end;
    while (from > s && from[-1] != '/') from--;
    if (from == end || (size_t)(end - from) >= size) return -1;
    if (from > s) {
        type_end = from - 1;
        for (word = type_end; word > s && word[-1] != '/';) word--;
        if ((size_t)(type_end - word) != strlen(type) || strncmp(word, type, strlen(type))) return -1;
        if (word > s || *end) fhir_count(r, NOTE_ABSOLUTE);
    }
    snprintf(id, size, "%.*s", (int)(end - from), from);
    return 1;
}

/* ---- codes ------------------------------------------------------------------------------------------------------- */

typedef struct {
    const json_t *coding;
    const char *vocabulary;
    int rank, known; /* known: codings of known systems so far */
} Best;

static void best_coding(const json_t *coding, Best *best) {
    int rank = 1000;
    const char *system = fhir_text(coding, "system"), *vocabulary;
    if (!*fhir_text(coding, "code")) return;
    if ((vocabulary = import_vocabulary(system, &rank))) best->known++;
    if (best->coding && rank >= best->rank) return;
    *best = (Best){coding, vocabulary, rank, best->known};
}

static void best_of(const json_t *concept, Best *best, const char **text, int depth) {
    size_t i;
    const json_t *item;
    if (json_is_array(concept) && depth < 4) {
        json_array_foreach((json_t *)concept, i, item) best_of(item, best, text, depth + 1);
        return;
    }
    if (!json_is_object(concept)) return;
    if (!**text) *text = fhir_text(concept, "text");
    const json_t *codings = json_object_get(concept, "coding");
    if (!codings) best_coding(concept, best); /* a Coding */
    json_array_foreach((json_t *)codings, i, item) best_coding(item, best);
}

/* "example.org_codes" of "http://example.org/codes": a name of a system that is not known. */
static void system_name(const char *system, char out[64]) {
    const char *s = strstr(system, "://");
    s = s ? s + 3 : system;
    snprintf(out, 64, "%.*s", *s ? (int)utf8_cut(s, 60) : 7, *s ? s : "UNKNOWN");
    for (char *p = out; *p; p++)
        if (*p == '/' || (unsigned char)*p <= ' ') *p = '_';
}

void fhir_code(FhirRow *r, const json_t *concept, FhirCode *out) {
    Best best = {0};
    const char *text = "";
    char system[64];
    best_of(concept, &best, &text, 0);
    *out = (FhirCode){.name = text};
    if (best.coding) {
        const char *display = fhir_text(best.coding, "display");
        if (*display) out->name = display;
        if (best.known > 1) fhir_count(r, NOTE_CODINGS);
        if (!best.vocabulary) fhir_count(r, NOTE_NO_SYSTEM);
        if (!best.vocabulary) system_name(fhir_text(best.coding, "system"), system);
        snprintf(out->code, sizeof out->code, "%s//%.*s", best.vocabulary ? best.vocabulary : system,
                 (int)utf8_cut(fhir_text(best.coding, "code"), 100), fhir_text(best.coding, "code"));
    } else if (*text) {
        fhir_count(r, NOTE_SOURCE_TEXT);
        snprintf(out->code, sizeof out->code, "TEXT//%.*s", (int)utf8_cut(text, 100), text);
    }
}

const char *fhir_status(const json_t *concept) {
    const json_t *coding = json_array_get(json_object_get(concept, "coding"), 0);
    return coding ? fhir_text(coding, "code") : fhir_text(concept, "text");
}
