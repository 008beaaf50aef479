/* cmd_risk.c - ehr-infer risk. */
#include "infer/commands.h"
#include "infer/risk.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const char *data, *split, *estimator, *clock, *out, *device, *dtype, *weights;
    StringList  labels;
    int64_t     samples, batch, seed, threads, limit, max_tokens;
} RiskFlags;

static int ends_in(const char *path, const char *suffix) {
    size_t n = strlen(path), m = strlen(suffix);
    return n > m && !strcmp(path + n - m, suffix);
}

/* Before the hours of work, not after them. */
static Status check_out(const char *path, Err *err) {
    if (!ends_in(path, ".csv") && !ends_in(path, ".h5"))
        return err_set(err, ERR_USAGE, "--out %s: the name must end in .csv or .h5", path);
    const char *slash = strrchr(path, '/');
    char *folder = slash && slash > path ? xasprintf("%.*s", (int)(slash - path), path) : xstrdup(slash ? "/" : ".");
    Status st = path_is_dir(folder) ? OK : err_set(err, ERR_IO, "--out %s: there is no folder %s", path, folder);
    free(folder);
    return st;
}

static Status write_table(const Table *t, const char *path, Err *err) {
    return ends_in(path, ".h5") ? table_write_h5(t, path, err) : table_write_csv(t, path, 1, err);
}

static void describe(const LabelFile *l, const Table *t, const RolloutStats *st, FILE *out) {
    const double *risk = table_get(t, "risk", COLUMN_F64), *se = table_get(t, "mc_se", COLUMN_F64);
    double mean = 0, mean_se = 0;
    int64_t yes = 0, known = 0;
    for (int64_t i = 0; i < t->n; i++) {
        mean += risk[i] / (double)t->n;
        mean_se += se[i] / (double)t->n;
    }
    const int64_t *y = table_get(t, "outcome", COLUMN_I64);
    for (int64_t i = 0; i < t->n; i++) {
        yes += y[i] == 1;
        known += y[i] >= 0;
    }
    fprintf(out, "%s: %lld index times, mean risk %.4f (mean mc_se %.4f), observed %.4f of %lld uncensored\n", l->name,
            (long long)t->n, mean, mean_se, known ? (double)yes / (double)known : NAN, (long long)known);
    fprintf(out, "  %lld futures, %lld tokens in %.1f s (%.0f tokens/s, prefill included), %lld stopped at --max-tokens\n",
            (long long)st->samples, (long long)st->tokens, st->seconds, (double)st->tokens / st->seconds,
            (long long)st->limit_stops);
}

/* One label file -> one table.  out NULL: LABELS' name beside the checkpoint. */
static Status run_one(Session *s, const char *labels_path, const RiskFlags *f, const char *settings, Err *err) {
    LabelFile labels;
    Status st = label_file_open(&labels, labels_path, err);
    if (st) return st;
    int split = -1;
    if (strcmp(f->split, "all")) st = session_split(s, f->split, &split, err);
    const char *vocabulary = table_attribute(&labels.table, "vocabulary_sha256");
    if (!st && vocabulary && strcmp(vocabulary, s->dataset.vocabulary.sha256))
        st = err_set(err, ERR_FORMAT, "%s was made for another vocabulary: run `ehr-data label` on %s again", labels_path,
                     s->dataset.path);
    /* Row numbers, and patient keys counted from 0, mean nothing in another dataset and may still seem to fit. */
    const char *dataset = table_attribute(&labels.table, "dataset_sha256");
    if (!st && dataset && strcmp(dataset, s->dataset.sha256))
        st = err_set(err, ERR_FORMAT, "%s was made for another dataset than %s: run `ehr-data label EVENTS --data %s` again",
                     labels_path, s->dataset.path, s->dataset.path);
    RolloutOptions o = {.n_samples = (int)f->samples, .batch = (int)f->batch, .max_tokens = (int)f->max_tokens,
                        .seed = (uint64_t)f->seed, .mean_clock = !strcmp(f->clock, "mean"), .temperature = 1.0,
                        .estimator = !strcmp(f->estimator, "mc")      ? ESTIMATOR_MC
                                     : !strcmp(f->estimator, "scope") ? ESTIMATOR_SCOPE
                                                                      : ESTIMATOR_REACH};
    Table t;
    RolloutStats stats;
    if (!st) st = risk_table(s, &labels, split, f->limit, &o, stderr, &t, &stats, err);
    if (!st) {
        const char *copied[] = {"task", "outcome_codes", "horizon_minutes"};
        table_set(&t, "name", labels.name);
        for (size_t i = 0; i < 3; i++)
            if (table_attribute(&labels.table, copied[i])) table_set(&t, copied[i], table_attribute(&labels.table, copied[i]));
        table_set(&t, "estimator", f->estimator);
        table_set(&t, "model_sha256", s->model_sha256);
        table_set(&t, "dataset_sha256", s->dataset.sha256);
        table_set(&t, "settings", settings);
        char *path = f->out ? xstrdup(f->out) : xasprintf("%s-risk.csv", labels.name);
        st = write_table(&t, path, err);
        if (!st) {
            describe(&labels, &t, &stats, stderr);
            printf("%s\n", path);
        }
        free(path);
        table_free(&t);
    }
    label_file_close(&labels);
    return st;
}

Status cmd_risk(int argc, char **argv, Err *err) {
    RiskFlags f = {.split = "held_out", .estimator = "reach", .clock = "quantile", .device = "auto", .dtype = "auto", .weights = "auto", .samples = 32,
                   .batch = 256, .seed = 1, .max_tokens = 2048};
    Flag flags[] = {
        {"--data", FLAG_STRING, &f.data, 0, 0, NULL, "dataset folder", 0},
        {"--labels", FLAG_LIST, &f.labels, 0, 0, NULL, "label file written by `ehr-data label`; may be repeated without --out", 0},
        {"--split", FLAG_ENUM, &f.split, 0, 0, "train|tuning|val|held_out|test|all", "rows of the label file to take", 0},
        {"--estimator", FLAG_ENUM, &f.estimator, 0, 0, "mc|scope|reach", "mc: share of futures that hit; scope: summed probability; "
         "reach: outcome suppressed, least variance", 0},
        {"--samples", FLAG_INT, &f.samples, 1, 1e6, NULL, "simulated futures a row", 0},
        {"--batch", FLAG_INT, &f.batch, 1, 65536, NULL, "live futures at a time: speed and memory, never the result", 0},
        {"--seed", FLAG_INT, &f.seed, 0, 0, NULL, "key of all random numbers", 0},
        {"--clock", FLAG_ENUM, &f.clock, 0, 0, "quantile|mean", "length of a simulated gap", 0},
        {"--max-tokens", FLAG_INT, &f.max_tokens, 1, 1e6, NULL, "longest future, in tokens", 0},
        {"--limit", FLAG_INT, &f.limit, 0, 1e15, NULL, "take only the first rows; 0 = all", 0},
        {"--out", FLAG_STRING, &f.out, 0, 0, NULL, "FILE.csv or FILE.h5 [NAME-risk.csv]", 0},
        {"--threads", FLAG_INT, &f.threads, 0, 4096, NULL, "CPU threads; 0 = all", 0},
        {"--device", FLAG_ENUM, &f.device, 0, 0, "auto|cpu|cuda", "where to compute; auto: on a GPU if there is one", 0},
        {"--dtype", FLAG_ENUM, &f.dtype, 0, 0, "auto|f32|bf16", "of weights and cache; auto: bf16 on a GPU, f32 on the CPU", 0},
        {"--weights", FLAG_ENUM, &f.weights, 0, 0, "auto|f32|bf16|int8", "what matrices are kept in; int8 is fastest, and rounds", 0},
    };
    const int n = sizeof flags / sizeof *flags;
    const char *pos[1];
    int n_pos, help;
    Status st = flags_parse(flags, n, argc, argv, pos, 1, &n_pos, &help, err);
    if (st) return st;
    if (help) {
        flags_help(flags, n, "ehr-infer risk CHECKPOINT --data DATASET --labels FILE [...]",
                   "Probability of a labelled outcome within its horizon, one row per patient and index time.\n"
                   "Temperature is 1 and there is no top-k here: anything else would not be the model's risk.", stdout);
        return OK;
    }
    if (n_pos != 1 || !f.data || !f.labels.n)
        return err_set(err, ERR_USAGE, "needs a CHECKPOINT, --data DATASET and --labels FILE (--help)");
    if (f.labels.n > 1 && f.out) return err_set(err, ERR_USAGE, "--out names one file: give one --labels, or leave --out away");
    if (f.out && (st = check_out(f.out, err))) return st;
    fprintf(stderr, "ehr-infer risk %s\n", pos[0]);
    flags_print(flags, n, stderr);
    Session s;
    st = session_open(&s, pos[0], f.data, f.device, f.dtype, f.weights, (int)f.threads, err);
    if (!st) session_note(&s, stderr);
    /* What decides the numbers; --batch and --threads do not, and the file's bytes must not depend on them. */
    char *settings = xasprintf("{\"samples\": %lld, \"seed\": %lld, \"clock\": \"%s\", \"max_tokens\": %lld, \"dtype\": \"%s\", "
                               "\"weights\": \"%s\"}",
                               (long long)f.samples, (long long)f.seed, f.clock, (long long)f.max_tokens,
                               dtype_name(s.model.dtype), dtype_name(s.weights));
    for (int i = 0; !st && i < f.labels.n; i++) st = run_one(&s, f.labels.item[i], &f, settings, err);
    free(settings);
    session_close(&s);
    return st;
}
