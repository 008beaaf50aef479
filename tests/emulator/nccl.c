/* nccl.c - a stand-in for libnccl.so.2 between processes whose GPUs are emulated: the calls that train/dist_nccl.c
 * makes and their close relatives, over POSIX shared memory.  Built to build/emulator/libnccl.so.2 and found by the
 * same dlopen() with LD_LIBRARY_PATH.
 *
 * What it keeps of the real library: nothing happens at a call; a collective is work on a stream that goes on when that
 * stream's turn comes and ends when every rank has come as far (emu_enqueue).  A communicator that does not block
 * says ncclInProgress at its start and at its first collective, which is not even on the stream then.  A sum starts
 * with another rank for every part, as in a ring.  Ranks that call different collectives get an error, not nonsense.
 *
 * EHR_NCCL_FAULT="rank=R,at=K,kind=WHAT" lets rank R fail at its K-th collective (1 is the first; 0 is the start):
 *   die    the process ends as by kill -9         stop   the call never returns
 *   hang   the collective never ends              error  the communicator reports a failed link */
#include "tests/emulator/emulator.h"
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

typedef enum {
    ncclSuccess,
    ncclUnhandledCudaError,
    ncclSystemError,
    ncclInternalError,
    ncclInvalidArgument,
    ncclInvalidUsage,
    ncclRemoteError,
    ncclInProgress
} ncclResult_t;
typedef enum { ncclInt8 = 0, ncclUint8 = 1, ncclInt32 = 2, ncclFloat32 = 7, ncclFloat64 = 8 } ncclDataType_t;
typedef struct {
    char internal[128];
} ncclUniqueId;
typedef struct {
    size_t size;
    unsigned magic, version;
    int blocking;
} ncclConfig_t;
typedef void *cudaStream_t;
enum { ncclSum = 0, MAGIC = (int)0xcafebeef };

enum { RANKS_MAX = 16, SLOT_BYTES = 256 << 10, SHY_POLLS = 50 };
typedef enum { REDUCE_SCATTER, ALL_GATHER, ALL_REDUCE, BROADCAST } Kind;

/* A rank's corner of the shared memory.  Piece number q of all collectives lies in slot q % 2. */
typedef struct {
    _Atomic uint64_t posted, taken; /* pieces that this rank has laid down, and has read of everyone */
    _Atomic int aborted;
    uint64_t signature[2]; /* of the collective that the piece belongs to */
    _Alignas(64) char slot[2][SLOT_BYTES];
} Corner;
typedef struct {
    _Atomic int opened, arrived;
    Corner corner[RANKS_MAX];
} Shared;

typedef struct ncclComm *ncclComm_t;
struct ncclComm {
    int rank, world, blocking, aborted, stopped;
    int shy;         /* times that a call still says that it is at work */
    uint64_t pieces; /* of all collectives called so far */
    int64_t calls;
    ncclResult_t async;
    Shared *shared;
    struct Collective *held[64]; /* called, not on a stream yet */
    int n_held;
};

typedef struct Collective {
    ncclComm_t comm;
    Kind kind;
    ncclDataType_t type;
    int root, hangs, posted;
    const char *in;
    char *out;
    size_t count; /* elements of the smaller buffer */
    cudaStream_t stream;
    uint64_t first, piece, n_pieces;
} Collective;

static int group_depth;
static char last_error[256];

static ncclResult_t fail(ncclResult_t rc, const char *why) {
    snprintf(last_error, sizeof last_error, "%s", why);
    return rc;
}

/* ---- faults to order --------------------------------------------------------------------------------------------- */

static int fault(const ncclComm_t comm, const char *kind) {
    const char *text = getenv("EHR_NCCL_FAULT");
    int rank = -1, at = -1;
    char what[16] = "";
    if (!text || sscanf(text, "rank=%d,at=%d,kind=%15s", &rank, &at, what) != 3) return 0;
    return rank == comm->rank && at == comm->calls && !strcmp(what, kind);
}

static void faults_of_calls(ncclComm_t comm) {
    if (fault(comm, "die")) raise(SIGKILL);
    while (fault(comm, "stop")) pause();
    if (fault(comm, "error"))
        comm->async = fail(ncclRemoteError, "the link to a peer failed, as EHR_NCCL_FAULT ordered");
}

/* ---- pieces ------------------------------------------------------------------------------------------------------ */

static size_t type_size(ncclDataType_t t) { return t == ncclFloat64 ? 8 : t == ncclFloat32 || t == ncclInt32 ? 4 : 1; }

/* Elements of each part that one piece carries. */
static size_t piece_elements(const Collective *c) {
    size_t parts = c->kind == REDUCE_SCATTER ? (size_t)c->comm->world : 1;
    return SLOT_BYTES / (parts * type_size(c->type));
}

static void lay_down(const Collective *c, size_t at, size_t n, char *slot) {
    size_t size = type_size(c->type);
    if (c->kind == BROADCAST && c->comm->rank != c->root) return;
    if (c->kind != REDUCE_SCATTER) {
        memcpy(slot, c->in + at * size, n * size);
        return;
    }
    for (int p = 0; p < c->comm->world; p++)
        memcpy(slot + (size_t)p * n * size, c->in + ((size_t)p * c->count + at) * size, n * size);
}

#define SUM(T)                                                                                                         \
    do {                                                                                                               \
        T *out = (T *)(void *)to;                                                                                      \
        const T *in = (const T *)(const void *)from;                                                                   \
        for (size_t i = 0; i < n; i++) out[i] = first ? in[i] : out[i] + in[i];                                        \
    } while (0)
static void add(char *to, const char *from, size_t n, ncclDataType_t type, int first) {
    switch (type) {
    case ncclFloat32: SUM(float); break;
    case ncclFloat64: SUM(double); break;
    case ncclInt32: SUM(int32_t); break;
    case ncclInt8:
    case ncclUint8: SUM(uint8_t); break;
    }
}

static void take(const Collective *c, size_t at, size_t n, int slot) {
    const ncclComm_t comm = c->comm;
    size_t size = type_size(c->type);
    char *sum = malloc(n * size); /* out may be where a part of in still is */
    for (int k = 0; k < comm->world; k++) {
        int r = (comm->rank + 1 + k) % comm->world;
        const char *from = comm->shared->corner[r].slot[slot];
        if (c->kind == REDUCE_SCATTER) add(sum, from + (size_t)comm->rank * n * size, n, c->type, k == 0);
        /* The same order on every rank, or their sums would differ. */
        if (c->kind == ALL_REDUCE) add(sum, comm->shared->corner[k].slot[slot], n, c->type, k == 0);
        if (c->kind == ALL_GATHER && (r != comm->rank || c->in != c->out + (size_t)r * c->count * size))
            memcpy(c->out + ((size_t)r * c->count + at) * size, from, n * size);
        if (c->kind == BROADCAST && r == c->root) memcpy(c->out + at * size, from, n * size);
    }
    if (c->kind == REDUCE_SCATTER || c->kind == ALL_REDUCE) memcpy(c->out + at * size, sum, n * size);
    free(sum);
}

/* Goes on as far as the peers allow. */
static int collective_run(void *arg) {
    Collective *c = arg;
    ncclComm_t comm = c->comm;
    Corner *corner = comm->shared->corner, *mine = &corner[comm->rank];
    uint64_t signature = (uint64_t)c->kind << 56 ^ (uint64_t)c->type << 48 ^ (uint64_t)c->count;
    while (c->piece < c->n_pieces && !comm->aborted) {
        uint64_t number = c->first + c->piece + 1; /* counted from 1 */
        int slot = (int)(number % 2);
        size_t per = piece_elements(c), at = c->piece * per, n = c->count - at < per ? c->count - at : per;
        if (c->hangs || comm->async) return EMU_AGAIN;
        for (int r = 0; r < comm->world; r++) {
            if (atomic_load(&corner[r].aborted))
                comm->async = fail(ncclRemoteError, "a peer has aborted the communicator");
            if (!c->posted && atomic_load(&corner[r].taken) + 2 < number) return EMU_AGAIN;
        }
        if (!c->posted) {
            lay_down(c, at, n, mine->slot[slot]);
            mine->signature[slot] = signature;
            atomic_store(&mine->posted, number);
            c->posted = 1;
        }
        for (int r = 0; r < comm->world; r++) {
            if (atomic_load(&corner[r].posted) < number) return EMU_AGAIN;
            if (corner[r].signature[slot] != signature) {
                comm->async = fail(ncclInvalidUsage, "ranks call different collectives");
                return EMU_AGAIN;
            }
        }
        take(c, at, n, slot);
        atomic_store(&mine->taken, number);
        c->posted = 0;
        c->piece++;
    }
    free(c);
    return 0;
}

/* ---- calls ------------------------------------------------------------------------------------------------------- */

static ncclResult_t put_on_stream(Collective *c) {
    int (*enqueue)(void *, int (*)(void *), void *);
    *(void **)&enqueue = dlsym(RTLD_DEFAULT, "emu_enqueue");
    if (!enqueue)
        return fail(ncclInternalError, "this stand-in works with emulated GPUs only: the program has no emu_enqueue");
    return enqueue(c->stream, collective_run, c) ? fail(ncclUnhandledCudaError, "the stream takes no work")
                                                 : ncclSuccess;
}

static ncclResult_t release_held(ncclComm_t comm) {
    ncclResult_t rc = ncclSuccess;
    for (int i = 0; i < comm->n_held && !rc; i++) rc = put_on_stream(comm->held[i]);
    comm->n_held = 0;
    return rc;
}

static ncclComm_t grouped[64]; /* communicators with held collectives, until the group ends */
static int n_grouped;

static ncclResult_t call(ncclComm_t comm, Kind kind, const void *in, void *out, size_t count, int type, int root,
                         cudaStream_t stream) {
    if (!comm) return fail(ncclInvalidArgument, "no communicator");
    if (type != ncclFloat32 && type != ncclFloat64 && type != ncclInt32 && type != ncclInt8 && type != ncclUint8)
        return fail(ncclInvalidArgument, "a type that the stand-in does not know");
    if (comm->shy || comm->n_held >= 64)
        return fail(ncclInvalidUsage, "the last call on this communicator is still at work");
    if (comm->async) return comm->async;
    comm->calls++;
    faults_of_calls(comm);
    Collective *c = calloc(1, sizeof *c);
    *c = (Collective){.comm = comm,
                      .kind = kind,
                      .type = (ncclDataType_t)type,
                      .root = root,
                      .in = in,
                      .out = out,
                      .count = count,
                      .stream = stream,
                      .hangs = fault(comm, "hang")};
    c->n_pieces = (count + piece_elements(c) - 1) / piece_elements(c);
    c->first = comm->pieces;
    comm->pieces += c->n_pieces;
    comm->held[comm->n_held++] = c;
    if (group_depth) {
        if (n_grouped < 64) grouped[n_grouped++] = comm;
        return ncclSuccess;
    }
    if (comm->calls == 1 && !comm->blocking) {
        comm->shy = SHY_POLLS;
        return ncclInProgress;
    }
    return release_held(comm);
}

ncclResult_t ncclReduceScatter(const void *in, void *out, size_t count, int type, int op, ncclComm_t comm,
                               cudaStream_t s) {
    return op == ncclSum ? call(comm, REDUCE_SCATTER, in, out, count, type, 0, s)
                         : fail(ncclInvalidArgument, "only sums");
}
ncclResult_t ncclAllReduce(const void *in, void *out, size_t count, int type, int op, ncclComm_t comm, cudaStream_t s) {
    return op == ncclSum ? call(comm, ALL_REDUCE, in, out, count, type, 0, s) : fail(ncclInvalidArgument, "only sums");
}
ncclResult_t ncclAllGather(const void *in, void *out, size_t count, int type, ncclComm_t comm, cudaStream_t s) {
    return call(comm, ALL_GATHER, in, out, count, type, 0, s);
}
ncclResult_t ncclBroadcast(const void *in, void *out, size_t count, int type, int root, ncclComm_t comm,
                           cudaStream_t s) {
    return call(comm, BROADCAST, in, out, count, type, root, s);
}

ncclResult_t ncclGroupStart(void) {
    group_depth++;
    return ncclSuccess;
}
ncclResult_t ncclGroupEnd(void) {
    ncclResult_t rc = ncclSuccess;
    if (!group_depth) return fail(ncclInvalidUsage, "ncclGroupEnd without ncclGroupStart");
    if (--group_depth) return ncclSuccess;
    for (int i = 0; i < n_grouped && !rc; i++) rc = release_held(grouped[i]);
    n_grouped = 0;
    return rc;
}

/* ---- communicators ----------------------------------------------------------------------------------------------- */

ncclResult_t ncclGetVersion(int *version) {
    *version = 22809;
    return ncclSuccess;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId *id) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    memset(id, 0, sizeof *id);
    snprintf(id->internal, sizeof id->internal, "/ehr-nccl-%ld-%lld-%ld", (long)getpid(), (long long)now.tv_sec,
             now.tv_nsec);
    int fd = shm_open(id->internal, O_RDWR | O_CREAT | O_EXCL, 0600);
    if (fd < 0 || ftruncate(fd, sizeof(Shared))) return fail(ncclSystemError, "no shared memory");
    close(fd);
    return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *out, int world, ncclUniqueId id, int rank, ncclConfig_t *config) {
    *out = NULL;
    if (world < 1 || world > RANKS_MAX || rank < 0 || rank >= world) return fail(ncclInvalidArgument, "rank or world");
    if (config && (config->size < sizeof *config || config->magic != (unsigned)MAGIC || config->version < 21400))
        return fail(ncclInvalidArgument, "the configuration was not initialized");
    int fd = shm_open(id.internal, O_RDWR, 0600);
    if (fd < 0) return fail(ncclSystemError, "there is no communicator of this id");
    ncclComm_t comm = calloc(1, sizeof *comm);
    comm->rank = rank;
    comm->world = world;
    comm->blocking = !config || config->blocking != 0;
    comm->shared = mmap(NULL, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (comm->shared == MAP_FAILED) {
        free(comm);
        return fail(ncclSystemError, "the shared memory cannot be mapped");
    }
    *out = comm;
    if (atomic_fetch_add(&comm->shared->opened, 1) == world - 1) shm_unlink(id.internal);
    faults_of_calls(comm);
    if (comm->async) return comm->async;
    atomic_fetch_add(&comm->shared->arrived, 1);
    while (comm->blocking && atomic_load(&comm->shared->arrived) < world) usleep(1000);
    return comm->blocking ? ncclSuccess : ncclInProgress;
}
ncclResult_t ncclCommInitRank(ncclComm_t *comm, int world, ncclUniqueId id, int rank) {
    return ncclCommInitRankConfig(comm, world, id, rank, NULL);
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *state) {
    *state = comm->async;
    if (comm->async) return ncclSuccess;
    if (atomic_load(&comm->shared->arrived) < comm->world) *state = ncclInProgress;
    else if (comm->shy && --comm->shy) *state = ncclInProgress;
    else if (comm->n_held && !group_depth) *state = comm->async = release_held(comm);
    return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t comm) {
    comm->shy = SHY_POLLS;
    return comm->blocking ? ncclSuccess : ncclInProgress;
}
ncclResult_t ncclCommDestroy(ncclComm_t comm) {
    munmap(comm->shared, sizeof(Shared));
    free(comm);
    return ncclSuccess;
}
/* Collectives on streams still know the communicator: it stays. */
ncclResult_t ncclCommAbort(ncclComm_t comm) {
    comm->aborted = 1;
    atomic_store(&comm->shared->corner[comm->rank].aborted, 1);
    return ncclSuccess;
}

const char *ncclGetErrorString(ncclResult_t rc) {
    static const char *const text[] = {"no error",
                                       "unhandled cuda error",
                                       "unhandled system error",
                                       "internal error",
                                       "invalid argument",
                                       "invalid usage",
                                       "remote process exited or there was a network error",
                                       "NCCL operation in progress"};
    return (unsigned)rc < sizeof text / sizeof *text ? text[rc] : "unknown result code";
}
const char *ncclGetLastError(ncclComm_t comm) {
    (void)comm;
    return last_error;
}
