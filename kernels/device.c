/* device.c - the backend-independent half of device.h: opening, the sticky error, the workspace, dtype names. */
#include "kernels/backend.h"

#include <stdio.h>
#include <stdlib.h>

Device *device_open(DeviceKind kind, int index, int threads, char *msg, size_t msg_size) {
    if (msg_size) msg[0] = 0;
#ifndef HAVE_CUDA
    (void)index;
    if (kind == DEVICE_CUDA) {
        snprintf(msg, msg_size, "opening a GPU: this build has no CUDA kernels; use --device cpu, or build where nvcc is");
        return NULL;
    }
#endif
    Device *dev = calloc(1, sizeof *dev);
    if (!dev) {
        snprintf(msg, msg_size, "opening the device: out of memory");
        return NULL;
    }
    dev->kind = kind;
    int rc;
#ifdef HAVE_CUDA
    if (kind == DEVICE_CUDA)
        rc = device_open_cuda(dev, index, msg, msg_size);
    else
#endif
        rc = device_open_cpu(dev, threads, msg, msg_size);
    if (rc) {
        free(dev);
        return NULL;
    }
    return dev;
}

int device_count(DeviceKind kind) {
#ifdef HAVE_CUDA
    if (kind == DEVICE_CUDA) return device_count_cuda();
#endif
    return kind == DEVICE_CPU;
}

void device_close(Device *dev) {
    if (!dev) return;
    if (dev->workspace) dev->backend->free(dev, dev->workspace);
    dev->backend->close(dev);
    free(dev);
}

DeviceKind  device_kind(const Device *dev) { return dev->kind; }
const char *device_name(const Device *dev) { return dev->name; }
const char *device_bus(const Device *dev) { return dev->bus; }
int         device_threads(const Device *dev) { return dev->threads; }
double      device_peak_flops(const Device *dev, DType t) { return dev->backend->peak_flops(dev, t); }

void *device_alloc(Device *dev, size_t bytes) { return dev->backend->alloc(dev, bytes ? bytes : 1); }

void device_free(Device *dev, void *ptr) {
    if (ptr) dev->backend->free(dev, ptr);
}

void device_zero(Device *dev, void *ptr, size_t bytes) {
    if (bytes && !device_error(dev)) dev->backend->zero(dev, ptr, bytes);
}

void device_copy(Device *dev, void *dst, const void *src, size_t bytes) {
    if (bytes && !device_error(dev)) dev->backend->copy(dev, dst, src, bytes);
}

void device_upload(Device *dev, void *dst, const void *host, size_t bytes) {
    if (bytes && !device_error(dev)) dev->backend->upload(dev, dst, host, bytes);
}

void device_download(Device *dev, void *host, const void *src, size_t bytes) {
    if (bytes && !device_error(dev)) dev->backend->download(dev, host, src, bytes);
}

void *device_host_alloc(Device *dev, size_t bytes) { return dev->backend->host_alloc(dev, bytes ? bytes : 1); }

void device_host_free(Device *dev, void *ptr) {
    if (ptr) dev->backend->host_free(dev, ptr);
}

void device_upload_async(Device *dev, Stream s, void *dst, const void *host, size_t bytes) {
    if (bytes && !device_error(dev)) dev->backend->upload_async(dev, s, dst, host, bytes);
}

void device_download_async(Device *dev, Stream s, void *host, const void *src, size_t bytes) {
    if (bytes && !device_error(dev)) dev->backend->download_async(dev, s, host, src, bytes);
}

void device_mark(Device *dev, Stream s, int index) {
    if (!device_error(dev)) dev->backend->mark(dev, s, index);
}

int device_mark_wait(Device *dev, int index) {
    int rc = device_error(dev) ? -1 : dev->backend->mark_wait(dev, index);
    return rc || device_error(dev) ? -1 : 0;
}

int device_mark_poll(Device *dev, int index) { return device_error(dev) ? -1 : dev->backend->mark_poll(dev, index); }

int device_record(Device *dev) { return dev->backend->record && !device_error(dev) ? dev->backend->record(dev) : -1; }

DeviceGraph *device_record_end(Device *dev) { return dev->backend->record ? dev->backend->record_end(dev) : NULL; }

void device_graph_launch(Device *dev, DeviceGraph *graph) {
    if (!device_error(dev)) dev->backend->graph_launch(dev, graph);
}

void device_graph_free(Device *dev, DeviceGraph *graph) {
    if (graph) dev->backend->graph_free(dev, graph);
}

void device_memory(const Device *dev, size_t *free_bytes, size_t *total_bytes) {
    dev->backend->memory(dev, free_bytes, total_bytes);
}

int device_use_cublas(Device *dev, char *msg, size_t msg_size) {
    if (dev->backend->use_cublas) return dev->backend->use_cublas(dev, msg, msg_size);
    snprintf(msg, msg_size, "%s has no cuBLAS; leave --matmul at ehr", dev->name);
    return -1;
}

int device_reserve(Device *dev, size_t bytes) {
    if (bytes <= dev->workspace_bytes) return 0;
    void *grown = dev->backend->alloc(dev, bytes);
    if (!grown) return -1;
    if (dev->workspace) dev->backend->free(dev, dev->workspace);
    dev->workspace = grown;
    dev->workspace_bytes = bytes;
    return 0;
}

void *device_workspace(Device *dev, size_t *bytes) {
    if (bytes) *bytes = dev->workspace_bytes;
    return dev->workspace;
}

void device_order(Device *dev, Stream from, Stream to) { dev->backend->order(dev, from, to); }

int device_poll(Device *dev, Stream s) { return device_error(dev) ? -1 : dev->backend->poll(dev, s); }

int device_sync(Device *dev) {
    int rc = dev->backend->sync(dev);
    return rc || device_error(dev) ? -1 : 0;
}

void *device_stream(Device *dev, Stream s) { return dev->backend->stream(dev, s); }

/* Worker threads may fail at the same time: the first to move `failed` from 0 to 1 writes the text, 2 publishes it. */
void device_fail(Device *dev, const char *op, const char *why) {
    int none = 0;
    if (!__atomic_compare_exchange_n(&dev->failed, &none, 1, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) return;
    snprintf(dev->error, sizeof dev->error, "%s: %s", op, why);
    __atomic_store_n(&dev->failed, 2, __ATOMIC_RELEASE);
}

const char *device_error(const Device *dev) {
    return __atomic_load_n(&dev->failed, __ATOMIC_ACQUIRE) == 2 ? dev->error : NULL;
}

size_t dtype_size(DType t) {
    switch (t) {
    case DTYPE_F32: return 4;
    case DTYPE_BF16: return 2;
    case DTYPE_F64: return 8;
    case DTYPE_I32: return 4;
    case DTYPE_I8: return 1;
    }
    return 0;
}

const char *dtype_name(DType t) {
    switch (t) {
    case DTYPE_F32: return "F32";
    case DTYPE_BF16: return "BF16";
    case DTYPE_F64: return "F64";
    case DTYPE_I32: return "I32";
    case DTYPE_I8: return "I8";
    }
    return "?";
}
