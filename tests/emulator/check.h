/* check.h - looks at every access of kernels that were compiled with -fsanitize=thread (whose hooks are
 * check_hooks.cpp): is the address the kernel's to touch, and can another thread of the grid have touched it at the
 * same time?
 *
 * Threads of one block are ordered by __syncthreads, named barriers and __syncwarp, and by nothing else: shuffles,
 * votes and mma order no memory.  A thread's time counts the synchronisations it has passed.  An access of warp v at
 * time t comes before one of warp w if t < known[w][v], what w learnt of v in barriers; inside a warp if t is before
 * the time of the other thread.  After __syncthreads everything is ordered and history starts anew; an mbarrier orders like a named barrier.  Threads of two
 * blocks are ordered by a fence and an atomic of one that the other's atomic finds, and by nothing else.
 *
 * History is kept for every 4 bytes: the last write and two reads in shared memory (check_shared.cpp), one write and
 * one read in global memory (check_global.cpp).  So a race can be missed (several readers), but what is reported is
 * one. */
#ifndef EHR_TESTS_EMULATOR_CHECK_H
#define EHR_TESTS_EMULATOR_CHECK_H
#include "tests/emulator/machine.h"

namespace emu {

/* WARP_READ: one instruction of all lanes, ldmatrix; ASYNC_READ: so, and past the way that stores take, wgmma. */
enum Access { READ, WARP_READ, ASYNC_READ, WRITE, ATOMIC };
inline bool is_read(Access what) { return what <= ASYNC_READ; }

extern bool checking; /* some kernels of this program have the hooks */

void check_launch(const KernelSymbols &symbols);
void check_block();
void check_warp_sync(Warp &warp, uint32_t mask);
void check_barrier(Barrier &b, int id, bool wait); /* wait: of the thread that completes it */
void check_copy_starts(Task *t, void *shared, unsigned bytes, Site site);
void check_copy_ends(Task *t, const AsyncCopy &copy);
/* Of a bulk copy, whose bytes are there for those who know what task t did at `time`. */
void check_bulk_starts(Task *t, const Block &to, void *shared, unsigned bytes, Site site);
void check_bulk_ends(Task *t, unsigned time, const Block &to, void *shared, unsigned bytes, Site site);
void check_time(const Task *t); /* after it grew */
void check_freed(int device, size_t offset, size_t bytes); /* in the GPU's memory */
void check_stopped(); /* a fault left copies under way */
/* An access by instructions that the emulator carries out itself. */
void check_access(Task *t, const void *p, unsigned bytes, Access what, Site site);
/* The same, in the shared memory of block b of its cluster. */
void check_cluster_access(Task *t, const Block &b, const void *p, unsigned bytes, Access what, Site site);
/* By compiled code of the running thread, at pc. */
void check_access_at(const void *p, size_t bytes, Access what, const void *pc);
[[noreturn]] void check_misaligned(const void *p, size_t bytes, Access what, const void *pc);

} // namespace emu
#endif
