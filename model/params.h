/* params.h - what the parameters are.  One row per parameter drives allocation, initialization, weight decay, freezing,
 * sharding, checkpoints, export, gradient check and the parameter count.  No code elsewhere lists them. */
#ifndef EHR_MODEL_PARAMS_H
#define EHR_MODEL_PARAMS_H
#include "kernels/device.h"
#include "model/base.h"
#include "model/lora.h"

/* residual: std / sqrt(2 * n_layers).  A and B of adapters: of A, what peft draws has the same variance, 1 / (3 cols); B is
 * zero, so that training starts from the parent. */
typedef enum { INIT_ONE, INIT_NORMAL, INIT_NORMAL_RESIDUAL, INIT_LORA_A, INIT_LORA_B } InitKind;

enum { PARAM_SLICES_MAX = 3 };
typedef struct {
    char name[64]; /* in messages: "layers.3.attn.qkv" */
    int layer;     /* -1: not inside a block */
    int ndim;
    int64_t rows, cols; /* in memory; cols = 1 for vectors */
    int64_t file_rows;  /* rows that exist in files: vocab_size where rows = vocab_padded */
    InitKind init;
    int decay;      /* weight decay applies */
    int trainable;  /* 0: no gradient, no moments, no update */
    int bucket;     /* gradient communication unit: 0 embedding, 1..L blocks, L+1 final norm and untied head */
    size_t field;   /* where its pointer lies: offset in LayerParams, or in Params outside blocks */
    int64_t offset; /* first element in the arena; a multiple of 16 */
    int64_t count;  /* rows * cols */
    /* The Hugging Face tensors are row slices: slice s holds slice_rows[s] rows under slice_name[s]. */
    int n_slices;
    char slice_name[PARAM_SLICES_MAX][96]; /* "model.layers.3.self_attn.q_proj.weight" */
    int64_t slice_rows[PARAM_SLICES_MAX];
} ParamSpec;

typedef struct {
    int n;
    ParamSpec *spec;
    int n_buckets;
    int64_t *bucket_offset; /* (n_buckets+1) elements; every bucket is a multiple of `pad` elements long */
    int64_t total;          /* elements of the arena, padding included */
    int64_t trained;        /* of these, the buckets: gradients and moments are so long.  What is frozen from the start
                               (everything but adapters) lies behind them */
    int adapter;            /* checkpoints hold what is trained alone, as peft's adapter_model.safetensors */
    int64_t n_params;       /* elements in files */
    int64_t n_trainable;
} ParamTable;

/* Pointers into one arena, named for model.c; the same struct serves weights and gradients. */
typedef struct {
    void *attn_norm;       /* (C) */
    void *qkv;             /* ((H+2G)*D, C) */
    void *q_norm, *k_norm; /* (D) */
    void *attn_out;        /* (C, H*D) */
    void *mlp_norm;        /* (C) */
    void *gate_up;         /* (2F, C) */
    void *down;            /* (C, F) */
    void *lora_a[W_PER_LAYER], *lora_b[W_PER_LAYER]; /* AdapterBlocks a, b; NULL: no adapter */
} LayerParams;
typedef struct {
    void *embedding;    /* (Vp, C) */
    LayerParams *layer; /* n_layers */
    void *final_norm;   /* (C) */
    void *head;         /* (Vp, C); the embedding when tied */
} Params;

/* pad: buckets are padded to a multiple of this many elements (world size * 16 when sharding).  Padding never reaches a
 * file. */
Status param_table_build(ParamTable *table, const ModelConfig *cfg, int64_t pad, Err *err);
void param_table_free(ParamTable *table);
int param_find(const ParamTable *table, const char *name); /* -1: none */
Status params_bind(Params *p, const ParamTable *table, const ModelConfig *cfg, void *arena, DType t, Err *err);
void params_unbind(Params *p);
/* For gradients the arena has table->trained elements; what is frozen from the start is bound beyond it and never touched.
 *
 * Gradient pointers with NULL where the parameter is frozen: of one block, and of what lies outside blocks. */
LayerParams params_layer_trainable(const Params *p, const ParamTable *table, int layer);
Params params_top_trainable(const Params *p, const ParamTable *table);
/* (seed, hash of the parameter's name, element) -> value: the same whatever the padding or the rank count. */
void params_init(float *host_arena, const ParamTable *table, const ModelConfig *cfg, uint64_t seed);
/* Elements [begin, begin + count) of it; begin is a multiple of 2. */
void params_init_part(float *host, const ParamTable *table, const ModelConfig *cfg, uint64_t seed, int64_t begin,
                      int64_t count);

#endif
