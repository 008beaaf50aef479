/* inspect_timeline.c - one patient, readable.  In a dataset times are relative to the first event, because that is all
 * a dataset knows; gap tokens show as time that passed. */
#include "data/inspect.h"
#include "data/note_text.h"
#include <math.h>
#include <string.h>

void minutes_format(int64_t minutes, char *out, size_t size) {
    int64_t m = minutes < 0 ? -minutes : minutes, years = m / 525600, days = m % 525600 / 1440;
    char year[32] = "";
    if (years) snprintf(year, sizeof year, "%lldy ", (long long)years);
    snprintf(out, size, "%s%s%lldd %02d:%02d", minutes < 0 ? "-" : "+", year, (long long)days, (int)(m % 1440 / 60),
             (int)(m % 60));
}

/* ---- a patient of a dataset
 * --------------------------------------------------------------------------------------------- */

static void print_patient_head(const Dataset *d, int split, const PatientView *p, FILE *out) {
    char observed[64];
    minutes_format(p->observation_end, observed, sizeof observed);
    fprintf(out, "patient        %lld of %s (key %llu)\n", (long long)p->row, split_name(split),
            (unsigned long long)p->key);
    fprintf(out, "static        ");
    for (int i = 0; i < d->vocabulary.n_static; i++) fprintf(out, " %s", d->vocabulary.token[p->statics[i]].code);
    if (p->age_years < 200) fprintf(out, ", age %d at the first event\n", p->age_years);
    else fprintf(out, ", age unknown\n");
    for (int g = 0; g < d->n_groups; g++) {
        const char *label = dataset_group_label(d, g, p->group[g]);
        fprintf(out, "%s%s=%s%s", g ? " " : "groups         ", d->group_name[g], label[0] ? label : "unknown",
                g + 1 == d->n_groups ? "\n" : "");
    }
    fprintf(out, "record         %lld tokens, observed until %s\n\n", (long long)p->n, observed);
}

static void print_age(FILE *out, const PatientView *p, int32_t minutes) {
    if (p->age_years < 200) fprintf(out, " %6.1f", p->age_years + minutes / 525960.0);
    else fprintf(out, " %6s", "");
}

/* "LOINC//4548-4=Q7  Hemoglobin A1c  6.1-7.0 %"; a separate value token belongs to the line of its event. */
static void print_events_of(const Dataset *d, const PatientView *p, int64_t limit, FILE *out) {
    const Vocabulary *v = &d->vocabulary;
    int64_t shown = 0;
    NoteText note = {0};
    fprintf(out, "  %17s %6s  %s\n", "time", "age", "event");
    for (int64_t i = 0; i < p->n && (!limit || shown < limit); i++) {
        int id = (int)patient_token(p, i);
        NoteState state = note_text_take(&note, v, id);
        if (state != NOTE_GOES_ON && (state == NOTE_WHOLE || note.open)) {
            if (note.open) note_text_close(&note, 1);
            note_text_print(&note, 30, out);
        }
        if (state != NOTE_NONE || v->token[id].kind == TOKEN_GAP) continue;
        char time[64], text[512];
        minutes_format(p->minutes[i], time, sizeof time);
        vocabulary_describe(v, id, text, sizeof text);
        fprintf(out, "  %17s", time);
        print_age(out, p, p->minutes[i]);
        fprintf(out, "  %s", text);
        if (i + 1 < p->n && v->token[patient_token(p, i + 1)].kind == TOKEN_VALUE)
            fprintf(out, "  %s", v->token[patient_token(p, ++i)].code);
        fprintf(out, "\n");
        shown++;
    }
    note_text_free(&note);
}

static void print_tokens_of(const Dataset *d, const PatientView *p, int64_t limit, FILE *out) {
    const Vocabulary *v = &d->vocabulary;
    int32_t prefix[64];
    int n = dataset_prefix(d, p, 0, prefix, 64);
    fprintf(out, "  %7s %6s %10s  %s\n", "index", "id", "minutes", "token");
    for (int i = 0; i < n; i++) fprintf(out, "  %7s %6d %10s  %s\n", "prefix", prefix[i], "", v->token[prefix[i]].code);
    for (int64_t i = 0; i < p->n && (!limit || i < limit); i++) {
        uint32_t id = patient_token(p, i);
        fprintf(out, "  %7lld %6u %10d  %s", (long long)i, id, p->minutes[i], v->token[id].code);
        if (p->oracle_logp && !isnan(p->oracle_logp[i])) fprintf(out, "  (log p %.4f)", (double)p->oracle_logp[i]);
        fprintf(out, "\n");
    }
}

Status inspect_patient(Dataset *d, int split, int64_t row, int64_t limit, int tokens, FILE *out, Err *err) {
    PatientView p;
    Status status = dataset_patient(d, split, row, &p, err);
    if (status) return status;
    print_patient_head(d, split, &p, out);
    if (tokens) print_tokens_of(d, &p, limit, out);
    else print_events_of(d, &p, limit, out);
    return OK;
}

/* ---- a subject of an events file
 * ------------------------------------------------------------------------------------------ */

static void time_format(int64_t us, int precision, char *out, size_t size) {
    int y, mo, d, h, mi, s;
    if (us == TIME_NONE) {
        snprintf(out, size, "-");
        return;
    }
    time_to_civil(us, &y, &mo, &d, &h, &mi, &s);
    if (precision == PRECISION_DAY) snprintf(out, size, "%04d-%02d-%02d", y, mo, d);
    else snprintf(out, size, "%04d-%02d-%02d %02d:%02d", y, mo, d, h, mi);
}

/* The text of an event, as much of it as a screen may take. */
static Status print_text(EventFile *f, int64_t number, FILE *out, Err *err) {
    NoteText note = {0};
    const char *text;
    size_t n;
    Status status = event_file_text(f, number, &text, &n, err);
    if (status) return status;
    note.text = xmalloc(note.capacity = n + 8);
    memcpy(note.text, text, n);
    note.text[note.n = n] = 0;
    note_text_close(&note, 0);
    note_text_print(&note, 43, out);
    note_text_free(&note);
    return OK;
}

static void print_event(const EventFile *f, const Event *e, FILE *out) {
    static const char *const comparator[] = {"", "<", "<=", ">=", ">"};
    char time[64], available[64], visit[32] = "";
    time_format(e->time, e->precision, time, sizeof time);
    time_format(e->available, PRECISION_MINUTE, available, sizeof available);
    if (e->visit) snprintf(visit, sizeof visit, "%u", e->visit);
    fprintf(out, "  %16s %16s %5s  %s", time, available, visit, f->codes[e->code]);
    if (f->code_name[e->code][0]) fprintf(out, "  %s", f->code_name[e->code]);
    if (!isnan(e->value))
        fprintf(out, "  %s%g%s%s", e->comparator <= COMPARE_GT ? comparator[e->comparator] : "?", (double)e->value,
                e->unit ? " " : "", e->unit ? f->units[e->unit] : "");
    fprintf(out, "\n");
}

Status inspect_subject(EventFile *f, int64_t row, int64_t limit, FILE *out, Err *err) {
    EventPatient p;
    char end[64];
    Status status = event_file_patient(f, row, &p, err);
    if (status) return status;
    time_format(p.observation_end, PRECISION_MINUTE, end, sizeof end);
    fprintf(out, "subject        %lld (row %lld)%s%s\n", (long long)p.subject, (long long)row,
            p.split == SPLIT_UNSET ? "" : ", split ", p.split == SPLIT_UNSET ? "" : split_name(p.split));
    fprintf(out, "record         %lld events, observed until %s\n\n", (long long)p.n, end);
    fprintf(out, "  %16s %16s %5s  %s\n", "time", "available", "visit", "event");
    for (int64_t i = 0; i < p.n && (!limit || i < limit) && !status; i++) {
        print_event(f, &p.event[i], out);
        if (p.event[i].note) status = print_text(f, p.first_note + p.event[i].note - 1, out, err);
    }
    return status;
}
