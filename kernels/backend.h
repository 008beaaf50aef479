/* backend.h - what device.c and the backends share; private to kernels/.
 *
 * A Device is this struct on every backend.  device.c keeps errors and the workspace and calls the backend's table for
 * the rest. */
#ifndef EHR_KERNELS_BACKEND_H
#define EHR_KERNELS_BACKEND_H
#include "kernels/kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    void (*close)(Device *dev);
    void *(*alloc)(Device *dev, size_t bytes); /* 256-byte aligned, zeroed; NULL = out of memory */
    void (*free)(Device *dev, void *ptr);
    void (*zero)(Device *dev, void *ptr, size_t bytes);
    void (*copy)(Device *dev, void *dst, const void *src, size_t bytes);
    void (*upload)(Device *dev, void *dst, const void *host, size_t bytes);
    void (*download)(Device *dev, void *host, const void *src, size_t bytes);
    void *(*host_alloc)(Device *dev, size_t bytes);
    void (*host_free)(Device *dev, void *ptr);
    void (*upload_async)(Device *dev, Stream s, void *dst, const void *host, size_t bytes);
    void (*download_async)(Device *dev, Stream s, void *host, const void *src, size_t bytes);
    void (*mark)(Device *dev, Stream s, int index);
    int (*mark_wait)(Device *dev, int index);
    int (*mark_poll)(Device *dev, int index);
    int (*record)(Device *dev); /* the four: NULL on devices that do not record */
    DeviceGraph *(*record_end)(Device *dev);
    void (*graph_launch)(Device *dev, DeviceGraph *graph);
    void (*graph_free)(Device *dev, DeviceGraph *graph);
    void (*memory)(const Device *dev, size_t *free_bytes, size_t *total_bytes);
    int (*use_cublas)(Device *dev, char *msg, size_t msg_size); /* NULL: there is no such thing */
    void (*order)(Device *dev, Stream from, Stream to);
    int (*poll)(Device *dev, Stream s);
    int (*sync)(Device *dev);
    void *(*stream)(Device *dev, Stream s);
    double (*peak_flops)(const Device *dev, DType t);
    const KernelOps *(*kernels)(const Device *dev, DType t);
} DeviceBackend;

struct Device {
    const DeviceBackend *backend;
    DeviceKind           kind;
    int                  threads;
    char                 name[128], bus[32];
    int                  failed;     /* set once, by the first device_fail(); error is written before it */
    char                 error[256];
    void                *workspace;
    size_t               workspace_bytes;
    void                *state;      /* the backend's own */
};

/* Fills a zeroed Device; 0 = worked, -1 = msg says why not. */
int device_open_cpu(Device *dev, int threads, char *msg, size_t msg_size);
int device_open_cuda(Device *dev, int index, char *msg, size_t msg_size); /* in builds with HAVE_CUDA */
int device_count_cuda(void);

extern const KernelOps cpu_kernels;       /* float32, kernels/cpu/ */
extern const KernelOps reference_kernels; /* double, kernels/reference/ */

#ifdef __cplusplus
}
#endif
#endif
