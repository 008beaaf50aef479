/* attention_paged.c - the cache of keys and values, in float32 or bfloat16, and attention over it. */
#include "kernels/cpu/ops.h"

#include <string.h>

size_t cpu_kv_page_bytes(const Device *dev, DType type, int G, int D) {
    (void)dev;
    return type == DTYPE_F32 || type == DTYPE_BF16 ? 2 * (size_t)G * page_head_bytes(type, D) : 0;
}

/* Key i of a page, and row i of its values */
static void float_store(float *keys, float *values, int i, const float *k, const float *v, int D) {
    keys += i / SGEMM_PANEL * SGEMM_PANEL * D + i % SGEMM_PANEL;
    for (int d = 0; d < D; d++) keys[d * SGEMM_PANEL] = k[d];
    for (int d = 0; d < D; d += SGEMM_PANEL) {
        int n = panel_width(d, D);
        memcpy(values + d * KV_PAGE + i * n, v + d, sizeof(float) * (size_t)n);
    }
}
static void bf16_store(uint16_t *keys, uint16_t *values, int i, const float *k, const float *v, int D) {
    keys += i / SGEMM_PANEL * SGEMM_PANEL * D + bf16_place(i % SGEMM_PANEL);
    for (int d = 0; d < D; d++) keys[d * SGEMM_PANEL] = (uint16_t)bf16_of(k[d]);
    for (int d = 0; d < D; d++)
        values[d / SGEMM_PANEL * SGEMM_PANEL * KV_PAGE + i * SGEMM_PANEL + bf16_place(d % SGEMM_PANEL)] = (uint16_t)bf16_of(v[d]);
}

void cpu_kv_append(Device *dev, void *pool, DType type, const void *qk, const void *qkv, const int64_t *slot, int N,
                   int H, int G, int D) {
    if (device_error(dev)) return;
    const float *k_rows = (const float *)qk + (ptrdiff_t)H * D, *v_rows = (const float *)qkv + (ptrdiff_t)(H + G) * D;
#pragma omp parallel for num_threads(cpu_threads_for(dev, 128.0 * N * G * D)) schedule(static)
    for (int n = 0; n < N; n++)
        for (int g = 0; g < G && slot[n] >= 0; g++) {
            const float *k = k_rows + ((ptrdiff_t)n * (H + G) + g) * D;
            const float *v = v_rows + ((ptrdiff_t)n * (H + 2 * G) + g) * D;
            int64_t      page = slot[n] / KV_PAGE;
            int          i = (int)(slot[n] % KV_PAGE);
            void        *keys = page_keys(pool, type, page, g, G, D), *values = page_values(pool, type, page, g, G, D);
            if (type == DTYPE_BF16) bf16_store(keys, values, i, k, v, D);
            else float_store(keys, values, i, k, v, D);
        }
}

/* The first n_keys keys of a head, and rows of its values */
static void float_copy(float *dst_keys, float *dst_values, const float *keys, const float *values, int n_keys, int D) {
    for (int j = 0; j < n_keys; j += SGEMM_PANEL)
        for (int d = 0; d < D; d++)
            memcpy(dst_keys + j * D + d * SGEMM_PANEL, keys + j * D + d * SGEMM_PANEL,
                   sizeof(float) * (size_t)int_min(SGEMM_PANEL, n_keys - j));
    for (int d = 0; d < D; d += SGEMM_PANEL)
        memcpy(dst_values + d * KV_PAGE, values + d * KV_PAGE, sizeof(float) * (size_t)(n_keys * panel_width(d, D)));
}
static void bf16_copy(uint16_t *dst_keys, uint16_t *dst_values, const uint16_t *keys, const uint16_t *values, int n_keys,
                      int D) {
    for (int j = 0; j < n_keys; j += SGEMM_PANEL)
        for (int d = 0; d < D; d++)
            for (int i = 0; i < SGEMM_PANEL && j + i < n_keys; i++) {
                int at = j * D + d * SGEMM_PANEL + bf16_place(i);
                dst_keys[at] = keys[at];
            }
    for (int d = 0; d < D; d += SGEMM_PANEL)
        memcpy(dst_values + d * KV_PAGE, values + d * KV_PAGE, sizeof(uint16_t) * (size_t)(n_keys * SGEMM_PANEL));
}

void cpu_kv_copy_page(Device *dev, void *pool, DType type, int dst, int src, int n_keys, int G, int D) {
    if (device_error(dev) || dst == src) return;
    for (int g = 0; g < G; g++) {
        void *to[] = {page_keys(pool, type, dst, g, G, D), page_values(pool, type, dst, g, G, D)};
        void *from[] = {page_keys(pool, type, src, g, G, D), page_values(pool, type, src, g, G, D)};
        if (type == DTYPE_BF16) bf16_copy(to[0], to[1], from[0], from[1], n_keys, D);
        else float_copy(to[0], to[1], from[0], from[1], n_keys, D);
    }
}

void cpu_attention_paged(Device *dev, void *out, const void *qk, const PagedBatch *batch, int N, int H, int G, int D) {
    void *scratch = cpu_scratch(dev, "attention_paged", attend_scratch(dev, H, G, D));
    if (!scratch || batch->n_seq < 1) return;
    Attention a = {.out = out, .qk = qk, .pool = batch->pool, .pool_type = batch->pool_type, .n_heads = G,
                   .q_offset = batch->q_offset, .kv_len = batch->kv_len, .block_table = batch->block_table,
                   .max_blocks = batch->max_blocks, .n_seq = batch->n_seq, .group_offset = batch->group_offset,
                   .group_shared = batch->group_shared, .n_group = batch->n_group, .N = N, .H = H, .G = G, .D = D};
    attend(dev, &a, scratch);
}
