/* test_cuda_model.c - the model on a GPU (or the emulator): passes against double with the tolerance rule, recorded passes
 * against direct ones, recomputation, batches in turn, cached decoding against the full pass, recorded decoding against
 * direct.
 *
 * The yardstick for bfloat16 is the naive formula in float whose every stored result is rounded to bfloat16:
 * `bf16_naive` below, put in the place of the CPU's operations. */
#include "infer/decode_pass.h"
#include "kernels/philox.h"
#include "model/params.h"
#include "tests/cuda_model.h"
#include "tests/make_batch.h"

/* ---- the naive formula, stored in bfloat16 ----------------------------------------------------------------------- */

static void store(void *x, int64_t count) {
    float *f = x;
    for (int64_t i = 0; i < count; i++) f[i] = bf16_to_float(bf16_from_float(f[i]));
}

static void rounding_rmsnorm_forward(Device *dev, void *out, void *rstd, const void *inp, const void *weight, float eps,
                                     int N, int C) {
    naive_rmsnorm_forward(dev, out, rstd, inp, weight, eps, N, C);
    store(out, (int64_t)N * C);
}

static void rounding_rmsnorm_backward(Device *dev, void *dinp_acc, void *dweight, const void *dout, const void *inp,
                                      const void *weight, const void *rstd, int N, int C) {
    naive_rmsnorm_backward(dev, dinp_acc, dweight, dout, inp, weight, rstd, N, C);
    store(dinp_acc, (int64_t)N * C);
}

static void rounding_matmul_forward(Device *dev, void *out, const void *inp, const Weight *w, int N) {
    naive_matmul_forward(dev, out, inp, w, N);
    store(out, (int64_t)N * w->rows);
}

static void rounding_matmul_add_forward(Device *dev, void *out, const void *residual, const void *inp, const Weight *w,
                                        int N) {
    naive_matmul_add_forward(dev, out, residual, inp, w, N);
    store(out, (int64_t)N * w->rows);
}

static void rounding_matmul_swiglu_forward(Device *dev, void *out, void *gate_up, const void *inp, const Weight *w,
                                           int N) {
    naive_matmul_swiglu_forward(dev, out, gate_up, inp, w, N);
    store(out, (int64_t)N * w->rows / 2);
    if (gate_up) store(gate_up, (int64_t)N * w->rows);
}

static void rounding_matmul_dgrad(Device *dev, void *dinp, const void *dout, const Weight *w, int N) {
    naive_matmul_dgrad(dev, dinp, dout, w, N);
    store(dinp, (int64_t)N * w->cols);
}

static void rounding_swiglu_forward(Device *dev, void *out, const void *gate_up, int N, int F) {
    naive_swiglu_forward(dev, out, gate_up, N, F);
    store(out, (int64_t)N * F);
}

static void rounding_swiglu_backward(Device *dev, void *dgate_up, void *act, const void *dout, const void *gate_up, int N,
                                     int F) {
    naive_swiglu_backward(dev, dgate_up, act, dout, gate_up, N, F);
    store(dgate_up, (int64_t)N * 2 * F);
    store(act, (int64_t)N * F);
}

static void rounding_qk_norm_rope_forward(Device *dev, void *qk, void *rstd, const void *qkv, const void *q_weight,
                                          const void *k_weight, const int32_t *positions, const void *rope, float eps,
                                          int N, int H, int G, int D) {
    naive_qk_norm_rope_forward(dev, qk, rstd, qkv, q_weight, k_weight, positions, rope, eps, N, H, G, D);
    store(qk, (int64_t)N * (H + G) * D);
}

static void rounding_qk_norm_rope_backward(Device *dev, void *dqkv, void *dq_weight, void *dk_weight, const void *dqk,
                                           const void *qkv, const void *q_weight, const void *k_weight,
                                           const void *rstd, const int32_t *positions, const void *rope, int N, int H,
                                           int G, int D) {
    naive_qk_norm_rope_backward(dev, dqkv, dq_weight, dk_weight, dqk, qkv, q_weight, k_weight, rstd, positions, rope, N,
                                H, G, D);
    store(dqkv, (int64_t)N * (H + 2 * G) * D);
}

static void rounding_attention_forward(Device *dev, void *out, void *lse, const void *qk, const void *qkv,
                                       const int32_t *cu_seqlens, int n_seq, int N, int H, int G, int D) {
    naive_attention_forward(dev, out, lse, qk, qkv, cu_seqlens, n_seq, N, H, G, D);
    store(out, (int64_t)N * H * D);
}

static void rounding_attention_backward(Device *dev, void *dqk, void *dqkv, const void *dout, const void *qk,
                                        const void *qkv, const void *out, const void *lse, const int32_t *cu_seqlens,
                                        int n_seq, int N, int H, int G, int D) {
    naive_attention_backward(dev, dqk, dqkv, dout, qk, qkv, out, lse, cu_seqlens, n_seq, N, H, G, D);
    store(dqk, (int64_t)N * (H + G) * D);
    store(dqkv, (int64_t)N * (H + 2 * G) * D);
}

static void rounding_adapter_spread(Device *dev, void *b_wide, void *a_turned, const void *a, const void *b,
                                    const AdapterBlocks *s) {
    naive_adapter_spread(dev, b_wide, a_turned, a, b, s);
    store(b_wide, (int64_t)s->rows * s->n * s->rank);
}

static void rounding_classifier(Device *dev, void *losses, void *dinp, void *dweight, const void *inp, const Weight *w,
                                const int32_t *lo, const int32_t *hi, int N, int V) {
    naive_classifier(dev, losses, dinp, dweight, inp, w, lo, hi, N, V);
    if (dinp) store(dinp, (int64_t)N * w->cols);
}

static const KernelOps bf16_naive = {
    .embedding_forward = naive_embedding_forward,
    .embedding_backward = naive_embedding_backward,
    .rmsnorm_forward = rounding_rmsnorm_forward,
    .rmsnorm_backward = rounding_rmsnorm_backward,
    .matmul_forward = rounding_matmul_forward,
    .matmul_add_forward = rounding_matmul_add_forward,
    .matmul_swiglu_forward = rounding_matmul_swiglu_forward,
    .matmul_dgrad = rounding_matmul_dgrad,
    .matmul_wgrad = naive_matmul_wgrad,
    .swiglu_forward = rounding_swiglu_forward,
    .swiglu_backward = rounding_swiglu_backward,
    .adapter_spread = rounding_adapter_spread,
    .adapter_gather = naive_adapter_gather,
    .qk_norm_rope_forward = rounding_qk_norm_rope_forward,
    .qk_norm_rope_backward = rounding_qk_norm_rope_backward,
    .attention_forward = rounding_attention_forward,
    .attention_backward = rounding_attention_backward,
    .classifier = rounding_classifier,
};

/* ---- models and batches ------------------------------------------------------------------------------------------ */

/* The same weights on every device: random, norm weights away from 1, representable in dtype. */
static void open_model(Model *m, Device *dev, const ModelConfig *cfg, DType dtype, DType weights) {
    Err err = {OK, ""};
    CHECK(model_open(m, cfg, dev, dtype, 16, &err));
    float *w = xmalloc((size_t)m->table.total * sizeof *w);
    params_init(w, &m->table, &m->cfg, 11);
    for (int i = 0; i < m->table.n; i++) {
        const ParamSpec *s = &m->table.spec[i];
        for (int64_t k = 0; s->init == INIT_ONE && k < s->count; k++)
            w[s->offset + k] = (float)(0.6 + 0.8 * philox_uniform(philox4x32(philox_hash(s->name), (uint64_t)k, 0), 0));
        for (int64_t k = 0; s->init == INIT_LORA_B && k < s->count; k++)
            w[s->offset + k] = (float)(0.2 * philox_uniform(philox4x32(philox_hash(s->name), (uint64_t)k, 0), 0) - 0.1);
    }
    for (int64_t i = 0; i < m->table.total; i++) w[i] = rounded_to(weights, w[i]);
    model_set_weights(m, w, 0, m->table.total);
    free(w);
}

/* ---- one pass ---------------------------------------------------------------------------------------------------- */

typedef struct {
    double *losses, *grad; /* (N), (table.total) */
} Result;

static double *widened(Device *dev, const void *src, size_t count, DType real) {
    void *raw = download(dev, src, count * dtype_size(real));
    double *out = xmalloc(count * sizeof *out);
    for (size_t i = 0; i < count; i++) out[i] = real == DTYPE_F64 ? ((double *)raw)[i] : (double)((float *)raw)[i];
    free(raw);
    return out;
}

/* `times` passes over the batch, each from a gradient of zero; the last one counts.  lent: gradients lend their memory. */
static Result one_pass(Model *m, const Batch *b, Recompute level, int times, int lent, const KernelOps *k) {
    Err err = {OK, ""};
    Acts *a;
    Params grads;
    const DType real = dtype_real(m->dtype);
    const size_t total = (size_t)m->table.total; /* gradients of adapters need less */
    void *arena = device_alloc(m->dev, total * dtype_size(real));
    assert_non_null(arena);
    if (lent) CHECK(acts_open_lent(&a, m, b->N, level, arena, &err));
    else CHECK(acts_open(&a, m, b->N, 1, level, &err));
    CHECK(params_bind(&grads, &m->table, &m->cfg, arena, real, &err));
    if (k) { /* the naive formulas want the reference's scratch */
        assert_int_equal(
            device_reserve(m->dev, acts_scratch_bytes(&m->cfg, m->dev, kernels_get(m->dev, DTYPE_F64), b->N)), 0);
        m->k = k;
    }
    for (int i = 0; i < times; i++) {
        if (!lent) device_zero(m->dev, arena, total * dtype_size(real));
        model_upload(m, a, b);
        model_pass(m, a, &grads, NULL, NULL);
    }
    Result r = {widened(m->dev, acts_losses(a), (size_t)b->N, real), widened(m->dev, arena, total, real)};
    params_unbind(&grads);
    device_free(m->dev, arena);
    acts_close(a);
    return r;
}

static void free_result(Result *r) {
    free(r->losses);
    free(r->grad);
}

static double distance(const double *a, const double *b, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += (a[i] - b[i]) * (a[i] - b[i]);
    return sqrt(sum);
}

static double length_of(const double *a, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += a[i] * a[i];
    return sqrt(sum);
}

/* Root mean squares, as thousands of roundings have gone into each value: at most twice the naive error. */
static void within(const double *fast, const double *naive, const double *ref, size_t n, DType t, const char *what) {
    double error = distance(fast, ref, n), yard = distance(naive, ref, n), size = length_of(ref, n);
    if (!(error <= 2 * yard + TENSOR_ULPS * (double)FLT_EPSILON * size))
        fail_msg("%s (%s): error %.3g of %.3g; the naive formula's is %.3g", what, dtype_name(t), error, size, yard);
}

static const LoraConfig SOME_ADAPTERS = {.rank = 5, .targets = 1 << LORA_K | 1 << LORA_V | 1 << LORA_UP, .alpha = 5};

static void check_against_double(DType dtype, int tied, LoraConfig lora) {
    static const int length[] = {70, 17, 1, 64};
    Device *gpu = open_gpu(), *cpu = open_cpu();
    ModelConfig cfg = SHAPE;
    cfg.tied = tied;
    cfg.lora = lora;
    Model fast, naive, exact;
    open_model(&fast, gpu, &cfg, dtype, dtype);
    open_model(&naive, cpu, &cfg, DTYPE_F32, dtype);
    open_model(&exact, cpu, &cfg, DTYPE_F64, dtype);
    Batch b = make_batch(length, 4, cfg.vocab_size, 4);
    Result r[SIDES] = {one_pass(&fast, &b, RECOMPUTE_NONE, 1, 0, NULL),
                       one_pass(&naive, &b, RECOMPUTE_NONE, 1, 0, dtype == DTYPE_BF16 ? &bf16_naive : &naive_kernels),
                       one_pass(&exact, &b, RECOMPUTE_NONE, 1, 0, NULL)};
    within(r[FAST].losses, r[NAIVE].losses, r[DOUBLE].losses, (size_t)b.N, dtype, "losses");
    for (int p = 0; p < fast.table.n; p++) {
        const ParamSpec *s = &fast.table.spec[p];
        if (!s->trainable) continue;
        within(r[FAST].grad + s->offset, r[NAIVE].grad + s->offset, r[DOUBLE].grad + s->offset, (size_t)s->count, dtype,
               s->name);
    }
    for (int i = 0; i < SIDES; i++) free_result(&r[i]);
    free_batch(&b);
    model_close(&fast);
    model_close(&naive);
    model_close(&exact);
    device_close(gpu);
    device_close(cpu);
}

static void test_f32_against_double(void **state) {
    (void)state;
    check_against_double(DTYPE_F32, 1, NO_ADAPTERS);
}

static void test_bf16_against_double(void **state) {
    (void)state;
    check_against_double(DTYPE_BF16, 1, NO_ADAPTERS);
    check_against_double(DTYPE_BF16, 0, NO_ADAPTERS);
}

static void test_adapters_against_double(void **state) {
    (void)state;
    check_against_double(DTYPE_F32, 1, ADAPTERS);
    check_against_double(DTYPE_BF16, 1, ADAPTERS);
    check_against_double(DTYPE_BF16, 0, SOME_ADAPTERS);
}

/* Levels of recomputation, gradients that lend their memory, and the second pass (replayed) of a model that records: the
 * bits of the direct pass. */
static void test_recompute_and_replay(void **state) {
    (void)state;
    static const int length[] = {20, 1, 45};
    Device *gpu = open_gpu();
    ModelConfig cfg = small_shape();
    cfg.n_layers = 2;
    Model m;
    open_model(&m, gpu, &cfg, DTYPE_BF16, DTYPE_BF16);
    Batch b = make_batch(length, 3, cfg.vocab_size, 6);
    m.graphs = 0;
    Result direct = one_pass(&m, &b, RECOMPUTE_NONE, 1, 0, NULL);
    for (int level = RECOMPUTE_NONE; level <= RECOMPUTE_BLOCK; level++) {
        m.graphs = 1;
        Result again = one_pass(&m, &b, (Recompute)level, 2, level != RECOMPUTE_MLP, NULL);
        for (int n = 0; n < b.N; n++) assert_true(again.losses[n] == direct.losses[n]);
        for (int64_t i = 0; i < m.table.total; i++) assert_true(again.grad[i] == direct.grad[i]);
        free_result(&again);
    }
    free_result(&direct);
    free_batch(&b);
    model_close(&m);
    device_close(gpu);
}

typedef struct {
    int next;
} BucketLog;

static void on_bucket(void *ctx, int bucket) {
    BucketLog *log = ctx;
    assert_int_equal(bucket, log->next--);
}

/* Batches with few and with many sequences through the same activations: gradients add up to the same bits and losses
 * are the same whether passes are recorded or not, and whether anybody waits between them; every bucket is announced
 * once, from last to first. */
static void test_batches_in_turn(void **state) {
    (void)state;
    enum { N = 80, TURNS = 6, WAYS = 3 };
    static const int order[TURNS] = {0, 0, 1, 1, 0, 1};
    static const int few[] = {50, 30};
    static const int many[] = {1, 2, 3, 4, 5, 4, 3, 2, 1, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5};
    static const struct { int graphs, waits; } way[WAYS] = {{0, 1}, {0, 0}, {1, 0}};
    Device *gpu = open_gpu();
    Err err = {OK, ""};
    const ModelConfig cfg = small_shape();
    float *total[WAYS], *losses[WAYS];
    size_t bytes = 0;
    Batch b[2] = {make_batch(few, 2, cfg.vocab_size, 7), make_batch(many, 20, cfg.vocab_size, 8)};
    assert_true(b[0].N == N && b[1].N == N);
    for (int i = 0; i < WAYS; i++) {
        Model m;
        Acts *a;
        Params grads;
        open_model(&m, gpu, &cfg, DTYPE_BF16, DTYPE_BF16);
        m.graphs = way[i].graphs;
        bytes = (size_t)m.table.total * sizeof(float);
        void *arena = device_alloc(gpu, bytes);
        losses[i] = device_host_alloc(gpu, TURNS * N * sizeof(float));
        assert_true(arena && losses[i]);
        CHECK(acts_open(&a, &m, N, 1, RECOMPUTE_NONE, &err));
        CHECK(params_bind(&grads, &m.table, &m.cfg, arena, DTYPE_F32, &err));
        for (int turn = 0; turn < TURNS; turn++) {
            BucketLog log = {.next = m.table.n_buckets - 1};
            model_upload(&m, a, &b[order[turn]]);
            model_pass(&m, a, &grads, on_bucket, &log);
            assert_int_equal(log.next, -1);
            device_download_async(gpu, STREAM_COMPUTE, losses[i] + turn * N, acts_losses(a), N * sizeof(float));
            if (way[i].waits) check_device(gpu);
        }
        total[i] = download(gpu, arena, bytes);
        params_unbind(&grads);
        device_free(gpu, arena);
        acts_close(a);
        model_close(&m);
    }
    for (int i = 1; i < WAYS; i++) {
        assert_memory_equal(losses[0], losses[i], TURNS * N * sizeof(float));
        assert_memory_equal(total[0], total[i], bytes);
    }
    for (int i = 0; i < WAYS; i++) {
        free(total[i]);
        device_host_free(gpu, losses[i]);
    }
    free_batch(&b[0]);
    free_batch(&b[1]);
    device_close(gpu);
}

/* ---- cached decoding --------------------------------------------------------------------------------------------- */

/* A sequence at once, and piece by piece through the cache: the same logits, bit for bit. */
static void check_decode(DType dtype) {
    enum { LEN = 80, PAGES = 3 };
    static const int pieces[][5] = {{LEN}, {1, 1, 62, 1, 15}, {70, 10}};
    static const int32_t table[] = {2, 0};
    static const int length[] = {LEN};
    Device *gpu = open_gpu();
    Err err = {OK, ""};
    ModelConfig cfg = small_shape();
    cfg.n_heads = 2;
    Model m;
    Acts *a;
    open_model(&m, gpu, &cfg, dtype, dtype);
    Batch b = make_batch(length, 1, cfg.vocab_size, 5);
    CHECK(acts_open(&a, &m, LEN, 0, RECOMPUTE_NONE, &err));
    const size_t row = (size_t)m.cfg.vocab_padded * sizeof(float);
    const size_t stride =
        (size_t)PAGES * 2 * (size_t)m.cfg.n_kv_heads * KV_PAGE * (size_t)m.cfg.head_dim * dtype_size(dtype);
    void *pool = device_alloc(gpu, stride * (size_t)m.cfg.n_layers), *logits = device_alloc(gpu, LEN * row);
    struct {
        int32_t tokens[LEN], positions[LEN], q_offset[2], kv_len, blocks[2], group_offset[2], group_shared, pad[5];
        int64_t slot[LEN];
    } host = {.group_offset = {0, 1}}, *there = device_alloc(gpu, sizeof host);
    model_upload(&m, a, &b);
    model_forward(&m, a);
    model_logits(&m, a, logits, NULL, LEN);
    char *full = download(gpu, logits, LEN * row);
    for (int way = 0; way < 3; way++) {
        for (int i = 0, at = 0; i < 5 && pieces[way][i]; at += pieces[way][i++]) {
            const int n = pieces[way][i];
            for (int k = 0; k < n; k++) {
                host.tokens[k] = b.tokens[at + k];
                host.positions[k] = at + k;
                host.slot[k] = (int64_t)table[(at + k) / KV_PAGE] * KV_PAGE + (at + k) % KV_PAGE;
            }
            host.q_offset[1] = n;
            host.kv_len = at + n;
            memcpy(host.blocks, table, sizeof table);
            device_upload(gpu, there, &host, sizeof host);
            PagedBatch pages = {.pool = pool,
                                .q_offset = there->q_offset,
                                .kv_len = &there->kv_len,
                                .block_table = there->blocks,
                                .n_seq = 1,
                                .max_blocks = 2,
                                .group_offset = there->group_offset,
                                .group_shared = &there->group_shared,
                                .n_group = 1};
            model_decode(&m, a, there->tokens, there->positions, there->slot, &pages, stride, n);
            model_logits(&m, a, logits, NULL, n);
            char *got = download(gpu, logits, (size_t)n * row);
            assert_memory_equal(got, full + (size_t)at * row, (size_t)n * row);
            free(got);
        }
    }
    free(full);
    device_free(gpu, pool);
    device_free(gpu, logits);
    device_free(gpu, there);
    free_batch(&b);
    acts_close(a);
    model_close(&m);
    device_close(gpu);
}

static void test_decode(void **state) {
    (void)state;
    check_decode(DTYPE_BF16);
    check_decode(DTYPE_F32);
}

/* ---- recorded decoding ------------------------------------------------------------------------------------------- */

extern uint64_t emu_launches(void) __attribute__((weak));

/* Two patients and five futures of theirs, of which three end on the way, the second patient's all; the first one's have a
 * page in common and come to a third.  Logits of every step, rows first to last. */
enum { FUTURES = 5, STEPS = 11, SHAPES = 3, ROOM = 40 };

static int decode_steps(Device *gpu, const ModelConfig *cfg, DType dtype, int graphs, char *logits, size_t row, uint64_t *step_launches) {
    static const int known[] = {124, 9}, of[FUTURES] = {0, 0, 0, 1, 1}, ends[FUTURES] = {99, 6, 99, 8, 8};
    Err err = {OK, ""};
    Model m;
    Acts *acts;
    KvCache cache;
    DecodePass pass;
    KvSequence patient[2] = {{0}}, future[FUTURES] = {{0}};
    int32_t token[FUTURES], known_token[124];
    int count = 0;
    open_model(&m, gpu, cfg, dtype, dtype);
    m.graphs = graphs;
    float *d_logits = device_alloc(gpu, ROOM * row);
    CHECK(acts_open(&acts, &m, known[0], 0, RECOMPUTE_NONE, &err));
    CHECK(kv_cache_open(&cache, &m, 16, &err));
    CHECK(decode_pass_open(&pass, &m, acts, &cache, known[0], ROOM, 3, 0, &err));
    for (int i = 0; i < known[0]; i++) known_token[i] = 1 + i % 60;
    for (int p = 0; p < 2; p++) {
        const int32_t group[] = {0, 1}, none = 0;
        CHECK(decode_pass_lay(&pass, &(DecodeRow){&patient[p], known_token + p, known[p]}, 1, group, &none, 1, &err));
        decode_pass_run(&pass);
    }
    for (int f = 0; f < FUTURES; f++) assert_true(kv_sequence_fork(&cache, &future[f], &patient[of[f]]));
    for (int step = 0; step < STEPS; step++) {
        DecodeRow rows[FUTURES];
        int32_t offset[3] = {0}, shared[2] = {known[0] / KV_PAGE, 0};
        int n = 0;
        for (int f = 0; f < FUTURES; f++) {
            if (step == ends[f]) kv_sequence_release(&cache, &future[f]);
            if (step >= ends[f]) continue;
            token[f] = 1 + (7 * f + 3 * step) % 60;
            rows[n++] = (DecodeRow){&future[f], &token[f], 1};
            offset[of[f] + 1] = n;
        }
        const uint64_t before = emu_launches ? emu_launches() : 0;
        CHECK(decode_step_lay(&pass, rows, n, offset, shared, step < ends[4] ? 2 : 1, &err));
        decode_step_run(&pass, d_logits);
        if (emu_launches && step == 7) *step_launches = emu_launches() - before;
        device_download(gpu, logits + (size_t)count * row, d_logits, (size_t)n * row);
        count += n;
    }
    check_device(gpu);
    assert_int_equal(pass.steps, STEPS);
    const int replayed = (int)pass.replayed;
    for (int f = 0; f < FUTURES; f++) kv_sequence_release(&cache, &future[f]), kv_sequence_free(&future[f]);
    for (int p = 0; p < 2; p++) kv_sequence_release(&cache, &patient[p]), kv_sequence_free(&patient[p]);
    assert_int_equal(cache.n_free, cache.n_pages);
    decode_pass_close(&pass);
    kv_cache_close(&cache);
    acts_close(acts);
    device_free(gpu, d_logits);
    model_close(&m);
    return replayed;
}

/* The bits of direct steps, whatever rows a recorded one carries besides, and one launch each. */
static void check_recorded_steps(DType dtype) {
    Device *gpu = open_gpu();
    ModelConfig cfg = small_shape();
    cfg.n_heads = 2;
    cfg.seq_len = 3 * KV_PAGE;
    const size_t row = 64 * sizeof(float), all = FUTURES * STEPS * row;
    char *direct = xcalloc(all, 1), *recorded = xcalloc(all, 1);
    uint64_t launches[2];
    assert_int_equal(decode_steps(gpu, &cfg, dtype, 0, direct, row, &launches[0]), 0);
    assert_int_equal(decode_steps(gpu, &cfg, dtype, 1, recorded, row, &launches[1]), STEPS - SHAPES);
    assert_memory_equal(direct, recorded, all);
    if (emu_launches) assert_true(launches[0] > 10 && launches[1] == 1);
    free(direct);
    free(recorded);
    device_close(gpu);
}

static void test_recorded_steps(void **state) {
    (void)state;
    check_recorded_steps(DTYPE_BF16);
    check_recorded_steps(DTYPE_F32);
}

int main(void) {
    /* In the emulator streams run as late as they may, in any order that the program allows. */
    setenv("EHR_EMULATE", "schedule=random:3", 0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_f32_against_double),      cmocka_unit_test(test_bf16_against_double),
        cmocka_unit_test(test_adapters_against_double), cmocka_unit_test(test_recompute_and_replay),
        cmocka_unit_test(test_batches_in_turn),         cmocka_unit_test(test_decode),
        cmocka_unit_test(test_recorded_steps),
    };
    return cmocka_run_group_tests_name("cuda_model", tests, NULL, NULL);
}
