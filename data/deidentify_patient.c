/* deidentify_patient.c - one patient as the release tells them: what stays, when, how old. */
#include "data/deidentify_patient.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const double YEAR_US = 365.25 * (double)US_PER_DAY;
enum { AGE_LAST = 90 };

void deid_patient_free(DeidPatient *p) {
    free(p->event);
    *p = (DeidPatient){0};
}

static int64_t day_of(int64_t us) { return us / US_PER_DAY - (us % US_PER_DAY < 0); }

/* A date without a time happened when it became known, if that was the same day, else at the end of its day: with the
 * calendar go its days. */
static int64_t happened(const Event *e) {
    if (e->precision != PRECISION_DAY) return e->time;
    int64_t end = (day_of(e->time) + 1) * US_PER_DAY - US_PER_MINUTE;
    return e->available >= e->time && e->available < end ? e->available : end < e->available ? end : e->available;
}

static void count(int64_t *n) {
    if (n) ++*n;
}

/* Copies what stays, with absolute times still. */
static Status select_events(Deid *d, const EventPatient *p, int64_t end_us, DeidPatient *out, DeidentifyReport *r,
                            Err *err) {
    int dead = 0;
    if (p->n > out->capacity) {
        free(out->event);
        out->capacity = 0;
        out->event = try_calloc((size_t)p->n, sizeof *out->event);
        if (!out->event) return err_set(err, ERR_NOMEM, "no memory for a patient of %lld events", (long long)p->n);
        out->capacity = p->n;
    }
    for (int64_t i = 0; i < p->n; i++) {
        const Event *e = &p->event[i];
        int kind = d->f.code_kind[e->code];
        if (e->time != TIME_NONE && kind != KIND_BIRTH && end_us != TIME_NONE && e->available > end_us) {
            count(r ? &r->beyond_end : NULL);
            continue;
        }
        if (dead && e->time != TIME_NONE) {
            count(r ? &r->after_death : NULL);
            continue;
        }
        dead |= kind == KIND_DEATH;
        uint32_t code = release_codes_of(&d->codes, e->code);
        d->codes.used[e->code] = 1;
        count(r ? &r->events_by_fate[d->codes.fate[e->code]] : NULL);
        if (code == CODE_GONE) continue;
        Event *to = &out->event[out->n++];
        *to = *e;
        to->code = code;
        if (!d->phi) to->note = 0;
        if (code != d->codes.first[e->code] && !isnan(e->value)) {
            to->value = NAN;
            count(r ? &r->values_rolled : NULL);
        } else if (!d->codes.unit_kept[e->unit] && !isnan(e->value)) {
            to->value = NAN;
            count(r ? &r->values_of_units : NULL);
        }
        if (isnan(to->value)) {
            to->unit = 0;
            to->comparator = COMPARE_EQ;
        }
        if (e->time != TIME_NONE) to->time = happened(e);
        if (to->precision == PRECISION_DAY) to->precision = PRECISION_MINUTE;
    }
    return OK;
}

/* Whole years at time 0, shifted when the record passes 89; -1: unknown.  0: the record spans too long to be told. */
static int choose_age(DeidPatient *out, int64_t birth_us, int64_t last_us) {
    out->age_years = -1;
    if (birth_us == TIME_NONE) return 1;
    double first = ((double)out->origin_us - (double)birth_us) / YEAR_US,
           span = ((double)last_us - (double)out->origin_us) / YEAR_US;
    if (first < 0) first = 0;
    if (first + span >= AGE_LAST) {
        out->age_shifted = 1;
        first = AGE_LAST - span;
        if (first < 0) return 0;
    }
    out->age_years = (int)first;
    return 1;
}

static void make_relative(DeidPatient *out, const ReleaseCodes *m, DeidentifyReport *r) {
    int64_t n = 0, birth = out->age_years < 0 ? TIME_NONE : -(int64_t)((double)out->age_years * YEAR_US);
    for (int64_t i = 0; i < out->n; i++) {
        Event e = out->event[i];
        if (m->out_kind[e.code] == KIND_BIRTH) {
            if (birth == TIME_NONE) continue;
            e.time = e.available = birth;
        } else if (e.time != TIME_NONE) {
            e.time -= out->origin_us;
            e.available -= out->origin_us;
            if (birth != TIME_NONE && e.time < birth) {
                e.time = birth;
                count(r ? &r->before_birth : NULL);
            }
        }
        out->event[n++] = e;
    }
    out->n = n;
}

Status deid_patient(Deid *d, int64_t row, DeidPatient *out, DeidentifyReport *r, Err *err) {
    EventPatient p;
    out->n = 0;
    out->ends_at_own_end = out->age_shifted = out->span_dropped = 0;
    if (d->cohort.split[row] == SPLIT_UNSET) return OK;
    Status status = event_file_patient(&d->f, row, &p, err);
    out->first_note = p.first_note;
    int64_t end = d->end_us[row], birth = TIME_NONE, last = TIME_NONE;
    if (!status) status = select_events(d, &p, end, out, r, err);
    if (status) return status;
    int told = 0;
    out->origin_us = TIME_NONE;
    for (int64_t i = 0; i < out->n; i++) {
        const Event *e = &out->event[i];
        int kind = d->codes.out_kind[e->code];
        if (kind == KIND_BIRTH && birth == TIME_NONE) birth = e->time;
        if (kind == KIND_STATIC || kind == KIND_BIRTH || e->time == TIME_NONE) continue;
        if (out->origin_us == TIME_NONE) out->origin_us = e->available;
        last = e->available;
        told |= kind != KIND_DEATH;
    }
    if (!told) { /* a death alone is no record */
        out->n = 0;
        count(r ? &r->emptied : NULL);
        return OK;
    }
    /* Of the dead as of the living: until when they would have been observed does not depend on how they fared. */
    int64_t observed = p.observation_end;
    if (observed != TIME_NONE && end != TIME_NONE && observed > end) {
        observed = end;
        out->ends_at_own_end = 1;
    }
    if (observed != TIME_NONE && observed < last) observed = last;
    if (!choose_age(out, birth, observed == TIME_NONE ? last : observed)) {
        out->n = 0;
        out->span_dropped = 1;
        count(r ? &r->spans_dropped : NULL);
        return OK;
    }
    make_relative(out, &d->codes, r);
    out->observation_end = observed == TIME_NONE ? TIME_NONE : observed - out->origin_us;
    if (r) {
        r->ages_shifted += out->age_shifted;
        r->ends_blurred += out->ends_at_own_end;
    }
    return OK;
}
