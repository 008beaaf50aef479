/* cmd_embed.c - ehr-infer embed: hidden states to HDF5, NumPy's format or CSV. */
#include "data/label.h"
#include "infer/commands.h"
#include "infer/embed.h"
#include "infer/parts.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    SessionFlags session;
    const char *data, *split, *labels, *what, *out;
    int64_t limit;
} EmbedFlags;

typedef struct {
    Session *s;
    const LabelFile *labels; /* NULL: every patient of the split at its record's end */
    int split;
    int64_t n, *pick; /* rows of labels */
    int events;       /* a row for every event known, else one for each index time */
    int64_t n_rows;
    Table table;
    float *last, *mean, *event; /* (rows, C), of those asked for */
    int64_t at;                 /* next row, of events */
} Embed;

static Status get_job(void *ctx, int64_t i, RolloutJob *job, Err *err) {
    Embed *e = ctx;
    int64_t row = e->labels ? e->labels->patient_row[e->pick[i]] : i;
    Status st = dataset_patient(&e->s->dataset, e->split, row, &job->patient, err);
    if (st) return st;
    const PatientView *p = &job->patient;
    int32_t last = p->n ? p->minutes[p->n - 1] : 0;
    job->index_minutes = e->labels                   ? (int32_t)e->labels->index_minutes[e->pick[i]]
                         : p->observation_end > last ? p->observation_end
                                                     : last;
    job->n_known = rollout_known(p, job->index_minutes);
    if (e->labels && p->key != e->labels->patient_key[e->pick[i]])
        return err_set(err, ERR_FORMAT,
                       "the label file names other patients than the dataset has: run `ehr-data label` again");
    return OK;
}

static void *column(Table *t, const char *name, ColumnType type) { return (void *)(uintptr_t)table_get(t, name, type); }

static Status take(void *ctx, int64_t i, const RolloutJob *job, const RolloutWindow *w, const float *hidden, Err *err) {
    Embed *e = ctx;
    const size_t C = (size_t)e->s->model.cfg.d_model;
    (void)err;
    if (e->events) {
        for (int k = w->prefix; k < w->n; k++) {
            if (w->origin[k] < 0) continue;
            REQUIRE(e->at < e->table.n);
            ((uint64_t *)column(&e->table, "patient_key", COLUMN_U64))[e->at] = job->patient.key;
            ((int64_t *)column(&e->table, "index", COLUMN_I64))[e->at] = w->origin[k];
            ((int64_t *)column(&e->table, "minutes", COLUMN_I64))[e->at] = job->patient.minutes[w->origin[k]];
            ((int64_t *)column(&e->table, "token", COLUMN_I64))[e->at] = w->token[k];
            memcpy(e->event + (size_t)e->at++ * C, hidden + (size_t)k * C, C * sizeof *hidden);
        }
        return OK;
    }
    ((uint64_t *)column(&e->table, "patient_key", COLUMN_U64))[i] = job->patient.key;
    ((int64_t *)column(&e->table, "index_minutes", COLUMN_I64))[i] = job->index_minutes;
    ((int64_t *)column(&e->table, "known_tokens", COLUMN_I64))[i] = job->n_known;
    if (e->labels) ((int64_t *)column(&e->table, "outcome", COLUMN_I64))[i] = e->labels->outcome[e->pick[i]];
    if (e->last) memcpy(e->last + (size_t)i * C, hidden + (size_t)(w->n - 1) * C, C * sizeof *hidden);
    /* Over what is told of the record; over the prefix where nothing is. */
    int from = w->n > w->prefix ? w->prefix : 0;
    for (size_t c = 0; e->mean && c < C; c++) {
        double sum = 0;
        for (int k = from; k < w->n; k++) sum += hidden[(size_t)k * C + c];
        e->mean[(size_t)i * C + c] = (float)(sum / (w->n - from));
    }
    return OK;
}

/* Rows of the event table: tokens that windows keep. */
static Status count_events(Embed *e, int64_t *out, Err *err) {
    const RolloutOptions all_that_fits = {.exact_window = 1};
    Status st = OK;
    *out = 0;
    for (int64_t i = 0; !st && i < e->n; i++) {
        RolloutJob job = {0};
        RolloutWindow w;
        if ((st = get_job(e, i, &job, err))) break;
        rollout_window(&e->s->dataset.vocabulary, &all_that_fits, e->s->model.cfg.seq_len, &job, &w);
        for (int k = w.prefix; k < w.n; k++) *out += w.origin[k] >= 0;
        rollout_window_free(&w);
    }
    return st;
}

static Status table_prepare(Embed *e, const char *what, Err *err) {
    int64_t rows = e->n;
    Status st = e->events ? count_events(e, &rows, err) : OK;
    if (st) return st;
    int C = e->s->model.cfg.d_model, both = !strcmp(what, "both");
    table_init(&e->table, rows);
    table_add(&e->table, "patient_key", COLUMN_U64);
    static const char *const of_events[] = {"index", "minutes", "token", NULL}, *const of_times[] = {"index_minutes",
                                                                                                     "known_tokens",
                                                                                                     NULL};
    for (const char *const *name = e->events ? of_events : of_times; *name; name++)
        table_add(&e->table, *name, COLUMN_I64);
    if (!e->events && e->labels) table_add(&e->table, "outcome", COLUMN_I64);
    if (e->events) e->event = table_add_matrix(&e->table, "embedding", C);
    if (both || !strcmp(what, "last")) e->last = table_add_matrix(&e->table, "last", C);
    if (both || !strcmp(what, "mean")) e->mean = table_add_matrix(&e->table, "mean", C);
    if (!e->event && !e->last && !e->mean)
        return err_set(err, ERR_NOMEM, "no memory for %lld embeddings of %d numbers: use --limit", (long long)rows, C);
    table_set(&e->table, "model_sha256", e->s->model_sha256);
    table_set(&e->table, "dataset_sha256", e->s->dataset.sha256);
    if (e->labels) table_set(&e->table, "name", e->labels->name);
    return OK;
}

/* One matrix in NumPy's format, version 1.0; what its rows are goes beside it as FILE.csv. */
static Status write_npy(const Embed *e, const char *path, Err *err) {
    const Table *t = &e->table;
    char header[128], *csv = xasprintf("%.*s.csv", (int)(strlen(path) - 4), path);
    int C = e->s->model.cfg.d_model;
    int n = snprintf(header, sizeof header, "{'descr': '<f4', 'fortran_order': False, 'shape': (%lld, %d), }",
                     (long long)t->n, C);
    while ((10 + n + 1) % 64) header[n++] = ' ';
    header[n++] = '\n';
    size_t bytes = (size_t)t->n * (size_t)C * sizeof(float);
    char *file = try_calloc(bytes + 10 + (size_t)n, 1);
    if (!file) return err_set(err, ERR_NOMEM, "no memory to write %s: use --limit", path);
    const unsigned char magic[10] = {
        0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0, (unsigned char)(n & 255), (unsigned char)(n >> 8)};
    memcpy(file, magic, 10);
    memcpy(file + 10, header, (size_t)n);
    memcpy(file + 10 + n, e->event ? e->event : e->last ? e->last : e->mean, bytes);
    Status st = file_write(path, file, bytes + 10 + (size_t)n, err);
    free(file);
    Table rows = *t; /* all but the matrices, which come last */
    while (rows.n_columns && rows.column[rows.n_columns - 1].type == COLUMN_F32) rows.n_columns--;
    if (!st) st = table_write_csv(&rows, csv, 0, err);
    if (!st) printf("%s\n%s\n", path, csv);
    free(csv);
    return st;
}

static int is_npy(const char *path) {
    size_t n = strlen(path);
    return n > 4 && !strcmp(path + n - 4, ".npy");
}

static Status embed(Session *s, const EmbedFlags *f, Err *err) {
    Embed e = {.s = s, .events = !strcmp(f->what, "events")};
    LabelFile labels;
    Status st = session_split(s, f->split, &e.split, err);
    if (st) return st;
    e.n = s->dataset.n_patients[e.split];
    if (f->limit && e.n > f->limit) e.n = f->limit;
    if (f->labels) {
        if ((st = label_file_open(&labels, f->labels, err))) return st;
        if ((st = label_file_fits(&labels, f->labels, &s->dataset, err))) {
            label_file_close(&labels);
            return st;
        }
        e.labels = &labels;
        e.pick = xcalloc((size_t)labels.table.n + 1, sizeof *e.pick);
        e.n = 0;
        for (int64_t i = 0; i < labels.table.n && (!f->limit || e.n < f->limit); i++)
            if (labels.split[i] == e.split) e.pick[e.n++] = i;
        if (!e.n) st = err_set(err, ERR_USAGE, "%s has no rows in the asked split: see --split", f->labels);
    }
    if (!st) st = table_prepare(&e, f->what, err);
    if (!st) st = embed_run(s, e.n, get_job, take, &e, stderr, err);
    if (!st && is_npy(f->out)) {
        st = write_npy(&e, f->out, err);
    } else if (!st) {
        st = out_write(&e.table, f->out, err);
        if (!st) printf("%s\n", f->out);
    }
    table_free(&e.table);
    free(e.pick);
    if (e.labels) label_file_close(&labels);
    return st;
}

Status cmd_embed(int argc, char **argv, Err *err) {
    EmbedFlags f = {.session = SESSION_FLAGS_DEFAULT,
                    .split = "held_out",
                    .what = "both",
                    .out = "embeddings.h5"};
    Flag flags[] = {
        {"--data", FLAG_STRING, &f.data, 0, 0, NULL, "dataset folder", 0},
        {"--split", FLAG_ENUM, &f.split, 0, 0, "train|tuning|val|held_out|test", "patients, or rows of the label file",
         0},
        {"--labels", FLAG_STRING, &f.labels, 0, 0, NULL,
         "index times and outcomes; without it each patient at the record's end", 0},
        {"--what", FLAG_ENUM, &f.what, 0, 0, "both|last|mean|events",
         "of the last token, the mean over the record, or of every event", 0},
        {"--limit", FLAG_INT, &f.limit, 0, 1e15, NULL, "only the first; 0 = all", 0},
        {"--out", FLAG_STRING, &f.out, 0, 0, NULL, "float32: FILE.h5, FILE.npy (one matrix, its rows in FILE.csv) or FILE.csv",
         0},
        SESSION_FLAGS(f.session),
    };
    const int n = sizeof flags / sizeof *flags;
    const char *pos[1];
    int n_pos, help;
    Status st = flags_parse(flags, n, argc, argv, pos, 1, &n_pos, &help, err);
    if (st) return st;
    if (help) {
        flags_help(
            flags, n, "ehr-infer embed CHECKPOINT --data DATASET [--labels FILE] [...]",
            "Hidden states after the final norm, for probes: what the model knows of a patient at an index time.",
            stdout);
        return OK;
    }
    if (n_pos != 1 || !f.data) return err_set(err, ERR_USAGE, "needs a CHECKPOINT and --data DATASET (--help)");
    if (is_npy(f.out) && !strcmp(f.what, "both"))
        return err_set(err, ERR_USAGE, "--out %s holds one matrix: give --what last, mean or events", f.out);
    char *as_csv = is_npy(f.out) ? xasprintf("%s.csv", f.out) : xstrdup(f.out);
    st = out_check(as_csv, err);
    free(as_csv);
    if (st) return st;
    Session s;
    st = session_open(&s, pos[0], f.data, &f.session, err);
    if (!st) session_note(&s, stderr);
    if (!st) st = embed(&s, &f, err);
    session_close(&s);
    return st;
}
