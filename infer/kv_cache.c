/* kv_cache.c - see kv_cache.h. */
#include "infer/kv_cache.h"
#include <stdlib.h>
#include <string.h>

static size_t page_bytes(const Model *m) {
    return m->k->kv_page_bytes(m->dev, m->kv_type, m->cfg.n_kv_heads, m->cfg.head_dim);
}

size_t kv_cache_bytes(const Model *m, int n_pages) {
    return (size_t)n_pages * page_bytes(m) * (size_t)m->cfg.n_layers;
}

Status kv_cache_open(KvCache *c, const Model *m, int n_pages, Err *err) {
    *c = (KvCache){.model = m, .n_pages = n_pages, .n_free = n_pages};
    c->layer_stride = (size_t)n_pages * page_bytes(m);
    c->pool = device_alloc(m->dev, kv_cache_bytes(m, n_pages));
    if (!c->pool)
        return err_set(err, ERR_NOMEM, "no memory for a key-value cache of %.1f GiB: use a smaller --batch",
                       (double)kv_cache_bytes(m, n_pages) / 1073741824.0);
    c->free_page = xcalloc((size_t)n_pages, sizeof *c->free_page);
    c->refs = xcalloc((size_t)n_pages, sizeof *c->refs);
    for (int i = 0; i < n_pages; i++) c->free_page[i] = n_pages - 1 - i;
    return OK;
}

void kv_cache_close(KvCache *c) {
    if (c->pool) device_free(c->model->dev, c->pool);
    free(c->free_page);
    free(c->refs);
    *c = (KvCache){0};
}

static int32_t page_take(KvCache *c) {
    int32_t p = c->free_page[--c->n_free];
    c->refs[p] = 1;
    return p;
}

static void sequence_push(KvSequence *s, int32_t page) {
    if (s->n_pages == s->capacity) {
        s->capacity = s->capacity ? 2 * s->capacity : 8;
        s->page = xrealloc(s->page, (size_t)s->capacity * sizeof *s->page);
    }
    s->page[s->n_pages++] = page;
}

int kv_pages_needed(const KvSequence *s, int keys) {
    int pages = (s->len + keys + KV_PAGE - 1) / KV_PAGE;
    return pages > s->n_pages ? pages - s->n_pages : 0;
}

int kv_sequence_extend(KvCache *c, KvSequence *s, int n, int64_t *slot) {
    int need = kv_pages_needed(s, n);
    if (need > c->n_free) return 0;
    while (need-- > 0) sequence_push(s, page_take(c));
    for (int i = 0; slot && i < n; i++) {
        int key = s->len + i;
        slot[i] = (int64_t)s->page[key / KV_PAGE] * KV_PAGE + key % KV_PAGE;
    }
    s->len += n;
    return 1;
}

void kv_sequence_share(KvCache *c, KvSequence *dst, const KvSequence *src, int n_pages) {
    REQUIRE(n_pages <= src->len / KV_PAGE);
    dst->n_pages = 0;
    for (int i = 0; i < n_pages; i++) {
        c->refs[src->page[i]]++;
        sequence_push(dst, src->page[i]);
    }
    dst->len = n_pages * KV_PAGE;
}

int kv_sequence_fork(KvCache *c, KvSequence *dst, const KvSequence *src) {
    const ModelConfig *cfg = &c->model->cfg;
    int full = src->len / KV_PAGE, rest = src->len % KV_PAGE;
    if (rest && !c->n_free) return 0;
    kv_sequence_share(c, dst, src, full);
    if (rest) {
        int32_t page = page_take(c);
        for (int l = 0; l < cfg->n_layers; l++)
            c->model->k->kv_copy_page(c->model->dev, (char *)c->pool + (size_t)l * c->layer_stride, c->model->kv_type, page,
                                      src->page[full], rest, cfg->n_kv_heads, cfg->head_dim);
        sequence_push(dst, page);
    }
    dst->len = src->len;
    return 1;
}

void kv_sequence_release(KvCache *c, KvSequence *s) {
    for (int i = 0; i < s->n_pages; i++)
        if (--c->refs[s->page[i]] == 0) c->free_page[c->n_free++] = s->page[i];
    s->n_pages = s->len = 0;
}

void kv_sequence_free(KvSequence *s) {
    free(s->page);
    *s = (KvSequence){0};
}
