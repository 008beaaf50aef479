/* bpe.c - see bpe.h: words, symbols, encoding.  Words are short, so that encoding one is a few passes over its symbols,
 * each of which applies the earliest merge that is possible anywhere in it. */
#include "data/bpe.h"
#include "kernels/philox.h"
#include <stdlib.h>
#include <string.h>

/* ---- words ------------------------------------------------------------------------------------------------------- */

enum { LETTER, DIGIT, SPACE, SIGN, DIGITS_MAX = 3 };

static int class_of(unsigned char c) {
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c >= 0x80) return LETTER;
    if (c >= '0' && c <= '9') return DIGIT;
    return c <= ' ' || c == 0x7f ? SPACE : SIGN;
}

size_t bpe_word(const char *text, size_t n) {
    const unsigned char *s = (const unsigned char *)text;
    size_t first = n > 1 && s[0] == ' ' && class_of(s[1]) != SPACE, end = first;
    int class = class_of(s[first]);
    size_t most = class == DIGIT ? DIGITS_MAX + first : BPE_WORD_MAX;
    while (end < n && end < most && class_of(s[end]) == class) end++;
    /* The last of several blanks belongs to the word behind it. */
    if (class == SPACE && end > 1 && end < n && s[end - 1] == ' ' && class_of(s[end]) != SPACE) end--;
    return end;
}

/* ---- symbols ----------------------------------------------------------------------------------------------------- */

static uint32_t pair_probe(const Bpe *b, uint32_t left, uint32_t right) {
    uint32_t mask = b->n_slots - 1, i = (uint32_t)philox_mix(left, right) & mask;
    for (; b->slot[i]; i = (i + 1) & mask) {
        const uint32_t *m = b->merge[b->slot[i] - BPE_BYTES];
        if (m[0] == left && m[1] == right) break;
    }
    return i;
}

Status bpe_open(Bpe *b, const uint32_t (*merge)[2], int n_merges, Err *err) {
    *b = (Bpe){.n = BPE_BYTES + n_merges};
    REQUIRE(n_merges >= 0 && n_merges <= BPE_MERGES_MAX);
    b->merge = xcalloc((size_t)n_merges + 1, sizeof *b->merge);
    b->symbol = xcalloc((size_t)b->n, sizeof *b->symbol);
    for (b->n_slots = 1024; b->n_slots < 2 * (uint32_t)n_merges; b->n_slots *= 2) continue;
    b->slot = xcalloc(b->n_slots, sizeof *b->slot);
    for (int i = 0; i < BPE_BYTES; i++) b->symbol[i] = (struct BpeSymbol){1, {(char)i}};
    for (uint32_t k = 0; k < (uint32_t)n_merges; k++) {
        uint32_t left = merge[k][0], right = merge[k][1], id = BPE_BYTES + k;
        const char *wrong = left >= id || right >= id ? "is of symbols that come later" : NULL;
        if (!wrong && b->symbol[left].size + b->symbol[right].size > BPE_WORD_MAX) wrong = "is longer than a word";
        uint32_t at = wrong ? 0 : pair_probe(b, left, right);
        if (!wrong && b->slot[at]) wrong = "is of a pair that was merged before";
        if (wrong) {
            bpe_close(b);
            return err_set(err, ERR_FORMAT, "merge %u of the texts' tokens %s", k, wrong);
        }
        b->merge[k][0] = left;
        b->merge[k][1] = right;
        b->slot[at] = id;
        struct BpeSymbol *s = &b->symbol[id];
        s->size = (uint8_t)(b->symbol[left].size + b->symbol[right].size);
        memcpy(s->bytes, b->symbol[left].bytes, b->symbol[left].size);
        memcpy(s->bytes + b->symbol[left].size, b->symbol[right].bytes, b->symbol[right].size);
    }
    return OK;
}

void bpe_close(Bpe *b) {
    free(b->merge);
    free(b->symbol);
    free(b->slot);
    *b = (Bpe){0};
}

static int word_encode(const Bpe *b, const char *word, size_t size, uint32_t *s) {
    int n = (int)size;
    for (int i = 0; i < n; i++) s[i] = (unsigned char)word[i];
    for (;;) {
        uint32_t best = UINT32_MAX;
        for (int i = 0; i + 1 < n; i++) {
            uint32_t id = b->slot[pair_probe(b, s[i], s[i + 1])];
            if (id && id < best) best = id;
        }
        if (best == UINT32_MAX) return n;
        const uint32_t *m = b->merge[best - BPE_BYTES];
        int k = 0;
        for (int i = 0; i < n; i++, k++) {
            int here = i + 1 < n && s[i] == m[0] && s[i + 1] == m[1];
            s[k] = here ? best : s[i];
            i += here;
        }
        n = k;
    }
}

int64_t bpe_encode(const Bpe *b, const char *text, size_t n, uint32_t *out, int64_t max, int *whole) {
    int64_t held = 0;
    uint32_t word[BPE_WORD_MAX];
    *whole = 1;
    for (size_t at = 0, size; at < n; at += size) {
        size = bpe_word(text + at, n - at);
        int k = word_encode(b, text + at, size, word);
        if (held + k > max) {
            *whole = 0;
            break;
        }
        memcpy(out + held, word, (size_t)k * sizeof *word);
        held += k;
    }
    return held;
}

/* ---- spelling ---------------------------------------------------------------------------------------------------- */

/* Printable bytes stand for themselves; the others, in their order, for U+0100 and on. */
static int is_printable(int c) { return (c > ' ' && c < 0x7f) || (c > 0xa0 && c != 0xad); }

void bpe_spell(const char *bytes, size_t n, char *out) {
    for (size_t i = 0; i < n; i++) {
        int c = (unsigned char)bytes[i], point = c;
        if (!is_printable(c)) {
            point = 0x100;
            for (int k = 0; k < c; k++) point += !is_printable(k);
        }
        if (point < 0x80) {
            *out++ = (char)point;
        } else {
            *out++ = (char)(0xc0 | point >> 6);
            *out++ = (char)(0x80 | (point & 0x3f));
        }
    }
    *out = 0;
}

int bpe_unspell(const char *spelling, char *out) {
    int n = 0;
    for (const unsigned char *s = (const unsigned char *)spelling; *s; s++) {
        int point = *s, c = -1;
        if ((*s & 0xe0) == 0xc0 && (s[1] & 0xc0) == 0x80) {
            point = (*s & 0x1f) << 6 | (s[1] & 0x3f);
            s++;
        } else if (*s >= 0x80) {
            return -1;
        }
        if (point < 0x100) {
            c = is_printable(point) ? point : -1;
        } else {
            int left = point - 0x100;
            for (int k = 0; k < 0x100 && c < 0; k++)
                if (!is_printable(k) && left-- == 0) c = k;
        }
        if (c < 0) return -1;
        out[n++] = (char)c;
    }
    return n;
}
