/* check_explain.c - what `explain` finds on oracle patients beside the generator's own change of risk when the same
 * event is left out.  check_explain DATASET CHECKPOINT PATIENTS SAMPLES EVENTS OUTCOME, of the newest EVENTS of each.
 *
 * Most recorded events change nothing at all by the law (a condition told again, a lab measured again since), so ranks over
 * all of them would rank noise: they are taken over those whose true change is at least LARGE.  Starts and ends of visits
 * are told apart: a stay without its admission is a record that no law gives, of which the law's state and a model may
 * make what they like.  CHECKPOINT "-": the law
 * itself as the model, whose changes must then be the true ones (exit 1 when their mean square z is 2 or more, or signs
 * disagree).  Otherwise patients that have a large change are looked at, all their large ones and a few others. */
#include "infer/explain.h"
#include "kernels/philox.h"
#include "tests/oracle_logits.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TRUTH_SAMPLES = 512, TRUTH_BATCHES = 16, OTHERS = 3 };
#define LARGE 0.01
#define HORIZON (365 * 1440)

typedef struct {
    int marker; /* the start or the end of a visit */
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

/* The law's own change, in pairs of streams; exactly none where the event leaves the state as it is. */
static void truth_of(const OracleState *whole, const OracleState *without, const uint8_t *mark, uint64_t key, double *change, double *se) {
    double sum = 0, squares = 0;
    *change = *se = 0;
    if (!memcmp(whole, without, sizeof *whole)) return;
    for (int b = 0; b < TRUTH_BATCHES; b++) {
        double p, q, unused;
        oracle_risk(whole, mark, HORIZON, TRUTH_SAMPLES, philox_mix(key, (uint64_t)b), &p, &unused);
        oracle_risk(without, mark, HORIZON, TRUTH_SAMPLES, philox_mix(key, (uint64_t)b), &q, &unused);
        sum += p - q;
        squares += (p - q) * (p - q);
    }
    *change = sum / TRUTH_BATCHES;
    *se = sqrt((squares / TRUTH_BATCHES - *change * *change) / (TRUTH_BATCHES - 1));
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

/* Over the events whose true change is at least LARGE: how the ranks and signs of `x` (change or gradient) agree with the
 * truth, and how much of the spread is sampling error; over the others, how far from nothing they are said to be. */
static int report(const char *name, const Pair *pair, int n, int gradient, int markers) {
    double *x = xcalloc((size_t)n + 1, sizeof *x), *y = xcalloc((size_t)n + 1, sizeof *y), mean = 0, spread = 0, noise = 0;
    double off = 0, size = 0;
    int large = 0, same = 0, others = 0, moved = 0;
    for (int i = 0; i < n; i++) {
        const double of = gradient ? pair[i].gradient : pair[i].change;
        if (pair[i].marker != markers) continue;
        if (!(fabs(pair[i].truth) >= LARGE)) {
            off += (of - pair[i].truth) * (of - pair[i].truth);
            moved += fabs(of) > 1.96 * pair[i].se && fabs(of) >= LARGE;
            others++;
            continue;
        }
        x[large] = of;
        y[large++] = pair[i].truth;
        same += of * pair[i].truth > 0;
        noise += pair[i].se * pair[i].se;
    }
    for (int i = 0; i < large; i++) mean += x[i] / large;
    for (int i = 0; i < large; i++) spread += (x[i] - mean) * (x[i] - mean);
    for (int i = 0; i < large; i++) size += fabs(y[i]) / large;
    printf("%s: %d events with a true change of at least %g (mean %.3f): rank correlation %.3f, sign agrees in %.1f%%", name, large,
           LARGE, size, large > 2 ? rank_correlation(x, y, large) : NAN, large ? 100.0 * same / large : NAN);
    if (!gradient && large > 2) printf(", %.0f%% of the variance is sampling error", 100 * noise / spread);
    printf("\n  %d other events: root mean square error %.4f", others, sqrt(off / others));
    if (!gradient) printf(", %d said to be at least %g and not by chance", moved, LARGE);
    printf("\n");
    free(x);
    free(y);
    return large && same < 0.9 * large;
}

/* The newest `most` events of the record and their true changes; picked: those of at least LARGE and OTHERS more, or all
 * where `all`.  Returns how many are large. */
static int events_pick(Session *s, LawContext *c, const RolloutJob *job, const uint8_t *mark, int most, int all, uint8_t *pick,
                       double *truth, double *truth_se, Err *err) {
    const Vocabulary *v = &s->dataset.vocabulary;
    const uint64_t key = philox_mix(17, job->patient.key);
    OracleState whole, without;
    int large = 0, others = 0;
    if (state_without(s, c, job, NULL, &whole, err)) return -1;
    for (int64_t i = job->n_known - 1; i >= 0 && most; i--) {
        const int id = (int)patient_token(&job->patient, i);
        const ExplainItem x = {.index = {i}, .n_index = 1};
        if (id >= v->gap_lo && id < v->gap_lo + GAP_TOKENS) continue;
        most--;
        if (state_without(s, c, job, &x, &without, err)) return -1;
        truth_of(&whole, &without, mark, key, &truth[i], &truth_se[i]);
        const int is_large = fabs(truth[i]) >= LARGE;
        /* One in eight of the others, until there are enough. */
        const int other = !is_large && others < OTHERS && philox_mix(key, (uint64_t)i) % 8 == 0;
        pick[i] = (uint8_t)(all || is_large || other);
        large += is_large;
        others += other;
    }
    return large;
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
    ExplainOptions o = {.gradient_samples = law ? 0 : 16};
    o.rollout = (RolloutOptions){.n_samples = atoi(argv[4]),
                                 .batch = 256,
                                 .max_tokens = 4000,
                                 .seed = 3,
                                 .horizon_minutes = HORIZON,
                                 .estimator = ESTIMATOR_REACH,
                                 .outcome_bits = bits,
                                 .n_outcomes = 1,
                                 .temperature = 1};
    const int events = atoi(argv[5]);
    Pair *pair = xcalloc((size_t)patients * (size_t)events, sizeof *pair);
    double z2 = 0;
    for (int64_t row = 0, seen = 0; seen < patients && row < s.dataset.n_patients[SPLIT_HELD_OUT]; row++) {
        RolloutJob job = {0};
        Explanation x;
        if (dataset_patient(&s.dataset, SPLIT_HELD_OUT, row, &job.patient, &err)) return fail(&err);
        /* At the end of a visit about a third into the record, with a history that the model sees whole. */
        for (int64_t i = 0; i < job.patient.n && i < 300; i++)
            if (v->token[patient_token(&job.patient, i)].event_kind == KIND_VISIT_END &&
                job.n_known < job.patient.n / 3)
                job.n_known = i + 1;
        if (job.n_known < 20) continue;
        job.index_minutes = job.patient.minutes[job.n_known - 1];
        if (job.n_known < job.patient.n && job.patient.minutes[job.n_known] == job.index_minutes) continue;
        uint8_t *pick = xcalloc((size_t)job.n_known, 1);
        double *truth = xcalloc((size_t)job.n_known, sizeof *truth), *truth_se = xcalloc((size_t)job.n_known, sizeof *truth_se);
        const int large = events_pick(&s, &c, &job, mark, events, law, pick, truth, truth_se, &err);
        o.only = pick;
        /* A model is asked about patients with something to find. */
        if (large < 0 || ((large || law) && explain_run(&s, &job, &o, stderr, &x, &err))) return fail(&err);
        seen += large || law;
        for (int i = 0; (large || law) && i < x.n; i++) {
            const int64_t at = x.item[i].index[0];
            const int kind = v->token[patient_token(&job.patient, at)].event_kind;
            pair[n] = (Pair){kind == KIND_VISIT_START || kind == KIND_VISIT_END, truth[at], truth_se[at], x.item[i].change, x.item[i].se, x.item[i].gradient};
            double e = pair[n].change - pair[n].truth;
            /* An exact zero (the futures are the same) has no error to measure it by. */
            z2 += e * e / (pair[n].se * pair[n].se + pair[n].truth_se * pair[n].truth_se + 1e-12);
            n++;
        }
        free(pick);
        free(truth);
        free(truth_se);
        if (!large && !law) continue;
        explain_free(&x);
    }
    failed = report("leave one out", pair, n, 0, 0) && law;
    report("leave a visit's start or end out", pair, n, 0, 1);
    if (law) {
        printf("mean square z of the law's changes against its own: %.2f\n", z2 / n);
        failed |= !(n > 0 && z2 / n < 2);
    } else {
        report("gradient x input", pair, n, 1, 0);
    }
    free(pair);
    free(bits);
    law_close(&c);
    return failed;
}
