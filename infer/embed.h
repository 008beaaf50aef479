/* embed.h - hidden states after the final norm, for probes: of the last token known at an index time, the mean over all
 * that the model saw of the record, and of every event. */
#ifndef EHR_INFER_EMBED_H
#define EHR_INFER_EMBED_H
#include "infer/rollout_window.h"
#include "infer/session.h"

/* One call a patient and index time, in order: hidden (n_window, C) of w's tokens; valid during the call. */
typedef Status (*EmbedTake)(void *ctx, int64_t i, const RolloutJob *job, const RolloutWindow *w, const float *hidden,
                            Err *err);

/* Runs jobs 0 .. n-1, windows as rollouts take them, many to a pass; the embedding of a job depends on nothing else. */
Status embed_run(Session *s, int64_t n_jobs, Status (*get_job)(void *ctx, int64_t i, RolloutJob *out, Err *err),
                 EmbedTake take, void *ctx, FILE *progress, Err *err);

#endif
