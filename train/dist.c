/* dist.c - see dist.h.  Threads of a rank, the one-process transport, and what all transports share. */
#include "train/dist_transport.h"
#include <limits.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* ---- threads ------------------------------------------------------------------------------------------------------- */

int dist_threads(const Launch *l) {
    cpu_set_t mine;
    int cores = 1;
    if (!sched_getaffinity(0, sizeof mine, &mine)) cores = CPU_COUNT(&mine);
    if (!l->bound) cores /= l->local_size > 0 ? l->local_size : 1;
    return cores < 1 ? 1 : cores;
}

/* ---- one process -------------------------------------------------------------------------------------------------- */

static int none_reduce_scatter(Dist *d, float *out, const float *in, int64_t count) {
    if (out == in) return 0;
    if (d->dev) device_copy(d->dev, out, in, (size_t)count * sizeof *out);
    else memcpy(out, in, (size_t)count * sizeof *out);
    return 0;
}
static int none_all_gather(Dist *d, void *buf, size_t part_bytes) {
    (void)d, (void)buf, (void)part_bytes;
    return 0;
}
static int none_done(const Dist *d, int ticket) {
    (void)d, (void)ticket;
    return 1;
}
static void none_nothing(Dist *d) { (void)d; }
static Status none_wait(Dist *d, Err *err) {
    if (d->error.code) *err = d->error;
    return d->error.code;
}
static Status none_sum(Dist *d, double *x, int64_t n, Err *err) {
    (void)x, (void)n;
    return none_wait(d, err);
}

static const HostTransport none = {.name = "none",
                                   .reduce_scatter = none_reduce_scatter,
                                   .all_gather = none_all_gather,
                                   .done = none_done,
                                   .progress = none_nothing,
                                   .wait = none_wait,
                                   .sum = none_sum,
                                   .watch = none_nothing,
                                   .late = none_nothing,
                                   .abort = none_nothing,
                                   .close = none_nothing};

/* ---- opening ------------------------------------------------------------------------------------------------------ */

static Status open_none(Dist *d, Err *err) {
    d->host = &none;
    if (d->launch.world == 1) return OK;
    return err_set(err, ERR_USAGE, "--transport none runs one process, but a launcher started %d: leave the flag out, or run without mpirun",
                   d->launch.world);
}

static Status open_mpi(Dist *d, Err *err) {
#ifdef HAVE_MPI
    return dist_mpi_open(d, err);
#else
    d->host = &none;
    if (d->launch.world == 1 && strcmp(d->asked, "mpi")) return OK;
    return err_set(err, ERR_USAGE, "this build has no MPI, so that it runs as one process only: install libopenmpi-dev "
                                   "and build again without NO_MPI, or run without mpirun");
#endif
}

Status dist_open(Dist **out, const char *transport, double timeout_s, Err *err) {
    Dist *d = xcalloc(1, sizeof *d);
    d->timeout_s = timeout_s;
    d->asked = transport;
    launch_read(&d->launch);
    if (gethostname(d->name, sizeof d->name - 1)) strcpy(d->name, "unknown host");
    *out = NULL;
    int alone = !strcmp(transport, "none") || (strcmp(transport, "mpi") && !d->launch.launched);
    Status s = alone ? open_none(d, err) : open_mpi(d, err);
    if (s) {
        free(d);
        return s;
    }
    *out = d;
    return OK;
}

/* What ranks tell each other about their devices. */
typedef struct {
    char host[64], bus[32], no_nccl[192]; /* bus "": a CPU; no_nccl "": libnccl is there */
} Place;

static int same_gpu(const Place *a, const Place *b) { return a->bus[0] && !strcmp(a->host, b->host) && !strcmp(a->bus, b->bus); }

/* Why NCCL cannot be used, "" = it can. */
static void nccl_obstacle(const Place *place, int world, char *why, size_t size) {
    why[0] = 0;
    for (int r = 0; r < world; r++) {
        if (place[r].no_nccl[0]) {
            snprintf(why, size, "rank %d on %s: %s", r, place[r].host, place[r].no_nccl);
            return;
        }
        for (int q = 0; q < r; q++)
            if (same_gpu(&place[q], &place[r])) {
                snprintf(why, size, "rank %d and rank %d share the GPU at %s of %s", q, r, place[r].bus, place[r].host);
                return;
            }
    }
}

/* The same answer on every rank: all look at the same places. */
static Status choose_device_transport(Dist *d, const Place *place, Err *err) {
    int world = d->launch.world, nccl = !strcmp(d->asked, "nccl"), gpus = 0;
    for (int r = 0; r < world; r++) gpus += place[r].bus[0] != 0;
    if (gpus && gpus < world)
        return err_set(err, ERR_USAGE, "%d of %d ranks compute on a GPU and the others on a CPU: start ranks only where GPUs are, or give "
                                       "--device cpu", gpus, world);
    if (nccl && !gpus)
        return err_set(err, ERR_USAGE, "--transport nccl moves memory of GPUs, but the ranks compute on the CPU: leave the flag out, or "
                                       "give --device cuda");
    if (!gpus || (world == 1 && !nccl)) return OK;
    if (!strcmp(d->asked, "mpi")) return dist_staged_open(d, err);
    nccl_obstacle(place, world, d->why, sizeof d->why);
    if (!d->why[0]) return dist_nccl_open(d, err);
    if (nccl)
        return err_set(err, ERR_USAGE, "--transport nccl takes libnccl.so.2 and a GPU for every rank; %s; --transport mpi does without",
                       d->why);
    return dist_staged_open(d, err);
}

Status dist_attach(Dist *d, Device *dev, Err *err) {
    int world = d->launch.world;
    Place *place = xcalloc((size_t)world, sizeof *place), *mine = &place[d->launch.rank];
    snprintf(mine->host, sizeof mine->host, "%s", d->name);
    if (device_kind(dev) != DEVICE_CPU) {
        snprintf(mine->bus, sizeof mine->bus, "%s", device_bus(dev));
        if (strcmp(d->asked, "mpi") && (world > 1 || !strcmp(d->asked, "nccl")))
            dist_nccl_missing(mine->no_nccl, sizeof mine->no_nccl);
    }
    d->host->all_gather(d, place, sizeof *place);
    Status s = d->host->wait(d, err);
    if (device_kind(dev) != DEVICE_CPU) d->dev = dev;
    for (int r = 0; r < world; r++) d->sharers += r == d->launch.rank || same_gpu(mine, &place[r]);
    if (!s) s = choose_device_transport(d, place, err);
    free(place);
    return s;
}

void dist_close(Dist *d) {
    if (!d) return;
    if (d->device) d->device->close(d);
    d->host->close(d);
    free(d);
}

/* ---- all transports ----------------------------------------------------------------------------------------------- */

int dist_rank(const Dist *d) { return d->launch.rank; }
int dist_world(const Dist *d) { return d->launch.world; }
const char *dist_transport(const Dist *d) { return d->device ? d->device->name : d->host->name; }
const char *dist_why(const Dist *d) { return d->why; }
int dist_sharers(const Dist *d) { return d->sharers; }
void dist_at_step(Dist *d, int64_t step) { d->step = step; }

void dist_reduce_scatter(Dist *d, float *out, const float *in, int64_t count) {
    REQUIRE(count % d->launch.world == 0);
    if (d->error.code) return;
    if (d->device) d->device->reduce_scatter(d, out, in, count);
    else d->host->reduce_scatter(d, out, in, count);
}

void dist_all_gather(Dist *d, void *buf, int64_t count, size_t size) {
    REQUIRE(count % d->launch.world == 0);
    size_t part_bytes = (size_t)(count / d->launch.world) * size;
    if (d->error.code) return;
    if (d->device) d->device->all_gather(d, buf, part_bytes);
    else d->host->all_gather(d, buf, part_bytes);
}

void dist_progress(Dist *d) {
    if (d->device) d->device->progress(d);
    else d->host->progress(d);
}

Status dist_wait(Dist *d, Err *err) { return d->device ? d->device->wait(d, err) : d->host->wait(d, err); }

Status dist_wait_for(Dist *d, int (*pending)(Dist *d), void (*late)(Dist *d), Err *err) {
    enum { SPINS = 200 };
    const double watch_s = 0.25; /* how often a waiting rank looks whether its peers are alive */
    int left, before = INT_MAX;
    double looked_s = d->news_s = clock_s();
    for (int64_t spin = 0; !d->error.code && (left = pending(d)) > 0; spin++) {
        if (left < before) {
            before = left;
            spin = 0;
            d->news_s = clock_s();
        }
        if (spin < SPINS) continue;
        sched_yield(); /* ranks may share cores */
        double now = clock_s();
        if (now - looked_s < watch_s) continue;
        looked_s = now;
        d->host->watch(d);
        if (!d->error.code && now - d->news_s >= d->timeout_s) late(d);
        if (now - d->news_s > 1.0) nanosleep(&(struct timespec){0, 1000000}, NULL);
    }
    if (d->error.code) *err = d->error;
    return d->error.code;
}

int dist_device_failed(Dist *d) {
    const char *why = device_error(d->dev);
    if (why && !d->error.code) err_set(&d->error, ERR_DEVICE, "%s: %s", device_name(d->dev), why);
    return why != NULL;
}

Status dist_sum(Dist *d, double *x, int64_t n, Err *err) {
    Status s = d->device ? d->device->wait(d, err) : OK;
    return s ? s : d->host->sum(d, x, n, err);
}

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
        d->host->all_gather(d, all, sizeof *all);
        s = d->host->wait(d, &comm);
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
    fprintf(stderr, "ehr-train: rank %d on %s, step %lld: %s\n", d->launch.rank, d->name, (long long)d->step, err->msg);
    fflush(NULL);
    alarm(10); /* what follows asks libraries and the launcher, which may be gone as well */
    if (d->device) d->device->abort(d);
    d->host->abort(d);
    _exit(1);
}
