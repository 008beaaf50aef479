/* decode_pass.c - see decode_pass.h. */
#include "infer/decode_pass.h"
#include <stdlib.h>
#include <string.h>

size_t decode_pass_aligned(size_t bytes) { return (bytes + 255) / 256 * 256; }

size_t decode_pass_bytes(int max_rows, int max_seqs, int max_blocks) {
    size_t rows = (size_t)max_rows, n = (size_t)max_seqs;
    return 2 * decode_pass_aligned(rows * sizeof(int32_t)) + decode_pass_aligned(rows * sizeof(int64_t)) +
           4 * decode_pass_aligned((n + 1) * sizeof(int32_t)) + decode_pass_aligned(n * (size_t)max_blocks * sizeof(int32_t));
}

Status decode_pass_open(DecodePass *p, Model *m, Acts *acts, KvCache *cache, int max_rows, int max_seqs, int max_blocks, size_t extra,
                        Err *err) {
    *p = (DecodePass){.model = m, .acts = acts, .cache = cache, .size = decode_pass_bytes(max_rows, max_seqs, max_blocks) + extra};
    p->host = xcalloc(p->size, 1);
    p->slot = xcalloc((size_t)max_rows, sizeof *p->slot);
    p->device = device_alloc(m->dev, p->size);
    if (p->device) return OK;
    return err_set(err, ERR_NOMEM, "%s has no memory for %d sequences at a time: use a smaller --batch", device_name(m->dev), max_seqs);
}

void decode_pass_close(DecodePass *p) {
    if (p->model) device_free(p->model->dev, p->device);
    free(p->host);
    free(p->slot);
    *p = (DecodePass){0};
}

void *decode_pass_add(DecodePass *p, size_t count, size_t size, void *device) {
    size_t at = p->used;
    p->used += decode_pass_aligned(count * size);
    REQUIRE(p->used <= p->size);
    char *there = p->device + at;
    memcpy(device, &there, sizeof there);
    return p->host + at;
}

void decode_pass_copy(DecodePass *p, const void *from, size_t count, size_t size, void *device) {
    memcpy(decode_pass_add(p, count, size, device), from, count * size);
}

void decode_pass_upload(DecodePass *p) {
    device_upload(p->model->dev, p->device, p->host, p->used);
    p->used = 0;
}

Status decode_pass_lay(DecodePass *p, const DecodeRow *row, int n, const int32_t *group_offset, const int32_t *group_shared, int n_group,
                       Err *err) {
    int most = 1, at = 0;
    for (int i = 0; i < n; i++) {
        if (!kv_sequence_extend(p->cache, row[i].seq, row[i].count, p->slot + at))
            return err_set(err, ERR_NOMEM, "the key-value cache is full: use a smaller --batch");
        if (row[i].seq->n_pages > most) most = row[i].seq->n_pages;
        at += row[i].count;
    }
    size_t rows = (size_t)at, seqs = (size_t)n, groups = (size_t)n_group;
    p->rows = at;
    p->pages = (PagedBatch){.pool = p->cache->pool, .n_seq = n, .max_blocks = most, .n_group = n_group};
    int32_t *tokens = decode_pass_add(p, rows, sizeof *tokens, &p->d_tokens);
    int32_t *positions = decode_pass_add(p, rows, sizeof *positions, &p->d_positions);
    int32_t *q_offset = decode_pass_add(p, seqs + 1, sizeof *q_offset, &p->pages.q_offset);
    int32_t *kv_len = decode_pass_add(p, seqs, sizeof *kv_len, &p->pages.kv_len);
    int32_t *blocks = decode_pass_add(p, seqs * (size_t)most, sizeof *blocks, &p->pages.block_table);
    decode_pass_copy(p, p->slot, rows, sizeof *p->slot, &p->d_slot);
    decode_pass_copy(p, group_offset, groups + 1, sizeof *group_offset, &p->pages.group_offset);
    decode_pass_copy(p, group_shared, groups, sizeof *group_shared, &p->pages.group_shared);
    at = 0;
    for (int i = 0; i < n; i++) {
        const KvSequence *s = row[i].seq;
        q_offset[i] = at;
        kv_len[i] = s->len;
        for (int j = 0; j < row[i].count; j++, at++) {
            tokens[at] = row[i].token[j];
            positions[at] = s->len - row[i].count + j;
        }
        int32_t *pages_of = blocks + (size_t)i * (size_t)most;
        memcpy(pages_of, s->page, (size_t)s->n_pages * sizeof *pages_of);
        memset(pages_of + s->n_pages, 0, (size_t)(most - s->n_pages) * sizeof *pages_of);
    }
    q_offset[n] = at;
    return OK;
}

void decode_pass_run(DecodePass *p) {
    decode_pass_upload(p);
    model_decode(p->model, p->acts, p->d_tokens, p->d_positions, p->d_slot, &p->pages, p->cache->layer_stride, p->rows);
}
