/* metrics.c - see metrics.h. */
#include "train/metrics.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const size_t JSON_STYLE = JSON_COMPACT | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(9);

static void set_real(json_t *o, const char *key, double x) {
    json_object_set_new(o, key, isfinite(x) ? json_real(x) : json_null());
}
static void set_int(json_t *o, const char *key, int64_t x) { json_object_set_new(o, key, json_integer(x)); }

/* Takes o over.  A log that cannot be written (disk full) is a warning: training goes on. */
static void write_line(Metrics *m, json_t *o) {
    if (m->log && (json_dumpf(o, m->log, JSON_STYLE) || fputc('\n', m->log) == EOF || fflush(m->log)) && !m->warned) {
        fprintf(stderr, "warning: cannot write %s (%s): training goes on without it\n", m->path, strerror(errno));
        m->warned = 1;
    }
    if (m->log) clearerr(m->log);
    json_decref(o);
}

/* Rewrites the log with the lines up to first_step; a torn last line (killed while writing) is dropped. */
static Status keep_lines(const char *path, int64_t first_step, Err *err) {
    char *old, *text, *kept = NULL;
    size_t size, kept_size = 0;
    Status s = file_read(path, (size_t)1 << 32, &old, &size, err);
    if (s) return s;
    text = old;
    FILE *out = open_memstream(&kept, &kept_size);
    REQUIRE(out != NULL);
    for (char *line; (line = strsep(&text, "\n"));) {
        json_t *o = json_loads(line, 0, NULL), *step = json_object_get(o, "step");
        if (o && (!step || json_integer_value(step) <= first_step)) fprintf(out, "%s\n", line);
        json_decref(o);
    }
    fclose(out);
    s = file_write(path, kept, kept_size, err);
    free(kept);
    free(old);
    return s;
}

Status metrics_open(Metrics *m, const char *run_dir, int64_t first_step, int64_t total_steps, const ModelConfig *cfg,
                    double peak_flops, json_t *run, Err *err) {
    *m = (Metrics){.first_step = first_step, .total_steps = total_steps, .cfg = cfg, .peak_flops = peak_flops};
    m->run_dir = xstrdup(run_dir);
    m->path = xasprintf("%s/log.jsonl", run_dir);
    m->start_s = clock_s();
    Status s = OK;
    if (first_step > 0 && path_exists(m->path)) s = keep_lines(m->path, first_step, err);
    if (!s && !(m->log = fopen(m->path, first_step > 0 ? "a" : "w")))
        s = err_set(err, ERR_IO, "cannot write %s: %s", m->path, strerror(errno));
    if (s) {
        json_decref(run);
        metrics_close(m);
        return s;
    }
    json_t *o = json_object();
    json_object_set_new(o, "run", run);
    write_line(m, o);
    return OK;
}

void metrics_close(Metrics *m) {
    if (m->log) fclose(m->log);
    free(m->path);
    free(m->run_dir);
    *m = (Metrics){0};
}

static void time_text(double seconds, char *out, size_t size) {
    long s = lround(seconds);
    if (s >= 3600) snprintf(out, size, "%ld:%02ld:%02ld", s / 3600, s / 60 % 60, s % 60);
    else snprintf(out, size, "%ld:%02ld", s / 60, s % 60);
}

void metrics_step(Metrics *m, int64_t step, int64_t epoch, double learning_rate, double seconds, const StepResult *r) {
    /* The first step touches memory for the first time: it does not count for the rate. */
    int64_t done = step - m->first_step;
    m->step_s = done <= 2 ? seconds : 0.9 * m->step_s + 0.1 * seconds;
    m->train_s += seconds;
    m->tokens += (double)r->tokens;
    double rate = (double)r->tokens / seconds, left = (double)(m->total_steps - step) * m->step_s;
    double mfu = m->peak_flops > 0 ? model_flops_per_token(m->cfg, r->mean_context) * rate / m->peak_flops : NAN;

    if (m->lines++ % 40 == 0)
        fprintf(stderr, "%12s  %7s  %7s  %9s  %9s  %8s  %5s  %8s\n", "step", "loss", "excess", "grad norm", "rate",
                "tokens/s", "MFU", "left");
    char progress[32], excess[16] = "-", used[16] = "-", time_left[32];
    snprintf(progress, sizeof progress, "%lld/%lld", (long long)step, (long long)m->total_steps);
    if (isfinite(r->excess)) snprintf(excess, sizeof excess, "%.4f", r->excess);
    if (isfinite(mfu)) snprintf(used, sizeof used, "%.1f%%", 100 * mfu);
    time_text(left, time_left, sizeof time_left);
    fprintf(stderr, "%12s  %7.4f  %7s  %9.4f  %9.3e  %8.0f  %5s  %8s\n", progress, r->loss, excess, r->grad_norm,
            learning_rate, rate, used, time_left);

    json_t *o = json_object();
    set_int(o, "step", step);
    set_int(o, "epoch", epoch);
    set_real(o, "loss", r->loss);
    set_real(o, "excess", r->excess);
    set_real(o, "grad_norm", r->grad_norm);
    set_real(o, "learning_rate", learning_rate);
    set_int(o, "targets", r->targets);
    set_int(o, "tokens", r->tokens);
    set_real(o, "tokens_per_s", rate);
    set_real(o, "mfu", mfu);
    set_real(o, "seconds_left", left);
    write_line(m, o);
}

void metrics_skipped(Metrics *m, int64_t step, const StepResult *r, const LoaderCursor *at, int in_a_row) {
    fprintf(stderr, "warning: step %lld left out: loss %g, grad norm %g (batch from epoch %lld, block %lld, row %lld; %d in a row)\n",
            (long long)step, r->loss, r->grad_norm, (long long)at->epoch, (long long)at->block, (long long)at->row, in_a_row);
    json_t *o = json_object();
    set_int(o, "skipped", in_a_row);
    set_int(o, "step", step);
    set_int(o, "epoch", at->epoch);
    set_int(o, "block", at->block);
    set_int(o, "row", at->row);
    write_line(m, o);
}

static void set_evaluation(json_t *o, const Evaluation *e) {
    set_real(o, "loss", e->loss);
    set_real(o, "per_event", e->per_event);
    set_real(o, "per_patient_year", e->per_patient_year);
    set_real(o, "loss_floor", e->loss_floor);
    set_real(o, "excess_loss", e->excess);
    set_real(o, "excess_se", e->excess_se);
    set_real(o, "loss_unigram", e->loss_unigram);
    set_real(o, "loss_bigram", e->loss_bigram);
    set_int(o, "targets", e->targets);
    set_int(o, "known_targets", e->known);
    set_int(o, "patients", e->patients);
    set_real(o, "patient_years", e->patient_years);
}

void metrics_eval(Metrics *m, int64_t step, const Evaluation *e) {
    fprintf(stderr, "%12s  loss %.4f (unigram %.4f, bigram %.4f", "tuning", e->loss, e->loss_unigram, e->loss_bigram);
    if (e->known) fprintf(stderr, ", floor %.4f: excess %.4f +- %.4f", e->loss_floor, e->excess, e->excess_se);
    fprintf(stderr, ")  %.3f an event, %.1f a patient-year\n", e->per_event, e->per_patient_year);
    json_t *o = json_object();
    json_object_set_new(o, "eval", json_string("tuning"));
    set_int(o, "step", step);
    set_evaluation(o, e);
    write_line(m, o);
}

void metrics_checkpoint(Metrics *m, int64_t step, double seconds) {
    char name[32];
    snprintf(name, sizeof name, "step-%lld", (long long)step);
    fprintf(stderr, "%12s  %s/%s (%.1f s)\n", "saved", m->run_dir, name, seconds);
    json_t *o = json_object();
    json_object_set_new(o, "checkpoint", json_string(name));
    set_int(o, "step", step);
    write_line(m, o);
}

static void print_summary(const Metrics *m, int64_t step, const char *stopped_by, const Evaluation *last) {
    char took[32];
    time_text(clock_s() - m->start_s, took, sizeof took);
    printf("%s at step %lld of %lld after %s, %.0f tokens/s in steps\n", stopped_by ? stopped_by : "done", (long long)step,
           (long long)m->total_steps, took, m->train_s > 0 ? m->tokens / m->train_s : 0);
    if (last) {
        printf("tuning split, nats a token: loss %.4f   unigram %.4f   bigram %.4f", last->loss, last->loss_unigram,
               last->loss_bigram);
        if (last->known) printf("   floor %.4f   excess %.4f +- %.4f", last->loss_floor, last->excess, last->excess_se);
        printf("\n");
    }
    printf("checkpoint: %s/latest\n", m->run_dir);
    fflush(stdout);
}

Status metrics_summary(const Metrics *m, int64_t step, const char *stopped_by, const StepResult *r, const Evaluation *last,
                       int64_t eval_step, int64_t best_step, double best_loss, json_t *run, Err *err) {
    print_summary(m, step, stopped_by, last);
    json_t *o = json_object();
    set_int(o, "step", step);
    set_int(o, "total_steps", m->total_steps);
    json_object_set_new(o, "stopped_by", stopped_by ? json_string(stopped_by) : json_null());
    set_real(o, "train_loss", r ? r->loss : NAN);
    if (last) {
        set_int(o, "eval_step", eval_step);
        set_evaluation(o, last);
    }
    json_object_set_new(o, "best_step", best_step > 0 ? json_integer(best_step) : json_null());
    set_real(o, "best_loss", best_step > 0 ? best_loss : NAN);
    set_real(o, "seconds", clock_s() - m->start_s);
    set_real(o, "tokens_per_s", m->train_s > 0 ? m->tokens / m->train_s : NAN);
    json_object_set_new(o, "run", run);
    char *path = xasprintf("%s/summary.json", m->run_dir);
    char *text = json_dumps(o, JSON_INDENT(1) | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(9));
    Status s = file_write(path, text, strlen(text), err);
    free(text);
    free(path);
    json_decref(o);
    return s;
}
