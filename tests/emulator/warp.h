/* warp.h - warp operations and the tensor-core and copy instructions of ptx.cuh, for the CPU.
 *
 * mma adds its products one by one in k order in float, starting from c; the products of two bf16 are exact.  Tensor
 * cores add a step's products in an order of their own and may cut low bits, so bits differ from a GPU's. */
#ifndef EHR_TESTS_EMULATOR_WARP_H
#define EHR_TESTS_EMULATOR_WARP_H
#include "tests/emulator/block.h"

#include <cmath>
#include <cstring>
#include <type_traits>

namespace emu {

/* ---- shuffles ------------------------------------------------------------------------------------------------ */
struct Shuffle {
    uint64_t value;
    unsigned source;
};
extern const WarpOp shuffle_op, shuffle_up_op, shuffle_down_op, shuffle_xor_op, sync_op, ballot_op, match_any_op,
    match_all_op, reduce_add_op, reduce_min_op, reduce_max_op, reduce_umin_op, reduce_umax_op, reduce_and_op,
    reduce_or_op, reduce_xor_op, mma_bf16_op, mma_s8_op, ldmatrix_op;

template <class T> T shuffle(const WarpOp *op, uint32_t mask, T value, unsigned source, Site site) {
    static_assert(std::is_trivially_copyable<T>::value && sizeof(T) <= 8, "shuffles move at most 8 bytes");
    Shuffle s = {0, source};
    memcpy(&s.value, &value, sizeof value);
    warp_meet(op, mask, &s, site);
    memcpy(static_cast<void *>(&value), &s.value, sizeof value);
    return value;
}

void check_width(int width, Site site);

struct Ballot {
    uint64_t value;
    uint32_t result;
    int all;
};
inline uint32_t reduce(const WarpOp *op, uint32_t mask, uint32_t value, Site site) {
    Ballot b = {value, 0, 0};
    warp_meet(op, mask, &b, site);
    return b.result;
}

struct MmaBf16 {
    float *d;
    const uint32_t *a, *b;
    const float *c;
};
struct MmaS8 {
    int32_t *d;
    const uint32_t *a, *b;
    const int32_t *c;
};
struct LdMatrix {
    uint32_t *r;
    const void *row;
    int matrices, transposed;
};

} // namespace emu

template <class T> T __shfl_sync(unsigned mask, T v, int source, int width = 32, EMU_SITE) {
    emu::check_width(width, site);
    return emu::shuffle(&emu::shuffle_op, mask, v, (emu::lane() & ~(width - 1u)) | (source & (width - 1)), site);
}
template <class T> T __shfl_xor_sync(unsigned mask, T v, int bits, int width = 32, EMU_SITE) {
    emu::check_width(width, site);
    unsigned lane = emu::lane(), source = lane ^ bits;
    return emu::shuffle(&emu::shuffle_xor_op, mask, v, source / width <= lane / width ? source & 31 : lane, site);
}
template <class T> T __shfl_up_sync(unsigned mask, T v, unsigned delta, int width = 32, EMU_SITE) {
    emu::check_width(width, site);
    unsigned lane = emu::lane();
    return emu::shuffle(&emu::shuffle_up_op, mask, v, (lane & (width - 1)) >= delta ? lane - delta : lane, site);
}
template <class T> T __shfl_down_sync(unsigned mask, T v, unsigned delta, int width = 32, EMU_SITE) {
    emu::check_width(width, site);
    unsigned lane = emu::lane();
    return emu::shuffle(&emu::shuffle_down_op, mask, v,
                        (lane & (width - 1)) + delta < (unsigned)width ? lane + delta : lane, site);
}

inline void __syncwarp(unsigned mask = ~0u, EMU_SITE) { emu::warp_meet(&emu::sync_op, mask, nullptr, site); }
inline unsigned __ballot_sync(unsigned mask, int predicate, EMU_SITE) {
    return emu::reduce(&emu::ballot_op, mask, predicate != 0, site);
}
inline int __any_sync(unsigned mask, int predicate, EMU_SITE) {
    return emu::reduce(&emu::ballot_op, mask, predicate != 0, site) != 0;
}
inline int __all_sync(unsigned mask, int predicate, EMU_SITE) {
    return emu::reduce(&emu::ballot_op, mask, predicate != 0, site) == mask;
}
template <class T> unsigned __match_any_sync(unsigned mask, T v, EMU_SITE) {
    emu::Ballot b = {0, 0, 0};
    memcpy(&b.value, &v, sizeof v);
    emu::warp_meet(&emu::match_any_op, mask, &b, site);
    return b.result;
}
template <class T> unsigned __match_all_sync(unsigned mask, T v, int *all, EMU_SITE) {
    emu::Ballot b = {0, 0, 0};
    memcpy(&b.value, &v, sizeof v);
    emu::warp_meet(&emu::match_all_op, mask, &b, site);
    *all = b.all;
    return b.result;
}
inline unsigned __reduce_add_sync(unsigned mask, unsigned v, EMU_SITE) {
    return emu::reduce(&emu::reduce_add_op, mask, v, site);
}
inline int __reduce_add_sync(unsigned mask, int v, EMU_SITE) {
    return (int)emu::reduce(&emu::reduce_add_op, mask, (uint32_t)v, site);
}
inline unsigned __reduce_min_sync(unsigned mask, unsigned v, EMU_SITE) {
    return emu::reduce(&emu::reduce_umin_op, mask, v, site);
}
inline int __reduce_min_sync(unsigned mask, int v, EMU_SITE) {
    return (int)emu::reduce(&emu::reduce_min_op, mask, (uint32_t)v, site);
}
inline unsigned __reduce_max_sync(unsigned mask, unsigned v, EMU_SITE) {
    return emu::reduce(&emu::reduce_umax_op, mask, v, site);
}
inline int __reduce_max_sync(unsigned mask, int v, EMU_SITE) {
    return (int)emu::reduce(&emu::reduce_max_op, mask, (uint32_t)v, site);
}
inline unsigned __reduce_and_sync(unsigned mask, unsigned v, EMU_SITE) {
    return emu::reduce(&emu::reduce_and_op, mask, v, site);
}
inline unsigned __reduce_or_sync(unsigned mask, unsigned v, EMU_SITE) {
    return emu::reduce(&emu::reduce_or_op, mask, v, site);
}
inline unsigned __reduce_xor_sync(unsigned mask, unsigned v, EMU_SITE) {
    return emu::reduce(&emu::reduce_xor_op, mask, v, site);
}

/* ---- barriers ------------------------------------------------------------------------------------------------ */
inline void __syncthreads(EMU_SITE) { emu::barrier_meet(0, 0, true, site); }
inline int __syncthreads_count(int predicate, EMU_SITE) { return (int)emu::barrier_vote(predicate != 0, site).count; }
inline int __syncthreads_or(int predicate, EMU_SITE) { return emu::barrier_vote(predicate != 0, site).count != 0; }
inline int __syncthreads_and(int predicate, EMU_SITE) {
    emu::Vote v = emu::barrier_vote(predicate != 0, site);
    return v.count == v.threads;
}
inline void __threadfence() { emu::fence(); }
inline void __threadfence_block() {}
inline void __threadfence_system() {}

/* ---- ptx.cuh ------------------------------------------------------------------------------------------------- */
inline void mma_m16n8k16_bf16(float *d, const uint32_t *a, const uint32_t *b, const float *c, EMU_SITE) {
    emu::MmaBf16 m = {d, a, b, c};
    emu::warp_meet(&emu::mma_bf16_op, ~0u, &m, site);
}
inline void mma_m16n8k32_s8(int32_t *d, const uint32_t *a, const uint32_t *b, const int32_t *c, EMU_SITE) {
    emu::MmaS8 m = {d, a, b, c};
    emu::warp_meet(&emu::mma_s8_op, ~0u, &m, site);
}
inline void ldmatrix_x4(uint32_t *r, const void *row, EMU_SITE) {
    emu::LdMatrix m = {r, row, 4, 0};
    emu::warp_meet(&emu::ldmatrix_op, ~0u, &m, site);
}
inline void ldmatrix_x4_trans(uint32_t *r, const void *row, EMU_SITE) {
    emu::LdMatrix m = {r, row, 4, 1};
    emu::warp_meet(&emu::ldmatrix_op, ~0u, &m, site);
}
inline void ldmatrix_x2(uint32_t *r, const void *row, EMU_SITE) {
    emu::LdMatrix m = {r, row, 2, 0};
    emu::warp_meet(&emu::ldmatrix_op, ~0u, &m, site);
}
inline void ldmatrix_x2_trans(uint32_t *r, const void *row, EMU_SITE) {
    emu::LdMatrix m = {r, row, 2, 1};
    emu::warp_meet(&emu::ldmatrix_op, ~0u, &m, site);
}
inline void cp_async_16(void *shared, const void *global, int valid, EMU_SITE) {
    emu::async_copy(shared, global, 16, valid != 0, site);
}
inline void cp_async_4(void *shared, const void *global, int valid, EMU_SITE) {
    emu::async_copy(shared, global, 4, valid != 0, site);
}
inline void cp_async_commit() { emu::async_commit(); }
template <int pending> inline void cp_async_wait() { emu::async_wait(pending); }
inline void barrier_sync(int id, int threads, EMU_SITE) { emu::barrier_meet(id, (unsigned)threads, true, site); }
inline void barrier_arrive(int id, int threads, EMU_SITE) { emu::barrier_meet(id, (unsigned)threads, false, site); }
/* The hardware's ex2.approx.ftz: subnormal inputs and results are 0. */
inline float exp2_fast(float x) {
    float y = exp2f(x);
    return y < 1.17549435e-38f ? 0.0f : y;
}

#endif
