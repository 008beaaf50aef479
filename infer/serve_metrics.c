/* serve_metrics.c - see serve_metrics.h. */
#include "infer/serve_metrics.h"
#include <stdlib.h>
#include <string.h>

static const int STATUS[METRIC_STATUSES] = {200, 400, 401, 403, 404, 405, 408, 413, 429, 499, 500, 503, 504, 0};
static const double WITHIN[METRIC_SECONDS] = {0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60};

void serve_metrics_init(ServeMetrics *m) {
    memset(m, 0, sizeof *m);
    pthread_mutex_init(&m->lock, NULL);
}

void serve_metrics_answer(ServeMetrics *m, int endpoint, int status, double seconds) {
    int s = 0;
    REQUIRE(endpoint >= 0 && endpoint < METRIC_ENDPOINTS);
    while (s < METRIC_STATUSES - 1 && STATUS[s] != status) s++;
    pthread_mutex_lock(&m->lock);
    m->requests[endpoint][s]++;
    if (status == 200) {
        for (int b = 0; b < METRIC_SECONDS; b++) m->seconds[endpoint][b] += seconds <= WITHIN[b];
        m->seconds[endpoint][METRIC_SECONDS]++;
        m->seconds_sum[endpoint] += seconds;
    }
    pthread_mutex_unlock(&m->lock);
}

void serve_metrics_record(ServeMetrics *m, int64_t events, int64_t unknown) {
    pthread_mutex_lock(&m->lock);
    m->events += events;
    m->unknown += unknown;
    pthread_mutex_unlock(&m->lock);
}

void serve_metrics_score(ServeMetrics *m, double risk) {
    int bin = (int)(risk * METRIC_SCORES);
    if (bin < 0) bin = 0;
    if (bin >= METRIC_SCORES) bin = METRIC_SCORES - 1;
    pthread_mutex_lock(&m->lock);
    m->score[bin]++;
    m->score_sum += risk;
    pthread_mutex_unlock(&m->lock);
}

void serve_metrics_engine(ServeMetrics *m, int64_t futures, int64_t tokens, int64_t prefill_tokens, int64_t steps,
                          int64_t decoded) {
    pthread_mutex_lock(&m->lock);
    m->futures += futures;
    m->tokens += tokens;
    m->prefill_tokens += prefill_tokens;
    m->steps += steps;
    m->decoded += decoded;
    pthread_mutex_unlock(&m->lock);
}

void serve_metrics_request(ServeMetrics *m) {
    pthread_mutex_lock(&m->lock);
    m->computed++;
    pthread_mutex_unlock(&m->lock);
}

void serve_metrics_refused(ServeMetrics *m, int full, int quota, int late) {
    pthread_mutex_lock(&m->lock);
    m->refused_full += full;
    m->refused_quota += quota;
    m->late += late;
    pthread_mutex_unlock(&m->lock);
}

void serve_metrics_abstain(ServeMetrics *m, int is_short, int unknown, int dead) {
    pthread_mutex_lock(&m->lock);
    m->abstain_short += is_short != 0;
    m->abstain_unknown += unknown != 0;
    m->abstain_dead += dead != 0;
    pthread_mutex_unlock(&m->lock);
}

static void head(FILE *f, const char *name, const char *type, const char *help) {
    fprintf(f, "# HELP ehr_%s %s\n# TYPE ehr_%s %s\n", name, help, name, type);
}

static void one(FILE *f, const char *name, const char *type, const char *help, double value) {
    head(f, name, type, help);
    fprintf(f, "ehr_%s %.17g\n", name, value);
}

static void histograms(FILE *f, const ServeMetrics *m, const char *const *endpoint) {
    head(f, "request_seconds", "histogram", "Time from the last byte of a request to its answer, of answers 200.");
    for (int e = 0; endpoint[e]; e++) {
        const int64_t all = m->seconds[e][METRIC_SECONDS];
        if (!all) continue;
        for (int b = 0; b < METRIC_SECONDS; b++)
            fprintf(f, "ehr_request_seconds_bucket{endpoint=\"%s\",le=\"%g\"} %lld\n", endpoint[e], WITHIN[b],
                    (long long)m->seconds[e][b]);
        fprintf(f, "ehr_request_seconds_bucket{endpoint=\"%s\",le=\"+Inf\"} %lld\n", endpoint[e], (long long)all);
        fprintf(f, "ehr_request_seconds_sum{endpoint=\"%s\"} %.9g\nehr_request_seconds_count{endpoint=\"%s\"} %lld\n",
                endpoint[e], m->seconds_sum[e], endpoint[e], (long long)all);
    }
    int64_t n = 0;
    head(f, "score", "histogram", "Risks told.");
    for (int b = 0; b < METRIC_SCORES; b++) {
        n += m->score[b];
        if (b < METRIC_SCORES - 1)
            fprintf(f, "ehr_score_bucket{le=\"%g\"} %lld\n", (b + 1) / (double)METRIC_SCORES, (long long)n);
    }
    fprintf(f, "ehr_score_bucket{le=\"+Inf\"} %lld\nehr_score_sum %.9g\nehr_score_count %lld\n", (long long)n,
            m->score_sum, (long long)n);
}

char *serve_metrics_text(ServeMetrics *m, const ServeGauges *g, size_t *size) {
    char *text = NULL;
    FILE *f = open_memstream(&text, size);
    REQUIRE(f != NULL);
    pthread_mutex_lock(&m->lock);
    head(f, "model_info", "gauge", "The model that answers.");
    fprintf(f, "ehr_model_info{hash=\"%s\",stage=\"%s\"} 1\n", g->model_sha256, g->stage);
    one(f, "ready", "gauge", "1: requests are taken.", g->ready);
    one(f, "killed", "gauge", "1: the kill switch is on.", g->killed);
    one(f, "draining", "gauge", "1: ending after what is there.", g->draining);
    one(f, "up_seconds", "gauge", "Since the start.", g->up_s);
    one(f, "requests_waiting", "gauge", "In the queue.", g->waiting);
    one(f, "requests_running", "gauge", "Being computed.", g->running);
    one(f, "queue_capacity", "gauge", "More are answered 429.", g->queue_max);
    head(f, "requests_total", "counter", "Answers by endpoint and status; status 0: any other.");
    for (int e = 0; g->endpoint[e]; e++)
        for (int s = 0; s < METRIC_STATUSES; s++)
            if (m->requests[e][s])
                fprintf(f, "ehr_requests_total{endpoint=\"%s\",status=\"%d\"} %lld\n", g->endpoint[e], STATUS[s],
                        (long long)m->requests[e][s]);
    histograms(f, m, g->endpoint);
    one(f, "events_total", "counter", "Events of the records told.", (double)m->events);
    one(f, "unknown_events_total", "counter", "Of those, without a token of their own or of an ancestor.",
        (double)m->unknown);
    one(f, "unknown_token_ratio", "gauge", "Their share.", m->events ? (double)m->unknown / (double)m->events : 0);
    head(f, "abstain_total", "counter", "Answers with a reason not to rely on them.");
    fprintf(f, "ehr_abstain_total{reason=\"short\"} %lld\nehr_abstain_total{reason=\"unknown\"} %lld\n",
            (long long)m->abstain_short, (long long)m->abstain_unknown);
    fprintf(f, "ehr_abstain_total{reason=\"dead\"} %lld\n", (long long)m->abstain_dead);
    one(f, "futures_total", "counter", "Simulated futures.", (double)m->futures);
    one(f, "tokens_total", "counter", "Tokens generated.", (double)m->tokens);
    one(f, "prefill_tokens_total", "counter", "Tokens of records read.", (double)m->prefill_tokens);
    one(f, "steps_total", "counter", "Steps of the engine.", (double)m->steps);
    one(f, "step_futures_total", "counter", "Futures that they advanced: their mean is this over the steps.",
        (double)m->decoded);
    one(f, "computed_total", "counter", "Risks and completions computed.", (double)m->computed);
    one(f, "refused_full_total", "counter", "Refused because the queue was full.", (double)m->refused_full);
    one(f, "refused_quota_total", "counter", "Refused because a key's quota was used up.", (double)m->refused_quota);
    one(f, "late_total", "counter", "Given up at their deadline.", (double)m->late);
    pthread_mutex_unlock(&m->lock);
    if (g->more) g->more(g->ctx, f);
    REQUIRE(!fclose(f));
    return text;
}
