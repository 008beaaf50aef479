/* test_train_options.c - what ehr-train does when: schedules, options, batch splits, the plan. */
#include "tests/train_check.h"
#include "train/memory.h"
#include "train/schedule.h"
#include "train/step.h"

/* ---- schedule ----------------------------------------------------------------------------------------------------- */

static void test_schedules(void **state) {
    (void)state;
    Schedule s = {.peak = 1, .min_ratio = 0.1, .warmup_steps = 10, .decay_steps = 20, .total_steps = 110};
    static const struct {
        const char *name;
        int64_t     step;
        double      rate;
    } row[] = {{"cosine", 1, 0.1},   {"cosine", 10, 1},   {"cosine", 60, 0.55},  {"cosine", 110, 0.1}, {"cosine", 500, 0.1},
               {"wsd", 5, 0.5},      {"wsd", 11, 1},      {"wsd", 90, 1},        {"wsd", 100, 0.55},   {"wsd", 110, 0.1},
               {"constant", 1, 0.1}, {"constant", 10, 1}, {"constant", 110, 1}};
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        assert_int_equal(schedule_find(row[i].name, &s.kind), 0);
        double rate = schedule_rate(&s, row[i].step);
        if (fabs(rate - row[i].rate) > 1e-12) fail_msg("%s at %lld: %g", row[i].name, (long long)row[i].step, rate);
    }
    assert_int_not_equal(schedule_find("linear", &s.kind), 0);
    /* A decay longer than what is left begins where the warm-up ends: the peak is reached, and no rate jumps. */
    Schedule brief = {.kind = SCHEDULE_WSD, .peak = 1, .min_ratio = 0.1, .warmup_steps = 50, .decay_steps = 80, .total_steps = 100};
    assert_true(schedule_rate(&brief, 50) == 1 && fabs(schedule_rate(&brief, 75) - 0.55) < 1e-12);
    s.warmup_steps = 0; /* no division by zero, and the peak at once */
    assert_true(schedule_rate(&s, 1) == 1);
}

/* ---- options ------------------------------------------------------------------------------------------------------ */

static void test_bad_options(void **state) {
    (void)state;
    static const char *const row[][2] = {
        {"--out r", "--data"},
        {"--data d", "--out"},
        {"--data d --out r --seq-len 12x", "--seq-len"},
        {"--data d --out r --seq-len 99999999999999999999", "--seq-len"},
        {"--data d --out r --batch 0", "--batch"},
        {"--data d --out r --stesp 3", "--steps"},
        {"--data d --out r --steps 3 --epochs 2", "--epochs"},
        {"--data d --out r --model huge", "--model"},
        {"--data d --out r --world 4", "--dry-run"},
        {"--data d --out r --decay-steps 4", "--schedule wsd"},
        {"--data d --out r --learning-rate nan", "--learning-rate"},
        {"--data d --out r --schedule linear", "--schedule"},
        {"--data d --out r stray", "stray"},
    };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        TrainOptions o;
        Err err;
        char text[256];
        snprintf(text, sizeof text, "%s", row[i][0]);
        Status s = parse(&o, text, &err);
        if (s != ERR_USAGE || !strstr(err.msg, row[i][1])) fail_msg("'%s': status %d, %s", row[i][0], s, err.msg);
    }
}

static void test_batch_splits(void **state) {
    (void)state;
    static const struct {
        const char *flags;
        int         world;
        int64_t     tokens, micro_batch; /* 0: refused */
        const char *hint;
    } row[] = {
        {"--batch 8 --seq-len 512", 1, 1024, 2, ""},           {"--batch 8 --seq-len 512", 2, 4096, 4, ""},
        {"--batch 18 --seq-len 256", 2, 1024, 3, ""},          {"--batch 8 --seq-len 8192", 2, 4096, 1, ""},
        {"--batch 10", 4, 1024, 0, "--batch 8 or --batch 12"}, {"--batch 3", 4, 1024, 0, "--batch 4"},
        {"--batch 8 --micro-batch 2", 4, 1024, 2, ""},         {"--batch 10 --micro-batch 2", 4, 1024, 0, "--batch 8 or --batch 16"},
    };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        TrainOptions o;
        Err err;
        char text[256];
        snprintf(text, sizeof text, "--data d --out r %s", row[i].flags);
        CHECK(parse(&o, text, &err));
        Status s = options_split_batch(&o, row[i].world, row[i].tokens, &err);
        if (s != (row[i].micro_batch ? OK : ERR_USAGE) || (!s && o.micro_batch != row[i].micro_batch) || !strstr(err.msg, row[i].hint))
            fail_msg("'%s' on %d: status %d, micro batch %lld, %s", row[i].flags, row[i].world, s, (long long)o.micro_batch, err.msg);
    }
}

static void test_plan(void **state) {
    (void)state;
    TrainOptions o;
    Err err;
    char epochs[] = "--data d --out r --epochs 2.5 --batch 8", warmup[] = "--data d --out r --steps 10 --warmup-steps 11";
    CHECK(parse(&o, epochs, &err));
    CHECK(options_plan(&o, 101, &err));
    assert_int_equal(o.steps, 32); /* ceil(2.5 * 101 / 8) */
    assert_int_equal(o.warmup_steps, 1);
    assert_int_equal(o.checkpoint_every, 4);
    assert_int_equal(o.eval_every, 4);
    CHECK(parse(&o, warmup, &err));
    assert_int_equal(options_plan(&o, 0, &err), ERR_USAGE);
}

/* One pass a step: gradients lend their memory.  Half the rows in two passes can take more, and is not said to fit then. */
static void test_memory_plan(void **state) {
    (void)state;
    char flags[] = "--data d --out r --model nano --batch 16 --micro-batch 8 --seq-len 64", msg[256];
    Device *dev = device_open(DEVICE_CPU, 0, 1, msg, sizeof msg);
    const Place place = {.dev = dev, .dtype = DTYPE_F32, .sharers = 1};
    TrainOptions o;
    ModelConfig cfg;
    Err err = {OK, ""};
    MemoryPlan one, two;
    CHECK(parse(&o, flags, &err));
    CHECK(options_model(&o, 62, &cfg, &err));
    for (int level = RECOMPUTE_NONE; level <= RECOMPUTE_BLOCK; level++) {
        CHECK(memory_plan(&one, &o, &cfg, &place, 2, (PassShape){8, (Recompute)level}, &err));
        CHECK(memory_plan(&two, &o, &cfg, &place, 1, (PassShape){8, (Recompute)level}, &err));
        const double bytes = (double)acts_bytes(&cfg, DTYPE_F32, 8 * 64, 1, (Recompute)level);
        assert_true(one.lent > 0 && one.activations + one.lent == bytes);
        assert_true(two.lent == 0 && two.activations == bytes);
        assert_true(one.all == one.weights + one.gradients + one.moments + one.exchange + one.activations + one.scratch);
        assert_int_equal(options_passes(&o, 2), 1);
        assert_int_equal(options_passes(&o, 1), 2);
    }
    o.batch = 8;
    CHECK(memory_plan(&one, &o, &cfg, &place, 1, (PassShape){8, RECOMPUTE_BLOCK}, &err));
    CHECK(memory_plan(&two, &o, &cfg, &place, 1, (PassShape){4, RECOMPUTE_BLOCK}, &err));
    for (double available = 0.5 * one.all; available < 1.5 * one.all; available += 0.01 * one.all) {
        const int64_t fits = memory_fit(&o, &cfg, &place, 1, RECOMPUTE_BLOCK, available);
        assert_int_equal(fits == 8, one.all <= available);
        if (fits == 4) assert_true(two.all <= available);
    }
    device_close(dev);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_schedules),
        cmocka_unit_test(test_bad_options),
        cmocka_unit_test(test_batch_splits),
        cmocka_unit_test(test_plan),
        cmocka_unit_test(test_memory_plan),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
