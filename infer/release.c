/* release.c - see release.h. */
#include "infer/release.h"
#include "model/checkpoint.h"
#include "model/sha256.h"
#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const char DOMAIN[] = "ehr.c release", FILE_NAME[] = "release.json";
static const char *const STAGE_NAMES[STAGES] = {"none", "research", "internal", "partner", "general"};

const char *stage_name(Stage s) { return STAGE_NAMES[s]; }

int stage_find(const char *name) {
    for (int i = STAGE_RESEARCH; i < STAGES; i++)
        if (!strcmp(name, STAGE_NAMES[i])) return i;
    return -1;
}

static int signers_due(Stage s) { return s >= STAGE_PARTNER ? 2 : 1; }

/* ---- manifest ---------------------------------------------------------------------------------------------------- */

static Status hash_files(json_t *files, const char *dir, Err *err) {
    DIR *d = opendir(dir);
    Status s = d ? OK : err_set(err, ERR_IO, "cannot read %s: %s", dir, strerror(errno));
    for (struct dirent *e; d && !s && (e = readdir(d));) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..") || !strcmp(e->d_name, FILE_NAME)) continue;
        char *path = xasprintf("%s/%s", dir, e->d_name), hex[65];
        struct stat info;
        if (stat(path, &info) || !S_ISREG(info.st_mode))
            s = err_set(err, ERR_FORMAT, "%s is no plain file: a checkpoint holds nothing else", path);
        else if (!(s = file_sha256(path, hex, err)) && json_object_set_new(files, e->d_name, json_string(hex)))
            s = err_set(err, ERR_FORMAT, "%s has a name that is not UTF-8", path);
        free(path);
    }
    if (d) closedir(d);
    return s;
}

static Status manifest_make(json_t **out, const char *dir, Err *err) {
    char sha[65], *path = xasprintf("%s/trainer.json", dir);
    json_t *files = json_object(), *trainer = NULL, *provenance;
    *out = NULL;
    Status s = hash_files(files, dir, err);
    if (!s) s = checkpoint_model_sha256(dir, sha, err);
    if (!s) s = json_object_load(&trainer, path, "a training record", err);
    if (!s) {
        provenance = json_object_get(trainer, "provenance");
        *out = json_pack("{s:O, s:s, s:O?}", "files", files, "model_sha256", sha, "provenance", provenance);
    }
    json_decref(files);
    json_decref(trainer);
    free(path);
    return s;
}

/* Names the first file that differs. */
static Status manifest_compare(const json_t *then, const json_t *now, const char *dir, Err *err) {
    const char *name;
    json_t *sha, *a = json_object_get(then, "files"), *b = json_object_get(now, "files");
    json_object_foreach(a, name, sha) {
        if (!json_object_get(b, name)) return err_set(err, ERR_FORMAT, "%s/%s was signed and is missing", dir, name);
        if (!json_equal(sha, json_object_get(b, name)))
            return err_set(err, ERR_FORMAT, "%s/%s was changed after it was signed", dir, name);
    }
    json_object_foreach(b, name, sha) if (!json_object_get(a, name)) return err_set(
        err, ERR_FORMAT, "%s/%s is not in the signed manifest: it was added later", dir, name);
    return json_equal(then, now) ? OK : err_set(err, ERR_FORMAT, "%s/%s: the manifest was changed", dir, FILE_NAME);
}

/* ---- release.json ------------------------------------------------------------------------------------------------ */

static Status release_load(json_t **out, const char *dir, Err *err) {
    char *path = xasprintf("%s/%s", dir, FILE_NAME);
    Status s = path_exists(path) ? json_object_load(out, path, "a release", err)
                                 : err_set(err, ERR_IO, "%s is not signed (no %s): `ehr-infer sign` comes first", dir, FILE_NAME);
    if (!s && (strcmp(json_text(*out, "format"), DOMAIN) || !json_is_object(json_object_get(*out, "manifest")) ||
               !json_is_array(json_object_get(*out, "records")))) {
        s = err_set(err, ERR_FORMAT, "%s is no release.json with a manifest and records", path);
        json_decref(*out);
        *out = NULL;
    }
    free(path);
    return s;
}

static Status release_store(const json_t *release, const char *dir, Err *err) {
    char *path = xasprintf("%s/%s", dir, FILE_NAME), *text = json_dumps(release, JSON_INDENT(1) | JSON_PRESERVE_ORDER);
    Status s = file_write(path, text, strlen(text), err);
    free(text);
    free(path);
    return s;
}

static void previous_sha(const json_t *records, size_t i, char hex[65]) {
    hex[0] = 0;
    if (i) json_sha256(json_array_get(records, i - 1), hex);
}

/* Signs and appends; more: members of this kind of record, given up. */
static Status append(json_t *release, const char *dir, const char *kind, const char *stage, json_t *more, const Signer *who, Err *err) {
    json_t *records = json_object_get(release, "records");
    char manifest[65], previous[65];
    json_sha256(json_object_get(release, "manifest"), manifest);
    previous_sha(records, json_array_size(records), previous);
    json_t *o = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s}", "kind", kind, "manifest_sha256", manifest, "previous",
                          previous, "stage", stage, "name", who->name, "role", who->role, "organisation", who->organisation,
                          "signed_on", who->date, "expires_on", who->expires);
    Status s = o ? OK : err_set(err, ERR_USAGE, "the name, role or organisation is not UTF-8 text");
    if (!s) json_object_update(o, more);
    if (!s) s = json_sign(o, DOMAIN, who->key, err);
    if (!s) json_array_append(records, o);
    if (!s) s = release_store(release, dir, err);
    json_decref(o);
    json_decref(more);
    return s;
}

/* release.json of dir, whose files are still as its manifest says. */
static Status release_open(json_t **release, const char *dir, Err *err) {
    json_t *now = NULL;
    Status s = release_load(release, dir, err);
    if (!s) s = manifest_make(&now, dir, err);
    if (!s) s = manifest_compare(json_object_get(*release, "manifest"), now, dir, err);
    json_decref(now);
    if (s) {
        json_decref(*release);
        *release = NULL;
    }
    return s;
}

Status release_sign(const char *dir, const Signer *who, Err *err) {
    char *path = xasprintf("%s/%s", dir, FILE_NAME);
    const int there = path_exists(path);
    json_t *release = NULL, *manifest = NULL;
    Status s;
    free(path);
    if (there) {
        s = release_open(&release, dir, err);
    } else {
        s = manifest_make(&manifest, dir, err);
        if (!s)
            release = json_pack("{s:s, s:i, s:O, s:[]}", "format", DOMAIN, "format_version", 1, "manifest", manifest, "records");
    }
    if (!s) s = append(release, dir, "signature", STAGE_NAMES[STAGE_RESEARCH], json_object(), who, err);
    json_decref(manifest);
    json_decref(release);
    return s;
}

/* ---- gates ------------------------------------------------------------------------------------------------------- */

static const json_t *named(const json_t *list, const char *name) {
    for (size_t i = 0; i < json_array_size(list); i++)
        if (!strcmp(json_text(json_array_get(list, i), "name"), name)) return json_array_get(list, i);
    return NULL;
}

/* The figure that a gate speaks of; NULL: the report does not have it. */
static const json_t *gate_value(const json_t *report, const json_t *gate) {
    const char *outcome = json_text(gate, "outcome"), *subgroup = json_text(gate, "subgroup");
    if (*outcome) report = named(json_object_get(report, "outcomes"), outcome);
    if (*subgroup) report = named(json_object_get(report, "subgroups"), subgroup);
    const json_t *v = json_object_get(report, json_text(gate, "metric"));
    return json_is_number(v) && isfinite(json_number_value(v)) ? v : NULL;
}

/* A bound that is misspelt or no number would be one that nobody checks. */
static Status gate_check(json_t *gate, size_t number, const char *where, Err *err) {
    static const char *const known[] = {"outcome", "subgroup", "metric", "min", "max", "note"};
    const json_t *min = json_object_get(gate, "min"), *max = json_object_get(gate, "max"), *value;
    const char *key;
    json_object_foreach(gate, key, value) {
        size_t k = 0;
        while (k < sizeof known / sizeof *known && strcmp(known[k], key)) k++;
        if (k == sizeof known / sizeof *known)
            return err_set(err, ERR_FORMAT, "%s: gate %zu has \"%.40s\": expected outcome, subgroup, metric, min, max, note", where, number, key);
        if ((!strcmp(key, "min") || !strcmp(key, "max")) && !json_is_number(value))
            return err_set(err, ERR_FORMAT, "%s: gate %zu: \"%s\" is no number", where, number, key);
    }
    if (!*json_text(gate, "metric") || (!min && !max))
        return err_set(err, ERR_FORMAT, "%s: gate %zu has no \"metric\" with a \"min\" or a \"max\"", where, number);
    return OK;
}

/* Copies each gate with its value and verdict to results; ERR_FORMAT when one is not met. */
static Status gates_check(json_t *results, const json_t *report, const json_t *gates, const char *where, FILE *table, Err *err) {
    int missed = 0;
    const json_t *list = json_object_get(gates, "gates");
    if (!json_array_size(list)) return err_set(err, ERR_FORMAT, "%s has no array \"gates\"", where);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *gate = json_array_get(list, i), *min = json_object_get(gate, "min"), *max = json_object_get(gate, "max");
        if (gate_check((json_t *)(uintptr_t)gate, i + 1, where, err)) return err->code;
        const json_t *v = gate_value(report, gate);
        const double x = v ? json_number_value(v) : NAN;
        const int met = v && !(json_is_number(min) && x < json_number_value(min)) && !(json_is_number(max) && x > json_number_value(max));
        json_t *result = json_copy((json_t *)(uintptr_t)gate);
        json_object_set_new(result, "value", v ? json_real(x) : json_null());
        json_object_set_new(result, "met", json_boolean(met));
        json_array_append_new(results, result);
        missed += !met;
        if (!table) continue;
        fprintf(table, "  %-8s %s%s%s%s%s", met ? "met" : "MISSED", json_text(gate, "outcome"), *json_text(gate, "outcome") ? " " : "",
                json_text(gate, "subgroup"), *json_text(gate, "subgroup") ? " " : "", json_text(gate, "metric"));
        if (v) fprintf(table, " %.4g", x);
        else fprintf(table, ": not in the report");
        if (json_is_number(min)) fprintf(table, ", at least %.4g", json_number_value(min));
        if (json_is_number(max)) fprintf(table, ", at most %.4g", json_number_value(max));
        fprintf(table, "\n");
    }
    return missed ? err_set(err, ERR_FORMAT, "%d of %zu gates of %s are not met: no promotion", missed, json_array_size(list), where) : OK;
}

/* Gates speak of these weights only where the report does. */
static Status report_check(const json_t *report, const json_t *manifest, const char *path, const char *dir, Err *err) {
    const char *of = json_text(json_object_get(report, "provenance"), "model_sha256"), *mine = json_text(manifest, "model_sha256");
    if (!strcmp(of, mine)) return OK;
    if (!*of)
        return err_set(err, ERR_FORMAT, "%s does not say which model it is of: give the report.json of scripts/evaluate.sh %s DATASET", path, dir);
    return err_set(err, ERR_FORMAT, "%s is of another model (%.16s..., this is %.16s...): evaluate this one, scripts/evaluate.sh %s DATASET",
                   path, of, mine, dir);
}

/* What of the data, its own or that of a model it was begun from, forbids a stage beyond research; NULL: nothing. */
static const char *data_forbids(const json_t *manifest) {
    for (const json_t *p = json_object_get(manifest, "provenance"); p; p = json_object_get(p, "parent_provenance")) {
        const char *level = json_text(p, "deidentification");
        if (json_is_true(json_object_get(p, "canaries"))) return "it was trained on canaries";
        if (strcmp(level, "synthetic") && strcmp(level, "safe-harbor") && strcmp(level, "expert"))
            return "its data is neither synthetic nor attested as safe-harbor or expert";
        if (*json_text(p, "parent") && !json_object_get(p, "parent_provenance")) return "what its parent was trained on is not known";
    }
    return json_object_get(manifest, "provenance") ? NULL : "what it was trained on is not known";
}

Status release_promote(const char *dir, Stage to, const char *report_path, const char *gates_path, const Signer *who, FILE *table,
                       Err *err) {
    json_t *release = NULL, *report = NULL, *gates = NULL, *results = json_array();
    char report_sha[65], gates_sha[65];
    Release now;
    REQUIRE(to > STAGE_RESEARCH);
    Status s = release_verify(dir, NULL, NULL, who->date, &now, err);
    if (!s && now.revoked) s = err_set(err, ERR_FORMAT, "%s was revoked (%s): it cannot be promoted", dir, now.reason);
    if (!s && now.stage + 1 < to)
        s = err_set(err, ERR_USAGE, "%s is at stage %s: %s comes before %s%s%s", dir, STAGE_NAMES[now.stage], STAGE_NAMES[to - 1],
                    STAGE_NAMES[to], now.next[0] ? "; " : "", now.next);
    if (!s) s = release_open(&release, dir, err);
    const char *forbids = s ? NULL : data_forbids(json_object_get(release, "manifest"));
    if (forbids) s = err_set(err, ERR_FORMAT, "%s cannot go beyond research: %s", dir, forbids);
    if (!s) s = json_object_load(&report, report_path, "an evaluation report", err);
    if (!s) s = report_check(report, json_object_get(release, "manifest"), report_path, dir, err);
    if (!s) s = json_object_load(&gates, gates_path, "a list of gates", err);
    if (!s) s = file_sha256(report_path, report_sha, err);
    if (!s) s = file_sha256(gates_path, gates_sha, err);
    if (!s) s = gates_check(results, report, gates, gates_path, table, err);
    if (!s)
        s = append(release, dir, "promotion", STAGE_NAMES[to],
                   json_pack("{s:s, s:s, s:O}", "report_sha256", report_sha, "gates_sha256", gates_sha, "gates", results), who, err);
    json_decref(release);
    json_decref(report);
    json_decref(gates);
    json_decref(results);
    return s;
}

Status release_revoke(const char *dir, const char *reason, const Signer *who, Err *err) {
    json_t *release = NULL, *more = json_pack("{s:s}", "reason", reason);
    Status s = more ? release_load(&release, dir, err) : err_set(err, ERR_USAGE, "the reason is not UTF-8 text");
    if (!s) s = append(release, dir, "revocation", "none", more, who, err);
    else json_decref(more);
    json_decref(release);
    return s;
}

/* ---- checking ---------------------------------------------------------------------------------------------------- */

Status trusted_keys_read(TrustedKeys *keys, const char *path, Err *err) {
    char *text;
    *keys = (TrustedKeys){0};
    Status s = file_read(path, 1 << 20, &text, NULL, err);
    if (s) return s;
    int number = 0;
    for (char *line = text, *next; line && *line && !s; line = next) {
        char hex[80], name[64] = "";
        next = strchr(line, '\n');
        if (next) *next++ = 0;
        number++;
        line[strcspn(line, "#\r")] = 0;
        if (strspn(line, " \t") == strlen(line)) continue;
        if (sscanf(line, "%79s %63[^\n]", hex, name) < 1 || strlen(hex) != PUBLIC_KEY_HEX - 1 ||
            strspn(hex, "0123456789abcdef") != PUBLIC_KEY_HEX - 1)
            s = err_set(err, ERR_FORMAT, "%s: line %d is no public key of 64 hexadecimal digits", path, number);
        else if (keys->n == RELEASE_KEYS_MAX)
            s = err_set(err, ERR_FORMAT, "%s has more than %d keys", path, RELEASE_KEYS_MAX);
        else {
            memcpy(keys->hex[keys->n], hex, PUBLIC_KEY_HEX);
            memcpy(keys->name[keys->n++], name, sizeof name);
        }
    }
    if (!s && !keys->n) s = err_set(err, ERR_FORMAT, "%s has no key", path);
    free(text);
    return s;
}

static int trusts(const TrustedKeys *keys, const char *hex) {
    for (int i = 0; keys && i < keys->n; i++)
        if (!strcmp(keys->hex[i], hex)) return 1;
    return keys == NULL;
}

static int expired(const json_t *record, const char *today) {
    const char *until = json_text(record, "expires_on");
    return *until && strcmp(until, today) < 0;
}

/* Different keys whose records of a stage hold today and agree on report and gates: the most of any such group. */
static int signers_of(const json_t *records, Stage stage, const TrustedKeys *keys, const char *today) {
    int most = 0;
    const char *kind = stage == STAGE_RESEARCH ? "signature" : "promotion";
    for (size_t i = 0; i < json_array_size(records); i++) {
        const json_t *a = json_array_get(records, i);
        const char *seen[RELEASE_KEYS_MAX];
        int n = 0;
        for (size_t k = i; k < json_array_size(records) && n < RELEASE_KEYS_MAX; k++) {
            const json_t *b = json_array_get(records, k);
            const char *key = json_text(b, "public_key");
            if (strcmp(json_text(b, "kind"), kind) || strcmp(json_text(b, "stage"), STAGE_NAMES[stage]) || expired(b, today) ||
                !trusts(keys, key) || strcmp(json_text(a, "report_sha256"), json_text(b, "report_sha256")) ||
                strcmp(json_text(a, "gates_sha256"), json_text(b, "gates_sha256")))
                continue;
            int known = 0;
            for (int j = 0; j < n; j++) known |= !strcmp(seen[j], key);
            if (!known) seen[n++] = key;
        }
        if (n > most) most = n;
    }
    return most;
}

static Status records_check(const json_t *release, const char *dir, Err *err) {
    const json_t *records = json_object_get(release, "records");
    char manifest[65], previous[65], what[512];
    Status s = OK;
    json_sha256(json_object_get(release, "manifest"), manifest);
    for (size_t i = 0; i < json_array_size(records) && !s; i++) {
        const json_t *r = json_array_get(records, i);
        snprintf(what, sizeof what, "%s/%s, record %zu (%s)", dir, FILE_NAME, i + 1, json_text(r, "kind"));
        s = json_verify(r, DOMAIN, what, err);
        previous_sha(records, i, previous);
        if (!s && strcmp(json_text(r, "manifest_sha256"), manifest))
            s = err_set(err, ERR_FORMAT, "%s was signed for another manifest", what);
        if (!s && strcmp(json_text(r, "previous"), previous))
            s = err_set(err, ERR_FORMAT, "%s does not follow the record before it: one was taken out or put in", what);
    }
    return s;
}

static Status revoked_list(const char *path, Release *r, Err *err) {
    char *text;
    Status s = file_read(path, 64 << 20, &text, NULL, err);
    if (s) return s;
    if (strstr(text, r->model_sha256)) {
        r->revoked = 1;
        snprintf(r->reason, sizeof r->reason, "listed in %.100s", path);
    }
    free(text);
    return OK;
}

static void find_stage(const json_t *release, const TrustedKeys *keys, const char *today, Release *r) {
    const json_t *records = json_object_get(release, "records");
    r->records = (int)json_array_size(records);
    for (size_t i = 0; i < json_array_size(records); i++) {
        const json_t *record = json_array_get(records, i);
        int new = 1;
        for (size_t k = 0; k < i; k++) new &= !!strcmp(json_text(json_array_get(records, k), "public_key"), json_text(record, "public_key"));
        r->signers += new;
        /* Without a list of keys, whoever signed before may take it back. */
        if (strcmp(json_text(record, "kind"), "revocation") || (keys ? !trusts(keys, json_text(record, "public_key")) : new)) continue;
        r->revoked = 1;
        snprintf(r->reason, sizeof r->reason, "%s", json_text(record, "reason"));
    }
    const char *forbids = data_forbids(json_object_get(release, "manifest"));
    for (Stage s = STAGE_RESEARCH; s < STAGES; s++) {
        const int have = signers_of(records, s, keys, today), due = signers_due(s);
        if (s > STAGE_RESEARCH && forbids) snprintf(r->next, sizeof r->next, "%s is closed to it: %s", STAGE_NAMES[s], forbids);
        else if (have < due)
            snprintf(r->next, sizeof r->next, "%s needs %d valid signature%s%s, it has %d", STAGE_NAMES[s], due, due > 1 ? "s by different keys" : "",
                     keys ? " by trusted keys" : "", have);
        else {
            r->stage = s;
            continue;
        }
        break;
    }
    if (r->revoked) r->stage = STAGE_NONE;
}

Status release_verify(const char *dir, const TrustedKeys *keys, const char *revoked, const char *today, Release *r, Err *err) {
    json_t *release = NULL;
    *r = (Release){0};
    Status s = release_open(&release, dir, err);
    if (!s) s = records_check(release, dir, err);
    if (!s) {
        snprintf(r->model_sha256, sizeof r->model_sha256, "%s", json_text(json_object_get(release, "manifest"), "model_sha256"));
        find_stage(release, keys, today, r);
        if (revoked) s = revoked_list(revoked, r, err);
        if (r->revoked) r->stage = STAGE_NONE;
    }
    json_decref(release);
    return s;
}
