/* risk.c - see risk.h.  A *job* is a patient at an index time; the rows of all label files that ask about it share its
 * futures.  Jobs are in order of patients and time, so that a patient's next job finds its prefix cached. */
#include "infer/risk.h"
#include "infer/parts.h"
#include "data/label_task.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    int64_t split, row, index;
} JobKey;

/* Of a pair of runs, with and without what is given: values (n, tasks) of the one that was ready first. */
typedef struct {
    double *values;
    int n;
} Held;

typedef struct {
    Session *s;
    RiskTask *task;
    int n_tasks;
    const RiskOptions *o;
    RolloutOptions rollout;
    JobKey *job;
    int64_t n_jobs;
    int64_t *run; /* (n_run) jobs of this process */
    int64_t n_run, n_done;
    int per_job;   /* engine jobs a job: 2 with `given` */
    int64_t *left; /* (parts) engine jobs of each part that are not done */
    char **fingerprint;
    Held *held;     /* (n_run) */
    double *values; /* (n_samples) */
    int looks;
    double horizon[SAMPLE_OUTCOMES_MAX], after[SAMPLE_OUTCOMES_MAX];
    Progress progress;
    double start_s;
    History *history; /* (n_run) */
    RolloutStats *stats;
} RiskRun;

/* ---- rows and jobs ------------------------------------------------------------------------------------------------*/

static int compare_jobs(const void *a, const void *b) {
    const JobKey *x = a, *y = b;
    if (x->split != y->split) return x->split < y->split ? -1 : 1;
    if (x->row != y->row) return x->row < y->row ? -1 : 1;
    return x->index < y->index ? -1 : x->index > y->index;
}

static int64_t pick_rows(const LabelFile *l, const RiskOptions *o, int64_t *pick) {
    int64_t n = 0;
    for (int64_t i = 0; i < l->table.n && (!o->limit || n < o->limit); i++)
        if (o->split < 0 || l->split[i] == o->split) pick[n++] = i;
    return n;
}

static void copy_i64(Table *t, const char *name, const int64_t *from, const int64_t *pick) {
    int64_t *to = table_add(t, name, COLUMN_I64);
    for (int64_t i = 0; i < t->n; i++) to[i] = from[pick[i]];
}

static void copy_f64(Table *t, const char *name, const double *from, const int64_t *pick) {
    double *to = table_add(t, name, COLUMN_F64);
    for (int64_t i = 0; i < t->n; i++) to[i] = from ? from[pick[i]] : NAN;
}

static void rows_init(RiskTask *t, const RiskOptions *o) {
    static const char *const measured[] = {"risk",           "mc_se",        "risk_lo",   "risk_hi",
                                           "competing_risk", "competing_se", "lead_days", NULL};
    static const char *const paired[] = {"risk_given",    "given_se",      "difference", "difference_se",
                                         "difference_lo", "difference_hi", NULL};
    static const char *const told[] = {"unknown_share", "history_loss", "strangeness", NULL};
    const LabelFile *l = t->labels;
    int64_t *pick = xcalloc((size_t)l->table.n + 1, sizeof *pick);
    table_init(&t->table, pick_rows(l, o, pick));
    uint64_t *key = table_add(&t->table, "patient_key", COLUMN_U64);
    for (int64_t i = 0; i < t->table.n; i++) key[i] = l->patient_key[pick[i]];
    copy_i64(&t->table, "split", l->split, pick);
    copy_i64(&t->table, "patient_row", l->patient_row, pick);
    copy_i64(&t->table, "index_minutes", l->index_minutes, pick);
    copy_i64(&t->table, "outcome", l->outcome, pick);
    for (int i = 0; measured[i]; i++) table_add(&t->table, measured[i], COLUMN_F64);
    table_add(&t->table, "n_samples", COLUMN_I64);
    table_add(&t->table, "mean_tokens", COLUMN_F64);
    table_add(&t->table, "known_tokens", COLUMN_I64);
    table_add(&t->table, "reason", COLUMN_I64);
    for (int i = 0; told[i]; i++) table_add(&t->table, told[i], COLUMN_F64);
    copy_f64(&t->table, "true_risk", l->true_risk, pick);
    copy_f64(&t->table, "true_risk_se", l->true_risk_se, pick);
    for (int i = 0; o->n_given && paired[i]; i++) table_add(&t->table, paired[i], COLUMN_F64);
    free(pick);
    table_init(&t->curve, t->table.n * o->n_curve);
    if (!o->n_curve) return;
    uint64_t *curve_key = table_add(&t->curve, "patient_key", COLUMN_U64);
    int64_t *index = table_add(&t->curve, "index_minutes", COLUMN_I64);
    static const char *const point[] = {"days", "risk", "se", "lo", "hi", "competing", "competing_se", NULL};
    for (int i = 0; point[i]; i++) table_add(&t->curve, point[i], COLUMN_F64);
    for (int64_t i = 0; i < t->curve.n; i++) {
        curve_key[i] = key[i / o->n_curve];
        index[i] = ((const int64_t *)table_get(&t->table, "index_minutes", COLUMN_I64))[i / o->n_curve];
    }
}

static JobKey row_job(const RiskTask *t, int64_t i) {
    return (JobKey){((const int64_t *)table_get(&t->table, "split", COLUMN_I64))[i],
                    ((const int64_t *)table_get(&t->table, "patient_row", COLUMN_I64))[i],
                    ((const int64_t *)table_get(&t->table, "index_minutes", COLUMN_I64))[i]};
}

/* The union of all tasks' rows, and which rows each job answers. */
static void jobs_make(RiskRun *r) {
    int64_t total = 0;
    for (int k = 0; k < r->n_tasks; k++) total += r->task[k].table.n;
    r->job = xcalloc((size_t)total + 1, sizeof *r->job);
    for (int k = 0; k < r->n_tasks; k++)
        for (int64_t i = 0; i < r->task[k].table.n; i++) r->job[r->n_jobs++] = row_job(&r->task[k], i);
    qsort(r->job, (size_t)total, sizeof *r->job, compare_jobs);
    r->n_jobs = 0;
    for (int64_t i = 0; i < total; i++)
        if (!i || compare_jobs(&r->job[i], &r->job[r->n_jobs - 1])) r->job[r->n_jobs++] = r->job[i];
    for (int k = 0; k < r->n_tasks; k++) {
        RiskTask *t = &r->task[k];
        int64_t n = t->table.n, *of = xcalloc((size_t)n + 1, sizeof *of);
        t->job_start = xcalloc((size_t)r->n_jobs + 1, sizeof *t->job_start);
        t->job_row = xcalloc((size_t)n + 1, sizeof *t->job_row);
        for (int64_t i = 0; i < n; i++) {
            JobKey key = row_job(t, i);
            of[i] = (JobKey *)bsearch(&key, r->job, (size_t)r->n_jobs, sizeof key, compare_jobs) - r->job;
            t->job_start[of[i] + 1]++;
        }
        for (int64_t j = 0; j < r->n_jobs; j++) t->job_start[j + 1] += t->job_start[j];
        int64_t *next = xcalloc((size_t)r->n_jobs + 1, sizeof *next);
        memcpy(next, t->job_start, (size_t)r->n_jobs * sizeof *next);
        for (int64_t i = 0; i < n; i++) t->job_row[next[of[i]]++] = i;
        free(next);
        free(of);
    }
}

void risk_task_free(RiskTask *t) {
    table_free(&t->table);
    table_free(&t->curve);
    free(t->job_row);
    free(t->job_start);
    t->job_row = t->job_start = NULL;
}

/* ---- outcomes in terms of tokens ----------------------------------------------------------------------------------*/

/* A stay's length is no token: the futures that leave it before the horizon are counted instead. */
static Status mark_stay_ends(RiskTask *t, const Vocabulary *v, int bit, uint32_t *mark, Err *err) {
    const char *json = table_attribute(&t->labels->table, "task");
    LabelTask task;
    int kind = -1;
    if (json && !label_task_parse(&task, json, strlen(json), t->labels->name, err)) {
        kind = task.kind;
        label_task_free(&task);
    }
    if (kind != LABEL_DURATION)
        return err_set(err, ERR_USAGE,
                       "%s: its outcome has no codes, so no simulated future could be seen to have it; label "
                       "an event, a value with levels of its own, or the length of a stay",
                       t->labels->name);
    t->complement = 1;
    int ends = 0;
    for (int id = 0; id < v->n; id++)
        if (v->token[id].kind == TOKEN_EVENT && v->token[id].event_kind == KIND_VISIT_END) {
            mark[id] |= 1u << bit;
            ends++;
        }
    if (!ends) return err_set(err, ERR_USAGE, "%s: the vocabulary has no token for the end of a stay", t->labels->name);
    mark[v->death] |= 1u << bit;
    return OK;
}

/* A task may count outcomes from some time after the index only. */
static void mark_early(RiskRun *r, int k) {
    const LabelFile *l = r->task[k].labels;
    if (!l->after_minutes) return;
    r->after[k] = (double)l->after_minutes;
    r->rollout.outcome_after = r->after;
    if (l->after_ends) r->rollout.after_ends |= 1u << k;
}

static Status mark_task(RiskRun *r, int k, uint32_t *mark, uint32_t *stop, int *stops, Err *err) {
    RiskTask *t = &r->task[k];
    const LabelFile *l = t->labels;
    const Vocabulary *v = &r->s->dataset.vocabulary;
    Status st =
        l->n_codes ? outcome_mark(v, l->name, l->codes, l->n_codes, k, mark, err) : mark_stay_ends(t, v, k, mark, err);
    if (!st && l->n_stops && !t->complement) {
        st = outcome_mark(v, "stop of the task", l->stops, l->n_stops, k, stop, err);
        *stops = 1;
    }
    if (!t->complement) mark_early(r, k);
    r->horizon[k] = (double)l->horizon_minutes;
    if (r->horizon[k] > r->rollout.horizon_minutes) r->rollout.horizon_minutes = r->horizon[k];
    return st;
}

/* ---- results of a job ---------------------------------------------------------------------------------------------*/

static double *column(Table *t, const char *name) { return (double *)(uintptr_t)table_get(t, name, COLUMN_F64); }

static void table_put(Table *t, int64_t row, const char *const *name, const double *value) {
    for (int i = 0; name[i]; i++) column(t, name[i])[row] = value[i];
}

static RiskEstimate complement_of(RiskEstimate e) {
    return (RiskEstimate){.risk = 1 - e.risk, .mc_se = e.mc_se, .lo = 1 - e.hi, .hi = 1 - e.lo};
}

static RiskEstimate estimate_values(const RiskRun *r, int k, int n) {
    RiskEstimate e = risk_estimate(r->rollout.estimator, r->values, n, r->looks);
    return r->task[k].complement ? complement_of(e) : e;
}

static void put_curve(RiskRun *r, int k, int64_t row, const RolloutSample *s, int n) {
    static const char *const name[] = {"days", "risk", "se", "lo", "hi", "competing", "competing_se", NULL};
    const int points = r->o->n_curve;
    for (int p = 0; p < points; p++) {
        size_t at = ((size_t)k * (size_t)points + (size_t)p) * 2;
        for (int i = 0; i < n; i++) r->values[i] = s[i].curve[at];
        RiskEstimate e = estimate_values(r, k, n);
        for (int i = 0; i < n; i++) r->values[i] = s[i].curve[at + 1];
        RiskEstimate other = mean_estimate(r->values, n, r->looks);
        if (r->task[k].complement) other = (RiskEstimate){NAN, NAN, NAN, NAN};
        table_put(
            &r->task[k].curve, row * points + p, name,
            (double[]){r->horizon[k] * (p + 1) / points / 1440, e.risk, e.mc_se, e.lo, e.hi, other.risk, other.mc_se});
    }
}

static void put_row(RiskRun *r, int k, int64_t row, const RolloutJob *job, const History *h, const RolloutSample *s,
                    int n) {
    static const char *const name[] = {"risk",         "mc_se",     "risk_lo",     "risk_hi", "competing_risk",
                                       "competing_se", "lead_days", "mean_tokens", NULL};
    RiskTask *t = &r->task[k];
    double weight = 0, minutes = 0, tokens = 0;
    for (int i = 0; i < n; i++) {
        r->values[i] = s[i].competing[k];
        weight += s[i].risk[k];
        minutes += s[i].weighted_minutes[k];
        tokens += s[i].decided[k];
    }
    RiskEstimate other = mean_estimate(r->values, n, r->looks);
    double lead = weight > 0 ? minutes / weight / 1440 : NAN;
    if (t->complement) other.risk = other.mc_se = lead = NAN;
    for (int i = 0; i < n; i++) r->values[i] = s[i].risk[k];
    RiskEstimate e = estimate_values(r, k, n);
    table_put(&t->table, row, name, (double[]){e.risk, e.mc_se, e.lo, e.hi, other.risk, other.mc_se, lead, tokens / n});
    ((int64_t *)(uintptr_t)table_get(&t->table, "n_samples", COLUMN_I64))[row] = n;
    ((int64_t *)(uintptr_t)table_get(&t->table, "known_tokens", COLUMN_I64))[row] = job->n_known;
    static const char *const told[] = {"unknown_share", "history_loss", "strangeness", NULL};
    table_put(&t->table, row, told, (double[]){h->unknown, h->loss, h->strangeness});
    ((int64_t *)(uintptr_t)table_get(&t->table, "reason", COLUMN_I64))[row] =
        history_reason(&r->o->limits, h, job->n_known) | history_dead(&r->s->dataset.vocabulary, &job->patient, job->n_known);
    if (r->o->n_curve) put_curve(r, k, row, s, n);
}

/* plain and given (n, tasks): paired by sample, as far as both go. */
static void put_pair(RiskRun *r, int64_t job, const double *plain, const double *given, int n, int n_given) {
    static const char *const name[] = {"risk_given",    "given_se",      "difference", "difference_se",
                                       "difference_lo", "difference_hi", NULL};
    for (int k = 0; k < r->n_tasks; k++) {
        RiskTask *t = &r->task[k];
        int both = n < n_given ? n : n_given, sign = t->complement ? -1 : 1;
        for (int i = 0; i < n_given; i++) r->values[i] = given[(size_t)i * (size_t)r->n_tasks + (size_t)k];
        RiskEstimate with = estimate_values(r, k, n_given);
        for (int i = 0; i < both; i++) {
            size_t at = (size_t)i * (size_t)r->n_tasks + (size_t)k;
            r->values[i] = sign * (given[at] - plain[at]);
        }
        RiskEstimate d = mean_estimate(r->values, both, r->looks);
        for (int64_t at = t->job_start[job]; at < t->job_start[job + 1]; at++)
            table_put(&t->table, t->job_row[at], name, (double[]){with.risk, with.mc_se, d.risk, d.mc_se, d.lo, d.hi});
    }
}

static double *sample_values(const RiskRun *r, const RolloutSample *s, int n) {
    double *out = xcalloc((size_t)n * (size_t)r->n_tasks, sizeof *out);
    for (int i = 0; i < n; i++)
        for (int k = 0; k < r->n_tasks; k++) out[(size_t)i * (size_t)r->n_tasks + (size_t)k] = s[i].risk[k];
    return out;
}

static void pair_take(RiskRun *r, int64_t e, int64_t job, const RolloutSample *s, int n) {
    Held *held = &r->held[e / 2];
    double *mine = sample_values(r, s, n);
    if (!held->values) {
        *held = (Held){mine, n};
        return;
    }
    if (e % 2) put_pair(r, job, held->values, mine, held->n, n);
    else put_pair(r, job, mine, held->values, n, held->n);
    free(held->values);
    free(mine);
    *held = (Held){0};
}

/* ---- parts --------------------------------------------------------------------------------------------------------*/

static char *fingerprint_of(const RiskRun *r, int k) {
    const RiskTask *t = &r->task[k];
    const char *task = table_attribute(&t->labels->table, "task");
    char rows[65], outcomes[65], pool[65], hex[65], *pools = xstrdup("");
    for (int i = 0; i < r->n_tasks; i++) { /* parts are of the pool's jobs */
        char *longer = xasprintf("%s %s", pools, r->task[i].labels->name);
        free(pools);
        pools = longer;
    }
    bytes_sha256(r->job, (size_t)r->n_jobs * sizeof *r->job, pool);
    bytes_sha256(table_get(&t->table, "index_minutes", COLUMN_I64), (size_t)t->table.n * 8, rows);
    bytes_sha256(table_get(&t->table, "outcome", COLUMN_I64), (size_t)t->table.n * 8, outcomes);
    char *text = xasprintf("%s|%s|%s|%s|%s|%s|%s|%s|%d|%d", r->o->settings, r->s->model_sha256, r->s->dataset.sha256,
                           task ? task : t->labels->name, pools, rows, outcomes, pool, r->rollout.estimator, r->o->n_curve);
    bytes_sha256(text, strlen(text), hex);
    free(text);
    free(pools);
    return xstrdup(hex);
}

static Parts parts_of(const RiskRun *r, int k, const char *suffix) {
    return (Parts){r->task[k].out, suffix, r->fingerprint[k], part_count(r->n_jobs)};
}

/* Rows [from, to) of the job order, each `times` rows of t. */
static void table_slice(const RiskTask *task, const Table *t, int64_t from, int64_t to, int64_t times, Table *out) {
    table_init(out, (to - from) * times);
    int64_t *row = table_add(out, "row", COLUMN_I64);
    for (int64_t i = 0; i < out->n; i++) row[i] = task->job_row[from + i / times];
    for (int c = 0; c < t->n_columns; c++) {
        char *data = table_add(out, t->column[c].name, t->column[c].type);
        for (int64_t i = 0; i < out->n; i++)
            memcpy(data + i * 8, (const char *)t->column[c].data + (row[i] * times + i % times) * 8, 8);
    }
    for (int a = 0; a < t->n_attributes; a++) table_set(out, t->attribute_name[a], t->attribute[a]);
}

static Status part_save(RiskRun *r, int part, Err *err) {
    int64_t size = part_size(r->n_jobs), a = part * size, b = a + size < r->n_jobs ? a + size : r->n_jobs;
    Status st = OK;
    for (int k = 0; !st && k < r->n_tasks; k++) {
        RiskTask *t = &r->task[k];
        Table slice;
        Parts rows = parts_of(r, k, ""), curves = parts_of(r, k, "-curve");
        /* The curve first: a part that is there is whole. */
        if (r->o->n_curve) {
            table_slice(t, &t->curve, t->job_start[a], t->job_start[b], r->o->n_curve, &slice);
            st = part_write(&curves, part, &slice, err);
            table_free(&slice);
        }
        if (st) break;
        table_slice(t, &t->table, t->job_start[a], t->job_start[b], 1, &slice);
        st = part_write(&rows, part, &slice, err);
        table_free(&slice);
    }
    return st;
}

/* The parts that fall to this rank and are not there yet. */
static Status parts_choose(RiskRun *r, RiskReport *report, Err *err) {
    const Launch ranks = ranks_read();
    int64_t size = part_size(r->n_jobs);
    Status st = OK;
    report->parts = part_count(r->n_jobs);
    for (int k = 0; !st && k < r->n_tasks; k++) {
        Parts p = parts_of(r, k, "");
        st = parts_open(&p, err);
    }
    for (int part = 0; !st && part < report->parts; part++) {
        int there = 1;
        for (int k = 0; !st && there && k < r->n_tasks; k++) {
            Parts p = parts_of(r, k, "");
            st = part_there(&p, part, &there, err);
        }
        if (there) report->parts_done++;
        if (there || part % ranks.world != ranks.rank) continue;
        for (int64_t j = part * size; j < (part + 1) * size && j < r->n_jobs; j++) {
            r->run[r->n_run++] = j;
            r->left[part] += r->per_job;
        }
    }
    return st;
}

static Status parts_finish(RiskRun *r, FILE *names, RiskReport *report, Err *err) {
    Status st = OK;
    for (int k = 0; !st && k < r->n_tasks; k++) {
        int missing;
        st = parts_join(r->task[k].out, &missing, names, err);
        if (missing > report->missing) report->missing = missing;
    }
    return st;
}

/* ---- the run ------------------------------------------------------------------------------------------------------*/

static Status get_job(void *ctx, int64_t e, RolloutJob *job, Err *err) {
    RiskRun *r = ctx;
    int64_t at = r->run[e / r->per_job];
    const JobKey *key = &r->job[at];
    Status s = dataset_patient(&r->s->dataset, (int)key->split, key->row, &job->patient, err);
    for (int k = 0; !s && k < r->n_tasks; k++) {
        const RiskTask *t = &r->task[k];
        if (t->job_start[at + 1] == t->job_start[at]) continue;
        uint64_t named =
            ((const uint64_t *)table_get(&t->table, "patient_key", COLUMN_U64))[t->job_row[t->job_start[at]]];
        if (job->patient.key != named)
            s = err_set(err, ERR_FORMAT,
                        "%s names patient key %llu where the dataset has %llu: the labels belong to another "
                        "dataset; run `ehr-data label` again",
                        t->labels->name, (unsigned long long)named, (unsigned long long)job->patient.key);
        job->watch |= 1u << k;
    }
    job->index_minutes = (int32_t)key->index;
    job->n_known = s ? 0 : rollout_known(&job->patient, job->index_minutes);
    if (r->per_job == 2 && e % 2) {
        job->given = r->o->given;
        job->n_given = r->o->n_given;
    }
    return s;
}

static int enough(void *ctx, int64_t e, const RolloutSample *s, int n) {
    RiskRun *r = ctx;
    int64_t at = r->run[e / r->per_job];
    for (int k = 0; k < r->n_tasks; k++) {
        if (r->task[k].job_start[at + 1] == r->task[k].job_start[at]) continue;
        for (int i = 0; i < n; i++) r->values[i] = s[i].risk[k];
        if (!(risk_se_to_stop(r->rollout.estimator, r->values, n) <= r->o->target_se)) return 0;
    }
    return 1;
}

static Status job_done(void *ctx, int64_t e, const RolloutJob *job, const RolloutSample *s, int n, Err *err) {
    RiskRun *r = ctx;
    int64_t at = r->run[e / r->per_job], size = part_size(r->n_jobs);
    if (r->per_job == 1 || e % 2 == 0)
        for (int k = 0; k < r->n_tasks; k++)
            for (int64_t i = r->task[k].job_start[at]; i < r->task[k].job_start[at + 1]; i++)
                put_row(r, k, r->task[k].job_row[i], job, &r->history[e / r->per_job], s, n);
    if (r->per_job == 2) pair_take(r, e, at, s, n);
    double took = clock_s() - r->start_s;
    snprintf(r->progress.note, sizeof r->progress.note, ", %.0f tokens/s",
             took > 0 ? (double)r->stats->tokens / took : 0);
    progress_update(&r->progress, ++r->n_done / r->per_job);
    return --r->left[at / size] == 0 && r->task[0].out ? part_save(r, (int)(at / size), err) : OK;
}

static Status plain_job(void *ctx, int64_t i, RolloutJob *job, Err *err) {
    RiskRun *r = ctx;
    return get_job(r, i * r->per_job, job, err);
}

/* What is known of each job's history, before any future. */
static Status look_at_histories(RiskRun *r, Err *err) {
    HistoryUsual usual;
    r->history = xcalloc((size_t)r->n_run + 1, sizeof *r->history);
    Status st = history_usual(r->s, r->o->limits.reference, &usual, err);
    if (!st) st = history_run(r->s, r->n_run, plain_job, r, r->o->progress, r->history, err);
    for (int64_t i = 0; !st && i < r->n_run; i++)
        r->history[i].strangeness = history_strangeness(&usual, &r->history[i]);
    return st;
}

static Status run_jobs(RiskRun *r, FILE *names, RiskReport *report, Err *err) {
    int64_t parts = part_count(r->n_jobs);
    int files = r->task[0].out != NULL;
    r->run = xcalloc((size_t)r->n_jobs, sizeof *r->run);
    r->left = xcalloc((size_t)parts, sizeof *r->left);
    r->fingerprint = xcalloc((size_t)r->n_tasks, sizeof *r->fingerprint);
    for (int k = 0; k < r->n_tasks; k++) r->fingerprint[k] = fingerprint_of(r, k);
    Status st = files ? parts_choose(r, report, err) : OK;
    for (int64_t j = 0; !files && j < r->n_jobs; j++) r->run[r->n_run++] = j;
    r->held = xcalloc((size_t)r->n_run + 1, sizeof *r->held);
    r->values = xcalloc((size_t)r->rollout.n_samples, sizeof *r->values);
    report->complete = r->n_run == r->n_jobs;
    if (!st && r->n_run) st = look_at_histories(r, err);
    if (!st && r->n_run) {
        RolloutCallbacks cb = {
            .get_job = get_job, .job_done = job_done, .enough = r->o->target_se > 0 ? enough : NULL, .ctx = r};
        r->stats = &report->rollout;
        r->start_s = clock_s();
        progress_open(&r->progress, r->o->progress, r->n_tasks > 1 ? "risk" : r->task[0].labels->name, "index times",
                      r->n_run);
        st = rollout_run(&r->s->law, &r->s->dataset.vocabulary, &r->rollout, r->n_run * r->per_job, &cb, r->stats, err);
        progress_close(&r->progress, r->n_done / r->per_job);
    }
    if (!st && files) st = parts_finish(r, names, report, err);
    for (int64_t i = 0; i < r->n_run; i++) free(r->held[i].values);
    for (int k = 0; k < r->n_tasks; k++) free(r->fingerprint[k]);
    free(r->fingerprint);
    free(r->held);
    free(r->history);
    free(r->values);
    free(r->run);
    free(r->left);
    return st;
}

static void attributes_set(RiskRun *r, int k) {
    static const char *const copied[] = {"task", "outcome_codes", "horizon_minutes"}, *const estimator[] = {
                                                                                          "mc", "scope", "reach"};
    RiskTask *t = &r->task[k];
    Table *both[] = {&t->table, &t->curve};
    for (int i = 0; i < 2; i++) {
        table_set(both[i], "name", t->labels->name);
        for (size_t c = 0; c < 3; c++) {
            const char *text = table_attribute(&t->labels->table, copied[c]);
            if (text) table_set(both[i], copied[c], text);
        }
        table_set(both[i], "estimator", estimator[r->rollout.estimator]);
        table_set(both[i], "model_sha256", r->s->model_sha256);
        table_set(both[i], "dataset_sha256", r->s->dataset.sha256);
        if (r->o->settings) table_set(both[i], "settings", r->o->settings);
        if (!i) table_set(both[i], "reasons", "1 record too short, 2 too much unknown, 4 too strange, 8 dead at the index; sums of them");
        if (r->o->n_given) table_set(both[i], "given_note", "association, not effect");
    }
}

Status risk_run(Session *s, RiskTask *task, int n_tasks, const RiskOptions *o, FILE *names, RiskReport *report,
                Err *err) {
    const Vocabulary *v = &s->dataset.vocabulary;
    RiskRun r = {
        .s = s, .task = task, .n_tasks = n_tasks, .o = o, .rollout = o->rollout, .per_job = o->n_given ? 2 : 1};
    uint32_t *mark = xcalloc((size_t)v->n, sizeof *mark), *stop = xcalloc((size_t)v->n, sizeof *stop);
    int stops = 0;
    Status st = OK;
    *report = (RiskReport){0};
    REQUIRE(n_tasks >= 1 && n_tasks <= SAMPLE_OUTCOMES_MAX &&
            (n_tasks == 1 || o->rollout.estimator != ESTIMATOR_REACH));
    r.rollout.horizon_minutes = 0;
    for (int k = 0; !st && k < n_tasks; k++) {
        rows_init(&task[k], o);
        if (!task[k].table.n)
            st = err_set(err, ERR_USAGE, "%s has no rows in the asked split: see --split", task[k].labels->name);
        if (!st) st = mark_task(&r, k, mark, stop, &stops, err);
        if (!st) attributes_set(&r, k);
    }
    if (!st) {
        jobs_make(&r);
        r.rollout.outcome_bits = mark;
        r.rollout.n_outcomes = n_tasks;
        r.rollout.outcome_horizon = r.horizon;
        r.rollout.stop_bits = stops ? stop : NULL;
        r.rollout.n_curve = o->n_curve;
        r.rollout.first_look = o->target_se > 0 ? o->rollout.first_look : 0;
        r.looks = r.rollout.first_look ? look_count(r.rollout.first_look, r.rollout.n_samples) : 1;
        st = run_jobs(&r, names, report, err);
    }
    free(r.job);
    free(mark);
    free(stop);
    return st;
}
