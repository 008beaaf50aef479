/* philox.h - counter-based random numbers: Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1,
 * 2, 3").  A number is a pure function of (key, counter): no state to save, the same on every thread, rank and device.
 * Compiles as C11 and as CUDA C++. */
#ifndef EHR_KERNELS_PHILOX_H
#define EHR_KERNELS_PHILOX_H
#include <stdint.h>

#ifdef __CUDACC__
#define PHILOX_FN static __host__ __device__ inline
#else
#define PHILOX_FN static inline
#endif

typedef struct {
    uint32_t v[4];
} Philox4;

PHILOX_FN Philox4 philox4x32(uint64_t key, uint64_t counter_lo, uint64_t counter_hi) {
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    uint32_t c0 = (uint32_t)counter_lo, c1 = (uint32_t)(counter_lo >> 32);
    uint32_t c2 = (uint32_t)counter_hi, c3 = (uint32_t)(counter_hi >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    Philox4 out;
    out.v[0] = c0;
    out.v[1] = c1;
    out.v[2] = c2;
    out.v[3] = c3;
    return out;
}

/* Uniform in [0, 1) with 53 bits, from words 2*half and 2*half+1 of a block (half is 0 or 1). */
PHILOX_FN double philox_uniform(Philox4 r, int half) {
    uint64_t bits = ((uint64_t)r.v[2 * half] << 32 | r.v[2 * half + 1]) >> 11;
    return (double)bits * (1.0 / 9007199254740992.0);
}

/* Spreads several integers over one 64-bit key (splitmix64 finalizer, Steele et al. 2014). */
PHILOX_FN uint64_t philox_mix(uint64_t a, uint64_t b) {
    uint64_t z = a + 0x9E3779B97F4A7C15ull * (b + 1);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}

/* FNV-1a of a string, for keys made from names. */
PHILOX_FN uint64_t philox_hash(const char *s) {
    uint64_t h = 0xCBF29CE484222325ull;
    for (; *s; s++) h = (h ^ (uint8_t)*s) * 0x100000001B3ull;
    return h;
}

#endif
