/* config.h - the shape of a model: the strict Qwen3 block (pre-RMSNorm, grouped-query attention with per-head RMSNorm
 * on q and k before rotate-half RoPE, SwiGLU, no biases, tied or untied head), so that a checkpoint loads in
 * transformers, vLLM and llama.cpp as it stands. */
#ifndef EHR_MODEL_CONFIG_H
#define EHR_MODEL_CONFIG_H
#include "model/base.h"

/* The projections that low-rank adapters may be put on. */
typedef enum { LORA_Q, LORA_K, LORA_V, LORA_O, LORA_GATE, LORA_UP, LORA_DOWN, LORA_PROJECTIONS } LoraProjection;
enum { LORA_ALL = (1 << LORA_PROJECTIONS) - 1 };

/* Low-rank adapters (Hu et al. 2021): y = W x + alpha / rank * B (A x) with W frozen.  All zero: there are none. */
typedef struct {
    int rank;
    unsigned targets; /* bit p: projection p has one */
    double alpha;
    int embeddings;       /* embedding and head are trained whole beside them */
    char base[512];       /* folder of the model that they change, as adapter_config.json names it */
    char base_sha256[65]; /* its weights', checkpoint_model_sha256() */
} LoraConfig;

typedef struct {
    int n_layers, d_model, n_heads, n_kv_heads, head_dim, d_ff;
    int vocab_size;   /* V: ids in use */
    int vocab_padded; /* Vp: V rounded up to a multiple of 64; lives in memory only */
    int seq_len;      /* longest sequence, max_position_embeddings */
    int tied;         /* 1: the head is the embedding */
    double rope_theta, rms_eps, init_std;
    LoraConfig lora; /* while they are being trained; config.json does not hold it */
} ModelConfig;

/* "nano" ... "large"; ERR_USAGE lists the presets.  Sets everything but vocab_size, vocab_padded and seq_len. */
Status config_preset(ModelConfig *cfg, const char *name, Err *err);
const char *config_presets(void); /* "nano|micro|small|medium|large" */
double config_init_std(int d_model); /* sqrt(2 / (5 d_model)), of initial weights (Nguyen and Salazar 2019) */
/* Fills vocab_padded; refuses sizes that make no model or overflow.  (Which head sizes a backend takes is checked by
 * model_open: 64 and 128 in float, any even one in the double reference.) */
Status config_check(ModelConfig *cfg, Err *err);

/* config.json of a checkpoint folder (Qwen3ForCausalLM). */
Status config_write(const char *dir, const ModelConfig *cfg, int pad_id, int bos_id, int eos_id,
                    Err *err); /* -1: none */
Status config_read(const char *dir, ModelConfig *cfg, Err *err);

#endif
