/* test_cuda_train.c - the optimizer and whole training steps on a GPU (or the emulator): losses beside the CPU's,
 * accumulation, runs and checkpoints bit for bit, adapters. */
#include "tests/make_dataset.h"
#include "train/evaluate.h"
#include "train/step.h"
#include "tests/cuda_model.h"
#include <unistd.h>

static char folder[4096], data_dir[4200];
static Dist *dist;

static int setup(void **state) {
    (void)state;
    Err err = {OK, ""};
    const char *tmp = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/ehr-cuda-train-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(folder)) return -1;
    snprintf(data_dir, sizeof data_dir, "%s/data", folder);
    make_dataset(data_dir, 40, 5);
    return dist_open(&dist, "none", 1, &err);
}

static int teardown(void **state) {
    (void)state;
    dist_close(dist);
    made_remove(folder);
    return 0;
}

enum { T = 64 };
typedef struct {
    Device *dev;
    Dataset data;
    Model model;
    Optimizer optimizer;
    Acts *acts;
    Loader *loader;
    Stepper stepper;
} Rig;

/* dir NULL: from nothing.  As in ehr-train, activations lie in gradients where a step has one pass. */
static void rig_open_with(Rig *r, Device *dev, DType dtype, int rows, int passes, const char *dir, LoraConfig lora,
                          int graphs) {
    Err err = {OK, ""};
    OptimizerOptions options = {.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1, .clip = 1};
    LoaderOptions lo = {.rows = rows, .T = T, .seed = 9, .shuffle = 1, .world = 1};
    *r = (Rig){.dev = dev};
    CHECK(dataset_open(&r->data, data_dir, &err));
    ModelConfig cfg = small_shape();
    cfg.vocab_size = r->data.vocabulary.n;
    cfg.lora = lora;
    if (dir) {
        CHECK(checkpoint_load_model(dir, &r->model, dev, dtype, 16, &err));
    } else {
        CHECK(model_open(&r->model, &cfg, dev, dtype, 16, &err));
        model_init(&r->model, 3);
    }
    r->model.graphs = graphs;
    CHECK(optimizer_open(&r->optimizer, &r->model, dist, &options, &err));
    if (dir) CHECK(optimizer_read(&r->optimizer, dir, &err));
    else optimizer_init(&r->optimizer, 3);
    if (passes == 1) CHECK(acts_open_lent(&r->acts, &r->model, rows * T, RECOMPUTE_NONE, r->optimizer.grad, &err));
    else CHECK(acts_open(&r->acts, &r->model, rows * T, 1, RECOMPUTE_NONE, &err));
    CHECK(loader_open(&r->loader, &r->data, SPLIT_TRAIN, &lo, &err));
    CHECK(stepper_open(&r->stepper, &r->model, r->acts, &r->optimizer, r->loader, passes, rows * T, &err));
}

static void rig_open(Rig *r, Device *dev, DType dtype, int rows, int passes, const char *dir) {
    rig_open_with(r, dev, dtype, rows, passes, dir, NO_ADAPTERS, 1);
}

static void rig_close(Rig *r) {
    check_device(r->dev);
    stepper_close(&r->stepper);
    loader_close(r->loader);
    acts_close(r->acts);
    optimizer_close(&r->optimizer);
    model_close(&r->model);
    dataset_close(&r->data);
}

static StepResult rig_step(Rig *r, int64_t update) {
    Err err = {OK, ""};
    StepResult result;
    CHECK(stepper_run(&r->stepper, 1e-3, update, 0, &result, &err));
    assert_false(result.skipped);
    return result;
}

/* The working copy and the float master say the same, to rounding. */
static void check_master(const Rig *r) {
    const ParamTable *t = &r->model.table;
    uint16_t *w = download(r->dev, r->model.w_arena, (size_t)t->total * sizeof *w);
    float *master = download(r->dev, r->optimizer.master, (size_t)t->total * sizeof *master);
    for (int64_t i = 0; i < t->total; i++) assert_int_equal(w[i], bf16_from_float(master[i]));
    free(w);
    free(master);
}

/* Losses of the first steps beside the CPU's.  The first loss is before any update: only roundings of one pass apart.
 */
static void check_like_cpu(DType dtype, double first, double later) {
    enum { STEPS = 3 };
    Device *gpu = open_gpu(), *cpu = open_cpu();
    Rig a, b;
    rig_open(&a, gpu, dtype, 2, 1, NULL);
    rig_open(&b, cpu, DTYPE_F32, 2, 1, NULL);
    for (int step = 1; step <= STEPS; step++) {
        StepResult x = rig_step(&a, step), y = rig_step(&b, step);
        double limit = step == 1 ? first : later;
        assert_int_equal(x.targets, y.targets);
        if (!(fabs(x.loss - y.loss) <= limit * y.loss) || !(fabs(x.grad_norm - y.grad_norm) <= 8 * limit * y.grad_norm))
            fail_msg("%s, step %d: loss %.7g and norm %.7g, on the CPU %.7g and %.7g", dtype_name(dtype), step, x.loss,
                     x.grad_norm, y.loss, y.grad_norm);
    }
    if (dtype == DTYPE_BF16) check_master(&a);
    else assert_null(a.optimizer.master);
    rig_close(&a);
    rig_close(&b);
    device_close(gpu);
    device_close(cpu);
}

static void test_steps_like_the_cpu(void **state) {
    (void)state;
    /* Mean losses of over a hundred targets: a few units in the last place, growing as updates follow gradients. */
    check_like_cpu(DTYPE_F32, 8 * (double)FLT_EPSILON, 1e-4);
    check_like_cpu(DTYPE_BF16, dtype_epsilon(DTYPE_BF16) / 8, dtype_epsilon(DTYPE_BF16));
}

static void test_accumulation(void **state) {
    (void)state;
    Device *gpu = open_gpu();
    StepResult first[2];
    for (int k = 0; k < 2; k++) {
        Rig r;
        rig_open(&r, gpu, DTYPE_BF16, k ? 1 : 3, k ? 3 : 1, NULL);
        first[k] = rig_step(&r, 1);
        rig_close(&r);
    }
    /* A token's loss does not depend on the rows beside it; the sums of gradients are taken in another order. */
    assert_int_equal(first[0].targets, first[1].targets);
    if (fabs(first[0].loss - first[1].loss) > 1e-12 ||
        fabs(first[0].grad_norm - first[1].grad_norm) > 16 * (double)FLT_EPSILON * first[0].grad_norm)
        fail_msg("loss %.15g and %.15g, norm %.9g and %.9g", first[0].loss, first[1].loss, first[0].grad_norm,
                 first[1].grad_norm);
    device_close(gpu);
}

static void evaluate_with(Rig *r, Evaluation *out) {
    Err err = {OK, ""};
    Evaluator e;
    CHECK(evaluator_open(&e, &r->data, dist, 1, T, 2 * T, &err));
    CHECK(evaluator_run(&e, &r->model, r->acts, out, &err));
    evaluator_close(&e);
}

/* Four steps twice, once with an evaluation and a checkpoint in between, from which a third run goes on: all end with
 * the same bits. */
static void test_runs_and_checkpoints(void **state) {
    (void)state;
    enum { STEPS = 4, SAVED = 2 };
    Err err = {OK, ""};
    Device *gpu = open_gpu();
    Rig r[3];
    float *master[3], *m[3], *v[3];
    uint16_t *w[3];
    char dir[4300], *vocabulary = made_vocabulary_json();
    LoaderCursor saved_at = {0, 0, 0};
    double loss[3][STEPS + 1];
    snprintf(dir, sizeof dir, "%s/step", folder);
    for (int run = 0; run < 3; run++) {
        int start = run == 2 ? SAVED : 0;
        rig_open(&r[run], gpu, DTYPE_BF16, 1, 2, run == 2 ? dir : NULL);
        if (run == 2) CHECK(loader_seek(r[run].loader, &saved_at, &err));
        for (int step = start + 1; step <= STEPS; step++) {
            loss[run][step] = rig_step(&r[run], step).loss;
            if (run != 1 || step != SAVED) continue;
            Evaluation e, again;
            evaluate_with(&r[run], &e);
            evaluate_with(&r[run], &again);
            assert_true(e.targets > 0 && e.loss == again.loss);
            CHECK(checkpoint_begin(dir, &r[run].model.cfg, &r[run].model.table, vocabulary, "{}", 1, 0, &err));
            CHECK(optimizer_write(&r[run].optimizer, dir, &err));
            saved_at = r[run].stepper.cursor;
        }
        const size_t n = (size_t)r[run].model.table.total;
        master[run] = download(gpu, r[run].optimizer.master, n * sizeof(float));
        m[run] = download(gpu, r[run].optimizer.m, n * sizeof(float));
        v[run] = download(gpu, r[run].optimizer.v, n * sizeof(float));
        w[run] = download(gpu, r[run].model.w_arena, n * sizeof(uint16_t));
        check_master(&r[run]);
        if (run) {
            for (int step = start + 1; step <= STEPS; step++) assert_true(loss[run][step] == loss[0][step]);
            assert_memory_equal(master[run], master[0], n * sizeof(float));
            assert_memory_equal(m[run], m[0], n * sizeof(float));
            assert_memory_equal(v[run], v[0], n * sizeof(float));
            assert_memory_equal(w[run], w[0], n * sizeof(uint16_t));
        }
        rig_close(&r[run]);
    }
    /* What the checkpoint holds loads on the CPU. */
    Device *cpu = open_cpu();
    Model loaded;
    CHECK(checkpoint_load_model(dir, &loaded, cpu, DTYPE_F32, 16, &err));
    model_close(&loaded);
    device_close(cpu);
    for (int run = 0; run < 3; run++) {
        free(master[run]);
        free(m[run]);
        free(v[run]);
        free(w[run]);
    }
    free(vocabulary);
    device_close(gpu);
}

/* Steps with adapters: the first loss is the parent's, bit for bit; the base stays as it is, in the working copy as
 * well; the adapters move; moments are of them alone; recorded passes do as direct ones. */
static void test_adapters_train(void **state) {
    (void)state;
    enum { STEPS = 3 };
    Device *gpu = open_gpu();
    Rig parent, r[2];
    uint16_t *after[2];
    double loss[2][STEPS];
    rig_open(&parent, gpu, DTYPE_BF16, 2, 1, NULL);
    const double first = rig_step(&parent, 1).loss;
    rig_close(&parent);
    for (int graphs = 0; graphs < 2; graphs++) {
        Rig *x = &r[graphs];
        rig_open_with(x, gpu, DTYPE_BF16, 2, 1, NULL, ADAPTERS, graphs);
        const ParamTable *t = &x->model.table;
        assert_true(t->trained < t->total / 2);
        uint16_t *before = download(gpu, x->model.w_arena, (size_t)t->total * sizeof *before);
        for (int step = 0; step < STEPS; step++) loss[graphs][step] = rig_step(x, step + 1).loss;
        if (loss[graphs][0] != first) fail_msg("first loss %.9g, the parent's is %.9g", loss[graphs][0], first);
        uint16_t *w = after[graphs] = download(gpu, x->model.w_arena, (size_t)t->total * sizeof *w);
        assert_memory_equal(w + t->trained, before + t->trained, (size_t)(t->total - t->trained) * sizeof *w);
        float *master = download(gpu, x->optimizer.master, (size_t)t->trained * sizeof *master);
        for (int64_t i = 0; i < t->trained; i++) assert_int_equal(w[i], bf16_from_float(master[i]));
        for (int i = 0; i < t->n; i++) {
            const ParamSpec *s = &t->spec[i];
            if (s->trainable) assert_memory_not_equal(w + s->offset, before + s->offset, (size_t)s->count * sizeof *w);
        }
        free(master);
        free(before);
        if (graphs) {
            assert_memory_equal(after[0], after[1], (size_t)t->total * sizeof *w);
            assert_memory_equal(loss[0], loss[1], sizeof loss[0]);
        }
        rig_close(x);
    }
    free(after[0]);
    free(after[1]);
    device_close(gpu);
}

int main(void) {
    /* In the emulator streams run as late as they may, in any order that the program allows. */
    setenv("EHR_EMULATE", "schedule=random:3", 0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_steps_like_the_cpu),   cmocka_unit_test(test_accumulation),
        cmocka_unit_test(test_runs_and_checkpoints), cmocka_unit_test(test_adapters_train),
    };
    return cmocka_run_group_tests_name("cuda_train", tests, setup, teardown);
}
