/* test_train.c - the optimizer and its parts over ranks, a parent, the training step.
 * `test_train --make-dataset DIR N` writes the small dataset that tests/test_train_cli.sh trains on. */
#include "tests/train_check.h"
#include "train/parent.h"
#include "train/step.h"

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
    /* After the second they remember the first. */
    float *first = xmalloc(n * sizeof *first), *grad = xmalloc(n * sizeof *grad);
    memcpy(first, w, n * sizeof *first);
    memcpy(grad, o.grad, n * sizeof *grad);
    for (size_t i = 0; i < n; i++) o.grad[i] = (float)cos(0.07 * (double)i);
    optimizer_update(&o, 0.02, 0.5, 2);
    for (int p = 0; p < m.table.n; p++) {
        const ParamSpec *s = &m.table.spec[p];
        for (int64_t i = s->offset; s->trainable && i < s->offset + s->count; i++) {
            double g1 = 0.5 * (double)grad[i], g2 = 0.5 * (double)o.grad[i], x = (double)first[i];
            double mean = 0.1 * (0.9 * g1 + g2) / (1 - 0.81), square = 0.05 * (0.95 * g1 * g1 + g2 * g2) / (1 - 0.9025);
            double want = x - 0.02 * (mean / (sqrt(square) + 1e-8) + (s->decay ? 0.1 * x : 0));
            if (fabs((double)w[i] - want) > 1e-5 * (fabs(want) + 0.02)) fail_msg("%s: element %lld is %g, not %g", s->name, (long long)(i - s->offset), (double)w[i], want);
        }
    }
    free(grad);
    free(first);
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

/* lent: as ehr-train with one pass a step. */
static void rig_open_with(Rig *r, int rows, int passes, int lent) {
    Err err = {OK, ""};
    OptimizerOptions options = {.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1, .clip = 1};
    LoaderOptions lo = {.rows = rows, .T = 64, .seed = 9, .shuffle = 1, .world = 1};
    CHECK(dataset_open(&r->data, data_dir, &err));
    open_model(&r->model, r->data.vocabulary.n, 16);
    CHECK(optimizer_open(&r->optimizer, &r->model, dist, &options, &err));
    if (lent) CHECK(acts_open_lent(&r->acts, &r->model, rows * 64, RECOMPUTE_NONE, r->optimizer.grad, &err));
    else CHECK(acts_open(&r->acts, &r->model, rows * 64, 1, RECOMPUTE_NONE, &err));
    CHECK(loader_open(&r->loader, &r->data, SPLIT_TRAIN, &lo, &err));
    CHECK(stepper_open(&r->stepper, &r->model, r->acts, &r->optimizer, r->loader, passes, rows * 64, &err));
}

static void rig_open(Rig *r, int rows, int passes) { rig_open_with(r, rows, passes, passes == 1); }

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

/* Steps with gradients that lend their memory to activations have the bits of steps whose gradients do not, also behind
 * a step that was skipped. */
static void test_lending_changes_nothing(void **state) {
    (void)state;
    enum { STEPS = 4, BROKEN = 2 };
    Rig r[2];
    StepResult result[2][STEPS + 1];
    Err err = {OK, ""};
    for (int lent = 0; lent < 2; lent++) {
        Rig *x = &r[lent];
        rig_open_with(x, 4, 1, lent);
        float *w = (float *)x->model.w_arena + x->model.table.spec[param_find(&x->model.table, "layers.0.mlp.down")].offset;
        for (int step = 1; step <= STEPS; step++) {
            const float before = *w;
            if (step == BROKEN) *w = INFINITY;
            CHECK(stepper_run(&x->stepper, 1e-3, step, 0, &result[lent][step], &err));
            assert_int_equal(result[lent][step].skipped, step == BROKEN);
            if (step == BROKEN) *w = before;
        }
    }
    const size_t bytes = (size_t)r[0].model.table.total * sizeof(float);
    assert_true(acts_lent_bytes(&r[1].model.cfg, &r[1].model.table, DTYPE_F32, 4 * 64, RECOMPUTE_NONE) > bytes / 4);
    for (int step = 1; step <= STEPS; step++)
        if (step != BROKEN)
            assert_true(result[0][step].loss == result[1][step].loss && result[0][step].grad_norm == result[1][step].grad_norm);
    assert_memory_equal(r[0].model.w_arena, r[1].model.w_arena, bytes);
    assert_memory_equal(r[0].optimizer.m, r[1].optimizer.m, bytes);
    assert_memory_equal(r[0].optimizer.v, r[1].optimizer.v, bytes);
    assert_memory_equal(r[0].optimizer.grad, r[1].optimizer.grad, bytes);
    for (int lent = 0; lent < 2; lent++) rig_close(&r[lent]);
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

int main(int argc, char **argv) {
    if (argc == 4 && !strcmp(argv[1], "--make-dataset")) {
        make_dataset(argv[2], atoi(argv[3]), 5);
        return 0;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_update_is_adamw),
        cmocka_unit_test(test_parts_are_a_partition),
        cmocka_unit_test(test_files_do_not_depend_on_ranks),
        cmocka_unit_test(test_parent_with_fewer_tokens),
        cmocka_unit_test(test_accumulation_changes_nothing),
        cmocka_unit_test(test_steps_learn),
        cmocka_unit_test(test_non_finite_step_is_skipped),
        cmocka_unit_test(test_lending_changes_nothing),
        cmocka_unit_test(test_device_error_ends_the_step),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
