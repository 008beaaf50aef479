/* serve_once.c - see serve_once.h. */
#include "infer/serve_once.h"
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

/* With a key that nobody knows, so that nobody can choose names that meet. */
static uint64_t hash_of(const Once *o, const char *who, const char *name) {
    char *text = xasprintf("%s\n%s", who, name);
    uint64_t hash;
    _Static_assert(crypto_shorthash_BYTES == sizeof hash && crypto_shorthash_KEYBYTES == sizeof o->key, "SipHash-2-4");
    crypto_shorthash((unsigned char *)&hash, (const unsigned char *)text, strlen(text), o->key);
    free(text);
    return hash ? hash : 1;
}

int serve_once_take(Once *o, const char *who, const char *name) {
    if (!o->seen) {
        o->seen = xcalloc(ONCE_MAX, sizeof *o->seen);
        randombytes_buf(o->key, sizeof o->key);
    }
    const uint64_t hash = hash_of(o, who, name);
    for (int i = 0; i < ONCE_MAX; i++)
        if (o->seen[i] == hash) return 0;
    o->seen[o->at] = hash;
    o->at = (o->at + 1) % ONCE_MAX;
    return 1;
}

void serve_once_close(Once *o) {
    free(o->seen);
    *o = (Once){0};
}
