/* inspect.c - statistics of datasets and events files.  One pass; memory grows with the number of patients and codes.
 */
#include "data/inspect.h"
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- shared by both kinds of files
 * ----------------------------------------------------------------------------------- */

static int ascending(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

static void print_quantiles(FILE *out, const char *what, int64_t *lengths, int64_t n) {
    static const double at[] = {0, 0.05, 0.25, 0.5, 0.75, 0.95, 1};
    static const char *const name[] = {"min", "5%", "25%", "median", "75%", "95%", "max"};
    if (!n) return;
    qsort(lengths, (size_t)n, sizeof *lengths, ascending);
    fprintf(out, "%s\n ", what);
    for (size_t i = 0; i < sizeof at / sizeof *at; i++)
        fprintf(out, "%s%s %lld", i ? "   " : " ", name[i],
                (long long)lengths[(int64_t)llround(at[i] * (double)(n - 1))]);
    fprintf(out, "\n");
}

/* How often a code was seen, and by how many patients (counted when the patient differs from the last one that had it).
 */
typedef struct {
    int64_t count, patients, last;
    int id;
} Tally;

static void tally(Tally *t, int64_t patient) {
    t->count++;
    if (t->last != patient + 1) {
        t->last = patient + 1;
        t->patients++;
    }
}

static int by_count(const void *a, const void *b) {
    const Tally *x = a, *y = b;
    if (x->count != y->count) return x->count > y->count ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

typedef struct {
    const char *code, *name;
} CodeText;

static void print_top(FILE *out, Tally *t, int n, int top, int64_t n_events, int64_t n_patients,
                      CodeText (*text)(const void *, int), const void *context) {
    qsort(t, (size_t)n, sizeof *t, by_count);
    fprintf(out, "most frequent codes\n  %12s %8s %10s  %s\n", "events", "share", "patients", "code");
    for (int i = 0; i < n && i < top && t[i].count; i++) {
        CodeText c = text(context, t[i].id);
        fprintf(out, "  %12lld %7.2f%% %9.1f%%  %s%s%s\n", (long long)t[i].count,
                100.0 * (double)t[i].count / (double)n_events, 100.0 * (double)t[i].patients / (double)n_patients,
                c.code, c.name[0] ? "  " : "", c.name);
    }
}

static void print_kind(FILE *out, const char *name, int64_t n, int64_t all, int64_t unknown) {
    if (!n) return;
    fprintf(out, "  %-14s %14lld %7.2f%%", name, (long long)n, 100.0 * (double)n / (double)all);
    if (unknown >= 0) fprintf(out, " %8.2f%%", 100.0 * (double)unknown / (double)n);
    fprintf(out, "\n");
}

/* ---- a dataset
 * ------------------------------------------------------------------------------------------------------- */

typedef struct {
    const Dataset *d;
    int *base;   /* (V) id under which a token is tallied: its first level */
    Tally *code; /* (V) */
    int64_t *lengths, n_patients, n_tokens, n_deaths, n_gaps, n_values, n_text, n_notes, n_other, n_events;
    int64_t events[KIND_COUNT], unknown[KIND_COUNT];
    double minutes, logp[SPLIT_COUNT];
    int64_t n_logp[SPLIT_COUNT];
} Survey;

static void survey_patient(Survey *s, int split, const PatientView *p) {
    const Vocabulary *v = &s->d->vocabulary;
    for (int64_t i = 0; i < p->n; i++) {
        int id = (int)patient_token(p, i);
        const VocabToken *t = &v->token[id];
        if (p->oracle_logp && !isnan(p->oracle_logp[i])) {
            s->logp[split] += (double)p->oracle_logp[i];
            s->n_logp[split]++;
        }
        if (t->kind == TOKEN_EVENT || t->kind == TOKEN_UNKNOWN) {
            s->events[t->event_kind]++;
            s->unknown[t->event_kind] += t->kind == TOKEN_UNKNOWN;
            s->n_deaths += id == v->death;
            s->n_events++;
            tally(&s->code[s->base[id]], s->n_patients);
        } else if (t->kind == TOKEN_GAP) {
            s->n_gaps++;
        } else if (t->kind == TOKEN_VALUE) {
            s->n_values++;
        } else if (t->kind == TOKEN_TEXT) {
            s->n_text++;
            s->n_notes += id == v->text_begin;
        } else {
            s->n_other++;
        }
    }
    int32_t last = p->n ? p->minutes[p->n - 1] : 0;
    s->minutes += p->observation_end > last ? p->observation_end : last;
    s->lengths[s->n_patients++] = p->n;
    s->n_tokens += p->n;
}

static CodeText token_text(const void *context, int id) {
    const Vocabulary *v = context;
    return (CodeText){v->token[id].base, v->token[id].name};
}

static void print_survey(Survey *s, int top, FILE *out) {
    const Vocabulary *v = &s->d->vocabulary;
    double years = s->minutes / 525960.0;
    fprintf(out, "observed       %.1f patient-years, %.1f tokens a year, %lld deaths\n", years,
            years > 0 ? (double)s->n_tokens / years : 0.0, (long long)s->n_deaths);
    for (int sp = 0; sp < SPLIT_COUNT; sp++)
        if (s->n_logp[sp])
            fprintf(out, "oracle floor   %.4f nats a token over %lld tokens of %s%s\n",
                    -s->logp[sp] / (double)s->n_logp[sp], (long long)s->n_logp[sp], split_name(sp),
                    s->d->floor_valid ? "" : " (marked as not valid for these tokens)");
    if (s->n_notes) fprintf(out, "notes          %lld in %lld tokens\n", (long long)s->n_notes, (long long)s->n_text);
    print_quantiles(out, "tokens a patient", s->lengths, s->n_patients);
    if (!s->n_tokens) return;
    fprintf(out, "tokens by kind\n  %-14s %14s %8s %9s\n", "kind", "tokens", "share", "unknown");
    for (int k = 0; k < KIND_COUNT; k++) print_kind(out, event_kind_name(k), s->events[k], s->n_tokens, s->unknown[k]);
    print_kind(out, "gap", s->n_gaps, s->n_tokens, -1);
    print_kind(out, "value", s->n_values, s->n_tokens, -1);
    print_kind(out, "text", s->n_text, s->n_tokens, -1);
    print_kind(out, "out of place", s->n_other, s->n_tokens, -1);
    if (s->n_events) print_top(out, s->code, v->n, top, s->n_events, s->n_patients, token_text, v);
}

static void print_head(const Dataset *d, int only, FILE *out) {
    const Vocabulary *v = &d->vocabulary;
    json_t *root = json_loads(d->json, 0, NULL);
    const char *source = json_string_value(json_object_get(root, "source"));
    fprintf(out, "dataset        %s\n", d->path);
    fprintf(out, "source         %s; de-identification: %s\n", source ? source : "unknown", d->deidentification);
    fprintf(out, "vocabulary     %d tokens, %s values, ages in %d-year bins; prefix:", v->n,
            v->separate_values ? "separate" : "fused", v->age_bin_years);
    for (int i = 0; i < v->n_static; i++) fprintf(out, " %s", v->static_name[i]);
    fprintf(out, "\nsha256         %.16s... (dataset.json), %.16s... (vocabulary)\n", d->sha256, v->sha256);
    for (int s = 0; s < SPLIT_COUNT; s++)
        if (only < 0 || only == s)
            fprintf(out, "%-14s %lld patients, %lld tokens\n", split_name(s), (long long)d->n_patients[s],
                    (long long)d->n_tokens[s]);
    json_decref(root);
}

Status inspect_dataset(Dataset *d, int split, int top, FILE *out, Err *err) {
    Vocabulary *v = &d->vocabulary;
    Survey s = {.d = d};
    int64_t P = 0;
    Status status = OK;
    for (int sp = 0; sp < SPLIT_COUNT; sp++) P += split < 0 || sp == split ? d->n_patients[sp] : 0;
    s.lengths = xcalloc((size_t)P, sizeof *s.lengths);
    s.base = xcalloc((size_t)v->n, sizeof *s.base);
    s.code = xcalloc((size_t)v->n, sizeof *s.code);
    for (int id = 0; id < v->n; id++) {
        /* Levels of one code stand next to each other. */
        int same = id && v->token[id].level && v->token[id].kind == TOKEN_EVENT &&
                   !strcmp(v->token[id].base, v->token[id - 1].base);
        s.base[id] = same ? s.base[id - 1] : id;
        s.code[id].id = id;
    }
    for (int sp = 0; sp < SPLIT_COUNT && !status; sp++)
        for (int64_t row = 0; (split < 0 || sp == split) && row < d->n_patients[sp] && !status; row++) {
            PatientView p;
            status = dataset_patient(d, sp, row, &p, err);
            if (!status) survey_patient(&s, sp, &p);
        }
    if (!status) {
        print_head(d, split, out);
        print_survey(&s, top, out);
    }
    free(s.lengths);
    free(s.base);
    free(s.code);
    return status;
}

/* ---- an events file
 * --------------------------------------------------------------------------------------------------- */

static CodeText event_text(const void *context, int id) {
    const EventFile *f = context;
    return (CodeText){f->codes[id], f->code_name[id]};
}

static void print_events(const EventFile *f, Tally *code, int64_t *lengths, const int64_t kinds[KIND_COUNT],
                         int64_t n_values, int64_t n_ends, int top, FILE *out) {
    double P = (double)f->n_patients, E = (double)f->n_events;
    fprintf(out, "events file    %s\nsource         %s\nsha256         %.16s...\n", f->path, f->source, f->sha256);
    fprintf(out, "patients       %lld, %.1f%% with a known end of observation\n", (long long)f->n_patients,
            P > 0 ? 100.0 * (double)n_ends / P : 0.0);
    if (f->n_notes)
        fprintf(out, "notes          %lld with %lld bytes of free text\n", (long long)f->n_notes, (long long)f->note_bytes);
    fprintf(out, "events         %lld, %.1f%% with a value; %lld codes, %lld units\n", (long long)f->n_events,
            E > 0 ? 100.0 * (double)n_values / E : 0.0, (long long)f->n_codes, (long long)f->n_units - 1); /* the first is none */
    print_quantiles(out, "events a patient", lengths, f->n_patients);
    if (!f->n_events) return;
    fprintf(out, "events by kind\n  %-14s %14s %8s\n", "kind", "events", "share");
    for (int k = 0; k < KIND_COUNT; k++) print_kind(out, event_kind_name(k), kinds[k], f->n_events, -1);
    print_top(out, code, (int)f->n_codes, top, f->n_events, f->n_patients, event_text, f);
}

Status inspect_events(EventFile *f, int top, FILE *out, Err *err) {
    int64_t kinds[KIND_COUNT] = {0}, n_values = 0, n_ends = 0;
    int64_t *lengths = xcalloc((size_t)f->n_patients, sizeof *lengths);
    Tally *code = xcalloc((size_t)f->n_codes, sizeof *code);
    Status status = OK;
    for (int64_t c = 0; c < f->n_codes; c++) code[c].id = (int)c;
    for (int64_t row = 0; row < f->n_patients && !status; row++) {
        EventPatient p;
        if ((status = event_file_patient(f, row, &p, err))) break;
        lengths[row] = p.n;
        n_ends += p.observation_end != TIME_NONE;
        for (int64_t i = 0; i < p.n; i++) {
            kinds[f->code_kind[p.event[i].code]]++;
            n_values += !isnan(p.event[i].value);
            tally(&code[p.event[i].code], row);
        }
    }
    if (!status) print_events(f, code, lengths, kinds, n_values, n_ends, top, out);
    free(lengths);
    free(code);
    return status;
}
