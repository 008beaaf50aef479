/* cmd_synth.c - `ehr-data synth`: draws the oracle cohort, describes it, and checks a dataset made of it. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "data/commands.h"
#include "data/oracle_cohort.h"
#include "data/oracle_file.h"
#include "data/table.h"
#include "model/flags.h"

static void figure(FILE *out, const char *name, const char *unit, double value, double scale, const char *aim) {
    if (isnan(value)) fprintf(out, "  %-38s %9s %-9s %s\n", name, "-", unit, aim);
    else fprintf(out, "  %-38s %9.2f %-9s %s\n", name, value * scale, unit, aim);
}

static void figures_print(const OracleFigureTable *t, FILE *out) {
    fprintf(out, "  %-38s %9s %-9s %s\n", "figure", "measured", "", "aim");
    figure(out, "death within a year of the index", "%", t->death_1y, 100, "2-4");
    figure(out, "admission within a year of the index", "%", t->admission_1y, 100, "10-20");
    figure(out, "first heart failure within a year", "%", t->heart_failure_1y, 100, "2-8");
    figure(out, "first type 2 diabetes within a year", "%", t->diabetes_1y, 100, "2-8");
    figure(out, "readmission within 30 days", "%", t->readmission_30d, 100, "10-20");
    figure(out, "stays with intensive care", "%", t->icu, 100, "5-10");
    figure(out, "death in hospital, of stays", "%", t->death_in_hospital, 100, "1-3");
    figure(out, "median stay", "days", t->stay_median_days, 1, "1.5-4");
    figure(out, "chronic conditions a patient", "", t->conditions_mean, 1, "3-5");
    figure(out, "conditions uneven between groups", "", t->uneven_conditions, 1, ">= 6");
    figure(out, "unigram loss", "nats", t->unigram, 1, "");
    figure(out, "bigram loss", "nats", t->bigram, 1, "");
    figure(out, "floor (tuning split)", "nats", t->floor, 1, "");
    figure(out, "bigram minus floor", "nats", t->bigram - t->floor, 1, ">= 0.3");
    figure(out, "tokens a patient, up to the index", "", t->tokens_mean, 1, "");
    figure(out, "years a patient, up to the index", "", t->years_mean, 1, "");
    fprintf(out, "  %lld patients, %lld tokens of %lld kinds, %lld stays, %lld held-out indices\n",
            (long long)t->patients, (long long)t->tokens, (long long)t->whats, (long long)t->stays,
            (long long)t->indices);
    for (int k = 0; k < ORACLE_OUTCOMES; k++)
        if (t->risk_n[k])
            fprintf(out, "  true risk %-18s mean %6.2f %% over %lld indices\n", ORACLE_OUTCOME[k].name,
                    100 * t->risk[k], (long long)t->risk_n[k]);
}

/* DIR -> DIR/events.h5 and DIR/vocabulary.json; X.h5 -> itself and vocabulary.json beside it. */
static Status output_paths(const char *out, char **events, char **vocabulary, Err *err) {
    size_t n = strlen(out);
    char *dir = xstrdup(out);
    if (n > 3 && !strcmp(out + n - 3, ".h5")) {
        char *slash = strrchr(dir, '/');
        if (slash) *slash = 0;
        else strcpy(dir, ".");
        *events = xstrdup(out);
    } else {
        *events = xasprintf("%s/events.h5", out);
    }
    *vocabulary = xasprintf("%s/vocabulary.json", dir);
    Status s = dir_make(dir[0] ? dir : "/", err);
    if (!s && path_exists(*events) && !oracle_file_present(*events))
        s = err_set(err, ERR_USAGE, "--out: %s exists and is no oracle cohort; remove it or give another --out",
                    *events);
    free(dir);
    return s;
}

static Status synth_draw(const OracleCohortOptions *o, const char *out, const char *values, int describe, Err *err) {
    char *events = NULL, *vocabulary = NULL;
    double start = clock_s(), risk_s = 0;
    Status s = describe ? OK : output_paths(out, &events, &vocabulary, err);
    OracleFigures *figures = oracle_figures_open();
    if (!s) s = oracle_cohort_draw(o, events, figures, &risk_s, err);
    if (!s && !describe) {
        char *json = oracle_vocabulary_format(!strcmp(values, "separate"));
        s = file_write(vocabulary, json, strlen(json), err);
        free(json);
    }
    if (!s) {
        OracleFigureTable t;
        oracle_figures_table(figures, &t);
        figures_print(&t, stdout);
        printf("  drawn in %.1f s, of which true risks %.1f s\n", clock_s() - start, risk_s);
        if (!describe)
            printf("%s\n%s\nnext: ehr-data tokenize %s --vocabulary %s --out DATASET\n", events, vocabulary, events,
                   vocabulary);
    }
    oracle_figures_free(figures);
    free(events);
    free(vocabulary);
    return s;
}

static Status synth_score(const char *dataset, Err *err) {
    OracleScore score;
    Status s = oracle_score_dataset(dataset, &score, stderr, err);
    if (s) return s;
    printf("%lld patients, %lld tokens, %lld counted: floor %.6f nats a token; largest difference from the stored log "
           "p %.2g\n",
           (long long)score.patients, (long long)score.tokens, (long long)score.counted, score.floor, score.max_diff);
    /* Stored as float32: up to half an ulp of the largest |log p|. */
    if (score.impossible || score.max_diff > 2e-6)
        return err_set(err, ERR_FORMAT,
                       "%s: its stored log p are not the law's (%lld tokens the law cannot give); were the "
                       "tokens changed, or tokenised with another vocabulary?",
                       dataset, (long long)score.impossible);
    return OK;
}

/* Compares with DATASET/labels/NAME.h5 where `label` wrote true risks. */
static Status risk_compare(const char *dataset, const OracleRiskRow *row, int64_t n, int k, Err *err) {
    char *path = xasprintf("%s/labels/%s.h5", dataset, ORACLE_OUTCOME[k].name);
    Table t;
    Status s = OK;
    if (path_exists(path)) {
        s = table_read_h5(&t, path, err);
        const uint64_t *key = s ? NULL : table_get(&t, "patient_key", COLUMN_U64);
        const int64_t *minute = s ? NULL : table_get(&t, "index_minutes", COLUMN_I64);
        const double *risk = s ? NULL : table_get(&t, "true_risk", COLUMN_F64);
        double worst = 0;
        int64_t compared = 0;
        for (int64_t i = 0; key && minute && risk && i < t.n; i++)
            for (int64_t j = 0; j < n; j++)
                if (row[j].key == key[i] && row[j].minute == minute[i] && !isnan(risk[i])) {
                    double diff = fabs(row[j].risk[k][0] - risk[i]);
                    if (!(diff <= worst)) worst = diff;
                    compared++;
                }
        if (!s) printf("  %s: %lld rows compared, largest difference %.2g\n", path, (long long)compared, worst);
        if (!s && compared && !(worst <= 1e-6))
            s = err_set(err, ERR_FORMAT,
                        "%s: its true risks are not the law's; same --seed and --risk-samples as at synth?", path);
        if (path_exists(path)) table_free(&t);
    }
    free(path);
    return s;
}

static Status synth_risk(const OracleCohortOptions *o, const char *dataset, const char *out, Err *err) {
    OracleRiskRow *row;
    int64_t n;
    double start = clock_s();
    Status s = oracle_risk_dataset(dataset, o, &row, &n, err);
    if (s) return s;
    printf("%lld indices, %lld futures each, %.1f s\n", (long long)n, (long long)o->risk_samples, clock_s() - start);
    Table t;
    table_init(&t, n);
    uint64_t *key = table_add(&t, "patient_key", COLUMN_U64);
    int64_t *minute = table_add(&t, "index_minutes", COLUMN_I64);
    for (int64_t i = 0; i < n; i++) {
        key[i] = row[i].key;
        minute[i] = row[i].minute;
    }
    for (int k = 0; !s && k < ORACLE_OUTCOMES; k++) {
        char name[64];
        double *p = table_add(&t, ORACLE_OUTCOME[k].name, COLUMN_F64), sum = 0;
        int64_t count = 0;
        snprintf(name, sizeof name, "%s_se", ORACLE_OUTCOME[k].name);
        double *se = table_add(&t, name, COLUMN_F64);
        for (int64_t i = 0; i < n; i++) {
            p[i] = row[i].risk[k][0];
            se[i] = row[i].risk[k][1];
            if (isnan(p[i])) continue;
            sum += p[i];
            count++;
        }
        printf("  %-18s mean true risk %6.2f %% over %lld\n", ORACLE_OUTCOME[k].name, count ? 100 * sum / count : NAN,
               (long long)count);
        s = risk_compare(dataset, row, n, k, err);
    }
    if (!s && out)
        s = strlen(out) > 3 && !strcmp(out + strlen(out) - 3, ".h5") ? table_write_h5(&t, out, err)
                                                                     : table_write_csv(&t, out, 0, err);
    table_free(&t);
    free(row);
    return s;
}

Status cmd_synth(int argc, char **argv, Err *err) {
    int64_t patients = 20000, seed = 1, max_tokens = 500, samples = 1024, threads = 0;
    const char *out = NULL, *score = NULL, *risk = NULL, *values = "fused";
    int describe = 0, help = 0, n_pos = 0;
    Flag flags[] = {
        {"--patients", FLAG_INT, &patients, 1, 2e9, NULL, "patients to draw", 0},
        {"--seed", FLAG_INT, &seed, 0, 9e18, NULL, "the cohort is a function of it", 0},
        {"--out", FLAG_STRING, &out, 0, 0, NULL,
         "folder for events.h5 and vocabulary.json, or a .h5 (./oracle); a table with --risk", 0},
        {"--max-tokens", FLAG_INT, &max_tokens, 20, 1e6, NULL,
         "targets at which a record stops; prefix + this must fit --seq-len", 0},
        {"--risk-samples", FLAG_INT, &samples, 0, 1e7, NULL, "futures a held-out index for the true risks; 0 = none",
         0},
        {"--values", FLAG_ENUM, &values, 0, 0, "fused|separate",
         "of vocabulary.json: a token a code and level, or shared Q1..Q10", 0},
        {"--threads", FLAG_INT, &threads, 0, 1024, NULL, "0 = all; changes nothing but the time", 0},
        {"--describe", FLAG_BOOL, &describe, 0, 0, NULL, "draw and measure, write nothing", 0},
        {"--score", FLAG_STRING, &score, 0, 0, NULL, "DATASET: recompute the log p of its tokens from the shards alone",
         0},
        {"--risk", FLAG_STRING, &risk, 0, 0, NULL, "DATASET: recompute the true risks from the shards alone", 0},
    };
    int n = sizeof flags / sizeof *flags;
    Status s = flags_parse(flags, n, argc, argv, NULL, 0, &n_pos, &help, err);
    if (s) return s;
    if (help) {
        flags_help(
            flags, n, "ehr-data synth --patients N [--seed S] [--out DIR]",
            "Draws the oracle cohort: synthetic patients from a known law, so that the lowest loss any model can\n"
            "reach and the true risk of every outcome are exact.",
            stdout);
        return OK;
    }
    if (!!score + !!risk + describe > 1)
        return err_set(err, ERR_USAGE, "--score, --risk and --describe exclude each other");
    OracleCohortOptions o = {.patients = patients,
                             .seed = (uint64_t)seed,
                             .max_tokens = max_tokens,
                             .risk_samples = samples,
                             .threads = (int)threads,
                             .progress = stderr};
    if (score) return synth_score(score, err);
    if (risk) return samples ? synth_risk(&o, risk, out, err) : err_set(err, ERR_USAGE, "--risk needs --risk-samples");
    flags_print(flags, n, stderr);
    char *folder = path_copy(out ? out : "oracle");
    s = synth_draw(&o, folder, values, describe, err);
    free(folder);
    return s;
}
