/* hf_files.c - see hf_files.h.  WhitespaceSplit cuts text at Unicode white space, so a code that contains some is
 * written with U+2581 in its place, the mark SentencePiece made usual. */
#include "model/hf_files.h"
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

/* ---- vocabulary.json --------------------------------------------------------------------------------------------- */

/* The "tokens" array of a parsed vocabulary, checked; NULL with err set.  *root keeps it alive. */
static const json_t *vocabulary_tokens(const char *text, int vocab_size, const char *where, json_t **root, Err *err) {
    json_error_t why;
    *root = json_loads(text, JSON_REJECT_DUPLICATES, &why);
    if (!*root) {
        err_set(err, ERR_FORMAT, "%s is not valid JSON: %s", where, why.text);
        return NULL;
    }
    const json_t *tokens = json_object_get(*root, "tokens");
    if (!json_is_array(tokens)) {
        err_set(err, ERR_FORMAT, "%s has no array \"tokens\"", where);
        return NULL;
    }
    if (json_array_size(tokens) != (size_t)vocab_size) {
        err_set(err, ERR_FORMAT, "%s has %zu tokens but the model was made for %d: they do not belong together", where,
                json_array_size(tokens), vocab_size);
        return NULL;
    }
    for (int i = 0; i < vocab_size; i++) {
        const json_t *t = json_array_get(tokens, (size_t)i), *id = json_object_get(t, "id");
        if (json_is_integer(id) && json_integer_value(id) == i && json_is_string(json_object_get(t, "code"))) continue;
        err_set(err, ERR_FORMAT, "%s: token %d does not have id %d and a code", where, i, i);
        return NULL;
    }
    return tokens;
}

Status hf_vocabulary_check(const char *vocabulary_json, int vocab_size, const char *where, Err *err) {
    json_t *root = NULL;
    const json_t *tokens = vocabulary_tokens(vocabulary_json, vocab_size, where, &root, err);
    json_decref(root);
    return tokens ? OK : err ? err->code : ERR_FORMAT;
}

static const char *token_text(const json_t *tokens, int i, const char *key) {
    const char *s = json_string_value(json_object_get(json_array_get(tokens, (size_t)i), key));
    return s ? s : "";
}

static SpecialIds special_ids(const json_t *tokens) {
    SpecialIds ids = {-1, -1, -1, -1};
    for (int i = 0; i < (int)json_array_size(tokens); i++) {
        const char *code = token_text(tokens, i, "code");
        if (ids.pad < 0 && !strcmp(code, "PAD")) ids.pad = i;
        if (ids.bos < 0 && !strcmp(code, "RECORD_START")) ids.bos = i;
        if (ids.eos < 0 && !strcmp(code, "MEDS_DEATH")) ids.eos = i;
        if (ids.unknown < 0 && !strcmp(token_text(tokens, i, "kind"), "unknown")) ids.unknown = i;
    }
    return ids;
}

Status hf_special_ids(const char *vocabulary_json, int vocab_size, const char *where, SpecialIds *ids, Err *err) {
    json_t *root = NULL;
    const json_t *tokens = vocabulary_tokens(vocabulary_json, vocab_size, where, &root, err);
    if (tokens) *ids = special_ids(tokens);
    json_decref(root);
    return tokens ? OK : err ? err->code : ERR_FORMAT;
}

/* ---- words ------------------------------------------------------------------------------------------------------- */

/* Bytes of the Unicode white space character at s, 0 if it is none (White_Space property; s is valid UTF-8). */
static int whitespace_bytes(const unsigned char *s) {
    if (*s == ' ' || (*s >= '\t' && *s <= '\r')) return 1;
    if (s[0] == 0xC2 && (s[1] == 0x85 || s[1] == 0xA0)) return 2;
    if (s[0] == 0xE1 && s[1] == 0x9A && s[2] == 0x80) return 3;
    if (s[0] == 0xE2 && s[1] == 0x80 &&
        ((s[2] >= 0x80 && s[2] <= 0x8A) || s[2] == 0xA8 || s[2] == 0xA9 || s[2] == 0xAF))
        return 3;
    if (s[0] == 0xE2 && s[1] == 0x81 && s[2] == 0x9F) return 3;
    return s[0] == 0xE3 && s[1] == 0x80 && s[2] == 0x80 ? 3 : 0;
}

static char *word_of(const char *code) {
    char *out = xmalloc(3 * strlen(code) + 4), *to = out;
    for (const unsigned char *s = (const unsigned char *)code; *s;) {
        const int n = whitespace_bytes(s);
        if (n) {
            memcpy(to, "\xE2\x96\x81", 3);
            to += 3;
            s += n;
        } else {
            *to++ = (char)*s++;
        }
    }
    if (to == out) {
        memcpy(to, "\xE2\x96\x81", 3); /* an empty code is no word */
        to += 3;
    }
    *to = 0;
    return out;
}

/* word -> id.  Two codes that differ in white space alone stay different: the later one gets more marks. */
static json_t *word_vocabulary(const json_t *tokens) {
    json_t *vocab = json_object();
    for (int i = 0; i < (int)json_array_size(tokens); i++) {
        char *word = word_of(token_text(tokens, i, "code"));
        while (json_object_get(vocab, word)) {
            char *longer = xasprintf("%s\xE2\x96\x81", word);
            free(word);
            word = longer;
        }
        json_object_set_new(vocab, word, json_integer(i));
        free(word);
    }
    return vocab;
}

/* ---- files ------------------------------------------------------------------------------------------------------- */

static Status write_json(const char *dir, const char *name, json_t *o, Err *err) {
    char *text = json_dumps(o, JSON_INDENT(1)), *path = xasprintf("%s/%s", dir, name);
    REQUIRE(text != NULL);
    Status s = file_write(path, text, strlen(text), err);
    free(text);
    free(path);
    json_decref(o);
    return s;
}

static json_t *word_or_null(const json_t *tokens, int id) {
    if (id < 0) return json_null();
    char *word = word_of(token_text(tokens, id, "code"));
    json_t *out = json_string(word);
    free(word);
    return out;
}

static json_t *tokenizer(const json_t *tokens, const SpecialIds *ids) {
    json_t *added = json_array(), *o = json_object();
    if (ids->pad >= 0)
        json_array_append_new(added, json_pack("{s:i,s:o,s:b,s:b,s:b,s:b,s:b}", "id", ids->pad, "content",
                                               word_or_null(tokens, ids->pad), "single_word", 0, "lstrip", 0, "rstrip",
                                               0, "normalized", 0, "special", 1));
    json_object_set_new(o, "version", json_string("1.0"));
    json_object_set_new(o, "truncation", json_null());
    json_object_set_new(o, "padding", json_null());
    json_object_set_new(o, "added_tokens", added);
    json_object_set_new(o, "normalizer", json_null());
    json_object_set_new(o, "pre_tokenizer", json_pack("{s:s}", "type", "WhitespaceSplit"));
    json_object_set_new(o, "post_processor", json_null());
    json_object_set_new(o, "decoder", json_null());
    json_object_set_new(o, "model",
                        json_pack("{s:s,s:o,s:o}", "type", "WordLevel", "vocab", word_vocabulary(tokens), "unk_token",
                                  word_or_null(tokens, ids->unknown >= 0 ? ids->unknown : 0)));
    return o;
}

/* Without tokenizer_class, model_type would choose the tokenizer of the Qwen language models; without model_input_names what a
 * tokenizer returns holds token types, which model.generate() refuses. */
static json_t *tokenizer_config(const json_t *tokens, const SpecialIds *ids) {
    return json_pack("{s:s,s:[s,s],s:o,s:o,s:o,s:o,s:b}", "tokenizer_class", "PreTrainedTokenizerFast", "model_input_names", "input_ids", "attention_mask", "pad_token",
                     word_or_null(tokens, ids->pad), "bos_token", word_or_null(tokens, ids->bos), "eos_token",
                     word_or_null(tokens, ids->eos), "unk_token", word_or_null(tokens, ids->unknown),
                     "clean_up_tokenization_spaces", 0);
}

/* Sampling from the model's own law: the defaults of transformers would cut it to 50 ids. */
static json_t *generation_config(const SpecialIds *ids) {
    json_t *o = json_pack("{s:b,s:f,s:i,s:f}", "do_sample", 1, "temperature", 1.0, "top_k", 0, "top_p", 1.0);
    json_object_set_new(o, "pad_token_id", ids->pad < 0 ? json_null() : json_integer(ids->pad));
    json_object_set_new(o, "bos_token_id", ids->bos < 0 ? json_null() : json_integer(ids->bos));
    json_object_set_new(o, "eos_token_id", ids->eos < 0 ? json_null() : json_integer(ids->eos));
    return o;
}

Status hf_files_write(const char *dir, const char *vocabulary_json, int vocab_size, SpecialIds *ids, Err *err) {
    json_t *root = NULL;
    Status s = OK;
    const json_t *tokens = vocabulary_tokens(vocabulary_json, vocab_size, "the dataset's vocabulary.json", &root, err);
    if (!tokens) {
        s = err ? err->code : ERR_FORMAT;
    } else {
        *ids = special_ids(tokens);
        s = write_json(dir, "tokenizer.json", tokenizer(tokens, ids), err);
        if (!s) s = write_json(dir, "tokenizer_config.json", tokenizer_config(tokens, ids), err);
        if (!s) s = write_json(dir, "generation_config.json", generation_config(ids), err);
    }
    json_decref(root);
    return s;
}
