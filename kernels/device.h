/* device.h - one compute device: memory, copies, ordering, errors.
 *
 * Bottom layer: includes no other project header, never prints, never exits.  Work is queued in order on a stream;
 * nothing blocks but device_sync() and the copies to and from the host.  The first failure is kept with the name of
 * its operation; from then on every call does nothing and device_sync() keeps failing.
 * On the CPU a call has finished when it returns, so streams and ordering are free. */
#ifndef EHR_KERNELS_DEVICE_H
#define EHR_KERNELS_DEVICE_H
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum { DEVICE_CPU, DEVICE_CUDA } DeviceKind;
typedef enum { DTYPE_F32, DTYPE_BF16, DTYPE_F64, DTYPE_I32, DTYPE_I8 } DType;
typedef enum { STREAM_COMPUTE, STREAM_COMM, STREAM_COPY, STREAM_COUNT } Stream;
typedef struct Device Device;

/* index: GPU ordinal, ignored for the CPU.  threads: CPU worker threads, 0 = OMP_NUM_THREADS or the cores this process
 * may use.  NULL on failure, with the reason and what to do in msg. */
Device     *device_open(DeviceKind kind, int index, int threads, char *msg, size_t msg_size);
void        device_close(Device *dev);
int         device_count(DeviceKind kind); /* that this process can see; 0 without a driver or in builds without CUDA */
DeviceKind  device_kind(const Device *dev);
const char *device_name(const Device *dev);                /* "CPU, 2 threads, AVX-512" */
const char *device_bus(const Device *dev);                 /* PCI address of a GPU, the same in every process; "" on the CPU */
int         device_threads(const Device *dev);             /* worker threads of a CPU device, 1 on a GPU */
double      device_peak_flops(const Device *dev, DType t); /* FLOP/s, 0 if unknown */

void *device_alloc(Device *dev, size_t bytes); /* 256-byte aligned, zeroed; NULL = out of memory */
void  device_free(Device *dev, void *ptr);
void  device_zero(Device *dev, void *ptr, size_t bytes);                        /* on STREAM_COMPUTE */
void  device_copy(Device *dev, void *dst, const void *src, size_t bytes);       /* device to device, COMPUTE */
void  device_upload(Device *dev, void *dst, const void *host, size_t bytes);    /* host buffer reusable on return */
void  device_download(Device *dev, void *host, const void *src, size_t bytes);  /* waits for COMPUTE */

/* Page-locked host memory, for copies that nobody waits for.  256-byte aligned, zeroed; NULL = out of memory. */
void *device_host_alloc(Device *dev, size_t bytes);
void  device_host_free(Device *dev, void *ptr);
/* Queued on s and in order with its other work; host memory (of device_host_alloc) stays untouched until s is done. */
void device_upload_async(Device *dev, Stream s, void *dst, const void *host, size_t bytes);
void device_download_async(Device *dev, Stream s, void *host, const void *src, size_t bytes);

/* Points in a stream that the host can wait for: device_mark() puts mark `index` after everything queued on s so far,
 * device_mark_wait() returns when that is done; 0 = everything worked.  device_mark_poll() only asks: 1 = done, 0 = not
 * yet, -1 = device error. */
enum { DEVICE_MARKS = 8 };
void device_mark(Device *dev, Stream s, int index);
int  device_mark_wait(Device *dev, int index);
int  device_mark_poll(Device *dev, int index);

/* Recording: what is queued on STREAM_COMPUTE between device_record() and device_record_end() does not run but becomes
 * a graph, which device_graph_launch() queues as a whole, as often as wanted, at the cost of one launch.  Pointers and
 * shapes are recorded, contents are read when it runs.  Copies to and from the host cannot be recorded and fail.
 * device_record() returns 0; -1 on devices that do not record (the CPU), which then run everything at once as ever, and
 * device_record_end() gives NULL. */
typedef struct DeviceGraph DeviceGraph;
int          device_record(Device *dev);
DeviceGraph *device_record_end(Device *dev);
void         device_graph_launch(Device *dev, DeviceGraph *graph);
void         device_graph_free(Device *dev, DeviceGraph *graph);

void device_memory(const Device *dev, size_t *free_bytes, size_t *total_bytes); /* 0, 0 if unknown */
/* Products by cuBLASLt instead of our own kernels (--matmul cublas): 0, or -1 with the reason in msg. */
int device_use_cublas(Device *dev, char *msg, size_t msg_size);

/* One scratch buffer a device, shared by all operations on STREAM_COMPUTE.  Grown at start-up only, by whoever knows the
 * shapes (KernelOps.workspace_bytes); 0 = worked. */
int   device_reserve(Device *dev, size_t bytes);
void *device_workspace(Device *dev, size_t *bytes);

/* Work queued on `to` from now on starts after everything queued on `from` so far. */
void device_order(Device *dev, Stream from, Stream to);
int  device_poll(Device *dev, Stream s); /* 1 = everything queued on s is done, 0 = not yet, -1 = device error */
int  device_sync(Device *dev);           /* waits for all streams; 0 = every operation so far worked */

const char *device_error(const Device *dev); /* "attention_forward: ...", or NULL */
void        device_fail(Device *dev, const char *op, const char *why); /* kernels report through this; first one sticks */
void       *device_stream(Device *dev, Stream s); /* cudaStream_t for dist_nccl.c; NULL on the CPU */

size_t      dtype_size(DType t);
const char *dtype_name(DType t); /* safetensors' spelling: "F32", "BF16" */

#ifdef __cplusplus
}
#endif
#endif
