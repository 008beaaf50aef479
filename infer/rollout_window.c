/* rollout_window.c - see rollout_window.h; also the windows of rollout_step.h. */
#include "infer/rollout_window.h"
#include "infer/rollout_step.h"
#include <stdlib.h>
#include <string.h>

static void job_push(ActiveJob *j, int32_t token, int32_t minutes, int64_t origin) {
    if (j->n_history == j->capacity) {
        j->capacity = j->capacity ? 2 * j->capacity : 256;
        j->history = xrealloc(j->history, (size_t)j->capacity * sizeof *j->history);
        j->history_minutes = xrealloc(j->history_minutes, (size_t)j->capacity * sizeof *j->history_minutes);
        j->history_origin = xrealloc(j->history_origin, (size_t)j->capacity * sizeof *j->history_origin);
    }
    j->history[j->n_history] = token;
    j->history_origin[j->n_history] = origin;
    j->history_minutes[j->n_history++] = minutes;
}

/* The known tokens, then one =6mt for each 180 d that have passed since without an event: they are certain.  What is
 * given comes last, after the gap that was running at the index. */
void job_history(ActiveJob *j, const Vocabulary *v) {
    const PatientView *p = &j->job.patient;
    j->n_history = 0;
    int out = 0;
    for (int64_t i = 0; i < j->job.n_known; i++) {
        if (out < j->job.n_left_out && j->job.left_out[out] == i) out++;
        else job_push(j, (int32_t)patient_token(p, i), p->minutes[i], i);
    }
    int32_t last = j->job.n_known ? p->minutes[j->job.n_known - 1] : 0;
    int32_t elapsed = j->job.index_minutes > last ? j->job.index_minutes - last : 0;
    if (!j->job.n_known) elapsed = 0;
    for (; elapsed >= GAP_MINUTES[GAP_BINS]; elapsed -= GAP_MINUTES[GAP_BINS]) {
        last += GAP_MINUTES[GAP_BINS];
        job_push(j, v->gap_lo + GAP_BINS, last, -1);
    }
    int bin = vocabulary_gap_bin(elapsed);
    j->elapsed = bin < 0 || j->job.n_given ? 0 : elapsed;
    if (j->job.n_given && bin >= 0) job_push(j, v->gap_lo + bin, j->job.index_minutes, -1);
    for (int i = 0; i < j->job.n_given; i++) job_push(j, j->job.given[i], j->job.index_minutes, -1);
}

/* A quarter of the sequence stays free for the futures before the first refill. */
int window_keep(const Vocabulary *v, const RolloutOptions *o, int seq_len) {
    int keep = seq_len - (o->exact_window ? 0 : seq_len / 4) - 2 - v->n_static;
    return keep < 1 ? 1 : keep;
}

/* Prefix and the newest tokens that fit; the first `n_head` of the stream are the job's history, the rest the future's.
 */
int build_window(const Vocabulary *v, const ActiveJob *j, const Future *f, int keep, int32_t *out) {
    const PatientView *p = &j->job.patient;
    int extra = f ? f->n : 0, total = j->n_history + extra;
    int at = total > keep ? total - keep : 0, n = 0;
    /* The age is that of the last token left out, as in training: the window's own first gap is not yet known. */
    double minutes = 0;
    if (at > 0 && at <= j->n_history) minutes = j->history_minutes[at - 1];
    else if (at > 0) minutes = j->job.index_minutes + f->minutes[at - 1 - j->n_history];
    out[n++] = at ? TOKEN_CONTINUES : TOKEN_START;
    for (int s = 0; s < v->n_static; s++) out[n++] = p->statics[s];
    out[n++] = vocabulary_age_token(v, p->age_years + minutes / 525960.0);
    for (int i = at; i < total; i++) out[n++] = i < j->n_history ? j->history[i] : f->token[i - j->n_history];
    return n;
}

void rollout_window(const Vocabulary *v, const RolloutOptions *o, int seq_len, const RolloutJob *job,
                    RolloutWindow *out) {
    ActiveJob j = {.job = *job};
    job_history(&j, v);
    int keep = window_keep(v, o, seq_len), prefix = 2 + v->n_static;
    int from = j.n_history > keep ? j.n_history - keep : 0;
    *out = (RolloutWindow){.prefix = prefix, .from = from, .elapsed = j.elapsed};
    out->token = xcalloc((size_t)(j.n_history - from + prefix), sizeof *out->token);
    out->origin = xcalloc((size_t)(j.n_history - from + prefix), sizeof *out->origin);
    out->n = build_window(v, &j, NULL, keep, out->token);
    for (int i = 0; i < out->n; i++) out->origin[i] = i < prefix ? -1 : j.history_origin[from + i - prefix];
    free(j.history);
    free(j.history_minutes);
    free(j.history_origin);
}

void rollout_window_free(RolloutWindow *w) {
    free(w->token);
    free(w->origin);
    *w = (RolloutWindow){0};
}
