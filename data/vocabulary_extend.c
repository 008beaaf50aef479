/* vocabulary_extend.c - see vocabulary_extend.h. */
#include "data/vocabulary_extend.h"
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

static const char *text_of(const json_t *o, const char *key) {
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "";
}

/* The code that a token is of: "LOINC//4548-4" of its levels. */
static const char *base_of(const json_t *token) {
    const char *base = text_of(token, "base");
    return *base ? base : text_of(token, "code");
}

/* Codes that the vocabulary has an answer for, and every text that is a token. */
static json_t *known_codes(const json_t *vocabulary) {
    json_t *known = json_object(), *token, *to;
    size_t i;
    const char *from;
    json_array_foreach(json_object_get(vocabulary, "tokens"), i, token) {
        json_object_set_new(known, base_of(token), json_true());
        json_object_set_new(known, text_of(token, "code"), json_true());
    }
    json_object_foreach(json_object_get(vocabulary, "rollup"), from, to) json_object_set_new(known, from, json_true());
    return known;
}

/* Members of fitted's object `name` to all's, of keys "CODE|unit" whose code is new. */
static void take_edges(json_t *all, const json_t *fitted, const char *name, const json_t *fresh) {
    const char *key;
    json_t *value, *to = json_object_get(all, name);
    if (!json_object_get(fitted, name)) return;
    if (!to) json_object_set_new(all, name, to = json_object());
    json_object_foreach(json_object_get(fitted, name), key, value) {
        const char *bar = strrchr(key, '|');
        char *code = xasprintf("%.*s", bar ? (int)(bar - key) : (int)strlen(key), key);
        if (json_object_get(fresh, code)) json_object_set(to, key, value);
        free(code);
    }
}

static void take_rollups(json_t *all, const json_t *fitted, const json_t *known, const json_t *fresh) {
    const char *from;
    json_t *to, *rollup = json_object_get(all, "rollup");
    if (!rollup) json_object_set_new(all, "rollup", rollup = json_object());
    json_object_foreach(json_object_get(fitted, "rollup"), from, to) {
        const char *target = json_string_value(to);
        if (json_object_get(known, from) || json_object_get(fresh, from)) continue;
        if (target && (json_object_get(fresh, target) || json_object_get(known, target))) json_object_set(rollup, from, to);
    }
}

Status vocabulary_extend(char **json, const Vocabulary *known_v, const Vocabulary *fitted_v, int *added, Err *err) {
    json_t *all = json_loads(known_v->json, 0, NULL), *fitted = json_loads(fitted_v->json, 0, NULL), *token;
    REQUIRE(all && fitted);
    json_t *known = known_codes(all), *fresh = json_object(), *tokens = json_object_get(all, "tokens");
    size_t i;
    *json = NULL;
    *added = 0;
    json_array_foreach(json_object_get(fitted, "tokens"), i, token) {
        if (strcmp(text_of(token, "kind"), "event") || json_object_get(known, base_of(token)) ||
            json_object_get(known, text_of(token, "code")))
            continue;
        json_t *copy = json_copy(token);
        json_object_set_new(copy, "id", json_integer((json_int_t)json_array_size(tokens)));
        json_array_append_new(tokens, copy);
        json_object_set_new(fresh, base_of(token), json_true());
        ++*added;
    }
    take_edges(all, fitted, "edges", fresh);
    take_edges(all, fitted, "edge_shares", fresh);
    take_rollups(all, fitted, known, fresh);
    json_object_set_new(all, "extends", json_string(known_v->sha256));
    json_t *source = json_object_get(fitted, "fitted_on");
    if (source) json_object_set(all, "extended_on", source);
    *json = json_dumps(all, JSON_INDENT(1) | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(17));
    json_decref(all);
    json_decref(fitted);
    json_decref(known);
    json_decref(fresh);
    return *json ? OK : err_set(err, ERR_FORMAT, "the extended vocabulary cannot be written as JSON");
}
