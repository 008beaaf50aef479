/* params.c - the parameter table is built here, row by row, in the order of the forward pass; everything else walks it.
 */
#include "model/params.h"
#include "kernels/philox.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGN = 16, ROWS_PER_LAYER = 8 + 2 * W_PER_LAYER };

static int64_t round_up(int64_t x, int64_t to) {
    return (x + to - 1) / to * to;
}

/* ---- table ------------------------------------------------------------------------------------------------------- */

/* Adds one row; slices are given as "name", rows pairs by add_slice afterwards. */
static ParamSpec *add(ParamTable *t, int layer, int bucket, size_t field, const char *name, int64_t rows, int64_t cols,
                      InitKind init) {
    ParamSpec *s = &t->spec[t->n++];
    if (layer < 0)
        snprintf(s->name, sizeof s->name, "%s", name);
    else
        snprintf(s->name, sizeof s->name, "layers.%d.%s", layer, name);
    s->layer = layer;
    s->bucket = bucket;
    s->field = field;
    s->rows = s->file_rows = rows;
    s->cols = cols;
    s->ndim = init == INIT_ONE ? 1 : 2;
    s->init = init;
    s->decay = init != INIT_ONE; /* matrices decay, norm weights do not */
    s->trainable = 1;
    s->count = rows * cols;
    return s;
}

static void add_slice(ParamSpec *s, const char *hf_name, int64_t rows) {
    REQUIRE(s->n_slices < PARAM_SLICES_MAX);
    char *name = s->slice_name[s->n_slices];
    const char *prefix = s->init >= INIT_LORA_A ? "base_model.model." : "";
    if (s->layer < 0)
        snprintf(name, sizeof s->slice_name[0], "%s", hf_name);
    else
        snprintf(name, sizeof s->slice_name[0], "%smodel.layers.%d.%s", prefix, s->layer, hf_name);
    s->slice_rows[s->n_slices++] = rows;
}

static void add_vector(ParamTable *t, int layer, int bucket, size_t field, const char *name, const char *hf_name,
                       int64_t n) {
    add_slice(add(t, layer, bucket, field, name, n, 1, INIT_ONE), hf_name, n);
}

/* The adapters of one matrix, as peft names them. */
static void add_adapter(ParamTable *t, const ModelConfig *cfg, int l, int matrix, const char *name) {
    LoraProjection which[ADAPTER_BLOCKS_MAX];
    const AdapterBlocks b = lora_blocks(cfg, matrix, which);
    int height = 0;
    char text[32], slice[64];
    if (!b.n) return;
    for (int i = 0; i < b.n; i++) height += b.height[i];
    snprintf(text, sizeof text, "%s.lora_a", name);
    const size_t a_field = offsetof(LayerParams, lora_a) + (size_t)matrix * sizeof(void *);
    ParamSpec *s = add(t, l, l + 1, a_field, text, b.n * b.rank, b.cols, INIT_LORA_A);
    for (int i = 0; i < b.n; i++) {
        snprintf(slice, sizeof slice, "%s.lora_A.weight", lora_projection_module(which[i]));
        add_slice(s, slice, b.rank);
    }
    snprintf(text, sizeof text, "%s.lora_b", name);
    const size_t b_field = offsetof(LayerParams, lora_b) + (size_t)matrix * sizeof(void *);
    s = add(t, l, l + 1, b_field, text, height, b.rank, INIT_LORA_B);
    for (int i = 0; i < b.n; i++) {
        snprintf(slice, sizeof slice, "%s.lora_B.weight", lora_projection_module(which[i]));
        add_slice(s, slice, b.height[i]);
    }
}

static void add_block(ParamTable *t, const ModelConfig *cfg, int l) {
    const int64_t C = cfg->d_model, F = cfg->d_ff, D = cfg->head_dim, HD = cfg->n_heads * D, GD = cfg->n_kv_heads * D;
    ParamSpec *s;
    add_vector(t, l, l + 1, offsetof(LayerParams, attn_norm), "attn_norm", "input_layernorm.weight", C);
    s = add(t, l, l + 1, offsetof(LayerParams, qkv), "attn.qkv", HD + 2 * GD, C, INIT_NORMAL);
    add_slice(s, "self_attn.q_proj.weight", HD);
    add_slice(s, "self_attn.k_proj.weight", GD);
    add_slice(s, "self_attn.v_proj.weight", GD);
    add_vector(t, l, l + 1, offsetof(LayerParams, q_norm), "attn.q_norm", "self_attn.q_norm.weight", D);
    add_vector(t, l, l + 1, offsetof(LayerParams, k_norm), "attn.k_norm", "self_attn.k_norm.weight", D);
    s = add(t, l, l + 1, offsetof(LayerParams, attn_out), "attn.out", C, HD, INIT_NORMAL_RESIDUAL);
    add_slice(s, "self_attn.o_proj.weight", C);
    add_vector(t, l, l + 1, offsetof(LayerParams, mlp_norm), "mlp_norm", "post_attention_layernorm.weight", C);
    s = add(t, l, l + 1, offsetof(LayerParams, gate_up), "mlp.gate_up", 2 * F, C, INIT_NORMAL);
    add_slice(s, "mlp.gate_proj.weight", F);
    add_slice(s, "mlp.up_proj.weight", F);
    s = add(t, l, l + 1, offsetof(LayerParams, down), "mlp.down", C, F, INIT_NORMAL_RESIDUAL);
    add_slice(s, "mlp.down_proj.weight", C);
    add_adapter(t, cfg, l, W_QKV, "attn.qkv");
    add_adapter(t, cfg, l, W_ATTN_OUT, "attn.out");
    add_adapter(t, cfg, l, W_GATE_UP, "mlp.gate_up");
    add_adapter(t, cfg, l, W_DOWN, "mlp.down");
}

static void add_vocabulary_matrix(ParamTable *t, const ModelConfig *cfg, int bucket, size_t field, const char *name,
                                  const char *hf_name) {
    ParamSpec *s = add(t, -1, bucket, field, name, cfg->vocab_padded, cfg->d_model, INIT_NORMAL);
    s->file_rows = cfg->vocab_size;
    add_slice(s, hf_name, cfg->vocab_size);
}

/* With adapters the rest is frozen, but for the vocabulary's matrices if they are asked for: peft then saves them whole, under
 * its own prefix. */
static void freeze(ParamTable *t, const LoraConfig *lora) {
    for (int i = 0; i < t->n; i++) {
        ParamSpec *s = &t->spec[i];
        const int vocabulary = s->layer < 0 && s->ndim == 2;
        s->trainable = s->init >= INIT_LORA_A || (vocabulary && lora->embeddings);
        if (!vocabulary || !s->trainable) continue;
        char *name = xstrdup(s->slice_name[0]);
        snprintf(s->slice_name[0], sizeof s->slice_name[0], "base_model.model.%s", name);
        free(name);
    }
}

/* Offsets: rows 16 elements apart at least, buckets a multiple of `pad`, frozen rows behind them. */
static void lay_out(ParamTable *t, int64_t pad) {
    int64_t at = 0;
    int bucket = 0;
    for (int i = 0; i < t->n; i++) {
        ParamSpec *s = &t->spec[i];
        for (; bucket < s->bucket; t->bucket_offset[bucket] = at) {
            at = round_up(at, pad);
            bucket++;
        }
        t->n_params += s->file_rows * s->cols;
        if (!s->trainable) continue;
        s->offset = at;
        at = round_up(at + s->count, ALIGN);
        t->n_trainable += s->file_rows * s->cols;
    }
    REQUIRE(bucket == t->n_buckets - 1);
    at = t->trained = t->bucket_offset[t->n_buckets] = round_up(at, pad);
    for (int i = 0; i < t->n; i++) {
        ParamSpec *s = &t->spec[i];
        if (s->trainable) continue;
        s->offset = at;
        at = round_up(at + s->count, ALIGN);
    }
    t->total = at;
}

Status param_table_build(ParamTable *table, const ModelConfig *cfg, int64_t pad, Err *err) {
    *table = (ParamTable){0};
    if (pad < 1 || pad > 1 << 24) return err_set(err, ERR_USAGE, "parameter padding of %lld elements", (long long)pad);
    ModelConfig checked = *cfg;
    Status status = config_check(&checked, err);
    if (status) return status;
    const int L = cfg->n_layers;
    table->spec = xcalloc((size_t)(ROWS_PER_LAYER * L + 3), sizeof *table->spec);
    table->n_buckets = L + 2;
    table->bucket_offset = xcalloc((size_t)(L + 3), sizeof *table->bucket_offset);
    add_vocabulary_matrix(table, &checked, 0, offsetof(Params, embedding), "embedding", "model.embed_tokens.weight");
    for (int l = 0; l < L; l++) add_block(table, &checked, l);
    add_vector(table, -1, L + 1, offsetof(Params, final_norm), "final_norm", "model.norm.weight", cfg->d_model);
    if (!cfg->tied) add_vocabulary_matrix(table, &checked, L + 1, offsetof(Params, head), "head", "lm_head.weight");
    table->adapter = checked.lora.rank > 0;
    if (table->adapter) freeze(table, &checked.lora);
    lay_out(table, round_up(pad, ALIGN));
    return OK;
}

void param_table_free(ParamTable *table) {
    free(table->spec);
    free(table->bucket_offset);
    *table = (ParamTable){0};
}

int param_find(const ParamTable *table, const char *name) {
    for (int i = 0; i < table->n; i++)
        if (!strcmp(table->spec[i].name, name)) return i;
    return -1;
}

/* ---- pointers ---------------------------------------------------------------------------------------------------- */

static void set_pointer(void *base, size_t field, void *value) {
    memcpy((char *)base + field, &value, sizeof value);
}

Status params_bind(Params *p, const ParamTable *table, const ModelConfig *cfg, void *arena, DType t, Err *err) {
    *p = (Params){0};
    p->layer = try_calloc((size_t)cfg->n_layers, sizeof *p->layer);
    if (!p->layer) return err_set(err, ERR_NOMEM, "no memory for the pointers of %d layers", cfg->n_layers);
    for (int i = 0; i < table->n; i++) {
        const ParamSpec *s = &table->spec[i];
        void *at = (char *)arena + (size_t)s->offset * dtype_size(t);
        set_pointer(s->layer < 0 ? (void *)p : (void *)&p->layer[s->layer], s->field, at);
    }
    if (cfg->tied) p->head = p->embedding;
    return OK;
}

void params_unbind(Params *p) {
    free(p->layer);
    *p = (Params){0};
}

LayerParams params_layer_trainable(const Params *p, const ParamTable *table, int layer) {
    LayerParams out = p->layer[layer];
    for (int i = 0; i < table->n; i++)
        if (table->spec[i].layer == layer && !table->spec[i].trainable) set_pointer(&out, table->spec[i].field, NULL);
    return out;
}

Params params_top_trainable(const Params *p, const ParamTable *table) {
    Params out = *p;
    const int tied = p->head == p->embedding;
    for (int i = 0; i < table->n; i++)
        if (table->spec[i].layer < 0 && !table->spec[i].trainable) set_pointer(&out, table->spec[i].field, NULL);
    if (tied) out.head = out.embedding;
    return out;
}

/* ---- initialization ---------------------------------------------------------------------------------------------- */

/* Two normal deviates a Philox block (Box and Muller 1958); 1 - u keeps the logarithm finite. */
static void normal_pair(uint64_t key, uint64_t block, double out[2]) {
    Philox4 r = philox4x32(key, block, 0);
    double radius = sqrt(-2 * log(1 - philox_uniform(r, 0))), angle = 6.283185307179586 * philox_uniform(r, 1);
    out[0] = radius * cos(angle);
    out[1] = radius * sin(angle);
}

/* Elements [from, from + count) of a parameter; from is even. */
static void init_normal(float *out, int64_t from, int64_t count, uint64_t key, double std) {
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < count; i += 2) {
        double z[2];
        normal_pair(key, (uint64_t)(from + i) / 2, z);
        out[i] = (float)(std * z[0]);
        if (i + 1 < count) out[i + 1] = (float)(std * z[1]);
    }
}

void params_init_part(float *host, const ParamTable *table, const ModelConfig *cfg, uint64_t seed, int64_t begin,
                      int64_t count) {
    REQUIRE(begin % 2 == 0);
    memset(host, 0, (size_t)count * sizeof *host);
    for (int i = 0; i < table->n; i++) {
        const ParamSpec *s = &table->spec[i];
        /* Padded rows stay zero. */
        int64_t from = begin - s->offset, to = begin + count - s->offset;
        if (from < 0) from = 0;
        if (to > s->file_rows * s->cols) to = s->file_rows * s->cols;
        if (from >= to) continue;
        float *out = host + (s->offset + from - begin);
        double std = cfg->init_std;
        if (s->init == INIT_NORMAL_RESIDUAL) std /= sqrt(2.0 * cfg->n_layers);
        if (s->init == INIT_LORA_A) std = 1 / sqrt(3.0 * (double)s->cols);
        if (s->init == INIT_LORA_B) continue;
        if (s->init == INIT_ONE)
            for (int64_t k = 0; k < to - from; k++) out[k] = 1;
        else
            init_normal(out, from, to - from, philox_mix(seed, philox_hash(s->name)), std);
    }
}

void params_init(float *host_arena, const ParamTable *table, const ModelConfig *cfg, uint64_t seed) {
    params_init_part(host_arena, table, cfg, seed, 0, table->total);
}
