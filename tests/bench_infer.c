/* bench_infer.c - inference of the 134 M model (12 layers, d 768, 12 heads, feed-forward 2048, vocabulary 32,000) on
 * random weights: one stream beside the bandwidth of memory, a prefill of 512 and 32 rollouts of a shared prefix of 256
 * tokens beside the best library's sgemm, all measured in turn; what a 33rd rollout costs, what the prefix takes when all
 * share it, and the same 32 over four patients.  Then a patient of 20 rollouts x 750 tokens by a 46 M model (6 layers, d
 * 768, 12 heads, feed-forward 2048, vocabulary 4,416, tied).  Drawing the next token is part of it.  Beside weights in bf16
 * and int8, keys and values are bf16.
 *
 *   build/bench_infer [--threads N] [--seconds S a row] [--filter f32|bf16|int8] [--smoke 1] */
#include "infer/kv_cache.h"
#include "tests/bench_machine.h"
#include "tests/bench_rivals.h"

enum { PREFIX = 256, PREFILL = 512, STREAMS = 32, PATIENTS = 4, SAMPLES = 20, FUTURE = 750, TOKENS_MAX = 1024, BANDWIDTH_FLOATS = 64 << 20 };

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

/* n new tokens a stream; the first `shared` keys of the streams of each of n_group patients lie in common pages. */
static void decode(Bench *x, KvSequence *s, int streams, int n, int shared, int n_group) {
    static int32_t tokens[TOKENS_MAX], positions[TOKENS_MAX], q_offset[STREAMS + 2], kv_len[STREAMS + 1], last[STREAMS + 1],
        drawn[STREAMS + 1], table[(STREAMS + 1) * 64], group[PATIENTS + 1], pages_shared[PATIENTS];
    static int64_t slot[TOKENS_MAX];
    static double uniform[STREAMS + 1];
    static uint8_t forbidden[1 << 16];
    int most = 1;
    for (int i = 0; i < streams; i++) {
        const int first = s[i].len;
        REQUIRE(kv_sequence_extend(&x->cache, &s[i], n, slot + i * n));
        for (int j = 0; j < n; j++)
            tokens[i * n + j] = (first + j * 7 + i * 13) % (x->m.cfg.vocab_size - 1), positions[i * n + j] = first + j;
        q_offset[i] = i * n, kv_len[i] = s[i].len, last[i] = (i + 1) * n - 1, uniform[i] = (i + 0.5) / streams;
        most = s[i].n_pages > most ? s[i].n_pages : most;
    }
    for (int i = 0; i < streams; i++) memcpy(table + i * most, s[i].page, (size_t)s[i].n_pages * sizeof *table);
    q_offset[streams] = streams * n;
    for (int g = 0; g <= n_group; g++) group[g] = g * streams / n_group;
    for (int g = 0; g < n_group; g++) pages_shared[g] = shared / KV_PAGE;
    const PagedBatch pages = {.pool = x->cache.pool,
                              .q_offset = q_offset,
                              .kv_len = kv_len,
                              .block_table = table,
                              .n_seq = streams,
                              .max_blocks = most,
                              .group_offset = group,
                              .group_shared = pages_shared,
                              .n_group = n_group};
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
    return (pass_flops(c, 1, 0, 0) / 2) * (double)dtype_size(weights) + head * (weights == DTYPE_F32 ? 4 : 2) +
           context * (double)kv_cache_bytes(&x->m, 1) / KV_PAGE;
}

static void report(const char *what, const char *weights, int tokens, BenchTimes *t, double of, const char *unit,
                   double rate) {
    printf("%-30s %-5s %9.1f %9.1f   %7.1f %s %4.0f%%\n", what, weights, tokens / bench_median(t),
           tokens / bench_best(t), 1e-9 * rate, unit, 100 * rate / of);
    fflush(stdout);
}

/* Seconds a token. */
static double bench_one(Bench *x, DType weights, const char *name) {
    KvSequence s = {0};
    BenchTimes t = {0}, read = {0};
    decode(x, &s, 1, PREFIX, 0, 1);
    const double start = bench_now();
    for (int rep = 0; rep < (x->smoke ? 2 : 8) || bench_now() - start < x->seconds; rep++) {
        if (s.len >= PREFIX + 64) break;
        if (rep % 4 == 0) bench_add(&read, 1 / bench_read_bytes(x->memory, BANDWIDTH_FLOATS, device_threads(x->dev)));
        const double at = bench_now();
        decode(x, &s, 1, 1, 0, 1);
        bench_add(&t, bench_now() - at);
    }
    report("one stream, context 256", name, 1, &t, 1 / bench_best(&read), "GB/s   ",
           pass_bytes(x, weights, PREFIX) / bench_best(&t));
    kv_sequence_release(&x->cache, &s);
    kv_sequence_free(&s);
    return bench_median(&t);
}

static void bench_prefill(Bench *x, const char *name) {
    BenchTimes t = {0}, sgemm = {0};
    const double start = bench_now();
    for (int rep = 0; rep < (x->smoke ? 1 : 3) || bench_now() - start < x->seconds; rep++) {
        KvSequence s = {0};
        bench_add(&sgemm, 1 / rivals_sgemm_rate(&x->rivals, x->dev, x->memory));
        const double at = bench_now();
        decode(x, &s, 1, PREFILL, 0, 1);
        bench_add(&t, bench_now() - at);
        kv_sequence_release(&x->cache, &s);
        kv_sequence_free(&s);
    }
    report("prefill of 512", name, PREFILL, &t, 1 / bench_best(&sgemm), "GFLOP/s",
           pass_flops(&x->m.cfg, PREFILL, 1, PREFILL / 2) / bench_best(&t));
}

static void release(Bench *x, KvSequence *s, int n) {
    for (int i = 0; i < n; i++) kv_sequence_release(&x->cache, &s[i]), kv_sequence_free(&s[i]);
}

/* one: seconds a token of one stream. */
static void bench_rollouts(Bench *x, const char *name, double one) {
    KvSequence prefix[PATIENTS] = {0}, s[STREAMS + 1] = {0}, of_four[STREAMS] = {0};
    BenchTimes t = {0}, more = {0}, four = {0}, sgemm = {0};
    const double page_mb = 1e-6 * (double)kv_cache_bytes(&x->m, 1);
    for (int p = 0; p < PATIENTS; p++) decode(x, &prefix[p], 1, PREFIX, 0, 1);
    const int before = x->cache.n_free;
    for (int i = 0; i <= STREAMS; i++) REQUIRE(kv_sequence_fork(&x->cache, &s[i], &prefix[0]));
    const int taken = before - x->cache.n_free + prefix[0].n_pages;
    for (int i = 0; i < STREAMS; i++)
        REQUIRE(kv_sequence_fork(&x->cache, &of_four[i], &prefix[i / (STREAMS / PATIENTS)]));
    const double start = bench_now();
    for (int rep = 0; rep < (x->smoke ? 2 : 8) || bench_now() - start < x->seconds; rep++) {
        if (s[0].len >= PREFIX + 126) break;
        if (rep % 4 == 0) bench_add(&sgemm, 1 / rivals_sgemm_rate(&x->rivals, x->dev, x->memory));
        const double at = bench_now();
        decode(x, s, STREAMS, 1, PREFIX, 1);
        const double then = bench_now();
        decode(x, s, STREAMS + 1, 1, PREFIX, 1);
        const double last = bench_now();
        decode(x, of_four, STREAMS, 1, PREFIX, PATIENTS);
        bench_add(&t, then - at), bench_add(&more, last - then), bench_add(&four, bench_now() - last);
    }
    const double flops = pass_flops(&x->m.cfg, STREAMS, STREAMS, PREFIX), peak = 1 / bench_best(&sgemm);
    report("32 rollouts of 256 shared", name, STREAMS, &t, peak, "GFLOP/s", flops / bench_best(&t));
    report("32 rollouts of 4 patients", name, STREAMS, &four, peak, "GFLOP/s", flops / bench_best(&four));
    printf("  32 at a time: %.1f x one by one; a 33rd costs %.2f ms a token, %.0f%% of one alone; prefix of 256 for all: %.1f MB, "
           "%.1f MB if each had its own\n", STREAMS * one / bench_median(&t), 1e3 * (bench_median(&more) - bench_median(&t)),
           100 * (bench_median(&more) - bench_median(&t)) / one, taken * page_mb,
           (STREAMS + 1) * prefix[0].n_pages * page_mb);
    release(x, s, STREAMS + 1);
    release(x, of_four, STREAMS);
    release(x, prefix, PATIENTS);
}

static void model_start(Bench *x, const ModelConfig *cfg, DType weights, int pages) {
    Err err = {0};
    if (model_open(&x->m, cfg, x->dev, DTYPE_F32, 16, &err)) fail(&err);
    if (weights != DTYPE_F32) x->m.kv_type = DTYPE_BF16; /* as `ehr-infer` does */
    model_init(&x->m, 1);
    if (model_prepare(&x->m, weights, &err) || acts_open(&x->acts, &x->m, TOKENS_MAX, 0, RECOMPUTE_NONE, &err) ||
        kv_cache_open(&x->cache, &x->m, pages, &err))
        fail(&err);
}

static void model_end(Bench *x) {
    kv_cache_close(&x->cache);
    acts_close(x->acts);
    model_close(&x->m);
}

/* Steps at the beginning and at the end of the futures; what lies between takes as long as their mean, since a step's time
 * grows with its keys.  The keys that are skipped are whatever the pool holds: as many to read. */
static void bench_patient(Bench *x, const ModelConfig *like, DType weights, const char *name) {
    ModelConfig cfg = *like;
    cfg.n_layers = x->smoke ? 1 : 6;
    cfg.vocab_size = 4416;
    cfg.tied = 1;
    cfg.seq_len = 2048;
    Err err = {0};
    if (config_check(&cfg, &err)) fail(&err);
    model_start(x, &cfg, weights, 16 + SAMPLES * (FUTURE / KV_PAGE + 2));
    KvSequence prefix = {0}, s[SAMPLES] = {0};
    BenchTimes t[2] = {0};
    const int steps = x->smoke ? 2 : 16;
    const double at = bench_now();
    decode(x, &prefix, 1, PREFIX, 0, 1);
    const double prefill = bench_now() - at;
    for (int i = 0; i < SAMPLES; i++) REQUIRE(kv_sequence_fork(&x->cache, &s[i], &prefix));
    for (int end = 0; end < 2; end++) {
        for (int i = 0; end && i < SAMPLES; i++) REQUIRE(kv_sequence_extend(&x->cache, &s[i], FUTURE - 2 * steps, NULL));
        for (int k = 0; k < steps; k++) {
            const double from = bench_now();
            decode(x, s, SAMPLES, 1, PREFIX, 1);
            bench_add(&t[end], bench_now() - from);
        }
    }
    const double step = (bench_median(&t[0]) + bench_median(&t[1])) / 2;
    printf("%-30s %-5s %9.1f             %.1f s a patient, prefill %.2f s (12 s published for an H100), from %d steps of %d\n",
           "20 x 750 tokens, 46 M", name, SAMPLES / step, prefill + FUTURE * step, prefill, 2 * steps, FUTURE);
    release(x, s, SAMPLES);
    release(x, &prefix, 1);
    model_end(x);
}

static void bench_weights(Bench *x, const ModelConfig *cfg, DType weights, const char *name) {
    model_start(x, cfg, weights, 16 + 4 * PATIENTS + 2 * (2 * STREAMS + 1));
    const double one = bench_one(x, weights, name);
    bench_prefill(x, name);
    bench_rollouts(x, name, one);
    model_end(x);
    bench_patient(x, cfg, weights, name);
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
    x.logits = bench_floats(x.dev, (size_t)(STREAMS + 1) * (size_t)cfg.vocab_padded);
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
