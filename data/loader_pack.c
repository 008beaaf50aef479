/* loader_pack.c - see loader_pack.h.  Best fit, longest window first: the rows of a block come out nearly full.  That
 * order would deal the longest patients first, so the finished rows are permuted, also without shuffling: the first
 * rows of a split are a fair sample of its first block. */
#include "data/loader_pack.h"
#include "kernels/philox.h"
#include <stdlib.h>
#include <string.h>

uint64_t loader_key(uint64_t seed, int64_t epoch, int draw, int64_t item) {
    return philox_mix(philox_mix(philox_mix(seed, (uint64_t)epoch), (uint64_t)draw), (uint64_t)item);
}

int64_t *permutation(int64_t n, uint64_t key) {
    int64_t *order = xcalloc((size_t)n, sizeof *order);
    for (int64_t i = 0; i < n; i++) {
        int64_t j = (int64_t)(philox_uniform(philox4x32(key, (uint64_t)i, 0), 0) * (double)(i + 1));
        order[i] = order[j];
        order[j] = i;
    }
    return order;
}

Stream stream_of(const Vocabulary *v, const PatientView *p) {
    Stream s = {.n = p->n, .censored_lo = -1};
    if (!p->n || (int)patient_token(p, p->n - 1) == v->death) return s;
    int64_t elapsed = (int64_t)p->observation_end - p->minutes[p->n - 1];
    if (elapsed < GAP_MINUTES[0]) return s;
    s.extra = (int32_t)(elapsed / GAP_MINUTES[GAP_BINS]);
    /* Every gap that is longer than what has already passed is still possible, =6mt included. */
    int bin = vocabulary_gap_bin((int32_t)(elapsed % GAP_MINUTES[GAP_BINS]));
    if (bin >= 0) s.censored_lo = v->gap_lo + bin;
    return s;
}

enum { FETCH_AHEAD = 16 }; /* patients */

/* ---- windows ----------------------------------------------------------------------------------------------------- */

typedef struct {
    Window *item;
    int64_t n, capacity;
} WindowList;

static void add_window(WindowList *w, int64_t patient, int64_t first, int64_t count, int n_prefix) {
    if (w->n == w->capacity) {
        w->capacity = 2 * w->capacity + BLOCK_PATIENTS;
        w->item = xrealloc(w->item, sizeof *w->item * (size_t)w->capacity);
    }
    w->item[w->n++] = (Window){patient, first, (int32_t)count, (int32_t)(n_prefix + count - 1)};
}

static void cut_patient(WindowList *w, int64_t patient, int64_t length, int64_t epoch, const PackOptions *o) {
    int64_t room = o->T - o->n_prefix + 1, end = length < room ? length : room;
    if (length > room && o->shuffle) {
        Philox4 r = philox4x32(loader_key(o->seed, epoch, DRAW_CUT, patient), 0, 0);
        end = 1 + (int64_t)(philox_uniform(r, 0) * (double)room);
    }
    for (int64_t first = 0; first < length; first = end, end = length - end < room ? length : end + room)
        add_window(w, patient, first, end - first, o->n_prefix);
}

static WindowList cut_block(Stream **stream, const Dataset *d, int split, int64_t block, int64_t epoch,
                            const PackOptions *o) {
    WindowList w = {0};
    int64_t start = block * BLOCK_PATIENTS, n = d->n_patients[split] - start;
    if (n > BLOCK_PATIENTS) n = BLOCK_PATIENTS;
    int64_t *order = o->shuffle ? permutation(n, loader_key(o->seed, epoch, DRAW_PATIENTS, block)) : NULL;
    *stream = xcalloc((size_t)n, sizeof **stream);
    for (int64_t i = 0; i < n; i++) { /* in the order of the file, which the caches follow */
        PatientView p;
        if (i + FETCH_AHEAD < n) {
            dataset_patient_unchecked(d, split, start + i + FETCH_AHEAD, &p);
            if (p.n) patient_fetch(&p, p.n - 1, 1);
        }
        dataset_patient_unchecked(d, split, start + i, &p);
        (*stream)[i] = stream_of(&d->vocabulary, &p);
    }
    for (int64_t i = 0; i < n; i++) {
        int64_t at = order ? order[i] : i;
        cut_patient(&w, start + at, stream_length(&(*stream)[at]), epoch, o);
    }
    free(order);
    return w;
}

/* Longest first, otherwise as they came. */
static void sort_windows(WindowList *w, int T) {
    int64_t *at = xcalloc((size_t)T + 2, sizeof *at);
    Window *sorted = xcalloc((size_t)w->n, sizeof *sorted);
    for (int64_t i = 0; i < w->n; i++) at[T - w->item[i].slots + 1]++;
    for (int s = 0; s <= T; s++) at[s + 1] += at[s];
    for (int64_t i = 0; i < w->n; i++) sorted[at[T - w->item[i].slots]++] = w->item[i];
    free(w->item);
    free(at);
    w->item = sorted;
}

/* ---- best fit ---------------------------------------------------------------------------------------------------- */

/* Rows by the slots they have left; a bitmap of the lists that are not empty finds the smallest that fits. */
typedef struct {
    int64_t *head;  /* (T + 1) a row with that much left; -1 = none */
    int64_t *next;  /* (rows) */
    uint64_t *bits; /* (T / 64 + 1) */
    int T;
} Room;

static void room_push(Room *r, int left, int64_t row) {
    r->next[row] = r->head[left];
    r->head[left] = row;
    r->bits[left / 64] |= 1ull << left % 64;
}

static int64_t room_pop(Room *r, int need, int *left) {
    int word = need / 64;
    uint64_t bits = r->bits[word] & ~0ull << need % 64;
    while (!bits && ++word <= r->T / 64) bits = r->bits[word];
    if (!bits) return -1;
    *left = 64 * word + __builtin_ctzll(bits);
    int64_t row = r->head[*left];
    r->head[*left] = r->next[row];
    if (r->head[*left] < 0) r->bits[word] &= ~(1ull << *left % 64);
    return row;
}

/* Writes the row of each window; returns the number of rows. */
static int64_t best_fit(const WindowList *w, int T, int64_t *row_of) {
    Room room = {xcalloc((size_t)T + 1, sizeof(int64_t)), xcalloc((size_t)w->n, sizeof(int64_t)),
                 xcalloc((size_t)T / 64 + 1, sizeof(uint64_t)), T};
    int64_t n_rows = 0;
    memset(room.head, 0xff, sizeof(int64_t) * ((size_t)T + 1));
    for (int64_t i = 0; i < w->n; i++) {
        int left = T, need = w->item[i].slots;
        int64_t row = room_pop(&room, need, &left);
        row_of[i] = row >= 0 ? row : n_rows++;
        room_push(&room, left - need, row_of[i]);
    }
    free(room.head);
    free(room.next);
    free(room.bits);
    return n_rows;
}

void packing_build(Packing *p, const Dataset *d, int split, int64_t block, int64_t epoch, const PackOptions *o) {
    WindowList w = cut_block(&p->stream, d, split, block, epoch, o);
    sort_windows(&w, o->T);
    int64_t *row_of = xcalloc((size_t)w.n, sizeof *row_of);
    p->n_rows = best_fit(&w, o->T, row_of);
    int64_t *place = permutation(p->n_rows, loader_key(o->seed, o->shuffle ? epoch : 0, DRAW_ROWS, block));
    int64_t *at = xcalloc((size_t)p->n_rows + 1, sizeof *at);
    p->row_offset = xcalloc((size_t)p->n_rows + 1, sizeof *p->row_offset);
    p->window = xcalloc((size_t)w.n, sizeof *p->window);
    for (int64_t i = 0; i < w.n; i++) p->row_offset[place[row_of[i]] + 1]++;
    for (int64_t r = 0; r < p->n_rows; r++) at[r + 1] = p->row_offset[r + 1] += p->row_offset[r];
    for (int64_t i = 0; i < w.n; i++) p->window[at[place[row_of[i]]]++] = w.item[i];
    free(at);
    free(place);
    free(row_of);
    free(w.item);
}

void packing_free(Packing *p) {
    free(p->row_offset);
    free(p->window);
    free(p->stream);
    memset(p, 0, sizeof *p);
}
