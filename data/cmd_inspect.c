/* cmd_inspect.c - ehr-data inspect: which file, which patient, on stdout. */
#include "data/commands.h"
#include "data/h5.h"
#include "data/inspect.h"
#include "model/flags.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { TOP_CODES = 20 };

typedef struct {
    const char *path, *patient, *split;
    int64_t limit;
    int tokens;
} InspectOptions;

static Status number_of(const char *text, uint64_t *out, Err *err) {
    char *end;
    errno = 0;
    *out = strtoull(text, &end, 0);
    if (end == text || *end || errno || strchr(text, '-'))
        return err_set(err, ERR_USAGE, "--patient takes a row or a key, not '%s'", text);
    return OK;
}

static Status inspect_events_file(const InspectOptions *o, Err *err) {
    EventFile f;
    uint64_t k = 0;
    if (o->tokens || o->split)
        return err_set(err, ERR_USAGE, "%s is an events file: --tokens and --split are for datasets", o->path);
    Status status = o->patient ? number_of(o->patient, &k, err) : OK;
    if (!status) status = event_file_open(&f, o->path, err);
    if (status) return status;
    if (!o->patient) {
        status = inspect_events(&f, o->limit ? (int)o->limit : TOP_CODES, stdout, err);
    } else if (k < (uint64_t)f.n_patients) {
        status = inspect_subject(&f, (int64_t)k, o->limit, stdout, err);
    } else {
        /* Not a row: a subject id. */
        EventPatient p;
        int64_t row = 0;
        for (; row < f.n_patients && !(status = event_file_patient(&f, row, &p, err)); row++)
            if (p.subject == (int64_t)k) break;
        if (!status && row == f.n_patients)
            status = err_set(err, ERR_USAGE, "--patient %s: %s has %lld patients and no subject of that id", o->patient,
                             o->path, (long long)f.n_patients);
        if (!status) status = inspect_subject(&f, row, o->limit, stdout, err);
    }
    event_file_close(&f);
    return status;
}

static Status inspect_dataset_folder(const InspectOptions *o, Err *err) {
    Dataset d;
    uint64_t k = 0;
    int split = o->split ? split_find(o->split) : -1;
    if (o->split && split < 0)
        return err_set(err, ERR_USAGE, "--split takes train, tuning or held_out, not '%s'", o->split);
    if (o->tokens && !o->patient) return err_set(err, ERR_USAGE, "--tokens goes with --patient");
    Status status = o->patient ? number_of(o->patient, &k, err) : OK;
    if (!status) status = dataset_open(&d, o->path, err);
    if (status) return status;
    if (!o->patient) {
        status = inspect_dataset(&d, split, o->limit ? (int)o->limit : TOP_CODES, stdout, err);
    } else {
        int64_t row = (int64_t)k;
        int in = split < 0 ? SPLIT_TRAIN : split;
        if (k >= (uint64_t)d.n_patients[in]) status = dataset_find(&d, k, &in, &row, err);
        if (status)
            err_context(err, "--patient %s is not a row of %s", o->patient,
                        split_name(split < 0 ? SPLIT_TRAIN : split));
        else status = inspect_patient(&d, in, row, o->limit, o->tokens, stdout, err);
    }
    dataset_close(&d);
    return status;
}

Status cmd_inspect(int argc, char **argv, Err *err) {
    InspectOptions o = {0};
    const char *pos[1];
    int n_pos = 0, help = 0;
    Flag flags[] = {
        {"--patient", FLAG_STRING, &o.patient, 0, 0, NULL,
         "one patient's timeline: row in the split (events file: in the file), or key (subject id)", 0},
        {"--split", FLAG_STRING, &o.split, 0, 0, NULL,
         "train, tuning or held_out (default: all for statistics, train for --patient)", 0},
        {"--limit", FLAG_INT, &o.limit, 0, 1e9, NULL, "codes or events listed at most (0: 20 codes, all events)", 0},
        {"--tokens", FLAG_BOOL, &o.tokens, 0, 0, NULL, "raw token ids, gaps and prefix included", 0},
    };
    int n = sizeof flags / sizeof *flags;
    Status status = flags_parse(flags, n, argc, argv, pos, 1, &n_pos, &help, err);
    if (status) return status;
    if (help) {
        flags_help(flags, n, "ehr-data inspect DATASET|EVENTS.h5 [flags]",
                   "Statistics of a dataset or an events file, or a readable timeline of one patient.", stdout);
        return OK;
    }
    if (n_pos != 1)
        return err_set(err, ERR_USAGE, "one dataset folder or events file was expected: ehr-data inspect PATH");
    o.path = pos[0];
    return h5_is_events(o.path) ? inspect_events_file(&o, err) : inspect_dataset_folder(&o, err);
}
