/* signed_json.h - statements as JSON objects, signed with Ed25519 (libsodium).  Leaf: anyone may include it.
 *
 * Signed are the bytes of `domain`, a newline, and the object without "signature": compact, keys sorted.  The domain says
 * what kind of statement it is, so that one kind cannot pass for another.  Keys are files of one line of hexadecimal
 * digits: FILE (secret) and FILE.pub. */
#ifndef EHR_MODEL_SIGNED_JSON_H
#define EHR_MODEL_SIGNED_JSON_H
#include "model/base.h"
#include <jansson.h>

enum { PUBLIC_KEY_HEX = 65 };

/* Writes PATH (the secret key, readable by its owner alone) and PATH.pub; neither may exist. */
Status signing_key_make(const char *path, Err *err);
Status public_key_read(char hex[PUBLIC_KEY_HEX], const char *path, Err *err);
/* Adds "public_key" and "signature" to o. */
Status json_sign(json_t *o, const char *domain, const char *key_path, Err *err);
/* Whether the signature is that of the key that o names; what: of messages. */
Status json_verify(const json_t *o, const char *domain, const char *what, Err *err);
void json_sha256(const json_t *o, char hex[65]);        /* of the object, compact, keys sorted */
const char *json_text(const json_t *o, const char *key); /* "" when missing or no string */
/* A JSON object from a file of at most 1 MB; json_decref() it.  kind: "an attestation". */
Status json_object_load(json_t **o, const char *path, const char *kind, Err *err);

#endif
