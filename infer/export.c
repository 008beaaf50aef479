/* export.c - see export.h.
 *
 * Both containers list the parameter table: a Hugging Face tensor is a run of rows of a parameter, and GGUF has another
 * name for it.  Their Qwen3 turns the same pairs in RoPE as ours (j, j + D/2), so nothing is permuted. */
#include "infer/export.h"
#include "infer/gguf.h"
#include "model/adapter.h"
#include "model/checkpoint.h"
#include "model/hf_files.h"
#include "model/safetensors.h"
#include "model/sha256.h"
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PIECE = 1 << 20 }; /* values encoded at a time */

/* ---- tensors ----------------------------------------------------------------------------------------------------- */

typedef struct {
    const char *name; /* Hugging Face's */
    int layer, ndim;
    int64_t rows, cols;
    const float *data;
} Tensor;

static Tensor *tensors_list(const Model *m, int *n) {
    Tensor *list = xcalloc((size_t)m->table.n * PARAM_SLICES_MAX, sizeof *list);
    *n = 0;
    for (int i = 0; i < m->table.n; i++) {
        const ParamSpec *p = &m->table.spec[i];
        const float *data = (const float *)m->w_arena + p->offset;
        for (int k = 0; k < p->n_slices; k++) {
            list[(*n)++] = (Tensor){p->slice_name[k], p->layer, p->ndim, p->slice_rows[k], p->cols, data};
            data += p->slice_rows[k] * p->cols;
        }
    }
    return list;
}

/* ---- safetensors ------------------------------------------------------------------------------------------------- */

static Status copy_text(const char *from, const char *name, const char *to, int needed, Err *err) {
    char *text, *path = xasprintf("%s/%s", from, name);
    size_t size;
    const int there = path_exists(path);
    free(path);
    if (!there && !needed) return OK;
    Status s = checkpoint_read_text(from, name, &text, &size, err);
    if (s) return s;
    path = xasprintf("%s/%s", to, name);
    s = file_write(path, text, size, err);
    free(path);
    free(text);
    return s;
}

/* config.json says what the weights are kept in; the rest of it stays as it is. */
static Status write_config(const char *from, const char *to, Encoding e, Err *err) {
    if (e == ENCODE_F32) return copy_text(from, "config.json", to, 1, err);
    char *text;
    size_t size;
    Status s = checkpoint_read_text(from, "config.json", &text, &size, err);
    if (s) return s;
    json_t *o = json_loadb(text, size, 0, NULL);
    free(text);
    json_object_set_new(o, "torch_dtype", json_string("bfloat16"));
    json_object_set_new(o, "dtype", json_string("bfloat16"));
    text = json_dumps(o, JSON_INDENT(2) | JSON_REAL_PRECISION(15));
    json_decref(o);
    char *path = xasprintf("%s/config.json", to);
    s = file_write(path, text, strlen(text), err);
    free(path);
    free(text);
    return s;
}

static Status write_at(int fd, const void *data, int64_t size, int64_t offset, const char *path, Err *err) {
    for (const char *p = data; size > 0;) {
        const ssize_t n = pwrite(fd, p, (size_t)size, offset);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return err_set(err, ERR_IO, "cannot write %s: %s", path, n ? strerror(errno) : "nothing written");
        p += n;
        offset += n;
        size -= n;
    }
    return OK;
}

static Status write_file(const char *path, const Tensor *list, int n, Encoding e, Progress *p, int64_t *done, Err *err) {
    TensorInfo *info = xcalloc((size_t)n, sizeof *info);
    for (int i = 0; i < n; i++) {
        info[i] = (TensorInfo){.dtype = e == ENCODE_F32 ? DTYPE_F32 : DTYPE_BF16,
                               .ndim = list[i].ndim,
                               .dim = {list[i].rows, list[i].cols}};
        snprintf(info[i].name, sizeof info[i].name, "%s", list[i].name);
    }
    Status s = safetensors_create(path, info, n, "{\"format\":\"pt\"}", err);
    const int fd = s ? -1 : open(path, O_WRONLY | O_CLOEXEC);
    void *buffer = xmalloc(PIECE * sizeof(float));
    if (!s && fd < 0) s = err_set(err, ERR_IO, "cannot write %s: %s", path, strerror(errno));
    for (int i = 0; i < n && !s; i++) {
        const int64_t count = list[i].rows * list[i].cols;
        for (int64_t at = 0; at < count && !s; at += PIECE) {
            const int64_t k = count - at < PIECE ? count - at : PIECE;
            encode_floats(e, list[i].data + at, k, buffer);
            s = write_at(fd, buffer, encode_bytes(e, k), info[i].begin + encode_bytes(e, at), path, err);
        }
        progress_update(p, ++*done);
    }
    if (!s && fsync(fd)) s = err_set(err, ERR_IO, "cannot write %s: %s", path, strerror(errno));
    if (fd >= 0) close(fd);
    free(buffer);
    free(info);
    return s;
}

/* First tensor of the file after the one that starts at `from`: as many whole tensors as fit, one at least. */
static int file_end(const Tensor *list, int n, int from, Encoding e, int64_t most) {
    int64_t bytes = 0;
    int i = from;
    for (; i < n; i++) {
        bytes += encode_bytes(e, list[i].rows * list[i].cols);
        if (i > from && bytes > most) break;
    }
    return i;
}

static Status write_index(const char *dir, json_t *map, int64_t bytes, Err *err) {
    json_t *o = json_pack("{s:{s:I}, s:O}", "metadata", "total_size", (json_int_t)bytes, "weight_map", map);
    char *text = json_dumps(o, JSON_INDENT(2)), *path = xasprintf("%s/model.safetensors.index.json", dir);
    Status s = file_write(path, text, strlen(text), err);
    json_decref(o);
    free(text);
    free(path);
    return s;
}

static Status write_weights(const char *dir, const Tensor *list, int n, const ExportOptions *o, ExportSummary *sum, Err *err) {
    json_t *map = json_object();
    Status s = OK;
    Progress p;
    int64_t done = 0;
    for (int i = 0; i < n; i = file_end(list, n, i, o->encoding, o->max_file_bytes)) sum->files++;
    progress_open(&p, o->progress, "export", "tensors", n);
    for (int i = 0, end, file = 1; i < n && !s; i = end, file++) {
        char name[64] = "model.safetensors";
        end = file_end(list, n, i, o->encoding, o->max_file_bytes);
        if (sum->files > 1) snprintf(name, sizeof name, "model-%05d-of-%05d.safetensors", file, sum->files);
        for (int k = i; k < end; k++) json_object_set_new(map, list[k].name, json_string(name));
        char *path = xasprintf("%s/%s", dir, name);
        s = write_file(path, list + i, end - i, o->encoding, &p, &done, err);
        free(path);
    }
    progress_close(&p, n);
    if (!s && sum->files > 1) s = write_index(dir, map, sum->bytes, err);
    json_decref(map);
    return s;
}

/* What goes with weights in any folder. */
static Status copy_texts(const char *from, const char *to, Err *err) {
    static const struct {
        const char *name;
        int needed;
    } text[] = {{"vocabulary.json", 1}, {"tokenizer.json", 1}, {"tokenizer_config.json", 0}, {"generation_config.json", 0},
                {"trainer.json", 0}};
    Status s = OK;
    for (size_t i = 0; i < sizeof text / sizeof *text && !s; i++) s = copy_text(from, text[i].name, to, text[i].needed, err);
    return s;
}

/* The folder is whole, or it is not there. */
static Status folder_end(Status s, const char *tmp, const char *out, Err *err) {
    Err quiet;
    if (!s) s = checkpoint_commit(tmp, out, err);
    if (s) checkpoint_remove(tmp, &quiet);
    return s;
}

static Status write_adapter(const ExportOptions *o, ExportSummary *sum, Err *err) {
    Safetensors st;
    if (!adapter_there(o->checkpoint))
        return err_set(err, ERR_USAGE, "--merge-lora=no: %s holds no adapter but a whole model; leave the flag out", o->checkpoint);
    if (o->format != EXPORT_SAFETENSORS) return err_set(err, ERR_USAGE, "--merge-lora=no: adapters are written as safetensors");
    char *tmp = xasprintf("%s.tmp", o->out), *from = xasprintf("%s/%s", o->checkpoint, ADAPTER_FILE), *to = xasprintf("%s/%s", tmp, ADAPTER_FILE);
    Status s = path_exists(tmp) ? checkpoint_remove(tmp, err) : OK;
    if (!s) s = dir_make(tmp, err);
    if (!s) s = copy_text(o->checkpoint, "config.json", tmp, 1, err);
    if (!s) s = copy_text(o->checkpoint, ADAPTER_CONFIG, tmp, 1, err);
    if (!s) s = copy_texts(o->checkpoint, tmp, err);
    if (!s && !(s = safetensors_open(&st, from, err))) {
        s = file_write(to, st.data, st.size, err);
        sum->tensors = st.n;
        sum->files = 1;
        sum->bytes = (int64_t)st.size;
        safetensors_close(&st);
    }
    s = folder_end(s, tmp, o->out, err);
    free(tmp);
    free(from);
    free(to);
    return s;
}

static Status write_folder(const Tensor *list, int n, const ExportOptions *o, ExportSummary *sum, Err *err) {
    char *tmp = xasprintf("%s.tmp", o->out);
    for (int i = 0; i < n; i++) sum->bytes += encode_bytes(o->encoding, list[i].rows * list[i].cols);
    Status s = path_exists(tmp) ? checkpoint_remove(tmp, err) : OK;
    if (!s) s = dir_make(tmp, err);
    if (!s) s = write_config(o->checkpoint, tmp, o->encoding, err);
    if (!s) s = copy_texts(o->checkpoint, tmp, err);
    if (!s) s = write_weights(tmp, list, n, o, sum, err);
    s = folder_end(s, tmp, o->out, err);
    free(tmp);
    return s;
}

/* ---- gguf -------------------------------------------------------------------------------------------------------- */

static void gguf_name(const Tensor *t, char out[GGUF_NAME_MAX]) {
    static const char *const names[][2] = {{"model.embed_tokens.weight", "token_embd.weight"},
                                           {"model.norm.weight", "output_norm.weight"},
                                           {"lm_head.weight", "output.weight"},
                                           {"input_layernorm.weight", "attn_norm.weight"},
                                           {"self_attn.q_proj.weight", "attn_q.weight"},
                                           {"self_attn.k_proj.weight", "attn_k.weight"},
                                           {"self_attn.v_proj.weight", "attn_v.weight"},
                                           {"self_attn.q_norm.weight", "attn_q_norm.weight"},
                                           {"self_attn.k_norm.weight", "attn_k_norm.weight"},
                                           {"self_attn.o_proj.weight", "attn_output.weight"},
                                           {"post_attention_layernorm.weight", "ffn_norm.weight"},
                                           {"mlp.gate_proj.weight", "ffn_gate.weight"},
                                           {"mlp.up_proj.weight", "ffn_up.weight"},
                                           {"mlp.down_proj.weight", "ffn_down.weight"}};
    const char *end = t->name;
    if (t->layer >= 0) /* "model.layers.3.": three dots */
        for (int dots = 0; dots < 3; end++) dots += *end == '.';
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(end, names[i][0])) continue;
        if (t->layer >= 0) snprintf(out, GGUF_NAME_MAX, "blk.%d.%s", t->layer, names[i][1]);
        else snprintf(out, GGUF_NAME_MAX, "%s", names[i][1]);
        return;
    }
    REQUIRE(!"a parameter has no name in GGUF");
}

static void shape_keys(Gguf *g, const ModelConfig *c, Encoding e) {
    static const uint32_t file_type[] = {[ENCODE_F32] = 0, [ENCODE_F16] = 1, [ENCODE_Q8_0] = 7, [ENCODE_BF16] = 32};
    gguf_u32(g, "general.file_type", file_type[e]);
    if (e == ENCODE_Q8_0) gguf_u32(g, "general.quantization_version", 2);
    gguf_u32(g, "qwen3.vocab_size", (uint32_t)c->vocab_size);
    gguf_u32(g, "qwen3.context_length", (uint32_t)c->seq_len);
    gguf_u32(g, "qwen3.embedding_length", (uint32_t)c->d_model);
    gguf_u32(g, "qwen3.block_count", (uint32_t)c->n_layers);
    gguf_u32(g, "qwen3.feed_forward_length", (uint32_t)c->d_ff);
    gguf_u32(g, "qwen3.attention.head_count", (uint32_t)c->n_heads);
    gguf_u32(g, "qwen3.attention.head_count_kv", (uint32_t)c->n_kv_heads);
    gguf_u32(g, "qwen3.attention.key_length", (uint32_t)c->head_dim);
    gguf_u32(g, "qwen3.attention.value_length", (uint32_t)c->head_dim);
    gguf_f32(g, "qwen3.attention.layer_norm_rms_epsilon", (float)c->rms_eps);
    gguf_u32(g, "qwen3.rope.dimension_count", (uint32_t)c->head_dim);
    gguf_f32(g, "qwen3.rope.freq_base", (float)c->rope_theta);
}

/* A future is a draw from the whole distribution; what llama.cpp does unasked (the likeliest 40, the upper 95%, sharpened)
 * loses rare events.  Its programs take these for their defaults. */
static void sampling_keys(Gguf *g) {
    gguf_f32(g, "general.sampling.temp", 1);
    gguf_u32(g, "general.sampling.top_k", 0);
    gguf_f32(g, "general.sampling.top_p", 1);
    gguf_f32(g, "general.sampling.min_p", 0);
}

/* Every code is a token of its own: as a user-defined token of a BPE without merges, llama.cpp cuts text at the codes. */
static Status vocabulary_keys(Gguf *g, const char *text, int V, Err *err) {
    enum { CONTROL = 3, USER_DEFINED = 4 };
    SpecialIds ids;
    Status s = hf_special_ids(text, V, "vocabulary.json", &ids, err);
    if (s) return s;
    json_t *root = json_loads(text, 0, NULL), *tokens = json_object_get(root, "tokens");
    const char **code = xcalloc((size_t)V, sizeof *code);
    int32_t *type = xcalloc((size_t)V, sizeof *type);
    for (int i = 0; i < V; i++) {
        code[i] = json_string_value(json_object_get(json_array_get(tokens, (size_t)i), "code"));
        type[i] = i == ids.pad ? CONTROL : USER_DEFINED;
    }
    gguf_text(g, "tokenizer.ggml.model", "gpt2");
    gguf_text(g, "tokenizer.ggml.pre", "default");
    gguf_texts(g, "tokenizer.ggml.tokens", code, V);
    gguf_i32s(g, "tokenizer.ggml.token_type", type, V);
    gguf_texts(g, "tokenizer.ggml.merges", NULL, 0);
    const struct {
        const char *key;
        int id;
    } special[] = {{"tokenizer.ggml.bos_token_id", ids.bos},
                   {"tokenizer.ggml.eos_token_id", ids.eos},
                   {"tokenizer.ggml.unknown_token_id", ids.unknown},
                   {"tokenizer.ggml.padding_token_id", ids.pad}};
    for (size_t i = 0; i < sizeof special / sizeof *special; i++)
        if (special[i].id >= 0) gguf_u32(g, special[i].key, (uint32_t)special[i].id);
    gguf_bool(g, "tokenizer.ggml.add_bos_token", 0);
    gguf_bool(g, "tokenizer.ggml.add_eos_token", 0);
    gguf_text(g, "ehr.vocabulary_json", text);
    free(code);
    free(type);
    json_decref(root);
    return OK;
}

/* What trainer.json says of the training, key by key, and all of it. */
static void provenance_keys(Gguf *g, const char *checkpoint, const char *model_sha256) {
    char *text;
    size_t size;
    Err quiet;
    gguf_text(g, "ehr.checkpoint_sha256", model_sha256);
    if (checkpoint_read_text(checkpoint, "trainer.json", &text, &size, &quiet)) return;
    json_t *trainer = json_loadb(text, size, 0, NULL), *value;
    const char *key;
    json_object_foreach(json_object_get(trainer, "provenance"), key, value) {
        char *name = xasprintf("ehr.provenance.%s", key);
        if (json_is_string(value)) gguf_text(g, name, json_string_value(value));
        free(name);
    }
    if (json_is_integer(json_object_get(trainer, "step")))
        gguf_u32(g, "ehr.provenance.step", (uint32_t)json_integer_value(json_object_get(trainer, "step")));
    gguf_text(g, "ehr.trainer_json", text);
    json_decref(trainer);
    free(text);
}

static Status write_gguf(const Model *m, const Tensor *list, int n, const char *model_sha256, const ExportOptions *o,
                         ExportSummary *sum, Err *err) {
    Gguf g = {0};
    char *text = NULL;
    size_t size;
    gguf_text(&g, "general.architecture", "qwen3");
    gguf_text(&g, "general.type", "model");
    gguf_text(&g, "general.name", o->name);
    gguf_text(&g, "general.description",
              "A transformer over patient timelines (ehr.c). Research use; not a medical device.");
    shape_keys(&g, &m->cfg, o->encoding);
    sampling_keys(&g);
    Status s = checkpoint_read_text(o->checkpoint, "vocabulary.json", &text, &size, err);
    if (!s) s = vocabulary_keys(&g, text, m->cfg.vocab_size, err);
    if (!s) provenance_keys(&g, o->checkpoint, model_sha256);
    for (int i = 0; i < n; i++) {
        char name[GGUF_NAME_MAX];
        Encoding e = list[i].ndim == 1 ? ENCODE_F32 : o->encoding; /* norms stay float32, as everywhere in that world */
        if (e == ENCODE_Q8_0 && list[i].cols % Q8_0_BLOCK) {
            e = ENCODE_F16;
            sum->wider++;
        }
        gguf_name(&list[i], name);
        gguf_tensor(&g, name, e, list[i].ndim, list[i].rows, list[i].cols, list[i].data);
        sum->bytes += encode_bytes(e, list[i].rows * list[i].cols);
    }
    sum->files = 1;
    if (!s) s = gguf_write(&g, o->out, o->progress, err);
    gguf_free(&g);
    free(text);
    return s;
}

/* ---- all of it --------------------------------------------------------------------------------------------------- */

Status export_run(const ExportOptions *o, ExportSummary *sum, Err *err) {
    char why[512], sha[65];
    int listed, n;
    Model m;
    *sum = (ExportSummary){0};
    if (path_exists(o->out))
        return err_set(err, ERR_USAGE, "--out %s is there already: remove it or choose another", o->out);
    if (o->format == EXPORT_SAFETENSORS && o->encoding != ENCODE_F32 && o->encoding != ENCODE_BF16)
        return err_set(err, ERR_USAGE, "--dtype %s: safetensors are written in f32 or bf16; --format gguf has %s",
                       encode_name(o->encoding), encode_name(o->encoding));
    Status s = checkpoint_verify(o->checkpoint, 0, &listed, NULL, err);
    if (s) return s;
    if (o->keep_apart) return write_adapter(o, sum, err);
    sum->merged = adapter_there(o->checkpoint);
    Device *dev = device_open(DEVICE_CPU, 0, 1, why, sizeof why);
    if (!dev) return err_set(err, ERR_DEVICE, "%s", why);
    s = checkpoint_load_on(o->checkpoint, o->base, &m, dev, DTYPE_F32, 1, err);
    if (!s) {
        Tensor *list = tensors_list(&m, &n);
        sum->tensors = n;
        s = adapter_there(o->checkpoint) ? adapter_sha256(o->checkpoint, o->base, sha, err) : checkpoint_model_sha256(o->checkpoint, sha, err);
        if (!s && o->format == EXPORT_SAFETENSORS) s = write_folder(list, n, o, sum, err);
        else if (!s) s = write_gguf(&m, list, n, sha, o, sum, err);
        free(list);
        model_close(&m);
    }
    device_close(dev);
    return s;
}
