/* parity_logits.c - writes the logits of some timelines for scripts/parity.py: parity_logits CHECKPOINT DATASET N OUT.
 * OUT, little-endian: int32 {N, V, GREEDY}, then for each timeline int32 length, int32 tokens[length], float
 * logits[length][V] and int32 next[GREEDY], the likeliest tokens one after the other; all token by token through the
 * cache, as in a rollout. */
#include "data/loader.h"
#include "infer/session.h"
#include <stdlib.h>
#include <string.h>

static int fail(const Err *err) {
    fprintf(stderr, "parity_logits: %s\n", err->msg);
    return 1;
}

enum { GREEDY = 20 };

static int32_t likeliest(const float *logits, int V) {
    int best = 0;
    for (int v = 1; v < V; v++)
        if (logits[v] > logits[best]) best = v;
    return best;
}

/* Feeds tokens[0..n) one at a time, then the likeliest GREEDY, which it adds; logits (n, V) of the vocabulary's ids. */
static Status decode_all(Session *s, int32_t *tokens, int n, float *logits, Err *err) {
    Model *m = &s->model;
    KvCache cache;
    KvSequence seq = {0};
    Acts *acts = NULL;
    Status st = kv_cache_open(&cache, m, (n + GREEDY) / KV_PAGE + 2, err);
    if (!st) st = acts_open(&acts, m, 64, 0, RECOMPUTE_NONE, err);
    float *row = device_alloc(m->dev, (size_t)m->cfg.vocab_padded * sizeof *row);
    for (int i = 0; !st && i < n + GREEDY - 1; i++) {
        int64_t slot;
        int32_t q_offset[2] = {0, 1}, group[2] = {0, 1}, shared = 0, kv_len = i + 1, position = i;
        REQUIRE(kv_sequence_extend(&cache, &seq, 1, &slot));
        /* The CPU's device memory is host memory: the arrays can be passed as they are. */
        PagedBatch pages = {.pool = cache.pool, .q_offset = q_offset, .kv_len = &kv_len, .block_table = seq.page, .n_seq = 1,
                            .max_blocks = seq.n_pages, .group_offset = group, .group_shared = &shared, .n_group = 1};
        model_decode(m, acts, &tokens[i], &position, &slot, &pages, cache.layer_stride, 1);
        model_logits(m, acts, row, NULL, 1);
        if (i < n) memcpy(logits + (size_t)i * (size_t)m->cfg.vocab_size, row, (size_t)m->cfg.vocab_size * sizeof *row);
        if (i >= n - 1) tokens[i + 1] = likeliest(row, m->cfg.vocab_size);
        if (device_error(m->dev)) st = err_set(err, ERR_DEVICE, "%s", device_error(m->dev));
    }
    device_free(m->dev, row);
    kv_sequence_free(&seq);
    if (acts) acts_close(acts);
    kv_cache_close(&cache);
    return st;
}

int main(int argc, char **argv) {
    Err err = {OK, ""};
    Session s;
    if (argc != 5) return 2;
    if (session_open(&s, argv[1], argv[2], &(SessionFlags)SESSION_FLAGS_PLAIN, &err)) return fail(&err);
    int32_t n = atoi(argv[3]), V = s.model.cfg.vocab_size;
    if (n > s.dataset.n_patients[SPLIT_TRAIN]) n = (int32_t)s.dataset.n_patients[SPLIT_TRAIN];
    FILE *out = fopen(argv[4], "wb");
    if (!out) return 1;
    int32_t head[3] = {n, V, GREEDY};
    fwrite(head, sizeof head, 1, out);
    for (int64_t row = 0; row < n; row++) {
        PatientView p;
        if (dataset_patient(&s.dataset, SPLIT_TRAIN, row, &p, &err)) return fail(&err);
        int32_t tokens[128 + GREEDY];
        int length = dataset_prefix(&s.dataset, &p, 0, tokens, 128);
        for (int64_t i = 0; i < p.n && length < 128 && length < s.model.cfg.seq_len - GREEDY; i++)
            tokens[length++] = (int32_t)patient_token(&p, i);
        float *logits = xcalloc((size_t)length * (size_t)V, sizeof *logits);
        if (decode_all(&s, tokens, length, logits, &err)) return fail(&err);
        fwrite(&length, sizeof length, 1, out);
        fwrite(tokens, sizeof *tokens, (size_t)length, out);
        fwrite(logits, sizeof *logits, (size_t)length * (size_t)V, out);
        fwrite(tokens + length, sizeof *tokens, GREEDY, out);
        free(logits);
    }
    session_close(&s);
    return fclose(out) != 0;
}
