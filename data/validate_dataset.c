/* validate_dataset.c - a dataset against its promises.  Files are hashed first, by what dataset.json says and whether
 * or not they open; then every patient is read. */
#include "data/deidentify_record.h"
#include "data/h5.h"
#include "data/validate_leaks.h"
#include <dirent.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- files ------------------------------------------------------------------------------------------------------- */

typedef struct {
    ValidateReport *r;
    const char *path;
    int n;
    char **name; /* files that dataset.json names */
} Files;

static void check_hash(Files *f, const json_t *entry) {
    const char *name = json_string_value(json_object_get(entry, "file"));
    const char *want = json_string_value(json_object_get(entry, "sha256"));
    if (!name || strchr(name, '/')) return; /* dataset_open says so */
    f->name = xrealloc(f->name, sizeof *f->name * (size_t)(f->n + 1));
    f->name[f->n++] = xstrdup(name);
    char *path = xasprintf("%s/%s", f->path, name), got[65];
    Err err = {0};
    if (!want) report_add(f->r, FIND_HASH, "%s: dataset.json has no sha256 of it", name);
    else if (file_sha256(path, got, &err)) report_add(f->r, FIND_HASH, "%s: %s", name, err.msg);
    else if (strcmp(got, want))
        report_add(f->r, FIND_HASH, "%s is %.12s..., dataset.json says %.12s...", name, got, want);
    free(path);
}

static int is_listed(const Files *f, const char *name) {
    static const char *const known[] = {".", "..", "dataset.json", "labels"};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(name, known[i])) return 1;
    for (int i = 0; i < f->n; i++)
        if (!strcmp(name, f->name[i])) return 1;
    return 0;
}

static void check_files(ValidateReport *r, const char *path) {
    Files f = {.r = r, .path = path};
    char *json_path = xasprintf("%s/dataset.json", path);
    json_t *root = NULL, *split;
    const char *name;
    char *text;
    size_t size;
    Err ignored; /* dataset_open says so */
    if (!file_read(json_path, 64 << 20, &text, &size, &ignored)) {
        root = json_loadb(text, size, 0, NULL);
        free(text);
    }
    if (root) {
        check_hash(&f, json_object_get(root, "vocabulary"));
        json_object_foreach(json_object_get(root, "splits"), name, split) {
            json_t *shards = json_object_get(split, "shards");
            for (size_t i = 0; i < json_array_size(shards); i++) check_hash(&f, json_array_get(shards, i));
        }
        DIR *dir = opendir(path);
        for (struct dirent *e; dir && (e = readdir(dir));)
            if (!is_listed(&f, e->d_name)) report_add(r, FIND_UNLISTED, "%s", e->d_name);
        if (dir) closedir(dir);
    }
    for (int i = 0; i < f.n; i++) free(f.name[i]);
    free(f.name);
    json_decref(root);
    free(json_path);
}

/* ---- one patient
 * ------------------------------------------------------------------------------------------------------ */

typedef struct {
    ValidateReport *r;
    Dataset *d;
    int split, oracle, synthetic;
    DatasetLeaks leaks;
    int64_t alive, ends_with_last; /* patients without death; those of them whose observation ends with them */
} Check;

#define PLACE "%s %lld, token %lld"
#define AT(c, p, i) split_name((c)->split), (long long)(p)->row, (long long)(i)

/* Ids and minutes: whatever else is checked may index by id only when this holds. */
static int check_ids(const Check *c, const PatientView *p) {
    int ok = 1;
    for (int64_t i = 0; i < p->n; i++) {
        uint32_t id = patient_token(p, i);
        if (id >= (uint32_t)c->d->vocabulary.n) {
            report_add(c->r, FIND_TOKEN_RANGE, PLACE " is %u", AT(c, p, i), id);
            ok = 0;
        }
        if (p->minutes[i] < (i ? p->minutes[i - 1] : 0)) {
            report_add(c->r, FIND_ORDER, PLACE ": minute %d after %d", AT(c, p, i), p->minutes[i],
                       i ? p->minutes[i - 1] : 0);
            ok = 0;
        }
    }
    return ok;
}

static void check_patient_columns(const Check *c, const PatientView *p) {
    const Vocabulary *v = &c->d->vocabulary;
    for (int i = 0; i < v->n_static; i++)
        if (p->statics[i] >= v->n || v->token[p->statics[i]].kind != TOKEN_STATIC)
            report_add(c->r, FIND_STATIC, "%s %lld, column %s: id %u", split_name(c->split), (long long)p->row,
                       v->static_name[i], p->statics[i]);
    for (int g = 0; g < c->d->n_groups; g++)
        if (p->group[g] && !dataset_group_label(c->d, g, p->group[g])[0])
            report_add(c->r, FIND_GROUP, "%s %lld, %s: code %u", split_name(c->split), (long long)p->row,
                       c->d->group_name[g], p->group[g]);
    int32_t last = p->n ? p->minutes[p->n - 1] : 0;
    if (!c->synthetic && p->age_years < 200 && p->age_years + last / 525960.0 >= 91)
        report_add(c->r, FIND_AGE, "%s %lld", split_name(c->split), (long long)p->row);
}

/* Between two events: floor(gap / 180 d) times =6mt, each 180 d after the token before it, then the bin of the rest, at
 * the minute of the event that follows. */
static void check_gap(const Check *c, const PatientView *p, int64_t first, int64_t event, int64_t before) {
    const Vocabulary *v = &c->d->vocabulary;
    int64_t gap = p->minutes[event] - before, half_years = gap / GAP_MINUTES[GAP_BINS], at = first;
    int bin = vocabulary_gap_bin((int32_t)(gap % GAP_MINUTES[GAP_BINS]));
    int64_t want = half_years + (bin >= 0);
    int ok = event - first == want;
    for (int64_t k = 1; ok && k <= half_years; k++, at++)
        ok = (int)patient_token(p, at) == v->gap_lo + GAP_BINS && p->minutes[at] == before + k * GAP_MINUTES[GAP_BINS];
    if (ok && bin >= 0) ok = (int)patient_token(p, at) == v->gap_lo + bin && p->minutes[at] == p->minutes[event];
    if (!ok)
        report_add(c->r, FIND_GAP, PLACE ": %lld minutes passed, %lld gap tokens say otherwise", AT(c, p, event),
                   (long long)gap, (long long)(event - first));
}

/* BEGIN right behind an event, text, END or CUT, all in the minute of the event. */
static void check_text(const Check *c, const PatientView *p, int64_t i, int64_t *note) {
    const Vocabulary *v = &c->d->vocabulary;
    int marker = (int)patient_token(p, i) - v->text_begin;
    const char *wrong = NULL;
    if (i && p->minutes[i] != p->minutes[i - 1]) wrong = "not in the minute of its event";
    if (marker == TEXT_BEGIN) {
        int previous = i ? v->token[patient_token(p, i - 1)].kind : TOKEN_SPECIAL;
        if (*note >= 0) wrong = "begins inside another";
        else if (previous != TOKEN_EVENT && previous != TOKEN_UNKNOWN && previous != TOKEN_VALUE)
            wrong = "behind no event";
        *note = i;
    } else if (*note < 0) {
        wrong = "outside of a note";
    }
    if (marker == TEXT_END || marker == TEXT_CUT) *note = -1;
    else if (marker >= TEXT_FIRST && *note >= 0 && i - *note > v->text_max) wrong = "longer than notes are told";
    if (wrong) report_add(c->r, FIND_NOTE, PLACE ": %s %s", AT(c, p, i), v->token[patient_token(p, i)].code, wrong);
}

/* Texts in what is more than structural need somebody's word that they were scrubbed. */
static void check_attested(ValidateReport *r, const Dataset *d) {
    json_t *root = json_loads(d->json, 0, NULL);
    const json_t *o = json_object_get(root, "deidentification"), *record = json_object_get(o, "record");
    const char *level = json_string_value(json_object_get(o, "level"));
    int told = json_object_get(json_object_get(root, "settings"), "notes") != NULL;
    if (told && d->vocabulary.text_begin >= 0 && level && deidentify_level_is_release(level) && strcmp(level, "synthetic") &&
        !deidentify_record_texts_attested(record))
        report_add(r, FIND_NOTE_ATTESTED, "dataset.json, level %s", level);
    json_decref(root);
}

/* Returns whether the patient died. */
static int check_tokens(const Check *c, const PatientView *p) {
    const Vocabulary *v = &c->d->vocabulary;
    int64_t before = -1, gap_from = 0; /* minute of the last event; first token after it */
    int64_t note = -1;                 /* token that began the note that is open */
    int dead = 0;
    for (int64_t i = 0; i < p->n; i++) {
        int id = (int)patient_token(p, i), kind = v->token[id].kind;
        if (kind == TOKEN_TEXT) {
            check_text(c, p, i, &note);
            gap_from = i + 1;
            continue;
        }
        if (note >= 0) report_add(c->r, FIND_NOTE, PLACE ": %s before the end", AT(c, p, i), v->token[id].code);
        note = -1;
        if (dead) report_add(c->r, FIND_AFTER_DEATH, PLACE ": %s", AT(c, p, i), v->token[id].code);
        dead |= id == v->death;
        if (kind == TOKEN_GAP) continue;
        if (kind == TOKEN_VALUE) {
            int previous = i ? v->token[patient_token(p, i - 1)].kind : TOKEN_SPECIAL;
            if ((previous != TOKEN_EVENT && previous != TOKEN_UNKNOWN) || p->minutes[i] != p->minutes[i - 1])
                report_add(c->r, FIND_VALUE, PLACE ": %s", AT(c, p, i), v->token[id].code);
        } else if (kind != TOKEN_EVENT && kind != TOKEN_UNKNOWN) {
            report_add(c->r, FIND_TOKEN_PREFIX, PLACE ": %s", AT(c, p, i), v->token[id].code);
        } else {
            check_gap(c, p, gap_from, i, before < 0 ? p->minutes[i] : before);
        }
        before = p->minutes[i];
        gap_from = i + 1;
    }
    if (note >= 0) report_add(c->r, FIND_NOTE, PLACE ": the record ends inside", AT(c, p, note));
    return dead;
}

static void check_end(Check *c, const PatientView *p, int dead) {
    int32_t last = p->n ? p->minutes[p->n - 1] : 0;
    if (!p->n) report_add(c->r, FIND_PATIENT_EMPTY, "%s %lld", split_name(c->split), (long long)p->row);
    if (p->n && p->minutes[0] != 0) report_add(c->r, FIND_FIRST_MINUTE, PLACE, AT(c, p, 0));
    if (p->observation_end < last)
        report_add(c->r, FIND_END_BEFORE_LAST, "%s %lld: %d, last token at %d", split_name(c->split), (long long)p->row,
                   p->observation_end, last);
    c->alive += !dead;
    c->ends_with_last += !dead && p->observation_end == last;
    for (int64_t i = 0; p->oracle_logp && i < p->n; i++)
        if (p->oracle_logp[i] > 0 || isinf(p->oracle_logp[i]))
            report_add(c->r, FIND_LOGP, PLACE ": %g", AT(c, p, i), (double)p->oracle_logp[i]);
    c->oracle |= p->oracle_logp != NULL;
}

static void check_patient(Check *c, int64_t row) {
    PatientView p;
    Err err = {0};
    Status damaged = dataset_patient(c->d, c->split, row, &p, &err);
    if (damaged) dataset_patient_unchecked(c->d, c->split, row, &p);
    int ok = check_ids(c, &p);
    check_patient_columns(c, &p);
    c->r->n_items += p.n;
    if (damaged && ok && strstr(err.msg, "checksum")) report_add(c->r, FIND_CHECKSUM, "%s", err.msg);
    if (ok) dataset_leaks_patient(&c->leaks, c->split, &p);
    if (ok) check_end(c, &p, check_tokens(c, &p));
}

/* ---- the whole
 * --------------------------------------------------------------------------------------------------------- */

typedef struct {
    uint64_t key;
    int64_t row;
    int split;
} KeyPlace;

static int by_key(const void *a, const void *b) {
    const KeyPlace *x = a, *y = b;
    if (x->key != y->key) return x->key < y->key ? -1 : 1;
    if (x->split != y->split) return x->split - y->split;
    return x->row < y->row ? -1 : x->row > y->row;
}

static void check_keys(ValidateReport *r, const Dataset *d) {
    int64_t P = 0, n = 0;
    for (int s = 0; s < SPLIT_COUNT; s++) P += d->n_patients[s];
    KeyPlace *k = xcalloc((size_t)P, sizeof *k);
    for (int s = 0; s < SPLIT_COUNT; s++)
        for (int64_t row = 0; row < d->n_patients[s]; row++) {
            PatientView p;
            dataset_patient_unchecked(d, s, row, &p);
            k[n++] = (KeyPlace){p.key, row, s};
        }
    qsort(k, (size_t)n, sizeof *k, by_key);
    for (int64_t i = 1; i < n; i++)
        if (k[i].key == k[i - 1].key)
            report_add(r, k[i].split == k[i - 1].split ? FIND_PATIENT_TWICE : FIND_TWO_SPLITS, "%s %lld and %s %lld",
                       split_name(k[i - 1].split), (long long)k[i - 1].row, split_name(k[i].split),
                       (long long)k[i].row);
    free(k);
}

static void check_dataset(ValidateReport *r, Dataset *d, FILE *progress) {
    Check c = {.r = r, .d = d, .synthetic = !strcmp(d->deidentification, "synthetic")};
    int64_t P = 0, T = 0;
    for (int s = 0; s < SPLIT_COUNT; s++) {
        P += d->n_patients[s];
        T += d->n_tokens[s];
    }
    Progress bar;
    dataset_leaks_open(&c.leaks, d);
    progress_open(&bar, progress, "validate", "patients", P);
    for (int s = 0; s < SPLIT_COUNT; s++) {
        c.split = s;
        if (!d->n_patients[s]) report_add(r, FIND_SPLIT_EMPTY, "%s", split_name(s));
        for (int64_t row = 0; row < d->n_patients[s]; row++) {
            check_patient(&c, row);
            progress_update(&bar, ++r->n_patients);
        }
    }
    progress_close(&bar, r->n_patients);
    check_keys(r, d);
    dataset_leaks_report(&c.leaks, r);
    dataset_leaks_close(&c.leaks);
    label_leaks_report(d, r);
    if (!T) report_add(r, FIND_EMPTY, "%lld patients", (long long)P);
    check_attested(r, d);
    if (!strcmp(d->deidentification, "none")) report_add(r, FIND_DEIDENTIFICATION, "dataset.json");
    if (2 * c.ends_with_last > c.alive) {
        report_add(r, FIND_END_EQUALS_LAST, "%lld of %lld patients without death%s", (long long)c.ends_with_last,
                   (long long)c.alive, c.oracle ? "; by design in an oracle cohort" : "");
        /* The oracle's records end at stopping times by design. */
        if (c.oracle) r->finding[FIND_END_EQUALS_LAST].severity = SEVERITY_INFO;
    }
}

Status validate_dataset(ValidateReport *r, const char *path, FILE *progress, Err *err) {
    Dataset d;
    Err why = {0};
    report_init(r, "dataset");
    h5_quiet();
    Status status = dataset_open(&d, path, &why);
    if (status) {
        char *json = xasprintf("%s/dataset.json", path);
        int is_dataset = path_exists(json);
        free(json);
        if (!is_dataset) return err_set(err, status, "%s", why.msg);
        check_files(r, path);
        report_add(r, FIND_OPEN, "%s", why.msg);
        return OK;
    }
    check_files(r, path);
    check_dataset(r, &d, progress);
    dataset_close(&d);
    return OK;
}
