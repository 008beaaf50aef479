/* bench_loader.c - batches of the token loader from datasets of growing size: targets a second of CPU time, which must
 * not fall as the dataset grows a hundredfold, but for what copying the same bytes takes once they lie in memory and no
 * longer in a cache.  Long patients are the rule of real records, short ones the harder case.
 *
 *   build/bench_loader [--seconds S a row] [--smoke 1] */
#include "data/loader.h"
#include "tests/bench_machine.h"
#include "tests/make_dataset.h"

enum { ROWS = 16, T = 2048 };

/* Dataset of patients of `length` tokens (0: as make_dataset has them, about 40). */
static void write_dataset(const char *dir, int patients, int length) {
    MadePatient *made = xcalloc((size_t)patients, sizeof *made);
    for (int i = 0; i < patients; i++) {
        MadePatient *p = &made[i];
        made_patient(p, 1, i);
        int64_t minute = p->n ? p->minutes[p->n - 1] : 0;
        while (p->n < length) made_push(p, (uint32_t)(MADE_LAB + p->n % MADE_N_LAB), ++minute);
        if (length) p->observation_end = (int32_t)minute;
    }
    const MadeSplit split[SPLIT_COUNT] = {[SPLIT_TRAIN] = {made, patients}};
    made_write(dir, split, 0, NULL);
    for (int i = 0; i < patients; i++) made_patient_free(&made[i]);
    free(made);
}

/* ---- what a copy of the same bytes takes --------------------------------------------------------------------------------- */

typedef struct {
    const void *tokens, *minutes;
    size_t n;
} Piece;

static void piece_fetch(const Piece *p, size_t width) {
    for (size_t i = 0; i < p->n * width; i += 64) __builtin_prefetch((const char *)p->tokens + i);
    for (size_t i = 0; i < p->n * sizeof(int32_t); i += 64) __builtin_prefetch((const char *)p->minutes + i);
}

typedef struct {
    int64_t *patient; /* in the order in which they were given out */
    int64_t n;
} Order;

/* Seconds a token: patients copied one after the other to where a batch would lie, the third from now on its way. */
static double bench_copy(Dataset *d, const Order *o, double seconds, Err *err) {
    enum { AHEAD = 3 };
    const size_t width = d->vocabulary.n > 65535 ? 4 : 2, room = (size_t)ROWS * T * (width + sizeof(int32_t));
    Piece *piece = xcalloc((size_t)o->n + AHEAD, sizeof *piece);
    size_t longest = 0, at = 0;
    double tokens = 0;
    PatientView p;
    for (int64_t i = 0; i < o->n && !dataset_patient(d, SPLIT_TRAIN, o->patient[i], &p, err); i++) {
        piece[i] = (Piece){p.tokens, p.minutes, (size_t)p.n};
        if (piece[i].n > longest) longest = piece[i].n;
        tokens += (double)p.n;
    }
    char *to = xcalloc(room + longest * (width + sizeof(int32_t)), 1);
    BenchTimes t = {0};
    const double begun = bench_now();
    while (t.n < 3 || (t.n < BENCH_TIMES && bench_now() - begun < seconds)) {
        const double now = bench_now();
        for (int64_t i = 0; i < o->n; i++) {
            const Piece *p = &piece[i];
            piece_fetch(p + AHEAD, width);
            memcpy(to + at, p->tokens, p->n * width);
            memcpy(to + at + p->n * width, p->minutes, p->n * sizeof(int32_t));
            at += p->n * (width + sizeof(int32_t));
            if (at > room) at = 0;
        }
        bench_add(&t, bench_now() - now);
    }
    free(to);
    free(piece);
    return bench_median(&t) / tokens;
}

/* ---- the loader ----------------------------------------------------------------------------------------------------------- */

/* Batches until so many targets, or for so many seconds; seconds spent, targets given out.  o: room for the patients of these
 * targets and of a batch, or NULL. */
static Status bench_batches(Loader *loader, double *targets, double *seconds, BenchTimes *t, Order *o, Err *err) {
    const double most = *targets, limit = *seconds, start = bench_now();
    Batch *b;
    *targets = 0;
    do {
        const double at = bench_now();
        Status s = loader_next(loader, &b, err);
        if (s) return s;
        bench_add(t, bench_now() - at);
        *targets += b->n_targets;
        for (int i = 0; o && i < b->n_seq; i++)
            if (b->seq_patient[i] >= 0) o->patient[o->n++] = b->seq_patient[i];
        *seconds = bench_now() - start;
    } while (*targets < most && (t->n < 8 || *seconds < limit));
    return OK;
}

static int bench_dataset(const char *dir, int patients, int length, double seconds) {
    Dataset d;
    Loader *loader;
    Err err = {0};
    const LoaderOptions options = {.rows = ROWS, .T = T, .seed = 1, .shuffle = 1, .world = 1};
    BenchTimes first = {0}, later = {0};
    write_dataset(dir, patients, length);
    Status s = dataset_open(&d, dir, &err);
    if (!s) s = loader_open(&loader, &d, SPLIT_TRAIN, &options, &err);
    const double tokens = s ? 0 : (double)d.n_tokens[SPLIT_TRAIN];
    double n_first = tokens, n = INFINITY, in_first = INFINITY, spent = seconds, copy = 0;
    Order order = {xcalloc((size_t)patients + (size_t)ROWS * T, sizeof *order.patient), 0};
    if (!s) s = bench_batches(loader, &n_first, &in_first, &first, &order, &err);
    if (!s) s = bench_batches(loader, &n, &spent, &later, NULL, &err);
    if (!s) copy = bench_copy(&d, &order, seconds / 4, &err);
    free(order.patient);
    if (s || err.code) {
        fprintf(stderr, "bench_loader: %s\n", err.msg);
        return 1;
    }
    printf("%9d %12.0f %6.0f   %8.1f M/s %9.2f ns %9.2f ns %9.2f ns %9.1f us\n", patients, tokens, tokens / patients,
           1e-6 * n / spent, 1e9 * spent / n, 1e9 * copy, 1e9 * in_first / n_first, 1e6 * bench_median(&later));
    fflush(stdout);
    loader_close(loader);
    dataset_close(&d);
    made_remove(dir);
    return 0;
}

int main(int argc, char **argv) {
    BenchFlags f;
    if (bench_flags(&f, argc, argv, "bench_loader")) return 2;
    char dir[] = "/tmp/ehr-bench-loader-XXXXXX";
    if (!mkdtemp(dir)) {
        perror("bench_loader: /tmp");
        return 1;
    }
    bench_clock = CLOCK_PROCESS_CPUTIME_ID; /* with what it reads ahead */
    printf("batches of %d x %d; a bare copy: the same tokens and minutes in the same order, nothing else; first epoch: with\n"
           "the checksums and ids that are looked at once\n%9s %12s %6s   %12s %12s %12s %12s %12s\n",
           ROWS, T, "patients", "tokens", "each", "targets", "a target", "bare copy", "first epoch", "median batch");
    const int lengths[] = {0, 400};
    for (int l = 0; l < 2; l++)
        for (int patients = 400; patients <= (f.smoke ? 400 : 40000); patients *= 10)
            if (bench_dataset(dir, patients, lengths[l], f.seconds)) return 1;
    return 0;
}
