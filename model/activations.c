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
    const char *host;            /* the row in whose memory it lies where it fits: never are both alive */
} ActRow;

#define LAYER(field) #field, offsetof(LayerActs, field), 1
#define PASS(field) #field, offsetof(PassActs, field), 0

/* clang-format off */
static const ActRow ROWS[] = {
    /*                            C  HD GD F  H  G  1  shared from     training, adapters, lies in */
    {LAYER(x),          OF_TABLE, 1, 0, 0, 0, 0, 0, 0, KEEP_ALWAYS,     0, 0, NULL},
    {LAYER(attn_rstd),  OF_REAL,  0, 0, 0, 0, 0, 0, 1, RECOMPUTE_BLOCK, 1, 0, NULL},
    {LAYER(qkv),        OF_TABLE, 0, 1, 2, 0, 0, 0, 0, RECOMPUTE_BLOCK, 0, 0, NULL},
    {LAYER(qk),         OF_TABLE, 0, 1, 1, 0, 0, 0, 0, ONE_BUFFER,      0, 0, "act"},
    {LAYER(qk_rstd),    OF_REAL,  0, 0, 0, 0, 1, 1, 0, ONE_BUFFER,      1, 0, "act"},
    {LAYER(attn),       OF_TABLE, 0, 1, 0, 0, 0, 0, 0, RECOMPUTE_BLOCK, 0, 0, NULL},
    {LAYER(lse),        OF_REAL,  0, 0, 0, 0, 1, 0, 0, RECOMPUTE_BLOCK, 1, 0, NULL},
    {LAYER(x_mid),      OF_TABLE, 1, 0, 0, 0, 0, 0, 0, RECOMPUTE_BLOCK, 0, 0, NULL},
    {LAYER(mlp_rstd),   OF_REAL,  0, 0, 0, 0, 0, 0, 1, RECOMPUTE_BLOCK, 1, 0, NULL},
    {LAYER(gate_up),    OF_TABLE, 0, 0, 0, 2, 0, 0, 0, RECOMPUTE_MLP,   2, 0, NULL},
    {LAYER(dqk),        OF_TABLE, 0, 1, 1, 0, 0, 0, 0, ONE_BUFFER,      1, 0, "gate_up"},
    {LAYER(dqkv),       OF_TABLE, 0, 1, 2, 0, 0, 0, 0, ONE_BUFFER,      1, 0, "gate_up"},
    {PASS(norm),        OF_TABLE, 1, 0, 0, 0, 0, 0, 0, ONE_BUFFER,      0, 0, NULL},
    {PASS(act),         OF_TABLE, 0, 0, 0, 1, 0, 0, 0, ONE_BUFFER,      0, 0, NULL},
    {PASS(hidden),      OF_TABLE, 1, 0, 0, 0, 0, 0, 0, ONE_BUFFER,      0, 0, "dx"},
    {PASS(final_rstd),  OF_REAL,  0, 0, 0, 0, 0, 0, 1, ONE_BUFFER,      1, 0, NULL},
    {PASS(losses),      OF_REAL,  0, 0, 0, 0, 0, 0, 1, ONE_BUFFER,      0, 0, NULL},
    {PASS(batch),       OF_INT32, 0, 0, 0, 0, 0, 0, 5, ONE_BUFFER,      0, 0, NULL},
    {PASS(incoming),    OF_INT32, 0, 0, 0, 0, 0, 0, 5, ONE_BUFFER,      0, 0, NULL},
    {PASS(dx),          OF_TABLE, 1, 0, 0, 0, 0, 0, 0, ONE_BUFFER,      1, 0, NULL},
    {PASS(dnorm),       OF_TABLE, 1, 0, 0, 0, 0, 0, 0, ONE_BUFFER,      1, 0, NULL},
    {PASS(dattn),       OF_TABLE, 0, 1, 0, 0, 0, 0, 0, ONE_BUFFER,      1, 0, "norm"},
    {PASS(low),         OF_TABLE, 0, 0, 0, 0, 0, 0, 0, ONE_BUFFER,      0, 1, NULL},
    {PASS(dlow),        OF_TABLE, 0, 0, 0, 0, 0, 0, 0, ONE_BUFFER,      1, 1, NULL},
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

/* A copy a layer: what layer l keeps is read last in block l's backward. */
static int kept(const ActRow *r, int training, Recompute level) {
    return r->of_layer && training && (int)level < r->drop_at;
}

/* How many of a row there are: one a layer where it is kept for backward, otherwise one. */
static int copies(const ActRow *r, const ModelConfig *cfg, int training, Recompute level) {
    if (r->training && !training && !(r->training == 2 && cfg->lora.rank)) return 0;
    if (!kept(r, training, level)) return 1;
    return r->drop_at == KEEP_ALWAYS ? cfg->n_layers + 1 : cfg->n_layers;
}

static size_t copy_bytes(const ActRow *r, const ModelConfig *cfg, DType t, int N) {
    const size_t element = dtype_size(r->element == OF_INT32 ? DTYPE_I32 : r->element == OF_TABLE ? t : dtype_real(t));
    const size_t rows = r->element == OF_INT32 ? batch_stride(N) : (size_t)N;
    return (element * (size_t)columns(r, cfg) * rows + 255) / 256 * 256;
}

/* ---- places ------------------------------------------------------------------------------------------------------ */

static void set_pointer(void *base, size_t field, char *value) {
    memcpy((char *)base + field, &value, sizeof value);
}

/* Bytes [bottom, top) of the gradients that no activations lie in yet. */
typedef struct {
    size_t bottom, top;
} Vacant;

/* All that is written once the backward pass has come to the blocks: neither the head's gradient, which the loss writes,
 * nor the final norm's, for which the last block's output is read. */
static Vacant vacant_all(const ModelConfig *cfg, const ParamTable *lender, DType t) {
    const size_t real = dtype_size(dtype_real(t));
    if (!lender) return (Vacant){0, 0};
    return (Vacant){real * (size_t)lender->bucket_offset[cfg->tied],
                    real * (size_t)lender->bucket_offset[cfg->n_layers + 1]};
}

/* Buckets are written from the last to the first, each when its block's backward begins: what layer l keeps may lie in
 * those below block l's own; x of layer L, the last block's output, in those below the final norm's. */
static void vacant_below_block(Vacant *v, const ParamTable *lender, DType t, int l) {
    const size_t own = lender ? dtype_size(dtype_real(t)) * (size_t)lender->bucket_offset[l + 1] : 0;
    if (v->top > own) v->top = own;
}

static int vacant_take(Vacant *v, size_t bytes) {
    if (v->top < v->bottom + bytes) return 0;
    const size_t at = (v->top - bytes) / 256 * 256;
    if (at < v->bottom) return 0;
    v->top = at;
    return 1;
}

static const ActRow *host_of(const ActRow *guest) {
    for (int i = 0; guest->host && i < N_ROWS; i++)
        if (!strcmp(ROWS[i].name, guest->host)) return &ROWS[i];
    return NULL;
}

/* Where a row lies in its host's memory, behind guests that come before it in the table; -1: in a place of its own. */
static int64_t guest_offset(const ActRow *guest, const ModelConfig *cfg, DType t, int N, int training) {
    const ActRow *host = host_of(guest);
    size_t used = 0;
    if (!host || !copies(host, cfg, training, RECOMPUTE_NONE)) return -1;
    for (int i = 0; i < N_ROWS; i++) {
        const ActRow *r = &ROWS[i];
        if (host_of(r) != host || !copies(r, cfg, training, RECOMPUTE_NONE)) continue;
        const int fits = used + copy_bytes(r, cfg, t, N) <= copy_bytes(host, cfg, t, N);
        if (r == guest) return fits ? (int64_t)used : -1;
        if (fits) used += copy_bytes(r, cfg, t, N);
    }
    return -1;
}

static void *fields_of(Acts *a, const ActRow *r, int l) {
    return r->of_layer ? (void *)&a->layer[l] : (void *)&a->pass;
}

static void guests_bind(Acts *a, const ModelConfig *cfg, DType t) {
    for (int i = 0; i < N_ROWS; i++) {
        const ActRow *r = &ROWS[i], *host = host_of(r);
        const int64_t offset = guest_offset(r, cfg, t, a->N, a->training);
        char *at;
        for (int l = 0; offset >= 0 && l < cfg->n_layers; l++) {
            memcpy(&at, (char *)fields_of(a, host, l) + host->field, sizeof at);
            set_pointer(fields_of(a, r, l), r->field, at + offset);
        }
    }
}

typedef struct {
    size_t own, lent; /* bytes */
} Taken;

/* Finds a place for every copy of every row, in the lender's memory if there is one and room in it; with `a`, sets the
 * pointers.  The last layer comes first: it has the widest choice and takes what others cannot. */
static Taken lay_out(const ModelConfig *cfg, const ParamTable *lender, DType t, int N, int training, Recompute level,
                     Acts *a) {
    const int L = cfg->n_layers;
    Vacant v = vacant_all(cfg, lender, t);
    Taken taken = {0, 0};
    for (int l = L; l >= 0; l--) {
        vacant_below_block(&v, lender, t, l);
        for (int i = 0; i < N_ROWS; i++) {
            const ActRow *r = &ROWS[i];
            const size_t bytes = copy_bytes(r, cfg, t, N);
            if (!kept(r, training, level) || (l == L && r->drop_at != KEEP_ALWAYS)) continue;
            const int lent = vacant_take(&v, bytes);
            if (a) set_pointer(&a->layer[l], r->field, lent ? a->lender + v.top : (char *)a->arena + taken.own);
            *(lent ? &taken.lent : &taken.own) += bytes;
        }
    }
    for (int i = 0; i < N_ROWS; i++) {
        const ActRow *r = &ROWS[i];
        if (kept(r, training, level) || !copies(r, cfg, training, level)) continue;
        if (guest_offset(r, cfg, t, N, training) >= 0) continue;
        for (int l = 0; a && l < L + (r->drop_at == KEEP_ALWAYS); l++)
            set_pointer(fields_of(a, r, l), r->field, (char *)a->arena + taken.own);
        taken.own += copy_bytes(r, cfg, t, N);
    }
    if (a) guests_bind(a, cfg, t);
    return taken;
}

size_t acts_bytes(const ModelConfig *cfg, DType t, int N, int training, Recompute recompute) {
    return lay_out(cfg, NULL, t, N, training, recompute, NULL).own;
}

size_t acts_lent_bytes(const ModelConfig *cfg, const ParamTable *lender, DType t, int N, Recompute recompute) {
    return lay_out(cfg, lender, t, N, 1, recompute, NULL).lent;
}

void acts_report(const ModelConfig *cfg, const ParamTable *lender, DType t, int N, int training, Recompute recompute,
                 FILE *out) {
    const double MIB = 1048576;
    fprintf(out, "  %-12s %14s %8s %12s\n", "activation", "columns/token", "copies", "MiB");
    for (int i = 0; i < N_ROWS; i++) {
        const ActRow *r = &ROWS[i];
        const int n = copies(r, cfg, training, recompute);
        if (!n || !columns(r, cfg)) continue;
        fprintf(out, "  %-12s %14lld ", r->name, (long long)columns(r, cfg));
        if (guest_offset(r, cfg, t, N, training) >= 0) fprintf(out, "%8s   in %s\n", "", r->host);
        else fprintf(out, "%8d %12.2f\n", n, (double)n * (double)copy_bytes(r, cfg, t, N) / MIB);
    }
    const Taken taken = lay_out(cfg, lender, t, N, training, recompute, NULL);
    fprintf(out, "  %-12s %14s %8s %12.2f\n", "all", "", "", (double)(taken.own + taken.lent) / MIB);
    if (lender) fprintf(out, "  %-36s %12.2f\n", "of these in memory of gradients", (double)taken.lent / MIB);
}

/* ---- allocation -------------------------------------------------------------------------------------------------- */

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

static Status open_with(Acts **out, const Model *m, int N, int training, Recompute recompute, void *grad, Err *err) {
    *out = NULL;
    const ModelConfig *cfg = &m->cfg;
    if (N < 1 || N > 1 << 24)
        return err_set(err, ERR_USAGE, "%d tokens a pass; between 1 and %d are possible", N, 1 << 24);
    const ParamTable *lender = grad ? &m->table : NULL;
    const size_t bytes = lay_out(cfg, lender, m->dtype, N, training, recompute, NULL).own;
    Acts *a = xcalloc(1, sizeof *a);
    *a = (Acts){.dev = m->dev, .N = N, .n_layers = cfg->n_layers, .training = training, .recompute = recompute,
                .lender = grad};
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
    lay_out(cfg, lender, m->dtype, N, training, recompute, a);
    *out = a;
    return OK;
}

Status acts_open(Acts **out, const Model *m, int N, int training, Recompute recompute, Err *err) {
    return open_with(out, m, N, training, recompute, NULL, err);
}

Status acts_open_lent(Acts **out, const Model *m, int N, Recompute recompute, void *grad, Err *err) {
    REQUIRE(grad);
    return open_with(out, m, N, 1, recompute, grad, err);
}

int acts_lent(const Acts *a) {
    return a->lender != NULL;
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
