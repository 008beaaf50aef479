/* deidentify_record.c - see deidentify_record.h. */
#include "data/deidentify_record.h"
#include "data/attest.h"
#include "model/sha256.h"
#include <stdlib.h>
#include <string.h>

json_t *deidentify_record_of(const EventFile *f) {
    json_t *root = json_loads(f->provenance, 0, NULL), *record = json_object_get(root, "deidentification");
    const char *format = json_string_value(json_object_get(record, "format"));
    record = format && !strcmp(format, DEIDENTIFY_RECORD_FORMAT) ? json_incref(record) : NULL;
    json_decref(root);
    return record;
}

int64_t deidentify_record_k(const json_t *record) {
    size_t i;
    json_t *rule;
    json_array_foreach(json_object_get(record, "rules"), i, rule) {
        const char *name = json_string_value(json_object_get(rule, "rule"));
        if (name && !strcmp(name, "rare-codes")) return json_integer_value(json_object_get(rule, "k"));
    }
    return 0;
}

int deidentify_record_texts_attested(const json_t *record) {
    size_t i;
    json_t *rule;
    json_array_foreach(json_object_get(record, "rules"), i, rule) {
        const char *name = json_string_value(json_object_get(rule, "rule"));
        if (name && !strcmp(name, "free-text")) return json_is_string(json_object_get(rule, "attested_by"));
    }
    return 0;
}

void deidentify_record_sha256(const json_t *record, char hex[65]) {
    char *text = json_dumps(record, JSON_COMPACT | JSON_SORT_KEYS | JSON_REAL_PRECISION(12));
    REQUIRE(text);
    bytes_sha256(text, strlen(text), hex);
    free(text);
}

static int is_attested(const char *level) { return !strcmp(level, "safe-harbor") || !strcmp(level, "expert"); }

int deidentify_level_is_release(const char *level) {
    return is_attested(level) || !strcmp(level, "safe-harbor-rules") || !strcmp(level, "synthetic");
}

/* That an attestation is signed, gives a level of release and is about this record of this events file. */
static Status attestation_fits(const json_t *a, const json_t *record, const char *events_sha256, const char *what,
                               Err *err) {
    char sha[65];
    Status status = attest_verify(a, NULL, what, err);
    if (status) return status;
    deidentify_record_sha256(record, sha);
    if (!is_attested(json_text(a, "level")))
        return err_set(err, ERR_FORMAT, "%s: it attests %s, which is no level of a release", what,
                       json_text(a, "level"));
    if (strcmp(json_text(a, "record_sha256"), sha) || strcmp(json_text(a, "events_sha256"), events_sha256))
        return err_set(err, ERR_FORMAT,
                       "%s: it is about another release (events %.12s..., these are %.12s...); have this one attested",
                       what, json_text(a, "events_sha256"), events_sha256);
    return OK;
}

Status deidentify_dataset_object(json_t **out, const EventFile *f, int synthetic, const char *path, Err *err) {
    json_t *record = deidentify_record_of(f), *attestation = NULL;
    const char *level = record ? json_string_value(json_object_get(record, "level")) : NULL;
    Status status = OK;
    if (path && !record)
        status = err_set(err, ERR_USAGE,
                         "--attestation %s: %s has no de-identification record; run `ehr-data deidentify` first", path,
                         f->path);
    if (!status && path) status = attest_load(&attestation, path, err);
    if (!status && path) status = attestation_fits(attestation, record, f->sha256, path, err);
    if (!status) {
        *out = json_object();
        json_object_set_new(*out, "level",
                            json_string(attestation ? json_text(attestation, "level")
                                        : level     ? level
                                        : synthetic ? "synthetic"
                                                    : "structural"));
        if (record) json_object_set(*out, "record", record);
        if (attestation) json_object_set(*out, "attestation", attestation);
    }
    json_decref(record);
    json_decref(attestation);
    return status;
}

Status deidentify_claim_check(const json_t *object, const char *events_sha256, const char *what, Err *err) {
    const char *level = json_string_value(json_object_get(object, "level"));
    const json_t *record = json_object_get(object, "record"), *attestation = json_object_get(object, "attestation");
    if (!level || !strcmp(level, "structural") || !strcmp(level, "synthetic")) return OK;
    if (strcmp(level, "safe-harbor-rules") && !is_attested(level))
        return err_set(err, ERR_FORMAT, "%s: unknown level of de-identification \"%s\"", what, level);
    const char *recorded = json_string_value(json_object_get(record, "level"));
    if (!recorded)
        return err_set(err, ERR_FORMAT, "%s claims to be de-identified (%s) without the record of it", what, level);
    if (!is_attested(level))
        return strcmp(recorded, level) ? err_set(err, ERR_FORMAT, "%s claims %s, its record says %s", what, level, recorded)
                                       : OK;
    Status status = attestation_fits(attestation, record, events_sha256 ? events_sha256 : "", what, err);
    if (status || !strcmp(json_text(attestation, "level"), level)) return status;
    return err_set(err, ERR_FORMAT, "%s claims %s, and what was attested is %s; tokenise it again with --attestation", what, level,
                   json_text(attestation, "level"));
}
