/* serve_second.c - see serve_second.h.  Counts are atomic, and the answering side only ever tries the lock: a thread of
 * low priority that holds one may be kept from running. */
#include "infer/serve_second.h"
#include "infer/serve.h"
#include "kernels/philox.h"
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

static const double EDGE[SECOND_BINS] = {-0.2, -0.1, -0.05, -0.02, -0.01, -0.001, 0, 0.001, 0.01, 0.02, 0.05, 0.1, 0.2};

/* A question and the first one's answer to it. */
typedef struct {
    Job job; /* first: what the engine takes is this */
    EngineRisk first[ASK_OUTCOMES_MAX];
    double loss, threshold[ASK_OUTCOMES_MAX];
} Question;

struct Second {
    Session session;
    SecondOptions o;
    pthread_t thread;
    pthread_mutex_t lock; /* of the queue */
    pthread_cond_t wake;
    Job *queue;
    int n_waiting;
    atomic_int closing, stopped;
    /* Millionths, for sums of what is no count. */
    atomic_llong offered, dropped, failed, risks, scores, agree, alerts[2][2], difference[SECOND_BINS + 1], sum,
        loss_sum;
};

/* ---- the answering side ------------------------------------------------------------------------------------------ */

static int is_chosen(const Second *x, uint64_t key) {
    return (double)(philox_mix(key, 0x5ec0d) >> 11) * 0x1p-53 < x->o.share;
}

void second_offer(Second *x, Job *job, double loss, const double *threshold) {
    const AskKind kind = job->ask.kind;
    if (x->stopped || (kind != ASK_RISK && kind != ASK_SCORE) || !is_chosen(x, job->ask.record->view.key)) return;
    x->offered++;
    if (pthread_mutex_trylock(&x->lock)) {
        x->dropped++;
        return;
    }
    const int full = x->n_waiting == SECOND_QUEUE;
    if (!full) {
        Question *q = xcalloc(1, sizeof *q);
        q->job.ask = job->ask;
        q->job.ask.explain = 0;
        job->ask = (Ask){.kind = kind};
        memcpy(q->first, job->risk, sizeof q->first);
        q->loss = loss;
        for (int k = 0; k < q->job.ask.n_outcomes; k++) q->threshold[k] = threshold[k];
        Job **at = &x->queue;
        while (*at) at = &(*at)->next;
        *at = &q->job;
        x->n_waiting++;
        pthread_cond_signal(&x->wake);
    }
    pthread_mutex_unlock(&x->lock);
    x->dropped += full;
}

/* ---- its own thread ---------------------------------------------------------------------------------------------- */

static void compare(Second *x, const Question *q) {
    for (int k = 0; k < q->job.ask.n_outcomes; k++) {
        const RiskEstimate *a = &q->first[k].risk, *b = &q->job.risk[k].risk;
        const double d = b->risk - a->risk;
        int bin = 0;
        while (bin < SECOND_BINS && d > EDGE[bin]) bin++;
        x->difference[bin]++;
        x->sum += llround(d * 1e6);
        x->risks++;
        /* What sampling alone explains, 95 times of 100. */
        x->agree += d == 0 || fabs(d) <= 1.959963984540054 * sqrt(a->mc_se * a->mc_se + b->mc_se * b->mc_se);
        if (!isnan(q->threshold[k])) x->alerts[a->risk >= q->threshold[k]][b->risk >= q->threshold[k]]++;
    }
}

static Status score(Second *x, const Question *q, Err *err) {
    const ServeRecord *p = q->job.ask.record;
    float *loss = xcalloc((size_t)p->view.n + 1, sizeof *loss);
    double total = 0;
    const Status s = serve_losses(&x->session, p, p->tokens, p->minutes, p->view.n, loss, err);
    for (int64_t i = 0; i < p->view.n; i++) total += (double)loss[i];
    if (!s && p->view.n) {
        x->loss_sum += llround((total / (double)p->view.n - q->loss) * 1e6);
        x->scores++;
    }
    free(loss);
    return s;
}

static Status take(void *ctx, EngineTake how, Job **out, Err *err) {
    Second *x = ctx;
    *out = NULL;
    if (how == TAKE_SMALL) return OK;
    for (Status s = OK;;) {
        pthread_mutex_lock(&x->lock);
        while (how == TAKE_WAIT && !x->queue && !x->closing) pthread_cond_wait(&x->wake, &x->lock);
        Job *job = x->closing ? NULL : x->queue;
        if (job) {
            x->queue = job->next;
            x->n_waiting--;
        }
        pthread_mutex_unlock(&x->lock);
        if (!job || job->ask.kind == ASK_RISK) {
            *out = job;
            return OK;
        }
        s = score(x, (const Question *)(const void *)job, err);
        x->failed += s != OK;
        engine_job_free(job);
        if (s) return s;
    }
}

static int awaited(void *ctx, const Job *job) {
    (void)job;
    return !((Second *)ctx)->closing;
}

static void done(void *ctx, Job *job) {
    compare(ctx, (const Question *)(const void *)job);
    engine_job_free(job);
}

static void failed(void *ctx, Job *job) {
    ((Second *)ctx)->failed++;
    engine_job_free(job);
}

static void step(void *ctx, const RolloutStats *stats) {
    (void)ctx;
    (void)stats;
}

static void *second_main(void *ctx) {
    Second *x = ctx;
    Engine e = {.session = &x->session,
                .batch = x->o.batch,
                .take = take,
                .awaited = awaited,
                .done = done,
                .failed = failed,
                .step = step,
                .ctx = x};
    Err err;
    Status s;
    /* Of this thread, and of those that it computes with. */
    setpriority(PRIO_PROCESS, 0, 19);
    while ((s = engine_run(&e, &err))) {
        fprintf(stderr, "ehr-infer serve: the %s: %s\n", x->o.mode, err.msg);
        if (s != ERR_DEVICE && s != ERR_NOMEM) continue;
        x->stopped = 1;
        break;
    }
    return NULL;
}

/* ---- opening ----------------------------------------------------------------------------------------------------- */

void second_open(Second **out, const Session *s, const SecondOptions *o) {
    Second *x = xcalloc(1, sizeof *x);
    x->session = *s;
    x->session.law.model = &x->session.model; /* it has moved */
    x->o = *o;
    pthread_mutex_init(&x->lock, NULL);
    pthread_cond_init(&x->wake, NULL);
    *out = x;
}

void second_start(Second *x) { REQUIRE(!pthread_create(&x->thread, NULL, second_main, x)); }

void second_stop(Second *x) { x->stopped = 1; }

void second_close(Second *x) {
    pthread_mutex_lock(&x->lock);
    x->closing = 1;
    pthread_cond_signal(&x->wake);
    pthread_mutex_unlock(&x->lock);
    if (x->thread) pthread_join(x->thread, NULL);
    for (Job *next; x->queue; x->queue = next) {
        next = x->queue->next;
        engine_job_free(x->queue);
    }
    vocabulary_free(&x->session.dataset.vocabulary);
    session_close(&x->session);
    pthread_mutex_destroy(&x->lock);
    pthread_cond_destroy(&x->wake);
    free(x);
}

const char *second_sha256(const Second *x) { return x->session.model_sha256; }

/* ---- metrics ----------------------------------------------------------------------------------------------------- */

static void one(FILE *f, const char *name, const char *type, const char *help, double value) {
    fprintf(f, "# HELP ehr_second_%s %s\n# TYPE ehr_second_%s %s\nehr_second_%s %.17g\n", name, help, name, type, name,
            value);
}

void second_metrics(Second *x, FILE *f) {
    long long n = 0;
    fprintf(f,
            "# HELP ehr_second_info The checkpoint that is compared.\n# TYPE ehr_second_info gauge\n"
            "ehr_second_info{hash=\"%s\",mode=\"%s\"} 1\n",
            x->session.model_sha256, x->o.mode);
    one(f, "running", "gauge", "0: it failed or was revoked, and is asked nothing more.", !x->stopped);
    one(f, "offered_total", "counter", "Risks and scores answered by the first, of its patients.", (double)x->offered);
    one(f, "dropped_total", "counter", "Of those, not asked: its queue was full.", (double)x->dropped);
    one(f, "failed_total", "counter", "Of those, it could not compute.", (double)x->failed);
    fprintf(f, "# HELP ehr_second_difference Its risks less those told.\n# TYPE ehr_second_difference histogram\n");
    for (int b = 0; b < SECOND_BINS; b++)
        fprintf(f, "ehr_second_difference_bucket{le=\"%g\"} %lld\n", EDGE[b], n += x->difference[b]);
    n += x->difference[SECOND_BINS];
    fprintf(f,
            "ehr_second_difference_bucket{le=\"+Inf\"} %lld\nehr_second_difference_sum %.9g\n"
            "ehr_second_difference_count %lld\n",
            n, (double)x->sum / 1e6, n);
    one(f, "agree_total", "counter", "Risks that differ by no more than sampling explains, 95 of 100 times.",
        (double)x->agree);
    fprintf(f, "# HELP ehr_second_alerts_total Risks with a threshold, by who would have raised an alert.\n"
               "# TYPE ehr_second_alerts_total counter\n");
    for (int a = 0; a < 2; a++)
        for (int b = 0; b < 2; b++)
            fprintf(f, "ehr_second_alerts_total{first=\"%d\",second=\"%d\"} %lld\n", a, b, (long long)x->alerts[a][b]);
    one(f, "scores_total", "counter", "Scores compared.", (double)x->scores);
    one(f, "loss_difference_sum", "counter", "Their losses less those told, nats a token, summed.",
        (double)x->loss_sum / 1e6);
}
