/* dist.h - the ranks of one job.  Transports behind one interface: none (one process), MPI on host memory
 * (dist_mpi.c), MPI for the memory of GPUs by way of the host (dist_staged.c), and NCCL between GPUs, with MPI for
 * start-up and for numbers of the host (dist_nccl.c).  Every call is collective, in the same order on every rank, unless
 * noted.
 *
 * Over MPI sums are taken in rank order, so that a job gives the same bits whenever it has the same number of ranks;
 * NCCL has an order of its own, the same in every run on the same machines.  A failure is kept and shows at the next
 * dist_wait(), dist_sum() or dist_agree(); from then on the job can only end. */
#ifndef EHR_TRAIN_DIST_H
#define EHR_TRAIN_DIST_H
#include "kernels/device.h"
#include "model/base.h"
#include "model/launch.h"

typedef struct Dist Dist;

/* Worker threads that let all ranks of this host share its cores.  Not collective. */
int dist_threads(const Launch *l);

/* transport: "auto" (MPI when a launcher started this process), "none", "mpi" or "nccl".  timeout_s: how long a rank
 * waits for its peers before it gives the job up. */
Status dist_open(Dist **out, const char *transport, double timeout_s, Err *err);
/* Once, when every rank has opened its device: from now on the buffers of reduce_scatter and all_gather are memory of dev
 * (before, and on the CPU, they are host memory).  On GPUs "auto" takes NCCL when every rank has a GPU of its own and
 * libnccl.so.2 is there, else MPI through page-locked host memory.  dev outlives the dist. */
Status dist_attach(Dist *d, Device *dev, Err *err);
void   dist_close(Dist *d);
/* Not collective. */
int         dist_rank(const Dist *d);
int         dist_world(const Dist *d);
const char *dist_transport(const Dist *d);      /* "none", "mpi", "nccl" */
const char *dist_why(const Dist *d); /* why not NCCL although there are GPUs: "rank 0 and rank 1 share a GPU"; else "" */
int         dist_sharers(const Dist *d); /* ranks that compute on this rank's GPU, this one included; 1 on the CPU */
void        dist_at_step(Dist *d, int64_t step); /* for messages */

/* Queued; the memory must stay untouched until dist_wait().  count must divide by the number of ranks.  On a GPU the
 * operation starts after everything queued on STREAM_COMPUTE so far, and not while that is being recorded
 * (device_record); what is queued there after dist_wait() comes after it.
 *   reduce_scatter: out (count / world) = elements [rank, rank + 1) * count / world of in (count), summed over ranks.
 *                   With one rank out and in may be the same.
 *   all_gather:     buf (count * size bytes): rank r's part r becomes everyone's part r. */
void dist_reduce_scatter(Dist *d, float *out, const float *in, int64_t count);
void dist_all_gather(Dist *d, void *buf, int64_t count, size_t size);
/* Moves queued work on without waiting.  Not collective. */
void dist_progress(Dist *d);
/* Waits for everything queued, at most timeout_s without news: a dead or stuck peer is an ERR_COMM that names it.  On a
 * GPU what is still on its way into device memory then is ordered before further work on STREAM_COMPUTE. */
Status dist_wait(Dist *d, Err *err);

/* x[i] = sum over ranks of x[i], in rank order; waits. */
Status dist_sum(Dist *d, double *x, int64_t n, Err *err);
/* Brings every rank the worst Status any rank holds in err, with that rank's message; err->code OK everywhere = OK. */
Status dist_agree(Dist *d, Err *err);

/* Not collective.  Says why on stderr (host, rank, step), brings every rank down, exits. */
void dist_abort(Dist *d, const Err *err) __attribute__((noreturn));

#endif
