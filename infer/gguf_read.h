/* gguf_read.h - reading GGUF version 3: keys, values and where the tensors lie.  A file is data, never trusted: what
 * does not fit into it is an error that says where. */
#ifndef EHR_INFER_GGUF_READ_H
#define EHR_INFER_GGUF_READ_H
#include "model/base.h"

enum { GGUF_DIMS_MAX = 4 };
typedef enum {
    GGUF_U8,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_TEXT,
    GGUF_LIST,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64,
    GGUF_TYPES
} GgufType;
typedef struct {
    const char *name; /* (name_size) in the file */
    size_t name_size;
    GgufType type, of; /* of a list: its elements' */
    uint64_t n;        /* of a list: elements; of a text: bytes */
    const uint8_t *value;
} GgufKey;
typedef struct {
    const char *name;
    size_t name_size;
    int n_dims;
    uint64_t dim[GGUF_DIMS_MAX]; /* fastest first */
    uint32_t type;               /* of ggml: 0 F32, 1 F16, 8 Q8_0, 30 BF16 */
    uint64_t begin, end;         /* bytes of the file */
} GgufTensorInfo;
typedef struct {
    int64_t n_keys, n_tensors;
    GgufKey *key;
    GgufTensorInfo *tensor;
} GgufFile;

/* data (size) must outlive g. */
Status gguf_parse(GgufFile *g, const void *data, size_t size, const char *path, Err *err);
void gguf_file_free(GgufFile *g);
/* What ehr-infer info tells of the file at path. */
Status gguf_print(const char *path, FILE *out, Err *err);

#endif
