/* lora.h - which projections low-rank adapters are put on (LoraConfig, config.h), and where they lie: projections that
 * share a matrix in memory (q, k, v; gate, up) share one A and one B there, a run of rows each. */
#ifndef EHR_MODEL_LORA_H
#define EHR_MODEL_LORA_H
#include "kernels/kernels.h"
#include "model/config.h"

/* The matrices of a block, in the order of params.h. */
enum { W_QKV, W_ATTN_OUT, W_GATE_UP, W_DOWN, W_PER_LAYER };

/* "q,k,gate", also "q_proj" -> bits of projections; ERR_USAGE names the nearest to an unknown one.  where: a flag or a
 * file, for messages. */
Status lora_targets_parse(const char *text, const char *where, unsigned *targets, Err *err);
const char *lora_projection_name(LoraProjection p);   /* "q" */
const char *lora_projection_module(LoraProjection p); /* Hugging Face's: "self_attn.q_proj" */
int lora_projection_matrix(LoraProjection p);         /* W_QKV */
void lora_projection_shape(const ModelConfig *cfg, LoraProjection p, int *rows, int *cols); /* of its weight */
/* The largest rank: beyond the smaller side of a weight nothing is gained. */
int lora_rank_max(const ModelConfig *cfg, unsigned targets);
Status lora_check(const ModelConfig *cfg, Err *err);

/* The adapters of a matrix (n = 0: it has none), and which projections they are. */
AdapterBlocks lora_blocks(const ModelConfig *cfg, int matrix, LoraProjection which[ADAPTER_BLOCKS_MAX]);
/* The largest n * rank, rows and cols of any of them; 0 without adapters. */
typedef struct {
    int width, rows, cols;
} LoraWidest;
LoraWidest lora_widest(const ModelConfig *cfg);

#endif
