# env.sh - `. scripts/env.sh` sets what a plain `mpirun` needs on one machine: leave to run as root, more ranks than cores,
# waiting ranks that yield, shared memory between ranks, and time to write a checkpoint after SIGTERM.  On a cluster
# leave OMPI_MCA_btl to the site's settings.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_rmaps_base_oversubscribe=1
export OMPI_MCA_mpi_yield_when_idle=1
# Open MPI binds each of one or two ranks to a single core; unbound, a rank's threads use its share of the machine.
export OMPI_MCA_hwloc_base_binding_policy="${OMPI_MCA_hwloc_base_binding_policy:-none}"
# OpenMP threads that spin while waiting starve each other on a machine that is not idle.
export GOMP_SPINCOUNT="${GOMP_SPINCOUNT:-1000}"
export OMPI_MCA_odls_base_sigkill_timeout=10
export OMPI_MCA_btl="${OMPI_MCA_btl:-self,vader}"
