/* check.cpp - races and bad addresses of instrumented kernels; check.h says what is looked for. */
#include "tests/emulator/check.h"
#include "tests/emulator/runtime.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <link.h>
#include <map>
#include <sys/mman.h>
#include <unistd.h>
#include <unordered_map>

namespace emu {

bool checking;

namespace {

Machine &m = machine;

/* Who touched something, and when, in 32 bits; 0 = nobody. */
constexpr unsigned TIME_MAX = (1u << 17) - 2;
struct Record {
    uint32_t bytes : 4, special : 1, lane : 5, warp : 5, time : 17; /* special: ATOMIC or WARP_READ */
};
bool nobody(Record r) { return !r.bytes; }

struct SharedCell {
    uint32_t phase; /* of the records below */
    Record write, read[2];
    uint32_t write_pc, read_pc[2];
    uint32_t flying; /* async copies under way */
};
struct GlobalCell {
    uint32_t launch;
    uint32_t write_block, write_phase, write_pc;
    uint32_t read_block, read_phase, read_pc; /* blocks are counted from 1 */
    Record write, read;
    bool other_readers; /* a second block reads it, too */
};

uint32_t phase = 1, launch_number; /* phase: of the block, between two __syncthreads */
std::vector<SharedCell> cells;     /* dynamic shared memory, then the kernel's static variables from statics_low on */
const KernelSymbols *symbols;
const char *statics_low, *statics_high, *image_low, *image_high;
MemoryMap global;
GlobalCell *global_cells;

/* What this block's atomics found of other blocks, and what blocks have left for others to find. */
bool fenced;
std::vector<bool> acquired;
std::unordered_map<const void *, std::vector<uint32_t>> released;

uint32_t block_number() { return 1 + block.index.x + block.grid.x * (block.index.y + block.grid.y * block.index.z); }

/* ---- places in the source ------------------------------------------------------------------------------------ */
std::vector<Site> sites;
std::map<std::pair<const char *, int>, uint32_t> site_numbers;
constexpr uint32_t IS_SITE = 0x80000000u;

uint32_t place_of(Site site) {
    auto added = site_numbers.emplace(std::make_pair(site.file, site.line), (uint32_t)sites.size());
    if (added.second) sites.push_back(site);
    return added.first->second | IS_SITE;
}

uint32_t place_of(const void *pc) { return (uint32_t)(static_cast<const char *>(pc) - image_low); }

/* The kernel's own line: of functions inlined there, the emulator's are left out. */
std::string place_name(uint32_t place) {
    if (place & IS_SITE) {
        const Site &site = sites[place & ~IS_SITE];
        return std::string(site.file) + ":" + std::to_string(site.line);
    }
    char exe[4096], command[4300], line[1024];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    exe[n > 0 ? n : 0] = 0;
    snprintf(command, sizeof command, "addr2line -i -e '%s' 0x%x 2>/dev/null", exe, place - 1);
    std::string best;
    if (FILE *f = popen(command, "r")) {
        while (fgets(line, sizeof line, f)) {
            std::string text(line, strcspn(line, "\n"));
            if (text.find("tests/emulator/") != std::string::npos && text.find("planted") == std::string::npos)
                continue;
            size_t root = text.find("/kernels/cuda/");
            if (best.empty())
                best = root != std::string::npos  ? text.substr(root + 1)
                       : text.compare(0, 2, "./") ? text
                                                  : text.substr(2);
        }
        pclose(f);
    }
    snprintf(line, sizeof line, "+0x%x", place);
    return best.empty() || best[0] == '?' ? line : best.substr(0, best.find(" (disc"));
}

std::string thread_name(unsigned linear) { return "thread " + coordinates(m.tasks[linear].index); }

std::string memory_name(const char *p) {
    if (p >= statics_low && p < statics_high) {
        for (const SharedVariable &v : symbols->shared) {
            auto *low = static_cast<const char *>(v.address);
            if (p >= low && p < low + v.size) return "shared " + v.name + " + " + std::to_string(p - low) + " bytes";
        }
        return "static shared memory";
    }
    auto *shared = reinterpret_cast<const char *>(block.shared);
    if (p >= shared && p < shared + SHARED_MAX)
        return "dynamic shared memory + " + std::to_string(p - shared) + " bytes";
    const Allocation *a = memory_find(p, 0);
    if (!a) return "memory";
    return "byte " + std::to_string(p - reinterpret_cast<const char *>(a->address)) + " of an allocation of " +
           std::to_string(a->bytes);
}

const char *verb(Access what, bool past) {
    return what == READ || what == WARP_READ ? past ? "read" : "reads"
           : what == WRITE                   ? past ? "wrote" : "writes"
           : past                            ? "changed (atomically)"
                                             : "changes (atomically)";
}

[[noreturn, gnu::cold]] void race(const char *p, const Task *t, Access what, uint32_t place, const std::string &other,
                                  Access before, uint32_t before_place) {
    stop_with(heading() + ": race for " + memory_name(p) + ": " + thread_name(t->linear) + " " + verb(what, false) +
              " at " + place_name(place) + " what " + other + " " + verb(before, true) + " at " +
              place_name(before_place) + ", and nothing orders the two");
}

[[noreturn, gnu::cold]] void bad(const Task *t, const void *p, size_t bytes, Access what, uint32_t place,
                                 const std::string &why) {
    char text[100];
    snprintf(text, sizeof text, " %s %zu bytes at %p: ", verb(what, false), bytes, p);
    stop_with(heading() + ", " + thread_name(t->linear) + ", " + place_name(place) + ":" + text + why,
              cudaErrorIllegalAddress);
}

/* ---- order --------------------------------------------------------------------------------------------------- */
Record record_of(const Task *t, unsigned bytes, Access what) {
    return {bytes, what == ATOMIC || what == WARP_READ, t->linear % WARP, t->linear / WARP,
            t->time < TIME_MAX ? t->time : TIME_MAX};
}

/* Could r, of this block, have happened at the same time as an access of t? */
inline bool unordered(Record r, const Task *t, unsigned bytes) {
    if (!(r.bytes & bytes)) return false;
    unsigned w = t->linear / WARP;
    if (r.warp == w) return r.lane != t->linear % WARP && r.time >= t->time;
    return r.time >= m.warps[w].known[r.warp];
}

/* The last write, by another thread, against an access. */
inline bool unordered_write(Record r, const Task *t, unsigned bytes, Access what) {
    return !(r.special && what == ATOMIC) && unordered(r, t, bytes);
}

/* A read against a write.  What a warp read as one instruction all of its lanes have read. */
inline bool unordered_read(Record r, const Task *t, unsigned bytes) {
    return !(r.special && r.warp == t->linear / WARP) && unordered(r, t, bytes);
}

std::string thread_of(Record r) { return thread_name(r.warp * WARP + r.lane); }

/* Forgets what came before: nothing more can be said about it. */
void restart() {
    phase++;
    for (unsigned i = 0; i < m.threads; i++) m.tasks[i].time = 1;
    for (unsigned w = 0; w < m.n_warps; w++) memset(m.warps[w].known, 0, sizeof m.warps[w].known);
    for (Barrier &b : m.barriers) memset(b.time, 0, sizeof b.time);
}

/* ---- shared memory ------------------------------------------------------------------------------------------- */
[[noreturn, gnu::cold]] void still_flying(const char *p, const Task *t, size_t bytes, Access what, uint32_t place) {
    std::string by;
    for (unsigned i = 0; i < m.threads; i++)
        for (const AsyncCopy &c : m.tasks[i].copies) {
            auto *low = reinterpret_cast<const char *>(c.shared);
            if (by.empty() && p + bytes > low && p < low + c.size)
                by = thread_name(i) + " at " + c.site.file + ":" + std::to_string(c.site.line);
        }
    stop_with(heading() + ", " + thread_name(t->linear) + ", " + place_name(place) + ": " + verb(what, false) + " " +
              memory_name(p) + ", into which an asynchronous copy of " + by +
              " is under way: nobody has waited for it");
}

void remember_read(SharedCell &c, Record r, uint32_t place) {
    if (!nobody(c.read[0]) && c.read[0].warp != r.warp) {
        c.read[1] = c.read[0];
        c.read_pc[1] = c.read_pc[0];
    }
    c.read[0] = r;
    c.read_pc[0] = place;
}

inline void shared_cell_access(SharedCell &c, const char *p, const Task *t, unsigned bytes, Access what,
                               uint32_t place) {
    if (c.flying) still_flying(p, t, 4, what, place);
    if (c.phase != phase) {
        c.write = c.read[0] = c.read[1] = {};
        c.phase = phase;
    }
    if (unordered_write(c.write, t, bytes, what))
        race(p, t, what, place, thread_of(c.write), c.write.special ? ATOMIC : WRITE, c.write_pc);
    Record r = record_of(t, bytes, what);
    if (what == READ || what == WARP_READ) {
        remember_read(c, r, place);
        return;
    }
    for (int i = 0; i < 2; i++)
        if (unordered_read(c.read[i], t, bytes)) race(p, t, what, place, thread_of(c.read[i]), READ, c.read_pc[i]);
    c.write = r;
    c.write_pc = place;
}

/* Which of a cell's four bytes belong to p[0..bytes), and on to the next cell. */
template <class F> inline void each_cell(const char *p, size_t bytes, size_t first, const char *base, F f) {
    size_t offset = (size_t)(p - base), in = offset & 3;
    if (in + bytes <= 4) {
        f(first + offset / 4, p, ((1u << bytes) - 1) << in);
        return;
    }
    while (bytes) {
        size_t n = std::min(bytes, 4 - in);
        f(first + offset / 4, p, ((1u << n) - 1) << in);
        p += n;
        offset += n;
        bytes -= n;
        in = 0;
    }
}

void shared_access(const Task *t, const char *p, size_t bytes, size_t first, const char *base, Access what,
                   uint32_t place) {
    each_cell(p, bytes, first, base,
              [&](size_t i, const char *at, unsigned mask) { shared_cell_access(cells[i], at, t, mask, what, place); });
}

[[noreturn, gnu::cold]] void behind_shared(const Task *t, const char *p, size_t bytes, Access what, uint32_t place) {
    auto *end = reinterpret_cast<const char *>(block.shared) + m.launch->shared;
    bad(t, p, bytes, what, place,
        std::to_string(p + bytes - end) + " bytes behind the block's " + std::to_string(m.launch->shared) +
            " bytes of dynamic shared memory");
}

/* The cells of an address in static shared memory; a bad one does not return. */
void in_statics(const Task *t, const char *p, size_t bytes, Access what, uint32_t place) {
    for (const SharedVariable &v : symbols->shared) {
        auto *low = static_cast<const char *>(v.address);
        if (p >= low && p + bytes <= low + v.size) return;
    }
    bad(t, p, bytes, what, place, "outside every __shared__ variable of the kernel, next to " + memory_name(p));
}

/* Where an address in shared memory has its cells; false = it is in none. */
inline bool in_shared(const Task *t, const char *p, size_t bytes, Access what, uint32_t place, size_t *first,
                      const char **base) {
    auto *shared = reinterpret_cast<const char *>(block.shared);
    if ((size_t)(p - shared) < SHARED_MAX + 1024) {
        *first = 0;
        *base = shared;
        if (p + bytes > shared + m.launch->shared) behind_shared(t, p, bytes, what, place);
        return true;
    }
    if (p < statics_low || p >= statics_high) return false;
    *first = (SHARED_MAX + 1024) / 4;
    *base = statics_low;
    in_statics(t, p, bytes, what, place);
    return true;
}

/* ---- global memory ------------------------------------------------------------------------------------------- */
bool other_block(uint32_t b) { return b && b != block_number() && !(b < acquired.size() && acquired[b]); }

void global_cell_access(GlobalCell &c, const char *p, const Task *t, unsigned bytes, Access what, uint32_t place) {
    if (c.launch != launch_number) {
        c = {};
        c.launch = launch_number;
    }
    uint32_t here = block_number();
    bool same = c.write_block == here && c.write_phase == phase;
    bool both_atomic = c.write.special && what == ATOMIC;
    if (other_block(c.write_block) && (c.write.bytes & bytes) && !both_atomic)
        race(p, t, what, place, "block " + std::to_string(c.write_block - 1), c.write.special ? ATOMIC : WRITE,
             c.write_pc);
    if (same && unordered_write(c.write, t, bytes, what))
        race(p, t, what, place, thread_of(c.write), c.write.special ? ATOMIC : WRITE, c.write_pc);
    if (what == READ) {
        c.other_readers |= c.read_block && c.read_block != here;
        c.read_block = here;
        c.read_phase = phase;
        c.read = record_of(t, bytes, what);
        c.read_pc = place;
        return;
    }
    bool overlap = c.read.bytes & bytes;
    if (overlap && (other_block(c.read_block) || (c.other_readers && acquired.empty())))
        race(p, t, what, place,
             other_block(c.read_block) ? "block " + std::to_string(c.read_block - 1) : "another block", READ,
             c.read_pc);
    if (c.read_block == here && c.read_phase == phase && unordered_read(c.read, t, bytes))
        race(p, t, what, place, thread_of(c.read), READ, c.read_pc);
    c.write_block = here;
    c.write_phase = phase;
    c.write = record_of(t, bytes, what);
    c.write_pc = place;
}

void global_access(const Task *t, const char *p, size_t bytes, Access what, uint32_t place) {
    auto *base = reinterpret_cast<const char *>(global.base);
    const Allocation *a = global.units[(size_t)(p - base) / global.unit];
    if (!a) bad(t, p, bytes, what, place, "no GPU memory is allocated there (any more)");
    auto *low = reinterpret_cast<const char *>(a->address);
    if (p < low)
        bad(t, p, bytes, what, place,
            std::to_string(low - p) + " bytes before an allocation of " + std::to_string(a->bytes));
    if (p + bytes > low + a->bytes)
        bad(t, p, bytes, what, place,
            "ends " + std::to_string(p + bytes - low - a->bytes) + " bytes behind an allocation of " +
                std::to_string(a->bytes));
    each_cell(p, bytes, 0, base, [&](size_t i, const char *at, unsigned mask) {
        global_cell_access(global_cells[i], at, t, mask, what, place);
    });
}

void access_at(const Task *t, const void *where, size_t bytes, Access what, uint32_t place) {
    auto *p = static_cast<const char *>(where);
    size_t first = 0;
    const char *base = nullptr;
    if (in_shared(t, p, bytes, what, place, &first, &base)) {
        shared_access(t, p, bytes, first, base, what, place);
        return;
    }
    if (what == WARP_READ) bad(t, p, bytes, what, place, "ldmatrix reads shared memory only");
    if (p >= reinterpret_cast<const char *>(global.base) &&
        p < reinterpret_cast<const char *>(global.base) + global.size) {
        global_access(t, p, bytes, what, place);
        return;
    }
    if (p >= image_low && p < image_high) return; /* constants, and the emulator's own threadIdx and so on */
    auto *args = static_cast<const char *>(m.launch->args);
    if (p >= args && p < args + m.launch->args_bytes && what == READ) return;
    if (memory_find(p, bytes)) return; /* page-locked */
    bad(t, p, bytes, what, place, "that is no memory of the GPU");
}

int image_range(struct dl_phdr_info *info, size_t, void *) {
    image_low = image_high = reinterpret_cast<const char *>(info->dlpi_addr);
    for (int i = 0; i < info->dlpi_phnum; i++)
        if (info->dlpi_phdr[i].p_type == PT_LOAD)
            image_high =
                std::max(image_high, reinterpret_cast<const char *>(info->dlpi_addr + info->dlpi_phdr[i].p_vaddr +
                                                                    info->dlpi_phdr[i].p_memsz));
    return 1; /* the executable comes first */
}

GlobalCell *cells_of(int device) {
    static std::vector<GlobalCell *> all;
    while (all.size() <= (size_t)device) all.push_back(nullptr);
    if (!all[(size_t)device]) {
        void *p = mmap(nullptr, global.size / 4 * sizeof(GlobalCell), PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED) {
            fprintf(stderr, "emulator: no address space for the history of %zu bytes of GPU memory\n", global.size);
            abort();
        }
        all[(size_t)device] = static_cast<GlobalCell *>(p);
    }
    return all[(size_t)device];
}

} // namespace

/* ---- what the others call ------------------------------------------------------------------------------------ */
void check_launch(const KernelSymbols &k) {
    if (!checking) return;
    if (!image_low) dl_iterate_phdr(image_range, nullptr);
    symbols = &k;
    global = memory_map(m.launch->device);
    global_cells = cells_of(m.launch->device);
    statics_low = statics_high = nullptr;
    for (const SharedVariable &v : k.shared) {
        auto *low = static_cast<const char *>(v.address);
        if (!statics_low || low < statics_low) statics_low = low;
        if (low + v.size > statics_high) statics_high = low + v.size;
    }
    statics_low -= reinterpret_cast<uintptr_t>(statics_low) % 4;
    size_t need = (SHARED_MAX + 1024 + (size_t)(statics_high - statics_low)) / 4 + 1;
    if (cells.size() < need) cells.resize(need);
    if (launch_number++ == UINT32_MAX || phase > UINT32_MAX / 2) abort();
    released.clear();
}

void check_block() {
    if (!checking) return;
    restart();
    fenced = false;
    acquired.clear();
}

void check_warp_sync(Warp &warp, uint32_t mask) {
    if (!checking) return;
    Task *lanes = &m.tasks[(&warp - m.warps) * WARP];
    unsigned time = 0;
    for (uint32_t rest = mask; rest; rest &= rest - 1) time = std::max(time, lanes[__builtin_ctz(rest)].time);
    for (uint32_t rest = mask; rest; rest &= rest - 1) lanes[__builtin_ctz(rest)].time = time + 1;
    if (time + 2 >= TIME_MAX) restart();
}

/* Those who wait learn what everybody who came knows, and what those did before they came. */
void check_barrier(Barrier &b, int id) {
    if (!checking) return;
    unsigned latest = 0, joined[WARPS_MAX] = {};
    for (unsigned w = 0; w < m.n_warps; w++) {
        if (!b.from[w]) continue;
        latest = std::max(latest, b.time[w]);
        for (unsigned v = 0; v < m.n_warps; v++) joined[v] = std::max(joined[v], m.warps[w].known[v]);
        joined[w] = std::max(joined[w], b.time[w] + 1);
    }
    if (!id) phase++;
    if (latest + 2 >= TIME_MAX) return restart();
    for (unsigned w = 0; w < m.n_warps; w++)
        if (b.waiting[w] || (current->linear / WARP == w && b.from[w]))
            for (unsigned v = 0; v < m.n_warps; v++) m.warps[w].known[v] = std::max(m.warps[w].known[v], joined[v]);
}

void check_access(Task *t, const void *p, unsigned bytes, Access what, Site site) {
    if (checking) access_at(t, p, bytes, what, place_of(site));
}

void check_access_at(const void *p, size_t bytes, Access what, const void *pc) {
    access_at(task(), p, bytes, what, place_of(pc));
}

void check_misaligned(const void *p, size_t bytes, Access what, const void *pc) {
    bad(task(), p, bytes, what, place_of(pc), "the address is no multiple of " + std::to_string(bytes));
}

/* From its start to the wait for it, nobody may touch where a copy goes. */
void check_copy_starts(Task *t, void *p, unsigned bytes, Site site) {
    if (!checking) return;
    size_t first = 0;
    const char *base = nullptr;
    uint32_t place = place_of(site);
    if (!in_shared(t, static_cast<const char *>(p), bytes, WRITE, place, &first, &base))
        bad(t, p, bytes, WRITE, place, "the destination of an asynchronous copy is not in shared memory");
    shared_access(t, static_cast<const char *>(p), bytes, first, base, WRITE, place);
    each_cell(static_cast<const char *>(p), bytes, first, base,
              [](size_t i, const char *, unsigned) { cells[i].flying++; });
}

/* For everybody else it is a write of the thread that waited. */
void check_copy_ends(Task *t, const AsyncCopy &copy) {
    if (!checking) return;
    auto *p = reinterpret_cast<const char *>(copy.shared);
    size_t first = 0;
    const char *base = nullptr;
    in_shared(t, p, copy.size, WRITE, 0, &first, &base);
    uint32_t place = place_of(copy.site);
    each_cell(p, copy.size, first, base, [&](size_t i, const char *, unsigned mask) {
        SharedCell &c = cells[i];
        c.flying--;
        if (c.phase != phase) c.read[0] = c.read[1] = {};
        c.phase = phase;
        c.write = record_of(t, mask, WRITE);
        c.write_pc = place;
    });
}

void check_stopped() {
    for (SharedCell &c : cells) c.flying = 0;
}

void fence() { fenced = true; }

void atomic_access(const void *p, unsigned bytes, Site site) {
    if (!checking || !current) return;
    std::vector<uint32_t> &left = released[p];
    for (uint32_t b : left) {
        if (acquired.size() <= b) acquired.resize(b + 1);
        acquired[b] = true;
    }
    check_access(task(), p, bytes, ATOMIC, site);
    if (fenced && (left.empty() || left.back() != block_number())) left.push_back(block_number());
}

} // namespace emu

int emu_checks_accesses(void) { return emu::checking; }
