/* cmd_whereis.c - ehr-data whereis: where a patient is, for a withdrawal of consent. */
#include "data/commands.h"
#include "data/tokenizer_split.h"
#include "data/whereis.h"
#include "model/flags.h"

Status cmd_whereis(int argc, char **argv, Err *err) {
    const char *pos[64];
    const char *subject = NULL;
    WhereisOptions o = {.path = pos};
    int help = 0;
    Flag flags[] = {
        {"--linkage", FLAG_STRING, &o.linkage, 0, 0, NULL, "who is who, as deidentify or tokenize wrote it", 0},
        {"--subject", FLAG_STRING, &subject, 0, 0, NULL, "id of the patient, as the source writes it", 0},
    };
    int n = sizeof flags / sizeof *flags;
    Status status = flags_parse(flags, n, argc, argv, pos, 64, &o.n_paths, &help, err);
    if (status) return status;
    if (help) {
        flags_help(flags, n, "ehr-data whereis --linkage FILE.h5 --subject ID PATH...",
                   "Lists the events files, datasets and checkpoints below the paths that contain a patient.  To make "
                   "new ones\n"
                   "without the patient: --exclude at import, deidentify and tokenize, then train again.",
                   stdout);
        return OK;
    }
    if (!o.linkage || !subject || !o.n_paths)
        return err_set(err, ERR_USAGE, "give --linkage FILE, --subject ID and the folders to search (see --help)");
    o.subject = subject_id_of(subject);
    WhereisReport r;
    status = whereis(&o, &r, stdout, err);
    if (!status)
        printf("%d of %d events files, datasets and checkpoints are listed%s\n", r.found,
               r.events + r.datasets + r.checkpoints, r.unreadable ? "; some could not be read" : "");
    if (!status && r.unreadable) status = err_set(err, ERR_FORMAT, "%d could not be read: see above", r.unreadable);
    return status;
}
