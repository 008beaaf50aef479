/* matmul_tile.h - the vector code behind CpuIsa, included by matmul_avx512.c, matmul_avx2.c and matmul_portable.c.
 *
 * A tile of c, TILE_ROWS x (16 TILE_VECS) at most, stays in registers while k runs: each step loads TILE_VECS vectors of
 * b and one float of a per row.  The includer defines TILE_ROWS and TILE_VECS (1 or 2; a panel of 32 columns takes
 * 2 / TILE_VECS passes) to fill its register file. */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vec.h"

/* Plain C gains nothing from unrolling by hand, and one body serves every shape; so does it under the sanitizers, whose
 * checks in every unrolled step take the compiler minutes. */
#if TILE_PORTABLE || defined(__SANITIZE_ADDRESS__)
#define TILE_ONE_BODY 1
#define TILE_FN static
#define UNROLL
#else
#define TILE_FN static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")
#endif

/* m and vecs are literals at every call, so that the loops over them unroll and acc lives in registers. */
TILE_FN void tile_load(const int m, const int vecs, const int full, Vec acc[][TILE_VECS], int n, const TileOut *o,
                       int column) {
    UNROLL
    for (int i = 0; i < m; i++)
        UNROLL
        for (int v = 0; v < vecs; v++) {
            const float *at = o->chain + i * o->ld_chain + column + v * VEC;
            acc[i][v] = full ? v_load(at) : v_load_n(at, n - v * VEC);
        }
    if (!o->factor) return;
    UNROLL
    for (int i = 0; i < m; i++)
        UNROLL
        for (int v = 0; v < vecs; v++) acc[i][v] = v_mul(acc[i][v], v_set1(o->factor[i]));
}

/* full, adds: literals as well */
TILE_FN void tile_store(const int m, const int vecs, const int full, const int adds, Vec acc[][TILE_VECS], int n,
                        const TileOut *o, int column) {
    UNROLL
    for (int i = 0; i < m; i++)
        UNROLL
        for (int v = 0; v < vecs; v++) {
            int at = column + v * VEC, lanes = full ? VEC : n - v * VEC;
            Vec x = acc[i][v];
            if (adds) x = v_add(full ? v_load(o->add + i * o->ld_add + at) : v_load_n(o->add + i * o->ld_add + at, lanes), x);
            if (full) v_store(o->out + i * o->ld_out + at, x);
            else store_up_to(o->out + i * o->ld_out + at, x, lanes);
        }
}

/* What a step reads of b: a vector a column of 16, or 16 pairs of bfloat16 of which the low halves are the first 16
 * columns and the high halves the others. */
typedef enum { OF_FLOATS, OF_PAIRS, OF_PAIRS_HIGH } Operand;

TILE_FN void operand_load(const int vecs, const Operand kind, Vec bv[TILE_VECS], const float *b) {
    if (kind == OF_FLOATS) {
        UNROLL
        for (int v = 0; v < vecs; v++) bv[v] = v_load(b + v * VEC);
        return;
    }
    bv[0] = kind == OF_PAIRS ? v_bf16_low(b) : v_bf16_high(b);
    if (vecs > 1) bv[TILE_VECS - 1] = v_bf16_high(b);
}

/* Rows of a are reached from every third row's pointer, which x86 addressing (base, base + rs, base + 2 rs) does for
 * free. */
TILE_FN void tile_body(const int m, const int vecs, const int rows_adjacent, const Operand kind, int n, int k,
                       const float *a, ptrdiff_t a_rs, ptrdiff_t a_cs, const float *b, ptrdiff_t ldb, const TileOut *o,
                       int column) {
    Vec acc[TILE_ROWS][TILE_VECS];
    if (!o->chain) {
        UNROLL
        for (int i = 0; i < m; i++)
            UNROLL
            for (int v = 0; v < vecs; v++) acc[i][v] = v_zero();
    } else if (n >= vecs * VEC) {
        tile_load(m, vecs, 1, acc, n, o, column);
    } else {
        tile_load(m, vecs, 0, acc, n, o, column);
    }
    if (o->add) {
        UNROLL
        for (int i = 0; i < m; i++)
            UNROLL
            for (int v = 0; v < vecs; v++) __builtin_prefetch(o->add + i * o->ld_add + column + v * VEC, 0, 3);
    }
    const float *row[(TILE_ROWS + 2) / 3], *soon = o->soon;
    const ptrdiff_t near = o->near;
    const int n_soon = !soon ? 0 : o->n_soon ? o->n_soon : k;
    UNROLL
    for (int i = 0; i < m; i += 3) row[i / 3] = a + i * a_rs;
    for (int p = 0; p < k; p++) {
        Vec bv[TILE_VECS];
        operand_load(vecs, kind, bv, b);
        /* near may be 0, a line that is there: that costs a tile less than to ask each time. */
        __builtin_prefetch(b + near, 0, 3);
        if (kind == OF_FLOATS && vecs > 1) __builtin_prefetch(b + near + VEC, 0, 3);
        if (p < n_soon) {
            __builtin_prefetch(soon, 0, 2);
            __builtin_prefetch(soon + VEC, 0, 2);
            soon += o->ld_soon;
        }
        UNROLL
        for (int i = 0; i < m; i++) {
            Vec av = v_set1(rows_adjacent ? a[i] : row[i / 3][i % 3 * a_rs]);
            UNROLL
            for (int v = 0; v < vecs; v++) acc[i][v] = v_fma(av, bv[v], acc[i][v]);
        }
        b += ldb;
        if (rows_adjacent) {
            a += a_cs;
        } else {
            UNROLL
            for (int i = 0; i < m; i += 3) row[i / 3] += a_cs;
        }
    }
    if (o->scale) {
        UNROLL
        for (int i = 0; i < m; i++)
            UNROLL
            for (int v = 0; v < vecs; v++) acc[i][v] = v_mul(acc[i][v], v_set1(o->scale[i]));
    }
    if (n < vecs * VEC) {
        if (o->add) tile_store(m, vecs, 0, 1, acc, n, o, column);
        else tile_store(m, vecs, 0, 0, acc, n, o, column);
    } else if (o->add) {
        tile_store(m, vecs, 1, 1, acc, n, o, column);
    } else {
        tile_store(m, vecs, 1, 0, acc, n, o, column);
    }
}

#define TILE_ARGUMENTS                                                                                                 \
    int n, int k, const float *a, ptrdiff_t a_rs, ptrdiff_t a_cs, const float *b, ptrdiff_t ldb, const TileOut *o,     \
        int column
#if TILE_ONE_BODY
#define TILE_FUNCTION(name, vecs, rows_adjacent, kind)                                                                 \
    static void name(int m, TILE_ARGUMENTS) {                                                                          \
        tile_body(m, vecs, rows_adjacent, kind, n, k, a, a_rs, a_cs, b, ldb, o, column);                               \
    }
#else
#define TILE_CASE(rows, ...)                                                                                           \
    case rows: tile_body(rows <= TILE_ROWS ? rows : 1, __VA_ARGS__, n, k, a, a_rs, a_cs, b, ldb, o, column); break;
#define TILE_FUNCTION(name, vecs, rows_adjacent, kind)                                                                 \
    static void name(int m, TILE_ARGUMENTS) {                                                                          \
        switch (m) {                                                                                                   \
            TILE_CASE(1, vecs, rows_adjacent, kind)                                                                    \
            TILE_CASE(2, vecs, rows_adjacent, kind)                                                                    \
            TILE_CASE(3, vecs, rows_adjacent, kind)                                                                    \
            TILE_CASE(4, vecs, rows_adjacent, kind)                                                                    \
            TILE_CASE(5, vecs, rows_adjacent, kind)                                                                    \
            TILE_CASE(6, vecs, rows_adjacent, kind)                                                                    \
            TILE_CASES_ABOVE_6(vecs, rows_adjacent, kind)                                                              \
        }                                                                                                              \
    }
#if TILE_ROWS > 6
#define TILE_CASES_ABOVE_6(...)                                                                                        \
    TILE_CASE(7, __VA_ARGS__)                                                                                          \
    TILE_CASE(8, __VA_ARGS__)                                                                                          \
    TILE_CASE(9, __VA_ARGS__)                                                                                          \
    TILE_CASE(10, __VA_ARGS__)                                                                                         \
    TILE_CASE(11, __VA_ARGS__)                                                                                         \
    TILE_CASE(12, __VA_ARGS__)                                                                                         \
    TILE_CASE(13, __VA_ARGS__)                                                                                         \
    TILE_CASE(14, __VA_ARGS__)
#else
#define TILE_CASES_ABOVE_6(...)
#endif
#endif

TILE_FUNCTION(tile_narrow, 1, 0, OF_FLOATS)
#if TILE_VECS == 2
TILE_FUNCTION(tile_wide, 2, 0, OF_FLOATS)
TILE_FUNCTION(tile_wide_adjacent, 2, 1, OF_FLOATS)
TILE_FUNCTION(tile_pairs_wide, 2, 0, OF_PAIRS)
#else
TILE_FUNCTION(tile_narrow_adjacent, 1, 1, OF_FLOATS)
TILE_FUNCTION(tile_pairs, 1, 0, OF_PAIRS)
TILE_FUNCTION(tile_pairs_high, 1, 0, OF_PAIRS_HIGH)
#endif

static void sgemm_tile(int m, int n, int k, const float *a, ptrdiff_t a_rs, ptrdiff_t a_cs, const float *b,
                       ptrdiff_t ldb, const TileOut *o) {
#if TILE_VECS == 2
    if (n > VEC) {
        if (a_rs == 1) tile_wide_adjacent(m, n, k, a, a_rs, a_cs, b, ldb, o, 0);
        else tile_wide(m, n, k, a, a_rs, a_cs, b, ldb, o, 0);
        return;
    }
#endif
    for (int j = 0; j < n; j += VEC) {
#if TILE_VECS == 1
        if (a_rs == 1) tile_narrow_adjacent(m, n - j, k, a, a_rs, a_cs, b + j, ldb, o, j);
        else
#endif
            tile_narrow(m, n - j, k, a, a_rs, a_cs, b + j, ldb, o, j);
    }
}

static void sgemm_tile_bf16(int m, int n, int k, const float *a, ptrdiff_t a_rs, const uint16_t *panel, const TileOut *o) {
    const float *pairs = (const float *)(const void *)panel;
#if TILE_VECS == 2
    tile_pairs_wide(m, n, k, a, a_rs, 1, pairs, VEC, o, 0);
#else
    tile_pairs(m, n, k, a, a_rs, 1, pairs, VEC, o, 0);
    if (n > VEC) tile_pairs_high(m, n - VEC, k, a, a_rs, 1, pairs, VEC, o, VEC);
#endif
}

enum {
    PACK_AHEAD = 16, /* k of which the operands are fetched ahead */
    PACK_PANELS = 8  /* at once: as many lines as a set of the first cache has room for */
};

/* ---- packing ------------------------------------------------------------------------------------------------------- */

/* 16 columns, or rows, whose k are adjacent: transposed in registers, 16 k at a time; dst has them ld apart a k.  What
 * lies past n of them is 0, or with `any`, a literal, whatever is quickest.  What is packed next lies `ahead` further on. */
TILE_FN void pack_transposed(const int any, ptrdiff_t ahead, float *dst, ptrdiff_t ld, int n, int k, const float *b, ptrdiff_t b_cs) {
    int p = 0;
    if (n >= VEC || any) {
        const float *row[VEC];
        for (int j = 0; j < VEC; j++) row[j] = b + (j < n ? j : n - 1) * b_cs;
        for (; k - p >= VEC; p += VEC) {
            Vec r[VEC];
            UNROLL
            for (int j = 0; j < VEC; j++) r[j] = v_load(row[j] + p), __builtin_prefetch(row[j] + p + ahead, 0, 2);
            v_transpose(r);
            UNROLL
            for (int q = 0; q < VEC; q++) v_store(dst + (p + q) * ld, r[q]);
        }
    }
    for (; p < k; p += VEC) {
        Vec r[VEC];
        for (int j = 0; j < VEC; j++) r[j] = j < n ? load_up_to(b + j * b_cs + p, k - p) : v_zero();
        v_transpose(r);
        for (int q = 0; q < VEC && q < k - p; q++) v_store(dst + (p + q) * ld, r[q]);
    }
}

static void pack_panel(float *dst, int n, int k, const float *b, ptrdiff_t b_rs, ptrdiff_t b_cs) {
    for (int j = 0; j < SGEMM_PANEL; j += VEC, b += VEC * b_cs) {
        if (b_rs == 1) {
            pack_transposed(0, VEC * b_cs, dst + j, SGEMM_PANEL, n - j, k, b, b_cs);
        } else {
            for (int p = 0; p < k; p++)
                for (int i = 0; i < VEC; i++) dst[p * SGEMM_PANEL + j + i] = j + i < n ? b[p * b_rs + i * b_cs] : 0.0f;
        }
    }
}

/* Rows of b are read across several panels, which caches foresee; one panel is fetched ahead. */
static void sgemm_pack_panel(float *dst, int n, int k, const float *b, ptrdiff_t b_rs, ptrdiff_t b_cs) {
    const ptrdiff_t panel = (ptrdiff_t)k * SGEMM_PANEL;
    const int       wide = (b_cs == 1 ? PACK_PANELS : 1) * SGEMM_PANEL;
    for (; n > 0; n -= wide, b += wide * b_cs, dst += wide / SGEMM_PANEL * panel) {
        if (b_cs != 1) {
            pack_panel(dst, n, k, b, b_rs, b_cs);
            continue;
        }
        const float *from = b;
        for (int p = 0; p < k; p++, from += b_rs) {
            float *to = dst + p * SGEMM_PANEL;
            if (n <= SGEMM_PANEL) {
                __builtin_prefetch(from + PACK_AHEAD * b_rs, 0, 3);
                __builtin_prefetch(from + PACK_AHEAD * b_rs + VEC, 0, 3);
            }
            for (int j = 0; j < wide && j < n; j += SGEMM_PANEL, to += panel) {
                v_store(to, load_up_to(from + j, n - j));
                v_store(to + VEC, load_up_to(from + j + VEC, n - j - VEC));
            }
        }
    }
}

static void sgemm_pack_rows(float *dst, int rows, int step, int k, const float *a, ptrdiff_t a_rs, ptrdiff_t a_cs) {
    const ptrdiff_t group = (ptrdiff_t)(k + 1) * SGEMM_LANES;
    if (a_cs == 1) {
        for (int i = 0; i < rows; i += step, dst += group)
            pack_transposed(1, step * a_rs, dst, SGEMM_LANES, rows - i < step ? rows - i : step, k, a + i * a_rs, a_rs);
        return;
    }
    for (int p = 0; p < k; p++, dst += SGEMM_LANES, a += a_cs) { /* k outside: what is adjacent in a is read so */
        float *to = dst;
        if (a_rs == 1)
            for (int i = 0; i < rows + VEC; i += VEC) __builtin_prefetch(a + PACK_AHEAD * a_cs + i, 0, 3);
        for (int i = 0; i < rows; i += step, to += group) {
            int n = rows - i < step ? rows - i : step;
            if (a_rs == 1) v_store(to, load_up_to(a + i, rows - i)); /* the next group's first as well: nobody reads them */
            else
                for (int j = 0; j < n; j++) to[j] = a[(i + j) * a_rs];
        }
    }
}

/* ---- vectors ------------------------------------------------------------------------------------------------------- */

/* x, with -inf in the lanes from n on */
static Vec pad_minus_infinity(Vec x, int n) {
    if (n >= VEC) return x;
    float lane[VEC];
    v_store(lane, v_set1(-INFINITY));
    v_store_n(lane, x, n);
    return v_load(lane);
}

/* Lane i % 16 sums its own elements in ascending order; the lanes meet at the end. */
static float vector_exp_sum(float *out, const float *inp, float scale, float shift, int n) {
    Vec sum = v_zero();
    for (int i = 0; i < n; i += VEC) {
        Vec x = v_fma(load_up_to(inp + i, n - i), v_set1(scale), v_set1(-shift));
        Vec e = v_exp(pad_minus_infinity(x, n - i));
        store_up_to(out + i, e, n - i);
        sum = v_add(sum, e);
    }
    return v_sum(sum);
}

static float vector_max(const float *inp, int n) {
    Vec m = v_set1(-INFINITY);
    for (int i = 0; i < n; i += VEC) m = v_max(pad_minus_infinity(load_up_to(inp + i, n - i), n - i), m);
    return v_largest(m);
}

static void vector_swiglu(float *out, const float *gate, const float *up, int n) {
    for (int i = 0; i < n; i += VEC) {
        Vec g = load_up_to(gate + i, n - i), u = load_up_to(up + i, n - i);
        store_up_to(out + i, v_mul(v_mul(g, v_sigmoid(g)), u), n - i);
    }
}

/* d silu(g) / dg = s (1 + g (1 - s)), s = sigmoid(g).  Caches do not foresee rows in two halves: the next is fetched. */
static void vector_swiglu_backward(float *dgate_up, float *act, const float *dout, const float *gate_up, int rows, int F) {
    Vec one = v_set1(1.0f);
    for (int row = 0; row < rows; row++, dgate_up += 2 * F, gate_up += 2 * F, act += F, dout += F)
        for (int i = 0; i < F; i += VEC) {
            int n = F - i;
            Vec g = load_up_to(gate_up + i, n), u = load_up_to(gate_up + F + i, n), d = load_up_to(dout + i, n);
            Vec s = v_sigmoid(g), gs = v_mul(g, s);
            Vec slope = v_mul(s, v_fma(g, v_sub(one, s), one));
            __builtin_prefetch(gate_up + 2 * F + i), __builtin_prefetch(gate_up + 3 * F + i);
            store_up_to(dgate_up + i, v_mul(v_mul(d, u), slope), n);
            store_up_to(dgate_up + F + i, v_mul(d, gs), n);
            store_up_to(act + i, v_mul(gs, u), n);
        }
}

static void vector_add(float *out, const float *a, const float *b, int n) {
    for (int i = 0; i < n; i += VEC)
        store_up_to(out + i, v_add(load_up_to(a + i, n - i), load_up_to(b + i, n - i)), n - i);
}

#define CPU_ISA_TABLE(isa_level, isa_name)                                                                          \
    {                                                                                                               \
        .level = isa_level, .name = isa_name, .tile_rows = TILE_ROWS, .sgemm_tile = sgemm_tile,                     \
        .sgemm_tile_bf16 = sgemm_tile_bf16,                                                                         \
        .sgemm_pack_panel = sgemm_pack_panel, .sgemm_pack_rows = sgemm_pack_rows, .exp_sum = vector_exp_sum,            \
        .max = vector_max, .swiglu = vector_swiglu,                                                                     \
        .swiglu_backward = vector_swiglu_backward, .add = vector_add                                                \
    }
