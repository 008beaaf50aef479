/* import_people.c - the second pass: the sorted rows person by person -> events.
 *
 * A person's rows come as person, periods, deaths, visits, ICU stays, then everything else (StageKind), so that
 * whatever a row must be judged by is known when it comes.  What makes a time *known*:
 *   - a time of day: then;   a date alone: 23:59 of that day, or the end of its visit if that is a time on the same
 * day;
 *   - a diagnosis of an inpatient stay: the end of the stay, unless its type says it was known before;
 *   - a visit's start without time of day: no later than the first event of that visit on that day. */
#include "data/import_stage.h"
#include "data/units.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    StageRow row;
    int64_t end, known_end; /* us, TIME_NONE = open or unknown; known_end: when the end is known */
    int64_t first_known;    /* earliest available time of an event of the visit on its first day */
    uint32_t ordinal;       /* from 1 by start */
    uint8_t inpatient, died;
} Visit;

typedef struct {
    int64_t id, birth, death, death_known, period_end, last_known;
    StageRow row, death_row; /* STAGE_PERSON; STAGE_DEATH, if death is known */
    int has_row, has_period, kept, visits_ready, period_table_row, dead_undated;
    uint16_t check;
    StageResource last; /* of a versioned source: the version that counts */
    Visit *visit;       /* by visit id */
    size_t n_visits, visit_capacity;
    ReportReason why; /* its rows are dropped, when not kept */
} Person;

typedef struct {
    Import *im;
    Person p;
    uint32_t birth_code, death_code, icu_in, icu_out;
    int64_t persons;
} Writer;

/* When a day is over, by the last clock that may have written its date. */
static int64_t end_of_day(const Writer *w, int64_t us) { return day_of(us) * US_PER_DAY + END_OF_DAY + w->im->west; }

static void note(Writer *w, const StageRow *row, ReportReason reason) {
    if (reason < DROP_END && row->flags & ROW_MORE) return; /* source rows are accounted for once */
    import_report_count(w->im->report, row->table, reason, row->row);
}

/* The row's unit, and its value in the usual one of the code. */
static Status unit_set(Writer *w, const StageRow *row, Event *e, Err *err) {
    Import *im = w->im;
    const CodeKey *unit = &im->keys.key[row->unit];
    double value = (double)e->value;
    e->unit = (uint16_t)unit->code;
    if (row->key == INTERN_NONE || !im->keys.key[row->key].analyte || isnan(e->value)) return OK;
    int analyte = im->keys.key[row->key].analyte - 1;
    if (unit_convert(analyte, im->texts.item[unit->text], &value) <= 0) return OK;
    e->value = (float)value;
    note(w, row, NOTE_UNIT_CONVERTED);
    return event_writer_unit(im->writer, unit_usual(analyte), &e->unit, err);
}

/* An event of a row.  recorded: its available time is the record's own. */
static Status emit(Writer *w, const StageRow *row, uint32_t code, int kind, int64_t time, int64_t available,
                   int precision, uint32_t visit, int recorded, Err *err) {
    ImportReport *r = w->im->report;
    int has_text = row->flags & ROW_TEXT;
    Event e = {.subject = row->person,
               .time = time,
               .available = available,
               .code = code,
               .value = has_text ? NAN : row->value,
               .visit = visit,
               .source_row = row->row,
               .comparator = row->comparator,
               .precision = (uint8_t)precision};
    Status status = has_text || row->unit == INTERN_NONE ? OK : unit_set(w, row, &e, err);
    if (status) return status;
    r->table[row->table].events++;
    if (recorded) r->recorded[kind]++;
    else r->assumed[kind]++;
    if (w->p.death != TIME_NONE && available > w->p.death_known) {
        if (kind != KIND_VISIT_END) note(w, row, NOTE_AFTER_DEATH);
    } else if (available > w->p.last_known) {
        w->p.last_known = available;
    }
    return import_emit(w->im, &e, has_text ? row->text : 0, err);
}

static void keep(Writer *w, const StageRow *row) {
    if (!(row->flags & ROW_MORE)) w->im->report->table[row->table].emitted++;
}

/* ---- a person ---------------------------------------------------------------------------------------------------- */

static void person_begin(Writer *w, int64_t id) {
    Person *p = &w->p;
    Visit *visit = p->visit;
    size_t capacity = p->visit_capacity;
    *p = (Person){.id = id,
                  .birth = TIME_NONE,
                  .death = TIME_NONE,
                  .death_known = TIME_NONE,
                  .period_end = TIME_NONE,
                  .last_known = TIME_NONE,
                  .kept = 1,
                  .visit = visit,
                  .visit_capacity = capacity};
}

static void person_row(Writer *w, const StageRow *row) {
    Person *p = &w->p;
    if (p->has_row) {
        note(w, row, DROP_SAME_ID);
        return;
    }
    p->has_row = 1;
    p->row = *row;
    p->birth = row->start;
    p->dead_undated = row->flags & ROW_DEAD_UNDATED;
    if (p->dead_undated) note(w, row, NOTE_DEAD_UNDATED);
    if (row->start != TIME_NONE && day_of(row->start) * US_PER_DAY <= w->im->extract) {
        keep(w, row);
        return;
    }
    p->kept = 0;
    p->why = DROP_PERSON_DROPPED;
    note(w, row, DROP_NO_BIRTH);
}

/* The care site is told for splits by site; no model reads it unless it is asked for (tokenize --static). */
static Status site_emit(Writer *w, const StageRow *row, Err *err) {
    char code[48];
    uint32_t id;
    snprintf(code, sizeof code, "CARE_SITE//%lld", (long long)row->visit);
    Status status = event_writer_code(w->im->writer, code, KIND_STATIC, NULL, NULL, &id, err);
    return status ? status : emit(w, row, id, KIND_STATIC, TIME_NONE, TIME_NONE, PRECISION_NONE, 0, 1, err);
}

/* Sex, race, ethnicity, care site and birth. */
static Status person_emit(Writer *w, Err *err) {
    Person *p = &w->p;
    StageRow row = p->row;
    const uint32_t keys[3] = {row.key, (uint32_t)(row.end >> 32), (uint32_t)row.end};
    Status status = OK;
    row.unit = INTERN_NONE;
    for (int k = 0; k < 3 && !status; k++)
        if (keys[k] != INTERN_NONE)
            status = emit(w, &row, w->im->keys.key[keys[k]].code, KIND_STATIC, TIME_NONE, TIME_NONE, PRECISION_NONE, 0,
                          1, err);
    if (!status && row.visit) status = site_emit(w, &row, err);
    /* Known from its first minute: a newborn's own events of that day come after it. */
    if (!status) status = emit(w, &row, w->birth_code, KIND_BIRTH, p->birth, p->birth, row.start_precision, 0, 1, err);
    return status;
}

static int in_future(const Writer *w, const StageRow *row) {
    return row->start >= w->im->extract + US_PER_DAY + w->im->west;
}

/* Drops what no honest record holds. */
static int row_judge(Writer *w, const StageRow *row) {
    Person *p = &w->p;
    if (p->birth != TIME_NONE && day_of(row->start + w->im->east) < day_of(p->birth)) {
        note(w, row, DROP_BEFORE_BIRTH);
        return 0;
    }
    if (in_future(w, row)) {
        note(w, row, DROP_FUTURE);
        return 0;
    }
    return 1;
}

/* When it is known is settled once the visits are there. */
static void death_row(Writer *w, const StageRow *row) {
    Person *p = &w->p;
    int y, mo, d, h, mi, s;
    if (p->death != TIME_NONE) { /* rows come by time: the first stays */
        note(w, row, DROP_SAME_ID);
        return;
    }
    if (!row_judge(w, row)) return;
    keep(w, row);
    time_to_civil(row->start, &y, &mo, &d, &h, &mi, &s);
    if (mo == 12 && d == 31 && row->start_precision == PRECISION_DAY) note(w, row, NOTE_IMPRECISE_DEATH);
    int timed = row->start_precision != PRECISION_DAY;
    if (!timed) note(w, row, NOTE_DATE_ONLY);
    p->death = row->start;
    p->death_known = timed ? row->start : end_of_day(w, row->start);
    p->death_row = *row;
}

/* ---- visits ------------------------------------------------------------------------------------------------------ */

/* End of a stay and when it is known; TIME_NONE for both while it is open or when it cannot be true. */
static void stay_end(Writer *w, const StageRow *row, int inpatient, int64_t *end, int64_t *known) {
    *end = *known = TIME_NONE;
    int timed = row->end_precision != PRECISION_DAY;
    if (row->end == TIME_NONE) {
        note(w, row, NOTE_NO_END);
    } else if (timed && row->start_precision != PRECISION_DAY ? row->end < row->start
                                                              : day_of(row->end) < day_of(row->start)) {
        note(w, row, NOTE_END_BEFORE_START);
    } else if (row->end >= w->im->extract + (inpatient && !w->im->zoned ? 0 : US_PER_DAY + w->im->west)) {
        note(w, row, NOTE_OPEN_STAY); /* whoever is still in gets the day of the extract as the end */
    } else {
        if (row->end == row->start) note(w, row, NOTE_ZERO_LENGTH);
        *end = row->end;
        *known = timed ? row->end : end_of_day(w, row->end);
    }
}

static Status visit_row(Writer *w, const StageRow *row, Err *err) {
    Person *p = &w->p;
    if (!row_judge(w, row)) return OK;
    if (row->visit && p->n_visits && p->visit[p->n_visits - 1].row.visit == row->visit) {
        note(w, row, DROP_SAME_ID);
        return OK;
    }
    if (p->n_visits == p->visit_capacity) {
        p->visit_capacity = p->visit_capacity ? 2 * p->visit_capacity : 256;
        if (p->visit_capacity * sizeof *p->visit > (size_t)w->im->options->memory / 8 && p->visit_capacity > 4096)
            return err_set(err, ERR_NOMEM,
                           "person %lld has more than %zu visits, which do not fit into an eighth of --memory",
                           (long long)p->id, p->n_visits);
        p->visit = xrealloc(p->visit, p->visit_capacity * sizeof *p->visit);
    }
    Visit *v = &p->visit[p->n_visits++];
    const int mark = row->key == INTERN_NONE ? 0 : w->im->keys.key[row->key].mark;
    *v = (Visit){.row = *row, .inpatient = mark & VISIT_BED, .died = (mark & VISIT_DIED) != 0, .first_known = INT64_MAX};
    stay_end(w, row, v->inpatient, &v->end, &v->known_end);
    keep(w, row);
    return OK;
}

static int visit_by_start(const void *a, const void *b) {
    const Visit *x = *(Visit *const *)a, *y = *(Visit *const *)b;
    if (x->row.start != y->row.start) return x->row.start < y->row.start ? -1 : 1;
    if (x->end != y->end) return x->end < y->end ? -1 : 1;
    return x->row.visit < y->row.visit ? -1 : x->row.visit > y->row.visit;
}

/* The day of a time of day, on the clock of dates where that is known. */
static int64_t local_day(const Writer *w, int64_t us) { return day_of(w->im->zone_given ? us - w->im->west + w->im->east : us); }

/* Whether visit v ended by the death of which only the date is known: as the source says, or as an inpatient stay that ended
 * on that day with no other visit after it.  Where dates and times are on different clocks, the first alone. */
static int ended_by_death(const Writer *w, const Visit *v) {
    const Person *p = &w->p;
    if (v->end == TIME_NONE || v->row.end_precision == PRECISION_DAY) return 0;
    const int64_t days = local_day(w, v->end) - day_of(p->death), unsure = w->im->zoned && !w->im->zone_given;
    if (v->died) return days >= -unsure && days <= unsure;
    if (unsure || !v->inpatient || days) return 0;
    for (size_t i = 0; i < p->n_visits; i++) {
        const Visit *x = &p->visit[i];
        int later = x->row.start >= v->end && x->row.start_precision != PRECISION_DAY;
        if (x != v && local_day(w, x->row.start) <= local_day(w, v->end) && (later || (x->inpatient && x->end > v->end))) return 0;
    }
    return 1;
}

static Status death_emit(Writer *w, Err *err) {
    Person *p = &w->p;
    const StageRow *row = &p->death_row;
    if (p->death == TIME_NONE) return OK;
    int timed = row->start_precision != PRECISION_DAY;
    int64_t end = TIME_NONE;
    for (size_t i = 0; i < p->n_visits && !timed; i++)
        if (p->visit[i].end > end && ended_by_death(w, &p->visit[i])) end = p->visit[i].end;
    if (end != TIME_NONE) {
        p->death_known = end;
        if (w->im->zoned) p->death = day_of(end) * US_PER_DAY; /* told on the clock of times, as what belongs to a visit is */
    }
    return emit(w, row, w->death_code, KIND_DEATH, p->death, p->death_known, row->start_precision, 0, timed, err);
}

static Status visits_ready(Writer *w, Err *err) {
    Person *p = &w->p;
    if (p->visits_ready) return OK;
    p->visits_ready = 1;
    Status status = death_emit(w, err);
    if (status || !p->n_visits) return status;
    Visit **order = xmalloc(p->n_visits * sizeof *order);
    for (size_t i = 0; i < p->n_visits; i++) order[i] = &p->visit[i];
    qsort(order, p->n_visits, sizeof *order, visit_by_start);
    for (size_t i = 0; i < p->n_visits; i++) order[i]->ordinal = (uint32_t)i + 1;
    free(order);
    return OK;
}

static Visit *visit_find(Writer *w, const StageRow *row) {
    Person *p = &w->p;
    size_t lo = 0, hi = p->n_visits;
    if (!row->visit) return NULL;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (p->visit[mid].row.visit < row->visit) lo = mid + 1;
        else hi = mid;
    }
    if (lo < p->n_visits && p->visit[lo].row.visit == row->visit) return &p->visit[lo];
    if (w->im->table_visit >= 0 && w->im->report->table[w->im->table_visit].present) note(w, row, NOTE_NO_VISIT);
    return NULL;
}

/* Dates and times are on different clocks: a date may be the day before or after its visit's.  What belongs to a short
 * visit about that day is known at its end, and *time is told on the visit's clock. */
static int64_t zoned_date_known(const Writer *w, const StageRow *row, const Visit *v, int64_t *time) {
    int64_t over = end_of_day(w, row->start), days = day_of(v->row.start) - day_of(row->start);
    if (v->row.start_precision == PRECISION_DAY) return over;
    if (days >= -1 && days <= 1 && v->known_end != TIME_NONE && v->row.end_precision != PRECISION_DAY &&
        v->known_end - v->row.start < US_PER_DAY) {
        *time = day_of(v->row.start) * US_PER_DAY;
        return v->known_end;
    }
    return over > v->row.start ? over : v->row.start;
}

/* When something of a known date became known; notes how.  *time: when it happened. */
static int64_t time_known(Writer *w, const StageRow *row, const Visit *v, int64_t *time) {
    *time = row->start;
    if (row->start_precision != PRECISION_DAY) return row->start;
    note(w, row, NOTE_DATE_ONLY);
    if (v && w->im->zoned && row->stage != STAGE_VISIT) return zoned_date_known(w, row, v, time);
    if (v && v->known_end != TIME_NONE && v->row.end_precision != PRECISION_DAY &&
        day_of(v->known_end) == day_of(row->start))
        return v->known_end;
    return end_of_day(w, row->start);
}

/* Of a row whose source says when it was known; *recorded: to the minute. */
static int64_t recorded_known(Writer *w, const StageRow *row, int64_t known, int *recorded) {
    *recorded = row->end_precision != PRECISION_DAY;
    int64_t said = *recorded ? row->end : end_of_day(w, row->end);
    if (said < row->start) note(w, row, NOTE_KNOWN_BEFORE);
    if (said - row->start > 30 * US_PER_DAY && w->im->keys.key[row->key].kind == KIND_LAB) note(w, row, NOTE_LATE);
    /* A date that is known at a time of that day needs no guess. */
    if (*recorded && row->start_precision == PRECISION_DAY) return said > row->start ? said : known;
    return said > known ? said : known;
}

static void visit_touch(Visit *v, int64_t known) {
    if (v && day_of(known) == day_of(v->row.start) && known < v->first_known) v->first_known = known;
}

static Status visits_emit(Writer *w, Err *err) {
    Status status = OK;
    for (size_t i = 0; i < w->p.n_visits && !status; i++) {
        const Visit *v = &w->p.visit[i];
        const CodeKey *k = &w->im->keys.key[v->row.key];
        int timed = v->row.start_precision != PRECISION_DAY;
        int64_t time, known = time_known(w, &v->row, v, &time);
        if (!timed && v->first_known < known) known = v->first_known;
        status = emit(w, &v->row, k->code, KIND_VISIT_START, v->row.start, known, v->row.start_precision, v->ordinal,
                      timed, err);
        if (status || v->end == TIME_NONE) continue;
        /* A date-only start is known at 23:59, a timed end that day before: the end cannot come first. */
        int64_t end_known = v->known_end > known ? v->known_end : known;
        status = emit(w, &v->row, k->end_code, KIND_VISIT_END, v->end, end_known, v->row.end_precision, v->ordinal,
                      v->row.end_precision != PRECISION_DAY, err);
    }
    return status;
}

/* ---- what happens in them ---------------------------------------------------------------------------------------- */

static Status detail_row(Writer *w, const StageRow *row, Err *err) {
    if (row->key == INTERN_NONE || !w->im->keys.key[row->key].mark) {
        note(w, row, DROP_NOT_ICU);
        return OK;
    }
    if (!row_judge(w, row)) return OK;
    keep(w, row);
    Status status = visits_ready(w, err);
    if (status) return status;
    Visit *v = visit_find(w, row);
    int64_t time, end, known_end, known = time_known(w, row, v, &time);
    int timed = row->start_precision != PRECISION_DAY;
    stay_end(w, row, 1, &end, &known_end);
    visit_touch(v, known);
    status = emit(w, row, w->icu_in, KIND_TRANSFER, time, known, row->start_precision, v ? v->ordinal : 0, timed, err);
    if (status || end == TIME_NONE) return status;
    if (known_end < known) known_end = known;
    return emit(w, row, w->icu_out, KIND_TRANSFER, end, known_end, row->end_precision, v ? v->ordinal : 0,
                row->end_precision != PRECISION_DAY, err);
}

static Status clinical_row(Writer *w, const StageRow *row, Err *err) {
    if (row->key == INTERN_NONE) {
        note(w, row, DROP_UNRESOLVED);
        return OK;
    }
    if (!row_judge(w, row)) return OK;
    keep(w, row);
    Status status = visits_ready(w, err);
    if (status) return status;
    Visit *v = visit_find(w, row);
    const CodeKey *k = &w->im->keys.key[row->key];
    int recorded = row->start_precision != PRECISION_DAY;
    int64_t time, known = time_known(w, row, v, &time);
    if (row->end != TIME_NONE) {
        known = recorded_known(w, row, known, &recorded);
    } else if (row->flags & ROW_LAG) {
        if (recorded) known += w->im->options->lab_lag;
        recorded = 0;
        note(w, row, NOTE_LAG);
    }
    if (k->kind == KIND_DIAGNOSIS && row->flags & ROW_ON_ADMISSION) {
        note(w, row, NOTE_ON_ADMISSION);
    } else if (k->kind == KIND_DIAGNOSIS) {
        if (row->end == TIME_NONE) recorded = 0;
        if (v && v->inpatient) {
            recorded = 0;
            /* Coded at discharge; of a stay still open we know only that it was in the extract. */
            int64_t coded = v->known_end != TIME_NONE ? v->known_end : w->im->extract + END_OF_DAY + w->im->west;
            if (coded > known) known = coded;
            note(w, row, NOTE_HELD_BACK);
        }
    }
    visit_touch(v, known);
    if (k->words && k->mark) note(w, row, NOTE_RARE_WORDS);
    if (k->mapped) note(w, row, k->mapped > 1 ? NOTE_MAPPED_WIDER : NOTE_MAPPED);
    return emit(w, row, k->code, k->kind, time, known, row->start_precision, v ? v->ordinal : 0, recorded, err);
}

/* ---- all of them ------------------------------------------------------------------------------------------------- */

static Status person_end(Writer *w, Err *err) {
    Person *p = &w->p;
    Import *im = w->im;
    if (!p->kept) return OK;
    Status status = visits_ready(w, err);
    if (!status) status = visits_emit(w, err);
    if (!status && p->has_row) status = person_emit(w, err);
    int64_t end = im->extract + END_OF_DAY + im->west;
    if (p->dead_undated && p->last_known != TIME_NONE) end = p->last_known;
    if (p->period_end != TIME_NONE && end_of_day(w, p->period_end) < end) end = end_of_day(w, p->period_end);
    if (p->last_known > end) { /* whoever has events was observed */
        if (p->has_period) import_report_count(im->report, im->table_period, NOTE_AFTER_PERIOD, p->period_table_row);
        end = p->last_known;
    }
    w->persons++;
    return status ? status : event_writer_subject(im->writer, p->id, end, SPLIT_UNSET, err);
}

/* Rows of one record come together, its newest version first: the others are dropped, and all of it when that version
 * says that it is void. */
static int superseded(Writer *w, const StageRow *row) {
    const StageResource *x = (const StageResource *)row, *last = &w->p.last;
    if (last->row.row && last->resource == x->resource && last->row.stage == row->stage &&
        (last->row.row != row->row || last->row.table != row->table)) {
        note(w, row, x->version < last->version ? DROP_AMENDED : DROP_SAME_ID);
        return 1;
    }
    w->p.last = *x;
    int is_void = import_is_void(w->im, x->resource, x->version);
    if (x->drop < 0 && !is_void) return 0;
    note(w, row, is_void ? DROP_AMENDED : (ReportReason)x->drop);
    return 1;
}

static Status row_write(Writer *w, const StageRow *row, Err *err) {
    Person *p = &w->p;
    if (row->person_check != p->check)
        return err_set(err, ERR_FORMAT,
                       "%s: two persons' ids have the same hash %lld; give one of them another id and import again",
                       w->im->options->path, (long long)row->person);
    if (w->im->versioned && superseded(w, row)) return OK;
    if (row->stage == STAGE_PERSON) {
        person_row(w, row);
        return OK;
    }
    if (w->im->has_person && !p->has_row) {
        p->kept = 0;
        p->why = DROP_NO_PERSON;
    }
    if (!p->kept) {
        note(w, row, p->why);
        return OK;
    }
    StageRow own;
    if (w->im->versioned && ((const StageResource *)row)->refers) { /* its code is in another record */
        own = *row;
        own.key = import_referred(w->im, ((const StageResource *)row)->refers);
        row = &own;
    }
    switch (row->stage) {
    case STAGE_PERIOD:
        p->has_period = 1;
        keep(w, row);
        if (row->end > p->period_end) {
            p->period_end = row->end;
            p->period_table_row = (int)row->row;
        }
        return OK;
    case STAGE_DEATH: death_row(w, row); return OK;
    case STAGE_VISIT: return visit_row(w, row, err);
    case STAGE_DETAIL: return detail_row(w, row, err);
    default: return clinical_row(w, row, err);
    }
}

/* Which answers in words are told: see import_words.  The rows come by person, so that persons are easily counted. */
static Status words_resolve(Import *im, Err *err) {
    struct {
        int64_t last, persons;
    } *seen = xcalloc(im->keys.n, sizeof *seen);
    const void *next = NULL;
    Status status = OK;
    while (!status && !(status = sorter_next(im->stage, &next, err)) && next) {
        const StageRow *row = next;
        if (row->stage != STAGE_CLINICAL || row->key == INTERN_NONE || !im->keys.key[row->key].words) continue;
        if (seen[row->key].persons && seen[row->key].last == row->person) continue;
        seen[row->key].last = row->person;
        seen[row->key].persons++;
    }
    for (uint32_t i = 0; i < im->keys.n && !status; i++) {
        CodeKey *k = &im->keys.key[i];
        if (!k->words) continue;
        const CodeKey *question = &im->keys.key[k->words - 1];
        const char *text = im->texts.item[k->text], *code = im->texts.item[question->text];
        k->mark = seen[i].persons < WORDS_PATIENTS_MIN;
        k->code = question->code;
        if (!k->mark)
            status = event_writer_code(im->writer, text, k->kind, text + strlen(code) + 1, code, &k->code, err);
    }
    free(seen);
    return status ? status : sorter_rewind(im->stage, err);
}

Status import_write_people(Import *im, Err *err) {
    Writer w = {.im = im};
    const StageRow *row = NULL;
    const void *next = NULL;
    int64_t rows = 0, total = 0;
    int begun = 0;
    for (int i = 0; i < im->report->n_tables; i++)
        total += im->report->table[i].read - import_report_dropped(&im->report->table[i]);
    Status status = event_writer_code(im->writer, "MEDS_BIRTH", KIND_BIRTH, "Birth", NULL, &w.birth_code, err);
    if (!status) status = event_writer_code(im->writer, "MEDS_DEATH", KIND_DEATH, "Death", NULL, &w.death_code, err);
    if (!status)
        status =
            event_writer_code(im->writer, "ICU_IN", KIND_TRANSFER, "Admission to intensive care", NULL, &w.icu_in, err);
    if (!status)
        status = event_writer_code(im->writer, "ICU_OUT", KIND_TRANSFER, "Discharge from intensive care", NULL,
                                   &w.icu_out, err);
    if (!status) status = sorter_finish(im->stage, err);
    if (!status) status = sorter_rewind(im->stage, err);
    if (!status && im->has_words) status = words_resolve(im, err);
    progress_open(&im->progress, im->options->progress, "write events", "rows", total);
    while (!status && !(status = sorter_next(im->stage, &next, err)) && (row = next)) {
        if (!begun || row->person != w.p.id) {
            if (begun && (status = person_end(&w, err))) break;
            person_begin(&w, row->person);
            w.p.check = row->person_check;
            begun = 1;
        }
        status = row_write(&w, row, err);
        if (!(++rows & 4095)) progress_update(&im->progress, rows);
    }
    if (!status && begun) status = person_end(&w, err);
    progress_close(&im->progress, rows);
    free(w.p.visit);
    if (!status && !w.persons)
        status = err_set(err, ERR_FORMAT, "%s has no person to import: every row was dropped; the report says why",
                         im->options->path);
    return status;
}
