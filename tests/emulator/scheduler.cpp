/* scheduler.cpp - runs the blocks of a grid: fibers, the order of threads, barriers, faults.
 *
 * Each warp keeps the lanes that can run as bits (fresh: never started, ready: parked and woken); picking the next
 * thread looks at bits only.  A fiber runs fresh threads one after another until one of them parks; that thread keeps
 * the fiber and the next fresh thread gets another. */
#include "tests/emulator/scheduler.h"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <pthread.h>
#include <sys/mman.h>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
constexpr bool ADDRESSES_ARE_CHECKED = true;
#else
constexpr bool ADDRESSES_ARE_CHECKED = false;
#define ASAN_POISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#define ASAN_UNPOISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#endif
#ifndef __x86_64__
#include <ucontext.h>
#endif

namespace emu {

Thread *current;
Block block;

namespace {

enum State : uint8_t { FRESH, READY, RUNNING, IN_BARRIER, IN_WARP_OP, EXITED };
constexpr unsigned char BEHIND = 0xBD;
constexpr size_t STACK_BYTES = 256 << 10, GUARD_BYTES = 4096;

struct Fiber {
    void *saved; /* stack pointer */
    Fiber *next_free;
    char *stack;
    size_t color;
    void *fake_stack;
#ifndef __x86_64__
    ucontext_t context;
#endif
};

struct AsyncCopy {
    unsigned char *shared;
    unsigned char bytes[16];
    unsigned size, group;
};

struct Task : Thread {
    Fiber *fiber;
    State state;
    int barrier;
    Site site;
    const char *waiting_for;
    std::vector<AsyncCopy> copies; /* under way, oldest first */
    unsigned groups;               /* committed so far */
};

struct Meeting {
    const WarpOp *op;
    uint32_t mask, arrived;
    Site site;
    void *args[WARP];
};

struct Warp {
    uint32_t lanes, fresh, ready, exited;
    unsigned n_meetings, priority;
    Meeting meetings[4];
};

struct Barrier {
    unsigned expected, arrived, votes;
    uint32_t from[WARPS_MAX], waiting[WARPS_MAX];
    Site site;
};

struct State_ {
    Task tasks[THREADS_MAX];
    Warp warps[WARPS_MAX];
    Barrier barriers[BARRIERS];
    unsigned threads, n_warps, live, exited;
    uint32_t runnable; /* warps with fresh or ready lanes */
    Random random;
    EmuSchedule schedule;
    bool lanes_descending;
    const Launch *launch;
    Fiber main, *running, *free_fibers;
    std::vector<Fiber *> fibers;
    void *main_stack; /* of the CPU thread that launches */
    size_t main_stack_bytes;
    unsigned char *shared;
    bool faulted;
    cudaError_t error; /* of the fault */
    Vote vote;
} s;

Task *task() {
    return static_cast<Task *>(current);
}
Warp &warp_of(const Thread *t) {
    return s.warps[t->linear / WARP];
}
uint32_t bit_of(const Thread *t) {
    return 1u << t->linear % WARP;
}

/* ---- fibers --------------------------------------------------------------------------------------------------------
 */
#ifdef __x86_64__
extern "C" void emu_switch(void **save, void *load);
asm(".text\n.globl emu_switch\n.hidden emu_switch\n.type emu_switch,@function\nemu_switch:\n"
    "  push %rbp\n  push %rbx\n  push %r12\n  push %r13\n  push %r14\n  push %r15\n"
    "  mov %rsp,(%rdi)\n  mov %rsi,%rsp\n"
    "  pop %r15\n  pop %r14\n  pop %r13\n  pop %r12\n  pop %rbx\n  pop %rbp\n  ret\n.size emu_switch,.-emu_switch\n");
#endif

inline void fiber_switch(Fiber *from, Fiber *to) {
    s.running = to;
#ifdef __SANITIZE_ADDRESS__
    const void *bottom = to == &s.main ? s.main_stack : to->stack;
    __sanitizer_start_switch_fiber(&from->fake_stack, bottom, to == &s.main ? s.main_stack_bytes : STACK_BYTES);
#endif
#ifdef __x86_64__
    emu_switch(&from->saved, to->saved);
#else
    swapcontext(&from->context, &to->context);
#endif
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(from->fake_stack, nullptr, nullptr);
#endif
}

void fiber_entry();

void fiber_reset(Fiber *f) {
    ASAN_UNPOISON_MEMORY_REGION(f->stack, STACK_BYTES);
    f->fake_stack = nullptr;
#ifdef __x86_64__
    /* Stacks start at different offsets, or all of them would share a few sets of the cache. */
    void **top = reinterpret_cast<void **>(f->stack + STACK_BYTES - 64 - f->color);
    *--top = nullptr;
    *--top = reinterpret_cast<void *>(fiber_entry);
    for (int i = 0; i < 6; i++) *--top = nullptr;
    f->saved = top;
#else
    getcontext(&f->context);
    f->context.uc_stack.ss_sp = f->stack;
    f->context.uc_stack.ss_size = STACK_BYTES;
    f->context.uc_link = nullptr;
    makecontext(&f->context, fiber_entry, 0);
#endif
}

Fiber *fiber_get() {
    if (Fiber *f = s.free_fibers) {
        s.free_fibers = f->next_free;
        return f;
    }
    Fiber *f = new Fiber();
    void *p = mmap(nullptr, STACK_BYTES + GUARD_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED || mprotect(p, GUARD_BYTES, PROT_NONE)) {
        fprintf(stderr, "emulator: no memory for the stack of a thread\n");
        abort();
    }
    f->stack = static_cast<char *>(p) + GUARD_BYTES;
    f->color = s.fibers.size() * 320 % 16384;
    s.fibers.push_back(f);
    fiber_reset(f);
    return f;
}

/* ---- the order of threads ------------------------------------------------------------------------------------------
 */
void mark_runnable(Task *t) {
    t->state = READY;
    warp_of(t).ready |= bit_of(t);
    s.runnable |= 1u << t->linear / WARP;
}

unsigned random_bit(uint32_t bits) {
    unsigned turn = s.random.next() & 31;
    uint32_t turned = turn ? bits >> turn | bits << (32 - turn) : bits;
    return ((unsigned)__builtin_ctz(turned) + turn) & 31;
}

unsigned pick_warp() {
    unsigned here = current ? current->linear / WARP : 0, best = 0;
    bool stay = current && s.runnable >> here & 1;
    switch (s.schedule) {
    case SCHEDULE_FORWARD: {
        if (stay) return here;
        uint32_t above = s.runnable & ~((2u << here) - 1);
        return (unsigned)__builtin_ctz(above ? above : s.runnable);
    }
    case SCHEDULE_REVERSE: {
        if (stay) return here;
        uint32_t below = s.runnable & ((1u << here) - 1);
        return 31u - (unsigned)__builtin_clz(below ? below : s.runnable);
    }
    case SCHEDULE_RANDOM: return random_bit(s.runnable);
    case SCHEDULE_PRIORITY:
        /* Now and then the leader falls behind everybody, so that a race between any two barriers has its turn. */
        if (current && s.random.next() % 256 == 0) warp_of(current).priority = s.random.next() >> 16;
        best = (unsigned)__builtin_ctz(s.runnable);
        for (uint32_t rest = s.runnable; rest; rest &= rest - 1) {
            unsigned w = (unsigned)__builtin_ctz(rest);
            if (s.warps[w].priority > s.warps[best].priority) best = w;
        }
        return best;
    }
    return 0;
}

/* The next thread to run, taken out of the sets; NULL = none can. */
Task *pick() {
    if (!s.runnable) return nullptr;
    unsigned w = pick_warp();
    Warp &warp = s.warps[w];
    uint32_t lanes = warp.fresh | warp.ready;
    unsigned lane = s.schedule == SCHEDULE_RANDOM ? random_bit(lanes)
                    : s.lanes_descending          ? 31u - (unsigned)__builtin_clz(lanes)
                                                  : (unsigned)__builtin_ctz(lanes);
    warp.fresh &= ~(1u << lane);
    warp.ready &= ~(1u << lane);
    if (!(warp.fresh | warp.ready)) s.runnable &= ~(1u << w);
    return &s.tasks[w * WARP + lane];
}

[[noreturn]] void deadlock();

/* The current thread cannot go on: runs others until somebody has woken it. */
__attribute__((noinline)) void park() {
    Task *self = task();
    Task *next = pick();
    if (!next) deadlock();
    if (next != self) {
        Fiber *from = self->fiber, *to = next->state == FRESH ? fiber_get() : next->fiber;
        next->state = next->state == FRESH ? FRESH : RUNNING;
        current = next;
        fiber_switch(from, to);
        current = self;
    }
    self->state = RUNNING;
}

/* Who completes a meeting, or only announces itself, is not always the first to go on. */
void yield() {
    if (s.schedule < SCHEDULE_RANDOM) return;
    mark_runnable(task());
    park();
}

void copies_land(Task *t, unsigned groups);

void task_exit(Task *t) {
    copies_land(t, ~0u);
    t->state = EXITED;
    Warp &warp = warp_of(t);
    warp.exited |= bit_of(t);
    s.live--;
    s.exited++;
    for (unsigned i = 0; i < warp.n_meetings; i++)
        if (warp.meetings[i].mask & bit_of(t))
            fault(warp.meetings[i].site, "%s names lane %u (mask %08x), which has left the kernel",
                  warp.meetings[i].op->name, t->linear % WARP, warp.meetings[i].mask);
    if (s.barriers[0].arrived)
        fault(s.barriers[0].site, "__syncthreads() waits for thread %u, which has left the kernel", t->linear);
}

void fiber_entry() {
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
    for (;;) {
        Task *t = task();
        Fiber *me = s.running;
        t->fiber = me;
        t->state = RUNNING;
        s.launch->run(s.launch->args);
        task_exit(task());
        Task *next = pick();
        if (!next && s.live) deadlock();
        if (next && next->state == FRESH) {
            current = next;
            continue;
        }
        me->next_free = s.free_fibers;
        s.free_fibers = me;
        if (next) {
            next->state = RUNNING;
            current = next;
        }
        fiber_switch(me, next ? next->fiber : &s.main);
    }
}

/* ---- faults --------------------------------------------------------------------------------------------------------
 */
std::string coordinates(unsigned x, unsigned y, unsigned z) {
    char text[48];
    snprintf(text, sizeof text, "(%u,%u,%u)", x, y, z);
    return text;
}

[[noreturn]] void stop_with(const std::string &text, cudaError_t error = cudaErrorLaunchFailure) {
    report(text);
    s.faulted = true;
    s.error = error;
    fiber_switch(s.running, &s.main);
    abort();
}

std::string heading() {
    const KernelSymbols &symbols = kernel_symbols(s.launch->function);
    return std::string(s.launch->op) + ": kernel " + (symbols.name.empty() ? s.launch->kernel : symbols.name) +
           ", block " + coordinates(block.index.x, block.index.y, block.index.z);
}

[[noreturn]] void deadlock() {
    static const char *const states[] = {"never started", "could run", "running",
                                         "waiting",       "waiting",   "left the kernel"};
    std::string text = heading() + ": no thread can go on";
    for (unsigned from = 0, to; from < s.threads; from = to) {
        const Task &a = s.tasks[from];
        for (to = from + 1; to < s.threads; to++) {
            const Task &b = s.tasks[to];
            bool waits = a.state == IN_BARRIER || a.state == IN_WARP_OP;
            if (a.state != b.state || (waits && (a.site.line != b.site.line || a.waiting_for != b.waiting_for))) break;
        }
        char line[400];
        int n = snprintf(line, sizeof line, "\n  threads %u-%u: %s", from, to - 1, states[a.state]);
        if (a.state == IN_BARRIER && a.barrier)
            snprintf(line + n, sizeof line - n, " in barrier %d (%u of %u have come), %s:%d", a.barrier,
                     s.barriers[a.barrier].arrived, s.barriers[a.barrier].expected, a.site.file, a.site.line);
        else if (a.state == IN_BARRIER || a.state == IN_WARP_OP)
            snprintf(line + n, sizeof line - n, " in %s, %s:%d", a.waiting_for, a.site.file, a.site.line);
        text += line;
    }
    stop_with(text);
}

/* ---- async copies --------------------------------------------------------------------------------------------------
 */
void copies_land(Task *t, unsigned groups) {
    size_t n = 0;
    for (AsyncCopy &c : t->copies) {
        if (c.group < groups)
            memcpy(c.shared, c.bytes, c.size);
        else
            t->copies[n++] = c;
    }
    t->copies.resize(n);
}

} // namespace

void fault(Site site, const char *format, ...) {
    char what[512], place[300];
    va_list list;
    va_start(list, format);
    vsnprintf(what, sizeof what, format, list);
    va_end(list);
    snprintf(place, sizeof place,
             ", thread %s, %s:%d: ", coordinates(current->index.x, current->index.y, current->index.z).c_str(),
             site.file, site.line);
    stop_with(heading() + place + what);
}

bool kernel_runs() {
    return current != nullptr;
}

void kernel_address_fault(const void *p) {
    const char *stack = s.running->stack, *c = static_cast<const char *>(p);
    char text[200];
    if (c >= stack - GUARD_BYTES && c < stack)
        snprintf(text, sizeof text, ": its local variables take more than %zu KiB of stack", STACK_BYTES >> 10);
    else
        snprintf(text, sizeof text,
                 ": reads or writes %p, which is no memory of the GPU; build with SAN=1 to see where", p);
    stop_with(heading() + ", thread " + coordinates(current->index.x, current->index.y, current->index.z) + text,
              cudaErrorIllegalAddress);
}

/* A copy arrives at once or as late as it may; one that is late leaves NaN in its place, so that whoever reads early,
 * or still reads what was there before, is found out. */
void async_copy(void *shared, const void *global, unsigned bytes, bool valid, Site site) {
    Task *t = task();
    if (reinterpret_cast<uintptr_t>(shared) % bytes || reinterpret_cast<uintptr_t>(global) % bytes)
        fault(site, "cp.async of %u bytes from %p to %p: addresses are not multiples of %u", bytes, global, shared,
              bytes);
    AsyncCopy c;
    c.shared = static_cast<unsigned char *>(shared);
    c.size = bytes;
    c.group = t->groups;
    memset(c.bytes, 0, sizeof c.bytes);
    if (valid) memcpy(c.bytes, global, bytes);
    bool early = s.schedule == SCHEDULE_REVERSE || (s.schedule != SCHEDULE_FORWARD && s.random.next() % 2);
    if (early) {
        memcpy(shared, c.bytes, bytes);
    } else {
        memset(shared, 0xFF, bytes);
        t->copies.push_back(c);
    }
}

void async_commit() {
    task()->groups++;
}

void async_wait(unsigned pending) {
    Task *t = task();
    if (!t->copies.empty() && t->groups > pending) copies_land(t, t->groups - pending);
}

/* ---- meetings ------------------------------------------------------------------------------------------------------
 */
void warp_meet(const WarpOp *op, uint32_t mask, void *arg, Site site) {
    Task *t = task();
    Warp &warp = warp_of(t);
    uint32_t me = bit_of(t);
    unsigned lane = t->linear % WARP;
    if (!(mask & me)) fault(site, "%s is called by lane %u, which is not in its mask %08x", op->name, lane, mask);
    if (mask & (warp.exited | ~warp.lanes))
        fault(site, "%s names lanes %08x (mask %08x), which %s", op->name, mask & (warp.exited | ~warp.lanes), mask,
              mask & ~warp.lanes ? "the block does not have" : "have left the kernel");
    Meeting *m = nullptr;
    for (unsigned i = 0; i < warp.n_meetings; i++) {
        Meeting &o = warp.meetings[i];
        if (!(o.mask & mask)) continue;
        if (o.mask != mask || o.op != op)
            fault(site, "lane %u calls %s with mask %08x while lanes %08x wait in %s with mask %08x, %s:%d", lane,
                  op->name, mask, o.arrived, o.op->name, o.mask, o.site.file, o.site.line);
        m = &o;
        break;
    }
    if (!m) {
        if (mask == me) {
            void *args[WARP];
            args[lane] = arg;
            if (op->run) op->run(args, mask, site);
            return;
        }
        if (warp.n_meetings == 4) fault(site, "more than 4 warp operations under way in one warp");
        m = &warp.meetings[warp.n_meetings++];
        m->op = op;
        m->mask = mask;
        m->arrived = 0;
        m->site = site;
    }
    m->arrived |= me;
    m->args[lane] = arg;
    if (m->arrived != mask) {
        t->state = IN_WARP_OP;
        t->site = site;
        t->waiting_for = op->name;
        park();
        return;
    }
    if (op->run) op->run(m->args, mask, site);
    *m = warp.meetings[--warp.n_meetings];
    uint32_t others = mask & ~me;
    warp.ready |= others;
    s.runnable |= 1u << t->linear / WARP;
    for (Task *first = &s.tasks[t->linear - lane]; others; others &= others - 1)
        first[__builtin_ctz(others)].state = READY;
    yield();
}

static void barrier_complete(Barrier &b, int id, Site site) {
    if (id)
        for (unsigned w = 0; w < s.n_warps; w++)
            if (b.from[w] && b.from[w] != s.warps[w].lanes)
                fault(site, "barrier %d: lanes %08x of warp %u came without the rest of their warp", id, b.from[w], w);
    for (unsigned w = 0; w < s.n_warps; w++) {
        for (uint32_t rest = b.waiting[w]; rest; rest &= rest - 1)
            mark_runnable(&s.tasks[w * WARP + __builtin_ctz(rest)]);
        b.from[w] = b.waiting[w] = 0;
    }
    if (!id) s.vote = {b.votes, b.expected};
    b.arrived = b.expected = b.votes = 0;
}

static void barrier_arrival(int id, unsigned threads, bool wait, bool vote, const char *name, Site site) {
    Task *t = task();
    if (id < 0 || id >= BARRIERS) fault(site, "barrier %d: there are barriers 0 to 15", id);
    Barrier &b = s.barriers[id];
    unsigned w = t->linear / WARP;
    if (!id) {
        threads = s.threads;
        if (s.exited) fault(site, "%s waits for %u threads, which have left the kernel", name, s.exited);
        if (b.arrived && (b.site.line != site.line || strcmp(b.site.file, site.file)))
            fault(site, "%s in divergent code: other threads wait in the one at %s:%d", name, b.site.file, b.site.line);
    } else if (!threads || threads % WARP || threads > (s.threads + WARP - 1) / WARP * WARP) {
        fault(site, "barrier %d among %u threads: must be a multiple of 32, and at most the block's %u", id, threads,
              s.threads);
    }
    if (b.arrived && b.expected != threads)
        fault(site, "barrier %d among %u threads, but others (%s:%d) say %u", id, threads, b.site.file, b.site.line,
              b.expected);
    if (b.from[w] & bit_of(t)) fault(site, "barrier %d: this thread comes twice before the barrier is complete", id);
    b.expected = threads;
    b.site = site;
    b.from[w] |= bit_of(t);
    b.votes += vote;
    if (++b.arrived == threads) {
        barrier_complete(b, id, site);
        yield();
        return;
    }
    if (!wait) {
        yield();
        return;
    }
    b.waiting[w] |= bit_of(t);
    t->state = IN_BARRIER;
    t->barrier = id;
    t->site = site;
    t->waiting_for = name;
    park();
}

void barrier_meet(int id, unsigned threads, bool wait, Site site) {
    barrier_arrival(id, threads, wait, false, id ? "a named barrier" : "__syncthreads()", site);
}

Vote barrier_vote(bool predicate, Site site) {
    /* Nobody can complete the next vote before all have left this one, so the result may lie in one place. */
    barrier_arrival(0, 0, true, predicate, "a __syncthreads() vote", site);
    return s.vote;
}

/* ---- blocks --------------------------------------------------------------------------------------------------------
 */
static void block_prepare(const Launch &l, const KernelSymbols &symbols, uint64_t number) {
    s.random.state = (emu_config()->seed * 0x9E3779B97F4A7C15ull) ^ (number + 1) * 0xBF58476D1CE4E5B9ull;
    if (!s.random.state) s.random.state = 1;
    for (int i = 0; i < 4; i++) s.random.next();
    s.schedule = emu_config()->schedule;
    s.lanes_descending = s.schedule == SCHEDULE_REVERSE || (s.schedule == SCHEDULE_PRIORITY && s.random.next() % 2);
    s.threads = s.live = l.block.x * l.block.y * l.block.z;
    s.n_warps = (s.threads + WARP - 1) / WARP;
    s.exited = 0;
    s.runnable = s.n_warps == 32 ? ~0u : (1u << s.n_warps) - 1;
    for (unsigned w = 0; w < s.n_warps; w++) {
        Warp &warp = s.warps[w];
        unsigned n = s.threads - w * WARP;
        warp.lanes = warp.fresh = n >= WARP ? ~0u : (1u << n) - 1;
        warp.ready = warp.exited = 0;
        warp.n_meetings = 0;
        warp.priority = s.random.next() >> 8;
    }
    for (unsigned i = 0; i < s.threads; i++) {
        Task &t = s.tasks[i];
        t.index = make_uint3(i % l.block.x, i / l.block.x % l.block.y, i / (l.block.x * l.block.y));
        t.linear = i;
        t.state = FRESH;
        t.groups = 0;
        t.copies.clear();
    }
    memset(s.barriers, 0, sizeof s.barriers);
    memset(s.shared, 0xFF, l.shared);
    for (const SharedVariable &v : symbols.shared) memset(v.address, 0xFF, v.size);
}

/* A fault leaves fibers in the middle of their threads. */
static void fibers_recover() {
    s.free_fibers = nullptr;
    for (Fiber *f : s.fibers) {
        fiber_reset(f);
        f->next_free = s.free_fibers;
        s.free_fibers = f;
    }
}

cudaError_t run_grid(const Launch &l) {
    static uint64_t launches;
    launches++;
    if (!s.shared) {
        s.shared = static_cast<unsigned char *>(aligned_alloc(1024, SHARED_MAX + 1024));
        block.shared = s.shared;
        pthread_attr_t attr;
        pthread_getattr_np(pthread_self(), &attr);
        pthread_attr_getstack(&attr, &s.main_stack, &s.main_stack_bytes);
        pthread_attr_destroy(&attr);
    }
    const KernelSymbols &symbols = kernel_symbols(l.function);
    s.launch = &l;
    s.faulted = false;
    block.size = l.block;
    block.grid = l.grid;
    uint64_t n = (uint64_t)l.grid.x * l.grid.y * l.grid.z;
    ASAN_UNPOISON_MEMORY_REGION(s.shared, l.shared);
    ASAN_POISON_MEMORY_REGION(s.shared + (l.shared + 7) / 8 * 8, SHARED_MAX + 1024 - (l.shared + 7) / 8 * 8);
    /* Where nobody checks addresses, what lies behind the dynamic shared memory tells who wrote there. */
    const size_t behind = SHARED_MAX + 1024 - l.shared < 1024 ? SHARED_MAX + 1024 - l.shared : 1024;
    if (!ADDRESSES_ARE_CHECKED) memset(s.shared + l.shared, BEHIND, behind);
    EmuSchedule schedule = emu_config()->schedule;
    /* A step that has no divisor in common with n visits every block once, in an order that looks like none. */
    uint64_t step = 1, start = 0;
    if (schedule >= SCHEDULE_RANDOM && n > 2) {
        Random r = {emu_config()->seed + launches * 977 + 1};
        auto common = [](uint64_t a, uint64_t b) {
            while (b) {
                uint64_t t = a % b;
                a = b;
                b = t;
            }
            return a;
        };
        do step = 1 + r.next() % (n - 1);
        while (common(step, n) != 1);
        start = r.next() % n;
    }
    for (uint64_t i = 0; i < n && !s.faulted; i++) {
        uint64_t b = schedule == SCHEDULE_FORWARD   ? i
                     : schedule == SCHEDULE_REVERSE ? n - 1 - i
                                                    : (start + i * step) % n;
        block.index = make_uint3(b % l.grid.x, b / l.grid.x % l.grid.y, b / ((uint64_t)l.grid.x * l.grid.y));
        block_prepare(l, symbols, launches * 1000003 + b);
        current = nullptr;
        Fiber *f = fiber_get();
        current = pick();
        fiber_switch(&s.main, f);
    }
    if (s.faulted) fibers_recover();
    for (size_t i = 0; i < behind && !ADDRESSES_ARE_CHECKED && !s.faulted; i++)
        if (s.shared[l.shared + i] != BEHIND) {
            report(heading() + " or before: writes to shared memory " + std::to_string(i) + " bytes behind its " +
                   std::to_string(l.shared));
            s.faulted = true;
            s.error = cudaErrorIllegalAddress;
        }
    current = nullptr;
    ASAN_UNPOISON_MEMORY_REGION(s.shared, SHARED_MAX + 1024);
    return s.faulted ? s.error : cudaSuccess;
}

} // namespace emu
