/* signed_json.c - see signed_json.h. */
#include "model/signed_json.h"
#include "model/sha256.h"
#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FILE_MAX = 1 << 20 };

const char *json_text(const json_t *o, const char *key) {
    const char *text = json_string_value(json_object_get(o, key));
    return text ? text : "";
}

/* ---- keys -------------------------------------------------------------------------------------------------------- */

/* A new file of one line, never over another. */
static Status line_write(const char *path, const char *text, mode_t mode, Err *err) {
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
    size_t n = strlen(text);
    int bad = fd < 0 || write(fd, text, n) != (ssize_t)n || write(fd, "\n", 1) != 1 || fsync(fd) || dir_sync_parent(path);
    int why = errno;
    if (fd >= 0) close(fd);
    return bad ? err_set(err, ERR_IO, "cannot write the key %s: %s", path, strerror(why)) : OK;
}

Status signing_key_make(const char *path, Err *err) {
    unsigned char pk[crypto_sign_PUBLICKEYBYTES], sk[crypto_sign_SECRETKEYBYTES];
    char pk_hex[PUBLIC_KEY_HEX], sk_hex[2 * crypto_sign_SECRETKEYBYTES + 1], *public_path = xasprintf("%s.pub", path);
    Status status = sodium_init() < 0 ? err_set(err, ERR_IO, "no source of randomness for keys on this machine") : OK;
    if (!status && (path_exists(path) || path_exists(public_path)))
        status = err_set(err, ERR_USAGE, "%s or %s exists: give another name; keys are never overwritten", path, public_path);
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

static Status key_read(unsigned char *out, size_t n, const char *path, const char *what, Err *err) {
    char *text = NULL;
    size_t size, got = 0;
    Status status = file_read(path, 4096, &text, &size, err);
    if (!status && (sodium_hex2bin(out, n, text, strcspn(text, "\r\n"), NULL, &got, NULL) || got != n))
        status = err_set(err, ERR_FORMAT, "%s is no %s: %zu hexadecimal digits were expected (ehr-data attest --new-key)", path,
                         what, 2 * n);
    if (text) sodium_memzero(text, size);
    free(text);
    return status;
}

Status public_key_read(char hex[PUBLIC_KEY_HEX], const char *path, Err *err) {
    unsigned char pk[crypto_sign_PUBLICKEYBYTES];
    Status status = key_read(pk, sizeof pk, path, "public key", err);
    if (!status) sodium_bin2hex(hex, PUBLIC_KEY_HEX, pk, sizeof pk);
    return status;
}

/* ---- statements -------------------------------------------------------------------------------------------------- */

/* What is signed; free() it.  NULL: some text in it is not UTF-8. */
static char *signed_bytes(const json_t *o, const char *domain) {
    json_t *copy = json_copy((json_t *)(uintptr_t)o);
    json_object_del(copy, "signature");
    char *text = json_dumps(copy, JSON_COMPACT | JSON_SORT_KEYS), *all = text ? xasprintf("%s\n%s", domain, text) : NULL;
    json_decref(copy);
    free(text);
    return all;
}

Status json_sign(json_t *o, const char *domain, const char *key_path, Err *err) {
    unsigned char sk[crypto_sign_SECRETKEYBYTES], signature[crypto_sign_BYTES];
    char pk_hex[PUBLIC_KEY_HEX], signature_hex[2 * crypto_sign_BYTES + 1];
    if (sodium_init() < 0) return err_set(err, ERR_IO, "libsodium does not start on this machine");
    Status status = key_read(sk, sizeof sk, key_path, "signing key", err);
    if (status) return status;
    sodium_bin2hex(pk_hex, sizeof pk_hex, sk + 32, 32); /* a secret key ends with its public one */
    json_object_set_new(o, "public_key", json_string(pk_hex));
    char *text = signed_bytes(o, domain);
    REQUIRE(text != NULL);
    crypto_sign_detached(signature, NULL, (const unsigned char *)text, strlen(text), sk);
    sodium_bin2hex(signature_hex, sizeof signature_hex, signature, sizeof signature);
    json_object_set_new(o, "signature", json_string(signature_hex));
    sodium_memzero(sk, sizeof sk);
    free(text);
    return OK;
}

Status json_verify(const json_t *o, const char *domain, const char *what, Err *err) {
    unsigned char pk[crypto_sign_PUBLICKEYBYTES], signature[crypto_sign_BYTES];
    const char *pk_hex = json_text(o, "public_key"), *signature_hex = json_text(o, "signature");
    size_t n = 0, m = 0;
    if (sodium_init() < 0 || sodium_hex2bin(pk, sizeof pk, pk_hex, strlen(pk_hex), NULL, &n, NULL) || n != sizeof pk ||
        sodium_hex2bin(signature, sizeof signature, signature_hex, strlen(signature_hex), NULL, &m, NULL) || m != sizeof signature)
        return err_set(err, ERR_FORMAT, "%s: its key or signature is missing or damaged", what);
    char *text = signed_bytes(o, domain);
    const int bad = !text || crypto_sign_verify_detached(signature, (const unsigned char *)text, strlen(text), pk);
    free(text);
    return bad ? err_set(err, ERR_FORMAT, "%s: the signature does not match what is said: it was changed after signing", what) : OK;
}

void json_sha256(const json_t *o, char hex[65]) {
    char *text = json_dumps(o, JSON_COMPACT | JSON_SORT_KEYS);
    REQUIRE(text != NULL);
    bytes_sha256(text, strlen(text), hex);
    free(text);
}

Status json_object_load(json_t **o, const char *path, const char *kind, Err *err) {
    char *text;
    size_t size;
    *o = NULL;
    Status status = file_read(path, FILE_MAX, &text, &size, err);
    if (status) return status;
    *o = json_loadb(text, size, JSON_REJECT_DUPLICATES, NULL);
    free(text);
    if (json_is_object(*o)) return OK;
    json_decref(*o);
    *o = NULL;
    return err_set(err, ERR_FORMAT, "%s is not %s: it is not a JSON object", path, kind);
}
