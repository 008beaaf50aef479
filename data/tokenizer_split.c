/* tokenizer_split.c - see tokenizer_split.h. */
#include "data/tokenizer_split.h"
#include "data/import_stage.h"
#include <errno.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

static const char PUBLIC_KEY[] = "ehr.c public split key 1";
enum { BALANCE_BELOW = 30 };

typedef struct {
    uint64_t hash;
    int64_t subject, row;
} Ranked;

static int compare_ranked(const void *a, const void *b) {
    const Ranked *x = a, *y = b;
    if (x->hash != y->hash) return x->hash < y->hash ? -1 : 1;
    return (x->subject > y->subject) - (x->subject < y->subject);
}

static void le64(uint8_t *out, uint64_t x) {
    for (int i = 0; i < 8; i++) out[i] = (uint8_t)(x >> (8 * i));
}

/* The first 8 bytes of HMAC-SHA256(key, id, purpose), big-endian: the split uses the id alone. */
static uint64_t subject_hash(const CohortOptions *o, int64_t subject, const char *purpose) {
    uint8_t id[16], mac[crypto_auth_hmacsha256_BYTES];
    crypto_auth_hmacsha256_state st;
    const uint8_t *key = o->key ? o->key : (const uint8_t *)PUBLIC_KEY;
    crypto_auth_hmacsha256_init(&st, key, o->key ? o->key_size : sizeof PUBLIC_KEY - 1);
    le64(id, (uint64_t)subject);
    le64(id + 8, (uint64_t)o->seed);
    crypto_auth_hmacsha256_update(&st, id, purpose ? 16 : 8);
    if (purpose) crypto_auth_hmacsha256_update(&st, (const uint8_t *)purpose, strlen(purpose));
    crypto_auth_hmacsha256_final(&st, mac);
    uint64_t h = 0;
    for (int i = 0; i < 8; i++) h = h << 8 | mac[i];
    return h;
}

/* Deals patients (n) to train, tuning and held_out by hash: shares of the hash range when there are many, of the ranks
 * when there are few or when chance left a split empty. */
static void deal(Cohort *c, Ranked *r, int64_t n, double tuning, double held_out) {
    int64_t count[SPLIT_COUNT] = {0};
    qsort(r, (size_t)n, sizeof *r, compare_ranked);
    for (int64_t i = 0; i < n; i++) {
        double u = (double)(r[i].hash >> 11) * 0x1p-53;
        int split = u < 1 - tuning - held_out ? SPLIT_TRAIN : u < 1 - held_out ? SPLIT_TUNING : SPLIT_HELD_OUT;
        c->split[r[i].row] = (uint8_t)split;
        count[split]++;
    }
    int64_t splits = held_out > 0 ? 3 : 2;
    if (n >= BALANCE_BELOW && count[SPLIT_TRAIN] && count[SPLIT_TUNING] && (splits == 2 || count[SPLIT_HELD_OUT]))
        return;
    int64_t n_tuning = 0, n_held_out = 0;
    if (n >= splits) {
        n_tuning = (int64_t)((double)n * tuning + 0.5);
        n_held_out = (int64_t)((double)n * held_out + 0.5);
        if (!n_tuning) n_tuning = 1;
        if (!n_held_out && held_out > 0) n_held_out = 1;
    }
    for (int64_t i = 0; i < n; i++)
        c->split[r[i].row] = (uint8_t)(i < n - n_tuning - n_held_out ? SPLIT_TRAIN
                                       : i < n - n_held_out          ? SPLIT_TUNING
                                                                     : SPLIT_HELD_OUT);
}

enum { NO_SITE = -1 };
typedef struct {
    int64_t *first_us; /* (n_rows) available time of the first timed event, TIME_NONE: none, or not to be kept */
    uint8_t *given;    /* (n_rows) the source's own split */
    int64_t n_given;
    char column[64]; /* "CARE_SITE//" of a split by site, else "" */
    int64_t *site;   /* (n_rows) code that says where the patient belongs; NO_SITE: none, or several */
} Survey;

static int compare_i64(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static int64_t site_of(const Survey *s, const EventFile *f, const EventPatient *p) {
    int64_t site = NO_SITE;
    for (int64_t i = 0; i < p->n && f->code_kind[p->event[i].code] == KIND_STATIC; i++) {
        int64_t code = p->event[i].code;
        if (strncmp(f->codes[code], s->column, strlen(s->column)) || code == site) continue;
        if (site != NO_SITE) return NO_SITE;
        site = code;
    }
    return site;
}

static Status survey(Cohort *c, Survey *s, EventFile *f, const CohortOptions *o, FILE *out, Err *err) {
    Progress progress;
    progress_open(&progress, out, "survey", "patients", f->n_patients);
    for (int64_t row = 0; row < f->n_patients; row++) {
        EventPatient p;
        Status status = event_file_patient(f, row, &p, err);
        if (status) return status;
        c->subject[row] = p.subject;
        s->first_us[row] = TIME_NONE;
        s->given[row] = (uint8_t)p.split;
        for (int64_t i = 0; i < p.n && s->first_us[row] == TIME_NONE; i++) {
            int kind = f->code_kind[p.event[i].code];
            if (kind != KIND_STATIC && kind != KIND_BIRTH) s->first_us[row] = p.event[i].available;
        }
        if (s->column[0]) s->site[row] = site_of(s, f, &p);
        if (o->n_excluded && bsearch(&p.subject, o->excluded, (size_t)o->n_excluded, sizeof p.subject, compare_i64)) {
            c->n_excluded++;
            s->first_us[row] = TIME_NONE;
        } else if (s->first_us[row] == TIME_NONE) {
            c->n_untimed++;
        } else if (s->column[0] && s->site[row] == NO_SITE) {
            c->n_no_site++;
            s->first_us[row] = TIME_NONE;
        } else {
            c->n++;
            s->n_given += p.split != SPLIT_UNSET;
        }
        progress_update(&progress, row + 1);
    }
    progress_close(&progress, f->n_patients);
    return OK;
}

static Status parse_date(const char *text, int64_t *us, Err *err) {
    int y, m, d, end = 0;
    if (sscanf(text, "%4d-%2d-%2d%n", &y, &m, &d, &end) == 3 && !text[end] && m >= 1 && m <= 12 && d >= 1 && d <= 31) {
        int back[3];
        *us = time_from_civil(y, m, d, 0, 0, 0);
        time_to_civil(*us, &back[0], &back[1], &back[2], &(int){0}, &(int){0}, &(int){0});
        if (back[0] == y && back[1] == m && back[2] == d) return OK;
    }
    return err_set(err, ERR_USAGE, "--split time:%s: a date such as 2020-01-31 was expected", text);
}

static void date_text(int64_t us, char out[40]) {
    int y, m, d;
    time_to_civil(us, &y, &m, &d, &(int){0}, &(int){0}, &(int){0});
    snprintf(out, 40, "%04d-%02d-%02d", y, m, d);
}

/* time:DATE: whoever comes first at DATE or later is held out, the rest is dealt 90/10. */
static Status split_by_time(Cohort *c, const Survey *s, const EventFile *f, Ranked *ranked, int64_t n, const char *date,
                            Err *err) {
    int64_t cut = 0, kept = 0, first = INT64_MAX, last = INT64_MIN;
    Status status = parse_date(date, &cut, err);
    if (status) return status;
    if (event_file_is_relative(f))
        return err_set(err, ERR_USAGE,
                       "--split time:%s: %s is a release, whose times count from each patient's first event: it has no "
                       "dates; split by date when it is made (ehr-data deidentify --split time:%s), then --split given",
                       date, f->path, date);
    for (int64_t i = 0; i < n; i++) {
        int64_t us = s->first_us[ranked[i].row];
        first = us < first ? us : first;
        last = us > last ? us : last;
        if (us >= cut) c->split[ranked[i].row] = SPLIT_HELD_OUT;
        else ranked[kept++] = ranked[i];
    }
    if (!kept || kept == n) {
        char from[40], to[40];
        date_text(first, from);
        date_text(last, to);
        return err_set(err, ERR_USAGE,
                       "--split time:%s leaves nobody %s: the patients of %s come first from %s to %s; give a date "
                       "after the first and not after the last", date, kept ? "to hold out" : "to train on", f->path, from, to);
    }
    deal(c, ranked, kept, 0.1, 0);
    return OK;
}

/* ---- whole sites
 * ------------------------------------------------------------------------------------------------------ */

typedef struct {
    uint64_t hash;
    int64_t code, patients;
    int held_out;
} Site;

static int compare_sites(const void *a, const void *b) {
    const Site *x = a, *y = b;
    if (x->hash != y->hash) return x->hash < y->hash ? -1 : 1;
    return (x->code > y->code) - (x->code < y->code);
}

static uint64_t site_hash(const CohortOptions *o, const char *code) {
    uint8_t mac[crypto_auth_hmacsha256_BYTES];
    crypto_auth_hmacsha256_state st;
    const uint8_t *key = o->key ? o->key : (const uint8_t *)PUBLIC_KEY;
    crypto_auth_hmacsha256_init(&st, key, o->key ? o->key_size : sizeof PUBLIC_KEY - 1);
    crypto_auth_hmacsha256_update(&st, (const uint8_t *)code, strlen(code));
    crypto_auth_hmacsha256_final(&st, mac);
    uint64_t h = 0;
    for (int i = 0; i < 8; i++) h = h << 8 | mac[i];
    return h;
}

/* site:COLUMN[=...] -> "COLUMN//"; ERR_USAGE names the columns there are. */
static Status site_column(Survey *s, const EventFile *f, const char *spec, Err *err) {
    size_t n = strcspn(spec, "=");
    char there[300] = "";
    const char *last = "";
    if (n && n < sizeof s->column - 2) snprintf(s->column, sizeof s->column, "%.*s//", (int)n, spec);
    for (int64_t c = 0; c < f->n_codes; c++) {
        if (f->code_kind[c] != KIND_STATIC) continue;
        if (s->column[0] && !strncmp(f->codes[c], s->column, strlen(s->column))) return OK;
        size_t name = strcspn(f->codes[c], "/"), used = strlen(there);
        if (strcspn(last, "/") != name || strncmp(last, f->codes[c], name)) /* codes are sorted */
            snprintf(there + used, sizeof there - used, "%s%.*s", used ? ", " : "", (int)name, f->codes[c]);
        last = f->codes[c];
    }
    return err_set(err, ERR_USAGE, "--split site:%s: %s has no static code %.*s//...; there are %s", spec, f->path,
                   (int)n, spec, there[0] ? there : "none");
}

/* About a tenth of the patients, by whole sites in the order of their hash; when all sites are larger, the smallest
 * one. */
static void sites_choose(Site *site, int64_t n, int64_t patients) {
    int64_t taken = 0, smallest = 0;
    qsort(site, (size_t)n, sizeof *site, compare_sites);
    for (int64_t i = 0; i < n; i++) {
        if (site[i].patients < site[smallest].patients) smallest = i;
        if (10 * taken >= patients || 20 * (taken + site[i].patients) > 3 * patients) continue;
        taken += site[i].patients;
        site[i].held_out = 1;
    }
    if (!taken) site[smallest].held_out = 1;
}

static Status sites_named(Site *site, int64_t n, const Survey *s, const EventFile *f, const char *spec, Err *err) {
    char *copy = xstrdup(strchr(spec, '=') + 1);
    Status status = OK;
    for (char *rest = copy, *value; !status && (value = strsep(&rest, ","));) {
        int found = 0;
        for (int64_t i = 0; i < n; i++) {
            if (strcmp(f->codes[site[i].code] + strlen(s->column), value)) continue;
            site[i].held_out = found = 1;
        }
        if (!found)
            status =
                err_set(err, ERR_USAGE, "--split site:%s: no patient of %s has %s%s", spec, f->path, s->column, value);
    }
    free(copy);
    return status;
}

/* Whole sites are held out; the rest is dealt 90/10 by patient, as for time:DATE. */
static Status split_by_site(Cohort *c, const Survey *s, const EventFile *f, Ranked *ranked, int64_t n,
                            const CohortOptions *o, Err *err) {
    const char *spec = o->split + strlen("site:");
    int64_t *at = try_calloc((size_t)f->n_codes, sizeof *at), n_sites = 0, kept = 0;
    Site *site = try_calloc((size_t)f->n_codes, sizeof *site);
    Status status = at && site ? OK : err_set(err, ERR_NOMEM, "no memory for %lld codes", (long long)f->n_codes);
    for (int64_t i = 0; !status && i < n; i++) {
        int64_t code = s->site[ranked[i].row];
        if (!at[code]) {
            at[code] = ++n_sites;
            site[n_sites - 1] = (Site){.hash = site_hash(o, f->codes[code]), .code = code};
        }
        site[at[code] - 1].patients++;
    }
    if (!status && n_sites < 2)
        status = err_set(err, ERR_USAGE, "--split site:%s: all patients have %s; two sites at least are needed", spec,
                         f->codes[site[0].code]);
    if (!status && strchr(spec, '=')) status = sites_named(site, n_sites, s, f, spec, err);
    else if (!status) sites_choose(site, n_sites, n);
    for (int64_t i = 0; !status && i < f->n_codes; i++) at[i] = 0;
    for (int64_t i = 0; !status && i < n_sites; i++) at[site[i].code] = site[i].held_out;
    for (int64_t i = 0; !status && i < n; i++) {
        if (at[s->site[ranked[i].row]]) c->split[ranked[i].row] = SPLIT_HELD_OUT;
        else ranked[kept++] = ranked[i];
    }
    if (!status) deal(c, ranked, kept, 0.1, 0);
    free(at);
    free(site);
    return status;
}

static Status assign(Cohort *c, const Survey *s, EventFile *f, const CohortOptions *o, Err *err) {
    const char *split = o->split ? o->split : s->n_given == c->n ? "given" : "patient";
    /* Without the names of the sites: the method is stored in the dataset. */
    snprintf(c->method, sizeof c->method, "%.*s", (int)strcspn(split, "="), split);
    if (!strcmp(split, "given")) {
        if (s->n_given != c->n)
            return err_set(err, ERR_USAGE,
                           "--split given: %s names a split for %lld of %lld patients; use --split patient", f->path,
                           (long long)s->n_given, (long long)c->n);
        for (int64_t row = 0; row < c->n_rows; row++)
            if (s->first_us[row] != TIME_NONE) c->split[row] = s->given[row];
        return OK;
    }
    Ranked *ranked = try_calloc((size_t)c->n, sizeof *ranked);
    if (!ranked) return err_set(err, ERR_NOMEM, "no memory to split %lld patients", (long long)c->n);
    int64_t n = 0;
    for (int64_t row = 0; row < c->n_rows; row++)
        if (s->first_us[row] != TIME_NONE)
            ranked[n++] = (Ranked){subject_hash(o, c->subject[row], NULL), c->subject[row], row};
    Status status = OK;
    if (!strcmp(split, "patient")) deal(c, ranked, n, 0.1, 0.1);
    else if (!strncmp(split, "time:", 5)) status = split_by_time(c, s, f, ranked, n, split + 5, err);
    else if (!strncmp(split, "site:", 5)) status = split_by_site(c, s, f, ranked, n, o, err);
    else
        status =
            err_set(err, ERR_USAGE, "--split %s: patient, given, time:YYYY-MM-DD or site:COLUMN was expected", split);
    free(ranked);
    return status;
}

static Status shuffle(Cohort *c, const CohortOptions *o, Err *err) {
    Ranked *ranked = try_calloc((size_t)c->n, sizeof *ranked);
    c->order = try_calloc((size_t)c->n, sizeof *c->order);
    if (!ranked || !c->order) {
        free(ranked);
        return err_set(err, ERR_NOMEM, "no memory to shuffle %lld patients", (long long)c->n);
    }
    int64_t n = 0;
    for (int64_t row = 0; row < c->n_rows; row++) {
        if (c->split[row] == SPLIT_UNSET) continue;
        ranked[n++] = (Ranked){subject_hash(o, c->subject[row], "order"), c->subject[row], row};
        c->n_split[c->split[row]]++;
    }
    REQUIRE(n == c->n);
    qsort(ranked, (size_t)n, sizeof *ranked, compare_ranked);
    for (int64_t i = 0; i < n; i++) c->order[i] = ranked[i].row;
    free(ranked);
    return OK;
}

Status cohort_open(Cohort *c, EventFile *f, const CohortOptions *o, FILE *progress, Err *err) {
    *c = (Cohort){.n_rows = f->n_patients};
    size_t n = (size_t)f->n_patients;
    Survey s = {.first_us = try_calloc(n, sizeof *s.first_us),
                .given = try_calloc(n, 1),
                .site = try_calloc(n, sizeof *s.site)};
    c->split = try_calloc(n, 1);
    c->subject = try_calloc(n, sizeof *c->subject);
    Status status = OK;
    if (!s.first_us || !s.given || !s.site || !c->split || !c->subject)
        status = err_set(err, ERR_NOMEM, "no memory for %zu patients", n);
    if (!status && o->split && !strncmp(o->split, "site:", 5)) status = site_column(&s, f, o->split + 5, err);
    if (!status) {
        memset(c->split, SPLIT_UNSET, n);
        status = survey(c, &s, f, o, progress, err);
    }
    if (!status && !c->n)
        status = err_set(err, ERR_FORMAT, "%s has no patient with a timed event%s%s", f->path,
                         c->n_no_site ? " and one site" : "", c->n_excluded ? " that is not excluded" : "");
    if (!status) status = assign(c, &s, f, o, err);
    if (!status) status = shuffle(c, o, err);
    if (!status && !c->n_split[SPLIT_TRAIN])
        status = err_set(err, ERR_USAGE, "--split %s leaves nobody to train on (%lld tuning, %lld held_out)", c->method,
                         (long long)c->n_split[SPLIT_TUNING], (long long)c->n_split[SPLIT_HELD_OUT]);
    free(s.first_us);
    free(s.given);
    free(s.site);
    if (status) cohort_close(c);
    return status;
}

void cohort_close(Cohort *c) {
    free(c->split);
    free(c->order);
    free(c->subject);
    *c = (Cohort){0};
}

Status split_key_read(const char *path, uint8_t **key, size_t *size, Err *err) {
    char *text;
    Status status = file_read(path, 4098, &text, size, err);
    if (status) return status;
    while (*size && (text[*size - 1] == '\n' || text[*size - 1] == '\r')) --*size;
    if (*size < 16 || *size > 4096) {
        free(text);
        return err_set(err, ERR_USAGE, "--key %s: a split key has 16 to 4096 bytes, this file has %zu", path, *size);
    }
    *key = (uint8_t *)text;
    return OK;
}

int64_t subject_id_of(const char *text) {
    char *end;
    errno = 0;
    long long id = strtoll(text, &end, 10);
    if (*text && !*end && !errno) return id;
    return import_id_hash(strncmp(text, "Patient/", 8) ? text : text + 8, NULL);
}

Status excluded_read(const char *path, int64_t **ids, int64_t *n, Err *err) {
    char *text, *save = NULL;
    Status status = file_read(path, (size_t)1 << 31, &text, NULL, err);
    if (status) return status;
    int64_t capacity = 0, line_no = 0;
    *ids = NULL;
    *n = 0;
    for (char *rest = text, *line; !status && (line = strsep(&rest, "\n"));) {
        line_no++;
        line[strcspn(line, "#")] = 0;
        char *word = strtok_r(line, " \t\r", &save);
        if (!word) continue;
        if (strtok_r(NULL, " \t\r", &save)) {
            status = err_set(err, ERR_FORMAT, "--exclude %s, line %lld: one subject id a line was expected", path,
                             (long long)line_no);
            break;
        }
        if (*n == capacity) *ids = xrealloc(*ids, (size_t)(capacity = 2 * capacity + 64) * sizeof **ids);
        (*ids)[(*n)++] = subject_id_of(word);
    }
    free(text);
    if (*n) qsort(*ids, (size_t)*n, sizeof **ids, compare_i64);
    int64_t distinct = 0;
    for (int64_t i = 0; i < *n; i++)
        if (!distinct || (*ids)[i] != (*ids)[distinct - 1]) (*ids)[distinct++] = (*ids)[i];
    *n = distinct;
    if (status) {
        free(*ids);
        *ids = NULL;
    }
    return status;
}
