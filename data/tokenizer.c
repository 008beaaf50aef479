/* tokenizer.c - see tokenizer.h.  Survey (who is there), fit (train patients), emit (everybody, in dataset order):
 * three passes over the events, and no memory that grows with them but a few words a patient. */
#include "data/tokenizer.h"
#include "data/canaries.h"
#include "data/deidentify_record.h"
#include "data/linkage.h"
#include "data/oracle.h"
#include "data/table.h"
#include "data/tokenizer_build.h"
#include "data/tokenizer_dataset.h"
#include "data/tokenizer_fit.h"
#include "data/vocabulary_extend.h"
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const TokenizeOptions *o;
    TokenizeReport *r;
    EventFile f;
    Cohort cohort;
    Vocabulary v;
    TokenMap map;
    OracleFile oracle;
    Groups groups;
    SplitShards shards[SPLIT_COUNT];
    Table linkage;
    uint8_t *key;
    size_t key_size;
    int64_t *excluded, n_excluded;
    char *tmp, *deidentification, edges_sha256[65], replaced[65]; /* replaced: the dataset in our place, "" = none */
} Run;

/* ---- vocabulary
 * --------------------------------------------------------------------------------------------------------- */

/* Codes become tokens and JSON: they must be text. */
static Status check_codes(const EventFile *f, Err *err) {
    for (int64_t c = 0; c < f->n_codes; c++) {
        json_t *text = json_string(f->codes[c]);
        int bad = !text || !f->codes[c][0];
        for (const char *s = f->codes[c]; *s; s++) bad |= (unsigned char)*s < 0x20 || *s == 0x7f;
        json_decref(text);
        if (bad)
            return err_set(err, ERR_FORMAT, "%s: code %lld is not printable UTF-8 text; import the records again",
                           f->path, (long long)c);
    }
    return OK;
}

static int has_static(const EventFile *f, const char *prefix) {
    for (int64_t c = 0; c < f->n_codes; c++)
        if (f->code_kind[c] == KIND_STATIC && !strncmp(f->codes[c], prefix, strlen(prefix))) return 1;
    return 0;
}

static Status static_names(const TokenizeOptions *o, const EventFile *f, char *text, char **name, int *n, Err *err) {
    enum { MAX = 16 };
    *n = split_list(text, name, MAX + 1);
    if (*n > MAX) return err_set(err, ERR_USAGE, "--static takes at most %d names", MAX);
    for (int i = 0; i < *n; i++) {
        if (strlen(name[i]) > 60 || strchr(name[i], '/'))
            return err_set(err, ERR_USAGE, "--static %s: the part before // of static codes was expected, such as SEX",
                           name[i]);
        for (int k = 0; k < i; k++)
            if (!strcmp(name[i], name[k])) return err_set(err, ERR_USAGE, "--static names %s twice", name[i]);
        char *prefix = xasprintf("%s//", name[i]);
        int found = has_static(f, prefix);
        free(prefix);
        if (!found && o->statics)
            return err_set(err, ERR_USAGE, "--static %s: %s has no static code %s//...", name[i], f->path, name[i]);
    }
    return OK;
}

static Status fit(Run *run, Err *err) {
    const TokenizeOptions *o = run->o;
    EdgeRules rules = {0};
    char *name[32], *json = NULL;
    FitOptions fo = {.min_patients = o->min_patients,
                     .separate_values = o->separate_values,
                     .age_bin_years = o->age_bin_years,
                     .static_name = name,
                     .rules = &rules,
                     .notes = o->notes,
                     .note_merges = (int)o->note_merges,
                     .note_tokens = (int)o->note_tokens,
                     .threads = build_threads(o->threads)};
    char *names = xstrdup(o->statics ? o->statics : has_static(&run->f, "RACE//") ? "SEX,RACE" : "SEX");
    if (!fo.min_patients) {
        int64_t one_percent = run->cohort.n_split[SPLIT_TRAIN] / 100;
        fo.min_patients = one_percent < 1 ? 1 : one_percent > 11 ? 11 : one_percent;
    }
    run->r->min_patients = fo.min_patients;
    Status status = static_names(o, &run->f, names, name, &fo.n_static, err);
    if (!status && o->edges) status = edge_rules_load(&rules, o->edges, err);
    if (!status && o->edges) status = file_sha256(o->edges, run->edges_sha256, err);
    if (!status) status = vocabulary_fit(&json, &run->f, &run->cohort, &fo, o->progress, err);
    if (!status && vocabulary_parse(&run->v, json, strlen(json), "the fitted vocabulary", err))
        status = err_context(err, "%s has codes that read like tokens of our own", run->f.path);
    edge_rules_free(&rules);
    free(names);
    free(json);
    return status;
}

static Status load_frozen(Run *run, Err *err) {
    const char *path = run->o->vocabulary;
    char *inside = path_is_dir(path) ? xasprintf("%s/vocabulary.json", path) : xstrdup(path);
    Status status = vocabulary_load(&run->v, inside, err);
    free(inside);
    return status ? err_context(err, "--vocabulary") : OK;
}

/* What a fit with the frozen vocabulary's settings finds and it does not know. */
static Status append_codes(Run *run, Err *err) {
    const TokenizeOptions *given = run->o;
    TokenizeOptions like = *given;
    Vocabulary known = run->v, fitted;
    char *json = NULL;
    like.separate_values = known.separate_values;
    like.age_bin_years = known.age_bin_years;
    like.statics = NULL; /* appended are events only */
    like.notes = 0;
    run->o = &like;
    run->v = (Vocabulary){0};
    Status status = fit(run, err);
    run->o = given;
    run->r->min_patients = 0; /* true of the appended tokens alone */
    fitted = run->v;
    run->v = (Vocabulary){0};
    if (!status) status = vocabulary_extend(&json, &known, &fitted, &run->r->n_appended, err);
    if (!status) status = vocabulary_parse(&run->v, json, strlen(json), "the extended vocabulary", err);
    vocabulary_free(&known);
    vocabulary_free(&fitted);
    free(json);
    return status;
}

/* The floor stands when tokens are the law's own: every what and level has its token, and the edges are those that the
 * values were drawn in. */
static Status check_floor(Run *run, Err *err) {
    TokenizeReport *r = run->r;
    OracleLaw law;
    Err why;
    r->oracle = oracle_file_present(run->o->events);
    run->map.synthetic = r->oracle;
    if (!r->oracle) return OK;
    r->floor_valid = 1;
    if (!run->o->vocabulary) {
        r->floor_valid = 0;
        snprintf(r->floor_reason, sizeof r->floor_reason,
                 "the vocabulary was fitted to the cohort; the law's own stands beside the events (--vocabulary)");
    } else if (oracle_law_open(&law, &run->v, &why)) {
        r->floor_valid = 0;
        snprintf(r->floor_reason, sizeof r->floor_reason, "%.200s", why.msg);
    } else {
        oracle_law_close(&law);
        for (int w = ORACLE_LAB; w < ORACLE_LAB + ORACLE_LABS && r->floor_valid; w++) {
            OracleItem item = oracle_item(w);
            const VocabEdges *e = vocabulary_edges(&run->v, item.code, item.unit);
            if (e && e->n == ORACLE_LEVELS - 1 && !memcmp(e->edge, item.edges, (size_t)e->n * sizeof *e->edge))
                continue;
            r->floor_valid = 0;
            snprintf(r->floor_reason, sizeof r->floor_reason, "the value edges of %s are not the law's", item.code);
        }
    }
    return oracle_file_open(&run->oracle, run->o->events, run->f.n_patients, run->f.n_events, err);
}

/* ---- emission
 * ------------------------------------------------------------------------------------------------------------- */

typedef struct {
    uint64_t *key;
    int64_t *subject, *split, *patient_row, *origin;
} LinkageColumns;

static LinkageColumns linkage_init(Run *run) {
    table_init(&run->linkage, run->cohort.n);
    LinkageColumns c;
    c.subject = table_add(&run->linkage, "subject_id", COLUMN_I64);
    c.key = table_add(&run->linkage, "patient_key", COLUMN_U64);
    c.split = table_add(&run->linkage, "split", COLUMN_I64);
    c.patient_row = table_add(&run->linkage, "patient_row", COLUMN_I64);
    c.origin = table_add(&run->linkage, "origin_us", COLUMN_I64);
    return c;
}

typedef struct {
    Run *run;
    LinkageColumns link;
    const int64_t *rank;
    Progress progress;
} Emit;

static Status emit_patient(void *context, int64_t place, const BuiltPatient *p, Err *err) {
    Emit *e = context;
    Run *run = e->run;
    const LinkageColumns *link = &e->link;
    int64_t at = e->rank[p->row];
    int split = run->cohort.split[p->row];
    const Timeline *t = &p->timeline;
    TokenizeReport *r = run->r;
    uint8_t group[64];
    if (t->floor_broken && r->floor_valid) {
        r->floor_valid = 0;
        snprintf(r->floor_reason, sizeof r->floor_reason, "some events became other tokens than the law's");
    }
    groups_of(&run->groups, t, run->v.n_static, group);
    link->subject[at] = p->subject;
    uint64_t key = r->released ? (uint64_t)p->subject : (uint64_t)place;
    link->key[at] = key;
    link->split[at] = split;
    link->patient_row[at] = r->n_patients[split]++;
    link->origin[at] = t->origin_us;
    r->n_events[split] += p->n_events;
    r->n_tokens[split] += t->n;
    progress_update(&e->progress, place + 1);
    return split_shards_add(&run->shards[split], key, t, group, err);
}

/* The linkage ascends by subject, like the events file; patients are emitted in dataset order. */
static Status emit(Run *run, Err *err) {
    Emit e = {.run = run, .link = linkage_init(run)};
    int64_t *rank = try_calloc((size_t)run->cohort.n_rows, sizeof *rank), n = 0;
    if (!rank) return err_set(err, ERR_NOMEM, "no memory for %lld patients", (long long)run->cohort.n_rows);
    for (int64_t row = 0; row < run->cohort.n_rows; row++)
        if (run->cohort.split[row] != SPLIT_UNSET) rank[row] = n++;
    e.rank = rank;
    progress_open(&e.progress, run->o->progress, "tokenize", "patients", n);
    TimelineBuild build;
    OracleFile *oracle = run->r->oracle ? &run->oracle : NULL;
    int threads = oracle ? 1 : build_threads(run->o->threads);
    Status status = build_open(&build, &run->map, &run->f, oracle, threads, err);
    if (!status) status = build_run(&build, run->cohort.order, n, emit_patient, &e, err);
    if (!status) build_counts(&build, &run->r->counts);
    build_close(&build);
    progress_close(&e.progress, n);
    free(rank);
    if (!status && run->o->canaries) {
        const int64_t added = run->o->canaries * run->o->canary_copies;
        status = canaries_insert(&run->shards[SPLIT_TRAIN], run->o, &run->v, &run->groups, err);
        run->r->n_patients[SPLIT_TRAIN] += added;
        run->r->n_events[SPLIT_TRAIN] += added * CANARY_EVENTS;
        run->r->n_tokens[SPLIT_TRAIN] += added * CANARY_EVENTS;
    }
    for (int s = 0; s < SPLIT_COUNT && !status; s++) status = split_shards_close(&run->shards[s], err);
    return status;
}

/* ---- drift
 * ------------------------------------------------------------------------------------------------------------------ */

/* sum (o - e) ln(o / e) over the levels: the usual reading is below 0.1 stable, above 0.25 shifted. */
static double stability_index(const UnitLevels *l, int64_t n) {
    double psi = 0;
    for (int k = 0; k <= l->edges->n; k++) {
        double o = fmax((double)l->seen[k] / (double)n, 1e-4), e = fmax(l->edges->share[k], 1e-4);
        psi += (o - e) * log(o / e);
    }
    return psi;
}

static void measure_drift(Run *run) {
    TokenizeReport *r = run->r;
    for (int64_t c = 0; c < run->f.n_codes && run->o->vocabulary; c++)
        for (int u = 0; u < run->map.code[c].n_units; u++) {
            const UnitLevels *l = &run->map.code[c].unit[u];
            int64_t n = 0;
            for (int k = 0; k <= l->edges->n; k++) n += l->seen[k];
            if (!l->edges->share || n < DRIFT_MIN_VALUES) continue;
            r->drift = xrealloc(r->drift, (size_t)(r->n_drift + 1) * sizeof *r->drift);
            r->drift[r->n_drift++] =
                (Drift){xstrdup(l->edges->code), xstrdup(l->edges->unit), n, stability_index(l, n)};
        }
}

/* ---- the whole
 * ---------------------------------------------------------------------------------------------------------------- */

static Status write_text(const char *folder, const char *name, const char *text, size_t size, Err *err) {
    char *path = xasprintf("%s/%s", folder, name);
    Status status = file_write(path, text, size, err);
    free(path);
    return status;
}

static Status write_linkage(Run *run, const char *dataset_json, Err *err) {
    TokenizeReport *r = run->r;
    char sha256[65], *path = linkage_path(run->o->events);
    int fits = snprintf(r->linkage, sizeof r->linkage, "%s", path) < (int)sizeof r->linkage;
    free(path);
    if (!fits) return err_set(err, ERR_USAGE, "the name of the events file is too long: %.60s...", run->o->events);
    bytes_sha256(dataset_json, strlen(dataset_json), sha256);
    table_set(&run->linkage, "name", "linkage");
    table_set(&run->linkage, "events_sha256", run->f.sha256);
    table_set(&run->linkage, "dataset_sha256", sha256);
    return linkage_write(&run->linkage, run->o->events, run->replaced, err);
}

/* Texts are told when a person attested that they were scrubbed.  Of a source, which stays where it is, they are told
 * with a warning. */
static Status notes_allowed(Run *run, const json_t *record, Err *err) {
    if (!run->f.n_notes)
        return err_set(err, ERR_USAGE,
                       "--notes: %s has no free texts; import them with ehr-data import --notes%s", run->o->events,
                       record ? ", and let them through deidentify with --text-attestation" : "");
    run->r->notes_unattested = !deidentify_record_texts_attested(record);
    if (record && run->r->notes_unattested)
        return err_set(err, ERR_FORMAT,
                       "--notes: %s is a release with free texts that nobody attested to be scrubbed: it was not made by "
                       "ehr-data deidentify --text-attestation; make it again",
                       run->o->events);
    return OK;
}

static Status notes_open(Run *run, Err *err) {
    run->map.notes = &run->f;
    if (run->v.text_begin >= 0) return OK;
    return err_set(err, ERR_USAGE,
                   "--notes: the vocabulary of --vocabulary %s has no tokens of texts; leave --notes out, or fit one that "
                   "has (tokenize --notes without --vocabulary)",
                   run->o->vocabulary);
}

static Status prepare(Run *run, Err *err) {
    const TokenizeOptions *o = run->o;
    Status status = event_file_open(&run->f, o->events, err);
    json_t *record = status ? NULL : deidentify_record_of(&run->f);
    run->r->released = record != NULL;
    if (!status && o->notes) status = notes_allowed(run, record, err);
    json_decref(record);
    if (!status) status = check_codes(&run->f, err);
    if (!status && o->key_file) status = split_key_read(o->key_file, &run->key, &run->key_size, err);
    if (!status && o->exclude_file) status = excluded_read(o->exclude_file, &run->excluded, &run->n_excluded, err);
    int64_t absent = 0;
    if (!status && o->release_linkage)
        status = linkage_translate(run->excluded, &run->n_excluded, &absent, o->release_linkage, run->f.sha256, err);
    CohortOptions co = {o->split, run->key, run->key_size, o->seed, run->excluded, run->n_excluded};
    if (!status) status = cohort_open(&run->cohort, &run->f, &co, o->progress, err);
    if (!status) run->r->n_exclude_unknown = absent + run->n_excluded - run->cohort.n_excluded;
    if (!status) status = o->vocabulary ? load_frozen(run, err) : fit(run, err);
    if (!status && o->append_codes) status = append_codes(run, err);
    if (!status) status = token_map_open(&run->map, &run->v, &run->f, err);
    if (!status && o->notes) status = notes_open(run, err);
    if (!status) status = check_floor(run, err);
    return status;
}

static void fill_report(Run *run) {
    TokenizeReport *r = run->r;
    snprintf(r->source, sizeof r->source, "%s", run->f.source);
    snprintf(r->split_method, sizeof r->split_method, "%s", run->cohort.method);
    memcpy(r->vocabulary_sha256, run->v.sha256, sizeof r->vocabulary_sha256);
    r->n_untimed = run->cohort.n_untimed;
    r->n_no_site = run->cohort.n_no_site;
    r->n_excluded = run->cohort.n_excluded;
    r->n_vocabulary = run->v.n;
    r->separate_values = run->v.separate_values;
    for (int id = 0; id < run->v.n; id++) r->tokens_by_kind[run->v.token[id].kind]++;
}

static Status write_dataset(Run *run, Err *err) {
    const TokenizeOptions *o = run->o;
    fill_report(run);
    groups_init(&run->groups, &run->v);
    Status status = deidentification_format(&run->deidentification, run->r, &run->f, o->attestation, o->key_file != NULL, err);
    if (status) return status;
    for (int s = 0; s < SPLIT_COUNT; s++)
        run->shards[s] = (SplitShards){.folder = run->tmp,
                                       .split = s,
                                       .wide = run->v.n > UINT16_MAX,
                                       .n_static = run->v.n_static,
                                       .n_groups = run->groups.n,
                                       .oracle = run->r->oracle,
                                       .shard_size = o->shard_size,
                                       .deidentification = run->deidentification,
                                       .vocabulary_sha256 = run->v.sha256};
    status = write_text(run->tmp, "vocabulary.json", run->v.json, strlen(run->v.json), err);
    if (!status) status = emit(run, err);
    if (status) return status;
    measure_drift(run);
    char *json = dataset_json_format(o, run->r, &run->f, &run->v, &run->groups, run->shards, run->deidentification,
                                     run->edges_sha256);
    status = write_text(run->tmp, "dataset.json", json, strlen(json), err);
    if (!status) status = write_linkage(run, json, err);
    free(json);
    if (!status && o->canaries) status = canaries_reference(o, &run->v, &run->groups, &run->f, err);
    if (!status) status = folder_commit(run->tmp, o->out, err);
    return status;
}

Status tokenize_events(const TokenizeOptions *o, TokenizeReport *r, Err *err) {
    REQUIRE(o->shard_size > 0 && (o->vocabulary || o->age_bin_years == 1 || o->age_bin_years == 5));
    *r = (TokenizeReport){0};
    Run run = {.o = o, .r = r};
    char *out = path_copy(o->out);
    TokenizeOptions tidy = *o;
    tidy.out = out;
    run.o = &tidy;
    Status status = folder_begin(out, o->overwrite, &run.tmp, err);
    if (!status && path_exists(out)) {
        char *former = xasprintf("%s/dataset.json", out);
        status = file_sha256(former, run.replaced, err);
        free(former);
    }
    if (!status) status = prepare(&run, err);
    if (!status) status = write_dataset(&run, err);
    for (int s = 0; s < SPLIT_COUNT; s++) split_shards_free(&run.shards[s]);
    if (status && run.tmp) folder_abort(run.tmp);
    table_free(&run.linkage);
    groups_free(&run.groups);
    token_map_close(&run.map);
    vocabulary_free(&run.v);
    cohort_close(&run.cohort);
    oracle_file_close(&run.oracle);
    event_file_close(&run.f);
    free(run.deidentification);
    free(run.excluded);
    free(run.key);
    free(run.tmp);
    free(out);
    if (status) tokenize_report_free(r);
    return status;
}

void tokenize_report_free(TokenizeReport *r) {
    for (int i = 0; i < r->n_drift; i++) {
        free(r->drift[i].code);
        free(r->drift[i].unit);
    }
    free(r->drift);
    *r = (TokenizeReport){0};
}

double tokenize_unknown_share(const TokenizeCounts *c, int kind) {
    return c->events[kind] ? (double)c->mapped[kind][MAPPED_UNKNOWN] / (double)c->events[kind] : 0;
}
