/* dataset.c - opening a dataset folder and reading patients from it.  dataset.json names the files; nothing outside the
 * folder is ever opened. */
#include "data/dataset.h"
#include "data/deidentify_record.h"
#include "data/h5.h"
#include "data/shard.h"
#include <dirent.h>
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

enum { JSON_BYTES_MAX = 64 << 20, DATASET_FORMAT_VERSION = 1 };
#define DATASET_FORMAT "ehr.c dataset"

struct DatasetImpl {
    json_t *root;
    int n_shards[SPLIT_COUNT];
    Shard *shard[SPLIT_COUNT];
    int64_t *first[SPLIT_COUNT]; /* (n_shards + 1) row of a shard's first patient */
    int *n_labels;               /* (n_groups) */
    const char ***label;         /* (n_groups)(n_labels) into root */
};

/* ---- what was given instead of a dataset ------------------------------------------------------------------------- */

static int has(const char *folder, const char *name) {
    char *path = xasprintf("%s/%s", folder, name);
    int found = path_exists(path);
    free(path);
    return found;
}

static int has_tables(const char *folder) {
    DIR *dir = opendir(folder);
    int found = 0;
    for (struct dirent *e; dir && !found && (e = readdir(dir));) found = !strcasecmp(e->d_name, "person.csv");
    if (dir) closedir(dir);
    return found;
}

static Status not_a_dataset(const char *path, Err *err) {
    if (!path_exists(path)) return err_set(err, ERR_IO, "cannot open the dataset %s: %s", path, strerror(ENOENT));
    if (path_is_dir(path)) {
        if (has(path, "model.safetensors"))
            return err_set(err, ERR_FORMAT,
                           "%s is a checkpoint, a dataset was expected: give the folder that `ehr-data "
                           "tokenize` wrote",
                           path);
        if (has(path, "latest"))
            return err_set(err, ERR_FORMAT,
                           "%s is a training run, a dataset was expected: give the folder that `ehr-data "
                           "tokenize` wrote",
                           path);
        if (has_tables(path))
            return err_set(err, ERR_FORMAT,
                           "%s is a folder of OMOP tables: run `ehr-data import omop %s --out events.h5` "
                           "and `ehr-data tokenize events.h5` first",
                           path, path);
        return err_set(err, ERR_FORMAT, "%s is not a dataset: it has no dataset.json (`ehr-data tokenize` writes one)",
                       path);
    }
    char *format = h5_format(path);
    size_t n = strlen(path);
    Status status;
    if (format && !strcmp(format, "ehr.c events"))
        status =
            err_set(err, ERR_FORMAT, "%s is an events file: run `ehr-data tokenize` first, then give its folder", path);
    else if (format && !strcmp(format, SHARD_FORMAT))
        status = err_set(err, ERR_FORMAT, "%s is one shard of a dataset: give the folder it is in", path);
    else if (format)
        status = err_set(err, ERR_FORMAT, "%s is a file of \"%s\", a dataset folder was expected", path, format);
    else if (n > 4 && !strcasecmp(path + n - 4, ".zip"))
        status =
            err_set(err, ERR_FORMAT, "%s is an archive: run `ehr-data import` and `ehr-data tokenize` first", path);
    else
        status = err_set(err, ERR_FORMAT,
                         "%s is a file, a dataset folder was expected (`ehr-data tokenize` writes one)", path);
    free(format);
    return status;
}

/* ---- dataset.json ------------------------------------------------------------------------------------------------ */

static Status json_wrong(const Dataset *d, const char *what, Err *err) {
    return err_set(err, ERR_FORMAT, "%s/dataset.json: %s (damaged? run `ehr-data tokenize` again)", d->path, what);
}

static const char *text_of(const json_t *object, const char *name) {
    return json_string_value(json_object_get(object, name));
}

/* A file beside dataset.json and nowhere else. */
static int plain_name(const char *name) { return name && *name && *name != '.' && !strchr(name, '/'); }

static Status read_json(Dataset *d, Err *err) {
    char *path = xasprintf("%s/dataset.json", d->path);
    size_t size = 0;
    Status status = file_read(path, JSON_BYTES_MAX, &d->json, &size, err);
    free(path);
    if (status) return status;
    bytes_sha256(d->json, size, d->sha256);
    json_error_t why;
    json_t *root = d->impl->root = json_loadb(d->json, size, JSON_REJECT_DUPLICATES, &why);
    if (!root) return err_set(err, ERR_FORMAT, "%s/dataset.json, line %d: %s", d->path, why.line, why.text);
    const char *format = text_of(root, "format");
    if (!format || strcmp(format, DATASET_FORMAT))
        return json_wrong(d, "\"format\" is not \"" DATASET_FORMAT "\"", err);
    json_int_t version = json_integer_value(json_object_get(root, "format_version"));
    if (version != DATASET_FORMAT_VERSION)
        return err_set(err, ERR_FORMAT, "%s has format version %lld; this program reads %d", d->path,
                       (long long)version, DATASET_FORMAT_VERSION);
    const char *level = text_of(json_object_get(root, "deidentification"), "level");
    d->deidentification = xstrdup(level ? level : "none");
    d->floor_valid = json_is_true(json_object_get(root, "floor_valid"));
    return deidentify_claim_check(json_object_get(root, "deidentification"), text_of(root, "events_sha256"), d->path, err);
}

static Status read_vocabulary(Dataset *d, Err *err) {
    json_t *v = json_object_get(d->impl->root, "vocabulary");
    const char *file = text_of(v, "file"), *sha = text_of(v, "sha256");
    if (!plain_name(file) || !sha) return json_wrong(d, "\"vocabulary\" does not name a file and its sha256", err);
    char *path = xasprintf("%s/%s", d->path, file);
    Status status = vocabulary_load(&d->vocabulary, path, err);
    if (!status && strcmp(d->vocabulary.sha256, sha))
        status = err_set(err, ERR_FORMAT,
                         "%s is not the vocabulary of this dataset: its sha256 is %.12s..., dataset.json "
                         "says %.12s...",
                         path, d->vocabulary.sha256, sha);
    free(path);
    return status;
}

static Status read_groups(Dataset *d, Err *err) {
    json_t *groups = json_object_get(d->impl->root, "groups");
    size_t n = json_array_size(groups);
    if ((groups && !json_is_array(groups)) || n > 64)
        return json_wrong(d, "\"groups\" is not a list of at most 64", err);
    d->n_groups = (int)n;
    d->group_name = xcalloc(n, sizeof *d->group_name);
    d->impl->n_labels = xcalloc(n, sizeof *d->impl->n_labels);
    d->impl->label = xcalloc(n, sizeof *d->impl->label);
    for (size_t g = 0; g < n; g++) {
        json_t *group = json_array_get(groups, g), *labels = json_object_get(group, "labels");
        const char *name = text_of(group, "name");
        size_t n_labels = json_array_size(labels);
        if (!name || !json_is_array(labels) || n_labels > 256)
            return json_wrong(d, "a group has no name or labels", err);
        d->group_name[g] = xstrdup(name);
        d->impl->n_labels[g] = (int)n_labels;
        d->impl->label[g] = xcalloc(n_labels, sizeof **d->impl->label);
        for (size_t i = 0; i < n_labels; i++)
            if (!(d->impl->label[g][i] = json_string_value(json_array_get(labels, i))))
                return json_wrong(d, "a group label is not text", err);
    }
    return OK;
}

/* ---- shards ------------------------------------------------------------------------------------------------------ */

static Status check_counts(const char *what, int64_t patients, int64_t tokens, const json_t *entry, Err *err) {
    int64_t want_patients = json_integer_value(json_object_get(entry, "patients"));
    int64_t want_tokens = json_integer_value(json_object_get(entry, "tokens"));
    return patients == want_patients && tokens == want_tokens
               ? OK
               : err_set(err, ERR_FORMAT, "%s holds %lld patients and %lld tokens, dataset.json says %lld and %lld",
                         what, (long long)patients, (long long)tokens, (long long)want_patients,
                         (long long)want_tokens);
}

static Status check_shard(const Dataset *d, const Shard *s, const json_t *entry, Err *err) {
    if (strcmp(s->vocabulary_sha256, d->vocabulary.sha256))
        return err_set(err, ERR_FORMAT, "%s was written with another vocabulary (%.12s..., the dataset has %.12s...)",
                       s->path, s->vocabulary_sha256, d->vocabulary.sha256);
    if (s->n_static != d->vocabulary.n_static || s->n_groups != d->n_groups)
        return err_set(err, ERR_FORMAT, "%s has %d static and %d group columns, the dataset has %d and %d", s->path,
                       s->n_static, s->n_groups, d->vocabulary.n_static, d->n_groups);
    return check_counts(s->path, s->n_patients, s->n_tokens, entry, err);
}

static Status read_split(Dataset *d, int split, Err *err) {
    struct DatasetImpl *in = d->impl;
    json_t *entry = json_object_get(json_object_get(in->root, "splits"), split_name(split));
    json_t *shards = json_object_get(entry, "shards");
    size_t n = json_array_size(shards);
    if (entry && !json_is_array(shards)) return json_wrong(d, "a split has no list of shards", err);
    in->shard[split] = xcalloc(n, sizeof(Shard));
    in->first[split] = xcalloc(n + 1, sizeof(int64_t));
    for (size_t i = 0; i < n; i++) {
        json_t *e = json_array_get(shards, i);
        const char *file = text_of(e, "file");
        if (!plain_name(file)) return json_wrong(d, "a shard's \"file\" is not the name of a file in this folder", err);
        char *path = xasprintf("%s/%s", d->path, file);
        Shard *s = &in->shard[split][i];
        Status status = shard_open(s, path, err);
        free(path);
        if (status) return status;
        in->n_shards[split]++;
        if ((status = check_shard(d, s, e, err))) return status;
        d->n_patients[split] += s->n_patients;
        d->n_tokens[split] += s->n_tokens;
        in->first[split][i + 1] = d->n_patients[split];
    }
    return check_counts(split_name(split), d->n_patients[split], d->n_tokens[split], entry, err);
}

Status dataset_open(Dataset *d, const char *path, Err *err) {
    memset(d, 0, sizeof *d);
    if (!path_is_dir(path) || !has(path, "dataset.json")) return not_a_dataset(path, err);
    d->impl = xcalloc(1, sizeof *d->impl);
    d->path = path_copy(path);
    Status status = read_json(d, err);
    if (!status) status = read_vocabulary(d, err);
    if (!status) status = read_groups(d, err);
    for (int split = 0; split < SPLIT_COUNT && !status; split++) status = read_split(d, split, err);
    if (status) dataset_close(d);
    return status;
}

void dataset_close(Dataset *d) {
    struct DatasetImpl *in = d->impl;
    for (int split = 0; in && split < SPLIT_COUNT; split++) {
        for (int i = 0; i < in->n_shards[split]; i++) shard_close(&in->shard[split][i]);
        free(in->shard[split]);
        free(in->first[split]);
    }
    for (int g = 0; in && g < d->n_groups; g++) {
        free(d->group_name[g]);
        free(in->label[g]);
    }
    if (in) {
        free(in->n_labels);
        free(in->label);
        json_decref(in->root);
        free(in);
    }
    free(d->group_name);
    vocabulary_free(&d->vocabulary);
    free(d->deidentification);
    free(d->json);
    free(d->path);
    memset(d, 0, sizeof *d);
}

/* ---- patients ---------------------------------------------------------------------------------------------------- */

static uint32_t shard_token(const Shard *s, int64_t i) {
    return s->wide ? ((const uint32_t *)s->tokens)[i] : ((const uint16_t *)s->tokens)[i];
}

/* Both look at everything first, without a branch for each element, and for the place only when there is one. */
static int64_t unknown_id(const Shard *s, int64_t first, int64_t end, uint32_t V) {
    uint32_t largest = 0;
    for (int64_t i = first; i < end; i++) largest = shard_token(s, i) > largest ? shard_token(s, i) : largest;
    if (first == end || largest < V) return end;
    int64_t at = first;
    while (shard_token(s, at) < V) at++;
    return at;
}

static int64_t descent(const int32_t *minutes, int64_t first, int64_t end) {
    int any = first < end && minutes[first] < 0;
    for (int64_t i = first + 1; i < end; i++) any |= minutes[i] < minutes[i - 1];
    if (!any) return end;
    int64_t at = first;
    while (minutes[at] >= (at > first ? minutes[at - 1] : 0)) at++;
    return at;
}

/* Once a patient: whatever is built on it may then index by token and subtract times without looking again. */
static Status check_patient(const Dataset *d, Shard *s, int64_t p, Err *err) {
    int64_t first = (int64_t)s->offsets[p], end = (int64_t)s->offsets[p + 1];
    Status status = shard_check_blocks(s, first, end, err);
    if (status) return status;
    uint32_t V = (uint32_t)d->vocabulary.n;
    int64_t bad = unknown_id(s, first, end, V);
    if (bad < end)
        return err_set(err, ERR_FORMAT, "%s: token %lld of patient %lld is %u, but the vocabulary has %u tokens",
                       s->path, (long long)(bad - first), (long long)p, shard_token(s, bad), V);
    if ((bad = descent(s->minutes, first, end)) < end)
        return err_set(err, ERR_FORMAT, "%s: minutes of patient %lld descend at token %lld", s->path, (long long)p,
                       (long long)(bad - first));
    const uint16_t *statics = s->statics + p * (s->n_static + 1);
    for (int i = 0; i < s->n_static; i++)
        if (statics[i] >= V)
            return err_set(err, ERR_FORMAT,
                           "%s: static token %d of patient %lld is %u, but the vocabulary has %u tokens", s->path, i,
                           (long long)p, statics[i], V);
    atomic_store_explicit(&s->patient_checked[p], 1, memory_order_relaxed);
    return OK;
}

static Shard *find_shard(const Dataset *d, int split, int64_t row, int64_t *local) {
    const int64_t *first = d->impl->first[split];
    int lo = 0, hi = d->impl->n_shards[split];
    while (hi - lo > 1) {
        int mid = lo + (hi - lo) / 2;
        if (first[mid] <= row) lo = mid;
        else hi = mid;
    }
    *local = row - first[lo];
    return &d->impl->shard[split][lo];
}

static void view_patient(const Shard *s, int64_t p, int64_t row, PatientView *out) {
    int64_t first = (int64_t)s->offsets[p];
    const uint16_t *statics = s->statics + p * (s->n_static + 1);
    *out = (PatientView){
        .key = s->key[p],
        .row = row,
        .n = (int64_t)s->offsets[p + 1] - first,
        .tokens = (const char *)s->tokens + first * (s->wide ? 4 : 2),
        .wide = s->wide,
        .minutes = s->minutes + first,
        .statics = statics,
        .age_years = statics[s->n_static],
        .observation_end = s->observation_end[p],
        .group = s->group + p * s->n_groups,
        .oracle_logp = s->oracle_logp ? s->oracle_logp + first : NULL,
    };
}

Status dataset_patient(Dataset *d, int split, int64_t row, PatientView *out, Err *err) {
    REQUIRE(split >= 0 && split < SPLIT_COUNT);
    if (row < 0 || row >= d->n_patients[split])
        return err_set(err, ERR_USAGE, "patient %lld does not exist: the %s split of %s has %lld", (long long)row,
                       split_name(split), d->path, (long long)d->n_patients[split]);
    int64_t p;
    Shard *s = find_shard(d, split, row, &p);
    if (!atomic_load_explicit(&s->patient_checked[p], memory_order_relaxed)) {
        Status status = check_patient(d, s, p, err);
        if (status) return status;
    }
    view_patient(s, p, row, out);
    return OK;
}

void dataset_patient_unchecked(const Dataset *d, int split, int64_t row, PatientView *out) {
    int64_t p;
    const Shard *s = find_shard(d, split, row, &p);
    view_patient(s, p, row, out);
}

Status dataset_find(Dataset *d, uint64_t key, int *split, int64_t *row, Err *err) {
    for (int sp = 0; sp < SPLIT_COUNT; sp++)
        for (int i = 0; i < d->impl->n_shards[sp]; i++) {
            const Shard *s = &d->impl->shard[sp][i];
            for (int64_t p = 0; p < s->n_patients; p++)
                if (s->key[p] == key) {
                    *split = sp;
                    *row = d->impl->first[sp][i] + p;
                    return OK;
                }
        }
    return err_set(err, ERR_USAGE, "no patient of %s has the key %llu", d->path, (unsigned long long)key);
}

const char *dataset_group_label(const Dataset *d, int group, int code) {
    if (group < 0 || group >= d->n_groups || code < 0 || code >= d->impl->n_labels[group]) return "";
    return d->impl->label[group][code];
}

int dataset_prefix(const Dataset *d, const PatientView *p, int64_t at, int32_t *out, int max) {
    const Vocabulary *v = &d->vocabulary;
    /* The age when the last token before the window was known: the next one's time is not known yet. */
    double minutes = 0;
    if (at > 0 && p->n > 0) {
        minutes = p->minutes[(at < p->n ? at : p->n) - 1];
        if (at > p->n) minutes += (double)(at - p->n) * GAP_MINUTES[GAP_BINS];
    }
    int n = 0;
    if (n < max) out[n++] = at > 0 ? TOKEN_CONTINUES : TOKEN_START;
    for (int i = 0; i < v->n_static && n < max; i++) out[n++] = p->statics[i];
    if (n < max) out[n++] = vocabulary_age_token(v, p->age_years + minutes / 525960.0);
    return n;
}
