/* label_build.c - runs a task over an events file and writes its rows in the terms of a dataset. */
#include "data/label_build.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "data/dataset.h"
#include "data/deidentify_record.h"
#include "data/linkage.h"
#include "data/oracle_file.h"
#include "kernels/philox.h"

/* ---- codes ------------------------------------------------------------------------------------------------------- */

static int matches(const LabelPredicate *p, const char *code) {
    for (int i = 0; i < p->n; i++)
        if (code_matches(code, p->codes[i])) return 1;
    return 0;
}

uint32_t *label_marks(const LabelTask *t, const EventFile *f) {
    uint32_t *mark = xcalloc((size_t)f->n_codes + 1, sizeof *mark);
    for (int64_t c = 0; c < f->n_codes; c++) {
        if (matches(&t->outcome, f->codes[c])) mark[c] |= MARK_OUTCOME;
        if (f->code_kind[c] == KIND_VISIT_START && matches(&t->inpatient, f->codes[c])) mark[c] |= MARK_INPATIENT;
        for (int i = 0; i < t->n_stops; i++)
            if (matches(&t->stop[i], f->codes[c])) mark[c] |= (uint32_t)MARK_STOP << i;
    }
    return mark;
}

static int all_diagnoses(const EventFile *f, const uint32_t *mark) {
    int any = 0;
    for (int64_t c = 0; c < f->n_codes; c++) {
        if (!(mark[c] & MARK_OUTCOME)) continue;
        if (f->code_kind[c] != KIND_DIAGNOSIS) return 0;
        any = 1;
    }
    return any;
}

static int compare_names(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

/* What a code becomes in this vocabulary still is the outcome. */
static uint8_t *expressible_make(const LabelTask *t, const EventFile *f, const Vocabulary *v, const uint32_t *mark) {
    uint8_t *can = xcalloc((size_t)f->n_codes + 1, 1);
    char **base = xmalloc((size_t)(v->n + 1) * sizeof *base);
    size_t n = 0;
    for (int id = 0; id < v->n; id++)
        if (v->token[id].kind == TOKEN_EVENT) base[n++] = v->token[id].base;
    qsort(base, n, sizeof *base, compare_names);
    for (int64_t c = 0; c < f->n_codes; c++) {
        if (!(mark[c] & MARK_OUTCOME)) continue;
        can[c] = bsearch(&f->codes[c], base, n, sizeof *base, compare_names) != NULL;
        char **up = can[c] || !v->n_rollup
                        ? NULL
                        : bsearch(&f->codes[c], v->rollup_from, (size_t)v->n_rollup, sizeof *up, compare_names);
        if (up) can[c] = (uint8_t)matches(&t->outcome, v->rollup_to[up - v->rollup_from]);
    }
    free(base);
    return can;
}

/* Whether the values of a level, lo < v <= hi, are within the bounds.  One that ends at the bound itself passes, as the
 * nearest that these edges can tell, unless the bound is all that it holds. */
static int level_within(const LabelPredicate *p, double lo, double hi) {
    return lo >= p->above && hi <= p->below && (double)nextafterf((float)lo, INFINITY) < p->below;
}

static int token_within(const LabelPredicate *p, const VocabToken *token) {
    return token->kind == TOKEN_EVENT && token->level > 0 && matches(p, token->base) &&
           (!p->unit[0] || !strcmp(p->unit, token->unit)) && level_within(p, token->lo, token->hi);
}

/* A result beyond what the test can measure lies within the bounds where the level does that is open on its side. */
static int limit_within(const LabelPredicate *p, const Vocabulary *v, const VocabToken *limit) {
    if (limit->kind != TOKEN_EVENT || limit->level >= 0 || !matches(p, limit->base)) return 0;
    for (int id = 0; id < v->n; id++) {
        const VocabToken *token = &v->token[id];
        if (isinf(limit->level == LEVEL_LT ? token->lo : token->hi) && token_within(p, token) && !strcmp(token->base, limit->base)) return 1;
    }
    return 0;
}

/* Appends the code patterns that `risk` looks for; of bounded values, the tokens of what lies within the bounds. */
static void codes_append(const LabelPredicate *p, const Vocabulary *v, json_t *list) {
    for (int i = 0; !p->bounded && i < p->n; i++) json_array_append_new(list, json_string(p->codes[i]));
    for (int id = 0; p->bounded && id < v->n; id++)
        if (token_within(p, &v->token[id]) || limit_within(p, v, &v->token[id]))
            json_array_append_new(list, json_string(v->token[id].code));
}

static json_t *outcome_codes(const LabelTask *t, const Vocabulary *v) {
    json_t *list = json_array();
    if (t->kind != LABEL_DURATION) codes_append(&t->outcome, v, list);
    return list;
}

/* NULL: a stop with bounds has no level within them, and no simulated future would ever end there. */
static json_t *stop_codes(const LabelTask *t, const Dataset *d, Err *err) {
    json_t *list = json_array();
    for (int i = 0; i < t->n_stops; i++) {
        const size_t before = json_array_size(list);
        codes_append(&t->stop[i], &d->vocabulary, list);
        if (json_array_size(list) > before) continue;
        err_set(err, ERR_USAGE, "task %s: a stop asks for %s within bounds that hold no level of %s: change its bounds, or tokenise "
                "with --edges that hold them", t->name, t->stop[i].codes[0], d->path);
        json_decref(list);
        return NULL;
    }
    if (t->until_discharge) json_array_append_new(list, json_string("VISIT_END"));
    return list;
}

static double distance_to_bounds(const LabelTask *t, double edge) {
    double above = isfinite(t->outcome.above) ? fabs(edge - t->outcome.above) : INFINITY;
    double below = isfinite(t->outcome.below) ? fabs(edge - t->outcome.below) : INFINITY;
    return above < below ? above : below;
}

/* "8, 9.3, 10.4 g/dL": the edges of the first code of the outcome that has any; 0 = none has. */
static int nearest_edges(const LabelTask *t, const Vocabulary *v, char *out, size_t size) {
    enum { SHOWN = 4 };
    double edge[SHOWN];
    const char *base = NULL, *unit = "";
    int n = 0;
    for (int id = 0; id < v->n; id++) {
        const VocabToken *token = &v->token[id];
        if (token->kind != TOKEN_EVENT || !token->level || !isfinite(token->hi) || !matches(&t->outcome, token->base))
            continue;
        if (base && (strcmp(base, token->base) || strcmp(unit, token->unit))) continue;
        base = token->base;
        unit = token->unit;
        int at = n < SHOWN ? n++ : SHOWN;
        while (at > 0 && distance_to_bounds(t, edge[at - 1]) > distance_to_bounds(t, token->hi)) {
            if (at < SHOWN) edge[at] = edge[at - 1];
            at--;
        }
        if (at < SHOWN) edge[at] = token->hi;
    }
    size_t used = 0;
    for (int i = 0; i < n && used < size; i++)
        used += (size_t)snprintf(out + used, size - used, "%s%g", i ? ", " : "", edge[i]);
    if (n && used < size) snprintf(out + used, size - used, " %s", unit);
    return n;
}

/* An outcome that no token can express would always get risk 0. */
static Status expressible_check(const LabelTask *t, const Dataset *d, json_t *codes, Err *err) {
    if (t->kind == LABEL_DURATION) return OK;
    const Vocabulary *v = &d->vocabulary;
    uint32_t *mark = xcalloc((size_t)v->n, sizeof *mark);
    size_t n = json_array_size(codes);
    const char **pattern = xmalloc((n + 1) * sizeof *pattern);
    for (size_t i = 0; i < n; i++) pattern[i] = json_string_value(json_array_get(codes, i));
    int found = vocabulary_match(v, pattern, (int)n, 1, mark);
    free(pattern);
    free(mark);
    if (found) return OK;
    char near[400];
    if (t->outcome.bounded && nearest_edges(t, v, near, sizeof near))
        return err_set(err, ERR_USAGE,
                       "task %s: no level of %s lies within the bounds, so no token of %s can express it; its edges "
                       "nearest to them: %s; take one of these, or tokenise with --edges that hold yours",
                       t->name, t->outcome.codes[0], d->path, near);
    vocabulary_nearest(v, t->outcome.codes[0], near, sizeof near);
    return err_set(err, ERR_USAGE, "task %s: no token of %s can express %s%s%s; nearest codes: %s", t->name, d->path,
                   t->outcome.codes[0], t->outcome.n > 1 ? " ..." : "",
                   t->outcome.bounded ? " with levels (separate values have none of their own)" : "", near);
}

/* Right where a task names what other sites call it, a mistake where it was meant: told, not refused. */
static void unmet_find(const LabelTask *t, const EventFile *f, const Vocabulary *v, char *out, size_t size) {
    uint32_t *mark = xcalloc((size_t)v->n, sizeof *mark);
    size_t used = 0;
    for (int k = -1; k < t->n_stops; k++) {
        const LabelPredicate *p = k < 0 ? &t->outcome : &t->stop[k];
        for (int i = 0; i < p->n && used < size; i++) {
            int met = vocabulary_match(v, (const char *const *)&p->codes[i], 1, 1, mark) > 0;
            for (int64_t c = 0; c < f->n_codes && !met; c++) met = code_matches(f->codes[c], p->codes[i]);
            if (!met) used += (size_t)snprintf(out + used, size - used, "%s%s", used ? ", " : "", p->codes[i]);
        }
    }
    free(mark);
}

/* ---- the oracle -------------------------------------------------------------------------------------------------- */

/* The stored outcome that this task asks for: same codes of this file, same horizon; -1 = none. */
static int oracle_outcome(const LabelTask *t, const EventFile *f, const OracleFile *oracle, const uint32_t *mark) {
    if (t->index != INDEX_ORACLE || t->kind != LABEL_EVENT || t->outcome.bounded || t->n_stops || t->after_minutes) return -1;
    for (int k = 0; k < oracle->n_outcomes; k++) {
        int same = oracle->outcome[k].horizon_minutes == t->horizon_minutes;
        for (int64_t c = 0; same && c < f->n_codes; c++)
            same = code_matches(f->codes[c], oracle->outcome[k].pattern) == !!(mark[c] & MARK_OUTCOME);
        if (same) return k;
    }
    return -1;
}

/* ---- the run ----------------------------------------------------------------------------------------------------- */

typedef struct {
    LabelTask *t;
    const LabelOptions *o;
    EventFile f;
    Dataset d;
    Linkage link;
    OracleFile oracle;
    int has_oracle, oracle_k, is_release;
    uint32_t *mark;
    uint8_t *can;
    LabelCounts *counts;
    MedsLabels meds;
    LabelRow *row; /* of all patients, with where they belong */
    int64_t *at, *patient, n, room;
} Run;

/* Whether the level of the outcome event's value lies wholly within the bounds. */
static int level_expressible(const Run *r, const LabelRow *row) {
    const LabelPredicate *p = &r->t->outcome;
    const VocabEdges *e = vocabulary_edges(&r->d.vocabulary, r->f.codes[row->event_code], r->f.units[row->event_unit]);
    if (!e) return 0;
    int level = edges_level(e, row->event_value);
    double lo = level > 1 ? e->edge[level - 2] : -INFINITY, hi = level <= e->n ? e->edge[level - 1] : INFINITY;
    return level_within(p, lo, hi);
}

static int expressible(const Run *r, const LabelRow *row) {
    if (r->t->kind == LABEL_DURATION) return 1;
    if (isnan(row->event_minutes)) return 0; /* positive by a label file; the task sees no event */
    return r->can[row->event_code] && (!r->t->outcome.bounded || level_expressible(r, row));
}

static void count_row(Run *r, const LabelRow *row) {
    r->counts->eligible++;
    r->counts->positive += row->outcome == 1;
    r->counts->negative += row->outcome == 0;
    r->counts->censored += row->outcome < 0;
    if (row->outcome == 1) r->counts->expressible += expressible(r, row);
}

static void keep_rows(Run *r, const LabelRow *row, int64_t n, int64_t link, int64_t patient) {
    int64_t first = 0;
    if (r->o->one_per_patient && n > 1) { /* any of them, chosen by the patient's key */
        first = (int64_t)(philox_mix(r->link.key[link], philox_hash("one per patient")) % (uint64_t)n);
        n = first + 1;
    }
    for (int64_t i = first; i < n; i++) {
        if (r->n == r->room) {
            r->room = r->room ? 2 * r->room : 1024;
            r->row = xrealloc(r->row, (size_t)r->room * sizeof *r->row);
            r->at = xrealloc(r->at, (size_t)r->room * sizeof *r->at);
            r->patient = xrealloc(r->patient, (size_t)r->room * sizeof *r->patient);
        }
        r->row[r->n] = row[i];
        r->at[r->n] = link;
        r->patient[r->n++] = patient;
        count_row(r, &row[i]);
    }
}

/* Outcomes that the label file gives stand; the task's own judgement is compared with them. */
static void give_outcomes(Run *r, LabelRow *row, int64_t n, const LabelRecord *record) {
    for (int64_t i = 0; i < n; i++)
        for (int64_t k = 0; k < record->n_labels; k++) {
            int outcome = record->label[k].outcome;
            if (record->label[k].index_us != row[i].index_us || outcome < 0) continue;
            r->counts->given++;
            r->counts->differ += row[i].outcome >= 0 && row[i].outcome != outcome;
            row[i].outcome = outcome;
            if (!outcome) row[i].event_minutes = NAN;
        }
}

static int64_t death_of(const Run *r, const EventPatient *p) {
    for (int64_t i = 0; i < p->n; i++)
        if (r->f.code_kind[p->event[i].code] == KIND_DEATH && p->event[i].time != TIME_NONE)
            return p->event[i].available;
    return TIME_NONE;
}

/* The latest end of observation in the file.  A release has no calendar: there everybody's own end counts, which must
 * not be the death. */
static Status last_day(Run *r, int64_t *out, Err *err) {
    int64_t dead = 0, end_with_death = 0;
    *out = TIME_NONE;
    for (int64_t i = 0; r->t->index == INDEX_LAST_YEAR && i < r->f.n_patients; i++) {
        EventPatient p;
        Status s = event_file_patient(&r->f, i, &p, err);
        if (s) return s;
        int64_t end = p.observation_end != TIME_NONE || !p.n ? p.observation_end : p.event[p.n - 1].available;
        int64_t death = death_of(r, &p);
        if (end > *out) *out = end;
        dead += death != TIME_NONE;
        end_with_death += death != TIME_NONE && (end < death || (uint64_t)end - (uint64_t)death < US_PER_DAY);
    }
    int about_death = 0;
    for (int64_t c = 0; c < r->f.n_codes; c++)
        about_death |= r->f.code_kind[c] == KIND_DEATH && r->mark[c] & MARK_OUTCOME;
    if (!r->is_release || !about_death || 2 * end_with_death <= dead) return OK;
    return err_set(
        err, ERR_USAGE,
        "task %s: the index last-year needs to know until when the dead would have been observed, and in the "
        "release %s records of the dead end with them: it would find no death; give --index discharge, "
        "visit-end, admission+24h or age:65",
        r->t->name, r->f.path);
}

static Status patients_label(Run *r, Err *err) {
    LabelRow *row = NULL;
    int64_t room = 0, last;
    Status s = last_day(r, &last, err);
    Progress bar;
    progress_open(&bar, r->o->progress, "label", "patients", r->f.n_patients);
    for (int64_t i = 0; !s && i < r->f.n_patients; i++) {
        EventPatient p;
        s = event_file_patient(&r->f, i, &p, err);
        int64_t link = s ? -1 : linkage_find(&r->link, p.subject);
        progress_update(&bar, i + 1);
        if (link < 0 || (r->o->split >= 0 && r->link.split[link] != r->o->split)) continue;
        LabelRecord record = {r->link.origin[link], r->has_oracle ? r->oracle.index[i] : TIME_NONE, last, NULL, 0};
        if (r->o->meds && !(record.label = meds_labels_find(&r->meds, p.subject, &record.n_labels))) continue;
        r->counts->unplaced -= record.n_labels;
        if (r->is_release) record.last_us = p.observation_end;
        /* Only held-out oracle records go on past their index. */
        if (r->t->index == INDEX_ORACLE && r->link.split[link] != SPLIT_HELD_OUT) record.oracle_us = TIME_NONE;
        int64_t n = label_patient(r->t, &r->f, r->mark, &p, &record, &row, &room, r->counts);
        give_outcomes(r, row, n, &record);
        keep_rows(r, row, n, link, i);
    }
    progress_close(&bar, r->f.n_patients);
    free(row);
    return s;
}

static Status rows_write(const Run *r, Table *out, Err *err) {
    table_init(out, r->n);
    uint64_t *key = table_add(out, "patient_key", COLUMN_U64);
    int64_t *split = table_add(out, "split", COLUMN_I64), *row = table_add(out, "patient_row", COLUMN_I64);
    int64_t *index = table_add(out, "index_minutes", COLUMN_I64), *outcome = table_add(out, "outcome", COLUMN_I64);
    double *event = table_add(out, "event_minutes", COLUMN_F64), *censor = table_add(out, "censor_minutes", COLUMN_F64);
    double *death = table_add(out, "death_minutes", COLUMN_F64);
    double *risk = r->has_oracle ? table_add(out, "true_risk", COLUMN_F64) : NULL;
    double *se = r->has_oracle ? table_add(out, "true_risk_se", COLUMN_F64) : NULL;
    for (int64_t i = 0; i < r->n; i++) {
        int64_t link = r->at[i];
        const LabelRow *x = &r->row[i];
        key[i] = r->link.key[link];
        split[i] = r->link.split[link];
        row[i] = r->link.row[link];
        index[i] = (x->index_us - r->link.origin[link]) / US_PER_MINUTE;
        outcome[i] = x->outcome;
        event[i] = x->event_minutes;
        censor[i] = x->censor_minutes;
        death[i] = x->death_minutes;
        if (split[i] < 0 || split[i] >= SPLIT_COUNT || row[i] < 0 || row[i] >= r->d.n_patients[split[i]] ||
            index[i] > INT32_MAX)
            return err_set(err, ERR_FORMAT, "the linkage names row %lld of split %lld, which %s does not have",
                           (long long)row[i], (long long)split[i], r->d.path);
        if (!risk) continue;
        const double *p =
            r->oracle_k < 0 ? NULL : r->oracle.risk + (r->patient[i] * r->oracle.n_outcomes + r->oracle_k) * 2;
        risk[i] = p ? p[0] : NAN;
        se[i] = p ? p[1] : NAN;
    }
    return OK;
}

static void counts_write(const LabelCounts *c, Table *out) {
    json_t *o = json_pack("{s:I, s:I, s:I, s:I, s:I, s:f}", "patients", (json_int_t)c->patients, "eligible",
                          (json_int_t)c->eligible, "positive", (json_int_t)c->positive, "negative",
                          (json_int_t)c->negative, "censored", (json_int_t)c->censored, "expressible",
                          c->positive ? (double)c->expressible / (double)c->positive : 1.0);
    json_t *excluded = json_object();
    for (int i = 0; i < EXCLUSIONS; i++)
        json_object_set_new(excluded, EXCLUSION_NAME[i], json_integer((json_int_t)c->excluded[i]));
    json_object_set_new(o, "excluded", excluded);
    if (c->labels) {
        json_object_set_new(o, "labels", json_integer((json_int_t)c->labels));
        json_object_set_new(o, "given", json_integer((json_int_t)c->given));
        json_object_set_new(o, "differ", json_integer((json_int_t)c->differ));
    }
    char *text = json_dumps(o, 0);
    table_set(out, "counts", text);
    free(text);
    json_decref(o);
}

static void set_json(Table *out, const char *name, json_t *value) {
    char *text = json_dumps(value, 0);
    REQUIRE(text);
    table_set(out, name, text);
    free(text);
}

static void attributes_write(const Run *r, json_t *codes, json_t *stops, Table *out) {
    char *task = label_task_format(r->t), minutes[32];
    snprintf(minutes, sizeof minutes, "%lld", (long long)r->t->horizon_minutes);
    table_set(out, "name", r->t->name);
    table_set(out, "task", task);
    set_json(out, "outcome_codes", codes);
    set_json(out, "stop_codes", stops);
    table_set(out, "horizon_minutes", minutes);
    if (r->t->after_minutes && r->t->kind != LABEL_DURATION) {
        snprintf(minutes, sizeof minutes, "%lld", (long long)r->t->after_minutes);
        table_set(out, "after_minutes", minutes);
        table_set(out, "after_ends", r->t->first ? "yes" : "no");
    }
    table_set(out, "dataset_sha256", r->d.sha256);
    table_set(out, "vocabulary_sha256", r->d.vocabulary.sha256);
    counts_write(r->counts, out);
    free(task);
}

static Status run_open(Run *r, Err *err) {
    Status s = event_file_open(&r->f, r->o->events, err);
    if (s) return s;
    s = dataset_open(&r->d, r->o->dataset, err);
    if (!s) s = linkage_open(&r->link, r->o->linkage, r->o->events, r->d.sha256, r->d.path, err);
    r->has_oracle = !s && oracle_file_present(r->o->events);
    if (r->has_oracle) s = oracle_file_open(&r->oracle, r->o->events, r->f.n_patients, r->f.n_events, err);
    if (!s && r->t->index == INDEX_ORACLE && !r->has_oracle)
        s = err_set(err, ERR_USAGE, "--index oracle: %s is no oracle cohort; give another --index", r->o->events);
    if (!s && r->t->index == INDEX_FILE && !r->o->meds)
        s = err_set(err, ERR_USAGE, "task %s: its index times are in a label file: give --meds LABELS.csv", r->t->name);
    if (!s && r->o->meds) s = meds_labels_read(&r->meds, r->o->meds, r->o->release_linkage, err);
    if (!s && r->o->meds && !r->meds.n)
        s = err_set(err, ERR_FORMAT, "%s has no label of a subject that is known here", r->o->meds);
    if (!s && r->t->index == INDEX_LAST_YEAR && !strcmp(r->f.source, "mimic"))
        s = err_set(
            err, ERR_USAGE,
            "task %s: the index last-year looks at everybody a year before the calendar of the whole file ends, and "
            "the dates of %s are shifted by patient; give --index discharge, visit-end, admission+24h or age:65",
            r->t->name, r->f.path);
    if (s) return s;
    json_t *record = deidentify_record_of(&r->f);
    r->is_release = record != NULL;
    json_decref(record);
    if (r->is_release && r->t->day_end)
        return err_set(err, ERR_USAGE,
                       "task %s: its index is the end of a day, and the release %s has no calendar, its times count from "
                       "each record's first event; give --index %s, or label times of your own with --meds and "
                       "--release-linkage",
                       r->t->name, r->f.path, r->t->index == INDEX_ADMISSION ? "admission+24h" : "discharge");
    r->mark = label_marks(r->t, &r->f);
    if (r->t->first < 0 && r->meds.with_outcomes) r->t->first = 0; /* whoever made the labels has chosen */
    if (r->t->first < 0) r->t->first = all_diagnoses(&r->f, r->mark);
    r->counts->labels = r->meds.n;
    r->counts->unplaced = r->meds.n; /* less those that are met */
    r->can = expressible_make(r->t, &r->f, &r->d.vocabulary, r->mark);
    r->oracle_k = r->has_oracle ? oracle_outcome(r->t, &r->f, &r->oracle, r->mark) : -1;
    return OK;
}

static void run_close(Run *r) {
    oracle_file_close(&r->oracle);
    linkage_close(&r->link);
    meds_labels_free(&r->meds);
    if (r->d.path) dataset_close(&r->d);
    if (r->f.path) event_file_close(&r->f);
    free(r->mark);
    free(r->can);
    free(r->row);
    free(r->at);
    free(r->patient);
}

Status label_build(Table *out, LabelTask *t, const LabelOptions *o, LabelCounts *counts, Err *err) {
    Run r = {.t = t, .o = o, .counts = counts};
    memset(counts, 0, sizeof *counts);
    table_init(out, 0);
    Status s = run_open(&r, err);
    json_t *codes = s ? NULL : outcome_codes(t, &r.d.vocabulary), *stops = NULL;
    if (!s) s = expressible_check(t, &r.d, codes, err);
    if (!s && !(stops = stop_codes(t, &r.d, err))) s = ERR_USAGE;
    if (!s) unmet_find(t, &r.f, &r.d.vocabulary, counts->unmet, sizeof counts->unmet);
    if (!s) s = patients_label(&r, err);
    if (!s) {
        table_free(out);
        s = rows_write(&r, out, err);
    }
    if (!s) attributes_write(&r, codes, stops, out);
    if (s) table_free(out);
    json_decref(codes);
    json_decref(stops);
    run_close(&r);
    return s;
}
