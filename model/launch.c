/* launch.c - see launch.h. */
#include "model/launch.h"
#include <stdlib.h>
#include <string.h>

enum { RANKS_MAX = 1 << 24 };

static int env_int(const char *name, int *out) {
    const char *text = getenv(name);
    char *end;
    long v = text ? strtol(text, &end, 10) : -1;
    if (!text || end == text || *end || v < 0 || v > RANKS_MAX) return 0;
    *out = (int)v;
    return 1;
}

/* Ranks on this host of Slurm's "2(x3),1": two on each of three hosts, one on the last.  Of an unknown host the most there
 * are: threads too few do no harm, threads too many do. */
static int slurm_local_size(int *out) {
    const char *at = getenv("SLURM_STEP_TASKS_PER_NODE");
    int host = -1;
    env_int("SLURM_NODEID", &host);
    for (int most = 0; at && *at >= '1' && *at <= '9';) {
        char *end;
        long n = strtol(at, &end, 10), hosts = 1;
        if (!strncmp(end, "(x", 2)) {
            hosts = strtol(end + 2, &end, 10);
            if (*end++ != ')') return 0;
        }
        if (n > RANKS_MAX || hosts < 1 || hosts > RANKS_MAX || (*end && *end != ',')) return 0;
        if (n > most) most = (int)n;
        if (host >= 0 && host < hosts) return *out = (int)n;
        if (!*end) return *out = most;
        if (host >= 0) host -= (int)hosts;
        at = end + 1;
    }
    return 0;
}

/* Slurm counts only inside a step started by srun: SLURM_NTASKS is also set in the batch script itself, where a plain
 * process must not wait for peers. */
void launch_read(Launch *l) {
    static const struct {
        const char *world, *rank, *local_rank, *local_size;
    } launcher[] = {
        {"OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"},
        {"PMI_SIZE", "PMI_RANK", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"},
        {"SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID", NULL},
    };
    *l = (Launch){.world = 1, .local_size = 1};
    for (size_t i = 0; i < sizeof launcher / sizeof *launcher && !l->launched; i++) {
        Launch found = {.world = 1};
        const int slurm = !launcher[i].local_size;
        if (!env_int(launcher[i].world, &found.world) || !env_int(launcher[i].rank, &found.rank)) continue;
        if (found.world < 1 || found.rank >= found.world) continue;
        if (slurm && found.world == 1) continue;
        if (!env_int(launcher[i].local_rank, &found.local_rank)) found.local_rank = 0;
        if (!(slurm ? slurm_local_size(&found.local_size) : env_int(launcher[i].local_size, &found.local_size)) || found.local_size < 1)
            found.local_size = 1;
        found.launched = 1;
        *l = found;
    }
    int cpus = 0, flag = 0;
    l->bound = l->launched && ((env_int("OMPI_MCA_orte_bound_at_launch", &flag) && flag) ||
                               (env_int("SLURM_CPUS_PER_TASK", &cpus) && cpus > 0));
}
