/* attest.c - see attest.h. */
#include "data/attest.h"
#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char DOMAIN[] = "ehr.c attestation\n";
enum { FILE_MAX = 1 << 20 };

/* A new file of one line, never over another. */
static Status line_write(const char *path, const char *text, mode_t mode, Err *err) {
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
    size_t n = strlen(text);
    int bad = fd < 0 || write(fd, text, n) != (ssize_t)n || write(fd, "\n", 1) != 1 || fsync(fd);
    int why = errno;
    if (fd >= 0) close(fd);
    return bad ? err_set(err, ERR_IO, "cannot write the key %s: %s", path, strerror(why)) : OK;
}

Status attest_key_make(const char *path, Err *err) {
    unsigned char pk[crypto_sign_PUBLICKEYBYTES], sk[crypto_sign_SECRETKEYBYTES];
    char pk_hex[ATTEST_KEY_HEX], sk_hex[ATTEST_SECRET_HEX], *public_path = xasprintf("%s.pub", path);
    Status status = sodium_init() < 0 ? err_set(err, ERR_IO, "no source of randomness for keys on this machine") : OK;
    if (!status && (path_exists(path) || path_exists(public_path)))
        status = err_set(err, ERR_USAGE, "%s or %s exists: give another name; keys are never overwritten", path,
                         public_path);
    if (!status) {
        crypto_sign_keypair(pk, sk);
        sodium_bin2hex(pk_hex, sizeof pk_hex, pk, sizeof pk);
        sodium_bin2hex(sk_hex, sizeof sk_hex, sk, sizeof sk);
        status = line_write(path, sk_hex, 0600, err);
        if (!status) status = line_write(public_path, pk_hex, 0644, err);
        sodium_memzero(sk, sizeof sk);
        sodium_memzero(sk_hex, sizeof sk_hex);
    }
    free(public_path);
    return status;
}

static Status hex_read(unsigned char *out, size_t n, const char *path, const char *what, Err *err) {
    char *text = NULL;
    size_t size, got = 0;
    const char *end = NULL;
    Status status = file_read(path, 4096, &text, &size, err);
    if (!status && (sodium_hex2bin(out, n, text, strcspn(text, "\r\n"), NULL, &got, &end) || got != n))
        status =
            err_set(err, ERR_FORMAT, "%s is no %s: %zu hexadecimal digits were expected (ehr-data attest --new-key)",
                    path, what, 2 * n);
    if (text) sodium_memzero(text, size);
    free(text);
    return status;
}

Status attest_public_key_read(char hex[ATTEST_KEY_HEX], const char *path, Err *err) {
    unsigned char pk[crypto_sign_PUBLICKEYBYTES];
    Status status = hex_read(pk, sizeof pk, path, "public key", err);
    if (!status) sodium_bin2hex(hex, ATTEST_KEY_HEX, pk, sizeof pk);
    return status;
}

const char *attest_text(const json_t *attestation, const char *key) {
    const char *text = json_string_value(json_object_get(attestation, key));
    return text ? text : "";
}

/* What is signed; free() it. */
static char *signed_bytes(const json_t *attestation) {
    json_t *copy = json_copy((json_t *)attestation);
    json_object_del(copy, "signature");
    char *text = json_dumps(copy, JSON_COMPACT | JSON_SORT_KEYS), *all = NULL;
    json_decref(copy);
    if (text) all = xasprintf("%s%s", DOMAIN, text);
    free(text);
    return all;
}

static int level_is_known(const char *level) {
    return !strcmp(level, "safe-harbor") || !strcmp(level, "expert") || !strcmp(level, "text-scrubbed");
}

Status attest_sign(char **json, const Attestation *a, const char *key_path, Err *err) {
    unsigned char sk[crypto_sign_SECRETKEYBYTES], signature[crypto_sign_BYTES];
    char pk_hex[ATTEST_KEY_HEX], signature_hex[2 * crypto_sign_BYTES + 1];
    *json = NULL;
    if (!level_is_known(a->level))
        return err_set(err, ERR_USAGE, "--level %s: safe-harbor, expert or text-scrubbed was expected", a->level);
    if (sodium_init() < 0) return err_set(err, ERR_IO, "libsodium does not start on this machine");
    Status status = hex_read(sk, sizeof sk, key_path, "signing key", err);
    if (status) return status;
    sodium_bin2hex(pk_hex, sizeof pk_hex, sk + 32, 32); /* a secret key ends with its public one */
    json_t *o = json_pack("{s:s, s:i, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s}", "format", "ehr.c attestation",
                          "format_version", 1, "level", a->level, "name", a->name, "role", a->role, "organisation",
                          a->organisation, "signed_on", a->date, "statement", a->statement, "events_sha256",
                          a->events_sha256, "record_sha256", a->record_sha256, "public_key", pk_hex);
    char *text = o ? signed_bytes(o) : NULL;
    if (!text) {
        status = err_set(err, ERR_USAGE, "the name, role, organisation or statement is not UTF-8 text");
    } else {
        crypto_sign_detached(signature, NULL, (const unsigned char *)text, strlen(text), sk);
        sodium_bin2hex(signature_hex, sizeof signature_hex, signature, sizeof signature);
        json_object_set_new(o, "signature", json_string(signature_hex));
        *json = json_dumps(o, JSON_INDENT(1) | JSON_PRESERVE_ORDER);
    }
    sodium_memzero(sk, sizeof sk);
    free(text);
    json_decref(o);
    return status;
}

Status attest_verify(const json_t *o, const char *trusted, const char *what, Err *err) {
    unsigned char pk[crypto_sign_PUBLICKEYBYTES], signature[crypto_sign_BYTES];
    const char *pk_hex = attest_text(o, "public_key"), *signature_hex = attest_text(o, "signature");
    size_t n = 0, m = 0;
    if (strcmp(attest_text(o, "format"), "ehr.c attestation") || !level_is_known(attest_text(o, "level")) ||
        !*attest_text(o, "name"))
        return err_set(err, ERR_FORMAT, "%s: it is no attestation of a named person (ehr-data attest makes one)", what);
    if (sodium_init() < 0 || sodium_hex2bin(pk, sizeof pk, pk_hex, strlen(pk_hex), NULL, &n, NULL) || n != sizeof pk ||
        sodium_hex2bin(signature, sizeof signature, signature_hex, strlen(signature_hex), NULL, &m, NULL) ||
        m != sizeof signature)
        return err_set(err, ERR_FORMAT, "%s: its key or signature is missing or damaged", what);
    char *text = signed_bytes(o);
    int bad = !text || crypto_sign_verify_detached(signature, (const unsigned char *)text, strlen(text), pk);
    free(text);
    if (bad)
        return err_set(err, ERR_FORMAT, "%s: the signature does not match what is said: it was changed after signing",
                       what);
    if (trusted && strcmp(trusted, pk_hex))
        return err_set(err, ERR_FORMAT, "%s: it was signed by key %.16s..., not by the key that is trusted here", what,
                       pk_hex);
    return OK;
}

Status attest_load(json_t **attestation, const char *path, Err *err) {
    char *text;
    size_t size;
    json_error_t why;
    *attestation = NULL;
    Status status = file_read(path, FILE_MAX, &text, &size, err);
    if (status) return status;
    *attestation = json_loadb(text, size, JSON_REJECT_DUPLICATES, &why);
    free(text);
    if (json_is_object(*attestation)) return OK;
    json_decref(*attestation);
    *attestation = NULL;
    return err_set(err, ERR_FORMAT, "%s is no attestation: it is not a JSON object", path);
}
