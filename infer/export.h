/* export.h - a checkpoint in the files that other engines read: a Hugging Face folder (transformers, vLLM) or one GGUF
 * file (llama.cpp).  Optimizer state stays behind; vocabulary and provenance travel along. */
#ifndef EHR_INFER_EXPORT_H
#define EHR_INFER_EXPORT_H
#include "infer/encode.h"

typedef enum { EXPORT_SAFETENSORS, EXPORT_GGUF } ExportFormat;
typedef struct {
    const char *checkpoint; /* folder; verified against its SHA256SUMS */
    const char *base;       /* of an adapter, which is merged into it: its folder; NULL: the one it names */
    int keep_apart;         /* of an adapter: its own files, as they are */
    ExportFormat format;
    Encoding encoding;      /* safetensors: F32 or BF16; gguf: any */
    int64_t max_file_bytes; /* safetensors: weights beyond it are split, with model.safetensors.index.json */
    const char *name;       /* gguf: general.name */
    const char *out;        /* folder or file; must not be there yet */
    FILE *progress;         /* NULL: silent */
} ExportOptions;
typedef struct {
    int tensors, files; /* files with weights */
    int wider;          /* matrices kept in F16 because their rows are no multiple of Q8_0's block */
    int64_t bytes;      /* of weights */
    int merged;         /* an adapter was */
} ExportSummary;

/* The result is whole or absent.  float32 safetensors in one file have the bytes of the checkpoint's own. */
Status export_run(const ExportOptions *o, ExportSummary *sum, Err *err);

#endif
