/* safetensors.h - the container of weights: u64 header length, JSON header, raw little-endian tensors.  Reading trusts
 * no length, offset or shape in the file; tensors are memory-mapped. */
#ifndef EHR_MODEL_SAFETENSORS_H
#define EHR_MODEL_SAFETENSORS_H
#include "kernels/device.h"
#include "model/base.h"

typedef struct {
    char    name[128];
    DType   dtype;
    int     ndim;
    int64_t dim[4];
    int64_t begin, end; /* bytes, from the start of the file */
} TensorInfo;

typedef struct {
    char       *path;
    void       *map; /* read-only mapping of the whole file */
    size_t      size;
    int         n;
    TensorInfo *tensor; /* in file order */
    char       *metadata; /* JSON of __metadata__, or NULL */
} Safetensors;

Status      safetensors_open(Safetensors *st, const char *path, Err *err);
void        safetensors_close(Safetensors *st);
const TensorInfo *safetensors_find(const Safetensors *st, const char *name); /* NULL: none */
const void *safetensors_data(const Safetensors *st, const TensorInfo *t);

/* Lays out n tensors (name, dtype, dims given; begin/end filled in) and creates path with its header at full size. */
Status safetensors_create(const char *path, TensorInfo *tensor, int n, const char *metadata_json, Err *err);

#endif
