/* check_explain.c - what `explain` finds on oracle patients beside the generator's own change of risk when the same
 * event is left out.  check_explain DATASET CHECKPOINT PATIENTS SAMPLES EVENTS OUTCOME; CHECKPOINT "-": the law itself
 * as the model, whose changes must then be the true ones (exit 1 when their mean square z is 2 or more, or signs
 * disagree).  Prints, over all events: rank correlation with the truth, agreement of signs where the true change is at
 * least 0.01, and the same for gradient x input. */
#include "infer/explain.h"
#include "kernels/philox.h"
#include "tests/oracle_logits.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TRUTH_SAMPLES = 8192 };
#define LARGE 0.01

typedef struct {
    double truth, truth_se, change, se, gradient;
} Pair;

static int fail(const Err *err) {
    fprintf(stderr, "check_explain: %s\n", err->msg);
    return 1;
}

static Status state_without(Session *s, LawContext *c, const RolloutJob *job, const ExplainItem *x, OracleState *out,
                            Err *err) {
    OracleCursor cursor;
    int32_t prefix[16];
    int n = dataset_prefix(&s->dataset, &job->patient, 0, prefix, 16);
    Status st = OK;
    oracle_law_start(&cursor);
    for (int i = 0; !st && i < n; i++) st = oracle_law_feed(&c->law, &cursor, prefix[i], err);
    for (int64_t i = 0; !st && i < job->n_known; i++)
        if (!x || i != x->index[0]) st = oracle_law_feed(&c->law, &cursor, (int)patient_token(&job->patient, i), err);
    *out = cursor.state;
    return st;
}

static const double *sort_by;
static int compare_ranks(const void *a, const void *b) {
    double x = sort_by[*(const int *)a], y = sort_by[*(const int *)b];
    return x < y ? -1 : x > y;
}

static void ranks_make(const double *x, int n, double *rank) {
    int *order = xcalloc((size_t)n, sizeof *order);
    for (int i = 0; i < n; i++) order[i] = i;
    sort_by = x;
    qsort(order, (size_t)n, sizeof *order, compare_ranks);
    for (int i = 0; i < n;) {
        int j = i;
        while (j < n && x[order[j]] == x[order[i]]) j++;
        for (int k = i; k < j; k++) rank[order[k]] = (i + j - 1) / 2.0;
        i = j;
    }
    free(order);
}

static double rank_correlation(const double *x, const double *y, int n) {
    double *a = xcalloc((size_t)n, sizeof *a), *b = xcalloc((size_t)n, sizeof *b), m = (n - 1) / 2.0, xy = 0, xx = 0,
           yy = 0;
    ranks_make(x, n, a);
    ranks_make(y, n, b);
    for (int i = 0; i < n; i++) {
        xy += (a[i] - m) * (b[i] - m);
        xx += (a[i] - m) * (a[i] - m);
        yy += (b[i] - m) * (b[i] - m);
    }
    free(a);
    free(b);
    return xy / sqrt(xx * yy);
}

static int report(const char *name, const Pair *pair, int n, int gradient) {
    double *x = xcalloc((size_t)n, sizeof *x), *y = xcalloc((size_t)n, sizeof *y),
           *big_x = xcalloc((size_t)n, sizeof *x), *big_y = xcalloc((size_t)n, sizeof *y);
    int large = 0, same = 0;
    for (int i = 0; i < n; i++) {
        x[i] = gradient ? pair[i].gradient : pair[i].change;
        y[i] = pair[i].truth;
        if (!(fabs(y[i]) >= LARGE)) continue;
        big_x[large] = x[i];
        big_y[large++] = y[i];
        same += x[i] * y[i] > 0;
    }
    printf("%s: %d events, rank correlation %.3f; %d with a true change of at least %g: %.3f, sign agrees in %.1f%%\n",
           name, n, rank_correlation(x, y, n), large, LARGE, large > 2 ? rank_correlation(big_x, big_y, large) : NAN,
           large ? 100.0 * same / large : NAN);
    free(x);
    free(y);
    free(big_x);
    free(big_y);
    return large && same < 0.9 * large;
}

int main(int argc, char **argv) {
    Err err = {OK, ""};
    Session s = {0};
    LawContext c = {0};
    if (argc != 7) return 2;
    int law = !strcmp(argv[2], "-"), patients = atoi(argv[3]), n = 0, failed = 0;
    if (law ? dataset_open(&s.dataset, argv[1], &err)
            : session_open(&s, argv[2], argv[1], &(SessionFlags)SESSION_FLAGS_PLAIN, &err))
        return fail(&err);
    if (law_open(&c, &s.dataset.vocabulary, &err)) return fail(&err);
    if (law) s.law = law_of(&c);
    const Vocabulary *v = &s.dataset.vocabulary;
    uint32_t *bits = xcalloc((size_t)v->n, sizeof *bits);
    uint8_t mark[ORACLE_WHATS] = {0};
    if (outcome_mark(v, argv[6], &argv[6], 1, 0, bits, &err)) return fail(&err);
    for (int id = 0; id < v->n; id++)
        if (bits[id] && c.law.what[id] >= 0) mark[c.law.what[id]] = 1;
    ExplainOptions o = {.max_events = atoi(argv[5]), .gradient_samples = law ? 0 : 16};
    o.rollout = (RolloutOptions){.n_samples = atoi(argv[4]),
                                 .batch = 256,
                                 .max_tokens = 4000,
                                 .seed = 3,
                                 .horizon_minutes = 365 * 1440.0,
                                 .estimator = ESTIMATOR_REACH,
                                 .outcome_bits = bits,
                                 .n_outcomes = 1,
                                 .temperature = 1};
    Pair *pair = xcalloc((size_t)patients * (size_t)o.max_events, sizeof *pair);
    double z2 = 0;
    for (int64_t row = 0, seen = 0; seen < patients && row < s.dataset.n_patients[SPLIT_HELD_OUT]; row++) {
        RolloutJob job = {0};
        Explanation x;
        OracleState whole, without;
        if (dataset_patient(&s.dataset, SPLIT_HELD_OUT, row, &job.patient, &err)) return fail(&err);
        /* At the end of a visit about a third into the record, with a history that the model sees whole. */
        for (int64_t i = 0; i < job.patient.n && i < 300; i++)
            if (v->token[patient_token(&job.patient, i)].event_kind == KIND_VISIT_END &&
                job.n_known < job.patient.n / 3)
                job.n_known = i + 1;
        if (job.n_known < 20) continue;
        job.index_minutes = job.patient.minutes[job.n_known - 1];
        if (job.n_known < job.patient.n && job.patient.minutes[job.n_known] == job.index_minutes) continue;
        seen++;
        uint64_t key = philox_mix(17, (uint64_t)row);
        double p, se, q, q_se;
        if (explain_run(&s, &job, &o, stderr, &x, &err) || state_without(&s, &c, &job, NULL, &whole, &err))
            return fail(&err);
        oracle_risk(&whole, mark, 365 * 1440, TRUTH_SAMPLES, key, &p, &se);
        for (int i = 0; i < x.n; i++) {
            if (state_without(&s, &c, &job, &x.item[i], &without, &err)) return fail(&err);
            oracle_risk(&without, mark, 365 * 1440, TRUTH_SAMPLES, key, &q, &q_se);
            pair[n] = (Pair){p - q, sqrt(se * se + q_se * q_se), x.item[i].change, x.item[i].se, x.item[i].gradient};
            double e = pair[n].change - pair[n].truth;
            /* An exact zero (the futures are the same) has no error to measure it by. */
            z2 += e * e / (pair[n].se * pair[n].se + pair[n].truth_se * pair[n].truth_se + 1e-12);
            n++;
        }
        explain_free(&x);
    }
    failed = report("leave one out", pair, n, 0) && law;
    if (law) {
        printf("mean square z of the law's changes against its own: %.2f\n", z2 / n);
        failed |= !(n > 0 && z2 / n < 2);
    } else {
        report("gradient x input", pair, n, 1);
    }
    free(pair);
    free(bits);
    law_close(&c);
    return failed;
}
