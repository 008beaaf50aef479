/* oracle_check.c - rule 16: recomputes the floor and the true risks from the shards alone, so that what tokenising
 * carries is known to be what the law said. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "data/dataset.h"
#include "data/oracle_cohort.h"

static Status no_oracle(const char *path, Err *err) {
    return err_set(err, ERR_FORMAT,
                   "%s carries no oracle data; `--score` and `--risk` are for a cohort drawn by `ehr-data synth` and "
                   "tokenised with its own vocabulary.json",
                   path);
}

/* The prefix as the record's beginning shows it. */
static Status cursor_start(const Dataset *d, const OracleLaw *law, const PatientView *p, OracleCursor *c, Err *err) {
    int32_t prefix[16];
    int n = dataset_prefix(d, p, 0, prefix, 16);
    Status s = OK;
    oracle_law_start(c);
    for (int i = 0; !s && i < n; i++) s = oracle_law_feed(law, c, prefix[i], err);
    return s;
}

static Status score_patient(const Dataset *d, const OracleLaw *law, const PatientView *p, double *probs,
                            OracleScore *out, Err *err) {
    OracleCursor c;
    Status s = cursor_start(d, law, p, &c, err);
    for (int64_t i = 0; !s && i < p->n; i++) {
        int token = (int)patient_token(p, i);
        out->tokens++;
        if (!isnan(p->oracle_logp[i])) {
            oracle_law_probs(law, &c, probs);
            double logp = log(probs[token]), diff = fabs(logp - p->oracle_logp[i]);
            out->counted++;
            out->floor -= logp;
            if (!(probs[token] > 0)) out->impossible++;
            else if (diff > out->max_diff) out->max_diff = diff;
        }
        s = oracle_law_feed(law, &c, token, err);
    }
    if (s) err_context(err, "patient %llu", (unsigned long long)p->key);
    return s;
}

Status oracle_score_dataset(const char *path, OracleScore *out, FILE *progress, Err *err) {
    memset(out, 0, sizeof *out);
    Dataset d;
    OracleLaw law = {0};
    Status s = dataset_open(&d, path, err);
    if (s) return s;
    s = oracle_law_open(&law, &d.vocabulary, err);
    double *probs = xcalloc((size_t)d.vocabulary.n, sizeof *probs);
    int64_t total = 0, done = 0;
    Progress bar;
    for (int split = 0; split < SPLIT_COUNT; split++) total += d.n_patients[split];
    progress_open(&bar, progress, "score", "patients", total);
    for (int split = 0; split < SPLIT_COUNT; split++) {
        for (int64_t row = 0; !s && row < d.n_patients[split]; row++) {
            PatientView p;
            s = dataset_patient(&d, split, row, &p, err);
            if (!s && !p.oracle_logp) s = no_oracle(path, err);
            if (!s) s = score_patient(&d, &law, &p, probs, out, err);
            progress_update(&bar, ++done);
        }
    }
    progress_close(&bar, done);
    out->patients = done;
    if (out->counted) out->floor /= (double)out->counted;
    free(probs);
    oracle_law_close(&law);
    dataset_close(&d);
    return s;
}

/* The index is the last counted token when uncounted ones follow; -1: none. */
static int64_t index_token(const PatientView *p) {
    int64_t i = p->n;
    while (i > 0 && isnan(p->oracle_logp[i - 1])) i--;
    return i < p->n ? i - 1 : -1;
}

typedef struct {
    OracleState state;
    uint8_t seen[ORACLE_WHATS];
    uint64_t history;
} IndexState;

static Status index_state(const Dataset *d, const OracleLaw *law, const PatientView *p, int64_t index, IndexState *out,
                          Err *err) {
    OracleCursor c;
    Status s = cursor_start(d, law, p, &c, err);
    memset(out->seen, 0, sizeof out->seen);
    for (int64_t i = 0; !s && i <= index; i++) {
        int token = (int)patient_token(p, i);
        s = oracle_law_feed(law, &c, token, err);
        if (!s && law->what[token] >= 0) out->seen[law->what[token]] = 1;
    }
    out->state = c.state;
    out->history = c.history;
    return s;
}

Status oracle_risk_dataset(const char *path, const OracleCohortOptions *o, OracleRiskRow **rows, int64_t *n, Err *err) {
    *rows = NULL;
    *n = 0;
    Dataset d;
    OracleLaw law = {0};
    Status s = dataset_open(&d, path, err);
    if (s) return s;
    s = oracle_law_open(&law, &d.vocabulary, err);
    int64_t room = d.n_patients[SPLIT_HELD_OUT], count = 0;
    OracleRiskRow *row = xcalloc((size_t)room + 1, sizeof *row);
    IndexState *at = xcalloc((size_t)room + 1, sizeof *at);
    for (int64_t i = 0; !s && i < room; i++) {
        PatientView p;
        s = dataset_patient(&d, SPLIT_HELD_OUT, i, &p, err);
        if (!s && !p.oracle_logp) s = no_oracle(path, err);
        int64_t index = s ? -1 : index_token(&p);
        if (index < 0) continue;
        s = index_state(&d, &law, &p, index, &at[count], err);
        row[count++] = (OracleRiskRow){.key = p.key, .token = index, .minute = p.minutes[index]};
    }
    int64_t todo = s ? 0 : count;
#ifdef _OPENMP
    int threads = o->threads ? o->threads : omp_get_max_threads();
#endif
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
    for (int64_t i = 0; i < todo; i++) oracle_state_risks(&at[i].state, at[i].seen, at[i].history, o, row[i].risk);
    free(at);
    oracle_law_close(&law);
    dataset_close(&d);
    if (s) {
        free(row);
        return s;
    }
    *rows = row;
    *n = count;
    return OK;
}
