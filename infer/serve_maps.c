/* serve_maps.c - see serve_maps.h.  A record carries the SHA-256 of itself, as Python's json writes it: keys sorted,
 * nothing between, numbers in the fewest digits that give them back. */
#include "infer/serve_maps.h"
#include "model/sha256.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- the record's own hash --------------------------------------------------------------------------------------- */

/* repr() of a Python float. */
static void real_write(FILE *f, double x) {
    char text[40], digits[40];
    int n = 0, exponent = 0;
    for (int precision = 0; precision < 17; precision++) {
        snprintf(text, sizeof text, "%.*e", precision, x);
        if (strtod(text, NULL) == x) break;
    }
    for (const char *c = text; *c && *c != 'e'; c++)
        if (*c >= '0' && *c <= '9') digits[n++] = *c;
    exponent = atoi(strchr(text, 'e') + 1);
    while (n > 1 && digits[n - 1] == '0') n--;
    if (signbit(x)) fputc('-', f);
    if (exponent < -4 || exponent >= 16) {
        fprintf(f, "%c%s%.*se%c%02d", digits[0], n > 1 ? "." : "", n - 1, digits + 1, exponent < 0 ? '-' : '+',
                abs(exponent));
    } else if (exponent < 0) {
        fprintf(f, "0.%.*s%.*s", -exponent - 1, "0000", n, digits);
    } else {
        for (int i = 0; i <= exponent; i++) fputc(i < n ? digits[i] : '0', f);
        fprintf(f, ".%.*s", n > exponent + 1 ? n - exponent - 1 : 1, n > exponent + 1 ? digits + exponent + 1 : "0");
    }
}

/* As Python does: jansson's escapes have capital digits. */
static void scalar_write(FILE *f, const json_t *o) {
    char *text = json_dumps(o, JSON_ENCODE_ANY | JSON_ENSURE_ASCII);
    for (char *c = text; c && *c; c++) {
        if (*c != '\\') continue;
        if (*++c == 'u')
            for (int i = 1; i <= 4; i++)
                if (c[i] >= 'A' && c[i] <= 'F') c[i] = (char)(c[i] - 'A' + 'a');
    }
    fputs(text ? text : "null", f);
    free(text);
}

static int compare_texts(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

/* o without its member `but` at the top. */
static void canonical_write(FILE *f, const json_t *o, const char *but) {
    const char *name;
    json_t *value;
    if (json_is_real(o)) {
        real_write(f, json_real_value(o));
    } else if (json_is_array(o)) {
        for (size_t i = 0; i < json_array_size(o); i++) {
            fputc(i ? ',' : '[', f);
            canonical_write(f, json_array_get(o, i), NULL);
        }
        fputs(json_array_size(o) ? "]" : "[]", f);
    } else if (json_is_object(o)) {
        const char **names = xcalloc(json_object_size(o) + 1, sizeof *names);
        size_t n = 0;
        json_object_foreach((json_t *)(uintptr_t)o, name, value) {
            (void)value;
            if (!but || strcmp(name, but)) names[n++] = name;
        }
        qsort(names, n, sizeof *names, compare_texts);
        for (size_t i = 0; i < n; i++) {
            fputc(i ? ',' : '{', f);
            json_t *key = json_string(names[i]);
            scalar_write(f, key);
            json_decref(key);
            fputc(':', f);
            canonical_write(f, json_object_get(o, names[i]), NULL);
        }
        fputs(n ? "}" : "{}", f);
        free(names);
    } else {
        scalar_write(f, o);
    }
}

static void record_sha256(const json_t *o, char hex[65]) {
    char *text = NULL;
    size_t size;
    FILE *f = open_memstream(&text, &size);
    REQUIRE(f != NULL);
    canonical_write(f, o, "sha256");
    REQUIRE(!fclose(f));
    bytes_sha256(text, size, hex);
    free(text);
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

static void texts_copy(const json_t *list, char ***out, int *n) {
    *out = xcalloc(json_array_size(list) + 1, sizeof **out);
    for (size_t i = 0; i < json_array_size(list); i++)
        (*out)[(*n)++] = xstrdup(json_string_value(json_array_get(list, i)));
    qsort(*out, (size_t)*n, sizeof **out, compare_texts);
}

static int are_texts(const json_t *list) {
    int good = json_is_array(list);
    for (size_t i = 0; good && i < json_array_size(list); i++) good = json_is_string(json_array_get(list, i));
    return good;
}

static const char *text_at(const json_t *o, const char *name) {
    const char *text = json_string_value(json_object_get(o, name));
    return text ? text : "";
}

static Status map_read(RecalibrationMap *m, const json_t *o, const char *path, const char *model, Err *err) {
    static const char *const estimators[] = {"mc", "scope", "reach"};
    static const char *const numbers[] = {"intercept", "slope", "threshold", "alerts_per_100", "horizon_minutes"};
    double *const to[] = {&m->intercept, &m->slope, &m->threshold, &m->alerts_per_100, &m->horizon};
    const json_t *codes = json_object_get(o, "outcome_codes"), *stops = json_object_get(o, "stop_codes");
    const char *name = text_at(o, "outcome"), *how = text_at(o, "estimator");
    int e = 0;
    record_sha256(o, m->sha256);
    if (!json_is_object(o) || !*name) return err_set(err, ERR_FORMAT, "%s: a record names no outcome", path);
    if (strcmp(m->sha256, text_at(o, "sha256")))
        return err_set(err, ERR_FORMAT,
                       "%s: the map of %.100s was changed after it was fitted: its hash does not match; run "
                       "scripts/evaluate.sh again",
                       path, name);
    if (strcmp(model, text_at(o, "model_sha256")))
        return err_set(err, ERR_FORMAT,
                       "%s: the map of %.100s was fitted for the model %.16s..., this is %.16s...: evaluate this one",
                       path, name, text_at(o, "model_sha256"), model);
    while (e < 3 && strcmp(how, estimators[e])) e++;
    int good = are_texts(codes) && json_array_size(codes) && are_texts(stops) && e < 3;
    for (size_t i = 0; good && i < sizeof numbers / sizeof *numbers; i++) {
        const json_t *x = json_object_get(o, numbers[i]);
        *to[i] = json_number_value(x);
        good = json_is_number(x) && isfinite(*to[i]);
    }
    if (!good || !(m->slope > 0))
        return err_set(err, ERR_FORMAT,
                       "%s: the map of %.100s does not say what it was fitted for (outcome_codes, stop_codes, "
                       "horizon_minutes, estimator) or is none: run scripts/evaluate.sh again",
                       path, name);
    m->name = xstrdup(name);
    m->fitted = xstrdup(text_at(o, "fitted"));
    m->estimator = (Estimator)e;
    texts_copy(codes, &m->codes, &m->n_codes);
    texts_copy(stops, &m->stops, &m->n_stops);
    return OK;
}

Status maps_read(RecalibrationMaps *m, const char *path, const char *model_sha256, Err *err) {
    char *text;
    size_t size;
    *m = (RecalibrationMaps){0};
    Status s = file_read(path, 16 << 20, &text, &size, err);
    if (s) return s;
    json_t *o = json_loadb(text, size, JSON_REJECT_DUPLICATES, NULL);
    const json_t *list = json_object_get(o, "outcomes");
    free(text);
    if (strcmp(text_at(o, "format"), "ehr.c recalibration") ||
        json_integer_value(json_object_get(o, "format_version")) != 1 || !json_is_array(list))
        s = err_set(err, ERR_FORMAT, "%s is no recalibration.json of scripts/evaluate.sh", path);
    m->map = xcalloc(json_array_size(list) + 1, sizeof *m->map);
    for (size_t i = 0; !s && i < json_array_size(list); i++)
        s = map_read(&m->map[m->n++], json_array_get(list, i), path, model_sha256, err);
    json_decref(o);
    if (s) maps_free(m);
    return s;
}

void maps_free(RecalibrationMaps *m) {
    for (int i = 0; i < m->n; i++) {
        RecalibrationMap *x = &m->map[i];
        for (int k = 0; k < x->n_codes; k++) free(x->codes[k]);
        for (int k = 0; k < x->n_stops; k++) free(x->stops[k]);
        free(x->codes);
        free(x->stops);
        free(x->name);
        free(x->fitted);
    }
    free(m->map);
    *m = (RecalibrationMaps){0};
}

/* ---- using ------------------------------------------------------------------------------------------------------- */

/* a is sorted, b is not. */
static int same_texts(char *const *a, int n_a, char *const *b, int n_b) {
    char **sorted = xcalloc((size_t)n_b + 1, sizeof *sorted);
    int same = n_a == n_b;
    if (n_b) memcpy(sorted, b, (size_t)n_b * sizeof *sorted);
    qsort(sorted, (size_t)n_b, sizeof *sorted, compare_texts);
    for (int i = 0; same && i < n_a; i++) same = !strcmp(a[i], sorted[i]);
    free(sorted);
    return same;
}

const RecalibrationMap *maps_find(const RecalibrationMaps *m, const AskOutcome *o, Estimator e, const char **why) {
    *why = m->n ? "no map was fitted for an outcome of this name" : "the server has no recalibration maps";
    for (int i = 0; i < m->n; i++) {
        const RecalibrationMap *x = &m->map[i];
        if (strcmp(x->name, o->name)) continue;
        if (!same_texts(x->codes, x->n_codes, o->codes, o->n_codes) ||
            !same_texts(x->stops, x->n_stops, o->stops, o->n_stops))
            *why = "the map of this name was fitted for other codes";
        else if (x->horizon != o->horizon) *why = "the map of this name was fitted for another horizon";
        else if (x->estimator != e) *why = "the map of this name was fitted for another estimator";
        else return x;
    }
    return NULL;
}

static double logit(double p) {
    const double q = fmin(fmax(p, 1e-6), 1 - 1e-6);
    return log(q / (1 - q));
}

static double expit(double z) { return 0.5 * (1 + tanh(0.5 * z)); }

double map_apply(const RecalibrationMap *m, double risk) { return expit(m->intercept + m->slope * logit(risk)); }

double map_undo(const RecalibrationMap *m, double recalibrated) {
    return expit((logit(recalibrated) - m->intercept) / m->slope);
}
