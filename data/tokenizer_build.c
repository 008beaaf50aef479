/* tokenizer_build.c - see tokenizer_build.h.  A worker counts for itself; sums of integers do not depend on who counted
 * what.  A worker builds a block of patients, waits for its turn, hands the block out and goes on
 * with another, so that building and writing overlap. */
#include "data/tokenizer_build.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

enum { BLOCK = 32 /* patients */ };

typedef struct BuildWorker {
    TokenMap *map;
    EventFile *f;
    TokenizeCounts counts;
    TokenMap own_map;
    EventFile own_file;
    BuiltPatient block[BLOCK];
} BuildWorker;

int build_threads(int64_t asked) {
    long here = sysconf(_SC_NPROCESSORS_ONLN);
    return asked > 0 ? (int)asked : here > 0 && here < 1024 ? (int)here : 1;
}

/* ---- threads ----------------------------------------------------------------------------------------------------- */

typedef struct {
    void (*work)(void *context, int worker);
    void *context;
    int worker;
} Thread;

static void *thread_start(void *thread) {
    Thread *t = thread;
    t->work(t->context, t->worker);
    return NULL;
}

/* The caller is worker 0; without threads to be had it does all the work. */
static void threads_run(int n, void (*work)(void *context, int worker), void *context) {
    pthread_t *id = xcalloc((size_t)n, sizeof *id);
    Thread *t = xcalloc((size_t)n, sizeof *t);
    int started = 1;
    for (; started < n; started++) {
        t[started] = (Thread){work, context, started};
        if (pthread_create(&id[started], NULL, thread_start, &t[started])) break;
    }
    work(context, 0);
    for (int k = 1; k < started; k++) pthread_join(id[k], NULL);
    free(id);
    free(t);
}

typedef struct {
    void (*work)(void *context, int64_t i);
    void *context;
    int64_t n;
    _Atomic int64_t next;
} Each;

static void each_work(void *context, int worker) {
    Each *e = context;
    (void)worker;
    for (int64_t i; (i = atomic_fetch_add(&e->next, 1)) < e->n;) e->work(e->context, i);
}

void build_each(int threads, int64_t n, void (*work)(void *context, int64_t i), void *context) {
    Each e = {.work = work, .context = context, .n = n};
    threads_run(threads, each_work, &e);
}

/* ---- timelines --------------------------------------------------------------------------------------------------- */

Status build_open(TimelineBuild *b, TokenMap *map, EventFile *f, OracleFile *oracle, int threads, Err *err) {
    REQUIRE(threads >= 1 && (!oracle || threads == 1));
    *b = (TimelineBuild){.threads = threads, .oracle = oracle};
    b->worker = xcalloc((size_t)threads, sizeof *b->worker);
    for (int k = 0; k < threads; k++)
        for (int i = 0; i < BLOCK; i++) timeline_init(&b->worker[k].block[i].timeline, map->v);
    b->worker[0].map = map;
    b->worker[0].f = f;
    Status status = OK;
    for (int k = 1; k < threads && !status; k++) {
        BuildWorker *w = &b->worker[k];
        event_file_share(&w->own_file, f);
        w->f = &w->own_file;
        status = token_map_open(&w->own_map, map->v, f, err);
        if (status) break;
        w->own_map.synthetic = map->synthetic;
        w->own_map.notes = map->notes ? w->f : NULL;
        w->map = &w->own_map;
    }
    if (status) build_close(b);
    return status;
}

static int64_t events_told(const TokenizeCounts *c) {
    int64_t n = 0;
    for (int k = 0; k < KIND_COUNT; k++) n += c->events[k];
    return n;
}

static void patient_build(const TimelineBuild *b, BuildWorker *w, BuiltPatient *p) {
    EventPatient events;
    int64_t before = events_told(&w->counts);
    p->status = event_file_patient(w->f, p->row, &events, &p->err);
    if (!p->status)
        p->status = timeline_build(&p->timeline, w->map, &events, b->oracle,
                                   b->oracle ? b->oracle->index[p->row] : TIME_NONE, &w->counts, &p->err);
    p->subject = p->status ? 0 : events.subject;
    p->n_events = events_told(&w->counts) - before;
}

typedef struct {
    TimelineBuild *b;
    const int64_t *rows;
    int64_t n;
    BuildTake take;
    void *context;
    Err *err;
    pthread_mutex_t lock;
    pthread_cond_t turned;
    int64_t next, turn; /* block to be built next; block that is handed out next */
    Status status;      /* of whoever's turn it is */
} Line;

static Status block_take(const Line *l, const BuildWorker *w, int64_t first, int k) {
    Status status = OK;
    for (int i = 0; i < k && !status; i++) {
        const BuiltPatient *p = &w->block[i];
        status = p->status;
        if (status) *l->err = p->err;
        else status = l->take(l->context, first + i, p, l->err);
    }
    return status;
}

static void line_work(void *context, int worker) {
    Line *l = context;
    BuildWorker *w = &l->b->worker[worker];
    pthread_mutex_lock(&l->lock);
    while (!l->status && l->next * BLOCK < l->n) {
        int64_t block = l->next++, first = block * BLOCK;
        int k = l->n - first < BLOCK ? (int)(l->n - first) : BLOCK;
        pthread_mutex_unlock(&l->lock);
        for (int i = 0; i < k; i++) {
            w->block[i].row = l->rows[first + i];
            patient_build(l->b, w, &w->block[i]);
        }
        pthread_mutex_lock(&l->lock);
        while (l->turn != block) pthread_cond_wait(&l->turned, &l->lock);
        if (!l->status) {
            pthread_mutex_unlock(&l->lock);
            Status status = block_take(l, w, first, k); /* nobody else's turn comes before this one's is over */
            pthread_mutex_lock(&l->lock);
            l->status = status;
        }
        l->turn++;
        pthread_cond_broadcast(&l->turned);
    }
    pthread_mutex_unlock(&l->lock);
}

Status build_run(TimelineBuild *b, const int64_t *rows, int64_t n, BuildTake take, void *context, Err *err) {
    Line l = {.b = b, .rows = rows, .n = n, .take = take, .context = context, .err = err};
    pthread_mutex_init(&l.lock, NULL);
    pthread_cond_init(&l.turned, NULL);
    threads_run(b->threads, line_work, &l);
    pthread_cond_destroy(&l.turned);
    pthread_mutex_destroy(&l.lock);
    return l.status;
}

void build_counts(TimelineBuild *b, TokenizeCounts *counts) {
    for (int k = 0; k < b->threads; k++) {
        const int64_t *from = (const int64_t *)&b->worker[k].counts;
        for (size_t i = 0; i < sizeof *counts / sizeof *from; i++) ((int64_t *)counts)[i] += from[i];
        if (k) token_map_add_seen(b->worker[0].map, b->worker[k].map);
    }
}

void build_close(TimelineBuild *b) {
    for (int k = 1; k < b->threads && b->worker; k++) {
        if (b->worker[k].map) token_map_close(b->worker[k].map);
        if (b->worker[k].f) event_file_unshare(&b->worker[k].own_file);
    }
    for (int k = 0; k < b->threads && b->worker; k++)
        for (int i = 0; i < BLOCK; i++) timeline_free(&b->worker[k].block[i].timeline);
    free(b->worker);
    *b = (TimelineBuild){0};
}
