/* make_batch.h - packed batches of random tokens and targets, for tests of models on any device. */
#ifndef EHR_TESTS_MAKE_BATCH_H
#define EHR_TESTS_MAKE_BATCH_H
#include "kernels/philox.h"
#include "model/base.h"
#include "model/batch.h"
#include <stdlib.h>

static inline double uniform(uint64_t seed, uint64_t i) {
    return philox_uniform(philox4x32(seed, i, 0), 0);
}

/* Packed sequences of the given lengths; every fifth target a range, one in seven absent. */
static inline Batch make_batch(const int *length, int n_seq, int vocab_size, uint64_t seed) {
    Batch b = {.n_seq = n_seq, .rows = 1};
    for (int s = 0; s < n_seq; s++) b.N += length[s];
    b.T = b.N;
    int32_t **arrays[] = {&b.tokens, &b.positions, &b.target_lo, &b.target_hi, &b.cu_seqlens};
    for (int i = 0; i < 5; i++) *arrays[i] = xcalloc((size_t)b.N + 1, sizeof(int32_t));
    for (int s = 0, n = 0; s < n_seq; s++) {
        for (int t = 0; t < length[s]; t++, n++) {
            b.tokens[n] = (int)(uniform(seed, (uint64_t)n) * vocab_size);
            b.positions[n] = t;
            b.target_lo[n] = n % 7 == 3 ? -1 : (int)(uniform(seed + 1, (uint64_t)n) * (vocab_size - 10));
            b.target_hi[n] = b.target_lo[n] + (n % 5 ? 1 : 9);
            b.n_targets += b.target_lo[n] >= 0;
        }
        b.cu_seqlens[s + 1] = n;
    }
    return b;
}

static inline void free_batch(Batch *b) {
    free(b->tokens);
    free(b->positions);
    free(b->target_lo);
    free(b->target_hi);
    free(b->cu_seqlens);
}

#endif
