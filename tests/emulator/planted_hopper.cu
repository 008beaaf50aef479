/* planted_hopper.cu - a pipeline of bulk copies and wgmma with one bug each, and without. */
#include "tests/emulator/hopper_kernels.h"

namespace {

enum Bug {
    NONE,
    NO_FULL_WAIT,        /* the operands are not waited for */
    NO_EMPTY_WAIT,       /* the producer overwrites what is still read */
    EARLY_RELEASE,       /* a stage is given back before the wait for its wgmma */
    RELEASE_BY_ONE_WARP, /* for the other three */
    WRONG_PARITY,
    FEW_BYTES_EXPECTED,
    MANY_BYTES_EXPECTED,
    NOT_PUBLISHED,
    NO_PROXY_FENCE,
    NO_WGMMA_FENCE,
    NO_LAST_WAIT, /* sums are read while under way */
    SUMS_TOUCHED,
    WARP_LEFT_OUT,
    WRONG_STRIDE,
    MISALIGNED_STAGE,
    COPY_LEFT_BEHIND,
    TOO_MANY_REGISTERS,
    UNEQUAL_REGISTERS,
    NO_MBARRIER,
    ARRIVED_TWICE,
    LATE_LANES, /* they wait for a phase that others have left behind */
};

enum {
    STAGES = 2,
    TILES = 6,
    N = 16,
    A_BYTES = 64 * 128,
    STAGE = A_BYTES + 2048,
    BARS = STAGES * STAGE,
    K = 64 * TILES
};

/* One warpgroup copies, one multiplies: out (64, N) = a (64, K) b (N, K)^T + ones, which its threads write to shared
 * memory as a last pair of operands. */
template <Bug BUG>
__global__ void pipeline_kernel(const __grid_constant__ CUtensorMap a_map, const __grid_constant__ CUtensorMap b_map,
                                float *out) {
    DYNAMIC_SHARED(char, shared);
    uint64_t *full = (uint64_t *)(shared + BARS), *empty = full + STAGES;
    char *extra = shared + BARS + 1024;
    const int thread = (int)threadIdx.x, warp = thread / 32;
    if (!thread) {
        for (int s = 0; s < STAGES; s++) {
            if (BUG != NO_MBARRIER) mbarrier_init(full + s, 1);
            mbarrier_init(empty + s, BUG == RELEASE_BY_ONE_WARP ? 1 : 4);
        }
        if (BUG != NOT_PUBLISHED) mbarrier_published();
    }
    __syncthreads();
    if (thread < WARPGROUP) {
        if (BUG != UNEQUAL_REGISTERS || warp != 2) registers_release<40>();
        else registers_release<24>();
        if (BUG == LATE_LANES ? warp : thread) return;
        for (int i = 0; i < TILES + (BUG == COPY_LEFT_BEHIND) && !thread; i++) {
            int s = i % STAGES;
            char *stage = shared + s * STAGE + (BUG == MISALIGNED_STAGE ? 128 : 0);
            if (BUG != NO_EMPTY_WAIT) mbarrier_wait(empty + s, (i / STAGES & 1) ^ (BUG != WRONG_PARITY));
            mbarrier_expect(full + s, BUG == FEW_BYTES_EXPECTED    ? A_BYTES
                                      : BUG == MANY_BYTES_EXPECTED ? STAGE + 16
                                                                   : STAGE);
            if (BUG == ARRIVED_TWICE) mbarrier_arrive(full + s);
            tma_load_2d(stage, &a_map, 64 * i, 0, full + s);
            tma_load_2d(stage + A_BYTES, &b_map, 64 * i, 0, full + s);
        }
        if (BUG == LATE_LANES) {
            if (!thread) mbarrier_wait(empty, 0); /* for the third phase's end */
            __syncwarp();
            mbarrier_wait(empty, 1); /* for the second's: from here on it looks like the fourth's */
        }
        return;
    }
    registers_take<232>();
    if (thread >= 2 * WARPGROUP) return;
    float d[N / 8][4];
    for (int i = 0; i < TILES; i++) {
        int s = i % STAGES;
        uint64_t a = wgmma_descriptor(shared + s * STAGE, 16, BUG == WRONG_STRIDE ? 512 : 1024);
        uint64_t b = wgmma_descriptor(shared + s * STAGE + A_BYTES, 16, 1024);
        if (BUG != NO_FULL_WAIT) mbarrier_wait(full + s, i / STAGES & 1);
        if (BUG != NO_WGMMA_FENCE) wgmma_fence();
        for (int k = 0; k < 4; k++)
            if (BUG != WARP_LEFT_OUT || warp != 6 || i != 3 || k != 2)
                wgmma<N, true, true>(d, wgmma_advance(a, 32 * k), wgmma_advance(b, 32 * k), i || k);
        wgmma_commit();
        if (BUG == SUMS_TOUCHED && i == 3) d[1][2] += 1;
        if (BUG != EARLY_RELEASE) wgmma_wait<0>();
        if (thread % 32 == 0 && (BUG != RELEASE_BY_ONE_WARP || warp == 4)) mbarrier_arrive(empty + s);
        if (BUG == EARLY_RELEASE) wgmma_wait<0>();
    }
    /* Ones in all of a's first 16 columns, and of b's: adds 16 to each sum, whatever the swizzle. */
    for (int i = thread - WARPGROUP; i < A_BYTES / 2; i += WARPGROUP) ((bf16 *)extra)[i] = __float2bfloat16(1.0f);
    if (BUG != NO_PROXY_FENCE) proxy_fence();
    barrier_sync(1, WARPGROUP);
    wgmma_fence();
    uint64_t ones = wgmma_descriptor(extra, 16, 1024);
    wgmma<N, true, true>(d, ones, ones, 1);
    wgmma_commit();
    if (BUG != NO_LAST_WAIT) wgmma_wait<0>();
    store_sums<N>(out, d);
    if (BUG == NO_LAST_WAIT) wgmma_wait<0>();
}

template <Bug BUG> int pipeline() {
    emu_config()->compute_capability = 90;
    std::vector<bf16> a = numbers(64 * K, 11), b = numbers(N * K, 13);
    Array<bf16> da(a), db(b);
    Array<float> out(64 * N);
    auto kernel = pipeline_kernel<BUG>;
    LAUNCH(kernel, 1, (BUG == TOO_MANY_REGISTERS ? 4 : 2) * WARPGROUP, BARS + 1024 + A_BYTES, nullptr,
           map_of(da.device, K, 64, K, 64, 64), map_of(db.device, K, N, K, 64, N), out.device);
    std::vector<float> got = out.read();
    if (cudaGetLastError()) return 2;
    for (int i = 0; i < 64; i++)
        for (int j = 0; j < N; j++) {
            float sum = 16;
            for (int k = 0; k < K; k++)
                sum += __bfloat162float(a[(size_t)(i * K + k)]) * __bfloat162float(b[(size_t)(j * K + k)]);
            if (got[(size_t)(i * N + j)] != sum) return 1;
        }
    return 0;
}
template <Bug BUG> int with(bool bug) { return bug ? pipeline<BUG>() : pipeline<NONE>(); }

/* ---- turns of two warpgroups --------------------------------------------------------------------------------------
 */

enum Mistake {
    NO_MISTAKE,
    NOBODY_BEGINS,  /* the first turn is not given */
    TURN_NOT_TAKEN, /* one warpgroup goes on without its turn */
    TURN_NOT_GIVEN, /* and one keeps it */
    TURN_GIVEN_TWICE,
};
enum { TURNS = 4 };

/* As attention_sm90.cu issues its products: barrier w lets warpgroup w, whose turn comes TURNS times, number them. */
template <Mistake MISTAKE> __global__ void turns_kernel(int *out) {
    DYNAMIC_SHARED(int, next);
    const int group = (int)threadIdx.x / WARPGROUP, both = 2 * WARPGROUP;
    if (!threadIdx.x) *next = 0;
    __syncthreads();
    if (group == 1 && MISTAKE != NOBODY_BEGINS) barrier_arrive(1, both);
    for (int i = 0; i < TURNS; i++) {
        const bool here = i == 2 && group == 0;
        if (MISTAKE == TURN_NOT_TAKEN && here) barrier_arrive(1, both);
        else barrier_sync(1 + group, both);
        if (threadIdx.x % WARPGROUP == 0) out[2 * i + group] = (*next)++;
        __syncwarp();
        if (MISTAKE == TURN_NOT_GIVEN && here) continue;
        if (group == 0 || i + 1 < TURNS) barrier_arrive(2 - group, both);
        if (MISTAKE == TURN_GIVEN_TWICE && here) barrier_arrive(2 - group, both);
    }
}
template <Mistake MISTAKE> int turns() {
    emu_config()->compute_capability = 90;
    Array<int> out(2 * TURNS);
    LAUNCH(turns_kernel<MISTAKE>, 1, 2 * WARPGROUP, 4, nullptr, out.device);
    std::vector<int> got = out.read();
    for (int i = 0; i < 2 * TURNS; i++)
        if (got[(size_t)i] != i) return 1;
    return 0;
}
template <Mistake MISTAKE> int in_turn(bool bug) { return bug ? turns<MISTAKE>() : turns<NO_MISTAKE>(); }

/* ---- bulk stores --------------------------------------------------------------------------------------------------
 */

enum Slip {
    NO_SLIP,
    STORE_NOT_FENCED,
    BOX_REUSED,     /* the box is written again before the copy engine has read it */
    NO_STORE_WAIT,  /* the block ends before */
    NOT_COMMITTED,  /* the wait does not know of the store */
    WAIT_OF_OTHERS, /* by another thread than the one that asked for the store */
};
enum { BOXES = 5, BOX_ROWS = 16 };

/* A warp writes rows of 64 numbers, 16 at a time, through two boxes: out (70, 60), the last box partly outside. */
template <Slip SLIP> __global__ void stores_kernel(const __grid_constant__ CUtensorMap map) {
    DYNAMIC_SHARED(char, shared);
    const int lane = (int)threadIdx.x, waits = SLIP == WAIT_OF_OTHERS ? 1 : 0;
    for (int i = 0; i < BOXES; i++) {
        char *box = shared + i % 2 * BOX_ROWS * 128;
        if (lane == waits && SLIP != BOX_REUSED) tma_store_wait<1>();
        __syncwarp();
        for (int j = lane; j < BOX_ROWS * 64; j += 32) {
            const int row = j / 64, column = j % 64, chunk = column / 8 ^ row % 8;
            ((bf16 *)(box + row * 128 + chunk * 16))[column % 8] = __float2bfloat16((float)(2 * i + row % 2));
        }
        if (SLIP != STORE_NOT_FENCED) proxy_fence();
        __syncwarp();
        if (lane == 0) {
            tma_store_2d(&map, 0, i * BOX_ROWS, box);
            if (SLIP != NOT_COMMITTED) tma_store_commit();
        }
    }
    if (lane == waits && SLIP != NO_STORE_WAIT) tma_store_wait<0>();
}
template <Slip SLIP> int stores() {
    emu_config()->compute_capability = 90;
    const int rows = 70, columns = 60, stride = 64;
    Array<bf16> out(std::vector<bf16>((size_t)(rows * stride), __float2bfloat16(-1.0f)));
    LAUNCH(stores_kernel<SLIP>, 1, 32, 2 * BOX_ROWS * 128, nullptr,
           map_of(out.device, columns, rows, stride, 64, BOX_ROWS));
    std::vector<bf16> got = out.read();
    if (cudaGetLastError()) return 2;
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < stride; j++)
            if (__bfloat162float(got[(size_t)(i * stride + j)]) != (j < columns ? (float)(i / 16 * 2 + i % 2) : -1.0f))
                return 1;
    return 0;
}
template <Slip SLIP> int stored(bool bug) { return bug ? stores<SLIP>() : stores<NO_SLIP>(); }

__global__ void older_kernel(int *out) {
    DYNAMIC_SHARED(uint64_t, bar);
    mbarrier_init(bar, 1);
    *out = 1;
}
int older_gpu(bool bug) {
    Array<int> out(1);
    emu_config()->compute_capability = bug ? 80 : 90;
    LAUNCH(older_kernel, 1, 1, 8, nullptr, out.device);
    return out.read()[0] == 1 ? 0 : 1;
}

const void *const same_twin = (const void *)pipeline<NONE>, *const same_turns = (const void *)turns<NO_MISTAKE>,
                  *const same_stores = (const void *)stores<NO_SLIP>;

} // namespace

const Planted planted_hopper[] = {
    {"bulk copy read without a wait", with<NO_FULL_WAIT>, WRONG_RESULT, "under way|race for|nobody has waited",
     same_twin},
    {"bulk copy into what is still read", with<NO_EMPTY_WAIT>, WRONG_RESULT,
     "race for|under way|no thread can go on|more than 1 threads arrive", same_twin},
    {"stage given back before wgmma_wait", with<EARLY_RELEASE>, WRONG_RESULT, "race for|under way", same_twin},
    {"stage given back by one warp for four", with<RELEASE_BY_ONE_WARP>, WRONG_RESULT,
     "race for|under way|no thread can go on", same_twin},
    {"wrong parity of an mbarrier", with<WRONG_PARITY>, WRONG_RESULT, "no thread can go on|race for|under way",
     same_twin},
    {"fewer bytes expected than copied", with<FEW_BYTES_EXPECTED>, WRONG_RESULT,
     "no thread can go on|under way|race for", same_twin},
    {"more bytes expected than copied", with<MANY_BYTES_EXPECTED>, FAULT, "no thread can go on", same_twin},
    {"mbarrier not published", with<NOT_PUBLISHED>, FAULT, "mbarrier_published() has not", same_twin},
    {"mbarrier not initialized", with<NO_MBARRIER>, FAULT, "no mbarrier was initialized", same_twin},
    {"more arrivals than an mbarrier counts", with<ARRIVED_TWICE>, FAULT, "more than 1 threads arrive", same_twin},
    {"mbarrier waited for a phase too late", with<LATE_LANES>, WRONG_RESULT, "no thread can go on", same_twin},
    {"stores read by wgmma without a proxy fence", with<NO_PROXY_FENCE>, CHECKED_FAULT, "without a proxy_fence()",
     same_twin},
    {"wgmma without a fence", with<NO_WGMMA_FENCE>, FAULT, "without wgmma_fence()", same_twin},
    {"sums read before wgmma_wait", with<NO_LAST_WAIT>, WRONG_RESULT, "", same_twin},
    {"sums changed before wgmma_wait", with<SUMS_TOUCHED>, FAULT, "was changed before the wait", same_twin},
    {"wgmma without one of the four warps", with<WARP_LEFT_OUT>, FAULT, "of its warpgroup|came to this wgmma",
     same_twin},
    {"descriptor with a wrong stride", with<WRONG_STRIDE>, WRONG_RESULT, "", same_twin},
    {"bulk copy to a misaligned place", with<MISALIGNED_STAGE>, FAULT, "must be aligned to 1024", same_twin},
    {"block that leaves a bulk copy behind", with<COPY_LEFT_BEHIND>, FAULT, "the block ends", same_twin},
    {"more registers than there are", with<TOO_MANY_REGISTERS>, FAULT, "registers by setmaxnreg", same_twin},
    {"setmaxnreg that differs in a warpgroup", with<UNEQUAL_REGISTERS>, FAULT, "called setmaxnreg with other",
     same_twin},
    {"turns of warpgroups that nobody begins", in_turn<NOBODY_BEGINS>, FAULT, "no thread can go on", same_turns},
    {"turn of a warpgroup not waited for", in_turn<TURN_NOT_TAKEN>, WRONG_RESULT, "race for|no thread can go on|twice",
     same_turns},
    {"turn of a warpgroup not given", in_turn<TURN_NOT_GIVEN>, FAULT, "no thread can go on", same_turns},
    {"turn of a warpgroup given twice", in_turn<TURN_GIVEN_TWICE>, FAULT, "comes twice", same_turns},
    {"bulk store without a proxy fence", stored<STORE_NOT_FENCED>, CHECKED_FAULT, "without a proxy_fence()",
     same_stores},
    {"bulk store of a box written again", stored<BOX_REUSED>, FAULT, "before the wait for it|nobody has waited",
     same_stores},
    {"bulk store left behind", stored<NO_STORE_WAIT>, FAULT, "waited for this bulk store", same_stores},
    {"bulk store not committed", stored<NOT_COMMITTED>, FAULT, "waited for this bulk store", same_stores},
    {"bulk store waited for by another thread", stored<WAIT_OF_OTHERS>, FAULT, "waited for this bulk store",
     same_stores},
    {"Hopper's instructions on an older GPU", older_gpu, FAULT, "needs compute capability 9.0"},
};
const int n_planted_hopper = sizeof planted_hopper / sizeof *planted_hopper;
