/* encode.c - see encode.h. */
#include "infer/encode.h"
#include <math.h>
#include <string.h>

static const char *const NAMES[] = {"f32", "bf16", "f16", "q8_0"};
enum { N_NAMES = sizeof NAMES / sizeof *NAMES, Q8_0_BYTES = 2 + Q8_0_BLOCK };

const char *encode_name(Encoding e) { return NAMES[e]; }

int encode_find(const char *name) {
    for (int i = 0; i < N_NAMES; i++)
        if (!strcmp(name, NAMES[i])) return i;
    return -1;
}

int64_t encode_bytes(Encoding e, int64_t n) {
    switch (e) {
    case ENCODE_F32: return 4 * n;
    case ENCODE_BF16:
    case ENCODE_F16: return 2 * n;
    case ENCODE_Q8_0: break;
    }
    REQUIRE(n % Q8_0_BLOCK == 0);
    return n / Q8_0_BLOCK * Q8_0_BYTES;
}

static uint32_t bits_of(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static float float_of(uint32_t u) {
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

uint16_t bf16_from(float x) {
    const uint32_t u = bits_of(x);
    if (isnan(x)) return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7FFF + (u >> 16 & 1)) >> 16);
}

uint16_t half_from_float(float x) {
    const uint32_t u = bits_of(x), sign = u >> 16 & 0x8000, magnitude = u & 0x7FFFFFFF;
    if (magnitude > 0x7F800000) return (uint16_t)(sign | 0x7E00);
    /* From 65520 on, halfway to the next power, values round to infinity. */
    if (magnitude >= 0x477FF000) return (uint16_t)(sign | 0x7C00);
    if (magnitude < 0x38800000) {
        /* Below 2^-14 the unit is 2^-24: adding 0.5, whose unit in float is the same, rounds there. */
        return (uint16_t)(sign | (bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f)));
    }
    const uint32_t rebased = magnitude - (112u << 23); /* exponent bias 127 -> 15 */
    return (uint16_t)(sign | (rebased + 0xFFF + (rebased >> 13 & 1)) >> 13);
}

float half_to_float(uint16_t h) {
    const uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 0x1F, fraction = h & 0x3FF;
    if (exponent == 31) return float_of(sign | 0x7F800000 | fraction << 13);
    if (exponent) return float_of(sign | (exponent + 112) << 23 | fraction << 13);
    const float small = (float)fraction * 0x1p-24f;
    return sign ? -small : small;
}

static int q8_0_block(const float *x, uint8_t *out) {
    float most = 0;
    for (int i = 0; i < Q8_0_BLOCK; i++) most = fmaxf(most, fabsf(x[i]));
    const float d = most / 127, inverse = d > 0 ? 1 / d : 0;
    const uint16_t scale = half_from_float(d);
    if ((scale & 0x7C00) == 0x7C00 || !isfinite(inverse)) return -1;
    memcpy(out, &scale, sizeof scale);
    for (int i = 0; i < Q8_0_BLOCK; i++) out[2 + i] = (uint8_t)(int8_t)roundf(x[i] * inverse);
    return 0;
}

int64_t encode_floats(Encoding e, const float *x, int64_t n, void *out) {
    uint16_t *half = out;
    uint8_t *block = out;
    switch (e) {
    case ENCODE_F32: memcpy(out, x, (size_t)n * sizeof *x); return n;
    case ENCODE_BF16:
        for (int64_t i = 0; i < n; i++) half[i] = bf16_from(x[i]);
        return n;
    case ENCODE_F16:
        for (int64_t i = 0; i < n; i++)
            if (((half[i] = half_from_float(x[i])) & 0x7C00) == 0x7C00) return i;
        return n;
    case ENCODE_Q8_0: break;
    }
    REQUIRE(n % Q8_0_BLOCK == 0);
    for (int64_t i = 0; i < n; i += Q8_0_BLOCK, block += Q8_0_BYTES)
        if (q8_0_block(x + i, block)) return i;
    return n;
}
