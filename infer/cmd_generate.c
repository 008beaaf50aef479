/* cmd_generate.c - ehr-infer generate: one patient's recorded history, simulated futures and what really happened, with
 * times relative to the index time; readable, or JSON lines. */
#include "data/note_text.h"
#include "infer/commands.h"
#include "infer/page.h"
#include "infer/session.h"
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    SessionFlags session;
    PatientFlags patient;
    const char *data, *clock, *window, *out, *html;
    int64_t     samples, batch, seed, horizon, max_tokens, history, top_k;
    double      temperature;
    int         json;
    StringList  outcomes;
} GenerateFlags;

enum { PRINTED_WITH_PAGE = 3 };

typedef struct {
    Session             *s;
    const GenerateFlags *f;
    RolloutJob           job;
    const uint32_t      *mark;
    FILE                *out;
    FILE                *html; /* NULL: no page */
} GenerateRun;

/* ---- readable ------------------------------------------------------------------------------------------------------ */

static int is_gap(const Vocabulary *v, int id) { return id >= v->gap_lo && id < v->gap_lo + GAP_TOKENS; }

static void print_event(const GenerateRun *r, double minutes, int id, double *shown) {
    char when[48], what[256];
    minutes_text(minutes, when, sizeof when);
    vocabulary_describe(&r->s->dataset.vocabulary, id, what, sizeof what);
    /* Events of one moment share a line head. */
    fprintf(r->out, "  %14s  %s%s\n", fabs(minutes - *shown) < 1 ? "" : when, what,
            r->mark && r->mark[id] ? "   <- outcome" : "");
    *shown = minutes;
}

/* Whether a token was one of a note; notes are printed as text. */
static int print_note(const GenerateRun *r, NoteText *note, int id) {
    NoteState state = note_text_take(note, &r->s->dataset.vocabulary, id);
    if (state == NOTE_GOES_ON) return 1;
    if (note->open) note_text_close(note, 1);
    else if (state == NOTE_NONE) return 0;
    note_text_print(note, 20, r->out);
    return state == NOTE_WHOLE;
}

static void print_note_end(const GenerateRun *r, NoteText *note) {
    if (note->open) {
        note_text_close(note, 1);
        note_text_print(note, 20, r->out);
    }
    note_text_free(note);
}

static void print_recorded(const GenerateRun *r, int64_t from, int64_t to) {
    const Vocabulary *v = &r->s->dataset.vocabulary;
    NoteText note = {0};
    double shown = NAN;
    for (int64_t i = from; i < to; i++) {
        int id = (int)patient_token(&r->job.patient, i);
        if (!print_note(r, &note, id) && !is_gap(v, id))
            print_event(r, r->job.patient.minutes[i] - (double)r->job.index_minutes, id, &shown);
    }
    print_note_end(r, &note);
}

static void print_patient(const GenerateRun *r) {
    const PatientView *p = &r->job.patient;
    const Vocabulary *v = &r->s->dataset.vocabulary;
    fprintf(r->out, "patient key:%llu (%s)", (unsigned long long)p->key, r->f->patient.split);
    for (int i = 0; i < v->n_static; i++) fprintf(r->out, ", %s", v->token[p->statics[i]].code);
    if (p->age_years == AGE_UNKNOWN) fprintf(r->out, ", age unknown\n");
    else fprintf(r->out, ", age %.0f at the index time\n", p->age_years + r->job.index_minutes / 525960.0);
    int64_t shown = r->f->history && r->job.n_known > r->f->history ? r->job.n_known - r->f->history : 0;
    fprintf(r->out, "\nrecorded history: %lld tokens known at the index time (00:00)%s\n", (long long)r->job.n_known,
            shown ? ", the last ones:" : "");
    print_recorded(r, shown, r->job.n_known);
}

static void print_sample(const GenerateRun *r, int k, const RolloutSample *s) {
    const Vocabulary *v = &r->s->dataset.vocabulary;
    char length[48];
    minutes_text(s->minutes, length, sizeof length);
    fprintf(r->out, "\nsimulated future %d: %d tokens, ends %s (%s)\n", k, s->n_tokens, length, stop_name(s->stop));
    NoteText note = {0};
    double shown = NAN;
    for (int i = 0; i < s->n_tokens; i++)
        if (!print_note(r, &note, s->tokens[i]) && !is_gap(v, s->tokens[i]))
            print_event(r, s->token_minutes[i], s->tokens[i], &shown);
    print_note_end(r, &note);
}

static void print_truth(const GenerateRun *r) {
    const PatientView *p = &r->job.patient;
    int64_t end = r->job.n_known;
    while (end < p->n && p->minutes[end] - r->job.index_minutes <= r->f->horizon) end++;
    char observed[48];
    minutes_text(p->observation_end - (double)r->job.index_minutes, observed, sizeof observed);
    fprintf(r->out, "\nwhat really happened (observed until %s):\n", observed);
    print_recorded(r, r->job.n_known, end);
    if (end == r->job.n_known) fprintf(r->out, "  nothing was recorded\n");
}

/* ---- JSON lines ---------------------------------------------------------------------------------------------------- */

static void json_note(json_t *list, NoteText *note, double minutes) {
    json_array_append_new(list, json_pack("{s:f, s:s, s:s}", "days", minutes / 1440, "kind", "text", "text", note->text));
}

/* note: the tokens of a text so far; they become one event.  id -1: no token comes any more. */
static void json_event(json_t *list, const Vocabulary *v, NoteText *note, int id, double minutes) {
    NoteState state = id < 0 ? NOTE_NONE : note_text_take(note, v, id);
    if (state == NOTE_GOES_ON) return;
    int cut = note->open;
    if (cut) note_text_close(note, 1);
    if (cut || state == NOTE_WHOLE) json_note(list, note, minutes);
    if (state == NOTE_WHOLE || id < 0 || is_gap(v, id)) return;
    const VocabToken *t = &v->token[id];
    json_array_append_new(list, json_pack("{s:f, s:s, s:s, s:s}", "days", minutes / 1440, "kind",
                                          t->event_kind < 0 ? "value" : event_kind_name(t->event_kind), "code", t->code,
                                          "name", t->name));
}

static void json_line(const GenerateRun *r, json_t *o) {
    char *text = json_dumps(o, JSON_COMPACT);
    fprintf(r->out, "%s\n", text);
    free(text);
    json_decref(o);
}

static void json_recorded(const GenerateRun *r, const char *kind, int64_t from, int64_t to) {
    const PatientView *p = &r->job.patient;
    json_t *list = json_array();
    NoteText note = {0};
    for (int64_t i = from; i <= to; i++) {
        int id = i < to ? (int)patient_token(p, i) : -1;
        double minutes = to > from ? p->minutes[i < to ? i : to - 1] - (double)r->job.index_minutes : 0;
        json_event(list, &r->s->dataset.vocabulary, &note, id, minutes);
    }
    note_text_free(&note);
    json_line(r, json_pack("{s:s, s:I, s:f, s:f, s:o}", "kind", kind, "patient_key", (json_int_t)p->key, "index_days",
                           r->job.index_minutes / 1440.0, "observed_days",
                           (p->observation_end - (double)r->job.index_minutes) / 1440.0, "events", list));
}

static void json_sample(const GenerateRun *r, int k, const RolloutSample *s) {
    json_t *list = json_array();
    NoteText note = {0};
    for (int i = 0; i <= s->n_tokens; i++)
        json_event(list, &r->s->dataset.vocabulary, &note, i < s->n_tokens ? s->tokens[i] : -1,
                   s->n_tokens ? s->token_minutes[i < s->n_tokens ? i : s->n_tokens - 1] : 0);
    note_text_free(&note);
    json_line(r, json_pack("{s:s, s:I, s:i, s:s, s:f, s:o}", "kind", "future", "patient_key",
                           (json_int_t)r->job.patient.key, "sample", k, "stop", stop_name(s->stop), "days", s->minutes / 1440,
                           "events", list));
}

/* ---- the run ------------------------------------------------------------------------------------------------------- */

static Status get_job(void *ctx, int64_t i, RolloutJob *job, Err *err) {
    (void)i;
    (void)err;
    *job = ((GenerateRun *)ctx)->job;
    return OK;
}

static Status job_done(void *ctx, int64_t i, const RolloutJob *job, const RolloutSample *samples, int n, Err *err) {
    (void)i;
    (void)job;
    (void)err;
    GenerateRun *r = ctx;
    for (int k = 0; k < n; k++) {
        if (r->f->json) json_sample(r, k, &samples[k]);
        else if (!r->html || k < PRINTED_WITH_PAGE) print_sample(r, k, &samples[k]);
    }
    if (r->html) {
        Page p = {.s = r->s, .job = &r->job, .sample = samples, .n = n, .horizon_minutes = (double)r->f->horizon, .mark = r->mark,
                  .outcome = r->f->outcomes.item, .n_outcomes = r->f->outcomes.n};
        page_write(&p, r->html);
    }
    return OK;
}

static Status generate(Session *s, const GenerateFlags *f, FILE *out, FILE *html, Err *err) {
    const Vocabulary *v = &s->dataset.vocabulary;
    GenerateRun r = {.s = s, .f = f, .out = out, .html = html};
    Status st = session_job(s, &f->patient, &r.job, err);
    if (st) return st;
    uint32_t *mark = xcalloc((size_t)v->n, sizeof *mark);
    for (int o = 0; !st && o < f->outcomes.n; o++)
        st = outcome_list_mark(v, "--outcome", f->outcomes.item[o], o, mark, err);
    r.mark = mark;
    /* Outcomes are marked, not stopped at: a future is shown to its end. */
    RolloutOptions o = {.n_samples = (int)f->samples, .batch = (int)f->batch, .max_tokens = (int)f->max_tokens,
                        .seed = (uint64_t)f->seed, .horizon_minutes = (double)f->horizon, .estimator = ESTIMATOR_MC,
                        .mean_clock = !strcmp(f->clock, "mean"), .keep_paths = 1, .exact_window = !strcmp(f->window, "exact"), .temperature = f->temperature,
                        .top_k = (int)f->top_k};
    if (!st) {
        if (f->json) json_recorded(&r, "history", 0, r.job.n_known);
        else print_patient(&r);
        RolloutCallbacks cb = {.get_job = get_job, .job_done = job_done, .ctx = &r};
        RolloutStats stats;
        st = rollout_run(&s->law, v, &o, 1, &cb, &stats, err);
        if (!st) {
            if (f->json) json_recorded(&r, "recorded", r.job.n_known, r.job.patient.n);
            else print_truth(&r);
            fprintf(stderr, "%lld tokens in %.2f s (%.0f tokens/s)\n", (long long)stats.tokens, stats.seconds,
                    (double)stats.tokens / stats.seconds);
        }
    }
    free(mark);
    return st;
}

/* What most want to see, as far as the vocabulary has it. */
static void page_outcomes(const Vocabulary *v, StringList *out) {
    static const char *const usual[] = {"MEDS_DEATH", "VISIT//IN", "VISIT//IP", "VISIT//ERIP", "ICU_IN"};
    uint32_t *mark = xcalloc((size_t)v->n, sizeof *mark);
    for (size_t i = 0; i < sizeof usual / sizeof *usual; i++)
        if (vocabulary_match(v, &usual[i], 1, 1, mark) > 0) out->item[out->n++] = usual[i];
    free(mark);
}

Status cmd_generate(int argc, char **argv, Err *err) {
    GenerateFlags f = {.session = SESSION_FLAGS_DEFAULT, .patient = PATIENT_FLAGS_DEFAULT, .clock = "quantile", .window = "block",
                       .samples = 3, .batch = 256, .seed = 1, .horizon = 525600, .max_tokens = 2048, .history = 40,
                       .temperature = 1};
    Flag flags[] = {
        {"--data", FLAG_STRING, &f.data, 0, 0, NULL, "dataset folder", 0},
        PATIENT_FLAGS(f.patient),
        {"--samples", FLAG_INT, &f.samples, 1, 1e6, NULL, "simulated futures", 0},
        {"--horizon", FLAG_DURATION, &f.horizon, 1, 1e8, NULL, "length of the futures", 0},
        {"--outcome", FLAG_LIST, &f.outcomes, 0, 0, NULL, "CODE[,CODE] to mark in the futures, and to draw the risk of; may be repeated", 0},
        {"--history", FLAG_INT, &f.history, 0, 1e9, NULL, "recorded tokens to print before the index time; 0 = all", 0},
        {"--temperature", FLAG_FLOAT, &f.temperature, 0.01, 100, NULL, "1 = the model's own law", 0},
        {"--top-k", FLAG_INT, &f.top_k, 0, 1e6, NULL, "draw among the k likeliest tokens; 0 = all", 0},
        {"--window", FLAG_ENUM, &f.window, 0, 0, "block|exact", "beyond the model's sequence: keep the newer half and go on, or "
         "always all that fits (a prefill a token)", 0},
        {"--clock", FLAG_ENUM, &f.clock, 0, 0, "quantile|mean", "length of a simulated gap", 0},
        {"--max-tokens", FLAG_INT, &f.max_tokens, 1, 1e6, NULL, "longest future, in tokens", 0},
        {"--seed", FLAG_INT, &f.seed, 0, 0, NULL, "key of all random numbers", 0},
        {"--batch", FLAG_INT, &f.batch, 1, 65536, NULL, "live futures at a time", 0},
        {"--json", FLAG_BOOL, &f.json, 0, 0, NULL, "JSON lines: history, one line a future, what was recorded", 0},
        {"--html", FLAG_STRING, &f.html, 0, 0, NULL, "also draw a page: FILE.html, with nothing to load; death and admissions are the "
         "outcomes unless given, and 64 the futures", 0},
        {"--out", FLAG_STRING, &f.out, 0, 0, NULL, "write here, not to standard output", 0},
        SESSION_FLAGS(f.session),
        SESSION_GRAPHS_FLAG(f.session),
    };
    const int n = sizeof flags / sizeof *flags;
    const char *pos[1];
    int n_pos, help;
    Status st = flags_parse(flags, n, argc, argv, pos, 1, &n_pos, &help, err);
    if (st) return st;
    if (help) {
        flags_help(flags, n, "ehr-infer generate CHECKPOINT --data DATASET [--split held_out] [--patient K] [...]",
                   "Simulated futures of one patient.  Times are relative to the index time.", stdout);
        return OK;
    }
    if (n_pos != 1 || !f.data) return err_set(err, ERR_USAGE, "needs a CHECKPOINT and --data DATASET (--help)");
    for (int i = 0; f.html && i < n; i++)
        if (!strcmp(flags[i].name, "--samples") && !flags[i].seen) f.samples = 64;
    if (f.outcomes.n > SAMPLE_OUTCOMES_MAX) return err_set(err, ERR_USAGE, "--outcome: at most %d", SAMPLE_OUTCOMES_MAX);
    if (f.batch > f.samples) f.batch = f.samples;
    Session s;
    st = session_open(&s, pos[0], f.data, &f.session, err);
    if (!st) session_note(&s, stderr);
    OutFile out = {0}, html = {0};
    if (!st && f.html && !f.outcomes.n) page_outcomes(&s.dataset.vocabulary, &f.outcomes);
    if (!st && f.html) st = out_file_open(&html, f.html, err);
    if (!st && f.out) st = out_file_open(&out, f.out, err);
    if (!st) st = generate(&s, &f, f.out ? out.f : stdout, html.f, err);
    if (out.path) st = out_file_close(&out, st, err);
    if (html.path) st = out_file_close(&html, st, err);
    if (!st && f.html) fprintf(stderr, "%s\n", f.html);
    session_close(&s);
    return st;
}
