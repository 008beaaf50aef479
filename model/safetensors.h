/* safetensors.h - the container of weights: u64 header length, JSON header, raw little-endian tensors.  Reading trusts
 * no length, offset or shape in the file; tensors are memory-mapped.  Strict: no duplicate names, no holes, no
 * overlaps, nothing after the last tensor; dtypes F32, BF16, F64, I32 and I8, names below 128 bytes, at most 4
 * dimensions. */
#ifndef EHR_MODEL_SAFETENSORS_H
#define EHR_MODEL_SAFETENSORS_H
#include "kernels/device.h"
#include "model/base.h"

typedef struct {
    char name[128];
    DType dtype;
    int ndim;
    int64_t dim[4];
    int64_t begin, end; /* bytes, from the start of the file */
} TensorInfo;

typedef struct {
    char *path;
    const void *data; /* the whole file */
    void *map;        /* its read-only mapping; NULL after safetensors_parse */
    size_t size;
    int n;
    TensorInfo *tensor; /* in file order */
    char *metadata;     /* JSON of __metadata__, or NULL */
} Safetensors;

Status safetensors_open(Safetensors *st, const char *path, Err *err);
void safetensors_close(Safetensors *st);
/* The same over bytes in memory, which stay the caller's and must outlive st; path is for messages. */
Status safetensors_parse(Safetensors *st, const void *data, size_t size, const char *path, Err *err);
const TensorInfo *safetensors_find(const Safetensors *st, const char *name); /* NULL: none */
const void *safetensors_data(const Safetensors *st, const TensorInfo *t);

/* Elements [from, from + count) of a tensor as floats, of F32 or BF16; refuses what is not a number (a damaged file, or a
 * run that diverged). */
Status safetensors_floats(const Safetensors *st, const TensorInfo *t, int64_t from, int64_t count, float *out, Err *err);

/* "[512, 128]", for messages. */
void safetensors_shape(const TensorInfo *t, char *out, size_t size);

/* Lays out n tensors (name, dtype, dims given; begin/end filled in) and creates path at full size, its blocks reserved,
 * with its header; tensors are zero.  metadata_json: an object of strings, or NULL.  A full disk shows here. */
Status safetensors_create(const char *path, TensorInfo *tensor, int n, const char *metadata_json, Err *err);

#endif
