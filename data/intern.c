/* intern.c - see intern.h. */
#include "data/intern.h"
#include "kernels/philox.h"
#include "model/base.h"
#include <stdlib.h>
#include <string.h>

void intern_init(Intern *t) { *t = (Intern){0}; }

void intern_free(Intern *t) {
    for (uint32_t i = 0; i < t->n; i++) free(t->item[i]);
    free(t->item);
    free(t->slot);
    intern_init(t);
}

/* The slot that holds s, or the empty slot where it belongs. */
static uint32_t intern_probe(const Intern *t, const char *s) {
    uint32_t mask = t->n_slots - 1, i = (uint32_t)philox_hash(s) & mask;
    while (t->slot[i] != INTERN_NONE && strcmp(t->item[t->slot[i]], s)) i = (i + 1) & mask;
    return i;
}

uint32_t intern_find(const Intern *t, const char *s) { return t->n_slots ? t->slot[intern_probe(t, s)] : INTERN_NONE; }

static void intern_grow(Intern *t) {
    t->capacity = t->capacity ? 2 * t->capacity : 64;
    t->item = xrealloc(t->item, t->capacity * sizeof *t->item);
    t->n_slots = 2 * t->capacity;
    t->slot = xrealloc(t->slot, t->n_slots * sizeof *t->slot);
    memset(t->slot, 0xff, t->n_slots * sizeof *t->slot);
    for (uint32_t id = 0; id < t->n; id++) t->slot[intern_probe(t, t->item[id])] = id;
    t->bytes += t->capacity / 2 * (sizeof *t->item + 2 * sizeof *t->slot);
}

uint32_t intern_add(Intern *t, const char *s) {
    uint32_t id = intern_find(t, s);
    if (id != INTERN_NONE) return id;
    REQUIRE(t->n < UINT32_MAX / 4);
    if (t->n == t->capacity) intern_grow(t);
    t->slot[intern_probe(t, s)] = t->n;
    t->item[t->n] = xstrdup(s);
    t->bytes += strlen(s) + 1 + 16; /* 16: what malloc adds */
    return t->n++;
}

static int ranks_compare(const void *a, const void *b, void *items) {
    char **item = items;
    return strcmp(item[*(const uint32_t *)a], item[*(const uint32_t *)b]);
}

uint32_t *intern_ranks(const Intern *t) {
    uint32_t *order = xmalloc((t->n + 1) * sizeof *order), *rank = xmalloc((t->n + 1) * sizeof *rank);
    for (uint32_t i = 0; i < t->n; i++) order[i] = i;
    qsort_r(order, t->n, sizeof *order, ranks_compare, t->item);
    for (uint32_t i = 0; i < t->n; i++) rank[order[i]] = i;
    free(order);
    return rank;
}

size_t utf8_cut(const char *s, size_t max) {
    size_t n = strnlen(s, max + 1);
    if (n <= max) return n;
    for (n = max; n && ((unsigned char)s[n] & 0xC0) == 0x80; n--) {
    }
    return n;
}

int utf8_length(const unsigned char *s) {
    if (s[0] < 0x80) return 1;
    int n = s[0] >= 0xC2 && s[0] <= 0xDF ? 2 : (s[0] & 0xF0) == 0xE0 ? 3 : s[0] >= 0xF0 && s[0] <= 0xF4 ? 4 : 0;
    for (int i = 1; i < n; i++)
        if ((s[i] & 0xC0) != 0x80) return 0;
    if ((s[0] == 0xE0 && s[1] < 0xA0) || (s[0] == 0xED && s[1] > 0x9F) || (s[0] == 0xF0 && s[1] < 0x90) ||
        (s[0] == 0xF4 && s[1] > 0x8F))
        return 0;
    return n;
}

size_t utf8_repair(const char *text, size_t n, char *out) {
    const unsigned char *s = (const unsigned char *)text, *end = s + n;
    size_t used = 0;
    while (s < end) {
        unsigned char character[5] = {0}; /* what is left of the text, so that a last character that is cut is seen */
        memcpy(character, s, end - s < 4 ? (size_t)(end - s) : 4);
        int length = *s ? utf8_length(character) : 1;
        if (length) {
            memcpy(out + used, s, (size_t)length);
            used += (size_t)length;
            s += length;
            continue;
        }
        out[used++] = (char)(0xC0 | *s >> 6);
        out[used++] = (char)(0x80 | (*s++ & 0x3F));
    }
    return used;
}
