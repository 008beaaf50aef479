/* bench_ops.c - every operation of the model alone, on a GPU, at the sizes of a preset: time, arithmetic rate, memory rate,
 * and how much of what this very card gives that is.
 *
 * The yardsticks are measured in the same run: cuBLASLt (when its library is there) at each product's own shape, in turn
 * with ours; its rate at 8192^3 as the card's arithmetic peak; a large copy as its memory peak.  An operation is recorded
 * REPEAT times into one graph, so that launching it is not what is timed; the best of several rounds counts. */
#include "kernels/kernels.h"
#include "model/config.h"
#include "model/flags.h"
#include <stdlib.h>
#include <string.h>

enum { REPEAT = 8, ROUNDS = 7, BUFFERS = 10 };

typedef struct {
    const char *preset, *device, *dtype;
    int64_t rows, seq_len, vocabulary;
} OpsOptions;

typedef struct {
    ModelConfig cfg;
    int N, T, n_seq;
    DType dtype;
    Device *dev;
    const KernelOps *k;
    double peak_flops, peak_bytes; /* measured, per second */
    void *buffer[BUFFERS];         /* the largest activation each */
    void *weight, *grad, *real, *state_m, *state_v;
    int32_t *tokens, *positions, *lo, *hi, *cu;
    AdamwStep *step;
    int64_t n_weight;
} Bench;

/* ---- one operation ------------------------------------------------------------------------------------------------- */

typedef struct {
    const char *name;
    int rows, cols; /* of the weight, for products */
    double flops, bytes;
    void (*run)(Bench *b, int rows, int cols);
} Op;

static Weight weight_at(Bench *b, int rows, int cols) {
    return (Weight){.data = b->weight, .dtype = b->dtype, .rows = rows, .cols = cols, .layout = WEIGHT_ROWS};
}
static void run_forward(Bench *b, int rows, int cols) {
    Weight w = weight_at(b, rows, cols);
    b->k->matmul_forward(b->dev, b->buffer[0], b->buffer[1], &w, b->N);
}
static void run_add(Bench *b, int rows, int cols) {
    Weight w = weight_at(b, rows, cols);
    b->k->matmul_add_forward(b->dev, b->buffer[0], b->buffer[2], b->buffer[1], &w, b->N);
}
static void run_swiglu_product(Bench *b, int rows, int cols) {
    Weight w = weight_at(b, rows, cols);
    b->k->matmul_swiglu_forward(b->dev, b->buffer[0], b->buffer[2], b->buffer[1], &w, b->N);
}
static void run_dgrad(Bench *b, int rows, int cols) {
    Weight w = weight_at(b, rows, cols);
    b->k->matmul_dgrad(b->dev, b->buffer[0], b->buffer[1], &w, b->N);
}
static void run_wgrad(Bench *b, int rows, int cols) {
    b->k->matmul_wgrad(b->dev, b->grad, b->buffer[0], b->buffer[1], b->N, rows, cols);
}
static void run_classifier(Bench *b, int rows, int cols) {
    Weight w = weight_at(b, rows, cols);
    b->k->classifier(b->dev, b->real, b->buffer[0], b->grad, b->buffer[1], &w, b->lo, b->hi, b->N, b->cfg.vocab_size);
}
static void run_attention(Bench *b, int rows, int cols) {
    (void)rows, (void)cols;
    b->k->attention_forward(b->dev, b->buffer[0], b->real, b->buffer[1], b->buffer[2], b->cu, b->n_seq, b->N, b->cfg.n_heads,
                            b->cfg.n_kv_heads, b->cfg.head_dim);
}
static void run_attention_backward(Bench *b, int rows, int cols) {
    (void)rows, (void)cols;
    b->k->attention_backward(b->dev, b->buffer[3], b->buffer[4], b->buffer[5], b->buffer[1], b->buffer[2], b->buffer[0], b->real,
                             b->cu, b->n_seq, b->N, b->cfg.n_heads, b->cfg.n_kv_heads, b->cfg.head_dim);
}
static void run_norm(Bench *b, int rows, int cols) {
    (void)rows, (void)cols;
    b->k->rmsnorm_forward(b->dev, b->buffer[0], b->real, b->buffer[1], b->weight, 1e-6f, b->N, b->cfg.d_model);
}
static void run_norm_backward(Bench *b, int rows, int cols) {
    (void)rows, (void)cols;
    b->k->rmsnorm_backward(b->dev, b->buffer[0], b->grad, b->buffer[2], b->buffer[1], b->weight, b->real, b->N, b->cfg.d_model);
}
static void run_rope(Bench *b, int rows, int cols) {
    (void)rows, (void)cols;
    b->k->qk_norm_rope_forward(b->dev, b->buffer[0], b->real, b->buffer[1], b->weight, b->weight, b->positions, b->grad, 1e-6f,
                               b->N, b->cfg.n_heads, b->cfg.n_kv_heads, b->cfg.head_dim);
}
static void run_swiglu_backward(Bench *b, int rows, int cols) {
    (void)rows, (void)cols;
    b->k->swiglu_backward(b->dev, b->buffer[2], b->buffer[0], b->buffer[1], b->N, b->cfg.d_ff);
}
static void run_embedding(Bench *b, int rows, int cols) {
    (void)rows, (void)cols;
    b->k->embedding_forward(b->dev, b->buffer[0], b->tokens, b->weight, b->N, b->cfg.d_model);
}
static void run_embedding_backward(Bench *b, int rows, int cols) {
    (void)rows, (void)cols;
    b->k->embedding_backward(b->dev, b->grad, b->buffer[0], b->tokens, b->N, b->cfg.d_model, b->cfg.vocab_size);
}
static void run_adamw(Bench *b, int rows, int cols) {
    (void)rows, (void)cols;
    AdamwRange all = {0, b->n_weight, 1};
    b->k->adamw(b->dev, b->real, b->dtype == DTYPE_F32 ? NULL : b->weight, b->state_m, b->state_v, b->grad, &all, 1, b->step);
}

/* Seconds an operation takes; 0 after an error of the device. */
static double op_seconds(Bench *b, const Op *op) {
    op->run(b, op->rows, op->cols); /* what is set up at first use is not recorded */
    DeviceGraph *graph = NULL;
    int recording = !device_sync(b->dev) && device_record(b->dev) == 0;
    for (int i = 0; recording && i < REPEAT; i++) op->run(b, op->rows, op->cols);
    if (recording) graph = device_record_end(b->dev);
    double best = 0;
    for (int round = 0; round < ROUNDS; round++) {
        double start = clock_s();
        if (graph) device_graph_launch(b->dev, graph);
        for (int i = 0; !graph && i < REPEAT; i++) op->run(b, op->rows, op->cols);
        if (device_sync(b->dev)) break;
        double took = (clock_s() - start) / REPEAT;
        if (round && (best == 0 || took < best)) best = took;
    }
    device_graph_free(b->dev, graph);
    return device_error(b->dev) ? 0 : best;
}

/* ---- buffers --------------------------------------------------------------------------------------------------------- */

static Status upload_ints(Bench *b, int32_t **out, int n, int32_t (*value)(const Bench *b, int i), Err *err) {
    int32_t *host = xmalloc((size_t)n * sizeof *host);
    for (int i = 0; i < n; i++) host[i] = value(b, i);
    *out = device_alloc(b->dev, (size_t)n * sizeof *host);
    if (*out) device_upload(b->dev, *out, host, (size_t)n * sizeof *host);
    free(host);
    return *out ? OK : err_set(err, ERR_NOMEM, "no memory for %d indices", n);
}
static int32_t token_value(const Bench *b, int i) { return (int32_t)((unsigned)i * 2654435761u % (unsigned)b->cfg.vocab_size); }
static int32_t position_value(const Bench *b, int i) { return i % b->T; }
static int32_t next_value(const Bench *b, int i) { return token_value(b, i + 1); }
static int32_t after_value(const Bench *b, int i) { return token_value(b, i + 1) + 1; }
static int32_t border_value(const Bench *b, int i) { return i * b->T; }

static Status bench_open(Bench *b, Device *dev, const OpsOptions *o, Err *err) {
    *b = (Bench){.N = (int)o->rows, .T = (int)o->seq_len, .dev = dev};
    b->dtype = !strcmp(o->dtype, "f32") ? DTYPE_F32 : DTYPE_BF16;
    Status s = config_preset(&b->cfg, o->preset, err);
    b->cfg.vocab_size = (int)o->vocabulary, b->cfg.seq_len = b->T;
    if (!s) s = config_check(&b->cfg, err);
    if (s) return s;
    if (b->N % b->T) return err_set(err, ERR_USAGE, "--rows %d is not a multiple of --seq-len %d", b->N, b->T);
    b->n_seq = b->N / b->T;
    b->k = kernels_get(dev, b->dtype);
    if (!b->k) return err_set(err, ERR_USAGE, "%s has no %s kernels", device_name(dev), dtype_name(b->dtype));
    const ModelConfig *c = &b->cfg;
    const int HD = c->n_heads * c->head_dim, GD = c->n_kv_heads * c->head_dim;
    int width = 2 * c->d_ff > HD + 2 * GD ? 2 * c->d_ff : HD + 2 * GD;
    KernelLimits limits = {.N = b->N, .C = c->d_model, .F = c->d_ff, .Vp = c->vocab_padded, .H = c->n_heads, .G = c->n_kv_heads,
                           .D = c->head_dim, .n_seq = b->n_seq};
    b->n_weight = (int64_t)c->vocab_padded * c->d_model;
    if (b->n_weight < 2ll * c->d_ff * c->d_model) b->n_weight = 2ll * c->d_ff * c->d_model;
    if (b->n_weight < (int64_t)b->T * c->head_dim) b->n_weight = (int64_t)b->T * c->head_dim; /* the rotations lie in grad */
    size_t n_real = (size_t)b->n_weight > (size_t)b->N * (size_t)(c->n_heads + c->n_kv_heads)
                        ? (size_t)b->n_weight : (size_t)b->N * (size_t)(c->n_heads + c->n_kv_heads);
    int ok = !device_reserve(dev, b->k->workspace_bytes(dev, &limits));
    for (int i = 0; i < BUFFERS && ok; i++)
        ok = (b->buffer[i] = device_alloc(dev, (size_t)b->N * (size_t)width * dtype_size(b->dtype))) != NULL;
    ok = ok && (b->weight = device_alloc(dev, (size_t)b->n_weight * dtype_size(b->dtype))) &&
         (b->grad = device_alloc(dev, (size_t)b->n_weight * sizeof(float))) && (b->real = device_alloc(dev, n_real * sizeof(float))) &&
         (b->state_m = device_alloc(dev, (size_t)b->n_weight * sizeof(float))) &&
         (b->state_v = device_alloc(dev, (size_t)b->n_weight * sizeof(float))) && (b->step = device_alloc(dev, sizeof *b->step));
    if (!ok) return err_set(err, ERR_NOMEM, "%s has no memory for %d rows: lower --rows", device_name(dev), b->N);
    AdamwStep step = {.learning_rate = 1e-3f, .beta1 = 0.9f, .beta2 = 0.95f, .eps = 1e-8f, .grad_scale = 1, .step = 1};
    device_upload(dev, b->step, &step, sizeof step);
    s = upload_ints(b, &b->tokens, b->N, token_value, err);
    if (!s) s = upload_ints(b, &b->positions, b->N, position_value, err);
    if (!s) s = upload_ints(b, &b->lo, b->N, next_value, err);
    if (!s) s = upload_ints(b, &b->hi, b->N, after_value, err);
    if (!s) s = upload_ints(b, &b->cu, b->n_seq + 1, border_value, err);
    return s;
}

static void bench_close(Bench *b) {
    void *all[] = {b->weight, b->grad, b->real, b->state_m, b->state_v, b->tokens, b->positions, b->lo, b->hi, b->cu, b->step};
    for (int i = 0; i < BUFFERS; i++) device_free(b->dev, b->buffer[i]);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) device_free(b->dev, all[i]);
    *b = (Bench){0};
}

/* ---- the card's own peaks -------------------------------------------------------------------------------------------- */

static double copy_rate(Device *dev) {
    const size_t bytes = (size_t)1 << 30;
    void *a = device_alloc(dev, bytes), *c = device_alloc(dev, bytes);
    double best = 0;
    for (int i = 0; a && c && i < ROUNDS; i++) {
        double start = clock_s();
        for (int j = 0; j < 4; j++) device_copy(dev, c, a, bytes);
        if (device_sync(dev)) break;
        double rate = 4 * 2 * (double)bytes / (clock_s() - start);
        if (i && rate > best) best = rate;
    }
    device_free(dev, a);
    device_free(dev, c);
    return best;
}

static double product_rate(Bench *b, int n) {
    Bench square = *b;
    size_t bytes = (size_t)n * (size_t)n * dtype_size(b->dtype);
    square.N = n;
    square.buffer[0] = device_alloc(b->dev, bytes), square.buffer[1] = device_alloc(b->dev, bytes);
    square.weight = device_alloc(b->dev, bytes);
    double seconds = 0;
    if (square.buffer[0] && square.buffer[1] && square.weight) {
        Op op = {"", n, n, 0, 0, run_forward};
        seconds = op_seconds(&square, &op);
    }
    device_free(b->dev, square.buffer[0]);
    device_free(b->dev, square.buffer[1]);
    device_free(b->dev, square.weight);
    return seconds > 0 ? 2.0 * n * n * n / seconds : 0;
}

/* ---- the table ------------------------------------------------------------------------------------------------------- */

static Op product(const char *name, const Bench *b, int rows, int cols, void (*run)(Bench *, int, int), double extra_bytes) {
    double e = (double)dtype_size(b->dtype), N = b->N;
    return (Op){name, rows, cols, 2 * N * rows * cols, e * (N * rows + N * cols + (double)rows * cols) + extra_bytes, run};
}

static int ops_build(const Bench *b, Op *op) {
    const ModelConfig *c = &b->cfg;
    const int C = c->d_model, F = c->d_ff, H = c->n_heads, G = c->n_kv_heads, D = c->head_dim, HD = H * D, Q = (H + 2 * G) * D;
    const double N = b->N, e = (double)dtype_size(b->dtype), pairs = N * (b->T + 1) / 2;
    int n = 0;
    op[n++] = product("qkv", b, Q, C, run_forward, 0);
    op[n++] = product("attn_out + residual", b, C, HD, run_add, e * N * C);
    op[n++] = product("gate_up + swiglu", b, 2 * F, C, run_swiglu_product, e * N * F);
    op[n++] = product("down + residual", b, C, F, run_add, e * N * C);
    op[n++] = product("gate_up dgrad", b, 2 * F, C, run_dgrad, 0);
    op[n++] = product("down dgrad", b, C, F, run_dgrad, 0);
    op[n++] = product("qkv dgrad", b, Q, C, run_dgrad, 0);
    op[n++] = product("gate_up wgrad", b, 2 * F, C, run_wgrad, (8 - e) * 2.0 * F * C);
    op[n++] = product("down wgrad", b, C, F, run_wgrad, (8 - e) * (double)F * C);
    op[n++] = product("qkv wgrad", b, Q, C, run_wgrad, (8 - e) * (double)Q * C);
    op[n] = product("classifier, all three", b, c->vocab_padded, C, run_classifier, 0);
    op[n++].flops *= 3;
    op[n++] = (Op){"attention forward", 0, 0, 4 * pairs * HD, e * N * (2.0 * HD + 2.0 * G * D), run_attention};
    op[n++] = (Op){"attention backward", 0, 0, 10 * pairs * HD, e * N * (4.0 * HD + 4.0 * G * D), run_attention_backward};
    op[n++] = (Op){"rmsnorm", 0, 0, 0, e * 2 * N * C, run_norm};
    op[n++] = (Op){"rmsnorm backward", 0, 0, 0, e * 4 * N * C, run_norm_backward};
    op[n++] = (Op){"q, k norm + rope", 0, 0, 0, e * 2 * N * (H + G) * D, run_rope};
    op[n++] = (Op){"swiglu backward", 0, 0, 0, e * 5 * N * F, run_swiglu_backward};
    op[n++] = (Op){"embedding", 0, 0, 0, e * 2 * N * C, run_embedding};
    op[n++] = (Op){"embedding backward", 0, 0, 0, (e + 8) * N * C, run_embedding_backward};
    op[n++] = (Op){"adamw", 0, 0, 0, (7 * 4 + (b->dtype == DTYPE_F32 ? 0 : e)) * (double)b->n_weight, run_adamw};
    return n;
}

static Status report(Bench *b, Bench *rival, Err *err) {
    enum { OPS_MAX = 32 };
    Op op[OPS_MAX];
    int n = ops_build(b, op);
    printf("%-22s %18s %9s %8s %8s %7s %8s\n", "operation", "size", "us", "TFLOP/s", "GB/s", "% peak", "x cuBLAS");
    for (int i = 0; i < n; i++) {
        double seconds = op_seconds(b, &op[i]);
        int same = rival && op[i].rows && op[i].run != run_classifier; /* the others are ours on both sides */
        double theirs = same ? op_seconds(rival, &op[i]) : 0;
        if (!seconds) return err_set(err, ERR_DEVICE, "%s: %s", op[i].name, device_error(b->dev));
        char size[32] = "", ratio[16] = "";
        if (op[i].rows) snprintf(size, sizeof size, "%dx%dx%d", b->N, op[i].rows, op[i].cols);
        else if (op[i].flops > 0) snprintf(size, sizeof size, "T %d D %d", b->T, b->cfg.head_dim);
        if (theirs > 0) snprintf(ratio, sizeof ratio, "%.2f", theirs / seconds);
        double flops = op[i].flops / seconds, bytes = op[i].bytes / seconds;
        double of_flops = b->peak_flops > 0 ? flops / b->peak_flops : 0, of_bytes = b->peak_bytes > 0 ? bytes / b->peak_bytes : 0;
        printf("%-22s %18s %9.1f %8.1f %8.0f %7.1f %8s\n", op[i].name, size, 1e6 * seconds, 1e-12 * flops, 1e-9 * bytes,
               100 * (of_flops > of_bytes ? of_flops : of_bytes), ratio);
        fflush(stdout);
    }
    return OK;
}

static Status run(const OpsOptions *o, Err *err) {
    char why[256];
    DeviceKind kind = !strcmp(o->device, "cpu") ? DEVICE_CPU : DEVICE_CUDA;
    Device *dev = device_open(kind, 0, 0, why, sizeof why);
    if (!dev) return err_set(err, ERR_DEVICE, "--device %s: %s", o->device, why);
    Device *other = kind == DEVICE_CUDA ? device_open(kind, 0, 0, why, sizeof why) : NULL;
    if (other && device_use_cublas(other, why, sizeof why)) {
        printf("no cuBLASLt beside: %s\n", why);
        device_close(other);
        other = NULL;
    }
    Bench b = {0}, rival = {0};
    Status s = bench_open(&b, dev, o, err);
    if (!s && other) s = bench_open(&rival, other, o, err);
    if (!s) {
        b.peak_bytes = copy_rate(dev);
        b.peak_flops = kind == DEVICE_CUDA ? product_rate(other ? &rival : &b, 8192) : 0;
        printf("%s: preset %s, N %d rows in sequences of %d, V %d, %s; measured peaks %.0f TFLOP/s (%s, 8192^3), %.0f GB/s (copy)\n",
               device_name(dev), o->preset, b.N, b.T, b.cfg.vocab_size, dtype_name(b.dtype), 1e-12 * b.peak_flops,
               other ? "cuBLASLt" : "our product", 1e-9 * b.peak_bytes);
        s = report(&b, other ? &rival : NULL, err);
    }
    if (other) {
        bench_close(&rival);
        device_close(other);
    }
    bench_close(&b);
    device_close(dev);
    return s;
}

int main(int argc, char **argv) {
    OpsOptions o = {.preset = "medium", .device = "cuda", .dtype = "auto", .rows = 8192, .seq_len = 8192, .vocabulary = 7168};
    Flag flags[] = {
        {"--preset", FLAG_ENUM, &o.preset, 0, 0, "nano|micro|small|medium|large", "whose sizes", 0},
        {"--device", FLAG_ENUM, &o.device, 0, 0, "cuda|cpu", "where to compute; peaks are measured on a GPU only", 0},
        {"--dtype", FLAG_ENUM, &o.dtype, 0, 0, "auto|bf16|f32", "auto: bf16 on a GPU, f32 on the CPU", 0},
        {"--rows", FLAG_INT, &o.rows, 1, 1 << 20, NULL, "tokens a pass", 0},
        {"--seq-len", FLAG_INT, &o.seq_len, 1, 1 << 20, NULL, "tokens a sequence", 0},
        {"--vocabulary", FLAG_INT, &o.vocabulary, 2, 1 << 20, NULL, "ids", 0},
    };
    enum { N_FLAGS = sizeof flags / sizeof *flags };
    Err err = {OK, ""};
    int help;
    Status s = flags_parse(flags, N_FLAGS, argc - 1, argv + 1, NULL, 0, NULL, &help, &err);
    if (!s && help) {
        flags_help(flags, N_FLAGS, "bench_ops [--preset NAME] ...", "Every operation of the model alone, on a GPU.", stdout);
        return 0;
    }
    if (!strcmp(o.dtype, "auto")) o.dtype = !strcmp(o.device, "cpu") ? "f32" : "bf16";
    if (!s) s = run(&o, &err);
    if (s) fprintf(stderr, "bench_ops: %s\n", err.msg);
    return s == OK ? 0 : s == ERR_USAGE ? 2 : 1;
}
