/* dist.h - the ranks of one job.  Transports behind one interface: none (one process) and MPI on host memory
 * (dist_mpi.c).  Every call is collective, in the same order on every rank, unless noted.
 *
 * Sums are taken in rank order, so that a job gives the same bits whenever it has the same number of ranks.  A failure
 * is kept and shows at the next dist_wait(), dist_sum() or dist_agree(); from then on the job can only end. */
#ifndef EHR_TRAIN_DIST_H
#define EHR_TRAIN_DIST_H
#include "model/base.h"

typedef struct Dist Dist;

/* What the launcher's environment says (OMPI_COMM_WORLD_*, PMI_*, PMIX_*, SLURM_*). */
typedef struct {
    int rank, world, local_rank, local_size; /* local: among the ranks on this host */
    int launched;                            /* 0: no launcher, a plain process; rank 0 of 1 */
    int bound;                               /* the launcher gave this rank cores of its own */
} Launch;
void dist_launch(Launch *l); /* not collective */

/* Worker threads that let all ranks of this host share its cores.  Not collective. */
int dist_threads(const Launch *l);

/* transport: "auto" (MPI when a launcher started this process), "none" or "mpi".  timeout_s: how long a rank waits for
 * its peers before it gives the job up. */
Status dist_open(Dist **out, const char *transport, double timeout_s, Err *err);
void   dist_close(Dist *d);
/* Not collective. */
int         dist_rank(const Dist *d);
int         dist_world(const Dist *d);
const char *dist_transport(const Dist *d);      /* "none", "mpi" */
void        dist_at_step(Dist *d, int64_t step); /* for messages */

/* Queued; the memory must stay untouched until dist_wait().  count must divide by the number of ranks.
 *   reduce_scatter: out (count / world) = elements [rank, rank + 1) * count / world of in (count), summed over ranks.
 *                   With one rank out and in may be the same.
 *   all_gather:     buf (count * size bytes): rank r's part r becomes everyone's part r. */
void dist_reduce_scatter(Dist *d, float *out, const float *in, int64_t count);
void dist_all_gather(Dist *d, void *buf, int64_t count, size_t size);
/* Moves queued work on without waiting.  Not collective. */
void dist_progress(Dist *d);
/* Waits for everything queued, at most timeout_s without news: a dead or stuck peer is an ERR_COMM that names it. */
Status dist_wait(Dist *d, Err *err);

/* x[i] = sum over ranks of x[i], in rank order; waits. */
Status dist_sum(Dist *d, double *x, int64_t n, Err *err);
/* Brings every rank the worst Status any rank holds in err, with that rank's message; err->code OK everywhere = OK. */
Status dist_agree(Dist *d, Err *err);

/* Not collective.  Says why on stderr (host, rank, step), brings every rank down, exits. */
void dist_abort(Dist *d, const Err *err) __attribute__((noreturn));

#endif
