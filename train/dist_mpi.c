/* dist_mpi.c - ranks over MPI, on host memory.
 *
 * Collectives are exchanges of point-to-point messages: every rank sends peer r part r and adds what it receives in
 * rank order.  That moves as little data as any reduce-scatter, fixes the order of the sums whatever algorithm the
 * library would choose, and tells who has not answered.  Queued exchanges are moved on by MPI_Testall from
 * dist_progress() while the backward pass goes on.
 *
 * A peer on the same host that has died shows at once because its process is gone; a remote one by the timeout. */
#include "train/dist_transport.h"
#include <errno.h>
#include <limits.h>
#include <mpi.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* A message goes in pieces, for MPI counts its bytes in an int; so short that tests meet them, so long that nothing is lost. */
enum { TAG_COUNT = 32768, PIECE = 1 << 24 };

typedef struct {
    char     host[64];
    int64_t  pid;
    uint64_t pid_namespace; /* processes of another container cannot be watched by their number */
} Peer;

typedef struct {
    MPI_Request *request; /* (2 * (world - 1) * pieces) receives first, the pieces of a peer side by side */
    int          n_requests, done, pieces, capacity;
    int64_t      count; /* reduce-scatter: elements a part; 0 otherwise */
    float       *out;
    const float *in;
    char        *stage; /* what peers sent, by rank, own part left out; kept from step to step */
    size_t       stage_size;
} Exchange;

typedef struct {
    Peer     *peer;     /* (world) */
    Exchange *exchange; /* in the order in which they were queued; everything up to n_queued */
    int       n_queued, n_done, capacity;
    unsigned  tag;
} Mpi;

static void keep_error(Dist *d, int code, const char *what) {
    if (code == MPI_SUCCESS || d->error.code) return;
    char text[MPI_MAX_ERROR_STRING] = "";
    int n = 0;
    MPI_Error_string(code, text, &n);
    err_set(&d->error, ERR_COMM, "%s failed: %s", what, text);
}

/* ---- queueing ----------------------------------------------------------------------------------------------------- */

/* bytes: of a message to or from each peer. */
static Exchange *exchange_begin(Dist *d, size_t bytes, size_t stage_size) {
    Mpi *m = d->host_state;
    if (m->n_queued == m->capacity) {
        int grown = m->capacity ? 2 * m->capacity : 16;
        m->exchange = xrealloc(m->exchange, (size_t)grown * sizeof *m->exchange);
        memset(m->exchange + m->capacity, 0, (size_t)(grown - m->capacity) * sizeof *m->exchange);
        m->capacity = grown;
    }
    Exchange *x = &m->exchange[m->n_queued++];
    const size_t pieces = bytes ? (bytes + PIECE - 1) / PIECE : 1, requests = 2 * (size_t)(d->launch.world - 1) * pieces;
    REQUIRE(requests < INT_MAX);
    x->pieces = (int)pieces;
    if ((int)requests > x->capacity) {
        x->request = xrealloc(x->request, requests * sizeof *x->request);
        x->capacity = (int)requests;
    }
    if (stage_size > x->stage_size) {
        free(x->stage);
        x->stage = xmalloc(stage_size);
        x->stage_size = stage_size;
    }
    x->n_requests = x->done = 0;
    x->count = 0;
    m->tag = (m->tag + 1) % TAG_COUNT;
    return x;
}

/* Pieces of one peer and tag arrive in the order in which they were sent. */
static int piece_size(const Exchange *x, int i, size_t bytes) {
    return i < x->pieces - 1 ? PIECE : (int)(bytes - (size_t)i * PIECE);
}

static void post_receive(Dist *d, Exchange *x, int peer, void *buf, size_t bytes) {
    const int tag = (int)((Mpi *)d->host_state)->tag;
    for (int i = 0; i < x->pieces; i++)
        keep_error(d, MPI_Irecv((char *)buf + (size_t)i * PIECE, piece_size(x, i, bytes), MPI_BYTE, peer, tag, MPI_COMM_WORLD,
                                &x->request[x->n_requests++]), "MPI_Irecv");
}

static void post_send(Dist *d, Exchange *x, int peer, const void *buf, size_t bytes) {
    const int tag = (int)((Mpi *)d->host_state)->tag;
    for (int i = 0; i < x->pieces; i++)
        keep_error(d, MPI_Isend((const char *)buf + (size_t)i * PIECE, piece_size(x, i, bytes), MPI_BYTE, peer, tag, MPI_COMM_WORLD,
                                &x->request[x->n_requests++]), "MPI_Isend");
}

/* The k-th peer of this rank: every rank starts with another one, so that nobody is everybody's first. */
static int nth_peer(const Dist *d, int k) { return (d->launch.rank + 1 + k) % d->launch.world; }

/* Where rank r's message lies in the stage, own rank left out. */
static size_t stage_slot(const Dist *d, int r) { return (size_t)(r < d->launch.rank ? r : r - 1); }

static int mpi_reduce_scatter(Dist *d, float *out, const float *in, int64_t count) {
    int world = d->launch.world;
    int64_t part = count / world;
    size_t bytes = (size_t)part * sizeof *in;
    if (d->error.code) return 0;
    Exchange *x = exchange_begin(d, bytes, bytes * (size_t)(world - 1));
    x->count = part;
    x->out = out;
    x->in = in;
    for (int k = 0; k < world - 1; k++)
        post_receive(d, x, nth_peer(d, k), x->stage + stage_slot(d, nth_peer(d, k)) * bytes, bytes);
    for (int k = 0; k < world - 1; k++) post_send(d, x, nth_peer(d, k), in + nth_peer(d, k) * part, bytes);
    return ((Mpi *)d->host_state)->n_queued - 1;
}

static int mpi_all_gather(Dist *d, void *buf, size_t part_bytes) {
    char *part = buf;
    if (d->error.code) return 0;
    Exchange *x = exchange_begin(d, part_bytes, 0);
    for (int k = 0; k < d->launch.world - 1; k++)
        post_receive(d, x, nth_peer(d, k), part + (size_t)nth_peer(d, k) * part_bytes, part_bytes);
    for (int k = 0; k < d->launch.world - 1; k++)
        post_send(d, x, nth_peer(d, k), part + (size_t)d->launch.rank * part_bytes, part_bytes);
    return ((Mpi *)d->host_state)->n_queued - 1;
}

static int mpi_done(const Dist *d, int ticket) { return ((const Mpi *)d->host_state)->exchange[ticket].done; }

/* ---- waiting ------------------------------------------------------------------------------------------------------ */

static void sum_parts(Dist *d, Exchange *x) {
    const float *own = x->in + d->launch.rank * x->count;
    for (int r = 0; r < d->launch.world; r++) {
        const float *restrict part = r == d->launch.rank
                                         ? own
                                         : (const float *)(const void *)(x->stage + stage_slot(d, r) * (size_t)x->count * sizeof(float));
        float *restrict out = x->out;
        if (r == 0) {
            memcpy(out, part, (size_t)x->count * sizeof *out);
        } else {
            for (int64_t i = 0; i < x->count; i++) out[i] += part[i];
        }
    }
}

static void mpi_progress(Dist *d) {
    Mpi *m = d->host_state;
    for (int i = m->n_done; i < m->n_queued && !d->error.code; i++) {
        Exchange *x = &m->exchange[i];
        int done = 0;
        if (x->done) continue;
        keep_error(d, MPI_Testall(x->n_requests, x->request, &done, MPI_STATUSES_IGNORE), "MPI_Testall");
        if (d->error.code || !done) continue;
        if (x->count) sum_parts(d, x);
        x->done = 1;
        d->news_s = clock_s();
    }
    while (m->n_done < m->n_queued && m->exchange[m->n_done].done) m->n_done++;
}

static int peer_gone(const Dist *d, int r) {
    const Mpi *m = d->host_state;
    const Peer *me = &m->peer[d->launch.rank], *peer = &m->peer[r];
    if (strcmp(me->host, peer->host) || me->pid_namespace != peer->pid_namespace) return 0;
    return kill((pid_t)peer->pid, 0) && errno == ESRCH;
}

static void mpi_watch(Dist *d) {
    const Mpi *m = d->host_state;
    for (int r = 0; r < d->launch.world; r++)
        if (r != d->launch.rank && peer_gone(d, r)) {
            err_set(&d->error, ERR_COMM, "rank %d (process %lld on %s) has died; nothing was saved since the last checkpoint, "
                                         "continue from it with --resume auto", r, (long long)m->peer[r].pid, m->peer[r].host);
            return;
        }
}

static void mpi_late(Dist *d) {
    const Mpi *m = d->host_state;
    char who[512] = "";
    size_t at = 0;
    const Exchange *x = &m->exchange[m->n_done];
    for (int k = 0; k < d->launch.world - 1 && at < sizeof who; k++) {
        int here = 1, r = nth_peer(d, k);
        for (int i = 0; i < x->pieces && here; i++) MPI_Request_get_status(x->request[k * x->pieces + i], &here, MPI_STATUS_IGNORE);
        if (!here)
            at += (size_t)snprintf(who + at, sizeof who - at, "%s%d (process %lld on %s)", at ? ", " : "", r,
                                   (long long)m->peer[r].pid, m->peer[r].host);
    }
    err_set(&d->error, ERR_COMM, "no answer for %.0f s from rank %s; if it is only slow, raise --timeout", d->timeout_s,
            at ? who : "(all have sent, none has received)");
}

static int mpi_pending(Dist *d) {
    const Mpi *m = d->host_state;
    mpi_progress(d);
    return m->n_queued - m->n_done;
}

static Status mpi_wait(Dist *d, Err *err) {
    Mpi *m = d->host_state;
    Status s = dist_wait_for(d, mpi_pending, mpi_late, err);
    if (!s) m->n_queued = m->n_done = 0;
    return s;
}

static Status mpi_sum(Dist *d, double *x, int64_t n, Err *err) {
    size_t bytes = (size_t)n * sizeof *x;
    int world = d->launch.world;
    if (!d->error.code) {
        Exchange *e = exchange_begin(d, bytes, bytes * (size_t)(world - 1));
        for (int k = 0; k < world - 1; k++)
            post_receive(d, e, nth_peer(d, k), e->stage + stage_slot(d, nth_peer(d, k)) * bytes, bytes);
        for (int k = 0; k < world - 1; k++) post_send(d, e, nth_peer(d, k), x, bytes);
        double *stage = (double *)(void *)e->stage;
        Status s = mpi_wait(d, err);
        if (s) return s;
        for (int64_t i = 0; i < n; i++) {
            double sum = 0;
            for (int r = 0; r < world; r++) sum += r == d->launch.rank ? x[i] : stage[stage_slot(d, r) * (size_t)n + (size_t)i];
            x[i] = sum;
        }
        return OK;
    }
    *err = d->error;
    return err->code;
}

/* ---- start and end ------------------------------------------------------------------------------------------------ */

static void mpi_abort(Dist *d) {
    (void)d;
    MPI_Abort(MPI_COMM_WORLD, 1);
}

static void mpi_close(Dist *d) {
    Mpi *m = d->host_state;
    for (int i = 0; i < m->capacity; i++) {
        free(m->exchange[i].request);
        free(m->exchange[i].stage);
    }
    free(m->exchange);
    free(m->peer);
    free(m);
    MPI_Finalize();
}

static const HostTransport mpi = {.name = "mpi",
                                  .reduce_scatter = mpi_reduce_scatter,
                                  .all_gather = mpi_all_gather,
                                  .done = mpi_done,
                                  .progress = mpi_progress,
                                  .wait = mpi_wait,
                                  .sum = mpi_sum,
                                  .watch = mpi_watch,
                                  .late = mpi_late,
                                  .abort = mpi_abort,
                                  .close = mpi_close};

Status dist_mpi_open(Dist *d, Err *err) {
    int provided = 0;
    if (MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided) != MPI_SUCCESS)
        return err_set(err, ERR_COMM, "MPI did not start; try one process: run without mpirun");
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_Comm_rank(MPI_COMM_WORLD, &d->launch.rank);
    MPI_Comm_size(MPI_COMM_WORLD, &d->launch.world);
    Mpi *m = xcalloc(1, sizeof *m);
    m->peer = xcalloc((size_t)d->launch.world, sizeof *m->peer);
    Peer *me = &m->peer[d->launch.rank];
    struct stat st;
    snprintf(me->host, sizeof me->host, "%s", d->name);
    me->pid = getpid();
    me->pid_namespace = stat("/proc/self/ns/pid", &st) ? 0 : (uint64_t)st.st_ino;
    d->host_state = m;
    d->host = &mpi;
    mpi_all_gather(d, m->peer, sizeof *m->peer);
    Status s = mpi_wait(d, err);
    if (s) dist_abort(d, err);
    return OK;
}
