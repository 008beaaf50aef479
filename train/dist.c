/* dist.c - see dist.h.  The environment of launchers, the one-process transport, and what all transports share. */
#include "train/dist_transport.h"
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- the launcher's environment ----------------------------------------------------------------------------------- */

static int env_int(const char *name, int *out) {
    const char *text = getenv(name);
    char *end;
    if (!text || !*text) return 0;
    long v = strtol(text, &end, 10);
    if (*end || v < 0 || v > 1 << 24) return 0;
    *out = (int)v;
    return 1;
}

void dist_launch(Launch *l) {
    /* Slurm counts only inside a step started by srun: SLURM_NTASKS is also set in the batch script itself, where a
     * plain process must not wait for peers. */
    static const struct {
        const char *world, *rank, *local_rank, *local_size;
    } launcher[] = {
        {"OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"},
        {"PMI_SIZE", "PMI_RANK", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"},
        {"SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"},
    };
    *l = (Launch){.world = 1, .local_size = 1};
    for (size_t i = 0; i < sizeof launcher / sizeof *launcher && !l->launched; i++) {
        Launch found = {.world = 1, .local_size = 1};
        if (!env_int(launcher[i].world, &found.world) || !env_int(launcher[i].rank, &found.rank)) continue;
        if (found.world < 1 || found.rank >= found.world) continue;
        if (strncmp(launcher[i].world, "SLURM", 5) == 0 && found.world == 1) continue;
        if (!env_int(launcher[i].local_rank, &found.local_rank)) found.local_rank = 0;
        if (!env_int(launcher[i].local_size, &found.local_size)) found.local_size = 1;
        found.launched = 1;
        *l = found;
    }
    int cpus = 0, flag = 0;
    l->bound = l->launched && ((env_int("OMPI_MCA_orte_bound_at_launch", &flag) && flag) ||
                               (env_int("SLURM_CPUS_PER_TASK", &cpus) && cpus > 0));
}

int dist_threads(const Launch *l) {
    cpu_set_t mine;
    int cores = 1;
    if (!sched_getaffinity(0, sizeof mine, &mine)) cores = CPU_COUNT(&mine);
    if (!l->bound) cores /= l->local_size > 0 ? l->local_size : 1;
    return cores < 1 ? 1 : cores;
}

/* ---- one process -------------------------------------------------------------------------------------------------- */

static void none_reduce_scatter(Dist *d, float *out, const float *in, int64_t count) {
    (void)d;
    if (out != in) memcpy(out, in, (size_t)count * sizeof *out);
}
static void none_all_gather(Dist *d, void *buf, size_t part_bytes) {
    (void)d;
    (void)buf;
    (void)part_bytes;
}
static void none_progress(Dist *d) { (void)d; }
static Status none_wait(Dist *d, Err *err) {
    (void)d;
    (void)err;
    return OK;
}
static Status none_sum(Dist *d, double *x, int64_t n, Err *err) {
    (void)d;
    (void)x;
    (void)n;
    (void)err;
    return OK;
}
static void none_abort(Dist *d) { (void)d; }
static void none_close(Dist *d) { (void)d; }

static const Transport none = {"none",   none_reduce_scatter, none_all_gather, none_progress,
                               none_wait, none_sum,            none_abort,      none_close};

/* ---- all transports ----------------------------------------------------------------------------------------------- */

Status dist_open(Dist **out, const char *transport, double timeout_s, Err *err) {
    Dist *d = xcalloc(1, sizeof *d);
    d->timeout_s = timeout_s;
    dist_launch(&d->launch);
    if (gethostname(d->host, sizeof d->host - 1)) strcpy(d->host, "unknown host");
    *out = NULL;
    Status s = OK;
    if (!strcmp(transport, "none") || (!strcmp(transport, "auto") && !d->launch.launched)) {
        if (d->launch.world > 1)
            s = err_set(err, ERR_USAGE, "--transport none runs one process, but a launcher started %d: leave the flag out, or run without mpirun",
                        d->launch.world);
        d->transport = &none;
    } else {
#ifdef HAVE_MPI
        s = dist_mpi_open(d, err);
#else
        s = d->launch.world == 1 && !strcmp(transport, "auto")
                ? OK
                : err_set(err, ERR_USAGE, "this build has no MPI, so that it runs as one process only: install libopenmpi-dev "
                                          "and build again without NO_MPI, or run without mpirun");
        d->transport = &none;
#endif
    }
    if (s) {
        free(d);
        return s;
    }
    *out = d;
    return OK;
}

void dist_close(Dist *d) {
    if (!d) return;
    d->transport->close(d);
    free(d);
}

int dist_rank(const Dist *d) { return d->launch.rank; }
int dist_world(const Dist *d) { return d->launch.world; }
const char *dist_transport(const Dist *d) { return d->transport->name; }
void dist_at_step(Dist *d, int64_t step) { d->step = step; }

void dist_reduce_scatter(Dist *d, float *out, const float *in, int64_t count) {
    REQUIRE(count % d->launch.world == 0);
    d->transport->reduce_scatter(d, out, in, count);
}

void dist_all_gather(Dist *d, void *buf, int64_t count, size_t size) {
    REQUIRE(count % d->launch.world == 0);
    d->transport->all_gather(d, buf, (size_t)(count / d->launch.world) * size);
}

void dist_progress(Dist *d) { d->transport->progress(d); }
Status dist_wait(Dist *d, Err *err) { return d->transport->wait(d, err); }
Status dist_sum(Dist *d, double *x, int64_t n, Err *err) { return d->transport->sum(d, x, n, err); }

Status dist_agree(Dist *d, Err *err) {
    int rank = d->launch.rank, world = d->launch.world;
    if (world == 1) return err->code;
    if (err->code == ERR_COMM) return ERR_COMM; /* the peers cannot be asked */
    Err comm = {OK, ""};
    double *code = xcalloc((size_t)world, sizeof *code);
    code[rank] = err->code;
    Status s = dist_sum(d, code, world, &comm);
    int worst = 0;
    for (int r = 0; !s && r < world; r++)
        if (code[r] > code[worst]) worst = r;
    int failed = !s && code[worst] > 0;
    free(code);
    if (failed) {
        Err *all = xcalloc((size_t)world, sizeof *all);
        all[rank] = *err;
        dist_all_gather(d, all, world, sizeof *all);
        s = dist_wait(d, &comm);
        if (!s) {
            *err = all[worst];
            if (worst != rank) err_context(err, "rank %d", worst);
        }
        free(all);
    }
    if (s) *err = comm;
    return err->code;
}

void dist_abort(Dist *d, const Err *err) {
    fprintf(stderr, "ehr-train: rank %d on %s, step %lld: %s\n", d->launch.rank, d->host, (long long)d->step, err->msg);
    fflush(NULL);
    d->transport->abort(d);
    _exit(1);
}
