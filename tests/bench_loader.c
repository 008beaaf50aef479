/* bench_loader.c - batches of the token loader from datasets of growing size: targets a second of CPU time, which must
 * not fall as the dataset grows a hundredfold.  Long patients are the rule of real records, short ones the harder case.
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

static int bench_dataset(const char *dir, int patients, int length, double seconds) {
    Dataset d;
    Loader *loader;
    Batch *b;
    Err err = {0};
    const LoaderOptions options = {.rows = ROWS, .T = T, .seed = 1, .shuffle = 1, .world = 1};
    write_dataset(dir, patients, length);
    Status s = dataset_open(&d, dir, &err);
    if (!s) s = loader_open(&loader, &d, SPLIT_TRAIN, &options, &err);
    double targets = 0;
    BenchTimes t = {0};
    const double start = bench_now();
    while (!s && (t.n < 8 || bench_now() - start < seconds)) {
        const double at = bench_now();
        if ((s = loader_next(loader, &b, &err))) break;
        bench_add(&t, bench_now() - at);
        targets += b->n_targets;
    }
    if (s) {
        fprintf(stderr, "bench_loader: %s\n", err.msg);
        return 1;
    }
    const double spent = bench_now() - start;
    printf("%9d %12lld %9.0f   %8.1f M/s   %7.2f ns   %9.1f us\n", patients, (long long)d.n_tokens[SPLIT_TRAIN],
           (double)d.n_tokens[SPLIT_TRAIN] / patients, 1e-6 * targets / spent, 1e9 * spent / targets,
           1e6 * bench_median(&t));
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
    printf("batches of %d x %d\n%9s %12s %9s   %12s   %10s   %12s\n", ROWS, T, "patients", "tokens", "each", "targets",
           "a target", "median batch");
    const int lengths[] = {0, 400};
    for (int l = 0; l < 2; l++)
        for (int patients = 400; patients <= (f.smoke ? 400 : 40000); patients *= 10)
            if (bench_dataset(dir, patients, lengths[l], f.seconds)) return 1;
    return 0;
}
