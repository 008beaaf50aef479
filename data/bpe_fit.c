/* bpe_fit.c - merges of bpe.h from the words of many texts.
 *
 * Memory is bounded by a table of WORDS_MAX words: when it is full, the words with the fewest occurrences that too few
 * patients have are forgotten, the rarest first (lossy counting, Manku and Motwani 2002).  Choosing merges keeps for
 * every pair how often it occurs and the words that had it, so that a merge costs what the words with it are long. */
#include "data/bpe.h"
#include "data/intern.h"
#include "kernels/philox.h"
#include <stdlib.h>
#include <string.h>

enum { WORDS_MAX = 1 << 20 };

typedef struct {
    int64_t count;
    uint32_t patients, last; /* distinct patients, and the last of them */
    uint8_t size;
    char bytes[BPE_WORD_MAX];
} Word;

struct BpeFit {
    uint32_t enough;
    Word *word;
    uint32_t n, capacity;
    uint32_t *slot, n_slots; /* 1 + word */
    int64_t all, forgotten;  /* occurrences */
};

/* ---- words ------------------------------------------------------------------------------------------------------- */

static uint32_t word_probe(const BpeFit *f, const char *bytes, size_t n) {
    uint64_t h = 1469598103934665603u;
    for (size_t i = 0; i < n; i++) h = (h ^ (unsigned char)bytes[i]) * 1099511628211u;
    uint32_t mask = f->n_slots - 1, i = (uint32_t)philox_mix(h, n) & mask;
    for (; f->slot[i]; i = (i + 1) & mask) {
        const Word *w = &f->word[f->slot[i] - 1];
        if (w->size == n && !memcmp(w->bytes, bytes, n)) break;
    }
    return i;
}

static void words_index(BpeFit *f) {
    memset(f->slot, 0, f->n_slots * sizeof *f->slot);
    for (uint32_t i = 0; i < f->n; i++) f->slot[word_probe(f, f->word[i].bytes, f->word[i].size)] = i + 1;
}

BpeFit *bpe_fit_open(uint32_t enough) {
    BpeFit *f = xcalloc(1, sizeof *f);
    f->enough = enough;
    f->n_slots = 1 << 12;
    f->slot = xcalloc(f->n_slots, sizeof *f->slot);
    return f;
}

void bpe_fit_close(BpeFit *f) {
    if (!f) return;
    free(f->word);
    free(f->slot);
    free(f);
}

/* Makes room: half of the table, unless what enough patients have takes more than that. */
static void words_forget(BpeFit *f) {
    for (int64_t least = 1, left = -1; f->n > WORDS_MAX / 2 && left != 0; least *= 2) {
        uint32_t n = 0;
        left = 0;
        for (uint32_t i = 0; i < f->n; i++) {
            int rare = f->word[i].patients < f->enough;
            if (rare && f->word[i].count <= least) {
                f->forgotten += f->word[i].count;
                continue;
            }
            left += rare;
            f->word[n++] = f->word[i];
        }
        f->n = n;
    }
    /* All have enough patients: those that fewest texts have go. */
    for (int64_t least = 2; f->n > WORDS_MAX - WORDS_MAX / 8; least *= 2) {
        uint32_t n = 0;
        for (uint32_t i = 0; i < f->n; i++) {
            if (f->word[i].count > least) f->word[n++] = f->word[i];
            else f->forgotten += f->word[i].count;
        }
        f->n = n;
    }
}

static void word_count(BpeFit *f, const char *bytes, size_t n, uint32_t patient) {
    uint32_t at = word_probe(f, bytes, n);
    f->all++;
    if (!f->slot[at]) {
        if (f->n == WORDS_MAX) {
            words_forget(f);
            words_index(f);
        } else if (f->n == f->capacity) {
            f->capacity = f->capacity ? 2 * f->capacity : 1024;
            f->word = xrealloc(f->word, f->capacity * sizeof *f->word);
            if (2 * f->capacity > f->n_slots) {
                f->n_slots = 2 * f->capacity;
                f->slot = xrealloc(f->slot, f->n_slots * sizeof *f->slot);
                words_index(f);
            }
        }
        at = word_probe(f, bytes, n);
        Word *w = &f->word[f->n++];
        *w = (Word){.size = (uint8_t)n};
        memcpy(w->bytes, bytes, n);
        f->slot[at] = f->n;
    }
    Word *w = &f->word[f->slot[at] - 1];
    w->count++;
    w->patients += w->last != patient;
    w->last = patient;
}

void bpe_fit_text(BpeFit *f, const char *text, size_t n, uint32_t patient) {
    for (size_t at = 0, size; at < n; at += size) {
        size = bpe_word(text + at, n - at);
        word_count(f, text + at, size, patient);
    }
}

/* ---- merges ------------------------------------------------------------------------------------------------------ */

typedef struct {
    uint32_t left, right;
    int64_t count;
    uint32_t n, capacity, *word; /* words that have had the pair, some more than once */
    uint32_t turn;               /* 1 + the merge that made it more frequent last */
} Pair;

typedef struct {
    int64_t count; /* when it was put there: less, the entry is out of date */
    uint32_t pair;
} HeapItem;

typedef struct {
    uint32_t (*symbol)[BPE_WORD_MAX];
    uint8_t *n_symbols;
    int64_t *count;
    uint32_t *stamp; /* 1 + the merge that a word was last changed by */
    uint32_t *grown; /* pairs that the merge at hand made more frequent */
    size_t n_grown, grown_capacity;
    Intern spelled; /* symbols as text: none is made twice, of other parts */
    Pair *pair;
    uint32_t n_pairs, pair_capacity, *slot, n_slots; /* 1 + pair */
    HeapItem *heap;
    size_t n_heap, heap_capacity;
} Merging;

static uint32_t pair_probe(const Merging *m, uint32_t left, uint32_t right) {
    uint32_t mask = m->n_slots - 1, i = (uint32_t)philox_mix(left, right) & mask;
    while (m->slot[i] && (m->pair[m->slot[i] - 1].left != left || m->pair[m->slot[i] - 1].right != right))
        i = (i + 1) & mask;
    return i;
}

static uint32_t pair_of(Merging *m, uint32_t left, uint32_t right) {
    uint32_t at = pair_probe(m, left, right);
    if (m->slot[at]) return m->slot[at] - 1;
    if (m->n_pairs == m->pair_capacity) {
        m->pair_capacity *= 2;
        m->n_slots = 2 * m->pair_capacity;
        m->pair = xrealloc(m->pair, m->pair_capacity * sizeof *m->pair);
        m->slot = xrealloc(m->slot, m->n_slots * sizeof *m->slot);
        memset(m->slot, 0, m->n_slots * sizeof *m->slot);
        for (uint32_t i = 0; i < m->n_pairs; i++) m->slot[pair_probe(m, m->pair[i].left, m->pair[i].right)] = i + 1;
        at = pair_probe(m, left, right);
    }
    m->pair[m->n_pairs] = (Pair){.left = left, .right = right};
    m->slot[at] = ++m->n_pairs;
    return m->n_pairs - 1;
}

/* More frequent first; of equals the one of smaller symbols. */
static int comes_before(const Merging *m, const HeapItem *a, const HeapItem *b) {
    if (a->count != b->count) return a->count > b->count;
    const Pair *x = &m->pair[a->pair], *y = &m->pair[b->pair];
    return x->left != y->left ? x->left < y->left : x->right < y->right;
}

static void heap_push(Merging *m, uint32_t pair) {
    if (m->n_heap == m->heap_capacity) {
        m->heap_capacity = m->heap_capacity ? 2 * m->heap_capacity : 1024;
        m->heap = xrealloc(m->heap, m->heap_capacity * sizeof *m->heap);
    }
    HeapItem x = {m->pair[pair].count, pair};
    size_t i = m->n_heap++;
    for (; i && comes_before(m, &x, &m->heap[(i - 1) / 2]); i = (i - 1) / 2) m->heap[i] = m->heap[(i - 1) / 2];
    m->heap[i] = x;
}

static HeapItem heap_pop(Merging *m) {
    HeapItem top = m->heap[0], x = m->heap[--m->n_heap];
    size_t i = 0;
    for (size_t k; (k = 2 * i + 1) < m->n_heap; i = k) {
        if (k + 1 < m->n_heap && comes_before(m, &m->heap[k + 1], &m->heap[k])) k++;
        if (!comes_before(m, &m->heap[k], &x)) break;
        m->heap[i] = m->heap[k];
    }
    if (m->n_heap) m->heap[i] = x;
    return top;
}

/* Adds or takes away the pairs of a word; `note`: pairs learn that the word has them. */
static void word_pairs(Merging *m, uint32_t w, int64_t sign, int note) {
    for (int i = 0; i + 1 < m->n_symbols[w]; i++) {
        uint32_t k = pair_of(m, m->symbol[w][i], m->symbol[w][i + 1]);
        Pair *p = &m->pair[k];
        p->count += sign * m->count[w];
        if (!note || (p->n && p->word[p->n - 1] == w)) continue;
        if (p->n == p->capacity) {
            p->capacity = p->capacity ? 2 * p->capacity : 4;
            p->word = xrealloc(p->word, p->capacity * sizeof *p->word);
        }
        p->word[p->n++] = w;
    }
}

static void word_merge(Merging *m, uint32_t w, uint32_t left, uint32_t right, uint32_t made) {
    uint32_t *s = m->symbol[w];
    int k = 0, n = m->n_symbols[w];
    for (int i = 0; i < n; i++, k++) {
        int here = i + 1 < n && s[i] == left && s[i + 1] == right;
        s[k] = here ? made : s[i];
        i += here;
    }
    m->n_symbols[w] = (uint8_t)k;
}

static void pair_grown(Merging *m, uint32_t pair, uint32_t turn) {
    if (m->pair[pair].turn == turn + 1) return;
    m->pair[pair].turn = turn + 1;
    if (m->n_grown == m->grown_capacity) {
        m->grown_capacity = m->grown_capacity ? 2 * m->grown_capacity : 1024;
        m->grown = xrealloc(m->grown, m->grown_capacity * sizeof *m->grown);
    }
    m->grown[m->n_grown++] = pair;
}

/* Whether the bytes of a pair are no symbol yet; then they are from now on. */
static int pair_is_new(Merging *m, const Pair *p) {
    char text[4 * BPE_WORD_MAX + 1];
    snprintf(text, sizeof text, "%s%s", m->spelled.item[p->left], m->spelled.item[p->right]);
    return intern_find(&m->spelled, text) == INTERN_NONE && intern_add(&m->spelled, text) != INTERN_NONE;
}

static void pair_merge(Merging *m, uint32_t k, uint32_t turn) {
    Pair chosen = m->pair[k]; /* the table may move */
    m->pair[k].word = NULL;
    m->pair[k].n = m->pair[k].capacity = 0;
    for (uint32_t i = 0; i < chosen.n; i++) {
        uint32_t w = chosen.word[i];
        if (m->stamp[w] == turn + 1) continue;
        m->stamp[w] = turn + 1;
        word_pairs(m, w, -1, 0);
        word_merge(m, w, chosen.left, chosen.right, BPE_BYTES + turn);
        word_pairs(m, w, 1, 1);
        for (int j = 0; j + 1 < m->n_symbols[w]; j++)
            if (m->symbol[w][j] == BPE_BYTES + turn || m->symbol[w][j + 1] == BPE_BYTES + turn)
                pair_grown(m, pair_of(m, m->symbol[w][j], m->symbol[w][j + 1]), turn);
    }
    /* Those that became rarer are found out of date when they are popped. */
    for (size_t i = 0; i < m->n_grown; i++) heap_push(m, m->grown[i]);
    m->n_grown = 0;
    free(chosen.word);
}

static void merging_open(Merging *m, const BpeFit *f) {
    uint32_t n = 0;
    *m = (Merging){.pair_capacity = 1 << 14, .n_slots = 1 << 15};
    m->symbol = xmalloc(((size_t)f->n + 1) * sizeof *m->symbol);
    m->n_symbols = xcalloc((size_t)f->n + 1, 1);
    m->count = xcalloc((size_t)f->n + 1, sizeof *m->count);
    m->stamp = xcalloc((size_t)f->n + 1, sizeof *m->stamp);
    m->pair = xmalloc(m->pair_capacity * sizeof *m->pair);
    m->slot = xcalloc(m->n_slots, sizeof *m->slot);
    for (uint32_t i = 0; i < f->n; i++) {
        if (f->word[i].patients < f->enough) continue;
        for (int k = 0; k < f->word[i].size; k++) m->symbol[n][k] = (unsigned char)f->word[i].bytes[k];
        m->n_symbols[n] = f->word[i].size;
        m->count[n] = f->word[i].count;
        word_pairs(m, n++, 1, 1);
    }
    for (uint32_t k = 0; k < m->n_pairs; k++) heap_push(m, k);
    intern_init(&m->spelled);
    for (int c = 0; c < BPE_BYTES; c++) {
        char byte = (char)c, text[8];
        bpe_spell(&byte, 1, text);
        intern_add(&m->spelled, text);
    }
}

static void merging_close(Merging *m) {
    for (uint32_t k = 0; k < m->n_pairs; k++) free(m->pair[k].word);
    free(m->symbol);
    free(m->n_symbols);
    free(m->count);
    free(m->stamp);
    free(m->grown);
    intern_free(&m->spelled);
    free(m->pair);
    free(m->slot);
    free(m->heap);
}

int bpe_fit_merges(BpeFit *f, uint32_t (*merge)[2], int n_merges, int64_t *rare, int64_t *all) {
    Merging m;
    int n = 0;
    *all = f->all;
    *rare = f->forgotten;
    for (uint32_t i = 0; i < f->n; i++) *rare += f->word[i].patients < f->enough ? f->word[i].count : 0;
    merging_open(&m, f);
    while (n < n_merges && m.n_heap) {
        HeapItem top = heap_pop(&m);
        Pair *p = &m.pair[top.pair];
        if (p->count != top.count) {
            /* Out of date.  An entry of its present count is there if it grew; if it shrank, one is due. */
            if (p->count > 1 && p->count < top.count) heap_push(&m, top.pair);
            continue;
        }
        if (p->count < 2) break;
        if (!pair_is_new(&m, p)) continue;
        merge[n][0] = p->left;
        merge[n][1] = p->right;
        pair_merge(&m, top.pair, (uint32_t)n++);
    }
    merging_close(&m);
    return n;
}
