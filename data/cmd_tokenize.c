/* cmd_tokenize.c - ehr-data tokenize: flags, the run, and what to know about it. */
#include "data/commands.h"
#include "data/tokenizer.h"
#include "model/flags.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { VALUES, MIN_PATIENTS, AGE_BIN, STATIC, EDGES, NOTE_MERGES, NOTE_TOKENS, VOCABULARY_FLAGS };

/* The thresholds that come with the program: beside its build folder, where it is installed, or in the present folder.
 * free() it; NULL: none found. */
static char *find_edges(void) {
    static const char *const place[] = {"../scripts/tasks/value_edges.json", "../share/ehr.c/tasks/value_edges.json"};
    char program[4096];
    /* A bundle's script says where the program is; the process may be the C library's loader. */
    const char *script = getenv("EHR_PROGRAM");
    ssize_t n = script ? snprintf(program, sizeof program, "%s", script) : readlink("/proc/self/exe", program, sizeof program - 1);
    char *slash = n > 0 && n < (ssize_t)sizeof program ? (program[n] = 0, strrchr(program, '/')) : NULL;
    for (int i = 0; slash && i < 2; i++) {
        char *path = xasprintf("%.*s/%s", (int)(slash - program), program, place[i]);
        char *found = realpath(path, NULL);
        free(path);
        if (found) return found;
    }
    return path_exists("scripts/tasks/value_edges.json") ? xstrdup("scripts/tasks/value_edges.json") : NULL;
}

static void print_splits(const TokenizeReport *r, const char *out) {
    printf("%s  from %s, split by %s\n", out, r->source, r->split_method);
    printf("  %-10s %12s %14s %14s\n", "split", "patients", "events", "tokens");
    for (int s = 0; s < SPLIT_COUNT; s++)
        printf("  %-10s %12lld %14lld %14lld\n", split_name(s), (long long)r->n_patients[s], (long long)r->n_events[s],
               (long long)r->n_tokens[s]);
    if (r->counts.notes)
        printf("  notes: %lld in %lld tokens, %lld of them cut (--notes-max)\n", (long long)r->counts.notes,
               (long long)r->counts.note_tokens, (long long)r->counts.notes_cut);
    printf("  vocabulary %d tokens, %s values: %d event, %d static, %d age, %d gap, %d unknown", r->n_vocabulary,
           r->separate_values ? "separate" : "fused", r->tokens_by_kind[TOKEN_EVENT], r->tokens_by_kind[TOKEN_STATIC],
           r->tokens_by_kind[TOKEN_AGE], r->tokens_by_kind[TOKEN_GAP], r->tokens_by_kind[TOKEN_UNKNOWN]);
    if (r->tokens_by_kind[TOKEN_TEXT]) printf(", %d text", r->tokens_by_kind[TOKEN_TEXT]);
    if (r->n_appended) printf("; %d of them appended", r->n_appended);
    if (r->min_patients) printf("; at least %lld train patients behind each", (long long)r->min_patients);
    printf("\n");
}

static void print_kinds(const TokenizeCounts *c) {
    printf("  %-12s %14s %10s %10s\n", "kind", "events", "rolled up", "unknown");
    for (int k = 0; k < KIND_COUNT; k++) {
        if (!c->events[k]) continue;
        double n = (double)c->events[k];
        printf("  %-12s %14lld %9.2f%% %9.2f%%\n", event_kind_name(k), (long long)c->events[k],
               100 * (double)c->mapped[k][MAPPED_ROLLED_UP] / n, 100 * (double)c->mapped[k][MAPPED_UNKNOWN] / n);
    }
    if (c->values)
        printf("  values: %lld, %.2f%% told by their level\n", (long long)c->values,
               100 * (double)c->leveled / (double)c->values);
}

static void print_counts(const TokenizeReport *r) {
    const TokenizeCounts *c = &r->counts;
    struct {
        int64_t n;
        const char *what;
    } const line[] = {{c->after_death, "events after death dropped"},
                      {c->undated, "events without a time dropped"},
                      {c->static_unused, "static events not in the prefix (--static)"},
                      {c->static_unknown, "static values missing or too rare: UNKNOWN"},
                      {c->static_repeated, "static values beyond the first of a patient not used"},
                      {c->age_unknown, "patients without a date of birth: AGE//UNKNOWN"},
                      {c->age_negative, "patients with events before birth: age 0"},
                      {c->age_shifted, "patients past 89: age axis shifted to end at 90"},
                      {r->n_untimed, "patients without a timed event left out"},
                      {r->n_no_site, "patients of no site, or of several, left out (--split site)"},
                      {r->n_excluded, "patients excluded (--exclude)"}};
    for (size_t i = 0; i < sizeof line / sizeof *line; i++)
        if (line[i].n) printf("  %lld %s\n", (long long)line[i].n, line[i].what);
    if (r->oracle)
        printf("  oracle cohort: loss floor %s%s\n", r->floor_valid ? "valid" : "NOT valid: ", r->floor_reason);
    printf("  de-identification: %s\n", r->level);
    printf("  linkage (stays with the steward): %s\n", r->linkage);
}

static void print_warnings(const TokenizeReport *r, int frozen) {
    for (int s = 0; s < SPLIT_COUNT; s++)
        if (!r->n_patients[s])
            fprintf(stderr, "warning: the %s split is empty (split by %s)\n", split_name(s), r->split_method);
    for (int k = 0; k < KIND_COUNT; k++) {
        double share = tokenize_unknown_share(&r->counts, k);
        if (share <= 0.2) continue;
        if (frozen)
            fprintf(stderr,
                    "warning: %.0f%% of %s events are UNKNOWN to this vocabulary: map their codes to the vocabularies "
                    "it was fitted on, or fit one of your own (no --vocabulary)\n",
                    100 * share, event_kind_name(k));
        else
            fprintf(stderr,
                    "warning: %.0f%% of %s events became UNKNOWN: their codes have fewer than %lld train patients and "
                    "no hierarchy to roll up; import with the vocabulary tables (CONCEPT_ANCESTOR), map local codes to "
                    "standard ones, or lower --min-patients\n",
                    100 * share, event_kind_name(k), (long long)r->min_patients);
    }
    if (r->n_exclude_unknown)
        fprintf(stderr, "warning: %lld ids of --exclude are nobody's here%s\n", (long long)r->n_exclude_unknown,
                r->released ? "; ids of the source need the --linkage that deidentify wrote" : "");
    if (r->notes_unattested)
        fprintf(stderr, "warning: nobody attested that the free texts were scrubbed: this dataset, its vocabulary and a model "
                        "trained on it may hold what patients told; they must not leave the steward (ehr-data attest "
                        "--level text-scrubbed, deidentify --text-attestation)\n");
    int shifted = 0, worst = -1;
    for (int i = 0; i < r->n_drift; i++) {
        shifted += r->drift[i].psi > 0.25;
        if (worst < 0 || r->drift[i].psi > r->drift[worst].psi) worst = i;
    }
    if (r->n_drift)
        printf("  drift of values: %d of %d codes with %d values or more have a stability index above 0.25; worst %s "
               "%s: %.3f\n",
               shifted, r->n_drift, DRIFT_MIN_VALUES, r->drift[worst].code, r->drift[worst].unit, r->drift[worst].psi);
}

static Status conflicts(const Flag *flags, int append_codes, Err *err) {
    for (int i = 0; i < VOCABULARY_FLAGS; i++)
        if (flags[i].seen && !(append_codes && (!strcmp(flags[i].name, "--min-patients") || !strcmp(flags[i].name, "--edges"))))
            return err_set(err, ERR_USAGE, "%s has no effect with --vocabulary, which fixes it: leave one of them out",
                           flags[i].name);
    return OK;
}

Status cmd_tokenize(int argc, char **argv, Err *err) {
    TokenizeOptions o = {.split = NULL, .progress = stderr};
    const char *values = "fused", *age_bin = "1", *events[1];
    int help = 0, n_pos = 0;
    int64_t threads = 0;
    o.shard_size = 256 << 20;
    o.canary_copies = 1;
    o.note_merges = 4096;
    o.note_tokens = 512;
    Flag flags[] = {
        {"--values", FLAG_ENUM, &values, 0, 0, "fused|separate",
         "value levels as CODE=Q7, or as shared tokens after the code", 0},
        {"--min-patients", FLAG_INT, &o.min_patients, 0, 1e9, NULL,
         "distinct train patients behind each event token (0: min(11, max(1, 1% of them)))", 0},
        {"--age-bin", FLAG_ENUM, &age_bin, 0, 0, "1|5", "years of an age token", 0},
        {"--static", FLAG_STRING, &o.statics, 0, 0, NULL,
         "prefix columns, as SEX,RACE (default: SEX, and RACE if there)", 0},
        {"--edges", FLAG_STRING, &o.edges, 0, 0, NULL,
         "decision thresholds kept as value edges (default: scripts/tasks/value_edges.json; none: deciles only)", 0},
        {"--notes-tokens", FLAG_INT, &o.note_merges, 0, BPE_MERGES_MAX, NULL,
         "tokens for pieces of words beyond the 256 bytes, at most: the most frequent of the train split", 0},
        {"--notes-max", FLAG_INT, &o.note_tokens, 1, TEXT_MAX_TOKENS, NULL, "tokens told of a note at most", 0},
        {"--out", FLAG_STRING, &o.out, 0, 0, NULL, "dataset folder to write", 0},
        {"--notes", FLAG_BOOL, &o.notes, 0, 0, NULL,
         "tell free texts, too, as tokens of bytes and pieces of words inside the timeline (import --notes)", 0},
        {"--vocabulary", FLAG_STRING, &o.vocabulary, 0, 0, NULL,
         "frozen vocabulary (file, dataset or checkpoint), applied unchanged", 0},
        {"--append-codes", FLAG_BOOL, &o.append_codes, 0, 0, NULL,
         "codes that the frozen vocabulary does not know become tokens after its last (ehr-train --init)", 0},
        {"--split", FLAG_STRING, &o.split, 0, 0, NULL,
         "patient, given, time:DATE (who comes first at DATE or later is held out) or site:COLUMN (whole sites are; "
         "=A,B: these), "
         "as site:CARE_SITE (default: given when the source has splits, else patient)",
         0},
        {"--key", FLAG_STRING, &o.key_file, 0, 0, NULL, "file with the split key (default: a fixed public key)", 0},
        {"--exclude", FLAG_STRING, &o.exclude_file, 0, 0, NULL, "file of subject ids to leave out, one a line", 0},
        {"--linkage", FLAG_STRING, &o.release_linkage, 0, 0, NULL,
         "of released events (deidentify): the ids of --exclude are the source's", 0},
        {"--attestation", FLAG_STRING, &o.attestation, 0, 0, NULL,
         "of these released events, signed by a person (ehr-data attest): gives the dataset its level", 0},
        {"--seed", FLAG_INT, &o.seed, 0, 9e15, NULL, "of the order of patients", 0},
        {"--shard-size", FLAG_SIZE, &o.shard_size, 1024, 1e12, NULL, "bytes after which a new shard begins", 0},
        {"--canaries", FLAG_INT, &o.canaries, 0, 1e6, NULL,
         "made-up sequences put into the train split, to measure what a model remembers; never release such a model", 0},
        {"--canary-copies", FLAG_INT, &o.canary_copies, 1, 1e6, NULL, "times each of them", 0},
        {"--threads", FLAG_INT, &threads, 0, 1024, NULL, "0: all; the dataset does not depend on it", 0},
        {"--overwrite", FLAG_BOOL, &o.overwrite, 0, 0, NULL, "replace an existing dataset", 0},
    };
    int n = sizeof flags / sizeof *flags;
    Status status = flags_parse(flags, n, argc, argv, events, 1, &n_pos, &help, err);
    if (status) return status;
    if (help) {
        flags_help(flags, n, "ehr-data tokenize EVENTS.h5 --out DATASET [flags]",
                   "Turns an events file into a dataset: vocabulary, splits and shards of token timelines.", stdout);
        return OK;
    }
    if (n_pos != 1)
        return err_set(err, ERR_USAGE, "one events file was expected: ehr-data tokenize EVENTS.h5 --out DATASET");
    if (!o.out || !o.out[0]) return err_set(err, ERR_USAGE, "--out DATASET is missing: the folder to write");
    if (o.release_linkage && !o.exclude_file)
        return err_set(err, ERR_USAGE, "--linkage goes with --exclude: it says whom the source's ids mean");
    if (o.append_codes && !o.vocabulary)
        return err_set(err, ERR_USAGE, "--append-codes goes with --vocabulary: it says what is known already");
    for (int i = NOTE_MERGES; i <= NOTE_TOKENS; i++)
        if (flags[i].seen && !o.notes)
            return err_set(err, ERR_USAGE, "%s goes with --notes: free texts are not told without it", flags[i].name);
    if (o.vocabulary && (status = conflicts(flags, o.append_codes, err))) return status;
    o.events = events[0];
    o.threads = (int)threads;
    o.separate_values = values[0] == 's';
    o.age_bin_years = age_bin[0] - '0';
    char *found = (o.vocabulary && !o.append_codes) || o.edges ? NULL : find_edges();
    if (!o.edges) o.edges = found;
    else if (!strcmp(o.edges, "none")) o.edges = NULL;
    flags_print(flags, n, stderr);
    if (!o.vocabulary && !o.edges) fprintf(stderr, "no decision thresholds: value edges are deciles only\n");
    TokenizeReport report;
    status = tokenize_events(&o, &report, err);
    if (!status) {
        print_splits(&report, o.out);
        print_kinds(&report.counts);
        print_counts(&report);
        print_warnings(&report, o.vocabulary != NULL);
        printf("next: ehr-data validate %s\n", o.out);
        tokenize_report_free(&report);
    }
    free(found);
    return status;
}
