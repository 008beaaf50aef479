/* bench_infer.c - inference of the 134 M model (12 layers, d 768, 12 heads, feed-forward 2048, vocabulary 32,000) on
 * random weights: one stream beside the bandwidth of memory, a prefill of 512 and 32 rollouts of a shared prefix of 256
 * tokens beside the best library's sgemm, all measured in turn.  Drawing the next token is part of it.
 *
 *   build/bench_infer [--threads N] [--seconds S a row] [--filter f32|bf16|int8] [--smoke 1] */
#include "infer/kv_cache.h"
#include "tests/bench_machine.h"
#include "tests/bench_rivals.h"

enum { PREFIX = 256, PREFILL = 512, STREAMS = 32, TOKENS_MAX = 1024, BANDWIDTH_FLOATS = 64 << 20 };

typedef struct {
    Device *dev;
    Model m;
    Acts *acts;
    KvCache cache;
    Rivals rivals;
    float *memory; /* for bandwidth, and three matrices of 1024 x 1024 */
    float *logits;
    int smoke;
    double seconds;
} Bench;

static void fail(const Err *err) {
    fprintf(stderr, "bench_infer: %s\n", err->msg);
    exit(1);
}

/* ---- one pass ---------------------------------------------------------------------------------------------------- */

/* n new tokens a stream; the first `shared` keys of all streams lie in common pages. */
static void decode(Bench *x, KvSequence *s, int streams, int n, int shared) {
    static int32_t tokens[TOKENS_MAX], positions[TOKENS_MAX], q_offset[STREAMS + 1], kv_len[STREAMS], last[STREAMS],
        drawn[STREAMS], table[STREAMS * 64];
    static int64_t slot[TOKENS_MAX];
    static double uniform[STREAMS];
    static uint8_t forbidden[1 << 16];
    int most = 1;
    for (int i = 0; i < streams; i++) {
        const int first = s[i].len;
        REQUIRE(kv_sequence_extend(&x->cache, &s[i], n, slot + i * n));
        for (int j = 0; j < n; j++)
            tokens[i * n + j] = (first + j * 7 + i * 13) % 31999, positions[i * n + j] = first + j;
        q_offset[i] = i * n, kv_len[i] = s[i].len, last[i] = (i + 1) * n - 1, uniform[i] = (i + 0.5) / streams;
        most = s[i].n_pages > most ? s[i].n_pages : most;
    }
    for (int i = 0; i < streams; i++) memcpy(table + i * most, s[i].page, (size_t)s[i].n_pages * sizeof *table);
    q_offset[streams] = streams * n;
    const int32_t group[2] = {0, streams}, pages_shared = shared / KV_PAGE;
    const PagedBatch pages = {.pool = x->cache.pool,
                              .q_offset = q_offset,
                              .kv_len = kv_len,
                              .block_table = table,
                              .n_seq = streams,
                              .max_blocks = most,
                              .group_offset = group,
                              .group_shared = &pages_shared,
                              .n_group = 1};
    const SampleSpec spec = {
        .V = x->m.cfg.vocab_size, .Vp = x->m.cfg.vocab_padded, .temperature = 1, .forbidden = forbidden};
    model_decode(&x->m, x->acts, tokens, positions, slot, &pages, x->cache.layer_stride, streams * n);
    model_logits(&x->m, x->acts, x->logits, last, streams);
    x->m.k->sample(x->dev, drawn, NULL, NULL, x->logits, uniform, NULL, &spec, streams);
}

/* ---- ceilings and rows ------------------------------------------------------------------------------------------- */

static double pass_flops(const ModelConfig *c, int rows, int logit_rows, double context) {
    const double C = c->d_model, HD = (double)c->n_heads * c->head_dim, GD = (double)c->n_kv_heads * c->head_dim;
    const double block = C * (HD + 2 * GD) + HD * C + 3 * C * (double)c->d_ff;
    return 2 * c->n_layers * block * rows + 2 * C * c->vocab_size * logit_rows + 4 * c->n_layers * HD * context * rows;
}

/* Bytes of weights and of the cache that a pass of one stream reads. */
static double pass_bytes(const Bench *x, DType weights, double context) {
    const ModelConfig *c = &x->m.cfg;
    const double head = (double)c->d_model * c->vocab_size;
    return (pass_flops(c, 1, 0, 0) / 2) * (double)dtype_size(weights) + head * 4 +
           context * (double)kv_cache_bytes(c, x->m.dtype, 1) / KV_PAGE;
}

static void report(const char *what, const char *weights, int tokens, BenchTimes *t, double of, const char *unit,
                   double rate) {
    printf("%-30s %-5s %9.1f %9.1f   %7.1f %s %4.0f%%\n", what, weights, tokens / bench_median(t),
           tokens / bench_best(t), 1e-9 * rate, unit, 100 * rate / of);
    fflush(stdout);
}

static void bench_one(Bench *x, DType weights, const char *name) {
    KvSequence s = {0};
    BenchTimes t = {0}, read = {0};
    decode(x, &s, 1, PREFIX, 0);
    const double start = bench_now();
    for (int rep = 0; rep < (x->smoke ? 2 : 8) || bench_now() - start < x->seconds; rep++) {
        if (s.len >= PREFIX + 64) break;
        if (rep % 4 == 0) bench_add(&read, 1 / bench_read_bytes(x->memory, BANDWIDTH_FLOATS, device_threads(x->dev)));
        const double at = bench_now();
        decode(x, &s, 1, 1, 0);
        bench_add(&t, bench_now() - at);
    }
    report("one stream, context 256", name, 1, &t, 1 / bench_best(&read), "GB/s   ",
           pass_bytes(x, weights, PREFIX) / bench_best(&t));
    kv_sequence_release(&x->cache, &s);
    kv_sequence_free(&s);
}

static void bench_prefill(Bench *x, const char *name) {
    BenchTimes t = {0}, sgemm = {0};
    const double start = bench_now();
    for (int rep = 0; rep < (x->smoke ? 1 : 3) || bench_now() - start < x->seconds; rep++) {
        KvSequence s = {0};
        bench_add(&sgemm, 1 / rivals_sgemm_rate(&x->rivals, x->dev, x->memory));
        const double at = bench_now();
        decode(x, &s, 1, PREFILL, 0);
        bench_add(&t, bench_now() - at);
        kv_sequence_release(&x->cache, &s);
        kv_sequence_free(&s);
    }
    report("prefill of 512", name, PREFILL, &t, 1 / bench_best(&sgemm), "GFLOP/s",
           pass_flops(&x->m.cfg, PREFILL, 1, PREFILL / 2) / bench_best(&t));
}

static void bench_rollouts(Bench *x, const char *name) {
    KvSequence prefix = {0}, s[STREAMS] = {0};
    BenchTimes t = {0}, sgemm = {0};
    decode(x, &prefix, 1, PREFIX, 0);
    for (int i = 0; i < STREAMS; i++) REQUIRE(kv_sequence_fork(&x->cache, &s[i], &prefix));
    const double start = bench_now();
    for (int rep = 0; rep < (x->smoke ? 2 : 8) || bench_now() - start < x->seconds; rep++) {
        if (s[0].len >= PREFIX + 128) break;
        if (rep % 4 == 0) bench_add(&sgemm, 1 / rivals_sgemm_rate(&x->rivals, x->dev, x->memory));
        const double at = bench_now();
        decode(x, s, STREAMS, 1, PREFIX);
        bench_add(&t, bench_now() - at);
    }
    report("32 rollouts of 256 shared", name, STREAMS, &t, 1 / bench_best(&sgemm), "GFLOP/s",
           pass_flops(&x->m.cfg, STREAMS, STREAMS, PREFIX) / bench_best(&t));
    for (int i = 0; i < STREAMS; i++) kv_sequence_release(&x->cache, &s[i]), kv_sequence_free(&s[i]);
    kv_sequence_release(&x->cache, &prefix);
    kv_sequence_free(&prefix);
}

static void bench_weights(Bench *x, const ModelConfig *cfg, DType weights, const char *name) {
    Err err = {0};
    if (model_open(&x->m, cfg, x->dev, DTYPE_F32, 16, &err)) fail(&err);
    model_init(&x->m, 1);
    if (model_prepare(&x->m, weights, &err) || acts_open(&x->acts, &x->m, TOKENS_MAX, 0, RECOMPUTE_NONE, &err) ||
        kv_cache_open(&x->cache, &x->m, 16 + STREAMS * 4, &err))
        fail(&err);
    bench_one(x, weights, name);
    bench_prefill(x, name);
    bench_rollouts(x, name);
    kv_cache_close(&x->cache);
    acts_close(x->acts);
    model_close(&x->m);
}

static int bench_threads(int threads, const BenchFlags *f) {
    ModelConfig cfg = {.n_layers = 12,
                       .d_model = 768,
                       .n_heads = 12,
                       .n_kv_heads = 12,
                       .head_dim = 64,
                       .d_ff = 2048,
                       .vocab_size = 32000,
                       .seq_len = TOKENS_MAX,
                       .rope_theta = 10000,
                       .rms_eps = 1e-6,
                       .init_std = 0.02};
    Bench x = {.dev = bench_device(threads, f), .seconds = f->seconds, .smoke = f->smoke};
    Err err = {0};
    if (!x.dev) return 1;
    if (f->smoke) cfg.n_layers = 1;
    if (config_check(&cfg, &err)) fail(&err);
    x.rivals = rivals_open(cpu_level(x.dev), threads);
    x.memory = bench_floats(x.dev, BANDWIDTH_FLOATS);
    x.logits = bench_floats(x.dev, (size_t)STREAMS * (size_t)cfg.vocab_padded);
    printf("%s, %d layers; %% of reading memory, or of the best sgemm of 1024 x 1024 x 1024 (ours%s%s%s%s)\n",
           device_name(x.dev), cfg.n_layers, x.rivals.name[0][0] ? ", " : "", x.rivals.name[0],
           x.rivals.name[1][0] ? ", " : "", x.rivals.name[1]);
    printf("%-30s %-5s %9s %9s\n", "", "", "tok/s", "best");
    const struct {
        DType type;
        const char *name;
    } kinds[] = {{DTYPE_F32, "f32"}, {DTYPE_BF16, "bf16"}, {DTYPE_I8, "int8"}};
    for (int i = 0; i < 3; i++)
        if (!f->filter || !strcmp(f->filter, kinds[i].name)) bench_weights(&x, &cfg, kinds[i].type, kinds[i].name);
    device_free(x.dev, x.memory);
    device_free(x.dev, x.logits);
    return bench_close(x.dev, "bench_infer") ? 1 : 0;
}

int main(int argc, char **argv) {
    BenchFlags f;
    if (bench_flags(&f, argc, argv, "bench_infer")) return 2;
    for (int threads = f.threads ? f.threads : 1; threads <= (f.threads ? f.threads : 2); threads++)
        if (bench_threads(threads, &f)) return 1;
    return 0;
}
