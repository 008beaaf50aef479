/* tokenizer_build.h - timelines of many patients, built by several threads and handed out in the order that was asked
 * for: what is made of them does not depend on how many threads there were. */
#ifndef EHR_DATA_TOKENIZER_BUILD_H
#define EHR_DATA_TOKENIZER_BUILD_H
#include "data/tokenizer_timeline.h"

typedef struct {
    int64_t row;               /* of the events file */
    int64_t subject, n_events; /* events told */
    Timeline timeline;
    Status status;
    Err err;
} BuiltPatient;

typedef struct {
    int threads;
    struct BuildWorker *worker; /* (threads) */
    OracleFile *oracle;
} TimelineBuild;
typedef Status (*BuildTake)(void *context, int64_t place, const BuiltPatient *p, Err *err);

/* Workers beside the first read through file handles and token maps of their own.  With an oracle, which is read by one
 * alone, threads must be 1. */
Status build_open(TimelineBuild *b, TokenMap *map, EventFile *f, OracleFile *oracle, int threads, Err *err);
/* Builds the patients of rows (n) and gives them to `take`, one at a time, in their order; the first failure ends it.
 */
Status build_run(TimelineBuild *b, const int64_t *rows, int64_t n, BuildTake take, void *context, Err *err);
/* Adds what the workers counted to the first one's map and to counts. */
void build_counts(TimelineBuild *b, TokenizeCounts *counts);
void build_close(TimelineBuild *b);
int build_threads(int64_t asked); /* 0: all of the machine's */
/* Calls work for 0 .. n - 1, in any order, from several threads. */
void build_each(int threads, int64_t n, void (*work)(void *context, int64_t i), void *context);

#endif
