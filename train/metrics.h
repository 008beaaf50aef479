/* metrics.h - what a run says of itself: an aligned line a step on stderr and the same numbers in RUN/log.jsonl, one JSON
 * object a line.  Rank 0 only.
 *
 *   {"run": {...settings}, ...}                                 once per start
 *   {"step", "epoch", "loss", "excess", "grad_norm", "learning_rate", "targets", "tokens_per_s", "mfu", "seconds_left"}
 *   {"eval": "tuning", "step", "loss", "per_event", "per_patient_year", "loss_floor", "excess_loss", "excess_se",
 *    "loss_unigram", "loss_bigram", "targets", "patients"}
 *   {"checkpoint": "step-20", "step"}   {"skipped": ..., "step"}
 * Numbers that are not known are null. */
#ifndef EHR_TRAIN_METRICS_H
#define EHR_TRAIN_METRICS_H
#include "train/evaluate.h"
#include "train/step.h"
#include <jansson.h>

typedef struct {
    FILE   *log;
    char   *run_dir, *path;
    int64_t first_step, total_steps; /* first_step: done before this start */
    int     lines, warned;
    double  start_s, train_s;  /* train_s: seconds inside steps */
    double  step_s;            /* running mean of a step */
    double  tokens;            /* since the start */
    double  peak_flops;        /* of all ranks, 0 = unknown */
    const ModelConfig *cfg;    /* borrowed */
} Metrics;

/* Keeps the lines of an earlier start up to first_step, so that the log reads as if nothing had been repeated.
 * run: the settings, for the "run" line; taken over. */
Status metrics_open(Metrics *m, const char *run_dir, int64_t first_step, int64_t total_steps, const ModelConfig *cfg,
                    double peak_flops, json_t *run, Err *err);
void   metrics_close(Metrics *m);
void   metrics_step(Metrics *m, int64_t step, int64_t epoch, double learning_rate, double seconds, const StepResult *r);
void   metrics_skipped(Metrics *m, int64_t step, const StepResult *r, const LoaderCursor *at, int in_a_row);
void   metrics_eval(Metrics *m, int64_t step, const Evaluation *e);
void   metrics_checkpoint(Metrics *m, int64_t step, double seconds);
/* RUN/summary.json and a table on stdout.  last: NULL when nothing was evaluated. */
Status metrics_summary(const Metrics *m, int64_t step, const char *stopped_by, const StepResult *r, const Evaluation *last,
                       int64_t eval_step, int64_t best_step, double best_loss, json_t *run, Err *err);

#endif
