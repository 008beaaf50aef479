/* shard.c - writing and mapping one shard.
 *
 * The number of patients and tokens is not known until the last one: the long arrays are spooled to nameless temporary
 * files, the short ones kept in memory.  Closing lets HDF5 lay out contiguous datasets of the right sizes and then
 * copies the arrays to their places, where a reader maps them.  Every array is covered by a CRC32C: the long ones per
 * 65,536 tokens, compared on first touch; the patient arrays as a whole, compared on opening. */
#include "data/shard.h"
#include "data/dataset.h"
#include "data/h5.h"
#include "data/hash.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "shards are little-endian and mapped as they are"
#endif

/* ---- writing ----------------------------------------------------------------------------------------------------- */

typedef struct {
    char *data;
    size_t size, capacity;
} Bytes;

static void bytes_add(Bytes *b, const void *data, size_t size) {
    if (b->size + size > b->capacity) {
        b->capacity = 2 * b->capacity + size + 4096;
        b->data = xrealloc(b->data, b->capacity);
    }
    if (size) memcpy(b->data + b->size, data, size);
    b->size += size;
}

struct ShardWriter {
    char *path, *tmp;
    int wide, n_static, n_groups, with_oracle;
    FILE *tokens, *minutes, *oracle;
    Bytes offsets, key, statics, observation_end, group;
    int64_t n_patients, n_tokens;
};

static void writer_free(ShardWriter *w) {
    FILE *spool[] = {w->tokens, w->minutes, w->oracle};
    for (size_t i = 0; i < sizeof spool / sizeof *spool; i++)
        if (spool[i]) fclose(spool[i]);
    Bytes *b[] = {&w->offsets, &w->key, &w->statics, &w->observation_end, &w->group};
    for (size_t i = 0; i < sizeof b / sizeof *b; i++) free(b[i]->data);
    free(w->path);
    free(w->tmp);
    free(w);
}

/* Beside the shard, where there must be room anyway; without a name, so that nothing is left behind. */
static Status spool_open(FILE **out, const char *path, Err *err) {
    char *name = xasprintf("%s.spool-XXXXXX", path);
    int fd = mkstemp(name);
    *out = fd < 0 ? NULL : fdopen(fd, "w+b");
    Status status = *out ? OK : err_set(err, ERR_IO, "cannot create %s: %s", name, strerror(errno));
    if (fd >= 0) unlink(name);
    if (fd >= 0 && !*out) close(fd);
    free(name);
    return status;
}

Status shard_writer_open(ShardWriter **out, const char *path, int wide, int n_static, int n_groups, int with_oracle,
                         Err *err) {
    REQUIRE(n_static >= 0 && n_groups >= 0);
    ShardWriter *w = xcalloc(1, sizeof *w);
    *out = NULL;
    w->path = xstrdup(path);
    w->tmp = xasprintf("%s.tmp", path);
    w->wide = wide;
    w->n_static = n_static;
    w->n_groups = n_groups;
    w->with_oracle = with_oracle;
    Status status = spool_open(&w->tokens, path, err);
    if (!status) status = spool_open(&w->minutes, path, err);
    if (!status && with_oracle) status = spool_open(&w->oracle, path, err);
    if (status) {
        writer_free(w);
        return status;
    }
    bytes_add(&w->offsets, &(uint64_t){0}, 8);
    *out = w;
    return OK;
}

static int spool_write(FILE *f, const void *data, size_t item, int64_t n) {
    return !n || fwrite(data, item, (size_t)n, f) == (size_t)n;
}

static int spool_tokens(ShardWriter *w, const uint32_t *tokens, int64_t n) {
    if (w->wide) return spool_write(w->tokens, tokens, 4, n);
    uint16_t narrow[4096];
    for (int64_t at = 0; at < n;) {
        int64_t count = n - at < 4096 ? n - at : 4096;
        for (int64_t i = 0; i < count; i++) {
            REQUIRE(tokens[at + i] <= UINT16_MAX);
            narrow[i] = (uint16_t)tokens[at + i];
        }
        if (!spool_write(w->tokens, narrow, 2, count)) return 0;
        at += count;
    }
    return 1;
}

Status shard_writer_patient(ShardWriter *w, uint64_t key, const uint32_t *tokens, const int32_t *minutes, int64_t n,
                            const uint16_t *statics, const uint8_t *group, int32_t observation_end,
                            const float *oracle_logp, Err *err) {
    REQUIRE(n >= 0 && (!w->with_oracle || oracle_logp || !n));
    if (!spool_tokens(w, tokens, n) || !spool_write(w->minutes, minutes, 4, n) ||
        (w->with_oracle && !spool_write(w->oracle, oracle_logp, 4, n)))
        return err_set(err, ERR_IO, "cannot write tokens of %s: %s", w->path, strerror(errno));
    w->n_tokens += n;
    w->n_patients++;
    uint64_t end = (uint64_t)w->n_tokens;
    bytes_add(&w->offsets, &end, 8);
    bytes_add(&w->key, &key, 8);
    bytes_add(&w->statics, statics, sizeof *statics * (size_t)(w->n_static + 1));
    bytes_add(&w->observation_end, &observation_end, 4);
    bytes_add(&w->group, group, (size_t)w->n_groups);
    return OK;
}

int64_t shard_writer_tokens(const ShardWriter *w) { return w->n_tokens; }

/* One array of the shard: where its bytes come from and where they go. */
typedef struct {
    char name[32];
    hid_t type;
    size_t item;
    int ndim;
    hsize_t dim[2];
    const void *data; /* in memory, or */
    FILE *spool;      /* long: its checksums go to crc */
    uint32_t *crc;
    int64_t place;
} Array;

enum { ARRAYS_MAX = 11 };
typedef struct {
    int n;
    Array array[ARRAYS_MAX];
    int64_t bytes;
} Layout;

static Array *layout_add(Layout *l, const char *name, hid_t type, size_t item, int ndim, int64_t rows,
                         int64_t columns) {
    REQUIRE(l->n < ARRAYS_MAX);
    Array *a = &l->array[l->n++];
    *a = (Array){.type = type, .item = item, .ndim = ndim, .dim = {(hsize_t)rows, (hsize_t)columns}};
    snprintf(a->name, sizeof a->name, "%s", name);
    l->bytes += rows * columns * (int64_t)item;
    return a;
}

/* A long array, and its checksums right behind it: they are known when the array has been copied. */
static void layout_add_long(Layout *l, const ShardWriter *w, const char *name, hid_t type, size_t item, FILE *spool) {
    int64_t n_blocks = (w->n_tokens + SHARD_CRC_TOKENS - 1) / SHARD_CRC_TOKENS;
    char crc_name[32];
    snprintf(crc_name, sizeof crc_name, "%s_crc32c", name);
    Array *a = layout_add(l, name, type, item, 1, w->n_tokens, 1);
    a->spool = spool;
    a->crc = xcalloc((size_t)n_blocks, sizeof *a->crc);
    layout_add(l, crc_name, H5T_STD_U32LE, 4, 1, n_blocks, 1)->data = a->crc;
}

static void layout_of(Layout *l, const ShardWriter *w) {
    int64_t P = w->n_patients;
    *l = (Layout){.n = 0};
    layout_add(l, "patient_offsets", H5T_STD_U64LE, 8, 1, P + 1, 1)->data = w->offsets.data;
    layout_add(l, "patient_key", H5T_STD_U64LE, 8, 1, P, 1)->data = w->key.data;
    layout_add(l, "patient_static", H5T_STD_U16LE, 2, 2, P, w->n_static + 1)->data = w->statics.data;
    layout_add(l, "observation_end", H5T_STD_I32LE, 4, 1, P, 1)->data = w->observation_end.data;
    layout_add(l, "patient_group", H5T_STD_U8LE, 1, 2, P, w->n_groups)->data = w->group.data;
    layout_add_long(l, w, "tokens", w->wide ? H5T_STD_U32LE : H5T_STD_U16LE, w->wide ? 4 : 2, w->tokens);
    layout_add_long(l, w, "minutes", H5T_STD_I32LE, 4, w->minutes);
    if (w->with_oracle) layout_add_long(l, w, "oracle_logp", H5T_IEEE_F32LE, 4, w->oracle);
}

static Status write_structure(const ShardWriter *w, Layout *l, const char *deidentification, const char *vocabulary,
                              Err *err) {
    hid_t file;
    uint32_t crc = 0;
    Status status = h5_create(&file, w->tmp, err);
    if (status) return status;
    const Bytes *patients[] = {&w->offsets, &w->key, &w->statics, &w->observation_end, &w->group};
    for (size_t i = 0; i < sizeof patients / sizeof *patients; i++)
        crc = crc32c(crc, patients[i]->data, patients[i]->size);
    status = h5_write_text(file, w->tmp, "format", SHARD_FORMAT, err);
    if (!status) status = h5_write_int(file, w->tmp, "format_version", SHARD_FORMAT_VERSION, err);
    if (!status) status = h5_write_text(file, w->tmp, "vocabulary_sha256", vocabulary, err);
    if (!status) status = h5_write_text(file, w->tmp, "deidentification", deidentification, err);
    if (!status) status = h5_write_int(file, w->tmp, "patients_crc32c", crc, err);
    for (int i = 0; i < l->n && !status; i++) {
        Array *a = &l->array[i];
        status = h5_place_dataset(file, w->tmp, a->name, a->type, a->ndim, a->dim, &a->place, err);
    }
    if (H5Fclose(file) < 0 && !status) status = err_set(err, ERR_IO, "cannot write %s (disk full?)", w->tmp);
    return status;
}

static Status copy_spool(const ShardWriter *w, int fd, const Array *a, Err *err) {
    char *block = xmalloc(SHARD_CRC_TOKENS * a->item);
    Status status = OK;
    rewind(a->spool);
    for (int64_t start = 0; start < w->n_tokens && !status; start += SHARD_CRC_TOKENS) {
        int64_t n = w->n_tokens - start < SHARD_CRC_TOKENS ? w->n_tokens - start : SHARD_CRC_TOKENS;
        if (fread(block, a->item, (size_t)n, a->spool) != (size_t)n)
            status = err_set(err, ERR_IO, "cannot read back /%s of %s: %s", a->name, w->path, strerror(errno));
        else status = h5_write_at(fd, w->tmp, block, a->item * (size_t)n, a->place + start * (int64_t)a->item, err);
        a->crc[start / SHARD_CRC_TOKENS] = crc32c(0, block, a->item * (size_t)n);
    }
    free(block);
    return status;
}

static Status write_arrays(const ShardWriter *w, const Layout *l, int fd, Err *err) {
    if (fd < 0) return err_set(err, ERR_IO, "cannot write %s: %s", w->tmp, strerror(errno));
    Status status = OK;
    for (int i = 0; i < l->n && !status; i++) {
        const Array *a = &l->array[i];
        size_t size = (size_t)(a->dim[0] * (a->ndim == 2 ? a->dim[1] : 1)) * a->item;
        if (a->spool) status = copy_spool(w, fd, a, err);
        else if (size) status = h5_write_at(fd, w->tmp, a->data, size, a->place, err);
    }
    return status;
}

Status shard_writer_close(ShardWriter *w, const char *deidentification_json, const char *vocabulary_sha256, Err *err) {
    Layout l;
    Status status = OK;
    FILE *spool[] = {w->tokens, w->minutes, w->oracle};
    for (size_t i = 0; i < sizeof spool / sizeof *spool && !status; i++)
        if (spool[i] && fflush(spool[i]))
            status = err_set(err, ERR_IO, "cannot write %s: %s", w->path, strerror(errno));
    layout_of(&l, w);
    if (!status) status = h5_probe(w->tmp, l.bytes, (int64_t)strlen(deidentification_json), err);
    if (!status) status = write_structure(w, &l, deidentification_json, vocabulary_sha256, err);
    int fd = status ? -1 : open(w->tmp, O_WRONLY | O_CLOEXEC);
    if (!status) status = write_arrays(w, &l, fd, err);
    status = h5_publish(fd, w->tmp, w->path, status, err);
    for (int i = 0; i < l.n; i++) free(l.array[i].crc);
    writer_free(w);
    return status;
}

void shard_writer_abort(ShardWriter *w) {
    if (w) writer_free(w);
}

/* ---- mapping ----------------------------------------------------------------------------------------------------- */

/* Points *out at the data of a dataset: inside the map when HDF5 says where they lie, read into memory otherwise. */
static Status shard_array(Shard *s, hid_t file, const char *name, hid_t type, size_t item, int ndim, hsize_t *dim,
                          const void **out, Err *err) {
    hid_t set;
    Status status = h5_open_dataset(&set, file, s->path, name, ndim, dim, err);
    if (status) return status;
    hid_t actual = H5Dget_type(set);
    hsize_t count = ndim == 2 ? dim[1] : 1;
    *out = "";
    if (actual < 0 || H5Tequal(actual, type) <= 0)
        status = err_set(err, ERR_FORMAT, "%s: /%s has the wrong number type", s->path, name);
    else if (dim[0] > s->map_size || count > 65536 || dim[0] * count > s->map_size / item)
        status = err_set(err, ERR_FORMAT, "%s: /%s is larger than the file", s->path, name);
    else if (dim[0] * count > 0) {
        haddr_t at = H5Dget_offset(set);
        size_t size = (size_t)(dim[0] * count) * item;
        if (at != HADDR_UNDEF && at <= s->map_size - size && at % item == 0) {
            *out = (const char *)s->map + at;
        } else if (at != HADDR_UNDEF && at > s->map_size - size) {
            status = err_set(err, ERR_FORMAT, "%s: /%s lies beyond the end of the file (truncated?)", s->path, name);
        } else {
            void *copy = try_calloc(1, size);
            if (!copy) status = err_set(err, ERR_NOMEM, "%s: no memory for /%s (%zu bytes)", s->path, name, size);
            else s->read[s->n_read++] = copy;
            if (copy && H5Dread(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, copy) < 0)
                status = err_set(err, ERR_FORMAT, "%s: /%s cannot be read (damaged?)", s->path, name);
            *out = copy;
        }
    }
    if (actual >= 0) H5Tclose(actual);
    H5Dclose(set);
    return status;
}

static Status expect(const Shard *s, const char *name, hsize_t got, hsize_t want, Err *err) {
    return got == want ? OK
                       : err_set(err, ERR_FORMAT, "%s: /%s has %llu rows, %llu were expected", s->path, name,
                                 (unsigned long long)got, (unsigned long long)want);
}

static Status map_long(Shard *s, hid_t file, const char *name, hid_t type, size_t item, const void **data,
                       const uint32_t **crc, Err *err) {
    hsize_t dim[2] = {0}, n = (hsize_t)s->n_tokens;
    char *crc_name = xasprintf("%s_crc32c", name);
    Status status = shard_array(s, file, name, type, item, 1, dim, data, err);
    if (!status) status = expect(s, name, dim[0], n, err);
    if (!status) status = shard_array(s, file, crc_name, H5T_STD_U32LE, 4, 1, dim, (const void **)crc, err);
    if (!status) status = expect(s, crc_name, dim[0], (n + SHARD_CRC_TOKENS - 1) / SHARD_CRC_TOKENS, err);
    free(crc_name);
    return status;
}

static Status map_patients(Shard *s, hid_t file, Err *err) {
    hsize_t dim[2] = {0}, P;
    Status status = shard_array(s, file, "patient_offsets", H5T_STD_U64LE, 8, 1, dim, (const void **)&s->offsets, err);
    if (status) return status;
    if (dim[0] < 1) return err_set(err, ERR_FORMAT, "%s: /patient_offsets is empty", s->path);
    P = dim[0] - 1;
    s->n_patients = (int64_t)P;
    status = shard_array(s, file, "patient_key", H5T_STD_U64LE, 8, 1, dim, (const void **)&s->key, err);
    if (!status) status = expect(s, "patient_key", dim[0], P, err);
    if (!status)
        status = shard_array(s, file, "patient_static", H5T_STD_U16LE, 2, 2, dim, (const void **)&s->statics, err);
    if (!status) status = expect(s, "patient_static", dim[0], P, err);
    if (!status && dim[1] < 1) status = err_set(err, ERR_FORMAT, "%s: /patient_static has no columns", s->path);
    if (status) return status;
    s->n_static = (int)dim[1] - 1;
    status = shard_array(s, file, "observation_end", H5T_STD_I32LE, 4, 1, dim, (const void **)&s->observation_end, err);
    if (!status) status = expect(s, "observation_end", dim[0], P, err);
    if (!status) status = shard_array(s, file, "patient_group", H5T_STD_U8LE, 1, 2, dim, (const void **)&s->group, err);
    if (!status) status = expect(s, "patient_group", dim[0], P, err);
    if (!status) s->n_groups = (int)dim[1];
    return status;
}

static Status check_patients(const Shard *s, hid_t file, Err *err) {
    size_t P = (size_t)s->n_patients;
    int64_t want;
    uint32_t crc = crc32c(0, s->offsets, 8 * (P + 1));
    crc = crc32c(crc, s->key, 8 * P);
    crc = crc32c(crc, s->statics, 2 * P * (size_t)(s->n_static + 1));
    crc = crc32c(crc, s->observation_end, 4 * P);
    crc = crc32c(crc, s->group, P * (size_t)s->n_groups);
    Status status = h5_read_int(file, s->path, "patients_crc32c", &want, err);
    if (status) return status;
    if (want != crc)
        return err_set(err, ERR_FORMAT, "%s is damaged: the checksum of its patient arrays does not match", s->path);
    if (s->offsets[0] != 0) return err_set(err, ERR_FORMAT, "%s: /patient_offsets does not begin with 0", s->path);
    for (size_t p = 0; p < P; p++)
        if (s->offsets[p + 1] < s->offsets[p] || s->offsets[p + 1] > s->map_size)
            return err_set(err, ERR_FORMAT, "%s: /patient_offsets descends or leaves the file at patient %zu", s->path,
                           p);
    return OK;
}

static Status shard_read(Shard *s, hid_t file, Err *err) {
    char *format = NULL, *vocabulary = NULL;
    int64_t version = 0;
    Status status = h5_read_text(file, s->path, "format", &format, err);
    if (!status && strcmp(format, SHARD_FORMAT))
        status = err_set(err, ERR_FORMAT, "%s is a file of \"%s\", a shard was expected", s->path, format);
    free(format);
    if (!status) status = h5_read_int(file, s->path, "format_version", &version, err);
    if (!status && version != SHARD_FORMAT_VERSION)
        status = err_set(err, ERR_FORMAT, "%s has format version %lld; this program reads %d", s->path,
                         (long long)version, SHARD_FORMAT_VERSION);
    if (!status) status = h5_read_text(file, s->path, "deidentification", &s->deidentification, err);
    if (!status) status = h5_read_text(file, s->path, "vocabulary_sha256", &vocabulary, err);
    if (!status) snprintf(s->vocabulary_sha256, sizeof s->vocabulary_sha256, "%s", vocabulary);
    free(vocabulary);
    if (!status) status = map_patients(s, file, err);
    if (!status) status = check_patients(s, file, err);
    if (status) return status;
    s->n_tokens = (int64_t)s->offsets[s->n_patients];
    hsize_t dim[2];
    hid_t set;
    if ((status = h5_open_dataset(&set, file, s->path, "tokens", 1, dim, err))) return status;
    hid_t type = H5Dget_type(set);
    s->wide = type >= 0 && H5Tequal(type, H5T_STD_U32LE) > 0;
    if (type >= 0) H5Tclose(type);
    H5Dclose(set);
    status = map_long(s, file, "tokens", s->wide ? H5T_STD_U32LE : H5T_STD_U16LE, s->wide ? 4 : 2, &s->tokens,
                      &s->tokens_crc, err);
    if (!status)
        status = map_long(s, file, "minutes", H5T_STD_I32LE, 4, (const void **)&s->minutes, &s->minutes_crc, err);
    if (!status && H5Lexists(file, "oracle_logp", H5P_DEFAULT) > 0)
        status =
            map_long(s, file, "oracle_logp", H5T_IEEE_F32LE, 4, (const void **)&s->oracle_logp, &s->oracle_crc, err);
    return status;
}

static Status map_file(Shard *s, Err *err) {
    struct stat st;
    int fd = open(s->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* waits for no pipe */
    if (fd < 0) return err_set(err, ERR_IO, "cannot read %s: %s", s->path, strerror(errno));
    Status status = OK;
    if (fstat(fd, &st) || !S_ISREG(st.st_mode) || st.st_size < 1) {
        status = err_set(err, ERR_FORMAT, "%s is not a shard: it is empty or not a regular file", s->path);
    } else {
        s->map_size = (size_t)st.st_size;
        s->map = mmap(NULL, s->map_size, PROT_READ, MAP_SHARED, fd, 0);
        if (s->map == MAP_FAILED) {
            s->map = NULL;
            status = err_set(err, ERR_IO, "cannot map %s: %s", s->path, strerror(errno));
        }
    }
    close(fd);
    return status;
}

Status shard_open(Shard *s, const char *path, Err *err) {
    hid_t file;
    memset(s, 0, sizeof *s);
    s->path = xstrdup(path);
    Status status = map_file(s, err);
    if (!status) status = h5_open(&file, path, err);
    if (!status) {
        status = shard_read(s, file, err);
        H5Fclose(file);
    }
    if (!status) {
        size_t blocks = (size_t)(s->n_tokens / SHARD_CRC_TOKENS) + 1;
        s->block_checked = try_calloc(blocks, 1);
        s->patient_checked = try_calloc((size_t)s->n_patients, 1);
        if (!s->block_checked || !s->patient_checked)
            status = err_set(err, ERR_NOMEM, "%s: no memory to open it", path);
    }
    if (status) shard_close(s);
    return status;
}

void shard_close(Shard *s) {
    if (s->map) munmap(s->map, s->map_size);
    for (int i = 0; i < s->n_read; i++) free(s->read[i]);
    free((void *)s->block_checked);
    free((void *)s->patient_checked);
    free(s->deidentification);
    free(s->path);
    memset(s, 0, sizeof *s);
}

Status shard_check_blocks(Shard *s, int64_t first, int64_t end, Err *err) {
    for (int64_t b = first / SHARD_CRC_TOKENS; b * SHARD_CRC_TOKENS < end; b++) {
        if (atomic_load_explicit(&s->block_checked[b], memory_order_relaxed)) continue;
        int64_t start = b * SHARD_CRC_TOKENS;
        size_t n = (size_t)(s->n_tokens - start < SHARD_CRC_TOKENS ? s->n_tokens - start : SHARD_CRC_TOKENS);
        size_t item = s->wide ? 4 : 2;
        const char *bad = NULL;
        if (crc32c(0, (const char *)s->tokens + (size_t)start * item, n * item) != s->tokens_crc[b]) bad = "tokens";
        else if (crc32c(0, s->minutes + start, 4 * n) != s->minutes_crc[b]) bad = "minutes";
        else if (s->oracle_logp && crc32c(0, s->oracle_logp + start, 4 * n) != s->oracle_crc[b]) bad = "oracle_logp";
        if (bad)
            return err_set(
                err, ERR_FORMAT,
                "%s is damaged: the checksum of /%s does not match in block %lld (tokens from %lld); restore it "
                "from a copy or tokenize again",
                s->path, bad, (long long)b, (long long)start);
        atomic_store_explicit(&s->block_checked[b], 1, memory_order_relaxed);
    }
    return OK;
}
