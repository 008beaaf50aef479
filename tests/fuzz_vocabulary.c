/* fuzz_vocabulary.c SECONDS [SEED] - mutated vocabulary.json never crashes the parser, and whatever it accepts keeps
 * the promises of vocabulary.h that others index by. */
#include "data/note_text.h"
#include "data/vocabulary.h"
#include "tests/fuzz_text.h"
#include "tests/make_dataset.h"
#include <jansson.h>
#include <math.h>

static const char *const WORD[] = {
    "null",           "-1",  "1e999",   "99999999999999999999", "\"\"",       "[]",       "{}",
    "true",           "0.5", "\"PAD\"", "\"GAP//=6mt\"",        "\"event\"",  "\"age\"",  "\"MEDS_DEATH\"",
    "\"level\": 3,",  "64",  "\\u0000", "[256, 101]",           "[104, 101]", "\"text\"", "\"SPELL//he\"",
    "\"merges\": []", "255"};
enum { WORDS = sizeof WORD / sizeof *WORD };

static void check(const Vocabulary *v) {
    char text[256];
    uint8_t *forbidden = malloc((size_t)v->n);
    uint32_t *mark = calloc((size_t)v->n, sizeof *mark);
    const char *pattern[] = {"ICD10CM//E11", "LOINC*"};
    REQUIRE(v->n >= 3 && v->gap_lo > 0 && v->gap_lo + GAP_TOKENS <= v->n && v->death > 0 && v->death < v->n &&
            v->n_age > 0);
    vocabulary_forbidden(v, forbidden);
    REQUIRE(vocabulary_match(v, pattern, 2, 1, mark) <= v->n);
    vocabulary_nearest(v, "ICD10CM//X", text, sizeof text);
    for (int id = 0; id < v->n; id++) {
        REQUIRE(vocabulary_find(v, v->token[id].code) == id);
        vocabulary_describe(v, id, text, sizeof text);
        REQUIRE(vocabulary_gap_minutes(v, id, 0.3) >= 0);
    }
    for (double years = -1; years < 300; years += 7.5) {
        int age = vocabulary_age_token(v, years);
        REQUIRE(age > 0 && age < v->n && v->token[age].kind == TOKEN_AGE);
    }
    for (int i = 0; i < v->n_edges; i++)
        for (float x = -10; x < 10; x += 0.7f) {
            int level = edges_level(&v->edges[i], x);
            REQUIRE(level >= 1 && level <= v->edges[i].n + 1);
        }
    NoteText note = {0};
    for (int id = 0; id < v->n; id++) { /* a note of every token there is */
        int n;
        const char *bytes = vocabulary_text(v, id, &n);
        REQUIRE(!bytes == !n && n <= BPE_WORD_MAX && (!bytes || v->token[id].kind == TOKEN_TEXT));
        if (note_text_take(&note, v, id) == NOTE_WHOLE) REQUIRE(strlen(note.text) == note.n);
    }
    if (note.open) note_text_close(&note, 1);
    note_text_free(&note);
    uint32_t symbol[64];
    int whole;
    int64_t told = v->text_begin < 0 ? 0 : bpe_encode(&v->text, "the other then he \xff", 19, symbol, 64, &whole);
    for (int64_t i = 0; i < told; i++) REQUIRE(v->text_begin + TEXT_FIRST + (int)symbol[i] < v->n);
    for (int i = 0; i < v->n_rollup; i++) REQUIRE(vocabulary_find(v, v->rollup_to[i]) >= 0);
    free(forbidden);
    free(mark);
}

/* The same with tokens of texts: two merges, "he" and "the". */
static char *with_notes(const char *json) {
    json_t *root = json_loads(json, 0, NULL), *tokens = json_object_get(root, "tokens");
    int first = (int)json_array_size(tokens);
    static const char *const markers[] = {"NOTE_BEGIN", "NOTE_END", "NOTE_CUT"};
    for (int i = 0; i < 3 + 256 + 2; i++) {
        char code[32] = "SPELL//", byte = (char)(i - 3);
        if (i < 3) snprintf(code, sizeof code, "%s", markers[i]);
        else if (i < 3 + 256) bpe_spell(&byte, 1, code + 7);
        else snprintf(code, sizeof code, "SPELL//%s", i == 3 + 256 ? "he" : "the");
        json_array_append_new(tokens, json_pack("{s:i, s:s, s:s}", "id", first + i, "code", code, "kind", "text"));
    }
    json_object_set_new(
        root, "notes",
        json_pack("{s:i, s:i, s:[[i, i], [i, i]]}", "begin", first, "max_tokens", 9, "merges", 'h', 'e', 't', 256));
    char *text = json_dumps(root, JSON_PRESERVE_ORDER);
    json_decref(root);
    return text;
}

enum { CAPACITY = 1 << 17 };

static void begin(void) {
    char *plain = made_vocabulary_json(), *noted = with_notes(plain);
    Vocabulary v;
    Err err;
    REQUIRE(!vocabulary_parse(&v, noted, strlen(noted), "fuzz", &err) && v.text_begin > 0);
    vocabulary_free(&v);
    fuzz_keep(plain, strlen(plain));
    fuzz_keep(noted, strlen(noted));
    free(plain);
    free(noted);
}

static int try(const char *text, size_t n) {
    Vocabulary v;
    Err err = {0};
    if (vocabulary_parse(&v, text, n, "fuzz", &err)) {
        REQUIRE(err.msg[0] && v.n == 0 && !v.token);
        return 0;
    }
    check(&v);
    vocabulary_free(&v);
    return 1;
}

static size_t make(char *text) { return json_mutate(text, fuzz_take(text), CAPACITY, WORD, WORDS); }

static const Fuzzer FUZZER = {.name = "vocabulary", .max = CAPACITY, .open = begin, .make = make, .try = try};
