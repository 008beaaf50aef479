/* safetensors.c - see safetensors.h. */
#include "model/safetensors.h"
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "safetensors are little-endian; this host is not"
#endif

enum { HEADER_MAX = 100000000, DATA_ALIGN = 64, DIMS_MAX = sizeof((TensorInfo *)0)->dim / sizeof(int64_t) };

static const DType DTYPES[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F64, DTYPE_I32, DTYPE_I8};

/* ---- reading ----------------------------------------------------------------------------------------------------- */

/* Bytes of the tensor, or -1 when they overflow. */
static int64_t tensor_bytes(const TensorInfo *t) {
    int64_t n = (int64_t)dtype_size(t->dtype);
    for (int i = 0; i < t->ndim; i++)
        if (t->dim[i] < 0 || __builtin_mul_overflow(n, t->dim[i], &n)) return -1;
    return n;
}

static Status parse_dtype(TensorInfo *t, const json_t *v, const char *path, Err *err) {
    const char *name = json_string_value(v);
    for (size_t i = 0; name && i < sizeof DTYPES / sizeof *DTYPES; i++) {
        if (strcmp(name, dtype_name(DTYPES[i]))) continue;
        t->dtype = DTYPES[i];
        return OK;
    }
    return err_set(err, ERR_FORMAT, "%s: tensor %s has dtype '%s'; F32, BF16, F64, I32 and I8 are read", path, t->name,
                   name ? name : "missing");
}

static Status parse_shape(TensorInfo *t, const json_t *v, const char *path, Err *err) {
    if (!json_is_array(v) || json_array_size(v) > DIMS_MAX)
        return err_set(err, ERR_FORMAT, "%s: tensor %s has no shape of at most %d dimensions", path, t->name,
                       (int)DIMS_MAX);
    t->ndim = (int)json_array_size(v);
    for (int i = 0; i < t->ndim; i++) {
        const json_t *d = json_array_get(v, (size_t)i);
        if (!json_is_integer(d) || json_integer_value(d) < 0)
            return err_set(err, ERR_FORMAT, "%s: tensor %s: dimension %d is not a whole number from 0", path, t->name,
                           i);
        t->dim[i] = json_integer_value(d);
    }
    return OK;
}

/* data_start, file_size: bounds that the offsets must respect. */
static Status parse_tensor(TensorInfo *t, const char *name, const json_t *v, int64_t data_start, int64_t file_size,
                           const char *path, Err *err) {
    if (strlen(name) >= sizeof t->name)
        return err_set(err, ERR_FORMAT, "%s: the tensor name '%.60s...' is longer than %zu bytes", path, name,
                       sizeof t->name - 1);
    snprintf(t->name, sizeof t->name, "%s", name);
    if (!json_is_object(v) || json_object_size(v) != 3)
        return err_set(err, ERR_FORMAT, "%s: tensor %s must have exactly dtype, shape and data_offsets", path, name);
    Status s = parse_dtype(t, json_object_get(v, "dtype"), path, err);
    if (!s) s = parse_shape(t, json_object_get(v, "shape"), path, err);
    if (s) return s;
    const json_t *o = json_object_get(v, "data_offsets"), *b = json_array_get(o, 0), *e = json_array_get(o, 1);
    if (json_array_size(o) != 2 || !json_is_integer(b) || !json_is_integer(e))
        return err_set(err, ERR_FORMAT, "%s: tensor %s has no pair of data_offsets", path, name);
    const int64_t begin = json_integer_value(b), end = json_integer_value(e), bytes = tensor_bytes(t);
    if (begin < 0 || end < begin || end > file_size - data_start)
        return err_set(err, ERR_FORMAT,
                       "%s: tensor %s lies at bytes [%lld, %lld) of %lld: the file is cut short or damaged", path, name,
                       (long long)begin, (long long)end, (long long)(file_size - data_start));
    if (bytes != end - begin) {
        char shape[96];
        safetensors_shape(t, shape, sizeof shape);
        return err_set(err, ERR_FORMAT, "%s: tensor %s %s of %s does not fill its %lld bytes", path, name, shape,
                       dtype_name(t->dtype), (long long)(end - begin));
    }
    t->begin = data_start + begin;
    t->end = data_start + end;
    return OK;
}

static int by_offset(const void *a, const void *b) {
    const TensorInfo *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    return x->end < y->end ? -1 : x->end > y->end;
}

static Status parse_metadata(Safetensors *st, const json_t *v, Err *err) {
    const char *key;
    json_t *text;
    if (!json_is_object(v)) return err_set(err, ERR_FORMAT, "%s: __metadata__ is not an object", st->path);
    json_object_foreach((json_t *)(uintptr_t)v, key, text) if (!json_is_string(text)) return err_set(
        err, ERR_FORMAT, "%s: __metadata__ '%.60s' is not a string", st->path, key);
    st->metadata = json_dumps(v, JSON_COMPACT);
    return OK;
}

static Status parse_header(Safetensors *st, json_t *header, int64_t data_start, Err *err) {
    const char *name;
    json_t *v;
    st->tensor = try_calloc(json_object_size(header) + 1, sizeof *st->tensor);
    if (!st->tensor)
        return err_set(err, ERR_NOMEM, "%s: no memory for its %zu tensors", st->path, json_object_size(header));
    json_object_foreach(header, name, v) {
        Status s = !strcmp(name, "__metadata__")
                       ? parse_metadata(st, v, err)
                       : parse_tensor(&st->tensor[st->n++], name, v, data_start, (int64_t)st->size, st->path, err);
        if (s) return s;
    }
    qsort(st->tensor, (size_t)st->n, sizeof *st->tensor, by_offset);
    int64_t at = data_start;
    for (int i = 0; i < st->n; i++) {
        if (st->tensor[i].begin != at)
            return err_set(err, ERR_FORMAT,
                           "%s: tensor %s starts at byte %lld, %lld was expected: tensors overlap or leave a hole",
                           st->path, st->tensor[i].name, (long long)st->tensor[i].begin, (long long)at);
        at = st->tensor[i].end;
    }
    if (at != (int64_t)st->size)
        return err_set(err, ERR_FORMAT, "%s: its tensors end at byte %lld but the file at %zu", st->path, (long long)at,
                       st->size);
    return OK;
}

Status safetensors_parse(Safetensors *st, const void *data, size_t size, const char *path, Err *err) {
    *st = (Safetensors){.path = xstrdup(path), .data = data, .size = size};
    uint64_t length = 0;
    Status s = OK;
    if (size >= 8) memcpy(&length, data, 8);
    if (size < 8 || size > INT64_MAX || length < 2 || length > HEADER_MAX || length > size - 8 ||
        ((const char *)data)[8] != '{') {
        s = err_set(err, ERR_FORMAT, "%s is not a safetensors file, or it is cut short (%zu bytes, header of %llu)",
                    path, size, (unsigned long long)length);
    } else {
        json_error_t why;
        json_t *header = json_loadb((const char *)data + 8, (size_t)length, JSON_REJECT_DUPLICATES, &why);
        if (json_is_object(header))
            s = parse_header(st, header, 8 + (int64_t)length, err);
        else
            s = err_set(err, ERR_FORMAT, "%s: its header is not valid JSON: %s", path, why.text);
        json_decref(header);
    }
    if (s) safetensors_close(st);
    return s;
}

Status safetensors_open(Safetensors *st, const char *path, Err *err) {
    *st = (Safetensors){0};
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* waits for no pipe */
    struct stat info;
    if (fd < 0) return err_set(err, ERR_IO, "cannot read %s: %s", path, strerror(errno));
    Status s = OK;
    void *map = NULL;
    if (fstat(fd, &info) || !S_ISREG(info.st_mode))
        s = err_set(err, ERR_IO, "cannot read %s: not a regular file", path);
    else if (info.st_size < 8)
        s = err_set(err, ERR_FORMAT, "%s is not a safetensors file: %lld bytes", path, (long long)info.st_size);
    else if ((map = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0)) == MAP_FAILED)
        s = err_set(err, ERR_IO, "cannot map %s: %s", path, strerror(errno));
    close(fd);
    if (s) return s;
    if ((s = safetensors_parse(st, map, (size_t)info.st_size, path, err)))
        munmap(map, (size_t)info.st_size);
    else
        st->map = map;
    return s;
}

void safetensors_close(Safetensors *st) {
    if (st->map) munmap(st->map, st->size);
    free(st->path);
    free(st->tensor);
    free(st->metadata);
    *st = (Safetensors){0};
}

const TensorInfo *safetensors_find(const Safetensors *st, const char *name) {
    for (int i = 0; i < st->n; i++)
        if (!strcmp(st->tensor[i].name, name)) return &st->tensor[i];
    return NULL;
}

const void *safetensors_data(const Safetensors *st, const TensorInfo *t) {
    return (const char *)st->data + t->begin;
}

Status safetensors_floats(const Safetensors *st, const TensorInfo *t, int64_t from, int64_t count, float *out, Err *err) {
    if (t->dtype != DTYPE_F32 && t->dtype != DTYPE_BF16)
        return err_set(err, ERR_FORMAT, "%s: tensor %s is %s; F32 and BF16 can be loaded", st->path, t->name, dtype_name(t->dtype));
    const char *data = safetensors_data(st, t);
    if (t->dtype == DTYPE_F32) {
        memcpy(out, data + from * 4, (size_t)count * 4);
    } else {
        for (int64_t i = 0; i < count; i++) {
            uint16_t half;
            memcpy(&half, data + (from + i) * 2, 2);
            const uint32_t bits = (uint32_t)half << 16;
            memcpy(&out[i], &bits, 4);
        }
    }
    for (int64_t i = 0; i < count; i++)
        if (!isfinite(out[i]))
            return err_set(err, ERR_FORMAT, "%s: element %lld of tensor %s is not a finite number: the file is damaged",
                           st->path, (long long)(from + i), t->name);
    return OK;
}

void safetensors_shape(const TensorInfo *t, char *out, size_t size) {
    size_t at = (size_t)snprintf(out, size, "[");
    for (int i = 0; i < t->ndim && at < size; i++)
        at += (size_t)snprintf(out + at, size - at, i ? ", %lld" : "%lld", (long long)t->dim[i]);
    if (at < size) snprintf(out + at, size - at, "]");
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

/* Header text with the offsets of the tensors, which are laid end to end in the order given. */
static char *header_text(TensorInfo *tensor, int n, json_t *metadata, int64_t *data_bytes) {
    json_t *o = json_object();
    int64_t at = 0;
    if (metadata) json_object_set(o, "__metadata__", metadata);
    for (int i = 0; i < n; i++) {
        json_t *shape = json_array();
        for (int d = 0; d < tensor[i].ndim; d++) json_array_append_new(shape, json_integer(tensor[i].dim[d]));
        const int64_t bytes = tensor_bytes(&tensor[i]);
        REQUIRE(bytes >= 0 && bytes <= INT64_MAX - at);
        tensor[i].begin = at;
        tensor[i].end = at += bytes;
        json_object_set_new(o, tensor[i].name,
                            json_pack("{s:s,s:o,s:[I,I]}", "dtype", dtype_name(tensor[i].dtype), "shape", shape,
                                      "data_offsets", (json_int_t)tensor[i].begin, (json_int_t)tensor[i].end));
    }
    REQUIRE((int)json_object_size(o) == n + (metadata != NULL)); /* names are distinct */
    char *text = json_dumps(o, JSON_COMPACT);
    REQUIRE(text != NULL);
    json_decref(o);
    *data_bytes = at;
    return text;
}

static int write_all(int fd, const void *data, size_t size) {
    for (size_t at = 0; at < size;) {
        ssize_t n = write(fd, (const char *)data + at, size - at);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return -1;
        at += (size_t)n;
    }
    return 0;
}

/* Reserves the blocks, so that a full disk is met before any tensor is written; plain size where that is not possible.
 */
static int reserve(int fd, int64_t size) {
    if (!fallocate(fd, 0, 0, size)) return 0;
    return errno == EOPNOTSUPP || errno == ENOSYS ? ftruncate(fd, size) : -1;
}

Status safetensors_create(const char *path, TensorInfo *tensor, int n, const char *metadata_json, Err *err) {
    json_t *metadata = NULL;
    if (metadata_json) {
        metadata = json_loads(metadata_json, 0, NULL);
        REQUIRE(json_is_object(metadata));
    }
    int64_t data_bytes;
    char *text = header_text(tensor, n, metadata, &data_bytes);
    json_decref(metadata);
    /* Spaces pad the header, so that tensors start on a cache line. */
    const size_t length = strlen(text), start = (8 + length + DATA_ALIGN - 1) / DATA_ALIGN * DATA_ALIGN;
    const uint64_t padded = start - 8;
    char *header = xmalloc(start);
    memcpy(header, &padded, 8);
    memcpy(header + 8, text, length);
    memset(header + 8 + length, ' ', start - 8 - length);
    free(text);
    for (int i = 0; i < n; i++) {
        tensor[i].begin += (int64_t)start;
        tensor[i].end += (int64_t)start;
    }
    const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    int bad = fd < 0 || reserve(fd, (int64_t)start + data_bytes) || write_all(fd, header, start) || fsync(fd);
    int why = errno;
    if (fd >= 0 && close(fd) && !bad) {
        bad = 1;
        why = errno;
    }
    free(header);
    return bad ? err_set(err, ERR_IO, "cannot write %s (%lld bytes): %s", path, (long long)start + data_bytes,
                         strerror(why))
               : OK;
}
