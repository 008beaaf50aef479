/* cmd_attest.c - ehr-data attest: a person's signed statement about a release, its keys, and whether one stands. */
#include "data/attest.h"
#include "data/commands.h"
#include "data/dataset.h"
#include "data/deidentify_record.h"
#include "model/flags.h"
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const char about[] =
    "Signs what a named person says of a release: that it is de-identified by Safe Harbor or by expert determination "
    "(45\n"
    "CFR 164.514(b)), or that a scrubber went over the texts of a source.  tokenize --attestation and deidentify\n"
    "--text-attestation take the file.  The tool asserts none of this itself.\n"
    "  attest --new-key FILE                          makes a signing key FILE and FILE.pub\n"
    "  attest EVENTS.h5 --level L --name N --role R --signing-key FILE --out ATTESTATION.json\n"
    "  attest --verify ATTESTATION.json|DATASET [--trusted-key FILE.pub]";

typedef struct {
    const char *level, *name, *role, *organisation, *statement, *key, *out, *new_key, *verify, *trusted;
} AttestFlags;

static const char *statement_of(const char *level) {
    if (!strcmp(level, "safe-harbor"))
        return "I have examined this release and its de-identification record.  The identifiers listed in 45 CFR "
               "164.514(b)(2)(i) have been removed, and I have no actual knowledge that the information could be used "
               "alone or in combination with other information to identify an individual.";
    if (!strcmp(level, "expert"))
        return "Applying generally accepted statistical and scientific principles and methods, I determine that the "
               "risk is very small that the information could be used, alone or in combination with other reasonably "
               "available information, by an anticipated recipient to identify an individual (45 CFR 164.514(b)(1)).";
    return "Identifiers were removed from the free texts of this source by a scrubber whose output was checked.";
}

static Status sign(const AttestFlags *a, const char *events, Err *err) {
    if (!a->level || !a->name || !a->role || !a->key || !a->out)
        return err_set(err, ERR_USAGE, "signing needs --level, --name, --role, --signing-key and --out (see --help)");
    if (!strlen(a->name) || path_exists(a->out))
        return err_set(err, ERR_USAGE, strlen(a->name) ? "--out %s exists: give another name" : "--name is empty%.0s",
                       a->out);
    EventFile f;
    Status status = event_file_open(&f, events, err);
    if (status) return status;
    int text = !strcmp(a->level, "text-scrubbed");
    json_t *record = deidentify_record_of(&f);
    char record_sha[65] = "", date[16], *json = NULL;
    time_t now = time(NULL);
    strftime(date, sizeof date, "%Y-%m-%d", gmtime(&now));
    if (!text && !record)
        status = err_set(err, ERR_USAGE,
                         "%s has no de-identification record: --level %s is said of what `ehr-data deidentify` wrote",
                         events, a->level);
    if (record && !text) deidentify_record_sha256(record, record_sha);
    Attestation what = {a->level,        a->name,   a->role,
                        a->organisation, date,      a->statement ? a->statement : statement_of(a->level),
                        f.sha256,        record_sha};
    if (!status) status = attest_sign(&json, &what, a->key, err);
    if (!status) status = file_write(a->out, json, strlen(json), err);
    if (!status) printf("%s\n%s: signed as %s, %s\n", what.statement, a->out, a->name, a->role);
    json_decref(record);
    free(json);
    event_file_close(&f);
    return status;
}

static Status verify(const AttestFlags *a, Err *err) {
    json_t *attestation = NULL, *dataset = NULL;
    char trusted[PUBLIC_KEY_HEX];
    Status status = a->trusted ? public_key_read(trusted, a->trusted, err) : OK;
    if (!status && path_is_dir(a->verify)) {
        Dataset d;
        if ((status = dataset_open(&d, a->verify, err))) return status; /* which checks that it fits the dataset */
        dataset = json_loads(d.json, 0, NULL);
        attestation = json_incref(json_object_get(json_object_get(dataset, "deidentification"), "attestation"));
        if (!attestation)
            status =
                err_set(err, ERR_FORMAT, "%s is %s: nobody attested anything of it", a->verify, d.deidentification);
        dataset_close(&d);
    } else if (!status) {
        status = attest_load(&attestation, a->verify, err);
    }
    if (!status) status = attest_verify(attestation, a->trusted ? trusted : NULL, a->verify, err);
    if (!status)
        printf("%s: %s, by %s, %s%s%s, on %s; key %s%s\n", a->verify, json_text(attestation, "level"),
               json_text(attestation, "name"), json_text(attestation, "role"),
               *json_text(attestation, "organisation") ? ", " : "", json_text(attestation, "organisation"),
               json_text(attestation, "signed_on"), json_text(attestation, "public_key"),
               a->trusted ? " (trusted)" : "; give --trusted-key to check whose key that is");
    json_decref(attestation);
    json_decref(dataset);
    return status;
}

Status cmd_attest(int argc, char **argv, Err *err) {
    AttestFlags a = {.organisation = ""};
    const char *pos[1];
    int n_pos = 0, help = 0;
    Flag flags[] = {
        {"--level", FLAG_ENUM, &a.level, 0, 0, "safe-harbor|expert|text-scrubbed", "what is said", 0},
        {"--name", FLAG_STRING, &a.name, 0, 0, NULL, "of the person who says it", 0},
        {"--role", FLAG_STRING, &a.role, 0, 0, NULL, "of that person, as privacy officer", 0},
        {"--organisation", FLAG_STRING, &a.organisation, 0, 0, NULL, "of that person", 0},
        {"--statement", FLAG_STRING, &a.statement, 0, 0, NULL, "in the person's own words [the rule's]", 0},
        {"--signing-key", FLAG_STRING, &a.key, 0, 0, NULL, "the person's secret key", 0},
        {"--out", FLAG_STRING, &a.out, 0, 0, NULL, "attestation to write", 0},
        {"--new-key", FLAG_STRING, &a.new_key, 0, 0, NULL, "make a key", 0},
        {"--verify", FLAG_STRING, &a.verify, 0, 0, NULL, "an attestation, or a dataset that carries one", 0},
        {"--trusted-key", FLAG_STRING, &a.trusted, 0, 0, NULL, "the public key it must be signed with", 0},
    };
    int n = sizeof flags / sizeof *flags;
    Status status = flags_parse(flags, n, argc, argv, pos, 1, &n_pos, &help, err);
    if (status) return status;
    if (help) {
        flags_help(flags, n, "ehr-data attest EVENTS.h5 --level L --name N --role R --signing-key FILE --out FILE",
                   about, stdout);
        return OK;
    }
    if ((n_pos != 0) + (a.new_key != NULL) + (a.verify != NULL) != 1)
        return err_set(err, ERR_USAGE, "give either an events file to sign for, --new-key or --verify (see --help)");
    if (a.new_key) {
        status = signing_key_make(a.new_key, err);
        if (!status) printf("%s: secret, keep it; %s.pub: for those who verify\n", a.new_key, a.new_key);
        return status;
    }
    return a.verify ? verify(&a, err) : sign(&a, pos[0], err);
}
