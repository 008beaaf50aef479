/* test_lending.c - activations in the memory of gradients: no row that is still to be read lies where a gradient is
 * written, and losses, gradients and weights have the bits they have without. */
#include "model/activations.h"
#include "tests/model_check.h"

/* ---- places ------------------------------------------------------------------------------------------------------ */

/* The order of a step with L layers: the forward pass of block l is moment l + 1, then come the loss, the final norm's
 * backward, the blocks' from the last to the first, and the embedding's. */
static int at_loss(int L) { return L + 1; }
static int at_final_norm(int L) { return L + 2; }
static int at_backward(int L, int l) { return L + 3 + (L - 1 - l); }
static int at_embedding(int L) { return 2 * L + 3; }

/* When a bucket of the gradient is first written; from then on it is needed. */
static int bucket_moment(const Model *m, int bucket) {
    const int L = m->cfg.n_layers;
    if (bucket == 0) return m->cfg.tied ? at_loss(L) : at_embedding(L);
    if (bucket == L + 1) return m->cfg.tied ? at_final_norm(L) : at_loss(L);
    return at_backward(L, bucket - 1);
}

typedef struct {
    const char *name;
    int layer, last_read;
    const char *at;
    size_t bytes;
} Row;
enum { LAYERS_MAX = 5, ROWS_MAX = 9 * (LAYERS_MAX + 1) };

static void add(Row *row, int *n, const char *name, int layer, int last_read, const void *at, size_t bytes) {
    assert_true(*n < ROWS_MAX);
    row[(*n)++] = (Row){name, layer, last_read, at, bytes};
}

/* What a level keeps of every layer. */
static int kept_rows(const Acts *a, const Model *m, Row *row) {
    const ModelConfig *c = &m->cfg;
    const int L = c->n_layers, HD = c->n_heads * c->head_dim, GD = c->n_kv_heads * c->head_dim;
    const size_t N = (size_t)a->N, element = N * dtype_size(m->dtype), real = N * dtype_size(dtype_real(m->dtype));
    int n = 0;
    for (int l = 0; l <= L; l++) {
        const LayerActs *la = &a->layer[l];
        const int read = l < L ? at_backward(L, l) : at_final_norm(L);
        add(row, &n, "x", l, read, la->x, element * (size_t)c->d_model);
        if (l == L || a->recompute == RECOMPUTE_BLOCK) continue;
        add(row, &n, "attn_rstd", l, read, la->attn_rstd, real);
        add(row, &n, "qkv", l, read, la->qkv, element * (size_t)(HD + 2 * GD));
        add(row, &n, "attn", l, read, la->attn, element * (size_t)HD);
        add(row, &n, "lse", l, read, la->lse, real * (size_t)c->n_heads);
        add(row, &n, "x_mid", l, read, la->x_mid, element * (size_t)c->d_model);
        add(row, &n, "mlp_rstd", l, read, la->mlp_rstd, real);
        if (a->recompute == RECOMPUTE_NONE)
            add(row, &n, "gate_up", l, read, la->gate_up, element * 2 * (size_t)c->d_ff);
    }
    return n;
}

static int meet(const char *a, size_t a_bytes, const char *b, size_t b_bytes) {
    return a < b + b_bytes && b < a + a_bytes;
}

/* All of them are alive when the loss is computed, so they lie apart; where a bucket is, only those that have been read
 * for the last time when it is written.  Buffers of the pass do not lie in gradients; test_guests is about guests. */
static size_t check_places(const Acts *a, const Model *m, const char *grad) {
    Row row[ROWS_MAX];
    const int n = kept_rows(a, m, row);
    const size_t real = dtype_size(dtype_real(m->dtype)), trained = real * (size_t)m->table.trained;
    size_t lent = 0;
    for (int i = 0; i < n; i++) {
        const Row *r = &row[i];
        assert_true((uintptr_t)r->at % 256 == 0);
        for (int k = 0; k < i; k++)
            if (meet(r->at, r->bytes, row[k].at, row[k].bytes))
                fail_msg("%s of layer %d and %s of layer %d share memory", r->name, r->layer, row[k].name,
                         row[k].layer);
        if (!meet(r->at, r->bytes, grad, trained)) continue;
        assert_true(r->at >= grad && r->at + r->bytes <= grad + trained);
        lent += (r->bytes + 255) / 256 * 256;
        for (int b = 0; b < m->table.n_buckets; b++) {
            const int64_t *offset = &m->table.bucket_offset[b];
            const size_t bytes = real * (size_t)(offset[1] - offset[0]);
            if (meet(r->at, r->bytes, grad + real * (size_t)offset[0], bytes) && r->last_read >= bucket_moment(m, b))
                fail_msg("%s of layer %d is read at %d and lies in bucket %d, which is written at %d", r->name,
                         r->layer, r->last_read, b, bucket_moment(m, b));
        }
    }
    const char *const *shared = (const char *const *)&a->pass;
    for (size_t i = 0; i < sizeof a->pass / sizeof *shared; i++) assert_false(meet(shared[i], 1, grad, trained));
    return lent;
}

/* Lending reaches as far as it can: as if rows could be cut anywhere, but for one row and the alignment of all. */
static void check_amount(const Acts *a, const Model *m, size_t lent) {
    Row row[ROWS_MAX];
    const int n = kept_rows(a, m, row), L = m->cfg.n_layers;
    const double real = (double)dtype_size(dtype_real(m->dtype));
    const double bottom = real * (double)m->table.bucket_offset[m->cfg.tied];
    double largest = 0, most = 0, top = INFINITY;
    for (int l = L; l >= 0; l--) {
        double bytes = 0;
        for (int i = 0; i < n; i++) {
            if (row[i].layer == l) bytes += (double)row[i].bytes;
            largest = fmax(largest, (double)row[i].bytes);
        }
        top = fmin(top, real * (double)m->table.bucket_offset[l + 1]);
        bytes = fmin(bytes, top - bottom);
        top -= bytes;
        most += bytes;
    }
    assert_true((double)lent >= most - largest - 256.0 * n);
    assert_int_equal(lent, acts_lent_bytes(&m->cfg, &m->table, m->dtype, a->N, a->recompute));
}

static void check_config(Device *dev, const ModelConfig *cfg, DType dtype, int64_t pad) {
    static const int rows[] = {1, 20, 300};
    Err err = {OK, ""};
    Model m;
    if (model_open(&m, cfg, dev, dtype, pad, &err)) fail_msg("%s", err.msg);
    char *grad = device_alloc(dev, (size_t)m.table.trained * dtype_size(dtype_real(dtype)));
    assert_non_null(grad);
    for (int i = 0; i < 3; i++)
        for (int level = RECOMPUTE_NONE; level <= RECOMPUTE_BLOCK; level++) {
            Acts *a;
            if (acts_open_lent(&a, &m, rows[i], (Recompute)level, grad, &err)) fail_msg("%s", err.msg);
            assert_true(acts_lent(a));
            const size_t lent = check_places(a, &m, grad);
            check_amount(a, &m, lent);
            acts_close(a);
        }
    device_free(dev, grad);
    model_close(&m);
}

static void test_places(void **state) {
    (void)state;
    static const int layers[] = {1, 2, LAYERS_MAX};
    static const LoraConfig adapters[] = {{.rank = 0},
                                          {.rank = 4, .targets = LORA_ALL, .alpha = 8},
                                          {.rank = 4, .targets = LORA_ALL, .alpha = 8, .embeddings = 1}};
    Device *dev = open_device(1);
    for (int i = 0; i < 3; i++)
        for (int tied = 0; tied < 2; tied++)
            for (int l = 0; l < 3; l++)
                for (int ranks = 1; ranks <= 7; ranks += 6) {
                    ModelConfig wide = WIDE, tiny = TINY;
                    wide.tied = tiny.tied = tied;
                    wide.n_layers = tiny.n_layers = layers[l];
                    wide.lora = tiny.lora = adapters[i];
                    check_config(dev, &wide, DTYPE_F32, 16 * ranks);
                    check_config(dev, &tiny, DTYPE_F64, 16 * ranks);
                }
    device_close(dev);
}

/* What happens to block l's rows in the order of a pass. */
enum {
    NORM_F = 1 << 0, /* up to the product that makes qkv */
    ATTN_F = 1 << 1,
    MLP_F = 1 << 2,
    LOSS = 1 << 3,
    FINAL = 1 << 4, /* the final norm's backward */
    AGAIN = 1 << 5, /* the attention once more, at level block */
    MLP_B = 1 << 6,
    ATTN_B = 1 << 7, /* up to attention_backward */
    QKV_B = 1 << 8,
    BLOCK_B = AGAIN | MLP_B | ATTN_B | QKV_B,
    EVER = (QKV_B << 1) - 1
};
typedef struct {
    const char *name, *at;
    size_t columns;
    int alive; /* when its content is made, read, or kept for later */
} Life;

/* No two rows that are alive at the same time share memory, whatever lies in whatever. */
static int check_lives(const Acts *a, const Model *m, int l) {
    const ModelConfig *c = &m->cfg;
    const LayerActs *la = &a->layer[l];
    const PassActs *p = &a->pass;
    const size_t C = (size_t)c->d_model, F = (size_t)c->d_ff, H = (size_t)c->n_heads, G = (size_t)c->n_kv_heads;
    const size_t HD = H * (size_t)c->head_dim, GD = G * (size_t)c->head_dim;
    const size_t column = (size_t)a->N * dtype_size(m->dtype);
    const int kept = a->recompute == RECOMPUTE_NONE;
    const Life life[] = {
        {"x", la->x, C, EVER},
        {"qkv", la->qkv, HD + 2 * GD, EVER},
        {"attn", la->attn, HD, EVER},
        {"x_mid", la->x_mid, C, EVER},
        {"attn_rstd", la->attn_rstd, 1, EVER},
        {"mlp_rstd", la->mlp_rstd, 1, EVER},
        {"lse", la->lse, H, EVER},
        {"qk", la->qk, HD + GD, ATTN_F | AGAIN | ATTN_B},
        {"qk_rstd", la->qk_rstd, H + G, ATTN_F | AGAIN | ATTN_B | QKV_B},
        {"gate_up", la->gate_up, 2 * F, kept ? MLP_F | LOSS | FINAL | AGAIN | MLP_B : MLP_F | MLP_B},
        {"dqk", la->dqk, HD + GD, ATTN_B | QKV_B},
        {"dqkv", la->dqkv, HD + 2 * GD, ATTN_B | QKV_B},
        {"norm", p->norm, C, NORM_F | MLP_F | AGAIN | MLP_B | QKV_B},
        {"act", p->act, F, MLP_F | MLP_B},
        {"hidden", p->hidden, C, LOSS},
        {"final_rstd", p->final_rstd, 1, LOSS | FINAL},
        {"losses", p->losses, 1, EVER},
        {"dx", p->dx, C, FINAL | BLOCK_B},
        {"dnorm", p->dnorm, C, LOSS | FINAL | MLP_B | QKV_B},
        {"dattn", p->dattn, HD, ATTN_B},
        {"last x", a->layer[c->n_layers].x, C, LOSS | FINAL},
    };
    enum { LIVES = sizeof life / sizeof *life };
    Row row[ROWS_MAX];
    const int n = kept_rows(a, m, row);
    int shared = 0;
    for (int i = 0; i < LIVES; i++) {
        for (int k = 0; k < n; k++)
            if (row[k].layer != l && row[k].at != life[i].at &&
                meet(life[i].at, life[i].columns * column, row[k].at, row[k].bytes))
                fail_msg("%s of layer %d lies in %s of layer %d", life[i].name, l, row[k].name, row[k].layer);
        for (int k = 0; k < i; k++) {
            const Life *one = &life[i], *other = &life[k];
            if (!meet(one->at, one->columns * column, other->at, other->columns * column)) continue;
            if (one->alive & other->alive) fail_msg("%s and %s of layer %d share memory", one->name, other->name, l);
            shared++;
        }
    }
    return shared;
}

/* With room for all six guests: qk and qk_rstd in act, dqk and dqkv in gate_up, hidden in dx, dattn in norm. */
static void test_guests(void **state) {
    (void)state;
    const ModelConfig *const shape[] = {&TINY, &WIDE, &ROOMY};
    static const int rows[] = {1, 20, 300};
    Device *dev = open_device(1);
    for (int i = 0; i < 3; i++)
        for (int n = 0; n < 3; n++)
            for (int level = RECOMPUTE_NONE; level <= RECOMPUTE_BLOCK; level++)
                for (int lent = 0; lent < 2; lent++) {
                    Err err = {OK, ""};
                    Model m;
                    Params grad;
                    Acts *a;
                    open_model(&m, dev, shape[i], 1, DTYPE_F64);
                    void *arena = open_grad(&m, &grad);
                    if (lent ? acts_open_lent(&a, &m, rows[n], (Recompute)level, arena, &err)
                             : acts_open(&a, &m, rows[n], 1, (Recompute)level, &err))
                        fail_msg("%s", err.msg);
                    for (int l = 0; l < m.cfg.n_layers; l++) {
                        const int shared = check_lives(a, &m, l);
                        if (shape[i] == &ROOMY && rows[n] == 300) assert_int_equal(shared, 6);
                    }
                    acts_close(a);
                    close_grad(&m, &grad, arena);
                    model_close(&m);
                }
    device_close(dev);
}

/* ---- bits -------------------------------------------------------------------------------------------------------- */

/* Two passes over batches of different lengths, the second with an evaluation before it; *grad holds NaN first. */
typedef struct {
    void *losses[2], *grad[2];
} Passes;

static Passes run_passes(Model *m, Batch b[2], Recompute level, int lent) {
    Err err = {OK, ""};
    Passes out;
    Params grad;
    Acts *a;
    void *arena = open_grad(m, &grad);
    const size_t bytes = (size_t)m->table.trained * real_size(m);
    if (lent ? acts_open_lent(&a, m, b[0].N, level, arena, &err) : acts_open(&a, m, b[0].N, 1, level, &err))
        fail_msg("%s", err.msg);
    if (lent) memset(arena, 0xff, bytes);
    for (int i = 0; i < 2; i++) {
        if (!lent) device_zero(m->dev, arena, bytes);
        if (i) free(losses(m, a, &b[0]));
        model_upload(m, a, &b[i]);
        model_pass(m, a, &grad, NULL, NULL);
        out.losses[i] = download(m, acts_losses(a), (size_t)b[i].N * real_size(m));
        out.grad[i] = download(m, arena, bytes);
    }
    acts_close(a);
    close_grad(m, &grad, arena);
    return out;
}

static void free_passes(Passes *p) {
    for (int i = 0; i < 2; i++) {
        free(p->losses[i]);
        free(p->grad[i]);
    }
}

static void check_same_bits(const ModelConfig *shape, int tied, DType dtype, const int *length, int n) {
    Model m;
    Device *dev = open_device(2);
    open_model(&m, dev, shape, tied, dtype);
    Batch b[2] = {make_batch(length, n, 70, 5), make_batch(length, n - 1, 70, 6)};
    Passes plain = run_passes(&m, b, RECOMPUTE_NONE, 0);
    for (int level = RECOMPUTE_NONE; level <= RECOMPUTE_BLOCK; level++) {
        Passes lent = run_passes(&m, b, (Recompute)level, 1);
        for (int i = 0; i < 2; i++) {
            assert_memory_equal(lent.losses[i], plain.losses[i], (size_t)b[i].N * real_size(&m));
            assert_memory_equal(lent.grad[i], plain.grad[i], (size_t)m.table.trained * real_size(&m));
        }
        free_passes(&lent);
    }
    free_passes(&plain);
    for (int i = 0; i < 2; i++) free_batch(&b[i]);
    model_close(&m);
    device_close(dev);
}

/* Few rows, which all fit into gradients but the first layer's, and many, which fill them. */
static void test_same_bits(void **state) {
    (void)state;
    static const int few[] = {9, 3, 8}, many[] = {150, 3, 70};
    for (int tied = 0; tied < 2; tied++) {
        ModelConfig wide = WIDE, tiny = TINY;
        wide.n_layers = tiny.n_layers = 4;
        check_same_bits(&tiny, tied, DTYPE_F64, few, 3);
        check_same_bits(&ROOMY, tied, DTYPE_F64, few, 3);
        check_same_bits(&wide, tied, DTYPE_F32, few, 3);
        check_same_bits(&wide, tied, DTYPE_F32, many, 3);
    }
}

static void test_same_bits_with_adapters(void **state) {
    (void)state;
    static const int length[] = {30, 3, 70};
    for (int embeddings = 0; embeddings < 2; embeddings++)
        for (int tied = 0; tied < 2; tied++) {
            ModelConfig wide = WIDE;
            wide.n_layers = 4;
            wide.lora = (LoraConfig){.rank = 16, .targets = LORA_ALL, .alpha = 8, .embeddings = embeddings};
            check_same_bits(&wide, tied, DTYPE_F32, length, 3);
        }
}

/* A bucket is whole when it is announced, and later passes of the step's backward leave it alone. */
typedef struct {
    Model *m;
    const char *arena;
    char *then;
} BucketLog;

static void on_bucket(void *ctx, int bucket) {
    BucketLog *log = ctx;
    const size_t real = real_size(log->m), at = real * (size_t)log->m->table.bucket_offset[bucket];
    const size_t end = real * (size_t)log->m->table.bucket_offset[bucket + 1];
    device_download(log->m->dev, log->then + at, log->arena + at, end - at);
}

static void test_announced_buckets(void **state) {
    (void)state;
    static const int length[] = {60, 40};
    Device *dev = open_device(2);
    for (int tied = 0; tied < 2; tied++) {
        Err err = {OK, ""};
        Model m;
        Params grad;
        Acts *a;
        open_model(&m, dev, &WIDE, tied, DTYPE_F32);
        Batch b = make_batch(length, 2, 70, 9);
        const size_t bytes = (size_t)m.table.trained * 4;
        BucketLog log = {.m = &m, .arena = open_grad(&m, &grad), .then = xcalloc(bytes, 1)};
        if (acts_open_lent(&a, &m, b.N, RECOMPUTE_NONE, (void *)log.arena, &err)) fail_msg("%s", err.msg);
        model_upload(&m, a, &b);
        model_pass(&m, a, &grad, on_bucket, &log);
        check_device(dev);
        assert_memory_equal(log.then, log.arena, bytes);
        free(log.then);
        acts_close(a);
        close_grad(&m, &grad, (void *)log.arena);
        free_batch(&b);
        model_close(&m);
    }
    device_close(dev);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_places),
        cmocka_unit_test(test_guests),
        cmocka_unit_test(test_same_bits),
        cmocka_unit_test(test_same_bits_with_adapters),
        cmocka_unit_test(test_announced_buckets),
    };
    return cmocka_run_group_tests_name("lending", tests, NULL, NULL);
}
