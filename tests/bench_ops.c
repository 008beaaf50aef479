/* bench_ops.c - every operation of a table of kernels at the presets' shapes: time, arithmetic or memory rate, and the
 * share of what this card was measured to do.
 *
 * The card's measures: memory by copying a gigabyte from place to place; arithmetic in bf16 by cuBLASLt's best square
 * product where that library is there (otherwise the data sheet says).  Products are also timed over cuBLASLt, one
 * after the other within the same second.  An operation is recorded twenty times in a row and launched as a whole, so
 * that launches cost nothing; data is random, because zeros let a card run faster than it does. */
#include "kernels/kernels.h"
#include "kernels/philox.h"
#include "model/base.h"
#include "model/config.h"
#include "model/flags.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SLOTS = 12, RECORDED = 20, SAMPLES = 5 };

typedef struct {
    Device *dev, *rival; /* rival: the same card with cuBLASLt, or NULL */
    const KernelOps *k, *rival_k;
    DType dtype;
    void *slot[SLOTS];
    size_t slot_bytes[SLOTS];
    double memory_peak, flops_peak; /* a second */
    int quick, csv;
    FILE *out;
} Bench;

/* One shape of one operation. */
typedef struct {
    const char *preset;
    int N, C, F, H, G, D, V, n_seq;
    int rows, cols; /* of a product */
    Device *dev;    /* where it runs */
    const KernelOps *k;
    Weight w;
    int64_t count;
    PagedBatch paged;
    SampleSpec spec;
} Case;

/* ---- memory ------------------------------------------------------------------------------------------------------ */

static uint16_t bf16_bits(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

/* Device memory of at least `bytes` full of random numbers of type t around 0; kept from case to case. */
static void *random_slot(Bench *b, int i, size_t bytes, DType t) {
    enum { PATTERN = 1 << 20 };
    if (bytes > b->slot_bytes[i]) {
        device_free(b->dev, b->slot[i]);
        b->slot[i] = device_alloc(b->dev, bytes);
        b->slot_bytes[i] = bytes;
        if (!b->slot[i]) {
            fprintf(stderr, "bench_ops: no %.1f GB of memory left on %s\n", 1e-9 * (double)bytes, device_name(b->dev));
            exit(1);
        }
    }
    char *host = xmalloc(PATTERN * 4);
    for (int n = 0; n < PATTERN; n++) {
        const Philox4 r = philox4x32(7, (uint64_t)n, (uint64_t)i);
        float x = (float)(philox_uniform(r, 0) + philox_uniform(r, 1) - 1.0);
        if (t == DTYPE_BF16) ((uint16_t *)(void *)host)[n] = bf16_bits(x);
        else ((float *)(void *)host)[n] = x;
    }
    size_t size = PATTERN * dtype_size(t);
    for (size_t at = 0; at < bytes; at += size)
        device_upload(b->dev, (char *)b->slot[i] + at, host, bytes - at < size ? bytes - at : size);
    free(host);
    return b->slot[i];
}

static void *uploaded(Bench *b, int i, const void *host, size_t bytes) {
    void *p = random_slot(b, i, bytes, DTYPE_F32);
    device_upload(b->dev, p, host, bytes);
    return p;
}

/* Integers below `limit`, or 0, 1, 2, ... where it is 0. */
static int32_t *integers(Bench *b, int i, int n, int limit) {
    int32_t *host = xmalloc((size_t)n * sizeof *host);
    for (int k = 0; k < n; k++) host[k] = limit ? (int32_t)(philox4x32(3, (uint64_t)k, 1).v[0] % (uint32_t)limit) : k;
    int32_t *p = uploaded(b, i, host, (size_t)n * sizeof *host);
    free(host);
    return p;
}

/* Ends of n_seq sequences of equal length; `per` = what each holds. */
static int32_t *ends(Bench *b, int i, int n_seq, int per) {
    int32_t *host = xmalloc(((size_t)n_seq + 1) * sizeof *host);
    for (int s = 0; s <= n_seq; s++) host[s] = s * per;
    int32_t *p = uploaded(b, i, host, ((size_t)n_seq + 1) * sizeof *host);
    free(host);
    return p;
}

/* ---- time -------------------------------------------------------------------------------------------------------- */

typedef void (*Body)(Bench *b, const Case *c);

static int ascending(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static void check(Device *dev, const char *what) {
    if (!device_sync(dev)) return;
    fprintf(stderr, "bench_ops: %s: %s\n", what, device_error(dev));
    exit(1);
}

/* Median seconds of one. */
static double seconds_of(Bench *b, const char *what, Body body, const Case *c) {
    double sample[SAMPLES];
    int n = b->quick ? 2 : RECORDED, launches = 1;
    body(b, c);
    check(c->dev, what);
    int recorded = !device_record(c->dev);
    DeviceGraph *graph = NULL;
    if (recorded) {
        for (int i = 0; i < n; i++) body(b, c);
        graph = device_record_end(c->dev);
        check(c->dev, what);
    }
    for (int s = -1; s < SAMPLES; s++) {
        double start = clock_s();
        for (int l = 0; l < launches; l++) {
            if (graph) device_graph_launch(c->dev, graph);
            else
                for (int i = 0; i < n; i++) body(b, c);
        }
        check(c->dev, what);
        double took = clock_s() - start;
        if (s >= 0) sample[s] = took / (launches * n);
        else if (!b->quick && took < 0.02)
            launches = (int)(0.02 / took) + 1; /* so that waiting at the end is nothing */
    }
    device_graph_free(c->dev, graph);
    qsort(sample, SAMPLES, sizeof *sample, ascending);
    return sample[SAMPLES / 2];
}

static void header(const Bench *b) {
    if (b->csv) fprintf(b->out, "preset,operation,shape,us,tflops,gbs,percent,bound,cublaslt_us\n");
    else
        printf("%-6s %-34s %-30s %10s %9s %8s %6s %s\n", "preset", "operation", "shape", "us", "TFLOP/s", "GB/s",
               "of card", "  x cuBLASLt");
}

static void row(Bench *b, const char *name, const char *shape, Body body, Case *c, double flops, double bytes) {
    c->dev = b->dev;
    c->k = b->k;
    double us = 1e6 * seconds_of(b, name, body, c), rival_us = 0;
    if (b->rival && !strncmp(name, "matmul", 6)) {
        c->dev = b->rival;
        c->k = b->rival_k;
        rival_us = 1e6 * seconds_of(b, name, body, c);
    }
    double tflops = flops / us * 1e-6, gbs = bytes / us * 1e-3;
    double of_flops = b->flops_peak > 0 ? 1e12 * tflops / b->flops_peak : 0;
    double of_memory = b->memory_peak > 0 ? 1e9 * gbs / b->memory_peak : 0;
    double share = 100 * (of_flops > of_memory ? of_flops : of_memory);
    const char *bound = of_flops > of_memory ? "arithmetic" : "memory";
    if (b->csv) {
        fprintf(b->out, "%s,%s,%s,%.2f,%.2f,%.1f,%.1f,%s,%.2f\n", c->preset, name, shape, us, tflops, gbs, share, bound,
                rival_us);
        fflush(b->out);
    }
    printf("%-6s %-34s %-30s %10.1f %9.1f %8.0f %5.0f%% ", c->preset, name, shape, us, tflops, gbs, share);
    if (rival_us > 0) printf("%10.2f", rival_us / us);
    printf("\n");
    fflush(stdout);
}

/* ---- products ---------------------------------------------------------------------------------------------------- */

enum { X, W, OUT, RESIDUAL, GATE_UP, GRAD, LO, HI, AUX, MORE, IDS, CU };

static void do_forward(Bench *b, const Case *c) { c->k->matmul_forward(c->dev, b->slot[OUT], b->slot[X], &c->w, c->N); }
static void do_logits(Bench *b, const Case *c) { c->k->logits_forward(c->dev, b->slot[OUT], b->slot[X], &c->w, c->N); }
static void do_add(Bench *b, const Case *c) {
    c->k->matmul_add_forward(c->dev, b->slot[OUT], b->slot[RESIDUAL], b->slot[X], &c->w, c->N);
}
static void do_swiglu(Bench *b, const Case *c) {
    c->k->matmul_swiglu_forward(c->dev, b->slot[OUT], b->slot[GATE_UP], b->slot[X], &c->w, c->N);
}
static void do_dgrad(Bench *b, const Case *c) { c->k->matmul_dgrad(c->dev, b->slot[X], b->slot[OUT], &c->w, c->N); }
static void do_wgrad(Bench *b, const Case *c) {
    c->k->matmul_wgrad(c->dev, b->slot[GRAD], b->slot[OUT], b->slot[X], c->N, c->rows, c->cols);
}

static void product(Bench *b, Case *c, const char *what, int rows, int cols, Body forward, const char *forward_name) {
    const double N = c->N, e = (double)dtype_size(b->dtype), flops = 2 * N * rows * cols;
    const double matrix = e * rows * cols, in = e * N * cols, out = e * N * rows;
    char name[64], shape[64];
    c->rows = rows, c->cols = cols;
    random_slot(b, X, (size_t)in, b->dtype);
    random_slot(b, OUT, (size_t)out, b->dtype);
    if (forward == do_add) random_slot(b, RESIDUAL, (size_t)out, b->dtype);
    if (forward == do_swiglu) random_slot(b, GATE_UP, (size_t)out, b->dtype);
    random_slot(b, GRAD, 4 * (size_t)rows * (size_t)cols, DTYPE_F32);
    c->w = (Weight){random_slot(b, W, (size_t)matrix, b->dtype), b->dtype, NULL, rows, cols, WEIGHT_ROWS};
    snprintf(shape, sizeof shape, "%d x %d x %d", c->N, rows, cols);
    snprintf(name, sizeof name, "%s %s", forward_name, what);
    double extra = forward == do_add ? out : forward == do_swiglu ? out / 2 : 0;
    row(b, name, shape, forward, c, flops, in + matrix + out + extra);
    snprintf(name, sizeof name, "matmul_dgrad %s", what);
    row(b, name, shape, do_dgrad, c, flops, in + matrix + out);
    snprintf(name, sizeof name, "matmul_wgrad %s", what);
    row(b, name, shape, do_wgrad, c, flops, in + out + 8.0 * rows * cols);
}

static void products(Bench *b, Case *c) {
    product(b, c, "qkv", (c->H + 2 * c->G) * c->D, c->C, do_forward, "matmul_forward");
    product(b, c, "attn_out", c->C, c->H * c->D, do_add, "matmul_add_forward");
    product(b, c, "gate_up", 2 * c->F, c->C, do_swiglu, "matmul_swiglu_forward");
    product(b, c, "down", c->C, c->F, do_add, "matmul_add_forward");
}

/* Few rows, as in decoding, where reading the weights is the work; and the same with weights of a byte. */
static void decoding(Bench *b, Case *c) {
    const int rows = 2 * c->F, cols = c->C, N = c->N;
    for (int batch = 1; batch <= 256; batch *= 16) {
        char shape[64];
        const double e = (double)dtype_size(b->dtype), io = e * batch * (rows + cols);
        c->N = batch;
        random_slot(b, X, (size_t)(e * batch * cols), b->dtype);
        random_slot(b, OUT, (size_t)(e * batch * rows), b->dtype);
        c->w =
            (Weight){random_slot(b, W, (size_t)(e * rows * cols), b->dtype), b->dtype, NULL, rows, cols, WEIGHT_ROWS};
        snprintf(shape, sizeof shape, "%d x %d x %d", batch, rows, cols);
        row(b, "matmul_forward gate_up", shape, do_forward, c, 2.0 * batch * rows * cols, e * rows * cols + io);
        size_t bytes = b->k->weight_prepared_bytes(b->dev, rows, cols, DTYPE_I8);
        if (!bytes) continue;
        Weight plain = c->w;
        b->k->weight_prepare(b->dev, &c->w, random_slot(b, AUX, bytes, DTYPE_F32), DTYPE_I8, &plain);
        row(b, "int8 gate_up", shape, do_forward, c, 2.0 * batch * rows * cols, 1.0 * rows * cols + io);
    }
    c->N = N;
}

static void do_classifier(Bench *b, const Case *c) {
    c->k->classifier(c->dev, b->slot[AUX], b->slot[OUT], b->slot[GRAD], b->slot[X], &c->w, b->slot[LO], b->slot[HI],
                     c->N, c->V);
}
static void classifier(Bench *b, Case *c) {
    const int Vp = (c->V + 63) / 64 * 64;
    const double e = (double)dtype_size(b->dtype), N = c->N;
    char shape[64];
    int32_t *range = xmalloc(((size_t)c->N + 1) * sizeof *range);
    for (int n = 0; n < c->N; n++) range[n] = (int32_t)(philox4x32(3, (uint64_t)n, 1).v[0] % (uint32_t)(c->V - 1));
    uploaded(b, LO, range, (size_t)c->N * sizeof *range);
    for (int n = 0; n < c->N; n++) range[n]++;
    uploaded(b, HI, range, (size_t)c->N * sizeof *range);
    free(range);
    random_slot(b, X, (size_t)(e * N * c->C), b->dtype);
    random_slot(b, OUT, (size_t)(e * N * c->C), b->dtype);
    random_slot(b, AUX, (size_t)(4 * N), DTYPE_F32);
    random_slot(b, GRAD, 4 * (size_t)Vp * (size_t)c->C, DTYPE_F32);
    c->w = (Weight){random_slot(b, W, (size_t)(e * Vp * c->C), b->dtype), b->dtype, NULL, Vp, c->C, WEIGHT_ROWS};
    snprintf(shape, sizeof shape, "%d x %d x %d", c->N, c->V, c->C);
    row(b, "classifier, with gradients", shape, do_classifier, c, 6 * N * Vp * c->C,
        2 * e * N * c->C + (e + 8) * Vp * c->C + 10 * N * Vp);
    random_slot(b, OUT, (size_t)(4 * N * Vp), DTYPE_F32);
    row(b, "logits_forward head", shape, do_logits, c, 2 * N * Vp * c->C, e * (N + Vp) * c->C + 4 * N * Vp);
}

/* ---- attention --------------------------------------------------------------------------------------------------- */

static void do_attention(Bench *b, const Case *c) {
    c->k->attention_forward(c->dev, b->slot[OUT], b->slot[AUX], b->slot[X], b->slot[W], b->slot[CU], c->n_seq, c->N,
                            c->H, c->G, c->D);
}
static void do_attention_backward(Bench *b, const Case *c) {
    c->k->attention_backward(c->dev, b->slot[GRAD], b->slot[GATE_UP], b->slot[RESIDUAL], b->slot[X], b->slot[W],
                             b->slot[OUT], b->slot[AUX], b->slot[CU], c->n_seq, c->N, c->H, c->G, c->D);
}
/* T tokens a sequence; arithmetic counts what lies under the diagonal only. */
static void attention(Bench *b, Case *c, int T) {
    const double e = (double)dtype_size(b->dtype), N = c->N, D = c->D;
    const size_t qk = (size_t)(e * N * (c->H + c->G) * D), qkv = (size_t)(e * N * (c->H + 2 * c->G) * D);
    const size_t out = (size_t)(e * N * c->H * D);
    const double flops = 4 * N * (T + 1) / 2 * c->H * D;
    char shape[64];
    c->n_seq = c->N / T;
    random_slot(b, X, qk, b->dtype);
    random_slot(b, W, qkv, b->dtype);
    random_slot(b, OUT, out, b->dtype);
    random_slot(b, AUX, (size_t)(4 * N * c->H), DTYPE_F32);
    random_slot(b, GRAD, qk, b->dtype);
    random_slot(b, GATE_UP, qkv, b->dtype);
    random_slot(b, RESIDUAL, out, b->dtype);
    ends(b, CU, c->n_seq, T);
    snprintf(shape, sizeof shape, "%d x %d, H %d G %d D %d", c->n_seq, T, c->H, c->G, c->D);
    row(b, "attention_forward", shape, do_attention, c, flops, (double)(qkv + out));
    row(b, "attention_backward", shape, do_attention_backward, c, 2.5 * flops, (double)(2 * qkv + 3 * out));
}

static void do_paged(Bench *b, const Case *c) {
    c->k->attention_paged(c->dev, b->slot[OUT], b->slot[X], &c->paged, c->N, c->H, c->G, c->D);
}
/* A step of decoding: samples of patients, each with a prefix of its own that its samples share. */
static void paged(Bench *b, Case *c, int patients, int samples, int shared_pages, int own_pages) {
    const int N = c->N, n = patients * samples, pages = shared_pages + own_pages;
    const double e = (double)dtype_size(b->dtype), page = 2 * e * c->G * KV_PAGE * c->D;
    int32_t *table = xmalloc((size_t)n * (size_t)pages * sizeof *table), *len = xmalloc((size_t)n * sizeof *len);
    int32_t *groups = xmalloc((size_t)patients * sizeof *groups);
    for (int s = 0; s < n; s++) {
        for (int p = 0; p < pages; p++)
            table[s * pages + p] = p < shared_pages ? s / samples * shared_pages + p
                                                    : patients * shared_pages + s * own_pages + p - shared_pages;
        len[s] = pages * KV_PAGE;
    }
    for (int g = 0; g < patients; g++) groups[g] = shared_pages;
    const double n_pages = (double)patients * shared_pages + (double)n * own_pages;
    c->N = n;
    random_slot(b, X, (size_t)(e * n * (c->H + c->G) * c->D), b->dtype);
    random_slot(b, OUT, (size_t)(e * n * c->H * c->D), b->dtype);
    c->paged = (PagedBatch){.pool = random_slot(b, W, (size_t)(n_pages * page), b->dtype),
                            .q_offset = ends(b, CU, n, 1),
                            .kv_len = uploaded(b, LO, len, (size_t)n * sizeof *len),
                            .block_table = uploaded(b, HI, table, (size_t)n * (size_t)pages * sizeof *table),
                            .n_seq = n,
                            .max_blocks = pages,
                            .group_offset = ends(b, IDS, patients, samples),
                            .group_shared = uploaded(b, MORE, groups, (size_t)patients * sizeof *groups),
                            .n_group = patients};
    char shape[64];
    snprintf(shape, sizeof shape, "%d x %d, %d + %d keys", patients, samples, shared_pages * KV_PAGE,
             own_pages * KV_PAGE);
    row(b, "attention_paged", shape, do_paged, c, 4.0 * n * pages * KV_PAGE * c->H * c->D, n_pages * page);
    free(table);
    free(len);
    free(groups);
    c->N = N;
}

/* ---- rows -------------------------------------------------------------------------------------------------------- */

static void do_embedding(Bench *b, const Case *c) {
    c->k->embedding_forward(c->dev, b->slot[OUT], b->slot[IDS], b->slot[W], c->N, c->C);
}
static void do_embedding_backward(Bench *b, const Case *c) {
    c->k->embedding_backward(c->dev, b->slot[GRAD], b->slot[OUT], b->slot[IDS], c->N, c->C, c->V);
}
static void do_rmsnorm(Bench *b, const Case *c) {
    c->k->rmsnorm_forward(c->dev, b->slot[OUT], b->slot[AUX], b->slot[X], b->slot[MORE], 1e-6f, c->N, c->C);
}
static void do_rmsnorm_backward(Bench *b, const Case *c) {
    c->k->rmsnorm_backward(c->dev, b->slot[RESIDUAL], b->slot[GRAD], b->slot[OUT], b->slot[X], b->slot[MORE],
                           b->slot[AUX], c->N, c->C);
}
static void do_rope(Bench *b, const Case *c) {
    c->k->qk_norm_rope_forward(c->dev, b->slot[OUT], b->slot[AUX], b->slot[W], b->slot[MORE], b->slot[MORE],
                               b->slot[IDS], b->slot[RESIDUAL], 1e-6f, c->N, c->H, c->G, c->D);
}
static void do_rope_backward(Bench *b, const Case *c) {
    c->k->qk_norm_rope_backward(c->dev, b->slot[GATE_UP], b->slot[GRAD], b->slot[GRAD], b->slot[OUT], b->slot[W],
                                b->slot[MORE], b->slot[MORE], b->slot[AUX], b->slot[IDS], b->slot[RESIDUAL], c->N, c->H,
                                c->G, c->D);
}
static void do_swiglu_forward(Bench *b, const Case *c) {
    c->k->swiglu_forward(c->dev, b->slot[OUT], b->slot[GATE_UP], c->N, c->F);
}
static void do_swiglu_backward(Bench *b, const Case *c) {
    c->k->swiglu_backward(c->dev, b->slot[W], b->slot[OUT], b->slot[OUT], b->slot[GATE_UP], c->N, c->F);
}

static void rows_of_model(Bench *b, Case *c) {
    const double e = (double)dtype_size(b->dtype), N = c->N, C = c->C, D = c->D, F = c->F, HG = c->H + c->G;
    char shape[64];
    random_slot(b, X, (size_t)(e * N * C), b->dtype);
    random_slot(b, OUT, (size_t)(e * N * C), b->dtype);
    random_slot(b, RESIDUAL, (size_t)(e * N * C), b->dtype);
    random_slot(b, AUX, (size_t)(4 * N * (c->H + c->G)), DTYPE_F32);
    random_slot(b, MORE, (size_t)(4 * C), b->dtype);
    random_slot(b, W, (size_t)(e * c->V * C), b->dtype);
    random_slot(b, GRAD, 4 * (size_t)c->V * (size_t)c->C, DTYPE_F32);
    integers(b, IDS, c->N, c->V);
    snprintf(shape, sizeof shape, "%d x %d", c->N, c->C);
    row(b, "embedding_forward", shape, do_embedding, c, 0, (2 * e * C + 4) * N);
    row(b, "embedding_backward", shape, do_embedding_backward, c, N * C, e * N * C + 8.0 * c->V * C);
    row(b, "rmsnorm_forward", shape, do_rmsnorm, c, 4 * N * C, 2 * e * N * C);
    row(b, "rmsnorm_backward", shape, do_rmsnorm_backward, c, 12 * N * C, 4 * e * N * C);
    random_slot(b, W, (size_t)(e * N * (HG + c->G) * D), b->dtype);
    random_slot(b, GATE_UP, (size_t)(e * N * (HG + c->G) * D), b->dtype);
    random_slot(b, OUT, (size_t)(e * N * HG * D), b->dtype);
    random_slot(b, RESIDUAL, (size_t)(4 * N * D), DTYPE_F32);
    integers(b, IDS, c->N, 0);
    snprintf(shape, sizeof shape, "%d x (%d + %d) x %d", c->N, c->H, c->G, c->D);
    row(b, "qk_norm_rope_forward", shape, do_rope, c, 10 * N * HG * D, N * (2 * e * HG * D + 4 * D + 4 * HG));
    row(b, "qk_norm_rope_backward", shape, do_rope_backward, c, 20 * N * HG * D, N * (3 * e * HG * D + 4 * D + 4 * HG));
    random_slot(b, GATE_UP, (size_t)(2 * e * N * F), b->dtype);
    random_slot(b, W, (size_t)(2 * e * N * F), b->dtype);
    random_slot(b, OUT, (size_t)(e * N * F), b->dtype);
    snprintf(shape, sizeof shape, "%d x %d", c->N, c->F);
    row(b, "swiglu_forward", shape, do_swiglu_forward, c, 5 * N * F, 3 * e * N * F);
    row(b, "swiglu_backward", shape, do_swiglu_backward, c, 13 * N * F, 6 * e * N * F);
}

static void do_adamw(Bench *b, const Case *c) {
    const AdamwRange whole = {0, c->count, 1};
    void *copy = b->dtype == DTYPE_BF16 ? b->slot[OUT] : NULL;
    c->k->adamw(c->dev, b->slot[X], copy, b->slot[W], b->slot[GATE_UP], b->slot[GRAD], &whole, 1, b->slot[IDS]);
}
static void do_sum_squares(Bench *b, const Case *c) {
    c->k->sum_squares(c->dev, b->slot[AUX], b->slot[GRAD], c->count);
}
static void optimizer(Bench *b, Case *c, int64_t count) {
    const AdamwStep step = {.learning_rate = 1e-4f,
                            .beta1 = 0.9f,
                            .beta2 = 0.95f,
                            .eps = 1e-8f,
                            .weight_decay = 0.1f,
                            .grad_scale = 1,
                            .step = 3};
    const size_t bytes = (size_t)count * 4;
    char shape[64];
    c->count = count;
    random_slot(b, X, bytes, DTYPE_F32);
    random_slot(b, W, bytes, DTYPE_F32);
    random_slot(b, GATE_UP, bytes, DTYPE_F32);
    device_zero(b->dev, b->slot[GATE_UP], bytes); /* second moments are not negative */
    random_slot(b, GRAD, bytes, DTYPE_F32);
    random_slot(b, OUT, bytes / 2, DTYPE_BF16);
    random_slot(b, AUX, sizeof(double), DTYPE_F32);
    uploaded(b, IDS, &step, sizeof step);
    snprintf(shape, sizeof shape, "%.1f M", 1e-6 * (double)count);
    row(b, "adamw", shape, do_adamw, c, 17.0 * (double)count, (b->dtype == DTYPE_BF16 ? 30.0 : 28.0) * (double)count);
    row(b, "sum_squares", shape, do_sum_squares, c, 2.0 * (double)count, 4.0 * (double)count);
}

static void do_sample(Bench *b, const Case *c) {
    c->k->sample(c->dev, b->slot[OUT], b->slot[LO], NULL, b->slot[X], b->slot[AUX], NULL, &c->spec, c->N);
}
static void sampling(Bench *b, Case *c, int B) {
    const int N = c->N, Vp = (c->V + 63) / 64 * 64;
    double *uniform = xmalloc((size_t)B * sizeof *uniform);
    char shape[64];
    for (int i = 0; i < B; i++) uniform[i] = (i + 0.5) / B;
    c->N = B;
    random_slot(b, X, 4 * (size_t)B * (size_t)Vp, DTYPE_F32);
    uploaded(b, AUX, uniform, (size_t)B * sizeof *uniform);
    random_slot(b, OUT, 4 * (size_t)B, DTYPE_F32);
    random_slot(b, LO, 4 * (size_t)B, DTYPE_F32);
    random_slot(b, MORE, (size_t)c->V * 4, DTYPE_F32);
    random_slot(b, W, (size_t)c->V * 4, DTYPE_F32);
    device_zero(b->dev, b->slot[MORE], (size_t)c->V * 4);
    device_zero(b->dev, b->slot[W], (size_t)c->V * 4);
    c->spec =
        (SampleSpec){.V = c->V, .Vp = Vp, .temperature = 1, .forbidden = b->slot[MORE], .outcome_bits = b->slot[W]};
    snprintf(shape, sizeof shape, "%d x %d", B, c->V);
    row(b, "sample", shape, do_sample, c, 10.0 * B * c->V, 4.0 * B * c->V);
    free(uniform);
    c->N = N;
}

/* ---- the card ---------------------------------------------------------------------------------------------------- */

static void do_copy(Bench *b, const Case *c) { device_copy(c->dev, b->slot[OUT], b->slot[X], (size_t)c->count); }

static void measure_card(Bench *b) {
    Case c = {.preset = "card", .dev = b->dev, .k = b->k, .count = b->quick ? 1 << 20 : 1 << 30};
    random_slot(b, X, (size_t)c.count, DTYPE_F32);
    random_slot(b, OUT, (size_t)c.count, DTYPE_F32);
    b->memory_peak = 2.0 * (double)c.count / seconds_of(b, "copy", do_copy, &c);
    const char *source = "the data sheet";
    b->flops_peak = device_peak_flops(b->dev, b->dtype);
    if (b->rival) {
        const int n = b->quick ? 64 : 8192;
        const size_t bytes = (size_t)n * (size_t)n * dtype_size(b->dtype);
        c.dev = b->rival, c.k = b->rival_k, c.N = n;
        random_slot(b, X, bytes, b->dtype);
        random_slot(b, OUT, bytes, b->dtype);
        c.w = (Weight){random_slot(b, W, bytes, b->dtype), b->dtype, NULL, n, n, WEIGHT_ROWS};
        double measured = 2.0 * n * (double)n * n / seconds_of(b, "matmul_forward", do_forward, &c);
        printf("card: cuBLASLt %d x %d x %d in %s: %.0f TFLOP/s; data sheet %.0f\n", n, n, n, dtype_name(b->dtype),
               1e-12 * measured, 1e-12 * b->flops_peak);
        b->flops_peak = measured;
        source = "cuBLASLt's square product";
    }
    printf("card: copy %.0f GB/s; \"of card\" = of that, or of %.0f TFLOP/s (%s), whichever is nearer\n",
           1e-9 * b->memory_peak, 1e-12 * b->flops_peak, source);
}

static Device *open_device(Bench *b, const char *kind, int cublas, char *msg, size_t size) {
    Device *dev = device_open(!strcmp(kind, "cuda") ? DEVICE_CUDA : DEVICE_CPU, 0, 0, msg, size);
    if (!dev) return NULL;
    const KernelLimits most = {.N = 16384, .C = 2048, .F = 5632, .Vp = 7168, .H = 16, .G = 4, .D = 128, .n_seq = 16384};
    const KernelLimits least = {.N = 256, .C = 2048, .F = 5632, .Vp = 512, .H = 16, .G = 4, .D = 128, .n_seq = 256};
    const KernelOps *k = kernels_get(dev, b->dtype);
    if (!k) {
        snprintf(msg, size, "%s does not compute in %s", device_name(dev), dtype_name(b->dtype));
    } else if (cublas && device_use_cublas(dev, msg, size)) {
        /* msg says why; before the workspace, which cuBLASLt wants more of */
    } else if (device_reserve(dev, k->workspace_bytes(dev, b->quick ? &least : &most))) {
        snprintf(msg, size, "%s has no memory for the operations' workspace", device_name(dev));
    } else {
        return dev;
    }
    device_close(dev);
    return NULL;
}

static void measure_preset(Bench *b, const char *preset) {
    ModelConfig cfg;
    Err err = {OK, ""};
    if (config_preset(&cfg, preset, &err)) return;
    Case c = {.preset = preset,
              .N = b->quick ? 128 : 8192,
              .C = cfg.d_model,
              .F = cfg.d_ff,
              .H = cfg.n_heads,
              .G = cfg.n_kv_heads,
              .D = cfg.head_dim,
              .V = b->quick ? 500 : 7168};
    products(b, &c);
    classifier(b, &c);
    rows_of_model(b, &c);
    decoding(b, &c);
    c.N = b->quick ? 128 : 16384;
    for (int T = b->quick ? 64 : 1024; T <= c.N; T *= b->quick ? 2 : 4) attention(b, &c, T);
}

int main(int argc, char **argv) {
    Bench b = {.out = stdout};
    const char *device = "cuda", *dtype = "bf16", *csv = NULL, *presets = "medium,large";
    int help;
    char msg[512], list[256];
    Err err = {OK, ""};
    Flag flags[] = {
        {"--device", FLAG_ENUM, &device, 0, 0, "cpu|cuda", "where to compute", 0},
        {"--dtype", FLAG_ENUM, &dtype, 0, 0, "f32|bf16", "in what", 0},
        {"--presets", FLAG_STRING, &presets, 0, 0, NULL, "whose shapes, with commas between them", 0},
        {"--csv", FLAG_STRING, &csv, 0, 0, NULL, "the table as a file as well", 0},
        {"--quick", FLAG_BOOL, &b.quick, 0, 0, NULL, "tiny shapes: only to see that everything runs", 0},
    };
    enum { N_FLAGS = sizeof flags / sizeof *flags };
    Status s = flags_parse(flags, N_FLAGS, argc - 1, argv + 1, NULL, 0, NULL, &help, &err);
    if (!s && help) {
        flags_help(flags, N_FLAGS, "bench_ops [--presets medium,large] ...", "Every operation at the presets' shapes.",
                   stdout);
        return 0;
    }
    b.dtype = !strcmp(dtype, "bf16") ? DTYPE_BF16 : DTYPE_F32;
    if (!s && !(b.dev = open_device(&b, device, 0, msg, sizeof msg))) s = err_set(&err, ERR_DEVICE, "%s", msg);
    if (!s && csv && !(b.out = fopen(csv, "w"))) s = err_set(&err, ERR_IO, "cannot write --csv %s", csv);
    if (s) {
        fprintf(stderr, "bench_ops: %s\n", err.msg);
        return s == ERR_USAGE ? 2 : 1;
    }
    b.csv = csv != NULL;
    b.k = kernels_get(b.dev, b.dtype);
    if (!strcmp(device, "cuda")) {
        b.rival = open_device(&b, device, 1, msg, sizeof msg);
        if (!b.rival) printf("no cuBLASLt beside ours: %s\n", msg);
    }
    b.rival_k = b.rival ? kernels_get(b.rival, b.dtype) : NULL;
    printf("%s, %s\n", device_name(b.dev), dtype_name(b.dtype));
    measure_card(&b);
    header(&b);
    if (b.csv) {
        b.csv = 0;
        header(&b);
        b.csv = 1;
    }
    snprintf(list, sizeof list, "%s", presets);
    for (char *at = list, *one; (one = strsep(&at, ","));) measure_preset(&b, one);
    /* Head width 64, as in the small presets: attention alone differs. */
    Case c = {
        .preset = "D 64", .N = b.quick ? 128 : 16384, .H = 16, .G = 4, .D = 64, .C = 1024, .V = b.quick ? 500 : 7168};
    for (int T = b.quick ? 64 : 1024; T <= c.N; T *= b.quick ? 2 : 4) attention(&b, &c, T);
    c = (Case){.preset = "future", .N = 0, .H = 4, .G = 2, .D = 128, .C = 512, .V = b.quick ? 500 : 7168};
    paged(&b, &c, b.quick ? 2 : 32, b.quick ? 4 : 32, b.quick ? 1 : 16, b.quick ? 1 : 8);
    sampling(&b, &c, b.quick ? 8 : 1024);
    c.preset = "119 M";
    optimizer(&b, &c, b.quick ? 100000 : 119000064);
    for (int i = 0; i < SLOTS; i++) device_free(b.dev, b.slot[i]);
    if (b.csv) fclose(b.out);
    if (b.rival) device_close(b.rival);
    device_close(b.dev);
    return 0;
}
