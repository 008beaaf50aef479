/* adapter.h - low-rank adapters in files, as the peft package has them: adapter_model.safetensors (A and B of each
 * projection; embedding and head whole where they were trained) and adapter_config.json (rank, alpha, modules, the base
 * model's folder).  Ours also names the base's weights, by their SHA-256, in the metadata of the first: an adapter on
 * another model gives numbers, and they mean nothing. */
#ifndef EHR_MODEL_ADAPTER_H
#define EHR_MODEL_ADAPTER_H
#include "model/lora.h"
#include "model/safetensors.h"

#define ADAPTER_FILE   "adapter_model.safetensors"
#define ADAPTER_CONFIG "adapter_config.json"
/* Of tied weights that are trained whole the file holds the embedding under the head's name as well: peft asks for it. */
#define ADAPTER_TIED_HEAD "base_model.model.lm_head.weight"

typedef struct {
    LoraConfig lora;
    char *base; /* folder of the base model */
    Safetensors file;
    unsigned char *used; /* (file.n) by adapter_merge() */
    /* The projection in hand: */
    char name[128];
    float *a, *b; /* (rank, cols), (rows, rank); NULL: it has no adapter */
} Adapter;

int adapter_there(const char *dir); /* dir holds an adapter */
/* base: the base model's folder (or a run, whose `latest` is taken); NULL: the one that adapter_config.json names, as it is
 * or below a folder that dir lies in.  ERR_FORMAT when its weights are not those that the adapter was trained on. */
Status adapter_open(Adapter *a, const char *dir, const char *base, Err *err);
void adapter_close(Adapter *a);
/* values: elements [from, from + count) of the base's tensor `name` (rows, cols), Hugging Face's name.  Adds alpha/rank B A
 * to them, or takes them from the adapter where it has the tensor whole. */
Status adapter_merge(Adapter *a, const char *name, int64_t rows, int64_t cols, int64_t from, int64_t count, float *values, Err *err);
int adapter_whole(Adapter *a, const char *name); /* it has this tensor whole */
Status adapter_check_used(const Adapter *a, Err *err); /* after all tensors: none of its own was left over */

/* What names the weights of base and adapter together.  base as for adapter_open(), but only looked for where the adapter
 * does not name its weights. */
Status adapter_sha256(const char *dir, const char *base, char hex[65], Err *err);

Status adapter_config_write(const char *dir, const ModelConfig *cfg, Err *err);
/* Refuses what is not a plain LoRA of projections. */
Status adapter_config_read(const char *dir, LoraConfig *lora, Err *err);
/* The same with base_sha256, from the tensors' file; "" where it is not recorded. */
Status adapter_read(const char *dir, LoraConfig *lora, Err *err);
char *adapter_metadata(const LoraConfig *lora); /* of ADAPTER_FILE, for safetensors_create(); free() it */

#endif
