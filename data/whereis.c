/* whereis.c - see whereis.h.  Datasets first, by looking the key up in their shards; then checkpoints, by the dataset
 * that their trainer.json names, or by its release when that dataset is not among the paths. */
#include "data/whereis.h"
#include "data/dataset.h"
#include "data/deidentify_record.h"
#include "data/h5.h"
#include "data/linkage.h"
#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { DEPTH_MAX = 32, JSON_MAX = 256 << 20 };

typedef struct {
    char sha256[65], *path;
    int split; /* SPLIT_UNSET: the patient is not in it */
} SeenDataset;

typedef struct {
    const WhereisOptions *o;
    WhereisReport *r;
    FILE *out;
    Table linkage;
    uint64_t key;
    int split;           /* by the linkage */
    const char *release; /* NULL: the linkage of a dataset */
    const char *dataset; /* its sha256, NULL: of a release */
    const char *source;  /* sha256 of the events file the linkage is about */
    SeenDataset *seen;
    int n_seen;
} Search;

static const char *use_of(int split) {
    return split == SPLIT_TRAIN    ? "trained on the patient"
           : split == SPLIT_TUNING ? "chosen by losses that include the patient (tuning)"
                                   : "not trained on the patient (held out)";
}

static json_t *json_of(const char *folder, const char *name, char sha256[65]) {
    char *path = xasprintf("%s/%s", folder, name), *text = NULL;
    size_t size;
    Err ignored;
    json_t *root = NULL;
    if (!file_read(path, JSON_MAX, &text, &size, &ignored)) {
        root = json_loadb(text, size, 0, NULL);
        bytes_sha256(text, size, sha256);
    }
    free(text);
    free(path);
    return root;
}

static int is_release(const Search *s, const json_t *deidentification) {
    const char *release = json_string_value(json_object_get(json_object_get(deidentification, "record"), "release"));
    return s->release && release && !strcmp(release, s->release);
}

/* ---- datasets and events files ----------------------------------------------------------------------------------- */

static void look_dataset(Search *s, const char *path) {
    char sha256[65] = "";
    json_t *root = json_of(path, "dataset.json", sha256);
    Dataset d;
    Err why = {0};
    int split = SPLIT_UNSET;
    int64_t row = -1;
    s->r->datasets++;
    int candidate = s->dataset ? !strcmp(sha256, s->dataset) : is_release(s, json_object_get(root, "deidentification"));
    if (!root || (candidate && dataset_open(&d, path, &why))) {
        s->r->unreadable++;
        fprintf(s->out, "unreadable   %s: may contain the patient: %s\n", path,
                root ? why.msg : "dataset.json is damaged");
    } else if (candidate) {
        if (dataset_find(&d, s->key, &split, &row, &why)) split = SPLIT_UNSET;
        dataset_close(&d);
        if (split != SPLIT_UNSET) {
            s->r->found++;
            fprintf(s->out, "dataset      %s: %s, patient %lld\n", path, split_name(split), (long long)row);
        }
    }
    s->seen = xrealloc(s->seen, (size_t)(s->n_seen + 1) * sizeof *s->seen);
    SeenDataset *seen = &s->seen[s->n_seen++];
    *seen = (SeenDataset){.path = xstrdup(path), .split = split};
    memcpy(seen->sha256, sha256, sizeof seen->sha256);
    json_decref(root);
}

static void look_events(Search *s, const char *path) {
    EventFile f;
    Err why = {0};
    char *format = h5_format(path);
    int is_events = format && !strcmp(format, "ehr.c events");
    free(format);
    if (!is_events) return;
    s->r->events++;
    if (event_file_open(&f, path, &why)) {
        s->r->unreadable++;
        fprintf(s->out, "unreadable   %s: may contain the patient: %s\n", path, why.msg);
        return;
    }
    json_t *record = deidentify_record_of(&f), *holder = json_pack("{s:O*}", "record", record);
    int ours = is_release(s, holder) || (s->source && !strcmp(s->source, f.sha256));
    int64_t id = is_release(s, holder) ? (int64_t)s->key : s->o->subject;
    json_decref(record);
    json_decref(holder);
    /* Patients ascend by id. */
    int64_t lo = 0, hi = f.n_patients, found = -1;
    EventPatient p;
    while (lo < hi && found < 0) {
        int64_t mid = lo + (hi - lo) / 2;
        if (event_file_patient(&f, mid, &p, &why)) break;
        if (p.subject == id) found = mid;
        else if (p.subject < id) lo = mid + 1;
        else hi = mid;
    }
    if (found >= 0) {
        s->r->found++;
        fprintf(s->out, "events       %s: patient %lld%s\n", path, (long long)found,
                ours ? "" : " has this id; it is another import, or another source");
    }
    event_file_close(&f);
}

/* ---- checkpoints ------------------------------------------------------------------------------------------------- */

static void look_checkpoint(Search *s, const char *path) {
    char sha256[65];
    json_t *root = json_of(path, "trainer.json", sha256), *from = json_object_get(root, "provenance");
    const char *dataset = json_string_value(json_object_get(from, "dataset_sha256"));
    const char *parent = json_string_value(json_object_get(from, "parent"));
    s->r->checkpoints++;
    int split = SPLIT_UNSET, known = 0;
    for (int i = 0; i < s->n_seen && dataset && !known; i++)
        if (!strcmp(s->seen[i].sha256, dataset)) {
            known = 1;
            split = s->seen[i].split;
        }
    int by_linkage = !known && ((s->dataset && dataset && !strcmp(dataset, s->dataset)) ||
                                is_release(s, json_object_get(from, "deidentification_record")));
    if (by_linkage) split = s->split;
    if (!dataset) {
        s->r->unreadable++;
        fprintf(s->out, "unreadable   %s: trainer.json does not name its dataset\n", path);
    } else if (split != SPLIT_UNSET) {
        s->r->found++;
        fprintf(s->out, "checkpoint   %s: %s%s%s%s\n", path, use_of(split),
                by_linkage ? " (by the linkage: its dataset is not among the paths)" : "",
                parent ? "; went on from " : "", parent ? parent : "");
    }
    json_decref(root);
}

/* ---- walking ----------------------------------------------------------------------------------------------------- */

static int has(const char *folder, const char *name) {
    char *path = xasprintf("%s/%s", folder, name);
    int there = path_exists(path);
    free(path);
    return there;
}

static int by_name(const struct dirent **a, const struct dirent **b) { return strcmp((*a)->d_name, (*b)->d_name); }

/* Links are not followed: latest and best are among the folders anyway. */
static void walk(Search *s, const char *path, int checkpoints, int depth) {
    size_t n = strlen(path);
    if (!path_is_dir(path)) {
        if (!checkpoints && n > 3 && !strcmp(path + n - 3, ".h5")) look_events(s, path);
        return;
    }
    if (checkpoints && has(path, "trainer.json")) look_checkpoint(s, path);
    if (has(path, "dataset.json")) {
        if (!checkpoints) look_dataset(s, path);
        return;
    }
    struct dirent **entry = NULL;
    int count = depth < DEPTH_MAX ? scandir(path, &entry, NULL, by_name) : 0;
    for (int i = 0; i < count; i++) {
        struct stat st;
        char *child = xasprintf("%s/%s", path, entry[i]->d_name);
        if (entry[i]->d_name[0] != '.' && !lstat(child, &st) && !S_ISLNK(st.st_mode))
            walk(s, child, checkpoints, depth + 1);
        free(child);
        free(entry[i]);
    }
    free(entry);
}

Status whereis(const WhereisOptions *o, WhereisReport *r, FILE *out, Err *err) {
    Search s = {.o = o, .r = r, .out = out};
    *r = (WhereisReport){0};
    Status status = table_read_h5(&s.linkage, o->linkage, err);
    if (status) return status;
    const char *name = table_attribute(&s.linkage, "name");
    const int64_t *subject = table_get(&s.linkage, "subject_id", COLUMN_I64);
    const int64_t *split = table_get(&s.linkage, "split", COLUMN_I64);
    const uint64_t *key = table_get(&s.linkage, "patient_key", COLUMN_U64);
    s.release = name && !strcmp(name, RELEASE_LINKAGE) ? table_attribute(&s.linkage, "release") : NULL;
    s.dataset = s.release ? NULL : table_attribute(&s.linkage, "dataset_sha256");
    if (!subject || !split || !key || (!s.release && !s.dataset))
        status = err_set(err, ERR_FORMAT,
                         "%s is no linkage file; `ehr-data deidentify` and `ehr-data tokenize` write them", o->linkage);
    s.source = table_attribute(&s.linkage, "events_sha256");
    int64_t row = -1;
    for (int64_t i = 0; !status && i < s.linkage.n; i++)
        if (subject[i] == o->subject) row = i;
    for (int i = 0; i < o->n_paths && !status; i++)
        if (!path_exists(o->path[i]))
            status = err_set(err, ERR_IO, "cannot read %s: there is no such file", o->path[i]);
    if (!status && row < 0)
        fprintf(out, "subject %lld is not in %s: it was left out, or has another id\n", (long long)o->subject,
                o->linkage);
    if (!status && row >= 0) {
        s.key = key[row];
        s.split = (int)split[row];
        for (int i = 0; i < o->n_paths; i++) walk(&s, o->path[i], 0, 0);
        for (int i = 0; i < o->n_paths; i++) walk(&s, o->path[i], 1, 0);
    }
    for (int i = 0; i < s.n_seen; i++) free(s.seen[i].path);
    free(s.seen);
    table_free(&s.linkage);
    return status;
}
