/* baseline.c - see baseline.h. */
#include "train/baseline.h"
#include "kernels/philox.h"
#include <math.h>
#include <stdlib.h>

static const double UNIGRAM_PRIOR = 0.5, BIGRAM_PRIOR = 5;

static int64_t pair_slot(const Baseline *b, uint64_t key) {
    int64_t at = (int64_t)(philox_mix(key, 0) & (uint64_t)(b->capacity - 1));
    while (b->pair[at] && b->pair[at] != key) at = (at + 1) & (b->capacity - 1);
    return at;
}

static Status pairs_grow(Baseline *b, Err *err) {
    Baseline old = *b;
    b->capacity = old.capacity ? 2 * old.capacity : 1 << 16;
    b->pair = try_calloc((size_t)b->capacity, sizeof *b->pair);
    b->count = try_calloc((size_t)b->capacity, sizeof *b->count);
    if (!b->pair || !b->count) {
        free(b->pair);
        free(b->count);
        *b = old;
        return err_set(err, ERR_NOMEM, "no memory for the bigram counts of the train split");
    }
    for (int64_t i = 0; i < old.capacity; i++)
        if (old.pair[i]) {
            int64_t at = pair_slot(b, old.pair[i]);
            b->pair[at] = old.pair[i];
            b->count[at] = old.count[i];
        }
    free(old.pair);
    free(old.count);
    return OK;
}

static Status count_patient(Baseline *b, const Dataset *d, const PatientView *p, Err *err) {
    int32_t prefix[64];
    int n = dataset_prefix(d, p, 0, prefix, 64);
    uint64_t previous = n > 0 ? (uint64_t)prefix[n - 1] : 0;
    for (int64_t i = 0; i < p->n; i++) {
        uint64_t id = patient_token(p, i), key = previous * (uint64_t)b->V + id + 1;
        if (2 * b->n_pairs >= b->capacity && pairs_grow(b, err)) return err->code;
        int64_t at = pair_slot(b, key);
        b->n_pairs += b->pair[at] == 0;
        b->pair[at] = key;
        b->count[at] += b->count[at] < UINT32_MAX;
        b->context[previous] += 1;
        b->p[id] += 1;
        previous = id;
    }
    return OK;
}

Status baseline_open(Baseline *b, Dataset *d, int64_t max_tokens, Err *err) {
    *b = (Baseline){.V = d->vocabulary.n};
    b->p = xcalloc((size_t)b->V, sizeof *b->p);
    b->context = xcalloc((size_t)b->V, sizeof *b->context);
    double seen = 0;
    Status s = pairs_grow(b, err);
    for (int64_t row = 0; !s && row < d->n_patients[SPLIT_TRAIN] && seen < (double)max_tokens; row++) {
        PatientView p;
        s = dataset_patient(d, SPLIT_TRAIN, row, &p, err);
        if (!s) s = count_patient(b, d, &p, err);
        if (!s) seen += (double)p.n;
    }
    if (s) {
        baseline_close(b);
        return s;
    }
    for (int v = 0; v < b->V; v++) b->p[v] = (b->p[v] + UNIGRAM_PRIOR) / (seen + UNIGRAM_PRIOR * b->V);
    return OK;
}

void baseline_close(Baseline *b) {
    free(b->p);
    free(b->context);
    free(b->pair);
    free(b->count);
    *b = (Baseline){0};
}

double baseline_unigram(const Baseline *b, int lo, int hi) {
    double p = 0;
    for (int v = lo; v < hi; v++) p += b->p[v];
    return -log(p);
}

double baseline_bigram(const Baseline *b, int previous, int lo, int hi) {
    double p = 0;
    for (int v = lo; v < hi; v++) {
        int64_t at = pair_slot(b, (uint64_t)previous * (uint64_t)b->V + (uint64_t)v + 1);
        p += (b->count[at] + BIGRAM_PRIOR * b->p[v]) / (b->context[previous] + BIGRAM_PRIOR);
    }
    return -log(p);
}
