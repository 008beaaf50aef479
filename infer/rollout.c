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

RolloutSample rollout_path_copy(const RolloutSample *s) {
    RolloutSample copy = *s;
    const size_t n = (size_t)s->n_tokens;
    copy.curve = NULL;
    copy.tokens = xmalloc(n * sizeof *copy.tokens + 1);
    copy.token_minutes = xmalloc(n * sizeof *copy.token_minutes + 1);
    if (n) { /* the dead draw nothing, and then there may be no array to copy from */
        memcpy(copy.tokens, s->tokens, n * sizeof *copy.tokens);
        memcpy(copy.token_minutes, s->token_minutes, n * sizeof *copy.token_minutes);
    }
    return copy;
}

void rollout_path_free(RolloutSample *s) {
    free(s->tokens);
    free(s->token_minutes);
    s->tokens = NULL;
    s->token_minutes = NULL;
}

/* ---- clock ------------------------------------------------------------------------------------------------------- */

/* Share of the gaps of token id that last at most r minutes, by its observed quantiles. */
static double gap_share_below(const Vocabulary *v, int id, double r) {
    int n = 0;
    while (n < GAP_QUANTILES && v->gap_quantile[id - v->gap_lo][n] <= r) n++;
    return (double)n / GAP_QUANTILES;
}

static double gap_minutes(const Rollout *r, const Future *f, int id, double u) {
    if (r->job[f->job].o->mean_clock) u = -1;
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
    uint64_t key = philox_mix(philox_mix(j->o->seed, j->job.patient.key), (uint64_t)(uint32_t)j->job.index_minutes);
    return philox4x32(key, (uint64_t)f->sample, (uint64_t)f->n);
}

double future_uniform(const Rollout *r, const Future *f) { return philox_uniform(future_random(r, f), 0); }

/* The points of outcome o's curve before minute `until` get what it has come to so far. */
static void curve_fill(const Rollout *r, Future *f, int o, double until) {
    const RolloutOptions *opt = r->job[f->job].o;
    double horizon = opt->outcome_horizon ? opt->outcome_horizon[o] : opt->horizon_minutes;
    while (f->point[o] < opt->n_curve && horizon * (f->point[o] + 1) / opt->n_curve < until) {
        float *at = f->s.curve + ((size_t)o * (size_t)opt->n_curve + (size_t)f->point[o]++) * 2;
        at[0] = (float)f->s.risk[o];
        at[1] = (float)f->s.competing[o];
    }
}

int future_early(const Rollout *r, const Future *f, int k) {
    const RolloutOptions *o = r->job[f->job].o;
    return o->outcome_after && o->outcome_after[k] > 0 && f->now <= o->outcome_after[k];
}

static void outcome_close(Future *f, int o) {
    f->open &= ~(1u << o);
    f->s.decided[o] = f->n;
}

static void future_retire(Rollout *r, Future *f, StopReason why) {
    ActiveJob *j = &r->job[f->job];
    for (int o = 0; o < j->o->n_outcomes; o++) {
        if (f->open >> o & 1) outcome_close(f, o);
        curve_fill(r, f, o, INFINITY);
    }
    f->s.stop = why;
    f->s.n_tokens = f->n;
    f->s.minutes = f->now < j->o->horizon_minutes ? f->now : j->o->horizon_minutes;
    if (j->o->keep_paths) {
        f->s.tokens = xmalloc((size_t)f->n * sizeof *f->s.tokens + 1);
        f->s.token_minutes = xmalloc((size_t)f->n * sizeof *f->s.token_minutes + 1);
        if (f->n) { /* the dead draw nothing, and then there is no array to copy from */
            memcpy(f->s.tokens, f->token, (size_t)f->n * sizeof *f->s.tokens);
            memcpy(f->s.token_minutes, f->minutes, (size_t)f->n * sizeof *f->s.token_minutes);
        }
    }
    j->sample[f->sample] = f->s;
    f->s.curve = NULL;
    if (r->law->model) kv_sequence_release(&r->cache, &f->kv);
    f->live = 0;
    j->n_done++;
    r->n_live--;
    r->stats->samples++;
    r->stats->limit_stops += why == STOP_LIMIT;
}

/* What the probabilities of a step add to the weights, before its token is known. */
static void weigh_step(Rollout *r, Future *f, const float *p_outcome) {
    const RolloutOptions *o = r->job[f->job].o;
    for (int k = 0; k < o->n_outcomes; k++) {
        double p = p_outcome ? p_outcome[k] : 0, before = f->s.risk[k];
        const int early = future_early(r, f, k);
        if (!(f->open >> k & 1) || (early && !(o->after_ends >> k & 1))) continue;
        f->survive[k] *= 1 - p;
        if (early) f->early[k] = f->survive[k];
        else if (o->estimator == ESTIMATOR_REACH) f->s.risk[k] = f->early[k] - f->survive[k];
        else if (o->estimator == ESTIMATOR_SCOPE) f->s.risk[k] += p;
        f->s.weighted_minutes[k] += (f->s.risk[k] - before) * f->now;
    }
}

/* Ends the watches whose stop came in a minute that is over. */
static void close_ending(const Rollout *r, Future *f) {
    for (int k = 0; f->ending && k < r->job[f->job].o->n_outcomes; k++)
        if (f->ending & f->open & 1u << k) outcome_close(f, k);
    f->ending = 0;
    f->kind = -1;
}

/* Which watches the token ends.  Returns what ended the last of them, STOP_COUNT when one is still open.
 * Labels count an outcome in the minute of a stop.  Events of a minute are told in the order of their kinds, so the outcome
 * may come behind the stop, as the death does behind the end of the stay that it ended: such a watch goes on to the end of
 * the minute, which is a gap or a kind that comes earlier. */
static StopReason watch_token(Rollout *r, Future *f, int32_t token) {
    const RolloutOptions *o = r->job[f->job].o;
    const int kind = r->v->token[token].event_kind;
    StopReason why = STOP_COUNT;
    if (kind >= 0 && kind < f->kind) {
        if (f->ending) why = STOP_EVENT;
        close_ending(r, f);
    }
    if (kind >= 0) f->kind = kind;
    for (int k = 0; k < o->n_outcomes; k++) {
        if (!(f->open >> k & 1)) continue;
        if (o->outcome_bits[token] >> k & 1 && future_early(r, f, k)) {
            if (!(o->after_ends >> k & 1)) continue;
            if (why == STOP_COUNT) why = STOP_EVENT;
        } else if (o->outcome_bits[token] >> k & 1) {
            f->s.hit_minutes[k] = f->now;
            if (o->estimator == ESTIMATOR_MC) {
                f->s.risk[k] = 1;
                f->s.weighted_minutes[k] = f->now;
            }
            why = STOP_OUTCOME;
        } else if (token == r->v->death) {
            if (!(f->ending >> k & 1)) f->s.competing[k] = o->estimator == ESTIMATOR_REACH ? f->survive[k] : 1;
            why = STOP_DEATH;
        } else if (o->stop_bits && o->stop_bits[token] >> k & 1) {
            if (kind >= 0 && kind <= r->job[f->job].last_kind[k]) {
                f->ending |= 1u << k;
                continue;
            }
            if (why == STOP_COUNT) why = STOP_EVENT;
        } else {
            continue;
        }
        outcome_close(f, k);
    }
    if (token == r->v->death && why != STOP_OUTCOME) return STOP_DEATH;
    if (!o->n_outcomes && o->stop_bits && o->stop_bits[token]) return STOP_EVENT;
    return o->n_outcomes && !f->open ? why : STOP_COUNT;
}

/* The clock moves to minute `to`; stops before it, and horizons that it passes, are over. */
static void future_wait(Rollout *r, Future *f, double to) {
    const RolloutOptions *o = r->job[f->job].o;
    close_ending(r, f);
    for (int k = 0; k < o->n_outcomes; k++) {
        curve_fill(r, f, k, to);
        if (o->outcome_horizon && o->outcome_horizon[k] < to && f->open >> k & 1) outcome_close(f, k);
    }
    f->now = to;
}

/* Log probability of token among those that may be drawn. */
static double log_drawn(const RolloutOptions *o, const Future *f, int32_t token, double logp, const float *p_outcome) {
    if (o->estimator != ESTIMATOR_REACH) return logp;
    double suppressed = 0;
    for (int k = 0; k < o->n_outcomes; k++)
        if (f->open >> k & 1 && !(o->outcome_bits[token] >> k & 1)) suppressed += (double)p_outcome[k];
    return logp - log1p(-fmin(suppressed, 1 - 0x1p-24)); /* as a float it may be 1 */
}

/* Log probability of token by the model's own softmax. */
static double log_softmax(const float *logits, int V, int32_t token) {
    double max = -INFINITY, sum = 0;
    for (int i = 0; i < V; i++) max = fmax(max, (double)logits[i]);
    for (int i = 0; i < V; i++) sum += exp((double)logits[i] - max);
    return (double)logits[token] - max - log(sum);
}

/* The clock after a gap: as drawn, or as the followed future has it. */
static double gap_end(const Rollout *r, const Future *f, const RolloutSample *path, int32_t token, double u) {
    if (!path) return f->now + gap_minutes(r, f, token, u);
    return f->n < path->n_tokens ? path->token_minutes[f->n] : INFINITY;
}

Status future_advance(Rollout *r, Future *f, int32_t drawn, float logp, const float *logits, const float *p_outcome, Err *err) {
    const ActiveJob *j = &r->job[f->job];
    const RolloutOptions *o = j->o;
    const RolloutSample *path = j->job.n_follow ? j->job.follow[f->sample] : NULL;
    int32_t token = path && drawn >= 0 ? f->n < path->n_tokens ? path->tokens[f->n] : path->last : drawn;
    if (token < 0 || token >= r->v->n)
        return err_set(err, ERR_DEVICE, "patient %llu, sample %d, token %d: the model's logits are not finite, or leave "
                       "nothing to draw: the checkpoint may be damaged", (unsigned long long)j->job.patient.key,
                       f->sample, f->n);
    if (r->o->weigh_paths) {
        double lp = token == drawn ? (double)logp : (double)logp + (double)logits[token] - (double)logits[drawn];
        f->s.log_q += log_drawn(o, f, token, lp, p_outcome);
    }
    f->s.n_alike += path && token == drawn;
    weigh_step(r, f, p_outcome);
    double u = philox_uniform(future_random(r, f), 1);
    int is_gap = token >= r->v->gap_lo && token < r->v->gap_lo + GAP_TOKENS;
    r->stats->tokens++;
    if (is_gap) future_wait(r, f, gap_end(r, f, path, token, u));
    /* The gap that crosses the last horizon is not part of the future. */
    if (f->now > o->horizon_minutes || (o->n_outcomes && !f->open)) {
        f->s.last = token;
        future_retire(r, f, STOP_HORIZON);
        return OK;
    }
    future_push(f, token, f->now);
    if (r->cb->drawn)
        r->cb->drawn(r->cb->ctx, j->id, &j->job, f->sample, f->n - 1, token, f->now,
                     o->tell_logprobs ? log_softmax(logits, r->v->n, token) : NAN);
    StopReason why = watch_token(r, f, token);
    if (why == STOP_COUNT && o->first_event && !is_gap) why = STOP_EVENT;
    if (why == STOP_COUNT && f->n >= o->max_tokens) why = STOP_LIMIT;
    if (why != STOP_COUNT) future_retire(r, f, why);
    else f->pending = token;
    return OK;
}

/* ---- jobs -------------------------------------------------------------------------------------------------------- */

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

static void job_last_kinds(const Rollout *r, ActiveJob *j) {
    for (int k = 0; k < j->o->n_outcomes; k++) {
        j->last_kind[k] = -1;
        for (int id = 0; j->o->stop_bits && id < r->v->n; id++)
            if (j->o->outcome_bits[id] >> k & 1 && r->v->token[id].event_kind > j->last_kind[k])
                j->last_kind[k] = r->v->token[id].event_kind;
    }
}

static Status job_admit(Rollout *r, Err *err) {
    int a = 0;
    while (r->job[a].used) a++;
    ActiveJob *j = &r->job[a];
    j->job = (RolloutJob){0};
    Status s = r->cb->get_job(r->cb->ctx, r->next_job, &j->job, err);
    if (s) return s;
    REQUIRE(!j->job.o || r->n_total < 0);
    j->o = j->job.o ? j->job.o : r->o;
    if ((s = options_check(r->law, r->v, j->o, err))) return s;
    int looks = j->o->first_look && r->cb->enough && j->o->first_look < j->o->n_samples;
    j->used = 1;
    j->id = r->next_job++;
    j->n_started = j->n_done = 0;
    j->n_wanted = j->job.n_follow ? j->job.n_follow : looks ? j->o->first_look : j->o->n_samples;
    j->sample = xcalloc((size_t)j->n_wanted, sizeof *j->sample);
    job_history(j, r->v);
    job_last_kinds(r, j);
    r->n_jobs++;
    r->stats->waiting += j->n_wanted;
    rollout_job_outcomes(r, j);
    return rollout_prefill_job(r, j, err);
}

void job_samples_free(ActiveJob *j) {
    for (int i = 0; i < j->n_wanted && j->sample; i++) {
        free(j->sample[i].tokens);
        free(j->sample[i].token_minutes);
        free(j->sample[i].curve);
    }
    free(j->sample);
    j->sample = NULL;
}

static void job_release(Rollout *r, ActiveJob *j) {
    r->stats->waiting -= j->n_wanted - j->n_started;
    job_samples_free(j);
    if (r->law->model) kv_sequence_release(&r->cache, &j->kv);
    j->used = 0;
    r->n_jobs--;
}

/* All wanted samples of j are there: it is done, or wants as many again. */
static Status job_look(Rollout *r, ActiveJob *j, Err *err) {
    int64_t most = j->o->n_samples;
    if (!j->job.n_follow && j->n_wanted < most && !r->cb->enough(r->cb->ctx, j->id, j->sample, j->n_done)) {
        j->n_wanted = (int)(2 * (int64_t)j->n_wanted < most ? 2 * (int64_t)j->n_wanted : most);
        j->sample = xrealloc(j->sample, (size_t)j->n_wanted * sizeof *j->sample);
        r->stats->waiting += j->n_wanted - j->n_started;
        memset(j->sample + j->n_done, 0, (size_t)(j->n_wanted - j->n_done) * sizeof *j->sample);
        return OK;
    }
    Status s = r->cb->job_done(r->cb->ctx, j->id, &j->job, j->sample, j->n_done, err);
    job_release(r, j);
    r->stats->jobs++;
    return s;
}

static void job_drop(Rollout *r, int job) {
    for (int b = 0; b < r->batch; b++) {
        Future *f = &r->future[b];
        if (!f->live || f->job != job) continue;
        free(f->s.curve);
        f->s.curve = NULL;
        if (r->law->model) kv_sequence_release(&r->cache, &f->kv);
        f->live = 0;
        r->n_live--;
    }
    job_release(r, &r->job[job]);
}

static void drop_unwanted(Rollout *r) {
    for (int a = 0; r->cb->wanted && a < r->max_jobs; a++)
        if (r->job[a].used && !r->cb->wanted(r->cb->ctx, r->job[a].id, &r->job[a].job)) job_drop(r, a);
}

static Status look_at_jobs(Rollout *r, Err *err) {
    Status s = OK;
    for (int a = 0; !s && a < r->max_jobs; a++)
        if (r->job[a].used && r->job[a].n_done == r->job[a].n_wanted) s = job_look(r, &r->job[a], err);
    return s;
}

static Status future_start(Rollout *r, int job, Err *err) {
    ActiveJob *j = &r->job[job];
    const RolloutOptions *o = j->o;
    int slot = 0;
    while (r->future[slot].live) slot++;
    Future *f = &r->future[slot];
    uint32_t all = o->n_outcomes ? (uint32_t)((1ull << o->n_outcomes) - 1) : 0;
    f->live = 1;
    f->job = job;
    f->sample = j->n_started++;
    r->stats->waiting--;
    f->n = 0;
    f->now = 0;
    f->refilled = 0;
    f->length = j->n_window;
    f->open = j->job.watch ? j->job.watch & all : all;
    f->ending = 0;
    f->kind = -1;
    f->s = (RolloutSample){.last = -1};
    if (o->n_curve) f->s.curve = xcalloc((size_t)o->n_outcomes * (size_t)o->n_curve * 2, sizeof *f->s.curve);
    for (int k = 0; k < o->n_outcomes; k++) {
        f->survive[k] = f->early[k] = 1;
        f->point[k] = 0;
        f->s.hit_minutes[k] = NAN;
    }
    r->n_live++;
    return rollout_first_token(r, j, f, err);
}

/* The job whose sample begins next; -1: none has any.  The oldest, so that jobs end in turn; where jobs join, the one
 * with the fewest at work, so that a small one need not wait for a large one. */
static int job_waiting(const Rollout *r) {
    int found = -1, fewest = 0;
    for (int a = 0; a < r->max_jobs; a++) {
        const ActiveJob *j = &r->job[a];
        if (!j->used || j->n_started >= j->n_wanted) continue;
        const int at_work = r->n_total < 0 ? j->n_started - j->n_done : 0;
        if (found >= 0 && (at_work > fewest || (at_work == fewest && j->id > r->job[found].id))) continue;
        found = a;
        fewest = at_work;
    }
    return found;
}

/* Whether a job that waits may be taken up now: known ones when those at work have no more samples to begin, joining ones
 * at once. */
static int job_next(const Rollout *r, int waiting) {
    if (r->n_jobs == r->max_jobs) return 0;
    return r->n_total < 0 ? r->cb->more(r->cb->ctx, r->next_job, 0) : waiting < 0 && r->next_job < r->n_total;
}

/* Fills every free place. */
static Status admit(Rollout *r, Err *err) {
    Status s = OK;
    while (!s && r->n_live < r->batch) {
        const int waiting = job_waiting(r);
        if (job_next(r, waiting)) s = job_admit(r, err);
        else if (waiting >= 0) s = future_start(r, waiting, err);
        else break;
        if (!s) s = look_at_jobs(r, err);
    }
    return s;
}

Status rollout_run(const Law *law, const Vocabulary *v, const RolloutOptions *o, int64_t n_jobs, const RolloutCallbacks *cb,
                   RolloutStats *stats, Err *err) {
    *stats = (RolloutStats){0};
    Status s = n_jobs < 0 ? OK : options_check(law, v, o, err);
    if (s) return s;
    double start = clock_s();
    Rollout r = {.law = law, .v = v, .o = o, .cb = cb, .stats = stats, .n_total = n_jobs};
    s = rollout_open(&r, err);
    if (!s) s = admit(&r, err);
    while (!s && !(cb->stop && cb->stop(cb->ctx))) {
        drop_unwanted(&r);
        if (r.n_live) s = rollout_step(&r, err);
        else if (n_jobs >= 0 || !cb->more(cb->ctx, r.next_job, 1)) break;
        if (!s) s = look_at_jobs(&r, err);
        if (!s) s = admit(&r, err);
    }
    stats->batch = r.batch;
    stats->short_of_memory = r.short_of_memory;
    rollout_close(&r);
    stats->seconds = clock_s() - start;
    return s;
}
