/* block.h - what kernel code sees of the emulator: the thread it runs as, its block, and the two ways of meeting other
 * threads.  Implemented by scheduler.cpp.
 *
 * Every CUDA thread of a block is a fiber, started when it is first picked, so that a kernel that never waits costs no
 * switch.  A barrier or a warp operation parks the calling thread; the last thread to arrive does the work of a warp
 * operation for all of its lanes.  Blocks of a grid run one after another on one CPU thread, those of a cluster
 * together: their threads take turns. */
#ifndef EHR_TESTS_EMULATOR_BLOCK_H
#define EHR_TESTS_EMULATOR_BLOCK_H
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace emu {

enum { WARP = 32, THREADS_MAX = 1024, WARPS_MAX = THREADS_MAX / WARP, BARRIERS = 16, SHARED_MAX = 232448 };
enum { CLUSTER_MAX = 8 }; /* blocks of a cluster, of at most THREADS_MAX threads together */

/* Where in the kernel's source a thread is: default arguments of the built-in functions take it from their caller. */
struct Site {
    const char *file;
    int line;
};
#define EMU_SITE emu::Site site = {__builtin_FILE(), __builtin_LINE()}

struct Block {
    uint3 index;
    dim3 size, grid;
    unsigned char *shared; /* dynamic shared memory */
    unsigned rank;         /* in its cluster */
};

struct Thread {
    uint3 index;
    unsigned linear; /* in its cluster: a block's threads follow those of the one before */
    const Block *block;
};

extern Thread *current; /* the running thread */

/* Stops the kernel and makes it the device's error, with kernel, block, thread and place. */
[[noreturn]] __attribute__((format(printf, 2, 3))) void fault(Site site, const char *format, ...);

/* A warp operation: every lane of mask calls it with the same operation and its own operands; the last one to arrive
 * runs it over all of them.  args[lane] is valid for the lanes of mask. */
struct WarpOp {
    const char *name;
    void (*run)(void **args, uint32_t mask, Site site); /* NULL: only meet */
    bool orders_memory = false;
};
void warp_meet(const WarpOp *op, uint32_t mask, void *arg, Site site);

/* Barrier 0 is __syncthreads, of the whole block; others are among `threads` threads.  wait = false: only arrive. */
void barrier_meet(int id, unsigned threads, bool wait, Site site);
struct Vote {
    unsigned count, threads;
};
Vote barrier_vote(bool predicate, Site site);

/* cp.async: n bytes that arrive in shared memory when the group is waited for, or earlier, as the schedule likes. */
void async_copy(void *shared, const void *global, unsigned bytes, bool valid, Site site);
void async_commit();
void async_wait(unsigned pending);

/* Tells the checker of an atomic operation, and of __threadfence(). */
void atomic_access(const void *p, unsigned bytes, Site site);
void fence();

inline unsigned lane() { return current->linear & (WARP - 1); }

/* A launch on its way into a stream: runs run(args) once a thread. */
struct Launch {
    const char *op, *kernel;
    const void *function;
    void (*run)(const void *args);
    const void *args;
    size_t args_bytes;
    const void *const *pointers; /* the pointers among the arguments, checked when it runs */
    unsigned n_pointers;
    dim3 grid, block;
    unsigned cluster; /* blocks, along x */
    size_t shared;
    int device;
};
cudaError_t submit(const Launch *launch, void (*destroy)(const void *args), cudaStream_t stream);

} // namespace emu
#endif
