/* cmd_explain.c - ehr-infer explain: the past events that moved a forecast, most first. */
#include "infer/commands.h"
#include "infer/explain.h"
#include <jansson.h>
#include <math.h>
#include <stdlib.h>

typedef struct {
    SessionFlags session;
    PatientFlags patient;
    const char *data, *outcome;
    int64_t samples, most, batch, seed, horizon, max_tokens, events, top, gradient;
    double target_se;
    int json;
} ExplainFlags;

static int by_change(const void *a, const void *b) {
    const ExplainItem *x = a, *y = b;
    if (fabs(x->change) != fabs(y->change)) return fabs(x->change) > fabs(y->change) ? -1 : 1;
    return x->index[0] < y->index[0] ? -1 : x->index[0] > y->index[0];
}

static double age_at(const PatientView *p, int64_t index) {
    return p->age_years == AGE_UNKNOWN ? NAN : p->age_years + p->minutes[index] / 525960.0;
}

static void describe(const Session *s, const PatientView *p, const ExplainItem *x, char *out, size_t size) {
    vocabulary_describe(&s->dataset.vocabulary, (int)patient_token(p, x->index[0]), out, size);
    if (x->n_index < 2) return;
    size_t n = 0;
    while (out[n]) n++;
    snprintf(out + n, size - n, " %s", s->dataset.vocabulary.token[patient_token(p, x->index[1])].code);
}

static void print_text(const Session *s, const RolloutJob *job, const ExplainFlags *f, const Explanation *x) {
    const PatientView *p = &job->patient;
    printf("patient key:%llu: risk of %s within %.0f days %.4f (95%% of sampling %.4f-%.4f)\n",
           (unsigned long long)p->key, f->outcome, (double)f->horizon / 1440, x->risk.risk, x->risk.lo, x->risk.hi);
    printf("What moved the forecast: the risk with the event less that without it, everything else as recorded.  Not "
           "what caused\n"
           "anything.  %d events were left out in turn%s.\n\n",
           x->n, x->skipped ? ", the newest" : "");
    printf("  %8s  %7s  %-17s  %s%6s  %15s  %s\n", "change", "s.e.", "95% (sampling)", f->gradient ? "gradient  " : "", "age",
           "before index", "event");
    for (int i = 0; i < x->n && i < f->top; i++) {
        const ExplainItem *q = &x->item[i];
        char what[256], when[48], interval[32], gradient[24] = "";
        describe(s, p, q, what, sizeof what);
        minutes_text(p->minutes[q->index[0]] - (double)job->index_minutes, when, sizeof when);
        snprintf(interval, sizeof interval, "%+.4f..%+.4f", q->lo, q->hi);
        if (f->gradient) snprintf(gradient, sizeof gradient, "%+8.4f  ", q->gradient);
        printf("  %+8.4f  %7.4f  %-17s  %s%6.1f  %15s  %s\n", q->change, q->se, interval, gradient, age_at(p, q->index[0]),
               when, what);
    }
}

static json_t *number(double x) { return isfinite(x) ? json_real(x) : json_null(); }

static void print_json(const Session *s, const RolloutJob *job, const ExplainFlags *f, const Explanation *x) {
    const PatientView *p = &job->patient;
    json_t *list = json_array();
    for (int i = 0; i < x->n && i < f->top; i++) {
        const ExplainItem *q = &x->item[i];
        char what[256];
        describe(s, p, q, what, sizeof what);
        json_t *o =
            json_pack("{s:s, s:s, s:I, s:f, s:f, s:f, s:f, s:f}", "code",
                      s->dataset.vocabulary.token[patient_token(p, q->index[0])].code, "event", what, "token",
                      (json_int_t)q->index[0], "days", (p->minutes[q->index[0]] - (double)job->index_minutes) / 1440,
                      "change", q->change, "se", q->se, "lo", q->lo, "hi", q->hi);
        json_object_set_new(o, "samples", json_integer(q->n_samples));
        json_object_set_new(o, "age_years", number(age_at(p, q->index[0])));
        if (f->gradient) json_object_set_new(o, "gradient_x_input", number(q->gradient));
        json_array_append_new(list, o);
    }
    json_t *o = json_pack("{s:s, s:I, s:f, s:s, s:f, s:f, s:f, s:f, s:I, s:I, s:o}", "note",
                          "what moved the forecast, not a cause", "patient_key", (json_int_t)p->key, "index_days",
                          job->index_minutes / 1440.0, "outcome", f->outcome, "horizon_days", (double)f->horizon / 1440,
                          "risk", x->risk.risk, "lo", x->risk.lo, "hi", x->risk.hi, "samples", (json_int_t)f->samples,
                          "older_events_skipped", (json_int_t)x->skipped, "events", list);
    if (f->gradient) json_object_set_new(o, "risk_along_gradient", number(x->along));
    char *text = json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(9));
    printf("%s\n", text);
    free(text);
    json_decref(o);
}

static Status explain(Session *s, const ExplainFlags *f, Err *err) {
    const Vocabulary *v = &s->dataset.vocabulary;
    RolloutJob job;
    Explanation x = {0};
    uint32_t *mark = xcalloc((size_t)v->n, sizeof *mark);
    Status st = session_job(s, &f->patient, &job, err);
    if (!st) st = outcome_list_mark(v, "--outcome", f->outcome, 0, mark, err);
    if (!st && !job.n_known)
        st =
            err_set(err, ERR_USAGE, "--at %s: nothing is known of the patient then, so nothing can be left out",
                    f->patient.at);
    ExplainOptions o = {.target_se = f->target_se, .samples_most = (int)f->most, .max_events = (int)f->events, .gradient_samples = (int)f->gradient};
    o.rollout = (RolloutOptions){.n_samples = (int)f->samples,
                                 .batch = (int)f->batch,
                                 .max_tokens = (int)f->max_tokens,
                                 .seed = (uint64_t)f->seed,
                                 .horizon_minutes = (double)f->horizon,
                                 .estimator = ESTIMATOR_REACH,
                                 .outcome_bits = mark,
                                 .n_outcomes = 1,
                                 .temperature = 1};
    if (!st) st = explain_run(s, &job, &o, stderr, &x, err);
    if (!st) {
        qsort(x.item, (size_t)x.n, sizeof *x.item, by_change);
        if (f->json) print_json(s, &job, f, &x);
        else print_text(s, &job, f, &x);
        fprintf(stderr, "%lld tokens in %.1f s; of %lld tokens before them %lld were shared\n",
                (long long)x.stats.tokens, x.stats.seconds, (long long)(x.stats.prefill_tokens + x.stats.shared_tokens),
                (long long)x.stats.shared_tokens);
        explain_free(&x);
    }
    free(mark);
    return st;
}

Status cmd_explain(int argc, char **argv, Err *err) {
    ExplainFlags f = {.session = SESSION_FLAGS_DEFAULT,
                      .patient = PATIENT_FLAGS_DEFAULT,
                      .outcome = "MEDS_DEATH",
                      .samples = 64,
                      .most = 1024,
                      .batch = 256,
                      .seed = 1,
                      .horizon = 525600,
                      .max_tokens = 2048,
                      .events = 64,
                      .top = 20};
    Flag flags[] = {
        {"--data", FLAG_STRING, &f.data, 0, 0, NULL, "dataset folder", 0},
        PATIENT_FLAGS(f.patient),
        {"--outcome", FLAG_STRING, &f.outcome, 0, 0, NULL, "CODE[,CODE...] of the risk", 0},
        {"--horizon", FLAG_DURATION, &f.horizon, 1, 1e8, NULL, "how far ahead", 0},
        {"--events", FLAG_INT, &f.events, 0, 1e6, NULL,
         "newest events to leave out in turn; 0 = all that the model sees", 0},
        {"--top", FLAG_INT, &f.top, 1, 1e6, NULL, "how many to list", 0},
        {"--samples", FLAG_INT, &f.samples, 2, 1e6, NULL, "simulated futures of each history", 0},
        {"--target-se", FLAG_FLOAT, &f.target_se, 0, 1, NULL,
         "more futures for events whose change has a larger standard error, twice as many each time; 0 = no", 0},
        {"--samples-most", FLAG_INT, &f.most, 2, 1e6, NULL, "futures of a history at most, with --target-se", 0},
        {"--gradient", FLAG_INT, &f.gradient, 0, 1e6, NULL, "also gradient x input, along so many of the futures; a rough guide: norms hide how long an embedding is", 0},
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
        flags_help(flags, n, "ehr-infer explain CHECKPOINT --data DATASET [--patient K] [--outcome CODE] [...]",
                   "What moved a forecast: each past event is left out in turn, its gaps kept, and the risk estimated "
                   "again; each\n"
                   "simulated future is weighed under both histories, so that small changes show.  What the model went by, not what\n"
                   "caused anything.  s.e.: of the change, from sampling futures; more --samples make it smaller.",
                   stdout);
        return OK;
    }
    if (n_pos != 1 || !f.data) return err_set(err, ERR_USAGE, "needs a CHECKPOINT and --data DATASET (--help)");
    Session s;
    st = session_open(&s, pos[0], f.data, &f.session, err);
    if (!st) session_note(&s, stderr);
    if (!st) st = explain(&s, &f, err);
    session_close(&s);
    return st;
}
