/* deidentify_report.c - the de-identification record as JSON, and the page for a privacy board. */
#include "data/attest.h"
#include "data/deidentify_patient.h"
#include "data/deidentify_record.h"
#include <math.h>
#include <string.h>

enum { RULES_VERSION = 1, SMALL_CELL = 11, BLUR_FULL = 365 * 1440 };

/* ---- rules ------------------------------------------------------------------------------------------------------- */

typedef struct {
    char letter;
    const char *identifier, *handled;
} SafeHarborItem;

/* 45 CFR 164.514(b)(2)(i). */
static const SafeHarborItem safe_harbor[18] = {
    {'A', "names",
     "no importer reads them; words of the source's name columns can be looked for with phi-scan --names"},
    {'B', "geography below a state", "all columns of places dropped (a state only if asked for)"},
    {'C', "dates but the year; ages over 89", "times relative to the first event, own ends of records, ages end at 90"},
    {'D', "telephone numbers", "codes that look like one dropped"},
    {'E', "fax numbers", "codes that look like one dropped"},
    {'F', "e-mail addresses", "codes that look like one dropped"},
    {'G', "social security numbers", "codes that look like one dropped"},
    {'H', "medical record numbers", "subject ids replaced by random keys; columns and codes of such numbers dropped"},
    {'I', "health plan numbers", "columns of payers and members dropped"},
    {'J', "account numbers", "columns of accounts and claims dropped; visits are counted from 1 within a patient"},
    {'K', "certificate and licence numbers", "columns of licences and providers dropped"},
    {'L', "vehicle identifiers", "no importer reads them; codes that look like one dropped"},
    {'M', "device identifiers", "columns of device numbers dropped; kinds of devices stay"},
    {'N', "URLs", "codes that look like one dropped"},
    {'O', "IP addresses", "codes that look like one dropped"},
    {'P', "biometrics", "events hold none"},
    {'Q', "photographs", "events hold none"},
    {'R', "any other unique number, characteristic or code",
     "rare codes rolled up at k patients; random keys; unique sequences remain: see residual risk"},
};

/* Why the rules as they ran are less than all of them; "" = they are not. */
static void weakened(const DeidentifyReport *r, const DeidentifyOptions *o, char *text, size_t size) {
    snprintf(text, size, "%s%s%s", o->seed >= 0 ? "keys come from a given seed; " : "",
             o->blur_end_minutes ? "" : "ends of records tell the day of the data pull; ",
             o->min_patients < 2 ? "rare codes are not rolled up; " : "");
    (void)r;
}

static void rule_add(json_t *rules, const char *name, const char *what, json_t *figures) {
    json_t *o = json_pack("{s:s, s:i, s:s}", "rule", name, "version", RULES_VERSION, "what", what);
    json_object_update(o, figures);
    json_decref(figures);
    json_array_append_new(rules, o);
}

static json_t *code_figures(const DeidentifyReport *r, int fate) {
    return json_pack("{s:I, s:I}", "codes", (json_int_t)r->codes_by_fate[fate], "events",
                     (json_int_t)r->events_by_fate[fate]);
}

static const char *notes_what(const DeidentifyReport *r, const json_t *text_attestation) {
    (void)r;
    return text_attestation ? "kept, attested as scrubbed; what still looked like an identifier or an age past 89 masked"
                            : "dropped";
}

static json_t *notes_figures(const DeidentifyReport *r) {
    json_t *o = json_pack("{s:I, s:I}", "before", (json_int_t)r->notes_before, "after", (json_int_t)r->notes_after);
    if (r->names) json_object_set_new(o, "words_of_names_masked", json_integer((json_int_t)r->names));
    json_t *masked = json_array(); /* not keys: "ssn": would look like one */
    for (int k = 0; k <= PHI_COUNT; k++)
        if (r->masked[k])
            json_array_append_new(masked, json_pack("{s:s, s:I}", "kind", k == PHI_COUNT ? "age" : phi_kind_name(k), "places",
                                                    (json_int_t)r->masked[k]));
    json_object_set_new(o, "masked", masked);
    return o;
}

static json_t *rules_json(const DeidentifyReport *r, const DeidentifyOptions *o, const json_t *text_attestation) {
    json_t *rules = json_array();
#define N(x) ((json_int_t)(x))
    rule_add(rules, "patient-keys", "random 63-bit keys; the linkage stays with the steward",
             json_pack("{s:s}", "source", o->seed < 0 ? "system randomness" : "a given seed (tests only)"));
    rule_add(rules, "relative-time", "time 0 is the first event; dates without a time are put at their day's end",
             json_pack("{s:I}", "times_moved_to_birth", N(r->before_birth)));
    rule_add(rules, "own-end", "records end at the data pull less a random time; later events are dropped",
             json_pack("{s:I, s:I, s:I}", "below_days", N(o->blur_end_minutes / 1440), "patients", N(r->ends_blurred),
                       "events_dropped", N(r->beyond_end)));
    rule_add(rules, "age", "birth in whole years before the first event; records that pass 89 are shifted to end at 90",
             json_pack("{s:I, s:I}", "patients_shifted", N(r->ages_shifted), "patients_dropped", N(r->spans_dropped)));
    rule_add(rules, "split", "assigned before dates and places were dropped",
             json_pack("{s:s, s:s, s:{s:I, s:I, s:I}}", "method", r->split_method, "key",
                       o->key_file ? "own" : "public", "patients", "train", N(r->n_split[0]), "tuning",
                       N(r->n_split[1]), "held_out", N(r->n_split[2])));
    rule_add(rules, "geography", o->keep_state ? "places dropped, but states" : "places dropped",
             code_figures(r, FATE_GEOGRAPHY));
    rule_add(rules, "static-columns", "sex, race, ethnicity and marital status stay, others only if named",
             json_pack("{s:o, s:o*}", "dropped", code_figures(r, FATE_COLUMN), "kept_too",
                       o->statics ? json_string(o->statics) : NULL));
    rule_add(rules, "identifiers", "columns of numbers and people, and codes that look like identifiers, dropped",
             code_figures(r, FATE_IDENTIFIER));
    json_t *text = code_figures(r, FATE_TEXT);
    if (text_attestation) json_object_set_new(text, "attested_by", json_string(json_text(text_attestation, "name")));
    rule_add(rules, "free-text", text_attestation ? "kept: an attestation says that texts were scrubbed" : "dropped",
             text);
    if (r->notes_before) rule_add(rules, "notes", notes_what(r, text_attestation), notes_figures(r));
    rule_add(rules, "answers", text_attestation ? "kept" : "answers in prose dropped, their questions stay",
             code_figures(r, FATE_ANSWER));
    rule_add(rules, "rare-codes", "codes of fewer than k patients of the release roll up, else become RARE//kind",
             json_pack("{s:I, s:o, s:o, s:o, s:I, s:I, s:I}", "k", N(o->min_patients), "rolled_up",
                       code_figures(r, FATE_ROLLED_UP), "rare", code_figures(r, FATE_RARE), "dropped",
                       code_figures(r, FATE_DROPPED), "values_of_rolled_up_codes_dropped", N(r->values_rolled),
                       "values_of_rare_units_dropped", N(r->values_of_units), "repetitions_dropped",
                       N(r->repetitions)));
    return rules;
}

static json_t *size_json(const ReleaseSize *s) {
    return json_pack("{s:I, s:I, s:I, s:I}", "patients", N(s->patients), "events", N(s->events), "codes", N(s->codes),
                     "units", N(s->units));
}

static double share(int64_t part, int64_t whole) { return whole ? round(1e6 * (double)part / (double)whole) / 1e6 : 0; }

json_t *deidentify_record_make(const DeidentifyReport *r, const DeidentifyOptions *o, const ReleaseCodes *m,
                               int synthetic, const json_t *text_attestation) {
    char less[200];
    weakened(r, o, less, sizeof less);
    json_t *record = json_pack(
        "{s:s, s:i, s:s, s:s, s:s, s:o, s:o, s:{s:I, s:I, s:I, s:I, s:I}, s:o, s:{s:{s:I, s:I, s:f}, s:{s:I, s:f}}}",
        "format", DEIDENTIFY_RECORD_FORMAT, "format_version", 1, "release", r->release, "level",
        synthetic ? "synthetic"
        : less[0] ? "structural"
                  : "safe-harbor-rules",
        "statement",
        "These rules ran.  Whether the data are de-identified under 45 CFR 164.514 is for a person to say and to sign.",
        "before", size_json(&r->before), "after", size_json(&r->after), "patients_left_out", "excluded", N(r->excluded),
        "without_timed_events", N(r->untimed), "without_site", N(r->no_site), "nothing_left", N(r->emptied),
        "record_longer_than_90_years", N(r->spans_dropped), "rules", rules_json(r, o, text_attestation),
        "residual_risk", "three_codes", "patients_sampled", N(r->sampled), "unique", N(r->unique_by_codes), "share",
        share(r->unique_by_codes, r->sampled), "age_sex_race_visits", "unique", N(r->unique_by_traits), "share",
        share(r->unique_by_traits, r->after.patients));
    REQUIRE(record != NULL);
    if (less[0]) json_object_set_new(record, "weakened", json_string(less));
    json_object_set_new(record, "events_after_death_dropped", json_integer(N(r->after_death)));
    json_t *items = json_object();
    for (int i = 0; i < 18; i++) {
        char key[2] = {safe_harbor[i].letter, 0};
        char *text = xasprintf("%s: %s", safe_harbor[i].identifier, safe_harbor[i].handled);
        json_object_set_new(items, key, json_string(text));
        free(text);
    }
    json_object_set_new(record, "safe_harbor", items);
    (void)m;
    return record;
}
#undef N

/* ---- the page ---------------------------------------------------------------------------------------------------- */

static void print_figure(FILE *out, const char *what, int64_t before, int64_t after) {
    fprintf(out, "  %-10s %14lld %14lld   %+.1f%%\n", what, (long long)before, (long long)after,
            before ? 100.0 * (double)(after - before) / (double)before : 0.0);
}

static void print_line(FILE *out, int64_t n, const char *what) {
    if (n) fprintf(out, "  %14lld  %s\n", (long long)n, what);
}

void deidentify_report_print(const DeidentifyReport *r, const DeidentifyOptions *o, FILE *out) {
    const char *less = json_string_value(json_object_get(r->record, "weakened"));
    char sha[65];
    deidentify_record_sha256(r->record, sha);
    fprintf(out, "DE-IDENTIFICATION REPORT%s\n", o->out ? "" : " (dry run: nothing was written)");
    fprintf(out, "release %s   level %s\n", r->release, r->level);
    if (less) fprintf(out, "less than all rules: %s\n", less);
    fprintf(out, "\n  %-10s %14s %14s\n", "", "source", "release");
    print_figure(out, "patients", r->before.patients, r->after.patients);
    print_figure(out, "events", r->before.events, r->after.events);
    print_figure(out, "codes", r->before.codes, r->after.codes);
    print_figure(out, "units", r->before.units, r->after.units);
    if (r->notes_before) print_figure(out, "notes", r->notes_before, r->notes_after);
    fprintf(out, "  splits     train %lld, tuning %lld, held_out %lld (by %s)\n", (long long)r->n_split[0],
            (long long)r->n_split[1], (long long)r->n_split[2], r->split_method);
    fprintf(out, "\npatients\n");
    print_line(out, r->excluded, "left out: named in --exclude");
    print_line(out, r->exclude_unknown, "ids of --exclude that are nobody's here");
    print_line(out, r->untimed, "left out: no event with a time");
    print_line(out, r->no_site, "left out: no site, or several");
    print_line(out, r->emptied, "left out: nothing remained of them");
    print_line(out, r->spans_dropped, "left out: a record of more than 90 years");
    print_line(out, r->ages_shifted, "past 89: age shifted to end at 90");
    print_line(out, r->ends_blurred, "observed to the data pull: end moved earlier at random");
    fprintf(out, "codes (events)\n");
    for (int fate = 0; fate < FATE_COUNT; fate++)
        if (r->codes_by_fate[fate])
            fprintf(out, "  %6lld (%lld)  %s\n", (long long)r->codes_by_fate[fate], (long long)r->events_by_fate[fate],
                    code_fate_text(fate));
    fprintf(out, "events\n");
    print_line(out, r->beyond_end, "dropped: after the record's own end");
    print_line(out, r->after_death, "dropped: told after death");
    print_line(out, r->repetitions, "dropped: the same as another once rolled up");
    print_line(out, r->values_rolled, "values dropped: their code rolled up");
    print_line(out, r->values_of_units,
               "values dropped: a unit of too few patients, or one that looks like an identifier");
    if (r->notes_before && !o->text_attestation)
        print_line(out, r->notes_before, "free texts dropped: nobody attested that they were scrubbed");
    int64_t masked = 0;
    for (int k = 0; k <= PHI_COUNT; k++) masked += r->masked[k];
    print_line(out, masked, "places in texts masked: they looked like identifiers, though a scrubber went over them");
    print_line(out, r->before_birth, "times before the coarsened birth moved to it");
    fprintf(out, "\nresidual risk\n");
    fprintf(out, "  %5.1f%%  of %lld patients are the only ones with 3 of their own codes drawn at random\n",
            100 * share(r->unique_by_codes, r->sampled), (long long)r->sampled);
    fprintf(out, "  %5.1f%%  of all are the only ones of their age (5 years), sex, race and number of visits\n",
            100 * share(r->unique_by_traits, r->after.patients));
    fprintf(out,
            "  Codes of k = %lld patients do not make a record anonymous: long sequences are nearly always unique.\n",
            (long long)o->min_patients);
    if (o->min_patients < SMALL_CELL) fprintf(out, "  note: k is below %d, a common smallest cell\n", SMALL_CELL);
    if (o->blur_end_minutes && o->blur_end_minutes < BLUR_FULL)
        fprintf(out, "  note: ends are moved by less than a year: the season of the first event may be inferred\n");
    fprintf(out,
            "\nThese rules ran.  Whether the data are de-identified under 45 CFR 164.514 is for a person to say:\n\n");
    fprintf(out, "  record sha256  %s\n", sha);
    if (r->sha256[0]) fprintf(out, "  events sha256  %s\n", r->sha256);
    fprintf(out, "  name, role     ____________________________   date, signature  ____________________________\n");
}
