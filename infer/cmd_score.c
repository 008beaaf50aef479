/* cmd_score.c - ehr-infer score. */
#include "data/table.h"
#include "infer/commands.h"
#include "infer/score.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    SessionFlags session;
    const char *data, *split, *out, *tokens, *detail;
    int64_t     top, limit, seq_len;
    StringList  codes;
} ScoreFlags;

static Status write_any(const Table *t, const char *path, int comments, Err *err) {
    size_t n = strlen(path);
    return n > 3 && !strcmp(path + n - 3, ".h5") ? table_write_h5(t, path, err) : table_write_csv(t, path, comments, err);
}

static Status write_patients(Session *s, int split, const Score *sc, const char *path, Err *err) {
    Table t;
    table_init(&t, sc->n_patients);
    uint64_t *key = table_add(&t, "patient_key", COLUMN_U64);
    int64_t *n = table_add(&t, "targets", COLUMN_I64);
    double *loss = table_add(&t, "loss", COLUMN_F64), *mean = table_add(&t, "loss_per_token", COLUMN_F64);
    Status st = OK;
    for (int64_t i = 0; !st && i < sc->n_patients; i++) {
        PatientView p;
        st = dataset_patient(&s->dataset, split, i, &p, err);
        key[i] = st ? 0 : p.key;
        n[i] = sc->n_targets[i];
        loss[i] = sc->loss[i];
        mean[i] = n[i] ? loss[i] / (double)n[i] : NAN;
    }
    table_set(&t, "model_sha256", s->model_sha256);
    if (!st) st = write_any(&t, path, 0, err);
    table_free(&t);
    return st;
}

static Status write_tokens(Session *s, int split, const Score *sc, const char *path, Err *err) {
    int64_t total = 0;
    PatientView p;
    Status st = OK;
    for (int64_t i = 0; !st && i < sc->n_patients; i++) {
        st = dataset_patient(&s->dataset, split, i, &p, err);
        if (!st) total += p.n;
    }
    if (st) return st;
    Table t;
    table_init(&t, total);
    uint64_t *key = table_add(&t, "patient_key", COLUMN_U64);
    int64_t *index = table_add(&t, "index", COLUMN_I64), *minutes = table_add(&t, "minutes", COLUMN_I64);
    int64_t *token = table_add(&t, "token", COLUMN_I64);
    double *loss = table_add(&t, "loss", COLUMN_F64);
    int64_t at = 0;
    for (int64_t i = 0; !st && i < sc->n_patients; i++) {
        st = dataset_patient(&s->dataset, split, i, &p, err);
        for (int64_t k = 0; !st && k < p.n; k++, at++) {
            key[at] = p.key;
            index[at] = k;
            minutes[at] = p.minutes[k];
            token[at] = patient_token(&p, k);
            loss[at] = sc->token_loss[i][k];
        }
    }
    if (!st) st = write_any(&t, path, 0, err);
    table_free(&t);
    return st;
}

static Status print_score(Session *s, int split, const Score *sc, Err *err) {
    const Vocabulary *v = &s->dataset.vocabulary;
    printf("%s: %lld patients, %lld tokens, %lld events, %.1f patient-years\n", split_name(split), (long long)sc->n_patients,
           (long long)sc->n, (long long)sc->n_events, sc->patient_years);
    printf("loss            %8.4f nats a token   %8.4f an event   %8.2f a patient-year\n", sc->total / (double)sc->n,
           sc->n_events ? sc->total / (double)sc->n_events : NAN, sc->patient_years > 0 ? sc->total / sc->patient_years : NAN);
    if (sc->n_censored)
        printf("censored gaps   %8.4f nats each, %lld records end in one\n", sc->censored / (double)sc->n_censored,
               (long long)sc->n_censored);
    if (sc->n_oracle && s->dataset.floor_valid)
        printf("oracle floor    %8.4f nats a token: excess %.4f over %lld tokens\n", sc->oracle / (double)sc->n_oracle,
               (sc->oracle_model - sc->oracle) / (double)sc->n_oracle, (long long)sc->n_oracle);
    if (sc->n_top) printf("\nmost surprising events (nats, patient key, time since the first event, event)\n");
    for (int i = 0; i < sc->n_top; i++) {
        PatientView p;
        char when[48], what[256];
        Status st = dataset_patient(&s->dataset, split, sc->top[i].patient, &p, err);
        if (st) return st;
        minutes_text(p.minutes[sc->top[i].index], when, sizeof when);
        vocabulary_describe(v, (int)patient_token(&p, sc->top[i].index), what, sizeof what);
        printf("  %6.2f  key:%-10llu %14s  %s\n", sc->top[i].loss, (unsigned long long)p.key, when, what);
    }
    return OK;
}

/* mark (V): 1 for the ids that the codes asked for match. */
static Status asked_mark(const Session *s, const StringList *codes, uint32_t *mark, Err *err) {
    Status st = OK;
    for (int i = 0; !st && i < codes->n; i++)
        st = outcome_list_mark(&s->dataset.vocabulary, "--codes", codes->item[i], 0, mark, err);
    return st;
}

static Status score(Session *s, const ScoreFlags *f, int split, Err *err) {
    Score sc;
    ScoreDetail *detail = NULL;
    uint32_t *mark = xcalloc((size_t)s->dataset.vocabulary.n, sizeof *mark);
    Status st = asked_mark(s, &f->codes, mark, err);
    if (!st && f->detail) st = score_detail_open(&detail, s, f->codes.n ? mark : NULL, err);
    int T = f->seq_len ? (int)f->seq_len : s->model.cfg.seq_len;
    if (!st) st = score_split(s, split, f->limit, T, (int)f->top, f->tokens != NULL, detail, stderr, &sc, err);
    if (!st) {
        st = print_score(s, split, &sc, err);
        if (!st && f->out) st = write_patients(s, split, &sc, f->out, err);
        if (!st && f->tokens) st = write_tokens(s, split, &sc, f->tokens, err);
        Table t;
        if (!st && detail) {
            st = score_detail_table(detail, split, &t, err);
            if (!st) st = write_any(&t, f->detail, 1, err);
            table_free(&t);
        }
        score_free(&sc);
    }
    score_detail_close(detail);
    free(mark);
    return st;
}

Status cmd_score(int argc, char **argv, Err *err) {
    ScoreFlags f = {.session = SESSION_FLAGS_DEFAULT, .split = "held_out", .top = 10};
    Flag flags[] = {
        {"--data", FLAG_STRING, &f.data, 0, 0, NULL, "dataset folder", 0},
        {"--split", FLAG_ENUM, &f.split, 0, 0, "train|tuning|val|held_out|test", "patients to score", 0},
        {"--limit", FLAG_INT, &f.limit, 0, 1e15, NULL, "only the first patients; 0 = all", 0},
        {"--events", FLAG_INT, &f.top, 0, 1e6, NULL, "how many of the most surprising recorded events to list", 0},
        {"--top", FLAG_INT, &f.top, 0, 1e6, NULL, "the same as --events", 0},
        {"--seq-len", FLAG_INT, &f.seq_len, 0, 1 << 20, NULL, "slots a row; 0 = the model's", 0},
        {"--out", FLAG_STRING, &f.out, 0, 0, NULL, "loss per patient: FILE.csv or FILE.h5", 0},
        {"--tokens", FLAG_STRING, &f.tokens, 0, 0, NULL, "loss per token: FILE.csv or FILE.h5", 0},
        {"--detail", FLAG_STRING, &f.detail, 0, 0, NULL,
         "rank, likeliest token and chances at each target, for accuracy and calibration: FILE.csv or FILE.h5", 0},
        {"--codes", FLAG_LIST, &f.codes, 0, 0, NULL,
         "CODE[,CODE]: with --detail also the chance of any of these next; may be repeated", 0},
        SESSION_FLAGS(f.session),
    };
    const int n = sizeof flags / sizeof *flags;
    const char *pos[1];
    int n_pos, help, split;
    Status st = flags_parse(flags, n, argc, argv, pos, 1, &n_pos, &help, err);
    if (st) return st;
    if (help) {
        flags_help(flags, n, "ehr-infer score CHECKPOINT --data DATASET [--split held_out] [...]",
                   "Loss per token and per patient, and the recorded events the model expected least.", stdout);
        return OK;
    }
    if (n_pos != 1 || !f.data) return err_set(err, ERR_USAGE, "needs a CHECKPOINT and --data DATASET (--help)");
    if (f.codes.n && !f.detail) return err_set(err, ERR_USAGE, "--codes: their chance is told by --detail FILE");
    Session s;
    st = session_open(&s, pos[0], f.data, &f.session, err);
    if (!st) session_note(&s, stderr);
    if (!st) st = session_split(&s, f.split, &split, err);
    if (!st && f.seq_len > s.model.cfg.seq_len)
        st = err_set(err, ERR_USAGE, "--seq-len %lld: the model takes at most %d", (long long)f.seq_len, s.model.cfg.seq_len);
    if (!st) st = score(&s, &f, split, err);
    session_close(&s);
    return st;
}
