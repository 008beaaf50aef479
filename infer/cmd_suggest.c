/* cmd_suggest.c - ehr-infer suggest. */
#include "infer/commands.h"
#include "infer/suggest.h"
#include <jansson.h>
#include <math.h>
#include <stdlib.h>

typedef struct {
    SessionFlags session;
    PatientFlags patient;
    const char *data, *by;
    int64_t samples, batch, seed, horizon, max_tokens, top, reference;
    int json;
} SuggestFlags;

static int by_lift(const void *a, const void *b) {
    const Suggestion *x = a, *y = b;
    return x->lift > y->lift ? -1 : x->lift < y->lift;
}

/* A handful of futures tells no ratio. */
enum { LIFT_HITS_LEAST = 5 };
static int take(const Suggestions *s, const SuggestFlags *f) {
    if (f->by[0] != 'l') return s->n;
    int n = 0;
    for (int i = 0; i < s->n; i++)
        if (s->list[i].hits >= LIFT_HITS_LEAST && !isnan(s->list[i].lift)) s->list[n++] = s->list[i];
    qsort(s->list, (size_t)n, sizeof *s->list, by_lift);
    return n;
}

static void print_text(const Session *s, const RolloutJob *job, const Suggestions *x, const SuggestFlags *f, int n) {
    printf("patient key:%llu, %lld tokens known; first diagnoses within %.0f days, of %d simulated futures\n",
           (unsigned long long)job->patient.key, (long long)job->n_known, (double)f->horizon / 1440, x->n_samples);
    printf("compared with %lld patients of the train split%s", (long long)x->matched,
           x->by_sex ? " of the same sex" : "");
    if (isfinite(x->age_window)) printf(", within %g years of age", x->age_window);
    printf("\n\n  %7s  %-15s  %9s  %6s  %6s  %s\n", "risk", "95% (sampling)", "base rate", "lift", "days", "diagnosis");
    for (int i = 0; i < n && i < f->top; i++) {
        const Suggestion *q = &x->list[i];
        char what[256], interval[32], base[32] = "-", lift[32] = "-";
        vocabulary_describe(&s->dataset.vocabulary, q->token, what, sizeof what);
        snprintf(interval, sizeof interval, "%.4f-%.4f", q->risk.lo, q->risk.hi);
        if (!isnan(q->base_rate)) {
            snprintf(base, sizeof base, "%.4f", q->base_rate);
            snprintf(lift, sizeof lift, "%.1f", q->lift);
        }
        printf("  %7.4f  %-15s  %9s  %6s  %6.0f  %s\n", q->risk.risk, interval, base, lift, q->median_days, what);
    }
    printf("\nA forecast of what will be recorded, not a diagnosis.\n");
}

static json_t *number(double x) { return isnan(x) ? json_null() : json_real(x); }

static void print_json(const Session *s, const RolloutJob *job, const Suggestions *x, const SuggestFlags *f, int n) {
    json_t *list = json_array();
    for (int i = 0; i < n && i < f->top; i++) {
        const Suggestion *q = &x->list[i];
        const VocabToken *t = &s->dataset.vocabulary.token[q->token];
        json_array_append_new(list, json_pack("{s:s, s:s, s:f, s:f, s:f, s:o, s:o, s:f, s:I, s:I}", "code", t->base,
                                              "name", t->name, "risk", q->risk.risk, "lo", q->risk.lo, "hi", q->risk.hi,
                                              "base_rate", number(q->base_rate), "lift", number(q->lift), "median_days", q->median_days,
                                              "base_n", (json_int_t)q->base_n, "base_hits", (json_int_t)q->base_hits));
    }
    json_t *o =
        json_pack("{s:I, s:f, s:f, s:i, s:I, s:b, s:o, s:o}", "patient_key", (json_int_t)job->patient.key, "index_days",
                  job->index_minutes / 1440.0, "horizon_days", (double)f->horizon / 1440, "n_samples", x->n_samples,
                  "compared_with", (json_int_t)x->matched, "same_sex", x->by_sex, "age_window_years",
                  isfinite(x->age_window) ? json_real(x->age_window) : json_null(), "suggestions", list);
    char *text = json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(9));
    printf("%s\n", text);
    free(text);
    json_decref(o);
}

Status cmd_suggest(int argc, char **argv, Err *err) {
    SuggestFlags f = {.session = SESSION_FLAGS_DEFAULT,
                      .patient = PATIENT_FLAGS_DEFAULT,
                      .by = "risk",
                      .samples = 256,
                      .batch = 256,
                      .seed = 1,
                      .horizon = 525600,
                      .max_tokens = 2048,
                      .top = 20,
                      .reference = 50000};
    Flag flags[] = {
        {"--data", FLAG_STRING, &f.data, 0, 0, NULL, "dataset folder", 0},
        PATIENT_FLAGS(f.patient),
        {"--horizon", FLAG_DURATION, &f.horizon, 1, 1e8, NULL, "how far ahead", 0},
        {"--samples", FLAG_INT, &f.samples, 1, 1e6, NULL, "simulated futures", 0},
        {"--top", FLAG_INT, &f.top, 1, 1e6, NULL, "how many to list", 0},
        {"--by", FLAG_ENUM, &f.by, 0, 0, "risk|lift",
         "most likely first, or most above the base rate (of those in 5 futures)", 0},
        {"--reference", FLAG_INT, &f.reference, 1, 1e12, NULL,
         "patients of the train split to take base rates from, at most", 0},
        {"--max-tokens", FLAG_INT, &f.max_tokens, 1, 1e6, NULL, "longest future, in tokens", 0},
        {"--seed", FLAG_INT, &f.seed, 0, 0, NULL, "key of all random numbers", 0},
        {"--batch", FLAG_INT, &f.batch, 1, 65536, NULL, "live futures at a time", 0},
        {"--json", FLAG_BOOL, &f.json, 0, 0, NULL, "one JSON object", 0},
        SESSION_FLAGS(f.session),
        SESSION_GRAPHS_FLAG(f.session),
    };
    const int n = sizeof flags / sizeof *flags;
    const char *pos[1];
    int n_pos, help;
    Status st = flags_parse(flags, n, argc, argv, pos, 1, &n_pos, &help, err);
    if (st) return st;
    if (help) {
        flags_help(flags, n, "ehr-infer suggest CHECKPOINT --data DATASET [--patient K] [...]",
                   "Diagnoses that the record does not have yet, by how likely they are told within the horizon, "
                   "beside how often\n"
                   "people of the same sex and age get them.",
                   stdout);
        return OK;
    }
    if (n_pos != 1 || !f.data) return err_set(err, ERR_USAGE, "needs a CHECKPOINT and --data DATASET (--help)");
    Session s;
    RolloutJob job;
    Suggestions x = {0};
    st = session_open(&s, pos[0], f.data, &f.session, err);
    if (!st) session_note(&s, stderr);
    if (!st) st = session_job(&s, &f.patient, &job, err);
    RolloutOptions o = {.n_samples = (int)f.samples,
                        .batch = (int)f.batch,
                        .max_tokens = (int)f.max_tokens,
                        .seed = (uint64_t)f.seed,
                        .horizon_minutes = (double)f.horizon,
                        .temperature = 1};
    if (!st) st = suggest_run(&s, &job, &o, f.reference, &x, err);
    if (!st) {
        int shown = take(&x, &f);
        if (f.json) print_json(&s, &job, &x, &f, shown);
        else print_text(&s, &job, &x, &f, shown);
    }
    suggest_free(&x);
    session_close(&s);
    return st;
}
