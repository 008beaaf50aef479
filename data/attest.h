/* attest.h - what a named person says of a release, signed with Ed25519.  The tool records and checks such statements;
 * it never makes one.
 *
 * attestation.json: {"format": "ehr.c attestation", "format_version": 1, "level": "safe-harbor" | "expert" |
 *   "text-scrubbed", "name", "role", "organisation", "signed_on", "statement", "events_sha256", "record_sha256" ("" with
 *   text-scrubbed), "public_key", "signature"}; signed_json.h says what is signed, in the domain "ehr.c attestation". */
#ifndef EHR_DATA_ATTEST_H
#define EHR_DATA_ATTEST_H
#include "model/signed_json.h"

typedef struct {
    const char *level, *name, *role, *organisation, *date, *statement;
    const char *events_sha256, *record_sha256;
} Attestation;

/* The signed object as JSON text; free() it. */
Status attest_sign(char **json, const Attestation *a, const char *key_path, Err *err);
/* Whether the signature is that of the key the attestation names, and of `trusted` (hex) when it is not NULL. */
Status attest_verify(const json_t *attestation, const char *trusted, const char *what, Err *err);
Status attest_load(json_t **attestation, const char *path, Err *err); /* json_decref it */

#endif
