/* step.c - see step.h.
 *
 * Packed patients leave a different number of targets in every row, so losses, gradients and counts are summed over
 * passes and ranks and divided once: the number of ranks never changes what is optimized.
 *
 * The host stays a pass ahead of the device: while one pass runs, the losses of the one before are added up and the next
 * batch is read and uploaded.  It waits once a step, for the norm of the gradient. */
#include "train/step.h"
#include <math.h>
#include <string.h>

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

Status stepper_open(Stepper *s, Model *model, Acts *acts, Optimizer *optimizer, Loader *loader, int passes, int N, Err *err) {
    REQUIRE(passes == 1 || !acts_lent(acts));
    *s = (Stepper){.model = model, .acts = acts, .optimizer = optimizer, .loader = loader, .dist = optimizer->dist,
                   .passes = passes};
    return losses_open(&s->losses, model->dev, N, err);
}

void stepper_close(Stepper *s) { losses_close(&s->losses); }

static Status device_status(const Stepper *s, Err *err) {
    const char *why = device_error(s->model->dev);
    if (!why) return OK;
    return err_set(err, ERR_DEVICE, "%s: %s%s", device_name(s->model->dev), why,
                   strstr(why, "device_graph_launch") ? "; with --graphs=no as well it names the operation" : "");
}

static void add_oldest(Stepper *s, double *sum) {
    const float *losses;
    const Batch *b = losses_take(&s->losses, &losses);
    if (b && !device_error(s->model->dev)) add_losses(b, losses, s->floor_valid, sum);
}

static Status read_next(Stepper *s, Err *err) {
    Status status = loader_next(s->loader, &s->next, err);
    if (!status) model_upload(s->model, s->acts, s->next);
    return status;
}

/* Queues every pass of the step; afterwards the losses of the last one are still on their way. */
static Status queue_passes(Stepper *s, double *sum, Err *err) {
    Model *m = s->model;
    Params *grads = &s->optimizer->grads;
    Err ahead = {OK, ""};
    if (!acts_lent(s->acts)) optimizer_zero_grad(s->optimizer);
    for (int pass = 0; pass < s->passes; pass++) {
        int last = pass == s->passes - 1;
        Status status = s->next ? OK : read_next(s, err);
        if (status) return status;
        Batch *batch = s->next;
        if (!model_uploaded(s->acts, batch)) model_upload(m, s->acts, batch); /* an evaluation came in between */
        model_pass(m, s->acts, grads, last ? optimizer_reduce_bucket : NULL, s->optimizer);
        losses_queue(&s->losses, s->acts, batch);
        if (pass) add_oldest(s, sum);
        if (last) loader_tell(s->loader, &s->cursor);
        /* A batch that cannot be read fails the step that needs it: then it is asked for again. */
        s->next = NULL;
        if (read_next(s, &ahead)) s->next = NULL;
    }
    return device_status(s, err);
}

Status stepper_run(Stepper *s, double learning_rate, int64_t update, int stop, StepResult *r, Err *err) {
    double sum[SUM_COUNT] = {0};
    Status status = queue_passes(s, sum, err);
    if (!status) status = dist_wait(s->dist, err);
    if (status) return status;
    optimizer_queue_norm(s->optimizer);
    add_oldest(s, sum);
    sum[SUM_SQUARES] = optimizer_norm(s->optimizer);
    sum[SUM_STOP] = stop;
    if ((status = device_status(s, err))) return status;
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
    status = dist_wait(s->dist, err);
    return status ? status : device_status(s, err);
}
