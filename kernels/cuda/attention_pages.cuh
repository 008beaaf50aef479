/* attention_pages.cuh - which rows and which pages a thread block of attention_paged works on; private to
 * attention_paged.cu and attention_sm90.cu. */
#ifndef EHR_KERNELS_CUDA_ATTENTION_PAGES_CUH
#define EHR_KERNELS_CUDA_ATTENTION_PAGES_CUH
#include "kernels/cuda/attention.cuh"

/* Elements before a head's keys, or values, of a page; their order is that of the card's own kernels. */
template <int D> static __device__ __forceinline__ size_t page_at(int64_t page, int kv, int g, int G) {
    return ((size_t)(page * 2 + kv) * G + g) * (KEYS * D);
}

/* What one launch goes over: the shared pages of groups, or what remains of each sequence. */
struct Pages {
    const bf16 *pool;
    const int32_t *q_offset, *kv_len, *block_table;
    int n_seq, max_blocks;
    const int32_t *group_offset, *group_shared; /* NULL: no sequence shares anything */
    int n_group, shared;                        /* shared: this launch is the first of the two */
};

/* A tile's row is query row / ratio, head row % ratio of the key/value head's. */
struct PagedRow {
    int n, head;
};
static __device__ __forceinline__ PagedRow paged_row(int row, int ratio, int g) {
    return PagedRow{row / ratio, g * ratio + row % ratio};
}

/* The largest u in [lo, hi) with offset[u] <= x. */
static __device__ __forceinline__ int owner_of(const int32_t *offset, int lo, int hi, int x) {
    while (hi - lo > 1) {
        int mid = (lo + hi) / 2;
        if (offset[mid] <= x) lo = mid;
        else hi = mid;
    }
    return lo;
}

/* Blocks [first, end) of a tile, and the sequence in whose block table they are. */
struct BlockRange {
    int sequence, first, end;
};
static __device__ __forceinline__ BlockRange block_range(const Pages &p, int unit, int most_visible) {
    int end = (most_visible + KEYS - 1) / KEYS;
    if (p.shared) return BlockRange{p.group_offset[unit], 0, min(end, p.group_shared[unit])};
    int first = p.group_offset ? p.group_shared[owner_of(p.group_offset, 0, p.n_group, unit)] : 0;
    return BlockRange{unit, first, end};
}

/* attention_sm90.cu, of a card for which sm90_attention() holds; its pages have an order of their own. */
void sm90_kv_append(Device *dev, bf16 *pool, const bf16 *qk, const bf16 *qkv, const int64_t *slot, int N, int H, int G,
                    int D);
void sm90_kv_copy_page(Device *dev, bf16 *pool, int dst, int src, int n_keys, int G, int D);
void sm90_attention_paged(Device *dev, bf16 *out, float *state, const bf16 *qk, const Pages *pages, int N, int H, int G,
                          int D);

#endif
