/* cmd_deidentify.c - ehr-data deidentify: flags, the run, the report. */
#include "data/commands.h"
#include "data/deidentify.h"
#include "model/flags.h"
#include <string.h>

static const char about[] = "Makes the events file that may leave the steward: random patient keys, times relative to "
                            "the first event, ages that\n"
                            "end at 90, no places, no identifiers, no rare codes, no free text.  What ran and what "
                            "risk remains is written into it\n"
                            "(and from there into datasets and checkpoints) and printed as a page that a privacy board "
                            "can sign.  The linkage file\n"
                            "says who is who and stays with the steward.  --dry-run prints the page alone.";

static Status paths_check(const DeidentifyOptions *o, int dry_run, Err *err) {
    if (dry_run && (o->out || o->linkage))
        return err_set(err, ERR_USAGE, "--dry-run writes nothing: leave out --out and --linkage");
    if (dry_run) return OK;
    if (!o->out) return err_set(err, ERR_USAGE, "--out is missing: the events file to write");
    if (!o->linkage)
        return err_set(err, ERR_USAGE, "--linkage is missing: the file that says who is who, which stays with you");
    if (!strcmp(o->out, o->linkage) || !strcmp(o->out, o->events) || !strcmp(o->linkage, o->events))
        return err_set(err, ERR_USAGE, "events, --out and --linkage must be three different files");
    const char *const written[2] = {o->out, o->linkage}, *const flag[2] = {"--out", "--linkage"};
    for (int i = 0; i < 2; i++)
        if (path_exists(written[i]) && (path_is_dir(written[i]) || !o->overwrite))
            return err_set(err, ERR_USAGE, "%s %s exists%s", flag[i], written[i],
                           path_is_dir(written[i]) ? " and is a folder"
                           : i ? ": it belongs to an earlier release; give another name, or --overwrite to lose it"
                               : "; give another name or --overwrite");
    return OK;
}

Status cmd_deidentify(int argc, char **argv, Err *err) {
    DeidentifyOptions o = {
        .min_patients = 11, .blur_end_minutes = 365 * 1440, .memory = 512 << 20, .seed = -1, .progress = stderr};
    const char *events[1], *geography = "drop";
    int n_pos = 0, help = 0, dry_run = 0;
    Flag flags[] = {
        {"--out", FLAG_STRING, &o.out, 0, 0, NULL, "events file to write", 0},
        {"--linkage", FLAG_STRING, &o.linkage, 0, 0, NULL, "file to write that says who is who; stays with the steward",
         0},
        {"--dry-run", FLAG_BOOL, &dry_run, 0, 0, NULL, "print the report, write nothing", 0},
        {"--min-patients", FLAG_INT, &o.min_patients, 1, 1e6, NULL,
         "k: codes of fewer patients of the whole release roll up", 0},
        {"--blur-end", FLAG_DURATION, &o.blur_end_minutes, 0, 5e6, NULL,
         "records end up to this long before the data pull, each at random (0d: the pull's day can be inferred)", 0},
        {"--split", FLAG_STRING, &o.split, 0, 0, NULL,
         "patient, given, time:DATE or site:COLUMN, as for tokenize (default: given when the source has splits)", 0},
        {"--key", FLAG_STRING, &o.key_file, 0, 0, NULL, "file with the split key (default: a fixed public key)", 0},
        {"--exclude", FLAG_STRING, &o.exclude_file, 0, 0, NULL, "file of subject ids to leave out, one a line", 0},
        {"--geography", FLAG_ENUM, &geography, 0, 0, "drop|state", "drop all places, or all below a state", 0},
        {"--keep-static", FLAG_STRING, &o.statics, 0, 0, NULL,
         "static columns to keep besides sex, race, ethnicity and marital status, as LANGUAGE,INSURANCE", 0},
        {"--text-attestation", FLAG_STRING, &o.text_attestation, 0, 0, NULL,
         "keep free text: a signed statement that it was scrubbed (ehr-data attest)", 0},
        {"--mask-names", FLAG_STRING, &o.names, 0, 0, NULL,
         "with --text-attestation: mask in texts the names of this source's people (a folder or file, as phi-scan --names)",
         0},
        {"--memory", FLAG_SIZE, &o.memory, 4 << 20, 1e15, NULL, "memory for sorting, whatever the size of the input",
         0},
        {"--seed", FLAG_INT, &o.seed, 0, 9e15, NULL, "for tests: keys from this number, which are then no secret", 0},
        {"--overwrite", FLAG_BOOL, &o.overwrite, 0, 0, NULL, "replace an events file and linkage that exist", 0},
    };
    int n = sizeof flags / sizeof *flags;
    Status status = flags_parse(flags, n, argc, argv, events, 1, &n_pos, &help, err);
    if (status) return status;
    if (help) {
        flags_help(flags, n, "ehr-data deidentify EVENTS.h5 --out RELEASE.h5 --linkage FILE.h5 [flags]", about, stdout);
        return OK;
    }
    if (n_pos != 1)
        return err_set(
            err, ERR_USAGE,
            "one events file was expected: ehr-data deidentify EVENTS.h5 --out RELEASE.h5 --linkage FILE.h5");
    o.events = events[0];
    o.keep_state = geography[0] == 's';
    if ((status = paths_check(&o, dry_run, err))) return status;
    flags_print(flags, n, stderr);
    DeidentifyReport r;
    if ((status = deidentify_events(&o, &r, err))) return status;
    deidentify_report_print(&r, &o, stdout);
    if (o.out)
        printf("\nwritten: %s; linkage %s (stays with the steward)\nnext: ehr-data tokenize %s --out DATASET\n", o.out,
               o.linkage, o.out);
    deidentify_report_free(&r);
    return OK;
}
