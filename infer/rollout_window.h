/* rollout_window.h - what the model is told of a job before its futures begin: prefix, and the newest known tokens that
 * fit. For those who want the same sequence that rollouts start from: embeddings, gradients, losses of the history. */
#ifndef EHR_INFER_ROLLOUT_WINDOW_H
#define EHR_INFER_ROLLOUT_WINDOW_H
#include "infer/rollout.h"

typedef struct {
    int n, prefix;   /* tokens, the first `prefix` of them no part of the record */
    int from;        /* tokens of the history before the window */
    int32_t *token;  /* (n) */
    int64_t *origin; /* (n) index in the patient's record; -1: prefix, =6mt since the last event, given */
    double elapsed;  /* minutes of the gap that runs at the index, 0 = none worth a token */
} RolloutWindow;

void rollout_window(const Vocabulary *v, const RolloutOptions *o, int seq_len, const RolloutJob *job,
                    RolloutWindow *out);
void rollout_window_free(RolloutWindow *w);

#endif
