/* cmd_label.c - `ehr-data label`: index times and outcomes of a task -> DATASET/labels/NAME.h5. */
#include <stdlib.h>
#include <string.h>

#include "data/commands.h"
#include "data/label_build.h"
#include "data/oracle_file.h"
#include "model/flags.h"

typedef struct {
    const char *data, *task, *outcome, *index, *linkage, *meds, *release_linkage, *out, *split, *censored;
    int64_t horizon;
    int one_per_patient, first, is_shorthand;
} LabelFlags;

static Status task_from_flags(LabelTask *t, const LabelFlags *f, int first_given, const char *events, Err *err) {
    char *json = NULL;
    size_t size = 0;
    Status s;
    if (f->is_shorthand) {
        s = label_task_shorthand(t, f->outcome, f->horizon, err);
    } else {
        s = file_read(f->task, 1 << 20, &json, &size, err);
        if (!s) s = label_task_parse(t, json, size, f->task, err);
        free(json);
    }
    if (s) return s;
    if (first_given) t->first = f->first;
    if (f->censored[0]) s = label_censored_parse(t, f->censored, "--censored", err);
    int discharge = !f->is_shorthand && t->index == INDEX_DISCHARGE;
    /* An oracle cohort has one index a patient where the true risks are known; tasks about stays keep their own. */
    int about_stays = !f->is_shorthand && (t->index == INDEX_ADMISSION || t->index == INDEX_BEFORE_RESULT || discharge);
    const char *index = f->index ? f->index : oracle_file_present(events) && !about_stays ? "oracle" : NULL;
    if (f->meds) index = "file";
    if (s) index = NULL;
    if (index) s = label_index_parse(t, index, "--index", err);
    else if (!s && f->is_shorthand) s = label_index_parse(t, "last-year", "--index", err);
    const char *where = f->meds ? "--meds" : f->index ? "--index" : f->is_shorthand ? "--outcome" : f->task;
    if (!s) s = label_index_check(t, where, err);
    if (s && (f->meds || f->index)) s = err->code = ERR_USAGE;
    t->at_discharge = discharge && t->index == INDEX_ORACLE;
    if (s) label_task_free(t);
    return s;
}

static void counts_print(const LabelTask *t, const LabelCounts *c, FILE *out) {
    char *task = label_task_format(t);
    fprintf(out, "%s\n", task);
    fprintf(out, "  %-28s %10lld\n", "patients", (long long)c->patients);
    fprintf(out, "  %-28s %10lld\n", "rows", (long long)c->eligible);
    fprintf(out, "  %-28s %10lld  %.2f %% of the decided\n", "  positive", (long long)c->positive,
            c->positive + c->negative ? 100.0 * (double)c->positive / (double)(c->positive + c->negative) : 0.0);
    fprintf(out, "  %-28s %10lld\n", "  negative", (long long)c->negative);
    fprintf(out, "  %-28s %10lld\n", "  censored before the horizon", (long long)c->censored);
    for (int i = 0; i < EXCLUSIONS; i++)
        if (c->excluded[i]) fprintf(out, "  left out: %-18s %10lld\n", EXCLUSION_NAME[i], (long long)c->excluded[i]);
    if (c->labels)
        fprintf(
            out,
            "  %-28s %10lld  rows; %lld of nobody in this dataset; %lld outcomes given, %lld judged otherwise here\n",
            "label file", (long long)c->labels, (long long)c->unplaced, (long long)c->given, (long long)c->differ);
    if (c->positive)
        fprintf(out, "  %-28s %9.1f %%  of the positives' events have a token that says so\n", "expressible",
                100.0 * (double)c->expressible / (double)c->positive);
    free(task);
}

static Status label_run(const LabelFlags *f, int first_given, const char *events, Err *err) {
    LabelTask t;
    Table table;
    LabelCounts counts;
    LabelOptions o = {.events = events,
                      .dataset = f->data,
                      .linkage = f->linkage,
                      .meds = f->meds,
                      .release_linkage = f->release_linkage,
                      .split = -1,
                      .one_per_patient = f->one_per_patient,
                      .progress = stderr};
    if (strcmp(f->split, "all")) o.split = split_find(f->split);
    Status s = task_from_flags(&t, f, first_given, events, err);
    if (s) return s;
    s = label_build(&table, &t, &o, &counts, err);
    if (s) {
        label_task_free(&t);
        return s;
    }
    counts_print(&t, &counts, stderr);
    if (counts.unmet[0])
        fprintf(stderr, "warning: no event and no token is %s: look at the spelling, unless another site calls it so\n", counts.unmet);
    if (!counts.eligible)
        fprintf(stderr, "warning: no patient has a row; another --index or --horizon may suit these records\n");
    char *dir = xasprintf("%s/labels", f->data), *path = f->out ? xstrdup(f->out) : xasprintf("%s/%s.h5", dir, t.name);
    if (!f->out) s = dir_make(dir, err);
    if (!s) s = table_write_h5(&table, path, err);
    if (!s) printf("%s\n", path);
    free(path);
    free(dir);
    table_free(&table);
    label_task_free(&t);
    return s;
}

Status cmd_label(int argc, char **argv, Err *err) {
    LabelFlags f = {.horizon = 365 * 1440, .split = "all", .censored = ""};
    const char *pos[1];
    int n_pos = 0, help = 0;
    enum { TASK = 1, OUTCOME, HORIZON, FIRST };
    Flag flags[] = {
        {"--data", FLAG_STRING, &f.data, 0, 0, NULL, "dataset made of these events", 0},
        [TASK] = {"--task", FLAG_STRING, &f.task, 0, 0, NULL, "task.json, such as scripts/tasks/readmission_30d.json",
                  0},
        [OUTCOME] = {"--outcome", FLAG_STRING, &f.outcome, 0, 0, NULL,
                     "or NAME=PATTERN[,PATTERN...]: an event within --horizon", 0},
        [HORIZON] = {"--horizon", FLAG_DURATION, &f.horizon, 1, 2e9, NULL, "of --outcome, after the index: 30d, 1y", 0},
        [FIRST] = {"--first", FLAG_BOOL, &f.first, 0, 0, NULL,
                   "leave out who had it before [when the outcome is a diagnosis]", 0},
        {"--index", FLAG_STRING, &f.index, 0, 0, NULL,
         "admission+24h, discharge, visit-end, age:65, last-year or oracle [the task's; oracle in an oracle cohort]",
         0},
        {"--linkage", FLAG_STRING, &f.linkage, 0, 0, NULL, "which patient is which [beside the events file]", 0},
        {"--meds", FLAG_STRING, &f.meds, 0, 0, NULL,
         "label file that gives the index times, and outcomes if it has any: CSV of scripts/meds_labels.py", 0},
        {"--release-linkage", FLAG_STRING, &f.release_linkage, 0, 0, NULL,
         "--meds names subjects of the source of this release: the linkage that deidentify wrote", 0},
        {"--censored", FLAG_ENUM, &f.censored, 0, 0, "excluded|negative",
         "who is lost before the horizon: left out, or without the outcome as EHRSHOT has it [the task's]", 0},
        {"--split", FLAG_ENUM, &f.split, 0, 0, "train|tuning|val|held_out|test|all", "patients to label", 0},
        {"--one-per-patient", FLAG_BOOL, &f.one_per_patient, 0, 0, NULL, "one index a patient, chosen at random", 0},
        {"--out", FLAG_STRING, &f.out, 0, 0, NULL, "label file [DATASET/labels/NAME.h5]", 0},
    };
    const int n = sizeof flags / sizeof *flags;
    Status s = flags_parse(flags, n, argc, argv, pos, 1, &n_pos, &help, err);
    if (s) return s;
    if (help) {
        flags_help(flags, n,
                   "ehr-data label EVENTS --data DATASET --task FILE.json | --outcome NAME=PATTERN --horizon 365d",
                   "Index times and outcomes of a task, judged on raw codes and event times.", stdout);
        return OK;
    }
    if (n_pos != 1 || !f.data) return err_set(err, ERR_USAGE, "give an events file and --data DATASET (see --help)");
    if (!f.task == !f.outcome) return err_set(err, ERR_USAGE, "give either --task FILE.json or --outcome NAME=PATTERN");
    if (f.task && flags[HORIZON].seen)
        return err_set(err, ERR_USAGE, "--horizon goes with --outcome; a task has its own");
    if (f.meds && f.index) return err_set(err, ERR_USAGE, "--meds gives the index times: leave out --index");
    if (f.release_linkage && !f.meds) return err_set(err, ERR_USAGE, "--release-linkage goes with --meds");
    f.is_shorthand = f.outcome != NULL;
    return label_run(&f, flags[FIRST].seen, pos[0], err);
}
