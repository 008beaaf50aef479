/* release.h - whose model it is and how far it may go: a manifest of every file of a checkpoint with its provenance, and
 * signed records over it.
 *
 * release.json in the checkpoint folder: {"format": "ehr.c release", "format_version": 1,
 *   "manifest": {"files": {name: sha256, ...}, "model_sha256", "provenance": {...}},
 *   "records": [{"kind": "signature" | "promotion" | "revocation", "manifest_sha256", "previous" (sha256 of the record
 *     before, "" for the first), "stage", "name", "role", "organisation", "signed_on", "expires_on" ("" = never),
 *     "report_sha256", "gates_sha256", "gates": [{...gate, "value", "met"}], "reason", "public_key", "signature"}, ...]}
 * The stages are research, internal, partner, general.  A signature of the manifest makes research; a promotion by one
 * signer internal, by two different keys over the same report and gates partner and general; each needs the stage before.
 * Beyond research the data must be synthetic, or attested safe-harbor or expert, and free of canaries.  A revocation by
 * any key that is trusted (or, without a list, that signed before) ends all stages. */
#ifndef EHR_INFER_RELEASE_H
#define EHR_INFER_RELEASE_H
#include "model/signed_json.h"

typedef enum { STAGE_NONE, STAGE_RESEARCH, STAGE_INTERNAL, STAGE_PARTNER, STAGE_GENERAL, STAGES } Stage;
enum { RELEASE_KEYS_MAX = 64 };
const char *stage_name(Stage s); /* "research" */
int stage_find(const char *name); /* -1: none */

/* Keys whose signatures count: lines "HEX name of the holder"; # begins a comment. */
typedef struct {
    int n;
    char hex[RELEASE_KEYS_MAX][PUBLIC_KEY_HEX];
    char name[RELEASE_KEYS_MAX][64];
} TrustedKeys;
Status trusted_keys_read(TrustedKeys *keys, const char *path, Err *err);

/* Who says something, when, until when. */
typedef struct {
    const char *key, *name, *role, *organisation; /* key: path of the secret key */
    const char *date, *expires;                   /* "2026-11-29"; expires "": never */
} Signer;

/* Begins release.json, or adds a signature to it when the files are still those of its manifest. */
Status release_sign(const char *checkpoint, const Signer *who, Err *err);
/* report: report.json of an evaluation; gates: {"gates": [{"metric", "outcome"?, "subgroup"?, "min"?, "max"?}, ...]}.
 * Every gate must be met.  table (NULL: silent) gets a line a gate. */
Status release_promote(const char *checkpoint, Stage to, const char *report, const char *gates, const Signer *who, FILE *table,
                       Err *err);
Status release_revoke(const char *checkpoint, const char *reason, const Signer *who, Err *err);

typedef struct {
    Stage stage; /* reached, of records that hold today */
    int records, signers, revoked;
    char model_sha256[65], reason[128]; /* of the revocation */
    char next[256];                     /* what the next stage lacks */
} Release;
/* Compares every file with the manifest and checks every record.  keys NULL: any key counts.  revoked (NULL: none): file
 * of revoked model hashes, one a line.  today: "2026-11-29".  ERR_FORMAT names what was changed. */
Status release_verify(const char *checkpoint, const TrustedKeys *keys, const char *revoked, const char *today, Release *r, Err *err);

#endif
