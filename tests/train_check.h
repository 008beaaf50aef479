/* train_check.h - for tests of ehr-train's rooms: a folder with a small dataset, a CPU, one rank, a small model. */
#ifndef EHR_TESTS_TRAIN_CHECK_H
#define EHR_TESTS_TRAIN_CHECK_H
#include "tests/make_dataset.h"
#include "model/model.h"
#include "train/dist_transport.h"
#include "train/options.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <unistd.h>
#include <cmocka.h>

static char   folder[4096], data_dir[4200];
static Device *dev;
static Dist   *dist;

#define CHECK(call)                                                                                                             \
    do {                                                                                                                        \
        if (call) fail_msg("%s: %s", #call, err.msg);                                                                           \
    } while (0)

static inline int setup(void **state) {
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

static inline int teardown(void **state) {
    (void)state;
    dist_close(dist);
    device_close(dev);
    made_remove(folder);
    return 0;
}

static inline void open_model(Model *m, int vocab_size, int64_t pad) {
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

/* Splits a command line at spaces; the pieces live as long as text. */
static inline Status parse(TrainOptions *o, char *text, Err *err) {
    char *argv[32];
    int argc = 0;
    for (char *piece; (piece = strsep(&text, " "));)
        if (*piece) argv[argc++] = piece;
    *err = (Err){OK, ""};
    return options_parse(o, argc, argv, err);
}

#endif
