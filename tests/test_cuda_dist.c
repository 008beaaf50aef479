/* test_cuda_dist.c - ranks whose buffers are memory of GPUs, emulated or not: through the host over MPI, and over NCCL.
 *
 * Started plainly it runs the tests; those that need ranks start this same program under mpirun with EHR_DIST_TEST
 * naming what each rank is to do.  In the emulator every rank can have a GPU, and libnccl.so.2 is the stand-in beside
 * it; on real GPUs the tests with several ranks over NCCL want as many GPUs, and those that order faults are skipped.
 */
#include "train/dist.h"
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

static char program[4096], library_dir[4096]; /* of the stand-in; "" on a real GPU */

/* ---- what ranks do ----------------------------------------------------------------------------------------------- */

static float value(int rank, int bucket, int64_t i) {
    return (float)sin(0.37 * (double)i + 1.3 * rank + 0.11 * bucket) * (rank == 1 ? 1e3f : 1.0f); /* order matters */
}

enum { BUCKETS = 7 };
typedef struct {
    Dist *d;
    Device *dev;
    int64_t n[BUCKETS];
    float *host, *source, *in[BUCKETS], *part[BUCKETS], *all[BUCKETS];
} Bench;

static void bench_open(Bench *b, Dist *d, Device *dev) {
    *b = (Bench){.d = d, .dev = dev};
    int64_t most = 0;
    for (int k = 0; k < BUCKETS; k++) {
        b->n[k] = (int64_t)dist_world(d) * (k == 2 ? 150001 : 16 * (k + 1));
        if (b->n[k] > most) most = b->n[k];
        b->in[k] = device_alloc(dev, (size_t)b->n[k] * sizeof(float));
        b->all[k] = device_alloc(dev, (size_t)b->n[k] * sizeof(float));
        b->part[k] = device_alloc(dev, (size_t)(b->n[k] / dist_world(d)) * sizeof(float));
    }
    b->host = xmalloc((size_t)most * sizeof *b->host);
    b->source = device_alloc(dev, (size_t)most * sizeof(float));
}

static void bench_close(Bench *b) {
    for (int k = 0; k < BUCKETS; k++) {
        device_free(b->dev, b->in[k]);
        device_free(b->dev, b->all[k]);
        device_free(b->dev, b->part[k]);
    }
    device_free(b->dev, b->source);
    free(b->host);
}

/* Over MPI the sum in rank order to the bit; NCCL has its own order, so to the rounding of a sum of `world`. */
static int sum_wrong(const Bench *b, int bucket, int64_t i, float got) {
    int world = dist_world(b->d);
    float sum = 0;
    double size = 0;
    for (int r = 0; r < world; r++) {
        float x = value(r, bucket, i);
        sum = r == 0 ? x : sum + x;
        size += fabs(x);
    }
    if (!strcmp(dist_transport(b->d), "nccl")) return !(fabs((double)got - sum) <= world * 1.2e-7 * size);
    return memcmp(&sum, &got, sizeof sum) != 0;
}

/* Buckets become ready one after another on STREAM_COMPUTE, as in a backward pass, and are overwritten after the wait,
 * as by the next step: nothing may be read too early or too late. */
static int reduce_round(Bench *b, int buckets, int *wrong, uint64_t *sum_bits, Err *err) {
    int rank = dist_rank(b->d), world = dist_world(b->d);
    for (int k = 0; k < buckets; k++) {
        for (int64_t i = 0; i < b->n[k]; i++) b->host[i] = value(rank, k, i);
        device_upload(b->dev, b->source, b->host, (size_t)b->n[k] * sizeof(float));
        device_copy(b->dev, b->in[k], b->source, (size_t)b->n[k] * sizeof(float));
        dist_reduce_scatter(b->d, b->part[k], b->in[k], b->n[k]);
        dist_progress(b->d);
    }
    if (dist_wait(b->d, err)) return -1;
    for (int k = 0; k < buckets; k++) device_zero(b->dev, b->in[k], (size_t)b->n[k] * sizeof(float));
    for (int k = 0; k < buckets; k++) {
        int64_t share = b->n[k] / world;
        device_download(b->dev, b->host, b->part[k], (size_t)share * sizeof(float));
        for (int64_t i = 0; i < share; i++) {
            uint32_t bits;
            *wrong += sum_wrong(b, k, rank * share + i, b->host[i]);
            memcpy(&bits, &b->host[i], sizeof bits);
            *sum_bits = *sum_bits * 31 + bits;
        }
    }
    return 0;
}

static int gather_round(Bench *b, int round, int *wrong, Err *err) {
    int rank = dist_rank(b->d), world = dist_world(b->d);
    for (int k = 0; k < BUCKETS; k++) {
        int64_t share = b->n[k] / world;
        for (int64_t i = 0; i < share; i++) b->host[i] = value(rank, round, i);
        device_zero(b->dev, b->all[k], (size_t)b->n[k] * sizeof(float));
        device_upload(b->dev, b->source, b->host, (size_t)share * sizeof(float));
        device_copy(b->dev, b->all[k] + rank * share, b->source, (size_t)share * sizeof(float));
        dist_all_gather(b->d, b->all[k], b->n[k], sizeof(float));
    }
    if (dist_wait(b->d, err)) return -1;
    for (int k = 0; k < BUCKETS; k++) {
        int64_t share = b->n[k] / world;
        device_download(b->dev, b->host, b->all[k], (size_t)b->n[k] * sizeof(float));
        for (int64_t i = 0; i < b->n[k]; i++) *wrong += b->host[i] != value((int)(i / share), round, i % share);
    }
    return 0;
}

static int worker_collectives(Dist *d, Device *dev) {
    Bench b;
    Err err = {OK, ""};
    int wrong = 0;
    uint64_t bits[3] = {0};
    bench_open(&b, d, dev);
    uint64_t first = 0; /* the first collective is the one that NCCL takes its time with */
    if (reduce_round(&b, 1, &wrong, &first, &err)) dist_abort(d, &err);
    for (int round = 0; round < 3; round++) {
        double x[2] = {dist_rank(d) + 1, 0.1 * dist_rank(d)};
        if (reduce_round(&b, BUCKETS, &wrong, &bits[round], &err) || gather_round(&b, round, &wrong, &err))
            dist_abort(d, &err);
        if (dist_sum(d, x, 2, &err)) dist_abort(d, &err);
        wrong += x[0] != dist_world(d) * (dist_world(d) + 1) / 2.0;
    }
    if (dist_rank(d) == 0) err_set(&err, ERR_IO, "a disk is full");
    wrong += dist_agree(d, &err) != ERR_IO || !strstr(err.msg, "a disk is full");
    if (bits[0] != bits[1] || bits[0] != bits[2]) {
        printf("rank %d: sums differ from round to round\n", dist_rank(d));
        wrong++;
    }
    if (device_sync(dev)) wrong++;
    bench_close(&b);
    return wrong;
}

/* Collectives until something goes wrong; at the third, rank 1 may do what "what" says. */
static int worker_fault(Dist *d, Device *dev, const char *what) {
    Bench b;
    Err err = {OK, ""};
    uint64_t bits;
    int wrong = 0;
    signal(SIGTERM, SIG_IGN); /* the launcher tells survivors to end; here they must notice by themselves */
    bench_open(&b, d, dev);
    for (int round = 0; round < 5; round++) {
        dist_at_step(d, round + 1);
        if (round == 2 && dist_rank(d) == 1 && !strcmp(what, "killed")) raise(SIGKILL);
        if (round == 2 && dist_rank(d) == 1 && !strcmp(what, "silent"))
            for (;;) pause();
        if (reduce_round(&b, BUCKETS, &wrong, &bits, &err)) dist_abort(d, &err);
    }
    return 1; /* nothing was noticed */
}

static int worker(const char *what) {
    Dist *d;
    Err err = {OK, ""};
    const char *transport = getenv("EHR_DIST_TRANSPORT"), *timeout = getenv("EHR_DIST_TIMEOUT");
    char msg[256];
    Launch l;
    launch_read(&l);
    if (dist_open(&d, transport ? transport : "auto", timeout ? atof(timeout) : 60, &err)) {
        printf("refused %d: %s\n", err.code, err.msg);
        return 1;
    }
    int gpus = device_count(DEVICE_CUDA), cpu = !strcmp(what, "cpu"), rc = 1;
    Device *dev = device_open(cpu ? DEVICE_CPU : DEVICE_CUDA, gpus ? l.local_rank % gpus : 0, 1, msg, sizeof msg);
    if (!dev) {
        printf("%s\n", msg);
        return 1;
    }
    if (dist_attach(d, dev, &err)) {
        if (dist_rank(d) == 0) printf("refused %d: %s\n", err.code, err.msg);
        if (err.code == ERR_COMM) dist_abort(d, &err);
    } else {
        if (dist_rank(d) == 0) printf("transport %s; a GPU has %d ranks; %s\n", dist_transport(d), dist_sharers(d), dist_why(d));
        rc = !strcmp(what, "collectives") || cpu ? worker_collectives(d, dev) : worker_fault(d, dev, what);
        printf("rank %d of %d: %s\n", dist_rank(d), dist_world(d), rc ? "WRONG" : "fine");
    }
    dist_close(d);
    device_close(dev);
    return rc != 0;
}

/* ---- tests ------------------------------------------------------------------------------------------------------- */

static char out[1 << 16];

/* Ranks doing `what` with "A=1 B=2" in their environment: their output in `out`, and the exit code.  Skips where there
 * are too few GPUs or no MPI. */
static int run_ranks(int ranks, const char *what, const char *settings) {
    char command[16384], mpirun[512] = "";
    if (ranks > 1) {
        if (system("command -v mpirun > /dev/null 2>&1")) skip();
        snprintf(mpirun, sizeof mpirun, "timeout 100 mpirun -np %d", ranks);
    }
    snprintf(command, sizeof command,
             "OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1 "
             "OMPI_MCA_mpi_yield_when_idle=1 OMPI_MCA_btl=self,vader OMPI_MCA_odls_base_sigkill_timeout=1 "
             "ASAN_OPTIONS=detect_leaks=0 LD_LIBRARY_PATH='%s':$LD_LIBRARY_PATH EHR_DIST_TEST=%s %s %s '%s' 2>&1",
             library_dir, what, settings, mpirun, program);
    FILE *p = popen(command, "r");
    assert_non_null(p);
    size_t n = fread(out, 1, sizeof out - 1, p);
    out[n] = 0;
    int status = pclose(p);
    if (strstr(out, "this build has no MPI")) skip();
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void gpus_or_skip(int wanted) {
    int gpus = device_count(DEVICE_CUDA);
    if (!*library_dir && gpus < wanted) {
        print_message("skip - %d GPUs are needed, there are %d\n", wanted, gpus);
        skip();
    }
}
static void emulator_or_skip(void) {
    if (!*library_dir) {
        print_message("skip - faults can be ordered from the stand-in for NCCL only\n");
        skip();
    }
}

static void check_fine(int rc, int ranks, const char *transport) {
    char line[64];
    snprintf(line, sizeof line, "transport %s;", transport);
    if (rc || !strstr(out, line)) fail_msg("%d ranks over %s: exit code %d: %s", ranks, transport, rc, out);
    for (int r = 0; r < ranks; r++) {
        snprintf(line, sizeof line, "rank %d of %d: fine", r, ranks);
        if (!strstr(out, line)) fail_msg("%d ranks over %s: rank %d did not finish: %s", ranks, transport, r, out);
    }
}

static void test_staged(void **state) {
    (void)state;
    gpus_or_skip(1);
    for (int ranks = 2; ranks <= 4; ranks++) {
        int rc = run_ranks(ranks, "collectives", "EHR_DIST_TRANSPORT=mpi");
        check_fine(rc, ranks, "mpi");
    }
}

/* Streams that run as late, or in as odd an order, as they may. */
static void test_schedules(void **state) {
    (void)state;
    emulator_or_skip();
    const char *const schedule[] = {"reverse", "random:3", "priority"};
    for (int i = 0; i < 3; i++) {
        char settings[128];
        snprintf(settings, sizeof settings, "EHR_DIST_TRANSPORT=mpi EHR_EMULATE=schedule=%s", schedule[i]);
        check_fine(run_ranks(2, "collectives", settings), 2, "mpi");
        snprintf(settings, sizeof settings, "EHR_DIST_TRANSPORT=nccl EHR_EMULATE=devices=2,schedule=%s", schedule[i]);
        check_fine(run_ranks(2, "collectives", settings), 2, "nccl");
    }
}

static void test_nccl(void **state) {
    (void)state;
    for (int ranks = 2; ranks <= 4; ranks++) {
        gpus_or_skip(ranks);
        int rc = run_ranks(ranks, "collectives", "EHR_DIST_TRANSPORT=nccl EHR_EMULATE=devices=4");
        check_fine(rc, ranks, "nccl");
    }
}

static void test_nccl_one_rank(void **state) {
    (void)state;
    gpus_or_skip(1);
    int rc = run_ranks(1, "collectives", "EHR_DIST_TRANSPORT=nccl");
    if (strstr(out, "libnccl.so.2: cannot open")) {
        print_message("skip - there is no libnccl.so.2\n");
        skip();
    }
    check_fine(rc, 1, "nccl");
}

static void test_auto(void **state) {
    (void)state;
    emulator_or_skip();
    check_fine(run_ranks(2, "collectives", "EHR_EMULATE=devices=2"), 2, "nccl");
    assert_non_null(strstr(out, "a GPU has 1 ranks"));
    check_fine(run_ranks(2, "collectives", "EHR_EMULATE=devices=1"), 2, "mpi");
    assert_non_null(strstr(out, "a GPU has 2 ranks"));
    if (!strstr(out, "rank 0 and rank 1 share the GPU at 0000:")) fail_msg("no reason is given: %s", out);
    check_fine(run_ranks(1, "collectives", ""), 1, "none");
    check_fine(run_ranks(2, "cpu", ""), 2, "mpi");
}

static void test_auto_without_library(void **state) {
    (void)state;
    emulator_or_skip();
    if (!system("ldconfig -p 2> /dev/null | grep -q 'libnccl.so.2 '")) skip(); /* there is a real one */
    check_fine(run_ranks(2, "collectives", "EHR_EMULATE=devices=2 LD_LIBRARY_PATH="), 2, "mpi");
    if (!strstr(out, "libnccl.so.2: cannot open shared object file")) fail_msg("no reason is given: %s", out);
    assert_int_not_equal(run_ranks(2, "collectives", "EHR_DIST_TRANSPORT=nccl EHR_EMULATE=devices=2 LD_LIBRARY_PATH="),
                         0);
    if (!strstr(out, "refused 1: --transport nccl takes libnccl.so.2") || !strstr(out, "LD_LIBRARY_PATH"))
        fail_msg("%s", out);
}

static void test_nccl_refused(void **state) {
    (void)state;
    emulator_or_skip();
    assert_int_not_equal(run_ranks(2, "collectives", "EHR_DIST_TRANSPORT=nccl EHR_EMULATE=devices=1"), 0);
    if (!strstr(out, "refused 1: --transport nccl") || !strstr(out, "share the GPU")) fail_msg("%s", out);
    assert_int_not_equal(run_ranks(1, "cpu", "EHR_DIST_TRANSPORT=nccl"), 0);
    if (!strstr(out, "refused 1: --transport nccl moves memory of GPUs")) fail_msg("%s", out);
    assert_int_not_equal(run_ranks(2, "collectives",
                                   "EHR_DIST_TRANSPORT=nccl EHR_EMULATE=devices=2 "
                                   "EHR_NCCL_FAULT=rank=1,at=0,kind=error"),
                         0);
    if (!strstr(out, ", step 0: NCCL, ncclCommInitRankConfig") || strstr(out, "no answer")) fail_msg("%s", out);
}

static void test_faults(void **state) {
    (void)state;
    emulator_or_skip();
    static const struct {
        const char *name, *what, *settings, *words;
    } row[] = {
        {"killed, MPI", "killed", "EHR_DIST_TRANSPORT=mpi", "step 3: rank 1 (process"},
        {"silent, MPI", "silent", "EHR_DIST_TRANSPORT=mpi", "no answer for 2 s from rank 1 (process"},
        {"killed, NCCL", "killed", "EHR_DIST_TRANSPORT=nccl", "step 3: rank 1 (process"},
        {"silent, NCCL", "silent", "EHR_DIST_TRANSPORT=nccl",
         "NCCL has not finished for 2 s: no answer for 2 s from rank 1 (process"},
        {"dies in a collective", "fault", "EHR_DIST_TRANSPORT=nccl EHR_NCCL_FAULT=rank=1,at=9,kind=die",
         "step 2: rank 1 (process"},
        {"a call never returns", "fault", "EHR_DIST_TRANSPORT=nccl EHR_NCCL_FAULT=rank=1,at=8,kind=stop",
         "no answer for 2 s from rank 1"},
        {"never ends", "fault", "EHR_DIST_TRANSPORT=nccl EHR_NCCL_FAULT=rank=1,at=1,kind=hang",
         "has not finished collective 7 for 2 s, although all ranks answer"},
        {"a link fails", "fault", "EHR_DIST_TRANSPORT=nccl EHR_NCCL_FAULT=rank=1,at=10,kind=error", "rank 1 on "},
    };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        char settings[512];
        snprintf(settings, sizeof settings, "%s EHR_DIST_TIMEOUT=2 EHR_EMULATE=devices=3", row[i].settings);
        double start_s = clock_s();
        int rc = run_ranks(3, row[i].what, settings);
        if (rc == 0 || rc == 124 || !strstr(out, row[i].words)) fail_msg("%s: exit code %d: %s", row[i].name, rc, out);
        if (!strcmp(row[i].name, "a link fails") && !strstr(out, "remote process exited"))
            fail_msg("%s: %s", row[i].name, out);
        if (clock_s() - start_s > 25) fail_msg("%s: took %.0f s", row[i].name, clock_s() - start_s);
    }
}

int main(void) {
    const char *what = getenv("EHR_DIST_TEST");
    if (what) return worker(what);
    /* In a bundle a script starts this program, and others of it should start the same way. */
    const char *script = getenv("EHR_PROGRAM");
    if (script) snprintf(program, sizeof program, "%s", script);
    else if (readlink("/proc/self/exe", program, sizeof program - 1) < 0) return 1;
    /* build/emulator/tests/test_cuda_dist has build/emulator/libnccl.so.2 beside its folder */
    char *slash = NULL;
    snprintf(library_dir, sizeof library_dir, "%s", program);
    for (int i = 0; i < 2; i++)
        if ((slash = strrchr(library_dir, '/'))) *slash = 0;
    char path[4200];
    snprintf(path, sizeof path, "%s/libnccl.so.2", library_dir);
    if (access(path, R_OK)) library_dir[0] = 0;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_staged),       cmocka_unit_test(test_schedules),
        cmocka_unit_test(test_nccl),         cmocka_unit_test(test_nccl_one_rank),
        cmocka_unit_test(test_auto),         cmocka_unit_test(test_auto_without_library),
        cmocka_unit_test(test_nccl_refused), cmocka_unit_test(test_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
