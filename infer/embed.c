/* embed.c - see embed.h. */
#include "infer/embed.h"
#include <stdlib.h>
#include <string.h>

enum { ROWS_LEAST = 4096 };

typedef struct {
    RolloutJob job;
    RolloutWindow window;
    int64_t i;
    int at; /* first row in the pass */
} Packed;

typedef struct {
    Session *s;
    Acts *acts;
    Batch batch;
    Packed *packed;
    int n_packed, capacity; /* capacity in rows */
    char *raw;
    float *hidden;
    EmbedTake take;
    void *ctx;
} EmbedRun;

static void widen_bf16(float *to, const char *from, size_t n) {
    for (size_t i = 0; i < n; i++) {
        uint16_t half;
        memcpy(&half, from + 2 * i, 2);
        uint32_t bits = (uint32_t)half << 16;
        memcpy(to + i, &bits, 4);
    }
}

static Status pass_run(EmbedRun *r, Err *err) {
    Model *m = &r->s->model;
    const size_t C = (size_t)m->cfg.d_model;
    Status st = OK;
    if (!r->n_packed) return OK;
    r->batch.n_seq = r->n_packed;
    r->batch.N = r->batch.T = r->batch.cu_seqlens[r->n_packed];
    model_upload(m, r->acts, &r->batch);
    model_forward(m, r->acts);
    size_t n = (size_t)r->batch.N * C;
    if (m->dtype == DTYPE_BF16) {
        device_download(m->dev, r->raw, acts_hidden(r->acts), n * 2);
        widen_bf16(r->hidden, r->raw, n);
    } else {
        device_download(m->dev, r->hidden, acts_hidden(r->acts), n * sizeof *r->hidden);
    }
    if (device_error(m->dev)) st = err_set(err, ERR_DEVICE, "embed: %s", device_error(m->dev));
    for (int k = 0; k < r->n_packed; k++) {
        Packed *p = &r->packed[k];
        if (!st) st = r->take(r->ctx, p->i, &p->job, &p->window, r->hidden + (size_t)p->at * C, err);
        rollout_window_free(&p->window);
    }
    r->n_packed = 0;
    return st;
}

static void pack(EmbedRun *r, const Packed *p) {
    int at = r->n_packed ? r->batch.cu_seqlens[r->n_packed] : 0;
    for (int i = 0; i < p->window.n; i++) {
        r->batch.tokens[at + i] = p->window.token[i];
        r->batch.positions[at + i] = i;
    }
    r->packed[r->n_packed] = *p;
    r->packed[r->n_packed++].at = at;
    r->batch.cu_seqlens[r->n_packed] = at + p->window.n;
}

Status embed_run(Session *s, int64_t n_jobs, Status (*get_job)(void *ctx, int64_t i, RolloutJob *out, Err *err),
                 EmbedTake take, void *ctx, FILE *progress, Err *err) {
    const RolloutOptions all_that_fits = {.exact_window = 1};
    int seq_len = s->model.cfg.seq_len;
    EmbedRun r = {.s = s, .take = take, .ctx = ctx, .capacity = seq_len > ROWS_LEAST ? seq_len : ROWS_LEAST};
    size_t n = (size_t)r.capacity;
    r.batch = (Batch){.rows = 1};
    r.batch.tokens = xcalloc(n, sizeof(int32_t));
    r.batch.positions = xcalloc(n, sizeof(int32_t));
    r.batch.cu_seqlens = xcalloc(n + 1, sizeof(int32_t));
    r.packed = xcalloc(n, sizeof *r.packed);
    r.hidden = xcalloc(n * (size_t)s->model.cfg.d_model, sizeof *r.hidden);
    r.raw = s->model.dtype == DTYPE_BF16 ? xcalloc(n * (size_t)s->model.cfg.d_model, 2) : NULL;
    Status st = acts_open(&r.acts, &s->model, r.capacity, 0, RECOMPUTE_NONE, err);
    Progress bar;
    progress_open(&bar, progress, "embed", "index times", n_jobs);
    for (int64_t i = 0; !st && i < n_jobs; i++) {
        Packed p = {.i = i};
        st = get_job(ctx, i, &p.job, err);
        if (st) break;
        rollout_window(&s->dataset.vocabulary, &all_that_fits, seq_len, &p.job, &p.window);
        if (r.n_packed && r.batch.cu_seqlens[r.n_packed] + p.window.n > r.capacity) st = pass_run(&r, err);
        pack(&r, &p);
        progress_update(&bar, i + 1);
    }
    if (!st) st = pass_run(&r, err);
    progress_close(&bar, n_jobs);
    for (int k = 0; k < r.n_packed; k++) rollout_window_free(&r.packed[k].window);
    if (r.acts) acts_close(r.acts);
    void *host[] = {r.batch.tokens, r.batch.positions, r.batch.cu_seqlens, r.packed, r.hidden, r.raw};
    for (size_t i = 0; i < sizeof host / sizeof *host; i++) free(host[i]);
    return st;
}
