/* rollout.c - see rollout.h.  An active *job* (patient at an index time) owns the cache of its prefix and the logits after
 * it; each live *future* forks that cache, draws its first token from those logits and then advances one token a step
 * together with all other live futures.  Step: decode the pending token of every live future, draw the next ones, move
 * the clocks, retire what has stopped, admit what waits. */
#include "infer/rollout.h"
#include "infer/rollout_step.h"
#include "kernels/philox.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *stop_name(StopReason r) {
    static const char *const names[STOP_COUNT] = {"death", "horizon", "outcome", "event", "limit"};
    return names[r];
}

int64_t rollout_known(const PatientView *p, int32_t index_minutes) {
    int64_t lo = 0, hi = p->n;
    while (lo < hi) {
        int64_t mid = (lo + hi) / 2;
        if (p->minutes[mid] <= index_minutes) lo = mid + 1;
        else hi = mid;
    }
    return lo;
}

/* ---- clock ------------------------------------------------------------------------------------------------------- */

/* Share of the gaps of token id that last at most r minutes, by its observed quantiles. */
static double gap_share_below(const Vocabulary *v, int id, double r) {
    int n = 0;
    while (n < GAP_QUANTILES && v->gap_quantile[id - v->gap_lo][n] <= r) n++;
    return (double)n / GAP_QUANTILES;
}

static double gap_minutes(const Rollout *r, const Future *f, int id, double u) {
    if (r->o->mean_clock) u = -1;
    double elapsed = f->n == 0 ? r->job[f->job].elapsed : 0;
    if (elapsed <= 0) return vocabulary_gap_minutes(r->v, id, u);
    /* The first gap began before the index: it is drawn among those that outlast what has already passed. */
    double below = gap_share_below(r->v, id, elapsed);
    double g = below >= 1 ? elapsed : vocabulary_gap_minutes(r->v, id, u < 0 ? u : below + (1 - below) * u);
    return g > elapsed ? g - elapsed : 0;
}

/* ---- futures ----------------------------------------------------------------------------------------------------- */

static void future_push(Future *f, int32_t token, double minutes) {
    if (f->n == f->capacity) {
        f->capacity = f->capacity ? 2 * f->capacity : 64;
        f->token = xrealloc(f->token, (size_t)f->capacity * sizeof *f->token);
        f->minutes = xrealloc(f->minutes, (size_t)f->capacity * sizeof *f->minutes);
    }
    f->token[f->n] = token;
    f->minutes[f->n++] = minutes;
}

static Philox4 future_random(const Rollout *r, const Future *f) {
    const ActiveJob *j = &r->job[f->job];
    uint64_t key = philox_mix(philox_mix(r->o->seed, j->job.patient.key), (uint64_t)(uint32_t)j->job.index_minutes);
    return philox4x32(key, (uint64_t)f->sample, (uint64_t)f->n);
}

double future_uniform(const Rollout *r, const Future *f) { return philox_uniform(future_random(r, f), 0); }

static void future_retire(Rollout *r, Future *f, StopReason why) {
    ActiveJob *j = &r->job[f->job];
    RolloutSample *s = &j->sample[f->sample];
    s->stop = why;
    s->n_tokens = f->n;
    s->minutes = f->now < r->o->horizon_minutes ? f->now : r->o->horizon_minutes;
    for (int o = 0; o < r->o->n_outcomes; o++) {
        if (r->o->estimator == ESTIMATOR_MC) s->risk[o] = isfinite(f->hit_minutes[o]);
        else if (r->o->estimator == ESTIMATOR_SCOPE) s->risk[o] = f->sum[o];
        else s->risk[o] = 1 - f->survive[o];
        s->hit_minutes[o] = f->hit_minutes[o];
    }
    if (r->o->keep_paths) {
        s->tokens = xmalloc((size_t)f->n * sizeof *s->tokens + 1);
        s->token_minutes = xmalloc((size_t)f->n * sizeof *s->token_minutes + 1);
        memcpy(s->tokens, f->token, (size_t)f->n * sizeof *s->tokens);
        memcpy(s->token_minutes, f->minutes, (size_t)f->n * sizeof *s->token_minutes);
    }
    if (r->law->model) kv_sequence_release(&r->cache, &f->kv);
    f->live = 0;
    j->n_done++;
    r->n_live--;
    r->stats->samples++;
    r->stats->limit_stops += why == STOP_LIMIT;
}

/* Takes the drawn token and the outcome probabilities of its step into account. */
Status future_advance(Rollout *r, Future *f, int32_t token, const float *p_outcome, Err *err) {
    const RolloutOptions *o = r->o;
    if (token < 0 || token >= r->v->n)
        return err_set(err, ERR_DEVICE, "patient %llu, sample %d, token %d: the model's logits are not finite, or leave "
                       "nothing to draw: the checkpoint may be damaged", (unsigned long long)r->job[f->job].job.patient.key,
                       f->sample, f->n);
    for (int k = 0; k < o->n_outcomes; k++) {
        double p = p_outcome ? p_outcome[k] : 0;
        f->survive[k] *= 1 - p;
        if (!isfinite(f->hit_minutes[k])) f->sum[k] += p;
    }
    double u = philox_uniform(future_random(r, f), 1);
    if (token >= r->v->gap_lo && token < r->v->gap_lo + GAP_TOKENS) f->now += gap_minutes(r, f, token, u);
    future_push(f, token, f->now);
    r->stats->tokens++;
    if (f->now > o->horizon_minutes) {
        f->n--; /* the gap that crosses the horizon is not part of the future */
        future_retire(r, f, STOP_HORIZON);
        return OK;
    }
    int open = o->n_outcomes == 0;
    for (int k = 0; k < o->n_outcomes; k++) {
        if (o->outcome_bits[token] >> k & 1 && !isfinite(f->hit_minutes[k])) f->hit_minutes[k] = f->now;
        open |= !isfinite(f->hit_minutes[k]);
    }
    if (!open) future_retire(r, f, STOP_OUTCOME);
    else if (token == r->v->death) future_retire(r, f, STOP_DEATH);
    else if (o->stop_bits && o->stop_bits[token]) future_retire(r, f, STOP_EVENT);
    else if (f->n >= o->max_tokens) future_retire(r, f, STOP_LIMIT);
    else f->pending = token;
    return OK;
}

/* ---- jobs -------------------------------------------------------------------------------------------------------- */

static void job_push(ActiveJob *j, int32_t token, int32_t minutes) {
    if (j->n_history == j->capacity) {
        j->capacity = j->capacity ? 2 * j->capacity : 256;
        j->history = xrealloc(j->history, (size_t)j->capacity * sizeof *j->history);
        j->history_minutes = xrealloc(j->history_minutes, (size_t)j->capacity * sizeof *j->history_minutes);
    }
    j->history[j->n_history] = token;
    j->history_minutes[j->n_history++] = minutes;
}

/* The known tokens, then one =6mt for each 180 d that have passed since without an event: they are certain. */
static void job_history(Rollout *r, ActiveJob *j) {
    const PatientView *p = &j->job.patient;
    j->n_history = 0;
    for (int64_t i = 0; i < j->job.n_known; i++) job_push(j, (int32_t)patient_token(p, i), p->minutes[i]);
    int32_t last = j->job.n_known ? p->minutes[j->job.n_known - 1] : 0;
    int32_t elapsed = j->job.index_minutes > last ? j->job.index_minutes - last : 0;
    if (!j->job.n_known) elapsed = 0;
    for (; elapsed >= GAP_MINUTES[GAP_BINS]; elapsed -= GAP_MINUTES[GAP_BINS]) {
        last += GAP_MINUTES[GAP_BINS];
        job_push(j, r->v->gap_lo + GAP_BINS, last);
    }
    j->elapsed = vocabulary_gap_bin(elapsed) < 0 ? 0 : elapsed;
}

static Status job_admit(Rollout *r, Err *err) {
    int a = 0;
    while (r->job[a].used) a++;
    ActiveJob *j = &r->job[a];
    Status s = r->cb->get_job(r->cb->ctx, r->next_job, &j->job, err);
    if (s) return s;
    j->used = 1;
    j->id = r->next_job++;
    j->n_started = j->n_done = 0;
    j->sample = xcalloc((size_t)r->o->n_samples, sizeof *j->sample);
    job_history(r, j);
    r->n_jobs++;
    r->current_job = a;
    return rollout_prefill_job(r, j, err);
}

static Status job_finish(Rollout *r, ActiveJob *j, Err *err) {
    Status s = r->cb->job_done(r->cb->ctx, j->id, &j->job, j->sample, err);
    for (int i = 0; i < r->o->n_samples; i++) {
        free(j->sample[i].tokens);
        free(j->sample[i].token_minutes);
    }
    free(j->sample);
    j->sample = NULL;
    if (r->law->model) kv_sequence_release(&r->cache, &j->kv);
    j->used = 0;
    r->n_jobs--;
    r->stats->jobs++;
    return s;
}

static Status future_start(Rollout *r, int job, Err *err) {
    ActiveJob *j = &r->job[job];
    int slot = 0;
    while (r->future[slot].live) slot++;
    Future *f = &r->future[slot];
    f->live = 1;
    f->job = job;
    f->sample = j->n_started++;
    f->n = 0;
    f->now = 0;
    f->refilled = 0;
    f->length = j->n_window;
    for (int k = 0; k < r->o->n_outcomes; k++) {
        f->survive[k] = 1;
        f->sum[k] = 0;
        f->hit_minutes[k] = NAN;
    }
    r->n_live++;
    return rollout_first_token(r, j, f, err);
}

/* Fills every free place: first with the rest of the current job's samples, then with the next job. */
static Status admit(Rollout *r, Err *err) {
    Status s = OK;
    while (!s && r->n_live < r->o->batch) {
        if (r->current_job >= 0 && r->job[r->current_job].n_started < r->o->n_samples)
            s = future_start(r, r->current_job, err);
        else if (r->next_job < r->n_total && r->n_jobs < r->max_jobs)
            s = job_admit(r, err);
        else
            break;
        for (int a = 0; !s && a < r->max_jobs; a++)
            if (r->job[a].used && r->job[a].n_done == r->o->n_samples) {
                if (a == r->current_job) r->current_job = -1;
                s = job_finish(r, &r->job[a], err);
            }
    }
    return s;
}

static Status options_check(const Law *law, const Vocabulary *v, const RolloutOptions *o, Err *err) {
    if (o->n_samples < 1 || o->batch < 1) return err_set(err, ERR_USAGE, "--samples and --batch must be at least 1");
    if (!(o->horizon_minutes > 0)) return err_set(err, ERR_USAGE, "the horizon must be longer than zero");
    if (law->model && law->model->cfg.vocab_size != v->n)
        return err_set(err, ERR_FORMAT, "the model has %d tokens and the vocabulary %d", law->model->cfg.vocab_size, v->n);
    int least = 2 + v->n_static + 4;
    if (law->seq_len < least)
        return err_set(err, ERR_USAGE, "the model takes sequences of %d tokens; at least %d are needed", law->seq_len, least);
    return OK;
}

Status rollout_run(const Law *law, const Vocabulary *v, const RolloutOptions *o, int64_t n_jobs, const RolloutCallbacks *cb,
                   RolloutStats *stats, Err *err) {
    *stats = (RolloutStats){0};
    Status s = options_check(law, v, o, err);
    if (s) return s;
    double start = clock_s();
    Rollout r = {.law = law, .v = v, .o = o, .cb = cb, .stats = stats, .n_total = n_jobs, .current_job = -1};
    s = rollout_open(&r, err);
    if (!s) s = admit(&r, err);
    while (!s && r.n_live) {
        s = rollout_step(&r, err);
        for (int a = 0; !s && a < r.max_jobs; a++)
            if (r.job[a].used && r.job[a].n_done == o->n_samples) {
                if (a == r.current_job) r.current_job = -1;
                s = job_finish(&r, &r.job[a], err);
            }
        if (!s) s = admit(&r, err);
    }
    rollout_close(&r);
    stats->seconds = clock_s() - start;
    return s;
}
