/* cmd_risk.c - ehr-infer risk, and ehr-infer merge. */
#include "infer/commands.h"
#include "infer/parts.h"
#include "infer/risk.h"
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    SessionFlags session;
    const char *data, *split, *estimator, *clock, *window, *out;
    StringList  labels, given;
    int64_t     samples, batch, seed, limit, max_tokens, curve;
    double      target_se, max_unknown, max_strange;
    int64_t     min_tokens, reference;
} RiskFlags;

enum { FIRST_LOOK = 64, SAMPLES_MOST = 4096 };

/* "a,b" and repeated flags -> token ids; free() *out. */
static Status given_ids(const StringList *given, const Vocabulary *v, int32_t **out, int *n, Err *err) {
    enum { GIVEN_MAX = 64 };
    *out = xcalloc(GIVEN_MAX, sizeof **out);
    *n = 0;
    uint8_t *forbidden = xcalloc((size_t)v->n, 1);
    vocabulary_forbidden(v, forbidden);
    Status st = OK;
    for (int i = 0; !st && i < given->n; i++) {
        int parts;
        char *list = xstrdup(given->item[i]), **part = split_all(list, &parts);
        for (int k = 0; !st && k < parts; k++) {
            int id = vocabulary_find(v, part[k]);
            char near[256] = "";
            if (id < 0) vocabulary_nearest(v, part[k], near, sizeof near);
            if (id < 0) st = err_set(err, ERR_USAGE, "--given %s: no token is called so; the nearest are %s", part[k], near);
            else if (forbidden[id] || v->token[id].kind == TOKEN_GAP)
                st = err_set(err, ERR_USAGE, "--given %s is no event that could follow", part[k]);
            else if (*n == GIVEN_MAX) st = err_set(err, ERR_USAGE, "--given takes at most %d codes", GIVEN_MAX);
            else (*out)[(*n)++] = id;
        }
        free(part);
        free(list);
    }
    free(forbidden);
    return st;
}

static double column_mean(const Table *t, const char *name) {
    const double *x = table_get(t, name, COLUMN_F64);
    double sum = 0;
    for (int64_t i = 0; i < t->n; i++) sum += x[i] / (double)t->n;
    return sum;
}

/* The variance of one future beside that of counting hits, which is r (1 - r), and what it means in futures. */
static void describe_variance(const Table *t, FILE *out) {
    const double *risk = table_get(t, "risk", COLUMN_F64), *se = table_get(t, "mc_se", COLUMN_F64);
    const int64_t *n = table_get(t, "n_samples", COLUMN_I64);
    double own = 0, counting = 0;
    for (int64_t i = 0; i < t->n; i++) {
        own += se[i] * se[i] * (double)n[i] / (double)t->n;
        counting += risk[i] * (1 - risk[i]) / (double)t->n;
    }
    if (own > 0 && counting > 0)
        fprintf(out, "  a future's variance is %.3f of counting's: a standard error of 0.01 takes %.0f futures a row, counting %.0f\n",
                own / counting, ceil(own / 1e-4), ceil(counting / 1e-4));
}

static void describe(const RiskTask *task, const RiskFlags *f, FILE *out) {
    const Table *t = &task->table;
    const int64_t *y = table_get(t, "outcome", COLUMN_I64);
    int64_t yes = 0, known = 0;
    for (int64_t i = 0; i < t->n; i++) {
        yes += y[i] == 1;
        known += y[i] >= 0;
    }
    fprintf(out, "%s: %lld index times, mean risk %.4f (mean mc_se %.4f), observed %.4f of %lld uncensored\n",
            task->labels->name, (long long)t->n, column_mean(t, "risk"), column_mean(t, "mc_se"),
            known ? (double)yes / (double)known : NAN, (long long)known);
    describe_variance(t, out);
    int64_t why[5] = {0};
    const int64_t *reason = table_get(t, "reason", COLUMN_I64);
    for (int64_t i = 0; i < t->n; i++)
        for (int b = 0; b < 5; b++) why[b] += b < 4 ? reason[i] >> b & 1 : reason[i] != 0;
    if (why[4])
        fprintf(out, "  of these %lld should not be relied on: %lld records too short, %lld too much unknown, %lld too strange, "
                "%lld dead at the index (column reason)\n", (long long)why[4], (long long)why[0], (long long)why[1],
                (long long)why[2], (long long)why[3]);
    if (f->given.n)
        fprintf(out, "  given %s%s: mean risk %.4f, difference %+.4f (association, not effect)\n", f->given.item[0],
                f->given.n > 1 ? " ..." : "", column_mean(t, "risk_given"), column_mean(t, "difference"));
}

static void describe_run(const RiskReport *r, const RiskFlags *f, FILE *out) {
    const RolloutStats *st = &r->rollout;
    if (r->parts_done) fprintf(out, "  %d of %d parts were there already\n", r->parts_done, r->parts);
    if (st->short_of_memory)
        fprintf(out, "  memory has room for %d futures at a time, not --batch %lld: slower, with the same result\n", st->batch,
                (long long)f->batch);
    if (st->seconds > 0)
        fprintf(out, "  %lld futures, %lld tokens in %.1f s (%.0f tokens/s, %.2f patients/s, prefill included), %lld stopped at "
                "--max-tokens\n", (long long)st->samples, (long long)st->tokens, st->seconds,
                (double)st->tokens / st->seconds, (double)st->jobs / st->seconds, (long long)st->limit_stops);
    if (st->replayed)
        fprintf(out, "  %lld of %lld steps of decoding launched as a whole\n", (long long)st->replayed, (long long)st->steps);
    if (r->missing)
        fprintf(out, "  this process is done; %d parts of others are not: the last one joins them, or `ehr-infer merge`\n", r->missing);
}

/* Where the risks of label file `name` go. */
static char *out_of(const RiskFlags *f, const char *name) {
    if (!f->out) return xasprintf("%s-risk.csv", name);
    size_t n = strlen(f->out);
    int slash = n && f->out[n - 1] == '/';
    if (slash || path_is_dir(f->out)) return xasprintf("%s%s%s-risk.csv", f->out, slash ? "" : "/", name);
    return xstrdup(f->out);
}

static RiskOptions options_of(const RiskFlags *f) {
    RiskOptions o = {.limits = {f->min_tokens, f->max_unknown, f->max_strange, f->reference}, .limit = f->limit, .target_se = f->target_se, .n_curve = (int)f->curve, .progress = stderr, .split = -1};
    o.rollout = (RolloutOptions){.n_samples = (int)f->samples, .batch = (int)f->batch, .max_tokens = (int)f->max_tokens,
                                 .first_look = FIRST_LOOK, .seed = (uint64_t)f->seed, .mean_clock = !strcmp(f->clock, "mean"),
                                 .exact_window = !strcmp(f->window, "exact"), .temperature = 1.0,
                                 .estimator = !strcmp(f->estimator, "mc")      ? ESTIMATOR_MC
                                              : !strcmp(f->estimator, "reach") ? ESTIMATOR_REACH
                                                                               : ESTIMATOR_SCOPE,
                                 .first_event = !strcmp(f->estimator, "next")};
    return o;
}

/* A task may name what other sites call its outcome; what is misspelt looks the same. */
static void warn_of_codes(const LabelFile *l, const Vocabulary *v) {
    char unknown[512];
    if (outcome_unknown(v, l->codes, l->n_codes, unknown, sizeof unknown))
        fprintf(stderr, "warning: %s: no token of the vocabulary matches %s of its outcome: no future can come to that\n", l->name,
                unknown);
    if (outcome_unknown(v, l->stops, l->n_stops, unknown, sizeof unknown))
        fprintf(stderr, "warning: %s: no token of the vocabulary matches %s of its stops: no future ends there\n", l->name, unknown);
}

/* All label files: together where the estimator allows, else one after the other. */
static Status run_all(Session *s, const RiskFlags *f, const char *settings, Err *err) {
    enum { LABELS_MAX = STRING_LIST_MAX };
    static LabelFile labels[LABELS_MAX]; /* large; one call a process */
    RiskTask task[LABELS_MAX] = {{0}};
    RiskOptions o = options_of(f);
    int32_t *given = NULL;
    int n = 0, pool = !strcmp(f->estimator, "reach") ? 1 : SAMPLE_OUTCOMES_MAX;
    Status st = given_ids(&f->given, &s->dataset.vocabulary, &given, &o.n_given, err);
    o.given = given;
    o.settings = settings;
    if (!st && strcmp(f->split, "all")) st = session_split(s, f->split, &o.split, err);
    for (; !st && n < f->labels.n; n++) {
        const char *path = f->labels.item[n];
        if ((st = label_file_open(&labels[n], path, err))) break;
        char *out = out_of(f, labels[n].name);
        task[n] = (RiskTask){.labels = &labels[n], .out = out};
        for (int i = 0; !st && i < n; i++)
            if (!strcmp(task[i].out, out)) st = err_set(err, ERR_USAGE, "two label files are called %s", labels[n].name);
        if (!st) st = label_file_fits(&labels[n], path, &s->dataset, err);
        if (!st) st = out_check(out, err);
        if (!st) warn_of_codes(&labels[n], &s->dataset.vocabulary);
    }
    for (int at = 0; !st && at < n; at += pool) {
        int count = n - at < pool ? n - at : pool;
        RiskReport report;
        st = risk_run(s, &task[at], count, &o, stdout, &report, err);
        for (int k = 0; !st && k < count; k++)
            if (report.complete) describe(&task[at + k], f, stderr);
        if (!st) describe_run(&report, f, stderr);
    }
    for (int k = 0; k < n; k++) {
        risk_task_free(&task[k]);
        free((char *)(uintptr_t)task[k].out);
        label_file_close(&labels[k]);
    }
    free(given);
    return st;
}

/* What decides the numbers; --batch and --threads do not, nor do ranks, and the file's bytes must not depend on them. */
static char *settings_json(const RiskFlags *f, const Session *s) {
    char *given = xstrdup("");
    for (int i = 0; i < f->given.n; i++) {
        char *longer = xasprintf("%s%s%s", given, i ? "," : "", f->given.item[i]);
        free(given);
        given = longer;
    }
    json_t *o = json_pack("{s:s, s:I, s:I, s:s, s:s, s:I, s:s, s:s, s:s}", "estimator", f->estimator, "samples",
                          (json_int_t)f->samples, "seed", (json_int_t)f->seed, "clock", f->clock, "window", f->window,
                          "max_tokens", (json_int_t)f->max_tokens, "dtype", dtype_name(s->model.dtype), "weights",
                          dtype_name(s->weights), "kv_dtype", dtype_name(s->model.kv_type));
    json_object_set_new(o, "limits", json_pack("{s:I, s:f, s:f, s:I}", "min_tokens", (json_int_t)f->min_tokens, "max_unknown",
                                               f->max_unknown, "max_strange", f->max_strange, "reference", (json_int_t)f->reference));
    if (f->target_se > 0) json_object_set_new(o, "target_se", json_real(f->target_se));
    if (f->given.n) json_object_set_new(o, "given", json_string(given));
    char *text = json_dumps(o, JSON_REAL_PRECISION(9));
    REQUIRE(text);
    json_decref(o);
    free(given);
    return text;
}

Status cmd_risk(int argc, char **argv, Err *err) {
    RiskFlags f = {.session = SESSION_FLAGS_DEFAULT, .split = "held_out", .estimator = "reach", .clock = "quantile",
                   .window = "block", .samples = 32, .batch = 256, .seed = 1, .max_tokens = 2048, .min_tokens = 10, .max_unknown = 0.2, .max_strange = 4,
                   .reference = 500};
    Flag flags[] = {
        {"--data", FLAG_STRING, &f.data, 0, 0, NULL, "dataset folder", 0},
        {"--labels", FLAG_LIST, &f.labels, 0, 0, NULL, "label file written by `ehr-data label`; may be repeated", 0},
        {"--split", FLAG_ENUM, &f.split, 0, 0, "train|tuning|val|held_out|test|all", "rows of the label file to take", 0},
        {"--estimator", FLAG_ENUM, &f.estimator, 0, 0, "mc|scope|reach|next", "mc: share of futures that hit; scope: summed "
         "probability; reach: outcome suppressed, least variance; next: of the next event alone, a cheap baseline", 0},
        {"--samples", FLAG_INT, &f.samples, 1, 1e6, NULL, "simulated futures a row; with --target-se at most [4096 then]", 0},
        {"--target-se", FLAG_FLOAT, &f.target_se, 0, 1, NULL, "stop a row's sampling when its standard error is this small, looking "
         "after 64, 128, 256 ... futures; 0 = never", 0},
        {"--curve", FLAG_INT, &f.curve, 0, 1000, NULL, "points of each row's time-to-event curve, to OUT-curve; 0 = none", 0},
        {"--given", FLAG_LIST, &f.given, 0, 0, NULL, "CODE[,CODE] told at the index besides: risk with and without, in pairs "
         "of futures; association, not effect", 0},
        {"--batch", FLAG_INT, &f.batch, 1, 65536, NULL, "live futures at a time: speed and memory, never the result", 0},
        {"--seed", FLAG_INT, &f.seed, 0, 0, NULL, "key of all random numbers", 0},
        {"--clock", FLAG_ENUM, &f.clock, 0, 0, "quantile|mean", "length of a simulated gap", 0},
        {"--window", FLAG_ENUM, &f.window, 0, 0, "block|exact", "beyond the model's sequence: keep the newer half and go on, or "
         "always all that fits (a prefill a token)", 0},
        {"--max-tokens", FLAG_INT, &f.max_tokens, 1, 1e6, NULL, "longest future, in tokens", 0},
        {"--min-tokens", FLAG_INT, &f.min_tokens, 0, 1e9, NULL, "reason 1 beside the risk of a record with fewer known tokens", 0},
        {"--max-unknown", FLAG_FLOAT, &f.max_unknown, 0, 1, NULL, "reason 2: a larger share of its events has no token of its own", 0},
        {"--max-strange", FLAG_FLOAT, &f.max_strange, -100, 1000, NULL, "reason 4: its loss is so many standard deviations above what "
         "is usual for its length", 0},
        {"--reference", FLAG_INT, &f.reference, 0, 1e9, NULL, "patients of the tuning split that tell what is usual; 0 = do not ask", 0},
        {"--limit", FLAG_INT, &f.limit, 0, 1e15, NULL, "take only the first rows; 0 = all", 0},
        {"--out", FLAG_STRING, &f.out, 0, 0, NULL, "FILE.csv or FILE.h5, or a folder [NAME-risk.csv]", 0},
        SESSION_FLAGS(f.session),
        SESSION_GRAPHS_FLAG(f.session),
    };
    const int n = sizeof flags / sizeof *flags;
    const char *pos[1];
    int n_pos, help;
    Status st = flags_parse(flags, n, argc, argv, pos, 1, &n_pos, &help, err);
    if (st) return st;
    if (help) {
        flags_help(flags, n, "ehr-infer risk CHECKPOINT --data DATASET --labels FILE [...]   (also under mpirun or srun)",
                   "Probability of a labelled outcome within its horizon, one row per patient and index time.\n"
                   "Temperature is 1 and there is no top-k here: anything else would not be the model's risk.\n"
                   "With mc and scope several --labels share one pool of futures.  Results grow in OUT.parts: ranks share the\n"
                   "parts out, a run that was killed goes on where it was, and the last one joins them.", stdout);
        return OK;
    }
    if (n_pos != 1 || !f.data || !f.labels.n)
        return err_set(err, ERR_USAGE, "needs a CHECKPOINT, --data DATASET and --labels FILE (--help)");
    if (f.labels.n > 1 && f.out && !path_is_dir(f.out))
        return err_set(err, ERR_USAGE, "--out names one file: give one --labels, a folder that exists, or leave --out away");
    if (f.out && !path_is_dir(f.out) && (st = out_check(f.out, err))) return st;
    for (int i = 0; i < n; i++)
        if (!strcmp(flags[i].name, "--samples") && !flags[i].seen && f.target_se > 0) f.samples = SAMPLES_MOST;
    if (ranks_read().rank == 0) {
        fprintf(stderr, "ehr-infer risk %s\n", pos[0]);
        flags_print(flags, n, stderr);
    }
    Session s;
    st = session_open(&s, pos[0], f.data, &f.session, err);
    if (!st && ranks_read().rank == 0) session_note(&s, stderr);
    char *settings = st ? NULL : settings_json(&f, &s);
    if (!st) st = run_all(&s, &f, settings, err);
    free(settings);
    session_close(&s);
    return st;
}

Status cmd_merge(int argc, char **argv, Err *err) {
    const char *pos[1];
    int n_pos, help, missing;
    Status st = flags_parse(NULL, 0, argc, argv, pos, 1, &n_pos, &help, err);
    if (st) return st;
    if (help) {
        flags_help(NULL, 0, "ehr-infer merge OUT", "Joins the parts that the ranks of `ehr-infer risk --out OUT` left in OUT.parts, "
                   "where the last of them did not.", stdout);
        return OK;
    }
    if (n_pos != 1) return err_set(err, ERR_USAGE, "needs OUT, the name given to `ehr-infer risk --out` (--help)");
    if ((st = out_check(pos[0], err))) return st;
    char *folder = xasprintf("%s.parts", pos[0]);
    if (!path_is_dir(folder)) st = err_set(err, ERR_IO, "%s is not there: nothing to merge", folder);
    if (!st) st = parts_join(pos[0], &missing, stdout, err);
    if (!st && missing)
        st = err_set(err, ERR_FORMAT, "%s: %d parts are not there yet, or another process is joining them: run the same "
                     "`ehr-infer risk` again, it makes only what is missing", folder, missing);
    free(folder);
    return st;
}
