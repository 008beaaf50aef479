/* hash.c - CRC32C by the SSE4.2 instruction where the processor has it, by a table otherwise; SHA-256 by libsodium. */
#include "data/hash.h"
#include "data/dataset.h"
#include <errno.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

uint32_t crc32c_portable(uint32_t crc, const void *data, size_t size) {
    const uint8_t *p = data;
    crc = ~crc;
    /* One table of 16 entries, two steps a byte: small enough to build on every call of a whole block. */
    uint32_t table[16];
    for (uint32_t i = 0; i < 16; i++) {
        uint32_t c = i;
        for (int bit = 0; bit < 4; bit++) c = c & 1 ? c >> 1 ^ 0x82F63B78u : c >> 1;
        table[i] = c;
    }
    for (size_t i = 0; i < size; i++) {
        crc ^= p[i];
        crc = crc >> 4 ^ table[crc & 15];
        crc = crc >> 4 ^ table[crc & 15];
    }
    return ~crc;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) static uint32_t crc32c_sse42(uint32_t crc, const uint8_t *p, size_t size) {
    uint64_t c = crc, word;
    for (; size >= 8; size -= 8, p += 8) {
        memcpy(&word, p, 8);
        c = __builtin_ia32_crc32di(c, word);
    }
    crc = (uint32_t)c;
    for (; size; size--) crc = __builtin_ia32_crc32qi(crc, *p++);
    return crc;
}
#endif

uint32_t crc32c(uint32_t crc, const void *data, size_t size) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("sse4.2")) return ~crc32c_sse42(~crc, data, size);
#endif
    return crc32c_portable(crc, data, size);
}

static void hex_of(const unsigned char digest[crypto_hash_sha256_BYTES], char hex[65]) {
    sodium_bin2hex(hex, 65, digest, crypto_hash_sha256_BYTES);
}

void bytes_sha256(const void *data, size_t size, char hex[65]) {
    unsigned char digest[crypto_hash_sha256_BYTES];
    crypto_hash_sha256(digest, data, size);
    hex_of(digest, hex);
}

Status file_sha256(const char *path, char hex[65], Err *err) {
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
