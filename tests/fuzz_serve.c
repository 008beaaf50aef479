/* fuzz_serve.c SECONDS [SEED] - mutated request bodies never crash what reads them, and whatever is accepted keeps what
 * the rollout engine takes for granted: ids of the vocabulary, times that do not descend, limits. */
#include "infer/serve_ask.h"
#include "tests/fuzz_text.h"
#include "tests/make_dataset.h"
#include <math.h>

enum { CAPACITY = 1 << 16 };
static const char *const BODY[] = {
    "{\"patient\":{\"events\":[{\"code\":\"SEX//"
    "F\"},{\"code\":\"MEDS_BIRTH\",\"time\":\"1950-02-03\"},{\"code\":\"ICD10CM//I50.9\",\"time\":"
    "\"2024-01-01\"},{\"code\":\"LOINC//"
    "4548-4\",\"time\":\"2024-01-01T08:00\",\"value\":7.2,\"unit\":\"%\"},{\"code\":\"X//Y\",\"minutes\":"
    "28400000,\"kind\":\"drug\"}],\"key\":\"17\"},\"outcomes\":[\"ICD10CM//"
    "E11\",{\"codes\":[\"MEDS_DEATH\"],\"horizon\":\"5y\",\"name\":\"d\"}],"
    "\"horizon\":\"365d\",\"samples\":8,\"seed\":3,\"estimator\":\"mc\"}",
    "{\"patient\":{\"tokens\":[40,\"GAP//1d-2d\",49,41,61],\"minutes\":[0,2000,2000,2001,9000],\"statics\":[\"SEX//"
    "M\"],\"age_years\":63.5,"
    "\"index_minutes\":2001,\"key\":9},\"outcomes\":[{\"codes\":[\"ICD10CM//I50\"],\"stops\":[\"VISIT_END//"
    "OUT\"]}],\"horizon\":30}",
    "{\"prompt\":[\"SEX//F VISIT//OUT\",\"RECORD_START SEX//M\"],\"n\":2,\"stream\":true,\"logprobs\":0}",
    "{\"patient\":{\"events\":[{\"code\":\"VISIT//OUT\",\"time\":\"2024-01-01\",\"text\":\"Seen for "
    "cough.\\r\\n\"}]}}",
    "{\"input\":[[\"SEX//F\",49,\"VISIT//OUT\"],[40,41],[]]}",
    "{\"model\":\"m\",\"prompt\":\"RECORD_START SEX//F VISIT//OUT COMPLAINT//COUGH VISIT_END//OUT "
    "GAP//=6mt\",\"max_tokens\":5,\"n\":2,"
    "\"temperature\":0,\"logprobs\":0,\"stream\":false}",
    "{\"prompt\":[1,3,8,40,42,41,30,49],\"max_tokens\":7,\"top_k\":3,\"seed\":11,\"horizon\":\"12h\"}",
    "{\"patient\":{\"events\":[{\"code\":\"VISIT//OUT\",\"time\":\"2020-02-29T23:59:59Z\"},{\"code\":\"LOINC//"
    "4548-4\",\"value\":\"<5\","
    "\"time\":\"2020-03-01\"},{\"code\":\"MEDS_DEATH\",\"time\":\"2090-01-01\"}],\"age_years\":88,\"index\":\"2031-01-"
    "01\"}}",
    "{\"input\":[\"VISIT//OUT\",\"LOINC//4548-4=Q2\"]}"};

static const char *const WORD[] = {"null",
                                   "-1",
                                   "1e999",
                                   "99999999999999999999",
                                   "\"\"",
                                   "[]",
                                   "{}",
                                   "true",
                                   "0.5",
                                   "\"MEDS_DEATH\"",
                                   "\"time\":",
                                   "\"minutes\":-2147483648",
                                   "\"1000-01-01\"",
                                   "\"9999-12-31T23:59:60\"",
                                   "[[[[",
                                   "\\u0000",
                                   "2147483647",
                                   "\"GAP//=6mt\",",
                                   "\"samples\":",
                                   "\"UNKNOWN//lab\"",
                                   "\xff\xfe",
                                   "\"-5h\""};
enum { WORDS = sizeof WORD / sizeof *WORD };

static const char *broken_record(const ServeRecord *r, const Vocabulary *v) {
    if (r->n_known < 0 || r->n_known > r->view.n || r->index_minutes < 0 || r->n_unknown > r->n_events) return "counts";
    for (int64_t i = 0; i < r->view.n; i++) {
        const int kind = v->token[patient_token(&r->view, i)].kind;
        if (r->tokens[i] >= (uint32_t)v->n || kind == TOKEN_SPECIAL || kind == TOKEN_STATIC || kind == TOKEN_AGE)
            return "a token";
        if (r->minutes[i] < (i ? r->minutes[i - 1] : 0)) return "time descends";
        if ((i < r->n_known) != (r->minutes[i] <= r->index_minutes)) return "what is known";
    }
    for (int s = 0; s < v->n_static; s++)
        if (r->statics[s] >= v->n || v->token[r->statics[s]].kind != TOKEN_STATIC) return "a static token";
    if (r->view.age_years != AGE_UNKNOWN && (r->view.age_years < 0 || r->view.age_years > 199)) return "an age";
    return NULL;
}

static const char *broken(const Ask *a, const Vocabulary *v, const AskLimits *limits) {
    if (a->samples < 1 || a->samples > limits->samples_max || a->max_tokens < 1 || a->max_tokens > limits->max_tokens)
        return "limits";
    if (!(a->horizon >= 1 && a->horizon <= limits->horizon_max) || !(a->temperature > 0))
        return "horizon or temperature";
    if (a->kind == ASK_RISK && !a->n_outcomes) return "no outcome";
    for (int i = 0; i < a->n_outcomes; i++)
        if (!a->outcome[i].name || !a->outcome[i].n_codes ||
            !(a->outcome[i].horizon >= 1 && a->outcome[i].horizon <= limits->horizon_max))
            return "an outcome";
    if (a->n_records < 1 || a->n_records > ASK_RECORDS_MAX) return "records";
    if (a->n_records > 1 && a->kind != ASK_COMPLETIONS && a->kind != ASK_EMBEDDINGS)
        return "a batch of what takes none";
    if (a->kind == ASK_COMPLETIONS && a->n_records * a->samples > limits->samples_max) return "choices";
    for (int i = 0; i < a->n_records; i++) {
        const char *what = broken_record(&a->record[i], v);
        if (what) return what;
    }
    return NULL;
}

static Vocabulary vocabulary;

static void begin(void) {
    char *json = made_vocabulary_json();
    Err err;
    REQUIRE(!vocabulary_parse(&vocabulary, json, strlen(json), "made", &err));
    free(json);
    for (size_t i = 0; i < sizeof BODY / sizeof *BODY; i++) fuzz_keep(BODY[i], strlen(BODY[i]));
}

static int try(const char *body, size_t n) {
    static const AskLimits limits = {.samples_max = 100, .max_tokens = 500, .horizon_max = 10519200};
    int accepted = 0;
    for (int kind = 0; kind < ASKS; kind++) {
        Ask a;
        Err err = {0};
        const Status s = ask_parse(&a, (AskKind)kind, body, n, &vocabulary, &limits, &err);
        if (s) {
            REQUIRE((s == ERR_USAGE || s == ERR_FORMAT) && err.msg[0]); /* the client's fault, and told */
            continue;
        }
        const char *what = broken(&a, &vocabulary, &limits);
        if (what) fuzz_fail(what);
        accepted = 1;
        ask_free(&a);
    }
    return accepted;
}

static size_t make(char *text) { return json_mutate(text, fuzz_take(text), CAPACITY, WORD, WORDS); }

static const char *end(void) {
    vocabulary_free(&vocabulary);
    return NULL;
}

static const Fuzzer FUZZER = {.name = "serve", .max = CAPACITY, .open = begin, .make = make, .try = try, .close = end};
