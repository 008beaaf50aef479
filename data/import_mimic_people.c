/* import_mimic_people.c - the sorted rows subject by subject -> events.
 *
 * What makes a time *known*:
 *   - the time of storing, where a table has one (results, orders), and never before it happened;
 *   - a date alone: 23:59 of that day, or the end of its stay if that is a time on the same day;
 *   - diagnoses and DRG, which carry no time: the end of their stay, when the chart is coded;
 *   - of a stay that ended by death: after the death, so that no burst of codes and no discharge announces it. */
#include "data/import_mimic.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { GROUP_MAX = 32 };

typedef struct {
    MimicRow row;
    int64_t end, known_end; /* TIME_NONE = unknown */
    int64_t first_known;    /* of its events on its first day */
    uint32_t ordinal;       /* from 1 by start */
} Stay;

typedef struct {
    int64_t id, birth, death, death_known, last_known, last_discharge;
    MimicRow row; /* of patients */
    int has_row, kept, is_ready, has_race;
    uint32_t race;
    ReportReason why; /* its rows are dropped, when not kept */
    Stay *stay;       /* by id */
    size_t n_stays, stay_room;
    MimicRow *order; /* by id; flags MIMIC_SECOND: a prescription asked for it */
    size_t n_orders, order_room;
    int64_t *infusion;
    size_t n_infusions, infusion_room;
    int sorted;    /* the infusions are */
    MimicRow last; /* kept before; what follows may be the same again */
    float group[GROUP_MAX];
    int n_group;
} Subject;

typedef struct {
    Mimic *m;
    Subject p;
    uint32_t birth_code, death_code;
    int64_t subjects;
} Writer;

static int64_t end_of_day(int64_t us) { return day_of(us) * US_PER_DAY + END_OF_DAY; }

#define COMPARE(x, y)                                                                                                  \
    if ((x) != (y)) return (x) < (y) ? -1 : 1

int mimic_row_compare(const void *a, const void *b, void *unused) {
    const MimicRow *x = a, *y = b;
    (void)unused;
    COMPARE(x->subject, y->subject);
    COMPARE(x->stage, y->stage);
    if (x->stage == MIMIC_STAY) COMPARE(x->stay, y->stay);
    if (x->stage == MIMIC_ORDER) COMPARE(x->order, y->order);
    COMPARE(x->time, y->time);
    COMPARE(x->code, y->code);
    COMPARE(x->table, y->table);
    COMPARE(isnan(x->value) != 0, isnan(y->value) != 0);
    if (!isnan(x->value)) COMPARE(x->value, y->value);
    COMPARE(x->available, y->available);
    COMPARE(x->end, y->end);
    COMPARE(x->unit, y->unit);
    COMPARE(x->comparator, y->comparator);
    COMPARE(x->stay, y->stay);
    COMPARE(x->order, y->order);
    COMPARE(x->row, y->row);
    return 0;
}

static void note(Writer *w, const MimicRow *row, ReportReason reason) {
    if (!(row->flags & MIMIC_SECOND)) import_report_count(w->m->im.report, row->table, reason, row->row);
}

static Status emit(Writer *w, const MimicRow *row, uint32_t code, int kind, int64_t time, int64_t available,
                   int precision, uint32_t visit, int recorded, Err *err) {
    ImportReport *r = w->m->im.report;
    Event e = {.subject = row->subject,
               .time = time,
               .available = available,
               .code = code,
               .value = row->value,
               .visit = visit,
               .source_row = row->row,
               .unit = row->unit,
               .comparator = row->comparator,
               .precision = (uint8_t)precision};
    r->table[row->table].events++;
    if (recorded) r->recorded[kind]++;
    else r->assumed[kind]++;
    if (w->p.death != TIME_NONE && available > w->p.death_known) {
        if (kind != KIND_VISIT_END) note(w, row, NOTE_AFTER_DEATH);
    } else if (available > w->p.last_known) {
        w->p.last_known = available;
    }
    return import_emit(&w->m->im, &e, row->flags & MIMIC_TEXT ? (uint64_t)row->order : 0, err);
}

static void keep(Writer *w, const MimicRow *row) {
    if (!(row->flags & MIMIC_SECOND)) w->m->im.report->table[row->table].emitted++;
}

/* Room for one more; an eighth of the memory at most for one subject. */
static Status room_make(const Writer *w, void **items, size_t n, size_t *room, size_t size, const char *what,
                        Err *err) {
    if (n < *room) return OK;
    *room = *room ? 2 * *room : 256;
    if (*room * size > (size_t)w->m->im.options->memory / 8 && *room > 4096)
        return err_set(err, ERR_NOMEM, "subject %lld has more than %zu %s, which do not fit into an eighth of --memory",
                       (long long)w->p.id, n, what);
    *items = xrealloc(*items, *room * size);
    return OK;
}

/* ---- the subject ------------------------------------------------------------------------------------------------- */

static void subject_begin(Writer *w, int64_t id) {
    const Subject *old = &w->p;
    w->p = (Subject){.id = id,
                     .birth = TIME_NONE,
                     .death = TIME_NONE,
                     .death_known = TIME_NONE,
                     .last_known = TIME_NONE,
                     .last_discharge = TIME_NONE,
                     .kept = 1,
                     .stay = old->stay,
                     .stay_room = old->stay_room,
                     .order = old->order,
                     .order_room = old->order_room,
                     .infusion = old->infusion,
                     .infusion_room = old->infusion_room};
}

static void patient_row(Writer *w, const MimicRow *row) {
    Subject *p = &w->p;
    if (p->has_row) {
        note(w, row, DROP_SAME_ID);
        return;
    }
    p->has_row = 1;
    p->row = *row;
    p->birth = row->time;
    if (row->time != TIME_NONE) {
        keep(w, row);
        return;
    }
    p->kept = 0;
    p->why = DROP_PERSON_DROPPED;
    note(w, row, DROP_NO_BIRTH);
}

static int before_birth(Writer *w, const MimicRow *row) {
    if (w->p.birth == TIME_NONE || day_of(row->time) >= day_of(w->p.birth)) return 0;
    note(w, row, DROP_BEFORE_BIRTH);
    return 1;
}

static Status stay_row(Writer *w, const MimicRow *row, Err *err) {
    Subject *p = &w->p;
    if (before_birth(w, row)) return OK;
    if (p->n_stays && p->stay[p->n_stays - 1].row.stay == row->stay) {
        note(w, row, DROP_SAME_ID);
        return OK;
    }
    Status status = room_make(w, (void **)&p->stay, p->n_stays, &p->stay_room, sizeof *p->stay, "stays", err);
    if (status) return status;
    Stay *s = &p->stay[p->n_stays++];
    *s = (Stay){.row = *row, .end = row->end, .known_end = row->end, .first_known = INT64_MAX};
    if (row->end != TIME_NONE && row->end_precision == PRECISION_DAY) s->known_end = end_of_day(row->end);
    if (s->end != TIME_NONE && s->end == row->time) note(w, row, NOTE_ZERO_LENGTH);
    keep(w, row);
    return OK;
}

static int stay_by_start(const void *a, const void *b) {
    const Stay *x = *(Stay *const *)a, *y = *(Stay *const *)b;
    COMPARE(x->row.time, y->row.time);
    COMPARE(x->end, y->end);
    COMPARE(x->row.stay, y->row.stay);
    return 0;
}

/* Death: the first time of it that a stay gives, else the date that patients gives. */
static Status death_emit(Writer *w, Err *err) {
    Subject *p = &w->p;
    const MimicRow *source = NULL;
    int precision = PRECISION_SECOND;
    for (size_t i = 0; i < p->n_stays; i++) {
        const MimicRow *s = &p->stay[i].row;
        int day = s->flags & MIMIC_DIED_DAY, early = day ? day_of(s->order) < day_of(s->time) : s->order < s->time;
        if (!(s->flags & MIMIC_DIED) || early || (source && s->order >= source->order)) continue;
        source = s;
        p->death = s->order;
        precision = day ? PRECISION_DAY : s->order == s->end ? s->end_precision : PRECISION_SECOND;
    }
    if (p->has_row && p->row.end != TIME_NONE) {
        if (source && day_of(p->row.end) != day_of(p->death)) note(w, &p->row, NOTE_DEATH_DIFFERS);
        if (!source) {
            source = &p->row;
            p->death = p->row.end;
            precision = PRECISION_DAY;
        }
    }
    if (!source) return OK;
    int timed = precision != PRECISION_DAY;
    if (!timed) note(w, source, NOTE_DATE_ONLY);
    p->death_known = timed ? p->death : end_of_day(p->death);
    MimicRow row = *source;
    row.value = NAN;
    return emit(w, &row, w->death_code, KIND_DEATH, p->death, p->death_known, precision, 0, timed, err);
}

/* Once the stays are there: death, and what ended by it. */
static Status subject_ready(Writer *w, Err *err) {
    Subject *p = &w->p;
    if (p->is_ready) return OK;
    p->is_ready = 1;
    Status status = death_emit(w, err);
    Stay **order = xmalloc((p->n_stays + 1) * sizeof *order);
    for (size_t i = 0; i < p->n_stays; i++) {
        Stay *s = order[i] = &p->stay[i];
        if (s->row.flags & MIMIC_DIED && p->death != TIME_NONE) {
            note(w, &s->row, NOTE_DIED_IN_STAY);
            s->end = p->death_known;
            s->known_end = p->death_known;
        }
        if (s->end != TIME_NONE && s->end > p->last_discharge) p->last_discharge = s->end;
    }
    qsort(order, p->n_stays, sizeof *order, stay_by_start);
    for (size_t i = 0; i < p->n_stays; i++) order[i]->ordinal = (uint32_t)i + 1;
    free(order);
    return status;
}

/* ---- what happens to them ---------------------------------------------------------------------------------------- */

static Stay *stay_find(const Subject *p, int64_t id) {
    size_t lo = 0, hi = p->n_stays;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (p->stay[mid].row.stay < id) lo = mid + 1;
        else hi = mid;
    }
    return id && lo < p->n_stays && p->stay[lo].row.stay == id ? &p->stay[lo] : NULL;
}

/* The pharmacy's record of an order, NULL: none. */
static MimicRow *order_find(const Subject *p, int64_t id) {
    size_t lo = 0, hi = p->n_orders;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (p->order[mid].order < id) lo = mid + 1;
        else hi = mid;
    }
    return id && lo < p->n_orders && p->order[lo].order == id ? &p->order[lo] : NULL;
}

/* When the pharmacy entered what a prescription orders, TIME_NONE = not told; its record is told by the prescription.
 */
static int64_t order_entered(Subject *p, const MimicRow *row) {
    int64_t entered = TIME_NONE;
    if (row->kind != KIND_DRUG || row->flags & MIMIC_INFUSION) return entered;
    if (row->flags & MIMIC_TEXT) return TIME_NONE;
    for (MimicRow *x = order_find(p, row->order); x && x < p->order + p->n_orders && x->order == row->order; x++) {
        x->flags |= MIMIC_SECOND;
        if (x->flags & MIMIC_STORED && x->available > entered) entered = x->available;
    }
    return entered;
}

static Status order_row(Writer *w, const MimicRow *row, Err *err) {
    Subject *p = &w->p;
    Status status = room_make(w, (void **)&p->order, p->n_orders, &p->order_room, sizeof *p->order, "orders", err);
    if (!status) p->order[p->n_orders++] = *row;
    return status;
}

static int compare_ids(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

static Status infusion_add(Writer *w, int64_t id, Err *err) {
    Subject *p = &w->p;
    Status status =
        room_make(w, (void **)&p->infusion, p->n_infusions, &p->infusion_room, sizeof *p->infusion, "infusions", err);
    if (!status) p->infusion[p->n_infusions++] = id;
    return status;
}

/* Whether the row says what was said already; rows come by time, code, table and value. */
static int is_repeated(Writer *w, const MimicRow *row) {
    Subject *p = &w->p;
    const MimicRow *last = &p->last;
    int same = last->stage == row->stage && last->time == row->time && last->code == row->code;
    if (!same) p->n_group = 0;
    int same_stay = same && (last->stay == row->stay || (row->time != TIME_NONE && (!last->stay || !row->stay)));
    int same_value = same && (isnan(row->value) ? isnan(last->value) : row->value == last->value);
    if (same && last->table == row->table && same_value && last->stay == row->stay &&
        last->available == row->available && last->unit == row->unit && last->comparator == row->comparator) {
        note(w, row, DROP_DUPLICATE);
        return 1;
    }
    if (same_stay && last->table != row->table) {
        int told = isnan(row->value);
        for (int i = 0; i < p->n_group && !told; i++) told = p->group[i] == row->value;
        if (told) {
            note(w, row, DROP_CROSS_TABLE);
            return 1;
        }
    }
    p->last = *row;
    if (p->n_group < GROUP_MAX) p->group[p->n_group++] = row->value;
    return 0;
}

/* Diagnoses and DRG: coded when the stay was over. */
static Status coded_emit(Writer *w, const MimicRow *row, const Stay *s, Err *err) {
    const Subject *p = &w->p;
    if (!s || s->known_end == TIME_NONE) {
        note(w, row, DROP_NO_STAY);
        return OK;
    }
    keep(w, row);
    note(w, row, NOTE_HELD_BACK);
    int64_t known = s->known_end;
    if (s->row.flags & MIMIC_DIED && p->death != TIME_NONE) known = p->death_known + US_PER_MINUTE;
    return emit(w, row, row->code, row->kind, s->end, known, s->row.end_precision, s->ordinal, 0, err);
}

static int64_t time_known(Writer *w, const MimicRow *row, const Stay *s) {
    if (row->precision != PRECISION_DAY || row->flags & MIMIC_STORED)
        return row->available > row->time ? row->available : row->time;
    note(w, row, NOTE_DATE_ONLY);
    if (s && s->known_end != TIME_NONE && s->row.end_precision != PRECISION_DAY &&
        day_of(s->known_end) == day_of(row->time))
        return s->known_end;
    return end_of_day(row->time);
}

static Status event_emit(Writer *w, const MimicRow *row, Err *err) {
    Subject *p = &w->p;
    Stay *s = stay_find(p, row->stay);
    if (row->flags & MIMIC_AT_DISCHARGE) return coded_emit(w, row, s, err);
    if (before_birth(w, row)) return OK;
    if (row->stay && !s && w->m->has_stays) note(w, row, NOTE_NO_VISIT);
    keep(w, row);
    int64_t known = time_known(w, row, s);
    int recorded = row->flags & MIMIC_STORED;
    int64_t entered = order_entered(p, row);
    if (entered != TIME_NONE) {
        recorded = 1;
        if (entered > known) known = entered;
    }
    if (s && day_of(known) == day_of(s->row.time) && known < s->first_known) s->first_known = known;
    return emit(w, row, row->code, row->kind, row->time, known, row->precision, s ? s->ordinal : 0, recorded, err);
}

static Status event_row(Writer *w, const MimicRow *row, Err *err) {
    Subject *p = &w->p;
    Status status = OK;
    if (!(row->flags & MIMIC_TEXT) && is_repeated(w, row)) {
        order_entered(p, row);
        return OK;
    }
    if (row->stage == MIMIC_PART && p->n_infusions) {
        if (!p->sorted) qsort(p->infusion, p->n_infusions, sizeof *p->infusion, compare_ids);
        p->sorted = 1;
        if (row->order && bsearch(&row->order, p->infusion, p->n_infusions, sizeof *p->infusion, compare_ids)) {
            note(w, row, DROP_CROSS_TABLE);
            return OK;
        }
    }
    if (row->flags & MIMIC_INFUSION && row->order) status = infusion_add(w, row->order, err);
    return status ? status : event_emit(w, row, err);
}

/* Orders that no prescription tells. */
static Status orders_emit(Writer *w, Err *err) {
    Status status = OK;
    for (size_t i = 0; i < w->p.n_orders && !status; i++) {
        MimicRow row = w->p.order[i];
        int told = row.flags & MIMIC_SECOND;
        row.flags &= (uint8_t)~MIMIC_SECOND;
        row.order = 0;
        if (told) note(w, &row, DROP_CROSS_TABLE);
        else if (row.code == UINT32_MAX) note(w, &row, DROP_NO_CODE);
        else status = event_emit(w, &row, err);
    }
    return status;
}

static Status stays_emit(Writer *w, Err *err) {
    Status status = OK;
    for (size_t i = 0; i < w->p.n_stays && !status; i++) {
        const Stay *s = &w->p.stay[i];
        MimicRow row = s->row;
        row.value = NAN;
        int timed = row.precision != PRECISION_DAY;
        int64_t known = timed ? row.time : end_of_day(row.time);
        if (!timed) note(w, &row, NOTE_DATE_ONLY);
        if (!timed && s->first_known < known) known = s->first_known;
        if (!timed && s->known_end != TIME_NONE && s->known_end < known && s->known_end >= row.time)
            known = s->known_end;
        status = emit(w, &row, row.code, KIND_VISIT_START, row.time, known, row.precision, s->ordinal, timed, err);
        if (status || s->end == TIME_NONE || row.flags & MIMIC_DIED) continue;
        status = emit(w, &row, row.end_code, KIND_VISIT_END, s->end, s->known_end > known ? s->known_end : known,
                      row.end_precision, s->ordinal, row.end_precision != PRECISION_DAY, err);
    }
    return status;
}

static Status statics_emit(Writer *w, Err *err) {
    Subject *p = &w->p;
    MimicRow row = p->row;
    if (!p->has_row) return OK;
    row.value = NAN;
    Status status = emit(w, &row, row.code, KIND_STATIC, TIME_NONE, TIME_NONE, PRECISION_NONE, 0, 1, err);
    if (!status && p->has_race)
        status = emit(w, &row, p->race, KIND_STATIC, TIME_NONE, TIME_NONE, PRECISION_NONE, 0, 1, err);
    if (!status) status = emit(w, &row, w->birth_code, KIND_BIRTH, p->birth, p->birth, row.precision, 0, 1, err);
    return status;
}

/* Deaths are known for a year after the last discharge; whoever has later events was observed until then. */
static Status subject_end(Writer *w, Err *err) {
    Subject *p = &w->p;
    if (!p->kept) return OK;
    Status status = subject_ready(w, err);
    if (!status) status = orders_emit(w, err);
    if (!status) status = stays_emit(w, err);
    if (!status) status = statics_emit(w, err);
    int64_t end = p->last_discharge == TIME_NONE ? p->last_known : p->last_discharge + 365 * US_PER_DAY;
    if (p->last_known > end) end = p->last_known;
    w->subjects++;
    return status ? status : event_writer_subject(w->m->im.writer, p->id, end, SPLIT_UNSET, err);
}

/* ---- all of them ------------------------------------------------------------------------------------------------- */

static Status row_write(Writer *w, const MimicRow *row, Err *err) {
    Subject *p = &w->p;
    if (row->stage == MIMIC_PATIENT) {
        patient_row(w, row);
        return OK;
    }
    if (w->m->has_patients && !p->has_row) {
        p->kept = 0;
        p->why = DROP_NO_PERSON;
    }
    if (!p->kept) {
        note(w, row, p->why);
        return OK;
    }
    if (row->stage == MIMIC_STAY) return stay_row(w, row, err);
    Status status = subject_ready(w, err);
    if (status) return status;
    switch (row->stage) {
    case MIMIC_RACE:
        if (!p->has_race) p->race = row->code;
        else if (p->race != row->code) note(w, row, NOTE_STATIC_DIFFERS);
        p->has_race = 1;
        return OK;
    case MIMIC_ORDER: return order_row(w, row, err);
    default: return event_row(w, row, err);
    }
}

static Status codes_open(Writer *w, Err *err) {
    Status status = event_writer_code(w->m->im.writer, "MEDS_BIRTH", KIND_BIRTH, "Birth", NULL, &w->birth_code, err);
    if (!status)
        status = event_writer_code(w->m->im.writer, "MEDS_DEATH", KIND_DEATH, "Death", NULL, &w->death_code, err);
    return status;
}

Status mimic_write_people(Mimic *m, Err *err) {
    Writer w = {.m = m};
    const MimicRow *row = NULL;
    const void *next = NULL;
    int64_t rows = 0, total = 0;
    int begun = 0;
    for (int i = 0; i < m->im.report->n_tables; i++)
        total += m->im.report->table[i].read - import_report_dropped(&m->im.report->table[i]);
    Status status = codes_open(&w, err);
    if (!status) status = sorter_finish(m->im.stage, err);
    if (!status) status = sorter_rewind(m->im.stage, err);
    progress_open(&m->im.progress, m->im.options->progress, "write events", "rows", total);
    while (!status && !(status = sorter_next(m->im.stage, &next, err)) && (row = next)) {
        if (!begun || row->subject != w.p.id) {
            if (begun && (status = subject_end(&w, err))) break;
            subject_begin(&w, row->subject);
            begun = 1;
        }
        status = row_write(&w, row, err);
        if (!(row->flags & MIMIC_SECOND) && !(++rows & 4095)) progress_update(&m->im.progress, rows);
    }
    if (!status && begun) status = subject_end(&w, err);
    progress_close(&m->im.progress, rows);
    free(w.p.stay);
    free(w.p.order);
    free(w.p.infusion);
    if (!status && !w.subjects)
        status = err_set(err, ERR_FORMAT, "%s has no patient to import: every row was dropped; the report says why",
                         m->im.options->path);
    return status;
}
