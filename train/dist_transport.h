/* dist_transport.h - what dist.c asks of a transport.  Only dist*.c include it. */
#ifndef EHR_TRAIN_DIST_TRANSPORT_H
#define EHR_TRAIN_DIST_TRANSPORT_H
#include "train/dist.h"

typedef struct {
    const char *name;
    void (*reduce_scatter)(Dist *d, float *out, const float *in, int64_t count);
    void (*all_gather)(Dist *d, void *buf, size_t part_bytes); /* buf: world parts */
    void (*progress)(Dist *d);
    Status (*wait)(Dist *d, Err *err);
    Status (*sum)(Dist *d, double *x, int64_t n, Err *err);
    void (*abort)(Dist *d); /* tells the others to end; may return */
    void (*close)(Dist *d);
} Transport;

struct Dist {
    const Transport *transport;
    Launch           launch;
    double           timeout_s;
    int64_t          step;
    char             host[64];
    Err              error; /* the first failure, kept */
    void            *impl;  /* the transport's own */
};

/* Fills rank and world from MPI itself. */
Status dist_mpi_open(Dist *d, Err *err);

#endif
