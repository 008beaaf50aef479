/* atomics.h - integer atomics, for the CPU: threads are never interrupted, so plain code is atomic.  There is none for
 * float, on purpose: the order in which threads add would show in the result. */
#ifndef EHR_TESTS_EMULATOR_ATOMICS_H
#define EHR_TESTS_EMULATOR_ATOMICS_H
#include "tests/emulator/block.h"

namespace emu {

/* Not instrumented: the checker must not take it for a plain read and a plain write. */
template <class T, class F> __attribute__((noinline, no_sanitize("thread"))) T atomic_update(T *p, Site site, F next) {
    atomic_access(p, sizeof *p, site);
    T old = *p;
    *p = next(old);
    return old;
}

} // namespace emu

#define EMU_ATOMIC(name, T, expression)                                                                                \
    inline T name(T *p, T v, EMU_SITE) {                                                                               \
        return emu::atomic_update(p, site, [v](T old) { return (T)(expression); });                                    \
    }
#define EMU_ATOMICS(T)                                                                                                 \
    EMU_ATOMIC(atomicAdd, T, (unsigned long long)old + (unsigned long long)v)                                          \
    EMU_ATOMIC(atomicSub, T, (unsigned long long)old - (unsigned long long)v)                                          \
    EMU_ATOMIC(atomicMin, T, v < old ? v : old)                                                                        \
    EMU_ATOMIC(atomicMax, T, v > old ? v : old)                                                                        \
    EMU_ATOMIC(atomicAnd, T, old &v)                                                                                   \
    EMU_ATOMIC(atomicOr, T, old | v)                                                                                   \
    EMU_ATOMIC(atomicXor, T, old ^ v)                                                                                  \
    EMU_ATOMIC(atomicExch, T, ((void)old, v))                                                                          \
    inline T atomicCAS(T *p, T expected, T v, EMU_SITE) {                                                              \
        return emu::atomic_update(p, site, [=](T old) { return old == expected ? v : old; });                          \
    }
EMU_ATOMICS(int)
EMU_ATOMICS(unsigned)
EMU_ATOMICS(unsigned long long)
EMU_ATOMIC(atomicInc, unsigned, old >= v ? 0 : old + 1)
EMU_ATOMIC(atomicDec, unsigned, old == 0 || old > v ? v : old - 1)
#undef EMU_ATOMICS
#undef EMU_ATOMIC
float atomicAdd(float *, float) = delete;
double atomicAdd(double *, double) = delete;

#endif
