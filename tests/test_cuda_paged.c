/* test_cuda_paged.c - attention over pages on the GPU: the bits of the packed form, under every order of execution, with no
 * more work than that takes. */
#include "tests/cuda_attention.h"

enum { PAGED_SEQS = 7, BLOCKS = 4, PAGES = PAGED_SEQS * BLOCKS };

/* Sequences in groups whose first pages are the same, their keys and values in pages that held NaN before. */
typedef struct {
    Packed p;
    Tensor pool, qk, out;
    int32_t table[PAGED_SEQS * BLOCKS], shared[PAGED_SEQS];
    int64_t *d_slot;
    int32_t *d_table, *d_q_offset, *d_kv_len, *d_groups, *d_shared, *d_alone, *d_none;
} Paged;

static const int32_t group_offset[] = {0, 3, 4, PAGED_SEQS}, group_shared[] = {2, 0, 1};
static const int paged_lengths[PAGED_SEQS] = {130, 140, 191, 3, 65, 66, 200};

static void paged_append(CudaTest *t, Paged *g, int s, int first, int end) {
    Packed *p = &g->p;
    size_t n = (size_t)(p->cu[s] + first), size = dtype_size(t->dtype);
    t->ops[FAST]->kv_append(t->dev[FAST], g->pool.fast, t->dtype, (char *)p->qk.fast + n * width_qk(p) * size,
                            (char *)p->qkv.fast + n * width_qkv(p) * size, g->d_slot + n, end - first, p->H, p->G,
                            p->D);
}

static Paged paged_random(CudaTest *t, int H, int G, int D) {
    Paged g = {.p = packed_random(t, paged_lengths, PAGED_SEQS, 0, 0, H, G, D)};
    Packed *p = &g.p;
    size_t a = width_qk(p), b = width_qkv(p);
    int64_t slot[1024];
    int32_t alone[PAGED_SEQS + 1], none[PAGED_SEQS] = {0};
    for (int s = 0, k = 0; s < PAGED_SEQS; s++) {
        k += s == group_offset[k + 1];
        int first = group_offset[k];
        size_t rows = (size_t)group_shared[k] * 64;
        for (int i = 0; i < BLOCKS; i++)
            g.table[s * BLOCKS + i] = ((i < group_shared[k] ? first : s) * BLOCKS + i) * 5 % PAGES;
        for (int i = 0; i < paged_lengths[s]; i++)
            slot[p->cu[s] + i] = (int64_t)g.table[s * BLOCKS + i / 64] * 64 + i % 64;
        memmove(p->qk.naive + (size_t)p->cu[s] * a, p->qk.naive + (size_t)p->cu[first] * a, sizeof(float) * rows * a);
        memmove(p->qkv.naive + (size_t)p->cu[s] * b, p->qkv.naive + (size_t)p->cu[first] * b, sizeof(float) * rows * b);
        alone[s] = s;
    }
    alone[PAGED_SEQS] = PAGED_SEQS;
    tensor_push(t, &p->qk);
    tensor_push(t, &p->qkv);
    g.pool = tensor_poison(t, t->dtype, (size_t)(PAGES * 2 * G * 64 * D));
    g.qk = tensor_poison(t, t->dtype, p->qk.count), g.out = tensor_poison(t, t->dtype, p->out.count);
    g.d_slot = cuda_upload(t, slot, sizeof *slot * (size_t)p->N), g.d_table = cuda_upload(t, g.table, sizeof g.table);
    g.d_q_offset = cuda_upload(t, alone, sizeof alone), g.d_kv_len = cuda_upload(t, alone, sizeof alone);
    g.d_groups = cuda_upload(t, group_offset, sizeof group_offset);
    g.d_shared = cuda_upload(t, group_shared, sizeof group_shared);
    g.d_alone = cuda_upload(t, alone, sizeof alone), g.d_none = cuda_upload(t, none, sizeof none);
    packed_forward(t, p);
    for (int s = 0; s < PAGED_SEQS; s++) paged_append(t, &g, s, 0, paged_lengths[s]);
    return g;
}

static void paged_free(CudaTest *t, Paged *g) {
    void *all[] = {g->d_slot, g->d_table, g->d_q_offset, g->d_kv_len, g->d_groups, g->d_shared, g->d_alone, g->d_none};
    for (int i = 0; i < 8; i++) device_free(t->dev[FAST], all[i]);
    tensor_free(t, &g->pool);
    tensor_free(t, &g->qk);
    tensor_free(t, &g->out);
    packed_free(t, &g->p);
}

/* Rows [first[s], end[s]) of each sequence as new queries, the keys before them as cached ones: the bits of the packed
 * form, `want`. */
static void paged_check(CudaTest *t, Paged *g, const int *first, const int *end, int grouped, const float *want) {
    Packed *p = &g->p;
    size_t a = width_qk(p), c = width_out(p);
    int32_t q_offset[PAGED_SEQS + 1] = {0}, kv_len[PAGED_SEQS];
    for (size_t i = 0; i < g->qk.count; i++) g->qk.naive[i] = NAN;
    for (int s = 0; s < PAGED_SEQS; s++) {
        size_t rows = (size_t)(end[s] - first[s]);
        kv_len[s] = end[s];
        q_offset[s + 1] = q_offset[s] + (int32_t)rows;
        memcpy(g->qk.naive + (size_t)q_offset[s] * a, p->qk.naive + (size_t)(p->cu[s] + first[s]) * a,
               sizeof(float) * rows * a);
    }
    tensor_push(t, &g->qk);
    device_upload(t->dev[FAST], g->d_q_offset, q_offset, sizeof q_offset);
    device_upload(t->dev[FAST], g->d_kv_len, kv_len, sizeof kv_len);
    PagedBatch batch = {g->pool.fast, g->d_q_offset, g->d_kv_len, g->d_table, PAGED_SEQS,
                        BLOCKS,       g->d_alone,    g->d_none,   PAGED_SEQS, t->dtype};
    if (grouped) batch.group_offset = g->d_groups, batch.group_shared = g->d_shared, batch.n_group = 3;
    t->ops[FAST]->attention_paged(t->dev[FAST], g->out.fast, g->qk.fast, &batch, q_offset[PAGED_SEQS], p->H, p->G,
                                  p->D);
    float *got = tensor_download(t, &g->out);
    for (int s = 0; s < PAGED_SEQS; s++)
        assert_same_bits(got + (size_t)q_offset[s] * c, want + (size_t)(p->cu[s] + first[s]) * c,
                         (size_t)(end[s] - first[s]) * c,
                         label(grouped ? "grouped" : "each alone", s, first[s], end[s]));
    free(got);
}

/* The last rows of every sequence, one to three; chunks of a prefill; whole sequences; some sequences without a query.
 */
static void paged_is_packed(DType dtype, int H, int G, int D) {
    CudaTest t = open_for(dtype, 795, H, G, D, PAGED_SEQS);
    Paged g = paged_random(&t, H, G, D);
    float *want = tensor_download(&t, &g.p.out);
    int first[PAGED_SEQS], end[PAGED_SEQS];
    for (int grouped = 0; grouped < 2; grouped++) {
        for (int rows = 1; rows <= (test_long() ? 3 : 1); rows++) {
            for (int s = 0; s < PAGED_SEQS; s++) end[s] = paged_lengths[s], first[s] = end[s] - rows;
            paged_check(&t, &g, first, end, grouped, want);
        }
        for (int s = 0; s < PAGED_SEQS; s++) { /* past the shared pages, in the middle of a page, or nothing */
            first[s] = s < 3 ? 128 : s == 3 ? 0 : 64;
            end[s] = s == 5 ? first[s] : first[s] + (paged_lengths[s] - first[s] + 1) / 2;
        }
        paged_check(&t, &g, first, end, grouped, want);
        /* Of more than 16 heads all is seen by now. */
        if (test_long() ? H > 16 && !test_large() : !(hopper && D == 64)) continue;
        for (int s = 0; s < PAGED_SEQS; s++) first[s] = end[s], end[s] = paged_lengths[s]; /* the rest of them */
        paged_check(&t, &g, first, end, grouped, want);
        for (int s = 0; s < PAGED_SEQS; s++) first[s] = 0, end[s] = paged_lengths[s]; /* queries inside shared pages */
        paged_check(&t, &g, first, end, grouped, want);
        for (int i = 60; i < 66; i++) { /* token by token over the end of a page; 3 keys are one sequence's all */
            for (int s = 0; s < PAGED_SEQS; s++) end[s] = s == 3 ? 1 + i % 3 : i, first[s] = end[s] - (s != 4);
            paged_check(&t, &g, first, end, 0, want);
        }
    }
    free(want);
    paged_free(&t, &g);
    cuda_test_close(&t);
}

static void test_paged_is_packed(void **state) {
    (void)state;
    FOR_DTYPES(i) {
        paged_is_packed(dtypes[i], 3, 1, 128);
        paged_is_packed(dtypes[i], 4, 2, 64);
        if (!test_long()) continue;
        paged_is_packed(dtypes[i], 4, 2, 128);
        paged_is_packed(dtypes[i], 1, 1, 64);
        paged_is_packed(dtypes[i], test_large() ? 24 : 17, 1, 64); /* more heads than a tile of 16 rows */
    }
}

/* A fork: the first keys of a page come from another one, the rest stay what they were. */
static void test_fork(void **state) {
    (void)state;
    FOR_DTYPES(i)
    for (int D = 64; D <= 128; D += 64) {
        CudaTest t = open_for(dtypes[i], 795, 2, 2, D, PAGED_SEQS);
        Paged g = paged_random(&t, 2, 2, D);
        float *want = tensor_download(&t, &g.p.out);
        int first[PAGED_SEQS], end[PAGED_SEQS], spare = PAGES - 1, n_keys[] = {1, 40, 63};
        for (int page = 0; page < PAGES; page++) { /* one that no sequence uses */
            int used = 0;
            for (int k = 0; k < PAGED_SEQS * BLOCKS; k++)
                used |= g.table[k] == page && k % BLOCKS * 64 < paged_lengths[k / BLOCKS];
            if (!used) spare = page;
        }
        const int old = g.table[6 * BLOCKS + 1]; /* keys 64 to 127 of the last sequence */
        g.table[6 * BLOCKS + 1] = spare;
        device_upload(t.dev[FAST], g.d_table, g.table, sizeof g.table);
        for (int s = 0; s < PAGED_SEQS; s++) first[s] = 0, end[s] = s == 6 ? 128 : 0;
        for (int k = 0; k < 3; k++) {
            int64_t slot[1024];
            for (int n = 0; n < 1024; n++) slot[n] = -1; /* rows that are not stored */
            for (int n = n_keys[k]; n < 64; n++) {
                slot[g.p.cu[6] + 64 + n] = (int64_t)spare * 64 + n;
                slot[g.p.cu[2] + 64 + n] = (int64_t)old * 64 + n; /* what a copy of too much would bring */
            }
            device_upload(t.dev[FAST], g.d_slot, slot, sizeof *slot * (size_t)g.p.N);
            paged_append(&t, &g, 6, 0, 200);
            paged_append(&t, &g, 2, 0, 191);
            t.ops[FAST]->kv_copy_page(t.dev[FAST], g.pool.fast, t.dtype, spare, old, n_keys[k], 2, D);
            paged_check(&t, &g, first, end, 0, want);
            fill_rows(&t, &g.pool, (size_t)(2 * 2 * 64 * D), 0, 0, 0); /* all pages NaN again, then back */
            for (int s = 0; s < PAGED_SEQS; s++)
                for (int n = 0; n < paged_lengths[s]; n++)
                    slot[g.p.cu[s] + n] =
                        (int64_t)(s == 6 && n / 64 == 1 ? old : g.table[s * BLOCKS + n / 64]) * 64 + n % 64;
            device_upload(t.dev[FAST], g.d_slot, slot, sizeof *slot * (size_t)g.p.N);
            for (int s = 0; s < PAGED_SEQS; s++) paged_append(&t, &g, s, 0, paged_lengths[s]);
        }
        free(want);
        paged_free(&t, &g);
        cuda_test_close(&t);
    }
}

/* ---- order of execution ----------------------------------------------------------------------------------------- */

/* The same bits under every order of threads, blocks and async copies. */
static void schedules_check(DType dtype, int H, int D) {
    const int lengths[] = {hopper ? 330 : 130, 0, 40}; /* Hopper: more blocks than are under way */
    Results first = {NULL, NULL, NULL, NULL};
    float *paged = NULL;
    FOR_SCHEDULES(schedule) {
        CudaTest t = open_for(dtype, 795, H, 1, D, PAGED_SEQS);
        Packed p = packed_random(&t, lengths, 3, 2, 0, H, 1, D);
        packed_forward(&t, &p);
        packed_backward(&t, &p);
        Results r = results_of(&t, &p);
        if (schedule) {
            check_rows(&p, &r, &first, 0, p.N, 1, label("schedule", schedule, D, 0));
            results_free(&r);
        } else {
            first = r;
        }
        Paged g = paged_random(&t, H, 1, D);
        float *want = tensor_download(&t, &g.p.out);
        int from[PAGED_SEQS], end[PAGED_SEQS];
        for (int s = 0; s < PAGED_SEQS; s++) end[s] = paged_lengths[s], from[s] = end[s] - 1;
        paged_check(&t, &g, from, end, 1, want);
        if (paged) assert_same_bits(want, paged, g.p.out.count, label("schedule, pages", schedule, D, 0));
        free(paged);
        paged = want;
        paged_free(&t, &g);
        packed_free(&t, &p);
        cuda_test_close(&t);
    }
    results_free(&first);
    free(paged);
}

static void test_schedules(void **state) {
    (void)state;
    schedules_check(DTYPE_BF16, 1, 128);
    schedules_check(DTYPE_BF16, 1, 64);
    schedules_check(DTYPE_F32, 1, 64);
    if (!test_long()) return;
    schedules_check(DTYPE_BF16, 3, 64);
    schedules_check(DTYPE_F32, 1, 128);
}

/* ---- the same on Hopper, which has its own kernels ----------------------------------------------------------- */

HOPPER_TEST(paged_is_packed)
HOPPER_TEST(fork)

extern void emu_take_work(uint64_t *products, uint64_t *copied) __attribute__((weak));

static void work_check(uint64_t products, uint64_t copied, const char *what) {
    uint64_t did[2] = {0, 0};
    emu_take_work(&did[0], &did[1]);
    if (did[0] != products || did[1] != copied)
        fail_msg("%s: %llu multiply-adds and %llu bytes brought, of which %llu and %llu are needed", what,
                 (unsigned long long)did[0], (unsigned long long)did[1], (unsigned long long)products,
                 (unsigned long long)copied);
}

/* No product and no copy too many: 64 rows meet the blocks of keys up to their own, 128 rows fetch a block once, and so
 * does a group of sequences its shared pages, in one product. */
static void work_of(int H, int G, int D) {
    static const int lengths[] = {300, 0, 70, 64};
    const uint64_t tile = 64 * (uint64_t)D * 2, block = 2 * 64 * 64 * (uint64_t)D;
    CudaTest t = open_for(DTYPE_BF16, 795, H, G, D, PAGED_SEQS);
    Packed p = packed_random(&t, lengths, 4, 1, 0, H, G, D);
    uint64_t blocks = 0, tiles = 0;
    for (int s = 0; s < 4; s++)
        for (int row = 0; row < lengths[s]; row += 64) {
            blocks += (uint64_t)row / 64 + 1;
            tiles += 1 + (row % 128 == 0 ? 2 * (uint64_t)(row / 64 + (lengths[s] > row + 64 ? 2 : 1)) : 0);
        }
    emu_take_work(&(uint64_t){0}, &(uint64_t){0});
    packed_forward(&t, &p);
    cuda_test_sync(&t);
    work_check((uint64_t)H * blocks * block, (uint64_t)H * tiles * tile, label("attention_forward", H, G, D));
    packed_free(&t, &p);

    Paged g = paged_random(&t, H, G, D);
    float *want = tensor_download(&t, &g.p.out);
    for (int grouped = 0; grouped < 2; grouped++) {
        int first[PAGED_SEQS], end[PAGED_SEQS];
        uint64_t pages = 0;
        for (int s = 0; s < PAGED_SEQS; s++) end[s] = paged_lengths[s], first[s] = end[s] - 1;
        for (int k = 0; k < 3; k++) {
            const int shared = grouped ? group_shared[k] : 0;
            for (int s = group_offset[k]; s < group_offset[k + 1]; s++)
                pages += (uint64_t)((paged_lengths[s] + 63) / 64 - shared);
            pages += (uint64_t)shared;
        }
        emu_take_work(&(uint64_t){0}, &(uint64_t){0});
        paged_check(&t, &g, first, end, grouped, want);
        work_check((uint64_t)G * pages * block, (uint64_t)G * pages * 2 * tile,
                   label(grouped ? "attention_paged, grouped" : "attention_paged", H, G, D));
    }
    free(want);
    paged_free(&t, &g);
    cuda_test_close(&t);
}

static void test_hopper_work(void **state) {
    (void)state;
    if (!hopper) skip();
    work_of(4, 2, 64);
    work_of(2, 1, 128);
}

static void test_hopper_schedules(void **state) {
    (void)state;
    if (!hopper) skip();
    schedules_check(DTYPE_BF16, 1, 128);
    schedules_check(DTYPE_BF16, 2, 64);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_paged_is_packed),
        cmocka_unit_test(test_fork),
        cmocka_unit_test(test_schedules),
        hopper_test(test_hopper_paged_is_packed),
        hopper_test(test_hopper_fork),
        hopper_test(test_hopper_work),
        hopper_test(test_hopper_schedules),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
