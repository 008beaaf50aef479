/* place.c - see place.h. */
#include "train/place.h"
#include <stdlib.h>
#include <string.h>

static Status open_gpu(Place *p, const TrainOptions *o, const Launch *launch, Err *err) {
    int gpus = device_count(DEVICE_CUDA), must = !strcmp(o->device, "cuda");
    char why[512];
    p->dev = device_open(DEVICE_CUDA, gpus ? launch->local_rank % gpus : 0, 0, why, sizeof why);
    if (!p->dev && must) return err_set(err, ERR_DEVICE, "--device cuda: %s", why);
    if (!p->dev) snprintf(p->why, sizeof p->why, "%s", gpus ? why : "");
    if (!p->dev) return OK;
    if (strcmp(o->matmul, "cublas")) return OK;
    return device_use_cublas(p->dev, why, sizeof why) ? err_set(err, ERR_DEVICE, "--matmul cublas: %s", why) : OK;
}

static Status choose_dtype(Place *p, const TrainOptions *o, Err *err) {
    int gpu = device_kind(p->dev) == DEVICE_CUDA;
    p->dtype = !strcmp(o->dtype, "bf16") || (!strcmp(o->dtype, "auto") && gpu) ? DTYPE_BF16 : DTYPE_F32;
    /* A dry run may plan for a machine that is not this one. */
    if (kernels_get(p->dev, p->dtype) || o->dry_run) return OK;
    return err_set(err, ERR_USAGE, "--dtype %s: %s does not compute in it; give --dtype f32, or --device cuda where there is a GPU",
                   o->dtype, device_name(p->dev));
}

static Status open_device(Place *p, TrainOptions *o, Err *err) {
    Launch launch;
    char why[512];
    launch_read(&launch);
    Status s = strcmp(o->device, "cpu") ? open_gpu(p, o, &launch, err) : OK;
    if (s) return s;
    if (!p->dev && !strcmp(o->matmul, "cublas"))
        return err_set(err, ERR_USAGE, "--matmul cublas needs a GPU, and none is used here: leave it at ehr");
    /* OMP_NUM_THREADS is a person's choice; without it ranks share the cores of their host. */
    int threads = (int)o->threads;
    if (!threads && !getenv("OMP_NUM_THREADS")) threads = dist_threads(&launch);
    if (!p->dev) p->dev = device_open(DEVICE_CPU, 0, threads, why, sizeof why);
    if (!p->dev) return err_set(err, ERR_DEVICE, "cannot open the CPU: %s", why);
    o->threads = device_threads(p->dev);
    return choose_dtype(p, o, err);
}

Status place_open(Place *p, TrainOptions *o, Dist *dist, Err *err) {
    *p = (Place){0};
    open_device(p, o, err);
    Status s = dist_agree(dist, err);
    if (!s) s = dist_attach(dist, p->dev, err);
    if (s) return s;
    size_t free_bytes, total_bytes;
    device_memory(p->dev, &free_bytes, &total_bytes);
    p->sharers = dist_sharers(dist);
    /* Of a shared GPU the others may have taken their part already. */
    double part = (double)total_bytes / p->sharers;
    p->available = p->sharers > 1 && part < (double)free_bytes ? part : (double)free_bytes;
    return OK;
}
