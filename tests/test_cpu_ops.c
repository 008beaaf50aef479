/* test_cpu_ops.c - what the float32 CPU operations promise beyond agreeing with the reference: no key of the future or
 * of a neighbour is felt, caches of any shape give the bits of the packed form, draws follow their law and never pick
 * what is forbidden, losses and updates do not depend on how the work is cut. */
#include "tests/op_check.h"
#include "kernels/cpu/cpu.h"
#include "tests/naive_kernels.h"

typedef struct {
    Device          *dev;
    const KernelOps *ops, *reference;
    CpuLevel         best;
} Fixture;

static int setup(void **state) {
    Fixture *f = calloc(1, sizeof *f);
    f->dev = device_for_test(2);
    f->ops = kernels_get(f->dev, DTYPE_F32);
    f->reference = kernels_get(f->dev, DTYPE_F64);
    f->best = cpu_level(f->dev);
    *state = f;
    return 0;
}

static int teardown(void **state) {
    Fixture *f = *state;
    device_close(f->dev);
    free(f);
    return 0;
}

static float *floats(Device *dev, size_t count) {
    float *x = device_alloc(dev, count * sizeof *x);
    assert_non_null(x);
    return x;
}

static float *randoms(Device *dev, size_t count) {
    float *x = floats(dev, count);
    for (size_t i = 0; i < count; i++) x[i] = random_value();
    return x;
}

static void fill(float *x, size_t count, float value) {
    for (size_t i = 0; i < count; i++) x[i] = value;
}

/* ---- attention over packed sequences ----------------------------------------------------------------------------- */

typedef struct {
    int      N, H, G, D, n_seq;
    int32_t *cu;
    float   *qk, *qkv, *out, *lse, *dout, *dqk, *dqkv;
} Packed;

static size_t width_qk(const Packed *p) { return (size_t)(p->H + p->G) * (size_t)p->D; }
static size_t width_qkv(const Packed *p) { return (size_t)(p->H + 2 * p->G) * (size_t)p->D; }
static size_t width_out(const Packed *p) { return (size_t)p->H * (size_t)p->D; }

static Packed packed_random(Device *dev, const int *lengths, int n_seq, int H, int G, int D) {
    Packed p = {0, H, G, D, n_seq, device_alloc(dev, sizeof(int32_t) * ((size_t)n_seq + 1)), 0, 0, 0, 0, 0, 0, 0};
    for (int s = 0; s < n_seq; s++) p.cu[s + 1] = p.N += lengths[s];
    size_t n = (size_t)p.N;
    p.qk = randoms(dev, n * width_qk(&p)), p.qkv = randoms(dev, n * width_qkv(&p));
    p.dout = randoms(dev, n * width_out(&p)), p.out = floats(dev, n * width_out(&p));
    p.lse = floats(dev, n * (size_t)H), p.dqk = floats(dev, n * width_qk(&p)), p.dqkv = floats(dev, n * width_qkv(&p));
    return p;
}

static void packed_free(Device *dev, Packed *p) {
    float *all[] = {p->qk, p->qkv, p->out, p->lse, p->dout, p->dqk, p->dqkv};
    for (int i = 0; i < 7; i++) device_free(dev, all[i]);
    device_free(dev, p->cu);
}

static void packed_forward(const Fixture *f, Packed *p) {
    f->ops->attention_forward(f->dev, p->out, p->lse, p->qk, p->qkv, p->cu, p->n_seq, p->N, p->H, p->G, p->D);
    assert_int_equal(device_sync(f->dev), 0);
}

static float *copy_of(Device *dev, const float *x, size_t count) {
    float *copy = floats(dev, count);
    memcpy(copy, x, count * sizeof *x);
    return copy;
}

/* A snapshot of out of rows [0, N), lse after it. */
static float *results(Device *dev, const Packed *p) {
    size_t n = (size_t)p->N * width_out(p), m = (size_t)p->N * (size_t)p->H;
    float *x = floats(dev, n + m);
    memcpy(x, p->out, sizeof(float) * n);
    memcpy(x + n, p->lse, sizeof(float) * m);
    return x;
}

static void check_rows(const Packed *p, const float *want, int first, int end, const char *what) {
    size_t width = width_out(p);
    assert_same_bits(p->out + (size_t)first * width, want + (size_t)first * width, (size_t)(end - first) * width, what);
    for (int h = 0; h < p->H; h++) {
        size_t at = (size_t)h * (size_t)p->N + (size_t)first;
        assert_same_bits(p->lse + at, want + (size_t)p->N * width + at, (size_t)(end - first), what);
    }
}

/* Row r of every tensor gets new values; only rows of its own sequence from r on may differ, and r itself must. */
static void test_future_changes_no_past(void **state) {
    Fixture  *f = *state;
    const int lengths[] = {1, 63, 64, 65, 200}, shapes[][3] = {{4, 2, 64}, {3, 1, 34}, {2, 2, 128}};
    for (int k = 0; k < 3; k++) {
        Packed p = packed_random(f->dev, lengths, 5, shapes[k][0], shapes[k][1], shapes[k][2]);
        packed_forward(f, &p);
        float *want = results(f->dev, &p);
        for (int s = 0; s < 5; s++)
            for (int i = 0; i < 4; i++) {
                int    row = p.cu[s] + (i * 67 + 130) % lengths[s];
                size_t a = width_qk(&p), b = width_qkv(&p);
                float  kept[2][1024];
                memcpy(kept[0], p.qk + (size_t)row * a, sizeof(float) * a);
                memcpy(kept[1], p.qkv + (size_t)row * b, sizeof(float) * b);
                for (size_t j = 0; j < a; j++) p.qk[(size_t)row * a + j] = 3 * random_value();
                for (size_t j = 0; j < b; j++) p.qkv[(size_t)row * b + j] = 3 * random_value();
                packed_forward(f, &p);
                check_rows(&p, want, 0, row, "rows before the changed one");
                check_rows(&p, want, p.cu[s + 1], p.N, "sequences after the changed one");
                assert_memory_not_equal(p.out + (size_t)row * width_out(&p), want + (size_t)row * width_out(&p),
                                        sizeof(float) * width_out(&p));
                memcpy(p.qk + (size_t)row * a, kept[0], sizeof(float) * a);
                memcpy(p.qkv + (size_t)row * b, kept[1], sizeof(float) * b);
            }
        device_free(f->dev, want);
        packed_free(f->dev, &p);
    }
}

/* A sequence of NaN, infinity or other numbers: its neighbours keep their bits, forward and backward. */
static void test_neighbours_do_not_meet(void **state) {
    Fixture    *f = *state;
    const int   lengths[] = {70, 100, 5, 130};
    const float poison[] = {NAN, INFINITY, 7};
    Packed      p = packed_random(f->dev, lengths, 4, 4, 2, 64);
    size_t      a = width_qk(&p), b = width_qkv(&p), n = (size_t)p.N;
    packed_forward(f, &p);
    f->ops->attention_backward(f->dev, p.dqk, p.dqkv, p.dout, p.qk, p.qkv, p.out, p.lse, p.cu, 4, p.N, p.H, p.G, p.D);
    float *want = results(f->dev, &p), *dqk = floats(f->dev, n * a), *dqkv = floats(f->dev, n * b);
    memcpy(dqk, p.dqk, sizeof(float) * n * a);
    memcpy(dqkv, p.dqkv, sizeof(float) * n * b);
    for (int i = 0; i < 3; i++) {
        size_t first = (size_t)p.cu[1], rows = (size_t)lengths[1], last = (size_t)p.cu[2];
        fill(p.qk + first * a, rows * a, poison[i]);
        fill(p.qkv + first * b, rows * b, poison[i]);
        packed_forward(f, &p);
        f->ops->attention_backward(f->dev, p.dqk, p.dqkv, p.dout, p.qk, p.qkv, p.out, p.lse, p.cu, 4, p.N, p.H, p.G,
                                   p.D);
        check_rows(&p, want, 0, p.cu[1], "before");
        check_rows(&p, want, p.cu[2], p.N, "after");
        assert_same_bits(p.dqk, dqk, first * a, "dqk before");
        assert_same_bits(p.dqk + last * a, dqk + last * a, (n - last) * a, "dqk after");
        assert_same_bits(p.dqkv + last * b, dqkv + last * b, (n - last) * b, "dqkv after");
    }
    float *all[] = {want, dqk, dqkv};
    for (int i = 0; i < 3; i++) device_free(f->dev, all[i]);
    packed_free(f->dev, &p);
}

/* Rows past the last sequence come back as zeros, whatever was there. */
static void test_rows_of_no_sequence(void **state) {
    Fixture  *f = *state;
    const int lengths[] = {40, 9};
    Packed    p = packed_random(f->dev, lengths, 2, 2, 1, 64);
    fill(p.out, (size_t)p.N * width_out(&p), NAN);
    fill(p.dqk, (size_t)p.N * width_qk(&p), NAN);
    p.n_seq = 1;
    packed_forward(f, &p);
    f->ops->attention_backward(f->dev, p.dqk, p.dqkv, p.dout, p.qk, p.qkv, p.out, p.lse, p.cu, 1, p.N, p.H, p.G, p.D);
    for (size_t i = 40 * width_out(&p); i < 49 * width_out(&p); i++) assert_true(p.out[i] == 0);
    for (size_t i = 40 * width_qk(&p); i < 49 * width_qk(&p); i++) assert_true(p.dqk[i] == 0);
    packed_free(f->dev, &p);
}

/* The longest head is worked on by several threads at once: the gradients are those of one thread, bit for bit. */
static void test_threads_share_a_head(void **state) {
    Fixture  *f = *state;
    const int lengths[] = {30, 450, 70}, shapes[][3] = {{2, 1, 64}, {3, 1, 34}, {2, 2, 128}};
    for (int k = 0; k < 3; k++) {
        Packed p = packed_random(f->dev, lengths, 3, shapes[k][0], shapes[k][1], shapes[k][2]);
        size_t a = (size_t)p.N * width_qk(&p), b = (size_t)p.N * width_qkv(&p);
        float *want = floats(f->dev, a + b);
        packed_forward(f, &p);
        for (int threads = 1; threads <= 5; threads++) {
            Device *dev = device_for_test(threads);
            for (int again = 0; again < (threads == 1 ? 1 : 5); again++) {
                fill(p.dqk, a, NAN);
                memset(p.dqkv, 0, sizeof(float) * b);
                f->ops->attention_backward(dev, p.dqk, p.dqkv, p.dout, p.qk, p.qkv, p.out, p.lse, p.cu, 3, p.N, p.H, p.G, p.D);
                assert_int_equal(device_sync(dev), 0);
                if (threads == 1) memcpy(want, p.dqk, sizeof(float) * a), memcpy(want + a, p.dqkv, sizeof(float) * b);
                assert_same_bits(p.dqk, want, a, "dqk of several threads");
                assert_same_bits(p.dqkv, want + a, b, "dqkv of several threads");
            }
            device_close(dev);
        }
        device_free(f->dev, want);
        packed_free(f->dev, &p);
    }
}

static void test_long_sequence(void **state) {
    Fixture *f = *state;
    enum { T = 2048, D = 64 };
    KernelLimits limits = {.N = T, .C = D, .F = D, .Vp = 64, .H = 1, .G = 1, .D = D, .n_seq = 1};
    assert_int_equal(device_reserve(f->dev, f->ops->workspace_bytes(f->dev, &limits)), 0);
    Trio qk = trio_random(f->dev, T * 2 * D, 1), qkv = trio_random(f->dev, T * 3 * D, 1);
    Trio out = trio_zero(f->dev, T * D), lse = trio_zero(f->dev, T);
    int32_t cu[] = {0, T};
    f->ops->attention_forward(f->dev, out.fast, lse.fast, qk.fast, qkv.fast, cu, 1, T, 1, 1, D);
    f->reference->attention_forward(f->dev, out.ref, lse.ref, qk.ref, qkv.ref, cu, 1, T, 1, 1, D);
    assert_int_equal(device_sync(f->dev), 0);
    for (size_t i = 0; i < T * D; i++) assert_true(fabs(out.fast[i] - out.ref[i]) < 2e-6);
    for (size_t i = 0; i < T; i++) assert_true(fabs(lse.fast[i] - lse.ref[i]) < 4e-6);
    Trio *all[] = {&qk, &qkv, &out, &lse};
    for (int i = 0; i < 4; i++) trio_free(f->dev, all[i]);
}

/* ---- attention over pages ---------------------------------------------------------------------------------------- */

/* Keys and values as a page of bfloat16 keeps them: nearest, ties to even. */
static void round_rows(float *x, size_t first, size_t width, int N) {
    for (int n = 0; n < N; n++)
        for (size_t i = first; i < width; i++) {
            float   *at = x + (size_t)n * width + i, low, high;
            uint32_t bits, up;
            memcpy(&bits, at, 4);
            bits &= 0xFFFF0000u, up = bits + 0x10000u;
            memcpy(&low, &bits, 4), memcpy(&high, &up, 4);
            double below = fabs((double)*at - low), above = fabs((double)high - *at);
            *at = below < above || (below == above && !(bits & 0x10000u)) ? low : high;
        }
}
static void round_keys_and_values(Packed *p) {
    round_rows(p->qk, (size_t)(p->H * p->D), width_qk(p), p->N);
    round_rows(p->qkv, (size_t)((p->H + p->G) * p->D), width_qkv(p), p->N);
}

/* Three groups of sequences with prefixes of different lengths, in one call, with head widths that fill no vector and
 * pages that held NaN before: the bits of the packed form, for bfloat16 over keys and values that were rounded before. */
static void paged_check(Fixture *f, DType type, int H, int G, int D) {
    enum { SEQS = 7, BLOCKS = 4, PAGES = SEQS * BLOCKS };
    const int     lengths[SEQS] = {130, 140, 191, 3, 65, 66, 200}, group_of[SEQS] = {0, 0, 0, 1, 2, 2, 2};
    const int32_t group_offset[] = {0, 3, 4, 7}, group_shared[] = {2, 0, 1}, alone[] = {0, 1, 2, 3, 4, 5, 6, 7};
    const int32_t none[SEQS] = {0};
    Packed        p = packed_random(f->dev, lengths, SEQS, H, G, D);
    size_t        a = width_qk(&p), b = width_qkv(&p), c = width_out(&p);
    size_t        pool_floats = PAGES * f->ops->kv_page_bytes(f->dev, type, G, D) / sizeof(float);
    int32_t       table[SEQS * BLOCKS], kv_len[SEQS], q_offset[SEQS + 1] = {0};
    for (int s = 0; s < SEQS; s++) {
        int g = group_of[s], first = group_offset[g], shared = group_shared[g];
        for (int i = 0; i < BLOCKS; i++) table[s * BLOCKS + i] = ((i < shared ? first : s) * BLOCKS + i) * 5 % PAGES;
        size_t rows = (size_t)(shared * 64);
        memmove(p.qk + (size_t)p.cu[s] * a, p.qk + (size_t)p.cu[first] * a, sizeof(float) * rows * a);
        memmove(p.qkv + (size_t)p.cu[s] * b, p.qkv + (size_t)p.cu[first] * b, sizeof(float) * rows * b);
        kv_len[s] = lengths[s];
    }
    float *k_rows = copy_of(f->dev, p.qk, (size_t)p.N * a), *v_rows = copy_of(f->dev, p.qkv, (size_t)p.N * b);
    if (type == DTYPE_BF16) round_keys_and_values(&p);
    packed_forward(f, &p);
    float   *pool = floats(f->dev, pool_floats), *qk = floats(f->dev, (size_t)p.N * a);
    float   *out = floats(f->dev, (size_t)p.N * c);
    int64_t *slot = device_alloc(f->dev, sizeof *slot * (size_t)p.N);
    fill(pool, pool_floats, NAN);
    for (int s = 0; s < SEQS; s++)
        for (int i = 0; i < lengths[s]; i++)
            slot[p.cu[s] + i] = (int64_t)table[s * BLOCKS + i / 64] * 64 + i % 64;
    f->ops->kv_append(f->dev, pool, type, k_rows, v_rows, slot, p.N, H, G, D);
    for (int rows = 1; rows <= 3; rows++) /* the last rows of each sequence are new; the rest was cached */
        for (int grouped = 0; grouped < 2; grouped++) {
            for (int s = 0; s < SEQS; s++) {
                q_offset[s + 1] = (s + 1) * rows;
                memcpy(qk + (size_t)(s * rows) * a, p.qk + (size_t)(p.cu[s + 1] - rows) * a,
                       sizeof(float) * (size_t)rows * a);
            }
            PagedBatch batch = {pool, q_offset, kv_len, table, SEQS, BLOCKS, alone, none, SEQS, type};
            if (grouped) batch.group_offset = group_offset, batch.group_shared = group_shared, batch.n_group = 3;
            f->ops->attention_paged(f->dev, out, qk, &batch, SEQS * rows, H, G, D);
            for (int s = 0; s < SEQS; s++)
                assert_same_bits(out + (size_t)(s * rows) * c, p.out + (size_t)(p.cu[s + 1] - rows) * c,
                                 (size_t)rows * c, grouped ? "grouped" : "each alone");
        }
    float *all[] = {pool, qk, out, k_rows, v_rows};
    for (int i = 0; i < 5; i++) device_free(f->dev, all[i]);
    device_free(f->dev, slot);
    packed_free(f->dev, &p);
}

/* Decoding over pages of bfloat16 is as near to the double reference, which rounds nothing, as the naive formula over
 * rounded keys and values. */
static void test_paged_bf16_error(void **state) {
    Fixture  *f = *state;
    enum { LENGTH = 200, H = 4, G = 2, D = 64, BLOCKS = 4 };
    const int lengths[] = {LENGTH};
    Packed    p = packed_random(f->dev, lengths, 1, H, G, D);
    Trio      qk = trio_zero(f->dev, LENGTH * width_qk(&p)), qkv = trio_zero(f->dev, LENGTH * width_qkv(&p));
    Trio      out = trio_zero(f->dev, LENGTH * width_out(&p)), lse = trio_zero(f->dev, LENGTH * H);
    for (size_t i = 0; i < qk.count; i++) qk.fast[i] = p.qk[i], qk.ref[i] = p.qk[i];
    for (size_t i = 0; i < qkv.count; i++) qkv.fast[i] = p.qkv[i], qkv.ref[i] = p.qkv[i];
    round_keys_and_values(&p);
    memcpy(qk.naive, p.qk, qk.count * sizeof(float));
    memcpy(qkv.naive, p.qkv, qkv.count * sizeof(float));
    int32_t table[BLOCKS] = {2, 0, 3, 1}, q_offset[] = {0, LENGTH}, kv_len[] = {LENGTH}, group[] = {0, 1}, none[] = {0};
    int64_t slot[LENGTH];
    for (int i = 0; i < LENGTH; i++) slot[i] = table[i / 64] * 64 + i % 64;
    void      *pool = device_alloc(f->dev, BLOCKS * f->ops->kv_page_bytes(f->dev, DTYPE_BF16, G, D));
    PagedBatch batch = {pool, q_offset, kv_len, table, 1, BLOCKS, group, none, 1, DTYPE_BF16};
    f->ops->kv_append(f->dev, pool, DTYPE_BF16, qk.fast, qkv.fast, slot, LENGTH, H, G, D);
    f->ops->attention_paged(f->dev, out.fast, qk.fast, &batch, LENGTH, H, G, D);
    naive_kernels.attention_forward(f->dev, out.naive, lse.naive, qk.naive, qkv.naive, p.cu, 1, LENGTH, H, G, D);
    f->reference->attention_forward(f->dev, out.ref, lse.ref, qk.ref, qkv.ref, p.cu, 1, LENGTH, H, G, D);
    assert_int_equal(device_sync(f->dev), 0);
    trio_check(&out, "attention over pages of bfloat16");
    Trio *all[] = {&qk, &qkv, &out, &lse};
    for (int i = 0; i < 4; i++) trio_free(f->dev, all[i]);
    device_free(f->dev, pool);
    packed_free(f->dev, &p);
}

static void test_paged_is_packed(void **state) {
    Fixture *f = *state;
    for (CpuLevel level = CPU_PORTABLE; level < CPU_LEVELS; level++) {
        if (cpu_device_force_isa(f->dev, level)) continue;
        const DType types[] = {DTYPE_F32, DTYPE_BF16};
        for (int t = 0; t < 2; t++) {
            paged_check(f, types[t], 4, 2, 64);
            paged_check(f, types[t], 3, 1, 34);
            paged_check(f, types[t], 2, 1, 128);
        }
    }
    cpu_device_force_isa(f->dev, f->best);
}

/* ---- classifier -------------------------------------------------------------------------------------------------- */

static void test_classifier_ranges(void **state) {
    Fixture *f = *state;
    enum { N = 7, C = 96, V = 203, VP = 256 };
    float  *x = randoms(f->dev, N * C), *w = randoms(f->dev, VP * C), *dx = floats(f->dev, N * C);
    float  *dw = floats(f->dev, VP * C), losses[N], one[1];
    Weight  weight = {w, DTYPE_F32, NULL, VP, C, WEIGHT_ROWS};
    int32_t lo[N] = {0, -1, 5, 5, 17, 202, 0}, hi[N] = {V, 9, 6, VP, 18, 203, 64};
    for (int i = 0; i < VP * C; i++) w[i] *= 0.1f;
    memcpy(x + 3 * C, x + 2 * C, C * sizeof *x);
    fill(w + V * C, (VP - V) * C, 1000); /* padded ids: were they counted, they would take all probability */
    f->ops->classifier(f->dev, losses, dx, dw, x, &weight, lo, hi, N, V);
    assert_int_equal(device_sync(f->dev), 0);
    assert_true(losses[0] == 0 && losses[1] == 0); /* every id is right; no target */
    for (int c = 0; c < 2 * C; c++) assert_true(fabsf(dx[c]) < (c < C ? 1e-5f : 1e-30f));
    for (int n = 2; n < N; n++) assert_true(losses[n] > 0 && isfinite(losses[n]));
    assert_true(losses[3] < losses[2]); /* a wider range is likelier */
    for (int i = V * C; i < VP * C; i++) assert_true(dw[i] == 0);
    for (int n = 0; n < N; n++) { /* a row alone, at evaluation: the same bits */
        f->ops->classifier(f->dev, one, NULL, NULL, x + n * C, &weight, lo + n, hi + n, 1, V);
        assert_same_bits(one, losses + n, 1, "loss of a row alone");
    }
    x[2 * C] = NAN;
    f->ops->classifier(f->dev, losses, NULL, NULL, x, &weight, lo, hi, N, V);
    assert_true(isnan(losses[2]) && isfinite(losses[3]));
    float *all[] = {x, w, dx, dw};
    for (int i = 0; i < 4; i++) device_free(f->dev, all[i]);
}

/* Several threads: the bits are those of one. */
static void test_classifier_threads(void **state) {
    Fixture *f = *state;
    enum { N = 600, C = 64, V = 1000, VP = 1024, THREADS = 6 };
    float   *x = randoms(f->dev, N * C), *w = randoms(f->dev, VP * C), *dx = floats(f->dev, N * C);
    float   *dw = floats(f->dev, VP * C), *want = floats(f->dev, (N + VP) * C), losses[N], want_losses[N];
    Weight   weight = {w, DTYPE_F32, NULL, VP, C, WEIGHT_ROWS};
    int32_t  lo[N], hi[N];
    for (int n = 0; n < N; n++) lo[n] = n * 7 % V, hi[n] = n * 7 % V + 1;
    for (int threads = 1; threads <= THREADS; threads++) {
        Device *dev = device_for_test(threads);
        fill(dx, N * C, NAN);
        memset(dw, 0, sizeof(float) * VP * C);
        f->ops->classifier(dev, losses, dx, dw, x, &weight, lo, hi, N, V);
        assert_int_equal(device_sync(dev), 0);
        if (threads == 1) {
            memcpy(want, dx, sizeof(float) * N * C), memcpy(want + N * C, dw, sizeof(float) * VP * C);
            memcpy(want_losses, losses, sizeof losses);
        }
        assert_same_bits(losses, want_losses, N, "losses of several threads");
        assert_same_bits(dx, want, N * C, "dinp of several threads");
        assert_same_bits(dw, want + N * C, VP * C, "dweight of several threads");
        device_close(dev);
    }
    float *all[] = {x, w, dx, dw, want};
    for (int i = 0; i < 5; i++) device_free(f->dev, all[i]);
}

/* More rows than a chunk holds: losses and gradients are those of two calls on halves. */
static void test_classifier_chunks(void **state) {
    Fixture *f = *state;
    enum { N = 1400, C = 16, V = 40, VP = 64, HALF = 700 };
    KernelLimits limits = {.N = N, .C = C, .F = C, .Vp = VP, .H = 1, .G = 1, .D = 16, .n_seq = 1};
    assert_int_equal(device_reserve(f->dev, f->ops->workspace_bytes(f->dev, &limits)), 0);
    float   *x = randoms(f->dev, N * C), *w = randoms(f->dev, VP * C), *dx = floats(f->dev, N * C);
    float   *halves = floats(f->dev, N * C), *dw = floats(f->dev, VP * C), *dw_halves = floats(f->dev, VP * C);
    float   *losses = floats(f->dev, 2 * N);
    int32_t *lo = device_alloc(f->dev, N * sizeof *lo), *hi = device_alloc(f->dev, N * sizeof *hi);
    Weight   weight = {w, DTYPE_F32, NULL, VP, C, WEIGHT_ROWS};
    for (int n = 0; n < N; n++) lo[n] = n % V, hi[n] = n % V + 1;
    f->ops->classifier(f->dev, losses, dx, dw, x, &weight, lo, hi, N, V);
    for (int n = 0; n < N; n += HALF)
        f->ops->classifier(f->dev, losses + N + n, halves + n * C, dw_halves, x + n * C, &weight, lo + n, hi + n, HALF,
                           V);
    assert_int_equal(device_sync(f->dev), 0);
    assert_same_bits(losses, losses + N, N, "losses");
    assert_same_bits(dx, halves, N * C, "dinp");
    for (int i = 0; i < V * C; i++) assert_true(fabsf(dw[i] - dw_halves[i]) < 1e-3f);
    float *all[] = {x, w, dx, halves, dw, dw_halves, losses};
    for (int i = 0; i < 7; i++) device_free(f->dev, all[i]);
    device_free(f->dev, lo);
    device_free(f->dev, hi);
}

/* ---- sampling ---------------------------------------------------------------------------------------------------- */

enum { SV = 150, SVP = 192, DRAWS = 20000, BATCH = 500 };

typedef struct {
    float    *logits; /* (BATCH, SVP), all rows the same */
    double    uniform[BATCH];
    int32_t   tokens[BATCH];
    uint32_t  suppress[BATCH], outcome_bits[SV];
    uint8_t   forbidden[SV];
    float     logp[BATCH], p_outcome[BATCH * 2];
    long      count[SV];
    double    p[SV]; /* the law that draws follow */
} Draws;

static Draws *draws_random(Device *dev) {
    Draws *d = calloc(1, sizeof *d);
    float *row = d->logits = floats(dev, (size_t)BATCH * SVP);
    for (int v = 0; v < SVP; v++) row[v] = v < SV ? 1.5f * random_value() : 50;
    for (int b = 1; b < BATCH; b++) memcpy(row + b * SVP, row, sizeof(float) * SVP);
    d->forbidden[0] = d->forbidden[64] = d->forbidden[SV - 1] = 1;
    row[64] = 60; /* forbidden, though likeliest */
    for (int b = 1; b < BATCH; b++) row[b * SVP + 64] = 60;
    for (int v = 10; v < SV; v += 20) d->outcome_bits[v] = v % 40 == 10 ? 1 : 3;
    return d;
}

static void draws_law(Draws *d, double temperature, uint32_t suppress) {
    double sum = 0;
    for (int v = 0; v < SV; v++) {
        d->p[v] = d->forbidden[v] || (d->outcome_bits[v] & suppress) ? 0 : exp((double)d->logits[v] / temperature);
        sum += d->p[v];
    }
    for (int v = 0; v < SV; v++) d->p[v] /= sum;
}

static void draws_count(Fixture *f, Draws *d, const SampleSpec *spec, uint32_t suppress) {
    memset(d->count, 0, sizeof d->count);
    for (int b = 0; b < BATCH; b++) d->suppress[b] = suppress;
    for (int i = 0; i < DRAWS; i += BATCH) {
        for (int b = 0; b < BATCH; b++) d->uniform[b] = random_uniform();
        f->ops->sample(f->dev, d->tokens, d->logp, d->p_outcome, d->logits, d->uniform, d->suppress, spec, BATCH);
        assert_int_equal(device_sync(f->dev), 0);
        for (int b = 0; b < BATCH; b++) {
            assert_in_range(d->tokens[b], 0, SV - 1);
            d->count[d->tokens[b]]++;
        }
    }
}

/* Pearson's chi-square of the counts, rare ids pooled; beyond the limit is a chance of about 1e-5. */
static void draws_check(const Draws *d) {
    double chi = 0, rest_p = 0, rest = 0;
    int    cells = 0;
    for (int v = 0; v < SV; v++) {
        double expected = d->p[v] * DRAWS;
        if (d->p[v] == 0) assert_int_equal(d->count[v], 0);
        if (expected < 10) {
            rest_p += expected, rest += (double)d->count[v];
            continue;
        }
        chi += ((double)d->count[v] - expected) * ((double)d->count[v] - expected) / expected;
        cells++;
    }
    if (rest_p > 1) chi += (rest - rest_p) * (rest - rest_p) / rest_p, cells++;
    assert_true(cells > 3);
    if (chi > (cells - 1) + 4.3 * sqrt(2.0 * (cells - 1)) + 9) fail_msg("chi-square %.1f over %d cells", chi, cells);
}

static void test_sample_law(void **state) {
    Fixture   *f = *state;
    Draws     *d = draws_random(f->dev);
    SampleSpec spec = {SV, SVP, 1.0f, 0, d->forbidden, d->outcome_bits, 2};
    draws_law(d, 1, 0);
    double first = 0, second = 0, p[SV];
    memcpy(p, d->p, sizeof p);
    for (int v = 0; v < SV; v++) {
        first += d->outcome_bits[v] & 1 ? p[v] : 0;
        second += d->outcome_bits[v] & 2 ? p[v] : 0;
    }
    draws_count(f, d, &spec, 0);
    draws_check(d);
    for (uint32_t suppress = 1; suppress <= 3; suppress++) { /* probabilities stay those of the unsuppressed law */
        draws_count(f, d, &spec, suppress);
        for (int b = 0; b < BATCH; b++) {
            assert_true(fabs(d->p_outcome[2 * b] - first) < 1e-6 && fabs(d->p_outcome[2 * b + 1] - second) < 1e-6);
            assert_true(fabs(d->logp[b] - log(p[d->tokens[b]])) < 1e-5);
        }
        draws_law(d, 1, suppress);
        draws_check(d);
    }
    spec.temperature = 0.6f;
    draws_count(f, d, &spec, 0);
    draws_law(d, (double)0.6f, 0);
    draws_check(d);
    spec.temperature = 1, spec.top_k = 5;
    draws_count(f, d, &spec, 0);
    int drawn = 0;
    for (int v = 0; v < SV; v++) drawn += d->count[v] > 0;
    assert_int_equal(drawn, 5);
    draws_law(d, 1, 0);
    for (int v = 0; v < SV; v++) { /* nothing likelier than what was drawn was left out */
        int likelier = 0;
        for (int u = 0; u < SV; u++) likelier += d->p[u] > d->p[v];
        assert_true((likelier < 5 && d->p[v] > 0) == (d->count[v] > 0));
    }
    device_free(f->dev, d->logits);
    free(d);
}

/* The ends of [0, 1), laws without anything to draw, and logits that are not numbers. */
static void test_sample_edges(void **state) {
    Fixture   *f = *state;
    Draws     *d = draws_random(f->dev);
    SampleSpec spec = {SV, SVP, 1.0f, 0, d->forbidden, d->outcome_bits, 2};
    for (int v = 0; v < SV; v++) d->logits[v] = v == 70 || v == 90 ? 0.0f : -200.0f;
    memcpy(d->logits + SVP, d->logits, sizeof(float) * SVP);
    d->uniform[0] = 0, d->uniform[1] = 1 - 0x1p-53;
    f->ops->sample(f->dev, d->tokens, d->logp, NULL, d->logits, d->uniform, NULL, &spec, 2);
    assert_int_equal(d->tokens[0], 70);
    assert_int_equal(d->tokens[1], 90); /* the only others have weight 0 */
    assert_true(fabs(d->logp[1] - log(0.5)) < 1e-6);

    d->suppress[0] = 1, d->suppress[1] = 2; /* 70 and 90 are outcomes; what is left has weight 0 */
    f->ops->sample(f->dev, d->tokens, d->logp, NULL, d->logits, d->uniform, d->suppress, &spec, 2);
    assert_int_equal(d->tokens[0], -1);
    assert_true(d->logp[0] == -INFINITY);

    const float bad[] = {NAN, INFINITY};
    for (int i = 0; i < 2; i++) {
        d->logits[33] = bad[i];
        f->ops->sample(f->dev, d->tokens, d->logp, d->p_outcome, d->logits, d->uniform, NULL, &spec, 2);
        assert_int_equal(d->tokens[0], -1);
        assert_true(isnan(d->logp[0]) && isnan(d->p_outcome[0]));
        assert_int_equal(d->tokens[1], 90); /* another row is none the worse */
        d->logits[33] = -200;
        d->logits[64] = bad[i]; /* a forbidden id counts for nothing */
        f->ops->sample(f->dev, d->tokens, NULL, NULL, d->logits, d->uniform, NULL, &spec, 1);
        assert_int_equal(d->tokens[0], 70);
    }
    memset(d->forbidden, 1, sizeof d->forbidden);
    f->ops->sample(f->dev, d->tokens, NULL, NULL, d->logits, d->uniform, NULL, &spec, 1);
    assert_int_equal(d->tokens[0], -1);
    assert_int_equal(device_sync(f->dev), 0);
    device_free(f->dev, d->logits);
    free(d);
}

/* Every instruction set draws the same tokens, with the same probabilities to the last bit. */
static void test_sample_levels(void **state) {
    Fixture   *f = *state;
    Draws     *d = draws_random(f->dev), *e = draws_random(f->dev);
    SampleSpec spec = {SV, SVP, 0.9f, 0, d->forbidden, d->outcome_bits, 2};
    for (size_t i = 0; i < (size_t)BATCH * SVP; i++) d->logits[i] = 2 * random_value();
    for (int b = 0; b < BATCH; b++) d->uniform[b] = random_uniform(), d->suppress[b] = (uint32_t)b % 3;
    f->ops->sample(f->dev, d->tokens, d->logp, d->p_outcome, d->logits, d->uniform, d->suppress, &spec, BATCH);
    for (CpuLevel level = CPU_PORTABLE; level < CPU_LEVELS; level++) {
        if (cpu_device_force_isa(f->dev, level)) continue;
        f->ops->sample(f->dev, e->tokens, e->logp, e->p_outcome, d->logits, d->uniform, d->suppress, &spec, BATCH);
        assert_memory_equal(e->tokens, d->tokens, sizeof d->tokens);
        assert_same_bits(e->logp, d->logp, BATCH, "logp");
        assert_same_bits(e->p_outcome, d->p_outcome, BATCH * 2, "p_outcome");
    }
    cpu_device_force_isa(f->dev, f->best);
    device_free(f->dev, d->logits);
    device_free(f->dev, e->logits);
    free(d);
    free(e);
}

/* ---- optimizer --------------------------------------------------------------------------------------------------- */

/* Ranks update ranges that begin anywhere: an element gets the same bits in every cut, on every instruction set. */
static void test_adamw_cuts(void **state) {
    Fixture *f = *state;
    enum { COUNT = 40001 };
    const int64_t cuts[] = {0, 1, 17, 1000, 16391, 40000, COUNT};
    float        *start = randoms(f->dev, 4 * COUNT), *want = floats(f->dev, 4 * COUNT);
    float        *got = floats(f->dev, 4 * COUNT), *copy = floats(f->dev, COUNT);
    AdamwStep     step = {1e-3f, 0.9f, 0.95f, 1e-8f, 0.1f, 0.25f, 0, 7};
    AdamwRange    all = {0, COUNT, 1}, parts[6];
    for (int i = 0; i < COUNT; i++) start[2 * COUNT + i] *= start[2 * COUNT + i]; /* param, m, v >= 0, grad */
    for (int i = 0; i < 6; i++) parts[i] = (AdamwRange){cuts[i], cuts[i + 1] - cuts[i], 1};
    memcpy(want, start, sizeof(float) * 4 * COUNT);
    f->ops->adamw(f->dev, want, NULL, want + COUNT, want + 2 * COUNT, want + 3 * COUNT, &all, 1, &step);
    assert_memory_not_equal(want, start, sizeof(float) * COUNT);
    for (CpuLevel level = CPU_PORTABLE; level < CPU_LEVELS; level++) {
        if (cpu_device_force_isa(f->dev, level)) continue;
        memcpy(got, start, sizeof(float) * 4 * COUNT);
        f->ops->adamw(f->dev, got, copy, got + COUNT, got + 2 * COUNT, got + 3 * COUNT, parts, 6, &step);
        assert_same_bits(got, want, 4 * COUNT, "param, m, v, grad");
        assert_same_bits(copy, want, COUNT, "working copy");
    }
    cpu_device_force_isa(f->dev, f->best);
    step.skip = 1;
    memcpy(got, start, sizeof(float) * 4 * COUNT);
    f->ops->adamw(f->dev, got, copy, got + COUNT, got + 2 * COUNT, got + 3 * COUNT, parts, 6, &step);
    assert_same_bits(got, start, 4 * COUNT, "a skipped step");
    float *used[] = {start, want, got, copy};
    for (int i = 0; i < 4; i++) device_free(f->dev, used[i]);
}

static void test_sum_squares_order(void **state) {
    Fixture *f = *state;
    enum { COUNT = 3 * 65536 + 77 };
    float  *x = randoms(f->dev, COUNT);
    Device *one = device_for_test(1);
    double  exact = 0, want = 0;
    for (int i = 0; i < COUNT; i++) exact += (double)x[i] * (double)x[i];
    f->ops->sum_squares(one, &want, x, COUNT);
    assert_true(fabs(want - exact) < 1e-10 * exact);
    for (CpuLevel level = CPU_PORTABLE; level < CPU_LEVELS; level++) {
        double got = 0;
        if (cpu_device_force_isa(f->dev, level)) continue;
        f->ops->sum_squares(f->dev, &got, x, COUNT);
        assert_memory_equal(&got, &want, sizeof got);
    }
    cpu_device_force_isa(f->dev, f->best);
    device_close(one);
    device_free(f->dev, x);
}

/* ---- errors ------------------------------------------------------------------------------------------------------ */

/* No rows, no work. */
static void test_no_rows(void **state) {
    Fixture *f = *state;
    enum { C = 128, F = 96 };
    float x[2 * F * C] = {0};
    const Weight w = {.data = x, .dtype = DTYPE_F32, .rows = 2 * F, .cols = C};
    f->ops->swiglu_forward(f->dev, x, x, 0, F);
    f->ops->swiglu_backward(f->dev, x, x, x, x, 0, F);
    f->ops->matmul_forward(f->dev, x, x, &w, 0);
    f->ops->matmul_swiglu_forward(f->dev, x, NULL, x, &w, 0);
    f->ops->matmul_dgrad(f->dev, x, x, &w, 0);
    f->ops->matmul_wgrad(f->dev, x, x, x, 0, 2 * F, C);
    f->ops->rmsnorm_forward(f->dev, x, x, x, x, 1e-6f, 0, C);
    f->ops->rmsnorm_backward(f->dev, x, x, x, x, x, x, 0, C);
    f->ops->qk_norm_rope_backward(f->dev, x, x, x, x, x, x, x, x, NULL, x, 0, 1, 1, 64);
    f->ops->classifier(f->dev, x, x, x, x, &w, NULL, NULL, 0, 2 * F);
    assert_int_equal(device_sync(f->dev), 0);
    for (int i = 0; i < 2 * F * C; i++) assert_true(x[i] == 0);
}

/* Without its workspace an operation says so, by name, and touches nothing. */
static void test_no_workspace(void **state) {
    (void)state;
    char    msg[256];
    Device *dev = device_open(DEVICE_CPU, 0, 1, msg, sizeof msg);
    assert_non_null(dev);
    float   qk[2 * 64] = {0}, qkv[3 * 64] = {0}, out[64] = {7};
    int32_t cu[] = {0, 1};
    kernels_get(dev, DTYPE_F32)->attention_forward(dev, out, NULL, qk, qkv, cu, 1, 1, 1, 1, 64);
    assert_true(out[0] == 7);
    assert_int_not_equal(device_sync(dev), 0);
    assert_non_null(strstr(device_error(dev), "attention_forward"));
    device_close(dev);
}

/* Sizes that would not fit the memory that is set aside for them. */
static void test_sizes_refused(void **state) {
    (void)state;
    enum { N = 1, SEQUENCES = 2000, D = 130 };
    static float   x[4 * D];
    static int32_t cu[SEQUENCES + 1];
    char           msg[256];
    for (int i = 0; i < 2; i++) {
        Device *dev = device_open(DEVICE_CPU, 0, 1, msg, sizeof msg);
        assert_non_null(dev);
        const KernelOps   *ops = kernels_get(dev, DTYPE_F32);
        const KernelLimits limits = {.N = N, .C = D, .F = 64, .Vp = 64, .H = 1, .G = 1, .D = D, .n_seq = SEQUENCES};
        assert_int_equal(device_reserve(dev, ops->workspace_bytes(dev, &limits)), 0);
        if (i) ops->attention_backward(dev, x, x, x, x, x, x, x, cu, SEQUENCES, N, 1, 1, 64);
        else ops->qk_norm_rope_backward(dev, x, x, x, x, x, x, x, x, cu, x, N, 1, 1, D);
        assert_int_not_equal(device_sync(dev), 0);
        assert_non_null(strstr(device_error(dev), i ? "attention_backward: there are more" : "qk_norm_rope_backward: the CPU"));
        device_close(dev);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_future_changes_no_past), cmocka_unit_test(test_neighbours_do_not_meet),
        cmocka_unit_test(test_rows_of_no_sequence),    cmocka_unit_test(test_long_sequence),
        cmocka_unit_test(test_paged_is_packed),        cmocka_unit_test(test_threads_share_a_head),
        cmocka_unit_test(test_paged_bf16_error),        cmocka_unit_test(test_classifier_ranges),
        cmocka_unit_test(test_classifier_chunks),      cmocka_unit_test(test_classifier_threads),
        cmocka_unit_test(test_sample_law),
        cmocka_unit_test(test_sample_edges),           cmocka_unit_test(test_sample_levels),
        cmocka_unit_test(test_adamw_cuts),             cmocka_unit_test(test_sum_squares_order),
        cmocka_unit_test(test_no_workspace),           cmocka_unit_test(test_no_rows),
        cmocka_unit_test(test_sizes_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
