/* scheduler.h - between the scheduler and the runtime of the emulator. */
#ifndef EHR_TESTS_EMULATOR_SCHEDULER_H
#define EHR_TESTS_EMULATOR_SCHEDULER_H
#include "tests/emulator/block.h"
#include "tests/emulator/emulator.h"

#include <string>
#include <vector>

namespace emu {

/* Runs every block of a grid; an error = a fault stopped it, already reported. */
cudaError_t run_grid(const Launch &launch);

bool kernel_runs();
/* From a signal handler: the running thread reached for p.  Does not return. */
[[noreturn]] void kernel_address_fault(const void *p);

/* Prints and counts something that was found. */
void report(const std::string &text);

/* The error that a kernel left behind is forgotten. */
void device_mended();

/* symbols.cpp: what the executable's symbol table says of a kernel. */
struct SharedVariable {
    void *address;
    size_t size;
    std::string name;
};
struct KernelSymbols {
    std::string name; /* empty: unknown */
    std::vector<SharedVariable> shared;
    size_t shared_bytes = 0;
};
const KernelSymbols &kernel_symbols(const void *function);

/* xorshift64* */
struct Random {
    uint64_t state;
    uint32_t next() {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        return (uint32_t)(state * 0x2545F4914F6CDD1Dull >> 32);
    }
};

} // namespace emu
#endif
