/* gguf_read.c - see gguf_read.h. */
#include "infer/gguf_read.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct {
    const uint8_t *start, *at, *end;
    const char *path;
    Err *err;
} Reader;

static const uint8_t TYPE_BYTES[GGUF_TYPES] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
enum { TENSOR_LEAST = 8 + 4 + 8 + 4 + 8, KEY_LEAST = 8 + 4 + 1 }; /* bytes of the shortest */

static Status bad(const Reader *r, const char *why) {
    return err_set(r->err, ERR_FORMAT, "%s, byte %lld: %s", r->path, (long long)(r->at - r->start), why);
}

static Status take(Reader *r, int bytes, uint64_t *out) {
    *out = 0;
    if (r->end - r->at < bytes) return bad(r, "the file ends in the middle of its header");
    memcpy(out, r->at, (size_t)bytes);
    r->at += bytes;
    return OK;
}

static Status take_text(Reader *r, const char **text, size_t *size) {
    uint64_t n;
    Status s = take(r, 8, &n);
    if (s) return s;
    if (n > (uint64_t)(r->end - r->at)) return bad(r, "a text is longer than the file");
    *text = (const char *)r->at;
    *size = (size_t)n;
    r->at += n;
    return OK;
}

static Status take_list(Reader *r, GgufKey *k) {
    uint64_t of;
    Status s = take(r, 4, &of);
    if (!s) s = take(r, 8, &k->n);
    if (s) return s;
    if (of >= GGUF_TYPES || of == GGUF_LIST) return bad(r, "a list is of no type that is known, or of lists");
    k->of = (GgufType)of;
    k->value = r->at;
    if (k->of != GGUF_TEXT) {
        if (k->n > (uint64_t)(r->end - r->at) / TYPE_BYTES[of]) return bad(r, "a list is longer than the file");
        r->at += k->n * TYPE_BYTES[of];
        return OK;
    }
    for (uint64_t i = 0; !s && i < k->n; i++) {
        const char *text;
        size_t size;
        s = take_text(r, &text, &size);
    }
    return s;
}

static Status take_key(Reader *r, GgufKey *k) {
    uint64_t type;
    Status s = take_text(r, &k->name, &k->name_size);
    if (!s) s = take(r, 4, &type);
    if (s) return s;
    if (type >= GGUF_TYPES) return bad(r, "a value is of no type that is known");
    k->type = (GgufType)type;
    if (k->type == GGUF_LIST) return take_list(r, k);
    if (k->type == GGUF_TEXT) {
        size_t size = 0;
        const char *text = "";
        s = take_text(r, &text, &size);
        k->value = (const uint8_t *)text;
        k->n = size;
        return s;
    }
    uint64_t value;
    k->value = r->at;
    return take(r, TYPE_BYTES[type], &value);
}

/* Bytes of n elements of a tensor; 0: of no type that we write. */
static uint64_t tensor_bytes(uint32_t type, uint64_t n) {
    if (n > INT64_MAX / 8) return 0;
    return type == 0 ? 4 * n : type == 1 || type == 30 ? 2 * n : type == 8 && n % 32 == 0 ? n / 32 * 34 : 0;
}

/* begin is within the data until all headers are read. */
static Status take_tensor(Reader *r, GgufTensorInfo *t) {
    uint64_t n_dims, type, n = 1;
    Status s = take_text(r, &t->name, &t->name_size);
    if (!s) s = take(r, 4, &n_dims);
    if (s) return s;
    if (n_dims < 1 || n_dims > GGUF_DIMS_MAX) return bad(r, "a tensor has less than 1 or more than 4 dimensions");
    t->n_dims = (int)n_dims;
    for (int d = 0; !s && d < t->n_dims; d++) {
        s = take(r, 8, &t->dim[d]);
        if (!s && (!t->dim[d] || t->dim[d] > INT64_MAX / n)) return bad(r, "a tensor has an impossible size");
        if (!s) n *= t->dim[d];
    }
    if (!s) s = take(r, 4, &type);
    if (!s) s = take(r, 8, &t->begin);
    if (s) return s;
    t->type = (uint32_t)type;
    t->end = tensor_bytes(t->type, n);
    if (!t->end) return bad(r, "a tensor is of a type, or of a size for its type, that is not read here");
    return OK;
}

static Status tensors_place(Reader *r, GgufFile *g, uint64_t alignment) {
    const uint64_t size = (uint64_t)(r->end - r->start);
    const uint64_t data = ((uint64_t)(r->at - r->start) + alignment - 1) / alignment * alignment;
    for (int64_t i = 0; i < g->n_tensors; i++) {
        GgufTensorInfo *t = &g->tensor[i];
        if (t->begin % alignment || data > size || t->begin > size - data || t->end > size - data - t->begin)
            return err_set(r->err, ERR_FORMAT, "%s: tensor %.*s lies beyond the end of the file, or not aligned",
                           r->path, (int)(t->name_size < 64 ? t->name_size : 64), t->name);
        t->begin += data;
        t->end += t->begin;
    }
    return OK;
}

static uint64_t alignment_of(const GgufFile *g) {
    static const char name[] = "general.alignment";
    uint32_t x = 32;
    for (int64_t i = 0; i < g->n_keys; i++)
        if (g->key[i].name_size == sizeof name - 1 && !memcmp(g->key[i].name, name, sizeof name - 1) &&
            g->key[i].type == GGUF_U32)
            memcpy(&x, g->key[i].value, sizeof x);
    return x;
}

Status gguf_parse(GgufFile *g, const void *data, size_t size, const char *path, Err *err) {
    Reader r = {data, data, (const uint8_t *)data + size, path, err};
    uint64_t magic, version, n_tensors, n_keys;
    *g = (GgufFile){0};
    Status s = take(&r, 4, &magic);
    if (!s) s = take(&r, 4, &version);
    if (!s && (magic != 0x46554747 || version != 3)) s = bad(&r, "this is no GGUF file of version 3");
    if (!s) s = take(&r, 8, &n_tensors);
    if (!s) s = take(&r, 8, &n_keys);
    /* Counts that the file has no room for are met before memory is asked for. */
    if (!s && (n_tensors > size / TENSOR_LEAST || n_keys > size / KEY_LEAST))
        s = bad(&r, "it counts more than it holds");
    if (s) return s;
    g->key = xcalloc((size_t)n_keys + 1, sizeof *g->key);
    g->tensor = xcalloc((size_t)n_tensors + 1, sizeof *g->tensor);
    while (!s && g->n_keys < (int64_t)n_keys) s = take_key(&r, &g->key[g->n_keys++]);
    while (!s && g->n_tensors < (int64_t)n_tensors) s = take_tensor(&r, &g->tensor[g->n_tensors++]);
    const uint64_t alignment = s ? 0 : alignment_of(g);
    if (!s && (!alignment || alignment & (alignment - 1) || alignment > 1 << 20))
        s = bad(&r, "general.alignment is no power of two");
    if (!s) s = tensors_place(&r, g, alignment);
    if (s) gguf_file_free(g);
    return s;
}

void gguf_file_free(GgufFile *g) {
    free(g->key);
    free(g->tensor);
    *g = (GgufFile){0};
}

/* ---- for people -------------------------------------------------------------------------------------------------- */

/* What came from the file may hold anything. */
static void print_text(FILE *out, const uint8_t *text, uint64_t n) {
    for (uint64_t i = 0; i < n && i < 200; i++) fputc(text[i] >= ' ' && text[i] != 127 ? text[i] : '.', out);
    if (n > 200) fprintf(out, "... (%llu bytes)", (unsigned long long)n);
}

static void print_key(FILE *out, const GgufKey *k) {
    uint64_t u = 0;
    float f;
    if (k->type < GGUF_TYPES) memcpy(&u, k->value, TYPE_BYTES[k->type]);
    fprintf(out, "  ");
    print_text(out, (const uint8_t *)k->name, k->name_size);
    fprintf(out, "%*s ", k->name_size < 40 ? 40 - (int)k->name_size : 0, "");
    if (k->type == GGUF_TEXT) print_text(out, k->value, k->n);
    else if (k->type == GGUF_LIST) fprintf(out, "a list of %llu", (unsigned long long)k->n);
    else if (k->type == GGUF_F32) fprintf(out, "%g", (double)(memcpy(&f, k->value, sizeof f), f));
    else if (k->type == GGUF_BOOL) fprintf(out, "%s", u ? "true" : "false");
    else fprintf(out, "%llu", (unsigned long long)u);
    fprintf(out, "\n");
}

Status gguf_print(const char *path, FILE *out, Err *err) {
    GgufFile g;
    struct stat info;
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* waits for no pipe */
    if (fd < 0 || fstat(fd, &info) || !S_ISREG(info.st_mode) || !info.st_size) {
        if (fd >= 0) close(fd);
        return err_set(err, ERR_IO, "cannot read %s: %s", path,
                       fd < 0 ? strerror(errno) : "it is empty, or no plain file");
    }
    const size_t size = (size_t)info.st_size;
    void *data = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    if (data == MAP_FAILED) return err_set(err, ERR_IO, "cannot read %s: %s", path, strerror(errno));
    Status s = gguf_parse(&g, data, size, path, err);
    if (!s) {
        uint64_t elements = 0;
        for (int64_t i = 0; i < g.n_tensors; i++) {
            uint64_t n = 1;
            for (int d = 0; d < g.tensor[i].n_dims; d++) n *= g.tensor[i].dim[d];
            elements += n;
        }
        fprintf(out, "file         %s, GGUF version 3, %lld tensors of %llu parameters, all within the file\nkeys\n",
                path, (long long)g.n_tensors, (unsigned long long)elements);
        for (int64_t i = 0; i < g.n_keys; i++) print_key(out, &g.key[i]);
        gguf_file_free(&g);
    }
    munmap(data, size);
    return s;
}
