/* hopper_instructions.cu - bulk copies, mbarriers and wgmma against the PTX manual, written once more in the plainest
 * way. */
#include "tests/emulator/hopper_kernels.h"

namespace {

#define EXPECT(condition)                                                                                              \
    do {                                                                                                               \
        if (!(condition)) return fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition), 1;            \
    } while (0)

/* ---- bulk copies ------------------------------------------------------------------------------------------------- */

__global__ void box_kernel(const __grid_constant__ CUtensorMap map, int x, int y, int bytes, uint16_t *out) {
    DYNAMIC_SHARED(char, shared);
    uint64_t *bar = (uint64_t *)(shared + 32768);
    if (!threadIdx.x) {
        mbarrier_init(bar, 1);
        mbarrier_published();
        mbarrier_expect(bar, bytes);
        tma_load_2d(shared, &map, x, y, bar);
    }
    __syncthreads();
    mbarrier_wait(bar, 0);
    for (int i = threadIdx.x; i < bytes / 2; i += 64) out[i] = ((uint16_t *)shared)[i];
}

/* Where the PTX manual's pictures put 16-byte chunk c of row r. */
int chunk_place(int span, int r, int c) {
    switch (span) {
    case 32: return c ^ (r / 4 & 1);
    case 64: return c ^ (r / 2 & 3);
    case 128: return c ^ (r & 7);
    }
    return c;
}

int boxes() {
    emu_config()->compute_capability = 90;
    const int rows = 37, columns = 100, stride = 104, box_rows = 24;
    std::vector<bf16> host = numbers((size_t)(rows * stride), 1);
    Array<bf16> matrix(host);
    for (int span : {16, 32, 64, 128})
        for (int x : {0, 48, -8, 72, 100, 200})
            for (int y : {0, 8, -5, 30, 37}) {
                const int width = span / 2;
                CUtensorMap map = map_of(matrix.device, columns, rows, stride, width, box_rows,
                                         span == 16   ? CU_TENSOR_MAP_SWIZZLE_NONE
                                         : span == 32 ? CU_TENSOR_MAP_SWIZZLE_32B
                                         : span == 64 ? CU_TENSOR_MAP_SWIZZLE_64B
                                                      : CU_TENSOR_MAP_SWIZZLE_128B);
                Array<uint16_t> out((size_t)(box_rows * width));
                LAUNCH(box_kernel, 1, 64, 32768 + 8, nullptr, map, x, y, box_rows * span, out.device);
                std::vector<uint16_t> got = out.read();
                for (int r = 0; r < box_rows; r++)
                    for (int c = 0; c < width; c++) {
                        uint16_t want = 0;
                        if (y + r >= 0 && y + r < rows && x + c >= 0 && x + c < columns)
                            memcpy(&want, &host[(size_t)((y + r) * stride + x + c)], 2);
                        size_t at = (size_t)(r * width + chunk_place(span, r, c / 8) * 8 + c % 8);
                        if (got[at] != want)
                            return fprintf(stderr, "span %d, box at %d, %d: row %d, column %d\n", span, x, y, r, c), 1;
                    }
            }
    return 0;
}

/* What the driver would not encode either. */
int map_refusals() {
    Array<bf16> matrix(1024);
    CUtensorMap none = {}, map = map_of(matrix.device + 1, 64, 8, 64, 64, 8);
    EXPECT(!memcmp(&map, &none, sizeof map));
    map = map_of(matrix.device, 60, 8, 60, 56, 8); /* rows of 120 bytes */
    EXPECT(!memcmp(&map, &none, sizeof map));
    map = map_of(matrix.device, 128, 8, 128, 128, 8); /* 256 bytes in a span of 128 */
    EXPECT(!memcmp(&map, &none, sizeof map));
    return 0;
}

/* Phases: an arrival of each of 64 threads, three times round. */
__global__ void phases_kernel(int *out) {
    DYNAMIC_SHARED(int, shared);
    uint64_t *bar = (uint64_t *)(shared + 64);
    int t = (int)threadIdx.x, sum = 0;
    if (!t) {
        mbarrier_init(bar, 64);
        mbarrier_init(bar + 1, 64);
        mbarrier_published();
    }
    __syncthreads();
    mbarrier_wait(bar, 1); /* the phase before the first is over */
    for (int i = 0; i < 3; i++) {
        shared[t] = t + 100 * i;
        mbarrier_arrive(bar);
        mbarrier_wait(bar, i & 1);
        sum += shared[63 - t];
        mbarrier_arrive(bar + 1);
        mbarrier_wait(bar + 1, i & 1);
    }
    out[t] = sum;
}
int phases() {
    emu_config()->compute_capability = 90;
    Array<int> out(64);
    LAUNCH(phases_kernel, 1, 64, 64 * 4 + 16, nullptr, out.device);
    std::vector<int> r = out.read();
    for (int t = 0; t < 64; t++) EXPECT(r[(size_t)t] == 3 * (63 - t) + 300);
    return 0;
}

/* ---- wgmma ------------------------------------------------------------------------------------------------------- */

/* d (64, N) = a (64, 64) b (64, N), lines along k or not; two accumulators, one of them from registers. */
template <int N, bool A_ALONG_K, bool B_ALONG_K>
__global__ void wgmma_kernel(const __grid_constant__ CUtensorMap a_map, const __grid_constant__ CUtensorMap b_map,
                             float *out) {
    DYNAMIC_SHARED(char, shared);
    constexpr int A = 64 * 128, B = 64 * N * 2, WIDE = B_ALONG_K ? 1 : (N + 63) / 64;
    uint64_t *bar = (uint64_t *)(shared + A + (B + 8191) / 8192 * 8192);
    if (!threadIdx.x) {
        mbarrier_init(bar, 1);
        mbarrier_published();
        mbarrier_expect(bar, A + (B_ALONG_K ? B : WIDE * 8192));
        tma_load_2d(shared, &a_map, 0, 0, bar);
        for (int i = 0; i < WIDE; i++) tma_load_2d(shared + A + i * 8192, &b_map, 64 * i, 0, bar);
    }
    __syncthreads();
    mbarrier_wait(bar, 0);
    uint64_t a = wgmma_descriptor(shared, 16, 1024);
    uint64_t b = B_ALONG_K ? wgmma_descriptor(shared + A, 16, 1024) : wgmma_descriptor(shared + A, 8192, 1024);
    float d[N / 8][4];
    wgmma_fence();
    for (int k = 0; k < 4; k++)
        wgmma<N, A_ALONG_K, B_ALONG_K>(d, wgmma_advance(a, k * (A_ALONG_K ? 32 : 2048)),
                                       wgmma_advance(b, k * (B_ALONG_K ? 32 : 2048)), k);
    wgmma_commit();
    wgmma_wait<0>();
    store_sums<N>(out, d);
}

template <int N, bool A_ALONG_K, bool B_ALONG_K> int wgmma_form() {
    emu_config()->compute_capability = 90;
    const int wide = N < 64 ? 64 : N;
    std::vector<bf16> a = numbers(64 * 64, 3), b = numbers((size_t)(64 * wide), 5);
    Array<bf16> da(a), db(b);
    Array<float> out(64 * N);
    CUtensorMap a_map = map_of(da.device, 64, 64, 64, 64, 64);
    CUtensorMap b_map = B_ALONG_K ? map_of(db.device, 64, N, 64, 64, N) : map_of(db.device, wide, 64, wide, 64, 64);
    auto kernel = wgmma_kernel<N, A_ALONG_K, B_ALONG_K>;
    size_t smem = 64 * 128 + (size_t)(64 * N * 2 + 8191) / 8192 * 8192 + 8;
    cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)smem);
    LAUNCH(kernel, 1, 128, smem, nullptr, a_map, b_map, out.device);
    std::vector<float> got = out.read();
    for (int i = 0; i < 64; i++)
        for (int j = 0; j < N; j++) {
            float sum = 0;
            for (int k = 0; k < 64; k++)
                sum += __bfloat162float(a[(size_t)(A_ALONG_K ? i * 64 + k : k * 64 + i)]) *
                       __bfloat162float(b[(size_t)(B_ALONG_K ? j * 64 + k : k * wide + j)]);
            EXPECT(got[(size_t)(i * N + j)] == sum);
        }
    return 0;
}

template <int N> int wgmma_forms() {
    return wgmma_form<N, true, true>() || wgmma_form<N, true, false>() || wgmma_form<N, false, false>() ||
           wgmma_form<N, false, true>();
}
int wgmma_sizes() {
    return wgmma_forms<256>() || wgmma_forms<192>() || wgmma_forms<128>() || wgmma_forms<64>() || wgmma_forms<16>();
}

} // namespace

const Instruction hopper_instructions[] = {
    {"bulk copies of boxes", boxes},
    {"tensor maps refused", map_refusals},
    {"phases of an mbarrier", phases},
    {"wgmma m64nNk16", wgmma_sizes},
};
const int n_hopper_instructions = sizeof hopper_instructions / sizeof *hopper_instructions;
