/* parent.h - a model that training starts from: any folder with a Qwen3 config.json and safetensors, an export of another
 * institution for one.  The dataset's vocabulary begins with the parent's (ehr-data tokenize --vocabulary); tokens that
 * come after get fresh embeddings. */
#ifndef EHR_TRAIN_PARENT_H
#define EHR_TRAIN_PARENT_H
#include "data/dataset.h"
#include "train/optimizer.h"

typedef struct {
    char *dir, *name; /* "step-20 sha256:..." for provenance: no folder names of the machine */
    char *path;       /* as --init names it, with the folder that `latest` stood for: what adapters record */
    char sha256[65];  /* of its weights */
    ModelConfig cfg;
    int compared;     /* its codes were compared; 0: the folder has no vocabulary.json */
    int checked;      /* its files were compared with SHA256SUMS */
    char *provenance; /* JSON of its trainer.json, NULL = none */
} Parent;

/* dir: a model folder, or a run folder (its `latest`).  verify: compare the files with their checksums. */
Status parent_open(Parent *p, const char *dir, int verify, Err *err);
void parent_close(Parent *p);
/* Refuses a dataset whose first tokens are not the parent's, in code, unit and value edges. */
Status parent_check(Parent *p, const Dataset *d, Err *err);
/* Weights and master: the parent's; rows of tokens that it does not have as model_init(seed) makes them. */
Status parent_weights(const Parent *p, Model *m, Optimizer *o, uint64_t seed, Err *err);

#endif
