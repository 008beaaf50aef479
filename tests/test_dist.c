/* test_dist.c - the ranks of one job.  Started plainly it runs the tests; the tests that need ranks start this same
 * program under mpirun with EHR_DIST_TEST naming what each rank is to do. */
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

static char program[4096];

/* ---- what ranks do ------------------------------------------------------------------------------------------------ */

static float value(int rank, int bucket, int64_t i) {
    return (float)sin(0.37 * (double)i + 1.3 * rank + 0.11 * bucket) * (rank == 1 ? 1e6f : 1.0f); /* order matters */
}

/* Several buckets in flight; every part must be the float sum in rank order, bit for bit, and reach everybody. */
static int worker_collectives(Dist *d) {
    enum { BUCKETS = 5 };
    int world = dist_world(d), rank = dist_rank(d), wrong = 0;
    Err err = {OK, ""};
    for (int round = 0; round < 3; round++) {
        float *in[BUCKETS], *part[BUCKETS];
        int64_t n[BUCKETS];
        for (int b = 0; b < BUCKETS; b++) {
            n[b] = (int64_t)world * (b == 2 ? 300000 : 16 * (b + 1));
            in[b] = xmalloc((size_t)n[b] * sizeof(float));
            part[b] = xmalloc((size_t)(n[b] / world) * sizeof(float));
            for (int64_t i = 0; i < n[b]; i++) in[b][i] = value(rank, b, i);
            dist_reduce_scatter(d, part[b], in[b], n[b]);
            dist_progress(d);
        }
        if (dist_wait(d, &err)) return 1;
        for (int b = 0; b < BUCKETS; b++) {
            int64_t share = n[b] / world;
            for (int64_t i = 0; i < share; i++) {
                float sum = 0;
                for (int r = 0; r < world; r++) {
                    float x = value(r, b, rank * share + i);
                    sum = r == 0 ? x : sum + x;
                }
                wrong += memcmp(&sum, &part[b][i], sizeof sum) != 0;
            }
            memset(in[b], 0, (size_t)n[b] * sizeof(float));
            for (int64_t i = 0; i < share; i++) in[b][rank * share + i] = value(rank, 7, i);
            dist_all_gather(d, in[b], n[b], sizeof(float));
        }
        if (dist_wait(d, &err)) return 1;
        for (int b = 0; b < BUCKETS; b++) {
            for (int64_t i = 0; i < n[b]; i++) wrong += in[b][i] != value((int)(i / (n[b] / world)), 7, i % (n[b] / world));
            free(in[b]);
            free(part[b]);
        }
        double x[3] = {rank + 1, 0.1 * rank, rank == 0 ? NAN : 1};
        if (dist_sum(d, x, 3, &err)) return 1;
        wrong += x[0] != world * (world + 1) / 2.0 || !isnan(x[2]);
    }
    return wrong != 0;
}

/* Messages of two pieces and a bit more (PIECE of train/dist_mpi.c), and one that ends where a piece does. */
static int worker_long(Dist *d) {
    const int64_t piece = 1 << 22, parts[] = {2 * piece + 5, piece}; /* floats */
    int world = dist_world(d), rank = dist_rank(d), wrong = 0;
    Err err = {OK, ""};
    for (int b = 0; b < 2; b++) {
        const int64_t part = parts[b], n = part * world;
        float *all = xmalloc((size_t)n * sizeof *all), *sum = xmalloc((size_t)part * sizeof *sum);
        for (int64_t i = 0; i < n; i++) all[i] = (float)(i % 9973) + (float)rank;
        dist_reduce_scatter(d, sum, all, n);
        if (dist_wait(d, &err)) return 1;
        const int ranks = world * (world - 1) / 2;
        for (int64_t i = 0; i < part; i++) wrong += sum[i] != (float)((rank * part + i) % 9973 * world + ranks);
        memset(all, 0, (size_t)n * sizeof *all);
        for (int64_t i = 0; i < part; i++) all[rank * part + i] = (float)((i + rank) % 9967);
        dist_all_gather(d, all, n, sizeof *all);
        if (dist_wait(d, &err)) return 1;
        for (int64_t i = 0; i < n; i++) wrong += all[i] != (float)((i % part + i / part) % 9967);
        free(all);
        free(sum);
    }
    return wrong != 0;
}

static int worker_agree(Dist *d) {
    Err err = {OK, ""};
    if (dist_agree(d, &err)) return 1;
    if (dist_rank(d) == 1) err_set(&err, ERR_IO, "the disk of one rank is full");
    if (dist_agree(d, &err) != ERR_IO || !strstr(err.msg, "the disk of one rank is full")) return 1;
    if (dist_rank(d) != 1 && !strstr(err.msg, "rank 1: ")) return 1;
    err = (Err){OK, ""};
    return dist_agree(d, &err) != OK;
}

/* Rank 1 dies or falls silent; the others must say so and end. */
static int worker_lost_peer(Dist *d, int dies) {
    Err err = {OK, ""};
    double x = 1;
    signal(SIGTERM, SIG_IGN); /* the launcher tells survivors to end; here they must notice by themselves */
    dist_at_step(d, 17);
    if (dist_sum(d, &x, 1, &err)) return 1;
    if (dist_rank(d) == 1) {
        if (dies) raise(SIGKILL);
        for (;;) pause();
    }
    if (dist_sum(d, &x, 1, &err) != ERR_COMM) return 1;
    dist_abort(d, &err);
}

static int worker(const char *what) {
    Dist *d;
    Err err = {OK, ""};
    int rc = 1;
    double timeout_s = !strcmp(what, "silent") ? 1 : 60;
    if (dist_open(&d, "auto", timeout_s, &err)) {
        fprintf(stderr, "%s\n", err.msg);
        return 1;
    }
    if (!strcmp(what, "collectives")) rc = worker_collectives(d);
    else if (!strcmp(what, "long")) rc = worker_long(d);
    else if (!strcmp(what, "agree")) rc = worker_agree(d);
    else rc = worker_lost_peer(d, !strcmp(what, "dies"));
    if (!rc) printf("rank %d of %d: fine\n", dist_rank(d), dist_world(d));
    dist_close(d);
    return rc;
}

/* ---- tests -------------------------------------------------------------------------------------------------------- */

static const char *const LAUNCHER[] = {
    "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE", "PMI_SIZE",
    "PMI_RANK", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE",
    "OMPI_MCA_orte_bound_at_launch", "SLURM_NODEID",
    "SLURM_CPUS_PER_TASK"};

static int clear_launcher(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof LAUNCHER / sizeof *LAUNCHER; i++) unsetenv(LAUNCHER[i]);
    return 0;
}

/* "A=1 B=2" into the environment. */
static Launch launch_with(const char *settings) {
    Launch l;
    char text[512], *at = text;
    clear_launcher(NULL);
    snprintf(text, sizeof text, "%s", settings);
    for (char *one; (one = strsep(&at, " "));) {
        char *eq = strchr(one, '=');
        if (!eq) continue;
        *eq = 0;
        setenv(one, eq + 1, 1);
    }
    launch_read(&l);
    return l;
}

static void test_launcher_environment(void **state) {
    (void)state;
    static const struct {
        const char *env;
        int         launched, rank, world;
    } row[] = {
        {"", 0, 0, 1},
        {"OMPI_COMM_WORLD_SIZE=4 OMPI_COMM_WORLD_RANK=3", 1, 3, 4},
        {"OMPI_COMM_WORLD_SIZE=1 OMPI_COMM_WORLD_RANK=0", 1, 0, 1},
        {"PMI_SIZE=2 PMI_RANK=1", 1, 1, 2},
        {"SLURM_STEP_NUM_TASKS=8 SLURM_PROCID=7", 1, 7, 8},
        {"SLURM_NTASKS=8 SLURM_PROCID=0", 0, 0, 1},         /* a batch script, not a step */
        {"SLURM_STEP_NUM_TASKS=1 SLURM_PROCID=0", 0, 0, 1}, /* one task needs no peers */
        {"OMPI_COMM_WORLD_SIZE=x OMPI_COMM_WORLD_RANK=0", 0, 0, 1},
        {"OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_RANK=2", 0, 0, 1},
        {"OMPI_COMM_WORLD_SIZE=2", 0, 0, 1},
    };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        Launch l = launch_with(row[i].env);
        if (l.launched != row[i].launched || l.rank != row[i].rank || l.world != row[i].world)
            fail_msg("'%s': launched %d rank %d of %d", row[i].env, l.launched, l.rank, l.world);
    }
}

static void test_ranks_of_a_host(void **state) {
    (void)state;
    assert_int_equal(launch_with("SLURM_STEP_NUM_TASKS=4 SLURM_PROCID=3 SLURM_STEP_TASKS_PER_NODE=4").local_size, 4);
    assert_int_equal(launch_with("SLURM_STEP_NUM_TASKS=8 SLURM_PROCID=7 SLURM_STEP_TASKS_PER_NODE=4(x2)").local_size, 4);
    assert_int_equal(launch_with("SLURM_STEP_NUM_TASKS=5 SLURM_PROCID=1 SLURM_STEP_TASKS_PER_NODE=3,2").local_size, 3);
    static const struct {
        const char *hosts, *host;
        int size;
    } row[] = {{"2(x3),1", "0", 2},   {"2(x3),1", "2", 2},  {"2(x3),1", "3", 1},  {"1,4(x2),2", "0", 1}, {"1,4(x2),2", "2", 4},
               {"1,4(x2),2", "3", 2}, {"1,4(x2),2", "", 4}, {"2(x3),1", "4", 2},  {"2(x", "0", 1},       {"2(x0),1", "0", 1},
               {"2(x3)4", "0", 1},    {"2x3", "0", 1},      {"99999999", "0", 1}, {"", "0", 1}};
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        char env[200];
        snprintf(env, sizeof env, "SLURM_STEP_NUM_TASKS=11 SLURM_PROCID=1 SLURM_STEP_TASKS_PER_NODE=%s SLURM_NODEID=%s", row[i].hosts,
                 row[i].host);
        const int got = launch_with(env).local_size;
        if (got != row[i].size) fail_msg("%s on host %s: %d, not %d", row[i].hosts, row[i].host, got, row[i].size);
    }
    assert_int_equal(launch_with("SLURM_STEP_NUM_TASKS=5 SLURM_PROCID=1 SLURM_STEP_TASKS_PER_NODE=(x2)").local_size, 1);
}

static void test_threads_share_the_host(void **state) {
    (void)state;
    Launch alone = {.world = 1, .local_size = 1}, many = {.world = 64, .local_size = 1000000};
    int cores = dist_threads(&alone);
    assert_in_range(cores, 1, 1 << 16);
    assert_int_equal(dist_threads(&many), 1);
    many.bound = 1; /* cores of its own: not to be divided again */
    assert_int_equal(dist_threads(&many), cores);
}

static void test_one_process(void **state) {
    (void)state;
    Dist *d;
    Err err = {OK, ""};
    float in[4] = {1, 2, 3, 4}, out[4] = {0};
    double x = 5;
    assert_int_equal(dist_open(&d, "auto", 1, &err), OK);
    assert_string_equal(dist_transport(d), "none");
    assert_int_equal(dist_world(d), 1);
    dist_reduce_scatter(d, out, in, 4);
    dist_all_gather(d, in, 4, sizeof *in);
    assert_int_equal(dist_wait(d, &err), OK);
    assert_memory_equal(in, out, sizeof in);
    assert_int_equal(dist_sum(d, &x, 1, &err), OK);
    assert_true(x == 5);
    assert_int_equal(dist_agree(d, &err), OK);
    err_set(&err, ERR_IO, "full");
    assert_int_equal(dist_agree(d, &err), ERR_IO);
    dist_close(d);
}

static void test_none_under_a_launcher(void **state) {
    (void)state;
    Dist *d;
    Err err = {OK, ""};
    launch_with("OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_RANK=0");
    assert_int_equal(dist_open(&d, "none", 1, &err), ERR_USAGE);
    assert_non_null(strstr(err.msg, "--transport"));
}

/* Output of ranks doing `what`, and mpirun's exit code; skips where ranks cannot be started. */
static int run_ranks(int ranks, const char *what, char *out, size_t size) {
    char command[8192];
    if (system("command -v mpirun > /dev/null 2>&1")) skip();
    snprintf(command, sizeof command,
             "OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1 "
             "OMPI_MCA_mpi_yield_when_idle=1 OMPI_MCA_btl=self,vader OMPI_MCA_odls_base_sigkill_timeout=1 "
             "ASAN_OPTIONS=detect_leaks=0 EHR_DIST_TEST=%s timeout 60 mpirun -np %d '%s' 2>&1",
             what, ranks, program);
    FILE *p = popen(command, "r");
    assert_non_null(p);
    size_t n = fread(out, 1, size - 1, p);
    out[n] = 0;
    int status = pclose(p);
    if (strstr(out, "this build has no MPI")) skip();
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void test_sums_in_rank_order(void **state) {
    (void)state;
    static char out[65536];
    for (int ranks = 2; ranks <= 4; ranks++) {
        int rc = run_ranks(ranks, "collectives", out, sizeof out);
        if (rc) fail_msg("%d ranks: exit code %d: %s", ranks, rc, out);
        for (int r = 0; r < ranks; r++) {
            char line[64];
            snprintf(line, sizeof line, "rank %d of %d: fine", r, ranks);
            if (!strstr(out, line)) fail_msg("%d ranks: rank %d did not finish: %s", ranks, r, out);
        }
    }
}

static void test_long_messages(void **state) {
    (void)state;
    static char out[65536];
    int rc = run_ranks(2, "long", out, sizeof out);
    if (rc) fail_msg("exit code %d: %s", rc, out);
}

static void test_failure_of_one_is_everyones(void **state) {
    (void)state;
    static char out[65536];
    int rc = run_ranks(3, "agree", out, sizeof out);
    if (rc) fail_msg("exit code %d: %s", rc, out);
}

static void test_dead_peer_is_named(void **state) {
    (void)state;
    static char out[65536];
    double start_s = clock_s();
    int rc = run_ranks(3, "dies", out, sizeof out);
    if (rc == 0 || rc == 124 || !strstr(out, "step 17: rank 1 (process")) fail_msg("exit code %d: %s", rc, out);
    assert_true(clock_s() - start_s < 15);
}

static void test_silent_peer_is_named(void **state) {
    (void)state;
    static char out[65536];
    int rc = run_ranks(2, "silent", out, sizeof out);
    if (rc == 0 || rc == 124 || !strstr(out, "no answer for 1 s from rank 1")) fail_msg("exit code %d: %s", rc, out);
}

int main(void) {
    const char *what = getenv("EHR_DIST_TEST");
    if (what) return worker(what);
    if (readlink("/proc/self/exe", program, sizeof program - 1) < 0) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_launcher_environment, clear_launcher),
        cmocka_unit_test_setup(test_ranks_of_a_host, clear_launcher),
        cmocka_unit_test_setup(test_threads_share_the_host, clear_launcher),
        cmocka_unit_test_setup(test_one_process, clear_launcher),
        cmocka_unit_test_setup(test_none_under_a_launcher, clear_launcher),
        cmocka_unit_test_setup(test_sums_in_rank_order, clear_launcher),
        cmocka_unit_test_setup(test_long_messages, clear_launcher),
        cmocka_unit_test_setup(test_failure_of_one_is_everyones, clear_launcher),
        cmocka_unit_test_setup(test_dead_peer_is_named, clear_launcher),
        cmocka_unit_test_setup(test_silent_peer_is_named, clear_launcher),
    };
    return cmocka_run_group_tests(tests, NULL, clear_launcher);
}
