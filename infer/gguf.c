/* gguf.c - see gguf.h. */
#include "infer/gguf.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "GGUF is little-endian; this host is not"
#endif

enum { VERSION = 3, ALIGNMENT = 32, PIECE = 1 << 20 /* values encoded at a time; a multiple of Q8_0_BLOCK */ };
enum { TYPE_U32 = 4, TYPE_I32 = 5, TYPE_F32 = 6, TYPE_BOOL = 7, TYPE_STRING = 8, TYPE_ARRAY = 9 };

static uint32_t ggml_type(Encoding e) {
    static const uint32_t type[] = {[ENCODE_F32] = 0, [ENCODE_F16] = 1, [ENCODE_Q8_0] = 8, [ENCODE_BF16] = 30};
    return type[e];
}

void gguf_free(Gguf *g) {
    free(g->keys);
    free(g->tensor);
    *g = (Gguf){0};
}

/* ---- keys -------------------------------------------------------------------------------------------------------- */

static void put(Gguf *g, const void *data, size_t size) {
    if (g->keys_size + size > g->keys_room) {
        g->keys_room = 2 * (g->keys_size + size) + 4096;
        g->keys = xrealloc(g->keys, g->keys_room);
    }
    memcpy(g->keys + g->keys_size, data, size);
    g->keys_size += size;
}

static void put_u32(Gguf *g, uint32_t x) { put(g, &x, sizeof x); }
static void put_u64(Gguf *g, uint64_t x) { put(g, &x, sizeof x); }
static void put_text(Gguf *g, const char *s) {
    put_u64(g, strlen(s));
    put(g, s, strlen(s));
}

static void key(Gguf *g, const char *name, uint32_t type) {
    put_text(g, name);
    put_u32(g, type);
    g->n_keys++;
}

static void array(Gguf *g, const char *name, uint32_t type, int n) {
    key(g, name, TYPE_ARRAY);
    put_u32(g, type);
    put_u64(g, (uint64_t)n);
}

void gguf_text(Gguf *g, const char *name, const char *value) {
    key(g, name, TYPE_STRING);
    put_text(g, value);
}

void gguf_u32(Gguf *g, const char *name, uint32_t value) {
    key(g, name, TYPE_U32);
    put_u32(g, value);
}

void gguf_f32(Gguf *g, const char *name, float value) {
    key(g, name, TYPE_F32);
    put(g, &value, sizeof value);
}

void gguf_bool(Gguf *g, const char *name, int value) {
    const uint8_t byte = value != 0;
    key(g, name, TYPE_BOOL);
    put(g, &byte, 1);
}

void gguf_texts(Gguf *g, const char *name, const char *const *value, int n) {
    array(g, name, TYPE_STRING, n);
    for (int i = 0; i < n; i++) put_text(g, value[i]);
}

void gguf_i32s(Gguf *g, const char *name, const int32_t *value, int n) {
    array(g, name, TYPE_I32, n);
    put(g, value, (size_t)n * sizeof *value);
}

/* ---- tensors ----------------------------------------------------------------------------------------------------- */

static uint64_t aligned(uint64_t x) { return (x + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

void gguf_tensor(Gguf *g, const char *name, Encoding e, int ndim, int64_t rows, int64_t cols, const float *data) {
    REQUIRE(strlen(name) < GGUF_NAME_MAX && (ndim == 1 || ndim == 2));
    g->tensor = xrealloc(g->tensor, ((size_t)g->n_tensors + 1) * sizeof *g->tensor);
    GgufTensor *t = &g->tensor[g->n_tensors++];
    *t = (GgufTensor){.encoding = e, .ndim = ndim, .rows = rows, .cols = cols, .offset = g->data_bytes, .data = data};
    snprintf(t->name, sizeof t->name, "%s", name);
    g->data_bytes = aligned(g->data_bytes + (uint64_t)encode_bytes(e, rows * cols));
}

/* The same buffer grows into the whole header. */
static void header(const Gguf *g, Gguf *out) {
    put(out, "GGUF", 4);
    put_u32(out, VERSION);
    put_u64(out, (uint64_t)g->n_tensors);
    put_u64(out, (uint64_t)g->n_keys);
    put(out, g->keys, g->keys_size);
    for (int i = 0; i < g->n_tensors; i++) {
        const GgufTensor *t = &g->tensor[i];
        put_text(out, t->name);
        put_u32(out, (uint32_t)t->ndim);
        if (t->ndim == 2) put_u64(out, (uint64_t)t->cols);
        put_u64(out, (uint64_t)t->rows);
        put_u32(out, ggml_type(t->encoding));
        put_u64(out, t->offset);
    }
    static const char zero[ALIGNMENT];
    put(out, zero, (size_t)(aligned(out->keys_size) - out->keys_size));
}

static Status write_tensor(FILE *f, const GgufTensor *t, void *buffer, const char *path, Err *err) {
    const int64_t n = t->rows * t->cols;
    static const char zero[ALIGNMENT];
    for (int64_t at = 0; at < n; at += PIECE) {
        const int64_t count = n - at < PIECE ? n - at : PIECE, done = encode_floats(t->encoding, t->data + at, count, buffer);
        if (done < count)
            return err_set(err, ERR_USAGE, "tensor %s: element %lld, %g, is beyond what %s holds: choose --dtype bf16 or f32",
                           t->name, (long long)(at + done), (double)t->data[at + done], encode_name(t->encoding));
        fwrite(buffer, 1, (size_t)encode_bytes(t->encoding, count), f);
    }
    const uint64_t bytes = (uint64_t)encode_bytes(t->encoding, n);
    fwrite(zero, 1, (size_t)(aligned(bytes) - bytes), f);
    return ferror(f) ? err_set(err, ERR_IO, "cannot write %s: %s", path, strerror(errno)) : OK;
}

Status gguf_write(const Gguf *g, const char *path, FILE *progress, Err *err) {
    OutFile out;
    Status s = out_file_open(&out, path, err);
    Gguf head = {0};
    void *buffer = xmalloc(PIECE * sizeof(float));
    Progress p;
    progress_open(&p, progress, "export", "tensors", g->n_tensors);
    header(g, &head);
    if (!s && fwrite(head.keys, 1, head.keys_size, out.f) != head.keys_size)
        s = err_set(err, ERR_IO, "cannot write %s: %s", path, strerror(errno));
    for (int i = 0; i < g->n_tensors && !s; i++) {
        s = write_tensor(out.f, &g->tensor[i], buffer, path, err);
        progress_update(&p, i + 1);
    }
    s = out_file_close(&out, s, err);
    progress_close(&p, g->n_tensors);
    gguf_free(&head);
    free(buffer);
    return s;
}
