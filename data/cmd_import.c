/* cmd_import.c - ehr-data import: records in a source format -> events.h5. */
#include "data/commands.h"
#include "data/import.h"
#include "data/tokenizer_split.h"
#include "model/flags.h"
#include <stdlib.h>
#include <string.h>

/* The formats: one row each. */
static const struct {
    const char *name;
    Status (*import)(const ImportOptions *options, ImportReport *r, Err *err);
    const char *help;
} formats[] = {
    {"omop", import_omop,
     "a folder or a .zip of OMOP CDM 5.3/5.4 CSV files; any table may be missing.  Codes get their\n"
     "                 names and parents from CONCEPT and CONCEPT_ANCESTOR (or CONCEPT_RELATIONSHIP) when these are "
     "there"},
    {"mimic", import_mimic,
     "MIMIC-IV's hosp and icu tables, .csv or .csv.gz, in a folder (with hosp/ and icu/ or without) or a\n"
     "                 .zip; any table may be missing"},
    {"meds", import_meds,
     "a folder of MEDS tables as CSV, which scripts/meds_to_events.py makes of a MEDS folder and gives to\n"
     "                 this program; or any events.csv with subject_id, time, code, numeric_value"},
    {"synthea", import_synthea, "a folder or a .zip of Synthea's CSV files, of any release"},
    {"fhir", import_fhir,
     "a folder, a .zip or a file of FHIR R4 JSON: bulk exports (.ndjson), bundles and resources (.json), also .gz"},
};
enum { N_FORMATS = sizeof formats / sizeof *formats };

static char *about_text(void) {
    char *text = xstrdup("Reads records and writes an events file: every event with the time it happened and the time "
                         "it was known.\n");
    for (int k = 0; k < N_FORMATS; k++) {
        char *more = xasprintf("%s  %-8s PATH  %s\n", text, formats[k].name, formats[k].help);
        free(text);
        text = more;
    }
    char *all =
        xasprintf("%sThe data-quality report goes to stdout; every row is emitted, or dropped for a reason that "
                  "is counted there.",
                  text);
    free(text);
    return all;
}

static int format_find(const char *name) {
    for (int k = 0; k < N_FORMATS; k++)
        if (!strcmp(formats[k].name, name)) return k;
    return -1;
}

static Status format_usage(const char *given, Err *err) {
    char names[200] = "";
    for (int k = 0; k < N_FORMATS; k++)
        snprintf(names + strlen(names), sizeof names - strlen(names), "%s%s", k ? "|" : "", formats[k].name);
    if (given) return err_set(err, ERR_USAGE, "unknown format %s: expected ehr-data import %s PATH", given, names);
    return err_set(err, ERR_USAGE, "what to import is missing: expected ehr-data import %s PATH", names);
}

static Status report_write(const ImportReport *r, const char *path, Err *err) {
    char *json = import_report_json(r, 1);
    Status status = file_write(path, json, strlen(json), err);
    free(json);
    return status;
}

/* Flags that a format would pass over in silence. */
static Status flags_fit(const ImportOptions *o, const char *format, Err *err) {
    int shifted = !strcmp(format, "mimic"), is_meds = !strcmp(format, "meds");
    if (o->notes && is_meds)
        return err_set(err, ERR_USAGE, "--notes: MEDS's text_value is not read; import the notes from their source");
    if (o->maps.n && is_meds) return err_set(err, ERR_USAGE, "--map: codes of MEDS stay as they are");
    if (o->extract_date && (shifted || is_meds))
        return err_set(err, ERR_USAGE, "--extract-date: %s",
                       shifted
                           ? "MIMIC's dates are shifted by patient: no day is the day the data were pulled"
                           : "MEDS tables say themselves, by observation_end_us, until when a subject was observed");
    return OK;
}

Status cmd_import(int argc, char **argv, Err *err) {
    const char *pos[3], *report_path = NULL, *exclude_path = NULL;
    int64_t *excluded = NULL;
    int64_t lab_lag_min = 0;
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
        {.name = "--lab-lag",
         .type = FLAG_DURATION,
         .value = &lab_lag_min,
         .min = 0,
         .max = 60 * 24 * 365,
         .help = "time from a sample to its result, for laboratory results without a result time (6h)"},
        {.name = "--utc-offset",
         .type = FLAG_STRING,
         .value = &o.utc_offset,
         .help = "clock of dates without time where times are UTC, as -05:00; default: any, so that such a date is "
                 "over only when it is over everywhere"},
        {.name = "--map",
         .type = FLAG_LIST,
         .value = &o.maps,
         .help = "CSV that maps or names codes, may be repeated: icd_9,icd_10 | drug,atc_code | source,target; ICD-9 "
                 "becomes ICD-10, MIMIC's drug names ATC"},
        {.name = "--exclude",
         .type = FLAG_STRING,
         .value = &exclude_path,
         .help = "file of patients to leave out (consent withdrawn), one id a line as the source writes it"},
        {.name = "--notes",
         .type = FLAG_BOOL,
         .value = &o.notes,
         .help = "read free texts, too: OMOP's NOTE, MIMIC-IV-Note's tables (in note/), FHIR's plain-text documents and "
                 "conclusions; deidentify drops them unless a signed statement says that they were scrubbed"},
        {.name = "--report", .type = FLAG_STRING, .value = &report_path, .help = "also write the report as JSON"},
        {.name = "--overwrite", .type = FLAG_BOOL, .value = &overwrite, .help = "replace an events file that exists"},
        {.name = "--quiet", .type = FLAG_BOOL, .value = &quiet, .help = "no settings, no progress"},
    };
    const int n = sizeof flags / sizeof *flags;
    Status status = flags_parse(flags, n, argc, argv, pos, 3, &n_pos, &help, err);
    if (status) return status;
    if (help) {
        char *about = about_text();
        flags_help(flags, n, "ehr-data import FORMAT PATH [--out events.h5]", about, stdout);
        free(about);
        return OK;
    }
    int format = n_pos ? format_find(pos[0]) : -1;
    if (n_pos != 2 || format < 0) return format_usage(n_pos && format < 0 ? pos[0] : NULL, err);
    if ((status = flags_fit(&o, formats[format].name, err))) return status;
    o.lab_lag = lab_lag_min * US_PER_MINUTE;
    o.path = pos[1];
    if (path_exists(o.out) && (path_is_dir(o.out) || !overwrite))
        return err_set(err, ERR_USAGE, "--out %s exists%s", o.out,
                       path_is_dir(o.out) ? " and is a folder" : "; give another name or --overwrite");
    if (exclude_path && (status = excluded_read(exclude_path, &excluded, &o.n_excluded, err))) return status;
    o.excluded = excluded;
    if (quiet) o.progress = NULL;
    else flags_print(flags, n, stderr);
    if (o.max_line > o.memory / 4) o.max_line = o.memory / 4;

    ImportReport r;
    status = formats[format].import(&o, &r, err);
    if (r.n_tables) import_report_print(&r, stdout);
    Err report_err = {0};
    if (report_path && r.n_tables && report_write(&r, report_path, status ? &report_err : err) && !status)
        status = err->code;
    if (!status)
        printf("%s: %lld patients, %lld events; %lld exact duplicates left out\n", o.out, (long long)r.n_patients,
               (long long)r.n_events, (long long)r.n_duplicates);
    import_report_free(&r);
    free(excluded);
    return status;
}
