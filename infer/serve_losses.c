/* serve_losses.c - what the model makes of a record that a request tells: the windows of `ehr-infer score`, one pass
 * each. */
#include "infer/serve.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Prefix of a window that begins at token `first`, as dataset_prefix; returns its length. */
static int prefix_fill(const Vocabulary *v, const ServeRecord *r, const int32_t *minutes, int64_t first, int32_t *out) {
    int n = 0;
    out[n++] = first ? TOKEN_CONTINUES : TOKEN_START;
    for (int s = 0; s < v->n_static; s++) out[n++] = r->statics[s];
    out[n++] = vocabulary_age_token(v, r->view.age_years + (first ? minutes[first - 1] : 0) / 525960.0);
    return n;
}

static Status window_pass(Session *s, Acts *acts, Batch *b, int n, float *losses, Err *err) {
    /* The rest of the row is a sequence of PAD without targets. */
    for (int i = 0; i < b->N; i++) b->positions[i] = i < n ? i : i - n;
    for (int i = n; i < b->N; i++) {
        b->tokens[i] = TOKEN_PAD;
        b->target_lo[i] = b->target_hi[i] = -1;
    }
    b->n_seq = n < b->N ? 2 : 1;
    b->cu_seqlens[0] = 0;
    b->cu_seqlens[1] = n;
    b->cu_seqlens[b->n_seq] = b->N;
    model_upload(&s->model, acts, b);
    model_pass(&s->model, acts, NULL, NULL, NULL);
    device_download(s->dev, losses, acts_losses(acts), (size_t)b->N * sizeof *losses);
    return device_error(s->dev) ? err_set(err, ERR_DEVICE, "score: %s", device_error(s->dev)) : OK;
}

Status serve_losses(Session *s, const ServeRecord *r, const uint32_t *tokens, const int32_t *minutes, int64_t n,
                    float *loss, Err *err) {
    const Vocabulary *v = &s->dataset.vocabulary;
    const int T = s->model.cfg.seq_len, prefix = 2 + v->n_static, room = T - prefix + 1;
    const size_t size = (size_t)T;
    int32_t *buffer = xcalloc(5 * size + 1, sizeof *buffer);
    float *losses = xcalloc(size, sizeof *losses);
    Batch b = {.rows = 1,
               .T = T,
               .N = T,
               .tokens = buffer,
               .positions = buffer + size,
               .target_lo = buffer + 2 * size,
               .target_hi = buffer + 3 * size,
               .cu_seqlens = buffer + 4 * size};
    Acts *acts = NULL;
    Status st = acts_open(&acts, &s->model, T, 0, RECOMPUTE_NONE, err);
    for (int64_t first = 0; !st && first < n; first += room) {
        const int count = (int)(n - first < room ? n - first : room);
        prefix_fill(v, r, minutes, first, b.tokens);
        for (int i = 0; i < prefix + count - 1; i++) {
            if (i >= prefix) b.tokens[i] = (int32_t)tokens[first + i - prefix];
            const int64_t target = i - prefix + 1;
            b.target_lo[i] = target < 0 ? -1 : (int32_t)tokens[first + target];
            b.target_hi[i] = target < 0 ? -1 : b.target_lo[i] + 1;
        }
        b.n_targets = count;
        st = window_pass(s, acts, &b, prefix + count - 1, losses, err);
        for (int i = 0; !st && i < count; i++) loss[first + i] = losses[prefix - 1 + i];
    }
    if (acts) acts_close(acts);
    free(buffer);
    free(losses);
    return st;
}
