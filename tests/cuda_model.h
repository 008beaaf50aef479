/* cuda_model.h - for tests of whole models on a GPU (or the emulator): devices, a shape, adapters. */
#ifndef EHR_TESTS_CUDA_MODEL_H
#define EHR_TESTS_CUDA_MODEL_H
#include "model/model.h"
#include "tests/cuda_check.h"

#define CHECK(call)                                                                                                    \
    do {                                                                                                               \
        if (call) fail_msg("%s: %s", #call, err.msg);                                                                  \
    } while (0)

/* Skips the test, with the reason, where there is no GPU. */
static inline Device *open_gpu(void) {
    char msg[512];
    Device *dev = device_open(DEVICE_CUDA, 0, 0, msg, sizeof msg);
    if (!dev) {
        print_message("skip - %s\n", msg);
        skip();
    }
    return dev;
}

static inline Device *open_cpu(void) {
    char msg[512];
    Device *dev = device_open(DEVICE_CPU, 0, 1, msg, sizeof msg);
    if (!dev) fail_msg("%s", msg);
    return dev;
}

static inline void check_device(Device *dev) {
    if (device_sync(dev)) fail_msg("%s", device_error(dev));
}

static const ModelConfig SHAPE = {.n_layers = 2,
                                  .d_model = 128,
                                  .n_heads = 2,
                                  .n_kv_heads = 1,
                                  .head_dim = 64,
                                  .d_ff = 192,
                                  .vocab_size = 200,
                                  .seq_len = 128,
                                  .tied = 1,
                                  .rope_theta = 10000,
                                  .rms_eps = 1e-6,
                                  .init_std = 0.05};

/* For what takes many passes. */
static inline ModelConfig small_shape(void) {
    ModelConfig cfg = SHAPE;
    cfg.n_layers = 1;
    cfg.d_model = 64;
    cfg.n_heads = 1;
    cfg.d_ff = 64;
    cfg.vocab_size = 64;
    return cfg;
}

static inline void *download(Device *dev, const void *src, size_t bytes) {
    void *out = xmalloc(bytes);
    device_download(dev, out, src, bytes);
    check_device(dev);
    return out;
}

static const LoraConfig NO_ADAPTERS = {.rank = 0}, ADAPTERS = {.rank = 8, .targets = LORA_ALL, .alpha = 12};

#endif
