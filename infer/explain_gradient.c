/* explain_gradient.c - gradient times input of a risk along sampled futures.
 *
 * R = 1 - prod_t (1 - p_t), p_t = sum over the outcome's ids of softmax at step t.  With S = prod_t (1 - p_t),
 *   dR = sum_t S / (1 - p_t) dp_t,   dp_t = -p_t dloss_t  for each range of ids, loss_t = -log p_t(range).
 * The classifier gives the gradient of the plain sum of losses, a row for each step: rows are weighted between it and
 * the rest of the backward pass. */
#include "infer/explain.h"
#include "infer/rollout_window.h"
#include "model/checkpoint.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { RANGES_MAX = 64 };

typedef struct {
    Model model;
    int own_model;
    Acts *acts;
    Params none; /* every parameter is frozen: only activations get gradients */
    Batch batch;
    int n_window;    /* of the history, prefix included */
    int from;        /* history tokens before the window */
    int first, rows; /* batch rows whose next token is a step of the future: [first, first + rows) */
    int n_ranges, lo[RANGES_MAX], hi[RANGES_MAX];
    float *losses, *gradient, *embedded; /* (N), (N,C), (N,C) */
    double *p, *p_range;                 /* (rows), (n_ranges, rows) */
    double *token;                       /* (n_known) sums */
} Gradient;

static Status ranges_find(Gradient *g, const ExplainOptions *o, int V, Err *err) {
    for (int id = 0; id < V; id++) {
        if (!o->rollout.outcome_bits[id]) continue;
        if (g->n_ranges && g->hi[g->n_ranges - 1] == id) g->hi[g->n_ranges - 1]++;
        else if (g->n_ranges == RANGES_MAX)
            return err_set(err, ERR_USAGE,
                           "gradient x input takes outcomes of at most %d runs of ids: give fewer codes", RANGES_MAX);
        else {
            g->lo[g->n_ranges] = id;
            g->hi[g->n_ranges++] = id + 1;
        }
    }
    return OK;
}

static Status gradient_open(Gradient *g, Session *s, const ExplainOptions *o, Err *err) {
    Status st = ranges_find(g, o, s->dataset.vocabulary.n, err);
    if (!st && s->plain) {
        g->model = *s->plain;
    } else if (!st) {
        st = checkpoint_load_on(s->checkpoint, s->base, &g->model, s->dev, DTYPE_F32, 1, err);
        g->own_model = !st;
    }
    if (st) return st;
    for (int i = 0; i < g->model.table.n; i++) g->model.table.spec[i].trainable = 0;
    st = params_bind(&g->none, &g->model.table, &g->model.cfg, g->model.w_arena, DTYPE_F32, err);
    int N = g->model.cfg.seq_len;
    size_t n = (size_t)N, wide = n * (size_t)g->model.cfg.d_model;
    if (!st) st = acts_open(&g->acts, &g->model, N, 1, RECOMPUTE_NONE, err);
    g->batch = (Batch){.rows = 1, .n_seq = 1};
    g->batch.tokens = xcalloc(n, sizeof(int32_t));
    g->batch.positions = xcalloc(n, sizeof(int32_t));
    g->batch.target_lo = xcalloc(n, sizeof(int32_t));
    g->batch.target_hi = xcalloc(n, sizeof(int32_t));
    g->batch.cu_seqlens = xcalloc(n + 1, sizeof(int32_t));
    g->losses = xcalloc(n, sizeof *g->losses);
    g->gradient = xcalloc(wide, sizeof *g->gradient);
    g->embedded = xcalloc(wide, sizeof *g->embedded);
    g->p = xcalloc(n, sizeof *g->p);
    g->p_range = xcalloc(n * (size_t)(g->n_ranges + 1), sizeof *g->p_range);
    return st;
}

static void gradient_close(Gradient *g) {
    void *host[] = {g->batch.tokens,
                    g->batch.positions,
                    g->batch.target_lo,
                    g->batch.target_hi,
                    g->batch.cu_seqlens,
                    g->losses,
                    g->gradient,
                    g->embedded,
                    g->p,
                    g->p_range,
                    g->token};
    for (size_t i = 0; i < sizeof host / sizeof *host; i++) free(host[i]);
    if (g->acts) acts_close(g->acts);
    params_unbind(&g->none);
    if (g->own_model) model_close(&g->model);
}

/* History and future as one sequence; what does not fit at the end is left away. */
static void sequence_make(Gradient *g, const RolloutWindow *w, const RolloutSample *f) {
    Batch *b = &g->batch;
    int n = w->n, room = g->model.cfg.seq_len;
    memcpy(b->tokens, w->token, (size_t)n * sizeof *b->tokens);
    g->n_window = n;
    g->from = w->from;
    int steps = f->n_tokens + (f->stop == STOP_HORIZON); /* the gap that crosses the horizon was a step, too */
    for (int i = 0; i < f->n_tokens && n < room; i++) b->tokens[n++] = f->tokens[i];
    /* A gap that runs at the index leaves nothing else to the first step. */
    g->first = w->n - 1 + (w->elapsed > 0);
    g->rows = steps - (w->elapsed > 0);
    if (g->first + g->rows > n) g->rows = n - g->first;
    if (g->rows < 0) g->rows = 0;
    b->T = b->N = n;
    b->cu_seqlens[1] = n;
    for (int i = 0; i < n; i++) b->positions[i] = i;
}

static void targets_set(Gradient *g, int range) {
    for (int i = 0; i < g->batch.N; i++) {
        int step = i >= g->first && i < g->first + g->rows;
        g->batch.target_lo[i] = step ? g->lo[range] : -1;
        g->batch.target_hi[i] = step ? g->hi[range] : 0;
    }
}

static Status pass_losses(Gradient *g, int range, Params *grad, Err *err) {
    targets_set(g, range);
    model_upload(&g->model, g->acts, &g->batch);
    model_forward(&g->model, g->acts);
    model_loss(&g->model, g->acts, grad);
    device_download(g->model.dev, g->losses, acts_losses(g->acts), (size_t)g->batch.N * sizeof *g->losses);
    const char *why = device_error(g->model.dev);
    return why ? err_set(err, ERR_DEVICE, "explain: %s", why) : OK;
}

/* p of every range at every step, and of all of them. */
static Status probabilities(Gradient *g, Err *err) {
    Status st = OK;
    memset(g->p, 0, (size_t)g->rows * sizeof *g->p);
    for (int r = 0; !st && r < g->n_ranges; r++) {
        st = pass_losses(g, r, NULL, err);
        for (int t = 0; !st && t < g->rows; t++) {
            double p = exp(-g->losses[g->first + t]);
            g->p_range[(size_t)r * (size_t)g->rows + (size_t)t] = p;
            g->p[t] += p;
        }
    }
    return st;
}

static Status range_backward(Gradient *g, int range, double survive, Err *err) {
    const int C = g->model.cfg.d_model;
    size_t bytes = (size_t)g->batch.N * (size_t)C * sizeof(float);
    Status st = pass_losses(g, range, &g->none, err);
    if (st) return st;
    device_download(g->model.dev, g->gradient, acts_hidden_gradient(g->acts), bytes);
    for (int i = 0; i < g->batch.N; i++) {
        int t = i - g->first;
        double weight = t >= 0 && t < g->rows && g->p[t] < 1
                            ? -survive / (1 - g->p[t]) * g->p_range[(size_t)range * (size_t)g->rows + (size_t)t]
                            : 0;
        for (int c = 0; c < C; c++) g->gradient[(size_t)i * (size_t)C + (size_t)c] *= (float)weight;
    }
    device_upload(g->model.dev, acts_hidden_gradient(g->acts), g->gradient, bytes);
    device_download(g->model.dev, g->embedded, acts_embedded(g->acts), bytes);
    model_backward(&g->model, g->acts, &g->none, NULL, NULL);
    device_download(g->model.dev, g->gradient, acts_embedded_gradient(g->acts), bytes);
    const char *why = device_error(g->model.dev);
    return why ? err_set(err, ERR_DEVICE, "explain: %s", why) : OK;
}

static Status future_add(Gradient *g, const RolloutWindow *w, double share, double *along, Err *err) {
    const int C = g->model.cfg.d_model;
    Status st = probabilities(g, err);
    double survive = 1;
    for (int t = 0; t < g->rows; t++) survive *= 1 - g->p[t];
    *along += share * (1 - survive);
    for (int r = 0; !st && r < g->n_ranges; r++) {
        st = range_backward(g, r, survive, err);
        for (int i = w->prefix; !st && i < g->n_window; i++) {
            double dot = 0;
            for (int c = 0; c < C; c++) {
                size_t at = (size_t)i * (size_t)C + (size_t)c;
                dot += (double)g->gradient[at] * g->embedded[at];
            }
            if (w->origin[i] >= 0) g->token[w->origin[i]] += share * dot;
        }
    }
    return st;
}

Status explain_gradient(Session *s, const RolloutJob *job, const ExplainOptions *o, const RolloutSample *samples, int n,
                        Explanation *out, Err *err) {
    Gradient g = {0};
    RolloutWindow w = {0};
    Status st = gradient_open(&g, s, o, err);
    g.token = xcalloc((size_t)job->n_known + 1, sizeof *g.token);
    if (!st) rollout_window(&s->dataset.vocabulary, &o->rollout, s->law.seq_len, job, &w);
    out->along = 0;
    for (int k = 0; !st && k < n; k++) {
        sequence_make(&g, &w, &samples[k]);
        if (g.rows) st = future_add(&g, &w, 1.0 / n, &out->along, err);
    }
    for (int i = 0; !st && i < out->n; i++) {
        out->item[i].gradient = 0;
        for (int k = 0; k < out->item[i].n_index; k++) out->item[i].gradient += g.token[out->item[i].index[k]];
    }
    rollout_window_free(&w);
    gradient_close(&g);
    return st;
}
