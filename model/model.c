/* model.c - the order of operations of the transformer, once.
 *
 *   x = embedding[tokens]
 *   block: x_mid = x + W_o attention(rope(norm(q)), rope(norm(k)), v),  q,k,v = W_qkv rmsnorm(x)
 *          x'    = x_mid + W_down swiglu(W_gate_up rmsnorm(x_mid))
 *   losses = classifier(rmsnorm(x), head)
 *
 * W x is W x + alpha/rank B (A x) where W has an adapter (Hu et al. 2021), which only training knows: inference has them
 * merged into W.
 *
 * Training, scoring, activation recompute and decoding run the same block; they differ in where attention finds its
 * keys (Context) and in which activations have a buffer per layer (activations.h). */
#include "model/activations.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct PreparedWeights {
    Weight head;
    Weight *layer; /* (n_layers * W_PER_LAYER) */
};

/* Where the rows of a pass sit and where their attention finds keys: packed sequences, or pages when `pages` is set. */
typedef struct {
    const int32_t *positions;
    const int32_t *cu_seqlens;
    int n_seq, N;
    const PagedBatch *pages;
    size_t pool_layer_stride;
    const int64_t *slot;
} Context;

/* ---- open and close ---------------------------------------------------------------------------------------------- */

static Status upload_rope(Model *m, Err *err) {
    const int T = m->cfg.seq_len, half = m->cfg.head_dim / 2;
    const size_t element = dtype_size(dtype_real(m->dtype)), n = (size_t)T * (size_t)half * 2;
    m->rope = device_alloc(m->dev, n * element);
    void *host = try_calloc(n, element);
    if (!m->rope || !host) {
        free(host);
        return err_set(err, ERR_NOMEM, "no memory for rotations of %d positions (%.1f MiB): lower --seq-len", T,
                       (double)(n * element) / 1048576);
    }
    for (int i = 0; i < half; i++) {
        const double frequency = pow(m->cfg.rope_theta, -2.0 * i / m->cfg.head_dim);
        for (int t = 0; t < T; t++) {
            const size_t c = (size_t)t * 2 * (size_t)half + (size_t)i, s = c + (size_t)half;
            if (m->dtype == DTYPE_F64) {
                ((double *)host)[c] = cos(t * frequency);
                ((double *)host)[s] = sin(t * frequency);
            } else {
                ((float *)host)[c] = (float)cos(t * frequency);
                ((float *)host)[s] = (float)sin(t * frequency);
            }
        }
    }
    device_upload(m->dev, m->rope, host, n * element);
    free(host);
    return OK;
}

/* The largest b_wide, a_turned and gradient of b_wide of any matrix (AdapterBlocks). */
static Status open_adapters(Model *m, Err *err) {
    const LoraWidest most = lora_widest(&m->cfg);
    if (!most.width) return OK;
    const size_t b = (size_t)most.rows * (size_t)most.width, a = (size_t)most.cols * (size_t)most.width;
    m->b_wide = device_alloc(m->dev, b * dtype_size(m->dtype));
    m->a_turned = device_alloc(m->dev, a * dtype_size(m->dtype));
    m->db_wide = device_alloc(m->dev, b * dtype_size(dtype_real(m->dtype)));
    if (m->b_wide && m->a_turned && m->db_wide) return OK;
    return err_set(err, ERR_NOMEM, "%s has no memory for adapters: lower --lora-rank", device_name(m->dev));
}

Status model_open(Model *m, const ModelConfig *cfg, Device *dev, DType dtype, int64_t param_pad, Err *err) {
    *m = (Model){.cfg = *cfg, .dev = dev, .dtype = dtype, .kv_type = dtype, .graphs = 1};
    Status s = config_check(&m->cfg, err);
    if (s) return s;
    if (dtype != DTYPE_F64 && cfg->head_dim != 64 && cfg->head_dim != 128)
        return err_set(err, ERR_USAGE, "head_dim is %d; the %s kernels take 64 or 128", cfg->head_dim,
                       dtype_name(dtype));
    m->k = dtype == DTYPE_F32 || dtype == DTYPE_BF16 || dtype == DTYPE_F64 ? kernels_get(dev, dtype) : NULL;
    if (!m->k) return err_set(err, ERR_USAGE, "%s has no %s kernels", device_name(dev), dtype_name(dtype));
    if ((s = param_table_build(&m->table, &m->cfg, param_pad, err))) return s;
    const size_t bytes = (size_t)m->table.total * dtype_size(dtype);
    m->w_arena = device_alloc(dev, bytes);
    if (!m->w_arena)
        s = err_set(err, ERR_NOMEM, "%s has no memory for %.1f million parameters (%.1f MiB): choose a smaller model",
                    device_name(dev), (double)m->table.n_params * 1e-6, (double)bytes / 1048576);
    if (!s) s = params_bind(&m->w, &m->table, &m->cfg, m->w_arena, dtype, err);
    if (!s) s = upload_rope(m, err);
    if (!s) s = open_adapters(m, err);
    if (s) model_close(m);
    return s;
}

void model_close(Model *m) {
    if (m->prepared_weights) free(m->prepared_weights->layer);
    free(m->prepared_weights);
    if (m->prepared) device_free(m->dev, m->prepared);
    if (m->rope) device_free(m->dev, m->rope);
    void *of_adapters[] = {m->b_wide, m->a_turned, m->db_wide};
    for (int i = 0; i < 3; i++)
        if (of_adapters[i]) device_free(m->dev, of_adapters[i]);
    if (m->w_arena) device_free(m->dev, m->w_arena);
    params_unbind(&m->w);
    param_table_free(&m->table);
    *m = (Model){0};
}

/* To nearest, ties to even; what is not a number stays one. */
static uint16_t bf16_round(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if (isnan(x)) return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

void model_set_weights(Model *m, const float *host, int64_t begin, int64_t count) {
    enum { PIECE = 1 << 20 };
    REQUIRE(begin >= 0 && count >= 0 && count <= m->table.total - begin);
    const size_t element = dtype_size(m->dtype);
    char *to = (char *)m->w_arena + (size_t)begin * element;
    if (m->dtype == DTYPE_F32) {
        device_upload(m->dev, to, host, (size_t)count * element);
        return;
    }
    void *piece = xmalloc((size_t)(count < PIECE ? count : PIECE) * element + 1);
    for (int64_t at = 0; at < count; at += PIECE) {
        const int64_t n = count - at < PIECE ? count - at : PIECE;
        for (int64_t i = 0; i < n; i++)
            if (m->dtype == DTYPE_BF16) ((uint16_t *)piece)[i] = bf16_round(host[at + i]);
            else ((double *)piece)[i] = host[at + i];
        device_upload(m->dev, to + (size_t)at * element, piece, (size_t)n * element);
    }
    free(piece);
}

void model_init(Model *m, uint64_t seed) {
    enum { PIECE = 1 << 22 };
    float *host = xmalloc(PIECE * sizeof *host);
    for (int64_t at = 0; at < m->table.total; at += PIECE) {
        const int64_t n = m->table.total - at < PIECE ? m->table.total - at : PIECE;
        params_init_part(host, &m->table, &m->cfg, seed, at, n);
        model_set_weights(m, host, at, n);
    }
    free(host);
}

/* ---- weights as the kernels take them ---------------------------------------------------------------------------- */

static Weight plain_weight(const Model *m, int l, int which) {
    const ModelConfig *c = &m->cfg;
    const LayerParams *w = &m->w.layer[l];
    const int HD = c->n_heads * c->head_dim, GD = c->n_kv_heads * c->head_dim, C = c->d_model, F = c->d_ff;
    const Weight all[W_PER_LAYER] = {
        [W_QKV] = {.data = w->qkv, .dtype = m->dtype, .rows = HD + 2 * GD, .cols = C},
        [W_ATTN_OUT] = {.data = w->attn_out, .dtype = m->dtype, .rows = C, .cols = HD},
        [W_GATE_UP] = {.data = w->gate_up, .dtype = m->dtype, .rows = 2 * F, .cols = C},
        [W_DOWN] = {.data = w->down, .dtype = m->dtype, .rows = C, .cols = F},
    };
    return all[which];
}

static Weight plain_head(const Model *m) {
    return (Weight){.data = m->w.head, .dtype = m->dtype, .rows = m->cfg.vocab_padded, .cols = m->cfg.d_model};
}

static Weight layer_weight(const Model *m, int l, int which) {
    return m->prepared_weights ? m->prepared_weights->layer[l * W_PER_LAYER + which] : plain_weight(m, l, which);
}

static Weight head_weight(const Model *m) {
    return m->prepared_weights ? m->prepared_weights->head : plain_head(m);
}

static size_t prepared_bytes(const Model *m, const Weight *w, DType as) {
    return (m->k->weight_prepared_bytes(m->dev, w->rows, w->cols, as) + 255) / 256 * 256;
}

static Weight prepared_weight(Model *m, const Weight *w, DType as, char **at) {
    Weight out;
    m->k->weight_prepare(m->dev, &out, *at, as, w);
    *at += prepared_bytes(m, w, as);
    return out;
}

/* Beside narrower blocks the head is read in 16 bits, where float32 kernels can; never in 8: rare outcomes are its rows. */
static DType head_type(const Model *m, const Weight *head, DType weights) {
    const int narrower = dtype_size(weights) < dtype_size(m->dtype) && m->dtype == DTYPE_F32;
    return narrower && prepared_bytes(m, head, DTYPE_BF16) ? DTYPE_BF16 : m->dtype;
}

Status model_prepare(Model *m, DType weights, Err *err) {
    if (m->prepared_weights) return OK;
    const int n = m->cfg.n_layers * W_PER_LAYER;
    Weight head = plain_head(m);
    const DType of_head = head_type(m, &head, weights);
    size_t bytes = prepared_bytes(m, &head, of_head);
    for (int i = 0; i < n; i++) {
        Weight w = plain_weight(m, i / W_PER_LAYER, i % W_PER_LAYER);
        const size_t one = prepared_bytes(m, &w, weights);
        if (!one && weights != m->dtype)
            return err_set(err, ERR_USAGE, "%s does not multiply %s by weights in %s", device_name(m->dev),
                           dtype_name(m->dtype), dtype_name(weights));
        bytes += one;
    }
    if (!bytes) return OK; /* this backend multiplies by weights as they are */
    char *at = m->prepared = device_alloc(m->dev, bytes);
    if (!at)
        return err_set(err, ERR_NOMEM, "%s has no memory for %.1f MiB of packed weights", device_name(m->dev),
                       (double)bytes / 1048576);
    struct PreparedWeights *p = xcalloc(1, sizeof *p);
    p->layer = xcalloc((size_t)n, sizeof *p->layer);
    p->head = prepared_weight(m, &head, of_head, &at);
    for (int i = 0; i < n; i++) {
        Weight w = plain_weight(m, i / W_PER_LAYER, i % W_PER_LAYER);
        p->layer[i] = prepared_weight(m, &w, weights, &at);
    }
    m->prepared_weights = p;
    return OK;
}

double model_flops_per_token(const ModelConfig *cfg, double mean_context) {
    const double C = cfg->d_model, HD = (double)cfg->n_heads * cfg->head_dim,
                 GD = (double)cfg->n_kv_heads * cfg->head_dim;
    const double block = C * (HD + 2 * GD) + HD * C + 3 * C * (double)cfg->d_ff;
    const double head = C * cfg->vocab_size, attention = 6 * cfg->n_layers * HD * mean_context;
    if (!cfg->lora.rank) return 6 * (cfg->n_layers * block + head) + attention;
    double adapters = 0;
    for (int p = 0; p < LORA_PROJECTIONS; p++) {
        int rows, cols;
        lora_projection_shape(cfg, (LoraProjection)p, &rows, &cols);
        if (cfg->lora.targets >> p & 1) adapters += (double)cfg->lora.rank * (rows + cols);
    }
    return cfg->n_layers * (4 * block + 6 * adapters) + (cfg->lora.embeddings ? 6 : 4) * head + attention;
}

/* ---- adapters ---------------------------------------------------------------------------------------------------- */

static int has_adapter(const Model *m, int l, int which) {
    return m->w.layer[l].lora_a[which] != NULL;
}

/* The two factors of a matrix's adapters, as products take them; b_wide is made by adapter_spread. */
static AdapterBlocks adapter_of(const Model *m, int l, int which, Weight *a, Weight *b_wide) {
    LoraProjection names[ADAPTER_BLOCKS_MAX];
    const AdapterBlocks s = lora_blocks(&m->cfg, which, names);
    *a = (Weight){.data = m->w.layer[l].lora_a[which], .dtype = m->dtype, .rows = s.n * s.rank, .cols = s.cols};
    *b_wide = (Weight){.data = m->b_wide, .dtype = m->dtype, .rows = s.rows, .cols = s.n * s.rank};
    return s;
}

/* out += alpha/rank B (A inp) */
static void adapter_forward(Model *m, int l, int which, const PassActs *p, void *out, const void *inp, int N) {
    Weight a, b;
    if (!has_adapter(m, l, which)) return;
    const AdapterBlocks s = adapter_of(m, l, which, &a, &b);
    m->k->matmul_forward(m->dev, p->low, inp, &a, N);
    m->k->adapter_spread(m->dev, m->b_wide, NULL, a.data, m->w.layer[l].lora_b[which], &s);
    m->k->matmul_add_forward(m->dev, out, out, p->low, &b, N);
}

/* dinp += alpha/rank A^T (B^T dout); leaves B^T dout in dlow, for adapter_backward(). */
static void adapter_backward_input(Model *m, int l, int which, const PassActs *p, void *dinp, const void *dout, int N) {
    Weight a, b;
    if (!has_adapter(m, l, which)) return;
    const AdapterBlocks s = adapter_of(m, l, which, &a, &b);
    const Weight turned = {.data = m->a_turned, .dtype = m->dtype, .rows = a.cols, .cols = a.rows};
    m->k->adapter_spread(m->dev, m->b_wide, m->a_turned, a.data, m->w.layer[l].lora_b[which], &s);
    m->k->matmul_dgrad(m->dev, p->dlow, dout, &b, N);
    m->k->matmul_add_forward(m->dev, dinp, dinp, p->dlow, &turned, N);
}

/* Gradients of A and B, after adapter_backward_input(). */
static void adapter_backward(Model *m, int l, int which, const PassActs *p, const LayerParams *grad, const void *dout,
                             const void *inp, int N) {
    const KernelOps *k = m->k;
    Weight a, b;
    if (!has_adapter(m, l, which)) return;
    const AdapterBlocks s = adapter_of(m, l, which, &a, &b);
    if (grad->lora_b[which]) {
        k->matmul_forward(m->dev, p->low, inp, &a, N);
        device_zero(m->dev, m->db_wide, (size_t)b.rows * (size_t)b.cols * dtype_size(dtype_real(m->dtype)));
        k->matmul_wgrad(m->dev, m->db_wide, dout, p->low, N, b.rows, b.cols);
        k->adapter_gather(m->dev, grad->lora_b[which], m->db_wide, &s);
    }
    if (grad->lora_a[which]) k->matmul_wgrad(m->dev, grad->lora_a[which], p->dlow, inp, N, a.rows, a.cols);
}

/* ---- one block, forward ------------------------------------------------------------------------------------------ */

static void queries_and_keys(Model *m, int l, const LayerActs *a, const int32_t *positions, int N) {
    const ModelConfig *c = &m->cfg;
    const LayerParams *w = &m->w.layer[l];
    m->k->qk_norm_rope_forward(m->dev, a->qk, a->qk_rstd, a->qkv, w->q_norm, w->k_norm, positions, m->rope,
                               (float)c->rms_eps, N, c->n_heads, c->n_kv_heads, c->head_dim);
}

static void attention_half(Model *m, int l, const LayerActs *a, const PassActs *pass, const Context *ctx) {
    const KernelOps *k = m->k;
    const ModelConfig *c = &m->cfg;
    const LayerParams *w = &m->w.layer[l];
    const Weight w_qkv = layer_weight(m, l, W_QKV), w_out = layer_weight(m, l, W_ATTN_OUT);
    const int N = ctx->N, H = c->n_heads, G = c->n_kv_heads, D = c->head_dim;
    k->rmsnorm_forward(m->dev, pass->norm, a->attn_rstd, a->x, w->attn_norm, (float)c->rms_eps, N, c->d_model);
    k->matmul_forward(m->dev, a->qkv, pass->norm, &w_qkv, N);
    adapter_forward(m, l, W_QKV, pass, a->qkv, pass->norm, N);
    queries_and_keys(m, l, a, ctx->positions, N);
    if (ctx->pages) {
        PagedBatch pages = *ctx->pages;
        pages.pool = (char *)pages.pool + (size_t)l * ctx->pool_layer_stride;
        pages.pool_type = m->kv_type;
        k->kv_append(m->dev, pages.pool, m->kv_type, a->qk, a->qkv, ctx->slot, N, H, G, D);
        k->attention_paged(m->dev, a->attn, a->qk, &pages, N, H, G, D);
    } else {
        k->attention_forward(m->dev, a->attn, a->lse, a->qk, a->qkv, ctx->cu_seqlens, ctx->n_seq, N, H, G, D);
    }
    k->matmul_add_forward(m->dev, a->x_mid, a->x, a->attn, &w_out, N);
    adapter_forward(m, l, W_ATTN_OUT, pass, a->x_mid, a->attn, N);
}

/* x_out = NULL: recompute, where only what leads to it is needed. */
static void mlp_half(Model *m, int l, const LayerActs *a, const PassActs *pass, void *x_out, int N) {
    const Weight w_gate_up = layer_weight(m, l, W_GATE_UP), w_down = layer_weight(m, l, W_DOWN);
    m->k->rmsnorm_forward(m->dev, pass->norm, a->mlp_rstd, a->x_mid, m->w.layer[l].mlp_norm, (float)m->cfg.rms_eps, N,
                          m->cfg.d_model);
    if (has_adapter(m, l, W_GATE_UP)) {
        REQUIRE(a->gate_up);
        m->k->matmul_forward(m->dev, a->gate_up, pass->norm, &w_gate_up, N);
        adapter_forward(m, l, W_GATE_UP, pass, a->gate_up, pass->norm, N);
        m->k->swiglu_forward(m->dev, pass->act, a->gate_up, N, m->cfg.d_ff);
    } else {
        m->k->matmul_swiglu_forward(m->dev, pass->act, a->gate_up, pass->norm, &w_gate_up, N);
    }
    if (!x_out) return;
    m->k->matmul_add_forward(m->dev, x_out, a->x_mid, pass->act, &w_down, N);
    adapter_forward(m, l, W_DOWN, pass, x_out, pass->act, N);
}

static void blocks_forward(Model *m, Acts *a, const int32_t *tokens, const Context *ctx) {
    const int C = m->cfg.d_model, L = m->cfg.n_layers;
    m->k->embedding_forward(m->dev, a->layer[0].x, tokens, m->w.embedding, ctx->N, C);
    for (int l = 0; l < L; l++) {
        attention_half(m, l, &a->layer[l], &a->pass, ctx);
        mlp_half(m, l, &a->layer[l], &a->pass, a->layer[l + 1].x, ctx->N);
    }
    m->k->rmsnorm_forward(m->dev, a->pass.hidden, a->pass.final_rstd, a->layer[L].x, m->w.final_norm,
                          (float)m->cfg.rms_eps, ctx->N, C);
}

/* ---- training and scoring ---------------------------------------------------------------------------------------- */

static Context packed_context(const Acts *a) {
    return (Context){.positions = acts_batch(a, BATCH_POSITIONS),
                     .cu_seqlens = acts_batch(a, BATCH_CU_SEQLENS),
                     .n_seq = a->shape.n_seq,
                     .N = a->shape.rows};
}

void model_forward(Model *m, Acts *a) {
    if (device_error(m->dev)) return;
    acts_take(a);
    REQUIRE(a->shape.n_seq > 0);
    const Context ctx = packed_context(a);
    blocks_forward(m, a, acts_batch(a, BATCH_TOKENS), &ctx);
}

/* Before a bucket of the gradient is first written: where gradients lend their memory, activations were in it. */
static void gradient_begin(Model *m, const Acts *a, const Params *grad, int bucket) {
    const int64_t *offset = m->table.bucket_offset;
    const size_t real = dtype_size(dtype_real(m->dtype)), bytes = real * (size_t)(offset[bucket + 1] - offset[bucket]);
    if (!a->lender || !bytes) return;
    REQUIRE((char *)grad->embedding == a->lender + real * (size_t)m->table.spec[0].offset);
    device_zero(m->dev, a->lender + real * (size_t)offset[bucket], bytes);
}

void model_loss(Model *m, Acts *a, Params *grad) {
    if (device_error(m->dev)) return;
    REQUIRE(a->shape.targets && (!grad || a->training));
    const Weight head = head_weight(m);
    if (grad) gradient_begin(m, a, grad, m->cfg.tied ? 0 : m->cfg.n_layers + 1);
    void *dhead = grad ? params_top_trainable(grad, &m->table).head : NULL;
    m->k->classifier(m->dev, a->pass.losses, grad ? a->pass.dnorm : NULL, dhead, a->pass.hidden, &head,
                     acts_batch(a, BATCH_TARGET_LO), acts_batch(a, BATCH_TARGET_HI), a->shape.rows, m->cfg.vocab_size);
}

/* Restores what forward did not keep, but for what is rebuilt where it is used: the norm's output in front of the
 * attention, queries and keys, and the product of SwiGLU. */
static void recompute(Model *m, Acts *a, int l) {
    const LayerActs *la = &a->layer[l];
    const int N = a->shape.rows;
    if (a->recompute == RECOMPUTE_BLOCK) {
        const Context ctx = packed_context(a);
        attention_half(m, l, la, &a->pass, &ctx);
    }
    if (a->recompute != RECOMPUTE_NONE) mlp_half(m, l, la, &a->pass, NULL, N);
    else
        m->k->rmsnorm_forward(m->dev, a->pass.norm, la->mlp_rstd, la->x_mid, m->w.layer[l].mlp_norm,
                              (float)m->cfg.rms_eps, N, m->cfg.d_model);
}

/* dx holds the gradient of the block's output and, since the residual passes it on unchanged, of x_mid as well.
 * Products give the gradient of what they read first: SwiGLU needs it to rebuild its product in the same pass. */
static void mlp_backward(Model *m, Acts *a, int l, const LayerParams *grad) {
    const KernelOps *k = m->k;
    const LayerActs *la = &a->layer[l];
    const PassActs *p = &a->pass;
    const Weight w_gate_up = layer_weight(m, l, W_GATE_UP), w_down = layer_weight(m, l, W_DOWN);
    const int N = a->shape.rows, C = m->cfg.d_model, F = m->cfg.d_ff;
    k->matmul_dgrad(m->dev, p->act, p->dx, &w_down, N);
    adapter_backward_input(m, l, W_DOWN, p, p->act, p->dx, N);
    k->swiglu_backward(m->dev, la->gate_up, p->act, p->act, la->gate_up, N, F);
    if (grad->down) k->matmul_wgrad(m->dev, grad->down, p->dx, p->act, N, C, F);
    adapter_backward(m, l, W_DOWN, p, grad, p->dx, p->act, N);
    k->matmul_dgrad(m->dev, p->dnorm, la->gate_up, &w_gate_up, N);
    adapter_backward_input(m, l, W_GATE_UP, p, p->dnorm, la->gate_up, N);
    if (grad->gate_up) k->matmul_wgrad(m->dev, grad->gate_up, la->gate_up, p->norm, N, 2 * F, C);
    adapter_backward(m, l, W_GATE_UP, p, grad, la->gate_up, p->norm, N);
    k->rmsnorm_backward(m->dev, p->dx, grad->mlp_norm, p->dnorm, la->x_mid, m->w.layer[l].mlp_norm, la->mlp_rstd, N, C);
}

static void attention_half_backward(Model *m, Acts *a, int l, const LayerParams *grad) {
    const KernelOps *k = m->k;
    const ModelConfig *c = &m->cfg;
    const LayerParams *w = &m->w.layer[l];
    const LayerActs *la = &a->layer[l];
    const PassActs *p = &a->pass;
    const Weight w_qkv = layer_weight(m, l, W_QKV), w_out = layer_weight(m, l, W_ATTN_OUT);
    const int N = a->shape.rows, C = c->d_model, H = c->n_heads, G = c->n_kv_heads, D = c->head_dim;
    k->matmul_dgrad(m->dev, p->dattn, p->dx, &w_out, N);
    adapter_backward_input(m, l, W_ATTN_OUT, p, p->dattn, p->dx, N);
    if (grad->attn_out) k->matmul_wgrad(m->dev, grad->attn_out, p->dx, la->attn, N, C, H * D);
    adapter_backward(m, l, W_ATTN_OUT, p, grad, p->dx, la->attn, N);
    queries_and_keys(m, l, la, acts_batch(a, BATCH_POSITIONS), N);
    k->attention_backward(m->dev, la->dqk, la->dqkv, p->dattn, la->qk, la->qkv, la->attn, la->lse,
                          acts_batch(a, BATCH_CU_SEQLENS), a->shape.n_seq, N, H, G, D);
    k->qk_norm_rope_backward(m->dev, la->dqkv, grad->q_norm, grad->k_norm, la->dqk, la->qkv, w->q_norm, w->k_norm,
                             la->qk_rstd, acts_batch(a, BATCH_POSITIONS), m->rope, N, H, G, D);
    k->matmul_dgrad(m->dev, p->dnorm, la->dqkv, &w_qkv, N);
    adapter_backward_input(m, l, W_QKV, p, p->dnorm, la->dqkv, N);
    if (grad->qkv || has_adapter(m, l, W_QKV))
        k->rmsnorm_forward(m->dev, p->norm, la->attn_rstd, la->x, w->attn_norm, (float)c->rms_eps, N, C);
    if (grad->qkv) k->matmul_wgrad(m->dev, grad->qkv, la->dqkv, p->norm, N, (H + 2 * G) * D, C);
    adapter_backward(m, l, W_QKV, p, grad, la->dqkv, p->norm, N);
    k->rmsnorm_backward(m->dev, p->dx, grad->attn_norm, p->dnorm, la->x, w->attn_norm, la->attn_rstd, N, C);
}

void model_backward(Model *m, Acts *a, Params *grad, BucketReady bucket_ready, void *ctx) {
    if (device_error(m->dev)) return;
    REQUIRE(a->training && !m->prepared_weights);
    const int N = a->shape.rows, C = m->cfg.d_model, L = m->cfg.n_layers;
    const Params top = params_top_trainable(grad, &m->table);
    if (m->cfg.tied) gradient_begin(m, a, grad, L + 1);
    device_zero(m->dev, a->pass.dx, (size_t)N * (size_t)C * dtype_size(m->dtype));
    m->k->rmsnorm_backward(m->dev, a->pass.dx, top.final_norm, a->pass.dnorm, a->layer[L].x, m->w.final_norm,
                           a->pass.final_rstd, N, C);
    if (bucket_ready) bucket_ready(ctx, L + 1);
    for (int l = L - 1; l >= 0; l--) {
        const LayerParams layer_grad = params_layer_trainable(grad, &m->table, l);
        recompute(m, a, l);
        gradient_begin(m, a, grad, l + 1);
        mlp_backward(m, a, l, &layer_grad);
        attention_half_backward(m, a, l, &layer_grad);
        if (bucket_ready) bucket_ready(ctx, l + 1);
    }
    if (!m->cfg.tied) gradient_begin(m, a, grad, 0);
    if (top.embedding)
        m->k->embedding_backward(m->dev, top.embedding, a->pass.dx, acts_batch(a, BATCH_TOKENS), N, C,
                                 m->cfg.vocab_size);
    if (bucket_ready) bucket_ready(ctx, 0);
}

/* ---- inference --------------------------------------------------------------------------------------------------- */

void model_decode(Model *m, Acts *a, const int32_t *tokens, const int32_t *positions, const int64_t *slot,
                  const PagedBatch *pages, size_t pool_layer_stride, int N) {
    REQUIRE(N >= 1 && N <= a->N);
    a->shape = (BatchShape){.rows = N};
    const Context ctx = {
        .positions = positions, .N = N, .pages = pages, .pool_layer_stride = pool_layer_stride, .slot = slot};
    blocks_forward(m, a, tokens, &ctx);
}

void model_logits(Model *m, Acts *a, void *logits, const int32_t *rows, int n_rows) {
    if (device_error(m->dev)) return;
    REQUIRE(n_rows >= 1 && n_rows <= a->N && (rows || n_rows <= a->shape.rows));
    const Weight head = head_weight(m);
    const void *hidden = a->pass.hidden;
    if (rows) { /* a gather is an embedding look-up */
        m->k->embedding_forward(m->dev, a->pass.norm, rows, hidden, n_rows, m->cfg.d_model);
        hidden = a->pass.norm;
    }
    m->k->logits_forward(m->dev, logits, hidden, &head, n_rows);
}
