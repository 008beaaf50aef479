/* mbarrier.cpp - barriers in shared memory that count arrivals and bytes, and the bulk copies that bring them.
 *
 * A phase of an mbarrier ends when `count` threads have arrived and as many bytes came as they said to expect.  Whoever
 * waits for it then knows what those who arrived had done before, and that the copies are there.  A copy lands at once,
 * at any moment, or when nobody can go on without it, as the schedule likes, and several in any order; until then its
 * destination is NaN and nobody's to touch.  A copy into several blocks of a cluster is one into each, with its own
 * time and the mbarrier there; an arrival at another block's mbarrier travels like a copy, at the latest until the
 * cluster's next barrier.
 *
 * A bulk store reads shared memory at any time from its issue to its thread's wait for it, and until then nobody may
 * change what lies there. */
#include "tests/emulator/check.h"
#include "tests/emulator/hopper.h"
#include "tests/emulator/tensor_map.h"

#include <algorithm>
#include <cstring>

namespace emu {

unsigned bulk_pending;

namespace {

Machine &m = machine;

struct Mbarrier {
    uint64_t *word;
    unsigned count, pending, phase, by; /* by: the thread that made it */
    unsigned brought, seen;             /* the phase after that of its last copy; the last one a waiter found */
    int64_t bytes;                      /* expected and not there yet */
    bool published;
    unsigned joined[WARPS_MAX], done[WARPS_MAX]; /* what this phase's, and ended phases' arrivals had done: check.h */
    uint32_t waiting[WARPS_MAX];
};
std::vector<Mbarrier> barriers;

/* Or, where `arrives`, an arrival at an mbarrier of another block. */
struct BulkCopy {
    unsigned char *shared;
    const Block *to; /* whose memory that is */
    TensorMap map;
    int at[5];
    unsigned bytes;
    size_t barrier;
    Task *by;
    unsigned time;
    Site site;
    bool arrives;
    unsigned known[WARPS_MAX]; /* to those who arrive */
};
std::vector<BulkCopy> copies;

/* From shared memory to the tensor: copy.shared is where it comes from, group that of its thread. */
struct BulkStore {
    BulkCopy copy;
    std::vector<unsigned char> was;
    unsigned group;
    bool done;
};
std::vector<BulkStore> stores;
std::vector<unsigned> store_groups; /* of each thread */

uint64_t mark_of(size_t i) { return 0x6d626172ull << 32 | i; }

/* The one that lies in block b where bar lies in the current thread's own block. */
size_t barrier_of(uint64_t *bar, const Block &b, Site site) {
    bar = reinterpret_cast<uint64_t *>(reinterpret_cast<unsigned char *>(bar) + (b.shared - current->block->shared));
    for (size_t i = 0; i < barriers.size(); i++)
        if (barriers[i].word == bar) {
            if (*bar != mark_of(i)) fault(site, "the mbarrier at %p was overwritten", (void *)bar);
            check_cluster_access(task(), b, bar, 8, ATOMIC, site);
            cluster_touches(task(), b, site);
            return i;
        }
    fault(site, "no mbarrier was initialized at %p", (void *)bar);
}
size_t barrier_of(uint64_t *bar, Site site) { return barrier_of(bar, *current->block, site); }

void phase_check(Mbarrier &b) {
    if (b.pending || b.bytes) return;
    b.phase++;
    b.pending = b.count;
    for (unsigned w = 0; w < m.n_warps; w++) {
        b.done[w] = std::max(b.done[w], b.joined[w]);
        for (uint32_t rest = b.waiting[w]; rest; rest &= rest - 1) wake(&m.tasks[w * WARP + __builtin_ctz(rest)]);
        b.waiting[w] = 0;
    }
}

/* By a thread of warp w after what was before this time of its, and what it knew then of other warps. */
void arrive(Mbarrier &b, unsigned w, unsigned time, const unsigned *known, Site site) {
    if (!b.pending) fault(site, "more than %u threads arrive at an mbarrier in one phase", b.count);
    b.pending--;
    for (unsigned v = 0; v < m.n_warps; v++) b.joined[v] = std::max(b.joined[v], known[v]);
    b.joined[w] = std::max(b.joined[w], time);
    phase_check(b);
}

/* One row of the box after another: inside the tensor its elements, outside zeros. */
template <class F> void each_box_row(const BulkCopy &c, F f) {
    const TensorMap &t = c.map;
    unsigned rows = 1, row_bytes = t.box[0] * t.element_bytes;
    for (unsigned d = 1; d < t.rank; d++) rows *= t.box[d];
    for (unsigned r = 0; r < rows; r++) {
        const char *from = t.base;
        bool inside = true;
        for (unsigned d = 1, rest = r; d < t.rank; rest /= t.box[d++]) {
            int64_t i = (int64_t)c.at[d] + rest % t.box[d];
            inside &= i >= 0 && i < (int64_t)t.size[d];
            from += i * (int64_t)t.stride[d];
        }
        int64_t first = std::max<int64_t>(c.at[0], 0),
                end = std::min<int64_t>((int64_t)c.at[0] + t.box[0], (int64_t)t.size[0]);
        if (!inside || end < first) end = first;
        f(r * row_bytes, from + first * t.element_bytes, (unsigned)((first - c.at[0]) * t.element_bytes),
          (unsigned)((end - first) * t.element_bytes));
    }
}

void land(size_t i) {
    BulkCopy c = copies[i];
    copies.erase(copies.begin() + (std::ptrdiff_t)i);
    bulk_pending = (unsigned)copies.size();
    if (c.arrives) return arrive(barriers[c.barrier], c.by->linear / WARP, c.time + 1, c.known, c.site);
    std::vector<unsigned char> box(c.bytes, 0);
    each_box_row(c, [&](unsigned row, const char *from, unsigned first, unsigned bytes) {
        if (bytes) memcpy(&box[row + first], from, bytes);
    });
    uint64_t base = (uint64_t)(c.shared - c.to->shared);
    for (unsigned at = 0; at < c.bytes; at += 16) memcpy(c.to->shared + swizzled(base + at, c.map.span), &box[at], 16);
    check_bulk_ends(c.by, c.time, *c.to, c.shared, c.bytes, c.site);
    Mbarrier &b = barriers[c.barrier];
    unsigned w = c.by->linear / WARP;
    b.bytes -= c.bytes;
    b.brought = b.phase + 1;
    b.joined[w] = std::max(b.joined[w], c.time + 1);
    phase_check(b);
}

void start(const BulkCopy &c) {
    copies.push_back(c);
    bulk_pending = (unsigned)copies.size();
    if (m.schedule == SCHEDULE_REVERSE || (m.schedule != SCHEDULE_FORWARD && m.random.next() % 4 == 0))
        land(copies.size() - 1);
}

void bulk_check(const TensorMap &t, unsigned rank, const void *shared, Site site) {
    if (t.magic != TENSOR_MAP_MAGIC) fault(site, "the tensor map was not made by cuTensorMapEncodeTiled");
    if (t.rank != rank) fault(site, "a bulk copy of %u dimensions by a tensor map of %u", rank, t.rank);
    unsigned align = t.span == 16 ? 128 : 8 * t.span, row = t.box[0] * t.element_bytes;
    if (shared_offset(shared, site) % align)
        fault(site, "a bulk copy swizzled in %u bytes to %p: shared memory must be aligned to %u", t.span, shared,
              align);
    if (t.span > 16 && row != t.span)
        fault(site, "a bulk copy of rows of %u bytes swizzled in %u: the emulator knows equal ones only", row, t.span);
}

void store_reads(const BulkStore &s) {
    for (unsigned at = 0; at < s.copy.bytes; at += 16)
        check_access(s.copy.by, s.copy.shared + at, 16, ASYNC_READ, s.copy.site);
}

void store_execute(BulkStore &s) {
    const BulkCopy &c = s.copy;
    std::vector<unsigned char> box(c.bytes);
    uint64_t base = (uint64_t)(c.shared - c.to->shared);
    for (unsigned at = 0; at < c.bytes; at += 16) memcpy(&box[at], c.to->shared + swizzled(base + at, c.map.span), 16);
    each_box_row(c, [&](unsigned row, const char *to, unsigned first, unsigned bytes) {
        if (bytes) memcpy(const_cast<char *>(to), &box[row + first], bytes);
    });
    s.done = true;
}

} // namespace

void hopper_block() {
    barriers.clear();
    copies.clear();
    stores.clear();
    store_groups.assign(m.threads, 0);
    bulk_pending = 0;
    wgmma_block();
}

/* Times of the past mean nothing any more. */
void mbarrier_history_restart() {
    for (Mbarrier &b : barriers) {
        memset(b.joined, 0, sizeof b.joined);
        memset(b.done, 0, sizeof b.done);
    }
    for (BulkCopy &c : copies) {
        c.time = 0;
        memset(c.known, 0, sizeof c.known);
    }
}

/* In pick(): copies land while threads run; one must when no thread can.  false = there is none. */
void bulk_progress() {
    if (m.schedule >= SCHEDULE_RANDOM && m.random.next() % 8 == 0) land(m.random.next() % copies.size());
}
bool bulk_land_one() {
    if (copies.empty()) return false;
    land(m.schedule >= SCHEDULE_RANDOM ? m.random.next() % copies.size() : copies.size() - 1);
    return true;
}

void arrivals_land(uint32_t warps, const unsigned *time) {
    for (size_t i = copies.size(); i-- > 0;) {
        unsigned w = copies[i].by->linear / WARP;
        if (copies[i].arrives && warps >> w & 1 && copies[i].time <= time[w]) land(i);
    }
}

bool bulk_into(const char *p, unsigned *by, Site *site) {
    for (const BulkCopy &c : copies) {
        auto *low = reinterpret_cast<const char *>(c.shared);
        if (c.arrives || p + 4 <= low || p >= low + c.bytes) continue;
        *by = c.by->linear;
        *site = c.site;
        return true;
    }
    return false;
}

void hopper_exit(const Block &b) {
    for (const BulkCopy &c : copies)
        if (c.to == &b)
            fault(c.site, "the block ends while this %s is under way",
                  c.arrives ? "arrival at an mbarrier of its" : "bulk copy into its memory");
    for (const BulkStore &s : stores)
        if (s.copy.to == &b)
            fault(s.copy.site, "the block ends and nobody has waited for this bulk store from its memory");
    Site here = {__FILE__, __LINE__};
    for (const Mbarrier &x : barriers)
        if (x.brought > x.seen && (size_t)(reinterpret_cast<unsigned char *>(x.word) - b.shared) < SHARED_BUFFER)
            fault(here, "the block ends and nobody has waited for a bulk copy into its memory");
    cluster_exit(b);
    wgmma_exit(b);
}

unsigned shared_offset(const void *p, Site site) {
    size_t offset = (size_t)(static_cast<const unsigned char *>(p) - current->block->shared);
    if (offset >= m.launch->shared) fault(site, "%p is not in the block's dynamic shared memory", p);
    return (unsigned)offset;
}

void hopper_needed(const char *name, Site site) {
    if (emu_config()->compute_capability != 90)
        fault(site, "%s needs compute capability 9.0; this GPU has %d", name, emu_config()->compute_capability);
}

void mbarrier_init(uint64_t *bar, int count, Site site) {
    hopper_needed("an mbarrier", site);
    if (reinterpret_cast<uintptr_t>(bar) % 8) fault(site, "an mbarrier at %p: must be aligned to 8", (void *)bar);
    if (count < 1 || count >= 1 << 20) fault(site, "an mbarrier for %d arrivals: must be 1 to 2^20 - 1", count);
    shared_offset(bar, site);
    for (const Mbarrier &b : barriers)
        if (b.word == bar) fault(site, "the mbarrier at %p is initialized twice", (void *)bar);
    check_access(task(), bar, 8, WRITE, site);
    Mbarrier b = {};
    b.word = bar;
    b.count = b.pending = (unsigned)count;
    b.by = current->linear;
    *bar = mark_of(barriers.size());
    barriers.push_back(b);
}

void mbarrier_published(Site) {
    for (Mbarrier &b : barriers)
        if (b.by == current->linear) b.published = true;
}

void mbarrier_arrive(uint64_t *bar, unsigned bytes, Site site) {
    Task *t = task();
    Mbarrier &b = barriers[barrier_of(bar, site)];
    unsigned w = t->linear / WARP;
    b.bytes += bytes;
    t->time++;
    check_time(t);
    arrive(b, w, t->time, m.warps[w].known, site);
    yield();
}

/* On the way as long as a copy may be. */
void mbarrier_arrive_at(uint64_t *bar, unsigned rank, Site site) {
    Task *t = task();
    BulkCopy c = {};
    c.to = &cluster_block(rank, site);
    c.barrier = barrier_of(bar, *c.to, site);
    c.by = t;
    c.time = t->time;
    c.site = site;
    c.arrives = true;
    memcpy(c.known, warp_of(t).known, sizeof c.known);
    t->time++;
    start(c);
    check_time(t);
    yield();
}

void mbarrier_wait(uint64_t *bar, unsigned parity, Site site) {
    Task *t = task();
    size_t i = barrier_of(bar, site);
    if (parity > 1) fault(site, "an mbarrier's parity is 0 or 1, not %u", parity);
    /* Looked at again after each phase: who sleeps through two waits for a third. */
    while ((barriers[i].phase & 1) == parity) {
        barriers[i].waiting[t->linear / WARP] |= bit_of(t);
        t->state = IN_WARP_OP;
        t->site = site;
        t->waiting_for = "a phase of an mbarrier";
        park();
    }
    barriers[i].seen = std::max(barriers[i].seen, barriers[i].phase);
    Warp &warp = warp_of(t);
    for (unsigned v = 0; v < m.n_warps; v++) warp.known[v] = std::max(warp.known[v], barriers[i].done[v]);
    t->time = std::max(t->time, barriers[i].done[t->linear / WARP]); /* of its own warp a thread knows by its time */
    yield();
}

void bulk_load(void *shared, const CUtensorMap *map, const int *at, unsigned rank, uint64_t *bar, unsigned blocks,
               Site site) {
    BulkCopy c = {};
    memcpy(&c.map, map, sizeof c.map);
    bulk_check(c.map, rank, shared, site);
    memcpy(c.at, at, rank * sizeof *at);
    c.bytes = c.map.element_bytes;
    for (unsigned d = 0; d < rank; d++) c.bytes *= c.map.box[d];
    shared_offset(static_cast<unsigned char *>(shared) + c.bytes - 1, site);
    c.by = task();
    c.time = c.by->time;
    c.site = site;
    each_box_row(c, [&](unsigned, const char *from, unsigned, unsigned bytes) {
        if (bytes) check_access(c.by, from, bytes, READ, site);
    });
    tally.copied += c.bytes;
    if (!blocks || blocks >> m.n_blocks)
        fault(site, "a bulk copy into blocks %#x of a cluster of %u", blocks, m.n_blocks);
    const Block &own = *c.by->block;
    for (; blocks; blocks &= blocks - 1) {
        c.to = &m.blocks[__builtin_ctz(blocks)];
        c.barrier = barrier_of(bar, *c.to, site);
        if (!barriers[c.barrier].published)
            fault(site, "a bulk copy uses an mbarrier that mbarrier_published() has not shown to the copy engine");
        c.shared = c.to->shared + (static_cast<unsigned char *>(shared) - own.shared);
        check_bulk_starts(c.by, *c.to, c.shared, c.bytes, site);
        memset(c.shared, 0xFF, c.bytes);
        start(c);
    }
    yield();
}

void bulk_store(const CUtensorMap *map, const int *at, unsigned rank, const void *shared, Site site) {
    hopper_needed("a bulk store", site);
    BulkStore s = {};
    BulkCopy &c = s.copy;
    memcpy(&c.map, map, sizeof c.map);
    bulk_check(c.map, rank, shared, site);
    c.shared = static_cast<unsigned char *>(const_cast<void *>(shared));
    memcpy(c.at, at, rank * sizeof *at);
    c.bytes = c.map.element_bytes;
    for (unsigned d = 0; d < rank; d++) c.bytes *= c.map.box[d];
    shared_offset(c.shared + c.bytes - 1, site);
    c.by = task();
    c.to = c.by->block;
    c.site = site;
    each_box_row(c, [&](unsigned, const char *to, unsigned, unsigned bytes) {
        if (bytes) check_access(c.by, to, bytes, WRITE, site);
    });
    store_reads(s);
    s.was.assign(c.shared, c.shared + c.bytes);
    s.group = store_groups[c.by->linear];
    if (m.schedule == SCHEDULE_REVERSE || (m.schedule != SCHEDULE_FORWARD && m.random.next() % 2)) store_execute(s);
    stores.push_back(s);
    yield();
}

void bulk_store_commit() { store_groups[task()->linear]++; }

void bulk_store_wait(unsigned pending, Site) {
    Task *t = task();
    size_t n = 0;
    for (BulkStore &s : stores) {
        if (s.copy.by == t && s.group + pending < store_groups[t->linear]) {
            store_reads(s);
            if (memcmp(s.was.data(), s.copy.shared, s.copy.bytes))
                fault(s.copy.site, "the memory of a bulk store was changed before the wait for it");
            if (!s.done) store_execute(s);
        } else {
            std::swap(stores[n++], s);
        }
    }
    stores.resize(n);
}

void proxy_fence() { task()->proxy_fences++; }

} // namespace emu
