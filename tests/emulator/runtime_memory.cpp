/* runtime_memory.cpp - device memory, page-locked memory, copies.
 *
 * Each GPU's memory is one range of addresses that nobody may touch while the host runs.  Allocations lie apart, with a
 * pattern between them that is looked at when they are freed; new memory is full of NaN. */
#include "tests/emulator/runtime.h"
#include "tests/emulator/check.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <sys/mman.h>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#define ASAN_UNPOISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#endif

using namespace emu;

namespace {

/* The runtime promises addresses that are multiples of 256, so here they are no multiples of 512. */
constexpr size_t UNIT = 512, OFFSET = 256;
constexpr unsigned char BETWEEN = 0xBD;

struct Arena {
    unsigned char *base;
    size_t size, used; /* used: bytes of live allocations, in units */
    size_t next;       /* where to look first: freed memory is taken again as late as possible */
    size_t high;       /* nothing was ever given out beyond */
    const Allocation **units;
    std::map<size_t, size_t> taken; /* offset -> bytes, both in whole units */
};

std::map<const unsigned char *, Allocation> allocations;
std::vector<Arena> arenas;
bool open_now;

/* A copy from or to memory that is not page-locked is complete when the call returns, or else nobody's gain: allowed
 * only with a wait for the stream right behind it. */
cudaStream_t unfinished_copy;

Arena &arena_of(int device) {
    while (arenas.size() <= (size_t)device) {
        Arena a = {};
        a.size = (2 * emu_config()->memory + (64 << 20)) / UNIT * UNIT;
        void *p = mmap(nullptr, a.size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED) {
            fprintf(stderr, "emulator: no address space for a GPU's memory of %zu bytes\n", a.size);
            abort();
        }
        a.base = static_cast<unsigned char *>(p);
        a.units =
            static_cast<const Allocation **>(mmap(nullptr, a.size / UNIT * sizeof *a.units, PROT_READ | PROT_WRITE,
                                                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
        arenas.push_back(a);
    }
    return arenas[(size_t)device];
}

void protect(int how) {
    for (Arena &a : arenas)
        if (a.high) mprotect(a.base, (a.high + 4095) / 4096 * 4096, how);
}

/* The first gap of `bytes` at or after a.next, then before it; SIZE_MAX = none. */
size_t gap(const Arena &a, size_t from, size_t to, size_t bytes) {
    size_t at = from;
    auto i = a.taken.lower_bound(from);
    if (i != a.taken.begin()) {
        auto before = std::prev(i);
        if (before->first + before->second > at) at = before->first + before->second;
    }
    for (; i != a.taken.end() && i->first < to; ++i) {
        if (i->first - at >= bytes) return at;
        at = i->first + i->second;
    }
    return to - at >= bytes && at <= to ? at : SIZE_MAX;
}

size_t units(size_t bytes) { return (OFFSET + bytes + UNIT - 1) / UNIT * UNIT + UNIT; }

cudaError_t device_alloc(void **p, size_t bytes) {
    Arena &a = arena_of(device_index);
    size_t need = units(bytes), counted = (bytes + UNIT - 1) / UNIT * UNIT;
    if (a.used + counted > emu_config()->memory || counted < bytes) return fail(cudaErrorMemoryAllocation);
    size_t at = gap(a, a.next, a.size, need);
    if (at == SIZE_MAX) at = gap(a, 0, a.size, need);
    if (at == SIZE_MAX) return fail(cudaErrorMemoryAllocation);
    a.taken[at] = need;
    a.used += counted;
    a.next = at + need;
    if (a.next > a.high) {
        a.high = a.next;
        open_now = false;
    }
    memory_open();
    unsigned char *start = a.base + at, *user = start + OFFSET;
    ASAN_UNPOISON_MEMORY_REGION(start, need);
    memset(start, BETWEEN, OFFSET);
    memset(user, 0xFF, bytes);
    memset(user + bytes, BETWEEN, need - OFFSET - bytes);
    ASAN_POISON_MEMORY_REGION(start, need);
    ASAN_UNPOISON_MEMORY_REGION(user, bytes);
    memory_close();
    allocations[user] = {user, bytes, ON_DEVICE, device_index};
    for (size_t i = 0; i < need / UNIT; i++) a.units[at / UNIT + i] = &allocations[user];
    *p = user;
    return cudaSuccess;
}

/* Says whether somebody wrote before or behind the allocation. */
void check_surroundings(const Allocation &m, unsigned char *start, size_t bytes) {
    ASAN_UNPOISON_MEMORY_REGION(start, bytes);
    for (size_t i = 0; i < bytes; i++) {
        if (start + i == m.address) i += m.bytes;
        if (i < bytes && start[i] != BETWEEN) {
            char text[200];
            snprintf(text, sizeof text, "an allocation of %zu bytes at %p was overrun: byte %td was written", m.bytes,
                     static_cast<void *>(m.address), start + i - m.address);
            report(text);
            return;
        }
    }
}

void device_release(const Allocation &m) {
    Arena &a = arena_of(m.device);
    size_t at = (size_t)(m.address - OFFSET - a.base), bytes = a.taken[at];
    memory_open();
    check_surroundings(m, a.base + at, bytes);
    /* Whole pages go back: what is merely reserved costs nothing when the arena is opened and closed. */
    const size_t first = (at + 4095) / 4096 * 4096, end = (at + bytes) / 4096 * 4096;
    if (end > first) madvise(a.base + first, end - first, MADV_DONTNEED);
    ASAN_POISON_MEMORY_REGION(a.base + at, bytes);
    memory_close();
    for (size_t i = 0; i < bytes / UNIT; i++) a.units[at / UNIT + i] = nullptr;
    check_freed(m.device, at, bytes);
    a.taken.erase(at);
    a.used -= (m.bytes + UNIT - 1) / UNIT * UNIT;
}

cudaError_t allocate(void **p, size_t bytes, Place place) {
    *p = nullptr;
    cudaError_t e = driver_state();
    if (e || (e = not_while_capturing("allocation"))) return e;
    if (!bytes) return cudaSuccess;
    if (place == ON_DEVICE) return device_alloc(p, bytes);
    *p = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    if (!*p) return fail(cudaErrorMemoryAllocation);
    memset(*p, 0xFF, bytes);
    auto *address = static_cast<unsigned char *>(*p);
    ASAN_POISON_MEMORY_REGION(address + (bytes + 7) / 8 * 8, (bytes + 4095) / 4096 * 4096 - (bytes + 7) / 8 * 8);
    allocations[address] = {address, bytes, ON_HOST, device_index};
    return cudaSuccess;
}

/* Freeing waits for the device. */
cudaError_t release(void *p, Place place) {
    if (!p) return cudaSuccess;
    cudaError_t e = driver_state();
    if (e || (e = not_while_capturing("freeing memory"))) return e;
    if ((e = wait_for_device())) return e;
    auto i = allocations.find(static_cast<unsigned char *>(p));
    if (i == allocations.end() || i->second.place != place)
        return fail(cudaErrorInvalidValue, "freeing %p, which was not allocated so, or freed before", p);
    Allocation m = i->second;
    allocations.erase(i);
    if (place == ON_DEVICE) {
        device_release(m);
    } else {
        ASAN_UNPOISON_MEMORY_REGION(m.address, (m.bytes + 4095) / 4096 * 4096);
        free(p);
    }
    return cudaSuccess;
}

Place place_of(const void *p, size_t bytes) {
    const Allocation *a = memory_find(p, bytes);
    return a ? a->place : NOWHERE;
}

/* One side of a copy: on the device when kind says so, whole in one allocation. */
cudaError_t check_side(const char *side, const void *p, size_t bytes, bool device) {
    Place place = place_of(p, bytes);
    if (device && place != ON_DEVICE)
        return fail(cudaErrorInvalidValue, "copy of %zu bytes: its %s, %p, is not inside one allocation of the GPU",
                    bytes, side, p);
    if (!device && (place == ON_DEVICE || memory_is_device(p)))
        return fail(cudaErrorInvalidValue, "copy of %zu bytes: its %s, %p, is GPU memory; the kind of copy says host",
                    bytes, side, p);
    return cudaSuccess;
}

struct Copy {
    void *dst;
    const void *src;
    size_t bytes;
    bool from_device, to_device;
};

cudaError_t copy_of(Copy *c, void *dst, const void *src, size_t bytes, cudaMemcpyKind kind) {
    if (kind < cudaMemcpyHostToHost || kind > cudaMemcpyDefault) return fail(cudaErrorInvalidValue);
    c->dst = dst;
    c->src = src;
    c->bytes = bytes;
    c->from_device = kind == cudaMemcpyDefault ? place_of(src, bytes) == ON_DEVICE
                                               : kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    c->to_device = kind == cudaMemcpyDefault ? place_of(dst, bytes) == ON_DEVICE
                                             : kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    cudaError_t e = check_side("source", src, bytes, c->from_device);
    return e ? e : check_side("destination", dst, bytes, c->to_device);
}

cudaError_t do_copy(const Copy &c) {
    if (c.dst != c.src) memcpy(c.dst, c.src, c.bytes);
    return cudaSuccess;
}

} // namespace

const Allocation *emu::memory_find(const void *p, size_t bytes) {
    auto *c = static_cast<const unsigned char *>(p);
    auto i = allocations.upper_bound(c);
    if (i == allocations.begin()) return nullptr;
    --i;
    const Allocation &a = i->second;
    return c <= a.address + a.bytes && bytes <= (size_t)(a.address + a.bytes - c) ? &a : nullptr;
}

MemoryMap emu::memory_map(int device) {
    Arena &a = arena_of(device);
    return {a.base, a.size, UNIT, a.units};
}

bool emu::memory_is_device(const void *p) {
    for (const Arena &a : arenas)
        if (p >= a.base && p < a.base + a.size) return true;
    return false;
}

void emu::memory_open() {
    if (open_now) return;
    watch_addresses();
    open_now = true;
    protect(PROT_READ | PROT_WRITE);
}

/* Closing costs time for every page; when it has been done often, now and then is enough. */
void emu::memory_close() {
    static unsigned closings;
    if (!open_now || (++closings > 200 && closings % 8)) return;
    open_now = false;
    protect(PROT_NONE);
}

void emu::copies_finished(cudaStream_t stream) {
    if (unfinished_copy == stream) unfinished_copy = nullptr;
}

void emu::copies_must_be_finished() {
    if (!unfinished_copy) return;
    unfinished_copy = nullptr;
    report(
        "an asynchronous copy from or to memory that is not page-locked, and no wait for its stream right behind it");
}

extern "C" {

cudaError_t cudaMalloc(void **p, size_t bytes) {
    Call call;
    return allocate(p, bytes, ON_DEVICE);
}

cudaError_t cudaFree(void *p) {
    Call call;
    return release(p, ON_DEVICE);
}

cudaError_t cudaMallocHost(void **p, size_t bytes) {
    Call call;
    return allocate(p, bytes, ON_HOST);
}

cudaError_t cudaHostAlloc(void **p, size_t bytes, unsigned) {
    Call call;
    return allocate(p, bytes, ON_HOST);
}

cudaError_t cudaFreeHost(void *p) {
    Call call;
    return release(p, ON_HOST);
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total) {
    Call call;
    cudaError_t e = driver_state();
    if (e) return e;
    *total = emu_config()->memory;
    *free_bytes = *total - arena_of(device_index).used;
    return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes *out, const void *p) {
    Call call;
    *out = cudaPointerAttributes{};
    const Allocation *a = memory_find(p, 1);
    out->type = !a ? cudaMemoryTypeUnregistered : a->place == ON_HOST ? cudaMemoryTypeHost : cudaMemoryTypeDevice;
    out->device = a ? a->device : -1;
    out->devicePointer = a ? const_cast<void *>(p) : nullptr;
    out->hostPointer = a && a->place == ON_HOST ? const_cast<void *>(p) : nullptr;
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t handle) {
    Call call;
    cudaStream_t stream;
    cudaError_t e = stream_of(handle, &stream);
    if (e || !bytes) return e;
    if (place_of(p, bytes) == NOWHERE)
        return fail(cudaErrorInvalidValue, "cudaMemset of %zu bytes at %p, which is not inside one allocation", bytes,
                    p);
    return enqueue(stream, [=] {
        memset(p, value, bytes);
        return cudaSuccess;
    });
}

cudaError_t cudaMemset(void *p, int value, size_t bytes) {
    Call call;
    cudaError_t e = not_while_capturing("cudaMemset");
    return e ? e : cudaMemsetAsync(p, value, bytes, nullptr);
}

/* Out of pageable memory the bytes are taken at once, into it they are there when the call returns. */
cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, cudaMemcpyKind kind, cudaStream_t handle) {
    Call call;
    cudaStream_t stream;
    Copy c;
    cudaError_t e = stream_of(handle, &stream);
    if (e || !bytes || (e = copy_of(&c, dst, src, bytes, kind))) return e;
    bool pageable_src = place_of(src, bytes) == NOWHERE, pageable_dst = place_of(dst, bytes) == NOWHERE;
    if (!pageable_src && !pageable_dst) return enqueue(stream, [c] { return do_copy(c); });
    if (stream->capture) {
        stream->capture->broken = true;
        return fail(cudaErrorStreamCaptureUnsupported,
                    "copy of memory that is not page-locked in a stream that records");
    }
    if ((e = not_while_capturing("copy of memory that is not page-locked"))) return e;
    auto staged = std::make_shared<std::vector<unsigned char>>();
    if (pageable_src) {
        staged->assign(static_cast<const unsigned char *>(src), static_cast<const unsigned char *>(src) + bytes);
        c.src = staged->data();
    }
    e = enqueue(stream, [c, staged] { return do_copy(c); });
    if (!e && pageable_dst) e = wait_for({stream->last});
    unfinished_copy = stream;
    return e;
}

cudaError_t cudaMemcpy(void *dst, const void *src, size_t bytes, cudaMemcpyKind kind) {
    Call call;
    cudaStream_t stream;
    Copy c;
    cudaError_t e = not_while_capturing("cudaMemcpy");
    if (e || (e = stream_of(nullptr, &stream)) || !bytes || (e = copy_of(&c, dst, src, bytes, kind))) return e;
    Op op;
    e = enqueue(
        stream, [c] { return do_copy(c); }, &op);
    /* Between two places on the device nobody waits. */
    return e || (c.from_device && c.to_device) ? e : wait_for({op});
}

cudaError_t cudaMemcpy2DAsync(void *dst, size_t dst_pitch, const void *src, size_t src_pitch, size_t width,
                              size_t height, cudaMemcpyKind kind, cudaStream_t stream) {
    Call call;
    if (width > dst_pitch || width > src_pitch) return fail(cudaErrorInvalidPitchValue);
    for (size_t row = 0; row < height; row++) {
        cudaError_t e = cudaMemcpyAsync(static_cast<unsigned char *>(dst) + row * dst_pitch,
                                        static_cast<const unsigned char *>(src) + row * src_pitch, width, kind, stream);
        if (e) return e;
        if (row + 1 < height) copies_finished(unfinished_copy);
    }
    return cudaSuccess;
}
}
