/* make_dataset.h - writes a tiny synthetic dataset folder for tests: vocabulary.json, dataset.json, a shard per split.
 *
 * 62 tokens; one static column (SEX), ages in 5-year bins, the 19 gaps, visits with complaints, a lab in four levels,
 * diagnoses, drugs, death.  Lengths are uneven (one visit to a hundred), one patient in eight dies, the others are
 * censored up to 400 days after their last event.  Patient i goes to tuning when i % 10 = 8, to held_out when it is 9.
 * Any failure aborts: a test cannot go on without its data. */
#ifndef EHR_TESTS_MAKE_DATASET_H
#define EHR_TESTS_MAKE_DATASET_H
#include "data/dataset.h"
#include "kernels/philox.h"
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#define MADE __attribute__((unused)) static

/* ---- vocabulary --------------------------------------------------------------------------------------------------- */

enum {
    MADE_SEX_F = 3, MADE_SEX_M = 4, MADE_AGE = 5, MADE_N_AGE = 16, MADE_GAP = 21, MADE_EVENT = 40,
    MADE_VISIT = 40, MADE_VISIT_END = 41, MADE_COMPLAINT = 42, MADE_N_COMPLAINT = 3, MADE_LAB = 45, MADE_N_LAB = 4,
    MADE_DIAGNOSIS = 49, MADE_N_DIAGNOSIS = 5, MADE_DRUG = 54, MADE_N_DRUG = 4, MADE_UNKNOWN = 58, MADE_DEATH = 61,
    MADE_VOCABULARY = 62
};

MADE void made_token(json_t *list, const char *code, const char *kind, const char *event_kind, const char *name) {
    json_t *t = json_pack("{s:i, s:s, s:s, s:s}", "id", (int)json_array_size(list), "code", code, "kind", kind, "name", name);
    if (event_kind) json_object_set_new(t, "event_kind", json_string(event_kind));
    json_array_append_new(list, t);
}

MADE void made_gaps(json_t *tokens, json_t *bins) {
    for (int b = 0; b < GAP_TOKENS; b++) {
        json_t *q = json_array();
        double lo = GAP_MINUTES[b], hi = b < GAP_BINS ? GAP_MINUTES[b + 1] : lo;
        for (int i = 0; i < GAP_QUANTILES; i++) json_array_append_new(q, json_real(lo + (hi - lo) * (i + 0.5) / GAP_QUANTILES));
        json_t *bin = json_pack("{s:i, s:s, s:i}", "id", (int)json_array_size(tokens), "code", GAP_NAME[b], "lo_minutes",
                                GAP_MINUTES[b]);
        if (b < GAP_BINS) json_object_set_new(bin, "hi_minutes", json_integer(GAP_MINUTES[b + 1]));
        json_object_set_new(bin, "quantiles_minutes", q);
        json_array_append_new(bins, bin);
        made_token(tokens, GAP_NAME[b], "gap", NULL, "");
    }
}

MADE char *made_vocabulary_json(void) {
    static const char *const events[][3] = {
        {"VISIT//OUT", "visit_start", "outpatient visit"}, {"VISIT_END//OUT", "visit_end", "end of the visit"},
        {"COMPLAINT//COUGH", "other", "cough"}, {"COMPLAINT//PAIN", "other", "pain"}, {"COMPLAINT//FEVER", "other", "fever"},
        {"LOINC//4548-4=Q1", "lab", "Hemoglobin A1c"}, {"LOINC//4548-4=Q2", "lab", "Hemoglobin A1c"},
        {"LOINC//4548-4=Q3", "lab", "Hemoglobin A1c"}, {"LOINC//4548-4=Q4", "lab", "Hemoglobin A1c"},
        {"ICD10CM//E11", "diagnosis", "type 2 diabetes"}, {"ICD10CM//I10", "diagnosis", "hypertension"},
        {"ICD10CM//I50", "diagnosis", "heart failure"}, {"ICD10CM//J44", "diagnosis", "COPD"},
        {"ICD10CM//N18", "diagnosis", "chronic kidney disease"}, {"ATC//A10BA02", "drug", "metformin"},
        {"ATC//C09AA", "drug", "ACE inhibitor"}, {"ATC//C03CA01", "drug", "furosemide"}, {"ATC//R03AC02", "drug", "salbutamol"}};
    json_t *tokens = json_array(), *bins = json_array();
    made_token(tokens, "PAD", "special", NULL, "");
    made_token(tokens, "RECORD_START", "special", NULL, "");
    made_token(tokens, "RECORD_CONTINUES", "special", NULL, "");
    made_token(tokens, "SEX//F", "static", NULL, "female");
    made_token(tokens, "SEX//M", "static", NULL, "male");
    for (int i = 0; i < MADE_N_AGE; i++) {
        char code[32];
        snprintf(code, sizeof code, "AGE//%d-%d", 15 + 5 * i, 19 + 5 * i);
        made_token(tokens, code, "age", NULL, "");
    }
    made_gaps(tokens, bins);
    for (size_t i = 0; i < sizeof events / sizeof *events; i++) {
        made_token(tokens, events[i][0], "event", events[i][1], events[i][2]);
        int level = (int)i - (MADE_LAB - MADE_EVENT) + 1;
        if (level < 1 || level > MADE_N_LAB) continue;
        json_t *t = json_array_get(tokens, json_array_size(tokens) - 1);
        json_object_set_new(t, "base", json_string("LOINC//4548-4"));
        json_object_set_new(t, "unit", json_string("%"));
        json_object_set_new(t, "level", json_integer(level));
        if (level > 1) json_object_set_new(t, "lo", json_real(4.0 + level));
        if (level < MADE_N_LAB) json_object_set_new(t, "hi", json_real(5.0 + level));
    }
    made_token(tokens, "UNKNOWN//lab", "unknown", "lab", "");
    made_token(tokens, "UNKNOWN//diagnosis", "unknown", "diagnosis", "");
    made_token(tokens, "UNKNOWN//drug", "unknown", "drug", "");
    made_token(tokens, "MEDS_DEATH", "event", "death", "death");
    REQUIRE(json_array_size(tokens) == MADE_VOCABULARY);
    json_t *root = json_pack("{s:s, s:i, s:s, s:[s], s:i, s:o, s:o, s:{s:[f,f,f]}, s:{}}", "format", "ehr.c vocabulary",
                             "format_version", 1, "values", "fused", "static", "SEX", "age_bin_years", 5, "gap_bins", bins,
                             "tokens", tokens, "edges", "LOINC//4548-4|%", 6.0, 7.0, 8.0, "rollup");
    REQUIRE(root);
    char *text = json_dumps(root, JSON_INDENT(1));
    json_decref(root);
    return text;
}

/* ---- patients ------------------------------------------------------------------------------------------------------ */

typedef struct {
    uint64_t  key;
    int64_t   n, capacity;
    uint32_t *tokens;
    int32_t  *minutes;
    float    *oracle_logp; /* NULL: none */
    uint16_t  statics[2];  /* SEX token, age at the first event */
    uint8_t   group[1];    /* 1 F, 2 M */
    int32_t   observation_end;
} MadePatient;

MADE void made_push(MadePatient *p, uint32_t token, int64_t minute) {
    if (p->n == p->capacity) {
        p->capacity = 2 * p->capacity + 64;
        p->tokens = xrealloc(p->tokens, sizeof *p->tokens * (size_t)p->capacity);
        p->minutes = xrealloc(p->minutes, sizeof *p->minutes * (size_t)p->capacity);
    }
    p->tokens[p->n] = token;
    p->minutes[p->n++] = (int32_t)minute;
}

/* The gap tokens of `gap` minutes that end at the next event, as tokenize writes them; returns its minute. */
MADE int64_t made_gap(MadePatient *p, int64_t minute, int64_t gap) {
    int64_t end = minute + gap, rest = gap % GAP_MINUTES[GAP_BINS];
    for (int64_t k = 1; k <= gap / GAP_MINUTES[GAP_BINS]; k++) made_push(p, MADE_GAP + GAP_BINS, minute + k * GAP_MINUTES[GAP_BINS]);
    if (rest >= GAP_MINUTES[0]) made_push(p, (uint32_t)(MADE_GAP + vocabulary_gap_bin((int32_t)rest)), end);
    return end;
}

MADE void made_patient_free(MadePatient *p) {
    free(p->tokens);
    free(p->minutes);
    free(p->oracle_logp);
    memset(p, 0, sizeof *p);
}

typedef struct {
    uint64_t key, next;
} MadeRandom;
MADE double made_uniform(MadeRandom *r) { return philox_uniform(philox4x32(r->key, r->next++, 0), 0); }

MADE void made_patient(MadePatient *p, uint64_t seed, int64_t i) {
    MadeRandom r = {philox_mix(seed, (uint64_t)i), 0};
    memset(p, 0, sizeof *p);
    p->key = philox_mix(r.key, 77);
    int male = made_uniform(&r) < 0.5;
    p->statics[0] = (uint16_t)(male ? MADE_SEX_M : MADE_SEX_F);
    p->statics[1] = (uint16_t)(20 + (int)(60 * made_uniform(&r)));
    p->group[0] = (uint8_t)(1 + male);
    int visits = i % 50 == 7 ? 100 : 1 + (int)(12 * made_uniform(&r) * made_uniform(&r));
    int ill = (int)(MADE_N_DIAGNOSIS * made_uniform(&r)), dead = 0, dies = made_uniform(&r) < 0.125;
    int64_t minute = 0;
    for (int visit = 0; visit < visits; visit++) {
        if (visit) minute = made_gap(p, minute, 1440 + (int64_t)(400 * 1440 * made_uniform(&r) * made_uniform(&r)));
        if (dies && visit == visits - 1 && visit) {
            made_push(p, MADE_DEATH, minute);
            dead = 1;
            break;
        }
        made_push(p, MADE_VISIT, minute);
        made_push(p, (uint32_t)(MADE_COMPLAINT + (int)(MADE_N_COMPLAINT * made_uniform(&r))), ++minute);
        if (made_uniform(&r) < 0.7) made_push(p, (uint32_t)(MADE_LAB + (ill + (int)(2 * made_uniform(&r))) % MADE_N_LAB), ++minute);
        if (made_uniform(&r) < 0.8) made_push(p, (uint32_t)(MADE_DIAGNOSIS + ill), ++minute);
        if (made_uniform(&r) < 0.6) made_push(p, (uint32_t)(MADE_DRUG + ill % MADE_N_DRUG), ++minute);
        made_push(p, MADE_VISIT_END, ++minute);
    }
    p->observation_end = (int32_t)(minute + (dead ? 0 : (int64_t)(400 * 1440 * made_uniform(&r))));
}

/* ---- folder -------------------------------------------------------------------------------------------------------- */

typedef struct {
    const MadePatient *patient;
    int64_t            n;
} MadeSplit;

/* Writes the folder `dir` (made when missing); split[s].n = 0 leaves split s without shards.  with_oracle needs
 * oracle_logp in every patient. */
MADE void made_write(const char *dir, const MadeSplit split[SPLIT_COUNT], int with_oracle, const char *floor) {
    Err err = {0};
    char *path, *vocabulary = made_vocabulary_json(), sha[65];
    json_t *splits = json_object();
    bytes_sha256(vocabulary, strlen(vocabulary), sha);
    REQUIRE(!dir_make(dir, &err));
    path = xasprintf("%s/vocabulary.json", dir);
    REQUIRE(!file_write(path, vocabulary, strlen(vocabulary), &err));
    free(path);
    free(vocabulary);
    for (int s = 0; s < SPLIT_COUNT; s++) {
        json_t *shards = json_array();
        int64_t tokens = 0;
        if (split[s].n) {
            ShardWriter *w;
            char *name = xasprintf("%s-00000.h5", split_name(s)), file_sha[65];
            path = xasprintf("%s/%s", dir, name);
            REQUIRE(!shard_writer_open(&w, path, 0, 1, 1, with_oracle, &err));
            for (int64_t i = 0; i < split[s].n; i++) {
                const MadePatient *p = &split[s].patient[i];
                REQUIRE(!shard_writer_patient(w, p->key, p->tokens, p->minutes, p->n, p->statics, p->group,
                                              p->observation_end, p->oracle_logp, &err));
            }
            tokens = shard_writer_tokens(w);
            REQUIRE(!shard_writer_close(w, "{\"level\": \"synthetic\"}", sha, &err));
            REQUIRE(!file_sha256(path, file_sha, &err));
            json_array_append_new(shards, json_pack("{s:s, s:s, s:I, s:I}", "file", name, "sha256", file_sha, "patients",
                                                    (json_int_t)split[s].n, "tokens", (json_int_t)tokens));
            free(path);
            free(name);
        }
        json_object_set_new(splits, split_name(s), json_pack("{s:I, s:I, s:o}", "patients", (json_int_t)split[s].n, "tokens",
                                                             (json_int_t)tokens, "shards", shards));
    }
    json_t *root = json_pack("{s:s, s:i, s:s, s:o, s:{s:s, s:s}, s:[{s:s, s:[s,s,s]}], s:{s:s}, s:b, s:s, s:{}, s:{}}",
                             "format", "ehr.c dataset", "format_version", 1, "source", "test", "splits", splits, "vocabulary",
                             "file", "vocabulary.json", "sha256", sha, "groups", "name", "SEX", "labels", "", "F", "M",
                             "deidentification", "level", "synthetic", "floor_valid", floor != NULL, "floor_note",
                             floor ? floor : "not an oracle cohort", "statistics", "settings");
    REQUIRE(root);
    char *json = json_dumps(root, JSON_INDENT(1));
    path = xasprintf("%s/dataset.json", dir);
    REQUIRE(!file_write(path, json, strlen(json), &err));
    free(path);
    free(json);
    json_decref(root);
}

/* n_patients patients in three splits (see above) into the folder dir. */
MADE void make_dataset(const char *dir, int n_patients, uint64_t seed) {
    MadePatient *made[SPLIT_COUNT];
    MadeSplit split[SPLIT_COUNT];
    int64_t n[SPLIT_COUNT] = {0};
    for (int s = 0; s < SPLIT_COUNT; s++) made[s] = xcalloc((size_t)n_patients, sizeof **made);
    for (int i = 0; i < n_patients; i++) {
        int s = i % 10 == 8 ? SPLIT_TUNING : i % 10 == 9 ? SPLIT_HELD_OUT : SPLIT_TRAIN;
        made_patient(&made[s][n[s]++], seed, i);
    }
    for (int s = 0; s < SPLIT_COUNT; s++) split[s] = (MadeSplit){made[s], n[s]};
    made_write(dir, split, 0, NULL);
    for (int s = 0; s < SPLIT_COUNT; s++) {
        for (int64_t i = 0; i < n[s]; i++) made_patient_free(&made[s][i]);
        free(made[s]);
    }
}

/* Removes the files of a folder, its labels folder and the folder itself. */
MADE void made_remove(const char *dir) {
    char *command = xasprintf("rm -rf -- '%s'", dir);
    if (system(command)) fprintf(stderr, "cannot remove %s\n", dir);
    free(command);
}

#endif
