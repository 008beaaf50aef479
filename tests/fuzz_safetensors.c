/* fuzz_safetensors.c - whatever bytes a safetensors file has, reading it ends in a parse or an error, never in a crash
 * or a read outside it. */
#include "model/safetensors.h"
#include "tests/fuzz.h"

static int try(const char *data, size_t size) {
    Safetensors st;
    Err err = {OK, ""};
    if (safetensors_parse(&st, (const uint8_t *)data, size, "fuzz", &err)) {
        REQUIRE(err.code != OK && err.msg[0]);
        return 0;
    }
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
    return 1;
}

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

static void begin(void) {
    static const size_t data_bytes[N_SEEDS] = {0, 24, 9, 16};
    for (int i = 0; i < N_SEEDS; i++) {
        char file[FILE_MAX];
        const uint64_t length = strlen(SEEDS[i]);
        memcpy(file, &length, 8);
        memcpy(file + 8, SEEDS[i], length);
        memset(file + 8 + length, 7, data_bytes[i]);
        fuzz_keep(file, 8 + length + data_bytes[i]);
    }
}

static size_t insert(char *file, size_t n, size_t at, const char *word) {
    const size_t k = strlen(word);
    if (n + k > FILE_MAX) return n;
    memmove(file + at + k, file + at, n - at);
    memcpy(file + at, word, k);
    return n + k;
}

static size_t mutate(char *file, size_t n) {
    const size_t at = n ? draw(n) : 0;
    switch (draw(7)) {
    case 0:
        if (n) file[at] ^= (char)(1u << draw(8));
        break;
    case 1:
        if (n) file[at] = (char)draw(256);
        break;
    case 2: n = at; break;
    case 3: n = insert(file, n, at, WORDS[draw(N_WORDS)]); break;
    case 4: /* cut a piece out */
        if (n) {
            const size_t k = draw((n - at)) % 16;
            memmove(file + at, file + at + k, n - at - k);
            n -= k;
        }
        break;
    case 5: /* digits to other digits: offsets and shapes that nearly fit */
        for (size_t i = at; i < n; i++)
            if (file[i] >= '0' && file[i] <= '9') {
                file[i] = (char)('0' + draw(10));
                break;
            }
        break;
    case 6: /* make the length agree again, so that the header itself is reached */
        if (n >= 8) {
            const uint64_t length = n - 8 - draw(2) * (draw(40) % (uint32_t)(n - 7));
            memcpy(file, &length, 8);
        }
        break;
    }
    return n;
}

static size_t make(char *file) {
    size_t n = fuzz_take(file);
    for (uint64_t i = draw(6); i > 0; i--) n = mutate(file, n);
    return n;
}

static const Fuzzer FUZZER = {.name = "safetensors", .max = FILE_MAX, .open = begin, .make = make, .try = try};
