/* fuzz_text.h - for fuzzers of what reads texts: texts and JSON mutated, and several files in one input. */
#ifndef EHR_TESTS_FUZZ_TEXT_H
#define EHR_TESTS_FUZZ_TEXT_H
#include "tests/fuzz.h"

/* text (capacity, of which n) is changed in up to five places; returns its new length.  word (words): what may be put
 * in. */
static inline size_t text_mutate(char *text, size_t n, size_t capacity, const char *const *word, size_t words) {
    for (uint64_t k = draw(6); k > 0 && n; k--) {
        const size_t at = (size_t)draw(n);
        const char *w = word[draw(words)];
        size_t length = strlen(w);
        switch (draw(6)) {
        case 0: text[at] = (char)draw(256); break;
        case 1: /* cut a piece out */
            length = (size_t)draw(draw(10) ? 8 : 300);
            if (at + length > n) length = n - at;
            memmove(text + at, text + at + length, n - at - length);
            n -= length;
            break;
        case 2:
        case 3: /* put a word in */
            if (n + length > capacity) break;
            memmove(text + at + length, text + at, n - at);
            memcpy(text + at, w, length);
            n += length;
            break;
        case 4: /* repeat a piece */
            length = (size_t)draw(300);
            if (at + length > n || n + length > capacity) break;
            memmove(text + at + length, text + at, n - at);
            n += length;
            break;
        default: /* a very long field */
            length = (size_t)draw(draw(20) ? 300 : 100000);
            if (n + length > capacity) break;
            memmove(text + at + length, text + at, n - at);
            memset(text + at, draw(2) ? 'x' : '"', length);
            n += length;
        }
    }
    return n;
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

/* ---- several files in one input: each behind a line "==> NAME <==", blank lines between them, as `head` prints them
 * ---- */

enum { FUZZ_NAME_MAX = 64 };
typedef struct {
    char name[FUZZ_NAME_MAX]; /* no folder in it */
    const char *data;
    size_t size;
} FuzzFile;

/* The size of the heading at text (n bytes left), 0: none. */
static inline size_t files_heading(const char *text, size_t n, char name[FUZZ_NAME_MAX]) {
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.";
    size_t length = 0;
    if (n < 4 || memcmp(text, "==> ", 4)) return 0;
    while (length + 1 < FUZZ_NAME_MAX && 4 + length < n && text[4 + length] && strchr(allowed, text[4 + length]))
        length++;
    if (!length || text[4] == '.' || n < length + 9 || memcmp(text + 4 + length, " <==\n", 5)) return 0;
    memcpy(name, text + 4, length);
    name[length] = 0;
    return length + 9;
}

/* The file at *at, which moves behind it; returns 0 when there is none. */
static inline int files_next(const char *input, size_t size, size_t *at, FuzzFile *out) {
    char other[FUZZ_NAME_MAX];
    const size_t begin = *at + files_heading(input + *at, size - *at, out->name);
    if (begin == *at) return 0;
    size_t end = begin, next = size;
    for (; end < size; end++)
        if (input[end] == '\n' && files_heading(input + end + 1, size - end - 1, other)) {
            next = end + 1;
            break;
        }
    out->data = input + begin;
    out->size = end - begin;
    *at = next;
    return 1;
}

/* Writes a heading at text, of which n bytes are used; returns how many are then. */
static inline size_t files_name(char *text, size_t n, size_t capacity, const char *name) {
    REQUIRE(n + FUZZ_NAME_MAX + 10 <= capacity);
    return n + (size_t)snprintf(text + n, capacity - n, "%s==> %s <==\n", n ? "\n" : "", name);
}

static inline size_t files_add(char *text, size_t n, size_t capacity, const char *name, const char *data, size_t size) {
    n = files_name(text, n, capacity, name);
    REQUIRE(n + size <= capacity);
    memcpy(text + n, data, size);
    return n + size;
}

#endif
