/* adapter.c - see adapter.h. */
#include "model/adapter.h"
#include "model/checkpoint.h"
#include "model/sha256.h"
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- adapter_config.json ----------------------------------------------------------------------------------------- */

static json_t *number(double x) {
    return x == floor(x) && fabs(x) < 1e9 ? json_integer((json_int_t)x) : json_real(x);
}

Status adapter_config_write(const char *dir, const ModelConfig *cfg, Err *err) {
    const LoraConfig *l = &cfg->lora;
    json_t *modules = json_array(), *o = json_object();
    for (int p = 0; p < LORA_PROJECTIONS; p++)
        if (l->targets >> p & 1) json_array_append_new(modules, json_string(strchr(lora_projection_module((LoraProjection)p), '.') + 1));
    json_object_set_new(o, "peft_type", json_string("LORA"));
    json_object_set_new(o, "task_type", json_string("CAUSAL_LM"));
    json_object_set_new(o, "base_model_name_or_path", json_string(l->base));
    json_object_set_new(o, "r", json_integer(l->rank));
    json_object_set_new(o, "lora_alpha", number(l->alpha));
    json_object_set_new(o, "target_modules", modules);
    json_object_set_new(o, "modules_to_save",
                        !l->embeddings ? json_null() : cfg->tied ? json_pack("[s]", "embed_tokens") : json_pack("[s,s]", "embed_tokens", "lm_head"));
    if (l->embeddings && cfg->tied) json_object_set_new(o, "ensure_weight_tying", json_true());
    json_object_set_new(o, "lora_dropout", json_real(0));
    json_object_set_new(o, "bias", json_string("none"));
    json_object_set_new(o, "fan_in_fan_out", json_false());
    json_object_set_new(o, "use_rslora", json_false());
    json_object_set_new(o, "use_dora", json_false());
    json_object_set_new(o, "init_lora_weights", json_true());
    json_object_set_new(o, "inference_mode", json_true());
    char *text = json_dumps(o, JSON_INDENT(2)), *path = xasprintf("%s/%s", dir, ADAPTER_CONFIG);
    REQUIRE(text != NULL);
    Status s = file_write(path, text, strlen(text), err);
    json_decref(o);
    free(text);
    free(path);
    return s;
}

char *adapter_metadata(const LoraConfig *lora) {
    json_t *o = json_pack("{s:s, s:s}", "format", "pt", "base_model_sha256", lora->base_sha256);
    char *text = json_dumps(o, JSON_COMPACT);
    REQUIRE(text != NULL);
    json_decref(o);
    return text;
}

/* Absent, null, false, "none" and empty all mean "off". */
static int is_off(const json_t *v) {
    const char *text = json_string_value(v);
    return !v || json_is_null(v) || json_is_false(v) || (text && !strcmp(text, "none")) ||
           (json_is_object(v) && !json_object_size(v)) || (json_is_array(v) && !json_array_size(v));
}

static Status read_modules(const json_t *o, const char *path, LoraConfig *lora, Err *err) {
    const json_t *list = json_object_get(o, "target_modules"), *whole = json_object_get(o, "modules_to_save");
    if (!json_is_array(list))
        return err_set(err, ERR_FORMAT, "%s: target_modules is not a list of projections", path);
    char *names = xstrdup("");
    Status s = OK;
    for (size_t i = 0; i < json_array_size(list) && !s; i++) {
        const char *name = json_string_value(json_array_get(list, i));
        char *longer = xasprintf("%s%s%s", names, i ? "," : "", name ? name : "?");
        free(names);
        names = longer;
    }
    s = lora_targets_parse(names, path, &lora->targets, err);
    if (s) s = err->code = ERR_FORMAT;
    for (size_t i = 0; i < json_array_size(whole) && !s; i++) {
        const char *name = json_string_value(json_array_get(whole, i));
        if (!name || (strcmp(name, "embed_tokens") && strcmp(name, "lm_head")))
            s = err_set(err, ERR_FORMAT, "%s: modules_to_save names '%s'; embed_tokens and lm_head can be taken", path, name ? name : "?");
        lora->embeddings = 1;
    }
    free(names);
    return s;
}

static Status config_parse(const json_t *o, const char *path, LoraConfig *lora, Err *err) {
    static const char *const off[] = {"bias",          "fan_in_fan_out", "use_rslora",           "use_dora",     "rank_pattern",
                                      "alpha_pattern", "lora_bias",      "layers_to_transform", "layer_replication",
                                      "trainable_token_indices", "target_parameters"};
    const char *type = json_string_value(json_object_get(o, "peft_type")), *base = json_string_value(json_object_get(o, "base_model_name_or_path"));
    const json_t *rank = json_object_get(o, "r"), *alpha = json_object_get(o, "lora_alpha");
    if (!type || strcmp(type, "LORA"))
        return err_set(err, ERR_FORMAT, "%s: peft_type is '%s'; only 'LORA' can be loaded", path, type ? type : "missing");
    for (size_t i = 0; i < sizeof off / sizeof *off; i++)
        if (!is_off(json_object_get(o, off[i])))
            return err_set(err, ERR_FORMAT, "%s: %s is on, and cannot be loaded; merge the adapter with peft first", path, off[i]);
    if (!json_is_integer(rank) || json_integer_value(rank) < 1 || json_integer_value(rank) > 1 << 16)
        return err_set(err, ERR_FORMAT, "%s: r, the rank, is not a whole number from 1", path);
    if (!json_is_number(alpha) || !(json_number_value(alpha) > 0))
        return err_set(err, ERR_FORMAT, "%s: lora_alpha is not a number above 0", path);
    lora->rank = (int)json_integer_value(rank);
    lora->alpha = json_number_value(alpha);
    snprintf(lora->base, sizeof lora->base, "%s", base ? base : "");
    return read_modules(o, path, lora, err);
}

Status adapter_config_read(const char *dir, LoraConfig *lora, Err *err) {
    char *path = xasprintf("%s/%s", dir, ADAPTER_CONFIG), *text = NULL;
    size_t size;
    json_error_t why;
    *lora = (LoraConfig){0};
    Status s = file_read(path, 1 << 20, &text, &size, err);
    json_t *o = s ? NULL : json_loadb(text, size, JSON_REJECT_DUPLICATES, &why);
    if (!s && !json_is_object(o)) s = err_set(err, ERR_FORMAT, "%s is not a JSON object: %s", path, o ? "other JSON" : why.text);
    if (!s) s = config_parse(o, path, lora, err);
    json_decref(o);
    free(text);
    free(path);
    return s;
}

/* ---- the base model ---------------------------------------------------------------------------------------------- */

int adapter_there(const char *dir) {
    char *path = xasprintf("%s/%s", dir, ADAPTER_CONFIG);
    const int there = path_exists(path);
    free(path);
    return there;
}

/* path, or its `latest`; NULL: neither is a model. */
static char *model_folder(const char *path) {
    static const char *const at[] = {"", "/latest"};
    for (int i = 0; i < 2; i++) {
        char *folder = xasprintf("%s%s", path, at[i]), *config = xasprintf("%s/config.json", folder);
        const int there = path_exists(config);
        free(config);
        if (there) return folder;
        free(folder);
    }
    return NULL;
}

/* The recorded name from here, then from each folder above dir: a run that was moved together with its base finds it. */
static char *recorded_folder(const char *dir, const char *recorded) {
    char *found = *recorded ? model_folder(recorded) : NULL;
    char *above = realpath(dir, NULL);
    while (!found && above && *recorded && *recorded != '/') {
        char *slash = strrchr(above, '/');
        if (!slash) break;
        *slash = 0;
        char *path = xasprintf("%s/%s", above, recorded);
        found = model_folder(path);
        free(path);
    }
    free(above);
    return found;
}

static Status find_base(const char *dir, const char *base, const LoraConfig *lora, char **out, Err *err) {
    *out = base ? model_folder(base) : recorded_folder(dir, lora->base);
    if (!*out && base)
        return err_set(err, ERR_IO, "--base %s is no model: expected a folder with config.json and model.safetensors", base);
    if (!*out)
        return err_set(err, ERR_IO, "%s is an adapter, and the model it changes is not at '%s': give that folder with --base%s%.12s%s",
                       dir, lora->base, lora->base_sha256[0] ? " (its weights have sha256 " : "", lora->base_sha256,
                       lora->base_sha256[0] ? "...)" : "");
    if (!adapter_there(*out)) return OK;
    return err_set(err, ERR_FORMAT, "%s, the base of %s, is an adapter itself: merge it first, ehr-infer export %s --dtype f32 --out FOLDER",
                   *out, dir, *out);
}

static Status check_base(const char *dir, const char *base, const LoraConfig *lora, char sha[65], Err *err) {
    Status s = checkpoint_model_sha256(base, sha, err);
    if (s || !lora->base_sha256[0] || !strcmp(sha, lora->base_sha256)) return s;
    return err_set(err, ERR_FORMAT, "%s was trained on the model with sha256 %.12s... (then at '%s'), but %s has %.12s...: give the right "
                                    "folder with --base", dir, lora->base_sha256, lora->base, base, sha);
}

static void read_base_sha(const Safetensors *file, LoraConfig *lora) {
    json_t *o = file->metadata ? json_loads(file->metadata, 0, NULL) : NULL;
    const char *sha = json_string_value(json_object_get(o, "base_model_sha256"));
    if (sha && strlen(sha) == 64) memcpy(lora->base_sha256, sha, 65);
    json_decref(o);
}

/* ---- opening ----------------------------------------------------------------------------------------------------- */

static Status read_folder(Adapter *a, const char *dir, Err *err) {
    char *path = xasprintf("%s/%s", dir, ADAPTER_FILE);
    Status s = adapter_config_read(dir, &a->lora, err);
    if (!s) s = safetensors_open(&a->file, path, err);
    if (!s) read_base_sha(&a->file, &a->lora);
    free(path);
    return s;
}

Status adapter_read(const char *dir, LoraConfig *lora, Err *err) {
    Adapter a = {0};
    Status s = read_folder(&a, dir, err);
    *lora = a.lora;
    adapter_close(&a);
    return s;
}

Status adapter_open(Adapter *a, const char *dir, const char *base, Err *err) {
    char sha[65];
    *a = (Adapter){0};
    Status s = read_folder(a, dir, err);
    if (!s) s = find_base(dir, base, &a->lora, &a->base, err);
    if (!s) s = check_base(dir, a->base, &a->lora, sha, err);
    if (!s) a->used = xcalloc((size_t)a->file.n + 1, 1);
    if (s) adapter_close(a);
    return s;
}

void adapter_close(Adapter *a) {
    safetensors_close(&a->file);
    free(a->base);
    free(a->used);
    free(a->a);
    free(a->b);
    *a = (Adapter){0};
}

Status adapter_sha256(const char *dir, const char *base, char hex[65], Err *err) {
    char base_sha[65], file_sha[65], *path = xasprintf("%s/%s", dir, ADAPTER_FILE);
    Adapter a = {0};
    Status s = read_folder(&a, dir, err);
    if (!s && a.lora.base_sha256[0]) {
        memcpy(base_sha, a.lora.base_sha256, sizeof base_sha);
    } else {
        if (!s) s = find_base(dir, base, &a.lora, &a.base, err);
        if (!s) s = check_base(dir, a.base, &a.lora, base_sha, err);
    }
    if (!s) s = file_sha256(path, file_sha, err);
    if (!s) {
        char *all = xasprintf("%s %s %d %.17g", base_sha, file_sha, a.lora.rank, a.lora.alpha);
        bytes_sha256(all, strlen(all), hex);
        free(all);
    }
    adapter_close(&a);
    free(path);
    return s;
}

/* ---- merging ----------------------------------------------------------------------------------------------------- */

static const TensorInfo *find_used(Adapter *a, const char *name) {
    const TensorInfo *t = safetensors_find(&a->file, name);
    if (t) a->used[t - a->file.tensor] = 1;
    return t;
}

int adapter_whole(Adapter *a, const char *name) {
    char *full = xasprintf("base_model.model.%s", name);
    const int there = safetensors_find(&a->file, full) != NULL;
    free(full);
    return there;
}

static Status check_shape(const Adapter *a, const TensorInfo *t, int64_t rows, int64_t cols, Err *err) {
    char shape[96];
    if (t->ndim == 2 && t->dim[0] == rows && t->dim[1] == cols) return OK;
    safetensors_shape(t, shape, sizeof shape);
    return err_set(err, ERR_FORMAT, "%s: tensor %s is %s; base model and rank %d ask for [%lld, %lld]", a->file.path, t->name, shape,
                   a->lora.rank, (long long)rows, (long long)cols);
}

static Status read_factor(const Adapter *a, const TensorInfo *t, int64_t rows, int64_t cols, float **out, Err *err) {
    Status s = check_shape(a, t, rows, cols, err);
    if (s) return s;
    *out = xmalloc((size_t)(rows * cols) * sizeof **out);
    return safetensors_floats(&a->file, t, 0, rows * cols, *out, err);
}

/* A and B of a projection, kept until another is asked for. */
static Status take_projection(Adapter *a, const char *name, int64_t rows, int64_t cols, Err *err) {
    const size_t end = strlen(name), tail = strlen(".weight");
    Status s = OK;
    if (!strcmp(a->name, name)) return OK;
    free(a->a);
    free(a->b);
    a->a = a->b = NULL;
    snprintf(a->name, sizeof a->name, "%s", name);
    if (end <= tail || strcmp(name + end - tail, ".weight")) return OK;
    const int stem = (int)(end - tail);
    char *names[2] = {xasprintf("base_model.model.%.*s.lora_A.weight", stem, name),
                      xasprintf("base_model.model.%.*s.lora_B.weight", stem, name)};
    const TensorInfo *ta = find_used(a, names[0]), *tb = find_used(a, names[1]);
    if (ta && tb) {
        s = read_factor(a, ta, a->lora.rank, cols, &a->a, err);
        if (!s) s = read_factor(a, tb, rows, a->lora.rank, &a->b, err);
    } else if (ta || tb) {
        s = err_set(err, ERR_FORMAT, "%s: tensor %s is missing", a->file.path, names[ta ? 1 : 0]);
    }
    free(names[0]);
    free(names[1]);
    return s;
}

/* values (count) of one row, from column c: += scale * b (rank) @ A. */
static void add_row(const Adapter *a, const float *b, int64_t cols, int64_t c, int64_t count, float *values) {
    enum { BLOCK = 256 };
    const double scale = a->lora.alpha / a->lora.rank;
    for (int64_t at = 0; at < count; at += BLOCK) {
        double sum[BLOCK] = {0};
        const int64_t n = count - at < BLOCK ? count - at : BLOCK;
        for (int i = 0; i < a->lora.rank; i++) {
            const float *line = a->a + i * cols + c + at;
            for (int64_t k = 0; k < n; k++) sum[k] += (double)b[i] * (double)line[k];
        }
        for (int64_t k = 0; k < n; k++) values[at + k] = (float)((double)values[at + k] + scale * sum[k]);
    }
}

Status adapter_merge(Adapter *a, const char *name, int64_t rows, int64_t cols, int64_t from, int64_t count, float *values, Err *err) {
    char *full = xasprintf("base_model.model.%s", name);
    const TensorInfo *whole = find_used(a, full);
    free(full);
    if (whole) {
        Status s = check_shape(a, whole, rows, cols, err);
        return s ? s : safetensors_floats(&a->file, whole, from, count, values, err);
    }
    Status s = take_projection(a, name, rows, cols, err);
    if (s || !a->a) return s;
    const int64_t first = from / cols, last = (from + count - 1) / cols;
#pragma omp parallel for schedule(static)
    for (int64_t r = first; r <= last; r++) {
        const int64_t begin = r * cols > from ? r * cols : from, end = (r + 1) * cols < from + count ? (r + 1) * cols : from + count;
        add_row(a, a->b + r * a->lora.rank, cols, begin - r * cols, end - begin, values + (begin - from));
    }
    return OK;
}

Status adapter_check_used(const Adapter *a, Err *err) {
    for (int i = 0; i < a->file.n; i++)
        if (!a->used[i] && strcmp(a->file.tensor[i].name, ADAPTER_TIED_HEAD))
            return err_set(err, ERR_FORMAT, "%s: tensor %s belongs to no matrix of the base model", a->file.path, a->file.tensor[i].name);
    return OK;
}
