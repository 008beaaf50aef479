/* warp.cpp - what the last lane to arrive does for its warp: shuffles, votes, reductions, mma, ldmatrix. */
#include "tests/emulator/warp.h"
#include "tests/emulator/check.h"

namespace emu {

namespace {

template <class T, class F> void each(void **args, uint32_t mask, F f) {
    for (uint32_t rest = mask; rest; rest &= rest - 1) {
        unsigned lane = (unsigned)__builtin_ctz(rest);
        f(lane, *static_cast<T *>(args[lane]));
    }
}

void run_shuffle(void **args, uint32_t mask, Site site) {
    uint64_t in[WARP];
    each<Shuffle>(args, mask, [&](unsigned lane, Shuffle &s) { in[lane] = s.value; });
    each<Shuffle>(args, mask, [&](unsigned lane, Shuffle &s) {
        if (!(mask >> s.source & 1))
            fault(site, "lane %u of a shuffle reads lane %u, which is not in the mask %08x", lane, s.source, mask);
        s.value = in[s.source];
    });
}

void run_ballot(void **args, uint32_t mask, Site) {
    uint32_t r = 0;
    each<Ballot>(args, mask, [&](unsigned lane, Ballot &b) { r |= (uint32_t)(b.value != 0) << lane; });
    each<Ballot>(args, mask, [&](unsigned, Ballot &b) { b.result = r; });
}

void run_match_any(void **args, uint32_t mask, Site) {
    each<Ballot>(args, mask, [&](unsigned, Ballot &b) {
        b.result = 0;
        each<Ballot>(args, mask, [&](unsigned lane, Ballot &o) { b.result |= (uint32_t)(o.value == b.value) << lane; });
    });
}

void run_match_all(void **args, uint32_t mask, Site) {
    uint64_t first = static_cast<Ballot *>(args[__builtin_ctz(mask)])->value;
    int all = 1;
    each<Ballot>(args, mask, [&](unsigned, Ballot &b) { all &= b.value == first; });
    each<Ballot>(args, mask, [&](unsigned, Ballot &b) {
        b.result = all ? mask : 0;
        b.all = all;
    });
}

template <uint32_t (*f)(uint32_t, uint32_t)> void run_reduce(void **args, uint32_t mask, Site) {
    uint32_t r = 0;
    bool first = true;
    each<Ballot>(args, mask, [&](unsigned, Ballot &b) {
        r = first ? (uint32_t)b.value : f(r, (uint32_t)b.value);
        first = false;
    });
    each<Ballot>(args, mask, [&](unsigned, Ballot &b) { b.result = r; });
}
uint32_t add(uint32_t a, uint32_t b) { return a + b; }
uint32_t umin(uint32_t a, uint32_t b) { return a < b ? a : b; }
uint32_t umax(uint32_t a, uint32_t b) { return a > b ? a : b; }
uint32_t smin(uint32_t a, uint32_t b) { return (int32_t)a < (int32_t)b ? a : b; }
uint32_t smax(uint32_t a, uint32_t b) { return (int32_t)a > (int32_t)b ? a : b; }
uint32_t bit_and(uint32_t a, uint32_t b) { return a & b; }
uint32_t bit_or(uint32_t a, uint32_t b) { return a | b; }
uint32_t bit_xor(uint32_t a, uint32_t b) { return a ^ b; }

/* Eight columns of one row of d at once. */
typedef float Row __attribute__((vector_size(32)));

/* Fragments (PTX ISA, mma.m16n8k16): with g = lane / 4 and t = lane % 4, a[i] holds row g + 8 (i % 2), columns
 * 2 t + 8 (i / 2) and the next; b[i] rows 2 t + 8 i and the next of column g; c and d[i] row g + 8 (i / 2), column
 * 2 t + i % 2. */
void run_mma_bf16(void **args, uint32_t, Site) {
    tally.products += 16 * 8 * 16;
    alignas(32) float a[16][16], b[16][8], d[16][8];
    for (unsigned lane = 0; lane < WARP; lane++) {
        const MmaBf16 &m = *static_cast<MmaBf16 *>(args[lane]);
        unsigned g = lane >> 2, t = 2 * (lane & 3);
        auto pair = [](float *lo, float *hi, uint32_t v) {
            uint32_t l = v << 16, h = v & 0xFFFF0000u;
            memcpy(lo, &l, 4);
            memcpy(hi, &h, 4);
        };
        for (unsigned i = 0; i < 4; i++) {
            float *row = &a[g + 8 * (i & 1)][t + 8 * (i >> 1)];
            pair(row, row + 1, m.a[i]);
            d[g + 8 * (i >> 1)][t + (i & 1)] = m.c[i];
        }
        for (unsigned i = 0; i < 2; i++) pair(&b[t + 8 * i][g], &b[t + 8 * i + 1][g], m.b[i]);
    }
    for (unsigned r = 0; r < 16; r++) {
        Row sum;
        memcpy(&sum, d[r], sizeof sum);
        for (unsigned k = 0; k < 16; k++) {
            Row column;
            memcpy(&column, b[k], sizeof column);
            sum += a[r][k] * column;
        }
        memcpy(d[r], &sum, sizeof sum);
    }
    for (unsigned lane = 0; lane < WARP; lane++) {
        const MmaBf16 &m = *static_cast<MmaBf16 *>(args[lane]);
        unsigned g = lane >> 2, t = 2 * (lane & 3);
        for (unsigned i = 0; i < 4; i++) m.d[i] = d[g + 8 * (i >> 1)][t + (i & 1)];
    }
}

/* As above with four int8 a register: a[i] holds row g + 8 (i % 2), columns 4 t + 16 (i / 2) to + 3; b[i] rows
 * 4 t + 16 i to + 3 of column g. */
void run_mma_s8(void **args, uint32_t, Site) {
    typedef int32_t IntRow __attribute__((vector_size(32)));
    alignas(32) int32_t a[16][32], b[32][8], d[16][8];
    for (unsigned lane = 0; lane < WARP; lane++) {
        const MmaS8 &m = *static_cast<MmaS8 *>(args[lane]);
        unsigned g = lane >> 2, t = lane & 3;
        for (unsigned i = 0; i < 4; i++) {
            for (unsigned j = 0; j < 4; j++) a[g + 8 * (i & 1)][4 * t + 16 * (i >> 1) + j] = (int8_t)(m.a[i] >> 8 * j);
            d[g + 8 * (i >> 1)][2 * t + (i & 1)] = m.c[i];
        }
        for (unsigned i = 0; i < 2; i++)
            for (unsigned j = 0; j < 4; j++) b[4 * t + 16 * i + j][g] = (int8_t)(m.b[i] >> 8 * j);
    }
    for (unsigned r = 0; r < 16; r++) {
        IntRow sum;
        memcpy(&sum, d[r], sizeof sum);
        for (unsigned k = 0; k < 32; k++) {
            IntRow column;
            memcpy(&column, b[k], sizeof column);
            sum += a[r][k] * column;
        }
        memcpy(d[r], &sum, sizeof sum);
    }
    for (unsigned lane = 0; lane < WARP; lane++) {
        const MmaS8 &m = *static_cast<MmaS8 *>(args[lane]);
        unsigned g = lane >> 2, t = 2 * (lane & 3);
        for (unsigned i = 0; i < 4; i++) m.d[i] = d[g + 8 * (i >> 1)][t + (i & 1)];
    }
}

/* Register i of lane l: elements 2 (l % 4) and the next of row l / 4 of matrix i, or of its transpose. */
void run_ldmatrix(void **args, uint32_t, Site site) {
    const LdMatrix &first = *static_cast<LdMatrix *>(args[0]);
    for (int i = 0; i < first.matrices; i++) {
        uint16_t matrix[8][8];
        for (int r = 0; r < 8; r++) {
            const LdMatrix &m = *static_cast<LdMatrix *>(args[8 * i + r]);
            if (m.matrices != first.matrices || m.transposed != first.transposed)
                fault(site, "lanes 0 and %d of one warp call different forms of ldmatrix", 8 * i + r);
            if (reinterpret_cast<uintptr_t>(m.row) % 16)
                fault(site, "ldmatrix: the row of lane %d, %p, is not aligned to 16 bytes", 8 * i + r, m.row);
            check_access(&machine.tasks[current->linear / WARP * WARP + 8 * i + r], m.row, 16, WARP_READ, site);
            memcpy(matrix[r], m.row, sizeof matrix[r]);
        }
        for (int lane = 0; lane < WARP; lane++) {
            const LdMatrix &m = *static_cast<LdMatrix *>(args[lane]);
            int row = lane / 4, column = lane % 4 * 2;
            uint16_t lo = first.transposed ? matrix[column][row] : matrix[row][column];
            uint16_t hi = first.transposed ? matrix[column + 1][row] : matrix[row][column + 1];
            m.r[i] = (uint32_t)hi << 16 | lo;
        }
    }
}

} // namespace

const WarpOp shuffle_op = {"__shfl_sync", run_shuffle}, shuffle_up_op = {"__shfl_up_sync", run_shuffle},
             shuffle_down_op = {"__shfl_down_sync", run_shuffle}, shuffle_xor_op = {"__shfl_xor_sync", run_shuffle},
             sync_op = {"__syncwarp", nullptr, true}, ballot_op = {"a warp vote", run_ballot},
             match_any_op = {"__match_any_sync", run_match_any}, match_all_op = {"__match_all_sync", run_match_all},
             reduce_add_op = {"__reduce_add_sync", run_reduce<add>},
             reduce_min_op = {"__reduce_min_sync", run_reduce<smin>},
             reduce_max_op = {"__reduce_max_sync", run_reduce<smax>},
             reduce_umin_op = {"__reduce_min_sync", run_reduce<umin>},
             reduce_umax_op = {"__reduce_max_sync", run_reduce<umax>},
             reduce_and_op = {"__reduce_and_sync", run_reduce<bit_and>},
             reduce_or_op = {"__reduce_or_sync", run_reduce<bit_or>},
             reduce_xor_op = {"__reduce_xor_sync", run_reduce<bit_xor>},
             mma_bf16_op = {"mma_m16n8k16_bf16", run_mma_bf16}, mma_s8_op = {"mma_m16n8k32_s8", run_mma_s8},
             ldmatrix_op = {"ldmatrix", run_ldmatrix};

void check_width(int width, Site site) {
    if (width < 1 || width > WARP || (width & (width - 1))) fault(site, "a shuffle's width %d is no power of 2", width);
}

} // namespace emu
