/* label_patient.c - the rules of labelling, on one patient's raw events.
 *
 * An index is a moment of *available* time: what was known by the end of its minute, which is how finely tokens tell time,
 * is history.  Outcomes are judged by when they *happened*; something that happened earlier and became known later is no
 * outcome. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "data/label_build.h"

const char *const EXCLUSION_NAME[EXCLUSIONS] = {"no index",
                                                "index before the record",
                                                "dead at the index",
                                                "stay over at the index",
                                                "not observed at the index",
                                                "had it before",
                                                "index is no discharge",
                                                "admitted again that day"};

typedef struct {
    int64_t us, stay_start, stay_end; /* TIME_NONE = none */
    int64_t known_us;                 /* the last moment of the token minute of us: until then all is told to a model */
} IndexTime;

/* A file may hold any time, and what is reckoned from the latest must not turn into the earliest; INT64_MAX says never. */
static int64_t later(int64_t us, int64_t by) {
    int64_t sum;
    if (!__builtin_add_overflow(us, by, &sum) && sum != INT64_MAX && sum != TIME_NONE) return sum;
    return by > 0 ? INT64_MAX - 1 : TIME_NONE + 1;
}
static int64_t minutes_later(int64_t us, int64_t minutes) { return later(us, minutes * US_PER_MINUTE); }
static int64_t day_of(int64_t us) { return us / US_PER_DAY - (us % US_PER_DAY < 0); }

/* 23:59 of the day. */
static int64_t end_of_day(int64_t us) {
    int64_t into = us % US_PER_DAY;
    return later(us, US_PER_DAY - US_PER_MINUTE - (into < 0 ? into + US_PER_DAY : into));
}

/* A date-only event happened when it became known, if that was the same day, else at the end of its day. */
static int64_t happened(const Event *e) {
    if (e->precision != PRECISION_DAY) return e->time;
    int64_t end = end_of_day(e->time);
    return e->available >= e->time && e->available < end ? e->available : end;
}

/* When an event counts for the task.  An index before a result lies between taking the sample and knowing: there the
 * result happens when it is known. */
static int64_t counted(const LabelTask *t, const Event *e) {
    return t->index == INDEX_BEFORE_RESULT ? e->available : happened(e);
}

static int is_true(const LabelPredicate *p, const EventFile *f, const Event *e) {
    if (p->unit[0] && strcmp(f->units[e->unit], p->unit)) return 0;
    return !p->bounded || (e->value > p->above && e->value < p->below);
}

static int is_outcome(const LabelTask *t, const EventFile *f, const uint32_t *marks, const Event *e) {
    return (marks[e->code] & MARK_OUTCOME) && is_true(&t->outcome, f, e);
}

static int is_stop(const LabelTask *t, const EventFile *f, const uint32_t *marks, const Event *e) {
    for (int i = 0; i < t->n_stops; i++)
        if ((marks[e->code] & (uint32_t)MARK_STOP << i) && is_true(&t->stop[i], f, e)) return 1;
    return 0;
}

/* ---- index times ------------------------------------------------------------------------------------------------- */

/* When the stay that event `start` opens was over; TIME_NONE: not recorded. */
static int64_t stay_end(const EventFile *f, const EventPatient *p, int64_t start) {
    uint32_t visit = p->event[start].visit;
    for (int64_t i = start + 1; i < p->n; i++) {
        const Event *e = &p->event[i];
        if (f->code_kind[e->code] == KIND_VISIT_END && (!visit || e->visit == visit)) return e->available;
    }
    return TIME_NONE;
}

/* The inpatient stay that event `end` closes; -1: it closes none. */
static int64_t stay_start(const EventFile *f, const uint32_t *marks, const EventPatient *p, int64_t end) {
    uint32_t visit = p->event[end].visit;
    for (int64_t i = end - 1; i >= 0; i--) {
        const Event *e = &p->event[i];
        if (f->code_kind[e->code] == KIND_VISIT_START && (!visit || e->visit == visit))
            return marks[e->code] & MARK_INPATIENT ? i : -1;
    }
    return -1;
}

typedef struct {
    IndexTime *at;
    int64_t n, room;
} IndexList;

/* Once, though several visits may end, or results come, at one time. */
static void push(IndexList *l, int64_t us, int64_t start, int64_t end) {
    for (int64_t i = l->n; i > 0 && l->at[i - 1].us == us; i--)
        if (l->at[i - 1].stay_start == start && l->at[i - 1].stay_end == end) return;
    if (l->n == l->room) {
        l->room = l->room ? 2 * l->room : 16;
        l->at = xrealloc(l->at, (size_t)l->room * sizeof *l->at);
    }
    l->at[l->n++] = (IndexTime){us, start, end, us};
}

static void find_at_visits(const LabelTask *t, const EventFile *f, const uint32_t *marks, const EventPatient *p,
                           IndexList *l) {
    for (int64_t i = 0; i < p->n; i++) {
        const Event *e = &p->event[i];
        int kind = f->code_kind[e->code];
        if (e->available == TIME_NONE) continue;
        int64_t day_end = end_of_day(e->available);
        if (t->index == INDEX_ADMISSION && kind == KIND_VISIT_START && marks[e->code] & MARK_INPATIENT)
            push(l, t->day_end ? day_end : minutes_later(e->available, t->index_offset_minutes), e->available, stay_end(f, p, i));
        if (t->index == INDEX_VISIT_END && kind == KIND_VISIT_END) push(l, e->available, TIME_NONE, TIME_NONE);
        if (t->index == INDEX_DISCHARGE && kind == KIND_VISIT_END && stay_start(f, marks, p, i) >= 0)
            push(l, t->day_end ? day_end : e->available, TIME_NONE, e->available);
        if (t->index == INDEX_BEFORE_RESULT && marks[e->code] & MARK_OUTCOME && isfinite(e->value) &&
            (!t->outcome.unit[0] || !strcmp(f->units[e->unit], t->outcome.unit)))
            push(l, minutes_later(e->available, -1), TIME_NONE, TIME_NONE);
    }
}

/* A year before the observation ends; for those who died, a year before the whole file's does, so that how a record
 * ended does not choose where it is looked at. */
static int64_t last_year(const LabelRecord *r, int64_t observed_until, int64_t death) {
    return later(death == INT64_MAX ? observed_until : r->last_us, -365 * US_PER_DAY);
}

static void find_at_times(const LabelTask *t, const EventFile *f, const EventPatient *p, const LabelRecord *r,
                          int64_t observed_until, int64_t death, IndexList *l) {
    if (t->index == INDEX_LAST_YEAR) push(l, last_year(r, observed_until, death), TIME_NONE, TIME_NONE);
    if (t->index == INDEX_ORACLE && r->oracle_us != TIME_NONE) push(l, r->oracle_us, TIME_NONE, TIME_NONE);
    for (int64_t i = 0; t->index == INDEX_FILE && i < r->n_labels; i++)
        push(l, r->label[i].index_us, TIME_NONE, TIME_NONE);
    for (int64_t i = 0; t->index == INDEX_AGE && i < p->n; i++) {
        if (f->code_kind[p->event[i].code] != KIND_BIRTH || p->event[i].time == TIME_NONE) continue;
        push(l, later(p->event[i].time, (int64_t)(t->index_age_years * 365.25 * US_PER_DAY)), TIME_NONE, TIME_NONE);
        return;
    }
}

/* ---- outcomes ---------------------------------------------------------------------------------------------------- */

typedef struct {
    int64_t event, stop; /* us, INT64_MAX = none */
    const Event *outcome;
    int prior, early; /* before the index; before "after" was over */
} Found;

/* An outcome that only has a date counts on the day the stay ends.  No death in MIMIC, which gives only a date of those who
 * were discharged alive: whoever died that day died after it. */
static int within(const EventFile *f, const Event *e, int64_t when, int64_t limit, int64_t stay_end_us) {
    if (when <= limit) return 1;
    if (f->code_kind[e->code] == KIND_DEATH && !strcmp(f->source, "mimic")) return 0;
    return limit == stay_end_us && e->precision == PRECISION_DAY && day_of(e->time) == day_of(limit);
}

static Found look_after(const LabelTask *t, const EventFile *f, const uint32_t *marks, const EventPatient *p,
                        const IndexTime *at, int64_t limit) {
    Found found = {INT64_MAX, INT64_MAX, NULL, 0, 0};
    int64_t begin = minutes_later(at->us, t->after_minutes);
    for (int64_t i = 0; i < p->n; i++) {
        const Event *e = &p->event[i];
        if (e->time == TIME_NONE || f->code_kind[e->code] == KIND_BIRTH) continue;
        int64_t when = counted(t, e);
        int known = when <= at->known_us || e->available <= at->known_us;
        if (is_outcome(t, f, marks, e)) {
            if (known) found.prior |= t->first != FIRST_OF_STAY || e->available >= at->stay_start;
            else if (t->after_minutes && when <= begin) found.early = 1;
            else if (within(f, e, when, limit, at->stay_end) && when < found.event) {
                found.event = when;
                found.outcome = e;
            }
        }
        if (!known && when <= limit && when < found.stop && is_stop(t, f, marks, e)) found.stop = when;
    }
    return found;
}

static double minutes_after(int64_t us, int64_t index) {
    int64_t after;
    if (us == INT64_MAX) return NAN;
    if (__builtin_sub_overflow(us, index, &after)) after = us > index ? INT64_MAX : INT64_MIN;
    return (double)after / US_PER_MINUTE;
}

/* Duration: the stay lasted longer_than from its start. */
static int outcome_of_duration(const IndexTime *at, int64_t limit, int64_t death, int64_t observed_until) {
    int64_t over = at->stay_end != TIME_NONE ? at->stay_end : INT64_MAX;
    if (death < over) over = death;
    if (over <= limit) return 0;
    return observed_until >= limit || over != INT64_MAX ? 1 : -1;
}

static int outcome_of_event(const LabelTask *t, const IndexTime *at, const Found *found, int64_t limit, int64_t death,
                            int64_t observed_until) {
    int counts = found->event != INT64_MAX && !(t->first && found->early);
    if (counts && found->event <= found->stop) return 1;
    if (found->stop != INT64_MAX || death <= limit) return 0; /* competing ends */
    if (t->until_discharge && at->stay_end != TIME_NONE && at->stay_end <= limit) return 0;
    return observed_until < limit ? -1 : 0;
}

static int why_not(const LabelTask *t, const LabelRecord *r, const IndexTime *at, int64_t death,
                   int64_t observed_until) {
    if (at->us < r->origin_us) return EXCLUDED_BEFORE;
    if (death <= at->known_us) return EXCLUDED_DEAD;
    if (t->index == INDEX_ADMISSION && at->stay_end != TIME_NONE && at->stay_end <= at->known_us) return EXCLUDED_LEFT;
    if (observed_until < at->us) return EXCLUDED_UNOBSERVED;
    return -1;
}

static int at_discharge(const EventFile *f, const uint32_t *marks, const EventPatient *p, int64_t us) {
    for (int64_t i = 0; i < p->n; i++)
        if (p->event[i].available == us && f->code_kind[p->event[i].code] == KIND_VISIT_END)
            return stay_start(f, marks, p, i) >= 0;
    return 0;
}

/* Was there an admission from a discharge to the end of its day? */
static int back_in_hospital(const EventFile *f, const uint32_t *marks, const EventPatient *p, const IndexTime *at) {
    for (int64_t i = 0; i < p->n; i++) {
        const Event *e = &p->event[i];
        if (e->available == TIME_NONE || e->available < at->stay_end || e->available > at->us) continue;
        if (f->code_kind[e->code] == KIND_VISIT_START && marks[e->code] & MARK_INPATIENT) return 1;
    }
    return 0;
}

/* Returns the reason to leave the index out, -1 = none. */
static int row_of(const LabelTask *t, const EventFile *f, const uint32_t *marks, const EventPatient *p,
                  const LabelRecord *r, const IndexTime *at, int64_t death, int64_t observed_until, LabelRow *row) {
    int why = why_not(t, r, at, death, observed_until);
    if (why >= 0) return why;
    if (t->at_discharge && !at_discharge(f, marks, p, at->us)) return EXCLUDED_NOT_DISCHARGE;
    if (t->day_end && t->index == INDEX_DISCHARGE && back_in_hospital(f, marks, p, at)) return EXCLUDED_BACK;
    int64_t limit = minutes_later(at->us, t->horizon_minutes);
    if (t->kind == LABEL_DURATION) limit = minutes_later(at->stay_start, t->longer_than_minutes);
    *row = (LabelRow){.index_us = at->us, .event_minutes = NAN};
    if (t->kind == LABEL_DURATION) {
        row->outcome = outcome_of_duration(at, limit, death, observed_until);
        if (row->outcome == 1) row->event_minutes = minutes_after(limit, at->us);
    } else {
        int64_t end = t->until_discharge && at->stay_end != TIME_NONE && at->stay_end < limit ? at->stay_end : limit;
        Found found = look_after(t, f, marks, p, at, end);
        if (t->first && found.prior) return EXCLUDED_PRIOR;
        row->outcome = outcome_of_event(t, at, &found, end, death, observed_until);
        if (row->outcome == 1) row->event_minutes = minutes_after(found.event, at->us);
        if (found.outcome) {
            row->event_code = found.outcome->code;
            row->event_value = found.outcome->value;
            row->event_unit = found.outcome->unit;
        }
    }
    if (row->outcome < 0 && t->censored_negative) row->outcome = 0;
    row->censor_minutes = minutes_after(observed_until, at->us);
    row->death_minutes = minutes_after(death, at->us);
    return -1;
}

int64_t label_patient(const LabelTask *t, const EventFile *f, const uint32_t *marks, const EventPatient *p,
                      const LabelRecord *r, LabelRow **rows, int64_t *room, LabelCounts *counts) {
    int64_t death = INT64_MAX, last = TIME_NONE, n = 0;
    for (int64_t i = 0; i < p->n; i++) {
        const Event *e = &p->event[i];
        if (e->time == TIME_NONE) continue;
        if (e->available > last) last = e->available;
        if (f->code_kind[e->code] == KIND_DEATH && happened(e) < death) death = happened(e);
    }
    int64_t observed_until = p->observation_end != TIME_NONE ? p->observation_end : last;
    IndexList list = {0};
    find_at_visits(t, f, marks, p, &list);
    find_at_times(t, f, p, r, observed_until, death, &list);
    counts->patients++;
    if (!list.n) counts->excluded[EXCLUDED_NO_INDEX]++;
    for (int64_t i = 0; i < list.n; i++) {
        LabelRow row;
        IndexTime *at = &list.at[i];
        if (at->us >= r->origin_us && at->us <= observed_until)
            at->known_us = later(
                at->us, US_PER_MINUTE - 1 - (int64_t)(((uint64_t)at->us - (uint64_t)r->origin_us) % US_PER_MINUTE));
        int why = row_of(t, f, marks, p, r, at, death, observed_until, &row);
        if (why >= 0) {
            counts->excluded[why]++;
            continue;
        }
        if (n == *room) {
            *room = *room ? 2 * *room : 16;
            *rows = xrealloc(*rows, (size_t)*room * sizeof **rows);
        }
        (*rows)[n++] = row;
    }
    free(list.at);
    return n;
}
