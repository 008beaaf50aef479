/* check_shared.cpp - races in shared memory, and copies into it that nobody has waited for. */
#include "tests/emulator/history.h"

#include <cstdlib>

namespace emu {

namespace {

/* What is read and written at every access lies close together, what only a report wants apart. */
struct Cell {
    uint32_t phase; /* of the records; or FLYING: an asynchronous copy into it is under way */
    Record write, read[2];
};
struct Places {
    uint32_t write, read[2];
    uint32_t block, writer, fences; /* the last ordinary store: of which block, by whom, after how many proxy fences */
};
constexpr uint32_t FLYING = 0;

/* Of dynamic shared memory, of one block of a cluster after another, then of the kernel's static variables from
 * statics_low on. */
std::vector<Cell> cells;
std::vector<Places> places;
const KernelSymbols *symbols;
uint32_t block_serial;
size_t dynamic_bytes;
const char *statics_low, *statics_high;

[[noreturn, gnu::cold]] void still_flying(const char *p, const Task *t, Access what, uint32_t place) {
    std::string by = "a thread";
    for (unsigned i = 0; i < machine.threads; i++)
        for (const AsyncCopy &c : machine.tasks[i].copies) {
            auto *low = reinterpret_cast<const char *>(c.shared);
            if (p + 4 > low && p < low + c.size)
                by = thread_name(i) + ", " + c.site.file + ":" + std::to_string(c.site.line);
        }
    unsigned thread;
    Site site;
    if (bulk_into(p, &thread, &site)) by = thread_name(thread) + ", " + site.file + ":" + std::to_string(site.line);
    stop_with(heading() + ", " + thread_name(t->linear) + ", " + place_name(place) + ": " +
              (is_read(what) ? "reads " : "writes ") + memory_name(p) + ", into which an asynchronous copy of " + by +
              " is under way: it has not waited for it");
}

[[gnu::cold]] void start_cell(Cell &c, const char *p, const Task *t, Access what, uint32_t place) {
    if (c.phase == FLYING) still_flying(p, t, what, place);
    c = {phase, 0, {0, 0}};
}

[[noreturn, gnu::cold]] void race_with(const char *p, const Task *t, Access what, uint32_t place, Record r,
                                       Access before, uint32_t before_place) {
    race(p, t, what, place, thread_name(record_thread(r)), before, before_place);
}

/* Stores go through the generic proxy, wgmma and bulk copies through the asynchronous one. */
void check_proxy(size_t i, const char *p, const Task *t, bool reads, uint32_t place) {
    const Places &s = places[i];
    if (s.block != block_serial || machine.tasks[s.writer].proxy_fences != s.fences) return;
    stop_with(heading() + ", " + thread_name(t->linear) + ", " + place_name(place) + ": asynchronously " +
              (reads ? "reads " : "writes ") + memory_name(p) + ", which " + thread_name(s.writer) + " wrote at " +
              place_name(s.write) + " without a proxy_fence() after it");
}

inline void cell_access(size_t i, const char *p, const Task *t, unsigned bytes, Access what, uint32_t place) {
    Cell &c = cells[i];
    Record r = record_of(t, bytes, what);
    if (c.phase != phase) start_cell(c, p, t, what, place);
    if (c.write && unordered_write(c.write, t, bytes, what))
        race_with(p, t, what, place, c.write, record_special(c.write) ? ATOMIC : WRITE, places[i].write);
    if (is_read(what)) {
        if (what == ASYNC_READ) check_proxy(i, p, t, true, place);
        /* The same again, or by another lane, says nothing new. */
        if (same_warp_and_time(c.read[0], r) && (c.read[0] & bytes) == bytes &&
            record_special(c.read[0]) <= record_special(r))
            return;
        if (c.read[0] && record_warp(c.read[0]) != record_warp(r)) {
            c.read[1] = c.read[0];
            places[i].read[1] = places[i].read[0];
        }
        c.read[0] = r;
        places[i].read[0] = place;
        return;
    }
    for (int k = 0; k < 2; k++)
        if (c.read[k] && unordered_read(c.read[k], t, bytes))
            race_with(p, t, what, place, c.read[k], READ, places[i].read[k]);
    c.write = r;
    places[i].write = place;
    places[i].block = block_serial;
    places[i].writer = t->linear;
    places[i].fences = t->proxy_fences;
}

[[noreturn, gnu::cold]] void behind_shared(const Task *t, const char *p, size_t bytes, Access what, uint32_t place) {
    if ((size_t)(p - reinterpret_cast<const char *>(t->block->shared)) >= SHARED_BUFFER)
        bad_access(t, p, bytes, what, place, "that is in the shared memory of another block of the cluster");
    auto *end = reinterpret_cast<const char *>(t->block->shared) + machine.launch->shared;
    bad_access(t, p, bytes, what, place,
               std::to_string(p + bytes - end) + " bytes behind the block's " + std::to_string(machine.launch->shared) +
                   " bytes of dynamic shared memory");
}

void check_statics(const Task *t, const char *p, size_t bytes, Access what, uint32_t place) {
    for (const SharedVariable &v : symbols->shared) {
        auto *low = static_cast<const char *>(v.address);
        if (p >= low && p + bytes <= low + v.size) return;
    }
    bad_access(t, p, bytes, what, place, "outside every __shared__ variable of the kernel, next to " + memory_name(p));
}

/* From cell 0; SIZE_MAX = p is not in shared memory.  A bad address there, or one of another block than b, does not
 * return. */
inline size_t offset_of(const Task *t, const Block &b, const char *p, size_t bytes, Access what, uint32_t place) {
    size_t offset = (size_t)(p - reinterpret_cast<const char *>(machine.blocks[0].shared));
    if (offset < dynamic_bytes) {
        size_t in_block = offset - b.rank * SHARED_BUFFER;
        if (in_block >= SHARED_BUFFER || in_block + bytes > machine.launch->shared)
            behind_shared(t, p, bytes, what, place);
        return offset;
    }
    if (p < statics_low || p >= statics_high) return SIZE_MAX;
    check_statics(t, p, bytes, what, place);
    return dynamic_bytes + (size_t)(p - statics_low);
}

} // namespace

void shared_launch(const KernelSymbols &k) {
    symbols = &k;
    statics_low = statics_high = nullptr;
    for (const SharedVariable &v : k.shared) {
        auto *low = static_cast<const char *>(v.address);
        if (!statics_low || low < statics_low) statics_low = low;
        if (low + v.size > statics_high) statics_high = low + v.size;
    }
    statics_low -= reinterpret_cast<uintptr_t>(statics_low) % 4;
    dynamic_bytes = machine.n_blocks * SHARED_BUFFER;
    size_t need = (dynamic_bytes + (size_t)(statics_high - statics_low)) / 4 + 1;
    if (cells.size() >= need) return;
    cells.resize(need, Cell{1, 0, {0, 0}});
    places.resize(need);
}

bool shared_access(const Task *t, const Block &b, const char *p, size_t bytes, Access what, uint32_t place) {
    size_t offset = offset_of(t, b, p, bytes, what, place);
    if (offset == SIZE_MAX) return false;
    each_cell(p, offset, bytes,
              [&](size_t i, const char *at, unsigned mask) { cell_access(i, at, t, mask, what, place); });
    return true;
}

std::string shared_name(const char *p) {
    size_t offset = (size_t)(p - reinterpret_cast<const char *>(machine.blocks[0].shared));
    if (offset < dynamic_bytes)
        return (machine.n_blocks > 1 ? "block " + coordinates(machine.blocks[offset / SHARED_BUFFER].index) + "'s "
                                     : "") +
               "dynamic shared memory + " + std::to_string(offset % SHARED_BUFFER) + " bytes";
    if (p < statics_low || p >= statics_high) return "";
    for (const SharedVariable &v : symbols->shared) {
        auto *low = static_cast<const char *>(v.address);
        if (p >= low && p < low + v.size) return "shared " + v.name + " + " + std::to_string(p - low) + " bytes";
    }
    return "static shared memory";
}

/* From its start to the wait for it, nobody may touch where a copy goes. */
void check_copy_starts(Task *t, void *shared, unsigned bytes, Site site) {
    if (!checking) return;
    uint32_t place = place_of(site);
    auto *p = static_cast<const char *>(shared);
    size_t offset = offset_of(t, *t->block, p, bytes, WRITE, place);
    if (offset == SIZE_MAX)
        bad_access(t, p, bytes, WRITE, place, "the destination of an asynchronous copy is not in shared memory");
    each_cell(p, offset, bytes, [&](size_t i, const char *at, unsigned mask) {
        cell_access(i, at, t, mask, WRITE, place);
        cells[i].phase = FLYING;
    });
}

/* For everybody else it is a write of the thread that waited. */
void check_copy_ends(Task *t, const AsyncCopy &copy) {
    if (!checking) return;
    uint32_t place = place_of(copy.site);
    auto *p = reinterpret_cast<const char *>(copy.shared);
    each_cell(p, offset_of(t, *t->block, p, copy.size, WRITE, place), copy.size,
              [&](size_t i, const char *, unsigned mask) {
                  cells[i] = {phase, record_of(t, mask, WRITE), {0, 0}};
                  places[i].write = place;
              });
}

void shared_block() { block_serial++; }

/* As an asynchronous write, from its start to the end of the mbarrier's phase. */
void check_bulk_starts(Task *t, const Block &to, void *shared, unsigned bytes, Site site) {
    if (!checking) return;
    uint32_t place = place_of(site);
    auto *p = static_cast<const char *>(shared);
    each_cell(p, offset_of(t, to, p, bytes, WRITE, place), bytes, [&](size_t i, const char *at, unsigned mask) {
        check_proxy(i, at, t, false, place);
        cell_access(i, at, t, mask, WRITE, place);
        cells[i].phase = FLYING;
        places[i].block = 0;
    });
}

void check_bulk_ends(Task *t, unsigned time, const Block &to, void *shared, unsigned bytes, Site site) {
    if (!checking) return;
    uint32_t place = place_of(site);
    auto *p = static_cast<const char *>(shared);
    Task then = {};
    then.linear = t->linear;
    then.time = time;
    each_cell(p, offset_of(t, to, p, bytes, WRITE, place), bytes, [&](size_t i, const char *, unsigned mask) {
        cells[i] = {phase, record_of(&then, mask, WRITE), {0, 0}};
        places[i].write = place;
    });
}

void check_stopped() {
    for (Cell &c : cells) c.phase = 1;
}

} // namespace emu
