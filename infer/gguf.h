/* gguf.h - writing GGUF version 3, the container of llama.cpp (https://github.com/ggml-org/ggml, docs/gguf.md): keys and
 * values, a list of tensors, then their data, each at a multiple of 32 bytes. */
#ifndef EHR_INFER_GGUF_H
#define EHR_INFER_GGUF_H
#include "infer/encode.h"

enum { GGUF_NAME_MAX = 64 }; /* of a tensor, the final NUL included */
typedef struct {
    char name[GGUF_NAME_MAX];
    Encoding encoding;
    int ndim;
    int64_t rows, cols; /* cols = 1 for vectors; the file lists the dimensions fastest first: cols, rows */
    uint64_t offset;    /* from the start of the data */
    const float *data;  /* (rows, cols), the caller's */
} GgufTensor;

/* A file in the making.  Keys appear in the order given. */
typedef struct {
    char *keys; /* encoded */
    size_t keys_size, keys_room;
    int64_t n_keys;
    GgufTensor *tensor;
    int n_tensors;
    uint64_t data_bytes;
} Gguf;

void gguf_free(Gguf *g);
void gguf_text(Gguf *g, const char *key, const char *value);
void gguf_u32(Gguf *g, const char *key, uint32_t value);
void gguf_f32(Gguf *g, const char *key, float value);
void gguf_bool(Gguf *g, const char *key, int value);
void gguf_texts(Gguf *g, const char *key, const char *const *value, int n);
void gguf_i32s(Gguf *g, const char *key, const int32_t *value, int n);
/* data (rows, cols) stays the caller's until gguf_write has returned. */
void gguf_tensor(Gguf *g, const char *name, Encoding e, int ndim, int64_t rows, int64_t cols, const float *data);

/* Writes path.tmp, fsyncs and renames: path is whole or absent.  A weight that the format cannot hold is ERR_USAGE naming
 * the tensor; progress (NULL: silent) shows long work. */
Status gguf_write(const Gguf *g, const char *path, FILE *progress, Err *err);

#endif
