/* tokenizer_dataset.c - see tokenizer_dataset.h. */
#include "data/tokenizer_dataset.h"
#include "data/deidentify_record.h"
#include <dirent.h>
#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- subgroups
 * --------------------------------------------------------------------------------------------------------- */

static const char *const AGE_LABEL[] = {"UNKNOWN", "0-17", "18-39", "40-64", "65-79", "80+"};
static const int AGE_FROM[] = {0, 0, 18, 40, 65, 80};
enum { AGE_LABELS = 6 };

static void add_label(Groups *g, int group, const char *text) {
    g->label[group] = xrealloc(g->label[group], (size_t)(g->n_labels[group] + 1) * sizeof **g->label);
    g->label[group][g->n_labels[group]++] = xstrdup(text);
}

void groups_init(Groups *g, const Vocabulary *v) {
    g->n = v->n_static + 1;
    g->name = xcalloc((size_t)g->n, sizeof *g->name);
    g->n_labels = xcalloc((size_t)g->n, sizeof *g->n_labels);
    g->label = xcalloc((size_t)g->n, sizeof *g->label);
    g->of_token = xcalloc((size_t)v->n, 1);
    for (int s = 0; s < v->n_static; s++) {
        size_t n = strlen(v->static_name[s]);
        g->name[s] = xstrdup(v->static_name[s]);
        add_label(g, s, "UNKNOWN");
        for (int id = 0; id < v->n; id++) {
            const char *code = v->token[id].code;
            if (v->token[id].kind != TOKEN_STATIC || strncmp(code, g->name[s], n) || strncmp(code + n, "//", 2) ||
                !strcmp(code + n + 2, "UNKNOWN") || g->n_labels[s] == GROUP_LABELS_MAX)
                continue;
            g->of_token[id] = (uint8_t)g->n_labels[s];
            add_label(g, s, code + n + 2);
        }
    }
    g->name[v->n_static] = xstrdup("AGE");
    for (int i = 0; i < AGE_LABELS; i++) add_label(g, v->n_static, AGE_LABEL[i]);
}

void groups_free(Groups *g) {
    for (int i = 0; i < g->n; i++) {
        for (int k = 0; k < g->n_labels[i]; k++) free(g->label[i][k]);
        free(g->label[i]);
        free(g->name[i]);
    }
    free(g->name);
    free(g->n_labels);
    free(g->label);
    free(g->of_token);
    *g = (Groups){0};
}

void groups_of(const Groups *g, const Timeline *t, int n_static, uint8_t *out) {
    for (int s = 0; s < n_static; s++) out[s] = g->of_token[t->statics[s]];
    int age = 0;
    for (int i = 1; i < AGE_LABELS && !isnan(t->last_age_years); i++)
        if (t->last_age_years >= AGE_FROM[i]) age = i;
    out[n_static] = (uint8_t)age;
}

/* ---- shards
 * --------------------------------------------------------------------------------------------------------------- */

static char *entry_path(const SplitShards *s, const ShardEntry *e) { return xasprintf("%s/%s", s->folder, e->name); }

Status split_shards_close(SplitShards *s, Err *err) {
    if (!s->writer) return OK;
    ShardEntry *e = &s->entry[s->n - 1];
    e->tokens = shard_writer_tokens(s->writer);
    char *path = entry_path(s, e);
    Status status = shard_writer_close(s->writer, s->deidentification, s->vocabulary_sha256, err);
    s->writer = NULL;
    if (!status) status = file_sha256(path, e->sha256, err);
    free(path);
    return status;
}

Status split_shards_add(SplitShards *s, uint64_t key, const Timeline *t, const uint8_t *group, Err *err) {
    int64_t bytes_a_token = (s->wide ? 4 : 2) + 4 + (s->oracle ? 4 : 0);
    Status status = OK;
    if (s->writer && shard_writer_tokens(s->writer) * bytes_a_token >= s->shard_size)
        status = split_shards_close(s, err);
    if (!status && !s->writer) {
        s->entry = xrealloc(s->entry, (size_t)(s->n + 1) * sizeof *s->entry);
        ShardEntry *e = &s->entry[s->n];
        *e = (ShardEntry){.patients = 0};
        snprintf(e->name, sizeof e->name, "%s-%05d.h5", split_name(s->split), s->n);
        char *path = entry_path(s, e);
        status = shard_writer_open(&s->writer, path, s->wide, s->n_static, s->n_groups, s->oracle, err);
        free(path);
        if (!status) s->n++;
    }
    if (!status) {
        s->entry[s->n - 1].patients++;
        status = shard_writer_patient(s->writer, key, t->tokens, t->minutes, t->n, t->statics, group,
                                      t->observation_end, s->oracle ? t->logp : NULL, err);
    }
    return status;
}

void split_shards_free(SplitShards *s) {
    if (s->writer) shard_writer_abort(s->writer);
    free(s->entry);
    *s = (SplitShards){0};
}

/* ---- dataset.json
 * ---------------------------------------------------------------------------------------------------------- */

Status deidentification_format(char **text, TokenizeReport *r, const EventFile *f, const char *attestation, int own_key,
                               Err *err) {
    json_t *o;
    *text = NULL;
    Status status = deidentify_dataset_object(&o, f, r->oracle, attestation, err);
    if (status) return status;
    json_t *told = json_pack("{s:s, s:s, s:s, s:s}", "time", "minutes since the patient's first event", "age",
                             r->oracle ? "whole years at the first event"
                                       : "whole years at the first event; a record that passes 89 is shifted to end at 90",
                             "patient_key", r->released ? "random, of the release" : "place after a keyed shuffle",
                             "split_key", own_key ? "own" : "public");
    json_object_update(o, told);
    json_decref(told);
    if (r->min_patients) json_object_set_new(o, "min_patients_per_token", json_integer(r->min_patients));
    snprintf(r->level, sizeof r->level, "%s", json_string_value(json_object_get(o, "level")));
    *text = json_dumps(o, JSON_REAL_PRECISION(10));
    json_decref(o);
    return OK;
}

static json_t *settings_json(const TokenizeOptions *o, const TokenizeReport *r, const Vocabulary *v,
                             const char *edges_sha256) {
    json_t *s = json_object(), *statics = json_array();
    json_object_set_new(s, "values", json_string(v->separate_values ? "separate" : "fused"));
    json_object_set_new(s, "age_bin_years", json_integer(v->age_bin_years));
    for (int i = 0; i < v->n_static; i++) json_array_append_new(statics, json_string(v->static_name[i]));
    json_object_set_new(s, "static", statics);
    if (r->min_patients) json_object_set_new(s, "min_patients", json_integer(r->min_patients));
    json_object_set_new(s, "split", json_string(r->split_method));
    json_object_set_new(s, "split_key", json_string(o->key_file ? "own" : "public"));
    json_object_set_new(s, "seed", json_integer(o->seed));
    json_object_set_new(s, "shard_size", json_integer(o->shard_size));
    if (o->notes)
        json_object_set_new(s, "notes", json_pack("{s:i, s:i}", "merges", v->text.n - BPE_BYTES, "max_tokens",
                                                  v->text_max));
    if (edges_sha256[0]) json_object_set_new(s, "decision_thresholds_sha256", json_string(edges_sha256));
    return s;
}

static json_t *splits_json(const TokenizeReport *r, const SplitShards *shards) {
    json_t *all = json_object();
    for (int split = 0; split < SPLIT_COUNT; split++) {
        json_t *o = json_object(), *list = json_array();
        json_object_set_new(o, "patients", json_integer(r->n_patients[split]));
        json_object_set_new(o, "events", json_integer(r->n_events[split]));
        json_object_set_new(o, "tokens", json_integer(r->n_tokens[split]));
        for (int i = 0; i < shards[split].n; i++) {
            const ShardEntry *e = &shards[split].entry[i];
            json_array_append_new(list, json_pack("{s:s, s:I, s:I, s:s}", "file", e->name, "patients",
                                                  (json_int_t)e->patients, "tokens", (json_int_t)e->tokens, "sha256",
                                                  e->sha256));
        }
        json_object_set_new(o, "shards", list);
        json_object_set_new(all, split_name(split), o);
    }
    return all;
}

static json_t *groups_json(const Groups *g) {
    json_t *all = json_array();
    for (int i = 0; i < g->n; i++) {
        json_t *labels = json_array(), *o = json_object();
        for (int k = 0; k < g->n_labels[i]; k++) json_array_append_new(labels, json_string(g->label[i][k]));
        json_object_set_new(o, "name", json_string(g->name[i]));
        json_object_set_new(o, "labels", labels);
        json_array_append_new(all, o);
    }
    return all;
}

static json_t *statistics_json(const TokenizeReport *r) {
    const TokenizeCounts *c = &r->counts;
    json_t *kinds = json_object(), *o = json_object();
    for (int k = 0; k < KIND_COUNT; k++)
        if (c->events[k])
            json_object_set_new(kinds, event_kind_name(k),
                                json_pack("{s:I, s:I, s:I}", "events", (json_int_t)c->events[k], "rolled_up",
                                          (json_int_t)c->mapped[k][MAPPED_ROLLED_UP], "unknown",
                                          (json_int_t)c->mapped[k][MAPPED_UNKNOWN]));
    json_object_set_new(o, "kinds", kinds);
    struct {
        const char *name;
        int64_t n;
    } const row[] = {{"values", c->values},
                     {"values_in_levels", c->leveled},
                     {"events_after_death_dropped", c->after_death},
                     {"events_without_time_dropped", c->undated},
                     {"static_events_not_used", c->static_unused},
                     {"static_values_unknown", c->static_unknown},
                     {"static_values_repeated", c->static_repeated},
                     {"patients_without_birth", c->age_unknown},
                     {"patients_with_events_before_birth", c->age_negative},
                     {"patients_shifted_to_end_at_90", c->age_shifted},
                     {"patients_without_timed_events", r->n_untimed},
                     {"patients_without_site", r->n_no_site},
                     {"patients_excluded", r->n_excluded}};
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) json_object_set_new(o, row[i].name, json_integer(row[i].n));
    if (c->notes)
        json_object_set_new(o, "notes", json_pack("{s:I, s:I, s:I}", "told", (json_int_t)c->notes, "cut",
                                                  (json_int_t)c->notes_cut, "tokens", (json_int_t)c->note_tokens));
    return o;
}

static json_t *vocabulary_json(const TokenizeOptions *o, const TokenizeReport *r, const Vocabulary *v) {
    static const char *const kind[] = {"special", "static", "age", "gap", "value", "event", "unknown", "text"};
    json_t *by_kind = json_object(), *s = json_object();
    json_object_set_new(s, "file", json_string("vocabulary.json"));
    json_object_set_new(s, "sha256", json_string(v->sha256));
    json_object_set_new(s, "tokens", json_integer(v->n));
    json_object_set_new(s, "fitted_here", json_boolean(!o->vocabulary));
    for (int k = 0; k < (v->text_begin < 0 ? TOKEN_TEXT : TOKEN_KINDS); k++) json_object_set_new(by_kind, kind[k], json_integer(r->tokens_by_kind[k]));
    json_object_set_new(s, "tokens_by_kind", by_kind);
    return s;
}

char *dataset_json_format(const TokenizeOptions *o, const TokenizeReport *r, const EventFile *f, const Vocabulary *v,
                          const Groups *g, const SplitShards *shards, const char *deidentification,
                          const char *edges_sha256) {
    json_t *root = json_pack("{s:s, s:i}", "format", "ehr.c dataset", "format_version", 1);
    json_object_set_new(root, "source", json_string(f->source));
    json_object_set_new(root, "events_sha256", json_string(f->sha256));
    json_object_set_new(root, "deidentification", json_loads(deidentification, 0, NULL));
    json_object_set_new(root, "settings", settings_json(o, r, v, edges_sha256));
    json_object_set_new(root, "vocabulary", vocabulary_json(o, r, v));
    json_object_set_new(root, "splits", splits_json(r, shards));
    json_object_set_new(root, "groups", groups_json(g));
    json_object_set_new(root, "statistics", statistics_json(r));
    if (r->n_drift) {
        json_t *list = json_array();
        for (int i = 0; i < r->n_drift; i++)
            json_array_append_new(list, json_pack("{s:s, s:s, s:I, s:f}", "code", r->drift[i].code, "unit",
                                                  r->drift[i].unit, "values", (json_int_t)r->drift[i].n, "psi",
                                                  round(1e4 * r->drift[i].psi) / 1e4));
        json_object_set_new(root, "drift", list);
    }
    if (o->canaries)
        json_object_set_new(root, "canaries", json_pack("{s:I, s:I}", "sequences", (json_int_t)o->canaries, "copies",
                                                        (json_int_t)o->canary_copies));
    json_object_set_new(root, "floor_valid", json_boolean(r->floor_valid));
    if (r->oracle && !r->floor_valid) json_object_set_new(root, "floor_reason", json_string(r->floor_reason));
    char *text = json_dumps(root, JSON_INDENT(1) | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(10));
    json_decref(root);
    REQUIRE(text);
    return text;
}

/* ---- the folder
 * -------------------------------------------------------------------------------------------------------------- */

/* What a dataset folder may hold; anything else is somebody's, and stays. */
static int ours(const char *name) {
    size_t n = strlen(name);
    return !strcmp(name, "dataset.json") || !strcmp(name, "vocabulary.json") || strstr(name, ".spool-") ||
           (n > 3 && !strcmp(name + n - 3, ".h5")) || (n > 4 && !strcmp(name + n - 4, ".tmp"));
}

static void remove_folder(const char *path) {
    DIR *dir = opendir(path);
    for (struct dirent *e; dir && (e = readdir(dir));) {
        char *child = xasprintf("%s/%s", path, e->d_name);
        if (!strcmp(e->d_name, "labels") && path_is_dir(child)) remove_folder(child);
        else if (ours(e->d_name)) unlink(child);
        free(child);
    }
    if (dir) closedir(dir);
    rmdir(path);
}

static int is_dataset(const char *path) {
    char *name = xasprintf("%s/dataset.json", path), *text = NULL;
    Err ignored;
    int found = !file_read(name, 64 << 20, &text, NULL, &ignored) && strstr(text, "\"ehr.c dataset\"");
    free(text);
    free(name);
    return found;
}

Status folder_begin(const char *out, int overwrite, char **tmp, Err *err) {
    if (path_exists(out) && !overwrite)
        return err_set(err, ERR_USAGE, "--out %s exists: give another name, or --overwrite to replace it", out);
    if (path_exists(out) && !is_dataset(out))
        return err_set(err, ERR_USAGE, "--overwrite replaces datasets only, and %s is not one", out);
    *tmp = xasprintf("%s.tmp", out);
    if (path_exists(*tmp)) remove_folder(*tmp); /* left by a run that was killed */
    Status status = path_exists(*tmp) ? err_set(err, ERR_IO, "%s is in the way: remove it", *tmp) : dir_make(*tmp, err);
    if (status) {
        free(*tmp);
        *tmp = NULL;
    }
    return status;
}

Status folder_commit(const char *tmp, const char *out, Err *err) {
    char *old = NULL;
    Status status = OK;
    if (path_exists(out)) {
        old = xasprintf("%s.old.tmp", out);
        remove_folder(old);
        if (rename(out, old)) status = err_set(err, ERR_IO, "cannot move %s aside: %s", out, strerror(errno));
    }
    if (!status && rename(tmp, out)) {
        status = err_set(err, ERR_IO, "cannot rename %s to %s: %s", tmp, out, strerror(errno));
        if (old) rename(old, out);
    } else if (!status && dir_sync_parent(out)) { /* before the old one goes */
        status = err_set(err, ERR_IO, "cannot write %s: %s", out, strerror(errno));
    }
    if (!status && old) remove_folder(old);
    free(old);
    return status;
}

void folder_abort(const char *tmp) { remove_folder(tmp); }
