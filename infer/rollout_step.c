/* rollout_step.c - see rollout_step.h.
 *
 * A future that reaches the longest sequence the model takes is *refilled*: it keeps the newer half of its tokens behind a
 * RECORD_CONTINUES prefix, as in training, and is prefilled anew on pages of its own.  When that happens depends on the
 * future alone, so results stay independent of the batch. */
#include "infer/rollout_step.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- memory ------------------------------------------------------------------------------------------------------ */

static int alloc_pair(Device *dev, void *host, void *device, size_t count, size_t size) {
    *(void **)host = xcalloc(count, size);
    *(void **)device = device_alloc(dev, count * size);
    return *(void **)device != NULL;
}

static Status open_device(Rollout *r, Err *err) {
    Device *dev = r->law->model->dev;
    size_t n = (size_t)r->max_rows, b = (size_t)r->o->batch, V = (size_t)r->v->n;
    size_t outcomes = (size_t)(r->o->n_outcomes ? r->o->n_outcomes : 1);
    int ok = alloc_pair(dev, &r->tokens, &r->d_tokens, n, sizeof *r->tokens) &&
             alloc_pair(dev, &r->positions, &r->d_positions, n, sizeof *r->positions) &&
             alloc_pair(dev, &r->slot, &r->d_slot, n, sizeof *r->slot) &&
             alloc_pair(dev, &r->q_offset, &r->d_q_offset, b + 1, sizeof *r->q_offset) &&
             alloc_pair(dev, &r->kv_len, &r->d_kv_len, b, sizeof *r->kv_len) &&
             alloc_pair(dev, &r->blocks, &r->d_blocks, b * (size_t)r->max_blocks, sizeof *r->blocks) &&
             alloc_pair(dev, &r->group_offset, &r->d_group_offset, b + 1, sizeof *r->group_offset) &&
             alloc_pair(dev, &r->group_shared, &r->d_group_shared, b, sizeof *r->group_shared) &&
             alloc_pair(dev, &r->rows, &r->d_rows, b, sizeof *r->rows) &&
             alloc_pair(dev, &r->drawn, &r->d_drawn, b, sizeof *r->drawn) &&
             alloc_pair(dev, &r->uniform, &r->d_uniform, b, sizeof *r->uniform) &&
             alloc_pair(dev, &r->suppress, &r->d_suppress, b, sizeof *r->suppress) &&
             alloc_pair(dev, &r->p, &r->d_p, b * outcomes, sizeof *r->p) &&
             alloc_pair(dev, &r->forbidden, &r->d_forbidden, V, 1) &&
             alloc_pair(dev, &r->forbidden_first, &r->d_forbidden_first, V, 1);
    r->d_logits = ok ? device_alloc(dev, b * (size_t)r->Vp * sizeof(float)) : NULL;
    r->d_outcome_bits = ok ? device_alloc(dev, V * sizeof(uint32_t)) : NULL;
    if (!r->d_logits || !r->d_outcome_bits)
        return err_set(err, ERR_NOMEM, "no memory for %d futures at a time: use a smaller --batch", r->o->batch);
    vocabulary_forbidden(r->v, r->forbidden);
    device_upload(dev, r->d_forbidden, r->forbidden, V);
    if (r->o->outcome_bits) device_upload(dev, r->d_outcome_bits, r->o->outcome_bits, V * sizeof(uint32_t));
    Status s = acts_open(&r->acts, r->law->model, r->max_rows, 0, RECOMPUTE_NONE, err);
    /* Every live future at full length, every job's prefix beside it: the pool cannot run dry. */
    if (!s) s = kv_cache_open(&r->cache, r->law->model, (r->o->batch + r->max_jobs) * (r->max_blocks + 1), err);
    return s;
}

Status rollout_open(Rollout *r, Err *err) {
    r->max_jobs = r->o->batch / r->o->n_samples + 2;
    if (r->max_jobs > r->o->batch + 1) r->max_jobs = r->o->batch + 1;
    r->max_blocks = (r->law->seq_len + KV_PAGE - 1) / KV_PAGE;
    r->max_rows = r->law->seq_len > r->o->batch ? r->law->seq_len : r->o->batch;
    r->Vp = r->law->model ? r->law->model->cfg.vocab_padded : r->v->n;
    r->job = xcalloc((size_t)r->max_jobs, sizeof *r->job);
    r->future = xcalloc((size_t)r->o->batch, sizeof *r->future);
    r->order = xcalloc((size_t)r->o->batch, sizeof *r->order);
    for (int a = 0; a < r->max_jobs; a++) r->job[a].logits = xcalloc((size_t)r->Vp, sizeof(float));
    if (r->law->model) return open_device(r, err);
    r->forbidden = xcalloc((size_t)r->v->n, 1);
    r->forbidden_first = xcalloc((size_t)r->v->n, 1);
    r->p = xcalloc(SAMPLE_OUTCOMES_MAX, sizeof *r->p);
    vocabulary_forbidden(r->v, r->forbidden);
    return OK;
}

void rollout_close(Rollout *r) {
    for (int a = 0; a < r->max_jobs; a++) {
        ActiveJob *j = &r->job[a];
        for (int i = 0; j->sample && i < r->o->n_samples; i++) {
            free(j->sample[i].tokens);
            free(j->sample[i].token_minutes);
        }
        free(j->sample);
        free(j->history);
        free(j->history_minutes);
        free(j->logits);
        kv_sequence_free(&j->kv);
    }
    for (int b = 0; b < r->o->batch; b++) {
        free(r->future[b].token);
        free(r->future[b].minutes);
        kv_sequence_free(&r->future[b].kv);
    }
    if (r->law->model) {
        Device *dev = r->law->model->dev;
        void *device[] = {r->d_tokens, r->d_positions, r->d_slot, r->d_q_offset, r->d_kv_len, r->d_blocks,
                          r->d_group_offset, r->d_group_shared, r->d_rows, r->d_drawn, r->d_uniform, r->d_suppress,
                          r->d_p, r->d_forbidden, r->d_forbidden_first, r->d_logits, r->d_outcome_bits};
        for (size_t i = 0; i < sizeof device / sizeof *device; i++)
            if (device[i]) device_free(dev, device[i]);
        if (r->acts) acts_close(r->acts);
        kv_cache_close(&r->cache);
    }
    void *host[] = {r->tokens, r->positions, r->slot, r->q_offset, r->kv_len, r->blocks, r->group_offset, r->group_shared,
                    r->rows, r->drawn, r->uniform, r->suppress, r->p, r->forbidden, r->forbidden_first, r->order, r->job,
                    r->future};
    for (size_t i = 0; i < sizeof host / sizeof *host; i++) free(host[i]);
}

/* ---- drawing ----------------------------------------------------------------------------------------------------- */

static SampleSpec sample_spec(const Rollout *r, const uint8_t *forbidden, const uint32_t *outcome_bits) {
    return (SampleSpec){.V = r->v->n, .Vp = r->Vp, .temperature = (float)r->o->temperature, .top_k = r->o->top_k,
                        .forbidden = forbidden, .outcome_bits = outcome_bits, .n_outcomes = r->o->n_outcomes};
}

static uint32_t suppress_bits(const Rollout *r) {
    return r->o->estimator == ESTIMATOR_REACH && r->o->n_outcomes ? (uint32_t)((1ull << r->o->n_outcomes) - 1) : 0;
}

/* The draw for a law that is a function: the kernels' sample() in plain words, one row in double precision. */
static int32_t draw_host(Rollout *r, const float *logits, const uint8_t *forbidden, double u) {
    int V = r->v->n;
    double max = -INFINITY, all = 0, open = 0, at = 0;
    uint32_t suppress = suppress_bits(r);
    for (int i = 0; i < V; i++)
        if (!forbidden[i] && logits[i] > max) max = logits[i];
    memset(r->p, 0, sizeof *r->p * SAMPLE_OUTCOMES_MAX);
    for (int i = 0; i < V; i++) {
        if (forbidden[i]) continue;
        double p = exp(logits[i] - max);
        uint32_t bits = r->o->outcome_bits ? r->o->outcome_bits[i] : 0;
        all += p;
        if (!(bits & suppress)) open += p;
    }
    int32_t drawn = -1;
    double p_outcome[SAMPLE_OUTCOMES_MAX] = {0};
    for (int i = 0; i < V; i++) {
        if (forbidden[i]) continue;
        double p = exp(logits[i] - max);
        uint32_t bits = r->o->outcome_bits ? r->o->outcome_bits[i] : 0;
        for (int k = 0; k < r->o->n_outcomes; k++)
            if (bits >> k & 1) p_outcome[k] += p / all;
        if (bits & suppress || p <= 0) continue;
        if (drawn < 0 || at <= u * open) drawn = i;
        at += p;
    }
    for (int k = 0; k < r->o->n_outcomes; k++) r->p[k] = (float)p_outcome[k];
    return drawn;
}

/* ---- prefill ----------------------------------------------------------------------------------------------------- */

/* Prefix and the newest tokens that fit; the first `n_head` of the stream are the job's history, the rest the future's. */
static int build_window(const Rollout *r, const ActiveJob *j, const Future *f, int keep, int32_t *out) {
    const PatientView *p = &j->job.patient;
    int extra = f ? f->n : 0, total = j->n_history + extra;
    int at = total > keep ? total - keep : 0, n = 0;
    /* The age is that of the last token left out, as in training: the window's own first gap is not yet known. */
    double minutes = 0;
    if (at > 0 && at <= j->n_history) minutes = j->history_minutes[at - 1];
    else if (at > 0) minutes = j->job.index_minutes + f->minutes[at - 1 - j->n_history];
    out[n++] = at ? TOKEN_CONTINUES : TOKEN_START;
    for (int s = 0; s < r->v->n_static; s++) out[n++] = p->statics[s];
    out[n++] = vocabulary_age_token(r->v, p->age_years + minutes / 525960.0);
    for (int i = at; i < total; i++) out[n++] = i < j->n_history ? j->history[i] : f->token[i - j->n_history];
    return n;
}

static Status device_status(const Rollout *r, Err *err) {
    const char *why = r->law->model ? device_error(r->law->model->dev) : NULL;
    return why ? err_set(err, ERR_DEVICE, "rollout: %s", why) : OK;
}

/* Runs r->tokens[0..n) as one sequence on s (empty) and leaves the logits of the last row in d_logits row 0. */
static Status prefill(Rollout *r, KvSequence *s, int n, Err *err) {
    Model *m = r->law->model;
    if (!kv_sequence_extend(&r->cache, s, n, r->slot))
        return err_set(err, ERR_NOMEM, "the key-value cache is full: use a smaller --batch");
    for (int i = 0; i < n; i++) r->positions[i] = i;
    int32_t q_offset[2] = {0, n}, kv_len = n, group_shared = 0, row = n - 1;
    device_upload(m->dev, r->d_tokens, r->tokens, (size_t)n * sizeof *r->tokens);
    device_upload(m->dev, r->d_positions, r->positions, (size_t)n * sizeof *r->positions);
    device_upload(m->dev, r->d_slot, r->slot, (size_t)n * sizeof *r->slot);
    device_upload(m->dev, r->d_q_offset, q_offset, sizeof q_offset);
    device_upload(m->dev, r->d_kv_len, &kv_len, sizeof kv_len);
    device_upload(m->dev, r->d_blocks, s->page, (size_t)s->n_pages * sizeof *s->page);
    int32_t group_offset[2] = {0, 1};
    device_upload(m->dev, r->d_group_offset, group_offset, sizeof group_offset);
    device_upload(m->dev, r->d_group_shared, &group_shared, sizeof group_shared);
    device_upload(m->dev, r->d_rows, &row, sizeof row);
    PagedBatch pages = {.pool = r->cache.pool, .q_offset = r->d_q_offset, .kv_len = r->d_kv_len, .block_table = r->d_blocks,
                        .n_seq = 1, .max_blocks = r->max_blocks, .group_offset = r->d_group_offset,
                        .group_shared = r->d_group_shared, .n_group = 1};
    model_decode(m, r->acts, r->d_tokens, r->d_positions, r->d_slot, &pages, r->cache.layer_stride, n);
    model_logits(m, r->acts, r->d_logits, r->d_rows, 1);
    r->stats->prefill_tokens += n;
    return device_status(r, err);
}

Status rollout_prefill_job(Rollout *r, ActiveJob *j, Err *err) {
    int prefix = 2 + r->v->n_static;
    /* A quarter of the sequence stays free for the futures before the first refill. */
    int keep = r->law->seq_len - r->law->seq_len / 4 - prefix;
    if (keep < 1) keep = 1;
    if (!r->law->model) {
        int32_t *window = xmalloc((size_t)(j->n_history + prefix) * sizeof *window);
        j->n_window = build_window(r, j, NULL, j->n_history, window);
        r->law->logits(r->law->ctx, window, j->n_window, j->logits);
        free(window);
        return OK;
    }
    j->n_window = build_window(r, j, NULL, keep, r->tokens);
    Status s = prefill(r, &j->kv, j->n_window, err);
    if (!s) device_download(r->law->model->dev, j->logits, r->d_logits, (size_t)r->Vp * sizeof *j->logits);
    return s ? s : device_status(r, err);
}

/* With a gap already running at the index, the next token is a gap bin that outlasts it. */
static const uint8_t *first_forbidden(Rollout *r, const ActiveJob *j, const uint8_t **device) {
    if (j->elapsed <= 0) {
        *device = r->d_forbidden;
        return r->forbidden;
    }
    int bin = vocabulary_gap_bin((int32_t)j->elapsed);
    memset(r->forbidden_first, 1, (size_t)r->v->n);
    for (int b = bin; b < GAP_TOKENS; b++) r->forbidden_first[r->v->gap_lo + b] = 0;
    if (r->law->model) device_upload(r->law->model->dev, r->d_forbidden_first, r->forbidden_first, (size_t)r->v->n);
    *device = r->d_forbidden_first;
    return r->forbidden_first;
}

Status rollout_first_token(Rollout *r, ActiveJob *j, Future *f, Err *err) {
    const uint8_t *on_device, *forbidden = first_forbidden(r, j, &on_device);
    double u = future_uniform(r, f);
    if (!r->law->model) return future_advance(r, f, draw_host(r, j->logits, forbidden, u), r->p, err);
    Model *m = r->law->model;
    if (!kv_sequence_fork(&r->cache, &f->kv, &j->kv))
        return err_set(err, ERR_NOMEM, "the key-value cache is full: use a smaller --batch");
    SampleSpec spec = sample_spec(r, on_device, r->d_outcome_bits);
    uint32_t suppress = suppress_bits(r);
    device_upload(m->dev, r->d_logits, j->logits, (size_t)r->Vp * sizeof *j->logits);
    device_upload(m->dev, r->d_uniform, &u, sizeof u);
    device_upload(m->dev, r->d_suppress, &suppress, sizeof suppress);
    m->k->sample(m->dev, r->d_drawn, NULL, r->o->n_outcomes ? r->d_p : NULL, r->d_logits, r->d_uniform, r->d_suppress, &spec,
                 1);
    device_download(m->dev, r->drawn, r->d_drawn, sizeof *r->drawn);
    if (r->o->n_outcomes) device_download(m->dev, r->p, r->d_p, (size_t)r->o->n_outcomes * sizeof *r->p);
    Status s = device_status(r, err);
    return s ? s : future_advance(r, f, r->drawn[0], r->p, err);
}

/* ---- one step ---------------------------------------------------------------------------------------------------- */

static Status refill(Rollout *r, Future *f, Err *err) {
    ActiveJob *j = &r->job[f->job];
    kv_sequence_release(&r->cache, &f->kv);
    f->n--; /* the pending token is decoded by the step itself */
    int n = build_window(r, j, f, r->law->seq_len / 2, r->tokens);
    f->n++;
    f->refilled = 1;
    f->length = n;
    r->stats->refills++;
    return prefill(r, &f->kv, n, err);
}

/* Lists live futures job by job, those still on their job's pages first, and fills the groups. */
static int arrange(Rollout *r, int *n_group) {
    int n = 0, g = 0;
    for (int a = 0; a < r->max_jobs; a++)
        for (int refilled = 0; r->job[a].used && refilled < 2; refilled++) {
            int first = n;
            for (int b = 0; b < r->o->batch; b++) {
                Future *f = &r->future[b];
                if (f->live && f->job == a && f->refilled == refilled) r->order[n++] = b;
            }
            if (n == first) continue;
            r->group_offset[g] = first;
            r->group_shared[g++] = refilled ? 0 : r->job[a].kv.len / KV_PAGE;
        }
    r->group_offset[g] = n;
    *n_group = g;
    return n;
}

static Status decode_live(Rollout *r, int *n_out, Err *err) {
    Model *m = r->law->model;
    for (int b = 0; b < r->o->batch; b++) {
        Future *f = &r->future[b];
        Status s = f->live && f->length == r->law->seq_len ? refill(r, f, err) : OK;
        if (s) return s;
    }
    int n_group, n = arrange(r, &n_group), most = 1;
    for (int i = 0; i < n; i++) {
        Future *f = &r->future[r->order[i]];
        if (!kv_sequence_extend(&r->cache, &f->kv, 1, &r->slot[i]))
            return err_set(err, ERR_NOMEM, "the key-value cache is full: use a smaller --batch");
        if (f->kv.n_pages > most) most = f->kv.n_pages;
    }
    for (int i = 0; i < n; i++) {
        Future *f = &r->future[r->order[i]];
        r->tokens[i] = f->pending;
        r->positions[i] = f->length++;
        r->q_offset[i] = i;
        r->kv_len[i] = f->kv.len;
        r->uniform[i] = future_uniform(r, f);
        r->suppress[i] = suppress_bits(r);
        memcpy(r->blocks + (size_t)i * (size_t)most, f->kv.page, (size_t)f->kv.n_pages * sizeof *f->kv.page);
    }
    r->q_offset[n] = n;
    size_t rows = (size_t)n;
    device_upload(m->dev, r->d_tokens, r->tokens, rows * sizeof *r->tokens);
    device_upload(m->dev, r->d_positions, r->positions, rows * sizeof *r->positions);
    device_upload(m->dev, r->d_slot, r->slot, rows * sizeof *r->slot);
    device_upload(m->dev, r->d_q_offset, r->q_offset, (rows + 1) * sizeof *r->q_offset);
    device_upload(m->dev, r->d_kv_len, r->kv_len, rows * sizeof *r->kv_len);
    device_upload(m->dev, r->d_blocks, r->blocks, rows * (size_t)most * sizeof *r->blocks);
    device_upload(m->dev, r->d_group_offset, r->group_offset, ((size_t)n_group + 1) * sizeof *r->group_offset);
    device_upload(m->dev, r->d_group_shared, r->group_shared, (size_t)n_group * sizeof *r->group_shared);
    device_upload(m->dev, r->d_uniform, r->uniform, rows * sizeof *r->uniform);
    device_upload(m->dev, r->d_suppress, r->suppress, rows * sizeof *r->suppress);
    PagedBatch pages = {.pool = r->cache.pool, .q_offset = r->d_q_offset, .kv_len = r->d_kv_len, .block_table = r->d_blocks,
                        .n_seq = n, .max_blocks = most, .group_offset = r->d_group_offset,
                        .group_shared = r->d_group_shared, .n_group = n_group};
    model_decode(m, r->acts, r->d_tokens, r->d_positions, r->d_slot, &pages, r->cache.layer_stride, n);
    model_logits(m, r->acts, r->d_logits, NULL, n);
    SampleSpec spec = sample_spec(r, r->d_forbidden, r->d_outcome_bits);
    m->k->sample(m->dev, r->d_drawn, NULL, r->o->n_outcomes ? r->d_p : NULL, r->d_logits, r->d_uniform, r->d_suppress, &spec,
                 n);
    device_download(m->dev, r->drawn, r->d_drawn, rows * sizeof *r->drawn);
    if (r->o->n_outcomes) device_download(m->dev, r->p, r->d_p, rows * (size_t)r->o->n_outcomes * sizeof *r->p);
    *n_out = n;
    return device_status(r, err);
}

/* For a law that is a function: the whole record so far, one future at a time. */
static Status step_host(Rollout *r, Err *err) {
    int prefix = 2 + r->v->n_static;
    float *logits = xcalloc((size_t)r->v->n, sizeof *logits);
    Status s = OK;
    for (int b = 0; !s && b < r->o->batch; b++) {
        Future *f = &r->future[b];
        if (!f->live) continue;
        ActiveJob *j = &r->job[f->job];
        int32_t *window = xmalloc((size_t)(j->n_history + f->n + prefix) * sizeof *window);
        int n = build_window(r, j, f, j->n_history + f->n, window);
        r->law->logits(r->law->ctx, window, n, logits);
        free(window);
        s = future_advance(r, f, draw_host(r, logits, r->forbidden, future_uniform(r, f)), r->p, err);
    }
    free(logits);
    return s;
}

Status rollout_step(Rollout *r, Err *err) {
    if (!r->law->model) return step_host(r, err);
    int n = 0;
    Status s = decode_live(r, &n, err);
    for (int i = 0; !s && i < n; i++)
        s = future_advance(r, &r->future[r->order[i]], r->drawn[i], r->p + (size_t)i * (size_t)r->o->n_outcomes, err);
    return s;
}
