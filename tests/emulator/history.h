/* history.h - between the files of the checker: who touched what, and when. */
#ifndef EHR_TESTS_EMULATOR_HISTORY_H
#define EHR_TESTS_EMULATOR_HISTORY_H
#include "tests/emulator/check.h"

#include <algorithm>

namespace emu {

/* An access in 32 bits, from the lowest: which of 4 bytes (4 bits), special (ATOMIC or of a whole warp), the thread's number
 * in the block (10), its time (17).  0 = none. */
typedef uint32_t Record;
constexpr unsigned TIME_MAX = (1u << 17) - 2;
inline unsigned record_bytes(Record r) { return r & 15; }
inline bool record_special(Record r) { return r >> 4 & 1; }
inline unsigned record_thread(Record r) { return r >> 5 & 1023; }
inline unsigned record_warp(Record r) { return r >> 10 & 31; }
inline unsigned record_time(Record r) { return r >> 15; }
inline Record record_of(const Task *t, unsigned bytes, Access what) {
    return t->time << 15 | t->linear << 5 | (unsigned)(what == ATOMIC || what == WARP_READ || what == ASYNC_READ) << 4 | bytes;
}
inline bool same_warp_and_time(Record a, Record b) { return !((a ^ b) >> 10); }

/* Could r, of this block, have happened at the same time as an access of t to these bytes? */
inline bool unordered(Record r, const Task *t, unsigned bytes) {
    if (!(r & bytes) || record_thread(r) == t->linear) return false;
    unsigned w = t->linear / WARP, v = record_warp(r);
    return record_time(r) >= (v == w ? t->time : machine.warps[w].known[v]);
}
/* Of a write before: two atomics do not disturb each other. */
inline bool unordered_write(Record r, const Task *t, unsigned bytes, Access what) {
    return unordered(r, t, bytes) && !(record_special(r) && what == ATOMIC);
}
/* Of a read before, against a write: what a warp read as one instruction all of its lanes have read. */
inline bool unordered_read(Record r, const Task *t, unsigned bytes) {
    return unordered(r, t, bytes) && !(record_special(r) && record_warp(r) == t->linear / WARP);
}

extern uint32_t phase;  /* of the block, between two __syncthreads; never the same again */
void history_restart(); /* forgets what came before: nothing more can be said about it */

/* Which of a cell's four bytes belong to p[0..bytes), and on to the next cell; offset: of p from cell 0. */
template <class F> inline void each_cell(const char *p, size_t offset, size_t bytes, F f) {
    size_t in = offset & 3;
    if (in + bytes <= 4) {
        f(offset / 4, p, ((1u << bytes) - 1) << in);
        return;
    }
    while (bytes) {
        size_t n = std::min(bytes, 4 - in);
        f(offset / 4, p, ((1u << n) - 1) << in);
        p += n;
        offset += n;
        bytes -= n;
        in = 0;
    }
}

/* ---- check_report.cpp -------------------------------------------------------------------------------------------- */
/* A place in the source in 32 bits: of an instruction, or of an operation that the emulator carries out. */
extern const char *image_low, *image_high; /* where the program lies */
inline uint32_t place_of(const void *pc) { return (uint32_t)(static_cast<const char *>(pc) - image_low); }
uint32_t place_of(Site site);
std::string place_name(uint32_t place);
std::string thread_name(unsigned linear);
std::string memory_name(const char *p);
/* t does `what` to p; another did `before` to it. */
[[noreturn, gnu::cold]] void race(const char *p, const Task *t, Access what, uint32_t place, const std::string &other,
                                  Access before, uint32_t before_place);
[[noreturn, gnu::cold]] void bad_access(const Task *t, const void *p, size_t bytes, Access what, uint32_t place,
                                        const std::string &why);

/* ---- check_shared.cpp -------------------------------------------------------------------------------------------- */
void shared_launch(const KernelSymbols &symbols);
void shared_block();
/* true = p is in shared memory, which must be b's, and looked at. */
bool shared_access(const Task *t, const Block &b, const char *p, size_t bytes, Access what, uint32_t place);
std::string shared_name(const char *p); /* empty = not there */

/* ---- check_global.cpp -------------------------------------------------------------------------------------------- */
void global_launch(int device);
void global_block();
bool global_access(const Task *t, const char *p, size_t bytes, Access what, uint32_t place);

} // namespace emu
#endif
