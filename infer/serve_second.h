/* serve_second.h - a second checkpoint that answers what the first one has answered, for comparison: its answers are
 * counted in the metrics and told to nobody.  It runs on a thread of its own, of the lowest priority, behind a bounded
 * queue; what finds the queue full, or busy, is dropped and counted, so that it can neither slow nor fail an answer. */
#ifndef EHR_INFER_SERVE_SECOND_H
#define EHR_INFER_SERVE_SECOND_H
#include "infer/serve_engine.h"

enum { SECOND_BINS = 13, SECOND_QUEUE = 64 };
typedef struct Second Second;
typedef struct {
    double share;     /* of patients, by their keys: the same ones always */
    int batch;        /* live futures */
    const char *mode; /* "shadow" or "canary", for the metrics */
} SecondOptions;

/* s: opened, with the first one's vocabulary; it and its vocabulary become the second's. */
void second_open(Second **out, const Session *s, const SecondOptions *o);
void second_start(Second *x);
void second_close(Second *x);
const char *second_sha256(const Second *x);
/* A question with the first one's answer, in job->risk or loss (mean, of a score); threshold (outcomes): above which
 * the first one's risk raises an alert, NaN: there is none.  Takes the question out of job when it keeps it. */
void second_offer(Second *x, Job *job, double loss, const double *threshold);
/* Revoked: nothing more is asked of it. */
void second_stop(Second *x);
void second_metrics(Second *x, FILE *f);

#endif
