/* oracle_file.h - what `synth` adds to an events file, so that tokenise, label and evaluate know the truth:
 *
 *   /oracle_offsets u64 [E+1]  into /oracle_logp, by event row   /oracle_logp f32: for each event the log p of each gap
 *   token before it in order, then of what happened, then of its level (0 without value); NaN after the index.  Static
 *   events and births have none.
 *   /oracle_index i64 [P] us (INT64_MIN = no index)   /oracle_risk f64 [P, n_outcomes, 2]: p, standard error (NaN =
 * none), with attributes names, patterns (newline-separated), horizon_minutes_0 .., samples and seed */
#ifndef EHR_DATA_ORACLE_FILE_H
#define EHR_DATA_ORACLE_FILE_H
#include "model/base.h"

typedef struct {
    char *name, *pattern;
    int64_t horizon_minutes;
} OracleFileOutcome;

typedef struct {
    int64_t n_patients, n_events;
    int64_t *index; /* (P) us */
    int n_outcomes;
    OracleFileOutcome *outcome;
    double *risk; /* (P, n_outcomes, 2) */
    struct OracleFileImpl *impl;
} OracleFile;

/* 1 when the events file has oracle datasets, 0 when not, also for files that cannot be opened. */
int oracle_file_present(const char *path);
/* Checks shapes against the events file's own counts. */
Status oracle_file_open(OracleFile *f, const char *path, int64_t n_patients, int64_t n_events, Err *err);
void oracle_file_close(OracleFile *f);
/* The log probabilities of events [first, first + n): event i has (*logp)[(*offsets)[i] .. (*offsets)[i+1]), offsets
 * starting at 0.  Both are valid until the next call. */
Status oracle_file_events(OracleFile *f, int64_t first, int64_t n, const uint64_t **offsets, const float **logp,
                          Err *err);

/* Adds the datasets to a finished events file.  count (E): values per event; logp: all of them in order. */
typedef struct {
    int64_t n_patients, n_events, n_logp;
    const uint8_t *count;
    const float *logp;
    const int64_t *index;
    int n_outcomes;
    const OracleFileOutcome *outcome;
    const double *risk;
    int64_t samples;
    uint64_t seed;
} OracleFileContent;
Status oracle_file_write(const OracleFileContent *c, const char *path, Err *err);

#endif
