/* suggest.c - see suggest.h.  Diagnoses are told apart by code; what counts is the first mention, so a code that the
 * record already has is left out, of the patient and of those to compare with. */
#include "infer/suggest.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define YEAR_MINUTES 525960.0
enum { MATCHED_LEAST = 200 };

typedef struct {
    const Session *s;
    const RolloutJob *job;
    int *code;  /* (V) number of the diagnosis, -1: none */
    int *token; /* (n) */
    int n;
    int *hits;
    double *first; /* (n, n_samples) minutes of the first mention, in any order */
    int n_samples;
} SuggestRun;

/* ---- codes
 * ----------------------------------------------------------------------------------------------------------*/

static void codes_find(SuggestRun *r) {
    const Vocabulary *v = &r->s->dataset.vocabulary;
    r->code = xcalloc((size_t)v->n, sizeof *r->code);
    r->token = xcalloc((size_t)v->n, sizeof *r->token);
    for (int id = 0; id < v->n; id++) {
        const VocabToken *t = &v->token[id];
        r->code[id] = -1;
        if (t->kind != TOKEN_EVENT || t->event_kind != KIND_DIAGNOSIS) continue;
        /* The levels of one code lie side by side. */
        int same = r->n && !strcmp(v->token[r->token[r->n - 1]].base, t->base);
        if (!same) r->token[r->n++] = id;
        r->code[id] = r->n - 1;
    }
}

/* told (n): 1 for the codes among tokens [0, n_known). */
static void codes_told(const SuggestRun *r, const PatientView *p, int64_t n_known, uint8_t *told) {
    memset(told, 0, (size_t)r->n + 1);
    for (int64_t i = 0; i < n_known; i++) {
        int c = r->code[patient_token(p, i)];
        if (c >= 0) told[c] = 1;
    }
}

/* ---- futures
 * --------------------------------------------------------------------------------------------------------*/

static Status get_job(void *ctx, int64_t i, RolloutJob *job, Err *err) {
    (void)i;
    (void)err;
    *job = *((SuggestRun *)ctx)->job;
    return OK;
}

static Status job_done(void *ctx, int64_t i, const RolloutJob *job, const RolloutSample *samples, int n, Err *err) {
    (void)i;
    (void)job;
    (void)err;
    SuggestRun *r = ctx;
    int *last = xcalloc((size_t)r->n + 1, sizeof *last);
    for (int k = 0; k < n; k++)
        for (int t = 0; t < samples[k].n_tokens; t++) {
            int c = r->code[samples[k].tokens[t]];
            if (c < 0 || last[c] == k + 1) continue;
            last[c] = k + 1;
            r->first[(size_t)c * (size_t)r->n_samples + (size_t)r->hits[c]++] = samples[k].token_minutes[t];
        }
    free(last);
    return OK;
}

static int compare_doubles(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* ---- people to compare with
 * -------------------------------------------------------------------------------------------*/

typedef struct {
    int sex; /* column of the statics, -1: none */
    double age, horizon;
    int64_t matched, *n, *hits;
} Reference;

/* Where p is as old as the patient; -1: never, or not watched for long enough from there. */
static double matching_minute(const Reference *ref, const SuggestRun *r, const PatientView *p, double window) {
    const PatientView *mine = &r->job->patient;
    if (ref->sex >= 0 && p->statics[ref->sex] != mine->statics[ref->sex]) return -1;
    int32_t last = p->n ? p->minutes[p->n - 1] : 0;
    int died = p->n && (int)patient_token(p, p->n - 1) == r->s->dataset.vocabulary.death;
    double end = died ? last : p->observation_end - ref->horizon;
    double at = isfinite(ref->age) ? (ref->age - p->age_years) * YEAR_MINUTES : 0;
    if (isfinite(ref->age) && p->age_years == AGE_UNKNOWN) return -1;
    if (at < 0) at = 0;
    if (at > end) at = end;
    if (at < 0 || (died && at >= last)) return -1;
    return isfinite(ref->age) && fabs(p->age_years + at / YEAR_MINUTES - ref->age) > window ? -1 : at;
}

static Status reference_count(SuggestRun *r, Reference *ref, int64_t limit, double window, Err *err) {
    Dataset *d = (Dataset *)(uintptr_t)&r->s->dataset;
    uint8_t *before = xcalloc((size_t)r->n + 1, 1), *after = xcalloc((size_t)r->n + 1, 1);
    Status st = OK;
    ref->matched = 0;
    memset(ref->n, 0, (size_t)r->n * sizeof *ref->n);
    memset(ref->hits, 0, (size_t)r->n * sizeof *ref->hits);
    for (int64_t i = 0; !st && i < d->n_patients[SPLIT_TRAIN] && i < limit; i++) {
        PatientView p;
        st = dataset_patient(d, SPLIT_TRAIN, i, &p, err);
        double at = st ? -1 : matching_minute(ref, r, &p, window);
        if (at < 0 || p.key == r->job->patient.key) continue;
        int64_t known = rollout_known(&p, (int32_t)at),
                until = rollout_known(&p, (int32_t)fmin(at + ref->horizon, INT32_MAX));
        codes_told(r, &p, known, before);
        codes_told(r, &p, until, after);
        ref->matched++;
        for (int c = 0; c < r->n; c++) {
            ref->n[c] += !before[c];
            ref->hits[c] += !before[c] && after[c];
        }
    }
    free(before);
    free(after);
    return st;
}

/* ---- the run
 * --------------------------------------------------------------------------------------------------------*/

static int compare_suggestions(const void *a, const void *b) {
    const Suggestion *x = a, *y = b;
    if (x->hits != y->hits) return x->hits > y->hits ? -1 : 1;
    const double a_lift = isnan(x->lift) ? 0 : x->lift, b_lift = isnan(y->lift) ? 0 : y->lift;
    if (a_lift != b_lift) return a_lift > b_lift ? -1 : 1;
    return x->token < y->token ? -1 : x->token > y->token;
}

static void list_make(SuggestRun *r, const Reference *ref, Suggestions *out) {
    uint8_t *told = xcalloc((size_t)r->n + 1, 1);
    double *values = xcalloc((size_t)r->n_samples, sizeof *values);
    codes_told(r, &r->job->patient, r->job->n_known, told);
    out->list = xcalloc((size_t)r->n + 1, sizeof *out->list);
    for (int c = 0; c < r->n; c++) {
        if (told[c] || !r->hits[c]) continue;
        for (int k = 0; k < r->n_samples; k++) values[k] = k < r->hits[c];
        double *first = r->first + (size_t)c * (size_t)r->n_samples;
        qsort(first, (size_t)r->hits[c], sizeof *first, compare_doubles);
        Suggestion x = {.token = r->token[c], .hits = r->hits[c], .base_n = ref->n[c], .base_hits = ref->hits[c]};
        x.risk = risk_estimate(ESTIMATOR_MC, values, r->n_samples, 1);
        x.median_days = first[r->hits[c] / 2] / 1440;
        x.base_rate = ref->n[c] ? ((double)ref->hits[c] + 0.5) / ((double)ref->n[c] + 1) : NAN;
        x.lift = x.risk.risk / x.base_rate;
        out->list[out->n++] = x;
    }
    qsort(out->list, (size_t)out->n, sizeof *out->list, compare_suggestions);
    free(told);
    free(values);
}

Status suggest_run(Session *s, const RolloutJob *job, const RolloutOptions *o, int64_t reference, Suggestions *out,
                   Err *err) {
    static const double windows[] = {2.5, 5, 10, INFINITY};
    const Vocabulary *v = &s->dataset.vocabulary;
    SuggestRun r = {.s = s, .job = job, .n_samples = o->n_samples};
    RolloutOptions with_paths = *o;
    RolloutStats stats;
    *out = (Suggestions){.n_samples = o->n_samples};
    codes_find(&r);
    if (!r.n) {
        free(r.code);
        free(r.token);
        return err_set(err, ERR_USAGE, "the vocabulary has no diagnoses to suggest");
    }
    r.hits = xcalloc((size_t)r.n, sizeof *r.hits);
    r.first = xcalloc((size_t)r.n * (size_t)r.n_samples, sizeof *r.first);
    with_paths.keep_paths = 1;
    with_paths.estimator = ESTIMATOR_MC;
    RolloutCallbacks cb = {.get_job = get_job, .job_done = job_done, .ctx = &r};
    Status st = rollout_run(&s->law, v, &with_paths, 1, &cb, &stats, err);
    Reference ref = {.sex = -1, .horizon = o->horizon_minutes, .age = NAN};
    for (int i = 0; i < v->n_static; i++)
        if (!strcmp(v->static_name[i], "SEX")) ref.sex = i;
    if (job->patient.age_years != AGE_UNKNOWN) ref.age = job->patient.age_years + job->index_minutes / YEAR_MINUTES;
    ref.n = xcalloc((size_t)r.n, sizeof *ref.n);
    ref.hits = xcalloc((size_t)r.n, sizeof *ref.hits);
    /* As near in age as there are enough people. */
    for (size_t w = 0; !st && w < sizeof windows / sizeof *windows; w++) {
        st = reference_count(&r, &ref, reference, windows[w], err);
        out->age_window = windows[w];
        if (ref.matched >= MATCHED_LEAST || !isfinite(ref.age)) break;
    }
    out->matched = ref.matched;
    out->by_sex = ref.sex >= 0;
    if (!st) list_make(&r, &ref, out);
    free(ref.n);
    free(ref.hits);
    free(r.code);
    free(r.token);
    free(r.hits);
    free(r.first);
    return st;
}

void suggest_free(Suggestions *s) {
    free(s->list);
    *s = (Suggestions){0};
}
