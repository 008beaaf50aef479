/* cmd_diagnose.c - ehr-infer diagnose. */
#include "infer/commands.h"
#include "infer/diagnose_walk.h"
#include "infer/session.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const char *data, *split, *by, *ask, *prices, *out, *tests;
    SessionFlags session;
    int64_t limit, samples, max_asks, max_tokens, train, seed, batch, truth_samples;
} DiagnoseFlags;

static Status write_any(const Table *t, const char *path, Err *err) {
    size_t n = strlen(path);
    return n > 3 && !strcmp(path + n - 3, ".h5") ? table_write_h5(t, path, err) : table_write_csv(t, path, 1, err);
}

static void set_number(Table *t, const char *name, double x) {
    char text[32];
    snprintf(text, sizeof text, "%.9g", x);
    table_set(t, name, text);
}

/* The tests, their prices, and how being recorded goes with new diagnoses. */
static Status write_tests(Dataset *d, const DiagnosisCodes *c, int split, const char *path, const char *currency, Err *err) {
    TestUse use;
    Status st = test_use_count(c, d, split, d->n_patients[split], &use, err);
    if (st) {
        test_use_free(&use);
        return st;
    }
    Table t;
    table_init(&t, c->n_test);
    int64_t *token = table_add(&t, "token", COLUMN_I64), *recorded = table_add(&t, "recorded", COLUMN_I64);
    int64_t *fresh = table_add(&t, "recorded_new", COLUMN_I64);
    double *price = table_add(&t, "price", COLUMN_F64), *minutes = table_add(&t, "minutes", COLUMN_F64);
    double *usual = table_add(&t, "usual", COLUMN_F64);
    for (int i = 0; i < c->n_test; i++) {
        token[i] = c->test_id[i];
        price[i] = c->price[i];
        minutes[i] = c->minutes[i];
        usual[i] = c->usual[i];
        recorded[i] = use.recorded[i];
        fresh[i] = use.recorded_fresh[i];
    }
    table_set(&t, "currency", currency);
    set_number(&t, "visits", (double)use.visits);
    set_number(&t, "encounters", (double)use.encounters);
    set_number(&t, "with_new", (double)use.with_fresh);
    test_use_free(&use);
    st = write_any(&t, path, err);
    table_free(&t);
    return st;
}

static double mean_at(const Table *t, const char *name, ColumnType type, int64_t rows, int64_t at) {
    double sum = 0;
    for (int64_t i = at; i < t->n; i += rows)
        sum += type == COLUMN_I64 ? (double)((const int64_t *)table_get(t, name, type))[i] : ((const double *)table_get(t, name, type))[i];
    return sum / (double)(t->n / rows);
}

static void print_walks(const Table *t, const WalkReport *w, const char *currency, int oracle) {
    int64_t rows = t->n / w->encounters;
    printf("%lld encounters, one a patient, of %lld patients looked at; a new diagnosis follows a test in each\n", (long long)w->encounters,
           (long long)w->looked_at);
    printf("\n  %5s  %10s  %8s  %6s  %10s%s\n", "tests", currency, "minutes", "right", "confidence", oracle ? "  by the generator  its best" : "");
    for (int64_t s = 0; s < rows; s++) {
        printf("  %5.0f  %10.2f  %8.0f  %6.3f  %10.3f", mean_at(t, "step", COLUMN_I64, rows, s), mean_at(t, "cost", COLUMN_F64, rows, s),
               mean_at(t, "minutes", COLUMN_F64, rows, s), mean_at(t, "right", COLUMN_I64, rows, s),
               mean_at(t, "confidence", COLUMN_F64, rows, s));
        if (oracle)
            printf("  %16.3f  %8.3f", mean_at(t, "truth_named", COLUMN_F64, rows, s), mean_at(t, "truth_best", COLUMN_F64, rows, s));
        printf("\n");
    }
    printf("\nnaming what is new most often, whoever the patient is: %.3f right; what was recorded costs %.2f an encounter\n",
           mean_at(t, "common_right", COLUMN_I64, rows, 0), mean_at(t, "recorded_cost", COLUMN_F64, rows, 0));
    if (w->unfit) printf("note: at %lld steps no simulated course was consistent with the answers; the belief before them stands\n", (long long)w->unfit);
    printf("Results can be revealed only where somebody ordered the test: see the tests table for how that goes with what was found.\n");
}

/* Opens what is asked: a checkpoint beside the dataset, or the dataset and its generator. */
static Status open_all(const DiagnoseFlags *f, const char *checkpoint, Session *s, Dataset **d, OracleLaw *law, int *oracle, Err *err) {
    int generator = f->by[0] == 'g';
    Status st = OK;
    *s = (Session){0};
    if (generator) {
        st = dataset_open(&s->dataset, f->data, err);
        s->dataset_open = !st;
    } else st = session_open(s, checkpoint, f->data, &f->session, err);
    if (!st && !generator) session_note(s, stderr);
    *d = &s->dataset;
    if (!st && generator && !s->dataset.floor_valid)
        return err_set(err, ERR_USAGE, "--by generator: %s is not a cohort of `ehr-data synth` in its own vocabulary, so nobody knows its law",
                       f->data);
    *oracle = !st && s->dataset.floor_valid;
    return st || !*oracle ? st : oracle_law_open(law, &s->dataset.vocabulary, err);
}

static Status run(const DiagnoseFlags *f, Session *s, Dataset *d, const OracleLaw *law, Err *err) {
    DiagnosisCodes c;
    char currency[32];
    int split;
    Status st = diagnosis_codes_open(&c, &d->vocabulary, err);
    if (st) return st;
    WalkOptions o = {.ask = f->ask[0] == 'u' ? ASK_USUAL : ASK_LIKELY, .max_asks = (int)f->max_asks, .limit = f->limit, .oracle = law,
                     .by_generator = f->by[0] == 'g', .oracle_samples = (int)f->truth_samples};
    o.d = (DiagnoseOptions){.samples = (int)f->samples, .max_tokens = (int)f->max_tokens, .batch = (int)f->batch, .seed = (uint64_t)f->seed};
    Table t;
    WalkReport report;
    st = session_split(s, f->split, &split, err);
    o.split = split;
    if (!st) st = diagnosis_prices(&c, &d->vocabulary, f->prices, currency, sizeof currency, err);
    if (!st) st = encounters_count(&c, d, f->train, err);
    if (!st && f->tests) st = write_tests(d, &c, split, f->tests, currency, err);
    if (!st) st = diagnose_walk(&s->law, d, &c, &o, stderr, &t, &report, err);
    if (!st) {
        print_walks(&t, &report, currency, law != NULL);
        table_set(&t, "by", f->by);
        table_set(&t, "ask", f->ask);
        table_set(&t, "currency", currency);
        table_set(&t, "model_sha256", s->model_sha256);
        set_number(&t, "samples", (double)f->samples);
        set_number(&t, "seed", (double)f->seed);
        set_number(&t, "patients_looked_at", (double)report.looked_at);
        set_number(&t, "tokens", (double)report.tokens);
        set_number(&t, "unfit", (double)report.unfit);
        if (f->out) st = write_any(&t, f->out, err);
        table_free(&t);
    }
    diagnosis_codes_close(&c);
    return st;
}

Status cmd_diagnose(int argc, char **argv, Err *err) {
    DiagnoseFlags f = {.session = SESSION_FLAGS_DEFAULT, .split = "held_out", .by = "model", .ask = "likely", .limit = 200,
                       .samples = 32, .max_asks = 20, .max_tokens = 128, .train = 2000, .seed = 1, .batch = 256, .truth_samples = 256};
    Flag flags[] = {
        {"--data", FLAG_STRING, &f.data, 0, 0, NULL, "dataset folder", 0},
        {"--split", FLAG_ENUM, &f.split, 0, 0, "train|tuning|val|held_out|test", "patients to diagnose", 0},
        {"--limit", FLAG_INT, &f.limit, 1, 1e9, NULL, "encounters, one a patient", 0},
        {"--by", FLAG_ENUM, &f.by, 0, 0, "model|generator", "who asks and names; generator: the law that drew an oracle cohort", 0},
        {"--ask", FLAG_ENUM, &f.ask, 0, 0, "likely|usual", "the test held likeliest to be recorded, or the most usual one for everybody", 0},
        {"--prices", FLAG_STRING, &f.prices, 0, 0, NULL, "prices and waiting times of tests, JSON; without it each costs 1", 0},
        {"--samples", FLAG_INT, &f.samples, 1, 1e5, NULL, "simulated courses a step", 0},
        {"--max-asks", FLAG_INT, &f.max_asks, 1, 1e5, NULL, "tests asked for one by one; then all others at once", 0},
        {"--max-tokens", FLAG_INT, &f.max_tokens, 2, 1e5, NULL, "longest simulated course, in tokens", 0},
        {"--train", FLAG_INT, &f.train, 1, 1e12, NULL, "patients of the train split to learn from which tests are usual", 0},
        {"--truth-samples", FLAG_INT, &f.truth_samples, 1, 1e6, NULL, "draws a step of an oracle cohort's own answer", 0},
        {"--seed", FLAG_INT, &f.seed, 0, 0, NULL, "key of all random numbers", 0},
        {"--batch", FLAG_INT, &f.batch, 1, 65536, NULL, "simulated courses at a time", 0},
        {"--out", FLAG_STRING, &f.out, 0, 0, NULL, "a row an encounter and step: FILE.csv or FILE.h5", 0},
        {"--tests", FLAG_STRING, &f.tests, 0, 0, NULL, "a row a test, how often it is recorded: FILE.csv or FILE.h5", 0},
        SESSION_FLAGS(f.session),
        SESSION_GRAPHS_FLAG(f.session),
    };
    const int n = sizeof flags / sizeof *flags;
    const char *pos[1];
    int n_pos, help, oracle = 0;
    Status st = flags_parse(flags, n, argc, argv, pos, 1, &n_pos, &help, err);
    if (st) return st;
    if (help) {
        flags_help(flags, n, "ehr-infer diagnose CHECKPOINT --data DATASET [--prices FILE] [--out STEPS.h5] [...]",
                   "Reveals an encounter test by test: which test the model asks for, which diagnosis it would name, at what cost.", stdout);
        return OK;
    }
    if (!f.data || n_pos != (f.by[0] == 'm'))
        return err_set(err, ERR_USAGE, "needs a CHECKPOINT and --data DATASET, or --by generator and --data DATASET alone (--help)");
    Session s;
    Dataset *d;
    OracleLaw law = {0};
    st = open_all(&f, n_pos ? pos[0] : NULL, &s, &d, &law, &oracle, err);
    if (!st) st = run(&f, &s, d, oracle ? &law : NULL, err);
    if (oracle) oracle_law_close(&law);
    session_close(&s);
    return st;
}
