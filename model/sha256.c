/* sha256.c - see sha256.h. */
#include "model/sha256.h"
#include <errno.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static void hex_of(const unsigned char digest[crypto_hash_sha256_BYTES], char hex[65]) {
    sodium_bin2hex(hex, 65, digest, crypto_hash_sha256_BYTES);
}

void bytes_sha256(const void *data, size_t size, char hex[65]) {
    unsigned char digest[crypto_hash_sha256_BYTES];
    crypto_hash_sha256(digest, data, size);
    hex_of(digest, hex);
}

Status file_sha256(const char *path, char hex[65], Err *err) {
    struct stat st;
    if (!stat(path, &st) && S_ISFIFO(st.st_mode)) /* opening it would wait for a writer */
        return err_set(err, ERR_IO, "cannot read %s: it is a pipe", path);
    FILE *f = fopen(path, "rb");
    if (!f) return err_set(err, ERR_IO, "cannot read %s: %s", path, strerror(errno));
    enum { CHUNK = 1 << 20 };
    unsigned char *chunk = xmalloc(CHUNK), digest[crypto_hash_sha256_BYTES];
    crypto_hash_sha256_state state;
    crypto_hash_sha256_init(&state);
    size_t n;
    while ((n = fread(chunk, 1, CHUNK, f)) > 0) crypto_hash_sha256_update(&state, chunk, n);
    Status status = ferror(f) ? err_set(err, ERR_IO, "cannot read %s: %s", path, strerror(errno)) : OK;
    crypto_hash_sha256_final(&state, digest);
    hex_of(digest, hex);
    free(chunk);
    fclose(f);
    return status;
}
