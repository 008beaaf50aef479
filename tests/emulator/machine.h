/* machine.h - the state of the block or cluster that runs, shared by fiber.cpp (stacks), scheduler.cpp (who runs next),
 * meeting.cpp (warp operations, barriers, async copies), cluster.cpp (barriers of clusters), grid.cpp (blocks, faults)
 * and check.cpp (races). */
#ifndef EHR_TESTS_EMULATOR_MACHINE_H
#define EHR_TESTS_EMULATOR_MACHINE_H
#include "tests/emulator/scheduler.h"

#include <memory>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#define ASAN_UNPOISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#endif

namespace emu {

enum State : uint8_t { FRESH, READY, RUNNING, IN_BARRIER, IN_WARP_OP, EXITED };
constexpr size_t STACK_BYTES = 256 << 10, GUARD_BYTES = 4096;
/* From the dynamic shared memory of one block of a cluster to the next one's; what lies behind a block's is nobody's.
 */
constexpr size_t SHARED_BUFFER = SHARED_MAX + 1024;

struct Fiber;

struct AsyncCopy {
    unsigned char *shared;
    unsigned char bytes[16];
    unsigned size, group;
    bool arrived; /* in shared memory already, though nobody may know */
    Site site;
};

struct Task : Thread {
    Fiber *fiber;
    State state;
    int barrier;
    Site site;
    const char *waiting_for;
    std::vector<AsyncCopy> copies; /* that were not waited for, oldest first */
    unsigned groups;               /* committed so far */
    unsigned time;                 /* synchronisations this thread has passed, see check.h */
    unsigned proxy_fences;         /* passed so far: between its stores and asynchronous reads of them */
};

/* A warp operation that not all lanes of its mask have reached. */
struct Meeting {
    const WarpOp *op;
    uint32_t mask, arrived;
    Site site;
    void *args[WARP];
};

struct Warp {
    uint32_t lanes, fresh, ready, exited; /* bits; fresh: never started, ready: parked and woken */
    unsigned n_meetings, priority;
    Meeting meetings[WARP];
    unsigned known[WARPS_MAX]; /* of each warp: accesses before this time of its come before ours */
};

struct Barrier {
    unsigned expected, arrived, votes;
    uint32_t from[WARPS_MAX], waiting[WARPS_MAX];
    unsigned time[WARPS_MAX]; /* of arrival */
    Site site;
};

struct BlockState : Block {
    Barrier barriers[BARRIERS];
    Vote vote; /* of the last __syncthreads */
    unsigned live, exited;
};

/* Of the blocks that run, one or a cluster's: their threads and warps one after another. */
struct Machine {
    Task tasks[THREADS_MAX];
    Warp warps[WARPS_MAX];
    BlockState blocks[CLUSTER_MAX];
    unsigned n_blocks, threads, n_warps, live; /* of all blocks */
    unsigned block_threads, block_warps;       /* of one */
    uint32_t runnable;                         /* warps with fresh or ready lanes */
    Random random;
    EmuSchedule schedule;
    bool lanes_descending, faulted;
    const Launch *launch;
    cudaError_t error; /* of the fault */
};
extern Machine machine;

inline Task *task() { return static_cast<Task *>(current); }
inline BlockState &block_of(const Thread *t) { return machine.blocks[t->block->rank]; }
inline bool in_block(unsigned warp, const Block &b) { return warp / machine.block_warps == b.rank; }
inline Warp &warp_of(const Thread *t) { return machine.warps[t->linear / WARP]; }
inline uint32_t bit_of(const Thread *t) { return 1u << t->linear % WARP; }

/* ---- fiber.cpp ----------------------------------------------------------------------------------------------- */
Fiber *fiber_get();
void fiber_put(Fiber *f);
Fiber *fiber_running();
const char *fiber_stack(const Fiber *f);        /* lowest address; STACK_BYTES long, GUARD_BYTES before it fault */
void fiber_switch(Fiber *to);                   /* from the running one */
void fiber_main(void (*entry)(), Fiber *first); /* runs fibers, each starting with entry(), until one calls: */
void fiber_return();                /* from the running fiber, which is free again or abandoned, to fiber_main */
void fibers_reset();                /* all fibers are free and start anew */
extern const char *fiber_stack_low; /* of the running fiber */

/* ---- scheduler.cpp ------------------------------------------------------------------------------------------- */
void fiber_entry();
Task *pick();
void park(); /* the current thread cannot go on: runs others until somebody has woken it */
void wake(Task *t);
void yield(); /* in the schedules that are not simple, others may run before the current thread goes on */

/* ---- meeting.cpp --------------------------------------------------------------------------------------------- */
void copies_land(Task *t, unsigned groups); /* those of groups before this number */

/* ---- mbarrier.cpp, wgmma.cpp --------------------------------------------------------------------------------- */
extern unsigned bulk_pending; /* bulk copies, and arrivals at other blocks' mbarriers, under way */
struct Tally {
    uint64_t products, copied;
};
extern Tally tally; /* done so far: emu_take_work() */
void bulk_progress();
bool bulk_land_one(); /* false = there is none */
/* Arrivals at other blocks' mbarriers that these warps, as bits, had on the way at these times are there. */
void arrivals_land(uint32_t warps, const unsigned *time);
void hopper_needed(const char *name, Site site);
void hopper_block();
void hopper_exit(const Block &b); /* its last thread leaves */
void wgmma_block();
void wgmma_exit(const Block &b);
void mbarrier_history_restart();
/* Whose bulk copy into the word at p is under way; false = nobody's. */
bool bulk_into(const char *p, unsigned *by, Site *site);

/* ---- cluster.cpp ------------------------------------------------------------------------------------------------- */
void cluster_begin();
void cluster_left(); /* a warp has left the kernel */
const Block &cluster_block(unsigned rank, Site site);
void cluster_touches(const Task *t, const Block &b, Site site); /* t changes b's shared memory */
void cluster_exit(const Block &b);                              /* its last thread leaves */
void cluster_history_restart();

/* ---- grid.cpp ------------------------------------------------------------------------------------------------ */
std::string heading(); /* operation, kernel and block, of the current thread */
std::string coordinates(const uint3 &index);
[[noreturn]] void stop_with(const std::string &text, cudaError_t error = cudaErrorLaunchFailure);
[[noreturn]] void deadlock();

} // namespace emu
#endif
