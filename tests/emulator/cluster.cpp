/* cluster.cpp - the barrier of a cluster, and what its blocks do to each other's shared memory.
 *
 * A block may copy into, and arrive at mbarriers in, the memory of another one of its cluster as long as that one has
 * not left the kernel.  Who does so later is caught in the act; and where nothing makes the other block wait, only that
 * it happened to be slower, when that block leaves. */
#include "tests/emulator/check.h"
#include "tests/emulator/hopper.h"

#include <algorithm>
#include <cstring>

namespace emu {

namespace {

Machine &m = machine;

struct {
    uint32_t arrived, to_wait;   /* warps, as bits; to_wait: have arrived and not begun to wait */
    unsigned generation;         /* how often it was complete */
    unsigned came_in[WARPS_MAX]; /* the generation that a warp arrived in last */
    unsigned time[WARPS_MAX];    /* of arrival */
    uint32_t waiting[WARPS_MAX];
    unsigned joined[WARPS_MAX], done[WARPS_MAX]; /* what those who came had done before: check.h */
} barrier;

/* The last time a warp changed another block's memory. */
struct Touch {
    const Task *by;
    unsigned time; /* 0 = never */
    Site site;
};
Touch touches[CLUSTER_MAX][WARPS_MAX];

/* Warps that have left count as arrived. */
void complete_check() {
    for (unsigned w = 0; w < m.n_warps; w++)
        if (!(barrier.arrived >> w & 1) && m.warps[w].exited != m.warps[w].lanes) return;
    if (!barrier.arrived) return;
    arrivals_land(barrier.arrived, barrier.time);
    memcpy(barrier.done, barrier.joined, sizeof barrier.done);
    memset(barrier.joined, 0, sizeof barrier.joined);
    barrier.arrived = 0;
    barrier.generation++;
    for (unsigned w = 0; w < m.n_warps; w++) {
        for (uint32_t rest = barrier.waiting[w]; rest; rest &= rest - 1)
            wake(&m.tasks[w * WARP + (unsigned)__builtin_ctz(rest)]);
        barrier.waiting[w] = 0;
    }
}

void run_arrive(void **, uint32_t, Site site) {
    hopper_needed("a cluster's barrier", site);
    unsigned w = current->linear / WARP, time = 0;
    if ((barrier.arrived | barrier.to_wait) >> w & 1)
        fault(site, "warp %u comes to the cluster's barrier twice without waiting for it", w % m.block_warps);
    Task *lanes = &m.tasks[w * WARP];
    for (unsigned l = 0; l < WARP; l++) time = std::max(time, lanes[l].time);
    for (unsigned l = 0; l < WARP; l++) lanes[l].time = time + 1;
    for (unsigned v = 0; v < m.n_warps; v++) barrier.joined[v] = std::max(barrier.joined[v], m.warps[w].known[v]);
    barrier.joined[w] = std::max(barrier.joined[w], time + 1);
    barrier.time[w] = time;
    barrier.arrived |= 1u << w;
    barrier.to_wait |= 1u << w;
    barrier.came_in[w] = barrier.generation;
    check_time(lanes);
    complete_check();
}

void run_wait(void **, uint32_t, Site site) {
    unsigned w = current->linear / WARP;
    if (!(barrier.to_wait >> w & 1))
        fault(site, "warp %u waits for the cluster's barrier without having arrived", w % m.block_warps);
    barrier.to_wait &= ~(1u << w);
}

const WarpOp arrive_op = {"cluster_arrive", run_arrive}, wait_op = {"cluster_wait", run_wait};

} // namespace

void cluster_begin() {
    barrier = {};
    memset(touches, 0, sizeof touches);
}

void cluster_history_restart() {
    memset(barrier.time, 0, sizeof barrier.time);
    memset(barrier.joined, 0, sizeof barrier.joined);
    memset(barrier.done, 0, sizeof barrier.done);
    memset(touches, 0, sizeof touches);
}

void cluster_left() { complete_check(); }

const Block &cluster_block(unsigned rank, Site site) {
    if (rank >= m.n_blocks) fault(site, "block %u of a cluster of %u", rank, m.n_blocks);
    return m.blocks[rank];
}

void cluster_touches(const Task *t, const Block &b, Site site) {
    if (t->block == &b) return;
    if (!m.blocks[b.rank].live)
        fault(site, "reaches into the shared memory of block %s, which has left the kernel",
              coordinates(b.index).c_str());
    touches[b.rank][t->linear / WARP] = {t, t->time, site};
}

void cluster_exit(const Block &b) {
    unsigned first = b.rank * m.block_warps;
    for (unsigned w = 0; w < m.n_warps; w++) {
        const Touch &touch = touches[b.rank][w];
        bool known = !touch.time;
        for (unsigned v = first; v < first + m.block_warps; v++) known |= m.warps[v].known[w] > touch.time;
        if (known) continue;
        current = const_cast<Task *>(touch.by);
        fault(touch.site,
              "reaches into the shared memory of block %s, and nothing keeps that block from leaving before",
              coordinates(b.index).c_str());
    }
}

void cluster_arrive(Site site) {
    warp_meet(&arrive_op, ~0u, nullptr, site);
    yield();
}

void cluster_wait(Site site) {
    warp_meet(&wait_op, ~0u, nullptr, site);
    Task *t = task();
    unsigned w = t->linear / WARP;
    while (barrier.generation == barrier.came_in[w]) {
        barrier.waiting[w] |= bit_of(t);
        t->state = IN_WARP_OP;
        t->site = site;
        t->waiting_for = "the cluster's barrier";
        park();
    }
    for (unsigned v = 0; v < m.n_warps; v++) m.warps[w].known[v] = std::max(m.warps[w].known[v], barrier.done[v]);
    yield();
}

} // namespace emu
