/* fuzz_gguf.c SECONDS [SEED] - whatever bytes a GGUF file has, reading it ends in a parse whose parts all lie within
 * the file, or in an error with a message. */
#include "infer/gguf_read.h"
#include "kernels/philox.h"
#include "tests/fuzz_corpus.h"

enum { CAPACITY = 1 << 16 };
static uint64_t counter, seed = 1;
static uint64_t draw(uint64_t below) {
    const Philox4 r = philox4x32(seed, counter++, 0);
    return below ? ((uint64_t)r.v[0] << 32 | r.v[1]) % below : 0;
}

/* kept: its name in the corpus, NULL of a new one. */
static int try(const char *data, size_t size, const char *kept) {
    uint8_t *exact = xmalloc(size + !size); /* so that a sanitizer sees one byte too far */
    volatile uint8_t sum = 0;
    GgufFile g;
    Err err = {OK, ""};
    memcpy(exact, data, size);
    corpus_try(exact, size, kept);
    const Status s = gguf_parse(&g, exact, size, "fuzz", &err);
    REQUIRE(s ? err.msg[0] && !g.key && !g.tensor : 1);
    for (int64_t i = 0; i < g.n_keys; i++) {
        const GgufKey *k = &g.key[i];
        for (size_t c = 0; c < k->name_size; c++) sum = (uint8_t)(sum + k->name[c]);
        if (k->type == GGUF_TEXT)
            for (uint64_t c = 0; c < k->n; c++) sum = (uint8_t)(sum + k->value[c]);
    }
    for (int64_t i = 0; i < g.n_tensors; i++) {
        REQUIRE(g.tensor[i].begin < g.tensor[i].end && g.tensor[i].end <= size);
        sum = (uint8_t)(sum + exact[g.tensor[i].begin] + exact[g.tensor[i].end - 1]);
    }
    if (!s) gguf_file_free(&g);
    corpus_try(NULL, 0, NULL);
    free(exact);
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

int main(int argc, char **argv) {
    const double until = clock_s() + (argc > 1 ? atof(argv[1]) : 2);
    if (argc > 2) seed = strtoull(argv[2], NULL, 10);
    char *text = xmalloc(CAPACITY);
    int64_t runs = 0, whole = 0;
    Corpus c;
    corpus_open(&c, "gguf");
    for (int i = 0; i < c.n; i++) whole += try(c.file[i].data, c.file[i].size, c.file[i].name);
    const int good = whole > 0;
    for (; clock_s() < until; runs++) {
        const int i = (int)draw((uint64_t)c.n);
        memcpy(text, c.file[i].data, c.file[i].size);
        whole += try(text, mutate(text, c.file[i].size), NULL);
    }
    corpus_close(&c);
    free(text);
    printf("fuzz_gguf: %d kept and %lld mutated files, %lld of them whole, seed %llu: %s\n", c.n, (long long)runs,
           (long long)whole, (unsigned long long)seed, good ? "ok" : "no kept file is whole");
    return !good;
}
