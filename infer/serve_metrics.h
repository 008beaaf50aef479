/* serve_metrics.h - what a server counts, in Prometheus' text form.  Labels come from lists of ours, never from
 * requests, so that nobody can make their number grow. */
#ifndef EHR_INFER_SERVE_METRICS_H
#define EHR_INFER_SERVE_METRICS_H
#include "model/base.h"
#include <pthread.h>

enum { METRIC_ENDPOINTS = 16, METRIC_STATUSES = 14, METRIC_SECONDS = 10, METRIC_SCORES = 10 };
typedef struct {
    pthread_mutex_t lock;
    int64_t requests[METRIC_ENDPOINTS][METRIC_STATUSES];
    int64_t seconds[METRIC_ENDPOINTS][METRIC_SECONDS + 1]; /* answered within; the last: all */
    double seconds_sum[METRIC_ENDPOINTS];
    int64_t score[METRIC_SCORES]; /* risks told, by tenths */
    double score_sum;
    int64_t events, unknown; /* of the records told; of those, told as UNKNOWN */
    int64_t futures, tokens, prefill_tokens, steps, decoded, computed; /* decoded: futures advanced, over all steps */
    int64_t late;                                                      /* given up at their deadline */
    int64_t refused_full, refused_quota;
    int64_t abstain_short, abstain_unknown, abstain_dead; /* risks told with a reason not to rely on them */
} ServeMetrics;

/* What is so now, beside the counts. */
typedef struct {
    const char *const *endpoint; /* names, NULL-ended */
    const char *model_sha256, *stage;
    int ready, killed, draining, waiting, running, queue_max;
    double up_s;
    void (*more)(void *ctx, FILE *f); /* what else there is to tell; NULL: nothing */
    void *ctx;
} ServeGauges;

void serve_metrics_init(ServeMetrics *m);
void serve_metrics_answer(ServeMetrics *m, int endpoint, int status, double seconds);
void serve_metrics_record(ServeMetrics *m, int64_t events, int64_t unknown);
void serve_metrics_score(ServeMetrics *m, double risk);
/* What the engine has done since it was last told. */
void serve_metrics_engine(ServeMetrics *m, int64_t futures, int64_t tokens, int64_t prefill_tokens, int64_t steps,
                          int64_t decoded);
void serve_metrics_request(ServeMetrics *m); /* computed by it */
void serve_metrics_refused(ServeMetrics *m, int full, int quota, int late);
void serve_metrics_abstain(ServeMetrics *m, int is_short, int unknown, int dead);
char *serve_metrics_text(ServeMetrics *m, const ServeGauges *g, size_t *size); /* free() it */

#endif
