/* test_cuda_device.c - a GPU as device.h promises it: memory, copies nobody waits for, order between streams, marks,
 * recorded steps, and what is said when something is missing or goes wrong. */
#include "tests/cuda_check.h"

#include <sys/wait.h>
#include <unistd.h>

static Device *open_gpu(void) {
    char    msg[256];
    Device *dev = device_open(DEVICE_CUDA, 0, 0, msg, sizeof msg);
    if (!dev) {
        print_message("skip - %s\n", msg);
        skip();
    }
    return dev;
}

static void assert_works(Device *dev) {
    if (device_sync(dev)) fail_msg("%s", device_error(dev));
}

static unsigned char *bytes_random(size_t count) {
    unsigned char *b = malloc(count);
    for (size_t i = 0; i < count; i++) b[i] = (unsigned char)(i * 131 + i / 251);
    return b;
}

/* ---- opening -------------------------------------------------------------------------------------------------------- */

static void test_open(void **state) {
    (void)state;
    Device *dev = open_gpu();
    size_t  free_bytes, total;
    assert_int_equal(device_kind(dev), DEVICE_CUDA);
    assert_int_equal(device_threads(dev), 1);
    assert_non_null(strstr(device_name(dev), "GPU 0, "));
    assert_non_null(device_stream(dev, STREAM_COMM));
    assert_true(device_stream(dev, STREAM_COMM) != device_stream(dev, STREAM_COMPUTE));
    device_memory(dev, &free_bytes, &total);
    assert_true(total > 0 && free_bytes > 0 && free_bytes <= total);
    assert_true(device_peak_flops(dev, DTYPE_F32) >= 0 && device_peak_flops(dev, DTYPE_F64) == 0);
    assert_non_null(kernels_get(dev, DTYPE_F32));
    assert_non_null(kernels_get(dev, DTYPE_BF16));
    assert_null(kernels_get(dev, DTYPE_F64));
    assert_null(device_error(dev));
    device_close(dev);
    char msg[256];
    assert_null(device_open(DEVICE_CUDA, 1000, 0, msg, sizeof msg));
    assert_non_null(strstr(msg, "opening GPU 1000: "));
    assert_non_null(strstr(msg, "--device cpu"));
    assert_null(device_open(DEVICE_CUDA, -1, 0, msg, sizeof msg));
}

/* One line each, that names what was found and what to do. */
static void test_refusals(void **state) {
    (void)state;
    if (!test_emulated()) skip();
    EmuConfig *gpu = emu_config(), kept = *gpu;
    static const struct {
        EmuDriver   driver;
        int         devices, capability;
        const char *says;
    } cases[] = {{DRIVER_NONE, 1, 80, "has no NVIDIA driver; install it"}, {DRIVER_OLD, 1, 80, "update the driver"},
                 {DRIVER_OK, 0, 80, "the driver shows none"},              {DRIVER_OK, 1, 75, "compute capability 7.5, expected 8.0"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char msg[256];
        gpu->driver = cases[i].driver, gpu->devices = cases[i].devices, gpu->compute_capability = cases[i].capability;
        Device *dev = device_open(DEVICE_CUDA, 0, 0, msg, sizeof msg);
        *gpu = kept;
        assert_null(dev);
        if (!strstr(msg, cases[i].says) || !strstr(msg, "--device cpu") || strchr(msg, '\n'))
            fail_msg("expected '%s' in '%s'", cases[i].says, msg);
    }
    device_close(open_gpu()); /* a refusal leaves nothing behind */
}

/* ---- memory and copies ---------------------------------------------------------------------------------------------- */

static void test_memory(void **state) {
    (void)state;
    Device *dev = open_gpu();
    static const size_t sizes[] = {1, 255, 4096, 65536, 65537, 3 << 20};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        size_t         n = sizes[i];
        unsigned char *want = bytes_random(n), *got = malloc(n), *p = device_alloc(dev, n), *q = device_alloc(dev, n);
        assert_true(p && q && (uintptr_t)p % 256 == 0 && (uintptr_t)q % 256 == 0);
        memset(got, 1, n);
        device_download(dev, got, p, n); /* zeroed */
        for (size_t k = 0; k < n; k++) assert_int_equal(got[k], 0);
        device_upload(dev, p, want, n);
        unsigned char *reused = memset(malloc(n), 7, n);
        memcpy(reused, want, n);
        device_upload(dev, p, reused, n);
        memset(reused, 9, n); /* free again when the call returns */
        device_copy(dev, q, p, n);
        device_zero(dev, p, n / 2);
        device_download(dev, got, q, n);
        assert_memory_equal(got, want, n);
        device_download(dev, got, p, n);
        for (size_t k = 0; k < n; k++) assert_int_equal(got[k], k < n / 2 ? 0 : want[k]);
        device_free(dev, p);
        device_free(dev, q);
        free(want), free(got), free(reused);
    }
    assert_works(dev);
    device_close(dev);
}

/* Many more small uploads than there are slots to wait in, the host buffer taken again at once. */
static void test_uploads_in_a_row(void **state) {
    (void)state;
    enum { UPLOADS = 100, WIDTH = 1000 };
    Device *dev = open_gpu();
    int    *p = device_alloc(dev, UPLOADS * WIDTH * sizeof *p), buffer[WIDTH];
    for (int i = 0; i < UPLOADS; i++) {
        for (int k = 0; k < WIDTH; k++) buffer[k] = i * WIDTH + k;
        device_upload(dev, p + i * WIDTH, buffer, sizeof buffer);
    }
    int *got = malloc(UPLOADS * WIDTH * sizeof *got);
    device_download(dev, got, p, UPLOADS * WIDTH * sizeof *got);
    for (int i = 0; i < UPLOADS * WIDTH; i++) assert_int_equal(got[i], i);
    free(got);
    device_free(dev, p);
    device_close(dev);
}

/* Out of memory is an answer, not the device's end. */
static void test_out_of_memory(void **state) {
    (void)state;
    Device *dev = open_gpu();
    size_t  free_bytes, total, before;
    device_memory(dev, &before, &total);
    assert_null(device_alloc(dev, total * 4));
    assert_int_equal(device_reserve(dev, total * 4), -1);
    assert_null(device_error(dev));
    void *p = device_alloc(dev, 8 << 20);
    assert_non_null(p);
    device_memory(dev, &free_bytes, &total);
    assert_true(free_bytes <= before - (8 << 20) || !test_emulated()); /* others may use a real GPU */
    assert_int_equal(device_reserve(dev, 1000), 0);
    assert_int_equal(device_reserve(dev, 100), 0);
    size_t bytes;
    void  *workspace = device_workspace(dev, &bytes);
    assert_true(workspace && bytes == 1000);
    device_free(dev, p);
    assert_works(dev);
    device_close(dev);
}

/* ---- order ---------------------------------------------------------------------------------------------------------- */

/* Batches go up on COPY while COMPUTE works on the ones before, results come down on COMM, two host buffers in turns:
 * the pipeline of a training loop.  Without the orders and marks the adversarial schedules mix the batches up. */
static void test_order(void **state) {
    (void)state;
    enum { STEPS = 12, N = 3000 };
    Device *dev = open_gpu();
    float  *host[2], *result[2], *batch[2], *sum = device_alloc(dev, N * sizeof *sum), *out[2];
    for (int i = 0; i < 2; i++) {
        host[i] = device_host_alloc(dev, N * sizeof(float)), result[i] = device_host_alloc(dev, N * sizeof(float));
        batch[i] = device_alloc(dev, N * sizeof(float)), out[i] = device_alloc(dev, N * sizeof(float));
        assert_true(host[i] && result[i] && batch[i] && out[i] && (uintptr_t)host[i] % 256 == 0 && host[i][N - 1] == 0);
    }
    for (int step = 0; step <= STEPS; step++) {
        int slot = step % 2;
        if (step < STEPS) {
            if (step >= 2) assert_int_equal(device_mark_wait(dev, slot), 0); /* the upload from this buffer is done */
            for (int i = 0; i < N; i++) host[slot][i] = (float)(step * N + i);
            device_order(dev, STREAM_COMPUTE, STREAM_COPY); /* batch[slot] was read */
            device_upload_async(dev, STREAM_COPY, batch[slot], host[slot], N * sizeof(float));
            device_mark(dev, STREAM_COPY, slot);
            device_order(dev, STREAM_COPY, STREAM_COMPUTE);
            device_order(dev, STREAM_COMM, STREAM_COMPUTE); /* out[slot] was fetched */
            device_copy(dev, sum, batch[slot], N * sizeof(float));
            device_copy(dev, out[slot], sum, N * sizeof(float));
            device_order(dev, STREAM_COMPUTE, STREAM_COMM);
            device_download_async(dev, STREAM_COMM, result[slot], out[slot], N * sizeof(float));
            device_mark(dev, STREAM_COMM, 2 + slot);
        }
        if (step > 0) {
            int last = (step - 1) % 2;
            assert_int_equal(device_mark_wait(dev, 2 + last), 0);
            for (int i = 0; i < N; i++) assert_true(result[last][i] == (float)((step - 1) * N + i));
        }
    }
    assert_works(dev);
    for (Stream s = 0; s < STREAM_COUNT; s++) assert_int_equal(device_poll(dev, s), 1);
    for (int i = 0; i < 2; i++) {
        device_host_free(dev, host[i]), device_host_free(dev, result[i]);
        device_free(dev, batch[i]), device_free(dev, out[i]);
    }
    device_free(dev, sum);
    device_close(dev);
}

static void test_poll(void **state) {
    (void)state;
    Device *dev = open_gpu();
    void   *p = device_alloc(dev, 1 << 20);
    for (int i = 0; i < 20; i++) device_zero(dev, p, 1 << 20);
    int done, polls = 0;
    while ((done = device_poll(dev, STREAM_COMPUTE)) == 0) polls++;
    assert_int_equal(done, 1); /* comes by itself, without a wait */
    (void)polls;
    device_free(dev, p);
    assert_works(dev);
    device_close(dev);
}

/* ---- recording ------------------------------------------------------------------------------------------------------ */

/* One small step of row kernels: rmsnorm, its gradient into dw, and the sum of squares of the sum so far. */
typedef struct {
    CudaTest t;
    int      N, C;
    void    *x, *w, *y, *rstd, *dx, *dw, *sum;
} Step;

static void step_run(Step *s) {
    Device          *dev = s->t.dev[FAST];
    const KernelOps *o = s->t.ops[FAST];
    o->rmsnorm_forward(dev, s->y, s->rstd, s->x, s->w, 1e-6f, s->N, s->C);
    device_zero(dev, s->dx, (size_t)(s->N * s->C) * dtype_size(s->t.dtype));
    o->rmsnorm_backward(dev, s->dx, s->dw, s->y, s->x, s->w, s->rstd, s->N, s->C);
    o->sum_squares(dev, s->sum, s->dw, s->C);
    device_copy(dev, s->y, s->dx, (size_t)(s->N * s->C) * dtype_size(s->t.dtype));
}

/* dw, sum and y, from malloc. */
static char *step_results(Step *s, size_t *bytes) {
    size_t a = (size_t)s->C * 4, b = 8, c = (size_t)(s->N * s->C) * dtype_size(s->t.dtype);
    char  *all = malloc(*bytes = a + b + c);
    device_download(s->t.dev[FAST], all, s->dw, a);
    device_download(s->t.dev[FAST], all + a, s->sum, b);
    device_download(s->t.dev[FAST], all + a + b, s->y, c);
    cuda_test_sync(&s->t);
    return all;
}

static void test_recording(void **state) {
    (void)state;
    enum { N = 40, C = 64, RUNS = 3 };
    Step   s = {.t = cuda_test_open(DTYPE_BF16), .N = N, .C = C};
    Device *dev = s.t.dev[FAST];
    KernelLimits limits = {.N = N, .C = C, .F = C, .Vp = 64, .H = 1, .G = 1, .D = 64, .n_seq = 1};
    cuda_test_reserve(&s.t, &limits);
    Tensor x[RUNS], w = tensor_random(&s.t, DTYPE_BF16, C, 1);
    for (int i = 0; i < RUNS; i++) x[i] = tensor_random(&s.t, DTYPE_BF16, N * C, 1);
    size_t width = N * C * 2, bytes;
    s.w = w.fast, s.x = device_alloc(dev, width), s.y = device_alloc(dev, width), s.dx = device_alloc(dev, width);
    s.rstd = device_alloc(dev, N * 4), s.dw = device_alloc(dev, C * 4), s.sum = device_alloc(dev, 8);
    char *direct[RUNS];
    for (int i = 0; i < RUNS; i++) {
        device_copy(dev, s.x, x[i].fast, width);
        step_run(&s);
        direct[i] = step_results(&s, &bytes);
    }
    device_zero(dev, s.dw, C * 4), device_zero(dev, s.sum, 8);
    char *before = step_results(&s, &bytes);
    assert_int_equal(device_record(dev), 0);
    step_run(&s);
    DeviceGraph *graph = device_record_end(dev);
    assert_non_null(graph);
    char *after = step_results(&s, &bytes); /* recording runs nothing */
    assert_memory_equal(before, after, bytes);
    free(before), free(after);
    for (int i = 0; i < RUNS; i++) { /* what is in x is read when the graph runs */
        device_copy(dev, s.x, x[i].fast, width);
        device_graph_launch(dev, graph);
        char *got = step_results(&s, &bytes);
        assert_memory_equal(got, direct[i], bytes);
        free(got), free(direct[i]);
    }
    device_graph_free(dev, graph);
    void *all[] = {s.x, s.y, s.dx, s.rstd, s.dw, s.sum};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) device_free(dev, all[i]);
    for (int i = 0; i < RUNS; i++) tensor_free(&s.t, &x[i]);
    tensor_free(&s.t, &w);
    cuda_test_close(&s.t);
}

/* What the host would have to take part in cannot be recorded: an error with its name, and no graph. */
static void test_recording_refuses(void **state) {
    (void)state;
    static const char *const names[] = {"device_upload", "device_download", "device_upload_async", "device_mark", "device_sync", "device_record"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        Device *dev = open_gpu();
        char   *p = device_alloc(dev, 64), *host = device_host_alloc(dev, 64);
        assert_null(device_record_end(dev)); /* nothing was begun */
        assert_int_equal(device_record(dev), 0);
        device_zero(dev, p, 64);
        if (i == 0) device_upload(dev, p, host, 64);
        if (i == 1) device_download(dev, host, p, 64);
        if (i == 2) device_upload_async(dev, STREAM_COMPUTE, p, host, 64);
        if (i == 3) device_mark(dev, STREAM_COMPUTE, 0);
        if (i == 4) assert_int_equal(device_sync(dev), -1);
        if (i == 5) assert_int_equal(device_record(dev), -1);
        assert_null(device_record_end(dev));
        assert_non_null(device_error(dev));
        if (strncmp(device_error(dev), names[i], strlen(names[i])))
            fail_msg("expected %s: ..., found %s", names[i], device_error(dev));
        assert_int_equal(device_sync(dev), -1);
        assert_int_equal(device_record(dev), -1);
        device_free(dev, p);
        device_host_free(dev, host);
        device_close(dev);
    }
}

/* ---- errors --------------------------------------------------------------------------------------------------------- */

static void test_errors_stick(void **state) {
    (void)state;
    CudaTest t = cuda_test_open(DTYPE_F32);
    Device  *dev = t.dev[FAST];
    float    values[4] = {1, 2, 3, 4}, got[4] = {0};
    float   *p = cuda_upload(&t, values, sizeof values);
    t.ops[FAST]->sum_squares(dev, (double *)(void *)p, p, 4); /* no workspace was reserved */
    assert_non_null(device_error(dev));
    assert_non_null(strstr(device_error(dev), "sum_squares: needs "));
    assert_int_equal(device_sync(dev), -1);
    assert_int_equal(device_poll(dev, STREAM_COMPUTE), -1);
    assert_int_equal(device_mark_wait(dev, 0), -1);
    device_zero(dev, p, sizeof values); /* does nothing any more */
    device_download(dev, got, p, sizeof got);
    assert_true(got[0] == 0);
    t.ops[FAST]->qk_norm_rope_forward(dev, p, NULL, p, p, p, NULL, p, 1e-6f, 1, 1, 1, 32);
    assert_non_null(strstr(device_error(dev), "sum_squares: ")); /* the first one stays */
    device_free(dev, p);
    device_close(dev);
    device_close(t.dev[DOUBLE]);
}

/* What an operation cannot do is said with its name. */
static void test_operation_limits(void **state) {
    (void)state;
    static const char *const says[] = {"qk_norm_rope_forward: ", "rmsnorm_forward: ", "sample: ", "device_mark: "};
    for (int i = 0; i < 4; i++) {
        CudaTest         t = cuda_test_open(DTYPE_BF16);
        const KernelOps *o = t.ops[FAST];
        Device          *dev = t.dev[FAST];
        SampleSpec       spec = {.V = 4, .Vp = 2, .temperature = 1};
        void            *p = device_alloc(dev, 1 << 20);
        if (i == 0) o->qk_norm_rope_forward(dev, p, NULL, p, p, p, p, p, 1e-6f, 1, 1, 1, 96);
        if (i == 1) o->rmsnorm_forward(dev, p, NULL, p, p, 1e-6f, 1, 1 << 18);
        if (i == 2) o->sample(dev, p, NULL, NULL, p, p, NULL, &spec, 1);
        if (i == 3) device_mark(dev, STREAM_COMPUTE, DEVICE_MARKS);
        assert_int_equal(device_sync(dev), -1);
        if (strncmp(device_error(dev), says[i], strlen(says[i])))
            fail_msg("expected %s..., found %s", says[i], device_error(dev));
        device_free(dev, p);
        device_close(dev);
        device_close(t.dev[DOUBLE]);
    }
}

/* 0 = the error of a kernel that reads where no memory is came with the operation's name. */
static int kernel_fault(void) {
    char             msg[256];
    Device          *dev = device_open(DEVICE_CUDA, 0, 0, msg, sizeof msg);
    int32_t          token = 1 << 20, *tokens = device_alloc(dev, sizeof token);
    float           *table = device_alloc(dev, 64 * sizeof *table), *out = device_alloc(dev, 64 * sizeof *out);
    const KernelOps *ops = kernels_get(dev, DTYPE_F32);
    device_upload(dev, tokens, &token, sizeof token);
    ops->embedding_forward(dev, out, tokens, table, 1, 64);
    if (device_sync(dev) != -1 || !device_error(dev)) return 10;
    if (!strstr(device_error(dev), "embedding_forward: ") || !strstr(device_error(dev), "CUDA_LAUNCH_BLOCKING=1")) return 11;
    device_free(dev, table); /* what is left can be closed */
    device_close(dev);
    return 0;
}

/* In a process of its own, whose GPU is lost afterwards; a process that has used a real one cannot fork it.  In the
 * sanitizer's build the address is the sanitizer's to report, which ends the process. */
static void test_kernel_fault(void **state) {
    (void)state;
#ifdef __SANITIZE_ADDRESS__
    skip();
#endif
    if (!test_emulated()) skip();
    fflush(NULL);
    pid_t child = fork();
    if (!child) {
        if (!freopen("/dev/null", "w", stderr)) _exit(12); /* the emulator's own report */
        int code = kernel_fault();
        _exit(code ? code : !emu_take_faults(NULL, 0));
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_open),          cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_memory),        cmocka_unit_test(test_uploads_in_a_row),
        cmocka_unit_test(test_out_of_memory), cmocka_unit_test(test_order),
        cmocka_unit_test(test_poll),          cmocka_unit_test(test_recording),
        cmocka_unit_test(test_recording_refuses), cmocka_unit_test(test_errors_stick),
        cmocka_unit_test(test_operation_limits),  cmocka_unit_test(test_kernel_fault),
    };
    int failed = 0;
    FOR_SCHEDULES(i) failed += cmocka_run_group_tests_name("CUDA device", tests, NULL, NULL);
    return failed;
}
