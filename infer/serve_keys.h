/* serve_keys.h - who may ask what of a server: keys of 256 random bits, of which a file keeps hashes.
 *
 * A line: NAME HASH SCOPES PER_MINUTE; # begins a comment.  HASH: BLAKE2b-256 of the key's text; SCOPES: names of
 * endpoints joined by commas (completions, risk, score, embeddings, metrics), or all; PER_MINUTE: requests (a batch is as many
 * as it has records), 0 = any number. */
#ifndef EHR_INFER_SERVE_KEYS_H
#define EHR_INFER_SERVE_KEYS_H
#include "model/base.h"

enum { KEYS_MAX = 256, KEY_NAME_MAX = 48, KEY_TEXT = 49 };
typedef struct {
    char name[KEY_NAME_MAX];
    unsigned char hash[32];
    uint32_t scopes;                  /* bit s: scope s of the caller's list */
    double per_minute, tokens, since; /* a bucket that fills with time */
} ServeKey;
typedef struct {
    int n;
    ServeKey key[KEYS_MAX];
} ServeKeys;

/* scope: the caller's names, NULL-ended. */
Status serve_keys_read(ServeKeys *k, const char *path, const char *const *scope, Err *err);
/* The key of "Bearer TEXT"; NULL: nobody's.  Takes as long for every text. */
ServeKey *serve_keys_find(ServeKeys *k, const char *authorization);
/* 1: n more requests are within the key's quota, and are spent; else *wait_s until they are. */
int serve_key_spend(ServeKey *k, int n, double now, int *wait_s);
/* Adds a new key to the file (made when missing, readable by its owner alone) and returns its text, which is kept
 * nowhere. */
Status serve_keys_add(const char *path, const char *name, const char *scopes, int64_t per_minute,
                      const char *const *scope, char text[KEY_TEXT], Err *err);

#endif
