/* oracle_figures.c - measures a drawn cohort: is it as real as ORACLE.md asks, and how far above the floor do counting
 * models lie? */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "data/oracle_cohort.h"

enum {
    KINDS = ORACLE_WHATS + ORACLE_LABS * ORACLE_LEVELS,
    CONTEXTS = KINDS + 1,
    DAY = 1440,
    GROUPS = ORACLE_SEXES + ORACLE_RACES
};
static const double DISCOUNT = 5; /* strength of the unigram prior of the bigram model, in tokens */

struct OracleFigures {
    int64_t patients, tokens, counted;
    double nll, nll_tuning;
    int64_t counted_tuning;
    uint32_t train[CONTEXTS][KINDS], tuning[CONTEXTS][KINDS];
    int64_t indices, outcome_n[ORACLE_OUTCOMES], outcome_yes[ORACLE_OUTCOMES], risk_n[ORACLE_OUTCOMES];
    double risk_sum[ORACLE_OUTCOMES];
    int64_t stays, icu_stays, stay_deaths, discharges, readmissions;
    double *stay_days;
    int64_t n_stay_days, room_stay_days;
    double conditions, age, years;
    int64_t group[GROUPS], condition[GROUPS][ORACLE_CHRONIC];
    uint8_t mark[ORACLE_OUTCOMES][ORACLE_WHATS];
};

OracleFigures *oracle_figures_open(void) {
    OracleFigures *f = xcalloc(1, sizeof *f);
    for (int k = 0; k < ORACLE_OUTCOMES; k++) oracle_outcome_mark(&ORACLE_OUTCOME[k], f->mark[k]);
    return f;
}

void oracle_figures_free(OracleFigures *f) {
    if (f) free(f->stay_days);
    free(f);
}

static int kind_of(const OracleRecord *r, int64_t i) {
    return r->level[i] ? ORACLE_WHATS + (r->what[i] - ORACLE_LAB) * ORACLE_LEVELS + r->level[i] - 1 : r->what[i];
}

static void add_tokens(OracleFigures *f, const OracleRecord *r, int64_t counted) {
    uint32_t(*pairs)[KINDS] = r->split == SPLIT_TRAIN ? f->train : f->tuning;
    for (int64_t i = 0, context = KINDS; i < counted; i++) {
        double nll = -(double)r->logp_what[i] - r->logp_level[i];
        int kind = kind_of(r, i);
        f->nll += nll;
        if (r->split == SPLIT_TUNING) f->nll_tuning += nll;
        if (r->split != SPLIT_HELD_OUT) pairs[context][kind]++;
        context = kind;
    }
    f->counted += counted;
    f->tokens += r->n;
    if (r->split == SPLIT_TUNING) f->counted_tuning += counted;
}

/* Did the outcome happen after the index; -1: not asked of this patient. */
static int outcome_after(const OracleFigures *f, const OracleRecord *r, int k) {
    const OracleOutcome *o = &ORACLE_OUTCOME[k];
    int64_t i = 0, admitted = 0;
    for (; i <= r->index; i++) {
        if (o->first && f->mark[k][r->what[i]]) return -1;
        if (r->what[i] == ORACLE_VISIT_OUT) admitted = 0;
        if (r->what[i] == ORACLE_VISIT_IN) admitted = 1;
    }
    if (o->after_inpatient && !admitted) return -1;
    for (; i < r->n && r->minute[i] <= r->minute[r->index] + o->horizon_minutes; i++)
        if (!oracle_is_gap(r->what[i]) && f->mark[k][r->what[i]]) return 1;
    return 0;
}

static void add_outcomes(OracleFigures *f, const OracleRecord *r) {
    if (r->split != SPLIT_HELD_OUT || r->index < 0) return;
    f->indices++;
    for (int k = 0; k < ORACLE_OUTCOMES; k++) {
        int yes = outcome_after(f, r, k);
        if (yes < 0) continue;
        f->outcome_n[k]++;
        f->outcome_yes[k] += yes;
        if (isnan(r->risk[k][0])) continue;
        f->risk_n[k]++;
        f->risk_sum[k] += r->risk[k][0];
    }
}

static void stay_end(OracleFigures *f, double days) {
    if (f->n_stay_days == f->room_stay_days) {
        f->room_stay_days = f->room_stay_days ? 2 * f->room_stay_days : 256;
        f->stay_days = xrealloc(f->stay_days, (size_t)f->room_stay_days * sizeof *f->stay_days);
    }
    f->stay_days[f->n_stay_days++] = days;
}

/* Stays that are recorded to their end, and readmission within 30 days of a discharge that was followed that long. */
static void add_stays(OracleFigures *f, const OracleRecord *r) {
    int32_t begin = -1, left = -1;
    int icu = 0;
    for (int64_t i = 0; i < r->n; i++) {
        int what = r->what[i];
        if (left >= 0 && r->minute[i] > left + 30 * DAY) {
            f->discharges++;
            left = -1;
        }
        if (what == ORACLE_VISIT_IN) {
            if (left >= 0) {
                f->discharges++;
                f->readmissions++;
                left = -1;
            }
            begin = r->minute[i];
            icu = 0;
        } else if (what == ORACLE_ICU_IN) icu = 1;
        else if ((what == ORACLE_VISIT_END || what == ORACLE_DEATH) && begin >= 0) {
            f->stays++;
            f->icu_stays += icu;
            f->stay_deaths += what == ORACLE_DEATH;
            stay_end(f, (double)(r->minute[i] - begin) / DAY);
            begin = -1;
            if (what == ORACLE_VISIT_END) left = r->minute[i];
        }
    }
}

static void add_conditions(OracleFigures *f, const OracleRecord *r, int64_t counted) {
    OracleState s;
    oracle_start(&s, r->sex, r->race, r->age_bin);
    f->age += s.age;
    for (int64_t i = 0; i < counted; i++) oracle_feed(&s, r->what[i], r->level[i]);
    f->conditions += __builtin_popcount(s.chronic);
    f->years += r->minute[counted - 1] / 525960.0;
    int group[2] = {r->sex, ORACLE_SEXES + r->race};
    for (int g = 0; g < 2; g++) {
        f->group[group[g]]++;
        for (int i = 0; i < ORACLE_CHRONIC; i++) f->condition[group[g]][i] += s.chronic >> i & 1;
    }
}

void oracle_figures_add(OracleFigures *f, const OracleRecord *r) {
    int64_t counted = r->index >= 0 ? r->index + 1 : r->n;
    f->patients++;
    add_tokens(f, r, counted);
    add_outcomes(f, r);
    add_stays(f, r);
    add_conditions(f, r, counted);
}

/* Prevalence of condition i in group a against group b: ratio outside 0.8 .. 1.25 and not by chance. */
static int uneven(const OracleFigures *f, int i, int a, int b) {
    double na = (double)f->group[a], nb = (double)f->group[b], ca = (double)f->condition[a][i],
           cb = (double)f->condition[b][i];
    if (na < 1 || nb < 1 || ca + cb < 1) return 0;
    double p = ca / na, q = cb / nb, pooled = (ca + cb) / (na + nb),
           se = sqrt(pooled * (1 - pooled) * (1 / na + 1 / nb));
    return (p < 0.8 * q || p > 1.25 * q) && fabs(p - q) > 2.5 * se;
}

static void counting_models(const OracleFigures *f, double *unigram, double *bigram) {
    double *p = xcalloc(KINDS, sizeof *p), total = 0, sum_uni = 0, sum_bi = 0, n = 0;
    for (int c = 0; c < CONTEXTS; c++)
        for (int k = 0; k < KINDS; k++) p[k] += f->train[c][k];
    for (int k = 0; k < KINDS; k++) {
        total += p[k];
    }
    for (int k = 0; k < KINDS; k++) p[k] = (p[k] + 0.5) / (total + 0.5 * KINDS);
    for (int c = 0; c < CONTEXTS; c++) {
        double row = 0;
        for (int k = 0; k < KINDS; k++) row += f->train[c][k];
        for (int k = 0; k < KINDS; k++) {
            if (!f->tuning[c][k]) continue;
            n += f->tuning[c][k];
            sum_uni -= f->tuning[c][k] * log(p[k]);
            sum_bi -= f->tuning[c][k] * log((f->train[c][k] + DISCOUNT * p[k]) / (row + DISCOUNT));
        }
    }
    free(p);
    *unigram = n ? sum_uni / n : NAN;
    *bigram = n ? sum_bi / n : NAN;
}

static int compare_doubles(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double share(double a, double b) { return b > 0 ? a / b : NAN; }

void oracle_figures_table(const OracleFigures *f, OracleFigureTable *t) {
    memset(t, 0, sizeof *t);
    t->patients = f->patients;
    t->tokens = f->tokens;
    t->indices = f->indices;
    t->stays = f->stays;
    t->discharges = f->discharges;
    t->tokens_mean = share((double)f->counted, (double)f->patients);
    t->floor_all = share(f->nll, (double)f->counted);
    t->floor = share(f->nll_tuning, (double)f->counted_tuning);
    counting_models(f, &t->unigram, &t->bigram);
    double *yes[] = {&t->death_1y, &t->admission_1y, &t->heart_failure_1y, &t->diabetes_1y};
    for (int k = 0; k < ORACLE_OUTCOMES; k++) {
        if (k < 4) *yes[k] = share((double)f->outcome_yes[k], (double)f->outcome_n[k]);
        t->risk[k] = share(f->risk_sum[k], (double)f->risk_n[k]);
        t->risk_n[k] = f->risk_n[k];
    }
    t->readmission_30d = share((double)f->readmissions, (double)f->discharges);
    t->icu = share((double)f->icu_stays, (double)f->stays);
    t->death_in_hospital = share((double)f->stay_deaths, (double)f->stays);
    double *days = xmalloc((size_t)(f->n_stay_days + 1) * sizeof *days);
    memcpy(days, f->stay_days ? f->stay_days : days, (size_t)f->n_stay_days * sizeof *days);
    qsort(days, (size_t)f->n_stay_days, sizeof *days, compare_doubles);
    t->stay_median_days = f->n_stay_days ? days[f->n_stay_days / 2] : NAN;
    free(days);
    t->conditions_mean = share(f->conditions, (double)f->patients);
    t->age_mean = share(f->age, (double)f->patients);
    t->years_mean = share(f->years, (double)f->patients);
    for (int k = 0; k < KINDS; k++) {
        uint64_t seen = 0;
        for (int c = 0; c < CONTEXTS; c++) seen += f->train[c][k] + f->tuning[c][k];
        t->whats += seen > 0;
    }
    for (int i = 0; i < ORACLE_CHRONIC; i++) {
        int any = uneven(f, i, 1, 0);
        for (int race = 1; race < ORACLE_RACES; race++) any |= uneven(f, i, ORACLE_SEXES + race, ORACLE_SEXES);
        t->uneven_conditions += any;
    }
}
