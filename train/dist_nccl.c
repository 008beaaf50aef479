/* dist_nccl.c - ranks whose buffers are memory of GPUs, over NCCL on STREAM_COMM.
 *
 * libnccl.so.2 is opened when it is wanted, so that one binary starts anywhere; the few types and functions used here
 * are declared by hand below.  The communicator does not block: a call that cannot finish at once says ncclInProgress
 * and is asked about with ncclCommGetAsyncError, which is also where a failure of the network or of a peer shows.  So
 * every wait has an end: peers on this host are watched by their process, the others by --timeout; then the ranks that
 * still can say over the host transport how far they are, which names those that cannot. */
#include "train/dist_transport.h"
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

/* ---- what of <nccl.h> is used -------------------------------------------------------------------------------------
 * NCCL 2.14 to 2.30, "NCCL API" of https://docs.nvidia.com/deeplearning/nccl/user-guide: enumerators and signatures are
 * the same in all of them.  ncclConfig_t begins with its own size and the version it was written for; a library reads
 * no further, and takes its defaults for fields that came later. */
typedef struct ncclComm *ncclComm_t;
typedef void *cuda_stream; /* cudaStream_t */
typedef struct {
    char internal[128];
} ncclUniqueId;
typedef enum { ncclSuccess = 0, ncclInProgress = 7 } ncclResult_t; /* the others have text from the library */
enum { ncclUint8 = 1, ncclFloat32 = 7, ncclSum = 0, VERSION_MIN = 21400 };
typedef struct {
    size_t size;
    unsigned magic, version;
    int blocking;
} ncclConfig_2_14;

typedef struct {
    ncclResult_t (*GetVersion)(int *version);
    ncclResult_t (*GetUniqueId)(ncclUniqueId *id);
    ncclResult_t (*CommInitRankConfig)(ncclComm_t *comm, int world, ncclUniqueId id, int rank, ncclConfig_2_14 *config);
    ncclResult_t (*CommFinalize)(ncclComm_t comm);
    ncclResult_t (*CommDestroy)(ncclComm_t comm);
    ncclResult_t (*CommAbort)(ncclComm_t comm);
    ncclResult_t (*CommGetAsyncError)(ncclComm_t comm, ncclResult_t *state);
    const char *(*GetErrorString)(ncclResult_t rc);
    const char *(*GetLastError)(ncclComm_t comm);
    ncclResult_t (*ReduceScatter)(const void *in, void *out, size_t out_count, int type, int op, ncclComm_t comm,
                                  cuda_stream s);
    ncclResult_t (*AllGather)(const void *in, void *out, size_t in_count, int type, ncclComm_t comm, cuda_stream s);
} Library;

static int library_open(Library *nccl, char *why, size_t size) {
    static const char *const names[] = {"ncclGetVersion",        "ncclGetUniqueId",    "ncclCommInitRankConfig",
                                        "ncclCommFinalize",      "ncclCommDestroy",    "ncclCommAbort",
                                        "ncclCommGetAsyncError", "ncclGetErrorString", "ncclGetLastError",
                                        "ncclReduceScatter",     "ncclAllGather"};
    enum { N = sizeof names / sizeof *names };
    _Static_assert(sizeof(Library) == N * sizeof(void *), "a name for each function");
    int version = 0;
    void *handle = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL), *function[N];
    if (!handle) {
        snprintf(why, size, "%.150s (put its folder into LD_LIBRARY_PATH)", dlerror());
        return -1;
    }
    for (int i = 0; i < N; i++)
        if (!(function[i] = dlsym(handle, names[i]))) {
            snprintf(why, size, "libnccl.so.2 has no %s: NCCL 2.14 or later is needed", names[i]);
            return -1;
        }
    memcpy(nccl, function, sizeof function);
    if (nccl->GetVersion(&version) == ncclSuccess && version >= VERSION_MIN) return 0;
    snprintf(why, size, "libnccl.so.2 is version %d, 2.14 or later is needed", version);
    return -1;
}

int dist_nccl_missing(char *why, size_t why_size) {
    Library nccl;
    return library_open(&nccl, why, why_size);
}

/* ---- failures ---------------------------------------------------------------------------------------------------- */

typedef struct {
    Library nccl;
    ncclComm_t comm;
    double queued; /* collectives so far, for messages */
    int waiting;   /* something was queued since the last wait */
} Nccl;

/* 1 = failed; a call that is still at work has not. */
static int failed(Dist *d, const char *what, ncclResult_t rc) {
    Nccl *n = d->device_state;
    if (rc == ncclSuccess || rc == ncclInProgress) return 0;
    const char *more = n->nccl.GetLastError(n->comm);
    if (!d->error.code)
        err_set(&d->error, ERR_COMM,
                "NCCL, %s: %s%s%.200s; NCCL_DEBUG=WARN tells more, --transport mpi does without NCCL", what,
                n->nccl.GetErrorString(rc), more && *more ? ": " : "", more ? more : "");
    return 1;
}

/* Calls of the library that have not finished: 1 or 0. */
static int calls_pending(Dist *d) {
    Nccl *n = d->device_state;
    ncclResult_t state = ncclSuccess;
    if (failed(d, "asking for its state", n->nccl.CommGetAsyncError(n->comm, &state))) return 0;
    if (failed(d, "a collective or the link to a peer", state)) return 0;
    return state == ncclInProgress;
}

static int collectives_pending(Dist *d) {
    if (calls_pending(d)) return 1;
    if (d->error.code) return 0;
    int done = device_poll(d->dev, STREAM_COMM);
    if (done < 0) dist_device_failed(d);
    /* While this rank still computes, nobody is to be blamed for silence. */
    if (!done && device_poll(d->dev, STREAM_COMPUTE) == 0) d->news_s = clock_s();
    return !done;
}

/* NCCL does not say whom it waits for.  All who can still answer are as late as this rank and ask as well. */
static void nccl_late(Dist *d) {
    Nccl *n = d->device_state;
    int world = d->launch.world, same = 1;
    double *queued = xcalloc((size_t)world, sizeof *queued), timeout_s = d->timeout_s;
    Err err = {OK, ""};
    queued[d->launch.rank] = n->queued;
    d->timeout_s = timeout_s < 10 ? timeout_s : 10;
    d->host->all_gather(d, queued, sizeof *queued);
    d->host->wait(d, &err);
    d->timeout_s = timeout_s;
    if (err.code) {
        err_context(&err, "NCCL has not finished for %.0f s", timeout_s);
    } else {
        for (int r = 0; r < world; r++) same &= queued[r] == n->queued;
        err_set(
            &err, ERR_COMM,
            "NCCL has not finished collective %.0f for %.0f s, although all ranks answer and %s; look at the network "
            "(NCCL_DEBUG=INFO), or use --transport mpi",
            n->queued, timeout_s, same ? "have come as far" : "some have not come as far");
    }
    d->error = err;
    free(queued);
}

/* ---- collectives ------------------------------------------------------------------------------------------------- */

/* The last call has to be through before the next; only the first collectives, which connect the ranks, take time. */
static int ready(Dist *d) {
    Err err;
    if (dist_wait_for(d, calls_pending, nccl_late, &err)) return 0;
    device_order(d->dev, STREAM_COMPUTE, STREAM_COMM);
    return !dist_device_failed(d);
}

static void queued(Dist *d, const char *what, ncclResult_t rc) {
    Nccl *n = d->device_state;
    n->queued++;
    n->waiting = 1;
    failed(d, what, rc);
}

static void nccl_reduce_scatter(Dist *d, float *out, const float *in, int64_t count) {
    Nccl *n = d->device_state;
    if (!ready(d)) return;
    queued(d, "ncclReduceScatter",
           n->nccl.ReduceScatter(in, out, (size_t)(count / d->launch.world), ncclFloat32, ncclSum, n->comm,
                                 device_stream(d->dev, STREAM_COMM)));
}

static void nccl_all_gather(Dist *d, void *buf, size_t part_bytes) {
    Nccl *n = d->device_state;
    const char *own = (char *)buf + (size_t)d->launch.rank * part_bytes;
    if (!ready(d)) return;
    queued(d, "ncclAllGather",
           n->nccl.AllGather(own, buf, part_bytes, ncclUint8, n->comm, device_stream(d->dev, STREAM_COMM)));
}

static void nccl_progress(Dist *d) {
    if (!d->error.code) calls_pending(d);
}

static Status nccl_wait(Dist *d, Err *err) {
    Nccl *n = d->device_state;
    if (n->waiting || d->error.code) {
        Status s = dist_wait_for(d, collectives_pending, nccl_late, err);
        if (s) return s;
        device_order(d->dev, STREAM_COMM, STREAM_COMPUTE);
        n->waiting = 0;
    }
    return d->host->wait(d, err);
}

/* ---- start and end ----------------------------------------------------------------------------------------------- */

static void nccl_abort(Dist *d) {
    Nccl *n = d->device_state;
    if (n->comm) n->nccl.CommAbort(n->comm); /* or its kernels spin on for peers that will not come */
    n->comm = NULL;
}

static void nccl_close(Dist *d) {
    Nccl *n = d->device_state;
    Err err;
    device_sync(d->dev);
    if (!d->error.code && n->comm && !failed(d, "ncclCommFinalize", n->nccl.CommFinalize(n->comm)) &&
        !dist_wait_for(d, calls_pending, nccl_late, &err))
        n->nccl.CommDestroy(n->comm);
    else nccl_abort(d);
    free(n);
}

static const DeviceTransport nccl_transport = {.name = "nccl",
                                               .reduce_scatter = nccl_reduce_scatter,
                                               .all_gather = nccl_all_gather,
                                               .progress = nccl_progress,
                                               .wait = nccl_wait,
                                               .abort = nccl_abort,
                                               .close = nccl_close};

/* The host transport works on when NCCL does not: when all ranks have failed, or could start, they agree on it and end
 * alike.  A rank that failed alone, while the others wait for it inside NCCL, ends the job. */
static Status agree_on_start(Dist *d, Err *err) {
    const double patience_s = 5;
    double timeout_s = d->timeout_s;
    Err mine = d->error;
    if (mine.code) {
        *err = mine;
        err->code = ERR_DEVICE;
        d->error = (Err){OK, ""};
        if (patience_s < timeout_s) d->timeout_s = patience_s;
    }
    if (dist_agree(d, err) == ERR_COMM && mine.code) *err = mine;
    d->timeout_s = timeout_s;
    return err->code;
}

/* Rank 0's id for the job, over the host transport; every rank's part is 0 but its own. */
static Status share_id(Dist *d, const Nccl *n, ncclUniqueId *id, Err *err) {
    ncclUniqueId *all = xcalloc((size_t)d->launch.world, sizeof *all);
    if (d->launch.rank == 0) failed(d, "ncclGetUniqueId", n->nccl.GetUniqueId(all));
    if (!agree_on_start(d, err)) {
        d->host->all_gather(d, all, sizeof *all);
        d->host->wait(d, err);
        *id = all[0];
    }
    free(all);
    return err->code;
}

Status dist_nccl_open(Dist *d, Err *err) {
    Nccl *n = xcalloc(1, sizeof *n);
    ncclUniqueId id;
    ncclConfig_2_14 config = {sizeof config, 0xcafebeef, VERSION_MIN, 0};
    char why[192];
    d->device_state = n;
    if (library_open(&n->nccl, why, sizeof why)) {
        free(n);
        return err_set(err, ERR_COMM, "%s", why);
    }
    Status s = share_id(d, n, &id, err);
    if (!s) {
        device_order(d->dev, STREAM_COMPUTE, STREAM_COMM); /* makes this thread's GPU the device's */
        if (!failed(d, "ncclCommInitRankConfig",
                    n->nccl.CommInitRankConfig(&n->comm, d->launch.world, id, d->launch.rank, &config)))
            dist_wait_for(d, calls_pending, nccl_late, err);
        s = agree_on_start(d, err);
    }
    if (s) {
        nccl_abort(d);
        free(n);
        return s;
    }
    d->device = &nccl_transport;
    return OK;
}
