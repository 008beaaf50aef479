/* scheduler.cpp - who runs next.
 *
 * Each warp keeps the lanes that can run as bits, so that picking one looks at a few words only.  A fiber runs fresh
 * threads one after another until one of them parks; that thread keeps the fiber, and the next fresh thread gets
 * another: a kernel that never waits costs no switch. */
#include "tests/emulator/check.h"
#include "tests/emulator/machine.h"

namespace emu {

Thread *current;
Machine machine;

namespace {

Machine &m = machine;

unsigned random_bit(uint32_t bits) {
    unsigned turn = m.random.next() & 31;
    uint32_t turned = turn ? bits >> turn | bits << (32 - turn) : bits;
    return ((unsigned)__builtin_ctz(turned) + turn) & 31;
}

unsigned lowest(uint32_t bits) { return (unsigned)__builtin_ctz(bits); }
unsigned highest(uint32_t bits) { return 31u - (unsigned)__builtin_clz(bits); }

unsigned pick_warp() {
    unsigned here = current ? current->linear / WARP : 0;
    bool stay = current && m.runnable >> here & 1;
    switch (m.schedule) {
    case SCHEDULE_FORWARD: {
        uint32_t above = m.runnable & ~((2u << here) - 1);
        return stay ? here : lowest(above ? above : m.runnable);
    }
    case SCHEDULE_REVERSE: {
        uint32_t below = m.runnable & ((1u << here) - 1);
        return stay ? here : highest(below ? below : m.runnable);
    }
    case SCHEDULE_RANDOM: return random_bit(m.runnable);
    case SCHEDULE_PRIORITY: break;
    }
    /* Now and then the running warp gets another place, so that a race between any two barriers has its turn. */
    if (current && m.random.next() % 256 == 0) warp_of(current).priority = m.random.next() >> 8;
    unsigned best = lowest(m.runnable);
    for (uint32_t rest = m.runnable; rest; rest &= rest - 1)
        if (m.warps[lowest(rest)].priority > m.warps[best].priority) best = lowest(rest);
    return best;
}

void task_exit(Task *t) {
    copies_land(t, ~0u);
    t->state = EXITED;
    Warp &warp = warp_of(t);
    warp.exited |= bit_of(t);
    BlockState &b = block_of(t);
    m.live--;
    b.live--;
    b.exited++;
    for (unsigned i = 0; i < warp.n_meetings; i++)
        if (warp.meetings[i].mask & bit_of(t))
            fault(warp.meetings[i].site, "%s names lane %u (mask %08x), which has left the kernel",
                  warp.meetings[i].op->name, t->linear % WARP, warp.meetings[i].mask);
    if (b.barriers[0].arrived)
        fault(b.barriers[0].site, "__syncthreads() waits for thread %u, which has left the kernel",
              t->linear - b.rank * m.block_threads);
    if (warp.exited == warp.lanes) cluster_left();
    if (!b.live) hopper_exit(b);
}

} // namespace

/* The next thread to run, taken out of the sets; NULL = none can. */
Task *pick() {
    if (bulk_pending) {
        bulk_progress();
        while (!m.runnable && bulk_land_one()) {}
    }
    if (!m.runnable) return nullptr;
    unsigned w = pick_warp();
    Warp &warp = m.warps[w];
    uint32_t lanes = warp.fresh | warp.ready;
    unsigned lane = m.schedule == SCHEDULE_RANDOM ? random_bit(lanes)
                    : m.lanes_descending          ? highest(lanes)
                                                  : lowest(lanes);
    warp.fresh &= ~(1u << lane);
    warp.ready &= ~(1u << lane);
    if (!(warp.fresh | warp.ready)) m.runnable &= ~(1u << w);
    return &m.tasks[w * WARP + lane];
}

__attribute__((noinline)) void park() {
    Task *self = task(), *next = pick();
    if (!next) deadlock();
    if (next != self) {
        Fiber *to = next->state == FRESH ? fiber_get() : next->fiber;
        if (next->state != FRESH) next->state = RUNNING;
        current = next;
        fiber_switch(to);
        current = self;
    }
    self->state = RUNNING;
}

void wake(Task *t) {
    t->state = READY;
    warp_of(t).ready |= bit_of(t);
    m.runnable |= 1u << t->linear / WARP;
}

void yield() {
    if (m.schedule < SCHEDULE_RANDOM) return;
    wake(task());
    park();
}

void fiber_entry() {
    for (;;) {
        Task *t = task();
        t->fiber = fiber_running();
        t->state = RUNNING;
        m.launch->run(m.launch->args);
        task_exit(t);
        Task *next = pick();
        if (!next && m.live) deadlock();
        if (next && next->state == FRESH) {
            current = next;
            continue;
        }
        fiber_put(fiber_running());
        if (!next) {
            fiber_return();
            continue;
        }
        next->state = RUNNING;
        current = next;
        fiber_switch(next->fiber);
    }
}

} // namespace emu
