/* serve_second.h - a second checkpoint that answers what the first one has answered, for comparison: its answers are
 * counted in the metrics and told to nobody.  Risks and scores are computed again.  Completions are followed: what would
 * it have drawn at each place, with the same random numbers, and how likely did it find what was drawn.  Embeddings are
 * compared by their angle, which says something of checkpoints of one origin.  Of a batch the first record is looked at.
 *
 * It runs on a thread of its own, of the lowest priority, behind a bounded queue; what finds the queue full, or busy, is
 * dropped and counted, so that it can neither slow nor fail an answer. */
#ifndef EHR_INFER_SERVE_SECOND_H
#define EHR_INFER_SERVE_SECOND_H
#include "infer/serve_engine.h"

enum { SECOND_BINS = 13, SECOND_ANGLES = 8, SECOND_QUEUE = 64, SECOND_FUTURES = 16 /* of completions, followed */ };
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
int second_width(const Second *x); /* d_model: embeddings of another width are not compared */
/* Whether it will be asked what job asks, so that of completions futures are to be kept (job->kept, SECOND_FUTURES of the
 * first record). */
int second_wants(const Second *x, const Job *job);
/* The first one's answer, beside job->risk and job->kept. */
typedef struct {
    double loss;             /* mean, of a score */
    const double *threshold; /* (outcomes) above which the first one's risk raises an alert, NaN: there is none */
    const float *vector;     /* (d_model) embedding of the first record */
} SecondTold;
/* Takes the question out of job when it keeps it. */
void second_offer(Second *x, Job *job, const SecondTold *told);
/* Revoked: nothing more is asked of it. */
void second_stop(Second *x);
void second_metrics(Second *x, FILE *f);

#endif
