/* cmd_import.c - ehr-data import: records in a source format -> events.h5. */
#include "data/commands.h"
#include "data/import.h"
#include "model/flags.h"
#include <stdlib.h>
#include <string.h>

static const char about[] =
    "Reads records and writes an events file: every event with the time it happened and the time it was known.\n"
    "  omop PATH   a folder or a .zip of OMOP CDM 5.3/5.4 CSV files; any table may be missing.  Codes get their names "
    "and\n"
    "              parents from CONCEPT and CONCEPT_ANCESTOR (or CONCEPT_RELATIONSHIP) when these are there.\n"
    "The data-quality report goes to stdout; every row is emitted, or dropped for a reason that is counted there.";

static Status report_write(const ImportReport *r, const char *path, Err *err) {
    char *json = import_report_json(r, 1);
    Status status = file_write(path, json, strlen(json), err);
    free(json);
    return status;
}

Status cmd_import(int argc, char **argv, Err *err) {
    const char *pos[3], *report_path = NULL;
    int n_pos, help, overwrite = 0, quiet = 0;
    ImportOptions o = {
        .out = "events.h5", .memory = 512 << 20, .max_line = 16 << 20, .max_errors = -1, .progress = stderr};
    Flag flags[] = {
        {.name = "--out", .type = FLAG_STRING, .value = &o.out, .help = "events file to write"},
        {.name = "--memory",
         .type = FLAG_SIZE,
         .value = &o.memory,
         .min = 4 << 20,
         .max = 1e15,
         .help = "memory for sorting and codes, whatever the size of the input"},
        {.name = "--max-errors",
         .type = FLAG_INT,
         .value = &o.max_errors,
         .min = -1,
         .max = 9e15,
         .help = "unreadable rows to put up with; -1 = 1% of the rows, at least 100"},
        {.name = "--max-line",
         .type = FLAG_SIZE,
         .value = &o.max_line,
         .min = 1 << 16,
         .max = 1 << 30,
         .help = "longest record, bytes; longer ones are dropped and counted"},
        {.name = "--extract-date",
         .type = FLAG_STRING,
         .value = &o.extract_date,
         .help = "day the data were pulled, YYYY-MM-DD; default: as the source says, or its last date"},
        {.name = "--report", .type = FLAG_STRING, .value = &report_path, .help = "also write the report as JSON"},
        {.name = "--overwrite", .type = FLAG_BOOL, .value = &overwrite, .help = "replace an events file that exists"},
        {.name = "--quiet", .type = FLAG_BOOL, .value = &quiet, .help = "no settings, no progress"},
    };
    const int n = sizeof flags / sizeof *flags;
    Status status = flags_parse(flags, n, argc, argv, pos, 3, &n_pos, &help, err);
    if (status) return status;
    if (help) {
        flags_help(flags, n, "ehr-data import omop PATH [--out events.h5]", about, stdout);
        return OK;
    }
    if (n_pos != 2 || strcmp(pos[0], "omop"))
        return err_set(err, ERR_USAGE,
                       n_pos && strcmp(pos[0], "omop") ? "unknown format %s: expected omop PATH"
                                                       : "%s: expected ehr-data import omop PATH",
                       n_pos ? pos[0] : "what to import is missing");
    o.path = pos[1];
    if (path_exists(o.out) && (path_is_dir(o.out) || !overwrite))
        return err_set(err, ERR_USAGE, "--out %s exists%s", o.out,
                       path_is_dir(o.out) ? " and is a folder" : "; give another name or --overwrite");
    if (quiet) o.progress = NULL;
    else flags_print(flags, n, stderr);
    if (o.max_line > o.memory / 4) o.max_line = o.memory / 4;

    ImportReport r;
    status = import_omop(&o, &r, err);
    if (r.n_tables) import_report_print(&r, stdout);
    Err report_err = {0};
    if (report_path && r.n_tables && report_write(&r, report_path, status ? &report_err : err) && !status)
        status = err->code;
    if (!status)
        printf("%s: %lld patients, %lld events; %lld exact duplicates left out\n", o.out, (long long)r.n_patients,
               (long long)r.n_events, (long long)r.n_duplicates);
    import_report_free(&r);
    return status;
}
