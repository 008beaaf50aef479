/* validate_leaks.c - see validate_leaks.h. */
#include "data/validate_leaks.h"
#include "data/deidentify_record.h"
#include "data/units.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MIDNIGHT_EVENTS_MIN = 20, STAYS_MIN = 5 };
static const int64_t STAY_US = 12 * 60 * US_PER_MINUTE; /* shorter visits have their diagnosis and labs at once */

/* ---- events files ------------------------------------------------------------------------------------------------ */

void event_leaks_open(EventLeaks *l, EventFile *f) {
    size_t n = (size_t)f->n_codes + 1;
    *l = (EventLeaks){.f = f, .timed = xcalloc(n, 8), .midnight = xcalloc(n, 8), .twins = twins_open(f->n_patients)};
    l->analyte = xmalloc(n * sizeof *l->analyte);
    l->usual_unit = xmalloc(n * sizeof *l->usual_unit);
    l->measured = xcalloc(n, 8);
    l->beyond = xcalloc(n, 8);
    for (int64_t c = 0; c < f->n_codes; c++) {
        l->analyte[c] = unit_analyte(f->codes[c]);
        l->usual_unit[c] = -1;
        for (int64_t u = 0; l->analyte[c] >= 0 && u < f->n_units; u++)
            if (!strcmp(f->units[u], unit_usual(l->analyte[c]))) l->usual_unit[c] = (int)u;
    }
    /* In a release time 0 is the first event: there is no midnight. */
    json_t *record = deidentify_record_of(f);
    if (record) {
        free(l->timed);
        l->timed = NULL;
        l->k = deidentify_record_k(record);
        l->notes_unattested = f->n_notes && !deidentify_record_texts_attested(record);
        l->holders = xcalloc(n, 8);
        l->stamp = xcalloc(n, 8);
    }
    json_decref(record);
}

void event_leaks_close(EventLeaks *l) {
    free(l->timed);
    free(l->midnight);
    free(l->analyte);
    free(l->usual_unit);
    free(l->measured);
    free(l->beyond);
    free(l->holders);
    free(l->stamp);
    twins_close(l->twins);
}

typedef struct {
    int64_t start, end, first_lab, first_diagnosis, last_diagnosis; /* available; TIME_NONE: none */
} StayTimes;

/* Of the stays that last, those whose diagnoses were all known before anything was measured. */
static void look_stays(EventLeaks *l, int64_t row, const EventPatient *p) {
    uint32_t n = 0;
    for (int64_t i = 0; i < p->n; i++)
        if (p->event[i].visit > n && p->event[i].visit <= (uint32_t)p->n) n = p->event[i].visit;
    StayTimes *stay = n ? try_calloc((size_t)n + 1, sizeof *stay) : NULL;
    if (!stay) return;
    for (uint32_t v = 0; v <= n; v++) stay[v] = (StayTimes){TIME_NONE, TIME_NONE, TIME_NONE, TIME_NONE, TIME_NONE};
    for (int64_t i = 0; i < p->n; i++) {
        const Event *e = &p->event[i];
        if (!e->visit || e->visit > n || e->time == TIME_NONE) continue;
        StayTimes *s = &stay[e->visit];
        switch (l->f->code_kind[e->code]) {
        case KIND_VISIT_START: s->start = e->available; break;
        case KIND_VISIT_END: s->end = e->available; break;
        case KIND_LAB:
            if (s->first_lab == TIME_NONE) s->first_lab = e->available;
            break;
        case KIND_DIAGNOSIS:
            if (s->first_diagnosis == TIME_NONE) s->first_diagnosis = e->available;
            s->last_diagnosis = e->available;
            break;
        }
    }
    for (uint32_t v = 1; v <= n; v++) {
        const StayTimes *s = &stay[v];
        if (s->start == TIME_NONE || s->end == TIME_NONE || s->end - s->start < STAY_US || s->first_lab == TIME_NONE ||
            s->first_diagnosis == TIME_NONE)
            continue;
        l->stays++;
        if (s->last_diagnosis >= s->first_lab) continue;
        if (!l->stays_diagnosed_first++) l->first_stay_row = row;
    }
    free(stay);
}

/* What deidentify promises of every patient: time 0 at the first event, nobody older than 90. */
static void look_release(EventLeaks *l, ValidateReport *r, int64_t row, const EventPatient *p) {
    int64_t birth = TIME_NONE, first = TIME_NONE, last = TIME_NONE;
    for (int64_t i = 0; i < p->n; i++) {
        const Event *e = &p->event[i];
        int kind = l->f->code_kind[e->code];
        if (l->stamp[e->code] != row + 1) l->holders[e->code]++;
        l->stamp[e->code] = row + 1;
        if (kind == KIND_BIRTH) birth = e->time;
        if (kind == KIND_BIRTH || kind == KIND_STATIC || e->time == TIME_NONE) continue;
        if (first == TIME_NONE) first = e->available;
        last = e->available;
    }
    if (p->observation_end > last) last = p->observation_end;
    if (first != TIME_NONE && first != 0)
        report_add(r, FIND_RELEASE, "patient %lld: the first event is not at time 0", (long long)row);
    if (birth != TIME_NONE && last != TIME_NONE && last - birth > (int64_t)(90.01 * 365.25 * (double)US_PER_DAY))
        report_add(r, FIND_RELEASE, "patient %lld: an age beyond 90", (long long)row);
}

void event_leaks_patient(EventLeaks *l, ValidateReport *r, int64_t row, const EventPatient *p) {
    if (l->holders) look_release(l, r, row, p);
    twins_patient(l->twins, p->split, row);
    for (int64_t i = 0; i < p->n; i++) {
        const Event *e = &p->event[i];
        int kind = l->f->code_kind[e->code];
        if (e->time == TIME_NONE || kind == KIND_BIRTH) continue;
        twins_event(l->twins, e->code, e->value, 0, e->time / US_PER_MINUTE);
        if (l->usual_unit[e->code] == e->unit && !isnan(e->value) && e->comparator == COMPARE_EQ) {
            l->measured[e->code]++;
            l->beyond[e->code] += !unit_plausible(l->analyte[e->code], (double)e->value);
        }
        if (!l->timed || e->precision > PRECISION_MINUTE) continue;
        l->timed[e->code]++;
        l->midnight[e->code] += e->time % US_PER_DAY == 0 && e->available == e->time;
    }
    look_stays(l, row, p);
}

/* Told, not warned of: nothing leaks by them, and a source may be wrong in a code that nobody needs. */
static void look_values(const EventLeaks *l, ValidateReport *r) {
    for (int64_t c = 0; c < l->f->n_codes; c++) {
        double least, most;
        if (!l->beyond[c]) continue;
        unit_range(l->analyte[c], &least, &most);
        report_add(r, FIND_IMPLAUSIBLE, "%s: %lld of %lld values beyond %g to %g %s", l->f->codes[c],
                   (long long)l->beyond[c], (long long)l->measured[c], least, most, unit_usual(l->analyte[c]));
    }
}

void event_leaks_report(EventLeaks *l, ValidateReport *r) {
    for (int64_t c = 0; l->timed && c < l->f->n_codes; c++)
        if (l->timed[c] >= MIDNIGHT_EVENTS_MIN && 2 * l->midnight[c] > l->timed[c])
            report_add(r, FIND_MIDNIGHT, "%s: %lld of %lld events at 00:00", l->f->codes[c], (long long)l->midnight[c],
                       (long long)l->timed[c]);
    look_values(l, r);
    if (l->notes_unattested)
        report_add(r, FIND_RELEASE, "%lld free texts, and nobody attested that they were scrubbed",
                   (long long)l->f->n_notes);
    for (int64_t c = 0; l->holders && c < l->f->n_codes; c++)
        if (l->holders[c] && l->holders[c] < l->k && l->f->code_kind[c] != KIND_BIRTH &&
            l->f->code_kind[c] != KIND_DEATH)
            report_add(r, FIND_RELEASE, "%s: %lld patients, %lld were promised", l->f->codes[c],
                       (long long)l->holders[c], (long long)l->k);
    if (l->stays >= STAYS_MIN && 2 * l->stays_diagnosed_first > l->stays) {
        /* The oracle draws a stay's diagnosis before its labs by its law. */
        if (!strcmp(l->f->source, "oracle")) r->finding[FIND_DIAGNOSED_FIRST].severity = SEVERITY_INFO;
        report_add(r, FIND_DIAGNOSED_FIRST, "%lld of %lld stays of 12 hours or more, first in patient %lld",
                   (long long)l->stays_diagnosed_first, (long long)l->stays, (long long)l->first_stay_row);
    }
    twins_report(l->twins, r);
}

/* ---- datasets ---------------------------------------------------------------------------------------------------- */

void dataset_leaks_open(DatasetLeaks *l, Dataset *d) {
    size_t n = (size_t)d->vocabulary.n + 1;
    int64_t P = 0;
    for (int s = 0; s < SPLIT_COUNT; s++) P += d->n_patients[s];
    *l = (DatasetLeaks){.d = d, .holders = xcalloc(n, 8), .stamp = xcalloc(n, 8), .twins = twins_open(P)};
}

void dataset_leaks_close(DatasetLeaks *l) {
    free(l->holders);
    free(l->stamp);
    twins_close(l->twins);
}

void dataset_leaks_patient(DatasetLeaks *l, int split, const PatientView *p) {
    l->seen++;
    twins_patient(l->twins, split, p->row);
    for (int64_t i = 0; i < p->n; i++) {
        uint32_t id = patient_token(p, i);
        const VocabToken *token = &l->d->vocabulary.token[id];
        if (token->kind != TOKEN_GAP && token->kind != TOKEN_TEXT) /* sentences of templates are nobody's */
            twins_event(l->twins, id, NAN, token->level != 0 || token->kind == TOKEN_VALUE, p->minutes[i]);
        if (split == SPLIT_TRAIN && l->stamp[id] != l->seen) l->holders[id]++;
        l->stamp[id] = l->seen;
    }
}

/* Of a vocabulary that was fitted here every event token has the train patients behind it that dataset.json says. */
static void look_vocabulary(const DatasetLeaks *l, ValidateReport *r) {
    const Vocabulary *v = &l->d->vocabulary;
    json_t *root = json_loads(l->d->json, 0, NULL);
    int64_t k = json_integer_value(json_object_get(json_object_get(root, "settings"), "min_patients"));
    if (k < 1) k = 1;
    int fitted = json_is_true(json_object_get(json_object_get(root, "vocabulary"), "fitted_here"));
    for (int id = 0; id < v->n && fitted; id++)
        if (v->token[id].kind == TOKEN_EVENT && id != v->death && l->holders[id] < k)
            report_add(r, FIND_VOCABULARY, "%s: %lld train patients have it, %lld were promised", v->token[id].code,
                       (long long)l->holders[id], (long long)k);
    json_decref(root);
}

void dataset_leaks_report(DatasetLeaks *l, ValidateReport *r) {
    look_vocabulary(l, r);
    twins_report(l->twins, r);
}
