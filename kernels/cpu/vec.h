/* vec.h - sixteen floats and what one does with them, for code that is compiled once per instruction set.
 *
 * Every function gives the same bits on AVX-512, AVX2 and plain C: multiply-adds are fused (fmaf), sums across the
 * sixteen lanes add halves (8 + 8, 4 + 4, ...), and tails are masks, never a scalar loop.  No NaN is ever dropped. */
#ifndef EHR_KERNELS_CPU_VEC_H
#define EHR_KERNELS_CPU_VEC_H
#include <math.h>
#include <stdint.h>
#include <string.h>

enum { VEC = 16 };

#if defined(__AVX512F__) && defined(__AVX512DQ__)
#include <immintrin.h>
typedef __m512 Vec;

static inline Vec  v_set1(float x) { return _mm512_set1_ps(x); }
static inline Vec  v_load(const float *p) { return _mm512_loadu_ps(p); }
static inline void v_store(float *p, Vec a) { _mm512_storeu_ps(p, a); }
static inline __mmask16 v_mask(int n) { /* lane i is set when i < n */
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return _mm512_cmplt_epi32_mask(lane, _mm512_set1_epi32(n));
}
static inline Vec  v_load_n(const float *p, int n) { return _mm512_maskz_loadu_ps(v_mask(n), p); }
static inline void v_store_n(float *p, Vec a, int n) { _mm512_mask_storeu_ps(p, v_mask(n), a); }
static inline Vec  v_add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
static inline Vec  v_sub(Vec a, Vec b) { return _mm512_sub_ps(a, b); }
static inline Vec  v_mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
static inline Vec  v_div(Vec a, Vec b) { return _mm512_div_ps(a, b); }
static inline Vec  v_sqrt(Vec a) { return _mm512_sqrt_ps(a); }
static inline Vec  v_max(Vec a, Vec b) { return _mm512_max_ps(a, b); } /* a > b ? a : b */
static inline Vec  v_min(Vec a, Vec b) { return _mm512_min_ps(a, b); } /* a < b ? a : b */
static inline Vec  v_fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }   /* a * b + c */
static inline Vec  v_fnma(Vec a, Vec b, Vec c) { return _mm512_fnmadd_ps(a, b, c); } /* c - a * b */
/* Floats from the low or the high bfloat16 of sixteen words. */
static inline Vec v_bf16_low(const void *p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(p), 16));
}
static inline Vec v_bf16_high(const void *p) {
    return _mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(p), _mm512_set1_epi32((int)0xFFFF0000)));
}
/* The lowest byte of every lane's bits. */
static inline void v_low_bytes(uint8_t *out, Vec t) {
    _mm_storeu_si128((__m128i *)out, _mm512_cvtepi32_epi8(_mm512_castps_si512(t)));
}
/* Floats of sixteen integers, or of a - b; b may be NULL. */
static inline Vec v_from_int(const int32_t *a, const int32_t *b) {
    __m512i x = _mm512_loadu_si512(a);
    return _mm512_cvtepi32_ps(b ? _mm512_sub_epi32(x, _mm512_loadu_si512(b)) : x);
}
/* 2^n where the low bits of t hold the integer n + 127, -127 (giving 0) <= n <= 128 (giving infinity) */
static inline Vec v_exp2_bits(Vec t) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(t), 23)); }
/* x in the lanes below n, -infinity in the others */
static inline Vec v_below(Vec x, int n) { return _mm512_mask_mov_ps(_mm512_set1_ps(-INFINITY), v_mask(n), x); }
static inline float v_sum8(__m256 a) {
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_shuffle_ps(b, b, 1)));
}
static inline float v_sum(Vec a) {
    return v_sum8(_mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1)));
}
static inline float v_largest8(__m256 a) {
    __m128 b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_max_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_max_ss(b, _mm_shuffle_ps(b, b, 1)));
}
static inline float v_largest(Vec a) {
    return v_largest8(_mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1)));
}
/* Lane i: v_sum(r[i]), or with `largest`, a literal, v_largest(r[i]); the same tree for all sixteen at once */
static inline Vec v_either(const int largest, Vec a, Vec b) { return largest ? _mm512_max_ps(a, b) : _mm512_add_ps(a, b); }
static inline Vec v_fold(const int largest, const Vec r[VEC]) {
    Vec t[VEC];
    for (int i = 0; i < 4; i++) { /* rows i, i + 4, i + 8, i + 12: a quarter of the vector each */
        for (int h = 0; h < 2; h++) {
            Vec a = r[i + 8 * h], b = r[i + 8 * h + 4];
            t[h] = v_either(largest, _mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xEE));
        }
        t[4 + i] = v_either(largest, _mm512_shuffle_f32x4(t[0], t[1], 0x88), _mm512_shuffle_f32x4(t[0], t[1], 0xDD));
    }
    for (int h = 0; h < 2; h++) {
        Vec a = t[4 + 2 * h], b = t[5 + 2 * h];
        t[h] = v_either(largest, _mm512_shuffle_ps(a, b, 0x44), _mm512_shuffle_ps(a, b, 0xEE));
    }
    return v_either(largest, _mm512_shuffle_ps(t[0], t[1], 0x88), _mm512_shuffle_ps(t[0], t[1], 0xDD));
}
/* r[i] lane j becomes r[j] lane i */
static inline void v_transpose(Vec r[VEC]) {
    __m512 t[VEC];
    for (int i = 0; i < VEC; i += 2) {
        t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < VEC; i += 4)
        for (int h = 0; h < 2; h++) {
            __m512d a = _mm512_castps_pd(t[i + h]), b = _mm512_castps_pd(t[i + h + 2]);
            r[i + 2 * h] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
            r[i + 2 * h + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
        }
    for (int i = 0; i < 4; i++)
        for (int h = 0; h < 2; h++) {
            t[8 * h + i] = _mm512_shuffle_f32x4(r[8 * h + i], r[8 * h + 4 + i], 0x88);
            t[8 * h + 4 + i] = _mm512_shuffle_f32x4(r[8 * h + i], r[8 * h + 4 + i], 0xDD);
        }
    for (int i = 0; i < 8; i++) {
        int out = (i & 3) + (i & 4);
        r[out] = _mm512_shuffle_f32x4(t[i], t[8 + i], 0x88);
        r[out + 8] = _mm512_shuffle_f32x4(t[i], t[8 + i], 0xDD);
    }
}

#elif defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
typedef struct {
    __m256 lo, hi;
} Vec;

static inline Vec     v_of(__m256 lo, __m256 hi) { return (Vec){lo, hi}; }
static inline Vec     v_set1(float x) { return v_of(_mm256_set1_ps(x), _mm256_set1_ps(x)); }
static inline Vec     v_load(const float *p) { return v_of(_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)); }
static inline void    v_store(float *p, Vec a) { _mm256_storeu_ps(p, a.lo), _mm256_storeu_ps(p + 8, a.hi); }
static inline __m256i v_mask8(int n) { /* lane i is set when i < n */
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
static inline Vec v_load_n(const float *p, int n) {
    return v_of(_mm256_maskload_ps(p, v_mask8(n)), _mm256_maskload_ps(p + 8, v_mask8(n - 8)));
}
static inline void v_store_n(float *p, Vec a, int n) {
    _mm256_maskstore_ps(p, v_mask8(n), a.lo);
    _mm256_maskstore_ps(p + 8, v_mask8(n - 8), a.hi);
}
static inline Vec v_add(Vec a, Vec b) { return v_of(_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)); }
static inline Vec v_sub(Vec a, Vec b) { return v_of(_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)); }
static inline Vec v_mul(Vec a, Vec b) { return v_of(_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)); }
static inline Vec v_div(Vec a, Vec b) { return v_of(_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)); }
static inline Vec v_sqrt(Vec a) { return v_of(_mm256_sqrt_ps(a.lo), _mm256_sqrt_ps(a.hi)); }
static inline Vec v_max(Vec a, Vec b) { return v_of(_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)); }
static inline Vec v_min(Vec a, Vec b) { return v_of(_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)); }
static inline Vec v_fma(Vec a, Vec b, Vec c) {
    return v_of(_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi));
}
static inline Vec v_fnma(Vec a, Vec b, Vec c) {
    return v_of(_mm256_fnmadd_ps(a.lo, b.lo, c.lo), _mm256_fnmadd_ps(a.hi, b.hi, c.hi));
}
static inline __m256 v_bf16_low8(const void *p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_loadu_si256((const __m256i *)p), 16));
}
static inline __m256 v_bf16_high8(const void *p) {
    return _mm256_castsi256_ps(
        _mm256_and_si256(_mm256_loadu_si256((const __m256i *)p), _mm256_set1_epi32((int)0xFFFF0000)));
}
static inline Vec    v_bf16_low(const void *p) { return v_of(v_bf16_low8(p), v_bf16_low8((const char *)p + 32)); }
static inline Vec    v_bf16_high(const void *p) { return v_of(v_bf16_high8(p), v_bf16_high8((const char *)p + 32)); }
static inline void v_low_bytes(uint8_t *out, Vec t) {
    const __m256i byte = _mm256_set1_epi32(0xFF);
    __m256i       words = _mm256_packus_epi32(_mm256_and_si256(_mm256_castps_si256(t.lo), byte),
                                              _mm256_and_si256(_mm256_castps_si256(t.hi), byte));
    words = _mm256_permute4x64_epi64(words, 0xD8); /* packing goes half by half */
    _mm_storeu_si128((__m128i *)out,
                     _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}
static inline __m256 v_from_int8(const int32_t *a, const int32_t *b) {
    __m256i x = _mm256_loadu_si256((const __m256i *)a);
    return _mm256_cvtepi32_ps(b ? _mm256_sub_epi32(x, _mm256_loadu_si256((const __m256i *)b)) : x);
}
static inline Vec v_from_int(const int32_t *a, const int32_t *b) {
    return v_of(v_from_int8(a, b), v_from_int8(a + 8, b ? b + 8 : NULL));
}
static inline __m256 v_exp2_bits8(__m256 t) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(t), 23)); }
static inline Vec   v_exp2_bits(Vec t) { return v_of(v_exp2_bits8(t.lo), v_exp2_bits8(t.hi)); }
static inline __m256 v_below8(__m256 x, int n) {
    return _mm256_blendv_ps(_mm256_set1_ps(-INFINITY), x, _mm256_castsi256_ps(v_mask8(n)));
}
static inline Vec   v_below(Vec x, int n) { return v_of(v_below8(x.lo, n), v_below8(x.hi, n - 8)); }
static inline float v_sum(Vec v) {
    __m256 a = _mm256_add_ps(v.lo, v.hi);
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_shuffle_ps(b, b, 1)));
}
static inline float v_largest(Vec v) {
    __m256 a = _mm256_max_ps(v.lo, v.hi);
    __m128 b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_max_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_max_ss(b, _mm_shuffle_ps(b, b, 1)));
}
static inline __m256 v_either8(const int largest, __m256 a, __m256 b) {
    return largest ? _mm256_max_ps(a, b) : _mm256_add_ps(a, b);
}
static inline __m256 v_fold8(const int largest, const Vec r[8]) {
    __m256 t[6];
    for (int i = 0; i < 4; i++) { /* rows i, i + 4: half of the vector each */
        __m256 a = v_either8(largest, r[i].lo, r[i].hi), b = v_either8(largest, r[i + 4].lo, r[i + 4].hi);
        t[i] = v_either8(largest, _mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
    }
    for (int h = 0; h < 2; h++) {
        __m256 a = t[2 * h], b = t[2 * h + 1];
        t[4 + h] = v_either8(largest, _mm256_shuffle_ps(a, b, 0x44), _mm256_shuffle_ps(a, b, 0xEE));
    }
    return v_either8(largest, _mm256_shuffle_ps(t[4], t[5], 0x88), _mm256_shuffle_ps(t[4], t[5], 0xDD));
}
static inline Vec v_fold(const int largest, const Vec r[VEC]) { return v_of(v_fold8(largest, r), v_fold8(largest, r + 8)); }
static inline void v_transpose8(__m256 r[8]) {
    __m256 t[8];
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 8; i += 4)
        for (int h = 0; h < 2; h++) {
            r[i + 2 * h] = _mm256_shuffle_ps(t[i + h], t[i + h + 2], 0x44);
            r[i + 2 * h + 1] = _mm256_shuffle_ps(t[i + h], t[i + h + 2], 0xEE);
        }
    for (int i = 0; i < 4; i++) {
        t[i] = _mm256_permute2f128_ps(r[i], r[i + 4], 0x20);
        t[i + 4] = _mm256_permute2f128_ps(r[i], r[i + 4], 0x31);
    }
    for (int i = 0; i < 8; i++) r[i] = t[i];
}
static inline void v_transpose(Vec r[VEC]) {
    __m256 q[4][8]; /* quarters: rows 0-7 and 8-15, columns lo and hi */
    for (int i = 0; i < 8; i++) {
        q[0][i] = r[i].lo, q[1][i] = r[i].hi;
        q[2][i] = r[i + 8].lo, q[3][i] = r[i + 8].hi;
    }
    for (int i = 0; i < 4; i++) v_transpose8(q[i]);
    for (int i = 0; i < 8; i++) r[i] = v_of(q[0][i], q[2][i]), r[i + 8] = v_of(q[1][i], q[3][i]);
}

#else
typedef struct {
    float v[VEC];
} Vec;
/* Out of line under the sanitizers: their checks on every lane, inlined, take the compiler minutes. */
#if defined(__SANITIZE_ADDRESS__)
#define V_FN static __attribute__((noinline, unused))
#else
#define V_FN static inline
#endif
#define V_EACH(expr)                              \
    Vec r;                                        \
    for (int i = 0; i < VEC; i++) r.v[i] = (expr); \
    return r
V_FN Vec  v_set1(float x) { V_EACH(x); }
V_FN Vec  v_load(const float *p) { V_EACH(p[i]); }
V_FN void v_store(float *p, Vec a) { memcpy(p, a.v, sizeof a.v); }
V_FN Vec  v_load_n(const float *p, int n) { V_EACH(i < n ? p[i] : 0.0f); }
V_FN void v_store_n(float *p, Vec a, int n) {
    for (int i = 0; i < VEC && i < n; i++) p[i] = a.v[i];
}
V_FN Vec v_add(Vec a, Vec b) { V_EACH(a.v[i] + b.v[i]); }
V_FN Vec v_sub(Vec a, Vec b) { V_EACH(a.v[i] - b.v[i]); }
V_FN Vec v_mul(Vec a, Vec b) { V_EACH(a.v[i] * b.v[i]); }
V_FN Vec v_div(Vec a, Vec b) { V_EACH(a.v[i] / b.v[i]); }
V_FN Vec v_sqrt(Vec a) { V_EACH(sqrtf(a.v[i])); }
V_FN Vec v_max(Vec a, Vec b) { V_EACH(a.v[i] > b.v[i] ? a.v[i] : b.v[i]); }
V_FN Vec v_min(Vec a, Vec b) { V_EACH(a.v[i] < b.v[i] ? a.v[i] : b.v[i]); }
V_FN Vec v_fma(Vec a, Vec b, Vec c) { V_EACH(fmaf(a.v[i], b.v[i], c.v[i])); }
V_FN Vec v_fnma(Vec a, Vec b, Vec c) { V_EACH(fmaf(-a.v[i], b.v[i], c.v[i])); }
static inline float v_word_float(const void *p, int i, int high) {
    uint32_t word;
    float    x;
    memcpy(&word, (const char *)p + 4 * i, 4);
    word = high ? word & 0xFFFF0000u : word << 16;
    memcpy(&x, &word, 4);
    return x;
}
V_FN Vec v_bf16_low(const void *p) { V_EACH(v_word_float(p, i, 0)); }
V_FN Vec v_bf16_high(const void *p) { V_EACH(v_word_float(p, i, 1)); }
V_FN void v_low_bytes(uint8_t *out, Vec t) {
    for (int i = 0; i < VEC; i++) {
        uint32_t bits;
        memcpy(&bits, &t.v[i], 4);
        out[i] = (uint8_t)bits;
    }
}
V_FN Vec v_from_int(const int32_t *a, const int32_t *b) { V_EACH((float)(b ? a[i] - b[i] : a[i])); }
V_FN Vec v_exp2_bits(Vec t) {
    Vec r;
    for (int i = 0; i < VEC; i++) {
        uint32_t bits;
        memcpy(&bits, &t.v[i], 4);
        bits <<= 23;
        memcpy(&r.v[i], &bits, 4);
    }
    return r;
}
V_FN Vec   v_below(Vec x, int n) { V_EACH(i < n ? x.v[i] : -INFINITY); }
V_FN float v_sum(Vec a) {
    for (int half = VEC / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++) a.v[i] += a.v[i + half];
    return a.v[0];
}
V_FN float v_largest(Vec a) {
    for (int half = VEC / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++) a.v[i] = a.v[i] > a.v[i + half] ? a.v[i] : a.v[i + half];
    return a.v[0];
}
V_FN Vec v_fold(const int largest, const Vec row[VEC]) { V_EACH(largest ? v_largest(row[i]) : v_sum(row[i])); }
V_FN void v_transpose(Vec r[VEC]) {
    for (int i = 0; i < VEC; i++)
        for (int j = 0; j < i; j++) {
            float t = r[i].v[j];
            r[i].v[j] = r[j].v[i];
            r[j].v[i] = t;
        }
}
#undef V_FN
#undef V_EACH
#endif

/* Loads and stores of up to 16 floats.  Full ones go without a mask: masked stores are slow on some machines (Zen 5). */
static inline Vec  load_up_to(const float *p, int n) { return n >= VEC ? v_load(p) : v_load_n(p, n); }
static inline void store_up_to(float *p, Vec a, int n) {
    if (n >= VEC) v_store(p, a);
    else v_store_n(p, a, n);
}

static inline Vec v_zero(void) { return v_set1(0.0f); }

/* 1.5 * 2^23 + 127: adding it leaves the nearest integer + 127 in the low bits */
static const float round_magic = 12583039.0f;

/* e^x to about 1 ulp: x = n ln 2 + r, a polynomial of degree 7 in r (Cephes), times 2^n.  0 below -87.7 (-inf
 * included), infinity above 88.37. */
static inline Vec v_exp(Vec x) {
    x = v_min(v_set1(88.8f), v_max(v_set1(-88.2f), x)); /* this order of arguments passes NaN on */
    Vec t = v_fma(x, v_set1(1.44269504f), v_set1(round_magic));
    Vec n = v_sub(t, v_set1(round_magic));
    Vec r = v_fnma(n, v_set1(0.693359375f), x); /* ln 2 in two parts, the first exact for |n| < 2^15 */
    r = v_fma(n, v_set1(2.12194440e-4f), r);
    Vec p = v_set1(1.9875691500e-4f);
    p = v_fma(p, r, v_set1(1.3981999507e-3f));
    p = v_fma(p, r, v_set1(8.3334519073e-3f));
    p = v_fma(p, r, v_set1(4.1665795894e-2f));
    p = v_fma(p, r, v_set1(1.6666665459e-1f));
    p = v_fma(p, r, v_set1(5.0000001201e-1f));
    p = v_add(v_fma(p, v_mul(r, r), r), v_set1(1.0f));
    return v_mul(p, v_exp2_bits(t));
}

/* 2^x for x <= 128, to 1 ulp and cheaper than e^x: x = n + r exactly, a polynomial of degree 6 in r of least relative
 * error, times 2^n.  0 below -126.5 (-inf included), infinity from 127.5 on. */
static inline Vec v_exp2(Vec x) {
    x = v_max(v_set1(-127.0f), x); /* this order of arguments passes NaN on */
    Vec t = v_add(x, v_set1(round_magic));
    Vec r = v_sub(x, v_sub(t, v_set1(round_magic)));
    Vec p = v_set1(1.5353361960e-4f);
    p = v_fma(p, r, v_set1(1.3398875017e-3f));
    p = v_fma(p, r, v_set1(9.6184369177e-3f));
    p = v_fma(p, r, v_set1(5.5503323674e-2f));
    p = v_fma(p, r, v_set1(2.4022647738e-1f));
    p = v_fma(p, r, v_set1(6.9314718246e-1f));
    p = v_fma(p, r, v_set1(1.0f));
    return v_mul(p, v_exp2_bits(t));
}

/* 1 / (1 + e^-x) */
static inline Vec v_sigmoid(Vec x) {
    Vec one = v_set1(1.0f);
    return v_div(one, v_add(one, v_exp(v_sub(v_zero(), x))));
}

#endif
