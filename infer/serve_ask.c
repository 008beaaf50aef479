/* serve_ask.c - see serve_ask.h. */
#include "infer/serve_ask.h"
#include "infer/session.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- pieces ------------------------------------------------------------------------------------------------------ */

/* How deep brackets nest outside texts: jansson would go 2,048 calls deep. */
static int json_depth(const char *text, size_t n) {
    int depth = 0, most = 0, quoted = 0;
    for (size_t i = 0; i < n; i++) {
        const char c = text[i];
        if (quoted) {
            if (c == '\\') i++;
            else if (c == '"') quoted = 0;
        } else if (c == '"') {
            quoted = 1;
        } else if (c == '{' || c == '[') {
            if (++depth > most) most = depth;
        } else if (c == '}' || c == ']') {
            depth--;
        }
    }
    return most;
}

static Status whole(const json_t *o, const char *name, int64_t lo, int64_t hi, int64_t *out, Err *err) {
    const json_t *value = json_object_get(o, name);
    if (!value || json_is_null(value)) return OK;
    if (!json_is_integer(value) || json_integer_value(value) < lo || json_integer_value(value) > hi)
        return err_set(err, ERR_USAGE, "%s takes a whole number from %lld to %lld", name, (long long)lo, (long long)hi);
    *out = json_integer_value(value);
    return OK;
}

/* "365d", as flags take it, or a number of days -> minutes. */
static Status duration(const json_t *value, double most, double *out, Err *err) {
    int64_t minutes = 0;
    if (json_is_number(value)) {
        *out = json_number_value(value) * 1440;
    } else if (json_is_string(value)) {
        char name[] = "--horizon", *argv[2] = {name, xasprintf("%.40s", json_string_value(value))};
        Flag flag = {"--horizon", FLAG_DURATION, &minutes, 1, 1e9, NULL, "", 0};
        int n_pos, help;
        const char *pos[1];
        Err ignored;
        Status s = flags_parse(&flag, 1, 2, argv, pos, 0, &n_pos, &help, &ignored);
        free(argv[1]);
        *out = s ? NAN : (double)minutes;
    } else {
        *out = NAN;
    }
    if (*out >= 1 && *out <= most) return OK;
    return err_set(err, ERR_USAGE,
                   "horizon takes a duration such as \"365d\", \"12h\", \"2y\" or a number of days, at most %.0f days",
                   most / 1440);
}

static Status texts(const json_t *list, const char *name, char ***out, int *n, Err *err) {
    const size_t count = json_array_size(list);
    if (!json_is_array(list) || !count || count > ASK_CODES_MAX)
        return err_set(err, ERR_USAGE, "%s takes a list of 1 to %d codes", name, ASK_CODES_MAX);
    *out = xcalloc(count, sizeof **out);
    for (size_t i = 0; i < count; i++) {
        const json_t *item = json_array_get(list, i);
        if (!json_is_string(item) || !json_string_length(item) || json_string_length(item) > 255)
            return err_set(err, ERR_USAGE, "%s takes codes of 1 to 255 bytes", name);
        (*out)[(*n)++] = xstrdup(json_string_value(item));
    }
    return OK;
}

/* ---- records ----------------------------------------------------------------------------------------------------- */

static Status patient_read(Ask *a, const json_t *patient, const Vocabulary *v, const AskLimits *limits, Err *err) {
    a->record = xcalloc(1, sizeof *a->record);
    a->n_records = 1;
    return serve_record_parse(a->record, patient, v, &limits->rules, err);
}

/* Whether all of a list are of a type; of an empty one they are not. */
static int all_of(const json_t *list, json_type type) {
    size_t i = 0;
    while (i < json_array_size(list) && json_typeof(json_array_get(list, i)) == type) i++;
    return i && i == json_array_size(list);
}

static Status prompts_read(Ask *a, const json_t *prompt, const char *name, const Vocabulary *v, Err *err) {
    const int batch = all_of(prompt, JSON_STRING) || all_of(prompt, JSON_ARRAY);
    if (json_is_array(prompt) && json_array_size(prompt) && !batch && !all_of(prompt, JSON_INTEGER))
        return err_set(err, ERR_USAGE,
                       "%s takes text (codes separated by spaces), a list of token ids, or a batch: a list of texts or a "
                       "list of lists of ids and codes; this list is none of them",
                       name);
    if (batch && json_array_size(prompt) > ASK_RECORDS_MAX)
        return err_set(err, ERR_USAGE, "%s is a batch of %zu records; at most %d go in one request: send several", name,
                       json_array_size(prompt), ASK_RECORDS_MAX);
    const int n = batch ? (int)json_array_size(prompt) : 1;
    Status s = OK;
    a->record = xcalloc((size_t)n, sizeof *a->record);
    for (int i = 0; !s && i < n; i++) {
        char where[32];
        snprintf(where, sizeof where, batch ? "%s[%d]" : "%s", name, i);
        s = serve_record_prompt(&a->record[a->n_records++], batch ? json_array_get(prompt, (size_t)i) : prompt, where, v,
                                err);
    }
    return s;
}

/* ---- outcomes ---------------------------------------------------------------------------------------------------- */

static Status outcome_read(AskOutcome *o, const json_t *item, double horizon, const Vocabulary *v,
                           const AskLimits *limits, Err *err) {
    static const char *const known[] = {"name", "codes", "stops", "horizon", NULL};
    Status s = OK;
    o->horizon = horizon;
    if (json_is_string(item) && json_string_length(item) && json_string_length(item) <= 255) {
        o->codes = xcalloc(1, sizeof *o->codes);
        o->codes[o->n_codes++] = xstrdup(json_string_value(item));
    } else if (json_is_object(item)) {
        const json_t *stops = json_object_get(item, "stops"), *own = json_object_get(item, "horizon"),
                     *name = json_object_get(item, "name");
        s = serve_members(item, known, "an outcome", err);
        if (!s) s = texts(json_object_get(item, "codes"), "codes", &o->codes, &o->n_codes, err);
        if (!s && stops) s = texts(stops, "stops", &o->stops, &o->n_stops, err);
        if (!s && own) s = duration(own, limits->horizon_max, &o->horizon, err);
        if (!s && name && (!json_is_string(name) || json_string_length(name) > 100))
            s = err_set(err, ERR_USAGE, "an outcome's name takes up to 100 bytes of text");
        if (!s && name) o->name = xstrdup(json_string_value(name));
    } else {
        s = err_set(err, ERR_USAGE, "outcomes takes codes, or objects with codes");
    }
    if (!s && isnan(o->horizon)) s = err_set(err, ERR_USAGE, "an outcome needs a horizon, or the request one for all");
    if (s) return s;
    if (!o->name) o->name = xstrdup(o->codes[0]);
    uint32_t *mark = xcalloc((size_t)v->n, sizeof *mark);
    s = outcome_mark(v, o->name, o->codes, o->n_codes, 0, mark, err);
    if (!s && o->n_stops) s = outcome_mark(v, "stops", o->stops, o->n_stops, 0, mark, err);
    free(mark);
    return s;
}

static Status risk_read(Ask *a, const json_t *o, const Vocabulary *v, const AskLimits *limits, Err *err) {
    static const char *const known[] = {"patient",   "outcomes", "horizon",    "samples", "seed",
                                        "estimator", "explain",  "max_tokens", "model",   NULL};
    const json_t *list = json_object_get(o, "outcomes"), *horizon = json_object_get(o, "horizon"),
                 *estimator = json_object_get(o, "estimator");
    const char *how = estimator ? json_string_value(estimator) : "reach";
    int64_t samples = 32, explain = 0;
    double all = NAN;
    Status s = serve_members(o, known, "the body", err);
    if (!s && horizon) s = duration(horizon, limits->horizon_max, &all, err);
    if (!s && (!json_is_array(list) || !json_array_size(list) || json_array_size(list) > ASK_OUTCOMES_MAX))
        s = err_set(err, ERR_USAGE, "outcomes takes a list of 1 to %d outcomes", ASK_OUTCOMES_MAX);
    for (size_t i = 0; !s && i < json_array_size(list); i++) {
        s = outcome_read(&a->outcome[a->n_outcomes++], json_array_get(list, i), all, v, limits, err);
    }
    if (!s && (!how || (strcmp(how, "reach") && strcmp(how, "mc") && strcmp(how, "scope"))))
        s = err_set(err, ERR_USAGE, "estimator takes reach, mc or scope");
    if (!s)
        a->estimator = !strcmp(how, "mc") ? ESTIMATOR_MC : !strcmp(how, "scope") ? ESTIMATOR_SCOPE : ESTIMATOR_REACH;
    if (!s) s = whole(o, "samples", 1, limits->samples_max, &samples, err);
    if (json_is_true(json_object_get(o, "explain"))) explain = ASK_EXPLAIN;
    else if (!s && !json_is_false(json_object_get(o, "explain")))
        s = whole(o, "explain", 0, ASK_EXPLAIN_MAX, &explain, err);
    a->samples = (int)samples;
    a->explain = (int)explain;
    if (!s && explain && (samples < 2 || samples * explain * a->n_outcomes > 8 * (int64_t)limits->samples_max))
        s = err_set(err, ERR_USAGE, "explain takes at least 2 samples, and outcomes x events x samples of at most %d",
                    8 * limits->samples_max);
    return s ? s : patient_read(a, json_object_get(o, "patient"), v, limits, err);
}

/* ---- the others -------------------------------------------------------------------------------------------------- */

/* A record from "patient", or a prompt from member `prompt`. */
static Status record_read(Ask *a, const json_t *o, const char *prompt, const Vocabulary *v, const AskLimits *limits,
                          Err *err) {
    const json_t *patient = json_object_get(o, "patient"), *text = json_object_get(o, prompt);
    if (!patient == !text) return err_set(err, ERR_USAGE, "the body needs either patient or %s", prompt);
    return patient ? patient_read(a, patient, v, limits, err) : prompts_read(a, text, prompt, v, err);
}

/* What OpenAI's clients may send and nothing here can do: only values that ask for nothing. */
static Status neutral(const json_t *o, int64_t n, Err *err) {
    static const struct {
        const char *name;
        double value;
    } number[] = {{"top_p", 1}, {"frequency_penalty", 0}, {"presence_penalty", 0}};
    static const char *const empty[] = {"stop", "suffix", "logit_bias", "echo"};
    const json_t *x;
    for (size_t i = 0; i < sizeof number / sizeof *number; i++)
        if ((x = json_object_get(o, number[i].name)) && !json_is_null(x) &&
            (!json_is_number(x) || json_number_value(x) != number[i].value))
            return err_set(err, ERR_USAGE, "%s takes %g alone: others are not known here", number[i].name,
                           number[i].value);
    for (size_t i = 0; i < sizeof empty / sizeof *empty; i++)
        if ((x = json_object_get(o, empty[i])) && !json_is_null(x) && !json_is_false(x) &&
            !(json_is_object(x) && !json_object_size(x)))
            return err_set(err, ERR_USAGE, "%s is not known here: leave it away", empty[i]);
    if ((x = json_object_get(o, "best_of")) && !json_is_null(x) && json_integer_value(x) != n)
        return err_set(err, ERR_USAGE, "best_of takes the number of n alone: all choices are told");
    return OK;
}

static Status stream_read(Ask *a, const json_t *o, Err *err) {
    static const char *const known[] = {"include_usage", "include_obfuscation", NULL};
    const json_t *stream = json_object_get(o, "stream"), *options = json_object_get(o, "stream_options");
    if (stream && !json_is_boolean(stream) && !json_is_null(stream))
        return err_set(err, ERR_USAGE, "stream takes true or false");
    a->stream = json_is_true(stream);
    if (!options || json_is_null(options)) return OK;
    if (!json_is_object(options) || !a->stream)
        return err_set(err, ERR_USAGE, "stream_options takes {\"include_usage\": true}, with stream: true");
    a->usage = json_is_true(json_object_get(options, "include_usage"));
    return serve_members(options, known, "stream_options", err);
}

static Status completions_read(Ask *a, const json_t *o, const Vocabulary *v, const AskLimits *limits, Err *err) {
    static const char *const known[] = {"model",
                                        "prompt",
                                        "patient",
                                        "max_tokens",
                                        "n",
                                        "seed",
                                        "temperature",
                                        "top_k",
                                        "horizon",
                                        "logprobs",
                                        "stream",
                                        "user",
                                        "stop",
                                        "best_of",
                                        "frequency_penalty",
                                        "presence_penalty",
                                        "suffix",
                                        "logit_bias",
                                        "echo",
                                        "top_p",
                                        "stream_options",
                                        NULL};
    const json_t *temperature = json_object_get(o, "temperature"), *logprobs = json_object_get(o, "logprobs"),
                 *horizon = json_object_get(o, "horizon");
    int64_t n = 1, top_k = 0;
    Status s = serve_members(o, known, "the body", err);
    if (!s) s = stream_read(a, o, err);
    if (!s) s = whole(o, "n", 1, limits->samples_max, &n, err);
    if (!s) s = neutral(o, n, err);
    if (!s) s = whole(o, "top_k", 0, v->n, &top_k, err);
    if (!s && temperature && !json_is_null(temperature)) {
        a->temperature = json_number_value(temperature);
        if (!json_is_number(temperature) || !(a->temperature >= 0 && a->temperature <= 100))
            s = err_set(err, ERR_USAGE, "temperature takes a number from 0 to 100");
    }
    if (!s && horizon) s = duration(horizon, limits->horizon_max, &a->horizon, err);
    if (!s && logprobs && !json_is_null(logprobs) && !json_is_false(logprobs)) {
        if (!json_is_true(logprobs) && (!json_is_integer(logprobs) || json_integer_value(logprobs) != 0))
            s = err_set(err, ERR_USAGE,
                        "logprobs takes 0 or true: log probabilities of the tokens drawn; others are not listed");
        a->logprobs = 1;
    }
    a->samples = (int)n;
    a->top_k = (int)top_k;
    if (!s && a->temperature == 0) { /* the likeliest token, as OpenAI means it */
        a->temperature = 1;
        a->top_k = 1;
    }
    if (!s) s = record_read(a, o, "prompt", v, limits, err);
    if (!s && n * a->n_records > limits->samples_max)
        s = err_set(err, ERR_USAGE, "%d records of %lld choices each: at most %d choices go in one request", a->n_records,
                    (long long)n, limits->samples_max);
    return s;
}

static Status score_read(Ask *a, const json_t *o, const Vocabulary *v, const AskLimits *limits, Err *err) {
    static const char *const known[] = {"model", "prompt", "patient", NULL};
    Status s = serve_members(o, known, "the body", err);
    if (!s) s = record_read(a, o, "prompt", v, limits, err);
    if (!s && a->n_records > 1) s = err_set(err, ERR_USAGE, "prompt: one record is scored at a time, this is a batch");
    return s;
}

static Status embeddings_read(Ask *a, const json_t *o, const Vocabulary *v, const AskLimits *limits, Err *err) {
    static const char *const known[] = {"model", "input", "patient", "pooling", "encoding_format", "user", NULL};
    const json_t *pooling = json_object_get(o, "pooling"), *format = json_object_get(o, "encoding_format");
    const char *how = pooling ? json_string_value(pooling) : "last", *as = format ? json_string_value(format) : "float";
    Status s = serve_members(o, known, "the body", err);
    if (!s && (!how || (strcmp(how, "last") && strcmp(how, "mean"))))
        s = err_set(err, ERR_USAGE, "pooling takes last or mean");
    if (!s && (!as || (strcmp(as, "float") && strcmp(as, "base64"))))
        s = err_set(err, ERR_USAGE, "encoding_format takes float or base64");
    if (s) return s;
    a->mean = !strcmp(how, "mean");
    a->base64 = !strcmp(as, "base64");
    return record_read(a, o, "input", v, limits, err);
}

Status ask_parse(Ask *a, AskKind kind, const char *body, size_t size, const Vocabulary *v, const AskLimits *limits,
                 Err *err) {
    json_error_t why;
    *a = (Ask){.kind = kind,
               .samples = 1,
               .max_tokens = kind == ASK_RISK ? limits->max_tokens : 16,
               .seed = 1,
               .temperature = 1,
               .horizon = limits->horizon_max};
    if (json_depth(body, size) > JSON_DEPTH_MAX)
        return err_set(err, ERR_USAGE, "the body is nested more than %d deep", JSON_DEPTH_MAX);
    json_t *o = json_loadb(body, size, JSON_REJECT_DUPLICATES, &why);
    if (!json_is_object(o)) {
        json_decref(o);
        return err_set(err, ERR_USAGE, "the body is no JSON object%s%.120s", o ? "" : ": ", o ? "" : why.text);
    }
    int64_t seed = 1, max_tokens = a->max_tokens < limits->max_tokens ? a->max_tokens : limits->max_tokens;
    Status s = whole(o, "seed", 0, INT64_MAX, &seed, err);
    if (!s) s = whole(o, "max_tokens", 1, limits->max_tokens, &max_tokens, err);
    a->seed = (uint64_t)seed;
    a->max_tokens = (int)max_tokens;
    if (!s && kind == ASK_RISK) s = risk_read(a, o, v, limits, err);
    if (!s && kind == ASK_COMPLETIONS) s = completions_read(a, o, v, limits, err);
    if (!s && kind == ASK_SCORE) s = score_read(a, o, v, limits, err);
    if (!s && kind == ASK_EMBEDDINGS) s = embeddings_read(a, o, v, limits, err);
    json_decref(o);
    if (s) ask_free(a);
    return s;
}

static void texts_free(char **text, int n) {
    for (int i = 0; i < n; i++) free(text[i]);
    free(text);
}

void ask_free(Ask *a) {
    for (int i = 0; i < a->n_outcomes; i++) {
        free(a->outcome[i].name);
        texts_free(a->outcome[i].codes, a->outcome[i].n_codes);
        texts_free(a->outcome[i].stops, a->outcome[i].n_stops);
    }
    for (int i = 0; i < a->n_records; i++) serve_record_free(&a->record[i]);
    free(a->record);
    *a = (Ask){0};
}
