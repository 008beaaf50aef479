/* cmd_release.c - ehr-infer sign, verify, promote, revoke. */
#include "infer/commands.h"
#include "infer/release.h"
#include "infer/session.h"
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct {
    const char *key, *name, *role, *organisation, *expires;
    const char *to, *report, *gates, *reason, *stage, *trusted, *revoked;
} ReleaseFlags;

static void today_text(char out[16]) {
    const time_t now = time(NULL);
    struct tm utc;
    strftime(out, 16, "%Y-%m-%d", gmtime_r(&now, &utc));
}

/* Who signs: the flags that sign, promote and revoke share. */
enum { SIGNER_FLAGS = 5 };
static void signer_flags(Flag *to, ReleaseFlags *f) {
    const Flag flags[SIGNER_FLAGS] = {
        {"--signing-key", FLAG_STRING, &f->key, 0, 0, NULL, "secret key of the person who signs (ehr-data attest --new-key)", 0},
        {"--name", FLAG_STRING, &f->name, 0, 0, NULL, "of that person", 0},
        {"--role", FLAG_STRING, &f->role, 0, 0, NULL, "of that person, as model owner", 0},
        {"--organisation", FLAG_STRING, &f->organisation, 0, 0, NULL, "of that person", 0},
        {"--expires", FLAG_STRING, &f->expires, 0, 0, NULL, "day after which it no longer holds: 2027-06-30", 0},
    };
    memcpy(to, flags, sizeof flags);
}

static int is_date(const char *s) {
    int y, m, d, end = 0;
    return strlen(s) == 10 && sscanf(s, "%4d-%2d-%2d%n", &y, &m, &d, &end) == 3 && end == 10 && m >= 1 && m <= 12 && d >= 1 && d <= 31;
}

static Status signer(const ReleaseFlags *f, char today[16], Signer *who, Err *err) {
    if (!f->key || !f->name || !*f->name || !f->role)
        return err_set(err, ERR_USAGE, "needs --signing-key, --name and --role: somebody answers for it (--help)");
    if (*f->expires && !is_date(f->expires))
        return err_set(err, ERR_USAGE, "--expires takes a day like 2027-06-30, not '%s'", f->expires);
    today_text(today);
    *who = (Signer){f->key, f->name, f->role, f->organisation, today, f->expires};
    return OK;
}

/* Parses; *checkpoint NULL: help was printed. */
static Status parse(Flag *flags, int n, int argc, char **argv, const char *usage, const char *about, char **checkpoint, Err *err) {
    const char *pos[1];
    int n_pos, help;
    *checkpoint = NULL;
    Status s = flags_parse(flags, n, argc, argv, pos, 1, &n_pos, &help, err);
    if (s) return s;
    if (help) {
        flags_help(flags, n, usage, about, stdout);
        return OK;
    }
    return n_pos == 1 ? session_find(pos[0], checkpoint, err) : err_set(err, ERR_USAGE, "needs a CHECKPOINT (--help)");
}

static void print_state(const char *checkpoint, const Release *r) {
    printf("%s\nmodel    sha256 %.16s\n", checkpoint, r->model_sha256);
    if (r->revoked) printf("stage    none: REVOKED (%s)\n", r->reason);
    else printf("stage    %s, by %d record%s of %d key%s\n", stage_name(r->stage), r->records, r->records == 1 ? "" : "s", r->signers,
                r->signers == 1 ? "" : "s");
    if (!r->revoked && r->next[0]) printf("next     %s\n", r->next);
}

static Status show(const char *checkpoint, const char *today, Err *err) {
    Release r;
    Status s = release_verify(checkpoint, NULL, NULL, today, &r, err);
    if (!s) print_state(checkpoint, &r);
    return s;
}

Status cmd_sign(int argc, char **argv, Err *err) {
    ReleaseFlags f = {.organisation = "", .expires = ""};
    Flag flags[SIGNER_FLAGS];
    char today[16], *checkpoint;
    Signer who;
    signer_flags(flags, &f);
    Status s = parse(flags, SIGNER_FLAGS, argc, argv, "ehr-infer sign CHECKPOINT --signing-key FILE --name N --role R",
                     "Signs a manifest of every file of a checkpoint: stage research.", &checkpoint, err);
    if (s || !checkpoint) return s;
    s = signer(&f, today, &who, err);
    if (!s) s = release_sign(checkpoint, &who, err);
    if (!s) s = show(checkpoint, today, err);
    free(checkpoint);
    return s;
}

Status cmd_promote(int argc, char **argv, Err *err) {
    ReleaseFlags f = {.organisation = "", .expires = ""};
    Flag flags[SIGNER_FLAGS + 3] = {
        [SIGNER_FLAGS] = {"--to", FLAG_ENUM, &f.to, 0, 0, "internal|partner|general", "stage; the last two take two signers", 0},
        {"--report", FLAG_STRING, &f.report, 0, 0, NULL, "report.json of scripts/evaluate.sh on this very checkpoint", 0},
        {"--gates", FLAG_STRING, &f.gates, 0, 0, NULL, "gates.json: bounds that figures of the report must keep", 0},
    };
    char today[16], *checkpoint;
    Signer who;
    signer_flags(flags, &f);
    Status s = parse(flags, SIGNER_FLAGS + 3, argc, argv,
                     "ehr-infer promote CHECKPOINT --to STAGE --report report.json --gates gates.json --signing-key FILE --name N --role R",
                     "Signs that a checkpoint may go one stage further: research, internal, partner, general.", &checkpoint, err);
    if (s || !checkpoint) return s;
    if (!f.to || !f.report || !f.gates) s = err_set(err, ERR_USAGE, "needs --to, --report and --gates (--help)");
    if (!s) s = signer(&f, today, &who, err);
    if (!s) s = release_promote(checkpoint, (Stage)stage_find(f.to), f.report, f.gates, &who, stdout, err);
    if (!s) s = show(checkpoint, today, err);
    free(checkpoint);
    return s;
}

Status cmd_revoke(int argc, char **argv, Err *err) {
    ReleaseFlags f = {.organisation = "", .expires = ""};
    Flag flags[SIGNER_FLAGS + 1] = {[SIGNER_FLAGS] = {"--reason", FLAG_STRING, &f.reason, 0, 0, NULL, "why", 0}};
    char today[16], *checkpoint;
    Signer who;
    signer_flags(flags, &f);
    Status s = parse(flags, SIGNER_FLAGS + 1, argc, argv,
                     "ehr-infer revoke CHECKPOINT --reason TEXT --signing-key FILE --name N --role R",
                     "Takes a checkpoint back from every stage; keep its hash in the list given to verify --revoked as well.",
                     &checkpoint, err);
    if (s || !checkpoint) return s;
    if (!f.reason || !*f.reason) s = err_set(err, ERR_USAGE, "needs --reason (--help)");
    if (!s) s = signer(&f, today, &who, err);
    if (!s) s = release_revoke(checkpoint, f.reason, &who, err);
    if (!s) s = show(checkpoint, today, err);
    free(checkpoint);
    return s;
}

Status cmd_verify(int argc, char **argv, Err *err) {
    ReleaseFlags f = {.stage = "research"};
    Flag flags[] = {
        {"--trusted-keys", FLAG_STRING, &f.trusted, 0, 0, NULL, "file of public keys that count, one a line: HEX name", 0},
        {"--stage", FLAG_ENUM, &f.stage, 0, 0, "research|internal|partner|general", "stage that must be reached", 0},
        {"--revoked", FLAG_STRING, &f.revoked, 0, 0, NULL, "file of revoked model hashes, one a line", 0},
    };
    char today[16], *checkpoint;
    TrustedKeys keys;
    Release r;
    Status s = parse(flags, sizeof flags / sizeof *flags, argc, argv, "ehr-infer verify CHECKPOINT --trusted-keys FILE [--stage S]",
                     "Whether every file is as it was signed, by whom, and how far the checkpoint may go.", &checkpoint, err);
    if (s || !checkpoint) return s;
    today_text(today);
    if (f.trusted) s = trusted_keys_read(&keys, f.trusted, err);
    if (!s) s = release_verify(checkpoint, f.trusted ? &keys : NULL, f.revoked, today, &r, err);
    if (!s) print_state(checkpoint, &r);
    if (!s && !f.trusted) printf("note     any key counted; --trusted-keys FILE says whose signatures do\n");
    if (!s && (int)r.stage < stage_find(f.stage))
        s = err_set(err, ERR_FORMAT, "%s has not reached stage %s%s%s", checkpoint, f.stage, r.revoked ? ": it was revoked" : r.next[0] ? ": " : "",
                    r.revoked ? "" : r.next);
    free(checkpoint);
    return s;
}
