/* device_cpu.c - the CPU as a device: instruction set and threads found at opening, plain memory, calls that have
 * finished when they return. */
#include "kernels/backend.h"
#include "kernels/cpu/int8.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* ---- instruction set ----------------------------------------------------------------------------------------------- */

static const CpuIsa *isa_of(CpuLevel level) {
#if defined(__x86_64__)
    /* __builtin_cpu_supports also asks whether the operating system saves the wide registers. */
    if (level == CPU_AVX512 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
        return &cpu_isa_avx512;
    if (level == CPU_AVX2 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return &cpu_isa_avx2;
#endif
    return level == CPU_PORTABLE ? &cpu_isa_portable : NULL;
}

static const CpuInt8 *int8_of(CpuLevel level) {
#if defined(__x86_64__)
    if (level == CPU_AVX512 && __builtin_cpu_supports("avx512vnni")) return &cpu_int8_vnni;
    if (level >= CPU_AVX2) return &cpu_int8_avx2;
#endif
    (void)level;
    return &cpu_int8_portable;
}

static void isa_set(Device *dev, const CpuIsa *isa) {
    CpuState *state = dev->state;
    state->isa = isa;
    state->int8 = int8_of(isa->level);
    snprintf(dev->name, sizeof dev->name, "CPU, %d thread%s, %s", dev->threads, dev->threads == 1 ? "" : "s",
             isa->name);
}

const CpuState *cpu_state(const Device *dev) { return dev->state; }
const CpuIsa   *cpu_isa(const Device *dev) { return cpu_state(dev)->isa; }
CpuLevel        cpu_level(const Device *dev) { return cpu_isa(dev)->level; }

int cpu_device_force_isa(Device *dev, CpuLevel level) {
    const CpuIsa *isa = isa_of(level);
    if (!isa) return -1;
    isa_set(dev, isa);
    return 0;
}

/* ---- caches -------------------------------------------------------------------------------------------------------- */

static long cache_bytes(int name, long least, long otherwise) {
    long bytes = sysconf(name);
    return bytes <= 0 ? otherwise : bytes < least ? least : bytes;
}

/* 256 columns of b, at most K_MAX deep, fill half of the second cache; threads share half of the last for rows of a. */
static void blocking_set(CpuState *s, int threads) {
    enum { K_MAX = 512, BLOCK_MAX = 1 << 18, SLAB_MAX = 3 << 19 };
    const long l2 = cache_bytes(_SC_LEVEL2_CACHE_SIZE, 256 << 10, 512 << 10) / (long)sizeof(float);
    const long l3 = cache_bytes(_SC_LEVEL3_CACHE_SIZE, 0, 0) / (long)sizeof(float);
    const long k = l2 / 2 / 256, share = l3 / 2 / threads, slab = l2 / 2 > share ? l2 / 2 : share;
    s->k_block = (int)(k < K_MAX ? k : K_MAX);
    s->block_floats = (int)(l2 / 2 < BLOCK_MAX ? l2 / 2 : BLOCK_MAX);
    s->slab_floats = (int)(slab < SLAB_MAX ? slab : SLAB_MAX);
}

/* ---- threads ------------------------------------------------------------------------------------------------------- */

enum { THREADS_MAX = 1024 };

static int threads_default(void) {
#ifdef _OPENMP
    const char *text = getenv("OMP_NUM_THREADS");
    int         asked = text ? atoi(text) : 0;
    if (asked > 0) return asked < THREADS_MAX ? asked : THREADS_MAX;
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0) return CPU_COUNT(&set);
#endif
    return 1;
}

int cpu_threads_for(const Device *dev, double flops) {
    /* Below this a second thread costs more than it brings (fork and barrier: about 2-5 us, 60 GFLOP/s a core). */
    const double flops_a_thread = 2.5e5;
    double       n = flops / flops_a_thread;
    return n < 1 ? 1 : n < dev->threads ? (int)n : dev->threads;
}

void *cpu_scratch(Device *dev, const char *op, size_t bytes) {
    if (device_error(dev)) return NULL;
    size_t have;
    void  *workspace = device_workspace(dev, &have);
    if (have >= bytes) return workspace;
    char why[160];
    snprintf(why, sizeof why, "needs %zu bytes of workspace, %zu reserved: device_reserve(workspace_bytes(limits))",
             bytes, have);
    device_fail(dev, op, why);
    return NULL;
}

/* ---- memory -------------------------------------------------------------------------------------------------------- */

static void *memory_alloc(Device *dev, size_t bytes) {
    (void)dev;
    enum { HUGE_PAGE = 2 << 20 };
    int   huge = bytes >= HUGE_PAGE;
    void *p;
    if (posix_memalign(&p, huge ? HUGE_PAGE : 256, bytes)) return NULL;
    if (huge) madvise(p, bytes, MADV_HUGEPAGE); /* fewer TLB misses in products; where it is refused, nothing is lost */
    memset(p, 0, bytes);
    return p;
}

static void memory_free(Device *dev, void *ptr) {
    (void)dev;
    free(ptr);
}

static void memory_zero(Device *dev, void *ptr, size_t bytes) {
    (void)dev;
    memset(ptr, 0, bytes);
}

static void memory_copy(Device *dev, void *dst, const void *src, size_t bytes) {
    (void)dev;
    memmove(dst, src, bytes);
}

static void copy_async(Device *dev, Stream s, void *dst, const void *src, size_t bytes) {
    (void)s;
    memory_copy(dev, dst, src, bytes);
}

/* ---- the rest is free ---------------------------------------------------------------------------------------------- */

static void cpu_close(Device *dev) { free(dev->state); }

static void cpu_order(Device *dev, Stream from, Stream to) { (void)dev, (void)from, (void)to; }

static int cpu_poll(Device *dev, Stream s) {
    (void)dev, (void)s;
    return 1;
}

static int cpu_sync(Device *dev) {
    (void)dev;
    return 0;
}

static void cpu_mark(Device *dev, Stream s, int index) { (void)dev, (void)s, (void)index; }

static int cpu_mark_wait(Device *dev, int index) {
    (void)dev, (void)index;
    return 0;
}

static int cpu_mark_poll(Device *dev, int index) {
    (void)dev, (void)index;
    return 1;
}

static void cpu_memory(const Device *dev, size_t *free_bytes, size_t *total_bytes) {
    (void)dev;
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    *total_bytes = (size_t)sysconf(_SC_PHYS_PAGES) * page;
    *free_bytes = (size_t)sysconf(_SC_AVPHYS_PAGES) * page;
}

static void *cpu_stream(Device *dev, Stream s) {
    (void)dev, (void)s;
    return NULL;
}

static double cpu_peak_flops(const Device *dev, DType t) {
    (void)dev, (void)t;
    return 0; /* clocks under wide vectors are not knowable from here; bench_gemm measures them */
}

static const KernelOps *cpu_table(const Device *dev, DType t) {
    (void)dev;
    return t == DTYPE_F32 ? &cpu_kernels : t == DTYPE_F64 ? &reference_kernels : NULL;
}

static const DeviceBackend cpu_backend = {
    .close = cpu_close,
    .alloc = memory_alloc,
    .free = memory_free,
    .zero = memory_zero,
    .copy = memory_copy,
    .upload = memory_copy,
    .download = memory_copy,
    .host_alloc = memory_alloc,
    .host_free = memory_free,
    .upload_async = copy_async,
    .download_async = copy_async,
    .mark = cpu_mark,
    .mark_wait = cpu_mark_wait,
    .mark_poll = cpu_mark_poll,
    .memory = cpu_memory,
    .order = cpu_order,
    .poll = cpu_poll,
    .sync = cpu_sync,
    .stream = cpu_stream,
    .peak_flops = cpu_peak_flops,
    .kernels = cpu_table,
};

int device_open_cpu(Device *dev, int threads, char *msg, size_t msg_size) {
    if (threads < 0 || threads > THREADS_MAX) {
        snprintf(msg, msg_size, "opening the CPU: %d threads asked for, expected 0 (all) to %d", threads, THREADS_MAX);
        return -1;
    }
    dev->backend = &cpu_backend;
    dev->threads = threads ? threads : threads_default();
#ifndef _OPENMP
    dev->threads = 1;
#endif
    dev->state = calloc(1, sizeof(CpuState));
    if (!dev->state) {
        snprintf(msg, msg_size, "opening the CPU: out of memory");
        return -1;
    }
    blocking_set(dev->state, dev->threads);
    const CpuIsa *isa = isa_of(CPU_AVX512);
    if (!isa) isa = isa_of(CPU_AVX2);
    if (!isa) isa = isa_of(CPU_PORTABLE);
    isa_set(dev, isa);
    return 0;
}

/* ---- the table ----------------------------------------------------------------------------------------------------- */

size_t cpu_workspace_bytes(const Device *dev, const KernelLimits *limits) {
    size_t products = cpu_matmul_workspace(dev, limits), others = cpu_ops_workspace_bytes(dev, limits);
    return products > others ? products : others;
}

const KernelOps cpu_kernels = {
    .workspace_bytes = cpu_workspace_bytes,
    .weight_prepared_bytes = cpu_weight_prepared_bytes,
    .weight_prepare = cpu_weight_prepare,
    .embedding_forward = cpu_embedding_forward,
    .embedding_backward = cpu_embedding_backward,
    .rmsnorm_forward = cpu_rmsnorm_forward,
    .rmsnorm_backward = cpu_rmsnorm_backward,
    .matmul_forward = cpu_matmul_forward,
    .logits_forward = cpu_matmul_forward,
    .matmul_add_forward = cpu_matmul_add_forward,
    .matmul_swiglu_forward = cpu_matmul_swiglu_forward,
    .matmul_dgrad = cpu_matmul_dgrad,
    .matmul_wgrad = cpu_matmul_wgrad,
    .swiglu_forward = cpu_swiglu_forward,
    .swiglu_backward = cpu_swiglu_backward,
    .adapter_spread = cpu_adapter_spread,
    .adapter_gather = cpu_adapter_gather,
    .qk_norm_rope_forward = cpu_qk_norm_rope_forward,
    .qk_norm_rope_backward = cpu_qk_norm_rope_backward,
    .attention_forward = cpu_attention_forward,
    .attention_backward = cpu_attention_backward,
    .kv_page_bytes = cpu_kv_page_bytes,
    .kv_append = cpu_kv_append,
    .kv_copy_page = cpu_kv_copy_page,
    .attention_paged = cpu_attention_paged,
    .classifier = cpu_classifier,
    .adamw = cpu_adamw,
    .sum_squares = cpu_sum_squares,
    .sample = cpu_sample,
};
