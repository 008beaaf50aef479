/* oracle_synth.c - draws a cohort from the law and dresses it as records: dates, clock times, values.
 *
 * What is drawn are tokens; times and values are put on afterwards from a stream of their own, in a way that tokenising
 * them gives the tokens back.  Every stream is keyed by (seed, subject), so threads and order change nothing. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "data/oracle_cohort.h"
#include "data/oracle_file.h"
#include "kernels/philox.h"

enum { STREAM_PREFIX, STREAM_LAW, STREAM_STOP, STREAM_GAPS, STREAM_DRESS };
enum { BLOCK = 2048, CAP_SLACK = 8, FOLLOW_UP_MINUTES = 730 * 1440 };
static const double STOP = 0.06; /* rule 11 */
static const int64_t SORT_MEMORY = 256ll << 20;

static OracleRng stream(const OracleCohortOptions *o, int64_t subject, int which) {
    OracleRng r;
    oracle_rng_init(&r, philox_mix(o->seed, (uint64_t)subject), (uint64_t)which);
    return r;
}

/* ---- splits ------------------------------------------------------------------------------------------------------ */

typedef struct {
    uint64_t hash;
    int64_t row;
} Ranked;

static int compare_ranked(const void *a, const void *b) {
    const Ranked *x = a, *y = b;
    if (x->hash != y->hash) return x->hash < y->hash ? -1 : 1;
    return x->row < y->row ? -1 : x->row > y->row;
}

void oracle_split(const OracleCohortOptions *o, uint8_t *split) {
    Ranked *rank = xmalloc((size_t)o->patients * sizeof *rank);
    uint64_t key = philox_mix(o->seed, philox_hash("oracle split"));
    for (int64_t i = 0; i < o->patients; i++) rank[i] = (Ranked){philox_mix(key, (uint64_t)(i + 1)), i};
    qsort(rank, (size_t)o->patients, sizeof *rank, compare_ranked);
    int64_t tenth = o->patients < 3 ? 0 : o->patients < 10 ? 1 : o->patients / 10;
    for (int64_t i = 0; i < o->patients; i++)
        split[rank[i].row] = i < tenth ? SPLIT_HELD_OUT : i < 2 * tenth ? SPLIT_TUNING : SPLIT_TRAIN;
    free(rank);
}

/* ---- one record -------------------------------------------------------------------------------------------------- */

static int categorical(double u, double (*share)(int), int n) {
    int k = 0;
    while (k < n - 1 && u >= share(k)) u -= share(k++);
    return k;
}

static void record_push(OracleRecord *r, int what, int level, double p_what, double p_level, int32_t minute) {
    if (r->n == r->room) {
        r->room = r->room ? 2 * r->room : 512;
        size_t n = (size_t)r->room;
        r->what = xrealloc(r->what, n);
        r->level = xrealloc(r->level, n);
        r->logp_what = xrealloc(r->logp_what, n * sizeof *r->logp_what);
        r->logp_level = xrealloc(r->logp_level, n * sizeof *r->logp_level);
        r->minute = xrealloc(r->minute, n * sizeof *r->minute);
    }
    r->what[r->n] = (uint8_t)what;
    r->level[r->n] = (uint8_t)level;
    r->logp_what[r->n] = (float)log(p_what);
    r->logp_level[r->n] = level ? (float)log(p_level) : 0;
    r->minute[r->n++] = minute;
}

void oracle_record_draw(OracleRecord *r, const OracleCohortOptions *o, int64_t subject, int split) {
    OracleRng prefix = stream(o, subject, STREAM_PREFIX), law = stream(o, subject, STREAM_LAW);
    OracleRng stop = stream(o, subject, STREAM_STOP), gaps = stream(o, subject, STREAM_GAPS);
    r->split = split;
    r->n = 0;
    r->index = -1;
    r->sex = categorical(oracle_rng_uniform(&prefix), oracle_sex_share, ORACLE_SEXES);
    r->race = categorical(oracle_rng_uniform(&prefix), oracle_race_share, ORACLE_RACES);
    r->age_bin = categorical(oracle_rng_uniform(&prefix), oracle_age_share, ORACLE_AGES);
    for (int k = 0; k < ORACLE_OUTCOMES; k++) r->risk[k][0] = r->risk[k][1] = NAN;
    OracleState s;
    oracle_start(&s, r->sex, r->race, r->age_bin);
    for (int32_t t = -1;;) {
        double p, p_level = 1;
        int what = oracle_what_draw(&s, oracle_rng_uniform(&law), &p), level = 0;
        if (oracle_is_lab(what)) level = oracle_level_draw(&s, what - ORACLE_LAB, oracle_rng_uniform(&law), &p_level);
        if (oracle_is_gap(what)) t += oracle_gap_draw(what, &gaps);
        else if (!s.after_gap) t++;
        record_push(r, what, level, p, p_level, t);
        oracle_feed(&s, what, level);
        if (what == ORACLE_DEATH) break;
        if (r->index >= 0) {
            if (what == ORACLE_VISIT_END && t > r->minute[r->index] + FOLLOW_UP_MINUTES) break;
        } else if (what == ORACLE_VISIT_END && oracle_rng_uniform(&stop) < STOP) {
            r->index = r->n - 1;
            if (split != SPLIT_HELD_OUT) break;
        } else if (!oracle_is_gap(what) && r->n >= o->max_tokens - CAP_SLACK) {
            break; /* decided at events, a little early: a record must not end on a gap that nothing ends */
        }
    }
}

void oracle_record_free(OracleRecord *r) {
    free(r->what);
    free(r->level);
    free(r->logp_what);
    free(r->logp_level);
    free(r->minute);
    memset(r, 0, sizeof *r);
}

void oracle_state_risks(const OracleState *at, const uint8_t *seen, uint64_t history, const OracleCohortOptions *o,
                        double risk[ORACLE_OUTCOMES][2]) {
    for (int k = 0; k < ORACLE_OUTCOMES; k++) {
        const OracleOutcome *outcome = &ORACLE_OUTCOME[k];
        uint8_t mark[ORACLE_WHATS];
        int had = 0;
        risk[k][0] = risk[k][1] = NAN;
        oracle_outcome_mark(outcome, mark);
        for (int w = 0; w < ORACLE_WHATS; w++) had |= mark[w] && seen[w];
        if (at->mode == ORACLE_MODE_DEAD || (outcome->first && had) ||
            (outcome->after_inpatient && !at->last_inpatient))
            continue;
        uint64_t key = philox_mix(philox_mix(o->seed, history), philox_hash(outcome->name));
        oracle_risk(at, mark, outcome->horizon_minutes, (int)o->risk_samples, key, &risk[k][0], &risk[k][1]);
    }
}

void oracle_record_risks(OracleRecord *r, const OracleCohortOptions *o) {
    uint8_t seen[ORACLE_WHATS] = {0};
    uint64_t history = oracle_history_prefix(r->sex, r->race, r->age_bin);
    OracleState s;
    oracle_start(&s, r->sex, r->race, r->age_bin);
    for (int64_t i = 0; i <= r->index; i++) {
        oracle_feed(&s, r->what[i], r->level[i]);
        history = oracle_history_step(history, r->what[i], r->level[i]);
        seen[r->what[i]] = 1;
    }
    oracle_state_risks(&s, seen, history, o, r->risk);
}

/* ---- the events file --------------------------------------------------------------------------------------------- */

typedef struct {
    EventWriter *w;
    uint32_t code[ORACLE_WHATS], sex[ORACLE_SEXES], race[ORACLE_RACES], birth;
    uint16_t unit[ORACLE_WHATS];
    uint8_t *count;
    float *logp;
    int64_t n_count, room_count, n_logp, room_logp;
    int64_t *index;
    double *risk;
} CohortFile;

static Status codes_intern(CohortFile *c, Err *err) {
    Status s = event_writer_code(c->w, "MEDS_BIRTH", KIND_BIRTH, "Birth", NULL, &c->birth, err);
    static const char *const sex_name[] = {"Female", "Male"};
    for (int i = 0; !s && i < ORACLE_SEXES; i++)
        s = event_writer_code(c->w, oracle_sex_code(i), KIND_STATIC, sex_name[i], NULL, &c->sex[i], err);
    for (int i = 0; !s && i < ORACLE_RACES; i++)
        s = event_writer_code(c->w, oracle_race_code(i), KIND_STATIC, NULL, NULL, &c->race[i], err);
    for (int what = 0; !s && what < ORACLE_WHATS; what++) {
        if (oracle_is_gap(what)) continue;
        OracleItem item = oracle_item(what);
        s = event_writer_code(c->w, item.code, item.kind, item.name, NULL, &c->code[what], err);
        if (!s) s = event_writer_unit(c->w, item.unit ? item.unit : "", &c->unit[what], err);
    }
    return s;
}

/* A value strictly inside its level, so that rounding to float cannot move it out. */
static float value_draw(int what, int level, OracleRng *rng) {
    const double *edge = oracle_item(what).edges;
    double first = edge[1] - edge[0], last = edge[8] - edge[7];
    double lo = level == 1 ? edge[0] - first : edge[level - 2],
           hi = level == ORACLE_LEVELS ? edge[8] + last : edge[level - 1];
    if (lo < 0.5 * edge[0]) lo = 0.5 * edge[0];
    return (float)(lo + (hi - lo) * (0.02 + 0.96 * oracle_rng_uniform(rng)));
}

static void count_push(CohortFile *c, int n, const float *logp) {
    if (c->n_count == c->room_count) {
        c->room_count = c->room_count ? 2 * c->room_count : 1 << 16;
        c->count = xrealloc(c->count, (size_t)c->room_count);
    }
    if (c->n_logp + n > c->room_logp) {
        c->room_logp = c->room_logp ? 2 * c->room_logp : 1 << 16;
        c->logp = xrealloc(c->logp, (size_t)c->room_logp * sizeof *c->logp);
    }
    REQUIRE(n <= 255);
    c->count[c->n_count++] = (uint8_t)n;
    for (int i = 0; i < n; i++) c->logp[c->n_logp++] = logp[i];
}

static Status prefix_write(CohortFile *c, const OracleRecord *r, int64_t subject, int64_t start, OracleRng *dress,
                           Err *err) {
    Event e = {
        .subject = subject, .time = TIME_NONE, .available = TIME_NONE, .value = NAN, .precision = PRECISION_NONE};
    e.code = c->sex[r->sex];
    Status s = event_writer_add(c->w, &e, err);
    e.code = c->race[r->race];
    if (!s) s = event_writer_add(c->w, &e, err);
    /* Well inside the age bin, whatever way years are counted. */
    double years = ORACLE_AGE_FIRST + ORACLE_AGE_BIN * (r->age_bin + 0.01 + 0.98 * oracle_rng_uniform(dress));
    int64_t birth = (start - (int64_t)(years * 365.25 * US_PER_DAY)) / US_PER_DAY;
    e.time = e.available = birth * US_PER_DAY;
    e.precision = PRECISION_DAY;
    e.code = c->birth;
    if (!s) s = event_writer_add(c->w, &e, err);
    for (int i = 0; i < 3; i++) count_push(c, 0, NULL);
    return s;
}

static Status record_write(CohortFile *c, const OracleRecord *r, const OracleCohortOptions *o, int64_t subject,
                           Err *err) {
    OracleRng dress = stream(o, subject, STREAM_DRESS);
    int64_t from = time_from_civil(2005, 1, 1, 0, 0, 0), until = time_from_civil(2015, 1, 1, 0, 0, 0);
    int64_t start =
        from + (int64_t)(oracle_rng_uniform(&dress) * (double)((until - from) / US_PER_MINUTE)) * US_PER_MINUTE;
    Status s = prefix_write(c, r, subject, start, &dress, err);
    uint32_t visits = 0, inside = 0;
    float logp[255];
    int n_logp = 0;
    for (int64_t i = 0; !s && i < r->n; i++) {
        int what = r->what[i], level = r->level[i];
        int counted = r->index < 0 || i <= r->index;
        REQUIRE(n_logp < 253);
        logp[n_logp++] = counted ? r->logp_what[i] : NAN;
        if (oracle_is_gap(what)) continue;
        logp[n_logp++] = counted ? r->logp_level[i] : NAN;
        count_push(c, n_logp, logp);
        n_logp = 0;
        if (what == ORACLE_VISIT_OUT || what == ORACLE_VISIT_IN) inside = ++visits;
        int64_t time = start + r->minute[i] * US_PER_MINUTE;
        Event e = {
            .subject = subject, .time = time, .available = time, .code = c->code[what], .value = NAN, .visit = inside};
        e.precision = PRECISION_MINUTE;
        if (level) {
            e.value = value_draw(what, level, &dress);
            e.unit = c->unit[what];
        }
        s = event_writer_add(c->w, &e, err);
        if (what == ORACLE_VISIT_END) inside = 0;
    }
    int64_t end = start + r->minute[r->n - 1] * US_PER_MINUTE;
    if (!s) s = event_writer_subject(c->w, subject, end, r->split, err);
    c->index[subject - 1] = r->index < 0 ? TIME_NONE : start + r->minute[r->index] * US_PER_MINUTE;
    memcpy(c->risk + (subject - 1) * ORACLE_OUTCOMES * 2, r->risk, sizeof r->risk);
    return s;
}

static Status file_finish(CohortFile *c, const OracleCohortOptions *o, const char *part, const char *path, Err *err) {
    char *provenance = xasprintf("{\"command\": \"synth\", \"patients\": %lld, \"seed\": %llu, \"max_tokens\": %lld, "
                                 "\"risk_samples\": %lld}",
                                 (long long)o->patients, (unsigned long long)o->seed, (long long)o->max_tokens,
                                 (long long)o->risk_samples);
    int64_t n_patients, n_events, n_duplicates;
    Status s = event_writer_close(c->w, "oracle", provenance, &n_patients, &n_events, &n_duplicates, err);
    c->w = NULL;
    free(provenance);
    if (s) return s;
    REQUIRE(n_duplicates == 0 && n_events == c->n_count && n_patients == o->patients);
    OracleFileOutcome outcome[ORACLE_OUTCOMES];
    for (int k = 0; k < ORACLE_OUTCOMES; k++)
        outcome[k] = (OracleFileOutcome){(char *)ORACLE_OUTCOME[k].name, (char *)ORACLE_OUTCOME[k].pattern,
                                         ORACLE_OUTCOME[k].horizon_minutes};
    OracleFileContent content = {.n_patients = n_patients,
                                 .n_events = n_events,
                                 .n_logp = c->n_logp,
                                 .count = c->count,
                                 .logp = c->logp,
                                 .index = c->index,
                                 .n_outcomes = ORACLE_OUTCOMES,
                                 .outcome = outcome,
                                 .risk = c->risk,
                                 .samples = o->risk_samples,
                                 .seed = o->seed};
    s = oracle_file_write(&content, part, err);
    if (!s) s = file_publish(part, path, err);
    if (s) remove(part);
    return s;
}

/* ---- the cohort -------------------------------------------------------------------------------------------------- */

static void block_draw(OracleRecord *r, const uint8_t *split, int64_t first, int64_t n, const OracleCohortOptions *o,
                       double *risk_s) {
#ifdef _OPENMP
    int threads = o->threads ? o->threads : omp_get_max_threads();
#endif
#pragma omp parallel for schedule(dynamic, 16) num_threads(threads)
    for (int64_t i = 0; i < n; i++) oracle_record_draw(&r[i], o, first + i + 1, split[first + i]);
    if (o->risk_samples <= 0) return;
    double start = clock_s();
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
    for (int64_t i = 0; i < n; i++)
        if (r[i].split == SPLIT_HELD_OUT && r[i].index >= 0) oracle_record_risks(&r[i], o);
    if (risk_s) *risk_s += clock_s() - start;
}

Status oracle_cohort_draw(const OracleCohortOptions *o, const char *path, OracleFigures *figures, double *risk_s,
                          Err *err) {
    CohortFile c = {0};
    Status s = OK;
    char *part = path ? xasprintf("%s.part", path) : NULL;
    uint8_t *split = xcalloc((size_t)o->patients, 1);
    OracleRecord *record = xcalloc(BLOCK, sizeof *record);
    oracle_split(o, split);
    if (risk_s) *risk_s = 0;
    if (path) {
        c.index = xmalloc((size_t)o->patients * sizeof *c.index);
        c.risk = xmalloc((size_t)o->patients * ORACLE_OUTCOMES * 2 * sizeof *c.risk);
        s = event_writer_open(&c.w, part, SORT_MEMORY, err);
        if (!s) s = codes_intern(&c, err);
    }
    Progress progress;
    progress_open(&progress, o->progress, "synth", "patients", o->patients);
    for (int64_t first = 0; !s && first < o->patients; first += BLOCK) {
        int64_t n = o->patients - first < BLOCK ? o->patients - first : BLOCK;
        block_draw(record, split, first, n, o, risk_s);
        for (int64_t i = 0; !s && i < n; i++) {
            if (figures) oracle_figures_add(figures, &record[i]);
            if (path) s = record_write(&c, &record[i], o, first + i + 1, err);
        }
        progress_update(&progress, first + n);
    }
    progress_close(&progress, o->patients);
    if (!s && path) s = file_finish(&c, o, part, path, err);
    if (c.w) event_writer_abort(c.w);
    for (int i = 0; i < BLOCK; i++) oracle_record_free(&record[i]);
    free(record);
    free(split);
    free(part);
    free(c.count);
    free(c.logp);
    free(c.index);
    free(c.risk);
    return s;
}
