/* serve_second.c - see serve_second.h.  Counts are atomic, and the answering side only ever tries the lock: a thread of
 * low priority that holds one may be kept from running. */
#include "infer/serve_second.h"
#include "infer/embed.h"
#include "infer/serve.h"
#include "kernels/philox.h"
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

static const double EDGE[SECOND_BINS] = {-0.2, -0.1, -0.05, -0.02, -0.01, -0.001, 0, 0.001, 0.01, 0.02, 0.05, 0.1, 0.2};
static const double ANGLE[SECOND_ANGLES] = {0.0001, 0.001, 0.01, 0.05, 0.1, 0.2, 0.5, 1};

/* A question and the first one's answer to it. */
typedef struct {
    Job job; /* first: what the engine takes is this */
    EngineRisk first[ASK_OUTCOMES_MAX];
    double loss, threshold[ASK_OUTCOMES_MAX];
    float *vector; /* of an embedding */
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
    atomic_llong completions, tokens, alike, weighed, logprob_sum, angles[SECOND_ANGLES + 1], angle_sum;
};

/* ---- the answering side ------------------------------------------------------------------------------------------ */

static int is_chosen(const Second *x, uint64_t key) {
    return (double)(philox_mix(key, 0x5ec0d) >> 11) * 0x1p-53 < x->o.share;
}

int second_wants(const Second *x, const Job *job) {
    return !x->stopped && job->ask.n_records && is_chosen(x, job->ask.record->view.key);
}

/* The question of job is q's; of a batch its first record. */
static void question_take(Question *q, Job *job, const SecondTold *told, int width) {
    Job *own = &q->job;
    own->ask = job->ask;
    own->ask.explain = own->ask.stream = own->ask.logprobs = 0;
    job->ask = (Ask){.kind = own->ask.kind};
    while (own->ask.n_records > 1) serve_record_free(&own->ask.record[--own->ask.n_records]);
    memcpy(q->first, job->risk, sizeof q->first);
    q->loss = told->loss;
    for (int k = 0; k < own->ask.n_outcomes; k++) q->threshold[k] = told->threshold[k];
    if (told->vector) {
        q->vector = xmalloc((size_t)width * sizeof *q->vector);
        memcpy(q->vector, told->vector, (size_t)width * sizeof *q->vector);
    }
    if (own->ask.kind != ASK_COMPLETIONS) return;
    own->kept = job->kept;
    own->n_kept = own->ask.samples = job->n_kept;
    own->follow = xcalloc((size_t)own->n_kept, sizeof *own->follow);
    for (int i = 0; i < own->n_kept; i++) own->follow[i] = &own->kept[i];
    job->kept = NULL;
    job->n_kept = 0;
}

void second_offer(Second *x, Job *job, const SecondTold *told) {
    if (!second_wants(x, job) || (job->ask.kind == ASK_COMPLETIONS && !job->n_kept)) return;
    x->offered++;
    if (pthread_mutex_trylock(&x->lock)) {
        x->dropped++;
        return;
    }
    const int full = x->n_waiting == SECOND_QUEUE;
    if (!full) {
        Question *q = xcalloc(1, sizeof *q);
        question_take(q, job, told, x->session.model.cfg.d_model);
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

static void question_free(Job *job) {
    free(((Question *)(void *)job)->vector);
    engine_job_free(job);
}

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

static Status angle_take(void *ctx, int64_t i, const RolloutJob *job, const RolloutWindow *w, const float *hidden,
                         Err *err) {
    const Question *q = ((void **)ctx)[0];
    Second *x = ((void **)ctx)[1];
    const size_t C = (size_t)x->session.model.cfg.d_model;
    float *own = xmalloc(C * sizeof *own);
    double dot = 0, a = 0, b = 0;
    (void)i;
    (void)job;
    (void)err;
    serve_embedding(own, hidden, w, C, q->job.ask.mean);
    for (size_t c = 0; c < C; c++) {
        dot += (double)own[c] * (double)q->vector[c];
        a += (double)own[c] * (double)own[c];
        b += (double)q->vector[c] * (double)q->vector[c];
    }
    const double distance = fmax(0, 1 - dot / sqrt(fmax(a * b, 1e-300)));
    int bin = 0;
    while (bin < SECOND_ANGLES && distance > ANGLE[bin]) bin++;
    x->angles[bin]++;
    x->angle_sum += llround(distance * 1e6);
    free(own);
    return OK;
}

static Status angle_job(void *ctx, int64_t i, RolloutJob *out, Err *err) {
    const ServeRecord *p = ((const Question *)((void **)ctx)[0])->job.ask.record;
    (void)i;
    (void)err;
    *out = (RolloutJob){.patient = p->view, .n_known = p->n_known, .index_minutes = p->index_minutes};
    return OK;
}

static Status angle(Second *x, Question *q, Err *err) {
    void *both[] = {q, x};
    return embed_run(&x->session, 1, angle_job, angle_take, both, NULL, err);
}

/* Futures of the first one, taken again under this one's law. */
static Status choices(void *ctx, Job *job, int record, const RolloutSample *samples, int n, Err *err) {
    Second *x = ctx;
    const int weighed = job->ask.temperature == 1 && !job->ask.top_k;
    (void)record;
    (void)err;
    for (int k = 0; k < n; k++) {
        const RolloutSample *told = job->follow[k];
        const int tokens = told->n_tokens + (told->last >= 0);
        x->completions++;
        x->tokens += tokens;
        x->alike += samples[k].n_alike;
        if (!weighed) continue;
        x->weighed += tokens;
        x->logprob_sum += llround((told->log_q - samples[k].log_q) * 1e6);
    }
    return OK;
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
        if (!job || job->ask.kind == ASK_RISK || job->ask.kind == ASK_COMPLETIONS) {
            *out = job;
            return OK;
        }
        Question *q = (Question *)(void *)job;
        s = job->ask.kind == ASK_SCORE ? score(x, q, err) : angle(x, q, err);
        x->failed += s != OK;
        question_free(job);
        if (s) return s;
    }
}

static int awaited(void *ctx, const Job *job) {
    (void)job;
    return !((Second *)ctx)->closing;
}

static void done(void *ctx, Job *job) {
    compare(ctx, (const Question *)(const void *)job);
    question_free(job);
}

static void failed(void *ctx, Job *job) {
    ((Second *)ctx)->failed++;
    question_free(job);
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
                .choices = choices,
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
        question_free(x->queue);
    }
    vocabulary_free(&x->session.dataset.vocabulary);
    session_close(&x->session);
    pthread_mutex_destroy(&x->lock);
    pthread_cond_destroy(&x->wake);
    free(x);
}

int second_width(const Second *x) { return x->session.model.cfg.d_model; }

const char *second_sha256(const Second *x) { return x->session.model_sha256; }

/* ---- metrics ----------------------------------------------------------------------------------------------------- */

static void one(FILE *f, const char *name, const char *type, const char *help, double value) {
    fprintf(f, "# HELP ehr_second_%s %s\n# TYPE ehr_second_%s %s\nehr_second_%s %.17g\n", name, help, name, type, name,
            value);
}

static void completion_metrics(Second *x, FILE *f) {
    long long n = 0;
    one(f, "completions_total", "counter", "Futures of completions that it followed.", (double)x->completions);
    one(f, "tokens_total", "counter", "Their tokens.", (double)x->tokens);
    one(f, "tokens_alike_total", "counter", "Of those, what it would have drawn there with the same random numbers.",
        (double)x->alike);
    one(f, "weighed_tokens_total", "counter", "Of those, drawn at temperature 1 and without top_k.", (double)x->weighed);
    one(f, "logprob_difference_sum", "gauge",
        "Log probability of those under the first less that under it, in nats, summed: over their number, how far its law is "
        "from the first's (the Kullback-Leibler divergence of a token).",
        (double)x->logprob_sum / 1e6);
    fprintf(f, "# HELP ehr_second_embedding_distance Cosine distance of its embeddings from those told.\n"
               "# TYPE ehr_second_embedding_distance histogram\n");
    for (int b = 0; b < SECOND_ANGLES; b++)
        fprintf(f, "ehr_second_embedding_distance_bucket{le=\"%g\"} %lld\n", ANGLE[b], n += x->angles[b]);
    n += x->angles[SECOND_ANGLES];
    fprintf(f,
            "ehr_second_embedding_distance_bucket{le=\"+Inf\"} %lld\nehr_second_embedding_distance_sum %.9g\n"
            "ehr_second_embedding_distance_count %lld\n",
            n, (double)x->angle_sum / 1e6, n);
}

void second_metrics(Second *x, FILE *f) {
    long long n = 0;
    fprintf(f,
            "# HELP ehr_second_info The checkpoint that is compared.\n# TYPE ehr_second_info gauge\n"
            "ehr_second_info{hash=\"%s\",mode=\"%s\"} 1\n",
            x->session.model_sha256, x->o.mode);
    one(f, "running", "gauge", "0: it failed or was revoked, and is asked nothing more.", !x->stopped);
    one(f, "offered_total", "counter", "Questions answered by the first, of its patients.", (double)x->offered);
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
    completion_metrics(x, f);
}
