/* emulator.h - what the parts of the emulator share, and what a test may set and ask.  Plain C, so that tests in C can
 * include it.
 *
 * Settings come from the environment, EHR_EMULATE="key=value,key=value":
 *   schedule=forward|reverse|random[:SEED]|priority[:SEED]   the order of threads, blocks, streams and async copies
 *   devices=N            GPUs there are (1)             cc=80      their compute capability (80)
 *   sms=N                multiprocessors of each (4)
 *   memory=BYTES[K|M|G]  memory of each (1G)            driver=ok|old|none */
#ifndef EHR_TESTS_EMULATOR_EMULATOR_H
#define EHR_TESTS_EMULATOR_EMULATOR_H
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum { SCHEDULE_FORWARD, SCHEDULE_REVERSE, SCHEDULE_RANDOM, SCHEDULE_PRIORITY } EmuSchedule;
typedef enum { DRIVER_OK, DRIVER_OLD, DRIVER_NONE } EmuDriver;

typedef struct {
    EmuSchedule schedule;
    uint64_t seed;
    int devices, compute_capability, sm_count;
    EmuDriver driver;
    size_t memory;
} EmuConfig;

EmuConfig *emu_config(void); /* filled from the environment on first use */
void emu_set_schedule(EmuSchedule schedule, uint64_t seed);

/* For tests of what depends on the card: multiprocessors of GPUs opened from now on (also sms=N).  Of the last kernel
 * queued, which of several an operation chose: blocks in x, threads and bytes of dynamic shared memory a block. */
void emu_set_multiprocessors(int count);
void emu_last_launch(unsigned *blocks, unsigned *threads, size_t *shared);
unsigned emu_last_cluster(void); /* and blocks a cluster */
/* Kernels and graphs that the host has launched so far. */
uint64_t emu_launches(void);

/* Since the last call: multiply-adds of the tensor cores in bf16, and bytes that the copy engine brought into shared
 * memory. */
void emu_take_work(uint64_t *products, uint64_t *copied);

/* What went wrong so far (kernel faults, misuse of the runtime), counted; the last one in words.  A process in which
 * something was found and not taken by emu_take_faults() ends with exit code 3.  Taking them mends the
 * GPU, whose error otherwise stays for good. */
int emu_take_faults(char *text, size_t text_size);

/* 1 = the kernels of this program were compiled so that every access of theirs is checked (check.h). */
int emu_checks_accesses(void);

/* Queues work(data) on a cudaStream_t like a kernel of its own: it runs in the stream's order, may touch GPU memory,
 * and may not call the runtime.  It returns 0 when it is done, EMU_AGAIN when other processes have to go on first (then
 * it is called again, and other streams run meanwhile), anything else to make it the GPU's error.  For stand-ins of
 * other libraries.  0 = queued. */
enum { EMU_AGAIN = 1 };
int emu_enqueue(void *stream, int (*work)(void *data), void *data);

#ifdef __cplusplus
}
#endif
#endif
