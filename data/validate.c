/* validate.c - the table of findings, and reports. */
#include "data/validate.h"
#include <jansson.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    int severity;
    const char *about;
} finding_table[FIND_COUNT] = {
    [FIND_OPEN] = {"format.open", SEVERITY_ERROR, "it cannot be opened"},
    [FIND_EMPTY] = {"empty", SEVERITY_ERROR, "there are no patients or nothing happened to them"},
    [FIND_PATIENT_TWICE] = {"patient.twice", SEVERITY_ERROR, "a patient is there twice"},
    [FIND_END_BEFORE_LAST] = {"observation_end.before_last", SEVERITY_ERROR,
                              "something happens after the end of observation"},
    [FIND_END_EQUALS_LAST] =
        {"observation_end.equals_last_event", SEVERITY_WARNING,
         "observation ends with the last event of most patients who did not die: censoring times look "
         "invented, and event rates will be overestimated; give the extract date when importing"},
    [FIND_ORDER] = {"order", SEVERITY_ERROR, "a timeline is not in the order in which things became known"},
    [FIND_TWO_IDS] = {"person.two_ids", SEVERITY_WARNING,
                      "two records share stretches of events that nobody else has: the same person under two ids"},
    [FIND_PERSON_TWO_SPLITS] = {"person.two_splits", SEVERITY_ERROR,
                                "the same person under two ids, in two splits: what is held out leaks into training"},
    [FIND_HASH] = {"hash.mismatch", SEVERITY_ERROR, "a file is not the one dataset.json describes (sha256)"},
    [FIND_UNLISTED] =
        {"file.unlisted", SEVERITY_WARNING,
         "a file that dataset.json does not name: nothing says that it may be released (a linkage file?)"},
    [FIND_CHECKSUM] = {"checksum.mismatch", SEVERITY_ERROR, "a block of tokens is damaged (crc32c)"},
    [FIND_TWO_SPLITS] = {"patient.two_splits", SEVERITY_ERROR,
                         "a patient is in two splits: what is held out leaks into training"},
    [FIND_SPLIT_EMPTY] = {"split.empty", SEVERITY_WARNING, "a split has no patients"},
    [FIND_PATIENT_EMPTY] = {"patient.empty", SEVERITY_WARNING, "a patient has no tokens"},
    [FIND_TOKEN_RANGE] = {"token.range", SEVERITY_ERROR, "a token id is beyond the vocabulary"},
    [FIND_TOKEN_PREFIX] = {"token.prefix_only", SEVERITY_ERROR,
                           "a token that belongs to the prefix stands inside a timeline"},
    [FIND_AFTER_DEATH] = {"token.after_death", SEVERITY_ERROR, "a timeline goes on after death"},
    [FIND_STATIC] = {"static.kind", SEVERITY_ERROR, "a static column holds a token that is not static"},
    [FIND_GROUP] = {"group.code", SEVERITY_ERROR, "a subgroup code has no label in dataset.json"},
    [FIND_GAP] = {"gap.mismatch", SEVERITY_ERROR, "gap tokens and minutes tell different times"},
    [FIND_VALUE] = {"value.orphan", SEVERITY_ERROR, "a value token does not follow the event it belongs to"},
    [FIND_NOTE] = {"note.open", SEVERITY_ERROR,
                   "a note without its end, its beginning or its event, or text outside of one"},
    [FIND_NOTE_ATTESTED] = {"note.not_attested", SEVERITY_ERROR,
                            "free texts are told in a release, and nobody attested that they were scrubbed"},
    [FIND_FIRST_MINUTE] = {"minutes.first", SEVERITY_WARNING, "the first event is not at minute 0"},
    [FIND_LOGP] = {"oracle.logp", SEVERITY_ERROR, "a log probability of the oracle is positive or infinite"},
    [FIND_AGE] = {"age.over_90", SEVERITY_WARNING, "an age beyond 90 is told, which identifies people"},
    [FIND_DEIDENTIFICATION] = {"deidentification.missing", SEVERITY_WARNING,
                               "nothing says how the records were de-identified"},
    [FIND_VOCABULARY] = {"vocabulary.beyond_train", SEVERITY_ERROR,
                         "a token of a vocabulary fitted here has fewer train patients than dataset.json says: it was "
                         "fitted on what is held out, too"},
    [FIND_LABEL_ROW] = {"label.row", SEVERITY_ERROR, "a label does not belong to the tokens it is about"},
    [FIND_OUTCOME_KNOWN] = {"label.outcome_known", SEVERITY_ERROR, "an outcome is told before its index"},
    [FIND_FOLLOW_UP] = {"label.follow_up", SEVERITY_WARNING,
                        "how long patients were recorded tells their outcome: cases and others were not sampled or "
                        "followed alike"},
    [FIND_RECORD] = {"format.record", SEVERITY_ERROR, "a patient's record cannot be read"},
    [FIND_AVAILABLE] = {"available.before_time", SEVERITY_ERROR, "an event was known before it happened"},
    [FIND_BEFORE_BIRTH] = {"event.before_birth", SEVERITY_WARNING, "something happens before birth"},
    [FIND_POSTHUMOUS] = {"event.after_death", SEVERITY_WARNING,
                         "something happens after the day of death (tokenize drops it)"},
    [FIND_IMPLAUSIBLE_TIME] = {"time.implausible", SEVERITY_WARNING, "an event is dated before 1850 or after 2300"},
    [FIND_MIDNIGHT] = {"time.midnight", SEVERITY_WARNING,
                       "most events of a code are at 00:00: dates taken for times, known hours before they happened"},
    [FIND_IMPLAUSIBLE] = {"value.implausible", SEVERITY_INFO,
                          "values of a code that no living person has: typing errors, or, where they are many, another unit "
                          "than the one that is told"},
    [FIND_RELEASE] = {"release.broken", SEVERITY_ERROR,
                      "a file with a de-identification record breaks a rule that the record says was kept"},
    [FIND_DIAGNOSED_FIRST] =
        {"diagnosis.before_labs", SEVERITY_WARNING,
         "in most stays every diagnosis is known before the first lab: codes of the discharge were "
         "put at the admission"},
    [FIND_END_UNKNOWN] = {"observation_end.unknown", SEVERITY_WARNING,
                          "the end of observation is not known: it is taken to be the last event"},
};

const char *finding_name(int kind) { return finding_table[kind].name; }
const char *finding_about(int kind) { return finding_table[kind].about; }

void report_init(ValidateReport *r, const char *what) {
    *r = (ValidateReport){.what = what};
    for (int i = 0; i < FIND_COUNT; i++) r->finding[i].severity = finding_table[i].severity;
}

void report_free(ValidateReport *r) {
    for (int i = 0; i < FIND_COUNT; i++)
        for (int e = 0; e < r->finding[i].n_examples; e++) free(r->finding[i].example[e]);
    memset(r, 0, sizeof *r);
}

void report_add(ValidateReport *r, int kind, const char *place, ...) {
    Finding *f = &r->finding[kind];
    f->count++;
    if (f->n_examples == EXAMPLES_MAX) return;
    va_list ap;
    char *text = NULL;
    va_start(ap, place);
    int n = vasprintf(&text, place, ap);
    va_end(ap);
    REQUIRE(n >= 0);
    f->example[f->n_examples++] = text;
}

int report_count(const ValidateReport *r, Severity severity) {
    int n = 0;
    for (int i = 0; i < FIND_COUNT; i++) n += r->finding[i].count > 0 && r->finding[i].severity == (int)severity;
    return n;
}

static const char *severity_name(int severity) {
    return severity == SEVERITY_ERROR ? "error" : severity == SEVERITY_WARNING ? "warning" : "info";
}

void report_print(const ValidateReport *r, FILE *out) {
    int errors = report_count(r, SEVERITY_ERROR), warnings = report_count(r, SEVERITY_WARNING);
    fprintf(out, "%s: %lld patients, %lld %s checked\n", r->what, (long long)r->n_patients, (long long)r->n_items,
            strcmp(r->what, "dataset") ? "events" : "tokens");
    for (int severity = SEVERITY_ERROR; severity >= SEVERITY_INFO; severity--)
        for (int i = 0; i < FIND_COUNT; i++) {
            const Finding *f = &r->finding[i];
            if (!f->count || f->severity != severity) continue;
            fprintf(out, "%-8s %-34s %10lld  %s\n", severity_name(severity), finding_name(i), (long long)f->count,
                    finding_about(i));
            for (int e = 0; e < f->n_examples; e++) fprintf(out, "%56s%s\n", "at ", f->example[e]);
        }
    if (errors || warnings)
        fprintf(out, "%d error%s, %d warning%s\n", errors, errors == 1 ? "" : "s", warnings, warnings == 1 ? "" : "s");
    else fprintf(out, "valid\n");
}

char *report_json(const ValidateReport *r, const char *path) {
    json_t *findings = json_array();
    for (int i = 0; i < FIND_COUNT; i++) {
        const Finding *f = &r->finding[i];
        if (!f->count) continue;
        json_t *examples = json_array();
        for (int e = 0; e < f->n_examples; e++) {
            json_t *text = json_string(f->example[e]);
            json_array_append_new(examples, text ? text : json_string("(not valid UTF-8)"));
        }
        json_array_append_new(findings, json_pack("{s:s, s:s, s:I, s:s, s:o}", "name", finding_name(i), "severity",
                                                  severity_name(f->severity), "count", (json_int_t)f->count, "about",
                                                  finding_about(i), "examples", examples));
    }
    json_t *root =
        json_pack("{s:s, s:s*, s:I, s:I, s:i, s:i, s:o}", "what", r->what, "path", path, "patients",
                  (json_int_t)r->n_patients, "items", (json_int_t)r->n_items, "errors", report_count(r, SEVERITY_ERROR),
                  "warnings", report_count(r, SEVERITY_WARNING), "findings", findings);
    char *text = root ? json_dumps(root, JSON_INDENT(1)) : xstrdup("{}");
    json_decref(root);
    return text;
}
