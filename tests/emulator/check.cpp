/* check.cpp - time and order; and which kind of memory an address is in. */
#include "tests/emulator/history.h"
#include "tests/emulator/runtime.h"

#include <cstring>

namespace emu {

bool checking;
uint32_t phase = 1;

namespace {

Machine &m = machine;

void access_at(const Task *t, const void *where, size_t bytes, Access what, uint32_t place) {
    auto *p = static_cast<const char *>(where);
    if (shared_access(t, *t->block, p, bytes, what, place)) return;
    if (what == WARP_READ || what == ASYNC_READ)
        bad_access(t, p, bytes, what, place, "this instruction reads shared memory only");
    if (global_access(t, p, bytes, what, place)) return;
    if (p >= image_low && p < image_high) return; /* constants, and the emulator's own threadIdx and so on */
    auto *args = static_cast<const char *>(m.launch->args);
    if (p >= args && p < args + m.launch->args_bytes && what == READ) return;
    if (memory_find(p, bytes)) return; /* page-locked */
    bad_access(t, p, bytes, what, place, "that is no memory of the GPU");
}

} // namespace

void history_restart() {
    phase++;
    for (unsigned i = 0; i < m.threads; i++) m.tasks[i].time = 1;
    for (unsigned w = 0; w < m.n_warps; w++) memset(m.warps[w].known, 0, sizeof m.warps[w].known);
    for (unsigned r = 0; r < m.n_blocks; r++)
        for (Barrier &b : m.blocks[r].barriers) memset(b.time, 0, sizeof b.time);
    mbarrier_history_restart();
    cluster_history_restart();
}

void check_launch(const KernelSymbols &symbols) {
    if (!checking) return;
    shared_launch(symbols);
    global_launch(m.launch->device);
}

void check_block() {
    if (!checking) return;
    history_restart();
    global_block();
    shared_block();
}

void check_warp_sync(Warp &warp, uint32_t mask) {
    if (!checking) return;
    Task *lanes = &m.tasks[(&warp - m.warps) * WARP];
    unsigned time = 0;
    for (uint32_t rest = mask; rest; rest &= rest - 1) time = std::max(time, lanes[__builtin_ctz(rest)].time);
    for (uint32_t rest = mask; rest; rest &= rest - 1) lanes[__builtin_ctz(rest)].time = time + 1;
    if (time + 2 >= TIME_MAX) history_restart();
}

/* Those who wait learn what everybody who came knows, and what those did before they came. */
void check_barrier(Barrier &b, int id, bool wait) {
    if (!checking) return;
    unsigned latest = 0, joined[WARPS_MAX] = {};
    for (unsigned w = 0; w < m.n_warps; w++) {
        if (!b.from[w]) continue;
        latest = std::max(latest, b.time[w]);
        for (unsigned v = 0; v < m.n_warps; v++) joined[v] = std::max(joined[v], m.warps[w].known[v]);
        joined[w] = std::max(joined[w], b.time[w] + 1);
    }
    if (!id && m.n_blocks == 1) phase++; /* it orders nothing between two blocks */
    if (latest + 2 >= TIME_MAX) return history_restart();
    for (unsigned w = 0; w < m.n_warps; w++)
        if (b.waiting[w] || (wait && current->linear / WARP == w))
            for (unsigned v = 0; v < m.n_warps; v++) m.warps[w].known[v] = std::max(m.warps[w].known[v], joined[v]);
}

void check_time(const Task *t) {
    if (checking && t->time + 2 >= TIME_MAX) history_restart();
}

void check_access(Task *t, const void *p, unsigned bytes, Access what, Site site) {
    if (checking) access_at(t, p, bytes, what, place_of(site));
}

void check_cluster_access(Task *t, const Block &b, const void *p, unsigned bytes, Access what, Site site) {
    if (checking) shared_access(t, b, static_cast<const char *>(p), bytes, what, place_of(site));
}

void check_access_at(const void *p, size_t bytes, Access what, const void *pc) {
    access_at(task(), p, bytes, what, place_of(pc));
}

void check_misaligned(const void *p, size_t bytes, Access what, const void *pc) {
    bad_access(task(), p, bytes, what, place_of(pc), "the address is no multiple of " + std::to_string(bytes));
}

} // namespace emu

int emu_checks_accesses(void) { return emu::checking; }
