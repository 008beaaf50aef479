/* validate_events.c - an events file against its promises: order, availability, births, deaths, ends of observation. */
#include "data/validate_leaks.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    ValidateReport *r;
    EventFile *f;
    int64_t row, alive, ends_with_last, previous_subject;
    EventLeaks leaks;
} Check;

#define PLACE "patient %lld, event %lld"
#define AT(c, i) (long long)(c)->row, (long long)(i)

/* Static events first, then available time, kind, code string (codes are sorted), value with none last; see event.h. */
static int before(const EventFile *f, const Event *a, const Event *b) {
    int ka = f->code_kind[a->code], kb = f->code_kind[b->code];
    if (a->available != b->available) return a->available < b->available;
    if (ka != kb) return ka < kb;
    if (a->code != b->code) return a->code < b->code;
    return a->value < b->value || (isnan(b->value) && !isnan(a->value));
}

static void check_times(const Check *c, const EventPatient *p) {
    /* Dates of MIMIC are shifted into 2100 to 2212. */
    const int64_t earliest = time_from_civil(1850, 1, 1, 0, 0, 0), latest = time_from_civil(2300, 1, 1, 0, 0, 0);
    for (int64_t i = 0; i < p->n; i++) {
        const Event *e = &p->event[i];
        if (i && before(c->f, e, &p->event[i - 1])) report_add(c->r, FIND_ORDER, PLACE, AT(c, i));
        if (e->time == TIME_NONE) continue;
        if (e->available < e->time) report_add(c->r, FIND_AVAILABLE, PLACE ": %s", AT(c, i), c->f->codes[e->code]);
        if (e->time < earliest || e->time > latest)
            report_add(c->r, FIND_IMPLAUSIBLE_TIME, PLACE ": %s", AT(c, i), c->f->codes[e->code]);
    }
}

/* Days, not minutes: dates of birth and death rarely carry a time. */
static int64_t day_of(int64_t us) { return us / US_PER_DAY - (us % US_PER_DAY < 0); }

static int64_t time_of_kind(const Check *c, const EventPatient *p, int kind) {
    for (int64_t i = 0; i < p->n; i++)
        if (c->f->code_kind[p->event[i].code] == kind && p->event[i].time != TIME_NONE) return p->event[i].time;
    return TIME_NONE;
}

static void check_life(const Check *c, const EventPatient *p, int64_t birth, int64_t death) {
    for (int64_t i = 0; i < p->n; i++) {
        const Event *e = &p->event[i];
        if (e->time == TIME_NONE) continue;
        if (birth != TIME_NONE && day_of(e->time) < day_of(birth))
            report_add(c->r, FIND_BEFORE_BIRTH, PLACE ": %s", AT(c, i), c->f->codes[e->code]);
        if (death != TIME_NONE && day_of(e->time) > day_of(death))
            report_add(c->r, FIND_POSTHUMOUS, PLACE ": %s", AT(c, i), c->f->codes[e->code]);
    }
}

static void check_end(Check *c, const EventPatient *p, int dead) {
    int64_t last = p->n ? p->event[p->n - 1].available : TIME_NONE;
    if (p->observation_end == TIME_NONE) {
        report_add(c->r, FIND_END_UNKNOWN, "patient %lld", (long long)c->row);
        return;
    }
    if (last == TIME_NONE) return;
    /* A day that is cut short is not a contradiction: observation may end at midnight of the day of the last event. */
    if (day_of(p->observation_end) < day_of(last))
        report_add(c->r, FIND_END_BEFORE_LAST, "patient %lld", (long long)c->row);
    c->alive += !dead;
    c->ends_with_last += !dead && p->observation_end / US_PER_MINUTE == last / US_PER_MINUTE;
}

static void check_subject(Check *c, const EventPatient *p) {
    if (c->row && p->subject == c->previous_subject)
        report_add(c->r, FIND_PATIENT_TWICE, "patients %lld and %lld", (long long)c->row - 1, (long long)c->row);
    else if (c->row && p->subject < c->previous_subject)
        report_add(c->r, FIND_ORDER, "patient %lld: subjects do not ascend", (long long)c->row);
    c->previous_subject = p->subject;
    int64_t birth = time_of_kind(c, p, KIND_BIRTH), death = time_of_kind(c, p, KIND_DEATH);
    check_times(c, p);
    check_life(c, p, birth, death);
    check_end(c, p, death != TIME_NONE);
    event_leaks_patient(&c->leaks, c->r, c->row, p);
    c->r->n_patients++;
    c->r->n_items += p->n;
}

Status validate_events(ValidateReport *r, const char *path, FILE *progress, Err *err) {
    EventFile f;
    Err why = {0};
    report_init(r, "events file");
    if (!path_exists(path) || path_is_dir(path)) return err_set(err, ERR_IO, "cannot read the events file %s", path);
    if (event_file_open(&f, path, &why)) {
        report_add(r, FIND_OPEN, "%s", why.msg);
        return OK;
    }
    Check c = {.r = r, .f = &f};
    Progress bar;
    event_leaks_open(&c.leaks, &f);
    progress_open(&bar, progress, "validate", "patients", f.n_patients);
    for (c.row = 0; c.row < f.n_patients; c.row++) {
        EventPatient p;
        if (event_file_patient(&f, c.row, &p, &why))
            report_add(r, FIND_RECORD, "patient %lld: %s", (long long)c.row, why.msg);
        else check_subject(&c, &p);
        progress_update(&bar, c.row + 1);
    }
    progress_close(&bar, f.n_patients);
    event_leaks_report(&c.leaks, r);
    event_leaks_close(&c.leaks);
    if (!f.n_patients || !f.n_events) report_add(r, FIND_EMPTY, "%s", path);
    int oracle = !strcmp(f.source, "oracle");
    if (2 * c.ends_with_last > c.alive) {
        report_add(r, FIND_END_EQUALS_LAST, "%lld of %lld patients without death%s", (long long)c.ends_with_last,
                   (long long)c.alive, oracle ? "; by design in an oracle cohort" : "");
        if (oracle) r->finding[FIND_END_EQUALS_LAST].severity = SEVERITY_INFO;
    }
    event_file_close(&f);
    return OK;
}
