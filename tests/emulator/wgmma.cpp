/* wgmma.cpp - matrix products of a warpgroup: operands that are read late, results that come late.
 *
 * Each warp does its own 16 rows of the 64, and no warp waits for the other three, which is the most a GPU might allow
 * itself; that all four ask for the same is checked.  From its issue to the wait for its group an instruction may read
 * its operands at any time: here at once or at the wait, as the schedule likes, and both times it is checked that
 * nobody may have written there meanwhile.  Accumulators are NaN until then.  Sums add the products of a step one by
 * one, in float, and in descending k: mma adds them ascending, since nobody promises that the two instructions of a GPU
 * give the same bits, and kernels that have to agree must not mix them. */
#include "tests/emulator/check.h"
#include "tests/emulator/hopper.h"
#include "tests/emulator/tensor_map.h"
#include "tests/emulator/warp.h"

#include <algorithm>
#include <deque>

namespace emu {

namespace {

Machine &m = machine;

constexpr uint32_t POISON = 0xFFBADBADu; /* a signalling NaN: arithmetic changes it */
constexpr unsigned ROWS = 16, DEPTH = 16, WARPGROUP = 4, N_MAX = 256, REGISTERS = 65536;

/* A warp's accumulators that instructions under way add to. */
struct Sums {
    float *lane[WARP];
    unsigned n, under_way;
    float value[ROWS][N_MAX];
};
struct Instruction {
    Wgmma w;
    std::shared_ptr<Sums> sums;
    const uint32_t *from[WARP]; /* operand a in registers, and what it was */
    uint32_t registers[WARP][4];
    unsigned group;
    bool done;
    Site site;
};
struct WarpState {
    std::deque<Instruction> under_way;
    unsigned groups;
    bool fenced;
    uint64_t events; /* that all four warps of the group must have in common */
};
WarpState states[WARPS_MAX];

struct Event {
    const char *name;
    uint64_t a, b, form;
    Site site;
};
struct WarpGroupState {
    std::deque<Event> log;
    uint64_t forgotten; /* events at the front of the log that all four have passed */
    unsigned registers;
};
WarpGroupState warpgroups[WARPS_MAX / WARPGROUP];

unsigned warp_index() { return current->linear / WARP; }

/* The four warps of a warpgroup do the same, one after another. */
void group_event(const char *name, uint64_t a, uint64_t b, uint64_t form, Site site) {
    unsigned w = warp_index(), group = w / WARPGROUP;
    if (group * WARPGROUP + WARPGROUP > m.n_warps || m.warps[w].lanes != ~0u)
        fault(site, "%s needs whole warpgroups of 128 threads; the block has %u", name, m.block_threads);
    WarpGroupState &g = warpgroups[group];
    uint64_t i = states[w].events++ - g.forgotten;
    if (i == g.log.size()) g.log.push_back({name, a, b, form, site});
    const Event &e = g.log[(size_t)i];
    if (e.a != a || e.b != b || e.form != form || strcmp(e.name, name))
        fault(site, "warp %u calls %s where another warp of its warpgroup called %s%s, %s:%d", w, name, e.name,
              strcmp(e.name, name) ? "" : " with other operands", e.site.file, e.site.line);
    uint64_t least = UINT64_MAX;
    for (unsigned v = 0; v < WARPGROUP; v++) least = std::min(least, states[group * WARPGROUP + v].events);
    for (; g.forgotten < least; g.forgotten++) g.log.pop_front();
}

/* ---- descriptors ------------------------------------------------------------------------------------------------- */

struct Operand {
    unsigned start, leading, stride, span;
    bool along_k;
};

Operand decode(uint64_t d, bool along_k, Site site) {
    static const unsigned spans[] = {16, 128, 64, 32};
    if (d >> 49 & 7) fault(site, "a wgmma descriptor with a base offset, which the emulator does not know");
    return {(unsigned)(d & 0x3FFF) << 4, (unsigned)(d >> 16 & 0x3FFF) << 4, (unsigned)(d >> 32 & 0x3FFF) << 4,
            spans[d >> 62], along_k};
}

/* Where 8 elements (16 bytes) lie.  Along k: elements 8 chunk ... of line i.  Otherwise: lines 8 chunk ... at k = i. */
const char *chunk_at(const Operand &o, unsigned i, unsigned chunk) {
    unsigned width = o.span / 16, offset;
    if (o.along_k) {
        offset = i % 8 * o.span + i / 8 * o.stride + chunk * (width == 1 ? o.leading : 16);
    } else if (width == 1) {
        offset = i % 8 * 16 + i / 8 * o.leading + chunk * o.stride;
    } else {
        offset = i % 8 * o.span + i / 8 * o.stride + chunk % width * 16 + chunk / width * o.leading;
    }
    return reinterpret_cast<const char *>(current->block->shared) + swizzled(o.start + offset, o.span);
}

template <class F> void each_chunk(const Operand &o, unsigned first, unsigned lines, F f) {
    unsigned outer = o.along_k ? lines : DEPTH, inner = (o.along_k ? DEPTH : lines) / 8;
    for (unsigned i = 0; i < outer; i++)
        for (unsigned c = 0; c < inner; c++)
            f(i, c, o.along_k ? chunk_at(o, first + i, c) : chunk_at(o, i, first / 8 + c));
}

void check_reads(const Instruction &x) {
    Task *t = &m.tasks[warp_index() * WARP];
    unsigned first = warp_index() % WARPGROUP * ROWS;
    auto look = [&](unsigned, unsigned, const char *p) {
        shared_offset(p, x.site);
        check_access(t, p, 16, ASYNC_READ, x.site);
    };
    if (!x.w.a_registers) each_chunk(decode(x.w.a, x.w.a_along_k, x.site), first, ROWS, look);
    each_chunk(decode(x.w.b, x.w.b_along_k, x.site), 0, (unsigned)x.w.n, look);
}

/* to[line][k] */
template <unsigned STRIDE>
void fetch(float (*to)[STRIDE], const Operand &o, unsigned first, unsigned lines, bool by_k) {
    each_chunk(o, first, lines, [&](unsigned i, unsigned c, const char *p) {
        uint16_t bits[8];
        memcpy(bits, p, sizeof bits);
        for (unsigned e = 0; e < 8; e++) {
            unsigned line = o.along_k ? i : 8 * c + e, k = o.along_k ? 8 * c + e : i;
            uint32_t u = (uint32_t)bits[e] << 16;
            memcpy(by_k ? &to[k][line] : &to[line][k], &u, 4);
        }
    });
}

/* ---- one instruction --------------------------------------------------------------------------------------------- */

/* Register j of lane l: row l / 4 + 8 (j / 2 % 2), column 8 (j / 4) + 2 (l % 4) + j % 2. */
template <class F> void each_sum(unsigned n, F f) {
    for (unsigned l = 0; l < WARP; l++)
        for (unsigned j = 0; j < n / 2; j++) f(l, j, l / 4 + 8 * (j / 2 % 2), 8 * (j / 4) + 2 * (l % 4) + j % 2);
}

void fetch_registers(float (*a)[DEPTH], const Instruction &x) {
    for (unsigned l = 0; l < WARP; l++)
        for (unsigned i = 0; i < 4; i++) {
            if (x.from[l][i] != x.registers[l][i])
                fault(x.site, "registers of operand a of a wgmma were changed before the wait for it");
            uint32_t lo = x.registers[l][i] << 16, hi = x.registers[l][i] & 0xFFFF0000u;
            float *to = &a[l / 4 + 8 * (i & 1)][2 * (l % 4) + 8 * (i >> 1)];
            memcpy(to, &lo, 4);
            memcpy(to + 1, &hi, 4);
        }
}

void execute(Instruction &x) {
    alignas(64) static float a[ROWS][DEPTH], b[DEPTH][N_MAX];
    const unsigned n = (unsigned)x.w.n;
    if (x.w.a_registers) fetch_registers(a, x);
    else fetch<DEPTH>(a, decode(x.w.a, x.w.a_along_k, x.site), warp_index() % WARPGROUP * ROWS, ROWS, false);
    fetch<N_MAX>(b, decode(x.w.b, x.w.b_along_k, x.site), 0, n, true);
    for (unsigned r = 0; r < ROWS; r++) {
        float *sum = x.sums->value[r];
        if (!x.w.accumulate) memset(sum, 0, n * sizeof *sum);
        for (unsigned k = DEPTH; k-- > 0;)
            for (unsigned j = 0; j < n; j++) sum[j] += a[r][k] * b[k][j];
    }
    x.done = true;
}

/* Takes the accumulators away from the threads. */
void take(Sums &s, void **args, unsigned n) {
    s.n = n;
    s.under_way = 0;
    for (unsigned l = 0; l < WARP; l++) s.lane[l] = static_cast<Wgmma *>(args[l])->d;
    each_sum(n, [&](unsigned l, unsigned j, unsigned row, unsigned column) {
        memcpy(&s.value[row][column], &s.lane[l][j], 4);
        memcpy(&s.lane[l][j], &POISON, 4);
    });
}

void give_back(const Sums &s, Site site) {
    each_sum(s.n, [&](unsigned l, unsigned j, unsigned row, unsigned column) {
        if (memcmp(&s.lane[l][j], &POISON, 4))
            fault(site, "an accumulator of a wgmma was changed before the wait for it");
        memcpy(&s.lane[l][j], &s.value[row][column], 4);
    });
}

std::shared_ptr<Sums> sums_for(WarpState &s, void **args, unsigned n, Site site) {
    float *first = static_cast<Wgmma *>(args[0])->d;
    for (const Instruction &x : s.under_way) {
        if (x.sums->lane[0] != first) continue;
        if (x.sums->n != n) fault(site, "a wgmma of n = %u adds to what one of n = %u has under way", n, x.sums->n);
        return x.sums;
    }
    if (!s.fenced) fault(site, "a wgmma without wgmma_fence() since its registers were last the threads' to use");
    auto sums = std::make_shared<Sums>();
    take(*sums, args, n);
    return sums;
}

void run_issue(void **args, uint32_t, Site site) {
    const Wgmma &w = *static_cast<Wgmma *>(args[0]);
    hopper_needed("wgmma", site);
    for (unsigned l = 1; l < WARP; l++) {
        const Wgmma &o = *static_cast<Wgmma *>(args[l]);
        if (o.a != w.a || o.b != w.b || o.accumulate != w.accumulate || o.n != w.n)
            fault(site, "lanes 0 and %u of one warp give a wgmma different operands", l);
    }
    group_event("wgmma", w.a, w.b,
                (uint64_t)w.n << 4 | (uint64_t)(w.accumulate != 0) << 2 | w.a_along_k << 1 | w.b_along_k, site);
    WarpState &s = states[warp_index()];
    if (w.a_registers && !s.fenced)
        fault(site, "a wgmma without wgmma_fence() since its registers were last the threads' to use");
    Instruction x = {};
    x.w = w;
    x.group = s.groups;
    x.site = site;
    x.sums = sums_for(s, args, (unsigned)w.n, site);
    x.sums->under_way++;
    for (unsigned l = 0; w.a_registers && l < WARP; l++) {
        x.from[l] = static_cast<Wgmma *>(args[l])->a_registers;
        memcpy(x.registers[l], x.from[l], sizeof x.registers[l]);
    }
    tally.products += ROWS * DEPTH * (uint64_t)w.n;
    check_reads(x);
    bool in_order = s.under_way.empty() || s.under_way.back().done;
    if (in_order && (m.schedule == SCHEDULE_REVERSE || (m.schedule != SCHEDULE_FORWARD && m.random.next() % 2)))
        execute(x);
    s.under_way.push_back(x);
}

void run_fence(void **, uint32_t, Site) { states[warp_index()].fenced = true; }
void run_commit(void **, uint32_t, Site) { states[warp_index()].groups++; }

void run_wait(void **args, uint32_t, Site site) {
    WarpState &s = states[warp_index()];
    unsigned pending = *static_cast<unsigned *>(args[0]);
    while (!s.under_way.empty() && s.under_way.front().group + pending < s.groups) {
        Instruction &x = s.under_way.front();
        check_reads(x);
        if (!x.done) execute(x);
        if (x.w.a_registers) {
            float ignored[ROWS][DEPTH];
            fetch_registers(ignored, x);
        }
        if (!--x.sums->under_way) {
            give_back(*x.sums, site);
            s.fenced = false;
        }
        s.under_way.pop_front();
    }
}

void run_registers(void **args, uint32_t, Site site) {
    unsigned count = *static_cast<unsigned *>(args[0]);
    if (count < 24 || count > 256 || count % 8)
        fault(site, "setmaxnreg %u: must be 24 to 256 and a multiple of 8", count);
    group_event("setmaxnreg", count, 0, 0, site);
    warpgroups[warp_index() / WARPGROUP].registers = count;
}

const WarpOp issue_op = {"wgmma", run_issue}, fence_op = {"wgmma_fence", run_fence},
             commit_op = {"wgmma_commit", run_commit}, wait_op = {"wgmma_wait", run_wait},
             registers_op = {"setmaxnreg", run_registers};

} // namespace

void wgmma_block() {
    for (unsigned w = 0; w < m.n_warps; w++) states[w] = {};
    for (WarpGroupState &g : warpgroups) g = {};
}

/* All its threads have left. */
void wgmma_exit(const Block &b) {
    unsigned first = b.rank * m.block_warps, end = first + m.block_warps;
    unsigned groups = (m.block_warps + WARPGROUP - 1) / WARPGROUP, registers = 0, counted = 0;
    for (unsigned w = first; w < end; w++)
        if (!states[w].under_way.empty())
            fault(states[w].under_way[0].site, "the block ends while this wgmma of warp %u is under way", w);
    for (unsigned g = first / WARPGROUP; g < first / WARPGROUP + groups; g++) {
        if (!warpgroups[g].log.empty())
            fault(warpgroups[g].log[0].site, "not all warps of warpgroup %u came to this %s", g,
                  warpgroups[g].log[0].name);
        registers += 128 * warpgroups[g].registers;
        counted += warpgroups[g].registers != 0;
    }
    Site here = {__FILE__, __LINE__};
    if (registers > REGISTERS)
        fault(here, "the warpgroups take %u registers by setmaxnreg; there are 65536", registers);
    if (counted && counted != groups) fault(here, "%u of %u warpgroups called setmaxnreg", counted, groups);
}

void wgmma_issue(Wgmma *w, Site site) { warp_meet(&issue_op, ~0u, w, site); }
void wgmma_fence(Site site) { warp_meet(&fence_op, ~0u, nullptr, site); }
void wgmma_commit(Site site) { warp_meet(&commit_op, ~0u, nullptr, site); }
void wgmma_wait(unsigned pending, Site site) { warp_meet(&wait_op, ~0u, &pending, site); }
void registers_set(unsigned count, Site site) { warp_meet(&registers_op, ~0u, &count, site); }

} // namespace emu
