/* optimizer.c - see optimizer.h. */
#include "train/optimizer.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

void optimizer_part(const Optimizer *o, int bucket, int64_t *begin, int64_t *count) {
    const int64_t *offset = o->model->table.bucket_offset;
    *count = (offset[bucket + 1] - offset[bucket]) / dist_world(o->dist);
    *begin = offset[bucket] + dist_rank(o->dist) * *count;
}

/* Start of a bucket in the arenas of own parts. */
static int64_t part_start(const Optimizer *o, int bucket) {
    return o->model->table.bucket_offset[bucket] / dist_world(o->dist);
}

/* Own part of a bucket's weights in float. */
static float *master_part(const Optimizer *o, int bucket) {
    int64_t begin, count;
    optimizer_part(o, bucket, &begin, &count);
    return o->master ? o->master + part_start(o, bucket) : (float *)o->model->w_arena + begin;
}

/* The trainable elements of own part of a bucket, neighbours with the same decay joined. */
static void ranges_build(Optimizer *o, int bucket) {
    const ParamTable *t = &o->model->table;
    int64_t begin, count;
    optimizer_part(o, bucket, &begin, &count);
    AdamwRange *range = xcalloc((size_t)t->n, sizeof *range);
    int n = 0;
    for (int i = 0; i < t->n; i++) {
        const ParamSpec *p = &t->spec[i];
        if (p->bucket != bucket || !p->trainable) continue;
        int64_t from = p->offset > begin ? p->offset : begin;
        int64_t to = p->offset + p->count < begin + count ? p->offset + p->count : begin + count;
        if (from >= to) continue;
        AdamwRange *last = n ? &range[n - 1] : NULL;
        if (last && last->decay == p->decay && last->offset + last->count == from - begin)
            last->count += to - from;
        else
            range[n++] = (AdamwRange){from - begin, to - from, p->decay};
    }
    o->ranges[bucket] = range;
    o->n_ranges[bucket] = n;
}

Status optimizer_open(Optimizer *o, Model *model, Dist *dist, const OptimizerOptions *options, Err *err) {
    const ParamTable *t = &model->table;
    int world = dist_world(dist), own_master = model->dtype != DTYPE_F32;
    REQUIRE(model->dtype == DTYPE_F32 || model->dtype == DTYPE_BF16);
    *o = (Optimizer){.options = *options, .model = model, .dist = dist};
    size_t total = (size_t)t->trained * sizeof(float), part = total / (size_t)world;
    o->grad = device_alloc(model->dev, total);
    o->grad_part = world == 1 ? o->grad : device_alloc(model->dev, part);
    o->m = device_alloc(model->dev, part);
    o->v = device_alloc(model->dev, part);
    o->master = own_master ? device_alloc(model->dev, part) : NULL;
    o->step_scalars = device_alloc(model->dev, sizeof *o->step_scalars);
    o->norm = device_alloc(model->dev, sizeof *o->norm);
    o->ranges = xcalloc((size_t)t->n_buckets, sizeof *o->ranges);
    o->n_ranges = xcalloc((size_t)t->n_buckets, sizeof *o->n_ranges);
    Status s = OK;
    if (!o->grad || !o->grad_part || !o->m || !o->v || (own_master && !o->master) || !o->step_scalars || !o->norm)
        s = err_set(err, ERR_NOMEM, "%s has no memory for gradients and optimizer state (%.2f GB): use more ranks or a smaller "
                                    "--model", device_name(model->dev), 1e-9 * (double)(total + (3 + (size_t)own_master) * part));
    if (!s) s = params_bind(&o->grads, t, &model->cfg, o->grad, DTYPE_F32, err);
    for (int b = 0; !s && b < t->n_buckets; b++) {
        REQUIRE((t->bucket_offset[b + 1] - t->bucket_offset[b]) % world == 0);
        ranges_build(o, b);
    }
    if (s) optimizer_close(o);
    return s;
}

void optimizer_close(Optimizer *o) {
    if (!o->model) return;
    Device *dev = o->model->dev;
    for (int b = 0; o->ranges && b < o->model->table.n_buckets; b++) free(o->ranges[b]);
    free(o->ranges);
    free(o->n_ranges);
    params_unbind(&o->grads);
    if (o->grad_part != o->grad) device_free(dev, o->grad_part);
    device_free(dev, o->grad);
    device_free(dev, o->m);
    device_free(dev, o->v);
    device_free(dev, o->master);
    device_free(dev, o->step_scalars);
    device_free(dev, o->norm);
    *o = (Optimizer){0};
}

void optimizer_set_master(Optimizer *o, const float *host, int64_t begin, int64_t count) {
    for (int b = 0; o->master && b < o->model->table.n_buckets; b++) {
        int64_t own, n;
        optimizer_part(o, b, &own, &n);
        const int64_t lo = own > begin ? own : begin, hi = own + n < begin + count ? own + n : begin + count;
        if (lo < hi)
            device_upload(o->model->dev, o->master + part_start(o, b) + (lo - own), host + (lo - begin), (size_t)(hi - lo) * sizeof *host);
    }
}

void optimizer_init(Optimizer *o, uint64_t seed) {
    enum { PIECE = 1 << 22 };
    const Model *m = o->model;
    if (!o->master) return;
    float *host = xmalloc(PIECE * sizeof *host);
    for (int b = 0; b < m->table.n_buckets; b++) {
        int64_t begin, count;
        optimizer_part(o, b, &begin, &count);
        for (int64_t at = 0; at < count; at += PIECE) {
            int64_t n = count - at < PIECE ? count - at : PIECE;
            params_init_part(host, &m->table, &m->cfg, seed, begin + at, n);
            optimizer_set_master(o, host, begin + at, n);
        }
    }
    free(host);
}

void optimizer_zero_grad(Optimizer *o) {
    device_zero(o->model->dev, o->grad, (size_t)o->model->table.trained * sizeof *o->grad);
}

void optimizer_reduce_bucket(void *optimizer, int bucket) {
    Optimizer *o = optimizer;
    const int64_t *offset = o->model->table.bucket_offset;
    if (dist_world(o->dist) == 1 || offset[bucket] == offset[bucket + 1]) return; /* all of it may be frozen */
    dist_reduce_scatter(o->dist, o->grad_part + part_start(o, bucket), o->grad + offset[bucket],
                        offset[bucket + 1] - offset[bucket]);
    dist_progress(o->dist);
}

void optimizer_queue_norm(Optimizer *o) {
    Model *m = o->model;
    device_zero(m->dev, o->norm, sizeof *o->norm);
    m->k->sum_squares(m->dev, o->norm, o->grad_part, m->table.trained / dist_world(o->dist));
}

double optimizer_norm(Optimizer *o) {
    double sum = NAN;
    device_download(o->model->dev, &sum, o->norm, sizeof sum);
    return sum;
}

void optimizer_update(Optimizer *o, double learning_rate, double grad_scale, int64_t update) {
    Model *m = o->model;
    const int64_t *offset = m->table.bucket_offset;
    const size_t element = dtype_size(m->dtype);
    AdamwStep step = {.learning_rate = (float)learning_rate,
                      .beta1 = (float)o->options.beta1,
                      .beta2 = (float)o->options.beta2,
                      .eps = (float)o->options.eps,
                      .weight_decay = (float)o->options.weight_decay,
                      .grad_scale = (float)grad_scale,
                      .step = (int32_t)(update < INT32_MAX ? update : INT32_MAX)};
    device_upload(m->dev, o->step_scalars, &step, sizeof step);
    /* The norm read ascending: what it read last is still in the caches. */
    for (int b = m->table.n_buckets - 1; b >= 0; b--) {
        int64_t begin, count, at = part_start(o, b);
        optimizer_part(o, b, &begin, &count);
        if (!count) continue;
        char *weights = m->w_arena;
        m->k->adamw(m->dev, master_part(o, b), o->master ? weights + (size_t)begin * element : NULL, o->m + at, o->v + at,
                    o->grad_part + at, o->ranges[b], o->n_ranges[b], o->step_scalars);
        if (dist_world(o->dist) == 1) continue;
        dist_all_gather(o->dist, weights + (size_t)offset[b] * element, offset[b + 1] - offset[b], element);
        dist_progress(o->dist);
    }
}

Status optimizer_write(const Optimizer *o, const char *dir, Err *err) {
    const ParamTable *t = &o->model->table;
    ArenaSlice *slice = xcalloc(3 * (size_t)t->n_buckets, sizeof *slice);
    ArenaSlice *master = slice, *m = slice + t->n_buckets, *v = m + t->n_buckets;
    for (int b = 0; b < t->n_buckets; b++) {
        int64_t begin, count, at = part_start(o, b);
        optimizer_part(o, b, &begin, &count);
        master[b] = (ArenaSlice){master_part(o, b), begin, count};
        m[b] = (ArenaSlice){o->m + at, begin, count};
        v[b] = (ArenaSlice){o->v + at, begin, count};
    }
    Status s = checkpoint_write_slices(dir, t, o->model->dev, master, m, v, t->n_buckets, err);
    free(slice);
    return s;
}

Status optimizer_read(Optimizer *o, const char *dir, Err *err) {
    const ParamTable *t = &o->model->table;
    Device *dev = o->model->dev;
    Status s = OK;
    for (int b = 0; !s && b < t->n_buckets; b++) {
        int64_t begin, count, at = part_start(o, b);
        optimizer_part(o, b, &begin, &count);
        s = checkpoint_read_slice(dir, t, "exp_avg", dev, o->m + at, begin, count, err);
        if (!s) s = checkpoint_read_slice(dir, t, "exp_avg_sq", dev, o->v + at, begin, count, err);
        if (!s && o->master) s = checkpoint_read_slice(dir, t, "model", dev, o->master + at, begin, count, err);
    }
    return s;
}
