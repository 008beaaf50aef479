/* kv_cache.h - paged keys and values: a pool of pages [layer][page][K|V][G][64][D], sequences that own pages by reference
 * count, and forks that share all full pages and copy only the last, partial one.  The bookkeeping lives on the host;
 * keys and values never leave the device. */
#ifndef EHR_INFER_KV_CACHE_H
#define EHR_INFER_KV_CACHE_H
#include "model/model.h"

typedef struct {
    const Model *model;
    void        *pool;         /* device */
    size_t       layer_stride; /* bytes from one layer's pages to the next */
    int          n_pages, n_free;
    int32_t     *free_page; /* (n_pages) stack of pages nobody owns */
    int32_t     *refs;      /* (n_pages) owners of each page */
} KvCache;

typedef struct {
    int32_t *page;    /* (capacity) pages in order; page[i] holds keys [64 i, 64 i + 64) */
    int      n_pages; /* pages held: enough for len keys */
    int      capacity;
    int      len; /* keys stored */
} KvSequence;

/* Kept in m->kv_type, which stays as it is from here on. */
size_t kv_cache_bytes(const Model *m, int n_pages);
Status kv_cache_open(KvCache *c, const Model *m, int n_pages, Err *err);
void   kv_cache_close(KvCache *c);

/* Pages that `keys` more keys of s would take from the pool. */
int  kv_pages_needed(const KvSequence *s, int keys);
/* Makes room for n more keys and counts them as stored; slot[i] (may be NULL) is where key len + i goes, for
 * kv_append.  0 and no change when the pool is too small. */
int  kv_sequence_extend(KvCache *c, KvSequence *s, int n, int64_t *slot);
/* dst (empty) gets the keys of src: full pages shared, a partial last page copied.  0 when the pool is too small. */
int  kv_sequence_fork(KvCache *c, KvSequence *dst, const KvSequence *src);
/* dst (empty) gets the first n_pages pages of src, all of them full; nothing is copied. */
void kv_sequence_share(KvCache *c, KvSequence *dst, const KvSequence *src, int n_pages);
void kv_sequence_release(KvCache *c, KvSequence *s); /* gives its pages back; s is empty again */
void kv_sequence_free(KvSequence *s);                /* of a released sequence: its host memory */

#endif
