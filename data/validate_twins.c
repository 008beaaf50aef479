/* validate_twins.c - see validate_twins.h.
 *
 * Every run of RUN events that spans a day or more, has several codes and says something of its own is hashed; a
 * patient keeps the KEPT smallest hashes.  Protocols (prenatal care, vaccinations) repeat codes at whole days, so what
 * counts as a patient's own are values and gaps that are no whole days.  Records that overlap keep the same ones,
 * whatever else they hold; two that share SHARED of them, each held by hardly anybody else, are one person's. */
#include "data/validate_twins.h"
#include "kernels/philox.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    RUN = 8,
    RUN_CODES_MIN = 3,
    RUN_WEIGHT_MIN = 4,
    HOUR_MINUTES = 60,
    KEPT = 8,
    SHARED = 3,
    HOLDERS_MAX = 3,
    DAY_MINUTES = 1440
};

typedef struct {
    uint64_t hash;
    int64_t patient; /* in order of coming */
} Kept;

typedef struct {
    int64_t row;
    int split;
} TwinPlace;

typedef struct {
    uint64_t item; /* code, value */
    uint32_t code;
    int weight; /* 2: a value; 1: a level of one */
    int64_t minute;
} RunEvent;

struct Twins {
    int64_t P, n_patients, n_kept;
    TwinPlace *place;  /* (P) */
    Kept *kept;        /* (P * KEPT) the present patient's from n_kept on */
    int n_own;         /* kept of the present patient */
    RunEvent run[RUN]; /* ring */
    int64_t seen;      /* events of the present patient */
};

Twins *twins_open(int64_t P) {
    Twins *t = xcalloc(1, sizeof *t);
    t->P = P;
    t->place = try_calloc((size_t)P + 1, sizeof *t->place);
    t->kept = try_calloc((size_t)P * KEPT + 1, sizeof *t->kept);
    if (!t->place || !t->kept) t->P = 0; /* too many for the memory there is: nobody is compared */
    return t;
}

void twins_close(Twins *t) {
    free(t->place);
    free(t->kept);
    free(t);
}

void twins_patient(Twins *t, int split, int64_t row) {
    if (t->n_patients >= t->P) return;
    t->n_kept += t->n_own;
    t->n_own = 0;
    t->seen = 0;
    t->place[t->n_patients++] = (TwinPlace){row, split};
}

/* At least an hour off a whole number of days. */
static int is_irregular(int64_t gap) {
    int64_t off = gap % DAY_MINUTES;
    return off >= HOUR_MINUTES && off <= DAY_MINUTES - HOUR_MINUTES;
}

/* 0: the run says too little: one moment, the same few codes over and over, a protocol. */
static uint64_t run_hash(const Twins *t) {
    uint64_t h = philox_hash("run");
    int codes = 0, weight = 0;
    const RunEvent *first = &t->run[t->seen % RUN];
    for (int i = 0; i < RUN; i++) {
        const RunEvent *e = &t->run[(t->seen + i) % RUN];
        int known = 0;
        for (int k = 0; k < i && !known; k++) known = t->run[(t->seen + k) % RUN].code == e->code;
        codes += !known;
        weight += e->weight;
        if (i) weight += 2 * is_irregular(e->minute - t->run[(t->seen + i - 1) % RUN].minute);
        h = philox_mix(philox_mix(h, e->item), (uint64_t)(e->minute - first->minute));
    }
    const RunEvent *last = &t->run[(t->seen + RUN - 1) % RUN];
    return codes < RUN_CODES_MIN || weight < RUN_WEIGHT_MIN || last->minute - first->minute < DAY_MINUTES ? 0 : h | 1;
}

void twins_event(Twins *t, uint32_t code, float value, int is_level, int64_t minute) {
    if (!t->n_patients) return;
    uint32_t bits = 0;
    if (!isnan(value)) memcpy(&bits, &value, sizeof bits);
    t->run[t->seen++ % RUN] = (RunEvent){philox_mix(code, bits), code, isnan(value) ? is_level : 2, minute};
    uint64_t h = t->seen >= RUN ? run_hash(t) : 0;
    Kept *own = t->kept + t->n_kept;
    int at = 0;
    if (!h || (t->n_own == KEPT && h >= own[KEPT - 1].hash)) return;
    while (at < t->n_own && own[at].hash < h) at++;
    if (at < t->n_own && own[at].hash == h) return;
    if (t->n_own < KEPT) t->n_own++;
    memmove(own + at + 1, own + at, (size_t)(t->n_own - 1 - at) * sizeof *own);
    own[at] = (Kept){h, t->n_patients - 1};
}

static int compare_kept(const void *a, const void *b) {
    const Kept *x = a, *y = b;
    if (x->hash != y->hash) return x->hash < y->hash ? -1 : 1;
    return (x->patient > y->patient) - (x->patient < y->patient);
}

typedef struct {
    int64_t a, b;
} Pair;

static int compare_pairs(const void *x, const void *y) {
    const Pair *p = x, *q = y;
    if (p->a != q->a) return p->a < q->a ? -1 : 1;
    return (p->b > q->b) - (p->b < q->b);
}

static void report_pair(const Twins *t, ValidateReport *r, const Pair *p, int64_t shared) {
    const TwinPlace *a = &t->place[p->a], *b = &t->place[p->b];
    if (a->split == SPLIT_UNSET || b->split == SPLIT_UNSET)
        report_add(r, FIND_TWO_IDS, "patients %lld and %lld share %lld stretches of events", (long long)a->row,
                   (long long)b->row, (long long)shared);
    else
        report_add(r, a->split == b->split ? FIND_TWO_IDS : FIND_PERSON_TWO_SPLITS,
                   "%s %lld and %s %lld share %lld stretches of events", split_name(a->split), (long long)a->row,
                   split_name(b->split), (long long)b->row, (long long)shared);
}

void twins_report(Twins *t, ValidateReport *r) {
    t->n_kept += t->n_own;
    t->n_own = 0;
    Pair *pair = NULL;
    int64_t n = 0, capacity = 0;
    if (t->n_kept) qsort(t->kept, (size_t)t->n_kept, sizeof *t->kept, compare_kept);
    for (int64_t i = 0, next; i < t->n_kept; i = next) {
        for (next = i; next < t->n_kept && t->kept[next].hash == t->kept[i].hash; next++) {
        }
        if (next - i < 2 || next - i > HOLDERS_MAX) continue;
        for (int64_t a = i; a < next; a++)
            for (int64_t b = a + 1; b < next; b++) {
                if (n == capacity) pair = xrealloc(pair, (size_t)(capacity = 2 * capacity + 64) * sizeof *pair);
                pair[n++] = (Pair){t->kept[a].patient, t->kept[b].patient};
            }
    }
    if (n) qsort(pair, (size_t)n, sizeof *pair, compare_pairs);
    for (int64_t i = 0, next; i < n; i = next) {
        for (next = i; next < n && !compare_pairs(&pair[next], &pair[i]); next++) {
        }
        if (next - i >= SHARED) report_pair(t, r, &pair[i], next - i);
    }
    free(pair);
}
