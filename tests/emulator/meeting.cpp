/* meeting.cpp - where threads meet: warp operations, barriers; and copies that go on behind a thread's back. */
#include "tests/emulator/check.h"
#include "tests/emulator/machine.h"

#include <cstring>

namespace emu {

namespace {

Machine &m = machine;

/* The meeting that this lane is missing from, or a new one; NULL = the lane is alone.  Lanes may wait in different
 * operations at once, as long as they do not wait for each other. */
Meeting *meeting_for(Warp &warp, const WarpOp *op, uint32_t mask, Site site) {
    for (unsigned i = 0; i < warp.n_meetings; i++) {
        Meeting &o = warp.meetings[i];
        if (o.mask == mask && o.op == op) return &o;
        if ((o.mask & bit_of(current)) && (o.arrived & mask))
            fault(site, "lane %u calls %s with mask %08x while lanes %08x wait in %s with mask %08x, %s:%d",
                  current->linear % WARP, op->name, mask, o.arrived, o.op->name, o.mask, o.site.file, o.site.line);
    }
    if (mask == bit_of(current)) return nullptr;
    Meeting *o = &warp.meetings[warp.n_meetings++]; /* there are as many as lanes, and each waits in one */
    o->op = op;
    o->mask = mask;
    o->arrived = 0;
    o->site = site;
    return o;
}

void barrier_complete(BlockState &block, int id, bool wait, Site site) {
    Barrier &b = block.barriers[id];
    if (id)
        for (unsigned w = 0; w < m.n_warps; w++)
            if (b.from[w] && b.from[w] != m.warps[w].lanes)
                fault(site, "barrier %d: lanes %08x of warp %u came without the rest of their warp", id, b.from[w], w);
    check_barrier(b, id, wait);
    for (unsigned w = 0; w < m.n_warps; w++) {
        for (uint32_t rest = b.waiting[w]; rest; rest &= rest - 1) wake(&m.tasks[w * WARP + __builtin_ctz(rest)]);
        b.from[w] = b.waiting[w] = 0;
        b.time[w] = 0;
    }
    if (!id) block.vote = {b.votes, b.expected};
    b.arrived = b.expected = b.votes = 0;
}

void barrier_check(const BlockState &block, int id, unsigned threads, const char *name, Site site) {
    const Barrier &b = block.barriers[id];
    if (!id) {
        if (block.exited) fault(site, "%s waits for %u threads, which have left the kernel", name, block.exited);
        if (b.arrived && (b.site.line != site.line || strcmp(b.site.file, site.file)))
            fault(site, "%s in divergent code: other threads wait in the one at %s:%d", name, b.site.file, b.site.line);
    } else if (!threads || threads % WARP || threads > m.block_warps * WARP) {
        fault(site, "barrier %d among %u threads: must be a multiple of 32, and at most the block's %u", id, threads,
              m.block_threads);
    }
    if (b.arrived && b.expected != threads)
        fault(site, "barrier %d among %u threads, but others (%s:%d) say %u", id, threads, b.site.file, b.site.line,
              b.expected);
    if (b.from[current->linear / WARP] & bit_of(current))
        fault(site, "barrier %d: this thread comes twice before the barrier is complete", id);
}

void barrier_arrival(int id, unsigned threads, bool wait, bool vote, const char *name, Site site) {
    if (id < 0 || id >= BARRIERS) fault(site, "barrier %d: there are barriers 0 to 15", id);
    Task *t = task();
    BlockState &block = block_of(t);
    Barrier &b = block.barriers[id];
    unsigned w = t->linear / WARP;
    if (!id) threads = m.block_threads;
    barrier_check(block, id, threads, name, site);
    b.expected = threads;
    b.site = site;
    b.from[w] |= bit_of(t);
    b.votes += vote;
    if (t->time > b.time[w]) b.time[w] = t->time;
    t->time++;
    if (++b.arrived == threads) {
        barrier_complete(block, id, wait, site);
        yield();
    } else if (!wait) {
        yield();
    } else {
        b.waiting[w] |= bit_of(t);
        t->state = IN_BARRIER;
        t->barrier = id;
        t->site = site;
        t->waiting_for = name;
        park();
    }
}

} // namespace

void warp_meet(const WarpOp *op, uint32_t mask, void *arg, Site site) {
    Task *t = task();
    Warp &warp = warp_of(t);
    uint32_t me = bit_of(t), absent = mask & (warp.exited | ~warp.lanes);
    unsigned lane = t->linear % WARP;
    if (!(mask & me)) fault(site, "%s is called by lane %u, which is not in its mask %08x", op->name, lane, mask);
    if (absent)
        fault(site, "%s names lanes %08x (mask %08x), which %s", op->name, absent, mask,
              absent & ~warp.lanes ? "the block does not have" : "have left the kernel");
    Meeting *o = meeting_for(warp, op, mask, site);
    if (!o) {
        void *args[WARP];
        args[lane] = arg;
        if (op->run) op->run(args, mask, site);
        return;
    }
    o->arrived |= me;
    o->args[lane] = arg;
    if (o->arrived != mask) {
        t->state = IN_WARP_OP;
        t->site = site;
        t->waiting_for = op->name;
        park();
        return;
    }
    if (op->run) op->run(o->args, mask, site);
    if (op->orders_memory) check_warp_sync(warp, mask);
    *o = warp.meetings[--warp.n_meetings];
    uint32_t others = mask & ~me;
    warp.ready |= others;
    m.runnable |= 1u << t->linear / WARP;
    for (Task *first = t - lane; others; others &= others - 1) first[__builtin_ctz(others)].state = READY;
    yield();
}

void barrier_meet(int id, unsigned threads, bool wait, Site site) {
    barrier_arrival(id, threads, wait, false, id ? "a named barrier" : "__syncthreads()", site);
}

Vote barrier_vote(bool predicate, Site site) {
    /* Nobody can complete the next vote before all have left this one, so the result may lie in one place. */
    barrier_arrival(0, 0, true, predicate, "a __syncthreads() vote", site);
    return block_of(current).vote;
}

/* ---- asynchronous copies ------------------------------------------------------------------------------------- */
/* A copy arrives at once or as late as it may; one that is late leaves NaN in its place, so that whoever reads early,
 * or still reads what was there before, is found out. */
void async_copy(void *shared, const void *global, unsigned bytes, bool valid, Site site) {
    Task *t = task();
    if (reinterpret_cast<uintptr_t>(shared) % bytes || reinterpret_cast<uintptr_t>(global) % bytes)
        fault(site, "cp.async of %u bytes from %p to %p: addresses are not multiples of %u", bytes, global, shared,
              bytes);
    if (valid) check_access(t, global, bytes, READ, site);
    check_copy_starts(t, shared, bytes, site);
    AsyncCopy c;
    c.shared = static_cast<unsigned char *>(shared);
    c.size = bytes;
    c.group = t->groups;
    c.site = site;
    memset(c.bytes, 0, sizeof c.bytes);
    if (valid) memcpy(c.bytes, global, bytes);
    c.arrived = m.schedule == SCHEDULE_REVERSE || (m.schedule != SCHEDULE_FORWARD && m.random.next() % 2);
    if (c.arrived) memcpy(shared, c.bytes, bytes);
    else memset(shared, 0xFF, bytes);
    t->copies.push_back(c);
}

void async_commit() { task()->groups++; }

void async_wait(unsigned pending) {
    Task *t = task();
    if (!t->copies.empty() && t->groups > pending) copies_land(t, t->groups - pending);
}

void copies_land(Task *t, unsigned groups) {
    size_t n = 0;
    for (AsyncCopy &c : t->copies) {
        if (c.group < groups) {
            if (!c.arrived) memcpy(c.shared, c.bytes, c.size);
            check_copy_ends(t, c);
        } else {
            t->copies[n++] = c;
        }
    }
    t->copies.resize(n);
}

} // namespace emu
