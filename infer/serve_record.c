/* serve_record.c - see serve_record.h. */
#include "infer/serve_record.h"
#include "data/deidentify_notes.h"
#include "data/import.h"
#include "data/tokenizer_timeline.h"
#include "data/units.h"
#include <math.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

Status serve_members(const json_t *o, const char *const *known, const char *where, Err *err) {
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)o, name, value) {
        int i = 0;
        (void)value;
        while (known[i] && strcmp(known[i], name)) i++;
        if (known[i]) continue;
        char list[400] = "";
        for (i = 0; known[i]; i++)
            snprintf(list + strlen(list), sizeof list - strlen(list), "%s%s", i ? ", " : "", known[i]);
        return err_set(err, ERR_USAGE, "%s has a member '%.60s' that means nothing here; it takes %s", where, name,
                       list);
    }
    return OK;
}

/* ---- times and numbers ------------------------------------------------------------------------------------------- */

/* "time" or "minutes" of o -> us; *given 0: neither. */
static Status time_of(const json_t *o, const char *text_name, const char *minutes_name, const char *where, int64_t *us,
                      int *given, Err *err) {
    const json_t *text = json_object_get(o, text_name), *minutes = json_object_get(o, minutes_name);
    *given = text || minutes;
    if (text && minutes) return err_set(err, ERR_USAGE, "%s has both %s and %s", where, text_name, minutes_name);
    if (text) {
        FieldTime t;
        if (!json_is_string(text) || field_time(json_string_value(text), &t) <= 0)
            return err_set(err, ERR_USAGE, "%s: %s takes a date or a time like 2024-03-01T08:30:00", where, text_name);
        *us = t.us;
    } else if (minutes) {
        const double m = json_number_value(minutes);
        if (!json_is_number(minutes) || !(fabs(m) <= INT32_MAX))
            return err_set(err, ERR_USAGE, "%s: %s takes a number of minutes", where, minutes_name);
        *us = (int64_t)floor(m) * US_PER_MINUTE;
    }
    return OK;
}

static Status age_of(const json_t *o, double *age, Err *err) {
    const json_t *value = json_object_get(o, "age_years");
    *age = NAN;
    if (!value) return OK;
    *age = json_number_value(value);
    if (!json_is_number(value) || !(*age >= 0 && *age < 150))
        return err_set(err, ERR_USAGE, "age_years takes a number from 0 to 150");
    return OK;
}

static Status key_of(const json_t *o, ServeRecord *r, int n_static, Err *err) {
    const json_t *key = json_object_get(o, "key");
    if (json_is_integer(key) && json_integer_value(key) >= 0) {
        r->view.key = (uint64_t)json_integer_value(key);
    } else if (json_is_string(key)) {
        const char *text = json_string_value(key);
        if (!*text || strspn(text, "0123456789") != strlen(text) || strlen(text) > 20)
            return err_set(err, ERR_USAGE, "key takes a number from 0 on, or its digits as text");
        r->view.key = strtoull(text, NULL, 10);
    } else if (key) {
        return err_set(err, ERR_USAGE, "key takes a number from 0 on, or its digits as text");
    } else {
        crypto_generichash_state h;
        crypto_generichash_init(&h, NULL, 0, sizeof r->view.key);
        crypto_generichash_update(&h, (const unsigned char *)r->tokens, (size_t)r->view.n * sizeof *r->tokens);
        crypto_generichash_update(&h, (const unsigned char *)r->minutes, (size_t)r->view.n * sizeof *r->minutes);
        crypto_generichash_update(&h, (const unsigned char *)r->statics, ((size_t)n_static + 1) * sizeof *r->statics);
        crypto_generichash_final(&h, (unsigned char *)&r->view.key, sizeof r->view.key);
    }
    return OK;
}

/* The view of the arrays, and what of it is known at the index. */
static void view_set(ServeRecord *r, int64_t n, int n_static, int32_t index) {
    r->view = (PatientView){.n = n,
                            .tokens = r->tokens,
                            .wide = 1,
                            .minutes = r->minutes,
                            .statics = r->statics,
                            .age_years = r->statics[n_static],
                            .observation_end = index};
    r->index_minutes = index;
    r->n_known = 0;
    while (r->n_known < n && r->minutes[r->n_known] <= index) r->n_known++;
}

/* ---- raw events -------------------------------------------------------------------------------------------------- */

typedef struct {
    const Vocabulary *v;
    const RecordRules *rules;
    EventFile file; /* in memory: codes sorted, units in order of arrival */
    Event *event;
    int64_t n;
    const char **raw_code; /* (n) */
    NoteInMemory *note;    /* (n_notes) texts as importers make them plain; NULL: there are none */
    int n_notes;
    int *raw_kind;         /* (n) -1: not told */
} RawEvents;

static int is_static_code(const Vocabulary *v, const char *code) {
    for (int s = 0; s < v->n_static; s++) {
        size_t n = strlen(v->static_name[s]);
        if (!strncmp(code, v->static_name[s], n) && !strncmp(code + n, "//", 2)) return 1;
    }
    return 0;
}

/* A code's kind when the request does not tell it: that of its tokens, else of most tokens of its code system. */
static int kind_guess(const Vocabulary *v, const char *code) {
    if (is_static_code(v, code)) return KIND_STATIC;
    if (!strcmp(code, "MEDS_BIRTH")) return KIND_BIRTH;
    if (!strcmp(code, "MEDS_DEATH")) return KIND_DEATH;
    if (!strncmp(code, "VISIT//", 7)) return KIND_VISIT_START;
    if (!strncmp(code, "VISIT_END", 9)) return KIND_VISIT_END;
    char level[300];
    snprintf(level, sizeof level, "%s=Q1", code);
    int id = vocabulary_find(v, code);
    if (id < 0) id = vocabulary_find(v, level);
    if (id >= 0 && v->token[id].kind == TOKEN_EVENT && v->token[id].event_kind >= 0) return v->token[id].event_kind;
    const char *slash = strstr(code, "//");
    const size_t system = slash ? (size_t)(slash - code) + 2 : strlen(code);
    int64_t count[KIND_COUNT] = {0};
    int best = KIND_OTHER;
    for (id = 0; id < v->n; id++) {
        const VocabToken *t = &v->token[id];
        if (t->kind == TOKEN_EVENT && t->event_kind >= 0 && t->event_kind < KIND_COUNT &&
            !strncmp(t->base, code, system))
            count[t->event_kind]++;
    }
    for (int k = 0; k < KIND_COUNT; k++)
        if (count[k] > count[best]) best = k;
    return best;
}

static Status value_of(RawEvents *w, const json_t *o, const char *code, const char *where, Event *e, Err *err) {
    const json_t *value = json_object_get(o, "value"), *unit = json_object_get(o, "unit");
    int comparator = COMPARE_EQ;
    e->value = NAN;
    if (json_is_number(value)) {
        e->value = (float)json_number_value(value);
        if (!isfinite(e->value)) return err_set(err, ERR_USAGE, "%s: the value is too large", where);
    } else if (json_is_string(value)) {
        if (field_limit(json_string_value(value), &e->value, &comparator) <= 0)
            return err_set(err, ERR_USAGE, "%s: value takes a number, or a limit such as \"<5\"", where);
    } else if (value && !json_is_null(value)) {
        return err_set(err, ERR_USAGE, "%s: value takes a number, or a limit such as \"<5\"", where);
    }
    e->comparator = (uint8_t)comparator;
    if (unit && !json_is_string(unit)) return err_set(err, ERR_USAGE, "%s: unit takes text", where);
    if (!unit || !*json_string_value(unit)) return OK;
    /* What the vocabulary knows stays; else as importers do: one spelling a unit, and the unit that is usual for the
     * code. */
    const char *spelling = json_string_value(unit);
    const int known = vocabulary_edges(w->v, code, spelling) != NULL, analyte = unit_analyte(code);
    double number = (double)e->value;
    if (!known) spelling = unit_spelling(spelling);
    if (!known && analyte >= 0 && !isnan(e->value) && unit_convert(analyte, spelling, &number) > 0) {
        e->value = (float)number;
        spelling = unit_usual(analyte);
    }
    int64_t u = 0;
    while (u < w->file.n_units && strcmp(w->file.units[u], spelling)) u++;
    if (u == w->file.n_units) {
        if (u == RECORD_UNITS_MAX)
            return err_set(err, ERR_USAGE, "the record has more than %d units", RECORD_UNITS_MAX);
        w->file.units[w->file.n_units++] = xstrdup(spelling);
    }
    e->unit = (uint16_t)u;
    return OK;
}

static Status note_of(RawEvents *w, const json_t *o, const char *where, Event *e, Err *err) {
    const json_t *text = json_object_get(o, "text");
    int bad, nul;
    if (!text || json_is_null(text)) return OK;
    if (w->v->text_begin < 0)
        return err_set(err, ERR_USAGE,
                       "%s has a text, and this model knows no notes: its vocabulary has no tokens of texts.  Leave text out",
                       where);
    if (!json_is_string(text) || json_string_length(text) > RECORD_NOTE_BYTES_MAX)
        return err_set(err, ERR_USAGE, "%s: text takes a text of at most %d bytes", where, RECORD_NOTE_BYTES_MAX);
    if (w->n_notes == RECORD_NOTES_MAX)
        return err_set(err, ERR_USAGE, "the record has more than %d texts", RECORD_NOTES_MAX);
    const size_t n = json_string_length(text);
    char *plain = xmalloc(2 * n + 1);
    size_t held = field_text(json_string_value(text), n, plain, &bad, &nul);
    if (held && w->rules->mask) {
        int64_t masked[PHI_COUNT + 1] = {0};
        char *own = text_mask(w->rules->mask, plain, &held, masked);
        free(plain);
        plain = own;
    }
    if (!held) {
        free(plain);
        return OK;
    }
    if (!w->note) w->note = xcalloc(RECORD_NOTES_MAX, sizeof *w->note);
    w->note[w->n_notes++] = (NoteInMemory){plain, held};
    e->note = (uint32_t)w->n_notes;
    return OK;
}

static Status event_of(RawEvents *w, const json_t *o, int64_t i, Err *err) {
    static const char *const known[] = {"code", "time", "minutes", "value", "unit", "kind", "text", NULL};
    char where[48];
    snprintf(where, sizeof where, "events[%lld]", (long long)i);
    if (!json_is_object(o)) return err_set(err, ERR_USAGE, "%s is no object with a code", where);
    Status s = serve_members(o, known, where, err);
    if (s) return s;
    const json_t *code = json_object_get(o, "code"), *kind = json_object_get(o, "kind");
    Event *e = &w->event[i];
    int timed;
    if (!json_is_string(code) || !json_string_length(code) || json_string_length(code) > 255)
        return err_set(err, ERR_USAGE, "%s: code takes text of 1 to 255 bytes", where);
    w->raw_code[i] = json_string_value(code);
    w->raw_kind[i] = json_is_string(kind) ? event_kind_find(json_string_value(kind)) : -1;
    if (kind && w->raw_kind[i] < 0)
        return err_set(err, ERR_USAGE, "%s: kind is no kind of event such as lab, diagnosis, drug", where);
    *e = (Event){.time = TIME_NONE, .available = TIME_NONE, .precision = PRECISION_MINUTE};
    s = value_of(w, o, w->raw_code[i], where, e, err);
    if (!s) s = note_of(w, o, where, e, err);
    return s ? s : time_of(o, "time", "minutes", where, &e->time, &timed, err);
}

typedef struct {
    const char *code;
    int kind;
} NamedCode;

static int compare_names(const void *a, const void *b) {
    return strcmp(((const NamedCode *)a)->code, ((const NamedCode *)b)->code);
}

/* The distinct codes, sorted, with their kinds; events then hold their numbers. */
static Status codes_set(RawEvents *w, Err *err) {
    NamedCode *all = xcalloc((size_t)w->n + 1, sizeof *all);
    EventFile *f = &w->file;
    Status s = OK;
    for (int64_t i = 0; i < w->n; i++) all[i] = (NamedCode){w->raw_code[i], w->raw_kind[i]};
    qsort(all, (size_t)w->n, sizeof *all, compare_names);
    f->codes = xcalloc((size_t)w->n + 1, sizeof *f->codes);
    f->code_parent = xcalloc((size_t)w->n + 1, sizeof *f->code_parent);
    f->code_kind = xcalloc((size_t)w->n + 1, 1);
    for (int64_t i = 0, end; i < w->n && !s; i = end) {
        int kind = all[i].kind;
        for (end = i + 1; end < w->n && !strcmp(all[end].code, all[i].code); end++) {
            if (kind < 0) kind = all[end].kind;
            if (all[end].kind >= 0 && all[end].kind != kind)
                s = err_set(err, ERR_USAGE, "%.80s is given two kinds", all[i].code);
        }
        if (f->n_codes == RECORD_CODES_MAX)
            s = err_set(err, ERR_USAGE, "the record has more than %d different codes", RECORD_CODES_MAX);
        if (s) break;
        f->codes[f->n_codes] = (char *)(uintptr_t)all[i].code;
        f->code_parent[f->n_codes] = (char *)(uintptr_t) "";
        f->code_kind[f->n_codes++] = (uint8_t)(kind < 0 ? kind_guess(w->v, all[i].code) : kind);
    }
    for (int64_t i = 0; i < w->n && !s; i++) {
        Event *e = &w->event[i];
        e->code = (uint32_t)event_file_code(f, w->raw_code[i]);
        if (f->code_kind[e->code] == KIND_STATIC) e->time = TIME_NONE;
        else if (e->time == TIME_NONE)
            s = err_set(err, ERR_USAGE, "events[%lld] (%.80s) needs a time", (long long)i, w->raw_code[i]);
        e->available = e->time;
    }
    free(all);
    return s;
}

static uint64_t note_hash(const RawEvents *w, const Event *e) {
    return e->note ? event_text_hash(w->note[e->note - 1].text, w->note[e->note - 1].n) : 0;
}

/* The order of events files (event.h); codes ascend by text already. */
static int compare_events(const void *x, const void *y, void *raw) {
    const Event *a = x, *b = y;
    const RawEvents *w = raw;
    const EventFile *f = &w->file;
    const int ka = f->code_kind[a->code], kb = f->code_kind[b->code];
    if (a->available != b->available) return a->available < b->available ? -1 : 1;
    if (ka != kb) return ka < kb ? -1 : 1;
    if (a->code != b->code) return a->code < b->code ? -1 : 1;
    if (isnan(a->value) != isnan(b->value)) return isnan(a->value) ? 1 : -1;
    if (a->value < b->value || a->value > b->value) return a->value < b->value ? -1 : 1;
    const int units = a->unit == b->unit ? 0 : strcmp(f->units[a->unit], f->units[b->unit]);
    if (units || a->comparator != b->comparator) return units ? units : (int)a->comparator - (int)b->comparator;
    const uint64_t ha = note_hash(w, a), hb = note_hash(w, b);
    return ha != hb ? (ha < hb ? -1 : 1) : 0;
}

/* Sorted, exact duplicates dropped. */
static void events_sort(RawEvents *w) {
    int64_t n = 0;
    qsort_r(w->event, (size_t)w->n, sizeof *w->event, compare_events, w);
    for (int64_t i = 0; i < w->n; i++)
        if (!n || compare_events(&w->event[n - 1], &w->event[i], w)) w->event[n++] = w->event[i];
    w->n = n;
}

static void raw_free(RawEvents *w) {
    for (int64_t u = 0; u < w->file.n_units; u++) free(w->file.units[u]);
    for (int i = 0; i < w->n_notes; i++) free(w->note[i].text);
    free(w->note);
    free(w->file.units);
    free(w->file.codes);
    free(w->file.code_parent);
    free(w->file.code_kind);
    free(w->event);
    free(w->raw_code);
    free(w->raw_kind);
}

static Status timeline_take(ServeRecord *r, RawEvents *w, double age, const json_t *o, Err *err) {
    const Vocabulary *v = w->v;
    TokenMap map;
    Timeline t;
    TokenizeCounts counts = {.values = 0};
    EventPatient p = {.observation_end = TIME_NONE, .split = SPLIT_UNSET, .n = w->n, .event = w->event};
    int64_t index_us = TIME_NONE;
    int given;
    Status s = token_map_open(&map, v, &w->file, err);
    if (s) return s;
    map.synthetic = w->rules->synthetic;
    map.note = w->note;
    timeline_init(&t, v);
    s = timeline_build(&t, &map, &p, NULL, TIME_NONE, &counts, err);
    if (!s && !t.n) s = err_set(err, ERR_USAGE, "the record has no event with a time");
    if (!s) s = time_of(o, "index", "index_minutes", "the record", &index_us, &given, err);
    if (!s) {
        int32_t index = t.minutes[t.n - 1];
        const double after = given ? ((double)index_us - (double)t.origin_us) / (double)US_PER_MINUTE : index;
        if (after < 0 || after > INT32_MAX)
            s = err_set(err, ERR_USAGE, "the index lies before the first event, or thousands of years after it");
        else index = (int32_t)floor(after);
        if (!isnan(age)) t.statics[v->n_static] = (uint16_t)age;
        r->tokens = t.tokens;
        r->minutes = t.minutes;
        r->statics = t.statics;
        t.tokens = NULL;
        t.minutes = NULL;
        t.statics = NULL;
        view_set(r, t.n, v->n_static, index);
    }
    for (int k = 0; k < KIND_COUNT; k++) {
        r->n_events += counts.events[k];
        r->n_unknown += counts.mapped[k][MAPPED_UNKNOWN];
    }
    timeline_free(&t);
    token_map_close(&map);
    return s;
}

static Status events_parse(ServeRecord *r, const json_t *o, const Vocabulary *v, const RecordRules *rules, Err *err) {
    static const char *const known[] = {"events", "age_years", "index", "index_minutes", "key", NULL};
    const json_t *list = json_object_get(o, "events");
    RawEvents w = {.v = v, .rules = rules, .n = (int64_t)json_array_size(list), .file = {.path = (char *)(uintptr_t) "the record"}};
    double age;
    Status s = serve_members(o, known, "the record", err);
    if (!s && (!json_is_array(list) || !w.n)) s = err_set(err, ERR_USAGE, "events takes a list of at least one event");
    if (!s && w.n > RECORD_EVENTS_MAX)
        s = err_set(err, ERR_USAGE, "the record has more than %d events", RECORD_EVENTS_MAX);
    if (!s) s = age_of(o, &age, err);
    if (s) return s;
    w.event = xcalloc((size_t)w.n, sizeof *w.event);
    w.raw_code = xcalloc((size_t)w.n, sizeof *w.raw_code);
    w.raw_kind = xcalloc((size_t)w.n, sizeof *w.raw_kind);
    w.file.units = xcalloc(RECORD_UNITS_MAX, sizeof *w.file.units);
    w.file.units[w.file.n_units++] = xstrdup("");
    for (int64_t i = 0; !s && i < w.n; i++) s = event_of(&w, json_array_get(list, (size_t)i), i, err);
    if (!s) s = codes_set(&w, err);
    if (!s) {
        events_sort(&w);
        s = timeline_take(r, &w, age, o, err);
    }
    raw_free(&w);
    return s;
}

/* ---- tokens ------------------------------------------------------------------------------------------------------ */

static Status token_id(const Vocabulary *v, const json_t *o, const char *where, int *id, Err *err) {
    if (json_is_integer(o)) {
        if (json_integer_value(o) < 0 || json_integer_value(o) >= v->n)
            return err_set(err, ERR_USAGE, "%s: %lld is no token; the vocabulary has 0 to %d", where,
                           (long long)json_integer_value(o), v->n - 1);
        *id = (int)json_integer_value(o);
        return OK;
    }
    if (!json_is_string(o))
        return err_set(err, ERR_USAGE, "%s holds something that is neither a token id nor a code", where);
    *id = vocabulary_find(v, json_string_value(o));
    if (*id >= 0) return OK;
    char near[256];
    vocabulary_nearest(v, json_string_value(o), near, sizeof near);
    return err_set(err, ERR_USAGE, "%s: no token is called %.80s; the nearest are %s", where, json_string_value(o),
                   near);
}

static int follows(const Vocabulary *v, int id) {
    const int kind = v->token[id].kind;
    return kind == TOKEN_EVENT || kind == TOKEN_UNKNOWN || kind == TOKEN_GAP || kind == TOKEN_VALUE ||
           kind == TOKEN_TEXT;
}

/* Static tokens in the vocabulary's columns; those not told are unknown. */
static Status statics_set(ServeRecord *r, const Vocabulary *v, const int *id, int n, Err *err) {
    for (int s = 0; s < v->n_static; s++) {
        char text[128];
        int found = -1;
        snprintf(text, sizeof text, "%s//UNKNOWN", v->static_name[s]);
        const size_t length = strlen(v->static_name[s]);
        for (int i = 0; i < n; i++)
            if (!strncmp(v->token[id[i]].code, v->static_name[s], length) &&
                !strncmp(v->token[id[i]].code + length, "//", 2))
                found = id[i];
        if (found < 0) found = vocabulary_find(v, text);
        if (found < 0 || v->token[found].kind != TOKEN_STATIC)
            return err_set(err, ERR_USAGE, "statics lacks a %s, and the vocabulary has no %s", v->static_name[s], text);
        r->statics[s] = (uint16_t)found;
    }
    return OK;
}

/* Minutes of the tokens: as told, else by the mean lengths of gaps. */
static Status minutes_set(ServeRecord *r, const Vocabulary *v, const json_t *list, int64_t n, Err *err) {
    double now = 0;
    for (int64_t i = 0; i < n; i++) {
        if (list) {
            const json_t *m = json_array_get(list, (size_t)i);
            now = json_is_integer(m) ? (double)json_integer_value(m) : -1;
            if (!(now >= 0 && now <= INT32_MAX) || (i && now < r->minutes[i - 1]))
                return err_set(err, ERR_USAGE,
                               "minutes[%lld]: whole numbers from 0 on, none smaller than the one before",
                               (long long)i);
        } else if (v->token[r->tokens[i]].kind == TOKEN_GAP) {
            now += vocabulary_gap_minutes(v, (int)r->tokens[i], -1);
            if (!(now <= INT32_MAX)) return err_set(err, ERR_USAGE, "the record spans more than 4,000 years");
        }
        r->minutes[i] = (int32_t)now;
    }
    return OK;
}

static void record_alloc(ServeRecord *r, const Vocabulary *v, int64_t n) {
    r->tokens = xcalloc((size_t)n + 1, sizeof *r->tokens);
    r->minutes = xcalloc((size_t)n + 1, sizeof *r->minutes);
    r->statics = xcalloc((size_t)v->n_static + 1, sizeof *r->statics);
    r->statics[v->n_static] = AGE_UNKNOWN;
}

static void count_unknown(ServeRecord *r, const Vocabulary *v) {
    for (int64_t i = 0; i < r->view.n; i++) {
        const int kind = v->token[r->tokens[i]].kind;
        r->n_events += kind == TOKEN_EVENT || kind == TOKEN_UNKNOWN;
        r->n_unknown += kind == TOKEN_UNKNOWN;
    }
}

static Status tokens_parse(ServeRecord *r, const json_t *o, const Vocabulary *v, Err *err) {
    static const char *const known[] = {"tokens", "minutes", "statics", "age_years", "index_minutes", "key", NULL};
    const json_t *list = json_object_get(o, "tokens"), *minutes = json_object_get(o, "minutes"),
                 *statics = json_object_get(o, "statics");
    const int64_t n = (int64_t)json_array_size(list), n_statics = (int64_t)json_array_size(statics);
    int id[16], given;
    int64_t index_us = 0;
    double age;
    Status s = serve_members(o, known, "the record", err);
    if (!s && (!json_is_array(list) || n > INT32_MAX / 2))
        s = err_set(err, ERR_USAGE, "tokens takes a list of ids or codes");
    if (!s && minutes && (!json_is_array(minutes) || (int64_t)json_array_size(minutes) != n))
        s = err_set(err, ERR_USAGE, "minutes takes a list as long as tokens");
    if (!s && statics && (!json_is_array(statics) || n_statics > 16))
        s = err_set(err, ERR_USAGE, "statics takes a list of at most 16 codes");
    if (!s) s = age_of(o, &age, err);
    if (!s) s = time_of(o, "index", "index_minutes", "the record", &index_us, &given, err);
    if (s) return s;
    record_alloc(r, v, n);
    for (int64_t i = 0; !s && i < n; i++) {
        int token;
        if ((s = token_id(v, json_array_get(list, (size_t)i), "tokens", &token, err))) break;
        if (!follows(v, token))
            s = err_set(err, ERR_USAGE, "tokens: %s is told by statics and age_years, or by nothing",
                        v->token[token].code);
        r->tokens[i] = (uint32_t)token;
    }
    for (int64_t i = 0; !s && i < n_statics; i++)
        s = token_id(v, json_array_get(statics, (size_t)i), "statics", &id[i], err);
    if (!s) s = statics_set(r, v, id, (int)n_statics, err);
    if (!s && !isnan(age)) r->statics[v->n_static] = (uint16_t)age;
    if (!s) s = minutes_set(r, v, minutes, n, err);
    if (s) return s;
    const int64_t index = given ? index_us / US_PER_MINUTE : n ? r->minutes[n - 1] : 0;
    if (index < 0) return err_set(err, ERR_USAGE, "index_minutes is counted from the first event and not negative");
    view_set(r, n, v->n_static, (int32_t)index);
    count_unknown(r, v);
    return OK;
}

Status serve_record_parse(ServeRecord *r, const json_t *o, const Vocabulary *v, const RecordRules *rules, Err *err) {
    *r = (ServeRecord){0};
    Status s;
    if (!json_is_object(o)) return err_set(err, ERR_USAGE, "patient takes an object with events or tokens");
    if (json_object_get(o, "tokens")) s = tokens_parse(r, o, v, err);
    else s = events_parse(r, o, v, rules, err);
    if (!s) s = key_of(o, r, v->n_static, err);
    if (s) serve_record_free(r);
    return s;
}

/* ---- prompts ----------------------------------------------------------------------------------------------------- */

/* The ids of a prompt; free() *out. */
static Status prompt_ids(const json_t *prompt, const char *where, const Vocabulary *v, int **out, int64_t *n,
                         Err *err) {
    Status s = OK;
    *n = 0;
    if (json_is_array(prompt)) {
        *out = xcalloc(json_array_size(prompt) + 1, sizeof **out);
        for (size_t i = 0; !s && i < json_array_size(prompt); i++)
            s = token_id(v, json_array_get(prompt, i), where, &(*out)[(*n)++], err);
        return s;
    }
    if (!json_is_string(prompt))
        return err_set(err, ERR_USAGE, "%s takes a list of token ids, or codes separated by spaces", where);
    char *text = xstrdup(json_string_value(prompt)), *rest = text;
    *out = xcalloc(strlen(text) + 1, sizeof **out);
    for (char *word; !s && (word = strsep(&rest, " \t\n"));) {
        if (!*word) continue;
        json_t *code = json_string(word);
        s = token_id(v, code, where, &(*out)[(*n)++], err);
        json_decref(code);
    }
    free(text);
    return s;
}

Status serve_record_prompt(ServeRecord *r, const json_t *prompt, const char *where, const Vocabulary *v, Err *err) {
    int *id = NULL;
    int64_t n = 0, at = 0, first;
    *r = (ServeRecord){0};
    Status s = prompt_ids(prompt, where, v, &id, &n, err);
    if (!s) record_alloc(r, v, n);
    if (!s && n && id[0] == TOKEN_START) at++;
    for (first = at; !s && at < n && v->token[id[at]].kind == TOKEN_STATIC;) at++;
    if (!s) s = statics_set(r, v, id + first, (int)(at - first < 16 ? at - first : 16), err);
    if (!s && at < n && v->token[id[at]].kind == TOKEN_AGE) {
        if (id[at] != v->age_unknown)
            r->statics[v->n_static] = (uint16_t)(v->age_first_years + (id[at] - v->age_lo) * v->age_bin_years);
        at++;
    }
    for (int64_t i = at; !s && i < n; i++) {
        if (!follows(v, id[i]))
            s = err_set(err, ERR_USAGE,
                        "%s: %s cannot stand in the middle of a record; statics and the age open it", where,
                        v->token[id[i]].code);
        r->tokens[i - at] = (uint32_t)id[i];
    }
    if (!s) s = minutes_set(r, v, NULL, n - at, err);
    if (!s) {
        view_set(r, n - at, v->n_static, n > at ? r->minutes[n - at - 1] : 0);
        s = key_of(NULL, r, v->n_static, err);
        count_unknown(r, v);
    }
    free(id);
    if (s) serve_record_free(r);
    return s;
}

void serve_record_free(ServeRecord *r) {
    free(r->tokens);
    free(r->minutes);
    free(r->statics);
    *r = (ServeRecord){0};
}
