/* attention_paged.c - the cache of keys and values, and attention over it. */
#include "kernels/cpu/ops.h"

#include <string.h>

void cpu_kv_append(Device *dev, void *pool, const void *qk, const void *qkv, const int64_t *slot, int N, int H, int G,
                   int D) {
    if (device_error(dev)) return;
    const float *k_rows = (const float *)qk + (ptrdiff_t)H * D, *v_rows = (const float *)qkv + (ptrdiff_t)(H + G) * D;
#pragma omp parallel for num_threads(cpu_threads_for(dev, 16.0 * N * G * D)) schedule(static)
    for (int n = 0; n < N; n++)
        for (int g = 0; g < G && slot[n] >= 0; g++) {
            const float *k = k_rows + ((ptrdiff_t)n * (H + G) + g) * D;
            const float *v = v_rows + ((ptrdiff_t)n * (H + 2 * G) + g) * D;
            int64_t      page = slot[n] / KV_PAGE, i = slot[n] % KV_PAGE;
            float       *keys = page_keys(pool, page, g, G, D) + i / SGEMM_PANEL * SGEMM_PANEL * D + i % SGEMM_PANEL;
            for (int d = 0; d < D; d++) keys[d * SGEMM_PANEL] = k[d];
            value_store(page_values(pool, page, g, G, D), (int)i, v, D);
        }
}

void cpu_kv_copy_page(Device *dev, void *pool, int dst, int src, int n_keys, int G, int D) {
    if (device_error(dev) || dst == src) return;
    for (int g = 0; g < G; g++) {
        for (int j = 0; j < n_keys; j += SGEMM_PANEL)
            for (int d = 0; d < D; d++)
                memcpy(page_keys(pool, dst, g, G, D) + j * D + d * SGEMM_PANEL,
                       page_keys(pool, src, g, G, D) + j * D + d * SGEMM_PANEL,
                       sizeof(float) * (size_t)int_min(SGEMM_PANEL, n_keys - j));
        for (int d = 0; d < D; d += SGEMM_PANEL)
            memcpy(page_values(pool, dst, g, G, D) + d * KV_PAGE, page_values(pool, src, g, G, D) + d * KV_PAGE,
                   sizeof(float) * (size_t)(n_keys * panel_width(d, D)));
    }
}

void cpu_attention_paged(Device *dev, void *out, const void *qk, const PagedBatch *batch, int N, int H, int G, int D) {
    void *scratch = cpu_scratch(dev, "attention_paged", attend_scratch(dev, H, G, D));
    if (!scratch || batch->n_seq < 1) return;
    Attention a = {.out = out, .qk = qk, .pool = batch->pool, .n_heads = G, .q_offset = batch->q_offset, .kv_len = batch->kv_len,
                   .block_table = batch->block_table, .max_blocks = batch->max_blocks, .n_seq = batch->n_seq,
                   .group_offset = batch->group_offset, .group_shared = batch->group_shared, .n_group = batch->n_group,
                   .N = N, .H = H, .G = G, .D = D};
    attend(dev, &a, scratch);
}
