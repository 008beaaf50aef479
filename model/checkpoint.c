/* checkpoint.c - the files of a checkpoint; folders, links and pruning are in checkpoint_dirs.c.
 *
 * The parameter table says where each file tensor lies in the padded arena (a run of rows).  Writing and reading
 * intersect arena ranges with those runs; nothing depends on who holds which range. */
#include "model/checkpoint.h"
#include "model/adapter.h"
#include "model/hf_files.h"
#include "model/safetensors.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PIECE = 1 << 20 }; /* elements moved at a time between files and a GPU */
static const char MODEL_FILE[] = "model.safetensors", INDEX_FILE[] = "model.safetensors.index.json", METADATA[] = "{\"format\":\"pt\"}";

static int64_t max64(int64_t a, int64_t b) {
    return a > b ? a : b;
}
static int64_t min64(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* ---- which tensors the files hold -------------------------------------------------------------------------------- */

typedef struct {
    TensorInfo info;      /* name, dtype, shape; begin and end once laid out */
    int64_t begin, count; /* elements of the arena */
} FileTensor;

/* prefix: "" for weights (of adapters, what is trained); "exp_avg." and "exp_avg_sq." list trainable parameters only.
 * Appends to *list. */
static void list_tensors(const ParamTable *table, const char *prefix, FileTensor **list, int *n) {
    *list = xrealloc(*list, ((size_t)*n + (size_t)table->n * PARAM_SLICES_MAX + 1) * sizeof **list);
    for (int i = 0; i < table->n; i++) {
        const ParamSpec *s = &table->spec[i];
        int64_t at = s->offset;
        if ((prefix[0] || table->adapter) && !s->trainable) continue;
        for (int k = 0; k < s->n_slices; k++) {
            FileTensor *t = &(*list)[(*n)++];
            *t = (FileTensor){.begin = at, .count = s->slice_rows[k] * s->cols};
            t->info = (TensorInfo){.dtype = DTYPE_F32, .ndim = s->ndim, .dim = {s->slice_rows[k], s->cols}};
            snprintf(t->info.name, sizeof t->info.name, "%s%s", prefix, s->slice_name[k]);
            at += t->count;
        }
        /* Of tied weights peft asks for both names. */
        if (prefix[0] || !table->adapter || s->layer >= 0 || param_find(table, "head") >= 0) continue;
        (*list)[*n] = (*list)[*n - 1];
        snprintf((*list)[*n].info.name, sizeof (*list)[*n].info.name, "%s", ADAPTER_TIED_HEAD);
        ++*n;
    }
}

static void list_all(const ParamTable *table, const char *what, FileTensor **list, int *n) {
    *list = NULL;
    *n = 0;
    if (!strcmp(what, "model")) {
        list_tensors(table, "", list, n);
    } else {
        list_tensors(table, "exp_avg.", list, n);
        list_tensors(table, "exp_avg_sq.", list, n);
    }
}

/* ---- begin ------------------------------------------------------------------------------------------------------- */

static Status create_file(const char *dir, const char *name, const char *metadata, const FileTensor *list, int n, Err *err) {
    TensorInfo *info = xcalloc((size_t)n, sizeof *info);
    for (int i = 0; i < n; i++) info[i] = list[i].info;
    char *path = xasprintf("%s/%s", dir, name);
    Status s = safetensors_create(path, info, n, metadata, err);
    free(path);
    free(info);
    return s;
}

/* First tensor of the file after the one that starts at `from`: as many whole tensors as fit, one at least. */
static int file_end(const FileTensor *list, int n, int from, int64_t max_bytes) {
    int64_t bytes = 0;
    int i = from;
    while (i < n && (i == from || bytes + list[i].count * 4 <= max_bytes)) bytes += list[i++].count * 4;
    return i;
}

static Status create_optimizer_files(const char *dir, const ParamTable *table, int64_t max_bytes, Err *err) {
    FileTensor *list;
    int n, files = 0;
    Status s = OK;
    list_all(table, "optimizer", &list, &n);
    for (int i = 0; i < n; i = file_end(list, n, i, max_bytes)) files++;
    for (int i = 0, end, file = 1; i < n && !s; i = end, file++) {
        char name[64];
        end = file_end(list, n, i, max_bytes);
        snprintf(name, sizeof name, "optimizer-%05d-of-%05d.safetensors", file, files);
        s = create_file(dir, name, METADATA, list + i, end - i, err);
    }
    free(list);
    return s;
}

static Status write_text(const char *dir, const char *name, const char *text, Err *err) {
    char *path = xasprintf("%s/%s", dir, name);
    Status s = file_write(path, text, strlen(text), err);
    free(path);
    return s;
}

Status checkpoint_begin(const char *dir, const ModelConfig *cfg, const ParamTable *table, const char *vocabulary_json,
                        const char *trainer_json, int with_optimizer, int64_t max_file_bytes, Err *err) {
    SpecialIds ids;
    Status s = path_exists(dir) ? checkpoint_remove(dir, err) : OK;
    if (!s) s = dir_make(dir, err);
    if (!s) s = hf_files_write(dir, vocabulary_json, cfg->vocab_size, &ids, err);
    if (!s) s = config_write(dir, cfg, ids.pad, ids.bos, ids.eos, err);
    if (!s) s = write_text(dir, "vocabulary.json", vocabulary_json, err);
    if (!s) s = write_text(dir, "trainer.json", trainer_json, err);
    if (!s && table->adapter) s = adapter_config_write(dir, cfg, err);
    if (!s) {
        FileTensor *list;
        int n;
        char *metadata = table->adapter ? adapter_metadata(&cfg->lora) : xstrdup(METADATA);
        list_all(table, "model", &list, &n);
        s = create_file(dir, table->adapter ? ADAPTER_FILE : MODEL_FILE, metadata, list, n, err);
        free(list);
        free(metadata);
    }
    if (!s && with_optimizer)
        s = create_optimizer_files(dir, table, max_file_bytes > 0 ? max_file_bytes : (int64_t)4 << 30, err);
    return s;
}

/* ---- the files that hold one kind of tensor ---------------------------------------------------------------------- */

typedef struct {
    int n;
    Safetensors *file;
    int *fd; /* for writing, -1 until used */
} Store;

static void store_close(Store *st) {
    for (int i = 0; i < st->n; i++) {
        safetensors_close(&st->file[i]);
        if (st->fd[i] >= 0) close(st->fd[i]);
    }
    free(st->file);
    free(st->fd);
    *st = (Store){0};
}

static Status store_add(Store *st, const char *dir, const char *name, Err *err) {
    st->file = xrealloc(st->file, ((size_t)st->n + 1) * sizeof *st->file);
    st->fd = xrealloc(st->fd, ((size_t)st->n + 1) * sizeof *st->fd);
    char *path = xasprintf("%s/%s", dir, name);
    Status s = safetensors_open(&st->file[st->n], path, err);
    free(path);
    if (!s) st->fd[st->n++] = -1;
    return s;
}

/* M of the optimizer-NNNNN-of-MMMMM files in dir; 0: none. */
static int optimizer_files(const char *dir) {
    DIR *d = opendir(dir);
    int files = 0;
    for (struct dirent *e; d && (e = readdir(d));) {
        int i, m, end = 0;
        if (sscanf(e->d_name, "optimizer-%5d-of-%5d.safetensors%n", &i, &m, &end) == 2 && end && !e->d_name[end] &&
            m > files)
            files = m;
    }
    if (d) closedir(d);
    return files;
}

void model_files_free(ModelFiles *files) {
    for (int i = 0; i < files->n; i++) free(files->name[i]);
    free(files->name);
    *files = (ModelFiles){0};
}

static void model_files_add(ModelFiles *files, const char *name) {
    for (int i = 0; i < files->n; i++)
        if (!strcmp(files->name[i], name)) return;
    files->name = xrealloc(files->name, ((size_t)files->n + 1) * sizeof *files->name);
    files->name[files->n++] = xstrdup(name);
}

Status checkpoint_model_files(const char *dir, ModelFiles *files, Err *err) {
    char *text, *index = xasprintf("%s/%s", dir, INDEX_FILE);
    size_t size;
    *files = (ModelFiles){0};
    const int there = path_exists(index);
    if (!there) model_files_add(files, MODEL_FILE);
    Status s = there ? checkpoint_read_text(dir, INDEX_FILE, &text, &size, err) : OK;
    if (there && !s) {
        json_t *o = json_loadb(text, size, JSON_REJECT_DUPLICATES, NULL), *map = json_object_get(o, "weight_map"), *file;
        const char *tensor;
        json_object_foreach(map, tensor, file) {
            const char *name = json_string_value(file);
            if (!name || !*name || strchr(name, '/')) s = err_set(err, ERR_FORMAT, "%s: tensor %.60s is in no plain file", index, tensor);
            else model_files_add(files, name);
        }
        if (!s && !files->n) s = err_set(err, ERR_FORMAT, "%s has no \"weight_map\" of tensors to files", index);
        json_decref(o);
        free(text);
    }
    free(index);
    if (s) model_files_free(files);
    return s;
}

/* what: "model", "adapter" or a moment. */
static Status store_open(Store *st, const char *dir, const char *what, Err *err) {
    *st = (Store){0};
    Status s = OK;
    if (!strcmp(what, "adapter")) {
        s = store_add(st, dir, ADAPTER_FILE, err);
    } else if (!strcmp(what, "model")) {
        ModelFiles files;
        s = checkpoint_model_files(dir, &files, err);
        for (int i = 0; i < files.n && !s; i++) s = store_add(st, dir, files.name[i], err);
        model_files_free(&files);
    } else {
        const int files = optimizer_files(dir);
        if (!files)
            s = err_set(err, ERR_IO,
                        "%s has no optimizer state (optimizer-*.safetensors): training cannot go on from it", dir);
        for (int i = 1; i <= files && !s; i++) {
            char name[64];
            snprintf(name, sizeof name, "optimizer-%05d-of-%05d.safetensors", i, files);
            s = store_add(st, dir, name, err);
        }
    }
    if (s) store_close(st);
    return s;
}

/* The files of `what` that a model with this table has. */
static const char *files_of(const ParamTable *table, const char *what) {
    return table->adapter && !strcmp(what, "model") ? "adapter" : what;
}

static const TensorInfo *store_find(const Store *st, const char *name, int *file) {
    for (*file = 0; *file < st->n; (*file)++) {
        const TensorInfo *t = safetensors_find(&st->file[*file], name);
        if (t) return t;
    }
    return NULL;
}

static int same_shape(const TensorInfo *a, const TensorInfo *b) {
    return a->ndim == b->ndim && !memcmp(a->dim, b->dim, (size_t)a->ndim * sizeof *a->dim);
}

static int listed(const FileTensor *list, int n, const char *name) {
    for (int i = 0; i < n; i++)
        if (!strcmp(list[i].info.name, name)) return 1;
    return 0;
}

/* Every expected tensor is there with its shape, and nothing else is. */
static Status store_check(const Store *st, const char *dir, const FileTensor *list, int n, Err *err) {
    int file, found = 0;
    for (int i = 0; i < n; i++) {
        const TensorInfo *want = &list[i].info, *have = store_find(st, want->name, &file);
        char a[96], b[96];
        safetensors_shape(want, b, sizeof b);
        if (!have) return err_set(err, ERR_FORMAT, "%s: tensor %s %s is missing", dir, want->name, b);
        safetensors_shape(have, a, sizeof a);
        if (!same_shape(have, want))
            return err_set(err, ERR_FORMAT, "%s: tensor %s is %s but config.json asks for %s", st->file[file].path,
                           want->name, a, b);
        if (have->dtype != DTYPE_F32 && have->dtype != DTYPE_BF16)
            return err_set(err, ERR_FORMAT, "%s: tensor %s is %s; F32 and BF16 can be loaded", st->file[file].path,
                           want->name, dtype_name(have->dtype));
        found++;
    }
    for (file = 0; file < st->n; file++)
        for (int i = 0; i < st->file[file].n; i++)
            if (!listed(list, n, st->file[file].tensor[i].name))
                return err_set(err, ERR_FORMAT, "%s: tensor %s does not belong to the model that config.json describes",
                               st->file[file].path, st->file[file].tensor[i].name);
    int total = 0;
    for (file = 0; file < st->n; file++) total += st->file[file].n;
    return total == found ? OK : err_set(err, ERR_FORMAT, "%s: a tensor is in two files", dir);
}

/* ---- write ------------------------------------------------------------------------------------------------------- */

static Status write_at(Store *st, int file, const float *data, int64_t count, int64_t offset, Err *err) {
    const char *path = st->file[file].path, *p = (const char *)data;
    if (st->fd[file] < 0 && (st->fd[file] = open(path, O_WRONLY | O_CLOEXEC)) < 0)
        return err_set(err, ERR_IO, "cannot write %s: %s", path, strerror(errno));
    for (int64_t left = count * 4; left > 0;) {
        const ssize_t n = pwrite(st->fd[file], p, (size_t)min64(left, 1 << 30), offset);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return err_set(err, ERR_IO, "cannot write %s: %s", path, n ? strerror(errno) : "nothing written");
        p += n;
        offset += n;
        left -= n;
    }
    return OK;
}

/* The same from device memory. */
static Status write_device(Store *st, int file, Device *dev, const float *data, int64_t count, int64_t offset, Err *err) {
    if (device_kind(dev) == DEVICE_CPU) return write_at(st, file, data, count, offset, err);
    float *piece = xmalloc((size_t)min64(count, PIECE) * sizeof *piece);
    Status s = OK;
    for (int64_t at = 0; at < count && !s; at += PIECE) {
        const int64_t n = min64(PIECE, count - at);
        device_download(dev, piece, data + at, (size_t)n * sizeof *piece);
        if (device_error(dev)) s = err_set(err, ERR_DEVICE, "%s: %s", device_name(dev), device_error(dev));
        if (!s) s = write_at(st, file, piece, n, offset + at * 4, err);
    }
    free(piece);
    return s;
}

static Status write_slice(Store *st, const FileTensor *list, int n, Device *dev, const ArenaSlice *s, Err *err) {
    Status status = OK;
    for (int i = 0; i < n && !status; i++) {
        const FileTensor *t = &list[i];
        const int64_t lo = max64(t->begin, s->begin), hi = min64(t->begin + t->count, s->begin + s->count);
        if (lo >= hi) continue;
        int file;
        const TensorInfo *info = store_find(st, t->info.name, &file);
        if (!info || !same_shape(info, &t->info) || info->dtype != DTYPE_F32)
            return err_set(err, ERR_FORMAT, "tensor %s has no place in the checkpoint begun there", t->info.name);
        status = write_device(st, file, dev, s->data + (lo - s->begin), hi - lo, info->begin + (lo - t->begin) * 4, err);
    }
    return status;
}

static Status write_kind(const char *dir, const ParamTable *table, const char *what, Device *dev,
                         const ArenaSlice *slices, int n_slices, Err *err) {
    FileTensor *list = NULL;
    Store st;
    int n = 0;
    Status s = store_open(&st, dir, files_of(table, what), err);
    if (s) return s;
    char prefix[16] = "";
    if (strcmp(what, "model")) snprintf(prefix, sizeof prefix, "%s.", what);
    list_tensors(table, prefix, &list, &n);
    for (int i = 0; i < n_slices && !s; i++) s = write_slice(&st, list, n, dev, &slices[i], err);
    for (int i = 0; i < st.n && !s; i++)
        if (st.fd[i] >= 0 && fsync(st.fd[i]))
            s = err_set(err, ERR_IO, "cannot write %s: %s", st.file[i].path, strerror(errno));
    store_close(&st);
    free(list);
    return s;
}

Status checkpoint_write_slices(const char *dir, const ParamTable *table, Device *dev, const ArenaSlice *master,
                               const ArenaSlice *m, const ArenaSlice *v, int n_slices, Err *err) {
    Status s = write_kind(dir, table, "model", dev, master, n_slices, err);
    if (!s && m) s = write_kind(dir, table, "exp_avg", dev, m, n_slices, err);
    if (!s && v) s = write_kind(dir, table, "exp_avg_sq", dev, v, n_slices, err);
    return s;
}

/* ---- read -------------------------------------------------------------------------------------------------------- */

/* Elements [from, from + count) of a tensor to device memory. */
static Status read_device(const Safetensors *st, const TensorInfo *t, int64_t from, int64_t count, Device *dev, float *out,
                          Err *err) {
    if (device_kind(dev) == DEVICE_CPU) return safetensors_floats(st, t, from, count, out, err);
    float *piece = xmalloc((size_t)min64(count, PIECE) * sizeof *piece);
    Status s = OK;
    for (int64_t at = 0; at < count && !s; at += PIECE) {
        const int64_t n = min64(PIECE, count - at);
        s = safetensors_floats(st, t, from + at, n, piece, err);
        if (!s) device_upload(dev, out + at, piece, (size_t)n * sizeof *piece);
    }
    free(piece);
    return s;
}

Status checkpoint_read_slice(const char *dir, const ParamTable *table, const char *what, Device *dev, float *out,
                             int64_t begin, int64_t count, Err *err) {
    REQUIRE(begin >= 0 && count >= 0 && count <= table->total - begin);
    FileTensor *list;
    Store st;
    int n;
    Status s = store_open(&st, dir, files_of(table, what), err);
    if (s) return s;
    list_all(table, what, &list, &n);
    s = store_check(&st, dir, list, n, err);
    device_zero(dev, out, (size_t)count * sizeof *out);
    const size_t prefix = strlen(what);
    for (int i = 0; i < n && !s; i++) {
        const FileTensor *t = &list[i];
        if (strcmp(what, "model") && (strncmp(t->info.name, what, prefix) || t->info.name[prefix] != '.')) continue;
        const int64_t lo = max64(t->begin, begin), hi = min64(t->begin + t->count, begin + count);
        if (lo >= hi) continue;
        int file;
        const TensorInfo *info = store_find(&st, t->info.name, &file);
        s = read_device(&st.file[file], info, lo - t->begin, hi - lo, dev, out + (lo - begin), err);
    }
    if (!s && device_error(dev)) s = err_set(err, ERR_DEVICE, "%s: %s", device_name(dev), device_error(dev));
    store_close(&st);
    free(list);
    return s;
}

Status checkpoint_read_text(const char *dir, const char *name, char **out, size_t *size, Err *err) {
    char *path = xasprintf("%s/%s", dir, name);
    Status s = file_read(path, (size_t)1 << 28, out, size, err);
    free(path);
    return s;
}

/* What a folder without config.json probably is. */
static Status not_a_checkpoint(const char *dir, Err *err) {
    static const struct {
        const char *file, *hint;
    } hints[] = {{"dataset.json", "it is a dataset; train on it first (ehr-train --data), then give RUN/latest"},
                 {"latest/config.json", "it is a run; give its 'latest' or 'best' folder"},
                 {"log.jsonl", "it is a run without a whole checkpoint yet"}};
    for (size_t i = 0; i < sizeof hints / sizeof *hints; i++) {
        char *path = xasprintf("%s/%s", dir, hints[i].file);
        const int there = path_exists(path);
        free(path);
        if (there) return err_set(err, ERR_FORMAT, "%s is not a checkpoint (no config.json): %s", dir, hints[i].hint);
    }
    if (!path_is_dir(dir)) return err_set(err, ERR_IO, "there is no checkpoint folder %s", dir);
    return err_set(err, ERR_FORMAT, "%s is not a checkpoint: it has no config.json", dir);
}

static Status check_vocabulary(const char *dir, int vocab_size, Err *err) {
    char *text = NULL, *path = xasprintf("%s/vocabulary.json", dir);
    Status s = file_read(path, (size_t)1 << 28, &text, NULL, err);
    if (!s) s = hf_vocabulary_check(text, vocab_size, path, err);
    free(text);
    free(path);
    return s;
}

/* Before any memory is taken, so that a config.json that asks for a huge model meets the tensors first. */
static Status check_tensors(const char *dir, const ModelConfig *cfg, const Store *st, Err *err) {
    ParamTable table;
    FileTensor *list;
    int n;
    Status s = param_table_build(&table, cfg, 1, err);
    if (s) return s;
    list_all(&table, "model", &list, &n);
    s = store_check(st, dir, list, n, err);
    free(list);
    param_table_free(&table);
    return s;
}

/* adapter: merged into the tensors of its base, which may have fewer rows of the vocabulary; NULL: they are loaded as they are. */
static Status load_weights(Model *m, const Store *st, Adapter *adapter, Err *err) {
    FileTensor *list;
    int n;
    Status s = OK;
    list_all(&m->table, "model", &list, &n);
    float *buffer = xmalloc(PIECE * sizeof *buffer);
    for (int i = 0; i < n && !s; i++) {
        int file;
        const TensorInfo *want = &list[i].info, *info = store_find(st, want->name, &file);
        const int64_t have = info->dim[0] * (info->ndim > 1 ? info->dim[1] : 1);
        for (int64_t at = 0; at < list[i].count && !s; at += PIECE) {
            const int64_t count = min64(PIECE, list[i].count - at), there = max64(0, min64(count, have - at));
            memset(buffer + there, 0, (size_t)(count - there) * sizeof *buffer);
            s = safetensors_floats(&st->file[file], info, at, there, buffer, err);
            if (!s && adapter && want->ndim == 2) s = adapter_merge(adapter, want->name, want->dim[0], want->dim[1], at, count, buffer, err);
            if (!s) model_set_weights(m, buffer, list[i].begin + at, count);
        }
    }
    free(buffer);
    free(list);
    return s;
}

Status checkpoint_load_weights(const char *dir, Model *m, Err *err) {
    FileTensor *list;
    Store st;
    int n;
    Status s = store_open(&st, dir, files_of(&m->table, "model"), err);
    if (s) return s;
    list_all(&m->table, "model", &list, &n);
    s = store_check(&st, dir, list, n, err);
    if (!s) s = load_weights(m, &st, NULL, err);
    store_close(&st);
    free(list);
    return s;
}

/* The shape of a model and of the base that its adapter changes: all but the vocabulary and the longest sequence. */
static Status check_base_shape(const char *dir, const ModelConfig *cfg, Adapter *a, const ModelConfig *base, Err *err) {
    ModelConfig like = *base;
    like.vocab_size = cfg->vocab_size;
    like.vocab_padded = cfg->vocab_padded;
    like.seq_len = cfg->seq_len;
    like.init_std = cfg->init_std;
    if (memcmp(&like, cfg, offsetof(ModelConfig, lora)))
        return err_set(err, ERR_FORMAT, "%s, the base of the adapter %s, has another shape than config.json there", a->base, dir);
    const int whole = adapter_whole(a, "model.embed_tokens.weight") && (cfg->tied || adapter_whole(a, "lm_head.weight"));
    if (cfg->vocab_size == base->vocab_size || (whole && cfg->vocab_size > base->vocab_size)) return OK;
    return err_set(err, ERR_FORMAT, "%s is an adapter for %d tokens, its base %s has %d", dir, cfg->vocab_size, a->base, base->vocab_size);
}

static Status load_merged(const char *dir, const char *base, const ModelConfig *cfg, Model *m, Device *dev, DType dtype,
                          int64_t param_pad, Err *err) {
    Adapter a;
    ModelConfig base_cfg;
    Store st = {0};
    Status s = adapter_open(&a, dir, base, err);
    if (s) return s;
    s = config_read(a.base, &base_cfg, err);
    if (!s) s = check_base_shape(dir, cfg, &a, &base_cfg, err);
    if (!s) s = store_open(&st, a.base, "model", err);
    if (!s) s = check_tensors(a.base, &base_cfg, &st, err);
    if (!s) s = model_open(m, cfg, dev, dtype, param_pad, err);
    if (!s) {
        s = load_weights(m, &st, &a, err);
        if (!s) s = adapter_check_used(&a, err);
        if (s) model_close(m);
    }
    store_close(&st);
    adapter_close(&a);
    return s;
}

Status checkpoint_load_on(const char *dir, const char *base, Model *m, Device *dev, DType dtype, int64_t param_pad, Err *err) {
    ModelConfig cfg;
    Store st;
    char *config = xasprintf("%s/config.json", dir);
    const int there = path_exists(config), adapter = adapter_there(dir);
    free(config);
    *m = (Model){0};
    if (!there) return not_a_checkpoint(dir, err);
    if (base && !adapter) return err_set(err, ERR_USAGE, "--base belongs to an adapter; %s holds a whole model: leave it out", dir);
    Status s = config_read(dir, &cfg, err);
    if (!s) s = check_vocabulary(dir, cfg.vocab_size, err);
    if (!s && adapter) return load_merged(dir, base, &cfg, m, dev, dtype, param_pad, err);
    if (s || (s = store_open(&st, dir, "model", err))) return s;
    s = check_tensors(dir, &cfg, &st, err);
    if (!s) s = model_open(m, &cfg, dev, dtype, param_pad, err);
    if (!s && (s = load_weights(m, &st, NULL, err))) model_close(m);
    store_close(&st);
    return s;
}

Status checkpoint_load_model(const char *dir, Model *m, Device *dev, DType dtype, int64_t param_pad, Err *err) {
    return checkpoint_load_on(dir, NULL, m, dev, dtype, param_pad, err);
}
