/* baseline.h - what counting alone achieves: unigram and bigram laws of the train split.
 *
 *   p(v)    = (c(v) + 1/2) / (n + V/2)
 *   p(v|u)  = (c(u,v) + 5 p(v)) / (c(u) + 5)
 * A model that does not beat the bigram has learned no history. */
#ifndef EHR_TRAIN_BASELINE_H
#define EHR_TRAIN_BASELINE_H
#include "data/dataset.h"

typedef struct {
    int       V;
    double   *p;       /* (V) unigram */
    double   *context; /* (V) c(u) */
    uint64_t *pair;    /* (capacity) u * V + v + 1; 0 = empty slot: open addressing */
    uint32_t *count;   /* (capacity) */
    int64_t   capacity, n_pairs;
} Baseline;

/* Counts the first patients of the train split, in dataset order, until max_tokens have been seen. */
Status baseline_open(Baseline *b, Dataset *d, int64_t max_tokens, Err *err);
void   baseline_close(Baseline *b);
/* -log of the probability of the id range [lo, hi). */
double baseline_unigram(const Baseline *b, int lo, int hi);
double baseline_bigram(const Baseline *b, int previous, int lo, int hi);

#endif
