/* launch.h - which of how many processes this one is, as the environment of its launcher says: mpirun (OMPI_COMM_WORLD_*),
 * other process managers (PMI_*), srun (SLURM_*). */
#ifndef EHR_MODEL_LAUNCH_H
#define EHR_MODEL_LAUNCH_H

typedef struct {
    int rank, world, local_rank, local_size; /* local: among the ranks on this host */
    int launched;                            /* 0: no launcher, a plain process; rank 0 of 1 */
    int bound;                               /* the launcher gave this rank cores of its own */
} Launch;
void launch_read(Launch *l);

#endif
