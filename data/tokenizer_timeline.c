/* tokenizer_timeline.c - see tokenizer_timeline.h. */
#include "data/tokenizer_timeline.h"
#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const double YEAR_US = 365.25 * (double)US_PER_DAY;
enum { AGE_CAP = 90, CHAIN_MAX = 64 };

/* ---- walking
 * --------------------------------------------------------------------------------------------------------- */

void walk_open(Walk *w, const EventFile *f, const EventPatient *p) {
    *w = (Walk){.f = f, .p = p, .origin_us = TIME_NONE};
}

Status walk_next(Walk *w, const Event **out, Err *err) {
    *out = NULL;
    while (w->next < w->p->n) {
        const Event *e = &w->p->event[w->next++];
        int kind = w->f->code_kind[e->code];
        if (kind == KIND_STATIC || kind == KIND_BIRTH) continue;
        if (e->available == TIME_NONE) {
            w->n_undated++;
            continue;
        }
        if (w->dead) {
            w->n_after_death++;
            continue;
        }
        if (w->origin_us == TIME_NONE) w->origin_us = e->available;
        /* Unsigned: a hostile file may hold times whose difference overflows. */
        uint64_t minute = ((uint64_t)e->available - (uint64_t)w->origin_us) / US_PER_MINUTE;
        if (e->available < w->origin_us || minute > INT32_MAX)
            return err_set(err, ERR_FORMAT,
                           "%s: the record of patient row %lld spans more than 4,000 years: check its times "
                           "with `ehr-data validate`",
                           w->f->path, (long long)(w->p->first_event));
        w->gap = (int32_t)minute - w->minute;
        w->minute = (int32_t)minute;
        w->dead = kind == KIND_DEATH;
        *out = e;
        return OK;
    }
    return OK;
}

int32_t gap_split(int32_t gap, int *bin) {
    int32_t longest = GAP_MINUTES[GAP_BINS];
    *bin = vocabulary_gap_bin(gap % longest);
    return gap / longest;
}

/* ---- hierarchy
 * ------------------------------------------------------------------------------------------------------- */

static int structural_parent(const char *code, char *parent, size_t size) {
    const char *body = strstr(code, "//");
    if (!body) return 0;
    size_t start = (size_t)(body - code) + 2, n = strlen(code), keep = 0;
    body += 2;
    size_t length = strlen(body);
    const char *dot = strchr(body, '.');
    if (!strncmp(code, "ICD10", 5) && strncmp(code, "ICD10PCS", 8)) {
        /* E11.65 -> E11.6 -> E11; also written without the dot. */
        if (dot) keep = length - 1 == (size_t)(dot - body) + 1 ? length - 2 : length - 1;
        else if (length > 3) keep = length - 1;
    } else if (!strncmp(code, "ICD9", 4) && dot) {
        keep = length - 1 == (size_t)(dot - body) + 1 ? length - 2 : length - 1;
    } else if (!strncmp(code, "ATC", 3)) {
        /* Levels of ATC have 7, 5, 4, 3 and 1 characters. */
        keep = length > 5 ? 5 : length > 4 ? 4 : length > 3 ? 3 : length > 1 ? 1 : 0;
    }
    if (!keep || keep >= length || n - length + keep >= size) return 0;
    memcpy(parent, code, start + keep);
    parent[start + keep] = 0;
    return 1;
}

int code_parent(const EventFile *f, const char *code, char *parent, size_t size) {
    int64_t id = event_file_code(f, code);
    if (id >= 0 && f->code_parent[id][0]) return (size_t)snprintf(parent, size, "%s", f->code_parent[id]) < size;
    return structural_parent(code, parent, size);
}

/* ---- map
 * --------------------------------------------------------------------------------------------------------------- */

static int is_event_token(const Vocabulary *v, int id) {
    return id >= 0 && (v->token[id].kind == TOKEN_EVENT || v->token[id].kind == TOKEN_UNKNOWN);
}

static int compare_text(const void *key, const void *item) { return strcmp(key, *(char *const *)item); }

/* Own token, else what the vocabulary says the code rolls up to, else the nearest ancestor with a token, else UNKNOWN.
 */
static void map_plain(const TokenMap *m, const char *code, int kind, CodeTokens *out) {
    const Vocabulary *v = m->v;
    int id = vocabulary_find(v, code);
    out->mapped = MAPPED_OWN;
    if (kind == KIND_DEATH) id = v->death;
    if (!is_event_token(v, id)) {
        char **rolled = v->n_rollup
                            ? bsearch(code, v->rollup_from, (size_t)v->n_rollup, sizeof *v->rollup_from, compare_text)
                            : NULL;
        if (rolled) id = vocabulary_find(v, v->rollup_to[rolled - v->rollup_from]);
        char here[1024], up[1024];
        snprintf(here, sizeof here, "%s", code);
        for (int step = 0; step < CHAIN_MAX && !is_event_token(v, id) && code_parent(m->f, here, up, sizeof up);
             step++) {
            id = vocabulary_find(v, up);
            memcpy(here, up, sizeof here);
        }
        if (!is_event_token(v, id)) id = v->unknown[kind];
        out->mapped = is_event_token(v, id) && v->token[id].kind == TOKEN_EVENT ? MAPPED_ROLLED_UP : MAPPED_UNKNOWN;
    }
    out->plain = id;
}

static void map_detection_limits(const Vocabulary *v, const char *code, CodeTokens *out) {
    char text[1100];
    for (int side = 0; side < 2; side++) {
        const char *name = side ? "GT" : "LT";
        int id;
        if (v->separate_values) {
            id = vocabulary_find(v, name);
            if (id >= 0 && v->token[id].kind != TOKEN_VALUE) id = -1;
        } else {
            snprintf(text, sizeof text, "%s=%s", code, name);
            id = vocabulary_find(v, text);
            if (!is_event_token(v, id)) id = -1;
        }
        *(side ? &out->gt : &out->lt) = id;
    }
}

/* Edge lists of the code in the units this file has, with the token of every level. */
static Status map_values(const TokenMap *m, const char *code, CodeTokens *out, const int *first_token) {
    const Vocabulary *v = m->v;
    for (int64_t u = 0; u < m->f->n_units; u++) {
        const VocabEdges *e = vocabulary_edges(v, code, m->f->units[u]);
        if (!e) continue;
        out->unit = xrealloc(out->unit, (size_t)(out->n_units + 1) * sizeof *out->unit);
        UnitLevels *l = &out->unit[out->n_units++];
        *l = (UnitLevels){(uint16_t)u, e, xcalloc((size_t)e->n + 1, sizeof *l->token),
                          xcalloc((size_t)e->n + 1, sizeof *l->seen)};
        for (int k = 0; k <= e->n; k++) {
            char name[16];
            snprintf(name, sizeof name, "Q%d", k + 1);
            /* Parsing has seen to it that the levels of an edge list are all there. */
            l->token[k] = v->separate_values ? vocabulary_find(v, name) : first_token[e - v->edges] + k;
            REQUIRE(l->token[k] >= 0 && l->token[k] < v->n);
        }
    }
    return OK;
}

static Status map_static(TokenMap *m, int64_t code, Err *err) {
    const Vocabulary *v = m->v;
    const char *text = m->f->codes[code];
    m->static_column[code] = -1;
    for (int s = 0; s < v->n_static; s++) {
        size_t n = strlen(v->static_name[s]);
        if (strncmp(text, v->static_name[s], n) || strncmp(text + n, "//", 2)) continue;
        int id = vocabulary_find(v, text);
        if (id < 0 || v->token[id].kind != TOKEN_STATIC) id = m->static_unknown[s];
        if (id < 0)
            return err_set(err, ERR_FORMAT, "%s: the vocabulary has neither a token %s nor %s//UNKNOWN", m->f->path,
                           text, v->static_name[s]);
        m->static_column[code] = s;
        m->static_token[code] = id;
    }
    return OK;
}

Status token_map_open(TokenMap *m, const Vocabulary *v, const EventFile *f, Err *err) {
    *m = (TokenMap){.v = v, .f = f};
    size_t n = (size_t)f->n_codes;
    m->code = xcalloc(n, sizeof *m->code);
    m->static_column = xcalloc(n, sizeof *m->static_column);
    m->static_token = xcalloc(n, sizeof *m->static_token);
    m->static_unknown = xcalloc((size_t)v->n_static, sizeof *m->static_unknown);
    Status status = OK;
    for (int s = 0; s < v->n_static; s++) {
        char text[128];
        snprintf(text, sizeof text, "%s//UNKNOWN", v->static_name[s]);
        m->static_unknown[s] = vocabulary_find(v, text);
        if (m->static_unknown[s] >= 0 && v->token[m->static_unknown[s]].kind != TOKEN_STATIC) m->static_unknown[s] = -1;
    }
    /* Tokens of one edge list are consecutive: the vocabulary is ordered by (code, unit, level). */
    int *first_token = xcalloc((size_t)v->n_edges + 1, sizeof *first_token);
    for (int id = 0; id < v->n; id++)
        if (v->token[id].kind == TOKEN_EVENT && v->token[id].level == 1) {
            const VocabEdges *e = vocabulary_edges(v, v->token[id].base, v->token[id].unit);
            if (e) first_token[e - v->edges] = id;
        }
    for (size_t c = 0; c < n && !status; c++) {
        CodeTokens *t = &m->code[c];
        int kind = f->code_kind[c];
        *t = (CodeTokens){.plain = -1, .lt = -1, .gt = -1};
        m->static_column[c] = -1;
        if (kind == KIND_STATIC) {
            status = map_static(m, (int64_t)c, err);
        } else if (kind != KIND_BIRTH) {
            map_plain(m, f->codes[c], kind, t);
            if (kind != KIND_DEATH && (!v->separate_values || t->mapped == MAPPED_OWN)) {
                map_detection_limits(v, f->codes[c], t);
                status = map_values(m, f->codes[c], t, first_token);
            }
        }
    }
    free(first_token);
    if (status) token_map_close(m);
    return status;
}

void token_map_close(TokenMap *m) {
    for (int64_t c = 0; m->code && c < m->f->n_codes; c++) {
        for (int u = 0; u < m->code[c].n_units; u++) {
            free(m->code[c].unit[u].token);
            free(m->code[c].unit[u].seen);
        }
        free(m->code[c].unit);
    }
    free(m->code);
    free(m->static_column);
    free(m->static_token);
    free(m->static_unknown);
    *m = (TokenMap){0};
}

void token_map_add_seen(TokenMap *m, const TokenMap *other) {
    for (int64_t c = 0; c < m->f->n_codes; c++)
        for (int u = 0; u < m->code[c].n_units; u++)
            for (int k = 0; k <= m->code[c].unit[u].edges->n; k++)
                m->code[c].unit[u].seen[k] += other->code[c].unit[u].seen[k];
}

/* ---- one patient
 * ------------------------------------------------------------------------------------------------------- */

void timeline_init(Timeline *t, const Vocabulary *v) {
    *t = (Timeline){.statics = xcalloc((size_t)v->n_static + 1, sizeof *t->statics)};
}

void timeline_free(Timeline *t) {
    free(t->tokens);
    free(t->minutes);
    free(t->logp);
    free(t->statics);
    *t = (Timeline){0};
}

static Status put(Timeline *t, int32_t token, int32_t minute, float logp, Err *err) {
    if (t->n == t->capacity) {
        int64_t capacity = 2 * t->capacity + 1024;
        t->tokens = xrealloc(t->tokens, (size_t)capacity * sizeof *t->tokens);
        t->minutes = xrealloc(t->minutes, (size_t)capacity * sizeof *t->minutes);
        t->logp = xrealloc(t->logp, (size_t)capacity * sizeof *t->logp);
        t->capacity = capacity;
    }
    if (t->n == INT32_MAX) return err_set(err, ERR_FORMAT, "a patient has more than 2,147,483,647 tokens");
    t->tokens[t->n] = (uint32_t)token;
    t->minutes[t->n] = minute;
    t->logp[t->n++] = logp;
    return OK;
}

/* The value token of an event, -1: its value is not told.  A detection limit without a token of its own counts as the
 * value next to it: "< 5" as 5, which stays low, "> 5" as just above 5. */
static int32_t value_token(CodeTokens *c, const Event *e) {
    int below = e->comparator == COMPARE_LT || e->comparator == COMPARE_LE;
    int above = e->comparator == COMPARE_GT || e->comparator == COMPARE_GE;
    if (below && c->lt >= 0) return c->lt;
    if (above && c->gt >= 0) return c->gt;
    for (int u = 0; u < c->n_units; u++) {
        UnitLevels *l = &c->unit[u];
        if (l->unit != e->unit) continue;
        int level = edges_level(l->edges, e->comparator == COMPARE_GT ? nextafterf(e->value, INFINITY) : e->value);
        l->seen[level - 1]++;
        return l->token[level - 1];
    }
    return -1;
}

/* What the oracle says of one event: log p of its gap tokens, of what happened, of its level. */
typedef struct {
    const float *logp;
    int64_t n;
} EventLogp;

static Status put_event(Timeline *t, TokenMap *m, const Walk *w, const Event *e, EventLogp oracle,
                        TokenizeCounts *counts, Err *err) {
    CodeTokens *c = &m->code[e->code];
    int kind = m->f->code_kind[e->code], bin, mapped = c->mapped;
    int32_t long_gaps = gap_split(w->gap, &bin), previous = w->minute - w->gap;
    int64_t n_gaps = long_gaps + (bin >= 0);
    int32_t value = isnan(e->value) ? -1 : value_token(c, e);
    if (value >= 0 && !m->v->separate_values) mapped = MAPPED_OWN;
    if (c->plain < 0 && (value < 0 || m->v->separate_values))
        return err_set(err, ERR_FORMAT, "the vocabulary has no token for code %s, nor UNKNOWN//%s",
                       m->f->codes[e->code], event_kind_name(kind));
    counts->events[kind]++;
    counts->mapped[kind][mapped]++;
    counts->values += !isnan(e->value);
    counts->leveled += value >= 0;
    int stands = oracle.n == n_gaps + 2 && mapped == MAPPED_OWN;
    if (oracle.logp && !stands) t->floor_broken = 1;
    const float *logp = stands ? oracle.logp : NULL;

    Status status = OK;
    for (int32_t i = 0; i < long_gaps && !status; i++)
        status = put(t, m->v->gap_lo + GAP_BINS, previous + (i + 1) * GAP_MINUTES[GAP_BINS], logp ? *logp++ : NAN, err);
    if (!status && bin >= 0) status = put(t, m->v->gap_lo + bin, w->minute, logp ? *logp++ : NAN, err);
    float what = logp ? logp[0] : NAN, level = logp ? logp[1] : NAN;
    if (status) return status;
    if (value < 0) return put(t, c->plain, w->minute, what + level, err);
    if (!m->v->separate_values) return put(t, value, w->minute, what + level, err);
    status = put(t, c->plain, w->minute, what, err);
    return status ? status : put(t, value, w->minute, level, err);
}

/* The text of an event, between its markers. */
static Status put_note(Timeline *t, TokenMap *m, int64_t note, int32_t minute, TokenizeCounts *counts, Err *err) {
    const Vocabulary *v = m->v;
    const char *text;
    size_t n;
    int whole;
    int64_t before = t->n;
    Status status = OK;
    if (m->note) text = m->note[note].text, n = m->note[note].n;
    else status = event_file_text(m->notes, note, &text, &n, err);
    uint32_t *symbol = status ? NULL : xmalloc(((size_t)v->text_max + 1) * sizeof *symbol);
    int64_t k = status ? 0 : bpe_encode(&v->text, text, n, symbol, v->text_max, &whole);
    if (!status) status = put(t, v->text_begin + TEXT_BEGIN, minute, NAN, err);
    for (int64_t i = 0; i < k && !status; i++)
        status = put(t, v->text_begin + TEXT_FIRST + (int)symbol[i], minute, NAN, err);
    if (!status) status = put(t, v->text_begin + (whole ? TEXT_END : TEXT_CUT), minute, NAN, err);
    free(symbol);
    if (status) return status;
    counts->notes++;
    counts->notes_cut += !whole;
    counts->note_tokens += t->n - before;
    return OK;
}

/* Static tokens of the prefix; the first of several values of a column is taken (they are sorted by code). */
static Status build_statics(Timeline *t, TokenMap *m, const EventPatient *p, int64_t *birth_us, TokenizeCounts *counts,
                            Err *err) {
    const Vocabulary *v = m->v;
    *birth_us = TIME_NONE;
    uint32_t have = 0;
    for (int s = 0; s < v->n_static; s++)
        t->statics[s] = (uint16_t)(m->static_unknown[s] < 0 ? 0 : m->static_unknown[s]);
    for (int64_t i = 0; i < p->n; i++) {
        const Event *e = &p->event[i];
        int kind = m->f->code_kind[e->code], column = m->static_column[e->code];
        if (kind == KIND_BIRTH && *birth_us == TIME_NONE) *birth_us = e->time;
        if (kind != KIND_STATIC) continue;
        if (column < 0) {
            counts->static_unused++;
        } else if (have & 1u << column) {
            counts->static_repeated++;
        } else {
            have |= 1u << column;
            t->statics[column] = (uint16_t)m->static_token[e->code];
            counts->static_unknown += m->static_token[e->code] == m->static_unknown[column];
        }
    }
    for (int s = 0; s < v->n_static; s++) {
        if (have & 1u << s) continue;
        counts->static_unknown++;
        if (m->static_unknown[s] < 0)
            return err_set(err, ERR_FORMAT, "a patient has no %s, and the vocabulary no %s//UNKNOWN", v->static_name[s],
                           v->static_name[s]);
    }
    return OK;
}

/* Whole years at the first event.  A record that passes age 89 has its whole age axis shifted so that it ends at 90. */
static void build_age(Timeline *t, const TokenMap *m, int64_t birth_us, int64_t last_us, TokenizeCounts *counts) {
    const Vocabulary *v = m->v;
    t->last_age_years = NAN;
    t->statics[v->n_static] = AGE_UNKNOWN;
    if (birth_us == TIME_NONE) {
        counts->age_unknown++;
        return;
    }
    double first = ((double)t->origin_us - (double)birth_us) / YEAR_US,
           last = ((double)last_us - (double)birth_us) / YEAR_US;
    if (first < 0) {
        counts->age_negative++;
        last -= first;
        first = 0;
    }
    if (last >= AGE_CAP && !m->synthetic) {
        counts->age_shifted++;
        first = AGE_CAP - (last - first);
        if (first < 0) first = 0;
        last = AGE_CAP;
    }
    t->statics[v->n_static] = (uint16_t)(first < 199 ? first : 199);
    t->last_age_years = last;
}

static int32_t observation_minutes(const Timeline *t, const Walk *w, int64_t observation_end) {
    int32_t last = t->n ? t->minutes[t->n - 1] : 0;
    if (w->dead || observation_end == TIME_NONE || observation_end <= t->origin_us) return last;
    uint64_t minutes = ((uint64_t)observation_end - (uint64_t)t->origin_us) / US_PER_MINUTE;
    if (minutes > INT32_MAX) minutes = INT32_MAX;
    return (int32_t)minutes > last ? (int32_t)minutes : last;
}

Status timeline_build(Timeline *t, TokenMap *m, const EventPatient *p, OracleFile *oracle, int64_t index_us,
                      TokenizeCounts *counts, Err *err) {
    const uint64_t *offset = NULL;
    const float *logp = NULL;
    const Event *e, *last = NULL;
    int64_t birth_us, after_index = -1;
    Walk w;
    t->n = 0;
    t->floor_broken = 0;
    Status status = build_statics(t, m, p, &birth_us, counts, err);
    if (!status && oracle) status = oracle_file_events(oracle, p->first_event, p->n, &offset, &logp, err);
    walk_open(&w, m->f, p);
    while (!status && !(status = walk_next(&w, &e, err)) && e) {
        int64_t i = w.next - 1;
        EventLogp of_event = {offset ? logp + offset[i] : NULL, offset ? (int64_t)(offset[i + 1] - offset[i]) : 0};
        if (after_index < 0 && index_us != TIME_NONE && e->available > index_us) after_index = t->n;
        status = put_event(t, m, &w, e, of_event, counts, err);
        if (!status && e->note && (m->notes || m->note))
            status = put_note(t, m, p->first_note + e->note - 1, w.minute, counts, err);
        last = e;
    }
    if (status) return status;
    for (int64_t i = after_index; i >= 0 && i < t->n; i++) t->logp[i] = NAN;
    counts->after_death += w.n_after_death;
    counts->undated += w.n_undated;
    t->origin_us = w.origin_us;
    REQUIRE(last); /* the cohort keeps patients with a timed event only */
    build_age(t, m, birth_us, last->available, counts);
    t->observation_end = observation_minutes(t, &w, p->observation_end);
    return OK;
}
