/* backend.h - what device.c and the backends share; private to kernels/.
 *
 * A Device is this struct on every backend.  device.c keeps errors and the workspace and calls the backend's table for
 * the rest. */
#ifndef EHR_KERNELS_BACKEND_H
#define EHR_KERNELS_BACKEND_H
#include "kernels/kernels.h"

typedef struct {
    void (*close)(Device *dev);
    void *(*alloc)(Device *dev, size_t bytes); /* 256-byte aligned, zeroed; NULL = out of memory */
    void (*free)(Device *dev, void *ptr);
    void (*zero)(Device *dev, void *ptr, size_t bytes);
    void (*copy)(Device *dev, void *dst, const void *src, size_t bytes);
    void (*upload)(Device *dev, void *dst, const void *host, size_t bytes);
    void (*download)(Device *dev, void *host, const void *src, size_t bytes);
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
    char                 name[128];
    int                  failed;     /* set once, by the first device_fail(); error is written before it */
    char                 error[256];
    void                *workspace;
    size_t               workspace_bytes;
    void                *state;      /* the backend's own */
};

/* Fills a zeroed Device; 0 = worked, -1 = msg says why not. */
int device_open_cpu(Device *dev, int threads, char *msg, size_t msg_size);

extern const KernelOps cpu_kernels;       /* float32, kernels/cpu/ */
extern const KernelOps reference_kernels; /* double, kernels/reference/ */

#endif
