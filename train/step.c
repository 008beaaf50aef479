/* step.c - see step.h.
 *
 * Packed patients leave a different number of targets in every row, so losses, gradients and counts are summed over
 * passes and ranks and divided once: the number of ranks never changes what is optimized. */
#include "train/step.h"
#include <math.h>

enum { SUM_SQUARES, SUM_LOSS, SUM_TARGETS, SUM_EXCESS, SUM_KNOWN, SUM_TOKENS, SUM_CONTEXT, SUM_STOP, SUM_COUNT };

static void add_losses(const Batch *b, const float *losses, int floor_valid, double *sum) {
    for (int n = 0; n < b->N; n++) {
        if (b->target_lo[n] < 0) continue;
        sum[SUM_LOSS] += (double)losses[n];
        sum[SUM_TARGETS] += 1;
        if (!floor_valid || !isfinite(b->oracle_logp[n])) continue;
        sum[SUM_EXCESS] += (double)losses[n] + (double)b->oracle_logp[n];
        sum[SUM_KNOWN] += 1;
    }
    for (int i = 0; i < b->n_seq; i++) {
        double length = b->cu_seqlens[i + 1] - b->cu_seqlens[i];
        if (b->seq_patient[i] < 0) continue;
        sum[SUM_TOKENS] += length;
        sum[SUM_CONTEXT] += length * length;
    }
}

static Status run_passes(Stepper *s, double *sum, Err *err) {
    Model *m = s->model;
    optimizer_zero_grad(s->optimizer);
    for (int pass = 0; pass < s->passes; pass++) {
        Batch *batch;
        Status status = loader_next(s->loader, &batch, err);
        if (status) return status;
        model_forward(m, s->acts, batch);
        model_loss(m, s->acts, batch, &s->optimizer->grads);
        int last = pass == s->passes - 1;
        model_backward(m, s->acts, batch, &s->optimizer->grads, last ? optimizer_reduce_bucket : NULL, s->optimizer);
        device_download(m->dev, s->losses, acts_losses(s->acts), (size_t)batch->N * sizeof *s->losses);
        add_losses(batch, s->losses, s->floor_valid, sum);
    }
    if (device_sync(m->dev)) return err_set(err, ERR_DEVICE, "%s: %s", device_name(m->dev), device_error(m->dev));
    return OK;
}

Status stepper_run(Stepper *s, double learning_rate, int64_t update, int stop, StepResult *r, Err *err) {
    double sum[SUM_COUNT] = {0};
    Status status = run_passes(s, sum, err);
    if (!status) status = dist_wait(s->dist, err);
    if (status) return status;
    sum[SUM_SQUARES] = optimizer_sum_squares(s->optimizer);
    sum[SUM_STOP] = stop;
    if ((status = dist_sum(s->dist, sum, SUM_COUNT, err))) return status;

    double targets = sum[SUM_TARGETS];
    *r = (StepResult){.loss = sum[SUM_LOSS] / targets,
                      .excess = sum[SUM_KNOWN] > 0 ? sum[SUM_EXCESS] / sum[SUM_KNOWN] : NAN,
                      .grad_norm = sqrt(sum[SUM_SQUARES]) / targets,
                      .mean_context = sum[SUM_CONTEXT] / sum[SUM_TOKENS],
                      .targets = (int64_t)targets,
                      .tokens = (int64_t)sum[SUM_TOKENS],
                      .stop = sum[SUM_STOP] > 0};
    r->skipped = !isfinite(r->loss) || !isfinite(r->grad_norm);
    if (r->skipped) return OK;
    double clip = s->optimizer->options.clip, scale = 1 / targets;
    if (clip > 0 && r->grad_norm > clip) scale *= clip / r->grad_norm;
    optimizer_update(s->optimizer, learning_rate, scale, update);
    if ((status = dist_wait(s->dist, err))) return status;
    if (device_sync(s->model->dev))
        return err_set(err, ERR_DEVICE, "%s: %s", device_name(s->model->dev), device_error(s->model->dev));
    return OK;
}
