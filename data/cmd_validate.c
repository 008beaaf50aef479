/* cmd_validate.c - ehr-data validate: findings on stdout, exit 1 when the data must not be used. */
#include "data/commands.h"
#include "data/h5.h"
#include "data/validate.h"
#include "model/flags.h"
#include <stdlib.h>
#include <string.h>

static Status verdict(const ValidateReport *r, const char *path, int strict, Err *err) {
    int errors = report_count(r, SEVERITY_ERROR), warnings = report_count(r, SEVERITY_WARNING);
    if (!errors && !(strict && warnings)) return OK;
    return err_set(err, ERR_FORMAT, "%s is not valid: %d kind%s of error, %d of warning%s", path, errors,
                   errors == 1 ? "" : "s", warnings, !errors ? " (--strict)" : "");
}

Status cmd_validate(int argc, char **argv, Err *err) {
    const char *pos[1], *json = NULL;
    int n_pos = 0, help = 0, strict = 0;
    Flag flags[] = {
        {"--strict", FLAG_BOOL, &strict, 0, 0, NULL, "warnings fail too", 0},
        {"--json", FLAG_STRING, &json, 0, 0, NULL, "write the findings to this file as well", 0},
    };
    int n = sizeof flags / sizeof *flags;
    Status status = flags_parse(flags, n, argc, argv, pos, 1, &n_pos, &help, err);
    if (status) return status;
    if (help) {
        flags_help(
            flags, n, "ehr-data validate DATASET|EVENTS.h5 [flags]",
            "Checks a dataset or an events file: formats, hashes, order, patients in two splits, tokens after death, "
            "censoring.  Exit 1 when something is wrong.",
            stdout);
        return OK;
    }
    if (n_pos != 1)
        return err_set(err, ERR_USAGE, "one dataset folder or events file was expected: ehr-data validate PATH");
    ValidateReport r;
    status =
        h5_is_events(pos[0]) ? validate_events(&r, pos[0], stderr, err) : validate_dataset(&r, pos[0], stderr, err);
    if (!status) {
        report_print(&r, stdout);
        fflush(stdout);
        char *text = json ? report_json(&r, pos[0]) : NULL;
        if (text) status = file_write(json, text, strlen(text), err);
        free(text);
        if (!status) status = verdict(&r, pos[0], strict, err);
        report_free(&r);
    }
    return status;
}
