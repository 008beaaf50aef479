/* model_check.h - small models, batches and gradients of them on the host, and the gradient check by finite differences in
 * double. */
#ifndef EHR_TESTS_MODEL_CHECK_H
#define EHR_TESTS_MODEL_CHECK_H
#include "kernels/philox.h"
#include "model/model.h"
#include "tests/make_batch.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

/* ---- fixtures ---------------------------------------------------------------------------------------------------- */

static const ModelConfig TINY __attribute__((unused)) = {.n_layers = 2,
                                 .d_model = 24,
                                 .n_heads = 4,
                                 .n_kv_heads = 2,
                                 .head_dim = 8,
                                 .d_ff = 40,
                                 .vocab_size = 70,
                                 .seq_len = 256,
                                 .rope_theta = 100,
                                 .rms_eps = 1e-6,
                                 .init_std = 0.3};
static const ModelConfig WIDE __attribute__((unused)) = {.n_layers = 2,
                                 .d_model = 96,
                                 .n_heads = 4,
                                 .n_kv_heads = 2,
                                 .head_dim = 64,
                                 .d_ff = 160,
                                 .vocab_size = 300,
                                 .seq_len = 256,
                                 .rope_theta = 10000,
                                 .rms_eps = 1e-6,
                                 .init_std = 0.1};
/* Every row of the activations fits into its host (activations.c), as in models that people train. */
static const ModelConfig ROOMY __attribute__((unused)) = {.n_layers = 2,
                                 .d_model = 32,
                                 .n_heads = 4,
                                 .n_kv_heads = 2,
                                 .head_dim = 8,
                                 .d_ff = 72,
                                 .vocab_size = 70,
                                 .seq_len = 256,
                                 .rope_theta = 100,
                                 .rms_eps = 1e-6,
                                 .init_std = 0.3};

static inline Device *open_device(int threads) {
    char msg[256] = "";
    Device *dev = device_open(DEVICE_CPU, 0, threads, msg, sizeof msg);
    if (!dev) fail_msg("%s", msg);
    return dev;
}

static inline void check_device(Device *dev) {
    if (device_sync(dev)) fail_msg("%s", device_error(dev));
}

/* Random weights, norms and B of adapters included: at their initial 1 and 0 a wrong gradient could hide. */
static inline void open_model(Model *m, Device *dev, const ModelConfig *shape, int tied, DType dtype) {
    Err err = {OK, ""};
    ModelConfig cfg = *shape;
    cfg.tied = tied;
    if (model_open(m, &cfg, dev, dtype, 16, &err)) fail_msg("%s", err.msg);
    float *w = xmalloc((size_t)m->table.total * sizeof *w);
    params_init(w, &m->table, &m->cfg, 7);
    for (int i = 0; i < m->table.n; i++) {
        const ParamSpec *s = &m->table.spec[i];
        for (int64_t k = 0; s->init == INIT_ONE && k < s->count; k++)
            w[s->offset + k] = (float)(0.6 + 0.8 * uniform(philox_hash(s->name), (uint64_t)k));
        for (int64_t k = 0; s->init == INIT_LORA_B && k < s->count; k++)
            w[s->offset + k] = (float)(uniform(philox_hash(s->name), (uint64_t)k) - 0.5);
    }
    model_set_weights(m, w, 0, m->table.total);
    free(w);
}

static inline Acts *open_acts(const Model *m, int N, int training, Recompute level) {
    Err err = {OK, ""};
    Acts *a;
    if (acts_open(&a, m, N, training, level, &err)) fail_msg("%s", err.msg);
    return a;
}

static inline size_t real_size(const Model *m) {
    return m->dtype == DTYPE_F64 ? 8 : 4;
}

/* Gradient arena on the device, bound to *grad; free with close_grad. */
static inline void *open_grad(const Model *m, Params *grad) {
    Err err;
    void *arena = device_alloc(m->dev, (size_t)m->table.total * real_size(m));
    assert_non_null(arena);
    assert_int_equal(params_bind(grad, &m->table, &m->cfg, arena, m->dtype, &err), OK);
    return arena;
}

static inline void close_grad(const Model *m, Params *grad, void *arena) {
    params_unbind(grad);
    device_free(m->dev, arena);
}

static inline void *download(const Model *m, const void *src, size_t bytes) {
    void *out = xmalloc(bytes);
    device_download(m->dev, out, src, bytes);
    check_device(m->dev);
    return out;
}

static inline double *losses(Model *m, Acts *a, const Batch *b) {
    model_upload(m, a, b);
    model_forward(m, a);
    model_loss(m, a, NULL);
    double *out = xmalloc((size_t)b->N * sizeof *out);
    void *raw = download(m, acts_losses(a), (size_t)b->N * real_size(m));
    for (int n = 0; n < b->N; n++) out[n] = m->dtype == DTYPE_F64 ? ((double *)raw)[n] : ((float *)raw)[n];
    free(raw);
    return out;
}

static inline double loss_sum(Model *m, Acts *a, const Batch *b) {
    double *l = losses(m, a, b), sum = 0;
    for (int n = 0; n < b->N; n++) sum += l[n];
    free(l);
    return sum;
}

/* Gradient of the sum of losses of one batch, on the host (bytes of the whole arena). */
static inline void *gradient(Model *m, const Batch *b, Recompute level) {
    Params grad;
    Acts *a = open_acts(m, b->N, 1, level);
    void *arena = open_grad(m, &grad);
    model_upload(m, a, b);
    model_forward(m, a);
    model_loss(m, a, &grad);
    model_backward(m, a, &grad, NULL, NULL);
    void *out = download(m, arena, (size_t)m->table.total * real_size(m));
    close_grad(m, &grad, arena);
    acts_close(a);
    return out;
}

/* ---- gradients --------------------------------------------------------------------------------------------------- */

/* d loss / d (step along `direction` of row s), by a central difference of fourth order. */
static inline double slope(Model *m, Acts *a, const Batch *b, const ParamSpec *s, const double *direction, double h) {
    static const double at[4] = {1, -1, 2, -2}, weight[4] = {8, -8, -1, 1};
    double *w = download(m, (double *)m->w_arena + s->offset, (size_t)s->count * 8);
    double *moved = xmalloc((size_t)s->count * 8), sum = 0;
    for (int i = 0; i < 4; i++) {
        for (int64_t k = 0; k < s->count; k++) moved[k] = w[k] + at[i] * h * direction[k];
        device_upload(m->dev, (double *)m->w_arena + s->offset, moved, (size_t)s->count * 8);
        sum += weight[i] * loss_sum(m, a, b);
    }
    device_upload(m->dev, (double *)m->w_arena + s->offset, w, (size_t)s->count * 8);
    free(moved);
    free(w);
    return sum / (12 * h);
}

/* Along a random direction through the whole row, and along its largest and three random elements. */
static inline void check_row(Model *m, Acts *a, const Batch *b, const ParamSpec *s, const double *grad) {
    enum { DIRECTIONS = 5 };
    double *d = xmalloc((size_t)s->count * sizeof *d);
    const int64_t used = s->file_rows * s->cols;
    int64_t largest = 0;
    for (int64_t k = 0; k < used; k++)
        if (fabs(grad[k]) > fabs(grad[largest])) largest = k;
    assert_true(fabs(grad[largest]) > 1e-3); /* a gradient is there at all */
    for (int64_t k = used; k < s->count; k++) assert_true(grad[k] == 0);
    for (int i = 0; i < DIRECTIONS; i++) {
        double analytic = 0, size = 0;
        memset(d, 0, (size_t)s->count * sizeof *d);
        if (i == 0)
            for (int64_t k = 0; k < used; k++) d[k] = uniform(philox_hash(s->name) + 1, (uint64_t)k) < 0.5 ? -1 : 1;
        else
            d[i == 1 ? largest : (int64_t)(uniform(philox_hash(s->name) + 2, (uint64_t)i) * (double)used)] = 1;
        for (int64_t k = 0; k < used; k++) {
            analytic += grad[k] * d[k];
            size += d[k] * d[k];
        }
        const double numeric = slope(m, a, b, s, d, 1e-3 / sqrt(size));
        const double error = fabs(numeric - analytic) / fmax(fabs(analytic), 1e-3 * fabs(grad[largest]));
        if (!(error < 1e-6))
            fail_msg("%s, direction %d: analytic %.12g, numeric %.12g, relative error %.2g", s->name, i, analytic,
                     numeric, error);
    }
    free(d);
}

#endif
