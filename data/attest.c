/* attest.c - see attest.h. */
#include "data/attest.h"
#include <string.h>

static const char DOMAIN[] = "ehr.c attestation";

static int level_is_known(const char *level) {
    return !strcmp(level, "safe-harbor") || !strcmp(level, "expert") || !strcmp(level, "text-scrubbed");
}

Status attest_sign(char **json, const Attestation *a, const char *key_path, Err *err) {
    *json = NULL;
    if (!level_is_known(a->level))
        return err_set(err, ERR_USAGE, "--level %s: safe-harbor, expert or text-scrubbed was expected", a->level);
    json_t *o = json_pack("{s:s, s:i, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s}", "format", "ehr.c attestation",
                          "format_version", 1, "level", a->level, "name", a->name, "role", a->role, "organisation",
                          a->organisation, "signed_on", a->date, "statement", a->statement, "events_sha256",
                          a->events_sha256, "record_sha256", a->record_sha256);
    if (!o) return err_set(err, ERR_USAGE, "the name, role, organisation or statement is not UTF-8 text");
    Status status = json_sign(o, DOMAIN, key_path, err);
    if (!status) *json = json_dumps(o, JSON_INDENT(1) | JSON_PRESERVE_ORDER);
    json_decref(o);
    return status;
}

Status attest_verify(const json_t *o, const char *trusted, const char *what, Err *err) {
    if (strcmp(json_text(o, "format"), "ehr.c attestation") || !level_is_known(json_text(o, "level")) || !*json_text(o, "name"))
        return err_set(err, ERR_FORMAT, "%s: it is no attestation of a named person (ehr-data attest makes one)", what);
    Status status = json_verify(o, DOMAIN, what, err);
    if (!status && trusted && strcmp(trusted, json_text(o, "public_key")))
        status = err_set(err, ERR_FORMAT, "%s: it was signed by key %.16s..., not by the key that is trusted here", what,
                         json_text(o, "public_key"));
    return status;
}

Status attest_load(json_t **attestation, const char *path, Err *err) {
    return json_object_load(attestation, path, "an attestation", err);
}
