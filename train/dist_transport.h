/* dist_transport.h - what dist.c asks of a transport.  Only dist*.c include it.
 *
 * A host transport moves host memory; every job has one.  When the ranks compute on GPUs a device transport moves
 * device memory, with the host transport's help. */
#ifndef EHR_TRAIN_DIST_TRANSPORT_H
#define EHR_TRAIN_DIST_TRANSPORT_H
#include "train/dist.h"

/* Queued operations give a ticket; done() tells whether a ticket's operation has ended, until the next wait(). */
typedef struct {
    const char *name;
    int (*reduce_scatter)(Dist *d, float *out, const float *in, int64_t count);
    int (*all_gather)(Dist *d, void *buf, size_t part_bytes); /* buf: world parts */
    int (*done)(const Dist *d, int ticket);
    void (*progress)(Dist *d);
    Status (*wait)(Dist *d, Err *err);
    Status (*sum)(Dist *d, double *x, int64_t n, Err *err);
    void (*watch)(Dist *d); /* a peer that is known to be dead becomes d->error */
    void (*late)(Dist *d);  /* no news for timeout_s: d->error says of whom */
    void (*abort)(Dist *d); /* tells the others to end; may return */
    void (*close)(Dist *d);
} HostTransport;

typedef struct {
    const char *name;
    void (*reduce_scatter)(Dist *d, float *out, const float *in, int64_t count);
    void (*all_gather)(Dist *d, void *buf, size_t part_bytes);
    void (*progress)(Dist *d);
    Status (*wait)(Dist *d, Err *err);
    void (*abort)(Dist *d);
    void (*close)(Dist *d);
} DeviceTransport;

struct Dist {
    const HostTransport *host;
    void *host_state;
    const DeviceTransport *device; /* NULL: buffers are host memory */
    void *device_state;
    Device *dev;
    Launch launch;
    const char *asked;        /* --transport */
    double timeout_s, news_s; /* news_s: when something last moved */
    int64_t step;
    int sharers;
    char name[64]; /* of this host */
    char why[256];
    Err error; /* the first failure, kept */
};

/* Calls pending(), which moves work on and counts what is left, until that is 0, a peer dies, or nothing has moved for
 * timeout_s: then late() sets d->error. */
Status dist_wait_for(Dist *d, int (*pending)(Dist *d), void (*late)(Dist *d), Err *err);
/* The device's error becomes the job's; 1 = there is one. */
int dist_device_failed(Dist *d);

/* Fills rank and world from MPI itself. */
Status dist_mpi_open(Dist *d, Err *err);
Status dist_staged_open(Dist *d, Err *err);
/* 0 = libnccl.so.2 is there and new enough; else why not. */
int dist_nccl_missing(char *why, size_t why_size);
Status dist_nccl_open(Dist *d, Err *err);

#endif
