/* config.c - presets, limits and config.json.  One table of JSON keys serves writing and reading the sizes, so that the
 * two cannot drift apart; whatever else a Qwen3 config may switch on (biases, sliding windows, rope scaling) is refused
 * on reading, because our block does not have it. */
#include "model/config.h"
#include "model/lora.h"
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Heads are tied up to medium: with hospital vocabularies of 7,000 to 60,000 ids an untied head would be a large part
 * of a small model.  --tied overrides. */
static const struct {
    const char *name;
    int n_layers, d_model, n_heads, n_kv_heads, head_dim, d_ff, tied;
} PRESETS[] = {
    {"nano", 4, 128, 2, 1, 64, 384, 1},       {"micro", 8, 256, 4, 2, 64, 768, 1},
    {"small", 18, 512, 4, 2, 128, 1536, 1},   {"medium", 18, 768, 6, 2, 128, 2048, 1},
    {"large", 22, 2048, 16, 4, 128, 5632, 0},
};
enum { N_PRESETS = sizeof PRESETS / sizeof *PRESETS };

const char *config_presets(void) {
    return "nano|micro|small|medium|large";
}

/* Narrow models need more than the usual 0.02: at width 128 it is 0.074 nats over the oracle's floor after 3.7 M tokens,
 * this 0.060. */
double config_init_std(int d_model) {
    return sqrt(0.4 / d_model);
}

Status config_preset(ModelConfig *cfg, const char *name, Err *err) {
    for (int i = 0; i < N_PRESETS; i++) {
        if (strcmp(PRESETS[i].name, name)) continue;
        cfg->n_layers = PRESETS[i].n_layers;
        cfg->d_model = PRESETS[i].d_model;
        cfg->n_heads = PRESETS[i].n_heads;
        cfg->n_kv_heads = PRESETS[i].n_kv_heads;
        cfg->head_dim = PRESETS[i].head_dim;
        cfg->d_ff = PRESETS[i].d_ff;
        cfg->tied = PRESETS[i].tied;
        cfg->rope_theta = 10000;
        cfg->rms_eps = 1e-6;
        cfg->init_std = config_init_std(cfg->d_model);
        cfg->lora = (LoraConfig){0};
        return OK;
    }
    return err_set(err, ERR_USAGE, "no model preset '%s'; there are %s", name, config_presets());
}

/* ---- limits and config.json keys --------------------------------------------------------------------------------- */

/* The upper limits keep every product of two sizes inside an int and the arena inside an int64_t. */
static const struct {
    const char *key, *flag;
    size_t field;
    int min, max;
} SIZES[] = {
    {"num_hidden_layers", "layers", offsetof(ModelConfig, n_layers), 1, 1024},
    {"hidden_size", "d_model", offsetof(ModelConfig, d_model), 2, 1 << 16},
    {"num_attention_heads", "heads", offsetof(ModelConfig, n_heads), 1, 1024},
    {"num_key_value_heads", "kv heads", offsetof(ModelConfig, n_kv_heads), 1, 1024},
    {"head_dim", "head_dim", offsetof(ModelConfig, head_dim), 2, 256},
    {"intermediate_size", "d_ff", offsetof(ModelConfig, d_ff), 1, 1 << 20},
    {"vocab_size", "vocabulary size", offsetof(ModelConfig, vocab_size), 2, 1 << 24},
    {"max_position_embeddings", "seq_len", offsetof(ModelConfig, seq_len), 1, 1 << 22},
};
enum { N_SIZES = sizeof SIZES / sizeof *SIZES };

static int *size_at(const ModelConfig *cfg, int i) {
    return (int *)((char *)(uintptr_t)cfg + SIZES[i].field);
}

Status config_check(ModelConfig *cfg, Err *err) {
    for (int i = 0; i < N_SIZES; i++) {
        int x = *size_at(cfg, i);
        if (x < SIZES[i].min || x > SIZES[i].max)
            return err_set(err, ERR_USAGE, "model %s is %d, it must be between %d and %d", SIZES[i].flag, x,
                           SIZES[i].min, SIZES[i].max);
    }
    if (cfg->n_heads % cfg->n_kv_heads)
        return err_set(err, ERR_USAGE, "%d query heads cannot share %d key/value heads evenly: choose a divisor of %d",
                       cfg->n_heads, cfg->n_kv_heads, cfg->n_heads);
    if (cfg->head_dim % 2) return err_set(err, ERR_USAGE, "head_dim %d is odd; RoPE turns pairs", cfg->head_dim);
    if (!(cfg->rope_theta > 1) || !isfinite(cfg->rope_theta))
        return err_set(err, ERR_USAGE, "rope_theta is %g, it must be above 1", cfg->rope_theta);
    if (!(cfg->rms_eps > 0) || cfg->rms_eps > 1)
        return err_set(err, ERR_USAGE, "rms_eps is %g, it must be above 0 and at most 1", cfg->rms_eps);
    if (!(cfg->init_std > 0) || cfg->init_std > 10)
        return err_set(err, ERR_USAGE, "init_std is %g, it must be above 0 and at most 10", cfg->init_std);
    cfg->vocab_padded = (cfg->vocab_size + 63) / 64 * 64;
    return lora_check(cfg, err);
}

static json_t *id_or_null(int id) {
    return id < 0 ? json_null() : json_integer(id);
}

/* Digits that print 1e-6 as people write it; all 17 when 15 would not read back as the same double. */
static size_t real_digits(const ModelConfig *cfg) {
    const double x[] = {cfg->rope_theta, cfg->rms_eps, cfg->init_std};
    for (int i = 0; i < 3; i++) {
        char text[40];
        snprintf(text, sizeof text, "%.15g", x[i]);
        if (strtod(text, NULL) != x[i]) return JSON_REAL_PRECISION(17);
    }
    return JSON_REAL_PRECISION(15);
}

Status config_write(const char *dir, const ModelConfig *cfg, int pad_id, int bos_id, int eos_id, Err *err) {
    json_t *o = json_object(), *types = json_array();
    json_object_set_new(o, "architectures", json_pack("[s]", "Qwen3ForCausalLM"));
    json_object_set_new(o, "model_type", json_string("qwen3"));
    for (int i = 0; i < N_SIZES; i++) json_object_set_new(o, SIZES[i].key, json_integer(*size_at(cfg, i)));
    json_object_set_new(o, "hidden_act", json_string("silu"));
    json_object_set_new(o, "rms_norm_eps", json_real(cfg->rms_eps));
    json_object_set_new(o, "initializer_range", json_real(cfg->init_std));
    /* transformers 4 reads rope_theta, 5 reads rope_parameters; each ignores the other, and so for the dtype. */
    json_object_set_new(o, "rope_theta", json_real(cfg->rope_theta));
    json_object_set_new(o, "rope_parameters",
                        json_pack("{s:s,s:f}", "rope_type", "default", "rope_theta", cfg->rope_theta));
    json_object_set_new(o, "tie_word_embeddings", json_boolean(cfg->tied));
    json_object_set_new(o, "attention_bias", json_false());
    json_object_set_new(o, "attention_dropout", json_real(0));
    json_object_set_new(o, "use_sliding_window", json_false());
    json_object_set_new(o, "sliding_window", json_null());
    json_object_set_new(o, "max_window_layers", json_integer(cfg->n_layers));
    for (int i = 0; i < cfg->n_layers; i++) json_array_append_new(types, json_string("full_attention"));
    json_object_set_new(o, "layer_types", types);
    json_object_set_new(o, "use_cache", json_true());
    json_object_set_new(o, "torch_dtype", json_string("float32"));
    json_object_set_new(o, "dtype", json_string("float32"));
    json_object_set_new(o, "pad_token_id", id_or_null(pad_id));
    json_object_set_new(o, "bos_token_id", id_or_null(bos_id));
    json_object_set_new(o, "eos_token_id", id_or_null(eos_id));
    char *text = json_dumps(o, JSON_INDENT(2) | real_digits(cfg));
    json_decref(o);
    REQUIRE(text != NULL);
    char *path = xasprintf("%s/config.json", dir);
    Status s = file_write(path, text, strlen(text), err);
    free(path);
    free(text);
    return s;
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

static Status read_real(const json_t *o, const char *path, const char *key, double *out, Err *err) {
    const json_t *v = json_object_get(o, key);
    if (!json_is_number(v)) return err_set(err, ERR_FORMAT, "%s: %s is missing or not a number", path, key);
    *out = json_number_value(v);
    return OK;
}

/* Absent, null and false all mean "off". */
static int is_off(const json_t *v) {
    return !v || json_is_null(v) || json_is_false(v);
}

/* What a Qwen3 file may ask for and our block does not do. */
static Status refuse_variants(const json_t *o, const char *path, Err *err) {
    const char *type = json_string_value(json_object_get(o, "model_type"));
    if (!type || strcmp(type, "qwen3"))
        return err_set(err, ERR_FORMAT, "%s: model_type is '%s'; only 'qwen3' can be loaded", path,
                       type ? type : "missing");
    const char *act = json_string_value(json_object_get(o, "hidden_act"));
    if (!act || strcmp(act, "silu"))
        return err_set(err, ERR_FORMAT, "%s: hidden_act is '%s', 'silu' was expected", path, act ? act : "missing");
    if (!is_off(json_object_get(o, "attention_bias")))
        return err_set(err, ERR_FORMAT, "%s: attention_bias is on; biases are not supported", path);
    if (!is_off(json_object_get(o, "use_sliding_window")))
        return err_set(err, ERR_FORMAT, "%s: use_sliding_window is on; only full attention is supported", path);
    if (!is_off(json_object_get(o, "rope_scaling")))
        return err_set(err, ERR_FORMAT, "%s: rope_scaling is set; only plain RoPE is supported", path);
    const json_t *rope = json_object_get(o, "rope_parameters");
    const char *rope_type = json_string_value(json_object_get(rope, "rope_type"));
    if (rope_type && strcmp(rope_type, "default"))
        return err_set(err, ERR_FORMAT, "%s: rope_type is '%s'; only 'default' is supported", path, rope_type);
    const json_t *types = json_object_get(o, "layer_types");
    for (size_t i = 0; i < json_array_size(types); i++) {
        const char *t = json_string_value(json_array_get(types, i));
        if (!t || strcmp(t, "full_attention"))
            return err_set(err, ERR_FORMAT, "%s: layer_types[%zu] is '%s'; only 'full_attention' is supported", path, i,
                           t ? t : "not a string");
    }
    return OK;
}

static Status config_parse(const json_t *o, const char *path, ModelConfig *cfg, Err *err) {
    Status s = refuse_variants(o, path, err);
    if (s) return s;
    for (int i = 0; i < N_SIZES; i++) {
        const json_t *v = json_object_get(o, SIZES[i].key);
        if (!json_is_integer(v))
            return err_set(err, ERR_FORMAT, "%s: %s is missing or not a whole number", path, SIZES[i].key);
        json_int_t x = json_integer_value(v);
        if (x < SIZES[i].min || x > SIZES[i].max)
            return err_set(err, ERR_FORMAT, "%s: %s is %lld, it must be between %d and %d", path, SIZES[i].key,
                           (long long)x, SIZES[i].min, SIZES[i].max);
        *size_at(cfg, i) = (int)x;
    }
    const json_t *tied = json_object_get(o, "tie_word_embeddings");
    if (!json_is_boolean(tied))
        return err_set(err, ERR_FORMAT, "%s: tie_word_embeddings is missing or not true/false", path);
    cfg->tied = json_is_true(tied);
    const json_t *rope = json_object_get(o, "rope_parameters");
    if ((s = read_real(json_is_object(rope) ? rope : o, path, "rope_theta", &cfg->rope_theta, err))) return s;
    if ((s = read_real(o, path, "rms_norm_eps", &cfg->rms_eps, err))) return s;
    cfg->init_std = 0.02;
    if (json_object_get(o, "initializer_range") && (s = read_real(o, path, "initializer_range", &cfg->init_std, err)))
        return s;
    if (config_check(cfg, err)) {
        err->code = ERR_FORMAT;
        return err_context(err, "%s", path);
    }
    return OK;
}

Status config_read(const char *dir, ModelConfig *cfg, Err *err) {
    Err local;
    char *path = xasprintf("%s/config.json", dir), *text = NULL;
    size_t size;
    if (!err) err = &local;
    *cfg = (ModelConfig){0};
    Status s = file_read(path, 16 << 20, &text, &size, err);
    if (!s) {
        json_error_t why;
        json_t *o = json_loadb(text, size, JSON_REJECT_DUPLICATES, &why);
        if (!json_is_object(o))
            s = err_set(err, ERR_FORMAT, "%s is not a JSON object: %s", path, o ? "other JSON" : why.text);
        else
            s = config_parse(o, path, cfg, err);
        json_decref(o);
    }
    free(text);
    free(path);
    return s;
}
