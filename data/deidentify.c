/* deidentify.c - see deidentify.h.  Passes over the events: who is there and when records end; how many patients have
 * each code, twice or more, until what is left is frequent enough; the release itself; the risk that remains. */
#include "data/attest.h"
#include "data/deidentify_notes.h"
#include "data/deidentify_record.h"
#include "data/linkage.h"
#include "data/oracle_file.h"
#include "data/phi_scan.h"
#include "model/sha256.h"
#include <errno.h>
#include <math.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct {
    Deid d;
    DeidentifyReport *r;
    int64_t *excluded, n_excluded;
    uint8_t *split_key;
    size_t split_key_size;
    json_t *text_attestation;
    int synthetic;
} Run;

/* ---- randomness: the system's, or for tests a seed's ------------------------------------------------------------- */

static void random_fill(const DeidentifyOptions *o, const char *purpose, void *out, size_t n) {
    if (o->seed < 0) {
        randombytes_buf(out, n);
        return;
    }
    unsigned char seed[randombytes_SEEDBYTES];
    char *text = xasprintf("ehr.c deidentify %lld %s", (long long)o->seed, purpose);
    crypto_generichash(seed, sizeof seed, (const unsigned char *)text, strlen(text), NULL, 0);
    free(text);
    randombytes_buf_deterministic(out, n, seed);
}

typedef struct {
    int64_t key, row;
} Keyed;

static int compare_keyed(const void *a, const void *b) {
    int64_t x = ((const Keyed *)a)->key, y = ((const Keyed *)b)->key;
    return (x > y) - (x < y);
}

/* Positive 63-bit ids, none twice: of two alike the later is drawn again, which 63 bits make a matter of form. */
static Status draw_keys(Run *run, Err *err) {
    int64_t P = run->d.f.n_patients;
    Keyed *k = try_calloc((size_t)P, sizeof *k);
    run->d.key = try_calloc((size_t)P, sizeof *run->d.key);
    if (!k || !run->d.key) {
        free(k);
        return err_set(err, ERR_NOMEM, "no memory for %lld patients", (long long)P);
    }
    random_fill(run->d.o, "keys", run->d.key, (size_t)P * sizeof *run->d.key);
    for (int alike = 1, turn = 0; alike; turn++) {
        alike = 0;
        for (int64_t row = 0; row < P; row++) {
            run->d.key[row] &= INT64_MAX;
            k[row] = (Keyed){run->d.key[row], row};
        }
        qsort(k, (size_t)P, sizeof *k, compare_keyed);
        for (int64_t i = 0; i < P; i++) {
            if (k[i].key && (!i || k[i].key != k[i - 1].key)) continue;
            char purpose[40];
            snprintf(purpose, sizeof purpose, "key %lld %d", (long long)k[i].row, turn);
            random_fill(run->d.o, purpose, &run->d.key[k[i].row], sizeof *run->d.key);
            alike = 1;
        }
    }
    free(k);
    return OK;
}

/* ---- ends of records --------------------------------------------------------------------------------------------- */

static int compare_i64(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static int64_t day_of(int64_t us) { return us / US_PER_DAY - (us % US_PER_DAY < 0); }

/* Days on which more than 1 in 100 records end, and more than one: days of a data pull.  The most frequent one is
 * day[0]; *n = 0: there is none. */
static void pull_days(const int64_t *end, int64_t P, int64_t *day, int64_t *n) {
    int64_t known = 0, most = 0;
    *n = 0;
    for (int64_t i = 0; i < P; i++)
        if (end[i] != TIME_NONE) day[known++] = day_of(end[i]);
    if (known) qsort(day, (size_t)known, sizeof *day, compare_i64);
    for (int64_t i = 0, next; i < known; i = next) {
        for (next = i; next < known && day[next] == day[i]; next++) {
        }
        int64_t here = next - i;
        if (here < 2 || 100 * here <= known) continue;
        day[*n] = day[i];
        if (here > most) {
            most = here;
            int64_t swap = day[0];
            day[0] = day[*n];
            day[*n] = swap;
        }
        ++*n;
    }
}

/* Everybody's own end: that of the pull that ended the record, or would have, less a random time. */
static Status draw_ends(Run *run, Err *err) {
    Deid *d = &run->d;
    int64_t P = d->f.n_patients, n_days = 0;
    int64_t *end = d->end_us = try_calloc((size_t)P, sizeof *end);
    int64_t *day = try_calloc((size_t)P + 1, sizeof *day);
    uint64_t *draw = try_calloc((size_t)P + 1, sizeof *draw);
    Status status = end && day && draw ? OK : err_set(err, ERR_NOMEM, "no memory for %lld patients", (long long)P);
    for (int64_t row = 0; row < P && !status; row++) {
        EventPatient p;
        status = event_file_patient(&d->f, row, &p, err);
        if (!status) end[row] = d->cohort.split[row] == SPLIT_UNSET ? TIME_NONE : p.observation_end;
    }
    if (!status) pull_days(end, P, day, &n_days);
    random_fill(d->o, "ends", draw, (size_t)P * sizeof *draw);
    for (int64_t row = 0; row < P && !status; row++) {
        int64_t pull = TIME_NONE;
        for (int64_t i = 0; i < n_days && end[row] != TIME_NONE; i++)
            if (day[i] == day_of(end[row])) pull = end[row];
        if (pull == TIME_NONE && n_days) pull = (day[0] + 1) * US_PER_DAY - 1;
        end[row] = TIME_NONE;
        if (pull != TIME_NONE && d->o->blur_end_minutes)
            end[row] = pull - (int64_t)(draw[row] % (uint64_t)(d->o->blur_end_minutes * US_PER_MINUTE));
    }
    free(day);
    free(draw);
    return status;
}

/* ---- counting and roll-up ---------------------------------------------------------------------------------------- */

static Status count_codes(Run *run, Err *err) {
    Deid *d = &run->d;
    DeidPatient p = {0};
    Status status = OK;
    Progress bar;
    release_codes_count_begin(&d->codes);
    progress_open(&bar, d->o->progress, "count codes", "patients", d->f.n_patients);
    for (int64_t row = 0; row < d->f.n_patients && !status; row++) {
        status = deid_patient(d, row, &p, NULL, err);
        for (int64_t i = 0; i < p.n && !status; i++)
            release_codes_count(&d->codes, row, p.event[i].code, p.event[i].unit);
        progress_update(&bar, row + 1);
    }
    progress_close(&bar, d->f.n_patients);
    deid_patient_free(&p);
    return status;
}

/* Roll-up may leave a patient with nothing, and that may take a code below k again: until nothing changes. */
static Status settle_codes(Run *run, Err *err) {
    Status status;
    do status = count_codes(run, err);
    while (!status && release_codes_roll_up(&run->d.codes));
    return status;
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

typedef struct {
    EventWriter *w;
    uint32_t *code; /* (codes.out.n) id of the writer, CODE_GONE: not yet */
    uint16_t *unit; /* (f.n_units) likewise, 0: not yet */
    Table linkage;
    int64_t *subject, *split, *origin, n;
    uint64_t *key;
} Out;

static Status out_code(const Deid *d, Out *out, uint32_t code, uint32_t *id, Err *err) {
    if (out->code[code] == CODE_GONE) {
        const char *text = d->codes.out.item[code];
        int32_t source = d->codes.source[code];
        int public = source >= 0 && code_is_public(text);
        const char *parent = public && d->f.code_parent[source][0] && code_is_public(d->f.code_parent[source])
                                 ? d->f.code_parent[source]
                                 : NULL;
        /* Names of local codes are the source's own texts. */
        Status status = event_writer_code(out->w, text, d->codes.out_kind[code], public ? d->f.code_name[source] : NULL,
                                          parent, &out->code[code], err);
        if (status) return status;
    }
    *id = out->code[code];
    return OK;
}

static Status out_patient(Run *run, Out *out, int64_t row, const DeidPatient *p, const ReleaseTexts *texts, Err *err) {
    Deid *d = &run->d;
    Status status = event_writer_subject(out->w, d->key[row], p->observation_end, d->cohort.split[row], err);
    for (int64_t i = 0; i < p->n && !status; i++) {
        Event e = p->event[i];
        status = out_code(d, out, e.code, &e.code, err);
        if (!status && e.unit && !out->unit[e.unit])
            status = event_writer_unit(out->w, d->f.units[e.unit], &out->unit[e.unit], err);
        e.unit = out->unit[e.unit];
        e.subject = d->key[row];
        const struct ReleaseText *text = e.note ? &texts->item[e.note - 1] : NULL;
        if (!status && text && text->size) status = event_writer_add_text(out->w, &e, text->text, text->size, err);
        else if (!status) status = event_writer_add(out->w, &e, err);
    }
    out->subject[out->n] = d->cohort.subject[row];
    out->key[out->n] = (uint64_t)d->key[row];
    out->split[out->n] = d->cohort.split[row];
    out->origin[out->n++] = p->origin_us;
    return status;
}

static int compare_events(const void *a, const void *b) {
    const Event *x = a, *y = b;
#define BY(field)                                                                                                      \
    if (x->field != y->field) return x->field < y->field ? -1 : 1
    BY(available);
    BY(code);
    if (isnan(x->value) != isnan(y->value)) return isnan(x->value) ? 1 : -1;
    if (!isnan(x->value)) BY(value);
    BY(time);
    BY(unit);
    BY(comparator);
    BY(visit);
    BY(precision);
    BY(note);
#undef BY
    return 0;
}

/* Different events may have become the same one; the writer would drop repetitions, too, but after the record is made.
 */
static void drop_repetitions(DeidPatient *p, int64_t *n_dropped) {
    int64_t n = 0;
    if (p->n) qsort(p->event, (size_t)p->n, sizeof *p->event, compare_events);
    for (int64_t i = 0; i < p->n; i++)
        if (!n || compare_events(&p->event[i], &p->event[n - 1])) p->event[n++] = p->event[i];
    *n_dropped += p->n - n;
    p->n = n;
}

/* What the release holds, counted as it is told; with `out` it is written, too. */
static Status tell_all(Run *run, Out *out, Err *err) {
    Deid *d = &run->d;
    DeidentifyReport *r = run->r;
    DeidPatient p = {0};
    ReleaseTexts texts = {0};
    uint8_t *seen_code = xcalloc(d->codes.out.n + 1, 1), *seen_unit = xcalloc((size_t)d->f.n_units, 1);
    Status status = OK;
    Progress bar;
    progress_open(&bar, d->o->progress, "de-identify", "patients", d->f.n_patients);
    for (int64_t row = 0; row < d->f.n_patients && !status; row++) {
        status = deid_patient(d, row, &p, r, err);
        progress_update(&bar, row + 1);
        if (!status && d->phi) status = release_texts_read(&texts, d, &p, r, err);
        if (status || !p.n) continue;
        drop_repetitions(&p, &r->repetitions);
        r->after.patients++;
        r->after.events += p.n;
        r->n_split[d->cohort.split[row]]++;
        for (int64_t i = 0; i < p.n; i++) {
            r->notes_after += p.event[i].note != 0;
            r->after.codes += !seen_code[p.event[i].code];
            r->after.units += p.event[i].unit && !seen_unit[p.event[i].unit];
            seen_code[p.event[i].code] = seen_unit[p.event[i].unit] = 1;
        }
        if (out) status = out_patient(run, out, row, &p, &texts, err);
    }
    progress_close(&bar, d->f.n_patients);
    free(seen_code);
    free(seen_unit);
    deid_patient_free(&p);
    release_texts_free(&texts);
    if (!status && !r->after.patients)
        status = err_set(err, ERR_FORMAT,
                         "nothing of %s remains: %lld patients, and no code that %lld of them have; lower "
                         "--min-patients, or release more patients together",
                         d->f.path, (long long)r->before.patients, (long long)d->codes.k);
    return status;
}

static void fill_counts(Run *run) {
    const Deid *d = &run->d;
    DeidentifyReport *r = run->r;
    r->before = (ReleaseSize){d->f.n_patients, d->f.n_events, 0, d->f.n_units - 1};
    r->notes_before = d->f.n_notes;
    r->excluded = d->cohort.n_excluded;
    r->exclude_unknown = run->n_excluded - d->cohort.n_excluded;
    r->untimed = d->cohort.n_untimed;
    r->no_site = d->cohort.n_no_site;
    snprintf(r->split_method, sizeof r->split_method, "%s", d->cohort.method);
    for (int64_t c = 0; c < d->f.n_codes; c++) {
        if (!d->codes.used[c]) continue;
        r->before.codes++;
        r->codes_by_fate[d->codes.fate[c]]++;
    }
}

/* ---- the linkage ------------------------------------------------------------------------------------------------- */

static Status write_linkage(Run *run, Out *out, Err *err) {
    out->linkage.n = out->n; /* the columns are longer when patients were emptied */
    table_set(&out->linkage, "name", RELEASE_LINKAGE);
    table_set(&out->linkage, "release", run->r->release);
    table_set(&out->linkage, "events_sha256", run->d.f.sha256);
    table_set(&out->linkage, "released_sha256", run->r->sha256);
    Status status = table_write_h5(&out->linkage, run->d.o->linkage, err);
    if (!status && chmod(run->d.o->linkage, 0600))
        status = err_set(err, ERR_IO, "cannot make %s unreadable for others: %s", run->d.o->linkage, strerror(errno));
    return status;
}

static void out_open(Run *run, Out *out) {
    const Deid *d = &run->d;
    size_t n = d->codes.out.n;
    out->code = xmalloc((n + 1) * sizeof *out->code);
    for (size_t i = 0; i < n; i++) out->code[i] = CODE_GONE;
    out->unit = xcalloc((size_t)d->f.n_units, sizeof *out->unit);
    table_init(&out->linkage, d->f.n_patients);
    out->subject = table_add(&out->linkage, "subject_id", COLUMN_I64);
    out->key = table_add(&out->linkage, "patient_key", COLUMN_U64);
    out->split = table_add(&out->linkage, "split", COLUMN_I64);
    out->origin = table_add(&out->linkage, "origin_us", COLUMN_I64);
}

static Status write_release(Run *run, Err *err) {
    const DeidentifyOptions *o = run->d.o;
    Out out = {0};
    int64_t patients, events, duplicates;
    out_open(run, &out);
    Status status = event_writer_open(&out.w, o->out, o->memory, err);
    if (!status && run->d.phi) event_writer_with_texts(out.w);
    if (!status) status = tell_all(run, &out, err);
    if (!status) status = deid_risk(&run->d, run->r, (uint64_t)run->d.key[0], err);
    if (!status) {
        fill_counts(run);
        run->r->record = deidentify_record_make(run->r, o, &run->d.codes, run->synthetic, run->text_attestation);
        snprintf(run->r->level, sizeof run->r->level, "%s",
                 json_string_value(json_object_get(run->r->record, "level")));
        json_t *provenance = json_pack("{s:s, s:O}", "time_origin", "first_event", "deidentification", run->r->record);
        char *text = json_dumps(provenance, JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(10));
        status = event_writer_close(out.w, run->d.f.source, text, &patients, &events, &duplicates, err);
        out.w = NULL;
        if (!status) REQUIRE(patients == run->r->after.patients && events == run->r->after.events);
        free(text);
        json_decref(provenance);
    }
    if (!status) status = file_sha256(o->out, run->r->sha256, err);
    if (!status && (status = write_linkage(run, &out, err))) unlink(o->out);
    event_writer_abort(out.w);
    table_free(&out.linkage);
    free(out.code);
    free(out.unit);
    return status;
}

/* ---- the whole --------------------------------------------------------------------------------------------------- */

static Status text_attested(Run *run, Err *err) {
    const char *path = run->d.o->text_attestation;
    if (!path) return OK;
    Status status = attest_load(&run->text_attestation, path, err);
    if (!status) status = attest_verify(run->text_attestation, NULL, path, err);
    if (status) return status;
    if (strcmp(json_text(run->text_attestation, "level"), "text-scrubbed") ||
        strcmp(json_text(run->text_attestation, "events_sha256"), run->d.f.sha256))
        return err_set(err, ERR_FORMAT,
                       "--text-attestation %s does not say that the texts of %s were scrubbed (ehr-data attest %s "
                       "--level text-scrubbed)",
                       path, run->d.f.path, run->d.f.path);
    return OK;
}

static Status names_take(Run *run, Err *err) {
    const DeidentifyOptions *o = run->d.o;
    if (!run->d.phi)
        return err_set(err, ERR_USAGE, "--mask-names: no free text is released here (%s)",
                       o->text_attestation ? "the events file has none" : "--text-attestation is missing");
    Status status = phi_names_read(run->d.phi, o->names, err);
    run->r->names = phi_names_count(run->d.phi);
    if (!status && !run->r->names)
        status = err_set(err, ERR_USAGE,
                         "--mask-names %s: no names are told there (columns FIRST, LAST, ... of CSV, keys family, given of "
                         "JSON were expected)",
                         o->names);
    return status;
}

static Status prepare(Run *run, Err *err) {
    const DeidentifyOptions *o = run->d.o;
    Deid *d = &run->d;
    if (sodium_init() < 0) return err_set(err, ERR_IO, "no source of randomness on this machine");
    Status status = event_file_open(&d->f, o->events, err);
    json_t *done = status ? NULL : deidentify_record_of(&d->f);
    if (done)
        status = err_set(err, ERR_USAGE, "%s went through deidentify already; give the events file of the import",
                         o->events);
    json_decref(done);
    if (!status) status = text_attested(run, err);
    if (!status && run->text_attestation && d->f.n_notes) status = phi_patterns_open(&d->phi, err);
    if (!status && o->names) status = names_take(run, err);
    if (!status && o->key_file) status = split_key_read(o->key_file, &run->split_key, &run->split_key_size, err);
    if (!status && o->exclude_file) status = excluded_read(o->exclude_file, &run->excluded, &run->n_excluded, err);
    CohortOptions co = {o->split, run->split_key, run->split_key_size, 0, run->excluded, run->n_excluded};
    if (!status) status = cohort_open(&d->cohort, &d->f, &co, o->progress, err);
    CodeRules rules = {o->statics, run->text_attestation != NULL, o->keep_state};
    if (!status) status = release_codes_open(&d->codes, &d->f, o->min_patients, &rules, err);
    if (!status) status = draw_keys(run, err);
    if (!status) status = draw_ends(run, err);
    return status;
}

Status deidentify_events(const DeidentifyOptions *o, DeidentifyReport *r, Err *err) {
    REQUIRE(o->min_patients >= 1 && (!o->out || o->linkage));
    *r = (DeidentifyReport){0};
    Run run = {.d = {.o = o}, .r = r};
    unsigned char release[16];
    Status status = prepare(&run, err);
    run.synthetic = !status && (!strcmp(run.d.f.source, "oracle") || oracle_file_present(o->events));
    random_fill(o, "release", release, sizeof release);
    sodium_bin2hex(r->release, sizeof r->release, release, sizeof release);
    if (!status) status = settle_codes(&run, err);
    if (!status && o->out) {
        status = write_release(&run, err);
    } else if (!status) {
        status = tell_all(&run, NULL, err);
        if (!status) status = deid_risk(&run.d, r, (uint64_t)run.d.key[0], err);
        if (!status) {
            fill_counts(&run);
            r->record = deidentify_record_make(r, o, &run.d.codes, run.synthetic, run.text_attestation);
            snprintf(r->level, sizeof r->level, "%s", json_string_value(json_object_get(r->record, "level")));
        }
    }
    phi_patterns_close(run.d.phi);
    release_codes_close(&run.d.codes);
    cohort_close(&run.d.cohort);
    event_file_close(&run.d.f);
    json_decref(run.text_attestation);
    free(run.d.key);
    free(run.d.end_us);
    free(run.excluded);
    free(run.split_key);
    if (status) deidentify_report_free(r);
    return status;
}

void deidentify_report_free(DeidentifyReport *r) {
    json_decref(r->record);
    *r = (DeidentifyReport){0};
}
