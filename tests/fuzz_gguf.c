/* fuzz_gguf.c SECONDS [SEED] - whatever bytes a GGUF file has, reading it ends in a parse whose parts all lie within
 * the file, or in an error with a message. */
#include "infer/gguf_read.h"
#include "tests/fuzz.h"

enum { CAPACITY = 1 << 16 };

static int try(const char *data, size_t size) {
    const uint8_t *byte = (const uint8_t *)data;
    volatile uint8_t sum = 0;
    GgufFile g;
    Err err = {OK, ""};
    const Status s = gguf_parse(&g, byte, size, "fuzz", &err);
    REQUIRE(s ? err.msg[0] && !g.key && !g.tensor : 1);
    for (int64_t i = 0; i < g.n_keys; i++) {
        const GgufKey *k = &g.key[i];
        for (size_t c = 0; c < k->name_size; c++) sum = (uint8_t)(sum + k->name[c]);
        if (k->type == GGUF_TEXT)
            for (uint64_t c = 0; c < k->n; c++) sum = (uint8_t)(sum + k->value[c]);
    }
    for (int64_t i = 0; i < g.n_tensors; i++) {
        REQUIRE(g.tensor[i].begin < g.tensor[i].end && g.tensor[i].end <= size);
        sum = (uint8_t)(sum + byte[g.tensor[i].begin] + byte[g.tensor[i].end - 1]);
    }
    if (!s) gguf_file_free(&g);
    return s == OK;
}

static size_t mutate(char *text, size_t n) {
    static const uint64_t number[] = {0,  1,  2,   4,          8,          9,          12,         13,         31,
                                      32, 33, 255, 0x7fffffff, 0xffffffff, 1ull << 32, 1ull << 62, 1ull << 63, ~0ull};
    for (uint64_t k = 1 + draw(3); k > 0 && n > 8; k--) {
        const size_t at = (size_t)draw(n - 8), length = (size_t)draw(24);
        const uint64_t x = number[draw(sizeof number / sizeof *number)];
        switch (draw(5)) {
        case 0: text[at] ^= (char)(1 << draw(8)); break;
        case 1: memcpy(text + at, &x, 4); break;
        case 2: memcpy(text + at, &x, 8); break;
        case 3: n = draw(4) ? n : at; break;
        default:
            if (at + length > n || n + length > CAPACITY) break;
            memmove(text + at + length, text + at, n - at);
            n += length;
        }
    }
    return n;
}

static size_t make(char *file) { return mutate(file, fuzz_take(file)); }

static const Fuzzer FUZZER = {.name = "gguf", .max = CAPACITY, .make = make, .try = try};
