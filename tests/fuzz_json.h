/* fuzz_json.h - JSON texts, mutated: for the fuzzers of what reads them. */
#ifndef EHR_TESTS_FUZZ_JSON_H
#define EHR_TESTS_FUZZ_JSON_H
#include "kernels/philox.h"
#include <string.h>

static uint64_t counter, seed = 1; /* which draw is next, and what is drawn from */
static inline uint64_t draw(uint64_t below) {
    const Philox4 r = philox4x32(seed, counter++, 0);
    return below ? ((uint64_t)r.v[0] << 32 | r.v[1]) % below : 0;
}

/* text (capacity, of which n) is changed in one to four places; returns its new length.  word (words): what may be put
 * where a value stands. */
static inline size_t json_mutate(char *text, size_t n, size_t capacity, const char *const *word, size_t words) {
    for (uint64_t k = 1 + draw(4); k > 0 && n > 2; k--) {
        size_t at = (size_t)draw(n), length;
        switch (draw(5)) {
        case 0: text[at] = (char)draw(256); break;
        case 1: text[at] = "0123456789{}[],:\"-."[draw(19)]; break;
        case 2: /* cut a piece out */
            length = (size_t)draw(draw(4) ? 40 : n);
            if (at + length > n) length = n - at;
            memmove(text + at, text + at + length, n - at - length);
            n -= length;
            break;
        case 3: { /* put something where a value stands */
            while (at < n && text[at] != ':' && text[at] != ',') at++;
            const char *w = word[draw(words)];
            size_t end = at + 1, size = strlen(w);
            while (end < n && !strchr(",}]", text[end])) end++;
            if (at + 1 > n || end > n || n + size > capacity) break;
            memmove(text + at + 1 + size, text + end, n - end);
            memcpy(text + at + 1, w, size);
            n = n - (end - at - 1) + size;
            break;
        }
        default: /* repeat a piece, now and then often, which nests brackets deep */
            length = (size_t)draw(120);
            for (uint64_t times = 1 + draw(draw(10) ? 2 : 100); times > 0; times--) {
                if (at + length > n || n + length > capacity) break;
                memmove(text + at + length, text + at, n - at);
                n += length;
            }
        }
    }
    return n;
}

#endif
