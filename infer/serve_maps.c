/* serve_maps.c - see serve_maps.h.  A record carries the text that was hashed when it was fitted, "hashed", and the
 * SHA-256 of that: what the record says besides must be the same, number for number. */
#include "infer/serve_maps.h"
#include "model/sha256.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { VERSION = 2 }; /* format_version of the file */

/* ---- reading ----------------------------------------------------------------------------------------------------- */

static int compare_texts(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

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

/* Whether o says what was fitted; hex: its hash. */
static int record_is_whole(const json_t *o, char hex[65]) {
    const char *hashed = text_at(o, "hashed");
    json_t *fitted = json_loads(hashed, JSON_REJECT_DUPLICATES, NULL), *said = json_copy((json_t *)(uintptr_t)o);
    json_object_del(said, "hashed");
    json_object_del(said, "sha256");
    bytes_sha256(hashed, strlen(hashed), hex);
    const int whole = !strcmp(hex, text_at(o, "sha256")) && json_equal(fitted, said);
    json_decref(fitted);
    json_decref(said);
    return whole;
}

static Status map_read(RecalibrationMap *m, const json_t *o, const char *path, const char *model, Err *err) {
    static const char *const estimators[] = {"mc", "scope", "reach", "next"}; /* by the last no request is answered */
    static const char *const numbers[] = {"intercept", "slope", "threshold", "alerts_per_100", "horizon_minutes"};
    double *const to[] = {&m->intercept, &m->slope, &m->threshold, &m->alerts_per_100, &m->horizon};
    const json_t *codes = json_object_get(o, "outcome_codes"), *stops = json_object_get(o, "stop_codes");
    const char *name = text_at(o, "outcome"), *how = text_at(o, "estimator");
    int e = 0;
    if (!json_is_object(o) || !*name) return err_set(err, ERR_FORMAT, "%s: a record names no outcome", path);
    if (!record_is_whole(o, m->sha256))
        return err_set(err, ERR_FORMAT,
                       "%s: the map of %.100s was changed after it was fitted: it is not what its hash is of; run "
                       "scripts/evaluate.sh again",
                       path, name);
    if (strcmp(model, text_at(o, "model_sha256")))
        return err_set(err, ERR_FORMAT,
                       "%s: the map of %.100s was fitted for the model %.16s..., this is %.16s...: evaluate this one",
                       path, name, text_at(o, "model_sha256"), model);
    while (e < 4 && strcmp(how, estimators[e])) e++;
    int good = are_texts(codes) && are_texts(stops) && e < 4; /* no codes: a length of stay, which no request asks for */
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
    m->later = json_object_get(o, "after_minutes") != NULL;
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
    const long long version = json_integer_value(json_object_get(o, "format_version"));
    if (strcmp(text_at(o, "format"), "ehr.c recalibration") || version < 1 || !json_is_array(list))
        s = err_set(err, ERR_FORMAT, "%s is no recalibration.json of scripts/evaluate.sh", path);
    else if (version != VERSION)
        s = err_set(err, ERR_FORMAT,
                    "%s is of %s release (format_version %lld, this one reads %d): run scripts/evaluate.sh again to fit its maps anew",
                    path, version < VERSION ? "an older" : "a newer", version, VERSION);
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
        else if (x->later) *why = "the map of this name was fitted for outcomes that count some time after the index only";
        else if (x->estimator != e) *why = "the map of this name was fitted for another estimator";
        else return x;
    }
    return NULL;
}

static json_t *texts_json(char *const *text, int n) {
    json_t *list = json_array();
    for (int i = 0; i < n; i++) json_array_append_new(list, json_string(text[i]));
    return list;
}

json_t *maps_json(const RecalibrationMaps *m) {
    static const char *const estimators[] = {"mc", "scope", "reach"};
    json_t *list = json_array();
    for (int i = 0; i < m->n; i++) {
        const RecalibrationMap *x = &m->map[i];
        if (x->later || !x->n_codes || x->estimator > ESTIMATOR_REACH) continue;
        json_array_append_new(list, json_pack("{s:s, s:o, s:o, s:f, s:s}", "name", x->name, "codes",
                                              texts_json(x->codes, x->n_codes), "stops", texts_json(x->stops, x->n_stops),
                                              "horizon_days", x->horizon / 1440, "estimator", estimators[x->estimator]));
    }
    return list;
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
