/* rollout_step.c - see rollout_step.h.
 *
 * A future that reaches the longest sequence the model takes is *refilled*: it keeps the newer half of its tokens behind a
 * RECORD_CONTINUES prefix, as in training, and is prefilled anew on pages of its own.  When that happens depends on the
 * future alone, so results stay independent of the batch.  exact_window keeps all that fit instead, and so refills at
 * every token. */
#include "infer/rollout_step.h"
#include "infer/memory.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- memory ------------------------------------------------------------------------------------------------------ */

static int jobs_for(const Rollout *r, int batch) {
    if (r->n_total < 0) return r->o->jobs_max;
    int first = r->o->first_look && r->cb->enough && r->o->first_look < r->o->n_samples ? r->o->first_look : r->o->n_samples;
    int jobs = batch / first + 2;
    return jobs < batch + 1 ? jobs : batch + 1;
}

static int rows_for(const Rollout *r, int batch) { return r->law->seq_len > batch ? r->law->seq_len : batch; }

/* A step draws as well: for every future a uniform number and the outcomes it never draws. */
static size_t extra_bytes(int batch) {
    return decode_pass_aligned((size_t)batch * sizeof(double)) + decode_pass_aligned(((size_t)batch + 1) * sizeof(uint32_t));
}

/* Every live future at full length, every job's prefix and the last one's beside it: the pool cannot run dry. */
static int pages_for(const Rollout *r, int batch) { return (batch + jobs_for(r, batch) + 1) * (r->max_blocks + 1); }

/* Device memory that `batch` futures take, almost. */
static double bytes_for(const Rollout *r, int batch) {
    const Model *m = r->law->model;
    int rows = rows_for(r, batch);
    return (double)kv_cache_bytes(m, pages_for(r, batch)) +
           (double)acts_bytes(&m->cfg, m->dtype, rows, 0, RECOMPUTE_NONE) + (double)acts_scratch_bytes(&m->cfg, m->dev, m->k, rows) +
           4.0 * r->Vp * (batch + jobs_for(r, batch)) + (double)decode_pass_bytes(rows, batch, r->max_blocks) + (double)extra_bytes(batch);
}

/* The most futures at a time, up to the batch asked for, that memory has room for; what they compute stays the same. */
static Status batch_fit(Rollout *r, Err *err) {
    const Device *dev = r->law->model->dev;
    /* A CPU's memory is everybody's. */
    double room = (device_kind(dev) == DEVICE_CPU ? 0.5 : 0.95) * memory_free(dev);
    int least = 0, most = r->batch + 1;
    while (most - least > 1) {
        int middle = least + (most - least) / 2;
        if (bytes_for(r, middle) <= room) least = middle;
        else most = middle;
    }
    r->short_of_memory = least < r->batch;
    r->batch = least;
    if (least) return OK;
    return err_set(err, ERR_NOMEM, "%s has no memory for a single future of %d tokens%s", device_name(dev), r->law->seq_len,
                   device_kind(dev) == DEVICE_CPU ? "" : ": use --device cpu");
}

static Status open_device(Rollout *r, Err *err) {
    Device *dev = r->law->model->dev;
    size_t b = (size_t)r->batch, V = (size_t)r->v->n, row = (size_t)r->Vp * sizeof(float);
    size_t drawn = decode_pass_aligned(b * sizeof *r->drawn);
    size_t outcomes = r->n_total < 0 ? SAMPLE_OUTCOMES_MAX : (size_t)r->o->n_outcomes;
    size_t before = drawn + (r->o->weigh_paths ? decode_pass_aligned(b * sizeof *r->logp) : 0);
    size_t output = before + b * outcomes * sizeof *r->p;
    r->output = xcalloc(output, 1);
    r->d_output = device_alloc(dev, output);
    r->d_logits = device_alloc(dev, b * row);
    r->d_outcome_bits = device_alloc(dev, V * sizeof(uint32_t));
    r->d_forbidden = device_alloc(dev, V);
    r->d_forbidden_first = device_alloc(dev, V);
    int ok = r->d_output && r->d_logits && r->d_outcome_bits && r->d_forbidden && r->d_forbidden_first;
    for (int a = 0; a < r->max_jobs && ok; a++) ok = (r->job[a].logits = device_alloc(dev, row)) != NULL;
    for (int a = 0; r->n_total < 0 && a < r->max_jobs && ok; a++)
        ok = (r->job[a].d_own_bits = device_alloc(dev, V * sizeof(uint32_t))) != NULL;
    if (!ok) return err_set(err, ERR_NOMEM, "%s has no memory for %d futures at a time: use a smaller --batch", device_name(dev), r->batch);
    r->drawn = (int32_t *)(void *)r->output;
    r->d_drawn = (int32_t *)(void *)r->d_output;
    r->logp = r->o->weigh_paths ? (float *)(void *)(r->output + drawn) : NULL;
    r->d_logp = r->o->weigh_paths ? (float *)(void *)(r->d_output + drawn) : NULL;
    r->p = (float *)(void *)(r->output + before);
    r->d_p = (float *)(void *)(r->d_output + before);
    r->p_row = xcalloc(b, sizeof *r->p_row);
    r->row = xcalloc(b, sizeof *r->row);
    r->group_offset = xcalloc(b + 1, sizeof *r->group_offset);
    r->group_shared = xcalloc(b, sizeof *r->group_shared);
    r->window = xcalloc((size_t)r->law->seq_len, sizeof *r->window);
    device_upload(dev, r->d_forbidden, r->forbidden, V);
    if (r->o->outcome_bits) device_upload(dev, r->d_outcome_bits, r->o->outcome_bits, V * sizeof(uint32_t));
    Status s = acts_open(&r->acts, r->law->model, r->max_rows, 0, RECOMPUTE_NONE, err);
    if (!s) s = kv_cache_open(&r->cache, r->law->model, pages_for(r, r->batch), err);
    if (!s) s = decode_pass_open(&r->pass, r->law->model, r->acts, &r->cache, r->max_rows, r->batch, r->max_blocks, extra_bytes(r->batch), err);
    r->root_token = xcalloc((size_t)r->law->seq_len, sizeof *r->root_token);
    return s;
}

Status rollout_open(Rollout *r, Err *err) {
    r->max_blocks = (r->law->seq_len + KV_PAGE - 1) / KV_PAGE;
    r->Vp = r->law->model ? r->law->model->cfg.vocab_padded : r->v->n;
    double all = (double)r->n_total * r->o->n_samples;
    r->batch = r->n_total < 0 || r->o->batch < all ? r->o->batch : all < 1 ? 1 : (int)all;
    Status s = r->law->model ? batch_fit(r, err) : OK;
    if (s) return s;
    r->max_jobs = jobs_for(r, r->batch);
    r->max_rows = rows_for(r, r->batch);
    r->job = xcalloc((size_t)r->max_jobs, sizeof *r->job);
    r->future = xcalloc((size_t)r->batch, sizeof *r->future);
    r->order = xcalloc((size_t)r->batch, sizeof *r->order);
    r->forbidden = xcalloc((size_t)r->v->n, 1);
    r->forbidden_first = xcalloc((size_t)r->v->n, 1);
    vocabulary_forbidden(r->v, r->forbidden);
    if (r->law->model) return open_device(r, err);
    for (int a = 0; a < r->max_jobs; a++) r->job[a].logits = xcalloc((size_t)r->Vp, sizeof(float));
    r->output = xcalloc(SAMPLE_OUTCOMES_MAX, sizeof *r->p);
    r->p = (float *)(void *)r->output;
    return OK;
}

void rollout_close(Rollout *r) {
    for (int a = 0; a < r->max_jobs; a++) {
        ActiveJob *j = &r->job[a];
        job_samples_free(j);
        free(j->history);
        free(j->history_minutes);
        free(j->history_origin);
        if (r->law->model) device_free(r->law->model->dev, j->d_own_bits);
        if (r->law->model) device_free(r->law->model->dev, j->logits);
        else free(j->logits);
        kv_sequence_free(&j->kv);
    }
    for (int b = 0; b < r->batch; b++) {
        free(r->future[b].token);
        free(r->future[b].minutes);
        free(r->future[b].s.curve);
        kv_sequence_free(&r->future[b].kv);
    }
    if (r->law->model) {
        Device *dev = r->law->model->dev;
        void *device[] = {r->d_output, r->d_logits, r->d_outcome_bits, r->d_forbidden, r->d_forbidden_first};
        for (size_t i = 0; i < sizeof device / sizeof *device; i++) device_free(dev, device[i]);
        if (r->acts) acts_close(r->acts);
        kv_sequence_free(&r->root);
        decode_pass_close(&r->pass);
        kv_cache_close(&r->cache);
    }
    void *host[] = {r->output, r->forbidden, r->forbidden_first, r->window, r->row, r->group_offset, r->group_shared,
                    r->root_token, r->logits, r->p_row, r->order, r->job, r->future};
    for (size_t i = 0; i < sizeof host / sizeof *host; i++) free(host[i]);
}

/* ---- drawing ----------------------------------------------------------------------------------------------------- */

static SampleSpec sample_spec(const Rollout *r, const ActiveJob *j, const uint8_t *forbidden) {
    return (SampleSpec){.V = r->v->n, .Vp = r->Vp, .temperature = (float)j->o->temperature, .top_k = j->o->top_k,
                        .forbidden = forbidden, .outcome_bits = j->d_outcome_bits, .n_outcomes = j->o->n_outcomes};
}

void rollout_job_outcomes(Rollout *r, ActiveJob *j) {
    const int own = j->job.o && j->o->n_outcomes;
    j->d_outcome_bits = own ? j->d_own_bits : r->d_outcome_bits;
    if (own && r->law->model)
        device_upload(r->law->model->dev, j->d_own_bits, j->o->outcome_bits, (size_t)r->v->n * sizeof *j->d_own_bits);
}

/* Whether one call may draw for both. */
static int draws_alike(const ActiveJob *a, const ActiveJob *b) {
    return a->o->temperature == b->o->temperature && a->o->top_k == b->o->top_k && a->o->n_outcomes == b->o->n_outcomes &&
           (!a->o->n_outcomes || a->d_outcome_bits == b->d_outcome_bits);
}

/* What reach never draws: the outcomes that the job watches, but for those that do not count yet and end nothing. */
static uint32_t suppress_bits(const Rollout *r, const Future *f) {
    const ActiveJob *j = &r->job[f->job];
    if (j->o->estimator != ESTIMATOR_REACH || !j->o->n_outcomes) return 0;
    const uint32_t all = (uint32_t)((1ull << j->o->n_outcomes) - 1);
    uint32_t bits = j->job.watch ? j->job.watch & all : all;
    for (int k = 0; j->o->outcome_after && k < j->o->n_outcomes; k++)
        if (!(j->o->after_ends >> k & 1) && future_early(r, f, k)) bits &= ~(1u << k);
    return bits;
}

/* The draw for a law that is a function: the kernels' sample() in plain words, one row in double precision. */
static int32_t draw_host(Rollout *r, const Future *f, const float *logits, const uint8_t *forbidden, double u, float *logp) {
    const ActiveJob *j = &r->job[f->job];
    int V = r->v->n;
    double max = -INFINITY, all = 0, open = 0, at = 0;
    uint32_t suppress = suppress_bits(r, f);
    for (int i = 0; i < V; i++)
        if (!forbidden[i] && logits[i] > max) max = logits[i];
    memset(r->p, 0, sizeof *r->p * SAMPLE_OUTCOMES_MAX);
    for (int i = 0; i < V; i++) {
        if (forbidden[i]) continue;
        double p = exp(logits[i] - max);
        uint32_t bits = j->o->outcome_bits ? j->o->outcome_bits[i] : 0;
        all += p;
        if (!(bits & suppress)) open += p;
    }
    int32_t drawn = -1;
    double p_outcome[SAMPLE_OUTCOMES_MAX] = {0};
    for (int i = 0; i < V; i++) {
        if (forbidden[i]) continue;
        double p = exp(logits[i] - max);
        uint32_t bits = j->o->outcome_bits ? j->o->outcome_bits[i] : 0;
        for (int k = 0; k < j->o->n_outcomes; k++)
            if (bits >> k & 1) p_outcome[k] += p / all;
        if (bits & suppress || p <= 0) continue;
        if (drawn < 0 || at <= u * open) drawn = i;
        at += p;
    }
    for (int k = 0; k < j->o->n_outcomes; k++) r->p[k] = (float)p_outcome[k];
    *logp = drawn < 0 ? -INFINITY : (float)(logits[drawn] - max - log(all));
    return drawn;
}

static Status device_status(const Rollout *r, Err *err) {
    const char *why = r->law->model ? device_error(r->law->model->dev) : NULL;
    if (!why) return OK;
    return err_set(err, ERR_DEVICE, "rollout: %s%s", why,
                   strstr(why, "device_graph_launch") ? "; with --graphs=no as well it names the operation" : "");
}

/* ---- what a step gives --------------------------------------------------------------------------------------------- */

/* Ids of n rows, and n_p probabilities of outcomes. */
static void output_download(Rollout *r, int n, size_t n_p) {
    size_t bytes = (size_t)n * sizeof *r->drawn; /* up to the end of the last array that holds something */
    if (n_p) bytes = (size_t)((char *)r->p - r->output) + n_p * sizeof *r->p;
    else if (r->logp) bytes = (size_t)((char *)r->logp - r->output) + (size_t)n * sizeof *r->logp;
    device_download(r->law->model->dev, r->output, r->d_output, bytes);
}

/* What a followed future's own token would have had, and what probabilities are told from. */
static void logits_download(Rollout *r, const float *logits, int n) {
    size_t row = (size_t)r->Vp * sizeof *r->logits;
    if (!r->logits) r->logits = xcalloc((size_t)r->batch, row);
    device_download(r->law->model->dev, r->logits, logits, (size_t)n * row);
}

/* ---- prefill ----------------------------------------------------------------------------------------------------- */

/* Runs window[s->len .. total) behind what s holds, as one sequence; logits (Vp, may be NULL) of its last token. */
static Status prefill(Rollout *r, KvSequence *s, const int32_t *window, int total, float *logits, Err *err) {
    const int n = total - s->len;
    const DecodeRow row = {s, window + s->len, n};
    const int32_t group[] = {0, 1}, none = 0, last = n - 1;
    int32_t *d_row;
    Status st = decode_pass_lay(&r->pass, &row, 1, group, &none, 1, err);
    if (st) return st;
    decode_pass_copy(&r->pass, &last, 1, sizeof last, &d_row);
    decode_pass_run(&r->pass);
    if (logits) model_logits(r->law->model, r->acts, logits, d_row, 1);
    r->stats->prefill_tokens += n;
    return device_status(r, err);
}

/* Takes over the pages of the job before as far as its window began alike; its own then become the root. */
static Status prefill_shared(Rollout *r, ActiveJob *j, Err *err) {
    int alike = 0, n = j->n_window;
    while (!r->o->no_sharing && alike < r->root.len && alike < n - 1 && r->window[alike] == r->root_token[alike]) alike++;
    kv_sequence_share(&r->cache, &j->kv, &r->root, alike / KV_PAGE);
    r->stats->shared_tokens += j->kv.len;
    Status s = prefill(r, &j->kv, r->window, n, j->logits, err);
    if (s) return s;
    kv_sequence_release(&r->cache, &r->root);
    kv_sequence_share(&r->cache, &r->root, &j->kv, n / KV_PAGE);
    memcpy(r->root_token, r->window, (size_t)n * sizeof *r->window);
    return OK;
}

Status rollout_prefill_job(Rollout *r, ActiveJob *j, Err *err) {
    int prefix = 2 + r->v->n_static, keep = window_keep(r->v, r->o, r->law->seq_len);
    if (!r->law->model) {
        int32_t *window = xmalloc((size_t)(j->n_history + prefix) * sizeof *window);
        j->n_window = build_window(r->v, j, NULL, j->n_history, window);
        r->law->logits(r->law->ctx, window, j->n_window, j->logits);
        free(window);
        return OK;
    }
    j->n_window = build_window(r->v, j, NULL, keep, r->window);
    return prefill_shared(r, j, err);
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
    float logp;
    if (!r->law->model) {
        int32_t drawn = draw_host(r, f, j->logits, forbidden, u, &logp);
        return future_advance(r, f, drawn, logp, j->logits, r->p, err);
    }
    Model *m = r->law->model;
    if (!kv_sequence_fork(&r->cache, &f->kv, &j->kv))
        return err_set(err, ERR_NOMEM, "the key-value cache is full: use a smaller --batch");
    SampleSpec spec = sample_spec(r, j, on_device);
    uint32_t suppress = suppress_bits(r, f), *d_suppress;
    double *d_uniform;
    decode_pass_copy(&r->pass, &u, 1, sizeof u, &d_uniform);
    decode_pass_copy(&r->pass, &suppress, 1, sizeof suppress, &d_suppress);
    decode_pass_upload(&r->pass);
    m->k->sample(m->dev, r->d_drawn, r->d_logp, j->o->n_outcomes ? r->d_p : NULL, j->logits, d_uniform, d_suppress, &spec, 1);
    output_download(r, 1, (size_t)j->o->n_outcomes);
    if (j->job.n_follow || j->o->tell_logprobs) logits_download(r, j->logits, 1);
    Status s = device_status(r, err);
    return s ? s : future_advance(r, f, r->drawn[0], r->logp ? r->logp[0] : 0, r->logits, r->p, err);
}

/* ---- one step ---------------------------------------------------------------------------------------------------- */

static Status refill(Rollout *r, Future *f, Err *err) {
    ActiveJob *j = &r->job[f->job];
    kv_sequence_release(&r->cache, &f->kv);
    f->n--; /* the pending token is decoded by the step itself */
    int keep = r->o->exact_window ? r->law->seq_len - 3 - r->v->n_static : r->law->seq_len / 2;
    int n = build_window(r->v, j, f, keep, r->window);
    f->n++;
    f->refilled = 1;
    f->length = n;
    r->stats->refills++;
    return prefill(r, &f->kv, r->window, n, NULL, err);
}

/* Lists live futures job by job, those still on their job's pages first, and fills the groups. */
static int arrange(Rollout *r, int *n_group) {
    int n = 0, g = 0;
    for (int a = 0; a < r->max_jobs; a++)
        for (int refilled = 0; r->job[a].used && refilled < 2; refilled++) {
            int first = n;
            for (int b = 0; b < r->batch; b++) {
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

/* Draws for n rows of r->order, a call for those that go together; returns how many probabilities came out. */
static size_t draw_rows(Rollout *r, const double *d_uniform, const uint32_t *d_suppress, int n) {
    Model *m = r->law->model;
    size_t n_p = 0;
    for (int first = 0, end; first < n; first = end) {
        const ActiveJob *j = &r->job[r->future[r->order[first]].job];
        const size_t outcomes = (size_t)j->o->n_outcomes;
        SampleSpec spec = sample_spec(r, j, r->d_forbidden);
        for (end = first; end < n && draws_alike(j, &r->job[r->future[r->order[end]].job]); end++)
            r->p_row[end] = r->p + n_p + (size_t)(end - first) * outcomes;
        m->k->sample(m->dev, r->d_drawn + first, r->d_logp ? r->d_logp + first : NULL, outcomes ? r->d_p + n_p : NULL,
                     r->d_logits + (size_t)first * (size_t)r->Vp, d_uniform + first, d_suppress + first, &spec, end - first);
        n_p += (size_t)(end - first) * outcomes;
    }
    return n_p;
}

static Status decode_live(Rollout *r, int *n_out, Err *err) {
    for (int b = 0; b < r->batch; b++) {
        Future *f = &r->future[b];
        Status s = f->live && f->length == r->law->seq_len ? refill(r, f, err) : OK;
        if (s) return s;
    }
    int n_group, n = arrange(r, &n_group);
    for (int i = 0; i < n; i++) {
        Future *f = &r->future[r->order[i]];
        r->row[i] = (DecodeRow){&f->kv, &f->pending, 1};
        f->length++;
    }
    Status st = decode_step_lay(&r->pass, r->row, n, r->group_offset, r->group_shared, n_group, err);
    if (st) return st;
    double *d_uniform;
    uint32_t *d_suppress;
    double *uniform = decode_pass_add(&r->pass, (size_t)n, sizeof *uniform, &d_uniform);
    uint32_t *suppress = decode_pass_add(&r->pass, (size_t)n, sizeof *suppress, &d_suppress);
    for (int i = 0; i < n; i++) {
        Future *f = &r->future[r->order[i]];
        uniform[i] = future_uniform(r, f);
        suppress[i] = suppress_bits(r, f);
    }
    decode_step_run(&r->pass, r->d_logits);
    output_download(r, n, draw_rows(r, d_uniform, d_suppress, n));
    int wanted = 0;
    for (int i = 0; i < n; i++) {
        const ActiveJob *j = &r->job[r->future[r->order[i]].job];
        wanted |= j->job.n_follow || j->o->tell_logprobs;
    }
    if (wanted) logits_download(r, r->d_logits, n);
    *n_out = n;
    return device_status(r, err);
}

/* For a law that is a function: the whole record so far, one future at a time. */
static Status step_host(Rollout *r, Err *err) {
    int prefix = 2 + r->v->n_static;
    float *logits = xcalloc((size_t)r->v->n, sizeof *logits);
    Status s = OK;
    for (int b = 0; !s && b < r->batch; b++) {
        Future *f = &r->future[b];
        if (!f->live) continue;
        ActiveJob *j = &r->job[f->job];
        int32_t *window = xmalloc((size_t)(j->n_history + f->n + prefix) * sizeof *window);
        int n = build_window(r->v, j, f, j->n_history + f->n, window);
        r->law->logits(r->law->ctx, window, n, logits);
        free(window);
        float logp;
        int32_t drawn = draw_host(r, f, logits, r->forbidden, future_uniform(r, f), &logp);
        s = future_advance(r, f, drawn, logp, logits, r->p, err);
    }
    free(logits);
    return s;
}

Status rollout_step(Rollout *r, Err *err) {
    if (!r->law->model) return step_host(r, err);
    int n = 0;
    Status s = decode_live(r, &n, err);
    r->stats->steps++;
    r->stats->decoded += n;
    r->stats->replayed = r->pass.replayed;
    for (int i = 0; !s && i < n; i++)
        s = future_advance(r, &r->future[r->order[i]], r->drawn[i], r->logp ? r->logp[i] : 0,
                           r->logits ? r->logits + (size_t)i * (size_t)r->Vp : NULL, r->p_row[i], err);
    return s;
}
