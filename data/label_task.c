/* label_task.c - see label_task.h. */
#include "data/label_task.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const KIND[] = {"event", "duration", "value"};
static const char *const INDEX[] = {"admission", "discharge", "visit-end", "age", "last-year", "oracle", "file", "before-result"};
static const char *const INPATIENT[] = {"VISIT//IP", "VISIT//ERIP", "VISIT//IN"};
enum { PATTERNS_MAX = 4096, JSON_MAX = 1 << 20, YEAR_MINUTES = 525960 };

const char *label_index_name(int index) { return INDEX[index]; }

static Status bad(const char *where, const char *key, const char *expected, Err *err) {
    return err_set(err, ERR_FORMAT, "%s: \"%s\" must be %s", where, key, expected);
}

/* "24h" -> minutes; -1 when it is no duration. */
static int64_t duration_parse(const char *text) {
    static const struct {
        const char *unit;
        double minutes;
    } unit[] = {{"min", 1}, {"h", 60}, {"d", 1440}, {"w", 10080}, {"y", YEAR_MINUTES}};
    char *end;
    double x = strtod(text, &end);
    if (end == text || !isfinite(x) || x < 0) return -1;
    for (size_t i = 0; i < sizeof unit / sizeof *unit; i++)
        if (!strcmp(end, unit[i].unit))
            return x * unit[i].minutes < INT32_MAX ? (int64_t)llround(x * unit[i].minutes) : -1;
    return -1;
}

static void predicate_open(LabelPredicate *p) {
    memset(p, 0, sizeof *p);
    p->above = -INFINITY;
    p->below = INFINITY;
    p->unit = xstrdup("");
}

static void predicate_add(LabelPredicate *p, const char *pattern) {
    p->codes = xrealloc(p->codes, (size_t)(p->n + 1) * sizeof *p->codes);
    p->codes[p->n++] = xstrdup(pattern);
}

static void predicate_free(LabelPredicate *p) {
    for (int i = 0; i < p->n; i++) free(p->codes[i]);
    free(p->codes);
    free(p->unit);
    memset(p, 0, sizeof *p);
}

static Status patterns_parse(LabelPredicate *p, const json_t *list, const char *where, const char *key, Err *err) {
    if (!json_is_array(list) || !json_array_size(list) || json_array_size(list) > PATTERNS_MAX)
        return bad(where, key, "a list of code patterns such as [\"ICD10CM//I50\"]", err);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *s = json_string_value(json_array_get(list, i));
        if (!s || !s[0]) return bad(where, key, "a list of code patterns, each of them text", err);
        predicate_add(p, s);
    }
    return OK;
}

static Status keys_check(const json_t *o, const char *const *known, int n, const char *where, Err *err) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)o, key, value) {
        int found = 0;
        for (int i = 0; i < n; i++) found |= !strcmp(key, known[i]);
        if (!found) return err_set(err, ERR_FORMAT, "%s: unknown key \"%s\"", where, key);
    }
    return OK;
}

static Status predicate_parse(LabelPredicate *p, const json_t *o, const char *where, const char *key, Err *err) {
    static const char *const known[] = {"codes", "above", "below", "unit"};
    if (!json_is_object(o)) return bad(where, key, "an object such as {\"codes\": [\"ICD10CM//I50\"]}", err);
    Status s = keys_check(o, known, 4, where, err);
    if (!s) s = patterns_parse(p, json_object_get(o, "codes"), where, "codes", err);
    const json_t *above = json_object_get(o, "above"), *below = json_object_get(o, "below"),
                 *unit = json_object_get(o, "unit");
    if (s) return s;
    if ((above && !json_is_number(above)) || (below && !json_is_number(below)))
        return bad(where, "above, below", "numbers", err);
    if (above) p->above = json_number_value(above);
    if (below) p->below = json_number_value(below);
    p->bounded = above || below;
    if (!(p->above < p->below)) return bad(where, "above", "less than \"below\"", err);
    if (unit && !json_is_string(unit)) return bad(where, "unit", "text", err);
    if (unit) {
        free(p->unit);
        p->unit = xstrdup(json_string_value(unit));
    }
    return OK;
}

Status label_index_parse(LabelTask *t, const char *text, const char *where, Err *err) {
    static const char *const expected = "admission+24h, admission-day, discharge, discharge-day, visit-end, before-result, age:65, last-year, oracle or file";
    t->index = -1;
    t->day_end = !strcmp(text, "admission-day") || !strcmp(text, "discharge-day");
    t->index_offset_minutes = 0;
    if (t->day_end) t->index = text[0] == 'a' ? INDEX_ADMISSION : INDEX_DISCHARGE;
    else if (!strncmp(text, "admission", 9) && (!text[9] || text[9] == '+')) {
        t->index_offset_minutes = text[9] ? duration_parse(text + 10) : 0;
        if (t->index_offset_minutes >= 0) t->index = INDEX_ADMISSION;
    } else if (!strncmp(text, "age:", 4)) {
        char *end;
        t->index_age_years = strtod(text + 4, &end);
        if (end != text + 4 && !*end && t->index_age_years >= 0 && t->index_age_years < 130) t->index = INDEX_AGE;
    } else {
        for (int i = 0; i <= INDEX_BEFORE_RESULT; i++)
            if (i != INDEX_AGE && i != INDEX_ADMISSION && !strcmp(text, INDEX[i])) t->index = i;
    }
    if (t->index >= 0) return OK;
    return err_set(err, ERR_USAGE, "%s: the index must be %s, found \"%s\"", where, expected, text);
}

Status label_censored_parse(LabelTask *t, const char *text, const char *where, Err *err) {
    t->censored_negative = !strcmp(text, "negative");
    if (t->censored_negative || !strcmp(text, "excluded")) return OK;
    return bad(where, "censored", "\"negative\" or \"excluded\"", err);
}

static void task_init(LabelTask *t) {
    memset(t, 0, sizeof *t);
    predicate_open(&t->outcome);
    predicate_open(&t->inpatient);
    t->name = xstrdup("");
    t->note = xstrdup("");
    t->first = -1;
    t->index = INDEX_VISIT_END;
}

static void inpatient_default(LabelTask *t) {
    if (t->inpatient.n) return;
    for (size_t i = 0; i < sizeof INPATIENT / sizeof *INPATIENT; i++) predicate_add(&t->inpatient, INPATIENT[i]);
}

static Status name_set(LabelTask *t, const char *name, size_t n, const char *where, Err *err) {
    if (n < 1 || n > 100 || memchr(name, '/', n) || name[0] == '.')
        return bad(where, "name", "1 to 100 characters, a file name without /", err);
    free(t->name);
    t->name = xasprintf("%.*s", (int)n, name);
    return OK;
}

static Status duration_field(const json_t *root, const char *key, int needed, int64_t *out, const char *where,
                             Err *err) {
    const json_t *x = json_object_get(root, key);
    if (!x && !needed) return OK;
    *out = json_is_string(x) ? duration_parse(json_string_value(x)) : -1;
    return *out > 0 ? OK : bad(where, key, "a duration such as \"24h\", \"30d\" or \"1y\"", err);
}

static Status stops_parse(LabelTask *t, const json_t *list, const char *where, Err *err) {
    if (!list) return OK;
    if (!json_is_array(list) || json_array_size(list) > LABEL_STOPS_MAX)
        return bad(where, "stops", "a list of at most 16 objects with \"codes\"", err);
    Status s = OK;
    for (size_t i = 0; !s && i < json_array_size(list); i++) {
        predicate_open(&t->stop[t->n_stops]);
        s = predicate_parse(&t->stop[t->n_stops++], json_array_get(list, i), where, "stops", err);
    }
    return s;
}

static Status task_read(LabelTask *t, const json_t *root, const char *where, Err *err) {
    static const char *const known[] = {"name",  "note",  "kind",  "index",     "outcome",    "horizon",
                                        "until", "first", "stops", "inpatient", "longer_than",
                                        "after", "censored"};
    if (!json_is_object(root)) return err_set(err, ERR_FORMAT, "%s: a task is a JSON object", where);
    Status s = keys_check(root, known, sizeof known / sizeof *known, where, err);
    if (s) return s;
    for (int i = 0; i < 2; i++) { /* both may be left out, but are not skipped */
        const char *key = i ? "note" : "kind";
        const json_t *value = json_object_get(root, key);
        if (value && !json_is_string(value)) return bad(where, key, i ? "text" : "event, duration or value", err);
    }
    const char *name = json_string_value(json_object_get(root, "name")),
               *kind = json_string_value(json_object_get(root, "kind"));
    const char *index = json_string_value(json_object_get(root, "index")),
               *note = json_string_value(json_object_get(root, "note"));
    if (!name) return bad(where, "name", "text", err);
    if ((s = name_set(t, name, strlen(name), where, err))) return s;
    if (note) {
        free(t->note);
        t->note = xstrdup(note);
    }
    t->kind = kind ? -1 : LABEL_EVENT;
    for (int i = 0; kind && i < 3; i++)
        if (!strcmp(kind, KIND[i])) t->kind = i;
    if (t->kind < 0) return bad(where, "kind", "event, duration or value", err);
    if (!index) return bad(where, "index", "text such as \"discharge\"", err);
    if ((s = label_index_parse(t, index, where, err))) return s;
    if (t->kind != LABEL_DURATION || json_object_get(root, "outcome"))
        s = predicate_parse(&t->outcome, json_object_get(root, "outcome"), where, "outcome", err);
    if (!s) s = duration_field(root, "horizon", t->kind != LABEL_DURATION, &t->horizon_minutes, where, err);
    if (!s) s = duration_field(root, "longer_than", t->kind == LABEL_DURATION, &t->longer_than_minutes, where, err);
    if (!s) s = stops_parse(t, json_object_get(root, "stops"), where, err);
    const json_t *inpatient = json_object_get(root, "inpatient"), *first = json_object_get(root, "first");
    const json_t *until = json_object_get(root, "until");
    if (!s && inpatient) s = patterns_parse(&t->inpatient, inpatient, where, "inpatient", err);
    int of_stay = json_is_string(first) && !strcmp(json_string_value(first), "stay");
    if (!s && first && !json_is_boolean(first) && !of_stay) s = bad(where, "first", "true, false or \"stay\"", err);
    t->first = of_stay ? FIRST_OF_STAY : first ? json_is_true(first) : 0;
    const char *censored = json_string_value(json_object_get(root, "censored"));
    if (!s && json_object_get(root, "censored")) s = label_censored_parse(t, censored ? censored : "", where, err);
    if (!s && json_object_get(root, "after")) s = duration_field(root, "after", 1, &t->after_minutes, where, err);
    if (!s && t->after_minutes >= t->horizon_minutes && t->kind != LABEL_DURATION && t->after_minutes)
        s = bad(where, "after", "shorter than \"horizon\"", err);
    if (!s && until && (!json_is_string(until) || strcmp(json_string_value(until), "discharge")))
        s = bad(where, "until", "\"discharge\"", err);
    t->until_discharge = until != NULL;
    if (!s && t->kind == LABEL_VALUE && !t->outcome.bounded)
        s = bad(where, "outcome", "bounded by \"above\" or \"below\" for kind value", err);
    return s;
}

Status label_index_check(LabelTask *t, const char *where, Err *err) {
    if (t->first == FIRST_OF_STAY && t->index != INDEX_ADMISSION)
        return bad(where, "index", "\"admission...\" for \"first\": \"stay\"", err);
    if (t->index == INDEX_BEFORE_RESULT && t->kind != LABEL_VALUE)
        return bad(where, "kind", "\"value\" for the index \"before-result\"", err);
    if ((t->kind == LABEL_DURATION || t->until_discharge) && t->index != INDEX_ADMISSION)
        return bad(where, "index", "\"admission+...\" for kind duration and for \"until\"", err);
    if (t->kind != LABEL_DURATION) return OK;
    /* A duration is decided when the stay has lasted that long. */
    t->horizon_minutes = t->longer_than_minutes - t->index_offset_minutes;
    /* Admitted at midnight, looked at by 23:59. */
    if (t->horizon_minutes >= (t->day_end ? 1440 : 1)) return OK;
    return bad(where, "longer_than", "longer than the index is after the admission", err);
}

Status label_task_parse(LabelTask *t, const char *json, size_t size, const char *where, Err *err) {
    task_init(t);
    json_error_t why;
    json_t *root = size <= JSON_MAX ? json_loadb(json, size, JSON_REJECT_DUPLICATES, &why) : NULL;
    Status s = root ? task_read(t, root, where, err)
                    : err_set(err, ERR_FORMAT, "%s: not JSON of less than 1 MiB (line %d: %s)", where,
                              size <= JSON_MAX ? why.line : 0, size <= JSON_MAX ? why.text : "too long");
    json_decref(root);
    inpatient_default(t);
    if (!s) s = label_index_check(t, where, err);
    if (s) label_task_free(t);
    return s;
}

Status label_task_shorthand(LabelTask *t, const char *outcome, int64_t horizon_minutes, Err *err) {
    task_init(t);
    const char *equals = strchr(outcome, '=');
    Status s = OK;
    if (!equals || !equals[1])
        s = err_set(err, ERR_USAGE,
                    "--outcome must be NAME=PATTERN[,PATTERN...], such as heart_failure=ICD10CM//I50; found \"%s\"",
                    outcome);
    if (!s) s = name_set(t, outcome, (size_t)(equals - outcome), "--outcome", err);
    char *list = s ? NULL : xstrdup(equals + 1), *save = NULL;
    for (char *part = s ? NULL : strtok_r(list, ",", &save); part; part = strtok_r(NULL, ",", &save))
        predicate_add(&t->outcome, part);
    free(list);
    inpatient_default(t);
    t->horizon_minutes = horizon_minutes;
    if (s) {
        label_task_free(t);
        err->code = ERR_USAGE;
        return ERR_USAGE;
    }
    return OK;
}

static json_t *patterns_json(const LabelPredicate *p) {
    json_t *list = json_array();
    for (int i = 0; i < p->n; i++) json_array_append_new(list, json_string(p->codes[i]));
    return list;
}

static json_t *predicate_json(const LabelPredicate *p) {
    json_t *o = json_object();
    json_object_set_new(o, "codes", patterns_json(p));
    if (isfinite(p->above)) json_object_set_new(o, "above", json_real(p->above));
    if (isfinite(p->below)) json_object_set_new(o, "below", json_real(p->below));
    if (p->unit[0]) json_object_set_new(o, "unit", json_string(p->unit));
    return o;
}

static char *duration_format(int64_t minutes) {
    if (minutes % 60) return xasprintf("%lldmin", (long long)minutes);
    if (minutes % 1440 || minutes < 2880) return xasprintf("%lldh", (long long)minutes / 60);
    return xasprintf("%lldd", (long long)minutes / 1440);
}

static void set_minutes(json_t *o, const char *key, int64_t minutes) {
    char *text = duration_format(minutes);
    json_object_set_new(o, key, json_string(text));
    free(text);
}

char *label_task_format(const LabelTask *t) {
    json_t *o = json_object();
    char *offset = duration_format(t->index_offset_minutes);
    char *index = t->day_end                    ? xasprintf("%s-day", INDEX[t->index])
                  : t->index == INDEX_ADMISSION ? xasprintf("admission+%s", offset)
                  : t->index == INDEX_AGE     ? xasprintf("age:%g", t->index_age_years)
                                              : xstrdup(INDEX[t->index]);
    free(offset);
    json_object_set_new(o, "name", json_string(t->name));
    if (t->note[0]) json_object_set_new(o, "note", json_string(t->note));
    json_object_set_new(o, "kind", json_string(KIND[t->kind]));
    json_object_set_new(o, "index", json_string(index));
    if (t->outcome.n) json_object_set_new(o, "outcome", predicate_json(&t->outcome));
    if (t->kind == LABEL_DURATION) set_minutes(o, "longer_than", t->longer_than_minutes);
    else set_minutes(o, "horizon", t->horizon_minutes);
    if (t->until_discharge) json_object_set_new(o, "until", json_string("discharge"));
    if (t->after_minutes) set_minutes(o, "after", t->after_minutes);
    json_object_set_new(o, "first", t->first == FIRST_OF_STAY ? json_string("stay") : json_boolean(t->first > 0));
    if (t->censored_negative) json_object_set_new(o, "censored", json_string("negative"));
    json_t *stops = json_array();
    for (int i = 0; i < t->n_stops; i++) json_array_append_new(stops, predicate_json(&t->stop[i]));
    json_object_set_new(o, "stops", stops);
    json_object_set_new(o, "inpatient", patterns_json(&t->inpatient));
    char *text = json_dumps(o, 0);
    REQUIRE(text);
    json_decref(o);
    free(index);
    return text;
}

void label_task_free(LabelTask *t) {
    predicate_free(&t->outcome);
    predicate_free(&t->inpatient);
    for (int i = 0; i < t->n_stops; i++) predicate_free(&t->stop[i]);
    free(t->name);
    free(t->note);
    memset(t, 0, sizeof *t);
}
