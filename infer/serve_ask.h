/* serve_ask.h - what a request's body asks, checked: nothing past this point trusts a client. */
#ifndef EHR_INFER_SERVE_ASK_H
#define EHR_INFER_SERVE_ASK_H
#include "infer/rollout.h"
#include "infer/serve_record.h"

typedef enum { ASK_COMPLETIONS, ASK_RISK, ASK_SCORE, ASK_EMBEDDINGS, ASKS } AskKind;

typedef struct {
    int samples_max, max_tokens; /* futures a request at most; tokens of a future, at most and by default */
    double horizon_max;          /* minutes */
    RecordRules rules;
} AskLimits;

enum { ASK_OUTCOMES_MAX = 16, ASK_CODES_MAX = 64, ASK_EXPLAIN_MAX = 64, ASK_EXPLAIN = 10, JSON_DEPTH_MAX = 16 };
enum { ASK_RECORDS_MAX = 256 }; /* of a batch */
typedef struct {
    char *name;
    char **codes, **stops;
    int n_codes, n_stops;
    double horizon; /* minutes */
} AskOutcome;

/* /v1/risk: {"patient": {...} (serve_record.h), "outcomes": [{"name"?, "codes": [...], "stops"?: [...], "horizon"?}],
 *     or code strings, "horizon": "365d", "samples"?: 32, "seed"?: 1, "estimator"?: "reach"|"mc"|"scope", "explain"?:
 *     newest events to leave out one by one, true: 10 (explain.h, by reach whatever the estimator)}; with a "name" that a
 *     recalibration map has (serve_maps.h) an outcome comes recalibrated too
 * /v1/completions: {"prompt", or "patient": {...}; "max_tokens"?: 16, "n"?: 1, "seed"?: 1, "temperature"?: 1, "top_k"?,
 *     "horizon"?, "logprobs"?: 0, "stream"?: false, "stream_options"?: {"include_usage": true}, "model"?, "user"?, and
 *     what OpenAI has besides as far as it asks for nothing}
 * /v1/score: {"patient": {...} or "prompt"}, one record
 * /v1/embeddings: {"input" as a prompt, or "patient"; "pooling"?: "last"|"mean", "encoding_format"?: "float"|"base64"}
 * A prompt, as OpenAI has it: text (codes separated by spaces) and a list of token ids are one record, a list of texts
 * and a list of lists are a batch of them.  Lists within a list may hold codes as well as ids: [["SEX//F", "VISIT//OUT"]]
 * is one record of codes.  Each record of a batch gets what it would get alone, so that equal ones get equal answers;
 * choices (n of the first record, n of the second ...) and embeddings are numbered in this order. */
typedef struct {
    AskKind kind;
    ServeRecord *record; /* (n_records) */
    int n_records;       /* 1 unless a batch was asked */
    int n_outcomes;
    AskOutcome outcome[ASK_OUTCOMES_MAX];
    Estimator estimator;
    int samples, max_tokens, top_k, logprobs, explain, mean, base64, stream, usage;
    uint64_t seed;
    double horizon, temperature;
} Ask;

/* ERR_USAGE: what is wrong with the body, for the client. */
Status ask_parse(Ask *a, AskKind kind, const char *body, size_t size, const Vocabulary *v, const AskLimits *limits,
                 Err *err);
void ask_free(Ask *a);

#endif
