/* hopper.h - the instructions of kernels/cuda/hopper.cuh for the CPU: mbarriers, tensor maps and bulk copies
 * (mbarrier.cpp), the barrier of a cluster (cluster.cpp), wgmma and its descriptors, register budgets (wgmma.cpp). */
#ifndef EHR_TESTS_EMULATOR_HOPPER_H
#define EHR_TESTS_EMULATOR_HOPPER_H
#include "tests/emulator/block.h"

#include <cuda.h>

#include <cstring>

namespace emu {

void mbarrier_init(uint64_t *bar, int count, Site site);
void mbarrier_published(Site site);
void mbarrier_arrive(uint64_t *bar, unsigned bytes, Site site);
void mbarrier_wait(uint64_t *bar, unsigned parity, Site site);
void mbarrier_arrive_at(uint64_t *bar, unsigned rank, Site site);
/* Into the blocks of the cluster whose bit is set. */
void bulk_load(void *shared, const CUtensorMap *map, const int *at, unsigned rank, uint64_t *bar, unsigned blocks,
               Site site);
void cluster_arrive(Site site);
void cluster_wait(Site site);
void bulk_store(const CUtensorMap *map, const int *at, unsigned rank, const void *shared, Site site);
void bulk_store_commit();
void bulk_store_wait(unsigned pending, Site site);
void proxy_fence();
unsigned shared_offset(const void *p, Site site); /* in the block's dynamic shared memory, which starts at 0 */

/* What each lane of the four warps gives: register operands are one lane's. */
struct Wgmma {
    float *d;
    const uint32_t *a_registers; /* NULL: a is in shared memory */
    uint64_t a, b;
    int n, accumulate, a_along_k, b_along_k;
};
void wgmma_issue(Wgmma *w, Site site);
void wgmma_fence(Site site);
void wgmma_commit(Site site);
void wgmma_wait(unsigned pending, Site site);
void registers_set(unsigned count, Site site);

} // namespace emu

inline uint32_t shared_address(const void *p, EMU_SITE) { return emu::shared_offset(p, site); }
inline void mbarrier_init(uint64_t *bar, int count, EMU_SITE) { emu::mbarrier_init(bar, count, site); }
inline void mbarrier_published(EMU_SITE) { emu::mbarrier_published(site); }
inline void mbarrier_expect(uint64_t *bar, int bytes, EMU_SITE) { emu::mbarrier_arrive(bar, (unsigned)bytes, site); }
inline void mbarrier_arrive(uint64_t *bar, EMU_SITE) { emu::mbarrier_arrive(bar, 0, site); }
inline void mbarrier_arrive_at(uint64_t *bar, int rank, EMU_SITE) {
    emu::mbarrier_arrive_at(bar, (unsigned)rank, site);
}
inline void mbarrier_wait(uint64_t *bar, int parity, EMU_SITE) { emu::mbarrier_wait(bar, (unsigned)parity, site); }
inline int cluster_rank() { return (int)emu::current->block->rank; }
inline void cluster_arrive(EMU_SITE) { emu::cluster_arrive(site); }
inline void cluster_wait(EMU_SITE) { emu::cluster_wait(site); }
inline void tma_prefetch(const CUtensorMap *) {}
inline void tma_load_2d(void *shared, const CUtensorMap *map, int x, int y, uint64_t *bar, EMU_SITE) {
    const int at[] = {x, y};
    emu::bulk_load(shared, map, at, 2, bar, 1u << emu::current->block->rank, site);
}
inline void tma_multicast_2d(void *shared, const CUtensorMap *map, int x, int y, uint64_t *bar, int blocks, EMU_SITE) {
    const int at[] = {x, y};
    emu::bulk_load(shared, map, at, 2, bar, (unsigned)blocks, site);
}
inline void tma_store_2d(const CUtensorMap *map, int x, int y, const void *shared, EMU_SITE) {
    const int at[] = {x, y};
    emu::bulk_store(map, at, 2, shared, site);
}
inline void tma_store_commit() { emu::bulk_store_commit(); }
template <int pending> inline void tma_store_wait(EMU_SITE) { emu::bulk_store_wait(pending, site); }
inline void proxy_fence() { emu::proxy_fence(); }

inline void wgmma_fence(EMU_SITE) { emu::wgmma_fence(site); }
inline void wgmma_commit(EMU_SITE) { emu::wgmma_commit(site); }
template <int pending> inline void wgmma_wait(EMU_SITE) { emu::wgmma_wait(pending, site); }
template <int N> inline void wgmma_settle(float (*)[4]) {}
template <int STEPS> inline void wgmma_settle(uint32_t (*)[4]) {}
template <int N, bool A_ALONG_K, bool B_ALONG_K>
inline void wgmma(float (*d)[4], uint64_t a, uint64_t b, int accumulate, EMU_SITE) {
    emu::Wgmma w = {d[0], nullptr, a, b, N, accumulate, A_ALONG_K, B_ALONG_K};
    emu::wgmma_issue(&w, site);
}
template <int N, bool B_ALONG_K>
inline void wgmma_registers(float (*d)[4], const uint32_t *a, uint64_t b, int accumulate, EMU_SITE) {
    emu::Wgmma w = {d[0], a, 0, b, N, accumulate, 1, B_ALONG_K};
    emu::wgmma_issue(&w, site);
}
template <int COUNT> inline void registers_release(EMU_SITE) { emu::registers_set(COUNT, site); }
template <int COUNT> inline void registers_take(EMU_SITE) { emu::registers_set(COUNT, site); }

#endif
