/* serve_keys.c - see serve_keys.h. */
#include "infer/serve_keys.h"
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void key_hash(const char *text, unsigned char out[32]) {
    crypto_generichash(out, 32, (const unsigned char *)text, strlen(text), (const unsigned char *)"ehr.c serve key",
                       16);
}

static Status scopes_read(const char *text, const char *const *scope, uint32_t *out, const char *where, Err *err) {
    char *copy = xstrdup(text), *part[32];
    const int n = split_list(copy, part, 32);
    Status s = OK;
    *out = 0;
    for (int i = 0; i < n && !s; i++) {
        int found = -1;
        for (int k = 0; scope[k]; k++)
            if (!strcmp(scope[k], part[i])) found = k;
        if (!strcmp(part[i], "all")) *out = ~0u;
        else if (found >= 0) *out |= 1u << found;
        else
            s = err_set(err, ERR_USAGE,
                        "%s: '%.40s' is no scope; there are all, completions, risk, score, embeddings, metrics", where,
                        part[i]);
    }
    free(copy);
    return s;
}

/* Names go into the audit log, which is JSON. */
static int is_text(const char *name) {
    json_t *text = json_string(name);
    json_decref(text);
    return text != NULL;
}

static Status line_read(ServeKeys *k, char *line, const char *path, int number, const char *const *scope, Err *err) {
    char name[KEY_NAME_MAX], hex[80], scopes[200], where[300];
    long long per_minute;
    size_t got = 0;
    ServeKey *key = &k->key[k->n];
    snprintf(where, sizeof where, "%.250s: line %d", path, number);
    if (sscanf(line, "%47s %79s %199s %lld", name, hex, scopes, &per_minute) != 4 || per_minute < 0)
        return err_set(err, ERR_FORMAT, "%s is not NAME HASH SCOPES PER_MINUTE (`ehr-infer key` writes such lines)",
                       where);
    if (k->n == KEYS_MAX) return err_set(err, ERR_FORMAT, "%s has more than %d keys", path, KEYS_MAX);
    if (!is_text(name)) return err_set(err, ERR_FORMAT, "%s: the name is no UTF-8 text, and could not be told in the audit log", where);
    *key = (ServeKey){.per_minute = (double)per_minute, .tokens = (double)per_minute};
    memcpy(key->name, name, sizeof name);
    if (sodium_hex2bin(key->hash, sizeof key->hash, hex, strlen(hex), NULL, &got, NULL) || got != sizeof key->hash)
        return err_set(err, ERR_FORMAT, "%s holds no hash of 64 hexadecimal digits", where);
    Status s = scopes_read(scopes, scope, &key->scopes, where, err);
    k->n += !s;
    return s;
}

Status serve_keys_read(ServeKeys *k, const char *path, const char *const *scope, Err *err) {
    char *text;
    k->n = 0;
    if (sodium_init() < 0) return err_set(err, ERR_IO, "libsodium does not start on this machine");
    Status s = file_read(path, 1 << 20, &text, NULL, err);
    if (s) return s;
    int number = 0;
    for (char *line = text, *next; line && *line && !s; line = next) {
        next = strchr(line, '\n');
        if (next) *next++ = 0;
        number++;
        line[strcspn(line, "#\r")] = 0;
        if (strspn(line, " \t") != strlen(line)) s = line_read(k, line, path, number, scope, err);
    }
    if (!s && !k->n)
        s = err_set(err, ERR_FORMAT, "%s has no key: make one with `ehr-infer key --keys %s --name NAME --scopes risk`",
                    path, path);
    free(text);
    return s;
}

ServeKey *serve_keys_find(ServeKeys *k, const char *authorization) {
    unsigned char hash[32];
    ServeKey *found = NULL;
    if (!authorization || strncasecmp(authorization, "Bearer ", 7) || strlen(authorization) > 256) return NULL;
    key_hash(authorization + 7, hash);
    for (int i = 0; i < k->n; i++)
        if (!sodium_memcmp(hash, k->key[i].hash, sizeof hash)) found = &k->key[i];
    return found;
}

int serve_key_spend(ServeKey *k, int n, double now, int *wait_s) {
    *wait_s = 0;
    if (k->per_minute <= 0) return 1;
    const double filled = k->since > 0 ? k->tokens + (now - k->since) * k->per_minute / 60 : k->per_minute;
    k->tokens = fmin(filled, k->per_minute);
    k->since = now;
    if (k->tokens >= n) {
        k->tokens -= n;
        return 1;
    }
    *wait_s = (int)ceil((n - k->tokens) * 60 / k->per_minute);
    return 0;
}

Status serve_keys_add(const char *path, const char *name, const char *scopes, int64_t per_minute,
                      const char *const *scope, char text[KEY_TEXT], Err *err) {
    unsigned char key[32], hash[32];
    char hex[65];
    uint32_t bits;
    ServeKeys *there = xcalloc(1, sizeof *there);
    Status s = sodium_init() < 0 ? err_set(err, ERR_IO, "libsodium does not start on this machine") : OK;
    if (!s && (!*name || strlen(name) >= KEY_NAME_MAX || strpbrk(name, " \t\n\r#")))
        s = err_set(err, ERR_USAGE, "--name takes up to %d characters without spaces and #", KEY_NAME_MAX - 1);
    if (!s && !is_text(name)) s = err_set(err, ERR_USAGE, "--name is no UTF-8 text");
    if (!s) s = scopes_read(scopes, scope, &bits, "--scopes", err);
    if (!s && path_exists(path)) s = serve_keys_read(there, path, scope, err);
    for (int i = 0; i < there->n && !s; i++)
        if (!strcmp(there->key[i].name, name))
            s = err_set(err, ERR_USAGE, "%s has a key of %s already: take its line out first", path, name);
    free(there);
    if (s) return s;
    randombytes_buf(key, sizeof key);
    snprintf(text, KEY_TEXT, "ehr_");
    sodium_bin2base64(text + 4, KEY_TEXT - 4, key, sizeof key, sodium_base64_VARIANT_URLSAFE_NO_PADDING);
    key_hash(text, hash);
    sodium_bin2hex(hex, sizeof hex, hash, sizeof hash);
    char *line = xasprintf("%s %s %s %lld\n", name, hex, scopes, (long long)per_minute);
    const int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd < 0 || write(fd, line, strlen(line)) != (ssize_t)strlen(line) || fsync(fd) || dir_sync_parent(path))
        s = err_set(err, ERR_IO, "cannot write %s: %s", path, strerror(errno));
    if (fd >= 0) close(fd);
    sodium_memzero(key, sizeof key);
    free(line);
    return s;
}
