/* test_train_state.c - where a run stands: state, the checkpoint to start from, the log and what is cut back from it. */
#include "tests/train_check.h"
#include "train/metrics.h"
#include "train/state.h"

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
    /* A checkpoint says what was done to its records, and whether some were planted. */
    char *told = d.json;
    json_t *with = json_loads(told, 0, NULL);
    json_object_set_new(json_object_get(with, "deidentification"), "rules", json_pack("[s]", "calendar"));
    for (int canaries = 0; canaries < 2; canaries++) {
        if (canaries) json_object_set_new(with, "canaries", json_object());
        d.json = json_dumps(with, 0);
        json = state_json(&s, &o, &d);
        json_t *trainer = json_loads(json, 0, NULL), *provenance = json_object_get(trainer, "provenance");
        assert_true(json_equal(json_object_get(provenance, "deidentification_record"), json_object_get(with, "deidentification")));
        assert_int_equal(json_is_true(json_object_get(provenance, "canaries")), canaries);
        json_decref(trainer);
        free(json);
        free(d.json);
    }
    json_decref(with);
    d.json = told;
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
    d.sha256[0] ^= 1;
    d.vocabulary.sha256[0] ^= 1; /* the ids would mean other things */
    assert_int_equal(state_read(&back, dir, &o, &d, &err), ERR_USAGE);
    assert_non_null(strstr(err.msg, "another vocabulary"));
    d.vocabulary.sha256[0] ^= 1;
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

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_state_round_trip),
        cmocka_unit_test(test_where_to_start),
        cmocka_unit_test(test_log_is_cut_back),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
