/* activations.c - see activations.h. */
#include "model/activations.h"
#include <stdlib.h>
#include <string.h>

typedef enum { OF_TABLE, OF_REAL, OF_INT32 } Element;
enum { KEEP_ALWAYS = RECOMPUTE_BLOCK + 1, ONE_BUFFER = RECOMPUTE_NONE };

typedef struct {
    const char *name;
    size_t field; /* in LayerActs or PassActs */
    int of_layer;
    Element element;
    int c, hd, gd, f, h, g, one; /* columns per token = c*C + hd*H*D + gd*G*D + f*F + h*H + g*G + one */
    int drop_at;                 /* first recompute level that shares one buffer between layers */
    int training;                /* 1: only there when training; 2: or when there are adapters */
    int lora;                    /* columns as wide as the adapters of a matrix */
} ActRow;

#define LAYER(field) #field, offsetof(LayerActs, field), 1
#define PASS(field) #field, offsetof(PassActs, field), 0

/* clang-format off */
static const ActRow ROWS[] = {
    /*                            C  HD GD F  H  G  1  shared from     training, adapters */
    {LAYER(x),          OF_TABLE, 1, 0, 0, 0, 0, 0, 0, KEEP_ALWAYS,     0, 0},
    {LAYER(attn_rstd),  OF_REAL,  0, 0, 0, 0, 0, 0, 1, RECOMPUTE_BLOCK, 1, 0},
    {LAYER(qkv),        OF_TABLE, 0, 1, 2, 0, 0, 0, 0, RECOMPUTE_BLOCK, 0, 0},
    {LAYER(qk),         OF_TABLE, 0, 1, 1, 0, 0, 0, 0, ONE_BUFFER,      0, 0},
    {LAYER(qk_rstd),    OF_REAL,  0, 0, 0, 0, 1, 1, 0, ONE_BUFFER,      1, 0},
    {LAYER(attn),       OF_TABLE, 0, 1, 0, 0, 0, 0, 0, RECOMPUTE_BLOCK, 0, 0},
    {LAYER(lse),        OF_REAL,  0, 0, 0, 0, 1, 0, 0, RECOMPUTE_BLOCK, 1, 0},
    {LAYER(x_mid),      OF_TABLE, 1, 0, 0, 0, 0, 0, 0, RECOMPUTE_BLOCK, 0, 0},
    {LAYER(mlp_rstd),   OF_REAL,  0, 0, 0, 0, 0, 0, 1, RECOMPUTE_BLOCK, 1, 0},
    {LAYER(gate_up),    OF_TABLE, 0, 0, 0, 2, 0, 0, 0, RECOMPUTE_MLP,   2, 0},
    {PASS(norm),        OF_TABLE, 1, 0, 0, 0, 0, 0, 0, ONE_BUFFER,      0, 0},
    {PASS(act),         OF_TABLE, 0, 0, 0, 1, 0, 0, 0, ONE_BUFFER,      0, 0},
    {PASS(hidden),      OF_TABLE, 1, 0, 0, 0, 0, 0, 0, ONE_BUFFER,      0, 0},
    {PASS(final_rstd),  OF_REAL,  0, 0, 0, 0, 0, 0, 1, ONE_BUFFER,      1, 0},
    {PASS(losses),      OF_REAL,  0, 0, 0, 0, 0, 0, 1, ONE_BUFFER,      0, 0},
    {PASS(batch),       OF_INT32, 0, 0, 0, 0, 0, 0, 5, ONE_BUFFER,      0, 0},
    {PASS(incoming),    OF_INT32, 0, 0, 0, 0, 0, 0, 5, ONE_BUFFER,      0, 0},
    {PASS(dx),          OF_TABLE, 1, 0, 0, 0, 0, 0, 0, ONE_BUFFER,      1, 0},
    {PASS(dnorm),       OF_TABLE, 1, 0, 0, 0, 0, 0, 0, ONE_BUFFER,      1, 0},
    {PASS(dattn),       OF_TABLE, 0, 1, 0, 0, 0, 0, 0, ONE_BUFFER,      1, 0},
    {PASS(dqk),         OF_TABLE, 0, 1, 1, 0, 0, 0, 0, ONE_BUFFER,      1, 0},
    {PASS(dqkv),        OF_TABLE, 0, 1, 2, 0, 0, 0, 0, ONE_BUFFER,      1, 0},
    {PASS(low),         OF_TABLE, 0, 0, 0, 0, 0, 0, 0, ONE_BUFFER,      0, 1},
    {PASS(dlow),        OF_TABLE, 0, 0, 0, 0, 0, 0, 0, ONE_BUFFER,      1, 1},
};
/* clang-format on */
enum { N_ROWS = sizeof ROWS / sizeof *ROWS };

/* ---- sizes ------------------------------------------------------------------------------------------------------- */

static int64_t columns(const ActRow *r, const ModelConfig *cfg) {
    const int64_t D = cfg->head_dim, H = cfg->n_heads, G = cfg->n_kv_heads;
    return r->c * (int64_t)cfg->d_model + r->hd * H * D + r->gd * G * D + r->f * (int64_t)cfg->d_ff + r->h * H +
           r->g * G + r->one + (r->lora ? lora_widest(cfg).width : 0);
}

/* cu_seqlens has N + 1 entries; rows of the batch start 256 bytes apart at least. */
size_t batch_stride(int N) {
    return ((size_t)N + 1 + 63) / 64 * 64;
}

DType dtype_real(DType t) {
    return t == DTYPE_F64 ? DTYPE_F64 : DTYPE_F32;
}

/* How many of a row there are: one a layer where it is kept for backward, otherwise one. */
static int copies(const ActRow *r, const ModelConfig *cfg, int training, Recompute level) {
    if (r->training && !training && !(r->training == 2 && cfg->lora.rank)) return 0;
    if (!training || (int)level >= r->drop_at) return 1;
    return r->drop_at == KEEP_ALWAYS ? cfg->n_layers + 1 : cfg->n_layers;
}

static size_t copy_bytes(const ActRow *r, const ModelConfig *cfg, DType t, int N) {
    const size_t element = dtype_size(r->element == OF_INT32 ? DTYPE_I32 : r->element == OF_TABLE ? t : dtype_real(t));
    const size_t rows = r->element == OF_INT32 ? batch_stride(N) : (size_t)N;
    return (element * (size_t)columns(r, cfg) * rows + 255) / 256 * 256;
}

size_t acts_bytes(const ModelConfig *cfg, DType t, int N, int training, Recompute recompute) {
    size_t sum = 0;
    for (int i = 0; i < N_ROWS; i++)
        sum += (size_t)copies(&ROWS[i], cfg, training, recompute) * copy_bytes(&ROWS[i], cfg, t, N);
    return sum;
}

void acts_report(const ModelConfig *cfg, DType t, int N, int training, Recompute recompute, FILE *out) {
    fprintf(out, "  %-12s %14s %8s %12s\n", "activation", "columns/token", "copies", "MiB");
    for (int i = 0; i < N_ROWS; i++) {
        int n = copies(&ROWS[i], cfg, training, recompute);
        if (!n || !columns(&ROWS[i], cfg)) continue;
        fprintf(out, "  %-12s %14lld %8d %12.2f\n", ROWS[i].name, (long long)columns(&ROWS[i], cfg), n,
                (double)n * (double)copy_bytes(&ROWS[i], cfg, t, N) / 1048576);
    }
    fprintf(out, "  %-12s %14s %8s %12.2f\n", "all", "", "",
            (double)acts_bytes(cfg, t, N, training, recompute) / 1048576);
}

/* ---- allocation -------------------------------------------------------------------------------------------------- */

static void set_pointer(void *base, size_t field, char *value) {
    memcpy((char *)base + field, &value, sizeof value);
}

static void bind(Acts *a, const ModelConfig *cfg, DType t) {
    char *at = a->arena;
    for (int i = 0; i < N_ROWS; i++) {
        const ActRow *r = &ROWS[i];
        const int n = copies(r, cfg, a->training, a->recompute);
        const size_t bytes = copy_bytes(r, cfg, t, a->N);
        if (n && !r->of_layer) set_pointer(&a->pass, r->field, at);
        for (int l = 0; n && r->of_layer && l <= cfg->n_layers; l++)
            if (l < cfg->n_layers || r->drop_at == KEEP_ALWAYS)
                set_pointer(&a->layer[l], r->field, n == 1 ? at : at + (size_t)l * bytes);
        at += (size_t)n * bytes;
    }
}

/* Scratch grows with the number of sequences, and N sequences of one token are possible but never seen: their scratch
 * would be larger than all activations.  One in 16 tokens is generous; a batch that needs more grows it. */
static KernelLimits limits_of(const ModelConfig *cfg, int N) {
    return (KernelLimits){.N = N,
                          .C = cfg->d_model,
                          .F = cfg->d_ff,
                          .Vp = cfg->vocab_padded,
                          .H = cfg->n_heads,
                          .G = cfg->n_kv_heads,
                          .D = cfg->head_dim,
                          .n_seq = N < 16 ? N : N / 16 + 8};
}

size_t acts_scratch_bytes(const ModelConfig *cfg, Device *dev, const KernelOps *k, int N) {
    const KernelLimits limits = limits_of(cfg, N);
    return k->workspace_bytes(dev, &limits);
}

Status acts_open(Acts **out, const Model *m, int N, int training, Recompute recompute, Err *err) {
    *out = NULL;
    const ModelConfig *cfg = &m->cfg;
    if (N < 1 || N > 1 << 24)
        return err_set(err, ERR_USAGE, "%d tokens a pass; between 1 and %d are possible", N, 1 << 24);
    const size_t bytes = acts_bytes(cfg, m->dtype, N, training, recompute);
    Acts *a = xcalloc(1, sizeof *a);
    *a = (Acts){.dev = m->dev, .N = N, .n_layers = cfg->n_layers, .training = training, .recompute = recompute};
    a->limits = limits_of(cfg, N);
    a->records = m->graphs && device_kind(m->dev) == DEVICE_CUDA;
    const size_t scratch = m->k->workspace_bytes(m->dev, &a->limits);
    a->layer = xcalloc((size_t)cfg->n_layers + 1, sizeof *a->layer);
    for (int i = 0; i < 2; i++) {
        a->staging[i] = device_host_alloc(m->dev, BATCH_ROWS * batch_stride(N) * sizeof(int32_t));
        a->recording[i].segment = xcalloc((size_t)cfg->n_layers + 2, sizeof *a->recording[i].segment);
    }
    a->arena = device_alloc(m->dev, bytes);
    if (!a->staging[0] || !a->staging[1] || !a->arena || device_reserve(m->dev, scratch)) {
        acts_close(a);
        return err_set(err, ERR_NOMEM,
                       "%s has no memory for %.1f MiB of activations and %.1f MiB of scratch (%d tokens a pass): lower "
                       "--micro-batch or --seq-len%s",
                       device_name(m->dev), (double)bytes / 1048576, (double)scratch / 1048576, N,
                       training && recompute != RECOMPUTE_BLOCK ? ", or use --recompute block" : "");
    }
    bind(a, cfg, m->dtype);
    *out = a;
    return OK;
}

int acts_reserve(Acts *a, const Model *m, int n_seq) {
    if (n_seq <= a->limits.n_seq) return 0;
    KernelLimits limits = a->limits;
    limits.n_seq = n_seq;
    if (device_reserve(m->dev, m->k->workspace_bytes(m->dev, &limits))) return -1;
    a->limits = limits;
    return 0;
}

void acts_close(Acts *a) {
    if (!a) return;
    for (int i = 0; i < 2; i++) {
        recording_free(a, &a->recording[i]);
        free(a->recording[i].segment);
        device_host_free(a->dev, a->staging[i]);
    }
    device_free(a->dev, a->arena);
    free(a->layer);
    free(a);
}

const int32_t *acts_batch(const Acts *a, int row) {
    return a->pass.batch + (size_t)row * batch_stride(a->N);
}

const void *acts_losses(const Acts *a) {
    return a->pass.losses;
}

const void *acts_hidden(const Acts *a) {
    return a->pass.hidden;
}

const void *acts_embedded(const Acts *a) {
    return a->layer[0].x;
}

void *acts_hidden_gradient(Acts *a) {
    REQUIRE(a->training);
    return a->pass.dnorm;
}

const void *acts_embedded_gradient(const Acts *a) {
    REQUIRE(a->training);
    return a->pass.dx;
}
