/* check_hooks.cpp - what code compiled with -fsanitize=thread calls at every access of memory that others could see.
 * The compiler's own run-time library is not linked: here the threads are a GPU's. */
#include "tests/emulator/check.h"

using namespace emu;

namespace {

/* Most accesses are to the thread's own stack, or come from the host. */
inline void look(const void *p, size_t bytes, Access what, const void *pc) {
    if (!current || (size_t)(static_cast<const char *>(p) - fiber_stack_low) < STACK_BYTES) return;
    check_access_at(p, bytes, what, pc);
}

/* A GPU takes 2, 4, 8 and 16 bytes at multiples of their size only. */
inline void look_aligned(const void *p, size_t bytes, Access what, const void *pc) {
    if (current && reinterpret_cast<uintptr_t>(p) % bytes) check_misaligned(p, bytes, what, pc);
    look(p, bytes, what, pc);
}

} // namespace

#define PC __builtin_return_address(0)
#define HOOKS(n)                                                                                                       \
    void __tsan_read##n(void *p) { look_aligned(p, n, READ, PC); }                                                     \
    void __tsan_write##n(void *p) { look_aligned(p, n, WRITE, PC); }                                                   \
    void __tsan_unaligned_read##n(void *p) { look(p, n, READ, PC); }                                                   \
    void __tsan_unaligned_write##n(void *p) { look(p, n, WRITE, PC); }

extern "C" {
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)
void __tsan_read_range(void *p, unsigned long n) { look(p, n, READ, PC); }
void __tsan_write_range(void *p, unsigned long n) { look(p, n, WRITE, PC); }
void __tsan_vptr_update(void **, void *) {}
void __tsan_func_entry(void *) {}
void __tsan_func_exit() {}
/* The guards of host code's static variables. */
unsigned char __tsan_atomic8_load(const volatile unsigned char *p, int order) { return __atomic_load_n(p, order); }
void __tsan_init() { checking = true; }
}
