/* fuzz_safetensors.c - whatever bytes a safetensors file has, reading it ends in a parse or an error, never in a crash
 * or a read outside it.  With clang: -DLIBFUZZER -fsanitize=fuzzer.  Otherwise main() mutates well-formed files for N
 * seconds: fuzz_safetensors [seconds = 2] [seed = 1] */
#include "kernels/philox.h"
#include "model/safetensors.h"
#include "tests/fuzz_corpus.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    /* A copy of exactly this size, so that a sanitizer sees one byte too far. */
    uint8_t *copy = xmalloc(size);
    Safetensors st;
    Err err = {OK, ""};
    if (size) memcpy(copy, data, size);
    if (!safetensors_parse(&st, copy, size, "fuzz", &err)) {
        volatile uint8_t sum = 0;
        char shape[16];
        for (int i = 0; i < st.n; i++) {
            const TensorInfo *t = safetensors_find(&st, st.tensor[i].name);
            const uint8_t *bytes = safetensors_data(&st, t);
            REQUIRE(t == &st.tensor[i] && t->begin <= t->end && t->end <= (int64_t)size);
            for (int64_t k = 0; k < t->end - t->begin; k++) sum = (uint8_t)(sum + bytes[k]);
            safetensors_shape(t, shape, sizeof shape);
        }
        safetensors_close(&st);
    } else {
        REQUIRE(err.code != OK && err.msg[0]);
    }
    free(copy);
    return 0;
}

#ifndef LIBFUZZER

static const char *const SEEDS[] = {
    "{}",
    "{\"__metadata__\":{\"format\":\"pt\"},\"a\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]}}",
    "{\"a\":{\"dtype\":\"BF16\",\"shape\":[4],\"data_offsets\":[0,8]},\"b\":{\"dtype\":\"I8\",\"shape\":[],\"data_"
    "offsets\":[8,9]}}   ",
    "{\"x\":{\"dtype\":\"F64\",\"shape\":[1,0,2],\"data_offsets\":[0,0]},\"y\":{\"dtype\":\"I32\",\"shape\":[1,2,1,2],"
    "\"data_offsets\":[0,16]}}",
};
static const char *const WORDS[] = {"[",
                                    "]",
                                    "{",
                                    "}",
                                    "\"",
                                    ",",
                                    ":",
                                    "-",
                                    "0",
                                    "9223372036854775807",
                                    "18446744073709551615",
                                    "1e9",
                                    "null",
                                    "\"shape\"",
                                    "\"dtype\"",
                                    "\"data_offsets\"",
                                    "\"F32\"",
                                    "\\u0000",
                                    "\xff",
                                    "4611686018427387904"};
enum { N_SEEDS = sizeof SEEDS / sizeof *SEEDS, N_WORDS = sizeof WORDS / sizeof *WORDS, FILE_MAX = 4096 };

typedef struct {
    uint64_t key, at;
} Draw;

static uint32_t below(Draw *d, uint32_t n) {
    return philox4x32(d->key, d->at++, 0).v[0] % n;
}

static size_t make_seed(uint8_t *out, int i) {
    static const size_t data_bytes[N_SEEDS] = {0, 24, 9, 16};
    const uint64_t length = strlen(SEEDS[i]);
    memcpy(out, &length, 8);
    memcpy(out + 8, SEEDS[i], length);
    memset(out + 8 + length, 7, data_bytes[i]);
    return 8 + length + data_bytes[i];
}

static size_t insert(uint8_t *file, size_t n, size_t at, const char *word) {
    const size_t k = strlen(word);
    if (n + k > FILE_MAX) return n;
    memmove(file + at + k, file + at, n - at);
    memcpy(file + at, word, k);
    return n + k;
}

static size_t mutate(uint8_t *file, size_t n, Draw *d) {
    const size_t at = n ? below(d, (uint32_t)n) : 0;
    switch (below(d, 7)) {
    case 0:
        if (n) file[at] ^= (uint8_t)(1u << below(d, 8));
        break;
    case 1:
        if (n) file[at] = (uint8_t)below(d, 256);
        break;
    case 2: n = at; break;
    case 3: n = insert(file, n, at, WORDS[below(d, N_WORDS)]); break;
    case 4: /* cut a piece out */
        if (n) {
            const size_t k = below(d, (uint32_t)(n - at)) % 16;
            memmove(file + at, file + at + k, n - at - k);
            n -= k;
        }
        break;
    case 5: /* digits to other digits: offsets and shapes that nearly fit */
        for (size_t i = at; i < n; i++)
            if (file[i] >= '0' && file[i] <= '9') {
                file[i] = (uint8_t)('0' + below(d, 10));
                break;
            }
        break;
    case 6: /* make the length agree again, so that the header itself is reached */
        if (n >= 8) {
            const uint64_t length = n - 8 - below(d, 2) * (below(d, 40) % (uint32_t)(n - 7));
            memcpy(file, &length, 8);
        }
        break;
    }
    return n;
}

int main(int argc, char **argv) {
    const double seconds = argc > 1 ? atof(argv[1]) : 2, end = clock_s() + seconds;
    const uint64_t key = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    uint8_t *file = xmalloc(FILE_MAX);
    int64_t runs = 0;
    Corpus c;
    corpus_open(&c, "safetensors");
    for (int i = 0; i < c.n; i++) {
        corpus_try(c.file[i].data, c.file[i].size, c.file[i].name);
        LLVMFuzzerTestOneInput((const uint8_t *)c.file[i].data, c.file[i].size);
    }
    for (; runs % 64 || clock_s() < end; runs++) {
        Draw d = {philox_mix(key, (uint64_t)runs), 0};
        const int kept = (int)below(&d, N_SEEDS + (uint32_t)c.n) - N_SEEDS;
        size_t n = kept < 0 || c.file[kept].size > FILE_MAX ? make_seed(file, (int)below(&d, N_SEEDS)) : c.file[kept].size;
        if (kept >= 0 && c.file[kept].size <= FILE_MAX) memcpy(file, c.file[kept].data, n);
        for (uint32_t i = below(&d, 6); i > 0; i--) n = mutate(file, n, &d);
        corpus_try(file, n, NULL);
        LLVMFuzzerTestOneInput(file, n);
    }
    printf("fuzz_safetensors: %d kept and %lld mutated inputs, no crash\n", c.n, (long long)runs);
    corpus_close(&c);
    free(file);
    return 0;
}
#endif
