/* test_cuda_cublas.c - the same products by cuBLASLt: against the reference, and what is said where the library is
 * missing.  In the emulator a stand-in is found beside the program (tests/emulator/cublaslt.c); on a GPU it is the real
 * one, and without it the tests are skipped. */
#include "tests/cuda_check.h"
#include <libgen.h>
#include <limits.h>
#include <unistd.h>

extern void emu_set_multiprocessors(int count) __attribute__((weak));

static const KernelLimits limits = {.N = 256, .C = 320, .F = 320, .Vp = 320, .H = 2, .G = 2, .D = 64, .n_seq = 4};

static CudaTest open_with_cublas(DType dtype) {
    CudaTest t = cuda_test_open(dtype);
    char msg[256] = "";
    if (device_use_cublas(t.dev[FAST], msg, sizeof msg)) {
        if (emu_set_multiprocessors) fail_msg("%s", msg);
        print_message("skip - %s\n", msg);
        cuda_test_close(&t);
        skip();
    }
    cuda_test_reserve(&t, &limits);
    return t;
}

static void products(CudaTest *t, int N, int rows, int cols) {
    const size_t NR = (size_t)N * (size_t)rows, NC = (size_t)N * (size_t)cols, RC = (size_t)rows * (size_t)cols;
    Tensor inp = tensor_random(t, t->dtype, NC, 1), w = tensor_random(t, t->dtype, RC, 1 / sqrt(cols));
    Tensor out = tensor_poison(t, t->dtype, NR), logits = tensor_poison(t, DTYPE_F32, NR);
    Tensor residual = tensor_random(t, t->dtype, NR, 1), sum = tensor_poison(t, t->dtype, NR);
    Tensor kept = tensor_poison(t, t->dtype, NR), act = tensor_poison(t, t->dtype, NR / 2);
    Tensor alone = tensor_poison(t, t->dtype, NR / 2), dinp = tensor_poison(t, t->dtype, NC);
    Tensor dweight = tensor_random(t, DTYPE_F32, RC, 3);
    for (int again = 0; again < 2; again++) /* the second time from what was remembered of the first */
        FOR_SIDES(s) {
            const KernelOps *k = t->ops[s];
            Device *dev = t->dev[s];
            Weight weight = tensor_weight(&w, s, rows, cols);
            k->matmul_forward(dev, side(&out, s), side(&inp, s), &weight, N);
            k->logits_forward(dev, side(&logits, s), side(&inp, s), &weight, N);
            k->matmul_add_forward(dev, side(&sum, s), side(&residual, s), side(&inp, s), &weight, N);
            k->matmul_swiglu_forward(dev, side(&act, s), side(&kept, s), side(&inp, s), &weight, N);
            k->matmul_swiglu_forward(dev, side(&alone, s), NULL, side(&inp, s), &weight, N);
            k->matmul_dgrad(dev, side(&dinp, s), side(&residual, s), &weight, N);
            k->matmul_wgrad(dev, side(&dweight, s), side(&residual, s), side(&inp, s), N, rows, cols);
        }
    FOR_SIDES(s) {
        Weight weight = tensor_weight(&w, s, rows, cols);
        t->ops[s]->matmul_add_forward(t->dev[s], side(&residual, s), side(&residual, s), side(&inp, s), &weight, N);
    }
    cuda_test_sync(t);
    const struct {
        Tensor *x;
        const char *what;
    } checks[] = {{&out, "matmul_forward"},           {&logits, "logits_forward"}, {&sum, "matmul_add_forward"},
                  {&residual, "added in place"},      {&kept, "gate_up"},          {&act, "matmul_swiglu_forward"},
                  {&alone, "swiglu without gate_up"}, {&dinp, "matmul_dgrad"},     {&dweight, "matmul_wgrad"}};
    for (size_t i = 0; i < sizeof checks / sizeof *checks; i++)
        tensor_check(t, checks[i].x, label(checks[i].what, N, rows, cols));
    Tensor *all[] = {&inp, &w, &out, &logits, &residual, &sum, &kept, &act, &alone, &dinp, &dweight};
    for (int i = 0; i < 11; i++) tensor_free(t, all[i]);
}

static void test_products(void **state) {
    (void)state;
    for (int d = 0; d < 2; d++) {
        CudaTest t = open_with_cublas(d ? DTYPE_F32 : DTYPE_BF16);
        products(&t, 48, 80, 64);
        products(&t, 1, 16, 200);
        products(&t, 7, 34, 65); /* lines that are not aligned to 16 bytes */
        cuda_test_close(&t);
    }
}

static void test_classifier(void **state) {
    (void)state;
    enum { N = 20, V = 61, Vp = 64, C = 24 };
    CudaTest t = open_with_cublas(DTYPE_BF16);
    Tensor inp = tensor_random(&t, DTYPE_BF16, N * C, 1), w = tensor_random(&t, DTYPE_BF16, Vp * C, 0.5);
    Tensor losses = tensor_poison(&t, DTYPE_F32, N), dinp = tensor_poison(&t, DTYPE_BF16, N * C);
    Tensor dweight = tensor_zero(&t, DTYPE_F32, Vp * C);
    tensor_push(&t, &dweight);
    int32_t lo[N], hi[N];
    for (int n = 0; n < N; n++) lo[n] = (n * 3) % V, hi[n] = lo[n] + 1;
    void *gpu_lo = cuda_upload(&t, lo, sizeof lo), *gpu_hi = cuda_upload(&t, hi, sizeof hi);
    FOR_SIDES(s) {
        Weight weight = tensor_weight(&w, s, Vp, C);
        t.ops[s]->classifier(t.dev[s], side(&losses, s), side(&dinp, s), side(&dweight, s), side(&inp, s), &weight,
                             s == FAST ? gpu_lo : lo, s == FAST ? gpu_hi : hi, N, V);
    }
    cuda_test_sync(&t);
    tensor_check(&t, &losses, "losses");
    tensor_check_terms(&t, &dinp, "dinp", 1);
    device_free(t.dev[FAST], gpu_lo), device_free(t.dev[FAST], gpu_hi);
    Tensor *all[] = {&inp, &w, &losses, &dinp, &dweight};
    for (int i = 0; i < 5; i++) tensor_free(&t, all[i]);
    cuda_test_close(&t);
}

static char program[PATH_MAX];

/* This program again, where the library cannot be found: says why and leaves products to our own kernels. */
static int without_library(void) {
    char msg[256] = "";
    Device *dev = device_open(DEVICE_CUDA, 0, 0, msg, sizeof msg);
    if (!dev) return 2;
    int rc = device_use_cublas(dev, msg, sizeof msg);
    printf("%d %s\n", rc, msg);
    const KernelOps *k = kernels_get(dev, DTYPE_F32);
    float *x = device_alloc(dev, 64 * sizeof *x);
    Weight w = {x, DTYPE_F32, NULL, 8, 8, WEIGHT_ROWS};
    k->matmul_forward(dev, x, x, &w, 0);
    k->logits_forward(dev, device_alloc(dev, 8 * sizeof(float)), x, &w, 1);
    if (device_sync(dev)) printf("%s\n", device_error(dev));
    fflush(stdout);
    _exit(0);
}

static void test_missing_library(void **state) {
    (void)state;
    if (!emu_set_multiprocessors) skip(); /* a machine with a GPU may have it installed */
    char command[PATH_MAX + 100], line[512] = "", rest[64] = "";
    snprintf(command, sizeof command, "EHR_CUBLAS_TEST=missing LD_LIBRARY_PATH= '%s' 2>&1", program);
    FILE *f = popen(command, "r");
    assert_non_null(f);
    assert_non_null(fgets(line, sizeof line, f));
    int more = fgets(rest, sizeof rest, f) != NULL;
    pclose(f);
    if (strstr(line, "cublasLtCreate failed")) skip(); /* the real one is installed, and no GPU */
    if (strncmp(line, "-1 opening cuBLASLt: ", 21) || !strstr(line, "libcublasLt.so.12") ||
        !strstr(line, "LD_LIBRARY_PATH"))
        fail_msg("%s", line);
    if (more) fail_msg("%s", rest);
}

int main(int argc, char **argv) {
    const char *mode = getenv("EHR_CUBLAS_TEST");
    (void)argc;
    if (mode && !strcmp(mode, "missing")) return without_library();
    if (!realpath(argv[0], program)) return 2;
    if (emu_set_multiprocessors && !mode) { /* the loader reads LD_LIBRARY_PATH when a program starts */
        char here[PATH_MAX], path[2 * PATH_MAX];
        snprintf(here, sizeof here, "%s", program);
        const char *old = getenv("LD_LIBRARY_PATH");
        snprintf(path, sizeof path, "%s/..:%s", dirname(here), old ? old : "");
        setenv("LD_LIBRARY_PATH", path, 1);
        setenv("EHR_CUBLAS_TEST", "found", 1);
        execv(program, argv);
        return 2;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_products),
        cmocka_unit_test(test_classifier),
        cmocka_unit_test(test_missing_library),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
