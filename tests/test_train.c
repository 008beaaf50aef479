/* test_train.c - the rooms of ehr-train one by one: schedule, options, optimizer, step, baselines, evaluation, state, log.
 * `test_train --make-dataset DIR N` writes the small dataset that tests/test_train_cli.sh trains on. */
#include "tests/make_dataset.h"
#include "train/baseline.h"
#include "train/dist_transport.h"
#include "train/evaluate.h"
#include "train/metrics.h"
#include "train/parent.h"
#include "train/schedule.h"
#include "train/state.h"
#include "train/step.h"
#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <unistd.h>
#include <cmocka.h>

static char   folder[4096], data_dir[4200];
static Device *dev;
static Dist   *dist;

static int setup(void **state) {
    (void)state;
    char msg[256];
    Err err = {OK, ""};
    const char *tmp = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/ehr-train-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(folder)) return -1;
    snprintf(data_dir, sizeof data_dir, "%s/data", folder);
    make_dataset(data_dir, 60, 5);
    dev = device_open(DEVICE_CPU, 0, 1, msg, sizeof msg);
    return !dev || dist_open(&dist, "none", 1, &err);
}

static int teardown(void **state) {
    (void)state;
    dist_close(dist);
    device_close(dev);
    made_remove(folder);
    return 0;
}

#define CHECK(call)                                                                                                             \
    do {                                                                                                                        \
        if (call) fail_msg("%s: %s", #call, err.msg);                                                                           \
    } while (0)

static void open_model(Model *m, int vocab_size, int64_t pad) {
    Err err = {OK, ""};
    ModelConfig cfg;
    CHECK(config_preset(&cfg, "nano", &err));
    cfg.n_layers = 2;
    cfg.d_model = 64;
    cfg.n_heads = cfg.n_kv_heads = 1;
    cfg.d_ff = 48;
    cfg.seq_len = 64;
    cfg.vocab_size = vocab_size;
    CHECK(model_open(m, &cfg, dev, DTYPE_F32, pad, &err));
    model_init(m, 3);
}

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
    s.warmup_steps = 0; /* no division by zero, and the peak at once */
    assert_true(schedule_rate(&s, 1) == 1);
}

/* ---- options ------------------------------------------------------------------------------------------------------ */

/* Splits a command line at spaces; the pieces live as long as text. */
static Status parse(TrainOptions *o, char *text, Err *err) {
    char *argv[32];
    int argc = 0;
    for (char *piece; (piece = strsep(&text, " "));)
        if (*piece) argv[argc++] = piece;
    *err = (Err){OK, ""};
    return options_parse(o, argc, argv, err);
}

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

/* ---- optimizer ---------------------------------------------------------------------------------------------------- */

/* One update of every element against the formula in double; padding and frozen parameters stay as they are. */
static void test_update_is_adamw(void **state) {
    (void)state;
    Model m;
    Optimizer o;
    Err err = {OK, ""};
    OptimizerOptions options = {.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1};
    open_model(&m, 62, 16);
    int frozen = param_find(&m.table, "layers.1.attn.qkv");
    assert_true(frozen >= 0);
    m.table.spec[frozen].trainable = 0;
    CHECK(optimizer_open(&o, &m, dist, &options, &err));
    size_t n = (size_t)m.table.total;
    float *before = xmalloc(n * sizeof *before), *w = m.w_arena;
    memcpy(before, w, n * sizeof *before);
    double squares = 0;
    for (size_t i = 0; i < n; i++) {
        o.grad[i] = (float)sin(0.1 * (double)i);
        squares += (double)o.grad[i] * (double)o.grad[i];
    }
    optimizer_queue_norm(&o);
    assert_true(fabs(optimizer_norm(&o) / squares - 1) < 1e-9);
    optimizer_update(&o, 0.01, 0.5, 1);
    for (int p = 0; p < m.table.n; p++) {
        const ParamSpec *s = &m.table.spec[p];
        for (int64_t i = s->offset; i < s->offset + s->count; i++) {
            double g = 0.5 * (double)o.grad[i], x = (double)before[i];
            /* After one step the corrected moments are g and g^2. */
            double want = s->trainable ? x - 0.01 * (g / (fabs(g) + 1e-8) + (s->decay ? 0.1 * x : 0)) : x;
            if (fabs((double)w[i] - want) > 1e-6 * (fabs(want) + 0.01)) fail_msg("%s: element %lld is %g, not %g", s->name, (long long)(i - s->offset), (double)w[i], want);
        }
    }
    free(before);
    optimizer_close(&o);
    model_close(&m);
}

/* With any number of ranks the parts are a partition, and every trainable element is updated by exactly one rank. */
static void test_parts_are_a_partition(void **state) {
    (void)state;
    Dist *one;
    Err err = {OK, ""};
    OptimizerOptions options = {.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8};
    CHECK(dist_open(&one, "none", 1, &err));
    for (int world = 1; world <= 7; world += 3) {
        Model m;
        open_model(&m, 62, 16 * world);
        int *seen = xcalloc((size_t)m.table.total, sizeof *seen), *updated = xcalloc((size_t)m.table.total, sizeof *updated);
        for (int rank = 0; rank < world; rank++) {
            Optimizer o;
            one->launch.rank = rank;
            one->launch.world = world;
            CHECK(optimizer_open(&o, &m, one, &options, &err));
            for (int b = 0; b < m.table.n_buckets; b++) {
                int64_t begin, count;
                optimizer_part(&o, b, &begin, &count);
                for (int64_t i = 0; i < count; i++) seen[begin + i]++;
                for (int r = 0; r < o.n_ranges[b]; r++)
                    for (int64_t i = 0; i < o.ranges[b][r].count; i++) updated[begin + o.ranges[b][r].offset + i] += 1 + o.ranges[b][r].decay;
            }
            optimizer_close(&o);
        }
        for (int64_t i = 0; i < m.table.total; i++) assert_int_equal(seen[i], 1);
        int64_t total = 0;
        for (int p = 0; p < m.table.n; p++)
            for (int64_t i = 0; i < m.table.spec[p].count; i++, total++)
                assert_int_equal(updated[m.table.spec[p].offset + i], 1 + m.table.spec[p].decay);
        for (int64_t i = 0; i < m.table.total; i++) total -= updated[i] > 0;
        assert_int_equal(total, 0); /* padding is in no range */
        free(seen);
        free(updated);
        model_close(&m);
    }
    one->launch = (Launch){.world = 1, .local_size = 1};
    dist_close(one);
}

/* Any number of ranks writes the same bytes, and reads its parts of the moments back. */
static void test_files_do_not_depend_on_ranks(void **state) {
    (void)state;
    static const char *const names[] = {"model.safetensors", "optimizer-00001-of-00001.safetensors"};
    Err err = {OK, ""};
    OptimizerOptions options = {.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8};
    char *vocabulary = made_vocabulary_json(), *first[2] = {NULL}, *text;
    size_t first_size[2], size;
    for (int world = 1; world <= 3; world++) {
        Model m;
        Optimizer o;
        char dir[4300], path[4400];
        open_model(&m, 62, 16 * world);
        snprintf(dir, sizeof dir, "%s/ranks-%d.tmp", folder, world);
        CHECK(checkpoint_begin(dir, &m.cfg, &m.table, vocabulary, "{}", 1, 0, &err));
        for (int reading = 0; reading < 2; reading++)
            for (int rank = 0; rank < world; rank++) {
                dist->launch = (Launch){.rank = rank, .world = world, .local_size = 1};
                CHECK(optimizer_open(&o, &m, dist, &options, &err));
                if (reading) CHECK(optimizer_read(&o, dir, &err));
                for (int p = 0; p < m.table.n; p++) {
                    const ParamSpec *s = &m.table.spec[p];
                    int64_t begin, count, at = m.table.bucket_offset[s->bucket] / world;
                    optimizer_part(&o, s->bucket, &begin, &count);
                    for (int64_t i = 0; i < s->file_rows * s->cols; i++) {
                        int64_t k = s->offset + i - begin;
                        float mean = (float)(p + 1e-3 * (double)(i % 997)), square = (float)(p + 1e-3 * (double)(i % 991));
                        if (k < 0 || k >= count) continue;
                        if (!reading) {
                            o.m[at + k] = mean;
                            o.v[at + k] = square;
                        } else if (o.m[at + k] != mean || o.v[at + k] != square) {
                            fail_msg("%d ranks: %s, element %lld was not read back", world, s->name, (long long)i);
                        }
                    }
                }
                if (!reading) CHECK(optimizer_write(&o, dir, &err));
                optimizer_close(&o);
            }
        for (int f = 0; f < 2; f++) {
            snprintf(path, sizeof path, "%s/%s", dir, names[f]);
            CHECK(file_read(path, 1 << 28, &text, &size, &err));
            if (world == 1) {
                first[f] = text;
                first_size[f] = size;
                continue;
            }
            if (size != first_size[f] || memcmp(text, first[f], size)) fail_msg("%d ranks write another %s", world, names[f]);
            free(text);
        }
        model_close(&m);
    }
    dist->launch = (Launch){.world = 1, .local_size = 1};
    free(first[0]);
    free(first[1]);
    free(vocabulary);
}

/* ---- a parent ----------------------------------------------------------------------------------------------------- */

/* The vocabulary of d with `more` diagnoses after its last token. */
static void longer_vocabulary(Vocabulary *v, const Dataset *d, int more) {
    Err err = {OK, ""};
    json_t *o = json_loads(d->vocabulary.json, 0, NULL), *tokens = json_object_get(o, "tokens");
    for (int i = 0; i < more; i++) {
        char code[32];
        snprintf(code, sizeof code, "ICD10CM//Z%02d", i);
        json_array_append_new(tokens, json_pack("{s:i,s:s,s:s,s:s,s:s}", "id", d->vocabulary.n + i, "code", code, "kind", "event",
                                                "event_kind", "diagnosis", "name", ""));
    }
    char *text = json_dumps(o, JSON_COMPACT);
    CHECK(vocabulary_parse(v, text, strlen(text), "longer", &err));
    json_decref(o);
    free(text);
}

/* A parent that lacks tokens: its rows come over, the missing ones are as a fresh model has them, on any rank. */
static void test_parent_with_fewer_tokens(void **state) {
    (void)state;
    enum { MORE = 3, RANKS = 2 };
    Err err = {OK, ""};
    Dataset d, longer;
    Model parent, m, fresh;
    Parent p;
    OptimizerOptions options = {.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8};
    char dir[4200], tmp[4300];
    CHECK(dataset_open(&d, data_dir, &err));
    longer = d;
    longer_vocabulary(&longer.vocabulary, &d, MORE);
    const int V = longer.vocabulary.n;
    open_model(&parent, V - MORE, 16);
    snprintf(dir, sizeof dir, "%s/parent", folder);
    snprintf(tmp, sizeof tmp, "%s.tmp", dir);
    ArenaSlice all = {parent.w_arena, 0, parent.table.total};
    model_init(&parent, 77);
    CHECK(checkpoint_begin(tmp, &parent.cfg, &parent.table, d.vocabulary.json, "{}", 0, 0, &err));
    CHECK(checkpoint_write_slices(tmp, &parent.table, dev, &all, NULL, NULL, 1, &err));
    CHECK(checkpoint_commit(tmp, dir, &err));
    CHECK(parent_open(&p, dir, 1, &err));
    assert_true(p.checked && !p.provenance);
    CHECK(parent_check(&p, &longer, &err));
    assert_true(p.compared);
    for (int rank = 0; rank < RANKS; rank++) {
        Optimizer o;
        open_model(&m, V, 16 * RANKS);
        open_model(&fresh, V, 16 * RANKS);
        model_init(&fresh, 5);
        dist->launch = (Launch){.rank = rank, .world = RANKS, .local_size = RANKS};
        CHECK(optimizer_open(&o, &m, dist, &options, &err));
        CHECK(parent_weights(&p, &m, &o, 5, &err));
        for (int i = 0; i < m.table.n; i++) {
            const ParamSpec *s = &m.table.spec[i], *t = &parent.table.spec[i];
            const float *got = (float *)m.w_arena + s->offset, *old = (float *)parent.w_arena + t->offset;
            const float *fill = (float *)fresh.w_arena + s->offset;
            for (int64_t k = 0; k < s->file_rows * s->cols; k++)
                if (got[k] != (k < t->file_rows * t->cols ? old[k] : fill[k])) fail_msg("rank %d: %s[%lld]", rank, s->name, (long long)k);
        }
        optimizer_close(&o);
        model_close(&m);
        model_close(&fresh);
    }
    dist->launch = (Launch){.world = 1, .local_size = 1};
    parent_close(&p);
    model_close(&parent);
    vocabulary_free(&longer.vocabulary);
    dataset_close(&d);
}

/* ---- step --------------------------------------------------------------------------------------------------------- */

typedef struct {
    Dataset   data;
    Model     model;
    Optimizer optimizer;
    Acts     *acts;
    Loader   *loader;
    Stepper   stepper;
} Rig;

static void rig_open(Rig *r, int rows, int passes) {
    Err err = {OK, ""};
    OptimizerOptions options = {.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1, .clip = 1};
    LoaderOptions lo = {.rows = rows, .T = 64, .seed = 9, .shuffle = 1, .world = 1};
    CHECK(dataset_open(&r->data, data_dir, &err));
    open_model(&r->model, r->data.vocabulary.n, 16);
    CHECK(optimizer_open(&r->optimizer, &r->model, dist, &options, &err));
    CHECK(acts_open(&r->acts, &r->model, rows * 64, 1, RECOMPUTE_NONE, &err));
    CHECK(loader_open(&r->loader, &r->data, SPLIT_TRAIN, &lo, &err));
    CHECK(stepper_open(&r->stepper, &r->model, r->acts, &r->optimizer, r->loader, passes, rows * 64, &err));
}

static void rig_close(Rig *r) {
    stepper_close(&r->stepper);
    loader_close(r->loader);
    acts_close(r->acts);
    optimizer_close(&r->optimizer);
    model_close(&r->model);
    dataset_close(&r->data);
}

static void test_accumulation_changes_nothing(void **state) {
    (void)state;
    double loss[3], norm[3];
    int64_t targets[3];
    for (int k = 0; k < 3; k++) {
        static const int rows[] = {4, 2, 1};
        Rig r;
        Err err = {OK, ""};
        StepResult result;
        rig_open(&r, rows[k], 4 / rows[k]);
        CHECK(stepper_run(&r.stepper, 1e-3, 1, 0, &result, &err));
        CHECK(stepper_run(&r.stepper, 1e-3, 2, k == 1, &result, &err));
        assert_false(result.skipped);
        assert_int_equal(result.stop, k == 1);
        loss[k] = result.loss;
        norm[k] = result.grad_norm;
        targets[k] = result.targets;
        rig_close(&r);
    }
    for (int k = 1; k < 3; k++) {
        assert_int_equal(targets[k], targets[0]);
        if (fabs(loss[k] - loss[0]) > 1e-5 || fabs(norm[k] - norm[0]) > 1e-4 * norm[0])
            fail_msg("loss %.9g %.9g, norm %.9g %.9g", loss[0], loss[k], norm[0], norm[k]);
    }
}

static void test_steps_learn(void **state) {
    (void)state;
    Rig r;
    Err err = {OK, ""};
    StepResult first, last;
    rig_open(&r, 4, 1);
    CHECK(stepper_run(&r.stepper, 3e-3, 1, 0, &first, &err));
    for (int i = 2; i <= 30; i++) CHECK(stepper_run(&r.stepper, 3e-3, i, 0, &last, &err));
    if (first.loss < 3.8 || last.loss > first.loss - 1) fail_msg("loss went from %g to %g", first.loss, last.loss);
    rig_close(&r);
}

static void test_non_finite_step_is_skipped(void **state) {
    (void)state;
    Rig r;
    Err err = {OK, ""};
    StepResult result;
    rig_open(&r, 2, 1);
    float *w = r.model.w_arena;
    size_t n = (size_t)r.model.table.total;
    w[r.model.table.spec[param_find(&r.model.table, "layers.0.attn.qkv")].offset + 5] = NAN;
    float *before = xmalloc(n * sizeof *before);
    memcpy(before, w, n * sizeof *before);
    CHECK(stepper_run(&r.stepper, 1e-3, 1, 0, &result, &err));
    assert_true(result.skipped);
    assert_memory_equal(before, w, n * sizeof *before);
    for (size_t i = 0; i < n; i++) assert_true(r.optimizer.m[i] == 0 && r.optimizer.v[i] == 0);
    free(before);
    rig_close(&r);
}

/* What went wrong on the device ends the step, with the operation's name; the weights stay. */
static void test_device_error_ends_the_step(void **state) {
    (void)state;
    char msg[256];
    Rig r;
    Err err = {OK, ""};
    StepResult result;
    Device *before = dev, *broken = device_open(DEVICE_CPU, 0, 1, msg, sizeof msg);
    dev = broken;
    rig_open(&r, 2, 2);
    CHECK(stepper_run(&r.stepper, 1e-3, 1, 0, &result, &err));
    device_fail(broken, "attention_forward", "an illegal memory access was encountered");
    assert_int_equal(stepper_run(&r.stepper, 1e-3, 2, 0, &result, &err), ERR_DEVICE);
    assert_non_null(strstr(err.msg, "attention_forward: an illegal memory access"));
    rig_close(&r);
    device_close(broken);
    dev = before;
}

/* ---- baselines and evaluation ------------------------------------------------------------------------------------- */

static void test_baselines(void **state) {
    (void)state;
    Dataset d;
    Baseline b;
    Err err = {OK, ""};
    CHECK(dataset_open(&d, data_dir, &err));
    CHECK(baseline_open(&b, &d, 1000000, &err));
    int V = d.vocabulary.n;
    double *count = xcalloc((size_t)V, sizeof *count), total = 0, pairs = 0, after_visit = 0;
    for (int64_t row = 0; row < d.n_patients[SPLIT_TRAIN]; row++) {
        PatientView p;
        CHECK(dataset_patient(&d, SPLIT_TRAIN, row, &p, &err));
        for (int64_t i = 0; i < p.n; i++) {
            count[patient_token(&p, i)] += 1;
            total += 1;
            after_visit += i > 0 && patient_token(&p, i - 1) == MADE_VISIT;
            pairs += i > 0 && patient_token(&p, i - 1) == MADE_VISIT && patient_token(&p, i) == MADE_COMPLAINT;
        }
    }
    double p_complaint = (count[MADE_COMPLAINT] + 0.5) / (total + 0.5 * V);
    assert_true(fabs(baseline_unigram(&b, MADE_COMPLAINT, MADE_COMPLAINT + 1) + log(p_complaint)) < 1e-12);
    assert_true(fabs(baseline_bigram(&b, MADE_VISIT, MADE_COMPLAINT, MADE_COMPLAINT + 1) + log((pairs + 5 * p_complaint) / (after_visit + 5))) < 1e-12);
    assert_true(fabs(baseline_unigram(&b, 0, V)) < 1e-12); /* both are laws: all ids together are certain */
    for (int u = 0; u < V; u++) assert_true(fabs(baseline_bigram(&b, u, 0, V)) < 1e-12);
    free(count);
    baseline_close(&b);
    dataset_close(&d);
}

static void evaluate_with(Dataset *d, Model *m, int rows, int64_t max_tokens, Evaluation *out) {
    Evaluator e;
    Acts *acts;
    Err err = {OK, ""};
    CHECK(acts_open(&acts, m, rows * 64, 1, RECOMPUTE_NONE, &err));
    CHECK(evaluator_open(&e, d, dist, rows, 64, max_tokens, &err));
    CHECK(evaluator_run(&e, m, acts, out, &err));
    Evaluation again;
    CHECK(evaluator_run(&e, m, acts, &again, &err));
    assert_true(again.loss == out->loss && again.targets == out->targets && again.patient_years == out->patient_years);
    evaluator_close(&e);
    acts_close(acts);
}

static void test_evaluation(void **state) {
    (void)state;
    Dataset d;
    Model m;
    Evaluation all, one, some;
    Err err = {OK, ""};
    CHECK(dataset_open(&d, data_dir, &err));
    open_model(&m, d.vocabulary.n, 16);
    evaluate_with(&d, &m, 3, 0, &all);
    evaluate_with(&d, &m, 1, 0, &one);
    evaluate_with(&d, &m, 3, 64, &some); /* one row */
    double events = 0, years = 0;
    int64_t P = d.n_patients[SPLIT_TUNING];
    for (int64_t row = 0; row < P; row++) {
        PatientView p;
        CHECK(dataset_patient(&d, SPLIT_TUNING, row, &p, &err));
        for (int64_t i = 0; i < p.n; i++) events += d.vocabulary.token[patient_token(&p, i)].kind != TOKEN_GAP;
        years += p.observation_end / 525960.0;
    }
    assert_int_equal(all.patients, P);
    assert_int_equal(all.events, events);
    assert_int_equal(all.targets, loader_targets(&d, SPLIT_TUNING, &err));
    /* Windows of long patients may leave out the time between them, never count any twice. */
    if (all.patient_years > years * (1 + 1e-9) || all.patient_years < 0.8 * years) fail_msg("%g patient-years of %g", all.patient_years, years);
    assert_true(fabs(all.loss * (double)all.targets / events - all.per_event) < 1e-9);
    assert_int_equal(one.targets, all.targets);
    assert_true(fabs(one.loss - all.loss) < 1e-12); /* a row's losses do not depend on the batch */
    assert_true(some.targets < all.targets && some.targets > 0 && some.targets <= 64);
    assert_true(all.loss_bigram < all.loss_unigram && all.loss_bigram > 0);
    assert_int_equal(all.known, 0);
    assert_true(isnan(all.excess) && isnan(all.loss_floor));
    model_close(&m);
    dataset_close(&d);
}

/* A dataset whose oracle says what the model itself says plus 0.25 nats on every second patient: then the excess and its
 * standard error are known. */
static void test_excess_is_paired_and_clustered(void **state) {
    (void)state;
    enum { P = 12, TOKENS = 10 };
    MadePatient patient[P];
    MadeSplit split[SPLIT_COUNT] = {{0}};
    char dir[4300];
    Dataset d;
    Model m;
    Evaluation e;
    Err err = {OK, ""};
    for (int i = 0; i < P; i++) {
        memset(&patient[i], 0, sizeof patient[i]);
        patient[i].key = (uint64_t)i + 1;
        patient[i].statics[0] = MADE_SEX_F;
        patient[i].statics[1] = 40;
        patient[i].group[0] = 1;
        for (int t = 0; t < TOKENS; t++) made_push(&patient[i], t == TOKENS - 1 ? MADE_DEATH : MADE_EVENT + (uint32_t)(t + i) % 15, t);
        patient[i].observation_end = TOKENS - 1;
        patient[i].oracle_logp = xcalloc(TOKENS, sizeof(float));
    }
    split[SPLIT_TRAIN] = split[SPLIT_TUNING] = (MadeSplit){patient, P};
    snprintf(dir, sizeof dir, "%s/oracle", folder);
    /* All weights zero: every id is equally likely, loss = log(62) wherever one looks. */
    for (int i = 0; i < P; i++)
        for (int t = 0; t < TOKENS; t++) patient[i].oracle_logp[t] = t == 3 ? NAN : (float)(-log(MADE_VOCABULARY) + (i % 2 ? 0.25 : 0));
    made_write(dir, split, 1, "test");
    CHECK(dataset_open(&d, dir, &err));
    open_model(&m, d.vocabulary.n, 16);
    memset(m.w_arena, 0, (size_t)m.table.total * sizeof(float));
    evaluate_with(&d, &m, 2, 0, &e);
    assert_int_equal(e.known, P * (TOKENS - 1));
    assert_int_equal(e.targets, P * TOKENS);
    assert_true(fabs(e.loss - log(MADE_VOCABULARY)) < 1e-5);
    assert_true(fabs(e.excess - 0.125) < 1e-5 && fabs(e.loss_known - e.loss_floor - e.excess) < 1e-9);
    /* Residual of each patient +-0.125 * 9 tokens: se = sqrt(12 * 1.125^2 * 12/11) / 108. */
    assert_true(fabs(e.excess_se - sqrt(12 * 1.125 * 1.125 * 12 / 11) / 108) < 1e-5);
    model_close(&m);
    dataset_close(&d);
    for (int i = 0; i < P; i++) made_patient_free(&patient[i]);
}

/* ---- state and log ------------------------------------------------------------------------------------------------ */

static void write_text(const char *dir, const char *name, const char *text) {
    Err err = {OK, ""};
    char path[8192];
    CHECK(dir_make(dir, &err));
    snprintf(path, sizeof path, "%s/%s", dir, name);
    CHECK(file_write(path, text, strlen(text), &err));
}

static void test_state_round_trip(void **state) {
    (void)state;
    Dataset d;
    TrainOptions o;
    TrainState s = {.step = 20, .updates = 19, .targets_seen = 12345, .skipped_in_row = 1, .cursor = {3, 4, 5}, .best_step = 10, .best_loss = 1.25}, back;
    Err err = {OK, ""};
    char run[4200], dir[4300], text[16384];
    CHECK(dataset_open(&d, data_dir, &err));
    snprintf(run, sizeof run, "%s/run", folder);
    snprintf(dir, sizeof dir, "%s/step-20", run);
    snprintf(text, sizeof text, "--data d --out %s --steps 40", run);
    CHECK(parse(&o, text, &err));
    CHECK(options_plan(&o, 0, &err));
    char *json = state_json(&s, &o, &d);
    write_text(dir, "trainer.json", json);
    free(json);
    CHECK(state_read(&back, dir, &o, &d, &err));
    assert_int_equal(back.step, 20);
    assert_int_equal(back.updates, 19);
    assert_int_equal(back.targets_seen, 12345);
    assert_int_equal(back.skipped_in_row, 1);
    assert_memory_equal(&back.cursor, &s.cursor, sizeof s.cursor);
    assert_int_equal(back.best_step, 10);
    assert_true(back.best_loss == 1.25 && !back.parent);
    train_state_free(&back);

    /* From another run folder the checkpoint is the parent. */
    const char *out = o.out;
    o.out = folder;
    CHECK(state_read(&back, dir, &o, &d, &err));
    assert_string_equal(back.parent, "run/step-20");
    assert_int_equal(back.best_step, 0); /* that one lies in the other folder */
    train_state_free(&back);
    o.out = out;

    o.seed = 2; /* another order of patients */
    assert_int_equal(state_read(&back, dir, &o, &d, &err), ERR_USAGE);
    assert_non_null(strstr(err.msg, "--seed"));
    o.seed = 1;
    d.sha256[0] ^= 1;
    assert_int_equal(state_read(&back, dir, &o, &d, &err), ERR_USAGE);
    assert_non_null(strstr(err.msg, "another dataset"));
    static const char *const bad[] = {"", "[1]", "{", "{\"step\": -1}", "{\"step\": \"x\"}", "{\"step\": 1, \"updates\": 1, \"targets_seen\": 1}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        write_text(dir, "trainer.json", bad[i]);
        assert_int_equal(state_read(&back, dir, &o, &d, &err), ERR_FORMAT);
        assert_non_null(strstr(err.msg, "trainer.json"));
    }
    dataset_close(&d);
}

static void test_where_to_start(void **state) {
    (void)state;
    TrainOptions o;
    Err err = {OK, ""};
    char run[4200], dir[4300], found[4096], text[16384];
    snprintf(run, sizeof run, "%s/start", folder);
    snprintf(text, sizeof text, "--data d --out %s", run);
    CHECK(parse(&o, text, &err));
    CHECK(state_find(&o, found, sizeof found, &err)); /* no folder yet */
    assert_string_equal(found, "");
    o.resume = "auto";
    CHECK(state_find(&o, found, sizeof found, &err));
    assert_string_equal(found, "");
    snprintf(dir, sizeof dir, "%s/step-20", run);
    write_text(dir, "trainer.json", "{}");
    write_text(dir, "config.json", "{}");
    CHECK(state_find(&o, found, sizeof found, &err));
    assert_string_equal(found, dir);
    o.resume = "none";
    assert_int_equal(state_find(&o, found, sizeof found, &err), ERR_USAGE);
    assert_non_null(strstr(err.msg, "--resume auto"));
    o.resume = dir;
    CHECK(state_find(&o, found, sizeof found, &err));
    assert_string_not_equal(found, "");
    o.resume = data_dir;
    assert_int_equal(state_find(&o, found, sizeof found, &err), ERR_USAGE);
    o.resume = "none";
    o.out = data_dir;
    assert_int_equal(state_find(&o, found, sizeof found, &err), ERR_USAGE);
    assert_non_null(strstr(err.msg, "a dataset"));
    snprintf(dir, sizeof dir, "%s/dataset.json", data_dir);
    o.out = dir;
    assert_int_equal(state_find(&o, found, sizeof found, &err), ERR_USAGE);
    assert_non_null(strstr(err.msg, "is a file"));
}

/* What a killed run logged after its last checkpoint is repeated by the next one and must not stand there twice. */
static void test_log_is_cut_back(void **state) {
    (void)state;
    Metrics m;
    Err err = {OK, ""};
    ModelConfig cfg = {0};
    char run[4200], path[4300], *text;
    snprintf(run, sizeof run, "%s/log", folder);
    write_text(run, "log.jsonl", "{\"run\":{}}\n{\"step\":19}\n{\"step\":20}\n{\"eval\":\"tuning\",\"step\":20}\n{\"step\":21}\n{\"step\":22,\"lo");
    CHECK(metrics_open(&m, run, 20, 40, &cfg, 0, json_object(), &err));
    metrics_close(&m);
    snprintf(path, sizeof path, "%s/log.jsonl", run);
    CHECK(file_read(path, 1 << 20, &text, NULL, &err));
    assert_string_equal(text, "{\"run\":{}}\n{\"step\":19}\n{\"step\":20}\n{\"eval\":\"tuning\",\"step\":20}\n{\"run\":{}}\n");
    free(text);
}

int main(int argc, char **argv) {
    if (argc == 4 && !strcmp(argv[1], "--make-dataset")) {
        make_dataset(argv[2], atoi(argv[3]), 5);
        return 0;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_schedules),
        cmocka_unit_test(test_bad_options),
        cmocka_unit_test(test_batch_splits),
        cmocka_unit_test(test_plan),
        cmocka_unit_test(test_update_is_adamw),
        cmocka_unit_test(test_parts_are_a_partition),
        cmocka_unit_test(test_files_do_not_depend_on_ranks),
        cmocka_unit_test(test_parent_with_fewer_tokens),
        cmocka_unit_test(test_accumulation_changes_nothing),
        cmocka_unit_test(test_steps_learn),
        cmocka_unit_test(test_non_finite_step_is_skipped),
        cmocka_unit_test(test_device_error_ends_the_step),
        cmocka_unit_test(test_baselines),
        cmocka_unit_test(test_evaluation),
        cmocka_unit_test(test_excess_is_paired_and_clustered),
        cmocka_unit_test(test_state_round_trip),
        cmocka_unit_test(test_where_to_start),
        cmocka_unit_test(test_log_is_cut_back),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
