/* grid.cpp - the blocks of a grid, or its clusters, one after another, and what stops them. */
#include "tests/emulator/check.h"
#include "tests/emulator/machine.h"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace emu {

Tally tally;

namespace {

#ifdef __SANITIZE_ADDRESS__
constexpr bool ADDRESSES_ARE_CHECKED = true;
#else
constexpr bool ADDRESSES_ARE_CHECKED = false;
#endif
constexpr unsigned char BEHIND = 0xBD;

Machine &m = machine;
unsigned char *shared; /* of the blocks of a cluster, SHARED_BUFFER each */

/* Where nobody checks addresses, what lies behind the dynamic shared memory tells who wrote there. */
size_t behind(const Launch &l) {
    return ADDRESSES_ARE_CHECKED ? 0 : SHARED_BUFFER - l.shared < 1024 ? SHARED_BUFFER - l.shared : 1024;
}

void shared_prepare(const Launch &l) {
    if (!shared) shared = static_cast<unsigned char *>(aligned_alloc(1024, CLUSTER_MAX * SHARED_BUFFER));
    ASAN_UNPOISON_MEMORY_REGION(shared, l.cluster * SHARED_BUFFER);
    size_t end = (l.shared + 7) / 8 * 8;
    for (unsigned r = 0; r < l.cluster; r++) {
        unsigned char *own = shared + r * SHARED_BUFFER;
        m.blocks[r].shared = own;
        m.blocks[r].rank = r;
        m.blocks[r].size = l.block;
        m.blocks[r].grid = l.grid;
        memset(own + l.shared, BEHIND, behind(l));
        ASAN_POISON_MEMORY_REGION(own + end, SHARED_BUFFER - end);
    }
}

void shared_check(const Launch &l) {
    for (size_t i = 0; i < behind(l) * l.cluster && !m.faulted; i++)
        if (shared[i / behind(l) * SHARED_BUFFER + l.shared + i % behind(l)] != BEHIND) {
            report(heading() + " or one before: writes to shared memory " + std::to_string(i % behind(l)) +
                   " bytes behind its " + std::to_string(l.shared));
            m.faulted = true;
            m.error = cudaErrorIllegalAddress;
        }
}

/* The blocks of a cluster from `first` on. */
void block_prepare(const Launch &l, const KernelSymbols &symbols, uint64_t first, uint64_t number) {
    m.random.state = emu_config()->seed * 0x9E3779B97F4A7C15ull ^ (number + 1) * 0xBF58476D1CE4E5B9ull;
    if (!m.random.state) m.random.state = 1;
    for (int i = 0; i < 4; i++) m.random.next();
    m.schedule = emu_config()->schedule;
    m.lanes_descending = m.schedule == SCHEDULE_REVERSE || (m.schedule == SCHEDULE_PRIORITY && m.random.next() % 2);
    m.block_threads = l.block.x * l.block.y * l.block.z;
    m.block_warps = (m.block_threads + WARP - 1) / WARP;
    m.threads = m.live = l.cluster * m.block_threads;
    m.n_warps = l.cluster * m.block_warps;
    for (unsigned r = 0; r < l.cluster; r++) {
        BlockState &b = m.blocks[r];
        uint64_t i = first + r;
        b.index = make_uint3(i % l.grid.x, i / l.grid.x % l.grid.y, i / ((uint64_t)l.grid.x * l.grid.y));
        b.live = m.block_threads;
        b.exited = 0;
        memset(b.barriers, 0, sizeof b.barriers);
        memset(b.shared, 0xFF, l.shared);
    }
    m.runnable = m.n_warps == 32 ? ~0u : (1u << m.n_warps) - 1;
    for (unsigned w = 0; w < m.n_warps; w++) {
        Warp &warp = m.warps[w];
        unsigned n = m.threads - w * WARP;
        warp.lanes = warp.fresh = n >= WARP ? ~0u : (1u << n) - 1;
        warp.ready = warp.exited = 0;
        warp.n_meetings = 0;
        warp.priority = m.random.next() >> 8;
    }
    for (unsigned i = 0; i < m.threads; i++) {
        Task &t = m.tasks[i];
        unsigned in = i % m.block_threads;
        t.index = make_uint3(in % l.block.x, in / l.block.x % l.block.y, in / (l.block.x * l.block.y));
        t.block = &m.blocks[i / m.block_threads];
        t.linear = i;
        t.state = FRESH;
        t.groups = t.proxy_fences = 0;
        t.copies.clear();
    }
    for (const SharedVariable &v : symbols.shared) memset(v.address, 0xFF, v.size);
    hopper_block();
    cluster_begin();
    check_block();
}

/* Every block once: block i of the order is (start + i * step) % n, where step and n have no common divisor. */
struct Order {
    uint64_t n, start, step;
    Order(uint64_t count, EmuSchedule schedule, uint64_t launch) : n(count), start(0), step(1) {
        if (schedule == SCHEDULE_REVERSE) start = n - 1, step = n - 1;
        if (schedule < SCHEDULE_RANDOM || n < 3) return;
        Random r = {emu_config()->seed + launch * 977 + 1};
        do step = 1 + r.next() % (n - 1);
        while (common_divisor(step, n) != 1);
        start = r.next() % n;
    }
    static uint64_t common_divisor(uint64_t a, uint64_t b) {
        while (b) {
            uint64_t rest = a % b;
            a = b;
            b = rest;
        }
        return a;
    }
    uint64_t at(uint64_t i) const { return (uint64_t)((start + (unsigned __int128)i * step) % n); }
};

} // namespace

cudaError_t run_grid(const Launch &l) {
    static uint64_t launches;
    launches++;
    const KernelSymbols &symbols = kernel_symbols(l.function);
    m.launch = &l;
    m.faulted = false;
    m.n_blocks = l.cluster;
    shared_prepare(l);
    check_launch(symbols);
    Order order((uint64_t)l.grid.x / l.cluster * l.grid.y * l.grid.z, emu_config()->schedule, launches);
    for (uint64_t i = 0; i < order.n && !m.faulted; i++) {
        uint64_t b = order.at(i);
        block_prepare(l, symbols, b * l.cluster, launches * 1000003 + b);
        current = nullptr;
        current = pick();
        fiber_main(fiber_entry, fiber_get());
    }
    if (m.faulted) { /* in the middle of threads and copies */
        fibers_reset();
        check_stopped();
    }
    shared_check(l);
    current = nullptr;
    ASAN_UNPOISON_MEMORY_REGION(shared, l.cluster * SHARED_BUFFER);
    return m.faulted ? m.error : cudaSuccess;
}

/* ---- faults -------------------------------------------------------------------------------------------------- */
std::string coordinates(const uint3 &index) {
    char text[48];
    snprintf(text, sizeof text, "(%u,%u,%u)", index.x, index.y, index.z);
    return text;
}

std::string heading() {
    const KernelSymbols &symbols = kernel_symbols(m.launch->function);
    const std::string &name = symbols.name;
    return std::string(m.launch->op) + ": kernel " + (name.empty() ? m.launch->kernel : name) + ", block " +
           coordinates((current ? *current->block : m.blocks[0]).index);
}

void stop_with(const std::string &text, cudaError_t error) {
    report(text);
    m.faulted = true;
    m.error = error;
    fiber_return();
    abort();
}

void fault(Site site, const char *format, ...) {
    char what[512];
    va_list list;
    va_start(list, format);
    vsnprintf(what, sizeof what, format, list);
    va_end(list);
    stop_with(heading() + ", thread " + coordinates(current->index) + ", " + site.file + ":" +
              std::to_string(site.line) + ": " + what);
}

/* Who waits where, neighbours in the same place together. */
void deadlock() {
    static const char *const states[] = {"never started", "could run", "running",
                                         "waiting",       "waiting",   "left the kernel"};
    std::string text = heading() + ": no thread can go on";
    for (unsigned from = 0, to; from < m.threads; from = to) {
        const Task &a = m.tasks[from];
        bool waits = a.state == IN_BARRIER || a.state == IN_WARP_OP;
        for (to = from + 1; to < m.threads; to++) {
            const Task &b = m.tasks[to];
            if (a.block != b.block || a.state != b.state ||
                (waits && (a.site.line != b.site.line || a.waiting_for != b.waiting_for)))
                break;
        }
        char line[400];
        unsigned before = a.block->rank * m.block_threads;
        int n = snprintf(line, sizeof line, "\n  %sthreads %u-%u: %s",
                         m.n_blocks > 1 ? ("block " + coordinates(a.block->index) + ", ").c_str() : "", from - before,
                         to - 1 - before, states[a.state]);
        if (a.state == IN_BARRIER && a.barrier)
            snprintf(line + n, sizeof line - (size_t)n, " in barrier %d (%u of %u have come), %s:%d", a.barrier,
                     block_of(&a).barriers[a.barrier].arrived, block_of(&a).barriers[a.barrier].expected, a.site.file,
                     a.site.line);
        else if (waits)
            snprintf(line + n, sizeof line - (size_t)n, " in %s, %s:%d", a.waiting_for, a.site.file, a.site.line);
        text += line;
    }
    stop_with(text);
}

bool kernel_runs() { return current != nullptr; }

void kernel_address_fault(const void *p) {
    const char *stack = fiber_stack(fiber_running()), *c = static_cast<const char *>(p);
    char text[200];
    if (c >= stack - GUARD_BYTES && c < stack)
        snprintf(text, sizeof text, ": its local variables take more than %zu KiB of stack", STACK_BYTES >> 10);
    else
        snprintf(text, sizeof text,
                 ": reads or writes %p, which is no memory of the GPU; build with SAN=1 to see where", p);
    stop_with(heading() + ", thread " + coordinates(current->index) + text, cudaErrorIllegalAddress);
}

} // namespace emu

extern "C" void emu_take_work(uint64_t *products, uint64_t *copied) {
    *products = emu::tally.products;
    *copied = emu::tally.copied;
    emu::tally = {};
}
