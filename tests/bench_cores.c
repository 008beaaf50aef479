/* bench_cores - prints how long a cache line takes from one core to the next, in ns: the median of a few tries.
 *
 * A host may move a virtual machine's cores between chiplets from one second to the next, and work that threads share is
 * up to a quarter slower where they have no cache in common (around 200 ns on Zen, against 40): figures of several
 * threads are comparable only where this is the same.  Prints nothing where there is one core. */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { TRIES = 9, TURNS = 4000, WARM = 400 };

static _Alignas(128) atomic_int turn;

static double now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e9 * (double)t.tv_sec + (double)t.tv_nsec;
}

static void pin(int core) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(core, &set);
    sched_setaffinity(0, sizeof set, &set);
}

/* Gives back what is passed to it.  Core *arg */
static void *partner(void *arg) {
    pin(*(const int *)arg);
    for (int i = 0; i < TURNS; i++) {
        while (atomic_load_explicit(&turn, memory_order_acquire) != 2 * i + 1) {}
        atomic_store_explicit(&turn, 2 * i + 2, memory_order_release);
    }
    return NULL;
}

/* One way, ns; -1: no thread can be had. */
static double pass_ns(int core) {
    pthread_t other;
    double start = 0;
    atomic_store(&turn, 0);
    if (pthread_create(&other, NULL, partner, &core)) return -1;
    for (int i = 0; i < TURNS; i++) {
        if (i == WARM) start = now_ns();
        atomic_store_explicit(&turn, 2 * i + 1, memory_order_release);
        while (atomic_load_explicit(&turn, memory_order_acquire) != 2 * i + 2) {}
    }
    const double ns = (now_ns() - start) / (2.0 * (TURNS - WARM));
    pthread_join(other, NULL);
    return ns;
}

static int ascending(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(void) {
    cpu_set_t set;
    int core[2], n = 0;
    if (sched_getaffinity(0, sizeof set, &set)) return 0;
    for (int c = 0; c < CPU_SETSIZE && n < 2; c++)
        if (CPU_ISSET(c, &set)) core[n++] = c;
    if (n < 2) return 0;
    double ns[TRIES];
    pin(core[0]);
    for (int i = 0; i < TRIES; i++)
        if ((ns[i] = pass_ns(core[1])) < 0) return 0;
    qsort(ns, TRIES, sizeof *ns, ascending);
    printf("%.0f\n", ns[TRIES / 2]);
    return 0;
}
