/* planted_cluster.cu - two blocks that share an operand by multicast, as matmul_sm90.cuh does, with one bug each, and
 * without. */
#include "tests/emulator/hopper_kernels.h"

namespace {

enum Bug {
    NONE,
    PEER_NOT_TOLD,       /* a stage is given back to the own producer only */
    PEER_NOT_WAITED_FOR, /* and that does not wait for more */
    COUNT_NOT_DOUBLED,   /* it is given back to both, who wait for half of that */
    TOLD_THE_SAME_BLOCK, /* twice, and the other one never */
    MASK_OF_ITSELF,
    MASK_OF_STRANGERS,
    FEW_BYTES, /* those that the block asks for, not those that come */
    MANY_BYTES,
    UNEQUAL_STEPS, /* one block has more to do than the other */
    NO_FIRST_BARRIER,
    NO_LAST_BARRIER,
    BARRIER_NOT_WAITED_FOR,
    BARRIER_NOT_COME_TO,
    GRID_OF_THREE,
    OLDER_GPU,
};

enum {
    STAGES = 2,
    TILES = 6,
    N = 16,
    K = 64 * TILES,
    A_BYTES = 64 * 128,
    B_HALF = N / 2 * 128,
    STAGE = A_BYTES + 2 * B_HALF,
    BARS = STAGES * STAGE,
    PAIR = 2
};

/* out (128, N) = a (128, K) b (N, K)^T, 64 rows a block; each block brings its rows of a and half of b's lines, for
 * both. */
template <Bug BUG>
__global__ void pair_kernel(const __grid_constant__ CUtensorMap a_map, const __grid_constant__ CUtensorMap b_map,
                            float *out) {
    DYNAMIC_SHARED(char, shared);
    uint64_t *full = (uint64_t *)(shared + BARS), *empty = full + STAGES;
    const int thread = (int)threadIdx.x, lane = thread % 32, rank = cluster_rank();
    const int tiles = TILES - (BUG == UNEQUAL_STEPS && rank);
    if (!thread) {
        for (int s = 0; s < STAGES; s++) {
            mbarrier_init(full + s, 1);
            mbarrier_init(empty + s, BUG == COUNT_NOT_DOUBLED || BUG == PEER_NOT_WAITED_FOR ? 4 : 8);
        }
        mbarrier_published();
    }
    __syncwarp();
    if (BUG == NO_FIRST_BARRIER) {
        __syncthreads();
    } else {
        if (BUG != BARRIER_NOT_COME_TO) cluster_arrive();
        cluster_wait();
    }
    if (thread < WARPGROUP) {
        for (int i = 0; i < tiles && !thread; i++) {
            const int s = i % STAGES, asked = A_BYTES + B_HALF;
            mbarrier_wait(empty + s, (i / STAGES & 1) ^ 1);
            mbarrier_expect(full + s, BUG == FEW_BYTES ? asked : BUG == MANY_BYTES ? STAGE + B_HALF : STAGE);
            tma_load_2d(shared + s * STAGE, &a_map, 64 * i, 64 * rank, full + s);
            tma_multicast_2d(shared + s * STAGE + A_BYTES + rank * B_HALF, &b_map, 64 * i, N / 2 * rank, full + s,
                             BUG == MASK_OF_ITSELF      ? 1 << rank
                             : BUG == MASK_OF_STRANGERS ? 7
                                                        : 3);
        }
    } else {
        float d[N / 8][4];
        for (int i = 0; i < tiles; i++) {
            const int s = i % STAGES;
            const uint64_t a = wgmma_descriptor(shared + s * STAGE, 16, 1024);
            const uint64_t b = wgmma_descriptor(shared + s * STAGE + A_BYTES, 16, 1024);
            mbarrier_wait(full + s, i / STAGES & 1);
            wgmma_fence();
            for (int k = 0; k < 4; k++)
                wgmma<N, true, true>(d, wgmma_advance(a, 32 * k), wgmma_advance(b, 32 * k), i || k);
            wgmma_commit();
            wgmma_wait<0>();
            if (BUG == PEER_NOT_TOLD || BUG == PEER_NOT_WAITED_FOR) {
                if (lane == 0) mbarrier_arrive(empty + s);
            } else if (lane < PAIR) {
                mbarrier_arrive_at(empty + s, BUG == TOLD_THE_SAME_BLOCK ? 0 : lane);
            }
        }
        store_sums<N>(out + rank * 64 * N, d);
    }
    __syncwarp();
    if (BUG == NO_LAST_BARRIER) return;
    cluster_arrive();
    if (BUG == BARRIER_NOT_WAITED_FOR) cluster_arrive();
    cluster_wait();
}

template <Bug BUG> int pair() {
    emu_config()->compute_capability = BUG == OLDER_GPU ? 80 : 90;
    std::vector<bf16> a = numbers(PAIR * 64 * K, 11), b = numbers(N * K, 13);
    Array<bf16> da(a), db(b);
    Array<float> out(PAIR * 64 * N);
    LAUNCH_CLUSTER(pair_kernel<BUG>, PAIR, BUG == GRID_OF_THREE ? 3 : PAIR, 2 * WARPGROUP, BARS + 64, nullptr,
                   map_of(da.device, K, PAIR * 64, K, 64, 64), map_of(db.device, K, N, K, 64, N / 2), out.device);
    if (cudaGetLastError()) return 2;
    std::vector<float> got = out.read();
    if (cudaGetLastError()) return 2;
    for (int i = 0; i < PAIR * 64; i++)
        for (int j = 0; j < N; j++) {
            float sum = 0;
            for (int k = 0; k < K; k++)
                sum += __bfloat162float(a[(size_t)(i * K + k)]) * __bfloat162float(b[(size_t)(j * K + k)]);
            if (got[(size_t)(i * N + j)] != sum) return 1;
        }
    return 0;
}
template <Bug BUG> int with(bool bug) { return bug ? pair<BUG>() : pair<NONE>(); }

const void *const same_twin = (const void *)pair<NONE>;

} // namespace

const Planted planted_cluster[] = {
    {"stage not given back to the other block", with<PEER_NOT_TOLD>, FAULT, "no thread can go on", same_twin},
    {"multicast into what the other block still reads", with<PEER_NOT_WAITED_FOR>, WRONG_RESULT,
     "race for|under way|no thread can go on", same_twin},
    {"arrivals of two blocks counted as of one", with<COUNT_NOT_DOUBLED>, WRONG_RESULT,
     "race for|under way|no thread can go on|threads arrive at an mbarrier", same_twin},
    {"arrivals of two blocks at the same one", with<TOLD_THE_SAME_BLOCK>, WRONG_RESULT,
     "race for|under way|no thread can go on|threads arrive at an mbarrier|nothing keeps that block", same_twin},
    {"multicast to one block only", with<MASK_OF_ITSELF>, FAULT, "no thread can go on", same_twin},
    {"multicast to a block that is not there", with<MASK_OF_STRANGERS>, FAULT, "a bulk copy into blocks 0x7",
     same_twin},
    {"bytes of the other block's multicast not expected", with<FEW_BYTES>, WRONG_RESULT,
     "race for|under way|no thread can go on|nobody has waited", same_twin},
    {"more bytes expected than two blocks bring", with<MANY_BYTES>, FAULT, "no thread can go on", same_twin},
    {"blocks of a cluster with unequal steps", with<UNEQUAL_STEPS>, FAULT, "no thread can go on|the block ends while",
     same_twin},
    {"cluster that begins without a barrier", with<NO_FIRST_BARRIER>, WRONG_RESULT,
     "race for|no mbarrier was initialized", same_twin},
    {"cluster that ends without a barrier", with<NO_LAST_BARRIER>, FAULT,
     "has left the kernel|nothing keeps that block from leaving|the block ends while this", same_twin},
    {"barrier of a cluster twice without a wait", with<BARRIER_NOT_WAITED_FOR>, FAULT, "twice without waiting",
     same_twin},
    {"barrier of a cluster waited for without coming", with<BARRIER_NOT_COME_TO>, FAULT, "without having arrived",
     same_twin},
    {"grid that is no multiple of its clusters", with<GRID_OF_THREE>, RUNTIME_ERROR, "in clusters of 2", same_twin},
    {"clusters on an older GPU", with<OLDER_GPU>, RUNTIME_ERROR, "clusters need compute capability 9.0", same_twin},
};
const int n_planted_cluster = sizeof planted_cluster / sizeof *planted_cluster;
