/* test_model.c - the transformer against itself: gradients against finite differences in double, recompute levels and
 * micro-batches against each other, packing and the future against leaks, cached decoding against the full pass. */
#include "tests/model_check.h"

/* ---- gradients --------------------------------------------------------------------------------------------------- */

static void check_gradients(const ModelConfig *shape, int tied) {
    static const int length[] = {7, 1, 13, 5};
    Model m;
    Device *dev = open_device(2);
    open_model(&m, dev, shape, tied, DTYPE_F64);
    Batch b = make_batch(length, 4, shape->vocab_size, 3);
    Acts *a = open_acts(&m, b.N, 0, RECOMPUTE_NONE);
    double *grad = gradient(&m, &b, RECOMPUTE_NONE);
    for (int i = 0; i < m.table.n; i++) check_row(&m, a, &b, &m.table.spec[i], grad + m.table.spec[i].offset);
    free(grad);
    acts_close(a);
    free_batch(&b);
    model_close(&m);
    device_close(dev);
}

static void test_gradients_tied(void **state) {
    (void)state;
    check_gradients(&TINY, 1);
    check_gradients(&ROOMY, 1);
}

static void test_gradients_untied(void **state) {
    (void)state;
    check_gradients(&TINY, 0);
    check_gradients(&ROOMY, 0);
}

/* Recomputed activations have the bits of kept ones, so gradients have, too. */
static void test_recompute(void **state) {
    (void)state;
    static const int length[] = {30, 3, 70};
    static const ModelConfig *const shape[] = {&WIDE, &TINY, &ROOMY};
    for (int i = 0; i < 3; i++) {
        Model m;
        Device *dev = open_device(2);
        open_model(&m, dev, shape[i], 1, i ? DTYPE_F64 : DTYPE_F32);
        Batch b = make_batch(length, 3, 70, 5);
        const size_t bytes = (size_t)m.table.total * real_size(&m);
        void *none = gradient(&m, &b, RECOMPUTE_NONE), *mlp = gradient(&m, &b, RECOMPUTE_MLP);
        void *block = gradient(&m, &b, RECOMPUTE_BLOCK);
        assert_memory_equal(none, mlp, bytes);
        assert_memory_equal(none, block, bytes);
        free(none);
        free(mlp);
        free(block);
        free_batch(&b);
        model_close(&m);
        device_close(dev);
    }
}

/* Two micro-batches into one gradient = the sum of their gradients; the second may be smaller than the first. */
static void test_accumulation(void **state) {
    (void)state;
    static const int length[] = {9, 4, 11};
    Model m;
    Params grad;
    Device *dev = open_device(2);
    open_model(&m, dev, &TINY, 0, DTYPE_F64);
    Batch b[2] = {make_batch(length, 3, 70, 1), make_batch(length, 2, 70, 2)};
    Acts *a = open_acts(&m, b[0].N, 1, RECOMPUTE_NONE);
    void *arena = open_grad(&m, &grad);
    double *one[2], *sum;
    for (int i = 0; i < 2; i++) {
        model_upload(&m, a, &b[i]);
        model_forward(&m, a);
        model_loss(&m, a, &grad);
        model_backward(&m, a, &grad, NULL, NULL);
        one[i] = gradient(&m, &b[i], RECOMPUTE_NONE);
    }
    sum = download(&m, arena, (size_t)m.table.total * 8);
    for (int64_t k = 0; k < m.table.total; k++)
        assert_true(fabs(sum[k] - one[0][k] - one[1][k]) <= 1e-12 * (1 + fabs(sum[k])));
    free(sum);
    for (int i = 0; i < 2; i++) {
        free(one[i]);
        free_batch(&b[i]);
    }
    close_grad(&m, &grad, arena);
    acts_close(a);
    model_close(&m);
    device_close(dev);
}

/* A frozen parameter gets no gradient and changes no other's. */
static void test_frozen(void **state) {
    (void)state;
    static const int length[] = {12, 8};
    static const char *frozen[] = {"embedding",
                                   "layers.0.attn.qkv",
                                   "layers.1.attn.q_norm",
                                   "layers.0.mlp_norm",
                                   "layers.1.mlp.gate_up",
                                   "layers.1.mlp.down",
                                   "layers.0.attn.out",
                                   "final_norm"};
    for (int tied = 0; tied < 2; tied++) {
        Model m;
        Device *dev = open_device(2);
        open_model(&m, dev, &TINY, tied, DTYPE_F64);
        Batch b = make_batch(length, 2, 70, 9);
        double *all = gradient(&m, &b, RECOMPUTE_NONE);
        for (size_t i = 0; i < sizeof frozen / sizeof *frozen; i++)
            m.table.spec[param_find(&m.table, frozen[i])].trainable = 0;
        double *some = gradient(&m, &b, RECOMPUTE_NONE);
        for (int i = 0; i < m.table.n; i++) {
            const ParamSpec *s = &m.table.spec[i];
            if (s->trainable) assert_memory_equal(some + s->offset, all + s->offset, (size_t)s->count * 8);
            for (int64_t k = 0; !s->trainable && k < s->count; k++) assert_true(some[s->offset + k] == 0);
        }
        free(all);
        free(some);
        free_batch(&b);
        model_close(&m);
        device_close(dev);
    }
}

typedef struct {
    Model *m;
    void *arena;
    double *then; /* the gradient of each bucket when it was announced */
    int next;
} BucketLog;

static void on_bucket(void *ctx, int bucket) {
    BucketLog *log = ctx;
    assert_int_equal(bucket, log->next--);
    const int64_t at = log->m->table.bucket_offset[bucket], n = log->m->table.bucket_offset[bucket + 1] - at;
    device_download(log->m->dev, log->then + at, (double *)log->arena + at, (size_t)n * 8);
}

/* Buckets are announced from last to first, each once, and not touched afterwards. */
static void test_buckets(void **state) {
    (void)state;
    static const int length[] = {12, 8};
    for (int tied = 0; tied < 2; tied++) {
        Model m;
        Params grad;
        Device *dev = open_device(2);
        open_model(&m, dev, &TINY, tied, DTYPE_F64);
        Batch b = make_batch(length, 2, 70, 9);
        Acts *a = open_acts(&m, b.N, 1, RECOMPUTE_NONE);
        BucketLog log = {.m = &m, .arena = open_grad(&m, &grad), .next = m.table.n_buckets - 1};
        log.then = xcalloc((size_t)m.table.total, 8);
        model_upload(&m, a, &b);
        model_forward(&m, a);
        model_loss(&m, a, &grad);
        model_backward(&m, a, &grad, on_bucket, &log);
        assert_int_equal(log.next, -1);
        double *end = download(&m, log.arena, (size_t)m.table.total * 8);
        assert_memory_equal(log.then, end, (size_t)m.table.total * 8);
        free(end);
        free(log.then);
        close_grad(&m, &grad, log.arena);
        acts_close(a);
        free_batch(&b);
        model_close(&m);
        device_close(dev);
    }
}

/* ---- float against double, threads, leaks ------------------------------------------------------------------------ */

static void test_f32_against_f64(void **state) {
    (void)state;
    static const int length[] = {90, 17, 1, 64};
    Model m[2];
    Device *dev = open_device(2);
    Batch b = make_batch(length, 4, 300, 4);
    double *l[2];
    float *g32;
    double *g64;
    for (int i = 0; i < 2; i++) {
        open_model(&m[i], dev, &WIDE, 0, i ? DTYPE_F64 : DTYPE_F32);
        Acts *a = open_acts(&m[i], b.N, 0, RECOMPUTE_NONE);
        l[i] = losses(&m[i], a, &b);
        acts_close(a);
    }
    for (int n = 0; n < b.N; n++) assert_true(fabs(l[0][n] - l[1][n]) < 2e-5 * (1 + fabs(l[1][n])));
    g32 = gradient(&m[0], &b, RECOMPUTE_NONE);
    g64 = gradient(&m[1], &b, RECOMPUTE_NONE);
    for (int i = 0; i < m[1].table.n; i++) {
        const ParamSpec *s = &m[1].table.spec[i];
        double difference = 0, norm = 0;
        for (int64_t k = s->offset; k < s->offset + s->count; k++) {
            difference += (g32[k] - g64[k]) * (g32[k] - g64[k]);
            norm += g64[k] * g64[k];
        }
        if (!(sqrt(difference / norm) < 2e-5)) fail_msg("%s: relative L2 error %.2g", s->name, sqrt(difference / norm));
    }
    free(g32);
    free(g64);
    for (int i = 0; i < 2; i++) {
        free(l[i]);
        model_close(&m[i]);
    }
    free_batch(&b);
    device_close(dev);
}

/* As many sequences as tokens, where scratch was reserved for fewer: the same bits as each alone. */
static void test_many_sequences(void **state) {
    (void)state;
    enum { N = 200 };
    int length[N];
    Model m;
    Device *dev = open_device(2);
    open_model(&m, dev, &WIDE, 1, DTYPE_F32);
    for (int i = 0; i < N; i++) length[i] = 1;
    Batch b = make_batch(length, N, 300, 4), one = make_batch(length, 1, 300, 4);
    Acts *a = open_acts(&m, N, 0, RECOMPUTE_NONE);
    double *all = losses(&m, a, &b);
    for (int i = 0; i < N; i += 37) {
        one.tokens[0] = b.tokens[i];
        one.target_lo[0] = b.target_lo[i];
        one.target_hi[0] = b.target_hi[i];
        double *l = losses(&m, a, &one);
        assert_true(l[0] == all[i]);
        free(l);
    }
    free(all);
    acts_close(a);
    free_batch(&b);
    free_batch(&one);
    model_close(&m);
    device_close(dev);
}

typedef struct {
    char *hidden, *losses; /* of the table's dtype */
} Outputs;

static Outputs outputs(Model *m, const Batch *b) {
    Acts *a = open_acts(m, b->N, 0, RECOMPUTE_NONE);
    model_upload(m, a, b);
    model_forward(m, a);
    model_loss(m, a, NULL);
    const size_t bytes = (size_t)b->N * real_size(m);
    Outputs o = {download(m, acts_hidden(a), bytes * (size_t)m->cfg.d_model), download(m, acts_losses(a), bytes)};
    acts_close(a);
    return o;
}

static void free_outputs(Outputs *o) {
    free(o->hidden);
    free(o->losses);
}

static int same_rows(const Model *m, const Outputs *a, int a_row, const Outputs *b, int b_row, int n) {
    const size_t real = real_size(m), C = real * (size_t)m->cfg.d_model;
    return !memcmp(a->hidden + (size_t)a_row * C, b->hidden + (size_t)b_row * C, (size_t)n * C) &&
           !memcmp(a->losses + (size_t)a_row * real, b->losses + (size_t)b_row * real, (size_t)n * real);
}

static void test_threads(void **state) {
    (void)state;
    static const int length[] = {90, 17, 1, 64};
    Outputs o[2];
    Batch b = make_batch(length, 4, 300, 4);
    Model m;
    for (int i = 0; i < 2; i++) {
        Device *dev = open_device(i + 1);
        open_model(&m, dev, &WIDE, 1, DTYPE_F32);
        o[i] = outputs(&m, &b);
        if (i) assert_true(same_rows(&m, &o[0], 0, &o[1], 0, b.N));
        model_close(&m);
        device_close(dev);
    }
    free_outputs(&o[0]);
    free_outputs(&o[1]);
    free_batch(&b);
}

/* Changing one patient changes no bit of another; a patient has the same bits alone and packed with others; a future
 * token changes no past bit. */
static void check_no_leaks(DType dtype) {
    static const int length[] = {40, 75, 9, 66};
    enum { CHANGED = 1, AT = 50 };
    Model m;
    Device *dev = open_device(2);
    open_model(&m, dev, &WIDE, 1, dtype);
    Batch b = make_batch(length, 4, 300, 4);
    Outputs before = outputs(&m, &b);
    for (int s = 0; s < 4; s++) {
        Batch alone = make_batch(&length[s], 1, 300, 0);
        const size_t bytes = (size_t)length[s] * 4;
        memcpy(alone.tokens, b.tokens + b.cu_seqlens[s], bytes);
        memcpy(alone.target_lo, b.target_lo + b.cu_seqlens[s], bytes);
        memcpy(alone.target_hi, b.target_hi + b.cu_seqlens[s], bytes);
        Outputs o = outputs(&m, &alone);
        assert_true(same_rows(&m, &before, b.cu_seqlens[s], &o, 0, length[s]));
        free_outputs(&o);
        free_batch(&alone);
    }
    const int first = b.cu_seqlens[CHANGED], after = b.cu_seqlens[CHANGED + 1];
    b.tokens[first + AT] = (b.tokens[first + AT] + 1) % 300; /* the future of rows before AT */
    Outputs o = outputs(&m, &b);
    assert_true(same_rows(&m, &before, 0, &o, 0, first + AT));
    assert_false(same_rows(&m, &before, first + AT, &o, first + AT, 1));
    assert_true(same_rows(&m, &before, after, &o, after, b.N - after));
    free_outputs(&o);
    for (int n = first; n < after; n++) b.tokens[n] = (b.tokens[n] + 17) % 300;
    o = outputs(&m, &b);
    assert_true(same_rows(&m, &before, 0, &o, 0, first));
    assert_false(same_rows(&m, &before, first, &o, first, 1));
    assert_true(same_rows(&m, &before, after, &o, after, b.N - after));
    free_outputs(&o);
    free_outputs(&before);
    free_batch(&b);
    model_close(&m);
    device_close(dev);
}

static void test_no_leaks(void **state) {
    (void)state;
    check_no_leaks(DTYPE_F32);
    check_no_leaks(DTYPE_F64);
}

/* ---- cached decoding --------------------------------------------------------------------------------------------- */

enum { SEQ = 2, LEN = 150, BLOCKS = 3, PAGES = 8, SHARED = 1 };

/* Two patients whose first 64 tokens agree share their first page. */
typedef struct {
    Model *m;
    Acts *a;
    void *pool;
    size_t stride;
    int len[SEQ];
    int32_t table[SEQ * BLOCKS];
    void *logits;
} Decoder;

static Decoder open_decoder(Model *m) {
    static const int32_t table[SEQ * BLOCKS] = {6, 1, 4, 6, 0, 3};
    const ModelConfig *c = &m->cfg;
    Decoder d = {.m = m, .a = open_acts(m, SEQ * LEN, 0, RECOMPUTE_NONE)};
    d.stride = (size_t)PAGES * 2 * (size_t)c->n_kv_heads * KV_PAGE * (size_t)c->head_dim * real_size(m);
    d.pool = device_alloc(m->dev, d.stride * (size_t)c->n_layers);
    d.logits = device_alloc(m->dev, (size_t)SEQ * LEN * (size_t)c->vocab_padded * real_size(m));
    memcpy(d.table, table, sizeof table);
    return d;
}

static void close_decoder(Decoder *d) {
    acts_close(d->a);
    device_free(d->m->dev, d->pool);
    device_free(d->m->dev, d->logits);
}

/* Feeds n[s] further tokens of each sequence (tokens: SEQ x LEN) and copies their logits to out (SEQ x LEN x Vp).
 * shared: pages the group reads once. */
static void feed(Decoder *d, const int32_t *tokens, const int *n, int shared, char *out) {
    int32_t tok[SEQ * LEN], pos[SEQ * LEN], q_offset[SEQ + 1] = {0}, kv_len[SEQ], group[2] = {0, SEQ},
                                                           group_shared[1] = {shared};
    int64_t slot[SEQ * LEN];
    int32_t rows[SEQ * LEN];
    int N = 0;
    for (int s = 0; s < SEQ; s++) {
        for (int i = 0; i < n[s]; i++, N++) {
            const int t = d->len[s] + i;
            tok[N] = tokens[s * LEN + t];
            pos[N] = t;
            /* the second owner of a shared page does not write it again */
            slot[N] = s > 0 && t < SHARED * KV_PAGE
                          ? -1
                          : (int64_t)d->table[s * BLOCKS + t / KV_PAGE] * KV_PAGE + t % KV_PAGE;
            rows[N] = N;
        }
        d->len[s] += n[s];
        q_offset[s + 1] = N;
        kv_len[s] = d->len[s];
    }
    const PagedBatch pages = {.pool = d->pool,
                              .q_offset = q_offset,
                              .kv_len = kv_len,
                              .block_table = d->table,
                              .n_seq = SEQ,
                              .max_blocks = BLOCKS,
                              .group_offset = group,
                              .group_shared = group_shared,
                              .n_group = 1};
    const size_t row = (size_t)d->m->cfg.vocab_padded * real_size(d->m);
    model_decode(d->m, d->a, tok, pos, slot, &pages, d->stride, N);
    model_logits(d->m, d->a, d->logits, rows, N);
    char *got = download(d->m, d->logits, (size_t)N * row);
    for (int s = 0, at = 0; s < SEQ; s++)
        for (int i = 0; i < n[s]; i++, at++)
            memcpy(out + (size_t)(s * LEN + d->len[s] - n[s] + i) * row, got + (size_t)at * row, row);
    free(got);
}

/* Full pass, one prefill, token by token, ragged pieces, with packed weights: the same logits, bit for bit.  Weights
 * narrower than dtype are packed from the start.  A cache in another type agrees with itself; the full pass rounds no key. */
static void check_decode(DType dtype, DType weights, DType kv_type) {
    Model m;
    Err err;
    Device *dev = open_device(2);
    open_model(&m, dev, &WIDE, 1, dtype);
    m.kv_type = kv_type;
    if (weights != dtype) assert_int_equal(model_prepare(&m, weights, &err), OK);
    const int length[SEQ] = {LEN, LEN}, everything[SEQ] = {LEN, LEN}, one[SEQ] = {1, 1};
    const size_t bytes = (size_t)SEQ * LEN * (size_t)m.cfg.vocab_padded * real_size(&m);
    Batch b = make_batch(length, SEQ, 300, 8);
    memcpy(b.tokens + LEN, b.tokens, SHARED * KV_PAGE * sizeof *b.tokens);
    Decoder d = open_decoder(&m);
    char *got = xcalloc(1, bytes);
    model_upload(&m, d.a, &b);
    model_forward(&m, d.a);
    model_logits(&m, d.a, d.logits, NULL, b.N);
    char *full = download(&m, d.logits, bytes);
    for (int pass = 0; pass < 4; pass++) {
        if (pass == 3) assert_int_equal(model_prepare(&m, weights, &err), OK); /* packed weights from here on */
        memset(got, 0, bytes);
        memset(d.len, 0, sizeof d.len);
        if (pass == 0) feed(&d, b.tokens, everything, 0, got);
        for (int t = 0; pass == 1 && t < LEN; t++) feed(&d, b.tokens, one, t >= KV_PAGE ? SHARED : 0, got);
        if (pass >= 2) { /* the owner of the shared page first, then ragged pieces */
            static const int piece[][SEQ] = {{70, 0}, {0, 65}, {1, 40}, {60, 1}, {19, 44}};
            for (int i = 0; i < 5; i++) feed(&d, b.tokens, piece[i], i >= 2 ? SHARED : 0, got);
        }
        assert_int_equal(d.len[0], LEN);
        assert_int_equal(d.len[1], LEN);
        if (pass == 0 && kv_type != dtype) {
            assert_memory_not_equal(full, got, bytes);
            memcpy(full, got, bytes);
        }
        assert_memory_equal(full, got, bytes);
    }
    free(full);
    free(got);
    close_decoder(&d);
    free_batch(&b);
    model_close(&m);
    device_close(dev);
}

static double furthest(const char *a, const char *b, size_t bytes) {
    double most = 0;
    for (size_t i = 0; i < bytes / sizeof(float); i++) most = fmax(most, fabs((double)((const float *)a)[i] - ((const float *)b)[i]));
    return most;
}

/* Keys and values of 16 bits move logits by no more than twice what weights of 16 bits do, of which they are products. */
static void test_decode_near(void **state) {
    (void)state;
    const int length[SEQ] = {LEN, LEN};
    Batch b = make_batch(length, SEQ, 300, 8);
    memcpy(b.tokens + LEN, b.tokens, SHARED * KV_PAGE * sizeof *b.tokens);
    Device *dev = open_device(2);
    char *logits[3];
    size_t bytes = 0;
    for (int i = 0; i < 3; i++) { /* as it is, with narrow weights, with a narrow cache */
        Model m;
        Err err;
        open_model(&m, dev, &WIDE, 1, DTYPE_F32);
        if (i == 1) assert_int_equal(model_prepare(&m, DTYPE_BF16, &err), OK);
        if (i == 2) m.kv_type = DTYPE_BF16;
        Decoder d = open_decoder(&m);
        bytes = (size_t)SEQ * LEN * (size_t)m.cfg.vocab_padded * sizeof(float);
        logits[i] = xcalloc(1, bytes);
        feed(&d, b.tokens, length, 0, logits[i]);
        close_decoder(&d);
        model_close(&m);
    }
    const double weights = furthest(logits[0], logits[1], bytes), keys = furthest(logits[0], logits[2], bytes);
    if (!(keys > 0 && keys <= 2 * weights)) fail_msg("a cache of 16 bits moves logits by %g, weights of 16 bits by %g", keys, weights);
    for (int i = 0; i < 3; i++) free(logits[i]);
    free_batch(&b);
    device_close(dev);
}

/* Weights of 16 bits are those of the blocks and of the head, and nothing else: the bits of a model that was rounded so. */
static void test_narrow_weights(void **state) {
    (void)state;
    const int length[SEQ] = {LEN, LEN};
    Batch b = make_batch(length, SEQ, 300, 8);
    memcpy(b.tokens + LEN, b.tokens, SHARED * KV_PAGE * sizeof *b.tokens);
    Device *dev = open_device(2);
    char *logits[2];
    size_t bytes = 0;
    for (int i = 0; i < 2; i++) {
        Model m;
        Err err;
        open_model(&m, dev, &WIDE, 0, DTYPE_F32); /* not tied: the embedding stays as it is */
        for (int p = 0; i && p < m.table.n; p++) {
            const ParamSpec *spec = &m.table.spec[p];
            uint32_t *bits = (uint32_t *)m.w_arena + spec->offset;
            for (int64_t k = 0; spec->ndim == 2 && strcmp(spec->name, "embedding") && k < spec->count; k++)
                bits[k] = (bits[k] + 0x7FFF + (bits[k] >> 16 & 1)) & 0xFFFF0000u;
        }
        if (!i) assert_int_equal(model_prepare(&m, DTYPE_BF16, &err), OK);
        Decoder d = open_decoder(&m);
        bytes = (size_t)SEQ * LEN * (size_t)m.cfg.vocab_padded * sizeof(float);
        logits[i] = xcalloc(1, bytes);
        feed(&d, b.tokens, length, 0, logits[i]);
        close_decoder(&d);
        model_close(&m);
    }
    assert_memory_equal(logits[0], logits[1], bytes);
    for (int i = 0; i < 2; i++) free(logits[i]);
    free_batch(&b);
    device_close(dev);
}

static void test_decode(void **state) {
    (void)state;
    check_decode(DTYPE_F32, DTYPE_F32, DTYPE_F32);
    check_decode(DTYPE_F32, DTYPE_BF16, DTYPE_F32);
    check_decode(DTYPE_F32, DTYPE_I8, DTYPE_F32);
    check_decode(DTYPE_F32, DTYPE_F32, DTYPE_BF16);
    check_decode(DTYPE_F32, DTYPE_I8, DTYPE_BF16);
    check_decode(DTYPE_F64, DTYPE_F64, DTYPE_F64);
}

/* ---- refusals ---------------------------------------------------------------------------------------------------- */

static void test_refusals(void **state) {
    (void)state;
    Device *dev = open_device(1);
    Model m;
    Err err = {OK, ""};
    static const struct {
        size_t field;
        int value;
        const char *says;
    } bad[] = {
        {offsetof(ModelConfig, n_layers), 0, "layers"},       {offsetof(ModelConfig, d_model), 1 << 20, "d_model"},
        {offsetof(ModelConfig, n_kv_heads), 3, "evenly"},     {offsetof(ModelConfig, head_dim), 63, "odd"},
        {offsetof(ModelConfig, head_dim), 32, "64 or 128"},   {offsetof(ModelConfig, vocab_size), -5, "vocabulary"},
        {offsetof(ModelConfig, seq_len), 1 << 30, "seq_len"}, {offsetof(ModelConfig, d_ff), -1, "d_ff"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        ModelConfig cfg = WIDE;
        *(int *)((char *)&cfg + bad[i].field) = bad[i].value;
        assert_int_equal(model_open(&m, &cfg, dev, DTYPE_F32, 16, &err), ERR_USAGE);
        if (!strstr(err.msg, bad[i].says)) fail_msg("%s", err.msg);
    }
    device_close(dev);
}

/* A batch that would read or write out of bounds stops at the device, named. */
static void test_bad_batches(void **state) {
    (void)state;
    static const int length[] = {5, 6};
    for (int i = 0; i < 7; i++) {
        Device *dev = open_device(1);
        Model m;
        open_model(&m, dev, &TINY, 1, DTYPE_F64);
        Batch b = make_batch(length, 2, 70, 1);
        Acts *a = open_acts(&m, i == 6 ? 10 : 11, 0, RECOMPUTE_NONE);
        if (i == 0) b.tokens[4] = 70;
        if (i == 1) b.tokens[4] = -1;
        if (i == 2) b.positions[3] = TINY.seq_len;
        if (i == 3) b.cu_seqlens[2] = 12;
        if (i == 4) b.cu_seqlens[1] = 11;
        if (i == 5) b.target_hi[0] = 71;
        model_upload(&m, a, &b);
        model_forward(&m, a);
        model_loss(&m, a, NULL);
        assert_int_not_equal(device_sync(dev), 0);
        assert_non_null(strstr(device_error(dev), "model_upload"));
        acts_close(a);
        free_batch(&b);
        model_close(&m);
        device_close(dev);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refusals),         cmocka_unit_test(test_gradients_tied),
        cmocka_unit_test(test_gradients_untied), cmocka_unit_test(test_recompute),
        cmocka_unit_test(test_accumulation),     cmocka_unit_test(test_frozen),
        cmocka_unit_test(test_buckets),          cmocka_unit_test(test_f32_against_f64),
        cmocka_unit_test(test_threads),          cmocka_unit_test(test_many_sequences),
        cmocka_unit_test(test_no_leaks),         cmocka_unit_test(test_decode),
        cmocka_unit_test(test_decode_near),
        cmocka_unit_test(test_narrow_weights),
        cmocka_unit_test(test_bad_batches),
    };
    return cmocka_run_group_tests_name("model", tests, NULL, NULL);
}
