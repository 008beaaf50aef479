/* check_global.cpp - races in GPU memory, between threads of one launch, and addresses outside what was allocated. */
#include "tests/emulator/history.h"
#include "tests/emulator/runtime.h"

#include <cstdio>
#include <cstdlib>
#include <sys/mman.h>
#include <unordered_map>

namespace emu {

namespace {

struct Cell {
    uint32_t launch;
    uint32_t write_block, write_phase, write_place; /* blocks are counted from 1 */
    uint32_t read_block, read_phase, read_place;
    Record write, read;
    uint32_t other_bytes; /* read by blocks before read_block: rows of 16-bit elements may meet in a cell */
};

uint32_t launch_number;
MemoryMap memory;
Cell *cells;

/* What this block's atomics found of other blocks, and what blocks have left for others to find. */
bool fenced;
std::vector<bool> acquired;
std::unordered_map<const void *, std::vector<uint32_t>> released;

uint32_t block_number() {
    const Block &b = *current->block;
    return 1 + b.index.x + b.grid.x * (b.index.y + b.grid.y * b.index.z);
}

bool foreign(uint32_t b, uint32_t here) { return b && b != here && !(b < acquired.size() && acquired[b]); }

std::string block_name(uint32_t b) { return "block " + std::to_string(b - 1); }

Access kind(Record write) { return record_special(write) ? ATOMIC : WRITE; }

void cell_access(Cell &c, const char *p, const Task *t, unsigned bytes, Access what, uint32_t place) {
    uint32_t here = block_number();
    if (c.launch != launch_number) {
        c = {};
        c.launch = launch_number;
    }
    if (c.write & bytes) {
        if (foreign(c.write_block, here) && !(record_special(c.write) && what == ATOMIC))
            race(p, t, what, place, block_name(c.write_block), kind(c.write), c.write_place);
        if (c.write_block == here && c.write_phase == phase && unordered_write(c.write, t, bytes, what))
            race(p, t, what, place, thread_name(record_thread(c.write)), kind(c.write), c.write_place);
    }
    if (what == READ) {
        if (c.read_block != here) c.other_bytes |= record_bytes(c.read);
        c.read_block = here;
        c.read_phase = phase;
        c.read = record_of(t, bytes, what);
        c.read_place = place;
        return;
    }
    if (c.read & bytes) {
        if (foreign(c.read_block, here)) race(p, t, what, place, block_name(c.read_block), READ, c.read_place);
        if ((c.other_bytes & bytes) && acquired.empty()) race(p, t, what, place, "another block", READ, c.read_place);
        if (c.read_block == here && c.read_phase == phase && unordered_read(c.read, t, bytes))
            race(p, t, what, place, thread_name(record_thread(c.read)), READ, c.read_place);
    }
    c.write_block = here;
    c.write_phase = phase;
    c.write = record_of(t, bytes, what);
    c.write_place = place;
}

[[noreturn, gnu::cold]] void outside(const Allocation *a, const char *p, const Task *t, size_t bytes, Access what,
                                     uint32_t place) {
    if (!a) bad_access(t, p, bytes, what, place, "no GPU memory is allocated there (any more)");
    auto *low = reinterpret_cast<const char *>(a->address);
    std::string size = std::to_string(a->bytes);
    if (p < low)
        bad_access(t, p, bytes, what, place, std::to_string(low - p) + " bytes before an allocation of " + size);
    bad_access(t, p, bytes, what, place,
               "ends " + std::to_string(p + bytes - low - a->bytes) + " bytes behind an allocation of " + size);
}

std::vector<Cell *> histories; /* of each GPU's memory */

Cell *cells_of(int device, size_t bytes) {
    while (histories.size() <= (size_t)device) histories.push_back(nullptr);
    Cell *&h = histories[(size_t)device];
    if (h) return h;
    void *p = mmap(nullptr, bytes / 4 * sizeof(Cell), PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
        fprintf(stderr, "emulator: no address space for the history of %zu bytes of GPU memory\n", bytes);
        abort();
    }
    return h = static_cast<Cell *>(p);
}

} // namespace

void global_launch(int device) {
    memory = memory_map(device);
    cells = cells_of(device, memory.size);
    launch_number++;
    released.clear();
}

/* What was freed needs no history: whole pages of it go back. */
void check_freed(int device, size_t offset, size_t bytes) {
    if ((size_t)device >= histories.size() || !histories[(size_t)device]) return;
    auto *base = reinterpret_cast<char *>(histories[(size_t)device]);
    size_t from = (offset / 4 * sizeof(Cell) + 4095) / 4096 * 4096,
           to = (offset + bytes) / 4 * sizeof(Cell) / 4096 * 4096;
    if (to > from) madvise(base + from, to - from, MADV_DONTNEED);
}

void global_block() {
    fenced = false;
    acquired.clear();
}

bool global_access(const Task *t, const char *p, size_t bytes, Access what, uint32_t place) {
    size_t offset = (size_t)(p - reinterpret_cast<const char *>(memory.base));
    if (offset >= memory.size) return false;
    const Allocation *a = memory.units[offset / memory.unit];
    auto *low = a ? reinterpret_cast<const char *>(a->address) : nullptr;
    if (!a || p < low || p + bytes > low + a->bytes) outside(a, p, t, bytes, what, place);
    each_cell(p, offset, bytes,
              [&](size_t i, const char *at, unsigned mask) { cell_access(cells[i], at, t, mask, what, place); });
    return true;
}

void fence() { fenced = true; }

/* Whoever finds in an atomic what a block left there after a fence comes after that block. */
void atomic_access(const void *p, unsigned bytes, Site site) {
    if (!checking || !current) return;
    if (machine.n_blocks > 1) fault(site, "atomic operations in a cluster, which the emulator does not know");
    std::vector<uint32_t> &left = released[p];
    for (uint32_t b : left) {
        if (acquired.size() <= b) acquired.resize(b + 1);
        acquired[b] = true;
    }
    check_access(task(), p, bytes, ATOMIC, site);
    if (fenced && (left.empty() || left.back() != block_number())) left.push_back(block_number());
}

} // namespace emu
